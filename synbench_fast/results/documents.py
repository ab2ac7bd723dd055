"""Documents of results: dataclasses that are JSON, and files that are whole or absent.

A saved document is a header, NAME.json, with everything that a person or a table needs, and where it has stored
fields a file of arrays, NAME.npz, whose sha256 the header names as `arrays_sha256` (see `arrays`). The arrays are
written first. `to_json` is the whole document instead, arrays included; both forms go through one decoder (see
`codec`), and `load` takes both.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import re
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self, cast

from synbench_fast.errors import SynbenchError
from synbench_fast.results.arrays import Arrays, arrays_path, pack, packed, previous_path
from synbench_fast.results.codec import Field, Mismatch, decode, encode, expected_of_field, fields_of, kind_of
from synbench_fast.results.files import read_text, replacing, write_atomically, write_new

__all__ = [
    "Document",
    "once",
    "parse",
    "remove_files",
    "saved",
    "write_files",
]

_DIGEST = "arrays_sha256"  # of a header, in the place of its stored fields
_SHA256 = re.compile("[0-9a-f]{64}")


class Document:
    """A dataclass that is a file: its first fields are `schema`, `synbench-fast/KIND`, and `schema_version`.

    Only documents of the version that is written today are read: the numbers of an earlier one mean something else.
    Stored fields of a document that was loaded are read from its file of arrays when they are first used.
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
        names = [one.name for one in dataclasses.fields(cast(Any, self))]
        first = f"of {', '.join(names[2:])}" if not hasattr(self, "summary") else str(self).partition("\n")[0]
        return f"<{type(self).__name__} {first}>"

    def _repr_pretty_(self, printer: Any, cycle: bool) -> None:
        """What IPython and notebooks show for the last expression of a cell."""
        printer.text(str(self))

    if not TYPE_CHECKING:

        def __getattr__(self, name: str) -> Any:
            """A stored field that is still in the file of arrays: all others are where Python looks first."""
            arrays = self.__dict__.get("_arrays")
            field = next((one for one in stored_fields(type(self)) if one.name == name), None)
            if arrays is None or field is None:
                raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")
            value = arrays.read(field)
            try:
                self.check_stored(name, value)
            except Mismatch as error:
                raise SynbenchError(f"{arrays_path(arrays.header)}: {arrays.prefix}{error}") from None
            self.__dict__[name] = value
            return value

    @classmethod
    def check_version(cls, document: dict[str, Any]) -> None:
        """Mismatch unless these are the values of a document of this schema, as it is written today."""
        schema, version, current = document.get("schema"), document.get("schema_version"), cls.schema_version
        if schema != cls.schema:
            raise Mismatch("schema", repr(cls.schema), repr(schema)[:60])
        if type(version) is not int or version != current:
            got = repr(version)[:60]
            if type(version) is int and version > 0:
                got += f"; {'a newer' if version > current else 'an older'} synbench-fast wrote it"
            raise Mismatch("schema_version", str(current), got)

    def check(self) -> None:
        """Mismatch where fields contradict each other, the stored ones apart."""

    def check_stored(self, name: str, value: Any) -> None:
        """Mismatch where the value of a stored field contradicts the header."""

    def parts(self) -> list[tuple[str, Document]]:
        """(prefix of the names of its arrays, document) of every document in this one that has stored fields."""
        return [("", self)] if stored_fields(type(self)) else []

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values, arrays included. A value of the wrong type is a TypeError that names the field."""
        return encode(self)

    @classmethod
    def from_dict(cls, document: object, *, source: str | None = None) -> Self:
        """The inverse of `to_dict`; what does not fit is a SynbenchError naming `source` and the field."""
        return cls._read(document, source or cls.kind(), None)

    @classmethod
    def from_header(cls, document: object, path: str | os.PathLike[str], *, own: bool = False) -> Self:
        """What `load` makes of the values in the file at `path`: a header, or a whole document."""
        return cls._read(document, str(path), path, own)

    @classmethod
    def _read(
        cls, document: object, source: str, path: str | os.PathLike[str] | None, own: bool = False
    ) -> Self:
        """path: of the header, beside which its arrays are; None where the document has to be whole."""
        if not isinstance(document, dict):
            raise SynbenchError(f"{source}: expected a JSON object, got {kind_of(document)}")
        digest = document.get(_DIGEST)
        if digest is not None:
            document = {name: value for name, value in document.items() if name != _DIGEST}
        try:
            found = decode(cls, document)
            if digest is not None and (type(digest) is not str or not _SHA256.fullmatch(digest)):
                raise Mismatch(_DIGEST, "64 hexadecimal digits", kind_of(digest))
            if digest is not None and path is None:
                raise Mismatch(_DIGEST, "a whole document", "a header whose arrays are in a file beside it")
            found.check()
            beside = None if path is None or digest is None else Arrays(os.path.abspath(path), digest, own)
            for prefix, part in found.parts():
                part._complete(
                    prefix, beside and (dataclasses.replace(beside, prefix=prefix) if prefix else beside)
                )
        except Mismatch as error:
            raise SynbenchError(f"{source}: {error}") from None
        return found

    def _complete(self, prefix: str, arrays: Arrays | None) -> None:
        """Check what belongs together, and let stored fields that are not here be read from `arrays`."""
        held = self.__dict__
        try:
            for one in stored_fields(type(self)):
                if one.name in held:
                    self.check_stored(one.name, held[one.name])
                elif arrays is None:
                    raise Mismatch(one.name, expected_of_field(one), "no such field")
        except Mismatch as error:
            raise Mismatch(f"{prefix}{error.path}", error.expected, error.got) from None
        if arrays is not None:
            held["_arrays"] = arrays

    def to_json(self, *, indent: int | None = None) -> str:
        """The whole document in ASCII, arrays included; on one line unless `indent` is given."""
        return json.dumps(self.to_dict(), indent=indent, allow_nan=False)

    @classmethod
    def from_json(cls, text: str, *, source: str | None = None) -> Self:
        """Read what `to_json` wrote; strict, see `from_dict`."""
        return cls.from_dict(parse(text, source or cls.kind()), source=source)

    def to_files(self) -> tuple[str, bytes]:
        """The text of the header, a line for each field, and the bytes of the arrays, empty for a document without any."""
        header = encode(self, header=True)
        arrays = {
            f"{prefix}{name}": array
            for prefix, part in self.parts()
            for one in stored_fields(type(part))
            for name, array in pack(one, getattr(part, one.name)).items()
        }
        data = packed(arrays) if arrays else b""
        if arrays:
            header[_DIGEST] = hashlib.sha256(data).hexdigest()
        lines = (
            f"{json.dumps(name)}: {json.dumps(value, allow_nan=False)}" for name, value in header.items()
        )
        return "{\n  " + ",\n  ".join(lines) + "\n}\n", data

    def save(self, path: str | os.PathLike[str]) -> Path:
        """Write the header to NAME.json and the arrays to NAME.npz, whole or not at all; returns the path of the header.

        path: NAME.json; to any other name `.json` is added, so that no two headers have one file of arrays.
        """
        return write_files(_header_path(path), *self.to_files())

    @classmethod
    def load(cls, path: str | os.PathLike[str], *, own: bool = False) -> Self:
        """Read a saved document, its arrays later; SynbenchError names the file and the field that does not fit.

        path: as for `save`; `.json` may be left out where no file has the shorter name.
        own: the files are part of a store, see `open_own`.
        """
        if not os.path.lexists(path) and os.path.lexists(_header_path(path)):
            path = _header_path(path)
        return cls.from_header(parse(read_text(path, cls.kind(), own=own), str(path)), path, own=own)


def stored_fields(kind: Any) -> tuple[Field, ...]:
    """The fields of a document that are in its file of arrays."""
    return _stored_fields(kind)


@cache
def _stored_fields(kind: Any) -> tuple[Field, ...]:
    return tuple(one for one in fields_of(kind) if one.stored)


def _header_path(path: str | os.PathLike[str]) -> Path:
    """NAME.json, by adding what is missing; what names a folder stays as it is, for the writer to refuse."""
    place = Path(path)
    if not place.name or os.fspath(path).endswith(os.sep):
        raise SynbenchError(f"path: expected that of a file, got {os.fspath(path)!r}")
    if place.name.endswith(".json") or place.is_dir():
        return place
    return place.with_name(place.name + ".json")


def write_files(path: str | os.PathLike[str], header: str, arrays: bytes) -> Path:
    """Write what `Document.to_files` returns. Both files are complete before the first is put in place.

    The arrays of a document that was there have a second name until its header is replaced. A process that is killed
    between the two files leaves the old document, and where there was none arrays without a header, which is no document.
    """
    if not arrays:
        return write_atomically(path, header)
    with replacing(path) as one:
        write_new(one, header.encode())
        with replacing(arrays_path(path)) as other:
            write_new(other, arrays)
            _keep_arrays(Path(path))
    previous_path(path).unlink(missing_ok=True)
    return Path(path)


def _keep_arrays(path: Path) -> None:
    """Give the arrays that the header at `path` names a second name, which is there already after a killed save."""
    try:
        named = json.loads(path.read_text(encoding="utf-8")).get(_DIGEST)
        data = arrays_path(path).read_bytes()
    except (OSError, ValueError, AttributeError):  # no document that could be lost
        return
    if hashlib.sha256(data).hexdigest() == named:
        with replacing(previous_path(path)) as other:
            write_new(other, data)


def remove_files(path: Path) -> None:
    """Remove a saved document and its arrays, where they are."""
    path.unlink(missing_ok=True)
    arrays_path(path).unlink(missing_ok=True)
    previous_path(path).unlink(missing_ok=True)


def saved(path: Path) -> bool:
    """Whether there is a document at `path`, and its arrays beside it where it says that it has some."""
    try:
        document = parse(read_text(path, "result", own=True), str(path))
    except SynbenchError:
        return path.exists()  # whoever reads it says what is wrong
    return not (isinstance(document, dict) and _DIGEST in document) or arrays_path(path).exists()


def parse(text: str, source: str) -> Any:
    """JSON text to plain values; SynbenchError names `source`. NaN, Infinity and a key given twice are no JSON."""
    try:
        value = _DECODER.decode(text)
        if "\\ud" in text or "\\uD" in text:  # half a character, which could not be written again
            json.dumps(value, ensure_ascii=False).encode()
        return value
    except (ValueError, RecursionError) as error:
        raise SynbenchError(f"{source}: expected a JSON document, got text that is not: {error}") from None


def _no_constant(name: str) -> float:
    raise ValueError(f"{name} is not a JSON number")


def once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """An object, every key of which is there once: of two values, readers would take either."""
    found = dict(pairs)
    if len(found) < len(pairs):
        keys = [key for key, _ in pairs]
        raise ValueError(f"the key {next(one for one in keys if keys.count(one) > 1)!r} is there twice")
    return found


_DECODER = json.JSONDecoder(parse_constant=_no_constant, object_pairs_hook=once)
