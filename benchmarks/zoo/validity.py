"""Do scores that see no data order real encoders by the accuracy of linear probes on real data?

One row per encoder joins what was measured; every table is made from these rows alone. Spearman's coefficient, over
networks of one half and accuracies that are means over the data sets of one half. Intervals: 95 %, percentiles of 2 000
resamples of groups of siblings (networks that share data, code or weights), since these are not independent.
"""

from __future__ import annotations

import itertools
import json
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from zoo import measure as accuracies
from zoo import scores
from zoo.catalog import NETWORKS
from zoo.halves import DEVELOPMENT, HELD_OUT

Row = dict[str, Any]
Array = NDArray[np.float64]

ALL = "all"
HALVES = (HELD_OUT, DEVELOPMENT, ALL)
RESAMPLES = 2000
CHOSEN = ("texture@0.33", "shapes@0.33", "instances@1")
CANDIDATES = (
    "texture@0.33",
    "shift@0",
    "shapes@0.33",
    "instances@0.67",
    "instances@1",
    "count@0",
    "symmetry@0",
)
CHOSEN_RIDGE = 0.3
CERTAIN = 0.1  # standard error of the published score
CHOSEN_ON = (
    "emoji",
    "digits",
    "solar-cells",
)  # the development data sets that were measured when it was chosen


# ---------------------------------------------------------------- rows


def updated(stored: Sequence[Row], cache: Path, size: int) -> list[Row]:
    """`stored` with all that was measured into `cache` in place of what it held, and the encoders that it lacks.

    One row per encoder that has an accuracy on every data set; scores that were not measured are left out.
    """
    groups = {one.name: one.siblings or one.name for one in NETWORKS}
    made: dict[str, Row] = {row["encoder"]: dict(row) for row in stored}
    for one in accuracies.rows(cache, size):
        keys = ("encoder", "kind", "half", "trained_for", "F", "parameters")
        plain = one["encoder"].removesuffix(" (twin)")
        row = made.setdefault(one["encoder"], {key: one[key] for key in keys} | {"group": groups.get(plain, plain), "data": {}})  # fmt: skip
        kept = ("accuracy", "error", "knn", "logme", "rank_me", "alpha_req")
        row["data"][one["data"]] = {"half": one["data_half"], **{key: one[key] for key in kept}}
    for step in ("structure", "published", "choice"):
        for one in scores.rows(cache, step, size):
            if one["encoder"] in made:
                made[one["encoder"]] |= {
                    key: one[key]
                    for key in ("structure", "families", "published", "area", "choice")
                    if key in one
                }
    most = max((len(row["data"]) for row in made.values()), default=0)
    return [row for row in made.values() if len(row["data"]) == most]


def replaced(stored: Sequence[Row], measured: Sequence[Row]) -> list[Row]:
    """`stored` with the rows of `measured` in place of theirs, then those that it lacks."""
    return list({row["encoder"]: row for row in (*stored, *measured)}.values())


def load(file: Path) -> list[Row]:
    return [json.loads(line) for line in file.read_text().splitlines()]


def _rounded(value: Any) -> Any:
    """Six significant digits, which no table shows; None for what is not finite, which JSON does not have."""
    if isinstance(value, float):
        return float(f"{value:.6g}") if math.isfinite(value) else None
    if isinstance(value, dict):
        return {key: _rounded(one) for key, one in value.items()}
    return [_rounded(one) for one in value] if isinstance(value, list) else value


def save(rows: Sequence[Row], file: Path) -> None:
    file.write_text("".join(json.dumps(_rounded(row)) + "\n" for row in rows))


# ---------------------------------------------------------------- quantities


def over_data(row: Row, key: str, half: str) -> float:
    """Mean over the data sets of a half, or of the one of this name; NaN where one has none."""
    values = [one[key] for name, one in row["data"].items() if half in (ALL, name, one["half"])]
    return math.nan if any(value is None for value in values) else float(np.mean(values))


def _family(name: str) -> Callable[[Row, str], float]:
    return lambda row, half: row["families"][name][0] if "families" in row else math.nan


def _published(eps: str) -> Callable[[Row, str], float]:
    def value(row: Row, _: str) -> float:
        found = row["published"][eps][0] if "published" in row else None
        return math.nan if found is None else found

    return value


