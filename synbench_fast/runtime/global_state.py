"""The global state of torch, NumPy and the process: known while an encoder is loaded and run, put back afterwards.

Loading and running an encoder is running somebody's code. What that code sets for the whole process (a default dtype,
autocast, the precision of products, threads, the current directory, ...) must not decide what it scores itself, nor
what the next encoder scores. So every encoder is loaded and run under the same values, those that torch starts with,
and each forward pass leaves them as it found them:

    with own_registrations(), known_state(threads):   # one encoder, from loading to its result
        ...
        with kept_state():                      # one forward pass
            ...

Out of reach is what has no setting to put back: functions of a library that an encoder replaces, options of other
libraries, threads it leaves running, and generators that hold `torch.no_grad` open: when they are collected, after the
run, they put back the mode in which they were entered, which was without gradients. Random numbers go on from batch to
batch: an encoder that draws some is no function of its sample.
"""

from __future__ import annotations

import gc
import os
import random
import signal
import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from functools import partial
from types import ModuleType
from typing import Any, NamedTuple

import numpy as np
import torch
from torch.nn.modules import module as torch_module
from torch.utils import _device as torch_device

__all__ = ["kept_state", "known_state", "own_registrations", "seeded", "tf32_allowed"]

# Kinds of devices that autocast is switched off for, and the dtype it takes there unless told otherwise.
AUTOCAST = {"cpu": torch.bfloat16, "cuda": torch.float16}
if torch.backends.mps.is_built():
    AUTOCAST["mps"] = torch.float16
_KEEP: Any = object()  # for a setting that has no value of its own inside: the caller's stays


class _Setting(NamedTuple):
    """One piece of global state. `known` is its value inside `known_state`."""

    read: Callable[[], Any]
    write: Callable[[Any], Any]
    known: Any = _KEEP


def _read_autocast() -> Any:
    kinds = tuple((torch.is_autocast_enabled(kind), torch.get_autocast_dtype(kind)) for kind in AUTOCAST)
    depth = torch.autocast_increment_nesting() - 1
    torch.autocast_decrement_nesting()
    return kinds, torch.is_autocast_cache_enabled(), depth


def _write_autocast(value: Any) -> None:
    kinds, cached, depth = value
    for kind, (enabled, dtype) in zip(AUTOCAST, kinds, strict=True):
        torch.set_autocast_enabled(kind, enabled)
        torch.set_autocast_dtype(kind, dtype)
    torch.set_autocast_cache_enabled(cached)
    while (now := _read_autocast()[2]) != depth:
        torch.autocast_increment_nesting() if now < depth else torch.autocast_decrement_nesting()
    torch.clear_autocast_cache()  # older releases keep weights that were cast without gradients


_NO_AUTOCAST = (tuple((False, half) for half in AUTOCAST.values()), True, 0)


def _read_modes() -> Any:
    """What sees every call of torch in Python: the default device, and modes such as that of a `with torch.device`."""
    default = getattr(torch._GLOBAL_DEVICE_CONTEXT, "device_context", None)
    count = torch._C._len_torch_function_stack()
    modes = tuple(torch._C._get_function_stack_at(place) for place in range(count))
    return modes, default, torch_device.CURRENT_DEVICE


def _write_modes(value: Any) -> None:
    modes, default, current = value
    while torch._C._len_torch_function_stack():
        torch._C._pop_torch_function_stack()
    for mode in modes:
        torch._C._push_on_torch_function_stack(mode)
    torch._GLOBAL_DEVICE_CONTEXT.device_context = default
    torch_device.CURRENT_DEVICE = current


def _without_device(value: Any) -> Any:
    modes = value[0]
    return tuple(one for one in modes if not isinstance(one, torch_device.DeviceContext)), None, None


def _leave_dispatch_modes(depth: int) -> None:
    """Those that were entered meanwhile, such as a FakeTensorMode, are left."""
    while torch._C._len_torch_dispatch_stack() > depth:
        torch._C._pop_torch_dispatch_stack(None)


