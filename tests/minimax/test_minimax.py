"""TaskRobustLoss: its objective and weights, and that no loop, number or task breaks them."""

from __future__ import annotations

import math
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from checks import PATIENCE, refused
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

import synbench_fast as sb
from synbench_fast.minimax import MODES, TaskRobustLoss, group_losses

ROOT = Path(__file__).resolve().parents[2]
F64 = torch.float64
FINITE = st.floats(-(2.0**100), 2.0**100, allow_nan=False, width=32)


def made(tasks: int, mode: str, temperature: float = 0.5, **options: Any) -> TaskRobustLoss:
    if mode in ("softmax", "exponentiated"):
        options["temperature"] = temperature
    return TaskRobustLoss(tasks, mode=mode, **options)


def leaf(*values: float) -> Tensor:
    return torch.tensor(values, dtype=F64, requires_grad=True)


def value(found: Any) -> float:
    return float(found.objective.detach())


def gradient(robust: TaskRobustLoss, values: Tensor, *rest: Any, **options: Any) -> Tensor:
    (found,) = torch.autograd.grad(robust(values, *rest, **options).objective, values)
    return found


def test_definitions() -> None:
    values, p = leaf(0.3, 1.1, 0.9), torch.tensor([0.2, 0.3, 0.5], dtype=F64)
    temperature = 0.4
    power = p * (values.detach() / temperature).exp()
    expected = {
        "mean": ((p * values).sum(), p),
        "softmax": (temperature * power.sum().log(), power / power.sum()),
        "hard": (values[1], torch.tensor([0.0, 1.0, 0.0])),
        "exponentiated": ((power / power.sum() * values).sum(), power / power.sum()),
    }
    for mode, (objective, weights) in expected.items():
        found = made(3, mode, temperature)(values, weights=7 * p)
        tolerance = 1e-6 if mode == "exponentiated" else 1e-12  # whose history is float32
        torch.testing.assert_close(found.objective, objective, rtol=tolerance, atol=0)
        torch.testing.assert_close(found.weights, weights.to(F64), rtol=tolerance, atol=0)
        assert not found.weights.requires_grad


@settings(max_examples=60, deadline=None)
@given(
    st.lists(FINITE, min_size=1, max_size=9),
    st.sampled_from([0.0, 1e-300, 1e-30, 1e-3, 1.0, 1e3, 1e30, 1e300, math.inf]),
    st.sampled_from([torch.float32, F64]),
)
def test_any_losses_and_temperature_give_finite_numbers_inside_the_bracket(
    values: list[float], temperature: float, dtype: torch.dtype
) -> None:
    losses = torch.tensor(values, dtype=dtype, requires_grad=True)
    n, top = len(values), float(losses.detach().max())
    for mode in MODES:
        if mode == "exponentiated" and temperature == 0:
            continue
        robust = made(n, mode, temperature)
        for _ in range(3):
            found = robust(losses)
            assert found.objective.isfinite()
            assert float(found.weights.sum()) == pytest.approx(1, abs=1e-5)
            assert float(found.weights.min()) >= 0
            torch.testing.assert_close(torch.autograd.grad(found.objective, losses)[0], found.weights)
    slack = 1e-5 * (1 + float(losses.detach().abs().max()))
    objective = value(made(n, "softmax", temperature)(losses))
    assert objective <= top + slack
    assert top <= objective + temperature * math.log(n) + slack if n > 1 else objective == pytest.approx(top)


def test_limits_of_the_temperature() -> None:
    values = leaf(0.3, 1.1, 0.9)
    for cold in (0.0, 1e-40, 1e-6):
        assert value(made(3, "softmax", cold)(values)) == pytest.approx(1.1)
    for hot in (1e9, 1e30, math.inf):
        found = made(3, "softmax", hot)(values)
        assert value(found) == pytest.approx(2.3 / 3, abs=1e-6)
        torch.testing.assert_close(found.weights, torch.full((3,), 1 / 3, dtype=F64), atol=1e-6, rtol=0)
    small = values.detach().float().requires_grad_()
    assert value(made(3, "softmax", 1e7)(small)) == pytest.approx(2.3 / 3, abs=1e-3)


