"""Whether features are a function of their sample alone, seen in four small forward passes before a run."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from synbench_fast.encoders.base import is_out_of_memory
from synbench_fast.errors import SynbenchError, first_line

__all__ = ["check_purity"]

SAMPLES = 8  # of a forward pass, so that four of them are little beside a run
STEP = 3  # from one window to the next: odd, so that samples that a batch groups by 2, 4 or 8 get other companions
TF32_EPS = 2.0**-10  # products in TF32 keep as many bits as float16

# What rounding may do to a feature, in units of eps, see `_largest_move`. Networks with untrained weights moved
STORED = 16  # up to 10 units from float32 to bfloat16,
SUMMED = 4096  # up to 1 300 units of a feature's deviation between batch sizes in float64,
CANCELLED = 8  # and up to 1.3 units of the largest feature there.


def check_purity(
    encode: Callable[[Tensor], Tensor],
    draw: Callable[[int], Tensor],
    size: int,
    *,
    spec: str,
    dtype: torch.dtype,
    tf32: bool,
    seen: Tensor | None = None,
) -> list[str]:
    """Run the same samples in other batches, and again; returns the warning if features depend on their batch.

    With n samples per forward pass, the passes are A = samples 0 .. n - 1, as many that begin a few samples later,
    these few samples, and A again. How far a feature moves between two passes is the root mean square of its difference
    over the samples that they share, relative to its deviation over all passes.

    Args:
        encode: x [B, *shape] to features [B, F]; every x that it gets is its own.
        draw: a count to as many samples of the run, [count, *shape].
        size: samples per forward pass of the run; n is no more, and from 2 to 8.
        spec: the encoder's name in messages.
        dtype: that the encoder computes in; that of its features counts where it is coarser.
        tf32: whether products of float32 may be rounded to TF32.
        seen: features of a batch of the run that begins with the same samples, which are compared as well.

    Raises:
        SynbenchError: features of A differ the second time by more than rounding.
    """
    kept = [] if seen is None else [seen[:SAMPLES].detach().to("cpu", copy=True)]
    size = max(2, min(size, SAMPLES))
    while True:
        try:
            passes, failure = _passes(encode, draw, size)
            break
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            if size == 2:
                return [
                    "features: expected to see whether they depend on their batch, got no room for a batch of 2: "
                    f"{first_line(error)}"
                ]
            size //= 2
    if not all(_well_formed(one, passes[0]) for one in kept or passes):
        return []  # the run names what is wrong, and where
    if not all(_well_formed(one, passes[0]) for one in passes):
        return [_depends("other values than finite ones", f"in a batch of {size} or fewer")]
    first, later, *shorter, again = passes
    eps = max(torch.finfo(one).eps for one in (dtype, first.dtype))
    if tf32:
        eps = max(eps, TF32_EPS)
    every = torch.cat([*passes, *kept]).double()
    share = _largest_move([(first, again)], every, eps / 2)  # both ran the same kernels
    if share:
        raise SynbenchError(
            f"encoder {spec}: expected the same features whenever the same batch comes, got one that moves by "
            f"{share:.2g} times its deviation from call to call; noise such as dropout is left on, or a state is kept "
            "between calls"
        )
    step = _step(size)
    pairs = [(first[step:], later[: size - step])]
    pairs += [(first[: len(one)], one) for one in shorter]
    pairs += [(first[: len(one)], one[:size]) for one in kept]
    share = _largest_move(pairs, every, eps)
    if share:
        return [
            _depends(
                f"one that moves by {share:.2g} times its deviation", "with the batch that the sample is in"
            )
        ]
    return [_depends(f"a failure ({failure})", f"in a batch of {step}")] if failure else []


def _depends(what: str, where: str) -> str:
    return (
        f"features: expected each to depend on its own sample alone, got {what} {where}; the score depends on the "
        "batch size"
    )


def _passes(
    encode: Callable[[Tensor], Tensor], draw: Callable[[int], Tensor], size: int
) -> tuple[list[Tensor], str]:
    """Features of A, of the window after it, of what that leaves out of A, and of A again; and how the third failed.

    The third is a batch of 3, or of 1 where n is 2: an encoder that takes no such batch is run in those it takes.
    """
    x = draw(size + _step(size))

    def features(rows: slice) -> Tensor:
        # Copies on both sides: an encoder may keep or change its input, and may return the same buffer every time.
        return encode(x[rows].clone()).detach().to("cpu", copy=True)

    passes, failure = [features(slice(0, size)), features(slice(_step(size), None))], ""
    try:
        passes.append(features(slice(0, _step(size))))
    except Exception as error:
        if is_out_of_memory(error):
            raise
        failure = first_line(error)
    return [*passes, features(slice(0, size))], failure


def _step(size: int) -> int:
    return min(STEP, size - 1)


def _well_formed(features: Tensor, like: Tensor) -> bool:
    return (
        features.ndim == 2
        and features.is_floating_point()
        and features.shape[1:] == like.shape[1:]
        and bool(torch.isfinite(features).all())
    )


def _largest_move(pairs: Sequence[tuple[Tensor, Tensor]], every: Tensor, eps: float) -> float:
    """How far the feature moves that moves most, relative to its deviation over `every` row; 0 if by rounding alone.

    Rounding may move a feature of deviation d and root mean square r by

        STORED eps (d + r) + fine (SUMMED d + CANCELLED max r),    fine = min(eps, eps of float32)

    because values are stored with eps and products are summed at least in float32, and because a feature that is
    zero but for rounding has the errors of what it was the difference of.
    """
    deviation = every.std(0, correction=0)
    size = every.square().mean(0).sqrt()
    fine = min(eps, torch.finfo(torch.float32).eps)
    allowed = STORED * eps * (deviation + size) + fine * (SUMMED * deviation + CANCELLED * size.max())
    largest = 0.0
    for one, other in pairs:
        moved = (one.double() - other.double()).square().mean(0).sqrt()
        beyond = moved > allowed  # so its deviation is not zero
        if bool(beyond.any()):
            largest = max(largest, float((moved[beyond] / deviation[beyond]).max()))
    return largest
