"""Libraries that an extra installs: imported when they are needed, or an error of one line that names the extra."""

from __future__ import annotations

import importlib
from typing import Any

from synbench_fast.errors import SynbenchError

__all__ = ["optional"]


def optional(module: str, package: str, extra: str) -> Any:
    """Import `module`; SynbenchError names the extra of this package that installs `package`."""
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError:
        raise SynbenchError(
            f'{package}: expected it to be installed, got no such library; pip install "synbench-fast[{extra}]"'
        ) from None
