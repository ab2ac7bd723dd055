"""The arrays of a saved document: one .npz file beside its header, without pickles, found by name and by sha256.

A stored field is one array or several, by its annotation: a list of dataclasses of floats is a structured array with
a column per field; a list of lists of floats is a matrix; a dataclass has an array `FIELD.NAME` for each of its own
fields. None has no array. Numbers are little-endian; those that JSON cannot write, NaN and infinity, are themselves.

What is read is only taken where the whole file has the sha256 that the header names. The members are not compressed,
so nothing in the file can be larger than the file, and each is checked against the type and the shape that the
document needs before a number is looked at.
"""

from __future__ import annotations

import dataclasses
import hashlib
import io
import math
import os
import struct
import typing
import zipfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache, lru_cache
from pathlib import Path
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from synbench_fast.errors import SynbenchError, first_line
from synbench_fast.results.codec import Field, Mismatch, dtype_of, fields_of, made, without_none
from synbench_fast.results.files import read_bytes

__all__ = ["Arrays", "arrays_path", "pack", "packed", "previous_path", "unpack"]

# PKWARE's APPNOTE: the record at the end, and an entry of the directory before it; what is not needed is skipped.
_END = struct.Struct("<4s4HLLH")
_ENTRY = struct.Struct("<4s6xH8xLL3H8xL")


def arrays_path(path: str | os.PathLike[str]) -> Path:
    """Where the arrays of the document at `path` are: NAME.npz beside NAME.json."""
    place = Path(path)
    return place.with_name(place.name.removesuffix(".json") + ".npz")


def previous_path(path: str | os.PathLike[str]) -> Path:
    """Where the arrays of the header at `path` are while a save replaces both files, see `documents.write_files`."""
    arrays = arrays_path(path)
    return arrays.with_name(f".{arrays.name}.previous")


def pack(field: Field, value: Any) -> dict[str, NDArray[Any]]:
    """The arrays of a stored field by their names."""
    kind = without_none(field.kind)
    if value is None:
        return {}
    if dataclasses.is_dataclass(kind):
        return {
            f"{field.name}.{one.name}": np.asarray(getattr(value, one.name), dtype=_plain_dtype(one.kind))
            for one in fields_of(cast(type, kind))
        }
    element = typing.get_args(kind)[0]
    if dataclasses.is_dataclass(element):
        columns = [one.name for one in fields_of(cast(type, element))]
        rows = [tuple(getattr(point, name) for name in columns) for point in value]
        return {field.name: np.array(rows, dtype=_plain_dtype(kind))}
    return {field.name: np.array(value, dtype="<f8").reshape(len(value), -1)}


def unpack(field: Field, members: Mapping[str, NDArray[Any]]) -> Any:
    """The inverse of `pack`; Mismatch for arrays of another type, or with numbers that the field cannot hold."""
    kind = without_none(field.kind)
    if dataclasses.is_dataclass(kind):
        found = {}
        for one in fields_of(cast(type, kind)):
            axes = 0 if one.kind is int else None
            array = _typed(members, f"{field.name}.{one.name}", _plain_dtype(one.kind), axes)
            found[one.name] = array.item() if one.kind is int else array
            _check_numbers(array, None, f"{field.name}.{one.name}")
        return made(cast(type, kind), found)
    element = typing.get_args(kind)[0]
    table = _typed(members, field.name, _plain_dtype(kind), 1 if dataclasses.is_dataclass(element) else 2)
    if dataclasses.is_dataclass(element):
        columns = fields_of(cast(type, element))
        for one in columns:
            _check_numbers(table[one.name], one.null, f"{field.name}.{one.name}")
        names = [one.name for one in columns]
        return [made(cast(type, element), dict(zip(names, row, strict=True))) for row in table.tolist()]
    _check_numbers(table, None, field.name)
    return table.tolist()


def _typed(
    members: Mapping[str, NDArray[Any]], name: str, dtype: np.dtype[Any], axes: int | None = None
) -> NDArray[Any]:
    """The array of this name; `axes`: how many it has to have."""
    if name not in members:
        raise Mismatch(name, "an array in the file of arrays", "none")
    found = members[name]
    if found.dtype != dtype:
        raise Mismatch(name, f"an array of {dtype}", f"one of {found.dtype}"[:60])
    if axes not in (None, found.ndim):
        raise Mismatch(name, f"an array of {axes} axes", f"one of {found.ndim}")
    return found


def _check_numbers(values: NDArray[Any], null: float | None, path: str) -> None:
    """What `codec.decode` takes of a number, of all of them: finite ones, and the one that null stands for."""
    fits = np.isfinite(values)
    if null is not None:
        fits |= np.isnan(values) if math.isnan(null) else values == null
    if not fits.all():
        raise Mismatch(path, "finite numbers" if null is None else f"finite numbers or {null}", "others")


