"""Do 95 % intervals of K classes, and of the structure score, hold the truth in 95 % of the runs?

    python benchmarks/coverage_classes.py classes --runs 400      K classes by sb.evaluate_features
    python benchmarks/coverage_classes.py structure --runs 400    the structure score of cheap encoders

Each prints its table of docs/coverage.md. `classes`: the truth is the accuracy of the linear discriminant of 400 000 samples on
those samples. `structure`: the truth is the mean score of all runs, which the presets have in common.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable, Iterator
from itertools import product

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

import synbench_fast as sb

Array = NDArray[np.float64]
WIDTH = 60
RATIOS = (0.05, 0.2, 0.6)  # F/N
PRESETS = ("quick", "standard")
APART = 2.5  # root mean square distance of two class means, in deviations
TRUTH_SAMPLES, PART = 400_000, 20_000
FEATURES: dict[str, Callable[[Array], Array]] = {
    "Gaussian": lambda x: x,
    "ReLU": lambda x: np.maximum(x, 0),
    "lognormal": lambda x: np.exp(x),
    "gain exp(0.8 z)": lambda x: x * np.exp(0.8 * x[:, :1]),
}
MIXING = np.random.default_rng(1).standard_normal((WIDTH, WIDTH)) / math.sqrt(WIDTH)


def drawn(kind: str, classes: int, count: int, seed: int) -> tuple[Array, NDArray[np.int64]]:
    """Features [count, WIDTH] and labels of Gaussian classes behind a fixed linear map and the function of this name."""
    means = np.random.default_rng(0).standard_normal((classes, WIDTH)) * APART / math.sqrt(2 * WIDTH)
    y = np.arange(count) % classes
    noise = np.random.default_rng(seed).standard_normal((count, WIDTH))
    return FEATURES[kind]((means[y] + noise) @ MIXING), y


def truth(kind: str, classes: int) -> Array:
    """[3] accuracy of K classes, mean over pairs and worst pair, of the population's discriminant."""
    parts = TRUTH_SAMPLES // PART
    first, second = np.zeros((classes, WIDTH)), np.zeros((WIDTH, WIDTH))
    for part in range(parts):
        x, y = drawn(kind, classes, PART, 10**6 + part)
        first += np.stack([x[y == k].sum(0) for k in range(classes)])
        second += x.T @ x
    count = np.array([(np.arange(PART) % classes == k).sum() for k in range(classes)]) * float(parts)
    means = first / count[:, None]
    weights = np.linalg.inv((second - means.T @ (count[:, None] * means)) / TRUTH_SAMPLES) @ means.T
    right, pairs = np.zeros(classes), np.zeros((classes, classes))
    for part in range(parts):
        x, y = drawn(kind, classes, PART, 10**6 + part)
        score = x @ weights - np.einsum("kf,fk->k", means, weights) / 2
        own = score[np.arange(PART), y]
        right += np.bincount(y, score.argmax(1) == y, classes)
        pairs += np.stack([(own[y == k, None] > score[y == k]).sum(0) for k in range(classes)])
    pairs /= count[:, None]
    both = ((pairs + pairs.T) / 2)[np.triu_indices(classes, 1)]
    return np.array([(right / count).mean(), both.mean(), both.min()])


def text(value: Array, low: Array, high: Array, right: float) -> str:
    """A cell: coverage of the intervals that are not withheld, the share withheld, bias and root mean square error."""
    known = np.isfinite(low)
    off = value - right
    sizes = f"{off.mean():+.4f}, {np.sqrt(np.square(off).mean()):.4f}"
    if not known.any():
        return f"withheld ({sizes})"
    held = 100 * ((low <= right) & (right <= high))[known].mean()
    mark = "**" if held < 93 else "*" if held > 97 else ""
    share = "" if known.all() else f", {100 * (1 - known.mean()):.0f} % withheld"
    return f"{mark}{held:.1f}{mark}{share} ({sizes})"


