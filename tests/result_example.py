"""A complete result with made-up numbers, for tests of what carries and shows results."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import numpy as np

from synbench_fast.results.records import (
    ArithmeticRecord,
    Cost,
    EncoderRecord,
    Environment,
    Gpu,
    Influence,
    Preprocessing,
    Result,
    RobustArea,
    ScalePoint,
    Score,
    TaskRecord,
)


def example(spec: str = "builtin:conv", **changes: Any) -> Result:
    """Two scales, two budgets, two thresholds; the first scale has t = 0, so its bound is infinite."""
    eps, thresholds, scales = [0.0, 0.2], [0.6, 0.7], [0.1, 2.0]
    source, name = spec.split(":", 1)
    result = Result(
        encoder=EncoderRecord(
            spec=spec,
            source=source,
            name=name,
            revision=None,
            weights_sha256="ab" * 32,
            parameters=1_234_567,
            feature_dim=256,
            preprocessing=Preprocessing(
                input_shape=(3, 32, 32), mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225), pool=None
            ),
            random_init=False,
            checkpoint=None,
        ),
        task=TaskRecord(
            shape=(3, 32, 32),
            scales=scales,
            samples=[1024] * len(scales),
            average="sampled",
            prior=0.5,
            center=0.5,
            pattern="uniform",
            covariance="white",
        ),
        estimator="consistent",
        integral="exact",
        seed=0,
        eps=eps,
        thresholds=thresholds,
        scores=[
            Score(eps=e, threshold=a, score=0.9 - e - a / 10, stderr=0.01, ci95_low=0.7, ci95_high=0.9)
            for e in eps
            for a in thresholds
        ],
        curve=[
            ScalePoint(
                scale=s,
                eps=e,
                accuracy=0.5 if s == 0.1 else 0.95,
                accuracy_stderr=math.nan if s == 0.1 else 0.004,
                robust_accuracy=0.5 if s == 0.1 else 0.9,
                robust_accuracy_stderr=math.nan if s == 0.1 else 0.005,
                bound=math.inf if s == 0.1 else 1.066,
                bound_stderr=math.nan if s == 0.1 else 0.007,
                t=0.0 if s == 0.1 else 1.645,
                t_stderr=math.nan if s == 0.1 else 0.05,
                t_rob=0.0 if s == 0.1 else 1.5,
                excess=math.nan if s == 0.1 else -0.001,
                excess_stderr=math.nan if s == 0.1 else 0.002,
                raw_accuracy=0.54 if s == 0.1 else 0.977,
                raw_bound=8.35 if s == 0.1 else 1.028,
            )
            for s in scales
            for e in eps
        ],
        score_covariance=None,
        influence=None,
        robust_area=RobustArea(value=0.61, raw=0.74, ratio=0.61 / 0.74, stderr=0.02),
        fits=None,
        dropped=[0] * len(scales),
        half_width=None,
        arithmetic=ArithmeticRecord(requested="auto", dtype="float32", checks=[]),
        cost=Cost(
            images=2048,
            seconds={"sample": 0.5, "encode": 3.0, "statistics": 0.25, "solve": 0.125, "total": 4.0},
            images_per_second=512.0,
            peak_memory_bytes=123_456_789,
            device="cpu",
            dtype="float32",
            batch_size=256,
            threads=2,
            channels_last=False,
            compiled=False,
            cuda_graph=False,
        ),
        environment=Environment(
            python="3.11.0",
            platform="Linux-x86_64",
            cpu="Some CPU",
            cores=2,
            memory_bytes=8 << 30,
            simd="avx2",
            gpus=[Gpu(name="Some GPU", memory_bytes=16 << 30, compute_capability="9.0")],
            cuda="12.4",
            versions={"torch": "2.6.0"},
            git_commit=None,
            git_dirty=None,
        ),
        backends={"sample_mixture": "cpp", "feature_stats": "blas"},
        warnings=["samples: 1024 is few for 256 features"],
        command=f"synbench-fast run {spec} --eps 0,0.2",
    )
    return dataclasses.replace(result, **changes)


def influential(**changes: Any) -> Result:
    """The same with a covariance and influences; the second scale has one group fewer."""
    moved = np.array([[[0.25, -0.125], [0.5, 1e-5]], [[0.75, 0.0], [-2.5, 0.0]]])
    slopes = np.array([[[1.0, 0.5], [0.25, 0.0]], [[-1.0, 2.0], [0.0, 3e5]]])
    influence = Influence(
        group=64,
        groups=np.array([2, 1]),
        accuracy=moved,
        reach=2 * moved,
        accuracy_slope=slopes,
        reach_slope=slopes / 4,
    )
    return example(**{"score_covariance": (1e-4 * np.eye(4)).tolist(), "influence": influence, **changes})
