"""The CUDA kernels of the renderers, on an emulated device: the bits of the compiled core, and refusals."""

from __future__ import annotations

import ctypes
import math
import struct
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from checks import refused
from emulation import BACKWARDS, Emulator

from synbench_fast import _core
from synbench_fast.ops import renderers_cuda
from synbench_fast.ops.renderers import HARMONICS, STROKE, Noise, fields, paint, roll, view
from synbench_fast.tasks.families import FAMILIES
from synbench_fast.tasks.families.strokes import stroke

# Odd ones, one element, more than a tile or a block, and more channels than one thread paints.
SHAPES = [(1, 1, 1), (3, 5, 7), (1, 17, 33), (3, 40, 70), (9, 8, 31)]


def images(shape: tuple[int, ...], count: int = 3) -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng(1).standard_normal((count, *shape)).astype(np.float32))


def strokes(rng: np.random.Generator, count: int, number: int, side: float) -> np.ndarray:
    axis = rng.standard_normal((count, number, 2))
    axis /= np.sqrt((axis**2).sum(-1, keepdims=True))
    kind = rng.integers(0, 3, (count, number)).astype(float)
    place = rng.uniform(-0.3 * side, 1.3 * side, (count, number, 2))
    a, b = rng.uniform(0.2, side, (2, count, number))
    filling = rng.uniform(-1, 1, (count, number, 2)) * rng.integers(0, 2, (count, number, 1))
    return stroke(kind, place, axis, a, b, filling, rng.uniform(0.5, 2)).astype(np.float32)


def of_paint(shape: tuple[int, ...], number: int, count: int = 3) -> tuple[Any, ...]:
    rng = np.random.default_rng(number)
    return (
        rng.uniform(0, 1, (count, shape[0])).astype(np.float32),
        strokes(rng, count, number, max(shape[1:])),
        rng.uniform(-1, 2, (count, number, 2, shape[0])).astype(np.float32),
        rng.uniform(-0.3, 0.3, (count, number, 2 * len(HARMONICS))).astype(np.float32),
    )


def of_view(shape: tuple[int, ...], side: int = 16, count: int = 3) -> tuple[Any, ...]:
    rng = np.random.default_rng(side)
    maps = rng.uniform(-3, 3, (count, 6)).astype(np.float32)
    maps[:, [0, 3]] *= 1e5
    colours = rng.uniform(-1, 1, (count, shape[0], 4)).astype(np.float32)
    return rng.integers(0, 256, (side, side, 4)).astype(np.uint8), maps, colours


def of_roll(shape: tuple[int, ...], count: int = 3) -> tuple[Any, ...]:
    rng = np.random.default_rng(3)
    picture = rng.standard_normal(shape).astype(np.float32)
    places = (rng.uniform(size=(count, len(shape) - 1)) * shape[1:]).astype(np.int64)
    return picture, places, rng.uniform(size=count).astype(np.float32)


