"""What a run returns, and how it is written down: one versioned document per encoder and configuration.

The dataclasses are the schema (see codec.py). A field declared with `nan_field` or `inf_field` may be
non-finite: it is null in JSON and reads back as NaN (an unknown error) or +inf (the bound at t = 0).
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from synbench_fast.errors import SynbenchError
from synbench_fast.results.codec import STORED, TABLE, Mismatch, encode, inf_field, nan_field
from synbench_fast.results.documents import Document
from synbench_fast.results.structure import StructureScore, are_images
from synbench_fast.runtime.optional import optional

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = [
    "BELOW_DETECTION",
    "CONFIDENCE_95",
    "CSV_COLUMNS",
    "NON_GAUSSIAN",
    "SCHEMA",
    "SCHEMA_VERSION",
    "WITHHELD",
    "ArithmeticCheck",
    "ArithmeticPoint",
    "ArithmeticRecord",
    "Cost",
    "EncoderRecord",
    "Environment",
    "Gpu",
    "Influence",
    "Preprocessing",
    "Result",
    "RobustArea",
    "ScaleFit",
    "ScalePoint",
    "Score",
    "TaskRecord",
    "width_text",
    "with_error",
]

SCHEMA = "synbench-fast/result"
SCHEMA_VERSION = 8
CONFIDENCE_95 = 1.959963984540054  # a 95 % interval is the estimate +- so many errors
WITHHELD = "interval withheld"  # how the warnings begin that say which scores have no interval, and why
BELOW_DETECTION = "below detection"  # of a score: no scale showed a signal above the threshold
NON_GAUSSIAN = "the margins are not Gaussian"  # how the warning begins that comparisons repeat


@dataclass(frozen=True, kw_only=True)
class Preprocessing:
    """How a sample reached the encoder: its shape without the batch, and the normalisation per channel."""

    input_shape: tuple[int, ...]
    mean: tuple[float, ...] | None
    std: tuple[float, ...] | None
    pool: str | None


@dataclass(frozen=True, kw_only=True)
class EncoderRecord:
    """Which weights were scored. A callable hides them: its sha256 is empty, its parameters are None."""

    spec: str
    source: str
    name: str
    revision: str | None
    weights_sha256: str
    parameters: int | None
    feature_dim: int
    preprocessing: Preprocessing
    random_init: bool
    checkpoint: str | None

    @property
    def title(self) -> str:
        """What tells it from others in a table: its spec, and the checkpoint where there is one."""
        return self.spec if self.checkpoint is None else f"{self.spec} {self.checkpoint}"


@dataclass(frozen=True, kw_only=True)
class TaskRecord:
    """The synthetic task: x | y ~ N(center + (2y - 1) m, covariance), m along `pattern`, P(y = 1) = prior.

    A scale is sqrt(m' covariance^-1 m), for white noise |m|. `samples` has a number per scale, as drawn: the paper's
    two halves together. `average` says over which scales the score is the mean: those `sampled`, or the 49
    `published` ones by a fit.
    """

    shape: tuple[int, ...]
    scales: list[float]
    samples: list[int]
    average: str
    prior: float
    center: float
    pattern: str
    covariance: str

    def size(self) -> str:
        """`12 scales x 512 samples`, or `12 scales x 256 to 4096 samples`."""
        least, most = min(self.samples, default=0), max(self.samples, default=0)
        return f"{len(self.scales)} scales x {least if least == most else f'{least} to {most}'} samples"


@dataclass(frozen=True, kw_only=True)
class Score:
    """Expected scaled bound above accuracy `threshold`, relative to the raw data's; NaN where unknown."""

    eps: float
    threshold: float
    score: float = nan_field()
    stderr: float = nan_field()
    ci95_low: float = nan_field()
    ci95_high: float = nan_field()


@dataclass(frozen=True, kw_only=True)
class ScalePoint:
    """One scale at one budget, and the raw data's optimum there.

    The bound is infinite where t = 0, and t is infinite where the features separate the classes without error. `t_rob` is
    t under attack. `excess` is the counted accuracy minus that of Gaussian margins with this t, with its error; NaN for
    estimators that do not compare them.
    """

    scale: float
    eps: float
    accuracy: float
    accuracy_stderr: float = nan_field()
    robust_accuracy: float
    robust_accuracy_stderr: float = nan_field()
    bound: float = inf_field()
    bound_stderr: float = nan_field()
    t: float = inf_field()
    t_stderr: float = nan_field()
    t_rob: float = inf_field()
    excess: float = nan_field()
    excess_stderr: float = nan_field()
    raw_accuracy: float
    raw_bound: float = inf_field()


@dataclass(frozen=True, kw_only=True, eq=False)
class Influence:
    """What samples did to the scores: sums over groups of `group` consecutive samples, to five digits.

    Group g of scale s moved the accuracy at budget e by `accuracy[s, e, g]` and the reach (accuracy * bound) by
    `reach[s, e, g]`, and with them the score above threshold a by `accuracy_slope[s, e, a]` and `reach_slope[s, e, a]`
    times that. Scale s has `groups[s]` groups; beyond them its sums are 0. Encoders that saw the same samples were moved
    by the same luck: from these sums `compare` knows how much.
    """

    group: int
    groups: NDArray[np.int64]
    accuracy: NDArray[np.float64]
    reach: NDArray[np.float64]
    accuracy_slope: NDArray[np.float64]
    reach_slope: NDArray[np.float64]

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Influence) and all(
            np.array_equal(getattr(self, one.name), getattr(other, one.name))
            for one in dataclasses.fields(self)
        )

    def fits(self, scales: int, budgets: int, thresholds: int) -> bool:
        """Whether there are numbers for as many scales, budgets and thresholds."""
        width = int(self.groups.max(initial=0))
        moved, slopes = (scales, budgets, width), (scales, budgets, thresholds)
        return (
            self.group > 0
            and self.groups.shape == (scales,)
            and bool((self.groups >= 0).all())
            and (self.accuracy.shape, self.reach.shape) == (moved, moved)
            and (self.accuracy_slope.shape, self.reach_slope.shape) == (slopes, slopes)
        )

    @property
    def freedom(self) -> int:
        """Groups whose sums are free: those of a scale add up to 0, so that the last one follows from the others."""
        return int((self.groups - 1).clip(0).sum())

    def of_score(self, eps: int, threshold: int, group: int | None = None) -> NDArray[np.float64]:
        """[S, G] influence on the score at these positions of budget and threshold; 0 beyond a scale's last group.

        Of groups of `group` samples, a multiple of the stored ones. What a scale's only group has left is rounding: 0.
        """
        moved = (
            self.accuracy_slope[:, eps, threshold, None] * self.accuracy[:, eps]
            + self.reach_slope[:, eps, threshold, None] * self.reach[:, eps]
        )
        each = 1 if group is None else group // self.group
        padded = np.pad(moved, ((0, 0), (0, -moved.shape[1] % each)))
        found = padded.reshape(len(moved), -1, each).sum(2)
        return np.where((self.groups > each)[:, None], found, 0.0)


