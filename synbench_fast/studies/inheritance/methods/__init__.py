"""Methods of fine-tuning: one file each, found by the file's name; METHOD in it is the class."""

from synbench_fast.studies.inheritance.bench import Method, check_range, find, names

__all__ = ["Method", "check_range", "find", "names"]
