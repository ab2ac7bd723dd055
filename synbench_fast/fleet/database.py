"""The SQLite file of a run store: opened, checked, its tables, and its errors in one line.

WAL needs memory that all readers and writers share, so it works on one machine only. On a file system of a
network, SQLite's rollback journal is used, which needs nothing but the file system's locks.
"""

from __future__ import annotations

import os
import sqlite3
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from synbench_fast.errors import SynbenchError, suggest
from synbench_fast.results.files import check_own

__all__ = ["FILE", "JOURNALS", "connect", "explained", "journal_for", "mode", "transaction"]

FILE = "store.sqlite"
VERSION = 1
JOURNALS = ("auto", "wal", "delete")
BUSY_SECONDS = 60.0  # how long a writer waits for the others
NETWORKS = frozenset(
    [
        "9p",
        "afs",
        "beegfs",
        "ceph",
        "cifs",
        "coda",
        "fuse.glusterfs",
        "fuse.juicefs",
        "fuse.sshfs",
        "gfs2",
        "gpfs",
        "lustre",
        "ncpfs",
        "nfs",
        "nfs4",
        "ocfs2",
        "orangefs",
        "panfs",
        "pvfs2",
        "smb",
        "smb2",
        "smb3",
        "smbfs",
        "virtiofs",
        "wekafs",
    ]
)

TABLES = """
CREATE TABLE runs(
    id INTEGER PRIMARY KEY, host TEXT NOT NULL, pid INTEGER NOT NULL, process TEXT NOT NULL, kinds TEXT NOT NULL,
    began REAL NOT NULL, heartbeat REAL NOT NULL, ended REAL);
CREATE TABLE workers(
    run INTEGER NOT NULL, slot TEXT NOT NULL, device TEXT NOT NULL, state TEXT NOT NULL, encoder TEXT NOT NULL,
    since REAL NOT NULL, units INTEGER NOT NULL, images INTEGER NOT NULL, seconds REAL NOT NULL,
    PRIMARY KEY(run, slot));
CREATE TABLE jobs(
    id INTEGER PRIMARY KEY, key TEXT NOT NULL UNIQUE, configuration TEXT NOT NULL, family TEXT NOT NULL, spec TEXT NOT NULL,
    request TEXT NOT NULL, state TEXT NOT NULL DEFAULT 'waiting', run INTEGER, attempts INTEGER NOT NULL DEFAULT 0,
    kind TEXT, prepared TEXT, reason TEXT, result TEXT, began REAL, finished REAL, asked REAL);
CREATE TABLE units(
    id INTEGER PRIMARY KEY, series TEXT NOT NULL, scale REAL NOT NULL, start INTEGER NOT NULL,
    count INTEGER NOT NULL, run INTEGER, attempts INTEGER NOT NULL DEFAULT 0, payload BLOB, costs TEXT,
    images INTEGER, finished REAL, UNIQUE(series, scale, start, count));
CREATE TABLE plan(
    job INTEGER NOT NULL, task INTEGER NOT NULL, scale_index INTEGER NOT NULL, start INTEGER NOT NULL,
    unit INTEGER NOT NULL, PRIMARY KEY(job, task, scale_index, start)) WITHOUT ROWID;
CREATE INDEX job_family ON jobs(family);
CREATE INDEX plan_of_unit ON plan(unit);
CREATE INDEX unit_run ON units(run) WHERE run IS NOT NULL;
CREATE INDEX unit_finished ON units(finished) WHERE finished IS NOT NULL;
"""


def journal_for(folder: Path, wanted: str = "auto", found: str | None = None) -> str:
    """ "wal", or "delete" (the rollback journal) for a folder on a network's file system.

    `found`: the journal of the store that is there. One that was asked to be "delete" stays so: a run that is not
    told does not know what the file system's type hides.
    """
    if wanted not in JOURNALS:
        raise SynbenchError(
            f"journal: expected one of {', '.join(JOURNALS)}, got {wanted!r}{suggest(str(wanted), JOURNALS)}"
        )
    if wanted != "auto":
        return wanted
    return "delete" if found == "delete" or _file_system(folder) in NETWORKS else "wal"


