"""The scheduler: the same store whatever happens on the way, and what each kind of failure leads to."""

from __future__ import annotations

import json
import os
import random
import signal
import sqlite3
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from checks import PATIENCE, over, refused, until
from fleet_fakes import FAKE, FakeWorker, add, contents, fakes, jumping, run_fakes

from synbench_fast.fleet import executors, scheduler
from synbench_fast.fleet.executors import Event, InProcess, Local, ended
from synbench_fast.fleet.places import Snapshot, weighted
from synbench_fast.fleet.scheduler import Fleet
from synbench_fast.fleet.store import Store, read_summary


def expected(folder: Path, requests: list[dict[str, Any]]) -> dict[Any, bytes]:
    """What one worker in one process makes of them."""
    states = run_fakes(folder, requests, InProcess(worker=FAKE))
    assert set(states.values()) == {"done"}
    return contents(folder)


def results(folder: Path) -> dict[str, str]:
    return {path.name: path.read_text() for path in (folder / "results").iterdir()}


def reasons(folder: Path) -> dict[str, str]:
    return {
        one["spec"]: one["reason"] for one in read_summary(folder)["encoders"] if one["state"] == "failed"
    }


@pytest.mark.parametrize("workers", [1, 2, 3])
def test_any_number_of_workers_fills_the_same_store(workers: int, tmp_path: Path) -> None:
    requests = [*fakes(9), {**fakes(1, units=40, samples=32)[0], "spec": "fake:long"}]
    one = expected(tmp_path / "one", requests)
    states = run_fakes(tmp_path / "many", list(reversed(requests)), workers)
    assert list(states.values()) == ["done"] * 10 and list(states) == [r["spec"] for r in reversed(requests)]
    assert contents(tmp_path / "many") == one and len(one) == 9 * 4 + 40
    assert results(tmp_path / "many") == results(tmp_path / "one")


def test_workers_share_one_encoder(tmp_path: Path) -> None:
    ended: list[Snapshot] = []
    run_fakes(tmp_path, fakes(1, units=60, seconds=0.02), 2, report=ended.append)
    last = ended[-1]
    assert all(place.units >= 10 for place in last.places)
    assert sum(place.units for place in last.places) == 60
    assert (last.progress, last.images, last.counts["done"]) == (1.0, 60 * 64, 1)
    assert [one.progress for one in ended] == sorted(one.progress for one in ended)


def test_an_encoder_is_loaded_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[str] = []
    load = FakeWorker.load
    monkeypatch.setattr(FakeWorker, "load", lambda self, r, p: seen.append(r["spec"]) or load(self, r, p))
    run_fakes(tmp_path, fakes(4), InProcess(worker=FAKE))
    assert seen == [one["spec"] for one in fakes(4)]


def test_what_comes_next_is_said_when_an_encoder_is_loaded(tmp_path: Path) -> None:
    """As many as there are workers, in order, none that is done or taken."""
    run_fakes(tmp_path, fakes(2)[:1], InProcess(worker=FAKE))
    said: list[list[str]] = []
    run_fakes(
        tmp_path,
        fakes(4),
        InProcess(worker=FAKE),
        ahead=lambda found: said.append([one["spec"] for one in found]),
    )
    assert said == [["fake:002"], ["fake:003"], []]


def test_finished_work_is_not_done_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    requests = fakes(3)
    run_fakes(tmp_path, requests, InProcess(worker=FAKE))
    ran: list[Any] = []
    run = FakeWorker.run
    monkeypatch.setattr(FakeWorker, "run", lambda self, unit: ran.append(unit["start"]) or run(self, unit))
    assert set(run_fakes(tmp_path, requests, InProcess(worker=FAKE)).values()) == {"done"}
    assert ran == []
    run_fakes(tmp_path, fakes(3, samples=128), InProcess(worker=FAKE))  # only what is beyond the first 64
    assert ran == [64] * 12
    run_fakes(tmp_path, fakes(3, version=1), InProcess(worker=FAKE))  # another series
    assert ran[12:] == [0] * 12


