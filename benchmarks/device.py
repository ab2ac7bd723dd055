"""Everything that needs an NVIDIA GPU, in one command: build, GPU tests, GPU benchmarks, one JSONL of rows.

    python benchmarks/device.py [--out FILE.jsonl] [--seconds 480]

It builds from this checkout with the packages that are installed (no network), into a folder of its own. Rows are
written as they are measured; what no longer fits into the time is left out and named. Exit code 0 if the tests passed
and every target was met, 1 otherwise, 2 without a GPU.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
BUILT = ROOT / "build" / "device"
TESTS_SHARE = 0.45  # of the time that is left after the build


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--out", type=Path, help="default: benchmarks/results/<name of the GPU>.jsonl")
    parser.add_argument("--seconds", type=float, default=480.0, help="for everything together")
    options = parser.parse_args()
    end = time.monotonic() + options.seconds

    import torch

    if not torch.cuda.is_available():
        print("error: device: expected an NVIDIA GPU, torch finds none", file=sys.stderr)
        return 2
    name = re.sub(r"[^a-z0-9]+", "-", torch.cuda.get_device_name(0).lower()).strip("-")
    out = (options.out or ROOT / "benchmarks" / "results" / f"{name}.jsonl").resolve()

    # Installed beside the interpreter's own packages, not into them.
    pip = [
        sys.executable,
        "-m",
        "pip",
        "install",
        "--quiet",
        "--no-build-isolation",
        "--no-deps",
        "--upgrade",
    ]
    # Such a machine need have neither git nor setuptools-scm.
    settings = {**os.environ, "SYNBENCH_FALLBACK_VERSION": "1"}
    if run("build", [*pip, "--target", str(BUILT), str(ROOT)], end, settings) != 0:
        return 1
    environment = {**os.environ, "PYTHONPATH": str(BUILT)}
    begun = time.monotonic()
    tests = run(
        "GPU tests",
        [sys.executable, "-m", "pytest", "-m", "gpu", "-p", "no:cacheprovider", *gpu_tests()],
        begun + TESTS_SHARE * (end - begun),
        environment,
    )
    with out.open("a", encoding="utf-8") as stream:
        row = {"case": "cuda/tests", "met": tests == 0, "seconds": time.monotonic() - begun, "gpu": name}
        stream.write(json.dumps(row) + "\n")

    good = tests == 0
    script = str(ROOT / "benchmarks" / "run.py")
    listed = subprocess.run(
        [sys.executable, script, "--case", "cuda/", "--list"],
        env=environment, capture_output=True, text=True, check=True,
    )  # fmt: skip
    for case in listed.stdout.splitlines():
        good &= run(case, [sys.executable, script, "--case", case, "--out", str(out)], end, environment) == 0
    print(f"rows are in {out}")
    return 0 if good else 1


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
