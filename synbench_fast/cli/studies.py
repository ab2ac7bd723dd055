"""`study NAME`: the group, and the studies without labelled data: sensitivity, eps-star, robustness, metrics and pretrain."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from dataclasses import fields, replace
from typing import Any, TextIO

import typer

from synbench_fast.arguments import UsageError
from synbench_fast.cli.completion import encoder_names
from synbench_fast.cli.options import Output, output_options, score_options, values_of
from synbench_fast.cli.parsing import (
    Group,
    add,
    argument,
    choice,
    choices,
    command,
    directory,
    flag,
    integer,
    norms,
    number,
    option,
    panel,
    text,
    unit,
)
from synbench_fast.config import ScoreConfig
from synbench_fast.errors import SynbenchError
from synbench_fast.runtime.messages import fail, reason, say

__all__ = ["ENCODER", "STUDY", "deliver", "encoders_argument", "study"]

STUDY = "The study"
# As in studies/sensitivity/options.py, which imports torch: mistakes are to be named without that wait.
FACTORS = ("seed", "samples", "scales", "thresholds", "dtype", "preprocessing")
# Where an encoder runs and comes from: fields of ScoreConfig.
ENCODER = (
    "device",
    "threads",
    "input_shape",
    "mean",
    "std",
    "pool",
    "checkpoint",
    "random_init",
    "trust_remote_code",
)


study = typer.Typer(
    cls=Group,
    invoke_without_command=True,
    short_help="Run a study: sensitivity, eps*, probes, validity and others.",
    epilog="synbench-fast study eps-star builtin:conv --input-shape 3,16,16 --preset quick\n"
    "synbench-fast study linear-probe --help",
)


@study.callback()
def _study(context: typer.Context) -> None:
    """Run a study of encoders that needs many scores or labelled data."""
    if context.invoked_subcommand is None:
        print(context.get_help(), file=sys.stderr)
        raise typer.Exit(2)


def encoders_argument(metavar: str, help: str, wanted: str = "") -> Callable[[Any], Any]:
    """Encoders; `wanted`: what a message says is missing, "" where they may be left out."""
    return argument("encoders", text(metavar, encoder_names), help, wanted, many=True)


def deliver(stream: TextIO, report: Any, output: Output, **shown: Any) -> None:
    """A report on standard output; `shown` are arguments of its table."""
    if output.format == "json":
        stream.write(report.to_json() + "\n")
    elif output.format == "csv":
        report.write_csv(stream)
    else:
        report.print_report(stream, **shown)


def _check_checkpoint(config: ScoreConfig, encoders: Sequence[str]) -> None:
    if config.checkpoint is not None and len(encoders) > 1:
        raise UsageError(f"--checkpoint: expected a single ENCODER to load it into, got {len(encoders)}")


@command(
    short_help="Show how scores and ranking depend on the settings of a run.",
    examples=(
        "synbench-fast study sensitivity timm:resnet18 timm:resnet34 --preset quick",
        "synbench-fast study sensitivity builtin:conv --vary seed,dtype --seeds 3",
    ),
)
@encoders_argument(
    "ENCODER...", "Vary the runs of these encoders.", "at least one encoder such as timm:resnet50"
)
@panel(
    STUDY,
    option(
        "--vary", choices("FACTOR,...", *FACTORS), f"Vary some of {', '.join(FACTORS)}; the default is all."
    ),
    option("--seeds", integer(1, metavar="R"), "Run R seeds: SEED, SEED + 1, ...", "5"),
)
@score_options(*(one.name for one in fields(ScoreConfig) if one.name != "structure"))
@output_options("table", "json", "csv", out="Also write the document into DIR.")
def sensitivity(
    *, encoders: Sequence[str], vary: list[str] | None, seeds: int, config: ScoreConfig, output: Output
) -> int:
    """Vary seed, samples, scales, thresholds, dtype and preprocessing; show how scores and ranking change.

    Options of a score describe the base run. Tables show its first budget and its lowest threshold."""
    _check_checkpoint(config, encoders)
    if seeds < 2 and (vary is None or "seed" in vary):
        raise UsageError(f"--seeds: expected at least 2 to see their spread, got {str(seeds)!r}")
    if vary is not None and "thresholds" in vary and len(config.thresholds) < 2:
        raise UsageError(f"--thresholds: expected at least two to vary them, got '{config.thresholds[0]:g}'")
    folder = output.folder()
    from synbench_fast.report.terminal import result_stream
    from synbench_fast.studies.sensitivity import assemble, check_options

    options = check_options(encoders, vary, seeds, config)
    with result_stream() as stream:
        code, runs, missing = _vary_each(encoders, options, output)
        if not runs:
            return code
        document = assemble(encoders, options, runs, missing)
        for varied in document.encoders:
            for warning in varied.warnings:
                say(f"warning: {varied.label}: {warning}")
        deliver(stream, document, output)
        stream.flush()
        if folder is not None:
            output.say(f"wrote {document.save(folder / document.file_name())}")
    return code


def _vary_each(encoders: Sequence[str], options: Any, output: Output) -> tuple[int, list[Any], list[Any]]:
    """Exit code, runs and failures of the encoders; Ctrl-C keeps those that were finished."""
    from synbench_fast.runtime.progress import Reporter
    from synbench_fast.studies.sensitivity import MissingRun, labels, vary_encoder

    code = 0
    runs: list[Any] = []
    missing: list[Any] = []
    reporter = Reporter(sys.stderr, quiet=output.quiet)
    for place, (spec, label) in enumerate(zip(encoders, labels(encoders), strict=True), 1):
        shown = label if len(encoders) == 1 else f"[{place}/{len(encoders)}] {label}"
        try:
            with reporter.encoder(shown) as advance:
                one = vary_encoder(spec, options, label=label, progress=advance)
        except KeyboardInterrupt:
            say("interrupted: encoders that were finished are kept")
            return 130, runs, missing
        except Exception as error:
            code = output.failed(spec, error)
            missing.append(MissingRun(encoder=label, factor="base", level="base", reason=reason(spec, error)))
            continue
        for failure in one.failures:
            code = fail(f"{label}: {failure.factor} {failure.level}: {failure.reason}", 1)
        runs.append(one)
    return code, runs, missing


@command(
    short_help="Find the budget with the largest score.",
    examples=(
        "synbench-fast study eps-star timm:resnet50 results/resnet50.json",
        "synbench-fast study eps-star builtin:conv --input-shape 3,16,16 --repeats 5",
    ),
)
@encoders_argument(
    "ENCODER...",
    "Score these encoders, or read these result files (.json).",
    "at least one encoder or result file",
)
@panel(
    STUDY,
    option("--threshold", unit("A"), "Take the score above this threshold accuracy in [0, 1).", "0.7"),
    option("--repeats", integer(1), "Run N seeds: SEED, SEED + 1, ...; N is 1, or at least 3.", "1"),
)
@score_options(
    "eps", "estimator", "scales", "samples", "preset", "seed", *ENCODER,
    eps=tuple(i / 10 for i in range(9)),
)  # fmt: skip
@output_options("table", "json")
def eps_star(
    *, encoders: Sequence[str], threshold: float, repeats: int, config: ScoreConfig, output: Output
) -> int:
    """Find the budget with the largest score, and the budgets with no significantly lower one."""
    _check_checkpoint(config, encoders)
    if repeats == 2:
        raise UsageError("--repeats: expected 1, or at least 3 to see their spread, got '2'")
    if repeats > 1 and config.random_init:
        raise UsageError("--repeats: expected 1 with --random-init, whose weights follow the seed")
    stored = next((one for one in encoders if one.endswith(".json")), None)
    if repeats > 1 and stored is not None:
        raise UsageError(f"--repeats: expected 1 with a stored result, {stored!r}, got {str(repeats)!r}")
    if len(config.eps) < 2:
        raise UsageError(f"--eps: expected at least 2 budgets, got '{config.eps[0]:g}'")
    from synbench_fast.printable import print_table
    from synbench_fast.report.terminal import result_stream
    from synbench_fast.runtime.progress import Reporter

    code, rows, notes = 0, [], []
    reporter = Reporter(sys.stderr, quiet=output.quiet)
    with result_stream() as stream:
        for spec in encoders:
            try:
                with reporter.encoder(spec) as advance:
                    one = _find_eps_star(spec, config, threshold, repeats, advance)
            except Exception as error:
                code = output.failed(spec, error)
                continue
            if output.format == "json":
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
    return code


def _find_eps_star(spec: str, config: ScoreConfig, threshold: float, repeats: int, advance: Any) -> Any:
    from synbench_fast.results.records import Result
    from synbench_fast.studies.eps_star import find_eps_star

    if spec.endswith(".json"):
        return find_eps_star([Result.load(spec)], threshold=threshold)
    from synbench_fast.engine.score import score

    runs = [replace(config, thresholds=(threshold,), seed=config.seed + run) for run in range(repeats)]
    return find_eps_star([score(spec, config=one, progress=advance) for one in runs], threshold=threshold)


@command(
    short_help="Attack answers on drawn images through the encoder.",
    examples=(
        "synbench-fast study robustness timm:resnet18 timm:resnet34",
        "synbench-fast study robustness builtin:conv --input-shape 3,32,32 --radii 0.25",
    ),
)
@encoders_argument(
    "ENCODER...", "Attack through these encoders.", "at least one encoder such as timm:resnet50"
)
@panel(
    STUDY,
    option(
        "--radii",
        norms(),
        "Count the images that stay right within these l2 changes of 64 x 64 pixels in [0, 1].",
        "0.1,0.25,0.5,1",
    ),
)
@score_options("preset", "seed", "batch_size", *ENCODER, preset="quick", batch_size=64)
@output_options("table", "json", "csv", out="Also write robustness.json and robustness.csv into DIR.")
def robustness(
    *, encoders: Sequence[str], radii: tuple[float, ...], config: ScoreConfig, output: Output
) -> int:
    """Find how far drawn images must change before answers turn: robustness to attacks, without data.

    A linear discriminant is fitted to features of the structure score's images, and attacked through the encoder."""
    if not radii:
        raise UsageError("--radii: expected at least one radius, got 'none'")
    _check_checkpoint(config, encoders)
    folder = output.folder()
    from synbench_fast.report.terminal import result_stream
    from synbench_fast.runtime.progress import Reporter
    from synbench_fast.studies.robustness import Robustness, measure_robustness

    code, reports = 0, []
    reporter = Reporter(sys.stderr, quiet=output.quiet)
    with result_stream() as stream:
        for spec in encoders:
            try:
                with reporter.encoder(spec) as advance:
                    reports.append(measure_robustness(spec, config=config, radii=radii, progress=advance))
            except Exception as error:
                code = output.failed(spec, error)
        if not reports:
            return code
        measured = [one.encoders[0] for one in reports]
        line = Robustness.of(config, {"radii": radii}).command(*(one.encoder.spec for one in measured))
        document = replace(reports[0], encoders=measured, command=line)
        for one in document.encoders:
            for warning in one.warnings:
                say(f"warning: {one.encoder.spec}: {warning}")
        deliver(stream, document, output)
    if folder is not None:
        document.save_all(folder, "robustness")
    return code


