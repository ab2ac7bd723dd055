"""Scores inside other people's harnesses: one module per library, each imported by name and only then in need of it.

`torchmetrics` (a metric), `lightning` and `transformers` (callbacks of training), `lm_eval` (a task of the Language
Model Evaluation Harness), `timm_bulk` (a script for timm's bulk_runner.py).
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import TYPE_CHECKING

from synbench_fast.errors import SynbenchError, first_line

if TYPE_CHECKING:
    from synbench_fast.results.records import RobustArea, Score

__all__ = ["missing", "named_numbers", "number_names"]

_OF_A_SCORE = ("score", "stderr", "ci95_low", "ci95_high")
_OF_THE_AREA = {"robust_area": "value", "robust_area_ratio": "ratio", "robust_area_stderr": "stderr"}


def missing(library: str, extra: str, error: ImportError) -> SynbenchError:
    """One line for a module whose library is not here, or cannot be imported."""
    if isinstance(error, ModuleNotFoundError) and (error.name or "").partition(".")[0] == library:
        what = "none"
    else:
        what = first_line(error)
    return SynbenchError(f'{library}: expected the package, got {what}; pip install "synbench-fast[{extra}]"')


def number_names(eps: Iterable[float], thresholds: Iterable[float]) -> list[str]:
    """`score_eps0_a0.6`, `stderr_...`, `ci95_low_...` and `ci95_high_...` per budget and threshold, `robust_area`,
    `robust_area_ratio` and `robust_area_stderr`: the names that `synbench-fast export` gives them.
    """
    from synbench_fast.report.tables import point_name

    points = [point_name(one, threshold) for one in eps for threshold in thresholds]
    return [f"{what}_{point}" for point in points for what in _OF_A_SCORE] + list(_OF_THE_AREA)


def named_numbers(
    scores: Iterable[Score], area: RobustArea, prefix: str = "", *, finite: bool = True
) -> dict[str, float]:
    """Scores, errors, intervals and robust area under their names, see `number_names`.

    finite: leave out what is not.
    """
    from synbench_fast.report.tables import point_name

    found = {
        f"{prefix}{what}_{point_name(one.eps, one.threshold)}": getattr(one, what)
        for one in scores
        for what in _OF_A_SCORE
    }
    found |= {f"{prefix}{name}": getattr(area, what) for name, what in _OF_THE_AREA.items()}
    return {name: value for name, value in found.items() if math.isfinite(value) or not finite}
