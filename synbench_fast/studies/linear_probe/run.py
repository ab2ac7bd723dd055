"""robust_linear_probe(): from an encoder and labelled data to the accuracies of its eps-robust linear probes."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from synbench_fast.config import ScoreConfig, described
from synbench_fast.encoders import Encoder
from synbench_fast.engine import environment
from synbench_fast.engine.pipeline import Progress
from synbench_fast.engine.purity import check_drift, check_purity
from synbench_fast.engine.score import encoder_record
from synbench_fast.errors import SynbenchError
from synbench_fast.studies.base import EncoderLike, isolated, open_encoder
from synbench_fast.studies.labelled_data import open_data
from synbench_fast.studies.linear_probe.attack import check_differentiable, survivors
from synbench_fast.studies.linear_probe.corruptions import corruption_accuracy
from synbench_fast.studies.linear_probe.extras import (
    Parts,
    auroc,
    calibration,
    few_shot,
    knn_distance,
    mahalanobis,
)
from synbench_fast.studies.linear_probe.options import LIBRARY, LinearProbe
from synbench_fast.studies.linear_probe.report import (
    Attacked,
    AttackRecord,
    Calibration,
    DataRecord,
    FewShot,
    Foreign,
    LinearProbePoint,
    LinearProbeReport,
    share,
)
from synbench_fast.studies.linear_probe.solver import (
    LinearClassifier,
    Standardise,
    fit,
    margins,
    mean_radius,
    standardiser,
)
from synbench_fast.studies.samples import Samples, split

__all__ = ["features_of", "frozen", "pixels_to_features", "robust_linear_probe"]


@described(LinearProbe.signature)
def robust_linear_probe(
    encoder: EncoderLike,
    data: str | Path | tuple[Any, Any],
    *,
    config: ScoreConfig | None = None,
    progress: Progress | None = None,
    **arguments: Any,
) -> LinearProbeReport:
    """Train eps-robust linear probes on frozen features of real data and attack them through the encoder.

    Args:
        encoder: as for `score`.
        data: a name such as "digits" or "cifar10", "hf:NAME", a folder of images with one subfolder per class or of
            WebDataset shards, a file .npz, .parquet, .csv or .tar, all as docs/linear-probe.md says, or (x, y). Values
            in [0, 1] or uint8; images are resized to the encoder's input, arrays must fit it.
        config: arguments of a score; eps, seed, batch_size, device, threads and those of the encoder are read. A probe
            is trained for each eps, for the radius eps * half_distance, half the smallest distance of two class means
            of the standardised training features. The seed decides the split, the attacks' random starts and, with
            `random_init`, the weights. A Module or callable without `input_shape` takes that of the data.
        progress: called with (steps done, steps in all, phase).
        arguments: options of `LinearProbe`, and fields of `ScoreConfig` in place of those of `config`.

    Returns:
        LinearProbeReport.

    Raises:
        SynbenchError: one line that names the argument, what was expected and what came.

    Source: docs/linear-probe.md.
    """
    study = LinearProbe.of(config, arguments)
    with isolated(study.config.threads):
        return _report(encoder, data, study, progress or (lambda done, total, phase: None))


@dataclass
class _Bench:
    """The encoder, and both parts of the data as it reads them; features and what follows from them come later."""

    study: LinearProbe
    source: Samples
    loaded: Encoder
    train_x: Tensor
    test_x: Tensor
    train_y: Tensor
    test_y: Tensor
    seconds: dict[str, float]
    progress: Progress
    warnings: list[str] = field(default_factory=list)
    done: int = 0

    @property
    def classes(self) -> int:
        return len(self.source.classes)

    @property
    def budgets(self) -> dict[str, tuple[float, ...]]:
        """Budgets of the attacks by norm; empty where nothing is attacked."""
        study = self.study
        return {"l2": study.l2, "linf": study.linf} if study.attack and (study.l2 or study.linf) else {}

    @property
    def total(self) -> int:
        """Images that each probe and each attack is measured on, for all of them."""
        return len(self.test_y) * len(self.study.config.eps) * (1 + sum(map(len, self.budgets.values())))


def _report(encoder: Any, data: Any, study: LinearProbe, progress: Progress) -> LinearProbeReport:
    begun = time.perf_counter()
    bench = _open(encoder, data, study, progress)
    seconds = bench.seconds
    seconds["load"] = time.perf_counter() - begun
    info = bench.loaded.info
    with bench.loaded.scoring(), frozen(bench.loaded.module):
        forward = pixels_to_features(bench.loaded)
        train_f, test_f = _features(bench, forward)
        scaled = standardiser(train_f, study.standardise)
        train_z, test_z = scaled(train_f), scaled(test_f)
        half = mean_radius(train_z, bench.train_y, bench.classes)
        if half < 1e-9 and any(study.config.eps):  # of features with a variance of 1
            bench.warnings.append(
                "two classes have the same mean features: every eps stands for a radius of 0 and the same probe"
            )
        seconds |= {"fit": 0.0, "attack": 0.0}
        probes = [
            _probe(bench, eps, eps * half, (train_z, test_z), lambda one: _logits(forward, scaled, one))
            for eps in study.config.eps
        ]
        progress(bench.total, bench.total, "attack")
        parts = Parts(train_z, bench.train_y, test_z, bench.test_y, bench.classes)
        others = _others(bench, parts, lambda x: scaled(features_of(forward, x, study.batch_size)))
    seconds["total"] = time.perf_counter() - begun
    return LinearProbeReport(
        encoder=encoder_record(info, train_f.shape[1]),
        data=DataRecord(
            name=bench.source.name,
            classes=bench.source.classes,
            train=len(bench.train_y),
            test=len(bench.test_y),
            sha256=_digest(bench.train_x, bench.train_y, bench.test_x, bench.test_y),
        ),
        standardise=study.standardise,
        regularisation=study.regularisation,
        half_distance=half,
        seed=study.config.seed,
        test_fraction=study.test_fraction,
        attack=AttackRecord(
            library=f"{LIBRARY} {metadata.version(LIBRARY)}",
            method="AutoPGD on the logit difference to each of the likeliest wrong classes",
            steps=study.steps,
            targets=min(study.wrong_classes, bench.classes - 1),
        )
        if bench.budgets
        else None,
        probes=probes,
        **others,
        seconds=seconds,
        environment=environment.describe(),
        warnings=bench.warnings,
        command=study.command(encoder, "--data", str(data))
        if isinstance(encoder, str) and not isinstance(data, tuple) and not isinstance(study.foreign, tuple)
        else "",
    )


def _others(bench: _Bench, parts: Parts, features: Callable[[Tensor], Tensor]) -> dict[str, Any]:
    """What the study asks for beside the attacked probes, as fields of the report."""
    study, seed = bench.study, bench.study.config.seed
    made: dict[str, Any] = {"few_shot": [], "calibration": None, "foreign": None, "corruptions": None}
    for shots in study.shots or ():
        found = few_shot(parts, shots, repeats=study.repeats, regularisation=study.regularisation, seed=seed)
        made["few_shot"].append(FewShot(shots=shots, repeats=study.repeats, accuracy=found))
    if study.calibration or study.corruptions:
        probe = fit(
            parts.train, parts.train_y, parts.classes, radius=0.0, regularisation=study.regularisation
        )
    if study.corruptions:
        made["corruptions"] = corruption_accuracy(
            bench.test_x,
            bench.test_y,
            lambda x: probe.logits(features(x)).argmax(1),
            seed=seed,
            batch_size=study.batch_size,
        )
    if study.calibration:
        plain, error = calibration(probe.logits(parts.test).softmax(1), parts.test_y, seed=seed)
        made["calibration"] = Calibration(plain=plain, error=error)
    if study.foreign is not None:
        other = open_data(study.foreign)
        shape = bench.loaded.info.input_shape
        if other.shape is not None and other.shape != shape:
            raise SynbenchError(
                f"foreign: expected inputs {shape} for {bench.loaded.info.spec}, got {other.shape}"
            )
        rows = np.random.default_rng(seed).permutation(len(other.y))[: len(parts.test)]
        z = features(other.load(rows, shape))
        if len(z) < 2 or not bool(torch.isfinite(z).all()):
            raise SynbenchError(
                f"foreign: expected at least 2 samples with finite features, got others in {other.name}"
            )
        by_mean, by_sample = (
            auroc(distance(parts, parts.test), distance(parts, z)) for distance in (mahalanobis, knn_distance)
        )
        made["foreign"] = Foreign(data=other.name, samples=len(z), mahalanobis=by_mean, knn=by_sample)
    return made


def _open(encoder: Any, data: Any, study: LinearProbe, progress: Progress) -> _Bench:
    """The data, split, and the encoder that reads them."""
    config = study.config
    if study.l2 or study.linf:
        study.require_library()
    source = open_data(data)
    parts = split(source, test_fraction=study.test_fraction, most=study.samples, seed=config.seed)
    if config.input_shape is None and not isinstance(encoder, str):
        config = replace(config, input_shape=source.shape)
    loaded = open_encoder(encoder, config)
    shape = loaded.info.input_shape
    if source.shape is not None and source.shape != shape:
        raise SynbenchError(
            f"x: expected inputs {shape} for {loaded.info.spec}, got {source.shape}; "
            "--input-shape (input_shape=) asks the encoder for another"
        )
    train_x, test_x = (source.load(rows, shape) for rows in (parts.train, parts.test))
    train_y, test_y = (torch.from_numpy(source.y[rows]) for rows in (parts.train, parts.test))
    return _Bench(study, source, loaded, train_x, test_x, train_y, test_y, {}, progress)


def _features(bench: _Bench, forward: Callable[[Tensor], Tensor]) -> list[Tensor]:
    """Features of both parts, float32 [N, F] on the CPU; SynbenchError unless all are finite."""
    began = time.perf_counter()
    loaded, train_x, batch = bench.loaded, bench.train_x, bench.study.batch_size
    bench.progress(0, bench.total, "encode")
    # The last one is torch's own default for convolutions.
    kind: dict[str, Any] = {
        "spec": loaded.info.spec,
        "dtype": loaded.dtype,
        "tf32": loaded.device.type == "cuda",
    }

    def draw(count: int) -> Tensor:
        return train_x[torch.arange(count) % len(train_x)]

    with torch.no_grad():
        bench.warnings += check_purity(forward, draw, batch, **kind)
        found = [features_of(forward, x, batch) for x in (train_x, bench.test_x)]
        check_drift(forward, draw, found[0][:batch], sum(map(len, found)), **kind)
    bench.seconds["encode"] = time.perf_counter() - began
    for name, one in zip(("train", "test"), found, strict=True):
        if not bool(torch.isfinite(one).all()):
            raise SynbenchError(
                f"encoder {loaded.info.spec}: expected finite features, got others in the {name} part"
            )
    return found


def _probe(
    bench: _Bench,
    eps: float,
    radius: float,
    features: tuple[Tensor, Tensor],
    logits_of: Callable[[LinearClassifier], Callable[[Tensor], Tensor]],
) -> LinearProbePoint:
    """The probe of one budget, from standardised features of both parts, and what attacks leave of it."""
    study, (train_z, test_z) = bench.study, features
    began = time.perf_counter()
    bench.progress(bench.done, bench.total, "fit")
    made = fit(train_z, bench.train_y, bench.classes, radius=radius, regularisation=study.regularisation)
    if not made.converged:
        bench.warnings.append(f"eps {eps:g}: the optimiser stopped at a gradient of {made.gradient_norm:.1g}")
    bench.seconds["fit"] += time.perf_counter() - began
    began = time.perf_counter()
    correct = margins(made, test_z, bench.test_y, 0.0) > 0
    certified = margins(made, test_z, bench.test_y, radius) > 0
    bench.done += len(bench.test_y)
    attacked = _attack(bench, correct, logits_of(made)) if bench.budgets else []
    bench.seconds["attack"] += time.perf_counter() - began
    return LinearProbePoint(
        eps=eps,
        radius=radius,
        clean=share(int(correct.sum()), len(correct)),
        certified=share(int(certified.sum()), len(certified)),
        attacked=attacked,
        objective=made.objective,
        gradient_norm=made.gradient_norm,
        iterations=made.iterations,
        converged=made.converged,
    )


def _attack(bench: _Bench, correct: Tensor, logits: Callable[[Tensor], Tensor]) -> list[Attacked]:
    """Accuracies under every attack, norm after norm; `correct` are the samples that are right without one."""
    study, images = bench.study, len(bench.test_y)
    check_differentiable(logits, bench.test_x[:1], bench.loaded.info.spec)
    found = []
    for norm, sizes in bench.budgets.items():

        def tell(count: int, before: int = bench.done) -> None:
            bench.progress(before + images * count, bench.total, "attack")

        kept = survivors(
            logits,
            bench.test_x,
            bench.test_y,
            correct,
            norm=norm,
            budgets=sizes,
            classes=bench.classes,
            steps=study.steps,
            targets=study.wrong_classes,
            batch_size=study.batch_size,
            seed=study.config.seed,
            progress=tell,
        )
        bench.done += images * len(sizes)
        found += [
            Attacked(norm=norm, budget=size, accuracy=share(int(row.sum()), len(row)))
            for size, row in zip(sizes, kept, strict=True)
        ]
    return found


@contextmanager
def frozen(module: nn.Module | None) -> Iterator[None]:
    """Inside, gradients reach the input and no weight; the flags are put back."""
    if module is None:
        yield
        return
    flags = [(one, one.requires_grad) for one in module.parameters()]
    for one, _ in flags:
        one.requires_grad_(False)
    try:
        yield
    finally:
        for one, flag in flags:
            one.requires_grad_(flag)


def pixels_to_features(encoder: Encoder) -> Callable[[Tensor], Tensor]:
    """Inputs [n, *input_shape] in [0, 1], before normalisation, to features [n, F]; differentiable."""
    normalised = encoder.normalisation(encoder.dtype, encoder.device)

    def features(x: Tensor) -> Tensor:
        x = x.to(encoder.device, encoder.dtype, copy=True)  # data that the encoder may not change
        return encoder.differentiable(normalised(x))

    return features


def features_of(forward: Callable[[Tensor], Tensor], x: Tensor, batch_size: int) -> Tensor:
    """Features [n, F] on the CPU, without gradients, `batch_size` inputs at a time."""
    with torch.no_grad():
        # Copied, because an encoder may return one buffer every time.
        return torch.cat([forward(one).to("cpu", copy=True) for one in torch.split(x, batch_size)])


def _logits(
    forward: Callable[[Tensor], Tensor], scaled: Standardise, probe: LinearClassifier
) -> Callable[[Tensor], Tensor]:
    """Inputs to logits, on the device the inputs are on; the head in float64, as it was fitted."""

    def logits(x: Tensor) -> Tensor:
        z = scaled(forward(x).to(scaled.mean.device))
        return probe.logits(z).to(x.device, torch.float32)

    return logits


def _digest(*tensors: Tensor) -> str:
    digest = hashlib.sha256()
    for one in tensors:
        digest.update(f"{one.dtype} {list(one.shape)}".encode())
        digest.update(one.contiguous().numpy().tobytes())
    return digest.hexdigest()
