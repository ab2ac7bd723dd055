"""What lies beside the weights of transformers' models: settings of processors, adapters."""

import json
import shutil

import numpy as np
import pytest
import torch
from encoder_cases import fails, reference

from synbench_fast.encoders import load_encoder

transformers = pytest.importorskip("transformers")

SMALL = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}
CONSTANTS = {"image_mean": [0.1, 0.2, 0.3], "image_std": [0.4, 0.5, 0.6]}
SQUARE = {"height": 32, "width": 32}


def vit():
    return transformers.ViTConfig(image_size=32, patch_size=8, **SMALL)


def videomae():
    return transformers.VideoMAEConfig(image_size=32, patch_size=8, num_frames=4, **SMALL)


# ---------------------------------------------------------------- processors

IMAGES = {
    "vit": ("ViTImageProcessor", {"size": SQUARE}),
    "one number": ("ViTImageProcessor", {"size": SQUARE, "image_mean": 0.4, "image_std": 0.3}),
    "mean of 0": ("ViTImageProcessor", {"size": SQUARE, "image_mean": [0.0] * 3, "image_std": [0.5] * 3}),
    "not rescaled": ("ViTImageProcessor", {"size": SQUARE, "do_rescale": False, **CONSTANTS}),
    "not normalised": ("ViTImageProcessor", {"size": SQUARE, "do_normalize": False, **CONSTANTS}),
    "neither": ("ViTImageProcessor", {"size": SQUARE, "do_rescale": False, "do_normalize": False}),
    "rescaled to 2": ("ViTImageProcessor", {"size": SQUARE, "rescale_factor": 1 / 127.5, **CONSTANTS}),
    "cropped": (
        "CLIPImageProcessor",
        {"size": {"shortest_edge": 40}, "crop_size": {"height": 32, "width": 32}},
    ),
    "crop as a number": ("CLIPImageProcessor", {"size": 40, "crop_size": 32}),
    "not cropped": ("CLIPImageProcessor", {"size": SQUARE, "do_center_crop": False}),
    "offset": ("VivitImageProcessor", {"size": {"shortest_edge": 40}, "crop_size": SQUARE}),
    "offset and scale": (
        "VivitImageProcessor",
        {"size": SQUARE, "crop_size": SQUARE, "rescale_factor": 1 / 255, **CONSTANTS},
    ),
    "no offset": ("VivitImageProcessor", {"size": SQUARE, "crop_size": SQUARE, "offset": False}),
    "normalised twice": ("EfficientNetImageProcessor", {"size": SQUARE, **CONSTANTS}),
    "normalised once": ("EfficientNetImageProcessor", {"size": SQUARE, "include_top": False, **CONSTANTS}),
    "rescale_offset": (
        "EfficientNetImageProcessor",
        {"size": SQUARE, "rescale_offset": True, "rescale_factor": 1 / 127.5, **CONSTANTS},
    ),
    "squashed": ("ConvNextImageProcessor", {"size": {"shortest_edge": 32}, "crop_pct": 0.875}),
}


def processed(processor, value, video=False):
    """What a processor makes of pixels that all have this value."""
    frame = np.full((64, 48, 3), value, dtype=np.uint8)
    frames = [frame] * 4
    made = processor(frames if video else frame, return_tensors="pt")
    pixels = made["pixel_values_videos" if "pixel_values_videos" in made else "pixel_values"][0].double()
    return pixels if pixels.shape[0] == 3 else pixels.transpose(0, 1)  # [C, ...]


def agrees(info, processor, video=False):
    """The encoder's constants do to images in [0, 1] what the processor does to pixels."""
    black, white = (processed(processor, value, video) for value in (0, 255))
    assert info.input_shape == tuple(black.shape)
    mean, std = info.mean or (0.0,) * 3, info.std or (1.0,) * 3
    for pixels, u in ((black, 0.0), (white, 1.0)):
        for channel in range(3):
            expected = (u - mean[channel]) / std[channel]
            np.testing.assert_allclose(pixels[channel].numpy(), expected, rtol=2e-5, atol=2e-6)


