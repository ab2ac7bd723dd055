"""Comparisons of stored results: against known differences, and every reason not to compare."""

from __future__ import annotations

import csv
import io
import json
import math
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from checks import Array, refused
from result_example import example
from scipy.stats import norm
from scipy.stats import t as student
from typer.testing import CliRunner

import synbench_fast as sb
from synbench_fast.cli import main as cli
from synbench_fast.engine.curve import GAUSSIAN_REFUTED
from synbench_fast.results.records import Influence, Result, Score
from synbench_fast.stats.compare import RESOLUTION, Difference, correlation, freedom, narrowed, widened
from synbench_fast.stats.consistent import GROUP

OPTIONS: dict[str, Any] = {
    "input_shape": (24,),
    "scales": 6,
    "samples": 256,
    "eps": (0.0, 0.2),
    "thresholds": (0.6, 0.8),
    "threads": 1,
}
GENERATOR = torch.Generator().manual_seed(0)
MIX = torch.randn(24, 16, generator=GENERATOR) / 5


def relu(x: torch.Tensor) -> torch.Tensor:
    return torch.relu(x @ MIX)


def near(x: torch.Tensor) -> torch.Tensor:
    return torch.relu(x @ MIX) + 0.02 * torch.tanh(x[:, :16])


def half(x: torch.Tensor) -> torch.Tensor:
    return x[:, :4]


def scored(encoder: Any, **changes: Any) -> Result:
    return sb.score(encoder, **{**OPTIONS, **changes})


@pytest.fixture(scope="module")
def results() -> list[Result]:
    return [scored(relu), scored(near), scored(half)]


def test_an_encoder_ties_with_itself(results: list[Result]) -> None:
    (one, *_) = sb.compare(results[0], results[0]).differences
    assert (one.difference, one.p_value, one.tie, one.verdict) == (0.0, 1.0, True, "tie")
    assert one.correlation == pytest.approx(1.0)
    score = results[0].score(0.0, 0.6)
    assert one.stderr == pytest.approx(RESOLUTION * math.sqrt(2) * score.stderr)


MATRIX = torch.randn(16, 6, generator=torch.Generator().manual_seed(1))


def features(x: torch.Tensor) -> torch.Tensor:
    return torch.relu(x @ MATRIX) + 0.3 * x[:, :6]


@pytest.mark.parametrize("estimator", ["consistent", "gaussian", "counted"])
@pytest.mark.parametrize("seed", range(6))
def test_representations_that_say_the_same_are_ties(estimator: str, seed: int) -> None:
    """Times a number, plus a number, columns in another order or twice, rotated: only rounding tells them apart."""
    turned = torch.linalg.qr(torch.randn(6, 6, generator=torch.Generator().manual_seed(2)))[0]
    same = [
        features,
        lambda x: 2 * features(x),
        lambda x: 1e-3 * features(x),
        lambda x: features(x) + 1,
        lambda x: features(x).flip(1),
        lambda x: torch.cat([features(x), features(x)], 1),
        lambda x: features(x) @ turned,
    ]
    options: dict[str, Any] = {
        "input_shape": (16,), "scales": 5, "samples": 192, "eps": (0.0, 0.3), "thresholds": (0.6, 0.9)
    }  # fmt: skip
    made = [sb.score(one, **options, estimator=estimator, seed=seed) for one in same]
    for other in made[1:]:
        for one in sb.compare(made[0], other, thresholds=(0.6, 0.9)).differences:
            assert one.tie or one.withheld, (one, seed)
    together = sb.compare(*made, thresholds=(0.6, 0.9))
    assert all(one.tie or one.withheld for one in together.differences)
    # From 192 samples some intervals are withheld, in all representations alike.
    places = [(eps, threshold) for eps in (0.0, 0.3) for threshold in (0.6, 0.9)]
    lacking = [
        {one.withheld != "" for one in together.differences if (one.eps, one.threshold) == place}
        for place in places
    ]
    assert all(len(one) == 1 for one in lacking)
    assert estimator == "gaussian" or {False} in lacking
    assert all((one.best_rank, one.worst_rank) == (1, len(same)) for one in together.ranking)


