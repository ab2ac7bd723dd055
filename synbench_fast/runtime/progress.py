"""Progress on standard error: a bar with the time left on a terminal, plain lines elsewhere, or nothing."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TextIO

from synbench_fast.printable import printable

__all__ = ["Advance", "Reporter"]

Advance = Callable[[int, int, str], None]
"""advance(done, total, phase), in images; `done` never falls, `total` grows where a half-width asks for more."""


class Reporter:
    """Shows how far a run is. One per command; `encoder` is entered once per encoder."""

    def __init__(
        self,
        stream: TextIO,
        *,
        quiet: bool = False,
        every: float = 10.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._stream = stream
        self._quiet = quiet
        self._every = every  # seconds between plain lines
        self._clock = clock

    @contextmanager
    def encoder(self, label: str) -> Iterator[Advance]:
        """The callback for one encoder; leaving, also by an exception, clears the bar."""
        if self._quiet:
            yield lambda done, total, phase: None
        elif self._stream.isatty():
            with self._bar(label) as advance:
                yield advance
        else:
            with self._lines(label) as advance:
                yield advance

    @contextmanager
    def _bar(self, label: str) -> Iterator[Advance]:
        from rich.console import Console
        from rich.progress import BarColumn, Progress, TextColumn
        from rich.table import Column

        name = Column(
            ratio=1, no_wrap=True, overflow="ellipsis"
        )  # of what a narrow terminal cannot hold, the name gives way
        columns = (
            BarColumn(bar_width=20),
            TextColumn("{task.fields[state]}", markup=False, table_column=Column(no_wrap=True)),
            TextColumn("{task.description}", markup=False, table_column=name),
        )
        with Progress(*columns, console=Console(file=self._stream), transient=True, expand=True) as bar:
            task = bar.add_task(printable(label), total=None, state="loading")
            start: float | None = None
            first = last = 0

            def advance(done: int, total: int, phase: str) -> None:
                nonlocal start, first, last
                now = self._clock()
                if start is None or done < last:  # not from loading the weights, nor from other images
                    start, first = now, done
                last = done
                rate = (done - first) / (now - start) if now > start else 0.0
                left = f", {_duration((total - done) / rate)} left" if rate > 0 and done < total else ""
                bar.update(task, completed=done, total=total, state=f"{done}/{total} images{left}, {phase}")

            yield advance

    @contextmanager
    def _lines(self, label: str) -> Iterator[Advance]:
        self._print(f"{label}: loading")
        start = last = self._clock()
        first: int | None = None
        ended = said = 0  # the total that was reached last, and the one that a line said

        def advance(done: int, total: int, phase: str) -> None:
            nonlocal start, last, first, ended, said
            now = self._clock()
            if first is None:  # the time left is judged from the images alone, not from loading the weights
                first, start = done, now
            if done >= total:
                ended = total
                if said == 0 or (total > said and now - last >= self._every):
                    said, last = total, now
                    self._print(f"{label}: {total}/{total} images")
            elif now - last >= self._every:
                last = now
                rate = (done - first) / (now - start) if now > start else 0.0
                left = f", {rate:.1f} images/s, {_duration((total - done) / rate)} left" if rate > 0 else ""
                self._print(f"{label}: {done}/{total} images, {phase}{left}")

        yield advance
        if ended > said:
            self._print(f"{label}: {ended}/{ended} images")

    def _print(self, line: str) -> None:
        print(printable(line), file=self._stream, flush=True)


def _duration(seconds: float) -> str:
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    hours, minutes = divmod(whole // 60, 60)
    return f"{hours} h {minutes:02d} min" if hours else f"{minutes} min {whole % 60:02d} s"
