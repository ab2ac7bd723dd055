"""Scores in the midst of training: the same steps to the bit, whatever the encoder does and however it fails."""

from __future__ import annotations

import copy
import logging
import random
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from checks import PATIENCE, refused
from torch import Tensor, nn

import synbench_fast as sb
from synbench_fast.integrations.monitor import Monitor

SHAPE = (3, 8, 8)


class Restless(nn.Module):
    """Counts and draws in every forward pass, also in eval mode, and is unsettled by train() and eval()."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("calls", torch.zeros((), dtype=torch.long))
        self.register_buffer("last", torch.zeros(1))
        self.register_buffer("absent", None)
        self.weight = nn.Parameter(torch.ones(1))

    def train(self, mode: bool = True) -> Restless:
        with torch.no_grad():
            self.weight.mul_(1.0001)  # as adapters do that are merged into weights
        return super().train(mode)

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        if "lazy" not in self._buffers and not self.training:
            self.register_buffer("lazy", torch.zeros(1))
        self.last = torch.rand(1)  # another tensor in the buffer's place
        random.random()
        np.random.rand()
        return x * self.weight


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.backbone = nn.Sequential(
            nn.Conv2d(3, 8, 3, stride=2), nn.BatchNorm2d(8), nn.ReLU(), nn.Dropout(0.3), Restless(),
            nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 12),
        )  # fmt: skip
        self.head = nn.Linear(12, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.backbone(x))


def trained(monitor: Monitor | None, steps: int = 6) -> tuple[dict[str, Tensor], list[float], Any]:
    """A run with noise of every kind and two batches per step; the monitor is called between the two as well."""
    torch.manual_seed(0)
    random.seed(0)
    np.random.seed(0)
    net = Net()
    net.backbone[1].eval()  # partly frozen
    net.backbone[0].requires_grad_(False)
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1, momentum=0.9)
    items = [(torch.rand(SHAPE), i % 2) for i in range(24)]
    loader = torch.utils.data.DataLoader(items, batch_size=2, shuffle=True)
    losses = []
    if monitor is not None:
        monitor.begin(net, 0)
    batches = iter(loader)
    for step in range(1, steps + 1):
        for _ in range(2):
            x, y = next(batches)
            x = x + 0.01 * torch.from_numpy(np.random.rand(*x.shape)).float() + random.random()
            with torch.autocast("cpu", dtype=torch.bfloat16):
                loss = nn.functional.cross_entropy(net(x), y)
                if monitor is not None and monitor.due(step):
                    monitor.measure(net, step)
            (loss / 2).backward()
            losses.append(float(loss.detach()))
            if monitor is not None:
                monitor.measure(net, step)
        optimizer.step()
        optimizer.zero_grad()
    states = (random.getstate(), np.random.get_state(), torch.get_rng_state())
    flags = [one.training for one in net.modules()], [p.requires_grad for p in net.parameters()]
    assert torch.is_grad_enabled()
    return copy.deepcopy(net.state_dict()), losses, (states, flags)


def same(one: Any, other: Any) -> bool:
    if isinstance(one, Tensor | np.ndarray):
        return bool((torch.as_tensor(one) == torch.as_tensor(other)).all())
    if isinstance(one, tuple | list):
        return len(one) == len(other) and all(map(same, one, other))
    return bool(one == other)


def budget(**options: Any) -> dict[str, Any]:
    return {"scales": 5, "samples": 40, "every": 2, "strict": True, **options}


@pytest.mark.parametrize(
    "encoder", ["backbone", lambda net: net.backbone, lambda net: lambda x: net.backbone(x)]
)
def test_same_steps_to_the_bit(encoder: Any) -> None:
    monitor = Monitor(encoder, SHAPE, **budget())
    alone, watched = trained(None), trained(monitor)
    assert len(monitor.history) == 6 * 2 + 3
    for name, value in alone[0].items():
        assert torch.equal(watched[0][name], value), name
    assert watched[1] == alone[1]
    assert same(watched[2], alone[2])
    assert not alone[2][1][0][3]  # the part in eval mode is there to be kept


def test_an_encoder_that_is_made_for_the_score_draws_nothing_from_training() -> None:
    def with_new_layers(net: Any) -> nn.Module:
        return nn.Sequential(net.backbone, nn.Linear(12, 6))

    monitor = Monitor(with_new_layers, SHAPE, **budget())
    alone, watched = trained(None), trained(monitor)
    assert same(watched[2], alone[2]) and watched[1] == alone[1]


@pytest.mark.parametrize("wrong", [float("nan"), float("inf")])
def test_a_failure_is_one_line_and_leaves_no_trace(wrong: float, caplog: pytest.LogCaptureFixture) -> None:
    class Broken(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            torch.rand(1)
            return x.flatten(1)[:, :4] * wrong

    monitor = Monitor(lambda net: Broken(), SHAPE, **budget(strict=False))
    alone = trained(None)
    with caplog.at_level(logging.WARNING, "synbench_fast"):
        watched = trained(monitor)
    assert monitor.history == []
    assert len(caplog.messages) == 15
    assert caplog.messages[0].startswith("synbench: no score at step 1: features: expected finite values")
    assert all("\n" not in one for one in caplog.messages)
    assert same(watched[2], alone[2]) and watched[1] == alone[1]
    with refused("features: expected finite values"):
        trained(Monitor(lambda net: Broken(), SHAPE, **budget()))


def test_another_librarys_error_is_one_line(caplog: pytest.LogCaptureFixture) -> None:
    def raising(x: Tensor) -> Tensor:
        raise RuntimeError("first\nsecond")

    net = Net()
    monitor = Monitor(lambda _: raising, SHAPE, **budget(strict=False))
    assert monitor.measure(net, 3) is None
    assert caplog.messages == ["synbench: no score at step 3: RuntimeError: first"]
    with pytest.raises(RuntimeError, match="second"):
        Monitor(lambda _: raising, SHAPE, **budget()).measure(net, 3)
    assert net.training


def test_numbers_are_those_of_score_and_the_same_each_time() -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Flatten(), nn.Linear(192, 24), nn.GELU())
    monitor = Monitor(None, SHAPE, scales=12, samples=256, eps=(0.0, 0.3), strict=True)
    first = monitor.measure(net, 1)
    assert first == monitor.measure(net, 2)
    assert first is not None
    expected = sb.score(
        net, input_shape=SHAPE, preset="quick", samples=256, eps=(0.0, 0.3), thresholds=0.6, batch_size=64
    )
    for one in expected.scores:
        for what in ("score", "stderr", "ci95_low", "ci95_high"):
            name = f"synbench/{what}_eps{one.eps:g}_a0.6"
            assert first[name] == pytest.approx(getattr(one, what), abs=1e-12)
    assert first["synbench/robust_area"] == pytest.approx(expected.robust_area.value, abs=1e-12)
    assert len(first) == 2 * 4 + 3


def test_names_follow_budgets_thresholds_and_prefix() -> None:
    monitor = Monitor(
        None, (4,), eps=0.25, thresholds=(0.6, 0.75), scales=(1.0, 2.0), samples=40, prefix="x_"
    )
    assert set(monitor.measure(nn.Identity(), 0) or ()) == {
        *(f"x_{what}_eps0.25_a{a}" for what in ("score", "stderr", "ci95_low", "ci95_high") for a in (0.6, 0.75)),
        "x_robust_area", "x_robust_area_ratio", "x_robust_area_stderr",
    }  # fmt: skip


def test_samples_follow_the_width() -> None:
    seen: list[int] = []

    def encode(x: Tensor) -> Tensor:
        seen.append(len(x))
        return x[..., None, None]  # maps of one position count as features

    assert Monitor(lambda _: encode, (150,), scales=(2.0,), batch_size=64).measure(nn.Identity(), 0)
    check = [8, 8, 3, 8]
    # The width, the check, 300 samples, which are 2 F, and a check of two at the end.
    assert seen == [2, *check, 64, 64, 64, 64, 44, 2]
    seen.clear()
    assert Monitor(lambda _: encode, (4,), scales=(2.0,), batch_size=256).measure(nn.Identity(), 0)
    assert seen == [2, *check, 256, 2]


def test_a_step_is_due_once() -> None:
    monitor = Monitor(None, (4,), every=3)
    monitor.begin(nn.Identity(), 4)  # resumed
    # batches that are accumulated repeat a step, several optimizers skip some
    assert [monitor.due(step) for step in (4, 5, 5, 6, 6, 8, 10, 11, 12)] == [
        False, False, False, True, False, False, True, False, True,
    ]  # fmt: skip
    assert monitor.due_at_end(12)
    assert not Monitor(None, (4,), at_end=False).due_at_end(12)


def test_a_second_training_has_its_own_end() -> None:
    """One monitor, two trainings of as many steps."""
    monitor = Monitor(None, (4,), every=100, scales=(2.0,))
    for number in (1, 2):
        monitor.begin(nn.Identity(), 0)
        assert monitor.due_at_end(6) and monitor.measure(nn.Identity(), 6)
        assert not monitor.due_at_end(6) and len(monitor.history) == number


def test_compiled_modules_run_as_written() -> None:
    seen: list[str] = []

    def backend(graph: Any, inputs: Any) -> Any:
        seen.append("compiled")
        return graph.forward

    net = nn.Sequential(nn.Flatten(), nn.Linear(192, 8))
    compiled = torch.compile(net, backend=backend)
    x = torch.rand(2, *SHAPE)
    expected = compiled(x)
    assert seen == ["compiled"]
    assert Monitor(None, SHAPE, **budget()).measure(compiled, 0)
    assert torch.equal(compiled(x), expected)
    assert seen == ["compiled"]


def test_mistakes_are_one_line() -> None:
    with refused("every: expected a positive number of steps, got 0"):
        Monitor(None, SHAPE, every=0)
    with refused("encoder: expected the name of an attribute, a function or None, got int"):
        Monitor(3, SHAPE)  # type: ignore[arg-type]
    with refused("eps: expected values in [0, 1)"):
        Monitor(None, SHAPE, eps=1.0)
    with refused("samples: expected an integer of at least 4 per scale, got 2"):
        Monitor(None, SHAPE, samples=2)
    with refused("batch_size: expected 'auto' or a positive integer, got 0"):
        Monitor(None, SHAPE, batch_size=0)
    with refused("encoder: expected an attribute of Net, got 'backbon' in 'backbon', did you mean backbone?"):
        Monitor("backbon", SHAPE).begin(Net(), 0)
    with refused("encoder: expected a Module or a callable, got Parameter"):
        Monitor("head.weight", SHAPE).begin(Net(), 0)
    with refused("encoder: expected a Tensor [B, F] as output, got tuple"):
        Monitor(lambda _: lambda x: (x,), SHAPE, strict=True).measure(Net(), 0)


SHARDED = """
import sys, torch, torch.distributed as dist
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from synbench_fast.integrations.monitor import Monitor

