"""Typed JSON documents: dataclasses to plain JSON values and back, strictly; files that are whole or absent.

The annotations are the schema; both directions walk them, so that a number is a number on either side, an
integer never becomes a float, and what does not fit is refused with the path of the field. Annotations may be
str, int, float, bool, list[T], tuple[T, ...], dict[str, T], a dataclass, or any of these with None.

JSON has no infinity and no NaN: a field that may hold one is declared with `nan_field` or `inf_field`, is
null in the document, and reads back as that value.

`Document` is what files of results have in common: a schema with a version, and reading and writing.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
import numbers
import os
import re
import secrets
import stat
import time
import types
import typing
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path
from typing import Any, Self, TypeVar

from synbench_fast.errors import SynbenchError
from synbench_fast.runtime.processes import gone, here, process_mark

__all__ = [
    "LARGEST_INTEGER",
    "Document",
    "Mismatch",
    "check_own",
    "decode",
    "encode",
    "inf_field",
    "kind_of",
    "nan_field",
    "once",
    "open_own",
    "parse",
    "read_text",
    "remove_leftovers",
    "replacing",
    "write_atomically",
]


LARGEST_INTEGER = 2**64 - 1  # a seed may be that large; beyond it no field means anything

_ABANDONED_SECONDS = 86400.0  # a file of another machine that has not grown for so long is nobody's
# .NAME OF THE FILE TO COME.MACHINE-PROCESS-ITS START-RANDOM.tmp; earlier versions named the process alone.
_LARGEST = 1 << 28  # characters of a document, which may be a pipe or a device that never ends
_TEMPORARY = re.compile(
    r"\..*\.(?:(?P<host>[0-9a-f]{16})-(?P<pid>[0-9]+)-(?P<mark>[0-9]*)|[0-9]+)-[0-9a-f]{8}\.tmp", re.DOTALL
)


class Mismatch(Exception):
    """`field path: expected ..., got ...`, still without the name of the document."""

    def __init__(self, path: str, expected: str, got: str) -> None:
        super().__init__(f"{path or 'document'}: expected {expected}, got {got}")


def nan_field() -> Any:
    """A float field that may be NaN: null in JSON, NaN when read."""
    return dataclasses.field(metadata={"null": math.nan})


def inf_field() -> Any:
    """A float field that may be infinite: null in JSON, +inf when read."""
    return dataclasses.field(metadata={"null": math.inf})


class Document:
    """A dataclass that is a file: its first fields are `schema`, `synbench-fast/KIND`, and `schema_version`.

    Only documents of the version that is written today are read: the numbers of an earlier one mean something else.
    Printed, a document is its `summary()` where it has one; its fields are too many to show (`to_dict` has them), so
    subclasses are dataclasses with repr=False.
    """

    schema: str
    schema_version: int

    @classmethod
    def kind(cls) -> str:
        """The word for such a file in messages."""
        return cls.schema.rpartition("/")[2]

    def __str__(self) -> str:
        summary = getattr(self, "summary", None)
        return repr(self) if summary is None else str(summary())

    def __repr__(self) -> str:
        names = [one.name for one in dataclasses.fields(typing.cast(Any, self))]
        first = f"of {', '.join(names[2:])}" if not hasattr(self, "summary") else str(self).partition("\n")[0]
        return f"<{type(self).__name__} {first}>"

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values. A value of the wrong type is a TypeError that names the field."""
        return encode(self)

    @classmethod
    def from_dict(cls, document: object, *, source: str | None = None) -> Self:
        """The inverse of `to_dict`; what does not fit is a SynbenchError naming `source` and the field."""
        source = source or cls.kind()
        if not isinstance(document, dict):
            raise SynbenchError(f"{source}: expected a JSON object, got {kind_of(document)}")
        try:
            return decode(cls, document)
        except Mismatch as error:
            raise SynbenchError(f"{source}: {error}") from None

    def to_json(self, *, indent: int | None = None) -> str:
        """One JSON document in ASCII; on one line unless `indent` is given."""
        return json.dumps(self.to_dict(), indent=indent, allow_nan=False)

    @classmethod
    def from_json(cls, text: str, *, source: str | None = None) -> Self:
        """Read what `to_json` wrote; strict, see `from_dict`."""
        return cls.from_dict(parse(text, source or cls.kind()), source=source)

    def save(self, path: str | os.PathLike[str]) -> Path:
        """Write the document to `path`, whole or not at all; returns the path."""
        return write_atomically(path, self.to_json(indent=2) + "\n")

    @classmethod
    def load(cls, path: str | os.PathLike[str], *, own: bool = False) -> Self:
        """Read a saved document; SynbenchError names the file and the field that does not fit.

        `own`: the file is part of a store, see `open_own`.
        """
        return cls.from_json(read_text(path, cls.kind(), own=own), source=str(path))


