"""One encoder through all scales, in the first arithmetic that is accurate enough."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from synbench_fast.encoders import Encoder
from synbench_fast.encoders.base import is_out_of_memory
from synbench_fast.engine.arithmetic import CHECKED, Arithmetic, compare
from synbench_fast.engine.batch_size import BatchSize
from synbench_fast.engine.curve import Curve
from synbench_fast.engine.forward import Compile, wants_channels_last
from synbench_fast.engine.pipeline import Pipeline, Progress, batch_size
from synbench_fast.engine.probe import Probe
from synbench_fast.errors import SynbenchError, first_line
from synbench_fast.ops.streams import on_device
from synbench_fast.results.records import ArithmeticCheck
from synbench_fast.runtime.global_state import tf32_allowed
from synbench_fast.stats.blocks import Block

__all__ = ["Run", "Settled", "in_arithmetic", "recast", "run_encoder", "settle", "too_wide"]

MakeProbe = Callable[[torch.dtype, bool], Probe]  # (dtype of the samples, channels_last)


@dataclass(frozen=True)
class Run:
    """A finished run: the curve, and what it was made with."""

    probe: Probe
    curve: Curve
    arithmetic: Arithmetic
    checks: list[ArithmeticCheck]
    warnings: list[str]
    seconds: dict[str, float]  # as in results.Cost, without "load" and "total"
    elapsed: float  # of the samples that count, overlaps taken into account
    batch_size: int
    compiled: bool
    cuda_graph: bool


@dataclass
class Settled:
    """An encoder in the arithmetic that it is run in, and what was done to find that out.

    `left` are the probe's blocks that have not been run, `worked` the seconds of those that have.
    """

    probe: Probe
    pipeline: Pipeline
    arithmetic: Arithmetic
    checks: list[ArithmeticCheck]
    warnings: list[str]
    left: list[Block]
    worked: float


def settle(
    encoder: Encoder,
    make_probe: MakeProbe,
    arithmetics: Sequence[Arithmetic],
    *,
    as_it_is: bool = False,
    size: int | None = None,
    compile: Compile = "auto",
    progress: Progress | None = None,
) -> Settled:
    """Put the encoder into the first of `arithmetics` that is accurate enough; the last one is taken in any case.

    An arithmetic below float32 runs the middle block first and is compared with float32 there (see
    `engine.arithmetic`); if it is not accurate enough, or cannot run this encoder, that block is done again in the
    next one. What an arithmetic does to the encoder's weights starts from the weights as they were loaded.

    Args: see `run_encoder`.
    """
    report = _never_falling(progress or (lambda done, total, phase: None))
    checks: list[ArithmeticCheck] = []
    warnings: list[str] = []
    for number, arithmetic in enumerate(arithmetics, 1):
        last = number == len(arithmetics)
        layout = not as_it_is and wants_channels_last(
            encoder.module, encoder.info.input_shape, arithmetic, encoder.device
        )
        probe = make_probe(arithmetic.dtype, layout)
        blocks = probe.blocks
        if number == 1:
            report(0, probe.images, "encode")
        worked = 0.0
        with in_arithmetic(encoder, arithmetic):
            try:
                if not as_it_is and (checks or layout or encoder.dtype != arithmetic.dtype):
                    recast(encoder, arithmetic, layout)
                pipeline = Pipeline(
                    probe,
                    encoder,
                    batch_size(probe, size),
                    compile=compile,
                    tf32=arithmetic.tf32,
                    progress=report,
                )
                if arithmetic.reduced and encoder.module is not None:
                    middle = blocks.pop(len(blocks) // 2)
                    probe.keep_features(middle)
                    worked += _timed(pipeline, [middle])
                    check = _check(
                        encoder, make_probe, probe, arithmetic, middle.scale_index, pipeline.size.next()
                    )
                    if last:
                        check = replace(check, used=True)
                    checks.append(check)
                    if not check.used:
                        continue
                    warnings += _check_warnings(check)
            except Exception as error:
                if last:
                    raise
                scale = probe.task.scale_values[len(probe.task.scale_values) // 2]
                checks.append(_unmeasured(arithmetic, scale, f"it does not run: {_words(error)}"))
                continue
            if arithmetic.reduced and encoder.module is None:
                warnings.append(
                    f"{arithmetic.name}: the difference to float32 is unknown, the arithmetic of a callable is its own"
                )
            encoder.drop_loaded()
        break
    return Settled(probe, pipeline, arithmetic, checks, warnings, blocks, worked)


@contextmanager
def in_arithmetic(encoder: Encoder, arithmetic: Arithmetic) -> Iterator[None]:
    """Forward passes inside run on the encoder's device, with the products of `arithmetic`."""
    with on_device(encoder.device), tf32_allowed(encoder.device, arithmetic.tf32):
        yield


