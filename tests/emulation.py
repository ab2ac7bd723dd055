"""The CUDA C++ kernels on the CPU: compiled by the host compiler against cuda_emulator.hpp, launched by name."""

from __future__ import annotations

import ctypes
import os
import shlex
import shutil
import subprocess
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from synbench_fast.ops import dispatch, kernels

TESTS = Path(__file__).parent
FORWARDS, BACKWARDS = 0, 1  # orders of the threads; from 2 on the seed of random ones


class Emulator:
    """A launcher for `kernels.launch` whose tensors live on the CPU."""

    def __init__(self, library: Path) -> None:
        self._emulate = ctypes.CDLL(str(library)).emulate
        self._emulate.restype = ctypes.c_char_p
        self.order = FORWARDS
        self.launched: list[str] = []

    def __call__(
        self, name: str, grid: tuple[int, int, int], threads: int, device: int, stream: int, words: list[int]
    ) -> None:
        self.launched.append(name)
        failure = self._emulate(
            name.encode(),
            np.array(grid, dtype=np.uint32).ctypes.data_as(ctypes.c_void_p),
            threads,
            self.order,
            np.array(words, dtype=np.uint64).ctypes.data_as(ctypes.c_void_p),
            len(words),
        )
        if failure:
            raise RuntimeError(failure.decode())


@pytest.fixture(scope="session")
def emulator_library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    compiler = os.environ.get("CXX") or shutil.which("c++") or shutil.which("g++")
    if compiler is None:
        pytest.skip("needs a C++ compiler")
    library = tmp_path_factory.mktemp("emulator") / "emulator.so"
    subprocess.run(
        [
            compiler, "-std=c++20", "-O2", "-ffp-contract=off", "-U_FORTIFY_SOURCE", "-Wall", "-Wextra", "-Werror", "-Wno-unknown-pragmas", "-shared", "-fPIC",
            *shlex.split(os.environ.get("SYNBENCH_EMULATOR_FLAGS", "")),
            f"-I{TESTS.parent / 'csrc'}", f"-I{TESTS}", str(TESTS / "cuda_emulator.cpp"), "-o", str(library),
        ],
        check=True,
    )  # fmt: skip
    return library


@pytest.fixture
def emulator(emulator_library: Path, monkeypatch: pytest.MonkeyPatch) -> Emulator:
    """Backend "cuda" on CPU tensors, for the whole package."""
    one = Emulator(emulator_library)
    monkeypatch.setattr(kernels, "_launcher", lambda device: one)
    monkeypatch.setattr(kernels, "_stream", lambda device: 0)
    # What a kernel does not write shows as NaN.
    empty = torch.empty

    def poisoned(*args: object, **kwargs: object) -> torch.Tensor:
        out = empty(*args, **kwargs)  # type: ignore[call-overload]
        return out.fill_(float("nan")) if out.is_floating_point() else out.fill_(-(2**40))

    monkeypatch.setattr(torch, "empty", poisoned)
    for table in dispatch.OPERATIONS.values():
        if "cuda" in table:
            own = table["cuda"]
            monkeypatch.setitem(table, "cuda", replace(own, devices=("cpu",), requires=()))
    return one
