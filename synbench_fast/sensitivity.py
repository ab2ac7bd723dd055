"""How score and ranking move when one choice at a time is another: seed, samples, scales, thresholds, dtype, input.

Every factor is varied alone around one base configuration, and every change is set against its own standard error:

    same samples in both runs:  Var(change) = V_base + V_level - 2 rho sqrt(V_base V_level), see `compare`
    other samples, other scales, no influences:  Var(change) = V_base + V_level
    another threshold of the base:  from the covariance of the base's scores

A factor moves a score by more than noise if one of its K levels does so by more than z(1 - 0.025/K) standard errors
(Bonferroni). The seeds say whether the reported errors are right: with R runs of the same error, (R - 1) times the
squared ratio of their deviation to that error is chi-squared with R - 1 degrees of freedom.
"""

from __future__ import annotations

import dataclasses
import hashlib
import inspect
import json
import math
import re
import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from itertools import combinations
from statistics import NormalDist
from typing import Any

import torch
from torch import Tensor, nn

from synbench_fast.checks import check_integer, check_seed, check_thresholds
from synbench_fast.compare import compare
from synbench_fast.devices import find_device
from synbench_fast.documents import Document, nan_field
from synbench_fast.encoders import Encoder, load_encoder
from synbench_fast.errors import SynbenchError, first_line, suggest
from synbench_fast.pipeline import Progress
from synbench_fast.results import EncoderRecord, Environment, Result, replay_command
from synbench_fast.score import score
from synbench_fast.task import PUBLISHED_MEAN, PUBLISHED_STD, spread_scales

__all__ = [
    "FACTORS",
    "SENSITIVITY_SCHEMA",
    "SENSITIVITY_SCHEMA_VERSION",
    "Effect",
    "Failure",
    "LevelRanking",
    "LevelScore",
    "SeedSpread",
    "Sensitivity",
    "Swap",
    "VariedEncoder",
    "VariedRuns",
    "assemble",
    "check_request",
    "sensitivity",
    "vary_encoder",
]

FACTORS = ("seed", "samples", "scales", "thresholds", "dtype", "preprocessing")
SENSITIVITY_SCHEMA = "synbench-fast/sensitivity"
SENSITIVITY_SCHEMA_VERSION = 1
SCALE_COUNTS = (6, 12, 25, 49)
LEVEL_DTYPES = ("float32", "bfloat16", "float64")
CENTER_STEP = 0.1
_TAIL = 0.025
# Influences are stored to five digits, so a paired error below this part of the errors themselves is rounding.
_RESOLUTION = 1e-4


@dataclass(frozen=True, kw_only=True)
class VariedEncoder:
    """An encoder and its base run: `samples` per scale (per half for `paper`), what it ran in, and the cost of all."""

    label: str
    encoder: EncoderRecord
    scales: list[float]
    samples: int
    center: float
    dtype: str
    device: str
    images: int
    seconds: float
    warnings: list[str]


@dataclass(frozen=True, kw_only=True)
class LevelScore:
    """A score at one level of one factor (factor and level `base` for the base) and its change from the base.

    `setting` says what the level is for this encoder. `paired` means that the error of the change uses that both
    runs saw the same samples; otherwise it is the one of independent runs. z is change / change_stderr.
    """

    factor: str
    level: str
    setting: str
    encoder: str
    eps: float
    threshold: float
    score: float = nan_field()
    stderr: float = nan_field()
    change: float = nan_field()
    change_stderr: float = nan_field()
    z: float = nan_field()
    paired: bool


@dataclass(frozen=True, kw_only=True)
class Effect:
    """What a factor does to one encoder: its largest change, and the largest in standard errors of the change.

    `base_stderrs` is the largest change in standard errors of the base's score. `more_than_noise` is whether the
    largest |z| exceeds `critical_z`; None where no error is known.
    """

    factor: str
    encoder: str
    eps: float
    level: str
    change: float = nan_field()
    change_stderr: float = nan_field()
    base_stderrs: float = nan_field()
    z_level: str
    z: float = nan_field()
    critical_z: float = nan_field()
    more_than_noise: bool | None

    @property
    def verdict(self) -> str:
        """`noise`; `real`; `small`: real, but below one standard error of the base's score; `unknown`."""
        if self.more_than_noise is None:
            return "unknown"
        if not self.more_than_noise:
            return "noise"
        return "small" if self.base_stderrs < 1 else "real"


