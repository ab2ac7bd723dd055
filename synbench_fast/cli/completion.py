"""Words that a shell completes the command line to. No torch is imported."""

from __future__ import annotations

import os

from synbench_fast import plugins

__all__ = ["bash_words", "encoder_names", "fleet_names", "suite_names"]

SUITES = (
    "published",
    "patterns",
    "covariances",
    "priors",
    "full",
    "structure",
)  # as in tasks/suites.py, which imports torch


def encoder_names() -> list[str]:
    """Sources, and the encoders of this package: the names that need no library to be imported."""
    from synbench_fast.encoders.registry import BUILTIN, REGISTRY

    sources = dict.fromkeys([*REGISTRY, *plugins.names("encoders")])
    return [*(f"{one}:" for one in sources), *(f"builtin:{one}" for one in BUILTIN)]


def fleet_names() -> list[str]:
    """What --models takes: the lists of the package, and what names one encoder."""
    from synbench_fast.encoders.lists import list_names

    return [*list_names(), *encoder_names()]


def suite_names() -> list[str]:
    return [*SUITES, "classes:", *plugins.names("tasks")]


def bash_words() -> None:
    """Let typer read the words of bash, which ends one at a colon and at an equals sign, as in --format=json."""
    words = os.environ.get("COMP_WORDS", "").split("\n")[: int(os.environ.get("COMP_CWORD") or 0) + 1]
    words = [one for one in words if one != "="] + ([""] if words[-1] in ("=", ":") else [])
    os.environ |= {"COMP_WORDS": "\n".join(words), "COMP_CWORD": str(len(words) - 1)}
