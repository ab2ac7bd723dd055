"""Labelled data for studies: scikit-learn's digits, image folders, .npz and .parquet files, arrays.

Every input is float32 in [0, 1]; integers of 8 bits are divided by 255. Nothing is unpickled.
"""

from __future__ import annotations

import io
import math
import warnings
import zipfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from synbench_fast.engine.environment import memory_bytes
from synbench_fast.errors import SynbenchError, first_line, suggest
from synbench_fast.runtime.optional import optional

__all__ = ["IMAGE_FORMATS", "Samples", "Split", "open_data", "split", "unlabelled_images"]

NAMES = ("digits",)
KINDS = "'digits', an image folder, a .npz or a .parquet file"
# What Pillow may open an image as, whatever the file is called: it has decoders that start other programs.
IMAGE_FORMATS = ("BMP", "JPEG", "PNG", "PPM", "TIFF", "WEBP")
_SUFFIXES = (".bmp", ".jpeg", ".jpg", ".png", ".ppm", ".tif", ".tiff", ".webp")
FEWEST = 4  # samples of a class, of which at least two train and one tests


@dataclass(frozen=True)
class Samples:
    """Labels y [N] in 0 ... K - 1 of `classes`, and `load(rows, shape)`, which gives x [len(rows), *shape].

    `shape` is that of one input where the data fix it; None where they are images, which take the encoder's.
    """

    name: str
    shape: tuple[int, ...] | None
    y: NDArray[np.int64]
    classes: list[str]
    load: Callable[[NDArray[np.int64], tuple[int, ...]], Tensor]


@dataclass(frozen=True)
class Split:
    """Rows of the train and of the test part."""

    train: NDArray[np.int64]
    test: NDArray[np.int64]


def open_data(data: str | Path | tuple[Any, Any]) -> Samples:
    """The data set behind a name or path, or x and y themselves; SynbenchError if there is none."""
    if isinstance(data, tuple):
        if len(data) != 2:
            raise SynbenchError(f"data: expected (x, y), got {len(data)} values")
        return _arrays("arrays", np.asarray(data[0]), np.asarray(data[1]))
    name, path = str(data), Path(data)
    if name == "digits":
        return _digits()
    if path.is_dir():
        return _folder(path)
    if path.is_file():
        if path.suffix == ".npz":
            return _npz(path)
        if path.suffix == ".parquet":
            return _parquet(path)
        raise SynbenchError(f"data: expected {KINDS}, got {name!r}")
    if path.suffix or len(path.parts) > 1:
        raise SynbenchError(f"data: expected an existing file or folder, got {name!r}")
    raise SynbenchError(f"data: expected {KINDS}, got {name!r}{suggest(name, NAMES)}")


def split(samples: Samples, *, test_fraction: float, most: int | None, seed: int) -> Split:
    """A stratified split by `seed` alone; of more than `most` samples that many are drawn first.

    Every class gives round(test_fraction * n) of its n samples, at least 1, to the test part; FEWEST is needed.
    """
    random = np.random.default_rng(seed)
    order = random.permutation(len(samples.y))
    if most is not None:
        order = order[:most]
    labels = samples.y[order]
    counts = np.bincount(labels, minlength=len(samples.classes))
    if (counts > 0).sum() < 2:
        raise SynbenchError(f"data: expected at least 2 classes, got {int((counts > 0).sum())}")
    fewest = int(counts.argmin())
    if counts[fewest] < FEWEST:
        raise SynbenchError(
            f"data: expected at least {FEWEST} samples of every class, got {counts[fewest]} "
            f"of {samples.classes[fewest]!r}"
        )
    held = np.zeros(len(order), dtype=bool)
    for label, count in enumerate(counts):
        share = min(max(1, round(test_fraction * int(count))), int(count) - 2)
        held[np.flatnonzero(labels == label)[:share]] = True
    return Split(order[~held], order[held])


def _labels(values: NDArray[Any], name: str) -> tuple[NDArray[np.int64], list[str]]:
    if values.ndim != 1:
        raise SynbenchError(f"{name}: expected labels [N], got {list(values.shape)}")
    if values.dtype.kind not in "iubUS":
        raise SynbenchError(f"{name}: expected integers or text, got {values.dtype}")
    classes, y = np.unique(values, return_inverse=True)
    return y.astype(np.int64), [str(one) for one in classes]


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
    labels, classes = _labels(y, "y")
    shape = tuple(x.shape[1:])
    held = torch.from_numpy(np.ascontiguousarray(x, dtype=np.float32))

    def load(rows: NDArray[np.int64], wanted: tuple[int, ...]) -> Tensor:
        return held[torch.from_numpy(rows)]

    return Samples(name, shape, labels, classes, load)


