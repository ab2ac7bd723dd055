"""The sentences that say which encoder to take: what they are made of, how often they are right, and how they read."""

from __future__ import annotations

import dataclasses
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from report_cases import structured, suite
from result_example import example

import synbench_fast as sb
from synbench_fast.cli.main import main
from synbench_fast.report.verdict import Measure, _independent, _plural, judge, verdict
from synbench_fast.results.records import Result


def measure(values: list[float], stderr: list[float], **more: Any) -> Measure:
    return Measure(name="score", values=values, reach=_independent(stderr), **more)


def test_what_is_tied_and_what_would_separate_it() -> None:
    found = judge(measure([0.5, 0.2, 0.48], [0.01, 0.01, 0.02]))
    assert found is not None and (found.best, found.tied, found.nearest) == (0, [2], 2)
    quantile = 2.3877  # Sidak's of three pairs: Phi^-1((1 + 0.95^(1/3)) / 2)
    assert found.times == pytest.approx((quantile * math.hypot(0.01, 0.02) / 0.02) ** 2, rel=1e-4)
    # With as many images the difference is as large as its reach.
    again = judge(
        measure([0.5, 0.2, 0.48], [0.01 / found.times**0.5, 0.01, 0.02 / found.times**0.5 * (1 - 1e-9)])
    )
    assert again is not None and again.tied == []


def test_one_structure_score_alone_is_named_as_missing_elsewhere() -> None:
    found = verdict([structured(example("a:b"), 0.4, 0.01), example("c:d")])
    assert found[0].startswith("verdict: take ") and "scores eps=0" in found[0]
    assert "not compared, because there is no structure score: c:d" in found


def test_values_that_are_not_known_take_no_part() -> None:
    assert judge(measure([0.5, math.nan], [0.1, 0.1])) is None
    assert judge(measure([0.5, 0.1], [0.1, math.nan])) is None
    found = judge(measure([math.nan, 0.5, 0.1], [0.1, 0.01, 0.01]))
    assert found is not None and (found.best, found.tied) == (1, [])
    equal = judge(measure([0.5, 0.5], [0.0, 0.0]))
    assert equal is not None and equal.tied == [1] and equal.times == math.inf


def test_equal_encoders_are_told_apart_in_at_most_five_per_cent() -> None:
    rng = np.random.default_rng(0)
    wrong = 0
    for _ in range(2000):
        errors = rng.uniform(0.5, 2, 6)
        found = judge(measure((errors * rng.standard_normal(6)).tolist(), errors.tolist()))
        assert found is not None
        wrong += len(found.tied) < 5
    # Of all differences with the largest value; 5 % of 2000 and three standard errors of the count.
    assert wrong <= 100 + 3 * math.sqrt(95)


def lines(*scores: tuple[str, float], stderr: float = 0.01) -> list[str]:
    return verdict([structured(example(name), score, stderr) for name, score in scores])


def test_sentences_of_structure_scores() -> None:
    assert verdict([structured(example("a:a"), 0.5)]) == []
    first, *_ = lines(("a:a", 0.1), ("a:b", 0.5), ("a:c", 0.3))
    assert first == "verdict: take a:b: its structure score is the largest, with 95 % confidence"
    first, second, *_ = lines(("a:a", 0.1), ("a:b", 0.5), ("a:c", 0.48))
    assert (
        first == "verdict: take a:b or a:c: their structure scores cannot be told apart with 95 % confidence"
    )
    assert second.startswith("if the difference is real, about ") and second.endswith(
        " would separate a:b and a:c"
    )
    _, second, *_ = lines(("a:a", 0.5), ("a:b", 0.4999))
    assert second == "more images would hardly separate a:a and a:b"
    first, *_ = lines(*((f"a:{k}", 0.5) for k in range(7)))
    assert first.startswith("verdict: take a:0, a:1, a:2 or 4 more: their")
    first, *_ = lines(("a:a", 0.04), ("a:b", 0.01))  # 0.04 - 1.96 x 0.01 is no more than pixels may have
    assert first == "verdict: none, because no structure score is clearly above the 0.025 that pixels reach"


def test_any_encoder_may_be_clearly_above_the_pixels() -> None:
    """The largest score need not be the one that is known best."""
    first, *_ = verdict([structured(example("a:a"), 0.06, 0.03), structured(example("a:b"), 0.055, 0.002)])
    assert first.startswith("verdict: take a:a or a:b: ")


