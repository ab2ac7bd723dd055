"""inherit(): fine-tune on every data set of a suite, evaluate on all others, and say what is left of robustness."""

from __future__ import annotations

import shlex
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from synbench_fast import environment
from synbench_fast.checks import as_numbers, check_eps, check_integer, check_seed, check_thresholds
from synbench_fast.devices import find_device
from synbench_fast.encoders.weights import state_sha256
from synbench_fast.errors import SynbenchError, suggest
from synbench_fast.inheritance.bench import Bench
from synbench_fast.inheritance.cells import PRETRAINING, Agreement, Cell, ScoreSummary
from synbench_fast.inheritance.data import DataSuite, Part, check_suite
from synbench_fast.inheritance.digits_rib import NAME as DIGITS
from synbench_fast.inheritance.digits_rib import digits_suite
from synbench_fast.inheritance.distance import dataset_distance
from synbench_fast.inheritance.folders import FOLDERS, IMAGENET, Prepare, folder_suite, imagenet_suite
from synbench_fast.inheritance.methods import Method, find
from synbench_fast.inheritance.model import Classifier
from synbench_fast.inheritance.networks import Network, load_network
from synbench_fast.inheritance.report import DataSummary, InheritanceReport, summarise
from synbench_fast.inheritance.statistic import CellCorrelations, correlate_cells
from synbench_fast.inheritance.store import CellStore
from synbench_fast.inheritance.training import Training, logits_of
from synbench_fast.score import score as synbench_score

__all__ = ["SUITES", "inherit"]

SUITES = (DIGITS, IMAGENET, FOLDERS)
_PROTOCOL = 1  # part of every cell's configuration: raised when the same options would measure something else


