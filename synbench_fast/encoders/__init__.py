"""Encoders from anywhere behind one call: batch in, features out, with a record of what ran."""

from synbench_fast.encoders.base import POOLS, Encoder, EncoderInfo
from synbench_fast.encoders.load import load_encoder
from synbench_fast.encoders.registry import SOURCES, installed, list_encoders

__all__ = ["POOLS", "SOURCES", "Encoder", "EncoderInfo", "installed", "list_encoders", "load_encoder"]