@cache
def _plain_dtype(kind: Any) -> np.dtype[Any]:
    """The dtype of the array of an annotation."""
    if kind is int:
        return np.dtype("<i8")
    if typing.get_origin(kind) is np.ndarray:
        return dtype_of(kind).newbyteorder("<")
    element = typing.get_args(kind)[0]
    if dataclasses.is_dataclass(element):
        return np.dtype([(one.name, "<f8") for one in fields_of(cast(type, element))])
    return np.dtype("<f8")


def packed(arrays: Mapping[str, NDArray[Any]]) -> bytes:
    """The bytes of a .npz file; equal arrays give equal bytes."""
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_STORED) as archive:
        for name, array in arrays.items():
            member = io.BytesIO()
            np.lib.format.write_array(member, array, version=(1, 0), allow_pickle=False)
            archive.writestr(zipfile.ZipInfo(f"{name}.npy"), member.getvalue())
    return stream.getvalue()


@dataclass(frozen=True)
class Arrays:
    """The file of arrays of a header that was read: `own` as for `open_own`, `prefix` of the names in it."""

    header: str
    sha256: str
    own: bool
    prefix: str = ""

    def read(self, field: Field) -> Any:
        """The value of a stored field.

        Raises:
            SynbenchError: no such file, one with another sha256, or arrays that do not fit.
        """
        path = arrays_path(self.header)
        data = self._bytes(path)
        if data is None:  # a save that was killed, or is at work, has not put its header in place
            data = self._bytes(previous_path(self.header), there=False)
        if data is None:
            raise SynbenchError(
                f"{path}: expected the arrays that {os.path.basename(self.header)} was saved with "
                f"(sha256 {self.sha256[:12]}...), got others"
            )
        try:
            return unpack(field, _Members(data, self.prefix))
        except Mismatch as error:
            raise SynbenchError(f"{path}: {self.prefix}{error}") from None
        except Exception as error:  # struct and NumPy's header parser each raise their own
            raise SynbenchError(f"{path}: expected arrays without pickles, got {first_line(error)}") from None

    def _bytes(self, path: Path, *, there: bool = True) -> bytes | None:
        """The bytes of this file if they are those of the header; unless `there` it may be missing."""
        if not there and not os.path.lexists(path):
            return None
        data = read_bytes(path, "arrays", own=self.own, regular=True)
        return data if hashlib.sha256(data).hexdigest() == self.sha256 else None


class _Members(Mapping[str, NDArray[Any]]):
    """The arrays of a .npz file in memory, each a view of its bytes. ValueError or struct.error for other files.

    `zipfile` would read as many entries as a file claims to have, compressed ones too.
    """

    def __init__(self, data: bytes, prefix: str) -> None:
        self._data, self._prefix = data, prefix
        self._entries: dict[str, tuple[int, int]] = {}  # name -> where its local header begins, bytes
        end = len(data) - _END.size
        signature, _, _, _, count, size, at, _ = _END.unpack_from(data, max(end, 0))
        if signature != b"PK\5\6" or at + size != end:
            raise ValueError("a file that is no plain archive")
        for _ in range(count):
            signature, method, held, size, named, *more, begin = _ENTRY.unpack_from(data, at)
            if signature != b"PK\1\2" or method != zipfile.ZIP_STORED or held != size:
                raise ValueError("compressed arrays, or no archive")
            at += _ENTRY.size
            name = data[at : at + named].decode("ascii").removesuffix(".npy")
            self._entries[name] = begin, size
            at += named + sum(more)

    def __len__(self) -> int:
        return len(self._entries)

    def __iter__(self) -> Iterator[str]:
        return iter(self._entries)

    def __contains__(self, name: object) -> bool:
        return f"{self._prefix}{name}" in self._entries

    def __getitem__(self, name: str) -> NDArray[Any]:
        (begin, size), data = self._entries[self._prefix + name], self._data
        begin += 30 + sum(struct.unpack_from("<HH", data, begin + 26))
        first = begin + 10 + int.from_bytes(data[begin + 8 : begin + 10], "little")
        if data[begin : begin + 8] != b"\x93NUMPY\1\0" or begin + size > len(data):
            raise ValueError("a member that is no array")
        shape, fortran, dtype = _array_header(data[begin:first])
        if dtype.hasobject or fortran or math.prod(shape) * dtype.itemsize != begin + size - first:
            raise ValueError("an array that its header does not fit")
        return np.frombuffer(data, dtype, math.prod(shape), first).reshape(shape)


@lru_cache(maxsize=1000)
def _array_header(data: bytes) -> tuple[tuple[int, ...], bool, np.dtype[Any]]:
    """Shape, order and type in the header of a .npy file; results of one configuration have the same."""
    stream = io.BytesIO(data)
    np.lib.format.read_magic(stream)
    return np.lib.format.read_array_header_1_0(stream)