# Where newer releases keep the precision of float32 products: (backend, operation), the general ones first.
_PLACES = (
    ("generic", "all"), ("cuda", "all"), ("mkldnn", "all"),
    ("mkldnn", "conv"), ("mkldnn", "rnn"),
    ("cuda", "matmul"), ("cuda", "conv"), ("cuda", "rnn"), ("mkldnn", "matmul"),
)  # fmt: skip
_GENERAL = 5  # of these places the older switches leave alone
_precision: Any = getattr(torch._C, "_get_fp32_precision_getter", None)
_set_precision: Any = getattr(torch._C, "_set_fp32_precision_setter", None)
_OLDER: dict[Any, Any] = {}  # what `_allow_tf32` made of the newer switches: the older ones that go with it


def _older_switches() -> Any:
    return torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32


def _read_products() -> Any:
    """(older switches, newer switches) of the precision of products; the older ones are None where they are not known.

    Where there are newer ones the older are not asked: some releases warn of them.
    """
    if _precision is None:
        return _older_switches(), ()
    newer = tuple(_precision(*place) for place in _PLACES)
    return _OLDER.get(newer), newer


def _write_products(value: Any) -> None:
    older, newer = value
    with _without_advice():
        if older is not None:
            torch.set_float32_matmul_precision(older[0])
            torch._C._set_cudnn_allow_tf32(older[1])
    for place, wanted in zip(_PLACES, newer, strict=False):
        if _precision(*place) != wanted:
            _set_precision(*place, "none")  # what it inherits then may be what is wanted
        if _precision(*place) != wanted:
            _set_precision(*place, wanted)


