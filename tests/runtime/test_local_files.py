"""Files that an encoder is made of: any change of one is seen, and nothing else is."""

from __future__ import annotations

import os
import sys
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from synbench_fast.config import ScoreConfig
from synbench_fast.encoders import load_encoder
from synbench_fast.fleet.configuration import family_of, job_key, make_request, named_files, source_of
from synbench_fast.fleet.executors import InProcess
from synbench_fast.fleet.launch import run_fleet
from synbench_fast.results.records import Result
from synbench_fast.runtime.local_files import local_sources, onnx_data

# ---------------------------------------------------------------- code of python: encoders


def write(folder: Path, files: dict[str, str]) -> None:
    for name, text in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)


# Ways to come to a module: the text of enc.py, and all files that make the encoder beside it.
WAYS: dict[str, tuple[str, dict[str, str]]] = {
    "module": ("import helper", {"helper.py": ""}),
    "inside a function": ("def f():\n    if 0:\n        import helper", {"helper.py": ""}),
    "inside try": ("try:\n    import helper\nexcept ImportError:\n    helper = None", {"helper.py": ""}),
    "name of a module": ("from helper import w", {"helper.py": "w = 1\n"}),
    "star": ("from helper import *", {"helper.py": ""}),
    "of a module": ("import a", {"a.py": "import b\n", "b.py": "from c import d\n", "c.py": "d = 1\n"}),
    "in a circle": ("import a", {"a.py": "import b\n", "b.py": "import a\n"}),
    "package": ("import p.q.r", {"p/__init__.py": "", "p/q/__init__.py": "", "p/q/r.py": ""}),
    "package without __init__": ("import p.q.r", {"p/q/r.py": ""}),
    "submodule": ("from p.q import r", {"p/__init__.py": "", "p/q/__init__.py": "", "p/q/r.py": ""}),
    "what __init__ brings": ("import p", {"p/__init__.py": "from . import a\nfrom .b import c\n", "p/a.py": "", "p/b.py": "c = 1\n"}),
    "of the parent": ("import p.q.r", {"p/q/r.py": "from .. import a\nfrom ..s.t import u\n", "p/a.py": "", "p/s/t.py": "u = 1\n"}),
    "by a constant": ("import importlib\nimportlib.import_module('p.q')", {"p/q.py": ""}),
    "by a name in a variable": ("from importlib import import_module\nWHICH = 'helper'\nimport_module(WHICH)", {"helper.py": ""}),
    "relative, by a constant": ("import p", {"p/__init__.py": "from importlib import import_module as _\nimport importlib\nimportlib.import_module('.q', __package__)\n", "p/q.py": ""}),
    "all of a folder": ("import p", {"p/__init__.py": "import importlib, pkgutil\nfor one in pkgutil.iter_modules(__path__):\n    importlib.import_module(f'p.{one.name}')\n", "p/a.py": "", "p/b.py": ""}),
    "by a path": ("import runpy, os\nrunpy.run_path(os.path.join(os.path.dirname(__file__), 'code/helper.py'))", {"code/helper.py": ""}),
    "executed": ("exec(open('helper.py').read())", {"helper.py": ""}),
    "on its own sys.path": ("import sys, os\nsys.path.insert(0, os.path.join(os.path.dirname(__file__), 'lib'))\nimport helper", {"lib/helper.py": ""}),
    "compiled": ("try:\n    import fast\nexcept ImportError:\n    pass", {f"fast{'.abi3.so' if sys.platform != 'win32' else '.pyd'}": ""}),
}  # fmt: skip
FACTORY = "\ndef make():\n    return lambda x: x.flatten(1)[:, :2]\n"


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("spec", ["python:enc:make", "python:enc.py:make", "python:{here}/enc.py:make"])
def test_every_module_that_a_factory_imports_counts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, way: str, spec: str
) -> None:
    text, files = WAYS[way]
    monkeypatch.chdir(tmp_path)
    write(
        tmp_path,
        {**files, "enc.py": text + FACTORY, "unrelated.py": "", "data.txt": "", "other/helper2.py": ""},
    )
    spec = spec.format(here=tmp_path)
    request = make_request(spec, ScoreConfig())
    before = job_key(request), family_of(request), source_of(spec)
    for name in (*files, "enc.py"):
        held = (tmp_path / name).read_text()
        times = (tmp_path / name).stat()
        (tmp_path / name).write_text(held[:-1] + "#" if held else "#")
        os.utime(tmp_path / name, ns=(times.st_atime_ns, times.st_mtime_ns))  # as if nothing had happened
        changed = job_key(request), family_of(request), source_of(spec)
        assert not set(before) & set(changed), name
        (tmp_path / name).write_text(held)
        assert (job_key(request), family_of(request), source_of(spec)) == before
    for name in ("unrelated.py", "data.txt", "other/helper2.py"):
        if way not in (
            "executed",
            "by a path",
            "by a name in a variable",
        ):  # which count everything beside them
            (tmp_path / name).write_text("#")
    assert (job_key(request), family_of(request), source_of(spec)) == before


