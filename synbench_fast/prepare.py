"""From the arguments of score() to an encoder that is ready to run: what single runs and fleets have in common."""

from __future__ import annotations

import numbers
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from synbench_fast.checks import (
    ESTIMATORS,
    as_numbers,
    check_eps,
    check_estimator,
    check_integer,
    check_seed,
    check_thresholds,
)
from synbench_fast.devices import capability, check_capability, find_device
from synbench_fast.encoders import Encoder, EncoderInfo, load_encoder
from synbench_fast.encoders.base import is_out_of_memory
from synbench_fast.errors import SynbenchError, first_line, suggest
from synbench_fast.forward import Compile, check_compile
from synbench_fast.global_state import seeded
from synbench_fast.ops.dispatch import available
from synbench_fast.precision import DTYPES, Precision, candidates, check_precision
from synbench_fast.probe import Probe
from synbench_fast.scores import check_average
from synbench_fast.stats.estimators import find_estimator
from synbench_fast.task import PUBLISHED_MEAN, PUBLISHED_STD, GaussianTask, spread_scales

__all__ = [
    "MOST_SAMPLES",
    "PRESETS",
    "MakeTasks",
    "Prepared",
    "Preset",
    "Settings",
    "check_preset",
    "check_scales",
    "check_settings",
    "prepare",
]

MakeTasks = Callable[[tuple[int, ...]], list[GaussianTask]]  # from the encoder's input shape


@dataclass(frozen=True)
class Preset:
    """What a run draws unless told otherwise.

    Where `average` is "published", scores are the mean over the published 49 scales, by a fit to those that are drawn,
    so that all presets estimate one quantity.
    """

    scales: int
    samples: int  # per scale, and per half for the paper's estimator
    average: str


PRESETS = {
    "quick": Preset(scales=12, samples=512, average="published"),
    "standard": Preset(scales=25, samples=1024, average="published"),
    "paper": Preset(scales=49, samples=2048, average="sampled"),
}
FIRST_SAMPLES = 256  # per scale, where more are drawn until intervals are narrow enough
MOST_SAMPLES = 1 << 17  # per scale, drawn for that
LEAST_HALF_WIDTH = 1e-4  # a tenth of what so many samples give


@dataclass(frozen=True)
class Settings:
    """The arguments of score() that need no encoder, checked."""

    preset: Preset
    estimator: str
    eps: tuple[float, ...]
    thresholds: tuple[float, ...]
    scales: tuple[float, ...]
    batch_size: int | None
    seed: int
    backend: str
    compile: Compile
    dtype: str
    half_width: float | None
    average: str

    def average_of(self, task: GaussianTask) -> str:
        """Over which scales the scores of this task are averaged."""
        if self.average != "auto":
            return self.average
        corrected = find_estimator(self.estimator).corrected and task.prior == 0.5
        of_preset = corrected and task.scale_values == spread_scales(self.preset.scales)
        return self.preset.average if of_preset else "sampled"


def check_settings(options: dict[str, Any]) -> Settings:
    """The arguments of score(), or a SynbenchError for the first one that is wrong."""
    preset = check_preset(options["preset"])
    if options["published_preprocessing"] and (options["mean"] is not None or options["std"] is not None):
        raise SynbenchError("published_preprocessing: expected mean and std to be left out, got both kinds")
    estimator = check_estimator(options["estimator"])
    scales = check_scales(options["scales"], preset)
    if options["average"] != "auto":
        check_average(options["average"], estimator, len(scales), options["prior"])
    return Settings(
        preset=preset,
        estimator=estimator,
        eps=check_eps(options["eps"]),
        thresholds=check_thresholds(options["thresholds"]),
        scales=scales,
        half_width=_check_half_width(options["precision"], estimator),
        average=options["average"],
        batch_size=_check_batch_size(options["batch_size"]),
        seed=check_seed(options["seed"]),
        backend=check_backend(options["backend"]),
        compile=check_compile(options["compile"]),
        dtype=check_precision(options["dtype"]),
    )


