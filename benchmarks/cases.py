"""The benchmark cases: what is compared with what, on which sizes, and the target of each ratio."""

from __future__ import annotations

import math
import subprocess
import sys
from collections.abc import Callable, Iterator

import cases_fleet
import cases_inheritance
import cases_minimax
import cases_report
import cases_statistics
import cases_structure
import torch
from harness import Case
from material import EPS, IMAGENET_MEAN, IMAGENET_STD, SmallEncoder, features
from torch import Tensor

from synbench_fast import _core
from synbench_fast.engine.score import score
from synbench_fast.ops.feature_stats import feature_stats
from synbench_fast.ops.filter_spectrum import filter_spectrum
from synbench_fast.ops.robust_solve import robust_solve
from synbench_fast.ops.sample_mixture import sample_mixture
from synbench_fast.ops.score_auc import score_auc
from synbench_fast.ops.score_sweep import score_sweep
from synbench_fast.stats.estimators import BUILT_IN, Sample
from synbench_fast.stats.point import CurvePoint
from synbench_fast.tasks.covariances import PowerRoot, root


def sampling(level: str) -> Case:
    """2 048 samples of 3x224x224 float32, batch by batch into one buffer, as an encoder would read them."""
    shape, batch, count, scale = (3, 224, 224), 64, 2048, 1.0
    x = torch.empty(batch, *shape)
    flat = x.view(batch, -1).numpy()
    y = (torch.arange(batch) % 2).to(torch.uint8).numpy()
    mean, std = (torch.tensor(v).view(3, 1, 1) for v in (IMAGENET_MEAN, IMAGENET_STD))
    signs = (2.0 * (torch.arange(batch) % 2) - 1).view(-1, 1, 1, 1)
    shift = 0.5 + signs * scale / math.sqrt(math.prod(shape))

    def ours() -> None:
        for start in range(0, count, batch):
            _core.sample_mixture(
                flat, y, type="float32", start=start, seed=0, stream=0, channels=3, pixels=224 * 224, center=0.5,
                scale=scale, mean=list(IMAGENET_MEAN), std=list(IMAGENET_STD), threads=torch.get_num_threads(),
                level=level,
            )  # fmt: skip

    def baseline() -> None:
        for _ in range(0, count, batch):
            x.normal_().add_(shift).sub_(mean).div_(std)

    def parity() -> tuple[float, float]:
        ours()
        expected, _ = sample_mixture(
            shape, count - batch, 2, scale=scale, seed=0, stream=0, mean=IMAGENET_MEAN, std=IMAGENET_STD,
            dtype=torch.float64, backend="torch",
        )  # fmt: skip
        return float((x[:2] - expected).abs().max()), 1e-5

    return Case(
        unit="element",
        work=count * math.prod(shape),
        parity=parity,
        ours=ours,
        baseline=baseline,
        baseline_name="torch normal_ + shift + normalise",
        target={"avx512": 5.0, "avx2": 2.0}.get(level),
        repeat=5,
        note=f"2048 x 3x224x224 float32 in batches of {batch}",
    )


