"""Task separation: every helper against a loop, and tasks that are absent from a batch."""

from __future__ import annotations

import math
import re

import pytest
import torch
from checks import refused
from torch import Tensor
from torch.nn import functional

from synbench_fast.minimax import (
    TOKEN_CLASSES,
    TaskRobustLoss,
    fit_clusters,
    group_losses,
    head_losses,
    nearest_cluster,
    patch_losses,
    patch_regions,
    patch_roughness,
    quantile_edges,
    token_classes,
    token_losses,
)


def by_loop(
    values: Tensor, groups: Tensor, tasks: int, mask: Tensor | None = None
) -> tuple[list[float], list[int]]:
    means, counts = [], []
    for task in range(tasks):
        held = [
            float(value)
            for value, group, ok in zip(
                values.detach().flatten(),
                groups.flatten(),
                torch.ones_like(groups).flatten() if mask is None else mask.flatten(),
                strict=True,
            )
            if int(group) == task and bool(ok)
        ]
        means.append(sum(held) / len(held) if held else 0.0)
        counts.append(len(held))
    return means, counts


def test_group_losses() -> None:
    torch.manual_seed(0)
    values = torch.rand(6, 5, dtype=torch.float64, requires_grad=True)
    groups = torch.randint(-1, 5, (6, 5))
    groups[groups == 2] = 7  # task 2 is absent; -1, 4 and 7 are no tasks
    mask = torch.rand(6, 5) < 0.7
    found = group_losses(values, groups, 4, mask=mask)
    means, counts = by_loop(values, groups, 4, mask)
    assert found.counts.tolist() == counts and counts[2] == 0
    torch.testing.assert_close(found.losses, torch.tensor(means, dtype=torch.float64))
    (grad,) = torch.autograd.grad(found.losses[1], values)
    inside = (groups == 1) & mask
    torch.testing.assert_close(grad, inside.double() / counts[1])


def test_what_does_not_count_may_hold_anything() -> None:
    values = torch.tensor([1.0, math.nan, 3.0, math.inf], requires_grad=True)
    found = group_losses(values, torch.tensor([0, 0, 1, -1]), 3, mask=torch.tensor([True, False, True, True]))
    assert found.losses.tolist() == [1, 3, 0] and found.counts.tolist() == [1, 1, 0]
    objective, weights = TaskRobustLoss(3)(*found)
    objective.backward()
    assert values.grad is not None and values.grad.tolist() == [float(weights[0]), 0, float(weights[1]), 0]
    assert group_losses(values.half()[:1], torch.tensor([0]), 1).losses.dtype == torch.float32


def test_many_elements_in_half_precision_do_not_stop_counting() -> None:
    values = torch.full((70_000,), 0.5, dtype=torch.float16)
    found = group_losses(values, torch.zeros(70_000, dtype=torch.int64), 1)
    assert found.losses.tolist() == [0.5] and found.counts.tolist() == [70_000]


def test_token_losses_with_tags_and_with_a_table() -> None:
    torch.manual_seed(0)
    logits = torch.randn(3, 7, 11)
    labels = torch.randint(11, (3, 7))
    labels[torch.rand(3, 7) < 0.5] = -100
    table = torch.arange(11) % 3
    table[4] = -1
    tags = torch.where(labels >= 0, table[labels.clamp_min(0)], 0)
    values = functional.cross_entropy(logits.flatten(0, 1), labels.flatten(), reduction="none").view(3, 7)
    means, counts = by_loop(values, tags, 4, labels != -100)
    for given in (tags, table):
        found = token_losses(logits, labels, given, 4)
        torch.testing.assert_close(found.losses, torch.tensor(means))
        assert found.counts.tolist() == counts and counts[3] == 0


def test_token_classes() -> None:
    words = ["[CLS]", "<s>", "the", "##ing", "1984", "##7", "...", "##", "$", "a1", "[", "don't", "pad"]
    names = [TOKEN_CLASSES[i] for i in token_classes(words, special=["pad"])]
    assert names == [
        "special", "special", "word", "piece", "number", "number", "punctuation", "punctuation", "punctuation",
        "word", "punctuation", "word", "special",
    ]  # fmt: skip
    names = [
        TOKEN_CLASSES[i]
        for i in token_classes(["\u2581the", "ing", "\u2581", "\u25812", "."], boundary="\u2581")
    ]
    assert names == ["word", "piece", "special", "number", "punctuation"]


def test_patch_losses() -> None:
    torch.manual_seed(0)
    prediction, target = torch.randn(4, 6, 9), torch.randn(4, 6, 9)
    mask = torch.rand(4, 6) < 0.5
    regions = patch_regions(2, 3, "columns", 3)
    values = (prediction - target).square().mean(-1)
    for groups in (regions, regions.expand(4, 6)):
        found = patch_losses(prediction, target, groups, 3, mask=mask)
        means, counts = by_loop(values, regions.expand(4, 6), 3, mask)
        torch.testing.assert_close(found.losses, torch.tensor(means))
        assert found.counts.tolist() == counts


def test_patch_regions() -> None:
    assert patch_regions(4, 4, "rings").view(4, 4).tolist() == [
        [1, 1, 1, 1], [1, 0, 0, 1], [1, 0, 0, 1], [1, 1, 1, 1],
    ]  # fmt: skip
    assert patch_regions(5, 5, "rings", 3).view(5, 5)[2].tolist() == [2, 1, 0, 1, 2]
    assert patch_regions(2, 4, "quadrants").tolist() == [0, 0, 1, 1, 2, 2, 3, 3]
    assert patch_regions(3, 2, "rows", 3).tolist() == [0, 0, 1, 1, 2, 2]
    assert patch_regions(1, 5, "columns").tolist() == [0, 0, 0, 1, 1]


