"""From what the user names or holds to an Encoder."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from synbench_fast import plugins
from synbench_fast.checks import as_numbers, check_pool, check_shape
from synbench_fast.encoders import registry
from synbench_fast.encoders.base import Encoder, EncoderInfo, Loaded, Request
from synbench_fast.encoders.lists import list_names
from synbench_fast.encoders.weights import module_sha256, parameter_count
from synbench_fast.errors import SynbenchError, suggest
from synbench_fast.printable import distinct
from synbench_fast.runtime.global_state import known_state, seeded

__all__ = ["check_encoder_name", "load_encoder", "object_names", "spec_for"]


@known_state()
def load_encoder(
    encoder: str | nn.Module | Callable[[Tensor], Tensor],
    *,
    name: str | None = None,
    input_shape: Sequence[int] | None = None,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
    pool: str | None = None,
    checkpoint: str | None = None,
    random_init: bool = False,
    seed: int = 0,
    trust_remote_code: bool = False,
    device: torch.device | str | None = None,
    dtype: torch.dtype | None = None,
) -> Encoder:
    """An encoder ready to score.

    Args:
        encoder: a spec (`timm:NAME`, `torchvision:NAME[/WEIGHTS]`, `hf:NAME_OR_PATH`, `open_clip:NAME[/TAG]`,
            `onnx:FILE`, `torchscript:FILE`, `python:MODULE:FACTORY`, `builtin:identity|linear|conv[?dim=N]`), a
            torch.nn.Module, or any callable x [B, *input_shape] -> [B, F]. A bound method of a Module
            (`model.encode_image`) brings its Module along. Models of the libraries lose their classification
            head; a Module or callable is taken as it is.
        name: what a Module or callable is called in results; default its class or function.
        input_shape: one input without the batch axis; default the encoder's own. Required where it has none.
        mean, std: normalisation per entry of the input's first axis, in units of images in [0, 1]; one value
            counts for all. Default the encoder's own constants; mean=[0], std=[1] switches them off.
        pool: 'default' (the model's own), or 'avg', 'max', 'cls', 'flatten' over its tokens or maps.
        checkpoint: local weights, safetensors or a torch.save of a state dict; read without executing code. FILE#KEY
            chooses out of a file that has several sets of weights.
        random_init: no download: weights drawn from `seed`, the global random state stays as it is.
        trust_remote_code: let a hub model bring its own Python code (hf), or run a TorchScript archive, which is
            code.
        device, dtype: where and in what it runs; default cpu and float32, for a Module wherever it is. A Module
            that the caller holds is moved only while it scores (Encoder.scoring) and is given back unchanged.

    Raises:
        SynbenchError: one line for every mistake in these arguments, for weights that cannot be fetched, and for
            an encoder whose output is not [B, F].
    """
    shape = None if input_shape is None else check_shape(input_shape)
    pooling = "default" if pool is None else check_pool(pool)
    if checkpoint is not None and random_init:
        raise SynbenchError(
            f"checkpoint: expected either checkpoint or random_init, got {checkpoint} and random_init"
        )
    request = Request(
        spec=_spec_of(encoder, name),
        name="",
        input_shape=shape,
        pool=pooling,
        checkpoint=None if checkpoint is None else str(checkpoint),
        random_init=random_init,
        seed=seed,
        trust_remote_code=trust_remote_code,
    )
    with seeded(seed):
        if isinstance(encoder, str):
            prefix, loaded = _from_spec(request)
        else:
            prefix, loaded = _from_object(encoder, request)

    shape = shape or loaded.input_shape
    if shape is None:
        raise SynbenchError(
            f"input_shape: expected the shape of one input for {request.spec}, which has none of its own, "
            f"got None; pass --input-shape (input_shape=), such as {loaded.shape_hint}"
        )
    means, stds = _normalisation(mean, std, loaded, shape, request.spec)
    info = _info(request, prefix, loaded, shape, means, stds)
    result = Encoder(loaded, info, *_home(loaded)).to(device, dtype)
    if loaded.module is not None or loaded.place is not None:
        with seeded(seed):  # layers may draw their weights in the first forward pass
            result.dry_run()
    return result


def _from_spec(request: Request) -> tuple[str, Loaded]:
    spec = request.spec
    prefix, colon, rest = spec.partition(":")
    if not colon:
        raise SynbenchError(f"encoder: expected SOURCE:NAME, got {spec!r}{spec_for(spec)}")
    one = registry.source(prefix, spec)
    if not rest:
        raise SynbenchError(f"encoder: expected {one.usage}, got {spec!r}")
    name, options = rest, {}
    if "?" in one.usage:
        name, _, query = rest.partition("?")
        options = spec_options(query, one.usage, spec)
    return prefix, one.loader()(replace(request, name=name, options=options))


def _from_object(encoder: Any, request: Request) -> tuple[str, Loaded]:
    if isinstance(encoder, type):
        raise SynbenchError(f"encoder: expected an instance, got the class {encoder.__name__}")
    module = encoder if isinstance(encoder, nn.Module) else getattr(encoder, "__self__", None)
    if not isinstance(encoder, nn.Module) and not callable(encoder):
        raise SynbenchError(
            f"encoder: expected a spec such as 'timm:resnet18', a torch.nn.Module or a callable, "
            f"got {type(encoder).__name__}"
        )
    request.refuse("random_init", "checkpoint", reason="an encoder passed from Python brings its own weights")
    if request.input_shape is None:
        raise SynbenchError(
            f"input_shape: expected the shape of one input for {request.spec}, got None; "
            f"pass input_shape=, such as (3, 224, 224)"
        )
    held = module if isinstance(module, nn.Module) else None
    return request.spec.partition(":")[0], Loaded(
        forward=encoder,
        module=held,
        name=request.spec.partition(":")[2],
        input_shape=None,
        borrowed=held is not None,
    )


def _spec_of(encoder: Any, name: str | None) -> str:
    """The spec, or what results call a Module or callable: by `name`, else by its class or function."""
    if name is not None:
        name = check_encoder_name(name)
    if isinstance(encoder, str):
        if name is not None:
            raise SynbenchError(f"name: expected none for {encoder}, whose spec is its name, got {name!r}")
        return encoder
    if isinstance(encoder, nn.Module):
        return f"module:{name or type(encoder).__name__}"
    kind = "module" if isinstance(getattr(encoder, "__self__", None), nn.Module) else "callable"
    return f"{kind}:{name or getattr(encoder, '__qualname__', type(encoder).__name__)}"


def check_encoder_name(name: Any) -> str:
    """`name` if results can call an encoder so: some printable text."""
    if not isinstance(name, str) or not name.strip() or not name.isprintable() or len(name) > 200:
        raise SynbenchError(f"name: expected printable text of 1 to 200 characters, got {name!r:.60}")
    return name


def object_names(encoders: Sequence[Any]) -> list[str | None]:
    """Names that tell several Modules and callables apart: None where the one of `load_encoder` does so already."""
    own = [_spec_of(one, None) for one in encoders]
    return [
        new.partition(":")[2] if new != old and not isinstance(one, str) else None
        for one, old, new in zip(encoders, own, distinct(own), strict=True)
    ]


def spec_for(name: str) -> str:
    """A suggestion for a spec that lacks its source: what a file is, the same name in a source, the nearest one."""
    usages = {
        ".onnx": f"onnx:{name}",
        ".ts": f"torchscript:{name}",
        ".torchscript": f"torchscript:{name}",
        ".py": f"python:{name}:FACTORY",
        ".txt": f"--models {name}",
    }
    if (usage := usages.get(os.path.splitext(name)[1])) is not None:
        return f", did you mean {usage}?"
    if name in list_names():
        return f", did you mean --models {name}?"
    if os.path.isfile(os.path.join(name, "config.json")):
        return f", did you mean hf:{name}?"
    specs = registry.list_encoders()
    exact = [spec for spec in specs if spec.partition(":")[2] == name]
    if exact:
        return f", did you mean {exact[0]}?"
    near = suggest(name, {spec.partition(":")[2] for spec in specs})
    if not near:
        return f"; sources are {', '.join(dict.fromkeys([*registry.REGISTRY, *plugins.names('encoders')]))}"
    bare = near.removeprefix(", did you mean ").removesuffix("?")
    return f", did you mean {next(spec for spec in specs if spec.partition(':')[2] == bare)}?"


def spec_options(query: str, usage: str, spec: str) -> dict[str, str]:
    """The options behind the question mark of a spec."""
    allowed = usage.partition("?")[2].partition("=")[0]
    options = {}
    for item in filter(None, query.split("&")):
        key, equals, value = item.partition("=")
        if key != allowed or not equals or not value:
            raise SynbenchError(
                f"encoder: expected {usage}, got {item!r} in {spec!r}{suggest(key, [allowed])}"
            )
        if key in options:
            raise SynbenchError(f"encoder: expected {key} once, got it twice in {spec!r}")
        options[key] = value
    return options


def _normalisation(
    mean: Sequence[float] | None,
    std: Sequence[float] | None,
    loaded: Loaded,
    shape: tuple[int, ...],
    spec: str,
) -> tuple[tuple[float, ...] | None, tuple[float, ...] | None]:
    if all(one is None for one in (mean, std, loaded.mean, loaded.std)):
        return None, None
    own_mean, own_std = loaded.mean or (0.0,), loaded.std or (1.0,)
    for argument, given, own in (("mean", mean, own_mean), ("std", std, own_std)):
        if given is None and len(own) not in (1, shape[0]):
            raise SynbenchError(
                f"{argument}: expected {shape[0]} values for input_shape {shape}, but {spec} "
                f"brings {len(own)}; pass {argument}="
            )
    return (
        _channels("mean", own_mean if mean is None else mean, shape),
        _channels("std", own_std if std is None else std, shape),
    )


def _channels(argument: str, values: Sequence[float], shape: tuple[int, ...]) -> tuple[float, ...]:
    try:
        numbers = as_numbers(values, argument)
    except SynbenchError:
        numbers = ()
    if len(numbers) not in (1, shape[0]) or not all(math.isfinite(n) for n in numbers):
        counts = "1 finite value" if shape[0] == 1 else f"1 or {shape[0]} finite values"
        raise SynbenchError(f"{argument}: expected {counts} for input_shape {shape}, got {values!r}")
    if argument == "std" and min(numbers) <= 0:
        raise SynbenchError(f"std: expected positive values, got {values!r}")
    return numbers * shape[0] if len(numbers) == 1 and len(shape) > 1 else numbers


def _info(
    request: Request,
    source: str,
    loaded: Loaded,
    shape: tuple[int, ...],
    mean: tuple[float, ...] | None,
    std: tuple[float, ...] | None,
) -> EncoderInfo:
    """What was loaded."""
    module, sha = loaded.module, loaded.weights_sha256
    if sha is None:
        sha = module_sha256(module) if module is not None else ""
    return EncoderInfo(
        spec=request.spec,
        source=source,
        name=loaded.name,
        revision=loaded.revision,
        weights_sha256=sha,
        parameters=parameter_count(module)
        if module is not None and loaded.parameters is None
        else loaded.parameters,
        feature_dim=None,
        input_shape=shape,
        mean=mean,
        std=std,
        pool=request.pool,
        random_init=loaded.random_init,
        checkpoint=request.checkpoint,
    )


def _home(loaded: Loaded) -> tuple[torch.device, torch.dtype]:
    """Where a caller's module is and what it computes in; the CPU and float32 for all else."""
    if loaded.module is not None and loaded.borrowed:
        for one in loaded.module.parameters():
            if one.is_floating_point():
                return one.device, one.dtype
    return torch.device("cpu"), torch.float32
