"""Which worker does what: jobs and units from the store to the slots of an executor, and what goes wrong there.

A worker keeps its encoder as long as that has units left, then takes a job that nobody works at, then helps with
one that somebody does. It has one unit waiting behind the one that it runs, so that it never waits for this
process. What a worker that dies was doing is tried again, up to a limit; an encoder that raises a SynbenchError,
or takes longer than its time, has failed, and the others go on.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any

from synbench_fast.errors import SynbenchError
from synbench_fast.fleet.configuration import halved
from synbench_fast.fleet.executors import Event, Executor
from synbench_fast.fleet.places import Given, Place, Snapshot, weighted
from synbench_fast.fleet.store import Job, Store, Unit
from synbench_fast.results.documents import write_files

__all__ = ["RETRIES", "Fleet"]

RETRIES = 2
QUEUE = 2  # tasks of a worker, the one that runs included
STARTS = 3  # a slot whose worker ends so often before it has done anything is given up


class Fleet:
    """Runs jobs of a store in the slots of an executor until all are done or failed.

    Args:
        store: in which this process has begun a run.
        jobs: their ids in the store.
        timeout: seconds that workers may spend on one encoder, None for no limit.
        retries: how often a unit (or loading) is tried again after its worker died or raised something
            unexpected.
        report: called now and then, and at the end.
        said: called with one line about what happened.
        ahead: called with the requests of jobs that nobody has taken, those that come next, whenever an encoder has
            been loaded.
    """

    def __init__(
        self,
        store: Store,
        executor: Executor,
        jobs: Sequence[int],
        *,
        timeout: float | None = None,
        retries: int = RETRIES,
        report: Callable[[Snapshot], None] | None = None,
        said: Callable[[str], None] | None = None,
        ahead: Callable[[list[dict[str, Any]]], None] | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._store, self._executor, self._jobs = store, executor, list(jobs)
        self._timeout, self._retries = timeout, retries
        self._report = report or (lambda snapshot: None)
        self._said = said or (lambda line: None)
        self._ahead = ahead
        self._clock = clock
        self._places = {one.name: Place(one) for one in executor.slots}
        self._names = {id: store.job(id).name for id in jobs}
        self._states: dict[int, str] = {}
        # Not finished, as far as is known: thousands that are would be looked at again for every unit.
        self._open: deque[int] = deque()
        self._units: dict[int, tuple[int, int]] = {}
        self._spent: dict[int, float] = {}
        self._empty: set[int] = set()  # planned, with no unit that is free, as far as was seen last
        self._blocks: dict[int, list[Any]] = {}  # job -> of each task and scale the blocks
        self._kinds: dict[int, str] = {}
        self._load_seconds: dict[int, float] = {}
        self._unit_seconds: dict[int, float] = {}
        self._given = 0  # tasks
        self._images = 0
        self._begun = self._beaten = self._reported = -1e9
        self._first_shares: dict[int, float] = {}
        self._why = ""

    def run(self) -> dict[int, str]:
        """State of every job at the end; SynbenchError if nothing can be run or written any more."""
        self._begun = self._clock()
        self._tick(force=True)
        self._first_shares = self._shares()
        try:
            while self._unfinished():
                self._start_workers()
                given = [self._assign(place) for place in self._places.values()]
                self._tick()
                wait = 0.0 if any(given) else 0.5
                for event in self._executor.poll(wait):
                    self._handle(event)
                self._enforce_timeout()
        finally:
            self._executor.close()
            with suppress(SynbenchError):  # what stopped the run is what is reported
                self._store.end()
        self._report(self._snapshot())
        return {id: self._states[id] for id in self._jobs}

    # What there is to do

    def _unfinished(self) -> bool:
        while self._open and self._states[self._open[0]] in ("done", "failed"):
            self._open.popleft()
        return bool(self._open)

    def _tick(self, force: bool = False) -> None:
        """Now and then: say that this run lives, and see what others did."""
        now = self._clock()
        if force or now - self._beaten >= self._store.beat_seconds:
            self._beaten = now
            wall = time.time()
            rows = [
                (p.slot.name, p.slot.device, p.state, self._names.get(p.tasks[0].job, "") if p.tasks else "",
                 wall - (now - p.since), p.units, p.images, p.seconds)
                for p in self._places.values()
            ]  # fmt: skip
            self._store.beat({p.kind for p in self._places.values() if p.kind}, rows)
            states = self._store.states()
            self._states = {id: states[id][0] for id in self._jobs}
            self._open = deque(id for id in self._jobs if self._states[id] not in ("done", "failed"))
            self._kinds = {id: states[id][1] or "" for id in self._jobs}
            self._units = self._store.units_of_jobs()
            self._empty.clear()
        if now - self._reported >= 0.25:
            self._reported = now
            self._report(self._snapshot())

    def _shares(self) -> dict[int, float]:
        """Of each job the share of its units that is done."""
        found = {}
        for id in self._jobs:
            done, total = self._units.get(id, (0, 0))
            finished = self._states[id] in ("done", "failed")
            found[id] = 1.0 if finished else done / total if total else 0.0
        return found

    def _snapshot(self) -> Snapshot:
        work = {id: each * self._units[id][1] for id, each in self._unit_seconds.items() if id in self._units}
        seconds, progress = self._clock() - self._begun, weighted(self._shares(), work)
        gained = progress - weighted(self._first_shares, work)
        states = ["waiting" if one == "taken" else one for one in self._states.values()]
        return Snapshot(
            places=list(self._places.values()),
            names=self._names,
            counts={one: states.count(one) for one in ("waiting", "planned", "done", "failed")},
            units_done=self._units,
            progress=progress,
            images=self._images,
            seconds=seconds,
            seconds_left=seconds * (1 - progress) / gained if gained > 0 else None,
        )

    # Giving

    def _start_workers(self) -> None:
        for place in self._places.values():
            if place.state == "down":
                place.state, place.since, place.job = "starting", self._clock(), None
                self._executor.start(place.slot.name)
        if all(place.state == "given up" for place in self._places.values()):
            raise SynbenchError(f"devices: expected workers that start, got none: {self._why}")

    def _assign(self, place: Place) -> bool:
        """Give a worker what it has room for; whether there was something."""
        if place.state != "ready" or len(place.tasks) >= QUEUE:
            return False
        if place.job is not None and self._states.get(place.job) == "planned":
            last = place.tasks[-1] if place.tasks else None
            if last is None or (last.kind == "run" and last.job == place.job):
                units = self._claim(place, place.job, QUEUE - len(place.tasks))
                for unit in units:
                    self._submit_unit(place, place.job, unit)
                if units:
                    return True
        if place.tasks:
            return False
        return self._assemble_one(place) or self._begin_one(place) or self._join_one(place)

    def _claim(self, place: Place, id: int, limit: int) -> list[Unit]:
        if id in self._empty:
            return []
        units = self._store.claim_units(id, limit)
        if len(units) < limit:
            self._empty.add(id)
        if any([one.start, one.count] not in self._blocks[id][one.task][one.scale_index] for one in units):
            self._read_blocks(id)  # another run has found that more samples are needed
        if any(one.series != place.series[one.task] for one in units):  # decided anew since it was loaded
            self._store.release_units(one.id for one in units)
            self._empty.discard(id)
            place.job = None
            return []
        return units

    def _read_blocks(self, id: int) -> None:
        planned = self._store.job(id).prepared
        assert planned is not None
        self._blocks[id] = [one["blocks"] for one in planned["tasks"]]

    def _submit(self, place: Place, task: dict[str, Any], unit: Unit | None = None) -> None:
        now = self._clock()
        if not place.tasks:
            place.since = now
        self._given += 1
        place.tasks.append(Given(self._given, task["kind"], task["job"], unit, now))
        self._executor.submit(place.slot.name, {"number": self._given, **task})

    def _submit_unit(self, place: Place, id: int, unit: Unit) -> None:
        blocks = self._blocks[id][unit.task]
        self._submit(place, {"kind": "run", "job": id, "unit": {**unit.plain(), "blocks": blocks}}, unit)

    def _assemble_one(self, place: Place) -> bool:
        """A job all of whose units are done."""
        for id in self._open:
            done, total = self._units.get(id, (0, 0))
            if self._states[id] != "planned" or done < total or not total:
                continue
            self._states[id] = "taken"
            if not self._store.claim_job(id, "planned"):
                continue
            points = self._store.payloads(id)
            if len(points) < total:  # what was counted were units of an earlier decision
                self._store.release_job(id)
                self._units[id], self._states[id] = (len(points), total), "planned"
                continue
            job = self._store.job(id)
            plain = [(unit.plain(), payload, costs) for unit, payload, costs in points]
            task = {"kind": "assemble", "job": id, "request": job.request, "prepared": job.prepared}
            self._submit(place, {**task, "points": plain})
            return True
        return False

    def _busy(self, id: int) -> int:
        """How many workers have a task of this job, or its encoder."""
        places = self._places.values()
        return sum(one.job == id or any(task.job == id for task in one.tasks) for one in places)

    def _begin_one(self, place: Place) -> bool:
        """A job that nobody works at: new, or planned by a run that is over."""
        for id in self._open:
            state = self._states[id]
            if state == "waiting":
                self._states[id] = "taken"  # by this run or another, as far as is known before the next tick
                if not self._store.claim_job(id, "waiting"):
                    continue
                decided = self._store.decided(id, place.kind)
                self._submit(place, self._load(self._store.job(id), decided))
                return True
            if state == "planned" and not self._busy(id) and self._fits(place, id):
                free, open, _ = self._store.left(id)
                if free == open > 0:
                    return self._join(place, id)
        return False

    def _join_one(self, place: Place) -> bool:
        """The job with the most units to share, if they are worth loading its encoder once more."""
        best, most = None, 1
        for id in self._open:
            if self._states[id] == "planned" and id not in self._empty and self._fits(place, id):
                free = self._store.left(id)[0]
                share = free // (1 + self._busy(id))
                if share > most and self._worth(id, free):
                    best, most = id, share
        return best is not None and self._join(place, best)

    def _worth(self, id: int, free: int) -> bool:
        """Whether loading takes less than half the time of the units that are left."""
        each = self._unit_seconds.get(id)
        loading = self._load_seconds.get(id, 0.0)
        return each is None or loading < 0.5 * free * each

    def _fits(self, place: Place, id: int) -> bool:
        """Whether the job's numbers belong to this kind of device; if nobody has its kind any more, it starts anew."""
        kind = self._kinds[id]
        if kind == place.kind:
            return True
        here = {one.kind for one in self._places.values() if one.state != "given up"}
        starting = any(one.state in ("down", "starting") and not one.kind for one in self._places.values())
        if kind not in here and not starting and kind not in self._store.kinds_elsewhere():
            self._said(f"{self._names[id]}: begun on {kind}, which is gone: starts again on {place.kind}")
            self._store.forget_plan(id)
            self._states[id] = "waiting"
        return False

    def _join(self, place: Place, id: int) -> bool:
        job = self._store.job(id)
        if job.state != "planned":
            self._states[id] = job.state
            return False
        self._submit(place, self._load(job, job.prepared))
        return True

    @staticmethod
    def _load(job: Job, prepared: dict[str, Any] | None) -> dict[str, Any]:
        return {"kind": "load", "job": job.id, "request": job.request, "prepared": prepared}

    # Taking

    def _handle(self, event: Event) -> None:
        place = self._places[event.slot]
        if event.kind == "ready":
            place.state, place.kind, place.since = "ready", event.body["kind"], self._clock()
        elif event.kind == "lost":
            self._lost(place, event.reason, event.blame)
        elif not place.tasks or event.body.get("number") != place.tasks[0].number:
            # Whatever answers there, each of its answers would be taken for that of another task.
            self._executor.stop(place.slot.name)
            self._lost(place, "the worker answered another task than it was given", True)
        else:
            given = place.tasks.popleft()
            place.starts, place.since = 0, self._clock()
            if place.tasks:
                place.tasks[0].since = place.since
            body = event.body
            place.seconds += body["seconds"]
            self._spent[given.job] = self._spent.get(given.job, 0.0) + body["seconds"]
            if not body["ok"]:
                self._wrong(place, given, body)
            elif given.kind == "load":
                self._loaded(place, given.job, body)
            elif given.kind == "run":
                self._finished(place, given, body)
            else:
                self._assembled(given.job, body)

    def _loaded(self, place: Place, id: int, body: dict[str, Any]) -> None:
        job, data = self._store.job(id), body["data"]
        self._load_seconds[id] = body["seconds"]
        place.job, place.series = id, [one["series"] for one in data["tasks"]]
        if job.state == "planned" and job.prepared is not None:
            if [one["series"] for one in job.prepared["tasks"]] == place.series:
                self._read_blocks(id)
                self._states[id] = "planned"
            elif job.prepared["decision"] != data["decision"]:  # decided anew meanwhile
                place.job = None
            elif self._busy(id) > 1:
                self._fail(id, _unlike("worker", job.prepared, data))
            else:
                self._plan(place, id, data)
        elif job.state == "waiting":
            self._plan(place, id, data)
        else:
            self._states[id] = job.state
        if self._ahead is not None:
            waiting = [one for one in self._open if self._states[one] == "waiting"]
            self._ahead([self._store.job(one).request for one in waiting[: len(self._places)]])

    def _plan(self, place: Place, id: int, prepared: dict[str, Any]) -> None:
        if not self._store.plan(id, place.kind, prepared):
            self._fail(id, _unlike("run on this store", self._store.job(id).prepared, prepared))
            return
        self._read_blocks(id)
        self._kinds[id] = place.kind
        self._states[id] = "planned"
        self._empty.discard(id)
        _, open, total = self._store.left(id)
        self._units[id] = (total - open, total)

    def _finished(self, place: Place, given: Given, body: dict[str, Any]) -> None:
        assert given.unit is not None
        if self._store.finish_unit(given.unit.id, body["payload"], body["images"], body["costs"]):
            place.units += 1
            place.images += body["images"]
            self._images += body["images"]
            if place.job == given.job and given.unit.series in place.series:
                done, total = self._units.get(given.job, (0, 0))
                self._units[given.job] = (done + 1, total)
        before = self._unit_seconds.get(given.job, body["seconds"])
        self._unit_seconds[given.job] = 0.5 * (before + body["seconds"])

    def _assembled(self, id: int, body: dict[str, Any]) -> None:
        if "more" in body:
            self._store.extend_plan(id, body["more"])
            self._read_blocks(id)
            _, open, total = self._store.left(id)
            self._units[id], self._states[id] = (total - open, total), "planned"
            self._empty.discard(id)
            return
        name = self._store.result_name(id, body["file"])
        write_files(self._store.results / name, body["header"], body["arrays"])
        self._store.finish_job(id, name)
        self._states[id] = "done"

    def _fail(self, id: int, reason: str) -> None:
        self._store.fail_job(id, reason)
        self._states[id] = "failed"

    def _wrong(self, place: Place, given: Given, body: dict[str, Any]) -> None:
        """A task raised something."""
        reason = body["reason"]
        if given.kind == "load":
            place.job = None
        if body["damaged"] is not None:
            self._store.discard_unit(body["damaged"])
            self._store.release_job(given.job)
            done, total = self._units[given.job]
            self._units[given.job], self._states[given.job] = (done - 1, total), "planned"
            self._empty.discard(given.job)
            return
        self._give_back(given)
        if body["memory"]:
            self._smaller(given.job, given.unit, reason)
        elif body["permanent"]:
            self._fail(given.job, reason)
        else:
            self._again(given, reason)
            self._executor.stop(place.slot.name)  # whatever broke may have left the process broken
            self._down(place)

    def _smaller(self, id: int, unit: Unit | None, reason: str) -> None:
        """After a batch of the size decided did not fit: half of it, for all units of the job."""
        job = self._store.job(id)
        planned = [] if job.prepared is None else [one["series"] for one in job.prepared["tasks"]]
        if unit is None or unit.series not in planned:  # of a size that has been given up already
            return
        smaller = halved(job.prepared) if job.prepared is not None else None
        if job.state != "planned":
            return
        if smaller is None:
            self._fail(id, reason)
            return
        # Other runs see from the series that it was decided anew, as other workers of this one do.
        self._store.plan(id, job.kind or "", smaller, anyway=True)
        self._said(f"{job.name}: {reason}; all of it again with {smaller['decision']['batch_size']}")
        for place in self._places.values():
            if place.job == id:
                place.job = None
        _, open, total = self._store.left(id)
        self._units[id] = (total - open, total)
        self._empty.discard(id)

    def _give_back(self, given: Given) -> None:
        if given.unit is not None:
            self._store.release_units([given.unit.id])
        else:
            self._store.release_job(given.job)
        self._empty.discard(given.job)
        if self._states[given.job] == "taken":
            self._states[given.job] = self._store.job(given.job).state

    def _again(self, given: Given, reason: str) -> None:
        """Count a failed attempt; too many of them fail the encoder."""
        if given.unit is not None:
            attempts = self._store.count_unit(given.unit.id)
        else:
            attempts = self._store.count_job(given.job)
        if attempts > self._retries:
            self._fail(given.job, reason if attempts == 1 else f"{reason} ({attempts} attempts)")
        else:
            self._said(f"{self._names[given.job]}: {reason}; tried again")

    def _lost(self, place: Place, reason: str, blame: bool) -> None:
        self._why = reason
        tasks = list(place.tasks)
        if tasks and blame:
            self._give_back(tasks[0])
            self._again(tasks[0], reason)
        elif not tasks and blame:
            place.starts += 1
        self._down(place)

    def _down(self, place: Place) -> None:
        """The worker is gone; its tasks are free."""
        for given in place.tasks:
            self._give_back(given)
        place.tasks.clear()
        place.job = None
        place.state = "given up" if place.starts >= STARTS else "down"

    def _enforce_timeout(self) -> None:
        if self._timeout is None:
            return
        now = self._clock()
        running: dict[int, list[Place]] = {}
        for place in self._places.values():
            if place.tasks:
                running.setdefault(place.tasks[0].job, []).append(place)
        for id, places in running.items():
            seconds = self._spent.get(id, 0.0) + sum(now - one.tasks[0].since for one in places)
            if seconds <= self._timeout:
                continue
            for place in places:
                self._executor.stop(place.slot.name)
                self._down(place)
            if self._states[id] not in ("done", "failed"):
                done, total = self._units.get(id, (0, 0))
                at = f"{done} of {total} units" if total else "loading"
                self._fail(id, f"timeout: expected at most {self._timeout:g} s, got {seconds:.1f} s at {at}")


def _unlike(place: str, one: dict[str, Any] | None, other: dict[str, Any]) -> str:
    """Why an encoder that was loaded twice is not the same: libraries of other versions, else other weights."""
    found = [
        {} if each is None else each["tasks"][0].get("identity", {}).get("versions", {})
        for each in (one, other)
    ]
    names = [name for name in {**found[0], **found[1]} if found[0].get(name) != found[1].get(name)]
    if not names:
        return f"weights: expected the same in every {place}, got two versions"
    both = (", ".join(f"{name} {versions.get(name, 'none')}" for name in names) for versions in found)
    return f"versions: expected the same in every {place}, got {' and '.join(both)}"
