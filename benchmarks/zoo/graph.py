"""A network read from a file of another framework, as a torch module that runs its nodes in order.

The readers (`tfjs.py`, `keras.py`, `onnx_graph.py`) make a list of `Step`s. Every step holds one torch module; its
weights are ordinary parameters of `nn.Conv2d`, `nn.Linear`, `nn.BatchNorm2d` and so on, so that `twins.py` treats
such a network like any other.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn


@dataclass(frozen=True)
class Step:
    """One node: `module(*inputs)` gives the tensors named in `outputs`."""

    kind: str
    module: nn.Module
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]


class Function(nn.Module):
    """A function without weights as a module."""

    def __init__(self, function: Callable[..., Any], **settings: Any) -> None:
        super().__init__()
        self.function, self.settings = function, settings

    def forward(self, *inputs: Any) -> Any:
        return self.function(*inputs, **self.settings)


class Constant(nn.Module):
    """A tensor of the file that is no weight: axes, sizes, thresholds. None stands for an input that is left out."""

    def __init__(self, value: Tensor | None) -> None:
        super().__init__()
        self.register_buffer("value", value)

    def forward(self) -> Any:
        return self.value


class Scale(nn.Module):
    """x * w per channel: a normalisation that the file has apart from its convolution; w is 1 in a twin."""

    def __init__(self, weight: Tensor) -> None:
        super().__init__()
        self.weight = nn.Parameter(weight, requires_grad=False)

    def forward(self, x: Tensor) -> Tensor:
        return x * self.weight


class Shift(nn.Module):
    """x + b per channel; b is 0 in a twin."""

    def __init__(self, bias: Tensor) -> None:
        super().__init__()
        self.bias = nn.Parameter(bias, requires_grad=False)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.bias


class PRelu(nn.Module):
    """max(x, 0) + slope * min(x, 0), slope per channel in the file's own layout; 0.25 in a twin."""

    def __init__(self, slope: Tensor) -> None:
        super().__init__()
        self.slope = nn.Parameter(slope, requires_grad=False)

    def forward(self, x: Tensor) -> Tensor:
        return x.clamp(min=0) + self.slope * x.clamp(max=0)


class Slope(Scale):
    """x * w on what is at most 0: the slope of a PReLU that the file has in parts; 0.25 in a twin."""


