"""Encoders of transformers, built from small configurations and saved by save_pretrained."""

import json

import pytest
import torch
from encoder_cases import fails, go_offline, reference

from synbench_fast.encoders import load_encoder
from synbench_fast.encoders.weights import state_sha256

transformers = pytest.importorskip("transformers")

CONSTANTS = {"image_mean": [0.1, 0.2, 0.3], "image_std": [0.4, 0.5, 0.6]}
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
        vocab_size=60, num_mel_bins=8, d_model=16, encoder_layers=1, decoder_layers=1,
        encoder_attention_heads=2, decoder_attention_heads=2, encoder_ffn_dim=16, decoder_ffn_dim=16,
        max_source_positions=20, max_target_positions=10, pad_token_id=0, bos_token_id=1, eos_token_id=2,
        decoder_start_token_id=1)  # fmt: skip


def patchtst():
    return transformers.PatchTSTConfig(
        num_input_channels=2, context_length=32, patch_length=8, patch_stride=8, d_model=16,
        num_attention_heads=2, num_hidden_layers=1, ffn_dim=16)  # fmt: skip


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
        lambda: transformers.ResNetConfig(
            embedding_size=8, hidden_sizes=[8, 16], depths=[1, 1], layer_type="basic"),
        (3, 32, 32), (3, 32, 32), lambda m, x: m(x).last_hidden_state.mean((2, 3))),
    "mae": (
        lambda: transformers.ViTMAEConfig(image_size=32, patch_size=8, mask_ratio=0.75, **SMALL), None,
        (3, 32, 32), None),
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
    ("pool", "expected"),
    [
        ("avg", lambda t: t[:, 1:].mean(1)),
        ("cls", lambda t: t[:, 0]),
        ("flatten", lambda t: t.flatten(1)),
    ],
)
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


@pytest.mark.parametrize("pool", ["default", "avg", "max"])
def test_hf_maps_with_channels_last(tmp_path, pool):
    from transformers.models.sam2.modeling_sam2 import Sam2VisionModel

    backbone = transformers.Sam2HieraDetConfig(
        hidden_size=8, num_attention_heads=1, image_size=[64, 64], embed_dim_per_stage=[8, 16, 32, 64],
        num_attention_heads_per_stage=[1, 1, 1, 1])  # fmt: skip
    config = transformers.Sam2VisionConfig(
        backbone_config=backbone, backbone_channel_list=[64, 32, 16, 8], fpn_hidden_size=8)  # fmt: skip
    model = reference(lambda: Sam2VisionModel(config), 6)
    config.save_pretrained(tmp_path)
    x = torch.randn(2, 3, 64, 96)
    with torch.no_grad():
        maps = model(x).last_hidden_state
    assert maps.shape == (2, 2, 3, 64)
    encoder = load_encoder(f"hf:{tmp_path}", random_init=True, seed=6, input_shape=(3, 64, 96), pool=pool)
    torch.testing.assert_close(encoder(x), maps.amax((1, 2)) if pool == "max" else maps.mean((1, 2)))


TOKENS = {  # tokens of patches, and the features by default
    "aimv2": (  # the class token of its head is a query
        lambda: transformers.Aimv2VisionConfig(image_size=32, patch_size=8, **SMALL),
        slice(None),
        lambda output: output.pooler_output,
    ),
    "dinov3_convnext": (
        lambda: transformers.DINOv3ConvNextConfig(image_size=64, hidden_sizes=[8] * 4, depths=[1] * 4),
        slice(1, None),
        lambda output: output.pooler_output,
    ),
    "yolos": (
        lambda: transformers.YolosConfig(image_size=[32, 32], patch_size=8, num_detection_tokens=5, **SMALL),
        slice(1, -5),
        lambda output: output.pooler_output,
    ),
    "deit": (
        lambda: transformers.DeiTConfig(image_size=32, patch_size=8, **SMALL),
        slice(2, None),
        lambda output: output.pooler_output,
    ),
}


@pytest.mark.parametrize("kind", TOKENS)
def test_hf_tokens_that_are_no_patches_are_left_out(tmp_path, kind):
    build, patches, features = TOKENS[kind]
    model = published(build(), tmp_path)
    encoder = load_encoder(f"hf:{tmp_path}")
    x = torch.randn(2, *encoder.info.input_shape)
    with torch.no_grad():
        output = model(x)
        torch.testing.assert_close(encoder(x), features(output))
        pooled = load_encoder(f"hf:{tmp_path}", pool="avg")(x)
        torch.testing.assert_close(pooled, output.last_hidden_state[:, patches].mean(1))
    side = model.config.image_size[0] if kind == "yolos" else model.config.image_size
    step = 32 if kind == "dinov3_convnext" else 8
    assert output.last_hidden_state[:, patches].shape[1] == (side // step) ** 2


def test_hf_series_with_a_class_token(tmp_path):
    config = patchtst()
    config.use_cls_token = True
    model = published(config, tmp_path)
    x = torch.randn(2, 32, 2)
    with torch.no_grad():
        hidden = model(x).last_hidden_state
        torch.testing.assert_close(load_encoder(f"hf:{tmp_path}")(x), hidden[:, :, 0].flatten(1))
        pooled = load_encoder(f"hf:{tmp_path}", pool="avg")(x)
        torch.testing.assert_close(pooled, hidden[:, :, 1:].mean((1, 2)))


@pytest.mark.parametrize("kind", ["swin", "hiera", "levit", "siglip", "aimv2"])
def test_hf_without_a_class_token(tmp_path, kind):
    small = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}
    config = {
        "swin": lambda: transformers.SwinConfig(
            image_size=32, embed_dim=8, depths=[1, 1], num_heads=[1, 1], window_size=4
        ),
        "hiera": lambda: transformers.HieraConfig(
            image_size=[64, 64], embed_dim=8, depths=[1, 1, 1, 1], num_heads=[1, 1, 1, 1]
        ),
        "levit": lambda: transformers.LevitConfig(
            image_size=64, hidden_sizes=[16, 16, 16], depths=[1, 1, 1], num_attention_heads=[1, 1, 1],
            key_dim=[4, 4, 4],
            down_ops=[["Subsample", 4, 2, 4, 2, 2], ["Subsample", 4, 2, 4, 2, 2]],
        ),
        "siglip": lambda: transformers.SiglipVisionConfig(image_size=32, patch_size=8, **small),
        "aimv2": lambda: transformers.Aimv2VisionConfig(image_size=32, patch_size=8, **small),
    }[kind]()  # fmt: skip
    config.save_pretrained(tmp_path)
    fails("which has no class token, got 'cls'", f"hf:{tmp_path}", random_init=True, pool="cls")


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


