"""`synbench-fast study pretrain --demo`: mean loss against minimax on real images, offline, on a CPU."""

from __future__ import annotations

from synbench_fast.demos.minimax.report import Arm, Paired, PretrainReport, paired, print_report, verdict
from synbench_fast.demos.minimax.run import REFERENCES, SYNTHETIC, run_pretraining

__all__ = [
    "REFERENCES",
    "SYNTHETIC",
    "Arm",
    "Paired",
    "PretrainReport",
    "paired",
    "print_report",
    "run_pretraining",
    "verdict",
]
