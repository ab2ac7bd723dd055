"""TensorFlow.js graph models: `NAME.json` with the nodes and the list of weights, `*.bin` with their values."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from zoo.graph import Constant, Conv, Function, Graph, Pool, PRelu, Scale, Shift, Slope, Step

ACTIVATIONS: dict[str, Callable[[Tensor], Tensor] | None] = {
    "linear": None, "relu": torch.relu, "relu6": F.relu6, "Relu": torch.relu, "Relu6": F.relu6,
    "sigmoid": torch.sigmoid, "Sigmoid": torch.sigmoid, "elu": F.elu, "Elu": F.elu, "tanh": torch.tanh,
    "LeakyRelu": partial(F.leaky_relu, negative_slope=0.2),
}  # fmt: skip


def weights(manifest: list[Mapping[str, Any]], shards: Callable[[str], bytes]) -> dict[str, Tensor]:
    """Weights by name; `shards(path)` gives the bytes of one file that the manifest names.

    A quantised weight is q * scale + min (8 and 16 bit integers), or float16.
    """
    found = {}
    for group in manifest:
        data = b"".join(shards(path) for path in group["paths"])
        offset = 0
        for entry in group["weights"]:
            shape, quantised = tuple(entry["shape"]), entry.get("quantization")
            dtype = np.dtype({"bool": "bool"}.get(entry["dtype"], entry["dtype"]))
            stored = np.dtype(quantised["dtype"]) if quantised else dtype
            count = int(np.prod(shape, dtype=np.int64))
            if offset + count * stored.itemsize > len(data):
                raise ValueError(f"tfjs: expected {entry['name']} of shape {shape}, the file ends before it")
            values = np.frombuffer(data, stored, count, offset).reshape(shape)
            offset += count * stored.itemsize
            if quantised and "scale" in quantised:
                values = values * np.float32(quantised["scale"]) + np.float32(quantised["min"])
            found[entry["name"]] = torch.from_numpy(np.array(values.astype(dtype)))
    return found


def folder_shards(folder: Path) -> Callable[[str], bytes]:
    return lambda path: (folder / Path(path).name).read_bytes()


def _text(attribute: Mapping[str, Any] | None, default: str = "") -> str:
    return base64.b64decode(attribute["s"]).decode() if attribute and "s" in attribute else default


def _numbers(attribute: Mapping[str, Any] | None) -> list[int]:
    return [int(value) for value in attribute["list"].get("i", [])] if attribute else []


def _full_name(name: str) -> str:
    name = name.removeprefix("^")
    return name.removesuffix(":0")


def _int_list(value: Tensor) -> list[int]:
    return [int(one) for one in value.reshape(-1).tolist()]


def _strided_slice(
    x: Tensor, begin: Tensor, end: Tensor, strides: Tensor, *, masks: Mapping[str, int]
) -> Tensor:
    index: list[Any] = []
    for axis, (first, last, step) in enumerate(zip(*map(_int_list, (begin, end, strides)), strict=True)):
        bit = 1 << axis
        if masks["ellipsis_mask"] & bit:
            index.append(Ellipsis)
        elif masks["new_axis_mask"] & bit:
            index.append(None)
        elif masks["shrink_axis_mask"] & bit:
            index.append(first)
        else:
            index.append(
                slice(
                    None if masks["begin_mask"] & bit else first,
                    None if masks["end_mask"] & bit else last,
                    step,
                )
            )
    return x[tuple(index)]


def resize(x: Tensor, size: Any, *, mode: str, align: bool, half_pixel: bool) -> Tensor:
    """[B, H, W, C] to the given height and width. Where neither corners nor pixel centres are aligned, TensorFlow's
    first rule holds: source = target * (in / out)."""
    height, width = _int_list(torch.as_tensor(size))
    x = x.permute(0, 3, 1, 2).float()
    if mode == "nearest":
        x = F.interpolate(x, (height, width), mode="nearest")
    elif align or half_pixel or (height, width) == tuple(x.shape[2:]):
        x = F.interpolate(x, (height, width), mode="bilinear", align_corners=align)
    else:
        for axis, length in ((2, height), (3, width)):
            source = torch.arange(length, device=x.device) * (x.shape[axis] / length)
            low = source.floor().long().clamp(max=x.shape[axis] - 1)
            high = (low + 1).clamp(max=x.shape[axis] - 1)
            share = (source - low).reshape([-1 if one == axis else 1 for one in range(4)])
            x = x.index_select(axis, low) * (1 - share) + x.index_select(axis, high) * share
    return x.permute(0, 2, 3, 1)


def _pad(x: Tensor, paddings: Tensor, value: Any = 0.0, *, mode: str = "constant") -> Tensor:
    amounts = [one for pair in reversed(paddings.tolist()) for one in map(int, pair)]
    if mode == "constant":
        return F.pad(x, amounts, value=float(value))
    last, x = amounts[2:6], x.permute(0, 3, 1, 2)
    return F.pad(x, last, mode=mode).permute(0, 2, 3, 1)


def _depth_to_space(x: Tensor, *, block: int) -> Tensor:
    batch, height, width, channels = x.shape
    x = x.reshape(batch, height, width, block, block, channels // block**2)
    return x.permute(0, 1, 3, 2, 4, 5).reshape(batch, height * block, width * block, -1)


def _reduce(x: Tensor, axes: Tensor, *, by: Callable[..., Tensor], keep: bool) -> Tensor:
    return by(x, dim=_int_list(axes), keepdim=keep)


def _reshape(x: Tensor, shape: Any) -> Tensor:
    """A file made for one image says 1 where the number of images belongs."""
    sizes = _int_list(torch.as_tensor(shape))
    if sizes and sizes[0] == 1 and -1 not in sizes and x.shape[0] > 1:
        sizes[0] = -1
    return x.reshape(sizes)


_PLAIN: dict[str, Callable[..., Any]] = {
    "Add": torch.add, "AddV2": torch.add, "Sub": torch.sub, "Mul": torch.mul, "RealDiv": torch.div,
    "Maximum": torch.maximum, "Minimum": torch.minimum, "Relu": torch.relu, "Relu6": F.relu6, "Elu": F.elu,
    "Sigmoid": torch.sigmoid, "Tanh": torch.tanh, "Abs": torch.abs, "Exp": torch.exp, "Sqrt": torch.sqrt,
    "Rsqrt": torch.rsqrt, "Square": torch.square, "Neg": torch.neg, "Floor": torch.floor,
    "Identity": lambda x: x, "Reshape": _reshape, "AddN": lambda *x: sum(x[1:], x[0]),
    "Shape": lambda x: torch.tensor(x.shape), "MatMul": torch.matmul, "BatchMatMulV2": torch.matmul,
    "ExpandDims": lambda x, axis: x.unsqueeze(int(axis)), "Pad": _pad, "PadV2": _pad,
    "MirrorPad": partial(_pad, mode="reflect"), "Transpose": lambda x, order: x.permute(_int_list(order)),
    "ConcatV2": lambda *x: torch.cat(x[:-1], int(x[-1])),
    "Reciprocal": torch.reciprocal,
}  # fmt: skip
_DTYPES = {"DT_FLOAT": torch.float32, "DT_INT32": torch.int64, "DT_INT64": torch.int64, "DT_BOOL": torch.bool, "DT_UINT8": torch.float32, "DT_DOUBLE": torch.float64}  # fmt: skip
_REDUCTIONS = {"Mean": torch.mean, "Sum": torch.sum, "Max": torch.amax, "Min": torch.amin}


def _fused(node: Mapping[str, Any]) -> Callable[[Tensor], Tensor] | None:
    for attribute in node["attr"].get("fused_ops", {}).get("list", {}).get("s", []):
        name = base64.b64decode(attribute).decode()
        if name in ACTIVATIONS:
            return ACTIVATIONS[name]
        if name not in ("BiasAdd", "Prelu"):
            raise ValueError(f"tfjs: {node['name']} fuses {name}, which is not supported")
    return None


def _names_fused(node: Mapping[str, Any]) -> list[str]:
    return [
        base64.b64decode(one).decode()
        for one in node["attr"].get("fused_ops", {}).get("list", {}).get("s", [])
    ]


def _padding(attributes: Mapping[str, Any]) -> Any:
    kind = _text(attributes.get("padding"))
    if kind == "EXPLICIT":
        pads = _numbers(attributes["explicit_paddings"])
        return (pads[4], pads[5], pads[2], pads[3])
    return "SAME" if kind == "SAME" else (0, 0, 0, 0)


def _convolution(node: Mapping[str, Any], known: Mapping[str, Tensor]) -> tuple[nn.Module, list[str]] | None:
    inputs = [_full_name(one) for one in node["input"] if not one.startswith("^")]
    if inputs[1] not in known:
        return None
    kernel, attributes = known[inputs[1]].float(), node["attr"]
    if "epthwise" in node["op"]:
        height, width, channels, multiple = kernel.shape
        weight, groups = kernel.permute(2, 3, 0, 1).reshape(channels * multiple, 1, height, width), channels
    else:
        weight, groups = kernel.permute(3, 2, 0, 1), 1
    dilation = _numbers(attributes.get("dilations"))[1:3] or [1, 1]
    fused = _names_fused(node)
    bias = known[inputs[2]].reshape(-1) if "BiasAdd" in fused else None
    activation = _fused(node)
    if "Prelu" in fused:
        activation = PRelu(known[inputs[3]].float().reshape(-1, 1, 1))
    if "FusedBatchNorm" in fused:
        raise ValueError("tfjs: a fused batch normalisation is not supported")
    module = Conv(
        weight, bias, stride=_numbers(attributes["strides"])[1:3], dilation=dilation,
        padding=_padding(attributes), groups=groups, channels_last=True, activation=activation,
    )  # fmt: skip
    return module, inputs[:1]


class Linear(nn.Module):
    """x @ W + b and an activation over the last axis."""

    def __init__(
        self, weight: Tensor, bias: Tensor | None, activation: Callable[[Tensor], Tensor] | None
    ) -> None:
        super().__init__()
        self.linear = nn.Linear(*weight.shape, bias is not None)
        self.linear.weight = nn.Parameter(weight.float().T.contiguous(), requires_grad=False)
        if bias is not None:
            self.linear.bias = nn.Parameter(bias.float(), requires_grad=False)
        self.activation = activation

    def forward(self, x: Tensor) -> Tensor:
        x = self.linear(x)
        return x if self.activation is None else self.activation(x)


def batch_norm(
    mean: Tensor, variance: Tensor, gamma: Tensor | None, beta: Tensor | None, eps: float
) -> nn.BatchNorm2d:
    """The normalisation with these statistics, for [B, C, H, W]."""
    module = nn.BatchNorm2d(len(mean), eps=eps).eval().requires_grad_(False)
    module.running_mean, module.running_var = mean.float().clone(), variance.float().clone()
    module.weight.data = gamma.float().clone() if gamma is not None else torch.ones(len(mean))
    module.bias.data = beta.float().clone() if beta is not None else torch.zeros(len(mean))
    return module


class ChannelsLast(nn.Module):
    """A module for [B, C, H, W] on [B, H, W, C]."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module

    def forward(self, x: Tensor) -> Tensor:
        return self.module(x.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)


