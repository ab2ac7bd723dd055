"""How far drawn images must change before a linear probe's answer turns: robustness to attacks on the input, without data.

The images are those of the structure score's families. For each family a regularised linear discriminant is fitted to the
features of some images of every class; for others, `smallest_change` searches for a small l2 change of the pixels that
turns a right answer wrong. What it says of real images is on the page docs/validity.md.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from synbench_fast.config import described
from synbench_fast.encoders import Encoder
from synbench_fast.engine.purity import check_purity
from synbench_fast.engine.score import encoder_record
from synbench_fast.errors import SynbenchError
from synbench_fast.results.codec import inf_field
from synbench_fast.results.records import EncoderRecord
from synbench_fast.stats.discriminant import RIDGE, ROUNDING, ROUNDING_64
from synbench_fast.studies.base import (
    EncoderLike,
    Report,
    Study,
    Table,
    finite,
    isolated,
    named_encoders,
    open_encoder,
    option,
)
from synbench_fast.studies.linear_probe.attack import check_differentiable
from synbench_fast.studies.linear_probe.options import budgets
from synbench_fast.studies.linear_probe.run import features_of, frozen, pixels_to_features
from synbench_fast.tasks.families import Family
from synbench_fast.tasks.structure import STRUCTURE

__all__ = [
    "EncoderRobustness",
    "FamilyRobustness",
    "LinearHead",
    "Robustness",
    "RobustnessReport",
    "measure_robustness",
    "smallest_change",
]

ROBUSTNESS_SCHEMA = "synbench-fast/robustness"
ROBUSTNESS_SCHEMA_VERSION = 1

FITTED, ATTACKED = 20, 3  # images of each class in a block
STEPS, HALVINGS = 8, 6
SIDE = 64  # a radius is meant for images of 64 x 64 pixels
BLIND = 1e6  # a first-order radius beyond this one stands for a gradient of 0
LEAST_BLIND = 0.01  # share of the images without a gradient that an encoder may have

Forward = Callable[[Tensor], Tensor]
Progress = Callable[[int, int, str], None]


class LinearHead:
    """A regularised linear discriminant: logits x W' + b of features x [N, F], which are -d_k / 2 up to a constant.

    d_k is the squared distance to the mean of class k in (C + g I)^-1, for features that are divided by their deviation
    and C their covariance within the classes; g is `ridge` times the mean variance, see `stats.discriminant`. It computes
    in float64 from features less their mean, because a mean far above the deviations would cost the digits of a margin.

    Args:
        x: floating [N, F]; a feature that varies by no more than the rounding of its dtype is left out.
        labels: int64 [N], each of 0 to K - 1.
    """

    def __init__(self, x: Tensor, labels: Tensor, ridge: float = RIDGE) -> None:
        rounding = ROUNDING_64 if x.dtype == torch.float64 else ROUNDING
        x = x.double()
        self.middle, self.deviation = x.mean(0), x.std(0)
        live = self.deviation > rounding * x.abs().amax(0)
        self.deviation[~live] = torch.inf
        x = (x - self.middle) / self.deviation
        classes = int(labels.max()) + 1
        means = torch.stack([x[labels == k].mean(0) for k in range(classes)])
        centred = x - means[labels]
        freedom = len(x) - classes
        level = ridge * float(centred.square().sum()) / freedom / max(1, int(live.sum()))
        if level == 0:
            raise SynbenchError("features: expected some that vary within the classes, got none")
        if x.shape[1] > len(x):
            # Woodbury: (g I + C'C / v)^-1 M' = (M' - C' (v g I + C C')^-1 C M') / g
            inner = centred @ centred.T + freedom * level * torch.eye(len(x))
            weights = (means.T - centred.T @ torch.linalg.solve(inner, centred @ means.T)).T / level
        else:
            covariance = centred.T @ centred / freedom + level * torch.eye(x.shape[1])
            weights = torch.linalg.solve(covariance, means.T).T
        self.weights, self.bias = weights, -(weights * means).sum(1) / 2

    def __call__(self, features: Tensor) -> Tensor:
        """Logits [n, K] in float32."""
        z = (features.double() - self.middle) / self.deviation
        logits: Tensor = z @ self.weights.T + self.bias
        return logits.float()


def _margins(logits: Tensor, y: Tensor) -> Tensor:
    """Logit of the own class less the largest other."""
    own = logits.gather(1, y[:, None])
    return own[:, 0] - logits.scatter(1, y[:, None], -torch.inf).amax(1)


def smallest_change(logits: Forward, x: Tensor, y: Tensor, *, unit: float = 1.0) -> tuple[Tensor, Tensor]:
    """Length of the smallest change found that turns each answer, and its first-order estimate margin / |gradient|.

    Steps of margin / |gradient|^2 along the gradient of the margin (DeepFool towards the runner-up, Moosavi-Dezfooli et
    al., arXiv 1511.04599), at most `unit` long each, then bisection between the image and where the answer first turned.
    It is an upper bound of the smallest change that there is. Pixels may leave [0, 1].

    Args:
        logits: differentiable, [n, ...] to [n, K].
        x: [n, ...].
        y: int64 [n].
        unit: longest step.

    Returns:
        Both lengths [n], l2 of x: 0 where the answer is wrong to begin with, infinity where no change was found.

    Raises:
        SynbenchError: logits or gradients that are not finite; no step can be taken from there.
    """
    each = (-1, *[1] * (x.ndim - 1))
    moved, turned, first = x.clone(), torch.full((len(x),), False), torch.zeros(len(x))
    for step in range(STEPS + 1):
        moved.requires_grad_()
        with torch.enable_grad():
            margin = _margins(logits(moved), y)
            (gradient,) = torch.autograd.grad(margin.sum(), moved)
        margin, length = margin.detach(), gradient.flatten(1).norm(dim=1).clamp_min(1e-20)
        if not bool((margin + length).isfinite().all()):
            raise SynbenchError(
                "features: expected finite ones of changed images, and finite gradients, got others"
            )
        if step == 0:
            first = margin.clamp_min(0) / length
        turned = turned | (margin <= 0)
        by = (1.02 * margin / length).clamp(1e-4 * unit, unit)
        by = torch.where(turned, torch.zeros_like(by), by) / length
        moved = (moved - by.view(each) * gradient).detach()
        if bool(turned.all()):
            break
    low, high = torch.zeros(len(x)), torch.ones(len(x))
    with torch.no_grad():
        for _ in range(HALVINGS):
            middle = (low + high) / 2
            wrong = _margins(logits(x + middle.view(each) * (moved - x)), y) <= 0
            low, high = torch.where(wrong, low, middle), torch.where(wrong, middle, high)
    found = high * (moved - x).flatten(1).norm(dim=1)
    return torch.where(turned, found, torch.full_like(found, math.inf)), first


@dataclass(frozen=True, kw_only=True)
class Robustness(Study):
    """Options of `measure_robustness`.

    Attributes:
        radii: l2 of changes of images in [0, 1] of 64 x 64 pixels; for H x W pixels they are multiplied by
            sqrt(H W) / 64, so that the mean change of a pixel is the same.
    """

    verb: ClassVar[str] = "robustness"
    reads: ClassVar[tuple[str, ...] | None] = (
        "preset", "seed", "batch_size", "device", "input_shape", "mean", "std", "pool", "checkpoint", "random_init",
        "trust_remote_code", "threads",
    )  # fmt: skip
    defaults: ClassVar[dict[str, Any]] = {"preset": "quick", "batch_size": 64}

    radii: tuple[float, ...] = option((0.1, 0.25, 0.5, 1.0), budgets)


@dataclass(frozen=True, kw_only=True)
class FamilyRobustness:
    """The images of one family: shares that are right, and that stay right within each radius of the report.

    `radius` is the median length of the smallest change found, `first_order_radius` that of margin / |gradient|, of the
    images that are right; both are 0 where none is, and divided by sqrt(H W) / 64.
    """

    family: str
    accuracy: float
    within: list[float]
    within_stderr: list[float]
    radius: float = inf_field()
    first_order_radius: float = inf_field()


@dataclass(frozen=True, kw_only=True)
class EncoderRobustness:
    """One encoder: the means over the families, and each of them. Standard errors are those of the images."""

    encoder: EncoderRecord
    images: int
    accuracy: float
    within: list[float]
    within_stderr: list[float]
    families: list[FamilyRobustness]
    warnings: list[str]


@dataclass(frozen=True, kw_only=True, repr=False)
class RobustnessReport(Report):
    """How far drawn images must change before answers turn, for each encoder; see docs/structure.md."""

    schema: str = ROBUSTNESS_SCHEMA
    schema_version: int = ROBUSTNESS_SCHEMA_VERSION
    radii: list[float]
    preset: str
    seed: int
    encoders: list[EncoderRobustness]
    command: str

    def rows(self) -> list[dict[str, Any]]:
        found = []
        for one in self.encoders:
            row: dict[str, Any] = {
                "encoder": one.encoder.spec,
                "images": one.images,
                "accuracy": one.accuracy,
            }
            for radius, share, error in zip(self.radii, one.within, one.within_stderr, strict=True):
                row |= {f"within_{radius:g}": share, f"within_{radius:g}_stderr": finite(error)}
            for part in one.families:
                row |= {f"{part.family}_radius": finite(part.radius)}
            found.append(row)
        return found

    def tables(self) -> Iterable[Table | str]:
        columns = ["encoder", "accuracy", *(f"within {one:g}" for one in self.radii)]
        rows = []
        for one in self.encoders:
            cells = [
                f"{share:.3f} ± {error:.3f}"
                for share, error in zip(one.within, one.within_stderr, strict=True)
            ]
            rows.append([one.encoder.spec, f"{one.accuracy:.3f}", *cells])
        yield Table(columns, rows)
        chance = np.mean([1 / one.classes for one in STRUCTURE.families])
        yield (
            "shares of drawn images that stay right under the smallest l2 change found, ± one standard error; guessing is "
            f"right for {chance:.2g} of them"
        )


@described(Robustness.signature)
def measure_robustness(
    encoders: EncoderLike | Sequence[EncoderLike],
    *,
    config: Any = None,
    progress: Progress | None = None,
    **arguments: Any,
) -> RobustnessReport:
    """Accuracy on drawn images under l2 attacks on the pixels, for each encoder, without data.

    For each family of the structure score, 20 images of each of 20 classes fit a `LinearHead`, and the next 3 are
    attacked by `smallest_change`; preset "standard" does so with four sets of images. The share within a radius is the
    mean over the families.

    Args:
        encoders: as for `score`, one or several; torch must be able to differentiate them.
        config: arguments of a score, of which those that `Robustness` lists are read.
        progress: called with (images done, images in all, phase), for each encoder from 0.
        arguments: options of `Robustness`, and fields of `ScoreConfig` in place of those of `config`.

    Raises:
        SynbenchError: inputs that are no images of 1 or 3 channels, an encoder that cannot be differentiated, and as
            `score`.

    Source: docs/validity.md.
    """
    study = Robustness.of(config, arguments)
    if isinstance(encoders, str) or not isinstance(encoders, Sequence):
        encoders = [encoders]
    named = named_encoders(encoders)
    study.check_checkpoint(named)
    found = []
    for encoder in named.values():
        with isolated(study.config.threads):
            found.append(_measured(encoder, study, progress or (lambda done, total, phase: None)))
    specs = all(isinstance(encoder, str) for encoder in named.values())
    return RobustnessReport(
        radii=list(study.radii),
        preset=study.config.preset,
        seed=study.config.seed,
        encoders=found,
        command=study.command(*named) if specs else "",
    )


def _measured(encoder: EncoderLike, study: Robustness, tell: Progress) -> EncoderRobustness:
    loaded = open_encoder(encoder, study.config)
    shape = loaded.info.input_shape
    refusal = STRUCTURE.refusal(shape)
    if refusal:
        raise SynbenchError(refusal)
    unit = math.sqrt(shape[1] * shape[2]) / SIDE
    blocks, batch = STRUCTURE.blocks[study.config.preset], study.config.batch_size
    size = batch if isinstance(batch, int) else Robustness.defaults["batch_size"]
    total = blocks * sum((FITTED + ATTACKED) * one.classes for one in STRUCTURE.families)
    done, parts = 0, []
    with loaded.scoring(), frozen(loaded.module):
        forward = pixels_to_features(loaded)
        warnings = _checked(forward, loaded, size)
        for family in STRUCTURE.families:
            lengths = []
            for block in range(blocks):
                first = STRUCTURE.first(study.config.seed, block)
                lengths.append(_attacked(forward, loaded, family, first, size, unit))
                done += (FITTED + ATTACKED) * family.classes
                tell(done, total, "attack")
            parts.append(_family(family, np.concatenate(lengths, axis=1), study.radii))
    within, errors = (np.array([getattr(one, name) for one in parts]) for name in ("within", "within_stderr"))
    return EncoderRobustness(
        encoder=encoder_record(loaded.info, loaded.info.feature_dim or 0),
        images=total,
        accuracy=float(np.mean([one.accuracy for one in parts])),
        within=within.mean(0).tolist(),
        within_stderr=(np.sqrt(np.square(errors).sum(0)) / len(parts)).tolist(),
        families=parts,
        warnings=warnings,
    )


def _checked(forward: Forward, loaded: Encoder, size: int) -> list[str]:
    """Warnings of features that depend on other images; SynbenchError for random ones and those without gradients."""
    shape, family = loaded.info.input_shape, STRUCTURE.families[0]

    def draw(count: int) -> Tensor:
        return family.draw(shape, STRUCTURE.seed, 0, 0, count)

    with torch.no_grad():
        found = check_purity(
            forward, draw, size, spec=loaded.info.spec, dtype=loaded.dtype, tf32=loaded.device.type == "cuda"
        )
    check_differentiable(forward, draw(1), loaded.info.spec, hint="")
    return list(found)


def _images(family: Family, shape: tuple[int, ...], first: int, count: int) -> tuple[Tensor, Tensor]:
    """`count` images of every class from index `first`, and their labels."""
    found = [family.draw(shape, STRUCTURE.seed, one, first, count) for one in range(family.classes)]
    return torch.cat(found), torch.arange(family.classes).repeat_interleave(count)


def _attacked(
    forward: Forward, loaded: Encoder, family: Family, first: int, size: int, unit: float
) -> NDArray[np.float64]:
    """[2, 3 K] lengths of the smallest changes and their first-order estimates, for radii that mean 64 x 64 pixels."""
    spec, shape = loaded.info.spec, loaded.info.input_shape
    x, labels = _images(family, shape, first, FITTED)
    features = features_of(forward, x, size)
    if not bool(torch.isfinite(features).all()):
        raise SynbenchError(f"features: expected finite ones of the family {family.name}, got others")
    head = LinearHead(features, labels)
    x, labels = _images(family, shape, first + FITTED, ATTACKED)
    found = [
        torch.stack(smallest_change(lambda one: head(forward(one).cpu()), some, y, unit=unit))
        for some, y in zip(torch.split(x, size), torch.split(labels, size), strict=True)
    ]
    length, slope = torch.cat(found, 1).double()
    flat = int((slope > BLIND * unit).sum())
    if flat > LEAST_BLIND * len(slope):
        raise SynbenchError(
            f"encoder {spec}: expected features that move with the pixels, got none for {flat} of {len(slope)} images of "
            f"the family {family.name}; no attack sees through rounding or saturated activations"
        )
    return torch.stack([length, slope]).numpy() / unit


def _family(family: Family, lengths: NDArray[np.float64], radii: Sequence[float]) -> FamilyRobustness:
    """From lengths [2, B 3 K], block after block and class after class; errors from the classes' own shares."""
    length, first = lengths
    right = first > 0
    by_class = length.reshape(-1, family.classes, ATTACKED).transpose(1, 0, 2).reshape(family.classes, -1)
    shares = np.array([(by_class > radius).mean(1) for radius in radii]).reshape(len(radii), family.classes)
    medians = [float(np.median(one[right])) if right.any() else 0.0 for one in (length, first)]
    return FamilyRobustness(
        family=family.name,
        accuracy=float(right.mean()),
        within=shares.mean(1).tolist(),
        # A count of all or none has an error, too: that of one image.
        within_stderr=np.maximum(
            shares.std(1, ddof=1) / math.sqrt(family.classes), 1 / by_class.size
        ).tolist(),
        radius=medians[0],
        first_order_radius=medians[1],
    )
