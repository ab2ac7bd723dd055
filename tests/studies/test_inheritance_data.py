"""Parts of data sets: masks, several columns for one class, groups; and the digits under shifts."""

from __future__ import annotations

import pytest
import torch
from checks import refused
from inheritance_cases import SHAPE
from torch import Tensor

from synbench_fast.studies.inheritance.data import Part, in_memory
from synbench_fast.studies.inheritance.digits_rib import CORRUPTIONS, SHIFTS, digits_encoder, digits_suite


def test_masks_leave_other_classes_out() -> None:
    part = in_memory(torch.zeros(2, *SHAPE), torch.tensor([2, 5]), (2, 5))
    logits = torch.tensor([[9.0, 9, 1, 9, 9, 0], [9, 9, 0, 9, 9, 1]])
    assert part.restrict(logits).tolist() == [[1, 0], [0, 1]]
    assert part.predict(logits).tolist() == part.y.tolist() == [0, 1]


def test_several_columns_for_a_class() -> None:
    part = Part(torch.tensor([0, 1]), ((0, 3), (1,)), lambda rows: rows, "")
    logits = torch.tensor([[0.0, 0.5, 9, 1.0], [0.0, 2.0, 9, 1.0]])
    shares = logits[:, [0, 3, 1]].softmax(1)
    expected = torch.stack([shares[:, :2].sum(1), shares[:, 2]], 1)
    assert torch.allclose(part.restrict(logits).softmax(1), expected)
    assert part.predict(logits).tolist() == [0, 1]


@pytest.mark.parametrize(
    ("y", "columns", "words"),
    [
        (torch.tensor([0, 2]), ((0,), (1,)), "y: expected labels in 0 ... 1, got 2"),
        (torch.tensor([-1, 1]), ((0,), (1,)), "y: expected labels in 0 ... 1, got -1"),
        (torch.tensor([0.0]), ((0,), (1,)), "y: expected int64 [N], got torch.float32 [1]"),
        (torch.tensor([0]), ((0,), ()), "columns: expected at least one for every class, got none for 1"),
        (
            torch.tensor([0]),
            ((0, 3), (3,)),
            "columns: expected every column for one class, got 3 for 0 and 1",
        ),
    ],
)
def test_parts_are_checked(y: Tensor, columns: tuple[tuple[int, ...], ...], words: str) -> None:
    with refused(words):
        Part(y, columns, lambda rows: rows, "")


@pytest.mark.parametrize(
    ("groups", "words"),
    [
        (torch.tensor([0, 2]), "groups: expected samples in all of 0 ... 2, got none in 1"),
        (torch.tensor([0]), "groups: expected int64 [2] as y has, got torch.int64 [1]"),
        (torch.tensor([0.0, 1.0]), "groups: expected int64 [2] as y has, got torch.float32 [2]"),
    ],
)
def test_groups_are_checked(groups: Tensor, words: str) -> None:
    """The accuracy of an empty group is no number, and would make the data set's none."""
    with refused(words):
        Part(torch.tensor([0, 1]), ((0,), (1,)), lambda rows: rows, "", groups)


def test_labels_of_other_classes_are_refused() -> None:
    with refused("labels: expected classes of [0, 2], got 1"):
        in_memory(torch.zeros(2, *SHAPE), torch.tensor([0, 1]), (0, 2))


def test_accuracy_is_the_mean_over_groups() -> None:
    part = in_memory(torch.zeros(4, *SHAPE), torch.tensor([0, 0, 1, 1]), (0, 1), torch.tensor([0, 0, 0, 1]))
    assert part.accuracy(torch.tensor([True, False, False, True])) == pytest.approx((1 / 3 + 1) / 2)


def test_digits_suite() -> None:
    suite = digits_suite()
    assert [one.name for one in suite.data] == list(SHIFTS) and len(SHIFTS) == 8
    assert suite.sha256 == digits_suite().sha256
    sizes = {one.name: (len(one.train), len(one.test)) for one in suite.data}
    assert sizes["resampled"] == (398, 399) and len(suite.pretraining) == 300
    clean = suite.data[0]
    every = torch.cat([
        one.load(torch.arange(len(one)))
        for one in (clean.train, clean.test, suite.pretraining, suite.pretraining_train)
        if one is not None
    ])  # fmt: skip
    assert len(every) == 1797 and len(every.flatten(1).unique(dim=0)) == 1797  # nothing is in two parts
    for one in suite.data:
        for part in (one.train, one.test):
            x = part.load(torch.arange(len(part)))
            assert x.shape[1:] == (1, 8, 8) and x.min() >= 0 and x.max() <= 1
            assert [columns[0] for columns in part.columns] == list(SHIFTS[one.name][1])
            assert torch.equal(part.y.unique(), torch.arange(len(part.columns)))
    groups = suite.data[-1].test.groups
    assert groups is not None and int(groups.max()) + 1 == 3 * len(CORRUPTIONS)


def test_digits_encoder_is_repeatable() -> None:
    assert digits_encoder("untrained").sha256() == digits_encoder("untrained").sha256()
    assert digits_encoder("untrained").sha256() != digits_encoder("untrained?seed=1").sha256()
