"""The Triton kernel of sample_mixture against the C++ backend, bit for bit.

Without a GPU the kernel runs in Triton's interpreter, and is compiled for several GPUs. The interpreter works
in a process of its own (this file as a program), because it changes the modules that it runs.
"""

from __future__ import annotations

import itertools
import math
import os
import re
import subprocess
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

pytest.importorskip("triton")

import triton.language as tl
from checks import refused
from triton import JITFunction

import synbench_fast.ops.sample_mixture_triton as module
from synbench_fast import _core
from synbench_fast.ops.sample_mixture import Mixture, labels, sample_mixture, sample_mixture_cpp

NO_GPU = not torch.cuda.is_available()
DTYPES = (torch.float32, torch.float64, torch.bfloat16, torch.float16)
SHAPES = [(1,), (63,), (1271,), (7, 9), (1, 6, 5), (5, 1, 1), (3, 5, 7), (3, 40, 41), (70, 3, 3), (3, 24, 24)]
LAYOUTS = [(shape, last) for shape in SHAPES for last in (False, True) if len(shape) == 3 or not last]
SEEDS = [0, 1, 16, 2**31, 2**32 - 1, 2**32, 2**63, 2**64 - 1]
WORDS = [0, 1, 16, 2**31 - 1, 2**31, 2**32 - 1]
RANDOM: dict[str, Any] = {"scale": 3.0, "seed": 0xFEDCBA9876543210, "stream": 0x80000005, "center": 0.25}


def unit_pattern(dim: int) -> torch.Tensor:
    u = torch.linspace(-1.0, 2.0, dim, dtype=torch.float64)
    return (u / u.norm()).float()


def case(shape: tuple[int, ...], **more: Any) -> dict[str, Any]:
    """The arguments of one call. Each channel, or element of a vector, is normalised differently."""
    channels = shape[0]
    spec = RANDOM | {"shape": shape, "start": 2**32 - 20, "count": 3, "dtype": torch.float32}
    spec |= {"pattern": None, "channels_last": False, "purpose": 0}
    spec["mean"] = [0.1 + 0.05 * c for c in range(channels)]
    spec["std"] = [0.5 + 0.01 * c for c in range(channels)]
    spec |= more
    if spec["pattern"] is True:
        spec["pattern"] = unit_pattern(math.prod(shape))
    return spec


def name(shape: tuple[int, ...], *rest: Any) -> str:
    return "-".join(["x".join(map(str, shape)), *(str(one).removeprefix("torch.") for one in rest)])


def ties(dtype: torch.dtype) -> dict[str, Any]:
    """Noise too small to be seen leaves the shift of each channel: halfway cases, limits and subnormals."""
    steps = [torch.finfo(dtype).eps, torch.finfo(dtype).smallest_normal * torch.finfo(dtype).eps]
    values = [1.0 + (k + 0.5) * steps[0] for k in range(4)] + [65519.0, 65520.0, 65536.0, 3.4e38]
    if dtype == torch.float16:
        values += [(k + 0.5) * steps[1] for k in range(4)]
    signed = np.float32([sign * value for value in values for sign in (1, -1)]).astype(float)
    spec = case((len(signed), 5), dtype=dtype, scale=1e-30, center=0.0, std=[2.0**60] * len(signed))
    return spec | {"mean": [-value * 2.0**60 for value in signed.tolist()]}


