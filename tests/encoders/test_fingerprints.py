"""Fingerprints of modules: whatever changes what a module computes changes them, and nothing else does."""

from __future__ import annotations

import hashlib
import io
import warnings
from collections import namedtuple
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from synbench_fast.encoders import load_encoder
from synbench_fast.encoders.weights import module_sha256, state_sha256
from synbench_fast.errors import SynbenchError

Pair = namedtuple("Pair", "first second")


class Holds(nn.Module):
    """A module with one parameter and whatever else it is given, in the attribute `held`."""

    def __init__(self, held: Any = None, *, buffer: Tensor | None = None, extra: Any = None) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(2))
        self.held, self.extra = held, extra
        self.register_buffer("table", buffer, persistent=False)

    def get_extra_state(self) -> Any:
        return self.extra

    def set_extra_state(self, state: Any) -> None:
        self.extra = state


def linear(value: float) -> nn.Linear:
    made = nn.Linear(2, 2)
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.fill_(value)
    return made


def scripted(value: float) -> nn.Module:
    """Its weights are constants of the graph: the state dict is empty."""
    return torch.jit.freeze(torch.jit.script(linear(value).eval()))


def quantised(value: float, scale: float = 0.1) -> Tensor:
    return torch.quantize_per_tensor(torch.full((2, 2), value), scale, 3, torch.qint8)


def per_channel(value: float) -> Tensor:
    scales = torch.tensor([0.1, value])
    return torch.quantize_per_channel(torch.full((2, 2), 0.2), scales, torch.zeros(2), 0, torch.qint8)


def named_alike(value: float) -> nn.Module:
    """An attribute of a submodule has the name of a weight of the module."""
    made = linear(1.0)
    made.inside = nn.Identity()
    made.inside.weight = torch.tensor([value])
    return made


def hooked(value: float) -> nn.Module:
    """A pre-hook of one's own, whose name is that of an attribute which it does not compute."""

    class Hook:
        name = "held"

        def __call__(self, *_: Any) -> None:
            return None

    made = Holds(torch.tensor([value]))
    made.register_forward_pre_hook(Hook())
    return made


HOLDERS: dict[str, Callable[[float], nn.Module]] = {
    "buffer that is not persistent": lambda v: Holds(buffer=torch.tensor([v])),
    "attribute": lambda v: Holds(torch.tensor([v])),
    "tuple": lambda v: Holds((1, torch.tensor([v]))),
    "named tuple in a list": lambda v: Holds([Pair("a", torch.tensor([v]))]),
    "dict": lambda v: Holds({"a": {3: torch.tensor([v])}}),
    "array": lambda v: Holds(np.array([v, 1.0])),
    "array of the other byte order": lambda v: Holds(np.array([v, 1.0], dtype=">f4")),
    "array that is read-only": lambda v: Holds(np.broadcast_to(np.array(v), (3, 2))),
    "attribute of the name of another's weight": named_alike,
    "object whose hook has its name": hooked,
    "module in a list": lambda v: Holds([linear(v)]),
    "module in a module in a list": lambda v: Holds([nn.Sequential(linear(v))]),
    "extra state": lambda v: Holds(extra=torch.tensor([v])),
    "extra state that is a number": lambda v: Holds(extra={"scale": v}),
    "extra state that is bytes": lambda v: Holds(extra=io.BytesIO(str(v).encode())),
    "complex": lambda v: Holds(torch.tensor([1 + v * 1j])),
    "conjugated": lambda v: Holds(torch.tensor([1 + v * 1j]).conj()),
    "quantised": lambda v: Holds(quantised(v)),
    "scale of a quantised one": lambda v: Holds(quantised(0.0, v)),
    "scale of one channel": lambda v: Holds(per_channel(v)),
    "sparse": lambda v: Holds(torch.tensor([[0.0, v], [0.0, 0.0]]).to_sparse()),
    "compressed": lambda v: Holds(torch.tensor([[0.0, v], [0.0, 0.0]]).to_sparse_csr()),
    "frozen script": scripted,
    "frozen script inside": lambda v: nn.Sequential(nn.ReLU(), scripted(v)),
    "packed parameters": lambda v: torch.ao.quantization.quantize_dynamic(nn.Sequential(linear(v)), dtype=torch.qint8),
    "one element of a parameter": linear,
}  # fmt: skip


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::UserWarning")
@pytest.mark.parametrize("name", HOLDERS)
def test_all_that_a_module_computes_with_counts(name: str) -> None:
    make = HOLDERS[name]
    first, same, other = module_sha256(make(0.25)), module_sha256(make(0.25)), module_sha256(make(0.75))
    assert first == same != other


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::UserWarning")
def test_quantised_networks_by_the_way_of_an_encoder() -> None:
    """Two that differ had one fingerprint, because their weights are packed."""
    made = []
    for seed in (0, 1, 0):
        torch.manual_seed(seed)
        net = nn.Sequential(nn.Flatten(), nn.Linear(12, 5), nn.ReLU(), nn.Linear(5, 3))
        net = torch.ao.quantization.quantize_dynamic(net, {nn.Linear}, dtype=torch.qint8)
        made.append(load_encoder(net, input_shape=(3, 2, 2)).info.weights_sha256)
    assert made[0] == made[2] != made[1]


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::UserWarning")
def test_a_scripted_module_counts_with_its_code() -> None:
    class Twice(nn.Linear):
        def forward(self, x: Tensor) -> Tensor:
            return 2 * nn.functional.linear(x, self.weight, self.bias)

    twice = Twice(2, 2)
    twice.load_state_dict(linear(0.5).state_dict())
    one, other = torch.jit.script(linear(0.5)), torch.jit.script(twice)
    assert module_sha256(nn.Sequential(one)) != module_sha256(nn.Sequential(other))


