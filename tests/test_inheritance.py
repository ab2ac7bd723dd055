"""Robustness inheritance: formulas, what defines every method, cells on disk, the suites, the report."""

from __future__ import annotations

import csv
import errno
import io
import json
import math
import os
import re
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from checks import refused
from PIL import Image
from scipy import stats
from torch import Tensor, nn

from synbench_fast import cli, errors
from synbench_fast.inheritance import methods as methods_package
from synbench_fast.inheritance.bench import Bench
from synbench_fast.inheritance.cells import PRETRAINING, Cell, TrainingSummary
from synbench_fast.inheritance.data import DataSet, DataSuite, Part, in_memory
from synbench_fast.inheritance.digits_rib import CORRUPTIONS, SHIFTS, digits_encoder, digits_suite
from synbench_fast.inheritance.distance import dataset_distance
from synbench_fast.inheritance.folders import CORRUPTIONS as IMAGENET_CORRUPTIONS
from synbench_fast.inheritance.folders import Prepare, folder_suite, imagenet_suite
from synbench_fast.inheritance.intervals import mean_over_seeds, t_quantile
from synbench_fast.inheritance.methods import find, names
from synbench_fast.inheritance.methods.ewc import fisher
from synbench_fast.inheritance.methods.prompt import Prompted
from synbench_fast.inheritance.model import Classifier, split_head, weighted_mean
from synbench_fast.inheritance.networks import load_network
from synbench_fast.inheritance.page import page
from synbench_fast.inheritance.protocol import agreement
from synbench_fast.inheritance.report import InheritanceReport, summarise, write_csv
from synbench_fast.inheritance.run import inherit
from synbench_fast.inheritance.tables import print_report
from synbench_fast.inheritance.training import Training, fit, predictions, steps_of

SHAPE = (1, 6, 6)
CLASSES = 4


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


TRAINING = Training(epochs=4, batch_size=16, lr=0.05)


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


@pytest.fixture(scope="module")
def original() -> Classifier:
    """Pre-trained on the toy's pre-training data."""
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


# Formulas


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


def test_published_example_of_the_formula() -> None:
    names = ("V2", "A", "Sketch", "ObjectNet", "Cartoon", "Drawing", "C")
    before = dict(zip(names, (0.66, 0.15, 0.28, 0.26, 0.66, 0.39, 0.56), strict=True)) | {"R": 0.3}
    after = dict(zip(names, (0.59, 0.21, 0.47, 0.32, 0.61, 0.51, 0.52), strict=True)) | {"R": 0.9}
    cell = make_cell(before, after, "R")
    # -7 + 6 + 19 + 6 - 5 + 12 - 4 = 27 points over 7 data sets; R itself does not count
    assert cell.robustness_improvement == pytest.approx(0.27 / 7, abs=1e-12)
    assert cell.ood_before == pytest.approx(2.96 / 7) and cell.ood_after == pytest.approx(3.23 / 7)
    assert cell.pretraining_change == pytest.approx(-0.1)
    assert set(cell.others) == set(names)


def test_matrix_by_hand() -> None:
    """Three data sets, two seeds: RI_i, mRI, its interval and the paired difference of two methods."""
    before = {"a": 0.5, "b": 0.6, "c": 0.7}
    change = {  # [method][seed][i][j]
        "ft": [[[9, 1, 2], [3, 9, 4], [5, 6, 9]], [[9, 2, 3], [4, 9, 5], [6, 7, 9]]],
        "lp": [[[9, 0, 0], [0, 9, 0], [0, 0, 9]], [[9, 0, 0], [0, 9, 0], [0, 0, 6]]],
    }
    cells = [
        make_cell(
            before,
            {j: before[j] + points[k] / 100 for k, j in enumerate(before)},
            i,
            seed,
            method=method,
        )
        for method, by_seed in change.items()
        for seed, rows in enumerate(by_seed)
        for i, points in zip(before, rows, strict=True)
    ]
    ft, lp = summarise(cells)
    assert [ft.ri[name].value for name in "abc"] == pytest.approx([0.02, 0.04, 0.06])
    assert ft.mri.by_seed == pytest.approx([0.035, 0.045])
    assert ft.mri.value == pytest.approx(0.04)
    half = 12.706204736 * (0.01 / math.sqrt(2)) / math.sqrt(2)
    assert (ft.mri.ci95_low, ft.mri.ci95_high) == pytest.approx((0.04 - half, 0.04 + half))
    assert ft.difference is None and lp.difference is not None
    assert lp.difference.by_seed == pytest.approx([-0.035, -0.045])
    # mean accuracy after = mRI + mean of the accuracies before
    assert ft.ood_after.value == pytest.approx(ft.mri.value + ft.ood_before)
    assert lp.own_change.by_seed == pytest.approx([0.09, 0.08])


@pytest.mark.parametrize("freedom", [1, 2, 3, 4, 7, 30])
def test_quantiles_of_student(freedom: int) -> None:
    assert t_quantile(freedom) == pytest.approx(float(stats.t.ppf(0.975, freedom)), rel=1e-9)


def test_one_seed_has_no_interval() -> None:
    one = mean_over_seeds([0.25])
    assert one.value == 0.25 and math.isnan(one.ci95_low) and math.isnan(one.ci95_high)


def test_agreement_by_hand() -> None:
    part = in_memory(torch.zeros(4, *SHAPE), torch.tensor([0, 1, 2, 3]), (0, 1, 2, 3))
    found = agreement(part, torch.tensor([0, 1, 0, 2]), torch.tensor([0, 2, 2, 2]))
    assert (found.same, found.both_correct, found.lost, found.won) == (0.5, 0.25, 0.25, 0.25)


# Parts: masks, several columns for one class, groups


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


def test_labels_of_other_classes_are_refused() -> None:
    with refused("labels: expected classes of [0, 2], got 1"):
        in_memory(torch.zeros(2, *SHAPE), torch.tensor([0, 1]), (0, 2))


def test_accuracy_is_the_mean_over_groups() -> None:
    part = in_memory(torch.zeros(4, *SHAPE), torch.tensor([0, 0, 1, 1]), (0, 1), torch.tensor([0, 0, 0, 1]))
    assert part.accuracy(torch.tensor([True, False, False, True])) == pytest.approx((1 / 3 + 1) / 2)


# Training


