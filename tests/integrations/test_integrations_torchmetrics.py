"""The metric of torchmetrics: equal to Probe, whatever the batches, processes and containers."""

from __future__ import annotations

import doctest
import pickle
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from checks import PATIENCE, refused
from torch import Tensor, nn

import synbench_fast as sb
from synbench_fast.engine.curve import Scoring
from synbench_fast.ops.feature_stats import feature_stats
from synbench_fast.stats.estimators import BUILT_IN, Gaussian, Sample

torchmetrics = pytest.importorskip(
    "torchmetrics", reason="torchmetrics is not installed", exc_type=ImportError
)
from synbench_fast.integrations import number_names  # noqa: E402
from synbench_fast.integrations import torchmetrics as module  # noqa: E402
from synbench_fast.integrations.torchmetrics import SynBenchScore  # noqa: E402

# torchmetrics warns of its own settings.
pytestmark = pytest.mark.filterwarnings("ignore:.*torchmetrics.*")

TASK = sb.GaussianTask((2, 4, 4), scales=(0.8, 1.6, 2.4, 3.2, 4.0))
F = 12


def features(x: Tensor) -> Tensor:
    """Correlated and far from the origin: 1 000 deviations in the first feature."""
    weight = torch.linspace(-1, 1, F * 32, dtype=x.dtype).view(F, 32).sin()
    far = torch.zeros(F, dtype=x.dtype)
    far[0] = 1e3
    return (x.flatten(1) @ weight.T).tanh() + 0.1 * x.flatten(1)[:, :F] + far


def probe(average: str = "sampled", **options: Any) -> sb.Probe:
    return sb.Probe(TASK, samples=200, dtype=torch.float64, average=average, estimator="gaussian", **options)


def fed(metric: SynBenchScore, **options: Any) -> SynBenchScore:
    for x, y, scale in metric.batches(samples=200, batch_size=48, dtype=torch.float64, **options):
        metric.update(features(x), y, scale)
    return metric


