"""`synbench-fast demo`: three encoders scored without data, then checked on real images, on a CPU."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from itertools import product
from pathlib import Path

from synbench_fast.demos.digits import scenes
from synbench_fast.demos.digits.report import DemoReport, DemoRow, Repeats, agreement, render
from synbench_fast.engine.score import score
from synbench_fast.errors import SynbenchError
from synbench_fast.results.plots import plot_curves
from synbench_fast.results.records import Result
from synbench_fast.runtime.global_state import known_state
from synbench_fast.runtime.optional import optional
from synbench_fast.studies import digits as real

__all__ = ["DemoReport", "DemoRow", "Repeats", "agreement", "render", "run_demo"]

EPS = (0.0, 0.2)
THRESHOLDS = (0.6, 0.7, 0.8, 0.9)
SHOWN_THRESHOLD = 0.7
RADII = (0.05, 0.15)


@dataclass(frozen=True)
class _Plan:
    runs: int
    epochs: int
    train_steps: int
    attack_steps: int
    scales: int
    samples: int
    preset: str  # of the structure score


_FULL = _Plan(runs=3, epochs=20, train_steps=3, attack_steps=10, scales=49, samples=2048, preset="standard")
_QUICK = _Plan(runs=2, epochs=3, train_steps=1, attack_steps=3, scales=6, samples=256, preset="quick")


def run_demo(
    out: Path, *, seed: int = 0, quick: bool = False, progress: Callable[[str], None] | None = None
) -> DemoReport:
    """Train, score, probe and attack; write `out`/curves.png and `out`/results/ENCODER-RUN.json.

    The three encoders share one architecture and are each trained three times (`quick`: twice, briefly, on
    fewer scales and samples). The same seed gives the same report on one machine, except for its seconds.
    `progress` is called with one line per step. Errors: SynbenchError when scikit-learn or matplotlib is
    missing, `seed` is not in [0, 2^32) or `out` cannot be written.
    """
    if not 0 <= seed < 2**32:
        raise SynbenchError(f"seed: expected an integer from 0 to {2**32 - 1}, got {seed}")
    optional("sklearn", "scikit-learn", "demo")
    optional("matplotlib", "matplotlib", "demo")
    began = time.monotonic()
    say = progress or (lambda line: None)
    plan = _QUICK if quick else _FULL
    folder = out / "results"
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise SynbenchError(
            f"out: expected a folder that can be written, got {out}: {error.strerror}"
        ) from None

    data = scenes.load(seed)
    results: dict[str, list[Result]] = {kind: [] for kind in scenes.KINDS}
    shares: dict[str, list[list[float]]] = {kind: [] for kind in scenes.KINDS}
    paths: list[Path] = []
    # Nets this small lose time to a second thread, and the order of the sums would depend on the core count.
    with known_state(threads=1):
        for kind, run in product(scenes.KINDS, range(plan.runs)):
            label = f"{kind}, run {run + 1} of {plan.runs}"
            say(f"{label}: train")
            encoder = scenes.train(
                kind,
                data,
                seed=seed * plan.runs + run,
                epochs=plan.epochs,
                radius=RADII[-1],
                steps=plan.train_steps,
            )
            say(f"{label}: score without data")
            result = score(
                encoder,
                input_shape=scenes.SHAPE,
                eps=EPS,
                thresholds=THRESHOLDS,
                scales=plan.scales,
                samples=plan.samples,
                preset=plan.preset,
                structure=True,
                mean=(data.mean,),
                std=(data.std,),
                seed=seed,
                device="cpu",
            )
            paths.append(result.save(folder / f"{kind}-{run + 1}.json"))
            results[kind].append(result)
            say(f"{label}: probe and attack")
            model = real.linear_probe(encoder, data)
            kept = real.survivors(model, data.test_x, data.test_y, RADII, steps=plan.attack_steps, seed=seed)
            shares[kind].append(kept.double().mean(dim=1).tolist())

    rows = tuple(_row(kind, results[kind], shares[kind]) for kind in scenes.KINDS)
    say("plot")
    plot = plot_curves(out / "curves.png", results)
    return DemoReport(
        rows=rows,
        agreement=agreement(rows),
        threshold=SHOWN_THRESHOLD,
        train_images=len(data.train_x),
        test_images=len(data.test_x),
        plot=plot,
        results=tuple(paths),
        seconds=time.monotonic() - began,
    )


def _row(kind: str, results: list[Result], shares: list[list[float]]) -> DemoRow:
    scores = {eps: [result.score(eps, SHOWN_THRESHOLD) for result in results] for eps in EPS}
    clean, *attacked = (Repeats(tuple(column)) for column in zip(*shares, strict=True))
    structure = [result.structure for result in results if result.structure is not None]
    return DemoRow(
        name=kind,
        structure=Repeats(tuple(one.score for one in structure)),
        structure_stderr=Repeats(tuple(one.stderr for one in structure)),
        score={eps: Repeats(tuple(one.score for one in found)) for eps, found in scores.items()},
        score_stderr={eps: Repeats(tuple(one.stderr for one in found)) for eps, found in scores.items()},
        accuracy=clean,
        attacked=dict(zip(RADII, attacked, strict=True)),
    )
