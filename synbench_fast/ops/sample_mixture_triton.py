"""`sample_mixture` on NVIDIA GPUs: the bits of the C++ backend (csrc/sample_mixture.hpp), in one Triton kernel.

A normal costs about 50 instructions (in the machine code for compute capability 9.0) and writes 2 to 8 bytes:
by that count the arithmetic of an H100 or H200 is the bound, not its memory. The layout serves that: a program
computes the same quads of several samples, and what does not depend on the sample (addresses, masks, the
affine map, the pattern) is computed once. Planar normals stay in registers until their wide store; for
channels_last they cross shared memory, so that the lanes of a warp write neighbouring pixels.
"""

# mypy: disable-error-code="import-untyped, import-not-found, no-untyped-def"

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import torch
import triton.language as tl
from triton import JITFunction

from synbench_fast.errors import SynbenchError, first_line
from synbench_fast.ops.sample_mixture import Mixture

__all__ = ["plan_of", "sample_mixture_kernel", "sample_mixture_triton", "start"]

# Elements of one sample that a program computes, and its warps. Eight normals per thread are two independent
# quads, whose multiplications hide each other's latency. The planar kernels of 16 and 32 bits then take 39 to
# 63 registers as compiled for 8.0 and 9.0, so that half of the warps or more are resident. Smaller blocks are
# for segments of which a larger one would leave much idle.
_WARPS = {1024: 4, 512: 2, 256: 1, 128: 1}
_IDLE = 1.125  # elements computed per element written up to which the larger block is taken
_SHORT = 512  # channels of fewer elements share blocks
# What is computed once costs a thread about 150 instructions, a sample 400: eight samples make it 5 %. But
# every multiprocessor must have work: 16384 warps are about three times what an H200 holds at 48 registers.
_SPAN = 8
_ENOUGH_WARPS = 16_384
_GRID_Y = 65_535  # CUDA's limit
_NARROW = 2**31  # indices below fit int32


def _jit(**options: Any) -> Callable[[Callable[..., Any]], Any]:
    # Not triton.jit: it hands out the interpreter if an environment variable says so, and the interpreter's
    # cast to bfloat16 truncates.
    return lambda function: JITFunction(function, **options)


@_jit()
def philox4x32(key_low, key_high, c0, c1, c2, c3):
    """Ten rounds of csrc/philox.hpp on uint32 scalars and tensors that broadcast."""
    for _ in tl.static_range(10):
        p0 = c0.to(tl.uint64) * 0xD2511F53
        p1 = c2.to(tl.uint64) * 0xCD9E8D57
        c0 = (p1 >> 32).to(tl.uint32) ^ c1 ^ key_low
        c2 = (p0 >> 32).to(tl.uint32) ^ c3 ^ key_high
        c1 = p1.to(tl.uint32)
        c3 = p0.to(tl.uint32)
        key_low += 0x9E3779B9
        key_high += 0xBB67AE85
    return c0, c1, c2, c3


@_jit()
def minus_two_log_uniform(word):
    """-2 ln((word + 1/2) / 2^32), operation by operation as csrc/normal.hpp, which explains it."""
    distance = word.to(tl.int32, bitcast=True)
    x = distance.to(tl.float32) + 0.5
    bits = x.to(tl.uint32, bitcast=True)
    k = ((bits >> 23).to(tl.int32, bitcast=True) - 158).to(tl.float32)
    mantissa = ((bits & 0x007FFFFF) | 0x3F000000).to(tl.float32, bitcast=True)
    near_one = distance < 0
    f = tl.where(near_one, x * 2.0**-32, mantissa - 1.0)
    octaves = tl.where(near_one, 0.0, k * -1.38629436)
    f2 = f * f
    f4 = f2 * f2
    low = (1.00006878 * f - 1.99999976) + (0.543604851 * f - 0.663818896) * f2
    high = (1.55932379 * f - 0.0804322213) + (2.36162925 * f + 2.14766622) * f2
    return (low + high * f4) * f + octaves


