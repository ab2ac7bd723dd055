"""Result documents read for a report: what it shows is decoded, the rest is skipped or left to the strict reader.

A document of 60 KB spends nine tenths of its bytes on its curve, the covariance of its scores and influences.
They are cut out of the text before it is parsed, and `details` reads them where a chart or a ranking needs them.
A document that does not fit is read again by `Result.load`, which names the field; so nothing is refused here
that it would take.
"""

from __future__ import annotations

import json
import math
import os
import pickle
import subprocess
import sys
import types
import typing
from array import array
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, fields, is_dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from synbench_fast.errors import SynbenchError
from synbench_fast.results.documents import LARGEST_INTEGER, once

if TYPE_CHECKING:
    from synbench_fast.results.records import Influence, Result
    from synbench_fast.results.suite import SuiteResult

__all__ = [
    "CURVE",
    "SCORE",
    "SUITE_SCORE",
    "Details",
    "Entry",
    "Suite",
    "details",
    "entry_of",
    "read",
    "read_all",
]

SCORE = ("score", "stderr", "ci95_low", "ci95_high")
CURVE = (
    "accuracy",
    "robust_accuracy",
    "bound",
    "raw_accuracy",
    "raw_bound",
)
SUITE_SCORE = (
    "mean",
    "mean_stderr",
    "mean_ci95_low",
    "mean_ci95_high",
    "worst",
    "worst_stderr",
    "worst_ci95_low",
    "worst_ci95_high",
)
_INFINITE = tuple(CURVE.index(name) for name in ("bound", "raw_bound"))
_SINGLE = '"schema": "synbench-fast/result"'
_BATCH = 1500  # files that are worth a process of their own


@dataclass(frozen=True, kw_only=True, slots=True)
class Entry:
    """One result. The dicts have the fields of the records in results.py of the same names.

    `scores` has for every eps, then threshold, the numbers SCORE, NaN where unknown. `paired`: influences are
    stored. `dropped`: directions of the features without variance, at the scale that has most. `place`: which result of
    a suite's file it is.
    """

    file: str
    place: int | None
    encoder: dict[str, Any]
    task: dict[str, Any]
    estimator: str
    integral: str
    seed: int
    eps: list[float]
    thresholds: list[float]
    scores: array[float]
    paired: bool
    dropped: int
    robust_area: dict[str, float | None]
    precision: dict[str, Any]
    cost: dict[str, Any]
    environment: dict[str, Any]
    backends: dict[str, str]
    warnings: list[str]
    command: str

    def score(self, eps: float, threshold: float) -> tuple[float, ...]:
        """The numbers SCORE at one budget and threshold; NaN where the result has none."""
        if eps not in self.eps or threshold not in self.thresholds:
            return (math.nan,) * len(SCORE)
        place = self.eps.index(eps) * len(self.thresholds) + self.thresholds.index(threshold)
        return tuple(self.scores[place * len(SCORE) : (place + 1) * len(SCORE)])


@dataclass(frozen=True, kw_only=True, slots=True)
class Suite:
    """One encoder on several tasks. `scores` has for every eps, then threshold, the numbers SUITE_SCORE."""

    file: str
    suite: str
    tasks: list[str]
    entries: list[Entry]
    scores: array[float]
    worst_tasks: list[str]
    warnings: list[str]
    command: str

    def score(self, eps: float, threshold: float) -> tuple[tuple[float, ...], str]:
        """The numbers SUITE_SCORE at one budget and threshold, and the task that is worst there."""
        first = self.entries[0]
        if eps not in first.eps or threshold not in first.thresholds:
            return (math.nan,) * len(SUITE_SCORE), ""
        place = first.eps.index(eps) * len(first.thresholds) + first.thresholds.index(threshold)
        numbers = self.scores[place * len(SUITE_SCORE) : (place + 1) * len(SUITE_SCORE)]
        return tuple(numbers), self.worst_tasks[place]


class _Unfit(Exception):
    """What the light reader does not take; the strict one says why, or takes it."""


