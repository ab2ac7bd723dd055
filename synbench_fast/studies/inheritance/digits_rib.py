"""digits-rib: scikit-learn's digits under eight deterministic shifts, after those of the eight ImageNet variants.

1 797 digits of 8 x 8 pixels. The first 1 000 in the file's order are the pre-training data: 700 to train on, 300 to
validate on. The other 797, of other writers for the most part, make all eight data sets: 398 of them are what is
fine-tuned on and 399 what is evaluated on, each under every shift, so that no data set is evaluated on a digit that
another was fine-tuned on.
"""

from __future__ import annotations

import re
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from synbench_fast.errors import SynbenchError, suggest
from synbench_fast.runtime.optional import optional
from synbench_fast.studies import digits as demo
from synbench_fast.studies.inheritance.data import DataSet, DataSuite, Part, in_memory
from synbench_fast.studies.inheritance.model import Classifier
from synbench_fast.studies.inheritance.schedule import Training

__all__ = ["CORRUPTIONS", "NAME", "SHIFTS", "digits_encoder", "digits_suite"]

NAME = "digits-rib"
_FIRST, _TRAIN, _TUNE = 1000, 700, 398
_ALL = tuple(range(10))
TRAINING = Training(epochs=10, batch_size=32, lr=0.01)


def _digits() -> tuple[Tensor, Tensor]:
    datasets = optional("sklearn.datasets", "scikit-learn", "demo")
    images, labels = datasets.load_digits(return_X_y=True)
    x = torch.from_numpy((images / 16).astype(np.float32).reshape(-1, *demo.SHAPE))
    return x, torch.from_numpy(labels.astype(np.int64))


def _pretraining(x: Tensor, y: Tensor) -> demo.Digits:
    order = torch.from_numpy(np.random.default_rng(0).permutation(_FIRST))
    train, test = order[:_TRAIN], order[_TRAIN:]
    return demo.Digits(x[train], y[train], x[test], y[test], float(x[train].mean()), float(x[train].std()))


def _rendition(x: Tensor, random: np.random.Generator) -> Tensor:
    """Every image in one of three styles: inverted, bold strokes, or on a striped ground."""
    bold = functional.max_pool2d(x, (2, 2), stride=1, padding=1)[:, :, 1:, 1:]
    stripes = torch.zeros(x.shape[-2:])
    stripes[:, ::2] = 0.5
    styles = torch.stack([1 - x, bold, x.maximum(stripes)])
    return styles[torch.from_numpy(random.integers(0, len(styles), len(x))), torch.arange(len(x))]


def _sketch(x: Tensor, random: np.random.Generator) -> Tensor:
    """Length of the Sobel gradient, its maximum over the image set to 1."""
    smooth, slope = torch.tensor([1.0, 2.0, 1.0]), torch.tensor([-1.0, 0.0, 1.0])
    kernels = torch.stack([torch.outer(smooth, slope), torch.outer(slope, smooth)])[:, None]
    edges = functional.conv2d(x, kernels, padding=1).square().sum(1, keepdim=True).sqrt()
    return edges / edges.amax((1, 2, 3), keepdim=True).clamp_min(1e-6)


def _viewpoint(x: Tensor, random: np.random.Generator) -> Tensor:
    """Rotated by up to 30 degrees either way and moved by up to one pixel along each axis, bilinear."""
    angle = torch.from_numpy(random.uniform(-np.pi / 6, np.pi / 6, len(x)).astype(np.float32))
    shift = torch.from_numpy(random.uniform(-1, 1, (len(x), 2)).astype(np.float32)) * 2 / x.shape[-1]
    cos, sin = angle.cos(), angle.sin()
    matrix = torch.stack(
        [torch.stack([cos, -sin, shift[:, 0]], 1), torch.stack([sin, cos, shift[:, 1]], 1)], 1
    )
    grid = functional.affine_grid(matrix, list(x.shape), align_corners=False)
    return functional.grid_sample(x, grid, align_corners=False)