def _digits() -> Samples:
    datasets = optional("sklearn.datasets", "scikit-learn", "demo")
    images, y = datasets.load_digits(return_X_y=True)
    held = torch.from_numpy((images / 16).astype(np.float32).reshape(-1, 1, 8, 8))
    labels, classes = _labels(y, "y")

    def load(rows: NDArray[np.int64], wanted: tuple[int, ...]) -> Tensor:
        return _fitted(held[torch.from_numpy(rows)], wanted)

    return Samples("digits", None, labels, classes, load)


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
    y, classes = _labels(np.array(marks.to_pylist()), f"{path}: {labels}")
    cells = table.column(inputs)
    if inputs == "image":

        def load_images(rows: NDArray[np.int64], wanted: tuple[int, ...]) -> Tensor:
            chosen = (cells[int(row)].as_py() for row in rows)
            raw = (cell["bytes"] if isinstance(cell, dict) and "bytes" in cell else cell for cell in chosen)
            return torch.stack([_decoded(one, wanted, str(path)) for one in raw])

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
        return torch.stack([_decoded(one.read_bytes(), wanted, str(one)) for one in files])

    return Samples(str(path), None, np.array(found.targets, dtype=np.int64), list(found.classes), load)


def unlabelled_images(
    folder: str | Path,
) -> tuple[list[Path], Callable[[NDArray[np.int64], tuple[int, ...]], Tensor]]:
    """The image files in a folder and its subfolders, by name, and `load(rows, shape)` as that of `Samples`.

    Raises:
        SynbenchError: no such folder; `load` names a file that is no image.
    """
    root = Path(folder)
    if not root.is_dir():
        raise SynbenchError(f"inputs: expected a folder of images, got {str(folder)!r}")
    files = sorted(one for one in root.rglob("*") if one.suffix.lower() in _SUFFIXES and one.is_file())

    def load(rows: NDArray[np.int64], wanted: tuple[int, ...]) -> Tensor:
        return torch.stack(
            [_decoded(files[int(row)].read_bytes(), wanted, str(files[int(row)])) for row in rows]
        )

    return files, load


def _decoded(raw: Any, shape: tuple[int, ...], name: str) -> Tensor:
    """Bytes of a PNG, JPEG, ... as float32 of `shape`: shorter side resized, centre cropped."""
    images = optional("PIL.Image", "pillow", "torchvision")
    _image_shape(shape)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", images.DecompressionBombWarning)
            with images.open(io.BytesIO(raw), formats=IMAGE_FORMATS) as opened:
                pixels = np.asarray(opened.convert("L" if shape[0] == 1 else "RGB"))
    except Exception as error:  # decoders raise what they like on damaged files
        raise SynbenchError(f"{name}: expected an image, got {first_line(error)}") from None
    if pixels.ndim == 2:
        pixels = pixels[:, :, None]
    x = torch.from_numpy(pixels.copy()).permute(2, 0, 1)[None].float() / 255
    return _fitted(x, shape)[0]


def _image_shape(shape: Sequence[int]) -> None:
    if len(shape) != 3 or shape[0] not in (1, 3):
        raise SynbenchError(
            f"input_shape: expected 1 or 3 channels, height and width for images, got {tuple(shape)}"
        )


def _fitted(x: Tensor, shape: tuple[int, ...]) -> Tensor:
    """Images [n, C, H, W] at `shape`: bilinear until they cover it, then the centre; grey is repeated."""
    _image_shape(shape)
    height, width = shape[1:]
    if tuple(x.shape[2:]) != (height, width):
        factor = max(height / x.shape[2], width / x.shape[3])
        size = [max(height, round(x.shape[2] * factor)), max(width, round(x.shape[3] * factor))]
        x = functional.interpolate(x, size=size, mode="bilinear", antialias=True, align_corners=False)
        top, left = (size[0] - height) // 2, (size[1] - width) // 2
        x = x[:, :, top : top + height, left : left + width].clamp(0, 1)
    return x if x.shape[1] == shape[0] else x.expand(-1, shape[0], -1, -1).contiguous()
