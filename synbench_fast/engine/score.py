"""score(): one encoder under one configuration, from arguments to result."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, overload

import torch
from torch import Tensor, nn

from synbench_fast.config import ScoreConfig, described, signature_of
from synbench_fast.encoders import EncoderInfo
from synbench_fast.encoders.load import check_encoder_name, object_names
from synbench_fast.engine import environment
from synbench_fast.engine.curve import Curve
from synbench_fast.engine.memory import Memory
from synbench_fast.engine.pipeline import Progress
from synbench_fast.engine.prepare import MOST_SAMPLES, MakeTasks, Prepared, prepare
from synbench_fast.engine.probe import Probe
from synbench_fast.engine.run import in_arithmetic, run_encoder
from synbench_fast.engine.structure import run_families
from synbench_fast.errors import SynbenchError
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
from synbench_fast.runtime.progress import Reporter
from synbench_fast.tasks.structure import FamilyDefinition
from synbench_fast.tasks.task import GaussianTask

__all__ = ["encoder_record", "result_of", "result_of_probe", "score", "score_tasks"]


EncoderLike = str | nn.Module | Callable[[Tensor], Tensor]


@overload
def score(
    encoder: EncoderLike,
    *,
    name: str | None = None,
    config: ScoreConfig | None = None,
    progress: Progress | bool | None = None,
    **arguments: Any,
) -> Result: ...


@overload
def score(
    encoder: Sequence[EncoderLike],
    *,
    name: Sequence[str] | None = None,
    config: ScoreConfig | None = None,
    progress: Progress | bool | None = None,
    **arguments: Any,
) -> list[Result]: ...


@described(signature_of)
def score(
    encoder: EncoderLike | Sequence[EncoderLike],
    *,
    name: str | Sequence[str] | None = None,
    config: ScoreConfig | None = None,
    progress: Progress | bool | None = None,
    **arguments: Any,
) -> Result | list[Result]:
    """SynBench score of one encoder, or of each of a list, without data.

    For every scale s it draws N samples of two Gaussians 2 s standard deviations apart, computes their
    features, and finds accuracy a_s and expected scaled bound b_s of the best eps-robust linear classifier on
    the features. The score is

        score(eps, a_t) = sum_s b_s max(0, a_s - a_t) / the same sum for the optimum on the raw data

    Args:
        encoder: a spec such as "timm:resnet50" (see `load_encoder`), a torch.nn.Module, or any callable that
            maps x [B, *input_shape] to features [B, F]; or a list of these.
        name: what results call a Module or callable, for a list one for each; default its class or function, with
            numbers where a list has several alike.
        config: every argument of the score; None for the defaults of `ScoreConfig`.
        progress: True for a line on standard error, or what is called with (images done, images in all, phase).
        arguments: fields of `ScoreConfig`, such as eps=(0, 0.2) or preset="quick", in place of those of `config`.

    Returns:
        Result, of a list a list of them: scores with standard errors and 95 % intervals over (eps, threshold), the curve behind them,
        cost, environment, and the command that repeats the run.

    Raises:
        SynbenchError: one line that names the argument, what was expected and what came.

    Source: SynBench (Ko et al.); deviations in docs/method.md.
    """
    wanted = ScoreConfig.of(config, arguments)
    if not isinstance(encoder, list | tuple):
        return score_tasks(encoder, wanted, progress, name=name)[0][0]
    if not encoder:
        raise SynbenchError("encoder: expected at least one, got an empty list")
    names = object_names(encoder) if name is None else name
    if not isinstance(names, list | tuple) or len(names) != len(encoder):
        raise SynbenchError(f"name: expected a list of {len(encoder)} names, got {name!r:.60}")
    return [
        score_tasks(one, wanted, progress, name=called)[0][0]
        for one, called in zip(encoder, names, strict=True)
    ]


def score_tasks(
    encoder: Any,
    config: ScoreConfig,
    progress: Progress | bool | None,
    tasks: MakeTasks | None = None,
    families: Sequence[FamilyDefinition] = (),
    suite: str | None = None,
    *,
    name: Any = None,
) -> tuple[list[Result], list[FamilyResult]]:
    """One result per task of `tasks` and per task of `families`, in order, the encoder loaded once.

    `name`: what to call an encoder that is an object. `tasks`: None for the task of `config`. `suite`: how the command line names the tasks, None where it cannot.
    """
    reporter = Reporter(sys.stderr, quiet=progress is not True)
    label = encoder if isinstance(encoder, str) else name or type(encoder).__name__
    with own_registrations(), known_state(config.threads), reporter.encoder(str(label)) as advance:
        if callable(progress):
            advance = progress
        return _score(encoder, config, advance, tasks, families, suite, name)


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
    name: str | None,
) -> tuple[list[Result], list[FamilyResult]]:
    begun, memory = time.perf_counter(), Memory()
    prepared = prepare(encoder, config, name)
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
                    memory,
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
    memory: Memory,
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
            peak_memory_bytes=memory.peak(place),
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


def result_of_probe(probe: Probe, name: str) -> Result:
    """The result of a caller's own loop, see `Probe.to_result`."""
    curve = probe.compute()
    total = time.perf_counter() - probe.begun
    dtype = str(probe.dtype).removeprefix("torch.")
    mean, std = (None if one is None else tuple(map(float, one)) for one in (probe.mean, probe.std))
    return result_of(
        ScoreConfig(eps=probe.eps, thresholds=probe.thresholds, seed=probe.seed, estimator=probe.estimator),
        probe,
        curve,
        encoder=EncoderRecord(
            spec=f"callable:{check_encoder_name(name)}",
            source="callable",
            name=name,
            revision=None,
            weights_sha256="",
            parameters=None,
            feature_dim=probe.feature_dim or 0,
            preprocessing=Preprocessing(input_shape=probe.task.shape, mean=mean, std=std, pool=None),
            random_init=False,
            checkpoint=None,
        ),
        arithmetic=ArithmeticRecord(requested=dtype, dtype=dtype, checks=[]),
        cost=Cost(
            images=probe.images,
            seconds={**probe.seconds, "total": total},
            images_per_second=probe.images / total,
            peak_memory_bytes=0,
            device=str(probe.device),
            dtype=dtype,
            batch_size=0,
            threads=torch.get_num_threads(),
            channels_last=probe.channels_last,
            compiled=False,
            cuda_graph=False,
        ),
        environment=environment.describe(),
        backends=environment.chosen_backends(probe.device.type, probe.backend),
        warnings=[],
        command="",
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
