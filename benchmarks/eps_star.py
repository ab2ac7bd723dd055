"""How often does the 95 % set of eps* hold the budget with the largest true score? Encoders with a known truth.

    python benchmarks/eps_star.py --runs 150 --repeats 3

Of each encoder it prints the budget that is truly the best of the grid, and the per cent of the runs whose set holds it,
from one score and from the mean of `--repeats` scores. The truth is that of `coverage.py`.
"""

from __future__ import annotations

import argparse

import torch
from coverage import D, encoders, true_scores

import synbench_fast as sb
from synbench_fast.studies.eps_star import EPS_GRID, EPS_STAR_THRESHOLD, find_eps_star

NAMES = (
    "linear",
    "ReLU",
    "lognormal",
    "gated",
    "softmax",
    "VQ, 32 codes",
    "saturating",
    "transformer, averaged",
)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--runs", type=int, default=150)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--estimator", default="consistent")
    parser.add_argument("--encoders", default=";".join(NAMES), help="names, separated by semicolons")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    known = encoders()
    print(f"| encoder | best budget | one score | mean of {arguments.repeats} | budgets in that set |")
    print("| --- |" + " --- |" * 4)
    for name in arguments.encoders.split(";"):
        scores = [row[0] for row in true_scores(known[name], EPS_GRID, (EPS_STAR_THRESHOLD,))[0]]
        best = scores.index(max(scores))
        held, members = [0, 0], 0
        for run in range(arguments.runs):
            results = [
                sb.score(
                    known[name],
                    input_shape=(D,),
                    eps=EPS_GRID,
                    thresholds=EPS_STAR_THRESHOLD,
                    seed=run * arguments.repeats + repeat,
                    preset="quick",
                    estimator=arguments.estimator,
                    device="cpu",
                )
                for repeat in range(arguments.repeats)
            ]
            for place, some in enumerate((results[0], results)):
                points = find_eps_star(some, threshold=EPS_STAR_THRESHOLD).points
                held[place] += points[best].in_set
            members += sum(one.in_set for one in points)
        shares = " | ".join(f"{100 * one / arguments.runs:.1f}" for one in held)
        print(f"| {name} | {EPS_GRID[best]:g} | {shares} | {members / arguments.runs:.1f} |", flush=True)


if __name__ == "__main__":
    main()
