"""Labelled data sets for validation: those of the robust probe, and patches of scikit-learn's two photographs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from synbench_fast.errors import SynbenchError, suggest
from synbench_fast.runtime.optional import optional
from synbench_fast.studies.labelled_data import Samples, Split, open_data, split

__all__ = ["BUNDLED", "PHOTO_SHAPE", "DataSet", "open_data_sets", "photo_patches"]

BUNDLED = ("digits", "photos")
PHOTO_SHAPE = (3, 8, 8)
_REDUCTION = 2  # pixels averaged along each axis, so that a patch shows more than a blur

DataSource = str | Path | tuple[Any, Any]


@dataclass(frozen=True)
class DataSet:
    """A named data set, what `robust_linear_probe` reads it from, and the split that it makes of it."""

    name: str
    source: DataSource
    samples: Samples
    split: Split
    bundled: bool = False  # one of BUNDLED under its own name

    def parts(self, shape: tuple[int, ...], spec: str) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Train x and y and test x and y as an encoder of this input shape reads them."""
        held = self.samples.shape
        if held is not None and held != shape:
            raise SynbenchError(
                f"{self.name}: expected inputs {shape} for {spec}, got {held}; "
                "--input-shape (input_shape=) asks the encoder for another"
            )
        rows = (self.split.train, self.split.test)
        train, test = (self.samples.load(one, shape) for one in rows)
        train_y, test_y = (torch.from_numpy(self.samples.y[one]) for one in rows)
        return train, train_y, test, test_y


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


def open_data_sets(
    data: DataSource | Sequence[DataSource] | Mapping[str, DataSource],
    *,
    test_fraction: float,
    most: int | None,
    seed: int,
) -> list[DataSet]:
    """One or several data sets, each split; a mapping names them.

    A tuple is the arrays (x, y) of one data set unless it holds names or paths.

    Raises:
        SynbenchError: one line that names the data set: unknown, of one class, too small, given twice.
    """
    named: list[tuple[str, DataSource]]
    if isinstance(data, Mapping):
        named = [(str(name), one) for name, one in data.items()]
    else:
        arrays = isinstance(data, tuple) and not all(isinstance(one, str | Path | tuple) for one in data)
        several: Any = [data] if arrays or isinstance(data, str | Path) else list(data)
        named = [(_name(one, number), one) for number, one in enumerate(several, 1)]
    if not named:
        raise SynbenchError("data: expected at least one data set, got none")
    names = [name for name, _ in named]
    for name in names:
        if names.count(name) > 1:
            raise SynbenchError(f"data: expected different data sets, got {name!r} twice")
    opened = []
    for name, source in named:
        bundled = source in BUNDLED and source == name if isinstance(source, str) else False
        if source == "photos":
            source = photo_patches()
        elif isinstance(source, str) and source not in BUNDLED and not Path(source).exists():
            hint = suggest(source, BUNDLED)
            raise SynbenchError(
                f"data: expected {' or '.join(BUNDLED)}, an image folder, a .npz or a .parquet file, "
                f"got {source!r}{hint}"
            )
        samples = open_data(source)
        try:
            parts = split(samples, test_fraction=test_fraction, most=most, seed=seed)
        except SynbenchError as error:
            raise SynbenchError(f"{name}: {str(error).removeprefix('data: ')}") from None
        opened.append(DataSet(name, source, samples, parts, bundled))
    return opened


def _name(source: DataSource, number: int) -> str:
    return f"arrays {number}" if isinstance(source, tuple) else str(source)
