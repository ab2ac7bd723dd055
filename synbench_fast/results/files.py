"""Files that are whole or absent, and files of a store that somebody else may have made."""

from __future__ import annotations

import hashlib
import os
import re
import secrets
import stat
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path

from synbench_fast.errors import SynbenchError
from synbench_fast.runtime.processes import gone, here, process_mark

__all__ = [
    "LARGEST",
    "check_own",
    "open_own",
    "read_bytes",
    "read_text",
    "remove_leftovers",
    "replacing",
    "write_atomically",
    "write_new",
]

LARGEST = 1 << 28  # bytes of a document, which may be a pipe or a device that never ends
_ABANDONED_SECONDS = 86400.0  # a file of another machine that has not grown for so long is nobody's
# .NAME OF THE FILE TO COME.MACHINE-PROCESS-ITS START-RANDOM.tmp; earlier versions named the process alone.
_TEMPORARY = re.compile(
    r"\..*\.(?:(?P<host>[0-9a-f]{16})-(?P<pid>[0-9]+)-(?P<mark>[0-9]*)|[0-9]+)-[0-9a-f]{8}\.tmp", re.DOTALL
)


def check_own(path: Path, *, folder: bool = False) -> None:
    """SynbenchError unless `path`, a part of a store, is a file (or a folder) or missing: a link leads elsewhere."""
    expected = "folder" if folder else "file"
    try:
        mode = path.lstat().st_mode
    except OSError:  # it is missing, or whoever opens it says why that fails
        return
    if not (stat.S_ISDIR(mode) if folder else stat.S_ISREG(mode)):
        got = "a link" if stat.S_ISLNK(mode) else "something else"
        raise SynbenchError(f"{path}: expected a {expected} of the store itself, got {got}")


def open_own(path: Path, flags: int) -> int:
    """The descriptor of a regular file in a folder of a store, opened with the `flags` of `os.open`.

    Neither the file nor its folder may be a link: in a store that somebody else made, it would lead a writer to any
    file of the user. A FIFO or a device, which a reader would wait for, is refused too, and for writing a file that
    has another name elsewhere (a hard link).

    Raises:
        SynbenchError: what the file is instead, or why it cannot be opened.
    """
    check_own(path.parent, folder=True)
    check_own(path)
    try:
        folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
        try:
            descriptor = os.open(path.name, flags | os.O_NOFOLLOW | os.O_NONBLOCK, 0o666, dir_fd=folder)
        finally:
            os.close(folder)
    except OSError as error:
        raise SynbenchError(
            f"{path}: expected a file of the store that can be opened, got: {error.strerror}"
        ) from None
    found = os.fstat(descriptor)
    twice = found.st_nlink > 1 and flags & (os.O_WRONLY | os.O_RDWR)
    if not stat.S_ISREG(found.st_mode) or twice:
        os.close(descriptor)
        got = "one with a second name (a hard link)" if twice else "something else"
        raise SynbenchError(f"{path}: expected a file of the store itself, got {got}")
    return descriptor


def read_bytes(path: str | os.PathLike[str], kind: str, *, own: bool = False, regular: bool = False) -> bytes:
    """The bytes of a file; SynbenchError calls it a `kind` file.

    Args:
        own: it is part of a store, see `open_own`.
        regular: refuse a pipe, which would be waited for, and a device.
    """
    try:
        descriptor = (
            open_own(Path(path), os.O_RDONLY) if own else os.open(path, os.O_RDONLY | regular * os.O_NONBLOCK)
        )
        with open(descriptor, "rb", buffering=0) as stream:
            found = os.fstat(descriptor)
            if regular and not stat.S_ISREG(found.st_mode):
                raise SynbenchError(f"{path}: expected a readable {kind} file, got something else")
            parts, left, size = [], LARGEST, found.st_size + 1
            while left and (part := stream.read(min(size, left))):
                parts.append(part)
                left -= len(part)
                if stat.S_ISREG(found.st_mode) and len(part) < size:
                    break  # its end, without a further read
                size = 1 << 20
    except OSError as error:
        raise SynbenchError(f"{path}: expected a readable {kind} file, got: {error.strerror}") from None
    if not left:
        raise SynbenchError(f"{path}: expected a {kind} file, got one of {LARGEST} bytes or more")
    return b"".join(parts)


def read_text(path: str | os.PathLike[str], kind: str, *, own: bool = False, regular: bool = False) -> str:
    """The UTF-8 text of a file, see `read_bytes`."""
    try:
        return read_bytes(path, kind, own=own, regular=regular).decode()
    except UnicodeDecodeError:
        raise SynbenchError(f"{path}: expected a {kind} file in UTF-8, got other bytes") from None


@contextmanager
def replacing(path: str | os.PathLike[str]) -> Iterator[Path]:
    """The path of a temporary file to write: it becomes `path` at the end of the block, and is gone if that fails.

    Even after a crash `path` is the old file or the whole new one. A process that is killed in the block leaves the
    temporary file behind; the next one that writes to the same folder removes it, see `remove_leftovers`.
    """
    target = Path(path)
    if not target.name:
        raise SynbenchError(f"path: expected that of a file, got {str(path)!r}")
    # A name has at most 255 bytes, of which the rest takes up to 60.
    name = os.fsencode(target.name)[:180].decode("utf-8", "ignore")
    owner = f"{_host_digest()}-{os.getpid()}-{process_mark(os.getpid())}"
    temporary = target.with_name(f".{name}.{owner}-{secrets.token_hex(4)}.tmp")
    try:
        _remove_leftovers_once(os.path.abspath(target.parent))
        try:
            yield temporary
            os.replace(temporary, target)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise
    except OSError as error:
        raise SynbenchError(
            f"{target}: expected a file that can be written, got: {error.strerror}"
        ) from error


def remove_leftovers(folder: Path) -> None:
    """Remove what killed processes had begun to write in `folder` by `replacing`; other files stay.

    A temporary file names its writer's machine and process. Where that is this machine, the file goes once the
    process has ended, and never before. Of a process of another machine, or of this one before it was started anew,
    nothing is known: the file goes a day after it was last written to.
    """
    paths: list[Path] = []
    with suppress(OSError):  # a folder that cannot be listed is left as it is
        paths = list(folder.glob(".*.tmp"))
    for path in paths:
        named = _TEMPORARY.fullmatch(path.name)
        if named is None:
            continue
        with suppress(OSError):
            if named["mark"] and named["host"] == _host_digest():
                over = gone(here(), int(named["pid"]), named["mark"])
            else:
                over = abs(time.time() - path.lstat().st_mtime) > _ABANDONED_SECONDS
            if over:
                path.unlink()


@cache
def _remove_leftovers_once(folder: str) -> None:
    """Once per process: a folder of thousands of results is not listed for each of them."""
    remove_leftovers(Path(folder))


def _host_digest() -> str:
    """16 hexadecimal digits that stand for this machine, see `here`."""
    return hashlib.blake2b(here().encode("utf-8", "surrogateescape"), digest_size=8).hexdigest()


def write_atomically(path: str | os.PathLike[str], text: str) -> Path:
    """Write UTF-8 `text` to `path`, see `replacing`."""
    with replacing(path) as temporary:
        write_new(temporary, text.encode())
    return Path(path)


def write_new(path: Path, data: bytes) -> None:
    """Write a file that is not there yet, and wait until the disk has it."""
    with open(path, "xb") as stream:
        stream.write(data)
        stream.flush()
        os.fsync(stream.fileno())
