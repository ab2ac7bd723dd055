"""Whether a process that left its number somewhere, in a store or in the name of a file, still runs."""

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


def _stat(pid: int) -> list[str]:
    """What Linux says of a process, from its state on; OSError if there is none or it is not shown."""
    # The name before it is cut after 15 bytes, in the middle of a character too.
    return Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()


def process_mark(pid: int) -> str:
    """When the process started, in the system's count; "" if there is none or the system does not tell."""
    try:
        return _stat(pid)[19]
    except (OSError, IndexError):
        return ""


def gone(host: str, pid: int, mark: str) -> bool:
    """Whether a process of this machine is known to have ended."""
    if host != here() or not mark or not Path("/proc/self/stat").exists():
        return False
    try:
        state, *_, started = _stat(pid)[:20]
        return (
            state in "ZX" or started != mark
        )  # a zombie has ended; where nothing collects it, it stays for ever
    except (FileNotFoundError, ProcessLookupError):
        pass  # or it is hidden: systems can be set up to show nobody the processes of others
    except (OSError, ValueError):
        return False
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    except (OSError, OverflowError, TypeError):
        return False
    return False
