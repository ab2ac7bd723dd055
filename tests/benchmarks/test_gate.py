"""The gate on speed: its statistics on simulated noise, and what it times; no test looks at how long anything takes."""

from __future__ import annotations

import json
import math
import random
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from scipy.stats import wilcoxon

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))

import gate
from gate_statistics import ORDERS, critical, judge, log_ratio, needed_blocks, walsh

ROOT = Path(__file__).parents[2]
CASES, BLOCKS, MARGIN, ALPHA = 11, 24, 1.05, 0.05


@pytest.mark.parametrize(("n", "level", "sum_below"), [(10, 0.05, 10), (12, 0.025, 13), (20, 0.01, 43)])
def test_critical_values_are_the_published_ones(n: int, level: float, sum_below: int) -> None:
    """Table A.4 of Hollander and Wolfe: the largest sum of ranks whose tail is at most the level."""
    assert critical(n, level) == sum_below + 1


def test_bounds_reject_exactly_where_the_signed_rank_test_does() -> None:
    draw = random.Random(0)
    disagreed = rejected = 0
    for _ in range(200):
        values = [draw.gauss(0.1, 0.2) for _ in range(15)]
        low = walsh(values)[critical(15, 0.01) - 1]
        test = wilcoxon(values, alternative="greater", method="exact").pvalue <= 0.01
        rejected += test
        disagreed += (low > 0) != test
    assert disagreed == 0
    assert 20 < rejected < 180


def simulated(draw: random.Random, ratio: float) -> dict[str, list[float]]:
    """Log ratios under a clock that drifts by a third, wanders, and every tenth time stops for a while."""
    found: dict[str, list[float]] = {}
    for case in range(CASES):
        level, slope = 0.0, draw.uniform(-0.3, 0.3) / (4 * BLOCKS)
        blocks = []
        for _ in range(BLOCKS):
            order, seconds = draw.choice(ORDERS), []
            for arm in order:
                level += slope + draw.gauss(0, 0.01)
                spike = draw.uniform(0.5, 3.0) if draw.random() < 0.1 else 0.0
                own = math.log(ratio) if arm == "B" else 0.0
                seconds.append(math.exp(level + own + draw.gauss(0, 0.03)) + spike)
            blocks.append(log_ratio(order, seconds))
        found[str(case)] = blocks
    return found


def test_false_alarms_are_as_rare_as_asked() -> None:
    """Where every case is as slow as is allowed, the hardest that no alarm may come from."""
    draw, runs = random.Random(1), 300
    alarms = sum(
        any(one.regressed for one in judge(simulated(draw, MARGIN), margin=MARGIN, alpha=ALPHA))
        for _ in range(runs)
    )
    assert alarms / runs <= ALPHA + 2.6 * math.sqrt(ALPHA * (1 - ALPHA) / runs)


def test_one_case_slower_by_a_fifth_is_found_and_no_other() -> None:
    draw, runs = random.Random(2), 100
    found = 0
    for _ in range(runs):
        blocks = {**simulated(draw, 1.0), "3": simulated(draw, 1.2)["3"]}
        verdicts = judge(blocks, margin=MARGIN, alpha=ALPHA)
        found += [one.case for one in verdicts if one.regressed] == ["3"]
        assert all(one.low <= one.ratio <= one.high for one in verdicts)
    assert found >= 0.95 * runs


def test_a_block_counts_each_commit_once_and_ignores_a_spike() -> None:
    assert log_ratio("ABBA", [1.0, 9.0, 1.2, 1.1]) == pytest.approx(math.log(1.2))
    assert log_ratio("BAAB", [1.2, 1.0, 9.0, 1.3]) == pytest.approx(math.log(1.2))


def test_a_drift_favours_neither_commit() -> None:
    drift = [1.0, 1.1, 1.2, 1.3]
    assert log_ratio("ABBA", drift) == pytest.approx(-log_ratio("BAAB", drift))


def test_too_few_blocks_are_refused() -> None:
    assert needed_blocks(0.05, 11) == 8
    with pytest.raises(ValueError, match="one: expected at least 5 blocks, got 4"):
        judge({"one": [0.0] * 4}, margin=1.05, alpha=0.05)


class Fake:
    """A worker whose clock is exact."""

    def __init__(self, seconds: dict[str, float], **changes: Any) -> None:
        self.seconds, self.changes, self.asked, self.case = seconds, changes, [], ""

    def ask(self, what: str, **details: Any) -> Any:
        self.asked.append((what, details))
        if what == "list":
            return list(self.seconds)
        if what == "prepare":
            self.case = details["case"]
            told = {"unit": "item", "work": 3, "note": "", "error": 0.0, "tolerance": 1e-9, "seconds": 0.01}
            return told | self.changes.get(self.case, {})
        return {"seconds": details["runs"] * self.seconds[self.case]}