def test_a_notebook_shows_what_print_writes() -> None:
    """IPython asks an object for `_repr_pretty_`; without it the table was a dump of all fields."""
    one, other = scored(lambda x: x[:, :8]), scored(lambda x: x[:, 4:12])
    for shown in (one, sb.compare(one, other)):
        written: list[str] = []
        shown._repr_pretty_(SimpleNamespace(text=written.append), False)
        assert written == [str(shown)] and "\n" in written[0]


def gain(x: torch.Tensor) -> torch.Tensor:
    """A factor of each sample's own: margins are scale mixtures of Gaussian ones."""
    return (x[:, :8] - 0.5) * torch.exp(0.8 * (x[:, 8:9] - x[:, 9:10]) / math.sqrt(2))


def test_scores_that_are_not_those_of_a_classifier_are_named() -> None:
    options: dict[str, Any] = {"samples": 1024, "estimator": "gaussian"}
    odd, plain = scored(gain, **options), scored(lambda x: x[:, :8], **options)
    (note,) = sb.compare(odd, plain).notes
    assert note.startswith(f"the margins are not Gaussian of {odd.encoder.spec}: the score above is not")
    assert note in str(sb.compare(odd, plain))
    assert sb.compare(odd, plain).to_dict()["notes"] == [note]
    assert sb.compare(plain, plain).notes == []
    counted = [scored(one, samples=1024) for one in (gain, lambda x: x[:, :8])]
    assert sb.compare(*counted).notes == []


def test_the_order_of_two_encoders_is_that_of_their_classifiers() -> None:
    """48 features with a gain, and 36 of them without: the gain changes no sign, so that the first knows more."""
    generator = torch.Generator().manual_seed(1)
    matrix = torch.randn(64, 48, generator=generator) / 8
    v = torch.randn(64, generator=generator)
    v = (v - v.mean()) / (v - v.mean()).norm()

    def more(x: torch.Tensor) -> torch.Tensor:
        return ((x - 0.5) @ matrix) * torch.exp(0.3 * ((x - 0.5) @ v))[:, None]

    def less(x: torch.Tensor) -> torch.Tensor:
        return (x - 0.5) @ matrix[:, :36]

    options: dict[str, Any] = {
        "input_shape": (64,),
        "eps": 0.0,
        "thresholds": 0.6,
        "scales": 8,
        "samples": 4096,
    }

    def gap(estimator: str) -> Difference:
        made = [sb.score(one, **options, estimator=estimator) for one in (more, less)]
        return sb.compare(*made).differences[0]

    right = gap("consistent")
    assert right.difference > 0 and not right.withheld
    wrong = gap("gaussian")
    assert wrong.difference < -0.005  # what Gaussian margins make of it
    assert not wrong.tie and math.isnan(wrong.stderr) and math.isnan(wrong.p_value)
    assert wrong.verdict.startswith("not comparable: ") and GAUSSIAN_REFUTED in wrong.verdict


def test_encoders_that_differ_little_share_their_errors(results: list[Result]) -> None:
    paired, unpaired = (sb.compare(*results[:2], unpaired=flag).differences[0] for flag in (False, True))
    assert paired.correlation > 0.95 and unpaired.correlation == 0
    assert paired.stderr < 0.35 * unpaired.stderr
    first, second = (one.score(0.0, 0.6) for one in results[:2])
    assert paired.difference == first.score - second.score
    assert unpaired.stderr == pytest.approx(math.hypot(first.stderr, second.stderr))


def test_a_clear_difference_is_found(results: list[Result]) -> None:
    (one, *_) = sb.compare(results[0], results[2]).differences
    assert not one.tie and one.p_value < 1e-3
    assert one.verdict == f"{one.first if one.difference > 0 else one.second} is better"
    # Of Student's t; of the 16 groups at each of 6 scales, which add up to 0, 15 are free.
    degrees = float(freedom([results[0], results[2]], one.eps, one.threshold)[0, 1])
    assert 20 < degrees <= 90
    assert one.p_value == pytest.approx(2 * student.sf(abs(one.difference) / one.stderr, degrees), rel=0.05)
    assert one.ci95_high - one.difference == pytest.approx(
        student.ppf(0.975, degrees) * one.stderr, rel=0.005
    )


