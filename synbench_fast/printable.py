"""Text of others (names of models, paths, fields of files) where a program would read it as more than text."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

__all__ = ["cell", "cells", "named_cells", "printable"]


def printable(text: str) -> str:
    """`text` on one line, with what a terminal would act on as its escape: ESC is \\x1b, U+202E is \\u202e.

    >>> printable("timm:\\x1b[2Jx")
    'timm:\\\\x1b[2Jx'
    """
    if text.isprintable():
        return text
    return "".join(
        one
        if one.isprintable()
        else " "
        if one in "\n\r\t\v\f"
        else one.encode("unicode_escape", "backslashreplace").decode("ascii")
        for one in text
    )


def cell(value: Any) -> Any:
    """A cell of CSV: text that a spreadsheet would take for a formula gets an apostrophe, which makes it text.

    >>> cell('=HYPERLINK("...")'), cell(-1.5)
    ('\\'=HYPERLINK("...")', -1.5)
    """
    if isinstance(value, str):
        if not value.isascii():  # half a character, as in the name of a file, cannot be written
            value = value.encode("utf-8", "backslashreplace").decode("utf-8")
        if value.lstrip()[:1] in _FORMULA:
            return "'" + value
    return value


_FORMULA = frozenset("=+-@\uff1d\uff0b\uff0d\uff20")  # also full width, which some programs take for the same


def cells(row: Iterable[Any]) -> list[Any]:
    """`cell` of each."""
    return [cell(one) for one in row]


def named_cells(row: Mapping[str, Any]) -> dict[str, Any]:
    """`cell` of each, under its name."""
    return {name: cell(one) for name, one in row.items()}
