"""Labelled data for studies: named data sets, image folders, .npz, .parquet, .csv and .tar files, arrays.

Every input is float32 in [0, 1]; integers of 8 bits are divided by 255. Nothing is unpickled, and of an archive nothing
is written to disk.
"""

from __future__ import annotations

import csv
import math
import tarfile
import zipfile
from collections.abc import Callable, Iterator, Sequence
from os.path import isfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from synbench_fast.engine.environment import memory_bytes
from synbench_fast.errors import SynbenchError, first_line, suggest
from synbench_fast.runtime.optional import optional
from synbench_fast.studies.catalogue import HUB, KINDS, NAMED, data_names
from synbench_fast.studies.images import MOST_BYTES, SUFFIXES, decoded, fitted, read_image
from synbench_fast.studies.named_data import open_hub, open_named
from synbench_fast.studies.samples import Samples, Split, labels_of, split

__all__ = ["PHOTO_SHAPE", "Samples", "Split", "open_data", "photo_patches", "split"]

PHOTO_SHAPE = (3, 8, 8)
_REDUCTION = 2  # pixels averaged along each axis, so that a patch shows more than a blur
MOST_MEMBERS = 10_000_000  # of the shards of a data set
_LABEL_BYTES = 64  # of a label in a shard


def open_data(data: str | Path | tuple[Any, Any]) -> Samples:
    """The data set behind a name or path, or x and y themselves; SynbenchError if there is none."""
    if isinstance(data, tuple):
        if len(data) != 2:
            raise SynbenchError(f"data: expected (x, y), got {len(data)} values")
        return _arrays("arrays", np.asarray(data[0]), np.asarray(data[1]))
    name, path = str(data), Path(data)
    if name == "digits":
        return _digits()
    if name == "photos":
        return _arrays(name, *photo_patches())
    if name in NAMED:
        return open_named(name)
    if name.startswith(HUB):
        return open_hub(name, name.removeprefix(HUB))
    if path.is_dir():
        return _shards(path, shards) if (shards := _shards_in(path)) else _folder(path)
    if path.is_file():
        if path.suffix in _READERS:
            return _READERS[path.suffix](path)
        raise SynbenchError(f"data: expected {KINDS}, got {name!r}")
    if path.suffix or len(path.parts) > 1:
        raise SynbenchError(
            f"data: expected an existing file or folder, got {name!r}{suggest(name, data_names())}"
        )
    raise SynbenchError(f"data: expected {KINDS}, got {name!r}{suggest(name, data_names())}")


def _arrays(name: str, x: NDArray[Any], y: NDArray[Any]) -> Samples:
    if x.ndim < 2 or x.dtype.kind not in "fu" or (x.dtype.kind == "u" and x.dtype != np.uint8):
        raise SynbenchError(f"x: expected floats or uint8 [N, ...], got {x.dtype} {list(x.shape)}")
    if len(x) != len(y):
        raise SynbenchError(f"y: expected {len(x)} labels as there are inputs, got {len(y)}")
    if len(x) == 0:
        raise SynbenchError("x: expected at least one input, got none")
    if x.size == 0:
        raise SynbenchError(f"x: expected at least one number in each input, got {list(x.shape)}")
    if x.dtype == np.uint8:
        x = x.astype(np.float32) / 255
    low, high = float(x.min()), float(x.max())
    if not (low >= 0 and high <= 1):
        raise SynbenchError(f"x: expected values in [0, 1] or uint8, got {low:g} to {high:g}")
    labels, classes = labels_of(y, "y")
    shape = tuple(x.shape[1:])
    held = torch.from_numpy(np.ascontiguousarray(x, dtype=np.float32))

    def load(rows: NDArray[np.int64], wanted: tuple[int, ...]) -> Tensor:
        return held[torch.from_numpy(rows)]

    return Samples(name, shape, labels, classes, load)


