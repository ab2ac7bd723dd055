"""ONNX graphs: up to an inner tensor as a torch module, or as a file whose outputs include that tensor."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from zoo.graph import Constant, Conv, Function, Graph, Pool, PRelu, Scale, Shift, Step
from zoo.tfjs import Linear, Unsupported, batch_norm


def with_output(file: Path, name: str, target: Path) -> None:
    """Write `target`: the graph of `file` with the inner tensor `name` as its only output.

    Raises ValueError where no node makes that tensor.
    """
    import onnx

    model = onnx.load(str(file))
    if not any(name in node.output for node in model.graph.node):
        raise ValueError(f"onnx: no node of {file.name} makes {name!r}")
    del model.graph.output[:]
    model.graph.output.add().name = name
    onnx.save(model, str(target))


def _resize(x: Tensor, *rest: Tensor | None, mode: str, coordinates: str) -> Tensor:
    given = [one for one in rest if one is not None and one.numel()]
    last = given[-1]
    if last.dtype == torch.int64:
        size: Any = tuple(int(n) for n in last[-2:])
    else:
        size = tuple(int(n * float(s)) for n, s in zip(x.shape[2:], last[-2:], strict=True))
    if mode == "nearest":
        return F.interpolate(x, size, mode="nearest")
    return F.interpolate(x, size, mode="bilinear", align_corners=coordinates == "align_corners")


def _reshape(x: Tensor, shape: Tensor) -> Tensor:
    sizes = [x.shape[axis] if size == 0 else int(size) for axis, size in enumerate(shape.tolist())]
    return x.reshape(sizes)


def _slice(
    x: Tensor, starts: Tensor, ends: Tensor, axes: Tensor | None = None, steps: Tensor | None = None
) -> Tensor:
    index: list[Any] = [slice(None)] * x.ndim
    for position, (start, end) in enumerate(zip(starts.tolist(), ends.tolist(), strict=True)):
        axis = position if axes is None else int(axes[position])
        index[axis] = slice(int(start), int(end), 1 if steps is None else int(steps[position]))
    return x[tuple(index)]


def _pad(x: Tensor, pads: Tensor, value: Tensor | None = None, *_: Any) -> Tensor:
    count = len(pads) // 2
    amounts = [int(one) for axis in reversed(range(count)) for one in (pads[axis], pads[axis + count])]
    return F.pad(x, amounts, value=0.0 if value is None else float(value))


_PLAIN: dict[str, Callable[..., Any]] = {
    "Add": torch.add, "Sub": torch.sub, "Mul": torch.mul, "Div": torch.div, "Relu": torch.relu,
    "Max": torch.maximum, "Sigmoid": torch.sigmoid, "Tanh": torch.tanh, "Identity": lambda x: x, "Exp": torch.exp, "Sqrt": torch.sqrt,
    "HardSwish": F.hardswish, "Erf": torch.erf, "Pow": torch.pow, "MatMul": torch.matmul,
    "Reshape": _reshape, "Slice": _slice, "Pad": _pad,
    "Shape": lambda x: torch.tensor(x.shape), "GlobalAveragePool": lambda x: x.mean((2, 3), keepdim=True),
    "Clip": lambda x, low=None, high=None: torch.clamp(x, low, high),
    "Unsqueeze": lambda x, axes: x.unsqueeze(int(axes)), "Squeeze": lambda x, axes: x.squeeze(int(axes)),
}  # fmt: skip


def _spatial(attributes: Mapping[str, Any], kernel: tuple[int, ...]) -> dict[str, Any]:
    automatic = attributes.get("auto_pad", b"NOTSET").decode()
    padding: Any = {"SAME_UPPER": "SAME", "SAME_LOWER": "SAME_LOWER"}.get(automatic)
    if padding is None:
        top, left, bottom, right = attributes.get("pads", [0, 0, 0, 0])
        padding = (left, right, top, bottom)
    return {"stride": attributes.get("strides", [1] * len(kernel)), "padding": padding}


def _weighted(op: str, attributes: Mapping[str, Any], inputs: list[str], known: Mapping[str, Tensor]) -> tuple[nn.Module, list[str]] | None:  # fmt: skip
    if op == "Conv" and inputs[1] in known:
        weight = known[inputs[1]]
        bias = known[inputs[2]] if len(inputs) > 2 else None
        return Conv(
            weight, bias, dilation=attributes.get("dilations", [1, 1]), groups=int(attributes.get("group", 1)),
            **_spatial(attributes, tuple(weight.shape[2:])),
        ), inputs[:1]  # fmt: skip
    if op == "BatchNormalization":
        gamma, beta, mean, variance = (known[name] for name in inputs[1:5])
        return batch_norm(mean, variance, gamma, beta, float(attributes.get("epsilon", 1e-5))), inputs[:1]
    if op == "MatMul" and inputs[1] in known and known[inputs[1]].ndim == 2:
        return Linear(known[inputs[1]], None, None), inputs[:1]
    if op == "Gemm" and inputs[1] in known:
        weight = known[inputs[1]]
        bias = known[inputs[2]] if len(inputs) > 2 else None
        return Linear(weight.T if attributes.get("transB") else weight, bias, None), inputs[:1]
    if op == "LayerNormalization":
        weight = known[inputs[1]]
        made = nn.LayerNorm(weight.shape, float(attributes.get("epsilon", 1e-5)), bias=len(inputs) > 2)
        made.weight.data = weight
        if len(inputs) > 2:
            made.bias.data = known[inputs[2]]
        return made, inputs[:1]
    if op == "PRelu":
        return PRelu(known[inputs[1]]), inputs[:1]
    if op in ("Add", "Mul") and sum(name in known for name in inputs) == 1:
        (constant,) = (name for name in inputs if name in known)
        value = known[constant]
        if value.numel() > 1 and value.dtype == torch.float32:
            rest = [name for name in inputs if name != constant]
            return (Scale(value) if op == "Mul" else Shift(value)), rest
    return None


def _split(x: Tensor, given: Tensor | None = None, *, axis: int, sizes: Any, parts: int) -> Any:
    lengths = list(sizes) if sizes else [x.shape[axis] // parts] * parts if given is None else given.tolist()
    return torch.split(x, lengths, axis)


def _plain(op: str, attributes: Mapping[str, Any], parts: int) -> nn.Module:
    if op in ("Unsqueeze", "Squeeze") and "axes" in attributes:
        axes = [int(axis) for axis in attributes["axes"]]
        if op == "Squeeze":
            return Function(lambda x: x.squeeze(tuple(axes)))
        return Function(lambda x: x.reshape(_unsqueezed(tuple(x.shape), axes)))
    if op == "Clip" and ("min" in attributes or "max" in attributes):
        return Function(torch.clamp, min=attributes.get("min"), max=attributes.get("max"))
    if op in _PLAIN:
        return Function(_PLAIN[op])
    if op in ("MaxPool", "AveragePool"):
        kernel = tuple(attributes["kernel_shape"])
        return Pool(
            "max" if op == "MaxPool" else "mean", kernel, ceil=bool(attributes.get("ceil_mode")),
            count_padding=bool(attributes.get("count_include_pad")), **_spatial(attributes, kernel),
        )  # fmt: skip
    if op == "HardSigmoid":
        alpha, beta = float(attributes.get("alpha", 0.2)), float(attributes.get("beta", 0.5))
        return Function(lambda x: torch.clamp(alpha * x + beta, 0, 1))
    if op == "LeakyRelu":
        return Function(F.leaky_relu, negative_slope=float(attributes.get("alpha", 0.01)))
    if op == "Concat":
        return Function(lambda *x: torch.cat([torch.as_tensor(one) for one in x], int(attributes["axis"])))
    if op == "Transpose":
        return Function(torch.permute, dims=tuple(attributes["perm"]))
    if op == "Flatten":
        return Function(torch.flatten, start_dim=int(attributes.get("axis", 1)))
    if op in ("ReduceMean", "ReduceSum", "ReduceMax"):
        function: Any = {"ReduceMean": torch.mean, "ReduceSum": torch.sum, "ReduceMax": torch.amax}[op]
        return Function(function, dim=tuple(attributes["axes"]), keepdim=bool(attributes.get("keepdims", 1)))
    if op == "Split":
        axis, sizes = int(attributes.get("axis", 0)), attributes.get("split")
        return Function(partial(_split, axis=axis, sizes=sizes, parts=parts))
    if op in ("Resize", "Upsample"):
        return Function(
            _resize, mode=attributes.get("mode", b"nearest").decode(),
            coordinates=attributes.get("coordinate_transformation_mode", b"half_pixel").decode(),
        )  # fmt: skip
    if op == "Gather":
        return Function(
            lambda x, index: torch.as_tensor(x).select(int(attributes.get("axis", 0)), int(index))
        )
    if op == "Softmax":
        return Function(torch.softmax, dim=int(attributes.get("axis", -1)))
    if op == "Cast":
        kinds = {1: torch.float32, 6: torch.int64, 7: torch.int64}
        return Function(torch.Tensor.to, dtype=kinds.get(int(attributes["to"]), torch.float32))
    raise ValueError(f"onnx: {op} is not supported")


def _unsqueezed(shape: tuple[int, ...], axes: list[int]) -> list[int]:
    sizes = list(shape)
    for axis in sorted(axes):
        sizes.insert(axis, 1)
    return sizes


def load(file: Path, output: str, *, source: str | None = None, pool: bool = True) -> Graph:
    """The graph of `file` up to the tensor `output`, from its input or from the inner tensor `source`."""
    import onnx
    from onnx import numpy_helper

    graph = onnx.load(str(file)).graph

    def tensor(value: Any) -> Tensor:
        made = np.array(numpy_helper.to_array(value))
        return torch.from_numpy(made.astype(np.float32) if made.dtype == np.float16 else made)

    known = {one.name: tensor(one) for one in graph.initializer}
    found = [Step("Constant", Constant(value), (), (name,)) for name, value in known.items()]
    for position, node in enumerate(graph.node):
        attributes = {one.name: onnx.helper.get_attribute_value(one) for one in node.attribute}
        outputs = tuple(node.output)
        if node.op_type == "Constant":
            known[outputs[0]] = tensor(attributes["value"]) if "value" in attributes else torch.as_tensor(next(iter(attributes.values())))  # fmt: skip
            found.append(Step("Constant", Constant(known[outputs[0]]), (), outputs))
            continue
        inputs = list(node.input)
        if node.op_type == "Identity" and inputs[0] in known:
            known[outputs[0]] = known[inputs[0]]
        try:
            made = _weighted(node.op_type, attributes, inputs, known)
            module, left = made if made else (_plain(node.op_type, attributes, len(outputs)), inputs)
        except ValueError as error:
            module, left = Unsupported(f"{error} (node {position})"), inputs
        if "" in left:
            found.append(Step("Constant", Constant(None), (), ("",)))
        found.append(Step(node.op_type, module, tuple(left), outputs))
    start = next(one.name for one in graph.input if one.name not in known)
    return Graph(found, source or start, output, channels_last=False, pool=pool)
