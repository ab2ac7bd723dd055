"""Results of an earlier run of the same command, with which an interrupted one goes on."""

from __future__ import annotations

import os
from pathlib import Path

from synbench_fast.config import ScoreConfig
from synbench_fast.errors import SynbenchError
from synbench_fast.report.collection import load_results
from synbench_fast.results.records import Result
from synbench_fast.results.suite import SuiteResult

__all__ = ["Earlier"]

_FILES = ("onnx", "torchscript", "python")  # sources of local files, which may have changed since


class Earlier:
    """The results in a folder, by the command that repeats them.

    A result stands for a run only if the command is the same, published weights alone decide the encoder, and the
    libraries have the versions that they had. What a local file decides is scored again, because it may have changed.
    """

    def __init__(self, folder: Path) -> None:
        self._found: dict[str, tuple[Path, Result | SuiteResult]] = {}
        self._versions: dict[str, str] | None = None
        try:
            items = load_results(folder).items
        except SynbenchError:  # an empty folder, or one of other files
            return
        for one in items:
            if one.document.command and Path(one.file).parent == folder:
                self._found[one.document.command] = Path(one.file), one.document

    def find(
        self, spec: str, config: ScoreConfig, tasks: str | None
    ) -> tuple[Path, Result | SuiteResult] | None:
        """The file and the result of this encoder under this configuration, None where it is to be scored."""
        source, _, name = spec.partition(":")
        local = source in _FILES or config.checkpoint is not None or os.path.exists(name)
        found = self._found.get(config.command(spec, tasks=tasks))
        if found is None or local or (tasks is not None and os.path.exists(tasks)):
            return None
        if self._versions is None:
            from synbench_fast.engine import environment

            self._versions = environment.describe().versions
        document = found[1]
        first = document.results[0] if isinstance(document, SuiteResult) else document
        return found if first.environment.versions == self._versions else None
