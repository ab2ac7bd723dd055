"""The synthetic task: what it accepts, the raw-data optimum, and which random numbers belong to what."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from checks import Array, population, refused
from scipy.integrate import quad
from scipy.optimize import minimize_scalar
from scipy.stats import norm
from task_cases import explicit_covariance

from synbench_fast.ops.sample_mixture import sample_mixture
from synbench_fast.scales import spread_scales
from synbench_fast.stats import gaussian
from synbench_fast.tasks.patterns import class_means
from synbench_fast.tasks.task import GaussianTask

EPS = (0.0, 0.2, 0.5, 0.9)


def test_published_scales() -> None:
    assert spread_scales(49) == tuple(round(0.1 * i, 4) for i in range(1, 50))
    assert spread_scales(7) == (0.7, 1.4, 2.1, 2.8, 3.5, 4.2, 4.9)
    assert GaussianTask((3,)).scale_values == spread_scales(49)
    assert GaussianTask((3, 8, 9)).dim == 216


def test_raw_optimum_of_equal_priors_is_closed_form() -> None:
    task = GaussianTask((5,), (0.1, 1.3, 4.9))
    s = np.array(task.scale_values)[:, None]
    accuracy, robust, bound = (x.numpy() for x in task.raw(EPS))
    assert accuracy.shape == (3, 4)
    np.testing.assert_allclose(accuracy, np.broadcast_to(norm.cdf(s), (3, 4)), rtol=1e-14)
    np.testing.assert_allclose(robust, norm.cdf(s * (1 - np.array(EPS))), rtol=1e-14)
    np.testing.assert_allclose(
        bound, np.broadcast_to(1 + norm.pdf(s) / (s * norm.cdf(s)), (3, 4)), rtol=1e-13
    )


@pytest.mark.parametrize("prior", [0.3, 0.05, 0.8])
@pytest.mark.parametrize("eps", EPS)
@pytest.mark.parametrize("scale", [0.4, 1.7])
def test_raw_optimum_of_unequal_priors_is_its_definition(scale: float, eps: float, prior: float) -> None:
    """Along u: the classifier w = (1 - eps) s predicts 1 iff (x - c) w > q/2; integrals of both classes."""
    w = (1 - eps) * scale
    boundary = math.log((1 - prior) / prior) / 2 / w

    def mass(power: int, shift: float) -> float:
        """Integral of |margin|^power over the samples that stay correct when moved `shift` to the wrong side."""
        total = 0.0
        for weight, center, side in ((prior, scale, 1), (1 - prior, -scale, -1)):
            edge = boundary + side * shift
            start = side * max(side * edge, side * (center - side * 12.0))

            def f(x: float, weight: float = weight, center: float = center, side: int = side) -> float:
                return weight * (side * (x - boundary) * w) ** power * float(norm.pdf(x - center))

            stop = start + side * 26.0
            total += side * quad(f, start, stop, points=[start + side, center + side * 1e-9], limit=400)[0]
        return total

    accuracy, robust, bound = (x.item() for x in GaussianTask((4,), (scale,), prior=prior).raw((eps,)))
    correct = mass(0, 0.0)
    assert accuracy == pytest.approx(correct, rel=1e-7)
    assert robust == pytest.approx(mass(0, eps * scale), rel=1e-7)
    assert bound == pytest.approx(mass(1, 0.0) / correct / (w * scale), rel=1e-7)


@pytest.mark.parametrize("prior", [0.5, 0.3])
def test_raw_optimum_is_the_best_threshold(prior: float) -> None:
    """At eps = 0 no threshold along u beats it; under attack the robust classifier's is the best one."""
    scale = 0.9

    def accuracy(boundary: float, reach: float) -> float:
        return float(
            prior * norm.sf(boundary + reach - scale) + (1 - prior) * norm.cdf(boundary - reach + scale)
        )

    for eps in (0.0, 0.4):
        best = minimize_scalar(
            lambda b, eps=eps: -accuracy(b, eps * scale), bracket=(-1.0, 1.0), options={"xtol": 1e-10}
        )
        robust = GaussianTask((4,), (scale,), prior=prior).raw((eps,))[1].item()
        assert robust == pytest.approx(-best.fun, rel=1e-10)


