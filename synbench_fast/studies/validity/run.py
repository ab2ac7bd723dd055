"""validate(): does the data-free score order encoders as labelled data do, and better than simpler predictors?"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from synbench_fast.config import ScoreConfig, described
from synbench_fast.errors import SynbenchError
from synbench_fast.studies.base import EncoderLike, Say, isolated, named_encoders
from synbench_fast.studies.catalogue import BUNDLED
from synbench_fast.studies.validity.analysis import analyse
from synbench_fast.studies.validity.correlation import FEWEST
from synbench_fast.studies.validity.datasets import DataSet, DataSource, open_data_sets
from synbench_fast.studies.validity.measure import combine_terms, look, measure
from synbench_fast.studies.validity.options import Validity
from synbench_fast.studies.validity.report import ValidityReport
from synbench_fast.studies.validity.zoo import RECIPES, SMALL, train_zoo
from synbench_fast.tasks.suites import load_suite

__all__ = ["validate"]

_ZOO = "zoo:"


@described(Validity.signature)
def validate(
    encoders: Sequence[EncoderLike] | Mapping[str, EncoderLike],
    data: DataSource | Sequence[DataSource] | Mapping[str, DataSource] = ("digits",),
    *,
    config: ScoreConfig | None = None,
    progress: Say | None = None,
    **arguments: Any,
) -> ValidityReport:
    """Correlate scores, and simple baselines, with the accuracy of linear probes over several encoders.

    Args:
        encoders: at least 3, as for `score`; a mapping names them. A Module without `input_shape` takes that of
            its attribute of this name, else that of the first data set. "zoo:NAME" is a small encoder that is
            trained here on the train part of digits or photos, see `zoo.RECIPES`; "zoo:small" stands for 12 of
            them, "zoo:all" for all.
        data: one or more data sets, as for `robust_linear_probe`; a mapping names them, and "vtab" stands for its 19.
        config: arguments of the scores; every combination of eps, threshold and task is a predictor, and with
            structure=True the structure score of encoders of images. The seed decides everything that is drawn, and
            batch_size belongs to the linear probes. Without one structure is True, the preset is quick and the
            thresholds are 0.6, 0.7, 0.8 and 0.9.
        progress: called with a line at each step.
        arguments: options of `Validity`, and fields of `ScoreConfig` in place of those of `config`.

    Returns:
        ValidityReport: values, coefficients with intervals, and what held-out encoders leave of the best of them.

    Raises:
        SynbenchError: one line that names the argument, the encoder or the data set.

    Source: docs/validity.md.
    """
    begun = time.perf_counter()
    study = Validity.of(config, arguments)
    say = progress or (lambda line: None)
    named = _named(encoders)
    suite = load_suite(study.tasks)
    study.require_library()
    opened = _open(data, study)
    with isolated(study.config.threads):
        _train(named, opened, study, say)
        measured = []
        for name, encoder in named.items():
            say(f"{name}: features")
            with _about(name):
                measured.append(look(name, encoder, opened, study))
        combine_terms(measured)
        for one in measured:
            with _about(one.name):
                measure(one, named[one.name], opened, suite, study, say)
    return analyse(
        measured,
        opened,
        suite.name,
        resamples=study.resamples,
        splits=study.splits,
        seed=study.config.seed,
        begun=begun,
        command=_command(encoders, data, study),
    )


def _open(data: Any, study: Validity) -> list[DataSet]:
    return open_data_sets(
        data, test_fraction=study.test_fraction, most=study.data_samples, seed=study.config.seed
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
        for name, one in named_encoders(encoders).items():
            if name in ("zoo:all", "zoo:small"):
                named |= {_ZOO + made: _ZOO + made for made in (RECIPES if name == "zoo:all" else SMALL)}
            else:
                named[name] = one
    if len(named) < FEWEST:
        raise SynbenchError(f"encoders: expected at least {FEWEST} to correlate over, got {len(named)}")
    return named


def _train(named: dict[str, EncoderLike], opened: Sequence[DataSet], study: Validity, say: Say) -> None:
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
            data[name] = _open(name, study)[0]
    made = train_zoo(
        data,
        tuple(dict.fromkeys(wanted.values())),
        seed=study.config.seed,
        epochs=study.zoo_epochs,
        progress=lambda recipe: say(f"zoo:{recipe}: train"),
    )
    for name, recipe in wanted.items():
        named[name] = made[recipe]


def _command(encoders: Any, data: Any, study: Validity) -> str:
    """The shell line that repeats the study; empty where none can."""
    several = [data] if isinstance(data, str | Path) else data
    texts = isinstance(encoders, Sequence) and all(isinstance(one, str) for one in encoders)
    paths = isinstance(several, Sequence) and all(isinstance(one, str | Path) for one in several)
    if not (texts and paths and isinstance(study.tasks, str)):
        return ""
    return study.command(*encoders, *(word for one in several for word in ("--data", str(one))))
