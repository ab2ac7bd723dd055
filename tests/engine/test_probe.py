"""The streaming pipeline: order and size of the batches, what it keeps in memory, and every mistake."""

from __future__ import annotations

import dataclasses
import json
import math
import random
import subprocess
import sys
from collections.abc import Iterable
from typing import Any

import numpy as np
import pytest
import torch
from checks import PATIENCE, refused
from scipy.integrate import quad
from scipy.stats import norm

import synbench_fast as sb
from synbench_fast.checks import THRESHOLDS
from synbench_fast.engine.curve import Curve
from synbench_fast.engine.probe import Batch
from synbench_fast.ops.score_auc import score_auc

SHAPE = (3, 4, 5)
TASK = sb.GaussianTask(SHAPE, scales=(0.5, 1.0, 2.5))
WEIGHT = 0.5 + torch.from_numpy(np.random.default_rng(0).standard_normal((10, 60)))  # sees the pattern


def encode(x: torch.Tensor) -> torch.Tensor:
    """A linear map sample by sample: no product whose rounding depends on the batch."""
    return torch.stack([(WEIGHT * row.flatten().double()).sum(1) for row in x])


def run(probe: sb.Probe, batches: Iterable[Batch] | None = None) -> Curve:
    for batch in probe.batches(100) if batches is None else batches:
        probe.update(batch, encode(batch.x))
    return probe.compute()


def make(task: sb.GaussianTask = TASK, **options: Any) -> sb.Probe:
    return sb.Probe(task, **{"eps": (0.0, 0.3), "samples": 200, "seed": 3, **options})


@pytest.mark.parametrize("estimator", ["consistent", "paper"])
def test_order_and_size_of_the_batches_change_no_bit(estimator: str) -> None:
    expected = run(make(estimator=estimator))
    for size in (1, 63, 200, 1000):
        assert run(make(estimator=estimator), make(estimator=estimator).batches(size)) == expected
    shuffled = list(make(estimator=estimator).batches(37))
    random.Random(0).shuffle(shuffled)
    assert run(make(estimator=estimator), shuffled) == expected
    uneven = make(estimator=estimator)
    parts = [
        uneven.batch(scale, split, start, stop - start)
        for start, stop in ((150, 200), (0, 7), (7, 150))
        for split in reversed(range(uneven.splits))
        for scale in (1, 2, 0)
    ]
    assert run(uneven, parts) == expected


def test_every_sample_comes_once_and_in_place() -> None:
    probe = make(estimator="paper")
    seen = [(b.scale_index, b.split, b.start + i) for b in probe.batches(64) for i in range(len(b.y))]
    assert seen == [(s, h, i) for s in range(3) for h in range(2) for i in range(200)]
    assert probe.images == len(seen) == 1200
    batch = probe.batch(2, 1, 50, 30)
    x, y = TASK.sample(2.5, 50, 30, split=1, seed=3)
    assert torch.equal(batch.x, x) and torch.equal(batch.y, y)


def test_samples_are_normalised_cast_and_laid_out_as_asked() -> None:
    mean, std = (0.5, 0.1, -2.0), (0.5, 2.0, 1.0)
    probe = make(mean=mean, std=std, dtype=torch.float16, channels_last=True)
    batch = probe.batch(1, 0, 0, 20)
    plain = make().batch(1, 0, 0, 20).x
    assert batch.x.dtype == torch.float16
    assert batch.x.is_contiguous(memory_format=torch.channels_last)
    shift, scale = (torch.tensor(v)[:, None, None] for v in (mean, std))
    torch.testing.assert_close(batch.x.float(), (plain - shift) / scale, rtol=2e-3, atol=2e-3)


