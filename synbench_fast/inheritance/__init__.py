"""Robustness inheritance: what fine-tuning leaves of an encoder's robustness.

Names are loaded at first use, as those of the package are.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from synbench_fast.inheritance.cells import PRETRAINING, Agreement, Cell, FailedCell
    from synbench_fast.inheritance.data import DataSet, DataSuite, Part
    from synbench_fast.inheritance.model import Classifier
    from synbench_fast.inheritance.page import write_page
    from synbench_fast.inheritance.report import InheritanceReport, MethodSummary, write_csv
    from synbench_fast.inheritance.run import inherit
    from synbench_fast.inheritance.training import Training

_HOME = {
    "Agreement": "cells",
    "Cell": "cells",
    "Classifier": "model",
    "DataSet": "data",
    "DataSuite": "data",
    "FailedCell": "cells",
    "InheritanceReport": "report",
    "MethodSummary": "report",
    "PRETRAINING": "cells",
    "Part": "data",
    "Training": "training",
    "inherit": "run",
    "write_csv": "report",
    "write_page": "page",
}

__all__ = [
    "PRETRAINING",
    "Agreement",
    "Cell",
    "Classifier",
    "DataSet",
    "DataSuite",
    "FailedCell",
    "InheritanceReport",
    "MethodSummary",
    "Part",
    "Training",
    "inherit",
    "write_csv",
    "write_page",
]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_HOME[name]}"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
