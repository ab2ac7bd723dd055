"""Kinds of arguments: what values one takes, checked from Python and read from a command line. No torch is imported."""

from __future__ import annotations

import numbers
import os
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from synbench_fast import arguments
from synbench_fast.arguments import ESTIMATORS
from synbench_fast.checks import as_float, as_numbers, check_integer
from synbench_fast.errors import SynbenchError, suggest
from synbench_fast.scales import spread_scales

__all__ = [
    "DTYPES",
    "DTYPE_SYNONYMS",
    "Kind",
    "batch_size",
    "between",
    "choice",
    "compile",
    "device",
    "dtype",
    "estimator",
    "estimators",
    "flag",
    "half_width",
    "optional",
    "path",
    "plain_number",
    "scales",
]

DTYPES = ("auto", "float32", "tf32", "bfloat16", "float16", "float64")
DTYPE_SYNONYMS = {"fp32": "float32", "bf16": "bfloat16", "fp16": "float16", "fp64": "float64"}


@dataclass(frozen=True)
class Kind:
    """What values an argument takes.

    Attributes:
        metavar: how help shows them.
        check: from (name of the argument, value of Python) to the value that is kept, or a SynbenchError.
        read: from (name of the option, text of a command line) to the same, or a UsageError.
        words: what a shell can complete it to; without any, to names of files.
    """

    metavar: str
    check: Callable[[str, Any], Any]
    read: Callable[[str, str], Any]
    words: Callable[[], Iterable[str]] = tuple

    @property
    def is_flag(self) -> bool:
        """Whether the option takes no value: it is given, or given as --no-OPTION."""
        return not self.metavar


def optional(check: Callable[[str, Any], Any]) -> Callable[[str, Any], Any]:
    """`check`, but for None, which stays None."""
    return lambda name, value: None if value is None else check(name, value)


def _word(name: str, value: Any, words: Sequence[str]) -> str:
    if not isinstance(value, str) or value not in words:
        raise SynbenchError(
            f"{name}: expected one of {list(words)}, got {value!r}{suggest(str(value), words)}"
        )
    return value


def choice(words: tuple[str, ...]) -> Kind:
    """One of these words."""
    return Kind(
        metavar="|".join(words),
        check=lambda name, value: _word(name, value, words),
        read=lambda option, text: arguments.choice(option, text, words),
        words=lambda: words,
    )


def dtype(name: str, value: Any) -> str:
    """Its one name, from a name, a synonym such as fp32, or a torch dtype."""
    word = str(value).removeprefix("torch.")
    word = DTYPE_SYNONYMS.get(word, word)
    if word not in DTYPES:
        raise SynbenchError(
            f"{name}: expected one of {list(DTYPES)}, got {word!r}{suggest(word, [*DTYPES, *DTYPE_SYNONYMS])}"
        )
    return word


def plain_number(name: str, value: Any) -> Any:
    """A float where it is a number; what it may be, the task says, for which suites have further values."""
    return as_float(value) if isinstance(value, numbers.Real) and not isinstance(value, bool) else value


def scales(name: str, value: Any) -> int | tuple[float, ...]:
    """How many scales, as an int, or their values."""
    if isinstance(value, numbers.Integral) and not isinstance(value, bool):
        spread_scales(int(value))
        return int(value)
    if isinstance(value, numbers.Real | str):
        raise SynbenchError(f"{name}: expected their number or a sequence of values, got {value!r}")
    return as_numbers(value, name)


LEAST_HALF_WIDTH = 1e-4  # a tenth of what the most samples that are drawn give


def half_width(name: str, value: Any) -> float:
    """A number from LEAST_HALF_WIDTH to 1, 1 excluded."""
    if (
        isinstance(value, bool)
        or not isinstance(value, numbers.Real)
        or not LEAST_HALF_WIDTH <= as_float(value) < 1
    ):
        raise SynbenchError(f"{name}: expected a half-width in [{LEAST_HALF_WIDTH:g}, 1), got {value!r}")
    return float(value)


def batch_size(name: str, value: Any) -> int | str:
    """The word auto or a positive integer."""
    if value == "auto":
        return "auto"
    if isinstance(value, str):
        raise SynbenchError(f"{name}: expected 'auto' or a positive integer, got {value!r}")
    return check_integer(name, value, 1, "'auto' or a positive integer")


def device(name: str, value: Any) -> str:
    """Its text; whether there is such a device, the engine says."""
    if value is None or isinstance(value, bool | int | float):
        raise SynbenchError(f"{name}: expected 'auto', 'cpu', 'cuda' or 'cuda:N', got {value!r}")
    return str(value)


def compile(name: str, value: Any) -> bool | str:
    """True, False or the word auto."""
    if value is True or value is False or value == "auto":
        return bool(value) if isinstance(value, bool) else "auto"
    raise SynbenchError(f"{name}: expected True, False or 'auto', got {value!r}")


def path(name: str, value: Any) -> str:
    """A path as text."""
    if not isinstance(value, str | os.PathLike):
        raise SynbenchError(f"{name}: expected a path, got {value!r}")
    return os.fspath(value) if isinstance(value, str) else str(value)


def estimator(option: str, text: str) -> str:
    """Names of other packages are looked for if one that is not built in is asked for."""
    if text in ESTIMATORS:
        return text
    return arguments.choice(option, text, estimators())


def estimators() -> list[str]:
    """Names of the estimators, with those of other packages."""
    from synbench_fast import plugins

    return [*ESTIMATORS, *plugins.names("estimators")]


def flag() -> Kind:
    """True or False."""
    return Kind("", lambda name, value: bool(value), lambda option, text: text == "true")


def between(low: float, below: float, metavar: str, check: Callable[[Any], tuple[float, ...]]) -> Kind:
    """Distinct numbers, `low` included and `below` not."""
    return Kind(
        metavar,
        lambda name, value: check(value),
        lambda option, text: arguments.numbers(option, text, low=low, below=below, distinct=True),
    )
