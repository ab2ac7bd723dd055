"""A report as one HTML file without script, which loads nothing: style is in it, and its policy admits nothing else."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from importlib import resources
from pathlib import Path

from synbench_fast.report.html import content_digest
from synbench_fast.results.files import write_atomically
from synbench_fast.studies.base import Report, Table

__all__ = ["card", "html_page", "html_table", "write_page"]

_STYLE = """
table.plain { width: 100%; border-collapse: collapse; font-variant-numeric: tabular-nums; }
table.plain th, table.plain td { text-align: right; padding: 5px 10px; border-bottom: 1px solid var(--soft); white-space: nowrap; }
table.plain th:first-child, table.plain td:first-child { text-align: left; }
"""


def write_page(path: str | Path, report: Report, title: str) -> Path:
    """Write the report's tables as a page, whole or not at all; returns the path."""
    body: list[str] = []
    lines: list[str] = []
    for one in report.tables():
        if isinstance(one, Table):
            body += [
                "".join(f"<p>{escape(line)}</p>" for line in lines if line),
                html_table(one.columns, one.rows),
            ]
            lines = []
        else:
            lines.append(one)
    body.append("".join(f'<p class="small">{escape(line)}</p>' for line in lines if line))
    text = html_page(
        title, report.kind(), "\n".join(map(_section, body)), command=getattr(report, "command", "")
    )
    return write_atomically(path, text)


def html_page(
    heading: str, title: str, body: str, *, about: str = "", style: str = "", command: str = ""
) -> str:
    """The whole text around `body`, which is HTML; what else is given is text."""
    import synbench_fast

    files = resources.files("synbench_fast.report") / "page"
    style = (files / "page.css").read_text(encoding="utf-8") + _STYLE + style
    policy = f"default-src 'none'; style-src 'sha256-{content_digest(style)}'; img-src data:; base-uri 'none'; form-action 'none'"
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{policy}">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        '<meta name="color-scheme" content="light dark">\n<link rel="icon" href="data:,">\n'
        f"<title>{escape(heading)}: {escape(title)}</title>\n<style>{style}</style>\n</head>\n<body>\n"
        f"<header><div><h1>{escape(heading)}</h1><p>{escape(title)}</p></div><p>{escape(about)}</p></header>\n"
        f"<main>\n{body}\n</main>\n"
        f'<footer class="small">synbench-fast {escape(synbench_fast.__version__)}. This file is complete: it loads '
        f"nothing. {escape(command)}</footer>\n</body>\n</html>\n"
    )


def card(title: str, content: str, kind: str = "card") -> str:
    """A section of the page; `content` is HTML."""
    return f'<section class="{kind}"><h2>{escape(title)}</h2>{content}</section>'


def _section(content: str) -> str:
    return f'<section class="card">{content}</section>' if content else ""


def html_table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table of text."""
    head = "".join(f'<th scope="col">{escape(one)}</th>' for one in columns)
    lines = "".join(f"<tr>{''.join(f'<td>{escape(cell)}</td>' for cell in row)}</tr>" for row in rows)
    return f'<div class="scroll"><table class="plain"><thead><tr>{head}</tr></thead><tbody>{lines}</tbody></table></div>'