@pytest.fixture
def faked(monkeypatch: pytest.MonkeyPatch) -> dict[str, Fake]:
    both = {
        "A": Fake({"score_auc[1]": 0.01, "old": 1.0}),
        "B": Fake({"score_auc[1]": 0.01, "score_sweep": 1.0}),
    }

    @contextmanager
    def workers(trees: object) -> Iterator[dict[str, Fake]]:
        yield both

    monkeypatch.setattr(gate, "workers", workers)
    monkeypatch.setattr(gate, "resolve", lambda name: None if name == "nothing" else name * 10)
    monkeypatch.setattr(gate, "build", lambda commit: Path(commit))
    return both


def test_gate_passes_equal_speed_and_fails_a_slower_head(
    faked: dict[str, Fake], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "rows.jsonl"
    assert gate.main(["--blocks", "4", "--out", str(out), "a", "b"]) == 0
    assert "| score_auc[1] | 1.000 | 1.000 to 1.000 | no |" in capsys.readouterr().out
    times = [details for what, details in faked["A"].asked if what == "time"]
    assert len(times) == 2 * 12 and {one["runs"] for one in times} == {5}

    faked["B"].seconds["score_auc[1]"] = 0.012
    assert gate.main(["--blocks", "4", "--out", str(out), "a", "b"]) == 1
    assert "| score_auc[1] | 1.200 | 1.200 to 1.200 | YES |" in capsys.readouterr().out
    first, second = map(json.loads, out.read_text().splitlines())
    assert (first["regressed"], second["regressed"]) == (False, True)
    assert (second["base"], len(second["log_ratios"])) == ("a" * 10, 12)
    assert gate.main(["--blocks", "4", "--margin", "1.3", "a", "b"]) == 0


def test_a_wrong_result_is_not_timed_and_fails(
    faked: dict[str, Fake], capsys: pytest.CaptureFixture[str]
) -> None:
    faked["B"].changes["score_auc[1]"] = {"error": float("nan")}
    assert gate.main(["a", "b"]) == 1
    assert "score_auc[1]: wrong in head, not timed" in capsys.readouterr().err
    assert all(what != "time" for worker in faked.values() for what, _ in worker.asked)


def test_a_case_of_another_size_is_left_out(
    faked: dict[str, Fake], capsys: pytest.CaptureFixture[str]
) -> None:
    faked["A"].changes["score_auc[1]"] = {"work": 4}
    assert gate.main(["a", "b"]) == 0
    assert "score_auc[1]: left out, its sizes changed" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["a", "nothing"], "commit: expected one of this repository, got 'nothing'"),
        (
            ["--case", "none", "a", "b"],
            "--case: expected part of the name of a case that both have, got none",
        ),
        (["--blocks", "1", "a", "b"], "--blocks: expected 5 or more in all for 1 cases, got 3"),
        (["--margin", "0.9", "a", "b"], "--margin: expected at least 1, got 0.9"),
        (["--alpha", "1", "a", "b"], "--alpha: expected between 0 and 1, got 1.0"),
    ],
)
def test_usage_errors_are_one_line(
    arguments: list[str], message: str, faked: dict[str, Fake], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as stop:
        gate.main(arguments)
    assert (stop.value.code, capsys.readouterr().err) == (2, f"error: {message}\n")


CASE = """
from harness import Case
from synbench_fast import SPEED

def prepare():
    print("noise on standard output")
    return Case(unit="item", work=2, parity=lambda: (0.0, 1e-9), ours=lambda: SPEED, baseline=None, baseline_name="")

def cases():
    return {"one": prepare}
"""


def test_workers_serve_their_own_tree(tmp_path: Path) -> None:
    trees = {}
    for arm, speed in (("A", 0.5), ("B", 0.25)):
        trees[arm] = tmp_path / arm
        (trees[arm] / "synbench_fast").mkdir(parents=True)
        (trees[arm] / "benchmarks").mkdir()
        (trees[arm] / "synbench_fast" / "__init__.py").write_text(f"SPEED = {speed}\n")
        (trees[arm] / "benchmarks" / "cases.py").write_text(CASE)
        shutil.copy(ROOT / "benchmarks" / "harness.py", trees[arm] / "benchmarks")
    measured, good = gate.measure(["one"], trees, rounds=1, blocks=3)
    assert good
    assert measured == {"one": pytest.approx([math.log(0.5)] * 3)}