@command(
    short_help="Measure label-free metrics on your own images.",
    examples=("synbench-fast study metrics timm:resnet18 timm:resnet50 --inputs my_images",),
)
@encoders_argument("ENCODER...", "Measure these encoders.", "at least one encoder such as timm:resnet50")
@panel(
    STUDY,
    option(
        "--inputs", directory(), "Read the images in DIR and its subfolders.", wanted="a folder of images"
    ),
    option("--samples", integer(20), "Read at most N images."),
    option("--seed", integer(0, 2**64 - 1), "Set the seed that chooses images and random weights.", "0"),
    option("--batch-size", integer(1), "Set the images per forward pass.", "128"),
)
@score_options(*ENCODER)
@output_options("table", "json", "csv", out="Also write metrics.json and metrics.csv into DIR.")
def metrics(
    *, encoders: Sequence[str], inputs: str, config: ScoreConfig, output: Output, **options: Any
) -> int:
    """Measure RankMe, alpha-ReQ and other metrics of features that need no labels, on images of your own."""
    _check_checkpoint(config, encoders)
    options |= values_of(config, ENCODER)
    folder = output.folder()
    from synbench_fast.report.terminal import result_stream

    with result_stream() as stream:
        try:
            from synbench_fast.studies.input_metrics import measure_inputs

            report = measure_inputs(list(encoders), inputs, progress=output.say, **options)
            if folder is not None:
                report.save_all(folder, "metrics")
        except SynbenchError as error:
            return fail(str(error), 1)
        except Exception as error:
            return output.failed("metrics", error)
        deliver(stream, report, output)
    return 0