def test_errors_of_differences_are_the_spread_over_seeds() -> None:
    """30 seeds know a spread to 13 %; the errors are stated rather too large than too small at few samples.

    The differences of runs whose interval is withheld count as well.
    """
    gaps, errors = [], []
    for seed in range(30):
        a, b = scored(relu, seed=seed), scored(lambda x: torch.relu(x @ MIX[:, :8]), seed=seed)
        found = sb.compare(a, b, eps=(0.0, 0.2), thresholds=(0.6, 0.8)).differences
        gaps.append([one.difference for one in found])
        errors.append([one.stderr for one in found])
    spread = np.std(gaps, axis=0, ddof=1)
    assert np.all(np.isnan(errors).mean(0) < 0.2)
    ratio = np.sqrt(np.nanmean(np.square(errors), axis=0)) / spread
    assert np.all((ratio > 0.75) & (ratio < 1.6)), ratio


def test_ranking_of_three(results: list[Result]) -> None:
    comparison = sb.compare(*results, eps=0.0)
    assert len(comparison.ranking) == 3
    ranks = {one.encoder: (one.best_rank, one.worst_rank) for one in comparison.ranking}
    scores = [one.score for one in comparison.ranking]
    assert scores == sorted(scores, reverse=True)
    last = comparison.ranking[-1]
    assert ranks[last.encoder] == (3, 3)
    assert all(low <= high for low, high in ranks.values())
    # Two that tie share the ranks 1 and 2; else each has its own.
    pair = next(one for one in comparison.differences if one.correlation > 0.95)
    first = (1, 2) if pair.tie else (1, 1) if pair.difference > 0 else (2, 2)
    second = (1, 2) if pair.tie else (2, 2) if pair.difference > 0 else (1, 1)
    assert (ranks[pair.first], ranks[pair.second]) == (first, second)


def test_simultaneous_intervals_are_wider_than_single_ones(results: list[Result]) -> None:
    alone = sb.compare(results[0], results[2], eps=0.0).differences[0]
    among = next(
        one
        for one in sb.compare(*results, eps=0.0).differences
        # A BLAS may add the products of three results in another order than those of two.
        if (one.difference, one.stderr) == pytest.approx((alone.difference, alone.stderr), rel=1e-9)
    )
    assert among.ci95_high - among.ci95_low > 1.05 * (alone.ci95_high - alone.ci95_low)
    # Never wider than Bonferroni's for three pairs, of Student's t with the difference's degrees of freedom.
    degrees = float(freedom([results[0], results[2]], among.eps, among.threshold)[0, 1])
    bonferroni = student.ppf(1 - 0.025 / 3, degrees)
    assert among.ci95_high - among.difference < 1.02 * bonferroni * among.stderr


def test_the_largest_difference_has_its_simulated_level() -> None:
    """Of independent scores with equal errors: Tukey's studentised range, 3.314 / sqrt(2) for three."""
    from itertools import combinations

    from synbench_fast.stats.compare import _largest

    pairs = list(combinations(range(3), 2))
    largest = _largest(np.eye(3), pairs, np.full(3, math.sqrt(2)))
    assert np.quantile(largest, 0.95) == pytest.approx(3.314493 / math.sqrt(2), rel=0.015)


def test_more_samples_pair_with_their_first(results: list[Result]) -> None:
    more = scored(relu, samples=512)
    (one, *_) = sb.compare(results[0], more).differences
    assert 0.4 < one.correlation < 0.95


