"""Compare the speed of two commits, case by case in turns, and fail if one got slower for certain.

    python benchmarks/gate.py [--case PART]... [--margin 1.05] [--alpha 0.05] [--out FILE.jsonl] BASE HEAD

Both are built below build/gate and run side by side with the packages of this interpreter. A case counts if both have
it with the same sizes. Parity comes first, nothing is timed for a wrong result. Exit code 0 if no case is slower than
margin x BASE with the given certainty, 1 if one is or a result is wrong, 2 for a usage error.
"""

from __future__ import annotations

import argparse
import dataclasses
import io
import json
import os
import random
import shutil
import subprocess
import sys
import tarfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, NoReturn

sys.path.insert(0, str(Path(__file__).resolve().parent))

from gate_statistics import ORDERS, Verdict, judge, log_ratio, needed_blocks

ROOT = Path(__file__).resolve().parent.parent
PLACE = ROOT / "build" / "gate"
LEAST_SECONDS = (
    0.05  # of one timing: shorter runs are repeated, so that the clock and the scheduler count for little
)
# Those whose time is the core's and that take seconds; the others are whole runs, fleets, and comparisons of libraries.
DEFAULT_CASES = (
    "sample_mixture",
    "post_features",
    "robust_solve",
    "score_sweep",
    "score_auc",
    "compare_stored",
)


class Parser(argparse.ArgumentParser):
    """A usage error is one line, as everywhere in this package."""

    def error(self, message: str) -> NoReturn:
        print(f"error: {message}", file=sys.stderr)
        sys.exit(2)


class Worker:
    """One process with one commit's package and cases; it answers a line of JSON with a line of JSON."""

    def __init__(self, tree: Path) -> None:
        self._process = subprocess.Popen(
            [sys.executable, str(Path(__file__).with_name("gate_worker.py")), str(tree)],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        )  # fmt: skip

    def ask(self, what: str, **details: Any) -> Any:
        assert self._process.stdin is not None and self._process.stdout is not None
        try:
            self._process.stdin.write(json.dumps({"what": what, **details}) + "\n")
            self._process.stdin.flush()
        except BrokenPipeError:
            pass  # its end is told below
        answer = self._process.stdout.readline()
        if not answer:
            raise RuntimeError(f"the worker ended with exit code {self._process.wait()}")
        return json.loads(answer)

    def close(self) -> None:
        assert self._process.stdin is not None and self._process.stdout is not None
        self._process.stdin.close()
        self._process.stdout.close()
        self._process.wait()


@contextmanager
def workers(trees: dict[str, Path]) -> Iterator[dict[str, Worker]]:
    with ExitStack() as stack:
        both = {}
        for arm, tree in trees.items():
            both[arm] = Worker(tree)
            stack.callback(both[arm].close)
        yield both


def main(argv: list[str] | None = None) -> int:
    parser = Parser(prog="gate.py", description=__doc__.split("\n")[0])
    parser.add_argument("base")
    parser.add_argument("head")
    parser.add_argument(
        "--case", action="append", help="cases whose name contains this, may be given repeatedly"
    )
    parser.add_argument("--margin", type=float, default=1.05, help="the ratio of times that is still allowed")
    parser.add_argument("--alpha", type=float, default=0.05, help="chance of a false alarm in any case")
    parser.add_argument("--rounds", type=int, default=3, help="pairs of fresh processes")
    parser.add_argument("--blocks", type=int, default=8, help="blocks of four timings per round")
    parser.add_argument("--out", type=Path, help="append one JSON line per case")
    options = parser.parse_args(argv)
    if not options.margin >= 1:
        parser.error(f"--margin: expected at least 1, got {options.margin}")
    if not 0 < options.alpha < 1:
        parser.error(f"--alpha: expected between 0 and 1, got {options.alpha}")
    commits = {}
    for arm, name in (("A", options.base), ("B", options.head)):
        commits[arm] = resolve(name) or parser.error(f"commit: expected one of this repository, got {name!r}")
    trees = {arm: build(commit) for arm, commit in commits.items()}

    wanted = options.case or list(DEFAULT_CASES)
    with workers(trees) as both:
        listed = {arm: worker.ask("list") for arm, worker in both.items()}
    names = [one for one in listed["B"] if one in listed["A"] and any(part in one for part in wanted)]
    if not names:
        parser.error(f"--case: expected part of the name of a case that both have, got {', '.join(wanted)}")
    least = needed_blocks(options.alpha, len(names))
    if options.rounds < 1 or options.rounds * options.blocks < least:
        parser.error(
            f"--blocks: expected {least} or more in all for {len(names)} cases, got {options.rounds * options.blocks}"
        )

    measured, good = measure(names, trees, options.rounds, options.blocks)
    verdicts = judge(measured, margin=options.margin, alpha=options.alpha) if measured else []
    show(verdicts, options.margin, options.alpha)
    if options.out is not None:
        with options.out.open("a", encoding="utf-8") as stream:
            for one in verdicts:
                row = {**dataclasses.asdict(one), "log_ratios": measured[one.case], "base": commits["A"]}
                stream.write(json.dumps({**row, "head": commits["B"], "margin": options.margin}) + "\n")
    return 0 if good and not any(one.regressed for one in verdicts) else 1