def classes_rows(runs: int, numbers: list[int], estimator: str, only: str) -> Iterator[str]:
    yield "| features | K | F/N | accuracy | mean over pairs | worst pair |"
    yield "| --- | --- | --- | --- | --- | --- |"
    for kind, classes in product(FEATURES, numbers):
        if only not in kind:
            continue
        right = truth(kind, classes)
        for ratio in RATIOS:
            found = []
            for seed in range(runs):
                x, y = drawn(kind, classes, round(WIDTH / ratio), seed)
                one = sb.evaluate_features(x, y, estimator=estimator)
                assert isinstance(one, sb.MulticlassResult)
                found.append(
                    [
                        [one.accuracy, one.ci95_low, one.ci95_high],
                        [one.pair_accuracy, one.pair_ci95_low, one.pair_ci95_high],
                        [one.worst_pair.accuracy, one.worst_ci95_low, one.worst_ci95_high],
                    ]
                )
            cells = np.array(found)
            texts = [text(*cells[:, i].T, right[i]) for i in range(3)]
            yield f"| {kind} | {classes} | {ratio:g} | {' | '.join(texts)} |"


def encoders() -> dict[str, nn.Module]:
    """Encoders of images 3 x 16 x 16 with fixed random weights."""
    torch.manual_seed(0)

    def convolutional(width: int, grid: int) -> nn.Module:
        return nn.Sequential(
            nn.Conv2d(3, width, 3, 2, 1), nn.ReLU(), nn.Conv2d(width, 2 * width, 3, 2, 1), nn.ReLU(),
            nn.AdaptiveAvgPool2d(grid), nn.Flatten(),
        )  # fmt: skip

    return {
        "pixel blocks of 4 x 4": nn.Sequential(nn.AvgPool2d(4), nn.Flatten()),
        "projection to 128, ReLU": nn.Sequential(nn.Flatten(), nn.Linear(768, 128), nn.ReLU()),
        "projection to 1 024, ReLU": nn.Sequential(nn.Flatten(), nn.Linear(768, 1024), nn.ReLU()),
        "convolutions, mean over places": convolutional(32, 1),
        "convolutions, 4 x 4 places": convolutional(16, 4),
        "power in 24 filters": Power(),
    }


class Power(nn.Module):
    """Logarithm of the mean square of the image behind random filters: much of what tells textures apart."""

    def __init__(self) -> None:
        super().__init__()
        self.filters = nn.Conv2d(3, 24, 5, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.filters(x).square().mean((2, 3)).clamp_min(1e-12).log()


def structure_rows(runs: int, only: str) -> Iterator[str]:
    yield f"| encoder | score | {' | '.join(f'`{one}`' for one in PRESETS)} |"
    yield "| --- | --- |" + " --- |" * len(PRESETS)
    for name, encoder in encoders().items():
        if only not in name:
            continue
        found = []
        for preset, seed in product(PRESETS, range(runs)):
            # No image is in two runs: the seeds of the presets differ.
            seed += 100_000 * PRESETS.index(preset)
            one = sb.structure_score(encoder, input_shape=(3, 16, 16), preset=preset, seed=seed, device="cpu")
            found.append([one.score, one.ci95_low, one.ci95_high])
        cells = np.array(found).reshape(len(PRESETS), runs, 3)
        right = float(cells[..., 0].mean())
        yield f"| {name} | {right:.4f} | {' | '.join(text(*one.T, right) for one in cells)} |"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("what", choices=("classes", "structure"))
    parser.add_argument("--runs", type=int, default=400)
    parser.add_argument("--estimator", default="consistent", help="for classes")
    parser.add_argument("--classes", type=int, nargs="+", default=[3, 10, 20], help="numbers of classes")
    parser.add_argument(
        "--features", default="", help="for classes: part of the name of the features; default all"
    )
    parser.add_argument(
        "--encoder", default="", help="for structure: part of the name of the encoder; default all"
    )
    options = parser.parse_args()
    torch.set_num_threads(1)
    if options.what == "classes":
        rows = classes_rows(options.runs, options.classes, options.estimator, options.features)
    else:
        rows = structure_rows(options.runs, options.encoder)
    for row in rows:
        print(row, flush=True)


if __name__ == "__main__":
    main()
