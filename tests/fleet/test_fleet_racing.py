"""The best K of many encoders: nobody of the true best is lost, those that are out cost little."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from checks import refused
from result_example import example

import synbench_fast as sb
from synbench_fast.cli import main as cli
from synbench_fast.config import ScoreConfig
from synbench_fast.fleet import racing
from synbench_fast.fleet.launch import run_fleet
from synbench_fast.fleet.racing import Race, outside, race
from synbench_fast.fleet.store import Job
from synbench_fast.results.records import Result
from synbench_fast.stats.compare import standings

OPTIONS: dict[str, Any] = {"input_shape": (16,), "preset": "quick", "thresholds": (0.6,), "eps": 0.0}
WIDTHS = (1, 2, 3, 5, 7, 8, 9, 15, 16)
MODELS = [f"builtin:linear?dim={width}" for width in WIDTHS]


@pytest.fixture
def in_process(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, float]]:
    """Stages without workers: every encoder is scored here, as `run_fleet` would; broken ones fail."""
    scored: list[tuple[str, float]] = []

    def run(models: Sequence[Any], folder: Path, *, config: ScoreConfig, said: Any = None) -> list[Job]:
        results = Path(folder) / "results"
        results.mkdir(parents=True, exist_ok=True)
        jobs = []
        for number, model in enumerate(models):
            spec, own = (model, {}) if isinstance(model, str) else model
            state, reason, name = "done", None, None
            if "broken" in spec:
                state, reason = "failed", "features: expected finite values, got nan"
            else:
                scored.append((spec, config.half_width))
                result = sb.score(spec, config=config, **own)
                name = result.file_name()
                result.save(results / name)
            jobs.append(Job(number, spec, spec, {}, state, "cpu", None, reason, name))
        return jobs

    monkeypatch.setattr(racing, "run_fleet", run)
    return scored


def test_those_that_are_out_are_not_scored_again(in_process: list[tuple[str, float]], tmp_path: Path) -> None:
    lines: list[str] = []
    found = race(
        MODELS, tmp_path, best=2, config=ScoreConfig(**{**OPTIONS, "half_width": 0.02}), said=lines.append
    )
    assert [stage.half_width for stage in found.stages] == [0.16, 0.08, 0.04, 0.02]
    assert found.stages[0].encoders == len(MODELS)
    out = {spec: stage.half_width for stage in found.stages for spec in stage.out}
    assert {"builtin:linear?dim=1", "builtin:linear?dim=2", "builtin:linear?dim=3"} <= set(out)
    for spec, half_width in out.items():
        assert min(width for name, width in in_process if name == spec) == half_width
    full = [sb.score(spec, **OPTIONS, half_width=0.02) for spec in MODELS]
    best = sorted(full, key=lambda one: -one.score().score)[:2]
    assert {one.encoder.spec for one in best} <= {one.encoder for one in found.left}
    assert found.settled == (len(found.left) == 2)
    # Those left have what scoring them alone gives, and the images add up.
    for one in found.left:
        alone = next(other for other in full if other.encoder.spec == one.encoder)
        assert (one.score, one.images) == (alone.score().score, alone.cost.images)
    assert found.images == sum(one.images for one in found.standings)
    everything = sum(one.cost.images for one in full)
    assert found.images < 0.8 * everything
    assert 0.5 < found.images_without / everything < 2
    assert [one.out_after is None for one in found.standings] == sorted(
        [one.out_after is None for one in found.standings], reverse=True
    )
    # One result for each encoder, the last one.
    kept = {path.name for path in (tmp_path / "results").glob("*.json")}
    assert kept == {one.result for one in found.standings}
    assert lines == [
        f"half-width {s.half_width:g}: {s.encoders} scored, {len(s.out)} out" for s in found.stages
    ]
    assert json.loads(json.dumps(found.to_dict()))["best"] == 2
    assert f"images: {found.images}, about" in found.lines()[-2]


def test_failures_leave_the_others_in_the_race(in_process: list[tuple[str, float]], tmp_path: Path) -> None:
    models = [MODELS[0], "builtin:broken", MODELS[-1]]
    found = race(models, tmp_path, best=1, config=ScoreConfig(**{**OPTIONS, "half_width": 0.05}))
    assert found.failures == {"builtin:broken": "features: expected finite values, got nan"}
    assert [one.encoder for one in found.left] == [MODELS[-1]]
    assert found.settled and found.lines()[-1] == "the best 1 at eps 0, above accuracy 0.6"


def test_as_many_places_as_encoders(in_process: list[tuple[str, float]], tmp_path: Path) -> None:
    found = race(MODELS[:2], tmp_path, best=3, config=ScoreConfig(**{**OPTIONS, "half_width": 0.1}))
    assert len(found.left) == 2 and not any(stage.out for stage in found.stages)
    assert found.lines()[-1] == "2 encoders for 3 places at eps 0, above accuracy 0.6"
    twins = race([MODELS[5]] * 3, tmp_path, best=1, config=ScoreConfig(**{**OPTIONS, "half_width": 0.1}))
    assert len(twins.left) == 3 and not twins.settled
    assert twins.lines()[-1].startswith(
        "3 encoders left for 1 places at eps 0, above accuracy 0.6: a smaller"
    )


def test_nothing_that_can_be_scored(in_process: list[tuple[str, float]], tmp_path: Path) -> None:
    found = race(["builtin:broken"], tmp_path, best=1, config=ScoreConfig(**{**OPTIONS, "half_width": 0.1}))
    assert isinstance(found, Race) and found.standings == [] and len(found.failures) == 1
    assert found.lines()[-1] == "nothing could be scored" and "nan" not in "".join(found.lines())


def test_the_last_one_left_fails(
    in_process: list[tuple[str, float]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What those that are out had is told all the same."""
    run = racing.run_fleet

    def crash(models: Sequence[Any], folder: Path, **rest: Any) -> list[Job]:
        if rest["config"].half_width < 0.1 and MODELS[-1] in models:
            models = [one.replace("linear", "broken") for one in models]
        return list(run(models, folder, **rest))

    monkeypatch.setattr(racing, "run_fleet", crash)
    found = race(
        [MODELS[0], MODELS[-1]], tmp_path, best=1, config=ScoreConfig(**{**OPTIONS, "half_width": 0.02})
    )
    assert [(one.encoder, one.out_after) for one in found.standings] == [(MODELS[0], 0.16)]
    assert found.left == [] and len(found.failures) == 1
    assert found.lines()[-1] == "0 encoders for 1 places at eps 0, above accuracy 0.6"