@pytest.mark.parametrize("estimator", ["consistent", "paper"])
def test_result_is_evaluate_features_scale_by_scale(estimator: str) -> None:
    probe = make(estimator=estimator)
    curve = run(probe)
    halves = {}
    for scale in range(3):
        for split in range(probe.splits):
            batch = probe.batch(scale, split, 0, 200)
            halves[scale, split] = (encode(batch.x), batch.y)
    points = [
        sb.evaluate_features(
            *halves[s, 0], *halves.get((s, 1), (None, None)), eps=(0.0, 0.3), estimator=estimator
        )
        for s in range(3)
    ]
    for e, eps in enumerate((0.0, 0.3)):
        rows = [one for one in curve.curve if one.eps == eps]
        assert [one.scale for one in rows] == [0.5, 1.0, 2.5]
        for name in ("accuracy", "accuracy_stderr", "robust_accuracy", "bound", "bound_stderr", "t"):
            found = [getattr(one, name) for one in rows]
            np.testing.assert_allclose(found, [getattr(p, name)[e] for p in points], rtol=1e-9)
        np.testing.assert_allclose([r.t_stderr for r in rows], [p.stderr[e] for p in points], rtol=1e-9)
        np.testing.assert_allclose([r.raw_accuracy for r in rows], norm.cdf([0.5, 1.0, 2.5]), rtol=1e-12)
        ratio = sb.auc_ratio(
            (0.5, 1.0, 2.5),
            [p.accuracy[e] for p in points],
            [p.bound[e] for p in points],
            thresholds=THRESHOLDS,
        )
        found = [s.score for s in curve.scores if s.eps == eps]
        assert [s.threshold for s in curve.scores if s.eps == eps] == list(THRESHOLDS)
        np.testing.assert_allclose(found, ratio, rtol=1e-9)


def test_integral_over_the_grid() -> None:
    exact, grid = run(make()), run(make(integral="grid"))
    assert grid.curve == exact.curve
    accuracy, bound = (
        torch.tensor([getattr(one, k) for one in exact.curve if one.eps == 0.3])
        for k in ("accuracy", "bound")
    )
    raw = TASK.raw((0.3,))
    a_t = torch.tensor(THRESHOLDS, dtype=torch.float64)
    area = score_auc(accuracy.double(), bound.double(), a_t, integral="grid")
    ratio = area / score_auc(raw[0][:, 0], raw[2][:, 0], a_t, integral="grid")
    found = [one.score for one in grid.scores if one.eps == 0.3]
    np.testing.assert_allclose(found, ratio, rtol=1e-6)
    assert [one.stderr for one in grid.scores] == [one.stderr for one in exact.scores]


def test_intervals_are_95_percent_of_a_normal() -> None:
    for one in run(make()).scores:
        assert one.ci95_low == pytest.approx(one.score + norm.ppf(0.025) * one.stderr, rel=1e-12)
        assert one.ci95_high == pytest.approx(one.score + norm.ppf(0.975) * one.stderr, rel=1e-12)


@pytest.mark.parametrize(
    ("estimator", "rounding"),
    # A count falls in steps of 1/200 with eps, which 8 nodes integrate to 1.1e-3 (12 seeds, at most 1.9e-3): a ninth of
    # the error of the area.
    [("gaussian", 1e-6), ("consistent", 2e-3)],
)
def test_robust_area_is_the_integral_over_eps(estimator: str, rounding: float) -> None:
    """The raw one in closed form, the representation's by a fine sum over budgets, and exactly by its 8 nodes."""
    curve = run(make(estimator=estimator))
    raw = np.mean([quad(lambda e, s=s: norm.cdf(s * (1 - e)), 0, 1)[0] for s in TASK.scale_values])
    assert curve.robust_area.raw == pytest.approx(raw, abs=1e-6)

    def mean_over_scales(eps: np.ndarray, weights: np.ndarray) -> float:
        batches = [make().batch(s, 0, 0, 200) for s in range(3)]
        points = [sb.evaluate_features(encode(one.x), one.y, eps=eps, estimator=estimator) for one in batches]
        return float(np.mean([one.robust_accuracy @ weights for one in points]))

    fine = mean_over_scales((np.arange(400) + 0.5) / 400, np.full(400, 1 / 400))
    assert curve.robust_area.value == pytest.approx(fine, abs=rounding)
    nodes, weights = np.polynomial.legendre.leggauss(8)
    assert curve.robust_area.value == pytest.approx(mean_over_scales((nodes + 1) / 2, weights / 2), rel=1e-9)
    assert curve.robust_area.ratio == pytest.approx(curve.robust_area.value / curve.robust_area.raw)
    assert 0 < curve.robust_area.stderr < 0.1


