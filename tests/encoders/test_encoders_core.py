"""The Encoder itself: what it accepts, checks, restores and reports, without any optional library."""

import sys

import numpy as np
import pytest
import torch
from encoder_cases import fails
from torch import nn

from synbench_fast.encoders import SOURCES, installed, list_encoders, load_encoder
from synbench_fast.encoders.base import Layout, pool_features
from synbench_fast.encoders.registry import REGISTRY, require
from synbench_fast.encoders.weights import state_sha256
from synbench_fast.errors import SynbenchError, first_line, suggest


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.norm = nn.BatchNorm1d(12)
        self.drop = nn.Dropout(0.5)
        self.fc = nn.Linear(12, 5)

    def forward(self, x):
        return self.fc(self.drop(self.norm(x.flatten(1))))


class Raw(nn.Module):
    """Returns what it is told to, whatever comes in."""

    def __init__(self, make):
        super().__init__()
        self.make = make

    def forward(self, x):
        return self.make(x)


# ---------------------------------------------------------------- suggestions and one-line texts


def test_suggest_names_the_nearest_and_nothing_when_none_is_near():
    assert suggest("resnet5", ["vit", "resnet50", "alexnet"]) == ", did you mean resnet50?"
    assert suggest("VIT", ["vit"]) == ", did you mean vit?"
    assert suggest("zzz", ["vit"]) == ""


@pytest.mark.parametrize(
    ("name", "candidates", "near"),
    [
        ("dim", ["dim"], ""),  # the name is right, something else is wrong
        ("timm:foo", ["timm:iformer_t", "timm:gernet_s"], ""),  # the source is no likeness
        ("timm:my_model", ["timm:tf_mixnet_l"], ""),
        ("timm:resnet5", ["timm:tf_mixnet_l", "timm:resnet50"], "timm:resnet50"),
        ("tim:resnet50", ["timm:resnet50"], "timm:resnet50"),
        ("timm:vit_base", ["timm:gcvit_base", "timm:vit_base_mci_224"], "timm:vit_base_mci_224"),
        ("vit", ["vit_so150m_patch16_reg4_gap_256"], ""),
        ("--foo", ["--std", "--eps"], ""),
        ("--sampels", ["--samples"], "--samples"),
        ("--input", ["--input-shape"], "--input-shape"),
        ("encoder", ["sequencer2d_s"], ""),
        ("agv", ["avg"], "avg"),
        ("", ["avg"], ""),
    ],
)
def test_suggestions_help_or_are_left_out(name, candidates, near):
    assert suggest(name, candidates) == (f", did you mean {near}?" if near else "")


def test_first_line_is_one_short_line():
    assert first_line(ValueError("\n a \n b")) == "ValueError: a"
    assert first_line(ValueError()) == "ValueError"
    assert len(first_line(ValueError("x" * 500))) == 200


# ---------------------------------------------------------------- builtin


def test_identity_flattens():
    encoder = load_encoder("builtin:identity", input_shape=(2, 3, 4))
    x = torch.randn(5, 2, 3, 4)
    assert torch.equal(encoder(x), x.reshape(5, 24))
    assert encoder.info.feature_dim == 24
    assert encoder.info.parameters == 0
    assert not encoder.info.random_init


@pytest.mark.parametrize("shape", [(7,), (2, 9), (3, 8, 8)])
def test_linear_is_its_matrix(shape):
    encoder = load_encoder("builtin:linear?dim=6", input_shape=shape, seed=3)
    x = torch.randn(4, *shape)
    expected = x.flatten(1).double() @ encoder.module.weight.double().T
    torch.testing.assert_close(encoder(x).double(), expected, rtol=1e-5, atol=1e-5)
    assert encoder.info.feature_dim == 6
    assert encoder.info.random_init


