"""The CUDA kernels where nvcc has built them, see src/cuda.cpp."""

from collections.abc import Sequence

architectures: str

def kernel_names() -> list[str]: ...
def device_count() -> int: ...
def launch(
    name: str, grid: tuple[int, int, int], threads: int, device: int, stream: int, words: Sequence[int]
) -> None: ...
