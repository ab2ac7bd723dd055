"""eps*: its place, its confidence set against known quantiles, its document, its command, its mistakes."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from checks import refused
from result_example import example
from typer.testing import CliRunner

import synbench_fast as sb
from synbench_fast.cli import main as cli
from synbench_fast.results.records import Result, Score

GRID = (0.0, 0.1, 0.3, 0.4, 0.5)


def scored(
    scores: Sequence[float],
    stderr: float | Sequence[float] = 0.01,
    eps: Sequence[float] = GRID,
    **changes: Any,
) -> Result:
    """A result with these scores at threshold 0.7 over `eps`."""
    errors = [stderr] * len(scores) if isinstance(stderr, float) else list(stderr)
    listed = [
        Score(eps=e, threshold=0.7, score=value, stderr=error, ci95_low=math.nan, ci95_high=math.nan)
        for e, value, error in zip(eps, scores, errors, strict=True)
    ]
    return example(eps=list(eps), thresholds=[0.7], scores=listed, **changes)


def members(found: sb.studies.EpsStar) -> list[float]:
    return [one.eps for one in found.points if one.in_set]


def test_vertex_of_a_parabola_is_found_on_an_uneven_grid() -> None:
    found = sb.studies.find_eps_star(scored([0.9 - (e - 0.27) ** 2 for e in GRID]))
    assert found.grid_eps == 0.3
    assert found.eps_star == pytest.approx(0.27, abs=1e-12)
    assert found.position == "inside"
    assert (found.threshold, found.runs, found.errors) == (0.7, 1, "bound")


def test_order_of_the_budgets_does_not_matter() -> None:
    values = [0.9 - (e - 0.27) ** 2 for e in GRID]
    shuffled = [3, 0, 4, 1, 2]
    matrix = 1e-4 * (0.9 + 0.1 * np.eye(5)) * np.outer(range(1, 6), range(1, 6))
    straight = sb.studies.find_eps_star(scored(values), covariance=matrix)
    other = sb.studies.find_eps_star(
        scored([values[i] for i in shuffled], eps=[GRID[i] for i in shuffled]),
        covariance=matrix[np.ix_(shuffled, shuffled)],
    )
    assert other == straight


@pytest.mark.parametrize(
    ("scores", "place", "position", "note"),
    [
        ([0.9, 0.8, 0.7, 0.6, 0.5], 0.0, "first", "no maximum inside: the score falls from eps = 0"),
        ([0.5, 0.6, 0.7, 0.8, 0.9], 0.5, "last", "no maximum inside: the score is largest at 0.5"),
        ([0.9, 0.9, 0.9, 0.9, 0.9], 0.0, "first", "every budget is in the 95 % set"),
        ([0.8, 0.9, 0.88, 0.8, 0.8], 0.41 / 2.2, "inside", ""),
    ],
)
def test_no_maximum_inside_is_said(scores: list[float], place: float, position: str, note: str) -> None:
    found = sb.studies.find_eps_star(scored(scores, estimator="paper"))
    assert found.position == position
    assert found.eps_star == pytest.approx(place, abs=1e-12)
    assert any(one.startswith(note) for one in found.notes) if note else found.notes == []


def test_plateau_stays_between_its_neighbours() -> None:
    found = sb.studies.find_eps_star(scored([0.1, 0.9, 0.9, 0.9, 0.1]))
    assert 0.0 <= found.eps_star <= 0.3


@pytest.mark.parametrize(("gap", "inside"), [(1.59, True), (1.70, False)])
@pytest.mark.parametrize("correlation", [0.0, 0.9, -0.5])
def test_two_budgets_are_a_one_sided_test(gap: float, inside: bool, correlation: float) -> None:
    """Of two, the smaller is left out where it is 1.645 standard errors of the difference below."""
    deviation = np.array([0.01, 0.02])
    covariance = np.outer(deviation, deviation) * np.array([[1, correlation], [correlation, 1]])
    error = math.sqrt(covariance[0, 0] + covariance[1, 1] - 2 * covariance[0, 1])
    found = sb.studies.find_eps_star(scored([0.8 - gap * error, 0.8], eps=(0.0, 0.2)), covariance=covariance)
    assert members(found) == ([0.0, 0.2] if inside else [0.2])
    assert [one.stderr for one in found.points] == pytest.approx(deviation)


@pytest.mark.parametrize(("gap", "inside"), [(1.95, True), (1.97, False)])
def test_without_a_covariance_three_budgets_take_bonferroni(gap: float, inside: bool) -> None:
    error = 0.01 * math.sqrt(2)
    found = sb.studies.find_eps_star(scored([0.8, 0.8 - gap * error, 0.2], eps=(0.0, 0.2, 0.4)))
    assert members(found) == ([0.0, 0.2] if inside else [0.0])
    assert (found.set_low, found.set_high) == (0.0, 0.2 if inside else 0.0)


def test_strong_correlation_makes_a_smaller_set_than_none_known() -> None:
    values = [0.80, 0.81, 0.80, 0.79, 0.78]
    matrix = 0.02**2 * (0.999 + 0.001 * np.eye(5))
    with_it, without = (
        sb.studies.find_eps_star(scored(values, 0.02), covariance=matrix),
        sb.studies.find_eps_star(scored(values, 0.02)),
    )
    assert members(with_it) == [0.1]
    assert members(without) == list(GRID)


def test_differences_without_error_are_exact() -> None:
    found = sb.studies.find_eps_star(
        scored([0.8, 0.8 + 1e-9], eps=(0.0, 0.2)), covariance=np.full((2, 2), 1e-4)
    )
    assert members(found) == [0.2]


def test_an_unknown_error_excludes_nothing() -> None:
    found = sb.studies.find_eps_star(scored([0.9, 0.1, 0.1, 0.1, 0.1], [0.01, math.nan, 0.01, 0.01, 0.01]))
    assert members(found) == [0.0, 0.1]
    assert math.isnan(found.points[1].stderr)


def test_the_set_covers_the_maximum_as_often_as_it_says() -> None:
    """Least favourable: all true scores are equal; each is in the set with 95 %, within 4 deviations."""
    random = np.random.default_rng(5)
    matrix = 1e-4 * np.array([[1, 0.9, 0.5], [0.9, 1, 0.8], [0.5, 0.8, 1]])
    draws = 0.8 + random.multivariate_normal(np.zeros(3), matrix, 300)
    covered = [
        members(sb.studies.find_eps_star(scored(list(row), eps=(0.0, 0.2, 0.4)), covariance=matrix))
        for row in draws
    ]
    for eps in (0.0, 0.2, 0.4):
        share = np.mean([eps in one for one in covered])
        assert abs(share - 0.95) < 4 * math.sqrt(0.95 * 0.05 / 300)


def test_a_result_that_holds_the_covariance_is_asked_for_it() -> None:
    base = example()
    deviation = np.array([[0.03, 0.001, 0.02], [0.03, 0.002, 0.02]])[:, : len(base.thresholds)]
    stored = np.diag((deviation**2).reshape(-1)).tolist()
    result = dataclasses.replace(base, score_covariance=stored)
    place = base.thresholds.index(0.7)
    found = sb.studies.find_eps_star(result, threshold=0.7)
    assert found.errors == "result"
    assert [one.stderr for one in found.points] == pytest.approx(deviation[:, place])
    assert sb.studies.find_eps_star(result, covariance=np.eye(2)).errors == "given"


def test_several_runs_are_averaged_and_their_spread_is_the_error() -> None:
    runs = [
        scored([0.8 + d, 0.9 + d, 0.5], eps=(0.0, 0.2, 0.4), seed=i) for i, d in enumerate((-0.1, 0, 0.1))
    ]
    found = sb.studies.find_eps_star(runs)
    assert (found.runs, found.errors) == (3, "repeats")
    assert [one.score for one in found.points] == pytest.approx([0.8, 0.9, 0.5])
    assert [one.stderr for one in found.points] == pytest.approx([0.1 / math.sqrt(3)] * 2 + [0.0])
    assert 0.0 not in members(found), "both moved alike, so their difference has no error"


def test_document_reads_back() -> None:
    found = sb.studies.find_eps_star(scored([0.9, 0.1, 0.1, 0.1, 0.1], [0.01, math.nan, 0.01, 0.01, 0.01]))
    again = sb.studies.EpsStar.from_json(found.to_json())
    assert again.to_json() == found.to_json()
    assert json.loads(found.to_json())["schema"] == "synbench-fast/eps-star"
    document = json.loads(found.to_json())
    for key, value, part in (
        ("schema", "other", "schema: expected 'synbench-fast/eps-star', got 'other'"),
        ("schema_version", 2, "schema_version: expected 1, got 2"),
        ("eps_star", "a", 'eps_star: expected a number, got "a"'),
    ):
        with refused(f"there: {part}"):
            sb.studies.EpsStar.from_json(json.dumps({**document, key: value}), source="there")
    with refused("there: expected a JSON object, got an array"):
        sb.studies.EpsStar.from_json("[]", source="there")
    assert found.summary() == (
        "builtin:conv: eps* = 0 at threshold 0.7; 95 % set 0, 0.1 (consistent, 1024 samples per scale)"
    )


def test_mistakes() -> None:
    fine = scored([0.5, 0.9, 0.8, 0.7, 0.6])
    with refused("threshold: expected one of 0.7, got 0.8"):
        sb.studies.find_eps_star(fine, threshold=0.8)
    with refused("eps: expected a result with at least 2 budgets, got 1"):
        sb.studies.find_eps_star(scored([0.5], eps=(0.0,)))
    with refused("eps: expected distinct budgets, got [0.0, 0.2, 0.2, 0.4]"):
        sb.studies.find_eps_star(scored([0.5, 0.9, 0.9, 0.6], eps=(0.0, 0.2, 0.2, 0.4)))
    with refused("score_covariance: expected [5, 5] in the result, got another shape"):
        sb.studies.find_eps_star(dataclasses.replace(fine, score_covariance=[[1.0]]))
    many = np.linspace(0, 0.9, 101)
    with refused("eps: expected at most 100 budgets, got 101"):
        sb.studies.find_eps_star(scored(list(many), eps=list(many)))
    with refused("threshold: expected one that builtin:conv exceeds at some scale, got 0.7"):
        sb.studies.find_eps_star(scored([0.0] * 5))
    with refused("threshold: expected one with a defined score at every eps, got 0.7"):
        sb.studies.find_eps_star(scored([0.5, math.nan, 0.5, 0.5, 0.5]))
    with refused("seed: expected an integer in [0, 2^64), got -1"):
        sb.studies.find_eps_star(fine, seed=-1)
    lopsided = np.eye(5)
    lopsided[0, 1] = 0.5
    for matrix, part in (
        (np.eye(4), "expected [5, 5] over eps, got [4, 4]"),
        (np.full((5, 5), np.nan), "expected finite values, got others"),
        (lopsided, "expected a symmetric matrix, got one that is not"),
        (-np.eye(5), "expected no negative eigenvalue, got -1"),
        ("abc", "expected numbers [5, 5], got other values"),
    ):
        with refused("covariance: " + part):
            sb.studies.find_eps_star(fine, covariance=matrix)
    with refused("result: expected one result, or at least 3 to average, got 2"):
        sb.studies.find_eps_star([fine, fine])
    with refused("result: expected results of distinct seeds, got one of them twice"):
        sb.studies.find_eps_star([fine] * 3)
    others = [dataclasses.replace(fine, seed=i, estimator="paper" if i else "consistent") for i in range(3)]
    with refused("result: expected results that differ in their seed alone, got other settings"):
        sb.studies.find_eps_star(others)
    weights = [
        dataclasses.replace(fine, seed=i, encoder=dataclasses.replace(fine.encoder, weights_sha256=str(i)))
        for i in range(3)
    ]
    with refused("result: expected one set of weights, got several: those of builtin:conv follow the seed"):
        sb.studies.find_eps_star(weights)


def test_gaussian_falls_with_eps_and_paper_need_not() -> None:
    """The two facts that docs/linear-probe.md states, on a random net where 128 samples are few for 64 features."""
    options: dict[str, Any] = {
        "input_shape": (1, 8, 8), "eps": (0.0, 0.1, 0.4, 0.8), "thresholds": (0.7,), "scales": 12,
        "device": "cpu",
    }  # fmt: skip
    gaussian = sb.score("builtin:conv?dim=64", estimator="gaussian", samples=2048, **options)
    values = [one.score for one in gaussian.scores]
    assert values == sorted(values, reverse=True)
    assert any(
        "rises with eps by sampling error only" in one for one in sb.studies.find_eps_star(gaussian).notes
    )
    few = sb.score("builtin:conv?dim=64", estimator="paper", samples=128, **options)
    assert few.scores[1].score - few.scores[0].score > 2 * few.scores[0].stderr
    assert sb.studies.find_eps_star(few).grid_eps > 0


def invoke(*arguments: str) -> Any:
    return CliRunner().invoke(cli.app, ["study", "eps-star", *arguments])


SMALL = ("--input-shape", "1,8,8", "--scales", "3", "--samples", "200", "--quiet")


def test_command_scores_an_encoder_or_reads_a_result(tmp_path: Path) -> None:
    done = invoke("builtin:identity", "builtin:conv?dim=8", *SMALL, "--eps", "0,0.2,0.4")
    assert done.exit_code == 0, done.stderr
    header, *rows = done.stdout.splitlines()
    assert header.split() == ["encoder", "eps*", "95", "%", "set", "score"]
    assert [row.split()[0] for row in rows[:2]] == ["builtin:identity", "builtin:conv?dim=8"]

    saved = scored([0.9 - (e - 0.27) ** 2 for e in GRID]).save(tmp_path / "one.json")
    done = invoke(str(saved), "--format", "json")
    assert done.exit_code == 0
    assert sb.studies.EpsStar.from_json(done.stdout).eps_star == pytest.approx(0.27)


def test_command_repeats_runs() -> None:
    done = invoke("builtin:identity", *SMALL, "--repeats", "3", "--format", "json", "--eps", "0,0.4")
    assert done.exit_code == 0, done.stderr
    found = sb.studies.EpsStar.from_json(done.stdout)
    assert (found.runs, found.errors, found.estimator) == (3, "result", "consistent")


@pytest.mark.parametrize(
    ("arguments", "code", "line"),
    [
        ([], 2, "ENCODER: expected at least one encoder or result file, got none"),
        (["a:b", "--eps", "0.2"], 2, "--eps: expected at least 2 budgets, got '0.2'"),
        (["a:b", "--threshold", "0.7,0.8"], 2, "--threshold: expected one number, got '0.7,0.8'"),
        (["a:b", "--repeats", "2"], 2, "--repeats: expected 1, or at least 3 to see their spread, got '2'"),
        (
            ["a:b", "--repeats", "3", "--random-init"],
            2,
            "--repeats: expected 1 with --random-init, whose weights follow the seed",
        ),
        (
            ["a:b", "r.json", "--repeats", "3"],
            2,
            "--repeats: expected 1 with a stored result, 'r.json', got '3'",
        ),
        (
            ["a:b", "c:d", "--checkpoint", __file__],
            2,
            "--checkpoint: expected a single ENCODER to load it into, got 2",
        ),
        (
            ["none.json", "--quiet"],
            1,
            "none.json: expected a readable result file, got: No such file or directory",
        ),
    ],
)
def test_command_refuses_in_one_line(arguments: list[str], code: int, line: str) -> None:
    done = invoke(*arguments)
    assert (done.exit_code, done.stdout, done.stderr) == (code, "", f"error: {line}\n")


def test_command_goes_on_after_an_encoder_that_fails() -> None:
    done = invoke("builtin:cov", "builtin:identity", *SMALL, "--eps", "0,0.2")
    assert done.exit_code == 1
    assert done.stderr.startswith("error: encoder: expected a model of builtin, got 'builtin:cov'")
    assert "builtin:identity" in done.stdout


def test_defaults_of_python_and_of_the_command_are_the_same() -> None:
    from synbench_fast.studies.eps_star import EPS_GRID, EPS_STAR_THRESHOLD

    command = cli.commands.commands["study"].commands["eps-star"]
    defaults = {one.name: one.default for one in command.params}
    listed = tuple(float(one) for one in defaults["eps"].split(","))
    assert listed == EPS_GRID == tuple(round(0.1 * i, 1) for i in range(9))
    assert float(defaults["threshold"]) == EPS_STAR_THRESHOLD == 0.7


@pytest.mark.parametrize(("factor", "inside"), [(0.95, True), (1.05, False)])
@pytest.mark.parametrize("runs", [3, 6])
def test_spreads_of_few_runs_take_student(runs: int, factor: float, inside: bool) -> None:
    """Of two budgets: one-sided, with a degree of freedom less than there are runs."""
    from scipy.stats import t

    moves = np.linspace(-1, 1, runs) * 0.02
    error = moves.std(ddof=1) / math.sqrt(runs)
    gap = factor * t.ppf(0.95, runs - 1) * error
    found = sb.studies.find_eps_star(
        [scored([0.8 - gap + move, 0.8], eps=(0.0, 0.2), seed=i) for i, move in enumerate(moves)]
    )
    assert (found.errors, found.runs) == ("repeats", runs)
    assert members(found) == ([0.0, 0.2] if inside else [0.2])


@pytest.mark.parametrize("reach", [1.0, 10.0])
def test_sets_of_three_runs_hold_the_maximum(reach: float) -> None:
    """Nine budgets with one true score, so that each is a maximum: each is in the set of 95 % of the runs or more.

    Errors of budgets e apart have the correlation exp(-e / reach). A multivariate t of their estimated covariance
    held 87 to 88 %.
    """
    apart = np.abs(np.subtract.outer(np.arange(9), np.arange(9)))
    root = np.linalg.cholesky(np.exp(-apart / reach))
    rng, budgets = np.random.default_rng(5), np.arange(9) / 10
    held = []
    for _ in range(300):
        runs = 0.8 + 0.01 * rng.standard_normal((3, 9)) @ root.T
        found = sb.studies.find_eps_star([scored(one, eps=budgets, seed=i) for i, one in enumerate(runs)])
        assert found.errors == "repeats"
        held.append([one.in_set for one in found.points])
    assert np.mean(held) > 0.93 and np.mean(held, axis=0).min() > 0.91


def test_notes_in_full() -> None:
    falling = sb.studies.find_eps_star(scored([0.9, 0.5, 0.4], eps=(0.0, 0.2, 0.4), estimator="paper"))
    assert falling.notes == ["no maximum inside: the score falls from eps = 0"]
    later = sb.studies.find_eps_star(scored([0.9, 0.5, 0.4], eps=(0.1, 0.2, 0.4), estimator="paper"))
    assert later.notes == ["no maximum inside: the score falls from eps = 0.1, the smallest budget given"]
    rising = sb.studies.find_eps_star(
        scored([0.4, 0.5, 0.9], eps=(0.0, 0.2, 0.4))
    )  # counted margins need not be Gaussian
    assert rising.notes == ["no maximum inside: the score is largest at 0.4, the largest budget given"]
    rising = sb.studies.find_eps_star(scored([0.4, 0.5, 0.9], eps=(0.0, 0.2, 0.4), estimator="gaussian"))
    assert rising.notes == [
        "no maximum inside: the score is largest at 0.4, the largest budget given",
        "with gaussian and a threshold of at least 0.5 the score rises with eps by sampling error only",
    ]
