"""Pages on the web about published encoders."""

from __future__ import annotations

import re
from urllib.parse import quote

from synbench_fast.results.records import EncoderRecord

__all__ = ["model_page"]

HUB = "https://huggingface.co/"
_HUB_NAME = re.compile(r"[\w-][\w.-]*(/[\w-][\w.-]*)?", re.ASCII)


def model_page(encoder: EncoderRecord) -> str | None:
    """The address of the model's page: of timm and Hugging Face on the hub, of torchvision in its documentation.

    None for other sources, for local files, and for names that no published model can have.
    """
    name = encoder.name
    if encoder.source == "torchvision":
        model = quote(name.partition("/")[0], safe="")
        return f"https://docs.pytorch.org/vision/stable/models/generated/torchvision.models.{model}.html"
    if encoder.source == "timm" and name.startswith("hf-hub:"):
        name = name.removeprefix("hf-hub:")
    elif encoder.source == "timm":
        tag = encoder.revision if "." not in name else None  # the tag of the weights that timm chose
        name = f"timm/{name}.{tag}" if tag else f"timm/{name}"
        if "." not in name:  # untrained: the hub has pages of weights only
            return None
    elif encoder.source != "hf" or not encoder.revision:  # a local folder has no revision
        return None
    return HUB + quote(name) if _HUB_NAME.fullmatch(name) else None
