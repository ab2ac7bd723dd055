"""The structure task: classes that no linear map of the pixels separates, from three families.

Families, levels, number of classes and images, the ridge and equal weights were chosen on one half of a set of pretrained
encoders and labelled data sets and tested on the other half, see docs/validity.md.
"""

from __future__ import annotations

from dataclasses import dataclass

from synbench_fast.errors import SynbenchError
from synbench_fast.tasks.families import Family, Instances, Shapes, Texture

__all__ = ["STRUCTURE", "StructureTask"]


@dataclass(frozen=True)
class StructureTask:
    """Which families, and how many images of each class a discriminant is fitted to.

    Attributes:
        families: in the order of the profile; each has the same weight.
        images: of each class in one block. A block is evaluated for itself, so that the score does not depend on the
            number of blocks, only its error does.
        blocks: by preset.
        seed: of the classes, which are part of the task; the seed of a run chooses the images.
    """

    families: tuple[Family, ...]
    images: int
    blocks: dict[str, int]
    seed: int = 0

    def size(self, preset: str) -> int:
        """Images that a preset draws."""
        return self.blocks[preset] * self.images * sum(one.classes for one in self.families)

    def first(self, seed: int, block: int) -> int:
        """Index of the first image of a block in every class: disjoint for the first 2^20 seeds."""
        return (seed % 2**20) * 2**12 + block * self.images

    def refusal(self, shape: tuple[int, ...]) -> str:
        """Why inputs of this shape have no structure score; "" where they have one."""
        for one in self.families:
            try:
                one.check_shape(shape)
            except SynbenchError as error:
                return str(error)
        return ""


STRUCTURE = StructureTask(
    families=(Texture(20, 0.33), Shapes(20, 0.33), Instances(20, 1.0)),
    images=26,
    blocks={"quick": 1, "standard": 4, "paper": 4},
)
