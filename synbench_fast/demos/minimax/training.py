"""Masked-patch pre-training of a small transformer, and what its frozen features are worth downstream."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from synbench_fast.demos.minimax.data import GROUPS, PATCH, SHAPE, TASKS, Part, patch_groups, patches
from synbench_fast.minimax.loss import TaskRobustLoss
from synbench_fast.minimax.separation import TaskLosses, patch_losses
from synbench_fast.runtime.optional import optional

__all__ = ["MaskedEncoder", "downstream", "pretrain", "upstream"]

_TOKENS = SHAPE[1] * SHAPE[2] // PATCH**2
_BATCH = 64
_RATE = 4e-3


class _Block(nn.Module):
    """Pre-norm attention and a two-layer perceptron."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norms = nn.ModuleList(nn.LayerNorm(width) for _ in range(2))
        self.read, self.write = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.up, self.down = nn.Linear(width, 2 * width), nn.Linear(2 * width, width)

    def forward(self, z: Tensor) -> Tensor:
        batch, tokens, width = z.shape
        mixed: Tensor = self.read(self.norms[0](z))
        q, k, v = mixed.view(batch, tokens, 3, self.heads, width // self.heads).permute(2, 0, 3, 1, 4)
        z = z + self.write(functional.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))
        hidden: Tensor = self.up(self.norms[1](z))
        found: Tensor = z + self.down(functional.gelu(hidden))
        return found


class MaskedEncoder(nn.Module):
    """Images [B, 1, 8, 24] -> features [B, F]; two transformer blocks over 12 patches, then one linear layer.

    `decode` predicts all patches from the features alone, so that F limits what is kept of an image.
    """

    def __init__(self, features: int, width: int = 32) -> None:
        super().__init__()
        self.embed = nn.Linear(PATCH**2, width)
        self.position = nn.Parameter(0.3 * torch.randn(_TOKENS, width))
        self.hidden = nn.Parameter(torch.zeros(width))
        self.blocks = nn.Sequential(*(_Block(width, 4) for _ in range(2)))
        self.norm = nn.LayerNorm(width)
        self.project = nn.Linear(_TOKENS * width, features)
        self.decoder = nn.Linear(features, _TOKENS * PATCH**2)

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """`mask` [B, 12] is True for the patches that are hidden."""
        z = self.embed(patches(x))
        if mask is not None:
            z = torch.where(mask[..., None], self.hidden, z)
        features: Tensor = self.project(self.norm(self.blocks(z + self.position)).flatten(1))
        return features

    def decode(self, features: Tensor) -> Tensor:
        found: Tensor = self.decoder(features)
        return found.view(len(features), _TOKENS, PATCH**2)


def task_losses(model: MaskedEncoder, x: Tensor, mask: Tensor) -> TaskLosses:
    """Mean squared error of the hidden patches of each group; 1 is that of predicting the mean image."""
    return patch_losses(model.decode(model(x, mask)), patches(x), patch_groups(), len(GROUPS), mask=mask)


def pretrain(
    x: Tensor,
    robust: TaskRobustLoss,
    *,
    features: int,
    steps: int,
    seed: int,
    hidden: float,
    reference: Tensor | None = None,
    task_weights: Tensor | None = None,
) -> tuple[MaskedEncoder, list[float]]:
    """The encoder after AdamW with a one-cycle rate, and the mean task weights of the second half of the steps.

    The seed alone makes the first weights, the batches and the masks.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = MaskedEncoder(features)
    draw = torch.Generator().manual_seed(seed)
    optimizer = torch.optim.AdamW(model.parameters(), _RATE)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, _RATE, total_steps=steps)
    used = torch.zeros(len(GROUPS))
    for step in range(steps):
        batch = x[torch.randint(len(x), (_BATCH,), generator=draw)]
        mask = torch.rand(_BATCH, _TOKENS, generator=draw) < hidden
        optimizer.zero_grad()
        objective, weights = robust(
            *task_losses(model, batch, mask), weights=task_weights, reference=reference
        )
        objective.backward()
        used += weights * (step >= steps // 2)
        optimizer.step()
        schedule.step()
    return model.eval().requires_grad_(False), (used / (steps - steps // 2)).tolist()


@torch.no_grad()
def upstream(model: MaskedEncoder, x: Tensor, hidden: float) -> tuple[float, ...]:
    """The loss of each group on images that were not trained on, with masks that are the same for all models."""
    mask = torch.rand(len(x), _TOKENS, generator=torch.Generator().manual_seed(0)) < hidden
    return tuple(task_losses(model, x, mask).losses.tolist())


@torch.no_grad()
def downstream(model: MaskedEncoder, train: Part, test: Part) -> dict[str, float]:
    """Test accuracy of logistic regression (C = 1) on the frozen, standardised features, for each task."""
    linear_model = optional("sklearn.linear_model", "scikit-learn", "demo")
    known, new = (model(part.x).double().numpy() for part in (train, test))
    mean, deviation = known.mean(0), known.std(0)
    deviation[deviation < 1e-6 * deviation.max()] = np.inf  # a feature that never varies says nothing
    known, new = (known - mean) / deviation, (new - mean) / deviation
    found = {}
    for task in TASKS:
        fit = linear_model.LogisticRegression(C=1.0, max_iter=2000).fit(known, train.labels[task])
        found[task] = float((fit.predict(new) == test.labels[task]).mean())
    return found