def test_schedule_warms_up_and_ends_at_zero(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[float] = []
    step = torch.optim.SGD.step

    def spy(self: torch.optim.SGD, closure: None = None) -> Any:
        seen.append(self.param_groups[0]["lr"])
        return step(self)

    monkeypatch.setattr(torch.optim.SGD, "step", spy)
    model, part = make_classifier(), make_part(1)
    fit(model, part, replace(TRAINING, epochs=10), parameters=model.parameters(), seed=0)
    assert len(seen) == steps_of(replace(TRAINING, epochs=10), len(part)) == 40
    assert seen[0] == pytest.approx(0.01) and seen[:5] == sorted(seen[:5])  # a tenth: 4 steps of warm-up
    assert seen[4] == 0.05 and seen[4:] == sorted(seen[4:], reverse=True) and seen[-1] < 0.001


def test_defaults_are_the_published_ones() -> None:
    assert Training() == Training(
        epochs=10, batch_size=256, lr=1e-3, momentum=0.9, weight_decay=0.0, warmup=196, mixed_precision=True
    )


def test_a_loss_that_is_not_finite_is_refused() -> None:
    model = make_classifier()
    with refused("lr: expected one at which the loss stays finite", "epoch 1"):
        fit(model, make_part(1), replace(TRAINING, lr=1e30, warmup=0), parameters=model.parameters(), seed=0)


def test_weights_of_a_last_step_that_are_not_finite_are_refused() -> None:
    """One step: its loss is that of the weights before it."""
    model = make_classifier()
    training = Training(epochs=1, batch_size=60, lr=3e38, momentum=0.0, warmup=0)
    with refused("lr: expected one at which the weights stay finite, got 3e+38"):
        fit(
            model,
            make_part(1),
            replace(training, lr=3e38),
            parameters=model.parameters(),
            seed=0,
            penalty=steep,
        )


def steep(x: Tensor, logits: Tensor) -> Tensor:
    return 1e3 * logits.square().sum()


def test_predictions_go_batch_by_batch(original: Classifier) -> None:
    part = make_part(3, (0, 2))
    assert torch.equal(predictions(original, part, batch_size=7), part.predict(logits_of(original, part)))
    broken = original.clone()
    nn.init.constant_(broken.head.bias, math.inf)
    with refused("logits: expected finite ones, got inf"):
        predictions(broken, part)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"epochs": 0}, "epochs: expected an integer of at least 1, got 0"),
        ({"lr": 0.0}, "lr: expected a number above 0, got 0.0"),
        ({"momentum": 1.0}, "momentum: expected a number in [0, 1), got 1.0"),
        ({"weight_decay": -1.0}, "weight_decay: expected a number of at least 0, got -1.0"),
    ],
)
def test_training_is_checked(change: dict[str, Any], words: str) -> None:
    with refused(words):
        replace(Training(), **change)


# Methods: what defines each


def test_registry_has_a_file_per_method() -> None:
    assert names() == ("ewc", "ft", "l2sp", "lora", "lp", "lp-ft", "lwf", "prompt", "soup", "wise")
    folder = Path(methods_package.__file__).parent
    for name in names():
        assert (folder / f"{name.replace('-', '_')}.py").is_file()
        assert find(name).title


@pytest.mark.parametrize("name", names())
def test_methods_leave_the_original_alone_and_repeat(name: str, original: Classifier) -> None:
    before = weights(original)
    first, summary = make_bench(original).tune(name)
    second, _ = make_bench(original).tune(name)
    assert equal(before, weights(original))
    assert equal(weights(first), weights(second))
    assert not equal(before, weights(first))
    assert summary.steps >= 16 and math.isfinite(summary.loss)
    assert not first.training


def test_fine_tuning_learns(original: Classifier) -> None:
    part = make_part(2, shift=0.4)
    model, _ = make_bench(original, part, epochs=10).tune("ft")

    def loss(one: Classifier) -> float:
        return float(nn.functional.cross_entropy(part.restrict(logits_of(one, part)), part.y))

    assert loss(model) < 0.2 * loss(original)


def test_linear_probing_leaves_the_body_bit_identical(original: Classifier) -> None:
    model, _ = make_bench(original).tune("lp")
    assert equal(weights(model.body), weights(original.body))
    assert not torch.equal(model.head.weight, original.head.weight)


def test_lp_ft_starts_from_the_probe(original: Classifier) -> None:
    bench = make_bench(original)
    probe, first = bench.tune("lp")
    model, both = bench.tune("lp-ft")
    again, _ = bench.fit(probe)
    assert equal(weights(model), weights(again))
    assert not equal(weights(model.body), weights(original.body))
    assert both.steps == 2 * first.steps


def test_lora_changes_only_low_rank_updates(original: Classifier) -> None:
    rank = 2
    model, _ = make_bench(original).tune(f"lora?rank={rank}&alpha=4")
    before, after = weights(original), weights(model)
    assert before.keys() == after.keys()
    for name in before:
        if name in ("body.conv.weight", "body.last.weight"):
            update = (after[name] - before[name]).flatten(1).double()
            values = torch.linalg.svdvals(update)
            assert values[0] > 1e-4
            assert values[rank:].max() < 1e-5 * values[0] + 1e-7
        else:
            assert torch.equal(before[name], after[name]), name


