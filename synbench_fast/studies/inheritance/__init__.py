"""Robustness inheritance: what fine-tuning leaves of an encoder's robustness.

Names are loaded at first use, as those of the package are.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from synbench_fast.lazy import attach

if TYPE_CHECKING:
    from synbench_fast.studies.inheritance.cells import PRETRAINING, Agreement, Cell, FailedCell
    from synbench_fast.studies.inheritance.data import DataSet, DataSuite, Part
    from synbench_fast.studies.inheritance.model import Classifier
    from synbench_fast.studies.inheritance.page import write_page
    from synbench_fast.studies.inheritance.published import PublishedInheritance, inherit_published
    from synbench_fast.studies.inheritance.report import InheritanceReport
    from synbench_fast.studies.inheritance.run import inherit
    from synbench_fast.studies.inheritance.schedule import Training
    from synbench_fast.studies.inheritance.summaries import MethodSummary

_HOMES = {
    "Agreement": "cells",
    "Cell": "cells",
    "Classifier": "model",
    "DataSet": "data",
    "DataSuite": "data",
    "FailedCell": "cells",
    "InheritanceReport": "report",
    "MethodSummary": "summaries",
    "PRETRAINING": "cells",
    "Part": "data",
    "PublishedInheritance": "published",
    "Training": "schedule",
    "inherit": "run",
    "inherit_published": "published",
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
    "PublishedInheritance",
    "Training",
    "inherit",
    "inherit_published",
    "write_page",
]


_load, __dir__ = attach(__name__, _HOMES)

if not TYPE_CHECKING:  # a type checker would take every name for one that exists
    __getattr__ = _load