@pytest.mark.parametrize("shape", [(17,), (2, 17), (3, 16, 16), (1, 4, 8, 8)])
def test_conv_takes_signals_images_and_video(shape):
    encoder = load_encoder("builtin:conv?dim=10", input_shape=shape)
    x = torch.randn(3, *shape)
    y = encoder(x)
    assert y.shape == (3, 10)
    # One sample's features do not depend on its batch.
    torch.testing.assert_close(encoder(x[1:2])[0], y[1], rtol=1e-5, atol=1e-6)


def test_conv_averages_the_last_maps():
    encoder = load_encoder("builtin:conv", input_shape=(3, 16, 16))
    x = torch.randn(2, 3, 16, 16)
    with torch.no_grad():
        expected = encoder.module.layers(x).mean((2, 3))
    torch.testing.assert_close(encoder(x), expected)


def test_seed_fixes_the_weights_and_leaves_the_global_generators_alone():
    torch.manual_seed(7)
    np.random.seed(7)
    states = torch.get_rng_state(), np.random.get_state()[1].copy()
    a, b, c = (load_encoder("builtin:conv", seed=s) for s in (1, 1, 2))
    assert a.info.weights_sha256 == b.info.weights_sha256 != c.info.weights_sha256
    assert len(a.info.weights_sha256) == 64
    assert torch.equal(torch.get_rng_state(), states[0])
    assert np.array_equal(np.random.get_state()[1], states[1])


def test_builtin_errors():
    fails("did you mean builtin:conv?", "builtin:conf")
    fails("expected dim to be a positive integer in 'builtin:linear?dim=0', got '0'", "builtin:linear?dim=0")
    fails(
        "expected builtin:NAME[?dim=N], got 'dm=3' in 'builtin:linear?dm=3', did you mean dim?",
        "builtin:linear?dm=3",
    )
    assert "did you mean" not in fails("got 'dim=' in 'builtin:conv?dim='", "builtin:conv?dim=")
    assert "did you mean" not in fails("got 'builtin:random'", "builtin:random")
    fails("expected builtin:identity, which has no options", "builtin:identity?dim=3")
    fails("the identity has no weights", "builtin:identity", checkpoint="x.pt")
    fails(
        "input_shape: expected at most 4 axes for builtin:conv, got",
        "builtin:conv",
        input_shape=(1, 2, 3, 4, 5),
    )


# ---------------------------------------------------------------- modules and callables


def test_module_is_scored_in_eval_mode_and_given_back_as_it_was():
    net = Net()
    net.drop.eval()
    before = {name: value.clone() for name, value in net.state_dict().items()}
    encoder = load_encoder(net, input_shape=(3, 4))
    assert net.training and net.norm.training and not net.drop.training
    x = torch.randn(6, 3, 4)
    with encoder.scoring() as inside:
        assert inside is encoder
        assert not net.norm.training
        y = encoder(x)
    assert net.training and net.norm.training and not net.drop.training
    expected = net.fc(x.flatten(1) / (1 + net.norm.eps) ** 0.5)
    torch.testing.assert_close(y, expected.detach())
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())
    assert encoder.info.spec == "module:Net"
    assert encoder.info.weights_sha256 == state_sha256(net.state_dict())
    assert encoder.info.mean is None and encoder.info.std is None


def test_training_flags_come_back_after_an_error():
    net = Raw(lambda x: 1 / 0)
    net.train()
    fails(
        "forward failed on an input of shape [2, 3] (ZeroDivisionError: division by zero)",
        net,
        input_shape=(3,),
    )
    assert net.training


def test_another_dtype_is_temporary_and_loses_nothing():
    net = Net()
    parameter, buffer = net.fc.weight, net.norm.running_mean
    data = parameter.data_ptr(), parameter.detach().clone()
    net.fc.weight.grad = torch.ones_like(parameter)
    encoder = load_encoder(net, input_shape=(12,), dtype=torch.float64)
    with encoder.scoring():
        assert net.fc.weight.dtype == torch.float64
        assert encoder(torch.zeros(2, 12)).dtype == torch.float64
    assert net.fc.weight is parameter and net.norm.running_mean is buffer
    assert (parameter.data_ptr(), parameter.dtype) == (data[0], torch.float32)
    assert torch.equal(parameter, data[1])
    assert parameter.grad.dtype == torch.float32
    net(torch.randn(4, 12)).sum().backward()


