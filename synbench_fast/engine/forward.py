"""How the forward pass is run: memory layout, compilation, CUDA graphs. Decisions are functions of numbers."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from synbench_fast.encoders import Encoder
from synbench_fast.engine.arithmetic import Arithmetic
from synbench_fast.errors import SynbenchError, first_line

__all__ = [
    "Compile",
    "Forward",
    "compile_repays",
    "graph_repays",
    "wants_channels_last",
]

Compile = bool | str  # True, False or "auto"

COMPILE_SAVING = 0.15  # share of the forward passes that compiling is assumed to save
COMPILE_SECONDS = 60.0  # what it has to save to repay the compilation
GRAPH_SECONDS = 0.005  # a longer forward pass hides the launches of its kernels
GRAPH_BATCHES = 20  # fewer do not repay the capture, which runs the encoder about ten times


def wants_channels_last(
    module: nn.Module | None, input_shape: Sequence[int], arithmetic: Arithmetic, device: torch.device
) -> bool:
    """Whether images go channels last: on a GPU, in an arithmetic of its tensor cores, for convolutional encoders.

    An encoder is convolutional if more than half of its parameters are in 2-D convolutions with a kernel
    larger than one pixel that is not laid out as patches (stride as large as the kernel).
    """
    if module is None or device.type != "cuda" or not arithmetic.reduced or len(input_shape) != 3:
        return False
    total = sum(one.numel() for one in module.parameters())
    spatial = sum(
        parameter.numel()
        for layer in module.modules()
        if isinstance(layer, nn.Conv2d) and _overlapping(layer)
        for parameter in layer.parameters(recurse=False)
    )
    return 2 * spatial > total


def _overlapping(layer: nn.Conv2d) -> bool:
    kernel, stride = layer.kernel_size, layer.stride
    return max(kernel) > 1 and any(k > s for k, s in zip(kernel, stride, strict=True))


def compile_repays(
    wanted: Compile, device: torch.device, images_left: int, seconds_per_image: float | None
) -> bool:
    """Whether to compile: what was asked for; "auto" on a GPU if 15 % of the time left is more than a minute."""
    if wanted != "auto":
        return bool(wanted)
    if device.type != "cuda" or seconds_per_image is None:
        return False
    return images_left * seconds_per_image * COMPILE_SAVING > COMPILE_SECONDS


def graph_repays(device: torch.device, seconds_per_batch: float | None, batches_left: int) -> bool:
    """Whether launches are worth recording: short forward passes on a GPU, and enough of them."""
    return (
        device.type == "cuda"
        and seconds_per_batch is not None
        and seconds_per_batch < GRAPH_SECONDS
        and batches_left >= GRAPH_BATCHES
    )


class Forward:
    """The encoder, with a faster way for whole batches once one is chosen: compiled, or replayed from a graph.

    A replay writes its features where the one before wrote them: they are to be read, on the same stream,
    before the next call.
    """

    def __init__(self, encoder: Encoder) -> None:
        self._encoder = encoder
        self._compiled: Callable[[Tensor], Tensor] | None = None
        self._size = 0  # samples of the batches that go the faster way
        self._graphs: dict[int, tuple[torch.cuda.CUDAGraph, Tensor]] = {}  # by the address of their input
        self.warnings: list[str] = []

    @property
    def compiled(self) -> bool:
        return self._compiled is not None

    @property
    def graphed(self) -> bool:
        return bool(self._graphs)

    def __call__(self, x: Tensor) -> Tensor:
        if len(x) == self._size:
            if x.data_ptr() in self._graphs:
                graph, features = self._graphs[x.data_ptr()]
                graph.replay()
                return features
            if self._compiled is not None:
                return self._compiled(x)
        return self._encoder(x)

    def compile(self, x: Tensor, wanted: Compile) -> None:
        """Compile for batches like x. A failure is an error if compiling was asked for, else a warning."""
        compiled = self._encoder.compiled()
        try:
            with warnings.catch_warnings(), _hints_of_the_compiler_off():
                warnings.simplefilter("ignore")
                compiled(x)
        except Exception as error:
            if wanted is True:
                raise SynbenchError(
                    f"compile: expected an encoder that torch.compile takes, got {first_line(error)}; "
                    "compile=False runs it as it is"
                ) from None
            self.warnings.append(f"not compiled: {first_line(error)}")
            return
        self._compiled, self._size = compiled, len(x)

    def capture(self, x: Tensor, buffers: Sequence[Tensor]) -> None:
        """Record one forward pass per input buffer, of which x is one; where that fails there is a warning instead.

        The other buffers are overwritten.
        """
        # An encoder sees numbers while it is recorded, not what the memory held before.
        for buffer in buffers:
            if buffer.data_ptr() != x.data_ptr():
                buffer.copy_(x)
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                graphs = _capture(self._encoder, buffers)
        except Exception as error:
            self.warnings.append(f"no CUDA graph: {first_line(error)}")
            return
        expected = self._encoder(x)
        for graph, features in graphs:
            graph.replay()
            if not torch.equal(features, expected):
                self.warnings.append("no CUDA graph: its features differ from those of a plain forward pass")
                return
        self._graphs = {one.data_ptr(): graph for one, graph in zip(buffers, graphs, strict=True)}
        self._size = len(x)

    def reset(self) -> None:
        """Back to the encoder as it is."""
        self._graphs, self._compiled, self._size = {}, None, 0


@contextmanager
def _hints_of_the_compiler_off() -> Iterator[None]:
    """Its hints on how to compile more are for the author of the encoder; a failure is an exception."""
    loggers = [logging.getLogger(f"torch.{name}") for name in ("_dynamo", "_inductor", "_functorch")]
    levels = [one.level for one in loggers]
    for one in loggers:
        one.setLevel(logging.ERROR)
    try:
        yield
    finally:
        for one, level in zip(loggers, levels, strict=True):
            one.setLevel(level)


def _capture(encoder: Encoder, buffers: Sequence[Tensor]) -> list[tuple[torch.cuda.CUDAGraph, Tensor]]:
    device = buffers[0].device
    present, side = torch.cuda.current_stream(device), torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
    side.wait_stream(present)
    with torch.cuda.stream(side):
        for _ in range(3):  # libraries set themselves up in their first calls, which cannot be recorded
            encoder(buffers[0])
    present.wait_stream(side)
    pool = torch.cuda.graph_pool_handle()
    captured = []
    for x in buffers:
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, pool=pool):
            features = encoder(x)
        captured.append((graph, features))
    return captured