@pytest.mark.parametrize("prior", [0.5, 0.3])
def test_samples_reach_the_raw_optimum(prior: float) -> None:
    """Counted on the task's own samples: accuracy, robust accuracy, bound, within 4 standard errors."""
    task, eps, n = GaussianTask((3, 2, 2), (0.8,), prior=prior, center=-1.0), 0.4, 40_000
    x, y = task.sample(0.8, 0, n, seed=11)
    along = (x.flatten(1).double() + 1.0).sum(1) / math.sqrt(12)
    w = (1 - eps) * 0.8
    margin = along * w - math.log((1 - prior) / prior) / 2
    correct = (margin > 0) == (y == 1)
    stays = correct & (margin.abs() > eps * 0.8 * w)
    distance = margin[correct].abs() / (w * 0.8)
    accuracy, robust, bound = (one.item() for one in task.raw((eps,)))
    assert abs(correct.double().mean().item() - accuracy) < 4 * math.sqrt(accuracy * (1 - accuracy) / n)
    assert abs(stays.double().mean().item() - robust) < 4 * math.sqrt(robust * (1 - robust) / n)
    assert abs(distance.mean().item() - bound) < 4 * distance.std().item() / math.sqrt(len(distance))


def test_samples_depend_on_the_value_of_a_scale_not_on_the_list() -> None:
    few, many = GaussianTask((7,), (0.5, 1.0)), GaussianTask((7,), (0.1, 0.25, 0.5, 0.7, 1.0))
    for scale in (0.5, 1.0):
        for split in (0, 1):
            a, b = (t.sample(scale, 3, 20, split=split, seed=5) for t in (few, many))
            assert torch.equal(a[0], b[0]) and torch.equal(a[1], b[1])


def test_every_scale_and_split_has_random_numbers_of_its_own() -> None:
    task = GaussianTask((16,), (*GaussianTask((16,)).scale_values, 4.9001, 4.9002, 99_999.9999, 100_000.0))
    streams = [task.stream(s, split) for s in task.scale_values for split in (0, 1)]
    assert len(set(streams)) == 106
    assert min(streams) >= 0 and max(streams) < 2**32  # one word of the counter
    n, noise = 500, []
    for scale, split, seed in ((0.5, 0, 0), (0.5, 1, 0), (0.6, 0, 0), (0.5, 0, 1)):
        x, y = task.sample(scale, 0, n, split=split, seed=seed)
        noise.append((x.double() - 0.5 - (2.0 * y[:, None] - 1) * scale / 4).flatten())
    correlation = torch.corrcoef(torch.stack(noise)) - torch.eye(4, dtype=torch.float64)
    assert correlation.abs().max() < 4.5 / math.sqrt(noise[0].numel())


def test_any_part_of_a_scale_can_be_drawn_alone() -> None:
    task = GaussianTask((3, 4, 5), prior=0.3)
    whole, labels = task.sample(0.5, 0, 63, seed=2, mean=(0.1, 0.2, 0.3), std=(1.0, 2.0, 0.5))
    for start, stop in ((0, 1), (1, 40), (40, 63)):
        x, y = task.sample(0.5, start, stop - start, seed=2, mean=(0.1, 0.2, 0.3), std=(1.0, 2.0, 0.5))
        assert torch.equal(x, whole[start:stop]) and torch.equal(y, labels[start:stop])


