"""The loop of a run: every batch is sampled, goes through the encoder, and its features go to the probe.

On a GPU the next batch is sampled, on a stream of its own, into the other of two buffers while the encoder
runs, and nothing in the loop waits for the device except for the measurements of the first batches: the host
runs ahead, up to the two scales that the probe lets wait. Elsewhere one thing is done after the other.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import accumulate

import torch
from torch import Tensor

from synbench_fast.encoders import Encoder
from synbench_fast.encoders.base import is_out_of_memory
from synbench_fast.engine.batch_size import BatchSize
from synbench_fast.engine.forward import Compile, Forward, compile_repays, graph_repays
from synbench_fast.engine.probe import Batch, Probe
from synbench_fast.engine.purity import check_drift, check_head, check_purity
from synbench_fast.errors import first_line
from synbench_fast.ops.streams import Lane, Mark, Span, mark, wait
from synbench_fast.stats.blocks import Block

__all__ = ["Pipeline", "Progress", "batch_size"]

Progress = Callable[[int, int, str], None]  # (images done, images in all, phase)

BATCH_BYTES = 1 << 25  # of input per forward pass off a GPU when the batch size is chosen here
LARGEST_BATCH = 512
GPU_BATCH_BYTES = 1 << 30  # on a GPU the size grows to no more than this much input
GPU_LARGEST_BATCH = 4096
GPU_FIRST_BATCH = 32


def batch_size(probe: Probe, wanted: int | None) -> BatchSize:
    """The rule of a run: `wanted` samples; None grows from 32 on a GPU and goes by the input's size elsewhere."""
    gpu = probe.device.type == "cuda"
    if wanted is not None:
        return BatchSize(wanted, largest=probe.samples, fixed=True, measured=gpu)
    item = probe.task.dim * torch.finfo(probe.dtype).bits // 8
    room, most = (GPU_BATCH_BYTES, GPU_LARGEST_BATCH) if gpu else (BATCH_BYTES, LARGEST_BATCH)
    fitting = max(1, min(most, room // item))
    power = 1 << (fitting.bit_length() - 1)
    if gpu:
        return BatchSize(min(GPU_FIRST_BATCH, power), largest=min(power, probe.samples), grow=True)
    return BatchSize(power, largest=power)


@dataclass(frozen=True)
class _Filled:
    """A batch in one of the buffers; on a GPU its samples are there once `ready` is reached."""

    batch: Batch
    index: int
    ready: Mark


class _Buffers:
    """Inputs of the encoder, filled in turn: two where that happens beside the encoder, else one."""

    def __init__(self, probe: Probe, lane: Lane, size: int, asked: int, number: int) -> None:
        self._probe, self._lane, self.size, self.asked = probe, lane, size, asked
        layout = torch.channels_last if probe.channels_last else torch.contiguous_format
        shape = (size, *probe.task.shape)
        self.inputs = [
            torch.empty(shape, dtype=probe.dtype, device=probe.device, memory_format=layout)
            for _ in range(number)
        ]
        for one in self.inputs:
            lane.uses(one)
        self._free = [mark(probe.device)] * len(self.inputs)  # from when on each may be written
        self._turn = 0

    def fill(self, scale_index: int, split: int, start: int, count: int) -> _Filled:
        """Start drawing samples into the buffer whose turn it is."""
        index, self._turn = self._turn, (self._turn + 1) % len(self.inputs)
        with self._lane.running(after=self._free[index]):
            batch = self._probe.batch(scale_index, split, start, count, out=self.inputs[index][:count])
            return _Filled(batch, index, mark(self._probe.device))

    def release(self, filled: _Filled) -> None:
        """What the current stream has been given so far is the last to read it."""
        self._free[filled.index] = mark(self._probe.device)


def _overlaps(device: torch.device) -> bool:
    """Whether samples can be drawn beside the encoder."""
    return device.type == "cuda"


class _Parts:
    """The splits of some blocks one after the other; a batch stays within one."""

    def __init__(self, blocks: Sequence[Block], splits: int) -> None:
        self._parts = [(block, split) for block in blocks for split in range(splits)]
        self._ends = list(accumulate(block.count for block, _ in self._parts))
        self.samples = self._ends[-1] if self._ends else 0
        self.longest = max((block.count for block, _ in self._parts), default=0)

    def left(self, at: int) -> int:
        """Samples from number `at` to the end of its part."""
        return self._ends[bisect_right(self._ends, at)] - at

    def place(self, at: int) -> tuple[int, int, int]:
        """Scale index, split, and number within them of the sample with number `at`."""
        block, split = self._parts[bisect_right(self._ends, at)]
        return block.scale_index, split, block.stop - self.left(at)


class Pipeline:
    """Runs the batches of some scales through the encoder and gives their features to the probe.

        Pipeline(probe, encoder, batch_size(probe, None)).run(probe.blocks)

    Phase "encode" is added to the probe's clock. The encoder is to be inside its `scoring()`.

    Args:
        probe: draws the samples and takes the features.
        encoder: on the probe's device.
        size: of the batches; halved when memory is short.
        compile: whether torch.compile is used: True, False, or "auto" where it repays itself.
        tf32: whether the encoder's products of float32 may be rounded to TF32, which `check_purity` is to know.
        progress: called with (images done, images in all, "encode"); on a GPU as batches are started.
    """

    def __init__(
        self,
        probe: Probe,
        encoder: Encoder,
        size: BatchSize,
        *,
        compile: Compile = "auto",
        tf32: bool = False,
        progress: Progress | None = None,
    ) -> None:
        self.probe, self.size = probe, size
        self.forward = Forward(encoder)
        self._encoder, self._tf32 = encoder, tf32
        self._impure: list[str] = []
        # Scale index, split and start of the first batch that was run, and its features.
        self._first: tuple[tuple[int, int, int], Tensor] | None = None
        self._graphable = encoder.module is not None  # a callable may do on the host what a graph leaves out
        self._compile = compile
        self._progress = progress or (lambda done, total, phase: None)
        self._device = probe.device
        self._lane = Lane(probe.device)
        self._overlaps = _overlaps(probe.device)
        self._buffers: _Buffers | None = None
        self._chosen = False
        self._done = self._rechecked = 0

    @property
    def warnings(self) -> list[str]:
        """What a reader of the result should know of its forward passes."""
        return self._impure + self.forward.warnings

    def run(self, blocks: Sequence[Block]) -> None:
        """All batches of these blocks, in their order.

        Raises:
            SynbenchError: no room for one sample, or for the batch size that was asked for; features that differ
                from call to call; and what `Probe.update` and the encoder raise.
        """
        parts = _Parts(blocks, self.probe.splits)  # samples are numbered part after part
        at, end = 0, parts.samples
        filled: _Filled | None = None
        ahead: _Filled | None = None  # the batch at `at`, drawn while the one before was encoded
        while at < end:
            try:
                filled = ahead or self._fill(parts, at)
                ahead = None
                features, span = self._encode(filled)
                following = at + len(features)
                if self._overlaps and self.size.settled and following < end:
                    ahead = self._fill(parts, following)
            except (RuntimeError, MemoryError) as error:
                if not is_out_of_memory(error):
                    raise
                filled = None  # it holds a buffer that is to go
                self._shrink(min(self.size.next(), parts.left(at)), first_line(error))
                continue
            place = (filled.batch.scale_index, filled.batch.split, filled.batch.start)
            if place == (0, 0, 0):
                features = features.clone()  # the check may write over what the encoder returned
                self._impure = self._check(features)
            if self._first is None:
                self._first = place, features.detach().to("cpu", copy=True)
            self.probe.update(filled.batch, features)
            self._release(filled)
            if not self.size.settled:
                self.size.report(len(features), span.seconds())
            self._done += len(features)
            self._progress(self._done, self.probe.images, "encode")
            at, filled = following, None

    def _fill(self, parts: _Parts, at: int) -> _Filled:
        """Start drawing the batch that begins with sample number `at`."""
        asked = self.size.next()
        size = min(asked, parts.longest)
        buffers = self._buffers
        if buffers is None or buffers.asked != asked or buffers.size < size:
            if self._chosen:  # what was recorded reads the buffers that go
                self._chosen = False
                self.forward.reset()
            self._buffers = buffers = None  # before the next ones take memory
            buffers = _Buffers(self.probe, self._lane, size, asked, 2 if self._overlaps else 1)
            self._buffers = buffers
        scale_index, split, start = parts.place(at)
        return buffers.fill(scale_index, split, start, min(buffers.size, parts.left(at)))

    def _encode(self, filled: _Filled) -> tuple[Tensor, Span]:
        x = filled.batch.x
        wait(self._device, filled.ready)
        if (
            self.size.settled
            and not self._chosen
            and self._buffers is not None
            and len(x) == self._buffers.size
        ):
            self._chosen = True
            self._choose_forward(x, self._buffers.inputs)
        with self.probe.clock.phase("encode", self._device) as span:
            features = self.forward(x)
            if self._device.type != "cuda" and features.device.type == "cuda":
                torch.cuda.synchronize(features.device)
        return features, span

    def _check(self, features: Tensor) -> list[str]:
        """Whether the encoder is a function of single samples, and no head; seen at the first batch of a task."""
        return check_head(features) + check_purity(
            self._encoder,
            lambda count: self.probe.batch(0, 0, 0, count).x,
            len(features),
            spec=self._encoder.info.spec,
            dtype=self.probe.dtype,
            tf32=self._tf32,
            seen=features,
        )

    def recheck(self) -> None:
        """Run a few samples of the first batch again; SynbenchError if their features are not those of then."""
        if self._first is None:
            return
        place, features = self._first
        check_drift(
            self._encoder,
            lambda count: self.probe.batch(*place, count).x,
            features,
            self._done - self._rechecked,
            spec=self._encoder.info.spec,
            dtype=self.probe.dtype,
            tf32=self._tf32,
        )
        self._rechecked = self._done

    def _choose_forward(self, x: Tensor, buffers: Sequence[Tensor]) -> None:
        """Once the batch size is known: compile, or record a graph, if that repays itself."""
        left, each = self.probe.images - self._done, self.size.seconds_per_image
        if compile_repays(self._compile, self._device, left, each):
            self.forward.compile(x, self._compile)
        elif self._graphable and graph_repays(self._device, each and each * len(x), left // len(x)):
            self.forward.capture(x, buffers)

    def _shrink(self, count: int, reason: str) -> None:
        """After `count` samples did not fit."""
        self._buffers, self._chosen = None, False
        self.forward.reset()
        self.size.too_large(count, reason)
        if self._device.type == "cuda":
            torch.cuda.empty_cache()

    def _release(self, filled: _Filled) -> None:
        if self._buffers is not None:
            self._buffers.release(filled)
