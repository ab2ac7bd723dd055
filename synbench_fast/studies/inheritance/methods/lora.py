"""Low-rank adaptation (Hu et al., arXiv 2106.09685).

Layers are adapted by the library peft. Weights that are no layers of their own, those of torch.nn.MultiheadAttention,
have their update added by a parametrization, because peft adapts the keys there too; so have convolutions in groups,
whose updates peft cannot merge.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from synbench_fast.errors import SynbenchError
from synbench_fast.runtime.optional import optional
from synbench_fast.studies.inheritance.bench import Bench, Method, check_range
from synbench_fast.studies.inheritance.cells import TrainingSummary
from synbench_fast.studies.inheritance.data import DataSuite
from synbench_fast.studies.inheritance.model import Classifier
from synbench_fast.studies.inheritance.training import fit

_JOINED = ("qkv", "kv")  # a letter for each part, in the order of the rows
_QUERY_VALUE = ("q", "v", "q_proj", "v_proj", "query", "value")


@dataclass(frozen=True)
class LowRank(Method):
    """W + alpha / rank * B A with trained A and B; the head and everything else is held, and BA is merged at the end.

    Adapted are the query and value projections of every attention block, known by their names (qkv; q, kv; q, v;
    q_proj, v_proj; query, value) or as torch.nn.MultiheadAttention; in a network without such every convolution and
    linear layer of the body. The update of a convolution is that of its weight as a matrix, a row for each output
    channel.
    """

    title: ClassVar[str] = "low-rank adaptation"
    rank: int = 8
    alpha: float = 1.0

    def __post_init__(self) -> None:
        check_range("lora", {"rank": self.rank}, 1)

    def check(self, original: Classifier, suite: DataSuite) -> None:
        attention = any(isinstance(one, nn.MultiheadAttention) for one in original.body.modules())
        if _targets(original.body, attention):
            optional("peft", "peft", "inherit")

    def fine_tune(self, bench: Bench) -> tuple[Classifier, TrainingSummary]:
        model = bench.original.clone()
        fused = _split_fused(model.body)
        attention = [one for one in model.body.modules() if isinstance(one, nn.MultiheadAttention)]
        layers = {name: model.body.get_submodule(name) for name in _targets(model.body, bool(attention))}
        grouped = [one for one in layers.values() if getattr(one, "groups", 1) > 1]
        targets = [name for name, one in layers.items() if getattr(one, "groups", 1) == 1]
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(bench.seed)
            if targets:
                peft = optional("peft", "peft", "inherit")
                # As a pattern of whole names: of a list it would take every layer whose name ends in one of them.
                exactly = "|".join(map(re.escape, targets))
                config = peft.LoraConfig(
                    r=self.rank, lora_alpha=self.alpha, lora_dropout=0.0, target_modules=exactly
                )
                model.body = peft.get_peft_model(model.body, config)
            scale = self.alpha / self.rank
            weights = [place for one in attention for place in _adapt(one, self.rank, scale)]
            for convolution in grouped:
                weights.append(_register(convolution, "weight", 1, (0,), self.rank, scale))
        summary = fit(
            model,
            bench.part,
            bench.training,
            parameters=[one for name, one in model.body.named_parameters() if "lora_" in name],
            seed=bench.seed,
            evaluating=[model],
        )
        if targets:
            adapted: Any = model.body
            model.body = adapted.merge_and_unload()
        for module, name in weights:
            parametrize.remove_parametrizations(module, name, leave_parametrized=True)
        for parent, name in fused:
            setattr(parent, name, getattr(parent, name).joined())
        return model.eval().requires_grad_(True), summary


def _targets(body: nn.Module, attention: bool) -> list[str]:
    """Names of the layers to adapt; none where `attention` has other weights for them."""
    found = [name for name, one in body.named_modules() if isinstance(one, nn.Linear | nn.Conv2d)]
    chosen = [name for name in found if name.rpartition(".")[2] in _QUERY_VALUE]
    if not found:
        raise SynbenchError("methods: expected a body with linear or convolution layers for lora, got none")
    return chosen if chosen or attention else found


class _Update(nn.Module):
    """W -> W + scale * B A on the blocks of rows in `places`, of `blocks` equal ones; W as a matrix of its rows."""

    def __init__(self, weight: Tensor, blocks: int, places: tuple[int, ...], rank: int, scale: float) -> None:
        super().__init__()
        self.blocks, self.places, self.scale = blocks, places, scale
        height, width = weight.shape[0] // blocks, weight[0].numel()
        drawn = torch.empty(len(places), rank, width)  # on the CPU, whose generator has the seed
        for one in drawn:  # as peft starts its own
            nn.init.kaiming_uniform_(one, a=5**0.5)
        self.lora_a = nn.Parameter(drawn.to(weight))
        self.lora_b = nn.Parameter(weight.new_zeros(len(places), height, rank))

    def forward(self, weight: Tensor) -> Tensor:
        parts = list(weight.chunk(self.blocks))
        for place, update in zip(self.places, self.lora_b @ self.lora_a, strict=True):
            parts[place] = parts[place] + self.scale * update.view_as(parts[place])
        return torch.cat(parts)


def _adapt(attention: nn.MultiheadAttention, rank: int, scale: float) -> list[tuple[nn.Module, str]]:
    """Add updates to the query and value weights; returns where they are."""
    if attention.in_proj_weight is not None:
        wanted = [("in_proj_weight", 3, (0, 2))]
    else:  # keys or values of another width
        wanted = [("q_proj_weight", 1, (0,)), ("v_proj_weight", 1, (0,))]
    return [_register(attention, name, blocks, places, rank, scale) for name, blocks, places in wanted]


def _register(
    module: nn.Module, name: str, blocks: int, places: tuple[int, ...], rank: int, scale: float
) -> tuple[nn.Module, str]:
    update = _Update(getattr(module, name), blocks, places, rank, scale)
    parametrize.register_parametrization(module, name, update)
    return module, name


class _Parts(nn.Module):
    """A joined projection, such as to queries, keys and values, as layers whose outputs are put side by side."""

    def __init__(self, whole: nn.Linear, names: str) -> None:
        super().__init__()
        self.names = names
        width = whole.out_features // len(names)
        for number, name in enumerate(names):
            layer = nn.Linear(whole.in_features, width, bias=whole.bias is not None, device="meta")
            layer.to_empty(device=whole.weight.device).to(whole.weight.dtype)
            rows = slice(number * width, (number + 1) * width)
            with torch.no_grad():
                layer.weight.copy_(whole.weight[rows])
                if whole.bias is not None:
                    layer.bias.copy_(whole.bias[rows])
            setattr(self, name, layer)
        self.whole = [whole]  # in a list, so that it is no part of this module

    @property
    def layers(self) -> list[Any]:
        return [getattr(self, name) for name in self.names]

    @property
    def weight(self) -> Tensor:
        """Of the joined layer with its updates, for networks that read it instead of calling the layer."""
        return torch.cat([_adapted(one) for one in self.layers])

    @property
    def bias(self) -> Tensor | None:
        parts = [one.bias for one in self.layers]
        return None if parts[0] is None else torch.cat(parts)

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([one(x) for one in self.layers], dim=-1)

    def joined(self) -> nn.Linear:
        """The layer as it was, with the weights of its parts."""
        whole = self.whole[0]
        with torch.no_grad():
            whole.weight.copy_(self.weight)
            if whole.bias is not None:
                whole.bias.copy_(torch.cat([one.bias for one in self.layers]))
        return whole


def _adapted(layer: Any) -> Tensor:
    """The weight of a layer, with the update of peft where there is one."""
    weight: Tensor = layer.weight
    for name in getattr(layer, "active_adapters", ()):
        weight = weight + layer.get_delta_weight(name)
    return weight


def _split_fused(body: nn.Module) -> list[tuple[nn.Module, str]]:
    """Take joined layers apart, in place; returns where they were."""
    found = [
        (parent, name)
        for parent in body.modules()
        for name, one in parent.named_children()
        if name in _JOINED and isinstance(one, nn.Linear) and one.out_features % len(name) == 0
    ]
    for parent, name in found:
        setattr(parent, name, _Parts(getattr(parent, name), name))
    return found


METHOD = LowRank