# What the device must compute bit for bit.
CASES: dict[str, dict[str, Any]] = {
    name(shape, "last" if last else "planar", "pattern" if pattern else "constant", dtype): case(
        shape, channels_last=last, pattern=pattern or None, dtype=dtype
    )
    for (shape, last), pattern, dtype in itertools.product(LAYOUTS, (False, True), DTYPES)
}
CASES |= {f"seed-{seed}": case((63,), seed=seed, count=2) for seed in SEEDS}
CASES |= {f"stream-{word}": case((63,), stream=word, count=2) for word in WORDS}
CASES |= {f"purpose-{word}": case((63,), purpose=word, count=2) for word in WORDS}
CASES |= {f"start-{word}": case((63,), start=word, count=1) for word in WORDS}
CASES |= {f"ties-{dtype}": ties(dtype) for dtype in (torch.bfloat16, torch.float16)}
CASES |= {
    f"alike-{last}": case((3, 40, 41), mean=[0.5] * 3, std=[0.25] * 3, channels_last=last)
    for last in (False, True)
}
CASES |= {
    "mean-only": case((3, 24, 24), std=None),
    "std-only": case((3, 24, 24), mean=None),
    "raw": case((3, 24, 24), mean=None, std=None),
    "vector-raw": case((1271,), mean=None, std=None, pattern=True),
    "image": case((3, 160, 160), count=2),  # enough words to meet every branch of the polynomials
    "image-last": case((3, 160, 160), count=2, channels_last=True, pattern=True, dtype=torch.bfloat16),
}
# How the work is cut, which must change nothing: arguments of `start` and constants of the module.
CUTS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    f"block-{block}-{name(shape, last)}": (case(shape, channels_last=last, count=2), {"block": block})
    for block in (128, 256, 1024)
    for shape, last in [((1271,), False), ((3, 40, 41), False), ((3, 40, 41), True)]
}
CUTS |= {f"span-{span}": (case((63,), count=7, pattern=True), {"span": span}) for span in (1, 2, 3, 7, 8)}
CUTS |= {
    f"wide-{name(shape, last)}": (case(shape, channels_last=last, pattern=True), {"_NARROW": 0})
    for shape, last in [((63,), False), ((3, 24, 24), False), ((70, 3, 3), True), ((3, 40, 41), True)]
}
CUTS |= {"few-programs-in-y": (case((63,), count=7), {"_GRID_Y": 2})}
CUTS |= {"not-stored": (case((63,)), {"store": False})}


def blank(spec: dict[str, Any], device: str = "cpu") -> torch.Tensor:
    layout = torch.channels_last if spec["channels_last"] else torch.contiguous_format
    x = torch.empty((spec["count"], *spec["shape"]), dtype=spec["dtype"], device=device, memory_format=layout)
    return x.fill_(math.nan)


def call(x: torch.Tensor, y: torch.Tensor, spec: dict[str, Any]) -> Mixture:
    """A backend's argument; the pattern goes where x is."""
    rest = {key: spec[key] for key in spec if key not in ("shape", "count", "dtype")}
    if rest["pattern"] is not None:
        rest["pattern"] = rest["pattern"].to(x.device)
    return Mixture(x, y, threads=1, **rest)


def reference(spec: dict[str, Any]) -> torch.Tensor:
    x = blank(spec)
    sample_mixture_cpp(call(x, labels(spec["start"], spec["count"], 0.3), spec))
    return x


# ---- the kernel's arithmetic on given words


def normals_kernel(radius, angle, z, n, BLOCK: tl.constexpr):  # type: ignore[no-untyped-def]
    i = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    z0, z1 = box_muller(tl.load(radius + i, mask=i < n, other=0), tl.load(angle + i, mask=i < n, other=0))
    tl.store(z + 2 * i, z0, mask=i < n)
    tl.store(z + 2 * i + 1, z1, mask=i < n)


box_muller = module.box_muller


def words() -> tuple[np.ndarray, np.ndarray]:
    """Powers of two of the radius and octants of the angle, with their neighbours, and random words."""
    near = np.arange(-2, 3)
    radius = (2 ** np.arange(33, dtype=np.int64)[:, None] + near) % 2**32
    angle = (2**29 * np.arange(8, dtype=np.int64)[:, None] + near) % 2**32
    special = np.stack(np.meshgrid(radius, angle), -1).reshape(-1, 2)
    drawn = np.random.default_rng(0).integers(0, 2**32, (100_000, 2))
    both = np.concatenate([special, drawn]).astype(np.uint32)
    return np.ascontiguousarray(both[:, 0]), np.ascontiguousarray(both[:, 1])


