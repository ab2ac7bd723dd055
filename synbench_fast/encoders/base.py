"""What every source of encoders shares: the request, the loaded model, pooling and the Encoder itself."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor, nn

from synbench_fast.checks import POOLS
from synbench_fast.errors import SynbenchError, first_line
from synbench_fast.runtime.global_state import kept_state, known_state

__all__ = ["Encoder", "EncoderInfo", "Layout", "Loaded", "Request", "pool_features"]


@dataclass(frozen=True)
class EncoderInfo:
    """What was scored: enough to find the same encoder again.

    `feature_dim` is None until it is known (a callable's first batch). `weights_sha256` is `module_sha256` of
    the weights as they were loaded, after the head was removed, for onnx and torchscript that of the files; it
    is '' for a callable, whose weights cannot be seen, and `parameters` is None where they cannot be counted. `input_shape` is one input without the batch axis; `mean` and `std` are subtracted and
    divided by, per entry of its first axis, before the encoder sees the input (None: no normalisation).
    """

    spec: str
    source: str
    name: str
    revision: str | None
    weights_sha256: str
    parameters: int | None
    feature_dim: int | None
    input_shape: tuple[int, ...]
    mean: tuple[float, ...] | None
    std: tuple[float, ...] | None
    pool: str | None
    random_init: bool
    checkpoint: str | None


@dataclass(frozen=True)
class Request:
    """What the user asked a source for. `name` is the spec without its prefix and options."""

    spec: str
    name: str
    options: Mapping[str, str] = field(default_factory=dict)
    input_shape: tuple[int, ...] | None = None
    pool: str = "default"
    checkpoint: str | None = None
    random_init: bool = False
    seed: int = 0
    trust_remote_code: bool = False

    @property
    def pretrained(self) -> bool:
        """Whether the library's published weights are wanted."""
        return not self.random_init and self.checkpoint is None

    def refuse(self, *arguments: str, reason: str) -> None:
        """One-line error if an argument was given that this source cannot honour."""
        if "random_init" in arguments and self.random_init:
            raise SynbenchError(f"random_init: expected False for {self.spec}, got True; {reason}")
        if "checkpoint" in arguments and self.checkpoint is not None:
            raise SynbenchError(f"checkpoint: expected None for {self.spec}, got {self.checkpoint}; {reason}")


@dataclass(frozen=True)
class Layout:
    """How to read an output that is not [B, F] yet.

    prefix, suffix: leading and trailing tokens that are not patches (class token, registers; queries of a detector).
    class_token: whether the first of them is a class token; None if that is not known.
    """

    prefix: int = 0
    suffix: int = 0
    class_token: bool | None = None
    channels_last: bool = False


@dataclass
class Loaded:
    """What a source hands back; `forward` maps a batch to [B, F], or to what `layout` lets `pool` reduce."""

    forward: Callable[[Tensor], Any]
    module: nn.Module | None
    name: str
    input_shape: tuple[int, ...] | None
    shape_hint: str = "(3, 224, 224)"
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None
    revision: str | None = None
    layout: Layout = Layout()
    borrowed: bool = False
    random_init: bool = False
    weights_sha256: str | None = None
    parameters: int | None = None
    place: Callable[[torch.device], None] | None = None


_CLASS_TOKENS = ("cls_token", "class_embedding")


def class_tokens(module: nn.Module) -> int:
    """How many class tokens a module of a library learns, by the names that the libraries give them.

    A number behind the name is that of a stage. What a head learns is a query that pools the tokens, and none of them.
    """
    for name, parameter in module.named_parameters():
        *parts, last = name.split(".")
        if last.rstrip("0123456789") in _CLASS_TOKENS and "head" not in parts:
            return parameter.numel() // parameter.shape[-1]
    return 0


def checked_device(device: torch.device | str) -> torch.device:
    """`device` as torch knows it, or a one-line error if there is none such here."""
    try:
        wanted = torch.device(device)
    except (RuntimeError, TypeError) as error:
        raise SynbenchError(
            f"device: expected one such as 'cpu', 'cuda' or 'cuda:1', got {device!r}"
        ) from error
    if wanted.type == "cuda" and (wanted.index or 0) >= torch.cuda.device_count():
        raise SynbenchError(
            f"device: expected one of the {torch.cuda.device_count()} CUDA devices here, got {str(wanted)!r}"
        )
    return wanted


def pool_features(output: Tensor, pool: str, layout: Layout, spec: str) -> Tensor:
    """Reduce tokens [B, T, C] or maps [B, C, *space] ([B, *space, C] if channels_last) to [B, F].

    avg, max: over patch tokens (without prefix and suffix) or positions; cls: the first token; flatten: all.
    """
    if pool == "flatten" and output.ndim > 1:
        return output.flatten(1)
    if output.ndim < 3:
        raise SynbenchError(
            f"pool: expected 'default' for {spec}, whose output {list(output.shape)} is already pooled, "
            f"got {pool!r}"
        )
    if pool == "cls":
        if output.ndim != 3 or layout.class_token is False:
            raise SynbenchError(
                f"pool: expected 'avg', 'max' or 'flatten' for {spec}, which has no class token, got 'cls'"
            )
        return output[:, 0]
    if output.ndim == 3:
        end = output.shape[1] - layout.suffix
        if layout.prefix >= end:
            raise SynbenchError(
                f"pool: expected 'default', 'cls' or 'flatten' for {spec}, whose output {list(output.shape)} has no "
                f"tokens of patches, got {pool!r}"
            )
        values = output[:, layout.prefix : end]
        axes: tuple[int, ...] = (1,)
    else:
        values = output
        axes = tuple(range(1, output.ndim - 1)) if layout.channels_last else tuple(range(2, output.ndim))
    return values.mean(axes) if pool == "avg" else values.amax(axes)


def check_rows(spec: str, shape: Sequence[int], batch: int) -> None:
    """SynbenchError unless an output of `shape` has one row for each of the `batch` inputs of a forward pass.

    It is asked before anything is pooled, joined or cut: rows that belong to no input must not pass for features.
    """
    if not shape or shape[0] != batch:
        raise SynbenchError(
            f"encoder {spec}: expected output [{batch}, F] for a batch of {batch}, got {list(shape)}"
        )


def is_out_of_memory(error: BaseException) -> bool:
    """Whether it failed for lack of memory, on a GPU or on the host, or asked for more bytes than can be counted."""
    known = ("out of memory", "can't allocate memory", "not enough memory", "size calculation overflowed")
    text = str(error).lower()
    return isinstance(error, MemoryError | torch.OutOfMemoryError) or any(words in text for words in known)


class Encoder:
    """A batch x [B, *input_shape], already normalised with `info.mean` and `info.std`, to features [B, F].

    Images live in pixel units, about [0, 1], before normalisation. The forward pass runs without gradients
    and in eval mode. The features are checked for being a floating [B, F] tensor, which costs no
    synchronisation; their values are not looked at.

    `with encoder.scoring():` wraps a whole run: the module goes to eval mode and to the encoder's device and
    dtype, and on leaving, the training flag of every submodule and, for a module that belongs to the caller,
    the very tensors it held before are put back. Global state such as autocast, the default dtype or the random
    generators is known inside (see `global_state`), every forward pass leaves it so, and the caller's is put
    back too. A call outside it does all that for itself. `device` and `dtype` say what the forward pass
    expects; it gets a copy of x there, which it may keep or change.
    """

    def __init__(self, loaded: Loaded, info: EncoderInfo, device: torch.device, dtype: torch.dtype) -> None:
        self.info = info
        self.module = loaded.module
        self.device = device
        self.dtype = dtype
        self._forward = loaded.forward
        self._layout = loaded.layout
        self._pool = info.pool or "default"
        self._borrowed = loaded.borrowed
        self._place = loaded.place
        self._inference = (
            self._borrowed
            and self.module is not None
            and any(one.is_inference() for one in self.module.parameters())
        )
        self._active = False
        self._loaded: _Tensors | None = None  # the weights as they were before `recast`
        self.keeps_loaded = False  # whether a later run starts from them again
        # What a caller's module is to be moved to; None leaves it as it is, mixed precision included.
        self._onto: tuple[torch.device | None, torch.dtype | None] = (None, None)
        if not self._borrowed:
            self.to(device, dtype)
        if self.module is not None and not self._borrowed:
            self.module.eval()

    def __repr__(self) -> str:
        info = self.info
        return f"Encoder({info.spec!r}, input_shape={info.input_shape}, feature_dim={info.feature_dim})"

    def to(self, device: torch.device | str | None = None, dtype: torch.dtype | None = None) -> Encoder:
        """Run on `device` in `dtype` from now on; a caller's module moves only while `scoring()` lasts."""
        if dtype is not None:
            if not dtype.is_floating_point:
                raise SynbenchError(f"dtype: expected a floating-point dtype, got {dtype}")
            self.dtype = dtype
        if device is not None:
            wanted = checked_device(device)
            if self._place is not None:
                self._place(wanted)
            self.device = wanted
        if self._borrowed:
            self._onto = (self._onto[0] if device is None else self.device, dtype or self._onto[1])
            if self._active:
                self._move()
        elif self.module is not None:
            _cast(self.module, self.device, self.dtype)
        return self

    def normalisation(
        self, dtype: torch.dtype, device: torch.device | str, *, in_place: bool = False
    ) -> Callable[[Tensor], Tensor]:
        """A function of inputs [B, *input_shape] before normalisation to (x - mean) / std, for this dtype and device.

        `in_place`: the inputs are overwritten. The constants are made here, because a copy to a GPU would make every call wait for it.
        """
        channels = (-1, *[1] * (len(self.info.input_shape) - 1))

        def constant(values: Sequence[float] | None) -> Tensor | None:
            return None if values is None else torch.tensor(values, dtype=dtype, device=device).view(channels)

        mean, std = constant(self.info.mean), constant(self.info.std)

        def normalised(x: Tensor) -> Tensor:
            out = x if in_place else None
            x = x if mean is None else torch.sub(x, mean, out=out)
            return x if std is None else torch.div(x, std, out=out)

        return normalised

    @property
    def borrowed(self) -> bool:
        """Whether the module is the caller's."""
        return self._borrowed

    def recast(self, dtype: torch.dtype, *, channels_last: bool = False) -> None:
        """Run in `dtype` from now on, inside `scoring()`: converted from the weights as they were loaded.

        Those stay in memory for `in_float32` and for another `recast`, until `drop_loaded`. `channels_last`
        lays the weights of convolutions out that way. A callable's weights cannot be seen, so only its input
        changes.
        """
        self.dtype = dtype
        if self.module is None:
            return
        if self._loaded is None:
            self._loaded = _tensors(self.module)
        _restore_tensors(*self._loaded)
        _cast(self.module, self.device, dtype)
        if channels_last:
            self.module.to(memory_format=torch.channels_last)

    @contextmanager
    def in_float32(self) -> Iterator[Encoder]:
        """Inside: the same encoder in float32, from the weights as they were loaded; for modules only."""
        assert self.module is not None
        present, dtype = _tensors(self.module), self.dtype
        if self._loaded is not None:
            _restore_tensors(*self._loaded)
        try:
            self.dtype = torch.float32
            _cast(self.module, self.device, torch.float32)
            yield self
        finally:
            _restore_tensors(*present)
            self.dtype = dtype

    def drop_loaded(self) -> None:
        """Release what `recast` kept, unless it is the caller's or a later run needs it."""
        if not self._borrowed and not self.keeps_loaded:
            self._loaded = None

    def _move(self) -> None:
        device, dtype = self._onto
        if self.module is not None and (device is not None or dtype is not None):
            _cast(self.module, device, dtype)

    @contextmanager
    def scoring(self) -> Iterator[Encoder]:
        """Eval mode, device and dtype for the duration of a run; see the class. Nested use is free."""
        if self._active:
            yield self
            return
        with ExitStack() as stack:
            stack.enter_context(known_state())
            if self._borrowed:  # weights made in inference mode are moved there too
                stack.enter_context(torch.inference_mode(self._inference))
            if self.module is not None:
                stack.callback(
                    _restore_modes, [(m, getattr(m, "training", None)) for m in self.module.modules()]
                )
                if self._borrowed:
                    self._loaded = _tensors(self.module)
                    stack.callback(setattr, self, "_loaded", None)
                    stack.callback(_restore_tensors, *self._loaded)
                    self._move()
                self.module.eval()
            self._active = True
            stack.callback(setattr, self, "_active", False)
            yield self

    def __call__(self, x: Tensor) -> Tensor:
        """x [B, *input_shape] -> features [B, F]; SynbenchError if x or the output has another form."""
        return self._run(x, self._forward)

    def given(self, x: Tensor) -> Tensor:
        """As a call, but without a copy where x has the encoder's device and dtype: the encoder may keep or change it."""
        return self._run(x, self._forward, copy=False)

    def differentiable(self, x: Tensor) -> Tensor:
        """As a call, inside `scoring()`, but gradients reach x [B, *input_shape], which the encoder gets as it is."""
        with kept_state():
            return self._checked(self._forward(x), len(x))

    def compiled(self) -> Callable[[Tensor], Tensor]:
        """The encoder with a forward pass compiled by torch at its first call, for one batch size."""
        forward = torch.compile(self._forward, dynamic=False)
        return lambda x: self._run(x, forward)

    def _run(self, x: Tensor, forward: Callable[[Tensor], Any], copy: bool = True) -> Tensor:
        if not self._active:
            with self.scoring():
                return self._run(x, forward, copy)
        info = self.info
        if not isinstance(x, Tensor):
            raise SynbenchError(f"x: expected a Tensor, got {type(x).__name__}")
        if tuple(x.shape[1:]) != info.input_shape or x.ndim != len(info.input_shape) + 1:
            expected = ", ".join(["B", *map(str, info.input_shape)])
            raise SynbenchError(f"x: expected [{expected}] for {info.spec}, got {list(x.shape)}")
        x = x.to(self.device, self.dtype, copy=copy)  # a copy is its own: the encoder may keep or change it
        # Not inference mode, but for weights that were made there: an encoder may differentiate inside its forward
        # pass, and what it caches there may be used in its later training. All sources run in the same mode, so that
        # one encoder has one score.
        with torch.inference_mode(self._inference), torch.no_grad(), kept_state():
            output = self._first(x) if info.feature_dim is None else forward(x)
            return self._checked(output, len(x)).detach()

    def _first(self, x: Tensor) -> Any:
        """The forward pass that shows whether the encoder and this input fit together at all."""
        try:
            return self._forward(x)
        except SynbenchError:
            raise
        except Exception as error:
            if is_out_of_memory(error):
                raise
            raise SynbenchError(
                f"encoder {self.info.spec}: forward failed on an input of shape {list(x.shape)} "
                f"({first_line(error)}); is input_shape={self.info.input_shape} right?"
            ) from error

    def _checked(self, made: Any, batch: int) -> Tensor:
        spec = self.info.spec
        if not isinstance(made, Tensor):
            raise SynbenchError(
                f"encoder {spec}: expected a Tensor [B, F] as output, got {type(made).__name__}"
                + (
                    "; pass a function that returns the Tensor in it"
                    if isinstance(made, tuple | list | Mapping)
                    else ""
                )
            )
        output: Tensor = made
        narrow = output.is_floating_point() and output.dtype.itemsize < 2
        if output.is_nested or output.layout is not torch.strided or output.is_meta or narrow:
            layout = "nested" if output.is_nested else str(output.layout)
            raise SynbenchError(
                f"encoder {spec}: expected a dense Tensor of float16 or wider as output, got "
                f"{output.dtype}, {layout}, on {output.device}"
            )
        check_rows(spec, output.shape, batch)
        if self._pool != "default":
            output = pool_features(output, self._pool, self._layout, spec)
        elif output.ndim > 3 and all(size == 1 for size in output.shape[2:]):
            output = output.flatten(1)
        shape = list(output.shape)
        if output.ndim != 2:
            raise SynbenchError(
                f"encoder {spec}: expected output [B, F], got {shape}"
                + (
                    f"; pass --pool (pool=) {', '.join(POOLS[1:-1])} or {POOLS[-1]}"
                    if output.ndim > 2
                    else ""
                )
            )
        if shape[1] == 0:
            raise SynbenchError(f"encoder {spec}: expected at least one feature, got output {shape}")
        if not output.is_floating_point():
            raise SynbenchError(f"encoder {spec}: expected floating-point features, got {output.dtype}")
        if self.info.feature_dim is None:
            self.info = replace(self.info, feature_dim=shape[1])
        elif shape[1] != self.info.feature_dim:
            raise SynbenchError(
                f"encoder {spec}: expected {self.info.feature_dim} features as in earlier batches, "
                f"got {shape[1]}"
            )
        return output

    def dry_run(self) -> Encoder:
        """Two zero inputs through the encoder: sets `info.feature_dim`, raises what a run would raise."""
        self.info = replace(self.info, feature_dim=None)
        self(torch.zeros(2, *self.info.input_shape, dtype=self.dtype, device=self.device))
        return self


def _cast(module: nn.Module, device: torch.device | None, dtype: torch.dtype | None) -> None:
    """`module.to(device, dtype)`, where complex weights stay complex: `to` drops their imaginary parts.

    They become complex128 for float64 and complex64 for the rest, as torch has no other usable kind.
    """
    wide = torch.complex128 if dtype is torch.float64 else torch.complex64

    def convert(one: Tensor) -> Tensor:
        return one.to(device, wide if one.is_complex() else dtype if one.is_floating_point() else one.dtype)

    if dtype is None or not any(one.is_complex() for one in (*module.parameters(), *module.buffers())):
        module.to(device=device, dtype=dtype)
    else:
        module._apply(convert)  # type: ignore[no-untyped-call]


_Held = tuple[nn.Parameter, Tensor, Tensor | None]
_Tensors = tuple[list[_Held], list[tuple[nn.Module, str, Tensor | None]]]


def _tensors(module: nn.Module) -> _Tensors:
    """What the parameters and buffers hold; gradients are set aside, a move would convert them in place."""
    parameters = [(p, p.data, p.grad) for p in module.parameters()]
    for parameter in module.parameters():
        parameter.grad = None
    buffers = [(m, name, b) for m in module.modules() for name, b in m._buffers.items()]
    return parameters, buffers


def _restore_tensors(parameters: list[_Held], buffers: list[tuple[nn.Module, str, Tensor | None]]) -> None:
    """Put the tensors themselves back, so that a trip through another dtype loses nothing."""
    for parameter, data, grad in parameters:
        parameter.data = data
        parameter.grad = grad
    for module, name, buffer in buffers:
        module._buffers[name] = buffer


def _restore_modes(modes: list[tuple[nn.Module, bool | None]]) -> None:
    for module, training in modes:
        if training is not None:
            module.training = training
