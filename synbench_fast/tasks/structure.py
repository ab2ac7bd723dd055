"""The structure task: classes that no linear map of the pixels separates, from three families; tasks of one family.

Families, levels, number of classes and images, the ridge and equal weights were chosen on one half of a set of pretrained
encoders and labelled data sets and tested on the other half, see docs/validity.md.
"""

from __future__ import annotations

import numbers
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

from synbench_fast.checks import check_integer
from synbench_fast.errors import SynbenchError, suggest
from synbench_fast.tasks.families import FAMILIES, Family, Instances, Shapes, Texture

__all__ = ["STRUCTURE", "FamilyDefinition", "StructureTask"]

# Of a task of a suite. All features of a block are in memory, and a pair of classes takes a cell of a matrix.
_MOST_SAMPLES = 1000  # of each class: StructureTask.first keeps four blocks of them apart
_MOST_CLASSES = 1000
_MOST_IMAGES = 20_000  # of a block


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


@dataclass(frozen=True)
class FamilyDefinition:
    """A task of a suite whose classes are those of a family, before the encoder's input shape is known.

    Its score is that of a family in the structure score: (accuracy - 1/K) / (1 - 1/K), the accuracy that of a
    regularised linear discriminant on left-out samples of K classes; with several levels the mean over them.

    Args:
        name: how results name it.
        family: a name in `FAMILIES`.
        level: difficulty, or several in increasing order.
        classes: K, from 2; None for the family's own number.
        samples: of each class, from 5, in one block; the preset sets the number of blocks.
    """

    name: str
    family: str
    level: float | tuple[float, ...] = Family.level
    classes: int | None = None
    samples: int = STRUCTURE.images

    @property
    def levels(self) -> tuple[float, ...]:
        """Every level, as a number that is written in one way."""
        given = self.level if isinstance(self.level, Sequence) else (self.level,)
        return tuple(float(one) + 0.0 for one in given)  # without a sign of 0

    def check(self) -> None:
        """SynbenchError for what is wrong whatever the input shape."""
        if self.family not in FAMILIES:
            known = list(FAMILIES)
            raise SynbenchError(
                f"family: expected one of {', '.join(known)}, got {self.family!r}{suggest(str(self.family), known)}"
            )
        most = min(_MOST_CLASSES, FAMILIES[self.family].most_classes)
        if self.classes is not None:
            check_integer("classes", self.classes, 2, f"an integer from 2 to {most}", most + 1)
        check_integer("samples", self.samples, 5, f"an integer from 5 to {_MOST_SAMPLES}", _MOST_SAMPLES + 1)
        given = self.level if isinstance(self.level, list | tuple) else (self.level,)
        if not given:
            raise SynbenchError("level: expected at least one, got none")
        for one in given:
            if isinstance(one, bool) or not isinstance(one, numbers.Real) or not 0 <= one <= 4:
                raise SynbenchError(f"level: expected a number in [0, 4] or several, got {self.level!r}")
        if any(later <= earlier for earlier, later in pairwise(given)):
            raise SynbenchError(f"level: expected increasing values, got {list(given)}")
        classes = self.task().families[0].classes
        if classes * self.samples > _MOST_IMAGES:
            raise SynbenchError(
                f"samples: expected at most {_MOST_IMAGES} of all classes together, got {classes} classes x {self.samples}"
            )

    def task(self) -> StructureTask:
        """The family at each level, with the blocks and the classes of the structure score."""
        kind = FAMILIES[self.family]
        classes = kind.classes if self.classes is None else self.classes
        families = tuple(kind(classes, level) for level in self.levels)
        return StructureTask(families, self.samples, STRUCTURE.blocks, STRUCTURE.seed)
