"""Every fuzzer for a fixed time: `make fuzz`.

readers    readers_fuzz.py by atheris, from the valid inputs of `readers.seeds`
core       core_fuzz.cpp by libFuzzer with AddressSanitizer and UndefinedBehaviorSanitizer; without clang++ the same
           inputs at random, built by g++

What is found lies in build/fuzz/found and is one input each: `readers_fuzz.py --run FILE`, or an argument of the core's
program. The corpus in build/fuzz is kept and grows from run to run.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent.parent


def run(*command: str | Path) -> int:
    print("+", " ".join(str(one) for one in command), flush=True)
    return subprocess.run([str(one) for one in command], cwd=ROOT, check=False).returncode


def core(folder: Path) -> tuple[Path, bool]:
    """The program, and whether libFuzzer is in it."""
    clang = shutil.which("clang++")
    compiler = clang or os.environ.get("CXX") or "g++"
    program = folder / "core_fuzz"
    sources = [*sorted((ROOT / "csrc").rglob("*.cpp")), HERE / "core_fuzz.cpp"]
    kind = "-fsanitize=fuzzer,address,undefined" if clang else "-fsanitize=address,undefined"
    own = [] if clang else ["-DSYNBENCH_DRIVER"]
    code = run(
        compiler, "-std=c++20", "-O1", "-g", "-Wno-psabi", kind, "-fno-sanitize-recover=all", *own, f"-I{ROOT / 'csrc'}",
        *sources, "-o", program, "-pthread", "-ldl",
    )  # fmt: skip
    if code:
        sys.exit(f"fuzz: {compiler} ended with {code}")
    return program, clang is not None


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=int, default=60, help="of each fuzzer")
    seconds = parser.parse_args().seconds
    folder = ROOT / "build" / "fuzz"
    found, readers, inputs = (folder / name for name in ("found", "readers", "core"))
    for one in (found, readers, inputs):
        one.mkdir(parents=True, exist_ok=True)
    options = [
        f"-max_total_time={seconds}",
        f"-artifact_prefix={found}/",
        "-rss_limit_mb=4096",
        "-print_final_stats=1",
    ]
    script = HERE / "readers_fuzz.py"
    codes = {"readers": run(sys.executable, script, "--seeds", readers)}
    codes["readers"] |= run(sys.executable, script, readers, "-len_control=0", *options)
    program, guided = core(folder)
    if guided:
        codes["core"] = run(program, inputs, "-max_len=1200", "-len_control=0", *options)
    else:
        print("fuzz: no clang++, so the core's inputs are random ones", flush=True)
        codes["core"] = run(program, str(1000 * seconds))
    failed = [name for name, code in codes.items() if code]
    if failed:
        sys.exit(f"fuzz: {', '.join(failed)}: see {found}")


if __name__ == "__main__":
    main()
