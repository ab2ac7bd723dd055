"""What docs/threats.md promises, one test for each row."""

from __future__ import annotations

import csv
import hashlib
import io
import json
import os
import pickle
import re
import shlex
import socket
import sqlite3
import struct
import subprocess
import sys
import tracemalloc
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from checks import refused
from result_example import example

from synbench_fast import score
from synbench_fast.config import ScoreConfig
from synbench_fast.encoders.load import load_encoder
from synbench_fast.encoders.weights import read_checkpoint
from synbench_fast.fleet.payload import decode_point
from synbench_fast.fleet.store import Store, read_summary
from synbench_fast.report import leaderboard, load_results
from synbench_fast.results.records import Result

PAGE = Path(__file__).parents[2] / "docs" / "threats.md"
HOSTILE = "timm:\x1b[2J\x1b]0;owned\x07\u202e\n[red]<script>alert(1)</script>|`x`*_&=1+1"


class Marker:
    """A pickle of it makes a file when it is loaded with code allowed."""

    def __init__(self, path: Path) -> None:
        self.path = str(path)

    def __reduce__(self) -> Any:
        return open, (self.path, "w")


@pytest.fixture
def marked(tmp_path: Path) -> Path:
    """The file that code of an attacker would make."""
    return tmp_path / "ran"


def folder_of(tmp_path: Path, *results: Result) -> Path:
    place = tmp_path / "results"
    place.mkdir()
    for number, one in enumerate(results):
        (place / f"{number}.json").write_text(one.to_json(indent=2), encoding="utf-8")
    return place


def test_every_row_has_a_test() -> None:
    rows = [
        [cell.strip() for cell in line.strip().strip("|").split("|")]
        for line in PAGE.read_text(encoding="utf-8").splitlines()
        if line.startswith("|")
    ]
    named = [
        re.findall(r"`([a-z_]+\.py::test_\w+)`", row[-1]) for row in rows if row[-1] not in ("Test", "---")
    ]
    assert len(named) > 20
    files = {
        one.name: one.read_text(encoding="utf-8") for one in Path(__file__).parents[1].rglob("test_*.py")
    }
    for row in named:
        assert row
        for one in row:
            file, name = one.split("::")
            assert re.search(rf"^def {name}\(", files[file], re.MULTILINE), one
    here = set(re.findall(r"^def (test_\w+)\(", Path(__file__).read_text(encoding="utf-8"), re.MULTILINE))
    assert here - {"test_every_row_has_a_test"} <= {one.split("::")[1] for row in named for one in row}


# ---------------------------------------------------------------- weights


@pytest.mark.parametrize("legacy", [False, True])
def test_pickled_checkpoint_runs_nothing(tmp_path: Path, marked: Path, legacy: bool) -> None:
    file = tmp_path / "weights.pt"
    torch.save({"w": torch.ones(1), "x": Marker(marked)}, file, _use_new_zipfile_serialization=not legacy)
    with refused("checkpoint: expected safetensors or a torch.save of a plain state dict"):
        read_checkpoint(str(file))
    file.write_bytes(pickle.dumps(Marker(marked)))
    with refused("cannot be read without executing code"):
        read_checkpoint(str(file))
    assert not marked.exists()


