"""The memory that an encoder takes, apart from what the process held before."""

from __future__ import annotations

import resource
import sys
from contextlib import suppress
from pathlib import Path

import torch

__all__ = ["Memory"]


class Memory:
    """Made before an encoder is loaded. `peak` is what it took since then, in bytes."""

    def __init__(self) -> None:
        with suppress(OSError):  # Linux forgets the peak of what ran before
            Path("/proc/self/clear_refs").write_text("5")
        self._held = _status("VmRSS") or _peak()

    def peak(self, device: torch.device) -> int:
        """On a GPU the most that torch held, elsewhere what the process grew by at most.

        Memory that the process had before, such as the weights of a Module that the caller holds, is not counted.
        """
        if device.type == "cuda":
            return torch.cuda.max_memory_allocated(device)
        return max(0, (_status("VmHWM") or _peak()) - self._held)


def _status(name: str) -> int:
    """Bytes of a line of Linux's record of this process; 0 where there is none."""
    with suppress(OSError, ValueError, IndexError):
        for line in Path("/proc/self/status").read_text().splitlines():
            if line.startswith(f"{name}:"):
                return int(line.split()[1]) * 1024
    return 0


def _peak() -> int:
    """The largest resident set of the process so far."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024