def of_fields(shape: tuple[int, ...], count: int = 3, start: int = 5) -> tuple[Any, ...]:
    rng = np.random.default_rng(4)
    channels, places = shape[0], shape[1:]
    gain = rng.uniform(0, 1, shape).astype(np.float32)
    mix = rng.standard_normal((channels, channels)).astype(np.float32)
    return (
        gain,
        mix,
        0.3,
        Noise(2**63 + 3, 9, 4, start, count, 2 * ((channels + 1) // 2) * math.prod(places), 1),
    )


def same_bits(operation: Any, x: torch.Tensor, arguments: tuple[Any, ...]) -> torch.Tensor:
    expected = x.clone()
    operation(x, *arguments, backend="cuda")
    operation(expected, *arguments, backend="cpp")
    assert torch.equal(x, expected)
    return x


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("number", [0, 1, 7, 70])
def test_paint(emulator: Emulator, shape: tuple[int, ...], number: int) -> None:
    same_bits(paint, images(shape), of_paint(shape, number))
    assert emulator.launched == ["render_paint_kernel"]


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("side", [1, 16])
def test_view(emulator: Emulator, shape: tuple[int, ...], side: int) -> None:
    same_bits(view, images(shape), of_view(shape, side))


@pytest.mark.parametrize("shape", SHAPES)
def test_noise_under_a_picture(emulator: Emulator, shape: tuple[int, ...]) -> None:
    under = (0.3, Noise(2**63 + 3, 9, 4, 2**32 - 3, 3, math.prod(shape), 1))
    same_bits(partial(paint, under=under), torch.full((3, *shape), math.nan), of_paint(shape, 7))
    same_bits(partial(view, under=under), torch.full((3, *shape), math.nan), of_view(shape))


@pytest.mark.parametrize("shape", [*SHAPES, (2, 19)])
def test_roll(emulator: Emulator, shape: tuple[int, ...]) -> None:
    same_bits(roll, images(shape), of_roll(shape))


@pytest.mark.parametrize(
    "shape",
    [*SHAPES, (1, 1, 8), (2, 8, 1), (3, 24, 12), (1, 64, 32), (4, 10, 49), (1, 13, 22), (1, 300), (3, 256)],
)
def test_fields(emulator: Emulator, shape: tuple[int, ...]) -> None:
    """Every radix that is computed in a way of its own, alone and together with others, along either axis."""
    x = same_bits(fields, torch.full((3, *shape), math.nan), of_fields(shape))
    assert bool(x.isfinite().all())


def test_the_last_samples_of_a_stream(emulator: Emulator) -> None:
    same_bits(fields, torch.empty(3, 3, 6, 10), of_fields((3, 6, 10), start=2**32 - 3))


@pytest.mark.parametrize("together", [1, 2, 3])
def test_batches_change_nothing(emulator: Emulator, together: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Images that do not fit into one grid, and transforms that do not fit into the planes."""
    shape, count = (3, 9, 12), 5
    monkeypatch.setattr(renderers_cuda, "MOST_IMAGES", 2 * together)
    monkeypatch.setattr(renderers_cuda, "WORKSPACE", together * 8 * 4 * 9 * 12 + 7)
    for operation, arguments in (
        (paint, of_paint(shape, 5, count)), (view, of_view(shape, 16, count)), (roll, of_roll(shape, count)),
        (fields, of_fields(shape, count)),
    ):  # fmt: skip
        same_bits(operation, images(shape, count), arguments)
    assert emulator.launched.count("render_mix_kernel") == -(-count // together)
    assert emulator.launched.count("render_view_kernel") == -(-count // (2 * together))


@pytest.mark.parametrize("order", [BACKWARDS, 2, 3])
def test_the_order_of_threads_changes_nothing(emulator: Emulator, order: int) -> None:
    emulator.order = order
    same_bits(paint, images((3, 40, 70)), of_paint((3, 40, 70), 130))
    same_bits(fields, images((3, 8, 30)), of_fields((3, 8, 30)))


@pytest.mark.parametrize("name", FAMILIES)
@pytest.mark.parametrize("shape", [(3, 40, 33), (1, 24, 50)])
@pytest.mark.parametrize("level", [0.0, 0.7])
def test_images_of_a_family(emulator: Emulator, name: str, shape: tuple[int, ...], level: float) -> None:
    family = FAMILIES[name](classes=3, level=level)
    expected = family.draw(shape, 7, 2, 11, 5)
    assert emulator.launched == []
    assert torch.equal(family.draw(shape, 7, 2, 11, 5, backend="cuda"), expected)
    assert len(emulator.launched) > 0
    part = torch.empty(2, *shape)
    family.draw(shape, 7, 2, 13, 2, part, backend="cuda")
    assert torch.equal(part, expected[2:4])


@pytest.mark.parametrize("name", ["texture", "shift"])
def test_waveforms_of_a_family(emulator: Emulator, name: str) -> None:
    family = FAMILIES[name](classes=3)
    assert torch.equal(family.draw((2, 210), 7, 2, 11, 5, backend="cuda"), family.draw((2, 210), 7, 2, 11, 5))


def test_what_cannot_be_drawn_is_refused(emulator: Emulator, monkeypatch: pytest.MonkeyPatch) -> None:
    x = torch.zeros(1, 1, 4, 4)
    picture, places, contrast = (
        np.ones((1, 4, 4), np.float32),
        np.zeros((1, 2), np.int64),
        np.ones(1, np.float32),
    )
    for place in ((-1, 0), (0, 4)):
        with refused("places: expected a place in the picture"):
            roll(x, picture, np.array([place]), contrast, backend="cuda")
    with refused("picture: expected float32 [1, 4, 4], got float32 [1, 4, 5]"):
        roll(x, np.ones((1, 4, 5), np.float32), places, contrast, backend="cuda")
    with refused("contrast: expected float32 [1], got float64 [1]"):
        roll(x, picture, places, np.ones(1), backend="cuda")
    scene, colours = np.zeros((4, 4, 4), np.uint8), np.zeros((1, 1, 4), np.float32)
    for maps in (np.full((1, 6), np.nan), np.full((1, 6), 2.0**20)):
        with refused("maps: expected places within 2^20 of 0"):
            view(x, scene, maps.astype(np.float32), colours, backend="cuda")
    with refused("scene: expected a power of two up to 2^14, got side 3"):
        view(x, scene[:3], np.zeros((1, 6), np.float32), colours, backend="cuda")
    ground, shapes, inks, lines = of_paint((1, 4, 4), 2, 1)
    for name, value in (("a", 0.0), ("cx", np.nan), ("ex", np.inf), ("fx", 9.0)):
        wrong = shapes.copy()
        wrong[..., STROKE.index(name)] = value
        with refused("strokes: expected finite places"):
            paint(x, ground, wrong, inks, lines, backend="cuda")
    monkeypatch.setattr(renderers_cuda, "MOST_ELEMENTS", 16)
    with refused("x: expected fewer than 2^31 elements per image"):
        roll(x, picture, places, contrast, backend="cuda")
    monkeypatch.setattr(renderers_cuda, "MOST_ELEMENTS", 20)
    with refused("x: expected fewer than 2^31 normals per image"):
        fields(x, *of_fields((1, 4, 4), 1), backend="cuda")
    assert emulator.launched == [] and not bool(x.any())


class Kernels:
    """Kernels by name without torch and without what launches them: arrays of NumPy by their addresses."""

    def __init__(self, library: Path) -> None:
        self._emulate = ctypes.CDLL(str(library)).emulate
        self._emulate.restype = ctypes.c_char_p

    def __call__(self, name: str, grid: tuple[int, int, int], threads: int, *arguments: Any) -> str:
        words = [one.ctypes.data if isinstance(one, np.ndarray) else one for one in arguments]
        packed = np.array([struct.unpack("<Q", struct.pack("<d", one))[0] if isinstance(one, float) else one
                           for one in words], np.uint64)  # fmt: skip
        blocks = np.array(grid, np.uint32)
        failure: bytes = self._emulate(
            name.encode(), blocks.ctypes.data_as(ctypes.c_void_p), threads, 0,
            packed.ctypes.data_as(ctypes.c_void_p), len(words),
        )  # fmt: skip
        return failure.decode()


def test_the_kernels_alone(emulator_library: Path) -> None:
    run = Kernels(emulator_library)
    shape, count = (3, 11, 37), 2
    channels, height, width = shape
    pixels = height * width
    start = images(shape, count).numpy()
    for name, core, grid, threads, told, extra in (
        ("paint", _core.paint, (2 * 2, count, 1), 256, of_paint(shape, 9, count), (9, *shape)),
        ("view", _core.view, (-(-pixels // 64), count, 1), 64, of_view(shape, 16, count), shape),
        ("roll", _core.roll, (-(-channels * pixels // 64), count, 1), 64, of_roll(shape, count), shape),
    ):
        x, expected = start.copy(), start.copy()
        between: tuple[Any, ...] = (told[0], 16, *told[1:]) if name == "view" else told
        assert run(f"render_{name}_kernel", grid, threads, x, *between, *extra) == ""
        core(expected, *told)
        np.testing.assert_array_equal(x, expected)
    assert run("render_roll_kernel", (1, 1, 1), 64) == "expected 7 arguments, got 0"


def test_places_beyond_four_billion_elements(emulator_library: Path, tmp_path: Path) -> None:
    """One block of each of 65 images of 2^26 elements, in files without contents; the last image is that of one alone."""
    run, count, side = Kernels(emulator_library), 65, 2**13
    size, last, looked_at = side * side, count - 1, 8 * side  # a tile has 8 rows

    def sparse(name: str, planes: int = 1) -> np.ndarray:
        made = np.memmap(tmp_path / name, np.float32, "w+", shape=(count, planes * size))
        (tmp_path / name).unlink()  # it lives as long as it is mapped
        return made

    rng = np.random.default_rng(0)
    shape = (1, side, side)
    picture, scene = sparse("picture")[0], np.ones((4, 4, 4), np.uint8)
    picture[:looked_at] = rng.standard_normal(looked_at)
    places, contrast = np.zeros((count, 2), np.int64), rng.uniform(1, 2, count).astype(np.float32)
    maps, colours = (
        rng.uniform(1, 2, (count, 6)).astype(np.float32),
        rng.uniform(1, 2, (count, 4)).astype(np.float32),
    )
    ground, shapes, inks, lines = of_paint((1, 64, 64), 3, count)
    added = {
        "roll": lambda x, i: (x, picture, places[i:], contrast[i:], *shape),
        "view": lambda x, i: (x, scene, 4, maps[i:], colours[i:], *shape),
        "paint": lambda x, i: (x, ground[i:], shapes[i:], inks[i:], lines[i:], 3, *shape),
    }
    for name, arguments in added.items():
        x, alone = sparse(name), np.zeros(size, np.float32)
        assert run(f"render_{name}_kernel", (1, count, 1), 256, *arguments(x, 0)) == ""
        assert run(f"render_{name}_kernel", (1, 1, 1), 256, *arguments(alone, last)) == ""
        assert np.count_nonzero(alone[:32]) == 32
        np.testing.assert_array_equal(x[last, :looked_at], alone[:looked_at])

    mix, roots = np.full(1, 2.0, np.float32), rng.standard_normal((2, side)).astype(np.float32)
    made = {
        "spectrum": (2, lambda w, y: (w, picture, *shape, y)),
        "fourier": (2, lambda w, y: (w, 1, size, side, 1, 4, 1, roots, roots, y)),
        "mix": (1, lambda w, y: (w, mix, 0.5, 1, size, y)),
    }
    source, given = sparse("source", 2), np.zeros(2 * size, np.float32)
    for plane in (0, size):
        given[plane : plane + looked_at] = rng.standard_normal(looked_at)
        source[last, plane : plane + looked_at] = given[plane : plane + looked_at]
    for name, (planes, arguments) in made.items():
        y, alone = sparse(name, planes), np.zeros(planes * size, np.float32)
        assert run(f"render_{name}_kernel", (1, count, 1), 256, *arguments(source, y)) == ""
        assert run(f"render_{name}_kernel", (1, 1, 1), 256, *arguments(given, alone)) == ""
        for plane in range(0, planes * size, size):
            assert np.count_nonzero(alone[plane : plane + looked_at]) >= 255  # a frequency 0 is real
            np.testing.assert_array_equal(
                y[last, plane : plane + looked_at], alone[plane : plane + looked_at]
            )
