"""TOML files of the user: suites of tasks, and files of options."""

from __future__ import annotations

import os
import tomllib
from pathlib import Path
from typing import Any

from synbench_fast.errors import SynbenchError

__all__ = ["read_toml"]


def read_toml(path: str | os.PathLike[str]) -> dict[str, Any]:
    """The document of a TOML file.

    Raises:
        SynbenchError: it is no file (a pipe would be waited for), cannot be read, or is no TOML that Python can hold.
    """
    file = Path(path)
    try:
        if not file.exists() or file.is_file():
            return tomllib.loads(file.read_text(encoding="utf-8"))
        reason = "something else"
    except OSError as error:
        reason = error.strerror or str(error)
    except UnicodeDecodeError:
        reason = "other bytes than UTF-8"
    except (
        ValueError,
        RecursionError,
    ) as error:  # TOMLDecodeError, or a number or nesting beyond Python's limits
        reason = " ".join(str(error).split())
    raise SynbenchError(f"{os.fspath(path)}: expected a TOML file, got: {reason}")
