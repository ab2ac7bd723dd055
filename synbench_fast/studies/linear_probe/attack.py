"""l2 and l-infinity attacks on the input, by AutoPGD of the Adversarial Robustness Toolbox.

For each of the likeliest wrong classes k in turn, AutoPGD (Croce and Hein, arXiv 2003.01690) ascends
L_k - L_y, a loss that neither saturates nor depends on the scale of the logits. A sample is lost as soon as
one of the attacks, at this budget or a smaller one of the same norm, has it misclassified.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from synbench_fast.errors import SynbenchError, first_line
from synbench_fast.runtime.global_state import seeded
from synbench_fast.runtime.optional import optional

__all__ = ["check_differentiable", "survivors"]


class _Callable(nn.Module):
    """A function as a Module; its own parameters and modes are not touched."""

    def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self._function = function

    def forward(self, x: Tensor) -> Tensor:
        return self._function(x)


class _MarginLoss(nn.Module):
    """L_k - L_y of targets e_y - e_k [n, K]; per sample with reduction "none"."""

    def __init__(self) -> None:
        super().__init__()
        self.reduction = "mean"

    def forward(self, logits: Tensor, target: Any) -> Tensor:
        gain = -(torch.as_tensor(target).to(logits) * logits).sum(1)
        return gain if self.reduction == "none" else gain.sum()


def check_differentiable(
    logits: Callable[[Tensor], Tensor], x: Tensor, spec: str, hint: str = "; --no-attack leaves them out"
) -> None:
    """SynbenchError unless torch can differentiate `logits` at the one input x [1, ...]; `hint` ends its line."""
    try:
        with torch.enable_grad():
            point = x.clone().requires_grad_(True)
            torch.autograd.grad(logits(point).sum(), point)
    except (RuntimeError, NotImplementedError) as error:
        raise SynbenchError(
            f"encoder {spec}: expected one that torch can differentiate for the attacks, "
            f"got {first_line(error)}{hint}"
        ) from None


def survivors(
    logits: Callable[[Tensor], Tensor],
    x: Tensor,
    y: Tensor,
    correct: Tensor,
    *,
    norm: str,
    budgets: Sequence[float],
    classes: int,
    steps: int,
    targets: int,
    batch_size: int,
    seed: int,
    progress: Callable[[int], None] = lambda done: None,
) -> NDArray[np.bool_]:
    """Which of the samples that are `correct` stay so: bool [len(budgets), n], in the order of `budgets`.

    `logits` maps inputs in [0, 1] to [n, classes]; perturbed inputs stay in [0, 1] and within the budget in
    `norm` "l2" or "linf". `targets` is the number of wrong classes tried. A budget of 0 changes nothing.
    """
    evasion = optional("art.attacks.evasion", "adversarial-robustness-toolbox", "attack")
    wrappers = optional("art.estimators.classification", "adversarial-robustness-toolbox", "attack")
    art = wrappers.PyTorchClassifier(
        _Callable(logits),
        loss=_MarginLoss(),
        input_shape=tuple(x.shape[1:]),
        nb_classes=classes,
        clip_values=(0.0, 1.0),
        device_type="cpu",  # where the library's arrays are; `logits` goes to its device and back
    )
    points, labels = x.cpu().numpy(), y.cpu().numpy()
    alive: NDArray[np.bool_] = correct.cpu().numpy().copy()
    ranked = np.array(art.predict(points, batch_size=batch_size))
    ranked[np.arange(len(labels)), labels] = -np.inf
    wrong = np.argsort(-ranked, axis=1, kind="stable")[:, : min(targets, classes - 1)]
    unit = np.eye(classes, dtype=np.float32)
    rows = np.zeros((len(budgets), len(alive)), dtype=bool)
    done = 0
    with seeded(seed):
        for index in sorted(range(len(budgets)), key=lambda i: budgets[i]):
            budget = budgets[index]
            if budget > 0:
                attack = evasion.AutoProjectedGradientDescent(
                    art,
                    norm=2 if norm == "l2" else math.inf,
                    eps=budget,
                    eps_step=2 * budget,
                    max_iter=steps,
                    nb_random_init=1,
                    batch_size=batch_size,
                    loss_type=None,
                    verbose=False,
                )
                for target in wrong.T:
                    left = np.flatnonzero(alive)
                    if len(left):
                        toward = unit[labels[left]] - unit[target[left]]
                        moved = attack.generate(points[left], toward)
                        _check_budget(moved - points[left], moved, norm, budget)
                        answer = art.predict(moved, batch_size=batch_size).argmax(1)
                        alive[left[answer != labels[left]]] = False
            rows[index] = alive
            done += 1
            progress(done)
    return rows


def _check_budget(change: NDArray[Any], moved: NDArray[Any], norm: str, budget: float) -> None:
    """The attack library's promise: within the ball, to float32 rounding, and within [0, 1]."""
    flat = change.reshape(len(change), -1).astype(np.float64)
    size = np.linalg.norm(flat, axis=1) if norm == "l2" else np.abs(flat).max(axis=1)
    limit = budget * (1 + 1e-4) + 1e-6
    if size.max() > limit or moved.min() < -1e-6 or moved.max() > 1 + 1e-6:
        raise RuntimeError(f"the attack library left its {norm} ball of radius {budget:g}: {size.max():g}")
