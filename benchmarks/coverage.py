"""Do 95 % intervals hold the truth in 95 % of the runs? Scores of encoders whose truth is known by large simulation.

    python benchmarks/coverage.py --runs 400 --out rows.jsonl        every run, cheapest setting first, resumable
    python benchmarks/coverage.py --summary rows.jsonl               one row per encoder and setting, to be stored
    python benchmarks/coverage.py --table benchmarks/results/coverage.jsonl      the tables of docs/coverage.md
    python benchmarks/coverage.py --estimators --runs 30             errors of the estimators at one scale

The truth of a score: at each of 24 scales the population's means, covariance, classifier, accuracy and reach from 200 000
samples, interpolated to the published 49 scales. A run is `synbench_fast.score` of one seed.
"""

from __future__ import annotations

import argparse
import json
import math
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

import synbench_fast as sb

D = 64
EPS = (0.0, 0.2, 0.5)
THRESHOLDS = (0.6, 0.9)
SETTINGS: dict[str, dict[str, Any]] = {
    "quick": {"preset": "quick"},
    "standard": {"preset": "standard"},
    "half-width": {"preset": "quick", "half_width": 0.02},
}
TRUTH_SAMPLES = 200_000
TRUTH_SCALES = np.round(4.9 * np.arange(1, 25) / 24, 4)
PUBLISHED = np.round(4.9 * np.arange(1, 50) / 49, 4)
NODES, WEIGHTS = (
    (one + shift) / 2 for one, shift in zip(np.polynomial.legendre.leggauss(8), (1, 0), strict=True)
)
U = torch.ones(D) / math.sqrt(D)
Encoder = Callable[[Tensor], Tensor]


def normal(*shape: int, seed: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)) / math.sqrt(shape[0])


def encoders() -> dict[str, Encoder]:
    """Encoders of inputs [B, 64], the centre taken off: what real ones do, one at a time."""
    w48, other = normal(D, 48, seed=1), normal(D, 64, seed=1)
    v = normal(D, 1, seed=7)[:, 0]
    v = v - (v @ U) * U
    v = v / v.norm()
    rotation = torch.linalg.qr(normal(D, D, seed=11))[0]
    rest = torch.eye(D) - torch.outer(U, U)
    decay = torch.arange(1, 49).float()

    def centred(f: Encoder) -> Encoder:
        return lambda x: f(x.flatten(1) - 0.5)

    def quantised(x: Tensor, bits: Tensor) -> Tensor:
        return nn.functional.one_hot((x @ bits).argmax(1), bits.shape[1]).float()

    found: dict[str, Encoder] = {
        "linear": lambda x: x @ rotation[:, :48],
        "steep (variances i^-1.5)": lambda x: (x @ rotation[:, :48]) * decay**-0.75,
        "steep (variances i^-2)": lambda x: (x @ rotation[:, :48]) * decay**-1.0,
        "ReLU": lambda x: torch.relu(x @ other),
        "sparse ReLU, F = 16": lambda x: torch.relu(x @ other[:, :16] - 1.7),
        "sparse ReLU, F = 64": lambda x: torch.relu(x @ other - 1.7),
        "lognormal": lambda x: torch.exp(x @ other[:, :32]),
        "gain exp(0.8 z)": lambda x: (x @ w48) * torch.exp(0.8 * x @ v)[:, None],
        "gated": lambda x: (x @ w48) * (0.1 + torch.sigmoid(4 * x @ U))[:, None],
        "softmax": lambda x: torch.softmax(4 * (x @ other[:, :32]), 1),
        "L2-normalised": lambda x: nn.functional.normalize((x + 0.5) @ w48, dim=1),
        "VQ, 32 codes": lambda x: quantised(x, other[:, :32]),
        "saturating": lambda x: torch.tanh(3 * x @ other),
        "two levels": lambda x: torch.cat(
            [
                torch.sigmoid(8 * (x @ U - 2))[:, None],
                torch.sigmoid(8 * (x @ U + 2))[:, None],
                0.1 * (x @ rest)[:, :8],
            ],
            1,
        ),
        "dead zone": lambda x: torch.cat(
            [torch.relu(x @ U - 3)[:, None] + 0.05 * x[:, :1], 0.3 * (x @ rest)[:, :16]], 1
        ),
        "two clusters": lambda x: (
            x @ other[:, :32] + 6 * torch.sign(x @ v + 0.5 * x @ U)[:, None] * other[:1, :32]
        ),
        "quadratic": lambda x: ((x + 0.5) @ other) ** 2,
        "uint8": lambda x: torch.round((x + 0.5).clamp(0, 1) * 255) / 255 @ w48,
        "useless": lambda x: (x @ rest) @ w48,
        "ReLU, F = 115": lambda x: torch.relu(x @ normal(D, 115, seed=3)),
        "convolutions, averaged": convolutional(averaged=True),
        "convolutions, projected": convolutional(averaged=False),
        "transformer, averaged": transformer(48, averaged=True),
        "transformer, first token": transformer(32, averaged=False),
    }
    return {name: centred(f) for name, f in (found | held_out()).items()}


