"""`open_clip:NAME[/PRETRAINED]`: the image tower of an OpenCLIP model, projected as for zero-shot use."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from synbench_fast.encoders.base import Loaded, Request
from synbench_fast.encoders.download import fetching
from synbench_fast.encoders.registry import check_name, require
from synbench_fast.encoders.weights import load_checkpoint
from synbench_fast.errors import SynbenchError, suggest

__all__ = ["load", "names"]

_TEXT = frozenset(
    {
        "text",
        "transformer",
        "token_embedding",
        "positional_embedding",
        "ln_final",
        "text_projection",
        "logit_scale",
    }
)
_TEXT |= {"logit_bias", "attn_mask"}


def names() -> list[str]:
    """Architectures, then NAME/TAG for each set of published weights."""
    import open_clip

    return [*open_clip.list_models(), *(f"{name}/{tag}" for name, tag in open_clip.list_pretrained())]


@contextmanager
def _quiet() -> Iterator[None]:
    """Without open_clip's warning that the weights are random, which was asked for."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        yield
    finally:
        logging.disable(before)


def load(request: Request) -> Loaded:
    """Without random_init or checkpoint the tag of the published weights must be named."""
    library = require("open_clip", "open_clip", request.spec)
    name, slash, tag = request.name.partition("/")
    if request.name.startswith("hf-hub:"):
        name, slash, tag = request.name, "", ""
    else:
        check_name(Request(spec=f"open_clip:{name}", name=name), "open_clip", library.list_models())
        tags: list[str] = library.list_pretrained_tags_by_model(name)
        if slash and tag not in tags:
            raise SynbenchError(
                f"encoder: expected weights out of {', '.join(tags) or 'none'} in {request.spec!r}"
                + suggest(tag, tags)
            )
        if request.pretrained and not slash:
            choice = ", ".join(f"open_clip:{name}/{known}" for known in tags) or "none published"
            raise SynbenchError(
                f"encoder: expected open_clip:NAME/PRETRAINED ({choice}), --random-init or "
                f"--checkpoint FILE, got {request.spec!r}"
            )
    options: dict[str, Any] = {}
    if request.input_shape is not None and len(request.input_shape) == 3:
        height, width = request.input_shape[1:]
        options["force_image_size"] = height if height == width else (height, width)
    if request.pretrained:
        with fetching(request.spec):
            model = library.create_model(name, pretrained=tag or None, weights_only=True, **options)
    else:
        with fetching(request.spec, "model", f"is input_shape={request.input_shape} right?"), _quiet():
            model = library.create_model(
                name, pretrained=None, load_weights=False, pretrained_text=False, **options
            )
    visual = model.visual
    if request.checkpoint is not None:
        load_checkpoint(visual, request.checkpoint, request.spec, unused=_TEXT)
    size = visual.image_size
    height, width = (size, size) if isinstance(size, int) else size
    return Loaded(
        forward=visual,
        module=visual,
        name=request.name,
        input_shape=(3, height, width),
        mean=tuple(visual.image_mean),
        std=tuple(visual.image_std),
        revision=tag or None if request.pretrained else None,
        random_init=request.random_init,
    )
