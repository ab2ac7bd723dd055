"""The runs of one encoder: the base, and every level of every factor with one choice changed."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, replace
from typing import Any

from torch import Tensor, nn

from synbench_fast.config import ScoreConfig
from synbench_fast.encoders import Encoder
from synbench_fast.engine.pipeline import Progress
from synbench_fast.engine.score import score
from synbench_fast.errors import SynbenchError, first_line
from synbench_fast.results.records import Result
from synbench_fast.runtime.global_state import own_registrations
from synbench_fast.scales import spread_scales
from synbench_fast.stats.estimators import find_estimator
from synbench_fast.studies.base import open_encoder
from synbench_fast.studies.sensitivity.options import SensitivityStudy, labels
from synbench_fast.studies.sensitivity.records import MissingRun
from synbench_fast.tasks.task import PUBLISHED_MEAN, PUBLISHED_STD

__all__ = ["Level", "VariedRuns", "base_samples", "failure_reason", "vary_encoder"]

SCALE_COUNTS = (6, 12, 25, 49)
LEVEL_DTYPES = ("float32", "bfloat16", "float64")
CENTER_STEP = 0.1


@dataclass(frozen=True, kw_only=True)
class Level:
    factor: str
    name: str
    setting: str
    changes: dict[str, Any]  # arguments of score() that are not the base's
    same_samples: bool


@dataclass(frozen=True, kw_only=True)
class VariedRuns:
    """The runs of one encoder: the base, the levels that worked, the failures of the others."""

    label: str
    base: Result
    results: list[tuple[Level, Result]]
    failures: list[MissingRun]
    seconds: float


class _Held(nn.Module):
    """A loaded encoder as a module that score() takes again and again, in the dtype of what it is given."""

    def __init__(self, encoder: Encoder) -> None:
        super().__init__()
        self.module = encoder.module
        self.encoder = encoder
        self.eval()

    def forward(self, x: Tensor) -> Tensor:
        self.encoder.dtype = x.dtype
        return self.encoder(x)


def vary_encoder(
    encoder: Any, options: SensitivityStudy, *, label: str = "", progress: Progress | None = None
) -> VariedRuns:
    """Every run of one encoder. Raises what its base run raises; failures of levels are collected."""
    begun = time.perf_counter()
    label = label or labels([encoder])[0]
    config = options.config
    with own_registrations(), ExitStack() as stack:
        record: Callable[[Result], Result]
        if isinstance(encoder, str):
            encoder, config, own, record = _hold(encoder, config, stack)
        else:
            own, record = (None, None), _as_it_is
        done, total, phase = 0, 1, "base"

        def advance(images: int, images_in_all: int, step: str) -> None:
            if progress is not None:
                progress(done + images, max(total, done + images_in_all + 1), phase)

        seen = score(encoder, config=config, progress=advance)
        base, base_name = record(seen), seen.encoder.spec  # a held encoder has another name while it runs
        config = replace(config, average=base.task.average)  # a level is to change one thing
        levels = _levels(options, base, config, own)
        done, total = base.cost.images, base.cost.images + sum(_images(base, one) for one in levels)
        results: list[tuple[Level, Result]] = []
        failures: list[MissingRun] = []
        for level in levels:
            phase = f"{level.factor} {level.name}"
            if _same_input(base, level):
                results.append((level, base))
                continue
            try:
                results.append(
                    (level, record(score(encoder, config=config, progress=advance, **level.changes)))
                )
            except Exception as error:
                reason = failure_reason(error).replace(base_name, label)
                failures.append(
                    MissingRun(encoder=label, factor=level.factor, level=level.name, reason=reason)
                )
            done += _images(base, level)
        if progress is not None:
            progress(total, total, "done")
    return VariedRuns(
        label=label, base=base, results=results, failures=failures, seconds=time.perf_counter() - begun
    )


def _hold(
    spec: str, config: ScoreConfig, stack: ExitStack
) -> tuple[Any, ScoreConfig, tuple[Any, Any], Callable[[Result], Result]]:
    """The encoder loaded once, arguments for what is loaded, its own constants, and what gives results their name."""
    # The published constants replace the encoder's in every case, so its own are there to be a level.
    loaded = open_encoder(spec, config)
    if loaded.info.feature_dim is None:
        loaded.dry_run()
    stack.enter_context(loaded.scoring())
    info = loaded.info
    held = replace(
        config, input_shape=info.input_shape, device=str(loaded.device), pool=None, checkpoint=None, random_init=False,
        trust_remote_code=False, dtype="float32" if config.dtype == "auto" else config.dtype,
    )  # fmt: skip
    if not config.published_preprocessing:
        held = replace(held, mean=info.mean, std=info.std)

    def record(result: Result) -> Result:
        seen = result.encoder
        return dataclasses.replace(
            result,
            encoder=dataclasses.replace(
                seen,
                spec=info.spec,
                source=info.source,
                name=info.name,
                revision=info.revision,
                weights_sha256=info.weights_sha256,
                parameters=info.parameters,
                preprocessing=dataclasses.replace(seen.preprocessing, pool=info.pool),
                random_init=info.random_init,
                checkpoint=info.checkpoint,
            ),
        )

    def call(x: Tensor) -> Tensor:
        loaded.dtype = x.dtype
        return loaded(x)

    return call if loaded.module is None else _Held(loaded), held, (info.mean, info.std), record


def _as_it_is(result: Result) -> Result:
    return result


def _levels(
    options: SensitivityStudy, base: Result, config: ScoreConfig, own: tuple[Any, Any]
) -> list[Level]:
    """What is run beside the base, factor after factor."""
    found: list[Level] = []

    def add(factor: str, name: str, setting: str, same_samples: bool, **changes: Any) -> None:
        if factor in options.vary:
            found.append(
                Level(factor=factor, name=name, setting=setting, changes=changes, same_samples=same_samples)
            )

    for number in range(1, options.seeds):
        seed = base.seed + number
        add("seed", str(seed), f"seed {seed}", False, seed=seed)

    samples = base_samples(base)
    for name, count in (("fewer", _fewer(base)), ("x2", 2 * samples), ("x4", 4 * samples)):
        add("samples", name, f"N = {count}", True, samples=count)

    for count in SCALE_COUNTS:
        if list(spread_scales(count)) != base.task.scales:
            add("scales", str(count), f"{count} scales up to 4.9", False, scales=count)
    if base.task.average == "published":
        add("scales", "sampled", "the mean over the sampled scales, without a fit", True, average="sampled")

    for dtype in LEVEL_DTYPES:
        if dtype != base.cost.dtype:
            add("dtype", dtype, dtype, True, dtype=dtype)

    def normalised(name: str, setting: str, mean: Any, std: Any) -> None:
        add("preprocessing", name, setting, True, mean=mean, std=std, published_preprocessing=False)

    shape = base.task.shape
    if config.published_preprocessing:
        normalised("own", "the encoder's own constants", *own)
    elif len(shape) > 1 and shape[0] == len(PUBLISHED_MEAN):
        normalised("published", "the published constants", PUBLISHED_MEAN, PUBLISHED_STD)
    normalised("none", "no normalisation", (0.0,), (1.0,))
    for step in (-CENTER_STEP, CENTER_STEP):
        center = round(base.task.center + step, 10)
        add("preprocessing", f"center {center:g}", "centre of the inputs", True, center=center)
    return found


def base_samples(result: Result) -> int:
    """N per scale and half."""
    return max(result.task.samples) // find_estimator(result.estimator).halves


def _fewer(base: Result) -> int:
    """N/2; 3N/4 where an estimator that needs N > F + 2 could not do with half but can with that."""
    samples, least = base_samples(base), base.encoder.feature_dim + 2
    if find_estimator(base.estimator).samples_per_feature and samples // 2 <= least < 3 * samples // 4:
        return 3 * samples // 4
    return samples // 2


def _same_input(base: Result, level: Level) -> bool:
    """Whether a level of normalisation is what the base did: no run is needed."""
    if "mean" not in level.changes:
        return False
    seen, channels = base.encoder.preprocessing, base.task.shape[0]

    def constants(mean: Any, std: Any) -> list[tuple[float, ...]]:
        both = (tuple(mean or (0.0,)), tuple(std or (1.0,)))
        return [one * channels if len(one) == 1 else one for one in both]

    return constants(seen.mean, seen.std) == constants(level.changes["mean"], level.changes["std"])


def _images(base: Result, level: Level) -> int:
    scales = level.changes.get("scales", len(base.task.scales))
    samples = level.changes.get("samples", base_samples(base))
    return int(scales * samples * find_estimator(base.estimator).halves)


def failure_reason(error: Exception) -> str:
    return str(error) if isinstance(error, SynbenchError) else first_line(error)
