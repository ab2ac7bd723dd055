"""SynBench scores, fast: judge a pretrained representation without data.

Names are loaded at first use, so that importing the package (and `synbench-fast --help`) costs nothing; torch
is imported when the first name that needs it is touched.
"""

from __future__ import annotations

import importlib
import sys
from types import ModuleType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from synbench_fast.encoders import list_encoders, load_encoder
    from synbench_fast.eps_star import EpsStar, eps_star
    from synbench_fast.errors import SynbenchError
    from synbench_fast.features import auc_ratio, evaluate_features
    from synbench_fast.probe import Probe
    from synbench_fast.results import CurvePoint, Result
    from synbench_fast.robust_probe import ProbeReport, robust_linear_probe
    from synbench_fast.score import score
    from synbench_fast.task import GaussianTask

    __version__: str

__all__ = [
    "CurvePoint",
    "EpsStar",
    "GaussianTask",
    "Probe",
    "ProbeReport",
    "Result",
    "SynbenchError",
    "__version__",
    "auc_ratio",
    "eps_star",
    "evaluate_features",
    "list_encoders",
    "load_encoder",
    "robust_linear_probe",
    "score",
]

_HOME = {
    "CurvePoint": "results",
    "EpsStar": "eps_star",
    "GaussianTask": "task",
    "Probe": "probe",
    "ProbeReport": "robust_probe",
    "Result": "results",
    "SynbenchError": "errors",
    "auc_ratio": "features",
    "eps_star": "eps_star",
    "evaluate_features": "features",
    "list_encoders": "encoders",
    "load_encoder": "encoders",
    "robust_linear_probe": "robust_probe",
    "score": "score",
}


def __getattr__(name: str) -> Any:
    if name == "__version__":
        value: Any = _version()
    elif name in _HOME:
        value = getattr(importlib.import_module(f"{__name__}.{_HOME[name]}"), name)
    else:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})


def _version() -> str:
    from importlib import metadata

    try:
        return metadata.version("synbench-fast")
    except metadata.PackageNotFoundError:  # a source tree on the path, not installed
        return "unknown"


class _Package(ModuleType):
    """Keeps `score` and `eps_star` the functions: loading the submodules of those names would put them there."""

    def __setattr__(self, name: str, value: Any) -> None:
        if name in ("score", "eps_star") and isinstance(value, ModuleType):
            value = getattr(value, name)
        super().__setattr__(name, value)


sys.modules[__name__].__class__ = _Package
