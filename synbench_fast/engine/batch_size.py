"""How many samples go through the encoder at once."""

from __future__ import annotations

from synbench_fast.errors import SynbenchError

__all__ = ["BatchSize"]

RISE = 1.05  # a doubled batch must raise the throughput by more than 5 % to be worth its memory


class BatchSize:
    """Size of the next batch: `next`, then `report` how it went, or `too_large` if memory ran out.

    A growing size doubles until the images per second stop rising by more than 5 %; of each size the first
    whole batch warms up and the second one is measured. All of them are batches of the run: nothing is
    computed twice. A size that does not grow is measured too if `measured`, and never changes by itself.
    After a batch that did not fit, the size is half of it and stays there.

    Args:
        first: size to begin with.
        largest: never more than this, such as the samples of a scale.
        grow: whether doubling is tried.
        fixed: `first` was asked for: it is kept as it is, and when it does not fit, that is an error.
        measured: whether the speed is wanted even where nothing grows.
    """

    def __init__(
        self, first: int, *, largest: int, grow: bool = False, fixed: bool = False, measured: bool = False
    ) -> None:
        self._size = first if fixed else min(first, largest)
        self._largest = largest
        self._grow = grow
        self._fixed = fixed
        self._measuring = grow or measured
        self._warm = False
        self._best: tuple[int, float] | None = None  # size and seconds per image

    @property
    def settled(self) -> bool:
        """Whether the size will not change any more, unless memory runs out."""
        return not self._measuring

    @property
    def seconds_per_image(self) -> float | None:
        """Of the size that was settled on; None where it was not measured."""
        return self._best[1] if self._best is not None and self._best[0] == self._size else None

    def next(self) -> int:
        return self._size

    def report(self, count: int, seconds: float) -> None:
        """A batch of `count` samples took so long; batches cut short by the end of a scale say nothing."""
        if not self._measuring or count != min(self._size, self._largest):
            return
        if not self._warm:
            self._warm = True
            return
        each = max(seconds, 1e-9) / count
        if self._best is not None and self._best[1] <= each * RISE:
            self._size, self._measuring = self._best[0], False
            return
        self._best = (self._size, each)
        if not self._grow or self._size == self._largest:
            self._measuring = False
        else:
            self._size, self._warm = min(2 * self._size, self._largest), False

    def too_large(self, count: int, reason: str) -> None:
        """A batch of `count` did not fit: from now on half of it, or one line that says so."""
        if count == 1:
            raise SynbenchError(f"memory: expected room for a batch of 1, got {reason}")
        if self._fixed:
            raise SynbenchError(
                f"batch_size: expected a batch that fits into memory, got {self._size} ({reason}); "
                f"try {self._size // 2}"
            )
        self._size = self._largest = count // 2
        if self._best is not None and self._best[0] == self._size:
            self._measuring = False
        else:  # what was measured at another size does not describe this one
            self._warm = False
            self._best = None
