"""Methods of fine-tuning: one file each, found by the file's name; METHOD in it is the class.

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
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar

from synbench_fast.arguments import decimal
from synbench_fast.errors import SynbenchError, suggest

if TYPE_CHECKING:
    from synbench_fast.studies.inheritance.bench import Bench
    from synbench_fast.studies.inheritance.cells import TrainingSummary
    from synbench_fast.studies.inheritance.data import DataSuite
    from synbench_fast.studies.inheritance.model import Classifier

__all__ = ["Method", "find", "names"]


@dataclasses.dataclass(frozen=True)
class Method(abc.ABC):
    """Base of all methods; subclasses add their options as fields of type float, int or str."""

    title: ClassVar[str]
    averages: ClassVar[bool] = (
        True  # whether the result has the weights of the original and can be averaged with it
    )

    @abc.abstractmethod
    def fine_tune(self, bench: Bench) -> tuple[Classifier, TrainingSummary]:
        """Fine-tune a copy of `bench.original` on `bench.part`."""

    # Not abstract: most methods need nothing.
    def check(self, original: Classifier, suite: DataSuite) -> None:  # noqa: B027
        """SynbenchError if something is missing that fine-tuning needs; asked before any method trains."""


def names() -> tuple[str, ...]:
    """What the files of this folder are called, '-' for '_'."""
    return tuple(sorted(one.name.replace("_", "-") for one in pkgutil.iter_modules(__path__)))


def find(text: str) -> Method:
    """The method that `text` names, such as "ft" or "lwf?temperature=1&weight=2"."""
    name, _, query = text.partition("?")
    if name not in names():
        raise SynbenchError(
            f"methods: expected one of {', '.join(names())}, got {text!r}{suggest(name, names())}"
        )
    kind: type[Method] = importlib.import_module(f"{__name__}.{name.replace('-', '_')}").METHOD
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
