"""How often are equal encoders called different? Ten with the same truth, compared with each other.

    python benchmarks/equal_encoders.py --runs 400 --scales 6 --samples 128

The ten are one encoder behind rotations of its input that keep the direction between the classes. White noise has the
same distribution after each of them, so that the population's scores are equal. Of each encoder, budget and threshold
it prints the per cent of the runs in which `compare` calls any of the 45 pairs different, which is to be 5 at most.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator

import numpy as np
import torch
from coverage import EPS, THRESHOLDS, D, Encoder, U, encoders, normal
from torch import Tensor

import synbench_fast as sb

EQUAL = 10
BUDGETS = EPS[:2]


def kinds() -> dict[str, Encoder]:
    """Of inputs [B, 64] around 0.5, as in `coverage.encoders`."""
    weight = normal(D, 48, seed=1)
    known = encoders()
    names = ("ReLU", "sparse ReLU, F = 64", "sparse ReLU, F = 16")
    return {"linear, F = 48": lambda x: (x - 0.5) @ weight} | {name: known[name] for name in names}


def rotations() -> Iterator[Tensor]:
    """[64, 64] each, with the direction between the classes as a fixed point."""
    others = torch.linalg.qr(torch.cat([U[:, None], normal(D, D - 1, seed=5)], 1))[0][:, 1:]
    for number in range(EQUAL):
        turn = torch.linalg.qr(normal(D - 1, D - 1, seed=1000 + number))[0]
        yield torch.outer(U, U) + others @ turn @ others.T


def behind(encoder: Encoder, rotation: Tensor) -> Encoder:
    return lambda x: encoder((x.flatten(1) - 0.5) @ rotation + 0.5)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--runs", type=int, default=400)
    parser.add_argument("--scales", type=int, default=6)
    parser.add_argument("--samples", type=int, default=128)
    parser.add_argument("--encoders", default="", help="parts of names, comma separated; default all")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    points = [(eps, threshold) for eps in BUDGETS for threshold in THRESHOLDS]
    scales = [round(4.9 * (i + 1) / arguments.scales, 4) for i in range(arguments.scales)]
    wanted = [one for one in arguments.encoders.split(",") if one]
    print("| encoder |", " | ".join(f"{eps:g} above {threshold:g}" for eps, threshold in points), "|")
    print("| --- |" + " --- |" * len(points))
    for name, encoder in kinds().items():
        if wanted and not any(one in name for one in wanted):
            continue
        equal = [behind(encoder, one) for one in rotations()]
        different = np.zeros(len(points))
        for seed in range(arguments.runs):
            results = [
                sb.score(
                    one,
                    input_shape=(D,),
                    scales=scales,
                    samples=arguments.samples,
                    eps=BUDGETS,
                    thresholds=THRESHOLDS,
                    seed=seed,
                    device="cpu",
                )
                for one in equal
            ]
            for place, (eps, threshold) in enumerate(points):
                found = sb.compare(*results, eps=eps, thresholds=threshold).differences
                different[place] += not all(one.tie or one.withheld for one in found)
        shares = " | ".join(f"{100 * one / arguments.runs:.1f}" for one in different)
        print(f"| {name} | {shares} |", flush=True)


if __name__ == "__main__":
    main()
