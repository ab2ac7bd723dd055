"""Text of others (names of models, paths, fields of files) where a program would read it as more than text."""

from __future__ import annotations

import io
import re
from collections.abc import Iterable, Mapping
from typing import Any

__all__ = ["PrintableStream", "cell", "cells", "named_cells", "printable"]


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


class PrintableStream(io.TextIOWrapper):
    """A terminal, or a log that one will show: control characters but new lines and colours are escapes."""

    def write(self, text: str) -> int:
        super().write(_OBEYED.sub(lambda found: found[0] if found[1] else printable(found[0]), text))
        return len(text)


_OBEYED = re.compile(r"(\n|\x1b\[[0-9;]*m)|[^ -~\xa1-\xac\xae-\u05ff]")


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
