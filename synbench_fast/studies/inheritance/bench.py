"""What a method works with: the original classifier, the data set to fine-tune on, and how to train."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from synbench_fast.studies.inheritance.cells import TrainingSummary
from synbench_fast.studies.inheritance.methods import Method, find
from synbench_fast.studies.inheritance.training import Diverged, Penalty, Training, fit

if TYPE_CHECKING:
    from synbench_fast.studies.inheritance.data import Part
    from synbench_fast.studies.inheritance.model import Classifier

__all__ = ["Bench"]


class Bench:
    """One original classifier, one data set, one seed; what several methods need is made once.

    Args:
        original: the pre-trained classifier; methods leave it as it is.
        part: to fine-tune on.
        training: optimiser and schedule.
        seed: of everything that a method draws.
        pretraining_train: images of the pre-training data for methods that look back, or None.
    """

    def __init__(
        self,
        original: Classifier,
        part: Part,
        training: Training,
        *,
        seed: int,
        pretraining_train: Part | None = None,
    ) -> None:
        self.original, self.part, self.training, self.seed = original, part, training, seed
        self.pretraining_train = pretraining_train
        self._made: dict[Method, tuple[Classifier, TrainingSummary] | Diverged] = {}
        self._reruns: dict[int, Bench] = {}

    def tune(self, method: Method | str) -> tuple[Classifier, TrainingSummary]:
        """The classifier that `method` makes, kept for methods that start from it; not to be changed.

        Raises:
            Diverged: it did not stay finite; methods that start from it fail for the same reason.
        """
        one = find(method) if isinstance(method, str) else method
        if one not in self._made:
            try:
                self._made[one] = one.fine_tune(self)
            except Diverged as error:
                self._made[one] = error
        made = self._made[one]
        if isinstance(made, Diverged):
            raise made
        return made

    def rerun(self, number: int) -> Bench:
        """The same with a seed that no other run has: number 0 is this bench itself."""
        if number == 0:
            return self
        if number not in self._reruns:
            seed = (self.seed + 0x9E3779B97F4A7C15 * number) % 2**63
            self._reruns[number] = Bench(
                self.original, self.part, self.training, seed=seed, pretraining_train=self.pretraining_train
            )
        return self._reruns[number]

    def fit(
        self,
        start: Classifier,
        penalty: Callable[[Classifier], Penalty] | None = None,
        *,
        seed: int | None = None,
    ) -> tuple[Classifier, TrainingSummary]:
        """Train all weights of a copy of `start`; `penalty` makes the penalty of that copy."""
        model = start.clone()
        summary = fit(
            model,
            self.part,
            self.training,
            parameters=model.parameters(),
            seed=self.seed if seed is None else seed,
            penalty=None if penalty is None else penalty(model),
        )
        return model, summary
