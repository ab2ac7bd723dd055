"""python -m zoo --cache FOLDER: fetch everything that is missing, measure it, print the tables.

specs       how `synbench-fast run` names the encoders, a line each; fetches and measures nothing, see factories.py
accuracies  linear probes of every encoder on every data set
validity    that, then scores of every encoder, and whether they go with the accuracies; --rows FILE prints the tables
            of stored rows and measures nothing
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch

from zoo import SIZE, data, encoders, scores, validity
from zoo.factories import cache_folder, spec
from zoo.figure import draw
from zoo.measure import measure, rows, table


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="zoo", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("what", nargs="?", choices=("specs", "accuracies", "validity"), default="accuracies")
    parser.add_argument("--cache", type=Path, help="folder for files, features and what was measured")
    parser.add_argument("--size", type=int, default=SIZE, help="height and width of the images")
    parser.add_argument("--only", nargs="*", help="names of encoders")
    parser.add_argument("--choose", action="store_true", help="validity: also measure what was chosen from")
    parser.add_argument(
        "--rows", type=Path, help="validity: one row per encoder; written with --cache, else read"
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
    if given.cache is None and not (given.what == "validity" and given.rows):
        parser.error("--cache is required, but for specs and for validity with --rows")
    torch.set_num_threads(1)
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