class Attention(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.qkv = nn.Linear(6, 18)
        self.proj = nn.Linear(6, 6)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.qkv(x.flatten(1).view(len(x), 6, 6)).chunk(3, dim=-1)
        mixed = (q @ k.transpose(1, 2)).softmax(-1) @ v
        made: Tensor = self.proj(mixed).mean(1)
        return made


def test_lora_of_a_joined_projection_leaves_keys_alone() -> None:
    with torch.random.fork_rng():
        torch.manual_seed(1)
        model = Classifier(Attention(), nn.Linear(6, CLASSES), mean=(0.4,), std=(0.5,), shape=SHAPE).clone()
    tuned, _ = make_bench(model).tune("lora?rank=1&alpha=4")
    before, after = weights(model), weights(tuned)
    assert before.keys() == after.keys()
    parts = (after["body.qkv.weight"] - before["body.qkv.weight"]).chunk(3)
    assert [bool(one.abs().max() > 0) for one in parts] == [True, False, True]
    assert all(torch.linalg.matrix_rank(parts[i].double(), rtol=1e-4) == 1 for i in (0, 2))
    assert all(torch.equal(before[name], after[name]) for name in before if name != "body.qkv.weight")


class TorchAttention(nn.Module):
    def __init__(self, kdim: int | None = None) -> None:
        super().__init__()
        self.inner = nn.MultiheadAttention(6, 2, kdim=kdim, vdim=kdim, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        x = x.flatten(1).view(len(x), 6, 6)
        width = self.inner.kdim
        made: Tensor = self.inner(x, x[:, :, :width], x[:, :, :width], need_weights=False)[0]
        return made.mean(1)


@pytest.mark.parametrize("kdim", [None, 5])
def test_lora_of_torch_attention(kdim: int | None) -> None:
    """Rows of queries and values have updates of the rank; keys, biases and all else stay bit for bit."""
    with torch.random.fork_rng():
        torch.manual_seed(1)
        body = TorchAttention(kdim)
        model = Classifier(body, nn.Linear(6, CLASSES), mean=(0.4,), std=(0.5,), shape=SHAPE).clone()
    moved: list[set[str]] = []
    step = torch.optim.SGD.step

    def spy(self: torch.optim.SGD, closure: None = None) -> Any:
        moved.append({tuple(one.shape) for one in self.param_groups[0]["params"]})
        return step(self)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch.optim.SGD, "step", spy)
        tuned, _ = make_bench(model).tune("lora?rank=1&alpha=4")
    width = kdim or 6
    assert moved[0] == ({(2, 1, 6), (2, 6, 1)} if kdim is None else {(1, 1, 6), (1, 6, 1), (1, 1, width)})
    before, after = weights(model), weights(tuned)
    assert before.keys() == after.keys() and type(tuned.body.inner) is nn.MultiheadAttention
    prefix = "body.inner."
    changed = {"in_proj_weight"} if kdim is None else {"q_proj_weight", "v_proj_weight"}
    for name in before:
        if name.removeprefix(prefix) not in changed:
            assert torch.equal(before[name], after[name]), name
            continue
        parts = (after[name] - before[name]).chunk(3 if kdim is None else 1)
        expected = [True, False, True] if kdim is None else [True]
        assert [bool(one.abs().max() > 0) for one in parts] == expected
        assert all(torch.linalg.matrix_rank(one.double(), rtol=1e-4) == 1 for one in parts if one.any())


def test_lora_of_torch_attention_starts_from_the_original(monkeypatch: pytest.MonkeyPatch) -> None:
    """Before the first step and, adapted or merged, after the last one."""
    from synbench_fast.inheritance.methods import lora

    with torch.random.fork_rng():
        torch.manual_seed(1)
        model = Classifier(
            TorchAttention(), nn.Linear(6, CLASSES), mean=(0.4,), std=(0.5,), shape=SHAPE
        ).clone()
    x = make_part(5).load(torch.arange(20))
    expected, seen = model(x), []
    real = lora.fit

    def spy(adapted: Classifier, *arguments: Any, **options: Any) -> TrainingSummary:
        assert torch.equal(adapted(x), expected)
        summary = real(adapted, *arguments, **options)
        seen.append(adapted(x).detach())
        return summary

    monkeypatch.setattr(lora, "fit", spy)
    tuned, _ = make_bench(model).tune("lora?rank=2&alpha=4")
    assert not torch.equal(seen[0], expected)
    assert torch.equal(tuned(x), seen[0])


def test_lora_of_a_torchvision_transformer() -> None:
    from torchvision.models import VisionTransformer

    with torch.random.fork_rng():
        torch.manual_seed(1)
        whole = VisionTransformer(
            image_size=16, patch_size=8, num_layers=2, num_heads=2, hidden_dim=8, mlp_dim=16, num_classes=3
        )
        nn.init.normal_(whole.heads.head.weight)  # zeros at first, through which no gradient comes
    model = split_head(whole, 3, spec="s", mean=(0.5,) * 3, std=(0.5,) * 3, shape=(3, 16, 16)).clone()
    draws = torch.rand(6, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    part = in_memory(draws, torch.arange(6) % 3, (0, 1, 2))
    bench = Bench(model, part, Training(epochs=2, batch_size=3, lr=0.1, warmup=0), seed=0)
    before, after = weights(model), weights(bench.tune("lora?rank=2&alpha=8")[0])
    changed = [name for name in before if not torch.equal(before[name], after[name])]
    assert len(changed) == 2 and all(name.endswith("self_attention.in_proj_weight") for name in changed)
    for name in changed:
        update = (after[name] - before[name]).chunk(3)
        assert not update[1].any()
        for one in (update[0], update[2]):
            assert torch.linalg.matrix_rank(one.double(), rtol=1e-4) <= 2 and one.any()


def test_prompt_leaves_the_network_bit_identical(original: Classifier) -> None:
    model, _ = make_bench(original).tune("prompt?share=0.2")
    assert isinstance(model.body, Prompted)
    assert equal(weights(model.body.encoder), weights(original.body))
    assert equal(weights(model.head), weights(original.head))
    frame = model.body.frame[0]
    assert frame.sum() == 36 - 16 and frame[1:5, 1:5].sum() == 0
    x = make_part(5).load(torch.arange(3))
    added = model.normalise(x) + model.body.border * frame
    assert torch.equal(model(x), original.head(original.body(added)))


def test_ewc_pulls_along_the_fisher_directions() -> None:
    """A strong penalty holds what the original's predictions depend on, and lets the rest move."""
    unsure = make_classifier()  # a certain one has no Fisher information to speak of
    fit(unsure, make_part(21), replace(TRAINING, lr=0.01), parameters=unsure.parameters(), seed=0)
    information = torch.cat([one.flatten() for one in fisher(unsure, make_part(21), 60, 0)])
    start = torch.cat([one.detach().flatten() for one in unsure.parameters()])

    def moved(method: str) -> tuple[float, float]:
        tuned, _ = make_bench(unsure).tune(method)
        change = torch.cat([one.detach().flatten() for one in tuned.parameters()]) - start
        return float((information * change.square()).sum()), float(change.square().sum())

    plain, held = moved("ft"), moved("ewc?weight=400&samples=60")
    assert held[0] < 0.2 * plain[0]
    assert held[0] / plain[0] < 0.3 * held[1] / plain[1]


def test_fisher_of_logistic_regression_in_closed_form() -> None:
    """For p = softmax(W x + b), F of b_k is the mean of p_k (1 - p_k)."""
    head = nn.Linear(36, 3)
    model = Classifier(nn.Flatten(), head, mean=(0.0,), std=(1.0,), shape=SHAPE).clone()
    part = make_part(9, (0, 1, 2), n=1000)
    *_, bias = fisher(model, part, 1000, 0)
    p = logits_of(model, part).softmax(1)
    expected = (p * (1 - p)).mean(0)
    # the drawn labels' spread: (1 - p)^2 with probability p, p^2 otherwise
    spread = (p * (1 - p) * (1 - 2 * p).square()).mean(0).sqrt() / math.sqrt(len(part))
    assert ((bias - expected).abs() <= 5 * spread + 1e-4).all()


def test_l2sp_stays_nearer_the_heavier_it_is(original: Classifier) -> None:
    def distance(weight: float) -> float:
        tuned, _ = make_bench(original).tune(f"l2sp?weight={weight}")
        pairs = zip(tuned.parameters(), original.parameters(), strict=True)
        return sum(float((a - b).detach().square().sum()) for a, b in pairs)

    assert equal(
        weights(make_bench(original).tune("l2sp?weight=0")[0]), weights(make_bench(original).tune("ft")[0])
    )
    assert distance(0) > distance(0.1) > distance(1) > 0


def test_lwf_keeps_old_outputs(original: Classifier) -> None:
    part = make_part(2, shift=0.2)
    wrong = replace(part, y=(part.y + 1) % CLASSES)  # labels that contradict what the original says
    old = (part.restrict(logits_of(original, part)) / 2).log_softmax(1)

    def divergence(method: str) -> float:
        tuned, _ = make_bench(original, wrong, epochs=8, lr=0.01).tune(method)
        new = (part.restrict(logits_of(tuned, part)) / 2).log_softmax(1)
        return float(nn.functional.kl_div(new, old, reduction="batchmean", log_target=True))

    assert divergence("lwf?weight=0") == divergence("ft")
    assert divergence("lwf?weight=10") < 0.2 * divergence("ft")
    assert divergence("lwf?weight=10") < divergence("lwf") < divergence("ft")


def test_wise_at_its_ends_and_between(original: Classifier) -> None:
    bench = make_bench(original)
    tuned, _ = bench.tune("ft")
    assert equal(weights(bench.tune("wise?alpha=0")[0]), weights(original))
    assert equal(weights(bench.tune("wise?alpha=1")[0]), weights(tuned))
    middle = weights(bench.tune("wise?alpha=0.25")[0])
    for name, value in weights(original).items():
        if value.is_floating_point():
            assert torch.allclose(middle[name], 0.75 * value + 0.25 * weights(tuned)[name], atol=1e-6)


def test_soup_is_the_mean(original: Classifier) -> None:
    bench = make_bench(original)
    members = [bench.rerun(number).tune("ft")[0] for number in range(3)]
    soup = weights(bench.tune("soup")[0])
    assert not equal(weights(members[0]), weights(members[1]))
    for name, value in soup.items():
        if value.is_floating_point():
            mean = torch.stack([weights(one)[name] for one in members]).mean(0)
            assert torch.allclose(value, mean, atol=1e-6)
    half = weights(bench.tune("wise")[0])
    other = weights(bench.tune("soup?of=pre+ft&runs=1")[0])
    assert all(torch.allclose(half[name], other[name]) for name in half if half[name].is_floating_point())


def test_mean_of_models_without_weight_leaves_them_out(original: Classifier) -> None:
    broken = original.clone()
    nn.init.constant_(broken.head.weight, math.nan)
    assert equal(weights(weighted_mean([original, broken], [1.0, 0.0])), weights(original))


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("ftt", ("methods: expected one of ewc, ft", "did you mean ft?")),
        ("wise?alpa=1", ("methods: expected wise with alpha=0.5", "did you mean alpha?")),
        ("ft?x=1", ("methods: expected ft with no options",)),
        ("wise?alpha=2", ("methods: expected alpha in [0, 1] for wise, got 2",)),
        ("wise?alpha=x", ("methods: expected a number for alpha, got 'x'",)),
        ("lora?rank=1.5", ("methods: expected an integer for rank, got '1.5'",)),
        ("lora?rank=0", ("methods: expected rank of at least 1 for lora, got 0",)),
        ("lwf?temperature=0", ("methods: expected temperature of at least 0.001 for lwf, got 0",)),
        ("prompt?share=0.6", ("methods: expected share in [0, 0.5] for prompt, got 0.6",)),
        (
            "soup?of=ft+prompt",
            ("methods: expected pre and methods that keep the weights' shapes", "'prompt'"),
        ),
        ("soup?of=nothing", ("methods: expected one of",)),
    ],
)
def test_method_texts(text: str, words: tuple[str, ...]) -> None:
    with refused(*words):
        find(text)


