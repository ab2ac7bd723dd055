"""Validation: coefficients and baselines against independent arithmetic, choices where the truth is known, the command."""

from __future__ import annotations

import csv
import dataclasses
import io
import json
import math
import re
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from checks import refused
from scipy import optimize, stats
from torch import Tensor, nn

import synbench_fast as sb
from synbench_fast.cli import main as cli
from synbench_fast.stats.label_free import rankme
from synbench_fast.studies.labelled_data import open_data, photo_patches
from synbench_fast.studies.samples import split
from synbench_fast.studies.validity import ValidityReport, correlate, measure, run
from synbench_fast.studies.validity.analysis import analyse
from synbench_fast.studies.validity.baselines import knn_accuracy, logme
from synbench_fast.studies.validity.correlation import Bootstrap, average_ranks, coefficient
from synbench_fast.studies.validity.datasets import DataSet, open_data_sets
from synbench_fast.studies.validity.measure import BASELINES, Measured
from synbench_fast.studies.validity.selection import choose_and_test, random_halves
from synbench_fast.studies.validity.zoo import RECIPES, SMALL, train_zoo

SCIPY = {"pearson": stats.pearsonr, "spearman": stats.spearmanr, "kendall": stats.kendalltau}


# Coefficients


@pytest.mark.parametrize("name", SCIPY)
@pytest.mark.parametrize("values", [None, 4], ids=["distinct", "ties"])
def test_coefficients_are_those_of_scipy(name: str, values: int | None) -> None:
    random = np.random.default_rng(3)
    x, y = random.standard_normal((2, 20, 15))
    if values is not None:
        x, y = (np.round(np.clip(one, -1.4, 1.4)) for one in (x, y))
    found = coefficient(name, x, y)
    for row, (a, b) in enumerate(zip(x, y, strict=True)):
        assert found[row] == pytest.approx(SCIPY[name](a, b)[0], abs=1e-12)


def test_hand_values() -> None:
    x, y = [1.0, 2.0, 3.0, 4.0], [1.0, 3.0, 2.0, 40.0]
    found = correlate(x, y)
    assert found["spearman"].value == pytest.approx(0.8)  # 1 - 6 * 2 / (4 * 15)
    assert found["kendall"].value == pytest.approx(4 / 6)  # five pairs agree, one does not
    assert average_ranks(np.array([5.0, 1.0, 5.0, 9.0])).tolist() == [2.5, 1.0, 2.5, 4.0]


def test_a_constant_resample_has_no_coefficient() -> None:
    x = np.full((2, 5), 0.1)
    for name in SCIPY:
        assert np.isnan(coefficient(name, x, np.arange(5.0)[None].repeat(2, 0))).all()


def test_interval_is_scipys_bca() -> None:
    random = np.random.default_rng(0)
    x = random.standard_normal(16)
    y = 0.6 * x + 0.8 * random.standard_normal(16)
    theirs = stats.bootstrap(
        (x, y),
        lambda a, b: stats.pearsonr(a, b)[0],
        paired=True,
        vectorized=False,
        n_resamples=4000,
        rng=np.random.default_rng(1),
    ).confidence_interval
    ours = correlate(x.tolist(), y.tolist(), resamples=20_000)["pearson"]
    assert ours.ci95_low == pytest.approx(theirs.low, abs=0.05)
    assert ours.ci95_high == pytest.approx(theirs.high, abs=0.02)
    assert correlate(x.tolist(), y.tolist())["kendall"] == correlate(x.tolist(), y.tolist())["kendall"]


def test_intervals_cover() -> None:
    """Of normal pairs whose true coefficients are known, 16 at a time."""
    rho, count, repeats = 0.5, 16, 150
    truth = {
        "pearson": rho,
        "spearman": 6 / math.pi * math.asin(rho / 2),
        "kendall": 2 / math.pi * math.asin(rho),
    }
    random = np.random.default_rng(5)
    held, widths = dict.fromkeys(truth, 0), []
    for repeat in range(repeats):
        x = random.standard_normal(count)
        y = rho * x + math.sqrt(1 - rho**2) * random.standard_normal(count)
        bootstrap = Bootstrap(count, resamples=400, seed=repeat)
        a, b = bootstrap.prepare(x), bootstrap.prepare(y)
        for name, value in truth.items():
            one = bootstrap.estimate(a, b, name)
            held[name] += one.ci95_low <= value <= one.ci95_high
            if name == "pearson":
                widths.append(one.ci95_high - one.ci95_low)
    assert all(one / repeats >= 0.87 for one in held.values()), held
    # Fisher's interval tanh(atanh(rho) -+ 1.96 / sqrt(n - 3)) is 0.79 wide here.
    assert 0.6 < np.mean(widths) < 1.0


def test_correlate_refuses() -> None:
    with refused("x: expected the values of at least 3 encoders, got 2"):
        correlate([1, 2], [1, 2])
    with refused("score: expected values that differ between encoders, got 0.5 for all 3"):
        correlate([0.5] * 3, [1, 2, 3], names=("score", "clean"))
    with refused("y: expected 3 values as x has, got 4"):
        correlate([1, 2, 3], [1, 2, 3, 4])
    with refused("y: expected finite values, got nan"):
        correlate([1, 2, 3], [1, math.nan, 3])
    with refused("coefficient: expected one of", "did you mean spearman?"):
        coefficient("speerman", np.ones((1, 3)), np.ones((1, 3)))


# Baselines


