"""The run store: what is kept is kept exactly, once, and whoever holds it; what is wrong with a file is one line."""

from __future__ import annotations

import dataclasses
import json
import os
import sqlite3
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from checks import killed_inside_its_save, refused, writing
from fleet_fakes import add, fakes

from synbench_fast.config import ScoreConfig, options
from synbench_fast.engine.features import evaluate_features
from synbench_fast.fleet import database
from synbench_fast.fleet.configuration import (
    RESOLVED,
    arguments_of_units,
    configuration_of,
    family_of,
    halved,
    job_key,
    make_request,
    series_of,
    source_of,
)
from synbench_fast.fleet.payload import decode_point, encode_point
from synbench_fast.fleet.plan import cover
from synbench_fast.fleet.store import Store, read_summary
from synbench_fast.runtime.processes import here, process_mark
from synbench_fast.stats.point import CurvePoint


class Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


def prepared(series: str = "s", scales: int = 3, samples: int = 64, least: int | None = 10) -> dict[str, Any]:
    task = {
        "series": series,
        "scales": [float(one + 1) for one in range(scales)],
        "samples": samples,
        "least": least,
    }
    return {"decision": {}, "tasks": [task]}


def opened(folder: Path, clock: Clock | None = None) -> Store:
    store = Store(folder, lease_seconds=60, clock=clock or Clock())
    store.begin()
    return store


def planned(store: Store, request: dict[str, Any], **plan: Any) -> int:
    (id,) = add(store, [request])
    assert store.claim_job(id, "waiting")
    assert store.plan(id, "cpu", prepared(**plan))
    return id


# Payloads


def points() -> list[CurvePoint]:
    rng = np.random.default_rng(0)
    y = np.arange(200) % 2
    x = rng.standard_normal((200, 5)) + 0.4 * y[:, None]
    return [
        evaluate_features(x, y, eps=(0.0, 0.3), estimator="consistent"),
        evaluate_features(x, y, eps=(0.0, 0.3), estimator="counted"),
        evaluate_features(x, y, x, y, eps=(0.0, 0.3), estimator="paper"),
    ]


def same(a: CurvePoint, b: CurvePoint) -> bool:
    for field in dataclasses.fields(CurvePoint):
        one, other = getattr(a, field.name), getattr(b, field.name)
        if isinstance(one, np.ndarray):
            if one.dtype != other.dtype or one.shape != other.shape or one.tobytes() != other.tobytes():
                return False
        elif one != other or type(one) is not type(other):
            return False
    return True


def test_points_come_back_bit_for_bit() -> None:
    for point in points():
        strange = dataclasses.replace(point, t=np.array([np.nan, -0.0]), bound=np.array([np.inf, 5e-324]))
        for one in (point, strange):
            assert same(decode_point(encode_point(one)), one)