@pytest.mark.parametrize(
    ("arguments", "parts"),
    [
        ({"shape": ()}, ["shape: expected positive integers, got ()"]),
        ({"shape": (3, 0)}, ["shape: expected positive integers, got (3, 0)"]),
        ({"shape": (2.5,)}, ["shape: expected positive integers, got (2.5,)"]),
        ({"scales": ()}, ["scales: expected at least 1 scale, got none"]),
        ({"scales": (0.0, 1.0)}, ["scales: expected values in [0.0001, 100000], got [0.0, 1.0]"]),
        ({"scales": (1.0, math.nan)}, ["scales: expected values in", "nan"]),
        ({"scales": (1.0, 2e5)}, ["scales: expected values in", "200000.0"]),
        ({"scales": (1.0, 0.5)}, ["scales: expected increasing values at least 0.0001 apart", "[1.0, 0.5]"]),
        ({"scales": (1.0, 1.00001)}, ["scales: expected increasing values"]),
        ({"prior": 0.0}, ["prior: expected a value in (0, 1), got 0.0"]),
        ({"prior": 1.0}, ["prior: expected a value in (0, 1), got 1.0"]),
        ({"prior": math.nan}, ["prior: expected a value in (0, 1), got nan"]),
        ({"center": math.inf}, ["center: expected a finite value, got inf"]),
        ({"pattern": "lwo"}, ["pattern: expected one of uniform, channel:K,", "'lwo', did you mean low?"]),
        ({"pattern": "chanel:1"}, ["got 'chanel:1', did you mean channel?"]),
        ({"pattern": "channel:x"}, ["pattern: expected one of uniform, channel:K", "got 'channel:x'"]),
        ({"pattern": "low:1"}, ["pattern: expected one of", "got 'low:1'"]),
        ({"pattern": 3}, ["pattern: expected one of", "got 3"]),
        ({"pattern": "channel:0"}, ["pattern: expected an input of two channels or more", "shape (4,)"]),
        ({"shape": (1, 9), "pattern": "channel:0"}, ["pattern: expected an input of two channels or more"]),
        (
            {"shape": (3, 9), "pattern": "channel:3"},
            ["pattern: expected a channel from 0 to 2, got 'channel:3' for shape (3, 9)"],
        ),
        ({"shape": (3, 9, 3), "pattern": "low"}, ["pattern: expected spatial axes of 4 elements or more"]),
        ({"shape": (3, 1, 1), "pattern": "low"}, ["pattern: expected spatial axes of 4 elements or more"]),
        ({"shape": 7}, ["shape: expected positive integers, got 7"]),
        ({"scales": 5}, ["scales: expected a sequence of values, got 5"]),
        ({"scales": "abc"}, ["scales: expected a sequence of values, got 'abc'"]),
        ({"scales": ["a"]}, ["scales: expected a number or a sequence of numbers, got ['a']"]),
        ({"prior": "x"}, ["prior: expected a value in (0, 1), got 'x'"]),
        ({"center": None}, ["center: expected a finite value, got None"]),
        ({"shape": (7,), "pattern": "high"}, ["pattern: expected spatial axes of 8 elements or more"]),
        ({"shape": (3, 1, 1), "pattern": "patch"}, ["pattern: expected a spatial axis, got 'patch'"]),
        ({"pattern": "classes:3:1:1"}, ["pattern: expected classes:K:I:J with I < J < K"]),
        ({"shape": (5,), "pattern": "classes:3:0:1"}, ["pattern: expected a spatial axis of 6 elements"]),
        (
            {"covariance": "wite"},
            ["covariance: expected one of white, channel:RHO, power:ALPHA", "mean white?"],
        ),
        ({"covariance": "power:steep"}, ["covariance: expected one of", "got 'power:steep'"]),
        ({"covariance": "power"}, ["covariance: expected one of", "got 'power'"]),
        ({"covariance": None}, ["covariance: expected one of", "got None"]),
        ({"covariance": "channel:0.5"}, ["covariance: expected an input of two channels or more"]),
        (
            {"shape": (3, 8), "covariance": "channel:-0.5"},
            ["covariance: expected RHO in (-0.5, 1) other than 0 (white), got 'channel:-0.5'"],
        ),
        ({"shape": (3, 8), "covariance": "channel:0"}, ["covariance: expected RHO in (-0.5, 1)"]),
        ({"covariance": "power:0"}, ["covariance: expected ALPHA in (0, 4], got 'power:0'"]),
        ({"covariance": "power:5"}, ["covariance: expected ALPHA in (0, 4], got 'power:5'"]),
        ({"shape": (3, 1), "covariance": "power:1"}, ["covariance: expected a spatial axis"]),
        (
            {"shape": (8,), "pattern": "classes:2:0:1", "covariance": "power:1"},
            ["covariance: expected white with pattern classes:2:0:1", "got 'power:1'"],
        ),
    ],
)
def test_mistakes_are_named(arguments: dict[str, object], parts: list[str]) -> None:
    with refused(*parts):
        GaussianTask(**{"shape": (4,), **arguments})  # type: ignore[arg-type]


