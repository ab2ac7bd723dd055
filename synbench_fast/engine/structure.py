"""The structure score of a loaded encoder: how far it makes classes linear that no linear map of the pixels separates.

Tasks of suites whose classes are a family's are scored in the same way.
"""

from __future__ import annotations

import math
import time
import warnings
import weakref
from collections.abc import Callable, Sequence
from functools import lru_cache

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from synbench_fast.config import ScoreConfig, described, signature_of
from synbench_fast.encoders import Encoder
from synbench_fast.encoders.base import is_out_of_memory
from synbench_fast.engine.batch_size import BatchSize
from synbench_fast.engine.prepare import prepare
from synbench_fast.engine.run import in_arithmetic, recast
from synbench_fast.errors import SynbenchError, first_line
from synbench_fast.results.records import CONFIDENCE_95
from synbench_fast.results.structure import (
    FamilyResult,
    FamilyScore,
    FeatureMetric,
    StructureScore,
    mean_metrics,
    mean_score,
)
from synbench_fast.runtime.global_state import known_state, own_registrations
from synbench_fast.stats.discriminant import ClassAccuracy, class_accuracy, worst_pair
from synbench_fast.stats.label_free import GROUPS, label_free
from synbench_fast.tasks.families import Family, Instances
from synbench_fast.tasks.families.base import draws_on
from synbench_fast.tasks.structure import STRUCTURE, FamilyDefinition, StructureTask

__all__ = ["run_families", "run_structure", "structure_score"]

Known = dict[tuple[Family, int], FamilyScore]  # by the family and the number of samples of each class
Progress = Callable[[int, int], None]

BATCH = 64
_CPU = torch.device("cpu")


@described(signature_of)
def structure_score(
    encoder: str | nn.Module | Callable[[Tensor], Tensor],
    *,
    config: ScoreConfig | None = None,
    **arguments: object,
) -> StructureScore:
    """Structure score of one encoder of images, without data and without the published score.

    For each family of `STRUCTURE` it draws images of 20 classes, computes their features, and counts how many left-out
    images a regularised linear discriminant puts into their class (see `stats.discriminant`). The score is the mean over
    the families of (accuracy - chance) / (1 - chance).

    Args:
        encoder, config, arguments: as in `score`; the preset decides on the number of images. dtype "auto" is float32
            where the encoder is loaded here.

    Raises:
        SynbenchError: inputs that are no images of 1 or 3 channels, and as `score`.
    """
    config = ScoreConfig.of(config, {"structure": True} | arguments)
    with own_registrations(), known_state(config.threads):
        prepared = prepare(encoder, config)
        loaded = prepared.encoder
        refusal = STRUCTURE.refusal(loaded.info.input_shape)
        if refusal:
            raise SynbenchError(refusal)
        with loaded.scoring():
            chosen = prepared.arithmetics()[-1]
            with in_arithmetic(loaded, chosen):
                if not prepared.as_it_is and loaded.dtype != chosen.dtype:
                    recast(loaded, chosen, False)
                return run_structure(
                    loaded,
                    config,
                    size=config.batch_size if isinstance(config.batch_size, int) else None,
                )


