"""`run --models` and `status`: what names encoders and devices, exit codes, streams, and one line per mistake."""

from __future__ import annotations

import io
import json
import os
import random
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
import torch
from checks import PATIENCE, refused, until
from fleet_fakes import FAKE, contents, fakes, run_fakes

from synbench_fast.cli import main as cli
from synbench_fast.config import ScoreConfig
from synbench_fast.encoders import list_encoders
from synbench_fast.errors import SynbenchError
from synbench_fast.fleet import launch
from synbench_fast.fleet import models as fleet_models
from synbench_fast.fleet.executors import InProcess, Slot
from synbench_fast.fleet.launch import place_workers, run_fleet
from synbench_fast.fleet.models import _words, expand
from synbench_fast.fleet.places import Given, Place, Snapshot
from synbench_fast.fleet.store import Store, read_summary
from synbench_fast.report.fleet import duration, overall, print_status, watching, worker_cells
from synbench_fast.results.records import Result

SMALL = ["--scales", "2", "--samples", "300", "--input-shape", "3,4,4"]


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """An empty current directory, and fleets that run in this process."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(launch, "Local", lambda devices, logs, label: InProcess(devices[0]))
    before = torch.get_num_threads()
    yield tmp_path
    torch.set_num_threads(before)


# What names encoders


def test_files_of_specs(here: Path) -> None:
    (here / "models.txt").write_text(
        "# encoders\nbuiltin:identity\n\nbuiltin:conv?dim=8 --pool flatten --random-init  # a note\n"
        "builtin:linear --input-shape 3,8,8 --mean=0.5 --std 0.25,0.5,1 --trust-remote-code\nbuiltin:*\n"
    )
    assert expand(["models.txt"]) == [
        ("builtin:identity", {}),
        ("builtin:conv?dim=8", {"pool": "flatten", "random_init": True}),
        ("builtin:linear", {
            "input_shape": (3, 8, 8), "mean": (0.5,), "std": (0.25, 0.5, 1.0), "trust_remote_code": True,
        }),
        ("builtin:linear", {}),
        ("builtin:conv", {}),
    ]  # fmt: skip


def test_a_file_that_begins_with_a_byte_order_mark(here: Path) -> None:
    (here / "models.txt").write_bytes(b"\xef\xbb\xbfbuiltin:identity\r\nbuiltin:conv\r\n")
    assert expand(["models.txt"]) == [("builtin:identity", {}), ("builtin:conv", {})]


def test_specs_patterns_and_files(here: Path) -> None:
    for name in ("a.onnx", "b.onnx", "t.ts", "w1.pt", "w2.safetensors"):
        (here / name).touch()
    assert expand(["builtin:conv", "*.onnx", "onnx:b*", "t.ts"], ["builtin:identity"]) == [
        (spec, {})
        for spec in ("builtin:identity", "builtin:conv", "onnx:a.onnx", "onnx:b.onnx", "torchscript:t.ts")
    ]
    assert [spec for spec, _ in expand(["builtin:*n*"])] == list_encoders("builtin:*n*")
    assert expand(["w*"], ["builtin:conv"]) == [
        ("builtin:conv", {"checkpoint": "w1.pt"}), ("builtin:conv", {"checkpoint": "w2.safetensors"}),
    ]  # fmt: skip


def test_a_missing_file_of_specs_is_not_suggested_again() -> None:
    with pytest.raises(SynbenchError) as caught:
        expand(["elsewhere/q.txt"])
    assert str(caught.value).endswith("or a list such as timm-100, got 'elsewhere/q.txt'")


@pytest.mark.parametrize(
    ("models", "parts"),
    [
        (["modles.txt"], ["--models: expected a file, a spec such as timm:resnet50, a pattern such as timm:vit_*",
                          "got 'modles.txt', did you mean models.txt?"]),
        (["noth[ing]"], ["--models: expected a pattern of files or of what `synbench-fast ls` lists, got 'noth[ing]'"]),
        (["builtin:x*"], ["--models: expected a pattern of files", "got 'builtin:x*'"]),
        (["tim:vit_*"], ["encoder: expected a source out of", "got 'tim' in 'tim:vit_*', did you mean timm?"]),
        (["tim:resnet"], ["encoder: expected a source out of", "did you mean timm?"]),
        (["mine.py:make"], ["got 'mine.py' in 'mine.py:make', did you mean python:mine.py:make?"]),
        (["bad.txt"], ["bad.txt:2: encoder: expected a source out of", "got 'buildin' in 'buildin:conv'"]),
        (["option.txt"], ["option.txt:1: option: expected one of --input-shape", "got '--pol', did you mean --pool?"]),
        (["value.txt"], ["value.txt:1: --pool: expected a value, got none"]),
        (["wrong.txt"], ["wrong.txt:1: --pool: expected one of", "got 'avgg', did you mean avg?"]),
        (["quote.txt"], ["quote.txt:1: expected a closing quotation mark, got \"'conv\""]),
        (["empty.txt"], ["empty.txt: expected one spec per line, got none"]),
        (["binary.txt"], ["binary.txt: expected specs in UTF-8, got other bytes"]),
        (["w.pt"], ["MODEL: expected the one encoder to load 'w.pt' into, got 0"]),
    ],
)  # fmt: skip
def test_what_names_no_encoder(models: list[str], parts: list[str], here: Path) -> None:
    texts = {
        "models.txt": "builtin:conv", "bad.txt": "builtin:conv\nbuildin:conv", "option.txt": "builtin:conv --pol avg",
        "value.txt": "builtin:conv --pool", "wrong.txt": "builtin:conv --pool avgg", "quote.txt": "builtin:'conv",
        "empty.txt": "# nothing\n", "w.pt": "",
    }  # fmt: skip
    for name, text in texts.items():
        (here / name).write_text(text)
    (here / "binary.txt").write_bytes(b"\xff\xfe\x00")
    with refused(*parts):
        expand(models)


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("a b\tc", ["a", "b", "c"]),
        ("a #c", ["a"]),
        ("# a", []),
        ("a#c", ["a#c"]),
        ("'x #y' z", ["x #y", "z"]),
        ('"x #y" "a \\" b"', ["x #y", 'a " b']),
        (r"my\ \#1/x", ["my #1/x"]),
        (r"C:\models\x.onnx \\a tail" + "\\", [r"C:\models\x.onnx", r"\a", "tail\\"]),
        (r'"a\b" ' + r"'a\b'", [r"a\b", r"a\b"]),
        ("a\u2028b\x85c\xa0d\x0be", ["a\u2028b\x85c\xa0d\x0be"]),
        ("a '' b", ["a", "", "b"]),
    ],
)
def test_words_of_a_line(line: str, words: list[str]) -> None:
    assert _words(line) == words


@pytest.mark.parametrize(
    "name", ["run #3/m.onnx", "a\\b.onnx", "it's.onnx", "a\u2028b.onnx", "a\x85b.onnx", 'q"#.onnx']
)
def test_a_line_that_is_a_file_is_that_file(here: Path, name: str) -> None:
    """As `find` writes them. Half of such a name was another spec, or two."""
    (here / name).parent.mkdir(exist_ok=True)
    (here / name).touch()
    (here / "models.txt").write_text(
        f"builtin:conv\r\nonnx:{name}\r\n\ufeff  onnx:{here / name}\t\n", encoding="utf-8"
    )
    assert expand(["models.txt"]) == [
        ("builtin:conv", {}), (f"onnx:{name}", {}), (f"onnx:{here / name}", {}),
    ]  # fmt: skip
    with refused("models.txt:2: encoder: expected a source"):
        (here / "models.txt").write_text("builtin:conv\u2028\x85 # x\nonn:y\n", encoding="utf-8")
        expand(["models.txt"])


def test_options_after_a_factory_in_a_file(here: Path) -> None:
    """The file's existence once made the whole line the spec, so that options were read as the factory's name."""
    for name in ("mine.py", "my file.py"):
        (here / name).write_text("def make(): ...\n")
    (here / "models.txt").write_text(
        "python:mine.py:make --input-shape 3,8,8 --random-init\npython:mine.py:make # --pool avg\n"
        "python:my file.py:make\n'python:my file.py:make' --pool flatten\n"
    )
    assert expand(["models.txt"]) == [
        ("python:mine.py:make", {"input_shape": (3, 8, 8), "random_init": True}),
        ("python:mine.py:make", {}),
        ("python:my file.py:make", {}),
        ("python:my file.py:make", {"pool": "flatten"}),
    ]


def test_a_list_from_a_pipe(here: Path) -> None:
    """What a shell puts in the place of <(command)."""
    reading, writing = os.pipe()
    os.write(writing, b"builtin:conv\nbuiltin:identity\n")
    os.close(writing)
    try:
        assert expand([f"/dev/fd/{reading}"]) == [("builtin:conv", {}), ("builtin:identity", {})]
    finally:
        os.close(reading)


def test_a_list_that_never_ends(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fleet_models, "_LARGEST", 1 << 16)
    with refused("/dev/zero: expected a file of specs, got one of 65536 characters or more"):
        expand(["/dev/zero"])


def test_options_of_a_line_are_given_once(here: Path) -> None:
    for own in ("--pool avg --pool max", "--pool=avg --pool avg", "--random-init --random-init"):
        (here / "models.txt").write_text(f"builtin:conv {own}\n")
        with refused("models.txt:1: --", ": expected it once, got it twice"):
            expand(["models.txt"])
    (here / "models.txt").write_text("builtin:conv --mean \u0660.\u0665\n", encoding="utf-8")
    with refused("models.txt:1: --mean: expected comma-separated numbers, got"):
        expand(["models.txt"])


def test_thousands_of_encoders_are_compared_by_their_hash(here: Path) -> None:
    """Each with all the others was 40 million comparisons of 9 000."""

    class Counted(str):
        compared = 0

        def __eq__(self, other: object) -> bool:
            Counted.compared += 1
            return str.__eq__(self, other)

        __hash__ = str.__hash__

    specs = [Counted(f"builtin:linear?dim={1 + number % 1500}") for number in range(3000)]
    assert len(expand([], specs)) == 1500
    assert Counted.compared < 30_000


def test_a_list_that_cannot_be_read(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (here / "models.txt").touch()

    def denied(self: Path, **_: Any) -> Any:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "open", denied)
    with refused("models.txt: expected a file that can be read, got: Permission denied"):
        expand(["models.txt"])


# Where workers run


def test_workers_of_devices(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(launch, "_cores", lambda: 6)
    # It would make a context on each GPU, in the one process that needs none.
    monkeypatch.setattr(launch, "find_device", lambda name, owned: pytest.fail(f"{name} was used"))
    monkeypatch.setattr(launch, "gpu_count", lambda: (0, ""))
    assert place_workers() == ["cpu"] * 6
    assert place_workers(threads=4) == ["cpu"] and place_workers(threads=3) == ["cpu"] * 2
    assert place_workers("cpu:2") == ["cpu"] * 2 and place_workers("cpu", 3) == ["cpu"] * 3
    monkeypatch.setattr(launch, "gpu_count", lambda: (2, ""))
    assert place_workers() == place_workers("cuda") == place_workers("cuda:0, cuda:1") == ["cuda:0", "cuda:1"]
    assert place_workers(workers=3) == ["cuda:0", "cuda:1", "cuda:0"]
    assert place_workers("cuda:1,cpu:2") == ["cuda:1", "cpu", "cpu"]


@pytest.mark.parametrize(
    ("devices", "workers", "message"),
    [
        ("gpu", None, "devices: expected auto, or some of cpu, cpu:N, cuda and cuda:I, got 'gpu'"),
        ("cpu:0", None, "devices: expected a positive number of workers, got 'cpu:0'"),
        ("cpu:2", 4, "devices: expected cpu beside --workers, got 'cpu:2'"),
        ("cpu,cpu:2", None, "devices: expected each device once, got cpu again in 'cpu,cpu:2'"),
        ("cuda:7", None, "device: expected a device of this machine, got 'cuda:7'"),
    ],
)
def test_devices_that_are_not_there(devices: str, workers: int | None, message: str) -> None:
    if devices == "cuda:7" and torch.cuda.is_available():
        pytest.skip("says something else where there are GPUs")
    with refused(message):
        place_workers(devices, workers)


# The command


def test_results_summary_and_exit_code(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (here / "broken.py").write_text("def make():\n    raise OSError('no room')\n")
    (here / "models.txt").write_text("builtin:conv?dim=8\npython:broken.py:make\n")
    arguments = [
        "run",
        "--models",
        "models.txt",
        "builtin:identity",
        "--out",
        "store",
        *SMALL,
        "--format",
        "json",
    ]
    assert cli.main(arguments) == 1
    out, err = capsys.readouterr()
    found = [Result.from_json(line) for line in out.splitlines()]
    assert [one.encoder.spec for one in found] == ["builtin:identity", "builtin:conv?dim=8"]
    assert err.splitlines()[-2:] == [
        "error: encoder python:broken.py:make: make() failed (OSError: no room)",
        "scored 2 of 3 encoders, 1 failed: store/results",
    ]
    assert len(list((here / "store" / "results").glob("*.json"))) == 2
    (here / "models.txt").write_text("builtin:conv?dim=8\n")
    assert cli.main(["run", "--models", "models.txt", "--out", "store", *SMALL, "--quiet"]) == 0
    out, err = capsys.readouterr()
    assert out.splitlines()[1].startswith("builtin:conv?dim=8") and err == ""

    assert cli.main(["status", "store"]) == 0
    out, err = capsys.readouterr()
    assert out.splitlines()[0] == (
        "store: 2 of 2 encoders scored, 0 failed, 0 begun, 0 waiting; 4 of 4 units of those begun; 0 live runs"
    )
    assert "1 more of earlier commands" in out and "broken.py" not in out and err == ""
    assert cli.main(["status", "store", "--format", "json"]) == 0
    summary = json.loads(capsys.readouterr().out)
    assert summary["counts"] == {"waiting": 0, "planned": 0, "done": 2, "failed": 0}


def test_what_a_run_found_done_it_does_not_call_its_own(
    here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def last(*models: str) -> str:
        arguments = [part for model in models for part in ("--models", model)]
        assert cli.main(["run", *arguments, "--out", "store", *SMALL]) == 0
        return capsys.readouterr().err.splitlines()[-1]

    assert last("builtin:identity") == "scored 1 of 1 encoders, 0 failed: store/results"
    assert last("builtin:identity") == (
        "nothing to do: the encoder is scored already in store/store.sqlite: store/results"
    )
    assert last("builtin:identity", "builtin:linear") == (
        "scored 2 of 2 encoders, 1 of them already before, 0 failed: store/results"
    )
    assert last("builtin:identity", "builtin:linear") == (
        "nothing to do: all 2 encoders are scored already in store/store.sqlite: store/results"
    )


def test_checkpoints_of_one_encoder_are_told_apart(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Where something goes wrong with some of them, their one spec does not say with which."""
    (here / "encoder.py").write_text(
        "import torch\n\n\nclass Net(torch.nn.Linear):\n    def forward(self, x):\n"
        "        return super().forward(x.flatten(1)) / self.weight.abs().sum().clamp(max=1)\n\n\n"
        "def make():\n    return Net(48, 8)\n"
    )
    for name, value in (("good", 0.1), ("bad", 0.0)):
        state = {"weight": torch.full((8, 48), value) + value * torch.eye(8, 48), "bias": torch.zeros(8)}
        torch.save(state, here / f"{name}.pt")
    arguments = ["run", "python:encoder.py:make", "--models", "*.pt", "--out", "store", *SMALL]
    assert cli.main(arguments) == 1
    err = capsys.readouterr().err
    assert "error: python:encoder.py:make bad.pt: " in err and "good.pt" not in err, err
    assert cli.main(["status", "store"]) == 0
    assert "python:encoder.py:make bad.pt" in capsys.readouterr().out


