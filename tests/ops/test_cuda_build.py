"""The two ways to build the CUDA C++ kernels, and what is said where neither works. No GPU is needed."""

from __future__ import annotations

import ctypes
import importlib.util
import re
import shutil
import subprocess
import sys
import types
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import torch
from checks import refused

from synbench_fast.ops import kernels

ROOT = Path(__file__).parents[2]
CAPABILITIES = (80, 90, 100)
GPU = torch.device("cuda", 0)


EXACT = [
    "render_fourier_kernel",
    "render_mix_kernel",
    "render_paint_kernel",
    "render_roll_kernel",
    "render_spectrum_kernel",
    "render_view_kernel",
]
NAMES = [
    *EXACT,
    "robust_solve_kernel",
    "robust_solve_weights_kernel",
    "score_auc_kernel",
    "score_sweep_float32_kernel",
    "score_sweep_float64_kernel",
    "score_sweep_total_kernel",
    "tridiagonalise_kernel",
]
UNITS = {"cuda_kernels.cu": [one for one in NAMES if one not in EXACT], "exact_kernels.cu": EXACT}


def nvrtc() -> ctypes.CDLL:
    """The run-time compiler that torch's CUDA build brings along; it needs no driver."""
    spec = importlib.util.find_spec("nvidia")
    for place in spec.submodule_search_locations or () if spec else ():
        for library in sorted(Path(place).glob("**/libnvrtc.so.*")):
            if "builtins" not in library.name and "alt" not in library.name:
                return ctypes.CDLL(str(library))
    pytest.skip("needs NVRTC, which comes with torch's CUDA build")


@pytest.mark.parametrize("unit", UNITS)
@pytest.mark.parametrize("capability", CAPABILITIES)
def test_nvrtc_compiles_the_amalgamated_source(capability: int, unit: str) -> None:
    library = nvrtc()
    program = ctypes.c_void_p()
    text = kernels.source(unit).encode()
    assert library.nvrtcCreateProgram(ctypes.byref(program), text, b"kernels.cu", 0, None, None) == 0
    given = [*kernels.UNITS[unit], f"--gpu-architecture=sm_{capability}"]
    options = (ctypes.c_char_p * len(given))(*(one.encode() for one in given))
    failed = library.nvrtcCompileProgram(program, len(given), options)
    size = ctypes.c_size_t()
    library.nvrtcGetProgramLogSize(program, ctypes.byref(size))
    log = ctypes.create_string_buffer(size.value)
    library.nvrtcGetProgramLog(program, log)
    assert not failed, log.value.decode()
    library.nvrtcGetCUBINSize(program, ctypes.byref(size))
    binary = ctypes.create_string_buffer(size.value)
    assert library.nvrtcGetCUBIN(program, binary) == 0
    for name in UNITS[unit]:
        assert f".text.{name}\0".encode() in binary.raw


