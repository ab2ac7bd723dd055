"""Lists of encoders that ship with the package: text files of specs, one per line, which `--models NAME` reads."""

from __future__ import annotations

from pathlib import Path

__all__ = ["list_file", "list_names"]

_FOLDER = Path(__file__).parent


def list_names() -> list[str]:
    """The names of the lists, sorted."""
    return sorted(one.stem for one in _FOLDER.glob("*.txt"))


def list_file(name: str) -> Path:
    """The file of the list of that name; it is in `list_names`."""
    return _FOLDER / f"{name}.txt"
