"""The script for timm's bulk_runner.py, called as that calls it; the runner itself is no part of timm's package.

`run` below is what bulk_runner.py of pytorch-image-models (commit aa4b5850) does with a script: its command line, and
its reading of the output.
"""

from __future__ import annotations

import csv
import json
import math
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from checks import refused

import synbench_fast as sb
from synbench_fast.engine import score as module

pytest.importorskip("timm", reason="timm is not installed", exc_type=ImportError)
from synbench_fast.integrations.timm_bulk import main

MODULE = "synbench_fast.integrations.timm_bulk"
BUDGET = ["--random-init", "--scales", "1.0,2.0", "--samples", "200", "--threads", "1"]


def run(
    models: list[tuple[str, dict[str, Any] | None]], arguments: list[str], results_file: Path
) -> list[Any]:
    cmd, cmd_args = sys.executable, ["-u", "-m", MODULE, *arguments]
    results, errors = [], []
    for m, ax in models:
        args_str: tuple[str, ...] = (cmd, *[str(e) for e in cmd_args], "--model", m)
        if ax is not None:
            extra_args: list[Any] = [(f"--{k}", str(v)) for k, v in ax.items()]
            args_str += tuple(i for t in extra_args for i in t)
        try:
            o = subprocess.check_output(args=args_str).decode("utf-8").split("--result")[-1]
            results.append(json.loads(o))
        except Exception as e:
            errors.append({"model": m, "error": str(e)})
    errors.extend(list(filter(lambda x: "error" in x, results)))
    results = sorted(
        filter(lambda x: "error" not in x, results), key=lambda x: x["score_eps0_a0.6"], reverse=True
    )
    with open(results_file, mode="w") as cf:
        dw = csv.DictWriter(cf, fieldnames=results[0].keys())
        dw.writeheader()
        for r in results:
            dw.writerow(r)
    return errors


def test_as_the_runner_calls_it(tmp_path: Path) -> None:
    models = [
        ("test_vit", {"img-size": 64, "crop-pct": 0.95}),
        ("resnet10x", None),
        ("test_convnext", {"img-size": 64, "crop-pct": None}),
    ]
    errors = run(models, [*BUDGET, "--out", str(tmp_path / "kept")], tmp_path / "scores.csv")
    assert [one["model"] for one in errors] == ["resnet10x"]
    assert errors[0]["error"].startswith("encoder: expected a model of timm, got 'timm:resnet10x'")
    with open(tmp_path / "scores.csv", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert {row["model"] for row in rows} == {"test_vit", "test_convnext"}
    assert float(rows[0]["score_eps0_a0.6"]) >= float(rows[1]["score_eps0_a0.6"])
    row = next(row for row in rows if row["model"] == "test_vit")
    assert (row["img_size"], row["crop_pct"]) == ("64", "0.95")
    kept = {one.encoder.spec: one for one in map(sb.Result.load, (tmp_path / "kept").glob("*.json"))}
    result = kept["timm:test_vit"]
    assert float(row["score_eps0.2_a0.6"]) == pytest.approx(result.score(0.2, 0.6).score, rel=1e-12)
    assert float(row["stderr_eps0_a0.6"]) == pytest.approx(result.score(0.0, 0.6).stderr, rel=1e-12)
    assert float(row["param_count"]) == round((result.encoder.parameters or 0) / 1e6, 2) > 0
    assert row["weights_sha256"] == result.encoder.weights_sha256


def printed(words: list[str], capsys: pytest.CaptureFixture[str]) -> dict[str, Any]:
    assert main(words) == 0
    text = capsys.readouterr().out
    assert text.startswith("--result\n") and text.count("--result") == 1
    found: dict[str, Any] = json.loads(text.split("--result")[-1])
    return found


def test_every_row_has_every_column(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A score that is not known is a column without a number, not a column less."""
    result = sb.score("builtin:conv?dim=8", input_shape=(1, 8, 8), scales=2, samples=64, thresholds=0.6)
    object.__setattr__(result.scores[0], "stderr", math.nan)
    monkeypatch.setattr(module, "score", lambda spec, **options: print("noise") or result)
    row = printed(["--model", "resnet10t"], capsys)
    assert math.isnan(row["stderr_eps0_a0.6"])
    assert set(row) > {
        "model",
        "score_eps0_a0.6",
        "ci95_low_eps0.2_a0.6",
        "robust_area",
        "images",
        "warnings",
    }


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (["--eps", "2"], "--eps: expected comma-separated distinct numbers in [0, 1), got '2'"),
        (["--samples", "1"], "--samples: expected"),
        (["--img-size", "0"], "--img-size: expected"),
        (["--preset", "quik"], "--preset: expected one of"),
        (["--batch-size", "no"], "--batch-size: expected"),
    ],
)
def test_mistakes_are_an_error_of_the_model(
    words: list[str], line: str, capsys: pytest.CaptureFixture[str]
) -> None:
    row = printed(["--model", "resnet10t", "--random-init", *words], capsys)
    assert row["model"] == "resnet10t" and set(row) == {"model", "error"}
    assert row["error"].startswith(line) and "\n" not in row["error"]


def test_without_a_model() -> None:
    with pytest.raises(SystemExit) as ended:
        main([])
    assert ended.value.code == 2


def test_measure_raises() -> None:
    from synbench_fast.integrations.timm_bulk import _parser, measure

    with refused("--seed: expected"):
        measure(_parser().parse_args(["--model", "resnet10t", "--seed", "x"]))