def test_rankme_of_known_spectra() -> None:
    random = np.random.default_rng(0)
    q = np.linalg.qr(random.standard_normal((50, 6)))[0]
    v = np.linalg.qr(random.standard_normal((9, 9)))[0][:6]
    assert rankme(torch.from_numpy(q @ v)) == pytest.approx(6)  # six equal singular values
    assert rankme(torch.from_numpy(q[:, :1] @ v[:1])) == pytest.approx(1)
    weights = np.array([0.5, 0.25, 0.25, 0, 0, 0])  # entropy 1.5 ln 2
    assert rankme(torch.from_numpy(7 * q * weights @ v)) == pytest.approx(2**1.5)


def test_rankme_is_that_of_singular_values_as_published() -> None:
    """Not of their squares, not of centred features; the publication's eps = 1e-7 changes the fourth digit."""
    random = np.random.default_rng(0)
    features = random.standard_normal((300, 8)) * 0.7 ** np.arange(8) @ random.standard_normal((8, 200)) + 1.0
    sigma = np.linalg.svd(features, compute_uv=False)
    centred = np.linalg.svd(features - features.mean(0), compute_uv=False)

    def entropy(p: np.ndarray) -> float:
        return float(np.exp(-(p[p > 0] * np.log(p[p > 0])).sum()))

    found = rankme(torch.from_numpy(features))
    assert found == pytest.approx(entropy(sigma / sigma.sum()), rel=1e-9)
    published = entropy(sigma / sigma.sum() + 1e-7)
    assert found < published == pytest.approx(found, rel=5e-4)
    assert entropy(sigma**2 / (sigma**2).sum()) < 0.9 * found
    assert abs(entropy(centred / centred.sum()) - found) > 0.01 * found


def test_knn_counts_votes() -> None:
    random = np.random.default_rng(1)
    train, test = random.standard_normal((60, 3)), random.standard_normal((40, 3))
    y, truth = random.integers(3, size=60), random.integers(3, size=40)
    for k in (1, 4, 7):
        right = 0
        for point, label in zip(test, truth, strict=True):
            near = y[np.argsort(((train - point) ** 2).sum(1))[:k]].tolist()
            most = max(near.count(one) for one in near)
            right += next(one for one in near if near.count(one) == most) == label
        tensors = [torch.from_numpy(one) for one in (train, y, test, truth)]
        assert knn_accuracy(*tensors, k=k) == right / 40


def brute_force_logme(f: np.ndarray, y: np.ndarray) -> float:
    """The marginal likelihood t ~ N(0, I/beta + F F'/alpha) of each class, maximised over alpha and beta."""
    total = []
    for one in np.unique(y):
        t = (y == one).astype(float)

        def loss(logs: np.ndarray, t: np.ndarray = t) -> float:
            covariance = np.eye(len(t)) * np.exp(-logs[1]) + f @ f.T * np.exp(-logs[0])
            return -float(stats.multivariate_normal.logpdf(t, cov=covariance))

        starts = [(a, b) for a in (-3.0, 0.0, 4.0) for b in (0.0, 3.0)]
        best = min(
            optimize.minimize(loss, start, method="Nelder-Mead", options={"xatol": 1e-6, "fatol": 1e-9}).fun
            for start in starts
        )
        total.append(-best / len(t))
    return float(np.mean(total))


@pytest.mark.parametrize("shape", [(24, 4), (15, 20)], ids=["tall", "wide"])
def test_logme_is_the_largest_evidence(shape: tuple[int, int]) -> None:
    random = np.random.default_rng(2)
    f = random.standard_normal(shape) * np.linspace(0.3, 3, shape[1]) + 0.5
    y = (f[:, 0] + 0.5 * random.standard_normal(shape[0]) > 0.5).astype(np.int64) + 2 * (f[:, 1] > 1)
    found = logme(torch.from_numpy(f), torch.from_numpy(y))
    assert found == pytest.approx(brute_force_logme(f, y), abs=1e-6)
    assert logme(torch.from_numpy(100 * f), torch.from_numpy(y)) == pytest.approx(found, abs=1e-9)


def test_logme_prefers_features_that_tell_the_classes() -> None:
    random = np.random.default_rng(4)
    y = torch.arange(90) % 3
    noise = torch.from_numpy(random.standard_normal((90, 5)))
    told = noise.clone()
    told[:, :3] += 3 * nn.functional.one_hot(y, 3)
    assert logme(told, y) > logme(noise, y) + 0.1


def test_baselines_refuse() -> None:
    ones, y = torch.ones(6, 2), torch.zeros(6, dtype=torch.int64)
    with refused("features: expected some that are not 0, got zeros only"):
        rankme(torch.zeros(4, 2))
    with refused("features: expected features [N, F], got [4]"):
        rankme(torch.zeros(4))
    with refused("features: expected finite features"):
        rankme(torch.full((4, 2), math.inf))
    with refused("y: expected at least 2 classes, got 1"):
        logme(ones, y)
    with refused("y: expected 6 labels as there are features, got [5]"):
        logme(ones, y[:5])
    with refused("features: expected some that are not 0, got zeros only"):
        logme(0 * ones, torch.arange(6) % 2)
    with refused("k: expected 1 to 6 neighbours, got 7"):
        knn_accuracy(ones, y, ones, y, k=7)


# Choosing on one half, testing on the other