@pytest.mark.parametrize(
    ("unit", "launch"), [("cuda_kernels.cu", "launch_cuda.cu"), ("exact_kernels.cu", "launch_exact.cu")]
)
def test_nvcc_compiles_and_keeps_arrays_in_registers(unit: str, launch: str, tmp_path: Path) -> None:
    nvcc = shutil.which("nvcc")
    if nvcc is None:
        pytest.skip("needs nvcc")
    known = subprocess.run(
        [nvcc, "--list-gpu-code"], capture_output=True, text=True, check=True
    ).stdout.split()
    targets = [c for c in CAPABILITIES if f"sm_{c}" in known]
    done = subprocess.run(
        [
            nvcc, *kernels.UNITS[unit], *(f"-gencode=arch=compute_{c},code=sm_{c}" for c in targets), "-Xptxas", "-v",
            "-Werror", "all-warnings", f"-I{ROOT / 'csrc'}", "-c", str(ROOT / "csrc" / launch), "-o", str(tmp_path / "kernels.o"),
        ],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    used = re.findall(
        r"Function properties for (\w+)\s+(\d+) bytes stack frame, .* (\d+) bytes spill loads", done.stderr
    )
    assert sorted(name for name, _, _ in used) == sorted(len(targets) * UNITS[unit])
    for name, stack, loads in used:
        # A handful of scalars may be kept there; an array indexed at run time would be.
        assert int(stack) <= 64 and int(loads) <= 256, (name, stack, loads)


def test_no_multiply_and_add_of_an_exact_kernel_are_fused(tmp_path: Path) -> None:
    """Such an operation rounds once where the CPU rounds twice; without the option there are some."""
    nvcc = shutil.which("nvcc")
    if nvcc is None:
        pytest.skip("needs nvcc")

    def fused(*options: str) -> int:
        text = tmp_path / "kernels.ptx"
        source = str(ROOT / "csrc" / "exact_kernels.cu")
        command = [nvcc, *options, "-arch=sm_90", f"-I{ROOT / 'csrc'}", "-ptx", source, "-o", str(text)]
        subprocess.run(command, check=True)
        operations = re.findall(r"\b(?:add|sub|mul|fma|div|sqrt)\.\S*f32\b", text.read_text())
        assert len(operations) > 100 and not any("approx" in one or "ftz" in one for one in operations)
        return sum(one.startswith("fma") or ".rn" not in one for one in operations)

    assert fused(*kernels.UNITS["exact_kernels.cu"]) == 0
    assert fused("-std=c++17") > 0


def test_an_older_nvcc_is_asked_for_what_it_knows(tmp_path: Path) -> None:
    nvcc = shutil.which("nvcc")
    cmake = shutil.which("cmake", path=str(Path(sys.executable).parent)) or shutil.which("cmake")
    if nvcc is None or cmake is None:
        pytest.skip("needs nvcc and CMake")
    pybind11 = pytest.importorskip("pybind11")
    older = tmp_path / "nvcc"
    older.write_text(
        f"""#!/bin/sh
case "$*" in
  --list-gpu-code) printf 'sm_80\\nsm_90\\n'; exit ;;
  *compute_100*|*sm_100*) echo "nvcc fatal : Unsupported gpu architecture 'compute_100'" >&2; exit 1 ;;
esac
exec {nvcc} "$@"
"""
    )
    older.chmod(0o755)
    done = subprocess.run(
        [
            cmake, "-S", str(ROOT), "-B", str(tmp_path / "build"), "-G", "Unix Makefiles", "-DSYNBENCH_CUDA=ON",
            f"-DCMAKE_CUDA_COMPILER={older}", f"-Dpybind11_DIR={pybind11.get_cmake_dir()}",
            f"-DPython_EXECUTABLE={sys.executable}",
        ],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    flags = (tmp_path / "build" / "CMakeFiles" / "_cuda.dir" / "flags.make").read_text()
    assert "80-real,90-real,90-virtual" in flags and "compute_100" not in flags
    makefile = (tmp_path / "build" / "CMakeFiles" / "_cuda.dir" / "flags.make").read_text()
    exact = re.findall(r"^# Custom options: .*launch_(\w+)\.cu\.o_OPTIONS = (.*)$", makefile, re.M)
    assert exact == [("exact", "--fmad=false")]


def test_the_module_built_ahead_of_time_has_every_kernel_and_imports_without_a_driver() -> None:
    core = pytest.importorskip("synbench_fast._cuda", reason="needs a build with nvcc")
    assert sorted(core.kernel_names()) == NAMES
    assert {"80-real", "90-real"} <= set(core.architectures.split(","))
    assert core.device_count() == (torch.cuda.device_count() if torch.cuda.is_available() else 0)
    with pytest.raises(RuntimeError, match=r"^kernel: expected a known name, got 'nothing'$"):
        core.launch("nothing", [1, 1, 1], 32, 0, 0, [])
    with pytest.raises(RuntimeError, match=r"^score_auc_kernel: expected 8 arguments, got 1$"):
        core.launch("score_auc_kernel", [1, 1, 1], 32, 0, 0, [1])


@pytest.mark.skipif(torch.cuda.is_available(), reason="needs a machine without a GPU")
def test_a_launch_without_a_driver_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    core = pytest.importorskip("synbench_fast._cuda", reason="needs a build with nvcc")
    monkeypatch.setattr(kernels, "_launcher", lambda device: core.launch)
    monkeypatch.setattr(kernels, "_stream", lambda device: 0)
    with refused("score_auc_kernel: expected to run on cpu, got RuntimeError: score_auc_kernel: CUDA driver"):
        kernels.launch("score_auc_kernel", (1,), 32, torch.device("cpu"), (0,) * 8)


@pytest.fixture
def capable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (9, 0))
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "Some GPU")
    kernels._launcher.cache_clear()


def without(monkeypatch: pytest.MonkeyPatch, *modules: str) -> None:
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name in modules else find(name))


def test_an_old_gpu_is_refused(capable: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (7, 5))
    with refused("device: expected compute capability 8.0 or newer", "got 7.5 (Some GPU)", "backend='torch'"):
        kernels._launcher(GPU)


def test_no_kernels_and_no_cupy(capable: None, monkeypatch: pytest.MonkeyPatch) -> None:
    without(monkeypatch, "synbench_fast._cuda", "cupy")
    assert kernels.built_by() is None
    with refused(
        "backend: expected CUDA kernels in this installation, or CuPy", "pip install 'synbench-fast[cuda]'"
    ):
        kernels._launcher(GPU)