@pytest.mark.parametrize(
    ("trouble", "reason"),
    [
        ("load", "encoder: expected a known one, got fake"),
        ("load-crash", "the worker ended with exit code 7; what it printed is in run-1-0.log (3 attempts)"),
        ("crash", "the worker ended with exit code 3; what it printed is in run-1-0.log (3 attempts)"),
        ("killed", "the worker was killed by SIGKILL, as the system does when memory runs out; what it printed "
         "is in run-1-0.log (3 attempts)"),
        ("exit", "SystemExit: enough"),
        ("bug", "RuntimeError: shapes (3,) (3 attempts)"),
        ("no-memory", "memory: expected room for a batch, got none"),
    ],
)  # fmt: skip
def test_a_failing_encoder_fails_alone(trouble: str, reason: str, tmp_path: Path) -> None:
    notes: list[str] = []
    requests = fakes(1, trouble=trouble) + fakes(3)[1:]
    states = run_fakes(tmp_path, requests, 1, said=notes.append)
    assert states == {"fake:000": "failed", "fake:001": "done", "fake:002": "done"}
    assert reasons(tmp_path) == {"fake:000": reason}
    again = sum("tried again" in note for note in notes)
    assert again == (2 if "3 attempts" in reason else 0)
    assert sorted(results(tmp_path)) == ["001.json", "002.json"]


def test_no_retries(tmp_path: Path) -> None:
    run_fakes(tmp_path, fakes(1, trouble="crash"), 1, retries=0)
    assert reasons(tmp_path)["fake:000"].endswith("is in run-1-0.log")


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
def test_what_a_worker_left_behind_ends_with_it(tmp_path: Path) -> None:
    flag = tmp_path / "child"
    states = run_fakes(tmp_path, fakes(1, trouble="orphan", flag=str(flag)), 1, retries=0)
    assert states == {"fake:000": "failed"}
    assert reasons(tmp_path)["fake:000"].startswith("the worker ended with exit code 3;")
    assert until(lambda: over(int(flag.read_text())))


def hangs(folder: Path) -> Callable[[], bool]:
    """Whether the first encoder of a store is at its second unit, which never ends."""
    return lambda: read_summary(folder)["encoders"][0]["units_done"] == 1


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_copy_of_a_worker_answers_nothing(tmp_path: Path) -> None:
    run_fakes(tmp_path / "whole", fakes(2), InProcess(worker=FAKE))
    assert set(run_fakes(tmp_path / "forked", fakes(2, trouble="fork"), 1).values()) == {"done"}
    assert contents(tmp_path / "forked") == contents(tmp_path / "whole")


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="a native fork")
@pytest.mark.parametrize("trouble", ["held", "held-natively"])
def test_a_worker_has_ended_though_a_copy_of_it_goes_on(tmp_path: Path, trouble: str) -> None:
    flag = tmp_path / "child"
    states = run_fakes(tmp_path, fakes(1, trouble=trouble, flag=str(flag)), 1, retries=0)
    assert states == {"fake:000": "failed"}
    assert reasons(tmp_path)["fake:000"].startswith("the worker ended with exit code 3;")
    assert until(lambda: over(int(flag.read_text())))


class Twice(InProcess):
    """Gives its answer number `whose` twice, as a copy of a worker would."""

    def __init__(self, whose: int) -> None:
        super().__init__(worker=FAKE)
        self.whose = whose

    def poll(self, seconds: float) -> list[Event]:
        events = super().poll(seconds)
        for one in [one for one in events if one.kind == "answer"]:
            self.whose -= 1
            if self.whose == 0:
                events.append(one)
        return events


