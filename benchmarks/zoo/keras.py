"""Keras models: the layers of a configuration with their weights, from HDF5 files and TensorFlow.js layers models."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from zoo.graph import Conv, Function, Graph, Pool, PRelu, Step
from zoo.tfjs import ACTIVATIONS, ChannelsLast, Linear, Unsupported, batch_norm, folder_shards, weights

Weights = Mapping[str, Tensor]  # "LAYER/kernel" and so on


def _node_inputs(layer: Mapping[str, Any]) -> list[str]:
    """Names of the layers that the first call of a layer reads, in either spelling of Keras."""
    found: list[str] = []

    def visit(value: Any) -> None:
        if isinstance(value, Mapping):
            history = value.get("config", {}).get("keras_history") if value.get("class_name") else None
            if history:
                found.append(history[0])
            else:
                for one in value.values():
                    visit(one)
        elif isinstance(value, list):
            if len(value) >= 3 and isinstance(value[0], str) and isinstance(value[1], int):
                found.append(value[0])
            else:
                for one in value:
                    visit(one)

    nodes = layer.get("inbound_nodes", [])
    visit(nodes[:1])
    return found


def _activation(name: Any) -> Any:
    if not isinstance(name, str) or name not in ACTIVATIONS:
        raise ValueError(f"keras: activation {name!r} is not supported")
    return ACTIVATIONS[name]


def _padding(config: Mapping[str, Any]) -> Any:
    return "SAME" if config["padding"] == "same" else (0, 0, 0, 0)


def _weighted(kind: str, config: Mapping[str, Any], own: Weights) -> nn.Module | None:
    if kind in ("Conv2D", "DepthwiseConv2D"):
        groups = int(config.get("groups", 1))
        if kind == "Conv2D":
            weight = own["kernel"].permute(3, 2, 0, 1)
        else:
            kernel = own.get("depthwise_kernel", own.get("kernel"))
            height, width, groups, multiple = kernel.shape
            weight = kernel.permute(2, 3, 0, 1).reshape(groups * multiple, 1, height, width)
        return Conv(
            weight, own.get("bias"), stride=config["strides"], dilation=config["dilation_rate"],
            padding=_padding(config), groups=groups, channels_last=True,
            activation=_activation(config["activation"]),
        )  # fmt: skip
    if kind == "BatchNormalization":
        return ChannelsLast(
            batch_norm(
                own["moving_mean"], own["moving_variance"], own.get("gamma"), own.get("beta"),
                float(config["epsilon"]),
            )
        )  # fmt: skip
    if kind == "Dense":
        return Linear(own["kernel"], own.get("bias"), _activation(config["activation"]))
    if kind == "PReLU":
        return PRelu(own["alpha"])
    return None


def _plain(kind: str, config: Mapping[str, Any]) -> nn.Module:
    if kind in ("Dropout", "InputLayer", "SpatialDropout2D", "GaussianNoise"):
        return nn.Identity()
    if kind == "Activation":
        return Function(_activation(config["activation"]) or (lambda x: x))
    if kind == "ReLU":
        top = config.get("max_value")
        return Function(torch.clamp, min=0.0, max=top) if top else Function(torch.relu)
    if kind == "LeakyReLU":
        return Function(
            F.leaky_relu, negative_slope=float(config.get("alpha", config.get("negative_slope", 0.3)))
        )
    if kind == "ZeroPadding2D":
        (top, bottom), (left, right) = config["padding"]
        return Function(F.pad, pad=(0, 0, left, right, top, bottom))
    if kind in ("MaxPooling2D", "AveragePooling2D"):
        return Pool(
            "max" if kind.startswith("Max") else "mean", config["pool_size"], config["strides"] or config["pool_size"],
            _padding(config), channels_last=True,
        )  # fmt: skip
    if kind == "Add":
        return Function(lambda *x: sum(x[1:], x[0]))
    if kind == "Multiply":
        return Function(torch.mul)
    if kind == "Concatenate":
        return Function(lambda *x: torch.cat(x, int(config.get("axis", -1))))
    if kind == "GlobalAveragePooling2D":
        return Function(torch.mean, dim=(1, 2))
    if kind == "Rescaling":
        return Function(lambda x: x * config["scale"] + config["offset"])
    raise ValueError(f"keras: layer {kind} is not supported")


def steps(config: Mapping[str, Any], known: Weights) -> tuple[list[Step], str]:
    """Steps of a `Functional` or `Sequential` configuration, in the order of the file, and its input's name."""
    sequential = config["class_name"] == "Sequential"
    found: list[Step] = []
    source, previous = "", ""
    for layer in config["config"]["layers"]:
        kind, own_config = layer["class_name"], layer["config"]
        name = layer.get("name") or own_config["name"]
        if kind == "InputLayer":
            source = previous = name
            continue
        if not source:
            source = previous = "input"
        inputs = [previous] if sequential else _node_inputs(layer)
        previous = name
        if kind in ("Functional", "Model", "Sequential"):
            inner, start = steps(layer, known)
            found.append(Step("Identity", nn.Identity(), tuple(inputs), (start,)))
            found += inner
            found.append(Step("Identity", nn.Identity(), (inner[-1].outputs[0],), (name,)))
            continue
        own = {key.rsplit("/", 1)[1]: value for key, value in known.items() if key.rsplit("/", 1)[0] == name}
        try:
            module = _weighted(kind, own_config, own) or _plain(kind, own_config)
        except ValueError as error:
            module = Unsupported(str(error))
        found.append(Step(kind, module, tuple(inputs), (name,)))
    return found, source


def _graph(config: Mapping[str, Any], known: Weights, output: str) -> Graph:
    found, source = steps(config, known)
    return Graph(found, source, output, channels_last=True)


def load_tfjs(file: Path, output: str) -> Graph:
    """A TensorFlow.js layers model: `model.json` and its shards."""
    described = json.loads(file.read_text())
    topology = described["modelTopology"]
    config = topology.get("model_config", topology)
    return _graph(config, weights(described["weightsManifest"], folder_shards(file.parent)), output)


def load_hdf5(file: Path, output: str) -> Graph:
    """A whole model as Keras 2 and 3 write it to HDF5: configuration in an attribute, weights in `model_weights`."""
    import h5py

    known: dict[str, Tensor] = {}

    def take(path: str, entry: Any) -> None:
        if isinstance(entry, h5py.Dataset):
            layer, weight = path.removesuffix(":0").split("/")[-2:]
            known[f"{layer}/{weight}"] = torch.from_numpy(entry[()])

    with h5py.File(file, "r") as stored:
        config = json.loads(stored.attrs["model_config"])
        stored["model_weights"].visititems(take)
    return _graph(config, known, output)