def test_suites_and_tables(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code = cli.main(
        ["run", "--models", "builtin:conv?dim=8", "--tasks", "priors", "--out", "s", *SMALL, "--quiet"]
    )
    out, err = capsys.readouterr()
    assert code == 0 and out.splitlines()[0].split()[:2] == ["encoder", "task"], err
    assert "worst" in out


def test_a_result_that_is_gone_is_put_together_again(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["run", "--models", "builtin:identity", "--out", "store", *SMALL, "--quiet"]
    assert cli.main(arguments) == 0
    (path,) = (here / "store" / "results").glob("*.json")
    before = Result.load(path)
    path.unlink()
    assert cli.main(arguments) == 0
    assert (Result.load(path).scores, Result.load(path).curve) == (before.scores, before.curve)
    path.write_text("{")
    capsys.readouterr()
    assert cli.main(arguments) == 1
    assert f"{path.relative_to(here)}: expected a JSON document" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["--workers", "2"], 2, "--workers: expected --models beside it, got '2' alone"),
        (["--devices", "cpu"], 2, "--devices: expected --models beside it, got 'cpu' alone"),
        (["--models", "builtin:conv"], 2, "--out: expected a folder for the run store, got none"),
        (["--models", "builtin:conv", "--out", "s", "--device", "cpu"], 2,
         "--device: expected --devices for several encoders, got 'cpu'"),
        (["--models", "builtin:conv", "--out", "s", "--checkpoint", __file__], 2,
         f"--checkpoint: expected checkpoints in --models, got {__file__!r} beside it"),
        (["--models", "builtin:conv", "--out", "s", "--workers", "0"], 2,
         "--workers: expected an integer from 1 to 10000, got '0'"),
        (["--models", "builtin:conv", "--out", "s", "--timeout", "0"], 2,
         "--timeout: expected a number between 0 and 1e+09, got '0'"),
        (["--models", "builtin:conv", "--out", "s", "--retries", "-1"], 2,
         "--retries: expected an integer of at least 0, got '-1'"),
        (["--models", "builtin:conv", "--out", "s", "--journal", "off"], 2,
         "--journal: expected one of auto, wal, delete, got 'off'"),
        (["--models", "builtin:conv", "--out", "s", "--devices", "gpu"], 1,
         "devices: expected auto, or some of cpu, cpu:N, cuda and cuda:I, got 'gpu'"),
        (["--models", "buildin:conv", "--out", "s"], 1, "encoder: expected a source out of"),
    ],
)  # fmt: skip
def test_mistakes_are_one_line(
    arguments: list[str], code: int, message: str, here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    extra = ["builtin:identity"] if "--models" not in arguments else []
    assert cli.main(["run", *extra, *arguments]) == code
    out, err = capsys.readouterr()
    assert err.startswith(f"error: {message}") and err.count("\n") == 1 and out == ""


def test_mistakes_of_status(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["status"]) == 2
    assert capsys.readouterr().err == "error: DIR: expected the folder of a run store, got none\n"
    assert cli.main(["status", "nowhere"]) == 1
    message = "error: DIR: expected a folder that `run --models` wrote, got 'nowhere'\n"
    assert capsys.readouterr().err == message


def test_options_of_the_run_are_checked_before_anything_starts(here: Path) -> None:
    with refused("estimator: expected one of"):
        run_fleet(
            ["builtin:conv"], here / "s", config=ScoreConfig(**{"estimator": "exact"}), executor=InProcess()
        )
    assert not (here / "s").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"workers": 0}, "workers: expected an integer from 1 to 10000, got 0"),
        ({"retries": -1}, "retries: expected an integer of at least 0, got -1"),
    ],
)
def test_numbers_that_make_no_fleet(arguments: dict[str, Any], message: str, here: Path) -> None:
    with refused(message):
        run_fleet(["builtin:conv"], here / "s", **arguments)


