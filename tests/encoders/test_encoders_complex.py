"""Complex weights stay complex, whatever the encoder runs in."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

import synbench_fast as sb
from synbench_fast.encoders import load_encoder
from synbench_fast.encoders.base import Encoder
from synbench_fast.studies.inheritance.model import Classifier, weighted_mean

SHAPE = (3, 8, 8)


class Filter(nn.Module):
    """Real part of a complex product; the pattern of the task survives in the imaginary parts of the weights alone."""

    def __init__(self, dtype: torch.dtype = torch.complex128) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(3)
        parts = torch.randn(2, 192, 6, generator=generator, dtype=torch.float64)
        parts[0] -= parts[0].mean(0)  # blind to a constant
        self.weight = nn.Parameter(torch.complex(*parts).to(dtype))
        self.register_buffer("phase", torch.tensor(1j, dtype=dtype))
        self.register_buffer("count", torch.tensor(3))

    def forward(self, x: Tensor) -> Tensor:
        return ((x.flatten(1).to(self.weight.dtype) @ self.weight) * self.phase).real.to(x.dtype)


class Turned(nn.Module):
    """A parametrisation that makes complex weights."""

    def forward(self, weight: Tensor) -> Tensor:
        return weight * torch.tensor(1j, dtype=weight.dtype)


def score(encoder: nn.Module | str, **options: object) -> float:
    result = sb.score(encoder, input_shape=SHAPE, eps=(0.0,), scales=3, samples=256, device="cpu", **options)
    return result.scores[0].score


@pytest.mark.parametrize("made", [torch.complex64, torch.complex128])
@pytest.mark.parametrize("dtype", ["float32", "float64", "auto"])
def test_a_complex_encoder_scores_as_its_real_form(made: torch.dtype, dtype: str) -> None:
    whole = Filter(made)
    real = -whole.weight.detach().imag.double()

    def same(x: Tensor) -> Tensor:
        return (x.double().flatten(1) @ real).to(x.dtype)

    assert score(whole, dtype=dtype) == pytest.approx(score(same, dtype="float64"), abs=1e-4)
    assert whole.weight.dtype == made and whole.phase.dtype == made  # given back as it was


@pytest.mark.parametrize("spelling", ["make", "parametrised"])
def test_a_factory_of_complex_weights(tmp_path: Path, spelling: str) -> None:
    """An encoder from a spec is moved for good, in float32 by default."""
    (tmp_path / "make.py").write_text(
        f"import sys\nsys.path[:0] = {[str(Path(__file__).parent), str(Path(__file__).parents[1])]!r}\n"
        "from test_encoders_complex import Filter, Turned\n"
        "import torch.nn.utils.parametrize as parametrize\n"
        "def make():\n    return Filter()\n"
        "def parametrised():\n"
        "    made = Filter()\n"
        "    parametrize.register_parametrization(made, 'weight', Turned(), unsafe=True)\n"
        "    return made\n"
    )
    found = score(f"python:{tmp_path}/make.py:{spelling}")
    real = Filter()
    with torch.no_grad():
        if spelling == "parametrised":
            real.weight.mul_(1j)
    assert found == pytest.approx(score(real, dtype="float64"), abs=1e-4)


def test_every_move_keeps_the_imaginary_part() -> None:
    made = Filter()
    expected = made.weight.detach().clone()
    encoder: Encoder = load_encoder(made, input_shape=SHAPE)

    def held(dtype: torch.dtype) -> None:
        assert made.weight.dtype == made.phase.dtype == dtype and made.count.dtype == torch.int64
        torch.testing.assert_close(made.weight.detach().to(torch.complex128), expected, rtol=1e-6, atol=1e-6)

    for dtype, kind in (
        (torch.float32, torch.complex64),
        (torch.bfloat16, torch.complex64),
        (torch.float16, torch.complex64),
        (torch.float64, torch.complex128),
    ):
        encoder.to(dtype=dtype)
        with encoder.scoring():
            held(kind)
            encoder.recast(dtype)
            held(kind)
            with encoder.in_float32():
                held(torch.complex64)
            held(kind)
        assert torch.equal(made.weight, expected)
    encoder.to(device="cpu")
    assert made.weight.dtype == torch.complex128


def test_a_mean_of_complex_classifiers() -> None:
    models = [
        Classifier(Filter(torch.complex64), nn.Linear(6, 2), mean=[0] * 3, std=[1] * 3, shape=SHAPE)
        for _ in range(2)
    ]
    with torch.no_grad():
        models[1].body.weight.mul_(1j)
    mixed = weighted_mean(models, [0.25, 0.75]).body.weight
    torch.testing.assert_close(mixed, models[0].body.weight * (0.25 + 0.75j))