def test_ewc_without_pretraining_images(original: Classifier) -> None:
    bench = Bench(original, make_part(1), TRAINING, seed=0)
    with refused(
        "methods: expected images of the pre-training data's training part for ewc", "l2sp needs none"
    ):
        bench.tune("ewc")


def test_lora_needs_layers(original: Classifier) -> None:
    flat = Classifier(nn.Flatten(), nn.Linear(36, CLASSES), mean=(0.0,), std=(1.0,), shape=SHAPE)
    with refused("methods: expected a body with linear or convolution layers for lora, got none"):
        make_bench(flat).tune("lora")


# Classifiers


def test_weights_without_pickle(original: Classifier, tmp_path: Path) -> None:
    path = original.save(tmp_path / "a.safetensors")
    assert b"pickle" not in path.read_bytes()[:200]
    other = make_classifier()
    assert not equal(weights(other), weights(original))
    assert equal(weights(other.load(path)), weights(original))
    (tmp_path / "b.safetensors").write_bytes(b"nothing")
    with refused("b.safetensors: expected safetensors with the weights of this classifier"):
        other.load(tmp_path / "b.safetensors")


def test_head_is_split_off() -> None:
    whole = nn.Sequential(nn.Flatten(), nn.Linear(36, 8), nn.ReLU(), nn.Linear(8, CLASSES)).eval()
    x = make_part(1).load(torch.arange(5))
    expected = whole((x - 0.4) / 0.5)
    made = split_head(whole, CLASSES, spec="s", mean=(0.4,), std=(0.5,), shape=SHAPE)
    assert torch.allclose(made(x), expected) and made.features(x).shape == (5, 8)
    with refused(
        "encoder s: expected a network that ends in nn.Linear with 7 outputs", "got linear layers with 8"
    ):
        split_head(whole, 7, spec="s", mean=(0.4,), std=(0.5,), shape=SHAPE)
    more = nn.Sequential(nn.Flatten(), nn.Linear(36, CLASSES), nn.Tanh())
    with refused("encoder s: expected logits that are 1 of the features, got a network that does more"):
        split_head(more, CLASSES, spec="s", mean=(0.4,), std=(0.5,), shape=SHAPE)


@pytest.mark.parametrize(
    ("spec", "words"),
    [
        (
            "digit:standard",
            ("encoder: expected a network with its classifier from digits", "did you mean digits?"),
        ),
        ("digits:standrd", ("encoder: expected digits:untrained", "did you mean standard?")),
        ("digits:standard?sed=1", ("encoder: expected digits:standard?seed=N",)),
        ("timm:resnet18000", ("resnet18",)),
    ],
)
def test_specs_of_networks(spec: str, words: tuple[str, ...]) -> None:
    with refused(*words):
        load_network(spec)


def test_networks_of_libraries_keep_their_head() -> None:
    for spec in ("timm:resnet10t", "torchvision:shufflenet_v2_x0_5"):
        network = load_network(spec, random_init=True)
        made = network.split(1000)
        assert made.head.out_features == 1000
        assert made(torch.zeros(1, *network.prepare.shape)).shape == (1, 1000)


# The protocol on the toy: matrix, restart, configuration


def run_toy(original: Classifier, **options: Any) -> InheritanceReport:
    defaults: dict[str, Any] = {
        "methods": ("ft", "wise"), "seeds": 2, "score": False, "distance": False, "device": "cpu",
    }  # fmt: skip
    return inherit(original, make_suite(), **(defaults | options))


def numbers(report: InheritanceReport) -> list[Any]:
    """Everything measured, without times."""
    return [replace(one, training=replace(one.training, seconds=0.0)) for one in report.cells]


def test_cells_are_what_they_say(original: Classifier) -> None:
    report = run_toy(original, methods=("ft",), seeds=1)
    suite = make_suite()
    cell = report.cells[1]
    assert (cell.fine_tuned_on, cell.seed, len(report.cells)) == ("two", 0, 3)
    tuned, _ = Bench(original, suite.data[1].train, TRAINING, seed=0).tune("ft")
    for name, part in suite.test_parts().items():
        was = predictions(original, part) == part.y
        now = predictions(tuned, part) == part.y
        before = cell.pretraining_before if name == PRETRAINING else cell.accuracy_before[name]
        after = cell.pretraining_after if name == PRETRAINING else cell.accuracy_after[name]
        assert before == pytest.approx(float(was.double().mean()))
        assert after == pytest.approx(float(now.double().mean()))
        assert cell.agreement[name].both_correct == pytest.approx(float((was & now).double().mean()))
    assert report.matrix("ft")["two"][PRETRAINING] == pytest.approx(cell.pretraining_change)


def test_a_run_that_was_killed_goes_on(original: Classifier, tmp_path: Path) -> None:
    whole = run_toy(original)

    def kill_at(count: int) -> Callable[[str], None]:
        lines: list[str] = []

        def progress(line: str) -> None:
            lines.append(line)
            if sum("RI" in one for one in lines) == count:
                raise KeyboardInterrupt

        return progress

    for count in (3, 1):
        with pytest.raises(KeyboardInterrupt):
            run_toy(original, out=tmp_path, progress=kill_at(count))
    assert len(list((tmp_path / "cells").iterdir())) == 4
    resumed = run_toy(original, out=tmp_path)
    assert resumed.reused == 4 and len(resumed.cells) == 12
    assert numbers(resumed) == numbers(whole)
    again = run_toy(original, out=tmp_path)
    assert again.reused == 12 and again.cells == resumed.cells


@pytest.fixture
def diverging(monkeypatch: pytest.MonkeyPatch) -> set[tuple[str, int]]:
    """(data set, seed) whose fine-tuning meets a loss that is not finite, as long as it is in here."""
    from synbench_fast.inheritance import bench as benches

    bad: set[tuple[str, int]] = set()
    parts = {one.train.sha256: one.name for one in make_suite().data}
    real = benches.fit

    def fit_or_fail(model: Classifier, part: Part, training: Training, **options: Any) -> TrainingSummary:
        rate = 1e30 if (parts[part.sha256], options["seed"]) in bad else training.lr
        return real(model, part, replace(training, lr=rate), **options)

    monkeypatch.setattr(benches, "fit", fit_or_fail)
    return bad


