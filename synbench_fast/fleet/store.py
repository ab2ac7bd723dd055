"""The run store: who does what, what is finished, and what went wrong, in DIR/store.sqlite.

A job is one encoder under one configuration. Once a worker has loaded it, its units are known: one block of
samples of one scale of one task each. A unit is found by its series (everything that decides its numbers,
see `configuration`), its scale and its samples, so that jobs share units and a changed configuration finds
none. A run is a process that schedules; jobs and units that it has taken carry its number until it gives
them back, finishes them, or is found dead by its heartbeat.
"""

from __future__ import annotations

import json
import os
import re
import sqlite3
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from synbench_fast.errors import SynbenchError
from synbench_fast.fleet.database import FILE, connect, explained, mode, transaction
from synbench_fast.fleet.plan import cover
from synbench_fast.fleet.summary import read_summary
from synbench_fast.results.documents import saved
from synbench_fast.results.files import remove_leftovers
from synbench_fast.runtime.processes import LEASE_SECONDS, gone, here, process_mark

__all__ = ["Job", "Store", "Unit", "read_summary"]


@dataclass(frozen=True)
class Job:
    """One encoder under one configuration. `prepared`: what the first worker to load it found out.

    `before`: it was done when the run began that gives it back.
    """

    id: int
    key: str
    spec: str
    request: dict[str, Any]
    state: str  # waiting, planned, done or failed
    kind: str | None
    prepared: dict[str, Any] | None
    reason: str | None
    result: str | None
    before: bool = False

    @property
    def name(self) -> str:
        """What tells it from others: its spec, and the checkpoint where there is one."""
        checkpoint = self.request.get("options", {}).get("checkpoint")
        return self.spec if checkpoint is None else f"{self.spec} {checkpoint}"


@dataclass(frozen=True)
class Unit:
    """Samples start .. start + count - 1 of one scale of one task."""

    id: int
    series: str
    task: int
    scale_index: int
    start: int
    count: int

    def plain(self) -> dict[str, Any]:
        return vars(self).copy()


@dataclass(frozen=True)
class _Heard:
    """Another run's last heartbeat, when it was first seen here, and whether it came after one seen before."""

    heartbeat: float
    at: float
    again: bool


