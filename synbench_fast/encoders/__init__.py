"""Encoders from anywhere behind one call: batch in, features out, with a record of what ran."""

from __future__ import annotations

from typing import TYPE_CHECKING

from synbench_fast.lazy import attach

if TYPE_CHECKING:
    from synbench_fast.encoders.base import Encoder, EncoderInfo
    from synbench_fast.encoders.load import load_encoder
    from synbench_fast.encoders.registry import SOURCES, installed, list_encoders

__all__ = ["SOURCES", "Encoder", "EncoderInfo", "installed", "list_encoders", "load_encoder"]

_HOMES = {
    "SOURCES": "registry",
    "Encoder": "base",
    "EncoderInfo": "base",
    "installed": "registry",
    "list_encoders": "registry",
    "load_encoder": "load",
}

_load, __dir__ = attach(__name__, _HOMES)

if not TYPE_CHECKING:  # a type checker would take every name for one that exists
    __getattr__ = _load
