"""The task-robust loss in a training step, against the mean loss."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import torch
from harness import Case
from torch import Tensor, nn

from synbench_fast.minimax import TaskRobustLoss, patch_losses, patch_regions

TASKS = 8
STEPS = 4
WIDTH = 192
PATCHES = 64
PIXELS = 48


class Masked(nn.Module):
    """A transformer of four blocks over 64 patches of 3 x 4 x 4, width 192: images of 32 x 32."""

    def __init__(self) -> None:
        super().__init__()
        layer = nn.TransformerEncoderLayer(
            WIDTH, 3, 4 * WIDTH, dropout=0.0, activation="gelu", batch_first=True, norm_first=True
        )
        self.embed, self.head = nn.Linear(PIXELS, WIDTH), nn.Linear(WIDTH, PIXELS)
        self.blocks = nn.TransformerEncoder(layer, 4, enable_nested_tensor=False)

    def forward(self, patches: Tensor, mask: Tensor) -> Tensor:
        found: Tensor = self.head(self.blocks(self.embed(patches.masked_fill(mask[..., None], 0))))
        return found


def training(mode: str, batch: int, **options: Any) -> Case:
    """Whole steps (forward, loss, backward, AdamW) with the tasks weighed, against the mean over all patches."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model, x = Masked(), torch.randn(batch, PATCHES, PIXELS)
        mask = torch.rand(batch, PATCHES) < 0.5
    optimizer = torch.optim.AdamW(model.parameters(), 1e-5)
    groups = patch_regions(8, 8, "rows", TASKS)
    robust = TaskRobustLoss(TASKS, mode=mode, **options)

    def weighed() -> Tensor:
        return robust(*patch_losses(model(x, mask), x, groups, TASKS, mask=mask)).objective

    def mean() -> Tensor:
        error = (model(x, mask) - x).square().mean(-1)
        return (error * mask).sum() / mask.sum()

    def steps(loss: Callable[[], Tensor]) -> float:
        begun = time.perf_counter()
        for _ in range(STEPS):
            optimizer.zero_grad()
            loss().backward()  # type: ignore[no-untyped-call]
            optimizer.step()
        return time.perf_counter() - begun

    def parity() -> tuple[float, float]:
        """The gradient against sum_i w_i grad L_i from one backward pass for each task."""
        (found,) = torch.autograd.grad(weighed(), model.head.weight)
        losses, counts = patch_losses(model(x, mask), x, groups, TASKS, mask=mask)
        weights = TaskRobustLoss(TASKS, mode=mode, **options)(losses.detach(), counts).weights
        each = [torch.autograd.grad(one, model.head.weight, retain_graph=True)[0] for one in losses]
        expected = torch.stack([w * g for w, g in zip(weights, each, strict=True)]).sum(0)
        robust.load_state_dict(TaskRobustLoss(TASKS, mode=mode, **options).state_dict())
        return float((found - expected).abs().max() / expected.abs().max()), 1e-4

    return Case(
        unit="step",
        work=STEPS,
        parity=parity,
        ours=lambda: steps(weighed),
        baseline=lambda: steps(mean),
        baseline_name="the mean loss",
        target=1.03,
        kind="at_most",
        repeat=11,
        note=f"{TASKS} tasks, {STEPS} steps of batch {batch}, transformer of 4 blocks, width {WIDTH}, {PATCHES} patches",
    )


def cases() -> dict[str, Callable[[], Case]]:
    """By name, built lazily."""
    return {
        "minimax_step[softmax]": lambda: training("softmax", 16, temperature=0.1),
        "minimax_step[exponentiated]": lambda: training("exponentiated", 16),
    }
