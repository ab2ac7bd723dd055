"""No encoder's global state reaches another, itself later, or the caller; nor does the caller's reach an encoder."""

from __future__ import annotations

import contextlib
import gc
import os
import random
import signal
import sys
import textwrap
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import leaking_encoders
import numpy as np
import pytest
import torch
from leaking_encoders import FORWARD, LEAKS
from torch import Tensor, nn
from torch.nn.modules import module as torch_module

import synbench_fast as sb
from synbench_fast.config import ScoreConfig
from synbench_fast.encoders import load_encoder
from synbench_fast.fleet.launch import run_fleet
from synbench_fast.results.records import Result
from synbench_fast.runtime import global_state
from synbench_fast.runtime.global_state import kept_state, known_state, own_registrations, tf32_allowed

FILE = Path(__file__).parents[1] / "leaking_encoders.py"
CPU, GPU = torch.device("cpu"), torch.device("cuda")
SMALL: dict[str, Any] = {"input_shape": (3, 8, 8), "scales": (1.0, 3.0), "samples": 160, "batch_size": 80}
PLACES = [("factory", one) for one in LEAKS] + [("forward", one) for one in FORWARD]


def values(result: Result) -> Any:
    """Every score and standard error, robust area and its own."""
    area = result.robust_area
    return np.array([*((one.score, one.stderr) for one in result.scores), (area.value, area.stderr)])


def spec(name: str) -> str:
    return f"python:{FILE}:{name}"


def state() -> dict[str, Any]:
    """All that an encoder might leave changed."""
    hooks = {name: dict(one) for name, one in vars(torch_module).items() if name.startswith("_global_f")}
    try:
        older = torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32
    except RuntimeError:  # the newer ones are such as they cannot express
        older = None
    found: dict[str, Any] = {f"setting {n}": one.read() for n, one in enumerate(global_state._SETTINGS)}
    os.umask(mask := os.umask(0o077))
    return found | {
        "umask": mask,
        "inference": torch.is_inference_mode_enabled(),
        "older switches": older,
        "torch": torch.get_rng_state().tolist(),
        "numpy": np.random.get_state()[1].tolist(),  # type: ignore[index]
        "random": random.getstate(),
        "path": list(sys.path),
        "signals": [signal.getsignal(one) for one in (signal.SIGINT, signal.SIGTERM)],
        "hooks": hooks,
    }


@pytest.fixture(scope="module")
def expected() -> np.ndarray:
    return values(sb.score(spec("clean"), **SMALL))


@pytest.fixture(scope="module")
def convolutional() -> np.ndarray:
    return values(sb.score("builtin:conv", **SMALL))


# Encoders to others


@pytest.mark.parametrize(("place", "leak"), PLACES)
def test_what_an_encoder_leaves_changed_reaches_nobody(
    place: str, leak: str, expected: np.ndarray, convolutional: np.ndarray
) -> None:
    there = state()
    for _ in range(2):  # the second one is after itself
        assert np.array_equal(values(sb.score(spec(f"{place}_{leak}"), **SMALL, threads=1)), expected)
        gc.collect()  # contexts that were never left end with the encoder's module
        now = state()
        assert [name for name in there if now[name] != there[name]] == []
    assert np.array_equal(values(sb.score("builtin:conv", **SMALL)), convolutional)


@pytest.mark.parametrize(
    "leak", ["default_dtype", "default_device", "autocast", "directory", "dispatch_mode", "signals"]
)
def test_nor_does_it_if_the_encoder_fails(leak: str) -> None:
    def broken(x: Tensor) -> Tensor:
        LEAKS[leak]()
        raise KeyError("lost")

    there = state()
    with pytest.raises(sb.SynbenchError, match="forward failed"):
        sb.score(broken, **SMALL)
    now = state()
    assert [name for name in there if now[name] != there[name]] == []


@pytest.mark.parametrize("leak", [one for one in FORWARD if one not in ("fork", "generators")])
def test_every_forward_pass_begins_in_one_state(leak: str) -> None:
    """That of the batches before does not matter, so neither does their order."""
    seen: list[Any] = []

    class Watching(leaking_encoders.Network):
        def forward(self, x: Tensor) -> Tensor:
            seen.append([one.read() for one in global_state._SETTINGS])
            seen[-1].append(torch.is_inference_mode_enabled())
            return super().forward(x)

    network = Watching(LEAKS[leak])
    for encoder in (network, lambda x: network(x)):
        seen.clear()
        network.calls = 0
        sb.score(encoder, **SMALL)
        assert len(seen) > 4 and all(one == seen[0] for one in seen)