@dataclass
class Prepared:
    """A loaded encoder with what it is to be run on.

    `given` is the encoder as it was named, `options` all arguments of score() but it, `notes` are for the
    result's warnings.
    """

    given: Any
    options: dict[str, Any]
    settings: Settings
    encoder: Encoder
    notes: list[str]

    @property
    def owned(self) -> bool:
        """Whether the encoder was loaded from a spec."""
        return isinstance(self.given, str)

    @property
    def as_it_is(self) -> bool:
        """Whether the encoder keeps the dtype and layout that it has."""
        return self.settings.dtype == "auto" and not self.owned

    def tasks(self, make: MakeTasks | None = None) -> list[GaussianTask]:
        """The tasks for the encoder's input: those of `make`, or the one of the arguments."""
        shape = self.encoder.info.input_shape
        if make is not None:
            return make(shape)
        prior, center = self.options["prior"], self.options["center"]
        return [GaussianTask(shape, self.settings.scales, prior=prior, center=center)]

    @property
    def samples(self) -> Any:
        """N per scale: what was asked for, unchecked, else the preset's, but at least 2 F where that is needed."""
        if self.options["samples"] is not None:
            return self.options["samples"]
        first = self.settings.preset.samples if self.settings.half_width is None else FIRST_SAMPLES
        wide = self.encoder.info.feature_dim or 0
        least = 0 if self.settings.estimator == "paper" else 2 * wide
        return max(first, least)

    def precisions(self) -> list[Precision]:
        """What to run in, best first."""
        encoder = self.encoder
        own = None if self.owned else encoder.dtype
        place = encoder.device
        return candidates(self.settings.dtype, own, encoder.module is not None, place, capability(place))

    def probe(
        self, task: GaussianTask, dtype: torch.dtype, channels_last: bool, samples: int | None = None
    ) -> Probe:
        """The probe of one task; `samples` of its first blocks, by default all."""
        settings, info = self.settings, self.encoder.info
        return Probe(
            task,
            settings.eps,
            samples=self.samples if samples is None else samples,
            estimator=settings.estimator,
            thresholds=settings.thresholds,
            integral=self.options["integral"],
            average=settings.average_of(task),
            seed=settings.seed,
            mean=info.mean,
            std=info.std,
            dtype=dtype,
            channels_last=channels_last,
            device=self.encoder.device,
            backend=settings.backend,
        )


def prepare(encoder: Any, options: dict[str, Any]) -> Prepared:
    """Check the arguments of score() and load the encoder.

    Raises:
        SynbenchError: what is wrong with the arguments, or why the encoder cannot be loaded.
    """
    settings = check_settings(options)
    options = {**options, "dtype": settings.dtype}
    wanted, owned = settings.dtype, isinstance(encoder, str)
    device, notes = find_device(options["device"], owned)
    if device is not None:
        check_capability(device, settings.backend)
        if wanted == "tf32":
            candidates(wanted, None, True, device, capability(device))

    def load(dtype: torch.dtype | None) -> Encoder:
        return load_encoder(
            encoder,
            input_shape=options["input_shape"],
            mean=options["mean"],
            std=options["std"],
            pool=options["pool"],
            checkpoint=options["checkpoint"],
            random_init=options["random_init"],
            seed=settings.seed,
            trust_remote_code=options["trust_remote_code"],
            device=device,
            dtype=dtype,
        )

    try:
        try:
            loaded = load(_loading_dtype(wanted, owned))
        except (RuntimeError, MemoryError) as error:
            if not (is_out_of_memory(error) and owned and wanted != "auto" and DTYPES[wanted].reduced):
                raise
            loaded = load(DTYPES[wanted].dtype)  # which cannot be compared with float32, and is warned of
        if loaded.module is None and wanted != "auto":
            loaded.to(dtype=DTYPES[wanted].dtype)
        if loaded.info.feature_dim is None:
            with seeded(settings.seed):
                loaded.probe()
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        raise SynbenchError(
            f"memory: expected room for the encoder and a batch of 2, got {first_line(error)}"
        ) from None
    if options["published_preprocessing"]:
        loaded.info = _published(loaded.info)
    check_capability(loaded.device, settings.backend)
    if (
        loaded.device.type == "cpu"
        and settings.backend == "auto"
        and "cpp" not in available("robust_solve", "cpu")
    ):
        notes = [*notes, _not_built()]
    return Prepared(given=encoder, options=options, settings=settings, encoder=loaded, notes=notes)