def test_noise_looks_good_only_where_it_was_chosen() -> None:
    """No candidate knows anything of either quantity: the best of 60 looks good, and is worth nothing elsewhere."""
    apparent, encoders, both = [], [], []
    for seed in range(40):
        random = np.random.default_rng(seed)
        candidates = random.standard_normal((60, 18))
        a, b = random.standard_normal((2, 18))
        halves = random_halves(18, splits=10, seed=seed)
        groups = {"all": range(60)}
        same = choose_and_test((candidates, a), (candidates, a), groups, halves)["all"]
        other = choose_and_test((candidates, a), (candidates, b), groups, halves)["all"]
        apparent.append(same.apparent.mean())
        encoders.append(same.held_out.mean())
        both.append(other.held_out.mean())
    assert np.mean(apparent) > 0.6
    for held in (encoders, both):  # independent between seeds
        assert abs(np.mean(held)) < 4 * np.std(held) / math.sqrt(len(held))
        assert abs(np.mean(held)) < 0.15


def test_what_is_true_survives() -> None:
    random = np.random.default_rng(1)
    truth = random.standard_normal(18)
    candidates = random.standard_normal((30, 18))
    candidates[17] = truth + 0.05 * random.standard_normal(18)
    a, b = truth + 0.05 * random.standard_normal((2, 18))
    groups = {"all": range(30), "one": [17], "noise": [0, 1]}
    halves = random_halves(18, splits=50, seed=0)
    found = choose_and_test((candidates, a), (candidates, b), groups, halves)
    assert (found["all"].choice == 17).mean() > 0.9
    assert found["all"].held_out.mean() > 0.8
    assert abs(found["noise"].held_out.mean()) < 0.5
    # A group of one is what it is: each split by itself, against scipy.
    first, second = halves[0]
    assert found["one"].apparent[0] == pytest.approx(stats.spearmanr(candidates[17, first], a[first])[0])
    assert found["one"].held_out[0] == pytest.approx(stats.spearmanr(candidates[17, second], b[second])[0])


def test_halves_share_no_encoder_and_constants_are_not_chosen() -> None:
    halves = random_halves(7, splits=30, seed=0)
    for first, second in halves:
        assert sorted([*first, *second]) == list(range(7)) and len(first) == 3
    assert len({tuple(first) for first, _ in halves}) > 10
    candidates = np.stack([np.full(7, 2.0), -np.arange(7.0)])
    y = np.arange(7.0)
    found = choose_and_test((candidates, y), (candidates, y), {"all": [0, 1], "flat": [0]}, halves)
    assert (found["all"].choice == 1).all() and np.allclose(found["all"].held_out, -1)
    assert (found["flat"].held_out == 0).all()
    with refused("encoders: expected at least 6 to split in halves, got 5"):
        random_halves(5, splits=1, seed=0)


# From measured encoders to a report


def sets(count: int = 2) -> list[DataSet]:
    x, y = np.zeros((20, 2), dtype=np.float32), np.arange(20) % 2
    return open_data_sets({f"set {i}": (x, y) for i in range(count)}, test_fraction=0.25, most=None, seed=0)


def measured(quality: np.ndarray, clean: list[np.ndarray]) -> list[Measured]:
    """Encoders whose score is `quality` and whose clean accuracies are `clean` [data sets][encoders]."""
    found = []
    for i, value in enumerate(quality):
        baselines = {name: [float((i * 7) % 5)] * len(clean) for name in BASELINES}
        baselines["knn"] = [float(row[i]) for row in clean]
        found.append(
            Measured(
                f"e{i}",
                features=4,
                scores={("published", 0.0, 0.6): float(value), ("published", 0.0, 0.9): 0.0},
                baselines=baselines,
                targets={"clean": [float(row[i]) for row in clean], "l2 0.25": [0.0] * len(clean)},
                digests=[""] * len(clean),
            )
        )
    return found


def test_report_of_known_values() -> None:
    """A score that orders the first data set perfectly and the second the wrong way round."""
    quality = np.arange(8.0)
    clean = [quality**3, -quality]
    report = analyse(
        measured(quality, clean), sets(), "published", resamples=200, splits=20, seed=0, begun=0.0
    )
    score = "score published eps=0 a=0.6"
    values = {
        data: {name: report.correlation(score, "clean", data=data, coefficient=name).value for name in SCIPY}
        for data in ("set 0", "set 1")
    }
    assert (values["set 0"]["spearman"], values["set 0"]["kendall"]) == pytest.approx((1, 1))
    assert values["set 0"]["pearson"] == pytest.approx(stats.pearsonr(quality, clean[0])[0])
    assert values["set 1"] == pytest.approx(dict.fromkeys(SCIPY, -1.0))
    # Overall, the ranks cancel: every encoder has the same mean rank, and no predictor is related to it.
    assert math.isnan(report.correlation(score, "clean").value)
    assert report.correlation("knn", "clean", data="set 1").value == pytest.approx(1)
    held = {(one.family, one.chosen_on): one for one in report.held_out}
    for place, sign in (("set 0", 1.0), ("set 1", -1.0)):
        one = held["published", place]
        assert (one.apparent, one.encoders, one.both) == pytest.approx((sign, sign, -sign))
        knn = held["knn", place]
        assert (knn.apparent, knn.encoders, knn.both) == pytest.approx((1.0, 1.0, 1.0))
        assert {place, one.tested_on} == {"set 0", "set 1"} and one.choice == score
    warned = "\n".join(report.warnings)
    assert "left out, the same for all encoders or unknown for some: score published eps=0 a=0.9" in warned
    assert "l2 0.25 accuracy: left out, the same for all encoders on set 0, set 1: 0" in warned
    assert ValidityReport.from_json(report.to_json()).to_json() == report.to_json()


