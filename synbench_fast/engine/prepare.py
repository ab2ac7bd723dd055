"""From the arguments of score() to an encoder that is ready to run: what single runs and fleets have in common."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from synbench_fast.config import PRESETS, ScoreConfig
from synbench_fast.encoders import Encoder, EncoderInfo, load_encoder
from synbench_fast.encoders.base import is_out_of_memory
from synbench_fast.engine.arithmetic import DTYPES, Arithmetic, candidates
from synbench_fast.engine.curve import check_average
from synbench_fast.engine.devices import capability, check_capability, find_device
from synbench_fast.engine.probe import Probe
from synbench_fast.errors import SynbenchError, first_line
from synbench_fast.ops.dispatch import available
from synbench_fast.runtime.global_state import seeded
from synbench_fast.scales import spread_scales
from synbench_fast.stats.estimators import BUILT_IN, find_estimator
from synbench_fast.tasks.task import PUBLISHED_MEAN, PUBLISHED_STD, GaussianTask

__all__ = ["MOST_SAMPLES", "MakeTasks", "Prepared", "average_of", "check_with_estimator", "prepare"]

MakeTasks = Callable[[tuple[int, ...]], list[GaussianTask]]  # from the encoder's input shape


FIRST_SAMPLES = 256  # per scale, where more are drawn until intervals are narrow enough
MOST_SAMPLES = 1 << 17  # per scale, drawn for that


def check_with_estimator(config: ScoreConfig) -> None:
    """What the estimator does not allow, as one SynbenchError: its objects, and those of other packages, need torch."""
    if config.average != "auto":
        check_average(config.average, config.estimator, len(config.scale_values), config.prior)
    if config.half_width is None or find_estimator(config.estimator).unbiased:
        return
    known = " or ".join(name for name, one in BUILT_IN.items() if one.unbiased)
    why = "which does not declare itself unbiased; samples sets their number"
    if config.estimator in BUILT_IN:
        why = "whose number of samples is its protocol"
    raise SynbenchError(f"half_width: expected estimator {known}, got {config.estimator}, {why}")


def average_of(config: ScoreConfig, task: GaussianTask) -> str:
    """Over which scales the scores of this task are averaged."""
    if config.average != "auto":
        return config.average
    preset = PRESETS[config.preset]
    corrected = find_estimator(config.estimator).corrected and task.prior == 0.5
    of_preset = corrected and task.scale_values == spread_scales(preset.scales)
    return preset.average if of_preset else "sampled"


@dataclass
class Prepared:
    """A loaded encoder with what it is to be run on.

    `given` is the encoder as it was named, `notes` are for the result's warnings.
    """

    given: Any
    config: ScoreConfig
    encoder: Encoder
    notes: list[str]

    @property
    def owned(self) -> bool:
        """Whether the encoder was loaded from a spec."""
        return isinstance(self.given, str)

    @property
    def as_it_is(self) -> bool:
        """Whether the encoder keeps the dtype and layout that it has."""
        return self.config.dtype == "auto" and not self.owned

    def tasks(self, make: MakeTasks | None = None) -> list[GaussianTask]:
        """The tasks for the encoder's input: those of `make`, or the one of the arguments."""
        shape = self.encoder.info.input_shape
        if make is not None:
            return make(shape)
        config = self.config
        return [GaussianTask(shape, config.scale_values, prior=config.prior, center=config.center)]

    @property
    def samples(self) -> int:
        """N per scale: what was asked for, else the preset's, but at least 2 F where that is needed."""
        config = self.config
        if config.samples is not None:
            return config.samples
        first = PRESETS[config.preset].samples if config.half_width is None else FIRST_SAMPLES
        least = find_estimator(config.estimator).samples_per_feature
        return max(first, least * (self.encoder.info.feature_dim or 0))

    def arithmetics(self) -> list[Arithmetic]:
        """What to run in, best first."""
        encoder = self.encoder
        own = None if self.owned else encoder.dtype
        place = encoder.device
        return candidates(self.config.dtype, own, encoder.module is not None, place, capability(place))

    def probe(
        self, task: GaussianTask, dtype: torch.dtype, channels_last: bool, samples: int | None = None
    ) -> Probe:
        """The probe of one task; `samples` of its first blocks, by default all."""
        config, info = self.config, self.encoder.info
        return Probe(
            task,
            config.eps,
            samples=self.samples if samples is None else samples,
            estimator=config.estimator,
            thresholds=config.thresholds,
            integral=config.integral,
            average=average_of(config, task),
            seed=config.seed,
            mean=info.mean,
            std=info.std,
            dtype=dtype,
            channels_last=channels_last,
            device=self.encoder.device,
            backend=config.backend,
        )


def prepare(encoder: Any, config: ScoreConfig, name: str | None = None) -> Prepared:
    """Load the encoder, called `name`, on the device and in the dtype that it is to be scored in.

    Raises:
        SynbenchError: what is wrong with the arguments, or why the encoder cannot be loaded.
    """
    check_with_estimator(config)
    wanted, owned = config.dtype, isinstance(encoder, str)
    device, notes = find_device(config.device, owned)
    if device is not None:
        check_capability(device, config.backend)
        if wanted == "tf32":
            candidates(wanted, None, True, device, capability(device))

    def load(dtype: torch.dtype | None) -> Encoder:
        return load_encoder(
            encoder,
            name=name,
            input_shape=config.input_shape,
            mean=config.mean,
            std=config.std,
            pool=config.pool,
            checkpoint=config.checkpoint,
            random_init=config.random_init,
            seed=config.seed,
            trust_remote_code=config.trust_remote_code,
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
            with seeded(config.seed):
                loaded.dry_run()
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        raise SynbenchError(
            f"memory: expected room for the encoder and a batch of 2, got {first_line(error)}"
        ) from None
    if config.published_preprocessing:
        loaded.info = _published(loaded.info)
    check_capability(loaded.device, config.backend)
    if (
        loaded.device.type == "cpu"
        and config.backend == "auto"
        and "cpp" not in available("robust_solve", "cpu")
    ):
        notes = [*notes, _not_built()]
    return Prepared(given=encoder, config=config, encoder=loaded, notes=notes)


def _not_built() -> str:
    """The warning where Python found the sources in place of the package that was built and installed."""
    return (
        f"core: expected the compiled operations, got none in {Path(__file__).parent}; the slow specification ran. "
        "Start Python outside of the checkout, or install it with pip install -e ."
    )


def _loading_dtype(wanted: str, owned: bool) -> torch.dtype | None:
    """The dtype to load in: float32 if weights are to be compared with it, None for an encoder's own."""
    if wanted == "auto":
        return torch.float32 if owned else None
    arithmetic = DTYPES[wanted]
    return torch.float32 if owned and arithmetic.reduced else arithmetic.dtype


def _published(info: EncoderInfo) -> EncoderInfo:
    """The encoder's record with the published constants in place of its own."""
    if len(info.input_shape) < 2 or info.input_shape[0] != len(PUBLISHED_MEAN):
        raise SynbenchError(
            f"published_preprocessing: expected an input of 3 channels, got input_shape {info.input_shape}"
        )
    return replace(info, mean=PUBLISHED_MEAN, std=PUBLISHED_STD)