def inherit(
    encoders: str | Classifier | Sequence[str | Classifier] = ("digits:standard",),
    suite: str | DataSuite = DIGITS,
    *,
    methods: Sequence[str] = ("ft", "lp", "wise", "lwf"),
    seeds: int = 3,
    seed: int = 0,
    data: Mapping[str, str | Path] | None = None,
    root: str | Path | None = None,
    only: Sequence[str] | None = None,
    pretraining: str | Path | None = None,
    pretraining_train: str | Path | None = None,
    objectnet_map: str | Path | None = None,
    skip_unreadable: bool = False,
    epochs: int | None = None,
    batch_size: int | None = None,
    lr: float | None = None,
    momentum: float | None = None,
    weight_decay: float | None = None,
    warmup: int | None = None,
    mixed_precision: bool | None = None,
    score: bool = True,
    score_eps: float = 0.2,
    score_threshold: float = 0.6,
    score_samples: int = 512,
    distance: bool = True,
    distance_samples: int = 300,
    device: str | torch.device = "auto",
    threads: int | None = None,
    checkpoint: str | None = None,
    random_init: bool = False,
    out: str | Path | None = None,
    weights: bool = False,
    progress: Callable[[str], None] | None = None,
) -> InheritanceReport:
    """Robustness inheritance of encoders over a suite of related data sets.

    For every data set i the encoder with its head is fine-tuned on i and evaluated on every data set j and on the
    pre-training data's validation part:

        RI_i = mean over j != i of [accuracy after(j) - accuracy before(j)],    mRI = mean over i of RI_i

    Args:
        encoders: one or several: "digits:standard", "digits:adversarial", "digits:untrained" (suite digits-rib),
            "timm:NAME", "torchvision:NAME", "python:FILE.py:FACTORY", or a Classifier.
        suite: "digits-rib", "imagenet-rib", "folders", or a DataSuite.
        methods: names with options, such as "wise?alpha=0.3"; see `synbench_fast.inheritance.methods`.
        seeds: number of training seeds: seed, seed + 1, ...
        seed: the first, and that of the scores' samples, of distances and of weights with `random_init`.
        data: name -> folder of the data sets of suite "folders", or of ImageNet variants that lie elsewhere.
        root, only, objectnet_map: of suite "imagenet-rib", see `imagenet_suite`.
        pretraining: folder of the pre-training data's validation images; its class folders are the classifier's.
        pretraining_train: folder of pre-training images for "ewc".
        skip_unreadable: leave images out that cannot be read, and say how many.
        epochs, batch_size, lr, momentum, weight_decay, warmup, mixed_precision: see `Training`; default the suite's.
        score: score the encoder before and after every fine-tuning, with the same samples.
        score_eps, score_threshold, score_samples: of those scores; 12 scales.
        distance: measure the transport distance between the data sets in the original encoder's features.
        distance_samples: of each data set, at most.
        device: "auto" (a CUDA GPU if there is one) or a torch device.
        threads: CPU threads; default the suite's, 1 for digits-rib.
        checkpoint, random_init: of the encoder, see `load_network`.
        out: folder of the cells; those that are there already are read, not measured again.
        weights: keep the fine-tuned weights in `out` too, as safetensors.
        progress: called with a line at each step.

    Returns:
        InheritanceReport: every cell, and summaries with intervals over seeds.

    Raises:
        SynbenchError: one line that names the argument, the data set or the file.

    Source: docs/inherit.md.
    """
    options = {key: value for key, value in locals().items() if key not in ("encoders", "suite", "progress")}
    begun = time.perf_counter()
    say = progress or (lambda line: None)
    named = _encoders(encoders)
    if weights and out is None:
        raise SynbenchError("weights: expected a folder out to keep them in, got none")
    if checkpoint is not None and len(named) > 1:
        raise SynbenchError(f"checkpoint: expected a single encoder to load it into, got {len(named)}")
    chosen = _methods(methods)
    check_integer("seeds", seeds, 1, "at least 1")
    seed = check_seed(seed)
    check_integer("distance_samples", distance_samples, 2, "at least 2")
    check_integer("score_samples", score_samples, 4, "at least 4")
    if threads is not None:
        check_integer("threads", threads, 1, "at least 1")
    scoring = {
        "eps": check_eps(score_eps)[0],
        "threshold": check_thresholds(as_numbers(score_threshold, "score_threshold"))[0],
        "scales": 12,
        "samples": score_samples,
        "seed": seed,
    }
    place, notes = find_device(device, True)
    assert place is not None
    training = {
        name: value
        for name, value in options.items()
        if name in Training.__dataclass_fields__ and value is not None
    }
    Training(**training)  # mistakes are named before anything is read
    opened: dict[Prepare, DataSuite] = {}
    before = torch.get_num_threads()
    cells: list[Cell] = []
    reused = 0
    store = CellStore(None if out is None else Path(out) / "cells")
    try:
        for name, encoder in named.items():
            say(f"{name}: load")
            network = load_network(encoder, checkpoint=checkpoint, random_init=random_init, seed=seed)
            if network.prepare not in opened:
                opened[network.prepare] = _open(suite, network.prepare, options)
            data_suite = opened[network.prepare]
            torch.set_num_threads(threads or data_suite.threads or before)
            one = _Run(
                name,
                network,
                data_suite,
                replace(data_suite.training, **training),
                scoring if score else None,
                {"samples": distance_samples, "seed": seed} if distance else None,
                place,
                store,
                Path(out) / "weights" if weights and out is not None else None,
                say,
            )
            cells += one.cells(chosen, [seed + number for number in range(seeds)])
            reused += one.reused
    finally:
        torch.set_num_threads(before)
    last = next(iter(opened.values()))
    notes += [line for one in opened.values() for line in one.notes if line not in notes]
    if seeds < 3:
        notes.append(
            f"seeds: {seeds} "
            + ("gives no interval" if seeds == 1 else "give very wide intervals")
            + "; take 3 or more"
        )
    return InheritanceReport(
        suite=last.name,
        suite_sha256=last.sha256,
        data=[
            DataSummary(
                name=one.name, train=len(one.train), test=len(one.test), classes=len(one.test.columns)
            )
            for one in last.data
        ],
        encoders=list(named),
        methods=list(chosen),
        seeds=[seed + number for number in range(seeds)],
        training={key: float(value) for key, value in asdict(replace(last.training, **training)).items()},
        cells=cells,
        summaries=summarise(cells),
        statistic=_statistic(cells, seed),
        reused=reused,
        seconds=time.perf_counter() - begun,
        environment=environment.describe(),
        warnings=notes,
        command=_command(encoders, suite, options),
    )


