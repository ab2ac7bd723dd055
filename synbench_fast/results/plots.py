"""The curve behind the score: expected scaled bound against threshold accuracy, as numbers and as a plot."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from synbench_fast.errors import SynbenchError
from synbench_fast.results.files import replacing
from synbench_fast.results.records import Result
from synbench_fast.runtime.optional import optional

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["draw_curves", "expected_bound", "plot_curves"]

# Okabe and Ito's palette: colour-blind readers can tell these apart.
_COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")


def expected_bound(accuracy: ArrayLike, bound: ArrayLike, thresholds: ArrayLike) -> NDArray[np.float64]:
    """E(a_t) = mean_s b_s * 1[a_s > a_t].

    `accuracy` a and `bound` b are [..., S] over S scales, `thresholds` a_t is [A]; the result is
    float64 [..., A]. Scales at or below the threshold add nothing, whatever their bound (+inf at t = 0).
    Source: the SynBench paper's definition of the expected bound above a threshold accuracy.
    """
    a = np.asarray(accuracy, dtype=np.float64)
    b = np.asarray(bound, dtype=np.float64)
    if a.shape != b.shape or a.ndim == 0 or a.shape[-1] == 0:
        raise SynbenchError(
            f"accuracy, bound: expected one shape [..., S], S >= 1, got {list(a.shape)} and {list(b.shape)}"
        )
    above = a[..., None, :] > np.asarray(thresholds, dtype=np.float64)[:, None]
    total: NDArray[np.float64] = np.where(above, b[..., None, :], 0.0).mean(axis=-1)
    return total


def draw_curves(
    encoders: Mapping[str, Sequence[Result]],
    *,
    eps: Sequence[float] | None = None,
    title: str | None = None,
) -> Figure:
    """A figure with one panel per eps: E(a_t) of the raw optimum and of every encoder, a_t in [0.6, 1].

    `encoders` maps a label to one or more results on the same scales (training repeats); repeats are drawn
    as their mean and the range between their extremes. `eps` defaults to the budgets of the first result.

    Raises:
        SynbenchError: matplotlib is not installed; no results; a budget that one lacks.
    """
    optional("matplotlib", "matplotlib", "demo")
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.layout_engine import ConstrainedLayoutEngine

    if not encoders or not all(encoders.values()):
        raise SynbenchError("encoders: expected at least one result for every encoder, got none")
    first = next(iter(encoders.values()))[0]
    budgets = list(first.eps if eps is None else eps)
    layout = ConstrainedLayoutEngine(wspace=0.06)  # keeps the tick labels of two panels apart
    figure = Figure(figsize=(4.6 * len(budgets), 4.0), dpi=150, layout=layout)
    FigureCanvasAgg(figure)
    panels = figure.subplots(1, len(budgets), sharey=True, squeeze=False)[0]
    for panel, budget in zip(panels, budgets, strict=True):
        _draw_panel(panel, encoders, first, budget)
    panels[0].set_ylabel("expected bound $E(a_t)$")
    panels[0].legend(frameon=False, loc="lower left", fontsize=9)
    if title is not None:
        figure.suptitle(title, fontsize=11)
    return figure


def plot_curves(
    path: str | os.PathLike[str],
    encoders: Mapping[str, Sequence[Result]],
    *,
    eps: Sequence[float] | None = None,
    title: str | None = None,
) -> Path:
    """Write `draw_curves` as a PNG, whole or not at all."""
    figure = draw_curves(encoders, eps=eps, title=title)
    with replacing(path) as temporary:
        figure.savefig(temporary, format="png")
    return Path(path)


def _draw_panel(panel: Any, encoders: Mapping[str, Sequence[Result]], first: Result, budget: float) -> None:
    thresholds = np.linspace(0.6, 1.0, 1001)
    raw = _curves([first], budget, thresholds, raw=True)[0]
    panel.plot(thresholds, raw, color="black", linewidth=1.2, linestyle=(0, (3, 1.5)), label="raw optimum")
    for index, (label, results) in enumerate(encoders.items()):
        color = _COLORS[index % len(_COLORS)]
        repeats = _curves(results, budget, thresholds, raw=False)
        panel.plot(thresholds, repeats.mean(axis=0), color=color, linewidth=1.5, label=label)
        if len(repeats) > 1:
            low, high = repeats.min(axis=0), repeats.max(axis=0)
            panel.fill_between(thresholds, low, high, color=color, alpha=0.15, linewidth=0)
    panel.set_title(f"eps = {budget:g}", fontsize=11)
    panel.set_xlabel("threshold accuracy $a_t$")
    panel.set_xlim(0.6, 1.0)
    panel.set_xticks([0.6, 0.7, 0.8, 0.9, 1.0])
    panel.set_ylim(bottom=0.0)
    panel.grid(color="0.9", linewidth=0.7)
    panel.set_axisbelow(True)
    panel.spines[["top", "right"]].set_visible(False)


def _curves(
    results: Sequence[Result], budget: float, thresholds: NDArray[np.float64], *, raw: bool
) -> NDArray[np.float64]:
    rows = []
    for result in results:
        points = [point for point in result.curve if abs(point.eps - budget) < 1e-9]
        if not points:
            listed = ", ".join(f"{one:g}" for one in result.eps)
            raise SynbenchError(f"eps: expected one of {listed}, got {budget:g}")
        accuracy = [point.raw_accuracy if raw else point.accuracy for point in points]
        bound = [point.raw_bound if raw else point.bound for point in points]
        rows.append(expected_bound(accuracy, bound, thresholds))
    return np.stack(rows)