def test_a_tensor_cached_while_scoring_can_be_trained_with():
    class Cached(nn.Module):
        def __init__(self):
            super().__init__()
            self.weight = nn.Parameter(torch.ones(3))
            self.scale = None

        def forward(self, x):
            if self.scale is None:
                self.scale = x.new_ones(3) * 2
            return x * self.weight * self.scale

    net = Cached()
    load_encoder(net, input_shape=(3,))(torch.ones(2, 3))
    net(torch.ones(2, 3)).sum().backward()
    assert torch.equal(net.weight.grad, torch.full((3,), 4.0))


def test_an_encoder_restores_the_random_state():
    noisy = load_encoder(lambda x: x + torch.rand_like(x), input_shape=(4,))
    torch.manual_seed(0)
    state = torch.get_rng_state()
    noisy(torch.zeros(2, 4))
    assert torch.equal(torch.get_rng_state(), state)


def test_callable_learns_its_feature_dim_from_the_first_batch():
    encoder = load_encoder(lambda x: x[:, :2] * 2, input_shape=[3], mean=[0.5], std=[2])
    info = encoder.info
    assert (info.source, info.feature_dim, info.parameters, info.weights_sha256) == (
        "callable",
        None,
        None,
        "",
    )
    assert (info.input_shape, info.mean, info.std) == ((3,), (0.5,), (2.0,))
    assert torch.equal(encoder(torch.ones(1, 3)), torch.full((1, 2), 2.0))
    assert encoder.info.feature_dim == 2


def test_bound_method_brings_its_module():
    class Clip(Net):
        def encode_image(self, x):
            assert not self.training
            return self.forward(x) * 2

    net = Clip()
    encoder = load_encoder(net.encode_image, input_shape=(12,))
    assert encoder.module is net
    x = torch.randn(3, 12)
    with torch.no_grad():
        expected = net.eval()(x) * 2
    assert torch.equal(encoder(x), expected)


def test_to_moves_an_owned_module_and_casts_the_input():
    encoder = load_encoder("builtin:linear", input_shape=(4,)).to("cpu", torch.float64)
    assert encoder.module.weight.dtype == torch.float64
    assert encoder(torch.zeros(1, 4)).dtype == torch.float64
    with pytest.raises(SynbenchError, match=r"dtype: expected a floating-point dtype, got torch\.int32"):
        encoder.to(dtype=torch.int32)


def test_a_modules_own_mixed_precision_is_left_alone():
    class Mixed(nn.Module):
        def __init__(self):
            super().__init__()
            self.body = nn.Linear(4, 3).double()
            self.tail = nn.Linear(3, 2)

        def forward(self, x):
            assert (self.body.weight.dtype, self.tail.weight.dtype) == (torch.float64, torch.float32)
            return self.tail(self.body(x).float())

    encoder = load_encoder(Mixed(), input_shape=(4,))
    assert encoder.dtype == torch.float64
    assert encoder(torch.zeros(2, 4)).dtype == torch.float32


def test_moving_while_scoring_is_undone_too():
    net = Net()
    encoder = load_encoder(net, input_shape=(12,))
    with encoder.scoring(), encoder.scoring():
        assert encoder.to(dtype=torch.float64)(torch.zeros(2, 12)).dtype == torch.float64
    assert net.fc.weight.dtype == torch.float32


def test_device_errors():
    fails("device: expected one such as 'cpu', 'cuda' or 'cuda:1', got 'gpu'", "builtin:linear", device="gpu")
    fails("CUDA devices here, got 'cuda:99'", "builtin:linear", device="cuda:99")


def test_an_empty_batch_is_not_special():
    assert load_encoder("builtin:identity", input_shape=(2, 3))(torch.zeros(0, 2, 3)).shape == (0, 6)


