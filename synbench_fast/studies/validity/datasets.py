"""The labelled data sets of a validation, each with its split."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from synbench_fast.errors import SynbenchError
from synbench_fast.studies.catalogue import BUNDLED, several
from synbench_fast.studies.labelled_data import open_data
from synbench_fast.studies.samples import Samples, Split, split

__all__ = ["DataSet", "DataSource", "open_data_sets"]

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


def open_data_sets(
    data: DataSource | Sequence[DataSource] | Mapping[str, DataSource],
    *,
    test_fraction: float,
    most: int | None,
    seed: int,
) -> list[DataSet]:
    """One or several data sets, each split; a mapping names them, and "vtab" stands for its 19.

    A tuple is the arrays (x, y) of one data set unless it holds names or paths.

    Raises:
        SynbenchError: one line that names the data set: unknown, of one class, too small, given twice.
    """
    named: list[tuple[str, DataSource]]
    if isinstance(data, Mapping):
        named = [(str(name), one) for name, one in data.items()]
    else:
        arrays = isinstance(data, tuple) and not all(isinstance(one, str | Path | tuple) for one in data)
        given: Any = (
            several([data])
            if isinstance(data, str)
            else [data]
            if arrays or isinstance(data, Path)
            else several(data)
        )
        named = [(_name(one, number), one) for number, one in enumerate(given, 1)]
    if not named:
        raise SynbenchError("data: expected at least one data set, got none")
    names = [name for name, _ in named]
    for name in names:
        if names.count(name) > 1:
            raise SynbenchError(f"data: expected different data sets, got {name!r} twice")
    opened = []
    for name, source in named:
        bundled = source in BUNDLED and source == name if isinstance(source, str) else False
        samples = open_data(source)
        try:
            parts = split(samples, test_fraction=test_fraction, most=most, seed=seed)
        except SynbenchError as error:
            raise SynbenchError(f"{name}: {str(error).removeprefix('data: ')}") from None
        opened.append(DataSet(name, source, samples, parts, bundled))
    return opened


def _name(source: DataSource, number: int) -> str:
    return f"arrays {number}" if isinstance(source, tuple) else str(source)