def run_structure(
    encoder: Encoder,
    config: ScoreConfig,
    *,
    size: int | None = None,
    channels_last: bool = False,
    progress: Progress | None = None,
    task: StructureTask = STRUCTURE,
    known: Known | None = None,
) -> StructureScore:
    """The score of an encoder inside its `scoring()`, in the arithmetic that it is in.

    Args:
        size: images per forward pass; None for 64. It is halved when memory is short.
        channels_last: memory layout of the images.
        progress: called with (images done, images in all).
        known: scores of families that this encoder has already under `config`; those found here are added.
    """
    known = {} if known is None else known
    begun, total, done = time.perf_counter(), task.size(config.preset), 0
    batches = BatchSize(size or BATCH, largest=task.images * max(one.classes for one in task.families))
    images, scores = _Images(encoder), []
    for family in task.families:
        key, found = (family, task.images), list[ClassAccuracy]()
        metrics: list[list[FeatureMetric]] = []
        for block in range(0 if key in known else task.blocks[config.preset]):
            x, labels = _features(encoder, images, family, task, config.seed, block, batches, channels_last)
            found.append(class_accuracy(x, labels))
            if config.label_free:
                metrics.append(_metrics(family, x, labels))
            done += len(labels)
            if progress is not None:
                progress(done, total)
        if found:
            known[key] = _family_score(family, found, metrics)
        scores.append(known[key])
    score, stderr = mean_score(scores)
    return StructureScore(
        score=score,
        stderr=stderr,
        ci95_low=score - CONFIDENCE_95 * stderr,
        ci95_high=score + CONFIDENCE_95 * stderr,
        images=total,
        seconds=time.perf_counter() - begun,
        families=scores,
    )


def run_families(
    encoder: Encoder,
    config: ScoreConfig,
    definitions: Sequence[FamilyDefinition],
    *,
    size: int | None = None,
    channels_last: bool = False,
    progress: Progress | None = None,
) -> tuple[StructureScore | None, list[FamilyResult]]:
    """The structure score, where it is asked for and the inputs have one, and the results of tasks of one family.

    Arguments are those of `run_structure`. A family that several of them have is drawn once.
    """
    shape = encoder.info.input_shape
    wanted: list[StructureTask] = [one.task() for one in definitions]
    if config.structure and not STRUCTURE.refusal(shape):
        wanted.insert(0, STRUCTURE)
    known: Known = {}
    total = sum(one.size(config.preset) for one in wanted)
    found: list[StructureScore] = []
    for task in wanted:
        before = sum(one.images for one in found)
        found.append(
            run_structure(
                encoder,
                config,
                size=size,
                channels_last=channels_last,
                progress=_after(progress, before, total),
                task=task,
                known=known,
            )
        )
    structure = found.pop(0) if len(found) > len(definitions) else None
    return structure, [_family_result(*one, shape) for one in zip(definitions, found, strict=True)]


def _after(progress: Progress | None, before: int, total: int) -> Progress | None:
    """The progress of a part that follows `before` images of `total`."""
    return None if progress is None else lambda done, _: progress(before + done, total)


def _family_result(
    definition: FamilyDefinition, found: StructureScore, shape: tuple[int, ...]
) -> FamilyResult:
    optima = [_optimum(family, shape) for family in definition.task().families]
    return FamilyResult(
        **vars(found), task=definition.name, samples=definition.samples, optimum=float(np.mean(optima))
    )


@lru_cache(maxsize=64)
def _optimum(family: Family, shape: tuple[int, ...]) -> float:
    """Kept, because the encoders of one process have the same tasks."""
    return family.pair_optimum(shape, STRUCTURE.seed)


def _metrics(family: Family, x: Tensor, labels: Tensor) -> list[FeatureMetric]:
    """Of one block. The jackknife leaves out the same number of images of every class; views of a picture make LiDAR."""
    x, labels = x.cpu(), labels.cpu()
    if not bool(torch.isfinite(x).all()) or not bool(x.any()):
        return []
    group = torch.arange(len(x)) % int((labels == 0).sum()) % GROUPS
    found = label_free(x, pictures=labels if isinstance(family, Instances) else None, group=group)
    return [FeatureMetric(name=name, value=one.value, stderr=one.stderr) for name, one in found.items()]


def _family_score(
    family: Family, found: list[ClassAccuracy], metrics: list[list[FeatureMetric]]
) -> FamilyScore:
    """The mean over blocks, which are independent given the classes."""
    count = len(found)
    return FamilyScore(
        family=family.name,
        level=family.level,
        classes=family.classes,
        score=sum(one.skill for one in found) / count,
        stderr=math.sqrt(sum(one.skill_stderr**2 for one in found)) / count,
        accuracy=sum(one.accuracy for one in found) / count,
        pair_accuracy=sum(one.pair_accuracy for one in found) / count,
        worst_pair=worst_pair(np.mean([one.pairs for one in found], axis=0))[2],
        metrics=mean_metrics(metrics),
    )


