"""Ranks of the members of a board, every one an interval, all of them true together with 95 %.

Three ways, by the size of the board and by what its results store:

pairs (up to 32 members): `compare`, whose intervals come from simulating the largest of all differences.
bound (up to 2000): the differences and standard errors of `compare`, and in place of the simulated quantile its
    upper bound by Sidak (1967): with P pairs, Phi^-1((1 + 0.95^(1/P)) / 2). It holds for correlated normals, so
    the ranks are right with at least 95 %; they are a little wider.
separate (larger boards, suites): every score gets its own interval at 1 - 0.05/M, and one member is better than
    another if their intervals do not overlap (Bonferroni). This asks nothing of the correlations and is the
    widest.

Results without influences (the estimator `paper`, documents of version 1) are not ranked: their samples' common
luck is unknown.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np
from numpy.typing import NDArray

from synbench_fast.report.collection import Board
from synbench_fast.report.reader import CURVE, Details, Entry, Suite, details

__all__ = ["Ranking", "rank"]

PAIRS_LIMIT = 32
BOUND_LIMIT = 2000
_LEVEL = 0.05
_BLOCK = 256
# Correlations come from float32 products; this is added to 1 - rho so that rounding makes no difference certain.
_ROUNDING = 4e-6

Array = NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class Ranking:
    """Best and worst rank of every member at one budget and threshold, None for one that is not ranked.

    `method` is pairs, bound, separate or none, `note` the reason why members are not ranked.
    """

    eps: float
    threshold: float
    ranks: list[tuple[int, int] | None]
    method: str
    note: str


def rank(
    board: Board, points: Sequence[tuple[float, float]], *, pairs_limit: int = PAIRS_LIMIT
) -> list[Ranking]:
    """The ranking at each (eps, threshold); boards of at most `pairs_limit` members are simulated."""
    scored = [_scores(board, eps, threshold) for eps, threshold in points]
    if board.suite:
        usable = np.ones(len(board.members), dtype=bool)
    else:
        usable = np.array([isinstance(one, Entry) and one.paired for one in board.members])
    known = [usable & np.isfinite(score) & np.isfinite(stderr) for score, stderr in scored]
    size = max((int(one.sum()) for one in known), default=0)
    if size < 2:
        found = [(np.zeros((len(board.members), 2), dtype=int), "none")] * len(points)
    elif board.suite or size > BOUND_LIMIT:
        found = [(_separate(*one, keep), "separate") for one, keep in zip(scored, known, strict=True)]
    elif size <= pairs_limit:
        found = _pairs(board, points, known)
    else:
        found = _bounded(board, points, scored, known)
    return [
        Ranking(
            eps=eps,
            threshold=threshold,
            ranks=[
                (int(low), int(high)) if keep[i] and method != "none" else None
                for i, (low, high) in enumerate(ranks)
            ],
            method=method,
            note=_note(usable, keep),
        )
        for (eps, threshold), keep, (ranks, method) in zip(points, known, found, strict=True)
    ]


def _note(usable: NDArray[np.bool_], keep: NDArray[np.bool_]) -> str:
    notes = []
    if not usable.all():
        notes.append(f"{int((~usable).sum())} not ranked: no influences stored")
    if (usable & ~keep).any():
        notes.append(f"{int((usable & ~keep).sum())} not ranked: no score with a standard error")
    if keep.sum() == 1:
        notes.append("one result is not ranked")
    return "; ".join(notes)


def _scores(board: Board, eps: float, threshold: float) -> tuple[Array, Array]:
    """Score (of a suite the mean) and standard error of every member."""
    rows = [
        one.score(eps, threshold)[0][:2] if isinstance(one, Suite) else one.score(eps, threshold)[:2]
        for one in board.members
    ]
    values = np.array(rows, dtype=float).reshape(-1, 2)
    return values[:, 0], values[:, 1]


def _separate(score: Array, stderr: Array, keep: NDArray[np.bool_]) -> NDArray[np.int_]:
    """Ranks from intervals that do not overlap: counts in sorted ends, no pairs."""
    ranks = np.zeros((len(score), 2), dtype=int)
    s, error = score[keep], stderr[keep]
    if len(s) < 2:
        ranks[keep] = 1
        return ranks
    z = NormalDist().inv_cdf(1 - _LEVEL / (2 * len(s)))
    low, high = np.sort(s - z * error), np.sort(s + z * error)
    ranks[keep, 0] = 1 + len(s) - np.searchsorted(low, s + z * error, side="right")
    ranks[keep, 1] = len(s) - np.searchsorted(high, s - z * error, side="left")
    return ranks


@contextmanager
def _one_thread() -> Iterator[None]:
    """Thousands of small operations: on a busy machine threads of torch that wait for each other take 15 times as long."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _pairs(
    board: Board, points: Sequence[tuple[float, float]], known: Sequence[NDArray[np.bool_]]
) -> list[tuple[NDArray[np.int_], str]]:
    from synbench_fast.compare import compare
    from synbench_fast.results import Result

    used = np.logical_or.reduce(known)
    results = {i: Result.load(board.members[i].file) for i in np.flatnonzero(used)}
    found = []
    for (eps, threshold), keep in zip(points, known, strict=True):
        ranks = np.zeros((len(keep), 2), dtype=int)
        places = np.flatnonzero(keep)
        if len(places) < 2:
            found.append((ranks, "none"))
            continue
        with _one_thread():
            comparison = compare(*(results[i] for i in places), eps=eps, thresholds=threshold)
        scores = np.array([results[i].score(eps, threshold).score for i in places])
        order = places[np.argsort(-scores, kind="stable")]  # the order of Comparison.ranking
        for i, one in zip(order, comparison.ranking, strict=True):
            ranks[i] = one.best_rank, one.worst_rank
        found.append((ranks, "pairs"))
    return found