def test_overall_is_the_mean_of_ranks() -> None:
    random = np.random.default_rng(0)
    quality, first, second = random.standard_normal((3, 9))
    report = analyse(
        measured(quality, [first, 100 * second]), sets(), "s", resamples=200, splits=2, seed=0, begun=0.0
    )
    ranks = (stats.rankdata(first) + stats.rankdata(second)) / 2
    found = report.correlation("score published eps=0 a=0.6", "clean")
    assert found.value == pytest.approx(stats.spearmanr(quality, ranks)[0])
    assert found.ci95_low < found.value < found.ci95_high
    with refused("predictor: expected one of the report's", "did you mean rankme?"):
        report.correlation("rankmi", "clean")
    with refused("target, data, coefficient: expected ones of the report", "'cleen'"):
        report.correlation("rankme", "cleen")


def test_differences_are_paired() -> None:
    random = np.random.default_rng(7)
    quality, first, second = random.standard_normal((3, 12))
    report = analyse(
        measured(quality, [first, second]), sets(), "s", resamples=500, splits=2, seed=0, begun=0.0
    )
    score = "score published eps=0 a=0.6"
    for place in ("set 0", "set 1", "overall"):
        for name in SCIPY:
            each = [
                report.correlation(one, "clean", data=place, coefficient=name).value for one in (score, "knn")
            ]
            found = report.difference(score, "knn", "clean", data=place, coefficient=name)
            assert found.value == pytest.approx(each[0] - each[1])
            assert found.ci95_low < found.value < found.ci95_high
    same = report.difference(score, score, "clean")
    assert (same.value, same.ci95_low, same.ci95_high) == (0, 0, 0)
    # Two that are nearly one differ by little, however little is known of either.
    x = {"x": quality, "near": quality + 0.01 * second, "y": first}
    bootstrap = Bootstrap(12, resamples=500)
    ready = {name: bootstrap.prepare(one) for name, one in x.items()}
    whole = bootstrap.estimate(ready["x"], ready["y"], "pearson")
    close = bootstrap.difference(ready["x"], ready["near"], ready["y"], "pearson")
    assert close.ci95_high - close.ci95_low < 0.05 * (whole.ci95_high - whole.ci95_low)
    with refused("predictor: expected one of the report's", "got 'none'"):
        report.difference(score, "none", "clean")


def test_the_table_has_paired_differences() -> None:
    """Of the first score from every baseline, on the target's own place."""
    random = np.random.default_rng(8)
    quality = random.standard_normal(12)
    report = analyse(
        measured(quality, [quality + random.standard_normal(12)]), sets(1), "s", resamples=100, splits=5, seed=0,
        begun=0.0,
    )  # fmt: skip
    printed = io.StringIO()
    report.print_report(printed)
    one = report.difference(report.headline()[0].name, "knn", "clean", data="set 0")
    (line,) = re.findall(r"^score published less.*?^(knn .*?)$", printed.getvalue(), re.M | re.S)
    assert f"{one.value:+.2f} ({one.ci95_low:+.2f} to {one.ci95_high:+.2f})" in line


def structured(quality: np.ndarray, structure: np.ndarray, clean: list[np.ndarray]) -> list[Measured]:
    """As `measured`, with a structure score and one of its families."""
    return [
        dataclasses.replace(one, structure={"structure": float(value), "structure shapes": float(value**2)})
        for one, value in zip(measured(quality, clean), structure, strict=True)
    ]


def test_the_structure_score_is_held_against_all_others() -> None:
    """Its differences are from scores and baselines; nothing is chosen of it, and choices among scores leave it out."""
    random = np.random.default_rng(11)
    quality, structure, *clean = random.standard_normal((4, 12))
    options: Any = {"resamples": 100, "splits": 5, "seed": 0, "begun": 0.0}
    report = analyse(structured(quality, structure, clean), sets(), "s", **options)
    without = analyse(measured(quality, clean), sets(), "s", **options)
    assert [one.name for one in report.predictors[:2]] == ["structure", "structure shapes"]
    ranks = (stats.rankdata(clean[0]) + stats.rankdata(clean[1])) / 2
    own = stats.spearmanr(structure, ranks)[0]
    assert report.correlation("structure", "clean").value == pytest.approx(own)
    printed = io.StringIO()
    report.print_report(printed)
    (table,) = re.findall(r"^structure less, overall.*?\n\n", printed.getvalue(), re.M | re.S)
    for name, label in (
        ("score published eps=0 a=0.6", "score published"),
        ("knn", "knn"),
        ("logme", "logme"),
    ):
        one = report.difference("structure", name, "clean")
        assert one.value == pytest.approx(own - report.correlation(name, "clean").value)
        (line,) = re.findall(rf"^{label} .*$", table, re.M)
        assert f"{one.value:+.2f} ({one.ci95_low:+.2f} to {one.ci95_high:+.2f})" in line
    assert "structure shapes" not in table and "score published less, overall" in printed.getvalue()
    mine = [one for one in report.held_out if one.family.startswith("structure")]
    assert {(one.family, one.candidates, one.choice) for one in mine} == {
        (name, 1, name) for name in ("structure", "structure shapes")
    }
    assert [one for one in report.held_out if one not in mine] == without.held_out
    assert {row["kind"] for row in report.rows()} == {"structure", "score", "baseline"}
    assert ValidityReport.from_json(report.to_json()).to_json() == report.to_json()


