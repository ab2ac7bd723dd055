"""Scores of encoders by the package's own functions; finished rows are kept, so that a run can be broken off.

structure  the structure score with preset quick, and its families
published  the published score: 6 of its scales, 2 F samples (at least 256), the mean over the published 49 scales
families   the score of each family alone, also for waveforms
choice     accuracies from which families, levels and ridge were chosen, on development encoders and trivial ones
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import synbench_fast as sb
from synbench_fast.stats.discriminant import ROUNDING, class_accuracy, left_out_distances
from synbench_fast.tasks.families import FAMILIES, Shift, Texture
from synbench_fast.tasks.structure import STRUCTURE
from zoo import Entry
from zoo.halves import HELD_OUT

Row = dict[str, Any]

EPS = (0.0, 0.2)
RIDGES = (0.01, 0.03, 0.1, 0.3, 1.0, 3.0)
TASKS = (
    ("texture", 0.33), ("texture", 0.67), ("shift", 0.0), ("shapes", 0.33), ("instances", 0.67),
    ("instances", 1.0), ("relations", 0.0), ("count", 0.0), ("symmetry", 0.0),
)  # fmt: skip
IMAGES = 20  # of each class
AUDIO_FAMILIES = (Texture(20, 0.33), Shift(20, 0.33))


def _model(entry: Entry) -> Any:
    return entry.module if isinstance(entry.module, torch.nn.Module) else entry


def structure(entry: Entry, size: int) -> Row:
    found = sb.structure_score(_model(entry), input_shape=(3, size, size), preset="quick", threads=1)
    families = {one.family: [one.score, one.stderr] for one in found.families}
    return {
        "structure": [found.score, found.stderr],
        "families": families,
        "images": found.images,
        "seconds": found.seconds,
    }


def published(entry: Entry, size: int) -> Row:
    found = sb.score(
        _model(entry), input_shape=(3, size, size), scales=6, samples=max(256, 2 * entry.F), eps=EPS,
        thresholds=(0.6,), average="published", estimator="consistent", threads=1,
    )  # fmt: skip
    scores = {f"{one.eps:g}": [one.score, one.stderr] for one in found.scores}
    return {"published": scores, "area": found.robust_area.value, "images": found.cost.images}


def families(entry: Entry, _: int) -> Row:
    """(accuracy - chance) / (1 - chance) and its standard error for each family of the structure score, preset quick.

    For waveforms the families are those that are defined for them. Their bands are at most 16 cycles per waveform, which
    is 20 Hz for the longest of them here, below what it was trained to hear.
    """
    found = {}
    for family in AUDIO_FAMILIES if len(entry.input_shape) == 2 else STRUCTURE.families:
        features, labels = [], torch.arange(family.classes).repeat_interleave(STRUCTURE.images)
        for k in range(family.classes):
            features.append(entry(family.draw(entry.input_shape, STRUCTURE.seed, k, 0, STRUCTURE.images)))
        made = class_accuracy(torch.cat(features), labels)
        found[family.name] = [made.skill, made.skill_stderr]
    kept = ("trained_for", "licence", "F", "parameters")
    return {key: getattr(entry, key) for key in kept} | {"families": found}


def family_table(rows: Sequence[Row]) -> str:
    """Every network that has a twin, with its scores and the twin's."""
    by = {row["encoder"]: row["families"] for row in rows}
    names = list(dict.fromkeys(name for row in rows for name in row["families"]))
    lines = [["encoder", "trained for", "licence", "F", "parameters", *names]]
    lines.append(["---"] * len(lines[0]))
    for row in rows:
        own, twin = row["families"], by.get(f"{row['encoder']} (twin)")
        if twin is not None:
            cells = [
                "{:.3f} ± {:.3f}, twin {:.3f} ± {:.3f}".format(*own[one], *twin[one]) if one in own else "-"
                for one in names
            ]
            known = [str(row[key]) for key in ("encoder", "trained_for", "licence", "F", "parameters")]
            lines.append([*known, *cells])
    return "\n".join("| " + " | ".join(one) + " |" for one in lines)


@cache
def _pictures(name: str, level: float, size: int) -> tuple[Tensor, Tensor]:
    """Images [n, 3, size, size] of a task and their labels: 20 classes, or as many as there are; 170 MB in all."""
    family = FAMILIES[name](classes=min(20, FAMILIES[name].most_classes), level=level)
    drawn = [family.draw((3, size, size), 0, one, 0, IMAGES) for one in range(family.classes)]
    return torch.cat(drawn), torch.arange(family.classes).repeat_interleave(IMAGES)


def choice(entry: Entry, size: int) -> Row:
    """Accuracy on left-out images for each task and ridge, with the features as they are and standardised."""
    made: dict[str, dict[str, list[float]]] = {}
    for name, level in TASKS:
        images, labels = _pictures(name, level, size)
        x = torch.cat([entry(part) for part in images.split(50)]).flatten(1).double()
        deviation = x.std(0)
        live = deviation > ROUNDING * x.abs().amax(0)
        forms = {"raw": x, "standardised": x[:, live] / deviation[live]}
        made[f"{name}@{level:g}"] = {
            form: left_out_distances(one, labels, RIDGES).right.mean(1).tolist()
            for form, one in forms.items()
        }
    return {"choice": made}


STEPS: dict[str, Callable[[Entry, int], Row]] = {
    "structure": structure,
    "published": published,
    "choice": choice,
    "families": families,
}


def _file(cache: Path, step: str, size: int) -> Path:
    return cache / f"{step}-{size}.jsonl"


def rows(cache: Path, step: str, size: int) -> list[Row]:
    """What was measured: "encoder" and the keys of the step."""
    file = _file(cache, step, size)
    return [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []


def measure(entries: Sequence[Entry], cache: Path, step: str, size: int) -> None:
    """Append the rows that are missing. An encoder that fails is named and left out."""
    done = {row["encoder"] for row in rows(cache, step, size)}
    for entry in entries:
        if entry.name in done or (step == "choice" and entry.half == HELD_OUT):
            continue
        try:
            row = {"encoder": entry.name, **STEPS[step](entry, size)}
        except (ValueError, RuntimeError, KeyError, OSError, sb.SynbenchError) as error:
            print(f"{entry.name}: {type(error).__name__}: {error}", flush=True)
        else:
            with _file(cache, step, size).open("a") as stream:
                stream.write(json.dumps(row) + "\n")
            scored = " {:.4f} ± {:.4f}".format(*row["structure"]) if step == "structure" else ""
            print(f"{entry.name}: {step}{scored}", flush=True)
        entry.close()