PREDICTORS: dict[str, tuple[str, Callable[[Row, str], float]]] = {
    "structure score": ("nothing", lambda row, half: row["structure"][0] if "structure" in row else math.nan),
    "its texture": ("nothing", _family("texture")),
    "its shapes": ("nothing", _family("shapes")),
    "its instances": ("nothing", _family("instances")),
    "published score, eps 0": ("nothing", _published("0")),
    "published score, eps 0.2": ("nothing", _published("0.2")),
    "parameters": ("nothing", lambda row, half: row["parameters"]),
    "features": ("nothing", lambda row, half: row["F"]),
    "RankMe": ("inputs", lambda row, half: over_data(row, "rank_me", half)),
    "alpha-ReQ": ("inputs", lambda row, half: -abs(over_data(row, "alpha_req", half) - 1)),
    "nearest neighbours": ("labels", lambda row, half: over_data(row, "knn", half)),
    "LogME": ("labels", lambda row, half: over_data(row, "logme", half)),
}
BASELINES = tuple(list(PREDICTORS)[4:])


def spearman(x: Array, y: Array, weights: Array) -> Array:
    """Spearman's coefficient of x and y [n] in samples that hold element i weights[..., i] times; NaN if undefined.

    Ties share the mean of their ranks: rank_i = sum_j w_j [x_j < x_i] + (sum_j w_j [x_j = x_i] + 1) / 2.
    """
    total = weights.sum(-1, keepdims=True)
    ranks = []
    for one in (x, y):
        below, equal = (one[None] < one[:, None]).astype(float), (one[None] == one[:, None]).astype(float)
        rank = weights @ below.T + (weights @ equal.T + 1) / 2
        ranks.append(rank - (weights * rank).sum(-1, keepdims=True) / total)
    products = [(weights * a * b).sum(-1) for a, b in ((ranks[0], ranks[1]), (ranks[0], ranks[0]), (ranks[1], ranks[1]))]  # fmt: skip
    with np.errstate(invalid="ignore", divide="ignore"):
        found: Array = np.where(products[1] * products[2] > 1e-9, products[0] / np.sqrt(products[1] * products[2]), np.nan)  # fmt: skip
    return found


class Cell:
    """Networks of one half, with accuracies on the data sets of one half."""

    def __init__(self, rows: Sequence[Row], half: str, data: str) -> None:
        self.rows = [row for row in rows if row["kind"] == "network" and half in (ALL, row["half"])]
        self.half, self.data = half, data
        self.accuracy = np.array([over_data(row, "accuracy", data) for row in self.rows])
        names = sorted({row["group"] for row in self.rows})
        group = np.array([names.index(row["group"]) for row in self.rows], dtype=int)
        shares = np.full(len(names), 1 / len(names)) if names else np.ones(1)
        drawn = np.random.default_rng(0).multinomial(len(names), shares, RESAMPLES)
        self.weights = drawn[:, group].astype(float)

    def values(self, name: str) -> Array:
        return np.array([PREDICTORS[name][1](row, self.data) for row in self.rows], dtype=float)

    def estimate(self, name: str, less: str = "") -> tuple[float, float, float, int]:
        """Coefficient of a predictor (`less` that of another), both ends of its interval, number of networks."""
        x = self.values(name)
        other = self.values(less) if less else x
        known = np.isfinite(x) & np.isfinite(other)
        if known.sum() < 3:
            return math.nan, math.nan, math.nan, int(known.sum())
        weights = np.vstack([np.ones(known.sum()), self.weights[:, known]])
        weights = weights[weights.sum(1) > 0]
        found = spearman(x[known], self.accuracy[known], weights)
        if less:
            found = found - spearman(other[known], self.accuracy[known], weights)
        low, high = (
            np.nanpercentile(found[1:], [2.5, 97.5]) if np.isfinite(found[0]) else (math.nan, math.nan)
        )
        return float(found[0]), float(low), float(high), int(known.sum())

    def text(self, name: str, less: str = "") -> str:
        value, low, high, count = self.estimate(name, less)
        if not math.isfinite(value):
            return "-"
        return f"{value:+.2f} ({low:+.2f} to {high:+.2f})" + (f", {count} networks" if count < len(self.rows) else "")  # fmt: skip


def twins(rows: Sequence[Row]) -> list[tuple[Row, Row, float]]:
    """Each network with its twin, and the difference of their structure scores in standard errors."""
    by = {row["encoder"]: row for row in rows if "structure" in row}
    pairs = [(row, by[f"{name} (twin)"]) for name, row in by.items() if f"{name} (twin)" in by]
    return [(a, b, (a["structure"][0] - b["structure"][0]) / math.hypot(a["structure"][1], b["structure"][1])) for a, b in pairs]  # fmt: skip


# ---------------------------------------------------------------- tables


