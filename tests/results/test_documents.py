"""Files of a store that somebody else made: nothing is written or read through a link, and nothing is waited for."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
from checks import refused
from fleet_fakes import FAKE, fakes, run_fakes
from result_example import example

from synbench_fast.cli import main as cli
from synbench_fast.fleet.executors import InProcess, Local
from synbench_fast.fleet.store import Store, read_summary
from synbench_fast.report import load_results
from synbench_fast.results.documents import parse
from synbench_fast.results.files import open_own, read_text
from synbench_fast.results.records import Result
from synbench_fast.studies.inheritance.cells import open_store

CELL = {"fine_tuned_on": "x", "method": "ft", "seed": 0}


@pytest.fixture
def secret(tmp_path: Path) -> Path:
    """A file of the user, outside of every store."""
    path = tmp_path / "bashrc"
    path.write_text("mine\n")
    return path


def store_of(tmp_path: Path) -> Path:
    """A store of one finished job."""
    folder = tmp_path / "store"
    run_fakes(folder, fakes(1), InProcess(worker=FAKE))
    return folder


@pytest.mark.parametrize("kind", ["link", "hard link", "fifo", "folder"])
def test_a_log_is_a_file_of_the_store(tmp_path: Path, secret: Path, kind: str) -> None:
    """What a worker prints was appended to whatever the log's name led to, such as a file that a shell runs."""
    logs = tmp_path / "logs"
    logs.mkdir()
    log = logs / "worker-0.log"
    if kind == "link":
        log.symlink_to(secret)
    elif kind == "hard link":
        os.link(secret, log)
    elif kind == "fifo":
        os.mkfifo(log)
    else:
        log.mkdir()
    local = Local(["cpu"], logs, worker=FAKE)
    with refused("worker-0.log: expected a file of the store"):
        local.start("0")
    local.close()
    assert secret.read_text() == "mine\n"


@pytest.mark.parametrize("name", ["logs", "results"])
def test_folders_of_a_store_are_no_links(tmp_path: Path, secret: Path, name: str) -> None:
    folder, elsewhere = store_of(tmp_path), tmp_path / "elsewhere"
    elsewhere.mkdir()
    if (folder / name).exists():
        (folder / name).rename(tmp_path / "before")
    (folder / name).symlink_to(elsewhere)
    for opened in (lambda: Store(folder), lambda: read_summary(folder)):
        with refused(f"{name}: expected a folder of the store itself, got a link"):
            opened()
    with refused("logs: expected a folder of the store itself, got a link"):
        (tmp_path / "other").mkdir()
        (tmp_path / "other" / "logs").symlink_to(elsewhere)
        Local(["cpu"], tmp_path / "other" / "logs", worker=FAKE)
    assert not list(elsewhere.iterdir())


@pytest.mark.parametrize("ending", ["", "-wal", "-shm", "-journal"])
def test_the_database_is_no_link_and_no_pipe(tmp_path: Path, secret: Path, ending: str) -> None:
    folder = store_of(tmp_path)
    path = folder / f"store.sqlite{ending}"
    for make in (
        lambda: path.symlink_to(secret),
        lambda: os.mkfifo(path),
        lambda: path.symlink_to("nowhere"),
    ):
        path.unlink(missing_ok=True)
        make()
        for opened in (lambda: Store(folder), lambda: read_summary(folder)):
            with refused(f"store.sqlite{ending}: expected a file of the store itself, got"):
                opened()
    assert secret.read_text() == "mine\n" and not (folder / "nowhere").exists()


def test_a_link_at_the_top_is_the_users_own(tmp_path: Path) -> None:
    folder = store_of(tmp_path)
    (tmp_path / "link").symlink_to(folder)
    assert read_summary(tmp_path / "link")["counts"]["done"] == 1
    run_fakes(tmp_path / "link", fakes(2), InProcess(worker=FAKE))
    assert len(list((folder / "results").iterdir())) == 2