def _with_weights(
    node: Mapping[str, Any], known: Mapping[str, Tensor], op: str, made_by: Mapping[str, str]
) -> tuple[nn.Module, list[str]] | None:
    """The module of a node that reads weights, and the inputs left; None where it has none."""
    inputs = [_full_name(one) for one in node["input"] if not one.startswith("^")]
    if op in ("Conv2D", "_FusedConv2D", "DepthwiseConv2dNative", "FusedDepthwiseConv2dNative"):
        return _convolution(node, known)
    if op.startswith("FusedBatchNorm"):
        gamma, beta, mean, variance = (known[name] for name in inputs[1:5])
        eps = float(node["attr"].get("epsilon", {}).get("f", 1e-3))
        return ChannelsLast(batch_norm(mean, variance, gamma, beta, eps)), inputs[:1]
    if (
        op in ("MatMul", "_FusedMatMul")
        and inputs[1] in known
        and not node["attr"].get("transpose_b", {}).get("b")
    ):
        bias = known[inputs[2]].reshape(-1) if len(inputs) > 2 else None
        return Linear(known[inputs[1]], bias, _fused(node)), inputs[:1]
    if op == "Prelu":
        return PRelu(known[inputs[1]].float()), inputs[:1]
    two = op in ("BiasAdd", "Add", "AddV2", "Mul") or (op == "AddN" and len(inputs) == 2)
    if two and sum(name in known for name in inputs) == 1:
        (constant,) = (name for name in inputs if name in known)
        value = known[constant]
        if value.numel() > 1 and value.dtype == torch.float32:
            rest = [name for name in inputs if name != constant]
            if op == "Mul" and made_by.get(rest[0]) in (
                "Minimum",
                "Sub",
            ):  # the lower half of a PReLU in parts
                return Slope(value), rest
            return (Scale(value) if op == "Mul" else Shift(value)), rest
    return None


