"""The protocol for one encoder: fine-tune on every data set, evaluate on all of them, compare with before."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from synbench_fast.encoders.weights import module_sha256
from synbench_fast.engine.score import score as synbench_score
from synbench_fast.errors import SynbenchError
from synbench_fast.fleet.configuration import source_of
from synbench_fast.results.files import check_own
from synbench_fast.runtime.global_state import tf32_allowed
from synbench_fast.runtime.optional import optional
from synbench_fast.studies.base import Say
from synbench_fast.studies.cells import CellStore, Job, fill
from synbench_fast.studies.inheritance.bench import Bench, Method
from synbench_fast.studies.inheritance.cells import PRETRAINING, Agreement, Cell, FailedCell, ScoreSummary
from synbench_fast.studies.inheritance.data import DataSuite, Part
from synbench_fast.studies.inheritance.distance import dataset_distance, subsample
from synbench_fast.studies.inheritance.model import Classifier
from synbench_fast.studies.inheritance.networks import Network
from synbench_fast.studies.inheritance.schedule import Training
from synbench_fast.studies.inheritance.training import Diverged, predictions

__all__ = ["Protocol", "agreement"]

_VERSION = 2  # part of every cell's configuration: raised when the same options would measure something else
_LARGEST = 50_000  # images of a part whose features a distance looks at; ImageNet-C has 75 times as many


class Protocol:
    """All cells of one encoder; what they share is measured when the first cell needs it, and once.

    A fine-tuning that does not stay finite is a FailedCell, and the others go on.
    """

    def __init__(
        self,
        name: str,
        network: Network,
        suite: DataSuite,
        training: Training,
        scoring: dict[str, Any] | None,
        distances: dict[str, Any] | None,
        device: torch.device,
        store: CellStore[Cell],
        weights: Path | None,
        say: Say,
    ) -> None:
        self.name, self.suite, self.training, self.scoring, self.store = name, suite, training, scoring, store
        self.distances, self.weights, self.say, self.device = distances, weights, say, device
        self.parts = suite.test_parts()
        self.original = network.split(len(suite.classes)).to(device)
        self.sha256 = self.original.sha256()
        self.source = source_of(name)  # of a factory: the weights do not say what is computed with them
        self.reused = 0
        self._before: dict[str, Tensor] | None = None
        self._scores: dict[str, ScoreSummary] = {}
        self._found: dict[frozenset[str], float] = {}
        self._features: dict[str, tuple[Tensor, Tensor]] = {}

    def configuration(self, data: str, text: str, method: Method, seed: int) -> dict[str, Any]:
        """Everything that the numbers of a cell depend on."""
        return {
            "protocol": _VERSION,
            "suite": self.suite.name,
            "suite_sha256": self.suite.sha256,
            "encoder": self.name,
            "encoder_sha256": self.sha256,
            **({"encoder_source": self.source} if self.source else {}),
            "preprocessing": [
                list(self.original.mean),
                list(self.original.std),
                list(self.original.input_shape),
            ],
            "fine_tuned_on": data,
            "method": text,
            "options": asdict(method),
            "seed": seed,
            "training": asdict(self.training),
            "score": self.scoring,
            "distance": self.distances,
            "device": self.device.type,
            "threads": torch.get_num_threads() if self.device.type == "cpu" else None,
            "torch": torch.__version__,
        }

    def cells(self, methods: Mapping[str, Method], seeds: Sequence[int]) -> list[Cell | FailedCell]:
        """Cells in the order of methods, seeds and data sets; those that are stored are read."""
        order = [(text, seed, data.name) for seed in seeds for data in self.suite.data for text in methods]
        found = fill(
            self.store,
            self._jobs(methods, seeds),
            total=len(order),
            say=self.say,
            about=f"{self.name}: ",
            headline=lambda cell: f"RI {100 * cell.robustness_improvement:+.1f}",
            usable=self._usable,
        )
        made: dict[tuple[str, int, str], Cell | FailedCell] = {}
        for (text, seed, data), one in zip(order, found, strict=True):
            self.reused += one.stored
            made[text, seed, data] = one.cell or FailedCell(
                encoder=self.name, fine_tuned_on=data, method=text, seed=seed, reason=one.reason
            )
        return [made[text, seed, data.name] for text in methods for seed in seeds for data in self.suite.data]

    def _jobs(self, methods: Mapping[str, Method], seeds: Sequence[int]) -> Iterator[Job[Cell]]:
        """Seed by seed and data set by data set, so that methods share what they start from."""
        checked = False

        def measure(bench: Bench, data: str, text: str, configuration: dict[str, Any]) -> Cell:
            nonlocal checked
            if not checked:
                self._check(methods)
                checked = True
            return self._measure(bench, data, text, methods[text], configuration)

        for seed in seeds:
            for data in self.suite.data:
                bench = Bench(
                    self.original,
                    data.train,
                    self.training,
                    seed=seed,
                    pretraining_train=self.suite.pretraining_train,
                )
                for text, method in methods.items():
                    configuration = self.configuration(data.name, text, method, seed)
                    yield Job(
                        f"{text} on {data.name}, seed {seed}",
                        configuration,
                        partial(measure, bench, data.name, text, configuration),
                    )

    def _check(self, methods: Mapping[str, Method]) -> None:
        """SynbenchError for what would stop the run at a later cell, before the first is trained."""
        if self.weights is not None:
            optional("safetensors.torch", "safetensors", "inherit")
        for one in methods.values():
            one.check(self.original, self.suite)

    def _weights_path(self, configuration: dict[str, Any]) -> Path | None:
        path = self.store.path(configuration)
        return None if self.weights is None or path is None else self.weights / f"{path.stem}.safetensors"

    def _usable(self, configuration: dict[str, Any]) -> bool:
        """Whether a stored cell counts: not where its weights are wanted and not there."""
        weights = self._weights_path(configuration)
        return weights is None or weights.is_file()

    def _measure(
        self, bench: Bench, data: str, text: str, method: Method, configuration: dict[str, Any]
    ) -> Cell:
        # What depends on the original alone comes first: a mistake there is named before anything is trained.
        before, score_before = self._predictions_before(), self._score(self.original)
        distance = None if self.distances is None else self._distances(data)
        model, training = bench.tune(method)
        after = {name: predictions(model, part) for name, part in self.parts.items()}
        try:
            score_after = self._score(model)
        except SynbenchError as error:  # its features may be constant, or overflow on the synthetic samples
            score_after = None
            self.say(f"{self.name}: {text} on {data}, seed {bench.seed}: no score: {error}")
        weights = self._weights_path(configuration)
        if weights is not None:
            check_own(weights.parent, folder=True)
            weights.parent.mkdir(parents=True, exist_ok=True)
            model.save(weights)
        accuracy_before = {name: _accuracy(part, before[name]) for name, part in self.parts.items()}
        accuracy_after = {name: _accuracy(part, after[name]) for name, part in self.parts.items()}
        names = [one.name for one in self.suite.data]
        return Cell(
            encoder=self.name,
            fine_tuned_on=data,
            method=text,
            seed=bench.seed,
            accuracy_before={name: accuracy_before[name] for name in names},
            accuracy_after={name: accuracy_after[name] for name in names},
            pretraining_before=accuracy_before[PRETRAINING],
            pretraining_after=accuracy_after[PRETRAINING],
            agreement={name: agreement(part, before[name], after[name]) for name, part in self.parts.items()},
            score_before=score_before,
            score_after=score_after,
            distance=distance,
            training=training,
        )

    def _predictions_before(self) -> dict[str, Tensor]:
        if self._before is None:
            try:
                self._before = {name: predictions(self.original, part) for name, part in self.parts.items()}
            except Diverged as error:
                raise SynbenchError(f"encoder {self.name}: {error}") from None
        return self._before

    def _score(self, model: Classifier) -> ScoreSummary | None:
        """Score of the encoder without its head; equal weights have equal scores, and are scored once."""
        if self.scoring is None:
            return None
        key = module_sha256(model.body)
        if key not in self._scores:
            options = self.scoring
            result = synbench_score(
                model.body,
                input_shape=model.input_shape,
                mean=model.mean,
                std=model.std,
                eps=(options["eps"],),
                thresholds=(options["threshold"],),
                scales=options["scales"],
                samples=max(options["samples"], 2 * model.head.in_features),
                seed=options["seed"],
            )
            one = result.score(options["eps"], options["threshold"])
            self._scores[key] = ScoreSummary(
                eps=options["eps"], threshold=options["threshold"], score=one.score, stderr=one.stderr
            )
        return self._scores[key]

    def _distances(self, data: str) -> dict[str, float]:
        """From the evaluation part of a data set to those of all others and of the pre-training data."""
        assert self.distances is not None
        found = {}
        for name in self.parts:
            pair = frozenset((data, name))
            if name == data:
                continue
            if pair not in self._found:
                first, second = sorted(pair)
                a, b = self._labelled(first), self._labelled(second)
                samples = min(self.distances["samples"], len(a[1]), len(b[1]))
                self._found[pair] = dataset_distance(
                    a, b, samples=samples, seed=self.distances["seed"], names=(first, second)
                ).value
            found[name] = self._found[pair]
        return found

    def _labelled(self, name: str) -> tuple[Tensor, Tensor]:
        """Features of a part's images, _LARGEST at most, and as labels the first column of every image's class."""
        if name not in self._features:
            assert self.distances is not None
            part = self.parts[name]
            rows = subsample(name, len(part), min(len(part), _LARGEST), self.distances["seed"])
            with torch.no_grad(), tf32_allowed(self.device, False):
                found = [
                    self.original.features(part.load(one).to(self.device)) for one in torch.split(rows, 512)
                ]
            labels = torch.tensor([one[0] for one in part.columns])[part.y[rows]]
            self._features[name] = torch.cat(found), labels.to(self.device)
        return self._features[name]


def _accuracy(part: Part, predicted: Tensor) -> float:
    return part.accuracy(predicted == part.y)


def agreement(part: Part, before: Tensor, after: Tensor) -> Agreement:
    """What single samples do, from their predictions before and after, int64 [N] each."""
    was, now = before == part.y, after == part.y
    return Agreement(
        same=part.accuracy(before == after),
        both_correct=part.accuracy(was & now),
        lost=part.accuracy(was & ~now),
        won=part.accuracy(~was & now),
    )
