"""python -m zoo --cache FOLDER: fetch everything that is missing, measure it, print the table."""

from __future__ import annotations

import argparse
from pathlib import Path

import torch

from zoo import SIZE, data, encoders
from zoo.measure import measure, rows, table


def main() -> None:
    parser = argparse.ArgumentParser(prog="zoo", description=__doc__)
    parser.add_argument("--cache", type=Path, required=True, help="folder for files, features and accuracies")
    parser.add_argument("--size", type=int, default=SIZE, help="height and width of the images")
    parser.add_argument("--only", nargs="*", help="names of encoders")
    given = parser.parse_args()
    torch.set_num_threads(1)
    chosen = [one for one in encoders(given.cache) if not given.only or one.name in given.only]
    measure(chosen, data(given.cache, given.size), given.cache, given.size)
    print(table(rows(given.cache, given.size)))


if __name__ == "__main__":
    main()
