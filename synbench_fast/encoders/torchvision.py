"""`torchvision:NAME[/WEIGHTS]`: torchvision's classification models, without their classifier."""

from __future__ import annotations

from typing import Any

from torch import nn

from synbench_fast.encoders.base import Loaded, Request
from synbench_fast.encoders.download import fetching
from synbench_fast.encoders.registry import check_name, require
from synbench_fast.encoders.weights import load_checkpoint
from synbench_fast.errors import SynbenchError, suggest

__all__ = ["find_weights", "load", "names", "without_classifier"]

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def names() -> list[str]:
    import torchvision

    found: list[str] = torchvision.models.list_models(module=torchvision.models)
    return found


def without_classifier(model: nn.Module) -> nn.Module:
    """Replace the layer that makes class scores by the identity, so that the model returns its features.

    That layer is the last nn.Linear of every torchvision classifier, however the attribute around it is
    called (fc, classifier, head, heads); SqueezeNet has a 1x1 convolution instead, with a ReLU behind it.
    """
    linear = [name for name, layer in model.named_modules() if isinstance(layer, nn.Linear)]
    if linear:
        removed = linear[-1:]
    else:
        conv = [name for name, layer in model.named_modules() if isinstance(layer, nn.Conv2d)]
        parent, _, position = conv[-1].rpartition(".")
        removed = [conv[-1], f"{parent}.{int(position) + 1}"]
    for name in removed:
        parent, _, child = name.rpartition(".")
        setattr(model.get_submodule(parent), child, nn.Identity())
    return model


def load(request: Request) -> Loaded:
    """Weights are the library's DEFAULT unless WEIGHTS names others; their transforms give the constants."""
    torchvision = require("torchvision", "torchvision", request.spec)
    name, _, tag = request.name.partition("/")
    check_name(request if not tag else Request(spec=f"torchvision:{name}", name=name), "torchvision", names())
    weights = find_weights(torchvision, name, tag, request.spec)
    options: dict[str, Any] = {}
    if request.input_shape is not None and name.startswith("vit_") and len(request.input_shape) == 3:
        options["image_size"] = request.input_shape[-1]
    if not request.pretrained and name in ("googlenet", "inception_v3"):
        # Auxiliary classifiers do not reach the features, and the default of init_weights is a FutureWarning.
        options |= {"init_weights": False, "aux_logits": False}
    if request.pretrained:
        if weights is None:
            raise SynbenchError(
                f"encoder {request.spec}: torchvision publishes no weights for it; "
                "use --random-init, or --checkpoint FILE for local weights"
            )
        with fetching(request.spec):
            model = torchvision.models.get_model(name, weights=weights, **options)
    else:
        model = torchvision.models.get_model(name, weights=None, **options)
    model = without_classifier(model)
    if request.checkpoint is not None:
        load_checkpoint(model, request.checkpoint, request.spec, unused=frozenset({"heads"}))
    transforms = weights.transforms() if weights is not None else None
    crop = int(transforms.crop_size[0]) if transforms is not None else 224
    return Loaded(
        forward=model,
        module=model,
        name=request.name,
        input_shape=(3, crop, crop),
        mean=tuple(transforms.mean) if transforms is not None else IMAGENET_MEAN,
        std=tuple(transforms.std) if transforms is not None else IMAGENET_STD,
        revision=weights.name if request.pretrained else None,
        random_init=request.random_init,
    )


def find_weights(torchvision: Any, name: str, tag: str, spec: str) -> Any:
    choices = torchvision.models.get_model_weights(name)
    if not tag or tag == "DEFAULT":
        return getattr(choices, "DEFAULT", None)
    known = list(choices.__members__)
    if tag not in known:
        raise SynbenchError(
            f"encoder: expected weights out of {', '.join(known)} in {spec!r}{suggest(tag, known)}"
        )
    return choices[tag]