HELD_OUT = "held out: "


def held_out() -> dict[str, Encoder]:
    """Encoders that no constant of the package was chosen by: they tell whether its rules hold beyond the others."""
    w48, other, more = normal(D, 48, seed=1), normal(D, 64, seed=101), normal(D, 64, seed=102)
    v = normal(D, 1, seed=107)[:, 0]
    levels = normal(16, 24, seed=103) * 4

    def winners(x: Tensor) -> Tensor:
        h = x @ other[:, :48]
        return torch.where(h >= h.topk(8, 1).values[:, -1:], h, 0.0)

    def outlier(x: Tensor) -> Tensor:
        h = x @ w48
        return torch.cat([10 * h[:, :1] ** 3, h[:, 1:]], 1)

    def experts(x: Tensor) -> Tensor:
        h = (x + 0.5) @ other
        return torch.where((x @ v > 0)[:, None], h[:, :32], h[:, 32:])

    def codes(x: Tensor) -> Tensor:
        return levels[(torch.relu(x @ other) @ more[:, :16]).argmax(1)]

    def deep(x: Tensor) -> Tensor:
        for n in range(4):
            x = nn.functional.leaky_relu(x @ normal(D, D, seed=110 + n) * 1.4, 0.1)
        return x

    found: dict[str, Encoder] = {
        "maxout of 3": lambda x: torch.maximum(torch.maximum(x @ other, x @ more), x @ other.flip(0))[:, :48],
        "GELU": lambda x: nn.functional.gelu(2 * (x @ other)),
        "top 8 of 48": winners,
        "int4": lambda x: torch.round(2 * (x @ w48)).clamp(-8, 7),
        "products": lambda x: (x @ other[:, :32] + 1) * (x @ more[:, :32] + 1),
        "heavy tails": lambda x: x @ w48 + 0.3 * torch.sinh(1.5 * (x @ more[:, :48])),
        "signs and noise": lambda x: torch.sign(x @ other[:, :32]) + 0.5 * (x @ more[:, :32]),
        "binary": lambda x: (x @ other > 0).float(),
        "experts": experts,
        "outlier dimension": outlier,
        "16 codes of a net": codes,
        "five layers": deep,
    }
    return {HELD_OUT + name: f for name, f in found.items()}


def convolutional(*, averaged: bool) -> Encoder:
    first, second = (
        normal(9, 16, seed=20).T.reshape(16, 1, 3, 3),
        normal(144, 48, seed=21).T.reshape(48, 16, 3, 3),
    )
    out = normal(768, 64, seed=22)

    def encode(x: Tensor) -> Tensor:
        h = nn.functional.gelu(nn.functional.conv2d(1.4 * x.reshape(-1, 1, 8, 8), first, padding=1))
        h = torch.relu(nn.functional.conv2d(1.4 * h, second, padding=1, stride=2))
        return h.mean((2, 3)) if averaged else h.flatten(1) @ out

    return encode


def transformer(width: int, *, averaged: bool) -> Encoder:
    embed, position = (
        normal(8, width, seed=30),
        0.3 * torch.randn(8, width, generator=torch.Generator().manual_seed(31)),
    )
    layers = [[normal(width, width, seed=40 + 10 * n + i) for i in range(4)] for n in range(2)]
    wide = [(normal(width, 2 * width, seed=60 + n), normal(2 * width, width, seed=70 + n)) for n in range(2)]

    def norm(h: Tensor) -> Tensor:
        return nn.functional.layer_norm(h, (width,))

    def encode(x: Tensor) -> Tensor:
        h = x.reshape(-1, 8, 8) @ embed + position
        for (q, k, v, o), (up, down) in zip(layers, wide, strict=True):
            z = norm(h)
            h = h + torch.softmax(2 * (z @ q) @ (z @ k).transpose(1, 2) / width**0.5, -1) @ (z @ v) @ o
            h = h + nn.functional.gelu(norm(h) @ up) @ down
        h = norm(h)
        return h.mean(1) if averaged else h[:, 0]

    return encode