@pytest.mark.parametrize(
    ("changes", "parts"),
    [
        ({"seed": 1}, ["expected seed 0 as in", "got 1", "unpaired compares them"]),
        ({"scales": 5}, ["expected task.scales [0.8167", "got [0.98"]),
        ({"prior": 0.4}, ["expected task.prior 0.5", "got 0.4"]),
        ({"center": 0.1}, ["expected task.center 0.5", "got 0.1"]),
        ({"integral": "grid"}, ["expected integral 'exact'", "got 'grid'"]),
        ({"estimator": "paper"}, ["expected estimator 'consistent'", "got 'paper'"]),
        ({"eps": 0.3}, ["eps: expected a value that every result has, got none in common"]),
        ({"thresholds": 0.7}, ["thresholds: expected a value that every result has"]),
    ],
)
def test_what_cannot_be_compared_is_refused(
    results: list[Result], changes: dict[str, Any], parts: list[str]
) -> None:
    with refused(*parts):
        sb.compare(results[0], scored(relu, **changes))


def test_other_refusals(results: list[Result]) -> None:
    with refused("results: expected what score() returns or Result.load reads from a file, got str"):
        sb.compare("a.json", "b.json")  # type: ignore[arg-type]
    with refused("got list; pass the results one by one"):
        sb.compare(results)  # type: ignore[arg-type]
    with refused("results: expected at least two to compare, got 1"):
        sb.compare(results[0])
    with refused("eps: expected values that", "has (0, 0.2), got 0.5"):
        sb.compare(*results, eps=0.5)
    wide = scored(lambda x: x[:, :16], input_shape=(30,))
    with refused("expected task.shape (24,) as in", "got (30,); unpaired compares them"):
        sb.compare(results[0], wide)
    assert sb.compare(results[0], wide, unpaired=True).paired is False
    paper = [scored(one, estimator="paper") for one in (relu, half)]
    with refused("expected the influences of its samples, got none (estimator 'paper'"):
        sb.compare(*paper)
    assert not sb.compare(*paper, unpaired=True).differences[0].tie
    one = results[0]
    assert one.influence is not None
    for damaged in (
        replace(one, curve=one.curve[1:]),
        *(
            replace(one, influence=replace(one.influence, **{name: table}))
            for name in ("accuracy", "reach", "accuracy_slope", "reach_slope")
            for table in (np.zeros((0, 0, 0)), getattr(one.influence, name)[:, :1])
        ),
    ):
        with refused(
            "(2): expected points of its curve, and influences, for every scale and eps, got others"
        ):
            sb.compare(one, damaged)
        assert len(sb.compare(one, damaged, unpaired=True).differences) == 2
    hopeless = [scored(relu, thresholds=(0.99999999,)) for _ in range(2)]
    with refused("expected a score with a standard error at eps 0, threshold 1", "got nan"):
        sb.compare(*hopeless)