def test_downloaded_weights_run_nothing(
    tmp_path: Path, marked: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A poisoned cache: torchvision loads with weights_only=False what lies there under the right name."""
    torchvision = pytest.importorskip("torchvision")
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setenv("TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD", "1")
    weights = torchvision.models.ResNet18_Weights.DEFAULT
    cached = tmp_path / "hub" / "checkpoints" / weights.url.rpartition("/")[2]
    cached.parent.mkdir(parents=True)
    torch.save({"w": Marker(marked)}, cached)
    with refused("encoder torchvision:resnet18: the pretrained weights could not be loaded"):
        load_encoder("torchvision:resnet18")
    assert not marked.exists()
    assert os.environ["TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD"] == "1"  # as it was
    assert "TORCH_FORCE_WEIGHTS_ONLY_LOAD" not in os.environ


def test_checkpoint_that_contains_itself(tmp_path: Path) -> None:
    endless: dict[str, Any] = {}
    endless["model"] = endless
    torch.save(endless, tmp_path / "endless.pt")
    with refused("checkpoint: expected a state dict of named tensors"):
        read_checkpoint(str(tmp_path / "endless.pt"))


def repacked(file: Path, kind: int = zipfile.ZIP_DEFLATED, padding: int = 0) -> None:
    """The archive of torch.save again, compressed, with a part that holds nothing."""
    with zipfile.ZipFile(file) as archive:
        parts = [(one.filename, archive.read(one)) for one in archive.infolist()]
    with zipfile.ZipFile(file, "w", kind) as archive:
        for name, content in parts:
            archive.writestr(name, content)
        archive.writestr(zipfile.ZipInfo("archive/padding"), b"\1" * padding)  # is stored as it is


@pytest.mark.parametrize("kind", [zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_checkpoint_of_compressed_zeros(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: int) -> None:
    """A thousand times smaller on disk; whatever pads it, torch does not get to unpack it."""
    monkeypatch.setattr(torch, "load", lambda *_, **__: pytest.fail("it was unpacked"))
    file = tmp_path / "w.pt"
    for padding in (0, 2**22):
        torch.save({"w": torch.zeros(2**18)}, file)
        repacked(file, kind, padding)
        with refused("expected an archive as torch.save writes it, without compression, got"):
            read_checkpoint(str(file))
    with zipfile.ZipFile(file, "w") as archive:  # parts that share their bytes
        archive.writestr("archive/data.pkl", b"0" * 100)
        archive.infolist()[0].file_size = 10**9
    with refused("bytes unpack to 1000000000"):
        read_checkpoint(str(file))


@pytest.mark.parametrize("source", ["hf:", "timm:local-dir:"])
def test_directory_of_compressed_zeros(tmp_path: Path, source: str) -> None:
    """The weights of a local model, which its library unpacks."""
    transformers = pytest.importorskip("transformers")
    config = transformers.ViTConfig(hidden_size=8, num_hidden_layers=1, num_attention_heads=1, intermediate_size=8,
                                    image_size=8, patch_size=4)  # fmt: skip
    model = transformers.ViTModel(config)
    config.save_pretrained(tmp_path)
    torch.save(model.state_dict(), tmp_path / "pytorch_model.bin")
    loaded = load_encoder(f"hf:{tmp_path}")
    assert loaded.info.parameters == sum(one.numel() for one in loaded.module.parameters())  # type: ignore[union-attr]
    repacked(tmp_path / "pytorch_model.bin")
    if source != "hf:":
        pytest.importorskip("timm")
        (tmp_path / "config.json").write_text(json.dumps({"architecture": "resnet10t", "num_classes": 0}))
    with refused("expected an archive as torch.save writes it, without compression, got"):
        load_encoder(f"{source}{tmp_path}")


@pytest.mark.parametrize("legacy", [False, True])
def test_checkpoint_that_asks_for_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, legacy: bool
) -> None:
    """400 bytes, and torch's unpickler would make a bytearray of a gigabyte."""
    monkeypatch.setattr(torch, "load", lambda *_, **__: pytest.fail("it was unpickled"))

    class Wide:
        def __reduce__(self) -> Any:
            return bytearray, (10**9,)

    file = tmp_path / "w.pt"
    torch.save({"w": torch.ones(1), "x": Wide()}, file, _use_new_zipfile_serialization=not legacy)
    with refused("expected tensors and plain containers, got a bytearray in"):
        read_checkpoint(str(file))


@pytest.mark.parametrize("size", [2**63, 2**40, 10**9, 100])
def test_safetensors_header_that_lies(tmp_path: Path, size: int) -> None:
    pytest.importorskip("safetensors")
    file = tmp_path / "w.safetensors"
    header = json.dumps({"w": {"dtype": "F32", "shape": [2**40], "data_offsets": [0, 2**42]}}).encode()
    file.write_bytes(struct.pack("<Q", size) + header.ljust(100))
    with refused("checkpoint: expected a safetensors file"):
        read_checkpoint(str(file))


# ---------------------------------------------------------------- encoders


@pytest.mark.filterwarnings(r"ignore:.*torch\.jit:FutureWarning", r"ignore:.*torch\.jit:DeprecationWarning")
def test_torchscript_needs_the_flag(tmp_path: Path, marked: Path) -> None:
    """TorchScript can write files: the flag decides, before the archive is opened."""
    program = torch.jit.CompilationUnit("def forward(x, path: str):\n    torch.save(x, path)\n    return x\n")
    program.forward(torch.ones(1), str(marked))
    assert marked.exists()  # which is why
    file = tmp_path / "m.pt"
    torch.jit.save(torch.jit.script(torch.nn.Linear(2, 2)), file)
    with refused("the archive is a program", "expected --trust-remote-code"):
        load_encoder(f"torchscript:{file}", input_shape=(2,))
    assert load_encoder(f"torchscript:{file}", input_shape=(2,), trust_remote_code=True).info.feature_dim == 2


def test_hub_code_needs_the_flag(tmp_path: Path, marked: Path) -> None:
    pytest.importorskip("transformers")
    (tmp_path / "config.json").write_text(
        json.dumps(
            {"model_type": "ours", "auto_map": {"AutoConfig": "evil.Config", "AutoModel": "evil.Model"}}
        )
    )
    (tmp_path / "evil.py").write_text(f"open({str(marked)!r}, 'w').close()")
    with refused("the model brings its own Python code; expected --trust-remote-code"):
        load_encoder(f"hf:{tmp_path}")
    assert not marked.exists()


def test_hub_configuration_is_data(tmp_path: Path) -> None:
    pytest.importorskip("transformers")
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "vit", "image_size": 8, "patch_size": 4}))
    for text in (
        "[1]",
        "[" * 100_000,
        '{"image_mean": ["x"], "image_std": [1]}',
        '{"size": {"height": "a", "width": 1}}',
    ):
        (tmp_path / "preprocessor_config.json").write_text(text)
        with refused("preprocessor_config.json"):
            load_encoder(f"hf:{tmp_path}", random_init=True)