def test_repr():
    encoder = load_encoder("builtin:identity", input_shape=(4,))
    assert repr(encoder) == "Encoder('builtin:identity', input_shape=(4,), feature_dim=4)"


# ---------------------------------------------------------------- the output


DENSE = "expected a dense Tensor of float16 or wider as output, got"


@pytest.mark.filterwarnings("ignore:.*nested tensors:UserWarning")
@pytest.mark.parametrize(
    ("make", "message"),
    [
        (
            lambda x: x.new_zeros(len(x), 49, 768),
            "expected output [B, F], got [2, 49, 768]; pass --pool (pool=) avg, max, cls or flatten",
        ),
        (lambda x: x.new_zeros(len(x), 8, 2, 2), "expected output [B, F], got [2, 8, 2, 2]; pass --pool (pool=) avg"),
        (lambda x: x.new_zeros(len(x)), "expected output [B, F], got [2]"),
        (
            lambda x: (x,),
            "expected a Tensor [B, F] as output, got tuple; pass a function that returns the Tensor",
        ),
        (lambda x: x.detach().numpy(), "expected a Tensor [B, F] as output, got ndarray"),
        (lambda x: {"features": x}, "expected a Tensor [B, F] as output, got dict"),
        (lambda x: x.long(), "expected floating-point features, got torch.int64"),
        (lambda x: x.to_sparse(), f"{DENSE} torch.float32, torch.sparse_coo,"),
        (lambda x: x.to_mkldnn(), f"{DENSE} torch.float32, torch._mkldnn,"),
        (lambda x: torch.nested.as_nested_tensor(list(x)), f"{DENSE} torch.float32, nested, on cpu"),
        (lambda x: x.to("meta"), f"{DENSE} torch.float32, torch.strided, on meta"),
        (lambda x: x.to(torch.float8_e4m3fn), f"{DENSE} torch.float8_e4m3fn, torch.strided,"),
        (lambda x: x * 1j, "expected floating-point features, got torch.complex64"),
        (lambda x: x[:1], "expected output [2, F] for a batch of 2, got [1, 3]"),
        (lambda x: x.new_zeros(3 * len(x), 4), "expected output [2, F] for a batch of 2, got [6, 4]"),
        (lambda x: x.sum(), "expected output [2, F] for a batch of 2, got []"),
        (lambda x: x[:, :0], "expected at least one feature, got output [2, 0]"),
    ],
)  # fmt: skip
def test_output_that_is_not_features(make, message):
    fails(f"encoder module:Raw: {message}", Raw(make), input_shape=(3,))


@pytest.mark.parametrize("pool", ["avg", "max", "cls", "flatten"])
@pytest.mark.parametrize("shape", [(), (6,), (6, 4), (6, 7, 4), (1, 2, 4), (4, 2, 3, 3)])
def test_rows_are_counted_before_they_are_pooled(pool, shape):
    fails(f"expected output [2, F] for a batch of 2, got {list(shape)}",
          Raw(lambda x: x.new_zeros(shape)), input_shape=(3,), pool=pool)  # fmt: skip


def test_flattening_needs_more_than_the_batch():
    fails("pool: expected 'default' for module:Raw, whose output [2] is already pooled, got 'flatten'",
          Raw(lambda x: x[:, 0]), input_shape=(3,), pool="flatten")  # fmt: skip


def test_feature_dim_may_not_change():
    sizes = iter([3, 3, 2])
    encoder = load_encoder(Raw(lambda x: x[:, : next(sizes)]), input_shape=(3,))
    encoder(torch.ones(2, 3))
    with pytest.raises(SynbenchError, match="expected 3 features as in earlier batches, got 2"):
        encoder(torch.ones(2, 3))


def test_trailing_ones_are_features():
    encoder = load_encoder(Raw(lambda x: x[:, :, None, None]), input_shape=(3,))
    x = torch.randn(2, 3)
    assert torch.equal(encoder(x), x)