def run_encoder(
    encoder: Encoder,
    make_probe: MakeProbe,
    arithmetics: Sequence[Arithmetic],
    *,
    as_it_is: bool = False,
    size: int | None = None,
    compile: Compile = "auto",
    half_width: float | None = None,
    most: int = 0,
    progress: Progress | None = None,
) -> Run:
    """All scales in the arithmetic that `settle` finds.

    Args:
        encoder: inside its `scoring()`.
        as_it_is: the encoder keeps the dtype and layout that it has.
        size, compile, progress: see `pipeline`.
        half_width: samples are added until the 95 % interval of no score is wider on either side; None for none.
        most: samples per scale that are not exceeded by that.
    """
    begun = time.perf_counter()
    settled = settle(
        encoder, make_probe, arithmetics, as_it_is=as_it_is, size=size, compile=compile, progress=progress
    )
    probe, pipeline, worked = settled.probe, settled.pipeline, settled.worked
    with in_arithmetic(encoder, settled.arithmetic):
        worked += _timed(pipeline, settled.left)
        if half_width is not None:
            worked += _refine(pipeline, half_width, most, settled.warnings)
        pipeline.recheck()
    start = time.perf_counter()
    curve = probe.compute()
    worked += time.perf_counter() - start
    seconds = {"encode": 0.0} | probe.seconds
    if settled.checks:
        seconds["check"] = max(0.0, time.perf_counter() - begun - worked)
    on_gpu = encoder.device.type == "cuda"
    return Run(
        probe=probe,
        curve=curve,
        arithmetic=settled.arithmetic,
        checks=settled.checks,
        warnings=settled.warnings + pipeline.warnings,
        seconds=seconds,
        elapsed=worked if on_gpu else sum(seconds[name] for name in ("sample", "encode", "statistics")),
        batch_size=pipeline.size.next(),
        compiled=pipeline.forward.compiled,
        cuda_graph=pipeline.forward.graphed,
    )


def recast(encoder: Encoder, arithmetic: Arithmetic, channels_last: bool) -> None:
    """Convert the encoder's weights, and see that it runs."""
    try:
        encoder.recast(arithmetic.dtype, channels_last=channels_last)
        encoder.dry_run()
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        raise SynbenchError(
            f"memory: expected room for the encoder in float32 and in {arithmetic.name}, got {first_line(error)}"
        ) from None


def _timed(pipeline: Pipeline, blocks: Sequence[Block]) -> float:
    """Run these blocks; seconds until their statistics are done."""
    begun = time.perf_counter()
    pipeline.run(blocks)
    pipeline.probe.finish()
    return time.perf_counter() - begun


def _refine(pipeline: Pipeline, half_width: float, most: int, warnings: list[str]) -> float:
    """Add samples until no interval is wider than asked; the seconds that takes."""
    probe, begun = pipeline.probe, time.perf_counter()
    while True:
        widest, further = probe.further_samples(half_width, most)
        if not any(further):
            break
        pipeline.run([probe.extend(scale, count) for scale, count in enumerate(further) if count])
        probe.finish()
    if widest > half_width:
        warnings.append(too_wide(probe, half_width, widest))
    return time.perf_counter() - begun


def too_wide(probe: Probe, half_width: float, widest: float) -> str:
    """The warning that the half-width asked for was not reached."""
    return (
        f"half_width: expected half-widths of at most {half_width:g}, got {widest:.2g} with "
        f"{max(probe.samples_drawn)} samples at a scale, the most that are drawn"
    )


def _never_falling(progress: Progress) -> Progress:
    """A scale that is done again counts again only beyond what was reported before."""
    highest = 0

    def report(done: int, total: int, phase: str) -> None:
        nonlocal highest
        highest = max(highest, done)
        progress(highest, total, phase)

    return report


def _check(
    encoder: Encoder, make_probe: MakeProbe, probe: Probe, arithmetic: Arithmetic, scale_index: int, size: int
) -> ArithmeticCheck:
    """The scale that `probe` kept against float32, on its first samples (of the test half, if there is one)."""
    point, stats, features, y = probe.kept()
    count = min(probe.samples, CHECKED)
    scale = probe.task.scale_values[scale_index]
    try:
        reference = _float32_features(encoder, make_probe(torch.float32, False), scale_index, count, size)
    except Exception as error:
        return _unmeasured(arithmetic, scale, f"float32 does not run: {_words(error)}")
    threshold = min(probe.thresholds)
    accuracy, _, bound = (one[scale_index] for one in probe.task.raw(probe.eps))
    return compare(
        arithmetic,
        stats,
        point,
        features[:count],
        reference,
        y[:count],
        eps=probe.eps,
        scale=scale,
        scales=len(probe.task.scale_values),
        prior=probe.task.prior,
        threshold=threshold,
        raw_terms=(bound * (accuracy - threshold).clamp_min(0)).tolist(),
        backend=probe.backend,
    )


def _float32_features(encoder: Encoder, probe: Probe, scale_index: int, count: int, size: int) -> Tensor:
    """Features [count, F] in float32 of the first samples of a scale's last split, drawn by a float32 probe."""
    parts: list[Tensor] = []
    start, room = 0, BatchSize(size, largest=count)
    with tf32_allowed(encoder.device, False), encoder.in_float32():
        while start < count:
            wanted = min(room.next(), count - start)
            try:
                made = encoder(probe.batch(scale_index, probe.splits - 1, start, wanted).x)
                parts.append(made.clone())  # an encoder may return one buffer every time
            except (RuntimeError, MemoryError) as error:
                if not is_out_of_memory(error):
                    raise
                room.too_large(wanted, first_line(error))
                continue
            start += wanted
    return torch.cat(parts)


def _words(error: Exception) -> str:
    return str(error) if isinstance(error, SynbenchError) else first_line(error)


def _unmeasured(arithmetic: Arithmetic, scale: float, reason: str) -> ArithmeticCheck:
    return ArithmeticCheck(
        dtype=arithmetic.name, used=False, reason=reason, scale=scale, samples=0, points=[]
    )


def _check_warnings(check: ArithmeticCheck) -> list[str]:
    """Of an arithmetic that is used: a difference above one standard error, or none measured."""
    worst = check.largest
    if worst is None:
        return [check.summary()] if check.reason else []
    return (
        [f"{check.summary()}: more than one standard error"]
        if abs(worst.t_difference) > worst.t_stderr
        else []
    )
