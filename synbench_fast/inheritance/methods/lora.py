"""Low-rank adaptation (Hu et al., arXiv 2106.09685), by the library peft."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from synbench_fast.errors import SynbenchError
from synbench_fast.inheritance.bench import Bench
from synbench_fast.inheritance.cells import TrainingSummary
from synbench_fast.inheritance.methods import Method, check_range
from synbench_fast.inheritance.model import Classifier
from synbench_fast.inheritance.training import fit
from synbench_fast.robust_probe.data import optional

_QUERY_VALUE = ("q", "v", "q_proj", "v_proj", "query", "value")


@dataclass(frozen=True)
class LowRank(Method):
    """W + alpha / rank * B A with trained A and B; the head and everything else is held, and BA is merged at the end.

    Adapted are the query and value projections of every attention block; in a network without attention every
    convolution and linear layer of the body.
    """

    title: ClassVar[str] = "low-rank adaptation"
    rank: int = 8
    alpha: float = 1.0

    def __post_init__(self) -> None:
        check_range("lora", {"rank": self.rank}, 1)

    def fine_tune(self, bench: Bench) -> tuple[Classifier, TrainingSummary]:
        peft = optional("peft", "peft", "inherit")
        model = bench.original.clone()
        fused = _split_fused(model.body)
        config = peft.LoraConfig(
            r=self.rank, lora_alpha=self.alpha, lora_dropout=0.0, target_modules=_targets(model.body)
        )
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(bench.seed)
            adapted = peft.get_peft_model(model.body, config)
        model.body = adapted
        summary = fit(
            model,
            bench.part,
            bench.training,
            parameters=[one for name, one in adapted.named_parameters() if "lora_" in name],
            seed=bench.seed,
            evaluating=[model],
        )
        model.body = adapted.merge_and_unload()
        for parent, name in fused:
            setattr(parent, name, getattr(parent, name).joined())
        return model.eval().requires_grad_(True), summary


def _targets(body: nn.Module) -> list[str]:
    found = [name for name, one in body.named_modules() if isinstance(one, nn.Linear | nn.Conv2d)]
    chosen = [name for name in found if name.rpartition(".")[2] in _QUERY_VALUE]
    if not found:
        raise SynbenchError("methods: expected a body with linear or convolution layers for lora, got none")
    if not chosen and any(isinstance(one, nn.MultiheadAttention) for one in body.modules()):
        raise SynbenchError(
            "methods: expected attention with layers for queries and values, or a joined qkv, for lora, got "
            "torch.nn.MultiheadAttention, whose projections are no layers"
        )
    return chosen or found


class _Parts(nn.Module):
    """A joined projection to queries, keys and values as three layers whose outputs are put side by side."""

    def __init__(self, whole: nn.Linear) -> None:
        super().__init__()
        width = whole.out_features // 3
        for number, name in enumerate("qkv"):
            layer = nn.Linear(whole.in_features, width, bias=whole.bias is not None, device="meta")
            layer.to_empty(device=whole.weight.device).to(whole.weight.dtype)
            rows = slice(number * width, (number + 1) * width)
            with torch.no_grad():
                layer.weight.copy_(whole.weight[rows])
                if whole.bias is not None:
                    layer.bias.copy_(whole.bias[rows])
            setattr(self, name, layer)
        self.whole = [whole]  # in a list, so that it is no part of this module

    def forward(self, x: Tensor) -> Tensor:
        parts: list[Any] = [self.q, self.k, self.v]
        return torch.cat([one(x) for one in parts], dim=-1)

    def joined(self) -> nn.Linear:
        """The layer as it was, with the weights of the three."""
        parts: list[Any] = [self.q, self.k, self.v]
        whole = self.whole[0]
        with torch.no_grad():
            whole.weight.copy_(torch.cat([one.weight for one in parts]))
            if whole.bias is not None:
                whole.bias.copy_(torch.cat([one.bias for one in parts]))
        return whole


def _split_fused(body: nn.Module) -> list[tuple[nn.Module, str]]:
    """Take joined qkv layers apart, in place; returns where they were."""
    found = [
        (parent, name)
        for parent in body.modules()
        for name, one in parent.named_children()
        if name == "qkv" and isinstance(one, nn.Linear) and one.out_features % 3 == 0
    ]
    for parent, name in found:
        setattr(parent, name, _Parts(getattr(parent, name)))
    return found


METHOD = LowRank