def _plain(node: Mapping[str, Any], op: str) -> nn.Module:
    attributes = node["attr"]
    if op in _PLAIN:
        return Function(_PLAIN[op])
    if op in ("MaxPool", "AvgPool"):
        return Pool(
            op[:3].lower(), _numbers(attributes["ksize"])[1:3], _numbers(attributes["strides"])[1:3],
            _padding(attributes), channels_last=True,
        )  # fmt: skip
    if op in _REDUCTIONS:
        return Function(_reduce, by=_REDUCTIONS[op], keep=bool(attributes.get("keep_dims", {}).get("b")))
    if op in ("ResizeBilinear", "ResizeNearestNeighbor"):
        flags = {name: bool(attributes.get(key, {}).get("b")) for name, key in (("align", "align_corners"), ("half_pixel", "half_pixel_centers"))}  # fmt: skip
        return Function(resize, mode="bilinear" if op == "ResizeBilinear" else "nearest", **flags)
    if op == "LeakyRelu":
        return Function(F.leaky_relu, negative_slope=float(attributes.get("alpha", {}).get("f", 0.2)))
    if op == "Cast":
        return Function(torch.Tensor.to, dtype=_DTYPES[attributes["DstT"]["type"]])
    if op == "StridedSlice":
        keys = ("begin_mask", "end_mask", "ellipsis_mask", "new_axis_mask", "shrink_axis_mask")
        return Function(_strided_slice, masks={key: int(attributes.get(key, {}).get("i", 0)) for key in keys})
    if op == "Pack":
        axis = int(attributes.get("axis", {}).get("i", 0))
        return Function(lambda *x: torch.stack([torch.as_tensor(one) for one in x], axis))
    if op == "Unpack":
        return Function(torch.unbind, dim=int(attributes.get("axis", {}).get("i", 0)))
    if op == "Squeeze":
        axes = _numbers(attributes.get("squeeze_dims"))
        return Function(lambda x: x.squeeze(tuple(axes)) if axes else x.squeeze())
    if op == "Split":
        number = int(attributes["num_split"]["i"])
        return Function(lambda axis, x: torch.chunk(x, number, int(axis)))
    if op == "DepthToSpace":
        return Function(_depth_to_space, block=int(attributes["block_size"]["i"]))
    raise ValueError(f"tfjs: {node['name']} is a {op}, which is not supported")


