"""score(): one encoder under one configuration, from arguments to result."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from synbench_fast import environment
from synbench_fast.checks import check_threads
from synbench_fast.encoders import EncoderInfo
from synbench_fast.forward import Compile
from synbench_fast.global_state import known_state, own_registrations
from synbench_fast.ops.score_auc import Integral
from synbench_fast.pipeline import Progress
from synbench_fast.prepare import (
    MOST_SAMPLES,
    PRESETS,
    MakeTasks,
    Prepared,
    Settings,
    check_preset,
    check_scales,
    prepare,
)
from synbench_fast.probe import Probe
from synbench_fast.replay import replay_command
from synbench_fast.results import (
    Cost,
    EncoderRecord,
    Environment,
    PrecisionRecord,
    Preprocessing,
    Result,
    TaskRecord,
)
from synbench_fast.run import run_encoder
from synbench_fast.scores import Curve
from synbench_fast.task import GaussianTask

__all__ = [
    "PRESETS",
    "command_of",
    "encoder_record",
    "peak_memory",
    "result_of",
    "score",
    "score_tasks",
    "task_scales",
]


def score(
    encoder: str | nn.Module | Callable[[Tensor], Tensor],
    *,
    input_shape: Sequence[int] | None = None,
    eps: Sequence[float] | float = (0.0, 0.2),
    thresholds: Sequence[float] | float | None = None,
    scales: int | Sequence[float] | None = None,
    samples: int | None = None,
    estimator: str = "consistent",
    preset: str = "standard",
    precision: float | None = None,
    average: str = "auto",
    integral: Integral = "exact",
    prior: float = 0.5,
    center: float = 0.5,
    seed: int = 0,
    device: str | torch.device = "auto",
    dtype: str | torch.dtype = "auto",
    backend: str = "auto",
    batch_size: int | str = "auto",
    compile: Compile = "auto",
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
    published_preprocessing: bool = False,
    pool: str | None = None,
    checkpoint: str | None = None,
    random_init: bool = False,
    trust_remote_code: bool = False,
    threads: int | None = None,
    progress: Progress | None = None,
) -> Result:
    """SynBench score of one encoder, without data.

    For every scale s it draws N samples of two Gaussians 2 s standard deviations apart, computes their
    features, and finds accuracy a_s and expected scaled bound b_s of the best eps-robust linear classifier on
    the features. The score is

        score(eps, a_t) = sum_s b_s max(0, a_s - a_t) / the same sum for the optimum on the raw data

    Args:
        encoder: a spec such as "timm:resnet50" (see `load_encoder`), a torch.nn.Module, or any callable that
            maps x [B, *input_shape] to features [B, F].
        input_shape: shape of one sample; default the encoder's own.
        eps: E robustness budgets in [0, 1), relative to the half-distance of the class means.
        thresholds: threshold accuracies a_t; default 0.6, 0.65, ..., 0.95, 0.99.
        scales: their number (spread up to 4.9) or values; default the preset's.
        samples: N per scale, for "paper" per half; default the preset's, but at least 2 F for "consistent" and "gaussian".
        estimator: "consistent" (the best classifier of the population, counted from left-out samples), "gaussian" (the same
            for Gaussian margins), "counted" (the best classifier of N samples) or "paper" (published protocol).
        preset: "quick" (12 scales x 512), "standard" (25 x 1 024) or "paper" (49 x 2 048).
        precision: largest half-width of any score's 95 % interval: samples are added, where they help most, until
            none is wider. `samples` is then what a scale begins with, by default 256 or 2 F. Not for "paper", and for
            estimators of other packages only if they are `unbiased` (see `plugins`).
        average: over the scales that are "sampled", or over the "published" 49 by a smooth fit to the sampled
            ones (at least 5, equal priors). "auto" is published with the scales of the presets quick and standard, equal
            priors and the estimators consistent and gaussian, else sampled.
        integral: "exact", or "grid" for the published script's sum.
        prior: probability of class 1.
        center: mean of every input element before normalisation (0.5: mid grey).
        seed: 64-bit seed of the samples, and of the weights with `random_init`.
        device: "auto" (a CUDA GPU if there is one; a Module stays where it is) or a torch device.
        dtype: of the forward pass: "float32" (products of float32 throughout), "tf32" (rounded inside, on
            GPUs from compute capability 8.0), "bfloat16", "float16" or "float64"; fp32, bf16, fp16 and fp64
            are the same. "auto" leaves a Module or callable as it is and is else float32 on the CPU; on a GPU
            the first of bfloat16, tf32 and float32 whose difference to float32, measured on the middle scale,
            is within |t - t_float32| <= stderr(t) / sqrt(number of scales) at every eps.
        backend: of the operations: "auto", or "torch" for the slow float64 specification, which runs anywhere.
        batch_size: samples per forward pass; "auto" goes by the input's size on a CPU and by the measured
            throughput on a GPU, and halves when memory is short. It does not change the samples.
        compile: True or False for torch.compile; "auto" uses it on a GPU when the forward passes that are left
            are long enough to repay it.
        mean, std: normalisation per channel in place of the encoder's own.
        published_preprocessing: the published script's ImageNet constants, for every encoder.
        pool, checkpoint, random_init, trust_remote_code: see `load_encoder`.
        threads: CPU threads during this call; default torch's number.
        progress: called with (images done, images in all, phase).

    Returns:
        Result: scores with standard errors and 95 % intervals over (eps, threshold), the curve behind them,
        cost, environment, and the command that repeats the run.

    Raises:
        SynbenchError: one line that names the argument, what was expected and what came.

    Source: SynBench (Ko et al.); deviations in docs/method.md.
    """
    options = {key: value for key, value in locals().items() if key not in ("encoder", "progress")}
    return score_tasks(encoder, options, progress)[0]


def score_tasks(
    encoder: Any, options: dict[str, Any], progress: Progress | None, tasks: MakeTasks | None = None
) -> list[Result]:
    """One result per task of `tasks`, in order, the encoder loaded once; None: the task of score().

    `options`: every argument of score() but the first and `progress`, and `tasks` as the command line has it.
    """
    threads = check_threads(options["threads"])
    with own_registrations(), known_state(threads):
        return _score(encoder, options, progress or (lambda done, total, phase: None), tasks)


def _score(
    encoder: Any, options: dict[str, Any], progress: Progress, make_tasks: MakeTasks | None
) -> list[Result]:
    begun = time.perf_counter()
    prepared = prepare(encoder, options)
    loaded = prepared.encoder
    tasks = prepared.tasks(make_tasks)
    loaded.keeps_loaded = len(tasks) > 1  # each task chooses its precision for itself
    results: list[Result] = []
    with loaded.scoring():
        for number, task in enumerate(tasks):
            seconds = {"load": time.perf_counter() - begun if number == 0 else 0.0}
            part = _part_of(progress, sum(one.cost.images for one in results), len(tasks) - number)
            results.append(
                _score_task(
                    prepared, task, part, seconds, begun=begun if number == 0 else time.perf_counter()
                )
            )
    return results


def _part_of(progress: Progress, before: int, left: int) -> Progress:
    """The progress of the first of `left` runs, taken to be equally long, after `before` images of others."""
    return lambda done, total, phase: progress(before + done, before + left * total, phase)


def _score_task(
    prepared: Prepared, task: GaussianTask, progress: Progress, seconds: dict[str, float], *, begun: float
) -> Result:
    settings, place = prepared.settings, prepared.encoder.device
    if place.type == "cuda":
        torch.cuda.reset_peak_memory_stats(place)
    done = run_encoder(
        prepared.encoder,
        lambda dtype, channels_last: prepared.probe(task, dtype, channels_last),
        prepared.precisions(),
        as_it_is=prepared.as_it_is,
        size=settings.batch_size,
        compile=settings.compile,
        half_width=settings.half_width,
        most=MOST_SAMPLES,
        progress=progress,
    )
    probe, curve = done.probe, done.curve
    seconds |= done.seconds
    seconds["total"] = time.perf_counter() - begun
    return result_of(
        settings,
        probe,
        curve,
        encoder=encoder_record(prepared.encoder.info, probe.feature_dim or 0),
        precision=PrecisionRecord(requested=settings.dtype, dtype=done.precision.name, checks=done.checks),
        cost=Cost(
            images=probe.images,
            seconds=seconds,
            images_per_second=probe.images / done.elapsed,
            peak_memory_bytes=peak_memory(place),
            device=str(place),
            dtype=done.precision.name,
            batch_size=done.batch_size,
            threads=torch.get_num_threads(),
            channels_last=probe.channels_last,
            compiled=done.compiled,
            cuda_graph=done.cuda_graph,
        ),
        environment=environment.describe(),
        backends=environment.chosen_backends(place.type, settings.backend),
        warnings=[*prepared.notes, *done.warnings],
        command=command_of(prepared.given, prepared.options),
    )


def result_of(
    settings: Settings,
    probe: Probe,
    curve: Curve,
    *,
    encoder: EncoderRecord,
    precision: PrecisionRecord,
    cost: Cost,
    environment: Environment,
    backends: dict[str, str],
    warnings: list[str],
    command: str,
) -> Result:
    """The result of one task from what it was asked for, what was drawn, what came out, and how it was run.

    `warnings` are those of the run; the curve's follow them.
    """
    return Result(
        encoder=encoder,
        task=_task_record(probe),
        estimator=settings.estimator,
        integral=probe.integral,
        seed=settings.seed,
        eps=list(settings.eps),
        thresholds=list(settings.thresholds),
        scores=curve.scores,
        curve=curve.curve,
        score_covariance=curve.score_covariance,
        influence=curve.influence,
        robust_area=curve.robust_area,
        fits=curve.fits,
        dropped=curve.dropped,
        half_width=settings.half_width,
        precision=precision,
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


def task_scales(options: dict[str, Any]) -> tuple[float, ...]:
    """The scales that the arguments of score() ask for."""
    return check_scales(options["scales"], check_preset(options["preset"]))


def peak_memory(device: torch.device) -> int:
    """Bytes: the most that torch held on a GPU, elsewhere the process's resident set."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def command_of(encoder: Any, options: dict[str, Any]) -> str:
    """The shell line that repeats a run of `encoder` with these arguments of score(); "" where none can."""
    if not isinstance(encoder, str) or options.get("tasks", "") is None:
        return ""
    given = dict(options)
    defaults = {"integral": "exact", "center": 0.5, "thresholds": None, "backend": "auto", "average": "auto"}
    for key, value in defaults.items():
        if isinstance(given[key], type(value)) and given[key] == value:  # arrays do not compare to one answer
            given[key] = None
    return replay_command(encoder, given)