def test_results_of_a_store_are_read_through_no_link(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Neither are pipes, which would be waited for, here or in a folder that is no store."""
    folder = store_of(tmp_path)
    for one in (folder / "results").iterdir():
        one.unlink()
    elsewhere = example().save(tmp_path / "elsewhere.json")
    example("builtin:linear").save(folder / "results" / "own.json")
    (folder / "results" / "link.json").symlink_to(elsewhere)
    os.mkfifo(folder / "results" / "pipe.json")
    with refused("link.json: expected a file of the store itself, got a link"):
        Result.load(folder / "results" / "link.json", own=True)
    with refused("pipe.json: expected a file of the store itself, got something else"):
        Result.load(folder / "results" / "pipe.json", own=True)
    found = load_results(folder)
    assert len(found.items) == 1 and len(found.problems) == 2
    assert cli.main(["report", str(folder), "--html", "none", "--format", "csv"]) == 1
    shown = capsys.readouterr()
    assert shown.err.count("error: ") == 2 and "builtin:conv" not in shown.out

    plain = tmp_path / "plain"
    plain.mkdir()
    (plain / "link.json").symlink_to(elsewhere)  # of the user, who gathers results
    os.mkfifo(plain / "pipe.json")
    (plain / "device.json").symlink_to("/dev/zero")
    found = load_results(plain)
    assert len(found.items) == 1 and sorted(found.problems) == [
        f"{plain / name}: expected a readable result file, got something else"
        for name in ("device.json", "pipe.json")
    ]


def test_cells_are_read_and_written_through_no_link(tmp_path: Path, secret: Path) -> None:
    store = open_store(tmp_path / "cells")
    path = store.path(CELL)
    assert path is not None
    path.symlink_to(secret)
    with refused("expected a file of the store itself, got a link"):
        store.read(CELL)
    store.write(CELL, None, "diverged")  # takes the link's place
    assert secret.read_text() == "mine\n" and not path.is_symlink() and store.read(CELL) is None
    (tmp_path / "link").symlink_to(tmp_path / "cells")
    with refused("link: expected a folder of the store itself, got a link"):
        open_store(tmp_path / "link")


def test_what_is_opened_is_a_regular_file(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    path.write_text("[1]")
    assert read_text(path, "list", own=True) == "[1]"
    os.link(path, tmp_path / "b.json")
    assert read_text(path, "list", own=True) == "[1]"  # a second name matters to writers
    with refused("got one with a second name (a hard link)"):
        open_own(path, os.O_WRONLY)
    with refused("c.json: expected a file of the store that can be opened, got: No such file"):
        open_own(tmp_path / "c.json", os.O_RDONLY)


@pytest.mark.parametrize(
    "text", ['{"a": 1, "a": 2}', '{"b": [{"a": 1, "c": 2, "a": 1}]}', '{"a": 1, "\\u0061": 2}']
)
def test_a_key_given_twice_is_no_json(text: str) -> None:
    with refused("file: expected a JSON document", "the key 'a' is there twice"):
        parse(text, "file")


def test_a_result_whose_field_is_there_twice(tmp_path: Path) -> None:
    """Readers of JSON take the first or the last: which score is it?"""
    text = example().to_json(indent=2)
    spec = json.dumps(example().encoder.spec)
    twice: Any = text.replace(f'"spec": {spec}', f'"spec": {spec}, "spec": "timm:other"', 1)
    assert twice != text
    (tmp_path / "a.json").write_text(twice)
    example("builtin:linear").save(tmp_path / "b.json")
    with refused("the key 'spec' is there twice"):
        Result.load(tmp_path / "a.json")
    found = load_results(tmp_path)
    assert len(found.items) == 1 and "the key 'spec' is there twice" in found.problems[0]


def test_a_document_that_never_ends() -> None:
    """As `compare /dev/zero` would read it: until the memory is full."""
    with refused("/dev/zero: expected a result file, got one of 268435456 bytes or more"):
        Result.load("/dev/zero")