@pytest.mark.parametrize("mode", MODES)
def test_gradient_is_the_weighted_sum_of_the_tasks_gradients(mode: str) -> None:
    torch.manual_seed(0)
    net, x = nn.Linear(5, 4).double(), torch.randn(7, 5, dtype=F64)
    robust = made(4, mode)
    losses = net(x).square().mean(0)
    each = [torch.autograd.grad(one, net.weight, retain_graph=True)[0] for one in losses]
    objective, weights = robust(losses)
    (found,) = torch.autograd.grad(objective, net.weight)
    torch.testing.assert_close(found, sum(w * g for w, g in zip(weights, each, strict=True)))


@pytest.mark.parametrize("mode", MODES)
def test_equal_tasks_give_the_gradient_of_the_mean(mode: str) -> None:
    robust = made(3, mode)
    for level in (0.7, 0.2, 5.0):
        values = leaf(level, level, level)
        found = robust(values)
        assert value(found) == pytest.approx(level)
        torch.testing.assert_close(gradient(robust, values), torch.full((3,), 1 / 3, dtype=F64))


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_a_hopeless_task_is_left_out_and_counted(mode: str, bad: float) -> None:
    robust, without = made(3, mode), made(2, mode)
    for step in range(3):
        found = robust(leaf(1.0, bad, 2.0))
        expected = without(leaf(1.0, 2.0))
        torch.testing.assert_close(found.objective, expected.objective)
        torch.testing.assert_close(found.weights[[0, 2]], expected.weights)
        assert found.weights[1] == 0
        assert robust.dropped.tolist() == [0, step + 1, 0]
    assert gradient(robust, leaf(1.0, bad, 2.0))[1] == 0


@pytest.mark.parametrize("mode", MODES)
def test_a_diverging_task_never_gives_nan(mode: str) -> None:
    """Its loss grows without bound, to inf and NaN, while it is trained with the others."""
    robust = made(2, mode, 1e-3)
    theta = torch.tensor([1.0, 1.0], requires_grad=True)
    for step in range(200):
        losses = torch.stack([theta[0] ** 2, theta[1].detach() * 3.0**step - theta[1]])
        (grad,) = torch.autograd.grad(robust(losses).objective, theta)
        assert grad.isfinite().all()
        with torch.no_grad():
            theta -= 0.1 * grad
    assert robust.dropped[1] > 0
    assert robust.dropped[0] == 0


def test_a_graph_that_would_turn_a_zero_gradient_into_nan_is_cut_off() -> None:
    """The gradient of log at 0 times a weight of 0 is NaN: a mapping protects from it, as documented."""
    theta = torch.tensor([0.0, 2.0], requires_grad=True)
    robust = TaskRobustLoss(["fine", "log"])
    (grad,) = torch.autograd.grad(robust({"fine": theta.sum(), "log": -theta[0].log()}).objective, theta)
    assert grad.tolist() == [1.0, 1.0]
    stacked = torch.stack([theta.sum(), -theta[0].log()])
    (grad,) = torch.autograd.grad(robust(stacked).objective, theta)
    assert grad.isnan().tolist() == [True, False]


def test_no_task_left() -> None:
    robust = TaskRobustLoss(2)
    values = leaf(math.nan, math.inf)
    found = robust(values)
    assert found.objective.isnan() and found.weights.tolist() == [0, 0]
    assert gradient(robust, values).tolist() == [0, 0]
    found = robust(leaf(1.0, 2.0), torch.zeros(2))
    assert value(found) == 0 and found.weights.tolist() == [0, 0]