def _encoders(encoders: Any) -> dict[str, str | Classifier]:
    several = [encoders] if isinstance(encoders, str | Classifier) else list(encoders)
    if not several:
        raise SynbenchError("encoders: expected at least one, got none")
    named: dict[str, str | Classifier] = {}
    for number, one in enumerate(several, 1):
        name = one if isinstance(one, str) else f"{type(one.body).__name__} {number}"
        if name in named:
            raise SynbenchError(f"encoders: expected different ones, got {name!r} twice")
        named[name] = one
    return named


def _methods(methods: Sequence[str]) -> dict[str, Method]:
    several = [methods] if isinstance(methods, str) else list(methods)
    if not several:
        raise SynbenchError("methods: expected at least one, got none")
    chosen: dict[str, Method] = {}
    for text in several:
        if text in chosen:
            raise SynbenchError(f"methods: expected different ones, got {text!r} twice")
        chosen[text] = find(text)
    return chosen


def _open(suite: str | DataSuite, prepare: Prepare, options: dict[str, Any]) -> DataSuite:
    if isinstance(suite, DataSuite):
        made = suite
    elif suite not in SUITES:
        raise SynbenchError(
            f"suite: expected one of {', '.join(SUITES)}, got {suite!r}{suggest(suite, SUITES)}"
        )
    else:
        folders = {
            key: options[key]
            for key in ("data", "root", "only", "pretraining", "pretraining_train", "objectnet_map")
        }
        taken = {
            DIGITS: (),
            FOLDERS: ("data", "pretraining", "pretraining_train"),
            IMAGENET: tuple(folders),
        }[suite]
        for key, value in folders.items():
            if value is not None and key not in taken:
                raise SynbenchError(f"{key}: expected to be left out for suite {suite}, got {value!r}")
        if suite == DIGITS:
            made = digits_suite()
        else:
            common = {
                "pretraining_train": folders["pretraining_train"],
                "skip_unreadable": options["skip_unreadable"],
            }
            if suite == FOLDERS:
                made = folder_suite(folders["data"] or {}, folders["pretraining"], prepare, **common)
            else:
                made = imagenet_suite(
                    folders["root"],
                    folders["pretraining"],
                    prepare,
                    data=folders["data"],
                    only=folders["only"],
                    objectnet_map=folders["objectnet_map"],
                    **common,
                )
    check_suite(made)
    if made.shape != prepare.shape:
        raise SynbenchError(
            f"encoder: expected one of images {list(made.shape)} for suite {made.name}, got {list(prepare.shape)}"
        )
    return made