def test_subset_is_the_report_of_fewer() -> None:
    random = np.random.default_rng(2)
    quality, first, second = random.standard_normal((3, 10))
    options: Any = {"resamples": 200, "splits": 5, "seed": 0, "begun": 0.0}
    whole = analyse(measured(quality, [first, second]), sets(), "s", **options)
    part = whole.subset([f"e{i}" for i in range(7)])
    alone = analyse(measured(quality[:7], [first[:7], second[:7]]), sets(), "s", **options)
    assert part.correlations == alone.correlations and part.held_out == alone.held_out
    assert part.encoders == alone.encoders and part.predictors == alone.predictors
    with refused("encoders: expected ones of the report (e0, e1", "got 'x3'"):
        whole.subset(["e1", "x3"])
    with refused("encoders: expected at least 3 to correlate over, got 2"):
        whole.subset(["e1", "e2"])
    flat = np.array([1.0, 1, 1, 2, 3, 4])
    with refused("encoders: expected some whose scores and accuracies differ, got the same for all"):
        analyse(measured(flat, [flat, flat]), sets(), "s", **options).subset(["e0", "e1", "e2"])


def test_nothing_that_differs_is_refused() -> None:
    flat, varied = np.ones(6), np.arange(6.0)
    options: Any = {"resamples": 200, "splits": 2, "seed": 0, "begun": 0.0}
    with refused("score: expected one that is known and differs between encoders, got none of 2"):
        analyse(measured(flat, [varied]), sets(1), "s", **options)
    with refused("data: expected an accuracy that differs between encoders, got the same for all"):
        analyse(measured(varied, [flat]), sets(1), "s", **options)
    report = analyse(measured(varied[:4], [varied[:4]]), sets(1), "s", **options)
    assert report.held_out == [] and any("at least 6 encoders" in one for one in report.warnings)
    assert report.correlation("knn", "clean").value == pytest.approx(
        1
    )  # one data set is all there is overall


def test_documents_that_do_not_fit_are_refused() -> None:
    with refused("file.json: expected a JSON object, got an array"):
        ValidityReport.from_json("[]", source="file.json")
    with refused("validity: schema: expected 'synbench-fast/validity', got None"):
        ValidityReport.from_json("{}")
    good = {"schema": "synbench-fast/validity", "schema_version": 1}
    with refused("validity: schema_version: expected 1, got 2"):
        ValidityReport.from_json(json.dumps({**good, "schema_version": 2}))
    with refused("validity: encoders: expected an array, got no such field"):
        ValidityReport.from_json(json.dumps(good))


# Data and zoo


def test_photo_patches_are_the_photographs() -> None:
    from sklearn.datasets import load_sample_images

    x, y = photo_patches()
    assert x.shape == (2080, 3, 8, 8) and x.dtype == np.float32 and np.bincount(y).tolist() == [1040, 1040]
    flower = load_sample_images().images[1] / 255
    row, column = 3, 17  # of 26 x 40 patches of 16 x 16 pixels, halved
    block = flower[16 * row : 16 * row + 16, 16 * column : 16 * column + 16]
    halved = (block[::2, ::2] + block[1::2, ::2] + block[::2, 1::2] + block[1::2, 1::2]) / 4
    np.testing.assert_allclose(x[1040 + 40 * row + column], halved.transpose(2, 0, 1), atol=1e-6)


def test_data_sets_are_split_as_the_probe_splits_them() -> None:
    opened = open_data_sets(["digits", "photos"], test_fraction=0.25, most=300, seed=4)
    expected = split(open_data("digits"), test_fraction=0.25, most=300, seed=4)
    assert opened[0].split.test.tolist() == expected.test.tolist()
    train, train_y, test, _ = opened[1].parts((3, 8, 8), "any")
    assert len(train) == len(train_y) and len(train) + len(test) == 300
    rows = {one.tobytes() for one in train.numpy()}
    assert not any(one.tobytes() in rows for one in test.numpy())


def test_data_are_refused_by_name() -> None:
    x = np.zeros((12, 3, 8, 8), dtype=np.float32)
    options: Any = {"test_fraction": 0.25, "most": None, "seed": 0}
    with refused("flat: expected at least 2 classes, got 1"):
        open_data_sets({"flat": (x, np.zeros(12, dtype=int))}, **options)
    with refused("data: expected digits, cifar10 or another name, an image folder", "did you mean photos?"):
        open_data_sets("fotos", **options)
    with refused("data: expected different data sets, got 'digits' twice"):
        open_data_sets(["digits", "digits"], **options)
    with refused("data: expected at least one data set, got none"):
        open_data_sets([], **options)


