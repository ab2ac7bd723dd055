"""The report as one HTML file without script: matrices of changes, accuracy before and after, and distances.

Drawings are SVG in the file, style is in the file, and a content security policy admits nothing else.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from html import escape
from pathlib import Path

from synbench_fast.results.files import write_atomically
from synbench_fast.studies.inheritance.cells import PRETRAINING, Cell
from synbench_fast.studies.inheritance.report import InheritanceReport
from synbench_fast.studies.inheritance.statistic import CellCorrelation, CellCorrelations
from synbench_fast.studies.inheritance.summaries import MethodSummary, change, points, share
from synbench_fast.studies.page import card, html_page, html_table

__all__ = ["page", "write_page"]

_STYLE = """
.grid2 { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 460px), 1fr)); gap: 16px; }
.card svg { width: 100%; height: auto; }
svg text.on { fill: #1b2330; font-size: 10.5px; } svg text.off { fill: #ffffff; font-size: 10.5px; }
svg .own { fill: none; stroke: var(--ink); stroke-width: 1.5; }
svg .zero { stroke: var(--dim); stroke-width: 1; } svg .error { stroke: var(--ink); stroke-width: 1.2; }
svg .before { fill: var(--dot); }
svg .k0 { fill: var(--c0); } svg .k1 { fill: var(--c1); } svg .k2 { fill: var(--c2); } svg .k3 { fill: var(--c3); }
svg .k4 { fill: var(--c4); } svg .k5 { fill: var(--c5); } svg .k6 { fill: var(--c6); } svg .k7 { fill: var(--c7); }
svg circle { opacity: 0.75; }
"""
_COLOURS = 8


def write_page(path: str | Path, report: InheritanceReport) -> Path:
    """Write the page, whole or not at all; returns the path."""
    return write_atomically(path, page(report))


def page(report: InheritanceReport) -> str:
    """The text of the page."""
    seeds = len(report.seeds)
    title = f"{report.suite}: {', '.join(report.encoders)}"
    body = [
        *(
            card(
                "Notes", f"<ul>{''.join(f'<li>{escape(one)}</li>' for one in report.warnings)}</ul>", "notice"
            )
            for _ in report.warnings[:1]
        ),
        card("Methods", _summaries(report)),
    ]
    if report.failed:
        lost = "".join(f"<li>{escape(str(one))}</li>" for one in report.failed)
        body.append(card(f"{len(report.failed)} failed, in no number here", f"<ul>{lost}</ul>"))
    for encoder in report.encoders:
        of = [one for one in report.summaries if one.encoder == encoder]
        body.append(card(f"{encoder}: accuracy on the other data sets, before and after", _bars(report, of)))
        scale = max(
            (abs(v) for one in of for row in one.matrix.values() for v in row.values() if v is not None),
            default=0.0,
        )
        maps = [card(f"{encoder}: {one.method}, change of accuracy", _heat(report, one, scale)) for one in of]
        body.append(f'<div class="grid2">{"".join(maps)}</div>')
    body.append(f'<div class="grid2">{"".join(_scatters(report))}</div>')
    if report.statistic is not None:
        body.append(card("Correlation over cells (Spearman)", _correlations(report.statistic)))
    body.append(
        f'<details class="card"><summary>What the numbers mean</summary><dl>{_meaning(seeds)}</dl></details>'
    )
    count = len(report.cells) + len(report.failed)
    about = f"{count} fine-tunings, {seeds} seed{'' if seeds == 1 else 's'}"
    return html_page(
        "Robustness inheritance", title, "\n".join(body), about=about, style=_STYLE, command=report.command
    )


def _summaries(report: InheritanceReport) -> str:
    columns = (
        "encoder, method", "mRI", f"less {report.methods[0]}", "own data set", "pre-training", "same prediction",
        "both correct", "SynBench score",
    )  # fmt: skip
    rows = []
    for one in report.summaries:
        rows.append(
            [
                f"{one.encoder}, {one.method}",
                points(one.mri),
                "-" if one.difference is None else points(one.difference),
                points(one.own_change),
                points(one.pretraining_change),
                share(one.same.value),
                share(one.both_correct.value),
                one.score_text,
            ]
        )
    return html_table(columns, rows)


def _correlations(found: CellCorrelations) -> str:
    rows = [
        (one.predictor, one.target, one.method, one.within or "-", f"{one.cells}", _estimate(one))
        for one in found.correlations
        if one.coefficient == "spearman"
    ]
    columns = ("predictor", "target", "method", "within", "cells", "coefficient, 95 % interval")
    notes = (
        f"BCa intervals of {found.resamples} resamples of {' and '.join(found.resampled) or 'nothing'}.",
        *found.warnings,
    )
    return html_table(columns, rows) + "".join(f'<p class="small">{escape(one)}</p>' for one in notes)


def _estimate(one: CellCorrelation) -> str:
    if not math.isfinite(one.ci95_low):
        return f"{one.value:+.2f}"
    return f"{one.value:+.2f} ({one.ci95_low:+.2f} to {one.ci95_high:+.2f})"


def _svg(width: float, height: float, label: str, parts: Iterable[str]) -> str:
    return (
        f'<svg viewBox="0 0 {width:g} {height:g}" role="img" aria-label="{escape(label, quote=True)}">'
        f"{''.join(parts)}</svg>"
    )


def _text(x: float, y: float, text: str, kind: str = "", anchor: str = "middle", turn: float = 0) -> str:
    turned = f' transform="rotate({turn:g} {x:.1f} {y:.1f})"' if turn else ""
    named = f' class="{kind}"' if kind else ""
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}"{named}{turned}>{escape(text)}</text>'


def _colour(value: float, scale: float) -> tuple[str, bool]:
    """Blue for a gain, orange for a loss, white for none; whether dark text can be read on it."""
    share = 0.0 if scale == 0 else min(1.0, abs(value) / scale)
    end = (0, 88, 163) if value > 0 else (176, 74, 0)
    mixed = [round(248 + share * (one - 248)) for one in end]
    return f"#{mixed[0]:02x}{mixed[1]:02x}{mixed[2]:02x}", share < 0.6


def _heat(report: InheritanceReport, one: MethodSummary, scale: float) -> str:
    columns = [*(data.name for data in report.data), PRETRAINING]
    left, top, size, high = 96.0, 86.0, 48.0, 26.0
    parts = []
    for x, name in enumerate(columns):
        parts.append(_text(left + size * (x + 0.5), top - 6, name[:16], anchor="start", turn=-40))
    for y, row in enumerate(report.data):
        parts.append(_text(left - 6, top + high * (y + 0.65), row.name[:16], anchor="end"))
        for x, name in enumerate(columns):
            value = one.matrix[row.name][name]
            colour, dark = _colour(value or 0.0, scale)
            box = f'x="{left + size * x:.1f}" y="{top + high * y:.1f}" width="{size:g}" height="{high:g}"'
            tip = f"fine-tuned on {row.name}, evaluated on {name}: {change(value)}{'' if value is None else ' points'}"
            parts.append(f'<g><title>{escape(tip)}</title><rect {box} fill="{colour}"/>')
            parts.append(
                _text(
                    left + size * (x + 0.5),
                    top + high * (y + 0.65),
                    change(value),
                    "on" if dark else "off",
                )
            )
            if name == row.name:
                parts.append(f'<rect {box} class="own"/>')
            parts.append("</g>")
    width, height = left + size * len(columns) + 46, top + high * len(report.data) + 4
    note = '<p class="small">Rows: fine-tuned on. Columns: evaluated on. Points, mean over seeds; framed: the data set itself, which is not in RI.</p>'
    return _svg(width, height, f"change of accuracy after {one.method}", parts) + note


def _bars(report: InheritanceReport, summaries: Sequence[MethodSummary]) -> str:
    """For every data set i a bar of the mean accuracy on the others before, and one per method after."""
    width, height, left, bottom, top = 940.0, 250.0, 40.0, 44.0, 26.0
    count = len(report.data)
    group = (width - left - 8) / count
    bar = group * 0.8 / (len(summaries) + 1)

    def at(value: float) -> float:
        return top + (height - top - bottom) * (1 - value)

    parts = []
    for tick in (0.0, 0.25, 0.5, 0.75, 1.0):
        parts.append(f'<path class="grid" d="M{left:g} {at(tick):.1f}H{width - 8:g}"/>')
        parts.append(_text(left - 5, at(tick) + 4, f"{100 * tick:.0f}", anchor="end"))
    accuracy = next(
        (cell.accuracy_before for cell in report.cells if cell.encoder == summaries[0].encoder), {}
    )
    for i, data in enumerate(report.data):
        start = left + group * (i + 0.1)
        others = [accuracy[name] for name in accuracy if name != data.name]
        before = sum(others) / len(others) if others else math.nan
        for k, one in enumerate([None, *summaries]):
            value = before if one is None else before + one.ri[data.name].value
            if math.isnan(value):
                continue
            kind = "before" if one is None else f"k{(k - 1) % _COLOURS}"
            x = start + bar * k
            label = "before" if one is None else f"{one.method}: RI {points(one.ri[data.name])}"
            parts.append(
                f'<g><title>{escape(f"{data.name}, {label}")}</title><rect class="{kind}" x="{x:.1f}" '
                f'y="{at(value):.1f}" width="{0.9 * bar:.1f}" height="{at(0) - at(value):.1f}"/></g>'
            )
            if one is not None and math.isfinite(one.ri[data.name].ci95_low):
                ends = [
                    min(1.0, max(0.0, before + end))
                    for end in (one.ri[data.name].ci95_low, one.ri[data.name].ci95_high)
                ]
                parts.append(
                    f'<path class="error" d="M{x + 0.45 * bar:.1f} {at(ends[0]):.1f}V{at(ends[1]):.1f}"/>'
                )
        parts.append(_text(start + group * 0.4, height - bottom + 16, data.name[:14]))
    parts += _legend(["before", *(one.method for one in summaries)], left, ["before"])
    parts.append(
        _text(
            left,
            height - 8,
            "fine-tuned on; mean accuracy on the others in %, bars of 95 % over seeds",
            anchor="start",
        )
    )
    return _svg(width, height, "accuracy before and after", parts)


def _legend(names: Sequence[str], left: float, first: Sequence[str] = ()) -> list[str]:
    parts, x = [], left
    for number, name in enumerate(names):
        kind = first[number] if number < len(first) else f"k{(number - len(first)) % _COLOURS}"
        parts.append(f'<rect class="{kind}" x="{x:.1f}" y="4" width="11" height="11"/>')
        parts.append(_text(x + 15, 14, name, anchor="start"))
        x += 32 + 6.5 * len(name)
    return parts


def _scatters(report: InheritanceReport) -> list[str]:
    cards = []
    measured = [one for one in report.cells if one.distance is not None]
    if measured:
        cards.append(
            card(
                "Distance to the pre-training data and its loss",
                _scatter(
                    report,
                    [(_to(one, PRETRAINING), 100 * one.pretraining_change, one) for one in measured],
                    "transport distance from the data set to the pre-training data",
                    "change on pre-training, points",
                ),
            )
        )
        cards.append(
            card(
                "Distance to the other data sets and RI",
                _scatter(
                    report,
                    [(_mean_distance(one), 100 * one.robustness_improvement, one) for one in measured],
                    "mean transport distance from the data set to the others",
                    "RI, points",
                ),
            )
        )
    scored = [
        (one.score_after.score - one.score_before.score, 100 * one.robustness_improvement, one)
        for one in report.cells
        if one.score_before is not None and one.score_after is not None
    ]
    if scored:
        cards.append(
            card(
                "Change of the SynBench score and RI",
                _scatter(report, scored, "score after less before", "RI, points"),
            )
        )
    return cards


def _to(cell: Cell, name: str) -> float:
    return (cell.distance or {})[name]


def _mean_distance(cell: Cell) -> float:
    return sum(_to(cell, name) for name in cell.others) / len(cell.others)


def _scatter(
    report: InheritanceReport, found: Sequence[tuple[float, float, Cell]], x_name: str, y_name: str
) -> str:
    width, height, left, bottom, top = 460.0, 300.0, 52.0, 42.0, 24.0
    x_low, x_high, x_ticks = _axis([one[0] for one in found])
    y_low, y_high, y_ticks = _axis([0.0, *(one[1] for one in found)])

    def place(x: float, y: float) -> tuple[float, float]:
        return (
            left + (width - left - 12) * (x - x_low) / (x_high - x_low),
            top + (height - top - bottom) * (y_high - y) / (y_high - y_low),
        )

    parts = []
    for tick in y_ticks:
        y = place(x_low, tick)[1]
        parts.append(
            f'<path class="{"zero" if tick == 0 else "grid"}" d="M{left:g} {y:.1f}H{width - 12:g}"/>'
        )
        parts.append(_text(left - 5, y + 4, f"{tick:g}", anchor="end"))
    for tick in x_ticks:
        parts.append(_text(place(tick, y_low)[0], height - bottom + 15, f"{tick:g}"))
    for x_value, y_value, cell in found:
        x, y = place(x_value, y_value)
        kind = f"k{report.methods.index(cell.method) % _COLOURS}"
        tip = f"{cell.encoder}, {cell.method} on {cell.fine_tuned_on}, seed {cell.seed}: {x_value:.4g}, {y_value:+.1f}"
        parts.append(
            f'<g><title>{escape(tip)}</title><circle class="{kind}" cx="{x:.1f}" cy="{y:.1f}" r="4"/></g>'
        )
    parts += _legend(report.methods, left)
    parts.append(_text((left + width) / 2, height - 8, x_name))
    parts.append(_text(14, (top + height - bottom) / 2, y_name, turn=-90))
    return _svg(width, height, f"{y_name} against {x_name}", parts)


def _axis(values: Sequence[float]) -> tuple[float, float, list[float]]:
    """Ends that hold all values, and round ticks between them."""
    low, high = min(values), max(values)
    if high - low < 1e-9 * max(1.0, abs(high)):
        low, high = low - 0.5, high + 0.5
    margin = 0.05 * (high - low)
    low, high = low - margin, high + margin
    step = 10.0 ** math.floor(math.log10((high - low) / 3))
    step *= next(factor for factor in (5, 2, 1) if (high - low) / (step * factor) >= 3)
    first = math.ceil(low / step)
    ticks = [round(step * number, 10) for number in range(first, math.floor(high / step) + 1)]
    return low, high, ticks


def _meaning(seeds: int) -> str:
    entries = (
        ("RI", "Fine-tuned on data set i: mean over the other data sets of accuracy after less accuracy before, in points."),
        ("mRI", "Mean of RI over the data sets."),
        ("pre-training", "Accuracy on the pre-training data's validation part, after less before."),
        ("same prediction", "Share of samples of the other data sets whose prediction did not change."),
        ("both correct", "Share of samples that were and are predicted correctly."),
        ("intervals", f"95 %, Student's t over {seeds} training seeds, paired. They say nothing about other encoders or data."),
        ("SynBench score", "Of the encoder without its head, from synthetic samples; before, and the mean change."),
    )  # fmt: skip
    return "".join(f"<dt>{escape(a)}</dt><dd>{escape(b)}</dd>" for a, b in entries)