def read(path: str) -> Entry | Suite:
    """The result or suite in one file; SynbenchError names the file and what is wrong with it."""
    from synbench_fast.results.records import SCHEMA, SCHEMA_VERSION
    from synbench_fast.results.suite import SUITE_SCHEMA, SUITE_SCHEMA_VERSION

    try:
        with open(path, "rb") as stream:
            text = stream.read().decode()
    except OSError as error:
        raise SynbenchError(f"{path}: expected a readable result file, got: {error.strerror}") from None
    except UnicodeDecodeError:
        raise SynbenchError(f"{path}: expected a result file in UTF-8, got other bytes") from None
    versions = {SCHEMA: SCHEMA_VERSION, SUITE_SCHEMA: SUITE_SCHEMA_VERSION}
    try:
        if "\\ud" in text or "\\uD" in text:  # perhaps half a character
            raise _Unfit
        document = json.loads(_light(text), parse_constant=_no_constant, object_pairs_hook=once)
        if not isinstance(document, dict):
            raise _Unfit
        schema, version = document.get("schema"), document.get("schema_version")
        if schema not in versions or type(version) is not int or version != versions[schema]:
            raise _Unfit
        return _extract(document, path, schema == SUITE_SCHEMA)
    except (
        _Unfit,
        KeyError,
        TypeError,
        ValueError,
        AttributeError,
        IndexError,
        OverflowError,
        RecursionError,
    ):
        return _strict(text, path)


def _strict(text: str, path: str) -> Entry | Suite:
    document, suite = _strict_document(text, path)
    try:
        return _extract(document, path, suite)
    except (_Unfit, ValueError, IndexError):
        raise SynbenchError(
            f"{path}: scores: expected one for every eps, then threshold, got {len(document['scores'])}"
        ) from None


def _strict_document(text: str, path: str) -> tuple[dict[str, Any], bool]:
    """The document as one of the current version, and whether it is a suite's."""
    from synbench_fast.results.documents import parse
    from synbench_fast.results.records import SCHEMA, Result
    from synbench_fast.results.suite import SUITE_SCHEMA, SuiteResult

    document = parse(text, path)
    suite = isinstance(document, dict) and document.get("schema") == SUITE_SCHEMA
    if isinstance(document, dict) and document.get("schema") not in (SCHEMA, SUITE_SCHEMA):
        raise SynbenchError(
            f"{path}: schema: expected {SCHEMA!r} or {SUITE_SCHEMA!r}, got {str(document.get('schema'))[:60]!r}"
        )
    read = SuiteResult.from_dict if suite else Result.from_dict
    return read(document, source=path).to_dict(), suite


def entry_of(result: Result | SuiteResult) -> Entry | Suite:
    """What a report takes from a result in memory."""
    from synbench_fast.results.records import Result

    if isinstance(result, Result):
        return _extract(result.to_dict(), result.encoder.spec, False)
    return _extract(result.to_dict(), result.encoder.spec, True)


def _no_constant(name: str) -> float:
    raise ValueError(name)


def _spans(text: str) -> list[tuple[int, int]]:
    """Where `"curve": ...` begins and `"robust_area": ` follows, once per result; empty if the order is another.

    Inside a JSON string every quote has a backslash before it, so a key in plain quotes is a key.
    """
    if text.find(_SINGLE, 0, 100) >= 0:  # one result: both ends are near the text's
        start, end = text.find('"curve": '), text.rfind('"robust_area": ')
        plain = 0 < start < end and "\\" not in (text[start - 1], text[end - 1])
        return [(start, end)] if plain else []
    spans, start = [], 0
    while (start := text.find('"curve": ', start)) >= 0:
        end = text.find('"robust_area": ', start)
        if end < 0 or "\\" in (text[start - 1], text[end - 1]) or text.find('"schema": ', start, end) >= 0:
            return []
        spans.append((start, end))
        start = end
    return spans


def _light(text: str) -> str:
    """The document without curves, covariances and influences, a flag in their place; all of it if not found."""
    parts, last = [], 0
    for start, end in _spans(text):
        at = text.rfind('"influence": ', start, end)
        known = at >= 0 and not text.startswith("null", at + len('"influence": '))
        parts += [text[last:start], f'"influence": {"true" if known else "null"}, ']
        last = end
    return "".join([*parts, text[last:]])


def _extract(document: dict[str, Any], path: str, suite: bool) -> Entry | Suite:
    if not isinstance(document["scores"], list):
        raise _Unfit
    if not suite:
        return _entry(document, path, None)
    results = document["results"]
    tasks = [_text(one) for one in document["tasks"]]
    if not results or len(results) != len(tasks):
        raise _Unfit
    entries = [_entry(one, path, place) for place, one in enumerate(results)]
    first = entries[0]
    for one, eps, threshold in zip(document["scores"], *_grid(first.eps, first.thresholds), strict=True):
        if (one["eps"], one["threshold"]) != (eps, threshold):
            raise _Unfit
    return Suite(
        file=path,
        suite=_text(document["suite"]),
        tasks=tasks,
        entries=entries,
        scores=_numbers("d", [one[name] for one in document["scores"] for name in SUITE_SCORE]),
        worst_tasks=[_text(one["worst_task"]) for one in document["scores"]],
        warnings=[_text(one) for one in document["warnings"]],
        command=_text(document["command"]),
    )