def test_a_fine_tuning_that_diverges_leaves_a_gap(
    original: Classifier, diverging: set[tuple[str, int]], tmp_path: Path
) -> None:
    whole = run_toy(original, methods=("ft", "wise", "lp"))
    diverging.add(("two", 1))
    lines: list[str] = []
    report = run_toy(original, methods=("ft", "wise", "lp"), out=tmp_path, progress=lines.append)
    assert [(one.method, one.fine_tuned_on, one.seed) for one in report.failed] == [
        ("ft", "two", 1),
        ("wise", "two", 1),  # starts from the same fine-tuning
    ]
    assert all(
        one.reason.startswith("lr: expected one at which the loss stays finite") for one in report.failed
    )
    assert sum("failed: lr:" in line for line in lines) == 2
    assert len(report.cells) == 18 - 2
    for one, complete in zip(report.summaries, whole.summaries, strict=True):
        assert one.failed == (0 if one.method == "lp" else 2 // 2)
        assert one.mri.by_seed == complete.mri.by_seed[: 2 - one.failed]  # seed 1 is over other data sets
        assert one.matrix["one"] == complete.matrix["one"] and one.ri["one"] == complete.ri["one"]
        assert len(one.ri["two"].by_seed) == 2 - one.failed
    lp = report.of("lp")
    assert lp.difference is not None and len(lp.difference.by_seed) == 1  # the seeds that both have
    records = [json.loads(path.read_text(encoding="utf-8")) for path in (tmp_path / "cells").iterdir()]
    failures = [one for one in records if one["failed"] is not None]
    assert len(records) == 18 and len(failures) == 2
    assert all(one["cell"] is None and one["failed"].startswith("lr:") for one in failures)
    again = run_toy(original, methods=("ft", "wise", "lp"), out=tmp_path)
    assert again.reused == 16 and again.failed == report.failed  # tried again
    diverging.clear()
    mended = run_toy(original, methods=("ft", "wise", "lp"), out=tmp_path)
    assert mended.reused == 16 and not mended.failed and numbers(mended) == numbers(whole)


def test_where_all_fine_tunings_of_a_set_diverge_there_is_no_number(
    original: Classifier, diverging: set[tuple[str, int]], tmp_path: Path
) -> None:
    diverging.update({("two", 0), ("two", 1)})
    report = run_toy(original, methods=("ft", "lp"))
    ft = report.of("ft")
    assert math.isnan(ft.mri.value) and ft.mri.by_seed == [] and ft.failed == 2
    assert set(ft.matrix["two"].values()) == {None} and None not in ft.matrix["one"].values()
    path = report.save(tmp_path / "r.json")
    document = json.loads(path.read_text(encoding="utf-8"))
    assert document["summaries"][0]["matrix"]["two"]["one"] is None
    assert document["summaries"][0]["mri"]["value"] is None
    assert InheritanceReport.load(path).to_json() == report.to_json()  # NaN is not equal to itself
    assert str(report).startswith("inherit, suite ") and str(len(report.failed)) + " failed" in str(report)
    assert len(str(report).splitlines()) == 1 + len(report.summaries)
    text = page(report)
    assert "2 failed, in no number here" in text
    assert "fine-tuned on two, evaluated on three: failed" in text
    assert "nan" not in text.replace("a loss of nan", "")
    stream = io.StringIO()
    print_report(stream, report)
    table = stream.getvalue()
    assert "2 failed, in no number above" in table and "nan" not in table.replace("a loss of nan", "")
    assert str(report.failed[0]) in table
    stream = io.StringIO()
    write_csv(stream, report)
    rows = list(csv.DictReader(io.StringIO(stream.getvalue())))
    lost = [row for row in rows if row["evaluated_on"] == ""]
    assert [(row["method"], row["fine_tuned_on"], row["seed"]) for row in lost] == [
        ("ft", "two", "0"),
        ("ft", "two", "1"),
    ]


def test_a_run_where_everything_diverges_still_reports(original: Classifier) -> None:
    report = run_toy(original, methods=("ft",), seeds=1, lr=1e30, warmup=0)
    assert not report.cells and len(report.failed) == 3
    assert "failed" in page(report)
    print_report(io.StringIO(), report)


def test_an_encoder_without_finite_logits_is_refused(original: Classifier) -> None:
    broken = original.clone()
    nn.init.constant_(broken.head.bias, math.nan)
    with refused("encoder Body 1: logits: expected finite ones, got nan"):
        run_toy(broken)


def test_kept_weights_that_are_missing_are_made_again(original: Classifier, tmp_path: Path) -> None:
    run_toy(original, out=tmp_path, seeds=1, methods=("lp",))
    assert run_toy(original, out=tmp_path, seeds=1, methods=("lp",), weights=True).reused == 0
    next((tmp_path / "weights").iterdir()).unlink()
    assert run_toy(original, out=tmp_path, seeds=1, methods=("lp",), weights=True).reused == 2
    assert len(list((tmp_path / "weights").iterdir())) == 3


def test_another_configuration_has_other_cells(original: Classifier, tmp_path: Path) -> None:
    run_toy(original, out=tmp_path, seeds=1)
    for change in ({"lr": 0.01}, {"seed": 1}, {"methods": ("wise?alpha=0.4",)}, {"distance": True}):
        assert run_toy(original, out=tmp_path, **({"seeds": 1} | change)).reused == 0
    other = original.clone()
    with torch.no_grad():
        other.head.bias += 1
    assert run_toy(other, out=tmp_path, seeds=1).reused == 0
    assert run_toy(original, out=tmp_path, seeds=1, methods=("ft",)).reused == 3


def test_damaged_cells_are_named(original: Classifier, tmp_path: Path) -> None:
    run_toy(original, out=tmp_path, seeds=1, methods=("ft",))
    path = sorted((tmp_path / "cells").iterdir())[0]
    text = path.read_text(encoding="utf-8")
    for damaged, words in (
        (text[:50], "expected a JSON document"),
        (text.replace("inheritance-cell", "other"), "expected a document of schema"),
        (text.replace('"schema_version": 1', '"schema_version": 7'), "expected schema_version 1, got 7"),
        (text.replace('"lr": 0.05', '"lr": 0.06'), "expected the configuration that the file is named by"),
        (text.replace('"pretraining_after"', '"pretraining_afer"'), "pretraining_afer"),
    ):
        path.write_text(damaged, encoding="utf-8")
        with refused(path.name, words):
            run_toy(original, out=tmp_path, seeds=1, methods=("ft",))


def test_a_full_disk_leaves_no_cell(
    original: Classifier, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        with refused("_seed0_", "expected a file that can be written, got: No space left on device"):
            run_toy(original, out=tmp_path, seeds=1, methods=("ft",))
    assert list((tmp_path / "cells").iterdir()) == []
    assert run_toy(original, out=tmp_path, seeds=1, methods=("ft",)).reused == 0


def test_two_runs_in_one_folder(original: Classifier, tmp_path: Path) -> None:
    """The second runs from within the first, after its first cell: it reads that one and makes all others."""
    inner: list[InheritanceReport] = []

    def progress(line: str) -> None:
        if "RI" in line and not inner:
            inner.append(run_toy(original, out=tmp_path, methods=("ft",)))

    outer = run_toy(original, out=tmp_path, methods=("ft",), progress=progress)
    assert inner[0].reused == 1 and outer.reused == 5
    assert outer.cells == inner[0].cells


def test_scores_and_distances(original: Classifier) -> None:
    report = run_toy(original, methods=("ft", "lp"), seeds=1, score=True, distance=True, distance_samples=30)
    for one in report.cells:
        assert one.score_before is not None and one.score_after is not None and one.distance is not None
        assert one.score_before == report.cells[0].score_before
        # linear probing leaves the encoder as it was, so the data-free score cannot change
        assert (one.score_after == one.score_before) == (one.method == "lp")
        assert set(one.distance) == {*one.others, PRETRAINING}
    by_name = {one.fine_tuned_on: one.distance or {} for one in report.cells}
    assert by_name["one"]["two"] == by_name["two"]["one"] > 0
    suite = make_suite()
    with torch.no_grad():
        first, second = (
            (original.features(part.load(torch.arange(len(part)))), part.y)
            for part in (suite.data[0].test, suite.pretraining)
        )
    found = dataset_distance(first, second, samples=30, seed=0).value
    assert by_name["one"][PRETRAINING] == pytest.approx(found, rel=1e-6)


def test_weights_are_kept(original: Classifier, tmp_path: Path) -> None:
    run_toy(original, out=tmp_path, seeds=1, methods=("lp",), weights=True)
    files = sorted((tmp_path / "weights").iterdir())
    assert len(files) == 3 and {one.suffix for one in files} == {".safetensors"}
    assert equal(weights(make_classifier().load(files[0]).body), weights(original.body))


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"methods": ()}, "methods: expected at least one, got none"),
        ({"methods": ("ft", "ft")}, "methods: expected different ones, got 'ft' twice"),
        ({"seeds": 0}, "seeds: expected at least 1, got 0"),
        ({"weights": True}, "weights: expected a folder out to keep them in, got none"),
        ({"threads": 0}, "threads: expected at least 1, got 0"),
        ({"distance_samples": 1}, "distance_samples: expected at least 2, got 1"),
        ({"score_samples": 1}, "score_samples: expected at least 4, got 1"),
        ({"score_eps": 1.0}, "eps: expected values in [0, 1)"),
        ({"epochs": 0}, "epochs: expected an integer of at least 1, got 0"),
    ],
)
def test_options_are_checked(options: dict[str, Any], words: str, original: Classifier) -> None:
    with refused(words):
        run_toy(original, **options)


