"""Whether the data-free score predicts how good encoders are on labelled data, and what simpler predictors do."""

from synbench_fast.studies.validity.correlation import correlate
from synbench_fast.studies.validity.report import ValidityReport
from synbench_fast.studies.validity.run import validate

__all__ = ["ValidityReport", "correlate", "validate"]
