"""Task-robust pre-training: the minimax loss over representative tasks, and helpers that separate them.

`TaskRobustLoss` turns the losses of several tasks into one objective that cares for the worst; the rest splits
an upstream objective into such tasks. docs/minimax.md says when to use which mode.
"""

from __future__ import annotations

from synbench_fast.minimax.loss import MODES, RobustLoss, TaskRobustLoss
from synbench_fast.minimax.separation import (
    REGIONS,
    TOKEN_CLASSES,
    TaskLosses,
    fit_clusters,
    group_losses,
    head_losses,
    nearest_cluster,
    patch_losses,
    patch_regions,
    patch_roughness,
    quantile_edges,
    token_classes,
    token_losses,
)

__all__ = [
    "MODES",
    "REGIONS",
    "TOKEN_CLASSES",
    "RobustLoss",
    "TaskLosses",
    "TaskRobustLoss",
    "fit_clusters",
    "group_losses",
    "head_losses",
    "nearest_cluster",
    "patch_losses",
    "patch_regions",
    "patch_roughness",
    "quantile_edges",
    "token_classes",
    "token_losses",
]
