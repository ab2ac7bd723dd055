"""SynBench scores, fast: judge a pretrained representation without data.

    result = synbench_fast.score("timm:resnet50")
    result = synbench_fast.score(module, input_shape=(3, 32, 32))  # [B, 3, 32, 32] -> [B, F]
    print(result)

Names are loaded at first use, so that importing the package (and `synbench-fast --help`) costs nothing; torch
is imported when the first name that needs it is touched.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from synbench_fast.lazy import attach

if TYPE_CHECKING:
    from synbench_fast import minimax, report, studies
    from synbench_fast.config import ScoreConfig
    from synbench_fast.encoders import list_encoders, load_encoder
    from synbench_fast.engine.features import auc_ratio, evaluate_features
    from synbench_fast.engine.probe import Probe
    from synbench_fast.engine.score import score
    from synbench_fast.engine.structure import structure_score
    from synbench_fast.engine.suite import score_suite
    from synbench_fast.errors import SynbenchError
    from synbench_fast.report.comparison import Comparison, compare
    from synbench_fast.results.multiclass import MulticlassResult
    from synbench_fast.results.records import Result
    from synbench_fast.results.suite import SuiteResult
    from synbench_fast.stats.point import CurvePoint
    from synbench_fast.tasks.structure import FamilyDefinition
    from synbench_fast.tasks.suites import Suite, TaskDefinition, load_suite
    from synbench_fast.tasks.task import GaussianTask

    __version__: str

__all__ = [
    "Comparison",
    "CurvePoint",
    "FamilyDefinition",
    "GaussianTask",
    "MulticlassResult",
    "Probe",
    "Result",
    "ScoreConfig",
    "Suite",
    "SuiteResult",
    "SynbenchError",
    "TaskDefinition",
    "__version__",
    "auc_ratio",
    "compare",
    "evaluate_features",
    "list_encoders",
    "load_encoder",
    "load_suite",
    "minimax",
    "report",
    "score",
    "score_suite",
    "structure_score",
    "studies",
]

_HOMES = {
    "Comparison": "report.comparison",
    "CurvePoint": "stats.point",
    "FamilyDefinition": "tasks.structure",
    "GaussianTask": "tasks.task",
    "MulticlassResult": "results.multiclass",
    "Probe": "engine.probe",
    "Result": "results.records",
    "ScoreConfig": "config",
    "Suite": "tasks.suites",
    "SuiteResult": "results.suite",
    "SynbenchError": "errors",
    "TaskDefinition": "tasks.suites",
    "auc_ratio": "engine.features",
    "compare": "report.comparison",
    "evaluate_features": "engine.features",
    "list_encoders": "encoders",
    "load_encoder": "encoders",
    "load_suite": "tasks.suites",
    "minimax": None,
    "report": None,
    "score": "engine.score",
    "score_suite": "engine.suite",
    "structure_score": "engine.structure",
    "studies": None,
}

_load, __dir__ = attach(__name__, {name: _HOMES.get(name) for name in __all__})


def _attribute(name: str) -> Any:
    if name != "__version__":
        return _load(name)
    globals()[name] = version = _version()
    return version


if not TYPE_CHECKING:  # a type checker would take every name for one that exists
    __getattr__ = _attribute


def _version() -> str:
    from importlib import metadata

    try:
        return metadata.version("synbench-fast")
    except metadata.PackageNotFoundError:  # a source tree on the path, not installed
        return "unknown"
