"""Stored results for other tools: data frames, the metadata of model cards, MLflow, Weights & Biases."""

from __future__ import annotations

import importlib
import importlib.util
import json
import math
import os
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from synbench_fast.errors import SynbenchError, first_line, suggest
from synbench_fast.report.collection import Item, collect, load_results, samples_text
from synbench_fast.report.tables import point_name
from synbench_fast.results.arrays import arrays_path
from synbench_fast.results.records import WITHHELD, Result
from synbench_fast.results.structure import metric_cells

if TYPE_CHECKING:
    from synbench_fast.results.suite import SuiteResult

__all__ = ["FRAME_COLUMNS", "chosen", "frame", "model_card", "to_mlflow", "to_wandb"]

_SCORE = ("score", "stderr", "ci95_low", "ci95_high")
_CURVE = ("accuracy", "robust_accuracy", "bound", "raw_accuracy", "raw_bound")
_BATCH = 500  # metrics per request; MLflow takes 1000
_CARD_TYPE = "synbench-score"

# Name -> type: a column without any value still has it.
FRAME_COLUMNS: dict[str, type] = {
    "encoder": str,
    "suite": str,
    "task": str,
    "pattern": str,
    "covariance": str,
    "estimator": str,
    "seed": int,
    "input_shape": str,
    "scales": int,
    "samples": str,
    "prior": float,
    "eps": float,
    "threshold": float,
    "score": float,
    "stderr": float,
    "ci95_low": float,
    "ci95_high": float,
    "structure": float,
    "structure_stderr": float,
    **{name: float for name in metric_cells(None)},
    "robust_area": float,
    "robust_area_ratio": float,
    "robust_area_stderr": float,
    "parameters": int,
    "feature_dim": int,
    "weights_sha256": str,
    "images": int,
    "images_per_second": float,
    "seconds": float,
    "peak_memory_bytes": int,
    "device": str,
    "dtype": str,
    "warnings": int,
    "command": str,
}


def frame(results: str | os.PathLike[str] | Iterable[Result | SuiteResult], library: str = "pandas") -> Any:
    """A tidy frame: one row per result, eps and threshold; of a suite one for each task, too.

    Args:
        results: a directory that `run --out` wrote, or results in memory.
        library: "pandas" or "polars", which must be installed.

    Returns:
        A data frame with the columns FRAME_COLUMNS, null where nothing is known. Integers that may be missing
        are of pandas' nullable type Int64.

    Raises:
        SynbenchError: another library, or one that is not installed; no results, or a file that is none.
    """
    if library not in ("pandas", "polars"):
        raise SynbenchError(
            f"library: expected 'pandas' or 'polars', got {library!r}"
            f"{suggest(str(library), ('pandas', 'polars'))}"
        )
    if isinstance(results, str | os.PathLike):
        collection = load_results(Path(results))
        if collection.problems:
            raise SynbenchError(collection.problems[0])
    else:
        collection = collect(results)
    rows = [row for item in collection.items for row in _tidy(item)]
    columns = {name: [row[name] for row in rows] for name in FRAME_COLUMNS}
    module = _imported(library, library)
    if library == "polars":
        kinds = {str: module.String, int: module.Int64, float: module.Float64}
        return module.DataFrame(columns, schema={name: kinds[kind] for name, kind in FRAME_COLUMNS.items()})
    named = {str: "object", int: "Int64", float: "float64"}
    return module.DataFrame(
        {name: module.Series(columns[name], dtype=named[kind]) for name, kind in FRAME_COLUMNS.items()}
    )


def _tidy(item: Item) -> list[dict[str, Any]]:
    rows = []
    for name, result in zip(item.tasks, item.results, strict=True):
        suite = {"suite": item.suite and item.suite.suite, "task": name or None}
        facts = _facts(result) | suite | {"command": item.document.command}
        for one in result.scores:
            numbers = {what: _finite(getattr(one, what)) for what in _SCORE}
            rows.append({**facts, "eps": one.eps, "threshold": one.threshold, **numbers})
    if item.suite is not None:
        empty = dict.fromkeys(FRAME_COLUMNS)
        for row in item.suite.family_rows():
            named = {name: value for name, value in row.items() if name in FRAME_COLUMNS}
            samples = row.get("samples")
            facts = {"suite": item.suite.suite, "samples": None if samples is None else str(samples)}
            rows.append({**empty, **named, **facts, "command": item.document.command})
    return rows


