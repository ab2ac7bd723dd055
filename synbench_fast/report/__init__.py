"""Stored results as a leaderboard, as one HTML page, and for other tools.

Names are loaded at first use, as those of the package are.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from synbench_fast.report.collection import Collection, Failure, load_results
    from synbench_fast.report.export import frame, model_card, to_mlflow, to_wandb
    from synbench_fast.report.html import write_html
    from synbench_fast.report.tables import Leaderboard, leaderboard, write_parquet

__all__ = [
    "Collection",
    "Failure",
    "Leaderboard",
    "frame",
    "leaderboard",
    "load_results",
    "model_card",
    "to_mlflow",
    "to_wandb",
    "write_html",
    "write_parquet",
]

_HOME = {
    "Collection": "collection",
    "Failure": "collection",
    "Leaderboard": "tables",
    "frame": "export",
    "leaderboard": "tables",
    "load_results": "collection",
    "model_card": "export",
    "to_mlflow": "export",
    "to_wandb": "export",
    "write_html": "html",
    "write_parquet": "tables",
}


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_HOME[name]}"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
