"""The verbs that read stored results: compare, report, status and export."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from synbench_fast.arguments import UsageError
from synbench_fast.cli.options import OUTPUT, Output, output_options
from synbench_fast.cli.parsing import (
    argument,
    choice,
    command,
    directory,
    file,
    flag,
    numbers,
    option,
    panel,
    text,
)
from synbench_fast.errors import SynbenchError
from synbench_fast.runtime.messages import fail, say

if TYPE_CHECKING:
    from synbench_fast.report.collection import Failure

__all__ = ["compare", "export", "report", "status"]

COLUMNS = ("score", "structure", "rank", "worst")
TO = ("mlflow", "wandb", "model-card")
_OWNERS = {  # where each option of export means something
    "uri": ("mlflow",), "name": ("model-card",), "offline": ("wandb",), "out": ("wandb", "model-card"),
    "project": ("mlflow", "wandb"),
}  # fmt: skip
_DIR = argument(
    "folder",
    directory(),
    "Read the results that `run --out DIR` wrote.",
    wanted="the directory that `run --out` wrote to",
)


@command(
    short_help="Say which stored result is better.",
    examples=(
        "synbench-fast compare results",
        "synbench-fast compare results/a.json results/b.json --eps 0.2 --format csv",
    ),
)
@argument(
    "places",
    text("DIR|RESULT.json..."),
    "Compare these results of `run --out`, or those in a folder.",
    many=True,
)
@panel(
    "What is compared",
    option("--eps", numbers("E,..."), "Compare at these budgets; the default is all that every result has."),
    option(
        "--thresholds",
        numbers("A,..."),
        "Compare above these accuracies; the default is the lowest common one.",
    ),
    flag(
        "--unpaired",
        "Treat results as independent, for other input shapes or seeds, or for the estimator paper.",
    ),
)
@output_options("table", "json", "csv", quiet=False, traceback=False, wide=True)
def compare(*, places: Sequence[str], output: Output, **wanted: Any) -> None:
    """Say which stored result is better, with intervals and p-values, and which encoder to take.

    Suites are compared task by task."""
    from synbench_fast.report.collection import load_documents
    from synbench_fast.report.comparison import compare, print_comparison, print_comparisons
    from synbench_fast.report.terminal import result_stream
    from synbench_fast.report.verdict import verdict
    from synbench_fast.results.records import Result
    from synbench_fast.results.suite import SuiteResult

    if len(places) < 2 and not any(os.path.isdir(one) for one in places):
        raise UsageError(f"DIR|RESULT.json: expected at least two results to compare, got {len(places)}")
    found, problems = load_documents(places)
    for problem in problems:
        say(f"warning: {problem}")
    if len(found) < 2:
        raise UsageError(f"DIR|RESULT.json: expected at least two results to compare, got {len(found)}")
    results = [one for one in found if isinstance(one, Result)]
    suites = [one for one in found if isinstance(one, SuiteResult)]
    if results and suites:
        raise UsageError(
            f"DIR|RESULT.json: expected results of one kind, got {len(results)} of single tasks and {len(suites)} of suites"
        )
    wanted = {name: value for name, value in wanted.items() if value is not None}
    with result_stream() as stream:
        if results:
            print_comparison(stream, compare(*results, **wanted), output.format, wide=output.wide)
        else:
            tasks = suites[0].tasks
            if any(one.tasks != tasks for one in suites):
                raise UsageError("DIR|RESULT.json: expected suites of the same tasks, got others")
            by_task = {
                task: replace(compare(*(one.results[place] for one in suites), **wanted), verdict=[])
                for place, task in enumerate(tasks)
            }
            print_comparisons(stream, by_task, output.format, wide=output.wide)
            for line in verdict(suites, **wanted) if output.format == "table" else ():
                stream.write(f"{line}\n")


@command(
    short_help="Show stored results as a leaderboard and a page.",
    examples=(
        "synbench-fast report results",
        "synbench-fast report results --sort worst --csv board.csv --html none",
    ),
)
@_DIR
@panel(
    "What is shown",
    option("--eps", numbers("E,..."), "Show these budgets; the default is all."),
    option("--thresholds", numbers("A,..."), "Show these threshold accuracies; the default is the lowest."),
    option(
        "--sort",
        text("COLUMN", lambda: COLUMNS),
        "Sort by score, structure, rank, worst or a column of the CSV; the default is structure, else score.",
    ),
    flag("--reverse", "Sort in the opposite order."),
)
@output_options(
    "table", "csv", "markdown", "json", "none", about="Choose the leaderboard on standard output.", quiet=False, traceback=False, wide=True
)  # fmt: skip
@panel(
    OUTPUT,
    option(
        "--html", file("FILE|none"), "Write the page, which works offline; the default is DIR/report.html."
    ),
    option("--csv", file(), "Also write CSV."),
    option("--parquet", file(), "Also write Parquet."),
    option("--markdown", file(), "Also write Markdown."),
)
def report(
    *, folder: str, output: Output, html: str | None, sort: str | None, reverse: bool, **others: Any
) -> int:
    """Show stored results as a leaderboard: on standard output, as files and as one HTML page."""
    from synbench_fast.printable import print_json
    from synbench_fast.report import tables
    from synbench_fast.report.collection import load_results, no_collection
    from synbench_fast.report.terminal import result_stream

    code = 0
    wanted = {name: others[name] for name in ("eps", "thresholds") if others[name] is not None}
    with no_collection(), result_stream() as stream:
        failures, problem, unfinished = _failures(Path(folder))
        if problem:
            code = fail(problem, 1)
        board = tables.leaderboard(
            load_results(folder, failures, unfinished), sort=sort, reverse=reverse, **wanted
        )
        for problem in board.collection.problems:
            code = fail(problem, 1)
        for name, write in (("csv", tables.write_csv), ("markdown", tables.write_markdown)):
            if others[name] is not None:
                say(f"wrote {tables.write_text(others[name], board, write)}")
        if others["parquet"] is not None:
            say(f"wrote {tables.write_parquet(others['parquet'], board)}")
        if html != "none":
            from synbench_fast.report.html import write_html

            say(f"wrote {write_html(html or Path(folder) / 'report.html', board)}")
        if output.format == "table":
            tables.print_tables(stream, board, wide=output.wide)
        elif output.format == "csv":
            tables.write_csv(stream, board)
        elif output.format == "markdown":
            tables.write_markdown(stream, board)
        elif output.format == "json":
            print_json(stream, tables.to_dict(board))
    return code


def _failures(folder: Path) -> tuple[list[Failure], str, str]:
    """Encoders that a run with --models could not score, what is wrong with its store, and what is not finished in it."""
    from synbench_fast.fleet.database import FILE
    from synbench_fast.fleet.summary import named, read_summary
    from synbench_fast.report.collection import Failure

    if not (folder / FILE).is_file():
        return [], "", ""
    try:
        summary = read_summary(folder)
    except SynbenchError as error:
        return [], str(error), ""
    counts = summary["counts"]
    left = counts["waiting"] + counts["planned"]
    unfinished = ""
    if left:
        unfinished = (
            f"{left} of {sum(counts.values())} encoders are not finished, {counts['planned']} of them begun; the command "
            "that began them goes on, and `synbench-fast status` shows them"
        )
    failed = [one for one in summary["encoders"] if one["current"] and one["state"] == "failed"]
    return [Failure(encoder=named(one), reason=str(one["reason"])) for one in failed], "", unfinished


@command(
    short_help="Show the progress of `run --models`.",
    examples=("synbench-fast status store", "synbench-fast status store --format json"),
)
@argument(
    "folder",
    directory(),
    "Read the store that `run --models` writes to `--out DIR`.",
    wanted="the folder of a run store",
)
@output_options("table", "json", quiet=False, traceback=False)
def status(*, folder: str, output: Output) -> None:
    """Show the progress of `run --models`, while it runs or afterwards."""
    from synbench_fast.fleet.store import read_summary
    from synbench_fast.printable import print_json
    from synbench_fast.report.fleet import print_status
    from synbench_fast.report.terminal import result_stream

    summary = read_summary(folder)
    with result_stream() as stream:
        if output.format == "json":
            print_json(stream, summary)
        else:
            print_status(stream, summary)


@command(
    short_help="Hand stored results to MLflow, wandb or a model card.",
    examples=(
        "synbench-fast export results --to mlflow --project encoders",
        "synbench-fast export results --to model-card --encoder timm:resnet50",
    ),
)
@_DIR
@panel(
    "Where results go",
    option("--to", choice(*TO), "Choose where the results go.", wanted=f"one of {', '.join(TO)}"),
    option("--encoder", text("SPEC"), "Take only this encoder; a model card needs one."),
    option(
        "--project",
        text("NAME"),
        "Name the experiment of MLflow or the project of wandb [default: synbench-fast].",
    ),
    option("--uri", text("URI"), "Use this tracking store of MLflow; the default is the client's setting."),
    option("--name", text("NAME"), "Name the model in the card; the default is the encoder's name."),
    option("--out", file("PATH"), "Write the model card to this file, or wandb's files to this folder."),
    flag("--offline", "Keep the runs of wandb on this machine."),
)
def export(*, folder: str, to: str, encoder: str | None, **given: Any) -> int:
    """Hand stored results to MLflow or Weights & Biases, or write the metadata block of a model card."""
    for key, owners in _OWNERS.items():
        if given[key] and to not in owners:
            raise UsageError(f"--{key}: expected only with --to {' or '.join(owners)}, got it with --to {to}")
    project, out = given["project"] or "synbench-fast", given["out"]

    from synbench_fast.report import export
    from synbench_fast.report.collection import load_results
    from synbench_fast.report.terminal import result_stream

    code = 0
    with result_stream() as stream:
        collection = load_results(folder)
        for problem in collection.problems:
            code = fail(problem, 1)
        items = export.chosen(collection.items, encoder)
        if to == "mlflow":
            count = export.to_mlflow(items, experiment=project, tracking_uri=given["uri"])
            say(f"logged {count} runs to MLflow experiment {project!r}")
        elif to == "wandb":
            count = export.to_wandb(items, project=project, directory=out, offline=given["offline"])
            say(f"logged {count} runs to Weights & Biases project {project!r}")
        else:
            card = export.model_card(items, name=given["name"])
            if out is None:
                stream.write(card)
            else:
                from synbench_fast.results.files import write_atomically

                say(f"wrote {write_atomically(out, card)}")
    return code
