"""Encoders of timm, torchvision, open_clip and transformers, with random or self-made weights."""

import json
import urllib.error

import pytest
import torch
from torch import nn

from synbench_fast.encoders import Encoder, list_encoders, load_encoder
from synbench_fast.encoders.torchvision import without_classifier
from synbench_fast.encoders.weights import state_sha256
from synbench_fast.errors import SynbenchError

timm = pytest.importorskip("timm")
torchvision = pytest.importorskip("torchvision")
transformers = pytest.importorskip("transformers")


def fails(match, *args, **kwargs):
    """The error of load_encoder(...), which is one line and contains `match`."""
    with pytest.raises(SynbenchError) as caught:
        load_encoder(*args, **kwargs)
    text = str(caught.value)
    assert "\n" not in text
    assert match in text, text


@pytest.fixture
def offline(monkeypatch, tmp_path):
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
        "timm could not build it for input_shape=(3, 8, 8) (",
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


def test_timm_errors(offline):
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
    monkeypatch.setattr(Encoder, "probe", lambda self: self)
    assert load_encoder("torchvision:efficientnet_b1", random_init=True).info.input_shape == (3, 240, 240)


def test_torchvision_checkpoint_of_a_classifier(tmp_path):
    model = reference(lambda: torchvision.models.shufflenet_v2_x0_5(), 4)
    torch.save(model.state_dict(), tmp_path / "w.pth")
    info = load_encoder("torchvision:shufflenet_v2_x0_5", checkpoint=str(tmp_path / "w.pth")).info
    model.fc = nn.Identity()
    assert info.weights_sha256 == state_sha256(model.state_dict())


def test_torchvision_errors(offline):
    fails("did you mean torchvision:resnet18?", "torchvision:resnet1")
    fails("expected weights out of IMAGENET1K_V1, IMAGENET1K_V2 in", "torchvision:resnet50/IMAGENET1K_V3")
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


def test_open_clip_errors(offline):
    pytest.importorskip("open_clip")
    fails("did you mean open_clip:RN50x4?", "open_clip:RN50x")
    fails("expected open_clip:NAME/PRETRAINED (open_clip:RN50/openai, ", "open_clip:RN50")
    fails("--random-init or --checkpoint FILE, got 'open_clip:RN50'", "open_clip:RN50")
    fails("in 'open_clip:RN50/openal', did you mean openai?", "open_clip:RN50/openal")
    fails("the pretrained weights could not be loaded (", "open_clip:RN50/openai")


# ---------------------------------------------------------------- transformers

SMALL = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}


def published(config, path, seed=6):
    """A random model of `config`, as save_pretrained leaves it in `path`."""
    model = reference(lambda: transformers.AutoModel.from_config(config), seed)
    model.save_pretrained(path)
    return model


def vit():
    return transformers.ViTConfig(image_size=32, patch_size=8, **SMALL)


def clip():
    text = {"vocab_size": 50, "bos_token_id": 0, "eos_token_id": 1, **SMALL}
    return transformers.CLIPConfig(
        text_config=text, vision_config={"image_size": 32, "patch_size": 8, **SMALL}, projection_dim=8
    )


def wav2vec2():
    return transformers.Wav2Vec2Config(
        conv_dim=(8, 8), conv_stride=(4, 4), conv_kernel=(8, 4), num_feat_extract_layers=2,
        num_conv_pos_embeddings=4, num_conv_pos_embedding_groups=2, **SMALL)  # fmt: skip


def whisper():
    return transformers.WhisperConfig(
        vocab_size=60, num_mel_bins=8, d_model=16, encoder_layers=1, decoder_layers=1, encoder_attention_heads=2,
        decoder_attention_heads=2, encoder_ffn_dim=16, decoder_ffn_dim=16, max_source_positions=20,
        max_target_positions=10, pad_token_id=0, bos_token_id=1, eos_token_id=2,
        decoder_start_token_id=1)  # fmt: skip


def patchtst():
    return transformers.PatchTSTConfig(
        num_input_channels=2, context_length=32, patch_length=8, patch_stride=8, d_model=16, num_attention_heads=2,
        num_hidden_layers=1, ffn_dim=16)  # fmt: skip


def series():
    return transformers.TimeSeriesTransformerConfig(
        prediction_length=4, context_length=12, input_size=1, lags_sequence=[1, 2, 3], num_time_features=1,
        d_model=16, encoder_layers=1, decoder_layers=1, encoder_ffn_dim=16, decoder_ffn_dim=16)  # fmt: skip


def series_features(model, x):
    output = model(
        past_values=x, past_time_features=torch.zeros(*x.shape, 1), past_observed_mask=torch.ones_like(x),
        future_values=torch.zeros(len(x), 4), future_time_features=torch.zeros(len(x), 4, 1))  # fmt: skip
    return output.encoder_last_hidden_state.mean(1)


