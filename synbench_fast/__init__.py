"""SynBench scores, fast: judge a pretrained representation without data.

    result = synbench_fast.score("timm:resnet50")
    result = synbench_fast.score(module, input_shape=(3, 32, 32))  # [B, 3, 32, 32] -> [B, F]
    print(result)

Names are loaded at first use, so that importing the package (and `synbench-fast --help`) costs nothing; torch
is imported when the first name that needs it is touched.
"""

from __future__ import annotations

import importlib
import sys
from types import ModuleType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from synbench_fast import minimax, report
    from synbench_fast.compare import Comparison, compare
    from synbench_fast.encoders import list_encoders, load_encoder
    from synbench_fast.eps_star import EpsStar, eps_star
    from synbench_fast.errors import SynbenchError
    from synbench_fast.features import auc_ratio, evaluate_features
    from synbench_fast.inheritance import InheritanceReport, inherit
    from synbench_fast.probe import Probe
    from synbench_fast.results import Result
    from synbench_fast.robust_probe import ProbeReport, robust_linear_probe
    from synbench_fast.score import score
    from synbench_fast.sensitivity import Sensitivity, sensitivity
    from synbench_fast.stats.point import CurvePoint
    from synbench_fast.suite_results import SuiteResult
    from synbench_fast.suites import Suite, TaskDefinition, load_suite, score_suite
    from synbench_fast.task import GaussianTask
    from synbench_fast.validity import ValidityReport, validate

    __version__: str

__all__ = [
    "Comparison",
    "CurvePoint",
    "EpsStar",
    "GaussianTask",
    "InheritanceReport",
    "Probe",
    "ProbeReport",
    "Result",
    "Sensitivity",
    "Suite",
    "SuiteResult",
    "SynbenchError",
    "TaskDefinition",
    "ValidityReport",
    "__version__",
    "auc_ratio",
    "compare",
    "eps_star",
    "evaluate_features",
    "inherit",
    "list_encoders",
    "load_encoder",
    "load_suite",
    "minimax",
    "report",
    "robust_linear_probe",
    "score",
    "score_suite",
    "sensitivity",
    "validate",
]

_HOME = {
    "Comparison": "compare",
    "CurvePoint": "stats.point",
    "EpsStar": "eps_star",
    "GaussianTask": "task",
    "InheritanceReport": "inheritance",
    "Probe": "probe",
    "ProbeReport": "robust_probe",
    "Result": "results",
    "Sensitivity": "sensitivity",
    "Suite": "suites",
    "SuiteResult": "suite_results",
    "SynbenchError": "errors",
    "TaskDefinition": "suites",
    "ValidityReport": "validity",
    "auc_ratio": "features",
    "compare": "compare",
    "eps_star": "eps_star",
    "evaluate_features": "features",
    "inherit": "inheritance",
    "list_encoders": "encoders",
    "load_encoder": "encoders",
    "load_suite": "suites",
    "robust_linear_probe": "robust_probe",
    "score": "score",
    "score_suite": "suites",
    "sensitivity": "sensitivity",
    "validate": "validity",
}

_PACKAGES = ("minimax", "report")


def _load(name: str) -> Any:
    if name == "__version__":
        value: Any = _version()
    elif name in _PACKAGES:  # with names of their own: sb.report.frame(...)
        value = importlib.import_module(f"{__name__}.{name}")
    elif name in _HOME:
        value = getattr(importlib.import_module(f"{__name__}.{_HOME[name]}"), name)
    else:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    globals()[name] = value
    return value


if not TYPE_CHECKING:  # to a type checker it would say that every name exists
    __getattr__ = _load


def __dir__() -> list[str]:
    return sorted({*(name for name in globals() if name.startswith("__")), *__all__})


def _version() -> str:
    from importlib import metadata

    try:
        return metadata.version("synbench-fast")
    except metadata.PackageNotFoundError:  # a source tree on the path, not installed
        return "unknown"


class _Package(ModuleType):
    """Keeps `synbench_fast.score` a function: loading the submodule of that name would put itself there."""

    def __setattr__(self, name: str, value: Any) -> None:
        if isinstance(value, ModuleType) and _HOME.get(name) == name:
            value = getattr(value, name)
        super().__setattr__(name, value)


sys.modules[__name__].__class__ = _Package
