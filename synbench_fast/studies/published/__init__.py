"""Whether scores go with accuracies that others measured: published tables in place of labelled data."""

from synbench_fast.studies.published.report import PublishedReport
from synbench_fast.studies.published.run import validate_published
from synbench_fast.studies.published.tables import read_measurements

__all__ = ["PublishedReport", "read_measurements", "validate_published"]
