"""Everything that needs an NVIDIA GPU, in one command: build, GPU tests, GPU benchmarks, one JSONL of rows.

    python benchmarks/device.py [--plan | --build] [--out FILE.jsonl] [--seconds 560] [--continue]

It builds from this checkout with the packages that are installed (no network), into build/device. --build does only that,
on a machine that needs no GPU: a folder that is copied to the device with the checkout is not built again, as long as
sources and interpreter are the same. Parts run in the order of --plan, the most valuable first. Rows are written as they
are measured; what no longer fits into the time is left out and named, and --continue measures what the file has no row
of. Exit code 0 if the tests passed and every target was met, 1 otherwise, 2 without a GPU.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import re
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
BUILT = ROOT / "build" / "device"
SOURCES = ("csrc", "src", "synbench_fast", "CMakeLists.txt", "pyproject.toml")
TESTS_SHARE = 0.45  # of the time that is left after the build
TESTS = "cuda/tests"

# Parts of the names of cases, each group one process, and the seconds that it is expected to take: predicted for an H200,
# 10 s of them for torch and the device to start.
PLAN = {
    TESTS: 150,
    "cuda/images": 25,
    "cuda/sample_mixture": 25,
    "cuda/after_features": 25,
    "cuda/robust_solve": 20,
    "cuda/structure": 30,
    "cuda/seconds": 70,
    "cuda/whole_run": 120,
    "cuda/classes": 15,
    "cuda/feature_stats": 12,
    "cuda/of_peak": 40,
}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--out", type=Path, help="default: benchmarks/results/<name of the GPU>.jsonl")
    parser.add_argument("--seconds", type=float, default=560.0, help="for everything together")
    parser.add_argument("--plan", action="store_true", help="print the parts and their expected seconds")
    parser.add_argument("--build", action="store_true", help="build and nothing else")
    parser.add_argument("--continue", action="store_true", dest="further", help="leave out what has a row")
    options = parser.parse_args()
    end = time.monotonic() + options.seconds
    if options.plan:
        print("\n".join(plan()))
        return 0
    if options.build:
        return build(end)

    import torch

    if not torch.cuda.is_available():
        print("error: device: expected an NVIDIA GPU, torch finds none", file=sys.stderr)
        return 2
    name = re.sub(r"[^a-z0-9]+", "-", torch.cuda.get_device_name(0).lower()).strip("-")
    out = (options.out or ROOT / "benchmarks" / "results" / f"{name}.jsonl").resolve()
    measured = rows_of(out) if options.further else {}
    if build(end) != 0:
        return 1
    environment = {**os.environ, "PYTHONPATH": str(BUILT)}
    good = all(measured.values())
    if TESTS not in measured:
        good &= tests(name, out, end, environment)
    script = str(ROOT / "benchmarks" / "run.py")
    listed = subprocess.run(
        [sys.executable, script, "--case", "cuda/", "--list"],
        env=environment, capture_output=True, text=True, check=True,
    )  # fmt: skip
    for part in left(listed.stdout.splitlines(), set(measured)):
        good &= run(part, [sys.executable, script, "--case", part, "--out", str(out)], end, environment) == 0
    print(f"rows are in {out}")
    return 0 if good else 1


def plan() -> list[str]:
    """One line per part."""
    return [
        *(f"{seconds:5d} s  {part}" for part, seconds in PLAN.items()),
        f"{sum(PLAN.values()):5d} s  in all, as predicted for an H200, and a build of about 60 s where none was carried",
    ]


def left(cases: list[str], measured: set[str]) -> list[str]:
    """What to run of all `cases`, in the order of the plan: whole groups, or the cases that are missing of one."""
    found = []
    for part in PLAN:
        own = [one for one in cases if part in one]
        missing = [one for one in own if one not in measured]
        found += [part] if missing and missing == own else missing
    return found


def rows_of(out: Path) -> dict[str, bool]:
    """The cases that the file has a row of, and whether what was asked of them was met, in their last row."""
    lines = out.read_text(encoding="utf-8").splitlines() if out.exists() else []
    rows = [json.loads(line) for line in lines]
    return {row["case"]: row["met"] is not False for row in rows}


def build(end: float) -> int:
    """Exit code of a build into BUILT, beside the interpreter's own packages; 0 at once if it is there already."""
    stamp, wanted = BUILT / "sources", fingerprint()
    if stamp.exists() and stamp.read_text(encoding="utf-8") == wanted:
        print("== build: carried", flush=True)
        return 0
    stamp.unlink(missing_ok=True)
    pip = ["-m", "pip", "install", "--quiet", "--no-build-isolation", "--no-deps", "--upgrade"]
    # Such a machine need have neither git nor setuptools-scm.
    settings = {**os.environ, "SYNBENCH_FALLBACK_VERSION": "1"}
    code = run("build", [sys.executable, *pip, "--target", str(BUILT), str(ROOT)], end, settings)
    if code == 0:
        stamp.write_text(wanted, encoding="utf-8")
    return code


def fingerprint() -> str:
    """Of the interpreter and of all that is built."""
    found = hashlib.sha256(sys.version.encode())
    for source in SOURCES:
        place = ROOT / source
        files = [place] if place.is_file() else sorted(one for one in place.rglob("*") if one.is_file())
        for one in files:
            if one.suffix not in (".pyc", ".so"):
                found.update(str(one.relative_to(ROOT)).encode() + b"\0" + one.read_bytes())
    return found.hexdigest()


def tests(gpu: str, out: Path, end: float, environment: dict[str, str]) -> bool:
    """Whether the tests that need a GPU pass, which is a row too."""
    begun = time.monotonic()
    code = run(
        "GPU tests",
        [sys.executable, "-m", "pytest", "-m", "gpu", "-p", "no:cacheprovider", *gpu_tests()],
        begun + TESTS_SHARE * (end - begun),
        environment,
    )
    with out.open("a", encoding="utf-8") as stream:
        row = {"case": TESTS, "met": code == 0, "seconds": time.monotonic() - begun, "gpu": gpu}
        stream.write(json.dumps(row) + "\n")
    return code == 0


def gpu_tests() -> list[str]:
    """Files with tests that need a GPU: what the others import need not be there."""
    files = sorted((ROOT / "tests").rglob("test_*.py"))
    return [str(one) for one in files if "pytest.mark.gpu" in one.read_text(encoding="utf-8")]


def run(what: str, command: list[str], end: float, environment: dict[str, str] | None = None) -> int:
    """Exit code of a command that has until `end`; 124 if that was too short."""
    left = end - time.monotonic()
    if left <= 1:
        print(f"== {what}: no time left", flush=True)
        return 124
    print(f"== {what}", flush=True)
    begun = time.monotonic()
    try:
        code = subprocess.run(
            command, env=environment, cwd=ROOT / "tests", timeout=left, check=False
        ).returncode
    except subprocess.TimeoutExpired:
        code = 124
    print(f"== {what}: exit code {code} after {time.monotonic() - begun:.0f} s", flush=True)
    return code


if __name__ == "__main__":
    sys.exit(main())