@command(
    short_help="Compare minimax pre-training with the mean loss.",
    examples=(
        "synbench-fast study pretrain --demo",
        "synbench-fast study pretrain --demo --features 16 --format json",
    ),
)
@panel(
    STUDY,
    flag(
        "--demo",
        "Predict masked patches of images of scikit-learn; this option is required.",
    ),
    option("--runs", integer(1), "Run N seeds, each with both losses.", "5"),
    option("--seed", integer(0, 2**32 - 1), "Set the first seed.", "0"),
    option("--steps", integer(2), "Take N steps in every pre-training.", "600"),
    option("--features", integer(1, 192, "F"), "Set the width of the encoder's output.", "4"),
    option(
        "--temperature",
        number("T", above=0, below=1e9),
        "Set the temperature of the softmax over the groups' losses.",
        "0.1",
    ),
    option(
        "--reference",
        choice("none", "specialists"),
        "Weight the losses, or with specialists their excess over encoders of one group each.",
        "none",
    ),
)
@output_options("table", "json", traceback=False)
def pretrain(*, demo: bool, output: Output, **options: Any) -> None:
    """Pre-train small encoders with the mean loss and with minimax, and compare their downstream accuracies.

    To use the loss in your own training loop, see synbench_fast.minimax and docs/minimax.md."""
    if not demo:
        raise UsageError("--demo: expected to be given, as the only pre-training there is, got none")
    from synbench_fast.demos.minimax import print_report, run_pretraining
    from synbench_fast.report.terminal import result_stream

    with result_stream() as stream:
        report = run_pretraining(progress=output.say, **options)
        if output.format == "json":
            stream.write(report.to_json() + "\n")
        else:
            print_report(stream, report)


add(study, sensitivity, eps_star, robustness, metrics, pretrain)
