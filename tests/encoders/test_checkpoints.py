"""Checkpoints that hold more than one encoder, or other values than weights: what is meant is loaded, or named."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from encoder_cases import fails
from torch import Tensor, nn

from synbench_fast.encoders import load_encoder
from synbench_fast.encoders.weights import load_checkpoint
from synbench_fast.errors import SynbenchError

State = dict[str, Tensor]


def net(value: float = 0.0) -> nn.Sequential:
    """Features of 2 x 3 inputs; all floating-point entries of its state are `value`."""
    made = nn.Sequential(nn.Flatten(), nn.Linear(6, 5), nn.BatchNorm1d(5))
    for one in made.state_dict().values():
        if one.is_floating_point():
            one.fill_(value)
    return made


def state(value: float, prefix: str = "") -> State:
    return {prefix + name: one for name, one in net(value).state_dict().items()}


def parameters(value: float) -> State:
    """Without the statistics of batches, as some averages of weights are stored."""
    return {
        name: one for name, one in state(value).items() if "running" not in name and "batches" not in name
    }


def loaded(file: Path, key: str | None = None) -> float:
    made = net(9.0)
    load_checkpoint(made, f"{file}" if key is None else f"{file}#{key}", "the net")
    values = {float(one.mean()) for name, one in made.state_dict().items() if one.is_floating_point()}
    assert len(values) == 1
    return values.pop()


def refused(file: Path, key: str | None = None) -> str:
    with pytest.raises(SynbenchError) as caught:
        loaded(file, key)
    text = str(caught.value)
    assert "\n" not in text and text.startswith("checkpoint: expected ")
    return text


def lightning(value: float, other: float) -> dict[str, Any]:
    weights = state(value, "model.backbone.") | {"model.head.weight": torch.zeros(3, 5)}
    average = [{"ema_state_dict": state(other, "backbone.")}]
    return {
        "state_dict": weights,
        "callbacks": {"EMA": average},
        "optimizer_states": [{"state": {0: {"step": torch.ones(1)}}}],
    }


# Two encoders in one file, as training scripts write them: the file, and the name of the one with 2 and with 1.
TWO: dict[str, tuple[Callable[[float, float], Any], str, str]] = {
    "moco": (lambda a, b: {"state_dict": state(a, "module.encoder_q.") | state(b, "module.encoder_k.")},
             "encoder_q", "encoder_k"),
    "dino": (lambda a, b: {"student": state(a, "module.backbone."), "teacher": state(b, "backbone.")},
             "student", "teacher"),
    "timm average": (lambda a, b: {"state_dict": state(a), "state_dict_ema": state(b)}, "state_dict", "state_dict_ema"),
    "model average": (lambda a, b: {"model_ema": state(b), "model": state(a), "epoch": 3}, "model", "model_ema"),
    "average without statistics": (lambda a, b: {"ema": parameters(b), "model": state(a)}, "model", "ema"),
    "byol": (lambda a, b: {"state_dict": state(a, "online_network.encoder.") | state(b, "target_network.encoder.")},
             "online_network", "target_network.encoder"),
    "flat": (lambda a, b: state(a) | state(b, "ema."), "", "ema"),
    "lightning": (lightning, "state_dict.model.backbone", "callbacks.EMA.0.ema_state_dict.backbone"),
    "list": (lambda a, b: {"models": [state(a), state(b)]}, "models.0", "models.1"),
    "names of one's own": (lambda a, b: {"best": {"net": state(a)}, "last": {"net": state(b)}}, "best", "last.net"),
}  # fmt: skip


@pytest.mark.parametrize("case", TWO)
def test_one_of_two_encoders_has_to_be_named(tmp_path: Path, case: str) -> None:
    write, first, second = TWO[case]
    file = tmp_path / "w.pt"
    torch.save(write(2.0, 1.0), file)
    text = refused(file)
    assert "expected one set of weights for the net, got 2 that differ; name one of" in text
    offered = [one.rpartition("#")[2] for one in text.rpartition("name one of ")[2].split(", ")]
    assert len(offered) == 2
    for key in (first, *offered):
        if "statistics" not in case or key != "ema":
            assert loaded(file, key) == (1.0 if f".{second}." in f".{key}." and key else 2.0)
    if "statistics" in case:
        assert "without 2.running_mean, 2.running_var" in refused(file, second)
    else:
        assert loaded(file, second) == 1.0
    torch.save(write(2.0, 2.0), file)  # equal ones are one, whatever they counted
    assert loaded(file) == 2.0


def test_one_of_two_encoders_by_every_way(tmp_path: Path) -> None:
    """From Python, the command line and a list; the result says which one it was."""
    from typer.testing import CliRunner

    from synbench_fast.cli.main import app
    from synbench_fast.fleet.models import expand
    from synbench_fast.results.records import Result

    torch.save({"student": linear(1), "teacher": linear(2)}, file := tmp_path / "w.pt")
    shape = {"input_shape": (3, 4, 4)}
    fails(f"name one of {file}#student, {file}#teacher", "builtin:linear?dim=8", checkpoint=file, **shape)
    encoder = load_encoder("builtin:linear?dim=8", checkpoint=f"{file}#teacher", **shape)
    assert torch.equal(encoder.module.weight, linear(2)["weight"])
    assert encoder.info.checkpoint == f"{file}#teacher"
    command = [
        "run",
        "builtin:linear?dim=8",
        "--input-shape",
        "3,4,4",
        "--scales",
        "1",
        "--samples",
        "64",
        "--quiet",
    ]
    out = CliRunner().invoke(
        app, [*command, "--checkpoint", f"{file}#teacher", "--out", str(tmp_path / "out")]
    )
    assert out.exit_code == 0, out.output
    result = Result.load(next((tmp_path / "out").glob("*.json")))
    assert result.encoder.weights_sha256 == encoder.info.weights_sha256
    assert f"{file}#teacher" in result.command
    out = CliRunner().invoke(app, [*command, "--checkpoint", f"{file}x#teacher"])
    assert out.exit_code == 2 and "--checkpoint: expected an existing file, got" in out.output
    named = [("builtin:linear", {"checkpoint": f"{file}#teacher"})]
    for item in (f"{file}#teacher", f"{tmp_path}/*.pt#teacher"):
        assert expand([item], ["builtin:linear"]) == named
    (tmp_path / "list.txt").write_text(f"builtin:linear --checkpoint {file}#teacher # the average\n")
    assert expand([str(tmp_path / "list.txt")]) == named


def linear(value: float) -> State:
    return {"weight": torch.full((8, 48), value) + torch.eye(8, 48)}


def test_names_that_choose(tmp_path: Path) -> None:
    torch.save({"student": state(1), "teacher": state(2)}, file := tmp_path / "w.pt")
    text = refused(file, "teachr")
    assert (
        "under 'teachr' in" in text and "which has them under student, teacher, did you mean teacher?" in text
    )
    assert "under '' in" in refused(file, "")
    odd = tmp_path / "run#3"
    odd.mkdir()
    torch.save({"student": state(1), "a#b": state(2)}, odd / "w#1.pt")
    assert (loaded(odd / "w#1.pt", "a#b"), loaded(odd / "w#1.pt", "student")) == (2.0, 1.0)


@pytest.mark.parametrize(
    "path", ["absent.pt", "absent.pt#key", "#", "", "~nobody-at-all/w.pt", "a\0b#c", "a" * 5000 + "#c", "/"]
)
def test_paths_of_no_file(path: str) -> None:
    fails("checkpoint: expected an existing file, got", "builtin:conv", checkpoint=path)


def test_what_is_no_second_encoder(tmp_path: Path) -> None:
    """Another architecture, another tower, a head, the state of an optimiser."""
    other = {"1.weight": torch.zeros(7, 6), "1.bias": torch.zeros(7)}
    text = {name: one + 1 for name, one in state(1).items() if name != "1.weight"}
    content = {
        "optimizer": {"state": {0: {"exp_avg": torch.ones(5, 6)}, 1: {"exp_avg": torch.ones(5)}}},
        "discriminator": other,
        "model": state(3, "visual.") | {f"text.{name}": one for name, one in text.items()},
    }
    torch.save(content, file := tmp_path / "w.pt")
    with pytest.warns(UserWarning, match="has keys that the net does not use: text"):
        assert loaded(file) == 3.0


def test_two_places_of_one_name_are_told(tmp_path: Path) -> None:
    torch.save({"a": state(1)} | state(2, "a."), file := tmp_path / "w.pt")
    assert "got 2 that differ" in refused(file) and "got 2 that differ" in refused(file, "a")


def test_equal_weights_are_one_set(tmp_path: Path) -> None:
    """Of another width, or with another count of batches; but not of another kind."""
    wide = {name: one.double() for name, one in state(0.5).items()}
    count = {"2.num_batches_tracked": torch.tensor(7)}
    torch.save({"a": state(0.5), "b": wide, "c": state(0.5) | count}, file := tmp_path / "w.pt")
    assert loaded(file) == 0.5
    torch.save({"a": state(1), "b": state(1) | {"1.bias": torch.ones(5, dtype=torch.int8)}}, file)
    assert "got 2 that differ" in refused(file)


def test_the_other_encoder_is_no_left_over(tmp_path: Path) -> None:
    """Chosen by its name, and without a warning of the names of the one that was not."""
    torch.save(state(1, "encoder_q.") | state(2, "encoder_k."), file := tmp_path / "w.pt")
    assert loaded(file, "encoder_q") == 1.0


KINDS: dict[str, Callable[[], Tensor]] = {
    "torch.int8": lambda: torch.ones(5, dtype=torch.int8),
    "torch.uint8": lambda: torch.ones(5, dtype=torch.uint8),
    "torch.int64": lambda: torch.ones(5, dtype=torch.int64),
    "torch.bool": lambda: torch.ones(5, dtype=torch.bool),
    "torch.complex64": lambda: torch.ones(5, dtype=torch.complex64),
    "torch.float8_e4m3fn": lambda: torch.ones(5).to(torch.float8_e4m3fn),
    "torch.qint8": lambda: torch.quantize_per_tensor(torch.ones(5), 0.1, 0, torch.qint8),
    "torch.float32 sparse": lambda: torch.ones(5).to_sparse(),
    "torch.float32 meta": lambda: torch.ones(5, device="meta"),
}


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("kind", KINDS)
def test_values_of_another_kind_are_no_weights(tmp_path: Path, kind: str) -> None:
    torch.save(state(1) | {"1.bias": KINDS[kind]()}, file := tmp_path / "w.pt")
    expected = f"expected 1.bias of floating-point values for the net, got {kind.split()[0]} in {file}"
    assert expected in refused(file)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16, torch.bfloat16])
def test_floating_point_weights_of_another_width(tmp_path: Path, dtype: torch.dtype) -> None:
    content = {name: one.to(dtype) for name, one in state(0.5).items()}  # the count of batches with them
    torch.save(content, file := tmp_path / "w.pt")
    assert loaded(file) == 0.5


def test_indices_and_masks_take_no_floating_point_numbers(tmp_path: Path) -> None:
    class Indexed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.zeros(2))
            self.register_buffer("index", torch.arange(2))
            self.register_buffer("mask", torch.ones(2, dtype=torch.bool))
            self.register_buffer("phase", torch.ones(2, dtype=torch.complex64))

    good = Indexed().state_dict()
    torch.save(good, file := tmp_path / "w.pt")
    load_checkpoint(Indexed(), str(file), "it")
    for name, value, kind in (("index", torch.ones(2), "integer"), ("mask", torch.ones(2), "bool"),
                              ("mask", torch.ones(2, dtype=torch.int64), "bool"), ("phase", torch.ones(2), "complex")):  # fmt: skip
        torch.save(good | {name: value}, file)
        with pytest.raises(SynbenchError, match=rf"expected {name} of {kind} values for it, got torch\."):
            load_checkpoint(Indexed(), str(file), "it")


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::UserWarning")
def test_packed_weights_are_not_left_as_they_were(tmp_path: Path) -> None:
    made = torch.ao.quantization.quantize_dynamic(nn.Sequential(nn.Linear(6, 5)), dtype=torch.qint8)
    torch.save(nn.Sequential(nn.Linear(6, 5)).state_dict(), file := tmp_path / "w.pt")
    with pytest.raises(SynbenchError, match="whose weights are packed"):
        load_checkpoint(made, str(file), "it")


def test_many_names_take_no_time(tmp_path: Path) -> None:
    """20 000 names of 30 parts, 500 of them wanted: quadratic work would take minutes."""
    wanted = nn.Module()
    for number in range(500):
        wanted.register_parameter(f"p{number}", nn.Parameter(torch.zeros(1)))
    one = torch.ones(1)
    content = {".".join(["a", str(n), *"b" * 28, f"p{n % 400}"]): one for n in range(20_000)}
    torch.save(content | {f"net.p{n}": one for n in range(500)}, file := tmp_path / "w.pt")
    with pytest.warns(UserWarning, match="does not use"):
        load_checkpoint(wanted, str(file), "it")
    assert all(one.item() == 1 for one in wanted.parameters())


class Tied(nn.Module):
    """One weight of two names."""

    def __init__(self) -> None:
        super().__init__()
        self.a = self.b = nn.Linear(6, 6)

    def forward(self, x: Tensor) -> Tensor:
        made: Tensor = self.b(torch.relu(self.a(x.flatten(1))))
        return made


@pytest.mark.parametrize("kept", ["a", "b"])
def test_a_weight_of_two_names_may_be_stored_under_one(kept: str, tmp_path: Path) -> None:
    """Files of safetensors never have both."""
    stored = {name: one for name, one in Tied().state_dict().items() if name.startswith(kept)}
    made = Tied()
    torch.save(stored, tmp_path / "one.pt")
    load_checkpoint(made, f"{tmp_path / 'one.pt'}", "the net")
    assert torch.equal(made.a.weight, stored[f"{kept}.weight"])
    others = {name: one + 1 for name, one in stored.items()}
    torch.save({"student": stored, "teacher": others}, tmp_path / "two.pt")
    with pytest.raises(SynbenchError, match="expected one set of weights"):
        load_checkpoint(made, f"{tmp_path / 'two.pt'}", "the net")


def test_a_weight_of_two_names_has_one_value(tmp_path: Path) -> None:
    """torch would take the last one without a word."""
    file = tmp_path / "one.pt"
    stored = Tied().state_dict()
    torch.save({**stored, "b.weight": stored["b.weight"] + 1}, file)
    with pytest.raises(
        SynbenchError, match=r"^checkpoint: expected equal a.weight and b.weight, .* differ in "
    ):
        load_checkpoint(Tied(), f"{file}", "the net")
