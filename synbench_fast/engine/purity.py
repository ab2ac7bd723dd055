"""Whether features are a function of their sample alone, seen in small forward passes: four before a run, one after it."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from synbench_fast.encoders.base import is_out_of_memory
from synbench_fast.errors import SynbenchError, first_line

__all__ = ["check_drift", "check_head", "check_purity"]

Array = NDArray[np.float64]
Pair = tuple[Array, Array]  # features of the same samples from two forward passes

SAMPLES = 8  # of a forward pass, so that four of them are little beside a run
STEP = 3  # from one window to the next: odd, so that samples that a batch groups by 2, 4 or 8 get other companions
RUN_AGAIN = 200  # of that many samples of a run, one is run again at its end
TF32_EPS = 2.0**-10  # products in TF32 keep as many bits as float16

# What rounding may do to a feature, in units of eps, see `_largest_moves`. Networks with untrained weights moved
STORED = 16  # up to 10 units from float32 to bfloat16,
SUMMED = 4096  # up to 1 300 units of a feature's deviation between batch sizes in float64,
CANCELLED = 8  # and up to 1.3 units of the largest feature there.

HEAD = 1e-5  # how far the sum of probabilities in float32 may be from 1; rounding them to eps moves it by eps / 2 at most


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
    these few samples, and A again; where features move, the second and the third once more, because noise that comes in
    some calls only may have missed A. How far a feature moves between two passes is the root mean square of its
    difference over the samples that they share, relative to its deviation over all passes.

    Args:
        encode: x [B, *shape] to features [B, F]; every x that it gets is its own.
        draw: a count to as many samples of the run, [count, *shape].
        size: samples per forward pass of the run; n is no more, and from 2 to 8.
        spec: the encoder's name in messages.
        dtype: that the encoder computes in; that of its features counts where it is coarser.
        tf32: whether products of float32 may be rounded to TF32.
        seen: features of a batch of the run that begins with the same samples, which are compared as well;
            no memory of the encoder, which may write into it.

    Raises:
        SynbenchError: features of A differ the second time by more than rounding.
    """
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
    if seen is not None:
        passes.append(seen[:size].detach().to("cpu", copy=True))
    like = passes[0]
    if not all(one.ndim == 2 and one.is_floating_point() and one.shape[1] == like.shape[1] for one in passes):
        return []  # the run names what is wrong
    values = torch.cat(passes).double().numpy()
    first, later, *others = np.split(values, np.cumsum([len(one) for one in passes])[:-1])
    if not np.isfinite(values).all():
        if seen is None or not np.isfinite(others[-1]).all():
            return []  # the run names the sample
        return [_depends("other values than finite ones", f"in a batch of {size} or fewer")]
    again = others.pop(-1 if seen is None else -2)
    step = _step(size)
    apart = [(first[step:], later[: size - step]), *((first[: len(one)], one) for one in others)]
    eps = _eps(dtype, like.dtype, tf32=tf32)
    repeated, moved = _largest_moves([(first, again)], apart, values, eps)
    if repeated:
        raise _unstable(spec, repeated, "from call to call")
    if moved:
        if by := _largest_moves(_repeats(encode, draw, size, passes, failure), [], values, eps)[0]:
            raise _unstable(spec, by, "from call to call")
        what = f"one that moves by {moved:.2g} times its deviation"
        return [_depends(what, "with the batch that the sample is in")]
    return [_depends(f"a failure ({failure})", f"in a batch of {step}")] if failure else []


def check_head(features: Tensor) -> list[str]:
    """The warning where every row of features [B, F] is a distribution: the encoder ends in a classifier's softmax.

    Whatever the features of an encoder were before it, a softmax bounds them and ties them to one plane.
    """
    if features.ndim != 2 or features.shape[1] < 2 or not features.is_floating_point():
        return []
    values = features.detach().to("cpu", torch.float64)
    allowed = HEAD + torch.finfo(features.dtype).eps
    if bool((values >= 0).all()) and bool(((values.sum(1) - 1).abs() <= allowed).all()):
        return [
            "features: expected those of a representation, got rows that are not negative and add up to 1, as a "
            "classifier's probabilities do; choose a tensor before the head"
        ]
    return []


