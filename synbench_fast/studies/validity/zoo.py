"""Small encoders of known making, of different quality, width and robustness, to validate scores on.

All read 3 x 8 x 8 inputs in [0, 1]: digits, repeated in the three channels, and patches of photographs. Those that
learn see the train part of a data set alone, so the test part is new to them. Same seed, same encoders on one
machine. Normalisation is part of the encoder.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from synbench_fast.errors import SynbenchError, suggest
from synbench_fast.runtime.global_state import seeded
from synbench_fast.studies.digits import DigitClassifier, pgd
from synbench_fast.studies.labelled_data import PHOTO_SHAPE
from synbench_fast.studies.validity.datasets import DataSet

__all__ = ["RECIPES", "SMALL", "Recipe", "ZooEncoder", "train_zoo"]

_INPUTS = 3 * 8 * 8
_BATCH = 64
_STEPS = 5  # of the attack during adversarial training
_CLASSES = 10


@dataclass(frozen=True)
class Recipe:
    """How one encoder is made.

    Args:
        name: its name in tables.
        body: "conv" or "conv-mean" (two convolutions, then a linear layer or a mean over positions), "mlp" (two
            layers), "linear" (a random projection), "pca", "pixels" or "blocks" (means over 4 x 4 pixels).
        width: channels of the first convolution, or hidden units.
        features: F.
        task: "none", "labels" (cross-entropy) or "inputs" (an autoencoder's squared error).
        data: the data set that it learns from.
        epochs: over the train part.
        wrong_labels: fraction of the training labels replaced by random ones, once.
        noise: standard deviation of the noise added to training inputs.
        radius: of the l2 ball of adversarial training (Madry et al., arXiv 1706.06083), in units of inputs in [0, 1].
    """

    name: str
    body: str
    width: int = 16
    features: int = 64
    task: str = "labels"
    data: str = "digits"
    epochs: int = 20
    wrong_labels: float = 0.0
    noise: float = 0.0
    radius: float = 0.0


RECIPES = {
    one.name: one
    for one in (
        Recipe("pixels", "pixels", features=_INPUTS, task="none"),
        Recipe("blocks", "blocks", features=12, task="none"),
        Recipe("projection-16", "linear", features=16, task="none"),
        Recipe("projection-64", "linear", features=64, task="none"),
        Recipe("pca-8", "pca", features=8, task="none"),
        Recipe("pca-32", "pca", features=32, task="none"),
        Recipe("conv-untrained", "conv", task="none"),
        Recipe("conv-mean", "conv-mean", features=32, task="none"),
        Recipe("conv-brief", "conv", epochs=1),
        Recipe("conv", "conv"),
        Recipe("conv-narrow", "conv", width=4, features=8),
        Recipe("conv-wide", "conv", width=32, features=128),
        Recipe("conv-wrong-labels", "conv", wrong_labels=0.5),
        Recipe("conv-random-labels", "conv", wrong_labels=1.0),
        Recipe("conv-noise", "conv", noise=0.3),
        Recipe("conv-adversarial", "conv", radius=0.5),
        Recipe("conv-adversarial-1", "conv", radius=1.0),
        Recipe("conv-photos", "conv", data="photos"),
        Recipe("mlp-untrained", "mlp", width=128, task="none"),
        Recipe("mlp", "mlp", width=128),
        Recipe("mlp-adversarial", "mlp", width=128, radius=0.5),
        Recipe("autoencoder-16", "mlp", width=128, features=16, task="inputs", epochs=30),
        Recipe("autoencoder-photos", "mlp", width=128, features=16, task="inputs", data="photos", epochs=30),
    )
}

# A dozen that differ most, for a run of under a minute.
SMALL = (
    "pixels", "blocks", "projection-16", "pca-8", "conv-untrained", "conv-mean", "conv-brief", "conv",
    "conv-narrow", "conv-random-labels", "conv-adversarial", "mlp",
)  # fmt: skip


class ZooEncoder(nn.Module):
    """Inputs [B, 3, 8, 8] in [0, 1] to features [B, F]."""

    input_shape = PHOTO_SHAPE

    def __init__(self, body: nn.Module) -> None:
        super().__init__()
        self.body = body

    def forward(self, x: Tensor) -> Tensor:
        features: Tensor = self.body((x - 0.5) / 0.5)
        return features


class _Blocks(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return functional.avg_pool2d(x, 4).flatten(1)


class _SpatialMean(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.mean((2, 3))


def train_zoo(
    data: Mapping[str, DataSet],
    names: tuple[str, ...] | None = None,
    *,
    seed: int = 0,
    epochs: float = 1.0,
    progress: Callable[[str], None] = lambda name: None,
) -> dict[str, ZooEncoder]:
    """The encoders of RECIPES by name, trained.

    Args:
        data: the split data sets "digits" and "photos".
        names: of RECIPES; default all.
        seed: of weights, order, noise and wrong labels; encoders of one architecture start from the same weights.
        epochs: factor on the recipes' epochs.
        progress: called with each name as its training begins.

    Raises:
        SynbenchError: an unknown name, or a data set that a recipe learns from and that is missing.
    """
    chosen = tuple(RECIPES) if names is None else names
    for name in chosen:
        if name not in RECIPES:
            raise SynbenchError(
                f"zoo: expected one of {', '.join(RECIPES)}, got {name!r}{suggest(name, RECIPES)}"
            )
        needed = RECIPES[name].data
        if needed not in data:
            raise SynbenchError(
                f"zoo: expected the data set {needed} for {name}, got {', '.join(data) or 'none'}"
            )
    made = {}
    for name in chosen:
        progress(name)
        recipe = RECIPES[name]
        x, y, _, _ = data[recipe.data].parts(PHOTO_SHAPE, name)
        with seeded(seed):
            made[name] = _make(recipe, x, y, seed=seed, epochs=max(1, round(recipe.epochs * epochs)))
    return made


def _body(recipe: Recipe, x: Tensor) -> nn.Module:
    width, features = recipe.width, recipe.features
    if recipe.body == "pixels":
        return nn.Flatten()
    if recipe.body == "blocks":
        return _Blocks()
    if recipe.body in ("linear", "pca"):
        layer = nn.Linear(_INPUTS, features, bias=False)
        with torch.no_grad():
            if recipe.body == "pca":
                flat = x.flatten(1).double()
                directions = torch.linalg.svd(flat - flat.mean(0), full_matrices=False).Vh[:features]
                layer.weight.copy_(directions)
            else:
                nn.init.normal_(layer.weight, std=_INPUTS**-0.5)
        return nn.Sequential(nn.Flatten(), layer)
    if recipe.body == "mlp":
        return nn.Sequential(
            nn.Flatten(), nn.Linear(_INPUTS, width), nn.GELU(), nn.Linear(width, features), nn.GELU()
        )
    layers: list[nn.Module] = [
        nn.Conv2d(3, width, 3, padding=1),
        nn.GELU(),
        nn.Conv2d(width, 2 * width, 3, stride=2, padding=1),
        nn.GELU(),
    ]
    if recipe.body == "conv-mean":
        return nn.Sequential(*layers, _SpatialMean())
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(2 * width * 4 * 4, features))


def _make(recipe: Recipe, x: Tensor, y: Tensor, *, seed: int, epochs: int) -> ZooEncoder:
    encoder = ZooEncoder(_body(recipe, x))
    if recipe.task != "none":
        generator = torch.Generator().manual_seed(seed)
        if recipe.wrong_labels:
            replaced = torch.rand(len(y), generator=generator) < recipe.wrong_labels
            random = torch.randint(int(y.max()) + 1, (len(y),), generator=generator)
            y = torch.where(replaced, random, y)
        _train(encoder, recipe, x, y, epochs, generator)
    return encoder.eval().requires_grad_(False)


def _train(
    encoder: ZooEncoder, recipe: Recipe, x: Tensor, y: Tensor, epochs: int, generator: torch.Generator
) -> None:
    labels = recipe.task == "labels"
    head = nn.Linear(recipe.features, _CLASSES if labels else _INPUTS)
    model = DigitClassifier(encoder, head, 0.0, 1.0)
    optimizer = torch.optim.Adam(model.parameters())
    batches = -(-len(x) // _BATCH)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 4e-3, total_steps=epochs * batches)
    for _ in range(epochs):
        order = torch.randperm(len(x), generator=generator)
        for start in range(0, len(x), _BATCH):
            batch = order[start : start + _BATCH]
            shown, wanted = x[batch], y[batch]
            if recipe.noise:
                shown = shown + recipe.noise * torch.randn(shown.shape, generator=generator)
            if recipe.radius:
                shown, _ = pgd(model, shown, wanted, recipe.radius, _STEPS, generator, (0.0, 1.0))
            optimizer.zero_grad()
            if labels:
                loss = functional.cross_entropy(model(shown), wanted)
            else:
                loss = functional.mse_loss(model(shown), x[batch].flatten(1))
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            schedule.step()
