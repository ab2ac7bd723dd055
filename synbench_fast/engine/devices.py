"""The device that a run is asked for: there and able, or one line that says why not."""

from __future__ import annotations

import warnings

import torch

from synbench_fast.engine.arithmetic import TENSOR_CORES
from synbench_fast.errors import SynbenchError, first_line

__all__ = ["capability", "check_capability", "find_device", "gpu_count"]


def gpu_count() -> tuple[int, str]:
    """How many GPUs torch can use, and its own words if there is a driver that it cannot."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    words = [str(one.message) for one in caught]
    return count, words[0].removeprefix("CUDA initialization: ").partition(". ")[0] if words else ""


def capability(device: torch.device) -> tuple[int, int]:
    """Compute capability of a GPU; (0, 0) for other devices."""
    return torch.cuda.get_device_capability(device) if device.type == "cuda" else (0, 0)


def check_capability(device: torch.device, backend: str) -> None:
    """SynbenchError for a GPU that the kernels of backend "auto" do not run on."""
    found = capability(device)
    if backend == "auto" and device.type == "cuda" and found < TENSOR_CORES:
        name = torch.cuda.get_device_name(device)
        raise SynbenchError(
            f"device: expected a GPU of compute capability 8.0 or newer for backend='auto', got {name} "
            f"({found[0]}.{found[1]}); backend='torch' works there, and so does device='cpu'"
        )


def find_device(wanted: str | torch.device, owned: bool) -> tuple[torch.device | None, list[str]]:
    """The device asked for, None for a caller's encoder that stays where it is, and warnings for the result.

    Args:
        wanted: "auto" (a GPU if there is one) or a torch device.
        owned: whether the encoder is loaded here, not the caller's.

    Raises:
        SynbenchError: no such device; a driver too old for torch is named.
    """
    if wanted == "auto":
        if not owned:
            return None, []
        count, words = gpu_count()
        return torch.device("cuda" if count else "cpu"), [
            f"device: auto is the CPU: {words}"
        ] if words else []
    try:
        device = torch.device(wanted)
    except (RuntimeError, TypeError):
        raise SynbenchError(f"device: expected 'auto', 'cpu', 'cuda' or 'cuda:N', got {wanted!r}") from None
    if device.type == "cuda":
        _check_gpu(device, str(wanted))
    problem = ""
    try:
        there = torch.zeros(1, device=device).item() == 0
    except (RuntimeError, NotImplementedError) as error:
        # No such accelerator, or a device without values such as "meta".
        there, problem = False, f" ({first_line(error)})" if device.type == "cuda" else ""
    if not there:
        raise SynbenchError(f"device: expected a device of this machine, got {wanted!r}{problem}")
    return device, []


def _check_gpu(device: torch.device, wanted: str) -> None:
    count, words = gpu_count()
    if count == 0:
        raise SynbenchError(
            f"device: expected a device of this machine, got {wanted!r}, but torch finds no CUDA GPU"
            + (f": {words}" if words else "")
        )
    if (device.index or 0) >= count:
        known = "'cuda:0'" if count == 1 else f"'cuda:0' to 'cuda:{count - 1}'"
        raise SynbenchError(f"device: expected {known}, the CUDA GPUs here, got {wanted!r}")
