"""The structure score, and suites of all families, against the forward passes of as many images."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from typing import Any

import torch
from cases_statistics import WideEncoder, seeded
from harness import Case
from material import IMAGENET_MEAN, IMAGENET_STD, SmallEncoder
from torch import Tensor, nn

from synbench_fast.engine.structure import structure_score
from synbench_fast.engine.suite import score_suite
from synbench_fast.results.structure import FamilyResult, StructureScore
from synbench_fast.stats.discriminant import class_accuracy
from synbench_fast.tasks.families import FAMILIES, Family
from synbench_fast.tasks.structure import STRUCTURE, FamilyDefinition
from synbench_fast.tasks.suites import TaskDefinition


class WiderEncoder(WideEncoder):
    """About a millisecond per 64x64 image on two AVX-512 cores; F = 320."""

    def __init__(self) -> None:
        super().__init__((3, 96, 240, 320, 320))


class PatchEncoder(nn.Sequential):
    """About a millisecond per 224x224 image on two AVX-512 cores: patches of 4x4, then convolutions; F = 384."""

    def __init__(self) -> None:
        layers: list[nn.Module] = [nn.Conv2d(3, 48, 4, stride=4), nn.ReLU()]
        for before, after in ((48, 96), (96, 192), (192, 384)):
            layers += [nn.Conv2d(before, after, 3, stride=2, padding=1), nn.ReLU()]
        super().__init__(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten())


def forget() -> None:
    """What a process keeps of the families' classes and optima, away: a run is to pay for all of it."""
    for name, module in list(sys.modules.items()):
        if name.startswith(("synbench_fast.tasks.families", "synbench_fast.engine.structure")):
            for one in list(vars(module).values()):
                if hasattr(one, "cache_clear"):
                    one.cache_clear()


def structure(make: Callable[[], nn.Module], side: int, names: Sequence[str] = ()) -> Case:
    """The structure score against the forward passes of as many images, in the same batches.

    With `names` it is the suite of these families beside the structure score and a published task of one scale.
    """
    encoder, shape, samples = seeded(make), (3, side, side), 512
    options: dict[str, Any] = {
        "input_shape": shape, "batch_size": 64, "preset": "quick", "mean": IMAGENET_MEAN, "std": IMAGENET_STD,
    }  # fmt: skip
    definitions = [FamilyDefinition(one, one) for one in names]
    families = [*STRUCTURE.families, *(one.task().families[0] for one in definitions)]
    each, mean, std = (
        STRUCTURE.images,
        *(torch.tensor(v)[:, None, None] for v in (IMAGENET_MEAN, IMAGENET_STD)),
    )

    def images(family: Family) -> Tensor:
        parts = [family.draw(shape, STRUCTURE.seed, k, 0, each) for k in range(family.classes)]
        return (torch.cat(parts) - mean) / std

    def forward(x: Tensor) -> Tensor:
        with torch.inference_mode():
            return torch.cat([encoder(part) for part in torch.split(x, 64)])

    def ours() -> tuple[StructureScore | None, list[FamilyResult]]:
        forget()
        if not names:
            return structure_score(encoder, **options), []
        tasks = [TaskDefinition("published"), *definitions]
        found = score_suite(encoder, tasks=tasks, structure=True, scales=1, samples=samples, **options)
        return found.results[0].structure, found.families

    pool = images(families[0])
    counts = [one.classes * each for one in families] + [samples] * bool(names)

    def baseline() -> None:
        for count in counts:
            forward(pool[:count])

    def parity() -> tuple[float, float]:
        skills = []
        for family in families:
            labels = torch.arange(family.classes).repeat_interleave(each)
            skills.append(class_accuracy(forward(images(family)), labels).skill)
        whole, own = ours()
        assert whole is not None
        expected = [sum(skills[:3]) / 3, *skills[3:]]
        return max(abs(a - b.score) for a, b in zip(expected, [whole, *own], strict=True)), 1e-12

    what = "structure score" + f", {len(names)} tasks of a family and a scale of {samples} samples" * bool(
        names
    )
    return Case(
        unit="image",
        work=sum(counts),
        parity=parity,
        ours=ours,
        baseline=baseline,
        baseline_name="forward passes alone",
        target=1.15,
        kind="at_most",
        note=f"{what}; {sum(counts)} images of 3x{side}x{side}, batches of 64, {make.__name__}, definitions of the "
        "classes included, imports left out",
    )


def cases() -> dict[str, Callable[[], Case]]:
    """By name, built lazily."""
    sizes = ((64, WiderEncoder), (160, SmallEncoder), (224, PatchEncoder))
    found: dict[str, Callable[[], Case]] = {}
    for side, make in sizes:
        found[f"structure[{side}x{side}]"] = lambda side=side, make=make: structure(make, side)  # type: ignore[misc]
    for side, make in sizes:
        found[f"structure[{side}x{side}, all families]"] = (  # type: ignore[assignment]
            lambda side=side, make=make: structure(make, side, tuple(FAMILIES))
        )
    return found
