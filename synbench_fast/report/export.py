"""Stored results for other tools: data frames, the metadata of model cards, MLflow, Weights & Biases."""

from __future__ import annotations

import importlib
import importlib.util
import json
import math
import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from synbench_fast.errors import SynbenchError, first_line, suggest
from synbench_fast.report.collection import collect, encoder_of, load_results, samples_text
from synbench_fast.report.reader import CURVE, SCORE, Entry, Suite, details
from synbench_fast.report.tables import point_name

if TYPE_CHECKING:
    from synbench_fast.results.records import Result
    from synbench_fast.results.suite import SuiteResult

__all__ = ["FRAME_COLUMNS", "chosen", "frame", "model_card", "to_mlflow", "to_wandb"]

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


def _tidy(item: Entry | Suite) -> list[dict[str, Any]]:
    suite = item.suite if isinstance(item, Suite) else None
    entries = item.entries if isinstance(item, Suite) else [item]
    names: Sequence[str | None] = item.tasks if isinstance(item, Suite) else [None]
    rows = []
    for name, entry in zip(names, entries, strict=True):
        facts = _facts(entry) | {"suite": suite, "task": name, "command": item.command}
        for eps in entry.eps:
            for threshold in entry.thresholds:
                numbers = dict(zip(SCORE, map(_finite, entry.score(eps, threshold)), strict=True))
                rows.append({**facts, "eps": eps, "threshold": threshold, **numbers})
    return rows


