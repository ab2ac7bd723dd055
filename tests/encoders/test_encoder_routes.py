"""One encoder by every route that leads to it: the same features, and the same score."""

import numpy as np
import pytest
import torch
from encoder_cases import reference, save_nodes
from torch import nn

from synbench_fast import score
from synbench_fast.encoders import load_encoder
from synbench_fast.encoders.builtin import Conv

SHAPE = (3, 16, 16)
CONSTANTS = {"mean": (0.4, 0.5, 0.6), "std": (0.2, 0.3, 0.4)}
RUN = {"scales": 3, "samples": 64, "input_shape": SHAPE, **CONSTANTS}


class Steepest(nn.Module):
    """Its features are the gradient of a function of the input, which takes autograd inside the forward pass."""

    input_shape = (6,)

    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(6, 4)
        self.cached = None

    def forward(self, x):
        if self.cached is None:
            self.cached = x.new_full((1,), 2.0)
        with torch.enable_grad():
            held = x.detach().requires_grad_(True)
            (slope,) = torch.autograd.grad((self.linear(held) * self.cached).tanh().sum(), held)
            return slope * 1.0


FACTORIES = """
import torch
from test_encoder_routes import Steepest, network

def module():
    return network()

def call():
    held = network()
    return lambda x: held(x)

def method():
    return network().forward

def steepest():
    return Steepest()

def steepest_call():
    held = Steepest()
    return lambda x: held(x)
"""


def network():
    return reference(lambda: Conv(SHAPE, 8), 3)


def exported(path, net):
    """The network as an ONNX graph, written node by node."""
    nodes, constants, last = [], {}, "x"
    for number in (0, 2, 4):
        layer = net.layers[number]
        constants |= {f"w{number}": layer.weight.detach().numpy(), f"b{number}": layer.bias.detach().numpy()}
        attributes = {"strides": [2, 2], "pads": [1, 1, 1, 1]}
        nodes.append(("Conv", [last, f"w{number}", f"b{number}"], [f"c{number}"], attributes))
        last = f"r{number}"
        nodes.append(("Relu", [f"c{number}"], [last]))
    nodes.append(("ReduceMean", [last], ["y"], {"axes": [2, 3], "keepdims": 0}))
    save_nodes(path, ["N", *SHAPE], ["N", 8], nodes, **constants)


def archived(path, net):
    torch.jit.save(torch.jit.trace(net, torch.zeros(2, *SHAPE)), path)


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "factories_of_routes.py").write_text(FACTORIES)
    return tmp_path


# What a route is given, and how near its features are: bit for bit, or within the rounding of float32 where another
# library does the arithmetic.
ROUTES = {
    "module": (lambda net, path: (net, {}), True),
    "callable": (lambda net, path: (lambda x: net(x), {}), True),
    "bound method": (lambda net, path: (net.forward, {}), True),
    "builtin: with its weights": (
        lambda net, path: (
            "builtin:conv?dim=8",
            {"checkpoint": torch.save(net.state_dict(), "w.pt") or "w.pt"},
        ),
        True,
    ),
    "python: module": (lambda net, path: ("python:factories_of_routes:module", {}), True),
    "python: callable": (lambda net, path: ("python:factories_of_routes.py:call", {}), True),
    "python: method": (lambda net, path: ("python:factories_of_routes.py:method", {}), True),
    "torchscript:": (
        lambda net, path: (f"torchscript:{archived('m.ts', net) or 'm.ts'}", {"trust_remote_code": True}),
        True,
    ),
    "onnx:": (lambda net, path: (f"onnx:{exported('m.onnx', net) or 'm.onnx'}", {}), False),
}


def same(first, second, exact):
    """Two results have the same scores and errors, and the same curve."""
    tolerance = {"rtol": 0, "atol": 0} if exact else {"rtol": 1e-4, "atol": 1e-5}
    for part, names in (
        ("scores", ("score", "stderr")),
        ("curve", ("accuracy", "robust_accuracy", "bound", "t")),
    ):
        for name in names:
            one, other = ([getattr(p, name) for p in getattr(result, part)] for result in (first, second))
            np.testing.assert_allclose(one, other, **tolerance)


