"""Headers and the arrays beside them: what is in which file, when it is read, and what a missing half means."""

from __future__ import annotations

import copy
import dataclasses
import hashlib
import itertools
import json
import os
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from checks import refused
from report_cases import suite
from result_example import example, influential

from synbench_fast.results.documents import remove_files, saved
from synbench_fast.results.records import Result
from synbench_fast.results.suite import SuiteResult

STORED = ("curve", "score_covariance", "influence")


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return influential().save(tmp_path / "a.json")


def test_a_header_has_all_but_the_arrays(path: Path) -> None:
    header, whole = json.loads(path.read_text()), influential().to_dict()
    assert header.pop("arrays_sha256") == hashlib.sha256((path.parent / "a.npz").read_bytes()).hexdigest()
    assert header == {name: value for name, value in whole.items() if name not in STORED}
    lines = path.read_text().splitlines()
    assert [line.split('"')[1] for line in lines[1:-1]] == [*header, "arrays_sha256"]  # a field per line


def test_arrays_are_what_numpy_reads(path: Path) -> None:
    result = influential()
    with np.load(path.parent / "a.npz", allow_pickle=False) as arrays:
        curve = arrays["curve"]
        assert curve.dtype.names == tuple(one.name for one in dataclasses.fields(result.curve[0]))
        for row, point in zip(curve, result.curve, strict=True):
            np.testing.assert_array_equal(np.array(row.tolist()), dataclasses.astuple(point))
        np.testing.assert_array_equal(arrays["score_covariance"], result.score_covariance)
        assert arrays["influence.group"].item() == 64 and arrays["influence.groups"].tolist() == [2, 1]
        for name in ("accuracy", "reach", "accuracy_slope", "reach_slope"):
            np.testing.assert_array_equal(arrays[f"influence.{name}"], getattr(result.influence, name))


def test_what_was_loaded_is_what_was_saved(path: Path) -> None:
    again = Result.load(path)
    assert again.to_dict() == influential().to_dict()
    assert again.influence == influential().influence != dataclasses.replace(again.influence, group=1)  # type: ignore[type-var]
    assert [type(one) for one in dataclasses.astuple(again.curve[0])] == [float] * 15
    assert Result.load(again.save(path.with_name("b.json"))).to_dict() == again.to_dict()
    assert path.with_name("b.npz").read_bytes() == path.with_name("a.npz").read_bytes()


def test_none_is_in_the_header(tmp_path: Path) -> None:
    header = json.loads(example().save(tmp_path / "a.json").read_text())
    assert (header["influence"], header["score_covariance"]) == (None, None) and "curve" not in header
    assert not Result.load(tmp_path / "a.json").paired and not example().paired
    assert influential().paired
    influential().save(tmp_path / "b.json")
    assert Result.load(tmp_path / "b.json").paired


