"""Data sets of an inheritance suite: labelled images, each set with its own subset of the classifier's classes.

A data set has a part to fine-tune on and a part to evaluate on. Predictions are made among the classes that the data
set has: all other columns of the classifier's output are left out (masked).
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from synbench_fast.errors import SynbenchError
from synbench_fast.studies.inheritance.cells import PRETRAINING
from synbench_fast.studies.inheritance.schedule import Training

__all__ = ["DataSet", "DataSuite", "Part", "check_suite"]


@dataclass(frozen=True, eq=False)
class Part:
    """Labelled images, and which columns of the classifier's output belong to their classes.

    Args:
        y: int64 [N], labels in 0 ... k - 1.
        columns: for every one of the k classes the columns of the logits that stand for it, at least one. Several
            columns for one class: its probability is the sum of theirs, and a prediction of any of them is right.
        load: rows int64 [n] -> x float32 [n, C, H, W] in [0, 1].
        sha256: of everything that fixes images and labels.
        groups: int64 [N] or None; the accuracy is the mean over groups of the accuracy within each.

    Raises:
        SynbenchError: labels that are no classes, a class without a column, a column of two classes, or a group
            without samples.
    """

    y: Tensor
    columns: tuple[tuple[int, ...], ...]
    load: Callable[[Tensor], Tensor]
    sha256: str
    groups: Tensor | None = None

    def __post_init__(self) -> None:
        classes = len(self.columns)
        if self.y.dtype != torch.int64 or self.y.ndim != 1:
            raise SynbenchError(f"y: expected int64 [N], got {self.y.dtype} {list(self.y.shape)}")
        if len(self.y) and not 0 <= int(self.y.min()) <= int(self.y.max()) < classes:
            wrong = next(one for one in self.y.tolist() if not 0 <= one < classes)
            raise SynbenchError(f"y: expected labels in 0 ... {classes - 1}, got {wrong}")
        owner: dict[int, int] = {}
        for number, columns in enumerate(self.columns):
            if not columns:
                raise SynbenchError(f"columns: expected at least one for every class, got none for {number}")
            for column in columns:
                if owner.setdefault(column, number) != number:
                    raise SynbenchError(
                        f"columns: expected every column for one class, got {column} for {owner[column]} and {number}"
                    )
        if self.groups is not None:
            if self.groups.dtype != torch.int64 or self.groups.shape != self.y.shape:
                raise SynbenchError(
                    f"groups: expected int64 [{len(self.y)}] as y has, got {self.groups.dtype} {list(self.groups.shape)}"
                )
            sizes = torch.bincount(self.groups)
            if not sizes.all():
                raise SynbenchError(
                    f"groups: expected samples in all of 0 ... {len(sizes) - 1}, got none in {int(sizes.argmin())}"
                )

    def __len__(self) -> int:
        return len(self.y)

    @cached_property
    def _table(self) -> Tensor:
        """int64 [k, m]: columns per class, filled up with -1, which is the column of minus infinity."""
        width = max(len(one) for one in self.columns)
        return torch.tensor([[*one, *[-1] * (width - len(one))] for one in self.columns])

    def restrict(self, logits: Tensor) -> Tensor:
        """Logits [B, K] of all classes to [B, k] of this data set's, the logsumexp over a class's columns."""
        table = self._table.to(logits.device)
        if table.shape[1] == 1:
            return logits[:, table[:, 0]]
        padded = torch.cat([logits, logits.new_full((len(logits), 1), -torch.inf)], dim=1)
        return padded[:, table].logsumexp(-1)

    def predict(self, logits: Tensor) -> Tensor:
        """int64 [B]: the class of the largest column among those of this data set."""
        flat = torch.tensor([column for one in self.columns for column in one], device=logits.device)
        owner = torch.tensor([i for i, one in enumerate(self.columns) for _ in one], device=logits.device)
        return owner[logits[:, flat].argmax(1)]

    def accuracy(self, correct: Tensor) -> float:
        """Share of `correct`, bool [N]; the mean over groups where there are groups."""
        if self.groups is None:
            return float(correct.double().mean())
        sizes = torch.bincount(self.groups)
        hits = torch.zeros(len(sizes), dtype=torch.float64).index_add_(0, self.groups, correct.double())
        return float((hits / sizes).mean())


@dataclass(frozen=True, eq=False)
class DataSet:
    """One member of a suite; where a data set has one part only, `train` and `test` are the same object."""

    name: str
    train: Part
    test: Part


@dataclass(frozen=True, eq=False)
class DataSuite:
    """Related data sets, and the data set that the encoders were pre-trained on.

    Args:
        name: of the suite.
        classes: names of the classifier's K classes, in the order of its columns.
        shape: of one image, [C, H, W].
        data: the data sets; their names are distinct and none is "pre-training".
        pretraining: validation part of the pre-training data.
        pretraining_train: images of its training part, which EWC needs, or None.
        training: the defaults of fine-tuning on this suite.
        threads: CPU threads that suit images of this size, None for torch's number.
        notes: what a reader of the results has to know, such as images that were skipped.
    """

    name: str
    classes: tuple[str, ...]
    shape: tuple[int, int, int]
    data: tuple[DataSet, ...]
    pretraining: Part
    pretraining_train: Part | None
    training: Training
    threads: int | None = None
    notes: tuple[str, ...] = ()

    @cached_property
    def sha256(self) -> str:
        """Of all parts and names: what the measured numbers depend on."""
        digest = hashlib.sha256("\0".join((self.name, *self.classes, str(self.shape))).encode())
        for one in self.data:
            digest.update(f"\0{one.name}\0{one.train.sha256}\0{one.test.sha256}".encode())
        digest.update(self.pretraining.sha256.encode())
        digest.update(b"" if self.pretraining_train is None else self.pretraining_train.sha256.encode())
        return digest.hexdigest()

    def test_parts(self) -> dict[str, Part]:
        """Every part that is evaluated on: the data sets' and the pre-training validation's."""
        return {one.name: one.test for one in self.data} | {PRETRAINING: self.pretraining}


def part_sha256(x: Tensor, y: Tensor, columns: Sequence[Sequence[int]]) -> str:
    """Of images and labels that are in memory."""
    digest = hashlib.sha256(repr([list(one) for one in columns]).encode())
    for tensor in (x, y):
        digest.update(f"{tensor.dtype}{tuple(tensor.shape)}".encode())
        digest.update(tensor.contiguous().numpy().tobytes())
    return digest.hexdigest()


def in_memory(x: Tensor, labels: Tensor, classes: Sequence[int], groups: Tensor | None = None) -> Part:
    """A part whose images are in memory; `labels` are columns of the classifier, all of them in `classes`.

    Raises:
        SynbenchError: a label that is not in `classes`.
    """
    columns = tuple((int(one),) for one in classes)
    wanted = torch.tensor(list(classes))
    missing = labels[~torch.isin(labels, wanted)]
    if len(missing):
        raise SynbenchError(f"labels: expected classes of {list(classes)}, got {int(missing[0])}")
    y = (labels[:, None] == wanted).int().argmax(1)
    return Part(y, columns, lambda rows: x[rows], part_sha256(x, y, columns), groups)


def check_suite(suite: DataSuite) -> None:
    """SynbenchError unless there are two data sets at least, of distinct names, and no part is empty."""
    names = [one.name for one in suite.data]
    if len(names) < 2:
        raise SynbenchError(
            f"suite {suite.name}: expected at least 2 data sets, one to fine-tune on and one to evaluate on, "
            f"got {', '.join(names) or 'none'}"
        )
    for name in names:
        if names.count(name) > 1:
            raise SynbenchError(f"suite {suite.name}: expected distinct names, got {name!r} twice")
        if name == PRETRAINING:
            raise SynbenchError(
                f"suite {suite.name}: expected names other than {PRETRAINING!r}, which is the pre-training "
                f"data's, got {name!r}"
            )
    parts = [(one.name, part) for one in suite.data for part in (one.train, one.test)]
    parts += [(PRETRAINING, one) for one in (suite.pretraining, suite.pretraining_train) if one is not None]
    for name, part in parts:
        if not len(part):
            raise SynbenchError(f"suite {suite.name}: expected images in {name}, got none")
        if len(part.columns) < 2:
            raise SynbenchError(
                f"suite {suite.name}: expected at least 2 classes in {name}, got {len(part.columns)}"
            )
        beyond = [column for columns in part.columns for column in columns if column >= len(suite.classes)]
        if beyond:
            raise SynbenchError(
                f"suite {suite.name}: expected columns below {len(suite.classes)} in {name}, the number of classes, "
                f"got {beyond[0]}"
            )
