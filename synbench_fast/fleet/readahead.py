"""Weights of the encoders that come next, read while the present ones run, so that loading finds them in memory.

They go into the system's page cache, not into this process: whoever needs memory gets it, and a worker on this
machine reads from there. Only local files that a request names, or that the hub's cache holds, are known.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from synbench_fast.fleet.configuration import named_files

__all__ = ["ReadAhead", "weight_files"]

CHUNK = 4 << 20
SHARE = 4  # of the memory that is available, one part in so many is filled at most
ENDINGS = (".safetensors", ".bin")


def weight_files(request: dict[str, Any]) -> list[Path]:
    """Files that loading an encoder will read, as far as they are known and here."""
    source, _, name = request["spec"].partition("?")[0].partition(":")
    if request["options"]["random_init"]:
        return []
    library = source in ("hf", "timm")
    found = [
        path
        for inside, path in named_files(request)
        if inside == "checkpoint" or not library or ("/" not in inside and path.suffix in ENDINGS)
    ]
    if library and not found:
        from huggingface_hub import try_to_load_from_cache

        cached = try_to_load_from_cache(name if source == "hf" else f"timm/{name}", "model.safetensors")
        found += [Path(cached)] if isinstance(cached, str) else []
    return found


def available_bytes() -> int:
    """Memory that the system could give without swapping; SystemError where it does not tell."""
    for line in Path("/proc/meminfo").read_text(encoding="ascii").splitlines():
        if line.startswith("MemAvailable:"):
            return int(line.split()[1]) * 1024
    raise SystemError("/proc/meminfo has no MemAvailable")


class ReadAhead:
    """What it does not get to read is read by whoever loads it, as ever."""

    def __init__(self) -> None:
        self._turn = 0  # of `want`
        self._read: set[Path] = set()

    def want(self, requests: Sequence[dict[str, Any]]) -> None:
        """These come next, in this order; what was wanted before is not."""
        self._turn += 1
        threading.Thread(target=self._work, args=(requests, self._turn), daemon=True).start()

    def close(self) -> None:
        """Nothing more; a read that hangs, as over a network, is not waited for."""
        self._turn += 1

    def _work(self, requests: Sequence[dict[str, Any]], turn: int) -> None:
        buffer, room = bytearray(CHUNK), 0
        with suppress(Exception):  # whatever is wrong with a file is for the worker to say
            room = available_bytes() // SHARE
            for path in (path for request in requests for path in weight_files(request)):
                room -= path.stat().st_size
                if room < 0:
                    return
                if path not in self._read:
                    with path.open("rb", buffering=0) as file:
                        while file.readinto(buffer):
                            if self._turn != turn:
                                return
                    self._read.add(path)
