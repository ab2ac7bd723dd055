"""What a person sees of a fleet: lines that stay in place on a terminal, and the tables of `status`."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TextIO

from synbench_fast.fleet.places import Place, Snapshot
from synbench_fast.fleet.summary import named
from synbench_fast.printable import print_table, printable

__all__ = ["Watch", "duration", "print_status", "watching"]


def duration(seconds: float) -> str:
    whole = round(max(0.0, seconds))
    if whole < 60:
        return f"{whole} s"
    hours, minutes = divmod(whole // 60, 60)
    return f"{hours} h {minutes:02d} min" if hours else f"{minutes} min {whole % 60:02d} s"


class Watch:
    """Takes snapshots, of which it shows nothing, and lines about what went wrong."""

    def __init__(self, stream: TextIO, quiet: bool) -> None:
        self._stream, self._quiet = stream, quiet

    def report(self, snapshot: Snapshot) -> None:
        pass

    def said(self, line: str) -> None:
        if not self._quiet:
            print(printable(f"note: {line}"), file=self._stream, flush=True)


class _Lines(Watch):
    """A line about all encoders now and then: what a log holds."""

    def __init__(self, stream: TextIO, every: float, clock: Callable[[], float]) -> None:
        super().__init__(stream, quiet=False)
        self._every, self._clock = every, clock
        self._last = clock()

    def report(self, snapshot: Snapshot) -> None:
        now = self._clock()
        if now - self._last >= self._every:
            self._last = now
            print(printable(overall(snapshot)), file=self._stream, flush=True)


class _Live(Watch):
    """One line per worker, then a bar over all encoders."""

    def __init__(self, stream: TextIO) -> None:
        super().__init__(stream, quiet=False)
        from rich.console import Console
        from rich.live import Live

        self._console = Console(file=stream)
        self.live = Live(console=self._console, transient=True, refresh_per_second=4)

    def report(self, snapshot: Snapshot) -> None:
        from rich.console import Group
        from rich.progress_bar import ProgressBar
        from rich.table import Table
        from rich.text import Text

        grid = Table.grid(padding=(0, 2))
        for place in snapshot.places:
            grid.add_row(
                *(
                    Text(printable(cell), no_wrap=True, overflow="ellipsis")
                    for cell in worker_cells(place, snapshot)
                )
            )
        foot = Table.grid(padding=(0, 2))
        bar = ProgressBar(total=1.0, completed=snapshot.progress, width=30)
        foot.add_row(bar, Text(overall(snapshot), no_wrap=True, overflow="ellipsis"))
        self.live.update(Group(grid, foot))

    def said(self, line: str) -> None:
        self._console.print(printable(f"note: {line}"), markup=False, highlight=False)


def worker_cells(place: Place, snapshot: Snapshot) -> list[str]:
    """Device, what it does, how far the encoder is, images per second of the worker."""
    rate = f"{place.images / place.seconds:.1f} images/s" if place.seconds > 0 and place.images else ""
    if not place.tasks:
        return [place.slot.device, "idle" if place.state == "ready" else place.state, "", rate]
    first = place.tasks[0]
    done, total = snapshot.units_done.get(first.job, (0, 0))
    what = {"load": "loading", "run": f"{done}/{total} units", "assemble": "result"}[first.kind]
    return [place.slot.device, snapshot.names[first.job], what, rate]


def overall(snapshot: Snapshot) -> str:
    """`12 of 300 encoders, 1 failed, 34.5 images/s, 2 h 05 min left`."""
    counts = snapshot.counts
    parts = [f"{counts['done']} of {sum(counts.values())} encoders"]
    if counts["failed"]:
        parts.append(f"{counts['failed']} failed")
    if snapshot.seconds > 0 and snapshot.images:
        parts.append(f"{snapshot.images / snapshot.seconds:.1f} images/s")
    if snapshot.seconds_left is not None:
        parts.append(f"{duration(snapshot.seconds_left)} left")
    return ", ".join(parts)


@contextmanager
def watching(
    stream: TextIO, *, quiet: bool, every: float = 10.0, clock: Callable[[], float] = time.monotonic
) -> Iterator[Watch]:
    """A live display on a terminal; elsewhere a line every so many seconds; with `quiet` nothing."""
    if quiet:
        yield Watch(stream, quiet)
        return
    if not stream.isatty():
        yield _Lines(stream, every, clock)
        return
    shown = _Live(stream)
    with shown.live:
        yield shown


def print_status(stream: TextIO, summary: dict[str, Any]) -> None:
    """`read_summary` for a person."""
    counts, units = summary["counts"], summary["units"]
    total = sum(counts.values())
    rate = f", {summary['images_per_second']:.1f} images/s in the last minute" if summary["workers"] else ""
    alive = [one for one in summary["runs"] if one["alive"]]
    stream.write(
        f"{summary['folder']}: {counts['done']} of {total} encoders scored, {counts['failed']} failed, "
        f"{counts['planned']} begun, {counts['waiting']} waiting; {units['done']} of {units['total']} units of those "
        f"begun{rate}; {len(alive)} live {'run' if len(alive) == 1 else 'runs'}\n"
    )
    earlier = len(summary["encoders"]) - total
    if earlier:
        stream.write(f"{earlier} more of earlier commands\n")
    if summary["workers"]:
        now = time.time()
        hosts = {one["id"]: f"{one['host']}:{one['pid']}" for one in summary["runs"]}
        stream.write("\n")
        rows = [
            [
                hosts.get(one["run"], ""),
                one["device"],
                one["encoder"] or one["state"],
                duration(now - one["since"]),
                str(one["units"]),
                f"{one['images'] / one['seconds']:.1f}" if one["seconds"] else "",
            ]
            for one in summary["workers"]
        ]
        print_table(stream, ["run", "device", "encoder", "since", "units", "images/s"], rows, left=3)
    failed = [one for one in summary["encoders"] if one["current"] and one["state"] == "failed"]
    if failed:
        stream.write("\n")
        print_table(stream, ["failed", "why"], [[named(one), one["reason"]] for one in failed], left=2)