def _facts(result: Result) -> dict[str, Any]:
    task, cost, encoder, area = result.task, result.cost, result.encoder, result.robust_area
    structure = result.structure
    return {
        "encoder": encoder.spec,
        "pattern": task.pattern,
        "covariance": task.covariance,
        "estimator": result.estimator,
        "seed": result.seed,
        "input_shape": "x".join(str(one) for one in task.shape),
        "scales": len(task.scales),
        "samples": samples_text(task),
        "prior": task.prior,
        "structure": None if structure is None else _finite(structure.score),
        "structure_stderr": None if structure is None else _finite(structure.stderr),
        **metric_cells(structure),
        "robust_area": _finite(area.value),
        "robust_area_ratio": _finite(area.ratio),
        "robust_area_stderr": _finite(area.stderr),
        "parameters": encoder.parameters,
        "feature_dim": encoder.feature_dim,
        "weights_sha256": encoder.weights_sha256,
        "images": cost.images,
        "images_per_second": cost.images_per_second,
        "seconds": cost.seconds.get("total"),
        "peak_memory_bytes": cost.peak_memory_bytes,
        "device": cost.device,
        "dtype": cost.dtype,
        "warnings": len(result.warnings),
    }


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None


def _imported(module: str, extra: str) -> Any:
    """A package that is only needed here; one line names the extra that brings it."""
    try:
        return importlib.import_module(module)
    except ImportError:
        raise SynbenchError(
            f'{module}: expected the package, got none; pip install "synbench-fast[{extra}]"'
        ) from None


def chosen(items: Sequence[Item], encoder: str | None) -> list[Item]:
    """Those of one encoder, or all; SynbenchError if it has none."""
    if encoder is None:
        return list(items)
    found = [one for one in items if one.first.encoder.spec == encoder]
    if not found:
        specs = list(dict.fromkeys(one.first.encoder.spec for one in items))
        raise SynbenchError(
            f"encoder: expected one of {len(specs)} in the directory, got {encoder!r}{suggest(encoder, specs)}"
        )
    return found


def _metrics(item: Item) -> dict[str, float]:
    """Finite numbers of one result under names that every tracker takes."""
    found: dict[str, float | None] = {}
    for name, result in zip(item.tasks, item.results, strict=True):
        before = f"{_plain(name)}/" if name else ""
        for one in result.scores:
            for what in _SCORE:
                found[f"{before}{what}_{point_name(one.eps, one.threshold)}"] = getattr(one, what)
        for what in ("value", "ratio", "stderr"):
            found[f"{before}robust_area" + ("" if what == "value" else f"_{what}")] = getattr(
                result.robust_area, what
            )
        found[f"{before}images_per_second"] = result.cost.images_per_second
        found[f"{before}seconds"] = result.cost.seconds.get("total")
        found[f"{before}peak_memory_bytes"] = float(result.cost.peak_memory_bytes)
    if item.first.structure is not None:
        found["structure"], found["structure_stderr"] = (
            item.first.structure.score,
            item.first.structure.stderr,
        )
        found |= metric_cells(item.first.structure)
    for family in item.suite.families if item.suite is not None else []:
        found[f"{_plain(family.task)}/score"], found[f"{_plain(family.task)}/stderr"] = (
            family.score,
            family.stderr,
        )
    for both in item.suite.scores if item.suite is not None else []:
        point = point_name(both.eps, both.threshold)
        found[f"mean_{point}"], found[f"worst_{point}"] = both.mean, both.worst
    return {key: value for key, value in found.items() if value is not None and math.isfinite(value)}


def _plain(name: str) -> str:
    return "".join(one if (one.isalnum() and one.isascii()) or one in "_-. " else "_" for one in name)


def _parameters(item: Item) -> dict[str, Any]:
    """What was run, as text and numbers."""
    facts = _facts(item.first)
    names = ("encoder", "estimator", "seed", "input_shape", "scales", "samples", "prior", "device", "dtype")
    found = {name: facts[name] for name in names}
    found |= {
        "parameters": facts["parameters"],
        "feature_dim": facts["feature_dim"],
        "weights_sha256": facts["weights_sha256"],
        "random_init": item.first.encoder.random_init,
    }
    if item.suite is not None:
        tasks = [*item.tasks, *(one.task for one in item.suite.families)]
        found |= {"suite": item.suite.suite, "tasks": ",".join(tasks)}
    else:
        found |= {"pattern": facts["pattern"], "covariance": facts["covariance"]}
    return {key: value for key, value in found.items() if value is not None}