@pytest.mark.parametrize("estimator", ["consistent", "paper"])
def test_specification_backend_agrees(estimator: str) -> None:
    fast, slow = (run(make(estimator=estimator, backend=name)) for name in ("auto", "torch"))
    for name in ("scores", "curve"):
        for a, b in zip(getattr(fast, name), getattr(slow, name), strict=True):
            left, right = (np.array(list(dataclasses.asdict(one).values()), dtype=float) for one in (a, b))
            # The specification draws its normals in float64, the compiled core in float32.
            np.testing.assert_allclose(
                left, right, rtol=2e-4, atol=2e-4 if estimator == "consistent" else 2e-2
            )


def test_features_are_kept_only_until_their_scale_is_complete() -> None:
    for estimator, splits in (("consistent", 1), ("paper", 2)):
        probe = make(estimator=estimator)
        assert probe.feature_dim is None
        for batch in probe.batches(80):
            probe.update(batch, encode(batch.x))
            kept = {key: buffer.x.shape for key, buffer in probe._buffers.items()}
            assert all(key[0].scale_index == batch.scale_index for key in kept)
            assert len(kept) <= splits
            assert all(shape == (200, 10) for shape in kept.values())
        assert not probe._buffers
        assert probe.feature_dim == 10


def test_features_are_copied() -> None:
    """An encoder may write all its batches into one tensor."""
    probe, out = make(), torch.empty(100, 10, dtype=torch.float64)
    for batch in probe.batches(100):
        probe.update(batch, out.copy_(encode(batch.x)))
    assert probe.compute() == run(make())


def test_half_precision_features_are_kept_in_float32() -> None:
    a, b = make(), make()
    for batch in a.batches(100):
        features = encode(batch.x).half()
        a.update(batch, features)
        b.update(batch, features.float())
    assert a.compute() == b.compute()


def test_features_that_need_gradients_are_taken() -> None:
    probe = make()
    for batch in probe.batches(100):
        probe.update(batch, encode(batch.x).requires_grad_())
    assert probe.compute() == run(make())


MEMORY = """
import json, resource, sys
import torch
import synbench_fast as sb

def peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024

def scored(scales, estimator):
    # N x F = 6 MB per scale and half
    probe = sb.Probe(sb.GaussianTask((192,), tuple(0.1 * (i + 1) for i in range(scales))), 0.2,
                     samples=8192, estimator=estimator)
    for batch in probe.batches(512):
        probe.update(batch, batch.x)
    probe.compute()
    return peak()

torch.set_num_threads(1)
report = {"start": peak()}
for estimator in ("consistent", "paper"):
    report[estimator] = [scored(4, estimator), scored(24, estimator)]

D = 3 * 512 * 512  # one sample: 3 MB; 96 of them: 302 MB; D x D: 2.5 TB
before = peak()
sb.score(lambda x: x.flatten(1)[:, :: D // 8], input_shape=(3, 512, 512), scales=(1.0,), samples=96,
         batch_size=4, estimator="consistent")
report["large input"] = [before, peak()]
print(json.dumps(report))
"""


@pytest.fixture(scope="module")
def peaks() -> dict[str, Any]:
    """Peak resident memory of a fresh process at several points of its life."""
    done = subprocess.run([sys.executable, "-c", MEMORY], capture_output=True, text=True, timeout=PATIENCE)
    assert done.returncode == 0, done.stderr
    return dict(json.loads(done.stdout))


@pytest.mark.parametrize("estimator", ["consistent", "paper"])
def test_memory_does_not_grow_with_the_scales(peaks: dict[str, Any], estimator: str) -> None:
    """Twenty more scales of 6 MB of features each, or twice that: at most 24 MB more."""
    four, twenty_four = peaks[estimator]
    assert twenty_four - four < 24e6


def test_no_array_of_the_input_dimension_squared_or_times_all_samples(peaks: dict[str, Any]) -> None:
    """96 samples of 3 MB through batches of 4 take less than 100 MB."""
    before, after = peaks["large input"]
    assert after - before < 100e6


# Mistakes