def test_the_true_best_are_kept_with_95_percent() -> None:
    """1 000 races of 12 encoders whose errors are correlated and shrink stage by stage."""
    rng = np.random.default_rng(0)
    truth = np.array([0.9, 0.88, 0.87, 0.86, 0.8, 0.79, 0.75, 0.7, 0.6, 0.5, 0.4, 0.3])
    size, best = len(truth), 3
    rho = np.full((size, size), 0.6)
    np.fill_diagonal(rho, 1.0)
    root = np.linalg.cholesky(rho)
    z = racing._reach(size * (size - 1) // 2, racing.LEVEL / len(racing.STAGES))
    lost, left = 0, []
    for _ in range(1000):
        alive = np.arange(size)
        for error in (0.08, 0.04, 0.02, 0.01):
            scores = (truth + error * (root @ rng.standard_normal(size)))[alive]
            within = np.ix_(alive, alive)
            out = outside(scores, np.full(len(alive), error), rho[within], best, z)
            alive = alive[~out]
        lost += not {0, 1, 2} <= set(alive.tolist())
        left.append(len(alive))
    assert lost <= 50
    assert np.mean(left) < 6


def test_outside_needs_as_many_better_ones_as_there_are_places() -> None:
    scores, errors = np.array([1.0, 0.9, 0.5, 0.49]), np.full(4, 0.01)
    assert outside(scores, errors, np.eye(4), 2, 3.0).tolist() == [False, False, True, True]
    assert outside(scores, errors, np.eye(4), 3, 3.0).tolist() == [False, False, False, False]
    assert outside(scores, errors, np.eye(4), 1, 3.0).tolist() == [False, True, True, True]
    paired = np.full((4, 4), 0.999)
    np.fill_diagonal(paired, 1.0)
    assert outside(scores, errors, paired, 3, 3.0).tolist() == [False, False, False, True]


def test_equal_representations_are_not_outside_by_rounding() -> None:
    """Their errors cancel to nothing, and their scores differ by the last digits of sums in another order."""
    scores = np.array([0.8 + 1e-9, 0.8, 0.8 - 1e-9, 0.3])
    assert outside(scores, np.full(4, 0.01), np.ones((4, 4)), 1, 3.0).tolist() == [False, False, False, True]


def test_gaussian_races_and_what_stores_no_influences_does_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = {**OPTIONS, "half_width": 0.1, "estimator": "gaussian"}
    found = race(MODELS[:2], tmp_path, best=1, config=ScoreConfig(**options))
    assert {one.encoder for one in found.standings} == set(MODELS[:2])
    load = Result.load
    monkeypatch.setattr(Result, "load", lambda *a, **b: replace(load(*a, **b), influence=None))
    with refused(
        "estimator: expected one whose points have influences of the samples for the best K, got gaussian"
    ):
        race(MODELS[:2], tmp_path, best=1, config=ScoreConfig(**options))


def test_the_level_of_the_limit() -> None:
    from scipy.stats import norm

    assert racing._reach(1, 0.05) == pytest.approx(norm.ppf(0.975))
    assert racing._reach(100, 0.0125) == pytest.approx(norm.ppf((1 + 0.9875**0.01) / 2))


def test_standings_pair_what_saw_the_same_samples() -> None:
    results = [
        sb.score("builtin:linear?dim=4", **OPTIONS),
        sb.score("builtin:linear?dim=6", **OPTIONS),
        sb.score("builtin:linear?dim=6", **{**OPTIONS, "input_shape": (17,)}),
    ]
    scores, errors, rho, _ = standings(results, 0.0, 0.6)
    assert scores.tolist() == [one.score().score for one in results]
    assert errors.tolist() == [one.score().stderr for one in results]
    pair = sb.compare(*results[:2]).differences[0]
    assert rho[0, 1] == pytest.approx(pair.correlation) and rho[0, 1] > 0.1
    assert rho[0, 2] == rho[1, 2] == 0.0
    with refused("expected estimator 'consistent'"):
        standings([results[0], sb.score("builtin:linear?dim=4", estimator="counted", **OPTIONS)], 0.0, 0.6)


@pytest.mark.parametrize(
    ("best", "changes", "message"),
    [
        (0, {}, "best: expected a positive integer, got 0"),
        (1, {"half_width": None}, "half_width: expected the half-width at which scoring ends, got none"),
        (1, {"estimator": "paper"}, "estimator: expected consistent or gaussian for the best K, got paper"),
        (
            1,
            {"estimator": "counted"},
            "estimator: expected consistent or gaussian for the best K, got counted",
        ),
    ],
)
def test_races_that_cannot_be(tmp_path: Path, best: int, changes: dict[str, Any], message: str) -> None:
    with refused(message):
        race(MODELS, tmp_path, best=best, config=ScoreConfig(**{**OPTIONS, "half_width": 0.1, **changes}))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["builtin:conv", "--best", "2"], "--best: expected --models beside it, got '2' alone"),
        (["--models", "builtin:conv", "--best", "0"], "--best: expected an integer of at least 1, got '0'"),
        (
            ["--models", "builtin:conv", "--best", "2"],
            "--best: expected --half-width beside it, at which scoring ends",
        ),
        (
            ["--models", "builtin:conv", "--best", "2", "--half-width", "0.1", "--tasks", "full"],
            "--best: expected one task, got --tasks full",
        ),
    ],
)
def test_usage(
    arguments: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: Any
) -> None:
    monkeypatch.chdir(tmp_path)
    assert cli.main(["run", *arguments, "--out", "store"]) == 2
    assert capsys.readouterr().err == f"error: {message}\n"