def reach(pairs: int) -> float:
    """Sidak's bound of the 95 % quantile of the largest of `pairs` |normals|, however they are correlated."""
    # 1 - 0.95^(1/P) from the logarithm: the difference itself has no digits left for many pairs.
    tail = -math.expm1(math.log1p(-_LEVEL) / pairs)
    return -NormalDist().inv_cdf(tail / 2)


def _bounded(
    board: Board,
    points: Sequence[tuple[float, float]],
    scored: Sequence[tuple[Array, Array]],
    known: Sequence[NDArray[np.bool_]],
) -> list[tuple[NDArray[np.int_], str]]:
    used = np.flatnonzero(np.logical_or.reduce(known))
    members = [one for i in used if isinstance(one := board.members[i], Entry)]
    read = [details(one, influence=True) for one in members]
    found = []
    for (eps, threshold), (score, stderr), keep in zip(points, scored, known, strict=True):
        ranks = np.zeros((len(keep), 2), dtype=int)
        chosen = np.flatnonzero(keep[used])
        if len(chosen) < 2:
            found.append((ranks, "none"))
            continue
        some = [members[i] for i in chosen]
        with _one_thread():
            unit = _directions(some, [read[i] for i in chosen], eps, threshold)
        places = used[chosen]
        ranks[places] = _count(score[places], stderr[places], unit)
        found.append((ranks, "bound"))
    return found


def _directions(
    members: Sequence[Entry], read: Sequence[Details], eps: float, threshold: float
) -> NDArray[np.float32]:
    """[M, S G] influences of groups of samples on the score, of length 1: `compare`'s, all members at once."""
    import torch

    from synbench_fast.area_errors import expected_slope

    curves = np.stack(
        [
            np.frombuffer(more.curve, dtype=np.float32).reshape(-1, len(one.eps), len(CURVE))[
                :, one.eps.index(eps)
            ]
            for one, more in zip(members, read, strict=True)
        ]
    ).astype(np.float64)
    t, t_rob, stderr = (
        torch.from_numpy(curves[:, :, CURVE.index(name)].reshape(-1)) for name in ("t", "t_rob", "t_stderr")
    )
    level = torch.tensor([threshold], dtype=torch.float64)
    slope = expected_slope(t, t_rob, stderr, level, members[0].task["prior"])[:, 0].numpy()
    slope = np.nan_to_num(slope, posinf=0.0, neginf=0.0).reshape(curves.shape[:2])
    sums = [
        np.array([one[place] for one in more.influence or []], dtype=np.float64)
        for more, place in ((more, one.eps.index(eps)) for one, more in zip(members, read, strict=True))
    ]
    flat = np.zeros((len(members), curves.shape[1], max(one.shape[1] for one in sums)))
    for row, values in zip(flat, sums, strict=True):
        row[:, : values.shape[1]] = values
    flat *= slope[:, :, None]
    rows = flat.reshape(len(members), -1)
    norms = np.sqrt((rows * rows).sum(1))
    return np.asarray(rows / np.where(norms > 0, norms, 1.0)[:, None], dtype=np.float32)


def _count(score: Array, stderr: Array, unit: NDArray[np.float32]) -> NDArray[np.int_]:
    """[M, 2] ranks: how many are better, how many worse. A block of rows at a time bounds the memory."""
    size = len(score)
    limit = reach(size * (size - 1) // 2)
    ranks = np.zeros((size, 2), dtype=int)
    for start in range(0, size, _BLOCK):
        rows = slice(start, start + _BLOCK)
        apart = np.clip(1.0 - (unit[rows] @ unit.T).astype(np.float64), 0.0, 2.0) + _ROUNDING
        # (s_i - s_j)^2 + 2 s_i s_j (1 - rho), in which nothing cancels
        variance = (stderr[rows, None] - stderr) ** 2 + 2 * stderr[rows, None] * stderr * apart
        gap = score[rows, None] - score
        certain = np.abs(gap) > limit * np.sqrt(variance)
        ranks[rows, 0] = 1 + (certain & (gap < 0)).sum(1)
        ranks[rows, 1] = size - (certain & (gap > 0)).sum(1)
    return ranks
