"""Measure every encoder on every data set; finished rows are kept, so that a run can be broken off."""

from __future__ import annotations

import json
import math
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from zoo import Data, Entry, features
from zoo.catalog import NETWORKS
from zoo.fetch import PACKAGES
from zoo.probe import alpha_req, linear_accuracy, logme, neighbour_accuracy, rank_me

Row = dict[str, Any]


def _file(cache: Path, size: int) -> Path:
    return cache / f"accuracies-{size}.jsonl"


def rows(cache: Path, size: int) -> list[Row]:
    """One dictionary per encoder and data set.

    Keys: encoder, kind, task, trained_for, half, data, data_half, F, parameters, accuracy and error (LDA), logistic,
    knn, logme, rank_me, alpha_req.
    """
    file = _file(cache, size)
    return [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []


def _row(entry: Entry, one: Data, x: np.ndarray) -> Row:
    labels = one.labels.numpy()
    accuracy, error = linear_accuracy(x, labels)
    return {
        "encoder": entry.name, "kind": entry.kind, "task": entry.task, "trained_for": entry.trained_for,
        "half": entry.half, "data": one.name, "data_half": one.half, "F": int(x.shape[1]),
        "parameters": entry.parameters, "accuracy": accuracy, "error": error,
        "logistic": linear_accuracy(x, labels, kind="logistic", repeats=1)[0], "knn": neighbour_accuracy(x, labels),
        "logme": logme(x, labels), "rank_me": rank_me(x), "alpha_req": alpha_req(x),
    }  # fmt: skip


def measure(entries: Sequence[Entry], sets: Sequence[Data], cache: Path, size: int) -> None:
    """Append the rows that are missing. An encoder that fails is named and left out."""
    done = {(row["encoder"], row["data"]) for row in rows(cache, size)}
    for entry in entries:
        missing = [one for one in sets if (entry.name, one.name) not in done]
        if not missing:
            continue
        try:
            for one, x in features(entry, missing):
                if not np.isfinite(x).all():
                    raise ValueError(f"features of {one.name} are not finite")
                with _file(cache, size).open("a") as stream:
                    stream.write(json.dumps(_row(entry, one, x)) + "\n")
        except (ValueError, RuntimeError, KeyError, OSError) as error:
            print(f"{entry.name}: {type(error).__name__}: {error}", flush=True)
        else:
            print(entry.name, flush=True)
        entry.close()


def summary(found: Sequence[Row]) -> list[Row]:
    """Per encoder: mean accuracy over data sets with its error, beside the twin's, and the paired difference."""
    by: dict[str, dict[str, Row]] = defaultdict(dict)
    for row in found:
        by[row["encoder"]][row["data"]] = row
    lines = []
    for name, held in by.items():
        first = next(iter(held.values()))
        other = by.get(f"{name} (twin)", {})
        line = {key: first[key] for key in ("encoder", "kind", "trained_for", "half", "F", "parameters")}
        line["accuracy"] = float(np.mean([row["accuracy"] for row in held.values()]))
        line["error"] = math.sqrt(sum(row["error"] ** 2 for row in held.values())) / len(held)
        line["twin"] = (
            float(np.mean([other[one]["accuracy"] for one in held])) if set(held) <= set(other) else None
        )
        line["sets"] = len(held)
        lines.append(line)
    return sorted(lines, key=lambda line: -line["accuracy"])


def table(found: Sequence[Row]) -> str:
    """The networks and trivial encoders as a Markdown table, with the package that each is read from."""
    packages = {one.name: one.package for one in NETWORKS}
    lines = [
        "| encoder | trained for | package, licence | half | F | parameters | accuracy | twin |",
        "| --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    for line in summary(found):
        if line["kind"] != "twin":
            package = PACKAGES.get(packages.get(line["encoder"], ""))
            source = (
                f"{package.registry}: {package.name} {package.version}, {package.licence}" if package else "-"
            )
            other = "-" if line["twin"] is None else f"{line['twin']:.3f}"
            lines.append(
                f"| {line['encoder']} | {line['trained_for']} | {source} | {line['half']} | {line['F']} "
                f"| {line['parameters']} | {line['accuracy']:.3f} ± {line['error']:.3f} | {other} |"
            )
    return "\n".join(lines)
