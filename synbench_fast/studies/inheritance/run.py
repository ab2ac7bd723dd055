"""inherit(): fine-tune on every data set of a suite, evaluate on all others, and say what is left of robustness."""

from __future__ import annotations

import shlex
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch

from synbench_fast.checks import (
    as_numbers,
    check_eps,
    check_integer,
    check_seed,
    check_threads,
    check_thresholds,
)
from synbench_fast.engine import environment
from synbench_fast.engine.devices import find_device
from synbench_fast.errors import SynbenchError, suggest
from synbench_fast.runtime.global_state import known_state, own_registrations
from synbench_fast.studies.inheritance.cells import Cell, FailedCell
from synbench_fast.studies.inheritance.data import DataSuite, check_suite
from synbench_fast.studies.inheritance.digits_rib import NAME as DIGITS
from synbench_fast.studies.inheritance.digits_rib import digits_suite
from synbench_fast.studies.inheritance.folders import FOLDERS, IMAGENET, Prepare, folder_suite, imagenet_suite
from synbench_fast.studies.inheritance.methods import Method, find
from synbench_fast.studies.inheritance.model import Classifier
from synbench_fast.studies.inheritance.networks import load_network
from synbench_fast.studies.inheritance.protocol import Protocol
from synbench_fast.studies.inheritance.report import DataSummary, InheritanceReport, summarise
from synbench_fast.studies.inheritance.statistic import correlate_cells
from synbench_fast.studies.inheritance.store import CellStore
from synbench_fast.studies.inheritance.training import Training

__all__ = ["SUITES", "inherit"]

SUITES = (DIGITS, IMAGENET, FOLDERS)


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
        methods: names with options, such as "wise?alpha=0.3"; see `synbench_fast.studies.inheritance.methods`.
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
        InheritanceReport: every cell, and summaries with intervals over seeds. A fine-tuning whose loss does not
            stay finite is in `failed` with the reason, and leaves a gap; the next run with `out` tries it again.

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
    if seed + seeds > 2**64:
        raise SynbenchError(f"seed: expected seed + seeds of at most 2^64, got {seed} + {seeds}")
    check_integer("distance_samples", distance_samples, 2, "at least 2")
    check_integer("score_samples", score_samples, 4, "at least 4")
    threads = check_threads(threads)
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
    made: list[Cell | FailedCell] = []
    reused = 0
    store = CellStore(None if out is None else Path(out) / "cells")
    for name, encoder in named.items():
        say(f"{name}: load")
        with own_registrations(), known_state():
            network = load_network(encoder, checkpoint=checkpoint, random_init=random_init, seed=seed)
            if network.prepare not in opened:
                opened[network.prepare] = _open(suite, network.prepare, options)
            data_suite = opened[network.prepare]
            torch.set_num_threads(threads or data_suite.threads or torch.get_num_threads())
            one = Protocol(
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
            made += one.cells(chosen, [seed + number for number in range(seeds)])
            reused += one.reused
    cells = [one for one in made if isinstance(one, Cell)]
    failed = [one for one in made if isinstance(one, FailedCell)]
    last = next(iter(opened.values()))
    notes += [line for one in opened.values() for line in one.notes if line not in notes]
    if seeds < 3:
        notes.append(
            f"seeds: {seeds} "
            + ("gives no interval" if seeds == 1 else "give very wide intervals")
            + "; take 3 or more"
        )
    unscored = [one for one in cells if one.score_before is not None and one.score_after is None]
    if unscored:
        first = unscored[0]
        notes.append(
            f"score: none after {len(unscored)} of {len(cells)} fine-tunings, whose features allow none; the first is "
            f"{first.encoder}, {first.method} on {first.fine_tuned_on}, seed {first.seed}"
        )
    statistic = None
    try:
        if distance or score:
            statistic = correlate_cells(cells, seed=seed)
    except SynbenchError as error:  # too few cells, or nothing that varies
        notes.append(f"correlations: {error}")
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
        failed=failed,
        summaries=summarise(cells, failed, list(chosen)),
        statistic=statistic,
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


_FOLDER_OPTIONS = ("data", "root", "only", "pretraining", "pretraining_train", "objectnet_map")
_TAKEN = {DIGITS: (), FOLDERS: ("data", "pretraining", "pretraining_train"), IMAGENET: _FOLDER_OPTIONS}


def _open(suite: str | DataSuite, prepare: Prepare, options: dict[str, Any]) -> DataSuite:
    if isinstance(suite, str) and suite not in SUITES:
        raise SynbenchError(
            f"suite: expected one of {', '.join(SUITES)}, got {suite!r}{suggest(suite, SUITES)}"
        )
    name = suite if isinstance(suite, str) else suite.name
    folders = {key: options[key] for key in _FOLDER_OPTIONS}
    for key, value in folders.items():
        if value is not None and (isinstance(suite, DataSuite) or key not in _TAKEN[suite]):
            raise SynbenchError(f"{key}: expected to be left out for suite {name}, got {value!r}")
    common = {
        "pretraining_train": folders["pretraining_train"],
        "skip_unreadable": options["skip_unreadable"],
    }
    if isinstance(suite, DataSuite):
        made = suite
    elif suite == DIGITS:
        made = digits_suite()
    elif suite == FOLDERS:
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
