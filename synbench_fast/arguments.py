"""Values of command-line options: text in, typed value out, or one line that says what was expected; and values as text."""

from __future__ import annotations

import math
import numbers as number_types
import os
import re
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from synbench_fast.errors import SynbenchError, suggest
from synbench_fast.runtime.local_files import split_checkpoint

__all__ = [
    "ESTIMATORS",
    "UsageError",
    "checkpoint",
    "choice",
    "count_or_numbers",
    "decimal",
    "device",
    "existing_file",
    "folder",
    "integer",
    "most_at_once",
    "number",
    "numbers",
    "shape",
    "shell_text",
    "shell_words",
]

ESTIMATORS = ("consistent", "gaussian", "counted", "paper")  # the first is the default everywhere

_DEVICES = ("auto", "cpu", "cuda", "mps", "xpu")


def most_at_once() -> int:
    """Threads of a process, or workers of this machine, beyond which it is a slip: four per core, but 64 anywhere."""
    return max(64, 4 * (os.cpu_count() or 1))


class UsageError(SynbenchError):
    """The command line itself is wrong: exit code 2."""


def choice(option: str, text: str, names: Sequence[str]) -> str:
    """One of `names`, exactly."""
    if text not in names:
        raise UsageError(f"{option}: expected one of {', '.join(names)}, got {text!r}{suggest(text, names)}")
    return text


def integer(option: str, text: str, *, low: int, high: int | None = None, or_word: str | None = None) -> int:
    """A decimal integer from `low` to `high`; `or_word` is named in the error as what else would do."""
    value = int(text) if re.fullmatch(r"[+-]?[0-9]{1,30}", text) else None
    if value is None or value < low or (high is not None and value > high):
        span = f"an integer of at least {low}" if high is None else f"an integer from {low} to {high}"
        word = f"{or_word!r} or " if or_word else ""
        raise UsageError(f"{option}: expected {word}{span}, got {text!r}")
    return value


def number(option: str, text: str, *, above: float = -math.inf, below: float = math.inf) -> float:
    """A finite number strictly between `above` and `below`."""
    value = decimal(text)
    if value is None or not above < value < below:
        span = f" between {above:g} and {below:g}" if math.isfinite(above) else ""
        raise UsageError(f"{option}: expected a number{span}, got {text!r}")
    return value


def count_or_numbers(option: str, text: str) -> int | tuple[float, ...]:
    """An integer of at least 1 is a count; anything with a comma or a decimal point is increasing values."""
    if re.fullmatch(r"[+-]?[0-9]+", text):
        return integer(option, text, low=1)
    values = tuple(decimal(part) for part in text.split(","))
    if any(b is None or b <= (a or 0) for a, b in zip((0.0, *values), values, strict=False)):
        raise UsageError(
            f"{option}: expected a count such as 12 or increasing values such as 0.5,1.0, got {text!r}"
        )
    return tuple(value for value in values if value is not None)


def numbers(
    option: str,
    text: str,
    *,
    low: float = -math.inf,
    below: float = math.inf,
    above: float = -math.inf,
    distinct: bool = False,
) -> tuple[float, ...]:
    """Comma-separated finite numbers or quotients such as 8/255, each >= `low`, > `above` and < `below`."""
    expected = "comma-separated " + ("distinct " if distinct else "") + "numbers"
    if math.isfinite(low):
        expected += f" in [{low:g}, {below:g})"
    elif math.isfinite(above):
        expected += f" above {above:g}"
    values: list[float] = []
    for part in text.split(","):
        value = _quotient(part)
        got = repr(part) if part == text else f"{part!r} in {text!r}"
        if value is None or not (value >= low and above < value < below):
            raise UsageError(f"{option}: expected {expected}, got {got}")
        if distinct and value in values:
            raise UsageError(f"{option}: expected {expected}, got {part!r} twice in {text!r}")
        values.append(value)
    return tuple(values)


def shape(option: str, text: str) -> tuple[int, ...]:
    """Comma- or x-separated positive integers."""
    parts = re.split(r"[,x]", text)
    if not all(re.fullmatch(r" *0*[1-9][0-9]{0,9} *", part) for part in parts):
        raise UsageError(f"{option}: expected positive integers such as 3,224,224, got {text!r}")
    return tuple(int(part) for part in parts)


def device(option: str, text: str) -> str:
    """`auto` or a torch device such as `cpu`, `cuda`, `cuda:1`; whether it is there is not asked here."""
    kind, _, index = text.partition(":")
    indexed = ":" not in text or (re.fullmatch(r"[0-9]+", index) is not None and kind not in ("auto", "cpu"))
    if kind not in _DEVICES or not indexed:
        hint = ", did you mean cuda?" if kind.lower() == "gpu" else suggest(kind, _DEVICES)
        raise UsageError(f"{option}: expected {', '.join(_DEVICES)} or cuda:N, got {text!r}{hint}")
    return text


def existing_file(option: str, text: str) -> str:
    """Path of a file that exists."""
    if not os.path.isfile(text):  # False for a name that no file can have
        raise UsageError(f"{option}: expected an existing file, got {text!r}")
    return text


def checkpoint(option: str, text: str) -> str:
    """FILE or FILE#KEY, of a file that exists."""
    existing_file(option, str(split_checkpoint(text)[0]))
    return text


def folder(option: str, text: str) -> Path:
    """A directory, made if it is missing, that files can be written to."""
    if not text:
        raise UsageError(f"{option}: expected a directory, got ''")
    path = Path(text)
    try:
        path.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=path):
            pass
    except OSError as error:
        raise UsageError(
            f"{option}: expected a directory that can be written, got {text!r} ({error.strerror})"
        ) from None
    return path


def _quotient(text: str) -> float | None:
    first, slash, second = text.partition("/")
    a, b = decimal(first), decimal(second) if slash else 1.0
    return None if a is None or b is None or b == 0 or not math.isfinite(a / b) else a / b


def decimal(text: str) -> float | None:
    """The finite number that `text` is, in the digits 0 to 9; float() also takes those of other scripts, and 1_000."""
    if not re.fullmatch(r" *[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]+)? *", text):
        return None
    value = float(text)
    return value if math.isfinite(value) else None


def shell_words(name: str, value: Any) -> list[str]:
    """One option of a shell line."""
    flag = "--" + name.replace("_", "-")
    if value is None:
        return []
    if isinstance(value, bool):
        return [flag if value else "--no-" + flag.removeprefix("--")]
    if isinstance(value, Mapping):
        return [word for key, one in value.items() for word in (flag, f"{key}={one}")]
    if isinstance(value, Sequence) and not isinstance(value, str) and not value:
        return [flag, "none"]
    return [flag, shell_text(value, whole=name != "scales")]


def shell_text(value: Any, whole: bool = True) -> str:
    """A value as the command line takes it. 2.0 is "2", unless that would be read as a count."""
    if isinstance(value, number_types.Integral):
        return str(int(value))
    if isinstance(value, number_types.Real):
        text = repr(float(value))  # the shortest text that reads back as the same number
        return text.removesuffix(".0") if whole else text
    if isinstance(value, Iterable) and not isinstance(value, str | os.PathLike):
        return ",".join(shell_text(one, whole) for one in value)
    return str(value)
