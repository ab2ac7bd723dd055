"""eps-robust linear probes on frozen features of real data, and attacks on them through the encoder."""

from synbench_fast.studies.linear_probe.report import LinearProbeReport, Share
from synbench_fast.studies.linear_probe.run import robust_linear_probe

__all__ = ["LinearProbeReport", "Share", "robust_linear_probe"]