@pytest.mark.filterwarnings(r"ignore:.*torch\.jit:FutureWarning", r"ignore:.*torch\.jit:DeprecationWarning")
@pytest.mark.parametrize("route", ROUTES)
def test_one_encoder_scores_the_same_by_every_route(folder, route):
    make, exact = ROUTES[route]
    net = network()
    encoder, options = make(net, folder)
    x = torch.randn(5, *SHAPE, generator=torch.Generator().manual_seed(1))
    features = load_encoder(encoder, input_shape=SHAPE, **options)(x)
    with torch.no_grad():
        tolerance = {"rtol": 0, "atol": 0} if exact else {"rtol": 1e-5, "atol": 1e-6}
        torch.testing.assert_close(features, net(x), **tolerance)
    assert not features.requires_grad
    same(score(encoder, **options, **RUN), score(net, **RUN), exact)


@pytest.mark.parametrize(
    "route", ["module", "callable", "python: module", "python: callable", "builtin: source"]
)
def test_autograd_inside_a_forward_pass_works_by_every_route(folder, route, monkeypatch):
    net = reference(Steepest, 0)
    held = reference(Steepest, 0)
    if route == "builtin: source":  # a Module that a source of this package makes
        monkeypatch.setattr("synbench_fast.encoders.builtin.Linear", lambda inputs, dim: Steepest())
    encoder = {
        "module": held,
        "callable": lambda x: held(x),
        "python: module": "python:factories_of_routes.py:steepest",
        "python: callable": "python:factories_of_routes.py:steepest_call",
        "builtin: source": "builtin:linear",
    }[route]
    loaded = load_encoder(encoder, input_shape=(6,), seed=0)
    x = torch.randn(4, 6)
    features = loaded(x)
    assert torch.equal(features, net(x))
    assert not features.requires_grad and not features.is_inference()
    run = {"scales": 2, "samples": 64, "input_shape": (6,)}
    same(score(encoder, **run), score(net, **run), True)
    if loaded.module is not None:  # what it cached while it was scored is of use in its training
        loaded.module.linear(loaded.module.cached * torch.ones(1, 6)).sum().backward()


def library_routes():
    """Per library: a spec with its options, the same network as a Module, its input shape."""

    def timm(path):
        library = pytest.importorskip("timm")
        net = reference(lambda: library.create_model("test_resnet", num_classes=0), 4)
        torch.save(net.state_dict(), path / "w.pt")
        return "timm:test_resnet", {"checkpoint": str(path / "w.pt")}, net, (3, 32, 32)

    def wrapped(path):
        library, hub = pytest.importorskip("timm"), pytest.importorskip("transformers")
        net = reference(lambda: library.create_model("test_resnet", num_classes=0), 4)
        model = hub.TimmWrapperModel(hub.TimmWrapperConfig(architecture="test_resnet"))
        model.timm_model.load_state_dict(net.state_dict())
        model.save_pretrained(path)
        return f"hf:{path}", {}, net, (3, 32, 32)

    def torchvision(path):
        library = pytest.importorskip("torchvision")
        net = reference(lambda: library.models.shufflenet_v2_x0_5(), 4)
        torch.save(net.state_dict(), path / "w.pt")
        net.fc = nn.Identity()
        return "torchvision:shufflenet_v2_x0_5", {"checkpoint": str(path / "w.pt")}, net, (3, 32, 32)

    def hf(path):
        hub = pytest.importorskip("transformers")
        config = hub.ViTConfig(
            image_size=32, patch_size=8, hidden_size=16, num_hidden_layers=1, num_attention_heads=2,
            intermediate_size=32,
        )  # fmt: skip
        model = reference(lambda: hub.ViTModel(config), 4)
        model.save_pretrained(path)

        class Pooled(nn.Module):
            def __init__(self):
                super().__init__()
                self.model = model

            def forward(self, x):
                return self.model(pixel_values=x).pooler_output

        return f"hf:{path}", {}, Pooled(), (3, 32, 32)

    def open_clip(path):
        library = pytest.importorskip("open_clip")
        net = reference(
            lambda: library.create_model("RN50", pretrained=None, load_weights=False, force_image_size=64), 4
        )
        torch.save(net.state_dict(), path / "w.pt")
        return "open_clip:RN50", {"checkpoint": str(path / "w.pt")}, net.visual, (3, 64, 64)

    return {one.__name__: one for one in (timm, wrapped, torchvision, hf, open_clip)}


@pytest.mark.parametrize("library", library_routes())
def test_a_librarys_encoder_scores_the_same_as_its_module(tmp_path, library):
    spec, options, net, shape = library_routes()[library](tmp_path)
    run = {"scales": 2, "samples": 32, "estimator": "paper", "input_shape": shape, **CONSTANTS}
    # Bit for bit: it is the same Module, in the same mode, on the same samples.
    same(score(spec, **options, **run), score(net.eval(), **run), True)
