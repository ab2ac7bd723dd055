"""The loop of fine-tuning, and the classifier that goes into it."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from checks import refused
from inheritance_cases import (
    CLASSES,
    SHAPE,
    TRAINING,
    equal,
    logits_of,
    make_classifier,
    make_part,
    pretrained,
    weights,
)
from torch import Tensor, nn

from synbench_fast.studies.inheritance.model import Classifier, split_head
from synbench_fast.studies.inheritance.networks import load_network
from synbench_fast.studies.inheritance.training import Training, fit, predictions, steps_of


@pytest.fixture(scope="module")
def original() -> Classifier:
    return pretrained()


def test_schedule_warms_up_and_ends_at_zero(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[float] = []
    step = torch.optim.SGD.step

    def spy(self: torch.optim.SGD, closure: None = None) -> Any:
        seen.append(self.param_groups[0]["lr"])
        return step(self)

    monkeypatch.setattr(torch.optim.SGD, "step", spy)
    model, part = make_classifier(), make_part(1)
    fit(model, part, replace(TRAINING, epochs=10), parameters=model.parameters(), seed=0)
    assert len(seen) == steps_of(replace(TRAINING, epochs=10), len(part)) == 40
    assert seen[0] == pytest.approx(0.01) and seen[:5] == sorted(seen[:5])  # a tenth: 4 steps of warm-up
    assert seen[4] == 0.05 and seen[4:] == sorted(seen[4:], reverse=True) and seen[-1] < 0.001


def test_defaults_are_the_published_ones() -> None:
    assert Training() == Training(
        epochs=10, batch_size=256, lr=1e-3, momentum=0.9, weight_decay=0.0, warmup=196, mixed_precision=True
    )


def test_a_loss_that_is_not_finite_is_refused() -> None:
    model = make_classifier()
    with refused("lr: expected one at which the loss stays finite", "epoch 1"):
        fit(model, make_part(1), replace(TRAINING, lr=1e30, warmup=0), parameters=model.parameters(), seed=0)


def test_weights_of_a_last_step_that_are_not_finite_are_refused() -> None:
    """One step: its loss is that of the weights before it."""
    model = make_classifier()
    training = Training(epochs=1, batch_size=60, lr=3e38, momentum=0.0, warmup=0)
    with refused("lr: expected one at which the weights stay finite, got 3e+38"):
        fit(
            model,
            make_part(1),
            replace(training, lr=3e38),
            parameters=model.parameters(),
            seed=0,
            penalty=steep,
        )


def steep(x: Tensor, logits: Tensor) -> Tensor:
    return 1e3 * logits.square().sum()


def test_a_last_batch_of_one_image_and_a_norm_over_the_batch() -> None:
    body = nn.Sequential(nn.Flatten(), nn.Linear(36, 8), nn.BatchNorm1d(8))
    model = Classifier(body, nn.Linear(8, CLASSES), mean=(0.4,), std=(0.5,), shape=SHAPE).clone()
    with refused(
        "batch_size: expected one that leaves more than 1 of 33 images for the last batch, got 16: ",
        "Expected more than 1 value per channel",
    ):
        fit(model, make_part(1, n=33), TRAINING, parameters=model.parameters(), seed=0)


def test_float32_is_float32(original: Classifier, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever TF32 the caller allows: of accuracies, and of training without mixed precision."""
    from synbench_fast.studies.inheritance import training

    asked: list[tuple[str, bool]] = []

    @contextmanager
    def spy(device: torch.device, allowed: bool) -> Iterator[None]:
        asked.append((device.type, allowed))
        yield

    monkeypatch.setattr(training, "tf32_allowed", spy)
    predictions(original, make_part(1))
    model = original.clone()
    fit(model, make_part(1), replace(TRAINING, epochs=1), parameters=model.parameters(), seed=0)
    assert asked == [("cpu", False)] * 2


