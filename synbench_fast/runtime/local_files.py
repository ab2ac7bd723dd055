"""Local files that an encoder is made of: weights, ONNX data, directories, and the code that a factory imports.

They are found without torch and without running anything, so that a scheduler can tell whether they changed.
"""

from __future__ import annotations

import ast
import hashlib
import math
import mmap
import os
import re
import sys
import sysconfig
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from functools import lru_cache
from importlib.machinery import ModuleSpec, PathFinder, all_suffixes
from pathlib import Path
from typing import NamedTuple

__all__ = [
    "added_paths",
    "file_sha256",
    "is_installed",
    "local_sources",
    "onnx_data",
    "onnx_inner",
    "onnx_parameters",
    "onnx_pooled",
    "split_checkpoint",
]

# ---------------------------------------------------------------- files


def split_checkpoint(text: str) -> tuple[Path, str | None]:
    """FILE or FILE#KEY as the file and the key, which is None without one; a # may be part of the file's name."""
    end = len(text)
    while end > 0:
        file = Path(os.path.expanduser(text[:end]))
        if os.path.isfile(file):  # False for a name that no file can have
            return file, text[end + 1 :] if end < len(text) else None
        end = text.rfind("#", 0, end)
    return Path(os.path.expanduser(text)), None


def file_sha256(paths: Iterable[Path]) -> str:
    """sha256 of the bytes of `paths`, one after the other."""
    digest = hashlib.sha256()
    for path in paths:
        with path.open("rb") as file:
            while block := file.read(1 << 20):
                digest.update(block)
    return digest.hexdigest()


# ---------------------------------------------------------------- ONNX

# Fields of the messages of ONNX (onnx.proto) that lead to tensors: message, then field number -> message inside.
_ONNX: dict[str, dict[int, str]] = {
    "Model": {7: "Graph", 20: "Training", 25: "Function"},
    "Graph": {1: "Node", 5: "Tensor", 15: "Sparse"},
    "Training": {1: "Graph", 2: "Graph"},
    "Function": {7: "Node", 11: "Attribute"},
    "Node": {5: "Attribute"},
    "Attribute": {5: "Tensor", 6: "Graph", 10: "Tensor", 11: "Graph", 22: "Sparse", 23: "Sparse"},
    "Sparse": {1: "Tensor", 2: "Tensor"},
    "Tensor": {13: "Entry"},
    "Entry": {},
}


def onnx_data(file: Path) -> list[Path]:
    """Files in which the tensors of an ONNX graph lie, by its `external_data` entries: those that exist, sorted.

    The graph is read field by field, and its own weights are stepped over: they may be gigabytes. What is no
    graph has no such files; the loader says what is wrong with it.
    """
    places: set[str] = set()
    with (
        suppress(OSError, ValueError, IndexError),  # mmap refuses an empty file
        file.open("rb") as stream,
        mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ) as data,
    ):
        waiting = [("Model", 0, len(data))]
        while waiting:
            message, start, end = waiting.pop()
            entry: dict[int, bytes] = {}
            for number, first, last in _fields(data, start, end):
                inner = _ONNX[message].get(number)
                if inner is not None:
                    waiting.append((inner, first, last))
                elif message == "Entry" and last - first < 1 << 16:
                    entry[number] = data[first:last]
            if entry.get(1) == b"location":
                places.add(entry.get(2, b"").decode())
    return sorted(path for path in (file.parent / one for one in places if "\0" not in one) if path.is_file())


def onnx_inner(file: Path) -> list[str]:
    """Names of the tensors that the nodes of an ONNX graph make, in the order of the nodes; none if it is no graph.

    Tensors of graphs inside a node (the branches of an `If`) are left out: nothing outside can read them.
    """
    names: list[str] = []

    def node(data: mmap.mmap, number: int, start: int, end: int) -> None:
        for output, at, stop in _fields(data, start, end) if number == _NODE else ():
            if output == 2 and stop > at:
                names.append(data[at:stop].decode())

    _visit_graph(file, node)
    return names


_NODE, _INITIALISER = 1, 5  # fields of a graph (GraphProto)
# Floating types of a tensor (TensorProto.DataType): float, float16, double, bfloat16.
_FLOATING = {1, 10, 11, 16}
_POOLING = {"GlobalAveragePool", "GlobalMaxPool", "GlobalLpPool", "ReduceMean", "ReduceMax", "Flatten"}


def onnx_parameters(file: Path) -> int | None:
    """Numbers in the floating initialisers of an ONNX graph; None if it is no whole graph, or has none.

    Statistics of batch normalisation are among them, as are constants that an exporter made initialisers.
    """
    sizes: list[int] = []

    def tensor(data: mmap.mmap, number: int, start: int, end: int) -> None:
        dims, kind = _tensor(data, start, end) if number == _INITIALISER else ([], 0)
        if kind in _FLOATING:
            sizes.append(math.prod(dims))

    return sum(sizes) if _visit_graph(file, tensor) and sizes else None