@pytest.mark.parametrize("mode", MODES)
def test_absent_tasks_leave_the_objective_to_the_others(mode: str) -> None:
    names = ["a", "b", "c"]
    expected = made(2, mode)(leaf(1.0, 2.0))
    values = leaf(1.0, 2.0)
    for found in (
        TaskRobustLoss(names, mode=mode, **_temperature(mode))({"c": values[1], "a": values[0]}),
        TaskRobustLoss(names, mode=mode, **_temperature(mode))([values[0], None, values[1]], [3, 9, 4]),
        made(3, mode)(leaf(1.0, 0.0, 2.0), torch.tensor([5, 0, 2])),
        made(3, mode)(leaf(1.0, 8.0, 2.0), weights={"0": 1, "2": 1}),
    ):
        torch.testing.assert_close(found.objective, expected.objective)
        torch.testing.assert_close(found.weights[[0, 2]], expected.weights)
        assert found.weights[1] == 0


def _temperature(mode: str) -> dict[str, float]:
    return {"temperature": 0.5} if mode in ("softmax", "exponentiated") else {}


def test_excess_over_a_reference() -> None:
    values = leaf(5.0, 1.0)
    found = TaskRobustLoss(["hard", "easy"], mode="hard")(values, reference={"hard": 4.5, "easy": 0.1})
    assert (value(found), found.weights.tolist()) == (pytest.approx(0.9), [0, 1])
    running = TaskRobustLoss(2, mode="hard", reference="minimum")
    assert value(running(leaf(5.0, 1.0))) == 0
    found = running(leaf(5.5, 1.25))
    assert (value(found), found.weights.tolist()) == (0.5, [1, 0])
    running.eval()
    running(leaf(0.0, 0.0))
    assert running.minimum.tolist() == [5.0, 1.0]


def test_exponentiated_weights_add_up_what_softmax_sees_once() -> None:
    robust = made(2, "exponentiated", 10.0)
    for step in range(1, 6):
        weights = robust(leaf(2.0, 1.0)).weights
        torch.testing.assert_close(
            weights, torch.tensor([0.1 * step, 0.0], dtype=F64).softmax(0), rtol=1e-6, atol=0
        )
    assert made(2, "softmax", 10.0)(leaf(2.0, 1.0)).weights[0] == pytest.approx(1 / (1 + math.exp(-0.1)))


@pytest.mark.parametrize("mode", MODES)
def test_state_dict_continues_a_run(mode: str) -> None:
    torch.manual_seed(0)
    batches = torch.rand(12, 3)
    options: dict[str, Any] = {"reference": "minimum", "accumulation": 2}
    whole, first, second = (made(3, mode, **options) for _ in range(3))
    expected = [whole(one).weights for one in batches]
    for one in batches[:6]:
        first(one)
    second.load_state_dict(first.state_dict())
    for one, weights in zip(batches[6:], expected[6:], strict=True):
        assert torch.equal(second(one).weights, weights)
    assert not torch.equal(expected[0], expected[-1]) or mode == "mean"


def test_eval_mode_and_conversion_leave_the_state_alone() -> None:
    robust = made(2, "exponentiated", 3.0)
    robust(torch.tensor([1.0, 2.0]))
    before = {key: value.clone() for key, value in robust.state_dict().items()}
    robust.eval()
    robust(torch.tensor([9.0, math.nan]))
    holder = nn.Sequential(robust).half().double().bfloat16()
    torch.testing.assert_close(robust.state_dict(), before, rtol=0, atol=0, equal_nan=True)
    assert robust.history.dtype == torch.float32
    assert "exponentiated" in repr(holder)


@pytest.mark.parametrize("mode", MODES)
def test_window_has_the_gradient_of_one_large_batch(mode: str) -> None:
    """Micro-batches with very different shares of the tasks, some without a task."""
    torch.manual_seed(1)
    net, x = nn.Linear(5, 1).double(), torch.randn(24, 5, dtype=F64)
    groups = torch.tensor([0, 1, 2] * 4 + [2] * 6 + [0] * 3 + [-1] * 3)
    slices = [slice(0, 8), slice(8, 12), slice(12, 24)]

    def losses(part: slice) -> Any:
        return group_losses(net(x[part])[:, 0].square(), groups[part], 3)

    robust, whole = made(3, mode), made(3, mode)
    for _ in range(3):
        expected = whole(*losses(slice(0, 24)))
        (grad,) = torch.autograd.grad(expected.objective, net.weight)
        with torch.no_grad():
            seen = [losses(part) for part in slices]
        found = torch.zeros_like(grad)
        with robust.window(seen) as weights:
            torch.testing.assert_close(weights, expected.weights)
            for part in slices:
                objective = robust(*losses(part)).objective
                torch.testing.assert_close(objective, expected.objective)
                found += torch.autograd.grad(objective / len(slices), net.weight)[0]
        torch.testing.assert_close(found, grad)
    torch.testing.assert_close(robust.state_dict(), whole.state_dict(), equal_nan=True)


