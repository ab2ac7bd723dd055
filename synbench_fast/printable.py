"""Text and tables for terminals and spreadsheets: what others wrote (names, paths, fields of files) acts on neither."""

from __future__ import annotations

import io
import json
import os
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, TextIO

__all__ = [
    "PrintableStream",
    "cell",
    "cells",
    "distinct",
    "named_cells",
    "print_json",
    "print_table",
    "printable",
]


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


def distinct(names: Sequence[str]) -> list[str]:
    """The names, each with a number where several are alike.

    >>> distinct(["a", "b", "a"])
    ['a (1)', 'b', 'a (2)']
    """
    alike, seen = Counter(names), Counter[str]()
    found = []
    for name in names:
        seen[name] += 1
        found.append(f"{name} ({seen[name]})" if alike[name] > 1 else name)
    return found


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


def print_table(
    stream: TextIO,
    columns: Sequence[str],
    rows: Sequence[Sequence[str]],
    *,
    left: int,
    drop: Sequence[str] = (),
) -> None:
    """A table of text, the first `left` columns left-aligned, the others right.

    On a terminal that is too narrow, columns of `drop` are left out, the first of them first, and a line names them.
    A row is one line however long it is: a terminal wraps it, and nothing is ever cut.
    """
    from rich import box
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    terminal = stream.isatty()
    rows = [[printable(one) for one in row] for row in rows]
    columns, rows, dropped = (
        _fitted(columns, rows, drop, _room(stream)) if terminal and drop else (columns, rows, [])
    )
    table = Table(box=box.SIMPLE_HEAD if terminal else None, pad_edge=False, show_edge=False)
    for index, name in enumerate(columns):
        table.add_column(Text(name), justify="left" if index < left else "right", no_wrap=True)
    for row in rows:
        table.add_row(*(Text(one) for one in row))
    width = sum(max(len(one) for one in column) + 4 for column in zip(columns, *rows, strict=True))
    console = Console(file=stream, width=width, color_system="auto" if terminal else None)
    with console.capture() as capture:
        console.print(table)
    stream.write("".join(line.rstrip() + "\n" for line in capture.get().splitlines()))
    if dropped:
        stream.write(f"left out, because the terminal is narrow: {', '.join(dropped)}; --wide shows all\n")
    stream.flush()


def _room(stream: TextIO) -> int:
    """Characters of a line of the terminal: those of COLUMNS, else its own, else 80."""
    try:
        return int(os.environ["COLUMNS"])
    except (KeyError, ValueError):
        pass
    try:
        return os.get_terminal_size(stream.fileno()).columns or 80
    except (OSError, ValueError):
        return 80


def _fitted(
    columns: Sequence[str], rows: Sequence[Sequence[str]], drop: Sequence[str], room: int
) -> tuple[Sequence[str], Sequence[Sequence[str]], list[str]]:
    """Columns and rows that fit into `room` characters, as far as columns of `drop` can go, and those that went."""
    widths = [max(map(len, cells)) for cells in zip(columns, *rows, strict=True)]
    kept, dropped = list(range(len(columns))), []
    for name in drop:
        if sum(widths[i] for i in kept) + 3 * (len(kept) - 1) <= room:  # three blanks between columns
            break
        places = [i for i in kept if columns[i] == name]
        kept = [i for i in kept if i not in places]
        dropped += [name] * bool(places)
    return [columns[i] for i in kept], [[row[i] for i in kept] for row in rows], dropped


def print_json(stream: TextIO, document: Any) -> None:
    """An indented JSON document for `ls` and `info`."""
    stream.write(json.dumps(document, indent=2, allow_nan=False) + "\n")
    stream.flush()
