"""Which prefix of a spec is loaded by what: the only such table."""

from __future__ import annotations

import fnmatch
import importlib
import importlib.util
import sys
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from types import ModuleType
from typing import TYPE_CHECKING, Any

from synbench_fast import plugins
from synbench_fast.errors import SynbenchError, first_line, suggest

if TYPE_CHECKING:  # base imports torch, which a shell that completes names has no time for
    from synbench_fast.encoders.base import Loaded, Request

__all__ = [
    "BUILTIN",
    "REGISTRY",
    "SOURCES",
    "Source",
    "check_name",
    "installed",
    "is_source",
    "list_encoders",
    "require",
    "source",
]


@dataclass(frozen=True)
class Source:
    """One prefix. `load` is 'package.module:function', Request -> Loaded; `names` lists what it can load."""

    description: str
    usage: str
    load: str
    names: str | None = None
    library: str | None = None

    def loader(self) -> Callable[[Request], Loaded]:
        function: Callable[[Request], Loaded] = _attribute(self.load)
        return function

    def list(self) -> list[str]:
        """Names that can be loaded; empty for sources without a list (files, the Hugging Face hub)."""
        names: list[str] = list(_attribute(self.names)()) if self.names else []
        return names


_HERE = "synbench_fast.encoders"
BUILTIN = ("identity", "linear", "conv")

REGISTRY: dict[str, Source] = {
    "timm": Source(
        "models of PyTorch Image Models",
        "timm:NAME[.TAG]",
        f"{_HERE}.timm:load",
        f"{_HERE}.timm:names",
        "timm",
    ),
    "torchvision": Source(
        "classification models of torchvision",
        "torchvision:NAME[/WEIGHTS]",
        f"{_HERE}.torchvision:load",
        f"{_HERE}.torchvision:names",
        "torchvision",
    ),
    "hf": Source(
        "vision, audio and time-series encoders of transformers, by hub name or local directory",
        "hf:NAME_OR_PATH",
        f"{_HERE}.hf:load",
        library="transformers",
    ),
    "open_clip": Source(
        "image towers of OpenCLIP",
        "open_clip:NAME[/PRETRAINED]",
        f"{_HERE}.open_clip:load",
        f"{_HERE}.open_clip:names",
        "open_clip",
    ),
    "onnx": Source(
        "an ONNX graph, run by onnxruntime",
        "onnx:FILE[?output=NAME]",
        f"{_HERE}.onnx:load",
        library="onnxruntime",
    ),
    "torchscript": Source("a TorchScript archive", "torchscript:FILE", f"{_HERE}.torchscript:load"),
    "python": Source(
        "whatever MODULE.FACTORY() (or FILE.py's) returns: a Module or a callable",
        "python:MODULE:FACTORY",
        f"{_HERE}.python:load",
    ),
    "builtin": Source(
        "reference encoders: identity, a fixed random matrix, a small random conv net",
        "builtin:NAME[?dim=N]",
        f"{_HERE}.builtin:load",
        f"{_HERE}.builtin:names",
    ),
}

SOURCES: dict[str, str] = {prefix: one.description for prefix, one in REGISTRY.items()}


def _attribute(path: str) -> Any:
    module, name = path.split(":")
    return getattr(importlib.import_module(module), name)


def source(prefix: str, spec: str) -> Source:
    """The source behind `prefix`, of this package or of another, or an error that lists all and names the nearest."""
    if prefix in REGISTRY:
        return REGISTRY[prefix]
    other: Source | None = plugins.load(
        "encoders", prefix, lambda value: isinstance(value, Source), "an encoders.registry.Source"
    )
    if other is not None:
        return other
    known = [*REGISTRY, *plugins.names("encoders")]
    raise SynbenchError(
        f"encoder: expected a source out of {', '.join(dict.fromkeys(known))}, got {prefix!r} in {spec!r}"
        + (f", did you mean python:{spec}?" if prefix.endswith(".py") else suggest(prefix, known))
    )


def is_source(prefix: str) -> bool:
    """Whether there is such a source; that of another package is not imported."""
    return prefix in REGISTRY or prefix in plugins.names("encoders")


def installed(prefix: str) -> bool:
    """Whether the library that `prefix` needs can be found here (it is not imported)."""
    library = source(prefix, prefix).library
    if library is None:
        return True
    if library in sys.modules:
        return sys.modules[library] is not None
    return importlib.util.find_spec(library) is not None


def require(library: str, extra: str, spec: str) -> ModuleType:
    """Import an optional library, or say in one line which extra brings it."""
    try:
        return importlib.import_module(library)
    except ModuleNotFoundError as error:
        raise SynbenchError(
            f"encoder {spec}: needs {error.name or library}, which is not installed; "
            f'pip install "synbench-fast[{extra}]"'
        ) from error
    except Exception as error:
        raise SynbenchError(
            f"encoder {spec}: {library} is installed but cannot be imported ({first_line(error)}); "
            f'pip install "synbench-fast[{extra}]"'
        ) from error


def check_name(request: Request, prefix: str, names: Iterable[str]) -> None:
    """One-line error naming the nearest encoder if `request.name` is not one of `names`."""
    known = list(names)
    if request.name not in known:
        raise SynbenchError(
            f"encoder: expected a model of {prefix}, got {request.spec!r}"
            + suggest(request.spec, (f"{prefix}:{name}" for name in known))
        )


def list_encoders(pattern: str | None = None) -> list[str]:
    """Specs that can be scored here, such as 'timm:resnet18', in the order of the sources.

    `pattern` is a shell pattern (with *, ? or [) for the spec or the name after its prefix, or a part of the
    spec; case is ignored. Sources without a list (hf, onnx, torchscript, python) are described in SOURCES. Those of
    other packages (see `plugins`) are asked where the pattern begins with their name.
    """
    sources = dict(REGISTRY)
    begins = (pattern or "").lower().partition(":")[0]
    sources |= {one: source(one, one) for one in plugins.names("encoders") if one.lower() == begins} | sources
    specs = [
        f"{prefix}:{name}" for prefix, one in sources.items() if installed(prefix) for name in one.list()
    ]
    if pattern is None:
        return specs
    wanted = pattern.lower()
    if not any(character in wanted for character in "*?["):
        return [spec for spec in specs if wanted in spec.lower()]
    return [
        spec
        for spec in specs
        if fnmatch.fnmatchcase(spec.lower(), wanted)
        or fnmatch.fnmatchcase(spec.lower().partition(":")[2], wanted)
    ]
