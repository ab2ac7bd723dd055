"""robust_linear_probe(): from an encoder and labelled data to the accuracies of its eps-robust probes."""

from __future__ import annotations

import hashlib
import math
import shlex
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from importlib import metadata
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from synbench_fast.checks import as_numbers, check_eps, check_integer, check_seed, check_threads
from synbench_fast.encoders import Encoder, load_encoder
from synbench_fast.engine import environment
from synbench_fast.engine.devices import find_device
from synbench_fast.engine.purity import check_purity
from synbench_fast.errors import SynbenchError, suggest
from synbench_fast.results.records import EncoderRecord, Preprocessing
from synbench_fast.runtime.global_state import kept_state, known_state, own_registrations
from synbench_fast.studies.linear_probe.attack import check_differentiable, survivors
from synbench_fast.studies.linear_probe.data import open_data, optional, split
from synbench_fast.studies.linear_probe.report import (
    Attacked,
    AttackRecord,
    DataRecord,
    LinearProbeReport,
    ProbePoint,
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

__all__ = [
    "STANDARDISE",
    "check_between",
    "check_budgets",
    "features_of",
    "pixels_to_features",
    "robust_linear_probe",
]

STANDARDISE = ("common", "feature")
LIBRARY = "adversarial-robustness-toolbox"

Advance = Callable[[int, int, str], None]


def robust_linear_probe(
    encoder: str | nn.Module | Callable[[Tensor], Tensor],
    data: str | Path | tuple[Any, Any],
    *,
    eps: Sequence[float] | float = (0.0, 0.2),
    l2: Sequence[float] | float = (0.5,),
    linf: Sequence[float] | float = (8 / 255,),
    attack: bool = True,
    steps: int = 50,
    targets: int = 9,
    regularisation: float = 1.0,
    standardise: str = "common",
    test_fraction: float = 0.25,
    samples: int | None = None,
    seed: int = 0,
    batch_size: int = 128,
    device: str | torch.device = "auto",
    input_shape: Sequence[int] | None = None,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
    pool: str | None = None,
    checkpoint: str | None = None,
    random_init: bool = False,
    trust_remote_code: bool = False,
    threads: int | None = None,
    progress: Advance | None = None,
) -> LinearProbeReport:
    """Train eps-robust linear probes on frozen features of real data and attack them through the encoder.

    Args:
        encoder: as for `score`.
        data: "digits", a folder of images with one subfolder per class, a .npz file with x [N, *input_shape]
            and y [N], a .parquet file with a column image or x and a column label or y, or (x, y). Values in
            [0, 1] or uint8; images are resized to the encoder's input, arrays must fit it.
        eps: budgets in [0, 1); a probe is trained for each, for the radius eps * half_distance, half the
            smallest distance of two class means of the standardised training features.
        l2, linf: budgets of the attacks on inputs in [0, 1], before the encoder's normalisation.
        attack: False trains the probes and attacks nothing.
        steps: of AutoPGD, for each of the `targets` likeliest wrong classes.
        regularisation: C of |W|^2 / (2 C N) beside the mean loss.
        standardise: "common" divides centred features by one number, so that the ball of the attack stays a
            ball; "feature" each by its own deviation.
        test_fraction: of every class, held out by `seed`.
        samples: at most that many are used, drawn by `seed`; default all.
        seed: of the split, the attacks' random starts and, with `random_init`, the weights.
        batch_size: inputs per forward pass.
        device, input_shape, mean, std, pool, checkpoint, random_init, trust_remote_code, threads: as for
            `score`. A Module or callable without `input_shape` takes that of the data.
        progress: called with (steps done, steps in all, phase).

    Returns:
        LinearProbeReport.

    Raises:
        SynbenchError: one line that names the argument, what was expected and what came.

    Source: docs/probe.md.
    """
    options = {key: value for key, value in locals().items() if key not in ("encoder", "data", "progress")}
    threads = check_threads(threads)
    with own_registrations(), known_state(threads):
        return _run(encoder, data, options, progress or (lambda done, total, phase: None))


def _run(encoder: Any, data: Any, options: dict[str, Any], progress: Advance) -> LinearProbeReport:
    begun = time.perf_counter()
    eps = check_eps(options["eps"])
    budgets = {norm: check_budgets(norm, options[norm]) for norm in ("l2", "linf")}
    attack = options["attack"] and any(budgets.values())
    for name in ("steps", "targets", "batch_size"):
        check_integer(name, options[name], 1, "at least 1")
    if options["samples"] is not None:
        check_integer("samples", options["samples"], 1, "at least 1")
    seed = check_seed(options["seed"])
    regularisation = check_between("regularisation", options["regularisation"], math.inf)
    fraction = check_between("test_fraction", options["test_fraction"], 1)
    kind = options["standardise"]
    if kind not in STANDARDISE:
        raise SynbenchError(
            f"standardise: expected one of {list(STANDARDISE)}, got {kind!r}{suggest(str(kind), STANDARDISE)}"
        )
    if attack:
        optional("art", LIBRARY, "attack")

    source = open_data(data)
    parts = split(source, test_fraction=fraction, most=options["samples"], seed=seed)
    shape = options["input_shape"]
    if shape is None and not isinstance(encoder, str):
        shape = source.shape
    device, _ = find_device(options["device"], isinstance(encoder, str))
    loaded = load_encoder(
        encoder,
        input_shape=shape,
        mean=options["mean"],
        std=options["std"],
        pool=options["pool"],
        checkpoint=options["checkpoint"],
        random_init=options["random_init"],
        seed=seed,
        trust_remote_code=options["trust_remote_code"],
        device=device,
        dtype=torch.float32 if isinstance(encoder, str) else None,
    )
    info = loaded.info
    if source.shape is not None and source.shape != info.input_shape:
        raise SynbenchError(
            f"x: expected inputs {info.input_shape} for {info.spec}, got {source.shape}; "
            "--input-shape (input_shape=) asks the encoder for another"
        )
    train_x, test_x = (source.load(rows, info.input_shape) for rows in (parts.train, parts.test))
    train_y, test_y = (torch.from_numpy(source.y[rows]) for rows in (parts.train, parts.test))
    classes = len(source.classes)
    seconds = {"load": time.perf_counter() - begun}

    images = len(parts.test)  # that each probe and each attack is measured on
    total = images * len(eps) * (1 + sum(map(len, budgets.values())) * attack)

    warnings: list[str] = []
    probes: list[ProbePoint] = []
    with loaded.scoring(), _frozen(loaded.module):
        forward = pixels_to_features(loaded)
        progress(0, total, "encode")
        began = time.perf_counter()
        with torch.no_grad():
            warnings += check_purity(
                forward,
                lambda count: train_x[torch.arange(count) % len(train_x)],
                options["batch_size"],
                spec=info.spec,
                dtype=loaded.dtype,
                tf32=loaded.device.type == "cuda",  # torch's own default for convolutions
            )
        train_f, test_f = (features_of(forward, x, options["batch_size"]) for x in (train_x, test_x))
        seconds["encode"] = time.perf_counter() - began
        for name, found in (("train", train_f), ("test", test_f)):
            if not bool(torch.isfinite(found).all()):
                raise SynbenchError(
                    f"encoder {info.spec}: expected finite features, got others in the {name} part"
                )
        scaled = standardiser(train_f, kind)
        train_z, test_z = scaled(train_f), scaled(test_f)
        half = mean_radius(train_z, train_y, classes)
        if half < 1e-9 and any(eps):  # of features with a variance of 1
            warnings.append(
                "two classes have the same mean features: every eps stands for a radius of 0 and the same probe"
            )
        seconds |= {"fit": 0.0, "attack": 0.0}
        done = 0
        for budget in eps:
            began = time.perf_counter()
            radius = budget * half
            progress(done, total, "fit")
            probe = fit(train_z, train_y, classes, radius=radius, regularisation=regularisation)
            if not probe.converged:
                warnings.append(
                    f"eps {budget:g}: the optimiser stopped at a gradient of {probe.gradient_norm:.1g}"
                )
            seconds["fit"] += time.perf_counter() - began
            began = time.perf_counter()
            correct = margins(probe, test_z, test_y, 0.0) > 0
            certified = margins(probe, test_z, test_y, radius) > 0
            done += images
            attacked = []
            if attack:
                logits = _logits(forward, scaled, probe)
                check_differentiable(logits, test_x[:1], info.spec)
                for norm, sizes in budgets.items():
                    kept = survivors(
                        logits,
                        test_x,
                        test_y,
                        correct,
                        norm=norm,
                        budgets=sizes,
                        classes=classes,
                        steps=options["steps"],
                        targets=options["targets"],
                        batch_size=options["batch_size"],
                        seed=seed,
                        progress=lambda count, done=done: progress(done + images * count, total, "attack"),  # type: ignore[misc]
                    )
                    done += images * len(sizes)
                    attacked += [
                        Attacked(norm=norm, budget=size, accuracy=share(int(row.sum()), len(row)))
                        for size, row in zip(sizes, kept, strict=True)
                    ]
            seconds["attack"] += time.perf_counter() - began
            probes.append(
                ProbePoint(
                    eps=budget,
                    radius=radius,
                    clean=share(int(correct.sum()), len(correct)),
                    certified=share(int(certified.sum()), len(certified)),
                    attacked=attacked,
                    objective=probe.objective,
                    gradient_norm=probe.gradient_norm,
                    iterations=probe.iterations,
                    converged=probe.converged,
                )
            )
        progress(total, total, "attack")
    seconds["total"] = time.perf_counter() - begun
    info = loaded.info
    return LinearProbeReport(
        encoder=EncoderRecord(
            spec=info.spec,
            source=info.source,
            name=info.name,
            revision=info.revision,
            weights_sha256=info.weights_sha256,
            parameters=info.parameters,
            feature_dim=train_f.shape[1],
            preprocessing=Preprocessing(
                input_shape=info.input_shape, mean=info.mean, std=info.std, pool=info.pool
            ),
            random_init=info.random_init,
            checkpoint=info.checkpoint,
        ),
        data=DataRecord(
            name=source.name,
            classes=source.classes,
            train=len(train_y),
            test=len(test_y),
            sha256=_digest(train_x, train_y, test_x, test_y),
        ),
        standardise=kind,
        regularisation=regularisation,
        half_distance=half,
        seed=seed,
        test_fraction=fraction,
        attack=AttackRecord(
            library=f"{LIBRARY} {metadata.version(LIBRARY)}",
            method="AutoPGD on the logit difference to each of the likeliest wrong classes",
            steps=options["steps"],
            targets=min(options["targets"], classes - 1),
        )
        if attack
        else None,
        probes=probes,
        seconds=seconds,
        environment=environment.describe(),
        warnings=warnings,
        command=_command(encoder, data, options),
    )


def check_budgets(name: str, values: Sequence[float] | float) -> tuple[float, ...]:
    found = as_numbers(values, name)
    for one in found:
        if not (0 <= one < math.inf):
            raise SynbenchError(f"{name}: expected finite budgets of at least 0, got {one:g}")
    return found


def check_between(name: str, value: Any, high: float) -> float:
    found = as_numbers(value, name)
    if len(found) != 1 or not 0 < found[0] < high:
        span = "a finite number above 0" if high == math.inf else f"a number in (0, {high:g})"
        raise SynbenchError(f"{name}: expected {span}, got {value!r}")
    return found[0]


@contextmanager
def _frozen(module: nn.Module | None) -> Iterator[None]:
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
    info = encoder.info
    channels = (-1, *[1] * (len(info.input_shape) - 1))

    def constant(values: tuple[float, ...] | None) -> Tensor | None:
        if values is None:
            return None
        return torch.tensor(values, dtype=encoder.dtype, device=encoder.device).view(channels)

    mean, std = constant(info.mean), constant(info.std)

    def features(x: Tensor) -> Tensor:
        x = x.to(encoder.device, encoder.dtype, copy=True)  # data that the encoder may not change
        if mean is not None:
            x = x - mean
        if std is not None:
            x = x / std
        with kept_state():
            return encoder._checked(encoder._forward(x), len(x))

    return features


def features_of(forward: Callable[[Tensor], Tensor], x: Tensor, batch_size: int) -> Tensor:
    with torch.no_grad():
        # Copied, because an encoder may return one buffer every time.
        return torch.cat([forward(one).to("cpu", copy=True) for one in torch.split(x, batch_size)])


def _logits(
    forward: Callable[[Tensor], Tensor], scaled: Standardise, probe: LinearClassifier
) -> Callable[[Tensor], Tensor]:
    """Inputs to logits, on the device the inputs are on; the head in float64, as it was fitted."""

    def logits(x: Tensor) -> Tensor:
        z = scaled(forward(x).to(scaled.mean.device))
        return (z @ probe.weight.T + probe.bias).to(x.device, torch.float32)

    return logits


def _digest(*tensors: Tensor) -> str:
    digest = hashlib.sha256()
    for one in tensors:
        digest.update(f"{one.dtype} {list(one.shape)}".encode())
        digest.update(one.contiguous().numpy().tobytes())
    return digest.hexdigest()


def _command(encoder: Any, data: Any, options: dict[str, Any]) -> str:
    if not isinstance(encoder, str) or isinstance(data, tuple):
        return ""
    words = ["synbench-fast", "probe", encoder, "--data", str(data)]
    for name, value in options.items():
        if name == "attack":
            words += [] if value else ["--no-attack"]
        elif isinstance(value, bool):
            words += [f"--{name.replace('_', '-')}"] if value else []
        elif value is not None:
            several = isinstance(value, Sequence) and not isinstance(value, str)
            values = value if several else [value]
            text = ",".join(repr(one) if isinstance(one, float) else str(one) for one in values)
            words += [f"--{name.replace('_', '-')}", text or "none"]
    return shlex.join(words)