def onnx_pooled(file: Path) -> list[str]:
    """Tensors that pooling or flattening nodes of an ONNX graph make, the last one first: those are often its features."""
    names: list[str] = []

    def node(data: mmap.mmap, number: int, start: int, end: int) -> None:
        texts: dict[int, list[str]] = {2: [], 4: []}  # outputs and type
        for field, at, stop in _fields(data, start, end) if number == _NODE else ():
            if field in texts:
                texts[field].append(data[at:stop].decode())
        if not _POOLING.isdisjoint(texts[4]):
            names.extend(one for one in texts[2] if one)

    _visit_graph(file, node)
    return names[::-1]


def _visit_graph(file: Path, visit: Callable[[mmap.mmap, int, int, int], None]) -> bool:
    """Call `visit` with the bytes, number, start and end of each field of an ONNX graph; False where it is not whole."""
    with (
        suppress(OSError, ValueError, IndexError),
        file.open("rb") as stream,
        mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ) as data,
    ):
        for graph, first, last in _fields(data, 0, len(data)):
            for number, start, end in _fields(data, first, last) if graph == 7 else ():
                visit(data, number, start, end)
        return True
    return False


def _tensor(data: mmap.mmap, at: int, end: int) -> tuple[list[int], int]:
    """Sizes (field 1, packed or one by one) and type (field 2) of a tensor; its numbers are stepped over."""
    sizes, kind = list[int](), 0
    while at < end:
        tag, at = _varint(data, at)
        number, wire = tag >> 3, tag & 7
        if wire == 0:
            value, at = _varint(data, at)
            if number == 1:
                sizes.append(value)
            elif number == 2:
                kind = value
        elif wire == 2:
            size, at = _varint(data, at)
            if size > end - at:
                raise IndexError
            stop = at + size
            while number == 1 and at < stop:
                value, at = _varint(data, at)
                sizes.append(value)
            at = stop
        elif wire in (1, 5):
            at += 8 if wire == 1 else 4
        else:
            raise IndexError
    return sizes, kind


def _fields(data: mmap.mmap, at: int, end: int) -> Iterator[tuple[int, int, int]]:
    """(number, start, end) of the fields with a length in a message of Protocol Buffers; IndexError if it is none."""
    while at < end:
        tag, at = _varint(data, at)
        kind = tag & 7
        if kind == 2:
            size, at = _varint(data, at)
            if size > end - at:
                raise IndexError
            yield tag >> 3, at, at + size
            at += size
        elif kind == 0:
            _, at = _varint(data, at)
        elif kind in (1, 5):
            at += 8 if kind == 1 else 4
        else:
            raise IndexError


def _varint(data: mmap.mmap, at: int) -> tuple[int, int]:
    value = 0
    for shift in range(0, 70, 7):
        byte = data[at]
        at += 1
        value |= (byte & 127) << shift
        if byte < 128:
            return value, at
    raise IndexError


# ---------------------------------------------------------------- code

# Entries of sys.path that code of encoders left there: what another one imports does not depend on who came before.
added_paths: set[str] = set()

_NAME = re.compile(r"\.*[^\W\d]\w*(\.[^\W\d]\w*)*")
# Functions that import what a string names, and how far above a file its own `sys.path` entries are looked for.
_LOADERS = {"import_module", "__import__", "run_path", "run_module", "exec", "spec_from_file_location"}
_LOADERS |= {"SourceFileLoader", "load_source", "iter_modules", "walk_packages"}
_ABOVE = 3
_LIBRARY = [sysconfig.get_path(name) for name in ("stdlib", "platstdlib")]
_ENDINGS = all_suffixes()  # of modules: sources, compiled ones


class _Source(NamedTuple):
    """What a file of Python imports."""

    imports: list[tuple[int, str]]  # dots in front, dotted name
    folders: list[str]  # texts that may be folders, if it has to do with sys.path
    loaded: list[str]  # texts that may name modules or files, if it calls one of _LOADERS
    computed: bool  # whether it calls one with something else


def is_installed(path: str | Path) -> bool:
    """Whether code at `path` belongs to Python or to an installed package: its version stands for it."""
    place = Path(path)
    return not {"site-packages", "dist-packages"}.isdisjoint(place.parts) or any(
        place.is_relative_to(one) for one in _LIBRARY
    )


def local_sources(where: str) -> list[tuple[str, Path]]:
    """Code that importing `where` (a module, or a FILE.py) brings in: (name, file). Of what is installed, only `where`.

    The name is the file's path below the folder that its import began at, so it is the same on another machine.
    Imports are read from the text of each file, those inside functions and branches too. Of a module that several
    folders have, each file counts; where a file imports by a name that it computes, the Python files beside it
    count. Data is not seen, nor are modules in folders that another file puts on `sys.path`.
    """
    _names.cache_clear()
    here = Path.cwd()
    found: dict[Path, str] = {}
    known: set[Path] = set()
    waiting: list[tuple[Path, Path]] = []  # folder that the import begins at, file
    if where.endswith(".py"):
        file = Path(os.path.expanduser(where)).absolute()
        waiting += [(file.parent, file)] if os.path.isfile(file) else []
    else:
        waiting += _imported(where, [here], installed=True)
    while waiting:
        root, file = waiting.pop()
        if file not in known and file.is_file() and (real := file.resolve()) not in found:
            known.add(file)
            found[real] = file.relative_to(root).as_posix()
            if file.suffix == ".py" and not is_installed(file):
                waiting += _imports(root, file, here)
    return sorted((name, file) for file, name in found.items())


