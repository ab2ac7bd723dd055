"""validate(): does the data-free score order encoders as labelled data do, and better than simpler predictors?"""

from __future__ import annotations

import math
import shlex
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from synbench_fast.checks import (
    as_numbers,
    check_eps,
    check_integer,
    check_seed,
    check_threads,
    check_thresholds,
)
from synbench_fast.errors import SynbenchError
from synbench_fast.runtime.global_state import known_state
from synbench_fast.studies.linear_probe.data import optional
from synbench_fast.studies.linear_probe.run import LIBRARY, check_between, check_budgets
from synbench_fast.studies.validity.analysis import analyse
from synbench_fast.studies.validity.correlation import FEWEST
from synbench_fast.studies.validity.datasets import BUNDLED, DataSet, DataSource, open_data_sets
from synbench_fast.studies.validity.measure import look, measure
from synbench_fast.studies.validity.report import ValidityReport
from synbench_fast.studies.validity.zoo import RECIPES, SMALL, ZooEncoder, train_zoo
from synbench_fast.tasks.suites import Suite, load_suite

__all__ = ["validate"]

EncoderLike = str | nn.Module | Callable[[Tensor], Tensor]

_ZOO = "zoo:"


def validate(
    encoders: Sequence[EncoderLike] | Mapping[str, EncoderLike],
    data: DataSource | Sequence[DataSource] | Mapping[str, DataSource] = ("digits",),
    *,
    tasks: str | Suite = "full",
    eps: Sequence[float] | float = (0.0, 0.2),
    thresholds: Sequence[float] | float = (0.6, 0.7, 0.8, 0.9),
    estimator: str = "consistent",
    preset: str = "quick",
    scales: int | Sequence[float] | None = None,
    samples: int | None = None,
    l2: Sequence[float] | float = (0.25,),
    linf: Sequence[float] | float = (8 / 255,),
    attack: bool = True,
    steps: int = 10,
    targets: int = 3,
    regularisation: float = 1.0,
    test_fraction: float = 0.25,
    data_samples: int | None = None,
    neighbours: int = 5,
    zoo_epochs: float = 1.0,
    resamples: int = 2000,
    splits: int = 200,
    seed: int = 0,
    batch_size: int = 128,
    device: str | torch.device = "auto",
    input_shape: Sequence[int] | None = None,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
    pool: str | None = None,
    random_init: bool = False,
    trust_remote_code: bool = False,
    threads: int | None = None,
    progress: Callable[[str], None] | None = None,
) -> ValidityReport:
    """Correlate scores, and simple baselines, with the accuracy of linear probes over several encoders.

    Args:
        encoders: at least 3, as for `score`; a mapping names them. A Module without `input_shape` takes that of
            its attribute of this name, else that of the first data set. "zoo:NAME" is a small encoder that is
            trained here on the train part of digits or photos, see `zoo.RECIPES`; "zoo:small" stands for 12 of
            them, "zoo:all" for all.
        data: one or more of "digits", "photos" (patches of two photographs, 3 x 8 x 8), an image folder, a .npz or
            .parquet file, or (x, y), as for `robust_linear_probe`; a mapping names them.
        tasks: a suite, see `load_suite`.
        eps, thresholds: of the scores; every combination with a task is a predictor.
        estimator, preset, scales, samples: of the scores, as for `score`.
        l2, linf, attack, steps, targets, regularisation, test_fraction: of the probes, as for
            `robust_linear_probe`; `data_samples` is its `samples`.
        neighbours: k of the nearest-neighbour baseline.
        zoo_epochs: factor on the epochs of the zoo's encoders.
        resamples: bootstrap resamples of the encoders, for the intervals.
        splits: random halves of the encoders, for choosing on one and testing on the other.
        seed: of everything that is drawn.
        batch_size, device, input_shape, mean, std, pool, random_init, trust_remote_code, threads: as for `score`.
        progress: called with a line at each step.

    Returns:
        ValidityReport: values, coefficients with intervals, and what held-out encoders leave of the best of them.

    Raises:
        SynbenchError: one line that names the argument, the encoder or the data set.

    Source: docs/validity.md.
    """
    options = {key: value for key, value in locals().items() if key not in ("encoders", "data", "progress")}
    begun = time.perf_counter()
    say = progress or (lambda line: None)
    named = _named(encoders)
    suite = load_suite(tasks)
    score_options = {
        "eps": check_eps(eps),
        "thresholds": check_thresholds(thresholds),
        "estimator": estimator,
        "preset": preset,
        "scales": scales,
        "samples": samples,
    }
    for name, value, low in (
        ("resamples", resamples, 100),
        ("splits", splits, 1),
        ("neighbours", neighbours, 1),
        ("batch_size", batch_size, 1),
        ("steps", steps, 1),
        ("targets", targets, 1),
        ("data_samples", 1 if data_samples is None else data_samples, 1),
    ):
        check_integer(name, value, low, f"at least {low}")
    test_fraction = check_between("test_fraction", test_fraction, 1)
    regularisation = check_between("regularisation", regularisation, math.inf)
    l2, linf = check_budgets("l2", l2), check_budgets("linf", linf)
    threads = check_threads(threads)
    factor = as_numbers(zoo_epochs, "zoo_epochs")[0]
    if not 0 < factor < math.inf:
        raise SynbenchError(f"zoo_epochs: expected a finite number above 0, got {zoo_epochs!r}")
    seed = check_seed(seed)
    if attack:
        optional("art", LIBRARY, "attack")
    splitting: dict[str, Any] = {"test_fraction": test_fraction, "most": data_samples, "seed": seed}
    opened = open_data_sets(data, **splitting)
    probe_options = {
        "l2": l2,
        "linf": linf,
        "attack": attack,
        "steps": steps,
        "targets": targets,
        "regularisation": regularisation,
        "test_fraction": test_fraction,
        "samples": data_samples,
        "batch_size": batch_size,
    }
    encoder_options = {
        "input_shape": input_shape,
        "mean": mean,
        "std": std,
        "pool": pool,
        "random_init": random_init,
        "trust_remote_code": trust_remote_code,
        "device": device,
        "seed": seed,
    }
    measured = []
    with known_state(threads):
        _train(named, opened, splitting, factor, say)
        own = {"device": "cpu", "seed": seed}
        settings = {
            name: own if isinstance(one, ZooEncoder) else encoder_options for name, one in named.items()
        }
        for name, encoder in named.items():
            say(f"{name}: features")
            with _about(name):
                one = look(
                    name,
                    encoder,
                    opened,
                    encoder_options=settings[name],
                    batch_size=batch_size,
                    neighbours=neighbours,
                )
            measured.append(one)
        for one in measured:
            with _about(one.name):
                measure(
                    one,
                    named[one.name],
                    opened,
                    suite,
                    encoder_options=settings[one.name],
                    score_options=score_options,
                    probe_options=probe_options,
                    progress=say,
                )
    return analyse(
        measured,
        opened,
        suite.name,
        resamples=resamples,
        splits=splits,
        seed=seed,
        begun=begun,
        command=_command(encoders, data, options),
    )