class Store:
    """The store in `folder` as one run sees it; every method is one transaction.

    Args:
        folder: made if it is missing, with its folder of results.
        journal: "auto", "wal" or "delete"; see `database`.
        clock: seconds since the epoch.
    """

    def __init__(
        self,
        folder: Path,
        *,
        journal: str = "auto",
        lease_seconds: float = LEASE_SECONDS,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self.folder, self.results = folder, folder / "results"
        try:
            folder.mkdir(parents=True, exist_ok=True)
            self.db = connect(folder, create=True, journal=journal)
            self.results.mkdir(exist_ok=True)
        except OSError as error:
            raise SynbenchError(
                f"{error.filename}: expected a folder that can be written, got: {error.strerror}"
            ) from None
        self._lease, self._clock = lease_seconds, clock
        self._heard: dict[int, _Heard] = {}  # of other runs
        # A rollback journal is written and synchronised each time, over a network as a rule.
        self.beat_seconds = 2.0 if mode(self.db) == "wal" else 10.0
        self.run = 0

    def close(self) -> None:
        self.db.close()

    @contextmanager
    def _writing(self) -> Iterator[sqlite3.Connection]:
        with explained(self.folder), transaction(self.db) as db:
            yield db

    def _rows(self, query: str, arguments: Sequence[Any] = ()) -> list[tuple[Any, ...]]:
        with explained(self.folder):
            return self.db.execute(query, arguments).fetchall()

    # Runs

    def begin(self) -> int:
        """Register this process as a run; releases what dead runs hold."""
        now = self._clock()
        with self._writing() as db:
            self._release_dead(db)
            cursor = db.execute(
                "INSERT INTO runs(host, pid, process, kinds, began, heartbeat) VALUES(?, ?, ?, ?, ?, ?)",
                (here(), os.getpid(), process_mark(os.getpid()), "[]", now, now),
            )
            self.run = int(cursor.lastrowid or 0)
        remove_leftovers(self.results)
        return self.run

    def beat(self, kinds: Iterable[str], workers: Iterable[Sequence[Any]] = ()) -> list[int]:
        """Say that this run is alive, what it offers and what its workers do; releases what dead runs hold.

        `workers`: (slot, device, state, encoder, since, units, images, seconds). Returns the other live runs.
        """
        with self._writing() as db:
            db.execute(
                "UPDATE runs SET heartbeat = ?, ended = NULL, kinds = ? WHERE id = ?",
                (self._clock(), json.dumps(sorted(kinds)), self.run),
            )
            db.executemany(
                "INSERT OR REPLACE INTO workers VALUES(?, ?, ?, ?, ?, ?, ?, ?, ?)",
                [(self.run, *one) for one in workers],
            )
            self._release_dead(db)
            return [
                n for (n,) in db.execute("SELECT id FROM runs WHERE ended IS NULL AND id != ?", (self.run,))
            ]

    def end(self) -> None:
        """Give back what is not finished; the run is over."""
        with self._writing() as db:
            self._release(db, self.run)

    def _release(self, db: sqlite3.Connection, run: int) -> None:
        db.execute("UPDATE jobs SET run = NULL WHERE run = ?", (run,))
        db.execute("UPDATE units SET run = NULL WHERE run = ?", (run,))
        db.execute("DELETE FROM workers WHERE run = ?", (run,))
        db.execute("UPDATE runs SET ended = ? WHERE id = ?", (self._clock(), run))

    def _release_dead(self, db: sqlite3.Connection) -> None:
        alive = db.execute(
            "SELECT id, host, pid, process, heartbeat FROM runs WHERE ended IS NULL"
        ).fetchall()
        for run, host, pid, mark, heartbeat in alive:
            if run != self.run and (self._silent(run, heartbeat) or gone(host, pid, mark)):
                self._release(db, run)

    def _silent(self, run: int, heartbeat: float) -> bool:
        """Whether a run has said nothing for a lease, by this machine's clock.

        Clocks of two machines may differ by more than a lease. What a heartbeat says counts only until a second one
        is seen; from then on it is when they came, here.
        """
        now = self._clock()
        before = self._heard.get(run)
        if before is None:
            self._heard[run] = _Heard(heartbeat, now, again=False)
            return heartbeat < now - self._lease
        if heartbeat != before.heartbeat:
            self._heard[run] = _Heard(heartbeat, now, again=True)
            return False
        return before.at <= now - self._lease or (not before.again and heartbeat < now - self._lease)

    def kinds_elsewhere(self) -> set[str]:
        """Kinds of devices that the other live runs offer."""
        rows = self._rows("SELECT kinds FROM runs WHERE ended IS NULL AND id != ?", (self.run,))
        return {kind for (text,) in rows for kind in json.loads(text)}

    # Jobs

    def add_jobs(self, jobs: Iterable[tuple[str, str, str, str, dict[str, Any]]]) -> list[int]:
        """Ids of these (key, configuration, family, spec, request), added where they are not known.

        Failures of earlier runs are forgotten, so that they are tried again, unless another run is alive: then
        they are that run's, and stand. A result of which a file is gone is put together again from its units.
        """
        ids, now = [], self._clock()
        with self._writing() as db:
            others = db.execute("SELECT count(*) FROM runs WHERE ended IS NULL AND id != ?", (self.run,))
            alone = others.fetchone()[0] == 0
            for key, configuration, family, spec, request in jobs:
                db.execute(
                    "INSERT OR IGNORE INTO jobs(key, configuration, family, spec, request) VALUES(?, ?, ?, ?, ?)",
                    (key, configuration, family, spec, json.dumps(request)),
                )
                id, result, stored_spec, stored = db.execute(
                    "SELECT id, result, spec, request FROM jobs WHERE key = ?", (key,)
                ).fetchone()
                # The key stands for the request; what another hand put under it, such as other code, is never run.
                if stored_spec != spec or _plain(stored, self.folder) != request:
                    raise SynbenchError(
                        f"{self.folder / FILE}: expected the request that job {id} is found by, got another"
                    )
                result = _file_name(result, self.folder)
                if result is not None and not saved(self.results / result):
                    db.execute(
                        "UPDATE jobs SET state = 'planned', result = NULL, finished = NULL WHERE id = ? AND state = 'done'",
                        (id,),
                    )
                db.execute("UPDATE jobs SET asked = ? WHERE id = ?", (now, id))
                ids.append(id)
                if alone:
                    db.execute(
                        "UPDATE units SET attempts = 0 WHERE attempts > 0 AND id IN "
                        "(SELECT unit FROM plan WHERE job = ?)",
                        (id,),
                    )
                    db.execute(
                        "UPDATE jobs SET attempts = 0, reason = NULL, finished = NULL, state = "
                        "CASE WHEN state = 'failed' THEN iif(prepared IS NULL, 'waiting', 'planned') ELSE state END "
                        "WHERE id = ?",
                        (id,),
                    )
        return ids

    def job(self, id: int) -> Job:
        rows = self._rows(
            "SELECT id, key, spec, request, state, kind, prepared, reason, result FROM jobs WHERE id = ?",
            (id,),
        )
        id, key, spec, request, state, kind, prepared, reason, result = rows[0]
        return Job(
            id,
            key,
            spec,
            _plain(request, self.folder),
            state,
            kind,
            prepared and _plain(prepared, self.folder),
            reason,
            _file_name(result, self.folder),
        )

    def decided(self, id: int, kind: str) -> dict[str, Any] | None:
        """What was prepared last for this encoder on such a device, by this job or one of its family."""
        rows = self._rows(
            "SELECT other.prepared FROM jobs JOIN jobs AS other ON other.family = jobs.family WHERE jobs.id = ? "
            "AND other.kind = ? AND other.prepared IS NOT NULL ORDER BY other.asked DESC, other.id DESC LIMIT 1",
            (id, kind),
        )
        return _plain(rows[0][0], self.folder) if rows else None

    def states(self) -> dict[int, tuple[str, str | None]]:
        """State and kind of device of every job."""
        return {id: (state, kind) for id, state, kind in self._rows("SELECT id, state, kind FROM jobs")}

    def claim_job(self, id: int, state: str) -> bool:
        """Take a job in `state` for this run, unless somebody has it."""
        with self._writing() as db:
            taken = db.execute(
                "UPDATE jobs SET run = ?, began = coalesce(began, ?) WHERE id = ? AND state = ? AND run IS NULL",
                (self.run, self._clock(), id, state),
            )
            return taken.rowcount == 1

    def release_job(self, id: int) -> None:
        """Give a job back."""
        with self._writing() as db:
            db.execute("UPDATE jobs SET run = NULL WHERE id = ? AND run = ?", (id, self.run))

    def count_job(self, id: int) -> int:
        """One more failed attempt to load a job; returns their number."""
        with self._writing() as db:
            db.execute("UPDATE jobs SET attempts = attempts + 1 WHERE id = ?", (id,))
            return int(db.execute("SELECT attempts FROM jobs WHERE id = ?", (id,)).fetchone()[0])

    def plan(self, id: int, kind: str, prepared: dict[str, Any], *, anyway: bool = False) -> bool:
        """Write down what a worker found out when it loaded a job, and which units make it up.

        `prepared["tasks"]`: of each task its `series`, `scales`, `samples` and `least` (see `plan.cover`). A job
        that was planned otherwise is planned anew, unless other runs are at its units: then False. With `anyway`
        what these make is kept, and no part of the plan.
        """
        with self._writing() as db:
            busy = db.execute(
                "SELECT count(*) FROM plan JOIN units ON units.id = plan.unit WHERE job = ? AND run IS NOT NULL "
                "AND run != ? AND payload IS NULL",
                (id, self.run),
            ).fetchone()[0]
            if busy and not anyway:
                return False
            db.execute("DELETE FROM plan WHERE job = ?", (id,))
            tasks = []
            for number, task in enumerate(prepared["tasks"]):
                stored = db.execute(
                    "SELECT DISTINCT start, count FROM units WHERE series = ? AND payload IS NOT NULL",
                    (task["series"],),
                ).fetchall()
                chain = cover(stored, task["samples"], task["least"])
                tasks.append({**task, "blocks": [chain] * len(task["scales"])})
                for scale_index in range(len(task["scales"])):
                    for start, count in chain:
                        _add_unit(db, id, number, task, scale_index, start, count)
            prepared = {**prepared, "tasks": tasks}
            db.execute(
                "UPDATE jobs SET state = 'planned', kind = ?, prepared = ?, run = NULL, attempts = 0 WHERE id = ?",
                (kind, json.dumps(prepared), id),
            )
            return True

    def extend_plan(self, id: int, more: list[list[int]]) -> None:
        """So many more samples for each task and scale, as one further block; gives the job back."""
        with self._writing() as db:
            (text,) = db.execute("SELECT prepared FROM jobs WHERE id = ?", (id,)).fetchone()
            prepared = _plain(text, self.folder)
            for number, (task, further) in enumerate(zip(prepared["tasks"], more, strict=True)):
                for scale_index, count in enumerate(further):
                    if count:
                        start = sum(task["blocks"][scale_index][-1])
                        task["blocks"][scale_index].append([start, count])
                        _add_unit(db, id, number, task, scale_index, start, count)
            db.execute("UPDATE jobs SET prepared = ?, run = NULL WHERE id = ?", (json.dumps(prepared), id))

    def forget_plan(self, id: int) -> None:
        """Back to a job that nobody has loaded; its units stay."""
        with self._writing() as db:
            db.execute("DELETE FROM plan WHERE job = ?", (id,))
            db.execute(
                "UPDATE jobs SET state = 'waiting', kind = NULL, prepared = NULL, run = NULL WHERE id = ? "
                "AND state = 'planned'",
                (id,),
            )

    def result_name(self, id: int, name: str) -> str:
        """`name`, or one like it if that is another job's result."""
        rows = self._rows("SELECT count(*) FROM jobs WHERE result = ? AND id != ?", (name, id))
        return name if rows[0][0] == 0 else f"{name.removesuffix('.json')}-{self.job(id).key[:6]}.json"

    def finish_job(self, id: int, result: str) -> None:
        """Its result is in the file `result` of the folder of results."""
        _file_name(result, self.folder)
        with self._writing() as db:
            db.execute(
                "UPDATE jobs SET state = 'done', run = NULL, reason = NULL, result = ?, finished = ? WHERE id = ?",
                (result, self._clock(), id),
            )

    def fail_job(self, id: int, reason: str) -> None:
        """It cannot be scored; `reason` is one line."""
        with self._writing() as db:
            db.execute(
                "UPDATE jobs SET state = 'failed', run = NULL, reason = ?, finished = ? WHERE id = ? "
                "AND state != 'done'",
                (" ".join(reason.split()), self._clock(), id),
            )

    # Units

    def left(self, id: int) -> tuple[int, int, int]:
        """Of a job's units: how many nobody has taken, how many are not finished, how many there are."""
        rows = self._rows(
            "SELECT count(*), sum(payload IS NULL), sum(payload IS NULL AND run IS NULL) FROM plan "
            "JOIN units ON units.id = plan.unit WHERE job = ?",
            (id,),
        )
        total, open, free = rows[0]
        return free or 0, open or 0, total

    def claim_units(self, id: int, limit: int) -> list[Unit]:
        """Take up to `limit` units of a job that nobody has taken."""
        with self._writing() as db:
            rows = db.execute(
                "SELECT units.id, series, task, scale_index, plan.start, count FROM plan JOIN units ON units.id = plan.unit "
                "WHERE job = ? AND payload IS NULL AND run IS NULL ORDER BY task, scale_index, plan.start LIMIT ?",
                (id, limit),
            ).fetchall()
            db.executemany("UPDATE units SET run = ? WHERE id = ?", [(self.run, row[0]) for row in rows])
            return [Unit(*row) for row in rows]

    def finish_unit(self, id: int, payload: bytes, images: int, costs: dict[str, Any]) -> bool:
        """Keep a unit's payload; False if it was there before, which then stays and counts."""
        with self._writing() as db:
            kept = db.execute(
                "UPDATE units SET payload = ?, images = ?, costs = ?, finished = ?, run = NULL, attempts = 0 "
                "WHERE id = ? AND payload IS NULL",
                (payload, images, json.dumps(costs), self._clock(), id),
            )
            return kept.rowcount == 1

    def release_units(self, ids: Iterable[int]) -> None:
        """Give units back."""
        with self._writing() as db:
            db.executemany(
                "UPDATE units SET run = NULL WHERE id = ? AND run = ?", [(one, self.run) for one in ids]
            )

    def count_unit(self, id: int) -> int:
        """One more failed attempt at a unit; returns their number."""
        with self._writing() as db:
            db.execute("UPDATE units SET attempts = attempts + 1 WHERE id = ?", (id,))
            return int(db.execute("SELECT attempts FROM units WHERE id = ?", (id,)).fetchone()[0])

    def discard_unit(self, id: int) -> None:
        """Forget a payload that cannot be read."""
        with self._writing() as db:
            db.execute("UPDATE units SET payload = NULL, finished = NULL, run = NULL WHERE id = ?", (id,))

    def units_of_jobs(self) -> dict[int, tuple[int, int]]:
        """Of every planned job how many units are done and how many there are."""
        rows = self._rows(
            "SELECT job, sum(payload IS NOT NULL), count(*) FROM plan JOIN units ON units.id = plan.unit "
            "GROUP BY job"
        )
        return {job: (done, total) for job, done, total in rows}

    def payloads(self, id: int) -> list[tuple[Unit, bytes, dict[str, Any]]]:
        """Units of a job with what was kept of each, in order."""
        rows = self._rows(
            "SELECT units.id, series, task, scale_index, plan.start, count, payload, costs FROM plan "
            "JOIN units ON units.id = plan.unit WHERE job = ? AND payload IS NOT NULL "
            "ORDER BY task, scale_index, plan.start",
            (id,),
        )
        return [(Unit(*row[:6]), row[6], _plain(row[7], self.folder)) for row in rows]


def _plain(text: Any, folder: Path) -> dict[str, Any]:
    """The JSON object in a column."""
    try:
        value = json.loads(text)
    except (TypeError, ValueError, RecursionError):
        value = None
    if not isinstance(value, dict):
        raise SynbenchError(
            f"{folder / FILE}: expected a JSON object in every job and unit, got something else"
        )
    return value


def _file_name(name: Any, folder: Path) -> Any:
    """The name of a result's file, or None: one that leads out of the folder of results is refused."""
    if name is None:
        return None
    if not isinstance(name, str) or not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*\.json", name):
        raise SynbenchError(f"{folder / FILE}: expected the name of a result's file, got {str(name)!r}")
    return name


def _add_unit(
    db: sqlite3.Connection,
    id: int,
    number: int,
    task: dict[str, Any],
    scale_index: int,
    start: int,
    count: int,
) -> None:
    """Into the plan of a job, and into the units where it is not there."""
    key = (task["series"], task["scales"][scale_index], start, count)
    db.execute("INSERT OR IGNORE INTO units(series, scale, start, count) VALUES(?, ?, ?, ?)", key)
    db.execute(
        "INSERT INTO plan SELECT ?, ?, ?, start, id FROM units WHERE series = ? AND scale = ? AND start = ? "
        "AND count = ?",
        (id, number, scale_index, *key),
    )
