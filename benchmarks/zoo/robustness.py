"""Does anything that sees no data predict how small a change of an image turns a linear probe's answer?

A linear discriminant is fitted to images of K classes. For images that it did not see, a small l2 change of the pixels is
searched that turns a right answer wrong, as in `study robustness`. Once with labelled images, which gives what is to be predicted: the share of images that are still right
within each radius, mean over the data sets of a half. And once with the classes of the structure score, drawn by the
package: the same shares, the median radius, and the median first-order radius (margin / |gradient of the margin|), which
costs one backward pass. Intervals as in `validity`.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Sequence
from functools import cache as kept
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from synbench_fast.studies.robustness import LinearHead, smallest_change
from synbench_fast.tasks.structure import STRUCTURE
from zoo import Data, Entry
from zoo.halves import HELD_OUT
from zoo.validity import ALL, HALVES, Cell, load, spearman

Row = dict[str, Any]
Forward = Callable[[Tensor], Tensor]

RADII = (0.1, 0.25, 0.5, 1.0)
SETS = ("emoji", "fashion", "photographs", "stamps")  # two of each half, photographs and drawings
TRAIN, TEST = 300, 48


def _summary(module: Forward, train: tuple[Tensor, Tensor], test: tuple[Tensor, Tensor]) -> dict[str, Any]:
    with torch.no_grad():
        features = torch.cat([module(part).float() for part in train[0].split(50)])
    head = LinearHead(features, train[1])
    length, first = smallest_change(lambda x: head(module(x).float()), *test)
    right = first > 0
    return {
        "accuracy": float(right.float().mean()),
        "robust": [float((length > radius).float().mean()) for radius in RADII],
        "radius": float(length[right].median()) if bool(right.any()) else 0.0,
        "first": float(first[right].median()) if bool(right.any()) else 0.0,
    }


def _parts(one: Data) -> tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor]]:
    order = torch.from_numpy(np.random.default_rng(0).permutation(len(one.labels)))
    train, test = order[:TRAIN], order[-TEST:]
    return (one.images[train], one.labels[train]), (one.images[test], one.labels[test])


@kept
def _drawn(size: int) -> dict[str, tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor]]]:
    """For each family of the structure score, 20 classes: 20 images of each to fit, the next 3 to attack."""
    found = {}
    for family in STRUCTURE.families:
        both = []
        for at, count in ((0, 20), (20, 3)):
            images = [
                family.draw((3, size, size), STRUCTURE.seed, k, at, count) for k in range(family.classes)
            ]
            both.append((torch.cat(images), torch.arange(family.classes).repeat_interleave(count)))
        found[family.name] = (both[0], both[1])
    return found


def _file(cache: Path, size: int) -> Path:
    return cache / f"robustness-{size}.jsonl"


def rows(cache: Path, size: int) -> list[Row]:
    """What was measured so far."""
    file = _file(cache, size)
    return load(file) if file.exists() else []


def measure(entries: Sequence[Entry], sets: Sequence[Data], cache: Path, size: int) -> None:
    """Append the rows of networks that are missing. An encoder that fails is named and left out."""
    done = {row["encoder"] for row in rows(cache, size)}
    for entry in entries:
        if entry.kind != "network" or entry.name in done:
            continue
        try:
            module = entry.module
            row = {
                "encoder": entry.name,
                "real": {
                    one.name: {"half": one.half, **_summary(module, *_parts(one))}
                    for one in sets
                    if one.name in SETS
                },
                "drawn": {name: _summary(module, *parts) for name, parts in _drawn(size).items()},
            }
        except (ValueError, RuntimeError, KeyError, OSError) as error:
            print(f"{entry.name}: {type(error).__name__}: {error}", flush=True)
        else:
            with _file(cache, size).open("a") as stream:
                stream.write(json.dumps(row) + "\n")
            print(f"{entry.name}: robustness", flush=True)
        entry.close()


# ---------------------------------------------------------------- tables


def _target(row: Row, half: str, place: int) -> float:
    """Mean share of images that are right within a radius, over the data sets of a half."""
    found = [one["robust"][place] for one in row["real"].values() if half in (ALL, one["half"])]
    return float(np.mean(found))


def _drawn_mean(key: str, place: int | None = None) -> Callable[[Row], float]:
    def value(row: Row) -> float:
        found = [one[key] if place is None else one[key][place] for one in row["drawn"].values()]
        return float(
            np.mean(np.log(np.maximum(found, 1e-6)) if place is None and key != "accuracy" else found)
        )

    return value


def _of_family(name: str, place: int | None, row: Row) -> float:
    """Of one family of drawn classes: the share that is right within a radius, or the log of the first-order radius."""
    found = row["drawn"][name]
    return float(found["robust"][place] if place is not None else math.log(max(found["first"], 1e-6)))


def predictors(place: int) -> dict[str, Callable[[Row], float]]:
    """By name: what is computed from a row that joins `validity` and this module."""
    found = {
        "accuracy on drawn classes": _drawn_mean("accuracy"),
        "accuracy on drawn classes within the radius": _drawn_mean("robust", place),
        "log median radius, drawn classes": _drawn_mean("radius"),
        "log median first-order radius, drawn classes": _drawn_mean("first"),
        "structure score": lambda row: row["structure"][0] if "structure" in row else math.nan,
        "published score, eps 0.2": lambda row: _number(row.get("published", {}).get("0.2")),
        "parameters": lambda row: row["parameters"],
        "accuracy of a probe without attack": lambda row: float(
            np.mean([one["accuracy"] for one in row["real"].values()])
        ),
    }
    for name in [one.name for one in STRUCTURE.families]:
        found[f"{name} within the radius"] = partial(_of_family, name, place)
        found[f"{name}, log median first-order radius"] = partial(_of_family, name, None)
    return found


def _number(value: Sequence[float | None] | None) -> float:
    return math.nan if value is None or value[0] is None else float(value[0])


SUMMARY = (
    "accuracy on drawn classes within the radius",
    "log median first-order radius, drawn classes",
    "structure score",
    "published score, eps 0.2",
    "accuracy of a probe without attack",
)


def coefficient(
    found: Sequence[Row], half: str, data: str, radius: float, value: Callable[[Row], float]
) -> str:
    """Spearman's coefficient of a predictor with the share that is right within the radius, and its interval."""
    cell, place = Cell(found, half, ALL), RADII.index(radius)
    x = np.array([value(row) for row in cell.rows], dtype=float)
    y = np.array([_target(row, data, place) for row in cell.rows])
    known = np.isfinite(x)
    if known.sum() < 3 or np.ptp(x[known]) == 0:
        return "-"
    weights = np.vstack([np.ones(known.sum()), cell.weights[:, known]])
    values = spearman(x[known], y[known], weights[weights.sum(1) > 0])
    low, high = np.nanpercentile(values[1:], [2.5, 97.5])
    return f"{values[0]:+.2f} ({low:+.2f} to {high:+.2f})"


