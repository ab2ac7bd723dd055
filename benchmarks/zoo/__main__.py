"""python -m zoo --cache FOLDER: fetch everything that is missing, measure it, print the tables.

specs       how `synbench-fast run` names the encoders, a line each; fetches and measures nothing, see factories.py
accuracies  linear probes of every encoder on every data set
validity    that, then scores of every encoder, and whether they go with the accuracies; --rows FILE prints the tables
            of stored rows and measures nothing; with --cache it keeps the rows of the file but for what was measured
robustness  how small a change of an image turns the answers of a probe, on labelled images and on drawn classes; --radii
            FILE has one row per network, as --rows has for validity, whose rows the tables need too
leaderboard every encoder of stored --rows, as the HTML file --page; measures nothing
unprobed    scores of encoders that no linear probe is compared with, audio ones among them; --rows as above
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import torch

from zoo import SIZE, data, encoders, leaderboard, robustness, scores, unprobed_encoders, validity
from zoo.factories import cache_folder, spec
from zoo.figure import draw
from zoo.measure import measure, rows, table


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="zoo", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "what",
        nargs="?",
        choices=("specs", "accuracies", "validity", "robustness", "leaderboard", "unprobed"),
        default="accuracies",
    )
    parser.add_argument("--cache", type=Path, help="folder for files, features and what was measured")
    parser.add_argument("--size", type=int, default=SIZE, help="height and width of the images")
    parser.add_argument("--only", nargs="*", help="names of encoders")
    parser.add_argument(
        "--steps",
        nargs="+",
        choices=("accuracies", "structure", "published", "choice"),
        default=("accuracies", "structure", "published"),
        help="validity: what to measure; choice is what the structure score was chosen from",
    )
    parser.add_argument(
        "--rows",
        type=Path,
        help="validity, leaderboard, unprobed: one row per encoder; updated with --cache",
    )
    parser.add_argument("--radii", type=Path, help="robustness: one row per network; updated with --cache")
    parser.add_argument("--page", type=Path, help="leaderboard: the HTML file to write")
    parser.add_argument(
        "--details", action="store_true", help="validity: also print every cell, the choice and every encoder"
    )
    parser.add_argument(
        "--figure", type=Path, help="validity: draw score against accuracy into this SVG file"
    )
    return parser


def _stored(file: Path | None, cache: Path | None) -> list[dict[str, Any]]:
    """The rows of a file; none where it is to be written and is not there yet."""
    return validity.load(file) if file and (cache is None or file.exists()) else []


def _unprobed(given: argparse.Namespace) -> None:
    found = _stored(given.rows, given.cache)
    if given.cache is not None:
        chosen = [one for one in unprobed_encoders(given.cache) if not given.only or one.name in given.only]
        scores.measure(chosen, given.cache, "families", given.size)
        found = validity.replaced(found, scores.rows(given.cache, "families", given.size))
        if given.rows:
            validity.save(found, given.rows)
    print(scores.family_table(found))


def main() -> None:
    parser = _parser()
    given = parser.parse_args()
    if given.what == "specs":
        wanted = [one.name for one in encoders(cache_folder()) if not given.only or one.name in given.only]
        print("\n".join(map(spec, wanted)))
        return
    if given.what == "leaderboard":
        if given.rows is None or given.page is None:
            parser.error("leaderboard: --rows and --page are required")
        given.page.write_text(leaderboard.page(validity.load(given.rows)), encoding="utf-8")
        return
    stored = (
        given.rows
        if given.what in ("validity", "unprobed")
        else given.radii
        if given.what == "robustness"
        else None
    )
    if given.cache is None and not stored:
        parser.error("--cache is required, but for specs, for --rows and for robustness with --radii")
    if given.what == "robustness" and not given.rows:
        parser.error("robustness: --rows is required, the rows of validity")
    torch.set_num_threads(1)
    if given.what == "unprobed":
        _unprobed(given)
        return
    if given.what == "robustness":
        if given.cache is not None:
            chosen = [
                one for one in encoders(given.cache, ("network",)) if not given.only or one.name in given.only
            ]
            robustness.measure(chosen, data(given.cache, given.size), given.cache, given.size)
        found = _stored(given.radii, given.cache)
        if given.cache is not None:
            found = validity.replaced(found, robustness.rows(given.cache, given.size))
            if given.radii:
                validity.save(found, given.radii)
        print(robustness.report(robustness.joined(found, validity.load(given.rows))))
        return
    if given.cache is not None:
        chosen = [one for one in encoders(given.cache) if not given.only or one.name in given.only]
        if given.what == "accuracies" or "accuracies" in given.steps:
            measure(chosen, data(given.cache, given.size), given.cache, given.size)
    if given.what == "accuracies":
        print(table(rows(given.cache, given.size)))
        return
    found = _stored(given.rows, given.cache)
    if given.cache is not None:
        for step in (one for one in scores.STEPS if one in given.steps):
            scores.measure(chosen, given.cache, step, given.size)
        found = validity.updated(found, given.cache, given.size)
        if given.rows:
            validity.save(found, given.rows)
    if not found:
        parser.error(
            "validity: no encoder has an accuracy on every data set; --steps accuracies measures them"
        )
    print(validity.report(found))
    if given.details:
        print("\n" + validity.details(found))
    if given.figure:
        draw(found, given.figure)


if __name__ == "__main__":
    main()
