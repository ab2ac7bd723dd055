"""Factories of the zoo's encoders for the command line, to be named in the folder `benchmarks`:

    synbench-fast run python:zoo.factories:mobilenetv2 python:zoo.factories:colour_means

There is one for every encoder. Its name is that of the encoder with `_` for every other sign; that of a random twin
ends in `_twin`. `python -m zoo specs` lists them all. Packages that are missing are fetched into the folder that the
environment variable ZOO_CACHE names, `build/zoo` of the repository without it.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from pathlib import Path

from torch import Tensor, nn

from zoo import SIZE, Entry, encoders


class Model(nn.Module):
    """An encoder of images [B, 3, SIZE, SIZE] in [0, 1]."""

    input_shape = (3, SIZE, SIZE)

    def __init__(self, entry: Entry) -> None:
        super().__init__()
        self.encoder = entry.module  # a module, or the function of a trivial encoder

    def forward(self, x: Tensor) -> Tensor:
        return self.encoder(x)


def cache_folder() -> Path:
    """Where packages are kept."""
    return Path(os.environ.get("ZOO_CACHE") or Path(__file__).resolve().parents[2] / "build" / "zoo")


def identifier(encoder: str) -> str:
    """The name of the factory of an encoder."""
    return re.sub(r"\W+", "_", encoder).strip("_")


def spec(encoder: str) -> str:
    """How the command line names an encoder of the zoo."""
    return f"python:{__name__}:{identifier(encoder)}"


def _factory(entry: Entry) -> Callable[[], Model]:
    def make() -> Model:
        return Model(Entry(entry.name, entry.kind, entry.network, cache_folder(), entry.half))

    make.__name__ = make.__qualname__ = identifier(entry.name)
    make.__doc__ = f"{entry.name}, trained for {entry.trained_for}."
    return make


globals().update({identifier(one.name): _factory(one) for one in encoders(cache_folder())})
