"""score(): one encoder under one configuration, from arguments to result."""

from __future__ import annotations

import numbers
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from synbench_fast import environment
from synbench_fast.checks import (
    Estimator,
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
from synbench_fast.ops.score_auc import Integral
from synbench_fast.pipeline import Progress
from synbench_fast.precision import DTYPES, candidates, check_precision
from synbench_fast.probe import Probe
from synbench_fast.results import (
    Cost,
    EncoderRecord,
    PrecisionRecord,
    Preprocessing,
    Result,
    TaskRecord,
    replay_command,
)
from synbench_fast.run import run_encoder
from synbench_fast.scores import check_average
from synbench_fast.task import PUBLISHED_MEAN, PUBLISHED_STD, GaussianTask, spread_scales

__all__ = ["PRESETS", "score", "score_tasks", "task_scales"]

MakeTasks = Callable[[tuple[int, ...]], list[GaussianTask]]  # from the encoder's input shape


@dataclass(frozen=True)
class Preset:
    """What a run draws unless told otherwise.

    Where `average` is "published", `consistent` scores are the mean over the published 49 scales, by a fit of t to
    those that are drawn, so that all presets estimate one quantity.
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
        samples: N per scale, for "paper" per half; default the preset's, but at least 2 F for "consistent".
        estimator: "consistent" (finite-N bias removed, standard errors), "counted" (the same for margins that are not
            Gaussian) or "paper" (published protocol).
        preset: "quick" (12 scales x 512), "standard" (25 x 1 024) or "paper" (49 x 2 048).
        precision: largest half-width of any score's 95 % interval: samples are added, where they help most, until
            none is wider. `samples` is then what a scale begins with, by default 256 or 2 F. Not for "paper".
        average: over the scales that are "sampled", or over the "published" 49 by a smooth fit of t(s) to the
            sampled ones (at least 5; "consistent" only). "auto" is published with the scales of the presets quick
            and standard and the consistent estimator, else sampled.
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
    threads = options["threads"]
    if threads is not None:
        check_integer("threads", threads, 1, "at least 1")
    before = torch.get_num_threads()
    if threads is not None:
        torch.set_num_threads(threads)
    try:
        return _score(encoder, options, progress or (lambda done, total, phase: None), tasks)
    finally:
        if threads is not None:
            torch.set_num_threads(before)


def _score(
    encoder: Any, options: dict[str, Any], progress: Progress, make_tasks: MakeTasks | None
) -> list[Result]:
    begun = time.perf_counter()
    preset = _preset(options["preset"])
    estimator = check_estimator(options["estimator"])
    eps = check_eps(options["eps"])
    thresholds = check_thresholds(options["thresholds"])
    batch_size = _check_batch_size(options["batch_size"])
    seed = check_seed(options["seed"])
    scales = _scales(options["scales"], preset)
    half_width = _check_half_width(options["precision"], estimator)
    if options["average"] != "auto":
        check_average(options["average"], estimator, len(scales))
    mean, std = options["mean"], options["std"]
    if options["published_preprocessing"] and (mean is not None or std is not None):
        raise SynbenchError("published_preprocessing: expected mean and std to be left out, got both kinds")
    backend = check_backend(options["backend"])
    compile = check_compile(options["compile"])
    options["dtype"] = wanted = check_precision(options["dtype"])
    owned = isinstance(encoder, str)
    device, notes = find_device(options["device"], owned)
    if device is not None:
        check_capability(device, backend)
        if wanted == "tf32":
            candidates(wanted, None, True, device, capability(device))

    def load(dtype: torch.dtype | None) -> Encoder:
        return load_encoder(
            encoder,
            input_shape=options["input_shape"],
            mean=mean,
            std=std,
            pool=options["pool"],
            checkpoint=options["checkpoint"],
            random_init=options["random_init"],
            seed=seed,
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
            loaded.probe()
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        raise SynbenchError(
            f"memory: expected room for the encoder and a batch of 2, got {first_line(error)}"
        ) from None
    if options["published_preprocessing"]:
        loaded.info = _published(loaded.info)
    check_capability(loaded.device, backend)
    shape = loaded.info.input_shape
    if make_tasks is None:
        tasks = [GaussianTask(shape, scales, prior=options["prior"], center=options["center"])]
    else:
        tasks = make_tasks(shape)
    loaded.keeps_loaded = len(tasks) > 1  # each task chooses its precision for itself
    results = []
    with loaded.scoring():
        for number, task in enumerate(tasks):
            seconds = {"load": time.perf_counter() - begun if number == 0 else 0.0}
            results.append(
                _score_task(
                    loaded,
                    task,
                    encoder,
                    options,
                    _part_of(progress, number, len(tasks)),
                    seconds,
                    begun=begun if number == 0 else time.perf_counter(),
                    preset=preset,
                    estimator=estimator,
                    eps=eps,
                    thresholds=thresholds,
                    batch_size=batch_size,
                    seed=seed,
                    backend=backend,
                    compile=compile,
                    half_width=half_width,
                    notes=notes,
                )
            )
    return results


def _part_of(progress: Progress, number: int, count: int) -> Progress:
    """The progress of run `number` of `count`, which are taken to be equally long."""
    return lambda done, total, phase: progress(number * total + done, count * total, phase)


def _score_task(
    loaded: Encoder,
    task: GaussianTask,
    encoder: Any,
    options: dict[str, Any],
    progress: Progress,
    seconds: dict[str, float],
    *,
    begun: float,
    preset: Preset,
    estimator: Estimator,
    eps: tuple[float, ...],
    thresholds: tuple[float, ...],
    batch_size: int | None,
    seed: int,
    backend: str,
    compile: Compile,
    half_width: float | None,
    notes: list[str],
) -> Result:
    place, wanted, owned = loaded.device, options["dtype"], isinstance(encoder, str)
    with loaded.scoring():
        info = loaded.info
        samples = options["samples"]
        if samples is None:
            samples = preset.samples if half_width is None else FIRST_SAMPLES
            if estimator != "paper":
                samples = max(samples, 2 * (info.feature_dim or 0))
        average = options["average"]
        if average == "auto":
            of_preset = estimator == "consistent" and task.scale_values == spread_scales(preset.scales)
            average = preset.average if of_preset else "sampled"

        def make_probe(dtype: torch.dtype, channels_last: bool) -> Probe:
            return Probe(
                task,
                eps,
                samples=samples,
                estimator=estimator,
                thresholds=thresholds,
                integral=options["integral"],
                average=average,
                seed=seed,
                mean=info.mean,
                std=info.std,
                dtype=dtype,
                channels_last=channels_last,
                device=place,
                backend=backend,
            )

        if place.type == "cuda":
            torch.cuda.reset_peak_memory_stats(place)
        done = run_encoder(
            loaded,
            make_probe,
            candidates(
                wanted, None if owned else loaded.dtype, loaded.module is not None, place, capability(place)
            ),
            as_it_is=wanted == "auto" and not owned,
            size=batch_size,
            compile=compile,
            half_width=half_width,
            most=MOST_SAMPLES,
            progress=progress,
        )
    probe, curve = done.probe, done.curve
    seconds |= done.seconds
    seconds["total"] = time.perf_counter() - begun
    return Result(
        encoder=EncoderRecord(
            spec=info.spec,
            source=info.source,
            name=info.name,
            revision=info.revision,
            weights_sha256=info.weights_sha256,
            parameters=info.parameters,
            feature_dim=probe.feature_dim or 0,
            preprocessing=Preprocessing(
                input_shape=info.input_shape, mean=info.mean, std=info.std, pool=info.pool
            ),
            random_init=info.random_init,
            checkpoint=info.checkpoint,
        ),
        task=TaskRecord(
            shape=task.shape,
            scales=list(task.scale_values),
            samples=probe.samples_drawn,
            average=average,
            prior=task.prior,
            center=task.center,
            pattern=task.pattern,
            covariance=task.covariance,
        ),
        estimator=estimator,
        seed=seed,
        eps=list(eps),
        thresholds=list(thresholds),
        scores=curve.scores,
        curve=curve.curve,
        score_covariance=curve.score_covariance,
        influence=curve.influence,
        robust_area=curve.robust_area,
        fits=curve.fits,
        half_width=half_width,
        precision=PrecisionRecord(requested=wanted, dtype=done.precision.name, checks=done.checks),
        cost=Cost(
            images=probe.images,
            seconds=seconds,
            images_per_second=probe.images / done.elapsed,
            peak_memory_bytes=_peak_memory(place),
            device=str(place),
            dtype=done.precision.name,
            batch_size=done.batch_size,
            threads=torch.get_num_threads(),
            channels_last=probe.channels_last,
            compiled=done.compiled,
            cuda_graph=done.cuda_graph,
        ),
        environment=environment.describe(),
        backends=environment.chosen_backends(place.type, backend),
        warnings=notes + done.warnings + curve.warnings,
        command=_command(encoder, options),
    )


def _check_half_width(precision: float | None, estimator: Estimator) -> float | None:
    if precision is None:
        return None
    if isinstance(precision, bool) or not isinstance(precision, numbers.Real) or not 0 < precision < 1:
        raise SynbenchError(f"precision: expected a half-width in (0, 1), got {precision!r}")
    if estimator == "paper":
        raise SynbenchError(
            "precision: expected estimator consistent or counted, got paper, whose number of samples is its protocol"
        )
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


def _scales(scales: int | Sequence[float] | None, preset: Preset) -> tuple[float, ...]:
    if scales is None:
        return spread_scales(preset.scales)
    if isinstance(scales, numbers.Integral) and not isinstance(scales, bool):
        return spread_scales(int(scales))
    if isinstance(scales, numbers.Real | str):
        raise SynbenchError(f"scales: expected their number or a sequence of values, got {scales!r}")
    return as_numbers(scales, "scales")


def task_scales(options: dict[str, Any]) -> tuple[float, ...]:
    """The scales that the arguments of score() ask for."""
    return _scales(options["scales"], _preset(options["preset"]))


def _published(info: EncoderInfo) -> EncoderInfo:
    """The encoder's record with the published constants in place of its own."""
    if len(info.input_shape) < 2 or info.input_shape[0] != len(PUBLISHED_MEAN):
        raise SynbenchError(
            f"published_preprocessing: expected an input of 3 channels, got input_shape {info.input_shape}"
        )
    return replace(info, mean=PUBLISHED_MEAN, std=PUBLISHED_STD)


def _preset(name: str) -> Preset:
    if name not in PRESETS:
        raise SynbenchError(
            f"preset: expected one of {list(PRESETS)}, got {name!r}{suggest(str(name), PRESETS)}"
        )
    return PRESETS[name]


def _peak_memory(device: torch.device) -> int:
    """Bytes: the most that torch held on a GPU, elsewhere the process's resident set."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def _command(encoder: Any, options: dict[str, Any]) -> str:
    if not isinstance(encoder, str) or options.get("tasks", "") is None:
        return ""
    given = dict(options)
    defaults = {"integral": "exact", "center": 0.5, "thresholds": None, "backend": "auto", "average": "auto"}
    for key, value in defaults.items():
        if given[key] == value:
            given[key] = None
    return replay_command(encoder, given)