def test_roughness_orders_patches_by_frequency() -> None:
    i = torch.arange(16.0)
    waves = torch.stack([torch.cos(2 * math.pi * k * (i + 0.5) / 16).expand(16, 16) for k in range(8)])
    found = patch_roughness(waves)
    assert found[0] == 0
    assert (found.diff() > 0).all()
    torch.manual_seed(0)
    assert float(patch_roughness(torch.randn(400, 16, 16)).mean()) == pytest.approx(2 / 3, abs=0.01)
    torch.testing.assert_close(patch_roughness(5 + 3 * waves), found)


def test_quantile_edges_cut_into_equal_groups() -> None:
    values = torch.randperm(90).double()
    edges = quantile_edges(values, 3)
    assert torch.bincount(torch.bucketize(values, edges, right=True)).tolist() == [30, 30, 30]
    assert quantile_edges(values, 1).tolist() == []
    few = torch.arange(4.0)  # where the other side of an edge would leave a group empty
    (call,) = re.findall(r"`torch\.bucketize\(x, edges(.*)\)` groups x", quantile_edges.__doc__ or "")
    right = {"": False, ", right=True": True}[call]
    assert torch.bucketize(few, quantile_edges(few, 4), right=right).tolist() == [0, 1, 2, 3]


def test_head_losses() -> None:
    values = {"depth": torch.tensor([[1.0, 5.0]]), "text": torch.zeros(0)}
    found = head_losses(values, ["rgb", "depth", "text"], masks={"depth": torch.tensor([[True, False]])})
    assert found.losses.tolist() == [0, 1, 0] and found.counts.tolist() == [0, 1, 0]


def test_clusters() -> None:
    generator = torch.Generator().manual_seed(0)
    truth = torch.arange(300) % 3
    means = torch.tensor([[0.0, 0.0], [10.0, 0.0], [0.0, 10.0]])
    x = means[truth] + torch.randn(300, 2, generator=generator)
    centres = fit_clusters(x, 3, seed=4)
    group = nearest_cluster(x, centres)
    assert len({(int(a), int(b)) for a, b in zip(truth, group, strict=True)}) == 3
    for one in range(3):  # a fixed point of Lloyd's iteration
        torch.testing.assert_close(x[group == one].mean(0), centres[one])
    assert torch.equal(fit_clusters(x, 3, seed=4), centres)
    assert fit_clusters(torch.ones(5, 2), 3).shape == (3, 2)


@pytest.mark.parametrize(
    ("call", "parts"),
    [
        (
            lambda: group_losses(torch.zeros(2), torch.zeros(3).long(), 2),
            ["groups: expected shape [2], got [3]"],
        ),
        (
            lambda: group_losses(torch.zeros(2), torch.zeros(2), 2),
            ["groups: expected integers, got torch.float32"],
        ),
        (
            lambda: group_losses(torch.zeros(2), torch.zeros(2).long(), 0),
            ["tasks: expected at least 1, got 0"],
        ),
        (
            lambda: group_losses(torch.zeros(2), torch.zeros(2).long(), 1, mask=torch.ones(1)),
            ["mask: expected shape [2], got [1]"],
        ),
        (
            lambda: token_losses(torch.zeros(2, 3), torch.zeros(3).long(), torch.zeros(3).long(), 1),
            ["labels: expected shape [2], got [3]"],
        ),
        (
            lambda: token_losses(torch.zeros(2, 3), torch.zeros(2).long(), torch.zeros(4).long(), 1),
            ["tags: expected shape [2], got [4]"],
        ),
        (
            lambda: patch_losses(torch.zeros(1, 2, 3), torch.zeros(1, 2, 4), torch.zeros(2).long(), 1),
            ["prediction: expected the shape [B, P, D] of the target, got [1, 2, 3] for [1, 2, 4]"],
        ),
        (
            lambda: patch_regions(2, 2, "ring"),
            ["kind: expected one of rings, ", "got 'ring', did you mean rings?"],
        ),
        (lambda: patch_regions(0, 2), ["height, width: expected at least 1, got 0 and 2"]),
        (lambda: patch_regions(2, 2, "rows", 3), ["tasks: expected 1 to 2 for rows of 2 x 2, got 3"]),
        (
            lambda: patch_roughness(torch.zeros(3, 1)),
            ["patches: expected shape [..., h, w] of 2 x 2 or more, got [3, 1]"],
        ),
        (
            lambda: quantile_edges(torch.tensor([math.nan]), 2),
            ["values: expected finite values for 2 groups, got 1"],
        ),
        (
            lambda: head_losses({"rgv": torch.zeros(1)}, ["rgb"]),
            ["values: expected heads of rgb, got 'rgv'", "rgb?"],
        ),
        (lambda: head_losses({}, ["rgb"]), ["values: expected the losses of at least one head, got none"]),
        (
            lambda: fit_clusters(torch.zeros(2, 1), 3),
            ["features: expected shape [N, F] with N of at least 3, got [2, 1]"],
        ),
        (
            lambda: fit_clusters(torch.full((2, 1), math.inf), 2),
            ["features: expected finite values, got others"],
        ),
        (
            lambda: nearest_cluster(torch.zeros(2, 1), torch.zeros(2, 3)),
            ["features: expected shape [N, F] of centres [n, F], got [2, 1] and [2, 3]"],
        ),
    ],
)
def test_refused(call: object, parts: list[str]) -> None:
    with refused(*parts):
        call()  # type: ignore[operator]
