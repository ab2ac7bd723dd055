"""What is wrong with an encoder is said before any is loaded."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest
from cli_cases import invoke

from synbench_fast.encoders.early import mistakes

SMALL = ("--input-shape", "3,8,8", "--scales", "3", "--samples", "64", "--quiet")


def wrong(spec: str, **own: Any) -> str:
    """The only mistake of this encoder; empty if there is none."""
    found = mistakes([(spec, own)])
    assert len(found) <= 1
    return found[0] if found else ""


@pytest.mark.parametrize(
    ("spec", "said"),
    [
        ("builtin:conf", "encoder: expected a model of builtin, got 'builtin:conf', did you mean builtin:conv?"),
        ("builtin:conv,builtin:identity", "MODEL: expected encoders apart by blanks, got 'builtin:conv,builtin:identity'; write builtin:conv builtin:identity"),
        ("builtin:linear?dims=4", "encoder: expected builtin:NAME[?dim=N], got 'dims=4' in 'builtin:linear?dims=4'"),
        ("timm-100", "encoder: expected SOURCE:NAME, got 'timm-100', did you mean --models timm-100?"),
        ("bultin:conv", "did you mean builtin?"),
        ("conv", "encoder: expected SOURCE:NAME, got 'conv', did you mean builtin:conv?"),
        ("builtin:", "encoder: expected builtin:NAME[?dim=N], got 'builtin:'"),
        ("torchscript:no.pt", "torchscript:no.pt: encoder: expected an existing file, got no.pt"),
        ("python:no.py:make", "python:no.py:make: encoder: expected an existing file, got no.py"),
        ("python:make", "encoder: expected python:MODULE:FACTORY, got 'python:make'"),
        ("python:no_such_module_here:make", "expected a module that can be imported, got 'no_such_module_here'"),
        ("python:enc.py:mak", "encoder: expected a callable in enc.py, got 'mak' in 'python:enc.py:mak', did you mean make?"),
    ],
)  # fmt: skip
def test_mistakes_in_specs(spec: str, said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("enc.py").write_text("raise SystemExit('executed')\n\ndef make():\n    pass\n")
    assert said in wrong(spec)


def test_what_may_be_right_is_left_to_the_encoder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name, text in (
        ("plain.py", "def make(): pass"), ("other.py", "from plain import *"), ("alias.py", "from plain import make"),
        ("inside.py", "if True:\n    make = lambda: None"), ("dynamic.py", "globals()['make'] = print"), ("broken.py", "def ("),
        ("lazy.py", "def __getattr__(name): pass"),
    ):  # fmt: skip
        Path(name).write_text(text)
        assert wrong(f"python:{name}:make") == ""
    for spec in (
        "python:plain:make",
        "builtin:linear?dim=4",
        "hf:any/thing",
        f"python:{tmp_path}/plain.py:make",
    ):
        assert wrong(spec) == ""


def test_libraries_and_their_names(monkeypatch: pytest.MonkeyPatch) -> None:
    timm = pytest.importorskip("timm")
    assert wrong("timm:resnet18") == wrong(f"timm:{timm.list_models(pretrained=True)[0]}") == ""
    assert wrong("timm:hf-hub:a/b") == ""
    assert "did you mean timm:resnet18?" in wrong("timm:resnet18x")
    assert "got 'resnet18', did you mean timm:resnet18?" in wrong("resnet18")
    monkeypatch.setitem(sys.modules, "timm", None)
    assert 'pip install "synbench-fast[timm]"' in wrong("timm:resnet18")


def test_files_of_options(tmp_path: Path) -> None:
    archive = tmp_path / "a.pt"
    archive.touch()
    assert "expected --trust-remote-code" in wrong(f"torchscript:{archive}")
    assert wrong(f"torchscript:{archive}", trust_remote_code=True) == ""
    assert "checkpoint: expected an existing file, got no.pt" in wrong(
        "builtin:conv", checkpoint="no.pt#teacher"
    )
    assert wrong("builtin:conv", checkpoint=f"{archive}#teacher") == ""


def test_nothing_is_scored_where_one_encoder_cannot_be(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    done = invoke("run", "builtin:identity", "builtin:conf", "python:no.py:make", *SMALL, "--out", "out")
    assert done.exit_code == 2 and done.stdout == ""
    first, second, last = done.stderr.splitlines()
    assert "did you mean builtin:conv?" in first and "existing file, got no.py" in second
    assert last == "nothing was scored" and not list(tmp_path.glob("out/*"))
    Path("list.txt").write_text("builtin:identity\nbuiltin:conf\n")
    done = invoke("run", "--models", "list.txt", "--out", "store", *SMALL)
    assert done.exit_code == 2 and "did you mean builtin:conv?" in done.stderr
    assert not list(tmp_path.glob("store/*"))
