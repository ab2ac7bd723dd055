"""Encoders of timm, torchvision and open_clip, with random or self-made weights."""

import re
from pathlib import Path

import pytest
import torch
from encoder_cases import fails, go_offline, reference
from torch import nn

from synbench_fast.encoders import Encoder, list_encoders, load_encoder
from synbench_fast.encoders.base import Request, pool_features
from synbench_fast.encoders.timm import load
from synbench_fast.encoders.torchvision import without_classifier
from synbench_fast.encoders.weights import state_sha256
from synbench_fast.errors import SynbenchError

timm = pytest.importorskip("timm")
torchvision = pytest.importorskip("torchvision")


@pytest.fixture(autouse=True, scope="module")
def one_thread():
    """Many small layers on a busy machine: threads that wait for each other cost more than they give."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


# ---------------------------------------------------------------- timm


@pytest.mark.parametrize("name", ["test_vit.r160_in1k", "test_resnet.r160_in1k"])
def test_timm_random_weights(name):
    encoder = load_encoder(f"timm:{name}", random_init=True, seed=5)
    model = reference(lambda: timm.create_model(name, num_classes=0), 5)
    x = torch.randn(2, 3, 160, 160)
    with torch.no_grad():
        torch.testing.assert_close(encoder(x), model(x))
    info = encoder.info
    assert info.weights_sha256 == state_sha256(model.state_dict())
    assert (info.input_shape, info.mean, info.std) == ((3, 160, 160), (0.5,) * 3, (0.5,) * 3)
    assert (info.source, info.name, info.revision, info.random_init) == ("timm", name, None, True)
    assert info.feature_dim == model.num_features
    assert info.parameters == sum(p.numel() for p in model.parameters())


@pytest.mark.parametrize(
    ("name", "pool", "expected"),
    [
        ("test_vit", "avg", lambda t: t[:, 1:].mean(1)),
        ("test_vit", "cls", lambda t: t[:, 0]),
        ("test_resnet", "max", lambda t: t.amax((2, 3))),
        ("test_resnet", "flatten", lambda t: t.flatten(1)),
    ],
)
def test_timm_pooling(name, pool, expected):
    encoder = load_encoder(f"timm:{name}", random_init=True, pool=pool)
    model = reference(lambda: timm.create_model(name, num_classes=0), 0)
    x = torch.randn(2, 3, 160, 160)
    with torch.no_grad():
        torch.testing.assert_close(encoder(x), expected(model.forward_features(x)))


@pytest.mark.parametrize(
    ("name", "prefix", "has_class_token"),
    [
        ("hiera_tiny_224", 0, False),
        ("levit_128s", 0, False),
        ("efficientformer_l1", 0, False),
        ("twins_svt_small", 0, False),
        ("swin_tiny_patch4_window7_224", 0, False),
        ("vit_medium_patch16_reg4_gap_256", 4, False),  # four registers, and none of them is a class token
        ("vit_relpos_small_patch16_224", 0, False),
        ("mvitv2_tiny", 0, False),
        ("test_resnet", 0, False),
        ("test_vit", 1, True),
        ("vit_small_patch14_reg4_dinov2", 5, True),
        ("deit_tiny_distilled_patch16_224", 2, True),
        ("cait_xxs24_224", 1, True),
        ("volo_d1_224", 1, True),  # it does not say so itself
        ("coat_lite_tiny", 1, True),  # one of each stage, and numbered
        ("xcit_nano_12_p16_224", 1, True),
        ("eva02_tiny_patch14_224", 1, True),
    ],
)
def test_timm_class_tokens(name, prefix, has_class_token):
    with torch.device("meta"):
        loaded = load(Request(f"timm:{name}", name, pool="avg", random_init=True))
        assert (loaded.layout.prefix, loaded.layout.class_token) == (prefix, has_class_token)
        with torch.no_grad():
            output = loaded.module.eval().forward_features(torch.zeros(2, *loaded.input_shape))
        assert pool_features(output, "avg", loaded.layout, name).shape == (2, loaded.module.num_features)
        if has_class_token:
            assert pool_features(output, "cls", loaded.layout, name).shape == (2, loaded.module.num_features)
        else:
            with pytest.raises(SynbenchError, match=f"for {name}, which has no class token, got 'cls'"):
                pool_features(output, "cls", loaded.layout, name)


def test_timm_pooling_without_the_tokens_for_it():
    fails(
        "pool: expected 'avg', 'max' or 'flatten' for timm:levit_128s, which has no class token, got 'cls'",
        "timm:levit_128s", random_init=True, pool="cls",
    )  # fmt: skip
    # The output of pit is its class token alone.
    fails("for timm:pit_ti_224, whose output [2, 1, 256] has no tokens of patches, got 'avg'",
          "timm:pit_ti_224", random_init=True, pool="avg")  # fmt: skip


def test_timm_maps_with_channels_last():
    encoder = load_encoder("timm:test_mambaout", random_init=True, pool="avg", input_shape=(3, 64, 64))
    x = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        maps = encoder.module.forward_features(x)
    assert maps.shape[-1] == encoder.info.feature_dim
    torch.testing.assert_close(encoder(x), maps.mean((1, 2)))


def test_timm_other_input_shapes():
    info = load_encoder("timm:test_vit", random_init=True, input_shape=(3, 64, 64)).info
    assert (info.input_shape, info.mean) == ((3, 64, 64), (0.5,) * 3)
    info = load_encoder(
        "timm:test_vit", random_init=True, input_shape=(1, 64, 32), mean=[0.4], std=[0.3]
    ).info
    assert (info.input_shape, info.mean, info.std) == ((1, 64, 32), (0.4,), (0.3,))
    fails("mean: expected 1 values for input_shape (1, 64, 64), but timm:test_vit brings 3; pass mean=",
          "timm:test_vit", random_init=True, input_shape=(1, 64, 64))  # fmt: skip
    fails("input_shape: expected (channels, height, width) for timm:test_vit, got (64,)",
          "timm:test_vit", random_init=True, input_shape=(64,))  # fmt: skip
    fails(
        "forward failed on an input of shape [2, 3, 8, 8]",
        "timm:test_vit",
        random_init=True,
        input_shape=(3, 8, 8),
    )


def test_timm_checkpoint_of_a_classifier(tmp_path):
    model = reference(lambda: timm.create_model("test_resnet"), 9)
    torch.save({"state_dict": {f"module.{k}": v for k, v in model.state_dict().items()}}, tmp_path / "w.pth")
    encoder = load_encoder("timm:test_resnet", checkpoint=str(tmp_path / "w.pth"))
    x = torch.randn(2, 3, 160, 160)
    with torch.no_grad():
        torch.testing.assert_close(encoder(x), model.forward_head(model.forward_features(x), pre_logits=True))


def test_timm_published_weights(monkeypatch):
    model = reference(lambda: timm.create_model("test_vit.r160_in1k"), 3)
    monkeypatch.setattr("timm.models._builder.load_state_dict_from_hf", lambda *a, **k: model.state_dict())
    info = load_encoder("timm:test_vit.r160_in1k").info
    model.reset_classifier(0)
    assert info.weights_sha256 == state_sha256(model.state_dict())
    assert (info.revision, info.random_init) == ("r160_in1k", False)


def test_the_published_encoders_are_named_with_tags_that_timm_has():
    page = (Path(__file__).parents[2] / "docs" / "method.md").read_text()
    named = set(re.findall(r"timm:(\w+\.\w+)", page))
    assert {
        f"vit_{size}_patch16_224.augreg_in21k_ft_in1k" for size in ("tiny", "small", "base", "large")
    } == named
    known = set(timm.list_models(pretrained=True))
    assert named <= known and {name.replace("_ft_in1k", "") for name in named} <= known
    # These are the weights of 2022: the file of the augreg study that timm pointed to then.
    url = timm.get_pretrained_cfg("vit_base_patch16_224.augreg_in21k_ft_in1k").url
    assert "B_16-i21k-300ep-lr_0.001-aug_medium1-wd_0.1-do_0.0-sd_0.0--imagenet2012-steps_20k-lr_0.01" in url


def test_timm_errors(tmp_path, monkeypatch):
    go_offline(monkeypatch, tmp_path)
    fails(
        "encoder: expected a model of timm, got 'timm:resnet5', did you mean timm:resnet50?", "timm:resnet5"
    )
    fails("the pretrained weights could not be loaded (", "timm:test_vit.r160_in1k")
    fails("use --random-init, or --checkpoint FILE", "timm:test_vit.r160_in1k")


# ---------------------------------------------------------------- torchvision


@pytest.mark.parametrize(
    ("name", "size", "head"),
    [
        ("resnet18", 32, "fc"),
        ("vit_b_32", 32, "heads.head"),
        ("convnext_tiny", 32, "classifier.2"),
        ("efficientnet_b0", 32, "classifier.1"),
        ("mobilenet_v2", 32, "classifier.1"),
        ("mobilenet_v3_small", 32, "classifier.3"),
        ("swin_t", 32, "head"),
        ("densenet121", 32, "classifier"),
        ("vgg11", 32, "classifier.6"),
        ("alexnet", 64, "classifier.6"),
        ("squeezenet1_1", 32, "classifier.1"),
        ("shufflenet_v2_x0_5", 32, "fc"),
        ("mnasnet0_5", 32, "classifier.1"),
        ("regnet_y_400mf", 32, "fc"),
        ("googlenet", 32, "fc"),
        ("inception_v3", 75, "fc"),
    ],
)
def test_torchvision_features_are_the_input_of_the_classifier(monkeypatch, name, size, head):
    # Truncated draws take most of the time and change nothing here.
    monkeypatch.setattr(
        nn.init, "trunc_normal_", lambda t, mean=0.0, std=1.0, *rest: nn.init.normal_(t, mean, std)
    )
    options = {"image_size": size} if name.startswith("vit") else {}
    if name in ("googlenet", "inception_v3"):
        options = {"init_weights": False, "aux_logits": False}
    model = torchvision.models.get_model(name, weights=None, **options).eval()
    seen = []
    hook = model.get_submodule(head).register_forward_pre_hook(lambda layer, inputs: seen.append(inputs[0]))
    x = torch.randn(2, 3, size, size)
    with torch.no_grad():
        model(x)
        hook.remove()
        features = without_classifier(model)(x)
    expected = seen[0].mean((2, 3)) if name.startswith("squeezenet") else seen[0]
    torch.testing.assert_close(features, expected)
    assert not [key for key in model.state_dict() if key.startswith(f"{head}.")]


@pytest.mark.parametrize("name", ["shufflenet_v2_x0_5", "googlenet", "inception_v3", "vit_b_32"])
def test_torchvision_random_weights(monkeypatch, name):
    monkeypatch.setattr(
        nn.init, "trunc_normal_", lambda t, mean=0.0, std=1.0, *rest: nn.init.normal_(t, mean, std)
    )
    encoder = load_encoder(f"torchvision:{name}", random_init=True, input_shape=(3, 96, 96), seed=1)
    x = torch.randn(2, 3, 96, 96)
    with torch.no_grad():
        torch.testing.assert_close(encoder(x), encoder.module(x))
    info = encoder.info
    assert (info.mean, info.std) == ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
    assert (info.random_init, info.revision, info.input_shape) == (True, None, (3, 96, 96))


def test_torchvision_published_weights_and_their_constants(monkeypatch, tmp_path):
    model = reference(lambda: torchvision.models.mobilenet_v3_small(), 2)
    weights = torchvision.models.get_model_weights("mobilenet_v3_small").IMAGENET1K_V1
    cache = tmp_path / "hub" / "checkpoints"
    cache.mkdir(parents=True)
    torch.save(model.state_dict(), cache / weights.url.rpartition("/")[2])
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    info = load_encoder("torchvision:mobilenet_v3_small/IMAGENET1K_V1").info
    model.classifier[3] = nn.Identity()
    assert info.weights_sha256 == state_sha256(model.state_dict())
    assert (info.revision, info.input_shape, info.random_init) == ("IMAGENET1K_V1", (3, 224, 224), False)


def test_torchvision_without_published_weights(monkeypatch):
    monkeypatch.setattr(torchvision.models, "get_model_weights", lambda name: type("NoWeights", (), {}))
    fails(
        "torchvision publishes no weights for it; use --random-init, or --checkpoint FILE",
        "torchvision:resnet18",
    )
    assert load_encoder("torchvision:resnet18", random_init=True).info.mean == (0.485, 0.456, 0.406)


def test_torchvision_input_shape_of_its_weights(monkeypatch):
    monkeypatch.setattr(Encoder, "dry_run", lambda self: self)
    assert load_encoder("torchvision:efficientnet_b1", random_init=True).info.input_shape == (3, 240, 240)


def test_torchvision_checkpoint_of_a_classifier(tmp_path):
    model = reference(lambda: torchvision.models.shufflenet_v2_x0_5(), 4)
    torch.save(model.state_dict(), tmp_path / "w.pth")
    info = load_encoder("torchvision:shufflenet_v2_x0_5", checkpoint=str(tmp_path / "w.pth")).info
    model.fc = nn.Identity()
    assert info.weights_sha256 == state_sha256(model.state_dict())


def test_torchvision_errors(tmp_path, monkeypatch):
    go_offline(monkeypatch, tmp_path)
    fails("did you mean torchvision:resnet18?", "torchvision:resnet1")
    fails(
        "expected weights out of IMAGENET1K_V1, IMAGENET1K_V2, DEFAULT in",
        "torchvision:resnet50/IMAGENET1K_V3",
    )
    fails("did you mean IMAGENET1K_V", "torchvision:resnet50/IMAGENET1K_V3")
    fails("the pretrained weights could not be loaded (URLError: <urlopen error Name or service not known>); "
          "use --random-init, or --checkpoint FILE", "torchvision:resnet18")  # fmt: skip
    fails("forward failed on an input of shape [2, 1, 32, 32]",
          "torchvision:resnet18", random_init=True, input_shape=(1, 32, 32), mean=[0], std=[1])  # fmt: skip


# ---------------------------------------------------------------- open_clip


def test_open_clip_image_tower(tmp_path):
    open_clip = pytest.importorskip("open_clip")
    name = "RN50"
    encoder = load_encoder(f"open_clip:{name}", random_init=True, input_shape=(3, 64, 64))
    x = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        torch.testing.assert_close(encoder(x), encoder.module(x))
    info = encoder.info
    assert info.feature_dim == open_clip.get_model_config(name)["embed_dim"]
    assert (info.mean, info.std) == (open_clip.OPENAI_DATASET_MEAN, open_clip.OPENAI_DATASET_STD)
    state = {f"visual.{k}": v for k, v in encoder.module.state_dict().items()}
    torch.save({**state, "logit_scale": torch.ones(()), "transformer.w": torch.ones(2)}, tmp_path / "w.pt")
    again = load_encoder(
        f"open_clip:{name}", checkpoint=str(tmp_path / "w.pt"), input_shape=(3, 64, 64), seed=1
    )
    assert again.info.weights_sha256 == info.weights_sha256


def test_open_clip_errors(tmp_path, monkeypatch):
    go_offline(monkeypatch, tmp_path)
    pytest.importorskip("open_clip")
    fails("did you mean open_clip:RN50x4?", "open_clip:RN50x")
    fails("expected open_clip:NAME/PRETRAINED (open_clip:RN50/openai, ", "open_clip:RN50")
    fails("--random-init or --checkpoint FILE, got 'open_clip:RN50'", "open_clip:RN50")
    fails("in 'open_clip:RN50/openal', did you mean openai?", "open_clip:RN50/openal")
    fails("the pretrained weights could not be loaded (", "open_clip:RN50/openai")


# ---------------------------------------------------------------- the list


def test_list_encoders_of_the_libraries():
    assert "timm:resnet18" in list_encoders("timm:resnet18*")
    assert "timm:test_vit.r160_in1k" in list_encoders("test_vit")
    assert "torchvision:resnet18" in list_encoders("resnet18")
    assert not list_encoders("torchvision:fcn*")
    assert not list_encoders("hf:*")
