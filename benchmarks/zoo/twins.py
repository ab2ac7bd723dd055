"""The random twin of a network: its architecture without its training.

Convolutions and linear layers get He weights (normal, variance 2 / fan in) and no bias, normalisations and per
channel factors become the identity, slopes of PReLU 0.25. One pass over 32 images or waveforms of 1/f noise (mean 0.5, deviation
0.2) then divides each convolution's and linear layer's weights by the deviation of its output, in the order in which
they run, so that no depth or missing normalisation makes the twin saturate or vanish.
A network whose gates multiply (squeeze and excitation after SiLU) can be chaotic so: features of two like images have
nothing in common, and the twin is then worse than pixels.
"""

from __future__ import annotations

import copy
import zlib
from typing import Any

import torch
from torch import Tensor, nn

from zoo.graph import PRelu, Scale, Shift, Slope

_NORMS = (nn.modules.batchnorm._BatchNorm, nn.LayerNorm, nn.GroupNorm)
_WEIGHTED = (nn.Conv2d, nn.Linear, nn.ConvTranspose2d)


def pink_noise(
    count: int, shape: tuple[int, ...], generator: torch.Generator, deviation: float = 0.2
) -> Tensor:
    """[count, *shape], shape (C, H, W) or (C, length): power spectrum 1/f^2 (amplitude 1/f), mean 0.5, this deviation
    over all values, not clipped; independent channels."""
    white = torch.randn(count, *shape, generator=generator)
    axes = tuple(range(2, white.ndim))
    frequency = torch.fft.rfftfreq(shape[-1])
    if len(axes) == 2:
        frequency = torch.hypot(torch.fft.fftfreq(shape[1])[:, None], frequency[None])
    frequency.view(-1)[0] = torch.inf
    made = torch.fft.irfftn(torch.fft.rfftn(white, dim=axes) / frequency, shape[1:], axes)
    return 0.5 + deviation * made / made.std()


def _reset(module: nn.Module, generator: torch.Generator) -> None:
    for one in module.modules():
        if isinstance(one, _WEIGHTED):
            fan = (
                one.weight[0].numel() if not isinstance(one, nn.ConvTranspose2d) else one.weight[:, 0].numel()
            )
            one.weight.data = torch.randn(one.weight.shape, generator=generator) * (2 / fan) ** 0.5
            if one.bias is not None:
                one.bias.data = torch.zeros_like(one.bias)
        elif isinstance(one, _NORMS):
            for name, value in (("weight", 1.0), ("bias", 0.0), ("running_mean", 0.0), ("running_var", 1.0)):
                held = getattr(one, name, None)
                if held is not None:
                    held.data.fill_(value)
        elif isinstance(one, PRelu):
            one.slope.data = torch.full_like(one.slope, 0.25)
        elif isinstance(one, Scale):
            one.weight.data = torch.full_like(one.weight, 0.25 if isinstance(one, Slope) else 1.0)
        elif isinstance(one, Shift):
            one.bias.data = torch.zeros_like(one.bias)


def _unit_deviation(module: nn.Module, _: Any, output: Tensor) -> Tensor:
    deviation = output.std()
    if not bool(torch.isfinite(deviation)) or float(deviation) < 1e-12:
        return output
    module.weight.data /= deviation
    return output / deviation


@torch.no_grad()
def twin(network: nn.Module, name: str, shape: tuple[int, ...] = (3, 64, 64)) -> nn.Module:
    """A copy of `network` ([B, *shape] in [0, 1] to features) without training; `name` seeds it."""
    made = copy.deepcopy(network).eval()
    generator = torch.Generator().manual_seed(zlib.crc32(name.encode()))
    _reset(made, generator)
    hooks = [
        one.register_forward_hook(_unit_deviation) for one in made.modules() if isinstance(one, _WEIGHTED)
    ]
    try:
        made(pink_noise(32, shape, generator))
    finally:
        for hook in hooks:
            hook.remove()
    return made
