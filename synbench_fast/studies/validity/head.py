"""The classification head of an encoder's network, for baselines that read its answers."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from synbench_fast.config import ScoreConfig
from synbench_fast.encoders import Encoder
from synbench_fast.studies.inheritance.networks import load_network

__all__ = ["head_of"]

_SOURCES = (
    "timm",
    "torchvision",
)  # whose networks are known as x -> logits of the classes that they were trained on


def head_of(encoder: Encoder, config: ScoreConfig) -> Callable[[Tensor], Tensor] | None:
    """Inputs [n, C, H, W] in [0, 1] to the probabilities of the head's classes [n, Z]; None without a head.

    An encoder has a head if its network is one of timm with `num_classes` above 0 or one of torchvision. The network is
    loaded a second time, with its head; weights and normalisation are those of the encoder.
    """
    spec = encoder.info.spec
    if spec.partition(":")[0] not in _SOURCES:
        return None
    found = load_network(spec.partition("?")[0], random_init=config.random_init, seed=config.seed).module
    if found is None or not getattr(found, "num_classes", 1):
        return None
    module = found.eval().requires_grad_(False).to(encoder.device, torch.float32)
    normalised = encoder.normalisation(torch.float32, encoder.device)

    def probabilities(x: Tensor) -> Tensor:
        logits: Tensor = module(normalised(x.to(encoder.device, torch.float32, copy=True)))
        return logits.double().softmax(1)

    return probabilities