def _entry(document: dict[str, Any], path: str, place: int | None) -> Entry:
    from synbench_fast.results.records import SCHEMA, SCHEMA_VERSION

    eps, thresholds, encoder, task = (document[name] for name in ("eps", "thresholds", "encoder", "task"))
    scores, cost = document["scores"], document["cost"]
    if (document["schema"], document["schema_version"]) != (
        SCHEMA,
        SCHEMA_VERSION,
    ):  # of a suite's, each has its own
        raise _Unfit
    for one, e, a in zip(scores, *_grid(eps, thresholds), strict=True):
        if (one["eps"], one["threshold"]) != (e, a):
            raise _Unfit
    for name, fits in _records().items():
        if not fits(document[name]):  # damaged, or of an earlier version: the strict reader knows which
            raise _Unfit
    precision = document["precision"]
    return Entry(
        file=path,
        place=place,
        encoder=dict(encoder),
        task=dict(task),
        estimator=_text(document["estimator"]),
        integral=_text(document["integral"]),
        seed=_integer(document["seed"]),
        eps=[float(one) for one in eps],
        thresholds=[float(one) for one in thresholds],
        scores=_numbers("d", [one[name] for one in scores for name in SCORE]),
        paired=document.get("influence") is not None,
        dropped=max(map(_integer, document["dropped"]), default=0),
        robust_area={
            name: _number(document["robust_area"][name]) for name in ("value", "raw", "ratio", "stderr")
        },
        precision={"requested": _text(precision["requested"]), "dtype": _text(precision["dtype"])},
        cost={
            **cost,
            "seconds": {_text(key): float(value) for key, value in cost["seconds"].items()},
            "images": _integer(cost["images"]),
            "images_per_second": float(cost["images_per_second"]),
            "peak_memory_bytes": _integer(cost["peak_memory_bytes"]),
            "device": _text(cost["device"]),
            "dtype": _text(cost["dtype"]),
        },
        environment={**document["environment"], "versions": dict(document["environment"]["versions"])},
        backends={_text(key): _text(value) for key, value in document["backends"].items()},
        warnings=[_text(one) for one in document["warnings"]],
        command=_text(document["command"]),
    )


_Fits = Callable[[Any], bool]
_LARGEST = sys.float_info.max


@cache
def _records() -> dict[str, _Fits]:
    """Whether a JSON value is a record of results.py, by its field there."""
    from synbench_fast.results.records import Cost, EncoderRecord, Environment, RobustArea, TaskRecord

    kinds = {
        "encoder": EncoderRecord,
        "task": TaskRecord,
        "cost": Cost,
        "environment": Environment,
        "robust_area": RobustArea,
    }
    return {name: _fits(kind) for name, kind in kinds.items()}


def _fits(kind: Any) -> _Fits:
    """What `documents.decode` takes without a word, ten times as fast."""
    if isinstance(kind, types.UnionType):
        inner = _fits(next(one for one in typing.get_args(kind) if one is not type(None)))
        return lambda value: value is None or inner(value)
    if is_dataclass(kind):
        hints = typing.get_type_hints(kind)
        checks = []
        for one in fields(kind):
            fits = _fits(hints[one.name])
            checks.append((one.name, _or_null(fits) if one.metadata else fits))
        names = frozenset(name for name, _ in checks)
        return lambda value: (
            type(value) is dict and value.keys() == names and all(fits(value[name]) for name, fits in checks)
        )
    origin = typing.get_origin(kind)
    if origin in (list, tuple):
        element = _fits(typing.get_args(kind)[0])
        return lambda value: type(value) is list and all(map(element, value))
    if origin is dict:
        element = _fits(typing.get_args(kind)[1])
        return lambda value: type(value) is dict and all(map(element, value.values()))
    if kind is float:
        return lambda value: type(value) in (float, int) and -_LARGEST <= value <= _LARGEST
    if kind is int:
        return lambda value: type(value) is int and abs(value) <= LARGEST_INTEGER
    return lambda value: type(value) is kind


def _or_null(fits: _Fits) -> _Fits:
    return lambda value: value is None or fits(value)


def _grid(eps: Sequence[float], thresholds: Sequence[float]) -> tuple[list[float], list[float]]:
    return [e for e in eps for _ in thresholds], [a for _ in eps for a in thresholds]


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise _Unfit
    return value


