"""Independent arithmetic that several test files compare with, the check of one-line errors, and other processes."""

from __future__ import annotations

import dataclasses
import math
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.optimize import brentq
from scipy.stats import norm

import synbench_fast as sb
from synbench_fast.errors import SynbenchError
from synbench_fast.stats.point import CurvePoint

Array = NDArray[np.float64]


@contextmanager
def refused(*parts: str) -> Iterator[None]:
    """The block raises a SynbenchError of one line that contains every one of `parts`."""
    with pytest.raises(SynbenchError) as caught:
        yield
    text = str(caught.value)
    assert "\n" not in text
    for part in parts:
        assert part in text, text


PATIENCE = 600.0  # seconds; only what hangs takes as long, on however busy a machine


def until(reached: Callable[[], bool]) -> bool:
    """Whether `reached` becomes true."""
    end = time.monotonic() + PATIENCE
    while not reached() and time.monotonic() < end:
        time.sleep(0.01)
    return reached()


def over(pid: int) -> bool:
    """Whether a process has ended, also where nothing has collected it."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] in "ZX"
    except (FileNotFoundError, ProcessLookupError):
        return True


WRITER = """
import sys
from synbench_fast.results.files import replacing
with replacing(sys.argv[1]) as temporary:
    temporary.write_text("half")
    print(temporary, flush=True)
    sys.stdin.read()
"""


@contextmanager
def writing(path: Path) -> Iterator[tuple[subprocess.Popen[str], Path]]:
    """A process inside its save of `path`, and the file that it writes; at the end of the block it is killed."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    command = [sys.executable, "-c", WRITER, str(path)]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment
    ) as process:
        try:
            assert process.stdout is not None
            yield process, Path(process.stdout.readline().rstrip("\n"))
        finally:
            process.kill()


def killed_inside_its_save(path: Path) -> Path:
    """What a process leaves that was killed while it wrote `path`."""
    with writing(path) as (process, temporary):
        process.send_signal(signal.SIGKILL)
        process.wait()
    assert temporary.read_text() == "half" and not path.exists()
    return temporary


def classifiers(m: Array, covariance: Array, eps: Sequence[float], cut: float = 0.0) -> tuple[Array, float]:
    """w [E, F] of the eps-robust Bayes classifiers and |m|, eigenvalues <= cut left out.

    From the definition: w = (C + g I)^-1 m with |g w| = eps |m|, by bisection on log g.
    """
    d, u = np.linalg.eigh(covariance)
    u, d = u[:, d > cut], d[d > cut]
    a = u.T @ m
    length = float(np.linalg.norm(a))
    rows = []
    for one in eps:
        g = 0.0
        if one > 0:

            def excess(log_g: float, one: float = one) -> float:
                return float(np.linalg.norm(a * np.exp(log_g) / (d + np.exp(log_g)))) / length - one

            g = np.exp(brentq(excess, np.log(d.min()) - 40, np.log(d.max()) + 40, xtol=1e-14, rtol=1e-14))
        rows.append(u @ (a / (d + g)))
    return np.array(rows), length


def population(m: Array, covariance: Array, eps: Sequence[float]) -> tuple[Array, Array, Array]:
    """t, t_rob and the deviation sqrt(w'Cw) of the margin, each [E], of the robust classifiers of a known C."""
    w, length = classifiers(m, covariance, eps)
    deviation = np.sqrt(np.einsum("ef,fg,eg->e", w, covariance, w))
    signal = w @ m
    t_rob = (signal - np.asarray(eps) * length * np.linalg.norm(w, axis=1)) / deviation
    return signal / deviation, t_rob, deviation


def drawn(
    n: int, f: int, t: float = 1.2, prior: float = 0.5, seed: int = 0, dtype: Any = np.float64
) -> tuple[Array, NDArray[np.int64], Array]:
    """Features [2, n, f] of two halves, labels [2, n], and the population's (m, C) as [f + 1, f]."""
    rng = np.random.default_rng(seed)
    mix = rng.standard_normal((f, f)) / math.sqrt(f) + 0.5 * np.eye(f)
    covariance = mix @ mix.T
    m = mix @ rng.standard_normal(f)
    m *= t / math.sqrt(m @ np.linalg.solve(covariance, m))
    y = (rng.random((2, n)) < prior).astype(np.int64)
    y[:, :2] = 0, 1
    x = 3.0 + (2 * y[..., None] - 1) * m + rng.standard_normal((2, n, f)) @ mix.T
    return x.astype(dtype), y, np.concatenate([m[None], covariance])


def evaluate(
    estimator: str, x: Any, y: Any, eps: Sequence[float] = (0.0, 0.05, 0.2, 0.5, 0.9), **options: Any
) -> CurvePoint:
    """Of two halves; estimators that need one read the first."""
    return sb.evaluate_features(x[0], y[0], x[1], y[1], eps=eps, estimator=estimator, **options)


def same(a: CurvePoint, b: CurvePoint, rtol: float = 0.0) -> None:
    """Every field of two points."""
    for field in dataclasses.fields(CurvePoint):
        left, right = getattr(a, field.name), getattr(b, field.name)
        if isinstance(left, np.ndarray):
            np.testing.assert_allclose(left, right, rtol=rtol, atol=rtol, err_msg=field.name)
        else:
            assert left == right, field.name


def gaussian_point(
    eps: Sequence[float], t: Any, left: Any = None, error: float = 0.02, seed: int = 0, **changes: Any
) -> CurvePoint:
    """A point of Gaussian margins with t, of which `left` (default 1 - eps) survives an attack; prior 1/2.

    The errors of accuracy, reach and robust accuracy are of size `error` and correlated at random.
    """
    size = len(eps)
    t = np.broadcast_to(t, size).astype(np.float64)
    t_rob = t * (1 - np.asarray(eps) if left is None else left)
    root = error * np.random.default_rng(seed).standard_normal((3 * size, 3 * size)) / math.sqrt(3 * size)
    covariance = root @ root.T
    deviation = np.sqrt(np.diagonal(covariance))
    with np.errstate(divide="ignore"):
        reach = np.where(t > 0, norm.cdf(t) + norm.pdf(t) / t, np.inf)
    fields: dict[str, Any] = {
        "eps": np.asarray(eps, dtype=np.float64), "accuracy": norm.cdf(t), "robust_accuracy": norm.cdf(t_rob),
        "bound": reach / norm.cdf(t), "t": t, "t_rob": t_rob, "stderr": np.full(size, error),
        "accuracy_stderr": deviation[:size], "robust_accuracy_stderr": deviation[2 * size :],
        "bound_stderr": deviation[size : 2 * size], "ridge": np.zeros(size), "kappa": np.zeros(size),
        "count": 1000, "feature_dim": 4, "rank": 4, "estimator": "consistent", "covariance": covariance,
        "assumes_gaussian": changes.get("estimator") == "gaussian",
    }  # fmt: skip
    return CurvePoint(**(fields | changes))
