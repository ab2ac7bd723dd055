"""`hf:NAME_OR_PATH`: transformers encoders of images, video, audio and time series."""

from __future__ import annotations

import inspect
import tempfile
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from synbench_fast.encoders.base import Layout, Loaded, Request, class_tokens, pool_features
from synbench_fast.encoders.download import fetching
from synbench_fast.encoders.registry import require
from synbench_fast.encoders.weights import HEADS, load_checkpoint
from synbench_fast.errors import SynbenchError, first_line
from synbench_fast.results.codec import kind_of
from synbench_fast.results.documents import parse

__all__ = ["load"]

# Where composite models (image-text, segmentation, audio-text) keep the tower that reads the signal.
_TOWERS = (
    "vision_model",
    "vision_tower",
    "visual",
    "vision_encoder",
    "image_encoder",
    "audio_model",
    "audio_tower",
)
_TEXT = frozenset(
    {"text_model", "language_model", "logit_scale", "logit_bias", "text_projection", "visual_projection"}
)
# Models that read frames as [B, T, C, H, W]; the input here is [B, C, T, H, W], as normalisation wants it.
_VIDEO = ("videomae", "vivit", "timesformer", "vjepa2")
# Models whose output is [B, height, width, C].
_MAPS_LAST = ("dinat", "edgetam_vision_model", "sam2_hiera_det_model", "sam2_vision_model")
_SERIES_ENCODERS = ("time_series_transformer", "informer")


def load(request: Request) -> Loaded:
    """The encoder of a hub model or of a local directory written by save_pretrained.

    The modality follows from main_input_name. Composite models give their vision (or audio) tower,
    encoder-decoders their encoder. Default pooling: pooler_output if the model has a trained one, else the
    class token where there is one, else the mean over tokens, positions or time; PatchTST-like output
    [B, channels, patches, C] is averaged over patches and its channels are concatenated. Images and videos
    are normalised as the model's processor does it with pixels from 0 to 255; audio and series come as the
    model's forward pass reads them. Weights are safetensors, or pickles read with weights_only=True.
    """
    transformers = require("transformers", "hf", request.spec)
    path = Path(request.name).expanduser()
    local = path.is_dir()
    if not local and (path.is_absolute() or request.name.startswith((".", "~")) or path.exists()):
        raise SynbenchError(
            f"encoder: expected a hub name or a directory written by save_pretrained, got {path}"
        )
    if local and not (path / "config.json").is_file():
        raise SynbenchError(f"encoder: expected a directory with config.json, got {path}")
    name = str(path) if local else request.name
    trust = request.trust_remote_code
    config = _config(transformers, name, request)
    if request.pretrained:
        with fetching(request.spec):
            model, pooler = _published(transformers, name, local, config, request)
    else:
        pooler = True
        try:
            model = transformers.AutoModel.from_config(config, trust_remote_code=trust, **_float32(config))
        except (ImportError, OSError, ValueError, KeyError, RuntimeError, TypeError) as error:
            raise SynbenchError(
                f"encoder {request.spec}: transformers could not build it ({first_line(error)})"
            ) from error
    model = _tower(model)
    model = model.float()  # what the library leaves in half precision is widened without loss
    if request.checkpoint is not None:
        pooler = load_checkpoint(model, request.checkpoint, request.spec, optional="pooler", unused=_TEXT)
    if not pooler:
        setattr(model, "pooler", None)  # noqa: B010 (a submodule that transformers allows to be absent)

    own = getattr(model, "config", config)
    main = getattr(model, "main_input_name", None) or "pixel_values"
    if not isinstance(main, str) or main == "input_ids":
        raise SynbenchError(
            f"encoder {request.spec}: expected a model of continuous input (pixel_values, input_values, "
            f"input_features, past_values), got {type(model).__name__}, which reads {main}"
        )
    constants: dict[str, Any] = {}
    if main.startswith("pixel_values"):
        try:
            constants = _preprocessor(transformers, name, local, request.trust_remote_code, config)
        except (TypeError, ValueError, ArithmeticError, KeyError) as error:
            if isinstance(error, SynbenchError):
                raise
            raise SynbenchError(
                f"encoder {request.spec}: expected numbers in preprocessor_config.json, or in the file that it has "
                f"in its place, got others "
                f"({first_line(error)})"
            ) from None
    shape, hint = _input_shape(own, main, constants)
    layout = _layout(model, own, main)
    return Loaded(
        forward=_forward(
            model,
            own,
            main,
            request.pool,
            pooler,
            request.input_shape or shape,
            layout,
            reverse=constants.get("reversed", False),
        ),
        module=model,
        name=request.name,
        input_shape=shape,
        shape_hint=hint,
        mean=constants.get("mean"),
        std=constants.get("std"),
        revision=getattr(config, "_commit_hash", None),
        layout=layout,
        random_init=request.random_init,
    )