def test_zoo_learns_what_it_is_told_and_repeats() -> None:
    assert len(RECIPES) >= 12 and set(SMALL) <= set(RECIPES) and len(SMALL) == 12
    data = {
        one.name: one for one in open_data_sets(["digits", "photos"], test_fraction=0.25, most=400, seed=0)
    }
    names = ("pca-8", "conv-untrained", "mlp", "autoencoder-16", "conv-random-labels")
    made = train_zoo(data, names, seed=1, epochs=0.3)
    again = train_zoo(data, ("mlp",), seed=1, epochs=0.3)["mlp"]
    x, y, test, test_y = data["digits"].parts((3, 8, 8), "")
    for one, recipe in zip(made.values(), (RECIPES[name] for name in names), strict=True):
        assert one(x[:5]).shape == (5, recipe.features) and not one.training
    assert torch.equal(again(x[:5]), made["mlp"](x[:5]))
    # PCA keeps the directions of largest variance, by numpy's own decomposition.
    flat = x.flatten(1).double().numpy()
    largest = np.linalg.eigvalsh(np.cov(flat.T, bias=True))[::-1][:8].sum()
    kept = made["pca-8"](x).double().numpy().var(axis=0).sum() / 4  # inputs are doubled by the normalisation
    assert kept == pytest.approx(largest, rel=1e-4)
    knn = {name: knn_accuracy(made[name](x), y, made[name](test), test_y) for name in names}
    assert knn["mlp"] > knn["conv-random-labels"] + 0.05
    with refused("zoo: expected one of pixels", "did you mean conv-wide?"):
        train_zoo(data, ("conv-wid",))
    with refused("zoo: expected the data set photos for conv-photos, got digits"):
        train_zoo({"digits": data["digits"]}, ("conv-photos",))


# validate() and the command

FAST: dict[str, Any] = {
    "scales": 4, "samples": 256, "steps": 2, "wrong_classes": 1, "linf": (), "data_samples": 200, "zoo_epochs": 0.2,
    "resamples": 200, "splits": 10, "tasks": "published", "eps": (0.0, 0.2), "thresholds": (0.6, 0.7),
}  # fmt: skip


def means(x: Tensor) -> Tensor:
    return x.mean((2, 3))


def test_validate_from_python() -> None:
    lines: list[str] = []
    report = sb.studies.validate(
        {"pool": means, "zoo": "zoo:pca-8", "random": nn.Sequential(nn.Flatten(), nn.Linear(192, 24))},
        ["photos"],
        progress=lines.append,
        **FAST,
    )
    assert [one.name for one in report.encoders] == ["pool", "zoo", "random"]
    assert [one.features for one in report.encoders] == [3, 8, 24]
    assert "zoo:pca-8: train" in lines and "pool: probe on photos" in lines
    assert [one.name for one in report.targets] == ["clean", "l2 0.25"]
    # The same numbers as from the functions that they come from.
    score = sb.score(
        means, input_shape=(3, 8, 8), scales=4, samples=256, eps=(0.0, 0.2), thresholds=(0.6, 0.7)
    )
    predictor = report.predictor("score published eps=0.2 a=0.7")
    assert predictor.values[0][0] == score.score(0.2, 0.7).score
    assert report.predictor("robust area").values[0][0] == score.robust_area.value
    structure = sb.structure_score(means, input_shape=(3, 8, 8), preset="quick")
    expected = {
        "structure": structure.score,
        **{f"structure {one.family}": one.score for one in structure.families},
    }
    found = [one for one in report.predictors if one.kind == "structure"]
    assert [(one.name, one.sees, one.values[0][0]) for one in found] == [
        (name, "nothing", pytest.approx(value, abs=1e-6)) for name, value in expected.items()
    ]
    probe = sb.studies.robust_linear_probe(
        means,
        photo_patches(),
        input_shape=(3, 8, 8),
        eps=0.0,
        l2=0.25,
        linf=(),
        steps=2,
        wrong_classes=1,
        samples=200,
    )
    assert report.targets[0].values[0][0] == probe.probes[0].clean.value
    assert report.targets[1].values[0][0] == probe.probes[0].attacked[0].accuracy.value
    assert report.data[0].sha256 == probe.data.sha256
    assert "parameters" not in {one.name for one in report.predictors}  # those of a callable are unknown
    assert report.command == ""


def test_inputs_that_are_no_images_have_no_structure_score() -> None:
    """The report says so; without being asked for it says nothing."""
    random = np.random.default_rng(0)
    data = (random.random((60, 5, 8, 8), dtype=np.float32), np.arange(60) % 3)
    encoders = {f"first {count}": lambda x, count=count: x.flatten(1)[:, :count] for count in (4, 20, 60)}
    options: Any = {**FAST, "attack": False}
    report = sb.studies.validate(encoders, {"noise": data}, **options)
    assert not any(one.kind == "structure" for one in report.predictors)
    assert (
        "structure: left out, first 4, first 20, first 60 have no structure score: its inputs are not images of 1 or 3 "
        "channels, sides from 8 to 4096 and 2^22 elements at most"
    ) in report.warnings
    silent = sb.studies.validate(encoders, {"noise": data}, **options, structure=False)
    assert silent.predictors == report.predictors
    assert not any(one.startswith("structure") for one in silent.warnings)


