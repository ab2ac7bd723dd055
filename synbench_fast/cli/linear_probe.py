"""The study linear-probe, and the options of attacked probes that other studies share with it."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Any

from synbench_fast.cli.completion import encoder_names
from synbench_fast.cli.options import Output, output_options, score_options, values_of
from synbench_fast.cli.parsing import (
    Parameter,
    Type,
    argument,
    choice,
    command,
    flag,
    integer,
    norms,
    number,
    numbers,
    option,
    panel,
    text,
)
from synbench_fast.cli.studies import ENCODER, deliver
from synbench_fast.config import ScoreConfig
from synbench_fast.runtime.messages import say
from synbench_fast.studies.catalogue import KINDS, data_names, several, terms

__all__ = ["DATA", "PROBE", "linear_probe", "probe_options", "say_terms"]

PROBE, DATA = "The probes", "Labelled data"


def _counts(name: str, text: str) -> tuple[int, ...]:
    return tuple(integer(1).read(name, one) for one in text.split(","))


def probe_options(l2: str, steps: str, wrong_classes: str) -> tuple[Parameter, ...]:
    """Options of attacked linear probes, with the defaults of a study."""
    return (
        option("--l2", norms(), "Attack inputs in [0, 1] within these l2 radii.", l2),
        option("--linf", norms(), "Attack inputs in [0, 1] within these l-infinity radii.", "8/255"),
        flag("--attack/--no-attack", "Attack the probes.", True),
        option("--steps", integer(1), "Take N steps of the attack per target.", steps),
        option("--wrong-classes", integer(1), "Attack towards the N likeliest wrong classes.", wrong_classes),
        option(
            "--regularisation", number("C", above=0, below=1e9), "Set C of the penalty |W|^2 / (2 C N).", "1"
        ),
        option("--test-fraction", number("P", above=0, below=1), "Test on this part of every class.", "0.25"),
        option("--batch-size", integer(1), "Set the images per forward pass.", "128"),
    )


def say_terms(data: Sequence[str], output: Output) -> None:
    """The terms of use of data sets that others made, once in a command."""
    for line in filter(None, map(terms, several(data))):
        output.say(line)


@command(
    short_help="Train and attack linear probes on labelled data.",
    examples=(
        "synbench-fast study linear-probe timm:resnet50 --data my_images --eps 0,0.1",
        "synbench-fast study linear-probe timm:resnet18 --data digits --eps 0",
    ),
)
@argument(
    "encoder",
    text("ENCODER", encoder_names),
    "Probe this encoder.",
    wanted="an encoder such as timm:resnet50",
)
@panel(
    DATA,
    option(
        "--data",
        Type("DATA", words=data_names),
        f"Train and test on {KINDS}.",
        wanted=KINDS,
    ),
    option("--samples", integer(1), "Use at most N samples."),
    option(
        "--foreign",
        Type("DATA", words=data_names),
        "Measure how well features tell these data, named as for --data, from the test part.",
    ),
)
@panel(
    PROBE,
    option("--eps", numbers("E,..."), "Train a probe for each budget in [0, 1).", "0,0.2"),
    option(
        "--standardise",
        choice("common", "feature"),
        "Divide features by one factor, or each by its own.",
        "common",
    ),
    *probe_options(l2="0.5", steps="50", wrong_classes="9"),
    option("--shots", Type("K,...", _counts), "Also train probes on K samples of each class."),
    option("--repeats", integer(2), "Draw the samples of --shots N times.", "10"),
    flag("--calibration", "Measure the calibration error of the ordinary probe."),
    flag("--corruptions", "Measure the ordinary probe on corrupted test images."),
    option(
        "--seed", integer(0, 2**64 - 1), "Set the seed of the split, the attacks and random weights.", "0"
    ),
)
@score_options(*ENCODER)
@output_options("table", "json")
def linear_probe(*, encoder: str, data: str, config: ScoreConfig, output: Output, **options: Any) -> int:
    """Train eps-robust linear probes on features of labelled data, and attack them through the encoder."""
    from synbench_fast.report.terminal import result_stream
    from synbench_fast.runtime.progress import Reporter

    options |= values_of(config, ENCODER)
    say_terms([data, *filter(None, [options["foreign"]])], output)
    with result_stream() as stream:
        try:
            with Reporter(sys.stderr, quiet=output.quiet).encoder(encoder) as advance:
                from synbench_fast.studies.linear_probe import robust_linear_probe

                report = robust_linear_probe(encoder, data, progress=advance, **options)
        except Exception as error:
            return output.failed(encoder, error)
        for warning in report.warnings:
            say(f"warning: {encoder}: {warning}")
        deliver(stream, report, output)
    return 0
