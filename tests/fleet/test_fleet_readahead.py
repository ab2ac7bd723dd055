"""Reading ahead: which files, how far, and that they are then in the system's memory."""

from __future__ import annotations

import ctypes
import mmap
import os
import sys
from pathlib import Path

import pytest
from checks import until

from synbench_fast.config import ScoreConfig
from synbench_fast.fleet import readahead
from synbench_fast.fleet.configuration import make_request
from synbench_fast.fleet.readahead import ReadAhead, weight_files

SIZE = 3 << 20


def resident(path: Path) -> float:
    """Share of a file that the system holds in memory."""
    with path.open("r+b") as file, mmap.mmap(file.fileno(), 0) as mapped:
        flags = (ctypes.c_ubyte * (SIZE // mmap.PAGESIZE))()
        start = ctypes.c_char.from_buffer(mapped)
        code = ctypes.CDLL(None).mincore(ctypes.byref(start), ctypes.c_size_t(SIZE), flags)
        del start
        assert code == 0
        return sum(one & 1 for one in flags) / len(flags)


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="asks Linux what is in memory")
def test_what_comes_next_is_in_memory_and_no_more(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    paths = [tmp_path / f"{name}.pt" for name in "abc"]
    for path in paths:
        path.write_bytes(os.urandom(SIZE))
        with path.open("rb") as file:
            os.fsync(file.fileno())
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
    if any(map(resident, paths)):
        pytest.skip("this file system keeps files in memory")
    wanted = [make_request("builtin:conv", ScoreConfig(**{"checkpoint": str(path)})) for path in paths]
    monkeypatch.setattr(readahead, "available_bytes", lambda: readahead.SHARE * (2 * SIZE + 1))
    reader = ReadAhead()
    reader.want(wanted)
    assert until(lambda: len(reader._read) == 2)
    assert [resident(path) for path in paths] == [1, 1, 0]
    reader.want(wanted[2:])
    assert until(lambda: resident(paths[2]) == 1)
    reader.close()


def test_files_of_a_request(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def files(spec: str, **options: object) -> list[str]:
        return [
            str(one.relative_to(tmp_path)) for one in weight_files(make_request(spec, ScoreConfig(**options)))
        ]

    for name in ("config.json", "b.safetensors", "a.bin", "w.pt", "last/c.safetensors"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    entry = b"\x6a\x0f\x0a\x08location\x12\x03w.x"  # of a tensor: it lies in the file w.x
    (tmp_path / "m.onnx").write_bytes(b"\x3a\x13\x2a\x11" + entry)
    (tmp_path / "w.x").touch()
    assert files(f"hf:{tmp_path}") == ["a.bin", "b.safetensors"]
    assert files(f"onnx:{tmp_path}/m.onnx?output=x") == ["m.onnx", "w.x"]
    for checkpoint in (f"{tmp_path}/w.pt", f"{tmp_path}/w.pt#teacher"):
        assert (
            files("builtin:conv", checkpoint=checkpoint) == files("hf:a/b", checkpoint=checkpoint) == ["w.pt"]
        )
    assert (
        files("builtin:conv")
        == files("torchvision:resnet18")
        == files(f"hf:{tmp_path}", random_init=True)
        == []
    )
    pytest.importorskip("huggingface_hub")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    for repository in ("some--net", "timm--net.tag"):
        (tmp_path / f"models--{repository}" / "refs").mkdir(parents=True)
        (tmp_path / f"models--{repository}" / "refs" / "main").write_text("1")
        (tmp_path / f"models--{repository}" / "snapshots" / "1").mkdir(parents=True)
        (tmp_path / f"models--{repository}" / "snapshots" / "1" / "model.safetensors").touch()
    assert files("hf:some/net") == ["models--some--net/snapshots/1/model.safetensors"]
    assert files("timm:net.tag") == ["models--timm--net.tag/snapshots/1/model.safetensors"]
    assert files("timm:net") == files("hf:other/net") == []
