"""Fleets of real encoders: the numbers of score(), whoever computes them; encoders that misbehave."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from fleet_fakes import contents, jumping

import synbench_fast as sb
from synbench_fast.config import ScoreConfig
from synbench_fast.fleet import launch
from synbench_fast.fleet.executors import InProcess, Local
from synbench_fast.fleet.launch import run_fleet
from synbench_fast.fleet.scheduler import Fleet
from synbench_fast.fleet.store import Store, read_summary
from synbench_fast.fleet.worker import EncoderWorker
from synbench_fast.results.records import Result
from synbench_fast.results.suite import SuiteResult
from synbench_fast.tasks.suites import load_suite

OPTIONS: dict[str, Any] = {"scales": (0.5, 1.5, 3.0), "samples": 200, "input_shape": (3, 4, 4)}
HERE = Path(__file__).resolve().parents[1]


def own(name: str) -> str:
    return f"python:{HERE / 'fleet_encoders.py'}:{name}"


@pytest.fixture(autouse=True)
def threads() -> Iterator[None]:
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def run(folder: Path, models: list[str], executor: Any = None, **options: Any) -> list[Any]:
    """The results of a fleet of one worker in this process, or of `executor`."""
    jobs = run_fleet(
        models, folder, config=ScoreConfig(**{**OPTIONS, **options}), executor=executor or InProcess()
    )
    assert [job.state for job in jobs] == ["done"] * len(models), [job.reason for job in jobs]
    return [Result.load(folder / "results" / job.result) for job in jobs]  # type: ignore[operator]


def same(a: Result, b: Result) -> None:
    one, other = a.to_dict(), b.to_dict()  # where NaN is null, which equals itself
    for name in ("encoder", "task", "scores", "curve", "score_covariance", "influence", "robust_area", "fits", "half_width", "arithmetic",
                 "backends", "environment", "estimator", "eps", "thresholds", "seed", "command"):  # fmt: skip
        assert one[name] == other[name], name
    assert (a.cost.images, a.cost.batch_size, a.cost.dtype) == (
        b.cost.images,
        b.cost.batch_size,
        b.cost.dtype,
    )


@pytest.mark.parametrize(
    "options",
    [{}, {"estimator": "counted"}, {"estimator": "paper"}, {"batch_size": 64, "dtype": "float64", "prior": 0.3},
     {"dtype": "bfloat16", "published_preprocessing": True}, {"compile": False, "backend": "torch", "samples": 60}],
    ids=lambda options: "-".join(map(str, options.values())) or "default",
)  # fmt: skip
def test_a_fleet_has_the_numbers_of_score(options: dict[str, Any], tmp_path: Path) -> None:
    models = ["builtin:conv?dim=8", own("Good")]
    found = run(tmp_path, models, **options)
    for spec, result in zip(models, found, strict=True):
        alone = sb.score(spec, threads=1, device="cpu", **{**OPTIONS, **options})
        same(result, alone)
        assert result.file_name() == alone.file_name()
        assert set(result.cost.seconds) == set(alone.cost.seconds)


def test_suites(tmp_path: Path) -> None:
    suite = load_suite("priors")
    options = {**OPTIONS, "input_shape": (3, 4, 4)}
    (job,) = run_fleet(
        ["builtin:conv?dim=8"], tmp_path, config=ScoreConfig(**options), suite=suite, executor=InProcess()
    )
    found = SuiteResult.load(tmp_path / "results" / str(job.result))
    alone = sb.score_suite("builtin:conv?dim=8", tasks="priors", threads=1, device="cpu", **options)
    one, other = found.to_dict(), alone.to_dict()  # where NaN is null, which equals itself
    assert all(one[name] == other[name] for name in ("scores", "tasks", "command"))
    for result, scored in zip(found.results, alone.results, strict=True):
        same(result, scored)


def test_more_samples_only_add_units(tmp_path: Path) -> None:
    models = ["builtin:conv?dim=8"]
    run(tmp_path, models)
    first = contents(tmp_path)
    (more,) = run(tmp_path, models, samples=500)
    both = contents(tmp_path)
    assert first.items() <= both.items()
    assert {key[2:] for key in both} == {(0, 200), (200, 300)} and len(both) == 6
    assert more.task.samples == [500] * 3 and more.cost.images == 1500
    narrower = [one.t_stderr for one in more.curve]
    (less,) = run(tmp_path, models)
    assert all(a < b.t_stderr for a, b in zip(narrower, less.curve, strict=True))
    (again,) = run(tmp_path, models, samples=500, thresholds=(0.7,), scales=(1.5, 3.0))
    assert contents(tmp_path) == both  # other thresholds and fewer scales need no unit
    assert [one.t for one in again.curve] == [one.t for one in more.curve][2:]


def test_half_width_on_demand(tmp_path: Path) -> None:
    """Samples are added where score() adds them, whoever evaluates them, and kept for the next run."""
    models = ["builtin:conv?dim=8", "builtin:linear?dim=8"]
    wanted: dict[str, Any] = {"half_width": 0.06, "samples": None}
    found = run(tmp_path, models, **wanted)
    for spec, result in zip(models, found, strict=True):
        same(result, sb.score(spec, threads=1, device="cpu", **{**OPTIONS, **wanted}))
        assert len(set(result.task.samples)) > 1
        assert max(one.ci95_high - one.score for one in result.scores) <= 0.06
    before = contents(tmp_path)
    finer = run(tmp_path, models, half_width=0.05, samples=None)
    assert before.items() <= contents(tmp_path).items()
    assert finer[0].cost.images > found[0].cost.images


def test_the_order_of_units_and_a_second_worker_change_no_bit(tmp_path: Path) -> None:
    """The second worker takes over with what the first decided, and runs the units from the last to the first."""
    run(tmp_path, ["builtin:conv?dim=8"], samples=150)
    store = Store(tmp_path)
    job = store.job(1)
    worker = EncoderWorker("cpu")
    again = worker.load(job.request, job.prepared)
    assert [one["series"] for one in again["tasks"]] == [one["series"] for one in job.prepared["tasks"]]  # type: ignore[index]
    blocks = job.prepared["tasks"][0]["blocks"]  # type: ignore[index]
    for unit, payload, _ in reversed(store.payloads(1)):
        assert worker.run({**unit.plain(), "blocks": blocks})[0] == payload
        assert worker.run({**unit.plain(), "blocks": blocks})[0] == payload  # and once more
    worker.close()


def test_a_worker_holds_the_buffers_of_one_task(tmp_path: Path) -> None:
    """Those of the tasks before it, and of plans that have been extended, would fill a GPU."""
    options = {**OPTIONS, "input_shape": (3, 4, 4)}
    suite = load_suite("priors")
    (job,) = run_fleet(
        ["builtin:conv?dim=8"], tmp_path, config=ScoreConfig(**options), suite=suite, executor=InProcess()
    )
    worker = EncoderWorker("cpu")
    worker.load(job.request, job.prepared)
    stored = Store(tmp_path).payloads(job.id)
    assert len({unit.task for unit, _, _ in stored}) > 1
    for unit, payload, _ in [*stored, stored[0]]:
        blocks = job.prepared["tasks"][unit.task]["blocks"]  # type: ignore[index]
        assert worker.run({**unit.plain(), "blocks": blocks})[0] == payload
        assert worker._loaded is not None and len(worker._loaded.pipelines) == 1
    worker.close()


def test_encoders_that_misbehave(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two processes; the good ones among them lose nothing. Time runs out once the one that hangs is left."""

    def one_is_left() -> bool:
        counts = read_summary(tmp_path)["counts"]
        return bool(counts["done"] + counts["failed"] == len(names) - 1)

    monkeypatch.setattr(launch, "Fleet", partial(Fleet, clock=jumping(one_is_left)))
    names = ["Good", "NotANumber", "Width", "Hangs", "Exits", "Leaves", "Talks"]
    notes: list[str] = []
    jobs = run_fleet(
        [own(name) for name in names], tmp_path, config=ScoreConfig(**{**OPTIONS, "batch_size": 64}), workers=2, devices="cpu",
        timeout=500, retries=0, said=notes.append,
    )  # fmt: skip
    states = dict(zip(names, (job.state for job in jobs), strict=True))
    assert states == {**dict.fromkeys(names, "failed"), "Good": "done", "Talks": "done"}
    reasons = dict(zip(names, (str(job.reason) for job in jobs), strict=True))
    assert reasons["NotANumber"].startswith(
        "features: expected finite values, got nan in feature 0 of sample "
    )
    assert "expected 8 features as in earlier batches, got " in reasons["Width"]
    assert reasons["Hangs"].startswith("timeout: expected at most 500 s, got 1")
    assert reasons["Exits"].startswith(
        "the worker ended with exit code 5; what it printed is in run-1-worker-"
    )
    assert reasons["Leaves"] == "SystemExit: enough"
    assert all("\n" not in reason for reason in reasons.values())
    assert notes == []
    assert "an encoder talks" in "".join(path.read_text() for path in (tmp_path / "logs").iterdir())
    good = Result.load(tmp_path / "results" / str(jobs[0].result))
    same(good, sb.score(own("Good"), threads=1, device="cpu", **OPTIONS, batch_size=64))
    summary = read_summary(tmp_path)
    assert summary["counts"] == {"waiting": 0, "planned": 0, "done": 2, "failed": 5}
    assert {one["reason"] for one in summary["encoders"]} == {None, *reasons.values()} - {"None"}


