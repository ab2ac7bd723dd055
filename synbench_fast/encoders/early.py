"""Mistakes in specs that can be told without loading an encoder: before the first of many is scored."""

from __future__ import annotations

import ast
import importlib.util
import os
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from synbench_fast.encoders import registry
from synbench_fast.encoders.base import Request
from synbench_fast.errors import SynbenchError, suggest
from synbench_fast.runtime.local_files import split_checkpoint

__all__ = ["check_spec", "mistakes"]

_LISTED = ("builtin", "timm", "torchvision")  # sources whose names are all known


def mistakes(named: Iterable[tuple[str, Mapping[str, Any]]]) -> list[str]:
    """One line for each encoder that cannot be scored, of (spec, its own arguments of score)."""
    found = []
    for spec, own in named:
        try:
            check_spec(spec, own)
        except SynbenchError as error:
            line = str(error)
            found.append(line if spec in line else f"{spec}: {line}")
    return found


def check_spec(spec: str, own: Mapping[str, Any]) -> None:
    """SynbenchError where the source, its library, the name, a file or a factory is missing.

    Nothing is loaded or executed. What only the encoder itself knows, such as its input shape, is seen later.
    """
    parts = spec.split(",")
    if len(parts) > 1 and all(registry.is_source(one.partition(":")[0]) for one in parts):
        raise SynbenchError(
            f"MODEL: expected encoders apart by blanks, got {spec!r}; write {' '.join(parts)}"
        )
    prefix, colon, name = spec.partition(":")
    if not colon:
        from synbench_fast.encoders.load import spec_for

        raise SynbenchError(f"encoder: expected SOURCE:NAME, got {spec!r}{spec_for(spec)}")
    known = registry.source(prefix, spec)
    if not name:
        raise SynbenchError(f"encoder: expected {known.usage}, got {spec!r}")
    if not registry.installed(prefix):
        registry.require(str(known.library), prefix, spec)
    file, mark, query = name.partition("?") if "?" in known.usage else (name, "", "")
    if mark:
        from synbench_fast.encoders.load import spec_options

        spec_options(query, known.usage, spec)
    if prefix in ("onnx", "torchscript"):
        _check_file("encoder", file)
    elif prefix == "python":
        _check_factory(spec, name)
    elif prefix in _LISTED and ":" not in name:
        listed = file.partition("/")[0]
        registry.check_name(
            Request(
                spec=spec, name=listed, input_shape=None, pool="default", checkpoint=None, random_init=False,
                seed=0, trust_remote_code=False,
            ),
            prefix,
            {one.partition("/")[0] for one in known.list()},
        )  # fmt: skip
    if prefix == "torchscript" and not own.get("trust_remote_code"):
        raise SynbenchError(
            f"encoder {spec}: the archive is a program that can read and write files; expected --trust-remote-code "
            "(trust_remote_code=True) to run it, got False"
        )
    if own.get("checkpoint") is not None:
        _check_file("checkpoint", str(split_checkpoint(str(own["checkpoint"]))[0]))


def _check_file(argument: str, path: str) -> None:
    if not os.path.isfile(os.path.expanduser(path)):
        raise SynbenchError(f"{argument}: expected an existing file, got {path}")


def _check_factory(spec: str, name: str) -> None:
    """A file has to be there and to name the factory at its top level; a module has to be found."""
    where, colon, factory = name.rpartition(":")
    if not colon or not where or not factory:
        raise SynbenchError(f"encoder: expected python:MODULE:FACTORY, got {spec!r}")
    if not where.endswith(".py"):
        top = where.partition(".")[0]
        if top not in sys.modules and not _findable(top):
            raise SynbenchError(f"encoder {spec}: expected a module that can be imported, got {where!r}")
        return
    _check_file("encoder", where)
    try:
        tree = ast.parse(Path(os.path.expanduser(where)).read_bytes())
    except (OSError, ValueError, SyntaxError, RecursionError, MemoryError):
        return  # whoever imports it says why it cannot be read
    names = _top_level(tree)
    if names is not None and factory not in names:
        raise SynbenchError(
            f"encoder: expected a callable in {where}, got {factory!r} in {spec!r}"
            + suggest(factory, sorted(one for one in names if not one.startswith("_")))
        )


def _findable(top: str) -> bool:
    here = Path.cwd()
    if (here / top).is_dir() or (here / f"{top}.py").is_file():
        return True
    try:
        return importlib.util.find_spec(top) is not None
    except (ImportError, ValueError):
        return False


def _top_level(tree: ast.Module) -> set[str] | None:
    """Every name that the statements of a module may bind; None where they may bind any (`import *`, globals())."""
    found: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            found.add(node.name)
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            found.add(node.id)
        elif isinstance(node, ast.Import | ast.ImportFrom):
            found |= {(one.asname or one.name).partition(".")[0] for one in node.names}
        elif isinstance(node, ast.Name) and node.id in ("globals", "vars", "locals", "exec", "setattr"):
            return None
    return None if "*" in found or "__getattr__" in found else found
