"""The C++ core under sanitizers: `make sanitize`.

address    AddressSanitizer and UndefinedBehaviorSanitizer: a driver (fuzz/core_fuzz.cpp) that allocates to the element,
           then the tests of the operations and of the bindings in a Python with the checked module.
kernels    UndefinedBehaviorSanitizer over the CUDA kernels, which the tests run on the CPU. Their threads are fibers that
           change stacks by swapcontext, which AddressSanitizer takes for overflows.
thread     ThreadSanitizer over the driver. It has no OpenMP runtime in it, so the threads are the core's own pool; one
           that the sanitizer was not built into, such as torch's, is seen as a race everywhere.

A finding ends the process that it is in, and this program with exit code 1.
"""

from __future__ import annotations

import argparse
import os
import platform
import shutil
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
OPERATIONS = (
    "ops/test_sample_mixture",
    "ops/test_filter_spectrum",
    "ops/test_feature_stats",
    "ops/test_robust_solve",
    "ops/test_score_sweep",
    "ops/test_score_auc",
    "ops/test_nuclear_norm",
    "ops/test_spectrum",
    "ops/test_parallel",
    "stats/test_smooth",
    "fuzz/test_fuzz_bindings",
    "ops/test_renderers",
)
KERNELS = ("ops/test_cuda_build", "ops/test_cuda_kernels", "ops/test_renderers_cuda")
INPUTS = {"address,undefined": 20_000, "thread": 4_000}
# What pytest runs in: the module that an editable install knows must not come before the checked one.
_PYTEST = """
import sys
sys.meta_path[:] = [one for one in sys.meta_path if "editable" not in type(one).__module__]
import synbench_fast._core
assert synbench_fast._core.__file__.startswith(sys.argv[1]), synbench_fast._core.__file__
import pytest
sys.exit(pytest.main(sys.argv[2:]))
"""


def run(*command: str | Path, quiet: bool = False, **more: str) -> None:
    environment = {**os.environ, **more}
    done = subprocess.run(
        [str(one) for one in command], cwd=ROOT, env=environment, check=False, capture_output=quiet, text=True
    )
    if done.returncode != 0:
        if quiet:
            sys.stderr.write(done.stdout[-4000:] + done.stderr[-4000:])
        sys.exit(f"sanitize: {Path(str(command[0])).name} ended with {done.returncode}")


def built(kind: str, targets: tuple[str, ...]) -> Path:
    """The build folder of one kind of sanitizer, up to date."""
    cmake = shutil.which(
        "cmake", path=os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    )
    if cmake is None:
        sys.exit("sanitize: expected cmake, got none; pip install cmake")
    folder = ROOT / "build" / f"sanitize-{kind.replace(',', '-')}"
    import pybind11

    run(
        cmake, "-S", ROOT, "-B", folder, "-DSYNBENCH_CUDA=OFF", f"-DSYNBENCH_SANITIZE={kind}",
        f"-Dpybind11_DIR={pybind11.get_cmake_dir()}", f"-DPython_EXECUTABLE={sys.executable}", quiet=True,
    )  # fmt: skip
    jobs = str(len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1)
    run(cmake, "--build", folder, "--parallel", jobs, "--target", *targets, quiet=True)
    return folder


def runtime(*names: str) -> str:
    """The sanitizer's libraries, which must be in the process before Python allocates anything."""
    compiler = os.environ.get("CXX") or shutil.which("g++") or "c++"
    found = [
        subprocess.run([compiler, f"-print-file-name={name}"], capture_output=True, text=True, check=True)
        for name in names
    ]
    return " ".join(one.stdout.strip() for one in found)


def driver(folder: Path, kind: str) -> None:
    command: list[str | Path] = [folder / "core_fuzz", str(INPUTS[kind])]
    if kind == "thread" and (setarch := shutil.which("setarch")):
        command = [setarch, platform.machine(), "-R", *command]  # its shadow memory needs known addresses
    run(
        *command,
        ASAN_OPTIONS="detect_leaks=1",
        TSAN_OPTIONS="halt_on_error=1",
        UBSAN_OPTIONS="print_stacktrace=1",
    )


def tests(folder: Path, names: tuple[str, ...]) -> None:
    package = folder / "python"
    shutil.rmtree(package, ignore_errors=True)
    ignored = shutil.ignore_patterns("*.so", "__pycache__")
    shutil.copytree(ROOT / "synbench_fast", package / "synbench_fast", ignore=ignored)
    for module in folder.glob("_core*.so"):
        shutil.copy(module, package / "synbench_fast")
    run(
        sys.executable, "-P", "-c", _PYTEST, package, "-q", "-x", "-p", "no:cacheprovider", "-m", "not slow and not gpu",
        *(ROOT / "tests" / f"{name}.py" for name in names),
        PYTHONPATH=str(package),
        # Python and torch keep memory until they end; libstdc++ must be there for the runtime to see its exceptions.
        LD_PRELOAD=runtime("libasan.so", "libstdc++.so"),
        ASAN_OPTIONS="detect_leaks=0:detect_odr_violation=0",
        UBSAN_OPTIONS="print_stacktrace=1",
        OMP_NUM_THREADS="2",
    )  # fmt: skip


def kernels() -> None:
    run(
        sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", "-m", "not slow and not gpu",
        *(ROOT / "tests" / f"{name}.py" for name in KERNELS),
        LD_PRELOAD=runtime("libubsan.so"),
        UBSAN_OPTIONS="print_stacktrace=1",
        SYNBENCH_EMULATOR_FLAGS="-fsanitize=undefined -fno-sanitize-recover=all",
    )  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("only", nargs="*", choices=["address", "kernels", "thread", []], help="default: all")
    only = parser.parse_args().only or ["address", "kernels", "thread"]
    for part in only:
        begun = time.monotonic()
        if part == "address":
            folder = built("address,undefined", ("_core", "core_fuzz"))
            driver(folder, "address,undefined")
            tests(folder, OPERATIONS)
        elif part == "kernels":
            kernels()
        else:
            driver(built("thread", ("core_fuzz",)), "thread")
        print(f"sanitize: {part} clean, {time.monotonic() - begun:.0f} s", flush=True)


if __name__ == "__main__":
    main()