def table(found: Sequence[Row], half: str, radius: float) -> str:
    """The coefficients of every predictor, by the half of the data sets."""
    lines = [
        f"| {half} encoders, radius {radius:g} | " + " | ".join(f"{data} data" for data in HALVES) + " |"
    ]
    lines.append("| --- " * (len(HALVES) + 1) + "|")
    for name, value in predictors(RADII.index(radius)).items():
        cells = [coefficient(found, half, data, radius, value) for data in HALVES]
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def summary(found: Sequence[Row], radius: float = 0.25) -> str:
    """The main predictors on held-out encoders and data sets, and on all."""
    known = predictors(RADII.index(radius))
    lines = ["| | held-out encoders and data | all encoders and data |", "| --- | --- | --- |"]
    for name in SUMMARY:
        cells = [coefficient(found, half, half, radius, known[name]) for half in (HELD_OUT, ALL)]
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def joined(found: Sequence[Row], validity: Sequence[Row]) -> list[Row]:
    """Rows of both, for the networks that have both."""
    by = {row["encoder"]: row for row in validity}
    return [by[row["encoder"]] | row for row in found if row["encoder"] in by]


def report(found: Sequence[Row]) -> str:
    tables = [table(found, half, radius) for radius in (0.25, 0.5) for half in HALVES]
    return "\n\n".join([f"{len(found)} networks, radius 0.25\n\n{summary(found)}", *tables])