def test_a_number_without_an_error_is_said_to_take_no_part() -> None:
    doubtful = structured(example("a:a"), 0.9, math.nan)
    found = verdict([doubtful, structured(example("a:b"), 0.5), structured(example("a:c"), 0.1)])
    assert found[0] == "verdict: take a:b: its structure score is the largest, with 95 % confidence"
    assert found[1] == "not compared, because there is no error of the structure score: a:a"


def test_numbers_in_the_plural() -> None:
    assert "their scores eps=0 cannot" in verdict([example("a:a"), example("a:b")])[0]
    names = ("structure score", "robust area", "mean of the families", "mean eps=0.2")
    assert [_plural(one) for one in names] == [
        "structure scores", "robust areas", "means of the families", "means eps=0.2",
    ]  # fmt: skip


def test_scores_are_compared_where_all_have_them_and_as_asked() -> None:
    """Encoder a:b is the best above 0.7 alone, which is the only threshold that both have."""
    two = example("a:b")
    high = [dataclasses.replace(one, score=0.99) for one in two.scores if one.threshold == 0.7]
    two = dataclasses.replace(two, thresholds=[0.7], scores=high)
    wanted = "verdict: take a:b: its score eps=0 is the largest, with 95 % confidence"
    assert verdict([example("a:a"), two])[0] == verdict([two, example("a:a")])[0] == wanted
    both = dataclasses.replace(
        example("a:b"),
        scores=[
            dataclasses.replace(one, score=0.99 if one.threshold == 0.7 else 0.1) for one in example().scores
        ],
    )
    assert verdict([example("a:a"), both], thresholds=[0.7])[0] == wanted
    assert "take a:a: its score eps=0 " in verdict([example("a:a"), both])[0]
    assert "take a:b: its score eps=0.2 " in verdict([example("a:a"), both], eps=[0.2], thresholds=[0.7])[0]


def with_scores(name: str, value: float, structure: float) -> Result:
    one = structured(example(name), structure)
    return dataclasses.replace(one, scores=[dataclasses.replace(at, score=value) for at in one.scores])


def test_a_number_that_puts_another_one_first_is_named() -> None:
    high, low = with_scores("a:a", 0.9, 0.1), with_scores("a:b", 0.1, 0.5)
    *_, last = verdict([high, low])
    assert last.startswith("but score eps=0") and last.endswith(" a:a first")
    assert not any(
        "but" in line for line in verdict([with_scores("a:a", 0.1, 0.1), with_scores("a:b", 0.9, 0.5)])
    )
    assert not any("but" in line for line in verdict([high, with_scores("a:b", 0.9, 0.5)]))  # the same


def test_without_structure_scores_the_first_score_decides_as_compare_does() -> None:
    """Scores of the same samples are closer than their own errors say, and only `compare` knows."""
    options: dict[str, Any] = {
        "input_shape": (24,),
        "scales": 6,
        "samples": 256,
        "eps": (0.0, 0.2),
        "device": "cpu",
    }
    one = sb.score("builtin:linear?dim=13", **options)
    two = sb.score("builtin:linear?dim=17", **options)
    for unpaired, tie in ((False, False), (True, True)):
        (difference,) = sb.compare(one, two, eps=0.0, unpaired=unpaired).differences
        first, *_ = verdict([one, two], unpaired=unpaired)
        assert ("cannot be told apart" in first) == difference.tie == tie and " eps=0" in first
    assert verdict([one, dataclasses.replace(one)])[0].startswith("verdict: take ")


def test_who_has_none_and_other_shapes_are_named() -> None:
    vector = example("a:v")
    vector = dataclasses.replace(vector, task=dataclasses.replace(vector.task, shape=(24,)))
    found = verdict([structured(example("a:a"), 0.5), structured(example("a:b"), 0.1), vector])
    assert "not compared, because there is no structure score: a:v" in found
    assert "input shapes differ: give all encoders one --input-shape to compare them" in found