def test_the_same_code_elsewhere_is_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text = "import helper, p.q\nimport numpy, torch, os, synbench_fast\n" + FACTORY
    files = {
        "helper.py": "import late",
        "late.py": "",
        "p/q.py": "from . import r",
        "p/r.py": "",
        "enc.py": text,
    }
    found = []
    for name in ("one", "another/and/deeper"):
        folder = tmp_path / name
        write(folder, files)
        monkeypatch.chdir(folder)
        found.append(
            (source_of("python:enc:make"), job_key(make_request("python:enc.py:make", ScoreConfig())))
        )
        assert [name for name, _ in local_sources("enc")] == sorted(files)
        assert source_of(f"python:{folder}/enc.py:make") == source_of("python:enc:make")
    assert found[0] == found[1]
    (tmp_path / "one" / "helper.py").rename(tmp_path / "one" / "swap.py")
    monkeypatch.chdir(tmp_path / "one")
    write(tmp_path / "one", {"helper.py": files["late.py"], "late.py": files["helper.py"]})
    assert source_of("python:enc:make") != found[0][0]  # the same texts under other names


def test_installed_packages_are_known_by_their_version(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path / "lib/python3/site-packages"))
    monkeypatch.syspath_prepend(str(tmp_path / "checkout"))
    write(tmp_path, {"lib/python3/site-packages/installed_one.py": "", "checkout/editable_one/__init__.py": "",
                     "enc.py": "import installed_one, editable_one, json, torch.nn, sys\n" + FACTORY})  # fmt: skip
    assert [name for name, _ in local_sources("enc")] == ["editable_one/__init__.py", "enc.py"]
    assert [name for name, _ in local_sources("installed_one")] == [
        "installed_one.py"
    ]  # but for what is named itself
    assert [name for name, _ in local_sources("torch.nn.functional")] == [
        "torch/__init__.py", "torch/nn/__init__.py", "torch/nn/functional.py"
    ]  # fmt: skip


@pytest.mark.parametrize(
    "text",
    ["import (", "\0", "a." * 5000, "import \udce9".encode("utf-8", "surrogateescape").decode("latin-1")],
)
def test_code_that_cannot_be_read_is_for_the_importer_to_say(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "enc.py").write_text(text)
    assert [name for name, _ in local_sources("enc.py")] == ["enc.py"]
    for where in ("", ".", "..", "absent", "absent.py", "a b.c", "enc.py.py"):
        assert local_sources(where) == []


