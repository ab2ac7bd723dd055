"""What the tests of robustness inheritance share: a toy suite, a classifier for it, and folders of images."""

from __future__ import annotations

import functools
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from synbench_fast.studies.inheritance.bench import Bench
from synbench_fast.studies.inheritance.cells import PRETRAINING, Cell, TrainingSummary
from synbench_fast.studies.inheritance.data import DataSet, DataSuite, Part, in_memory
from synbench_fast.studies.inheritance.folders import CORRUPTIONS as IMAGENET_CORRUPTIONS
from synbench_fast.studies.inheritance.folders import Prepare
from synbench_fast.studies.inheritance.model import Classifier
from synbench_fast.studies.inheritance.protocol import agreement
from synbench_fast.studies.inheritance.report import InheritanceReport
from synbench_fast.studies.inheritance.run import inherit
from synbench_fast.studies.inheritance.training import Training, fit

SHAPE = (1, 6, 6)
CLASSES = 4
TRAINING = Training(epochs=4, batch_size=16, lr=0.05)
PREPARE = Prepare((3, 8, 8), 1.0)
WORDNET = tuple(f"n{number:08d}" for number in (1, 2, 3, 5, 8, 13))


class Body(nn.Module):
    """Convolution, batch norm and a linear layer, so that running statistics and dropout can move too."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(1, 4, 3, padding=1)
        self.norm = nn.BatchNorm2d(4)
        self.drop = nn.Dropout(0.1)
        self.last = nn.Linear(4 * 36, 8)

    def forward(self, x: Tensor) -> Tensor:
        made: Tensor = self.last(self.drop(torch.relu(self.norm(self.conv(x)))).flatten(1))
        return made


def make_classifier() -> Classifier:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return Classifier(Body(), nn.Linear(8, CLASSES), mean=(0.4,), std=(0.5,), shape=SHAPE).clone()


def make_part(seed: int, classes: tuple[int, ...] = (0, 1, 2, 3), shift: float = 0.0, n: int = 60) -> Part:
    """Class k lights up its own corner of the image."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.tensor(classes)[torch.randint(len(classes), (n,), generator=generator)]
    x = 0.3 * torch.rand((n, *SHAPE), generator=generator)
    for row, label in enumerate(labels.tolist()):
        top, left = 3 * (label // 2), 3 * (label % 2)
        x[row, 0, top : top + 3, left : left + 3] += 0.5
    return in_memory((x + shift).clamp(0, 1), labels, classes)


def make_suite() -> DataSuite:
    return DataSuite(
        name="toy",
        classes=("a", "b", "c", "d"),
        shape=SHAPE,
        data=(
            DataSet("one", make_part(1), make_part(11)),
            DataSet("two", make_part(2, shift=0.2), make_part(12, shift=0.2)),
            DataSet("three", make_part(3, (0, 2)), make_part(13, (0, 2))),
        ),
        pretraining=make_part(20),
        pretraining_train=make_part(21),
        training=TRAINING,
        threads=1,
    )


@functools.cache
def pretrained() -> Classifier:
    """Trained on the toy's pre-training data; not to be changed."""
    model = make_classifier()
    fit(model, make_part(21), replace(TRAINING, epochs=10), parameters=model.parameters(), seed=0)
    return model


def make_bench(original: Classifier, part: Part | None = None, **changes: Any) -> Bench:
    return Bench(
        original,
        make_part(2, shift=0.2) if part is None else part,
        replace(TRAINING, **changes),
        seed=0,
        pretraining_train=make_part(21),
    )


def weights(model: nn.Module) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in model.state_dict().items()}


def logits_of(model: Classifier, part: Part) -> Tensor:
    with torch.no_grad():
        return model(part.load(torch.arange(len(part))))


def equal(a: dict[str, Tensor], b: dict[str, Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def make_cell(
    before: dict[str, float], after: dict[str, float], on: str, seed: int = 0, **other: Any
) -> Cell:
    same = agreement(make_part(0), make_part(0).y, make_part(0).y)
    fields: dict[str, Any] = {
        "encoder": "e", "method": "ft", "pretraining_before": 0.8, "pretraining_after": 0.7,
        "agreement": dict.fromkeys((*before, PRETRAINING), same), "score_before": None, "score_after": None,
        "distance": None, "training": TrainingSummary(steps=1, loss=0.5, seconds=1.0),
    }  # fmt: skip
    return Cell(fine_tuned_on=on, seed=seed, accuracy_before=before, accuracy_after=after, **(fields | other))


def run_toy(original: Classifier | str, **options: Any) -> InheritanceReport:
    defaults: dict[str, Any] = {
        "methods": ("ft", "wise"), "seeds": 2, "score": False, "distance": False, "device": "cpu",
    }  # fmt: skip
    return inherit(original, make_suite(), **(defaults | options))


def numbers(report: InheritanceReport) -> list[Any]:
    """Everything measured, without times."""
    return [replace(one, training=replace(one.training, seconds=0.0)) for one in report.cells]


def write_images(folder: Path, classes: tuple[str, ...], count: int = 2, seed: int = 0) -> Path:
    random = np.random.default_rng(seed)
    for place, name in enumerate(classes):
        (folder / name).mkdir(parents=True)
        for number in range(count):
            pixels = random.integers(0, 120, (12, 10, 3), dtype=np.uint8)
            pixels[:, :, place % 3] += 120
            Image.fromarray(pixels).save(folder / name / f"{number}.png")
    return folder


def imagenet_of_six(root: Path) -> Path:
    """All eight variants of an ImageNet of 6 classes."""
    write_images(root / "val", WORDNET)
    write_images(root / "imagenetv2-matched-frequency-format-val", tuple(str(n) for n in range(6)))
    write_images(root / "imagenet-a", WORDNET[:3])
    write_images(root / "imagenet-r", WORDNET[2:5])
    for name in ("imagenet-sketch", "imagenet-cartoon", "imagenet-drawing"):
        write_images(root / name, WORDNET)
    write_images(root / "objectnet-1.0" / "images", ("air_freshener", "alarm_clock", "banana"))
    mapping = {"alarm_clock": [WORDNET[4], WORDNET[1]], "banana": WORDNET[0]}
    (root / "map.json").write_text(json.dumps(mapping), encoding="utf-8")
    for corruption in IMAGENET_CORRUPTIONS:
        for severity in range(1, 6):
            write_images(root / "imagenet-c" / corruption / str(severity), WORDNET[:2], 1)
    return root
