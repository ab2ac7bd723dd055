"""Arguments that several entry points share: what other libraries hand over is read as it is meant, or refused."""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
import torch
from checks import refused

import synbench_fast as sb
from synbench_fast import arguments
from synbench_fast.checks import as_numbers, check_threads
from synbench_fast.config import ScoreConfig
from synbench_fast.fleet.configuration import make_request
from synbench_fast.fleet.executors import MOST_WORKERS
from synbench_fast.fleet.launch import place_workers, run_fleet
from synbench_fast.fleet.ray_executor import RayExecutor

X = torch.randn(64, 3, generator=torch.Generator().manual_seed(0))
Y = torch.arange(64) % 2
X[:, 0] += Y


def accuracy(x: Any = X, y: Any = Y) -> Any:
    return sb.evaluate_features(x, y, eps=(0.0, 0.2), estimator="consistent").accuracy


def nested() -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return torch.nested.nested_tensor([X[0], X[1]])


def quantised(value: Any) -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return torch.quantize_per_tensor(value.float(), 1.0, 0, torch.qint8)


def test_features_that_mean_the_same_give_the_same() -> None:
    wanted = accuracy()
    assert (accuracy(X.clone().requires_grad_(), Y.float().requires_grad_()) == wanted).all()
    assert (accuracy(np.ma.array(X.numpy()), np.ma.array(Y.numpy())) == wanted).all()  # nothing is masked
    negated = torch.complex(torch.zeros(64, 3), -X).conj().imag  # a view that torch negates when it is read
    assert negated.is_neg() and (accuracy(negated) == wanted).all()


@pytest.mark.parametrize(
    ("change", "got"),
    [
        (lambda x: x.to_sparse(), "a tensor of layout sparse_coo"),
        (lambda x: x.to_mkldnn(), "a tensor of layout _mkldnn"),
        (lambda x: nested(), "a nested tensor"),
        (quantised, "a quantised tensor"),
        (lambda x: x.to("meta"), "a tensor of device meta, which has no values"),
        (lambda x: x.to(torch.complex64), "a tensor of complex64"),
        (lambda x: x.to(torch.float8_e4m3fn), "a tensor of float8_e4m3fn"),
        (lambda x: x.to(torch.float8_e5m2), "a tensor of float8_e5m2"),
        (lambda x: x.numpy().astype(complex), "an array of complex128"),
        (lambda x: np.ma.array(x.numpy(), mask=x.numpy() > 0.9), "a masked array with"),
    ],
)
def test_arrays_whose_numbers_are_not_plain(change: Callable[[Any], Any], got: str) -> None:
    """A mask was dropped, and what it hid counted; others were tracebacks of the libraries."""
    with refused("train_x: expected dense real numbers, got ", got):
        accuracy(change(X))
    values = torch.tensor([0.25, 1.0])
    with refused("eps: expected dense real numbers, got ", got):
        sb.evaluate_features(X, Y, eps=change(values), estimator="consistent")
    with refused("thresholds: expected dense real numbers, got ", got):
        sb.auc_ratio([1.0, 2.0], [0.7, 0.9], [1.5, 2.0], thresholds=change(values))
    for name in ("scales", "accuracy", "bound", "raw_accuracy", "raw_bound"):
        curve: dict[str, Any] = {"scales": [1.0, 2.0], "accuracy": [0.7, 0.9], "bound": [1.5, 2.0]}
        curve |= {"raw_accuracy": [0.8, 0.9], "raw_bound": [1.5, 2.0]} if name.startswith("raw") else {}
        with refused(f"{name}: expected dense real numbers, got ", got):
            sb.auc_ratio(**{**curve, name: change(values)}, thresholds=0.6)
    with refused("train_y: expected dense real numbers, got "):
        accuracy(y=change(Y.float()))


def test_missing_values_of_a_table() -> None:
    pandas = pytest.importorskip("pandas")
    frame = pandas.DataFrame(X.numpy()).astype("Float64")
    frame.iloc[0, 0] = pandas.NA
    with refused("train_x: expected a NumPy, Torch or CuPy array, got DataFrame"):
        accuracy(frame)
    assert as_numbers(pandas.Series([0.0, 0.25]).astype("Float64"), "eps") == (0.0, 0.25)
    for missing in (pandas.NA, pandas.array([0.1, pandas.NA], dtype="Float64")):
        with refused("eps: expected "):
            sb.evaluate_features(X, Y, eps=missing, estimator="consistent")


