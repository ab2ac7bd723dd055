"""CUDA streams, events and clocks behind calls that do nothing special on other devices: only here they differ."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

__all__ = ["Lane", "PhaseClock", "Span", "mark", "on_device", "wait"]

Mark = torch.cuda.Event | None


def _event(*, timed: bool = False) -> torch.cuda.Event:
    event: torch.cuda.Event = torch.cuda.Event(enable_timing=timed)  # type: ignore[no-untyped-call]
    event.record()
    return event


def on_device(device: torch.device) -> AbstractContextManager[Any]:
    """Kernels inside go to this GPU; nothing for other devices."""
    return torch.cuda.device(device) if device.type == "cuda" else nullcontext()


def mark(device: torch.device) -> Mark:
    """The point that the current stream of a GPU has been given work up to; None on other devices."""
    if device.type != "cuda":
        return None
    with on_device(device):
        return _event()


def wait(device: torch.device, point: Mark) -> None:
    """Later work on the current stream of `device` starts after `point`; the host waits for nothing."""
    if point is not None:
        torch.cuda.current_stream(device).wait_event(point)


class Lane:
    """A CUDA stream of its own: what is started inside `with lane.running():` goes beside the current stream.

    On other devices the work is done there and then.
    """

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.stream: torch.cuda.Stream | None = None
        if device.type == "cuda":
            self.stream = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]

    @contextmanager
    def running(self, after: Mark = None) -> Iterator[None]:
        """Work inside runs on the lane, after what `after` marks."""
        if self.stream is None:
            yield
            return
        with torch.cuda.stream(self.stream):
            wait(self.device, after)
            yield

    def uses(self, tensor: Tensor) -> None:
        """The memory of a tensor made elsewhere is not reused before the lane's present work is done."""
        if self.stream is not None:
            tensor.record_stream(self.stream)


@dataclass
class Span:
    """One stretch of work; `seconds` waits for its end."""

    wall: float = 0.0
    begun: Mark = None
    ended: Mark = None

    def seconds(self) -> float:
        if self.begun is None or self.ended is None:
            return self.wall
        self.ended.synchronize()
        return float(self.begun.elapsed_time(self.ended)) / 1000


class PhaseClock:
    """Seconds per phase.

    Off a GPU: time on the host's clock. On a GPU: time between two events on the stream that does the work,
    read when asked for, so that nothing waits meanwhile. Phases on different streams overlap there: each
    is what the phase took beside the others, and their sum may exceed the time that has passed.
    """

    def __init__(self) -> None:
        self._seconds: dict[str, float] = {}
        self._open: list[tuple[str, Span]] = []

    @contextmanager
    def phase(self, name: str, device: torch.device) -> Iterator[Span]:
        """The block's work on `device` counts as phase `name`, unless it raises."""
        span = Span()
        if device.type == "cuda":
            with on_device(device):
                span.begun = _event(timed=True)
            yield span
            with on_device(device):
                span.ended = _event(timed=True)
            self._open.append((name, span))
        else:
            begun = time.perf_counter()
            yield span
            span.wall = time.perf_counter() - begun
            self._seconds[name] = self._seconds.get(name, 0.0) + span.wall

    def seconds(self) -> dict[str, float]:
        """Phase -> seconds so far; on a GPU this waits for the work."""
        for name, span in self._open:
            self._seconds[name] = self._seconds.get(name, 0.0) + span.seconds()
        self._open.clear()
        return dict(self._seconds)