def _config(transformers: Any, name: str, request: Request) -> Any:
    """The model's config.json, adapted to what is asked of it."""
    trust = request.trust_remote_code
    with fetching(request.spec, "config.json", way_out="name a local directory that has it"):
        try:
            config = transformers.AutoConfig.from_pretrained(name, trust_remote_code=trust)
        except ValueError as error:
            if trust or "trust_remote_code" not in str(error):
                raise
            raise SynbenchError(
                f"encoder {request.spec}: the model brings its own Python code; expected --trust-remote-code "
                "(trust_remote_code=True) to run it, got False"
            ) from error
    # Masked autoencoders see everything; fresh weights are built for the input that was asked for.
    if hasattr(config, "mask_ratio"):
        config.mask_ratio = 0.0
    shape = request.input_shape
    vision = getattr(config, "vision_config", None) or config
    if request.random_init and shape is not None and len(shape) == 3 and hasattr(vision, "image_size"):
        vision.image_size = shape[-1] if shape[-1] == shape[-2] else list(shape[-2:])
        if hasattr(vision, "num_channels"):
            vision.num_channels = shape[0]
    return config


def _float32(config: Any) -> dict[str, torch.dtype]:
    """Asks transformers for float32; by default it rounds all weights to the dtype that config.json or the first one has."""
    return {"dtype" if hasattr(config, "dtype") else "torch_dtype": torch.float32}


def _published(transformers: Any, name: str, local: bool, config: Any, request: Request) -> tuple[Any, bool]:
    """The model with all of its weights, and whether its pooler was among them.

    An adapter (of peft) in the directory is put on the model afterwards: from_pretrained would do so, too, but then
    reports what was missing of the adapter, and says nothing of weights that the model itself lacks.
    """
    options = {"config": config, "trust_remote_code": request.trust_remote_code, "output_loading_info": True}
    options |= _float32(config)
    if _find(transformers, name, local, "adapter_config.json") is None:
        model, report = transformers.AutoModel.from_pretrained(name, **options)
        return model, _complete(model, report["missing_keys"], request.spec)
    whole = "merge it into its model (merge_and_unload) and save that"
    if not local:
        raise SynbenchError(f"encoder {request.spec}: expected a whole model, got an adapter; {whole}")
    require("peft", "inherit", request.spec)
    with tempfile.TemporaryDirectory() as base:
        for file in Path(name).resolve().iterdir():
            if not file.name.startswith("adapter_"):
                (Path(base) / file.name).symlink_to(file)
        model, report = transformers.AutoModel.from_pretrained(base, **options)
    pooler = _complete(model, report["missing_keys"], request.spec)
    report = model.load_adapter(name)
    if report is None:
        raise SynbenchError(
            f"encoder {request.spec}: expected transformers 5 or newer, which says whether an adapter is complete, "
            f"got {transformers.__version__}; {whole}"
        )
    strange = {key for key in report.unexpected_keys if not HEADS & set(key.split("."))}
    wrong = sorted({*report.missing_keys, *strange, *(str(one) for one in report.mismatched_keys)})
    if wrong:
        raise SynbenchError(
            f"encoder {request.spec}: expected an adapter that fits {type(model).__name__}, got one that does not in "
            + ", ".join(wrong[:3])
            + (f" and {len(wrong) - 3} more" if len(wrong) > 3 else "")
        )
    return model, pooler


