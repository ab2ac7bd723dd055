"""`compare`: which of stored results is better."""

from __future__ import annotations

import os
from typing import Annotated, Any

import typer

from synbench_fast import arguments
from synbench_fast.arguments import UsageError
from synbench_fast.cli.options import Format

__all__ = ["compare_command"]


def compare_command(
    files: Annotated[
        list[str] | None, typer.Argument(metavar="RESULT.json...", help="Results that `run --out` wrote.")
    ] = None,
    eps: Annotated[
        str | None, typer.Option(metavar="E,...", help="Budgets; default all that every result has.")
    ] = None,
    thresholds: Annotated[
        str | None, typer.Option(metavar="A,...", help="Threshold accuracies; default the lowest common one.")
    ] = None,
    unpaired: Annotated[
        bool,
        typer.Option("--unpaired", help="Take results as independent: other input shapes, seeds, `paper`."),
    ] = False,
    output: Format = "table",
) -> None:
    """Say which of stored results is better, and how sure that is."""
    for file in files or []:
        if os.path.isdir(file):
            raise UsageError(
                f"RESULT.json: expected files, got the directory {file!r}; its files are {file}/*.json"
            )
    if not files or len(files) < 2:
        raise UsageError(f"RESULT.json: expected at least two files to compare, got {len(files or [])}")
    kind = arguments.choice("--format", output, ("table", "json", "csv"))
    wanted: dict[str, Any] = {"unpaired": unpaired}
    if eps is not None:
        wanted["eps"] = arguments.numbers("--eps", eps, low=0, below=1, distinct=True)
    if thresholds is not None:
        wanted["thresholds"] = arguments.numbers("--thresholds", thresholds, low=0, below=1, distinct=True)
    from synbench_fast.report.terminal import result_stream
    from synbench_fast.results.records import Result
    from synbench_fast.stats.compare import compare, print_comparison

    with result_stream() as stream:
        print_comparison(stream, compare(*(Result.load(file) for file in files), **wanted), kind)