@dataclass(frozen=True, kw_only=True)
class SeedSpread:
    """Observed deviation of the score over seeds against the reported standard error (root mean square).

    If that error is right, `ratio` lies between `ratio_low` and `ratio_high` with 95 %.
    """

    encoder: str
    eps: float
    seeds: list[int]
    mean: float = nan_field()
    deviation: float = nan_field()
    stderr: float = nan_field()
    ratio: float = nan_field()
    ratio_low: float = nan_field()
    ratio_high: float = nan_field()
    consistent: bool | None


@dataclass(frozen=True, kw_only=True)
class Swap:
    """`ahead` is behind `behind` in the base and ahead at a level. `base_tie`: the base could not tell them apart."""

    ahead: str
    behind: str
    base_tie: bool | None


@dataclass(frozen=True, kw_only=True)
class LevelRanking:
    """Kendall's tau between the ranking of the base and that of one level, over the encoders that both have."""

    factor: str
    level: str
    eps: float
    encoders: list[str]
    tau: float
    swaps: list[Swap]


@dataclass(frozen=True, kw_only=True)
class Failure:
    """A run that gave no score, and why; level `base` means that the encoder is missing altogether."""

    encoder: str
    factor: str
    level: str
    reason: str


@dataclass(frozen=True, kw_only=True)
class Sensitivity(Document):
    """Scores at every level of every factor, and what follows from them; eps runs over all budgets of the base.

    Levels of `thresholds` are the base's own thresholds; all others are at the lowest one, `threshold`.
    """

    schema: str = SENSITIVITY_SCHEMA
    schema_version: int = SENSITIVITY_SCHEMA_VERSION
    factors: list[str]
    estimator: str
    seed: int
    eps: list[float]
    threshold: float
    prior: float
    encoders: list[VariedEncoder]
    levels: list[LevelScore]
    effects: list[Effect]
    seeds: list[SeedSpread]
    rankings: list[LevelRanking]
    failures: list[Failure]
    notes: list[str]
    environment: Environment
    command: str

    def effect(self, factor: str, encoder: str | None = None, eps: float | None = None) -> Effect:
        """The effect of one factor; by default on the first encoder, at the first budget."""
        label = self.encoders[0].label if encoder is None else encoder
        budget = self.eps[0] if eps is None else eps
        for one in self.effects:
            if (one.factor, one.encoder, one.eps) == (factor, label, budget):
                return one
        known = sorted({one.factor for one in self.effects})
        raise SynbenchError(
            f"effect: expected one of {', '.join(known)} with an encoder and eps of this document, "
            f"got {factor!r}, {label!r}, {budget!r}{suggest(str(factor), known)}"
        )

    def summary(self) -> str:
        """A line per encoder and factor at the first budget."""
        lines = [f"changes of the score above accuracy {self.threshold:g} at eps {self.eps[0]:g}"]
        for one in self.effects:
            if one.eps == self.eps[0]:
                lines.append(
                    f"  {one.encoder}: {one.factor} up to {one.change:+.4f} ({one.level}), "
                    f"{abs(one.z):.1f} standard errors ({one.z_level}): {one.verdict}"
                )
        return "\n".join(lines)

    def rows(self) -> list[dict[str, Any]]:
        """One flat row per factor, level, encoder and eps; None where a value is not finite."""
        return [
            {key: None if value != value else value for key, value in dataclasses.asdict(one).items()}
            for one in self.levels
        ]

    def file_name(self) -> str:
        """File name of these encoders, factors and settings."""
        document = self.to_dict()
        names = ("factors", "estimator", "seed", "eps", "threshold", "prior", "command")
        settings = [
            {key: value for key, value in one.items() if key not in ("seconds", "warnings")}
            for one in document["encoders"]
        ]
        text = json.dumps([[document[key] for key in names], settings], sort_keys=True)
        first = re.sub(r"[^A-Za-z0-9._-]+", "_", self.encoders[0].label).strip("._")[:80]
        return f"sensitivity-{first or 'encoder'}-{hashlib.sha256(text.encode()).hexdigest()[:12]}.json"