def test_predictions_go_batch_by_batch(original: Classifier) -> None:
    part = make_part(3, (0, 2))
    assert torch.equal(predictions(original, part, batch_size=7), part.predict(logits_of(original, part)))
    broken = original.clone()
    nn.init.constant_(broken.head.bias, math.inf)
    with refused("logits: expected finite ones, got inf"):
        predictions(broken, part)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"epochs": 0}, "epochs: expected an integer of at least 1, got 0"),
        ({"lr": 0.0}, "lr: expected a number above 0, got 0.0"),
        ({"momentum": 1.0}, "momentum: expected a number in [0, 1), got 1.0"),
        ({"weight_decay": -1.0}, "weight_decay: expected a number of at least 0, got -1.0"),
    ],
)
def test_training_is_checked(change: dict[str, Any], words: str) -> None:
    with refused(words):
        replace(Training(), **change)


def test_weights_without_pickle(original: Classifier, tmp_path: Path) -> None:
    path = original.save(tmp_path / "a.safetensors")
    assert b"pickle" not in path.read_bytes()[:200]
    other = make_classifier()
    assert not equal(weights(other), weights(original))
    assert equal(weights(other.load(path)), weights(original))
    (tmp_path / "b.safetensors").write_bytes(b"nothing")
    with refused("b.safetensors: expected safetensors with the weights of this classifier"):
        other.load(tmp_path / "b.safetensors")


def test_head_is_split_off() -> None:
    whole = nn.Sequential(nn.Flatten(), nn.Linear(36, 8), nn.ReLU(), nn.Linear(8, CLASSES)).eval()
    x = make_part(1).load(torch.arange(5))
    expected = whole((x - 0.4) / 0.5)
    made = split_head(whole, CLASSES, spec="s", mean=(0.4,), std=(0.5,), shape=SHAPE)
    assert torch.allclose(made(x), expected) and made.features(x).shape == (5, 8)
    with refused(
        "encoder s: expected a network that ends in nn.Linear with 7 outputs", "got linear layers with 8"
    ):
        split_head(whole, 7, spec="s", mean=(0.4,), std=(0.5,), shape=SHAPE)
    more = nn.Sequential(nn.Flatten(), nn.Linear(36, CLASSES), nn.Tanh())
    with refused("encoder s: expected logits that are 1 of the features, got a network that does more"):
        split_head(more, CLASSES, spec="s", mean=(0.4,), std=(0.5,), shape=SHAPE)


@pytest.mark.parametrize(
    ("spec", "words"),
    [
        (
            "digit:standard",
            ("encoder: expected a network with its classifier from digits", "did you mean digits?"),
        ),
        ("digits:standrd", ("encoder: expected digits:untrained", "did you mean standard?")),
        ("digits:standard?sed=1", ("encoder: expected digits:standard?seed=N",)),
        ("timm:resnet18000", ("resnet18",)),
    ],
)
def test_specs_of_networks(spec: str, words: tuple[str, ...]) -> None:
    with refused(*words):
        load_network(spec)


def test_a_classifier_has_its_weights(original: Classifier) -> None:
    with refused("checkpoint: expected None for module:Body, got a.pt; a Classifier has its weights"):
        load_network(original, checkpoint="a.pt")
    with refused("random_init: expected False for module:Body, got True; a Classifier has its weights"):
        load_network(original, random_init=True)


def test_a_network_that_returns_more_in_training() -> None:
    """Such as torchvision's inception_v3, with the logits of its auxiliary classifier."""

    class Two(nn.Linear):
        def forward(self, x: Tensor) -> Any:
            made = super().forward(x.flatten(1))
            return (made, made) if self.training else made

    model = Classifier(Two(36, 8), nn.Linear(8, CLASSES), mean=(0.4,), std=(0.5,), shape=SHAPE).clone()
    assert len(predictions(model, make_part(1))) == 60
    with refused("encoder: expected a network that returns a Tensor, in training too, got tuple"):
        fit(model, make_part(1), TRAINING, parameters=model.parameters(), seed=0)


def test_networks_of_libraries_keep_their_head() -> None:
    for spec in ("timm:resnet10t", "torchvision:shufflenet_v2_x0_5"):
        network = load_network(spec, random_init=True)
        made = network.split(1000)
        assert made.head.out_features == 1000
        assert made(torch.zeros(1, *network.prepare.shape)).shape == (1, 1000)
