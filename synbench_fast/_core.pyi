"""The compiled core, built from src/ and csrc/. Its arrays are taken as they are or refused with ValueError."""

from collections.abc import Sequence
from typing import Any, TypedDict

import numpy as np
from numpy.typing import NDArray

# Of the dtypes that the binding names; uint16 holds the bits of the 16-bit floats.
_Array = NDArray[Any]

class _RobustSums(TypedDict):
    """csrc/robust_solve.hpp: the largest kept eigenvalue as unit, but for itself and the threshold."""

    largest: float
    threshold: float
    rank: int
    smallest: float
    a2: float
    a2d: float
    trace: float
    trace_square: float
    ridge: NDArray[np.float64]
    variance: NDArray[np.float64]
    kappa: NDArray[np.float64]
    f: NDArray[np.float64]
    df: NDArray[np.float64]
    weights: NDArray[np.float64]

class _SweepTotals(TypedDict):
    """csrc/score_sweep.hpp."""

    correct: NDArray[np.int64]
    robust_correct: NDArray[np.int64]
    groups: NDArray[np.int64]
    group_mean_sum: NDArray[np.float64]
    bound_sum: NDArray[np.float64]
    bound_square_sum: NDArray[np.float64]
    margin_sum: NDArray[np.float64]
    margin_square_sum: NDArray[np.float64]

def simd_level() -> str: ...
def simd_levels() -> list[str]: ...
def sample_mixture(
    x: _Array,
    labels: _Array,
    *,
    type: str,
    start: int,
    seed: int,
    stream: int,
    purpose: int = 0,
    channels: int,
    pixels: int,
    center: float,
    scale: float,
    pattern: _Array | None = None,
    mean: Sequence[float] = [],
    std: Sequence[float] = [],
    channels_last: bool = False,
    threads: int = 0,
    level: str = "auto",
) -> None: ...
def normals_of_words(radius: _Array, angle: _Array, *, level: str = "auto") -> NDArray[np.float32]: ...
def philox4x32(seed: int, counter: Sequence[int]) -> list[int]: ...
def filter_spectrum(x: _Array, gain: _Array, *, threads: int = 0) -> None: ...
def robust_solve(
    m: _Array,
    covariance: _Array,
    eps: _Array,
    known: bool,
    dof: float,
    c0: float,
    cut: float,
    want_weights: bool,
    threads: int,
) -> _RobustSums: ...
def score_sweep(
    x: _Array,
    y: _Array,
    weights: _Array,
    center: _Array,
    signal: _Array,
    robust_margin: _Array,
    offset: float,
    group: int,
    threads: int,
) -> _SweepTotals: ...
def score_auc(
    accuracy: _Array, bound: _Array, thresholds: _Array, grid: bool, threads: int
) -> NDArray[np.float64]: ...
def nuclear_norm(products: _Array, rows: _Array, columns: _Array, threads: int) -> NDArray[np.float64]: ...
def fields(
    x: _Array,
    gain: _Array,
    mix: _Array,
    center: float,
    *,
    seed: int,
    purpose: int,
    stream: int,
    start: int,
    threads: int = 0,
) -> None: ...
def paint(
    x: _Array,
    ground: _Array,
    strokes: _Array,
    colours: _Array,
    outlines: _Array,
    threads: int = 0,
    *,
    seed: int = 0,
    purpose: int = 0,
    stream: int = 0,
    start: int = 0,
    deviation: float = 0.0,
) -> None: ...
def random_words(
    seed: int, purpose: int, stream: int, start: int, count: int, first: int, quads: int
) -> NDArray[np.uint32]: ...
def roll(x: _Array, picture: _Array, places: _Array, contrast: _Array, threads: int = 0) -> None: ...
def view(
    x: _Array,
    scene: _Array,
    maps: _Array,
    colours: _Array,
    threads: int = 0,
    *,
    seed: int = 0,
    purpose: int = 0,
    stream: int = 0,
    start: int = 0,
    deviation: float = 0.0,
) -> None: ...
