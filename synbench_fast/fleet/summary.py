"""A store as plain data, for people and reports."""

from __future__ import annotations

import json
import os
import sqlite3
import time
from pathlib import Path
from typing import Any

from synbench_fast.errors import SynbenchError, first_line
from synbench_fast.fleet.database import FILE, connect, explained
from synbench_fast.runtime.processes import LEASE_SECONDS, gone

__all__ = ["named", "read_summary"]


def named(encoder: dict[str, Any]) -> str:
    """What tells an encoder of a summary from others, as `Job.name`."""
    spec, checkpoint = encoder["spec"], encoder["checkpoint"]
    return str(spec if checkpoint is None else f"{spec} {checkpoint}")


def read_summary(folder: str | os.PathLike[str]) -> dict[str, Any]:
    """What a store holds as plain data: counts, every encoder with its state and reason, runs and workers.

    Encoders carry their `configuration`; `current` says whether it is the one added last, and, where the
    encoder failed, whether the last command named it. Times are seconds
    since the epoch, `images_per_second` is that of the last minute.
    """
    path = Path(folder)
    db = connect(path, create=False)
    with explained(path):
        try:
            db.execute("BEGIN")
            return _summary(db, str(path))
        except (TypeError, ValueError, LookupError, AttributeError, OverflowError, RecursionError) as error:
            raise SynbenchError(
                f"{path / FILE}: expected the values that a run writes, got others ({first_line(error)})"
            ) from None
        finally:
            db.close()


def _summary(db: sqlite3.Connection, folder: str) -> dict[str, Any]:
    now = time.time()
    newest = db.execute(
        "SELECT configuration, asked FROM jobs ORDER BY asked DESC, id DESC LIMIT 1"
    ).fetchone()
    jobs = db.execute(
        "SELECT jobs.id, spec, request, configuration, state, reason, jobs.attempts, kind, result, began, jobs.finished, "
        "asked, "
        "count(unit), coalesce(sum(payload IS NOT NULL), 0), coalesce(sum(images), 0) FROM jobs "
        "LEFT JOIN plan ON plan.job = jobs.id LEFT JOIN units ON units.id = plan.unit GROUP BY jobs.id ORDER BY jobs.id"
    ).fetchall()
    names = [
        "id",
        "spec",
        "request",
        "configuration",
        "state",
        "reason",
        "attempts",
        "device",
        "result",
        "began",
        "finished",
        "asked",
        "units",
        "units_done",
        "images",
    ]
    encoders = [dict(zip(names, row, strict=True)) for row in jobs]
    for one in encoders:
        one["checkpoint"] = json.loads(one.pop("request")).get("options", {}).get("checkpoint")
        asked, failed = one.pop("asked"), one["state"] == "failed"
        one["current"] = newest is not None and one["configuration"] == newest[0]
        if (
            failed and newest is not None and asked != newest[1]
        ):  # a line that was corrected, or left out since
            one["current"] = False
    current = [one for one in encoders if one["current"]]
    states = [one["state"] for one in current]
    recent = db.execute(
        "SELECT count(*), coalesce(sum(images), 0), min(finished) FROM units WHERE finished > ?", (now - 60,)
    ).fetchone()
    runs = [
        {"id": id, "host": host.split()[0], "pid": pid, "began": began, "heartbeat": heartbeat, "alive": True}
        | ({} if not gone(host, pid, mark) and heartbeat > now - LEASE_SECONDS else {"alive": False})
        for id, host, pid, mark, began, heartbeat in db.execute(
            "SELECT id, host, pid, process, began, heartbeat FROM runs WHERE ended IS NULL ORDER BY id"
        )
    ]
    alive = {one["id"] for one in runs if one["alive"]}
    workers = db.execute(
        "SELECT run, slot, device, state, encoder, since, units, images, seconds FROM workers ORDER BY run, slot"
    ).fetchall()
    columns = ["run", "slot", "device", "state", "encoder", "since", "units", "images", "seconds"]
    return {
        "schema": "synbench-fast/fleet",
        "schema_version": 1,
        "folder": folder,
        "time": now,
        "configuration": newest[0] if newest else None,
        "counts": {state: states.count(state) for state in ("waiting", "planned", "done", "failed")},
        "units": {
            "total": sum(one["units"] for one in current),
            "done": sum(one["units_done"] for one in current),
        },
        "images": sum(one["images"] for one in current),
        "images_per_second": recent[1] / max(now - recent[2], 1.0) if recent[0] else 0.0,
        "encoders": encoders,
        "runs": runs,
        "workers": [dict(zip(columns, row, strict=True)) for row in workers if row[0] in alive],
    }