def test_an_answer_to_another_task_is_nobodys(tmp_path: Path) -> None:
    """Nor is one that comes when nothing was asked: that of the last task."""
    run_fakes(tmp_path / "whole", fakes(2), InProcess(worker=FAKE))
    said: list[str] = []
    for number in range(1, 2 * (1 + 4 + 1) + 1):
        executor = Twice(number)
        states = run_fakes(tmp_path / str(number), fakes(2), executor, said=said.append)
        assert set(states.values()) == {"done"} and executor.whose <= 0
        assert contents(tmp_path / str(number)) == contents(tmp_path / "whole")
    assert len(said) > 5
    assert all("the worker answered another task than it was given; tried again" in one for one in said)


def test_a_worker_that_nothing_ends_is_left_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As one that waits inside a driver: the others go on."""
    stuck: list[subprocess.Popen[bytes]] = []
    kill = Local._kill

    def shielded(process: subprocess.Popen[bytes]) -> None:
        if not stuck:
            stuck.append(process)
        if process not in stuck:
            kill(process)

    monkeypatch.setattr(executors, "STUCK_SECONDS", 0.2)
    monkeypatch.setattr(Local, "_kill", staticmethod(shielded))
    try:
        requests = fakes(1, trouble="hang") + fakes(2)[1:]
        states = run_fakes(tmp_path, requests, 1, timeout=500, clock=jumping(hangs(tmp_path)))
        assert states == {"fake:000": "failed", "fake:001": "done"}
        assert stuck[0].poll() is None
    finally:
        kill(stuck[0])
        stuck[0].wait()


def test_a_hanging_encoder_runs_out_of_time(tmp_path: Path) -> None:
    requests = fakes(1, trouble="hang") + fakes(2)[1:]
    states = run_fakes(tmp_path, requests, 1, timeout=500, clock=jumping(hangs(tmp_path)))
    assert states == {"fake:000": "failed", "fake:001": "done"}
    assert reasons(tmp_path)["fake:000"].startswith("timeout: expected at most 500 s, got 1")
    assert reasons(tmp_path)["fake:000"].endswith(" s at 1 of 4 units")


@pytest.mark.parametrize("trouble", ["crash-once", "bug-once"])
def test_what_goes_wrong_once_leaves_no_trace(trouble: str, tmp_path: Path) -> None:
    plain = expected(tmp_path / "plain", fakes(2))
    requests = fakes(2, trouble=trouble, flag=str(tmp_path / "flag"))
    states = run_fakes(tmp_path / "troubled", requests, 2)
    assert set(states.values()) == {"done"}
    assert contents(tmp_path / "troubled") == plain


def test_a_batch_that_does_not_fit_is_halved_for_all_units(tmp_path: Path) -> None:
    notes: list[str] = []
    states = run_fakes(tmp_path, fakes(1, trouble="memory"), 2, said=notes.append)
    assert states == {"fake:000": "done"}
    assert [note.rpartition(" ")[2] for note in notes if "all of it again" in note] == ["32", "16"]
    (result,) = results(tmp_path).values()
    store = Store(tmp_path)
    series = store.job(1).prepared["tasks"][0]["series"]  # type: ignore[index]
    final = [payload.decode() for key, payload in contents(tmp_path).items() if key[0] == series]
    assert json.loads(result)["points"] == final and len(final) == 4


def test_a_batch_that_does_not_fit_while_another_run_is_at_the_encoder(tmp_path: Path) -> None:
    """What the other run makes of the larger batch is kept and does not count; nobody fails."""
    other = Store(tmp_path)
    other.begin()
    (id,) = add(other, fakes(1, trouble="memory"))
    assert other.claim_job(id, "waiting")
    assert other.plan(id, "cpu", FakeWorker("cpu").load(fakes(1, trouble="memory")[0], None))
    (taken,) = other.claim_units(id, 1)
    states = run_fakes(tmp_path, fakes(1, trouble="memory"), InProcess(worker=FAKE))
    assert states == {"fake:000": "done"}
    assert other.finish_unit(taken.id, b"late", 64, {})
    prepared = other.job(id).prepared
    assert prepared is not None and prepared["decision"]["batch_size"] == 16
    assert b"late" not in [payload for _, payload, _ in other.payloads(id)]


def test_a_damaged_payload_is_computed_again(tmp_path: Path) -> None:
    whole = expected(tmp_path / "whole", fakes(2))
    run_fakes(tmp_path / "other", fakes(2), InProcess(worker=FAKE))
    db = sqlite3.connect(tmp_path / "other" / "store.sqlite")
    db.execute("UPDATE units SET payload = CAST('damaged' AS BLOB) WHERE id = 2")
    db.execute("UPDATE jobs SET state = 'planned', result = NULL")
    db.commit()
    db.close()
    assert set(run_fakes(tmp_path / "other", fakes(2), InProcess(worker=FAKE)).values()) == {"done"}
    assert contents(tmp_path / "other") == whole


def test_two_versions_of_an_encoder_never_mix(tmp_path: Path) -> None:
    """A worker that loads other weights than the plan's: the plan of nobody else is replaced, that of a live run not."""
    store = Store(tmp_path)
    store.begin()
    (id,) = add(store, fakes(1))
    worker = FakeWorker("cpu")
    stale = worker.load(fakes(1, version=1)[0], None)
    assert store.claim_job(id, "waiting") and store.plan(id, "cpu", stale)
    (taken,) = store.claim_units(id, 1)
    states = run_fakes(tmp_path, fakes(1), InProcess(worker=FAKE))
    assert states == {"fake:000": "failed"}
    assert reasons(tmp_path)["fake:000"].startswith("weights: expected the same in every run on this store")
    store.end()
    assert run_fakes(tmp_path, fakes(1), InProcess(worker=FAKE)) == {"fake:000": "done"}
    one = expected(tmp_path / "one", fakes(1))
    mixed = contents(tmp_path)
    assert {key: mixed[key] for key in one} == one
    assert {payload for key, payload in mixed.items() if key not in one} == {None}
    assert taken.series == stale["tasks"][0]["series"]


