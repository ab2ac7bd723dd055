"""The commands that lead from a score to a classifier: eps-star and probe."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from synbench_fast import arguments
from synbench_fast.arguments import UsageError
from synbench_fast.cli.options import (
    Checkpoint,
    Device,
    Estimator,
    InputShape,
    Mean,
    Pool,
    Preset,
    Quiet,
    RandomInit,
    Samples,
    Scales,
    Seed,
    Std,
    TableOrJson,
    Threads,
    Traceback,
    TrustRemoteCode,
    encoder_options,
    score_options,
)
from synbench_fast.errors import SynbenchError
from synbench_fast.runtime.messages import fail, print_trace, reason, say

__all__ = ["eps_star_command", "probe"]


def eps_star_command(
    encoders: Annotated[
        list[str] | None,
        typer.Argument(metavar="ENCODER...", help="Encoders to score, or result files (.json) to read."),
    ] = None,
    eps: Annotated[
        str, typer.Option(metavar="E,...", help="Grid of budgets in [0, 1).")
    ] = "0,0.1,0.2,0.3,0.4,0.5,0.6,0.7,0.8",
    threshold: Annotated[str, typer.Option(metavar="A", help="Threshold accuracy in [0, 1).")] = "0.7",
    estimator: Estimator = "paper",
    repeats: Annotated[
        str, typer.Option(metavar="N", help="Runs with seeds SEED, SEED + 1, ...; 1, or 3 and more.")
    ] = "1",
    scales: Scales = None,
    samples: Samples = None,
    preset: Preset = "standard",
    device: Device = "auto",
    seed: Seed = "0",
    input_shape: InputShape = None,
    mean: Mean = None,
    std: Std = None,
    pool: Pool = None,
    checkpoint: Checkpoint = None,
    random_init: RandomInit = False,
    trust_remote_code: TrustRemoteCode = False,
    threads: Threads = None,
    output: TableOrJson = "table",
    quiet: Quiet = False,
    traceback: Traceback = False,
) -> None:
    """Find the budget with the largest score, and the budgets that the samples cannot tell from it."""
    if not encoders:
        raise UsageError("ENCODER: expected at least one encoder or result file, got none")
    if checkpoint is not None and len(encoders) > 1:
        raise UsageError(f"--checkpoint: expected a single ENCODER to load it into, got {len(encoders)}")
    runs = arguments.integer("--repeats", repeats, low=1)
    if runs == 2:
        raise UsageError("--repeats: expected 1, or at least 3 to see their spread, got '2'")
    if runs > 1 and random_init:
        raise UsageError("--repeats: expected 1 with --random-init, whose weights follow the seed")
    options = encoder_options(device, seed, input_shape, mean, std, pool, checkpoint, threads) | {
        "random_init": random_init,
        "trust_remote_code": trust_remote_code,
    }
    options |= score_options(
        eps=eps,
        estimator=estimator,
        preset=preset,
        scales=scales,
        samples=samples,
    )
    if len(options["eps"]) < 2:
        raise UsageError(f"--eps: expected at least 2 budgets, got {eps!r}")
    level = arguments.numbers("--threshold", threshold, low=0, below=1)
    if len(level) > 1:
        raise UsageError(f"--threshold: expected one number, got {threshold!r}")
    kind = arguments.choice("--format", output, ("table", "json"))

    from synbench_fast.printable import print_table
    from synbench_fast.report.progress import Reporter
    from synbench_fast.report.terminal import result_stream

    code, rows, notes = 0, [], []
    reporter = Reporter(sys.stderr, quiet=quiet)
    with result_stream() as stream:
        for spec in encoders:
            try:
                with reporter.encoder(spec) as advance:
                    from synbench_fast.results.records import Result
                    from synbench_fast.studies.eps_star import find_eps_star

                    if spec.endswith(".json"):
                        found = [Result.load(spec)]
                    else:
                        from synbench_fast.engine.score import score

                        found = [
                            score(
                                spec,
                                progress=advance,
                                thresholds=level,
                                **{**options, "seed": options["seed"] + run},
                            )
                            for run in range(runs)
                        ]
                one = find_eps_star(found, threshold=level[0])
            except Exception as error:
                code = fail(reason(spec, error), 1)
                if traceback and not isinstance(error, SynbenchError):
                    print_trace(error)
                continue
            if kind == "json":
                stream.write(one.to_json() + "\n")
                stream.flush()
                continue
            members = ", ".join(f"{point.eps:g}" for point in one.points if point.in_set)
            largest = max(point.score for point in one.points)
            rows.append([one.encoder, f"{one.eps_star:.3g}", members, f"{largest:.4f}"])
            notes += [f"{one.encoder}: {note}\n" for note in one.notes]
        if rows:
            print_table(stream, ["encoder", "eps*", "95 % set", "score"], rows, left=1)
            stream.writelines(notes)
    raise typer.Exit(code)


def probe(
    encoder: Annotated[str | None, typer.Argument(metavar="ENCODER", help="Encoder, as for run.")] = None,
    data: Annotated[
        str | None,
        typer.Option(metavar="DATA", help="digits, an image folder, a .npz or a .parquet file."),
    ] = None,
    eps: Annotated[str, typer.Option(metavar="E,...", help="Budgets in [0, 1); a probe for each.")] = "0,0.2",
    l2: Annotated[
        str, typer.Option("--l2", metavar="R,...|none", help="l2 budgets of the attack on inputs in [0, 1].")
    ] = "0.5",
    linf: Annotated[
        str, typer.Option("--linf", metavar="R,...|none", help="Largest changes of an input element.")
    ] = "8/255",
    attack: Annotated[bool, typer.Option("--attack/--no-attack", help="Attack the probes.")] = True,
    steps: Annotated[str, typer.Option(metavar="N", help="Steps of the attack per target.")] = "50",
    targets: Annotated[str, typer.Option(metavar="N", help="Wrong classes that are tried.")] = "9",
    regularisation: Annotated[str, typer.Option(metavar="C", help="C of |W|^2 / (2 C N).")] = "1",
    standardise: Annotated[
        str, typer.Option(metavar="common|feature", help="One factor for all features, or one for each.")
    ] = "common",
    test_fraction: Annotated[str, typer.Option(metavar="P", help="Held out of every class.")] = "0.25",
    samples: Annotated[str | None, typer.Option(metavar="N", help="Use at most N samples.")] = None,
    batch_size: Annotated[str, typer.Option(metavar="N", help="Images per forward pass.")] = "128",
    device: Device = "auto",
    seed: Annotated[
        str,
        typer.Option(
            metavar="N", help="Of the split, the attacks' starts, and the weights with --random-init."
        ),
    ] = "0",
    input_shape: InputShape = None,
    mean: Mean = None,
    std: Std = None,
    pool: Pool = None,
    checkpoint: Checkpoint = None,
    random_init: RandomInit = False,
    trust_remote_code: TrustRemoteCode = False,
    threads: Threads = None,
    output: TableOrJson = "table",
    quiet: Quiet = False,
    traceback: Traceback = False,
) -> None:
    """Train eps-robust linear probes on features of labelled data, and attack them through the encoder."""
    if encoder is None:
        raise UsageError("ENCODER: expected an encoder such as timm:resnet50, got none")
    if data is None:
        raise UsageError("--data: expected digits, an image folder, a .npz or a .parquet file, got none")
    options = encoder_options(device, seed, input_shape, mean, std, pool, checkpoint, threads) | {
        "eps": arguments.numbers("--eps", eps, low=0, below=1, distinct=True),
        "l2": () if l2 == "none" else arguments.numbers("--l2", l2, low=0, distinct=True),
        "linf": () if linf == "none" else arguments.numbers("--linf", linf, low=0, distinct=True),
        "attack": attack,
        "steps": arguments.integer("--steps", steps, low=1),
        "targets": arguments.integer("--targets", targets, low=1),
        "regularisation": arguments.number("--regularisation", regularisation, above=0, below=1e9),
        "standardise": arguments.choice("--standardise", standardise, ("common", "feature")),
        "test_fraction": arguments.number("--test-fraction", test_fraction, above=0, below=1),
        "batch_size": arguments.integer("--batch-size", batch_size, low=1),
        "random_init": random_init,
        "trust_remote_code": trust_remote_code,
    }
    if samples is not None:
        options["samples"] = arguments.integer("--samples", samples, low=1)
    kind = arguments.choice("--format", output, ("table", "json"))

    from synbench_fast.printable import print_table
    from synbench_fast.report.progress import Reporter
    from synbench_fast.report.terminal import result_stream

    with result_stream() as stream:
        try:
            with Reporter(sys.stderr, quiet=quiet).encoder(encoder) as advance:
                from synbench_fast.studies.linear_probe import robust_linear_probe

                report = robust_linear_probe(encoder, data, progress=advance, **options)
        except Exception as error:
            code = fail(reason(encoder, error), 1)
            if traceback and not isinstance(error, SynbenchError):
                print_trace(error)
            raise typer.Exit(code) from None
        for warning in report.warnings:
            say(f"warning: {encoder}: {warning}")
        if kind == "json":
            stream.write(report.to_json() + "\n")
        else:
            print_table(stream, *report.rows(), left=0)
            stream.write(
                f"{encoder}, F = {report.encoder.feature_dim}, on {report.data.name}: "
                f"{report.data.train} to train, {report.data.test} to test, "
                f"{len(report.data.classes)} classes; per cent, 95 % intervals\n"
            )