class _Run:
    """All cells of one encoder; what they share is measured when the first cell needs it, and once."""

    def __init__(
        self,
        name: str,
        network: Network,
        suite: DataSuite,
        training: Training,
        scoring: dict[str, Any] | None,
        distances: dict[str, Any] | None,
        device: torch.device,
        store: CellStore,
        weights: Path | None,
        say: Callable[[str], None],
    ) -> None:
        self.name, self.suite, self.training, self.scoring, self.store = name, suite, training, scoring, store
        self.distances, self.weights, self.say, self.device = distances, weights, say, device
        self.parts = suite.test_parts()
        self.original = network.split(len(suite.classes)).to(device)
        self.sha256 = self.original.sha256()
        self.reused = 0
        self._before: dict[str, Tensor] | None = None
        self._scores: dict[str, ScoreSummary] = {}
        self._found: dict[frozenset[str], float] = {}
        self._features: dict[str, tuple[Tensor, Tensor]] = {}

    def configuration(self, data: str, text: str, method: Method, seed: int) -> dict[str, Any]:
        """Everything that the numbers of a cell depend on."""
        return {
            "protocol": _PROTOCOL,
            "suite": self.suite.name,
            "suite_sha256": self.suite.sha256,
            "encoder": self.name,
            "encoder_sha256": self.sha256,
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

    def cells(self, methods: Mapping[str, Method], seeds: Sequence[int]) -> list[Cell]:
        """Cells in the order of methods, seeds and data sets; those that are stored are read."""
        made: dict[tuple[str, int, str], Cell] = {}
        total = len(seeds) * len(self.suite.data) * len(methods)
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
                    cell = self.store.read(configuration)
                    words = f"{self.name}: {len(made) + 1} of {total}: {text} on {data.name}, seed {seed}"
                    if cell is None:
                        begun = time.perf_counter()
                        cell = self._measure(bench, data.name, text, method, seed)
                        self.store.write(configuration, cell)
                        improvement = 100 * cell.robustness_improvement
                        self.say(f"{words}: RI {improvement:+.1f}, {time.perf_counter() - begun:.1f} s")
                    else:
                        self.reused += 1
                        self.say(f"{words}: stored")
                    made[text, seed, data.name] = cell
        return [made[text, seed, data.name] for text in methods for seed in seeds for data in self.suite.data]

    def _measure(self, bench: Bench, data: str, text: str, method: Method, seed: int) -> Cell:
        before = self._predictions_before()
        model, training = bench.tune(method)
        after = {name: part.predict(logits_of(model, part)) for name, part in self.parts.items()}
        if self.weights is not None:
            self.weights.mkdir(parents=True, exist_ok=True)
            path = self.store.path(self.configuration(data, text, method, seed))
            assert path is not None
            model.save(self.weights / f"{path.stem}.safetensors")
        accuracy_before = {name: _accuracy(part, before[name]) for name, part in self.parts.items()}
        accuracy_after = {name: _accuracy(part, after[name]) for name, part in self.parts.items()}
        names = [one.name for one in self.suite.data]
        return Cell(
            encoder=self.name,
            fine_tuned_on=data,
            method=text,
            seed=seed,
            accuracy_before={name: accuracy_before[name] for name in names},
            accuracy_after={name: accuracy_after[name] for name in names},
            pretraining_before=accuracy_before[PRETRAINING],
            pretraining_after=accuracy_after[PRETRAINING],
            agreement={name: agreement(part, before[name], after[name]) for name, part in self.parts.items()},
            score_before=self._score(self.original),
            score_after=self._score(model),
            distance=None if self.distances is None else self._distances(data),
            training=training,
        )

    def _predictions_before(self) -> dict[str, Tensor]:
        if self._before is None:
            self._before = {
                name: part.predict(logits_of(self.original, part)) for name, part in self.parts.items()
            }
        return self._before

    def _score(self, model: Classifier) -> ScoreSummary | None:
        """Score of the encoder without its head; equal weights have equal scores, and are scored once."""
        if self.scoring is None:
            return None
        key = state_sha256(model.body.state_dict())
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
                samples=options["samples"],
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
        """Features of a part, and as labels the first column of every sample's class."""
        if name not in self._features:
            part = self.parts[name]
            with torch.no_grad():
                rows = torch.split(torch.arange(len(part)), 512)
                found = [self.original.features(part.load(one).to(self.device)) for one in rows]
            labels = torch.tensor([one[0] for one in part.columns])[part.y]
            self._features[name] = torch.cat(found), labels.to(self.device)
        return self._features[name]


def _statistic(cells: Sequence[Cell], seed: int) -> CellCorrelations | None:
    """None where there are too few cells, or neither a distance nor a score that varies."""
    sets = {one.fine_tuned_on for one in cells}
    if len(sets) < 3 or not any(one.distance or one.score_before for one in cells):
        return None
    try:
        return correlate_cells(cells, seed=seed)
    except SynbenchError:  # nothing that varies: no coefficient is defined
        return None


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


def _command(encoders: Any, suite: str | DataSuite, options: dict[str, Any]) -> str:
    """The shell line that repeats the run; empty where none can."""
    several = [encoders] if isinstance(encoders, str | Classifier) else list(encoders)
    specs = [one for one in several if isinstance(one, str)]
    if isinstance(suite, DataSuite) or len(specs) < len(several):
        return ""
    words = ["synbench-fast", "inherit", *specs, "--suite", suite]
    for name, value in options.items():
        option = f"--{name.replace('_', '-')}"
        if name in ("score", "distance", "mixed_precision"):
            words += [] if value is not False else [option.replace("--", "--no-", 1)]
        elif name == "data":
            words += [word for key, path in (value or {}).items() for word in ("--data", f"{key}={path}")]
        elif isinstance(value, bool):
            words += [option] if value else []
        elif value is not None:
            listed = value if isinstance(value, Sequence) and not isinstance(value, str) else [value]
            words += [option, ",".join(str(one) for one in listed)]
    return shlex.join(words)
