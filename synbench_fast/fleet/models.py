"""From what the command line names to encoders: files of specs, patterns, checkpoints, plain specs."""

from __future__ import annotations

import fnmatch
import glob
import os
import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from synbench_fast.config import options
from synbench_fast.encoders.lists import list_file, list_names
from synbench_fast.encoders.load import spec_for
from synbench_fast.encoders.registry import installed, is_source, list_encoders, source
from synbench_fast.errors import SynbenchError, suggest
from synbench_fast.runtime.local_files import split_checkpoint

__all__ = ["expand"]

Named = tuple[str, dict[str, Any]]  # spec, its own arguments of score()

WHOLE = {".onnx": "onnx", ".torchscript": "torchscript", ".ts": "torchscript"}  # files that are encoders
WEIGHTS = (".safetensors", ".pt", ".pth", ".bin", ".ckpt")  # files that need an architecture
# What an encoder may have of its own, by option: those of ScoreConfig that belong to one encoder.
_OWN = {
    "--" + name.replace("_", "-"): (option.kind, default)
    for name, (option, default) in options().items()
    if option.decides == "encoder"
}
_PATTERN = re.compile(r"[*[]|\?(?!\w+=)")  # ?dim=8 is an option of a spec
_FLAGS = tuple(word for word, (_, default) in _OWN.items() if default is False)
# A word of a line: pieces in quotes, blanks and the like after a backslash, all else as it is.
_PIECE = re.compile(r"""\\([ \t'"#\\])|'([^']*)'|"((?:[^"\\]|\\(?!["\\])|\\["\\])*)"|([^ \t'"])""")
_LARGEST = 1 << 26  # characters of a file of specs, which may be a pipe or a device that never ends


def expand(models: Iterable[str], architectures: Sequence[str] = ()) -> list[Named]:
    """Encoders in the order named, each once.

    Args:
        models: a spec; a list or a pattern of `synbench-fast ls`, such as timm-100 or timm:vit_*; a file of encoders, of
            checkpoints or of specs (one per line, # at the beginning of a word begins a comment, options of its own
            may follow; a pipe such as /dev/fd/63 is read too), or a pattern of files.
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
    unique = {(spec, tuple(sorted(own.items()))): (spec, own) for spec, own in named}
    return list(unique.values())


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
    named = Path(split_checkpoint(item)[0])
    if named.exists() and not named.is_dir():  # a pipe too, such as <(command) of a shell
        return [item]
    if item in list_names():
        return [str(list_file(item))]
    pattern, mark, key = item.rpartition("#")
    if not mark or Path(pattern).suffix.lower() not in WEIGHTS:
        pattern, mark, key = item, "", ""
    return sorted(f"{one}{mark}{key}" for one in glob.glob(pattern, recursive=True) if Path(one).is_file())


def _specs(item: str) -> list[str]:
    """Specs that an item names: itself, or what its pattern matches."""
    if not _PATTERN.search(item):
        if ":" in item:
            return [_known(item)]
        # Of a missing file of specs spec_for says --models, which was given.
        near = "" if item.endswith(".txt") else spec_for(item)
        raise SynbenchError(
            "--models: expected a file, a spec such as timm:resnet50, a pattern such as timm:vit_* or a list such as "
            f"{list_names()[0]}, got {item!r}{suggest(item, [*list_names(), *_nearby()]) or near}"
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
        with Path(path).open(encoding="utf-8-sig") as stream:  # some editors begin a file with a mark
            text = stream.read(_LARGEST)
    except OSError as error:
        raise SynbenchError(f"{path}: expected a file that can be read, got: {error.strerror}") from None
    except UnicodeDecodeError:
        raise SynbenchError(f"{path}: expected specs in UTF-8, got other bytes") from None
    if len(text) == _LARGEST:
        raise SynbenchError(f"{path}: expected a file of specs, got one of {_LARGEST} characters or more")
    named: list[Named] = []
    for number, line in enumerate(
        text.split("\n"), 1
    ):  # not splitlines: U+2028 and NEL may be part of a name
        try:
            words = _words(line.strip(" \t\ufeff"))
            if words:
                own = _own(words[1:])
                named += [(one, own) for one in _specs(words[0])]
        except SynbenchError as error:
            raise SynbenchError(f"{path}:{number}: {error}") from None
    if not named:
        raise SynbenchError(f"{path}: expected one spec per line, got none")
    return named


def _words(line: str) -> list[str]:
    """The words of a line, as a shell would see them, but for a backslash before a letter, which is part of a path.

    A line that as a whole names a file is that file, whatever blanks, quotes or # are in its name.
    """
    prefix, colon, name = line.partition(":")
    if colon and is_source(prefix) and re.search(r"[ \t'\"#\\]", name):
        file, rest = (name.partition("?")[0], "") if prefix != "python" else name.rpartition(":")[::2]
        # Words after python:FILE.py:FACTORY are options or a comment: a factory's name has no blank.
        if not re.search(r"[ \t#]", rest) and os.path.exists(os.path.expanduser(file)):
            return [line]
    words: list[str] = []
    at = 0
    while at < len(line):
        if line[at] == "#":
            break
        word = ""
        while piece := _PIECE.match(line, at):
            word += (
                piece[piece.lastindex or 0] if piece.lastindex != 3 else re.sub(r'\\(["\\])', r"\1", piece[3])
            )
            at = piece.end()
        if at < len(line) and line[at] not in " \t":
            raise SynbenchError(f"expected a closing quotation mark, got {line[at:]!r}")
        words.append(word)
        while at < len(line) and line[at] in " \t":
            at += 1
    return words


def _own(words: list[str]) -> dict[str, Any]:
    """Options after a spec, as on the command line."""
    found: dict[str, Any] = {}
    left = list(words)
    while left:
        word, equals, value = left.pop(0).partition("=")
        name = word[2:].replace("-", "_")
        if name in found:
            raise SynbenchError(f"{word}: expected it once, got it twice")
        if word in _FLAGS and not equals:
            found[name] = True
            continue
        if word not in _OWN or word in _FLAGS:
            known = [*(one for one in _OWN if one not in _FLAGS), *_FLAGS]
            raise SynbenchError(
                f"option: expected one of {', '.join(known)}, got {word!r}{suggest(word, known)}"
            )
        if not equals:
            if not left:
                raise SynbenchError(f"{word}: expected a value, got none")
            value = left.pop(0)
        found[name] = _OWN[word][0].read(word, value)
    return found
