"""One encoder measured: its scores, the baselines on its features, and the accuracies of its linear probes."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Any

import torch

from synbench_fast.config import ScoreConfig
from synbench_fast.engine.suite import score_suite
from synbench_fast.errors import SynbenchError
from synbench_fast.stats.label_free import METRICS
from synbench_fast.studies.base import Say, isolated, open_encoder
from synbench_fast.studies.linear_probe import robust_linear_probe
from synbench_fast.studies.linear_probe.attack import check_differentiable
from synbench_fast.studies.linear_probe.options import Attacks
from synbench_fast.studies.linear_probe.run import features_of, pixels_to_features
from synbench_fast.studies.validity.baselines import TRANSFERABILITY, knn_accuracy, logme
from synbench_fast.studies.validity.datasets import DataSet
from synbench_fast.studies.validity.fisher import COMBINED, combine
from synbench_fast.studies.validity.head import head_of
from synbench_fast.studies.validity.leep import leep
from synbench_fast.studies.validity.options import Validity
from synbench_fast.studies.validity.zoo import ZooEncoder
from synbench_fast.tasks.suites import Suite

__all__ = ["BASELINES", "Key", "Measured", "combine_terms", "look", "measure"]

Key = tuple[str, float | None, float | None]  # name or task, eps, threshold

# What each of the baselines sees of the data.
BASELINES = {
    "parameters": "nothing",
    "features": "nothing",
    "synthetic accuracy": "nothing",
    "synthetic accuracy, all tasks": "nothing",
    "robust area": "nothing",
    **dict.fromkeys(METRICS, "inputs"),
    "knn": "labels",
    "logme": "labels",
    **dict.fromkeys((*TRANSFERABILITY, *COMBINED, "leep"), "labels"),
}


@dataclass
class Measured:
    """`scores` by (task, eps, threshold); `baselines`, `terms` of COMBINED and `targets` by name, a value per data set.

    `structure`: the structure score and those of its families by name, none where `structure_missing` says why.
    """

    name: str
    spec: str = ""
    weights_sha256: str = ""
    parameters: int | None = None
    features: int = 0
    scores: dict[Key, float] = field(default_factory=dict)
    structure: dict[str, float] = field(default_factory=dict)
    structure_missing: str = ""
    baselines: dict[str, list[float]] = field(default_factory=dict)
    terms: dict[str, list[tuple[float, ...]]] = field(default_factory=dict)
    targets: dict[str, list[float]] = field(default_factory=dict)
    digests: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)


def look(name: str, encoder: Any, data: Sequence[DataSet], study: Validity) -> Measured:
    """What takes a few forward passes: parameters, features, and the baselines on them.

    Baselines: number of parameters (NaN if unknown) and features; label-free metrics, LogME, the scores of
    TRANSFERABILITY and the terms of COMBINED of the train features, LEEP of the train inputs (NaN without a
    classification head), k-nearest neighbours from train to test. An encoder that cannot be loaded or
    attacked, or that a data set does not fit, is found here, before anything takes long.
    """
    found = Measured(name)
    with isolated():
        loaded = open_encoder(encoder, config_of(encoder, data, study))
        found.spec, found.weights_sha256 = loaded.info.spec, loaded.info.weights_sha256
        found.parameters = loaded.info.parameters
        parts = [one.parts(loaded.info.input_shape, name) for one in data]
        names = (*METRICS, "knn", "logme", *TRANSFERABILITY, "leep")
        per_data: dict[str, list[float]] = {name: [] for name in names}
        head = head_of(loaded, study.config)
        with loaded.scoring():
            forward = pixels_to_features(loaded)
            if study.attack and (study.l2 or study.linf):
                check_differentiable(forward, parts[0][0][:1], name)
            for one, (train_x, train_y, test_x, test_y) in zip(data, parts, strict=True):
                train, test = (features_of(forward, x, study.batch_size) for x in (train_x, test_x))
                if not bool(torch.isfinite(train).all() and torch.isfinite(test).all()):
                    raise SynbenchError(f"encoder {name}: expected finite features, got others on {one.name}")
                found.features = train.shape[1]
                for metric, function in METRICS.items():
                    per_data[metric].append(function(train))
                per_data["knn"].append(knn_accuracy(train, train_y, test, test_y, k=study.neighbours))
                per_data["logme"].append(logme(train, train_y))
                for score, estimate in TRANSFERABILITY.items():
                    per_data[score].append(estimate(train, train_y))
                for score, (parts_of, _) in COMBINED.items():
                    found.terms.setdefault(score, []).append(parts_of(train, train_y))
                answers = None if head is None else features_of(head, train_x, study.batch_size)
                per_data["leep"].append(math.nan if answers is None else leep(answers, train_y))
    alike = {
        "parameters": math.nan if found.parameters is None else float(found.parameters),
        "features": float(found.features),
    }
    found.baselines = {key: [value] * len(data) for key, value in alike.items()} | per_data
    return found


def combine_terms(measured: Sequence[Measured]) -> None:
    """Adds the baselines of COMBINED, whose terms are scaled over all encoders, data set by data set."""
    for name, (_, weights) in COMBINED.items():
        columns = zip(*(one.terms[name] for one in measured), strict=True)
        values = zip(*(combine(column, weights) for column in columns), strict=True)
        for one, row in zip(measured, values, strict=True):
            one.baselines[name] = list(row)


def measure(
    found: Measured,
    encoder: Any,
    data: Sequence[DataSet],
    suite: Suite,
    study: Validity,
    say: Say,
) -> None:
    """Adds the scores and the accuracies to what `look` found.

    Scores: every task of `suite` at every eps and threshold, and their "mean" and "worst"; the structure score in the
    same pass, where it is asked for and the inputs are images. Baselines: accuracy on
    the synthetic data at the lowest eps, averaged over the scales, of the first task and of all; robust area of the
    first task. Targets: accuracy of the linear probe (eps = 0) on the test part, clean and under every attack.
    """
    name = found.name
    config = config_of(encoder, data, study)
    say(f"{name}: score")
    result = score_suite(encoder, tasks=suite, config=config)
    found.warnings += [f"{name}: {warning}" for warning in result.warnings]
    for task, one_result in zip(result.tasks, result.results, strict=True):
        for score in one_result.scores:
            found.scores[task, score.eps, score.threshold] = score.score
    if len(result.tasks) > 1:
        for combined in result.scores:
            found.scores["mean", combined.eps, combined.threshold] = combined.mean
            found.scores["worst", combined.eps, combined.threshold] = combined.worst
    first = result.results[0]
    if study.config.structure:
        found.structure_missing = first.structure_missing
    if first.structure is not None:
        families = {f"structure {one.family}": one.score for one in first.structure.families}
        found.structure = {"structure": first.structure.score} | families
    lowest = min(first.eps)
    accuracies = [
        _mean([point.accuracy for point in one_result.curve if point.eps == lowest])
        for one_result in result.results
    ]
    alike = {
        "synthetic accuracy": accuracies[0],
        "synthetic accuracy, all tasks": _mean(accuracies),
        "robust area": first.robust_area.value,
    }
    found.baselines |= {key: [value] * len(data) for key, value in alike.items()}

    for one in data:
        say(f"{name}: probe on {one.name}")
        report = robust_linear_probe(
            encoder,
            one.source,
            config=replace(config, eps=(0.0,), batch_size=study.batch_size),
            samples=study.data_samples,
            **{part.name: getattr(study, part.name) for part in fields(Attacks) if part.name != "config"},
        )
        probe = report.probes[0]
        values = {"clean": probe.clean.value}
        values |= {f"{hit.norm} {hit.budget:.3g}": hit.accuracy.value for hit in probe.attacked}
        for key, value in values.items():
            found.targets.setdefault(key, []).append(value)
        found.digests.append(report.data.sha256)
        found.warnings += [f"{name}: {one.name}: {warning}" for warning in report.warnings]


def config_of(encoder: Any, data: Sequence[DataSet], study: Validity) -> ScoreConfig:
    """The arguments of loading and scoring; a Module or callable gets an input shape, the zoo's run on the CPU."""
    config = replace(study.config, batch_size="auto", threads=None)
    if isinstance(encoder, ZooEncoder):
        config = replace(
            config, device="cpu", input_shape=None, mean=None, std=None, pool=None, random_init=False,
            trust_remote_code=False,
        )  # fmt: skip
    if config.input_shape is None and not isinstance(encoder, str):
        config = replace(config, input_shape=getattr(encoder, "input_shape", None) or data[0].samples.shape)
    return config


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)
