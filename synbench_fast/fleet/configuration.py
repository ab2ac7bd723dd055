"""What makes numbers comparable: the hashes that jobs and units are found by.

The key of a job covers what was asked for: spec, every argument of score() but the device, the tasks, the
size and time of local files that the spec names, and NUMERICS. A finished job is known by it without loading
anything.

The series of units covers what decides their numbers, known once the encoder is loaded: NUMERICS, the spec and
revision, the weights' sha256, the source of a `python:` encoder, preprocessing, width, the task without its
scales, estimator, budgets, seed, backend of the operations, CPU threads, the versions of torch and of the
encoder's library, and the decision: kind of device, arithmetic, batch size, memory layout, compilation. The
number and the values of scales, the number of samples, thresholds and the integral are no part of it.
"""

from __future__ import annotations

import hashlib
import importlib.util
import inspect
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from synbench_fast.errors import SynbenchError

__all__ = [
    "NUMERICS",
    "configuration_of",
    "digest",
    "family_of",
    "halved",
    "job_key",
    "make_request",
    "named_files",
    "series_of",
]

NUMERICS = 1  # raised with every version whose numbers differ from the one before
FLEET_THREADS = 1  # a number that does not depend on how many workers there are


def digest(document: Any) -> str:
    """Hash of plain JSON values; equal floats have equal texts."""
    text = json.dumps(document, sort_keys=True, allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()[:24]


def make_request(spec: str, options: Mapping[str, Any], suite: Any | None = None) -> dict[str, Any]:
    """What a worker needs to score one encoder, as plain JSON values.

    Args:
        spec: of the encoder.
        options: arguments of score(); what is missing is score()'s default, `threads` 1.
        suite: a `Suite`, or None for the one task of the arguments.
    """
    from synbench_fast.checks import check_threads
    from synbench_fast.score import score

    try:
        spec.encode()
    except UnicodeEncodeError:  # the name of a file in another encoding; a store keeps text
        raise SynbenchError(f"encoder: expected a name in UTF-8, got {spec!a}") from None
    parameters = inspect.signature(score).parameters
    given: dict[str, Any] = {
        name: one.default for name, one in parameters.items() if name not in ("encoder", "progress")
    }
    given["device"] = None  # the worker's own, whatever it is
    for name, value in options.items():
        if name not in given or name == "device":
            raise SynbenchError(f"{name}: expected an argument that fleets have, got it with {value!r}")
        given[name] = value
    given["threads"] = check_threads(given["threads"]) or FLEET_THREADS
    tasks = None
    if suite is not None:
        tasks = {"suite": suite.name, "definitions": [vars(one) for one in suite.tasks]}
    request: dict[str, Any] = json.loads(json.dumps({"spec": spec, "options": given, "tasks": tasks}))
    return request


def job_key(request: dict[str, Any]) -> str:
    """Equal for equal requests while the files that they name are as they were."""
    return digest([NUMERICS, request, _files(request)])


def family_of(request: dict[str, Any]) -> str:
    """Equal for requests that differ in scales, samples and thresholds alone: they are decided alike."""
    further = ("scales", "samples", "preset", "precision", "average", "thresholds", "integral")
    options = {name: value for name, value in request["options"].items() if name not in further}
    tasks = request["tasks"] and request["tasks"]["definitions"]
    return digest([NUMERICS, request["spec"], options, tasks, _files(request)])


def configuration_of(request: dict[str, Any]) -> str:
    """Equal for the encoders of one run: everything but the encoder's own words."""
    own = ("checkpoint", "input_shape", "mean", "std", "pool", "random_init", "trust_remote_code")
    options = {name: value for name, value in request["options"].items() if name not in own}
    return digest([NUMERICS, options, request["tasks"]])[:12]


def series_of(identity: dict[str, Any], decision: dict[str, Any]) -> str:
    """Of the units of one task of one encoder."""
    return digest([NUMERICS, identity, decision])


def halved(prepared: dict[str, Any]) -> dict[str, Any] | None:
    """`prepared` with half the batch size, after a batch did not fit; None if it cannot be smaller."""
    decision = prepared["decision"]
    if decision["asked"] or decision["batch_size"] < 2:
        return None
    decision = {**decision, "batch_size": decision["batch_size"] // 2}
    tasks = [{**one, "series": series_of(one["identity"], decision)} for one in prepared["tasks"]]
    return {**prepared, "decision": decision, "tasks": tasks}


def named_files(request: dict[str, Any]) -> list[Path]:
    """Local files and folders that a request names."""
    source, _, name = request["spec"].partition("?")[0].partition(":")
    names = [request["options"]["checkpoint"]]
    if source in ("onnx", "torchscript", "hf"):
        names.append(name)
    elif source == "python":
        names.append(name.rpartition(":")[0])
    paths = [Path(one).expanduser() for one in names if one]
    if source == "onnx":  # the weights that an exporter put beside the graph
        paths += [Path(f"{paths[-1]}{ending}") for ending in (".data", "_data")]
    return [one for one in paths if one.exists()]


def _files(request: dict[str, Any]) -> list[tuple[str, int, int]]:
    found = []
    for path in named_files(request):
        inside = sorted(path.rglob("*")) if path.is_dir() else [path]
        found += [(str(one), one.stat().st_size, one.stat().st_mtime_ns) for one in inside if one.is_file()]
    return found


def source_of(spec: str) -> str:
    """sha256 of the file that a `python:` encoder comes from, "" for the others: its weights may be hidden."""
    prefix, _, name = spec.partition(":")
    if prefix != "python":
        return ""
    where = name.rpartition(":")[0]
    if not where.endswith(".py"):
        try:
            found = importlib.util.find_spec(where)
        except (ImportError, ValueError):
            found = None
        where = (found.origin if found is not None else None) or ""
    path = Path(where).expanduser()
    return hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else ""


def library_of(spec: str) -> str | None:
    """The library that loads encoders of this source."""
    from synbench_fast.encoders.registry import source  # with torch, which schedulers do without

    return source(spec.partition(":")[0], spec).library