def resolve(name: str) -> str | None:
    done = subprocess.run(
        ["git", "rev-parse", "--verify", "--quiet", f"{name}^{{commit}}"],
        cwd=ROOT, capture_output=True, text=True, check=False,
    )  # fmt: skip
    return done.stdout.strip() or None


def build(commit: str) -> Path:
    """The commit's tree with its core built in place, kept for the next time."""
    tree = PLACE / commit
    if (tree / ".built").exists():
        return tree
    print(f"building {commit[:9]}", file=sys.stderr, flush=True)
    shutil.rmtree(tree, ignore_errors=True)
    tree.mkdir(parents=True)
    packed = subprocess.run(["git", "archive", commit], cwd=ROOT, capture_output=True, check=True).stdout
    with tarfile.open(fileobj=io.BytesIO(packed)) as archive:
        archive.extractall(tree, filter="data")
    # Beside the interpreter first: that is where an extra puts them, on the PATH or not.
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])
    found = subprocess.run(
        [sys.executable, "-m", "pybind11", "--cmakedir"], capture_output=True, text=True, check=True
    )
    configure = [
        "cmake", "-S", ".", "-B", "build", "-DCMAKE_BUILD_TYPE=Release", "-DSYNBENCH_CUDA=OFF",
        f"-DPython_EXECUTABLE={sys.executable}", f"-Dpybind11_DIR={found.stdout.strip()}",
    ]  # fmt: skip
    for command in (configure, ["cmake", "--build", "build", "--parallel", "--target", "_core"]):
        done = subprocess.run(
            command, cwd=tree, env={**os.environ, "PATH": path}, capture_output=True, text=True, check=False
        )
        if done.returncode:
            print(f"{done.stdout}{done.stderr}", file=sys.stderr)
            sys.exit(f"error: {commit[:9]}: expected a tree that builds, got exit code {done.returncode}")
    for module in (tree / "build").glob("_core.*so"):
        shutil.copy(module, tree / "synbench_fast")
    (tree / ".built").touch()
    return tree


def measure(
    names: list[str], trees: dict[str, Path], rounds: int, blocks: int
) -> tuple[dict[str, list[float]], bool]:
    """Log ratios of every case that both commits get right, and whether they got all of them right.

    Every round has fresh processes, because where a process puts its code and data moves its times, too.
    """
    measured: dict[str, list[float]] = {}
    left, good = list(names), True
    for number in range(rounds):
        with workers(trees) as both:
            for name in list(left):
                told = {arm: worker.ask("prepare", case=name) for arm, worker in both.items()}
                sizes = {arm: (one["unit"], one["work"], one["note"]) for arm, one in told.items()}
                wrong = [arm for arm, one in told.items() if not one["error"] <= one["tolerance"]]
                if sizes["A"] != sizes["B"]:
                    say(f"{name}: left out, its sizes changed")
                elif wrong:
                    good = False
                    say(
                        f"{name}: wrong in {' and '.join('base' if arm == 'A' else 'head' for arm in wrong)}, not timed"
                    )
                else:
                    runs = max(
                        1, round(LEAST_SECONDS / max(1e-9, min(one["seconds"] for one in told.values())))
                    )
                    measured.setdefault(name, []).extend(timed(both, runs, blocks, f"{name} {number}"))
                    continue
                left.remove(name)
                measured.pop(name, None)
    return measured, good


def timed(both: dict[str, Worker], runs: int, blocks: int, seed: str) -> list[float]:
    draw = random.Random(seed)
    found = []
    for _ in range(blocks):
        order = draw.choice(ORDERS)
        found.append(log_ratio(order, [both[arm].ask("time", runs=runs)["seconds"] for arm in order]))
    return found


def show(verdicts: list[Verdict], margin: float, alpha: float) -> None:
    print(f"| case | head / base | {100 * (1 - alpha):g} % bounds for all cases | slower than {margin:g} |")
    print("| --- | --- | --- | --- |")
    for one in verdicts:
        print(
            f"| {one.case} | {one.ratio:.3f} | {one.low:.3f} to {one.high:.3f} | {'YES' if one.regressed else 'no'} |"
        )


def say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


if __name__ == "__main__":
    begun = time.monotonic()
    code = main()
    say(f"{time.monotonic() - begun:.0f} s")
    sys.exit(code)