def _not_built() -> str:
    """The warning where Python found the sources in place of the package that was built and installed."""
    return (
        f"core: expected the compiled operations, got none in {Path(__file__).parent}; the slow specification ran. "
        "Start Python outside of the checkout, or install it with pip install -e ."
    )


def _check_half_width(precision: float | None, estimator: str) -> float | None:
    if precision is None:
        return None
    if (
        isinstance(precision, bool)
        or not isinstance(precision, numbers.Real)
        or not LEAST_HALF_WIDTH <= precision < 1
    ):
        raise SynbenchError(
            f"precision: expected a half-width in [{LEAST_HALF_WIDTH:g}, 1), got {precision!r}"
        )
    if not find_estimator(estimator).unbiased:
        why = "whose number of samples is its protocol"
        if estimator not in ESTIMATORS:
            why = "which does not declare itself unbiased; samples sets their number"
        raise SynbenchError(f"precision: expected estimator consistent or gaussian, got {estimator}, {why}")
    return float(precision)


def check_backend(backend: str) -> str:
    """The backend asked for: auto, or torch, which serves every operation on every device."""
    known = ["auto", "torch"]
    if backend not in known:
        raise SynbenchError(
            f"backend: expected one of {known}, got {backend!r}{suggest(str(backend), known)}"
        )
    return backend


def _loading_dtype(wanted: str, owned: bool) -> torch.dtype | None:
    """The dtype to load in: float32 if weights are to be compared with it, None for an encoder's own."""
    if wanted == "auto":
        return torch.float32 if owned else None
    precision = DTYPES[wanted]
    return torch.float32 if owned and precision.reduced else precision.dtype


def _check_batch_size(batch_size: int | str) -> int | None:
    if batch_size == "auto":
        return None
    if isinstance(batch_size, str):
        raise SynbenchError(f"batch_size: expected 'auto' or a positive integer, got {batch_size!r}")
    return check_integer("batch_size", batch_size, 1, "'auto' or a positive integer")


def check_scales(scales: int | Sequence[float] | None, preset: Preset) -> tuple[float, ...]:
    """The values of the scales asked for, by default the preset's."""
    if scales is None:
        return spread_scales(preset.scales)
    if isinstance(scales, numbers.Integral) and not isinstance(scales, bool):
        return spread_scales(int(scales))
    if isinstance(scales, numbers.Real | str):
        raise SynbenchError(f"scales: expected their number or a sequence of values, got {scales!r}")
    return as_numbers(scales, "scales")


def _published(info: EncoderInfo) -> EncoderInfo:
    """The encoder's record with the published constants in place of its own."""
    if len(info.input_shape) < 2 or info.input_shape[0] != len(PUBLISHED_MEAN):
        raise SynbenchError(
            f"published_preprocessing: expected an input of 3 channels, got input_shape {info.input_shape}"
        )
    return replace(info, mean=PUBLISHED_MEAN, std=PUBLISHED_STD)


def check_preset(name: str) -> Preset:
    """The preset of this name."""
    if not isinstance(name, str) or name not in PRESETS:
        raise SynbenchError(
            f"preset: expected one of {list(PRESETS)}, got {name!r}{suggest(str(name), PRESETS)}"
        )
    return PRESETS[name]