def _cartoon(x: Tensor, random: np.random.Generator) -> Tensor:
    """Smoothed, then three grey levels."""
    return (_blur(x, 1.0) * 2.5).clamp(0, 2).round() / 2


def _drawing(x: Tensor, random: np.random.Generator) -> Tensor:
    """Thinned strokes in black and white: pixels that are the largest of three along a row or a column."""
    wide = functional.max_pool2d(x, (1, 3), stride=1, padding=(0, 1))
    tall = functional.max_pool2d(x, (3, 1), stride=1, padding=(1, 0))
    return (((x == wide) | (x == tall)) & (x > 0.4)).float()


def _same(x: Tensor, random: np.random.Generator) -> Tensor:
    return x


def _blur(x: Tensor, sigma: float) -> Tensor:
    offset = torch.arange(-3, 4).float()
    weight = torch.exp(-offset.square() / (2 * sigma**2))
    weight /= weight.sum()
    across = functional.conv2d(x, weight.view(1, 1, 1, 7), padding=(0, 3))
    return functional.conv2d(across, weight.view(1, 1, 7, 1), padding=(3, 0))


def _gaussian(x: Tensor, level: float, random: np.random.Generator) -> Tensor:
    return x + level * torch.from_numpy(random.standard_normal(tuple(x.shape)).astype(np.float32))


def _shot(x: Tensor, level: float, random: np.random.Generator) -> Tensor:
    return torch.from_numpy((random.poisson(x.numpy() * level) / level).astype(np.float32))


def _impulse(x: Tensor, level: float, random: np.random.Generator) -> Tensor:
    drawn = torch.from_numpy(random.random(tuple(x.shape)).astype(np.float32))
    return torch.where(drawn < level, (drawn < level / 2).float(), x)


def _occlusion(x: Tensor, level: float, random: np.random.Generator) -> Tensor:
    """A black square of `level` pixels somewhere."""
    size = int(level)
    top, left = random.integers(0, x.shape[-1] - size + 1, (2, len(x)))
    line = torch.arange(x.shape[-1])
    rows = (line >= torch.from_numpy(top)[:, None]) & (line < torch.from_numpy(top)[:, None] + size)
    columns = (line >= torch.from_numpy(left)[:, None]) & (line < torch.from_numpy(left)[:, None] + size)
    return x.masked_fill((rows[:, :, None] & columns[:, None, :])[:, None], 0.0)


_Corruption = Callable[[Tensor, float, np.random.Generator], Tensor]

# Name -> what it does at a level, and its levels from mild to severe.
CORRUPTIONS: dict[str, tuple[_Corruption, tuple[float, float, float]]] = {
    "gaussian noise": (_gaussian, (0.1, 0.25, 0.4)),
    "shot noise": (_shot, (16.0, 6.0, 3.0)),
    "impulse noise": (_impulse, (0.05, 0.12, 0.25)),
    "blur": (lambda x, level, random: _blur(x, level), (0.6, 0.9, 1.3)),
    "fog": (lambda x, level, random: (1 - level) * x + level, (0.2, 0.4, 0.6)),
    "contrast": (
        lambda x, level, random: x.mean((1, 2, 3), keepdim=True) * (1 - level) + level * x,
        (0.6, 0.4, 0.2),
    ),
    "occlusion": (_occlusion, (2.0, 3.0, 4.0)),
}

_Shift = Callable[[Tensor, np.random.Generator], Tensor]

# Name -> the shift and the classes that the data set has.
SHIFTS: dict[str, tuple[_Shift, tuple[int, ...]]] = {
    "resampled": (_same, _ALL),
    "hard": (_same, (1, 2, 3, 5, 7, 8, 9)),
    "rendition": (_rendition, (0, 1, 2, 3, 4, 6, 7, 9)),
    "sketch": (_sketch, _ALL),
    "viewpoint": (_viewpoint, (0, 2, 3, 4, 5, 8)),
    "cartoon": (_cartoon, _ALL),
    "drawing": (_drawing, _ALL),
    "corrupted": (_same, _ALL),
}