def test_bytes_that_are_no_point_are_refused() -> None:
    data = encode_point(points()[0])
    for position in (0, 9, len(data) // 2, len(data) - 1):
        changed = bytearray(data)
        changed[position] ^= 1
        with refused("payload: expected a stored point, got damaged bytes"):
            decode_point(bytes(changed))
    with refused("payload: expected a stored point, got damaged bytes"):
        decode_point(data[:-1])
    with refused("payload: expected a stored point, got damaged bytes"):
        decode_point(b"")


def test_points_of_another_version_are_refused() -> None:
    import zlib

    data = encode_point(points()[0])[:-4].replace(b'"rank"', b'"size"')
    with refused("payload: expected a point of this version, got another"):
        decode_point(data + zlib.crc32(data).to_bytes(4, "little"))


# Plans


@pytest.mark.parametrize(
    ("stored", "samples", "least", "blocks"),
    [
        ([], 100, 20, [(0, 100)]),
        ([(0, 100)], 100, 20, [(0, 100)]),
        ([(0, 100)], 250, 20, [(0, 100), (100, 150)]),
        ([(0, 100), (100, 150)], 250, 20, [(0, 100), (100, 150)]),
        ([(0, 100), (0, 200), (100, 150)], 250, 20, [(0, 200), (200, 50)]),
        ([(0, 100)], 110, 20, [(0, 100), (100, 20)]),
        ([(0, 100), (100, 20)], 110, 20, [(0, 100), (100, 20)]),
        ([(0, 100)], 50, 20, [(0, 50)]),
        ([(0, 100)], 250, None, [(0, 250)]),
    ],
)
def test_scales_are_covered_by_what_is_stored(
    stored: Any, samples: int, least: int | None, blocks: Any
) -> None:
    assert cover(stored, samples, least) == blocks


def test_more_samples_only_add_units(tmp_path: Path) -> None:
    store = opened(tmp_path)
    first = planned(store, fakes(1)[0])
    for unit in store.claim_units(first, 9):
        assert store.finish_unit(unit.id, b"1", 64, {})
    second = planned(store, fakes(1, samples=128)[0], samples=128)
    assert store.left(second) == (3, 3, 6)
    assert {(one.start, one.count) for one in store.claim_units(second, 9)} == {(64, 64)}
    other = planned(store, fakes(1, samples=99)[0], series="another")
    assert store.left(other) == (3, 3, 3)


# Hashes


def test_keys_follow_what_is_asked_for(tmp_path: Path) -> None:
    weights = tmp_path / "w.pt"
    weights.write_bytes(b"1")
    base: dict[str, Any] = {"eps": (0.0, 0.2), "samples": 64}
    one = make_request("builtin:conv", ScoreConfig(**base))
    assert one["options"]["threads"] == 1 and one["options"]["device"] == "auto"
    assert job_key(one) == job_key(
        make_request("builtin:conv", ScoreConfig(**{**base, "threads": 1, "seed": 0}))
    )
    others = [make_request("builtin:conv", ScoreConfig(**{**base, **change})) for change in (
        {"eps": (0.0, 0.3)}, {"samples": 65}, {"seed": 1}, {"threads": 2}, {"dtype": "float64"},
        {"batch_size": 8}, {"checkpoint": str(weights)}, {"thresholds": (0.7,)},
    )]  # fmt: skip
    others.append(make_request("builtin:conv?dim=8", ScoreConfig(**base)))
    keys = [job_key(one) for one in others]
    assert len({job_key(one), *keys}) == len(others) + 1
    weights.write_bytes(b"22")
    assert job_key(others[6]) != keys[6]
    assert configuration_of(one) == configuration_of(others[-1]) == configuration_of(others[6])
    assert configuration_of(one) != configuration_of(others[0])
    same_family = [number for number, other in enumerate(others) if family_of(other) == family_of(one)]
    assert same_family == [1, 7]  # samples and thresholds
    with refused("options: expected arguments of score(), got 'devise', did you mean device?"):
        make_request("builtin:conv", ScoreConfig.of(None, {"devise": "cpu"}))


def test_paths_that_begin_at_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "model.onnx").touch()
    (tmp_path / "make.py").touch()
    specs = [f"onnx:{tmp_path / 'model.onnx'}", "onnx:~/model.onnx", "python:~/make.py:make"]
    requests = [make_request(spec, ScoreConfig()) for spec in specs]
    before = [job_key(one) for one in requests]
    (tmp_path / "model.onnx").write_bytes(b"1")
    (tmp_path / "make.py").write_text("# changed")
    assert not set(before) & {job_key(one) for one in requests}
    assert source_of(specs[2]) == source_of(f"python:{tmp_path / 'make.py'}:make") != ""


def test_names_of_files_in_another_encoding(tmp_path: Path) -> None:
    with refused("encoder: expected a name in UTF-8, got 'onnx:caf\\udce9.onnx'"):
        make_request("onnx:caf\udce9.onnx", ScoreConfig())
    store = opened(tmp_path)
    add(store, [make_request("builtin:conv", ScoreConfig(**{"checkpoint": "caf\udce9.pt"}))])
    (encoder,) = read_summary(tmp_path)["encoders"]
    assert encoder["checkpoint"] == "caf\udce9.pt"


def test_half_the_batch_is_another_series() -> None:
    identity = {"a": 1.5}
    decision = {"batch_size": 4, "asked": False}
    made = {"decision": decision, "tasks": [{"identity": identity, "series": series_of(identity, decision)}]}
    smaller = halved(made)
    assert smaller is not None
    assert smaller["decision"]["batch_size"] == 2
    assert smaller["tasks"][0]["series"] != made["tasks"][0]["series"]
    assert halved({**made, "decision": {"batch_size": 1, "asked": False}}) is None
    assert halved({**made, "decision": {"batch_size": 4, "asked": True}}) is None


