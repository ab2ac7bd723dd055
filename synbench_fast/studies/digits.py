"""Real data for the demo: small encoders trained on scikit-learn's digits, and how good they truly are.

Images are 8x8 grey, scaled to [0, 1]; encoders read them normalised by the training set's mean and standard
deviation; radii and perturbations are l2 distances in pixel space, before the normalisation.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from synbench_fast.errors import SynbenchError
from synbench_fast.runtime.optional import optional

SHAPE = (1, 8, 8)
FEATURES = 64
CLASSES = 10
KINDS = ("untrained", "standard", "adversarial")


@dataclass(frozen=True)
class Digits:
    """The two parts of the data: x float32 [n, 1, 8, 8] in [0, 1], y int64 [n]; mean and std of train_x."""

    train_x: Tensor
    train_y: Tensor
    test_x: Tensor
    test_y: Tensor
    mean: float
    std: float


class DigitClassifier(nn.Module):
    """Pixels in [0, 1] -> normalise -> encoder -> linear head -> logits [B, classes]."""

    def __init__(self, encoder: nn.Module, head: nn.Module, mean: float, std: float) -> None:
        super().__init__()
        self.encoder, self.head, self.mean, self.std = encoder, head, mean, std

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.head(self.encoder((x - self.mean) / self.std))
        return logits


def load(seed: int) -> Digits:
    """scikit-learn's 1797 digits, a third of every class held out; the split depends on `seed` alone."""
    datasets = optional("sklearn.datasets", "scikit-learn", "demo")
    selection = optional("sklearn.model_selection", "scikit-learn", "demo")
    images, labels = datasets.load_digits(return_X_y=True)
    pixels = (images / 16.0).astype(np.float32).reshape(-1, *SHAPE)
    train_x, test_x, train_y, test_y = selection.train_test_split(
        pixels, labels.astype(np.int64), test_size=1 / 3, random_state=seed, stratify=labels
    )
    return Digits(
        torch.from_numpy(train_x),
        torch.from_numpy(train_y),
        torch.from_numpy(test_x),
        torch.from_numpy(test_y),
        float(train_x.mean()),
        float(train_x.std()),
    )


def train(kind: str, digits: Digits, *, seed: int, epochs: int, radius: float, steps: int) -> nn.Module:
    """An encoder [B, 1, 8, 8] -> [B, 64] in eval mode; one seed starts every `kind` from the same weights.

    "untrained" returns those weights, "standard" minimises cross-entropy on the digits, "adversarial" on
    digits moved by `steps` of l2 PGD within `radius` (Madry et al., arXiv 1706.06083).
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        encoder = nn.Sequential(
            nn.Conv2d(1, 16, 3, padding=1),
            nn.GELU(),
            nn.Conv2d(16, 32, 3, stride=2, padding=1),
            nn.GELU(),
            nn.Flatten(),
            nn.Linear(32 * 4 * 4, FEATURES),
        )
        model = DigitClassifier(encoder, nn.Linear(FEATURES, CLASSES), digits.mean, digits.std)
    if kind != "untrained":
        within = (radius, steps) if kind == "adversarial" else None
        fit(
            model,
            lambda _: digits.train_x,
            digits.train_y,
            seed=seed,
            epochs=epochs,
            rate=4e-3,
            within=within,
        )
    return encoder.eval().requires_grad_(False)


def fit(
    model: nn.Module,
    images: Callable[[torch.Generator], Tensor],
    labels: Tensor,
    *,
    seed: int,
    epochs: int,
    rate: float,
    within: tuple[float, int] | None,
) -> None:
    """Minimise the cross-entropy of `model` by Adam in batches of 64, with one cycle of the learning rate up to `rate`.

    Args:
        images: the images [N, ...] of an epoch, in [0, 1], of the generator that also orders the batches.
        labels: int64 [N].
        within: radius and steps of the l2 PGD that moves each batch; None for the images as they are.
    """
    generator = torch.Generator().manual_seed(seed)
    optimizer = torch.optim.Adam(model.parameters())
    batches = -(-len(labels) // 64)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, rate, total_steps=epochs * batches)
    for _ in range(epochs):
        every = images(generator)
        for batch in torch.split(torch.randperm(len(every), generator=generator), 64):
            x, y = every[batch], labels[batch]
            if within is not None:
                x, _ = pgd(model, x, y, *within, generator, (0.0, 1.0))
            optimizer.zero_grad()
            functional.cross_entropy(model(x), y).backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            schedule.step()


def linear_probe(encoder: nn.Module, digits: Digits) -> DigitClassifier:
    """Logistic regression (scikit-learn, C = 1) on the frozen encoder's standardised training features."""
    linear_model = optional("sklearn.linear_model", "scikit-learn", "demo")
    with torch.no_grad():
        features = encoder((digits.train_x - digits.mean) / digits.std).double().numpy()
    mean, std = features.mean(axis=0), features.std(axis=0)
    std[std < 1e-6 * std.max()] = np.inf  # a feature that never varies says nothing: weight 0
    fit = linear_model.LogisticRegression(C=1.0, max_iter=5000)
    fit.fit((features - mean) / std, digits.train_y.numpy())
    weight = fit.coef_ / std
    # Made empty, the head draws no starting weights from the global generator.
    head = nn.Linear(FEATURES, CLASSES, device="meta").to_empty(device="cpu")
    with torch.no_grad():
        head.weight.copy_(torch.from_numpy(weight))
        head.bias.copy_(torch.from_numpy(fit.intercept_ - weight @ mean))
    return DigitClassifier(encoder, head, digits.mean, digits.std).eval().requires_grad_(False)


