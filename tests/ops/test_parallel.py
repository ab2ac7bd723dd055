"""The threads of the compiled core: with and without an OpenMP runtime, after fork, and from several threads."""

from __future__ import annotations

import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from checks import PATIENCE

from synbench_fast.ops.sample_mixture import sample_mixture

SAMPLE = """
import hashlib
import numpy as np
from synbench_fast import _core

def digest(threads):
    x, y = np.full((40, 5000), np.nan, np.float32), (np.arange(40) % 2).astype(np.uint8)
    _core.sample_mixture(
        x, y, type="float32", start=0, seed=1, stream=2, channels=1, pixels=5000, center=0.5, scale=1.0, threads=threads
    )
    return hashlib.sha256(x.tobytes()).hexdigest()
"""


def run(program: str) -> str:
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=PATIENCE, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_without_openmp_the_core_brings_its_own_threads() -> None:
    program = SAMPLE + (
        "import sys\n"
        "print(len({digest(t) for t in (1, 2, 3, 16, 2, 1)}), 'torch' in sys.modules)\n"
        "print(sum('libgomp' in line for line in open('/proc/self/maps')) if sys.platform == 'linux' else 0)"
    )
    assert run(program).split() == ["1", "False", "0"]


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.parametrize("first", ["", "import torch; torch.ones(999, 999) @ torch.ones(999, 999)\n"])
def test_a_forked_child_does_not_wait_for_its_parents_threads(first: str) -> None:
    program = (
        "import os, warnings\n" + first + SAMPLE + "warnings.simplefilter('ignore')\n"
        "before = digest(4)\n"
        "child = os.fork()\n"
        "if child == 0:\n"
        "    os._exit(0 if digest(4) == before else 1)\n"
        "print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), digest(4) == before)"
    )
    assert run(program).split() == ["0", "True"]


@pytest.mark.parametrize("first", ["", "import torch\n"])
@pytest.mark.parametrize("threads", [1, 4])
def test_the_process_ends_while_a_daemon_thread_computes(first: str, threads: int) -> None:
    """The thread waits for Python's lock when the interpreter has gone, which must not end as an abort."""
    program = (
        first
        + SAMPLE
        + (
            "import threading\n"
            "begun = threading.Event()\n"
            "def work():\n"
            "    while True:\n"
            f"        digest({threads})\n"
            "        begun.set()\n"
            "threading.Thread(target=work, daemon=True).start()\n"
            "begun.wait()\n"
            "print('done')"
        )
    )
    for _ in range(3):
        assert run(program) == "done"


def test_callers_in_several_threads_get_the_same_samples() -> None:
    def sample(index: int) -> torch.Tensor:
        return sample_mixture((3, 40, 41), 0, 30, scale=1.0, seed=index % 3, stream=0, threads=1 + index % 4)[
            0
        ]

    expected = [sample(index) for index in range(3)]
    with ThreadPoolExecutor(6) as pool:
        for index, actual in enumerate(pool.map(sample, range(60))):
            assert torch.equal(actual, expected[index % 3])
