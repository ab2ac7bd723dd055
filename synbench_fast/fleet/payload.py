"""CurvePoints as bytes, exactly: a header in JSON, the arrays as they lie in memory, and a checksum.

    "SBP1" | uint32 length of the header | header | arrays, 8 bytes per number | uint32 CRC-32 of all before

Numbers are little-endian float64 or int64. Nothing in it is code, so that a store can be read without trust.
"""

from __future__ import annotations

import dataclasses
import json
import math
import zlib
from typing import Any

import numpy as np

from synbench_fast.errors import SynbenchError
from synbench_fast.stats.point import CurvePoint

__all__ = ["decode_point", "encode_point"]

MAGIC = b"SBP1"
TYPES = {"<f8": np.dtype("<f8"), "<i8": np.dtype("<i8")}


def encode_point(point: CurvePoint) -> bytes:
    """Every field of the point, bit for bit."""
    plain: dict[str, Any] = {}
    arrays: list[tuple[str, str, list[int]]] = []
    chunks: list[bytes] = []
    for field in dataclasses.fields(point):
        value = getattr(point, field.name)
        if isinstance(value, np.ndarray):
            kind = "<f8" if value.dtype.kind == "f" else "<i8"
            arrays.append((field.name, kind, list(value.shape)))
            chunks.append(np.ascontiguousarray(value, TYPES[kind]).tobytes())
        elif value is not None:
            plain[field.name] = value.hex() if isinstance(value, float) else value
    header = json.dumps({"arrays": arrays, "values": plain}, allow_nan=False).encode()
    body = b"".join([MAGIC, len(header).to_bytes(4, "little"), header, *chunks])
    return body + zlib.crc32(body).to_bytes(4, "little")


def decode_point(data: bytes) -> CurvePoint:
    """The inverse of `encode_point`; SynbenchError for bytes that it did not write."""
    if not isinstance(data, bytes):  # SQLite keeps whatever was put into a column
        raise SynbenchError(f"payload: expected a stored point, got {type(data).__name__}")
    body, checksum = data[:-4], data[-4:]
    if body[:4] != MAGIC or zlib.crc32(body).to_bytes(4, "little") != checksum:
        raise SynbenchError("payload: expected a stored point, got damaged bytes")
    size = int.from_bytes(body[4:8], "little")
    at = 8 + size
    try:
        header = json.loads(body[8:at])
        values: dict[str, Any] = {
            field.name: header["values"].get(field.name)
            for field in dataclasses.fields(CurvePoint)
            if field.name in header["values"] or field.default is None
        }
        for name, value in header["values"].items():
            values[name] = value if name in _TEXT or not isinstance(value, str) else float.fromhex(value)
        for name, kind, shape in header["arrays"]:
            count = math.prod(shape)
            # A copy, because what frombuffer returns can neither be written nor outlive the bytes.
            values[name] = np.frombuffer(body, TYPES[kind], count, at).reshape(shape).copy()
            at += 8 * count
        if at != len(body):
            raise ValueError(f"{len(body) - at} bytes are left")
        for field in dataclasses.fields(CurvePoint):
            _check(field.name, str(field.type), values[field.name])
        return CurvePoint(**values)
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError, RecursionError) as error:
        raise SynbenchError(f"payload: expected a point of this version, got another: {error}") from None


def _check(name: str, kind: str, value: Any) -> None:
    """ValueError unless the value is of the kind that the field declares."""
    if kind in ("Array", "Array | None"):
        fits = isinstance(value, np.ndarray) or (value is None and kind.endswith("None"))
    else:
        fits = type(value).__name__ == kind
    if not fits:
        raise ValueError(f"{name}: expected {kind}, got {type(value).__name__}")


_TEXT = ("estimator",)