class TorchStage:
    """The stage after the features in plain float64 torch: moments, eigh, Newton roots, matmul."""

    def __init__(self, x: Tensor, y: Tensor) -> None:
        wide = x.double()
        one, zero = wide[y == 1], wide[y == 0]
        mean1, mean0 = one.mean(0), zero.mean(0)
        self.m, self.c = (mean1 - mean0) / 2, (mean1 + mean0) / 2
        centered = torch.cat([one - mean1, zero - mean0])
        self.dof = len(x) - 2
        self.c0 = (1 / len(one) + 1 / len(zero)) / 4
        self.covariance = centered.T @ centered / self.dof
        self.d, self.u = torch.linalg.eigh(self.covariance)

    def paper(self, test_x: Tensor, test_y: Tensor) -> tuple[Tensor, Tensor]:
        keep = self.d > 1e-6
        d, u = self.d[keep], self.u[:, keep]
        a = u.T @ self.m
        target = torch.tensor(EPS, dtype=torch.float64).square() * a.square().sum()
        g = torch.full((len(EPS), 1), float(d.mean()), dtype=torch.float64).log()
        for _ in range(60):  # Newton in log g
            ratio = g.exp() / (d + g.exp())
            square = (a * ratio).square()
            value, slope = square.sum(1), 2 * (square * (1 - ratio)).sum(1)
            step = ((value - target) / slope).clamp(-3, 3)
            step[0] = 0
            g -= step[:, None]
            if float(step.abs().max()) < 1e-14:
                break
        g = g.exp()
        g[0] = 0
        weights = (a / (d + g)) @ u.T
        margin = (test_x.double() - self.c) @ weights.T
        correct = (margin > 0) == (test_y == 1)[:, None]
        bound = torch.where(correct, margin.abs() / (weights @ self.m), torch.nan)
        return correct.double().mean(0), bound.view(-1, 256, len(EPS)).nanmean(1).mean(0)

    def consistent(self) -> Tensor:
        d, nu, c0 = self.d, self.dof, self.c0
        a2 = (self.u.T @ self.m).square()
        norm = a2.sum() - c0 * d.sum()

        def terms(g: Tensor) -> tuple[Tensor, Tensor, Tensor]:
            r = 1 / (d + g)
            s1, s2 = (a2 * r).sum(1), (a2 * r * r).sum(1)
            df, df2 = (d * r).sum(1), (d * r * r).sum(1)
            rho = 1 - df / nu
            kappa = g[:, 0] / rho
            f = rho * s1 - c0 * df
            slope = (df2 / nu * s1 - rho * s2 + c0 * df2) / (1 / rho - g[:, 0] * df2 / nu / rho**2)
            return kappa, f, slope

        low = torch.full((len(EPS), 1), 1e-9 * float(d[-1]), dtype=torch.float64)
        high = torch.full_like(low, 1e3 * float(d[-1]))
        target = torch.tensor(EPS, dtype=torch.float64).square() * norm
        for _ in range(60):
            g = (low * high).sqrt()
            kappa, _, slope = terms(g)
            below = (-(kappa**2) * slope < target)[:, None]
            low, high = torch.where(below, g, low), torch.where(below, high, g)
        g[0] = 0
        kappa, f, slope = terms(g)
        return f / (f + kappa * slope).sqrt()


def paper_stage(n: int, f: int, target: float) -> Case:
    """Train moments, 16 robust classifiers, and the sweep over the test half, all of one scale."""
    train, test = features(n, f, 2), features(n, f, 3)

    def point() -> CurvePoint:
        return BUILT_IN["paper"].point(feature_stats(*train), EPS, test=Sample(*test))

    def baseline() -> None:
        TorchStage(*train).paper(*test)

    def parity() -> tuple[float, float]:
        found = point()
        accuracy, bound = TorchStage(*train).paper(*test)
        error = (torch.from_numpy(found.bound) - bound).abs().max() + (
            torch.from_numpy(found.accuracy) - accuracy
        ).abs().max()
        return float(error), 1e-6

    return Case(
        unit="scale",
        work=1,
        parity=parity,
        ours=point,
        baseline=baseline,
        baseline_name="torch float64 eigh + Newton root + matmul",
        target=target,
        repeat=9 if f < 1000 else 5,
        note="16 eps, moments of the train half and sweep of the test half included",
    )


def consistent_stage(n: int, f: int, target: float) -> Case:
    """Train moments and the consistent estimate at 16 budgets of one scale, with all that a run keeps of it."""
    train = features(n, f, 2)

    def point() -> CurvePoint:
        return BUILT_IN["consistent"].point(feature_stats(*train), EPS, sample=Sample(*train))

    def parity() -> tuple[float, float]:
        t = torch.from_numpy(point().t)
        return float((t - TorchStage(*train).consistent()).abs().max()), 1e-7

    return Case(
        unit="scale",
        work=1,
        parity=parity,
        ours=point,
        baseline=lambda: TorchStage(*train).consistent(),
        baseline_name="torch float64 eigh + bisection (t alone: no counts, no standard errors)",
        target=target,
        repeat=9 if f < 1000 else 5,
        note="16 eps; ours includes left-out margins, their counts and influences, errors, and both halves of the samples",
    )


