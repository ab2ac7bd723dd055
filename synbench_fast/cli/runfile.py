"""The file of `run --config`: options of the score, encoders with options of their own, tasks and the folder."""

from __future__ import annotations

import json
import os
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass, field, fields
from typing import Any

from synbench_fast.config import ScoreConfig, option_of
from synbench_fast.errors import SynbenchError, suggest
from synbench_fast.runtime.toml_files import read_toml

__all__ = ["Named", "RunFile", "dump", "load"]

Named = tuple[str, dict[str, Any]]  # spec, its own arguments of score()


@dataclass(frozen=True, kw_only=True)
class RunFile:
    """What a file says; by default nothing."""

    config: ScoreConfig
    encoders: list[Named] = field(default_factory=list)
    tasks: str | None = None
    out: str | None = None


def load(path: str | os.PathLike[str], base: ScoreConfig) -> RunFile:
    """Read a TOML file: `encoders`, `tasks`, `out`, and fields of ScoreConfig in place of those of `base`.

    An encoder is a spec, or a table with `spec` and those fields that belong to one encoder.

    Raises:
        SynbenchError: no TOML, or the key that does not fit.
    """
    try:
        document = read_toml(path)
    except SynbenchError as error:
        raise SynbenchError(f"config: {error}") from None
    try:
        encoders = document.pop("encoders", [])
        texts = {name: document.pop(name, None) for name in ("tasks", "out")}
        for name, value in texts.items():
            if value is not None and (not isinstance(value, str) or not value):
                raise SynbenchError(f"{name}: expected text, got {value!r:.60}")
        config = type(base).of(base, document)
        if not isinstance(encoders, list):
            raise SynbenchError(f"encoders: expected a list of specs, got {encoders!r:.60}")
        named = [_named(one, config) for one in encoders]
    except ValueError as error:  # SynbenchError, or an integer of more digits than Python prints
        raise SynbenchError(f"config: {os.fspath(path)}: {error}") from None
    return RunFile(config=config, encoders=named, **texts)


def _own_fields(config: ScoreConfig) -> list[str]:
    return [one.name for one in fields(config) if option_of(one).decides == "encoder"]


def _named(value: Any, config: ScoreConfig) -> Named:
    """An entry of `encoders`, its options checked."""
    if isinstance(value, str):
        return value, {}
    if not isinstance(value, dict) or not isinstance(value.get("spec"), str):
        raise SynbenchError(f'encoders: expected "SPEC" or {{ spec = "SPEC", ... }}, got {value!r:.60}')
    own, known = {key: one for key, one in value.items() if key != "spec"}, _own_fields(config)
    for key in own:
        if key not in known:
            raise SynbenchError(
                f"encoders: {value['spec']}: expected spec, {', '.join(known)}, got {key!r}{suggest(key, known)}"
            )
    try:
        checked = type(config).of(config, own)
    except SynbenchError as error:
        raise SynbenchError(f"encoders: {value['spec']}: {error}") from None
    return value["spec"], {key: getattr(checked, key) for key in own}


def dump(config: ScoreConfig, named: Sequence[Named], tasks: str | None, out: str | None) -> str:
    """The text of a file that `load` reads as these; every field has its help as a comment, and None is commented out."""
    lines = [
        "# synbench-fast run --config FILE.toml",
        "",
        "# The encoders, each with options of its own if it needs any.",
    ]
    lines += ["encoders = [", *(f"    {_entry(spec, own)}," for spec, own in named), "]", ""]
    for name, value, help in (
        (
            "tasks",
            tasks,
            "Score several tasks, by the name of a suite or a file; the default is the published task alone.",
        ),
        ("out", out, "Also write one JSON file per encoder into this folder."),
    ):
        lines += [f"# {help}", _line(name, value), ""]
    for one in fields(config):
        lines += [f"# {part}" for part in textwrap.wrap(option_of(one).help, 100)]
        lines += [_line(one.name, getattr(config, one.name)), ""]
    return "\n".join(lines)


def _entry(spec: str, own: dict[str, Any]) -> str:
    pairs = "".join(f", {key} = {_toml(value)}" for key, value in own.items())
    return f"{{ spec = {_toml(spec)}{pairs} }}" if own else _toml(spec)


def _line(name: str, value: Any) -> str:
    return f"# {name} =" if value is None else f"{name} = {_toml(value)}"


def _toml(value: Any) -> str:
    """A value of TOML. JSON's text is TOML's too, once DEL is an escape."""
    if isinstance(value, tuple | list):
        return f"[{', '.join(map(_toml, value))}]"
    if isinstance(value, os.PathLike):
        value = os.fspath(value)
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
