"""Data sets by name, tables of image files and shards, on small fakes of each layout: nothing here needs a network."""

from __future__ import annotations

import io
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from checks import refused
from typer.testing import CliRunner

import synbench_fast as sb
from synbench_fast.cli import main as cli
from synbench_fast.studies import catalogue
from synbench_fast.studies.labelled_data import open_data
from synbench_fast.studies.samples import Samples, split
from synbench_fast.studies.validity.datasets import open_data_sets

images = pytest.importorskip("PIL.Image")
SHAPE = (3, 8, 6)


def image(value: int) -> Any:
    return images.new("RGB", (6, 8), (value, value, value))


def png(value: int) -> bytes:
    buffer = io.BytesIO()
    image(value).save(buffer, "PNG")
    return buffer.getvalue()


def values(samples: Samples, rows: list[int]) -> list[int]:
    """The grey level of each image, which says which one it is."""
    x = samples.load(np.array(rows), SHAPE)
    assert x.shape == (len(rows), *SHAPE) and x.dtype == torch.float32
    assert bool((x == x[:, :1, :1, :1]).all())
    return [round(float(one) * 255) for one in x[:, 0, 0, 0]]


# torchvision.


class Fake:
    """A data set of torchvision: `classes`, labels under one of its three names, images by place."""

    classes: tuple[str, ...] = ("cat", "dog")
    name = "_labels"
    made: list[tuple[str, str | None, bool]]
    there = False

    def __init__(self, root: str, split: str | None = None, download: bool = False) -> None:
        type(self).made.append((root, split, download))
        if not (type(self).there or download):
            raise RuntimeError("Dataset not found. You can use download=True to download it")
        print("a library that prints")
        start = {"train": 0, "val": 20, "test": 30, None: 0}[split]
        self.values = list(range(start, start + 10))
        if self.name:
            setattr(self, self.name, [value % 2 for value in self.values])

    def __len__(self) -> int:
        return len(self.values)

    def __getitem__(self, place: int) -> tuple[Any, int]:
        return image(self.values[place]), self.values[place] % 2


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[..., type[Fake]]:
    datasets = pytest.importorskip("torchvision.datasets")
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path / "torch" / "hub"))

    def install(target: str, **attributes: Any) -> type[Fake]:
        kind = type(target, (Fake,), {"made": [], **attributes})
        monkeypatch.setattr(datasets, target, kind)
        return kind

    return install