def test_a_processors_code_needs_the_flag(tmp_path: Path) -> None:
    pytest.importorskip("transformers")
    marked = tmp_path / "executed"
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "vit", "image_size": 8, "patch_size": 4}))
    content = {
        "image_processor_type": "Evil",
        "auto_map": {"AutoImageProcessor": "evil.Evil"},
        "image_mean": [0.25] * 3,
        "image_std": [0.5] * 3,
    }
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(content))
    (tmp_path / "evil.py").write_text(f"open({str(marked)!r}, 'w').close()")
    info = load_encoder(f"hf:{tmp_path}", random_init=True).info
    assert (info.mean, info.std) == ((0.25,) * 3, (0.5,) * 3)
    assert not marked.exists()


def _onnx(path: Path, location: str, domain: str = "") -> str:
    onnx = pytest.importorskip("onnx")
    pytest.importorskip("onnxruntime")
    weight = onnx.TensorProto(name="w", data_type=1, dims=[3, 4], data_location=onnx.TensorProto.EXTERNAL)
    for key, value in (("location", location), ("offset", "0"), ("length", "48")):
        weight.external_data.add(key=key, value=value)
    helper = onnx.helper
    node = helper.make_node("Own" if domain else "MatMul", ["x", "w"], ["y"], domain=domain)
    graph = helper.make_graph(
        [node], "g", [helper.make_tensor_value_info("x", 1, ["B", 3])], [helper.make_tensor_value_info("y", 1, ["B", 4])],
        [weight],
    )  # fmt: skip
    sets = [helper.make_opsetid("", 17), *([helper.make_opsetid(domain, 1)] if domain else [])]
    path.write_bytes(helper.make_model(graph, opset_imports=sets, ir_version=8).SerializeToString())
    return f"onnx:{path}"


def test_onnx_reads_nothing_outside_its_folder(tmp_path: Path) -> None:
    inside = tmp_path / "model"
    inside.mkdir()
    for place in (inside, tmp_path):
        (place / "w.bin").write_bytes(np.ones(12, np.float32).tobytes())
    assert load_encoder(_onnx(inside / "m.onnx", "w.bin")).info.feature_dim == 4
    for location in ("../w.bin", str(tmp_path / "w.bin")):
        with refused("encoder: expected an ONNX file, got"):
            load_encoder(_onnx(inside / "m.onnx", location))


def test_onnx_brings_no_operators(tmp_path: Path) -> None:
    (tmp_path / "w.bin").write_bytes(np.ones(12, np.float32).tobytes())
    with refused("encoder: expected an ONNX file, got"):
        load_encoder(_onnx(tmp_path / "m.onnx", "w.bin", "evil.ops"))


def test_python_source_is_the_only_importer(tmp_path: Path, marked: Path) -> None:
    """Names of files and modules are imported for `python:` alone, which the user writes."""
    file = tmp_path / "evil.py"
    file.write_text(f"open({str(marked)!r}, 'w').close()\ndef make(): return lambda x: x.flatten(1)\n")
    for spec in (
        f"onnx:{file}",
        f"torchscript:{file}",
        f"hf:{file}",
        f"builtin:{file}",
        f"timm:{file}",
        f"{file}:make",
    ):
        with refused("encoder"):
            load_encoder(spec, input_shape=(2,))
    assert not marked.exists()
    load_encoder(f"python:{file}:make", input_shape=(2,))
    assert marked.exists()