@contextmanager
def _without_advice() -> Iterator[None]:
    """Some releases advise the newer switches, which is nothing that a caller could act on."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", ".*new API settings to control TF32", UserWarning)
        yield


def _allow_tf32(allowed: bool) -> None:
    if _precision is not None:
        for place in _PLACES[:_GENERAL]:
            if _precision(*place) != "none":
                _set_precision(*place, "none")
    older = "high" if allowed else "highest", allowed
    _write_products((older, ()))
    if _precision is not None:
        _OLDER[_read_products()[1]] = older


@contextmanager
def _tf32(allowed: bool) -> Iterator[None]:
    before = _read_products()[1]
    older = None
    # The older ones cannot be read where the caller's newer ones are such as they cannot express.
    with _without_advice(), suppress(RuntimeError):
        older = _older_switches()
    _allow_tf32(allowed)
    try:
        yield
    finally:
        _write_products((older, before))


def tf32_allowed(device: torch.device, allowed: bool) -> AbstractContextManager[None]:
    """On a GPU, matrix products and convolutions of float32 may use TF32 inside, or may not; as before after.

    The two older switches are used because every supported torch has them and its compiler reads them; torch
    with the newer ones follows, and those are put back too.
    """
    return _tf32(allowed) if device.type == "cuda" else nullcontext()


def _write_reduction(kind: str, value: Any) -> None:
    """Whether sums of half-precision products may be kept in half precision; newer releases have two answers."""
    write = getattr(torch._C, f"_set_cublas_allow_{kind}_reduced_precision_reduction")
    write(*value) if isinstance(value, tuple) else write(value)


def _write_environment(value: Any) -> None:
    """`value`: bytes of the names to bytes of the values, as the system holds them."""
    before = {os.fsdecode(name): os.fsdecode(one) for name, one in value.items()}
    for name in [one for one in os.environ if one not in before]:
        del os.environ[name]
    os.environ.update(before)


def _read_directory() -> str | None:
    try:
        return os.getcwd()
    except OSError:  # it was removed
        return None


def _write_directory(value: Any) -> None:
    if value is not None:
        os.chdir(value)


def _read_gpu() -> int | None:
    """The current one; None before there is any."""
    return torch.cuda.current_device() if torch.cuda.is_initialized() else None  # type: ignore[no-untyped-call]


def _write_gpu(value: Any) -> None:
    if value is not None:
        torch.cuda.set_device(value)


def _write_streams(value: Any) -> None:
    sys.stdout, sys.stderr = value


def _write_filters(value: Any) -> None:
    warnings.resetwarnings()
    warnings.filters.extend(value)  # type: ignore[attr-defined]


def _flag(name: str, known: Any, setter: str | None = None) -> list[_Setting]:
    """A setting of torch with these two functions, without the checks around `torch.backends`; [] where it has none."""
    read, write = (getattr(torch._C, one, None) for one in (f"_get_{name}", setter or f"_set_{name}"))
    return [] if read is None or write is None else [_Setting(read, write, known)]


# In this order they are read and written.
_SETTINGS = [
    _Setting(_read_modes, _write_modes, _without_device),
    _Setting(torch._C._len_torch_dispatch_stack, _leave_dispatch_modes),
    _Setting(_read_autocast, _write_autocast, _NO_AUTOCAST),
    _Setting(torch.is_grad_enabled, torch._C._set_grad_enabled, True),
    _Setting(torch.get_default_dtype, torch.set_default_dtype, torch.float32),
    _Setting(_read_products, _write_products),  # `known_state` has them set by `_tf32`
    *(
        _Setting(
            getattr(torch._C, f"_get_cublas_allow_{kind}_reduced_precision_reduction"),
            partial(_write_reduction, kind),
        )
        for kind in ("fp16", "bf16")
    ),
    _Setting(
        lambda: (
            torch.are_deterministic_algorithms_enabled(),
            torch.is_deterministic_algorithms_warn_only_enabled(),
        ),
        lambda value: torch.use_deterministic_algorithms(value[0], warn_only=value[1]),
        (False, False),
    ),
    _Setting(
        lambda: (torch.is_anomaly_enabled(), torch.is_anomaly_check_nan_enabled()),
        lambda value: torch.set_anomaly_enabled(*value),
        (False, True),
    ),
    # With these a module's conversion would leave its caller other tensors than it came with.
    *(
        _Setting(
            getattr(torch.__future__, f"get_{one}_module_params_on_conversion"),
            getattr(torch.__future__, f"set_{one}_module_params_on_conversion"),
            False,
        )
        for one in ("overwrite", "swap")
    ),
    *_flag("mkldnn_enabled", True),
    *_flag("mkldnn_deterministic", False),
    *_flag("nnpack_enabled", True),
    *_flag("cudnn_enabled", True),
    *_flag("cudnn_benchmark", False),
    *_flag("cudnn_deterministic", False),
    *_flag("cublas_allow_fp16_accumulation", False),
    *_flag("flash_sdp_enabled", True, "_set_sdp_use_flash"),
    *_flag("mem_efficient_sdp_enabled", True, "_set_sdp_use_mem_efficient"),
    *_flag("cudnn_sdp_enabled", True, "_set_sdp_use_cudnn"),
    *_flag("math_sdp_enabled", True, "_set_sdp_use_math"),
    *_flag("math_sdp_allow_fp16_bf16_reduction", False),
    *_flag("linalg_preferred_backend", _KEEP),
    *_flag("qengine", _KEEP),
    _Setting(torch.backends.mha.get_fastpath_enabled, torch.backends.mha.set_fastpath_enabled, True),
    # Torch does not tell; Python's own numbers show what the processor does with the smallest ones.
    _Setting(lambda: sys.float_info.min / 2 == 0, torch.set_flush_denormal, False),
    _Setting(torch.get_num_threads, torch.set_num_threads),
    _Setting(_read_gpu, _write_gpu),
    _Setting(
        np.geterr,
        lambda value: np.seterr(**value),
        {"divide": "warn", "over": "warn", "under": "ignore", "invalid": "warn"},
    ),
    _Setting(lambda: list(warnings.filters), _write_filters),
    _Setting(lambda: dict(os.environ._data), _write_environment),  # type: ignore[attr-defined]
    _Setting(_read_directory, _write_directory),
    _Setting(lambda: (sys.stdout, sys.stderr), _write_streams),
    _Setting(sys.getrecursionlimit, sys.setrecursionlimit),
]


def _write(values: list[Any]) -> None:
    for setting, value in zip(_SETTINGS, values, strict=True):
        if setting.read() != value:
            setting.write(value)


@contextmanager
def kept_state() -> Iterator[None]:
    """Settings that the code inside changes are put back after it.

    A copy of the process that the code inside forked, and that comes out of it as well, ends here: what it would go
    on to do is the original's to do.
    """
    global _depth
    before, process = [one.read() for one in _SETTINGS], os.getpid()
    inference = torch.is_inference_mode_enabled()
    _depth += 1
    try:
        yield
    finally:
        _depth -= 1
        if os.getpid() != process:
            os._exit(1)
        if torch.is_inference_mode_enabled() != inference:
            _leave_inference_mode(inference)
        _write(before)


def _leave_inference_mode(wanted: bool) -> None:
    """Inference mode was entered and not left.

    An `inference_mode` that is destroyed while entered puts back what it found, gradients included, whenever Python
    happens to collect it. So all of them stay in memory, and another one, entered for good, sets the mode.
    """
    _ENTERED.extend(one for one in gc.get_objects() if type(one) is torch.inference_mode)
    _ENTERED.append(torch.inference_mode(wanted))
    _ENTERED[-1].__enter__()


_ENTERED: list[torch.inference_mode] = []
_depth = 0  # of contexts of `kept_state` that are open


def _one_thread() -> None:
    """In a copy that was forked inside: the threads of its parent are not there, and work shared with them never ends."""
    if _depth:
        torch.set_num_threads(1)


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_one_thread)


@contextmanager
def known_state(threads: int | None = None) -> Iterator[None]:
    """Inside: every setting as torch starts with it, TF32 off, random numbers from a fixed seed; as before after.

    Autocast and the default dtype and device of the caller do not count inside, nor whether gradients are recorded;
    the current directory and the environment stay. What was changed inside is put back too.

    Args:
        threads: of torch on the CPU; default as many as the caller has.
    """
    with kept_state(), torch.inference_mode(False):
        for setting in _SETTINGS:
            if setting.known is not _KEEP:
                present = setting.read()
                known = setting.known(present) if callable(setting.known) else setting.known
                if present != known:
                    setting.write(known)
        if threads is not None:
            torch.set_num_threads(threads)
        with _tf32(False), seeded(0), kept_state():
            yield


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Draws inside come from `seed`; the global generators of Python, NumPy and torch are put back after."""
    devices = list(range(torch.cuda.device_count())) if torch.cuda.is_initialized() else []  # type: ignore[no-untyped-call]
    python_state, numpy_state = random.getstate(), np.random.get_state()
    try:
        with torch.random.fork_rng(devices=devices):
            random.seed(seed)
            np.random.seed(seed % 2**32)
            # torch.manual_seed would also queue a reseeding of CUDA generators that are not initialised yet.
            torch.default_generator.manual_seed(seed)
            if devices:
                torch.cuda.manual_seed_all(seed)
            yield
    finally:
        random.setstate(python_state)
        np.random.set_state(numpy_state)