rank, path = int(sys.argv[1]), sys.argv[2]
dist.init_process_group("gloo", init_method=f"file://{path}/rendezvous", rank=rank, world_size=2)
mesh = init_device_mesh("cpu", (2,))


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.backbone = nn.Sequential(nn.Flatten(), nn.Linear(192, 32), nn.Dropout(0.2), nn.GELU(), nn.Linear(32, 16))
        self.head = nn.Linear(16, 2)

    def forward(self, x):
        return self.head(self.backbone(x))


def losses(monitor):
    torch.manual_seed(0)
    net = Net()
    fully_shard(net.backbone, mesh=mesh)
    fully_shard(net, mesh=mesh)
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    torch.manual_seed(rank)
    found = []
    for step in range(1, 5):
        loss = net(torch.rand(4, 3, 8, 8)).square().mean()
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        if monitor is not None and monitor.due(step):
            monitor.measure(net, step)
        found.append(loss.detach().item())
    return found


monitor = Monitor("backbone", (3, 8, 8), every=2, scales=5, samples=64, strict=True)
assert losses(None) == losses(monitor)
assert [step for step, _ in monitor.history] == [2, 4]
torch.save([curve.scores[0].score for _, curve in monitor.history], f"{path}/{rank}.pt")
dist.destroy_process_group()
"""


def test_a_module_that_is_sharded_over_processes(tmp_path: Path) -> None:
    code = f"import sys; sys.path[:0] = {sys.path!r}\n{SHARDED}"
    running = [
        subprocess.Popen(
            [sys.executable, "-c", code, str(rank), str(tmp_path)], stderr=subprocess.PIPE, text=True
        )
        for rank in range(2)
    ]
    for one in running:
        _, text = one.communicate(timeout=PATIENCE)
        assert one.returncode == 0, text
    first, second = (torch.load(tmp_path / f"{rank}.pt", weights_only=True) for rank in range(2))
    assert first == second
