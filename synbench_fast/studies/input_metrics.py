"""Label-free metrics of encoders on a user's own images: one forward pass, no labels."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from synbench_fast.config import ScoreConfig, described
from synbench_fast.engine import environment
from synbench_fast.errors import SynbenchError
from synbench_fast.results.records import Environment
from synbench_fast.results.structure import FeatureMetric
from synbench_fast.stats.label_free import METRICS, label_free
from synbench_fast.studies.base import (
    EncoderLike,
    Report,
    Say,
    Study,
    Table,
    at_least,
    finite,
    isolated,
    named_encoders,
    open_encoder,
    option,
)
from synbench_fast.studies.images import unlabelled_images
from synbench_fast.studies.linear_probe.run import features_of, pixels_to_features

__all__ = ["EncoderMetrics", "InputMetrics", "InputMetricsReport", "measure_inputs"]

INPUT_METRICS_SCHEMA = "synbench-fast/input-metrics"
INPUT_METRICS_SCHEMA_VERSION = 1
FEWEST = 20  # images: two in each group of the jackknife


@dataclass(frozen=True, kw_only=True)
class InputMetrics(Study):
    """Options of `measure_inputs`. The seed chooses the images, and random weights.

    Attributes:
        samples: at most that many images are read; default all.
    """

    verb: ClassVar[str] = "metrics"
    reads: ClassVar[tuple[str, ...] | None] = (
        "seed", "batch_size", "device", "input_shape", "mean", "std", "pool", "checkpoint", "random_init",
        "trust_remote_code", "threads",
    )  # fmt: skip
    defaults: ClassVar[dict[str, Any]] = {"batch_size": 128}

    samples: int | None = option(None, at_least(FEWEST, none=True))


@dataclass(frozen=True, kw_only=True)
class EncoderMetrics:
    """One encoder: its metrics in the order of `stats.label_free.METRICS`."""

    encoder: str
    weights_sha256: str
    features: int
    metrics: list[FeatureMetric]


@dataclass(frozen=True, kw_only=True, repr=False)
class InputMetricsReport(Report):
    """Label-free metrics on the images of a folder; `command` repeats them, empty where no shell line can."""

    schema: str = INPUT_METRICS_SCHEMA
    schema_version: int = INPUT_METRICS_SCHEMA_VERSION
    inputs: str
    images: int
    encoders: list[EncoderMetrics]
    seed: int
    seconds: float
    environment: Environment
    command: str

    def rows(self) -> list[dict[str, Any]]:
        """One row per encoder: every metric and its standard error, None where it is not defined."""
        return [
            {"encoder": one.encoder, "features": one.features, "images": self.images}
            | {
                column: finite(value)
                for metric in one.metrics
                for column, value in ((metric.name, metric.value), (f"{metric.name}_stderr", metric.stderr))
            }
            for one in self.encoders
        ]

    def tables(self) -> Iterator[Table | str]:
        """Encoders by metrics, each with its standard error."""
        yield Table(
            ["encoder", "F", *(name.replace("_", " ") for name in METRICS)],
            [
                [one.encoder, str(one.features), *(_cell(metric) for metric in one.metrics)]
                for one in self.encoders
            ],
        )
        yield f"{self.images} images of {self.inputs}, ± one standard error; seed {self.seed}"


def _cell(metric: FeatureMetric) -> str:
    if not math.isfinite(metric.value):
        return "-"
    return f"{metric.value:.4g}" + (f" ± {metric.stderr:.2g}" if math.isfinite(metric.stderr) else "")


@described(InputMetrics.signature)
def measure_inputs(
    encoders: EncoderLike | Sequence[EncoderLike],
    inputs: str | Path,
    *,
    config: ScoreConfig | None = None,
    progress: Say | None = None,
    **arguments: Any,
) -> InputMetricsReport:
    """Label-free metrics of encoders on the images of a folder, by one forward pass of each image.

    Args:
        encoders: one or several, as for `score`.
        inputs: a folder; its images and those of its subfolders, whatever they show. The shorter side is resized to the
            encoder's input, and the centre cropped.
        config, arguments: options of `InputMetrics`, and the fields of `ScoreConfig` that load an encoder.
        progress: called with a line for each encoder.

    Returns:
        InputMetricsReport: the metrics of `stats.label_free.METRICS` with jackknife errors over images.

    Raises:
        SynbenchError: one line that names the argument, the image or the encoder; fewer than 20 images.
    """
    begun = time.perf_counter()
    study = InputMetrics.of(config, arguments)
    say = progress or (lambda line: None)
    several = [encoders] if isinstance(encoders, str) or not isinstance(encoders, Sequence) else encoders
    named = named_encoders(several)
    study.check_checkpoint(named)
    files, load = unlabelled_images(inputs)
    if len(files) < FEWEST:
        raise SynbenchError(f"inputs: expected at least {FEWEST} images in {str(inputs)!r}, got {len(files)}")
    rows = np.arange(len(files))
    if study.samples is not None and study.samples < len(files):
        chosen = np.random.default_rng(study.config.seed).permutation(len(files))[: study.samples]
        rows = np.sort(chosen)
    size = 128 if isinstance(study.config.batch_size, str) else study.config.batch_size
    found = []
    with isolated(study.config.threads):
        for name, encoder in named.items():
            say(f"{name}: features of {len(rows)} images")
            loaded = open_encoder(encoder, replace(study.config, batch_size="auto", threads=None))
            x = load(rows, loaded.info.input_shape)
            with loaded.scoring():
                z = features_of(pixels_to_features(loaded), x, size)
            try:
                metrics = label_free(z)
            except SynbenchError as error:
                raise SynbenchError(f"encoder {name}: {error}") from None
            found.append(
                EncoderMetrics(
                    encoder=name,
                    weights_sha256=loaded.info.weights_sha256,
                    features=z.shape[1],
                    metrics=[
                        FeatureMetric(name=key, value=metrics[key].value, stderr=metrics[key].stderr)
                        for key in METRICS
                    ],
                )
            )
    texts = [one for one in several if isinstance(one, str)]
    return InputMetricsReport(
        inputs=str(inputs),
        images=len(rows),
        encoders=found,
        seed=study.config.seed,
        seconds=time.perf_counter() - begun,
        environment=environment.describe(),
        command=study.command(*texts, "--inputs", str(inputs)) if len(texts) == len(several) else "",
    )