def test_a_traced_module_counts_with_its_code() -> None:
    class Apply(nn.Module):
        def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
            super().__init__()
            self.function = function

        def forward(self, x: Tensor) -> Tensor:
            return self.function(x)

    traced = [torch.fx.symbolic_trace(Apply(one)) for one in (torch.relu, torch.tanh, torch.relu)]
    made = [module_sha256(one) for one in traced]
    assert made[0] == made[2] != made[1]


def test_what_the_state_dict_says_alone_keeps_its_fingerprint() -> None:
    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(4, 2))
    digest = hashlib.sha256()
    for name, value in sorted(net.state_dict().items()):
        digest.update(f"{name}\0{value.dtype}\0{tuple(value.shape)}\0".encode() + value.numpy().tobytes())
    assert module_sha256(net) == state_sha256(net.state_dict()) == digest.hexdigest()
    before = module_sha256(net)
    net.register_forward_hook(lambda *args: None)
    net(torch.randn(2, 3, 3, 3)).sum().backward()  # gradients are no weights
    net[1].load_state_dict(nn.BatchNorm2d(4).state_dict())
    assert module_sha256(net) == before


def test_weights_that_a_hook_computes_anew_do_not_count() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        first, second = (nn.utils.weight_norm(nn.Linear(3, 2)) for _ in range(2))
    assert module_sha256(first) != module_sha256(second)
    second.load_state_dict(first.state_dict())
    assert not torch.equal(first.weight, second.weight)  # the old product, until the next forward pass
    assert module_sha256(first) == module_sha256(second)


def test_weights_without_values_are_named() -> None:
    with pytest.raises(SynbenchError, match=r"expected weights that have values, got 1\.weight without"):
        load_encoder(nn.Sequential(nn.Flatten(), nn.LazyLinear(3)), input_shape=(4,))


def test_modules_that_hold_each_other_end() -> None:
    one, other = Holds(), Holds(torch.ones(1))
    one.held, other.held = [other], [one, {"again": one}]
    assert module_sha256(one) == module_sha256(one)
    endless: list[Any] = [torch.ones(1)]
    endless.append(endless)
    assert module_sha256(Holds(endless)) != module_sha256(Holds([torch.zeros(1)]))
