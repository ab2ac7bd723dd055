"""eps-robust linear probes on frozen features of real data, and attacks on them through the encoder."""

from synbench_fast.robust_probe.report import ProbeReport, Share
from synbench_fast.robust_probe.run import robust_linear_probe

__all__ = ["ProbeReport", "Share", "robust_linear_probe"]