@dataclass(frozen=True, kw_only=True)
class ScaleFit:
    """Accuracy and reach as functions of the scale at one budget, see `stats.smooth`: coefficients c_k and d_k.

    `p_value` is the chance of residuals like these if they have this form and the errors are right, the smaller of both.
    """

    eps: float
    accuracy: list[float]
    reach: list[float]
    p_value: float


@dataclass(frozen=True, kw_only=True)
class RobustArea:
    """Area under robust accuracy over eps in [0, 1): the representation's, the raw data's, their ratio."""

    value: float = nan_field()
    raw: float = nan_field()
    ratio: float = nan_field()
    stderr: float = nan_field()


@dataclass(frozen=True, kw_only=True)
class ArithmeticPoint:
    """What an arithmetic did to one scale at one budget, against float32 on the same samples.

    `t_difference` is t in the arithmetic minus t in float32 and has an error of its own, `t_stderr` is the
    standard error of t at that scale, and `score_difference` what the score would move by if every scale moved
    alike.
    """

    eps: float
    t_difference: float = nan_field()
    t_difference_stderr: float = nan_field()
    t_stderr: float = nan_field()
    score_difference: float = nan_field()


@dataclass(frozen=True, kw_only=True)
class ArithmeticCheck:
    """One arithmetic that ran the first scale: used, or the reason why not; no points if nothing was measured."""

    dtype: str
    used: bool
    reason: str
    scale: float
    samples: int
    points: list[ArithmeticPoint]

    @property
    def largest(self) -> ArithmeticPoint | None:
        """The point whose difference is largest in standard errors."""
        known = [one for one in self.points if math.isfinite(one.t_difference) and one.t_stderr > 0]
        return max(known, key=lambda one: abs(one.t_difference) / one.t_stderr, default=None)

    def summary(self) -> str:
        """`bfloat16 against float32 at scale 2.5: t differs by -0.0012 (0.03 standard errors) at eps 0`."""
        worst = self.largest
        text = f"{self.dtype} against float32 at scale {self.scale:g}: "
        if worst is None:
            return text + (self.reason or "t does not differ")
        errors = abs(worst.t_difference) / worst.t_stderr
        return text + (
            f"t differs by {worst.t_difference:+.2g} ({errors:.2g} standard errors) at eps {worst.eps:g}"
        )


