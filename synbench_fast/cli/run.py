"""`run`: scores of encoders, one after the other, or of many on many devices into a store."""

from __future__ import annotations

import re
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from synbench_fast import arguments
from synbench_fast.arguments import UsageError
from synbench_fast.cli.completion import encoder_names, fleet_names, suite_names
from synbench_fast.cli.options import Output, output_options, say_mistakes, score_options
from synbench_fast.cli.parsing import (
    Type,
    argument,
    choice,
    command,
    flag,
    given,
    integer,
    number,
    option,
    panel,
    text,
)
from synbench_fast.cli.runfile import Named, RunFile, dump
from synbench_fast.config import SCORE, ScoreConfig
from synbench_fast.errors import SynbenchError, first_line
from synbench_fast.runtime.messages import fail, say

__all__ = ["run"]

DEVICES = ("auto", "cpu", "cuda")
JOURNALS = ("auto", "wal", "delete")  # as in fleet/database.py, which takes longer to import
EXAMPLES = (
    "synbench-fast run timm:resnet50",
    "synbench-fast run builtin:conv --preset quick --input-shape 3,16,16",
    "synbench-fast run timm:resnet18 timm:resnet34 --eps 0,0.2,0.4 --out results",
    "synbench-fast run --models 'timm:vit_*' --out store --workers 2",
)


def _workers(name: str, text: str) -> int:
    from synbench_fast.fleet.executors import MOST_WORKERS

    return arguments.integer(name, text, low=1, high=MOST_WORKERS)


@command(examples=EXAMPLES, short_help="Score encoders.")
@argument(
    "models",
    text("[MODEL...]", encoder_names),
    "Score these encoders, such as timm:resnet50; `synbench-fast ls` lists more.",
    many=True,
)
@score_options(from_file=True, structure=True)
@panel(
    SCORE,
    option(
        "--tasks",
        text("SUITE|FILE.toml", suite_names),
        "Score several tasks, with their mean and the worst: published, patterns, covariances, priors, full, classes:K or "
        "a file; the default is the published task alone.",
    ),
    flag(
        "--dump-config",
        "Print this run as a file for --config, with every option explained, and score nothing.",
    ),
)
@panel(
    "Many encoders",
    option(
        "--models fleet",
        text("FILE|GLOB|LIST", fleet_names),
        "Score the encoders of a file of specs, of a pattern in quotes, of checkpoints or of a list such as timm-100; --out names the run store. See "
        "docs/fleet.md. The options below need this one.",
        multiple=True,
    ),
    option("--devices", text("auto|cpu:N|cuda:I,...", lambda: DEVICES), "Choose where workers run."),
    option("--workers", Type("N", _workers), "Use N workers in all."),
    option("--timeout", number("S", above=0, below=1e9), "Give up an encoder when it has taken S seconds."),
    option("--retries", integer(0), "Try a part of the work again N times after a crash; the default is 2."),
    option(
        "--ray", text("auto|local|HOST:PORT", lambda: ("auto", "local")), "Run the workers on a Ray cluster."
    ),
    option(
        "--executor",
        text("NAME"),
        "Run the workers by an executor of another package; see docs/harnesses.md.",
    ),
    option("--journal", choice(*JOURNALS), "Choose the store's journal; a network file system needs delete."),
    option(
        "--best",
        integer(1, metavar="K"),
        "Find the K encoders with the best scores; the others get fewer samples. --half-width sets the precision.",
    ),
)
@output_options(
    "table",
    "json",
    "csv",
    out="Also write one JSON file per encoder into DIR, and take those that the same command wrote before; with --models DIR "
    "is the store.",
    about="Choose what standard output gets; json is one document per line and encoder.",
    wide=True,
)
def run(
    *,
    models: Sequence[str],
    config: ScoreConfig,
    listed: RunFile,
    dump_config: bool,
    tasks: str | None,
    fleet: Sequence[str],
    output: Output,
    **many: Any,
) -> int:
    """Score encoders. The result goes to standard output, progress to standard error."""
    tasks, output = tasks or listed.tasks, replace(output, out=output.out or listed.out)
    named = [*((one, dict[str, Any]()) for one in models), *listed.encoders]
    if dump_config:
        if fleet:
            raise UsageError("--dump-config: expected encoders as MODEL or in --config, got --models")
        print(dump(config, named, tasks, output.out), end="")
        return 0
    if not named and not fleet:
        raise UsageError("MODEL: expected at least one encoder such as timm:resnet50, got none")
    for model in models:
        if re.fullmatch(r"[-+0-9.,x/]+", model):  # `--eps 0 0.2` would score with the first number, then fail
            raise UsageError(
                f"MODEL: expected SOURCE:NAME, got {model!r}; several numbers are joined by commas, such as --eps 0,0.2"
            )
    _check_many(many, fleet, output, config, tasks)
    if config.checkpoint is not None and len(named) > 1:
        raise UsageError(f"--checkpoint: expected a single MODEL to load it into, got {len(named)}")
    if tasks is not None:
        _check_tasks(tasks)
    if not fleet and (code := say_mistakes(config, named)):
        return code
    every = given("thresholds") or config.thresholds != ScoreConfig.thresholds
    folder = output.folder()
    if folder is not None and fleet:
        from synbench_fast.cli.fleet import score_fleet

        settings = {name: value for name, value in many.items() if value is not None}
        return score_fleet(fleet, models, config, tasks, settings, folder, every, output, listed.encoders)
    return _score_all(named, config, tasks, folder, every, output)


