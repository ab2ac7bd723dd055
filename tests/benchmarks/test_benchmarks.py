"""The benchmark harness: the parity gate, the ratios and the command; no test looks at how long anything takes."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))

import accuracy
import cases
import cases_cuda
import cases_inheritance
import cases_minimax
import cases_statistics
import cases_structure
import device
import run as bench
import torch
from emulation import Emulator
from harness import Case, measure

from synbench_fast.tasks.families import FAMILIES


def case(error: float = 0.0, **changes: Any) -> Case:
    def forbidden() -> float:
        raise AssertionError("a wrong result is not timed")

    times = (
        {"ours": lambda: 2.0, "baseline": lambda: 6.0}
        if error == 0
        else dict.fromkeys(("ours", "baseline"), forbidden)
    )
    arguments: dict[str, Any] = {
        "unit": "item", "work": 4, "parity": lambda: (error, 1e-9), "baseline_name": "other",
        "target": 2.5, **times, **changes,
    }  # fmt: skip
    return Case(**arguments)


@pytest.mark.parametrize("error", [1e-3, float("nan")])
def test_a_wrong_result_is_not_timed(error: float) -> None:
    row = measure(case(error))
    assert row.met is False
    assert row.ratio is None
    assert row.pairs == []
    assert "not timed" in bench.line(row)


def test_ratios_and_targets() -> None:
    row = measure(case(), repeat=3)
    assert (row.ratio, row.met, row.ours_per_unit_ns, len(row.pairs)) == (3.0, True, 5e8, 3)
    assert measure(case(target=4.0)).met is False
    assert measure(case(target=None)).met is None
    relative = measure(case(kind="at_most", target=0.3))
    assert (relative.ratio, relative.met) == (1 / 3, False)


def test_every_case_agrees_with_its_baseline_on_small_sizes() -> None:
    for one in (
        cases.paper_stage(512, 40, 2.0),
        cases.consistent_stage(512, 40, 2.0),
        cases.solve(50),
        cases.sweep(100, 30),
        cases.auc(),
        cases.spectrum(2, 12),
        cases_statistics.errors(cases_statistics.projection, (3, 32, 32), 1, 1024, 768),
        cases_statistics.suite(cases.SmallEncoder, 1, 170, side=16),
        cases_structure.structure(cases.SmallEncoder, 16),
        cases_structure.structure(cases.SmallEncoder, 16, ("texture", "count")),
        cases_statistics.stored(3, scales=2, samples=64),
        cases_inheritance.transport(60, 6, 3, cases_inheritance.by_pot, "POT", None),
        cases_inheritance.transport(60, 6, 3, cases_inheritance.by_geomloss, "geomloss", None),
        cases_inheritance.transport(
            60, 6, 3, cases_inheritance.by_epsilon_scaling, "POT", None, 1e-3, cases_inheritance.apart
        ),
        cases_inheritance.class_terms(5, 6, 4, 9),
        cases_inheritance.class_terms(5, 6, 20, 9),
        cases_minimax.training("softmax", 2, temperature=0.1),
    ):
        error, tolerance = one.parity()
        assert error <= tolerance, one.note


def test_every_gpu_case_runs_small_on_an_emulated_device(emulator: Emulator) -> None:
    cpu = torch.device("cpu")
    for one in (
        cases_cuda.sampling(cpu, 4, 16),
        cases_cuda.sampling(cpu, 4, 16, last=True),
        cases_cuda.sampling_ceiling(cpu, 4, 16),
        cases_cuda.moments(cpu, 100, 20),
        cases_cuda.solving(cpu, 20),
        cases_cuda.after_features(cpu, 3, 300, 20),
        *(cases_cuda.family_images(cpu, name, 2, 20, backend="cuda") for name in FAMILIES),
        cases_cuda.classes_of(cpu, 4, 8, 10),
    ):
        error, tolerance = one.parity()
        assert error <= tolerance, (one.note, error)
        one.ours()
        one.baseline()
    assert {"score_sweep_total_kernel", "render_paint_kernel", "render_mix_kernel"} <= set(emulator.launched)


def test_whole_gpu_runs_compare_features_first(monkeypatch: pytest.MonkeyPatch) -> None:
    cpu = torch.device("cpu")
    error, tolerance = cases_cuda.forward_parity("builtin:conv", cpu)
    assert 0 < error <= tolerance
    sample = cases_cuda.sample_mixture

    def shifted(*args: Any, dtype: torch.dtype, **options: Any) -> tuple[torch.Tensor, torch.Tensor]:
        x, y = sample(*args, dtype=dtype, **options)
        return x + (dtype == torch.bfloat16), y

    monkeypatch.setattr(cases_cuda, "sample_mixture", shifted)
    error, tolerance = cases_cuda.forward_parity("builtin:conv", cpu)
    assert error > tolerance


def test_the_plan_has_every_case_of_a_gpu_once(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    for name in cases_cuda.cases():
        assert [one for one in device.PLAN if one in name] == [name.partition("[")[0]], name
    listed = [name.partition("[")[0] for name in cases_cuda.cases()]
    assert set(device.PLAN) == {device.TESTS, *listed}
    monkeypatch.setattr(sys, "argv", ["device.py", "--plan"])
    assert device.main() == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == len(device.PLAN) + 1 and f"{sum(device.PLAN.values())} s  in all" in lines[-1]
    assert sum(device.PLAN.values()) < 600


def test_a_second_run_goes_on_where_the_first_stopped(tmp_path: Path) -> None:
    cases = ["cuda/seconds[b]", "cuda/images[x]", "cuda/images[y]", "cuda/seconds[a]", "cuda/classes[k]"]
    assert device.left(cases, set()) == ["cuda/images", "cuda/seconds", "cuda/classes"]
    out = tmp_path / "rows.jsonl"
    assert device.rows_of(out) == {}
    done = ["cuda/images[x]", "cuda/seconds[b]", "cuda/seconds[a]", device.TESTS]
    out.write_text("".join(json.dumps({"case": one, "met": None}) + "\n" for one in done))
    found = device.rows_of(out)
    assert all(found.values()) and device.left(cases, set(found)) == ["cuda/images[y]", "cuda/classes"]
    with out.open("a") as stream:
        stream.write(json.dumps({"case": done[0], "met": False}) + "\n")
    assert [name for name, met in device.rows_of(out).items() if not met] == done[:1]


def test_a_build_is_made_once(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    made: list[str] = []
    monkeypatch.setattr(device, "BUILT", tmp_path)
    monkeypatch.setattr(device, "run", lambda what, *_: made.append(what) or len(made) - 1)
    assert device.build(0.0) == 0 and made == ["build"]
    assert device.build(0.0) == 0 and made == ["build"]
    monkeypatch.setattr(device, "fingerprint", lambda: "other sources")
    assert device.build(0.0) == 1 and made == [
        "build",
        "build",
    ]  # and a build that failed is not taken for one
    assert device.build(0.0) == 2


def test_device_runs_the_files_with_gpu_tests_alone() -> None:
    names = [Path(one).name for one in device.gpu_tests()]
    assert "test_gpu.py" in names and "test_sample_mixture_triton.py" in names
    assert "test_benchmarks.py" not in names and "test_cli.py" not in names


def test_rows_and_exit_code(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(cases, "cases", lambda: {"one": case, "two": lambda: case(target=9.0)})
    out = tmp_path / "rows.jsonl"
    assert bench.main(["--case", "one", "--repeat", "2", "--out", str(out)]) == 0
    (row,) = map(json.loads, out.read_text().splitlines())
    assert (row["case"], row["ratio"], row["command"]) == (
        "one",
        3.0,
        "synbench-fast bench --case one --repeat 2",
    )
    assert row["environment"]["cores"] >= 1
    assert bench.main(["--case", "two", "--format", "json"]) == 1
    assert json.loads(capsys.readouterr().out.splitlines()[-1])["met"] is False
    assert bench.main(["--list"]) == 0
    assert capsys.readouterr().out.split() == ["one", "two", "memory"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--case", "nothing"], "error: --case: expected part of a case's name, got 'nothing'; see --list"),
        (["--repeat", "0"], "error: --repeat: expected at least 1, got 0"),
        (["--format", "xml"], "error: argument --format: invalid choice: 'xml'"),
    ],
)
def test_usage_errors_are_one_line(
    arguments: list[str], message: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(cases, "cases", lambda: {"one": case})
    with pytest.raises(SystemExit) as stop:
        bench.main(arguments)
    error = capsys.readouterr().err
    assert stop.value.code == 2
    assert error.startswith(message)
    assert error.count("\n") == 1


def test_accuracy_rows_are_errors_against_the_truth(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    small = {"scales": 6, "samples": 400}
    monkeypatch.setattr(accuracy, "PUBLISHED", {**small, "estimator": "paper"})
    monkeypatch.setattr(accuracy, "SIXTEENTH", {**small, "average": "published"})
    monkeypatch.setattr(accuracy, "TRUTH", {**small, "samples": 8000, "average": "published"})
    monkeypatch.setattr(accuracy, "WIDTHS", (96,))
    monkeypatch.setattr(accuracy, "ENCODERS", {"relu": accuracy.relu})
    out = tmp_path / "rows.jsonl"
    assert accuracy.main(["--part", "published", "--seeds", "2", "--out", str(out)]) in (0, 1)
    rows = [json.loads(line) for line in out.read_text().splitlines()]
    assert [row["case"] for row in rows] == ["accuracy[relu, F=96]", "accuracy[relu, F=64 of 64 inputs]"]
    wide = rows[0]
    assert wide["published"] < wide["truth"] - 0.05  # F / N = 0.24: the protocol's classifiers are noise
    assert wide["rmse_published"] > 2 * wide["rmse_sixteenth"]
    assert wide["ratio"] == pytest.approx(wide["rmse_sixteenth"] / wide["rmse_published"])
    assert wide["environment"]["versions"]["torch"]
    assert len(capsys.readouterr().out.splitlines()) == 2


def test_padding_adds_noise_and_keeps_the_features() -> None:
    x = torch.randn(500, 3, generator=torch.Generator().manual_seed(0))
    features = accuracy.padded(lambda x: 2 * x, 40)(x)
    assert features.shape == (500, 43)
    assert torch.equal(features[:, :3], 2 * x)
    assert float(features[:, 3:].std() / features[:, :3].std(0).max()) == pytest.approx(1, abs=0.02)
