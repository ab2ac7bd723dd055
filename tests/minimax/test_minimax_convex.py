"""Convex problems with a known minimax solution: the iterates reach it as fast as theory says.

The problem is the smallest circle around points, L_i(x) = |x - a_i|^2 / 2, whose minimax solution is the centre
of that circle; the points are chosen so that the mean's solution, their centroid, is elsewhere.
"""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from synbench_fast.minimax import TaskRobustLoss

# The circle around the first three (an acute triangle) holds the others: centre 0, radius 1.
ANGLES = torch.tensor([0.3, 2.2, 4.4], dtype=torch.float64)
POINTS = torch.cat(
    [
        torch.stack([ANGLES.cos(), ANGLES.sin()], 1),
        torch.tensor([[0.8, 0.1], [0.7, 0.3], [0.6, 0.2], [0.9, 0.2], [0.75, 0.0]], dtype=torch.float64),
    ]
)
N = len(POINTS)
MINIMAX = 0.5
START = torch.tensor([1.5, 1.5], dtype=torch.float64)
DISTANCE = float(START.norm())  # of the start from the solution


def losses(x: Tensor) -> Tensor:
    return (x - POINTS).square().sum(1) / 2


def gap(x: Tensor) -> float:
    """How far the worst loss at x is above the least possible one."""
    return float(losses(x.detach()).max()) - MINIMAX


def descend(
    robust: TaskRobustLoss, rate: float, steps: int, radius: float = math.inf
) -> tuple[Tensor, Tensor]:
    """Gradient descent, in a ball around the origin if a radius is given: the last and the average iterate."""
    x = START.clone().requires_grad_()
    total = torch.zeros_like(START)
    for _ in range(steps):
        total += x.detach()
        (grad,) = torch.autograd.grad(robust(losses(x)).objective, x)
        with torch.no_grad():
            x -= rate * grad
            x *= min(1.0, radius / float(x.norm()))
    return x.detach(), total / steps


def test_the_problem_is_as_described() -> None:
    assert float(POINTS.norm(dim=1).max()) == pytest.approx(1)
    grid = torch.cartesian_prod(*[torch.linspace(-1, 1, 81, dtype=torch.float64)] * 2)
    worst = (grid[:, None] - POINTS).square().sum(2).amax(1) / 2
    assert float(grid[worst.argmin()].norm()) < 1e-12
    assert float(worst.min()) == pytest.approx(MINIMAX)


def test_the_mean_misses_the_solution() -> None:
    x, _ = descend(TaskRobustLoss(N, mode="mean"), 0.5, 200)
    torch.testing.assert_close(x, POINTS.mean(0))
    assert gap(x) > 0.3


@pytest.mark.parametrize("temperature", [0.3, 0.1, 0.03, 0.01])
@pytest.mark.parametrize("steps", [10, 100, 1000])
def test_softmax_converges_to_within_t_log_n(temperature: float, steps: int) -> None:
    """F_T is convex and smooth with constant S = 1 + G^2 / T: gradient descent with step 1 / S comes within
    S |x_0 - x*|^2 / (2 steps) of its minimum, and F_T <= max <= F_T + T log n."""
    lipschitz = DISTANCE + 1  # |x - a_i| within the ball that descent does not leave
    smoothness = 1 + lipschitz**2 / temperature
    x, _ = descend(TaskRobustLoss(N, temperature=temperature), 1 / smoothness, steps)
    assert -1e-12 <= gap(x) <= temperature * math.log(N) + smoothness * DISTANCE**2 / (2 * steps)


def test_softmax_with_a_temperature_for_the_number_of_steps() -> None:
    """T = G |x_0 - x*| / sqrt(2 log n steps) makes both terms alike: the gap falls as 1 / sqrt(steps)."""
    lipschitz = DISTANCE + 1
    for steps in (30, 300, 2000):
        temperature = lipschitz * DISTANCE / math.sqrt(2 * math.log(N) * steps)
        smoothness = 1 + lipschitz**2 / temperature
        x, _ = descend(TaskRobustLoss(N, temperature=temperature), 1 / smoothness, steps)
        bound = lipschitz * DISTANCE * math.sqrt(2 * math.log(N) / steps) + DISTANCE**2 / (2 * steps)
        assert gap(x) <= bound
    assert gap(x) < 0.05


def test_softmax_smoothing_bias_is_within_t_log_n_and_not_zero() -> None:
    """At the minimum of F_T itself."""
    for temperature in (0.2, 0.05):
        x, _ = descend(TaskRobustLoss(N, temperature=temperature), temperature, 500)
        again, _ = descend(TaskRobustLoss(N, temperature=temperature), temperature, 510)
        torch.testing.assert_close(x, again, rtol=0, atol=1e-9)
        assert temperature * 1e-3 < gap(x) <= temperature * math.log(N)


@pytest.mark.parametrize("steps", [50, 500, 2000])
def test_exponentiated_averages_converge_as_the_root_of_log_n_over_steps(steps: int) -> None:
    """Descent in x against multiplicative weights, on the ball of radius R around the origin:

        gap(average) <= D^2 / (2 eta K) + eta G^2 / 2 + T log(n) / K,

    with D the distance of the start from the solution, G = R + 1 and T = 1 / step size of the weights. With
    eta = D / (G sqrt K) and T = M sqrt(K / (8 log n)), M the range of the losses, that is of order
    sqrt(log n / K).
    """
    radius = DISTANCE
    lipschitz = radius + 1
    span = lipschitz**2 / 2
    rate = DISTANCE / (lipschitz * math.sqrt(steps))
    temperature = span * math.sqrt(steps / (8 * math.log(N)))
    robust = TaskRobustLoss(N, mode="exponentiated", temperature=temperature)
    _, average = descend(robust, rate, steps, radius)
    bound = DISTANCE * lipschitz / math.sqrt(steps) + span * math.sqrt(math.log(N) / (8 * steps))
    assert -1e-12 <= gap(average) <= bound
    if steps == 2000:
        assert gap(average) < 0.1  # the mean's is above 0.3


def test_hard_is_the_subgradient_method() -> None:
    """gap(average) <= D G / sqrt(K) with step D / (G sqrt K)."""
    lipschitz = DISTANCE + 1
    for steps in (100, 1000):
        _, average = descend(
            TaskRobustLoss(N, mode="hard"), DISTANCE / (lipschitz * math.sqrt(steps)), steps, DISTANCE
        )
        assert -1e-12 <= gap(average) <= DISTANCE * lipschitz / math.sqrt(steps)


def test_excess_loss_finds_the_smallest_regret() -> None:
    """Tasks with floors: L_i + c_i with the c_i as reference has the same solution as without both."""
    floors = torch.linspace(0, 3, N, dtype=torch.float64)
    raw, excess = TaskRobustLoss(N, temperature=0.02), TaskRobustLoss(N, temperature=0.02)
    ends = []
    for robust, reference in ((raw, None), (excess, floors)):
        x = START.clone().requires_grad_()
        for _ in range(700):
            (grad,) = torch.autograd.grad(robust(losses(x) + floors, reference=reference).objective, x)
            with torch.no_grad():
                x -= 0.01 * grad
        ends.append(gap(x))
    assert ends[1] <= 0.02 * math.log(N) < ends[0]