def test_compare_takes_folders_and_suites(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    single, suites = tmp_path / "single", tmp_path / "suites"
    single.mkdir(), suites.mkdir()
    for number, score in enumerate((0.1, 0.5)):
        with_scores(f"a:{number}", 0.3 + score, score).save(single / f"{number}.json")
        suite(f"a:{number}", score).save(suites / f"{number}.json")
    assert main(["compare", str(single), "--unpaired"]) == 0
    out = capsys.readouterr().out.splitlines()
    assert out[-1] == "verdict: take a:1: its structure score is the largest, with 95 % confidence"
    assert main(["compare", *map(str, sorted(single.glob("*.json"))), "--unpaired", "--format", "json"]) == 0
    assert json.loads(capsys.readouterr().out)["differences"]
    assert main(["compare", "--unpaired", str(suites)]) == 0
    out = capsys.readouterr().out.splitlines()
    tasks = suite().tasks
    assert [line for line in out if line.startswith("task ")] == [f"task {name}" for name in tasks]
    assert out[-1].startswith(
        "verdict: take a:0: its mean"
    )  # the made-up suite has less score with a larger shift
    assert main(["compare", "--unpaired", str(suites), "--format", "csv"]) == 0
    header, *rows = capsys.readouterr().out.splitlines()
    assert header.startswith("task,eps,threshold,first,second") and len(rows) % len(tasks) == 0
    assert main(["compare", "--unpaired", str(suites), "--format", "json"]) == 0
    assert list(json.loads(capsys.readouterr().out)) == tasks
    assert main(["compare", "--unpaired", str(suites), str(single)]) == 2
    assert "expected results of one kind, got 2 of single tasks and 2 of suites" in capsys.readouterr().err
    (single / "0.json").unlink()
    assert main(["compare", str(single)]) == 2
    assert "expected at least two results to compare, got 1" in capsys.readouterr().err


def scored(*names: str) -> list[Result]:
    """Results of small random projections, with structure scores of their own."""
    results = [
        sb.score(one, input_shape=(24,), scales=6, samples=128, eps=(0.0,), device="cpu") for one in names
    ]
    return [structured(one, 0.5 - 0.1 * place) for place, one in enumerate(results)]


def test_comparison_in_python_says_what_the_command_says(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    results = scored("builtin:linear?dim=13", "builtin:linear?dim=17")
    for place, one in enumerate(results):
        one.save(tmp_path / f"{place}.json")
    text = str(sb.compare(*results))
    assert main(["compare", str(tmp_path / "0.json"), str(tmp_path / "1.json")]) == 0
    assert capsys.readouterr().out == text + "\n"
    assert (
        "\nverdict: take builtin:linear?dim=13: its structure score is the largest, with 95 % confidence"
        in text
    )
    found = sb.compare(*results).to_dict()
    assert found["verdict"] == verdict(results)
    assert found["structure"]["builtin:linear?dim=17"]["families"][0]["score"] == 0.4


def test_families_of_encoders_stand_side_by_side() -> None:
    one, two = scored("builtin:linear?dim=13", "builtin:linear?dim=17")
    rows = [line.split() for line in str(sb.compare(two, one)).splitlines()]
    at = rows.index(["encoder", "structure", "texture"])
    assert rows[at + 1] == ["builtin:linear?dim=13", "0.5000", "\u00b1", "0.0100", "0.500"]
    assert rows[at + 2] == ["builtin:linear?dim=17", "0.4000", "\u00b1", "0.0100", "0.400"]


def test_of_many_results_a_table_has_the_pairs_of_the_best_and_says_what_it_leaves_out() -> None:
    results = scored(*(f"builtin:linear?dim={k}" for k in (3, 9, 11, 13, 17, 23)))
    comparison = sb.compare(*results)
    assert len(comparison.differences) == 15
    text = str(comparison)
    pairs = [line for line in text.splitlines() if " - builtin:" in line]
    assert len(pairs) == 5 and all(comparison.ranking[0].encoder in line for line in pairs)
    assert "pairs without the first: 10 more" in text
    few = str(sb.compare(*results[:4]))
    assert few.count(" - builtin:") == 6 and "pairs without" not in few


def test_an_encoder_scored_twice_has_two_names() -> None:
    found = lines(("a:a", 0.5), ("a:b", 0.1), ("a:a", 0.5))
    assert found[0].startswith("verdict: take a:a (1) or a:a (2): ")


def test_a_pattern_of_the_shell_may_name_arrays_too(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for place, one in enumerate(scored("builtin:linear?dim=13", "builtin:linear?dim=17")):
        one.save(tmp_path / f"{place}.json")
    files = sorted(map(str, tmp_path.iterdir()))
    assert len(files) == 4 and main(["compare", *files]) == 0
    assert "verdict: take builtin:linear?dim=13" in capsys.readouterr().out
    (tmp_path / "alone.npz").write_bytes(b"PK")
    assert main(["compare", *files, str(tmp_path / "alone.npz")]) == 1
    assert "alone.npz: expected " in capsys.readouterr().err