def check_own(path: Path, *, folder: bool = False) -> None:
    """SynbenchError unless `path`, a part of a store, is a file (or a folder) or missing: a link leads elsewhere."""
    expected = "folder" if folder else "file"
    try:
        mode = path.lstat().st_mode
    except OSError:  # it is missing, or whoever opens it says why that fails
        return
    if not (stat.S_ISDIR(mode) if folder else stat.S_ISREG(mode)):
        got = "a link" if stat.S_ISLNK(mode) else "something else"
        raise SynbenchError(f"{path}: expected a {expected} of the store itself, got {got}")


def open_own(path: Path, flags: int) -> int:
    """The descriptor of a regular file in a folder of a store, opened with the `flags` of `os.open`.

    Neither the file nor its folder may be a link: in a store that somebody else made, it would lead a writer to any
    file of the user. A FIFO or a device, which a reader would wait for, is refused too, and for writing a file that
    has another name elsewhere (a hard link).

    Raises:
        SynbenchError: what the file is instead, or why it cannot be opened.
    """
    check_own(path.parent, folder=True)
    check_own(path)
    try:
        folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
        try:
            descriptor = os.open(path.name, flags | os.O_NOFOLLOW | os.O_NONBLOCK, 0o666, dir_fd=folder)
        finally:
            os.close(folder)
    except OSError as error:
        raise SynbenchError(
            f"{path}: expected a file of the store that can be opened, got: {error.strerror}"
        ) from None
    found = os.fstat(descriptor)
    twice = found.st_nlink > 1 and flags & (os.O_WRONLY | os.O_RDWR)
    if not stat.S_ISREG(found.st_mode) or twice:
        os.close(descriptor)
        got = "one with a second name (a hard link)" if twice else "something else"
        raise SynbenchError(f"{path}: expected a file of the store itself, got {got}")
    return descriptor


def read_text(path: str | os.PathLike[str], kind: str, *, own: bool = False) -> str:
    """The UTF-8 text of a file; SynbenchError calls it a `kind` file. `own`: it is part of a store, see `open_own`."""
    try:
        with open(open_own(Path(path), os.O_RDONLY) if own else path, encoding="utf-8") as stream:
            text = stream.read(_LARGEST)
    except OSError as error:
        raise SynbenchError(f"{path}: expected a readable {kind} file, got: {error.strerror}") from None
    except UnicodeDecodeError:
        raise SynbenchError(f"{path}: expected a {kind} file in UTF-8, got other bytes") from None
    if len(text) == _LARGEST:
        raise SynbenchError(f"{path}: expected a {kind} file, got one of {_LARGEST} characters or more")
    return text


def parse(text: str, source: str) -> Any:
    """JSON text to plain values; SynbenchError names `source`. NaN, Infinity and a key given twice are no JSON."""
    try:
        value = json.loads(text, parse_constant=_no_constant, object_pairs_hook=once)
        if "\\ud" in text or "\\uD" in text:  # half a character, which could not be written again
            json.dumps(value, ensure_ascii=False).encode()
        return value
    except (ValueError, RecursionError) as error:
        raise SynbenchError(f"{source}: expected a JSON document, got text that is not: {error}") from None


def encode(value: Any) -> dict[str, Any]:
    """A dataclass as plain JSON values. TypeError names the field that does not hold what it declares."""
    try:
        document: dict[str, Any] = _encode(type(value), value, "")
    except Mismatch as error:
        raise TypeError(str(error)) from None
    return document


_T = TypeVar("_T")


def decode(kind: type[_T], document: object) -> _T:
    """The inverse of `encode`; raises Mismatch, which names the field but not the document."""
    value: _T = _decode(kind, document, "")
    return value


