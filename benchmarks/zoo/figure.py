"""Structure score against accuracy, as SVG."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from zoo.halves import DEVELOPMENT, HELD_OUT
from zoo.validity import ALL, Row, over_data, twins

COLOURS = {HELD_OUT: "#c2410c", DEVELOPMENT: "#1d4ed8", "both": "#404040"}
NAMED = 5


def _panel(axes: Any, rows: Sequence[Row], half: str, data: str) -> None:
    chosen = [row for row in rows if "structure" in row and (half == ALL or row["half"] in (half, "both"))]

    def accuracy(row: Row) -> float:
        return 100 * over_data(row, "accuracy", data)

    for network, twin, _ in twins(chosen):
        axes.plot([network["structure"][0], twin["structure"][0]], [accuracy(network), accuracy(twin)], color="#d4d4d4", lw=0.7, zorder=1)  # fmt: skip
    for kind, marker in (("network", "o"), ("twin", "o"), ("trivial", "x")):
        for own in COLOURS:
            here = [row for row in chosen if row["kind"] == kind and row["half"] == own]
            if here:
                axes.errorbar(
                    [row["structure"][0] for row in here], [accuracy(row) for row in here],
                    xerr=[row["structure"][1] for row in here], fmt=marker, ms=4, lw=0.7, color=COLOURS[own],
                    mfc="white" if kind == "twin" else COLOURS[own], alpha=0.6 if kind == "twin" else 1.0, zorder=2,
                    label=f"{kind}, {own}" if kind != "trivial" else "trivial",
                )  # fmt: skip
    networks = [row for row in chosen if row["kind"] == "network"]
    places = [np.argsort(np.argsort(one)) for one in ([row["structure"][0] for row in networks], [accuracy(row) for row in networks])]  # fmt: skip
    for at in np.argsort(-abs(places[0] - places[1]))[:NAMED]:  # those that the score places worst
        row = networks[at]
        axes.annotate(row["encoder"], (row["structure"][0], accuracy(row)), xytext=(5, 3), textcoords="offset points", fontsize=7)  # fmt: skip
    axes.set_title(f"{half} encoders, {data} data", fontsize=10)
    axes.set_xlabel("structure score, ± one standard error")
    axes.set_ylabel("accuracy of linear probes, per cent")


def draw(rows: Sequence[Row], file: Path) -> None:
    """Held-out encoders on held-out data, and all on all; twins hollow and joined with their networks."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    with matplotlib.rc_context({"svg.hashsalt": "zoo", "svg.fonttype": "none", "font.family": "sans-serif"}):
        figure, both = pyplot.subplots(1, 2, figsize=(11, 4.6), layout="constrained")
        for axes, half in zip(both, (HELD_OUT, ALL), strict=True):
            _panel(axes, rows, half, half)
        both[1].legend(fontsize=7, loc="lower right")
        figure.savefig(file, metadata={"Date": None, "Creator": None})
        pyplot.close(figure)