def test_suites_are_checked(original: Classifier) -> None:
    suite = make_suite()
    one, two = suite.data[0], suite.data[1]
    for changed, words in (
        (replace(suite, data=(one,)), "expected at least 2 data sets, one to fine-tune on"),
        (replace(suite, data=(one, one)), "expected distinct names, got 'one' twice"),
        (
            replace(suite, data=(one, replace(two, name=PRETRAINING))),
            "expected names other than 'pre-training'",
        ),
        (
            replace(suite, data=(one, DataSet("two", make_part(1, (2,)), two.test))),
            "at least 2 classes in two",
        ),
        (
            replace(suite, classes=("a", "b", "c")),
            "expected columns below 3 in one, the number of classes, got 3",
        ),
    ):
        with refused("suite toy:", words):
            inherit(original, changed)
    with refused("suite: expected one of digits-rib, imagenet-rib, folders", "did you mean digits-rib?"):
        inherit(original, "digits-ribs")
    with refused("pretraining: expected to be left out for suite digits-rib"):
        inherit(original, pretraining="somewhere")
    with refused("root: expected to be left out for suite toy, got 'somewhere'"):
        inherit(original, suite, root="somewhere")
    with refused("encoder: expected one of images [1, 8, 8] for suite digits-rib, got [1, 6, 6]"):
        inherit(original)
    with refused("checkpoint: expected a single encoder"):
        inherit(["timm:a", "timm:b"], checkpoint="x")


# Folders


def write_images(folder: Path, classes: tuple[str, ...], count: int = 2, seed: int = 0) -> Path:
    random = np.random.default_rng(seed)
    for place, name in enumerate(classes):
        (folder / name).mkdir(parents=True)
        for number in range(count):
            pixels = random.integers(0, 120, (12, 10, 3), dtype=np.uint8)
            pixels[:, :, place % 3] += 120
            Image.fromarray(pixels).save(folder / name / f"{number}.png")
    return folder


PREPARE = Prepare((3, 8, 8), 1.0)
WORDNET = tuple(f"n{number:08d}" for number in (1, 2, 3, 5, 8, 13))


def test_user_folders(tmp_path: Path) -> None:
    before = write_images(tmp_path / "val", ("cat", "dog", "fox"))
    data = {
        "x": write_images(tmp_path / "x", ("cat", "dog"), 3),
        "y": write_images(tmp_path / "y", ("dog", "fox", "owl")),
    }
    suite = folder_suite(data, before, PREPARE)
    assert suite.classes == ("cat", "dog", "fox") and suite.shape == (3, 8, 8)
    x, y = (one.test for one in suite.data)
    assert x.columns == ((0,), (1,)) and x.y.tolist() == [0, 0, 0, 1, 1, 1]
    assert y.columns == ((1,), (2,)) and y.y.tolist() == [0, 0, 1, 1]
    assert suite.notes == ("y: 1 class folders left out, whose classes the classifier does not have (owl)",)
    pixels = x.load(torch.tensor([0, 5]))
    assert pixels.shape == (2, 3, 8, 8) and pixels.dtype == torch.float32
    assert pixels.min() >= 0 and pixels.max() <= 1
    with Image.open(data["x"] / "cat" / "0.png") as opened:
        whole = np.asarray(opened.resize((8, 9), Image.Resampling.BILINEAR))  # 12 x 10 at 8 pixels of width
    assert any(np.allclose(pixels[0].permute(1, 2, 0).numpy() * 255, whole[i : i + 8]) for i in (0, 1))
    assert suite.data[0].train is suite.data[0].test  # the published protocol has one part only
    assert suite.sha256 == folder_suite(data, before, PREPARE).sha256
    assert suite.sha256 != folder_suite(data, before, Prepare((3, 8, 8), 0.9)).sha256


def test_other_images_are_other_data(tmp_path: Path) -> None:
    """A file of the same name and size with other pixels."""
    before = write_images(tmp_path / "val", ("cat", "dog"))
    file = before / "cat" / "0.bmp"
    sums = []
    for level in (10, 200):
        Image.new("RGB", (8, 8), (level, 0, 0)).save(file)
        sums.append(folder_suite({"x": before}, before, PREPARE).sha256)
    assert sums[0] != sums[1]


