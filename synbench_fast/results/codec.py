"""Dataclasses to plain JSON values and back, strictly. The annotations are the schema.

An annotation may be str, int, float, bool, list[T], tuple[T, ...], dict[str, T], NDArray[T], a dataclass, or any of
these with None. Numbers are numbers on both sides, an integer field takes no float, and what does not fit is refused
with the path of the field. One function per annotation is built on first use, in either direction, so that reading a
document looks at no annotation again.

JSON has no infinity and no NaN: a field that may hold one is declared with `nan_field` or `inf_field`, is null in the
document, and reads back as that value. A field with the metadata TABLE is a list of records of scalars, and in JSON an object
of columns. One with the metadata STORED is in a file of arrays where the document is saved, see `arrays`; the header then
lacks it, unless it is None.
"""

from __future__ import annotations

import dataclasses
import json
import math
import numbers
import types
import typing
from collections.abc import Callable, Collection
from functools import cache
from itertools import chain
from typing import Any, TypeVar, cast

import numpy as np
from numpy.typing import NDArray

__all__ = [
    "LARGEST_INTEGER",
    "STORED",
    "TABLE",
    "Field",
    "Mismatch",
    "decode",
    "dtype_of",
    "encode",
    "expected_of_field",
    "fields_of",
    "inf_field",
    "kind_of",
    "made",
    "nan_field",
    "without_none",
]

STORED, TABLE = {"stored": True}, {"table": True}  # metadata of fields
LARGEST_INTEGER = 2**64 - 1  # a seed may be that large; beyond it no field means anything

_T = TypeVar("_T")
_Function = Callable[[Any], Any]
_NAMES = {str: "a string", int: "an integer", float: "a number", bool: "true or false"}


class Mismatch(Exception):
    """`field path: expected ..., got ...`, still without the name of the document."""

    def __init__(self, path: str, expected: str, got: str) -> None:
        super().__init__(path, expected, got)
        self.path, self.expected, self.got = path, expected, got

    def __str__(self) -> str:
        return f"{self.path or 'document'}: expected {self.expected}, got {self.got}"

    def inside(self, name: str) -> Mismatch:
        """The same mismatch, seen from the value whose field or element `name` it is in."""
        between = "." if self.path and not self.path.startswith("[") else ""
        return Mismatch(f"{name}{between}{self.path}", self.expected, self.got)


def nan_field() -> Any:
    """A float field that may be NaN: null in JSON, NaN when read."""
    return dataclasses.field(metadata={"null": math.nan})


def inf_field() -> Any:
    """A float field that may be infinite: null in JSON, +inf when read."""
    return dataclasses.field(metadata={"null": math.inf})


@dataclasses.dataclass(frozen=True)
class Field:
    """One field of a dataclass: `null` is the non-finite float that null stands for, None where there is none."""

    name: str
    kind: Any
    null: float | None
    table: bool
    stored: bool


@cache
def fields_of(kind: type) -> tuple[Field, ...]:
    """The fields of a dataclass, in order."""
    hints, found = typing.get_type_hints(kind), []
    for one in dataclasses.fields(kind):
        more = one.metadata
        found.append(Field(one.name, hints[one.name], more.get("null"), "table" in more, "stored" in more))
    return tuple(found)


def encode(value: Any, *, header: bool = False) -> dict[str, Any]:
    """A dataclass as plain JSON values. TypeError names the field that does not hold what it declares.

    header: leave out the stored fields that are not None.
    """
    try:
        document: dict[str, Any] = _encoder(cast(Any, type(value)), header)(value)
    except Mismatch as error:
        raise TypeError(str(error)) from None
    return document


def decode(kind: type[_T], document: object) -> _T:
    """The inverse of `encode`; raises Mismatch. A stored field that is missing stays so."""
    value: _T = _decoder(cast(Any, kind))(document)
    return value


def kind_of(value: object) -> str:
    """A JSON value as an error message shows it."""
    if value is None or isinstance(value, bool | int | float | str):
        text = json.dumps(value, ensure_ascii=False)
        return text if len(text) <= 60 else text[:57] + "..."
    return {"list": "an array", "dict": "an object"}.get(type(value).__name__, type(value).__name__)


def without_none(kind: Any) -> Any:
    """T of T | None; any other annotation as it is."""
    if not isinstance(kind, types.UnionType):
        return kind
    return next(one for one in typing.get_args(kind) if one is not type(None))


def _expected_of(kind: Any) -> str:
    """A JSON value of an annotation, as an error message calls it."""
    if isinstance(kind, types.UnionType):
        return _expected_of(without_none(kind)) + " or null"
    if dataclasses.is_dataclass(kind) or typing.get_origin(kind) is dict:
        return "an object"
    return "an array" if typing.get_origin(kind) in (list, tuple, np.ndarray) else _NAMES[kind]


def expected_of_field(field: Field) -> str:
    """The same of a field."""
    return "an object" if field.table else _expected_of(field.kind)