def test_validate_refuses() -> None:
    with refused("encoders: expected at least 3 to correlate over, got 2"):
        sb.studies.validate(["zoo:mlp", "zoo:conv"], "digits")
    with refused("encoders: expected several, got str"):
        sb.studies.validate("zoo:all", "digits")
    with refused("encoders: expected different ones, got 'zoo:mlp' twice"):
        sb.studies.validate(["zoo:mlp", "zoo:mlp", "zoo:conv"], "digits")
    with refused("tasks: expected one of", "did you mean full?"):
        sb.studies.validate(["zoo:all"], "digits", tasks="ful")
    with refused("resamples: expected at least 100"):
        sb.studies.validate(["zoo:all"], "digits", resamples=10)
    with refused("test_fraction: expected a number in (0, 1), got 1.5"):
        sb.studies.validate(["zoo:all"], "digits", test_fraction=1.5)
    with refused("l2: expected finite budgets of at least 0, got -1"):
        sb.studies.validate(["zoo:all"], "digits", l2=-1)
    with refused("steps: expected at least 1"):
        sb.studies.validate(["zoo:all"], "digits", steps=0)
    with refused("zoo_epochs: expected a finite number above 0, got 0"):
        sb.studies.validate(["zoo:all"], "digits", zoo_epochs=0)
    with refused("zoo: expected one of", "got 'mpl'", "did you mean mlp?"):
        sb.studies.validate(["zoo:mpl", "zoo:blocks", "zoo:pixels"], "digits", **FAST)
    with refused("photos: expected inputs (3, 9, 9) for builtin:conv, got (3, 8, 8); --input-shape"):
        sb.studies.validate(
            ["builtin:conv", "builtin:identity", "builtin:linear"], "photos", **FAST, input_shape=(3, 9, 9)
        )
    with refused("encoder: expected SOURCE:NAME, got 'resnet'"):
        sb.studies.validate(["resnet", "zoo:blocks", "zoo:pixels"], "photos", **FAST)


def test_command_runs_offline_and_repeats(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = [
        "study", "validate", "zoo:conv-mean", "zoo:pca-8", "zoo:projection-16", "zoo:mlp", "zoo:blocks", "zoo:autoencoder-16",
        "--data", "digits", "--data", "photos", "--scales", "4", "--samples", "200", "--steps", "2", "--wrong-classes", "1",
        "--l2", "0.25", "--linf", "none", "--data-samples", "120", "--zoo-epochs", "0.2", "--resamples", "200",
        "--splits", "10", "--tasks", "published", "--threads", "1", "--quiet",
    ]  # fmt: skip
    assert cli.main([*words, "--out", str(tmp_path)]) == 0
    table = capsys.readouterr().out
    assert "structure less, overall" in table
    assert "spearman, overall" in table and "held out, digits to photos" in table and "any task" in table
    report = ValidityReport.from_json((tmp_path / "validity.json").read_text())
    rows = list(csv.DictReader(io.StringIO((tmp_path / "validity.csv").read_text())))
    assert len(rows) == len(report.correlations) == len(report.predictors) * 2 * 3 * 3
    line = report.command.split()
    assert line[:3] == ["synbench-fast", "study", "validate"]
    assert cli.main([*line[1:], "--format", "json", "--quiet"]) == 0
    again = ValidityReport.from_json(capsys.readouterr().out)
    assert again.predictors == report.predictors and again.correlations == report.correlations
    assert again.held_out == report.held_out and again.command == report.command


def test_demo_is_the_small_zoo(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """What --demo asks for; the run itself is the previous test's, at another size."""
    seen: dict[str, Any] = {}

    def stop(encoders: Any, data: Any, **options: Any) -> None:
        seen.update(options, encoders=encoders, data=data)
        raise sb.SynbenchError("stopped")

    monkeypatch.setattr("synbench_fast.studies.validity.validate", stop)
    assert cli.main(["study", "validate", "--demo", "--steps", "7"]) == 1
    assert seen["encoders"] == ["zoo:small"] and seen["data"] == ["digits", "photos"]
    assert seen["steps"] == 7 and seen["linf"] == () and seen["zoo_epochs"] == 0.5
    assert capsys.readouterr().err == "error: stopped\n"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "error: ENCODER: expected several encoders such as zoo:small, or --demo, got none\n"),
        (["zoo:small"], "error: --data: expected digits, cifar10 or another name"),
        (["zoo:small", "--demo"], "error: --demo: expected neither ENCODER nor --data, got some\n"),
        (
            ["zoo:small", "--data", "digits", "--steps", "0"],
            "error: --steps: expected an integer of at least 1",
        ),
        (["zoo:small", "--data", "digits", "--coefficient", "x"], "error: --coefficient: expected one of"),
        (
            ["--demo", "--zoo-epochs", "0"],
            "error: --zoo-epochs: expected a number between 0 and 1e+09, got '0'",
        ),
    ],
)
def test_command_mistakes(words: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["study", "validate", *words]) == 2
    assert capsys.readouterr().err.startswith(message)


