"""What makes numbers comparable: the hashes that jobs and units are found by.

The key of a job covers what was asked for: spec, every argument of score() but the device, the tasks, the
local files that the encoder is made of (`named_files`), and NUMERICS. A finished job is known by it without
loading anything.

The series of units covers what decides their numbers, known once the encoder is loaded: NUMERICS, the spec and
revision, the weights' sha256, the code and configuration beside them (`source_of`), preprocessing, width, the task without its
scales, every other argument that decides numbers (`arguments_of_units`), the versions of torch and of the
encoder's library, and the decision: kind of device, arithmetic, batch size, memory layout, compilation. The
number and the values of scales, the number of samples, thresholds and the integral are no part of it.
"""

from __future__ import annotations

import hashlib
import json
import os
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

from synbench_fast.config import ScoreConfig, options
from synbench_fast.errors import SynbenchError
from synbench_fast.runtime.local_files import file_sha256, local_sources, onnx_data, split_checkpoint

__all__ = [
    "NUMERICS",
    "RESOLVED",
    "arguments_of_units",
    "configuration_of",
    "digest",
    "family_of",
    "halved",
    "job_key",
    "make_request",
    "named_files",
    "series_of",
]

NUMERICS = 4  # raised with every version whose numbers differ from the one before
WHOLE = (
    16 << 20
)  # bytes: a larger file is known by size and times, because reading it takes as long as loading it
PUBLISHED = (
    "builtin",
    "timm",
    "torchvision",
    "open_clip",
)  # sources of names; those of the others may be paths
FLEET_THREADS = 1  # a number that does not depend on how many workers there are


def digest(document: Any) -> str:
    """Hash of plain JSON values; equal floats have equal texts."""
    text = json.dumps(document, sort_keys=True, allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()[:24]


def make_request(spec: str, config: ScoreConfig, suite: Any | None = None) -> dict[str, Any]:
    """What a worker needs to score one encoder, as plain JSON values.

    Args:
        spec: of the encoder.
        config: its arguments; the device is the worker's, and threads are 1 where they are left open.
        suite: a `Suite`, or None for the one task of the arguments.
    """
    try:
        spec.encode()
    except UnicodeEncodeError:  # the name of a file in another encoding; a store keeps text
        raise SynbenchError(f"encoder: expected a name in UTF-8, got {spec!a}") from None
    given = replace(config, device="auto", threads=config.threads or FLEET_THREADS).to_dict()
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
    given = _deciding(request, "numbers", "encoder")
    tasks = request["tasks"] and request["tasks"]["definitions"]
    return digest([NUMERICS, request["spec"], given, tasks, _files(request)])


def configuration_of(request: dict[str, Any]) -> str:
    """Equal for the encoders of one run: everything but the encoder's own words."""
    given = _deciding(request, "numbers", "amount")
    return digest([NUMERICS, given, request["tasks"]])[:12]


def _deciding(request: dict[str, Any], *kinds: str) -> dict[str, Any]:
    """The arguments of a request whose `Option.decides` is among `kinds`; those of no known field are "numbers"."""
    known = {name: option.decides for name, (option, _) in options().items()}
    return {name: value for name, value in request["options"].items() if known.get(name, "numbers") in kinds}


# Arguments that the identity of units or the decision has as what came of them.
RESOLVED = (
    "input_shape", "mean", "std", "pool", "published_preprocessing", "checkpoint", "random_init", "trust_remote_code",
    "prior", "center", "dtype", "batch_size", "compile",
)  # fmt: skip


def arguments_of_units(request: dict[str, Any]) -> dict[str, Any]:
    """The arguments of a request that decide the numbers of its units, but for those that are known by what came of them."""
    given = _deciding(request, "numbers", "encoder")
    return {name: value for name, value in given.items() if name not in RESOLVED}


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


def named_files(request: dict[str, Any]) -> list[tuple[str, Path]]:
    """Local files that a request's encoder is made of, each with a name that does not depend on where it lies."""
    spec, checkpoint = request["spec"], request["options"]["checkpoint"]
    source, _, name = spec.partition(":")
    found: list[tuple[str, Path]] = []
    if checkpoint is not None:
        found.append(("checkpoint", split_checkpoint(checkpoint)[0]))
    if source == "python":
        found += local_sources(name.rpartition(":")[0])
    elif source not in PUBLISHED:
        file = Path(os.path.expanduser(name.partition("?")[0]))
        data = onnx_data(file) if source == "onnx" else []
        found += [("file", file), *((os.path.relpath(one, file.parent), one) for one in data)]
    for folder in _folders(spec):
        found += [(one.relative_to(folder).as_posix(), one) for one in sorted(folder.rglob("*"))]
    return [(name, path) for name, path in found if os.path.isfile(path)]


def _folders(spec: str) -> list[Path]:
    """The directory that a spec loads a model from, and that of the model which it adapts, where they are local."""
    source, _, name = spec.partition(":")
    local = source not in (*PUBLISHED, "python") or name.startswith("local-dir:")
    folder = Path(os.path.expanduser(name.removeprefix("local-dir:")))
    if not local or not name or not os.path.isdir(folder):
        return []
    with suppress(OSError, ValueError, TypeError, KeyError):  # whoever loads it says what is wrong with it
        content = json.loads((folder / "adapter_config.json").read_text(encoding="utf-8"))
        base = Path(os.path.expanduser(content["base_model_name_or_path"]))
        return [folder, base] if base.is_dir() else [folder]
    return [folder]


def _files(request: dict[str, Any]) -> list[tuple[str, Any]]:
    return [(name, _state(path)) for name, path in named_files(request)]


def _state(path: Path) -> Any:
    """What changes with a file's content; the time of its last change is the one that no program sets."""
    found = path.stat()
    state = (found.st_size, found.st_mtime_ns, found.st_ctime_ns)
    if found.st_size > WHOLE:
        return state
    try:
        return file_sha256([path])
    except OSError:  # whoever loads it says that it cannot be read
        return state


def source_of(spec: str) -> str:
    """sha256 of the code and configuration that make an encoder of its weights, "" where the spec names none.

    For `python:` that is the code which importing its module brings in, for a local directory its JSON and Python
    files: what scales an adapter or names an activation is in no weight.
    """
    source, _, name = spec.partition(":")
    found = local_sources(name.rpartition(":")[0]) if source == "python" else []
    for folder in _folders(spec):
        inside = sorted([*folder.glob("*.json"), *folder.rglob("*.py")])
        found += [(one.relative_to(folder).as_posix(), one) for one in inside if one.is_file()]
    return digest([(name, file_sha256([path])) for name, path in found]) if found else ""


def library_of(spec: str) -> str | None:
    """The library that loads encoders of this source."""
    from synbench_fast.encoders.registry import source  # with torch, which schedulers do without

    return source(spec.partition(":")[0], spec).library