def test_libraries_of_two_versions_are_named(tmp_path: Path) -> None:
    store = Store(tmp_path)
    store.begin()
    (id,) = add(store, fakes(1))
    stale = FakeWorker("cpu").load(fakes(1, version=1)[0], None)
    stale["tasks"][0]["identity"]["versions"] = {"torch": "2.6.0"}
    assert store.claim_job(id, "waiting") and store.plan(id, "cpu", stale)
    store.claim_units(id, 1)
    run_fakes(tmp_path, fakes(1), InProcess(worker=FAKE))
    assert reasons(tmp_path)["fake:000"] == (
        "versions: expected the same in every run on this store, got torch 2.6.0 and torch none"
    )


def test_encoders_stay_on_one_kind_of_device(tmp_path: Path) -> None:
    """Begun on a kind that nobody offers any more, an encoder begins anew; units of the two kinds do not meet."""
    store = Store(tmp_path)
    store.begin()
    (id,) = add(store, fakes(1))
    prepared = FakeWorker("cuda A").load(fakes(1)[0], None)
    assert store.claim_job(id, "waiting") and store.plan(id, "cuda A", prepared)
    (unit,) = store.claim_units(id, 1)
    assert store.finish_unit(unit.id, b"of a GPU", 64, {})
    store.end()
    notes: list[str] = []
    run_fakes(tmp_path, fakes(1), InProcess("cuda B", FAKE), said=notes.append)
    assert notes == ["fake:000: begun on cuda A, which is gone: starts again on cuda B"]
    assert store.job(id).kind == "cuda B"
    payloads = [payload for _, payload, _ in store.payloads(id)]
    assert len(payloads) == 4 and b"of a GPU" not in payloads