def test_files_are_decoded_in_portions(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from synbench_fast.inheritance import folders

    before = write_images(tmp_path / "val", ("cat", "dog"), 5)
    (before / "cat" / "3.png").write_bytes(b"")
    expected = folder_suite({"x": before}, before, PREPARE, skip_unreadable=True)
    monkeypatch.setattr(folders, "_AT_ONCE", 2)
    found = folder_suite({"x": before}, before, PREPARE, skip_unreadable=True)
    assert (found.sha256, found.notes) == (expected.sha256, expected.notes)
    rows = torch.arange(9)
    assert torch.equal(found.pretraining.load(rows), expected.pretraining.load(rows))
    monkeypatch.setattr(folders, "_IN_MEMORY", 0)
    again = folder_suite({"x": before}, before, PREPARE, skip_unreadable=True)
    assert torch.equal(again.pretraining.load(rows), expected.pretraining.load(rows))


def test_folder_mistakes(tmp_path: Path) -> None:
    before = write_images(tmp_path / "val", ("cat", "dog"))
    good = write_images(tmp_path / "good", ("cat", "dog"))
    (tmp_path / "empty").mkdir()
    hollow = write_images(tmp_path / "hollow", ("cat",))
    (hollow / "dog").mkdir()
    apart = write_images(tmp_path / "apart", ("owl", "elk"))
    for folder, words in (
        (tmp_path / "none", ("d: expected a folder with one folder of images per class, got no folder",)),
        (tmp_path / "empty", ("d: expected one folder of images per class, got none in",)),
        (hollow, ("d: expected images in every class folder, got none in", "dog")),
        (
            apart,
            ("d: expected class folders among the classes of the pre-training data", "(it has elk, owl)"),
        ),
    ):
        with refused(*words):
            folder_suite({"g": good, "d": folder}, before, PREPARE)
    with refused("pretraining: expected the folder of the pre-training data's validation images, got none"):
        folder_suite({"g": good}, None, PREPARE)


def test_unreadable_images(tmp_path: Path) -> None:
    before = write_images(tmp_path / "val", ("cat", "dog"))
    data = {name: write_images(tmp_path / name, ("cat", "dog"), 3) for name in ("x", "y")}
    whole = (data["x"] / "dog" / "1.png").read_bytes()
    (data["x"] / "dog" / "1.png").write_bytes(whole[: len(whole) // 2])
    (data["x"] / "cat" / "0.png").write_bytes(b"no image")
    words = ("2 of 6 images cannot be read, the first is", "0.png")
    with refused("x: expected images that can be read, or skip_unreadable", *words):
        folder_suite(data, before, PREPARE)
    suite = folder_suite(data, before, PREPARE, skip_unreadable=True)
    assert suite.data[0].test.y.tolist() == [0, 0, 1, 1]
    assert len(suite.notes) == 1 and all(one in suite.notes[0] for one in ("x: skipped: ", *words))
    for number in range(3):
        (data["y"] / "cat" / f"{number}.png").write_bytes(b"")
    with refused("y: expected a readable image in every class folder, got one without: 3 of 6"):
        folder_suite(data, before, PREPARE, skip_unreadable=True)


@pytest.fixture(scope="module")
def imagenet(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """All eight variants of an ImageNet of 6 classes."""
    root = tmp_path_factory.mktemp("imagenet")
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


def test_imagenet_variants(imagenet: Path) -> None:
    suite = imagenet_suite(imagenet, imagenet / "val", PREPARE, objectnet_map=imagenet / "map.json")
    parts = {one.name: one.test for one in suite.data}
    assert list(parts) == ["V2", "A", "R", "Sketch", "ObjectNet", "Cartoon", "Drawing", "C"]
    assert suite.classes == WORDNET
    assert parts["V2"].columns == tuple((n,) for n in range(6))
    assert parts["A"].columns == ((0,), (1,), (2,)) and parts["R"].columns == ((2,), (3,), (4,))
    assert parts["ObjectNet"].columns == ((1, 4), (0,))
    groups = parts["C"].groups
    assert groups is not None and len(parts["C"]) == 150 and torch.equal(groups.unique(), torch.arange(75))
    assert any("air_freshener" in one for one in suite.notes)
    by_name = imagenet_suite(None, imagenet / "val", PREPARE, data={"V2": imagenet / "val"}, only=("V2",))
    assert by_name.data[0].test.columns == parts["V2"].columns


def test_imagenet_mistakes(imagenet: Path, tmp_path: Path) -> None:
    options: dict[str, Any] = {"pretraining": imagenet / "val", "prepare": PREPARE}
    with refused("data: expected names of V2, A, R", "got 'Sketc', did you mean Sketch?"):
        imagenet_suite(imagenet, only=("Sketc",), **options)
    with refused("data: expected the folder of A, as A=FOLDER or as imagenet-a in the root folder"):
        imagenet_suite(tmp_path, only=("A",), **options)
    with refused("objectnet_map: expected a JSON file of ObjectNet's folder names"):
        imagenet_suite(imagenet, only=("ObjectNet",), **options)
    (tmp_path / "map.json").write_text('{"banana": "n99"}', encoding="utf-8")
    with refused("objectnet_map: expected a JSON object", "got 'n99' for 'banana'"):
        imagenet_suite(imagenet, only=("ObjectNet",), objectnet_map=tmp_path / "map.json", **options)
    mapping = {"banana": [WORDNET[0], WORDNET[1]], "alarm_clock": [WORDNET[1]]}
    (tmp_path / "map.json").write_text(json.dumps(mapping), encoding="utf-8")
    with refused("a class for one folder only", "for 'banana' and 'alarm_clock'"):
        imagenet_suite(imagenet, only=("ObjectNet",), objectnet_map=tmp_path / "map.json", **options)
    write_images(tmp_path / "c" / "fog" / "1", WORDNET)
    with refused("C: expected 15 corruptions with severities 1 to 5", "gaussian_noise/1 and 73 more missing"):
        imagenet_suite(None, only=("C",), data={"C": tmp_path / "c"}, **options)


NETWORK = """
from torch import nn

class Network(nn.Sequential):
    input_shape = (3, 8, 8)

def make():
    return Network(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(144, 8), nn.ReLU(), nn.Linear(8, 6))
"""


def test_imagenet_variants_from_the_command_line(
    imagenet: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "network.py"
    file.write_text(NETWORK, encoding="utf-8")
    words = ["inherit", f"python:{file}:make", "--suite", "imagenet-rib", "--root", str(imagenet)]
    words += ["--pretraining", str(imagenet / "val"), "--only", "A,R,ObjectNet,C", "--epochs", "1"]
    words += ["--objectnet-map", str(imagenet / "map.json"), "--methods", "lp", "--seeds", "1", "--no-score"]
    assert cli.main([*words, "--no-distance", "--format", "csv", "--device", "cpu"]) == 0
    out, err = capsys.readouterr()
    rows = list(csv.DictReader(io.StringIO(out)))
    assert len(rows) == 4 * 5
    assert {row["evaluated_on"] for row in rows} == {"A", "R", "ObjectNet", "C", PRETRAINING}
    assert "warning: seeds: 1 gives no interval" in err


TORCHVISION = """
from torchvision.models import shufflenet_v2_x0_5

def make():
    network = shufflenet_v2_x0_5(num_classes=6)
    network.input_shape = (3, 32, 32)
    return network
"""


def test_all_imagenet_variants_with_a_network_of_torchvision(
    imagenet: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "network.py"
    file.write_text(TORCHVISION, encoding="utf-8")
    data = tmp_path / "C"
    data.symlink_to(imagenet / "imagenet-c", target_is_directory=True)
    words = ["inherit", f"python:{file}:make", "--suite", "imagenet-rib", "--root", str(imagenet)]
    words += ["--pretraining", str(imagenet / "val"), "--objectnet-map", str(imagenet / "map.json")]
    words += ["--data", f"C={data}", "--methods", "ft", "--seeds", "1", "--epochs", "1", "--no-score"]
    words += ["--distance-samples", "4", "--device", "cpu", "--out", str(tmp_path / "out")]
    assert cli.main(words) == 0
    _, err = capsys.readouterr()
    assert "ObjectNet: 1 class folders left out" in err and "(air_freshener)" in err
    report = InheritanceReport.load(tmp_path / "out" / "inherit.json")
    assert {one.name: (one.classes, one.test) for one in report.data} == {
        "V2": (6, 12), "A": (3, 6), "R": (3, 6), "Sketch": (6, 12), "ObjectNet": (2, 4), "Cartoon": (6, 12),
        "Drawing": (6, 12), "C": (2, 150),
    }  # fmt: skip
    assert len(report.cells) == 8 and len(report.matrix("ft")["C"]) == 9
    for cell in report.cells:
        assert cell.distance is not None and set(cell.distance) == {*cell.others, PRETRAINING}
        # images of two classes, one each, in every of the 75: a mean of accuracies 0, 1/2 and 1
        assert (150 * cell.accuracy_after["C"]) == pytest.approx(round(150 * cell.accuracy_after["C"]))
    data.unlink()
    for corruption in IMAGENET_CORRUPTIONS[:-1]:
        (data / corruption).parent.mkdir(exist_ok=True)
        (data / corruption).symlink_to(imagenet / "imagenet-c" / corruption, target_is_directory=True)
    assert cli.main(words) == 1
    _, err = capsys.readouterr()
    assert err.splitlines()[-1].startswith("error: C: expected 15 corruptions with severities 1 to 5 in ")
    assert err.splitlines()[-1].endswith("got no jpeg_compression/1 and 4 more missing")


# digits-rib


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


def test_digits_from_the_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = [
        "inherit",
        "--suite",
        "digits-rib",
        "--methods",
        "lp,wise",
        "--seeds",
        "1",
        "--epochs",
        "1",
    ]
    words += ["--score-samples", "128", "--out", str(tmp_path)]
    assert cli.main(words) == 0
    out, err = capsys.readouterr()
    assert "mRI" in out and "1 seeds" not in out and err.count("RI") == 16
    report = InheritanceReport.load(tmp_path / "inherit.json")
    assert len(report.cells) == 2 * 8 and report.methods == ["lp", "wise"]
    assert report.of("lp").score_change is not None and report.of("lp").score_change.value == 0
    before = report.cells[0]
    assert before.pretraining_before > 0.9 and before.accuracy_before["resampled"] > 0.8
    assert before.accuracy_before["sketch"] < before.accuracy_before["resampled"]
    assert report.statistic is not None and "spearman" in out
    assert any(one.predictor == "distance to pre-training" for one in report.statistic.correlations)
    rows = list(csv.DictReader(io.StringIO((tmp_path / "inherit.csv").read_text(encoding="utf-8"))))
    assert len(rows) == 16 * 9 and rows[0]["distance"] == "" and float(rows[1]["distance"]) > 0
    html = (tmp_path / "inherit.html").read_text(encoding="utf-8")
    assert html.count("<svg") == 1 + 2 + 3


def test_digits_encoder_is_repeatable() -> None:
    assert digits_encoder("untrained").sha256() == digits_encoder("untrained").sha256()
    assert digits_encoder("untrained").sha256() != digits_encoder("untrained?seed=1").sha256()


# Report


@pytest.fixture(scope="module")
def report(original: Classifier) -> InheritanceReport:
    return run_toy(original, score=True, score_samples=64, distance=True, distance_samples=30)


def test_report_reads_back(report: InheritanceReport, tmp_path: Path) -> None:
    path = report.save(tmp_path / "r.json")
    assert InheritanceReport.load(path) == report
    assert report.of("wise").method == "wise"
    with refused("method: expected one of ft, wise, got 'wize', did you mean wise?"):
        report.of("wize")
    path.write_text('{"schema": "other"}', encoding="utf-8")
    with refused("r.json: schema: expected 'synbench-fast/inheritance', got 'other'"):
        InheritanceReport.load(path)


def test_page_needs_nothing_else(report: InheritanceReport) -> None:
    text = page(replace(report, encoders=report.encoders, warnings=["<script>alert(1)</script>"]))
    assert "<script" not in text and "&lt;script&gt;alert" in text
    assert not re.search(r"""(?:src|href)=["'](?!data:)""", text)
    assert "default-src 'none'" in text and "style=" not in text
    for one in report.summaries:
        assert f"{100 * one.mri.value:+.1f}" in text
    matrix = report.matrix("ft")
    assert f"fine-tuned on two, evaluated on three: {100 * matrix['two']['three']:+.1f} points" in text
    assert text.count("<circle") == 3 * len(report.cells)


def test_page_escapes_names(original: Classifier) -> None:
    suite = make_suite()
    named = replace(suite, data=(replace(suite.data[0], name="<b>&"), *suite.data[1:]))
    text = page(inherit(original, named, methods=("lp",), seeds=1, score=False, distance=False))
    assert "<b>" not in text and "&lt;b&gt;&amp;" in text


def test_csv_has_a_row_per_cell_and_data_set(report: InheritanceReport) -> None:
    stream = io.StringIO()
    write_csv(stream, report)
    rows = list(csv.DictReader(io.StringIO(stream.getvalue())))
    assert len(rows) == len(report.cells) * 4
    first = rows[1]
    assert float(first["change"]) == pytest.approx(float(first["after"]) - float(first["before"]))


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--suite", "digit"], "error: --suite: expected one of digits-rib, imagenet-rib, folders"),
        (["--suite", "folders"], "error: ENCODER: expected at least one, such as timm:"),
        (["--seeds", "0"], "error: --seeds: expected an integer of at least 1, got '0'"),
        (["--data", "x"], "error: --data: expected NAME=DIR, got 'x'"),
        (["--data", "x=a", "--data", "x=b"], "error: --data: expected distinct names, got 'x' twice"),
        (["--weights"], "error: --weights: expected --out DIR"),
        (["--lr", "fast"], "error: --lr: expected a number, got 'fast'"),
        (["--objectnet-map", "nowhere"], "error: --objectnet-map: expected an existing file"),
    ],
)
def test_command_line_mistakes(words: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["inherit", *words]) == 2
    assert capsys.readouterr().err.startswith(message)


@pytest.mark.parametrize(
    ("module", "package", "words"),
    [("sklearn.datasets", "scikit-learn", ["--no-distance"]), ("ot", "POT", [])],
)
def test_a_missing_library_is_named_before_anything_is_trained(
    module: str,
    package: str,
    words: list[str],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setitem(sys.modules, module, None)
    assert cli.main(["inherit", *words]) == 1
    assert capsys.readouterr().err == (
        f"error: {package}: expected it to be installed, got no such library; "
        'pip install "synbench-fast[inherit]"\n'
    )


def test_failed_fine_tunings_end_in_an_error(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = [
        "inherit",
        "digits:untrained",
        "--methods",
        "lp,ft",
        "--seeds",
        "1",
        "--epochs",
        "1",
        "--no-score",
    ]
    words += ["--no-distance", "--lr", "1e25", "--warmup", "0", "--quiet", "--out", str(tmp_path)]
    assert cli.main(words) == 1
    out, err = capsys.readouterr()
    last = err.splitlines()[-1]
    assert re.match(r"error: inherit: \d+ of 16 fine-tunings failed, the first is digits:untrained: ", last)
    assert "failed, in no number above" in out
    report = InheritanceReport.load(tmp_path / "inherit.json")
    assert len(report.failed) + len(report.cells) == 16 and report.failed
    assert (tmp_path / "inherit.html").is_file() and (tmp_path / "inherit.csv").is_file()


def test_mistakes_of_the_run_are_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["inherit", "--methods", "ftt"]) == 1
    assert capsys.readouterr().err.count("\n") == 1
    assert issubclass(errors.SynbenchError, ValueError)
