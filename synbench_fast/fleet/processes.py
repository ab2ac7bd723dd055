"""Whether a run that a store knows of is still alive."""

from __future__ import annotations

import os
import socket
from pathlib import Path

__all__ = ["LEASE_SECONDS", "gone", "here", "process_mark"]

LEASE_SECONDS = 60.0  # a run that has not been heard of for so long is dead


def here() -> str:
    """This machine, as far as process numbers mean the same."""
    try:
        space = os.readlink("/proc/self/ns/pid")
        boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
    except OSError:
        space = boot = ""
    return f"{socket.gethostname()} {boot} {space}"


def process_mark(pid: int) -> str:
    """When the process started, in the system's count; "" if there is none or the system does not tell."""
    try:
        return Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()[19]
    except (OSError, IndexError):
        return ""


def gone(host: str, pid: int, mark: str) -> bool:
    """Whether a process of this machine is known to have ended."""
    if host != here() or not mark or not Path("/proc/self/stat").exists():
        return False
    return process_mark(pid) != mark
