"""The commands that show stored results: report and export."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from synbench_fast import arguments
from synbench_fast.arguments import UsageError
from synbench_fast.errors import SynbenchError
from synbench_fast.runtime.messages import fail, say

if TYPE_CHECKING:
    from synbench_fast.report.collection import Failure

__all__ = ["export_command", "report_command"]

_Dir = Annotated[str | None, typer.Argument(metavar="DIR", help="Where `run --out DIR` wrote results.")]


def _folder(folder: str | None) -> str:
    if not folder:
        raise UsageError("DIR: expected the directory that `run --out` wrote to, got none")
    return folder


def report_command(
    folder: _Dir = None,
    output: Annotated[
        str,
        typer.Option(
            "--format", metavar="table|csv|markdown|json|none", help="Of the leaderboard on standard output."
        ),
    ] = "table",
    html: Annotated[
        str | None,
        typer.Option(metavar="FILE|none", help="One page that works offline; by default DIR/report.html."),
    ] = None,
    csv: Annotated[str | None, typer.Option(metavar="FILE", help="Also write CSV.")] = None,
    parquet: Annotated[str | None, typer.Option(metavar="FILE", help="Also write Parquet.")] = None,
    markdown: Annotated[str | None, typer.Option(metavar="FILE", help="Also write Markdown.")] = None,
    eps: Annotated[str | None, typer.Option(metavar="E,...", help="Budgets to show; default all.")] = None,
    thresholds: Annotated[
        str | None, typer.Option(metavar="A,...", help="Threshold accuracies; default the lowest.")
    ] = None,
    sort: Annotated[
        str | None,
        typer.Option(metavar="COLUMN", help="score (default), rank, worst or a column of the CSV."),
    ] = None,
    reverse: Annotated[bool, typer.Option("--reverse", help="The other way round.")] = False,
) -> None:
    """Show stored results as a leaderboard: on standard output, as files and as one HTML page."""
    place = _folder(folder)
    kind = arguments.choice("--format", output, ("table", "csv", "markdown", "json", "none"))
    wanted: dict[str, Any] = {"sort": sort, "reverse": reverse}
    if eps is not None:
        wanted["eps"] = arguments.numbers("--eps", eps, low=0, below=1, distinct=True)
    if thresholds is not None:
        wanted["thresholds"] = arguments.numbers("--thresholds", thresholds, low=0, below=1, distinct=True)

    from synbench_fast.printable import print_json
    from synbench_fast.report import tables
    from synbench_fast.report.collection import load_results
    from synbench_fast.report.terminal import result_stream

    code = 0
    with result_stream() as stream:
        failures, problem = _failures(Path(place))
        if problem:
            code = fail(problem, 1)
        board = tables.leaderboard(load_results(place, failures), **wanted)
        for problem in board.collection.problems:
            code = fail(problem, 1)
        for path, write in ((csv, tables.write_csv), (markdown, tables.write_markdown)):
            if path is not None:
                say(f"wrote {tables.write_text(path, board, write)}")
        if parquet is not None:
            say(f"wrote {tables.write_parquet(parquet, board)}")
        if html != "none":
            from synbench_fast.report.html import write_html

            say(f"wrote {write_html(html or Path(place) / 'report.html', board)}")
        if kind == "table":
            tables.print_tables(stream, board)
        elif kind == "csv":
            tables.write_csv(stream, board)
        elif kind == "markdown":
            tables.write_markdown(stream, board)
        elif kind == "json":
            print_json(stream, tables.to_dict(board))
    raise typer.Exit(code)


def _failures(folder: Path) -> tuple[list[Failure], str]:
    """Encoders that a run with --models could not score, and what is wrong with its store."""
    from synbench_fast.fleet.database import FILE
    from synbench_fast.fleet.summary import named, read_summary
    from synbench_fast.report.collection import Failure

    if not (folder / FILE).is_file():
        return [], ""
    try:
        encoders = read_summary(folder)["encoders"]
    except SynbenchError as error:
        return [], str(error)
    failed = [one for one in encoders if one["current"] and one["state"] == "failed"]
    return [Failure(encoder=named(one), reason=str(one["reason"])) for one in failed], ""


def export_command(
    folder: _Dir = None,
    to: Annotated[
        str | None, typer.Option(metavar="mlflow|wandb|model-card", help="Where the results go.")
    ] = None,
    encoder: Annotated[
        str | None, typer.Option(metavar="SPEC", help="Only this encoder; a model card needs one.")
    ] = None,
    project: Annotated[
        str | None,
        typer.Option(
            metavar="NAME", help="Experiment of MLflow, project of Weights & Biases; default synbench-fast."
        ),
    ] = None,
    uri: Annotated[
        str | None,
        typer.Option(metavar="URI", help="Tracking store of MLflow; by default the client's own setting."),
    ] = None,
    name: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="Of the model in the card; by default the encoder's."),
    ] = None,
    out: Annotated[
        str | None,
        typer.Option(
            metavar="PATH", help="File of the model card, or folder of wandb's files; default its own."
        ),
    ] = None,
    offline: Annotated[bool, typer.Option("--offline", help="wandb: keep the runs on this machine.")] = False,
) -> None:
    """Hand stored results to MLflow or Weights & Biases, or write the metadata block of a model card."""
    place = _folder(folder)
    if to is None:
        raise UsageError("--to: expected mlflow, wandb or model-card, got none")
    kind = arguments.choice("--to", to, ("mlflow", "wandb", "model-card"))
    for option, given, owner in (
        ("--uri", uri is not None, "mlflow"),
        ("--name", name is not None, "model-card"),
        ("--offline", offline, "wandb"),
    ):
        if given and kind != owner:
            raise UsageError(f"{option}: expected only with --to {owner}, got it with --to {kind}")
    if out is not None and kind == "mlflow":
        raise UsageError("--out: expected only with --to wandb or model-card, got it with --to mlflow")
    if project is not None and kind == "model-card":
        raise UsageError("--project: expected only with --to mlflow or wandb, got it with --to model-card")
    project = "synbench-fast" if project is None else project

    from synbench_fast.report import export
    from synbench_fast.report.collection import load_results
    from synbench_fast.report.terminal import result_stream

    code = 0
    with result_stream() as stream:
        collection = load_results(place)
        for problem in collection.problems:
            code = fail(problem, 1)
        items = export.chosen(collection.items, encoder)
        if kind == "mlflow":
            count = export.to_mlflow(items, experiment=project, tracking_uri=uri)
            say(f"logged {count} runs to MLflow experiment {project!r}")
        elif kind == "wandb":
            count = export.to_wandb(items, project=project, directory=out, offline=offline)
            say(f"logged {count} runs to Weights & Biases project {project!r}")
        else:
            text = export.model_card(items, name=name)
            if out is None:
                stream.write(text)
            else:
                from synbench_fast.results.documents import write_atomically

                say(f"wrote {write_atomically(out, text)}")
    raise typer.Exit(code)