def sensitivity(
    encoders: str | nn.Module | Callable[[Tensor], Tensor] | Sequence[Any],
    *,
    vary: str | Sequence[str] | None = None,
    seeds: int = 5,
    progress: Progress | None = None,
    **options: Any,
) -> Sensitivity:
    """Scores of encoders around a base configuration, one factor at a time, and what each factor does.

    Args:
        encoders: one or several, as `score` takes them. One that is named is loaded once, with the weights of the
            base seed, so that seeds change the samples alone.
        vary: factors out of FACTORS, also as "seed,dtype"; default all.

            seed: base seed + 0 ... seeds - 1.
            samples: N/2 (3N/4 where N/2 does not exceed F + 2), 2N and 4N per scale.
            scales: 6, 12, 25 and 49 of them.
            thresholds: those of the base; no forward pass.
            dtype: float32, bfloat16, float64.
            preprocessing: the encoder's own constants, the published ones for inputs of 3 channels, none, and
                another centre, 0.1 below and above the base's.
        seeds: R, how many seeds.
        progress: called with (images done, images in all, phase).
        options: every other argument of `score`, for the base. dtype "auto" of an encoder that is named is
            float32 on every device.

    Returns:
        Sensitivity. A run that fails is in `failures`; what the others gave is kept.

    Raises:
        SynbenchError: a wrong factor or number of seeds, an unknown option; no encoder has a base score.
    """
    listed = list(encoders) if isinstance(encoders, list | tuple) else [encoders]
    request = check_request(listed, vary, seeds, options)
    runs: list[VariedRuns] = []
    missing: list[Failure] = []
    first: Exception | None = None
    for number, (one, label) in enumerate(zip(listed, labels(listed), strict=True)):

        def part(done: int, total: int, phase: str, number: int = number) -> None:
            if progress is not None:
                progress(number * total + done, len(listed) * total, phase)

        try:
            runs.append(vary_encoder(one, request, label=label, progress=part))
        except Exception as error:
            first = first or error
            missing.append(Failure(encoder=label, factor="base", level="base", reason=_reason(error)))
    if first is not None and not runs:
        raise first
    return assemble(listed, request, runs, missing)


@dataclass(frozen=True, kw_only=True)
class Request:
    """Checked factors, number of seeds, and every argument of score() but the encoder and `progress`."""

    factors: tuple[str, ...]
    seeds: int
    options: dict[str, Any]
    given: dict[str, Any]  # what the caller gave, for the command that repeats it


def check_request(
    encoders: Sequence[Any], vary: str | Sequence[str] | None, seeds: int, options: dict[str, Any]
) -> Request:
    """The arguments of `sensitivity`, checked as far as that needs no encoder."""
    if not encoders:
        raise SynbenchError("encoders: expected at least one, got none")
    factors = _factors(vary)
    if "seed" in factors:
        check_integer("seeds", seeds, 2, "at least 2 to see their spread")
    parameters = inspect.signature(score).parameters
    known = [name for name in parameters if name not in ("encoder", "progress")]
    for name in options:
        if name not in known:
            raise SynbenchError(
                f"options: expected arguments of score(), got {name!r}{suggest(name, [*known, 'vary', 'seeds'])}"
            )
    full = {name: parameters[name].default for name in known} | options
    if full["checkpoint"] is not None and len(encoders) > 1:
        raise SynbenchError(
            f"checkpoint: expected a single encoder to load it into, got {len(encoders)} encoders"
        )
    if "seed" in factors:
        check_integer(
            "seed", check_seed(full["seed"]), 0, f"an integer below 2^64 - {seeds - 1}", 2**64 - seeds + 1
        )
    if len(check_thresholds(full["thresholds"])) < 2 and "thresholds" in factors:
        if vary is not None:
            raise SynbenchError("thresholds: expected at least two to vary them, got one")
        factors = tuple(one for one in factors if one != "thresholds")
    return Request(factors=factors, seeds=seeds, options=full, given=dict(options))


def _factors(vary: str | Sequence[str] | None) -> tuple[str, ...]:
    if vary is None:
        return FACTORS
    wanted = [part.strip() for part in vary.split(",")] if isinstance(vary, str) else list(vary)
    listed = ", ".join(FACTORS)
    if not wanted or wanted == [""]:
        raise SynbenchError(f"vary: expected at least one of {listed}, got none")
    for one in wanted:
        if one not in FACTORS:
            raise SynbenchError(f"vary: expected some of {listed}, got {one!r}{suggest(str(one), FACTORS)}")
        if wanted.count(one) > 1:
            raise SynbenchError(f"vary: expected every factor once, got {one!r} twice")
    return tuple(one for one in FACTORS if one in wanted)


