"""Reports of stored results: reading, boards, ranks, tables, exports and every mistake."""

from __future__ import annotations

import base64
import csv
import dataclasses
import hashlib
import io
import json
import math
import re
import sys
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from checks import refused
from fleet_fakes import add, fakes
from report_cases import HOSTILE, family, suite
from result_example import example

import synbench_fast as sb
from synbench_fast.cli import main as cli
from synbench_fast.fleet.store import Store
from synbench_fast.report import export, html, ranking, tables
from synbench_fast.report.collection import Failure, boards, load_results
from synbench_fast.results.records import SCHEMA_VERSION, WITHHELD, Result

GENERATOR = torch.Generator().manual_seed(0)
MIX = torch.randn(24, 16, generator=GENERATOR) / 5


def linear(count: int) -> Any:
    def encoder(x: torch.Tensor) -> torch.Tensor:
        return torch.relu(x @ MIX[:, :count])

    encoder.__qualname__ = f"linear{count}"
    return encoder


@pytest.fixture(scope="module")
def scored() -> list[Result]:
    """Five encoders on the same samples, two of them close."""
    options: dict[str, Any] = dict(
        input_shape=(24,), scales=6, samples=1024, eps=(0.0, 0.2), thresholds=(0.6, 0.8), threads=1
    )
    return [sb.score(linear(count), **options) for count in (16, 15, 12, 8, 4)]


@pytest.fixture
def folder(tmp_path: Path, scored: list[Result]) -> Path:
    for place, one in enumerate(scored):
        one.save(tmp_path / f"{place}.json")
    return tmp_path


def run(*arguments: str) -> int:
    return cli.main([str(one) for one in arguments])


# Reading