@pytest.mark.parametrize(
    ("options", "parts"),
    [
        ({"eps": 1.0}, ["eps: expected values in [0, 1)", "got 1"]),
        ({"eps": ()}, ["eps: expected at least one value in [0, 1), got none"]),
        ({"estimator": "consistant"}, ["estimator: expected one of", "did you mean consistent?"]),
        ({"samples": 3}, ["samples: expected an integer of at least 4 per scale, got 3"]),
        ({"samples": 100.0}, ["samples: expected an integer of at least 4 per scale, got 100.0"]),
        ({"samples": True}, ["samples: expected an integer of at least 4 per scale, got True"]),
        ({"thresholds": (0.6, 1.0)}, ["thresholds: expected accuracies in [0, 1), got 1"]),
        ({"thresholds": ()}, ["thresholds: expected at least one value in [0, 1), got none"]),
        ({"thresholds": "x"}, ["thresholds: expected a number or a sequence of numbers, got 'x'"]),
        ({"integral": "gird"}, ["integral: expected 'exact' or 'grid', got 'gird', did you mean grid?"]),
        ({"seed": -1}, ["seed: expected an integer in [0, 2^64), got -1"]),
        ({"seed": 2**64}, ["seed: expected an integer in [0, 2^64), got 18446744073709551616"]),
        ({"seed": 0.5}, ["seed: expected an integer in [0, 2^64), got 0.5"]),
    ],
)
def test_mistakes_are_named_before_anything_is_drawn(options: dict[str, Any], parts: list[str]) -> None:
    with refused(*parts):
        make(**options)


def test_unknown_backend_is_named_before_anything_is_drawn() -> None:
    with pytest.raises(ValueError, match=r"^backend: expected 'auto' or one of .* got 'cuda'$"):
        make(backend="cuda")


@pytest.mark.parametrize("size", [0, -3, 2.5])
def test_batch_size_is_a_positive_integer(size: Any) -> None:
    with refused(f"batch_size: expected a positive integer, got {size}"):
        next(make().batches(size))


@pytest.mark.parametrize(
    ("features", "part"),
    [
        (torch.zeros(50), "features: expected floating [50, F] for a batch of 50, got float32 [50]"),
        (torch.zeros(49, 4), "features: expected floating [50, F] for a batch of 50, got float32 [49, 4]"),
        (
            torch.zeros(50, 4, 1),
            "features: expected floating [50, F] for a batch of 50, got float32 [50, 4, 1]",
        ),
        (torch.zeros(50, 4, dtype=torch.int64), "for a batch of 50, got int64 [50, 4]"),
    ],
)
def test_features_of_another_form(features: torch.Tensor, part: str) -> None:
    probe = make()
    with refused(part):
        probe.update(probe.batch(0, 0, 0, 50), features)


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_features_that_are_not_finite_are_located(value: float) -> None:
    probe = make()
    batch = probe.batch(1, 0, 100, 50)
    features = encode(batch.x)
    features[17, 4] = value
    with refused(f"features: expected finite values, got {value} in feature 4 of sample 117 at scale 1"):
        probe.update(batch, features)
    probe.update(batch, encode(batch.x))  # the batch can be repeated


def test_samples_that_come_twice() -> None:
    probe = make()
    probe.update(probe.batch(0, 0, 0, 50), torch.zeros(50, 4))
    with refused("batch: expected samples not seen before, got 49 .. 59 of scale 0.5 again"):
        batch = probe.batch(0, 0, 49, 11)
        probe.update(batch, torch.zeros(11, 4))
    probe = make()
    for batch in probe.batches(200):
        probe.update(batch, encode(batch.x))
    with refused("batch: expected samples not seen before, got scale 1 again"):
        probe.update(probe.batch(1, 0, 0, 5), torch.zeros(5, 10))


@pytest.mark.parametrize("where", [(0, 0, 190), (0, 1, 0), (3, 0, 0), (-1, 0, 0)])
def test_samples_that_do_not_belong_to_the_run(where: tuple[int, int, int]) -> None:
    scale, split, start = where
    batch = Batch(torch.zeros(20, *SHAPE), torch.zeros(20, dtype=torch.uint8), scale, split, start)
    last = f"got {start} .. {start + 19} of split {split} of scale index {scale}"
    with refused("batch: expected samples of 3 scales, 1 splits and 200 samples each", last):
        make().update(batch, torch.zeros(20, 4))