def _scalar(kind: Any, value: object) -> Any:
    """`value` as exactly `kind`; NumPy's integers and floats count as numbers, true and "1" do not."""
    fits = {
        str: isinstance(value, str),
        bool: isinstance(value, bool),
        int: isinstance(value, numbers.Integral) and not isinstance(value, bool),
        float: isinstance(value, numbers.Real) and not isinstance(value, bool),
    }[kind]
    if not fits:
        raise Mismatch("", _NAMES[kind], kind_of(value))
    if kind is int and abs(cast(int, value)) > LARGEST_INTEGER:
        raise Mismatch("", "an integer of at most 2^64 - 1", kind_of(value))
    try:
        return kind(value)
    except OverflowError:
        raise Mismatch("", "a finite number", "an integer beyond any float") from None


def _number_decoder(null: float | None) -> _Function:
    def number(value: Any) -> Any:
        if type(value) is float and value - value == 0.0:  # finite, the commonest value by far
            return value
        if value is None and null is not None:
            return null
        plain = _scalar(float, value)
        if not math.isfinite(plain):  # JSON text such as 1e999
            raise Mismatch("", "a finite number", str(plain))
        return plain

    return number


def _number_encoder(null: float | None) -> _Function:
    def number(value: Any) -> Any:
        plain = _scalar(float, value)
        if math.isfinite(plain):
            return plain
        if null is None:
            raise Mismatch("", "a finite number", str(plain))
        return None

    return number


def _each(one: _Function, values: Any) -> list[Any]:
    """`one` of every element; a Mismatch gets the position of its element."""
    try:
        return [one(value) for value in values]
    except Mismatch:
        for place, value in enumerate(values):
            try:
                one(value)
            except Mismatch as error:
                raise error.inside(f"[{place}]") from None
        raise


def _of_values(one: _Function, values: dict[str, Any]) -> dict[str, Any]:
    found = {}
    for name, value in values.items():
        key = _scalar(str, name)
        try:
            found[key] = one(value)
        except Mismatch as error:
            raise error.inside(key) from None
    return found


@cache
def _decoder(kind: Any, null: float | None = None) -> _Function:
    """The function that reads a JSON value of this annotation."""
    if isinstance(kind, types.UnionType):
        inner = _decoder(without_none(kind))
        return lambda value: None if value is None else inner(value)
    if dataclasses.is_dataclass(kind):
        return _object_decoder(cast(type, kind))
    origin = typing.get_origin(kind)
    if origin in (list, tuple):
        of_list = _list_decoder(typing.get_args(kind)[0])
        return of_list if origin is list else lambda value: tuple(of_list(value))
    if origin is dict:
        element = typing.get_args(kind)[1]
        of_value = _decoder(element)

        def of_dict(value: Any) -> dict[str, Any]:
            if not isinstance(value, dict):
                raise Mismatch("", "an object", kind_of(value))
            if _all_plain(value.values(), element) and _all_plain(value, str):
                return value.copy()
            return _of_values(of_value, value)

        return of_dict
    if origin is np.ndarray:
        return _array_decoder(dtype_of(kind))
    if kind is float:
        return _number_decoder(null)
    low = -LARGEST_INTEGER if kind is int else None

    def scalar(value: Any) -> Any:
        if type(value) is kind and (low is None or low <= value <= LARGEST_INTEGER):
            return value
        return _scalar(kind, value)

    return scalar


def _all_plain(values: Collection[Any], kind: Any) -> bool:
    """Whether all values are exactly of this scalar kind and finite, so that none needs a look of its own."""
    if set(map(type, values)) != {kind}:
        return False
    if kind is float:
        total = sum(values)  # finite only if each is; the sum of very large ones may not be
        return bool(total - total == 0.0)
    return kind is not int or max(max(values), -min(values)) <= LARGEST_INTEGER


def _list_decoder(element: Any, null: float | None = None) -> _Function:
    one = _decoder(element, null)

    def of_list(value: Any) -> list[Any]:
        if not isinstance(value, list):
            raise Mismatch("", "an array", kind_of(value))
        return value.copy() if _all_plain(value, element) else _each(one, value)

    return of_list


def _table_decoder(kind: type) -> _Function:
    """Records of columns."""
    columns = [(one.name, _list_decoder(one.kind, one.null)) for one in fields_of(kind)]
    names = [name for name, _ in columns]

    def of_table(value: Any) -> list[Any]:
        found = list(_named(kind, columns, value, "an array").values())
        sizes = [len(one) for one in found]
        if len(set(sizes)) > 1:
            wrong = next(place for place, size in enumerate(sizes) if size != sizes[0])
            raise Mismatch(names[wrong], f"an array of {sizes[0]}, as {names[0]}", f"one of {sizes[wrong]}")
        return [made(kind, dict(zip(names, row, strict=True))) for row in zip(*found, strict=True)]

    return of_table


def made(kind: type, values: dict[str, Any]) -> Any:
    """What __init__ of a frozen dataclass makes, without a call for every field."""
    new: Any = object.__new__(kind)
    new.__dict__.update(values)
    return new