CASES = {
    "vit": (vit, None, (3, 32, 32), lambda m, x: m(x).pooler_output),
    "dinov2": (
        lambda: transformers.Dinov2Config(image_size=28, patch_size=14, **SMALL), None, (3, 28, 28),
        lambda m, x: m(x).last_hidden_state[:, 0]),
    "resnet": (
        lambda: transformers.ResNetConfig(embedding_size=8, hidden_sizes=[8, 16], depths=[1, 1], layer_type="basic"),
        (3, 32, 32), (3, 32, 32), lambda m, x: m(x).last_hidden_state.mean((2, 3))),
    "mae": (
        lambda: transformers.ViTMAEConfig(image_size=32, patch_size=8, mask_ratio=0.75, **SMALL), None, (3, 32, 32),
        None),
    "videomae": (
        lambda: transformers.VideoMAEConfig(image_size=32, patch_size=8, num_frames=4, **SMALL), None,
        (3, 4, 32, 32), lambda m, x: m(x.transpose(1, 2)).last_hidden_state.mean(1)),
    "clip": (clip, None, (3, 32, 32), lambda m, x: m.vision_model(pixel_values=x).pooler_output),
    "wav2vec2": (wav2vec2, (400,), (400,), lambda m, x: m(x).last_hidden_state.mean(1)),
    "whisper": (whisper, None, (8, 40), lambda m, x: m.encoder(x).last_hidden_state.mean(1)),
    "ast": (
        lambda: transformers.ASTConfig(
            max_length=32, num_mel_bins=16, patch_size=8, frequency_stride=8, time_stride=8, **SMALL), None,
        (32, 16), lambda m, x: m(x).pooler_output),
    "patchtst": (patchtst, None, (32, 2), lambda m, x: m(x).last_hidden_state.mean(2).flatten(1)),
    "series": (series, None, (15,), series_features),
}  # fmt: skip


@pytest.mark.parametrize("case", CASES)
def test_hf_modalities(tmp_path, case):
    make, given, shape, expected = CASES[case]
    model = published(make(), tmp_path)
    encoder = load_encoder(f"hf:{tmp_path}", input_shape=given)
    assert encoder.info.input_shape == shape
    assert not encoder.info.random_init
    x = torch.randn(3, *shape)
    y = encoder(x)
    if expected is not None:
        with torch.no_grad():
            torch.testing.assert_close(y, expected(model, x), rtol=1e-4, atol=1e-5)
    # Neither the batch nor a mask drawn at random shows in a sample's features.
    torch.testing.assert_close(encoder(x[1:])[0], y[1], rtol=1e-4, atol=1e-5)
    fresh = load_encoder(f"hf:{tmp_path}", input_shape=given, random_init=True, seed=6)
    other = load_encoder(f"hf:{tmp_path}", input_shape=given, random_init=True, seed=7)
    assert fresh.info.feature_dim == y.shape[1]
    assert fresh.info.weights_sha256 == encoder.info.weights_sha256 != other.info.weights_sha256


@pytest.mark.parametrize(
    ("pool", "expected"), [("avg", lambda t: t[:, 1:].mean(1)), ("cls", lambda t: t[:, 0]), ("flatten", lambda t: t.flatten(1))]
)  # fmt: skip
def test_hf_pooling(tmp_path, pool, expected):
    model = published(vit(), tmp_path)
    x = torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        tokens = model(x).last_hidden_state
    torch.testing.assert_close(load_encoder(f"hf:{tmp_path}", pool=pool)(x), expected(tokens))


def test_hf_pool_of_series_is_over_channels_and_patches(tmp_path):
    model = published(patchtst(), tmp_path)
    x = torch.randn(2, 32, 2)
    with torch.no_grad():
        expected = model(x).last_hidden_state.mean((1, 2))
    torch.testing.assert_close(load_encoder(f"hf:{tmp_path}", pool="avg")(x), expected)
    fails("which has no class token, got 'cls'", f"hf:{tmp_path}", pool="cls")


@pytest.mark.parametrize("how", ["published", "checkpoint"])
def test_hf_without_trained_pooler_uses_the_class_token(tmp_path, how):
    full = reference(lambda: transformers.ViTForImageClassification(vit()), 8)
    full.save_pretrained(tmp_path)
    options = {}
    if how == "checkpoint":
        torch.save(full.state_dict(), tmp_path / "w.pt")
        options["checkpoint"] = str(tmp_path / "w.pt")
    encoder = load_encoder(f"hf:{tmp_path}", **options)
    x = torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        torch.testing.assert_close(encoder(x), full.vit(x).last_hidden_state[:, 0])
    assert not [name for name in encoder.module.state_dict() if "pooler" in name]


def test_hf_incomplete_weights_are_refused(tmp_path):
    model = published(vit(), tmp_path)
    state = {k: v for k, v in model.state_dict().items() if not k.startswith("layernorm")}
    model.save_pretrained(tmp_path, state_dict=state)
    fails("expected complete weights, got none for layernorm.bias, layernorm.weight", f"hf:{tmp_path}")


