"""Sensitivity of several encoders, one after the other."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from torch import Tensor, nn

from synbench_fast.config import ScoreConfig, described
from synbench_fast.engine.pipeline import Progress
from synbench_fast.studies.sensitivity.analysis import assemble
from synbench_fast.studies.sensitivity.levels import VariedRuns, failure_reason, vary_encoder
from synbench_fast.studies.sensitivity.options import SensitivityStudy, check_options, labels
from synbench_fast.studies.sensitivity.records import MissingRun
from synbench_fast.studies.sensitivity.report import Sensitivity

__all__ = ["measure_sensitivity"]


@described(SensitivityStudy.signature)
def measure_sensitivity(
    encoders: str | nn.Module | Callable[[Tensor], Tensor] | Sequence[Any],
    *,
    vary: str | Sequence[str] | None = None,
    seeds: int = 5,
    config: ScoreConfig | None = None,
    progress: Progress | None = None,
    **arguments: Any,
) -> Sensitivity:
    """Scores of encoders around a base configuration, one factor at a time, and what each factor does.

    Args:
        encoders: one or several, as `score` takes them. One that is named is loaded once, with the weights of the
            base seed, so that seeds change the samples alone.
        vary: factors out of FACTORS, also as "seed,dtype"; default all.

            seed: base seed + 0 ... seeds - 1.
            samples: N/2 (3N/4 where N/2 does not exceed F + 2), 2N and 4N per scale.
            scales: 6, 12, 25 and 49 of them.
            thresholds: those of the base; no forward pass.
            dtype: float32, bfloat16, float64.
            preprocessing: the encoder's own constants, the published ones for inputs of 3 channels, none, and
                another centre, 0.1 below and above the base's.
        seeds: R, how many seeds.
        config: arguments of the base. dtype "auto" of an encoder that is named is float32 on every device.
        progress: called with (images done, images in all, phase).
        arguments: fields of `ScoreConfig` in place of those of `config`.

    Returns:
        Sensitivity. A run that fails is in `failures`; what the others gave is kept.

    Raises:
        SynbenchError: a wrong factor or number of seeds, an unknown option; no encoder has a base score.
    """
    listed = list(encoders) if isinstance(encoders, list | tuple) else [encoders]
    options = check_options(listed, vary, seeds, ScoreConfig.of(config, arguments))
    runs: list[VariedRuns] = []
    missing: list[MissingRun] = []
    first: Exception | None = None
    for number, (one, label) in enumerate(zip(listed, labels(listed), strict=True)):

        def part(done: int, total: int, phase: str, number: int = number) -> None:
            if progress is not None:
                progress(number * total + done, len(listed) * total, phase)

        try:
            runs.append(vary_encoder(one, options, label=label, progress=part))
        except Exception as error:
            first = first or error
            missing.append(
                MissingRun(encoder=label, factor="base", level="base", reason=failure_reason(error))
            )
    if first is not None and not runs:
        raise first
    return assemble(listed, options, runs, missing)