def test_encoders_used_by_hand_leave_nothing_either(expected: np.ndarray) -> None:
    there = state()
    for leak in set(FORWARD) - {"fork"}:
        encoder = load_encoder(spec(f"factory_{leak}"), input_shape=(3, 8, 8))
        other = load_encoder(spec(f"forward_{leak}"), input_shape=(3, 8, 8))
        x = torch.rand(4, 3, 8, 8, generator=torch.Generator().manual_seed(0))
        features = [encoder(x), other(x), other(x)]
        assert all(torch.equal(one, features[0]) for one in features), leak
        with encoder.scoring():
            assert torch.equal(encoder(x), features[0])
        now = state()
        assert [name for name in there if name != "path" and now[name] != there[name]] == [], leak


def test_a_fleet_and_a_plain_run_agree_in_both_orders(tmp_path: Path, expected: np.ndarray) -> None:
    """One worker process takes all of them, one after the other."""
    names = ["factory_autocast", "forward_default_dtype", "forward_directory", "factory_hook", "factory_threads",
             "forward_matmul_precision", "forward_fork", "factory_fork", "factory_environment"]  # fmt: skip
    listed = [spec(one) for one in names]
    listed = [listed[0], "builtin:conv", *listed[1:]]
    alone = values(sb.score("builtin:conv", **SMALL, threads=1))
    for number, order in enumerate((listed, listed[::-1])):
        folder = tmp_path / str(number)
        jobs = run_fleet(order, folder, config=ScoreConfig(**{**SMALL, "threads": 1}), devices="cpu:1")
        assert [job.state for job in jobs] == ["done"] * len(order)
        for job in jobs:
            found = values(Result.load(folder / "results" / str(job.result)))
            assert np.array_equal(found, alone if job.spec == "builtin:conv" else expected), job.spec