def test_a_batch_that_does_not_fit(tmp_path: Path) -> None:
    """Half the batch until it fits, for all units; a size that was asked for is an error."""
    (result,) = run(tmp_path, [own("Hungry")])
    assert result.cost.batch_size == 16
    alone = sb.score(own("Hungry"), threads=1, device="cpu", **OPTIONS, batch_size=16)
    assert (result.scores, result.curve) == (alone.scores, alone.curve)
    (job,) = run_fleet(
        [own("Hungry")], tmp_path, config=ScoreConfig(**{**OPTIONS, "batch_size": 64}), executor=InProcess()
    )
    assert job.reason == (
        "memory: expected room for a batch of 64, got OutOfMemoryError: CUDA out of memory. Tried to allocate 9 GiB"
    )


def test_an_encoder_that_cannot_be_loaded(tmp_path: Path) -> None:
    models = ["builtin:identity", own("Nothing"), "builtin:liner"]
    jobs = run_fleet(models, tmp_path, config=ScoreConfig(**OPTIONS), executor=InProcess())
    assert [job.state for job in jobs] == ["done", "failed", "failed"]
    assert "expected a callable in" in str(jobs[1].reason)
    assert str(jobs[2].reason).endswith("did you mean builtin:linear?")


def test_a_changed_file_is_scored_again(tmp_path: Path) -> None:
    file = tmp_path / "encoder.py"
    text = "import torch\n\n\ndef make():\n    return lambda x: x.flatten(1)[:, :{}].double()\n"
    file.write_text(text.format(5))
    (first,) = run(tmp_path / "store", [f"python:{file}:make"])
    file.write_text(text.format(6) + "# changed\n")
    (second,) = run(tmp_path / "store", [f"python:{file}:make"])
    assert (first.encoder.feature_dim, second.encoder.feature_dim) == (5, 6)
    assert len(contents(tmp_path / "store")) == 6


