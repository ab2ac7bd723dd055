"""Splitting an upstream objective into tasks: groups of elements, and the mean loss of each.

All of it is two steps: a group number for every element (a token, a patch, a sample), which tags, regions,
roughness or clusters give, and `group_losses`, which averages the elements of each group.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from synbench_fast.errors import SynbenchError, suggest

__all__ = [
    "REGIONS",
    "TOKEN_CLASSES",
    "TaskLosses",
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

TOKEN_CLASSES = ("word", "piece", "number", "punctuation", "special")
REGIONS = ("rings", "quadrants", "rows", "columns")


class TaskLosses(NamedTuple):
    """Mean loss of every task [n], with its graph, and the number of elements it is over [n].

    The order is that of the arguments of `TaskRobustLoss`: `robust(*group_losses(...))`. A task without
    elements has loss 0, without gradient, and count 0.
    """

    losses: Tensor
    counts: Tensor


def group_losses(values: Tensor, groups: Tensor, tasks: int, *, mask: Tensor | None = None) -> TaskLosses:
    """The mean of the losses of each group's elements,  L_i = sum_{j: g_j = i} v_j / #{j: g_j = i}.

    Args:
        values: loss of every element, floating, any shape.
        groups: integers of the same shape; elements outside 0 ... tasks - 1 belong to no task.
        tasks: their number n.
        mask: of the same shape; elements where it is False do not count.

    Returns:
        TaskLosses: float32, or float64 for float64 values. An element that does not count may hold anything.
    """
    _check_groups("groups", groups, values)
    if tasks < 1:
        raise SynbenchError(f"tasks: expected at least 1, got {tasks}")
    counted = (groups >= 0) & (groups < tasks)
    if mask is not None:
        if mask.shape != values.shape:
            raise SynbenchError(f"mask: expected shape {list(values.shape)}, got {list(mask.shape)}")
        counted = counted & mask.bool()
    values = values if values.dtype == torch.float64 else values.float()
    # A row more takes what does not count.
    place = torch.where(counted, groups.long(), tasks).flatten()
    kept = torch.where(counted, values, 0.0).flatten()
    sums = values.new_zeros(tasks + 1).index_add(0, place, kept)[:tasks]
    counts = values.new_zeros(tasks + 1).index_add(0, place, counted.flatten().to(values))[:tasks]
    return TaskLosses(sums / counts.clamp_min(1), counts.detach())


def token_losses(
    logits: Tensor, labels: Tensor, tags: Tensor, tasks: int, *, ignore_index: int = -100
) -> TaskLosses:
    """Masked (or next) tokens by group: the cross-entropy of the tokens of each tag.

    Args:
        logits: [..., V].
        labels: [...], ignore_index where a token is not predicted.
        tags: group of every token [...], such as its part of speech; or a table [V] from a token to its group,
            which is looked up for the labels (see `token_classes`).
        tasks: number of groups; tokens tagged outside 0 ... tasks - 1 belong to no task.
    """
    if logits.shape[:-1] != labels.shape:
        raise SynbenchError(f"labels: expected shape {list(logits.shape[:-1])}, got {list(labels.shape)}")
    predicted = labels != ignore_index
    if tags.shape != labels.shape and tags.shape == logits.shape[-1:]:
        tags = tags.to(labels.device)[torch.where(predicted, labels, 0)]
    _check_groups("tags", tags, labels)
    values = functional.cross_entropy(
        logits.flatten(0, -2).float() if logits.dtype != torch.float64 else logits.flatten(0, -2),
        labels.flatten(),
        ignore_index=ignore_index,
        reduction="none",
    )
    return group_losses(values.view_as(labels), tags, tasks, mask=predicted)


def token_classes(
    vocabulary: Sequence[str], *, continuation: str = "##", boundary: str = "", special: Sequence[str] = ()
) -> Tensor:
    """A table [V] from every token of a vocabulary to its class by spelling, the index in TOKEN_CLASSES.

    - special: those listed, and what is written as `[NAME]` or `<NAME>`
    - number: digits only
    - punctuation: marks and symbols only
    - piece: a part of a word that is not its beginning: it starts with `continuation`, or, if `boundary` is given
      (the sign in front of words, such as a space or U+2581), does not start with that
    - word: the rest

    Parts of speech proper depend on the sentence; give `token_losses` the tags of a tagger for those.
    """
    found = []
    for token in vocabulary:
        inner = bool(boundary) and not token.startswith(boundary)
        text = token.removeprefix(boundary) if boundary else token
        if not boundary and continuation and text.startswith(continuation) and text != continuation:
            text, inner = text.removeprefix(continuation), True
        marked = len(token) > 2 and token[0] + token[-1] in ("[]", "<>")
        if token in special or marked or not text:
            name = "special"
        elif all(unicodedata.category(one).startswith("N") for one in text):
            name = "number"
        elif all(unicodedata.category(one)[0] in "PS" for one in text):
            name = "punctuation"
        else:
            name = "piece" if inner else "word"
        found.append(TOKEN_CLASSES.index(name))
    return torch.tensor(found)


def patch_losses(
    prediction: Tensor, target: Tensor, groups: Tensor, tasks: int, *, mask: Tensor | None = None
) -> TaskLosses:
    """Masked patches by group: the mean squared error of the patches of each.

    Args:
        prediction, target: [B, P, D].
        groups: [B, P], or [P] where all images have the same (`patch_regions`).
        mask: [B, P], True where a patch was hidden; by default all patches count.
    """
    if prediction.shape != target.shape or prediction.ndim != 3:
        raise SynbenchError(
            "prediction: expected the shape [B, P, D] of the target, "
            f"got {list(prediction.shape)} for {list(target.shape)}"
        )
    values = (prediction - target).square().mean(-1)
    if groups.shape == values.shape[1:]:
        groups = groups.to(values.device).expand(values.shape)
    return group_losses(values, groups, tasks, mask=mask)


def patch_regions(height: int, width: int, kind: str = "rings", tasks: int = 2) -> Tensor:
    """Group of every patch of a grid [height, width], flattened row by row: int64 [P].

    - rings: 0 in the middle, tasks - 1 at the border, bands of equal width in the distance to the border
    - quadrants: four, row by row
    - rows, columns: bands of nearly equal width
    """
    if kind not in REGIONS:
        raise SynbenchError(
            f"kind: expected one of {', '.join(REGIONS)}, got {kind!r}{suggest(str(kind), REGIONS)}"
        )
    if height < 1 or width < 1:
        raise SynbenchError(f"height, width: expected at least 1, got {height} and {width}")
    row, column = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    if kind == "quadrants":
        return (2 * (2 * row >= height) + (2 * column >= width)).flatten()
    border = torch.minimum(
        torch.minimum(row, height - 1 - row), torch.minimum(column, width - 1 - column)
    )  # 0 for the outermost patches
    position, length = {
        "rows": (row, height),
        "columns": (column, width),
        "rings": (int(border.max()) - border, int(border.max()) + 1),
    }[kind]
    if not 1 <= tasks <= length:
        raise SynbenchError(f"tasks: expected 1 to {length} for {kind} of {height} x {width}, got {tasks}")
    return (position * tasks // length).flatten()


def patch_roughness(patches: Tensor) -> Tensor:
    """Frequency content of patches [..., h, w]: the share of a patch's energy in its fine structure, [...].

    Mean square of the differences between neighbours, divided by that and the mean square of the differences
    from the patch's mean: near 0 for slow changes, 2/3 for white noise; 0 for a constant patch.
    """
    if patches.ndim < 2 or min(patches.shape[-2:]) < 2:
        raise SynbenchError(
            f"patches: expected shape [..., h, w] of 2 x 2 or more, got {list(patches.shape)}"
        )
    x = patches if patches.dtype == torch.float64 else patches.float()
    down, across = x.diff(dim=-2).square().mean((-2, -1)), x.diff(dim=-1).square().mean((-2, -1))
    fine = (down + across) / 2
    total = fine + (x - x.mean((-2, -1), keepdim=True)).square().mean((-2, -1))
    return torch.where(total > 0, fine / total.clamp_min(torch.finfo(x.dtype).tiny), 0.0)


def quantile_edges(values: Tensor, tasks: int) -> Tensor:
    """The tasks - 1 values that cut a sample into groups of equal size, as far as equal values allow.

    An edge is the first value of its group: `torch.bucketize(x, edges, right=True)` groups x. Take them from the data
    set once, so that a group means the same in every batch.
    """
    flat = values.detach().flatten().double()
    if tasks < 1 or not len(flat) or not bool(flat.isfinite().all()):
        raise SynbenchError(f"values: expected finite values for {tasks} groups, got {len(flat)} values")
    order = flat.sort().values
    cut = [len(order) * one // tasks for one in range(1, tasks)]
    return order[cut].to(values.dtype)


def head_losses(
    values: Mapping[str, Tensor], tasks: Sequence[str], *, masks: Mapping[str, Tensor] | None = None
) -> TaskLosses:
    """Several modalities or heads: the mean of each one's losses, heads that are missing counted as absent.

    Args:
        values: losses of the elements of each head, any shape; a head may be left out or empty.
        tasks: names of all heads, in the order of the losses that are returned.
        masks: for some heads, which elements count.
    """
    for key in [*values, *(masks or {})]:
        if key not in tasks:
            raise SynbenchError(
                f"values: expected heads of {', '.join(tasks)}, got {key!r}{suggest(str(key), tasks)}"
            )
    if not values:
        raise SynbenchError("values: expected the losses of at least one head, got none")
    home = next(iter(values.values()))
    rows = []
    for task in tasks:
        value = values.get(task, home.new_zeros(0)).to(home.device)
        group = torch.zeros(value.shape, dtype=torch.int64, device=value.device)
        rows.append(group_losses(value, group, 1, mask=(masks or {}).get(task)))
    return TaskLosses(torch.cat([one.losses for one in rows]), torch.cat([one.counts for one in rows]))


def fit_clusters(features: Tensor, tasks: int, *, seed: int = 0, iterations: int = 100) -> Tensor:
    """Data clusters: centres [tasks, F] of k-means (Lloyd, started as k-means++), the same for the same seed.

    `nearest_cluster(features, centres)` is the group of every sample. A cluster that loses all its samples is
    moved to the sample that is farthest from its centre.
    """
    x = features.detach().double()
    if x.ndim != 2 or not 1 <= tasks <= len(x):
        raise SynbenchError(
            f"features: expected shape [N, F] with N of at least {tasks}, got {list(features.shape)}"
        )
    if not bool(x.isfinite().all()):
        raise SynbenchError("features: expected finite values, got others")
    generator = torch.Generator().manual_seed(seed)
    centres = x[torch.randint(len(x), (1,), generator=generator)]
    for _ in range(tasks - 1):
        squared = _squared_distances(x, centres).amin(1).cpu()
        if not squared.sum() > 0:  # fewer different samples than clusters
            squared = torch.ones_like(squared)
        centres = torch.cat([centres, x[torch.multinomial(squared, 1, generator=generator)]])
    group = torch.full((len(x),), -1, device=x.device)
    for _ in range(iterations):
        squared = _squared_distances(x, centres)
        before, group = group, squared.argmin(1)
        if torch.equal(before, group):
            break
        counts = torch.bincount(group, minlength=tasks)
        sums = torch.zeros_like(centres).index_add(0, group, x)
        centres = sums / counts.clamp_min(1)[:, None]
        farthest = squared.amin(1).argsort(descending=True)
        for rank, empty in enumerate((counts == 0).nonzero()[:, 0].tolist()):
            centres[empty] = x[farthest[rank]]
    return centres.to(features.dtype)


def nearest_cluster(features: Tensor, centres: Tensor) -> Tensor:
    """The cluster of every sample: index [N] of the nearest of centres [n, F] in l2."""
    if features.ndim != 2 or centres.ndim != 2 or features.shape[1] != centres.shape[1]:
        raise SynbenchError(
            f"features: expected shape [N, F] of centres [n, F], got {list(features.shape)} "
            f"and {list(centres.shape)}"
        )
    return _squared_distances(features.detach().double(), centres.to(features.device).double()).argmin(1)


def _squared_distances(x: Tensor, centres: Tensor) -> Tensor:
    return torch.stack([(x - one).square().sum(1) for one in centres], dim=1)


def _check_groups(name: str, groups: Tensor, values: Tensor) -> None:
    if groups.shape != values.shape:
        raise SynbenchError(f"{name}: expected shape {list(values.shape)}, got {list(groups.shape)}")
    if groups.is_floating_point() or groups.is_complex():
        raise SynbenchError(f"{name}: expected integers, got {groups.dtype}")