def _tower(model: nn.Module) -> nn.Module:
    for name in _TOWERS:
        tower = getattr(model, name, None)
        if isinstance(tower, nn.Module):
            return tower
    config = getattr(model, "config", None)
    if (
        getattr(config, "is_encoder_decoder", False)
        and getattr(config, "model_type", "") not in _SERIES_ENCODERS
    ):
        encoder = getattr(model, "encoder", None)
        if isinstance(encoder, nn.Module):
            return encoder
    return model


def _complete(whole: nn.Module, missing: Any, spec: str) -> bool:
    """False if only the pooler was not in the published weights; an error if anything else of the tower was not."""
    inside = {id(tensor) for tensor in _tower(whole).state_dict(keep_vars=True).values()}
    named = whole.state_dict(keep_vars=True)
    lost = [
        key for key in missing if key in named and named[key].is_floating_point() and id(named[key]) in inside
    ]
    other = sorted(key for key in lost if "pooler" not in key.split("."))
    if other:
        raise SynbenchError(
            f"encoder {spec}: expected complete weights, got none for {', '.join(other[:3])}"
            + (f" and {len(other) - 3} more" if len(other) > 3 else "")
        )
    return not lost


def _preprocessor(transformers: Any, name: str, local: bool, trust: bool, config: Any) -> dict[str, Any]:
    """mean, std and size of images, from the processor's files (or timm's constants in the config).

    `reversed` says whether the model reads blue, green, red (MobileViT).
    """
    cfg = getattr(config, "pretrained_cfg", None)
    if isinstance(cfg, dict) and "input_size" in cfg:
        return {
            "channels": int(cfg["input_size"][0]),
            "size": tuple(cfg["input_size"][1:]),
            "mean": tuple(cfg.get("mean") or ()) or None,
            "std": tuple(cfg.get("std") or ()) or None,
        }
    video = ("video_processor", "video_preprocessor_config.json", "AutoVideoProcessor")
    image = ("image_processor", "preprocessor_config.json", "AutoImageProcessor")
    whole = _json(transformers, name, local, "processor_config.json")
    for key, file, auto in (video, image) if getattr(config, "model_type", "") in _VIDEO else (image,):
        given = _object(whole[key], file) if key in whole else _json(transformers, name, local, file)
        if given:
            try:
                made = getattr(transformers, auto).from_pretrained(name, trust_remote_code=trust)
            except Exception:  # of no class that is known here, or of one whose libraries are missing
                every, known = given, False
            else:
                every, known = made.to_dict(), True  # the class knows what the file leaves out
            reversed_channels = {"reversed": bool(every.get("do_flip_channel_order"))}
            return _size(given, every) | _constants(every, known=known) | reversed_channels
    return {}


def _constants(every: dict[str, Any], known: bool) -> dict[str, Any]:
    """mean and std in units of images in [0, 1] from the settings of a processor, which reads pixels from 0 to 255.

    It makes ((a u - o) - image_mean)/image_std of a pixel 255 u: a is 255 times the rescale_factor, o is 1 for an
    `offset`. EfficientNet's `include_top` divides by image_std once more. Only a processor of a `known` class has all
    of its settings; of another it is assumed that it rescales and normalises unless its file says otherwise.
    """
    rescaled, normalised = (bool(every.get(key, not known)) for key in ("do_rescale", "do_normalize"))
    gain = 255 * float(every.get("rescale_factor", 1 / 255)) if rescaled else 255.0
    offset = float(rescaled and bool(every.get("offset") or every.get("rescale_offset")))
    mean: tuple[float, ...] = (0.0,)
    std: tuple[float, ...] = (1.0,)
    if normalised and not known and not {"image_mean", "image_std"} <= every.keys():
        warnings.warn(
            "preprocessor: expected image_mean and image_std, got a file without them and of no class that is known "
            "here; images are not normalised, which --mean and --std change",
            stacklevel=2,
        )
    elif normalised:
        mean, std = _floats(every["image_mean"]), _floats(every["image_std"])
    if every.get("include_top"):
        again = _floats(every["image_std"])
        std = tuple(a * b for a, b in zip(std * len(again) if len(std) == 1 else std, again, strict=True))
    mean, std = tuple((one + offset) / gain for one in mean), tuple(one / gain for one in std)
    return {} if {*mean} == {0.0} and {*std} == {1.0} else {"mean": mean, "std": std}


