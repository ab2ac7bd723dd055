"""The renderers against the specification, and the specification against geometry and Fourier analysis."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from philox import philox

from synbench_fast import _core
from synbench_fast.ops.renderers import (
    HARMONICS,
    STROKE,
    Noise,
    Under,
    fields,
    normals_of_words,
    paint,
    random_words,
    roll,
    view,
)
from synbench_fast.tasks.families.base import Draws
from synbench_fast.tasks.families.strokes import ELLIPSE, OUTLINE, RECTANGLE, leaves, stroke

quick = settings(deadline=None, max_examples=60)
BACKENDS = ("numpy", "cpp")


def noise_under(seed: int, x: np.ndarray) -> Under:
    """None for every other seed."""
    return (0.3 + seed % 7, Noise(seed, 5, 6, 2**32 - len(x), len(x), x[0].size, 1)) if seed % 2 else None


def random_strokes(rng: np.random.Generator, count: int, number: int, side: float) -> np.ndarray:
    axis = rng.standard_normal((count, number, 2))
    axis /= np.sqrt((axis**2).sum(-1, keepdims=True))
    kind = rng.integers(0, 3, (count, number)).astype(float)
    place = rng.uniform(-0.3 * side, 1.3 * side, (count, number, 2))
    a, b = rng.uniform(0.2, side, (2, count, number))
    filling = rng.uniform(-1, 1, (count, number, 2)) * rng.integers(0, 2, (count, number, 1))
    return stroke(kind, place, axis, a, b, filling, rng.uniform(0.5, 2)).astype(np.float32)


@quick
@given(
    st.integers(0, 2**32 - 1), st.integers(1, 3), st.integers(1, 4), st.integers(1, 40), st.integers(1, 40),
    st.integers(0, 6), st.integers(1, 3),
)  # fmt: skip
def test_paint_is_the_specification_to_the_bit(
    seed: int, count: int, channels: int, height: int, width: int, number: int, threads: int
) -> None:
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((count, channels, height, width)).astype(np.float32)
    y = x.copy()
    inputs = (
        rng.uniform(0, 1, (count, channels)).astype(np.float32),
        random_strokes(rng, count, number, max(height, width)),
        rng.uniform(-1, 2, (count, number, 2, channels)).astype(np.float32),
        rng.uniform(-0.3, 0.3, (count, number, 2 * len(HARMONICS))).astype(np.float32),
    )
    paint(x, *inputs, threads, under=noise_under(seed, x))
    paint(y, *inputs, backend="numpy", under=noise_under(seed, x))
    np.testing.assert_array_equal(x, y)


@quick
@given(
    st.integers(0, 2**32 - 1), st.integers(1, 3), st.integers(1, 4), st.integers(1, 40), st.integers(1, 40),
    st.integers(0, 6), st.integers(1, 3),
)  # fmt: skip
def test_view_is_the_specification_to_the_bit(
    seed: int, count: int, channels: int, height: int, width: int, power: int, threads: int
) -> None:
    rng = np.random.default_rng(seed)
    scene = rng.integers(0, 256, (2**power, 2**power, 4)).astype(np.uint8)
    x = rng.standard_normal((count, channels, height, width)).astype(np.float32)
    y = x.copy()
    maps = rng.uniform(-3, 3, (count, 6)).astype(np.float32)
    maps[:, [0, 3]] *= 100
    colours = rng.uniform(-1, 1, (count, channels, 4)).astype(np.float32)
    view(x, scene, maps, colours, threads, under=noise_under(seed, x))
    view(y, scene, maps, colours, backend="numpy", under=noise_under(seed, x))
    np.testing.assert_array_equal(x, y)


def test_images_of_many_rows_are_those_of_the_specification() -> None:
    """More rows than are painted or viewed at a time, and outlines whose reach is beyond what they cover."""
    shape, rng = (2, 3, 150, 131), np.random.default_rng(5)
    x = np.empty(shape, np.float32)
    y, under = x.copy(), (0.1, Noise(1, 2, 3, 4, 2, 3 * 150 * 131, 1))
    strokes = random_strokes(rng, 2, 12, 150.0)
    strokes[:, ::2, STROKE.index("kind")] = OUTLINE
    colours = rng.uniform(0, 1, (2, 12, 2, 3)).astype(np.float32)
    ground, outlines = np.ones((2, 3), np.float32), rng.uniform(-0.2, 0.2, (2, 12, 12)).astype(np.float32)
    paint(x, ground, strokes, colours, outlines, 2, under=under)
    paint(y, ground, strokes, colours, outlines, backend="numpy", under=under)
    np.testing.assert_array_equal(x, y)
    scene = rng.integers(0, 256, (64, 64, 4)).astype(np.uint8)
    maps = np.array([[3, 0.4, 0.2, 5, -0.3, 0.5], [1e4, 2, 1, -1e4, -1, 2]], np.float32)
    view(x, scene, maps, colours[:, :3].reshape(2, 3, 6)[..., :4].copy(), 2, under=under)
    view(y, scene, maps, colours[:, :3].reshape(2, 3, 6)[..., :4].copy(), backend="numpy", under=under)
    np.testing.assert_array_equal(x, y)


@quick
@given(
    st.integers(0, 2**32 - 1), st.integers(1, 3), st.integers(1, 4), st.integers(1, 20), st.integers(1, 20)
)
def test_roll_is_the_specification_to_the_bit(
    seed: int, count: int, channels: int, height: int, width: int
) -> None:
    rng = np.random.default_rng(seed)
    for places in ((height, width), (width,)):
        x = rng.standard_normal((count, channels, *places)).astype(np.float32)
        y = x.copy()
        picture = rng.standard_normal((channels, *places)).astype(np.float32)
        to = (rng.uniform(size=(count, len(places))) * places).astype(np.int64)
        contrast = rng.uniform(size=count).astype(np.float32)
        roll(x, picture, to, contrast, 2)
        roll(y, picture, to, contrast, backend="numpy")
        np.testing.assert_array_equal(x, y)


@quick
@given(st.integers(0, 2**32 - 1), st.integers(1, 5), st.lists(st.integers(1, 30), min_size=1, max_size=2))
def test_fields_are_those_of_the_specification(seed: int, channels: int, places: list[int]) -> None:
    rng = np.random.default_rng(seed)
    gain = rng.uniform(0, 1, (channels, *places))
    axes = tuple(range(1, gain.ndim))
    gain = (gain + np.roll(np.flip(gain, axes), 1, axes)).astype(np.float32)
    mix = rng.standard_normal((channels, channels)).astype(np.float32)
    noise = Noise(3, 9, 4, 5, 2, 2 * ((channels + 1) // 2) * math.prod(places), 2)
    x, y = np.full((2, 2, channels, *places), np.nan, np.float32)
    fields(x, gain, mix, 0.25, noise)
    fields(y, gain, mix, 0.25, noise, "numpy")
    np.testing.assert_allclose(x, y, atol=3e-7 * float(np.abs(y).max() + 1) * channels)


def test_fields_have_the_spectrum_and_the_colours_asked_for() -> None:
    """Second moments over 20 000 samples, at every frequency and pair of channels, within 6 standard errors."""
    rng = np.random.default_rng(1)
    places, channels, count = (4, 5), 3, 20_000
    gain = rng.uniform(0.2, 1, (channels, *places))
    gain = ((gain + np.roll(np.flip(gain, (1, 2)), 1, (1, 2))) / 2).astype(np.float32)
    mix = rng.standard_normal((channels, channels)).astype(np.float32)
    x = np.empty((count, channels, *places), np.float32)
    fields(x, gain, mix, 0.0, Noise(3, 9, 4, 5, count, 4 * 20, 2))
    z = np.fft.fftn(x, axes=(2, 3), norm="forward").reshape(count, channels, -1)
    found = np.einsum("ncf,ndf->fcd", z, z.conj()) / count
    want = np.einsum("ce,ef,de->fcd", mix, gain.reshape(channels, -1) ** 2, mix)
    size = np.sqrt(np.einsum("fcc,fdd->fcd", want, want) / count)
    assert float((np.abs(found - want) / size).max()) < 6


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("kind", [ELLIPSE, RECTANGLE, OUTLINE])
def test_a_stroke_covers_its_area(backend: str, kind: float) -> None:
    rng = np.random.default_rng(int(kind))
    for _ in range(10):
        angle, a, b = rng.uniform(0, 7), rng.uniform(15, 25), rng.uniform(15, 25)
        coefficients = 0.2 * rng.standard_normal((2, len(HARMONICS))) / np.array(HARMONICS)
        place, axis = rng.uniform(45, 55, 2), np.array([math.cos(angle), math.sin(angle)])
        one = stroke(kind, place, axis, a, b, None, 2.0).astype(np.float32)[None, None]
        x = np.zeros((1, 1, 100, 100), np.float32)
        outline = coefficients.ravel().astype(np.float32)[None, None]
        paint(
            x, np.zeros((1, 1), np.float32), one, np.ones((1, 1, 2, 1), np.float32), outline, backend=backend
        )
        area = {
            ELLIPSE: math.pi * a * b,
            RECTANGLE: 4 * a * b,
            OUTLINE: math.pi * a**2 * (1 + 0.5 * (coefficients**2).sum()),  # half the integral of r^2
        }[kind]
        assert float(x.sum()) == pytest.approx(area, rel=0.012)
        if kind != OUTLINE:
            columns = np.arange(100) + 0.5
            assert float((x[0, 0].sum(0) @ columns) / x.sum()) == pytest.approx(place[0], abs=0.05)
            assert float((x[0, 0].sum(1) @ columns) / x.sum()) == pytest.approx(place[1], abs=0.05)


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_filling_has_stripes_of_its_two_colours(backend: str) -> None:
    one = stroke(RECTANGLE, np.array([50.0, 50.0]), np.array([1.0, 0.0]), 60.0, 60.0, np.array([0.1, 0.0]))
    colours = np.array([0.25, 0.75], np.float32).reshape(1, 1, 2, 1)
    x = np.zeros((1, 1, 100, 100), np.float32)
    outline = np.zeros((1, 1, 2 * len(HARMONICS)), np.float32)
    paint(
        x, np.zeros((1, 1), np.float32), one.astype(np.float32)[None, None], colours, outline, backend=backend
    )
    assert float(x.min()) == 0.25 and float(x.max()) == 0.75
    assert float(x.mean()) == pytest.approx(0.5, abs=1e-6)
    np.testing.assert_allclose(x[0, 0], np.broadcast_to(x[0, 0, 0], (100, 100)))
    np.testing.assert_allclose(x[0, 0, 0, :90], x[0, 0, 0, 10:], atol=1e-5)


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_view_that_moves_by_whole_elements_copies_the_scene(backend: str) -> None:
    scene = np.random.default_rng(2).integers(0, 256, (16, 16, 4)).astype(np.uint8)
    x = np.zeros((1, 3, 20, 24), np.float32)
    maps = np.array([[-5, 1, 0, 3, 0, 1]], np.float32)
    colours = np.eye(3, 4, dtype=np.float32)[None] / 255
    view(x, scene, maps, colours, backend=backend)
    rows, columns = (np.arange(20) + 3) % 16, (np.arange(24) - 5) % 16
    want = np.moveaxis(scene[rows][:, columns, :3], -1, 0)
    np.testing.assert_allclose(x[0], want / 255, atol=1e-6)


def test_words_are_those_of_philox() -> None:
    for backend in BACKENDS:
        found = random_words(2**63 + 5, 7, 11, 2**32 - 3, 3, 2, 4, backend).reshape(3, 4, 4)
        index, quad = np.arange(2**32 - 3, 2**32, dtype=np.uint64)[:, None], np.arange(2, 6, dtype=np.uint64)
        want = philox([quad, index, 11, 7], 2**63 + 5)
        np.testing.assert_array_equal(found, np.stack(np.broadcast_arrays(*want), -1))


def test_radii_of_leaves_have_the_density_of_a_cube() -> None:
    """P(r < t) = (1/a^2 - 1/t^2) / (1/a^2 - 1/b^2) on [a, b]."""
    drawn = leaves(Draws("cpp", 1, 2, 3, 0, 50), 200, (1.0, 1.0), 0.1, 2.0)
    radius = np.sort(drawn[..., STROKE.index("a")].ravel())
    want = (100 - radius**-2) / (100 - 0.25)
    assert np.abs(want - (np.arange(10_000) + 0.5) / 10_000).max() < 1.63 / 100  # Kolmogorov, 1 %


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"strokes": ("a", 0.0)}, "strokes: expected finite"),
        ({"strokes": ("cx", np.nan)}, "strokes: expected finite"),
        ({"strokes": ("ex", np.inf)}, "strokes: expected finite"),
        ({"strokes": ("fx", 9.0)}, "strokes: expected finite"),
        ({"threads": -1}, "threads"),
        ({"deviation": np.inf}, "deviation: expected a finite number"),
        ({"deviation": 1.0, "start": 2**32}, "start: expected"),
    ],
)
def test_strokes_that_cannot_be_painted_are_refused(change: dict, text: str) -> None:
    strokes = stroke(ELLIPSE, np.ones((1, 1, 2)), np.array([[[1.0, 0.0]]]), 1.0, 1.0).astype(np.float32)
    others = {"threads": 1} | change
    if "strokes" in others:
        name, value = others.pop("strokes")
        strokes[..., STROKE.index(name)] = value
    x = np.zeros((1, 1, 4, 4), np.float32)
    zeros = (np.zeros((1, 1), np.float32), strokes, np.zeros((1, 1, 2, 1), np.float32))
    with pytest.raises(ValueError, match=text):
        _core.paint(x, *zeros, np.zeros((1, 1, 12), np.float32), **others)
    assert not x.any()


def test_places_outside_are_refused() -> None:
    x, picture = np.zeros((1, 1, 4, 4), np.float32), np.ones((1, 4, 4), np.float32)
    for place in ((-1, 0), (0, 4)):
        with pytest.raises(ValueError, match="places: expected a place in the picture"):
            _core.roll(x, picture, np.array([place]), np.ones(1, np.float32))
    colours = np.zeros((1, 1, 4), np.float32)
    for maps in (np.full((1, 6), np.nan), np.full((1, 6), 2.0**20)):
        with pytest.raises(ValueError, match="maps: expected places within"):
            _core.view(x, np.zeros((4, 4, 4), np.uint8), maps.astype(np.float32), colours)
    with pytest.raises(ValueError, match="scene: expected an aligned one whose side is a power of two"):
        _core.view(x, np.zeros((3, 3, 4), np.uint8), np.zeros((1, 6), np.float32), colours)
    with pytest.raises(ValueError, match="start"):
        _core.random_words(1, 2, 3, 2**32, 1, 0, 1)
    with pytest.raises(ValueError, match="x: expected memory of its own"):
        _core.fields(x, x[0], np.eye(1, dtype=np.float32), 0.0, seed=1, purpose=2, stream=3, start=0)


@quick
@given(st.integers(0, 2**32 - 1), st.integers(1, 4), st.integers(1, 40))
def test_normals_are_those_of_the_specification(seed: int, count: int, pairs: int) -> None:
    words = random_words(seed, 1, 2, 3, count, 0, (pairs + 1) // 2)
    found, want = (normals_of_words(words, backend) for backend in BACKENDS)
    np.testing.assert_allclose(found, want, atol=2e-6)