def test_out_of_memory_is_left_to_the_caller():
    def explode(x):
        raise torch.OutOfMemoryError("CUDA out of memory")

    with pytest.raises(torch.OutOfMemoryError):
        load_encoder(Raw(explode), input_shape=(3,))


def test_wrong_input():
    encoder = load_encoder("builtin:linear", input_shape=(3, 4))
    with pytest.raises(SynbenchError, match=r"x: expected \[B, 3, 4\] for builtin:linear, got \[2, 12\]"):
        encoder(torch.zeros(2, 12))
    with pytest.raises(SynbenchError, match="x: expected a Tensor, got ndarray"):
        encoder(np.zeros((2, 3, 4)))


# ---------------------------------------------------------------- pooling


@pytest.mark.parametrize(
    ("pool", "expected"),
    [
        ("avg", lambda t: t.mean(1)),
        ("max", lambda t: t.max(1).values),
        ("cls", lambda t: t[:, 0]),
        ("flatten", lambda t: t.reshape(len(t), -1)),
    ],
)
def test_pool_over_tokens(pool, expected):
    encoder = load_encoder(Raw(lambda x: x), input_shape=(5, 4), pool=pool)
    x = torch.randn(3, 5, 4)
    torch.testing.assert_close(encoder(x), expected(x))
    assert encoder.info.pool == pool


def test_pool_over_maps_and_layouts():
    maps = torch.randn(2, 4, 3, 5)
    torch.testing.assert_close(pool_features(maps, "avg", Layout(), "m"), maps.mean((2, 3)))
    torch.testing.assert_close(pool_features(maps, "max", Layout(), "m"), maps.amax((2, 3)))
    last = maps.permute(0, 2, 3, 1)
    torch.testing.assert_close(pool_features(last, "avg", Layout(channels_last=True), "m"), maps.mean((2, 3)))
    tokens = torch.randn(2, 6, 4)
    torch.testing.assert_close(pool_features(tokens, "avg", Layout(prefix=2), "m"), tokens[:, 2:].mean(1))
    with pytest.raises(SynbenchError, match="which has no class token, got 'cls'"):
        pool_features(tokens, "cls", Layout(prefix=3, class_token=False), "m")
    with pytest.raises(SynbenchError, match="which has no class token, got 'cls'"):
        pool_features(maps, "cls", Layout(), "m")
    with pytest.raises(SynbenchError, match=r"whose output \[2, 6, 4\] has no tokens of patches, got 'max'"):
        pool_features(tokens, "max", Layout(prefix=6), "m")


def test_pool_errors():
    fails(
        "pool: expected one of default, avg, max, cls, flatten, got 'agv', did you mean avg?",
        Net(),
        pool="agv",
    )
    fails("pool: expected 'default' for module:Net, whose output [2, 5] is already pooled, got 'avg'",
          Net(), pool="avg", input_shape=(12,))  # fmt: skip


# ---------------------------------------------------------------- arguments


def test_normalisation_overrides():
    info = load_encoder("builtin:linear", mean=[0.5], std=[0.1, 0.2, 0.3]).info
    assert (info.mean, info.std) == ((0.5, 0.5, 0.5), (0.1, 0.2, 0.3))
    assert load_encoder("builtin:linear", mean=[0.5]).info.std == (1.0, 1.0, 1.0)
    assert load_encoder("builtin:linear").info.mean is None
    fails(
        "mean: expected 1 or 3 finite values for input_shape (3, 32, 32), got [0, 0]",
        "builtin:linear",
        mean=[0, 0],
    )
    fails("std: expected 1 or 3 finite values", "builtin:linear", std=[float("nan")])
    fails("std: expected positive values, got [0]", "builtin:linear", std=[0])
    fails("mean: expected 1 or 3 finite values", "builtin:linear", mean=["a"])
    fails("mean: expected 1 finite value for", "builtin:linear", input_shape=(1, 4), mean=[1, 2])


