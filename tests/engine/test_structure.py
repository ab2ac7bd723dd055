"""The structure score: what it is made of, and that it depends on nothing else."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest
import torch
from checks import refused
from emulation import Emulator
from torch import Tensor

import synbench_fast as sb
from synbench_fast.config import ScoreConfig
from synbench_fast.encoders import load_encoder
from synbench_fast.engine import structure
from synbench_fast.engine.structure import run_structure
from synbench_fast.ops import dispatch
from synbench_fast.ops.dispatch import IMAGES, OPERATIONS
from synbench_fast.stats.discriminant import class_accuracy
from synbench_fast.tasks.families import Texture
from synbench_fast.tasks.families.base import draws_on
from synbench_fast.tasks.structure import STRUCTURE

SHAPE = (3, 16, 16)
SMALL = replace(STRUCTURE, images=6, blocks={"quick": 1, "standard": 3, "paper": 3})


def powers(x: Tensor) -> Tensor:
    """Log power spectrum: it makes textures linear and forgets where things are."""
    power = torch.fft.rfft2(x - x.mean((2, 3), keepdim=True)).abs().square()
    return (power + 1e-6).log().flatten(1)


def run(encoder: Any, config: ScoreConfig | None = None, **options: Any) -> Any:
    loaded = load_encoder(encoder, input_shape=SHAPE)
    with loaded.scoring():
        return run_structure(loaded, config or ScoreConfig(preset="quick"), task=SMALL, **options)


def test_it_is_the_mean_of_what_the_families_give() -> None:
    found = run(powers)
    scores = []
    for one, family in zip(found.families, SMALL.families, strict=True):
        x = torch.cat([family.draw(SHAPE, 0, k, 0, SMALL.images) for k in range(family.classes)])
        labels = torch.arange(family.classes).repeat_interleave(SMALL.images)
        expected = class_accuracy(powers(x), labels)
        assert one.score == pytest.approx((expected.accuracy - 0.05) / 0.95, abs=1e-12)
        assert one.accuracy == pytest.approx(expected.accuracy, abs=1e-12)
        assert one.pair_accuracy == pytest.approx(expected.pair_accuracy, abs=1e-12)
        scores.append(one.score)
    assert found.score == pytest.approx(sum(scores) / 3)
    assert found.stderr == pytest.approx(math.sqrt(sum(one.stderr**2 for one in found.families)) / 3)
    assert found.images == 3 * 20 * SMALL.images


@pytest.mark.parametrize("size", [1, 7, 1000])
def test_batches_change_nothing(size: int) -> None:
    assert replace(run(powers, size=size), seconds=0) == replace(run(powers), seconds=0)


def test_features_keep_the_digits_that_they_come_with() -> None:
    """An offset of all features, exact in float64, changes nothing; float32 would hold none of the rest."""
    near, far = run(powers), run(lambda x: powers(x).double() + 2.0**30)
    assert near.families[0].score > 0.1
    assert [one.score for one in far.families] == pytest.approx([one.score for one in near.families])
    assert far.stderr == pytest.approx(near.stderr, rel=1e-3)


def test_a_seed_chooses_images_and_a_preset_their_number() -> None:
    one, other = run(powers), run(powers, ScoreConfig(preset="quick", seed=1))
    assert one.score != other.score
    assert abs(one.score - other.score) < 5 * math.hypot(one.stderr, other.stderr)
    more = run(powers, ScoreConfig(preset="standard"))
    assert more.images == 3 * one.images and more.stderr < 0.75 * one.stderr
    assert abs(one.score - more.score) < 5 * math.hypot(one.stderr, more.stderr)


def test_normalisation_is_the_encoders() -> None:
    loaded = load_encoder(
        lambda x: powers(x * 0.25 + 0.5), input_shape=SHAPE, mean=(0.5, 0.5, 0.5), std=(0.25, 0.25, 0.25)
    )
    with loaded.scoring():
        found = run_structure(loaded, ScoreConfig(preset="quick"), task=SMALL)
    assert found.score == pytest.approx(run(powers).score, abs=0.02)


def test_what_is_linear_in_the_pixels_is_at_chance_and_powers_are_not() -> None:
    """Means of colours, blocks and the pixels themselves; the power spectrum tells textures."""
    for linear in (lambda x: x.mean((2, 3)), lambda x: x.flatten(1)):
        found = run(linear)
        assert found.score < 4 * found.stderr
    texture = run(powers).families[0]
    assert texture.family == "texture" and texture.score > 0.1 and texture.score > 5 * texture.stderr


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_an_encoder_may_keep_and_change_its_images(dtype: str) -> None:
    """Memory of images is used again, but not where anybody has a tensor of it."""
    seen: list[tuple[Tensor, Tensor]] = []
    places: set[int] = set()

    def powers(x: Tensor) -> Tensor:
        places.add(x.data_ptr())
        return x.flatten(1)[:, ::7] ** 2

    def keeper(x: Tensor) -> Tensor:
        seen.append((x[1:2].flatten(2).detach(), x[1:2].flatten(2).clone()))
        return powers(x)

    def changer(x: Tensor) -> Tensor:
        found = powers(x)
        x.zero_()
        return found

    options: dict[str, Any] = {
        "input_shape": (3, 16, 16),
        "batch_size": 60,
        "preset": "quick",
        "dtype": dtype,
    }
    expected = sb.structure_score(powers, **options).score
    assert dtype == "float64" or len(places) <= 4  # of 27 batches
    for encoder in (keeper, changer):
        assert sb.structure_score(encoder, **options).score == expected
    assert len(seen) >= 27
    assert all(torch.equal(kept, then) for kept, then in seen)


def test_kernels_draw_the_same_images(emulator: Emulator, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = run(powers, size=50)
    for one in IMAGES:
        row = OPERATIONS[one]
        monkeypatch.setitem(OPERATIONS, one, {"cuda": row["cuda"], **row})
    assert replace(run(powers, size=50), seconds=0) == replace(expected, seconds=0)
    assert {"render_fourier_kernel", "render_paint_kernel", "render_view_kernel"} <= set(emulator.launched)


@pytest.mark.parametrize(
    "error", [None, torch.OutOfMemoryError("CUDA out of memory"), RuntimeError("device-side assert")]
)
def test_what_a_gpu_cannot_draw_is_drawn_on_the_cpu(
    error: Exception | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One warning, and the same images from then on; other failures of a device are no reason to go on."""
    family, draw = Texture(3), Texture.draw
    images = structure._Images(load_encoder(powers, input_shape=SHAPE))
    expected = images.drawn(family, 0, 5, 4, 2, 7)
    images._go_to(torch.device("meta"))  # which has no renderers

    def failing(self: Texture, *arguments: Any, device: torch.device, **options: Any) -> Tensor:
        if error is not None and device.type == "meta":
            raise error
        return draw(self, *arguments, device=device, **options)

    monkeypatch.setattr(Texture, "draw", failing)
    if error is not None and "memory" not in str(error):
        with pytest.raises(RuntimeError, match="device-side assert"):
            images.drawn(family, 0, 5, 4, 2, 7)
        return
    with pytest.warns(
        UserWarning, match="^images: expected to be drawn on meta, got .*; they are drawn on the CPU$"
    ):
        assert torch.equal(images.drawn(family, 0, 5, 4, 2, 7), expected)
    assert torch.equal(images.drawn(family, 0, 5, 4, 2, 7), expected)


