"""Everything of the package that reads a file, as bytes in and a value out, and valid inputs to begin from."""

from __future__ import annotations

import dataclasses
import hashlib
import io
import json
import shutil
import tarfile
import types
import typing
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from result_example import example, influential

from synbench_fast.encoders.weights import read_checkpoint
from synbench_fast.fleet.models import expand
from synbench_fast.fleet.payload import decode_point, encode_point
from synbench_fast.fleet.store import Store, read_summary
from synbench_fast.report import leaderboard, load_results
from synbench_fast.report.html import page
from synbench_fast.report.tables import write_csv, write_markdown
from synbench_fast.results.codec import encode
from synbench_fast.results.records import Result
from synbench_fast.results.suite import SUITE_SCHEMA_VERSION, SuiteResult
from synbench_fast.stats.point import CurvePoint
from synbench_fast.studies.eps_star import EpsStar
from synbench_fast.studies.images import decoded
from synbench_fast.studies.inheritance.cells import Cell, open_store
from synbench_fast.studies.inheritance.folders import _by_mapping
from synbench_fast.studies.inheritance.report import InheritanceReport
from synbench_fast.studies.labelled_data import open_data
from synbench_fast.studies.linear_probe.report import LinearProbeReport
from synbench_fast.studies.sensitivity import Sensitivity
from synbench_fast.studies.validity.report import ValidityReport
from synbench_fast.tasks.suites import load_suite

__all__ = ["DOCUMENTS", "READERS", "sample", "seeds"]

CELL = {"fine_tuned_on": "a", "method": "ft", "seed": 0}


def sample(kind: Any) -> Any:
    """A small JSON value that fits an annotation."""
    if isinstance(kind, types.UnionType):
        return sample(next(one for one in typing.get_args(kind) if one is not type(None)))
    if dataclasses.is_dataclass(kind):
        hints = typing.get_type_hints(kind)
        return {
            one.name: one.default if one.name.startswith("schema") else sample(hints[one.name])
            for one in dataclasses.fields(kind)
        }
    origin = typing.get_origin(kind)
    if origin in (list, tuple):
        return [sample(typing.get_args(kind)[0])]
    if origin is dict:
        return {"a": sample(typing.get_args(kind)[1])}
    return {str: "a", int: 1, float: 0.5, bool: True}[kind]


def _file(data: bytes, folder: Path, name: str) -> Path:
    path = folder / name
    path.write_bytes(data)
    return path


def _document(kind: Any) -> Callable[[bytes, Path], Any]:
    """Reads, and what was read is written and read again to the same document."""

    def read(data: bytes, folder: Path) -> Any:
        if hasattr(kind, "load"):
            found = kind.load(_file(data, folder, "document.json"))
        else:
            found = kind.from_json(data.decode("utf-8", "replace"))
        text = found.to_json()
        again = (
            kind.from_json(text)
            if hasattr(kind, "from_json")
            else kind.load(_file(text.encode(), folder, "again.json"))
        )
        assert encode(again) == encode(found)
        return found

    return read


def _arrays(data: bytes, folder: Path) -> Any:
    """The arrays beside a result, whose header names whatever sha256 they have."""
    path = influential().save(folder / "arrays.json")
    before = hashlib.sha256((folder / "arrays.npz").read_bytes()).hexdigest()
    _file(data, folder, "arrays.npz")
    path.write_text(path.read_text().replace(before, hashlib.sha256(data).hexdigest()))
    found = Result.load(path)
    assert Result.from_json(found.to_json()).to_dict() == found.to_dict()
    return found


def _report(data: bytes, folder: Path) -> Any:
    """A directory of results with this one in it, through to the page."""
    _file(example("builtin:linear").to_json(indent=2).encode(), folder, "good.json")
    _file(data, folder, "result.json")
    board = leaderboard(load_results(folder))
    for write in (write_csv, write_markdown):
        write(io.StringIO(), board)
    return page(board)


def _cell(data: bytes, folder: Path) -> Any:
    store = open_store(folder)
    path = store.path(CELL)
    assert path is not None
    path.write_bytes(data)
    return store.read(CELL)


def _models(data: bytes, folder: Path) -> Any:
    # A pattern would look into the disk, and names of libraries into their lists.
    lines = [one for one in data.decode("utf-8", "replace").splitlines() if not set("*?[") & set(one)]
    return expand([str(_file("\n".join(lines).encode(), folder, "models.txt"))])


def _store(data: bytes, folder: Path) -> Any:
    place = folder / "store"
    shutil.rmtree(place, ignore_errors=True)
    place.mkdir()
    _file(data, place, "store.sqlite")
    summary = read_summary(place)
    store = Store(place, journal="delete")
    try:
        store.begin()
        for id in store.states():
            store.job(id)
            store.payloads(id)
        store.end()
    finally:
        store.close()
    return json.dumps(summary)


def _image(data: bytes, folder: Path) -> Any:
    return decoded(data, (3, 8, 8), "image")


def _npz(data: bytes, folder: Path) -> Any:
    return open_data(_file(data, folder, "data.npz"))


def _tar(data: bytes, folder: Path) -> Any:
    return open_data(_file(data, folder, "data.tar"))


def _table(data: bytes, folder: Path) -> Any:
    for name in ("a.png", "b.png"):
        (folder / name).touch()
    return open_data(_file(data, folder, "data.csv"))