@dataclass(frozen=True, kw_only=True)
class ArithmeticRecord:
    """The dtype asked for, the one that ran, and what was measured of each one tried."""

    requested: str
    dtype: str
    checks: list[ArithmeticCheck]


@dataclass(frozen=True, kw_only=True)
class Cost:
    """What the run took.

    `seconds` per phase: "load", "sample", "encode" and "statistics" of the samples that count, "check" (time
    spent on the comparison with float32 and on arithmetics that were given up), and "total", which has the
    rest, too. On a GPU the phases overlap: each is the time between its first and last instruction on its own
    stream, so that their sum may exceed the total. `images_per_second` leaves "load" and "check" out.
    `peak_memory_bytes` is on a GPU the most that torch held, elsewhere what the process grew by at most since before the
    encoder was loaded. `channels_last`, `compiled` and `cuda_graph` say how the forward passes were run.
    """

    images: int
    seconds: dict[str, float]
    images_per_second: float
    peak_memory_bytes: int
    device: str
    dtype: str
    batch_size: int
    threads: int
    channels_last: bool
    compiled: bool
    cuda_graph: bool


@dataclass(frozen=True, kw_only=True)
class Gpu:
    name: str
    memory_bytes: int
    compute_capability: str


@dataclass(frozen=True, kw_only=True)
class Environment:
    """Where the run happened: `cores` are those this process may use, `versions` the libraries installed."""

    python: str
    platform: str
    cpu: str
    cores: int
    memory_bytes: int
    simd: str | None
    gpus: list[Gpu]
    cuda: str | None
    versions: dict[str, str]
    git_commit: str | None
    git_dirty: bool | None


