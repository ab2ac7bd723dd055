"""LEEP and NLEEP: how well labels follow from the classes of a source, or from clusters in place of them."""

from __future__ import annotations

import warnings

import torch
from torch import Tensor

from synbench_fast.errors import SynbenchError
from synbench_fast.runtime.optional import optional
from synbench_fast.studies.validity.transferability import checked

__all__ = ["leep", "nleep"]

_ENERGY = 0.8  # share of the variance that the components of NLEEP keep
_CLUSTERS = 5  # of NLEEP, per class


def leep(probabilities: Tensor, y: Tensor) -> float:
    """mean_i ln sum_z P(y_i | z) p_iz, where p_iz is the probability of source class z for sample i, and

        P(k | z) = sum_{i: y_i = k} p_iz / sum_i p_iz.

    At most 0. A source with a single class gives minus the entropy of the labels.

    Args:
        probabilities: [N, Z], rows that sum to 1; y: classes, int64 [N].

    Source: LEEP (Nguyen et al., ICML 2020, arXiv 2002.12462).
    """
    _, member, classes = checked(probabilities, y)
    p = probabilities.double()
    if not bool((p >= 0).all()) or not torch.allclose(p.sum(1), torch.ones(len(p), dtype=p.dtype), atol=1e-4):
        raise SynbenchError("probabilities: expected rows of at least 0 that sum to 1, got others")
    joint = torch.zeros(classes, p.shape[1], dtype=torch.float64).index_add_(0, member, p)
    given = joint / joint.sum(0).clamp_min(torch.finfo(torch.float64).tiny)
    return float((given[member] * p).sum(1).log().mean())


def nleep(features: Tensor, y: Tensor) -> float:
    """LEEP with the posteriors of a Gaussian mixture in place of a source's classes.

    The mixture (5 Gaussians per class, at most one for every two samples, full covariances, seed 0) is that of
    scikit-learn on the principal components that hold 80 % of the variance; these are divided by their deviation where
    scikit-learn fails on them as they are.

    Args:
        features: [N, F]; y: classes, int64 [N].

    Source: NLEEP (Li et al., CVPR 2021, arXiv 2011.11200). The code of SFDA's authors leaves out the logarithm.
    """
    mixture = optional("sklearn.mixture", "scikit-learn", "demo")
    z, _, classes = checked(features, y)
    _, sizes, axes = torch.linalg.svd(z, full_matrices=False)
    share = sizes.square().cumsum(0) / sizes.square().sum()
    if not bool(share.isfinite().all()):
        raise SynbenchError("features: expected some that vary, got constants only")
    kept = int((share < _ENERGY).sum()) + 1
    parts = max(1, min(_CLUSTERS * classes, len(z) // 2))
    model = mixture.GaussianMixture(n_components=parts, random_state=0)
    with warnings.catch_warnings():
        warnings.simplefilter(
            "ignore"
        )  # of steps that were not enough, and of fewer distinct samples than clusters
        reduced = (z @ axes[:kept].T).numpy()
        try:
            posterior = model.fit(reduced).predict_proba(reduced)
        except ValueError:  # what it adds to the covariances, 1e-6, is lost beside features this large
            reduced /= reduced.std()
            posterior = model.fit(reduced).predict_proba(reduced)
    return leep(torch.from_numpy(posterior), y)
