"""What the encoder tests share: checking one-line errors, seeded references, ONNX files, life without a network."""

import urllib.error

import numpy as np
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


def save_nodes(path, shape, out_shape, nodes, **constants):
    """An ONNX file from x to y."""
    onnx = pytest.importorskip("onnx")
    pytest.importorskip("onnxruntime")
    helper, kind = onnx.helper, onnx.TensorProto.FLOAT
    body = helper.make_graph(
        [helper.make_node(*node[:3], **(node[3] if len(node) > 3 else {})) for node in nodes],
        "g",
        [helper.make_tensor_value_info("x", kind, shape)],
        [helper.make_tensor_value_info("y", kind, out_shape)],
        [onnx.numpy_helper.from_array(np.asarray(value), name) for name, value in constants.items()],
    )
    onnx.save(helper.make_model(body, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)