def test_a_fleet_does_not_answer_for_a_helper_that_changed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In one process, with the module imported already, its time and size as before."""
    name = f"zoo_{zlib.crc32(str(tmp_path).encode())}"
    monkeypatch.chdir(tmp_path)
    helper = f"{name}_helper"
    write(tmp_path, {f"{name}.py": f"import {helper} as h\ndef make():\n    return lambda x: x.flatten(1)[:, :h.width].double()\n",
                     f"{helper}.py": "width = 5\n"})  # fmt: skip
    options = {"scales": (1.0,), "samples": 64, "input_shape": (3, 4, 4)}

    def run(spec: str) -> Any:
        (job,) = run_fleet([spec], tmp_path / "store", config=ScoreConfig(**options), executor=InProcess())
        assert job.state == "done", job.reason
        return Result.load(tmp_path / "store" / "results" / str(job.result)).encoder.feature_dim

    for spec in (f"python:{name}:make", f"python:{tmp_path}/{name}.py:make"):
        file = tmp_path / f"{helper}.py"
        file.write_text("width = 5\n")
        times = file.stat()
        assert run(spec) == 5
        file.write_text("width = 6\n")
        os.utime(file, ns=(times.st_atime_ns, times.st_mtime_ns))
        assert run(spec) == 6


def test_two_factories_whose_helpers_have_one_name(tmp_path: Path) -> None:
    """Each gets its own, in one process, in any order."""
    for number in (3, 4):
        write(tmp_path, {f"n{number}/enc.py": "import os, sys\nsys.path.insert(0, os.path.dirname(__file__))\n"
                         "import same_name_here as h\nsys.path.pop(0)\n"
                         "def make():\n    return lambda x: x.flatten(1)[:, :h.width]\n",
                         f"n{number}/same_name_here.py": f"width = {number}\n"})  # fmt: skip
    for number in (3, 4, 4, 3):
        encoder = load_encoder(f"python:{tmp_path}/n{number}/enc.py:make", input_shape=(8,))
        assert encoder(torch.zeros(2, 8)).shape == (2, number)


# ---------------------------------------------------------------- onnx


def external(path: Path, place: Callable[[Any, Any], None], name: str) -> Any:
    """y = x @ w, with w in a file of its own where `place` puts the tensor."""
    onnx = pytest.importorskip("onnx")
    helper = onnx.helper
    weight = onnx.numpy_helper.from_array(np.arange(30, dtype=np.float32).reshape(6, 5), "w")
    (path.parent / name).parent.mkdir(parents=True, exist_ok=True)
    (path.parent / name).write_bytes(weight.raw_data)
    onnx.external_data_helper.set_external_data(weight, location=name)
    weight.ClearField("raw_data")
    weight.data_location = onnx.TensorProto.EXTERNAL
    x, y = (helper.make_tensor_value_info(n, 1, ["N", size]) for n, size in (("x", 6), ("y", 5)))
    graph = helper.make_graph([helper.make_node("MatMul", ["x", "w"], ["y"])], "g", [x], [y])
    place(graph, weight)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    path.write_bytes(model.SerializeToString())
    return onnx


def as_initializer(graph: Any, weight: Any) -> None:
    graph.initializer.append(weight)


def as_constant(graph: Any, weight: Any) -> None:
    import onnx

    graph.node.insert(0, onnx.helper.make_node("Constant", [], ["w"], value=weight))


def in_a_branch(graph: Any, weight: Any) -> None:
    import onnx

    helper = onnx.helper
    inner = helper.make_graph(
        [helper.make_node("Constant", [], ["v"], value=weight)],
        "then",
        [],
        [helper.make_tensor_value_info("v", 1, [6, 5])],
    )
    flag = onnx.numpy_helper.from_array(np.array(True), "flag")
    graph.initializer.append(flag)
    graph.node.insert(0, helper.make_node("If", ["flag"], ["w"], then_branch=inner, else_branch=inner))


@pytest.mark.parametrize("place", [as_initializer, as_constant, in_a_branch])
@pytest.mark.parametrize(
    "name", ["weights.bin", "m.onnx.data", "sub/folder/w", "Gewichte für alle", "x" * 200]
)
def test_onnx_data_under_any_name(tmp_path: Path, place: Callable[[Any, Any], None], name: str) -> None:
    file = tmp_path / "m.onnx"
    external(file, place, name)
    data = tmp_path / name
    assert onnx_data(file) == [data]
    request = make_request(f"onnx:{file}?output=y", ScoreConfig(**{}))
    assert [path for _, path in named_files(request)] == [file, data]
    key = job_key(request)
    held = data.read_bytes()
    data.write_bytes(held[:-1] + b"\x42")
    assert job_key(request) != key
    data.write_bytes(held)
    (tmp_path / "m.onnx_data").write_bytes(b"of another graph")
    assert job_key(request) == key


def test_onnx_data_decides_the_fingerprint(tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime")
    file = tmp_path / "m.onnx"
    external(file, as_initializer, "weights.bin")
    first = load_encoder(f"onnx:{file}").info.weights_sha256
    (tmp_path / "m.onnx.data").write_bytes(b"of another graph")
    assert load_encoder(f"onnx:{file}").info.weights_sha256 == first
    held = bytearray((tmp_path / "weights.bin").read_bytes())
    held[-1] ^= 1
    (tmp_path / "weights.bin").write_bytes(held)
    assert load_encoder(f"onnx:{file}").info.weights_sha256 != first
    elsewhere = tmp_path / "elsewhere" / "n.onnx"
    elsewhere.parent.mkdir()
    external(elsewhere, as_initializer, "weights.bin")
    assert load_encoder(f"onnx:{elsewhere}").info.weights_sha256 == first


def test_onnx_data_of_every_tensor(tmp_path: Path) -> None:
    """Sparse tensors, lists of tensors, functions and training information: whatever the library finds."""
    onnx = pytest.importorskip("onnx")
    helper = onnx.helper

    def tensor(name: str) -> Any:
        made = onnx.TensorProto(name=name, data_type=1, dims=[1])
        onnx.external_data_helper.set_external_data(made, location=name) if made.HasField(
            "raw_data"
        ) else None
        made.external_data.add(key="offset", value="0")
        made.external_data.add(key="location", value=name)
        made.data_location = onnx.TensorProto.EXTERNAL
        (tmp_path / name).write_bytes(b"1234")
        return made

    graph = helper.make_graph([], "g", [], [])
    graph.sparse_initializer.add(values=tensor("a"), indices=tensor("b"), dims=[1])
    node = graph.node.add(op_type="Odd")
    node.attribute.add(name="tensors", type=onnx.AttributeProto.TENSORS, tensors=[tensor("c"), tensor("d")])
    sparse = onnx.SparseTensorProto(values=tensor("e"), indices=tensor("f"), dims=[1])
    node.attribute.add(name="sparse", type=onnx.AttributeProto.SPARSE_TENSORS, sparse_tensors=[sparse])
    node.attribute.add(name="one", type=onnx.AttributeProto.SPARSE_TENSOR, sparse_tensor=sparse)
    inner = helper.make_graph([], "inner", [], [], initializer=[tensor("g")])
    node.attribute.add(name="graphs", type=onnx.AttributeProto.GRAPHS, graphs=[inner])
    model = helper.make_model(graph)
    body = helper.make_node("Constant", [], ["v"], value=tensor("h"))
    model.functions.append(helper.make_function("own", "F", [], ["v"], [body], [helper.make_opsetid("", 17)]))
    model.training_info.add(algorithm=helper.make_graph([], "t", [], [], initializer=[tensor("i")]))
    graph_file = tmp_path / "m.onnx"
    graph_file.write_bytes(model.SerializeToString())
    assert [one.name for one in onnx_data(graph_file)] == list("abcdefghi")


@pytest.mark.parametrize(
    "content", [b"", b"not a graph", b"\x3a\xff\xff\xff\xff\x0f", b"\x3a" * 1000, b"\xff" * 1000, b"\x3b\x3c"]
)
def test_what_is_no_graph_has_no_data(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "m.onnx").write_bytes(content)
    assert onnx_data(tmp_path / "m.onnx") == []
    assert onnx_data(tmp_path / "absent.onnx") == []


# ---------------------------------------------------------------- directories and other files


@pytest.mark.parametrize("spec", ["hf:{}", "timm:local-dir:{}"])
def test_a_directory_counts_with_all_its_files(tmp_path: Path, spec: str) -> None:
    here, base = tmp_path / "model", tmp_path / "base"
    write(here, {"config.json": "{}", "model.safetensors": "1", "adapter_model.safetensors": "1", "code/net.py": "",
                 "adapter_config.json": f'{{"base_model_name_or_path": "{base}", "lora_alpha": 8}}'})  # fmt: skip
    write(base, {"config.json": "{}", "model.safetensors": "1"})
    spec = spec.format(here)
    request = make_request(spec, ScoreConfig())
    key, source = job_key(request), source_of(spec)
    for file in (*here.rglob("*.*"), *base.rglob("*.*")):
        held = file.read_text()
        file.write_text(held.replace("8", "9") if "8" in held else held + " ")
        assert job_key(request) != key, file
        assert (source_of(spec) != source) == (file.suffix != ".safetensors")  # those count by their values
        file.write_text(held)
    assert (job_key(request), source_of(spec)) == (key, source)


def test_large_files_are_known_by_size_and_times(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from synbench_fast.fleet import configuration

    monkeypatch.setattr(configuration, "WHOLE", 3)
    file = tmp_path / "w.pt"
    file.write_bytes(b"1234")
    request = make_request("builtin:conv", ScoreConfig(**{"checkpoint": f"{file}#teacher"}))
    key = job_key(request)
    assert job_key(request) == key
    times = file.stat()
    while file.stat().st_ctime_ns == times.st_ctime_ns:  # clocks of file systems tick in milliseconds
        file.write_bytes(b"1235")
    os.utime(file, ns=(times.st_atime_ns, times.st_mtime_ns))
    assert job_key(request) != key


def test_another_name_of_a_published_encoder_is_no_path(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A folder that happens to be called resnet18 has nothing to do with it; a source of another package may name files."""
    monkeypatch.chdir(tmp_path)
    write(tmp_path, {"resnet18/config.json": "{}", "matrix.npy": "1"})
    for spec in ("timm:resnet18", "torchvision:resnet18", "builtin:resnet18", "hf:", "Classifier 0"):
        assert named_files(make_request(spec, ScoreConfig())) == [] and source_of(spec) == ""
    assert [path.name for _, path in named_files(make_request("npy:matrix.npy?x=1", ScoreConfig()))] == [
        "matrix.npy"
    ]