def test_ray_that_is_not_installed(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with refused("ray: expected it to be installed, got ", 'pip install "synbench-fast[ray]"'):
        run_fleet(["builtin:conv"], here / "s", ray="local")


@pytest.mark.skipif(not hasattr(signal, "SIGTERM"), reason="no SIGTERM")
def test_sigterm_ends_a_run_in_order(tmp_path: Path) -> None:
    """What batch systems send: exit code 130, nothing held, no worker left; the same command goes on."""
    command = [sys.executable, "-m", "synbench_fast", "run", "--models", "builtin:conv?dim=32", "--out", str(tmp_path),
               "--samples", "20000", "--input-shape", "3,32,32", "--devices", "cpu:1"]  # fmt: skip
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    with subprocess.Popen(
        command, env=environment, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as run:

        def at_work() -> bool:
            try:
                return bool(read_summary(tmp_path)["units"]["done"] >= 1)
            except ValueError:  # it is not there yet, or its tables are not
                return False

        assert until(lambda: at_work() or run.poll() is not None)
        run.send_signal(signal.SIGTERM)
        out, err = run.communicate(timeout=PATIENCE)
    assert (run.returncode, out) == (130, "")
    # On a busy machine a line of progress comes first.
    assert err.splitlines()[-1] == "interrupted: what was finished is kept, the same command goes on"
    summary = read_summary(tmp_path)
    assert summary["runs"] == [] and 1 <= summary["units"]["done"] < summary["units"]["total"]


@pytest.mark.slow
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
def test_the_command_survives_kills_of_workers_and_of_itself(tmp_path: Path) -> None:
    """Kills while there is work; the end is that of an undisturbed run, each unit stored once."""
    (tmp_path / "models.txt").write_text("".join(f"builtin:conv?dim={16 + n}\n" for n in range(30)))
    options = ["--scales", "6", "--samples", "3000", "--input-shape", "3,32,32", "--quiet"]
    command = [sys.executable, "-m", "synbench_fast", "run", "--models", str(tmp_path / "models.txt"),
               "--devices", "cpu:2", *options]  # fmt: skip
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    rng, folder = random.Random(3), tmp_path / "killed"
    Store(folder).close()

    def begin() -> subprocess.Popen[bytes]:
        return subprocess.Popen([*command, "--out", str(folder)], env=environment, stdout=subprocess.DEVNULL)

    run = begin()
    for number in range(8):
        before = len(finished(folder))
        assert until(lambda: len(finished(folder)) >= before + 2 or run.poll() is not None)  # noqa: B023
        assert run.poll() is None, f"over after {number} kills"
        workers = Path(f"/proc/{run.pid}/task/{run.pid}/children").read_text().split()
        if number % 3 == 2 or not workers:
            run.kill()
            run.wait()
            run = begin()
        else:
            os.kill(int(rng.choice(workers)), signal.SIGKILL)
    assert run.wait(PATIENCE) == 0
    whole = subprocess.run(
        [*command, "--out", str(tmp_path / "whole")], env=environment, stdout=subprocess.DEVNULL
    )
    assert whole.returncode == 0
    assert finished(folder) == finished(tmp_path / "whole") and len(finished(folder)) == 180
    assert read_summary(folder)["counts"] == {"waiting": 0, "planned": 0, "done": 30, "failed": 0}


def finished(folder: Path) -> dict[Any, bytes]:
    return {key: value for key, value in contents(folder).items() if value is not None}


# What is shown


def snapshot() -> Snapshot:
    busy = Place(Slot("0", "cuda:0"), state="ready", units=3, images=600, seconds=2.0)
    busy.tasks.append(Given(0, "run", 1, None, 0.0))
    loading = Place(Slot("1", "cuda:1"), state="ready")
    loading.tasks.append(Given(1, "load", 2, None, 0.0))
    return Snapshot(
        places=[
            busy,
            loading,
            Place(Slot("2", "cpu"), state="ready"),
            Place(Slot("3", "cpu"), state="starting"),
        ],
        names={1: "timm:a", 2: "timm:b"},
        counts={"waiting": 1, "planned": 1, "done": 7, "failed": 1},
        units_done={1: (3, 25)},
        progress=0.8,
        images=600,
        seconds=10.0,
        seconds_left=7500.0,
    )


def test_lines_of_a_run() -> None:
    shown = snapshot()
    assert [worker_cells(place, shown) for place in shown.places] == [
        ["cuda:0", "timm:a", "3/25 units", "300.0 images/s"],
        ["cuda:1", "timm:b", "loading", ""],
        ["cpu", "idle", "", ""],
        ["cpu", "starting", "", ""],
    ]
    assert overall(shown) == "7 of 10 encoders, 1 failed, 60.0 images/s, 2 h 05 min left"
    assert [duration(one) for one in (5, 65, 7500)] == ["5 s", "1 min 05 s", "2 h 05 min"]


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_a_terminal_shows_everything_and_a_file_only_notes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm")
    for stream, quiet, expected in (
        (Terminal(), False, ["timm:a", "3/25", "7 of 10 encoders", "note: it broke"]),
        (io.StringIO(), False, ["note: it broke\n"]),
        (io.StringIO(), True, []),
    ):
        with watching(stream, quiet=quiet) as watch:
            watch.report(snapshot())
            watch.said("it broke")
        text = stream.getvalue()
        assert all(part in text for part in expected)
        if not stream.isatty():
            assert text == "".join(expected)


def test_a_log_has_a_line_now_and_then() -> None:
    now, stream = 0.0, io.StringIO()
    with watching(stream, quiet=False, every=10.0, clock=lambda: now) as watch:
        for second in (1, 9, 10, 15, 21):
            now = float(second)
            watch.report(snapshot())
    assert stream.getvalue() == f"{overall(snapshot())}\n" * 2


def test_status_of_a_live_run(tmp_path: Path) -> None:
    seen: list[str] = []

    def look(shown: Snapshot) -> None:
        if shown.images and not seen:
            stream = io.StringIO()
            print_status(stream, read_summary(tmp_path))
            seen.append(stream.getvalue())

    run_fakes(tmp_path, fakes(2, units=60, seconds=0.03), 2, report=look)
    assert "; 1 live run\n" in seen[0]
    header, *workers = seen[0].splitlines()[2:]
    assert header.split() == ["run", "device", "encoder", "since", "units", "images/s"] and len(workers) == 2
    assert FAKE  # the fakes' workers have no torch: what was shown came from the store alone


def test_a_corrected_line_is_no_failure_any_more_and_what_is_missing_is_said(
    here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("broken.py").write_text("def make():\n    raise OSError('no room')\n")
    lines = ["builtin:linear?dim=4", "python:broken.py:make"]
    words = ["run", "--models", "list.txt", "--out", "store", "--workers", "1", "--quiet", *SMALL]
    Path("list.txt").write_text("\n".join(lines))
    assert cli.main(words) == 1
    assert cli.main(["report", "store"]) == 0
    assert "failed: python:broken.py:make" in capsys.readouterr().out
    Path("list.txt").write_text("\n".join([lines[0], "builtin:identity"]))
    assert cli.main(words) == 0
    capsys.readouterr()
    assert cli.main(["report", "store"]) == 0 and cli.main(["status", "store"]) == 0
    out = capsys.readouterr().out
    assert "failed:" not in out and "2 of 2 encoders scored, 0 failed" in out and "not finished" not in out
    with closing(sqlite3.connect("store/store.sqlite")) as db, db:
        db.execute("UPDATE jobs SET state = 'planned', result = NULL WHERE spec = 'builtin:identity'")
    assert cli.main(["report", "store"]) == 0
    said = (
        "not finished: 1 of 2 encoders are not finished, 1 of them begun; the command that began them goes on"
    )
    assert said in capsys.readouterr().out
    assert "1 of 2 encoders are not finished" in Path("store/report.html").read_text()