@pytest.mark.slow
def test_fifty_encoders_from_the_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The same best five as scoring all of them, from less than half the images; and again from the store."""
    specs = [f"builtin:linear?dim={width}" for width in range(1, 51)]
    listed = tmp_path / "models.txt"
    listed.write_text("\n".join(specs))
    common = [
        "--input-shape",
        "1,8,8",
        "--preset",
        "quick",
        "--thresholds",
        "0.6",
        "--eps",
        "0",
        "--half-width",
        "0.01",
    ]
    command = ["run", "--models", str(listed), *common, "--devices", "cpu:2", "--format", "json"]
    raced = [*command, "--out", str(tmp_path / "race"), "--best", "5"]
    assert cli.main(raced) == 0
    done = capsys.readouterr()
    found = [Result.from_json(line) for line in done.out.splitlines()]
    assert "images: " in done.err
    options = {
        "input_shape": (1, 8, 8),
        "preset": "quick",
        "thresholds": (0.6,),
        "eps": (0.0,),
        "half_width": 0.01,
    }
    jobs = run_fleet(specs, tmp_path / "full", config=ScoreConfig(**options), devices="cpu:2")
    full = [Result.load(tmp_path / "full" / "results" / str(job.result)) for job in jobs]
    ranked = sorted(full, key=lambda one: -one.score().score)
    assert [one.encoder.spec for one in found[:5]] == [one.encoder.spec for one in ranked[:5]]
    drawn = sum(
        one.cost.images for one in (Result.load(p) for p in (tmp_path / "race" / "results").glob("*.json"))
    )
    assert drawn < 0.5 * sum(one.cost.images for one in full)
    assert cli.main(raced) == 0
    again = [Result.from_json(line) for line in capsys.readouterr().out.splitlines()]
    assert [one.scores for one in again] == [one.scores for one in found]


def finished(number: int, score: float, half: float, images: int) -> tuple[Job, Result]:
    """A result whose intervals reach `half` at the first point, twice that at the second; the others are unknown."""
    widths = (half, 2 * half, float("nan"), float("nan"))
    base = example(f"builtin:linear?dim={number}")
    scores = [
        replace(one, score=score - place / 10, stderr=half / 2, ci95_high=score - place / 10 + width)
        for place, (one, width) in enumerate(zip(base.scores, widths, strict=True))
    ]
    result = replace(base, scores=scores, cost=replace(base.cost, images=images))
    spec = base.encoder.spec
    return Job(number, spec, spec, {}, "done", "cpu", None, None, f"{number}.json"), result


def test_what_a_race_tells() -> None:
    """Those left first, the best first; what the others would have cost from how wide their intervals still are."""
    latest = {
        0: finished(0, 0.5, 0.02, 100),
        1: finished(1, 0.9, 0.005, 1000),
        2: finished(2, 0.95, 0.005, 2000),
        3: finished(3, 0.7, 0.001, 300),
    }
    stages = [racing.Stage(half_width=0.08, encoders=4, out=["a", "b"])]
    found = racing._told(2, 0.0, 0.6, 0.01, stages, latest, {0: 0.08, 3: 0.04}, {"c": "why"})
    assert [one.encoder.rpartition("=")[2] for one in found.standings] == ["2", "1", "3", "0"]
    assert [one.out_after for one in found.standings] == [None, None, 0.04, 0.08]
    assert [(one.score, one.stderr, one.images, one.result) for one in found.left] == [
        (0.95, 0.0025, 2000, "2.json"), (0.9, 0.0025, 1000, "1.json"),
    ]  # fmt: skip
    assert found.settled and found.images == 3400
    # The first is out at 0.04, four times what was asked for; the last is narrower than that already.
    assert found.images_without == 100 * 16 + 1000 + 2000 + 300
    assert found.lines() == [
        "half-width 0.08: 4 scored, 2 out",
        "images: 3400, about 31% fewer than scoring all",
        "the best 2 at eps 0, above accuracy 0.6",
    ]
    assert found.failures == {"c": "why"} and found.stages == stages
    assert not racing._told(3, 0.0, 0.6, 0.01, [], latest, {0: 0.08, 3: 0.04}, {}).settled


def test_the_point_that_decides(in_process: list[tuple[str, float]], tmp_path: Path) -> None:
    """The first budget that was asked for, the lowest threshold."""
    options = {**OPTIONS, "eps": (0.3, 0.0), "thresholds": (0.8, 0.6), "half_width": 0.4}
    found = race(MODELS[-2:], tmp_path, best=1, config=ScoreConfig(**options))
    assert (found.eps, found.threshold) == (0.3, 0.6)
    scores = {one.encoder: one.score for one in found.standings}
    assert scores == {spec: sb.score(spec, **options).score(0.3, 0.6).score for spec in MODELS[-2:]}


def test_levels_hold_for_all_pairs_and_stages(
    in_process: list[tuple[str, float]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[tuple[int, float]] = []
    real = racing._reach

    def reach(pairs: int, level: float) -> float:
        asked.append((pairs, level))
        return real(pairs, level)

    monkeypatch.setattr(racing, "_reach", reach)
    race(MODELS[:5], tmp_path, best=1, config=ScoreConfig(**{**OPTIONS, "half_width": 0.2}))
    race(MODELS[:1], tmp_path, best=1, config=ScoreConfig(**{**OPTIONS, "half_width": 0.2}))
    assert asked == [(10, 0.05 / 4), (1, 0.05 / 4)]
    # No half-width beyond a half is asked for.
    assert [width for spec, width in in_process if spec == MODELS[0]][-4:] == [0.5, 0.5, 0.4, 0.2]


@pytest.mark.parametrize(("factor", "out"), [(0.99, False), (1.01, True)])
@pytest.mark.parametrize("correlation", [-0.4, 0.0, 0.7])
def test_better_by_more_than_the_limit_in_errors_of_the_difference(
    correlation: float, factor: float, out: bool
) -> None:
    errors = np.array([0.01, 0.03])
    rho = np.array([[1.0, correlation], [correlation, 1.0]])
    error = np.sqrt(0.01**2 + 0.03**2 - 2 * correlation * 0.01 * 0.03)
    scores = np.array([0.5 + factor * 3.0 * error, 0.5])
    assert outside(scores, errors, rho, 1, 3.0).tolist() == [False, out]


def test_a_race_of_nobody_saves_nothing() -> None:
    found = racing._told(1, 0.0, 0.6, 0.01, [], {}, {}, {"c": "why"})
    assert found.lines() == ["nothing could be scored"]
    assert (found.images, found.images_without, found.failures) == (0, 0, {"c": "why"})