@pytest.mark.parametrize("where", [(0, 0, 50), (2, 0, 0)])
def test_number_of_features_is_one_for_the_whole_run(where: tuple[int, int, int]) -> None:
    probe = make()
    probe.update(probe.batch(0, 0, 0, 50), torch.zeros(50, 4))
    with refused("features: expected F = 4 as in earlier batches, got 5"):
        probe.update(probe.batch(*where, 10), torch.zeros(10, 5))


def test_result_before_the_last_batch() -> None:
    probe = make()
    with refused("compute: expected the features of all 3 scales, got 0; incomplete: 0.5, 1, 2.5"):
        probe.compute()
    for batch in probe.batches(200):
        if batch.scale_index != 1:
            probe.update(batch, encode(batch.x))
    with refused("compute: expected the features of all 3 scales, got 2; incomplete: 1"):
        probe.compute()
    many = make(sb.GaussianTask(SHAPE))
    with refused("got 0; incomplete: 0.1, 0.2, 0.3, 0.4, 0.5, ..."):
        many.compute()


@pytest.mark.parametrize("estimator", ["consistent", "paper"])
def test_features_that_are_all_constant(estimator: str) -> None:
    probe = make(estimator=estimator)
    batches = list(probe.batches(200))
    for batch in batches[: probe.splits - 1]:
        probe.update(batch, torch.ones(200, 4))
    with refused("features: expected at least one that varies", "got constants only (at scale 0.5)"):
        probe.update(batches[probe.splits - 1], torch.ones(200, 4))


def test_a_shape_is_no_task() -> None:
    with refused("task: expected a GaussianTask, got tuple"):
        sb.Probe((3, 8, 8))  # type: ignore[arg-type]


def test_too_few_samples_names_the_number_to_use() -> None:
    probe = make(samples=12)
    with refused("samples: expected more than F + 2 = 12", "got 12; use at least 24 (at scale 0.5)"):
        run(probe)
    assert len(run(make(samples=24)).scores) == 18  # and that number works


def test_class_that_never_comes() -> None:
    probe = make(sb.GaussianTask(SHAPE, scales=(1.0,), prior=0.001))
    with refused("train labels: expected samples of both classes, got none of class 1 (at scale 1)"):
        run(probe)


def test_warnings() -> None:
    assert run(make()).warnings == []
    low = run(make(sb.GaussianTask(SHAPE, scales=(0.3, 0.5)), thresholds=(0.6, 0.7)))
    text = "threshold 0.7: the raw data exceed this accuracy at no scale, so there is no score above it"
    assert low.warnings == [text]
    assert all(math.isnan(one.score) == (one.threshold == 0.7) for one in low.scores)


@pytest.mark.parametrize("prior", [0.5, 0.3])
def test_scales_without_a_signal_are_warned_of_and_have_no_nan(prior: float) -> None:
    """Features of pure noise: at about half of the scales nothing is found."""
    probe = make(sb.GaussianTask(SHAPE, scales=(0.5, 1.0, 1.5, 2.0, 2.5, 3.0), prior=prior))
    noise = torch.Generator().manual_seed(1)
    for batch in probe.batches(200):
        probe.update(batch, torch.randn(200, 20, generator=noise))
    curve = probe.compute()
    expected = ["interval withheld above"] if prior == 0.3 else []
    expected.append("no signal found (t <= 0) at ")
    for text, start in zip(curve.warnings, expected, strict=True):
        assert text.startswith(start)
    assert all(math.isfinite(one.score) for one in curve.scores)
    # Naming the commoner class alone is right in 0.7: up to there the error is withheld.
    for one in curve.scores:
        assert math.isnan(one.stderr) == (prior == 0.3 and one.threshold <= 0.7)
    assert all(math.isfinite(one.accuracy) for one in curve.curve)
    assert math.isfinite(curve.robust_area.value) and math.isfinite(curve.robust_area.stderr)
