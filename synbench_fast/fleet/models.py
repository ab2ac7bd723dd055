"""From what the command line names to encoders: files of specs, patterns, checkpoints, plain specs."""

from __future__ import annotations

import fnmatch
import glob
import re
import shlex
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

from synbench_fast import arguments
from synbench_fast.encoders.base import POOLS
from synbench_fast.encoders.registry import installed, is_source, list_encoders, source
from synbench_fast.errors import SynbenchError, suggest
from synbench_fast.local_files import split_checkpoint

__all__ = ["expand"]

Named = tuple[str, dict[str, Any]]  # spec, its own arguments of score()

WHOLE = {".onnx": "onnx", ".torchscript": "torchscript", ".ts": "torchscript"}  # files that are encoders
WEIGHTS = (".safetensors", ".pt", ".pth", ".bin", ".ckpt")  # files that need an architecture
_VALUES: dict[str, Callable[[str], Any]] = {
    "--checkpoint": lambda text: arguments.checkpoint("--checkpoint", text),
    "--input-shape": lambda text: arguments.shape("--input-shape", text),
    "--mean": lambda text: arguments.numbers("--mean", text),
    "--std": lambda text: arguments.numbers("--std", text, above=0),
    "--pool": lambda text: arguments.choice("--pool", text, POOLS),
}
_PATTERN = re.compile(r"[*[]|\?(?!\w+=)")  # ?dim=8 is an option of a spec
_FLAGS = ("--random-init", "--trust-remote-code")


def expand(models: Iterable[str], architectures: Sequence[str] = ()) -> list[Named]:
    """Encoders in the order named, each once.

    Args:
        models: a spec; a pattern of `synbench-fast ls`, such as timm:vit_*; a file of encoders, of checkpoints or
            of specs (one per line, # begins a comment, options of its own may follow), or a pattern of files.
        architectures: further specs, scored like the others; where checkpoints are named it is one, which they
            are loaded into, and that is not scored by itself.

    Raises:
        SynbenchError: what names nothing, and a line of a file that cannot be read, with its number.
    """
    named: list[Named] = []
    weights: list[str] = []
    for item in models:
        for one in _paths(item) or _specs(item):
            suffix = split_checkpoint(one)[0].suffix.lower()
            if is_source(one.partition(":")[0]):
                named.append((one, {}))
            elif suffix in WHOLE:
                named.append((f"{WHOLE[suffix]}:{one}", {}))
            elif suffix in WEIGHTS:
                weights.append(one)
            else:
                named += _read(one)
    if weights and len(architectures) != 1:
        raise SynbenchError(
            f"MODEL: expected the one encoder to load {weights[0]!r} into, got {len(architectures)}"
        )
    if weights:
        named += [(_known(architectures[0]), {"checkpoint": one}) for one in weights]
    else:
        named = [(_known(one), {}) for one in architectures] + named
    unique: list[Named] = []
    for encoder in named:
        if encoder not in unique:
            unique.append(encoder)
    return unique


def _known(spec: str) -> str:
    source(spec.partition(":")[0], spec)
    return spec


def _paths(item: str) -> list[str]:
    """Files that an item names by path or pattern; those of onnx:*.onnx and the like keep their prefix."""
    prefix, colon, name = item.partition(":")
    if colon and is_source(prefix):
        if prefix in ("onnx", "torchscript") and _PATTERN.search(name):
            return [f"{prefix}:{one}" for one in sorted(glob.glob(name, recursive=True))]
        return []
    if split_checkpoint(item)[0].is_file():
        return [item]
    pattern, mark, key = item.rpartition("#")
    if not mark or Path(pattern).suffix.lower() not in WEIGHTS:
        pattern, mark, key = item, "", ""
    return sorted(f"{one}{mark}{key}" for one in glob.glob(pattern, recursive=True) if Path(one).is_file())


def _specs(item: str) -> list[str]:
    """Specs that an item names: itself, or what its pattern matches."""
    if not _PATTERN.search(item):
        if ":" in item:
            return [_known(item)]
        raise SynbenchError(
            "--models: expected a file, a spec such as timm:resnet50 or a pattern such as timm:vit_*, got "
            f"{item!r}{suggest(item, _nearby())}"
        )
    prefix, colon, name = item.partition(":")
    if colon:  # without the other sources' libraries, which take seconds to import
        known = source(prefix, item)
        names = known.list() if installed(prefix) else []
        found = [f"{prefix}:{one}" for one in names if fnmatch.fnmatchcase(one.lower(), name.lower())]
    else:
        found = list_encoders(item)
    if not found:
        raise SynbenchError(
            f"--models: expected a pattern of files or of what `synbench-fast ls` lists, got {item!r}"
        )
    return found


def _nearby() -> list[str]:
    return [one.name for one in Path.cwd().iterdir() if one.is_file()]


def _read(path: str) -> list[Named]:
    """The encoders of a file of specs."""
    try:
        text = Path(path).read_text(encoding="utf-8-sig")  # some editors begin a file with a mark
    except OSError as error:
        raise SynbenchError(f"{path}: expected a file that can be read, got: {error.strerror}") from None
    except UnicodeDecodeError:
        raise SynbenchError(f"{path}: expected specs in UTF-8, got other bytes") from None
    named: list[Named] = []
    for number, line in enumerate(text.splitlines(), 1):
        try:
            words = shlex.split(re.sub(r"(^|\s)#.*", "", line))
            if words:
                own = _own(words[1:])
                named += [(one, own) for one in _specs(words[0])]
        except ValueError as error:  # of shlex, or a SynbenchError
            raise SynbenchError(f"{path}:{number}: {' '.join(str(error).split())}") from None
    if not named:
        raise SynbenchError(f"{path}: expected one spec per line, got none")
    return named


def _own(words: list[str]) -> dict[str, Any]:
    """Options after a spec, as on the command line."""
    options: dict[str, Any] = {}
    left = list(words)
    while left:
        word, equals, value = left.pop(0).partition("=")
        if word in _FLAGS and not equals:
            options[word[2:].replace("-", "_")] = True
            continue
        if word not in _VALUES:
            known = [*_VALUES, *_FLAGS]
            raise SynbenchError(
                f"option: expected one of {', '.join(known)}, got {word!r}{suggest(word, known)}"
            )
        if not equals:
            if not left:
                raise SynbenchError(f"{word}: expected a value, got none")
            value = left.pop(0)
        options[word[2:].replace("-", "_")] = _VALUES[word](value)
    return options