def _check_many(
    many: dict[str, Any], fleet: Sequence[str], output: Output, config: ScoreConfig, tasks: str | None
) -> None:
    """Mistakes in options that need --models, and in those that do not go with it."""
    if not fleet:
        for name, value in many.items():
            if value is not None:
                raise UsageError(f"--{name}: expected --models beside it, got {str(value)!r} alone")
        return
    if output.out is None:
        raise UsageError("--out: expected a folder for the run store, got none")
    if config.device != "auto":
        raise UsageError(f"--device: expected --devices for several encoders, got {config.device!r}")
    if config.checkpoint is not None:
        raise UsageError(
            f"--checkpoint: expected checkpoints in --models, got {config.checkpoint!r} beside it"
        )
    if many["executor"] is not None:
        if many["ray"] is not None:
            both = f"{many['executor']!r} and {many['ray']!r}"
            raise UsageError(f"--executor: expected it without --ray, got both: {both}")
        from synbench_fast.fleet.launch import find_executor

        find_executor(many["executor"])
    if many["best"] is not None:
        if tasks is not None:
            raise UsageError(f"--best: expected one task, got --tasks {tasks}")
        if config.half_width is None:
            raise UsageError("--best: expected --half-width beside it, at which scoring ends")


def _check_tasks(tasks: str) -> None:
    from synbench_fast.tasks.suites import load_suite

    try:
        load_suite(tasks)
    except SynbenchError as error:
        message = str(error)
        raise UsageError(f"--{message}" if message.startswith("tasks: ") else f"--tasks: {message}") from None


def _score_all(
    named: Sequence[Named],
    common: ScoreConfig,
    tasks: str | None,
    folder: Path | None,
    every: bool,
    output: Output,
) -> int:
    """Score one after the other and deliver each; a failure or Ctrl-C keeps what is done. The exit code."""
    from synbench_fast.report.earlier import Earlier
    from synbench_fast.report.terminal import result_stream, sink
    from synbench_fast.runtime.progress import Reporter

    code = 0
    with result_stream() as stream:
        make_sink: Any = sink
        if tasks is not None:
            from synbench_fast.report.suites import suite_sink as make_sink
        results = make_sink(output.format, stream, every_threshold=every, wide=output.wide)
        reporter = Reporter(sys.stderr, quiet=output.quiet)
        earlier = None if folder is None else Earlier(folder)
        try:
            for index, (spec, own) in enumerate(named):
                config = ScoreConfig.of(common, own)
                known = earlier and earlier.find(spec, config, tasks)
                if known:
                    output.say(f"{spec}: scored already, in {known[0]}; remove that file to score it again")
                    results.add(known[1])
                    continue
                label = spec if len(named) == 1 else f"[{index + 1}/{len(named)}] {spec}"
                try:
                    with reporter.encoder(label) as advance:
                        if tasks is None and not output.quiet:
                            advance = _announcing(spec, config, advance)
                        result = _score(spec, config, tasks, advance)
                except SystemExit as error:  # of the user's factory: it ends its encoder, not the others
                    code = fail(f"{spec}: {first_line(error)}", 1)
                    continue
                except Exception as error:
                    code = output.failed(spec, error)
                    continue
                for warning in result.warnings:
                    say(f"warning: {spec}: {warning}")
                results.add(result)
                if folder is not None:
                    code = _save(spec, result, folder, output) or code
        except KeyboardInterrupt:
            say("interrupted: what was finished is kept")
            code = 130
        finally:
            results.close()
    return code


def _announcing(spec: str, config: ScoreConfig, advance: Any) -> Any:
    """`advance`, which first says why the encoder needs more images than its preset has, if it does."""
    from synbench_fast.config import PRESETS
    from synbench_fast.stats.estimators import find_estimator

    estimator, scales = find_estimator(config.estimator), len(config.scale_values)
    usual = scales * PRESETS[config.preset].samples * estimator.halves
    open_question = config.samples is None and config.half_width is None and estimator.samples_per_feature > 0

    def announce(done: int, total: int, phase: str) -> None:
        nonlocal open_question
        if open_question and phase != "structure" and total > usual:
            per_scale = total // (scales * estimator.halves)
            say(
                f"{spec}: {total} images in place of the {usual} of --preset {config.preset}, because each scale needs "
                f"{estimator.samples_per_feature} samples for each of {per_scale // estimator.samples_per_feature} features; "
                "--samples sets another number"
            )
        open_question = False
        advance(done, total, phase)

    return announce


def _score(spec: str, config: ScoreConfig, tasks: str | None, advance: Any) -> Any:
    if tasks is not None:
        from synbench_fast.engine.suite import score_suite

        return score_suite(spec, tasks=tasks, config=config, progress=advance)
    from synbench_fast.engine.score import score

    return score(spec, config=config, progress=advance)


def _save(spec: str, result: Any, folder: Path, output: Output) -> int:
    try:
        path = result.save(folder / result.file_name())
    except SynbenchError as error:
        return fail(f"{spec}: {error}", 1)
    output.say(f"wrote {path}")
    return 0