@pytest.mark.parametrize("mode", MODES)
def test_accumulation_uses_the_weights_of_the_window_before(mode: str) -> None:
    robust, whole = made(2, mode, accumulation=3), made(2, mode)
    counts = torch.tensor([[1.0, 4.0], [0.0, 2.0], [3.0, 2.0]], dtype=F64)
    windows = [torch.rand(3, 2, dtype=F64, generator=torch.Generator().manual_seed(n)) for n in range(4)]
    expected = torch.full((2,), 0.5, dtype=F64)
    for number, window in enumerate(windows):
        total = torch.zeros(2, dtype=F64)
        for values, count in zip(window, counts, strict=True):
            values = values.clone().requires_grad_()
            found = robust(values, count)
            torch.testing.assert_close(found.weights, expected, rtol=1e-5, atol=0)
            total += torch.autograd.grad(found.objective / 3, values)[0]
        if number:  # counts are known by now: each task's share is its weight, as in one large batch
            torch.testing.assert_close(total, expected, rtol=1e-5, atol=0)
        mean = (window * counts).sum(0) / counts.sum(0)
        expected = whole(mean).weights
        if mode == "softmax":
            torch.testing.assert_close(robust.last_losses.double(), mean, rtol=1e-6, atol=0)


def test_a_task_not_seen_yet_counts_as_the_worst() -> None:
    robust = TaskRobustLoss(3, temperature=0.5, accumulation=2)
    for _ in range(2):
        robust(leaf(1.0, 2.0, 0.0), torch.tensor([1, 1, 0]))
    weights = robust(leaf(1.0, 2.0, 3.0)).weights
    assert weights[2] == weights[1] > weights[0]


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_autocast_and_scaling_change_nothing_but_the_rounding_of_the_model(dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    net, x = nn.Linear(8, 3), torch.randn(16, 8)
    robust = TaskRobustLoss(3, temperature=0.1)
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**12)
    optimizer = torch.optim.SGD(net.parameters(), 0.1)
    with torch.autocast("cpu", dtype=dtype):
        found = robust(net(x).square().mean(0))
    assert found.objective.dtype == found.weights.dtype == torch.float32
    scaler.scale(found.objective).backward()
    scaler.unscale_(optimizer)
    objective, weights = robust(net(x).square().mean(0))
    torch.testing.assert_close(found.weights, weights, rtol=0.05, atol=0.01)
    (expected,) = torch.autograd.grad(objective, net.weight)
    torch.testing.assert_close(net.weight.grad, expected, rtol=0.05, atol=0.02)
    raw = robust(torch.tensor([60000.0, 60000.0, 1.0], dtype=torch.float16))  # whose sum overflows in float16
    assert value(raw) == pytest.approx(60000, rel=1e-4)


def test_the_objective_is_scaled_as_any_loss_when_float16_overflows() -> None:
    """An overflow in the model's gradient makes the scaler skip the step; the next ones are taken."""
    theta = torch.tensor([2.0, 1.0], requires_grad=True)
    optimizer = torch.optim.SGD([theta], 0.1)
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**20, growth_interval=1000)
    robust, taken = TaskRobustLoss(2), []
    for _ in range(12):
        before = theta.detach().clone()
        optimizer.zero_grad()
        scaler.scale(robust(theta.half().square() * 4).objective).backward()
        scaler.step(optimizer)
        scaler.update()
        taken.append(not torch.equal(before, theta.detach()))
    assert taken == sorted(taken) and taken[-1] and not taken[0]
    assert theta.isfinite().all()