def labels(encoders: Sequence[Any]) -> list[str]:
    """Specs, or names of Python objects; a number is added where several are alike."""
    names = []
    for one in encoders:
        kind = "module" if isinstance(one, nn.Module) else "callable"
        names.append(
            one
            if isinstance(one, str)
            else f"{kind}:{getattr(one, '__qualname__', type(one).__name__).rpartition('.')[2]}"
        )
    return [
        name if names.count(name) == 1 else f"{name} ({names[: i + 1].count(name)})"
        for i, name in enumerate(names)
    ]


# What one encoder gave


@dataclass(frozen=True, kw_only=True)
class _Level:
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
    results: list[tuple[_Level, Result]]
    failures: list[Failure]
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
    encoder: Any, request: Request, *, label: str = "", progress: Progress | None = None
) -> VariedRuns:
    """Every run of one encoder. Raises what its base run raises; failures of levels are collected."""
    begun = time.perf_counter()
    label = label or labels([encoder])[0]
    options = dict(request.options)
    with ExitStack() as stack:
        record: Callable[[Result], Result]
        if isinstance(encoder, str):
            encoder, own, record = _hold(encoder, options, stack)
        else:
            own, record = (None, None), _as_it_is
        done, total, phase = 0, 1, "base"

        def advance(images: int, images_in_all: int, step: str) -> None:
            if progress is not None:
                progress(done + images, max(total, done + images_in_all + 1), phase)

        seen = score(encoder, progress=advance, **options)
        base, base_name = record(seen), seen.encoder.spec  # a held encoder has another name while it runs
        options["average"] = base.task.average  # a level is to change one thing
        levels = _levels(request, base, options, own)
        done, total = base.cost.images, base.cost.images + sum(_images(base, one) for one in levels)
        results: list[tuple[_Level, Result]] = []
        failures: list[Failure] = []
        for level in levels:
            phase = f"{level.factor} {level.name}"
            if _same_input(base, level):
                results.append((level, base))
                continue
            try:
                results.append(
                    (level, record(score(encoder, progress=advance, **{**options, **level.changes})))
                )
            except Exception as error:
                reason = _reason(error).replace(base_name, label)
                failures.append(Failure(encoder=label, factor=level.factor, level=level.name, reason=reason))
            done += _images(base, level)
        if progress is not None:
            progress(total, total, "done")
    return VariedRuns(
        label=label, base=base, results=results, failures=failures, seconds=time.perf_counter() - begun
    )


def _hold(
    spec: str, options: dict[str, Any], stack: ExitStack
) -> tuple[Any, tuple[Any, Any], Callable[[Result], Result]]:
    """The encoder loaded once, its own constants, and what gives its results their name; `options` are adapted."""
    device, _ = find_device(options["device"], True)
    # The published constants replace the encoder's in every case, so its own are there to be a level.
    loaded = load_encoder(
        spec,
        **{
            name: options[name]
            for name in (
                "input_shape", "mean", "std", "pool", "checkpoint", "random_init", "seed", "trust_remote_code",
            )
        },
        device=device,
        dtype=torch.float32,
    )  # fmt: skip
    if loaded.info.feature_dim is None:
        loaded.probe()
    stack.enter_context(loaded.scoring())
    info = loaded.info
    options |= {
        "input_shape": info.input_shape, "device": device, "pool": None, "checkpoint": None, "random_init": False,
        "trust_remote_code": False, "dtype": "float32" if options["dtype"] == "auto" else options["dtype"],
    }  # fmt: skip
    if not options["published_preprocessing"]:
        options |= {"mean": info.mean, "std": info.std}

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

    return call if loaded.module is None else _Held(loaded), (info.mean, info.std), record


def _as_it_is(result: Result) -> Result:
    return result


def _levels(request: Request, base: Result, options: dict[str, Any], own: tuple[Any, Any]) -> list[_Level]:
    """What is run beside the base, factor after factor."""
    found: list[_Level] = []

    def add(factor: str, name: str, setting: str, same_samples: bool, **changes: Any) -> None:
        if factor in request.factors:
            found.append(
                _Level(factor=factor, name=name, setting=setting, changes=changes, same_samples=same_samples)
            )

    for number in range(1, request.seeds):
        seed = base.seed + number
        add("seed", str(seed), f"seed {seed}", False, seed=seed)

    samples = _samples(base)
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
    if options["published_preprocessing"]:
        normalised("own", "the encoder's own constants", *own)
    elif len(shape) > 1 and shape[0] == len(PUBLISHED_MEAN):
        normalised("published", "the published constants", PUBLISHED_MEAN, PUBLISHED_STD)
    normalised("none", "no normalisation", (0.0,), (1.0,))
    for step in (-CENTER_STEP, CENTER_STEP):
        center = round(base.task.center + step, 10)
        add("preprocessing", f"center {center:g}", "centre of the inputs", True, center=center)
    return found