def test_numbers_of_scales_that_cannot_be() -> None:
    with refused("scales: expected 1 to 49000 scales, got 0"):
        spread_scales(0)
    with refused("scales: expected 1 to 49000 scales, got 50000"):
        spread_scales(50_000)
    assert len(GaussianTask((1,), spread_scales(49_000)).scale_values) == 49_000


@pytest.mark.parametrize("eps", [1.0, -0.1, math.nan])
def test_raw_optimum_has_no_budget_outside_its_range(eps: float) -> None:
    with refused("eps: expected values in [0, 1)"):
        GaussianTask((4,)).raw((0.1, eps))


SHAPES = [(3, 4, 9), (3, 8, 8), (2, 10), (12,), (2, 3, 4, 5)]
COLOURED = [
    ("channel:1", "channel:0.6"),
    ("random:3", "channel:-0.3"),
    ("low", "power:2"),
    ("patch", "power:1.5"),
    ("random:3", "power:2"),
    ("uniform", "power:1"),
]


def possible(shape: tuple[int, ...], pattern: str, covariance: str) -> bool:
    return not (len(shape) == 1 and "channel" in pattern + covariance) and not (
        pattern == "low" and min(shape[1:] or shape) < 4
    )


@pytest.mark.parametrize(("pattern", "covariance"), COLOURED)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_raw_optimum_of_coloured_noise(shape: tuple[int, ...], pattern: str, covariance: str) -> None:
    """Against dense algebra: the explicit Sigma, its eigenvectors, the ridge by bisection."""
    if not possible(shape, pattern, covariance):
        with refused("expected"):
            GaussianTask(shape, pattern=pattern, covariance=covariance)
        return
    eps, prior, scales = (0.0, 0.2, 0.5, 0.9), 0.3, (0.4, 1.3)
    task = GaussianTask(shape, scales, prior=prior, pattern=pattern, covariance=covariance)
    sigma = explicit_covariance(covariance, shape)
    assert np.trace(sigma) == pytest.approx(task.dim, rel=1e-12)
    u = class_means(pattern, shape).direction.flatten().numpy()
    assert np.linalg.norm(u) == pytest.approx(1, rel=1e-14)
    for row, scale in enumerate(scales):
        m = scale * task.distance * u
        assert m @ np.linalg.solve(sigma, m) == pytest.approx(scale**2, rel=1e-9)
        t, t_rob, deviation = (torch.from_numpy(one) for one in population(m, sigma, eps))
        k = math.log((1 - prior) / prior) / 2 / deviation
        expected = (
            gaussian.accuracy(t, k, prior),
            gaussian.accuracy(t_rob, k, prior),
            gaussian.bound(t, k, prior),
        )
        for got, value in zip(task.raw(eps), expected, strict=True):
            np.testing.assert_allclose(got[row], value, rtol=1e-9)


def test_raw_curves_of_all_tasks_coincide_without_an_attack() -> None:
    shape = (3, 8, 8)
    published = GaussianTask(shape).raw((0.0,))
    for pattern, covariance in COLOURED:
        for got, expected in zip(
            GaussianTask(shape, pattern=pattern, covariance=covariance).raw((0.0,)), published, strict=True
        ):
            np.testing.assert_allclose(got, expected, rtol=1e-9)