@dataclass(frozen=True, kw_only=True, repr=False)
class Result(Document):
    """Score of one encoder under one configuration, with everything needed to judge and to repeat it.

    `structure` is the structure score, None where it was not asked for or the inputs are no images. `scores` runs over
    eps, then thresholds; `curve` over scales, then eps. `score_covariance` is that of the
    scores' sampling errors, in their order; it and `influence` are None for the paper's estimator. `fits` has one
    entry per eps where the average is `published`; `dropped` says for every scale how many of the F directions of the
    features carry no variance and were left out; `half_width` is that of the intervals which was asked for. `command`
    replays the run from a shell and is empty where no shell line can (an encoder passed as a Python object).
    """

    schema: str = SCHEMA
    schema_version: int = SCHEMA_VERSION
    encoder: EncoderRecord
    task: TaskRecord
    estimator: str
    integral: str
    seed: int
    eps: list[float]
    thresholds: list[float]
    structure: StructureScore | None = None
    scores: list[Score] = field(metadata=TABLE)
    curve: list[ScalePoint] = field(metadata=TABLE | STORED)
    score_covariance: list[list[float]] | None = field(metadata=STORED)
    influence: Influence | None = field(metadata=STORED)
    robust_area: RobustArea
    fits: list[ScaleFit] | None
    dropped: list[int]
    half_width: float | None
    arithmetic: ArithmeticRecord
    cost: Cost
    environment: Environment
    backends: dict[str, str]
    warnings: list[str]
    command: str

    def check(self) -> None:
        grid = [(eps, threshold) for eps in self.eps for threshold in self.thresholds]
        if [(one.eps, one.threshold) for one in self.scores] != grid:
            raise Mismatch("scores", "one for every eps, then threshold", f"{len(self.scores)} others")

    def check_stored(self, name: str, value: Any) -> None:
        scales, budgets, thresholds = len(self.task.scales), len(self.eps), len(self.thresholds)
        if name == "curve" and [(one.scale, one.eps) for one in value] != [
            (scale, eps) for scale in self.task.scales for eps in self.eps
        ]:
            raise Mismatch(name, "a point for every scale, then eps", f"{len(value)} others")
        if name == "influence" and value is not None and not value.fits(scales, budgets, thresholds):
            raise Mismatch(name, "numbers for every scale, eps and threshold", "others")
        if name == "score_covariance" and value is not None:
            size = budgets * thresholds
            if len(value) != size or any(len(row) != size for row in value):
                raise Mismatch(name, f"{size} rows of {size} numbers", "others")

    def score(self, eps: float | None = None, threshold: float | None = None) -> Score:
        """The score at one budget and threshold; by default the first budget and the lowest threshold."""
        for name in ("eps", "thresholds"):
            if not getattr(self, name):
                raise SynbenchError(f"{name}: expected at least one value in the result, got none")
        wanted_eps = self.eps[0] if eps is None else _listed("eps", eps, self.eps)
        wanted = (
            min(self.thresholds) if threshold is None else _listed("threshold", threshold, self.thresholds)
        )
        for one in self.scores:
            if one.eps == wanted_eps and one.threshold == wanted:
                return one
        raise SynbenchError(
            f"scores: expected an entry at eps {wanted_eps:g}, threshold {wanted:g}, got none"
        )

    def place(self, eps: float, threshold: float) -> int | None:
        """Where in `scores` this budget and threshold are; None where they are not."""
        if eps not in self.eps or threshold not in self.thresholds:
            return None
        return self.eps.index(eps) * len(self.thresholds) + self.thresholds.index(threshold)

    @property
    def paired(self) -> bool:
        """Whether the result has influences; where it was loaded they are not read for that."""
        return self.__dict__.get("influence", True) is not None

    def withheld(self, eps: float, threshold: float) -> str:
        """Why this score has no interval, from the warnings; empty if it has one."""
        place = f"{threshold:g} at eps {eps:g}"
        for warning in self.warnings:
            if warning.startswith(f"{WITHHELD} above "):
                places, _, reason = warning.removeprefix(f"{WITHHELD} above ").partition(": ")
                if place in places.split(", "):
                    return reason
        return ""

    @property
    def structure_missing(self) -> str:
        """Why there is no structure score; empty if there is one."""
        if self.structure is not None:
            return ""
        if are_images(self.task.shape):
            return "it was not asked for"
        return "its inputs are not images of 1 or 3 channels, sides from 8 to 4096 and 2^22 elements at most"

    @property
    def width(self) -> str:
        """F in words, and how many directions of the features vary at the scale where fewest do."""
        return width_text(self.encoder.feature_dim, max(self.dropped, default=0))

    def summary(self) -> str:
        """A few lines for a person: what was scored, its scores at the lowest threshold, area, cost and warnings."""
        scores = (self.score(eps) for eps in self.eps)
        parts = [f"eps {one.eps:g}: {with_error(one.score, one.stderr)}" for one in scores]
        area, cost, task = self.robust_area, self.cost, self.task
        checked = [f"  {one.summary()}" for one in self.arithmetic.checks if one.used]
        structure = [] if self.structure is None else [f"  {self.structure.summary()}"]
        return "\n".join(
            [
                f"{self.encoder.title}: F = {self.width}, {_count(self.encoder.parameters)} parameters",
                *structure,
                f"  score above accuracy {min(self.thresholds):g}: {', '.join(parts)}",
                f"  robust area: {with_error(area.value, area.stderr)} of {area.raw:.4f} ({area.ratio:.1%})",
                f"  {self.estimator}, {task.size()}, "
                f"{cost.seconds.get('total', math.nan):.1f} s on {cost.device}, "
                f"{cost.images_per_second:.1f} images/s",
                *checked,
                *(f"  warning: {one}" for one in self.warnings),
            ]
        )

    def plot(self, *, eps: Sequence[float] | None = None) -> Figure:
        """The published figure: expected bound E(a_t) against the threshold accuracy a_t, with the raw optimum.

        A panel for each budget of `eps`, default all. Needs matplotlib (extra `demo`). Save it by `.savefig(path)`.
        """
        from synbench_fast.results.plots import draw_curves

        return draw_curves({self.encoder.title: [self]}, eps=eps)

    def to_frame(self) -> Any:
        """`rows` as a data frame of pandas (extra `pandas`), NaN where a value is not known."""
        pandas = optional("pandas", "pandas", "pandas")
        return pandas.DataFrame(self.rows(), columns=list(CSV_COLUMNS))

    def rows(self) -> list[dict[str, str | int | float | None]]:
        """One flat row per (eps, threshold), keys as in CSV_COLUMNS; None where a value is not finite."""
        common: dict[str, str | int | float | None] = {
            "encoder": self.encoder.spec,
            "revision": self.encoder.revision,
            "weights_sha256": self.encoder.weights_sha256,
            "parameters": self.encoder.parameters,
            "feature_dim": self.encoder.feature_dim,
            "estimator": self.estimator,
            "scales": len(self.task.scales),
            "samples": max(self.task.samples, default=0),
            "prior": self.task.prior,
            "seed": self.seed,
        }
        structure = self.structure
        last: dict[str, str | int | float | None] = {
            "structure": None if structure is None else _finite(structure.score),
            "structure_stderr": None if structure is None else _finite(structure.stderr),
            "robust_area": _finite(self.robust_area.value),
            "robust_area_ratio": _finite(self.robust_area.ratio),
            "images": self.cost.images,
            "seconds": self.cost.seconds.get("total"),
            "images_per_second": self.cost.images_per_second,
        }
        return [
            {**common, **{key: _finite(value) for key, value in dataclasses.asdict(one).items()}, **last}
            for one in self.scores
        ]

    def file_name(self) -> str:
        """File name of this encoder and configuration: a readable spec, then a hash of the rest."""
        named = [_naming(one, encode(one)) for one in (self.encoder, self.task)]
        fixed: list[Any] = [*named, self.estimator, self.integral, self.seed]
        text = json.dumps([*fixed, self.eps, self.thresholds, self.cost.dtype], sort_keys=True)
        digest = hashlib.sha256(text.encode()).hexdigest()[:12]
        readable = re.sub(r"[^A-Za-z0-9._-]+", "_", self.encoder.spec).strip("._")[:100]
        return f"{readable or 'encoder'}-{digest}.json"