def _integer(value: Any) -> int:
    if type(value) is not int or abs(value) > LARGEST_INTEGER:
        raise _Unfit
    return value


def _number(value: Any) -> float | None:
    return None if value is None else float(value)


def _numbers(kind: str, values: list[Any]) -> array[float]:
    return array(kind, [math.nan if one is None else one for one in values])


@dataclass(frozen=True, kw_only=True, slots=True)
class Details:
    """`curve`: for every scale, then eps, the numbers CURVE. `influence`: of the samples, None if not asked for or unknown."""

    curve: array[float]
    influence: Influence | None


def details(entry: Entry, *, influence: bool) -> Details:
    """What `read` left out, from the file again; `influence` only if asked for."""
    try:
        text = Path(entry.file).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError):
        raise SynbenchError(f"{entry.file}: expected the file read before, got another or none") from None
    try:
        spans, place = _spans(text), entry.place or 0
        if len(spans) > place:
            start, end = spans[place]
            decoder = json.JSONDecoder(parse_constant=_no_constant)
            curve: Any = decoder.raw_decode(text, start + len('"curve": '))[0]
            at = text.find('"influence": ', start, end) if influence else -1
            sums: Any = decoder.raw_decode(text, at + len('"influence": '))[0] if at >= 0 else None
        else:
            document = _of_place(json.loads(text), entry)
            curve, sums = document["curve"], document.get("influence") if influence else None
        return _details(curve, sums, entry)
    except (KeyError, TypeError, ValueError, AttributeError, IndexError, OverflowError, RecursionError):
        document = _of_place(_strict_document(text, entry.file)[0], entry)
    try:
        return _details(document["curve"], document["influence"] if influence else None, entry)
    except (TypeError, ValueError, OverflowError):
        raise SynbenchError(
            f"{entry.file}: curve: expected points, and influences, for every scale and eps"
        ) from None


def _of_place(document: Any, entry: Entry) -> Any:
    return document if entry.place is None else document["results"][entry.place]


def _details(curve: Any, sums: Any, entry: Entry) -> Details:
    from synbench_fast.results.records import Influence

    shape = (len(entry.task["scales"]), len(entry.eps))
    if len(curve) != shape[0] * shape[1]:
        raise ValueError
    points = [point[name] for point in curve for name in CURVE]
    for column in _INFINITE:  # null is +inf there
        values = points[column :: len(CURVE)]
        points[column :: len(CURVE)] = [math.inf if one is None else one for one in values]
    found = None if sums is None else Influence(**sums)
    if found is not None and not found.fits(shape[0], shape[1], len(entry.thresholds)):
        raise ValueError
    return Details(curve=_numbers("f", points), influence=found)


def read_all(paths: Sequence[str]) -> list[Entry | Suite | str]:
    """Each file's content, or the line that says what is wrong with it; several processes where that is faster.

    The processes run this module. A pool of `multiprocessing` would import the caller's main module again.
    """
    workers = min(_cores(), len(paths) // _BATCH)
    if workers < 2 or not sys.executable:
        return [_read_or_reason(one) for one in paths]
    size = -(-len(paths) // workers)
    parts = [list(paths[i : i + size]) for i in range(0, len(paths), size)]
    root = str(Path(__file__).resolve().parent.parent.parent)
    searched = [root, *filter(None, [os.environ.get("PYTHONPATH")])]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(searched)}
    children = [
        subprocess.Popen(
            # -P: nothing is imported from the current directory, which may be the one with the results.
            [sys.executable, "-P", "-m", "synbench_fast.report.reader"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env=environment,
        )
        for _ in parts[1:]
    ]
    for part, child in zip(parts[1:], children, strict=True):  # all are starting by now
        assert child.stdin is not None
        with suppress(OSError):  # it died; its part is read here
            child.stdin.write(pickle.dumps(part))
        with suppress(OSError):
            child.stdin.close()
        child.stdin = None  # communicate() would flush it again
    found = [_read_or_reason(one) for one in parts[0]]
    for part, child in zip(parts[1:], children, strict=True):
        output, _ = child.communicate()
        found += pickle.loads(output) if child.returncode == 0 else [_read_or_reason(one) for one in part]
    return found


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _read_or_reason(path: str) -> Entry | Suite | str:
    try:
        return read(path)
    except SynbenchError as error:
        return str(error)


def _child() -> None:
    from synbench_fast.report import reader  # under its own name: what is pickled here is of that module

    paths = pickle.load(sys.stdin.buffer)
    sys.stdout.buffer.write(pickle.dumps([reader._read_or_reason(one) for one in paths], protocol=5))


if __name__ == "__main__":
    _child()