@contextmanager
def own_registrations() -> Iterator[None]:
    """What the code inside registers with Python and torch goes with it: an encoder's from loading to its result.

    These are paths of imports, hooks on all modules of torch, what Ctrl-C and SIGTERM do, and the mask of permissions of
    new files; and modules that were imported from paths of the encoder's own, which would be taken for another
    encoder's modules of the same names.
    """
    paths, modules = list(sys.path), set(sys.modules)
    hooks = {
        name: dict(value)
        for name, value in vars(torch_module).items()
        if name.startswith("_global_") and isinstance(value, dict)
    }
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    os.umask(mask := os.umask(0o077))  # there is no other way to read it
    try:
        yield
    finally:
        os.umask(mask)
        for number, handler in handlers.items():
            if signal.getsignal(number) != handler:
                with suppress(
                    ValueError, TypeError
                ):  # not the main thread, or a handler that is not Python's
                    signal.signal(number, handler)
        if sys.path != paths:
            sys.path[:] = paths
        for name, there in hooks.items():
            registered = getattr(torch_module, name)
            if registered != there:
                registered.clear()
                registered.update(there)
        for top in {name.partition(".")[0] for name in sys.modules} - modules:
            if not _importable(top, sys.modules.get(top)):
                for name in [one for one in sys.modules if one.partition(".")[0] == top]:
                    del sys.modules[name]


def _importable(name: str, module: ModuleType | None) -> bool:
    """Whether an import would give the same module, and for all but files of Python, which can be run again."""
    file = getattr(module, "__file__", None)
    if not isinstance(file, str) or not file.endswith(".py"):
        return True
    for finder in sys.meta_path:
        found = finder.find_spec(name, None)
        if found is not None:
            return found.origin == file
    return False