@pytest.mark.parametrize("case", IMAGES)
@pytest.mark.parametrize("whole", [True, False])
def test_images_are_normalised_as_the_processor_does(tmp_path, case, whole):
    name, settings = IMAGES[case]
    processor = getattr(transformers, name)(**settings)
    video = name.startswith("Vivit")
    (videomae() if video else vit()).save_pretrained(tmp_path)
    processor.save_pretrained(tmp_path)
    if not whole:  # what a file leaves out is the class's default
        (tmp_path / "preprocessor_config.json").write_text(
            json.dumps({"image_processor_type": name, **settings})
        )
    agrees(load_encoder(f"hf:{tmp_path}", random_init=True).info, processor, video)


@pytest.mark.parametrize("settings", [{}, {"do_flip_channel_order": False}])
@pytest.mark.parametrize("known", [True, False])
def test_channels_come_in_the_order_that_the_processor_makes(tmp_path, settings, known):
    """MobileViT reads blue, green, red."""
    config = transformers.MobileViTConfig(
        image_size=64, hidden_sizes=[8, 8, 8], neck_hidden_sizes=[8] * 7, num_attention_heads=2
    )
    config.save_pretrained(tmp_path)
    processor = transformers.MobileViTImageProcessor(do_resize=False, crop_size=64, **settings)
    processor.save_pretrained(tmp_path)
    if not known:
        content = processor.to_dict() | {"image_processor_type": "MyOwn", "do_normalize": False}
        (tmp_path / "preprocessor_config.json").write_text(json.dumps(content))
    image = np.full((64, 64, 3), (250, 128, 5), dtype=np.uint8)
    encoder, seen = load_encoder(f"hf:{tmp_path}", random_init=True), []
    encoder.module.register_forward_pre_hook(lambda _, args, given: seen.append(given), with_kwargs=True)
    encoder(torch.from_numpy(image).permute(2, 0, 1)[None] / 255)
    made = processor(image, return_tensors="pt")["pixel_values"]
    assert (made[0, 0] < made[0, 2]).all() == (not settings)
    torch.testing.assert_close(seen[0]["pixel_values"], made)
    assert encoder.info.mean is None and encoder.info.input_shape == (3, 64, 64)


@pytest.mark.parametrize(
    ("name", "settings"),
    [
        ("VideoMAEVideoProcessor", {"size": {"shortest_edge": 32}, "crop_size": SQUARE, **CONSTANTS}),
        ("VideoMAEVideoProcessor", {"size": {"shortest_edge": 40}, "crop_size": SQUARE, "do_rescale": False}),
        ("VJEPA2VideoProcessor", {"size": {"shortest_edge": 40}, "crop_size": SQUARE}),
        ("VideoMAEImageProcessor", {"size": {"shortest_edge": 32}, "crop_size": SQUARE, **CONSTANTS}),
        ("VivitImageProcessor", {"size": {"shortest_edge": 32}, "crop_size": SQUARE}),
    ],
)
def test_videos_are_normalised_as_the_processor_does(tmp_path, name, settings):
    processor = getattr(transformers, name)(**settings)
    videomae().save_pretrained(tmp_path)
    processor.save_pretrained(tmp_path)
    agrees(load_encoder(f"hf:{tmp_path}", random_init=True).info, processor, video=True)


def test_a_video_models_own_file_comes_first(tmp_path):
    videomae().save_pretrained(tmp_path)
    sizes = {"size": SQUARE, "crop_size": SQUARE}
    transformers.VideoMAEImageProcessor(**sizes, image_mean=[0.9] * 3).save_pretrained(tmp_path)
    transformers.VideoMAEVideoProcessor(**sizes, image_mean=[0.1] * 3).save_pretrained(tmp_path)
    assert load_encoder(f"hf:{tmp_path}", random_init=True).info.mean == (0.1,) * 3
    vit().save_pretrained(tmp_path)  # of images, the file of videos says nothing
    assert load_encoder(f"hf:{tmp_path}", random_init=True).info.mean == (0.9,) * 3


