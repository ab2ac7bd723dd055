"""What the encoder tests share: checking one-line errors, seeded references, life without a network."""

import urllib.error

import pytest
import torch

from synbench_fast.encoders import load_encoder
from synbench_fast.errors import SynbenchError


def fails(match, *args, **kwargs):
    """The error of load_encoder(...), which is one line and contains `match`."""
    with pytest.raises(SynbenchError) as caught:
        load_encoder(*args, **kwargs)
    text = str(caught.value)
    assert "\n" not in text
    assert match in text, text
    return text


def go_offline(monkeypatch, tmp_path):
    """No network, and empty caches."""
    constants = pytest.importorskip("huggingface_hub.constants")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))

    def unreachable(*args, **kwargs):
        raise urllib.error.URLError("Name or service not known")

    monkeypatch.setattr("torch.hub.urlopen", unreachable)


def reference(make, seed):
    """make() with the weights that `seed` draws."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return make().eval()
