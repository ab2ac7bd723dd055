"""Damaged and hostile files into everything that reads one: a document or one line, and what is read stays equal."""

from __future__ import annotations

import copy
import json
import math
import os
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

sys.path.insert(0, str(Path(__file__).parents[1] / "fuzz"))
from readers import DOCUMENTS, READERS, seeds

from synbench_fast.errors import SynbenchError

quick = settings(
    deadline=None,
    max_examples=int(os.environ.get("FUZZ_EXAMPLES", "40")),
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
)
SEEDS = seeds()
ODD = [
    None, True, False, 0, -1, 2**63, 10**400, 0.5, -0.0, 1e308, "", "a", "\x00", "\x1b[2J\u202e", "\ud800", "../../x", "=1+1",
    [], {}, [None], [[[]]], {"a": None}, [0.5] * 3, "<script>", "NaN",
]  # fmt: skip


@pytest.fixture(scope="module")
def place() -> Iterator[Path]:
    with tempfile.TemporaryDirectory() as folder:
        yield Path(folder)


def read(name: str, data: bytes, place: Path) -> Any:
    try:
        return READERS[name](data, place)
    except SynbenchError as error:
        assert str(error).isprintable(), repr(str(error))
        return None


@pytest.mark.parametrize("name", READERS)
def test_valid_inputs_are_read(name: str, place: Path) -> None:
    assert SEEDS[name]
    for data in SEEDS[name][
        : 6 if name == "image" else None
    ]:  # the last image is of a kind that is not opened
        assert READERS[name](data, place) is not None


def places(value: Any) -> Iterator[tuple[Any, Any]]:
    """(container, key) of everything inside a JSON value."""
    for key in list(value) if isinstance(value, dict) else range(len(value)):
        yield value, key
        if isinstance(value[key], dict | list):
            yield from places(value[key])


@pytest.mark.parametrize("name", DOCUMENTS)
@quick
@given(data=st.data())
def test_changed_documents(name: str, data: Any, place: Path) -> None:
    document = copy.deepcopy(DOCUMENTS[name])
    for _ in range(data.draw(st.integers(1, 3))):
        found = list(places(document))
        if not found:
            break
        container, key = found[data.draw(st.integers(0, len(found) - 1))]
        change = data.draw(st.sampled_from(["replace", "drop", "add", "twice"]))
        if change == "replace":
            container[key] = copy.deepcopy(data.draw(st.sampled_from(ODD)))
        elif change == "drop":
            del container[key]
        elif isinstance(container, dict):
            container["\x1b]0;owned\x07\n" if change == "add" else f"{key}2"] = container[key]
        else:
            container.insert(key, copy.deepcopy(container[key]))
    text = json.dumps(document, indent=data.draw(st.sampled_from([None, 2])))
    read(name, text.encode(), place)


@pytest.mark.parametrize("name", READERS)
@quick
@given(data=st.data())
def test_damaged_bytes(name: str, data: Any, place: Path) -> None:
    content = bytearray(data.draw(st.sampled_from(SEEDS[name])))
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, max(0, len(content) - 1)))
        change = data.draw(st.sampled_from(["flip", "cut", "insert", "remove", "nest"]))
        if change == "flip" and content:
            content[at] ^= 1 << data.draw(st.integers(0, 7))
        elif change == "cut":
            del content[at:]
        elif change == "insert":
            content[at:at] = data.draw(st.binary(max_size=8))
        elif change == "remove":
            del content[at : at + data.draw(st.integers(1, 64))]
        elif change == "nest":
            content[at:at] = data.draw(st.sampled_from([b"[", b'{"a":', b"\xff", b"9"])) * 5000
    read(name, bytes(content), place)


@quick
@given(
    st.recursive(st.none() | st.booleans() | st.integers() | st.floats() | st.text(), st.lists, max_leaves=5)
)
def test_what_is_no_document(value: Any) -> None:
    from synbench_fast.results.records import Result

    if isinstance(value, float) and not math.isfinite(value):
        return
    with pytest.raises(SynbenchError):
        Result.from_json(json.dumps(value))