@pytest.mark.parametrize("named", ["float16", "bfloat16", None])
def test_hf_weights_keep_the_values_of_their_file(tmp_path, named):
    """Of a dtype in config.json, and of the one that the first weight has, transformers would make that of all weights."""
    from safetensors.torch import load_file, save_file

    model = published(vit(), tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    config = {key: value for key, value in config.items() if "dtype" not in key}
    state = load_file(tmp_path / "model.safetensors")
    if named is None:
        first = min(state)
        state[first] = state[first].bfloat16()
        model.load_state_dict({first: state[first]}, strict=False)
        save_file(state, tmp_path / "model.safetensors", metadata={"format": "pt"})
    else:
        config["torch_dtype"] = named
    (tmp_path / "config.json").write_text(json.dumps(config))
    encoder = load_encoder(f"hf:{tmp_path}")
    for key, value in model.state_dict().items():
        assert torch.equal(encoder.module.state_dict()[key], value), key


def test_hf_buffers_of_fresh_models_are_those_of_float32(tmp_path):
    """Those that no checkpoint has stay as they were made: sines of positions, say."""
    config = transformers.WhisperConfig(
        d_model=16, encoder_layers=1, decoder_layers=1, encoder_attention_heads=2, decoder_attention_heads=2,
        encoder_ffn_dim=16, decoder_ffn_dim=16, max_source_positions=20, num_mel_bins=8, vocab_size=20, pad_token_id=0,
        bos_token_id=1, eos_token_id=2, decoder_start_token_id=1,
    )  # fmt: skip
    known = reference(lambda: transformers.AutoModel.from_config(config), 0).encoder.embed_positions.weight
    config.save_pretrained(tmp_path)
    content = json.loads((tmp_path / "config.json").read_text())
    content = {key: value for key, value in content.items() if "dtype" not in key} | {
        "torch_dtype": "bfloat16"
    }
    (tmp_path / "config.json").write_text(json.dumps(content))
    encoder = load_encoder(f"hf:{tmp_path}", random_init=True)
    assert torch.equal(encoder.module.embed_positions.weight, known)
    assert not torch.equal(known, known.bfloat16().float())


def test_hf_checkpoint(tmp_path):
    model = published(vit(), tmp_path)
    changed = {k: v + 1 for k, v in model.state_dict().items()}
    torch.save({f"vit.{k}": v for k, v in changed.items()}, tmp_path / "w.pt")
    info = load_encoder(f"hf:{tmp_path}", checkpoint=str(tmp_path / "w.pt")).info
    assert info.weights_sha256 == state_sha256(changed)


@pytest.mark.parametrize(
    ("content", "shape", "mean", "std"),
    [
        ({"size": {"height": 32, "width": 32}, **CONSTANTS}, (3, 32, 32), (0.1, 0.2, 0.3), (0.4, 0.5, 0.6)),
        (
            {"size": {"shortest_edge": 64}, "do_center_crop": True, "crop_size": 48, **CONSTANTS},
            (3, 48, 48),
            (0.1, 0.2, 0.3),
            (0.4, 0.5, 0.6),
        ),
        ({"size": 40, "image_mean": 0.5, "image_std": 0.25}, (3, 40, 40), (0.5,) * 3, (0.25,) * 3),
        ({"size": 40, "do_normalize": False, **CONSTANTS}, (3, 40, 40), None, None),
        # What a file leaves out is the default of the model's processor.
        ({"size": {"shortest_edge": 64}}, (3, 64, 64), (0.5,) * 3, (0.5,) * 3),
        ({"feature_size": 1}, (3, 32, 32), (0.5,) * 3, (0.5,) * 3),
    ],
)
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


def test_hf_errors(tmp_path, monkeypatch):
    go_offline(monkeypatch, tmp_path / "cache")
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
    transformers.TimmWrapperConfig(architecture="no_such_net").save_pretrained(tmp_path)
    fails("transformers could not build it (", f"hf:{tmp_path}", random_init=True)
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
