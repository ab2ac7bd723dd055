"""The benchmark cases of an NVIDIA GPU, each beside its ceiling; every one also runs small on a CPU, as a test."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from harness import Case
from material import EPS, IMAGENET_MEAN, IMAGENET_STD, features
from torch import Tensor, nn

from synbench_fast.encoders import load_encoder
from synbench_fast.engine.score import score
from synbench_fast.engine.structure import BATCH, structure_score
from synbench_fast.ops.feature_stats import feature_stats
from synbench_fast.ops.robust_solve import Enqueued, enqueue
from synbench_fast.ops.sample_mixture import Mixture, sample_mixture
from synbench_fast.ops.score_auc import score_auc
from synbench_fast.ops.score_sweep import score_sweep
from synbench_fast.stats.discriminant import class_accuracy
from synbench_fast.tasks.families import FAMILIES
from synbench_fast.tasks.structure import STRUCTURE

Run = Callable[[], Any]
GPU = torch.device("cuda")
MINIMUM_SECONDS = 0.02  # of one timing: short kernels are repeated


def timed(device: torch.device, run: Run) -> Run:
    """`run` as a function that returns the seconds of one execution, by the device's own clock."""
    if device.type != "cuda":
        return run

    def once(repeat: int) -> float:
        begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        begin.record()
        for _ in range(repeat):
            run()
        end.record()
        end.synchronize()
        return begin.elapsed_time(end) / 1e3 / repeat

    def seconds() -> float:
        first = once(1)
        return once(math.ceil(MINIMUM_SECONDS / first)) if first < MINIMUM_SECONDS else first

    return seconds


def sampling_arguments(
    device: torch.device, batch: int, side: int, dtype: torch.dtype, last: bool
) -> dict[str, Any]:
    shape = (3, side, side)
    layout = torch.channels_last if last else torch.contiguous_format
    return {
        "shape": shape,
        "start": 0,
        "count": batch,
        "scale": 1.0,
        "seed": 0,
        "stream": 0,
        "mean": IMAGENET_MEAN,
        "std": IMAGENET_STD,
        "dtype": dtype,
        "channels_last": last,
        "device": device,
        "out": torch.empty((batch, *shape), dtype=dtype, device=device, memory_format=layout),
    }


def sampling_parity(arguments: dict[str, Any]) -> tuple[float, float]:
    x, _ = sample_mixture(**arguments)
    wanted = {
        **arguments,
        "out": None,
        "count": 2,
        "dtype": torch.float64,
        "channels_last": False,
        "device": "cpu",
    }
    expected, _ = sample_mixture(**wanted, backend="torch")
    error = (x[:2].double().cpu() - expected).abs().max()
    return float(error), 8 * torch.finfo(arguments["dtype"]).eps + 1e-5


def sampling(device: torch.device, batch: int = 512, side: int = 224, *, last: bool = False) -> Case:
    """bf16 images against what a script does."""
    arguments = sampling_arguments(device, batch, side, torch.bfloat16, last)
    mean, std = (torch.tensor(v, device=device).view(3, 1, 1) for v in (IMAGENET_MEAN, IMAGENET_STD))
    signs = (2.0 * (torch.arange(batch, device=device) % 2) - 1).view(-1, 1, 1, 1)
    shift = 0.5 + signs / math.sqrt(3 * side * side)
    out = arguments["out"]

    def baseline() -> None:
        out.copy_((torch.randn(batch, 3, side, side, device=device) + shift - mean) / std)

    return Case(
        unit="element",
        work=out.numel(),
        parity=lambda: sampling_parity(arguments),
        ours=timed(device, lambda: sample_mixture(**arguments)),
        baseline=timed(device, baseline),
        baseline_name="torch.randn + shift + normalise + cast",
        target=4.0,
        note=f"{batch} x 3x{side}x{side}",
    )


