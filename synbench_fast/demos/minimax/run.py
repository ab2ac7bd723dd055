"""The comparison of the demo: mean loss against minimax, everything else equal."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

from synbench_fast.demos.minimax.data import GROUPS, SHAPE, Part, load
from synbench_fast.demos.minimax.report import Arm, PretrainReport
from synbench_fast.demos.minimax.training import MaskedEncoder, downstream, pretrain, upstream
from synbench_fast.engine.suite import score_suite
from synbench_fast.errors import SynbenchError
from synbench_fast.minimax.loss import TaskRobustLoss
from synbench_fast.runtime.global_state import known_state
from synbench_fast.tasks.suites import TaskDefinition

__all__ = ["REFERENCES", "SYNTHETIC", "run_pretraining"]

REFERENCES = ("none", "specialists")
SYNTHETIC = (
    TaskDefinition("published"),
    TaskDefinition("low", pattern="low"),
    TaskDefinition("high", pattern="high"),
    TaskDefinition("patch", pattern="patch"),
    TaskDefinition("natural", pattern="patch", covariance="power:2"),
)
_THRESHOLD = 0.6


@dataclass(frozen=True)
class _Plan:
    train: int = 3000
    test: int = 1500
    hidden: float = 0.3  # share of the patches
    scales: int = 12
    samples: int = 512


_FULL = _Plan()
_QUICK = _Plan(train=400, test=300, scales=2, samples=64)


def run_pretraining(
    *,
    runs: int = 5,
    seed: int = 0,
    steps: int = 600,
    features: int = 4,
    temperature: float = 0.1,
    reference: str = "none",
    quick: bool = False,
    progress: Callable[[str], None] | None = None,
) -> PretrainReport:
    """Pre-train with the mean loss and with `TaskRobustLoss(mode="softmax")`, from equal starts, `runs` times.

    Both arms of a run have the same images, first weights, batches, masks, number of steps and learning rates.
    `reference` "specialists" subtracts from every group's loss what an encoder pre-trained on that group alone
    reaches on the train images; its steps come on top. `quick` takes fewer images and samples.

    Raises:
        SynbenchError: one line that names the argument, or the library that is missing.
    """
    for name, given, least in (
        ("runs", runs, 1),
        ("seed", seed, 0),
        ("steps", steps, 2),
        ("features", features, 1),
    ):
        if not isinstance(given, int) or given < least:
            raise SynbenchError(f"{name}: expected an integer of at least {least}, got {given!r}")
    if reference not in REFERENCES:
        raise SynbenchError(f"reference: expected one of {', '.join(REFERENCES)}, got {reference!r}")
    begun = time.monotonic()
    plan, say = _QUICK if quick else _FULL, progress or (lambda line: None)
    arms = [Arm(name, [], [], [], [], [], []) for name in ("mean", "minimax")]
    with known_state(threads=1):  # nets this small lose time to a second thread
        for run in range(runs):
            words = f"run {run + 1} of {runs}"
            train, test = load(seed + run, plan.train, plan.test)
            common: dict[str, Any] = {
                "features": features, "steps": steps, "seed": seed + run, "hidden": plan.hidden,
            }  # fmt: skip
            floor = None
            if reference == "specialists":
                say(f"{words}: specialists")
                floor = _specialists(train, common, plan)
            for arm in arms:
                say(f"{words}: {arm.name}")
                robust = (
                    TaskRobustLoss(GROUPS, temperature=temperature)
                    if arm.name == "minimax"
                    else TaskRobustLoss(GROUPS, mode="mean")
                )
                model, weights = pretrain(train.x, robust, reference=floor, **common)
                arm.weights.append(dict(zip(GROUPS, weights, strict=True)))
                _evaluate(arm, model, train, test, plan, seed + run)
    return PretrainReport(
        arms=arms,
        seeds=list(range(seed, seed + runs)),
        steps=steps,
        features=features,
        temperature=temperature,
        reference=reference,
        seconds=time.monotonic() - begun,
    )


def _evaluate(arm: Arm, model: MaskedEncoder, train: Part, test: Part, plan: _Plan, seed: int) -> None:
    """Adds what one encoder of an arm reaches: upstream, downstream, and on synthetic tasks without data."""
    arm.upstream.append(dict(zip(GROUPS, upstream(model, test.x, plan.hidden), strict=True)))
    arm.downstream.append(downstream(model, train, test))
    suite = score_suite(
        model,
        tasks=SYNTHETIC,
        input_shape=SHAPE,
        center=0.0,
        eps=(0.0,),
        thresholds=(_THRESHOLD,),
        scales=plan.scales,
        samples=plan.samples,
        seed=seed,
        device="cpu",
    )
    one = suite.score()
    arm.synthetic.append(
        {name: result.score().score for name, result in zip(suite.tasks, suite.results, strict=True)}
    )
    arm.score.append(one.mean)
    arm.score_worst.append(one.worst)


def _specialists(train: Part, common: dict[str, Any], plan: _Plan) -> torch.Tensor:
    found = []
    for index in range(len(GROUPS)):
        alone = torch.nn.functional.one_hot(torch.tensor(index), len(GROUPS))
        model, _ = pretrain(train.x, TaskRobustLoss(GROUPS, mode="mean"), task_weights=alone, **common)
        found.append(upstream(model, train.x, plan.hidden)[index])
    return torch.tensor(found)
