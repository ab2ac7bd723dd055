"""What a method of fine-tuning is, how it is found by its name, and what it works with: the bench.

A method is a frozen dataclass whose fields are its options. `fine_tune` returns a new classifier and leaves the one
that it is given as it was. In the text that names a method options follow a question mark: "wise?alpha=0.3".
"""

from __future__ import annotations

import abc
import dataclasses
import importlib
import math
import pkgutil
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from synbench_fast.arguments import decimal
from synbench_fast.errors import SynbenchError, suggest
from synbench_fast.studies.inheritance.cells import TrainingSummary
from synbench_fast.studies.inheritance.data import DataSuite, Part
from synbench_fast.studies.inheritance.model import Classifier
from synbench_fast.studies.inheritance.schedule import Training
from synbench_fast.studies.inheritance.training import Diverged, Penalty, fit

__all__ = ["Bench", "Method", "check_range", "find", "names"]

_FOLDER = str(Path(__file__).parent / "methods")


@dataclass(frozen=True)
class Method(abc.ABC):
    """Base of all methods; subclasses add their options as fields of type float, int or str."""

    title: ClassVar[str]
    averages: ClassVar[bool] = (
        True  # whether the result has the weights of the original and can be averaged with it
    )

    @abc.abstractmethod
    def fine_tune(self, bench: Bench) -> tuple[Classifier, TrainingSummary]:
        """Fine-tune a copy of `bench.original` on `bench.part`."""

    def check(self, original: Classifier, suite: DataSuite) -> None:
        """SynbenchError if something is missing that fine-tuning needs; asked before any method trains. Most need nothing."""
        return None


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


def names() -> tuple[str, ...]:
    """What the files of the folder methods are called, '-' for '_'."""
    return tuple(sorted(one.name.replace("_", "-") for one in pkgutil.iter_modules([_FOLDER])))


def find(text: str) -> Method:
    """The method that `text` names, such as "ft" or "lwf?temperature=1&weight=2"."""
    name, _, query = text.partition("?")
    if name not in names():
        raise SynbenchError(
            f"methods: expected one of {', '.join(names())}, got {text!r}{suggest(name, names())}"
        )
    kind: type[Method] = importlib.import_module(f"{__package__}.methods.{name.replace('-', '_')}").METHOD
    fields = {one.name: one for one in dataclasses.fields(kind)}
    options: dict[str, Any] = {}
    for item in filter(None, query.split("&")):
        key, equals, value = item.partition("=")
        if key in options:
            raise SynbenchError(f"methods: expected {key} once, got it twice in {text!r}")
        if key not in fields or not equals:
            known = ", ".join(f"{one.name}={one.default}" for one in fields.values()) or "no options"
            raise SynbenchError(f"methods: expected {name} with {known}, got {text!r}{suggest(key, fields)}")
        options[key] = _value(fields[key].default, value, key, text)
    return kind(**options)


def _value(default: Any, value: str, key: str, text: str) -> Any:
    if isinstance(default, str):
        return value
    number = decimal(value)
    if isinstance(default, int) and not re.fullmatch("[+-]?[0-9]{1,15}", value):
        number = None
    if number is None:
        kind = "an integer" if isinstance(default, int) else "a number"
        raise SynbenchError(f"methods: expected {kind} for {key}, got {value!r} in {text!r}")
    return type(default)(number)


def check_range(method: str, values: Mapping[str, float], low: float, high: float = math.inf) -> None:
    """SynbenchError unless low <= value <= high for every option in `values`."""
    for name, value in values.items():
        if not low <= value <= high:
            span = f"of at least {low:g}" if high == math.inf else f"in [{low:g}, {high:g}]"
            raise SynbenchError(f"methods: expected {name} {span} for {method}, got {value:g}")