def _of_classes(x: Tensor, y: Tensor, classes: tuple[int, ...]) -> tuple[Tensor, Tensor]:
    keep = torch.isin(y, torch.tensor(classes))
    return x[keep], y[keep]


def _hardest(x: Tensor, y: Tensor, reference: demo.Digits) -> tuple[Tensor, Tensor]:
    """The half of the digits that lie least clearly nearest to their own class's mean of the pre-training data."""
    means = torch.stack([reference.train_x[reference.train_y == label].mean(0) for label in _ALL]).flatten(1)
    distance = torch.cdist(x.flatten(1).double(), means.double())
    own = distance.gather(1, y[:, None])[:, 0]
    other = distance.scatter(1, y[:, None], torch.inf).amin(1)
    rows = (other - own).argsort(stable=True)[: len(y) // 2].sort().values
    return x[rows], y[rows]


def _shifted(name: str, x: Tensor, y: Tensor, reference: demo.Digits, seed: int) -> Part:
    shift, classes = SHIFTS[name]
    x, y = _of_classes(x, y, classes)
    random = np.random.default_rng([seed, list(SHIFTS).index(name)])
    if name == "hard":
        x, y = _hardest(x, y, reference)
    if name != "corrupted":
        return in_memory(shift(x, random).clamp(0, 1), y, classes)
    made = [corrupt(x, level, random) for corrupt, levels in CORRUPTIONS.values() for level in levels]
    groups = torch.arange(len(made)).repeat_interleave(len(y))
    return in_memory(torch.cat(made).clamp(0, 1), y.repeat(len(made)), classes, groups)


def digits_suite() -> DataSuite:
    """The suite; the same on every machine up to the last bits of its arithmetic."""
    x, y = _digits()
    before = _pretraining(x, y)
    order = _FIRST + torch.from_numpy(np.random.default_rng(1).permutation(len(x) - _FIRST))
    tune, test = order[:_TUNE], order[_TUNE:]
    data = tuple(
        DataSet(
            name, _shifted(name, x[tune], y[tune], before, 2), _shifted(name, x[test], y[test], before, 3)
        )
        for name in SHIFTS
    )
    return DataSuite(
        name=NAME,
        classes=tuple(str(one) for one in _ALL),
        shape=demo.SHAPE,
        data=data,
        pretraining=in_memory(before.test_x, before.test_y, _ALL),
        pretraining_train=in_memory(before.train_x, before.train_y, _ALL),
        training=TRAINING,
        threads=1,
    )


def digits_encoder(name: str) -> Classifier:
    """A small convolutional encoder of the pre-training digits with its linear probe as head.

    `name` is "untrained", "standard" or "adversarial", as the demo trains them, and "?seed=N" behind it another seed.
    """
    kind, _, query = name.partition("?")
    key, _, value = query.partition("=")
    if kind not in demo.KINDS:
        raise SynbenchError(
            f"encoder: expected digits:{', digits:'.join(demo.KINDS)}, got 'digits:{name}'{suggest(kind, demo.KINDS)}"
        )
    if query and (key != "seed" or not re.fullmatch("[0-9]{1,10}", value) or int(value) >= 2**32):
        raise SynbenchError(f"encoder: expected digits:{kind}?seed=N, got 'digits:{name}'")
    before = _pretraining(*_digits())
    encoder = demo.train(kind, before, seed=int(value or 0), epochs=20, radius=0.5, steps=5)
    probe = demo.linear_probe(encoder, before)
    head = probe.head
    assert isinstance(head, torch.nn.Linear)
    return Classifier(encoder, head, mean=(before.mean,), std=(before.std,), shape=demo.SHAPE).clone()