@pytest.mark.parametrize("indent", [None, 2])
@pytest.mark.parametrize("sort_keys", [False, True])
def test_whole_documents_and_headers_are_the_same_results(
    indent: int | None, sort_keys: bool, tmp_path: Path, scored: list[Result]
) -> None:
    given = [scored[0], example(), example(warnings=['"curve": "robust_area": x'])]
    for number, one in enumerate(given):
        one.save(tmp_path / f"{number}a.json")
        (tmp_path / f"{number}b.json").write_text(
            json.dumps(one.to_dict(), indent=indent, sort_keys=sort_keys), encoding="utf-8"
        )
    found = load_results(tmp_path)
    assert found.problems == []
    for place, item in enumerate(found.items):
        assert item.document.to_dict() == given[place // 2].to_dict()
        assert (item.suite, item.tasks, item.results) == (None, [""], [item.document])


def test_no_earlier_version_is_read(tmp_path: Path) -> None:
    """Also where all fields that a report shows are there: the numbers mean something else."""
    path, old = tmp_path / "old.json", {"schema_version": SCHEMA_VERSION - 1}
    line = f"schema_version: expected {SCHEMA_VERSION}, got {SCHEMA_VERSION - 1}; an older synbench-fast wrote it"
    path.write_text(json.dumps({**example().to_dict(), **old}), encoding="utf-8")
    with refused(f"old.json: {line}"):
        load_results(tmp_path)
    document = suite().to_dict()
    document["results"][1] |= old
    path.write_text(json.dumps(document), encoding="utf-8")
    with refused(f"old.json: results[1].{line}"):
        load_results(tmp_path)


def test_suites_are_read_with_their_results(tmp_path: Path) -> None:
    one = suite()
    path = one.save(tmp_path / "suite.json")
    (found,) = load_results(tmp_path).items
    assert found.suite is not None and found.file == str(path)
    assert (found.suite.suite, found.tasks, found.suite.warnings) == ("two", ["a", "b"], ["b: few"])
    assert found.suite.to_dict() == one.to_dict()
    assert found.results[1].curve[3].accuracy == one.results[1].curve[3].accuracy


@pytest.mark.parametrize(
    ("change", "parts"),
    [
        ({"estimator": 3}, ("estimator", "expected a string")),
        ({"scores": []}, ("scores: expected an object",)),
        ({"schema_version": 999}, ("schema_version", "a newer synbench-fast wrote it")),
        ({"schema": "other"}, ("schema: expected",)),
        ({"cost": None}, ("cost",)),
        ({"seed": 1.5}, ("seed", "expected an integer")),
        ({"curve": 5}, ("curve",)),
    ],
)
def test_documents_that_do_not_fit_are_named(change: Any, parts: tuple[str, ...], tmp_path: Path) -> None:
    path = tmp_path / "bad.json"
    path.write_text(json.dumps({**example().to_dict(), **change}), encoding="utf-8")
    with refused("bad.json", *parts):
        load_results(tmp_path)


@pytest.mark.parametrize("text", ["", "{", "[1]", "null", '{"a": NaN}', "[" * 100_000])
def test_foreign_json_is_named(text: str, tmp_path: Path) -> None:
    path = tmp_path / "foreign.json"
    path.write_text(text, encoding="utf-8")
    with refused("foreign.json: "):
        load_results(tmp_path)


# Boards and ranks


def test_results_in_both_places_are_found(folder: Path, scored: list[Result]) -> None:
    (folder / "results").mkdir()
    suite().save(folder / "results" / "suite.json")
    (folder / "results" / ".half.json").write_text("{", encoding="utf-8")
    found = load_results(folder)
    assert len(found.items) == len(scored) + 1
    assert found.problems == []


CHANGES: dict[str, Any] = {
    "seed": {"seed": 7},
    "estimator": {"estimator": "counted"},
    "integral": {"integral": "grid"},
    **{
        f"task.{name}": {"task": {name: value}}
        for name, value in {
            "shape": (12,),
            "prior": 0.4,
            "center": 0.0,
            "pattern": "random",
            "covariance": "ar1",
        }.items()
    },
}


@pytest.mark.parametrize("what", CHANGES)
def test_what_compare_refuses_is_on_another_board(what: str, tmp_path: Path, scored: list[Result]) -> None:
    changes = CHANGES[what]
    if "task" in changes:
        changes = {"task": dataclasses.replace(scored[1].task, **changes["task"])}
    other = dataclasses.replace(scored[1], **changes)
    with refused(what):
        sb.compare(scored[0], other)
    scored[0].save(tmp_path / "a.json")
    other.save(tmp_path / "b.json")
    assert [len(one.members) for one in boards(load_results(tmp_path).items)] == [1, 1]


def test_same_specs_are_told_apart(tmp_path: Path) -> None:
    one = example()
    one.save(tmp_path / "a.json")
    half = dataclasses.replace(one, cost=dataclasses.replace(one.cost, dtype="bfloat16"))
    half.save(tmp_path / "b.json")
    (board,) = boards(load_results(tmp_path).items)
    assert board.configurations == ["dtype float32", "dtype bfloat16"]


POINTS = [(0.0, 0.6), (0.2, 0.8)]


def test_small_boards_are_ranked_by_compare(folder: Path, scored: list[Result]) -> None:
    (board,) = boards(load_results(folder).items)
    for (eps, threshold), found in zip(POINTS, ranking.rank(board, POINTS), strict=True):
        assert found.method == "pairs"
        expected = {}
        for one in sb.compare(*scored, eps=eps, thresholds=threshold).ranking:
            expected[one.score] = (one.best_rank, one.worst_rank)
        assert found.ranks == [expected[one.score(eps, threshold).score] for one in scored]
        assert {one[0] for one in expected.values()} != {1}


def test_correlations_are_those_of_compare(folder: Path, scored: list[Result]) -> None:
    (board,) = boards(load_results(folder).items)
    members: Any = [(one.first, one.first.influence) for one in board.members]
    for eps, threshold in POINTS:
        unit, groups = ranking._directions(members, eps, threshold)
        assert groups == 6 * (-(-1024 // 16) - 1)  # those of a scale add up to 0
        rho = unit.astype(float) @ unit.T
        differences = sb.compare(*scored, eps=eps, thresholds=threshold).differences
        for (i, j), one in zip(combinations(range(len(scored)), 2), differences, strict=True):
            assert rho[i, j] == pytest.approx(one.correlation, abs=2e-5)


def test_what_counting_refutes_is_not_ranked(tmp_path: Path) -> None:
    """Features with a gain of each sample's own, by the estimator that takes their margins as Gaussian."""

    def gain(x: torch.Tensor) -> torch.Tensor:
        return (x[:, :8] - 0.5) * torch.exp(0.8 * (x[:, 8:9] - x[:, 9:10]) / math.sqrt(2))

    options: dict[str, Any] = {
        "input_shape": (16,),
        "scales": 6,
        "samples": 512,
        "eps": 0.0,
        "thresholds": 0.6,
    }
    encoders = [gain, lambda x: x[:, :8], lambda x: x[:, :4]]
    for number, encoder in enumerate(encoders):
        sb.score(encoder, **options, estimator="gaussian").save(tmp_path / f"{number}.json")
    (board,) = boards(load_results(tmp_path).items)
    (found,) = ranking.rank(board, [(0.0, 0.6)])
    ranks = dict(zip((one.first.encoder.feature_dim for one in board.members), found.ranks, strict=True))
    assert sorted(found.ranks, key=str) == [(1, 1), (2, 2), None] and ranks[4] == (2, 2)
    assert found.note == (
        "the margins are not Gaussian of 1: estimator gaussian has no interval where counting refutes them, consistent "
        "counts them; 1 not ranked: no score with a standard error"
    )


def test_bounded_ranks_contain_those_of_compare(folder: Path) -> None:
    (board,) = boards(load_results(folder).items)
    exact = ranking.rank(board, POINTS)
    bounded = ranking.rank(board, POINTS, pairs_limit=0)
    for one, wide in zip(exact, bounded, strict=True):
        assert wide.method == "bound"
        for inner, outer in zip(one.ranks, wide.ranks, strict=True):
            assert inner is not None and outer is not None
            assert outer[0] <= inner[0] <= inner[1] <= outer[1]
    assert any(one.ranks[0] == (1, 1) or one.ranks[-1] == (5, 5) for one in bounded)


def test_sidak_bounds_the_largest_of_correlated_differences() -> None:
    """20 000 draws know the quantile to about 0.01."""
    rng = np.random.default_rng(0)
    for size in (3, 10, 40):
        root = rng.standard_normal((size, 3)) + 0.3 * rng.standard_normal((size, 1))
        covariance = root @ root.T + 0.5 * np.eye(size)
        draws = rng.multivariate_normal(np.zeros(size), covariance, 20_000)
        i, j = np.triu_indices(size, 1)
        spread = np.sqrt(covariance[i, i] + covariance[j, j] - 2 * covariance[i, j])
        largest = (np.abs(draws[:, i] - draws[:, j]) / spread).max(1)
        assert np.quantile(largest, 0.95) < ranking.reach(len(i)) + 0.02
    assert ranking.reach(1) == pytest.approx(1.959964, abs=1e-6)
    assert ranking.reach(50_000_000) == pytest.approx(6.1, abs=0.1)


def brute(better: np.ndarray) -> np.ndarray:
    return np.stack([1 + better.sum(0), len(better) - better.sum(1)], axis=1)


def test_counts_are_those_of_all_pairs() -> None:
    rng = np.random.default_rng(1)
    size = 300  # more than one block
    score, stderr = rng.normal(size=size), rng.uniform(0.05, 0.2, size)
    unit = rng.standard_normal((size, 30))
    unit = (unit / np.linalg.norm(unit, axis=1)[:, None]).astype(np.float32)
    rho = np.clip((unit @ unit.T).astype(float), -1, 1)
    np.fill_diagonal(rho, 1.0)
    variance = stderr[:, None] ** 2 + stderr**2 - 2 * rho * np.outer(stderr, stderr)
    limit = ranking.reach(size * (size - 1) // 2)
    gap = score[:, None] - score
    expected = brute(gap > limit * np.sqrt(variance + 1e-12))
    found = ranking._count(score, stderr, unit, 10**9)  # groups enough for the normal quantile
    assert np.abs(found - expected).max() <= 1
    assert (found != expected).mean() < 0.01


def test_separate_intervals_are_compared_one_by_one() -> None:
    rng = np.random.default_rng(2)
    size = 50
    score, stderr = rng.normal(size=size), rng.uniform(0.05, 0.4, size)
    keep = np.ones(size, dtype=bool)
    keep[[3, 7]] = False
    z = ranking.NormalDist().inv_cdf(1 - 0.025 / keep.sum())
    low, high = score - z * stderr, score + z * stderr
    expected = brute((low[:, None] > high)[np.ix_(keep, keep)])
    found = ranking.separate_ranks(score, stderr, keep)
    assert (found[keep] == expected).all()
    assert (expected[:, 0] > 1).any()


def test_large_boards_use_separate_intervals(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ranking, "BOUND_LIMIT", 3)
    (board,) = boards(load_results(folder).items)
    (found,) = ranking.rank(board, POINTS[:1])
    assert found.method == "separate"
    assert all(found.ranks)


def test_what_is_not_paired_is_not_ranked(folder: Path, scored: list[Result]) -> None:
    dataclasses.replace(scored[1], influence=None).save(folder / "unpaired.json")
    unknown = [dataclasses.replace(one, stderr=math.nan) for one in scored[2].scores]
    dataclasses.replace(scored[2], scores=unknown).save(folder / "z.json")
    (board,) = boards(load_results(folder).items)
    (found,) = ranking.rank(board, POINTS[:1])
    assert [one is None for one in found.ranks] == [False] * 5 + [True, True]
    assert "no influences that" in found.note and "no score with a standard error" in found.note


# Tables


def test_rows_have_what_the_results_have(folder: Path, scored: list[Result]) -> None:
    suite("builtin:a").save(folder / "s1.json")
    suite("builtin:b", 0.3).save(folder / "s2.json")
    found = tables.leaderboard(load_results(folder, [Failure(encoder="timm:gone", reason="no weights")]))
    rows = found.rows()
    assert all(list(row) == found.columns for row in rows)
    assert [row["board"] for row in rows] == [1] * 5 + [2] * 2 + [None]
    values = [one.score(0.0, 0.6).score for one in scored]
    assert [row["score_eps0_a0.6"] for row in rows[:5]] == sorted(values, reverse=True)
    best = scored[int(np.argmax(values))]
    assert rows[0]["robust_area"] == best.robust_area.value
    assert rows[0]["images_per_second"] == best.cost.images_per_second
    assert rows[0]["warnings"] == len(best.warnings)
    assert rows[5]["encoder"] == "builtin:a" and rows[5]["worst_task_eps0_a0.6"] == "b"
    assert (rows[5]["best_rank_eps0_a0.6"], rows[6]["best_rank_eps0_a0.6"]) == (1, 2)
    assert rows[5]["images"] == 2 * 2048 and rows[5]["images_per_second"] == pytest.approx(512)
    assert (rows[7]["encoder"], rows[7]["status"], rows[7]["reason"]) == (
        "timm:gone", "failed", "no weights",
    )  # fmt: skip


def test_points_are_those_asked_for(folder: Path) -> None:
    found = tables.leaderboard(load_results(folder), eps=[0.2], thresholds=[0.8, 0.6])
    named = [one for one in found.columns if one.startswith("score_")]
    assert named == ["score_eps0.2_a0.8", "score_eps0.2_a0.6"]


def test_boards_without_the_budget_say_so(folder: Path) -> None:
    one = example()
    few = [s for s in one.scores if s.eps == 0.0]
    curve = [point for point in one.curve if point.eps == 0.0]
    dataclasses.replace(one, eps=[0.0], scores=few, curve=curve).save(folder / "few.json")
    found = tables.leaderboard(load_results(folder), eps=[0.2])
    stream = io.StringIO()
    tables.print_tables(stream, found)
    assert "nothing at the budgets and thresholds asked for" in stream.getvalue()
    assert [len(one["members"]["spec"]) for one in data_of(html.page(found))["boards"]] == [5, 1]
    assert [row["score_eps0.2_a0.6"] is None for row in found.rows()] == [False] * 5 + [True]


def test_directions_that_do_not_vary_are_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "single").mkdir()
    (tmp_path / "suite").mkdir()
    some = dataclasses.replace(example(), dropped=[0, 6])
    some.save(tmp_path / "single" / "a.json")
    whole = suite()
    dataclasses.replace(whole, results=[whole.results[0], some]).save(tmp_path / "suite" / "a.json")
    for folder in ("single", "suite"):
        assert run("report", str(tmp_path / folder), "--format", "csv") == 0
        (row,) = csv.DictReader(io.StringIO(capsys.readouterr().out))
        assert (row["feature_dim"], row["dropped"]) == ("256", "6")
        assert run("report", str(tmp_path / folder)) == 0
        assert "256 (250 vary)" in capsys.readouterr().out
        data = data_of((tmp_path / folder / "report.html").read_text())
        assert data["boards"][0]["members"]["dropped"] == [6]


def test_failures_of_a_run_store_are_listed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A leaderboard of what was scored alone would not say that something is missing."""
    store = Store(tmp_path)
    store.begin()
    earlier = add(store, fakes(1, version=1))
    broken, fine = add(store, fakes(2))
    for id in (*earlier, broken):
        store.fail_job(id, "weights: gone")
    example().save(store.results / "a.json")
    store.finish_job(fine, "a.json")
    store.end()
    store.close()
    assert cli.main(["report", str(tmp_path), "--format", "csv"]) == 0
    rows = list(csv.DictReader(io.StringIO(capsys.readouterr().out)))
    assert [(row["encoder"], row["status"], row["reason"]) for row in rows] == [
        ("builtin:conv", "scored", ""), ("fake:000", "failed", "weights: gone"),
    ]  # fmt: skip
    assert data_of((tmp_path / "report.html").read_text())["failures"] == [["fake:000", "weights: gone"]]
    for path in tmp_path.glob("store.sqlite*"):
        path.write_bytes(b"damaged" * 1000)
    assert cli.main(["report", str(tmp_path), "--html", "none"]) == 1
    out, err = capsys.readouterr()
    assert "builtin:conv" in out and err.startswith("error: ") and "got a damaged file" in err


def test_failures_alone(tmp_path: Path) -> None:
    found = tables.leaderboard(load_results(tmp_path, [Failure(encoder="x", reason="gone")]))
    assert [(row["encoder"], row["reason"]) for row in found.rows()] == [("x", "gone")]
    data = data_of(html.page(found))
    assert (data["boards"], data["failures"]) == ([], [["x", "gone"]])


@pytest.mark.parametrize(
    ("sort", "column", "descending"),
    [
        (None, "score_eps0_a0.6", True),
        ("score", "score_eps0_a0.6", True),
        ("rank", "best_rank_eps0_a0.6", False),
        ("score_eps0.2_a0.6", "score_eps0.2_a0.6", True),
        ("feature_dim", "feature_dim", False),
        ("images_per_second", "images_per_second", True),
        ("encoder", "encoder", False),
    ],
)
def test_sorting(sort: str | None, column: str, descending: bool, folder: Path) -> None:
    collection = load_results(folder)
    for reverse in (False, True):
        rows = tables.leaderboard(collection, sort=sort, reverse=reverse).rows()
        values: list[Any] = [row[column] for row in rows]
        assert values == sorted(values, reverse=descending != reverse)


def test_what_is_unknown_comes_last(tmp_path: Path) -> None:
    for number, parameters in enumerate([5, None, 3]):
        one = example(f"builtin:{number}")
        encoder = dataclasses.replace(one.encoder, parameters=parameters)
        dataclasses.replace(one, encoder=encoder).save(tmp_path / f"{number}.json")
    collection = load_results(tmp_path)
    for reverse, expected in ((False, [3, 5, None]), (True, [5, 3, None])):
        rows = tables.leaderboard(collection, sort="parameters", reverse=reverse).rows()
        assert [row["parameters"] for row in rows] == expected


def test_formats_on_standard_output(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    texts = {}
    for kind in ("table", "csv", "markdown", "json", "none"):
        assert run("report", folder, "--format", kind, "--html", "none") == 0
        texts[kind] = capsys.readouterr().out
    rows = list(csv.DictReader(io.StringIO(texts["csv"])))
    found = tables.leaderboard(load_results(folder)).rows()
    assert [float(one["score_eps0_a0.6"]) for one in rows] == [one["score_eps0_a0.6"] for one in found]
    assert rows[0]["reason"] == ""
    assert json.loads(texts["json"])["boards"][0]["rows"] == found
    assert texts["none"] == ""
    first = str(found[0]["encoder"])
    assert texts["table"].splitlines()[2].startswith(first)
    assert "simulated over all pairs" in texts["table"]
    lines = [one for one in texts["markdown"].splitlines() if one.startswith("|")]
    assert len(lines) == 7 and len({len(re.split(r"(?<!\\)\|", one)) for one in lines}) == 1


def test_long_tables_are_aligned_as_short_ones(folder: Path) -> None:
    found = tables.leaderboard(load_results(folder))
    columns, rows = tables._shown(found.tables[0])
    one, two = io.StringIO(), io.StringIO()
    tables._print_plain(one, columns, rows)
    from synbench_fast.printable import print_table

    print_table(two, columns, rows, left=1)
    assert one.getvalue().split() == two.getvalue().split()
    assert len({line.find("rank") for line in one.getvalue().splitlines()[:1]}) == 1


def test_failures_and_hostile_names_in_markdown(tmp_path: Path) -> None:
    example("builtin:a|b*c<i>").save(tmp_path / "a.json")
    found = tables.leaderboard(load_results(tmp_path, [Failure(encoder="x|y", reason="line one\nline two")]))
    stream = io.StringIO()
    tables.write_markdown(stream, found)
    text = stream.getvalue()
    assert "builtin:a\\|b\\*c&lt;i&gt;" in text
    assert "| x\\|y | line one line two |" in text
    stream = io.StringIO()
    tables.print_tables(stream, found)
    assert "failed: x|y: line one line two\n" in stream.getvalue()


def test_files(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    parquet = pytest.importorskip("pyarrow.parquet")
    names = {kind: folder / f"out.{kind}" for kind in ("csv", "markdown", "parquet")}
    options = [part for kind, path in names.items() for part in (f"--{kind}", str(path))]
    assert run("report", folder, "--format", "none", *options) == 0
    said = capsys.readouterr().err.splitlines()
    assert said[-1] == f"wrote {folder / 'report.html'}" and len(said) == 4
    found = tables.leaderboard(load_results(folder))
    table = parquet.read_table(names["parquet"])
    assert table.column_names == found.columns
    assert table.to_pylist() == found.rows()
    assert len(names["csv"].read_text(encoding="utf-8").splitlines()) == 6
    assert names["markdown"].read_text(encoding="utf-8").startswith("**pattern uniform, white noise")


# The page


def data_of(text: str) -> Any:
    return json.loads(text.split('<script type="application/json" id="data">')[1].split("</script>")[0])


def test_page_holds_everything_and_asks_for_nothing(folder: Path) -> None:
    text = html.page(tables.leaderboard(load_results(folder)))
    assert len(text) < 120_000
    addresses = set(re.findall(r"https?://[^\s\"'<)]+", text))
    assert addresses == {"http://www.w3.org/2000/svg"}  # a name space, no address
    assert not re.search(r"<(?:link|img|iframe|object|embed)\b(?![^>]*href=\"data:)", text)
    assert not re.search(r"\b(?:fetch|XMLHttpRequest|importScripts|WebSocket|eval|innerHTML)\b", text)
    policy = re.search(r'Content-Security-Policy" content="([^"]+)"', text)
    assert policy and "default-src 'none'" in policy[1]
    for tag in ("script", "style"):
        (body,) = re.findall(rf"<{tag}>(.*?)</{tag}>", text, re.S)
        digest = base64.b64encode(hashlib.sha256(body.encode()).digest()).decode()
        assert f"{tag}-src 'sha256-{digest}'" in policy[1]
    board = data_of(text)["boards"][0]
    numbers = np.frombuffer(base64.b64decode(board["numbers"]), "<f4").reshape(5, 1, 2, 2, 4)
    members = boards(load_results(folder).items)[0].members
    for row, one in zip(numbers, members, strict=True):
        expected = [(s.score, s.stderr, s.ci95_low, s.ci95_high) for s in one.first.scores]
        assert row.reshape(4, 4) == pytest.approx(np.array(expected), rel=1e-6, nan_ok=True)
    curves = np.frombuffer(base64.b64decode(board["tasks"][0]["curves"]), "<f4").reshape(5, 6, 2, 3)
    for row, place in zip(curves, board["drawn"], strict=True):
        points = [(p.accuracy, p.robust_accuracy, p.bound) for p in members[place].first.curve]
        known = np.array(points).reshape(6, 2, 3)
        assert np.allclose(row, np.where(np.isinf(known), np.nan, known), equal_nan=True)
    assert len(board["ranks"]) == 4  # at every budget and threshold


def test_hostile_text_stays_in_the_data(tmp_path: Path) -> None:
    example("builtin:" + HOSTILE, warnings=[HOSTILE, "<!--\u2028"], command=HOSTILE).save(tmp_path / "a.json")
    found = tables.leaderboard(load_results(tmp_path, [Failure(encoder=HOSTILE, reason=HOSTILE)]))
    text = html.page(found)
    assert text.count("</script>") == 2 and "<img" not in text and "\u2028" not in text
    data = data_of(text)
    assert data["boards"][0]["members"]["warnings"] == [[HOSTILE, "<!--\u2028"]]
    assert data["failures"] == [[HOSTILE, HOSTILE]]


def test_page_names_files_without_curves(folder: Path) -> None:
    (folder / "0.npz").write_bytes((folder / "1.npz").read_bytes())
    collection = load_results(folder)
    assert len(collection.items) == 5 and collection.problems == []
    found = tables.leaderboard(collection)
    (problem,) = found.collection.problems
    assert problem.startswith(f"{folder / '0.npz'}: expected the arrays that 0.json was saved with (sha256 ")
    assert data_of(html.page(found))["problems"] == [problem]
    assert [one is None for one in found.tables[0].rankings[0].ranks] == [True, *[False] * 4]


def test_only_the_best_have_curves(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(html, "_CURVES", 2)
    board = data_of(html.page(tables.leaderboard(load_results(folder))))["boards"][0]
    assert len(board["drawn"]) == 2 and len(board["members"]["spec"]) == 5


# Export


@pytest.mark.parametrize("library", ["pandas", "polars"])
def test_frames(library: str, folder: Path, scored: list[Result]) -> None:
    pytest.importorskip(library)
    suite().save(folder / "suite.json")
    read = sb.report.frame(folder, library)
    given = sb.report.frame([*scored, suite()], library)
    for one in (read, given):
        assert list(one.columns) == list(export.FRAME_COLUMNS)
        assert len(one) == 5 * 4 + 2 * 4
    expected = [row["score"] for result in [*scored, *suite().results] for row in result.rows()]
    assert sorted(read["score"].to_list()) == sorted(given["score"].to_list()) == sorted(expected)
    assert set(read["task"].to_list()[-8:]) == {"a", "b"}


def test_frame_of_unknown_values(tmp_path: Path) -> None:
    pandas = pytest.importorskip("pandas")
    one = example()
    hidden = dataclasses.replace(one.encoder, parameters=None, weights_sha256="")
    unknown = [dataclasses.replace(s, stderr=math.nan) for s in one.scores]
    found = sb.report.frame([dataclasses.replace(one, encoder=hidden, scores=unknown)])
    assert found["parameters"].isna().all() and str(found["parameters"].dtype) == "Int64"
    assert found["stderr"].isna().all() and found["score"].notna().all()
    assert isinstance(found, pandas.DataFrame)


def test_model_cards_are_what_the_hub_takes(tmp_path: Path) -> None:
    yaml = pytest.importorskip("yaml")
    hub = pytest.importorskip("huggingface_hub")
    from huggingface_hub.repocard_data import model_index_to_eval_results

    name = 'conv: "x" # é'
    example("builtin:conv").save(tmp_path / "a.json")
    suite("builtin:conv").save(tmp_path / "b.json")
    text = sb.report.model_card(load_results(tmp_path).items, name=name)
    index = yaml.safe_load(text)["model-index"]
    found, results = model_index_to_eval_results(index)
    assert found == name
    assert hub.ModelCardData(model_name=found, eval_results=results).to_dict()["model-index"] == index
    values = [one.metric_value for one in results]
    # the suite's first task is the single result again, and is there once
    assert values == pytest.approx([0.84, 0.64, 0.61, 0.64, 0.44, 0.61])
    card = hub.ModelCard(f"---\n{text}---\n# Model\n")
    assert card.data.eval_results == results


def test_model_cards_hold_the_tasks_of_families(tmp_path: Path) -> None:
    yaml = pytest.importorskip("yaml")
    families = [family("texture-0.5", 0.3, 0.9), family("shift-2", 0.2, 1.0)]
    dataclasses.replace(suite(), families=families).save(tmp_path / "a.json")
    (index,) = yaml.safe_load(sb.report.model_card(load_results(tmp_path).items))["model-index"]
    found = [one for one in index["results"] if one["dataset"]["name"] == "SynBench task family"]
    assert [one["metrics"][0]["value"] for one in found] == [0.3, 0.2]
    for one, there in zip(families, found, strict=True):
        assert f"task {one.task}, " in there["dataset"]["config"]
        assert f"{one.classes} classes, {one.samples} samples" in there["dataset"]["config"]
        assert there["metrics"][0]["name"] == f"SynBench family score, standard error {one.stderr:.2g}"


def test_model_cards_say_why_an_interval_is_withheld(tmp_path: Path) -> None:
    yaml = pytest.importorskip("yaml")
    one = example()
    scores = [dataclasses.replace(s, stderr=math.nan) if s.eps == 0.0 else s for s in one.scores]
    area = dataclasses.replace(one.robust_area, stderr=math.nan)
    places = ", ".join(f"{s.threshold:g} at eps 0" for s in one.scores if s.eps == 0.0)
    warnings = [
        f"{WITHHELD} above {places}: margins pile up",
        f"{WITHHELD} of the robust area: equal margins",
    ]
    changed = dataclasses.replace(one, scores=scores, robust_area=area, warnings=warnings)
    changed.save(tmp_path / "a.json")
    (index,) = yaml.safe_load(sb.report.model_card(load_results(tmp_path).items))["model-index"]
    first, second, *_, last = (metric["name"] for metric in index["results"][0]["metrics"])
    assert first == "SynBench score, eps 0, above accuracy 0.6, interval withheld: margins pile up"
    assert "standard error" in second
    assert last == "SynBench robust area, interval withheld: equal margins"


def test_mlflow_gets_runs(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("mlflow")
    from mlflow.tracking import MlflowClient

    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    suite().save(folder / "suite.json")
    store = (tmp_path / "store").as_uri()
    assert run("export", folder, "--to", "mlflow", "--uri", store, "--project", "p") == 0
    client = MlflowClient(tracking_uri=store)
    experiment = client.get_experiment_by_name("p")
    runs = client.search_runs([experiment.experiment_id])
    assert len(runs) == 6 and {one.info.status for one in runs} == {"FINISHED"}
    result = Result.load(folder / "3.json")
    (one,) = [r for r in runs if r.info.run_name == result.encoder.spec]
    assert one.data.metrics["score_eps0_a0.6"] == result.score(0.0, 0.6).score
    assert one.data.params["feature_dim"] == str(result.encoder.feature_dim)
    history = client.get_metric_history(one.info.run_id, "curve/accuracy_eps0")
    assert [point.value for point in history] == pytest.approx(
        [point.accuracy for point in result.curve if point.eps == 0.0], rel=1e-6
    )
    assert [item.path for item in client.list_artifacts(one.info.run_id)] == ["3.json", "3.npz"]
    (two,) = [r for r in runs if r.info.run_name == "builtin:conv"]
    assert two.data.metrics["worst_eps0.2_a0.6"] == suite().score(0.2, 0.6).worst
    assert run("export", folder, "--to", "mlflow", "--uri", store, "--project", "p") == 0
    assert len(client.search_runs([experiment.experiment_id])) == 12


def test_mlflow_without_a_store(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("mlflow")
    assert run("export", folder, "--to", "mlflow", "--uri", "nonsense://x") == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: mlflow: expected a store that takes runs, got: ")


def test_wandb_keeps_runs_offline(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    wandb = pytest.importorskip("wandb")
    for name in ("WANDB_CACHE_DIR", "WANDB_CONFIG_DIR", "WANDB_DATA_DIR"):
        monkeypatch.setenv(name, str(tmp_path / "cache"))
    spec = Result.load(folder / "2.json").encoder.spec
    place = tmp_path / "w"
    assert run("export", folder, "--to", "wandb", "--offline", "--out", place, "--encoder", spec) == 0
    wandb.teardown()  # its service writes in a process of its own; the end of the command waits for it
    (one,) = place.glob("wandb/offline-run-*/run-*.wandb")
    stored = one.read_bytes()
    for text in (spec, "score_eps0_a0.6", "curve/accuracy_eps0.2", "weights_sha256"):
        assert text.encode() in stored


# Mistakes


def missing(monkeypatch: pytest.MonkeyPatch, *modules: str) -> None:
    for module in modules:
        monkeypatch.setitem(sys.modules, module, None)


@pytest.mark.parametrize(
    ("module", "arguments", "extra"),
    [
        ("mlflow", ("export", "--to", "mlflow"), "mlflow"),
        ("wandb", ("export", "--to", "wandb"), "wandb"),
        ("pyarrow", ("report", "--format", "none", "--parquet", "x.parquet"), "parquet"),
    ],
)
def test_missing_packages_name_their_extra(
    module: str,
    arguments: tuple[str, ...],
    extra: str,
    folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    missing(monkeypatch, module)
    assert run(arguments[0], str(folder), *arguments[1:]) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line.endswith(f'pip install "synbench-fast[{extra}]"')


@pytest.mark.parametrize("library", ["pandas", "polars"])
def test_missing_frame_libraries_name_their_extra(library: str, monkeypatch: pytest.MonkeyPatch) -> None:
    missing(monkeypatch, library)
    with refused(f'pip install "synbench-fast[{library}]"'):
        sb.report.frame([example()], library)


def test_frame_mistakes(folder: Path) -> None:
    with refused("library: expected", "did you mean polars?"):
        sb.report.frame([example()], "polar")
    with refused("results: expected at least one"):
        sb.report.frame([])
    (folder / "bad.json").write_text("{", encoding="utf-8")
    with refused("bad.json: expected a JSON document"):
        sb.report.frame(folder)


def test_one_bad_file_does_not_stop_the_others(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (folder / "a.json").write_text("{", encoding="utf-8")
    (folder / "b.json").write_text('{"schema": "else"}', encoding="utf-8")
    (folder / "c.json").write_bytes(b"\xff\xfe")
    assert run("report", folder) == 1
    captured = capsys.readouterr()
    errors = [one for one in captured.err.splitlines() if one.startswith("error: ")]
    assert [one.split(": ")[1] for one in errors] == [str(folder / f"{name}.json") for name in "abc"]
    assert len(captured.out.partition("verdict: ")[0].splitlines()) == 8
    text = (folder / "report.html").read_text(encoding="utf-8")
    assert len(data_of(text)["problems"]) == 3


@pytest.mark.parametrize(
    ("arguments", "code", "parts"),
    [
        (("report",), 2, ("DIR: expected the directory",)),
        (("report", "DIR/none"), 1, ("DIR: expected a directory of results", "none")),
        (("report", "DIR/empty"), 1, ("DIR: expected files *.json", "got none")),
        (("report", "DIR/foreign/x.json"), 1, ("DIR: expected a directory", "did you mean the directory it is in, '")),
        (("report", "DIR/foreign"), 1, ("DIR: expected at least one result", "1 files")),
        (("report", "DIR", "--sort", "scor"), 1, ("sort: expected a column", "did you mean score?")),
        (("report", "DIR", "--sort", "image_per_second"), 1, ("did you mean images_per_second?",)),
        (("report", "DIR", "--eps", "0.1"), 1, ("eps: expected values that results have (0, 0.2), got 0.1",)),
        (("report", "DIR", "--thresholds", "0.9"), 1, ("thresholds: expected values", "(0.6, 0.8), got 0.9")),
        (("report", "DIR", "--eps", "x"), 2, ("--eps: expected comma-separated",)),
        (("report", "DIR", "--thresholds", "2"), 2, ("--thresholds: expected comma-separated",)),
        (("report", "DIR", "--format", "cvs"), 2, ("--format: expected one of", "did you mean csv?")),
        (("report", "DIR", "--html", "DIR/none/x.html"), 1, ("x.html: expected a file that can be written",)),
        (("report", "DIR", "--csv", "DIR/none/x.csv"), 1, ("x.csv: expected a file that can be written",)),
        (
            ("report", "DIR", "--parquet", "DIR/none/x.parquet"), 1,
            ("x.parquet: expected a file that can be written",),
        ),
        (("export", "DIR"), 2, ("--to: expected one of mlflow, wandb, model-card, got none",)),
        (("export", "DIR", "--to", "mlfow"), 2, ("--to: expected one of", "did you mean mlflow?")),
        (("export", "DIR", "--to", "model-card"), 1, ("encoder: expected one for a model card, got 5",)),
        (("export", "DIR", "--to", "wandb", "--uri", "x"), 2, ("--uri: expected only with --to mlflow",)),
        (("export", "DIR", "--to", "mlflow", "--offline"), 2, ("--offline: expected only with --to wandb",)),
        (("export", "DIR", "--to", "mlflow", "--out", "x"), 2, ("--out: expected only with --to wandb",)),
        (("export", "DIR", "--to", "mlflow", "--encoder", "nobody"), 1, ("encoder: expected one of 5",)),
    ],
)  # fmt: skip
def test_mistakes_are_one_line(
    arguments: tuple[str, ...],
    code: int,
    parts: tuple[str, ...],
    folder: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    (folder / "empty").mkdir()
    (folder / "foreign").mkdir()
    (folder / "foreign" / "x.json").write_text("[]", encoding="utf-8")
    given = [str(folder) + one.removeprefix("DIR") if one.startswith("DIR") else one for one in arguments]
    if given[0] == "report" and len(given) > 1 and "--html" not in given:
        given += ["--html", "none"]
    assert run(*given) == code
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: ")
    for part in parts:
        assert part in line


def test_no_score_no_card(tmp_path: Path) -> None:
    one = example()
    nothing = [dataclasses.replace(s, score=math.nan) for s in one.scores]
    area = dataclasses.replace(one.robust_area, value=math.nan)
    dataclasses.replace(one, scores=nothing, robust_area=area).save(tmp_path / "a.json")
    with refused("encoder: expected a finite score"):
        sb.report.model_card(load_results(tmp_path).items)