def survivors(
    model: nn.Module,
    x: Tensor,
    y: Tensor,
    radii: Sequence[float],
    *,
    steps: int,
    seed: int,
    box: tuple[float, float] | None = (0.0, 1.0),
) -> Tensor:
    """Which samples stay correctly classified under an l2 attack: bool [1 + R, n], row 0 without attack.

    For every radius (ascending) the attack is PGD from a random start towards each wrong class in turn, the
    likeliest first, along the normalised gradient of logit[class] - logit[y], which unlike cross-entropy
    does not vanish on confident samples. A sample is lost as soon as any iterate is misclassified, and what
    a smaller ball already broke stays broken in a larger one. Perturbed images stay within `box`.
    """
    if list(radii) != sorted(radii):
        raise SynbenchError(f"radii: expected them in ascending order, got {list(radii)}")
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        logits = model(x)
    wrong = logits.scatter(1, y[:, None], -torch.inf).argsort(dim=1, descending=True)[:, :-1]
    alive = logits.argmax(dim=1) == y
    rows = [alive.clone()]
    for radius in radii:
        for target in wrong.T:
            left = alive.nonzero()[:, 0]
            if len(left):
                _, lost = pgd(model, x[left], y[left], radius, steps, generator, box, target[left])
                alive[left[lost]] = False
        rows.append(alive.clone())
    return torch.stack(rows)


def pgd(
    model: nn.Module,
    x: Tensor,
    y: Tensor,
    radius: float,
    steps: int,
    generator: torch.Generator,
    box: tuple[float, float] | None,
    target: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Projected gradient ascent in the l2 ball: the last iterate, and whether any iterate was misclassified.

    Ascends cross-entropy, or logit[target] - logit[y] where a target is given. Clamping to the box cannot
    leave the ball, as x itself lies in the box.
    """

    def inside(delta: Tensor) -> Tensor:
        point = x + delta * (radius / _norm(delta)).clamp(max=1.0)
        return point if box is None else point.clamp(*box)

    start = torch.randn(x.shape, generator=generator)
    length = radius * torch.rand((len(x), *[1] * (x.ndim - 1)), generator=generator)
    point = inside(start / _norm(start) * length)
    lost = torch.zeros(len(x), dtype=torch.bool)
    for step in range(steps + 1):
        point = point.detach().requires_grad_(True)
        logits = model(point)
        lost |= logits.detach().argmax(dim=1) != y
        if step == steps:
            break
        if target is None:
            gain = functional.cross_entropy(logits, y, reduction="sum")
        else:
            gain = (logits.gather(1, target[:, None]) - logits.gather(1, y[:, None])).sum()
        (gradient,) = torch.autograd.grad(gain, point)
        point = inside(point.detach() + 2.5 * radius / steps * gradient / _norm(gradient) - x)
    return point.detach(), lost


def _norm(x: Tensor) -> Tensor:
    """l2 norm of every sample, shaped to divide it; tiny instead of 0."""
    length: Tensor = torch.linalg.vector_norm(x, dim=list(range(1, x.ndim)), keepdim=True)
    return length.clamp_min(1e-12)