@contextmanager
def replacing(path: str | os.PathLike[str]) -> Iterator[Path]:
    """The path of a temporary file to write: it becomes `path` at the end of the block, and is gone if that fails.

    Even after a crash `path` is the old file or the whole new one. A process that is killed in the block leaves the
    temporary file behind; the next one that writes to the same folder removes it, see `remove_leftovers`.
    """
    target = Path(path)
    if not target.name:
        raise SynbenchError(f"path: expected that of a file, got {str(path)!r}")
    # A name has at most 255 bytes, of which the rest takes up to 60.
    name = os.fsencode(target.name)[:180].decode("utf-8", "ignore")
    owner = f"{_host_digest()}-{os.getpid()}-{process_mark(os.getpid())}"
    temporary = target.with_name(f".{name}.{owner}-{secrets.token_hex(4)}.tmp")
    try:
        _remove_leftovers_once(os.path.abspath(target.parent))
        try:
            yield temporary
            os.replace(temporary, target)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise
    except OSError as error:
        raise SynbenchError(
            f"{target}: expected a file that can be written, got: {error.strerror}"
        ) from error


def remove_leftovers(folder: Path) -> None:
    """Remove what killed processes had begun to write in `folder` by `replacing`; other files stay.

    A temporary file names its writer's machine and process. Where that is this machine, the file goes once the
    process has ended, and never before. Of a process of another machine, or of this one before it was started anew,
    nothing is known: the file goes a day after it was last written to.
    """
    paths: list[Path] = []
    with suppress(OSError):  # a folder that cannot be listed is left as it is
        paths = list(folder.glob(".*.tmp"))
    for path in paths:
        named = _TEMPORARY.fullmatch(path.name)
        if named is None:
            continue
        with suppress(OSError):
            if named["mark"] and named["host"] == _host_digest():
                over = gone(here(), int(named["pid"]), named["mark"])
            else:
                over = abs(time.time() - path.lstat().st_mtime) > _ABANDONED_SECONDS
            if over:
                path.unlink()


@cache
def _remove_leftovers_once(folder: str) -> None:
    """Once per process: a folder of thousands of results is not listed for each of them."""
    remove_leftovers(Path(folder))


def _host_digest() -> str:
    """16 hexadecimal digits that stand for this machine, see `here`."""
    return hashlib.blake2b(here().encode("utf-8", "surrogateescape"), digest_size=8).hexdigest()


def write_atomically(path: str | os.PathLike[str], text: str) -> Path:
    """Write UTF-8 `text` to `path`, see `replacing`."""
    with replacing(path) as temporary, open(temporary, "x", encoding="utf-8", newline="\n") as stream:
        stream.write(text)
        stream.flush()
        os.fsync(stream.fileno())
    return Path(path)


def kind_of(value: object) -> str:
    """A JSON value as an error message shows it."""
    if value is None or isinstance(value, bool | int | float | str):
        text = json.dumps(value, ensure_ascii=False)
        return text if len(text) <= 60 else text[:57] + "..."
    return {"list": "an array", "dict": "an object"}.get(type(value).__name__, type(value).__name__)


def _no_constant(name: str) -> float:
    raise ValueError(f"{name} is not a JSON number")


def once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """An object, every key of which is there once: of two values, readers would take either."""
    found = dict(pairs)
    if len(found) < len(pairs):
        keys = [key for key, _ in pairs]
        raise ValueError(f"the key {next(one for one in keys if keys.count(one) > 1)!r} is there twice")
    return found


_NAMES = {str: "a string", int: "an integer", float: "a number", bool: "true or false"}


@cache
def _fields(kind: type) -> dict[str, tuple[Any, float | None]]:
    """Field name -> (annotation, the non-finite float that null stands for), in order."""
    hints = typing.get_type_hints(kind)
    return {one.name: (hints[one.name], one.metadata.get("null")) for one in dataclasses.fields(kind)}


def _scalar(kind: Any, value: object, path: str) -> Any:
    """`value` as exactly `kind`; NumPy's integers and floats count as numbers, true and "1" do not."""
    fits = {
        str: isinstance(value, str),
        bool: isinstance(value, bool),
        int: isinstance(value, numbers.Integral) and not isinstance(value, bool),
        float: isinstance(value, numbers.Real) and not isinstance(value, bool),
    }[kind]
    if not fits:
        raise Mismatch(path, _NAMES[kind], kind_of(value))
    if kind is int and abs(typing.cast(int, value)) > LARGEST_INTEGER:
        raise Mismatch(path, "an integer of at most 2^64 - 1", kind_of(value))
    try:
        return kind(value)
    except OverflowError:
        raise Mismatch(path, "a finite number", "an integer beyond any float") from None


