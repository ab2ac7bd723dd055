"""Cells on disk: one JSON file each, whole or absent, named by everything that its numbers depend on."""

from __future__ import annotations

import hashlib
import json
import os
import re
from pathlib import Path
from typing import Any

from synbench_fast.errors import SynbenchError
from synbench_fast.results.documents import (
    Mismatch,
    check_own,
    decode,
    encode,
    kind_of,
    parse,
    read_text,
    write_atomically,
)
from synbench_fast.studies.inheritance.cells import Cell, FailedCell

__all__ = ["CELL_SCHEMA", "CellStore"]

CELL_SCHEMA = "synbench-fast/inheritance-cell"
CELL_SCHEMA_VERSION = 1


class CellStore:
    """Cells of one folder; None keeps nothing.

    The name of a file ends in a digest of the cell's configuration, and the file has the configuration itself: with
    other weights, data, method options or training the name is another one, and old cells are left alone. A fine-tuning
    that failed leaves its reason there, and is tried again.
    """

    def __init__(self, folder: Path | None) -> None:
        self.folder = folder
        if folder is not None:
            check_own(folder, folder=True)
            try:
                folder.mkdir(parents=True, exist_ok=True)
            except OSError as error:
                raise SynbenchError(
                    f"out: expected a folder that can be written, got {folder} ({error.strerror})"
                ) from None

    def path(self, configuration: dict[str, Any]) -> Path | None:
        """Where the cell of this configuration lies."""
        if self.folder is None:
            return None
        digest = hashlib.sha256(_canonical(configuration).encode()).hexdigest()[:20]
        words = (
            configuration["fine_tuned_on"],
            configuration["method"],
            f"seed{configuration['seed']}",
            digest,
        )
        return self.folder / (
            "_".join(re.sub(r"[^A-Za-z0-9.-]+", "-", str(one))[:60] for one in words) + ".json"
        )

    def read(self, configuration: dict[str, Any]) -> Cell | None:
        """The cell, or None if it was not made yet or failed; SynbenchError for a file that holds something else."""
        path = self.path(configuration)
        if path is None or not os.path.lexists(path):
            return None
        document = parse(read_text(path, "cell", own=True), str(path))
        if not isinstance(document, dict) or document.get("schema") != CELL_SCHEMA:
            got = kind_of(document.get("schema") if isinstance(document, dict) else document)
            raise SynbenchError(f"{path}: expected a document of schema {CELL_SCHEMA!r}, got {got}")
        if document.get("schema_version") != CELL_SCHEMA_VERSION:
            got = kind_of(document.get("schema_version"))
            raise SynbenchError(f"{path}: expected schema_version {CELL_SCHEMA_VERSION}, got {got}")
        if _canonical(document.get("configuration")) != _canonical(configuration):
            raise SynbenchError(f"{path}: expected the configuration that the file is named by, got another")
        if document.get("cell") is None and isinstance(document.get("failed"), str):
            return None
        try:
            return decode(Cell, document.get("cell"))
        except Mismatch as error:
            raise SynbenchError(f"{path}: cell.{error}") from None

    def write(self, configuration: dict[str, Any], cell: Cell | FailedCell) -> None:
        """Write the cell, or that it failed; even after a crash there is the whole file or none."""
        path = self.path(configuration)
        if path is None:
            return
        document = {
            "schema": CELL_SCHEMA,
            "schema_version": CELL_SCHEMA_VERSION,
            "configuration": configuration,
            "cell": encode(cell) if isinstance(cell, Cell) else None,
            "failed": cell.reason if isinstance(cell, FailedCell) else None,
        }
        write_atomically(path, json.dumps(document, indent=1, ensure_ascii=False, allow_nan=False) + "\n")


def _canonical(value: Any) -> str:
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=True, allow_nan=False)
