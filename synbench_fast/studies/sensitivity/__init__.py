"""How score and ranking move when one choice at a time is another: seed, samples, scales, thresholds, dtype, input.

Every factor is varied alone around one base configuration, and every change is set against its own standard error:

    same samples in both runs:  Var(change) = V_base + V_level - 2 rho sqrt(V_base V_level), see `compare`
    other samples, other scales, no influences:  Var(change) = V_base + V_level
    another threshold of the base:  from the covariance of the base's scores

A factor moves a score by more than noise if one of its K levels does so by more than z(1 - 0.025/K) standard errors
(Bonferroni). The seeds say whether the reported errors are right: with R runs of the same error, (R - 1) times the
squared ratio of their deviation to that error is chi-squared with R - 1 degrees of freedom.
"""

from __future__ import annotations

from synbench_fast.studies.sensitivity.analysis import assemble
from synbench_fast.studies.sensitivity.levels import VariedRuns, vary_encoder
from synbench_fast.studies.sensitivity.options import FACTORS, check_options, labels
from synbench_fast.studies.sensitivity.records import MissingRun
from synbench_fast.studies.sensitivity.report import Sensitivity
from synbench_fast.studies.sensitivity.run import measure_sensitivity

__all__ = [
    "FACTORS",
    "MissingRun",
    "Sensitivity",
    "VariedRuns",
    "assemble",
    "check_options",
    "labels",
    "measure_sensitivity",
    "vary_encoder",
]
