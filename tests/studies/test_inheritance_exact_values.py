"""What a cell of an inheritance benchmark holds, and what its number depends on, by hand and by other means."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import synbench_fast as sb
from synbench_fast.studies.inheritance import protocol as protocols
from synbench_fast.studies.inheritance.cells import PRETRAINING, Cell, open_store
from synbench_fast.studies.inheritance.data import DataSet, DataSuite, Part, in_memory
from synbench_fast.studies.inheritance.distance import dataset_distance
from synbench_fast.studies.inheritance.methods import find
from synbench_fast.studies.inheritance.model import Classifier
from synbench_fast.studies.inheritance.networks import load_network
from synbench_fast.studies.inheritance.protocol import Protocol, agreement
from synbench_fast.studies.inheritance.training import Training

SHAPE = (1, 4, 4)
TRAINING = Training(epochs=2, batch_size=8, lr=0.1)
SCORING = {"eps": 0.2, "threshold": 0.7, "scales": 4, "samples": 96, "seed": 5}


def classifier() -> Classifier:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        body = nn.Sequential(nn.Flatten(), nn.Linear(16, 6), nn.Tanh())
        return Classifier(body, nn.Linear(6, 3), mean=(0.4,), std=(0.5,), shape=SHAPE)


def part(seed: int, count: int, classes: tuple[int, ...] = (0, 1, 2)) -> Part:
    generator = torch.Generator().manual_seed(seed)
    labels = torch.tensor(classes)[torch.arange(count) % len(classes)]
    x = torch.rand((count, *SHAPE), generator=generator)
    x[torch.arange(count), 0, labels] += 0.5
    return in_memory(x.clamp(0, 1), labels, classes)


SUITE = DataSuite(
    name="toy",
    classes=("a", "b", "c"),
    shape=SHAPE,
    data=(DataSet("one", part(1, 24), part(11, 30)), DataSet("two", part(2, 24), part(12, 20, (0, 2)))),
    pretraining=part(3, 40),
    pretraining_train=None,
    training=TRAINING,
)


def protocol(folder: Path | None = None, weights: Path | None = None, **changes: Any) -> Protocol:
    given: dict[str, Any] = {"scoring": None, "distances": None, "said": [], **changes}
    return Protocol(
        "net",
        load_network(classifier()),
        SUITE,
        TRAINING,
        given["scoring"],
        given["distances"],
        torch.device("cpu"),
        open_store(folder),
        weights,
        given["said"].append,
    )


METHODS = {text: find(text) for text in ("lp", "wise?alpha=0.25")}


def test_agreement_tells_what_was_lost_from_what_was_won() -> None:
    one = in_memory(torch.zeros(10, *SHAPE), torch.zeros(10, dtype=torch.int64), (0, 1, 2))
    before = torch.tensor([0, 0, 0, 0, 1, 1, 1, 1, 1, 2])
    after = torch.tensor([0, 0, 0, 1, 0, 0, 1, 1, 2, 1])
    found = agreement(one, before, after)
    assert (found.same, found.both_correct, found.lost, found.won) == pytest.approx((0.5, 0.3, 0.1, 0.2))


def test_configuration_holds_all_that_a_number_depends_on() -> None:
    one = protocol(scoring=SCORING, distances={"samples": 9, "seed": 1})
    found = one.configuration("two", "wise?alpha=0.25", METHODS["wise?alpha=0.25"], 7)
    assert found == {
        "protocol": 2,
        "suite": "toy",
        "suite_sha256": SUITE.sha256,
        "encoder": "net",
        "encoder_sha256": classifier().sha256(),
        "preprocessing": [[0.4], [0.5], [1, 4, 4]],
        "fine_tuned_on": "two",
        "method": "wise?alpha=0.25",
        "options": {"alpha": 0.25},
        "seed": 7,
        "training": dataclasses.asdict(TRAINING),
        "score": SCORING,
        "distance": {"samples": 9, "seed": 1},
        "device": "cpu",
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
    }


def test_cells_come_by_method_seed_and_data_set(tmp_path: Path) -> None:
    said: list[str] = []
    cells = protocol(tmp_path, said=said).cells(METHODS, [3, 1])
    order = [(text, seed, one.name) for text in METHODS for seed in (3, 1) for one in SUITE.data]
    assert [(one.method, one.seed, one.fine_tuned_on) for one in cells] == order
    # Made seed by seed and data set by data set, so that methods share what they start from.
    made = [f"{text} on {one.name}, seed {seed}" for seed in (3, 1) for one in SUITE.data for text in METHODS]
    assert [line.partition(": RI")[0] for line in said] == [
        f"net: {number} of 8: {words}" for number, words in enumerate(made, 1)
    ]
    for line, words in zip(said, made, strict=True):
        cell = next(one for one in cells if f"{one.method} on {one.fine_tuned_on}, seed {one.seed}" == words)
        assert isinstance(cell, Cell)
        assert f": RI {100 * cell.robustness_improvement:+.1f}, " in line
    again = protocol(tmp_path, said=[])
    assert again.cells(METHODS, [3, 1]) == cells and again.reused == 8


def test_scores_are_those_of_the_encoder_without_its_head() -> None:
    (cell,) = (
        one for one in protocol(scoring=SCORING).cells({"ft": find("ft")}, [0]) if one.fine_tuned_on == "one"
    )
    assert isinstance(cell, Cell) and cell.score_before is not None and cell.score_after is not None
    expected = sb.score(
        classifier().body, input_shape=SHAPE, mean=(0.4,), std=(0.5,), eps=0.2, thresholds=0.7, scales=4,
        samples=96, seed=5,
    ).score()  # fmt: skip
    found = cell.score_before
    assert (found.eps, found.threshold) == (0.2, 0.7)
    assert (found.score, found.stderr) == (expected.score, expected.stderr)
    assert found.score > 0 and cell.score_after.score != found.score


def test_equal_weights_are_scored_once(monkeypatch: pytest.MonkeyPatch) -> None:
    scored: list[int] = []
    real = protocols.synbench_score

    def counting(*arguments: Any, **options: Any) -> Any:
        scored.append(1)
        return real(*arguments, **options)

    monkeypatch.setattr(protocols, "synbench_score", counting)
    protocol(scoring=SCORING).cells({"lp": find("lp")}, [0, 1])
    assert len(scored) == 1  # linear probing leaves the encoder alone


def test_distances_are_measured_once_from_equal_numbers_of_samples(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[Any, ...]] = []

    def measured(a: Any, b: Any, **options: Any) -> Any:
        asked.append((options["names"], options["samples"], options["seed"]))
        return dataset_distance(a, b, **options)

    monkeypatch.setattr(protocols, "dataset_distance", measured)
    one = protocol(distances={"samples": 25, "seed": 4})
    cells = [cell for cell in one.cells({"lp": find("lp")}, [0, 1]) if isinstance(cell, Cell)]
    assert asked == [(("one", "two"), 20, 4), (("one", PRETRAINING), 25, 4), ((PRETRAINING, "two"), 20, 4)]
    by_name = {cell.fine_tuned_on: cell.distance or {} for cell in cells}
    assert [list(by_name[name]) for name in ("one", "two")] == [["two", PRETRAINING], ["one", PRETRAINING]]

    def labelled(which: Part, labels: Tensor) -> tuple[Tensor, Tensor]:
        with torch.no_grad():
            return classifier().features(which.load(torch.arange(len(which)))), labels

    two = SUITE.data[1].test  # whose classes are the first and the third of the head
    expected = dataset_distance(
        labelled(SUITE.data[0].test, SUITE.data[0].test.y), labelled(two, 2 * two.y), samples=20, seed=4
    )
    assert by_name["one"]["two"] == by_name["two"]["one"] == pytest.approx(expected.value, rel=1e-9)


def test_features_of_large_parts_are_those_of_some_images(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(protocols, "_LARGEST", 12)
    one = protocol(distances={"samples": 25, "seed": 4})
    features, labels = one._labelled("one")
    which = SUITE.data[0].test
    rows = torch.randperm(30, generator=torch.Generator().manual_seed(4))[:12].sort().values
    assert labels.tolist() == which.y[rows].tolist()
    with torch.no_grad():
        torch.testing.assert_close(features, classifier().features(which.load(rows)))


def test_a_cell_whose_weights_are_missing_is_made_again(tmp_path: Path) -> None:
    kept = protocol(tmp_path / "cells", tmp_path / "weights")
    kept.cells({"lp": find("lp")}, [0])
    files = sorted((tmp_path / "weights").iterdir())
    assert [one.stem for one in files] == sorted(one.stem for one in (tmp_path / "cells").iterdir())
    files[0].unlink()
    again = protocol(tmp_path / "cells", tmp_path / "weights")
    again.cells({"lp": find("lp")}, [0])
    assert again.reused == 1 and files[0].is_file()
    without = protocol(tmp_path / "cells")
    files[0].unlink()
    without.cells({"lp": find("lp")}, [0])
    assert without.reused == 2


def test_accuracies_are_those_of_the_parts() -> None:
    (cell, _) = protocol().cells({"wise?alpha=0": find("wise?alpha=0")}, [0])
    assert isinstance(cell, Cell)
    with torch.no_grad():
        for name, which in SUITE.test_parts().items():
            logits = classifier()(which.load(torch.arange(len(which))))
            columns = torch.tensor([one[0] for one in which.columns])
            share = float((logits[:, columns].argmax(1) == which.y).double().mean())
            before = cell.pretraining_before if name == PRETRAINING else cell.accuracy_before[name]
            after = cell.pretraining_after if name == PRETRAINING else cell.accuracy_after[name]
            assert before == after == pytest.approx(share)  # an average of weight 0 is the original
            assert cell.agreement[name].same == 1.0
            assert cell.agreement[name].both_correct == pytest.approx(share)
    assert list(cell.accuracy_before) == list(cell.accuracy_after) == ["one", "two"]
    assert (cell.score_before, cell.score_after, cell.distance) == (None, None, None)
    assert np.isfinite(cell.training.loss)


def test_wide_encoders_are_scored_with_twice_as_many_samples_as_features() -> None:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        body = nn.Sequential(nn.Flatten(), nn.Linear(16, 60), nn.ReLU())
        wide = Classifier(body, nn.Linear(60, 3), mean=(0.4,), std=(0.5,), shape=SHAPE)
    one = protocol(scoring={**SCORING, "samples": 50})
    found = one._score(wide)
    expected = sb.score(
        wide.body, input_shape=SHAPE, mean=(0.4,), std=(0.5,), eps=0.2, thresholds=0.7, scales=4, samples=120,
        seed=5,
    ).score()  # fmt: skip
    assert found is not None
    np.testing.assert_array_equal([found.score, found.stderr], [expected.score, expected.stderr])  # NaN, too