@pytest.mark.parametrize("shape", [(), (0, 3), (3, -1), (3.0,), 7, "abc", (True,)])
def test_input_shape_must_be_positive_integers(shape):
    fails(
        "input_shape: expected positive integers such as (3, 224, 224), got",
        "builtin:linear",
        input_shape=shape,
    )


def test_encoder_argument_errors(tmp_path):
    fails("encoder: expected a spec such as 'timm:resnet18', a torch.nn.Module or a callable, got int", 3)
    fails("encoder: expected an instance, got the class Net", Net, input_shape=(12,))
    fails("input_shape: expected the shape of one input for module:Net, got None", Net())
    fails("an encoder passed from Python brings its own weights", Net(), input_shape=(12,), random_init=True)
    fails("checkpoint: expected None for module:Net, got x.pt", Net(), input_shape=(12,), checkpoint="x.pt")
    fails("expected either checkpoint or random_init", "builtin:linear", checkpoint="x.pt", random_init=True)
    text = fails("got 'torchscrip' in 'torchscrip:x', did you mean torchscript?", "torchscrip:x")
    assert all(prefix in text for prefix in SOURCES)
    fails("encoder: expected torchvision:NAME[/WEIGHTS], got 'torchvision:'", "torchvision:")
    fails("encoder: expected SOURCE:NAME, got 'linear', did you mean builtin:linear?", "linear")
    fails("encoder: expected SOURCE:NAME, got 'identiy', did you mean builtin:identity?", "identiy")
    fails("encoder: expected SOURCE:NAME, got '??'; sources are timm,", "??")
    fails("got 'a/net.onnx', did you mean onnx:a/net.onnx?", "a/net.onnx")
    fails("got 'net.py', did you mean python:net.py:FACTORY?", "net.py")
    fails("got 'models.txt', did you mean --models models.txt?", "models.txt")
    assert "did you mean" not in fails(f"got '{tmp_path}'; sources are timm,", str(tmp_path))
    (tmp_path / "config.json").write_text("{}")
    fails(f"did you mean hf:{tmp_path}?", str(tmp_path))


@pytest.mark.parametrize(
    ("spec", "library", "extra"),
    [
        ("timm:resnet18", "timm", "timm"),
        ("torchvision:resnet18", "torchvision", "torchvision"),
        ("hf:some/model", "transformers", "hf"),
        ("open_clip:RN50", "open_clip", "open_clip"),
        ("onnx:model.onnx", "onnxruntime", "onnx"),
    ],
)
def test_missing_library_names_the_extra(monkeypatch, spec, library, extra):
    monkeypatch.setitem(sys.modules, library, None)
    fails(
        f'encoder {spec}: needs {library}, which is not installed; pip install "synbench-fast[{extra}]"', spec
    )
    assert not installed(spec.partition(":")[0])
    assert not [one for one in list_encoders() if one.startswith(spec.partition(":")[0] + ":")]


def test_broken_library_says_why(tmp_path, monkeypatch):
    (tmp_path / "broken_library.py").write_text("raise RuntimeError('operator nms does not exist')")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(
        SynbenchError, match=r"is installed but cannot be imported .*operator nms does not exist"
    ):
        require("broken_library", "timm", "timm:x")


# ---------------------------------------------------------------- the list


def test_list_encoders_patterns():
    assert list_encoders("builtin:") == ["builtin:identity", "builtin:linear", "builtin:conv"]
    assert list_encoders("BUILTIN:C*") == ["builtin:conv"]
    assert list_encoders("ident*") == ["builtin:identity"]
    assert list_encoders("no such encoder") == []
    assert set(list_encoders("builtin:*")) <= set(list_encoders())


def test_sources_describe_every_prefix():
    assert list(SOURCES) == list(REGISTRY)
    assert {"timm", "torchvision", "hf", "open_clip", "onnx", "torchscript", "python", "builtin"} == set(
        SOURCES
    )
    assert all(installed(prefix) for prefix in ("builtin", "python", "torchscript"))
    assert all(one.usage.startswith(f"{prefix}:") for prefix, one in REGISTRY.items())
