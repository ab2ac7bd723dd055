"""Checks that several operations make of their tensors."""

from __future__ import annotations

from typing import Any

import torch
from numpy.typing import NDArray
from torch import Tensor

from synbench_fast.errors import SynbenchError

__all__ = [
    "array", "check_device", "check_labels", "check_real", "check_shape", "class_counts", "dtype_name", "kind",
    "thread_count",
]  # fmt: skip


def array(value: Tensor) -> NDArray[Any]:
    """A tensor of the CPU as the compiled core reads it."""
    return value.contiguous().numpy()


def kind(value: Tensor) -> str:
    """The dtype and shape, as errors name them: "float32 [3, 4]"."""
    return f"{dtype_name(value)} {list(value.shape)}"


def dtype_name(value: Tensor) -> str:
    return str(value.dtype).removeprefix("torch.")


def check_real(**values: Tensor) -> None:
    """SynbenchError for complex numbers."""
    for name, value in values.items():
        if value.is_complex():
            raise SynbenchError(f"{name}: expected real numbers, got {dtype_name(value)}")


def check_shape(shape: tuple[int, ...], **values: Tensor) -> None:
    """SynbenchError for another shape."""
    for name, value in values.items():
        if value.shape != shape:
            raise SynbenchError(f"{name}: expected {list(shape)}, got {list(value.shape)}")


def check_device(of: str, device: torch.device, **values: Tensor) -> None:
    """SynbenchError for a tensor that is not on the device of the argument `of`."""
    for name, value in values.items():
        if value.device != device:
            raise SynbenchError(f"{name}: expected device {device} of {of}, got {value.device}")


def check_labels(y: Tensor, count: int) -> None:
    """SynbenchError unless y holds integers or bools, one for each of `count` samples."""
    if y.shape != (count,) or y.is_floating_point() or y.is_complex():
        raise SynbenchError(f"y: expected integer labels [{count}], got {kind(y)}")


def class_counts(y: Tensor, count: tuple[int, int] | None) -> Tensor:
    """int64 [2] on the CPU: `count`, or what the labels hold, which waits for a GPU."""
    if count is None:
        ones = int(y.count_nonzero())
        count = (len(y) - ones, ones)
    return torch.tensor(count)


def thread_count(threads: int) -> int:
    """`threads`, or torch's number for 0; SynbenchError for a negative number."""
    if threads < 0:
        raise SynbenchError(f"threads: expected 0 (torch's number) or more, got {threads}")
    return threads or torch.get_num_threads()