def mixed(count: int) -> list[str]:
    kinds = ("conv", "linear", "linear")
    models = [f"builtin:{kinds[n % 3]}?dim={4 + n % 100}" for n in range(count)]
    models = list(dict.fromkeys(models))
    return models + [f"builtin:linear?dim={200 + n}" for n in range(count - len(models))]


@pytest.mark.parametrize("count", [30, pytest.param(300, marks=pytest.mark.slow)])
def test_many_encoders_and_two_workers(count: int, tmp_path: Path) -> None:
    models = mixed(count)
    assert len(set(models)) == count
    executor = Local(["cpu", "cpu"], tmp_path / "logs")
    found = run(tmp_path, models, executor, samples=None, scales=2, preset="quick")
    assert [one.encoder.spec for one in found] == models
    for number in (0, count // 3, count - 1):
        options = {"input_shape": (3, 4, 4), "scales": 2, "preset": "quick"}
        same(found[number], sb.score(models[number], threads=1, device="cpu", **options))
    summary = read_summary(tmp_path)
    assert summary["units"] == {"total": 2 * count, "done": 2 * count}
    assert len(list((tmp_path / "results").glob("*.json"))) == count


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an NVIDIA GPU")
def test_a_second_worker_on_a_gpu_repeats_the_decision_of_the_first(tmp_path: Path) -> None:
    """Batch size and precision are measured once; two workers on one GPU then agree in every bit."""
    options = {"scales": 6, "samples": 600, "input_shape": (3, 32, 32)}
    models = ["builtin:conv?dim=32", "builtin:linear?dim=16"]
    jobs = run_fleet(models, tmp_path, config=ScoreConfig(**options), devices="cuda:0", workers=2)
    assert [job.state for job in jobs] == ["done", "done"], [job.reason for job in jobs]
    store = Store(tmp_path)
    for job in jobs:
        worker = EncoderWorker("cuda:0")
        again = worker.load(job.request, job.prepared)
        assert job.prepared is not None and again["decision"] == job.prepared["decision"]
        blocks = job.prepared["tasks"][0]["blocks"]
        for unit, payload, _ in store.payloads(job.id):
            assert worker.run({**unit.plain(), "blocks": blocks})[0] == payload
        worker.close()