def features(encoder: Encoder, scale: float, count: int, seed: int) -> tuple[Tensor, Tensor]:
    """Features [count, F] and labels of samples drawn by torch's own generator, not by the package."""
    generator = torch.Generator().manual_seed(seed)
    y = torch.arange(count) % 2
    parts = []
    for start in range(0, count, 20_000):
        labels = y[start : start + 20_000]
        x = torch.randn(len(labels), D, generator=generator) + 0.5 + ((2 * labels - 1) * scale)[:, None] * U
        parts.append(encoder(x))
    return torch.cat(parts), y


def population(
    encoder: Encoder, scale: float, budgets: tuple[float, ...] = EPS
) -> tuple[np.ndarray, np.ndarray, float]:
    """Accuracy and reach [E] of the population's classifiers at one scale, and the robust area's integral over eps."""
    h, y = features(encoder, scale, TRUTH_SAMPLES, round(scale * 1e4))
    h = h.double()
    one = y == 1
    m1, m0 = h[one].mean(0), h[~one].mean(0)
    m, c = (m1 - m0) / 2, (m1 + m0) / 2
    for part, mean in ((one, m1), (~one, m0)):
        h[part] -= mean
    d, basis = torch.linalg.eigh(h.T @ h / len(h))
    keep = d > 1e-11 * d[-1]
    d, basis = d[keep], basis[:, keep]
    a = basis.T @ m
    h[one] += m1 - c
    h[~one] += m0 - c
    h = h @ basis
    h[~one] *= -1
    accuracy, reach, robust = [], [], []
    for eps in (*budgets, *NODES):
        low, high = math.log(1e-14 * float(d[-1])), math.log(1e6 * float(d[-1]))
        for _ in range(200):
            middle = (low + high) / 2
            g = math.exp(middle)
            spent = float((a * g / (d + g)).norm())
            low, high = (middle, high) if spent < eps * float(a.norm()) else (low, middle)
        w = a / (d + (math.exp(low) if eps else 0.0))
        margin = h @ w
        accuracy.append(float((margin > 0).double().mean()))
        reach.append(float(margin.clamp_min(0).mean() / (a @ w)))
        robust.append(float((margin > eps * a.norm() * w.norm()).double().mean()))
    size = len(budgets)
    return np.array(accuracy[:size]), np.array(reach[:size]), float(np.array(robust[size:]) @ WEIGHTS)


def truth(name: str, encoder: Encoder, folder: Path) -> dict[str, Any]:
    """Scores [E, A] and robust area of the population, kept in `folder`."""
    path = folder / f"truth-{''.join(c if c.isalnum() else '_' for c in name)}.json"
    if path.exists():
        return dict(json.loads(path.read_text()))
    scores, area = true_scores(encoder, EPS, THRESHOLDS)
    found = {"scores": scores, "area": area}
    path.write_text(json.dumps(found))
    return found


def true_scores(
    encoder: Encoder, budgets: tuple[float, ...], thresholds: tuple[float, ...]
) -> tuple[list[list[float]], float]:
    """Scores [E, A] and robust area of the population."""
    from scipy.interpolate import CubicSpline
    from scipy.stats import norm

    rows = [population(encoder, float(s), budgets) for s in TRUTH_SCALES]
    accuracy, reach = (np.stack([row[i] for row in rows]) for i in (0, 1))
    zero = np.zeros((1, len(budgets)))
    a = 0.5 + CubicSpline(np.r_[0, TRUTH_SCALES], np.vstack([zero, accuracy - 0.5]))(PUBLISHED)
    r = CubicSpline(TRUTH_SCALES, reach * TRUTH_SCALES[:, None])(PUBLISHED) / PUBLISHED[:, None]
    raw = norm.cdf(PUBLISHED)
    raw_reach = raw + norm.pdf(PUBLISHED) / PUBLISHED
    scores = [
        [
            float(
                np.where(a[:, e] > t, r[:, e] * (1 - t / a[:, e]), 0).sum()
                / (raw_reach * np.maximum(0, 1 - t / raw)).sum()
            )
            for t in thresholds
        ]
        for e in range(len(budgets))
    ]
    areas = np.array([0.5, *(row[2] for row in rows)])
    return scores, float(np.mean(CubicSpline(np.r_[0, TRUTH_SCALES], areas)(PUBLISHED)))