@pytest.mark.parametrize(
    ("shape", "pattern", "covariance"),
    [
        ((3, 4, 5), "low", "white"),
        ((3, 4, 5), "channel:1", "channel:0.6"),
        ((2, 4, 6), "patch", "power:2"),
        ((30,), "random:1", "power:1"),
        ((40,), "classes:4:1:3", "white"),
    ],
)
def test_samples_have_the_stated_mean_and_covariance(
    shape: tuple[int, ...], pattern: str, covariance: str
) -> None:
    """Every entry within 5 standard errors, and all of them as far off as they should be on average."""
    n, scale = 40_000, 1.5
    task = GaussianTask(shape, (scale,), prior=0.4, center=-0.25, pattern=pattern, covariance=covariance)
    x, y = task.sample(scale, 0, n, seed=4, dtype=torch.float64)
    sigma, means = explicit_covariance(covariance, shape), class_means(pattern, shape)
    middle = 0.0 if means.midpoint is None else means.midpoint.flatten().numpy()
    noise = x.flatten(1).numpy().copy()
    for label in (0, 1):
        rows = y.numpy() == label
        expected = -0.25 + scale * task.distance * (
            middle + (2 * label - 1) * means.direction.flatten().numpy()
        )
        z = (noise[rows].mean(0) - expected) / np.sqrt(sigma.diagonal() / rows.sum())
        assert np.abs(z).max() < 4.5 and 0.4 < np.mean(z**2) < 1.9
        noise[rows] -= expected
    error = np.sqrt((sigma**2 + np.outer(sigma.diagonal(), sigma.diagonal())) / n)
    z = ((noise.T @ noise / n - sigma) / error)[np.triu_indices(task.dim)]
    assert np.abs(z).max() < 5 and 0.8 < np.mean(z**2) < 1.25


@pytest.mark.parametrize(
    ("shape", "pattern", "covariance"),
    [
        ((3, 8, 9), "patch", "power:2"),
        ((3, 7, 11), "random:2", "channel:0.5"),
        ((31,), "uniform", "power:1"),
        ((3, 8, 8), "high", "white"),
        ((3, 8, 8), "classes:3:0:2", "white"),
    ],
)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_no_batch_no_thread_and_no_layout_changes_a_bit(
    shape: tuple[int, ...], pattern: str, covariance: str, dtype: torch.dtype
) -> None:
    task = GaussianTask(shape, (0.5,), prior=0.3, pattern=pattern, covariance=covariance)
    channels = shape[0] if len(shape) > 1 else 1
    options = {
        "seed": 2, "dtype": dtype, "mean": [0.1 * c for c in range(channels)], "std": [0.5 + c for c in range(channels)],
    }  # fmt: skip
    whole, labels = task.sample(0.5, 0, 63, threads=1, **options)  # type: ignore[arg-type]
    before = torch.get_num_threads()
    try:
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            for start, stop in ((0, 1), (1, 40), (40, 63)):
                out = torch.empty(stop - start, *shape, dtype=dtype)
                x, y = task.sample(0.5, start, stop - start, out=out, **options)  # type: ignore[arg-type]
                assert x is out
                assert torch.equal(x, whole[start:stop]) and torch.equal(y, labels[start:stop])
    finally:
        torch.set_num_threads(before)
    if len(shape) == 3:
        x, _ = task.sample(0.5, 0, 63, channels_last=True, **options)  # type: ignore[arg-type]
        assert x.is_contiguous(memory_format=torch.channels_last) and torch.equal(x, whole)
    specification, _ = task.sample(0.5, 0, 63, backend="torch", **{**options, "dtype": torch.float64})  # type: ignore[arg-type]
    error = (whole.double() - specification).abs() / specification.abs().clamp_min(1)
    assert error.max() < (8e-6 if dtype == torch.float32 else 0.005)


def test_the_published_task_draws_what_it_always_drew() -> None:
    task = GaussianTask((3, 4, 5), prior=0.3)
    assert (task.pattern, task.covariance, task.noise_word, task.distance) == ("uniform", "white", 0, 1.0)
    x, y = task.sample(0.5, 3, 20, seed=5)
    direct = sample_mixture((3, 4, 5), 3, 20, scale=0.5, seed=5, stream=10_000, prior=0.3)
    assert torch.equal(x, direct[0]) and torch.equal(y, direct[1])