def _samples(result: Result) -> int:
    """N per scale, for `paper` per half."""
    return max(result.task.samples) // (2 if result.estimator == "paper" else 1)


def _fewer(base: Result) -> int:
    """N/2; 3N/4 where an estimator that needs N > F + 2 could not do with half but can with that."""
    samples, least = _samples(base), base.encoder.feature_dim + 2
    if base.estimator != "paper" and samples // 2 <= least < 3 * samples // 4:
        return 3 * samples // 4
    return samples // 2


def _same_input(base: Result, level: _Level) -> bool:
    """Whether a level of normalisation is what the base did: no run is needed."""
    if "mean" not in level.changes:
        return False
    seen, channels = base.encoder.preprocessing, base.task.shape[0]

    def constants(mean: Any, std: Any) -> list[tuple[float, ...]]:
        both = (tuple(mean or (0.0,)), tuple(std or (1.0,)))
        return [one * channels if len(one) == 1 else one for one in both]

    return constants(seen.mean, seen.std) == constants(level.changes["mean"], level.changes["std"])


def _images(base: Result, level: _Level) -> int:
    scales = level.changes.get("scales", len(base.task.scales))
    samples = level.changes.get("samples", _samples(base))
    return int(scales * samples * (2 if base.estimator == "paper" else 1))


def _reason(error: Exception) -> str:
    return str(error) if isinstance(error, SynbenchError) else first_line(error)


# What follows from the runs of all encoders


def assemble(
    encoders: Sequence[Any], request: Request, runs: Sequence[VariedRuns], missing: Sequence[Failure] = ()
) -> Sensitivity:
    """The document of the runs of at least one encoder; `missing` are those without a base score."""
    first = runs[0].base
    threshold = min(first.thresholds)
    levels = [row for one in runs for row in _level_scores(one, threshold, request.factors)]
    notes = []
    if "thresholds" not in request.factors and len(first.thresholds) == 1:
        notes.append("thresholds: not varied, the base has only one")
    if len(runs) < 2:
        notes.append("rankings: left out, they need at least two encoders")
    elif len({one.base.task.shape for one in runs}) > 1:
        notes.append("rankings: the encoders have different input shapes, so their tasks differ")
    if first.influence is None and {"samples", "dtype", "preprocessing"} & set(request.factors):
        notes.append(
            f"errors of changes: {first.estimator} stores no influences, so runs with the same samples are "
            "taken as independent"
        )
    order = list(dict.fromkeys((one.factor, one.level) for one in levels if one.factor != "base"))
    order.sort(key=lambda one: request.factors.index(one[0]))
    return Sensitivity(
        factors=list(request.factors),
        estimator=first.estimator,
        seed=first.seed,
        eps=first.eps,
        threshold=threshold,
        prior=first.task.prior,
        encoders=[_varied(one) for one in runs],
        levels=levels,
        effects=[
            effect
            for factor in request.factors
            for one in runs
            for eps in first.eps
            if (effect := _effect(factor, one.label, eps, levels)) is not None
        ],
        seeds=[_spread(one, eps, threshold) for one in runs for eps in first.eps]
        if "seed" in request.factors
        else [],
        rankings=_rankings(runs, levels, order, threshold) if len(runs) > 1 else [],
        failures=[*missing, *(failure for one in runs for failure in one.failures)],
        notes=notes,
        environment=first.environment,
        command=_command(encoders, request),
    )


def _varied(runs: VariedRuns) -> VariedEncoder:
    base = runs.base
    warnings = dict.fromkeys(base.warnings)
    for level, result in runs.results:
        warnings |= dict.fromkeys(
            f"{level.factor} {level.name}: {one}" for one in result.warnings if one not in warnings
        )
    return VariedEncoder(
        label=runs.label,
        encoder=base.encoder,
        scales=base.task.scales,
        samples=_samples(base),
        center=base.task.center,
        dtype=base.cost.dtype,
        device=base.cost.device,
        images=base.cost.images + sum(one.cost.images for _, one in runs.results if one is not base),
        seconds=runs.seconds,
        warnings=list(warnings),
    )