def _size(given: dict[str, Any], every: dict[str, Any]) -> dict[str, Any]:
    """Height and width that a processor makes; a class's own default says nothing of this model."""
    size = None
    if every.get("do_center_crop"):
        size = every.get("crop_size")
    if size is None and every.get("do_resize", True):
        size = every.get("size")
    if isinstance(size, dict):
        edge = size.get("shortest_edge")
        size = (size["height"], size["width"]) if size.get("height") and size.get("width") else edge
    if isinstance(size, int):
        size = (size, size)
    if not given.keys() & {"size", "crop_size"} or not isinstance(size, tuple | list) or len(size) != 2:
        return {}
    return {"size": tuple(int(n) for n in size)}


def _json(transformers: Any, name: str, local: bool, file: str) -> dict[str, Any]:
    """The object in a file of the model; empty where there is no such file."""
    found = _find(transformers, name, local, file)
    if found is None:
        return {}
    return _object(parse(Path(found).read_text(encoding="utf-8", errors="replace"), found), found)


def _object(value: Any, path: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise SynbenchError(f"{path}: expected a JSON object, got {kind_of(value)}")
    return value


def _find(transformers: Any, name: str, local: bool, file: str) -> str | None:
    if local:
        path = Path(name) / file
        return str(path) if path.is_file() else None
    try:
        found: str | None = transformers.utils.cached_file(name, file)
    except OSError:
        return None
    return found


def _floats(value: Any) -> tuple[float, ...]:
    return tuple(float(one) for one in value) if isinstance(value, (tuple, list)) else (float(value),)


def _pair(value: Any) -> tuple[int, int] | None:
    if isinstance(value, int):
        return value, value
    if isinstance(value, (tuple, list)) and len(value) == 2:
        return int(value[0]), int(value[1])
    return None


def _input_shape(config: Any, main: str, constants: dict[str, Any]) -> tuple[tuple[int, ...] | None, str]:
    """The model's own input shape (None if it accepts any) and an example for the message asking for one."""
    kind = getattr(config, "model_type", "")
    if main.startswith("pixel_values"):
        size = constants.get("size") or _pair(
            getattr(config, "image_size", None) or getattr(config, "crop_size", None)
        )
        channels = constants.get("channels") or int(
            getattr(config, "num_channels", None) or getattr(config, "in_chans", None) or 3
        )
        if kind in _VIDEO:
            frames = getattr(config, "num_frames", None) or getattr(config, "frames_per_clip", None)
            return ((channels, int(frames), *size) if frames and size else None), "(3, 16, 224, 224)"
        return ((channels, *size) if size else None), "(3, 224, 224)"
    mels = getattr(config, "num_mel_bins", None)
    if main == "input_values":
        length = getattr(config, "max_length", None)
        if mels and length and hasattr(config, "patch_size"):
            return (int(length), int(mels)), ""
        return None, "(16000,), one second of sound at 16 kHz"
    if main == "past_values":
        length = int(getattr(config, "context_length", 0))
        lags = getattr(config, "lags_sequence", None) if kind in _SERIES_ENCODERS else None
        length += max(lags) if lags else 0
        if kind == "timesfm":
            return (length,), ""
        width: int = getattr(config, "num_input_channels", 0) or getattr(config, "input_size", 1)
        if kind in _SERIES_ENCODERS and width == 1:
            return (length,), ""
        return (length, width), ""
    positions = getattr(config, "max_source_positions", None)
    if main == "input_features" and mels and positions and kind not in ("speech_to_text",):
        return (int(mels), 2 * int(positions)), ""
    return None, f"(100, {mels or 80}), frames and bands"


def _layout(model: nn.Module, config: Any, main: str) -> Layout:
    tokens = class_tokens(model)
    pooled = (
        getattr(config, "model_type", "") == "dinov3_convnext"
    )  # the mean over positions stands before them
    distilled = any(name.endswith("distillation_token") for name, _ in model.named_parameters())
    registers = int(getattr(config, "num_register_tokens", None) or 0)
    return Layout(
        prefix=tokens + registers + int(distilled) + int(pooled),
        suffix=int(getattr(config, "num_detection_tokens", None) or 0),
        class_token=tokens > 0,
        channels_last=main == "past_values" or getattr(config, "model_type", "") in _MAPS_LAST,
    )


def _forward(
    model: nn.Module,
    config: Any,
    main: str,
    pool: str,
    pooler: bool,
    shape: tuple[int, ...] | None,
    layout: Layout,
    *,
    reverse: bool,
) -> Callable[[Tensor], Any]:
    """x -> pooled features for pool='default', else last_hidden_state for `pool_features`.

    Channels come as red, green, blue, and `reverse` turns them round.
    """
    accepted = inspect.signature(model.forward).parameters
    kind = getattr(config, "model_type", "")
    extra: dict[str, Any] = {"return_dict": True} if "return_dict" in accepted else {}
    size = _pair(getattr(config, "image_size", None))
    if "interpolate_pos_encoding" in accepted and size and shape and tuple(shape[-2:]) != size:
        extra["interpolate_pos_encoding"] = True
    if kind == "vjepa2" and "skip_predictor" in accepted:
        extra["skip_predictor"] = True

    def run(x: Tensor) -> Any:
        if kind in _SERIES_ENCODERS:
            return _series(model, config, x)
        if reverse:
            x = x.flip(1)
        if kind in _VIDEO:
            x = x.transpose(1, 2)
        if kind == "timesfm":
            padding = torch.zeros(x.shape, dtype=torch.long, device=x.device)
            return model(x, past_values_padding=padding, freq=torch.zeros_like(padding[:, :1]))
        return model(**{main: x}, **extra)

    def features(x: Tensor) -> Any:
        output = run(x)
        pooled = getattr(output, "pooler_output", None) if pooler else None
        hidden = getattr(output, "last_hidden_state", None)
        if pool != "default":
            if (
                isinstance(hidden, Tensor)
                and hidden.ndim == 4
                and main == "past_values"
                and pool != "flatten"
            ):
                hidden = hidden[:, :, layout.prefix :]  # [B, channels, tokens, C]
            return hidden
        if isinstance(pooled, Tensor):
            return pooled
        if not isinstance(hidden, Tensor):
            return output
        if main == "past_values" and hidden.ndim == 4:
            return (hidden[:, :, 0] if layout.class_token else hidden.mean(2)).flatten(1)
        if hidden.ndim < 3:
            return hidden
        first = hidden.ndim == 3 and layout.class_token
        return pool_features(hidden, "cls" if first else "avg", layout, kind)

    return features


def _series(model: Any, config: Any, x: Tensor) -> Any:
    """The encoder of a probabilistic time-series transformer, every value observed and no covariates."""
    mask = torch.ones_like(x)
    times = x.new_zeros(*x.shape[:2], config.num_time_features)
    static = {}
    if config.num_static_categorical_features:
        static["static_categorical_features"] = torch.zeros(
            len(x), config.num_static_categorical_features, dtype=torch.long, device=x.device
        )
    if config.num_static_real_features:
        static["static_real_features"] = x.new_zeros(len(x), config.num_static_real_features)
    inputs, *_ = model.create_network_inputs(
        past_values=x, past_time_features=times, past_observed_mask=mask, **static
    )
    return model.encoder(inputs_embeds=inputs[:, : config.context_length], return_dict=True)