# Who has what


def test_everything_is_taken_once(tmp_path: Path) -> None:
    one, two = opened(tmp_path), opened(tmp_path)
    (id,) = add(one, fakes(1))
    assert add(two, fakes(1)) == [id]
    assert one.claim_job(id, "waiting") and not two.claim_job(id, "waiting")
    assert one.plan(id, "cpu", prepared())
    mine, theirs = one.claim_units(id, 2), two.claim_units(id, 2)
    assert [len(mine), len(theirs), two.left(id)] == [2, 1, (0, 3, 3)]
    assert not {unit.id for unit in mine} & {unit.id for unit in theirs}
    assert not one.plan(id, "cpu", prepared("other"))  # while the other run is at it
    assert one.finish_unit(mine[0].id, b"a", 64, {"worked": 1.0})
    assert not two.finish_unit(mine[0].id, b"b", 64, {"worked": 2.0})
    assert [payload for _, payload, _ in two.payloads(id)] == [b"a"]
    assert one.left(id) == (0, 2, 3)


def test_a_silent_run_loses_what_it_held(tmp_path: Path) -> None:
    clock = Clock()
    one, two = opened(tmp_path, clock), opened(tmp_path, clock)
    ids = add(one, fakes(2))
    assert one.claim_job(ids[0], "waiting") and one.claim_job(ids[1], "waiting")
    assert one.plan(ids[0], "cpu", prepared())
    units = one.claim_units(ids[0], 3)
    clock.now += 50
    assert two.beat(["cpu"]) == [one.run]
    assert not two.claim_job(ids[1], "waiting") and two.claim_units(ids[0], 3) == []
    clock.now += 50
    assert two.beat(["cpu"]) == []
    assert two.claim_job(ids[1], "waiting")
    assert two.claim_units(ids[0], 3) == units
    assert one.finish_unit(units[0].id, b"late", 64, {})  # still right, and the first
    assert not two.finish_unit(units[0].id, b"again", 64, {})


@pytest.mark.parametrize("ahead", [3600.0, -3600.0])
def test_clocks_of_two_machines_may_differ(ahead: float, tmp_path: Path) -> None:
    """After the first heartbeat that is seen to change, it is the observer's clock that says who is silent."""
    one, two = Clock(), Clock()
    two.now += ahead
    first, second = opened(tmp_path, one), opened(tmp_path, two)
    (id,) = add(first, fakes(1))
    for _ in range(3):
        for clock in (one, two):
            clock.now += 30
        first.beat(["cpu"])
        second.beat(["cpu"])
    assert first.claim_job(id, "waiting")
    for _ in range(5):
        for clock in (one, two):
            clock.now += 30
        assert second.beat(["cpu"]) == [first.run] and not second.claim_job(id, "waiting")
        assert first.beat(["cpu"]) == [second.run]
    for _ in range(3):  # it says no more
        two.now += 30
        second.beat(["cpu"])
    assert second.claim_job(id, "waiting")


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="processes are told apart by /proc")
def test_half_written_results_go_with_their_writers(tmp_path: Path) -> None:
    """A run that begins removes them, though another run is alive and whether or not it will write."""
    opened(tmp_path)
    left = killed_inside_its_save(tmp_path / "results" / "dead.json")
    with writing(tmp_path / "results" / "live.json") as (_, temporary):
        opened(tmp_path)
        assert temporary.exists() and not left.exists()


def test_a_dead_process_loses_what_it_held_at_once(tmp_path: Path) -> None:
    program = (
        "import os, signal\nfrom pathlib import Path\nfrom fleet_fakes import *\n"
        f"store = Store(Path({str(tmp_path)!r}))\nstore.begin()\nids = add(store, fakes(1))\n"
        "assert store.claim_job(ids[0], 'waiting')\n"
        "store.beat(['cpu'], [('0', 'cpu', 'ready', 'fake:000', 1.0, 2, 128, 4.0)])\nos.kill(os.getpid(), signal.SIGKILL)"
    )
    paths = os.pathsep.join(sys.path)
    done = subprocess.run(
        [sys.executable, "-c", program], env={**os.environ, "PYTHONPATH": paths}, check=False
    )
    assert done.returncode == -9
    summary = read_summary(tmp_path)
    assert not summary["runs"][0]["alive"] and summary["workers"] == []  # what it was at, nobody is
    store = Store(tmp_path)
    store.begin()
    assert store.claim_job(1, "waiting")
    assert process_mark(os.getpid()) != "" and process_mark(2**22 + 1) == "" and here() == here()


