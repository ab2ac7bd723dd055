"""The error type of every mistake a user can make, and the helpers that word it."""

from __future__ import annotations

import difflib
from collections.abc import Iterable

from synbench_fast.printable import printable

__all__ = ["SynbenchError", "first_line", "suggest"]


class SynbenchError(ValueError):
    """A mistake in what the user asked for or supplied; its text is one line.

    The command line prints it without a traceback and exits with an error code. Everything else that is
    raised is a defect of this package (or of the encoder) and keeps its traceback.

    Names and values of files that the text quotes are shown, not acted on: see `printable`.
    """

    def __init__(self, text: str) -> None:
        super().__init__(printable(text))


def suggest(name: str, candidates: Iterable[str]) -> str:
    """`', did you mean X?'` for the candidate that `name` begins or misspells, or `''` if there is none.

    Case, the dashes of an option and the source of a spec are ignored: what `name` shares with every candidate is no
    likeness. A candidate that is `name` itself helps nobody.
    """
    source = name[: name.rfind(":") + 1].lower()

    def bare(text: str) -> str:
        return text.lower().removeprefix(source).lstrip("-")

    known: dict[str, str] = {}
    for candidate in candidates:
        if candidate == name:
            return ""
        known.setdefault(bare(candidate), candidate)
    wanted = bare(name)
    begun = [one for one in known if one.startswith(wanted)] if len(wanted) > 2 else []
    # In a short name one wrong letter is a large share.
    near = difflib.get_close_matches(wanted, begun, n=1, cutoff=0.5) or difflib.get_close_matches(
        wanted, known, n=1, cutoff=0.7 if len(wanted) > 4 else 0.6
    )
    return f", did you mean {known[near[0]]}?" if near else ""


def first_line(error: BaseException, limit: int = 200) -> str:
    """`'Type: first line of the message'`: what a one-line error says of another library's exception."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    text = f"{type(error).__name__}: {lines[0]}" if lines else type(error).__name__
    return text if len(text) <= limit else text[: limit - 3] + "..."