def _facts(entry: Entry) -> dict[str, Any]:
    task, cost, encoder = entry.task, entry.cost, entry.encoder
    return {
        "encoder": encoder["spec"],
        "pattern": task["pattern"],
        "covariance": task["covariance"],
        "estimator": entry.estimator,
        "seed": entry.seed,
        "input_shape": "x".join(str(one) for one in task["shape"]),
        "scales": len(task["scales"]),
        "samples": samples_text(task),
        "prior": task["prior"],
        "robust_area": entry.robust_area["value"],
        "robust_area_ratio": entry.robust_area["ratio"],
        "robust_area_stderr": entry.robust_area["stderr"],
        "parameters": encoder["parameters"],
        "feature_dim": encoder["feature_dim"],
        "weights_sha256": encoder["weights_sha256"],
        "images": cost["images"],
        "images_per_second": cost["images_per_second"],
        "seconds": cost["seconds"].get("total"),
        "peak_memory_bytes": cost["peak_memory_bytes"],
        "device": cost["device"],
        "dtype": cost["dtype"],
        "warnings": len(entry.warnings),
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


def chosen(items: Sequence[Entry | Suite], encoder: str | None) -> list[Entry | Suite]:
    """Those of one encoder, or all; SynbenchError if it has none."""
    if encoder is None:
        return list(items)
    found = [one for one in items if encoder_of(one).encoder["spec"] == encoder]
    if not found:
        specs = list(dict.fromkeys(encoder_of(one).encoder["spec"] for one in items))
        raise SynbenchError(
            f"encoder: expected one of {len(specs)} in the directory, got {encoder!r}{suggest(encoder, specs)}"
        )
    return found


def _metrics(item: Entry | Suite) -> dict[str, float]:
    """Finite numbers of one result under names that every tracker takes."""
    entries = item.entries if isinstance(item, Suite) else [item]
    names = item.tasks if isinstance(item, Suite) else [""]
    found: dict[str, float | None] = {}
    for name, entry in zip(names, entries, strict=True):
        before = f"{_plain(name)}/" if name else ""
        for eps in entry.eps:
            for threshold in entry.thresholds:
                for what, value in zip(SCORE, entry.score(eps, threshold), strict=True):
                    found[f"{before}{what}_{point_name(eps, threshold)}"] = value
        for what in ("value", "ratio", "stderr"):
            found[f"{before}robust_area" + ("" if what == "value" else f"_{what}")] = entry.robust_area[what]
        found[f"{before}images_per_second"] = entry.cost["images_per_second"]
        found[f"{before}seconds"] = entry.cost["seconds"].get("total")
        found[f"{before}peak_memory_bytes"] = float(entry.cost["peak_memory_bytes"])
    if isinstance(item, Suite):
        first = item.entries[0]
        for eps in first.eps:
            for threshold in first.thresholds:
                numbers, _ = item.score(eps, threshold)
                point = point_name(eps, threshold)
                found[f"mean_{point}"], found[f"worst_{point}"] = numbers[0], numbers[4]
    return {key: value for key, value in found.items() if value is not None and math.isfinite(value)}


def _plain(name: str) -> str:
    return "".join(one if (one.isalnum() and one.isascii()) or one in "_-. " else "_" for one in name)


def _parameters(item: Entry | Suite) -> dict[str, Any]:
    """What was run, as text and numbers."""
    entry = encoder_of(item)
    facts = _facts(entry)
    names = ("encoder", "estimator", "seed", "input_shape", "scales", "samples", "prior", "device", "dtype")
    found = {name: facts[name] for name in names}
    found |= {
        "parameters": facts["parameters"],
        "feature_dim": facts["feature_dim"],
        "weights_sha256": facts["weights_sha256"],
        "random_init": entry.encoder["random_init"],
    }
    if isinstance(item, Suite):
        found |= {"suite": item.suite, "tasks": ",".join(item.tasks)}
    else:
        found |= {"pattern": facts["pattern"], "covariance": facts["covariance"]}
    return {key: value for key, value in found.items() if value is not None}


def _curves(item: Entry | Suite) -> list[tuple[float, dict[str, float]]]:
    """(scale, numbers of the curve at every eps) of a single result; suites have too many to be charted."""
    if isinstance(item, Suite):
        return []
    curve, size = details(item, influence=False).curve, len(CURVE)
    steps = []
    for s, scale in enumerate(item.task["scales"]):
        found = {}
        for e, eps in enumerate(item.eps):
            place = (s * len(item.eps) + e) * size
            point = dict(zip(CURVE, curve[place : place + size], strict=True))
            for name in ("accuracy", "robust_accuracy", "bound", "raw_accuracy", "raw_bound"):
                if math.isfinite(point[name]):
                    found[f"curve/{name}_eps{eps:g}"] = float(point[name])
        steps.append((scale, found))
    return steps


def to_mlflow(
    items: Sequence[Entry | Suite], *, experiment: str = "synbench-fast", tracking_uri: str | None = None
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
            entry = encoder_of(item)
            run = client.create_run(number, run_name=entry.encoder["spec"])
            identity, at = run.info.run_id, run.info.start_time
            metrics = [Metric(key, value, at, 0) for key, value in _metrics(item).items()]
            for step, (scale, numbers) in enumerate(_curves(item)):
                metrics.append(Metric("curve/scale", scale, at, step))
                metrics += [Metric(key, value, at, step) for key, value in numbers.items()]
            client.log_batch(
                identity,
                params=[Param(key, str(value)[:500]) for key, value in _parameters(item).items()],
                tags=[RunTag("command", item.command[:5000]), RunTag("warnings", str(len(item.warnings)))],
            )
            for start in range(0, len(metrics), _BATCH):
                client.log_batch(identity, metrics=metrics[start : start + _BATCH])
            client.log_artifact(identity, item.file)
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
    items: Sequence[Entry | Suite],
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
                name=encoder_of(item).encoder["spec"],
                config={**_parameters(item), "command": item.command, "warnings": item.warnings},
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


def model_card(items: Sequence[Entry | Suite], *, name: str | None = None) -> str:
    """The `model-index` block of a Hugging Face model card, YAML, with the scores of one encoder.

    Every budget at the lowest threshold, and the robust area, one result per task. Strings are JSON strings,
    which YAML reads as they are meant.

    Args:
        items: all of one encoder.
        name: of the model; default the encoder's name.

    Raises:
        SynbenchError: no result, results of several encoders, or none with a finite score.
    """
    specs = list(dict.fromkeys(encoder_of(one).encoder["spec"] for one in items))
    if len(specs) != 1:
        listed = ", ".join(specs[:4]) + (", ..." if len(specs) > 4 else "")
        raise SynbenchError(f"encoder: expected one for a model card, got {len(specs)}: {listed or 'none'}")
    lines = [
        "model-index:",
        f"- name: {_quoted(name or encoder_of(items[0]).encoder['name'])}",
        "  results:",
    ]
    entries = [entry for item in items for entry in (item.entries if isinstance(item, Suite) else [item])]
    seen: set[str] = set()
    for entry in entries:
        metrics = _card_metrics(entry)
        data = _card_data(entry)
        if not metrics or data in seen:
            continue
        seen.add(data)
        lines += [
            "  - task:",
            "      type: feature-extraction",
            '      name: "Robust linear separability"',
            "    dataset:",
            '      name: "SynBench Gaussian mixture"',
            "      type: synbench",
            f"      config: {_quoted(data)}",
            "    metrics:",
        ]
        for kind, label, value in metrics:
            lines += [f"    - type: {kind}", f"      value: {value!r}", f"      name: {_quoted(label)}"]
    if not seen:
        raise SynbenchError(f"encoder: expected a finite score for a model card, got none of {specs[0]}")
    return "\n".join(lines) + "\n"


def _card_data(entry: Entry) -> str:
    facts = _facts(entry)
    return (
        f"pattern {facts['pattern']}, {facts['covariance']} noise, input {facts['input_shape']}, "
        f"{facts['scales']} scales x {facts['samples']} samples, prior {facts['prior']:g}, "
        f"{facts['estimator']}, seed {facts['seed']}"
    )


def _card_metrics(entry: Entry) -> list[tuple[str, str, float]]:
    threshold = min(entry.thresholds)
    found = []
    for eps in entry.eps:
        value, stderr, *_ = entry.score(eps, threshold)
        if math.isfinite(value):
            error = f", standard error {stderr:.2g}" if math.isfinite(stderr) else ""
            label = f"SynBench score, eps {eps:g}, above accuracy {threshold:g}{error}"
            found.append((_CARD_TYPE, label, round(value, 6)))
    area = entry.robust_area["value"]
    if area is not None:
        found.append(("synbench-robust-area", "SynBench robust area", round(area, 6)))
    return found


def _quoted(text: str) -> str:
    """A YAML double-quoted scalar; JSON escapes are among YAML's."""
    return json.dumps(text, ensure_ascii=True)