def test_what_cannot_be_attacked_is_refused_before_anything_is_scored(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Also where it is the last encoder; without attacks it is one like others."""

    def rounded(x: Tensor) -> Tensor:
        return torch.from_numpy(x.detach().flatten(1)[:, :5].numpy())

    encoders = {"a": means, "b": lambda x: x.flatten(1)[:, :7], "rounded": rounded}
    with monkeypatch.context() as patch:
        patch.setattr(measure, "score_suite", lambda *given, **more: pytest.fail("scored"))
        with refused(
            "encoder rounded: expected one that torch can differentiate for the attacks", "--no-attack"
        ):
            sb.studies.validate(encoders, ["photos"], **FAST)
    report = sb.studies.validate(encoders, ["photos"], attack=False, **FAST)
    assert [one.name for one in report.targets] == ["clean"]


def test_command_says_which_encoder(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["study", "validate", "zoo:conv", "zoo:mlp", "--data", "digits"]) == 1
    assert capsys.readouterr().err == "error: encoders: expected at least 3 to correlate over, got 2\n"


def test_run_module_is_reachable() -> None:
    assert sb.studies.validate is run.validate


def several(scores: dict[tuple[str, float, float], np.ndarray], clean: list[np.ndarray]) -> list[Measured]:
    """Encoders with these scores, and baselines that differ between them."""
    found = []
    for i, one in enumerate(measured(clean[0], clean)):
        baselines = {name: [float((i * (3 + j)) % 29)] * len(clean) for j, name in enumerate(BASELINES)}
        values = {key: float(row[i]) for key, row in scores.items()}
        found.append(dataclasses.replace(one, scores=values, baselines=baselines))
    return found


def test_families_of_candidates_and_what_their_choice_is_worth() -> None:
    """Two tasks with two thresholds each, their mean, and the baselines; every number from the splits themselves."""
    random = np.random.default_rng(3)
    keys = [(task, 0.0, a) for task in ("published", "low", "mean") for a in (0.6, 0.8)]
    rows = random.standard_normal((len(keys), 12))
    clean = [rows[2] + 0.5 * random.standard_normal(12), random.standard_normal(12)]
    report = analyse(
        several(dict(zip(keys, rows, strict=True)), clean), sets(), "s", resamples=100, splits=9, seed=4, begun=0.0
    )  # fmt: skip
    here = [one for one in report.held_out if (one.chosen_on, one.tested_on) == ("set 0", "set 1")]
    assert [(one.family, one.candidates) for one in here] == [
        ("any task", 4), ("published", 2), ("low", 2), ("mean", 2), *((name, 1) for name in BASELINES),
    ]  # fmt: skip
    halves = random_halves(12, splits=9, seed=4)
    for family, members in (("any task", range(4)), ("low", range(2, 4)), ("mean", range(4, 6))):
        one = next(each for each in here if each.family == family)
        choices, apparent, encoders, both = [], [], [], []
        for first, second in halves:
            before = [stats.spearmanr(rows[m][first], clean[0][first])[0] for m in members]
            best = members[int(np.argmax(before))]
            choices.append(best)
            apparent.append(max(before))
            encoders.append(stats.spearmanr(rows[best][second], clean[0][second])[0])
            both.append(stats.spearmanr(rows[best][second], clean[1][second])[0])
        commonest = max(dict.fromkeys(choices), key=choices.count)
        task, eps, a = keys[commonest]
        assert one.choice == f"score {task} eps={eps:g} a={a:g}"
        assert one.choice_share == pytest.approx(choices.count(commonest) / 9)
        found = (one.apparent, one.encoders, one.both, one.both_sd, one.both_low, one.both_high)
        expected = (
            np.mean(apparent), np.mean(encoders), np.mean(both), np.std(both),
            np.quantile(both, 0.05), np.quantile(both, 0.95),
        )  # fmt: skip
        assert found == pytest.approx(expected)


def test_an_accuracy_that_is_the_same_on_one_data_set_is_left_out_for_that() -> None:
    varied = np.arange(8.0)
    found = measured(varied, [varied, varied])
    found = [
        dataclasses.replace(one, targets={**one.targets, "l2 0.25": [0.25, float(i)]})
        for i, one in enumerate(found)
    ]
    report = analyse(found, sets(), "s", resamples=100, splits=2, seed=0, begun=0.0)
    assert [one.name for one in report.targets] == ["clean"]
    assert "l2 0.25 accuracy: left out, the same for all encoders on set 0: 0.25" in report.warnings


def test_a_report_keeps_what_it_was_made_of() -> None:
    varied = np.arange(8.0)
    begun = time.perf_counter()
    report = analyse(
        measured(varied, [varied]), sets(1), "full", resamples=123, splits=7, seed=9, begun=begun, command="x"
    )
    assert 0 <= report.seconds <= time.perf_counter() - begun
    assert (report.suite, report.resamples, report.splits, report.seed, report.command) == (
        "full", 123, 7, 9, "x",
    )  # fmt: skip
    (data,) = report.data
    assert (data.name, data.classes, data.train, data.test) == ("set 0", 2, 16, 4)
    assert [(one.name, one.features) for one in report.encoders] == [(f"e{i}", 4) for i in range(8)]
    score = report.predictors[0]
    assert (score.name, score.kind, score.sees, score.task, score.eps, score.threshold) == (
        "score published eps=0 a=0.6", "score", "nothing", "published", 0.0, 0.6,
    )  # fmt: skip
    assert score.values == [list(varied)]
    knn = report.predictor("knn")
    assert (knn.kind, knn.sees, knn.task, knn.eps, knn.threshold) == ("baseline", "labels", "", None, None)
    assert {one.data for one in report.correlations} == {"set 0", "overall"}


def test_what_is_the_same_in_a_subset_is_left_out_of_it() -> None:
    varied = np.arange(9.0)
    keys = [("published", 0.0, 0.6), ("low", 0.0, 0.6)]
    rows = np.stack([varied**2, np.where(varied < 7, 1.0, varied)])
    found = several(dict(zip(keys, rows, strict=True)), [varied, -varied])
    found = [
        dataclasses.replace(one, targets={**one.targets, "l2 0.25": [float(i), float(i > 6)]})
        for i, one in enumerate(found)
    ]
    whole = analyse(found, sets(), "s", resamples=100, splits=2, seed=0, begun=0.0)
    assert len(whole.targets) == 2 and len(whole.predictors) == 2 + len(BASELINES)
    part = whole.subset([f"e{i}" for i in range(7)])
    assert [one.name for one in part.targets] == ["clean"]
    assert "score low eps=0 a=0.6" not in {one.name for one in part.predictors}
    assert len(part.predictors) == 1 + len(BASELINES) and part.command == ""
    assert part.held_out and not whole.subset([f"e{i}" for i in range(5)]).held_out