DISTRIBUTED = """
import sys, torch
from torch import distributed, nn
from torch.nn.parallel import DistributedDataParallel
from synbench_fast.minimax import MODES, TaskRobustLoss, group_losses

rank, store = int(sys.argv[1]), sys.argv[2]
distributed.init_process_group("gloo", init_method="file://" + store, rank=rank, world_size=2)
torch.manual_seed(0)
x = torch.randn(24, 6, dtype=torch.float64)
y = torch.randn(24, dtype=torch.float64)
groups = torch.tensor([0, 1, 2, 3] * 2 + [0] * 8 + [2] * 6 + [-1] * 2)  # task 1 and 3: the first process only
mine = [slice(0, 12), slice(12, 24)][rank]
halves = [slice(12 * rank, 12 * rank + 5), slice(12 * rank + 5, 12 * rank + 12)]

def losses(model, part):
    return group_losses((model(x[part])[:, 0] - y[part]).square(), groups[part], 4)

for mode in MODES:
    options = {"temperature": 0.3} if mode in ("softmax", "exponentiated") else {}
    net, alone = nn.Linear(6, 1).double(), nn.Linear(6, 1).double()
    alone.load_state_dict(net.state_dict())
    model = DistributedDataParallel(net)
    robust = TaskRobustLoss(4, mode=mode, **options)
    whole = TaskRobustLoss(4, mode=mode, synchronize=False, **options)
    steps = [torch.optim.SGD(one.parameters(), 0.05) for one in (net, alone)]
    for number in range(6):
        expected = whole(*losses(alone, slice(0, 24)))
        if number < 3:
            found = robust(*losses(model, mine))
            found.objective.backward()
        else:
            with torch.no_grad():
                seen = [losses(net, part) for part in halves]
            with robust.window(seen):
                with model.no_sync():
                    (robust(*losses(model, halves[0])).objective / 2).backward()
                found = robust(*losses(model, halves[1]))
                (found.objective / 2).backward()
        expected.objective.backward()
        torch.testing.assert_close(found.objective, expected.objective)
        torch.testing.assert_close(found.weights, expected.weights)
        torch.testing.assert_close(net.weight.grad, alone.weight.grad)
        for one in steps:
            one.step()
            one.zero_grad()
    torch.testing.assert_close(robust.state_dict(), whole.state_dict(), equal_nan=True)
    delayed = TaskRobustLoss(4, mode=mode, accumulation=2, **options)
    for number in range(2):
        with model.no_sync():
            (delayed(*losses(model, halves[0])).objective / 2).backward()
        found = delayed(*losses(model, halves[1]))
        (found.objective / 2).backward()
        if number:  # the weights and counts of the first window, which had the same losses
            values = losses(alone, slice(0, 24))
            expected = TaskRobustLoss(4, mode=mode, synchronize=False, **options)(*values)
            expected.objective.backward()
            torch.testing.assert_close(found.weights, expected.weights, rtol=1e-5, atol=1e-7)
            torch.testing.assert_close(net.weight.grad, alone.weight.grad, rtol=1e-5, atol=1e-7)
        net.zero_grad()
        alone.zero_grad()
    robust.eval()
    if rank == 0:
        robust(*losses(net, mine))  # no exchange, so no wait for the other process
one = torch.tensor([1.0, float("nan") if rank else 1.0], requires_grad=True)
objective, weights = TaskRobustLoss(2)(one)
objective.backward()
assert weights.tolist() == [1, 0] and one.grad.tolist() == [1, 0], (weights, one.grad)
distributed.destroy_process_group()
print("done", rank)
"""


