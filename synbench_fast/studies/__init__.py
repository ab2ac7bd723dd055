"""Studies: questions about encoders that take many scores or labelled data, one package or module each."""

from __future__ import annotations

from typing import TYPE_CHECKING

from synbench_fast.lazy import attach

if TYPE_CHECKING:
    from synbench_fast.studies.eps_star import EpsStar, find_eps_star
    from synbench_fast.studies.inheritance import InheritanceReport, inherit
    from synbench_fast.studies.input_metrics import InputMetricsReport, measure_inputs
    from synbench_fast.studies.linear_probe import LinearProbeReport, robust_linear_probe
    from synbench_fast.studies.published import PublishedReport, read_measurements, validate_published
    from synbench_fast.studies.robustness import RobustnessReport, measure_robustness
    from synbench_fast.studies.sensitivity import Sensitivity, measure_sensitivity
    from synbench_fast.studies.validity import ValidityReport, validate

__all__ = [
    "EpsStar",
    "InheritanceReport",
    "InputMetricsReport",
    "LinearProbeReport",
    "PublishedReport",
    "RobustnessReport",
    "Sensitivity",
    "ValidityReport",
    "find_eps_star",
    "inherit",
    "measure_inputs",
    "measure_robustness",
    "measure_sensitivity",
    "read_measurements",
    "robust_linear_probe",
    "validate",
    "validate_published",
]

_HOMES = {
    "EpsStar": "eps_star",
    "InheritanceReport": "inheritance",
    "InputMetricsReport": "input_metrics",
    "LinearProbeReport": "linear_probe",
    "PublishedReport": "published",
    "RobustnessReport": "robustness",
    "Sensitivity": "sensitivity",
    "ValidityReport": "validity",
    "find_eps_star": "eps_star",
    "inherit": "inheritance",
    "measure_inputs": "input_metrics",
    "measure_robustness": "robustness",
    "measure_sensitivity": "sensitivity",
    "read_measurements": "published",
    "robust_linear_probe": "linear_probe",
    "validate": "validity",
    "validate_published": "published",
}

_load, __dir__ = attach(__name__, _HOMES)

if not TYPE_CHECKING:  # a type checker would take every name for one that exists
    __getattr__ = _load
