"""The CUDA C++ kernels: where they come from, and how one is launched."""

from __future__ import annotations

import importlib.util
import re
import struct
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from synbench_fast.errors import SynbenchError, first_line
from synbench_fast.ops.streams import on_device

__all__ = ["LEAST_CAPABILITY", "built_by", "launch", "source"]

LEAST_CAPABILITY = (8, 0)

# Units of csrc/ and their options of the compiler: a fused multiply-add rounds differently from the CPU.
UNITS = {"cuda_kernels.cu": ("-std=c++17",), "exact_kernels.cu": ("-std=c++17", "--fmad=false")}

Word = int | float | Tensor
# name, grid, threads, index of the device, stream, words
Launcher = Callable[[str, tuple[int, int, int], int, int, int, list[int]], None]


def launch(
    name: str, grid: Sequence[int], threads: int, device: torch.device, arguments: Sequence[Word]
) -> None:
    """Enqueue a kernel on the current stream of `device`; a grid of no blocks enqueues nothing.

    Every argument is one 64-bit word: an int as long long, a float as double, a tensor as the address of its
    data. Nothing waits for the device, and the thread's current device stays what it was.

    Args:
        name: of the `extern "C"` kernel in csrc/*_cuda.cu.
        grid: blocks along x and optionally y and z.
        threads: per block.
        arguments: in the kernel's order; tensors are contiguous and on `device`.

    Raises:
        SynbenchError: a tensor that is not contiguous or elsewhere, no kernels for this device, or a launch
            that the driver refuses.
    """
    words = []
    for place, value in enumerate(arguments):
        if isinstance(value, Tensor):
            if value.device != device or not value.is_contiguous():
                raise SynbenchError(
                    f"{name}: expected argument {place} contiguous on {device}, got strides "
                    f"{list(value.stride())} for shape {list(value.shape)} on {value.device}"
                )
            words.append(value.data_ptr())
        else:
            words.append(
                struct.unpack("<Q", struct.pack("<d" if isinstance(value, float) else "<q", value))[0]
            )
    blocks = (*grid, 1, 1)[:3]
    if 0 in blocks:
        return
    try:
        with on_device(device):
            _launcher(device)(
                name, (blocks[0], blocks[1], blocks[2]), threads, device.index or 0, _stream(device), words
            )
    except RuntimeError as error:
        raise SynbenchError(f"{name}: expected to run on {device}, got {first_line(error)}") from None


def _stream(device: torch.device) -> int:
    return int(torch.cuda.current_stream(device).cuda_stream)


@cache
def _launcher(device: torch.device) -> Launcher:
    """The kernels compiled ahead of time where the package has them, else compiled now through CuPy."""
    capability = torch.cuda.get_device_capability(device)
    if capability < LEAST_CAPABILITY:
        raise SynbenchError(
            f"device: expected compute capability {'.'.join(map(str, LEAST_CAPABILITY))} or newer for the CUDA "
            f"kernels, got {'.'.join(map(str, capability))} ({torch.cuda.get_device_name(device)}); the slow "
            "float64 specification runs with backend='torch'"
        )
    how = built_by()
    if how is None:
        raise SynbenchError(
            "backend: expected CUDA kernels in this installation, or CuPy to compile them, got neither; "
            "pip install 'synbench-fast[cuda]', or ask for the slow float64 specification with backend='torch'"
        )
    return _ahead_of_time() if how == "nvcc" else _at_first_use(device)


def built_by() -> str | None:
    """ "nvcc" (ahead of time), "nvrtc" (through CuPy, at first use), or None where neither is there."""
    if importlib.util.find_spec("synbench_fast._cuda") is not None:
        return "nvcc"
    return "nvrtc" if importlib.util.find_spec("cupy") is not None else None


def _ahead_of_time() -> Launcher:
    from synbench_fast import _cuda

    return _cuda.launch


def _at_first_use(device: torch.device) -> Launcher:
    """CuPy compiles for the device at hand and keeps the result on disk, by the text of the source."""
    import cupy

    try:
        with cupy.cuda.Device(device.index or 0):
            modules = {
                code: cupy.RawModule(code=code, options=options)
                for code, options in ((source(unit), options) for unit, options in UNITS.items())
            }
            for module in modules.values():
                module.compile()
    except Exception as error:  # CuPy's own compile error, the driver's, or a missing NVRTC
        raise SynbenchError(
            f"backend: expected CUDA kernels that compile for {device}, got {first_line(error)}"
        ) from None

    def run(
        name: str, grid: tuple[int, int, int], threads: int, index: int, stream: int, words: list[int]
    ) -> None:
        import numpy as np

        module = next(module for code, module in modules.items() if name in code)
        with cupy.cuda.Device(index), stream_of(stream):
            module.get_function(name)(grid, (threads,), tuple(np.array(words, dtype=np.uint64)))

    def stream_of(address: int) -> Any:
        # CuPy 14 warns at every ExternalStream; before it there is nothing else.
        if hasattr(cupy.cuda.Stream, "from_external"):
            return cupy.cuda.Stream.from_external(_StreamAddress(address))
        return cupy.cuda.ExternalStream(address)

    return run


@dataclass(frozen=True, slots=True)
class _StreamAddress:
    """A stream by its address, in the CUDA stream protocol."""

    address: int

    def __cuda_stream__(self) -> tuple[int, int]:
        return 0, self.address


def source(unit: str = "cuda_kernels.cu") -> str:
    """A unit of CUDA C++ kernels with its headers as one text, for a compiler that finds no files."""
    folder = _folder()
    seen: set[str] = set()

    def expand(name: str) -> str:
        if name in seen:
            return ""
        seen.add(name)
        text = (folder / name).read_text(encoding="utf-8").replace("#pragma once\n", "")
        return re.sub(r'^#include "(.+)"$', lambda match: expand(match[1]), text, flags=re.MULTILINE)

    return expand(unit)


def _folder() -> Path:
    """The kernel sources: in the checkout that the package is imported from, else installed with it."""
    package = Path(__file__).resolve().parent.parent
    for place in (package.parent / "csrc", package / "_kernels"):
        if (place / "cuda_kernels.cu").is_file():
            return place
    raise SynbenchError(f"backend: expected the CUDA kernel sources in {package / '_kernels'}, got none")
