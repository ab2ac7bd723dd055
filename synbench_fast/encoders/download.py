"""How every source words that published weights could not be had."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch

from synbench_fast.encoders.weights import check_archive
from synbench_fast.errors import SynbenchError, first_line

__all__ = ["fetching"]

_FORCED, _OPPOSITE = (
    "TORCH_FORCE_WEIGHTS_ONLY_LOAD",
    "TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD",
)  # torch reads them at each load
_WAY_OUT = "use --random-init, or --checkpoint FILE for local weights"


@contextmanager
def fetching(spec: str, what: str = "pretrained weights", way_out: str = _WAY_OUT) -> Iterator[None]:
    """Turn a library's failure to fetch `what` into one line that names the ways out.

    Meanwhile torch.load unpickles nothing but tensors, also where a library asks it for more: some load what they
    have downloaded, or find in their cache, with weights_only=False. Weights in a local directory that the spec
    names are looked at first, see `check_archive`.

    The libraries raise anything from URLError to RuntimeError here, so every exception counts, except
    running out of memory.
    """
    try:
        folder = Path(spec.partition(":")[2].removeprefix("local-dir:")).expanduser()
        for file in folder.glob("*.bin"):
            check_archive("encoder", file)
        with _weights_only():
            yield
    except (SynbenchError, MemoryError, torch.OutOfMemoryError):
        raise
    except Exception as error:
        raise SynbenchError(
            f"encoder {spec}: the {what} could not be loaded ({first_line(error)}); " + way_out
        ) from error


@contextmanager
def _weights_only() -> Iterator[None]:
    before = {name: os.environ.pop(name, None) for name in (_FORCED, _OPPOSITE)}
    os.environ[_FORCED] = "1"
    try:
        yield
    finally:
        del os.environ[_FORCED]
        os.environ.update({name: value for name, value in before.items() if value is not None})
