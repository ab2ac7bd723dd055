"""Pre-trained networks with their classifier, by the specs of encoders: timm, torchvision, python and digits."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from torch import nn

from synbench_fast.encoders.base import Request
from synbench_fast.encoders.download import fetching
from synbench_fast.encoders.python import load as load_python
from synbench_fast.encoders.registry import check_name, require
from synbench_fast.encoders.weights import load_checkpoint
from synbench_fast.errors import SynbenchError, first_line, suggest
from synbench_fast.runtime.global_state import seeded
from synbench_fast.studies.inheritance.folders import Prepare
from synbench_fast.studies.inheritance.model import Classifier, split_head

__all__ = ["SOURCES", "Network", "load_network"]

SOURCES = ("digits", "timm", "torchvision", "python")


@dataclass(frozen=True)
class Network:
    """A network x -> logits on normalised images, and how its images are prepared.

    `classifier` is set where the network is one already; `module` is None then.
    """

    spec: str
    module: nn.Module | None
    prepare: Prepare
    mean: tuple[float, ...]
    std: tuple[float, ...]
    classifier: Classifier | None = None

    def split(self, classes: int) -> Classifier:
        """As an encoder with a linear head of that many classes."""
        if self.classifier is not None:
            made = self.classifier
            if made.head.out_features != classes:
                raise SynbenchError(
                    f"encoder {self.spec}: expected a head of {classes} classes, as the pre-training data have, "
                    f"got {made.head.out_features}"
                )
            return made.clone()
        assert self.module is not None
        shape = self.prepare.shape
        return split_head(
            self.module, classes, spec=self.spec, mean=self.mean, std=self.std, shape=shape
        ).clone()


def load_network(
    encoder: str | Classifier, *, checkpoint: str | None = None, random_init: bool = False, seed: int = 0
) -> Network:
    """The network behind a spec, its classifier kept, or a Classifier itself.

    Args:
        encoder: "digits:KIND", "timm:NAME", "torchvision:NAME[/WEIGHTS]" or "python:FILE.py:FACTORY", whose factory
            returns a Module x -> logits; its attributes input_shape, mean and std are read.
        checkpoint: local weights of the whole network, read without executing code.
        random_init: weights drawn from `seed`, no download.

    Raises:
        SynbenchError: an unknown source or name, weights that do not fit, no input shape.
    """
    if isinstance(encoder, Classifier):
        name = f"module:{type(encoder.body).__name__}"
        given = Request(spec=name, name=name, checkpoint=checkpoint, random_init=random_init)
        given.refuse("checkpoint", "random_init", reason="a Classifier has its weights")
        return Network(name, None, Prepare(encoder.input_shape), encoder.mean, encoder.std, encoder)
    source, _, name = encoder.partition(":")
    if source not in SOURCES or not name:
        raise SynbenchError(
            f"encoder: expected a network with its classifier from {', '.join(SOURCES)}, such as digits:standard, got "
            f"{encoder!r}{suggest(source, SOURCES)}"
        )
    request = Request(spec=encoder, name=name, checkpoint=checkpoint, random_init=random_init, seed=seed)
    with seeded(seed):
        return _LOADERS[source](request)


def _digits(request: Request) -> Network:
    from synbench_fast.studies.inheritance.digits_rib import digits_encoder

    request.refuse("checkpoint", "random_init", reason="it is trained here")
    made = digits_encoder(request.name)
    return Network(request.spec, None, Prepare(made.input_shape), made.mean, made.std, made)


def _timm(request: Request) -> Network:
    timm = require("timm", "timm", request.spec)
    if ":" not in request.name:
        check_name(request, "timm", [*timm.list_models(), *timm.list_models(pretrained=True)])
    if request.pretrained:
        with fetching(request.spec):
            module = timm.create_model(request.name, pretrained=True)
    else:
        try:
            module = timm.create_model(request.name, pretrained=False)
        except (OSError, RuntimeError, ValueError, TypeError, AssertionError) as error:
            raise SynbenchError(
                f"encoder {request.spec}: timm could not build it ({first_line(error)})"
            ) from error
    if request.checkpoint is not None:
        load_checkpoint(module, request.checkpoint, request.spec)
    config = timm.data.resolve_model_data_config(module)
    mode = config["interpolation"] if config["interpolation"] in ("bilinear", "bicubic") else "bicubic"
    size = max(config["input_size"][1:])
    resized = math.floor(size / config["crop_pct"])  # timm rounds down, Prepare to the nearest
    prepare = Prepare(tuple(config["input_size"]), size / resized, mode, config["crop_mode"] == "squash")
    return Network(request.spec, module, prepare, tuple(config["mean"]), tuple(config["std"]))


def _torchvision(request: Request) -> Network:
    from synbench_fast.encoders.torchvision import IMAGENET_MEAN, IMAGENET_STD, find_weights, names

    torchvision = require("torchvision", "torchvision", request.spec)
    name, _, tag = request.name.partition("/")
    check_name(request if not tag else Request(spec=f"torchvision:{name}", name=name), "torchvision", names())
    weights = find_weights(torchvision, name, tag, request.spec)
    if request.pretrained and weights is None:
        raise SynbenchError(
            f"encoder {request.spec}: torchvision publishes no weights for it; use random_init or checkpoint"
        )
    if request.pretrained:
        with fetching(request.spec):
            module = torchvision.models.get_model(name, weights=weights)
    else:
        module = torchvision.models.get_model(name, weights=None)
    if request.checkpoint is not None:
        load_checkpoint(module, request.checkpoint, request.spec)
    if weights is None:
        return Network(request.spec, module, Prepare((3, 224, 224)), IMAGENET_MEAN, IMAGENET_STD)
    found = weights.transforms()
    size = int(found.crop_size[0])
    prepare = Prepare((3, size, size), size / int(found.resize_size[0]), found.interpolation.value)
    return Network(request.spec, module, prepare, tuple(found.mean), tuple(found.std))


def _python(request: Request) -> Network:
    loaded = load_python(request)
    module: Any = loaded.forward
    if not isinstance(module, nn.Module):
        raise SynbenchError(
            f"encoder {request.spec}: expected a torch.nn.Module x -> logits, got {type(module).__name__}"
        )
    shape = loaded.input_shape
    if shape is None or len(shape) != 3:
        raise SynbenchError(
            f"encoder {request.spec}: expected an attribute input_shape such as (3, 224, 224), got {shape}"
        )
    channels = shape[0]
    mean, std = loaded.mean or (0.0,) * channels, loaded.std or (1.0,) * channels
    crop = 1.0 if shape[1] < 64 else 0.875
    return Network(request.spec, module, Prepare((channels, shape[1], shape[2]), crop), mean, std)


_LOADERS = {"digits": _digits, "timm": _timm, "torchvision": _torchvision, "python": _python}