@_jit()
def box_muller(radius, angle):
    """Two normals per pair of words, operation by operation as csrc/normal.hpp."""
    r = tl.sqrt_rn(minus_two_log_uniform(radius))
    h = (angle << 2).to(tl.int32, bitcast=True).to(tl.float32) * 2.0**-32
    y = h * h
    sine = r * (h * (((-0.00468597189 * y + 0.079712525) * y - 0.645966649) * y + 1.57079637))
    cosine = r * ((((0.000893573218 * y - 0.0208552536) * y + 0.253668517) * y - 1.23370051) * y + 1.0)
    turned = angle + 0x20000000
    odd = (turned & 0x40000000) != 0
    cosine_sign = (turned + 0x40000000) & 0x80000000
    sine_sign = turned & 0x80000000
    z0 = tl.where(odd, sine, cosine).to(tl.uint32, bitcast=True) ^ cosine_sign
    z1 = tl.where(odd, cosine, sine).to(tl.uint32, bitcast=True) ^ sine_sign
    return z0.to(tl.float32, bitcast=True), z1.to(tl.float32, bitcast=True)


# Integers that differ from call to call would otherwise compile a kernel for the value 1, one for multiples
# of 16 and one for the rest.
@_jit(
    do_not_specialize=(
        "key_low", "key_high", "stream", "purpose", "start",
        "count", "span", "channels", "pixels", "segments", "segment",
    )
)  # fmt: skip
def sample_mixture_kernel(
    x,  # [count, dim] of any float type, contiguous; channels_last: [count, pixels, channels]
    y,  # [count] uint8
    affine,  # [5, channels] float32: gain, base of label 0 and 1, amplitude of label 0 and 1
    pattern,  # [dim] float32, or None
    key_low,  # this one and the next four: 32-bit words, passed as int32
    key_high,
    stream,
    purpose,
    start,
    count,
    span,  # samples per program
    channels,
    pixels,
    segments,  # stretches of equal length that programs do not cross: the channels, or the whole sample
    segment,  # elements per segment
    ONE_CHANNEL: tl.constexpr,  # a segment lies in one channel
    CHANNELS_LAST: tl.constexpr,
    ALIGNED: tl.constexpr,  # segments hold a multiple of four elements
    INDEX: tl.constexpr,  # integer type that holds every element index
    BLOCK: tl.constexpr,
    STORE: tl.constexpr,  # False: compute everything and write nothing, to time the arithmetic alone
):
    key_low = key_low.to(tl.uint32, bitcast=True)
    key_high = key_high.to(tl.uint32, bitcast=True)
    stream = stream.to(tl.uint32, bitcast=True)
    purpose = purpose.to(tl.uint32, bitcast=True)
    start = start.to(tl.uint32, bitcast=True)
    channels = channels.to(INDEX)
    pixels = pixels.to(INDEX)
    segment = segment.to(INDEX)
    if ALIGNED:
        segment = segment // 4 * 4  # shows the compiler that a quad is one wide store
    dim = segments.to(INDEX) * segment

    # Neighbouring programs compute the same pixels of neighbouring channels: in channels_last these share
    # sectors of memory, which are then completed while they are in the cache.
    program = tl.program_id(0)
    part = program % segments
    begin = part.to(INDEX) * segment
    quad = begin // 4 + (program // segments).to(INDEX) * (BLOCK // 4)
    element = quad * 4 + tl.arange(0, BLOCK)
    inside = (element >= begin) & (element < begin + segment)
    channel = part.to(INDEX)
    if not ONE_CHANNEL:
        channel = tl.minimum(element, dim - 1) // pixels
    offset = element
    if CHANNELS_LAST:
        offset = (element - channel * pixels) * channels + channel

    gain = tl.load(affine + channel)
    shift0 = tl.load(affine + channels + channel)
    shift1 = tl.load(affine + 2 * channels + channel)
    if pattern is not None:
        u = tl.load(pattern + element, mask=inside, other=0.0)
        shift0 = shift0 + tl.load(affine + 3 * channels + channel) * u
        shift1 = shift1 + tl.load(affine + 4 * channels + channel) * u

    quads = quad.to(tl.uint32) + tl.arange(0, BLOCK // 4).to(tl.uint32)
    sample = tl.program_id(1).to(tl.int64) * span
    end = tl.minimum(sample + span, count)
    while sample < end:
        label = tl.load(y + sample)
        w0, w1, w2, w3 = philox4x32(key_low, key_high, quads, start + sample.to(tl.uint32), stream, purpose)
        z0, z1 = box_muller(tl.join(w0, w2), tl.join(w1, w3))
        z = tl.join(z0, z1).reshape(BLOCK)
        value = z * gain + tl.where(label != 0, shift1, shift0)
        keep = inside
        if not STORE:
            keep = inside & (value != value)  # never, which the compiler cannot know
        tl.store(x + sample * dim + offset, value.to(x.dtype.element_ty), mask=keep)
        sample += 1


class _Plan(NamedTuple):
    """How a sample is cut into programs."""

    channels: int
    pixels: int
    segments: int
    segment: int
    block: int
    blocks: int  # per segment

    @property
    def programs(self) -> int:
        return self.segments * self.blocks


def plan_of(channels: int, pixels: int, block: int = 0) -> _Plan:
    one_channel = channels == 1 or pixels >= _SHORT
    segments, segment = (channels, pixels) if one_channel else (1, channels * pixels)
    # A segment whose length is no multiple of four begins within a quad.
    length = segment if segment % 4 == 0 or segments == 1 else segment + 3
    if not block:
        block = next((b for b in _WARPS if -(-length // b) * b <= _IDLE * length), min(_WARPS))
    return _Plan(channels, pixels, segments, segment, block, -(-length // block))


def _affine(
    channels: int,
    dim: int,
    scale: float,
    center: float,
    patterned: bool,
    mean: list[float] | None,
    std: list[float] | None,
) -> np.ndarray[Any, np.dtype[np.float32]]:
    """[5, channels]: gain, base of labels 0 and 1, amplitude of labels 0 and 1; rounded to float32 once."""
    shift = np.zeros(channels) if mean is None else np.array(mean, np.float64)
    deviation = np.ones(channels) if std is None else np.array(std, np.float64)
    signed = (-scale, scale)
    constant = 1.0 / math.sqrt(dim)
    mids = [center + (0.0 if patterned else one * constant) for one in signed]
    rows = [
        1.0 / deviation,
        *((mid - shift) / deviation for mid in mids),
        *(one / deviation for one in signed),
    ]
    return np.stack(rows).astype(np.float32)


def _word(value: int) -> int:
    """The 32-bit word as a signed integer: one type whatever the value, hence one kernel."""
    return (value & 0xFFFFFFFF) - ((value & 0x80000000) << 1)


def sample_mixture_triton(call: Mixture) -> None:
    """Runs on the current stream of the device of x and waits for nothing."""
    with torch.cuda.device(call.x.device):
        start(call)


def start(call: Mixture, *, block: int = 0, span: int = 0, store: bool = True) -> None:
    """block, span: 0 takes them from the table; they change no bit. store: see the kernel."""
    x, mean, std = call.x, call.mean, call.std
    count, dim = x.shape[0], math.prod(x.shape[1:])
    if count == 0:
        return
    channels = x.shape[1]
    channels_last = call.channels_last and 1 < channels < dim
    if not channels_last and all(len(set(values or ())) <= 1 for values in (mean, std)):
        channels, mean, std = 1, mean and mean[:1], std and std[:1]
    plan = plan_of(channels, dim // channels, block)
    warps = _WARPS.get(plan.block, 4)
    if not span:
        span = min(max(1, count * plan.programs * warps // _ENOUGH_WARPS), _SPAN)
    span = max(span, -(-count // _GRID_Y))

    table = torch.from_numpy(
        _affine(channels, dim, call.scale, call.center, call.pattern is not None, mean, std)
    )
    if x.is_cuda:
        table = table.pin_memory().to(x.device, non_blocking=True)  # pageable memory would wait for the GPU
    try:
        sample_mixture_kernel[plan.programs, -(-count // span)](
            x, call.y, table, call.pattern,
            _word(call.seed), _word(call.seed >> 32), _word(call.stream), _word(call.purpose), _word(call.start),
            count, span, plan.channels, plan.pixels, plan.segments, plan.segment,
            ONE_CHANNEL=plan.segment == plan.pixels,
            CHANNELS_LAST=channels_last,
            ALIGNED=plan.segment % 4 == 0,
            INDEX=tl.int32 if max(dim + 2 * plan.block, 5 * channels) < _NARROW else tl.int64,
            BLOCK=plan.block,
            STORE=store,
            num_warps=warps,
            num_stages=1,
            enable_fp_fusion=False,  # a fused multiply-add rounds differently from the C++ backend
        )  # fmt: skip
    except Exception as error:
        if str(error).startswith("Triton Error [CUDA]"):  # the driver's: the kernel has compiled
            raise
        raise SynbenchError(
            f"sample_mixture: expected a kernel that compiles for {x.device}, got {first_line(error)}"
        ) from error