def normals(kernel: Any, device: str, block: int) -> torch.Tensor:
    radius, angle = (torch.from_numpy(one).to(device) for one in words())
    z = torch.full((len(radius), 2), math.nan, device=device)
    kernel[(-(-len(radius) // block),)](radius, angle, z, len(radius), BLOCK=block, enable_fp_fusion=False)
    return z


# ---- the interpreter


def interpret(out: str) -> None:
    """Runs every case in the interpreter and stores the results."""
    from triton.runtime import interpreter

    kernels = ("philox4x32", "minus_two_log_uniform", "box_muller", "sample_mixture_kernel")
    assert all(isinstance(getattr(module, kernel), JITFunction) for kernel in kernels)
    for kernel in kernels:
        setattr(module, kernel, interpreter.InterpretedFunction(getattr(module, kernel).fn))
    global box_muller
    box_muller = module.box_muller

    # The interpreter truncates to bfloat16; a GPU rounds to nearest even (PTX: cvt.rn.bf16).
    cast = interpreter.InterpreterBuilder.cast_impl

    def rounded(self: Any, source: Any, target: Any) -> Any:
        if (source.dtype.scalar, target.scalar) != (tl.float32, tl.bfloat16):
            return cast(self, source, target)
        bits = source.data.view(np.uint32)
        high = (bits + np.uint32(0x7FFF) + ((bits >> np.uint32(16)) & np.uint32(1))) >> np.uint32(16)
        return interpreter.TensorHandle(high.astype(np.uint16), target.scalar)

    interpreter.InterpreterBuilder.cast_impl = rounded

    results = {"normals": normals(interpreter.InterpretedFunction(normals_kernel), "cpu", 2**14)}
    runs = {key: (spec, {"block": 2**16 if "image" in key else 2**12}) for key, spec in CASES.items()} | CUTS
    for key, (spec, cut) in runs.items():
        constants = {constant: cut[constant] for constant in cut if constant.startswith("_")}
        before = {constant: getattr(module, constant) for constant in constants}
        vars(module).update(constants)
        x, y = blank(spec), labels(spec["start"], spec["count"], 0.3)
        arguments = {key: cut[key] for key in cut if key not in constants}
        with np.errstate(over="ignore"):  # float16's infinity
            module.start(call(x, y, spec), **arguments)
        vars(module).update(before)
        results[key] = x
    torch.save(results, out)


@pytest.fixture(scope="module")
def interpreted(tmp_path_factory: pytest.TempPathFactory) -> dict[str, torch.Tensor]:
    out = tmp_path_factory.mktemp("interpreter") / "results.pt"
    # With the variable set, triton.jit would return the interpreter: the package's kernels must not change.
    env = os.environ | {"TRITON_INTERPRET": "1", "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    env["PYTHONPATH"] = os.pathsep.join([*sys.path, env.get("PYTHONPATH", "")])
    done = subprocess.run([sys.executable, __file__, str(out)], env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return torch.load(out)


@pytest.mark.parametrize("key", CASES)
def test_interpreter_gives_the_bits_of_cpp(interpreted: dict[str, torch.Tensor], key: str) -> None:
    expected = reference(CASES[key])
    assert not expected.isnan().any()
    assert interpreted[key].stride() == expected.stride()
    assert torch.equal(interpreted[key], expected)


@pytest.mark.parametrize("key", [key for key in CUTS if key != "not-stored"])
def test_the_cut_changes_nothing(interpreted: dict[str, torch.Tensor], key: str) -> None:
    assert torch.equal(interpreted[key], reference(CUTS[key][0]))


def test_without_store_nothing_is_written(interpreted: dict[str, torch.Tensor]) -> None:
    assert interpreted["not-stored"].isnan().all()


def test_normals_of_given_words(interpreted: dict[str, torch.Tensor]) -> None:
    assert torch.equal(interpreted["normals"], torch.from_numpy(_core.normals_of_words(*words())))


# ---- the host's part


@pytest.mark.parametrize("pixels", [1, 3, 49, 63, 511, 512, 784, 1271, 1640, 50176, 268324])
@pytest.mark.parametrize("channels", [1, 3, 70])
def test_plan_covers_every_element(channels: int, pixels: int) -> None:
    plan = module.plan_of(channels, pixels)
    assert plan.segments * plan.segment == channels * pixels
    assert plan.segment in (pixels, channels * pixels)
    for begin in range(0, plan.segments * plan.segment, plan.segment):
        assert begin // 4 * 4 + plan.blocks * plan.block >= begin + plan.segment
    idle = plan.blocks * plan.block / plan.segment
    assert idle <= 1.15 or plan.block == min(module._WARPS)


def test_image_sizes_take_the_large_block() -> None:
    for side in (32, 224, 256, 384):
        assert module.plan_of(3, side * side).block == 1024


class Refusing:
    """In the kernel's place: launching fails as told."""

    def __init__(self, error: Exception) -> None:
        self.error = error

    def __getitem__(self, grid: Any) -> Any:
        def launch(*args: Any, **kwargs: Any) -> None:
            raise self.error

        return launch


def test_a_kernel_that_does_not_compile_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    spec = case((3, 5, 7))
    x, y = blank(spec), labels(0, 3)
    error = RuntimeError("\nPassManager::run failed\nand so on")
    monkeypatch.setattr(module, "sample_mixture_kernel", Refusing(error))
    message = (
        "sample_mixture: expected a kernel that compiles for cpu, got RuntimeError: PassManager::run failed"
    )
    with refused(message):
        module.start(call(x, y, spec))


def test_a_driver_error_is_no_compile_error(monkeypatch: pytest.MonkeyPatch) -> None:
    spec = case((3, 5, 7))
    error = RuntimeError("Triton Error [CUDA]: an illegal memory access was encountered")
    monkeypatch.setattr(module, "sample_mixture_kernel", Refusing(error))
    with pytest.raises(RuntimeError, match="illegal memory access") as caught:
        module.start(call(blank(spec), labels(0, 3), spec))
    assert caught.value is error


def test_no_samples_launch_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "sample_mixture_kernel", Refusing(AssertionError("launched")))
    spec = case((3, 5, 7), count=0)
    module.start(call(blank(spec), labels(0, 0), spec))


class Recording:
    """In the kernel's place: keeps what it is launched with."""

    def __getitem__(self, grid: tuple[int, ...]) -> Any:
        def launch(*args: Any, **kwargs: Any) -> None:
            self.grid, self.args, self.kwargs = grid, args, kwargs

        return launch


def test_programs_take_several_samples_once_there_are_enough(monkeypatch: pytest.MonkeyPatch) -> None:
    span = module.sample_mixture_kernel.arg_names.index("span")
    recording = Recording()
    monkeypatch.setattr(module, "sample_mixture_kernel", recording)
    shape = (3, 224, 224)
    for count, expected in [(1, 1), (64, 2), (256, 8), (4096, 8)]:
        x = torch.empty((count, *shape), device="meta", dtype=torch.bfloat16)
        spec = case(shape, count=count)
        module.start(call(x, labels(0, count), spec))
        assert recording.args[span] == expected
        assert recording.grid == (3 * 49, -(-count // expected))


def test_import_of_the_package_leaves_triton_alone() -> None:
    code = (
        "import sys, synbench_fast.ops.sample_mixture; "
        "assert 'synbench_fast.ops.sample_mixture_triton' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


# ---- the compiler

TYPES = {torch.float32: "fp32", torch.float64: "fp64", torch.bfloat16: "bf16", torch.float16: "fp16"}


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TRITON_CACHE_DIR", str(tmp_path_factory.mktemp("triton")))
        yield


def compiled(
    dtype: torch.dtype, capability: int, one_channel: bool, last: bool, pattern: bool, **more: Any
) -> dict[str, Any]:
    """What the compiler makes of the kernel as `start` asks for it: the stages' texts and the machine code."""
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource, compile

    kernel = module.sample_mixture_kernel
    constants = {"ONE_CHANNEL": one_channel, "CHANNELS_LAST": last, "ALIGNED": True, "INDEX": tl.int32}
    constants |= {"BLOCK": 1024, "STORE": True} | more
    pointers = {"x": f"*{TYPES[dtype]}", "y": "*u8", "affine": "*fp32", "pattern": "*fp32"}
    if not pattern:
        constants["pattern"] = None
    signature = dict.fromkeys(kernel.arg_names, "i32") | pointers | dict.fromkeys(constants, "constexpr")
    place = kernel.arg_names.index
    aligned = [key for key in pointers if key not in constants and key != "y"]  # y may begin anywhere
    source = ASTSource(
        fn=kernel,
        signature=signature,
        constexprs={(place(key),): value for key, value in constants.items()},
        attrs={(place(key),): [["tt.divisibility", 16]] for key in aligned},
    )
    how = {"num_warps": module._WARPS[constants["BLOCK"]], "num_stages": 1, "enable_fp_fusion": False}
    return dict(compile(source, target=GPUTarget("cuda", capability, 32), options=how).asm)


def resources(cubin: bytes, folder: Path) -> dict[str, int]:
    import triton

    tool = Path(triton.__file__).parent / "backends" / "nvidia" / "bin" / "cuobjdump"
    if not tool.exists():
        pytest.skip("this Triton brings no cuobjdump")
    (folder / "kernel.cubin").write_bytes(cubin)
    command = [tool, "--dump-resource-usage", folder / "kernel.cubin"]
    text = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    return {key: int(value) for key, value in re.findall(r"(REG|STACK|LOCAL|SHARED):(\d+)", text)}


def check_compiled(asm: dict[str, Any], folder: Path, stack: int = 0) -> None:
    ptx = asm["ptx"]
    # What makes the bits those of the C++ backend: no fused multiply-add, no flushed subnormal, an IEEE root.
    assert not re.search(r"\bfma\b|\.ftz|\.approx", ptx)
    assert "sqrt.rn.f32" in ptx and "mul.rn.f32" in ptx and "add.rn.f32" in ptx
    used = resources(asm["cubin"], folder)
    assert used["LOCAL"] == 0 and used["STACK"] <= stack
    assert used["REG"] <= 128


WIDE = {"fp32": "st.global.v4.b32", "fp64": "st.global.v2.b64", "bf16": "st.global.v2.b32"}
WIDE["fp16"] = WIDE["bf16"]


def targets() -> Iterator[Any]:
    """Every type for compute capability 9.0 and bfloat16 for all; the rest is slow."""
    for capability, dtype in itertools.product((80, 86, 89, 90, 100, 120), DTYPES):
        quick = capability == 90 or (capability in (80, 100) and dtype == torch.bfloat16)
        marks = [] if quick else [pytest.mark.slow]
        yield pytest.param(capability, dtype, marks=marks, id=f"{capability}-{TYPES[dtype]}")


@pytest.mark.parametrize(("capability", "dtype"), list(targets()))
@pytest.mark.parametrize("last", [False, True], ids=["planar", "last"])
@pytest.mark.parametrize("one_channel", [True, False], ids=["one-channel", "table"])
@pytest.mark.parametrize("pattern", [False, True], ids=["constant", "pattern"])
def test_compiles(
    pattern: bool,
    one_channel: bool,
    last: bool,
    capability: int,
    dtype: torch.dtype,
    cache: None,
    tmp_path: Path,
) -> None:
    asm = compiled(dtype, capability, one_channel, last, pattern)
    # A table's three numbers per element may push two registers out of the loop; images have no table.
    check_compiled(asm, tmp_path, stack=0 if one_channel else 16)
    stores = set(re.findall(r"st\.global\S*", asm["ptx"]))
    if not last:
        assert stores == {WIDE[TYPES[dtype]]}
    if dtype in (torch.bfloat16, torch.float16):
        assert {torch.bfloat16: "cvt.rn.bf16", torch.float16: "cvt.rn.f16"}[dtype] in asm["ptx"]


@pytest.mark.parametrize("more", [{"ALIGNED": False}, {"INDEX": tl.int64}, {"STORE": False}], ids=str)
def test_compiles_the_rare_kinds(more: dict[str, Any], cache: None, tmp_path: Path) -> None:
    asm = compiled(torch.bfloat16, 90, True, False, True, **more)
    check_compiled(asm, tmp_path)
    assert "st.global" in asm["ptx"]  # also where nothing is stored: the arithmetic must not vanish


@pytest.mark.parametrize("block", [512, 256, 128])
def test_compiles_every_block(block: int, cache: None, tmp_path: Path) -> None:
    check_compiled(compiled(torch.bfloat16, 90, True, False, False, BLOCK=block), tmp_path)


def test_one_kernel_serves_all_numbers(monkeypatch: pytest.MonkeyPatch) -> None:
    """Triton's key of a compiled kernel must not contain seed, stream, purpose, start, count or sizes."""
    from triton.backends.compiler import GPUTarget
    from triton.compiler import make_backend
    from triton.runtime.jit import create_function_from_signature

    kernel, recording = module.sample_mixture_kernel, Recording()
    bind = create_function_from_signature(
        kernel.signature, kernel.params, make_backend(GPUTarget("cuda", 90, 32))
    )
    monkeypatch.setattr(module, "sample_mixture_kernel", recording)

    def key(shape: tuple[int, ...], **more: Any) -> str:
        spec = case(shape, **more)
        x = blank(spec)
        module.start(call(x, labels(0, spec["count"]), spec))
        _, specialization, chosen = bind(*recording.args, **recording.kwargs)
        assert chosen["enable_fp_fusion"] is False
        # Whether an address is a multiple of 16 is the allocator's business.
        return str(specialization[4:])

    shape = (3, 32, 32)
    expected = key(shape)
    for seed, word in itertools.product(SEEDS, WORDS):
        assert key(shape, seed=seed, stream=word, purpose=word, start=word) == expected
    assert key(shape, count=1) == key(shape, count=16) == expected
    assert key((16, 32, 32)) == key((7, 64, 64), scale=1.0, center=0.0, mean=None) == expected
    assert key(shape, channels_last=True) != expected


# ---- a GPU


@pytest.mark.gpu
@pytest.mark.skipif(NO_GPU, reason="needs an NVIDIA GPU")
class TestGpu:
    @pytest.mark.parametrize("key", CASES)
    def test_gives_the_bits_of_cpp(self, key: str) -> None:
        spec = CASES[key]
        x, y = blank(spec, "cuda"), labels(spec["start"], spec["count"], 0.3, device="cuda")
        module.sample_mixture_triton(call(x, y, spec))
        expected = reference(spec)
        assert x.stride() == expected.stride()
        assert torch.equal(x.cpu(), expected)

    @pytest.mark.parametrize("key", [key for key in CUTS if key != "not-stored"])
    def test_the_cut_changes_nothing(self, key: str, monkeypatch: pytest.MonkeyPatch) -> None:
        spec, cut = CUTS[key]
        for constant in [one for one in cut if one.startswith("_")]:
            monkeypatch.setattr(module, constant, cut[constant])
        x, y = blank(spec, "cuda"), labels(spec["start"], spec["count"], 0.3, device="cuda")
        arguments = {one: value for one, value in cut.items() if not one.startswith("_")}
        module.start(call(x, y, spec), **arguments)
        assert torch.equal(x.cpu(), reference(spec))

    def test_normals_of_given_words(self) -> None:
        z = normals(JITFunction(normals_kernel), "cuda", 1024)
        assert torch.equal(z.cpu(), torch.from_numpy(_core.normals_of_words(*words())))

    @pytest.mark.parametrize("dtype", DTYPES, ids=str)
    @pytest.mark.parametrize("last", [False, True], ids=["planar", "last"])
    def test_many_images(self, dtype: torch.dtype, last: bool) -> None:
        """Enough samples for programs that take several, through the operation itself."""
        shared: dict[str, Any] = {"scale": 2.0, "seed": 7, "stream": 3, "dtype": dtype, "channels_last": last}
        shared |= {"mean": [0.485, 0.456, 0.406], "std": [0.229, 0.224, 0.225]}
        expected, _ = sample_mixture((3, 224, 224), 10, 131, **shared, backend="cpp")
        out = torch.full_like(expected, math.nan, device="cuda")
        x, y = sample_mixture((3, 224, 224), 10, 131, **shared, device="cuda", out=out, backend="triton")
        assert x is out and y.is_cuda
        assert torch.equal(x.cpu(), expected)
        chosen, _ = sample_mixture((3, 224, 224), 10, 131, **shared, device="cuda")
        assert torch.equal(chosen.cpu(), expected)

    def test_runs_on_the_current_stream_and_waits_for_nothing(self) -> None:
        spec = case((3, 64, 64), count=64)
        expected = reference(spec)
        x, y = blank(spec, "cuda"), labels(spec["start"], spec["count"], 0.3, device="cuda")
        arguments = call(x, y, spec)
        module.sample_mixture_triton(arguments)  # compiles
        x.fill_(math.nan)
        torch.cuda.synchronize()
        stream = torch.cuda.Stream()
        with torch.cuda.stream(stream), refusing_to_wait():
            torch.cuda._sleep(1_000_000_000)
            module.sample_mixture_triton(arguments)
            assert not stream.query()  # the call came back before the stream was done
        untouched = x.cpu()  # the default stream does not wait for the other one
        assert untouched.isnan().all()
        stream.synchronize()
        assert torch.equal(x.cpu(), expected)

    def test_an_output_that_begins_within_a_wide_store(self) -> None:
        spec = case((3, 64, 64))
        whole = torch.full((3 * 3 * 64 * 64 + 1,), math.nan, device="cuda")
        x = whole[1:].view(3, 3, 64, 64)
        y = labels(spec["start"], 3, 0.3, device="cuda")
        module.sample_mixture_triton(call(x, y, spec))
        assert torch.equal(x.cpu(), reference(spec)) and whole[0].isnan()

    def test_other_numbers_compile_nothing(self) -> None:
        spec = case((3, 64, 64))
        x, y = blank(spec, "cuda"), labels(spec["start"], 3, 0.3, device="cuda")
        module.sample_mixture_triton(call(x, y, spec))
        kernels = module.sample_mixture_kernel.device_caches[x.device.index][0]
        before = len(kernels)
        for seed, word in itertools.product(SEEDS, WORDS):
            changed = spec | {"seed": seed, "stream": word, "purpose": word, "start": word}
            module.sample_mixture_triton(call(x, y, changed))
        assert len(kernels) == before

    @pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two NVIDIA GPUs")
    def test_runs_on_the_device_of_x(self) -> None:
        spec = case((3, 64, 64))
        x, y = blank(spec, "cuda:1"), labels(spec["start"], 3, 0.3, device="cuda:1")
        module.sample_mixture_triton(call(x, y, spec))
        assert torch.equal(x.cpu(), reference(spec))


@contextmanager
def refusing_to_wait() -> Iterator[None]:
    """torch raises where it would wait for the GPU."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch warns that the mode does not see everything
        torch.cuda.set_sync_debug_mode("error")
        try:
            yield
        finally:
            torch.cuda.set_sync_debug_mode("default")


if __name__ == "__main__":
    interpret(sys.argv[1])
