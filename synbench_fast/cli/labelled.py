"""Studies of many encoders on labelled data: validate and inherit."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from synbench_fast.arguments import UsageError
from synbench_fast.cli.completion import suite_names
from synbench_fast.cli.linear_probe import DATA, PROBE, probe_options, say_terms
from synbench_fast.cli.options import OUTPUT, Output, output_options, score_options, values_of
from synbench_fast.cli.parsing import (
    Type,
    choice,
    command,
    directory,
    file,
    flag,
    given,
    integer,
    number,
    option,
    panel,
    text,
    unit,
)
from synbench_fast.cli.studies import ENCODER, STUDY, deliver, encoders_argument
from synbench_fast.config import ScoreConfig
from synbench_fast.errors import SynbenchError
from synbench_fast.runtime.messages import fail, say
from synbench_fast.studies.catalogue import KINDS, data_names

__all__ = ["inherit", "validate"]

PUBLISHED = "Published accuracies"
# As in studies/inheritance, which imports torch.
METHODS = ("ft", "lp", "lp-ft", "lora", "prompt", "ewc", "l2sp", "lwf", "wise", "soup")
SUITES = ("digits-rib", "imagenet-rib", "folders")
VALIDATED = (  # fields of ScoreConfig that `validate` takes
    "eps", "thresholds", "estimator", "preset", "scales", "samples", "structure",
    *(one for one in ENCODER if one != "checkpoint")
)  # fmt: skip
# Options of `validate` that mean nothing without labelled data, and those that mean nothing with them.
PROBING = (
    "demo", "data", "data_samples", "splits", "zoo_epochs", "l2", "linf", "attack", "steps", "wrong_classes",
    "regularisation", "test_fraction", "batch_size", "neighbours",
)  # fmt: skip
TABLES = ("stored", "metrics", "label_free")
INHERITED = ("device", "threads", "checkpoint", "random_init")
# A dozen encoders on two data sets, small enough for a minute.
DEMO: dict[str, Any] = {
    "zoo_epochs": 0.5,
    "scales": 6,
    "steps": 5,
    "wrong_classes": 2,
    "linf": (),
    "threads": 1,
}


def _split(name: str, text: str) -> list[str]:
    return text.split(",")


@command(
    short_help="Correlate scores with linear probes on labelled data.",
    examples=(
        "synbench-fast study validate --demo",
        "synbench-fast study validate zoo:all mine.onnx --data digits --out validity",
        "synbench-fast study validate --stored fleet --targets results-imagenet.csv",
    ),
)
@encoders_argument(
    "[ENCODER...]",
    "Compare at least 3 encoders; zoo:small, zoo:all or zoo:NAME are small ones that are trained here.",
)
@panel(
    PUBLISHED,
    option(
        "--targets",
        Type("FILE.csv,...", _split),
        "Compare scores with the accuracies in these files: those of timm, CLIP_benchmark, or encoder,data set,metric,value.",
    ),
    option("--stored", directory(), "Take the results in DIR; give one option per folder.", multiple=True),
    option(
        "--metrics",
        Type("M,...", _split),
        "Read these metrics of the files; the default is top1, acc1 and lp_acc1, of plain tables all.",
    ),
)
@panel(
    DATA,
    option(
        "--data",
        Type("DATA", words=data_names),
        f"Train probes on {KINDS}; give one option per data set.",
        multiple=True,
    ),
    option("--data-samples", integer(1), "Use at most N samples of each data set."),
)
@panel(
    STUDY,
    flag("--demo", "Compare the encoders of zoo:small on digits and photos, in under a minute."),
    option(
        "--tasks",
        text("SUITE|FILE.toml", suite_names),
        "Score these tasks, as for run; the default is full, with --targets published.",
    ),
    option(
        "--coefficient",
        choice("spearman", "pearson", "kendall"),
        "Choose the coefficient of the table; files have all, with --targets this one.",
        "spearman",
    ),
    option("--resamples", integer(100), "Resample the encoders N times for the intervals.", "2000"),
    option("--splits", integer(1), "Choose and test on N random halves of the encoders.", "200"),
    option("--zoo-epochs", number("X", above=0, below=1e9), "Multiply the epochs of zoo encoders by X.", "1"),
    option(
        "--seed",
        integer(0, 2**64 - 1),
        "Set the seed of samples, splits, resamples, attacks and weights.",
        "0",
    ),
)
@panel(
    PROBE,
    *probe_options(l2="0.25", steps="10", wrong_classes="3"),
    option(
        "--neighbours", integer(1, metavar="K"), "Take K neighbours in the nearest-neighbour baseline.", "5"
    ),
)
@score_options(*VALIDATED, *TABLES[2:], preset="quick", thresholds=(0.6, 0.7, 0.8, 0.9), structure=True)
@output_options(
    "table",
    "json",
    "csv",
    out="Also write validity.json and validity.csv into DIR, with --targets published.json and published.csv.",
)
def validate(
    *,
    encoders: Sequence[str],
    data: Sequence[str],
    demo: bool,
    tasks: str | None,
    targets: list[str] | None,
    stored: Sequence[str],
    metrics: list[str] | None,
    config: ScoreConfig,
    output: Output,
    **options: Any,
) -> int:
    """Correlate scores and simple baselines with linear probes on labelled data, or with published accuracies."""
    if targets is not None:
        options = {name: options[name] for name in ("coefficient", "resamples", "seed")}
        options |= values_of(config, (*VALIDATED, *TABLES[2:])) | {"stored": list(stored), "metrics": metrics}
        return _published(encoders, targets, options | ({} if tasks is None else {"tasks": tasks}), output)
    for name in TABLES:
        if given(name):
            raise UsageError(f"--{name.replace('_', '-')}: expected --targets FILE.csv with it, got none")
    coefficient = options.pop("coefficient")
    options["tasks"] = tasks or "full"
    if demo and (encoders or data):
        raise UsageError("--demo: expected neither ENCODER nor --data, got some")
    models, sets = (["zoo:small"], ["digits", "photos"]) if demo else (list(encoders), list(data))
    if not models:
        raise UsageError("ENCODER: expected several encoders such as zoo:small, or --demo, got none")
    if not sets:
        raise UsageError(f"--data: expected {KINDS}, got none")
    options |= values_of(config, VALIDATED)
    if demo:
        options |= {name: value for name, value in DEMO.items() if not given(name)}

    say_terms(sets, output)

    def measure() -> Any:
        from synbench_fast.studies.validity import validate

        return validate(models, sets, progress=output.say, **options)

    return _measured("validate", measure, "validity", output, coefficient=coefficient)


def _published(encoders: Sequence[str], targets: list[str], options: dict[str, Any], output: Output) -> int:
    """`validate --targets`."""
    for name in PROBING:
        if given(name):
            raise UsageError(f"--{name.replace('_', '-')}: expected it without --targets, got both")
    if not encoders and not options["stored"]:
        raise UsageError("ENCODER: expected encoders or --stored DIR, got none")

    def measure() -> Any:
        from synbench_fast.studies.published import validate_published

        return validate_published(list(encoders), targets, progress=output.say, **options)

    return _measured("validate", measure, "published", output)


def _measured(verb: str, measure: Callable[[], Any], file: str, output: Output, **shown: Any) -> int:
    """Exit code of a study of many encoders: its report on standard output, and as FILE.json and FILE.csv with --out."""
    folder = output.folder()
    from synbench_fast.report.terminal import result_stream

    with result_stream() as stream:
        try:
            report = measure()
            if folder is not None:
                report.save_all(folder, file)
        except Exception as error:
            return _stopped(verb, error, output)
        for warning in report.warnings:
            say(f"warning: {warning}")
        deliver(stream, report, output, **shown)
    return 0


def _stopped(name: str, error: Exception, output: Output) -> int:
    """Exit code of a study of many encoders, whose own errors say what they are about."""
    return fail(str(error), 1) if isinstance(error, SynbenchError) else output.failed(name, error)


def _pair(name: str, text: str) -> tuple[str, str]:
    key, equals, path = text.partition("=")
    if not key or not equals or not path:
        raise UsageError(f"{name}: expected NAME=DIR, got {text!r}")
    return key, path


@command(
    short_help="Measure how fine-tuning changes robustness.",
    examples=(
        "synbench-fast study inherit --methods ft,lp,wise,lwf --seeds 2",
        "synbench-fast study inherit --methods 'ft,wise?alpha=0.3' --out inherited",
        "synbench-fast study inherit timm:vit_tiny --suite folders --data photos=photos",
        "synbench-fast study inherit --cells published.csv --covariates encoders.csv",
    ),
)
@encoders_argument(
    "[ENCODER...]",
    "Fine-tune these networks with their classifiers: digits:standard (the default of digits-rib), digits:adversarial, "
    "digits:untrained, timm:NAME, torchvision:NAME, python:FILE.py:FACTORY.",
)
@panel(
    PUBLISHED,
    option(
        "--cells",
        file("FILE.csv"),
        "Fine-tune nothing, and take accuracies that others measured: encoder, fine_tuned_on, evaluated_on, before, after.",
    ),
    option(
        "--covariates",
        file("FILE.csv"),
        "Correlate these numbers of the encoders with the changes: encoder and any other columns.",
    ),
    option("--coefficient", choice("spearman", "pearson", "kendall"), "Choose the coefficient.", "spearman"),
)
@panel(
    STUDY,
    option(
        "--suite",
        choice(*SUITES),
        "Choose the data sets: digits-rib comes with scikit-learn, imagenet-rib needs --root and --pretraining, folders "
        "needs --data.",
        SUITES[0],
    ),
    option(
        "--methods",
        Type("M,...", _split, lambda: METHODS),
        f"Fine-tune in these ways: {', '.join(METHODS)}; options are written as in wise?alpha=0.3.",
        "ft,lp,wise,lwf",
    ),
    option("--seeds", integer(1), "Train N seeds: SEED, SEED + 1, ...", "3"),
    option(
        "--seed",
        integer(0, 2**63 - 1),
        "Set the first seed of training, and that of scores and distances.",
        "0",
    ),
    flag("--score/--no-score", "Score the encoder before and after.", True),
    option("--score-eps", unit("E"), "Set the budget of the score.", "0.2"),
    option("--score-threshold", unit("A"), "Set the threshold accuracy of the score.", "0.6"),
    option("--score-samples", integer(4), "Draw N samples per scale of the score.", "512"),
    flag("--distance/--no-distance", "Measure the transport distance between the data sets.", True),
    option("--distance-samples", integer(2), "Take N samples of each data set for its distance.", "300"),
)
@panel(
    DATA,
    option(
        "--data",
        Type("NAME=DIR", _pair),
        "Name a data set and its folder of class folders; give one option per data set.",
        multiple=True,
    ),
    option("--root", directory(), "Find the ImageNet variants in DIR, as their archives unpack."),
    option("--only", Type("NAME,...", _split), "Take these ImageNet variants; the default is all eight."),
    option("--pretraining", directory(), "Find validation images of the pre-training data in DIR."),
    option(
        "--pretraining-train", directory(), "Find training images of the pre-training data in DIR, for ewc."
    ),
    option(
        "--objectnet-map", file("FILE.json", exists=True), "Read WordNet ids of ObjectNet's folder names."
    ),
    flag("--skip-unreadable", "Leave out images that cannot be read."),
)
@panel(
    "Fine-tuning",
    option("--epochs", integer(1), "Train N epochs; the default is 10."),
    option("--batch-size", integer(1), "Set the batch size; the default is 256, for digits-rib 32."),
    option("--lr", number("X"), "Set the learning rate; the default is 0.001, for digits-rib 0.01."),
    option("--momentum", number("X"), "Set the momentum; the default is 0.9."),
    option("--weight-decay", number("X"), "Set the weight decay; the default is 0."),
    option("--warmup", integer(0), "Warm up for N steps; the default is 196, at most a tenth of all."),
    flag("--mixed-precision/--no-mixed-precision", "Train in bfloat16 on a GPU.", True),
)
@score_options(*INHERITED)
@panel(OUTPUT, flag("--weights", "Keep the fine-tuned weights in DIR/weights as safetensors."))
@output_options(
    "table",
    "json",
    "csv",
    out="Write inherit.json, inherit.csv and inherit.html into DIR, and every cell as soon as it is there: a run that "
    "was stopped continues where it stood.",
)
def inherit(
    *,
    encoders: Sequence[str],
    suite: str,
    data: Sequence[tuple[str, str]],
    cells: str | None,
    covariates: str | None,
    coefficient: str,
    config: ScoreConfig,
    output: Output,
    **options: Any,
) -> int:
    """Fine-tune on every data set of a suite, and measure how accuracy on the others changes (ImageNet-RIB)."""
    if cells is not None:
        for name in ("encoders", "suite", "data", *(one for one in options if one != "seed"), *INHERITED):
            if given(name):
                word = "ENCODER" if name == "encoders" else f"--{name.replace('_', '-')}"
                raise UsageError(f"{word}: expected it without --cells, got both")
        return _inherit_published(cells, covariates, coefficient, options["seed"], output)
    for name in ("covariates", "coefficient"):
        if given(name):
            raise UsageError(f"--{name}: expected --cells FILE.csv with it, got none")
    if not encoders and suite != SUITES[0]:
        raise UsageError(
            f"ENCODER: expected at least one, such as timm:vit_base_patch16_224, for {suite}, got none"
        )
    names = [name for name, _ in data]
    for name in names:
        if names.count(name) > 1:
            raise UsageError(f"--data: expected distinct names, got {name!r} twice")
    if options["weights"] and output.out is None:
        raise UsageError("--weights: expected --out DIR to keep them in, got none")
    options = {name: value for name, value in options.items() if value is not None}
    options |= values_of(config, INHERITED) | {"data": dict(data) or None, "out": output.folder()}
    from synbench_fast.report.terminal import result_stream

    with result_stream() as stream:
        try:
            report = _inherit(list(encoders) or ["digits:standard"], suite, options, output)
        except Exception as error:
            return _stopped("inherit", error, output)
        for warning in report.warnings:
            say(f"warning: {warning}")
        deliver(stream, report, output)
    if report.failed:
        total = len(report.cells) + len(report.failed)
        first = f": {report.failed[0]}" if len(report.failed) == 1 else f", the first is {report.failed[0]}"
        return fail(f"inherit: {len(report.failed)} of {total} fine-tunings failed{first}", 1)
    return 0


def _inherit_published(
    cells: str, covariates: str | None, coefficient: str, seed: int, output: Output
) -> int:
    """`inherit --cells`."""

    def measure() -> Any:
        from synbench_fast.studies.inheritance.published import inherit_published

        return inherit_published(cells, covariates, coefficient=coefficient, seed=seed)

    return _measured("inherit", measure, "inherit", output)


def _inherit(encoders: list[str], suite: str, options: dict[str, Any], output: Output) -> Any:
    """The report, with its files where a folder is given."""
    if suite == SUITES[0]:  # before the encoder is trained
        from synbench_fast.runtime.optional import optional

        optional("sklearn.datasets", "scikit-learn", "inherit")
    from synbench_fast.studies.inheritance.page import write_page
    from synbench_fast.studies.inheritance.run import inherit

    report = inherit(encoders, suite, progress=output.say, **options)
    folder = options["out"]
    if folder is not None:
        report.save_all(folder, "inherit")
        write_page(folder / "inherit.html", report)
    return report
