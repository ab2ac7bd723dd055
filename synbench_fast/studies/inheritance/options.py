"""What an inheritance benchmark is asked for."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, ClassVar

from synbench_fast.checks import as_numbers, check_eps, check_thresholds
from synbench_fast.errors import SynbenchError
from synbench_fast.studies.base import Study, at_least, option
from synbench_fast.studies.inheritance.bench import Method, find
from synbench_fast.studies.inheritance.schedule import Training

__all__ = ["Inheritance"]


def _methods(name: str, value: str | Sequence[str]) -> tuple[str, ...]:
    several = (value,) if isinstance(value, str) else tuple(value)
    if not several:
        raise SynbenchError(f"{name}: expected at least one, got none")
    for number, text in enumerate(several):
        if text in several[:number]:
            raise SynbenchError(f"{name}: expected different ones, got {text!r} twice")
        find(text)
    return several


@dataclass(frozen=True, kw_only=True)
class Inheritance(Study):
    """Options of `inherit`. The seed is the first of training, and that of the scores' samples and of distances.

    Attributes:
        methods: names with options, such as "wise?alpha=0.3"; see `synbench_fast.studies.inheritance.methods`.
        seeds: number of training seeds: seed, seed + 1, ...
        data: name -> folder of the data sets of suite "folders", or of ImageNet variants that lie elsewhere.
        root, only, objectnet_map: of suite "imagenet-rib", see `imagenet_suite`.
        pretraining: folder of the pre-training data's validation images; its class folders are the classifier's.
        pretraining_train: folder of pre-training images for "ewc".
        skip_unreadable: leave images out that cannot be read, and say how many.
        epochs, batch_size, lr, momentum, weight_decay, warmup, mixed_precision: see `Training`; default the suite's.
        score: score the encoder before and after every fine-tuning, with the same samples.
        score_eps, score_threshold, score_samples: of those scores; 12 scales.
        distance: measure the transport distance between the data sets in the original encoder's features.
        distance_samples: of each data set, at most.
        out: folder of the cells; those that are there already are read, not measured again.
        weights: keep the fine-tuned weights in `out` too, as safetensors.
    """

    verb: ClassVar[str] = "inherit"
    reads: ClassVar[tuple[str, ...] | None] = ("seed", "device", "threads", "checkpoint", "random_init")

    methods: tuple[str, ...] = option(("ft", "lp", "wise", "lwf"), _methods)
    seeds: int = option(3, at_least(1))
    data: Mapping[str, str | Path] | None = None
    root: str | Path | None = None
    only: Sequence[str] | None = None
    pretraining: str | Path | None = None
    pretraining_train: str | Path | None = None
    objectnet_map: str | Path | None = None
    skip_unreadable: bool = False
    epochs: int | None = None
    batch_size: int | None = None
    lr: float | None = None
    momentum: float | None = None
    weight_decay: float | None = None
    warmup: int | None = None
    mixed_precision: bool | None = None
    score: bool = True
    score_eps: float = option(0.2, lambda name, value: check_eps(value)[0])
    score_threshold: float = option(0.6, lambda name, value: check_thresholds(as_numbers(value, name))[0])
    score_samples: int = option(512, at_least(4))
    distance: bool = True
    distance_samples: int = option(300, at_least(2))
    out: str | Path | None = None
    weights: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.weights and self.out is None:
            raise SynbenchError("weights: expected a folder out to keep them in, got none")
        if self.config.seed + self.seeds > 2**64:
            raise SynbenchError(
                f"seed: expected seed + seeds of at most 2^64, got {self.config.seed} + {self.seeds}"
            )
        Training(**self.training)  # mistakes are named before anything is read

    @property
    def chosen(self) -> dict[str, Method]:
        """The methods by their texts."""
        return {text: find(text) for text in self.methods}

    @property
    def training_seeds(self) -> list[int]:
        return [self.config.seed + number for number in range(self.seeds)]

    @property
    def training(self) -> dict[str, Any]:
        """What is asked for in place of the suite's own `Training`."""
        given = {one.name: getattr(self, one.name) for one in fields(Training)}
        return {name: value for name, value in given.items() if value is not None}

    @property
    def scoring(self) -> dict[str, Any] | None:
        """The scores as a cell's configuration has them, None without."""
        if not self.score:
            return None
        return {
            "eps": self.score_eps,
            "threshold": self.score_threshold,
            "scales": 12,
            "samples": self.score_samples,
            "seed": self.config.seed,
        }

    @property
    def distances(self) -> dict[str, Any] | None:
        """The distances as a cell's configuration has them, None without."""
        return {"samples": self.distance_samples, "seed": self.config.seed} if self.distance else None

    def folder(self, name: str) -> Path | None:
        """A folder inside `out`."""
        return None if self.out is None else Path(self.out) / name