@pytest.fixture(scope="module")
def files(results: list[Result], tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    folder = tmp_path_factory.mktemp("results")
    return [str(one.save(folder / f"{i}.json")) for i, one in enumerate(results)]


def run_cli(*words: str) -> tuple[int, str, str]:
    done = CliRunner().invoke(cli.app, list(words))
    return done.exit_code, done.stdout, done.stderr or str(done.exception or "")


def test_command(files: list[str], results: list[Result]) -> None:
    code, out, error = run_cli("compare", *files[:2])
    assert (code, error) == (0, "")
    assert "95 % interval" in out and "rank" not in out
    code, out, _ = run_cli("compare", *files, "--eps", "0", "--format", "json")
    document = json.loads(out)
    assert document == sb.compare(*results, eps=0.0).to_dict()
    code, out, _ = run_cli("compare", *files, "--format", "csv")
    rows = list(csv.DictReader(io.StringIO(out)))
    assert len(rows) == 2 * 3 and float(rows[0]["p_value"]) <= 1
    code, out, _ = run_cli("compare", *files)
    assert out.index("rank") < out.index("verdict")


def test_a_comparison_prints_what_the_command_does(files: list[str]) -> None:
    compared = sb.compare(*(Result.load(file) for file in files))
    code, out, error = run_cli("compare", *files)
    assert (code, out, error) == (0, f"{compared}\n", "") and "\nverdict: " in out


def test_command_mistakes(files: list[str], tmp_path: Path) -> None:
    code, out, error = run_cli("compare", files[0])
    assert (code, out) == (2, "") and "expected at least two results to compare, got 1" in error
    code, out, error = run_cli("compare", str(tmp_path))
    assert code != 0 and out == "" and error.count("\n") == 1 and f"in {str(tmp_path)!r}" in error
    code, _, error = run_cli("compare", files[0], str(tmp_path / "none.json"))
    assert code != 0 and error.count("\n") == 1 and "none.json" in error


def test_the_largest_difference_is_that_of_correlated_scores_in_any_unit() -> None:
    """Equal correlations shrink every difference and its error alike, so the range is that of independent scores."""
    from itertools import combinations

    from synbench_fast.stats.compare import DRAWS, _largest

    pairs = list(combinations(range(3), 2))
    covariance = 0.8 + 0.2 * np.eye(3)
    for unit in (1e-3, 1.0, 50.0):
        error = np.full(3, unit * math.sqrt(0.4))
        largest = _largest(unit**2 * covariance, pairs, error)
        assert largest.shape == (DRAWS,) == (20_000,)
        assert np.quantile(largest, 0.95) == pytest.approx(3.314493 / math.sqrt(2), rel=0.015)
    # A difference without an error is none of them.
    none = _largest(covariance, pairs, np.array([0.0, math.sqrt(0.4), 0.0]))
    assert np.quantile(none, 0.95) == pytest.approx(1.96, rel=0.02)


def with_scores(*scores: float, stderr: float = 0.01, **changes: Any) -> Result:
    """Made-up scores at eps 0 and 0.2, each above 0.6 and 0.7."""
    points = [(e, a) for e in (0.0, 0.2) for a in (0.6, 0.7)]
    listed = [
        Score(eps=e, threshold=a, score=value, stderr=stderr, ci95_low=0.0, ci95_high=1.0)
        for (e, a), value in zip(points, scores, strict=True)
    ]
    return example(scores=listed, **changes)


def test_a_single_difference_has_the_interval_and_p_value_of_the_normal_distribution() -> None:
    first, second = with_scores(0.72, 0.5, 0.4, 0.3), with_scores(0.70, 0.5, 0.5, 0.3, stderr=0.02)
    found = sb.compare(first, second, unpaired=True, thresholds=(0.6, 0.7)).differences
    assert [(one.eps, one.threshold) for one in found] == [(0.0, 0.6), (0.0, 0.7), (0.2, 0.6), (0.2, 0.7)]
    error = math.hypot(0.01, 0.02)
    for one, gap in zip(found, (0.02, 0.0, -0.1, 0.0), strict=True):
        assert one.difference == pytest.approx(gap) and one.stderr == pytest.approx(error)
        assert one.p_value == pytest.approx(2 * norm.sf(abs(gap) / error), rel=1e-9)
        assert one.ci95_low == pytest.approx(gap - norm.ppf(0.975) * error)
        assert one.ci95_high == pytest.approx(gap + norm.ppf(0.975) * error)
        assert one.tie == (abs(gap) < norm.ppf(0.975) * error)
    assert [one.verdict for one in found] == ["tie", "tie", f"{found[0].second} is better", "tie"]


def test_scores_without_errors_differ_or_do_not() -> None:
    first, second = with_scores(0.7, 0.5, 0.4, 0.3, stderr=0.0), with_scores(0.7, 0.5, 0.5, 0.3, stderr=0.0)
    one, other = sb.compare(first, second, unpaired=True).differences
    assert (one.p_value, one.tie, other.p_value, other.tie) == (1.0, True, sys.float_info.min, False)


def test_ranks_count_those_that_are_better() -> None:
    """Five unpaired scores, of which the second and third, and the fourth and fifth, are ties."""
    values = (0.9, 0.7, 0.69, 0.5, 0.495)
    results = [with_scores(value, 0.1, 0.1, 0.1) for value in values]
    found = sb.compare(*reversed(results), eps=0.0, thresholds=0.6, unpaired=True).ranking
    assert [one.score for one in found] == list(values)
    assert [(one.best_rank, one.worst_rank) for one in found] == [(1, 1), (2, 3), (2, 3), (4, 5), (4, 5)]
    assert [one.stderr for one in found] == [0.01] * 5


def test_errors_of_paired_differences_follow_their_correlation(results: list[Result]) -> None:
    named = {one.encoder.spec: one for one in results}
    for one in sb.compare(*results).differences:
        a, b = (named[name].score(one.eps, one.threshold).stderr for name in (one.first, one.second))
        variance = a**2 + b**2 - 2 * one.correlation * (1 - RESOLUTION**2) * a * b
        assert one.stderr == pytest.approx(math.sqrt(variance), rel=1e-9)


def test_results_of_one_name_are_numbered() -> None:
    found = sb.compare(
        with_scores(0.5, 0.5, 0.5, 0.5),
        with_scores(0.6, 0.5, 0.5, 0.5, spec="builtin:linear"),
        with_scores(0.7, 0.5, 0.5, 0.5),
        unpaired=True,
    )
    pairs = [(one.first, one.second) for one in found.differences[:3]]
    assert pairs == [
        ("builtin:conv (1)", "builtin:linear"),
        ("builtin:conv (1)", "builtin:conv (2)"),
        ("builtin:linear", "builtin:conv (2)"),
    ]


@pytest.mark.parametrize("freedom", [4.0, 24.0, 100.0])
def test_quantiles_of_few_groups_are_those_of_students_t(freedom: float) -> None:
    for z in (0.5, 1.96, 3.0):
        tail = student.sf(widened(z, freedom), freedom)
        assert tail == pytest.approx(norm.sf(z), rel=0.03 if freedom > 10 else 0.1)
        assert narrowed(widened(z, freedom), freedom) == pytest.approx(z, rel=1e-12)
    assert widened(1.96, math.inf) == 1.96 == narrowed(1.96, math.inf)


def test_a_withheld_interval_is_not_comparable(results: list[Result]) -> None:
    """No probability and no order of the pairs it is in; the others are compared as before."""
    one = results[0].score(0.0, 0.6)
    unknown = replace(one, stderr=math.nan, ci95_low=math.nan, ci95_high=math.nan)
    odd = replace(
        results[0],
        scores=[unknown if score is one else score for score in results[0].scores],
        warnings=["interval withheld above 0.8 at eps 0.2, 0.6 at eps 0: margins pile up"],
    )
    found = sb.compare(odd, results[1], results[2], eps=0.0, thresholds=0.6)
    for difference in found.differences:
        name = odd.encoder.spec
        if name in (difference.first, difference.second):
            assert difference.verdict == f"not comparable: interval withheld of {name}: margins pile up"
            assert math.isnan(difference.p_value) and math.isnan(difference.stderr) and not difference.tie
        else:
            (same,) = sb.compare(results[1], results[2], eps=0.0, thresholds=0.6).differences
            assert (difference.ci95_low, difference.p_value) == (same.ci95_low, same.p_value)
    ranks = {rank.encoder: rank for rank in found.ranking}
    assert (ranks[odd.encoder.spec].best_rank, ranks[odd.encoder.spec].worst_rank) == (1, 3)
    assert "not comparable" in str(found) and "nan" not in str(found)
    assert found.to_dict()["differences"][0]["p_value"] is None
    assert odd.withheld(0.2, 0.8) == "margins pile up" and odd.withheld(0.0, 0.8) == ""


def test_few_groups_that_make_up_a_difference_are_few_degrees_of_freedom() -> None:
    """3 (sum d^2)^2 / sum d^4 of normal influences is their number, far fewer where one is most of it."""

    def made(values: Array, seed: int) -> Result:
        rows = [[row.tolist()] for row in values]
        zero = [[[0.0] * len(row[0])] for row in rows]
        slope = [[[1.0]] for _ in rows]
        influence = Influence(
            group=64,
            groups=np.full(len(rows), len(values[0]), dtype=np.int64),
            accuracy=np.array(rows),
            reach=np.array(zero),
            accuracy_slope=np.array(slope),
            reach_slope=np.array(slope),
        )
        score = Score(eps=0.0, threshold=0.6, score=0.5, stderr=0.1, ci95_low=0.3, ci95_high=0.7)
        return replace(example(), eps=[0.0], thresholds=[0.6], scores=[score], influence=influence, seed=seed)

    rng = np.random.default_rng(0)
    first, second = rng.standard_normal((2, 40, 50))
    even = freedom([made(first, 0), made(second, 0)], 0.0, 0.6)
    assert even[0, 1] == even[1, 0] and 0.85 * 2000 < even[0, 1] <= 2000
    second[0, 0] = 1000.0
    assert freedom([made(first, 0), made(second, 0)], 0.0, 0.6)[0, 1] < 15


def test_results_of_groups_of_different_size_are_compared_in_the_larger_ones(results: list[Result]) -> None:
    """A result stored with groups of 64 samples beside those of 16: as if both had 64."""
    old = []
    for one in results[:2]:
        influence = one.influence
        assert influence is not None and influence.group == GROUP == 16
        sums = {name: getattr(influence, name).reshape(6, 2, 4, 4).sum(3) for name in ("accuracy", "reach")}
        groups = np.full(6, 4, dtype=np.int64)
        old.append(replace(one, influence=replace(influence, group=64, groups=groups, **sums)))
    for eps, threshold in ((0.0, 0.6), (0.2, 0.8)):
        expected, mixed = (
            (correlation(pair, eps, threshold)[0, 1], freedom(pair, eps, threshold)[0, 1])
            for pair in (old, [old[0], results[1]])
        )
        assert mixed == pytest.approx(expected)
        assert 1 <= mixed[1] <= 18  # of 4 groups at each of 6 scales 3 are free


def test_the_only_group_of_a_scale_says_nothing() -> None:
    """Influences of a scale add up to 0, so that what a single group has is rounding."""
    made = [scored(one, samples=100) for one in (half, lambda x: x[:, :5])]
    groups = [replace(_influence(one), group=128, groups=np.ones(6, dtype=np.int64)) for one in made]
    merged = [
        replace(one, accuracy=one.accuracy.sum(2, keepdims=True), reach=one.reach.sum(2, keepdims=True))
        for one in groups
    ]
    assert all(
        np.abs(one.accuracy).max() < 1e-3 * np.abs(_influence(made[0]).accuracy).max() for one in merged
    )
    assert all(one.freedom == 0 and not one.of_score(0, 0).any() for one in merged)
    alone = [replace(one, influence=influence) for one, influence in zip(made, merged, strict=True)]
    assert correlation(alone, 0.0, 0.6)[0, 1] == 0 and freedom(alone, 0.0, 0.6)[0, 1] == 1


def _influence(result: Result) -> Influence:
    assert result.influence is not None
    return result.influence


@pytest.mark.slow
def test_ten_equal_encoders_are_seldom_called_different() -> None:
    """A ReLU net behind ten rotations that keep the direction between the classes: their truths are equal.

    With 128 samples at each scale, the chance of calling any of the 45 pairs different is to be 5 % at most. Twice
    as many as in 3 of 60 runs come by chance in 1 %.
    """
    direction = torch.ones(24, dtype=torch.float64) / math.sqrt(24)
    generator = torch.Generator().manual_seed(3)
    random = torch.randn(24, 24, generator=generator, dtype=torch.float64)
    basis = torch.linalg.qr(torch.cat([direction[:, None], random[:, 1:]], 1))[0]

    def behind() -> Any:
        turned = torch.linalg.qr(torch.randn(23, 23, generator=generator, dtype=torch.float64))[0]
        rotation = basis @ torch.block_diag(torch.ones(1, 1, dtype=torch.float64), turned) @ basis.T
        assert torch.allclose(rotation @ direction, direction)
        weight = (rotation @ MIX.double()).float()
        return lambda x: torch.relu((x - 0.5) @ weight)

    encoders = [behind() for _ in range(10)]
    wrong = withheld = 0
    for seed in range(60):
        made = [scored(one, samples=128, eps=0.0, thresholds=0.6, seed=seed) for one in encoders]
        found = sb.compare(*made).differences
        wrong += not all(one.tie or one.withheld for one in found)
        withheld += sum(bool(one.withheld) for one in found)
    assert wrong <= 6
    assert withheld < 0.1 * 60 * 45  # so few samples make up the margins now and then