def _imports(root: Path, file: Path, here: Path) -> Iterator[tuple[Path, Path]]:
    """Folder and file of what a file imports; it was itself imported from below `root`."""
    source = _read(file.read_bytes())
    above = [file.parent, *file.parent.parents]
    near = dict.fromkeys([*above[: _ABOVE + 1], *file.resolve().parents[: _ABOVE + 1], here])
    roots = [*near, *(place for one in near for text in source.folders if (place := one / text).is_dir())]
    for level, dotted in source.imports:
        if level == 0:
            yield from _imported(dotted, roots)
        elif level <= len(above):
            yield from (_placed(root, one) for one in _below(above[level - 1], dotted.split(".")))
    for text in source.loaded:
        if text.endswith(".py"):
            yield from ((one.parent, one) for one in (file.parent / text, here / text) if one.is_file())
        else:
            yield from _imported(text.lstrip("."), roots)
    if source.computed:
        inside = [one / text.strip(".").replace(".", "/") for one in near for text in source.loaded]
        yield from (_placed(root, one) for folder in (file.parent, *inside) for one in folder.glob("*.py"))


def _placed(root: Path, file: Path) -> tuple[Path, Path]:
    return (root if file.is_relative_to(root) else file.parent), file


@lru_cache(maxsize=10_000)
def _read(text: bytes) -> _Source:
    """What a file of this text imports."""
    source = _Source([], [], [], False)
    try:
        nodes = list(ast.walk(ast.parse(text)))
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return source  # whoever imports it says what is wrong with it
    texts = {one.value for one in nodes if isinstance(one, ast.Constant) and isinstance(one.value, str)}
    short = sorted(one for one in texts if 0 < len(one) < 200 and one.isprintable())
    for node in nodes:
        if isinstance(node, ast.Import):
            source.imports.extend((0, one.name) for one in node.names)
        elif isinstance(node, ast.ImportFrom):
            inside = [node.module] if node.module else []
            source.imports.extend((node.level, ".".join([*inside, one.name])) for one in node.names)
        elif isinstance(node, ast.Attribute) and node.attr == "path" and _last(node.value) == "sys":
            source = source._replace(folders=short)
        elif isinstance(node, ast.Call) and _last(node.func) in _LOADERS:
            named = [one for one in short if _NAME.fullmatch(one) or one.endswith(".py")]
            first = node.args[0] if node.args else None
            computed = not isinstance(first, ast.Constant) or first.value not in named
            source = source._replace(loaded=named, computed=source.computed or computed)
    return source


def _last(node: ast.expr) -> str:
    return node.attr if isinstance(node, ast.Attribute) else node.id if isinstance(node, ast.Name) else ""


def _imported(dotted: str, roots: Iterable[Path], installed: bool = False) -> Iterator[tuple[Path, Path]]:
    """(folder that the name begins at, file) of what importing a dotted name may run, from `roots` or `sys.path`.

    What is installed there is left out unless `installed`.
    """
    parts = dotted.split(".")
    if parts[0] == __name__.partition(".")[0]:
        return  # this package: its own version stands for it
    for root in dict.fromkeys(roots):
        yield from ((root, one) for one in _below(root, parts))
    found = _spec(parts[0])
    if found is None:
        return
    places = [Path(one) for one in found.submodule_search_locations or ()]
    if found.origin is not None and found.has_location and not places:
        places = [Path(found.origin)]
    for place in places:
        if is_installed(place) and not installed:
            continue
        if place.is_dir():
            yield from ((place.parent, one) for one in _packages(place))
            yield from ((place.parent, one) for one in _below(place, parts[1:]))
        elif place.is_file():
            yield place.parent, place


def _spec(name: str) -> ModuleSpec | None:
    """Where a module would be found; `importlib.util.find_spec` would answer with what is imported already."""
    for finder in sys.meta_path:
        path = [one for one in sys.path if one not in added_paths] if finder is PathFinder else None
        with suppress(Exception):  # packages bring finders of their own
            found = finder.find_spec(name, path)
            if found is not None:
                return found
    return None


def _below(folder: Path, parts: list[str]) -> Iterator[Path]:
    """Files that importing the dotted name runs, if it begins in `folder`: packages on the way, and the module."""
    for part in parts:
        names = _names(folder)
        yield from (folder / name for end in _ENDINGS if (name := part + end) in names)
        if part not in names:
            return
        folder = folder / part
        yield from _packages(folder)


def _packages(folder: Path) -> Iterator[Path]:
    return (folder / name for end in _ENDINGS if (name := "__init__" + end) in _names(folder))


@lru_cache(maxsize=10_000)
def _names(folder: Path) -> frozenset[str]:
    """What a folder holds, for as long as one call of `local_sources` lasts."""
    try:
        return frozenset(os.listdir(folder))
    except OSError:
        return frozenset()