def test_tasks_have_noise_of_their_own() -> None:
    """Other patterns and covariances: independent noise; another prior or centre: the same."""
    tasks = [
        GaussianTask((3, 8, 8), pattern=p, covariance=c) for p, c in [("uniform", "white"), *COLOURED[:4]]
    ]
    assert len({one.noise_word for one in tasks}) == len(tasks)
    assert all(one.noise_word > 1 for one in tasks[1:])
    noise = []
    for one in tasks:
        x, y = one.sample(1.0, 0, 400)
        u = class_means(one.pattern, one.shape).direction * one.distance
        noise.append((x.double() - 0.5 - (2.0 * y.double().view(-1, 1, 1, 1) - 1) * u).flatten())
    correlation = torch.corrcoef(torch.stack(noise)) - torch.eye(len(tasks), dtype=torch.float64)
    assert correlation.abs().max() < 0.03  # long-range correlations make some of these less sure than others
    assert GaussianTask((8,), prior=0.3, center=1.0).noise_word == 0


def test_names_have_one_spelling() -> None:
    task = GaussianTask((3, 8, 8), pattern="channel:01", covariance="power:2.0")
    assert (task.pattern, task.covariance) == ("channel:1", "power:2")
    assert GaussianTask((3, 8, 8), covariance="channel:.50").covariance == "channel:0.5"


def test_patterns_by_their_definition() -> None:
    shape = (2, 8, 12)
    u = {name: class_means(name, shape).direction.numpy() for name in ("channel:1", "low", "high", "patch")}
    assert np.all(u["channel:1"][0] == 0) and np.ptp(u["channel:1"][1]) == 0
    for name, cycles in (("low", (1, 1)), ("high", (2, 3))):
        modes = np.abs(np.fft.fft2(u[name]))
        for channel in modes:
            assert set(zip(*np.nonzero(channel > 1e-9), strict=True)) == {
                (i % 8, j % 12) for i in (cycles[0], -cycles[0]) for j in (cycles[1], -cycles[1])
            }
    assert np.count_nonzero(u["patch"]) == 2 * 2 * 2 and np.all(u["patch"][:, 3:5, 5:7] > 0)
    random = class_means("random:5", (4000,)).direction.numpy() * math.sqrt(4000)
    assert abs(random.mean()) < 5 / math.sqrt(4000) and abs(np.mean(random**4) - 3) < 0.5
    assert np.abs(random @ class_means("random:6", (4000,)).direction.numpy()) < 5


def test_classes_are_equidistant_and_centred() -> None:
    """The same class has the same mean in each of its pairs."""
    vertices: dict[int, Array] = {}
    for i, j in ((0, 1), (0, 2), (0, 3), (1, 2), (1, 3), (2, 3)):
        means = class_means(f"classes:4:{i}:{j}", (3, 6, 9))
        assert means.midpoint is not None
        for k, sign in ((i, -1), (j, 1)):
            one = (means.midpoint + sign * means.direction).numpy().ravel()
            np.testing.assert_allclose(vertices.setdefault(k, one), one, atol=1e-14)
    points = np.stack(list(vertices.values()))
    np.testing.assert_allclose(points.sum(0), 0, atol=1e-14)
    distance = np.linalg.norm(points[:, None] - points[None], axis=2)
    np.testing.assert_allclose(distance, 2 * (1 - np.eye(4)), atol=1e-14)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an NVIDIA GPU")
@pytest.mark.parametrize(
    ("pattern", "covariance", "error"),
    [("low", "white", 0.0), ("channel:0", "channel:0.5", 1e-6), ("patch", "power:2", 1e-5), ("classes:3:0:2", "white", 1e-6)],
)  # fmt: skip
def test_samples_on_a_gpu(pattern: str, covariance: str, error: float) -> None:
    """The CPU's to rounding, in the same bits for every batch."""
    task = GaussianTask((3, 32, 48), (0.5,), prior=0.3, pattern=pattern, covariance=covariance)
    whole, labels = task.sample(0.5, 0, 63, seed=2, device="cuda")
    for start, stop in ((0, 1), (1, 40), (40, 63)):
        x, y = task.sample(0.5, start, stop - start, seed=2, device="cuda")
        assert torch.equal(x, whole[start:stop]) and torch.equal(y, labels[start:stop])
    expected, _ = task.sample(0.5, 0, 63, seed=2)
    assert (whole.cpu() - expected).abs().max() <= error
