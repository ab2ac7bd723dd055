"""`timm:NAME[.TAG]`: PyTorch Image Models, without their classifier."""

from __future__ import annotations

from typing import Any

from synbench_fast.encoders.base import Layout, Loaded, Request, class_tokens
from synbench_fast.encoders.download import fetching
from synbench_fast.encoders.registry import check_name, require
from synbench_fast.encoders.weights import load_checkpoint
from synbench_fast.errors import SynbenchError, first_line

__all__ = ["load", "names"]


def names() -> list[str]:
    """Architectures, then architectures with the tag of their published weights."""
    import timm

    return [*timm.list_models(), *timm.list_models(pretrained=True)]


def load(request: Request) -> Loaded:
    """timm.create_model(num_classes=0); another input_shape is passed on as in_chans and img_size."""
    timm = require("timm", "timm", request.spec)
    # 'hf-hub:org/name' and 'local-dir:path' are timm's own and name no registered model.
    if ":" not in request.name:
        check_name(request, "timm", names())
    options: dict[str, Any] = {"num_classes": 0}
    if request.input_shape is not None:
        options |= _resized(timm, request)
    if request.pretrained:
        with fetching(request.spec):
            model = timm.create_model(request.name, pretrained=True, **options)
    else:
        try:
            model = timm.create_model(request.name, pretrained=False, **options)
        except (OSError, RuntimeError, ValueError, TypeError, AssertionError) as error:
            raise SynbenchError(
                f"encoder {request.spec}: timm could not build it ({first_line(error)})"
            ) from error
    config = model.pretrained_cfg
    if request.checkpoint is not None:
        load_checkpoint(model, request.checkpoint, request.spec)
    return Loaded(
        forward=model if request.pool == "default" else model.forward_features,
        module=model,
        name=request.name,
        input_shape=tuple(config["input_size"]),
        mean=tuple(config["mean"]),
        std=tuple(config["std"]),
        revision=config.get("tag") or None if request.pretrained else None,
        layout=Layout(
            prefix=int(getattr(model, "num_prefix_tokens", class_tokens(model))),
            class_token=class_tokens(model) > 0,
            channels_last=str(getattr(model, "output_fmt", "NCHW")) == "NHWC",
        ),
        random_init=request.random_init,
    )


def _resized(timm: Any, request: Request) -> dict[str, Any]:
    shape = request.input_shape
    if shape is None or len(shape) != 3:
        raise SynbenchError(
            f"input_shape: expected (channels, height, width) for {request.spec}, got {shape}"
        )
    options: dict[str, Any] = {}
    config = timm.get_pretrained_cfg(request.name) if ":" not in request.name else None
    own = tuple(config.input_size) if config is not None else (3, 224, 224)
    if shape[0] != own[0]:
        options["in_chans"] = shape[0]
    if shape[1:] != own[1:] and config is not None and config.fixed_input_size:
        options["img_size"] = shape[1:]
    return options