# ---------------------------------------------------------------- results and what is shown of them


def test_nothing_is_imported_from_the_directory_of_results(
    tmp_path: Path, marked: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = folder_of(tmp_path, *(example(f"builtin:m{i}") for i in range(4)))
    for name in ("json", "array", "encodings_", "numpy", "synbench_fast"):
        (place / f"{name}.py").write_text(f"open({str(marked)!r}, 'w').close()")
    monkeypatch.chdir(place)
    monkeypatch.delenv("PYTHONPATH", raising=False)
    assert len(load_results(".").items) == 4
    assert not marked.exists()


@pytest.mark.parametrize(
    "change",
    [
        {"cost": 5}, {"eps": [10**400, 0.2]}, {"scores": {}}, {"warnings": [1]}, {"seed": "x"},
        {"task": {"scales": [10**400]}}, {"environment": {"gpus": 5}}, {"encoder": {"preprocessing": {}}},
        {"encoder": {"parameters": "many"}}, {"cost": {"images_per_second": 10**400}},
    ],
)  # fmt: skip
def test_a_result_that_does_not_fit_is_a_problem_of_one_line(tmp_path: Path, change: dict[str, Any]) -> None:
    document = example("builtin:bad").to_dict()
    for key, value in change.items():
        document[key] = {**document[key], **value} if isinstance(value, dict) and value else value
    place = folder_of(tmp_path, example())
    (place / "bad.json").write_text(json.dumps(document, indent=2))
    found = load_results(place)
    assert len(found.items) == 1 and len(found.problems) == 1
    assert found.problems[0].isprintable() and "bad.json" in found.problems[0]


def test_half_a_character_is_no_document(tmp_path: Path) -> None:
    text = example().to_json().replace("builtin:conv", "builtin:\\ud800")
    with refused("expected a JSON document"):
        Result.from_json(text)
    assert (
        Result.from_json(example().to_json().replace("conv", "\\ud83d\\ude00")).encoder.name == "\U0001f600"
    )


def test_json_that_is_too_deep() -> None:
    with refused("result: expected a JSON document"):
        Result.from_json("[" * 200_000)


def test_names_on_a_terminal(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from synbench_fast.errors import SynbenchError
    from synbench_fast.report.tables import print_tables
    from synbench_fast.runtime.messages import fail, say
    from synbench_fast.runtime.progress import Reporter

    stream = io.StringIO()
    many = [example(HOSTILE, seed=0) for _ in range(1)]
    board = leaderboard(load_results(folder_of(tmp_path, *many)))
    print_tables(stream, board)
    with Reporter(stream).encoder(HOSTILE) as advance:
        advance(0, 1, "load")
    say(HOSTILE)
    fail(HOSTILE, 1)
    shown = stream.getvalue() + capsys.readouterr().err
    assert "\\x1b[2J" in shown and "[red]" in shown
    assert all(line.isprintable() for line in shown.splitlines())
    assert str(SynbenchError(f"x: expected a, got {HOSTILE}")).isprintable()


def test_standard_output_on_a_terminal() -> None:
    """Whatever a command prints: a terminal gets new lines and colours, and sees the rest."""
    pty = pytest.importorskip("pty")
    ours, theirs = pty.openpty()
    program = (
        "from synbench_fast.report.terminal import result_stream\n"
        "with result_stream() as stream: stream.write('a\\x1b[2Jb\\x1b[1mc\\u202e\\u4e2d\\n')\n"
    )
    subprocess.run([sys.executable, "-c", program], stdout=theirs, check=True)
    shown = os.read(ours, 1000).decode()
    os.close(ours)
    os.close(theirs)
    assert shown == "a\\x1b[2Jb\x1b[1mc\\u202e\u4e2d\r\n"


def test_names_in_a_spreadsheet(tmp_path: Path) -> None:
    from synbench_fast.report.tables import write_csv
    from synbench_fast.report.terminal import sink

    for formula in ("=cmd|' /C calc'!A0", "+1", "-1+1", "@SUM(1)", "\t=1", " =1", "\uff1d1"):
        result = example("x:" + formula)
        object.__setattr__(result.encoder, "spec", formula)
        one, two = io.StringIO(), io.StringIO()
        sink("csv", one).add(result)
        place = tmp_path / str(len(list(tmp_path.iterdir())))
        place.mkdir()
        write_csv(two, leaderboard(load_results(folder_of(place, result))))
        for text in (one.getvalue(), two.getvalue()):
            (row, *_) = csv.DictReader(io.StringIO(text))
            assert row["encoder"] == "'" + formula
            assert float(row.get("score") or row["score_eps0_a0.6"]) > 0


def test_names_in_html_and_markdown(tmp_path: Path) -> None:
    from synbench_fast.report.html import page
    from synbench_fast.report.tables import write_markdown

    board = leaderboard(load_results(folder_of(tmp_path, example(HOSTILE), example("timm:</script><b>"))))
    text, stream = page(board), io.StringIO()
    write_markdown(stream, board)
    for shown in (text, stream.getvalue()):
        assert "<script>alert" not in shown and "</script><b>" not in shown and "\x1b" not in shown
    assert "default-src 'none'" in text and "unsafe-inline" not in text
    rows = [line for line in stream.getvalue().splitlines() if line.startswith("|")]
    assert len({len(re.findall(r"(?<!\\)\|", line)) for line in rows}) == 1


def test_names_in_a_command() -> None:
    spec = "timm:a b;rm -rf ~`id`$(id)'\"\n"
    words = shlex.split(ScoreConfig(checkpoint="-x y;z").command(spec))
    assert words[:3] == ["synbench-fast", "run", spec] and words[-2:] == ["--checkpoint", "-x y;z"]


def test_names_in_paths(tmp_path: Path) -> None:
    for spec in (
        "timm:../../../x",
        "hf:/etc/passwd",
        "timm:..",
        "timm:" + "a" * 5000,
        HOSTILE,
        "timm:con\\..\\x",
    ):
        name = example(spec).file_name()
        assert Path(name).name == name and re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*\.json", name)
        assert example(spec).save(tmp_path / name).parent == tmp_path


def test_cells_stay_in_their_folder(tmp_path: Path) -> None:
    from synbench_fast.studies.inheritance.cells import open_store

    path = open_store(tmp_path).path({"fine_tuned_on": "../../x", "method": "/etc/y", "seed": "..\\z"})
    assert path is not None and path.resolve().parent == tmp_path.resolve()


# ---------------------------------------------------------------- run stores


def stored(tmp_path: Path, **columns: Any) -> Path:
    """A store of one finished job, some columns of which another hand has written."""
    store = Store(tmp_path, journal="delete")
    store.begin()
    (id,) = store.add_jobs([("key", "c", "f", "builtin:conv", {"spec": "builtin:conv"})])
    store.finish_job(id, "builtin_conv-0.json")
    store.end()
    store.close()
    with sqlite3.connect(tmp_path / "store.sqlite") as db:
        for name, value in columns.items():
            db.execute(f"UPDATE jobs SET {name} = ?", (value,))
    db.close()
    return tmp_path


@pytest.mark.parametrize("name", ["../../secret.json", "/etc/passwd", "a/b.json", "..", "", 5, b"x.json"])
def test_names_in_a_store_stay_in_its_folder(tmp_path: Path, name: Any) -> None:
    store = Store(stored(tmp_path, result=name), journal="delete")
    with refused("expected the name of a result's file"):
        store.job(1)
    with refused("expected the name of a result's file"):
        store.finish_job(1, "../x.json")
    store.close()


def test_a_request_in_a_store_is_the_one_asked_for(tmp_path: Path) -> None:
    """Else the key of a harmless encoder could stand for another's code."""
    place = stored(tmp_path, request=json.dumps({"spec": "python:/tmp/evil.py:make"}))
    store = Store(place, journal="delete")
    store.begin()
    with refused("expected the request that job 1 is found by, got another"):
        store.add_jobs([("key", "c", "f", "builtin:conv", {"spec": "builtin:conv"})])
    store.close()


@pytest.mark.parametrize(
    "statement",
    [
        "CREATE TRIGGER t AFTER UPDATE ON jobs BEGIN DELETE FROM units; END",
        "CREATE VIEW v AS SELECT * FROM jobs",
    ],
)
def test_a_store_has_no_program(tmp_path: Path, statement: str) -> None:
    stored(tmp_path)
    with sqlite3.connect(tmp_path / "store.sqlite") as db:
        db.execute(statement)
    db.close()
    for opened in (lambda: Store(tmp_path, journal="delete"), lambda: read_summary(tmp_path)):
        with refused("expected tables and indices, got a"):
            opened()


@pytest.mark.parametrize(
    "name", [b"unit_finished", b"CREATE INDEX unit_finished", b"tableruns", b"job_family"]
)
def test_a_store_whose_names_are_no_text(tmp_path: Path, name: bytes) -> None:
    stored(tmp_path)
    file = tmp_path / "store.sqlite"
    content = file.read_bytes()
    assert name in content
    file.write_bytes(content.replace(name, name[:-3] + b"\xa8" + name[-2:]))
    with refused("store.sqlite: expected"):
        read_summary(tmp_path)


def test_a_store_of_other_values(tmp_path: Path) -> None:
    stored(tmp_path, request="[" * 100_000)
    store = Store(tmp_path, journal="delete")
    with refused("expected a JSON object in every job and unit"):
        store.job(1)
    store.close()
    with sqlite3.connect(tmp_path / "store.sqlite") as db:
        db.execute("UPDATE runs SET ended = NULL, host = ''")
    db.close()
    with refused("expected the values that a run writes"):
        read_summary(tmp_path)


@pytest.mark.parametrize(
    "header", [[], {}, {"values": [], "arrays": []}, {"values": {}, "arrays": [["eps", "<f8", [2**70]]]}]
)
def test_payloads_are_numbers(header: Any) -> None:
    import zlib

    text = json.dumps(header).encode()
    body = b"SBP1" + len(text).to_bytes(4, "little") + text
    with refused("payload: expected a point of this version"):
        decode_point(body + zlib.crc32(body).to_bytes(4, "little"))
    with refused("payload: expected a stored point"):
        decode_point("text")  # type: ignore[arg-type]


# ---------------------------------------------------------------- tasks, data, images


@pytest.mark.parametrize(
    "text", ["a = " + "[" * 50_000, "prior = " + "9" * 5000, "prior = " + "9" * 400, "scales = 0x" + "f" * 5000, "scales = [1" + "0" * 400 + "]"],
)  # fmt: skip
def test_task_files_of_absurd_values(tmp_path: Path, text: str) -> None:
    from synbench_fast.tasks.suites import load_suite

    file = tmp_path / "t.toml"
    file.write_text(f'[[task]]\nname = "a"\n{text}\n')
    with refused("t.toml"):
        load_suite(str(file))
    file.write_text(f"{text}\n")
    with refused(": "):
        score("builtin:identity", input_shape=(4,), config=ScoreConfig.load(file))


def npz(path: Path, shape: tuple[int, ...], content: bytes, descr: str = "<f4") -> Path:
    path.write_bytes(archive_of({"x": member(shape, content, descr), "y": member(shape, content, descr)}))
    return path


def member(shape: tuple[int, ...], content: bytes, descr: str = "<f8") -> bytes:
    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(header, {"descr": descr, "fortran_order": False, "shape": shape})
    return header.getvalue() + content


def archive_of(members: dict[str, bytes], method: int = zipfile.ZIP_DEFLATED) -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", method) as archive:
        for name, content in members.items():
            archive.writestr(f"{name}.npy", content)
    return stream.getvalue()


def many_entries() -> bytes:
    """A directory that claims 65535 entries and has one."""
    data = bytearray(archive_of({"curve": member((4,), b"")}, zipfile.ZIP_STORED))
    data[-12:-10] = data[-14:-12] = b"\xff\xff"
    return bytes(data)


def pickled(marker: Path) -> bytes:
    stream = io.BytesIO()
    np.save(stream, np.array([Marker(marker)], dtype=object))
    return archive_of({"score_covariance": stream.getvalue()}, zipfile.ZIP_STORED)


STORED = zipfile.ZIP_STORED
HOSTILE_ARRAYS: dict[str, Any] = {
    "pickle": pickled,
    "compressed": lambda _: archive_of({"score_covariance": member((2000, 2000), bytes(32_000_000))}),
    "header that lies": lambda _: archive_of({"score_covariance": member((10**13,), b"")}, STORED),
    "negative shape": lambda _: archive_of({"score_covariance": member((-4, -4), bytes(128))}, STORED),
    "other type": lambda _: archive_of({"score_covariance": member((4, 4), bytes(64), "<f4")}, STORED),
    "other shape": lambda _: archive_of({"score_covariance": member((2, 2), bytes(32))}, STORED),
    "one number": lambda _: archive_of({"score_covariance": member((), bytes(8))}, STORED),
    "not a number": lambda _: archive_of({"score_covariance": member((4, 4), b"\xff" * 128)}, STORED),
    "no array": lambda _: archive_of({"score_covariance": b"abc"}, STORED),
    "another name": lambda _: archive_of({"covariance": member((4, 4), bytes(128))}, STORED),
    "many entries": lambda _: many_entries(),
    "deep header": lambda _: archive_of(
        {"score_covariance": b"\x93NUMPY\1\0" + (9000).to_bytes(2, "little") + b"(" * 9000}, STORED
    ),
    "comment": lambda _: archive_of({}, STORED)[:-2] + b"\1\0x",
    "empty": lambda _: b"",
}


@pytest.mark.parametrize("kind", HOSTILE_ARRAYS)
def test_arrays_beside_a_result_are_bounded_numbers(tmp_path: Path, marked: Path, kind: str) -> None:
    """The header names the sha256 of what somebody put beside it."""
    path = example(score_covariance=np.eye(4).tolist()).save(tmp_path / "a.json")
    data = HOSTILE_ARRAYS[kind](marked)
    before = hashlib.sha256(path.with_suffix(".npz").read_bytes()).hexdigest()
    path.write_text(path.read_text().replace(before, hashlib.sha256(data).hexdigest()))
    path.with_suffix(".npz").write_bytes(data)
    result = Result.load(path)
    with refused("a.npz: "):  # what is imported on the way is no memory of the file
        _ = result.score_covariance
    tracemalloc.start()
    try:
        with refused("a.npz: "):
            _ = result.score_covariance
        assert tracemalloc.get_traced_memory()[1] < 2**23
    finally:
        tracemalloc.stop()
    assert not marked.exists()


@pytest.mark.parametrize("own", [True, False])
def test_arrays_of_a_result_are_a_file(tmp_path: Path, own: bool) -> None:
    """A pipe would be waited for; in a store a link may lead to a file that is yours alone."""
    path = example().save(tmp_path / "a.json")
    result = Result.load(path, own=own)
    arrays = path.with_suffix(".npz")
    arrays.rename(tmp_path / "elsewhere")
    os.mkfifo(arrays)
    with refused("a.npz: expected a", "got something else"):
        _ = result.curve
    arrays.unlink()
    arrays.symlink_to(tmp_path / "elsewhere")
    if own:
        with refused("a.npz: expected a file of the store itself, got a link"):
            _ = result.curve
    else:
        assert len(result.curve) == 4


def test_npz_runs_nothing(tmp_path: Path, marked: Path) -> None:
    from synbench_fast.studies.labelled_data import open_data

    np.savez(tmp_path / "d.npz", x=np.array([Marker(marked)], dtype=object), y=np.zeros(1))
    with refused("expected arrays without pickles"):
        open_data(tmp_path / "d.npz")
    assert not marked.exists()


@pytest.mark.parametrize("shape", [(10**13,), (10**30,), (-4, 4), (5, 0)])
def test_npz_header_that_lies(tmp_path: Path, shape: tuple[int, ...]) -> None:
    from synbench_fast.studies.labelled_data import open_data

    with refused("d.npz"):
        open_data(npz(tmp_path / "d.npz", shape, b"\0" * 64))


def test_npz_of_more_than_the_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A thousand times smaller on disk: compressed zeros."""
    from synbench_fast.studies import labelled_data

    monkeypatch.setattr(labelled_data, "memory_bytes", lambda: 2**20)
    file = npz(tmp_path / "d.npz", (2**20,), b"\0" * 2**22)
    assert file.stat().st_size < 2**14
    with refused("expected at most the 1048576 bytes of this machine"):
        labelled_data.open_data(file)


def test_images_start_no_program(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Pillow draws PostScript by Ghostscript, whatever the name of the file says."""
    from synbench_fast.studies.images import decoded
    from synbench_fast.studies.inheritance.folders import Prepare

    pytest.importorskip("PIL.Image")
    started: list[Any] = []
    monkeypatch.setattr(subprocess, "Popen", lambda *args, **more: started.append(args))
    monkeypatch.setattr(subprocess, "check_call", lambda *args, **more: started.append(args))
    file = tmp_path / "cat.png"
    file.write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n%%EndComments\nshowpage\n%%EOF\n")
    with refused("cat.png: expected an image, got UnidentifiedImageError"):
        decoded(file.read_bytes(), (3, 8, 8), str(file))
    with pytest.raises(OSError, match="cannot identify image file"):
        Prepare((3, 8, 8))(file.read_bytes())
    assert not started


def test_images_of_absurd_size() -> None:
    images = pytest.importorskip("PIL.Image")
    from synbench_fast.studies.images import decoded

    buffer = io.BytesIO()
    images.new("1", (20_000, 20_000)).save(buffer, "PNG")
    with refused("big.png: expected an image, got DecompressionBomb"):
        decoded(buffer.getvalue(), (3, 8, 8), "big.png")


def test_class_names_that_only_look_like_numbers() -> None:
    from synbench_fast.studies.inheritance.folders import _by_number

    columns = _by_number("V2", ["a", "b", "c"])
    assert columns("\u00b2") == () and columns("2") == (2,) and columns("-1") == ()
    with refused("V2: expected folders 0 to 2"):
        columns("\u0663")  # decimal, in another script


def test_mapping_of_anything(tmp_path: Path) -> None:
    from synbench_fast.studies.inheritance.folders import _by_mapping

    for content in (b'{"a": [["x"]]}', b"\xff\xfe", b'{"a": {}}', b"[" * 100_000):
        (tmp_path / "map.json").write_bytes(content)
        with refused("expected a"):
            _by_mapping(tmp_path / "map.json", ["x"])


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs named pipes")
def test_files_of_options_that_are_pipes(tmp_path: Path) -> None:
    """Nobody writes into them: whoever opens one waits for ever."""
    from synbench_fast.studies.inheritance.folders import _by_mapping
    from synbench_fast.tasks.suites import load_suite

    os.mkfifo(file := tmp_path / "t.toml")
    with refused("t.toml: expected a TOML file, got: something else"):
        load_suite(str(file))
    with refused("config: ", "t.toml: expected a TOML file, got: something else"):
        ScoreConfig.load(file)
    with refused("objectnet_map: ", "t.toml: expected a readable JSON file, got something else"):
        _by_mapping(file, ["x"])


# ---------------------------------------------------------------- models, processes


def test_a_list_of_models_is_read_as_words(tmp_path: Path, marked: Path) -> None:
    """No shell: what looks like a command is a spec that is not there."""
    from synbench_fast.fleet.models import expand

    file = tmp_path / "models.txt"
    for line in (
        f"`touch {marked}`",
        f"$(touch {marked})",
        f"x; touch {marked}",
        "builtin:conv --out /etc",
        'builtin:conv "',
    ):
        file.write_text(line + "\n")
        with refused("models.txt:1: "):
            expand([str(file)])
    assert not marked.exists()


def test_git_of_a_hostile_checkout_starts_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    from synbench_fast.engine import environment

    commands: list[list[str]] = []

    def run(command: list[str], **options: Any) -> Any:
        commands.append(command)
        return subprocess.CompletedProcess(command, 0, stdout="", stderr="")

    monkeypatch.setattr(environment.subprocess, "run", run)
    environment._revision(Path())
    assert commands and all("core.fsmonitor=false" in one for one in commands)


def test_workers_are_reached_by_no_port(tmp_path: Path) -> None:
    """Tasks and answers are pickles between processes of one user, over a pair of sockets without an address."""
    from synbench_fast.fleet.executors import Local

    made: list[tuple[int, ...]] = []
    pair = socket.socketpair

    def kept(*args: Any) -> Any:
        two = pair(*args)
        made.append(tuple(one.family for one in two))
        return two

    local = Local(["cpu"], tmp_path)
    socket.socketpair, before = kept, socket.socketpair  # type: ignore[assignment]
    try:
        local.start("0")
    finally:
        socket.socketpair = before  # type: ignore[assignment]
        local.close()
    assert made == [(socket.AF_UNIX, socket.AF_UNIX)]


def test_no_reader_executes_files() -> None:
    """No eval, exec, yaml or pickle anywhere."""
    package = Path(__file__).parents[2] / "synbench_fast"
    forbidden = r"(?<![\w.])(eval|exec)\(|\byaml\b|joblib|dill|shelve|marshal|load_extension|allow_pickle=True|weights_only=False|shell=True|os\.system"
    pickles = set()
    for path in package.rglob("*.py"):
        text = path.read_text(encoding="utf-8")
        assert not re.search(forbidden, text.replace("weights_only=False.", "")), path
        if re.search(r"\bpickle\.loads?\(", text):
            pickles.add(path.name)
    assert pickles == set()