def test_arrays_are_read_when_they_are_used(
    path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    result = Result.load("a.json")
    monkeypatch.chdir("/")
    copies = [pickle.loads(pickle.dumps(result)), copy.deepcopy(result)]
    assert result.curve == result.curve and len(result.curve) == 4
    path.with_name("a.npz").unlink()
    assert result.curve[3].accuracy == 0.95 and result.summary() and result.file_name() and result.rows()
    for one in (result, *copies):
        with refused(f"{tmp_path}/a.npz: expected a readable arrays file, got: No such file"):
            _ = one.influence
    with pytest.raises(AttributeError, match="'Result' object has no attribute 'colour'"):
        _ = result.colour  # type: ignore[attr-defined]
    with pytest.raises(AttributeError):
        _ = object.__new__(Result).curve


def test_one_file_without_the_other(path: Path) -> None:
    """A header that was moved alone, or arrays that were, is one line; the numbers of the header stay readable."""
    other = influential(seed=1, score_covariance=(2e-4 * np.eye(4)).tolist()).save(path.with_name("b.json"))
    os.replace(path.with_name("b.npz"), path.with_name("a.npz"))
    assert Result.load(path).score().score == influential().score().score
    with refused(
        f"{path.with_name('a.npz')}: expected the arrays that a.json was saved with (sha256 ", "got others"
    ):
        _ = Result.load(path).curve
    with refused("b.npz: expected a readable arrays file, got: No such file"):
        Result.load(other).save(path.with_name("c.json"))
    with refused("result: arrays_sha256: expected a whole document, got a header whose arrays are in a file"):
        Result.from_json(path.read_text())


def test_the_whole_document_is_a_file_too(tmp_path: Path) -> None:
    """As `--format json` prints it."""
    (tmp_path / "a.json").write_text(influential().to_json())
    assert Result.load(tmp_path / "a.json").to_dict() == influential().to_dict()
    assert saved(tmp_path / "a.json")


@pytest.mark.parametrize(("before", "step"), [(True, 0), (True, 1), (True, 2), (False, 0), (False, 1)])
def test_a_save_that_stops_at_any_step_leaves_the_document_of_before(
    tmp_path: Path, before: bool, step: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, real = tmp_path / "a.json", os.replace
    if before:
        example().save(path)
    for again in range(2):  # the second save finds what the first has left
        steps = itertools.count()

        def fails(
            source: Any, target: Any, steps: Any = steps, last: int = step - (again and step == 2)
        ) -> None:
            if next(steps) == last:  # arrays that have their second name already are not written again
                raise OSError(28, "No space left on device")
            real(source, target)

        with monkeypatch.context() as patched:
            patched.setattr(os, "replace", fails)
            with refused("expected a file that can be written, got: No space left on device"):
                influential().save(path)
        assert path.exists() == before
        assert not before or Result.load(path).to_dict() == example().to_dict()
        assert not list(tmp_path.glob(".*.tmp"))
    influential().save(path)
    assert Result.load(path).to_dict() == influential().to_dict()
    assert sorted(one.name for one in tmp_path.iterdir()) == ["a.json", "a.npz"]


def test_a_result_is_there_with_both_files(path: Path) -> None:
    assert saved(path)
    path.with_name("a.npz").unlink()
    assert not saved(path)
    remove_files(path)
    assert not saved(path) and not list(path.parent.iterdir())


def test_suites_share_one_file(tmp_path: Path) -> None:
    whole = suite()
    whole = dataclasses.replace(whole, results=[influential(), whole.results[1]])
    path = whole.save(tmp_path / "s.json")
    with np.load(tmp_path / "s.npz", allow_pickle=False) as arrays:
        assert {name.partition(".")[0] for name in arrays.files} == {"results[0]", "results[1]"}
        assert "results[0].influence.group" in arrays.files
    again = SuiteResult.load(path)
    assert [one.paired for one in again.results] == [True, False]
    assert again.to_dict() == whole.to_dict()
    (tmp_path / "s.npz").write_bytes(b"")
    with refused("s.npz: expected the arrays that s.json was saved with"):
        _ = SuiteResult.load(path).results[1].curve


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"curve": []}, "a.npz: curve: expected a point for every scale, then eps, got 0 others"),
        ({"score_covariance": [[1.0]]}, "a.npz: score_covariance: expected 4 rows of 4 numbers, got others"),
        (
            {"score_covariance": [[np.nan] * 4] * 4},
            "a.npz: score_covariance: expected finite numbers, got others",
        ),
        (
            {"groups": np.array([2, 2, 2])},
            "a.npz: influence: expected numbers for every scale, eps and threshold",
        ),
        (
            {"groups": np.array([3, 1])},
            "a.npz: influence: expected numbers for every scale, eps and threshold",
        ),
        (
            {"reach": np.full((2, 2, 2), np.inf)},
            "a.npz: influence.reach: expected finite numbers, got others",
        ),
    ],
)
def test_arrays_that_contradict_the_header(changes: dict[str, Any], message: str, tmp_path: Path) -> None:
    result = influential()
    if set(changes) <= set(STORED):
        result = dataclasses.replace(result, **changes)
    else:
        result = dataclasses.replace(result, influence=dataclasses.replace(result.influence, **changes))  # type: ignore[type-var]
    again = Result.load(result.save(tmp_path / "a.json"))
    with refused(message):
        _ = again.curve, again.score_covariance, again.influence


@pytest.mark.parametrize("digest", [5, "x", "a" * 63, "g" * 64])
def test_what_is_no_digest(path: Path, digest: Any) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text()), "arrays_sha256": digest}))
    with refused("a.json: arrays_sha256: expected 64 hexadecimal digits, got "):
        Result.load(path)