class FakeCupy(types.ModuleType):
    """What `_at_first_use` needs of CuPy, without a driver."""

    def __init__(self, failure: Exception | None = None, version: int = 14) -> None:
        super().__init__("cupy")
        self.calls: list[tuple] = []
        calls = self.calls

        class Context:
            def __init__(self, which: int) -> None:
                calls.append((type(self).__name__, which))

            def __enter__(self) -> None: ...
            def __exit__(self, *error: object) -> None: ...

        class RawModule:
            def __init__(self, code: str, options: tuple[str, ...]) -> None:
                unit = "exact_kernels.cu" if "render_paint_kernel" in code else "cuda_kernels.cu"
                assert all(one in code for one in UNITS[unit]) and '#include "' not in code
                assert options == kernels.UNITS[unit]
                self.unit = unit

            def compile(self) -> None:
                if failure is not None:
                    raise failure

            def get_function(self, name: str):
                assert name in UNITS[self.unit]
                return lambda grid, block, arguments: calls.append((name, grid, block, arguments))

        class Stream(Context): ...

        class ExternalStream(Context):
            def __init__(self, address: int) -> None:
                assert version < 14, "CuPy 14 warns"
                super().__init__(address)

        if version >= 14:
            Stream.from_external = lambda stream: Stream(stream.__cuda_stream__()[1])
        self.RawModule = RawModule
        self.cuda = types.SimpleNamespace(
            Device=type("Device", (Context,), {}), Stream=Stream, ExternalStream=ExternalStream
        )


@pytest.mark.parametrize(("version", "stream"), [(13, "ExternalStream"), (14, "Stream")])
def test_cupy_compiles_where_nothing_was_compiled_ahead(
    capable: None, monkeypatch: pytest.MonkeyPatch, version: int, stream: str
) -> None:
    without(monkeypatch, "synbench_fast._cuda")
    cupy = FakeCupy(version=version)
    cupy.__spec__ = importlib.util.spec_from_loader("cupy", None)
    monkeypatch.setitem(sys.modules, "cupy", cupy)
    assert kernels.built_by() == "nvrtc"
    launcher = kernels._at_first_use(GPU)
    launcher("score_auc_kernel", (3, 1, 1), 64, 0, 17, [1, 2**63])
    assert cupy.calls[:3] == [("Device", 0), ("Device", 0), (stream, 17)]
    name, grid, block, arguments = cupy.calls[3]
    assert (name, grid, block) == ("score_auc_kernel", (3, 1, 1), (64,))
    assert all(isinstance(word, np.uint64) for word in arguments) and [int(w) for w in arguments] == [
        1,
        2**63,
    ]
    launcher("render_roll_kernel", (2, 1, 1), 256, 0, 17, [0])
    assert cupy.calls[6][:3] == ("render_roll_kernel", (2, 1, 1), (256,))


def test_cupy_takes_a_stream_by_its_address() -> None:
    cupy = pytest.importorskip("cupy")
    if not hasattr(cupy.cuda.Stream, "from_external"):
        pytest.skip("needs CuPy 14")
    assert cupy.cuda.Stream.from_external(kernels._StreamAddress(17)).ptr == 17


def test_a_launch_leaves_the_current_device_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    events: list[object] = []

    @contextmanager
    def device(which: torch.device) -> Iterator[None]:
        events.append(which)
        yield
        events.append("before")

    monkeypatch.setattr(torch.cuda, "device", device)
    monkeypatch.setattr(kernels, "_stream", lambda device: 0)
    monkeypatch.setattr(kernels, "_launcher", lambda device: lambda *launch: events.append(launch[:4]))
    second = torch.device("cuda", 1)
    kernels.launch("some_kernel", (3, 2), 64, second, (1, 0.5))
    assert events == [second, ("some_kernel", (3, 2, 1), 64, 1), "before"]
    kernels.launch("some_kernel", (3, 0), 64, second, (1, 0.5))  # no blocks, which a driver refuses
    assert len(events) == 3


def test_kernels_that_do_not_compile_are_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "cupy", FakeCupy(ValueError("kernels.cu(3): error: no\nmore lines")))
    with refused(
        "backend: expected CUDA kernels that compile for cuda:0", "ValueError: kernels.cu(3): error: no"
    ):
        kernels._at_first_use(GPU)


def test_an_installation_without_sources_says_so(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(kernels, "__file__", str(tmp_path / "package" / "ops" / "kernels.py"))
    with refused("backend: expected the CUDA kernel sources in", "got none"):
        kernels.source()