def _curves(item: Item) -> list[tuple[float, dict[str, float]]]:
    """(scale, numbers of the curve at every eps) of a single result; suites have too many to be charted."""
    if item.suite is not None:
        return []
    steps: dict[float, dict[str, float]] = {}
    for point in item.first.curve:
        numbers = {f"curve/{name}_eps{point.eps:g}": float(getattr(point, name)) for name in _CURVE}
        steps.setdefault(point.scale, {}).update(
            {name: value for name, value in numbers.items() if math.isfinite(value)}
        )
    return list(steps.items())


def to_mlflow(
    items: Sequence[Item], *, experiment: str = "synbench-fast", tracking_uri: str | None = None
) -> int:
    """One MLflow run per result: parameters, scores as metrics, curves over scales, the document as artifact.

    Args:
        items: of a `Collection`.
        experiment: its name; made if there is none.
        tracking_uri: of the store; default what the client is set to.

    Returns:
        How many runs were logged.
    """
    _imported("mlflow", "mlflow")
    from mlflow.entities import Metric, Param, RunTag
    from mlflow.exceptions import MlflowException
    from mlflow.tracking import MlflowClient

    try:
        client = MlflowClient(tracking_uri=tracking_uri)
        known = client.get_experiment_by_name(experiment)
        number = known.experiment_id if known is not None else client.create_experiment(experiment)
        for item in items:
            run = client.create_run(number, run_name=item.first.encoder.spec)
            identity, at = run.info.run_id, run.info.start_time
            metrics = [Metric(key, value, at, 0) for key, value in _metrics(item).items()]
            for step, (scale, numbers) in enumerate(_curves(item)):
                metrics.append(Metric("curve/scale", scale, at, step))
                metrics += [Metric(key, value, at, step) for key, value in numbers.items()]
            client.log_batch(
                identity,
                params=[Param(key, str(value)[:500]) for key, value in _parameters(item).items()],
                tags=[
                    RunTag("command", item.document.command[:5000]),
                    RunTag("warnings", str(len(item.document.warnings))),
                ],
            )
            for start in range(0, len(metrics), _BATCH):
                client.log_batch(identity, metrics=metrics[start : start + _BATCH])
            for path in (Path(item.file), arrays_path(item.file)):
                if path.exists():  # a whole document has no file of arrays
                    client.log_artifact(identity, str(path))
            client.set_terminated(identity)
    except MlflowException as error:
        hint = ""
        if importlib.util.find_spec("sqlalchemy") is None:
            hint = '; a database needs pip install "synbench-fast[mlflow]"'
        raise SynbenchError(
            f"mlflow: expected a store that takes runs, got: {first_line(error)}{hint}"
        ) from None
    return len(items)


def to_wandb(
    items: Sequence[Item],
    *,
    project: str = "synbench-fast",
    directory: str | os.PathLike[str] | None = None,
    offline: bool = False,
) -> int:
    """One Weights & Biases run per result: configuration, scores in the summary, curves over scales.

    Args:
        items: of a `Collection`.
        project: its name.
        directory: where the client keeps its files; default its own choice.
        offline: keep the runs in `directory`; `wandb sync` sends them later. Else the client's own setting.

    Returns:
        How many runs were logged.
    """
    wandb = _imported("wandb", "wandb")
    for item in items:
        if directory is not None:
            Path(directory).mkdir(parents=True, exist_ok=True)
        try:
            run = wandb.init(
                project=project,
                name=item.first.encoder.spec,
                config={
                    **_parameters(item),
                    "command": item.document.command,
                    "warnings": item.document.warnings,
                },
                dir=None if directory is None else str(directory),
                mode="offline" if offline else None,
                settings=wandb.Settings(silent=True, console="off", x_disable_stats=True),
            )
        except wandb.Error as error:
            raise SynbenchError(f"wandb: expected a run to be started, got: {first_line(error)}") from None
        try:
            for scale, numbers in _curves(item):
                run.log({"scale": scale, **numbers})
            run.summary.update(_metrics(item))
        finally:
            run.finish()
    return len(items)