def _level_scores(runs: VariedRuns, threshold: float, factors: Sequence[str]) -> list[LevelScore]:
    base, rows = runs.base, []

    def add(
        factor: str,
        level: str,
        setting: str,
        at: float,
        eps: float,
        result: Result,
        error: float,
        paired: bool,
    ) -> None:
        one = result.score(eps, at)
        change = one.score - base.score(eps, threshold).score
        rows.append(
            LevelScore(
                factor=factor,
                level=level,
                setting=setting,
                encoder=runs.label,
                eps=eps,
                threshold=at,
                score=one.score,
                stderr=one.stderr,
                change=change,
                change_stderr=error,
                z=0.0 if change == 0 else change / error if error > 0 else math.nan,
                paired=paired,
            )
        )

    for eps in base.eps:
        add("base", "base", "", threshold, eps, base, 0.0, True)
    for level, result in runs.results:
        for eps in base.eps:
            error, paired = _change_error(base, result, eps, threshold, level.same_samples)
            add(level.factor, level.name, level.setting, threshold, eps, result, error, paired)
    if "thresholds" in factors:
        for at in base.thresholds:
            for eps in base.eps:
                if at != threshold:
                    error, paired = _threshold_error(base, eps, threshold, at)
                    add("thresholds", f"{at:g}", f"above accuracy {at:g}", at, eps, base, error, paired)
    return rows


def _change_error(
    base: Result, other: Result, eps: float, threshold: float, same_samples: bool
) -> tuple[float, bool]:
    """Standard error of the change of a score from base to other, and whether it uses common samples."""
    if other is base:
        return 0.0, True
    first, second = base.score(eps, threshold), other.score(eps, threshold)
    apart = math.hypot(first.stderr, second.stderr)
    known = all(math.isfinite(one) for one in (first.score, second.score, apart))
    if not (known and same_samples and base.influence is not None and other.influence is not None):
        return apart, False
    # Another centre moves every sample by the same amount: the noise, which the influences are about, is the same.
    alike = dataclasses.replace(other, task=dataclasses.replace(other.task, center=base.task.center))
    difference = compare(base, alike, eps=eps, thresholds=threshold).differences[0]
    return max(difference.stderr, _RESOLUTION * apart), True


def _threshold_error(base: Result, eps: float, threshold: float, at: float) -> tuple[float, bool]:
    """The same between two thresholds of one run."""
    first, second = base.score(eps, threshold).stderr, base.score(eps, at).stderr
    if base.score_covariance is None:
        return math.hypot(first, second), False
    place = base.eps.index(eps) * len(base.thresholds)
    i, j = (place + base.thresholds.index(one) for one in (threshold, at))
    c = base.score_covariance
    variance = c[i][i] + c[j][j] - 2 * c[i][j]
    return max(math.sqrt(max(variance, 0.0)), _RESOLUTION * math.hypot(first, second)), True


def _effect(factor: str, encoder: str, eps: float, levels: Sequence[LevelScore]) -> Effect | None:
    """None if no level of this factor has a score."""
    mine = [one for one in levels if (one.encoder, one.eps) == (encoder, eps)]
    base = next(one for one in mine if one.factor == "base")
    rows = [one for one in mine if one.factor == factor and math.isfinite(one.change)]
    if not rows:
        return None
    largest = max(rows, key=lambda one: abs(one.change))
    known = [one for one in rows if math.isfinite(one.z)]
    clearest = max(known, key=lambda one: abs(one.z), default=None)
    # Levels that are the base under another name cannot differ from it and do not count.
    tried = sum(one.change_stderr > 0 for one in known)
    critical = NormalDist().inv_cdf(1 - _TAIL / max(1, tried))
    return Effect(
        factor=factor,
        encoder=encoder,
        eps=eps,
        level=largest.level,
        change=largest.change,
        change_stderr=largest.change_stderr,
        base_stderrs=abs(largest.change) / base.stderr if base.stderr > 0 else math.nan,
        z_level="" if clearest is None else clearest.level,
        z=math.nan if clearest is None else clearest.z,
        critical_z=critical,
        more_than_noise=None if clearest is None else abs(clearest.z) > critical,
    )


