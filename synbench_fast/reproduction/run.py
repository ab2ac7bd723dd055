"""reproduce(): one published table, measured again."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from synbench_fast.checks import check_integer
from synbench_fast.config import PRESETS, ScoreConfig
from synbench_fast.demos.minimax import run_pretraining
from synbench_fast.engine import environment
from synbench_fast.engine.score import score
from synbench_fast.errors import SynbenchError
from synbench_fast.reproduction.report import Comparison, Reproduction
from synbench_fast.reproduction.tables import AFTER, BEFORE, INHERITED, PublishedTable, find_table
from synbench_fast.results.plots import expected_bound, plot_curves
from synbench_fast.results.records import Result
from synbench_fast.studies.base import Say
from synbench_fast.studies.eps_star import find_eps_star
from synbench_fast.studies.inheritance import inherit
from synbench_fast.studies.linear_probe import robust_linear_probe

__all__ = ["reproduce"]

_Z = 1.959963984540054  # 97.5 % quantile of N(0, 1)
_PROBED = ("eps", "seed", "batch_size", "device", "input_shape", "threads")
_INHERITED = ("seed", "device", "threads")


@dataclass
class _Run:
    """A table, what is to be measured for it, and what was found."""

    table: PublishedTable
    specs: list[str]
    config: ScoreConfig
    given: dict[str, Any]
    say: Say
    stand_ins: bool = False  # the data or the weights are not the published ones
    rows: list[Comparison] = field(default_factory=list)
    deviations: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    failed: list[str] = field(default_factory=list)

    @contextmanager
    def encoder(self, spec: str) -> Iterator[None]:
        """One encoder is measured inside; what is wrong with it ends it and not the others."""
        self.say(f"{spec}: measure")
        try:
            yield
        except SynbenchError as error:
            self.failed.append(str(error) if spec in str(error) else f"{spec}: {error}")

    def add(
        self, spec: str, quantity: str, ours: float, low: float = math.nan, high: float = math.nan
    ) -> None:
        known = self.table.published(spec, quantity)
        stand_in = self.stand_ins or spec not in [one.spec for one in self.table.models]
        published = known if not stand_in else None
        self.rows.append(
            Comparison(
                encoder=spec,
                quantity=quantity,
                published=None if published is None else published.value,
                source="" if published is None else published.source,
                ours=ours,
                ci95_low=low,
                ci95_high=high,
                difference=math.nan if published is None else ours - published.value,
                stand_in=stand_in,
            )
        )

    def score(self, spec: str) -> Result:
        made = score(spec, config=self.config)
        self.warnings += [f"{spec}: {one}" for one in made.warnings]
        return made


def reproduce(
    table: str,
    encoders: Sequence[str] = (),
    *,
    config: ScoreConfig | None = None,
    data: str | Path | None = None,
    root: str | Path | None = None,
    pretraining: str | Path | None = None,
    objectnet_map: str | Path | None = None,
    seeds: int | None = None,
    steps: int | None = None,
    epochs: int | None = None,
    figure: str | Path | None = None,
    progress: Say | None = None,
    **arguments: Any,
) -> Reproduction:
    """Measure a published table again, and show every number beside the published one.

    Models, settings and data are those of the publication unless others are asked for. A published number is shown only
    for its own model and data; everything else is called a stand-in. `deviations` has every setting that differs.

    Args:
        table: a name in `TABLES`.
        encoders: specs of other encoders, in place of the paper's models.
        config: arguments of scores. Without it the protocol's hold.
        data: of synbench-probes, as for `robust_linear_probe`.
        root, pretraining, objectnet_map: of imagenet-rib, as for `inherit`. Encoders digits:NAME have the suite
            digits-rib in place of ImageNet's.
        seeds: of imagenet-rib (3 by default, 1 was published) and minimax (5 by default).
        steps: of the attack of synbench-probes (50 by default) or of pre-training in minimax (600 by default).
        epochs: of imagenet-rib, 10 by default.
        figure: of synbench-bounds, a PNG file of the curves on the paper's axes: a_t from 0.6 to 1, a panel per eps.
        progress: called with a line at each step.
        arguments: fields of `ScoreConfig` in place of those of `config` or of the protocol.

    Returns:
        Reproduction: 95 % intervals are those of the score, of eps* the extremes of its set, of bounds the normal
        interval of their mean, of probes Wilson's, and over seeds Student's t.

    Raises:
        SynbenchError: one line that names the argument; of encoders only if all of them failed.
    """
    begun = time.perf_counter()
    options = {
        "data": data, "root": root, "pretraining": pretraining, "objectnet_map": objectnet_map, "seeds": seeds,
        "steps": steps, "epochs": epochs, "figure": figure,
    }  # fmt: skip
    given = {name: value for name, value in options.items() if value is not None}
    run = _prepared(find_table(table), encoders, config, arguments, given, progress or (lambda line: None))
    found = run.table
    _TABLES[found.name].measure(run)
    if not run.rows:
        raise SynbenchError(run.failed[0])
    return Reproduction(
        table=found.name,
        title=found.title,
        paper=found.paper,
        protocol=found.protocol,
        unknown=found.unknown,
        encoders=run.specs,
        comparisons=run.rows,
        deviations=run.deviations,
        failed=run.failed,
        seconds=time.perf_counter() - begun,
        environment=environment.describe(),
        warnings=run.warnings,
        command=run.config.command(
            found.name,
            verb="reproduce",
            score_fields=_TABLES[found.name].reads,
            always_fields={*found.settings, *found.defaults},
            encoders=",".join(run.specs) if encoders else None,
            **{name: str(value) for name, value in given.items()},
        ),
    )


def _prepared(
    table: PublishedTable,
    encoders: Sequence[str],
    config: ScoreConfig | None,
    arguments: Mapping[str, Any],
    given: dict[str, Any],
    say: Say,
) -> _Run:
    """What is to be measured, with all that differs from the publication and is known before."""
    protocol = ScoreConfig(**{**table.settings, **table.defaults})
    chosen = ScoreConfig.of(protocol if config is None else config, arguments)
    way = _TABLES[table.name]
    for name in (*given, *arguments):
        if name not in (*way.takes, *way.reads):
            raise SynbenchError(f"{name}: expected none for {table.name}, which has no use for it")
    for name in ("seeds", "steps", "epochs"):
        if name in given:
            check_integer(name, given[name], 1, "at least 1")
    own = [one.spec for one in table.models]
    specs = [encoders] if isinstance(encoders, str) else list(encoders) or own
    if len(set(specs)) < len(specs) or not all(isinstance(one, str) and one for one in specs):
        raise SynbenchError(f"encoders: expected different specs such as timm:resnet50, got {specs}")
    run = _Run(table, specs, chosen, given, say, stand_ins=chosen.random_init)
    if chosen.random_init:
        run.deviations.append("weights are random")
    for name, value in _amounts(protocol, table).items():
        if (asked := _amounts(chosen, table)[name]) != value:
            run.deviations.append(f"{name} {_text(asked)}, published {_text(value)}")
    if strangers := [one for one in specs if one not in own]:
        run.deviations.append(f"encoders that are not of the paper: {', '.join(strangers)}")
    return run


def _amounts(config: ScoreConfig, table: PublishedTable) -> dict[str, Any]:
    """The settings that the publication has, with scales and samples in place of the preset."""
    found = {name: getattr(config, name) for name in table.settings if name != "preset"}
    if "preset" in table.settings:
        preset = PRESETS[config.preset]
        found["scales"] = preset.scales if config.scales is None else config.scales
        found["samples"] = preset.samples if config.samples is None else config.samples
    return found


def _text(value: Any) -> str:
    return ",".join(f"{one:g}" for one in value) if isinstance(value, tuple) else str(value)


def _scores(run: _Run) -> None:
    for spec in run.specs:
        with run.encoder(spec):
            for one in run.score(spec).scores:
                place = f"eps={one.eps:g} a={one.threshold:g}"
                run.add(spec, f"score {place}", one.score, one.ci95_low, one.ci95_high)


def _eps(run: _Run) -> None:
    for spec in run.specs:
        with run.encoder(spec):
            result = run.score(spec)
            for threshold in run.config.thresholds:
                found = find_eps_star(result, threshold=threshold)
                run.add(spec, f"eps* a={threshold:g}", found.eps_star, found.set_low, found.set_high)
                run.warnings += [f"{spec}: {note}" for note in found.notes]


def _bounds(run: _Run) -> None:
    """E(a_t), with the interval of the counted bounds for given accuracies."""
    results = {}
    for spec in run.specs:
        with run.encoder(spec):
            results[spec] = run.score(spec)
    for spec, result in results.items():
        for eps in result.eps:
            points = [one for one in result.curve if one.eps == eps]
            accuracy, bound, error = (
                np.array([getattr(one, name) for one in points])
                for name in ("accuracy", "bound", "bound_stderr")
            )
            thresholds = np.array(result.thresholds)
            made = expected_bound(accuracy, bound, thresholds)
            raw = expected_bound(
                [one.raw_accuracy for one in points], [one.raw_bound for one in points], thresholds
            )
            above = accuracy > thresholds[:, None]
            half = _Z * np.sqrt(np.where(above, error**2, 0.0).sum(1)) / len(points)
            for at, threshold in enumerate(result.thresholds):
                place = f"eps={eps:g} a={threshold:g}"
                run.add(spec, f"bound {place}", made[at], made[at] - half[at], made[at] + half[at])
                run.add(spec, f"raw bound {place}", raw[at])
    if "figure" in run.given and results:
        plot_curves(run.given["figure"], {spec: [result] for spec, result in results.items()})


def _probes(run: _Run) -> None:
    if "data" not in run.given:
        raise SynbenchError("data: expected labelled images, such as digits or a folder, got none")
    run.stand_ins = True
    run.deviations.append(f"data {run.given['data']}: those of the paper are not known here")
    settings = {name: getattr(run.config, name) for name in _PROBED}
    if not isinstance(settings["batch_size"], int):
        del settings["batch_size"]
    for spec in run.specs:
        with run.encoder(spec):
            steps = run.given.get("steps", 50)
            report = robust_linear_probe(spec, run.given["data"], steps=steps, **settings)
            run.warnings += [f"{spec}: {one}" for one in report.warnings]
            for probe in report.probes:
                for name, share in probe.shares():
                    values = (100 * one for one in (share.value, share.ci95_low, share.ci95_high))
                    run.add(spec, f"{name} eps={probe.eps:g}", *values)


def _imagenet_rib(run: _Run) -> None:
    """Published means before and after, then the matrix of the changes."""
    digits = all(one.startswith("digits:") for one in run.specs)
    if not digits and "root" not in run.given:
        raise SynbenchError("root: expected the folder of the ImageNet variants, got none")
    run.stand_ins = digits
    if digits:
        run.deviations.append("suite digits-rib: images of scikit-learn in place of ImageNet's variants")
    folders = {
        name: run.given[name]
        for name in ("root", "pretraining", "objectnet_map", "epochs")
        if name in run.given
    }
    seeds = run.given.get("seeds", 3)
    if seeds != 1:
        run.deviations.append(f"seeds {seeds}, published 1")
    if run.given.get("epochs", 10) != 10:
        run.deviations.append(f"epochs {run.given['epochs']}, published 10")
    settings = {name: getattr(run.config, name) for name in _INHERITED} | folders
    for spec in run.specs:
        with run.encoder(spec):
            report = inherit(
                [spec], "digits-rib" if digits else "imagenet-rib", methods=("ft",), seeds=seeds,
                score=False, distance=False, progress=run.say, **settings,
            )  # fmt: skip
            run.warnings += report.warnings
            one = report.of("ft", spec)
            run.add(spec, BEFORE, 100 * one.ood_before)
            for name, mean in ((AFTER, one.ood_after), (INHERITED, one.mri)):
                run.add(spec, name, 100 * mean.value, 100 * mean.ci95_low, 100 * mean.ci95_high)
            for tuned, row in one.matrix.items():
                for other, change in row.items():
                    if other != tuned:
                        run.add(spec, f"{tuned} -> {other}", math.nan if change is None else 100 * change)


def _minimax(run: _Run) -> None:
    if run.specs:
        raise SynbenchError(f"encoders: expected none for minimax, which trains its own, got {run.specs}")
    run.deviations.append(
        "digits beside photographs of scikit-learn, and a small transformer, as in `study pretrain`"
    )
    options = {"runs": run.given.get("seeds", 5), "steps": run.given.get("steps", 600)}
    report = run_pretraining(seed=run.config.seed, progress=run.say, **options)
    run.specs = ["demo"]
    for one in report.differences:
        if one.quantity.startswith("accuracy"):
            run.add("demo", f"{one.quantity}, mean loss", one.first)
            run.add("demo", f"{one.quantity}, minimax", one.second)
            run.add("demo", f"{one.quantity}, difference", one.difference, one.ci95_low, one.ci95_high)


_SCORED = (
    "input_shape", "eps", "thresholds", "scales", "samples", "estimator", "preset", "integral", "seed", "device",
    "batch_size", "published_preprocessing", "random_init", "threads",
)  # fmt: skip


@dataclass(frozen=True)
class _Way:
    """How a table is measured, the fields of `ScoreConfig` that decide it, and the options of `reproduce` it takes."""

    measure: Callable[[_Run], None]
    reads: tuple[str, ...]
    takes: tuple[str, ...] = ()


_TABLES = {
    "synbench-scores": _Way(_scores, _SCORED),
    "synbench-eps": _Way(_eps, _SCORED),
    "synbench-bounds": _Way(_bounds, _SCORED, ("figure",)),
    "synbench-probes": _Way(_probes, _PROBED, ("data", "steps")),
    "imagenet-rib": _Way(
        _imagenet_rib, _INHERITED, ("root", "pretraining", "objectnet_map", "seeds", "epochs")
    ),
    "minimax": _Way(_minimax, ("seed",), ("seeds", "steps")),
}