def test_the_settings_in_processor_config_come_first(tmp_path):
    vit().save_pretrained(tmp_path)
    for name, nest, mean in (
        ("preprocessor", dict, 0.9),
        ("processor", lambda x: {"image_processor": x}, 0.1),
    ):
        content = nest({"image_processor_type": "ViTImageProcessor", "image_mean": mean, "size": 32})
        (tmp_path / f"{name}_config.json").write_text(json.dumps(content))
    assert load_encoder(f"hf:{tmp_path}", random_init=True).info.mean == (0.1,) * 3


def test_a_file_of_an_unknown_class_counts_as_it_stands(tmp_path):
    vit().save_pretrained(tmp_path)
    file = tmp_path / "preprocessor_config.json"
    content = {"image_processor_type": "MyOwn", "offset": True, "rescale_factor": 1 / 127.5, **CONSTANTS}
    file.write_text(json.dumps(content))
    info = load_encoder(f"hf:{tmp_path}", random_init=True).info
    np.testing.assert_allclose((0 - np.array(info.mean)) / info.std, [-2.75, -2.4, -1.3 / 0.6])
    file.write_text(json.dumps({"image_processor_type": "MyOwn"}))
    with pytest.warns(
        UserWarning, match="preprocessor: expected image_mean and image_std, got a file without them"
    ):
        assert load_encoder(f"hf:{tmp_path}", random_init=True).info.mean is None


@pytest.mark.parametrize(
    "content",
    [
        {"image_mean": "abc", "image_std": [0.5]},
        {"image_mean": None},
        {"rescale_factor": 0, **CONSTANTS},
        {"rescale_factor": [1], **CONSTANTS},
    ],
)
def test_settings_that_are_no_numbers_are_refused(tmp_path, content):
    vit().save_pretrained(tmp_path)
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(content))
    fails(
        "expected numbers in preprocessor_config.json, or in the file that it has in its place, got others (",
        f"hf:{tmp_path}",
        random_init=True,
    )


def test_channels_are_those_of_the_model(tmp_path):
    gray = transformers.ViTConfig(image_size=32, patch_size=8, num_channels=1, **SMALL)
    gray.save_pretrained(tmp_path)
    file = tmp_path / "preprocessor_config.json"
    file.write_text(json.dumps({"size": 32, "image_mean": 0.3, "image_std": [0.2]}))
    info = load_encoder(f"hf:{tmp_path}", random_init=True).info
    assert (info.input_shape, info.mean, info.std) == ((1, 32, 32), (0.3,), (0.2,))
    file.write_text(json.dumps({"size": 32, **CONSTANTS}))
    fails("mean: expected 1 values for input_shape (1, 32, 32)", f"hf:{tmp_path}", random_init=True)
    pytest.importorskip("timm")
    cfg = {"input_size": [1, 64, 64], "mean": [0.1], "std": [0.2]}
    transformers.TimmWrapperConfig(
        architecture="test_resnet", pretrained_cfg=cfg, model_args={"in_chans": 1}
    ).save_pretrained(tmp_path)
    info = load_encoder(f"hf:{tmp_path}", random_init=True).info
    assert (info.input_shape, info.mean, info.std) == ((1, 64, 64), (0.1,), (0.2,))


# ---------------------------------------------------------------- weights that are not all there


