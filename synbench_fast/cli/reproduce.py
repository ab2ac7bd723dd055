"""`reproduce`: a published table, measured again beside the published numbers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from synbench_fast.arguments import UsageError
from synbench_fast.cli.completion import encoder_names
from synbench_fast.cli.options import Output, output_options, score_options
from synbench_fast.cli.parsing import (
    Type,
    argument,
    command,
    directory,
    file,
    flag,
    given,
    integer,
    option,
    panel,
    text,
)
from synbench_fast.cli.studies import STUDY, deliver
from synbench_fast.config import ScoreConfig
from synbench_fast.errors import suggest
from synbench_fast.reproduction.tables import SCORE_FIELDS, TABLES
from synbench_fast.runtime.messages import fail, say

__all__ = ["reproduce"]


def _split(name: str, text: str) -> list[str]:
    return text.split(",")


@command(
    short_help="Measure a published table again.",
    examples=(
        "synbench-fast reproduce --list",
        "synbench-fast reproduce synbench-scores --out reproduced",
        "synbench-fast reproduce imagenet-rib --encoders digits:standard --epochs 1",
    ),
)
@argument("table", text("[TABLE]", lambda: tuple(TABLES)), "Measure this table.")
@panel(
    STUDY,
    flag("--list listed", "List the tables, their models and how many of their numbers are known."),
    option(
        "--encoders",
        Type("ENCODER,...", _split, encoder_names),
        "Measure these encoders in place of the published ones.",
    ),
    option("--seeds", integer(1), "Train N seeds (imagenet-rib, minimax)."),
    option(
        "--steps", integer(1), "Take N steps of the attack (synbench-probes) or of pre-training (minimax)."
    ),
    option("--epochs", integer(1), "Fine-tune for N epochs (imagenet-rib); the default is 10."),
    option(
        "--figure", file("FILE.png"), "Draw the curves on the paper's axes into this file (synbench-bounds)."
    ),
)
@panel(
    "Data",
    option(
        "--data",
        Type("DATA", words=lambda: ("digits",)),
        "Probe digits, an image folder, a .npz or a .parquet file (synbench-probes).",
    ),
    option("--root", directory(), "Find the ImageNet variants in DIR (imagenet-rib)."),
    option("--pretraining", directory(), "Find ImageNet's validation images in DIR (imagenet-rib)."),
    option(
        "--objectnet-map", file("FILE.json", exists=True), "Read WordNet ids of ObjectNet's folder names."
    ),
)
@score_options(*SCORE_FIELDS)
@output_options("table", "json", "csv", out="Also write reproduce.json and reproduce.csv into DIR.")
def reproduce(
    *,
    table: str | None,
    listed: bool,
    encoders: Sequence[str] | None,
    config: ScoreConfig,
    output: Output,
    **options: Any,
) -> int:
    """Measure a published table again, and show every number beside the published one.

    Options that are not given are those of the publication. Numbers that are not known are left blank."""
    from synbench_fast.report.terminal import result_stream

    if listed:
        if table is not None:
            raise UsageError(f"--list: expected no TABLE beside it, got {table!r}")
        with result_stream() as stream:
            _list(stream, TABLES, output)
        return 0
    if table is None:
        raise UsageError(f"TABLE: expected one of {', '.join(TABLES)}, got none")
    if table not in TABLES:
        near = suggest(table, TABLES)
        raise UsageError(f"TABLE: expected one of {', '.join(TABLES)}, got {table!r}{near}")
    folder = output.folder()
    settings = {name: getattr(config, name) for name in SCORE_FIELDS if given(name)}
    options = {name: value for name, value in options.items() if value is not None}
    with result_stream() as stream:
        try:
            from synbench_fast.reproduction import reproduce as measure

            report = measure(table, encoders or (), progress=output.say, **options, **settings)
            if folder is not None:
                report.save_all(folder, "reproduce")
        except Exception as error:
            return output.failed("reproduce", error)
        for warning in report.warnings:
            say(f"warning: {warning}")
        deliver(stream, report, output)
    for line in report.failed:
        fail(line, 1)
    return 1 if report.failed else 0


def _list(stream: Any, tables: Any, output: Output) -> None:
    from synbench_fast.printable import print_json, print_table

    if output.format == "json":
        print_json(stream, {"tables": [asdict(one) for one in tables.values()]})
        return
    rows = [
        [one.name, str(len(one.models)), str(len(one.values)), one.title, one.paper]
        for one in tables.values()
    ]
    print_table(stream, ["table", "models", "numbers known", "what", "paper"], rows, left=5)
    for one in tables.values():
        stream.writelines(f"{one.name}: {model.label} is {model.spec}\n" for model in one.models)
        stream.write(f"{one.name}: not known: {one.unknown}\n")
