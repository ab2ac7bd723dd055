"""Lists of encoders that ship with the package: their tags exist, and --models, ls and completion know them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from synbench_fast.cli import completion
from synbench_fast.cli.main import main
from synbench_fast.encoders.lists import list_file, list_names
from synbench_fast.errors import SynbenchError
from synbench_fast.fleet.models import expand


def test_a_list_is_the_encoders_of_its_file_once_each() -> None:
    assert list_names() == ["timm-100"]
    named = expand(["timm-100"])
    lines = [one for one in list_file("timm-100").read_text().splitlines() if one and one[0] != "#"]
    assert [spec for spec, _ in named] == [line.split()[0] for line in lines]
    assert len({spec for spec, _ in named}) == 100
    for spec, own in named:
        source, _, name = spec.partition(":")
        assert source == "timm" and name.count(".") == 1, (
            spec
        )  # a name without a tag would follow timm's default
        assert set(own) <= {"input_shape"}


def test_every_group_has_a_comment() -> None:
    groups = list_file("timm-100").read_text().split("\n\n")
    assert len(groups) == 9 and all(one.startswith("# ") for one in groups)


def test_every_tag_is_one_of_timm_and_reads_one_shape() -> None:
    timm: Any = pytest.importorskip("timm")
    known = set(timm.list_pretrained())
    for spec, own in expand(["timm-100"]):
        name = spec.removeprefix("timm:")
        assert name in known, name
        shape = own.get("input_shape", timm.models.get_pretrained_cfg(name).input_size)
        assert tuple(shape) == (3, 224, 224), name


def test_a_file_of_the_same_name_comes_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("timm-100").write_text("builtin:conv\n")
    assert expand(["timm-100"]) == [("builtin:conv", {})]


def test_what_is_near_a_list_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(
        SynbenchError, match=r"or a list such as timm-100, got .timm-10., did you mean timm-100.$"
    ):
        expand(["timm-10"])


def test_ls_and_completion_know_the_lists(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["ls", "--format", "json"]) == 0
    assert json.loads(capsys.readouterr().out)["lists"] == list_names()
    assert main(["ls"]) == 0
    assert ["timm-100", str(list_file("timm-100"))] in [
        one.split() for one in capsys.readouterr().out.splitlines()
    ]
    assert completion.fleet_names()[: len(list_names())] == list_names()
    assert set(completion.encoder_names()) <= set(completion.fleet_names())
