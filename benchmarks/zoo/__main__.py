"""python -m zoo --cache FOLDER: fetch everything that is missing, measure it, print the tables.

specs       how `synbench-fast run` names the encoders, a line each; fetches and measures nothing, see factories.py
accuracies  linear probes of every encoder on every data set
validity    that, then scores of every encoder, and whether they go with the accuracies; --rows FILE prints the tables
            of stored rows and measures nothing
robustness  how small a change of an image turns the answers of a probe, on labelled images and on drawn classes; --radii
            FILE has one row per network, as --rows has for validity, whose rows the tables need too
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch

from zoo import SIZE, data, encoders, robustness, scores, validity
from zoo.factories import cache_folder, spec
from zoo.figure import draw
from zoo.measure import measure, rows, table


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="zoo", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "what", nargs="?", choices=("specs", "accuracies", "validity", "robustness"), default="accuracies"
    )
    parser.add_argument("--cache", type=Path, help="folder for files, features and what was measured")
    parser.add_argument("--size", type=int, default=SIZE, help="height and width of the images")
    parser.add_argument("--only", nargs="*", help="names of encoders")
    parser.add_argument("--choose", action="store_true", help="validity: also measure what was chosen from")
    parser.add_argument(
        "--rows", type=Path, help="validity: one row per encoder; written with --cache, else read"
    )
    parser.add_argument(
        "--radii", type=Path, help="robustness: one row per network; written with --cache, else read"
    )
    parser.add_argument(
        "--details", action="store_true", help="validity: also print every cell, the choice and every encoder"
    )
    parser.add_argument(
        "--figure", type=Path, help="validity: draw score against accuracy into this SVG file"
    )
    return parser


def main() -> None:
    parser = _parser()
    given = parser.parse_args()
    if given.what == "specs":
        wanted = [one.name for one in encoders(cache_folder()) if not given.only or one.name in given.only]
        print("\n".join(map(spec, wanted)))
        return
    stored = given.rows if given.what == "validity" else given.radii if given.what == "robustness" else None
    if given.cache is None and not stored:
        parser.error("--cache is required, but for specs, validity with --rows and robustness with --radii")
    if given.what == "robustness" and not given.rows:
        parser.error("robustness: --rows is required, the rows of validity")
    torch.set_num_threads(1)
    if given.what == "robustness":
        if given.cache is not None:
            chosen = [
                one for one in encoders(given.cache, ("network",)) if not given.only or one.name in given.only
            ]
            robustness.measure(chosen, data(given.cache, given.size), given.cache, given.size)
        found = (
            robustness.load(given.radii) if given.cache is None else robustness.rows(given.cache, given.size)
        )
        if given.radii and given.cache is not None:
            validity.save(found, given.radii)
        print(robustness.report(robustness.joined(found, validity.load(given.rows))))
        return
    if given.cache is not None:
        chosen = [one for one in encoders(given.cache) if not given.only or one.name in given.only]
        measure(chosen, data(given.cache, given.size), given.cache, given.size)
    if given.what == "accuracies":
        print(table(rows(given.cache, given.size)))
        return
    if given.cache is None:
        found = validity.load(given.rows)
    else:
        for step in ("structure", "published", *(["choice"] if given.choose else [])):
            scores.measure(chosen, given.cache, step, given.size)
        found = validity.joined(given.cache, given.size)
        if given.rows:
            validity.save(found, given.rows)
    print(validity.report(found))
    if given.details:
        print("\n" + validity.details(found))
    if given.figure:
        draw(found, given.figure)


if __name__ == "__main__":
    main()
