"""`builtin:identity|linear|conv`: encoders whose behaviour is known, for tests, demos and calibration."""

from __future__ import annotations

import math
import re
from itertools import pairwise

import torch
from torch import Tensor, nn

from synbench_fast.encoders.base import Loaded, Request
from synbench_fast.encoders.registry import BUILTIN, check_name
from synbench_fast.encoders.weights import load_checkpoint
from synbench_fast.errors import SynbenchError

__all__ = ["Conv", "Linear", "load", "names"]

DEFAULT_SHAPE = (3, 32, 32)
DEFAULT_DIM = 64


def names() -> list[str]:
    return list(BUILTIN)


class Linear(nn.Module):
    """h = W x with W [dim, D] of independent N(0, 1/D) entries."""

    weight: Tensor

    def __init__(self, inputs: int, dim: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(dim, inputs) / math.sqrt(inputs))

    def forward(self, x: Tensor) -> Tensor:
        return x.flatten(1) @ self.weight.T


class Conv(nn.Module):
    """Three convolutions of stride 2 with ReLU (He initialisation), then the mean over all positions.

    The axes of one input pick the convolution: [C, L], [C, H, W] or [C, T, H, W]; [L] is one channel.
    """

    def __init__(self, shape: tuple[int, ...], dim: int) -> None:
        super().__init__()
        kinds = {1: nn.Conv1d, 2: nn.Conv1d, 3: nn.Conv2d, 4: nn.Conv3d}
        kind = kinds[len(shape)]
        widths = [shape[0] if len(shape) > 1 else 1, 16, 32, dim]
        layers: list[nn.Module] = []
        for inputs, outputs in pairwise(widths):
            layer = kind(inputs, outputs, 3, stride=2, padding=1)
            nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)
            layers += [layer, nn.ReLU()]
        self.layers = nn.Sequential(*layers)
        self.vector = len(shape) == 1

    def forward(self, x: Tensor) -> Tensor:
        maps: Tensor = self.layers(x.unsqueeze(1) if self.vector else x)
        return maps.flatten(2).mean(2)


def load(request: Request) -> Loaded:
    """Weights come from the seed; default input (3, 32, 32), default `dim` 64, no normalisation."""
    check_name(request, "builtin", names())
    shape = request.input_shape or DEFAULT_SHAPE
    module: nn.Module
    if request.name == "identity":
        if request.options:
            raise SynbenchError(
                f"encoder: expected builtin:identity, which has no options, got {request.spec!r}"
            )
        request.refuse("checkpoint", reason="the identity has no weights")
        module = nn.Flatten(1)
    elif request.name == "linear":
        module = Linear(math.prod(shape), _dim(request))
    else:
        if len(shape) > 4:
            raise SynbenchError(f"input_shape: expected at most 4 axes for {request.spec}, got {shape}")
        module = Conv(shape, _dim(request))
    if request.checkpoint is not None:
        load_checkpoint(module, request.checkpoint, request.spec)
    drawn = request.name != "identity" and request.checkpoint is None
    return Loaded(
        forward=module,
        module=module,
        name=request.spec.partition(":")[2],
        input_shape=shape,
        random_init=drawn,
    )


def _dim(request: Request) -> int:
    value = request.options.get("dim", str(DEFAULT_DIM))
    if not re.fullmatch(r"0*[1-9][0-9]{0,9}", value):
        raise SynbenchError(
            f"encoder: expected dim to be a positive integer in {request.spec!r}, got {value!r}"
        )
    return int(value)