def _naming(record: Any, document: dict[str, Any]) -> dict[str, Any]:
    """What a file's name takes of the `document` of a record.

    A field with a default is left out where it has that value, so that a later field keeps the names of earlier results.
    """
    found: dict[str, Any] = {}
    for one in dataclasses.fields(record):
        value, plain = getattr(record, one.name), document[one.name]
        if one.default is dataclasses.MISSING or value != one.default:
            found[one.name] = _naming(value, plain) if dataclasses.is_dataclass(value) else plain
    return found


CSV_COLUMNS = (
    "encoder",
    "revision",
    "weights_sha256",
    "parameters",
    "feature_dim",
    "estimator",
    "scales",
    "samples",
    "prior",
    "seed",
    "eps",
    "threshold",
    "score",
    "stderr",
    "ci95_low",
    "ci95_high",
    "structure",
    "structure_stderr",
    "robust_area",
    "robust_area_ratio",
    "images",
    "seconds",
    "images_per_second",
)


def with_error(value: float, stderr: float, digits: int = 4) -> str:
    """`0.8123 ± 0.0045`, or the value alone where the error is unknown; `below detection` where both round to 0."""
    if math.isfinite(stderr) and max(abs(value), stderr) < 0.5 * 10.0**-digits:
        return BELOW_DETECTION
    return f"{value:.{digits}f} ± {stderr:.{digits}f}" if math.isfinite(stderr) else f"{value:.{digits}f}"


def width_text(features: int, dropped: int) -> str:
    """`768`, or `768 (512 vary)` where 256 directions were dropped."""
    return f"{features} ({features - dropped} vary)" if dropped else str(features)


def _count(count: int | None) -> str:
    if count is None:
        return "unknown"
    return f"{count / 1e6:.1f} M" if count >= 100_000 else str(count)


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None


def _listed(argument: str, value: float, values: list[float]) -> float:
    for one in values:
        if math.isclose(one, value, rel_tol=0, abs_tol=1e-9):
            return one
    listed = ", ".join(f"{one:g}" for one in values)
    raise SynbenchError(f"{argument}: expected one of {listed}, got {value!r}")