def solve(f: int) -> Case:
    """The classifiers alone, from given moments."""
    stats = feature_stats(*features(2 * f, f, 2))
    m, covariance, eps = stats.half_difference, stats.covariance, torch.tensor(EPS, dtype=torch.float64)

    def run(backend: str) -> Callable[[], object]:
        return lambda: robust_solve(m, covariance, eps, moments="known", dof=stats.dof, backend=backend)

    def parity() -> tuple[float, float]:
        a, b = run("cpp")(), run("torch")()
        return float((a.weights - b.weights).abs().max() / b.weights.abs().max()), 1e-9  # type: ignore[attr-defined]

    return Case(
        unit="scale",
        work=1,
        parity=parity,
        ours=run("cpp"),
        baseline=run("torch"),
        baseline_name="torch specification",
        repeat=7 if f < 1000 else 3,
        note="16 eps, weights included",
    )


def sweep(n: int, f: int) -> Case:
    x, y = features(n, f, 3)
    generator = torch.Generator().manual_seed(4)
    weights = torch.randn(16, f, generator=generator, dtype=torch.float64)
    rest = {
        "center": torch.zeros(f, dtype=torch.float64),
        "signal": torch.ones(16, dtype=torch.float64),
        "robust_margin": torch.full((16,), 0.1, dtype=torch.float64),
    }

    def run(backend: str) -> Callable[[], object]:
        return lambda: score_sweep(x, y, weights, **rest, backend=backend)

    def parity() -> tuple[float, float]:
        a, b = run("cpp")(), run("torch")()
        return float((a.bound - b.bound).abs().max()), 1e-10  # type: ignore[attr-defined]

    return Case(
        unit="sample x eps",
        work=16 * n,
        parity=parity,
        ours=run("cpp"),
        baseline=run("torch"),
        baseline_name="torch specification",
        note="16 eps",
    )


def spectrum(count: int, side: int) -> Case:
    """Coloured noise of a batch of images, against torch's transforms of real arrays in the same dtype."""
    shape = (3, side, side)
    gain = filter_of(shape)
    x = torch.randn(count, *shape, generator=torch.Generator().manual_seed(6))

    def run(backend: str) -> Callable[[], Tensor]:
        def filtered() -> Tensor:
            z = x.clone()
            filter_spectrum(z, gain, backend=backend)
            return z

        return filtered

    return Case(
        unit="element",
        work=x.numel(),
        parity=lambda: (float((run("cpp")() - run("torch")()).abs().max()), 1e-4),
        ours=run("cpp"),
        baseline=run("fft"),
        baseline_name="torch.fft in float32",
        repeat=5,
        note=f"{count} x 3x{side}x{side}, power:2",
    )


def filter_of(shape: tuple[int, ...]) -> Tensor:
    made = root("power:2", shape)
    assert isinstance(made, PowerRoot)
    return made.gain


def auc() -> Case:
    generator = torch.Generator().manual_seed(5)
    accuracy = 0.5 + 0.5 * torch.rand(16 * 1000, 49, generator=generator, dtype=torch.float64)
    bound = 1 + torch.rand(16 * 1000, 49, generator=generator, dtype=torch.float64)
    thresholds = torch.tensor([0.6, 0.65, 0.7, 0.75, 0.8, 0.85, 0.9, 0.95, 0.99], dtype=torch.float64)

    def run(backend: str) -> Callable[[], Tensor]:
        return lambda: score_auc(accuracy, bound, thresholds, backend=backend)

    return Case(
        unit="replicate",
        work=16_000,
        parity=lambda: (float((run("cpp")() - run("torch")()).abs().max()), 1e-12),
        ours=run("cpp"),
        baseline=run("torch"),
        baseline_name="torch specification",
        note="49 scales, 9 thresholds",
    )