class Unsupported(nn.Module):
    """Stands for a node that the reader does not know; an error where an output depends on it."""

    def __init__(self, reason: str) -> None:
        super().__init__()
        self.reason = reason

    def forward(self, *_: Any) -> Any:
        raise ValueError(self.reason)


def steps(nodes: list[Mapping[str, Any]], known: Mapping[str, Tensor]) -> tuple[list[Step], str]:
    """Steps of a graph model and the name of its input."""
    found, source, constants = [], "", dict(known)
    kinds = {node["name"]: node["op"] for node in nodes}
    for node in nodes:
        name, op = node["name"], node["op"]
        if op == "Placeholder":
            source = source or name
            continue
        if op == "Const" or name in constants:
            if name in constants:
                value = constants[name]
                found.append(
                    Step(op, Constant(value.long() if value.dtype == torch.int32 else value), (), (name,))
                )
            continue
        inputs = [_full_name(one) for one in node.get("input", []) if not one.startswith("^")]
        node = {**node, "attr": node.get("attr", {}), "input": node.get("input", [])}
        if op == "Identity" and inputs[0] in constants:
            constants[name] = constants[inputs[0]]
        outputs = (name, *(f"{name}:{position}" for position in range(1, 16)))
        try:
            made = _with_weights(node, constants, op, kinds)
            module, left = made if made else (_plain(node, op), inputs)
        except ValueError as error:
            module, left = Unsupported(str(error)), inputs
        found.append(Step(op, module, tuple(left), outputs))
    return found, source


def load(file: Path, output: str, *, source: str | None = None, channels_last: bool = True) -> Graph:
    """The graph of `file` up to the node `output`, from its input or from the inner tensor `source`.

    `channels_last`: how that input and that output lie.
    """
    described = json.loads(file.read_text())
    values = weights(described["weightsManifest"], folder_shards(file.parent))
    made, start = steps(described["modelTopology"]["node"], values)
    return Graph(made, source or start, output, channels_last=channels_last)
