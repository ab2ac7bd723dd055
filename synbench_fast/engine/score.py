"""score(): one encoder under one configuration, from arguments to result."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from synbench_fast.config import ScoreConfig, described, signature_of
from synbench_fast.encoders import EncoderInfo
from synbench_fast.engine import environment
from synbench_fast.engine.curve import Curve
from synbench_fast.engine.pipeline import Progress
from synbench_fast.engine.prepare import MOST_SAMPLES, MakeTasks, Prepared, prepare
from synbench_fast.engine.probe import Probe
from synbench_fast.engine.run import in_arithmetic, run_encoder
from synbench_fast.engine.structure import run_families
from synbench_fast.results.records import (
    ArithmeticRecord,
    Cost,
    EncoderRecord,
    Environment,
    Preprocessing,
    Result,
    TaskRecord,
)
from synbench_fast.results.structure import FamilyResult, StructureScore
from synbench_fast.runtime.global_state import known_state, own_registrations
from synbench_fast.tasks.structure import FamilyDefinition
from synbench_fast.tasks.task import GaussianTask

__all__ = ["encoder_record", "peak_memory", "result_of", "score", "score_tasks"]


@described(signature_of)
def score(
    encoder: str | nn.Module | Callable[[Tensor], Tensor],
    *,
    config: ScoreConfig | None = None,
    progress: Progress | None = None,
    **arguments: Any,
) -> Result:
    """SynBench score of one encoder, without data.

    For every scale s it draws N samples of two Gaussians 2 s standard deviations apart, computes their
    features, and finds accuracy a_s and expected scaled bound b_s of the best eps-robust linear classifier on
    the features. The score is

        score(eps, a_t) = sum_s b_s max(0, a_s - a_t) / the same sum for the optimum on the raw data

    Args:
        encoder: a spec such as "timm:resnet50" (see `load_encoder`), a torch.nn.Module, or any callable that
            maps x [B, *input_shape] to features [B, F].
        config: every argument of the score; None for the defaults of `ScoreConfig`.
        progress: called with (images done, images in all, phase).
        arguments: fields of `ScoreConfig`, such as eps=(0, 0.2) or preset="quick", in place of those of `config`.

    Returns:
        Result: scores with standard errors and 95 % intervals over (eps, threshold), the curve behind them,
        cost, environment, and the command that repeats the run.

    Raises:
        SynbenchError: one line that names the argument, what was expected and what came.

    Source: SynBench (Ko et al.); deviations in docs/method.md.
    """
    return score_tasks(encoder, ScoreConfig.of(config, arguments), progress)[0][0]


def score_tasks(
    encoder: Any,
    config: ScoreConfig,
    progress: Progress | None,
    tasks: MakeTasks | None = None,
    families: Sequence[FamilyDefinition] = (),
    suite: str | None = None,
) -> tuple[list[Result], list[FamilyResult]]:
    """One result per task of `tasks` and per task of `families`, in order, the encoder loaded once.

    `tasks`: None for the task of `config`. `suite`: how the command line names the tasks, None where it cannot.
    """
    with own_registrations(), known_state(config.threads):
        return _score(encoder, config, progress or (lambda done, total, phase: None), tasks, families, suite)


@dataclass
class _Families:
    """What is scored by K classes of one sample, once for an encoder, after its first task has settled the arithmetic."""

    definitions: Sequence[FamilyDefinition]
    done: bool = False
    structure: StructureScore | None = None
    results: list[FamilyResult] = field(default_factory=list)


def _score(
    encoder: Any,
    config: ScoreConfig,
    progress: Progress,
    make_tasks: MakeTasks | None,
    definitions: Sequence[FamilyDefinition],
    suite: str | None,
) -> tuple[list[Result], list[FamilyResult]]:
    begun = time.perf_counter()
    prepared = prepare(encoder, config)
    named = isinstance(encoder, str) and (make_tasks is None or suite is not None)
    command = config.command(encoder, tasks=suite) if named else ""
    loaded = prepared.encoder
    tasks = prepared.tasks(make_tasks)
    loaded.keeps_loaded = len(tasks) > 1  # each task chooses its arithmetic for itself
    results: list[Result] = []
    families = _Families(definitions)
    with loaded.scoring():
        for number, task in enumerate(tasks):
            seconds = {"load": time.perf_counter() - begun if number == 0 else 0.0}
            part = _part_of(progress, sum(one.cost.images for one in results), len(tasks) - number)
            results.append(
                _score_task(
                    prepared,
                    task,
                    part,
                    seconds,
                    command,
                    families,
                    begun=begun if number == 0 else time.perf_counter(),
                )
            )
    return results, families.results


def _part_of(progress: Progress, before: int, left: int) -> Progress:
    """The progress of the first of `left` runs, taken to be equally long, after `before` images of others."""
    return lambda done, total, phase: progress(before + done, before + left * total, phase)


def _score_task(
    prepared: Prepared,
    task: GaussianTask,
    progress: Progress,
    seconds: dict[str, float],
    command: str,
    families: _Families,
    *,
    begun: float,
) -> Result:
    config, place = prepared.config, prepared.encoder.device
    if place.type == "cuda":
        torch.cuda.reset_peak_memory_stats(place)
    done = run_encoder(
        prepared.encoder,
        lambda dtype, channels_last: prepared.probe(task, dtype, channels_last),
        prepared.arithmetics(),
        as_it_is=prepared.as_it_is,
        size=None if isinstance(config.batch_size, str) else config.batch_size,
        compile=config.compile,
        half_width=config.half_width,
        most=MOST_SAMPLES,
        progress=progress,
    )
    probe, curve = done.probe, done.curve
    if not families.done:
        with in_arithmetic(prepared.encoder, done.arithmetic):
            families.structure, families.results = run_families(
                prepared.encoder,
                config,
                families.definitions,
                size=done.batch_size,
                channels_last=probe.channels_last,
                progress=lambda images, total: progress(images, total, "structure"),
            )
        families.done = True
        if families.structure is not None:
            seconds["structure"] = families.structure.seconds
        if families.results:
            seconds["families"] = sum(one.seconds for one in families.results)
    seconds |= done.seconds
    seconds["total"] = time.perf_counter() - begun
    return result_of(
        config,
        probe,
        curve,
        encoder=encoder_record(prepared.encoder.info, probe.feature_dim or 0),
        arithmetic=ArithmeticRecord(requested=config.dtype, dtype=done.arithmetic.name, checks=done.checks),
        cost=Cost(
            images=probe.images,
            seconds=seconds,
            images_per_second=probe.images / done.elapsed,
            peak_memory_bytes=peak_memory(place),
            device=str(place),
            dtype=done.arithmetic.name,
            batch_size=done.batch_size,
            threads=torch.get_num_threads(),
            channels_last=probe.channels_last,
            compiled=done.compiled,
            cuda_graph=done.cuda_graph,
        ),
        environment=environment.describe(),
        backends=environment.chosen_backends(place.type, config.backend),
        warnings=[*prepared.notes, *done.warnings],
        command=command,
        structure=families.structure,
    )


def result_of(
    config: ScoreConfig,
    probe: Probe,
    curve: Curve,
    *,
    encoder: EncoderRecord,
    arithmetic: ArithmeticRecord,
    cost: Cost,
    environment: Environment,
    backends: dict[str, str],
    warnings: list[str],
    command: str,
    structure: StructureScore | None = None,
) -> Result:
    """The result of one task from what it was asked for, what was drawn, what came out, and how it was run.

    `warnings` are those of the run; the curve's follow them.
    """
    return Result(
        encoder=encoder,
        task=_task_record(probe),
        estimator=config.estimator,
        integral=probe.integral,
        seed=config.seed,
        eps=list(config.eps),
        thresholds=list(config.thresholds),
        structure=structure,
        scores=curve.scores,
        curve=curve.curve,
        score_covariance=curve.score_covariance,
        influence=curve.influence,
        robust_area=curve.robust_area,
        fits=curve.fits,
        dropped=curve.dropped,
        half_width=config.half_width,
        arithmetic=arithmetic,
        cost=cost,
        environment=environment,
        backends=backends,
        warnings=[*warnings, *curve.warnings],
        command=command,
    )


def encoder_record(info: EncoderInfo, feature_dim: int) -> EncoderRecord:
    """What a result says of the encoder."""
    return EncoderRecord(
        spec=info.spec,
        source=info.source,
        name=info.name,
        revision=info.revision,
        weights_sha256=info.weights_sha256,
        parameters=info.parameters,
        feature_dim=feature_dim,
        preprocessing=Preprocessing(
            input_shape=info.input_shape, mean=info.mean, std=info.std, pool=info.pool
        ),
        random_init=info.random_init,
        checkpoint=info.checkpoint,
    )


def _task_record(probe: Probe) -> TaskRecord:
    """What a result says of the task that `probe` drew samples of."""
    task = probe.task
    return TaskRecord(
        shape=task.shape,
        scales=list(task.scale_values),
        samples=probe.samples_drawn,
        average=probe.scoring.average,
        prior=task.prior,
        center=task.center,
        pattern=task.pattern,
        covariance=task.covariance,
    )


def peak_memory(device: torch.device) -> int:
    """Bytes: the most that torch held on a GPU, elsewhere the process's resident set."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024
