"""`python:MODULE:FACTORY` or `python:FILE.py:FACTORY`: the user's own code makes the encoder."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.machinery import SourceFileLoader
from pathlib import Path
from types import ModuleType
from typing import Any

from torch import nn

from synbench_fast.encoders.base import Loaded, Request
from synbench_fast.encoders.weights import existing_file, load_checkpoint
from synbench_fast.errors import SynbenchError, first_line, suggest
from synbench_fast.runtime.local_files import added_paths, file_sha256, is_installed, local_sources

__all__ = ["load"]


def load(request: Request) -> Loaded:
    """FACTORY() returns a torch.nn.Module or a callable x [B, *input_shape] -> [B, F].

    MODULE is found as `python -m` would find it: also in the current directory. The factory is called with
    the random generators seeded, so that what it draws depends on the seed alone; an attribute `input_shape`
    (and `mean`, `std`) of what it returns serves as default.
    """
    request.refuse("random_init", reason="the factory makes the weights")
    where, colon, name = request.name.rpartition(":")
    if not colon or not where or not name:
        raise SynbenchError(f"encoder: expected python:MODULE:FACTORY, got {request.spec!r}")
    with _importing(where):
        module = _import(where, request.spec)
        factory = getattr(module, name, None)
        if isinstance(factory, nn.Module):
            raise SynbenchError(
                f"encoder {request.spec}: expected a function that returns the encoder, got the "
                f"torch.nn.Module {name} itself; write such a function, as in def make(): return {name}"
            )
        if not callable(factory):
            known = [
                one for one in vars(module) if callable(getattr(module, one)) and not one.startswith("_")
            ]
            raise SynbenchError(
                f"encoder: expected a callable in {where}, got {name!r} in {request.spec!r}"
                + suggest(name, known)
            )
        try:
            made: Any = factory()
        except SynbenchError:
            raise
        except Exception as error:
            raise SynbenchError(f"encoder {request.spec}: {name}() failed ({first_line(error)})") from error
    if not callable(made):
        raise SynbenchError(
            f"encoder {request.spec}: expected {name}() to return a torch.nn.Module or a callable, "
            f"got {type(made).__name__}"
        )
    held = made if isinstance(made, nn.Module) else getattr(made, "__self__", None)
    encoder = held if isinstance(held, nn.Module) else None
    if request.checkpoint is not None:
        if encoder is None:
            request.refuse("checkpoint", reason=f"{name}() returns a callable, not a torch.nn.Module")
        else:
            load_checkpoint(encoder, request.checkpoint, request.spec)
    shape, mean, std = (
        _numbers(getattr(made, attribute, None)) for attribute in ("input_shape", "mean", "std")
    )
    return Loaded(
        forward=made,
        module=encoder,
        name=request.name,
        input_shape=tuple(int(n) for n in shape) if shape is not None else None,
        mean=mean,
        std=std,
    )


def _numbers(value: Any) -> tuple[float, ...] | None:
    """A sequence of numbers, None for anything else (a method or tensor that happens to have the name)."""
    if isinstance(value, (tuple, list)) and value and all(isinstance(one, (int, float)) for one in value):
        return tuple(value)
    return None


# Modules that factories brought in from local files, and what those held.
_brought: dict[str, tuple[Path, str]] = {}


def _forget_others(where: str) -> None:
    """Have local modules imported anew if a file changed, or if `where` has a module of a name from elsewhere."""
    wanted: dict[str, set[Path]] = {}
    for name, file in local_sources(where):
        wanted.setdefault(name.removesuffix(".py").removesuffix("/__init__").replace("/", "."), set()).add(
            file
        )
    for name, (file, held) in _brought.items():
        if not file.is_file() or file not in wanted.get(name, {file}) or file_sha256([file]) != held:
            for module in _brought:
                sys.modules.pop(module, None)
            _brought.clear()
            return


@contextmanager
def _importing(where: str) -> Iterator[None]:
    _forget_others(where)
    before, paths = set(sys.modules), set(sys.path)
    here = str(Path.cwd())
    sys.path.insert(0, here)
    importlib.invalidate_caches()
    # Compiled files know their source by size and second: one that changes within it would be taken for the old.
    writes, sys.dont_write_bytecode = sys.dont_write_bytecode, True
    try:
        yield
    finally:
        sys.dont_write_bytecode = writes
        if here in sys.path:
            sys.path.remove(here)
        added_paths.update({*sys.path} - paths)
        for name in set(sys.modules) - before:
            file = Path(str(getattr(sys.modules[name], "__file__", None))).resolve()
            own = name.partition(".")[0] == __name__.partition(".")[0]
            if not own and not is_installed(file) and file.is_file():
                _brought[name] = file, file_sha256([file])


def _import(where: str, spec: str) -> ModuleType:
    try:
        if not where.endswith(".py"):
            return importlib.import_module(where)
        file = existing_file("encoder", where)
        name = f"_synbench_fast_{file.stem}"
        module = ModuleType(name)
        module.__file__ = str(file)
        # Dataclasses and pickles look their module up by name; the prefix keeps it from hiding another one.
        sys.modules[name] = module
        SourceFileLoader(name, str(file)).exec_module(module)
        return module
    except ModuleNotFoundError as error:
        if error.name is not None and (where == error.name or where.startswith(f"{error.name}.")):
            nearby = [file.stem for file in Path.cwd().glob("*.py")]
            raise SynbenchError(
                f"encoder: expected an importable module, got {where!r} in {spec!r}{suggest(where, nearby)}"
            ) from error
        raise SynbenchError(f"encoder {spec}: importing {where} failed ({first_line(error)})") from error
    except SynbenchError:
        raise
    except Exception as error:
        raise SynbenchError(f"encoder {spec}: importing {where} failed ({first_line(error)})") from error