def _named(
    kind: type,
    plan: list[tuple[str, _Function]],
    value: Any,
    expected: str = "",
    stored: Collection[str] = (),
) -> dict[str, Any]:
    """The fields of an object, each by its function. Those in `stored` may be missing, others are `expected`."""
    if not isinstance(value, dict):
        raise Mismatch("", "an object", kind_of(value))
    found = {}
    for name, one in plan:
        if name in value:
            try:
                found[name] = one(value[name])
            except Mismatch as error:
                raise error.inside(name) from None
        elif name not in stored:
            missing = next(field for field in fields_of(kind) if field.name == name)
            raise Mismatch(name, expected or expected_of_field(missing), "no such field")
    if len(found) < len(value):
        name = next(one for one in value if one not in found)
        known = ", ".join(name for name, _ in plan)
        raise Mismatch(name, f"a field of {kind.__name__} ({known})", "an unknown field")
    return found


def _object_decoder(kind: type) -> _Function:
    fields = fields_of(kind)
    plan = [
        (
            one.name,
            _table_decoder(typing.get_args(one.kind)[0]) if one.table else _decoder(one.kind, one.null),
        )
        for one in fields
    ]
    stored = frozenset(one.name for one in fields if one.stored)
    check: Callable[[dict[str, Any]], None] | None = getattr(kind, "check_version", None)

    def of_object(value: Any) -> Any:
        if check is not None and isinstance(value, dict):
            check(value)
        return made(kind, _named(kind, plan, value, stored=stored))

    return of_object


@cache
def _encoder(kind: Any, header: bool, null: float | None = None) -> _Function:
    """The function that makes a JSON value of a value of this annotation."""
    if isinstance(kind, types.UnionType):
        inner = _encoder(without_none(kind), header)
        return lambda value: None if value is None else inner(value)
    if dataclasses.is_dataclass(kind):
        return _object_encoder(cast(type, kind), header)
    origin = typing.get_origin(kind)
    if origin in (list, tuple, dict):
        shape: Any = dict if origin is dict else (list, tuple)
        element = _encoder(typing.get_args(kind)[origin is dict], header)

        def container(value: Any) -> Any:
            if not isinstance(value, shape):
                raise Mismatch("", "a dict" if origin is dict else "a list", type(value).__name__)
            return _of_values(element, value) if origin is dict else _each(element, value)

        return container
    if origin is np.ndarray:
        return lambda value: _plain_array(value, dtype_of(kind))
    return _number_encoder(null) if kind is float else lambda value: _scalar(kind, value)


def _object_encoder(kind: type, header: bool) -> _Function:
    plan = [
        (
            one.name,
            _table_encoder(typing.get_args(one.kind)[0])
            if one.table
            else _encoder(one.kind, header, one.null),
            one.stored and header,
        )
        for one in fields_of(kind)
    ]

    def of_object(value: Any) -> dict[str, Any]:
        if not isinstance(value, kind):
            raise Mismatch("", f"a {kind.__name__}", type(value).__name__)
        found = {}
        for name, one, left_out in plan:
            content = getattr(value, name)
            if left_out and content is not None:
                continue
            try:
                found[name] = one(content)
            except Mismatch as error:
                raise error.inside(name) from None
        return found

    return of_object


def _table_encoder(kind: type) -> _Function:
    one = _encoder(kind, False)
    names = [field.name for field in fields_of(kind)]

    def of_table(value: Any) -> dict[str, list[Any]]:
        if not isinstance(value, list | tuple):
            raise Mismatch("", "a list", type(value).__name__)
        rows = _each(one, value)
        return {name: [row[name] for row in rows] for name in names}

    return of_table


def dtype_of(kind: Any) -> np.dtype[Any]:
    """T of NDArray[T]."""
    dtype: np.dtype[Any] = np.dtype(typing.get_args(typing.get_args(kind)[1])[0])
    return dtype


def _plain_array(value: Any, dtype: np.dtype[Any]) -> Any:
    """Nested lists of finite numbers."""
    if not isinstance(value, np.ndarray) or value.dtype != dtype:
        raise Mismatch("", f"an array of {dtype}", str(getattr(value, "dtype", type(value).__name__)))
    if not np.isfinite(value).all():
        raise Mismatch("", "finite numbers", "others")
    return value.tolist()


def _array_decoder(dtype: np.dtype[Any]) -> _Function:
    def array(value: Any) -> NDArray[Any]:
        if not isinstance(value, list):
            raise Mismatch("", "an array", kind_of(value))
        flat = value
        while flat and all(type(one) is list for one in flat):
            flat = list(chain.from_iterable(flat))
        if not {type(one) for one in flat} <= ({int} if dtype.kind == "i" else {int, float}):
            raise Mismatch(
                "", f"arrays of {'integers' if dtype.kind == 'i' else 'numbers'} of equal lengths", "others"
            )
        try:
            found = np.array(value, dtype=dtype)
        except (ValueError, OverflowError):
            raise Mismatch("", "arrays of equal lengths", "others") from None
        if not np.isfinite(found).all():
            raise Mismatch("", "finite numbers", "others")
        return found

    return array
