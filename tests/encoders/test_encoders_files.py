"""Encoders and weights that come from files: ONNX, TorchScript, Python factories, checkpoints."""

import argparse
import datetime
import hashlib
import os
import pickle
import re

import numpy as np
import pytest
import torch
from encoder_cases import fails, save_nodes
from torch import nn

from synbench_fast.encoders import load_encoder
from synbench_fast.encoders.builtin import Conv
from synbench_fast.encoders.weights import file_sha256, state_sha256
from synbench_fast.runtime.local_files import onnx_parameters, onnx_pooled

# ---------------------------------------------------------------- onnx


def graph(path, shape, *, element="FLOAT", inputs=1, weight=None):
    """y = flatten(x) @ W and z = relu(y), as an ONNX file; returns W."""
    onnx = pytest.importorskip("onnx")
    pytest.importorskip("onnxruntime")
    helper, kind = onnx.helper, getattr(onnx.TensorProto, element)
    size = int(np.prod([n for n in shape[1:] if isinstance(n, int)]))
    dtype = helper.tensor_dtype_to_np_dtype(kind)
    weight = np.random.default_rng(0).standard_normal((size, 5)).astype(dtype) if weight is None else weight
    nodes = [
        helper.make_node("Flatten", ["x0"], ["flat"], axis=1),
        helper.make_node("MatMul", ["flat", "w"], ["y"]),
        helper.make_node("Relu", ["y"], ["z"]),
    ]
    values = [helper.make_tensor_value_info(f"x{i}", kind, shape) for i in range(inputs)]
    outputs = [helper.make_tensor_value_info(name, kind, [shape[0], 5]) for name in ("y", "z")]
    if inputs == 2:
        nodes.append(helper.make_node("Identity", ["x1"], ["unused"]))
    body = helper.make_graph(nodes, "g", values, outputs, [onnx.numpy_helper.from_array(weight, "w")])
    model = helper.make_model(body, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.save(model, path)
    return torch.from_numpy(weight.astype(np.float64))


@pytest.mark.parametrize("batch", ["N", 1, 4])
@pytest.mark.parametrize("count", [1, 4, 7])
def test_onnx_with_any_and_with_fixed_batch(tmp_path, batch, count):
    file = tmp_path / "m.onnx"
    weight = graph(file, [batch, 2, 3])
    encoder = load_encoder(f"onnx:{file}")
    x = torch.randn(count, 2, 3)
    torch.testing.assert_close(encoder(x).double(), x.double().flatten(1) @ weight, rtol=1e-5, atol=1e-5)
    info = encoder.info
    assert (info.input_shape, info.feature_dim, info.parameters) == ((2, 3), 5, 30)
    assert info.weights_sha256 == hashlib.sha256(file.read_bytes()).hexdigest()


@pytest.mark.parametrize(("element", "out"), [("DOUBLE", torch.float64), ("FLOAT16", torch.float32)])
def test_onnx_keeps_the_graphs_precision(tmp_path, element, out):
    file = tmp_path / "m.onnx"
    weight = graph(file, ["N", 6], element=element)
    encoder = load_encoder(f"onnx:{file}", dtype=torch.float64)
    x = torch.randn(3, 6, dtype=torch.float64)
    y = encoder(x)
    tolerance = 1e-12 if element == "DOUBLE" else 2e-2
    torch.testing.assert_close(y.double(), x @ weight, rtol=tolerance, atol=tolerance)
    assert y.dtype == out


@pytest.mark.parametrize(
    ("batch", "target", "got"),
    [
        (1, [6, 4], "[1, F] for a batch of 1, got [6, 4]"),
        (2, [6, 8], "[2, F] for a batch of 2, got [6, 8]"),
        (4, [2, 48], "[4, F] for a batch of 4, got [2, 48]"),
        (1, [24], "[1, F] for a batch of 1, got [24]"),
        (1, [3, 2, 4], "[1, F] for a batch of 1, got [3, 2, 4]"),
        ("N", [-1, 4], "[2, F] for a batch of 2, got [12, 4]"),
        ("N", [1, -1], "[2, F] for a batch of 2, got [1, 48]"),
    ],
)
@pytest.mark.parametrize("pool", ["default", "avg", "flatten"])
def test_onnx_rows_that_belong_to_no_input_are_no_features(tmp_path, batch, target, got, pool):
    nodes = [("Reshape", ["x", "s"], ["y"])]
    save_nodes(tmp_path / "m.onnx", [batch, 3, 8], target, nodes, s=target)
    fails(f"m.onnx: expected output {got}", f"onnx:{tmp_path}/m.onnx", pool=pool)


def test_onnx_empty_batch_with_a_fixed_batch(tmp_path):
    graph(tmp_path / "m.onnx", [4, 2, 3])
    assert load_encoder(f"onnx:{tmp_path}/m.onnx")(torch.zeros(0, 2, 3)).shape == (0, 5)


@pytest.mark.parametrize("open_size", [False, True])
def test_onnx_with_channels_last_is_normalised_per_channel(tmp_path, open_size):
    sizes = ["N", "H", "W", 3] if open_size else ["N", 5, 6, 3]
    nodes = [("ReduceMean", ["x"], ["y"], {"axes": [1, 2], "keepdims": 0})]
    save_nodes(tmp_path / "m.onnx", sizes, ["N", 3], nodes)
    spec, shape = f"onnx:{tmp_path}/m.onnx", (3, 5, 6) if open_size else None
    encoder = load_encoder(spec, input_shape=shape, mean=[0.1, 0.2, 0.3], std=[0.4, 0.5, 0.6])
    info = encoder.info
    assert (info.input_shape, info.mean, info.std) == ((3, 5, 6), (0.1, 0.2, 0.3), (0.4, 0.5, 0.6))
    x = torch.randn(4, 3, 5, 6)
    torch.testing.assert_close(encoder(x), x.mean((2, 3)))
    expected = "(3, any, any)" if open_size else "(3, 5, 6)"
    fails(f"input_shape: expected {expected}, which {spec} fixes in its graph, channels first, got (5, 6, 3)",
          spec, input_shape=(5, 6, 3))  # fmt: skip


def test_onnx_maps_with_channels_last_are_pooled_over_positions(tmp_path):
    save_nodes(tmp_path / "m.onnx", ["N", 5, 6, 3], ["N", 5, 6, 3], [("Relu", ["x"], ["y"])])
    x = torch.randn(4, 3, 5, 6)
    pooled = load_encoder(f"onnx:{tmp_path}/m.onnx", pool="max")(x)
    torch.testing.assert_close(pooled, x.relu().amax((2, 3)))


@pytest.mark.parametrize("sizes", [["N", 3, 5, 4], ["N", 1, 5, 3], ["N", 7, 6, 5], ["N", 7, 3]])
def test_onnx_with_channels_first_is_left_alone(tmp_path, sizes):
    save_nodes(tmp_path / "m.onnx", sizes, ["N", "F"], [("Flatten", ["x"], ["y"])])
    encoder = load_encoder(f"onnx:{tmp_path}/m.onnx")
    x = torch.randn(2, *sizes[1:])
    assert encoder.info.input_shape == tuple(sizes[1:])
    assert torch.equal(encoder(x), x.flatten(1))


@pytest.mark.parametrize("threads", [1, 2])
def test_onnx_works_on_the_threads_of_the_run(tmp_path, threads):
    from synbench_fast import score

    runtime = pytest.importorskip("onnxruntime")
    graph(tmp_path / "m.onnx", ["N", 2, 3])
    seen = []

    def session(file, options, **rest):
        seen.append(options.intra_op_num_threads)
        return runtime_session(file, options, **rest)

    runtime_session = runtime.InferenceSession
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(runtime, "InferenceSession", session)
        score(f"onnx:{tmp_path}/m.onnx", preset="quick", scales=2, samples=64, threads=threads)
    assert seen == [threads]


def test_onnx_output_by_name(tmp_path):
    file = tmp_path / "m.onnx"
    weight = graph(file, ["N", 6])
    x = torch.randn(3, 6)
    y = load_encoder(f"onnx:{file}?output=z")(x)
    torch.testing.assert_close(y.double(), (x.double() @ weight).relu(), rtol=1e-5, atol=1e-5)
    fails("expected an output out of y, z in", f"onnx:{file}?output=q")
    fails("expected onnx:FILE[?output=NAME], got 'out=z'", f"onnx:{file}?out=z")


INNER = "/block.1/" + "relu" * 40  # longer than 127 bytes, with the slashes of an exporter


@pytest.mark.parametrize("external", [False, True])
def test_onnx_inner_tensor_as_output(tmp_path, external):
    onnx = pytest.importorskip("onnx")
    pytest.importorskip("onnxruntime")
    helper, floats = onnx.helper, onnx.TensorProto.FLOAT
    kernel = np.random.default_rng(0).standard_normal((4, 3, 1, 1)).astype(np.float32)
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["c"]),
        helper.make_node("Relu", ["c"], [INNER]),
        helper.make_node("ReduceMean", [INNER], ["y"], axes=[1, 2, 3], keepdims=0),
        helper.make_node("Reshape", ["y", "shape"], ["z"]),
    ]
    weights = [
        onnx.numpy_helper.from_array(kernel, "w"),
        onnx.numpy_helper.from_array(np.array([-1, 1]), "shape"),
    ]
    images, scores = (
        helper.make_tensor_value_info(name, floats, shape)
        for name, shape in (("x", ["N", 3, 4, 5]), ("z", ["N", 1]))
    )
    body = helper.make_graph(nodes, "g", [images], [scores], weights)
    model = helper.make_model(body, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    file = tmp_path / "m.onnx"
    onnx.save(model, file, save_as_external_data=external, location="m.bin", size_threshold=64)
    before = file.read_bytes()
    x = torch.randn(2, 3, 4, 5)
    hidden = torch.einsum("oi,bihw->bohw", torch.from_numpy(kernel[:, :, 0, 0]), x).relu()
    encoder = load_encoder(f"onnx:{file}?output={INNER}", pool="avg")
    torch.testing.assert_close(encoder(x), hidden.mean((2, 3)), rtol=1e-5, atol=1e-5)
    flat = load_encoder(f"onnx:{file}?output={INNER}", pool="flatten")(x)
    torch.testing.assert_close(flat, hidden.flatten(1), rtol=1e-5, atol=1e-5)
    assert file.read_bytes() == before
    fails(
        "expected an output out of z in",
        f"onnx:{file}?output=cc",
    )
    fails("or a tensor that one of its nodes makes (pooled: y), got 'w'", f"onnx:{file}?output=w")
    assert encoder.info.parameters == 12  # the kernel, wherever it lies, and not the shape


def test_onnx_parameters_are_those_of_the_network(tmp_path):
    """Counted from the file as torch counts them, and as ONNX's own reader finds them; statistics come on top."""
    onnx = pytest.importorskip("onnx")
    pytest.importorskip("onnxruntime")
    weight, bias = np.ones((6, 5), np.float32), np.ones(5, np.float16)
    file = tmp_path / "m.onnx"
    nodes = [("MatMul", ["x", "w"], ["h"]), ("Relu", ["h"], ["y"])]
    save_nodes(
        file, ["N", 6], ["N", 5], nodes, w=weight, unused=bias, scalar=np.float64(3), steps=np.arange(7)
    )
    model = onnx.load(file)
    floating = [one for one in model.graph.initializer if one.data_type != onnx.TensorProto.INT64]
    expected = sum(onnx.numpy_helper.to_array(one).size for one in floating)
    assert onnx_parameters(file) == expected == weight.size + bias.size + 1
    one_by_one = (
        b"".join(b"\x08" + bytes([size]) for size in (6, 5)) + b"\x10\x01"
    )  # sizes that are not packed
    tensor = b"\x2a" + bytes([len(one_by_one)]) + one_by_one
    odd = tmp_path / "odd.onnx"
    odd.write_bytes(b"\x3a" + bytes([len(tensor)]) + tensor)
    assert onnx_parameters(odd) == 30
    odd.write_bytes(b"\x3a" + bytes([len(tensor) + 3]) + tensor + tensor[:3])
    assert onnx_parameters(odd) is None  # the numbers of a graph that breaks off are not a part of them
    del model.graph.initializer[:]
    onnx.save(model, file)
    assert onnx_parameters(file) is None
    file.write_bytes(b"not a graph")
    assert onnx_parameters(file) is None and onnx_pooled(file) == []


def test_onnx_pooled_tensors_are_named_last_first(tmp_path):
    pytest.importorskip("onnx")
    file = tmp_path / "m.onnx"
    nodes = [
        ("Relu", ["x"], ["r"]),
        ("GlobalAveragePool", ["r"], ["pool"]),
        ("Flatten", ["pool"], ["flat"]),
        ("Softmax", ["flat"], ["y"]),
    ]
    save_nodes(file, ["N", 3, 4, 4], ["N", 3], nodes)
    assert onnx_pooled(file) == ["flat", "pool"]
    fails("makes (pooled: flat, pool), got 'features'", f"onnx:{file}?output=features")
    x = torch.rand(2, 3, 4, 4)
    torch.testing.assert_close(load_encoder(f"onnx:{file}?output=flat")(x), x.mean((2, 3)))


def test_onnx_output_that_is_no_tensor(tmp_path):
    onnx = pytest.importorskip("onnx")
    file = tmp_path / "m.onnx"
    graph(file, ["N", 6])
    model = onnx.load(file)
    model.graph.node.append(onnx.helper.make_node("SequenceConstruct", ["y", "z"], ["both"]))
    both = onnx.helper.make_tensor_sequence_value_info("both", onnx.TensorProto.FLOAT, ["N", 5])
    model.graph.output.append(both)
    onnx.save(model, file)
    assert load_encoder(f"onnx:{file}").info.feature_dim == 5
    fails(
        "expected an output that is a tensor, got 'both' of type seq(tensor(float))",
        f"onnx:{file}?output=both",
    )


def test_onnx_errors(tmp_path):
    file = tmp_path / "m.onnx"
    graph(file, ["N", "C", 6])
    fails("input_shape: expected the shape of one input for onnx:", f"onnx:{file}")
    graph(file, ["N", 2, 3])
    fails("input_shape: expected (2, 3), which onnx:", f"onnx:{file}", input_shape=(3, 3))
    fails("random_init: expected False for onnx:", f"onnx:{file}", random_init=True)
    fails("checkpoint: expected None for onnx:", f"onnx:{file}", checkpoint="w.pt")
    fails("device: expected one that onnxruntime serves here (", f"onnx:{file}", device="meta")
    graph(file, ["N", 6], inputs=2)
    fails("expected a graph with one input, got ['x0', 'x1']", f"onnx:{file}")
    graph(file, ["N", 6], element="INT32")
    fails("expected an input of type tensor(float) or", f"onnx:{file}")
    file.write_bytes(b"not a graph")
    fails("encoder: expected an ONNX file, got", f"onnx:{file}")
    fails("encoder: expected an existing file, got", f"onnx:{tmp_path}/absent.onnx")


# ---------------------------------------------------------------- torchscript


def archive(path, *, frozen=False):
    net = nn.Sequential(nn.Flatten(), nn.Linear(6, 5), nn.BatchNorm1d(5), nn.Dropout(0.5))
    script = torch.jit.script(net.eval() if frozen else net.train())
    torch.jit.save(torch.jit.freeze(script) if frozen else script, path)
    return net.eval()


@pytest.mark.filterwarnings(r"ignore:.*torch\.jit:FutureWarning", r"ignore:.*torch\.jit:DeprecationWarning")
@pytest.mark.parametrize("frozen", [False, True])
def test_torchscript(tmp_path, frozen):
    file = tmp_path / "m.pt"
    net = archive(file, frozen=frozen)
    encoder = load_encoder(f"torchscript:{file}", input_shape=(2, 3), trust_remote_code=True)
    x = torch.randn(4, 2, 3)
    with torch.no_grad():
        torch.testing.assert_close(encoder(x), net(x))
    assert encoder.info.weights_sha256 == file_sha256([file])
    assert encoder.info.feature_dim == 5


@pytest.mark.filterwarnings(r"ignore:.*torch\.jit:FutureWarning", r"ignore:.*torch\.jit:DeprecationWarning")
def test_torchscript_errors(tmp_path):
    file = tmp_path / "m.pt"
    archive(file)
    spec = f"torchscript:{file}"
    fails(
        "expected --trust-remote-code (trust_remote_code=True) to run it, got False", spec, input_shape=(6,)
    )
    trusted = {"trust_remote_code": True}
    fails("input_shape: expected the shape of one input for torchscript:", spec, **trusted)
    fails("pass --input-shape", spec, **trusted)
    fails("random_init: expected False", spec, random_init=True)
    fails("checkpoint: expected None", spec, checkpoint="x.pt")
    fails("forward failed on an input of shape [2, 7]", spec, input_shape=(7,), **trusted)
    file.write_bytes(b"junk")
    fails("encoder: expected a TorchScript archive, got", spec, **trusted)
    fails("encoder: expected an existing file, got", "torchscript:absent.pt")


# ---------------------------------------------------------------- python

FACTORIES = """
import torch
from torch import nn

class Known(nn.Linear):
    input_shape = (6,)
    mean = (0.5,)
    std = (0.25,)

def make_net():
    return Known(6, 5)

ready = Known(6, 5)

def make_scaled():
    made = nn.Linear(6, 5)
    made.input_shape, made.std = (6,), (0.25,)
    return made

def make_callable():
    return lambda x: x.flatten(1)[:, :2]

def make_number():
    return 3

def explode():
    raise KeyError("no\\nsuch weights")

number = 4
"""


@pytest.fixture
def factories(tmp_path, monkeypatch):
    name = f"factories_{tmp_path.name.replace('-', '_')}"
    (tmp_path / f"{name}.py").write_text(FACTORIES)
    monkeypatch.chdir(tmp_path)
    return name


def test_python_factory_from_the_current_directory(factories):
    import sys

    path = list(sys.path)
    encoder = load_encoder(f"python:{factories}:make_net", seed=4)
    assert sys.path == path
    x = torch.randn(3, 6)
    with torch.no_grad():
        expected = nn.functional.linear(x, encoder.module.weight, encoder.module.bias)
    torch.testing.assert_close(encoder(x), expected)
    info = encoder.info
    assert (info.input_shape, info.feature_dim, info.mean, info.std) == ((6,), 5, (0.5,), (0.25,))
    again = load_encoder(f"python:{factories}.py:make_net", seed=4)
    assert again.info.weights_sha256 == info.weights_sha256
    assert load_encoder(f"python:{factories}:make_net", seed=5).info.weights_sha256 != info.weights_sha256


def test_python_factory_with_a_deviation_alone(factories):
    info = load_encoder(f"python:{factories}:make_scaled").info
    assert (info.mean, info.std) == ((0.0,), (0.25,))


def test_python_factory_of_a_callable(factories):
    encoder = load_encoder(f"python:{factories}:make_callable", input_shape=(2, 3))
    x = torch.randn(4, 2, 3)
    assert torch.equal(encoder(x), x.flatten(1)[:, :2])


def test_python_errors(factories, tmp_path):
    fails("encoder: expected python:MODULE:FACTORY, got 'python:x'", "python:x")
    fails("expected a callable in", f"python:{factories}:make_nt")
    fails("did you mean make_net?", f"python:{factories}:make_nt")
    fails("expected a callable in", f"python:{factories}:number")
    fails(
        "expected make_number() to return a torch.nn.Module or a callable, got int",
        f"python:{factories}:make_number",
    )
    fails(
        "expected a function that returns the encoder, got the torch.nn.Module ready",
        f"python:{factories}:ready",
    )
    fails("explode() failed (KeyError:", f"python:{factories}:explode")
    fails("expected an importable module, got", f"python:{factories[:-1]}:make_net")
    fails(f"did you mean {factories}?", f"python:{factories[:-1]}:make_net")
    fails("encoder: expected an existing file, got absent.py", "python:absent.py:make")
    fails("random_init: expected False", f"python:{factories}:make_net", random_init=True)
    fails("make_callable() returns a callable", f"python:{factories}:make_callable", checkpoint="x.pt")
    fails("input_shape: expected the shape of one input", f"python:{factories}:make_callable")
    (tmp_path / "needs_more.py").write_text("import a_module_that_is_not_there")
    fails("importing needs_more failed (ModuleNotFoundError", "python:needs_more:make")
    (tmp_path / "broken.py").write_text("1 / 0")
    fails("importing broken failed (ZeroDivisionError", "python:broken:make")


# ---------------------------------------------------------------- checkpoints

SHAPE = (3, 16, 16)


@pytest.fixture
def trained():
    net = Conv(SHAPE, 64)
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.normal_(generator=torch.Generator().manual_seed(11))
    return net


def save(state, file):
    if file.suffix == ".safetensors":
        pytest.importorskip("safetensors.torch").save_file(state, file)
    else:
        torch.save(state, file)


@pytest.mark.parametrize("suffix", [".pt", ".safetensors"])
def test_checkpoint_round_trip(tmp_path, trained, suffix):
    file = tmp_path / f"w{suffix}"
    save(trained.state_dict(), file)
    encoder = load_encoder("builtin:conv", input_shape=SHAPE, checkpoint=str(file))
    x = torch.randn(2, *SHAPE)
    with torch.no_grad():
        torch.testing.assert_close(encoder(x), trained(x))
    info = encoder.info
    assert info.weights_sha256 == state_sha256(trained.state_dict())
    assert (info.checkpoint, info.random_init) == (str(file), False)


@pytest.mark.parametrize(
    "wrap",
    [
        lambda s: {"state_dict": s, "epoch": 3},
        lambda s: {"model": s, "optimizer": {"lr": 0.1}},
        lambda s: {f"module.{k}": v for k, v in s.items()},
        lambda s: {"state_dict": {f"model.backbone.{k}": v for k, v in s.items()}},
        lambda s: {**s, "head.weight": torch.zeros(3, 64), "classifier.bias": torch.zeros(3)},
        lambda s: {k: v.half() for k, v in s.items()},
    ],
)
def test_checkpoint_wrappers(tmp_path, trained, wrap):
    file = tmp_path / "w.pt"
    torch.save(wrap(trained.state_dict()), file)
    encoder = load_encoder("builtin:conv", input_shape=SHAPE, checkpoint=file)
    for name, value in encoder.module.state_dict().items():
        torch.testing.assert_close(value, trained.state_dict()[name], rtol=1e-3, atol=1e-3)


def test_checkpoint_left_over_keys_are_told(tmp_path, trained):
    file = tmp_path / "w.pt"
    torch.save({**trained.state_dict(), "other.weight": torch.zeros(3)}, file)
    with pytest.warns(UserWarning, match=r"has keys that builtin:conv does not use: other\.weight"):
        load_encoder("builtin:conv", input_shape=SHAPE, checkpoint=str(file))


def test_checkpoint_errors(tmp_path, trained):
    file = tmp_path / "w.pt"

    def check(match, content=None):
        if content is not None:
            torch.save(content, file)
        fails(match, "builtin:conv", input_shape=SHAPE, checkpoint=str(file))

    check("checkpoint: expected an existing file, got")
    state = trained.state_dict()
    check("with none of them (it has a)", {"a": torch.zeros(2)})
    check("without layers.0.bias", {k: v for k, v in state.items() if k != "layers.0.bias"})
    check(
        "layers.2.bias, layers.2.weight, layers.4.bias and 1 more",
        {k: v for k, v in state.items() if "s.0" in k},
    )
    check("checkpoint: expected layers.4.bias of shape [64] for builtin:conv, got [65]",
          {**state, "layers.4.bias": torch.zeros(65)})  # fmt: skip
    check("checkpoint: expected a state dict of named tensors, got", [1, 2])
    check("checkpoint: expected a state dict of named tensors, got", {"epoch": 3})
    file.write_bytes(b"junk")
    check("checkpoint: expected safetensors or a torch.save of a plain state dict, got")
    bad = tmp_path / "w.safetensors"
    bad.write_bytes(b"junk")
    fails(
        "checkpoint: expected a safetensors file, got", "builtin:conv", input_shape=SHAPE, checkpoint=str(bad)
    )


def test_checkpoint_without_safetensors(tmp_path, monkeypatch):
    import sys

    monkeypatch.setitem(sys.modules, "safetensors.torch", None)
    file = tmp_path / "w.safetensors"
    file.write_bytes(b"")
    fails('needs safetensors; pip install "synbench-fast[hf]"', "builtin:conv", checkpoint=str(file))


class Malicious:
    def __init__(self, target):
        self.target = target

    def __reduce__(self):
        return os.mkdir, (self.target,)


@pytest.mark.parametrize("legacy", [False, True])
@pytest.mark.parametrize(
    ("beside", "named"),
    [
        (argparse.Namespace(lr=0.1), "argparse.Namespace"),
        (np.float64(0.3), r"numpy\.(_core|core)\.multiarray\.scalar"),
        (datetime.date(2024, 1, 1), "datetime.date"),
    ],
)
def test_a_checkpoint_with_more_than_tensors_names_it(tmp_path, trained, beside, named, legacy):
    file = tmp_path / "w.pt"
    content = {"state_dict": trained.state_dict(), "args": beside}
    torch.save(content, file, _use_new_zipfile_serialization=not legacy)
    text = fails("cannot be read without executing code", "builtin:conv", checkpoint=str(file))
    assert re.search(rf"\(it holds {named}; save the state dict alone\)$", text), text


@pytest.mark.parametrize("writer", [torch.save, lambda obj, file: file.write_bytes(pickle.dumps(obj))])
def test_malicious_pickle_is_refused_and_not_executed(tmp_path, writer):
    file, target = tmp_path / "w.pt", tmp_path / "executed"
    writer({"state_dict": Malicious(str(target))}, file)
    fails("which cannot be read without executing code", "builtin:conv", checkpoint=str(file))
    assert not target.exists()


def test_fingerprint_depends_on_names_shapes_types_and_values():
    base = {"a": torch.arange(6.0)}
    others = [
        {"b": torch.arange(6.0)},
        {"a": torch.arange(6.0).reshape(2, 3)},
        {"a": torch.arange(6.0).double()},
        {"a": torch.arange(6.0) + 1},
        {**base, "b": torch.zeros(0)},
    ]
    digests = {state_sha256(state) for state in [base, *others]}
    assert len(digests) == 6
    assert state_sha256({"x": torch.ones(2), "a": torch.ones(1)}) == state_sha256(
        {"a": torch.ones(1), "x": torch.ones(2)}
    )
    assert state_sha256({"a": torch.ones(4)[::2].bfloat16()}) == state_sha256({"a": torch.ones(2).bfloat16()})
    expected = hashlib.sha256(
        b"a\0torch.float32\0(6,)\0" + np.arange(6, dtype=np.float32).tobytes()
    ).hexdigest()
    assert state_sha256(base) == expected
