"""Addresses of models' pages."""

from __future__ import annotations

import dataclasses

import pytest
from result_example import example

from synbench_fast.report.links import model_page

HUB = "https://huggingface.co/"


@pytest.mark.parametrize(
    ("source", "name", "revision", "page"),
    [
        ("timm", "vit_base_patch16_224.dino", None, HUB + "timm/vit_base_patch16_224.dino"),
        ("timm", "resnet50", "a1_in1k", HUB + "timm/resnet50.a1_in1k"),
        ("timm", "resnet50", None, None),  # untrained
        ("timm", "hf-hub:owner/model", None, HUB + "owner/model"),
        ("timm", "local-dir:/somewhere", None, None),
        ("hf", "facebook/dinov2-base", "0" * 40, HUB + "facebook/dinov2-base"),
        ("hf", "bert", "0" * 40, HUB + "bert"),
        ("hf", "models/mine", None, None),  # a folder
        ("hf", "../x", "r", None),
        ("hf", "a/b/c", "r", None),
        ("hf", 'a/"><script>', "r", None),
        ("torchvision", "resnet18/IMAGENET1K_V1", "IMAGENET1K_V1",
         "https://docs.pytorch.org/vision/stable/models/generated/torchvision.models.resnet18.html"),
        ("builtin", "conv", None, None),
        ("python", "models:make", None, None),
    ],
)  # fmt: skip
def test_page_of_a_model(source: str, name: str, revision: str | None, page: str | None) -> None:
    encoder = dataclasses.replace(example().encoder, source=source, name=name, revision=revision)
    assert model_page(encoder) == page