@contextmanager
def _about(name: str) -> Iterator[None]:
    """A mistake inside names the encoder."""
    try:
        yield
    except SynbenchError as error:
        raise SynbenchError(str(error) if name in str(error) else f"{name}: {error}") from None


def _named(encoders: Sequence[EncoderLike] | Mapping[str, EncoderLike]) -> dict[str, EncoderLike]:
    if isinstance(encoders, Mapping):
        named = dict(encoders)
    else:
        if isinstance(encoders, str) or not isinstance(encoders, Sequence):
            raise SynbenchError(f"encoders: expected several, got {type(encoders).__name__}")
        named = {}
        for number, one in enumerate(encoders, 1):
            name = one if isinstance(one, str) else f"{type(one).__name__} {number}"
            if name in named:
                raise SynbenchError(f"encoders: expected different ones, got {name!r} twice")
            if name in ("zoo:all", "zoo:small"):
                named |= {_ZOO + made: _ZOO + made for made in (RECIPES if name == "zoo:all" else SMALL)}
            else:
                named[name] = one
    if len(named) < FEWEST:
        raise SynbenchError(f"encoders: expected at least {FEWEST} to correlate over, got {len(named)}")
    return named


def _train(
    named: dict[str, EncoderLike],
    opened: Sequence[DataSet],
    splitting: dict[str, Any],
    epochs: float,
    progress: Callable[[str], None],
) -> None:
    """Puts the trained encoders in place of their "zoo:" names."""
    wanted = {
        name: one.removeprefix(_ZOO)
        for name, one in named.items()
        if isinstance(one, str) and one.startswith(_ZOO)
    }
    if not wanted:
        return
    data = {one.name: one for one in opened if one.name in BUNDLED and one.bundled}
    for name in BUNDLED:
        if name not in data:
            data[name] = open_data_sets(name, **splitting)[0]
    recipes = tuple(dict.fromkeys(wanted.values()))
    made = train_zoo(
        data,
        recipes,
        seed=splitting["seed"],
        epochs=epochs,
        progress=lambda recipe: progress(f"zoo:{recipe}: train"),
    )
    for name, recipe in wanted.items():
        named[name] = made[recipe]


def _command(encoders: Any, data: Any, options: dict[str, Any]) -> str:
    """The shell line that repeats the run; empty where none can."""
    several = [data] if isinstance(data, str | Path) else data
    texts = isinstance(encoders, Sequence) and all(isinstance(one, str) for one in encoders)
    paths = isinstance(several, Sequence) and all(isinstance(one, str | Path) for one in several)
    if not (texts and paths and isinstance(options["tasks"], str)):
        return ""
    words = ["synbench-fast", "validate", *encoders]
    for one in several:
        words += ["--data", str(one)]
    for name, value in options.items():
        option = f"--{name.replace('_', '-')}"
        if name == "attack":
            words += [] if value else ["--no-attack"]
        elif isinstance(value, bool):
            words += [option] if value else []
        elif value is not None:
            listed = value if isinstance(value, Sequence) and not isinstance(value, str) else [value]
            words += [option, ",".join(str(one) for one in listed) or "none"]
    return shlex.join(words)