class _Images:
    """The images of a run: drawn on the encoder's GPU, or on the CPU where it has no kernels or cannot draw them."""

    def __init__(self, encoder: Encoder) -> None:
        self._encoder = encoder
        self._go_to(encoder.device if encoder.device.type == "cuda" and draws_on(encoder.device) else _CPU)

    def _go_to(self, device: torch.device) -> None:
        self.device = device
        self._normalised = self._encoder.normalisation(torch.float32, device, in_place=True)
        # One buffer for all batches: new memory of some megabytes is mapped anew, which takes longer than filling it.
        self._room = torch.empty((0, *self._encoder.info.input_shape), device=device)
        self._lent: weakref.ref[NDArray[np.float32]] | None = None

    def drawn(self, family: Family, seed: int, first: int, each: int, at: int, count: int) -> Tensor:
        """Images at .. at + count - 1 of a block whose classes have `each` images, beginning with index `first`.

        The caller may keep or change them.
        """
        try:
            return self._given(self._raw(family, seed, first, each, at, count))
        except (SynbenchError, RuntimeError, MemoryError) as error:
            if self.device == _CPU or not (isinstance(error, SynbenchError) or is_out_of_memory(error)):
                raise
            warnings.warn(
                f"images: expected to be drawn on {self.device}, got {first_line(error)}; they are drawn on the CPU",
                stacklevel=2,
            )
            self._go_to(_CPU)
            return self._given(self._raw(family, seed, first, each, at, count))

    def _given(self, x: Tensor) -> Tensor:
        x = self._normalised(x)
        if x.is_cuda:
            return x.clone()
        # The memory of an array lives as long as anybody has a tensor of it, which the weak reference tells.
        memory = x.numpy()
        self._lent = weakref.ref(memory)
        return torch.from_numpy(memory)

    def _raw(self, family: Family, seed: int, first: int, each: int, at: int, count: int) -> Tensor:
        shape = self._encoder.info.input_shape
        if len(self._room) < count or (self._lent is not None and self._lent() is not None):
            self._room = torch.empty((count, *shape), device=self.device)
        x, filled = self._room[:count], 0
        while filled < count:
            class_, inside = divmod(at + filled, each)
            here = min(each - inside, count - filled)
            out = x[filled : filled + here]
            family.draw(shape, seed, class_, first + inside, here, out=out, device=self.device)
            filled += here
        return x


def _features(
    encoder: Encoder,
    images: _Images,
    family: Family,
    task: StructureTask,
    seed: int,
    block: int,
    batches: BatchSize,
    channels_last: bool,
) -> tuple[Tensor, Tensor]:
    """Features [K n, F] of one block, class after class, and their labels; on a GPU where the encoder is there."""
    first, each = task.first(seed, block), task.images
    total, parts, at = family.classes * each, [], 0
    place = encoder.device if encoder.device.type == "cuda" else _CPU
    while at < total:
        wanted = min(batches.next(), total - at)
        x = images.drawn(family, task.seed, first, each, at, wanted)
        layout = torch.channels_last if channels_last else torch.contiguous_format
        try:
            made = encoder.given(x.to(encoder.device, encoder.dtype, memory_format=layout))
            made = made if made.dtype == torch.float64 else made.float()
            parts.append(made.to(place).clone())  # an encoder may return one buffer every time
            del made
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            batches.too_large(wanted, first_line(error))
            continue
        finally:
            del x  # else its memory is in use, and the next images get new memory
        at += wanted
    labels = torch.arange(family.classes, device=place).repeat_interleave(each)
    return torch.cat(parts), labels