def _table(head: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
    return "\n".join("| " + " | ".join(one) + " |" for one in (head, ["---"] * len(head), *lines))


def encoder_table(rows: Sequence[Row]) -> str:
    """Every network and trivial encoder, by accuracy; the twin's score and accuracy beside it."""
    by = {row["encoder"]: row for row in rows}
    lines = []
    for row in sorted(rows, key=lambda one: -over_data(one, "accuracy", ALL)):
        if row["kind"] == "twin":
            continue
        twin = by.get(f"{row['encoder']} (twin)", {})
        score = "{:.3f} ± {:.3f}".format(*row["structure"]) if "structure" in row else "-"
        families = [f"{row['families'][one][0]:.2f}" if "families" in row else "-" for one in ("texture", "shapes", "instances")]  # fmt: skip
        lines.append([
            row["encoder"], row["trained_for"], row["half"], score, *families,
            f"{twin['structure'][0]:.3f}" if "structure" in twin else "-",
            f"{published:.2f}" if math.isfinite(published := PREDICTORS["published score, eps 0"][1](row, ALL)) else "-",
            *(f"{100 * over_data(row, 'accuracy', half):.1f}" for half in HALVES),
            f"{100 * over_data(twin, 'accuracy', ALL):.1f}" if twin else "-",
        ])  # fmt: skip
    head = [
        "encoder",
        "trained for",
        "half",
        "structure",
        "texture",
        "shapes",
        "instances",
        "twin's",
        "published",
    ]
    return _table([*head, *(f"accuracy, {one} data" for one in HALVES), "twin's"], lines)


def coefficient_table(cells: dict[str, Cell]) -> str:
    """Every predictor's coefficient in each of the cells, by title."""
    lines = [[name, sees, *(cell.text(name) for cell in cells.values())] for name, (sees, _) in PREDICTORS.items()]  # fmt: skip
    return _table(["predictor", "sees", *cells], lines)


def difference_table(cells: dict[str, Cell]) -> str:
    """The structure score's coefficient less that of each other predictor, on the same networks."""
    lines = [[name, *(cell.text("structure score", name) for cell in cells.values())] for name in BASELINES]
    return _table(["structure score less", *cells], lines)


def half_table(rows: Sequence[Row]) -> str:
    """The structure score and LogME on every half of encoders and data."""
    lines = []
    for half in HALVES:
        cells = [Cell(rows, half, data) for data in HALVES]
        lines += [[half, name, *(cell.text(name) for cell in cells)] for name in ("structure score", "LogME")]
    return _table(["encoders", "predictor", *(f"{one} data" for one in HALVES)], lines)


def data_sets(rows: Sequence[Row]) -> list[tuple[str, str]]:
    """Name and half of every data set, the held-out ones first."""
    found = [(name, one["half"]) for name, one in rows[0]["data"].items()]
    return sorted(found, key=lambda one: (one[1] != HELD_OUT, one[0]))


def main_cells(rows: Sequence[Row]) -> dict[str, Cell]:
    """What is reported: both halves held out, and everything."""
    return titled({f"{half} encoders": Cell(rows, half, half) for half in (HELD_OUT, ALL)})


def image_net_cells(rows: Sequence[Row]) -> dict[str, Cell]:
    """Networks that saw ImageNet."""
    known = [row for row in rows if "ImageNet" in row["trained_for"]]
    return titled({"trained on ImageNet": Cell(known, ALL, ALL)}) if known else {}


def certain_cells(rows: Sequence[Row]) -> dict[str, Cell]:
    """Networks whose published score has a small standard error."""
    known = [row for row in rows if "published" in row and (row["published"]["0"][1] or math.inf) < CERTAIN]
    return titled({f"published score known to {CERTAIN:g}": Cell(known, ALL, ALL)}) if known else {}


def titled(cells: dict[str, Cell]) -> dict[str, Cell]:
    return {f"{title} ({len(one.rows)}), {one.data} data": one for title, one in cells.items()}


def twin_table(rows: Sequence[Row]) -> str:
    lines = []
    for half in HALVES:
        pairs = [one for one in twins(rows) if half in (ALL, one[0]["half"])]
        everyone = [
            row for row in rows if "structure" in row and (half == ALL or row["half"] in (half, "both"))
        ]
        x, y = (np.array([PREDICTORS["structure score"][1](row, ALL) for row in everyone]), np.array([over_data(row, "accuracy", ALL) for row in everyone]))  # fmt: skip
        probe = sum(over_data(a, "accuracy", ALL) > over_data(b, "accuracy", ALL) for a, b, _ in pairs)
        lines.append([
            half, str(len(pairs)), str(sum(z > 0 for *_, z in pairs)), str(sum(z > 2 for *_, z in pairs)),
            ", ".join(a["encoder"] for a, _, z in pairs if z <= 2) or "none", str(probe),
            f"{float(spearman(x, y, np.ones(len(x)))):+.2f}",
        ])  # fmt: skip
    head = ["encoders", "pairs", "score above the twin's", "by more than 2 errors", "not by 2 errors", "accuracy above the twin's", "Spearman with twins and trivial ones"]  # fmt: skip
    return _table(head, lines)


# ---------------------------------------------------------------- the choice


def _chance(task: str) -> float:
    return 1 / 14 if task.startswith("symmetry") else 1 / 20


class Choice:
    """Scores of development encoders for every task and ridge, against the mean over some data sets."""

    def __init__(self, rows: Sequence[Row], sets: Sequence[str]) -> None:
        self.rows = [row for row in rows if row["kind"] == "network" and "choice" in row]
        self.accuracy = np.array(
            [np.mean([row["data"][one]["accuracy"] for one in sets]) for row in self.rows]
        )

    def scores(self, task: str, ridge: float, form: str = "standardised") -> Array:
        raw = np.array([row["choice"][task][form][scores.RIDGES.index(ridge)] for row in self.rows])
        return (raw - _chance(task)) / (1 - _chance(task))

    def coefficient(self, tasks: Sequence[str], ridge: float, form: str = "standardised") -> float:
        mean = np.mean([self.scores(one, ridge, form) for one in tasks], 0)
        return float(spearman(mean, self.accuracy, np.ones(len(mean))))

    def subsets(self) -> list[tuple[float, tuple[str, ...], float]]:
        """Coefficient, tasks and ridge of every mean of up to five candidates, the best first."""
        found = [
            (self.coefficient(tasks, ridge), tasks, ridge)
            for count in range(1, 6)
            for tasks in itertools.combinations(CANDIDATES, count)
            for ridge in (0.1, 0.3, 1.0)
        ]
        return sorted(found, key=lambda one: -one[0])


def single_table(choice: Choice) -> str:
    """Each task by itself, at each ridge."""
    lines = []
    for task in (f"{name}@{level:g}" for name, level in scores.TASKS):
        values = [choice.coefficient([task], ridge) for ridge in scores.RIDGES]
        lines.append([task, *(f"{one:+.2f}" for one in (*values, choice.coefficient([task], CHOSEN_RIDGE, "raw")))])  # fmt: skip
    head = ["family@level", *(f"ridge {one:g}" for one in scores.RIDGES)]
    return _table([*head, f"ridge {CHOSEN_RIDGE:g}, not standardised"], lines)


def mean_table(choice: Choice, other: Choice) -> str:
    """The best means, the one that was chosen, and their coefficients and places on other data sets."""
    found, elsewhere = choice.subsets(), [one[1:] for one in other.subsets()]
    chosen = [one[1:] for one in found].index((CHOSEN, CHOSEN_RIDGE))
    lines = []
    for number in sorted({*range(6), chosen}):
        value, tasks, ridge = found[number]
        lines.append([
            str(number + 1), ", ".join(tasks), f"{ridge:g}", f"{value:+.3f}",
            f"{other.coefficient(tasks, ridge):+.3f}", str(elsewhere.index((tasks, ridge)) + 1),
        ])  # fmt: skip
    head = [
        f"place of {len(found)}",
        "mean of",
        "ridge",
        "Spearman",
        "with every development data set",
        "place",
    ]
    return _table(head, lines)


def choice_tables(rows: Sequence[Row]) -> list[str]:
    sets = [name for name, one in rows[0]["data"].items() if one["half"] == DEVELOPMENT]
    choice, other = Choice(rows, CHOSEN_ON), Choice(rows, sets)
    if len(choice.rows) < 3:
        return ["Not measured: `python -m zoo validity --steps choice` does."]
    return [f"{len(choice.rows)} networks.", single_table(choice), mean_table(choice, other)]


def _text(parts: dict[str, list[str]]) -> str:
    return "\n\n".join("\n\n".join([f"## {title}", *tables]) for title, tables in parts.items())


def report(rows: Sequence[Row]) -> str:
    """The tables of the page, with titles."""
    return _text(
        {
            "Spearman's coefficient with accuracy": [coefficient_table(main_cells(rows))],
            "Halves of encoders and data": [half_table(rows)],
        }
    )


def details(rows: Sequence[Row]) -> str:
    """Every cell, what the score was chosen from, and every encoder."""
    halves = {
        half: {f"{half} encoders, {data} data": Cell(rows, half, data) for data in HALVES} for half in HALVES
    }
    sets = {name: Cell(rows, ALL, name) for name, _ in data_sets(rows)}
    return _text(
        {
            "Every half of encoders and data": [coefficient_table(cells) for cells in halves.values()],
            "The structure score's coefficient less another's": [
                difference_table(cells) for cells in halves.values()
            ],
            "Every data set": [coefficient_table(sets)],
            "Networks with a certain published score": [coefficient_table(certain_cells(rows))],
            "Networks trained on ImageNet": [coefficient_table(image_net_cells(rows))],
            "Twins and trivial encoders": [twin_table(rows)],
            "How it was chosen": choice_tables(rows),
            "Encoders": [encoder_table(rows)],
        }
    )