def _items(kind: Any, value: Any, path: str) -> Iterator[tuple[Any, Any, str]]:
    """(annotation, element, path) of each element of a list or tuple."""
    element = typing.get_args(kind)[0]
    for index, one in enumerate(value):
        yield element, one, f"{path}[{index}]"


def _without_none(kind: types.UnionType) -> Any:
    return next(one for one in typing.get_args(kind) if one is not type(None))


def _encode(kind: Any, value: Any, path: str, null: float | None = None) -> Any:
    if isinstance(kind, types.UnionType):
        return None if value is None else _encode(_without_none(kind), value, path)
    prefix = f"{path}." if path else ""
    if dataclasses.is_dataclass(kind):
        if not isinstance(value, typing.cast(type, kind)):
            raise Mismatch(path, f"a {typing.cast(type, kind).__name__}", type(value).__name__)
        return {
            name: _encode(one, getattr(value, name), prefix + name, missing)
            for name, (one, missing) in _fields(typing.cast(type, kind)).items()
        }
    origin = typing.get_origin(kind)
    if origin in (list, tuple):
        if not isinstance(value, list | tuple):
            raise Mismatch(path, "a list", type(value).__name__)
        return [_encode(*item) for item in _items(kind, value, path)]
    if origin is dict:
        if not isinstance(value, dict):
            raise Mismatch(path, "a dict", type(value).__name__)
        element = typing.get_args(kind)[1]
        return {
            _scalar(str, key, path): _encode(element, one, f"{prefix}{key}") for key, one in value.items()
        }
    plain = _scalar(kind, value, path)
    if kind is float and not math.isfinite(plain):
        if null is None:
            raise Mismatch(path, "a finite number", str(plain))
        return None
    return plain


def _decode(kind: Any, value: Any, path: str, null: float | None = None) -> Any:
    if isinstance(kind, types.UnionType):
        return None if value is None else _decode(_without_none(kind), value, path)
    if dataclasses.is_dataclass(kind):
        return _decode_object(typing.cast(type, kind), value, path)
    origin = typing.get_origin(kind)
    if origin in (list, tuple):
        if not isinstance(value, list):
            raise Mismatch(path, "an array", kind_of(value))
        return origin(_decode(*item) for item in _items(kind, value, path))
    if origin is dict:
        if not isinstance(value, dict):
            raise Mismatch(path, "an object", kind_of(value))
        element = typing.get_args(kind)[1]
        return {key: _decode(element, one, f"{path}.{key}") for key, one in value.items()}
    if value is None and null is not None:
        return null
    plain = _scalar(kind, value, path)
    if kind is float and not math.isfinite(plain):  # JSON text such as 1e999
        raise Mismatch(path, "a finite number", str(plain))
    return plain


def _decode_object(kind: type, value: Any, path: str) -> Any:
    if not isinstance(value, dict):
        raise Mismatch(path, "an object", kind_of(value))
    known = _fields(kind)
    prefix = f"{path}." if path else ""
    if issubclass(kind, Document):
        _check_version(kind, value, prefix)
    for name in value:
        if name not in known:
            raise Mismatch(
                prefix + name, f"a field of {kind.__name__} ({', '.join(known)})", "an unknown field"
            )
    decoded: dict[str, Any] = {}
    for name, (annotation, null) in known.items():
        if name not in value:
            raise Mismatch(prefix + name, _expected(annotation), "no such field")
        decoded[name] = _decode(annotation, value[name], prefix + name, null)
    return kind(**decoded)


def _check_version(kind: type[Document], document: dict[str, Any], prefix: str) -> None:
    schema, version, current = document.get("schema"), document.get("schema_version"), kind.schema_version
    if schema != kind.schema:
        raise Mismatch(f"{prefix}schema", repr(kind.schema), repr(schema)[:60])
    if type(version) is not int or version != current:
        got = repr(version)[:60]
        if type(version) is int and version > 0:
            got += f"; {'a newer' if version > current else 'an older'} synbench-fast wrote it"
        raise Mismatch(f"{prefix}schema_version", str(current), got)


def _expected(kind: Any) -> str:
    if isinstance(kind, types.UnionType):
        return _expected(_without_none(kind)) + " or null"
    if dataclasses.is_dataclass(kind) or typing.get_origin(kind) is dict:
        return "an object"
    return "an array" if typing.get_origin(kind) in (list, tuple) else _NAMES[kind]