READERS: dict[str, Callable[[bytes, Path], Any]] = {
    "result": _document(Result),
    "arrays": _arrays,
    "suite": _document(SuiteResult),
    "probe": _document(LinearProbeReport),
    "eps_star": _document(EpsStar),
    "validity": _document(ValidityReport),
    "sensitivity": _document(Sensitivity),
    "inheritance": _document(InheritanceReport),
    "cell": _cell,
    "report": _report,
    "tasks": lambda data, folder: load_suite(str(_file(data, folder, "tasks.toml"))),
    "models": _models,
    "store": _store,
    "payload": lambda data, folder: decode_point(data),
    "npz": _npz,
    "tar": _tar,
    "table": _table,
    "image": _image,
    "mapping": lambda data, folder: _by_mapping(_file(data, folder, "map.json"), ["a"])("a"),
    "pickle": lambda data, folder: read_checkpoint(str(_file(data, folder, "weights.pt"))),
    "safetensors": lambda data, folder: read_checkpoint(str(_file(data, folder, "weights.safetensors"))),
}

_SUITE = {
    "schema": "synbench-fast/suite", "schema_version": SUITE_SCHEMA_VERSION, "suite": "full", "tasks": ["published"],
    "scores": {
        "eps": [0.0, 0.0, 0.2, 0.2], "threshold": [0.6, 0.7, 0.6, 0.7], "mean": [0.5] * 4, "mean_stderr": [0.1] * 4,
        "mean_ci95_low": [0.3] * 4, "mean_ci95_high": [0.7] * 4, "worst": [0.5] * 4, "worst_task": ["published"] * 4,
        "worst_stderr": [0.1] * 4, "worst_ci95_low": [0.3] * 4, "worst_ci95_high": [None] * 4,
    },
    "results": [example().to_dict()], "families": [], "warnings": [], "command": "",
}  # fmt: skip

DOCUMENTS: dict[str, Any] = {
    "result": example().to_dict(),
    "suite": _SUITE,
    "probe": sample(LinearProbeReport),
    "eps_star": sample(EpsStar),
    "validity": sample(ValidityReport),
    "sensitivity": sample(Sensitivity),
    "inheritance": sample(InheritanceReport),
    "cell": {
        "schema": "synbench-fast/inheritance-cell", "schema_version": 1, "configuration": CELL, "cell": sample(Cell),
    },
    "report": example().to_dict(),
}  # fmt: skip
"""Valid documents by the reader that takes them."""


def point() -> bytes:
    values: dict[str, Any] = {
        one.name: np.array([0.5])
        for one in dataclasses.fields(CurvePoint)
        if one.default is dataclasses.MISSING
    }
    return encode_point(
        CurvePoint(**{**values, "count": 8, "feature_dim": 2, "rank": 2, "estimator": "paper"})
    )


@contextmanager
def _scratch() -> Iterator[Path]:
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        yield Path(folder)


def store_bytes() -> bytes:
    """A store with one job that was planned and has a unit with a payload."""
    with _scratch() as folder:
        store = Store(folder, journal="delete")
        store.begin()
        (id,) = store.add_jobs([("key", "configuration", "family", "builtin:conv", {"spec": "builtin:conv"})])
        store.plan(id, "cpu", {"tasks": [{"series": "s", "scales": [1.0], "samples": 8, "least": None}]})
        for unit in store.claim_units(id, 1):
            store.finish_unit(unit.id, point(), 8, {"seconds": 1.0})
        store.finish_job(id, "builtin_conv-0.json")
        store.end()
        store.close()
        return (folder / "store.sqlite").read_bytes()


def seeds() -> dict[str, list[bytes]]:
    """Valid inputs of every reader, in the order of READERS."""
    found: dict[str, list[bytes]] = {name: [] for name in READERS}
    for name, document in DOCUMENTS.items():
        found[name].append(json.dumps(document, indent=2 if name == "report" else None).encode())
    found["report"].append(json.dumps(_SUITE, indent=2).encode())
    found["arrays"].append(influential().to_files()[1])
    found["tasks"].append(
        b'[[task]]\nname = "a"\npattern = "patch"\ncovariance = "power:2"\nprior = 0.4\nscales = [0.5, 1]\n'
        b'[[task]]\nname = "b"\nfamily = "texture"\nlevel = [0.3, 1]\nclasses = 5\nsamples = 9\n'
    )
    found["models"].append(
        b"builtin:conv?dim=8 --input-shape 3,8,8 --mean=0.5 --random-init # one\nbuiltin:linear\n"
    )
    found["store"].append(store_bytes())
    found["payload"].append(point())
    buffer = io.BytesIO()
    np.savez(buffer, x=np.zeros((4, 3), np.float32), y=np.arange(4) % 2)
    found["npz"].append(buffer.getvalue())
    from PIL import Image

    for kind in ("PNG", "JPEG", "BMP", "PPM", "TIFF", "WEBP", "GIF"):
        buffer = io.BytesIO()
        Image.new("RGB", (4, 4), (10, 20, 30)).save(buffer, kind)
        found["image"].append(buffer.getvalue())
    found["table"].append(b"file,label,split\na.png,1,train\nb.png,0,test\n")
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:") as archive:
        for name, content in (
            ("a.png", found["image"][0]),
            ("a.cls", b"1"),
            ("b.jpg", b"x"),
            ("b.cls", b"0"),
        ):
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    found["tar"].append(buffer.getvalue())
    found["mapping"].append(b'{"a": ["a"], "b": "a"}')
    buffer = io.BytesIO()
    torch.save({"model": {"w": torch.ones(2)}}, buffer)
    found["pickle"].append(buffer.getvalue())
    from safetensors.torch import save

    found["safetensors"].append(save({"w": torch.ones(2)}))
    return found
