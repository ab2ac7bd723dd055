"""Samples of the families: pure functions of their arguments, with the classes that their documentation promises."""

from __future__ import annotations

import hashlib
import json
import tomllib

import numpy as np
import pytest
import torch
from checks import refused
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
from sklearn.linear_model import RidgeClassifier

from synbench_fast.tasks.families import FAMILIES, Count, Instances, Symmetry, Texture, family

ALL = sorted(FAMILIES)
WAVES = ("shift", "texture")
quick = settings(deadline=None, max_examples=40)


def shapes(name: str) -> st.SearchStrategy[tuple[int, ...]]:
    side = st.integers(8, 40)
    images = st.tuples(st.sampled_from([1, 3]), side, side)
    if name not in WAVES:
        return images
    return images | st.tuples(st.integers(1, 4), side) | st.tuples(st.integers(1, 5), side, side)


@quick
@given(st.data(), st.sampled_from(ALL))
def test_samples_depend_on_neither_batches_nor_threads(data: st.DataObject, name: str) -> None:
    one = FAMILIES[name](classes=5, level=data.draw(st.sampled_from([0.0, 0.3, 1.0, 2.5])))
    shape = data.draw(shapes(name))
    start, count = data.draw(st.sampled_from([0, 1, 2**31, 2**32 - 7])), data.draw(st.integers(1, 7))
    seed, class_ = data.draw(st.sampled_from([0, 7, 2**64 - 1])), data.draw(st.integers(0, 4))
    whole = one.draw(shape, seed, class_, start, count, threads=1)
    assert whole.shape == (count, *shape) and whole.dtype == torch.float32 and bool(whole.isfinite().all())
    cut, threads = data.draw(st.integers(0, count)), data.draw(st.integers(2, 4))
    out = torch.full_like(whole, torch.nan)
    part = out[:cut]
    assert one.draw(shape, seed, class_, start, cut, part, threads=threads) is part
    one.draw(shape, seed, class_, start + cut, count - cut, out[cut:], threads=threads)
    assert torch.equal(whole, out)


@pytest.mark.parametrize("name", ALL)
def test_samples_differ_by_seed_class_index_and_level(name: str) -> None:
    def first(level: float = 0.5, seed: int = 1, class_: int = 1, index: int = 3) -> torch.Tensor:
        return FAMILIES[name](classes=4, level=level).draw((3, 16, 16), seed, class_, index, 1)

    others = [first(0.6), first(seed=2), first(class_=2), first(index=4)]
    assert all(float((first() - other).abs().mean()) > 0.01 for other in others)
    assert torch.equal(first(), FAMILIES[name](classes=9).draw((3, 16, 16), 1, 1, 3, 1))


# Of samples 2 .. 4 of class 1, seed 5, level 0.5, of 3 x 20 x 24: the sha256 of the float32 bits, or one element.
KNOWN = {
    "count": "d1d6884f242bbbc04d4f50e6f07b8d4edbc8c537ac9d7b17ae79c19263d42ff1",
    "instances": "05ba894a5a4c4a154640dd12ace210ee8bca2919c357df202ac5e1fe93b074fc",
    "relations": "900fd7f988263ec2fc5bb3323d756a4c1f01c13553a13843b0e0e9b732174512",
    "shapes": "2168d023502db52041d84c5f1cc836abaf35c35c7744ada2024a9ade7f07aab7",
    "shift": [0.8072507, 0.8446213, 0.9151636],
    "symmetry": "d687ed71f60d2c4f41f9fd30d5ce2d379cd8746dfc5e485528ee2f99619cbba9",
    "texture": [0.1090505, 0.1998822, 0.2873954],
}


@pytest.mark.parametrize("name", sorted(set(ALL) - set(WAVES)))
def test_known_bits(name: str) -> None:
    x = FAMILIES[name]().draw((3, 20, 24), 5, 1, 2, 3)
    assert hashlib.sha256(x.numpy().astype("<f4").tobytes()).hexdigest() == KNOWN[name]


