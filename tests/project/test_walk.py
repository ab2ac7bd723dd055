"""The walk through the code in CONTRIBUTING.md is the one that a score takes."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from types import FrameType
from typing import Any

import synbench_fast as sb

PAGE = Path(__file__).resolve().parents[2] / "CONTRIBUTING.md"
PACKAGE = str(Path(sb.__file__).parent)


def test_a_score_calls_the_functions_in_the_order_of_the_walk() -> None:
    text = PAGE.read_text(encoding="utf-8").split("## One batch, function by function")[1].split("\n## ")[0]
    listed = re.findall(r"`([\w/]+\.py): ([\w.]+)`", text)
    assert len(listed) > 15
    called: list[tuple[str, str]] = []

    def note(frame: FrameType, event: str, argument: Any) -> None:
        if event == "call" and frame.f_code.co_filename.startswith(PACKAGE):
            file = Path(frame.f_code.co_filename).relative_to(PACKAGE).as_posix()
            called.append((file, frame.f_code.co_qualname))

    before = sys.getprofile()
    sys.setprofile(note)
    try:
        result = sb.score("builtin:conv", estimator="paper", scales=2, samples=64, input_shape=(3, 8, 8))
        result.file_name()
    finally:
        sys.setprofile(before)
    at = 0
    for one in listed:
        assert one in called[at:], f"{one} is not called after the one before it"
        at = called.index(one, at)