def test_two_runs_cooperate(tmp_path: Path) -> None:
    requests = fakes(30, seconds=0.01)
    one = expected(tmp_path / "one", requests)
    states: list[dict[str, str]] = []
    threads = [
        threading.Thread(target=lambda: states.append(run_fakes(tmp_path / "two", requests, 1)))
        for _ in range(2)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [set(one.values()) for one in states] == [{"done"}, {"done"}]
    assert contents(tmp_path / "two") == one
    store = Store(tmp_path / "two")
    assert store.db.execute("SELECT count(*) FROM runs WHERE ended IS NULL").fetchone() == (0,)


def test_a_worker_that_never_starts(tmp_path: Path) -> None:
    store = Store(tmp_path)
    store.begin()
    ids = add(store, fakes(1))
    local = Local(["cpu"], tmp_path / "logs", worker="no.such:Module")
    with refused(
        "devices: expected workers that start, got none: the worker ended with exit code 1; what it "
    ):
        Fleet(store, local, ids).run()
    assert "No module named 'no'" in local.log("0").read_text()


def test_a_full_disk_stops_the_run_and_loses_nothing(tmp_path: Path) -> None:
    requests = fakes(20, units=10)
    whole = expected(tmp_path / "whole", requests)
    store = Store(tmp_path / "full")
    store.begin()
    ids = add(store, requests)
    pages = store.db.execute("PRAGMA page_count").fetchone()[0]
    store.db.execute(f"PRAGMA max_page_count={pages + 6}")
    local = Local(["cpu", "cpu"], tmp_path / "logs", worker=FAKE)
    with refused(
        "store.sqlite: expected room to write, got: database or disk is full; what is finished is kept"
    ):
        Fleet(store, local, ids).run()
    assert local.pids() == {}
    store.close()
    kept = {key: value for key, value in contents(tmp_path / "full").items() if value is not None}
    assert 0 < len(kept) < len(whole)
    assert set(run_fakes(tmp_path / "full", requests, 2).values()) == {"done"}
    assert contents(tmp_path / "full") == whole and kept.items() <= whole.items()


def test_a_result_that_cannot_be_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(path: Path, header: str, arrays: bytes) -> None:
        raise scheduler.SynbenchError(
            f"{path}: expected a file that can be written, got: No space left on device"
        )

    with monkeypatch.context() as patched:
        patched.setattr(scheduler, "write_files", full)
        with refused("000.json: expected a file that can be written, got: No space left on device"):
            run_fakes(tmp_path, fakes(2), InProcess(worker=FAKE))
    assert read_summary(tmp_path)["units"]["done"] == 4
    assert set(run_fakes(tmp_path, fakes(2), InProcess(worker=FAKE)).values()) == {"done"}


def test_an_interrupted_run_gives_everything_back(tmp_path: Path) -> None:
    def interrupt(snapshot: Snapshot) -> None:
        if snapshot.images > 0:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_fakes(tmp_path, fakes(3, units=50, seconds=0.02), 2, report=interrupt)
    store = Store(tmp_path)
    held = "SELECT (SELECT count(*) FROM jobs WHERE run IS NOT NULL) + (SELECT count(*) FROM units WHERE run IS NOT NULL)"
    assert store.db.execute(held).fetchone() == (0,)
    assert read_summary(tmp_path)["runs"] == []


DRIVER = """
import os, signal, sys
from pathlib import Path
from fleet_fakes import fakes, run_fakes
folder, count, killed = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
replace = os.replace
def kill_once(source, target):
    global killed
    killed -= 1
    if killed == 0:
        os.kill(os.getpid(), signal.SIGKILL)
    replace(source, target)
os.replace = kill_once
run_fakes(folder, fakes(count, units=6, seconds=0.01), 2)
"""


def drive(folder: Path, count: int, killed: int = 0) -> subprocess.Popen[bytes]:
    """A process that runs `count` encoders; with `killed` it is killed inside the save of that result."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    command = [sys.executable, "-c", DRIVER, str(folder), str(count), str(killed)]
    return subprocess.Popen(command, env=environment)


def children(pid: int) -> list[int]:
    return [int(one) for one in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="processes are told apart by /proc")
def test_a_driver_killed_inside_its_save_leaves_nothing_to_the_next(tmp_path: Path) -> None:
    whole = expected(tmp_path / "whole", fakes(3, units=6))
    folder = tmp_path / "killed"
    for killed in (2, 1):
        assert drive(folder, 3, killed).wait() == -signal.SIGKILL
        assert sum(name.endswith(".tmp") for name in results(folder)) == 1
    assert drive(folder, 3).wait() == 0
    assert results(folder) == results(tmp_path / "whole") and contents(folder) == whole
    assert drive(folder, 3).wait() == 0  # nothing is left to write
    assert results(folder) == results(tmp_path / "whole")


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
def test_twenty_random_kills_of_workers_and_of_the_driver(tmp_path: Path) -> None:
    """Every kill comes while there is work; what is stored in the end is what nobody disturbed makes."""
    count, kills = 60, 20
    whole = expected(tmp_path / "whole", fakes(count, units=6, seconds=0.01))
    folder, rng = tmp_path / "killed", random.Random(5)
    Store(folder).close()
    driver, killed, drivers = drive(folder, count), 0, 0

    def done() -> int:
        return sum(value is not None for value in contents(folder).values())

    while killed < kills:
        before = done()
        assert until(lambda: done() > before or driver.poll() is not None)  # noqa: B023
        assert driver.poll() is None, f"over after {killed} kills"
        workers = children(driver.pid)
        if rng.random() < 0.3 or not workers:
            driver.kill()
            driver.wait()
            assert until(lambda: all(map(over, workers)))  # noqa: B023
            driver, drivers = drive(folder, count), drivers + 1
        else:
            os.kill(rng.choice(workers), signal.SIGKILL)
        killed += 1
    assert driver.wait(PATIENCE) == 0
    assert drivers >= 3
    assert contents(folder) == whole
    assert results(folder) == results(tmp_path / "whole")
    summary = read_summary(folder)
    assert summary["counts"] == {"waiting": 0, "planned": 0, "done": count, "failed": 0}


@pytest.mark.parametrize(
    ("code", "text"),
    [(3, "the worker ended with exit code 3"), (-11, "the worker was killed by SIGSEGV"), (-99, "the worker was killed by signal 99")],
)  # fmt: skip
def test_what_exit_codes_say(code: int, text: str) -> None:
    assert ended(code) == text


def test_jobs_known_to_be_done_need_no_worker(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run_fakes(tmp_path, fakes(2), InProcess(worker=FAKE))
    start: Callable[..., None] = lambda self, slot: pytest.fail("started")  # noqa: E731
    monkeypatch.setattr(InProcess, "start", start)
    assert set(run_fakes(tmp_path, fakes(2), InProcess(worker=FAKE)).values()) == {"done"}


def test_the_benchmarks_run_small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(Path(__file__).parents[2] / "benchmarks"))
    import cases_fleet

    one = cases_fleet.overhead(seconds=0.001, units=3)
    assert one.parity() == (0.0, 0.0)
    assert one.ours() > 0


def test_progress_weighs_encoders_by_their_measured_time() -> None:
    """One encoder of 90 s that is done and one of 10 s that is not leave a tenth of the work."""
    assert weighted({1: 1.0, 2: 0.0}, {1: 90.0, 2: 10.0}) == pytest.approx(0.9)
    assert weighted({1: 0.5, 2: 0.0}, {}) == pytest.approx(0.25)  # nothing is measured: all alike
    assert weighted({1: 1.0, 2: 0.0, 3: 0.0}, {1: 30.0, 2: 10.0}) == pytest.approx(0.5)  # 3 is taken for 20 s
    assert weighted({}, {}) == 1.0
