"""How every source words that published weights could not be had."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from synbench_fast.errors import SynbenchError, first_line

__all__ = ["fetching"]

_WAY_OUT = "use --random-init, or --checkpoint FILE for local weights"


@contextmanager
def fetching(spec: str, what: str = "pretrained weights", way_out: str = _WAY_OUT) -> Iterator[None]:
    """Turn a library's failure to fetch `what` into one line that names the ways out.

    The libraries raise anything from URLError to RuntimeError here, so every exception counts, except
    running out of memory.
    """
    try:
        yield
    except (SynbenchError, MemoryError, torch.OutOfMemoryError):
        raise
    except Exception as error:
        raise SynbenchError(
            f"encoder {spec}: the {what} could not be loaded ({first_line(error)}); " + way_out
        ) from error
