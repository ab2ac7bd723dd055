"""The command that asks what fine-tuning leaves of an encoder's robustness: inherit."""

from __future__ import annotations

import io
from typing import Annotated, Any

import typer

from synbench_fast import arguments
from synbench_fast.arguments import UsageError
from synbench_fast.cli.options import Device, Format
from synbench_fast.errors import SynbenchError
from synbench_fast.runtime.messages import fail, print_trace, reason, say

__all__ = ["inherit"]

_SUITES = ("digits-rib", "imagenet-rib", "folders")


def inherit(
    encoders: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[ENCODER...]",
            help="Networks with their classifier: digits:standard (default of digits-rib), digits:adversarial, "
            "digits:untrained, timm:NAME, torchvision:NAME, python:FILE.py:FACTORY.",
        ),
    ] = None,
    suite: Annotated[
        str,
        typer.Option(
            metavar="digits-rib|imagenet-rib|folders",
            help="digits-rib comes with scikit-learn, imagenet-rib needs --root and --pretraining, folders --data.",
        ),
    ] = "digits-rib",
    methods: Annotated[
        str,
        typer.Option(
            metavar="M,...",
            help="ft, lp, lp-ft, lora, prompt, ewc, l2sp, lwf, wise, soup; options as in wise?alpha=0.3.",
        ),
    ] = "ft,lp,wise,lwf",
    seeds: Annotated[str, typer.Option(metavar="N", help="Training seeds SEED, SEED + 1, ...")] = "3",
    seed: Annotated[
        str, typer.Option(metavar="N", help="First training seed; also of scores and distances.")
    ] = "0",
    data: Annotated[
        list[str] | None,
        typer.Option("--data", metavar="NAME=DIR", help="A data set's folder of class folders; repeatable."),
    ] = None,
    root: Annotated[
        str | None,
        typer.Option(metavar="DIR", help="Folder with the ImageNet variants, as their archives unpack."),
    ] = None,
    only: Annotated[
        str | None, typer.Option(metavar="NAME,...", help="ImageNet variants to take; default all eight.")
    ] = None,
    pretraining: Annotated[
        str | None, typer.Option(metavar="DIR", help="Validation images of the pre-training data.")
    ] = None,
    pretraining_train: Annotated[
        str | None, typer.Option(metavar="DIR", help="Training images of the pre-training data, for ewc.")
    ] = None,
    objectnet_map: Annotated[
        str | None, typer.Option(metavar="FILE.json", help="ObjectNet's folder names to WordNet ids.")
    ] = None,
    skip_unreadable: Annotated[
        bool, typer.Option("--skip-unreadable", help="Leave out images that cannot be read.")
    ] = False,
    epochs: Annotated[str | None, typer.Option(metavar="N", help="Default 10.")] = None,
    batch_size: Annotated[str | None, typer.Option(metavar="N", help="Default 256; digits-rib 32.")] = None,
    lr: Annotated[str | None, typer.Option(metavar="X", help="Default 0.001; digits-rib 0.01.")] = None,
    momentum: Annotated[str | None, typer.Option(metavar="X", help="Default 0.9.")] = None,
    weight_decay: Annotated[str | None, typer.Option(metavar="X", help="Default 0.")] = None,
    warmup: Annotated[
        str | None, typer.Option(metavar="N", help="Steps; default 196, at most a tenth of all.")
    ] = None,
    mixed_precision: Annotated[
        bool, typer.Option("--mixed-precision/--no-mixed-precision", help="bfloat16 in training, on a GPU.")
    ] = True,
    score: Annotated[
        bool, typer.Option("--score/--no-score", help="SynBench score before and after.")
    ] = True,
    score_eps: Annotated[str, typer.Option(metavar="E", help="Budget of the score.")] = "0.2",
    score_threshold: Annotated[str, typer.Option(metavar="A", help="Threshold of the score.")] = "0.6",
    score_samples: Annotated[str, typer.Option(metavar="N", help="Samples per scale of the score.")] = "512",
    distance: Annotated[
        bool, typer.Option("--distance/--no-distance", help="Transport distance between the data sets.")
    ] = True,
    distance_samples: Annotated[
        str, typer.Option(metavar="N", help="Of each data set, for its distance.")
    ] = "300",
    device: Device = "auto",
    threads: Annotated[
        str | None, typer.Option(metavar="N", help="CPU threads; default 1 for digits-rib, else all.")
    ] = None,
    checkpoint: Annotated[
        str | None,
        typer.Option(metavar="FILE", help="Local weights of the whole network; needs one encoder."),
    ] = None,
    random_init: Annotated[
        bool, typer.Option("--random-init", help="Untrained weights drawn from the seed.")
    ] = False,
    weights: Annotated[
        bool, typer.Option("--weights", help="Keep the fine-tuned weights in DIR/weights as safetensors.")
    ] = False,
    out: Annotated[
        str | None,
        typer.Option(
            metavar="DIR",
            help="Write inherit.json, inherit.csv and inherit.html into DIR, and every cell as soon as it is "
            "there: a run that was stopped goes on where it stood.",
        ),
    ] = None,
    output: Format = "table",
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="No progress on standard error.")] = False,
    traceback: Annotated[
        bool, typer.Option("--traceback", help="Show where an unexpected error came from.")
    ] = False,
) -> None:
    """Fine-tune on every data set of a suite, evaluate on all others: what is left of robustness (ImageNet-RIB)."""
    chosen = arguments.choice("--suite", suite, _SUITES)
    if not encoders and chosen != "digits-rib":
        raise UsageError(
            f"ENCODER: expected at least one, such as timm:vit_base_patch16_224, for {chosen}, got none"
        )
    options: dict[str, Any] = {
        "methods": methods.split(","),
        "seeds": arguments.integer("--seeds", seeds, low=1),
        "seed": arguments.integer("--seed", seed, low=0, high=2**63 - 1),
        "skip_unreadable": skip_unreadable,
        "mixed_precision": mixed_precision,
        "score": score,
        "score_eps": _one("--score-eps", score_eps),
        "score_threshold": _one("--score-threshold", score_threshold),
        "score_samples": arguments.integer("--score-samples", score_samples, low=4),
        "distance": distance,
        "distance_samples": arguments.integer("--distance-samples", distance_samples, low=2),
        "device": arguments.device("--device", device),
        "random_init": random_init,
        "weights": weights,
    }
    if data:
        options["data"] = _pairs(data)
    for name, text in (
        ("root", root),
        ("pretraining", pretraining),
        ("pretraining_train", pretraining_train),
    ):
        if text is not None:
            options[name] = text
    if objectnet_map is not None:
        options["objectnet_map"] = arguments.existing_file("--objectnet-map", objectnet_map)
    if checkpoint is not None:
        options["checkpoint"] = arguments.checkpoint("--checkpoint", checkpoint)
    if only is not None:
        options["only"] = only.split(",")
    for name, text, low in (
        ("epochs", epochs, 1),
        ("batch_size", batch_size, 1),
        ("warmup", warmup, 0),
        ("threads", threads, 1),
    ):
        if text is not None:
            options[name] = arguments.integer(f"--{name.replace('_', '-')}", text, low=low)
    for name, text in (("lr", lr), ("momentum", momentum), ("weight_decay", weight_decay)):
        if text is not None:
            options[name] = arguments.number(f"--{name.replace('_', '-')}", text)
    kind = arguments.choice("--format", output, ("table", "json", "csv"))
    if weights and out is None:
        raise UsageError("--weights: expected --out DIR to keep them in, got none")
    folder = None if out is None else arguments.folder("--out", out)
    options["out"] = folder

    from synbench_fast.report.terminal import result_stream
    from synbench_fast.results.documents import write_atomically
    from synbench_fast.studies.inheritance.report import write_csv
    from synbench_fast.studies.inheritance.tables import print_report

    with result_stream() as stream:
        try:
            if chosen == "digits-rib":  # before the encoder is trained
                from synbench_fast.studies.linear_probe.data import optional

                optional("sklearn.datasets", "scikit-learn", "inherit")
            from synbench_fast.studies.inheritance.page import write_page
            from synbench_fast.studies.inheritance.run import inherit as run

            report = run(
                encoders or ["digits:standard"],
                chosen,
                progress=(lambda line: None) if quiet else say,
                **options,
            )
            if folder is not None:
                report.save(folder / "inherit.json")
                write_page(folder / "inherit.html", report)
                table = io.StringIO()
                write_csv(table, report)
                write_atomically(folder / "inherit.csv", table.getvalue())
        except Exception as error:
            code = fail(str(error) if isinstance(error, SynbenchError) else reason("inherit", error), 1)
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
            print_report(stream, report)
        if report.failed:
            total = len(report.cells) + len(report.failed)
            more = "" if len(report.failed) == 1 else f", the first is {report.failed[0]}"
            line = f"inherit: {len(report.failed)} of {total} fine-tunings failed{more or f': {report.failed[0]}'}"
            raise typer.Exit(fail(line, 1))


def _one(option: str, text: str) -> float:
    values = arguments.numbers(option, text, low=0, below=1)
    if len(values) > 1:
        raise UsageError(f"{option}: expected one number, got {text!r}")
    return values[0]


def _pairs(texts: list[str]) -> dict[str, str]:
    found: dict[str, str] = {}
    for text in texts:
        name, equals, path = text.partition("=")
        if not name or not equals or not path:
            raise UsageError(f"--data: expected NAME=DIR, got {text!r}")
        if name in found:
            raise UsageError(f"--data: expected distinct names, got {name!r} twice")
        found[name] = path
    return found