def test_a_run_goes_on_with_its_streams_and_writes_files_that_can_be_read(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from synbench_fast.cli.main import main

    names = ["forward_streams", "factory_umask", "factory_none", "clean"]  # of the third there is no factory
    words = ["run", *map(spec, names), "--input-shape", "3,8,8", "--scales", "1", "--samples", "64"]
    assert main([*words, "--out", str(tmp_path), "--device", "cpu", "--no-structure"]) == 1
    assert any("error" in line and "factory_none" in line for line in capsys.readouterr().err.splitlines())
    files = list(tmp_path.glob("*"))
    assert len(files) == 6 and all(file.stat().st_mode & 0o400 for file in files)


def test_modules_of_one_name_are_each_encoders_own(tmp_path: Path) -> None:
    """Two checkouts, each with a `parts.py`, as repositories of models have them."""
    specs = []
    for width in (3, 6):
        folder = tmp_path / str(width)
        folder.mkdir()
        (folder / "parts.py").write_text(f"WIDTH = {width}\n", encoding="utf-8")
        text = """
            import sys
            sys.path.insert(0, {folder!r})
            from parts import WIDTH
            from torch import nn
            def make():
                return nn.Sequential(nn.Flatten(), nn.Linear(192, WIDTH))
        """
        (folder / "model.py").write_text(textwrap.dedent(text).format(folder=str(folder)), encoding="utf-8")
        specs.append(f"python:{folder / 'model.py'}:make")
    for order in (specs, specs[::-1]):
        widths = [sb.score(one, **SMALL).encoder.feature_dim for one in order]
        assert widths == [int(Path(one.split(":")[1]).parent.name) for one in order]
    assert "parts" not in sys.modules


def test_layers_that_draw_their_weights_when_they_run_draw_them_from_the_seed(tmp_path: Path) -> None:
    file = tmp_path / "late.py"
    text = """
        import torch
        from torch import nn
        class Late(nn.Module):
            input_shape = (3, 8, 8)
            weight = None
            def forward(self, x):
                if self.weight is None:
                    self.weight = torch.randn(192, 8)
                return x.flatten(1) @ self.weight
        def function():
            module = Late()
            return lambda x: module(x)
    """
    file.write_text(textwrap.dedent(text), encoding="utf-8")
    for name in ("Late", "function"):
        found = []
        for seed, draws in ((0, 1), (0, 2), (1, 2)):
            torch.manual_seed(draws)
            result = sb.score(f"python:{file}:{name}", **SMALL, seed=seed)
            found.append(values(result))
        assert np.array_equal(found[0], found[1])
        assert not np.array_equal(found[0], found[2])


# The caller to encoders


@contextlib.contextmanager
def after(leak: str) -> Iterator[None]:
    """Inside: the caller has this setting."""
    with known_state():
        LEAKS[leak]()
        yield


STATES = {
    **{
        name: (lambda name=name: after(name))
        for name in FORWARD
        if not name.endswith(("fork", "generators", "_mode"))
    },
    "inference": torch.inference_mode,
    "no gradients": torch.no_grad,
    "with autocast": lambda: torch.autocast("cpu", dtype=torch.bfloat16),
    "with device": lambda: torch.device("meta"),
}


@pytest.mark.parametrize("name", STATES)
def test_the_callers_settings_do_not_count(
    name: str, expected: np.ndarray, convolutional: np.ndarray
) -> None:
    torch.manual_seed(0)
    network = leaking_encoders.clean().eval()
    encoder = load_encoder(spec("clean"), input_shape=(3, 8, 8))
    own = [values(sb.score(one, **SMALL)) for one in (network, lambda x: network(x))]
    x = torch.rand(4, 3, 8, 8)
    features = encoder(x)
    with STATES[name]():
        there = state()
        found = [values(sb.score(one, **SMALL)) for one in (network, lambda x: network(x))]
        again = values(sb.score(spec("clean"), **SMALL, dtype="float32"))
        builtin = values(sb.score("builtin:conv", **SMALL))
        by_hand = encoder(x)
        now = state()
        assert [one for one in there if now[one] != there[one]] == []
    # With other threads the BLAS adds in another order, and last bits differ.
    near = 1e-9 if name == "threads" else 0.0
    pairs = [*zip(found, own, strict=True), (again, expected), (builtin, convolutional)]
    assert all(np.allclose(*pair, rtol=near, atol=near) for pair in pairs)
    assert torch.equal(by_hand, features)


@pytest.mark.parametrize("dtype", ["float64", "float16"])
def test_a_callers_way_of_conversion_leaves_the_module_its_tensors(dtype: str) -> None:
    """A switch of torch has conversions put other tensors in place of the weights, which could not be put back."""
    network = nn.Sequential(nn.Flatten(), nn.Linear(192, 8), nn.GELU())
    own = values(sb.score(network, **SMALL, dtype=dtype))
    before = {name: (one, one.detach().clone()) for name, one in network.named_parameters()}
    with known_state():
        torch.__future__.set_overwrite_module_params_on_conversion(True)
        assert np.array_equal(values(sb.score(network, **SMALL, dtype=dtype)), own)
    for name, one in network.named_parameters():
        assert one is before[name][0] and torch.equal(one, before[name][1])


def test_a_module_made_in_inference_mode_is_scored_and_kept() -> None:
    with torch.inference_mode():
        network = leaking_encoders.clean().eval()
        inside = values(sb.score(network, **SMALL, dtype="float64"))
    assert np.array_equal(values(sb.score(network, **SMALL, dtype="float64")), inside)
    assert network.layers[0].weight.dtype == torch.float32


def test_weights_that_autocast_holds_are_not_those_that_were_cast_without_gradients() -> None:
    """Autocast keeps what it cast until it is left; what an encoder's own autocast cast has no gradients."""

    class Mixed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(192, 8)

        def forward(self, x: Tensor) -> Tensor:
            leaking_encoders.enter(torch.autocast("cpu", dtype=torch.bfloat16))
            made: Tensor = self.layer(x.flatten(1))
            return made.float()

    network = Mixed()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        sb.score(network, **SMALL)
        network.layer(torch.rand(3, 192)).float().sum().backward()
    assert network.layer.weight.grad is not None and bool(network.layer.weight.grad.any())


# The contexts themselves


def test_values_inside_are_those_torch_starts_with() -> None:
    for leak in set(FORWARD) - {"fork", "directory", "environment", "warnings", "generators", "threads"}:
        with after(leak), known_state(threads=1):
            assert (torch.get_default_dtype(), torch.get_default_device()) == (torch.float32, CPU), leak
            assert not torch.is_autocast_enabled("cpu") and not torch.is_autocast_enabled("cuda"), leak
            assert torch.get_float32_matmul_precision() == "highest" and not torch.backends.cudnn.allow_tf32
            assert torch.is_grad_enabled() and not torch.is_inference_mode_enabled(), leak
            assert not torch.are_deterministic_algorithms_enabled() and not torch.is_anomaly_enabled(), leak
            assert torch.backends.mkldnn.enabled and not torch.backends.cudnn.benchmark, leak
            assert np.geterr()["invalid"] == "warn" and torch.get_num_threads() == 1, leak
            if hasattr(torch.backends, "fp32_precision"):
                assert torch.backends.mkldnn.conv.fp32_precision in ("none", "ieee"), leak
                assert torch.backends.mkldnn.matmul.fp32_precision in ("none", "ieee"), leak


def test_settings_can_be_kept_where_torch_has_frozen_its_flags() -> None:
    flag = "__allow_nonbracketed_mutation_flag"
    package = sys.modules["torch.backends"].m  # what stands in for the package holds it
    torch.backends.cudnn.benchmark = True
    try:
        package.disable_global_flags()
        assert getattr(package, flag) is False
        with known_state():
            assert not torch.backends.cudnn.benchmark
        assert torch.backends.cudnn.benchmark
    finally:
        setattr(package, flag, True)
        torch.backends.cudnn.benchmark = False


def test_modules_of_installed_packages_stay(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("here", "there"):
        (tmp_path / name).mkdir()
        (tmp_path / name / f"synbench_{name}.py").write_text("", encoding="utf-8")
    monkeypatch.syspath_prepend(str(tmp_path / "here"))
    with own_registrations():
        sys.path.insert(0, str(tmp_path / "there"))
        import synbench_here  # type: ignore[import-not-found]  # noqa: F401
        import synbench_there  # type: ignore[import-not-found]  # noqa: F401
    assert sys.modules.pop("synbench_here") and "synbench_there" not in sys.modules


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.parametrize("context", [kept_state, known_state])
@pytest.mark.parametrize("fail", [False, True])
def test_a_forked_copy_ends_where_it_would_come_back(context: Any, fail: bool) -> None:
    child = 0
    with contextlib.suppress(KeyError), context():
        child = os.fork()
        if fail:
            raise KeyError
    assert child  # the copy is not here
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 1


def switches() -> list[Any]:
    """Every setting that decides about TF32, None where torch refuses to tell."""
    backends = torch.backends
    readers = [
        torch.get_float32_matmul_precision,
        lambda: backends.cuda.matmul.allow_tf32,
        lambda: backends.cudnn.allow_tf32,
        *(
            lambda place=place: getattr(place, "fp32_precision", None)
            for place in (
                backends,
                backends.cuda.matmul,
                backends.cudnn,
                getattr(backends.cudnn, "conv", None),
            )
        ),
    ]
    found: list[Any] = []
    for read in readers:
        try:
            found.append(read())
        except RuntimeError:
            found.append(None)
    return found


@pytest.mark.parametrize("before", ["default", "older", "newer"])
@pytest.mark.parametrize("fail", [False, True])
def test_switches_are_set_and_put_back(before: str, fail: bool) -> None:
    backends: Any = torch.backends
    if before == "newer" and not hasattr(backends.cuda.matmul, "fp32_precision"):
        pytest.skip("this torch has the older switches only")
    initial = switches()
    try:
        if before == "older":
            torch.set_float32_matmul_precision("high")
            backends.cudnn.allow_tf32 = False
        elif before == "newer":
            backends.cuda.matmul.fp32_precision = "tf32"
        there = switches()
        for allowed in (True, False):
            try:
                with tf32_allowed(GPU, allowed):
                    assert backends.cuda.matmul.allow_tf32 is allowed
                    assert backends.cudnn.allow_tf32 is allowed
                    if fail:
                        raise KeyError
            except KeyError:
                assert fail
            # what torch refused to tell of mixed settings it may tell now
            assert [now for was, now in zip(there, switches(), strict=True) if was is not None] == [
                was for was in there if was is not None
            ]
    finally:
        torch.set_float32_matmul_precision("highest")
        backends.cudnn.allow_tf32 = True
        if hasattr(backends.cuda.matmul, "fp32_precision"):
            backends.cuda.matmul.fp32_precision = "none"
    assert switches() == initial


def test_switches_stay_alone_without_a_gpu() -> None:
    there = switches()
    with tf32_allowed(CPU, True):
        assert switches() == there


def test_the_advice_of_torch_on_its_switches_is_not_passed_on(monkeypatch: pytest.MonkeyPatch) -> None:
    """Releases from 2.9 on give it once in a process, from whichever switch is touched first."""
    advice = "Please use the new API settings to control TF32 behavior, such as torch.backends.cudnn.conv"

    def advising(function: Any) -> Any:
        def call(*arguments: Any) -> Any:
            warnings.warn(advice, UserWarning, stacklevel=2)
            return function(*arguments)

        return call

    for name in ("get_float32_matmul_precision", "set_float32_matmul_precision"):
        monkeypatch.setattr(torch, name, advising(getattr(torch, name)))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(UserWarning, match="expected"), tf32_allowed(GPU, True):
            assert torch.backends.cudnn.allow_tf32
            warnings.warn("those of the caller are expected", UserWarning, stacklevel=1)