def _digits() -> Samples:
    datasets = optional("sklearn.datasets", "scikit-learn", "demo")
    images, y = datasets.load_digits(return_X_y=True)
    held = torch.from_numpy((images / 16).astype(np.float32).reshape(-1, 1, 8, 8))
    labels, classes = labels_of(y, "y")

    def load(rows: NDArray[np.int64], wanted: tuple[int, ...]) -> Tensor:
        return fitted(held[torch.from_numpy(rows)], wanted)

    return Samples("digits", None, labels, classes, load)


def photo_patches() -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Patches of scikit-learn's two sample photographs: x float32 [2080, 3, 8, 8] in [0, 1], y 0 or 1.

    Each photograph (427 x 640) is reduced by 2 and cut into 26 x 40 patches that do not overlap; the label says
    which photograph a patch is from. No pixel lies in two patches, so train and test parts share none; patches
    that touch are alike all the same.
    """
    datasets = optional("sklearn.datasets", "scikit-learn", "demo")
    size = PHOTO_SHAPE[1]
    x, y = [], []
    for label, image in enumerate(datasets.load_sample_images().images):
        height, width = (n // _REDUCTION // size for n in image.shape[:2])
        cut = image[: height * size * _REDUCTION, : width * size * _REDUCTION].astype(np.float64) / 255
        cut = cut.reshape(height * size, _REDUCTION, width * size, _REDUCTION, 3).mean(axis=(1, 3))
        patches = cut.reshape(height, size, width, size, 3).transpose(0, 2, 4, 1, 3)
        x.append(patches.reshape(-1, *PHOTO_SHAPE).astype(np.float32))
        y += [label] * (height * width)
    return np.concatenate(x), np.array(y, dtype=np.int64)


def _check_member(archive: zipfile.ZipFile, key: str, path: Path) -> None:
    """SynbenchError for an array whose header promises more than the file has, or than this machine's memory.

    NumPy allocates what the header says before it reads the first number.
    """
    name = key if key in archive.namelist() else f"{key}.npy"
    size = archive.getinfo(name).file_size
    with archive.open(name) as member:
        version = np.lib.format.read_magic(member)
        read = (
            np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        )
        shape, _, dtype = read(member)
    wanted = math.prod(shape) * dtype.itemsize
    if not 0 <= wanted <= size:
        raise SynbenchError(f"{path}: {key}: expected {wanted} bytes as its header says, got {size}")
    room = memory_bytes()
    if wanted > room > 0:
        raise SynbenchError(f"{path}: {key}: expected at most the {room} bytes of this machine, got {wanted}")


def _npz(path: Path) -> Samples:
    try:
        # NumPy does not close what it opened where it then finds no archive.
        with path.open("rb") as file, np.load(file, allow_pickle=False) as stored:
            if not isinstance(stored, np.lib.npyio.NpzFile) or stored.zip is None:
                raise SynbenchError(f"{path}: expected a .npz file, got a single array")
            missing = [key for key in ("x", "y") if key not in stored]
            if missing:
                raise SynbenchError(
                    f"{path}: expected arrays x and y, got {', '.join(stored.files) or 'none'}"
                )
            for key in ("x", "y"):
                _check_member(stored.zip, key, path)
            x, y = stored["x"], stored["y"]
    except SynbenchError:
        raise
    except Exception as error:  # zipfile, zlib and NumPy's header parser each raise their own
        raise SynbenchError(f"{path}: expected arrays without pickles, got {first_line(error)}") from None
    try:
        return _arrays(str(path), x, y)
    except SynbenchError as error:
        raise SynbenchError(f"{path}: {error}") from None


def _parquet(path: Path) -> Samples:
    parquet = optional("pyarrow.parquet", "pyarrow", "parquet")
    try:
        table = parquet.read_table(path)
    except Exception as error:  # Arrow has errors of its own beside OSError and ValueError
        raise SynbenchError(f"{path}: expected a parquet file, got {first_line(error)}") from None
    names = table.column_names
    inputs = next((one for one in ("image", "x") if one in names), None)
    labels = next((one for one in ("label", "y") if one in names), None)
    if inputs is None or labels is None:
        raise SynbenchError(
            f"{path}: expected columns image or x, and label or y, got {', '.join(names) or 'none'}"
        )
    marks = table.column(labels)
    if marks.null_count or table.column(inputs).null_count:
        raise SynbenchError(f"{path}: expected no missing values, got some")
    y, classes = labels_of(np.array(marks.to_pylist()), f"{path}: {labels}")
    cells = table.column(inputs)
    if inputs == "image":

        def load_images(rows: NDArray[np.int64], wanted: tuple[int, ...]) -> Tensor:
            chosen = (cells[int(row)].as_py() for row in rows)
            raw = (cell["bytes"] if isinstance(cell, dict) and "bytes" in cell else cell for cell in chosen)
            return torch.stack([decoded(one, wanted, str(path)) for one in raw])

        return Samples(str(path), None, y, classes, load_images)
    try:
        flat = np.array(cells.to_pylist(), dtype=np.float32)
    except (TypeError, ValueError):
        raise SynbenchError(f"{path}: x: expected lists of numbers of one length, got others") from None
    try:
        whole = _arrays(str(path), flat, np.asarray(y))
    except SynbenchError as error:
        raise SynbenchError(f"{path}: {error}") from None

    def load(rows: NDArray[np.int64], wanted: tuple[int, ...]) -> Tensor:
        size = int(np.prod(wanted))
        if flat.shape[1] != size:
            raise SynbenchError(
                f"{path}: x: expected {size} numbers per row for input_shape {wanted}, got {flat.shape[1]}"
            )
        return whole.load(rows, wanted).reshape(len(rows), *wanted)

    return Samples(str(path), None, y, classes, load)


def _folder(path: Path) -> Samples:
    datasets = optional("torchvision.datasets", "torchvision", "torchvision")
    try:
        found = datasets.ImageFolder(str(path))
    except (OSError, ValueError) as error:
        raise SynbenchError(
            f"data: expected one folder of images per class, got {first_line(error)}"
        ) from None

    def load(rows: NDArray[np.int64], wanted: tuple[int, ...]) -> Tensor:
        files = [Path(found.samples[int(row)][0]) for row in rows]
        return torch.stack([read_image(one, wanted) for one in files])

    return Samples(str(path), None, np.array(found.targets, dtype=np.int64), list(found.classes), load)


def _table(path: Path) -> Samples:
    """A CSV of image files, relative to its folder, and their labels; a column `split` marks the test part."""
    try:
        with path.open(encoding="utf-8-sig", newline="") as stream:
            reader = csv.DictReader(stream, strict=True)
            columns, rows = reader.fieldnames or (), list(reader)
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise SynbenchError(f"{path}: expected a CSV file, got {first_line(error)}") from None
    if not {"file", "label"} <= set(columns) or not rows:
        raise SynbenchError(
            f"{path}: expected columns file and label and at least one row, got {', '.join(columns) or 'none'}"
        )
    parts = {str(row["split"]) for row in rows} if "split" in columns else set()
    if not all(row["file"] and row["label"] for row in rows) or not parts <= {"train", "test"}:
        raise SynbenchError(
            f"{path}: expected a file, a label and, in split, train or test in every row, got others"
        )
    seen = set[Path]()
    for file in (path.parent / row["file"] for row in rows):
        if file in seen:  # one copy could train and the other test
            raise SynbenchError(f"{path}: expected every file once, got {str(file)!r} again")
        if not isfile(file):  # False also for a name that is too long for the system
            raise SynbenchError(f"{path}: expected image files, got no such file as {str(file)!r}")
        seen.add(file)
    y, classes = labels_of(np.array([row["label"] for row in rows]), f"{path}: label")

    def load(chosen: NDArray[np.int64], wanted: tuple[int, ...]) -> Tensor:
        return torch.stack([read_image(path.parent / rows[int(row)]["file"], wanted) for row in chosen])

    test = np.array([row["split"] == "test" for row in rows]) if parts else None
    return Samples(str(path), None, y, classes, load, test)


def _shards_in(folder: Path) -> list[Path]:
    """WebDataset shards of a folder: those in it, or those in its folders train and test."""
    return sorted(folder.glob("*.tar")) or sorted(
        one for part in ("train", "test") for one in (folder / part).glob("*.tar")
    )


def _members(shard: Path) -> Iterator[tuple[str, str, int, int]]:
    """Key, lower-case ending, place and size of every plain file in a .tar; links, devices and sparse files are none."""
    length = shard.stat().st_size
    with tarfile.open(shard, "r:") as archive:
        for one in archive:
            if one.type not in (tarfile.REGTYPE, tarfile.AREGTYPE) or one.sparse is not None:
                continue
            if one.offset_data + one.size > length:
                raise SynbenchError(f"{shard}: expected a whole file, got a part that ends in {one.name!r}")
            folder, _, file = one.name.rpartition("/")
            stem, _, ending = file.partition(".")
            yield f"{folder}/{stem}", f".{ending.lower()}", one.offset_data, one.size


def _shards(path: Path, shards: Sequence[Path]) -> Samples:
    """WebDataset: files KEY.jpg (or another image) and KEY.cls of one name belong together; shards in test/ are tests."""
    images: list[tuple[int, int, int]] = []  # number of the shard, place and size of the image
    marks: list[str] = []
    for number, shard in enumerate(shards):
        found: dict[str, tuple[int, int]] = {}
        labels: dict[str, str] = {}
        try:
            with shard.open("rb") as stream:
                for count, (key, ending, place, size) in enumerate(_members(shard)):
                    if count + len(images) > MOST_MEMBERS:
                        raise SynbenchError(f"{shard}: expected at most {MOST_MEMBERS} files, got more")
                    if ending in SUFFIXES and size <= MOST_BYTES:
                        if key in found:
                            raise SynbenchError(
                                f"{shard}: expected one image of a name, got two of {key.lstrip('/')!r}"
                            )
                        found[key] = (place, size)
                    elif ending == ".cls" and size <= _LABEL_BYTES:
                        stream.seek(place)
                        if mark := stream.read(size).decode("utf-8").strip():
                            labels[key] = mark
        except (OSError, ValueError, tarfile.TarError, OverflowError) as error:
            if isinstance(error, SynbenchError):
                raise
            raise SynbenchError(
                f"{shard}: expected an uncompressed .tar file, got {first_line(error)}"
            ) from None
        if not found or found.keys() != labels.keys():
            single = sorted(found.keys() ^ labels.keys())
            alone = f", only one of them for {single[0].lstrip('/')!r}" if single else ""
            raise SynbenchError(
                f"{shard}: expected an image and a .cls file of every name, got {len(found)} images and "
                f"{len(labels)} labels{alone}"
            )
        images += [(number, *found[key]) for key in found]
        marks += [labels[key] for key in found]
    plain = all(one.isdecimal() and one.isascii() for one in marks)
    y, classes = labels_of(np.array([int(one) for one in marks] if plain else marks), f"{path}: labels")
    in_test = [shard.parent != path and shard.parent.name == "test" for shard in shards]
    test = np.array([in_test[number] for number, _, _ in images]) if any(in_test) else None

    def load(rows: NDArray[np.int64], wanted: tuple[int, ...]) -> Tensor:
        made = []
        for number, place, size in (images[int(row)] for row in rows):
            with shards[number].open("rb") as stream:
                stream.seek(place)
                made.append(decoded(stream.read(size), wanted, f"{shards[number]}, byte {place}"))
        return torch.stack(made)

    return Samples(str(path), None, y, classes, load, test)


_READERS: dict[str, Callable[[Path], Samples]] = {
    ".npz": _npz,
    ".parquet": _parquet,
    ".csv": _table,
    ".tar": lambda path: _shards(path, [path]),
}