def same_padding(size: int, kernel: int, stride: int, dilation: int) -> tuple[int, int]:
    """Padding before and after that TensorFlow's 'SAME' means: an output of ceil(size / stride)."""
    span = (kernel - 1) * dilation + 1
    total = max((-(-size // stride) - 1) * stride + span - size, 0)
    return total // 2, total - total // 2


Padding = str | tuple[int, int, int, int]  # "SAME", "SAME_LOWER" or left, right, top, bottom


def pad_image(
    x: Tensor,
    padding: Padding,
    kernel: Sequence[int],
    stride: Sequence[int],
    dilation: Sequence[int],
    value: float = 0.0,
) -> Tensor:
    """[B, C, H, W] padded as a convolution or a pooling of that kernel asks for."""
    if isinstance(padding, str):
        top, bottom = same_padding(x.shape[2], kernel[0], stride[0], dilation[0])
        left, right = same_padding(x.shape[3], kernel[1], stride[1], dilation[1])
        if padding == "SAME_LOWER":
            top, bottom, left, right = bottom, top, right, left
    else:
        left, right, top, bottom = padding
    return F.pad(x, (left, right, top, bottom), value=value) if left or right or top or bottom else x


class Conv(nn.Module):
    """A convolution with the padding of its framework, weights [out, in / groups, kH, kW]."""

    def __init__(
        self,
        weight: Tensor,
        bias: Tensor | None,
        *,
        stride: Sequence[int] = (1, 1),
        dilation: Sequence[int] = (1, 1),
        padding: Padding = (0, 0, 0, 0),
        groups: int = 1,
        channels_last: bool = False,
        activation: Callable[[Tensor], Tensor] | None = None,
    ) -> None:
        super().__init__()
        out, inner, *kernel = weight.shape
        self.conv = nn.Conv2d(
            inner * groups, out, tuple(kernel), tuple(stride), 0, tuple(dilation), groups, bias is not None
        )
        self.conv.weight = nn.Parameter(weight.float().contiguous(), requires_grad=False)
        if bias is not None:
            self.conv.bias = nn.Parameter(bias.float(), requires_grad=False)
        self.padding, self.channels_last, self.activation = padding, channels_last, activation

    def forward(self, x: Tensor) -> Tensor:
        if self.channels_last:
            x = x.permute(0, 3, 1, 2)
        conv = self.conv
        x = pad_image(x, self.padding, conv.kernel_size, conv.stride, [int(d) for d in conv.dilation])
        x = conv(x)
        if self.activation is not None:
            x = self.activation(x)
        return x.permute(0, 2, 3, 1) if self.channels_last else x


class Pool(nn.Module):
    """Maximum or mean over windows; a mean leaves the padding out, as TensorFlow's does, unless `count_padding`.

    A window larger than the image is the whole image: what a file writes for a mean over all positions at the size
    that it was made for.
    """

    def __init__(
        self,
        kind: str,
        kernel: Sequence[int],
        stride: Sequence[int],
        padding: Padding,
        *,
        channels_last: bool = False,
        count_padding: bool = False,
        ceil: bool = False,
    ) -> None:
        super().__init__()
        self.kind, self.kernel, self.stride, self.padding = kind, tuple(kernel), tuple(stride), padding
        self.channels_last, self.count_padding, self.ceil = channels_last, count_padding, ceil

    def forward(self, x: Tensor) -> Tensor:
        if self.channels_last:
            x = x.permute(0, 3, 1, 2)
        unpadded = x.shape[2:]
        empty = -torch.inf if self.kind == "max" else 0.0
        x = pad_image(x, self.padding, self.kernel, self.stride, (1, 1), empty)
        kernel = tuple(min(size, own) for size, own in zip(x.shape[2:], self.kernel, strict=True))
        if self.kind == "max":
            x = F.max_pool2d(x, kernel, self.stride, ceil_mode=self.ceil)
        else:
            inside = torch.ones(1, 1, *unpadded)
            inside = pad_image(inside, self.padding, self.kernel, self.stride, (1, 1))
            x = F.avg_pool2d(x, kernel, self.stride, ceil_mode=self.ceil)
            if not self.count_padding:
                x = x / F.avg_pool2d(inside, kernel, self.stride, ceil_mode=self.ceil)
        return x.permute(0, 2, 3, 1) if self.channels_last else x


def pooled(x: Tensor, channels_last: bool = False) -> Tensor:
    """Mean over positions: [B, C, H, W] or [B, H, W, C] or [B, N, C] to [B, C]; [B, C] as it is."""
    if x.ndim == 4:
        return x.mean((1, 2) if channels_last else (2, 3))
    return x.mean(1) if x.ndim == 3 else x


class Graph(nn.Module):
    """[B, 3, H, W] to the tensor called `output`, mean over positions: [B, F].

    Steps that `output` does not depend on are dropped, so that heads need no support.
    """

    def __init__(
        self, steps: Sequence[Step], source: str, output: str, *, channels_last: bool, pool: bool = True
    ) -> None:
        super().__init__()
        self.source, self.output, self.channels_last, self.pool = source, output, channels_last, pool
        made_by = {name: step for step in steps for name in step.outputs}
        kept: list[Step] = []
        done: set[int] = set()
        stack: list[tuple[str, bool]] = [(output, False)]
        while stack:
            name, expanded = stack.pop()
            step = made_by.get(name)
            if name == source or (step is not None and id(step) in done):
                continue
            if step is None:
                raise ValueError(f"graph: no step makes {name!r}")
            if expanded:
                done.add(id(step))
                kept.append(step)
            else:
                stack.append((name, True))
                stack.extend((one, False) for one in reversed(step.inputs))
        self.steps = nn.ModuleList(step.module for step in kept)
        self.names = [(step.kind, step.inputs, step.outputs) for step in kept]
        last: dict[str, int] = {}
        for position, (_, inputs, _) in enumerate(self.names):
            last.update(dict.fromkeys(inputs, position))
        self.last = last

    def forward(self, x: Tensor) -> Tensor:
        values: dict[str, Any] = {self.source: x.permute(0, 2, 3, 1) if self.channels_last else x}
        for position, (module, (_, inputs, outputs)) in enumerate(zip(self.steps, self.names, strict=True)):
            made = module(*[values[name] for name in inputs])
            values.update(zip(outputs, made if isinstance(made, tuple | list) else (made,), strict=False))
            for name in inputs:
                if self.last[name] == position and name != self.output:
                    values.pop(name, None)
        found = values[self.output]
        return pooled(found, self.channels_last) if self.pool else found

    def shapes(self, x: Tensor) -> list[tuple[str, str, tuple[int, ...]]]:
        """Name, kind and shape of every tensor, to choose an output from."""
        values: dict[str, Any] = {self.source: x.permute(0, 2, 3, 1) if self.channels_last else x}
        found = []
        for module, (kind, inputs, outputs) in zip(self.steps, self.names, strict=True):
            made = module(*[values[name] for name in inputs])
            for name, value in zip(
                outputs, made if isinstance(made, tuple | list) else (made,), strict=False
            ):
                values[name] = value
                found.append((name, kind, tuple(value.shape)))
        return found
