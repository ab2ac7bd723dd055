"""score_auc: the threshold integral of the expected-bound curve."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from synbench_fast.errors import SynbenchError, suggest
from synbench_fast.ops.checked import array, check_device, check_real
from synbench_fast.ops.dispatch import Operation

__all__ = ["GRID", "Integral", "score_auc", "score_auc_cpp"]

Integral = Literal["exact", "grid"]
GRID = (0.6, 1.0, 100)  # first, last and number of points of the published script's threshold grid

_backends = Operation[[Tensor, Tensor, Tensor, Integral], Tensor]("score_auc")


def score_auc(
    accuracy: Tensor,
    bound: Tensor,
    thresholds: Tensor,
    *,
    integral: Integral = "exact",
    backend: str = "auto",
) -> Tensor:
    """Area under the expected-bound curve above each threshold accuracy.

    With E(a) = 1/S sum_s bound_s 1[accuracy_s > a]:

        exact   int_{a_t}^1 E(a) da = 1/S sum_s bound_s max(0, accuracy_s - a_t)
        grid    sum of E over the points of linspace(0.6, 1, 100) that are >= a_t, the published script's
                sum; it carries no step width, so only ratios of such areas mean anything

    Args:
        accuracy: [..., S], probabilities; leading axes are replicates (eps, bootstrap draws, ...).
        bound: same shape, in units of the class half-distance. Infinite where there is no signal (t = 0);
            such scales contribute 0.
        thresholds: [A], in [0, 1]; on any device.
        integral: "exact" or "grid".
        backend: "auto", "cpp", "cuda" or "torch" (float64 specification, any device).

    Returns:
        float64 [..., A] on the device of `accuracy`; without gradients.

    Raises:
        SynbenchError: shapes or devices that do not agree, no scale, a threshold outside [0, 1], an unknown
            integral.

    Source: SynBench (Ko et al.), the expected bound as a function of the threshold accuracy and its
    normalised area; the exact integral replaces the script's grid.
    """
    if integral not in ("exact", "grid"):
        raise SynbenchError(
            f"integral: expected 'exact' or 'grid', got {integral!r}{suggest(str(integral), ['exact', 'grid'])}"
        )
    check_real(accuracy=accuracy, bound=bound, thresholds=thresholds)
    if accuracy.ndim == 0 or accuracy.shape != bound.shape:
        raise SynbenchError(
            "bound: expected the shape [..., S] of accuracy, got "
            f"{list(bound.shape)} for accuracy {list(accuracy.shape)}"
        )
    check_device("accuracy", accuracy.device, bound=bound)
    if accuracy.shape[-1] == 0:
        raise SynbenchError("accuracy: expected at least one scale, got none")
    if thresholds.ndim != 1 or not bool(((thresholds >= 0) & (thresholds <= 1)).all()):
        raise SynbenchError(f"thresholds: expected values in [0, 1], got {thresholds.tolist()}")
    return _backends.on(accuracy.device.type, backend)(
        accuracy.detach().double(),
        bound.detach().double(),
        thresholds.detach().to(accuracy.device, torch.float64),
        integral,
    )


def score_auc_cpp(accuracy: Tensor, bound: Tensor, thresholds: Tensor, integral: Integral) -> Tensor:
    from synbench_fast import _core

    leading, scales = accuracy.shape[:-1], accuracy.shape[-1]
    area = _core.score_auc(
        array(accuracy.reshape(-1, scales)),
        array(bound.reshape(-1, scales)),
        array(thresholds),
        integral == "grid",
        torch.get_num_threads(),
    )
    return torch.from_numpy(area).reshape(*leading, len(thresholds))
