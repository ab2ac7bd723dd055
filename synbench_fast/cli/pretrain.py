"""The command that shows task-robust pre-training: pretrain."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from synbench_fast import arguments
from synbench_fast.arguments import UsageError
from synbench_fast.cli.options import TableOrJson
from synbench_fast.runtime.messages import say

__all__ = ["pretrain"]

_REFERENCES = ("none", "specialists")  # as in minimax/demo/run.py, which imports torch


def pretrain(
    demo: Annotated[
        bool,
        typer.Option("--demo", help="Masked patches of real images that come with scikit-learn, offline."),
    ] = False,
    runs: Annotated[str, typer.Option(metavar="N", help="Seeds, each with both losses.")] = "5",
    seed: Annotated[str, typer.Option(metavar="N", help="The first of them.")] = "0",
    steps: Annotated[str, typer.Option(metavar="N", help="Of every pre-training.")] = "600",
    features: Annotated[str, typer.Option(metavar="F", help="Width of the encoder's output.")] = "4",
    temperature: Annotated[
        str, typer.Option(metavar="T", help="Of the softmax over the groups' losses.")
    ] = "0.1",
    reference: Annotated[
        str,
        typer.Option(
            metavar="none|specialists",
            help="Weigh losses, or their excess over an encoder of each group alone.",
        ),
    ] = "none",
    output: TableOrJson = "table",
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="No progress on standard error.")] = False,
) -> None:
    """Pre-train small encoders with the mean loss and with minimax, and compare what they are good for.

    To use the loss in your own training loop: synbench_fast.minimax, docs/minimax.md."""
    if not demo:
        raise UsageError("--demo: expected to be given, as the only pre-training there is, got none")
    options: dict[str, Any] = {
        "runs": arguments.integer("--runs", runs, low=1),
        "seed": arguments.integer("--seed", seed, low=0, high=2**32 - 1),
        "steps": arguments.integer("--steps", steps, low=2),
        "features": arguments.integer("--features", features, low=1, high=192),
        "temperature": arguments.number("--temperature", temperature, above=0, below=1e9),
        "reference": arguments.choice("--reference", reference, _REFERENCES),
    }
    kind = arguments.choice("--format", output, ("table", "json"))
    from synbench_fast.demos.minimax import print_report, run_pretraining
    from synbench_fast.report.terminal import result_stream

    with result_stream() as stream:
        report = run_pretraining(progress=(lambda line: None) if quiet else say, **options)
        if kind == "json":
            stream.write(report.to_json() + "\n")
        else:
            print_report(stream, report)