@pytest.mark.parametrize("average", ["sampled", "published"])
def test_equals_probe(average: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """But for what halves of the samples and single margins tell of the errors: moments of all are kept alone."""
    monkeypatch.setattr(Gaussian, "_drift", lambda *_: None)
    monkeypatch.setattr(Scoring, "_refuted", lambda *_: {})
    one = probe(average, thresholds=(0.6, 0.7))
    for batch in one.batches(64):
        one.update(batch, features(batch.x))
    expected = one.compute()
    metric = fed(SynBenchScore(TASK, F, thresholds=(0.6, 0.7), average=average))
    got = metric.result()
    for mine, theirs in zip(got.scores, expected.scores, strict=True):
        assert vars(mine) == pytest.approx(vars(theirs), rel=1e-9)
    for point, other in zip(got.curve, expected.curve, strict=True):
        known = {key: value for key, value in vars(other).items() if "excess" not in key}
        assert {key: vars(point)[key] for key in known} == pytest.approx(known, rel=1e-8)
    assert got.robust_area.value == pytest.approx(expected.robust_area.value, rel=1e-9)
    assert torch.tensor(got.score_covariance) == pytest.approx(
        torch.tensor(expected.score_covariance), rel=1e-8
    )
    values = metric.compute()
    assert all(one.dtype == torch.float64 and one.ndim == 0 for one in values.values())
    first = expected.scores[0]
    assert float(values["score_eps0_a0.6"]) == pytest.approx(first.score, rel=1e-9)
    assert float(values["stderr_eps0_a0.6"]) == pytest.approx(first.stderr, rel=1e-8)
    assert float(values["ci95_high_eps0_a0.6"]) == pytest.approx(first.ci95_high, rel=1e-9)
    assert len(values) == 2 * 2 * 4 + 3


def test_other_estimators_are_no_functions_of_the_moments() -> None:
    """The reason for refusing them: a sample with the same class means and scatter, and other values."""
    generator = torch.Generator().manual_seed(0)
    y = torch.arange(400) % 2
    x = torch.randn(400, 3, generator=generator, dtype=torch.float64) + 0.8 * (2 * y[:, None] - 1)
    heavy = x.clone()
    for label in (0, 1):  # two-sided signs in place of normal draws, brought to the same moments
        rows = y == label
        drawn = torch.randn(200, 3, generator=generator, dtype=torch.float64).sign()
        drawn = drawn - drawn.mean(0)
        root, other = (torch.linalg.cholesky(one.T @ one) for one in (x[rows] - x[rows].mean(0), drawn))
        heavy[rows] = x[rows].mean(0) + drawn @ torch.linalg.inv(other).T @ root.T
    both = [feature_stats(one, y) for one in (x, heavy)]
    torch.testing.assert_close(both[0].mean, both[1].mean)
    torch.testing.assert_close(both[0].scatter, both[1].scatter)
    gaussian = [BUILT_IN["gaussian"].point(one, (0.0, 0.2)).accuracy for one in both]
    assert gaussian[0] == pytest.approx(gaussian[1], rel=1e-10)
    for name in ("consistent", "counted", "paper"):
        accuracy = [
            BUILT_IN[name].point(both[0], (0.0, 0.2), sample=Sample(one, y), test=Sample(one, y)).accuracy
            for one in (x, heavy)
        ]
        assert (abs(accuracy[0] - accuracy[1]) > 0.005).all()


def test_scales_per_sample_mixed_batches_and_merging() -> None:
    whole = fed(SynBenchScore(TASK, F))
    listed = list(whole.batches(samples=200, batch_size=48, dtype=torch.float64))
    x, y = torch.cat([one[0] for one in listed]), torch.cat([one[1] for one in listed])
    scale = torch.cat([torch.full((len(one[1]),), one[2], dtype=torch.float64) for one in listed])
    order = torch.randperm(len(y), generator=torch.Generator().manual_seed(0))
    parts = [SynBenchScore(TASK, F), SynBenchScore(TASK, F)]
    for number, rows in enumerate(order.split(97)):
        parts[number % 2].update(features(x[rows]), y[rows].bool(), scale[rows].float())
    parts[0].merge_state(parts[1])
    merged, expected = parts[0].compute(), whole.compute()
    assert merged.keys() == expected.keys()
    for name, value in expected.items():
        assert float(merged[name]) == pytest.approx(float(value), rel=1e-9)


def test_clone_pickle_state_dict_and_reset() -> None:
    metric = fed(SynBenchScore(TASK, F))
    expected = metric.compute()
    assert metric.clone().compute() == expected
    assert pickle.loads(pickle.dumps(metric)).compute() == expected
    assert metric.state_dict() == {}
    metric.persistent(True)
    fresh = SynBenchScore(TASK, F)
    fresh.persistent(True)
    fresh.load_state_dict(metric.state_dict())
    fresh._update_count = 1  # load_state_dict does not set it, and compute warns
    assert fresh.compute() == expected
    metric.reset()
    assert int(metric.moments_0.count_nonzero()) == 0
    assert fed(metric).compute() == expected


def test_state_stays_float64_when_a_module_around_it_is_cast() -> None:
    holder = nn.ModuleDict({"metric": SynBenchScore(TASK, F), "net": nn.Linear(2, 2)})
    holder.to(torch.bfloat16).half().double().float()
    holder["metric"].set_dtype(torch.float16)
    assert holder["metric"].moments_0.dtype == torch.float64
    assert fed(holder["metric"]).compute() == fed(SynBenchScore(TASK, F)).compute()


def test_reset_in_inference_mode() -> None:
    metric = SynBenchScore(TASK, F)
    with torch.inference_mode():
        fed(metric).compute()
        metric.reset()
    assert fed(metric).compute() == fed(SynBenchScore(TASK, F)).compute()


def test_in_a_collection() -> None:
    collection = torchmetrics.MetricCollection(
        {"plain": SynBenchScore(TASK, F, eps=0), "robust": SynBenchScore(TASK, F, eps=0.3)}, prefix="val/"
    )
    alone = SynBenchScore(TASK, F, eps=0.3)
    for x, y, scale in alone.batches(samples=200, dtype=torch.float64):
        # forward, as a training loop calls it: of one batch alone there is no score
        assert collection(features=features(x), labels=y, scale=scale) == {}
        assert alone(features(x), y, scale) == {}
    found = collection.compute()
    expected = alone.compute()["score_eps0.3_a0.6"]
    named = [name for name in found if name.endswith("score_eps0.3_a0.6")]
    assert len(named) == 1 and named[0].startswith("val/")
    assert torch.equal(found[named[0]], expected)


def tracked(tracker: Any) -> list[Any]:
    """What `compute` gives after each of three epochs with an encoder of more and more of the input."""
    values, generator = [], torch.Generator().manual_seed(0)
    for width in (2, 12, 6):
        tracker.increment()
        for x, y, scale in SynBenchScore(TASK, F).batches(samples=200, dtype=torch.float64):
            kept = torch.arange(F) < width  # the other features know nothing
            noise = torch.randn(len(x), F, generator=generator, dtype=x.dtype)
            tracker.update(features=torch.where(kept, x.flatten(1)[:, :F], noise), labels=y, scale=scale)
        values.append(tracker.compute())
    return values


@pytest.mark.parametrize("only", ["score_eps0_a0.6", "robust_area", "stderr_eps0.2_a0.6"])
def test_a_tracker_finds_the_best(only: str) -> None:
    """The encoder that keeps most has the highest score; of errors the smallest is best."""
    tracker = torchmetrics.wrappers.MetricTracker(SynBenchScore(TASK, F, only=only))
    values = tracked(tracker)
    assert all(one.ndim == 0 and one.dtype == torch.float64 for one in values)
    assert torch.equal(tracker.compute_all(), torch.stack(values))
    best, step = tracker.best_metric(return_step=True)
    plain = [float(one) for one in values]
    assert best == (min(plain) if "stderr" in only else max(plain)) and plain[step] == best
    if "stderr" not in only:
        assert step == 1


def test_a_tracker_of_a_collection_finds_the_best_of_each() -> None:
    """The members keep the same moments, so that the collection updates one of them; the values are their own."""
    names = {"clean": "score_eps0_a0.6", "robust": "score_eps0.2_a0.6", "error": "stderr_eps0_a0.6"}
    collection = torchmetrics.MetricCollection(
        {key: SynBenchScore(TASK, F, only=name) for key, name in names.items()}
    )
    tracker = torchmetrics.wrappers.MetricTracker(collection)
    assert tracker.maximize == [key != "error" for key in collection]
    values = tracked(tracker)
    alone = tracked(whole := torchmetrics.wrappers.MetricTracker(SynBenchScore(TASK, F), maximize=True))
    best, steps = tracker.best_metric(return_step=True)
    for key, name in names.items():
        expected = [float(one[name]) for one in alone]
        assert [float(one[key]) for one in values] == expected
        chosen = (min if key == "error" else max)(expected)
        assert best[key] == chosen and expected[steps[key]] == chosen
        assert whole.compute_all()[name].tolist() == expected


def test_one_number_in_arithmetic_and_wrappers() -> None:
    metric = fed(SynBenchScore(TASK, F, only="score_eps0_a0.6"))
    value = float(fed(SynBenchScore(TASK, F)).compute()["score_eps0_a0.6"])
    assert float(metric.compute()) == value and float((2 * metric).compute()) == 2 * value
    assert pickle.loads(pickle.dumps(metric)).compute() == value and metric.higher_is_better
    extremes = torchmetrics.wrappers.MinMaxMetric(metric).compute()
    assert float(extremes["max"]) == float(extremes["raw"]) == value
    assert SynBenchScore(TASK, F).higher_is_better is None  # scores and errors have no one order


def test_a_number_that_is_withheld_is_nan_alone() -> None:
    """No scale of the raw optimum is above this accuracy: there is no score to give."""
    options: dict[str, Any] = {"eps": 0.9, "thresholds": 0.99999}
    assert "score_eps0.9_a0.99999" not in fed(SynBenchScore(TASK, F, **options)).compute()
    alone = SynBenchScore(TASK, F, only="score_eps0.9_a0.99999", **options)
    assert fed(alone).compute().isnan()


def test_names_of_numbers_are_those_of_export() -> None:
    metric = SynBenchScore(TASK, F, eps=(0.2, 0.0, 0.25), thresholds=(0.7, 0.6))
    assert list(fed(metric).compute()) == number_names(metric.eps, metric.thresholds)


@pytest.fixture
def pyplot() -> Iterator[Any]:
    matplotlib = pytest.importorskip("matplotlib", reason="matplotlib is not installed")
    matplotlib.use("Agg")
    from matplotlib import pyplot

    yield pyplot
    pyplot.close("all")


def drawn(axes: Any) -> dict[str, list[float]]:
    return {
        line.get_label(): [float(one) for one in line.get_ydata()]
        for line in axes.lines
        if line.get_label() in axes.get_legend_handles_labels()[1]
    }


def intervals(axes: Any) -> list[list[list[float]]]:
    """[low, high] of every point of every errorbar."""
    return [
        [part.reshape(-1, 2)[:, 1].tolist() for part in bar[2][0].get_segments()] for bar in axes.containers
    ]


def test_plot_shows_scores_with_their_intervals(pyplot: Any) -> None:
    metric = fed(SynBenchScore(TASK, F))
    values = {name: float(one) for name, one in metric.compute().items()}
    shown = ["score_eps0_a0.6", "score_eps0.2_a0.6", "robust_area"]
    figure, axes = metric.plot()
    assert figure is axes.figure and drawn(axes) == {name: [values[name]] for name in shown}
    for name, bars in zip(shown[:2], intervals(axes), strict=False):
        low, high = (values[name.replace("score", bound)] for bound in ("ci95_low", "ci95_high"))
        assert bars == [pytest.approx([low, high])]
    half = 1.959964 * values["robust_area_stderr"]
    (bar,) = intervals(axes)[2]
    assert bar == pytest.approx([values["robust_area"] - half, values["robust_area"] + half], rel=1e-6)
    bottom, top = axes.get_ylim()
    assert all(bottom < low <= high < top for bars in intervals(axes) for low, high in bars)


def test_plot_of_steps_on_axes_of_others(pyplot: Any) -> None:
    metric = fed(SynBenchScore(TASK, F))
    one = metric.compute()
    two = {name: value / 2 for name, value in one.items() if not name.startswith("ci95")}
    _, (left, right) = pyplot.subplots(1, 2)
    left.plot([0, 1], [0.5, 0.5])
    assert metric.plot([one, two], left) == (None, left)
    area = float(one["robust_area"])
    assert drawn(left)["robust_area"] == [area, area / 2]
    assert [len(bars[0]) for bars in intervals(left)] == [2, 2, 2]
    assert [len(bars[1]) for bars in intervals(left)] == [
        0,
        0,
        2,
    ]  # the intervals of scores that are not there
    alone = SynBenchScore(TASK, F, only="robust_area")
    assert alone.plot([torch.tensor(0.5), torch.tensor(0.75)], right) == (None, right)
    assert right.lines[0].get_ydata().tolist() == [0.5, 0.75]
    figure, axes = fed(alone).plot()
    assert axes.lines[0].get_ydata() == pytest.approx([area]) and figure is axes.figure


def test_plot_of_trackers_and_collections(pyplot: Any) -> None:
    names = {"clean": "score_eps0_a0.6", "area": "robust_area"}
    collection = torchmetrics.MetricCollection(
        {key: SynBenchScore(TASK, F, only=name) for key, name in names.items()}
    )
    tracker = torchmetrics.wrappers.MetricTracker(collection)
    values = tracked(tracker)
    _, axes = tracker.plot()
    assert drawn(axes) == {key: [float(one[key]) for one in values] for key in names}
    whole = torchmetrics.wrappers.MetricTracker(SynBenchScore(TASK, F), maximize=True)
    steps = tracked(whole)
    _, axes = SynBenchScore(TASK, F).plot(whole.compute_all())
    assert drawn(axes)["robust_area"] == [float(one["robust_area"]) for one in steps]
    assert [len(bars) for bars in intervals(axes)] == [3, 3, 3]
    for key, (figure, own) in zip(collection.keys(), tracker[-1].plot(), strict=True):
        assert figure is own.figure and own.lines[0].get_ydata() == [float(values[-1][key])]


@pytest.mark.parametrize(
    "val", [[], {}, 3, "score", [1.0], [{}, torch.zeros(())], [{"stderr_eps0_a0.6": torch.tensor(0.1)}]]
)
def test_what_cannot_be_drawn_is_one_line(val: Any) -> None:
    pytest.importorskip("matplotlib", reason="matplotlib is not installed")
    with refused("val: expected "):
        SynBenchScore(TASK, F).plot(val)


def test_plot_without_matplotlib_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with refused(
        'matplotlib: expected it to be installed, got no such library; pip install "synbench-fast[demo]"'
    ):
        SynBenchScore(TASK, F).plot()


def test_mistakes_are_one_line() -> None:
    with refused(
        "only: expected one of score_eps0_a0.6, ", "got 'score_eps0.1_a0.6', did you mean score_eps0.2_a0.6?"
    ):
        SynBenchScore(TASK, F, only="score_eps0.1_a0.6")
    with refused("only: expected one of ", "got 3"):
        SynBenchScore(TASK, F, only=3)  # type: ignore[arg-type]
    metric = SynBenchScore(TASK, F)
    x, y = torch.zeros(4, F), torch.tensor([0, 1, 0, 1])
    for other in ("consistent", "counted", "paper"):
        with refused("estimator: expected gaussian", f"got {other}"):
            SynBenchScore(TASK, F, estimator=other)
    with refused("estimator", "did you mean counted?"):
        SynBenchScore(TASK, F, estimator="countd")
    with refused("feature_dim: expected a positive integer, got 0"):
        SynBenchScore(TASK, 0)
    with refused("features: expected floating [B, 12], got float32 [4, 3]"):
        metric.update(torch.zeros(4, 3), y, 0.8)
    with refused("features: expected floating [B, 12], got int64 [4, 12]"):
        metric.update(x.long(), y, 0.8)
    with refused("features: expected floating [B, 12], got float32 []"):
        metric.update(torch.tensor(1.0), y, 0.8)
    with refused("labels: expected integers [4], got int64 [3]"):
        metric.update(x, y[:3], 0.8)
    with refused("labels: expected integers [4], got float32 [4]"):
        metric.update(x, y.float(), 0.8)
    with refused("labels: expected 0 and 1, got values from 0 to 2"):
        metric.update(x, torch.tensor([0, 1, 2, 1]), 0.8)
    with refused("scale: expected one of the task's 5 from 0.8 to 4, got 0.81, did you mean 0.8?"):
        metric.update(x, y, 0.81)
    with pytest.raises(ValueError, match=r"got 5000$"):  # no scale is near
        metric.update(x, y, 5000)
    with refused("scale: expected one of the task's 5", "got nan"):
        metric.update(x, y, float("nan"))
    with refused("scale: expected one value or 4 values, got [2]"):
        metric.update(x, y, torch.tensor([0.8, 0.8]))
    with refused("features: expected finite values, got nan in feature 2 of row 1"):
        bad = x.clone()
        bad[1, 2] = float("nan")
        metric.update(bad, y, 0.8)
    assert int(metric.moments_0.count_nonzero()) == 0  # what was refused left nothing behind
    metric.update(x, y, 0.8)
    with refused("compute: expected features of all 5 scales, got 1; none of 1.6, 2.4, 3.2, 4"):
        metric.compute()
    with refused("compute: expected features of all 5 scales"):
        metric.result()


def test_too_few_samples_name_the_scale() -> None:
    metric = SynBenchScore(TASK, F)
    for x, y, scale in metric.batches(samples=10, dtype=torch.float64):
        metric.update(features(x), y, scale)
    with refused("(at scale 0.8)"):
        metric.compute()


WORKER = """
import sys, torch
import torch.distributed as dist
from test_integrations_torchmetrics import F, TASK, fed
from synbench_fast.integrations.torchmetrics import SynBenchScore
rank, path = int(sys.argv[1]), sys.argv[2]
dist.init_process_group("gloo", init_method=f"file://{path}/rendezvous", rank=rank, world_size=2)
metric = fed(SynBenchScore(TASK, F))
own = int(sum(getattr(metric, f"moments_{n}")[:2].sum() for n in range(5)))
assert 0 < own < 1000, own
values = metric.compute()
curve = metric.result()
assert int(sum(getattr(metric, f"moments_{n}")[:2].sum() for n in range(5))) == own  # given back
assert curve.scores[0].score == float(values["score_eps0_a0.6"])
torch.save({name: float(value) for name, value in values.items()}, f"{path}/{rank}.pt")
dist.destroy_process_group()
"""


def test_two_processes_equal_one(tmp_path: Path) -> None:
    expected = fed(SynBenchScore(TASK, F)).compute()
    code = f"import sys; sys.path[:0] = {[str(Path(__file__).parents[1]), *sys.path]!r}\n{WORKER}"
    running = [
        subprocess.Popen(
            [sys.executable, "-c", code, str(rank), str(tmp_path)], stderr=subprocess.PIPE, text=True
        )
        for rank in range(2)
    ]
    for one in running:
        _, text = one.communicate(timeout=PATIENCE)
        assert one.returncode == 0, text
    for rank in range(2):
        found = torch.load(tmp_path / f"{rank}.pt", weights_only=True)
        assert found == pytest.approx({name: float(value) for name, value in expected.items()}, rel=1e-9)


def test_doctest() -> None:
    assert doctest.testmod(module).failed == 0
    assert doctest.testmod(module).attempted > 5


@pytest.mark.parametrize(
    ("name", "library", "extra"),
    [
        ("torchmetrics", "torchmetrics", "torchmetrics"),
        ("lightning", "lightning", "lightning"),
        ("transformers", "transformers", "hf"),
        ("lm_eval", "lm_eval", "lm_eval"),
    ],
)
def test_without_the_library(name: str, library: str, extra: str, monkeypatch: pytest.MonkeyPatch) -> None:
    import importlib

    monkeypatch.delitem(sys.modules, f"synbench_fast.integrations.{name}", raising=False)
    for known in [one for one in sys.modules if one.split(".")[0] == library]:
        monkeypatch.delitem(sys.modules, known)
    monkeypatch.setitem(sys.modules, library, None)
    with refused(f'{library}: expected the package, got none; pip install "synbench-fast[{extra}]"'):
        importlib.import_module(f"synbench_fast.integrations.{name}")