def check_drift(
    encode: Callable[[Tensor], Tensor],
    draw: Callable[[int], Tensor],
    kept: Tensor,
    run: int,
    *,
    spec: str,
    dtype: torch.dtype,
    tf32: bool,
) -> None:
    """Run samples from the beginning of a run again at its end: a state may have moved, or noise may have set in.

    One of RUN_AGAIN samples is run again, at least 2, in one batch. Where a feature moves, the batch of then is run
    again as a whole, and the small one as well: what depends on its batch alone is the same in the same batch.

    Args:
        encode, draw, spec, dtype, tf32: as in `check_purity`; `draw` gives the first samples of the batch of then.
        kept: features of that batch, [B, F] on the CPU.
        run: samples that have been run since.

    Raises:
        SynbenchError: features of the same batch have moved by more than rounding, or the batch fails that was taken then.
    """
    if not kept.isfinite().all():
        return  # the run names the sample
    eps = _eps(dtype, kept.dtype, tf32=tf32)

    failures: list[str] = []

    def features(count: int) -> Tensor | None:
        """None where the encoder fails with this many samples, as those of whole groups do."""
        try:
            found = encode(draw(count)).detach().to("cpu", copy=True)
        except Exception as error:
            failures.append("" if is_out_of_memory(error) else first_line(error))
            return None
        if found.shape == kept[:count].shape and found.is_floating_point():
            return found
        failures.append(f"features {list(found.shape)}")
        return None

    def moved(then: Tensor, now: Tensor) -> float:
        values = torch.cat([kept, then, now]).double().numpy()
        if not np.isfinite(values).all():
            return math.inf
        pair = (then.double().numpy(), now.double().numpy())
        return _largest_moves([], [pair], values, eps)[1]

    count = min(len(kept), max(2, run // RUN_AGAIN))
    few = features(count)
    if few is not None and not few.isfinite().all():  # it may be so in every small batch
        few = None
    if few is not None and not moved(kept[:count], few):
        return
    whole = features(len(kept))
    if whole is None:
        if not failures[-1]:
            return  # no room is left for a batch that was taken then, which says nothing of its features
        raise SynbenchError(
            f"encoder {spec}: expected the same features whenever the same batch comes, got a failure at the end of the run "
            f"({failures[-1]}) with a batch that it took at the beginning; a state is kept between calls"
        )
    again = features(count)
    if by := moved(kept, whole):
        raise _unstable(spec, by, "from the beginning of the run to its end")
    if few is not None and again is not None and (by := moved(few, again)):
        raise _unstable(spec, by, "from call to call at the end of the run")


def _eps(*dtypes: torch.dtype, tf32: bool) -> float:
    eps = max(torch.finfo(one).eps for one in dtypes)
    return max(eps, TF32_EPS) if tf32 else eps


def _unstable(spec: str, moves: float, when: str) -> SynbenchError:
    return SynbenchError(
        f"encoder {spec}: expected the same features whenever the same batch comes, got one that moves by "
        f"{moves:.2g} times its deviation {when}; noise such as dropout is left on, or a state is kept between calls"
    )


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


def _repeats(
    encode: Callable[[Tensor], Tensor],
    draw: Callable[[int], Tensor],
    size: int,
    passes: Sequence[Tensor],
    failure: str,
) -> list[Pair]:
    """The second and, unless it failed, the third of `_passes`, each with its features in a further call."""
    x = draw(size + _step(size))
    rows = [slice(_step(size), None), slice(0, _step(size))][: 1 if failure else 2]
    then = [one.double().numpy() for one in passes[1 : 1 + len(rows)]]
    now = [encode(x[one].clone()).detach().to("cpu", copy=True).double().numpy() for one in rows]
    return [pair for pair in zip(then, now, strict=True) if pair[0].shape == pair[1].shape]


def _step(size: int) -> int:
    return min(STEP, size - 1)


def _largest_moves(
    repeated: Sequence[Pair], apart: Sequence[Pair], values: Array, eps: float
) -> tuple[float, float]:
    """How far the feature moves that moves most, relative to its deviation over all `values`; 0 if by rounding alone.

    Once for rows that came twice in the same batch and once for rows of different batches. Rounding may move a
    feature of deviation d and root mean square r between different batches by

        STORED eps (d + r) + fine (SUMMED d + CANCELLED max r),    fine = min(eps, eps of float32)

    because values are stored with eps and products are summed at least in float32, and because a feature that is
    zero but for rounding has the errors of what it was the difference of; in the same batch, which runs the same
    kernels, by half of that.
    """
    deviation = values.std(0)
    size = np.sqrt(np.square(values).mean(0))
    fine = min(eps, torch.finfo(torch.float32).eps)
    allowed = STORED * eps * (deviation + size) + fine * (SUMMED * deviation + CANCELLED * size.max())

    def largest(pairs: Sequence[Pair], room: float) -> float:
        found = 0.0
        for one, other in pairs:
            moved = np.sqrt(np.square(one - other).mean(0))
            beyond = moved > room * allowed  # so its deviation is not zero
            if beyond.any():
                found = max(found, float((moved[beyond] / deviation[beyond]).max()))
        return found

    return largest(repeated, 0.5), largest(apart, 1.0)