def test_hf_checkpoint(tmp_path):
    model = published(vit(), tmp_path)
    changed = {k: v + 1 for k, v in model.state_dict().items()}
    torch.save({f"vit.{k}": v for k, v in changed.items()}, tmp_path / "w.pt")
    info = load_encoder(f"hf:{tmp_path}", checkpoint=str(tmp_path / "w.pt")).info
    assert info.weights_sha256 == state_sha256(changed)


@pytest.mark.parametrize(
    ("content", "shape", "mean", "std"),
    [
        ({"size": {"height": 32, "width": 32}, "image_mean": [0.1, 0.2, 0.3], "image_std": [0.4, 0.5, 0.6]},
         (3, 32, 32), (0.1, 0.2, 0.3), (0.4, 0.5, 0.6)),
        ({"size": {"shortest_edge": 64}, "do_center_crop": True, "crop_size": 48, "image_mean": 0.5, "image_std": 0.5},
         (3, 48, 48), (0.5,) * 3, (0.5,) * 3),
        ({"size": 40, "do_normalize": False, "image_mean": [0.5], "image_std": [0.5]}, (3, 40, 40), None, None),
        ({"size": {"shortest_edge": 64}}, (3, 64, 64), None, None),
        ({"feature_size": 1}, (3, 32, 32), None, None),
    ],
)  # fmt: skip
def test_hf_preprocessor(tmp_path, content, shape, mean, std):
    published(vit(), tmp_path)
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(content))
    info = load_encoder(f"hf:{tmp_path}").info
    assert (info.input_shape, info.mean, info.std) == (shape, mean, std)


def test_hf_nested_preprocessor(tmp_path):
    published(clip(), tmp_path)
    content = {"image_processor": {"image_mean": [0.1] * 3, "image_std": [0.2] * 3}}
    (tmp_path / "processor_config.json").write_text(json.dumps(content))
    info = load_encoder(f"hf:{tmp_path}").info
    assert (info.mean, info.std) == ((0.1,) * 3, (0.2,) * 3)


def test_hf_random_weights_for_another_input(tmp_path):
    vit().save_pretrained(tmp_path)
    encoder = load_encoder(f"hf:{tmp_path}", random_init=True, input_shape=(1, 16, 24))
    assert encoder(torch.zeros(2, 1, 16, 24)).shape == (2, 16)


def test_hf_timm_models_bring_timms_constants(tmp_path):
    config = transformers.TimmWrapperConfig(
        architecture="test_resnet",
        pretrained_cfg={"input_size": [3, 64, 64], "mean": [0.1] * 3, "std": [0.2] * 3},
    )
    config.save_pretrained(tmp_path)
    info = load_encoder(f"hf:{tmp_path}", random_init=True).info
    assert (info.input_shape, info.mean, info.std) == ((3, 64, 64), (0.1,) * 3, (0.2,) * 3)


def test_hf_errors(tmp_path, offline):
    fails("the config.json could not be loaded (OSError", "hf:nobody-at-all/no-such-model")
    fails("name a local directory that has it", "hf:nobody-at-all/no-such-model", random_init=True)
    fails(
        "encoder: expected a hub name or a directory written by save_pretrained, got", f"hf:{tmp_path}/absent"
    )
    fails("encoder: expected a directory with config.json, got", f"hf:{tmp_path}")
    wav2vec2().save_pretrained(tmp_path)
    fails(
        "pass --input-shape (input_shape=), such as (16000,), one second", f"hf:{tmp_path}", random_init=True
    )
    vit().save_pretrained(tmp_path)
    fails("the pretrained weights could not be loaded (OSError", f"hf:{tmp_path}")
    text = transformers.BertConfig(vocab_size=50, **SMALL)
    text.save_pretrained(tmp_path)
    fails("expected a model of continuous input (pixel_values, input_values, input_features, past_values), "
          "got BertModel, which reads input_ids", f"hf:{tmp_path}", random_init=True)  # fmt: skip


def test_hf_remote_code_needs_the_flag(tmp_path):
    config = {"model_type": "own_kind", "auto_map": {"AutoConfig": "conf.Conf", "AutoModel": "conf.Net"}}
    (tmp_path / "config.json").write_text(json.dumps(config))
    (tmp_path / "conf.py").write_text("raise RuntimeError('executed')")
    fails(
        "expected --trust-remote-code (trust_remote_code=True) to run it", f"hf:{tmp_path}", random_init=True
    )
    fails("RuntimeError: executed", f"hf:{tmp_path}", random_init=True, trust_remote_code=True)


# ---------------------------------------------------------------- the list


def test_list_encoders_of_the_libraries():
    assert "timm:resnet18" in list_encoders("timm:resnet18*")
    assert "timm:test_vit.r160_in1k" in list_encoders("test_vit")
    assert "torchvision:resnet18" in list_encoders("resnet18")
    assert not list_encoders("torchvision:fcn*")
    assert not list_encoders("hf:*")