def test_devices_that_draw(monkeypatch: pytest.MonkeyPatch) -> None:
    kinds = [torch.device(one) for one in ("cpu", "cuda", "mps")]
    monkeypatch.setattr(dispatch, "importable", lambda module: True)
    assert [draws_on(one) for one in kinds] == [True, True, False]
    monkeypatch.setattr(dispatch, "importable", lambda module: module != "triton")  # which draws the noise
    assert [draws_on(one) for one in kinds] == [True, False, False]


def test_errors_hold_over_seeds() -> None:
    """The spread over images of the same classes is the stated error."""
    found = [run(powers, ScoreConfig(preset="quick", seed=seed)) for seed in range(40)]
    scores = torch.tensor([one.score for one in found])
    stated = float(torch.tensor([one.stderr for one in found]).mean())
    assert 0.7 * float(scores.std()) < stated < 1.4 * float(scores.std())  # known to 11 %


def test_images_of_seeds_and_blocks_are_apart() -> None:
    starts = [STRUCTURE.first(seed, block) for seed in range(3) for block in range(4)]
    ranges = [range(one, one + STRUCTURE.images) for one in starts]
    assert len({index for one in ranges for index in one}) == len(ranges) * STRUCTURE.images
    assert STRUCTURE.first(2**20 - 1, 3) + STRUCTURE.images <= 2**32


def test_budgets() -> None:
    assert STRUCTURE.size("quick") <= 1600 and STRUCTURE.size("standard") <= 6400


def test_public_function_and_refusals() -> None:
    found = sb.structure_score("builtin:conv", input_shape=SHAPE, preset="quick")
    assert found.images == STRUCTURE.size("quick") and found.ci95_low < found.score < found.ci95_high
    with refused("shape: expected (channels, length) or (channels, height, width)"):
        sb.structure_score(lambda x: x, input_shape=(64,), preset="quick")
    assert STRUCTURE.refusal((2, 16, 16)) and not STRUCTURE.refusal((1, 32, 32))
    assert Texture in {type(one) for one in STRUCTURE.families}
