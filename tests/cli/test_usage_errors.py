"""Mistakes on a command line: one line that names the option, and exit code 2."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from cli_cases import ROOT, invoke

from synbench_fast import arguments


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "MODEL: expected at least one encoder such as timm:resnet50, got none"),
        (
            ["a:b", "c:d", "--checkpoint", __file__],
            "--checkpoint: expected a single MODEL to load it into, got 2",
        ),
        (
            ["a:b", "--eps", "0,1.2"],
            "--eps: expected comma-separated distinct numbers in [0, 1), got '1.2' in '0,1.2'",
        ),
        (["a:b", "--eps", "1"], "--eps: expected comma-separated distinct numbers in [0, 1), got '1'"),
        (["a:b", "--eps", "a"], "--eps: expected comma-separated distinct numbers in [0, 1), got 'a'"),
        (["a:b", "--eps", "nan"], "--eps: expected comma-separated distinct numbers in [0, 1), got 'nan'"),
        (["a:b", "--eps", ""], "--eps: expected a value, got ''"),
        (["a:b", "--eps", "-0.1"], "--eps: expected comma-separated distinct numbers in [0, 1), got '-0.1'"),
        (
            ["a:b", "--eps", "0,0.2,0"],
            "--eps: expected comma-separated distinct numbers in [0, 1), got '0' twice in '0,0.2,0'",
        ),
        (
            ["a:b", "--thresholds", ""],
            "--thresholds: expected a value, got ''",
        ),
        (
            ["a:b", "--thresholds", "0.6,1"],
            "--thresholds: expected comma-separated distinct numbers in [0, 1), got '1' in '0.6,1'",
        ),
        (
            ["a:b", "--estimator", "consitent"],
            "--estimator: expected one of consistent, gaussian, counted, paper, got 'consitent', did you mean consistent?",
        ),
        (
            ["a:b", "--estimator", "x"],
            "--estimator: expected one of consistent, gaussian, counted, paper, got 'x'",
        ),
        (
            ["a:b", "--preset", "quik"],
            "--preset: expected one of quick, standard, paper, got 'quik', did you mean quick?",
        ),
        (
            ["a:b", "--format", "jsn"],
            "--format: expected one of table, json, csv, got 'jsn', did you mean json?",
        ),
        (
            ["a:b", "--dtype", "float23"],
            "--dtype: expected one of auto, float32, tf32, bfloat16, float16, float64, got 'float23', "
            "did you mean float32?",
        ),
        (
            ["a:b", "--backend", "troch"],
            "--backend: expected one of auto, torch, got 'troch', did you mean torch?",
        ),
        (
            ["a:b", "--device", "cudo"],
            "--device: expected auto, cpu, cuda, mps, xpu or cuda:N, got 'cudo', did you mean cuda?",
        ),
        (
            ["a:b", "--device", "cuda:x"],
            "--device: expected auto, cpu, cuda, mps, xpu or cuda:N, got 'cuda:x'",
        ),
        (["a:b", "--scales", "0"], "--scales: expected an integer of at least 1, got '0'"),
        *(
            (
                ["a:b", "--scales", text],
                f"--scales: expected a count such as 12 or increasing values such as 0.5,1.0, got {text!r}",
            )
            for text in ("few", "1.5,", "2.0,1.0", "0.0,1.0", "-1.0", "inf", "1.0,1.0")
        ),
        (["a:b", "--center", "grey"], "--center: expected a number, got 'grey'"),
        (["a:b", "--center", "inf"], "--center: expected a number, got 'inf'"),
        (
            ["a:b", "--integral", "gird"],
            "--integral: expected one of exact, grid, got 'gird', did you mean grid?",
        ),
        (["a:b", "--half-width", "1"], "--half-width: expected a number between 0 and 1, got '1'"),
        (
            ["a:b", "--average", "publish"],
            "--average: expected one of auto, sampled, published, got 'publish', did you mean published?",
        ),
        (["a:b", "--samples", "3"], "--samples: expected an integer of at least 4, got '3'"),
        (["a:b", "--batch-size", "0"], "--batch-size: expected 'auto' or an integer of at least 1, got '0'"),
        (
            ["a:b", "--threads", "all"],
            f"--threads: expected an integer from 1 to {arguments.most_at_once()}, got 'all'",
        ),
        (
            ["a:b", "--seed", "18446744073709551616"],
            "--seed: expected an integer from 0 to 18446744073709551615, got '18446744073709551616'",
        ),
        (["a:b", "--prior", "1"], "--prior: expected a number between 0 and 1, got '1'"),
        (
            ["a:b", "--input-shape", "3,,32"],
            "--input-shape: expected positive integers such as 3,224,224, got '3,,32'",
        ),
        (
            ["a:b", "--input-shape", "3,0"],
            "--input-shape: expected positive integers such as 3,224,224, got '3,0'",
        ),
        (["a:b", "--mean", "0.5,x"], "--mean: expected comma-separated numbers, got 'x' in '0.5,x'"),
        (["a:b", "--std", "0"], "--std: expected comma-separated numbers above 0, got '0'"),
        (
            ["a:b", "--pool", "agv"],
            "--pool: expected one of default, avg, max, cls, flatten, got 'agv', did you mean avg?",
        ),
        (["a:b", "--checkpoint", "none.pt"], "--checkpoint: expected an existing file, got 'none.pt'"),
        (
            ["a:b", "--estimatr", "paper"],
            "option: expected one that --help lists, got '--estimatr', did you mean --estimator?",
        ),
        (["a:b", "--zzz"], "option: expected one that --help lists, got '--zzz'"),
        (
            ["a:b", "--eps", "0", "0.2"],
            "MODEL: expected SOURCE:NAME, got '0.2'; several numbers are joined by commas, such as --eps 0,0.2",
        ),
        (
            ["a:b", "--device", "gpu"],
            "--device: expected auto, cpu, cuda, mps, xpu or cuda:N, got 'gpu', did you mean cuda?",
        ),
        (["a:b", "--eps"], "--eps: expected a value, got none"),
        (["a:b", "--quiet=1"], "--quiet: expected no value, got one"),
        (["a:b", "--help=1"], "--help: expected no value, got one"),
        (
            ["a:b", "--no-compil"],
            "option: expected one that --help lists, got '--no-compil', did you mean --no-compile?",
        ),
        (
            ["a:b", "--published-preprocessing", "--mean", "0", "--std", "1"],
            "--published-preprocessing: expected mean and std to be left out, got both kinds",
        ),
        (["a:b", "--best", "3"], "--best: expected --models beside it, got '3' alone"),
        (["a:b", "--config", "none.toml"], "--config: expected an existing file, got 'none.toml'"),
        (
            ["a:b", "--tasks", "ful"],
            "--tasks: expected one of published, patterns, covariances, priors, full, structure, classes:K or the path of a .toml file, got 'ful', "
            "did you mean full?",
        ),
    ],
)
def test_usage_errors_are_one_line_and_exit_2(calls: list[Any], arguments: list[str], message: str) -> None:
    done = invoke("run", *arguments)
    assert (done.exit_code, done.stdout, done.stderr) == (2, "", f"error: {message}\n")
    assert calls == []


NUMBER = "expected an integer of at least 1, got '0'"


PROBES = [
    ("--l2 x", "--l2: expected comma-separated distinct numbers in [0, inf), got 'x'"),
    ("--linf -1", "--linf: expected comma-separated distinct numbers in [0, inf), got '-1'"),
    ("--attack=1", "--attack: expected no value, got one"),
    ("--steps 0", f"--steps: {NUMBER}"),
    ("--wrong-classes 0", f"--wrong-classes: {NUMBER}"),
    ("--regularisation 0", "--regularisation: expected a number between 0 and 1e+09, got '0'"),
    ("--test-fraction 1", "--test-fraction: expected a number between 0 and 1, got '1'"),
    ("--batch-size auto", "--batch-size: expected an integer of at least 1, got 'auto'"),
    ("--seed -1", "--seed: expected an integer from 0 to 18446744073709551615, got '-1'"),
    ("--threads 0", f"--threads: expected an integer from 1 to {arguments.most_at_once()}, got '0'"),
]


UNIT = "expected comma-separated numbers in [0, 1), got '1'"


FORMATS = "expected one of table, json, csv, got 'jsn', did you mean json?"


@pytest.mark.parametrize(
    ("verb", "words", "message"),
    [
        ("compare", "a.json", "DIR|RESULT.json: expected at least two results to compare, got 1"),
        ("compare", "", "DIR|RESULT.json: expected at least two results to compare, got 0"),
        ("compare", "a b --eps 1", "--eps: expected comma-separated distinct numbers in [0, 1), got '1'"),
        ("compare", "a b --thresholds 0,0", "--thresholds: expected comma-separated distinct numbers in [0, 1), got '0' twice in '0,0'"),
        ("compare", "a b --format jsn", f"--format: {FORMATS}"),
        ("compare", "a b --unpaird", "option: expected one that --help lists, got '--unpaird', did you mean --unpaired?"),
        ("report", "", "DIR: expected the directory that `run --out` wrote to, got none"),
        ("report", "d --format htm", "--format: expected one of table, csv, markdown, json, none, got 'htm'"),
        ("report", "d --eps x", "--eps: expected comma-separated distinct numbers in [0, 1), got 'x'"),
        ("status", "", "DIR: expected the folder of a run store, got none"),
        ("status", "d --format csv", "--format: expected one of table, json, got 'csv'"),
        ("export", "d", "--to: expected one of mlflow, wandb, model-card, got none"),
        ("export", "d --to wnadb", "--to: expected one of mlflow, wandb, model-card, got 'wnadb', did you mean wandb?"),
        ("export", "d --to wandb --uri x", "--uri: expected only with --to mlflow, got it with --to wandb"),
        ("export", "d --to mlflow --name x", "--name: expected only with --to model-card, got it with --to mlflow"),
        ("export", "d --to mlflow --offline", "--offline: expected only with --to wandb, got it with --to mlflow"),
        ("export", "d --to mlflow --out x", "--out: expected only with --to wandb or model-card, got it with --to mlflow"),
        ("export", "d --to model-card --project x", "--project: expected only with --to mlflow or wandb, got it with --to model-card"),
        ("ls", "--format csv", "--format: expected one of table, json, got 'csv'"),
        ("ls", "a b", "arguments: expected no more, got 'b'"),
        ("info", "--formt json", "option: expected one that --help lists, got '--formt', did you mean --format?"),
        ("demo", "--seed x", "--seed: expected an integer from 0 to 4294967295, got 'x'"),
        ("study sensitivity", "", "ENCODER: expected at least one encoder such as timm:resnet50, got none"),
        ("study sensitivity", "a:b --vary sed", "--vary: expected one of seed, samples, scales, thresholds, dtype, preprocessing, got 'sed', did you mean seed?"),
        ("study sensitivity", "a:b --vary seed,seed", "--vary: expected each once, got 'seed' twice in 'seed,seed'"),
        ("study sensitivity", "a:b --seeds 1", "--seeds: expected at least 2 to see their spread, got '1'"),
        ("study sensitivity", "a:b --vary thresholds --thresholds 0.7", "--thresholds: expected at least two to vary them, got '0.7'"),
        ("study sensitivity", "a:b c:d --checkpoint pyproject.toml", "--checkpoint: expected a single ENCODER to load it into, got 2"),
        ("study sensitivity", "a:b --dtype float23", "--dtype: expected one of auto, float32, tf32, bfloat16, float16, float64, got 'float23', did you mean float32?"),
        ("study eps-star", "", "ENCODER: expected at least one encoder or result file, got none"),
        ("study eps-star", "a:b --threshold 1", f"--threshold: {UNIT}"),
        ("study eps-star", "a:b --threshold 0.7,0.8", "--threshold: expected one number, got '0.7,0.8'"),
        ("study eps-star", "a:b --repeats 2", "--repeats: expected 1, or at least 3 to see their spread, got '2'"),
        ("study eps-star", "a:b --eps 0.2", "--eps: expected at least 2 budgets, got '0.2'"),
        ("study metrics", "", "ENCODER: expected at least one encoder such as timm:resnet50, got none"),
        ("study metrics", "a:b", "--inputs: expected a folder of images, got none"),
        ("study metrics", "a:b --inputs d --samples 19", "--samples: expected an integer of at least 20, got '19'"),
        ("study linear-probe", "", "ENCODER: expected an encoder such as timm:resnet50, got none"),
        ("study linear-probe", "a:b", "--data: expected digits, cifar10 or another name, an image folder, a .npz, .parquet, .csv or .tar file, got none"),
        ("study linear-probe", "a:b --data d --standardise x", "--standardise: expected one of common, feature, got 'x'"),
        ("study linear-probe", "a:b --data d --samples 0", f"--samples: {NUMBER}"),
        *(("study linear-probe", f"a:b --data d {words}", message) for words, message in PROBES),
        ("study validate", "", "ENCODER: expected several encoders such as zoo:small, or --demo, got none"),
        ("study validate", "zoo:small", "--data: expected digits, cifar10 or another name, an image folder, a .npz, .parquet, .csv or .tar file, got none"),
        ("study validate", "a:b --demo", "--demo: expected neither ENCODER nor --data, got some"),
        ("study validate", "--demo --resamples 99", "--resamples: expected an integer of at least 100, got '99'"),
        ("study validate", "--demo --splits 0", f"--splits: {NUMBER}"),
        ("study validate", "--demo --zoo-epochs 0", "--zoo-epochs: expected a number between 0 and 1e+09, got '0'"),
        ("study validate", "--demo --coefficient pears", "--coefficient: expected one of spearman, pearson, kendall, got 'pears', did you mean pearson?"),
        ("study validate", "--demo --neighbours 0", f"--neighbours: {NUMBER}"),
        ("study validate", "--demo --data-samples 0", f"--data-samples: {NUMBER}"),
        *(("study validate", f"--demo {words}", message) for words, message in PROBES),
        ("study inherit", "--suite folders", "ENCODER: expected at least one, such as timm:vit_base_patch16_224, for folders, got none"),
        ("study inherit", "--score-eps 0,0.2", "--score-eps: expected one number, got '0,0.2'"),
        ("study inherit", "--score-threshold 1", f"--score-threshold: {UNIT}"),
        ("study inherit", "--score-samples 3", "--score-samples: expected an integer of at least 4, got '3'"),
        ("study inherit", "--distance-samples 1", "--distance-samples: expected an integer of at least 2, got '1'"),
        ("study inherit", "--warmup -1", "--warmup: expected an integer of at least 0, got '-1'"),
        ("study inherit", "--momentum x", "--momentum: expected a number, got 'x'"),
        ("study inherit", "--weight-decay x", "--weight-decay: expected a number, got 'x'"),
        ("study inherit", "--epochs 0", f"--epochs: {NUMBER}"),
        ("study pretrain", "", "--demo: expected to be given, as the only pre-training there is, got none"),
        ("study pretrain", "--demo --features 193", "--features: expected an integer from 1 to 192, got '193'"),
        ("study pretrain", "--demo --steps 1", "--steps: expected an integer of at least 2, got '1'"),
        ("study pretrain", "--demo --reference specialist", "--reference: expected one of none, specialists, got 'specialist', did you mean specialists?"),
        ("study pretrain", "--demo --temperature 0", "--temperature: expected a number between 0 and 1e+09, got '0'"),
    ],
)  # fmt: skip
def test_mistakes_of_other_verbs_are_one_line_and_exit_2(
    verb: str, words: str, message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(ROOT)
    done = invoke(*verb.split(), *words.split())
    assert (done.exit_code, done.stdout, done.stderr) == (2, "", f"error: {message}\n")


def test_other_usage_errors() -> None:
    wrong = invoke("rum")
    assert (wrong.exit_code, wrong.stderr) == (
        2,
        "error: command: expected one of run, compare, report, status, export, ls, info, demo, bench, reproduce, study, got 'rum', did you mean run?\n",
    )
    wrong = invoke("study", "linear-prob")
    assert (wrong.exit_code, wrong.stderr) == (
        2,
        "error: command: expected one of sensitivity, eps-star, robustness, metrics, pretrain, linear-probe, validate, inherit, got 'linear-prob', did you mean linear-probe?\n",
    )
    extra = invoke("ls", "a", "b")
    assert (extra.exit_code, extra.stderr) == (2, "error: arguments: expected no more, got 'b'\n")
    bare = invoke()
    assert bare.exit_code == 2
    assert bare.stdout == "" and "Usage: synbench-fast" in bare.stderr


def test_an_output_folder_that_cannot_be_written_is_a_usage_error(calls: list[Any], tmp_path: Path) -> None:
    occupied = tmp_path / "file"
    occupied.touch()
    done = invoke("run", "a:b", "--out", str(occupied))
    assert (done.exit_code, done.stderr) == (
        2,
        f"error: --out: expected a directory that can be written, got '{occupied}' (File exists)\n",
    )
    assert calls == []