def _known(error: float) -> float | None:
    return error if math.isfinite(error) else None


def runs(name: str, encoder: Encoder, setting: str, seeds: range, estimator: str) -> Iterator[dict[str, Any]]:
    for seed in seeds:
        result = sb.score(
            encoder,
            input_shape=(D,),
            eps=EPS,
            thresholds=THRESHOLDS,
            seed=seed,
            estimator=estimator,
            device="cpu",
            **SETTINGS[setting],
        )
        yield {
            "encoder": name,
            "setting": setting,
            "estimator": estimator,
            "seed": seed,
            "scores": [[result.score(e, t).score for t in THRESHOLDS] for e in EPS],
            "errors": [[_known(result.score(e, t).stderr) for t in THRESHOLDS] for e in EPS],
            "area": [result.robust_area.value, _known(result.robust_area.stderr)],
            "warnings": [one.split("(")[0][:60] for one in result.warnings],
        }


CELLS = (*(f"{e:g} above {t:g}" for e in EPS for t in THRESHOLDS), "robust area")
GOAL = (93, 97)  # per cent of the intervals that hold the truth
Summary = dict[str, Any]


def _numbers(values: list[Any]) -> np.ndarray:
    """Floats; NaN for null, as an interval that is withheld has."""
    return np.array(values, dtype=float)


def _cell(off: np.ndarray, error: np.ndarray) -> dict[str, float | None]:
    """Of errors and stated errors [runs]: runs with an interval and how many of these hold the truth, and the sizes."""
    known = np.isfinite(error)
    return {
        "intervals": int(known.sum()),
        "hold": int((np.abs(off[known]) <= 1.96 * error[known] + 1e-12).sum()),
        "bias": round(float(off.mean()), 6),
        "rmse": round(float(np.sqrt(np.square(off).mean())), 6),
        "stated": round(float(error[known].mean()), 6) if known.any() else None,
    }


def summaries(rows: list[dict[str, Any]], truths: dict[str, Any]) -> Iterator[Summary]:
    """One row per encoder, setting and estimator: what each cell of the table is made of."""
    for key in dict.fromkeys((row["encoder"], row["setting"], row["estimator"]) for row in rows):
        mine = [row for row in rows if (row["encoder"], row["setting"], row["estimator"]) == key]
        scores, errors = (_numbers([row[one] for row in mine]).reshape(len(mine), -1) for one in ("scores", "errors"))  # fmt: skip
        area = _numbers([row["area"] for row in mine])
        off = np.c_[scores, area[:, 0]] - np.r_[np.ravel(truths[key[0]]["scores"]), truths[key[0]]["area"]]
        error = np.c_[errors, area[:, 1]]
        cells = {name: _cell(off[:, i], error[:, i]) for i, name in enumerate(CELLS)}
        names = dict(zip(("encoder", "setting", "estimator"), key, strict=True))
        yield {**names, "runs": len(mine), "cells": cells}


def _coverage(cell: dict[str, Any]) -> int | None:
    """Per cent of the intervals that hold the truth; None where all are withheld."""
    return round(100 * cell["hold"] / cell["intervals"]) if cell["intervals"] else None


def _text(cell: dict[str, Any], runs: int) -> str:
    """Coverage, bold below the goal and italic above it; in brackets the per cent of the runs without an interval."""
    coverage = _coverage(cell)
    if coverage is None:
        return "withheld"
    mark = "**" if coverage < GOAL[0] else "*" if coverage > GOAL[1] else ""
    withheld = 100 * (1 - cell["intervals"] / runs)
    return f"{mark}{coverage}{mark}" + (f" ({min(max(withheld, 1), 99):.0f})" if withheld else "")


def tables(found: list[Summary]) -> Iterator[str]:
    """For each setting and estimator: the table, and how many cells reach the goal."""
    for setting, estimator in dict.fromkeys((row["setting"], row["estimator"]) for row in found):
        mine = [row for row in found if (row["setting"], row["estimator"]) == (setting, estimator)]
        counts = sorted({row["runs"] for row in mine})
        yield f"`{setting}`, `{estimator}`, {' to '.join(map(str, counts[:1] + counts[1:][-1:]))} runs of each encoder:\n"
        yield f"| encoder | {' | '.join(CELLS)} |"
        yield "| --- |" + " --- |" * len(CELLS)
        for row in mine:
            yield f"| {row['encoder']} | {' | '.join(_text(row['cells'][one], row['runs']) for one in CELLS)} |"
        known = [_coverage(cell) for row in mine for cell in row["cells"].values()]
        below = sum(one is not None and one < GOAL[0] for one in known)
        above = sum(one is not None and one > GOAL[1] for one in known)
        none = known.count(None)
        yield (
            f"\nOf {len(known)} cells, {len(known) - below - above - none} lie in {GOAL[0]} to {GOAL[1]} %, {above} above, "
            f"{below} below, and {none} are withheld."
        )


