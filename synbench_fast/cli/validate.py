"""The command that asks whether scores predict what labelled data say: validate."""

from __future__ import annotations

import io
from typing import Annotated, Any

import typer

from synbench_fast import arguments
from synbench_fast.arguments import UsageError
from synbench_fast.cli.options import (
    Device,
    Estimator,
    Format,
    InputShape,
    Mean,
    Pool,
    Preset,
    Quiet,
    RandomInit,
    Scales,
    Std,
    Threads,
    Traceback,
    TrustRemoteCode,
    encoder_options,
    score_options,
)
from synbench_fast.errors import SynbenchError
from synbench_fast.runtime.messages import fail, print_trace, reason, say

__all__ = ["validate"]

# A dozen encoders on two data sets, small enough for a minute.
_DEMO: dict[str, Any] = {
    "zoo_epochs": 0.5,
    "scales": 6,
    "steps": 5,
    "targets": 2,
    "linf": (),
    "threads": 1,
}
_COEFFICIENTS = ("spearman", "pearson", "kendall")


def validate(
    encoders: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[ENCODER...]",
            help="At least 3, as for run; zoo:small, zoo:all or zoo:NAME are small ones that are trained here.",
        ),
    ] = None,
    data: Annotated[
        list[str] | None,
        typer.Option(
            "--data",
            metavar="DATA",
            help="digits, photos, an image folder, a .npz or .parquet file; repeatable.",
        ),
    ] = None,
    demo: Annotated[
        bool, typer.Option("--demo", help="The zoo's small part on digits and photos, in under a minute.")
    ] = False,
    tasks: Annotated[str, typer.Option(metavar="SUITE|FILE.toml", help="As for run.")] = "full",
    eps: Annotated[str, typer.Option(metavar="E,...", help="Budgets of the scores.")] = "0,0.2",
    thresholds: Annotated[
        str, typer.Option(metavar="A,...", help="Threshold accuracies of the scores.")
    ] = "0.6,0.7,0.8,0.9",
    estimator: Estimator = "consistent",
    preset: Preset = "quick",
    scales: Scales = None,
    samples: Annotated[str | None, typer.Option(metavar="N", help="Synthetic samples per scale.")] = None,
    l2: Annotated[
        str | None,
        typer.Option(
            "--l2", metavar="R,...|none", help="l2 budgets of the attack on inputs in [0, 1]; default 0.25."
        ),
    ] = None,
    linf: Annotated[
        str | None,
        typer.Option(
            "--linf", metavar="R,...|none", help="Largest changes of an input element; default 8/255."
        ),
    ] = None,
    attack: Annotated[bool, typer.Option("--attack/--no-attack", help="Attack the probes.")] = True,
    steps: Annotated[
        str | None, typer.Option(metavar="N", help="Steps of the attack per target; default 10.")
    ] = None,
    targets: Annotated[
        str | None, typer.Option(metavar="N", help="Wrong classes that are tried; default 3.")
    ] = None,
    regularisation: Annotated[str, typer.Option(metavar="C", help="As for probe.")] = "1",
    test_fraction: Annotated[str, typer.Option(metavar="P", help="Held out of every class.")] = "0.25",
    data_samples: Annotated[
        str | None, typer.Option(metavar="N", help="Use at most N samples of each data set.")
    ] = None,
    neighbours: Annotated[str, typer.Option(metavar="K", help="Of the nearest-neighbour baseline.")] = "5",
    zoo_epochs: Annotated[
        str | None, typer.Option(metavar="X", help="Factor on the epochs of zoo encoders; default 1.")
    ] = None,
    coefficient: Annotated[
        str, typer.Option(metavar="spearman|pearson|kendall", help="That the table shows; files have all.")
    ] = "spearman",
    resamples: Annotated[str, typer.Option(metavar="N", help="Of the encoders, for the intervals.")] = "2000",
    splits: Annotated[
        str, typer.Option(metavar="N", help="Random halves of the encoders that choose and test.")
    ] = "200",
    batch_size: Annotated[str, typer.Option(metavar="N", help="Of the probes.")] = "128",
    device: Device = "auto",
    seed: Annotated[
        str, typer.Option(metavar="N", help="Of the samples, splits, resamples, attacks and weights.")
    ] = "0",
    input_shape: InputShape = None,
    mean: Mean = None,
    std: Std = None,
    pool: Pool = None,
    random_init: RandomInit = False,
    trust_remote_code: TrustRemoteCode = False,
    threads: Threads = None,
    out: Annotated[
        str | None, typer.Option(metavar="DIR", help="Also write validity.json and validity.csv into DIR.")
    ] = None,
    output: Format = "table",
    quiet: Quiet = False,
    traceback: Traceback = False,
) -> None:
    """Correlate scores and simple baselines with linear probes on labelled data, over several encoders."""
    if demo and (encoders or data):
        raise UsageError("--demo: expected neither ENCODER nor --data, got some")
    models = ["zoo:small"] if demo else list(encoders or [])
    sets = ["digits", "photos"] if demo else list(data or [])
    if not models:
        raise UsageError("ENCODER: expected several encoders such as zoo:small, or --demo, got none")
    if not sets:
        raise UsageError(
            "--data: expected digits, photos, an image folder, a .npz or a .parquet file, got none"
        )
    options: dict[str, Any] = {**_DEMO} if demo else {}
    options |= encoder_options(device, seed, input_shape, mean, std, pool, None, threads)
    options |= score_options(
        eps=eps, estimator=estimator, preset=preset, scales=scales, samples=samples, thresholds=thresholds
    )
    options |= {
        "attack": attack,
        "regularisation": arguments.number("--regularisation", regularisation, above=0, below=1e9),
        "test_fraction": arguments.number("--test-fraction", test_fraction, above=0, below=1),
        "neighbours": arguments.integer("--neighbours", neighbours, low=1),
        "resamples": arguments.integer("--resamples", resamples, low=100),
        "splits": arguments.integer("--splits", splits, low=1),
        "batch_size": arguments.integer("--batch-size", batch_size, low=1),
        "random_init": random_init,
        "trust_remote_code": trust_remote_code,
        "tasks": tasks,
    }
    for name, norm in (("l2", l2), ("linf", linf)):
        if norm is not None:
            options[name] = (
                () if norm == "none" else arguments.numbers(f"--{name}", norm, low=0, distinct=True)
            )
    for name, given, low in (
        ("steps", steps, 1),
        ("targets", targets, 1),
        ("data_samples", data_samples, 1),
    ):
        if given is not None:
            options[name] = arguments.integer(f"--{name.replace('_', '-')}", given, low=low)
    if zoo_epochs is not None:
        options["zoo_epochs"] = arguments.number("--zoo-epochs", zoo_epochs, above=0, below=1e9)
    shown = arguments.choice("--coefficient", coefficient, _COEFFICIENTS)
    kind = arguments.choice("--format", output, ("table", "json", "csv"))
    folder = None if out is None else arguments.folder("--out", out)

    from synbench_fast.report.terminal import result_stream
    from synbench_fast.results.documents import write_atomically
    from synbench_fast.studies.validity.tables import print_report, write_csv

    with result_stream() as stream:
        try:
            from synbench_fast.studies.validity import validate as run

            report = run(models, sets, progress=(lambda line: None) if quiet else say, **options)
            if folder is not None:
                report.save(folder / "validity.json")
                table = io.StringIO()
                write_csv(table, report)
                write_atomically(folder / "validity.csv", table.getvalue())
        except Exception as error:
            code = fail(str(error) if isinstance(error, SynbenchError) else reason("validate", error), 1)
            if traceback and not isinstance(error, SynbenchError):
                print_trace(error)
            raise typer.Exit(code) from None
        for warning in report.warnings:
            say(f"warning: {warning}")
        if kind == "json":
            stream.write(report.to_json() + "\n")
        elif kind == "csv":
            write_csv(stream, report)
        else:
            print_report(stream, report, coefficient=shown)
