"""Which lines of Python and of C++ the tests run, in two tables: python .ci/coverage.py PROCESSES [PYTEST ARGUMENTS]

The package is installed below build/coverage with a core that counts (SYNBENCH_COVERAGE), so that neither the
environment nor the checkout changes. Without arguments all tests run but those marked slow. Exit code: pytest's.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PLACE = ROOT / "build" / "coverage"
SITE, OBJECTS = PLACE / "site", PLACE / "objects"
# An editable installation would serve the uncounted core, whatever the path says.
CUSTOMIZE = 'import sys\nsys.meta_path[:] = [one for one in sys.meta_path if "ScikitBuild" not in type(one).__name__]\n'


def main(workers: str, arguments: list[str]) -> int:
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])
    environment = {**os.environ, "PATH": path}
    shutil.rmtree(SITE, ignore_errors=True)
    for counts in OBJECTS.rglob("*.gcda"):
        counts.unlink()
    subprocess.run(
        [
            sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-deps",
            "--target", str(SITE), "-C", f"build-dir={OBJECTS}", "-C", "cmake.define.SYNBENCH_COVERAGE=ON",
            "-C", "cmake.define.SYNBENCH_CUDA=OFF", "-C", "install.strip=false", str(ROOT),
        ],
        env=environment, check=True,
    )  # fmt: skip
    (SITE / "sitecustomize.py").write_text(CUSTOMIZE, encoding="utf-8")
    environment |= {
        "PYTHONPATH": str(SITE),
        "COVERAGE_FILE": str(PLACE / "python.coverage"),
        "OMP_NUM_THREADS": "1",
        "PYTHONSAFEPATH": "1",  # processes that tests start, in the checkout, are to find the counted package too
    }
    # -P: the checkout's own package, in the working directory, is not the one that counts.
    tests = subprocess.run(
        [
            sys.executable, "-P", "-m", "pytest", f"--cov={SITE / 'synbench_fast'}", "--cov-report=", "-n", workers, "--dist", "loadfile",
            *(arguments or ["-m", "not slow"]),
        ],
        cwd=ROOT, env=environment, check=False,
    )  # fmt: skip
    for command in (
        ["coverage", "report", "--skip-covered"],
        ["coverage", "html", "--quiet", "--directory", str(PLACE / "python")],
        [
            "gcovr", "--root", str(ROOT), "--filter", f"{ROOT}/csrc/", "--filter", f"{ROOT}/src/",
            "--gcov-ignore-parse-errors=negative_hits.warn_once_per_file", "--html-details",
            str(PLACE / "core.html"), "--txt", "-", str(OBJECTS),
        ],
    ):  # fmt: skip
        subprocess.run([sys.executable, "-m", *command], cwd=ROOT, env=environment, check=True)
    print(f"line by line: {PLACE}/python/index.html and {PLACE}/core.html")
    return tests.returncode


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], sys.argv[2:]))