ONE_SCALE = 1.6333
ONE_SCALE_HEAD = "| encoder | F | truth | `consistent` | `gaussian` | `counted` | stated, `consistent` |"


def estimators_row(name: str, encoder: Encoder, count: int, runs: int) -> str:
    """Root mean square errors of the accuracy at eps 0 from `count` samples of one scale; the mean error stated."""
    right = population(encoder, ONE_SCALE)[0][0]
    found: dict[str, list[float]] = {one: [] for one in ("consistent", "gaussian", "counted")}
    stated, features_dim = [], 0
    for seed in range(runs):
        h, y = features(encoder, ONE_SCALE, count, 1000 + seed)
        features_dim = h.shape[1]
        for one, values in found.items():
            point = sb.evaluate_features(h, y, eps=(0.0,), estimator=one)
            values.append(point.accuracy[0])
            if one == "consistent":
                stated.append(point.accuracy_stderr[0])
    off = [np.sqrt(np.square(np.array(values) - right).mean()) for values in found.values()]
    cells = [f"{one:.4f}" for one in (*off, float(np.mean(stated)))]
    return f"| {name} | {features_dim} | {right:.3f} | {' | '.join(cells)} |"


def complete(path: Path) -> list[dict[str, Any]]:
    """The rows of a file; a last line that was cut when the run was stopped is taken out of it."""
    text = path.read_text()
    whole = text[: text.rfind("\n") + 1]
    if whole != text:
        path.write_text(whole)
    return [json.loads(line) for line in whole.splitlines()]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--runs", type=int, default=400)
    parser.add_argument("--settings", default=",".join(SETTINGS))
    parser.add_argument("--encoders", default="", help="parts of names, comma separated; default all")
    parser.add_argument("--estimator", default="consistent")
    parser.add_argument("--out", type=Path, default=Path("coverage.jsonl"))
    parser.add_argument("--summary", type=Path, help="print a summary of these runs")
    parser.add_argument("--table", type=Path, help="print the tables of this summary")
    parser.add_argument("--estimators", action="store_true")
    parser.add_argument("--samples", type=int, default=512, help="of --estimators")
    parser.add_argument("--truths", type=Path, default=Path("coverage-truths"))
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    if arguments.table is not None:
        print(*tables(complete(arguments.table)), sep="\n")
        return
    arguments.truths.mkdir(exist_ok=True, parents=True)
    wanted = [one for one in arguments.encoders.split(",") if one]
    known = {
        name: encoder
        for name, encoder in encoders().items()
        if not wanted or any(one in name for one in wanted)
    }
    if arguments.estimators:
        print(ONE_SCALE_HEAD, "|" + " --- |" * 7, sep="\n")
        for name, encoder in known.items():
            print(estimators_row(name, encoder, arguments.samples, arguments.runs), flush=True)
        return
    if arguments.summary is not None:
        rows = [row for row in complete(arguments.summary) if row["encoder"] in known]
        truths = {
            name: truth(name, known[name], arguments.truths)
            for name in dict.fromkeys(r["encoder"] for r in rows)
        }
        print(*map(json.dumps, summaries(rows, truths)), sep="\n")
        return
    done: dict[tuple[str, str, str], int] = {}
    if arguments.out.exists():
        for row in complete(arguments.out):
            key = (row["encoder"], row["setting"], row["estimator"])
            done[key] = max(done.get(key, 0), row["seed"] + 1)
    with arguments.out.open("a") as stream:
        for setting in arguments.settings.split(","):  # cheapest first
            for name, encoder in known.items():
                begun = time.process_time()
                truth(name, encoder, arguments.truths)
                first = done.get((name, setting, arguments.estimator), 0)
                for row in runs(name, encoder, setting, range(first, arguments.runs), arguments.estimator):
                    stream.write(json.dumps(row) + "\n")
                    stream.flush()
                print(f"{setting}, {name}: {time.process_time() - begun:.0f} s of CPU time", flush=True)


if __name__ == "__main__":
    main()
