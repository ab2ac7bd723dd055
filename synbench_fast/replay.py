"""The command that repeats a run, from the arguments it was given."""

from __future__ import annotations

import numbers
import os
import shlex
from collections.abc import Iterable, Mapping
from typing import Any

__all__ = ["replay_command"]

_FLAGS = ("random_init", "published_preprocessing", "trust_remote_code")


def replay_command(spec: str, options: Mapping[str, Any]) -> str:
    """The shell line that repeats a run. `options`: arguments of score(), None and flags that are off left out.

    `compile` is "auto", which is left out, or a flag with a negative of its own.

    >>> replay_command("timm:resnet18", {"eps": (0.0, 0.2), "seed": 0, "random_init": True, "mean": None})
    'synbench-fast run timm:resnet18 --eps 0,0.2 --seed 0 --random-init'
    """
    words = ["synbench-fast", "run", spec]
    for name, value in options.items():
        if value is None or (name in _FLAGS and not value) or (name == "compile" and value == "auto"):
            continue
        if name == "compile":
            words.append("--compile" if value else "--no-compile")
            continue
        words.append("--" + name.replace("_", "-"))
        if name not in _FLAGS:
            words.append(_argument(value, whole=name != "scales"))
    return shlex.join(words)


def _argument(value: Any, whole: bool) -> str:
    """One value as the command line takes it. 2.0 is "2", unless that would be read as a count."""
    if hasattr(value, "tolist"):  # of NumPy or Torch
        value = value.tolist()
    if isinstance(value, numbers.Integral):
        return str(int(value))
    if isinstance(value, numbers.Real):
        text = repr(float(value))  # the shortest text that reads back as the same number
        return text.removesuffix(".0") if whole else text
    if isinstance(value, Iterable) and not isinstance(value, str | os.PathLike):
        return ",".join(_argument(one, whole) for one in value)
    return str(value).removeprefix("torch.")  # torch.float32 is --dtype float32
