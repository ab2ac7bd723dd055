"""Options that several commands share: how --help shows them, and their values checked. No torch is imported."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Annotated, Any

import typer

from synbench_fast import arguments
from synbench_fast.arguments import ESTIMATORS

__all__ = [
    "DTYPES",
    "DTYPE_SYNONYMS",
    "BatchSize",
    "Center",
    "Checkpoint",
    "Device",
    "Estimator",
    "Format",
    "InputShape",
    "Integral",
    "Mean",
    "OpsBackend",
    "Pool",
    "Preset",
    "Prior",
    "PublishedPreprocessing",
    "Quiet",
    "RandomInit",
    "Samples",
    "Scales",
    "Seed",
    "Std",
    "TableOrJson",
    "Threads",
    "Traceback",
    "TrustRemoteCode",
    "encoder_options",
    "score_options",
]

# As in precision.py, which imports torch: mistakes are to be named without that wait.
DTYPES = ("auto", "float32", "tf32", "bfloat16", "float16", "float64")
DTYPE_SYNONYMS = {"fp32": "float32", "bf16": "bfloat16", "fp16": "float16", "fp64": "float64"}

# Which encoder, and where it runs.
Device = Annotated[
    str,
    typer.Option(metavar="auto|cpu|cuda[:N]", help="Where it runs; auto is a CUDA GPU if there is one."),
]
Seed = Annotated[
    str, typer.Option(metavar="N", help="Of the samples, and of the weights with --random-init.")
]
InputShape = Annotated[
    str | None,
    typer.Option(metavar="C,H,W", help="Input shape, without the batch; by default the encoder's."),
]
Mean = Annotated[
    str | None,
    typer.Option(
        metavar="M,...",
        help="Normalisation mean per channel, or one for all; by default the encoder's, none for a Module.",
    ),
]
Std = Annotated[
    str | None,
    typer.Option(metavar="S,...", help="Normalisation deviation per channel, or one for all; as --mean."),
]
Pool = Annotated[
    str | None,
    typer.Option(metavar="NAME", help="How tokens or maps become a vector: avg, max, cls, flatten, default."),
]
Checkpoint = Annotated[
    str | None,
    typer.Option(
        metavar="FILE[#KEY]",
        help="Local weights, loaded without executing code; needs one encoder. KEY chooses one of several in a file.",
    ),
]
RandomInit = Annotated[
    bool,
    typer.Option("--random-init", help="Untrained weights drawn from the seed; nothing is downloaded."),
]
PublishedPreprocessing = Annotated[
    bool,
    typer.Option("--published-preprocessing", help="The published script's ImageNet mean and deviation."),
]
TrustRemoteCode = Annotated[
    bool, typer.Option("--trust-remote-code", help="Run the code of a hub model, or a TorchScript archive.")
]
Threads = Annotated[str | None, typer.Option(metavar="N", help="CPU threads; by default all.")]

# What is scored.
Estimator = Annotated[
    str,
    typer.Option(
        metavar="|".join(ESTIMATORS),
        help="consistent counts left-out samples and removes the bias of few, gaussian is for Gaussian margins, counted "
        "is the classifier of so many samples, paper the published protocol.",
    ),
]
Scales = Annotated[
    str | None,
    typer.Option(
        metavar="N|S,...", help="Number of scales up to 4.9, or their values (2 is a number, 2.0 a value)."
    ),
]
Samples = Annotated[
    str | None,
    typer.Option(
        metavar="N",
        help="Samples per scale, for paper per half; by default the preset's, or 2 per feature if more "
        "(not for paper).",
    ),
]
Preset = Annotated[
    str,
    typer.Option(
        metavar="quick|standard|paper",
        help="Scales x samples: quick 12 x 512, standard 25 x 1024, paper 49 x 2048; not the estimator.",
    ),
]
OpsBackend = Annotated[
    str, typer.Option(metavar="auto|torch", help="Of the operations; torch is the slow specification.")
]
BatchSize = Annotated[str, typer.Option(metavar="auto|N", help="Images per forward pass.")]
Prior = Annotated[str, typer.Option(metavar="P", help="Probability of class 1.")]
Center = Annotated[str, typer.Option(metavar="C", help="Mean of every input element before normalisation.")]
Integral = Annotated[
    str, typer.Option(metavar="exact|grid", help="Threshold integral; grid is the published script's sum.")
]

# What comes out.
Format = Annotated[str, typer.Option("--format", metavar="table|json|csv", help="Of standard output.")]
TableOrJson = Annotated[str, typer.Option("--format", metavar="table|json", help="Of standard output.")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="No progress on standard error.")]
Traceback = Annotated[bool, typer.Option("--traceback", help="Show where an unexpected error came from.")]


def encoder_options(
    device: str,
    seed: str,
    input_shape: str | None,
    mean: str | None,
    std: str | None,
    pool: str | None,
    checkpoint: str | None,
    threads: str | None,
) -> dict[str, Any]:
    """Checked values of the options that say which encoder and where; those not given are left out."""
    options: dict[str, Any] = {
        "device": arguments.device("--device", device),
        "seed": arguments.integer("--seed", seed, low=0, high=2**64 - 1),
    }
    if input_shape is not None:
        options["input_shape"] = arguments.shape("--input-shape", input_shape)
    if mean is not None:
        options["mean"] = arguments.numbers("--mean", mean)
    if std is not None:
        options["std"] = arguments.numbers("--std", std, above=0)
    if pool is not None:
        from synbench_fast.encoders import POOLS

        options["pool"] = arguments.choice("--pool", pool, POOLS)
    if checkpoint is not None:
        options["checkpoint"] = arguments.checkpoint("--checkpoint", checkpoint)
    if threads is not None:
        options["threads"] = arguments.integer("--threads", threads, low=1, high=arguments.most_at_once())
    return options


def score_options(
    *,
    eps: str,
    estimator: str,
    preset: str,
    scales: str | None,
    samples: str | None,
    thresholds: str | None = None,
    **others: str,
) -> dict[str, Any]:
    """Checked values of the options that say what is scored; those not given are left out.

    `others` are out of dtype, backend, batch_size, prior, center and integral: what the command has of them.
    """
    options: dict[str, Any] = {
        "eps": arguments.numbers("--eps", eps, low=0, below=1, distinct=True),
        "estimator": arguments.choice("--estimator", estimator, _estimators(estimator)),
        "preset": arguments.choice("--preset", preset, ("quick", "standard", "paper")),
    }
    check: dict[str, Callable[[str], Any]] = {
        "dtype": lambda text: DTYPE_SYNONYMS.get(text) or arguments.choice("--dtype", text, DTYPES),
        "backend": lambda text: arguments.choice("--backend", text, ("auto", "torch")),
        "prior": lambda text: arguments.number("--prior", text, above=0, below=1),
        "center": lambda text: arguments.number("--center", text),
        "integral": lambda text: arguments.choice("--integral", text, ("exact", "grid")),
        "batch_size": lambda text: arguments.integer("--batch-size", text, low=1, or_word="auto"),
    }
    options |= {
        name: check[name](text) for name, text in others.items() if (name, text) != ("batch_size", "auto")
    }
    if thresholds is not None:
        options["thresholds"] = arguments.numbers("--thresholds", thresholds, low=0, below=1, distinct=True)
    if scales is not None:
        options["scales"] = arguments.count_or_numbers("--scales", scales)
    if samples is not None:
        options["samples"] = arguments.integer("--samples", samples, low=4)
    return options


def _estimators(asked: str) -> Sequence[str]:
    """Names of estimators; those of other packages are looked for if another is asked for."""
    if asked in ESTIMATORS:
        return ESTIMATORS
    from synbench_fast import plugins

    return [*ESTIMATORS, *plugins.names("estimators")]