def test_numbers_of_many_kinds() -> None:
    one = torch.tensor([0.0, 0.25], requires_grad=True)
    for values in (
        one,
        one.tolist(),
        one.detach().numpy(),
        (np.float32(0), Fraction(1, 4)),
        [0, np.longdouble(0.25)],
    ):
        assert as_numbers(values, "eps") == (0.0, 0.25)
    assert str(as_numbers([-0.0, np.float32(-0.0)], "eps")) == "(0.0, 0.0)"
    assert as_numbers(torch.tensor(0.25).bfloat16(), "eps") == (0.25,) == as_numbers(0.25, "eps")
    for values in (
        "0.2", ["0.2"], b"1", True, [False], [True, 0.2], np.array([True]), None, [None], {0.1}, [[0.1]], [[0.1], [0.1, 0.2]],
        0.1 + 0j, np.array(["2020"], "M8[Y]"), [10**400], [np.ma.masked], [one[1]], object(), np.zeros((30, 30)),
    ):  # fmt: skip
        with refused("eps: expected "):
            as_numbers(values, "eps")
    for name, values in (
        ("prior", "x"),
        ("prior", None),
        ("prior", [0.5, 0.5]),
        ("group", 1.5),
        ("group", True),
    ):
        with refused(f"{name}: expected "):
            sb.evaluate_features(X, Y, X, Y, **{name: values})  # type: ignore[arg-type]


@pytest.mark.parametrize("value", [10**400, -(10**400), Fraction(10**400, 3)])
def test_numbers_that_no_float_holds(value: Any) -> None:
    options: dict[str, Any] = {"input_shape": (4,), "scales": 1, "samples": 64}
    for name in ("prior", "center"):
        with refused(f"{name}: expected a "):
            sb.GaussianTask((4,), (1.0,), **{name: value})
        with refused(f"{name}: expected a "):
            sb.score("builtin:identity", **options, **{name: value})
        suite = sb.Suite("one", (sb.TaskDefinition("first", **{name: value}),))
        with refused(f"{name}: expected a "):
            sb.score_suite("builtin:identity", tasks=suite, **options)
    for name in ("half_width", "eps", "thresholds", "samples", "seed", "mean", "std"):
        with refused(f"{name}: expected "):
            sb.score("builtin:identity", **{**options, name: value})


def test_booleans_are_no_accuracy() -> None:
    with refused("accuracy: expected numbers, and of bound, got bool"):
        sb.auc_ratio([1.0, 2.0], [True, True], [1.5, 2.0], thresholds=0.6)


@pytest.mark.parametrize("threads", [0, -1, 10**9, 2**63, True, 2.0, "2", np.int64(10**9), np.bool_(True)])
def test_absurd_numbers_of_threads(threads: Any) -> None:
    expected = f"threads: expected an integer from 1 to {arguments.most_at_once()}, got "
    for call in (
        lambda: sb.score("builtin:conv", input_shape=(1, 4, 4), threads=threads),
        lambda: sb.score_suite("builtin:conv", input_shape=(1, 4, 4), threads=threads),
        lambda: sb.studies.robust_linear_probe("builtin:conv", {"x": X, "y": Y}, threads=threads),
        lambda: sb.studies.inherit({"a": "digits:standard"}, threads=threads),
        lambda: sb.studies.validate([f"builtin:conv?dim={n}" for n in (4, 5, 6)], threads=threads),
        lambda: make_request("builtin:conv", ScoreConfig(**{"threads": threads})),
        lambda: place_workers("cpu", threads=threads),
    ):
        with refused(expected):
            call()


def test_threads_that_are_some() -> None:
    assert arguments.most_at_once() == max(64, 4 * (os.cpu_count() or 1))
    assert check_threads(None) is None and check_threads(np.int32(3)) == 3  # type: ignore[arg-type]
    assert type(check_threads(np.int32(3))) is int  # type: ignore[arg-type]
    assert check_threads(arguments.most_at_once()) == arguments.most_at_once()
    assert make_request("builtin:conv", ScoreConfig(**{"threads": None}))["options"]["threads"] == 1


@pytest.mark.parametrize("workers", [0, 10**9, True, 2.0, "2", np.int64(10**9)])
def test_absurd_numbers_of_workers(workers: Any, tmp_path: Any) -> None:
    """A million processes would be started, one after the other."""
    with refused("workers: expected "):
        place_workers("cpu", workers)
    with refused(f"workers: expected an integer from 1 to {MOST_WORKERS}, got "):
        run_fleet(["builtin:conv"], tmp_path / "store", workers=workers)
    with refused(f"workers: expected an integer from 1 to {MOST_WORKERS}, got "):
        RayExecutor("local", workers=workers)
    assert not (tmp_path / "store").exists()


def test_absurd_devices(tmp_path: Any) -> None:
    most = arguments.most_at_once()
    assert place_workers(f"cpu:{most}") == ["cpu"] * most == place_workers("cpu", np.int64(most))  # type: ignore[arg-type]
    with refused(f"devices: expected at most {most} workers on this machine, got 999999"):
        place_workers("cpu:999999")
    with refused(f"workers: expected at most {most} workers on this machine, got {most + 1}"):
        place_workers("cpu", most + 1)
    for devices in (5, None, ["cpu"], True):
        with refused("devices: expected text such as 'cpu:2' or 'cuda:0,cuda:1', got "):
            place_workers(devices)  # type: ignore[arg-type]
    for text in ("cpu:\u0663", "cpu:1_0", "cuda:\u0663", "cpu:-1", "cpu:1e3", ""):
        with refused("devices: expected auto, or some of cpu"):
            place_workers(text)
