"""Networks whose package ships weights without a graph: the architecture is made here, the weights are put in."""

from __future__ import annotations

import base64
import json
import pickle
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from zoo.graph import pooled
from zoo.tfjs import folder_shards, weights


class Stages(nn.Module):
    """Modules in order, then the mean over positions."""

    def __init__(self, stages: Iterable[nn.Module]) -> None:
        super().__init__()
        self.stages = nn.Sequential(*stages)

    def forward(self, x: Tensor) -> Tensor:
        return pooled(self.stages(x))


_ARRAY_PARTS = frozenset(
    {
        ("numpy.core.multiarray", "_reconstruct"),
        ("numpy._core.multiarray", "_reconstruct"),
        ("numpy", "ndarray"),
        ("numpy", "dtype"),
        ("_codecs", "encode"),
    }
)


class _Unpickler(pickle.Unpickler):
    """Arrays, dictionaries, lists and numbers only; anything else in the stream is an error and is never called."""

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in _ARRAY_PARTS:
            raise pickle.UnpicklingError(f"pickle: {module}.{name} is not an array and is not loaded")
        module = module.replace("numpy.core", "numpy._core")
        return super().find_class(module, name)


def read_arrays(file: Path) -> Any:
    """A pickle of numpy arrays.

    Raises pickle.UnpicklingError where the stream names any other class or function.
    """
    with file.open("rb") as stream:
        return _Unpickler(stream, encoding="latin1").load()


def state_dict(file: Path) -> dict[str, Tensor]:
    """The weights of a torch checkpoint, alone or under `state_dict`; nothing but tensors is unpickled."""
    loaded = torch.load(file, map_location="cpu", weights_only=True)
    for key in ("state_dict", "model_state_dict", "model"):
        if isinstance(loaded, Mapping) and isinstance(loaded.get(key), Mapping):
            loaded = loaded[key]
    return dict(loaded)


def efficientnet_lite(file: Path, variant: int) -> nn.Module:
    """EfficientNet-lite up to its last block.

    The file's names are those of another implementation; both list weights in the order in which they run, so they
    are matched by position, shapes checked.
    """
    import timm

    network = timm.create_model(f"tf_efficientnet_lite{variant}")
    own, given = network.state_dict(), state_dict(file)
    if [value.shape for value in own.values()] != [value.shape for value in given.values()]:
        raise ValueError(f"{file.name}: expected the weights of EfficientNet-lite{variant} in order")
    network.load_state_dict(dict(zip(own, given.values(), strict=True)))
    return Stages([network.conv_stem, network.bn1, network.blocks])


def efficientnet_b0(file: Path) -> nn.Module:
    """torchvision's EfficientNet-B0 up to its last block."""
    from torchvision.models import efficientnet_b0 as make

    given = state_dict(file)
    network = make(num_classes=next(reversed(given.values())).shape[0])
    network.load_state_dict(given)
    return Stages(list(network.features)[:-1])


def squeezenet(file: Path) -> nn.Module:
    """SqueezeNet 1.1 up to its last fire module, from a pickle of Keras kernels and biases."""
    from torchvision.models import squeezenet1_1

    given = read_arrays(file)
    network = squeezenet1_1().features
    convolutions = [one for one in network.modules() if isinstance(one, nn.Conv2d)]
    fires = range(2, 10)
    names = ["conv1"] + [
        f"fire{n}/{part}" for n in fires for part in ("squeeze1x1", "expand1x1", "expand3x3")
    ]
    for convolution, name in zip(convolutions, names, strict=True):
        kernel, bias = (torch.from_numpy(np.asarray(one, np.float32)) for one in given[name])
        if kernel.shape != convolution.weight.permute(2, 3, 1, 0).shape:
            raise ValueError(f"{file.name}: {name} has shape {tuple(kernel.shape)}")
        convolution.weight.data, convolution.bias.data = kernel.permute(3, 2, 0, 1).contiguous(), bias
    return Stages(network)