def _spread(runs: VariedRuns, eps: float, threshold: float) -> SeedSpread:
    found = [runs.base, *(result for level, result in runs.results if level.factor == "seed")]
    scores = [one.score(eps, threshold) for one in found]
    count = len(scores)
    mean = sum(one.score for one in scores) / count
    deviation = stderr = ratio = low = high = math.nan
    if count > 1:
        deviation = math.sqrt(sum((one.score - mean) ** 2 for one in scores) / (count - 1))
        stderr = math.sqrt(sum(one.stderr**2 for one in scores) / count)
        ratio = deviation / stderr if stderr > 0 else math.nan
        low, high = (math.sqrt(chi_squared_quantile(p, count - 1) / (count - 1)) for p in (_TAIL, 1 - _TAIL))
    return SeedSpread(
        encoder=runs.label,
        eps=eps,
        seeds=[one.seed for one in found],
        mean=mean,
        deviation=deviation,
        stderr=stderr,
        ratio=ratio,
        ratio_low=low,
        ratio_high=high,
        consistent=low <= ratio <= high if math.isfinite(ratio) else None,
    )


def chi_squared_quantile(probability: float, freedom: int) -> float:
    """x with P(X <= x) = probability, X chi-squared with `freedom` degrees of freedom; by bisection."""
    shape = torch.tensor(freedom / 2, dtype=torch.float64)
    low, high = 0.0, freedom + 100 * math.sqrt(freedom)
    for _ in range(100):
        middle = 0.5 * (low + high)
        reached = torch.special.gammainc(shape, torch.tensor(middle / 2, dtype=torch.float64))
        low, high = (middle, high) if float(reached) < probability else (low, middle)
    return high


def _rankings(
    runs: Sequence[VariedRuns],
    levels: Sequence[LevelScore],
    order: Iterable[tuple[str, str]],
    threshold: float,
) -> list[LevelRanking]:
    found = []
    names = [one.label for one in runs]
    order = list(order)
    for eps in runs[0].base.eps:
        ties = _ties(runs, eps, threshold)
        scores = {
            (one.factor, one.level, one.encoder): one.score
            for one in levels
            if one.eps == eps and math.isfinite(one.score)
        }
        for factor, level in order:
            present = [
                name for name in names if ("base", "base", name) in scores and (factor, level, name) in scores
            ]
            pairs = list(combinations(present, 2))
            if not pairs:
                continue
            agreement, swaps = 0, []
            for a, b in pairs:
                before = scores["base", "base", a] - scores["base", "base", b]
                after = scores[factor, level, a] - scores[factor, level, b]
                if before == 0 or after == 0:
                    continue
                same = (before > 0) == (after > 0)
                agreement += 1 if same else -1
                if not same:
                    ahead, behind = (a, b) if after > 0 else (b, a)
                    swaps.append(Swap(ahead=ahead, behind=behind, base_tie=ties.get(frozenset((a, b)))))
            found.append(
                LevelRanking(
                    factor=factor,
                    level=level,
                    eps=eps,
                    encoders=present,
                    tau=agreement / len(pairs),
                    swaps=swaps,
                )
            )
    return found


def _ties(runs: Sequence[VariedRuns], eps: float, threshold: float) -> dict[frozenset[str], bool]:
    """Whether `compare` calls a pair of base scores a tie; nothing for what it cannot compare."""
    bases = [one.base for one in runs]
    paired = len({one.task.shape for one in bases}) == 1 and all(one.influence is not None for one in bases)
    try:
        found = compare(*bases, eps=eps, thresholds=threshold, unpaired=not paired).differences
    except SynbenchError:
        return {}
    pairs = combinations((one.label for one in runs), 2)
    return {frozenset(pair): one.tie for pair, one in zip(pairs, found, strict=True)}


def _command(encoders: Sequence[Any], request: Request) -> str:
    """The shell line that repeats it; empty where no shell line can."""
    if not all(isinstance(one, str) for one in encoders):
        return ""
    given = {"vary": list(request.factors), "seeds": request.seeds} | request.given
    run = "synbench-fast run "
    names = " ".join(replay_command(one, {}).removeprefix(run) for one in encoders)
    options = replay_command(encoders[0], given).removeprefix(replay_command(encoders[0], {}))
    return f"synbench-fast sensitivity {names}{options}"