@pytest.mark.parametrize("attribute", ["targets", "labels", "_labels", ""])
def test_parts_of_torchvision_are_joined(
    attribute: str, fake: Callable[..., type[Fake]], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    kind = fake("DTD", name=attribute)
    samples = open_data("dtd")
    root = str(tmp_path / "torch" / "datasets")
    wanted = [(part, download) for part in ("train", "val", "test") for download in (False, True)]
    assert kind.made == [(root, *one) for one in wanted]
    assert values(samples, [0, 9, 10, 29]) == [0, 9, 20, 39]
    assert samples.y.tolist() == [0, 1] * 15 and samples.classes == ["cat", "dog"]
    assert samples.test is not None and np.flatnonzero(samples.test).tolist() == list(range(20, 30))
    assert capsys.readouterr().out == ""


def test_what_is_cached_is_not_fetched(fake: Callable[..., type[Fake]]) -> None:
    kind = fake("SVHN", there=True, name="labels", classes=None)
    samples = open_data("svhn")
    assert [download for _, _, download in kind.made] == [False, False] and samples.classes == ["0", "1"]
    kind = fake("EuroSAT", there=True, name="targets")
    assert open_data("eurosat").test is None and [part for _, part, _ in kind.made] == [None]


def test_torchvision_has_these_data_sets() -> None:
    import inspect

    datasets = pytest.importorskip("torchvision.datasets")
    for entry in catalogue.NAMED.values():
        if entry.library == "torchvision":
            parameters = inspect.signature(getattr(datasets, entry.target)).parameters
            known = {name for several in entry.parts.values() for one in several for name in one}
            assert {"root", "download", *known} <= set(parameters)


def test_what_cannot_be_fetched(fake: Callable[..., type[Fake]], tmp_path: Path) -> None:
    def offline(self: Any, root: str, split: str, download: bool) -> None:
        raise RuntimeError("not found") if not download else OSError("no route\nto anywhere")

    fake("SVHN", __init__=offline)
    cache = tmp_path / "torch" / "datasets"
    with refused(
        f"data svhn: expected it in the cache {cache}, or a connection to download it, got OSError: no route"
    ):
        open_data("svhn")

    def incomplete(self: Any, root: str, split: str, download: bool) -> None:
        raise ModuleNotFoundError("No module named 'scipy'", name="scipy")

    fake("Flowers102", __init__=incomplete)
    with refused(
        'scipy: expected it to be installed, got no such library; pip install "synbench-fast[data]"'
    ):
        open_data("flowers")


# The Hub.


def hub(parts: dict[str, list[int]], *, label: str = "label", names: list[str] | None = None) -> Any:
    """A data set of `datasets` with images of these grey levels, whose label is the level modulo 3."""
    datasets = pytest.importorskip("datasets")
    kind = datasets.Value("int64") if names is None else datasets.ClassLabel(names=names)
    features = datasets.Features({"picture": datasets.Image(), label: kind})

    def part(levels: list[int]) -> Any:
        cells = [{"bytes": png(level), "path": None} for level in levels]
        return datasets.Dataset.from_dict({"picture": cells, label: [one % 3 for one in levels]}, features)

    made = {name: part(levels) for name, levels in parts.items()}
    return made["only"] if list(made) == ["only"] else datasets.DatasetDict(made)


def test_saved_data_sets(tmp_path: Path) -> None:
    hub({"train": [3, 4, 5], "validation": [9], "test": [1, 2]}, names=["a", "b", "c"]).save_to_disk(
        tmp_path / "d"
    )
    samples = open_data(f"hf:{tmp_path / 'd'}")
    assert samples.classes == ["a", "b", "c"] and samples.y.tolist() == [0, 1, 2, 0, 1, 2]
    assert values(samples, list(range(6))) == [3, 4, 5, 9, 1, 2]
    assert samples.test is not None and samples.test.tolist() == [False] * 4 + [True] * 2
    hub({"only": [1, 2]}, label="cls").save_to_disk(tmp_path / "one")
    alone = open_data(f"hf:{tmp_path / 'one'}")
    assert alone.test is None and alone.classes == ["1", "2"] and values(alone, [1, 0]) == [2, 1]
    hub({"train": [1, 2], "valid": [4]}).save_to_disk(tmp_path / "two")
    held = open_data(f"hf:{tmp_path / 'two'}").test
    assert held is not None and held.tolist() == [False, False, True]


def test_names_of_the_hub(monkeypatch: pytest.MonkeyPatch) -> None:
    datasets = pytest.importorskip("datasets")
    asked: list[str] = []

    def load(name: str) -> Any:
        asked.append(name)
        return hub({"train": list(range(10)), "test": [30]}, label="fine_label")

    monkeypatch.setattr(datasets, "load_dataset", load)
    assert values(open_data("cifar100"), [10]) == [30]
    open_data("hf:somebody/pictures")
    assert asked == ["uoft-cs/cifar100", "somebody/pictures"]

    def offline(name: str) -> Any:
        raise ConnectionError(f"Couldn't reach {name}")

    monkeypatch.setattr(datasets, "load_dataset", offline)
    cache = datasets.config.HF_DATASETS_CACHE
    with refused(
        f"data cifar10: expected it in the cache {cache}, or a connection", "got ConnectionError: Couldn't"
    ):
        open_data("cifar10")


def test_mistakes_of_the_hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    datasets = pytest.importorskip("datasets")
    secret = tmp_path / "secret.png"
    secret.write_bytes(png(7))
    features = datasets.Features({"image": datasets.Image(decode=False), "label": datasets.Value("int64")})
    cells = [{"bytes": None, "path": str(secret)}]

    def saved(name: str, whole: Any) -> str:
        whole.save_to_disk(tmp_path / name)
        return f"hf:{tmp_path / name}"

    plain = datasets.Dataset.from_dict({"image": cells, "label": [0]}, features)
    with monkeypatch.context() as patch, refused("expected images stored in the data, got paths"):
        patch.setattr(datasets, "load_dataset", lambda name: plain)
        open_data("cifar10").load(np.array([0]), SHAPE)
    with refused("expected one column of images and one of label, fine_label", "got text"):
        open_data(saved("text", datasets.Dataset.from_dict({"text": ["a"]})))
    hidden = {"image": [{"bytes": png(1), "path": None}], "label": [-1]}
    with refused("expected labels of at least 0, got -1: a part without labels"):
        open_data(saved("hidden", datasets.Dataset.from_dict(hidden, features)))
    with refused("expected it in the cache", "got FileNotFoundError"):
        open_data(f"hf:{tmp_path}")


def test_vtab_trains_on_a_thousand(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two of every class at least, the same ones for every seed, and the whole test part."""
    datasets = pytest.importorskip("datasets")
    levels = [0] * 60 + [1] * 40 + [2] * 2
    monkeypatch.setattr(
        datasets, "load_dataset", lambda name: hub({"train": levels, "test": [100, 101, 102]})
    )
    small = catalogue.Named("datasets", "x", "", train=10)
    monkeypatch.setitem(catalogue.NAMED, "vtab/dtd", small)
    samples = open_data("vtab/dtd")
    assert samples.test is not None and int(samples.test.sum()) == 3 and len(samples.y) == 13
    train = samples.y[~samples.test]
    assert np.bincount(train).min() == 2 and values(samples, [10, 11, 12]) == [100, 101, 102]
    drawn = values(samples, list(range(13)))
    assert [one % 3 for one in drawn] == samples.y.tolist() and values(
        open_data("vtab/dtd"), list(range(13))
    ) == drawn
    parts = split(samples, test_fraction=0.25, most=None, seed=3)
    assert sorted(parts.test.tolist()) == [10, 11, 12]
    monkeypatch.setattr(datasets, "load_dataset", lambda name: hub({"only": levels}))
    with refused("data vtab/dtd: expected a training and a test part, got one part"):
        open_data("vtab/dtd")


def test_vtab_has_19_tasks(monkeypatch: pytest.MonkeyPatch) -> None:
    datasets = pytest.importorskip("datasets")
    monkeypatch.setattr(
        datasets, "load_dataset", lambda name: hub({"train": [0, 3, 1, 4, 2, 5], "test": [6, 7, 8]})
    )
    opened = open_data_sets(["vtab", "digits"], test_fraction=0.25, most=None, seed=0)
    assert len(opened) == 20 and opened[0].name == "vtab/caltech101" and opened[-1].name == "digits"
    assert all(catalogue.NAMED[one.name].train == 1000 for one in opened[:-1])


# Published parts.


def test_published_parts_stay_apart() -> None:
    y = np.array([0, 1] * 10)
    test = np.arange(20) >= 14
    samples = Samples("d", None, y, ["a", "b"], lambda rows, shape: torch.zeros(len(rows)), test)
    parts = split(samples, test_fraction=0.9, most=None, seed=1)
    assert sorted(parts.test.tolist()) == list(range(14, 20)) and sorted(parts.train.tolist()) == list(
        range(14)
    )
    fewer = split(samples, test_fraction=0.9, most=15, seed=1)
    assert len(fewer.train) + len(fewer.test) == 15 and set(fewer.test) <= set(parts.test)
    with refused("data: expected at least 1 test samples of every class, got 0 of"):
        split(samples, test_fraction=0.9, most=7, seed=1)
    few = Samples("d", None, y, ["a", "b"], samples.load, np.arange(20) >= 3)
    with refused("data: expected at least 2 training samples of every class, got 1 of 'b'"):
        split(few, test_fraction=0.9, most=None, seed=1)


# Tables and shards.


def test_a_table_of_image_files(tmp_path: Path) -> None:
    (tmp_path / "deep").mkdir()
    for level in range(4):
        (tmp_path / "deep" / f"{level}.png").write_bytes(png(level))
    lines = ["label,file,split", *(f"{'ab'[level % 2]},deep/{level}.png,train" for level in range(3))]
    table = tmp_path / "images.csv"
    table.write_text("\n".join([*lines, f"b,{tmp_path / 'deep' / '3.png'},test", ""]), encoding="utf-8-sig")
    samples = open_data(table)
    assert samples.classes == ["a", "b"] and samples.y.tolist() == [0, 1, 0, 1]
    assert values(samples, [3, 0, 1]) == [3, 0, 1]
    assert samples.test is not None and samples.test.tolist() == [False, False, False, True]
    table.write_text("file,label\ndeep/0.png,1\n", encoding="utf-8")
    assert open_data(table).test is None


@pytest.mark.parametrize(
    ("text", "part"),
    [
        ("a,b\n1,2\n", "expected columns file and label and at least one row, got a, b"),
        ("file,label\n", "expected columns file and label and at least one row, got file, label"),
        (
            "file,label\na.png\n",
            "expected a file, a label and, in split, train or test in every row, got others",
        ),
        ("file,label,split\na.png,1,tset\n", "expected a file, a label and, in split, train or test"),
        ('file,label\n"a,1\n', "expected a CSV file, got Error"),
        ("\udcff", "expected a CSV file, got UnicodeDecodeError"),
    ],
)
def test_mistakes_of_tables(text: str, part: str, tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_bytes(text.encode("utf-8", "surrogateescape"))
    with refused(f"a.csv: {part}"):
        open_data(tmp_path / "a.csv")


def test_files_of_a_table_are_looked_at(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from synbench_fast.studies import images as module

    table = tmp_path / "a.csv"
    (tmp_path / "big.png").write_bytes(png(1))
    for name in ("none.png", "/dev/zero", ".", 5000 * "x"):
        table.write_text(f"file,label\nbig.png,1\n{name},1\n", encoding="utf-8")
        with refused("a.csv: expected image files, got no such file as "):
            open_data(table)
    table.write_text("file,label\nbig.png,1\n./big.png,2\n", encoding="utf-8")
    with refused("a.csv: expected every file once, got ", "big.png' again"):
        open_data(table)
    table.write_text("file,label\nbig.png,1\n", encoding="utf-8")
    samples = open_data(table)
    monkeypatch.setattr(module, "MOST_BYTES", 10)
    with refused("big.png: expected an image file of at most 10 bytes, got "):
        samples.load(np.array([0]), SHAPE)


def shard(path: Path, files: list[tuple[str, bytes]], mode: str = "w:") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, mode) as archive:  # type: ignore[call-overload]
        for name, content in files:
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return path


def pairs(levels: list[int]) -> list[tuple[str, bytes]]:
    both = [
        [(f"s/{one:03d}.PNG", png(one)), (f"s/{one:03d}.cls", f"{one % 11}\n".encode())] for one in levels
    ]
    return [one for pair in both for one in pair]


def test_shards(tmp_path: Path) -> None:
    other = [("s/000.json", b"{}"), ("README.txt", b"x")]
    alone = open_data(shard(tmp_path / "a.tar", [*pairs([0, 10, 2]), *other]))
    assert alone.classes == ["0", "2", "10"] and values(alone, [1, 2, 0]) == [10, 2, 0] and alone.test is None
    assert alone.y.tolist() == [0, 2, 1]
    shard(tmp_path / "flat" / "0.tar", pairs([1, 2]))
    shard(tmp_path / "flat" / "1.tar", pairs([1, 5]))  # the name of a sample counts within its shard
    assert values(open_data(tmp_path / "flat"), [0, 1, 2, 3]) == [1, 2, 1, 5]
    shard(tmp_path / "both" / "train" / "0.tar", pairs([1, 2]))
    shard(tmp_path / "both" / "test" / "0.tar", pairs([3]))
    samples = open_data(tmp_path / "both")
    assert samples.test is not None
    assert values(samples, np.flatnonzero(samples.test).tolist()) == [3]
    named = [("a.png", png(1)), ("a.cls", b"cat"), ("b.png", png(2)), ("b.cls", b"7")]
    assert open_data(shard(tmp_path / "n.tar", named)).classes == ["7", "cat"]


def test_mistakes_of_shards(tmp_path: Path) -> None:
    for files, part in (
        ([("a.png", png(1))], "expected an image and a .cls file of every name, got 1 images and 0 labels"),
        ([], "expected an image and a .cls file of every name, got 0 images and 0 labels"),
        (
            [("a.png", png(1)), ("a.cls", b"1" * 100)],
            "expected an image and a .cls file of every name, got 1",
        ),
        (
            [*pairs([1]), ("b.png", png(1)), ("b.cls", b" ")],
            "expected an image and a .cls file of every name, got 2 images and 1 labels, only one of them for 'b'",
        ),
        ([*pairs([1]), ("s/001.jpg", png(1))], "expected one image of a name, got two of 's/001'"),
        (
            [("a.png", png(1)), ("a.cls", b"\xff")],
            "expected an uncompressed .tar file, got UnicodeDecodeError",
        ),
    ):
        with refused(f"a.tar: {part}"):
            open_data(shard(tmp_path / "a.tar", files))
    with refused("z.tar: expected an uncompressed .tar file, got ReadError"):
        open_data(shard(tmp_path / "z.tar", pairs([1, 2]), "w:gz"))
    whole = shard(tmp_path / "w.tar", pairs([1, 2])).read_bytes()
    (tmp_path / "cut.tar").write_bytes(whole[:600])
    with refused("cut.tar: expected"):
        open_data(tmp_path / "cut.tar")
    with refused("b.tar, byte 512: expected an image"):
        open_data(shard(tmp_path / "b.tar", [("a.png", b"no"), ("a.cls", b"1")])).load(np.array([0]), SHAPE)


def test_links_of_shards_lead_nowhere(tmp_path: Path) -> None:
    (tmp_path / "secret.png").write_bytes(png(9))
    with tarfile.open(tmp_path / "a.tar", "w:") as archive:
        for kind, name in (
            (tarfile.SYMTYPE, "a.png"),
            (tarfile.LNKTYPE, "b.png"),
            (tarfile.CHRTYPE, "c.png"),
        ):
            info = tarfile.TarInfo(name)
            info.type, info.linkname = kind, str(tmp_path / "secret.png")
            archive.addfile(info)
    with refused("got 0 images and 0 labels"):
        open_data(tmp_path / "a.tar")


# Studies and the command.


def test_the_probe_reads_them(fake: Callable[..., type[Fake]], tmp_path: Path) -> None:
    """On a published split, and from a table to the same numbers as from the folder that it lists."""
    fake("SVHN", there=True, name="labels")
    report = sb.studies.robust_linear_probe("builtin:linear?dim=5", "svhn", attack=False, input_shape=SHAPE)
    assert (report.data.name, report.data.train, report.data.test) == ("svhn", 10, 10)
    lines = ["file,label"]
    for level in range(12):
        place = tmp_path / "f" / "ab"[level % 2]
        place.mkdir(parents=True, exist_ok=True)
        (place / f"{level:02d}.png").write_bytes(png(level))
    files = sorted((tmp_path / "f").glob("*/*.png"))
    lines += [f"{one.relative_to(tmp_path)},{one.parent.name}" for one in files]
    (tmp_path / "t.csv").write_text("\n".join(lines), encoding="utf-8")
    options: dict[str, Any] = {"attack": False, "input_shape": SHAPE}
    read = [
        sb.studies.robust_linear_probe("builtin:linear?dim=5", tmp_path / name, **options)
        for name in ("f", "t.csv")
    ]
    assert read[0].probes == read[1].probes and read[0].data.sha256 == read[1].data.sha256


def test_terms_of_use_are_said_once(fake: Callable[..., type[Fake]], monkeypatch: pytest.MonkeyPatch) -> None:
    fake("SVHN", there=True, name="labels")
    arguments = ["builtin:linear?dim=5", "--data", "svhn", "--input-shape", "3,8,6", "--no-attack"]
    done = CliRunner().invoke(cli.app, ["study", "linear-probe", *arguments])
    assert done.exit_code == 0, done.stderr
    line = "data svhn: terms of use: non-commercial use only (Netzer et al., 2011)"
    assert done.stderr.count("terms of use") == 1 and line in done.stderr.splitlines()
    assert "terms" not in CliRunner().invoke(cli.app, ["study", "linear-probe", *arguments, "--quiet"]).stderr
    assert catalogue.terms("digits") == "" and "its page on the Hub" in catalogue.terms("hf:a/b")
    assert all(catalogue.terms(name) for name in catalogue.NAMED)
