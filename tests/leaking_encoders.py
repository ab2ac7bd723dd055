"""Encoders that leave global state changed, as python:FILE:factory_LEAK, python:FILE:forward_LEAK or python:FILE:clean.

A leak in a forward pass comes after the features are computed, so that every one of these encoders has the scores of
`clean` unless a leak reaches a later forward pass.
"""

from __future__ import annotations

import io
import os
import random
import signal
import sys
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.modules.module import register_module_forward_hook
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

HELD: list[Any] = []  # contexts that are entered and never left


class Halves(TorchFunctionMode):
    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        return out / 2 if func is nn.functional.linear else out


class Drops(TorchDispatchMode):
    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        return torch.zeros_like(out) if func is torch.ops.aten.relu.default else out


def enter(context: Any) -> None:
    context.__enter__()
    HELD.append(context)


def backends(name: str, **values: Any) -> Callable[[], None]:
    def leak() -> None:
        for key, value in values.items():
            setattr(getattr(torch.backends, name), key, value)

    return leak


def autocast_by_hand() -> None:
    torch.set_autocast_dtype("cpu", torch.bfloat16)
    torch.set_autocast_enabled("cpu", True)


def newer_precision() -> None:
    if hasattr(torch.backends, "fp32_precision"):
        torch.backends.fp32_precision = "tf32"
        torch.backends.mkldnn.matmul.fp32_precision = "bf16"
        torch.backends.mkldnn.conv.fp32_precision = "bf16"


def attention_kernels() -> None:
    torch.backends.cuda.enable_flash_sdp(False)
    torch.backends.cuda.enable_math_sdp(False)


def sums_in_half() -> None:
    torch.backends.cuda.matmul.allow_bf16_reduced_precision_reduction = False
    torch.backends.cuda.matmul.allow_fp16_reduced_precision_reduction = False


def environment() -> None:
    os.environ["SYNBENCH_LEAK"] = "1"
    os.environ.pop("HOME", None)


def generators() -> None:
    torch.manual_seed(5)
    np.random.seed(5)
    random.seed(5)


def streams() -> None:
    sys.stdout = sys.stderr = io.StringIO()


def hook() -> None:
    """On the layers of others: an encoder may look at its own that way."""
    register_module_forward_hook(
        lambda module, args, out: -out.abs() if getattr(module, "out_channels", 8) != 8 else None
    )


LEAKS: dict[str, Callable[[], object]] = {
    "default_dtype": lambda: torch.set_default_dtype(torch.float64),
    "half_default": lambda: torch.set_default_dtype(torch.bfloat16),
    "default_device": lambda: torch.set_default_device("meta"),
    "with_device": lambda: enter(torch.device("meta")),
    "autocast": lambda: enter(torch.autocast("cpu", dtype=torch.bfloat16)),
    "autocast_by_hand": autocast_by_hand,
    "gpu_autocast": lambda: [
        torch.set_autocast_enabled("cuda", True),
        torch.set_autocast_cache_enabled(False),
    ],
    "matmul_precision": lambda: torch.set_float32_matmul_precision("medium"),
    "newer_precision": newer_precision,
    "mkldnn": backends("mkldnn", enabled=False, deterministic=True),
    "cudnn": backends("cudnn", enabled=False, benchmark=True, deterministic=True, allow_tf32=True),
    "attention_kernels": attention_kernels,
    "sums_in_half": sums_in_half,
    "fast_path": lambda: torch.backends.mha.set_fastpath_enabled(False),
    "deterministic": lambda: torch.use_deterministic_algorithms(True, warn_only=True),
    "gradients": lambda: torch.set_grad_enabled(False),
    "inference": lambda: enter(torch.inference_mode()),
    "anomaly": lambda: torch.autograd.set_detect_anomaly(True, check_nan=False),
    "smallest_numbers": lambda: torch.set_flush_denormal(True),
    "threads": lambda: torch.set_num_threads(torch.get_num_threads() + 1),
    "numpy_errors": lambda: np.seterr(all="raise"),
    "warnings": lambda: warnings.simplefilter("error"),
    "conversions": lambda: [
        torch.__future__.set_overwrite_module_params_on_conversion(True),
        torch.__future__.set_swap_module_params_on_conversion(True),
    ],
    "directory": lambda: os.chdir("/"),
    "environment": environment,
    "generators": generators,
    "streams": streams,
    "recursion": lambda: sys.setrecursionlimit(200),
    "import_path": lambda: sys.path.insert(0, "/nowhere"),
    "signals": lambda: [signal.signal(one, signal.SIG_IGN) for one in (signal.SIGINT, signal.SIGTERM)],
    "hook": hook,
    "umask": lambda: os.umask(0o777),
    "function_mode": lambda: enter(Halves()),
    "dispatch_mode": lambda: enter(Drops()),
    "fork": os.fork,
}
FORWARD = [
    name for name in LEAKS if name not in ("import_path", "signals", "hook", "umask")
]  # what a whole run may keep


class Network(nn.Module):
    input_shape = (3, 8, 8)

    def __init__(self, leak: Callable[[], object]) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv2d(3, 8, 3, stride=2), nn.ReLU(), nn.Flatten(), nn.Linear(72, 12), nn.ReLU()
        )
        self.leak, self.calls = leak, 0

    def forward(self, x: Tensor) -> Tensor:
        features: Tensor = self.layers(x)
        self.calls += 1
        if self.calls == 2:
            self.leak()
        return features


def clean() -> Network:
    return Network(lambda: None)


def __getattr__(name: str) -> Callable[[], Network]:
    place, _, leak = name.partition("_")
    if place not in ("factory", "forward") or leak not in LEAKS:
        raise AttributeError(name)
    if place == "forward":
        return lambda: Network(LEAKS[leak])

    def factory() -> Network:
        network = clean()
        LEAKS[leak]()
        return network

    return factory