def vgg16(file: Path) -> nn.Module:
    """The five blocks of VGG16 from HDF5 groups `blockN/layers/conv2d*`."""
    import h5py

    stages: list[nn.Module] = []
    with h5py.File(file, "r") as stored:
        for block, depth in enumerate((2, 2, 3, 3, 3), 1):
            if block > 1:
                stages.append(nn.MaxPool2d(2, 2, ceil_mode=True))
            for position in range(depth):
                suffix = f"_{position}" if position else ""
                kernel, bias = (stored[f"block{block}/layers/conv2d{suffix}/vars/{n}"][()] for n in (0, 1))
                convolution = nn.Conv2d(kernel.shape[2], kernel.shape[3], 3, padding=1)
                convolution.weight.data = torch.from_numpy(kernel).permute(3, 2, 0, 1).contiguous()
                convolution.bias.data = torch.from_numpy(bias)
                stages += [convolution, nn.ReLU()]
    return Stages(stages)


class _Unit(nn.Module):
    """A convolution with a bias, then a factor and an offset per channel (a folded normalisation)."""

    def __init__(
        self, known: Mapping[str, Tensor], name: str, stride: int, *, same: bool, active: bool
    ) -> None:
        super().__init__()
        kernel = known[f"{name}/conv/filters"].permute(3, 2, 0, 1)
        size = kernel.shape[2]
        self.conv = nn.Conv2d(kernel.shape[1], kernel.shape[0], size, stride, size // 2 if same else 0)
        factor, offset = known[f"{name}/scale/weights"], known[f"{name}/scale/biases"]
        self.conv.weight.data = (kernel * factor[:, None, None, None]).contiguous()
        self.conv.bias.data = known[f"{name}/conv/bias"] * factor + offset
        self.active = active

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv(x)
        return torch.relu(x) if self.active else x


class _Residual(nn.Module):
    """dlib's residual block; the one that halves the size pads the shortcut with zero channels."""

    def __init__(self, known: Mapping[str, Tensor], name: str, down: bool) -> None:
        super().__init__()
        self.down = down
        self.first = _Unit(known, f"{name}/conv1", 2 if down else 1, same=not down, active=True)
        self.second = _Unit(known, f"{name}/conv2", 1, same=True, active=False)

    def forward(self, x: Tensor) -> Tensor:
        out = self.second(self.first(x))
        if self.down:
            x = F.avg_pool2d(x, 2, 2)
            height, width = (max(a, b) for a, b in zip(x.shape[2:], out.shape[2:], strict=True))
            x, out = (F.pad(one, (0, width - one.shape[3], 0, height - one.shape[2])) for one in (x, out))
            x = F.pad(x, (0, 0, 0, 0, 0, out.shape[1] - x.shape[1]))
        return torch.relu(out + x)


def dlib_face(manifest: Path) -> nn.Module:
    """dlib's residual network for faces, weights in the TensorFlow.js form of face-api.

    Without the last block, which halves the size once more; 96x96 pixels are the least that it reads.
    """
    known = weights(json.loads(manifest.read_text()), folder_shards(manifest.parent))
    names = sorted({name.split("/")[0] for name in known if "/conv1/" in name})

    def order(name: str) -> tuple[int, bool, int]:
        width, rest = name.removeprefix("conv").split("_", 1)
        return int(width), not rest.startswith("down"), int(rest) if rest.isdigit() else 99

    stages: list[nn.Module] = [_Unit(known, "conv32_down", 2, same=False, active=True), nn.MaxPool2d(3, 2)]
    blocks = sorted((name for name in names if name != "conv256_down_out"), key=order)
    stages += [_Residual(known, name, "down" in name) for name in blocks]
    return Stages(stages)


def depthwise_faces(manifest: Path) -> nn.Module:
    """The tiny face detector of face-api: one convolution, then separable ones, 2x2 maxima between; leaky 0.1."""
    known = weights(json.loads(manifest.read_text()), folder_shards(manifest.parent))
    stages: list[nn.Module] = []
    for position in range(6):
        name = f"conv{position}"
        if position == 0:
            kernels = [(known[f"{name}/filters"].permute(3, 2, 0, 1), 1)]
        else:
            deep = known[f"{name}/depthwise_filter"].permute(2, 3, 0, 1)
            kernels = [(deep, len(deep)), (known[f"{name}/pointwise_filter"].permute(3, 2, 0, 1), 1)]
        for step, (kernel, groups) in enumerate(kernels):
            last = step == len(kernels) - 1
            size = kernel.shape[2]
            made = nn.Conv2d(
                kernel.shape[1] * groups, len(kernel), size, padding=size // 2, groups=groups, bias=last
            )
            made.weight.data = kernel.contiguous()
            if last:
                made.bias.data = known[f"{name}/bias"]
            stages.append(made)
        stages.append(nn.LeakyReLU(0.1))
        if position < 5:
            stages.append(nn.MaxPool2d(2, 2))
    return Stages(stages)


_NUMBER = re.compile(r"-?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?")
_WORD = re.compile(r"[A-Za-z_$][\w$]*")
_STRING = re.compile(r""""(?:[^"\\]|\\.)*"|'(?:[^'\\]|\\.)*'""")
_WORDS = {"!0": True, "!1": False, "null": None, "true": True, "false": False, "void 0": None}


def javascript_literal(text: str, at: int) -> tuple[Any, int]:
    """The object, list, string, number or constant that begins at `at` in minified JavaScript, and where it ends.

    Raises ValueError where something else stands there: a call, a name, the end of the text.
    """
    if text[at : at + 1] == "{":
        made: dict[str, Any] = {}
        at += 1
        while text[at] != "}":
            match = _STRING.match(text, at) or _WORD.match(text, at) or _NUMBER.match(text, at)
            if match is None or text[match.end()] != ":":
                raise ValueError(f"javascript: expected a key at {at}, got {text[at : at + 20]!r}")
            made[match.group().strip("\"'")], at = javascript_literal(text, match.end() + 1)
            at += text[at] == ","
        return made, at + 1
    if text[at : at + 1] == "[":
        items = []
        at += 1
        while text[at] != "]":
            value, at = javascript_literal(text, at)
            items.append(value)
            at += text[at] == ","
        return items, at + 1
    for word, value in _WORDS.items():
        if text.startswith(word, at):
            return value, at + len(word)
    if match := _STRING.match(text, at):
        quoted = match.group()
        if quoted[0] == "'":
            quoted = '"' + quoted[1:-1].replace("\\'", "'").replace('"', '\\"') + '"'
        return json.loads(quoted), match.end()
    if match := _NUMBER.match(text, at):
        number = float(match.group())
        return int(number) if number.is_integer() else number, match.end()
    raise ValueError(f"javascript: expected a value at {at}, got {text[at : at + 20]!r}")


def scripts_to_files(folder: Path, target: Path) -> Path:
    """A TensorFlow.js model held as literals and base64 inside JavaScript modules, written as ordinary files.

    Returns the path of `model.json`. The scripts are read as text, not run.
    """
    target.mkdir(parents=True, exist_ok=True)
    for script in sorted(folder.glob("*.min.js")):
        text = script.read_text()
        name = script.name.removesuffix(".min.js")
        if name == "model":
            start = re.search(r"\.exports=(?=\{)", text)
            if start is None:
                raise ValueError(f"{script.name}: expected an exported object")
            described, _ = javascript_literal(text, start.end())
            for group in described["weightsManifest"]:
                group["paths"] = [Path(path).stem for path in group["paths"]]
            (target / "model.json").write_text(json.dumps(described))
        else:
            longest = max(re.findall(r"[A-Za-z0-9+/=]{1000,}", text), key=len)
            (target / name).write_bytes(base64.b64decode(longest))
    return target / "model.json"