def _file_system(folder: Path) -> str:
    """Type of the file system that holds `folder`; "" where the system does not tell."""
    try:
        lines = Path("/proc/self/mountinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return ""
    path, best, found = os.path.realpath(folder), -1, ""
    for line in lines:
        left, _, right = line.partition(" - ")
        mount = left.split()[4].encode().decode("unicode_escape")
        inside = path == mount or path.startswith(mount.rstrip("/") + "/")
        if inside and len(mount) >= best:
            best, found = len(mount), right.split()[0]
    return found


def connect(folder: Path, *, create: bool, journal: str = "auto") -> sqlite3.Connection:
    """The store in `folder`, made if it is missing and `create`.

    Raises:
        SynbenchError: no store there, a damaged file, another program's, a later version's, or one with links.
    """
    path = folder / FILE
    for ending in ("", "-wal", "-shm", "-journal"):
        check_own(folder / (FILE + ending))
    for name in ("results", "logs"):
        check_own(folder / name, folder=True)
    if not create and not path.is_file():
        raise SynbenchError(f"DIR: expected a folder that `run --models` wrote, got {str(folder)!r}")
    with explained(folder):
        uri = f"{path.resolve().as_uri()}?mode={'rwc' if create else 'rw'}"
        db = sqlite3.connect(
            uri, uri=True, timeout=BUSY_SECONDS, isolation_level=None, check_same_thread=False
        )
        try:
            db.execute("PRAGMA trusted_schema=OFF")
            if create:
                made = db.execute("SELECT count(*) FROM sqlite_master").fetchone()[0] > 0
                _set_journal(db, journal_for(folder, journal, mode(db) if made else None))
                db.execute("PRAGMA synchronous=" + ("NORMAL" if mode(db) == "wal" else "FULL"))
                with transaction(db):
                    if db.execute("SELECT count(*) FROM sqlite_master").fetchone()[0] == 0:
                        for statement in TABLES.split(";\n"):
                            db.execute(statement)
                        db.execute(f"PRAGMA user_version={VERSION}")
                if db.execute("PRAGMA quick_check(1)").fetchone()[0] != "ok":
                    raise sqlite3.DatabaseError("its pages contradict each other")
            version = db.execute("PRAGMA user_version").fetchone()[0]
            kinds = dict(db.execute("SELECT name, type FROM sqlite_master").fetchall())
        except BaseException:
            db.close()
            raise
    foreign = [kind for kind in kinds.values() if kind not in ("table", "index")]
    if foreign:  # triggers and views: what they do when a row is written is not ours
        db.close()
        raise SynbenchError(f"{path}: expected tables and indices, got a {foreign[0]}")
    if version != VERSION or any(kinds.get(name) != "table" for name in ("runs", "jobs", "units", "plan")):
        db.close()
        raise SynbenchError(f"{path}: expected a run store of version {VERSION}, got version {version}")
    return db


def _set_journal(db: sqlite3.Connection, wanted: str) -> None:
    """Set the journal, after other processes that open the same new file.

    The statement turns a lock for reading into one for writing, for which SQLite itself does not wait.
    """
    until = time.monotonic() + BUSY_SECONDS
    while mode(db) != wanted:
        try:
            db.execute(f"PRAGMA journal_mode={wanted}")
            return
        except sqlite3.OperationalError as error:
            if "locked" not in str(error) or time.monotonic() > until:
                raise
            time.sleep(0.01)


def mode(db: sqlite3.Connection) -> str:
    """The journal of an open store: "wal" or "delete"."""
    return str(db.execute("PRAGMA journal_mode").fetchone()[0])


@contextmanager
def explained(folder: Path) -> Iterator[None]:
    """What SQLite raises inside, as one line that says what is left."""
    path = folder / FILE
    try:
        yield
    except (sqlite3.Error, UnicodeDecodeError) as error:  # names and texts of a damaged file may be no text
        text = str(error)
        if "full" in text or "disk I/O" in text:
            raise SynbenchError(
                f"{path}: expected room to write, got: {text}; what is finished is kept, run again with more room"
            ) from error
        if "locked" in text:
            raise SynbenchError(
                f"{path}: expected the others to let go of it in time, got: {text}"
            ) from error
        if isinstance(error, sqlite3.OperationalError):
            raise SynbenchError(
                f"{path}: expected a file that can be read and written, got: {text}"
            ) from error
        raise SynbenchError(
            f"{path}: expected a run store, got a damaged file ({text}); results in {folder / 'results'} are "
            "separate files and whole: move the damaged one away to begin again"
        ) from error


@contextmanager
def transaction(db: sqlite3.Connection) -> Iterator[sqlite3.Connection]:
    """All or nothing, and nobody else writes meanwhile."""
    db.execute("BEGIN IMMEDIATE")
    try:
        yield db
        db.execute("COMMIT")
    except BaseException:
        if db.in_transaction:
            db.execute("ROLLBACK")
        raise