def model_card(items: Sequence[Item], *, name: str | None = None) -> str:
    """The `model-index` block of a Hugging Face model card, YAML, with the scores of one encoder.

    Every budget at the lowest threshold, and the robust area, one result per task, those of families among them. A number
    without an interval says why. Strings are JSON strings, which YAML reads as they are meant.

    Args:
        items: all of one encoder.
        name: of the model; default the encoder's name.

    Raises:
        SynbenchError: no result, results of several encoders, or none with a finite score.
    """
    specs = list(dict.fromkeys(one.first.encoder.spec for one in items))
    if len(specs) != 1:
        listed = ", ".join(specs[:4]) + (", ..." if len(specs) > 4 else "")
        raise SynbenchError(f"encoder: expected one for a model card, got {len(specs)}: {listed or 'none'}")
    lines = [
        "model-index:",
        f"- name: {_quoted(name or items[0].first.encoder.name)}",
        "  results:",
    ]
    seen: set[str] = set()
    for name_of_data, data, metrics in (one for item in items for one in _card_results(item)):
        if not metrics or data in seen:
            continue
        seen.add(data)
        lines += [
            "  - task:",
            "      type: feature-extraction",
            '      name: "Robust linear separability"',
            "    dataset:",
            f"      name: {_quoted(name_of_data)}",
            "      type: synbench",
            f"      config: {_quoted(data)}",
            "    metrics:",
        ]
        for kind, label, value in metrics:
            lines += [f"    - type: {kind}", f"      value: {value!r}", f"      name: {_quoted(label)}"]
    if not seen:
        raise SynbenchError(f"encoder: expected a finite score for a model card, got none of {specs[0]}")
    return "\n".join(lines) + "\n"


def _card_results(item: Item) -> Iterator[tuple[str, str, list[tuple[str, str, float]]]]:
    """Data set, its configuration and the metrics of each task."""
    for result in item.results:
        yield "SynBench Gaussian mixture", _card_data(result), _card_metrics(result)
    for one in item.suite.families if item.suite is not None else []:
        levels = ", ".join(f"{level:g}" for level in one.levels)
        data = f"family {one.family}, task {one.task}, levels {levels}, {one.classes} classes, {one.samples} samples"
        label = f"SynBench family score{_error(one.stderr)}"
        found = [(_CARD_TYPE, label, round(one.score, 6))] if math.isfinite(one.score) else []
        yield "SynBench task family", f"{data}, seed {item.first.seed}", found


def _card_data(result: Result) -> str:
    facts = _facts(result)
    return (
        f"pattern {facts['pattern']}, {facts['covariance']} noise, input {facts['input_shape']}, "
        f"{facts['scales']} scales x {facts['samples']} samples, prior {facts['prior']:g}, "
        f"{facts['estimator']}, seed {facts['seed']}"
    )


def _card_metrics(result: Result) -> list[tuple[str, str, float]]:
    threshold = min(result.thresholds)
    found = []
    for eps in result.eps:
        one = result.score(eps, threshold)
        if math.isfinite(one.score):
            error = _error(one.stderr, result.withheld(eps, threshold))
            label = f"SynBench score, eps {eps:g}, above accuracy {threshold:g}{error}"
            found.append((_CARD_TYPE, label, round(one.score, 6)))
    if result.structure is not None:
        label = f"SynBench structure score{_error(result.structure.stderr)}"
        found.append(("synbench-structure", label, round(result.structure.score, 6)))
    area = result.robust_area
    if math.isfinite(area.value):
        before = f"{WITHHELD} of the robust area: "
        reasons = [one.removeprefix(before) for one in result.warnings if one.startswith(before)]
        label = f"SynBench robust area{_error(area.stderr, '; '.join(reasons))}"
        found.append(("synbench-robust-area", label, round(area.value, 6)))
    return found


def _error(stderr: float, withheld: str = "") -> str:
    """What a label says after the name of its number."""
    if math.isfinite(stderr):
        return f", standard error {stderr:.2g}"
    return f", interval withheld: {withheld}" if withheld else ""


def _quoted(text: str) -> str:
    """A YAML double-quoted scalar; JSON escapes are among YAML's."""
    return json.dumps(text, ensure_ascii=True)