def test_failures_are_tried_again_unless_another_run_is_alive(tmp_path: Path) -> None:
    one = opened(tmp_path)
    (id,) = add(one, fakes(1))
    one.fail_job(id, "weights:\nnot there")
    two = opened(tmp_path)
    add(two, fakes(1))
    assert (two.job(id).state, two.job(id).reason) == ("failed", "weights: not there")
    one.end()
    add(two, fakes(1))
    assert (two.job(id).state, two.job(id).reason) == ("waiting", None)
    two.finish_job(id, "x.json")
    two.fail_job(id, "too late")
    assert two.job(id).state == "done"


def test_results_of_two_jobs_have_two_names(tmp_path: Path) -> None:
    store = opened(tmp_path)
    one, two = add(store, fakes(2))
    store.finish_job(one, "a.json")
    assert store.result_name(one, "a.json") == "a.json"
    assert store.result_name(two, "a.json") == f"a-{store.job(two).key[:6]}.json"


def test_summary(tmp_path: Path) -> None:
    store = Store(tmp_path)
    store.begin()
    old = planned(store, fakes(1)[0])
    ids = add(store, fakes(3, samples=128))
    assert store.claim_job(ids[0], "waiting") and store.plan(ids[0], "cpu", prepared("t"))
    for unit in store.claim_units(ids[0], 2):
        store.finish_unit(unit.id, b"x", 64, {})
    store.fail_job(ids[1], "why")
    store.beat(["cpu"], [("0", "cpu", "ready", "fake:000", 1.0, 2, 128, 4.0)])
    summary = json.loads(json.dumps(read_summary(tmp_path)))
    assert summary["counts"] == {"waiting": 1, "planned": 1, "done": 0, "failed": 1}
    assert summary["units"] == {"total": 3, "done": 2} and summary["images"] == 128
    assert [one["current"] for one in summary["encoders"]] == [False, True, True, True]
    assert summary["encoders"][0]["id"] == old
    assert [one["reason"] for one in summary["encoders"]][2] == "why"
    assert summary["workers"][0]["encoder"] == "fake:000" and summary["runs"][0]["alive"]
    assert summary["images_per_second"] > 0
    add(store, fakes(1))  # asked for again, the first configuration is the current one
    assert [one["current"] for one in read_summary(tmp_path)["encoders"]] == [True, False, False, False]


# What is wrong with a store