@pytest.fixture
def adapted(tmp_path):
    """A directory with the weights of a classifier and an adapter for them; the network with the adapter on."""
    peft = pytest.importorskip("peft")
    full = reference(lambda: transformers.ViTForImageClassification(vit()), 3)
    full.save_pretrained(tmp_path)
    net = peft.get_peft_model(
        full, peft.LoraConfig(target_modules=["q_proj", "v_proj", "query", "value"], r=2)
    )
    with torch.no_grad():
        for name, parameter in net.named_parameters():
            if "lora" in name:
                parameter.normal_(generator=torch.Generator().manual_seed(5))
    net.save_pretrained(tmp_path)
    return net.base_model.model.vit.eval()


@pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing:FutureWarning")
def test_an_adapter_is_put_on_and_a_missing_pooler_is_not_made_up(tmp_path, adapted):
    x = torch.randn(2, 3, 32, 32)
    encoder = load_encoder(f"hf:{tmp_path}", seed=0)
    with torch.no_grad():
        torch.testing.assert_close(encoder(x), adapted(x).last_hidden_state[:, 0])
    shas = {load_encoder(f"hf:{tmp_path}", seed=seed).info.weights_sha256 for seed in (0, 1)}
    for file in tmp_path.glob("adapter_*"):
        file.unlink()
    plain = load_encoder(f"hf:{tmp_path}")
    assert len(shas) == 1 and plain.info.weights_sha256 not in shas
    assert not torch.equal(plain(x), encoder(x))


@pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing:FutureWarning")
def test_weights_beside_an_adapter_have_to_be_complete(tmp_path, adapted):
    from safetensors.torch import load_file, save_file

    saved = tmp_path / "model.safetensors"
    state = load_file(saved)
    lost = next(key for key in state if key.endswith("layernorm.weight"))
    save_file({key: value for key, value in state.items() if key != lost}, saved, metadata={"format": "pt"})
    fails("expected complete weights, got none for layernorm.weight", f"hf:{tmp_path}")


@pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing:FutureWarning")
@pytest.mark.parametrize("change", ["missing", "strange"])
def test_an_adapter_has_to_fit(tmp_path, adapted, change):
    from safetensors.torch import load_file, save_file

    saved = tmp_path / "adapter_model.safetensors"
    state = load_file(saved)
    key = next(iter(state))
    value = state.pop(key)
    if change == "strange":
        state |= {key: value, key.replace("layers.0", "layers.7"): value.clone()}
    save_file(state, saved, metadata={"format": "pt"})
    fails("expected an adapter that fits ViTModel, got one that does not in ", f"hf:{tmp_path}")


@pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing:FutureWarning")
def test_an_adapter_needs_its_library(tmp_path, adapted, monkeypatch):
    import sys

    monkeypatch.setitem(sys.modules, "peft", None)
    fails('needs peft, which is not installed; pip install "synbench-fast[inherit]"', f"hf:{tmp_path}")


def test_statistics_of_normalisation_belong_to_the_weights(tmp_path):
    config = transformers.ResNetConfig(
        embedding_size=8, hidden_sizes=[8, 16], depths=[1, 1], layer_type="basic"
    )
    model = reference(lambda: transformers.ResNetModel(config), 6)
    for left_out in ("running_var", "num_batches_tracked"):
        state = {key: value for key, value in model.state_dict().items() if not key.endswith(left_out)}
        model.save_pretrained(tmp_path, state_dict=state)
        if left_out == "running_var":
            fails("embedder.embedder.normalization.running_var", f"hf:{tmp_path}", input_shape=(3, 32, 32))
    assert load_encoder(f"hf:{tmp_path}", input_shape=(3, 32, 32)).info.feature_dim == 16


def test_a_pooler_that_is_there_is_used(tmp_path):
    model = reference(lambda: transformers.ViTModel(vit()), 6)
    model.save_pretrained(tmp_path / "a")
    shutil.copytree(tmp_path / "a", tmp_path / "b")
    x = torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        torch.testing.assert_close(load_encoder(f"hf:{tmp_path}/b")(x), model(x).pooler_output)
