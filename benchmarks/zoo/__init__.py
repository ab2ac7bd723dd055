"""Really pretrained encoders, their random twins, trivial encoders and labelled images, from package registries.

    import zoo
    for entry in zoo.encoders(cache):  # Entry: name, kind, task, trained_for, half, F, parameters; entry(x) -> [B, F]
        ...
    for name, images, labels in zoo.data(cache):
        ...
    table = zoo.probe_accuracies(cache)

Put `benchmarks/` on the module path. No part of this is in the wheel. The packages' licences are theirs: they are used
to measure, and nothing of them is kept but in the cache. Needs scikit-learn, Pillow, h5py, onnx, timm, torchvision.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from zoo import data as _data
from zoo.catalog import NETWORKS, UNPROBED, Network, build
from zoo.data import Data
from zoo.fetch import PACKAGES
from zoo.halves import network_halves
from zoo.trivial import TRIVIAL
from zoo.twins import twin

__all__ = [
    "Data",
    "Entry",
    "data",
    "encoders",
    "features",
    "half_of",
    "probe_accuracies",
    "unprobed_encoders",
]

SIZE = 64


class Entry:
    """An encoder: [B, 3, H, W] in [0, 1] or [B, 1, length], float32, to [B, F].

    The network is made at the first call; `close` drops it.
    """

    def __init__(self, name: str, kind: str, network: Network | None, cache: Path, half: str) -> None:
        self.name, self.kind, self.network, self.cache, self.half = name, kind, network, cache, half
        self.size = SIZE
        self.task = network.task if network else "none"
        self.trained_for = network.trained_for if network and kind == "network" else "nothing"
        self.licence = PACKAGES[network.package].licence if network else ""
        self.labels = bool(network and network.labels)

    @property
    def input_shape(self) -> tuple[int, ...]:
        """Of one image or waveform."""
        length = self.network.length if self.network else 0
        return (1, length) if length else (3, self.size, self.size)

    @cached_property
    def module(self) -> Any:
        """The torch module, or the function of a trivial encoder."""
        if self.network is None:
            return TRIVIAL[self.name]
        made = build(self.network, self.cache)
        return twin(made, self.name, self.input_shape) if self.kind == "twin" else made

    @cached_property
    def F(self) -> int:
        """Number of features."""
        return int(self(torch.full((1, *self.input_shape), 0.5)).shape[1])

    @cached_property
    def parameters(self) -> int:
        """Weights up to the features; 0 for a trivial encoder."""
        return (
            sum(one.numel() for one in self.module.parameters()) if isinstance(self.module, nn.Module) else 0
        )

    @torch.no_grad()
    def __call__(self, x: Tensor) -> Tensor:
        return self.module(x)

    def close(self) -> None:
        """Free the weights; the next call loads them again."""
        self.__dict__.pop("module", None)

    def __repr__(self) -> str:
        return f"Entry({self.name!r}, {self.kind!r}, trained_for={self.trained_for!r}, half={self.half!r})"


def half_of(name: str) -> str:
    """Half of a network or of its twin."""
    halves = network_halves((one.name, one.task, one.siblings, one.round) for one in NETWORKS)
    return halves[name.removesuffix(" (twin)")]


def encoders(cache: str | Path, kinds: Sequence[str] = ("network", "twin", "trivial")) -> list[Entry]:
    """Every encoder of these kinds; a network is followed by its twin, called 'NAME (twin)'."""
    cache, found = Path(cache), []
    for network in NETWORKS:
        half = half_of(network.name)
        found += [Entry(network.name, "network", network, cache, half)] if "network" in kinds else []
        found += [Entry(f"{network.name} (twin)", "twin", network, cache, half)] if "twin" in kinds else []
    if "trivial" in kinds:
        found += [Entry(name, "trivial", None, cache, "both") for name in TRIVIAL]
    return found


def unprobed_encoders(cache: str | Path) -> list[Entry]:
    """Every network without linear probes, and its twin. They have no half."""
    return [
        Entry(f"{one.name}{mark}", kind, one, Path(cache), "none")
        for one in UNPROBED
        for kind, mark in (("network", ""), ("twin", " (twin)"))
    ]


def data(cache: str | Path, size: int = SIZE) -> list[Data]:
    """Every data set; each unpacks to (name, images, labels)."""
    return [_data.load(name, Path(cache), size) for name in _data.SETS]


def features(entry: Entry, sets: Sequence[Data]) -> Iterator[tuple[Data, np.ndarray]]:
    """Features of each data set, kept in `CACHE/features/SIZE/`."""
    from zoo.probe import features_of

    for one in sets:
        place = entry.cache / "features" / str(one.images.shape[-1])
        file = place / f"{entry.name.replace(' ', '_')}.{one.name}.npy"
        if not file.exists():
            place.mkdir(parents=True, exist_ok=True)
            part = file.with_suffix(".part.npy")
            np.save(part, features_of(entry, one.images))
            part.rename(file)
        yield one, np.load(file)


def probe_accuracies(cache: str | Path, size: int = SIZE) -> list[dict[str, Any]]:
    """What `python -m zoo CACHE` measured: one row per encoder and data set; see `zoo.measure`."""
    from zoo.measure import rows

    return rows(Path(cache), size)
