"""inherit(): fine-tune on every data set of a suite, evaluate on all others, and say what is left of robustness."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from synbench_fast.config import ScoreConfig, described
from synbench_fast.engine import environment
from synbench_fast.engine.devices import find_device
from synbench_fast.errors import SynbenchError, suggest
from synbench_fast.runtime.global_state import known_state
from synbench_fast.studies.base import Say, isolated, named_encoders
from synbench_fast.studies.inheritance.cells import Cell, FailedCell, open_store
from synbench_fast.studies.inheritance.data import DataSuite, check_suite
from synbench_fast.studies.inheritance.digits_rib import NAME as DIGITS
from synbench_fast.studies.inheritance.digits_rib import digits_suite
from synbench_fast.studies.inheritance.folders import FOLDERS, IMAGENET, Prepare, folder_suite, imagenet_suite
from synbench_fast.studies.inheritance.model import Classifier
from synbench_fast.studies.inheritance.networks import load_network
from synbench_fast.studies.inheritance.options import Inheritance
from synbench_fast.studies.inheritance.protocol import Protocol
from synbench_fast.studies.inheritance.report import DataSummary, InheritanceReport
from synbench_fast.studies.inheritance.statistic import CellCorrelations, correlate_cells
from synbench_fast.studies.inheritance.summaries import summarise

__all__ = ["SUITES", "inherit"]

SUITES = (DIGITS, IMAGENET, FOLDERS)


@described(Inheritance.signature)
def inherit(
    encoders: str | Classifier | Sequence[str | Classifier] = ("digits:standard",),
    suite: str | DataSuite = DIGITS,
    *,
    config: ScoreConfig | None = None,
    progress: Say | None = None,
    **arguments: Any,
) -> InheritanceReport:
    """Robustness inheritance of encoders over a suite of related data sets.

    For every data set i the encoder with its head is fine-tuned on i and evaluated on every data set j and on the
    pre-training data's validation part:

        RI_i = mean over j != i of [accuracy after(j) - accuracy before(j)],    mRI = mean over i of RI_i

    Args:
        encoders: one or several: "digits:standard", "digits:adversarial", "digits:untrained" (suite digits-rib),
            "timm:NAME", "torchvision:NAME", "python:FILE.py:FACTORY", or a Classifier.
        suite: "digits-rib", "imagenet-rib", "folders", or a DataSuite.
        config: seed, device, threads (default the suite's, 1 for digits-rib), checkpoint and random_init are read; the
            last two are of the encoder, see `load_network`.
        progress: called with a line at each step.
        arguments: options of `Inheritance`, and those fields in place of the values in `config`.

    Returns:
        InheritanceReport: every cell, and summaries with intervals over seeds. A fine-tuning whose loss does not
            stay finite is in `failed` with the reason, and leaves a gap; the next run with `out` tries it again.

    Raises:
        SynbenchError: one line that names the argument, the data set or the file.

    Source: docs/inherit.md.
    """
    begun = time.perf_counter()
    study = Inheritance.of(config, arguments)
    several = [encoders] if isinstance(encoders, str | Classifier) else list(encoders)
    named = named_encoders(several, lambda one: one.body)
    study.check_checkpoint(named)
    made = _measure(named, suite, study, progress or (lambda line: None))
    last = next(iter(made.suites.values()))
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
        methods=list(study.methods),
        seeds=study.training_seeds,
        training={
            key: float(value) for key, value in asdict(replace(last.training, **study.training)).items()
        },
        cells=made.cells,
        failed=made.failed,
        summaries=summarise(made.cells, made.failed, study.methods),
        statistic=_statistic(made, study),
        reused=made.reused,
        seconds=time.perf_counter() - begun,
        environment=environment.describe(),
        warnings=made.notes,
        command=""
        if isinstance(suite, DataSuite) or not all(isinstance(one, str) for one in several)
        else study.command(*named, "--suite", suite),
    )


@dataclass
class _Made:
    """What came of all encoders; the suite is opened once for each way of preparing images."""

    notes: list[str]
    suites: dict[Prepare, DataSuite] = field(default_factory=dict)
    cells: list[Cell] = field(default_factory=list)
    failed: list[FailedCell] = field(default_factory=list)
    reused: int = 0


def _measure(
    named: dict[str, str | Classifier], suite: str | DataSuite, study: Inheritance, say: Say
) -> _Made:
    """Every cell of every encoder, and what a reader of them has to know."""
    config = study.config
    device, notes = find_device(config.device or "auto", True)
    assert device is not None
    made = _Made(notes)
    store = open_store(study.folder("cells"))
    for name, encoder in named.items():
        say(f"{name}: load")
        with isolated():
            network = load_network(
                encoder, checkpoint=config.checkpoint, random_init=config.random_init, seed=config.seed
            )
            if network.prepare not in made.suites:
                made.suites[network.prepare] = _open(suite, network.prepare, study)
            opened = made.suites[network.prepare]
            with known_state(config.threads or opened.threads):
                one = Protocol(
                    name,
                    network,
                    opened,
                    replace(opened.training, **study.training),
                    study.scoring,
                    study.distances,
                    device,
                    store,
                    study.folder("weights") if study.weights else None,
                    say,
                )
                found = one.cells(study.chosen, study.training_seeds)
            made.cells += [cell for cell in found if isinstance(cell, Cell)]
            made.failed += [cell for cell in found if isinstance(cell, FailedCell)]
            made.reused += one.reused
    made.notes += [line for one in made.suites.values() for line in one.notes if line not in made.notes]
    if study.seeds < 3:
        much = "gives no interval" if study.seeds == 1 else "give very wide intervals"
        made.notes.append(f"seeds: {study.seeds} {much}; take 3 or more")
    unscored = [one for one in made.cells if one.score_before is not None and one.score_after is None]
    if unscored:
        first = unscored[0]
        made.notes.append(
            f"score: none after {len(unscored)} of {len(made.cells)} fine-tunings, whose features allow none; the "
            f"first is {first.encoder}, {first.method} on {first.fine_tuned_on}, seed {first.seed}"
        )
    return made


def _statistic(made: _Made, study: Inheritance) -> CellCorrelations | None:
    """Correlations over the cells; None, with a note, of too few cells or where nothing varies."""
    if not (study.distance or study.score):
        return None
    try:
        return correlate_cells(made.cells, seed=study.config.seed)
    except SynbenchError as error:
        made.notes.append(f"correlations: {error}")
        return None


_FOLDER_OPTIONS = ("data", "root", "only", "pretraining", "pretraining_train", "objectnet_map")
_TAKEN = {DIGITS: (), FOLDERS: ("data", "pretraining", "pretraining_train"), IMAGENET: _FOLDER_OPTIONS}


def _open(suite: str | DataSuite, prepare: Prepare, study: Inheritance) -> DataSuite:
    """The suite with its images prepared as the encoder reads them."""
    if isinstance(suite, str) and suite not in SUITES:
        raise SynbenchError(
            f"suite: expected one of {', '.join(SUITES)}, got {suite!r}{suggest(suite, SUITES)}"
        )
    name = suite if isinstance(suite, str) else suite.name
    folders = {key: getattr(study, key) for key in _FOLDER_OPTIONS}
    for key, value in folders.items():
        if value is not None and (isinstance(suite, DataSuite) or key not in _TAKEN[suite]):
            raise SynbenchError(f"{key}: expected to be left out for suite {name}, got {value!r}")
    common = {
        "pretraining_train": folders["pretraining_train"],
        "skip_unreadable": study.skip_unreadable,
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