def test_two_processes_have_the_gradient_of_one(tmp_path: Path) -> None:
    script = tmp_path / "work.py"
    script.write_text(DISTRIBUTED)
    processes = [
        subprocess.Popen(
            [sys.executable, str(script), str(rank), str(tmp_path / "store")],
            cwd=ROOT,
            env={**_environment(), "PYTHONPATH": os.pathsep.join(sys.path)},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(2)
    ]
    done = [one.communicate(timeout=PATIENCE) for one in processes]
    assert [out for out, _ in done] == ["done 0\n", "done 1\n"], done


def _environment() -> dict[str, str]:
    import os

    return {**os.environ, "OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo"}


@pytest.mark.parametrize(
    ("options", "parts"),
    [
        ({"tasks": 0}, ["tasks: expected at least 1, got 0"]),
        ({"tasks": []}, ["tasks: expected at least one name, got []"]),
        ({"tasks": "noun"}, ["tasks: expected their names or their number, got 'noun'"]),
        ({"tasks": ["a", "a"]}, ["tasks: expected different names, got 'a' twice"]),
        ({"mode": "sofmax"}, ["mode: expected one of softmax, ", "got 'sofmax', did you mean softmax?"]),
        ({"temperature": -1}, ["temperature: expected a number of at least 0, got -1"]),
        ({"temperature": math.nan}, ["temperature: expected a number of at least 0, got nan"]),
        ({"temperature": 0, "mode": "exponentiated"}, ["temperature: expected a number above 0, got 0"]),
        ({"temperature": 1.0, "mode": "hard"}, ["temperature: expected none for mode hard, got 1.0"]),
        ({"reference": "minimun"}, ["reference: expected None or 'minimum'", "did you mean minimum?"]),
        ({"accumulation": 0}, ["accumulation: expected an integer of at least 1, got 0"]),
    ],
)
def test_refused_arguments(options: dict[str, Any], parts: list[str]) -> None:
    with refused(*parts):
        TaskRobustLoss(**{"tasks": 2, **options})


@pytest.mark.parametrize(
    ("losses", "options", "parts"),
    [
        (torch.zeros(3), {}, ["losses: expected shape [2], one for each task, got [3]"]),
        (torch.zeros(2, dtype=torch.int64), {}, ["losses: expected a floating dtype, got torch.int64"]),
        (
            {"nuon": torch.zeros(())},
            {},
            ["losses: expected tasks of noun, verb, got 'nuon', did you mean noun?"],
        ),
        ({}, {}, ["losses: expected at least one task, got none"]),
        ([torch.zeros(())], {}, ["losses: expected 2 values, one for each task, got 1"]),
        ([torch.zeros(2), None], {}, ["losses: expected a scalar tensor for each task, got [2]"]),
        ([1.0, 2.0], {}, ["losses: expected a scalar tensor for each task, got float"]),
        (
            torch.zeros(2),
            {"counts": torch.ones(1)},
            ["counts: expected shape [2], one for each task, got [1]"],
        ),
        (torch.zeros(2), {"weights": [1]}, ["weights: expected 2 values, one for each task, got 1"]),
        (
            torch.zeros(2),
            {"reference": {"adverb": 1}},
            ["reference: expected tasks of noun, verb, got 'adverb'"],
        ),
    ],
)
def test_refused_losses(losses: Any, options: dict[str, Any], parts: list[str]) -> None:
    with refused(*parts):
        TaskRobustLoss(["noun", "verb"])(losses, **options)


def test_refused_windows() -> None:
    robust = TaskRobustLoss(2)
    with refused("seen: expected the losses of at least one micro-batch, got none"), robust.window([]):
        pass
    pair = (torch.zeros(2), None)
    with (
        robust.window([pair]),
        refused("window: expected the one before to be over, got another inside it"),
        robust.window([pair]),
    ):
        pass
    assert robust(torch.zeros(2)).weights.tolist() == [0.5, 0.5]


def test_the_package_is_reached_without_importing_it() -> None:
    code = "import sys, synbench_fast as sb; assert 'torch' not in sys.modules; print(sb.minimax.TaskRobustLoss(2).mode)"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout == "softmax\n"
    assert sb.minimax.TaskRobustLoss is TaskRobustLoss