def whole_run() -> Case:
    """score() of a small encoder against its forward passes alone, same images, same batch size."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        encoder = SmallEncoder().eval()
    shape, samples, scales, batch = (3, 160, 160), 1024, 4, 64
    images = samples * scales
    resident = torch.randn(batch, *shape)

    def ours() -> float:
        result = score(
            encoder, input_shape=shape, scales=scales, samples=samples, batch_size=batch,
            mean=IMAGENET_MEAN, std=IMAGENET_STD,
        )  # fmt: skip
        return result.cost.seconds["total"] - result.cost.seconds["load"]

    def baseline() -> None:
        with torch.inference_mode():
            for _ in range(0, images, batch):
                encoder(resident)

    def parity() -> tuple[float, float]:
        one = score(encoder, input_shape=shape, scales=(2.0,), samples=1024, batch_size=batch)
        two = score(encoder, input_shape=shape, scales=(2.0,), samples=1024, batch_size=48)
        return abs(one.curve[0].t - two.curve[0].t), 1e-3

    return Case(
        unit="image",
        work=images,
        parity=parity,
        ours=ours,
        baseline=baseline,
        baseline_name="forward passes alone on resident data",
        target=1.15,
        kind="at_most",
        repeat=5,
        note=f"{scales} scales x {samples} images of 3x160x160, batches of {batch}, F = 160, loading left out",
    )


# The peak is counted from after the first scale of a first, smallest run: imports and thread stacks come before.
MEMORY_PROGRAM = """
import sys, torch
from synbench_fast.engine.score import score

def encoder(x):
    flat = x.flatten(1)
    return flat[:, :: flat.shape[1] // 256][:, :256]

def run(side, scales, samples):
    score(encoder, input_shape=(3, side, side), scales=scales, samples=samples, eps=(0, 0.2), batch_size=16)

def status(field):
    with open("/proc/self/status") as lines:
        return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(field))

run(16, 2, 600)
before = status("VmRSS")
with open("/proc/self/clear_refs", "w") as control:
    control.write("5")
run(*map(int, sys.argv[1:]))
print(status("VmHWM") - before)
"""


def peak_memory(side: int, scales: int, samples: int) -> int:
    """Peak resident bytes that scoring a 256-feature encoder adds to a warm process (Linux)."""
    done = subprocess.run(
        [sys.executable, "-c", MEMORY_PROGRAM, str(side), str(scales), str(samples)],
        check=True, capture_output=True, text=True,
    )  # fmt: skip
    return int(done.stdout)


def memory() -> Iterator[tuple[str, int, int]]:
    """(what, bytes of growth, allowed bytes): what must be stored, and 16 MiB of chunks and allocator slack."""
    if not sys.platform.startswith("linux"):
        return
    slack = 16 << 20
    base = peak_memory(64, 4, 1024)
    yield "4 -> 24 scales", peak_memory(64, 24, 1024) - base, slack
    stored = (16_384 - 1024) * 256 * 4
    yield "1 024 -> 16 384 samples", peak_memory(64, 4, 16_384) - base, stored + slack
    # 16 float32 images of 3x512x512 are 50 MB; N x D would be 3.2 GB, D x D 2.5 TB.
    inputs = 16 * 3 * (512**2 - 64**2) * 4
    yield "3x64x64 -> 3x512x512 input", peak_memory(512, 2, 1024) - base, inputs + slack


def cases() -> dict[str, Callable[[], Case]]:
    """Everything but memory by name, built lazily: some cases hold large tensors."""
    return {
        **{
            f"sample_mixture[{level}]": (lambda level=level: sampling(level))  # type: ignore[misc]
            for level in reversed(_core.simd_levels())
        },
        "post_features_paper[N=2048,F=768]": lambda: paper_stage(2048, 768, 2.0),
        "post_features_consistent[N=2048,F=768]": lambda: consistent_stage(2048, 768, 2.0),
        "post_features_paper[N=2048,F=2048]": lambda: paper_stage(2048, 2048, 2.0),
        "post_features_consistent[N=4096,F=2048]": lambda: consistent_stage(4096, 2048, 2.0),
        "whole_run[160x160]": whole_run,
        "robust_solve[F=768]": lambda: solve(768),
        "score_sweep[N=2048,F=768]": lambda: sweep(2048, 768),
        "score_auc[16 000 replicates]": auc,
        "filter_spectrum[3x224x224]": lambda: spectrum(64, 224),
        **cases_fleet.cases(),
        **cases_statistics.cases(),
        **cases_structure.cases(),
        **cases_inheritance.cases(),
        **cases_minimax.cases(),
        **cases_report.cases(),
    }