def test_a_new_store_waits_for_another_process_that_makes_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The journal of a new file is set under locks for which SQLite does not wait: "database is locked" at once."""
    other = sqlite3.connect(tmp_path / database.FILE, isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    waits: list[float] = []

    def sleep(seconds: float) -> None:
        waits.append(seconds)
        other.execute("ROLLBACK")

    monkeypatch.setattr(database.time, "sleep", sleep)
    db = database.connect(tmp_path, create=True)
    assert database.mode(db) == "wal" and len(waits) == 1
    db.close()
    other.close()


def test_no_store(tmp_path: Path) -> None:
    with refused("DIR: expected a folder that `run --models` wrote, got"):
        read_summary(tmp_path)


def test_damaged_files_are_named(tmp_path: Path) -> None:
    store = Store(tmp_path)
    store.begin()
    add(store, fakes(200))
    store.close()
    path = tmp_path / "store.sqlite"
    whole = path.read_bytes()
    path.write_bytes(b"what is this" * 1000)
    for use in (lambda: Store(tmp_path), lambda: read_summary(tmp_path)):
        with refused("store.sqlite: expected a run store, got a damaged file", "move the damaged one away"):
            use()
    path.write_bytes(whole[:8192] + bytes(len(whole) - 8192))
    with refused("store.sqlite: expected a run store, got a damaged file"):
        Store(tmp_path)


def test_another_programs_file_and_a_later_version(tmp_path: Path) -> None:
    db = sqlite3.connect(tmp_path / "store.sqlite")
    db.execute("CREATE TABLE cats(name TEXT)")
    db.commit()
    with refused("store.sqlite: expected a run store of version 1, got version 0"):
        Store(tmp_path)
    db.execute("PRAGMA user_version=7")
    db.commit()
    db.close()
    with refused("store.sqlite: expected a run store of version 1, got version 7"):
        read_summary(tmp_path)


def test_a_full_disk_is_named_and_loses_nothing(tmp_path: Path) -> None:
    store = opened(tmp_path)
    id = planned(store, fakes(1)[0], scales=50)
    store.db.execute(f"PRAGMA max_page_count={store.db.execute('PRAGMA page_count').fetchone()[0] + 12}")
    kept = 0
    with refused(
        "store.sqlite: expected room to write, got: database or disk is full", "run again with more room"
    ):
        for unit in store.claim_units(id, 50):
            assert store.finish_unit(unit.id, bytes(4000), 64, {})
            kept += 1
    assert kept > 5 and store.left(id)[1] == 50 - kept
    store.close()
    again = Store(tmp_path)
    again.begin()
    assert len(again.payloads(id)) == kept


def test_a_file_that_cannot_be_opened(tmp_path: Path) -> None:
    (tmp_path / "store.sqlite").mkdir()
    with refused("store.sqlite: expected a file of the store itself, got something else"):
        Store(tmp_path)


def test_writers_that_never_let_go(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(database, "BUSY_SECONDS", 0.05)
    one, two = Store(tmp_path), Store(tmp_path)
    one.db.execute("BEGIN IMMEDIATE")
    with refused("store.sqlite: expected the others to let go of it in time, got: database is locked"):
        two.begin()


def test_network_file_systems_get_a_rollback_journal(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def mode(store: Store) -> str:
        return str(store.db.execute("PRAGMA journal_mode").fetchone()[0])

    assert mode(Store(tmp_path / "here")) == "wal"
    assert mode(Store(tmp_path / "asked", journal="delete")) == "delete"
    monkeypatch.setattr(database, "_file_system", lambda folder: "nfs4")
    store = opened(tmp_path / "there")
    assert mode(store) == "delete"
    assert planned(store, fakes(1)[0]) == 1


def test_a_journal_that_was_asked_for_stays(tmp_path: Path) -> None:
    """A later command without --journal must not bring back what the file system cannot hold."""
    Store(tmp_path, journal="delete").close()
    store = Store(tmp_path)
    assert (database.mode(store.db), store.beat_seconds) == ("delete", 10.0)
    store.close()
    assert database.mode(Store(tmp_path, journal="wal").db) == "wal"
    with refused("journal: expected one of auto, wal, delete, got 'wall', did you mean wal?"):
        Store(tmp_path / "other", journal="wall")


def test_the_order_of_a_requests_fields_means_nothing(tmp_path: Path) -> None:
    store = opened(tmp_path)
    (request,) = fakes(1)
    again = {**dict(reversed(request.items())), "options": dict(reversed(request["options"].items()))}
    assert add(store, [request]) == add(store, [again])


def test_the_file_system_of_a_folder(tmp_path: Path) -> None:
    assert database._file_system(Path("/proc")) == "proc"
    assert database._file_system(tmp_path) not in ("", "proc")


def test_arguments_that_decide_numbers_are_part_of_every_unit() -> None:
    """A field that was added to ScoreConfig, too: a store that was filled without it does not answer."""
    request = make_request("builtin:conv", ScoreConfig())
    further = {**request, "options": {**request["options"], "mirror": True}}
    assert arguments_of_units(further) == {**arguments_of_units(request), "mirror": True}
    known = {name: option.decides for name, (option, _) in options().items()}
    found = arguments_of_units(request)
    assert {"eps", "estimator", "seed", "backend", "threads"} <= set(found)
    assert all(known[name] in ("numbers", "encoder") for name in found)
    # What is left out is in the identity or the decision as what came of it.
    rest = {name for name, kind in known.items() if kind in ("numbers", "encoder")} - set(found)
    assert rest == set(RESOLVED)
