"""Compare the result of every case with a baseline, then time both in turn and compare the ratio with a target.

    python benchmarks/run.py [--case PART] [--repeat N] [--out FILE.jsonl] [--list] [--format table|json]

Exit code 0 if every result was right and every target met, 1 otherwise, 2 for a usage error.
"""

from __future__ import annotations

import argparse
import dataclasses
import datetime
import json
import shlex
import sys
from pathlib import Path
from typing import NoReturn

sys.path.insert(0, str(Path(__file__).resolve().parent))

from harness import Row, measure

MIB = 1 << 20


class Parser(argparse.ArgumentParser):
    """A usage error is one line, as everywhere in this package."""

    def error(self, message: str) -> NoReturn:
        print(f"error: {message}", file=sys.stderr)
        sys.exit(2)


def main(argv: list[str] | None = None) -> int:
    parser = Parser(prog="synbench-fast bench", description=__doc__.split("\n")[0])
    parser.add_argument("--case", default="", help="Run only cases whose name contains this.")
    parser.add_argument("--repeat", type=int, help="Time this number of pairs per case.")
    parser.add_argument(
        "--out", type=Path, help="Append one JSON line per case, with the machine and versions."
    )
    parser.add_argument("--format", choices=("table", "json"), default="table")
    parser.add_argument("--list", action="store_true", help="List the names of the cases.")
    options = parser.parse_args(argv)
    if options.repeat is not None and options.repeat < 1:
        parser.error(f"--repeat: expected at least 1, got {options.repeat}")

    # Behind the usage errors and --help, which need not wait for torch.
    import cases
    import cases_cuda
    import torch

    from synbench_fast import __version__
    from synbench_fast.engine import environment

    provenance = {
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "version": __version__,
        "threads": torch.get_num_threads(),
        "environment": dataclasses.asdict(environment.describe()),
        "command": command(options),
    }
    good, matched = True, False

    def keep(document: dict[str, object]) -> None:
        """Written at once: what is stopped later loses nothing."""
        if options.out is not None:
            with options.out.open("a", encoding="utf-8") as stream:
                stream.write(json.dumps({**document, **provenance}) + "\n")

    for name, build in {**cases.cases(), **cases_cuda.cases()}.items():
        if options.case not in name:
            continue
        if options.list:
            print(name)
            continue
        row = measure(dataclasses.replace(build(), name=name), options.repeat)
        good &= row.met is not False
        matched = True
        keep(row.document())
        show(row.document(), line(row), options.format)
    if options.case in "memory":
        if options.list:
            print("memory")
            return 0
        for what, growth, allowed in cases.memory():
            met = growth <= allowed
            good &= met
            matched = True
            document = {
                "case": f"memory[{what}]",
                "growth_bytes": growth,
                "allowed_bytes": allowed,
                "met": met,
            }
            keep(document)
            text = f"| {growth / MIB:.0f} MiB more | at most {allowed / MIB:.0f} MiB | {verdict(met)} |  |  |"
            show(document, f"| memory[{what}] {text}", options.format)
    if options.list:
        return 0
    if not matched:
        parser.error(f"--case: expected part of a case's name, got {options.case!r}; see --list")
    return 0 if good else 1


def command(options: argparse.Namespace) -> str:
    """The line that repeats the measurement; where its rows went is no part of it."""
    words = ["synbench-fast", "bench"]
    if options.case:
        words += ["--case", options.case]
    if options.repeat is not None:
        words += ["--repeat", str(options.repeat)]
    return shlex.join(words)


_header_shown = False


def show(document: dict[str, object], text: str, kind: str) -> None:
    global _header_shown
    if kind == "json":
        print(json.dumps(document), flush=True)
        return
    if not _header_shown:
        print("| case | ratio | target | met | ours | baseline |")
        print("| --- | --- | --- | --- | --- | --- |")
        _header_shown = True
    print(text, flush=True)


def line(row: Row) -> str:
    if row.ratio is None:
        wrong = f"wrong: error {row.parity_error:.2g} above {row.parity_tolerance:.2g}, not timed"
        return f"| {row.case} | {wrong} |  | no |  |  |"
    sign = ">=" if row.kind == "at_least" else "<="
    target = "" if row.target is None else f"{sign} {row.target:g}"
    each = f" ({seconds(1e-9 * (row.ours_per_unit_ns or 0))}/{row.unit})" if row.unit != "scale" else ""
    return (
        f"| {row.case} | {row.ratio:.2f} | {target} | {verdict(row.met)} | {seconds(row.ours_seconds or 0)}{each} "
        f"| {seconds(row.baseline_seconds or 0)}, {row.baseline} |"
    )


def verdict(met: bool | None) -> str:
    return "" if met is None else "yes" if met else "no"


def seconds(value: float) -> str:
    for factor, unit in ((1, "s"), (1e3, "ms"), (1e6, "us")):
        if factor * value >= 1:
            return f"{factor * value:.3g} {unit}"
    return f"{1e9 * value:.3g} ns"


if __name__ == "__main__":
    sys.exit(main())