def sampling_ceiling(device: torch.device, batch: int = 512, side: int = 224) -> Case:
    """bf16 images against the slower of writing them at copy speed and of making the normals at all."""
    arguments = sampling_arguments(device, batch, side, torch.bfloat16, False)
    # A copy reads and writes: half of the image's bytes make as much traffic as writing the image.
    source = torch.empty(arguments["out"].numel() // 2, dtype=torch.bfloat16, device=device).normal_()
    target = torch.empty_like(source)
    copy = timed(device, lambda: target.copy_(source))
    make = timed(device, lambda: sample_mixture_only(arguments))

    def baseline() -> float | None:
        slowest = [copy(), make()] if device.type == "cuda" else [copy()]
        return max(s for s in slowest if s is not None) if device.type == "cuda" else None

    return Case(
        unit="element",
        work=arguments["out"].numel(),
        parity=lambda: sampling_parity(arguments),
        ours=timed(device, lambda: sample_mixture(**arguments)),
        baseline=baseline,
        baseline_name="ceiling: slower of copy bandwidth and the normals without their store",
        target=0.8,
        note=f"{batch} x 3x{side}x{side}",
    )


def sample_mixture_only(arguments: dict[str, Any]) -> None:
    """The arithmetic of the kernel without its stores."""
    from synbench_fast.ops.sample_mixture_triton import start

    out = arguments["out"]
    y = torch.zeros(len(out), dtype=torch.uint8, device=out.device)
    call = Mixture(
        out, y, 0, arguments["scale"], arguments["seed"], arguments["stream"], 0.5, None,
        list(arguments["mean"]), list(arguments["std"]), arguments["channels_last"], 0, 0,
    )  # fmt: skip
    start(call, store=False)


class Scales:
    """Moments and test features of several scales, as a finished run has them on the device."""

    def __init__(self, device: torch.device, count: int, n: int, f: int) -> None:
        self.device, self.n = device, n
        train = [features(n, f, 10 + s) for s in range(min(count, 4))]
        self.test = torch.stack([train[(s + 1) % len(train)][0] for s in range(count)]).to(device)
        self.y = train[0][1].to(device)
        self.count = (n - int(self.y.sum()), int(self.y.sum()))
        stats = [feature_stats(x.to(device), self.y, count=self.count) for x, _ in train]
        chosen = [stats[s % len(stats)] for s in range(count)]
        self.m = torch.stack([one.half_difference for one in chosen])
        self.covariance = torch.stack([one.covariance for one in chosen])
        self.center = torch.stack([one.midpoint for one in chosen])
        self.dof, self.c0 = chosen[0].dof, chosen[0].c0
        self.eps = torch.tensor(EPS, dtype=torch.float64, device=device)
        self.thresholds = torch.tensor([0.6, 0.7, 0.8, 0.9, 0.99], dtype=torch.float64)

    def run(self, backend: str) -> tuple[Tensor, Tensor]:
        """Accuracy and bound [S, E], and what the score makes of them, scale by scale as a run has them."""
        accuracy, bound = [], []
        for s in range(len(self.m)):
            one = enqueue(
                self.m[s], self.covariance[s], self.eps, moments="known", dof=self.dof, weights=True, backend=backend
            )  # fmt: skip
            margin = self.eps * one.mean_norm * one.weights.norm(dim=1)
            totals = score_sweep(
                self.test[s], self.y, one.weights, self.center[s], signal=one.signal, robust_margin=margin,
                count=self.count, backend=backend,
            )  # fmt: skip
            accuracy.append(totals.accuracy)
            bound.append(totals.grouped_bound)
        return self._score(accuracy, bound, backend)

    def _score(self, accuracy: list[Tensor], bound: list[Tensor], backend: str) -> tuple[Tensor, Tensor]:
        a, b = torch.stack(accuracy), torch.stack(bound)
        return a, score_auc(a.T, b.T, self.thresholds, backend=backend)


def after_features(device: torch.device, count: int = 49, n: int = 2048, f: int = 768) -> Case:
    """robust_solve, score_sweep and score_auc of all scales against the specification on the same device."""
    scales = Scales(device, count, n, f)

    def parity() -> tuple[float, float]:
        (a, area), (b, expected) = scales.run("cuda"), scales.run("torch")
        return float((a - b).abs().max() + (area - expected).abs().max()), 1e-6

    return Case(
        unit="scale",
        work=count,
        parity=parity,
        ours=timed(device, lambda: scales.run("cuda")),
        baseline=timed(device, lambda: scales.run("torch")),
        baseline_name="torch specification on the same device",
        target=10.0,
        repeat=3,
        note="16 eps",
    )


def solving(device: torch.device, f: int) -> Case:
    """One scale of robust_solve, as the pipeline runs it beside the next scale, against eigh alone."""
    scales = Scales(device, 1, 2 * f + 4, f)

    def run(backend: str) -> Enqueued:
        return enqueue(
            scales.m[0], scales.covariance[0], scales.eps, moments="sampled", dof=scales.dof, c0=scales.c0,
            weights=False, backend=backend,
        )  # fmt: skip

    def parity() -> tuple[float, float]:
        one, two = (run(backend).solution() for backend in ("torch", "cuda"))
        return float((one.t.cpu() - two.t).abs().max()), 1e-9

    return Case(
        unit="scale",
        work=1,
        parity=parity,
        ours=timed(device, lambda: run("cuda")),
        baseline=timed(device, lambda: torch.linalg.eigh(scales.covariance[0])),
        baseline_name="torch.linalg.eigh alone",
        repeat=3,
        note="consistent, 16 eps",
    )


def moments(device: torch.device, n: int = 2048, f: int = 768) -> Case:
    """feature_stats in float64 of features with mean 1e3 and unit variance."""
    x, y = features(n, f, 1)
    x, y = (x + 1e3).to(device), y.to(device)
    count = (n - int(y.sum()), int(y.sum()))

    def run(backend: str) -> Callable[[], Any]:
        return lambda: feature_stats(x, y, count=count, backend=backend)

    def parity() -> tuple[float, float]:
        one, two = run("auto")().scatter, run("torch")().scatter
        return float((one - two).abs().max() / two.abs().max()), 1e-12

    return Case(
        unit="scale",
        work=1,
        parity=parity,
        ours=timed(device, run("auto")),
        baseline=timed(device, run("torch")),
        baseline_name="torch specification on the same device",
        repeat=5,
    )


def forward_seconds(module: nn.Module, x: Tensor, images: int) -> float:
    """Seconds of `images` images through a compiled module, over and over the same resident batch."""
    with torch.inference_mode():
        for _ in range(3):
            module(x)
        begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        begin.record()
        for _ in range(0, images, len(x)):
            module(x)
        end.record()
        end.synchronize()
    return begin.elapsed_time(end) / 1e3


def forward_parity(
    model: str, device: torch.device = GPU, dtype: torch.dtype = torch.bfloat16, count: int = 8
) -> tuple[float, float]:
    """Features of a few samples on the device, in the dtype that is timed, against the CPU's in float32.

    The rounding of bfloat16 alone makes 0.013 for ViT-B/16 and 0.003 for ResNet-18, on a CPU.
    """

    def run(device: torch.device, dtype: torch.dtype) -> Tensor:
        encoder = load_encoder(model, random_init=True, device=device, dtype=dtype)
        x, _ = sample_mixture(
            encoder.info.input_shape, 0, count, scale=2.0, seed=0, stream=0, mean=encoder.info.mean,
            std=encoder.info.std, dtype=dtype, device=device,
        )  # fmt: skip
        with torch.inference_mode():
            return encoder(x).double().cpu()

    here, there = run(torch.device("cpu"), torch.float32), run(device, dtype)
    return float((there - here).norm() / here.norm()), 0.05


def whole_run(model: str, target: float) -> Case:
    """The published protocol's 49 x (2 048 + 2 048) images: all that is not the forward pass, as a share of the run."""
    options: dict[str, Any] = {
        "random_init": True, "preset": "paper", "estimator": "paper", "eps": EPS, "device": "cuda", "dtype": "bf16",
    }  # fmt: skip
    found: dict[str, Any] = {}

    def ours() -> float:
        found["result"] = score(model, **options)
        seconds = found["result"].cost.seconds
        return float(seconds["total"] - seconds["load"])

    def baseline() -> float:
        cost = found["result"].cost
        encoder = load_encoder(model, random_init=True, device=GPU, dtype=torch.bfloat16)
        x = torch.randn(cost.batch_size, *encoder.info.input_shape, device=GPU).bfloat16()
        compiled = torch.compile(encoder.module)
        return forward_seconds(compiled, x, cost.images)

    return Case(
        unit="image",
        work=49 * 4096,
        parity=lambda: forward_parity(model),
        ours=ours,
        baseline=baseline,
        baseline_name="torch.compile'd bf16 forward passes alone on resident data, same batch size",
        target=target,
        kind="at_most",
        repeat=1,
        note="published protocol, 16 eps, loading left out",
    )


def of_peak(model: str, size: int = 8192) -> Case:
    """Forward FLOPs per second of a scored encoder against a large bf16 matrix product."""
    from torch.utils.flop_counter import FlopCounterMode

    encoder = load_encoder(model, random_init=True, device=GPU, dtype=torch.bfloat16)
    with torch.inference_mode(), FlopCounterMode(display=False) as counter:
        encoder(torch.zeros(1, *encoder.info.input_shape, device=GPU, dtype=torch.bfloat16))
    flops = counter.get_total_flops()
    left, right = (torch.randn(size, size, device=GPU).bfloat16() for _ in range(2))
    product = timed(GPU, lambda: left @ right)
    images = 12 * 2048

    def ours() -> float:
        result = score(
            model, random_init=True, scales=12, samples=2048, eps=(0.0,), device="cuda", dtype="bf16"
        )
        return images * flops / result.cost.seconds["encode"]

    # As seconds per FLOP both ways, so that the ratio of the harness is the share of the peak.
    return Case(
        unit="FLOP",
        work=1,
        parity=lambda: forward_parity(model),
        ours=lambda: 1 / ours(),
        baseline=lambda: product() / (2 * size**3),
        baseline_name=f"bf16 {size}^3 matrix product",
        target=0.4,
        repeat=3,
        note=f"{flops / 1e9:.1f} GFLOP per image; seconds are per FLOP",
    )


def seconds_of(model: str, limit: float, repeat: int = 3, **options: Any) -> Case:
    """Seconds of a whole scoring run after loading, against a limit."""

    def ours() -> float:
        seconds = score(model, random_init=True, device="cuda", **options).cost.seconds
        return float(seconds["total"] - seconds["load"])

    return Case(
        unit="run",
        work=1,
        parity=lambda: forward_parity(model),
        ours=ours,
        baseline=lambda: limit,
        baseline_name="the limit",
        target=1.0,
        repeat=repeat,
        note="loading left out",
    )


# Microseconds per image, predicted for an H200: NumPy's part as measured on a CPU, and 8 for launches and copies. The kernels
# run beside it, 1 us for strokes and views and 6 us for transforms by their instructions and bytes.
PREDICTED = {
    "texture": 14, "shift": 18, "shapes": 26, "instances": 17, "relations": 24, "count": 23, "symmetry": 30,
}  # fmt: skip


def family_images(
    device: torch.device, name: str, count: int = 26, side: int = 224, *, backend: str = "auto"
) -> Case:
    """Images of one class, as many as a block of the structure score has, beside an encoder of 1 ms per image."""
    drawn, shape, repeat = FAMILIES[name](), (3, side, side), 8
    out = torch.empty((count, *shape), device=device)

    def run() -> None:
        drawn.draw(shape, 0, 1, 0, count, out, device=device, backend=backend)

    def ours() -> float:
        """By the host's clock, which sees what NumPy computes; several calls, so that they overlap as in a run."""
        begun = time.perf_counter()
        for _ in range(repeat):
            run()
        wait(device)
        return (time.perf_counter() - begun) / repeat

    def parity() -> tuple[float, float]:
        run()
        return float((out.cpu() - drawn.draw(shape, 0, 1, 0, count)).abs().max()), 0.0

    return Case(
        unit="image",
        work=count,
        parity=parity,
        ours=ours,
        baseline=lambda: count * 1e-3,
        baseline_name="an encoder of 1 ms per image",
        target=0.05,
        kind="at_most",
        note=f"{count} x 3x{side}x{side}, the bits of the CPU; {PREDICTED[name]} us per image predicted",
    )


def classes_of(device: torch.device, classes: int = 20, each: int = 26, f: int = 768) -> Case:
    """The discriminant of a block of the structure score where its features are, against a copy to the CPU."""
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(classes).repeat_interleave(each)
    x = (
        torch.randn(len(labels), f, generator=generator)
        + torch.randn(classes, f, generator=generator)[labels]
    )
    there, own = x.to(device), labels.to(device)

    def parity() -> tuple[float, float]:
        one, two = class_accuracy(there, own), class_accuracy(x, labels)
        return abs(one.accuracy - two.accuracy) + abs(one.stderr - two.stderr), 1e-9

    return Case(
        unit="block",
        work=1,
        parity=parity,
        ours=lambda: class_accuracy(there, own),
        baseline=lambda: class_accuracy(there.cpu(), labels),
        baseline_name="a copy of the features, and the discriminant on the CPU",
        repeat=5,
        note=f"K={classes}, {each} samples each, F={f}",
    )


def structure_run(model: str, target: float) -> Case:
    """The whole structure score at `standard` beside its forward passes alone."""
    options: dict[str, Any] = {"random_init": True, "preset": "standard", "device": "cuda", "dtype": "bf16"}
    encoder = load_encoder(model, random_init=True, device=GPU, dtype=torch.bfloat16)
    x = torch.randn(BATCH, *encoder.info.input_shape, device=GPU).bfloat16()
    return Case(
        unit="image",
        work=STRUCTURE.size("standard"),
        parity=lambda: forward_parity(model),
        ours=lambda: structure_score(model, **options).seconds,
        baseline=lambda: forward_seconds(encoder.module, x, STRUCTURE.size("standard")),
        baseline_name="bf16 forward passes alone on resident data, same batch size",
        target=target,
        kind="at_most",
        repeat=2,
        note="loading left out",
    )


def wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def cases() -> dict[str, Callable[[], Case]]:
    """Cases of the first GPU by name; none where there is none."""
    if not torch.cuda.is_available():
        return {}
    vit, tiny, resnet = "timm:vit_base_patch16_224", "timm:vit_tiny_patch16_224", "timm:resnet18"
    return {
        "cuda/sample_mixture[bf16,contiguous]": lambda: sampling(GPU),
        "cuda/sample_mixture[bf16,channels_last]": lambda: sampling(GPU, last=True),
        "cuda/sample_mixture[bf16,of ceiling]": lambda: sampling_ceiling(GPU),
        "cuda/feature_stats[N=2048,F=768]": lambda: moments(GPU),
        "cuda/robust_solve[F=768]": lambda: solving(GPU, 768),
        "cuda/robust_solve[F=2048]": lambda: solving(GPU, 2048),
        "cuda/after_features[S=49,N=2048,F=768]": lambda: after_features(GPU),
        **{f"cuda/images[{name}]": partial(family_images, GPU, name) for name in FAMILIES},
        "cuda/classes[K=20,n=26,F=768]": lambda: classes_of(GPU),
        "cuda/structure[ViT-B/16]": lambda: structure_run(vit, 1.15),
        "cuda/of_peak[ViT-B/16]": lambda: of_peak(vit),
        "cuda/seconds[ViT-B/16,quick]": lambda: seconds_of(vit, 3.0, preset="quick"),
        "cuda/seconds[ViT-B/16,published]": lambda: seconds_of(
            vit, 30.0, repeat=1, preset="paper", estimator="paper"
        ),
        "cuda/whole_run[ViT-B/16]": lambda: whole_run(vit, 1.05),
        "cuda/whole_run[ViT-Ti/16]": lambda: whole_run(tiny, 1.15),
        "cuda/whole_run[ResNet-18]": lambda: whole_run(resnet, 1.15),
    }