@pytest.mark.parametrize("name", WAVES)
def test_known_values_of_what_a_transform_makes(name: str) -> None:
    """Its tables come from the cosine of a library, which may round the last bit of a double another way."""
    x = FAMILIES[name]().draw((3, 20, 24), 5, 1, 2, 3)
    np.testing.assert_allclose(x[1, :, 7, 11], KNOWN[name], atol=2e-6)


@quick
@given(st.data(), st.sampled_from(ALL))
def test_the_compiled_core_and_the_specification_agree(data: st.DataObject, name: str) -> None:
    one = FAMILIES[name](level=data.draw(st.sampled_from([0.0, 0.4, 1.0])))
    arguments = (data.draw(shapes(name)), data.draw(st.integers(0, 3)), data.draw(st.integers(0, 9)), 5, 3)
    fast, slow = one.draw(*arguments, backend="cpp"), one.draw(*arguments, backend="numpy")
    # A colour of a scene that lies between two of the 256 steps may fall on either side.
    assert float((fast - slow).abs().max()) <= (5e-3 if name == "instances" else 3e-5)
    assert float((fast - slow).abs().mean()) <= 2e-6


@pytest.mark.parametrize("name", ALL)
def test_neither_pixels_nor_colours_name_the_class(name: str) -> None:
    """Linear readers of pixels, block means and colour statistics, trained on half of the samples; chance is 0.1."""
    one, count = FAMILIES[name](classes=10, level=1.0), 60
    x = torch.cat([one.draw((3, 32, 32), 3, k, 0, count) for k in range(10)]).numpy()
    y, train = np.repeat(np.arange(10), count), np.tile(np.arange(count) < count // 2, 10)
    views = {
        "pixels": (x.reshape(len(x), -1), RidgeClassifier(alpha=1e3)),
        "blocks": (
            x.reshape(-1, 3, 8, 4, 8, 4).mean((3, 5)).reshape(len(x), -1),
            LinearDiscriminantAnalysis(solver="lsqr", shrinkage="auto"),
        ),
        "means": (x.mean((2, 3)), LinearDiscriminantAnalysis()),
    }
    for view, (z, reader) in views.items():
        accuracy = reader.fit(z[train], y[train]).score(z[~train], y[~train])
        assert accuracy < 0.1 + 4 * (0.09 / 300) ** 0.5, (view, accuracy)


def test_means_of_instances_are_the_same_grey() -> None:
    one = Instances(level=0.3)
    for channels in (1, 3):
        x = one.draw((channels, 16, 16), 2, 1, 0, 4000)
        error = x.std(0) / 4000**0.5
        z = (x.mean(0) - 0.5) / error
        assert float(z.pow(2).mean()) == pytest.approx(1, abs=0.6)


def test_a_count_is_the_number_of_things() -> None:
    for k in (0, 3, 11, 19):
        x = Count(classes=20, level=0.0).draw((3, 96, 96), 4, k, 0, 5).numpy()
        for image in x:
            ground = np.median(image.reshape(3, -1), axis=1)[:, None, None]
            _, found = ndimage.label(np.sqrt(((image - ground) ** 2).sum(0)) > 0.2)
            assert found == k + 1


@pytest.mark.parametrize(
    ("class_", "moved"),
    [
        (1, lambda x: x.flip(-2)), (3, lambda x: x.transpose(-1, -2)), (5, lambda x: x.flip(-1)),
        (7, lambda x: x.flip(-1, -2).transpose(-1, -2)), (9, lambda x: x.flip(-1, -2)), (11, lambda x: x.rot90(1, (-2, -1))),
    ],
)  # fmt: skip
def test_a_symmetry_maps_the_picture_to_itself(class_: int, moved) -> None:
    """Up to the noise of deviation 0.02 and edges of strokes, at level 0; the picture without symmetry is not."""
    x = Symmetry(level=0.0).draw((3, 64, 64), 4, class_, 0, 6)
    assert float((x - moved(x)).abs().mean()) < 0.03
    plain = Symmetry(level=0.0).draw((3, 64, 64), 4, 0, 0, 6)
    assert float((plain - moved(plain)).abs().mean()) > 0.1


@pytest.mark.parametrize("name", ALL)
def test_a_table_and_back(name: str) -> None:
    one = FAMILIES[name](classes=7, level=0.25)
    assert family(json.loads(json.dumps(one.parameters()))) == one
    assert family(tomllib.loads(f'family = "{name}"\nclasses = 7\nlevel = 0.25')) == one
    assert one.name == name


@pytest.mark.parametrize(
    ("call", "text"),
    [
        (lambda: family({"family": "textures"}), "family: expected one of texture, shift"),
        (lambda: family({}), "got None"),
        (lambda: family({"family": "shift", "levels": 1}), "expected the keys classes and level, got 'levels'"),
        (lambda: Texture(classes=1), "classes: expected an integer from 2 to 1048576, got 1"),
        (lambda: Count(classes=21), "classes: expected an integer from 2 to 20, got 21"),
        (lambda: Texture(level=float("nan")), "level: expected a number in [0, 4], got nan"),
        (lambda: Texture(level=-0.1), "level"),
        (lambda: Texture(level="1"), "level"),
        (lambda: Texture(level=True), "level"),
        (lambda: Instances().draw((3, 64), 0, 0, 0, 1), "shape: expected (channels, height, width)"),
        (lambda: Instances().draw((2, 64, 64), 0, 0, 0, 1), "1 or 3 channels"),
        (lambda: Instances().draw((3, 7, 64), 0, 0, 0, 1), "sides from 8 to 4096"),
        (lambda: Texture().draw((64,), 0, 0, 0, 1), "shape: expected (channels, length) or"),
        (lambda: Texture().draw((65, 64), 0, 0, 0, 1), "1 to 64 channels"),
        (lambda: Texture().draw((3, 16.0, 16), 0, 0, 0, 1), "shape"),
        (lambda: Texture().draw((3, 16, 16), -1, 0, 0, 1), "seed"),
        (lambda: Texture().draw((3, 16, 16), 0, 20, 0, 1), "class_: expected an integer from 0 to 19, got 20"),
        (lambda: Texture().draw((3, 16, 16), 0, 0, 2**32 - 1, 2), "start + count of at most 2^32"),
        (lambda: Texture().draw((3, 16, 16), 0, 0, 0, -1), "count"),
        (lambda: Texture().draw((3, 16, 16), 0, 0, 0, 1, threads=-1), "threads"),
        (lambda: Texture().draw((3, 16, 16), 0, 0, 0, 1, backend="cuda"), "backend: expected 'auto' or one of"),
        (lambda: Texture().draw((3, 16, 16), 0, 0, 0, 1, torch.zeros(1, 3, 16, 17)), "out: expected"),
        (lambda: Texture().draw((3, 16, 16), 0, 0, 0, 1, torch.zeros(1, 16, 16, 3).movedim(-1, 1)), "out: expected"),
        (lambda: Texture().optimum((3, 16, 16), 1, 1), "expected two different classes"),
        (lambda: Texture().optimum((3, 16, 16), 1, 20), "class: expected an integer from 0 to 19"),
        (lambda: Texture.of_scale((3, 16, 16), 1e4, classes=2), "scale: expected"),
        (lambda: Texture.of_scale((3, 16, 16), 0), "scale: expected a finite number above 0"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_said_in_one_line(call, text: str) -> None:
    with refused(text):
        call()


def test_no_samples() -> None:
    assert Texture().draw((3, 16, 16), 0, 0, 2**32, 0).shape == (0, 3, 16, 16)
