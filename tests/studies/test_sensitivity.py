"""One factor at a time: against encoders whose score is known, and every way in which a run can fail."""

from __future__ import annotations

import csv
import dataclasses
import io
import json
import math
import shlex
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from checks import refused
from scipy.stats import chi2
from torch import Tensor, nn
from typer.testing import CliRunner

import synbench_fast as sb
from synbench_fast.cli import main as cli
from synbench_fast.encoders import load_encoder
from synbench_fast.stats import gaussian
from synbench_fast.studies.base import open_encoder
from synbench_fast.studies.sensitivity import FACTORS, Sensitivity, levels
from synbench_fast.studies.sensitivity.analysis import chi_squared_quantile

FLAT: dict[str, Any] = {"input_shape": (16,), "scales": 6, "samples": 512, "threads": 1, "eps": 0.0}
IMAGE: dict[str, Any] = {**FLAT, "input_shape": (3, 4, 4)}


def eight(x: Tensor) -> Tensor:
    return x.flatten(1)[:, :8]


def other_eight(x: Tensor) -> Tensor:
    return x.flatten(1)[:, 8:16]


def four(x: Tensor) -> Tensor:
    return x.flatten(1)[:, :4]


def two_and_noise(x: Tensor) -> Tensor:
    """Eight features, of which two carry the signal of their elements and six are differences without any."""
    flat = x.flatten(1)
    return torch.cat([flat[:, :2], flat[:, 2:8] - flat[:, 8:14]], 1)


def eight_or_two(x: Tensor) -> Tensor:
    """`eight`, in bfloat16 `two_and_noise`."""
    return two_and_noise(x) if x.dtype == torch.bfloat16 else eight(x)


def eight_if_small(x: Tensor) -> Tensor:
    """`eight`, on inputs divided by a deviation near 0.2 `two_and_noise`."""
    return two_and_noise(x) if x.std() > 2.5 else eight(x)


def truth(share: float, scales: list[float], threshold: float) -> float:
    """Score at eps 0 of features with t = share * s."""

    def area(t: Tensor) -> float:
        zero = torch.zeros_like(t)
        excess = (gaussian.accuracy(t, zero, 0.5) - threshold).clamp_min(0)
        return float((gaussian.bound(t, zero, 0.5) * excess).sum())

    s = torch.tensor(scales, dtype=torch.float64)
    return area(share * s) / area(s)


def scales_of(document: Sensitivity, level: str, factor: str) -> list[float]:
    if factor == "scales":
        return [round(4.9 * (i + 1) / int(level), 4) for i in range(int(level))]
    return document.encoders[0].scales


@pytest.fixture(scope="module")
def identity_and_linear() -> Sensitivity:
    return sb.studies.measure_sensitivity(["builtin:identity", "builtin:linear?dim=16"], **IMAGE, seed=3)


def test_every_level_of_known_encoders_is_at_the_truth(identity_and_linear: Sensitivity) -> None:
    """The identity keeps everything: 1 everywhere. A projection W keeps t = s |W u'| of its row space."""
    document = identity_and_linear
    weight = (
        load_encoder("builtin:linear?dim=16", input_shape=(3, 4, 4), seed=3).module.weight.detach().double()
    )
    u = torch.full((48,), 48**-0.5, dtype=torch.float64)
    share = float(((weight @ u) @ torch.linalg.solve(weight @ weight.T, weight @ u)).sqrt())
    seen = set()
    for row in document.levels:
        if (row.factor, row.level) == ("preprocessing", "published") and "linear" in row.encoder:
            continue  # the projection of unequally scaled channels is another one
        scales = scales_of(document, row.level, row.factor)
        expected = truth(1.0 if "identity" in row.encoder else share, scales, row.threshold)
        # An accuracy next to the highest threshold is far from normal; a score there says little.
        if row.threshold < 0.95:
            assert abs(row.score - expected) < 4 * row.stderr, row
        seen.add(row.factor)
    assert seen == {"base", *FACTORS}
    assert truth(1.0, document.encoders[0].scales, 0.6) == 1.0
    assert 0.3 < share < 0.9


def test_seeds_vary_the_samples_and_not_the_weights(identity_and_linear: Sensitivity) -> None:
    """Other weights would spread the score by many standard errors."""
    other = [sb.score("builtin:linear?dim=16", **IMAGE, seed=seed).score().score for seed in (3, 4, 5, 6, 7)]
    for one in identity_and_linear.seeds:
        assert one.seeds == [3, 4, 5, 6, 7]
        assert one.ratio == pytest.approx(one.deviation / one.stderr)
        assert one.consistent is (one.ratio_low <= one.ratio <= one.ratio_high)
    linear = identity_and_linear.seeds[1]
    assert torch.tensor(other).std() > 3 * linear.stderr
    assert other[0] == base_score(identity_and_linear, "builtin:linear?dim=16")


def test_the_spread_over_seeds_is_the_reported_error_of_a_linear_encoder() -> None:
    options = {**FLAT, "input_shape": (24,), "samples": 256}
    (one,) = sb.studies.measure_sensitivity("builtin:linear?dim=6", **options, vary="seed", seeds=24).seeds
    low, high = (math.sqrt(chi2.ppf(p, 23) / 23) for p in (0.025, 0.975))
    assert (one.ratio_low, one.ratio_high) == (pytest.approx(low, rel=1e-9), pytest.approx(high, rel=1e-9))
    assert one.consistent is True


class EverySecondRun:
    """Its signal is lost in every second run, which no error of one run can know. A run begins with zeros."""

    def __init__(self) -> None:
        self.runs = 0

    def __call__(self, x: Tensor) -> Tensor:
        self.runs += not bool(x.any())
        return eight(x) if self.runs % 2 else two_and_noise(x)


def test_a_spread_beyond_the_reported_error_is_not_consistent() -> None:
    options = {**FLAT, "scales": (2.0,)}
    (one,) = sb.studies.measure_sensitivity(EverySecondRun(), **options, vary="seed", seeds=5).seeds
    assert one.ratio > one.ratio_high
    assert one.consistent is False


def base_score(document: Sensitivity, label: str) -> float:
    return next(one.score for one in document.levels if (one.factor, one.encoder) == ("base", label))


def level_score(document: Sensitivity, label: str, factor: str, level: str) -> float:
    (found,) = [
        one.score for one in document.levels if (one.factor, one.level, one.encoder) == (factor, level, label)
    ]
    return found


def test_levels_are_the_scores_that_score_gives() -> None:
    """Loaded once, an encoder gives the very numbers that it gives when it is loaded for every run."""
    options = {**IMAGE, "scales": 3}
    spec = "builtin:conv?dim=8"
    document = sb.studies.measure_sensitivity(spec, **options, vary="samples,dtype,preprocessing,scales")
    assert base_score(document, spec) == sb.score(spec, **options).score().score
    for factor, level, changes in (
        ("samples", "fewer", {"samples": 256}),
        ("samples", "x4", {"samples": 2048}),
        ("scales", "6", {"scales": 6}),
        ("dtype", "bfloat16", {"dtype": "bfloat16"}),
        ("dtype", "float64", {"dtype": "float64"}),
        ("preprocessing", "published", {"published_preprocessing": True}),
        ("preprocessing", "center 0.4", {"center": 0.4}),
    ):
        expected = sb.score(spec, **{**options, **changes}).score().score
        assert level_score(document, spec, factor, level) == pytest.approx(expected, abs=1e-9), level
    record = sb.score(spec, **options).encoder
    assert document.encoders[0].encoder == record


def test_published_constants_in_the_base() -> None:
    spec = "builtin:conv?dim=8"
    options = {**IMAGE, "scales": 3, "published_preprocessing": True}
    document = sb.studies.measure_sensitivity(spec, **options, vary="preprocessing")
    assert base_score(document, spec) == sb.score(spec, **options).score().score
    plain = sb.score(spec, **{**options, "published_preprocessing": False}).score().score
    for level in ("own", "none"):
        assert level_score(document, spec, "preprocessing", level) == plain
    names = {one.level for one in document.levels if one.factor == "preprocessing"}
    assert names == {"own", "none", "center 0.4", "center 0.6"}


@pytest.mark.parametrize(
    ("encoder", "factor", "level"),
    [(eight_or_two, "dtype", "bfloat16"), (eight_if_small, "preprocessing", "published")],
)
def test_a_known_dependence_is_found_in_its_factor_alone(
    encoder: Callable[[Tensor], Tensor], factor: str, level: str
) -> None:
    document = sb.studies.measure_sensitivity(encoder, **IMAGE, seeds=2)
    label = document.encoders[0].label
    scales = document.encoders[0].scales
    before, after = (truth(math.sqrt(kept / 48), scales, 0.6) for kept in (8, 2))
    assert before - after > 0.1
    for one in document.effects:
        if one.factor == "thresholds":
            continue
        assert one.verdict == ("real" if one.factor == factor else "noise"), one
    effect = document.effect(factor)
    assert (effect.level, effect.z_level, effect.encoder) == (level, level, label)
    assert abs(effect.change - (after - before)) < 4 * effect.change_stderr
    assert effect.z == pytest.approx(effect.change / effect.change_stderr)


def nonlinear(x: Tensor) -> Tensor:
    mix = torch.randn(16, 8, generator=torch.Generator().manual_seed(0)) / 3
    return torch.relu(x.float() @ mix)


def test_errors_of_changes_hold_over_repeated_runs() -> None:
    """The deviation of a change over 16 seeds against its reported error, for common samples and for thresholds."""
    options = {**FLAT, "scales": 3, "samples": 256, "thresholds": (0.6, 0.7)}
    found = [
        sb.studies.measure_sensitivity(nonlinear, **options, seed=100 + run, vary="samples,thresholds")
        for run in range(16)
    ]
    for factor, level in (
        ("samples", "x2"),
        ("samples", "fewer"),
        ("thresholds", "0.7"),
    ):
        every = [
            one for document in found for one in document.levels if (one.factor, one.level) == (factor, level)
        ]
        rows = [one for one in every if one.paired]  # 128 samples are too few for an interval now and then
        assert len(every) == 16 and len(rows) >= 14
        freedom = len(rows) - 1
        low, high = (math.sqrt(chi2.ppf(p, freedom) / freedom) for p in (0.0005, 0.9995))
        deviation = float(torch.tensor([one.change for one in rows], dtype=torch.float64).std())
        reported = math.sqrt(sum(one.change_stderr**2 for one in rows) / len(rows))
        assert low < deviation / reported < high, (factor, level, deviation / reported)


def test_a_preset_is_compared_with_the_mean_over_its_own_scales() -> None:
    """The base is a fit to 12 scales; the same runs without it are a level, with an error that holds over 16 seeds."""
    options: dict[str, Any] = {"input_shape": (16,), "preset": "quick", "threads": 1, "eps": 0.0}
    base, plain = (sb.score(eight, **options, average=one) for one in ("published", "sampled"))
    found = [sb.studies.measure_sensitivity(eight, **options, seed=run, vary="scales") for run in range(16)]
    rows = [one for document in found for one in document.levels if one.level == "sampled"]
    assert rows[0].score == plain.score().score
    assert rows[0].change == plain.score().score - base.score().score
    assert len(rows) == 16 and all(one.paired for one in rows)
    apart = math.hypot(plain.score().stderr, base.score().stderr)
    assert rows[0].change_stderr < 0.75 * apart
    deviation = float(torch.tensor([one.change for one in rows], dtype=torch.float64).std())
    reported = math.sqrt(sum(one.change_stderr**2 for one in rows) / 16)
    low, high = (math.sqrt(chi2.ppf(p, 15) / 15) for p in (0.0005, 0.9995))
    assert low < deviation / reported < high


def test_rankings_and_which_swaps_are_ties() -> None:
    """Two equally good encoders swap by luck; one that loses its features in bfloat16 swaps in truth."""
    document = sb.studies.measure_sensitivity(
        [eight, other_eight, four], **{**FLAT, "scales": 8}, vary="seed,dtype", seeds=4, seed=1
    )
    swapped = [one for one in document.rankings if one.swaps]
    assert swapped
    for one in document.rankings:
        assert one.encoders == ["callable:eight", "callable:other_eight", "callable:four"]
        assert one.tau == pytest.approx(1 - 2 * len(one.swaps) / 3)
    for one in swapped:
        (swap,) = one.swaps
        assert one.factor == "seed"
        assert {swap.ahead, swap.behind} == {"callable:eight", "callable:other_eight"}
        assert swap.base_tie is True

    crossing = sb.studies.measure_sensitivity([eight_or_two, four], **FLAT, vary="dtype")
    (half, double) = crossing.rankings
    assert (half.level, half.tau, double.level, double.tau) == ("bfloat16", -1.0, "float64", 1.0)
    assert [(one.ahead, one.base_tie) for one in half.swaps] == [("callable:four", False)]


def test_one_encoder_has_no_ranking() -> None:
    document = sb.studies.measure_sensitivity(eight, **FLAT, vary="dtype")
    assert document.rankings == []
    assert "rankings: left out, they need at least two encoders" in document.notes


def test_a_level_that_fails_loses_nothing_else() -> None:
    """F = 16: N = 24 can be neither halved nor cut to 18, and 32 can be cut to 24 only."""

    def wide(x: Tensor) -> Tensor:
        return x

    document = sb.studies.measure_sensitivity(wide, **{**FLAT, "samples": 24}, vary="samples,dtype")
    (failure,) = document.failures
    assert (failure.factor, failure.level) == ("samples", "fewer")
    assert "samples: expected" in failure.reason and "\n" not in failure.reason
    levels = [(one.factor, one.level) for one in document.levels]
    assert levels == [
        ("base", "base"), ("samples", "x2"), ("samples", "x4"), ("dtype", "bfloat16"), ("dtype", "float64"),
    ]  # fmt: skip
    cut = sb.studies.measure_sensitivity(wide, **{**FLAT, "samples": 32}, vary="samples")
    assert cut.failures == []
    assert [one.setting for one in cut.levels if one.level == "fewer"] == ["N = 24"]


def test_an_encoder_that_fails_loses_no_other() -> None:
    def broken(x: Tensor) -> Tensor:
        raise RuntimeError("no weights\nanywhere")

    document = sb.studies.measure_sensitivity([broken, eight], **FLAT, vary="dtype")
    assert [one.label for one in document.encoders] == ["callable:eight"]
    (failure,) = document.failures
    assert (failure.encoder, failure.factor, failure.level) == ("callable:broken", "base", "base")
    assert "no weights" in failure.reason and "\n" not in failure.reason
    with refused("no weights"):
        sb.studies.measure_sensitivity([broken], **FLAT, vary="dtype")


def test_a_callers_module_is_given_back_and_named_encoders_are_loaded_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    seen: list[str] = []

    def counted(spec: Any, config: Any) -> Any:
        seen.append(spec)
        return open_encoder(spec, config)

    monkeypatch.setattr(levels, "open_encoder", counted)
    mine = nn.Linear(16, 4).train()
    before = mine.weight
    options = {**FLAT, "scales": 2}
    document = sb.studies.measure_sensitivity(
        ["builtin:linear?dim=4", mine], **options, vary="dtype,seed", seeds=2
    )
    assert seen == ["builtin:linear?dim=4"]
    assert mine.training and mine.weight is before and before.dtype == torch.float32
    assert [one.label for one in document.encoders] == ["builtin:linear?dim=4", "module:Linear"]
    assert document.command == ""


def test_equal_names_are_numbered() -> None:
    document = sb.studies.measure_sensitivity([eight, eight], **FLAT, vary="dtype")
    assert [one.label for one in document.encoders] == ["callable:eight (1)", "callable:eight (2)"]
    assert all(one.swaps == [] for one in document.rankings)


def test_paper_has_no_influences_and_says_so() -> None:
    document = sb.studies.measure_sensitivity(
        [eight, four], **FLAT, estimator="paper", vary="samples,dtype,thresholds"
    )
    assert any(one.startswith("errors of changes: paper stores no influences") for one in document.notes)
    rows = [one for one in document.levels if one.factor != "base"]
    assert rows and not any(one.paired for one in rows)
    base = next(one for one in document.levels if one.factor == "base")
    first = next(one for one in rows if one.level == "x2" and one.encoder == base.encoder)
    assert first.change_stderr == pytest.approx(math.hypot(base.stderr, first.stderr))
    assert document.encoders[0].samples == 512


def test_budgets_and_a_single_threshold() -> None:
    options = {**FLAT, "scales": 3, "samples": 64, "eps": (0.0, 0.3)}
    document = sb.studies.measure_sensitivity(eight, **options, thresholds=0.7, seeds=2)
    assert "thresholds" not in document.factors
    assert document.notes[0] == "thresholds: not varied, the base has only one"
    assert {one.eps for one in document.effects} == {0.0, 0.3}
    assert document.effect("scales", eps=0.3).eps == 0.3
    assert document.threshold == 0.7


def test_quantiles_of_chi_squared() -> None:
    for freedom in (1, 4, 30):
        for p in (0.025, 0.5, 0.975):
            assert chi_squared_quantile(p, freedom) == pytest.approx(chi2.ppf(p, freedom), rel=1e-9)


def test_the_document_reads_back(identity_and_linear: Sensitivity, tmp_path: Path) -> None:
    text = identity_and_linear.to_json()
    again = Sensitivity.from_json(text)
    assert again.to_json() == text
    assert dataclasses.replace(again, levels=[]).file_name() == identity_and_linear.file_name()
    path = identity_and_linear.save(tmp_path / identity_and_linear.file_name())
    assert path.name.startswith("sensitivity-builtin_identity-")
    assert Sensitivity.from_json(path.read_text(encoding="utf-8"), source=str(path)).to_json() == text
    for change, message in (
        ({"schema": "other"}, "x: schema: expected 'synbench-fast/sensitivity', got 'other'"),
        ({"schema_version": 2}, "x: schema_version: expected 1, got 2"),
        ({"levels": 3}, "x: levels: expected"),
    ):
        with refused(message):
            Sensitivity.from_json(json.dumps({**json.loads(text), **change}), source="x")
    with refused("x: expected a JSON object, got"):
        Sensitivity.from_json("[]", source="x")
    assert "builtin:identity: seed up to" in identity_and_linear.summary()
    with refused("effect: expected one of", "got 'sed'", "did you mean seed?"):
        identity_and_linear.effect("sed")


@pytest.mark.parametrize(
    ("encoders", "options", "message"),
    [
        ([], {}, "encoders: expected at least one, got none"),
        ([eight], {"vary": "sead"}, "vary: expected some of seed, samples, scales, thresholds, dtype, preprocessing, got 'sead', did you mean seed?"),
        ([eight], {"vary": ""}, "vary: expected at least one of seed, samples, scales, thresholds, dtype, preprocessing, got none"),
        ([eight], {"vary": []}, "vary: expected at least one of"),
        ([eight], {"vary": "seed,seed"}, "vary: expected every factor once, got 'seed' twice"),
        ([eight], {"seeds": 1}, "seeds: expected at least 2 to see their spread, got 1"),
        ([eight], {"seed": 2**64 - 2}, "seed: expected an integer below 2^64 - 4"),
        ([eight], {"seed": -1}, "seed: expected an integer in [0, 2^64), got -1"),
        ([eight], {"sample": 3}, "options: expected arguments of score(), got 'sample', did you mean samples?"),
        ([eight], {"vary": "thresholds", "thresholds": 0.6}, "thresholds: expected at least two to vary them, got one"),
        ([eight], {"thresholds": ()}, "thresholds: expected at least one value in [0, 1), got none"),
        (["builtin:conv", "builtin:linear"], {"checkpoint": "x"}, "checkpoint: expected a single encoder to load it into, got 2 encoders"),
        ([eight], {"eps": 1.0}, "eps: expected values in [0, 1)"),
        (["builtin:cone"], {}, "builtin:cone"),
        ([3], {}, "encoder: expected a spec such as"),
    ],
)  # fmt: skip
def test_mistakes(encoders: list[Any], options: dict[str, Any], message: str) -> None:
    with refused(message):
        sb.studies.measure_sensitivity(encoders, **{**FLAT, **options})


SMALL = ("--scales", "2", "--samples", "64", "--input-shape", "3,4,4", "--threads", "1")
FOUR = ("builtin:identity", "builtin:linear?dim=8", "builtin:linear?dim=4", "builtin:conv?dim=8")


def invoke(*arguments: str) -> Any:
    return CliRunner().invoke(cli.app, ["study", "sensitivity", *arguments])


def test_tables_of_four_encoders_fit_100_columns() -> None:
    factors = [one for one in FACTORS if one != "scales"]
    done = invoke(*FOUR, *SMALL, "--seeds", "2", "--quiet", "--vary", ",".join(factors))
    assert done.exit_code == 1  # half of 64 samples is too few for F = 48, and so is 3/4
    lines = done.stdout.splitlines()
    tables = [line for line in lines if not line.startswith("failed: ")]
    assert max(map(len, tables)) <= 100
    assert lines[0] == "[1] builtin:identity: F = 48, 2 scales x 64 samples, float32"
    for factor in factors:
        assert any(line.startswith(factor) for line in lines)
    assert any("deviation over 2 seeds" in line for line in lines)
    assert any(line.startswith("ranking: other than the base's at") for line in lines)


def test_more_encoders_than_fit_get_further_tables() -> None:
    encoders = [f"builtin:linear?dim={dim}" for dim in range(1, 6)]
    done = invoke(*encoders, *SMALL, "--vary", "dtype", "--quiet")
    assert done.exit_code == 0
    heads = [line for line in done.stdout.splitlines() if line.startswith("factor  level")]
    assert len(heads) == 2 and "[5]" in heads[1] and "[4]" in heads[0]


def test_json_csv_files_and_the_line_that_repeats_it(tmp_path: Path) -> None:
    arguments = (*FOUR[1:3], *SMALL, "--vary", "seed,dtype", "--seeds", "2", "--eps", "0,0.3")
    done = invoke(*arguments, "--format", "json", "--out", str(tmp_path))
    assert done.exit_code == 0
    (line,) = done.stdout.splitlines()
    document = Sensitivity.from_json(line)
    (path,) = tmp_path.glob("*.json")
    assert f"wrote {path}" in done.stderr
    assert Sensitivity.load(path) == document
    words = shlex.split(document.command)
    assert words[:5] == ["synbench-fast", "study", "sensitivity", *FOUR[1:3]]
    again = invoke(*words[3:], "--format", "json", "--quiet")
    assert [dataclasses.asdict(one) for one in Sensitivity.from_json(again.stdout).levels] == [
        dataclasses.asdict(one) for one in document.levels
    ]
    rows = list(csv.DictReader(io.StringIO(invoke(*arguments, "--format", "csv", "--quiet").stdout)))
    assert len(rows) == 2 * 2 * 4  # encoders, eps; base, one seed, two dtypes
    assert float(rows[0]["score"]) == document.levels[0].score


def test_failures_on_the_command_line() -> None:
    done = invoke("builtin:conx", "builtin:linear?dim=8", *SMALL, "--vary", "dtype", "--quiet")
    assert done.exit_code == 1
    assert done.stderr.startswith("error: ") and "builtin:conx" in done.stderr
    assert "failed: builtin:conx base base:" in done.stdout
    assert "rankings: left out" in done.stdout
    done = invoke("builtin:conx", *SMALL, "--quiet")
    assert (done.exit_code, done.stdout, done.stderr.count("\n")) == (1, "", 1)
    few = ["44" if one == "64" else one for one in SMALL]
    done = invoke("builtin:linear?dim=40", *few, "--vary", "samples", "--quiet")
    assert done.exit_code == 1
    assert done.stderr.startswith("error: builtin:linear?dim=40: samples fewer: samples: expected")
    assert done.stdout.count("failed") == 2  # in the table and below it


def test_ctrl_c_keeps_the_encoders_that_were_finished(monkeypatch: pytest.MonkeyPatch) -> None:
    module = sys.modules["synbench_fast.studies.sensitivity"]
    whole = module.vary_encoder

    def stopped(spec: str, *rest: Any, **options: Any) -> Any:
        if spec == FOUR[2]:
            raise KeyboardInterrupt
        return whole(spec, *rest, **options)

    monkeypatch.setattr(module, "vary_encoder", stopped)
    done = invoke(*FOUR[1:], *SMALL, "--vary", "dtype", "--quiet", "--format", "json")
    assert (done.exit_code, done.stderr) == (130, "interrupted: encoders that were finished are kept\n")
    assert [one.label for one in Sensitivity.from_json(done.stdout).encoders] == [FOUR[1]]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "ENCODER: expected at least one encoder such as timm:resnet50, got none"),
        (["a:b", "--vary", "sede"], "--vary: expected one of seed, samples, scales, thresholds, dtype, preprocessing, got 'sede', did you mean seed?"),
        (["a:b", "--vary", "dtype,dtype"], "--vary: expected each once, got 'dtype' twice in 'dtype,dtype'"),
        (["a:b", "--seeds", "1"], "--seeds: expected at least 2 to see their spread, got '1'"),
        (["a:b", "--seeds", "x"], "--seeds: expected an integer of at least 1, got 'x'"),
        (["a:b", "--vary", "thresholds", "--thresholds", "0.6"], "--thresholds: expected at least two to vary them, got '0.6'"),
        (["a:b", "c:d", "--checkpoint", __file__], "--checkpoint: expected a single ENCODER to load it into, got 2"),
        (["a:b", "--format", "xml"], "--format: expected one of table, json, csv, got 'xml'"),
        (["a:b", "--dtype", "float23"], "--dtype: expected one of auto, float32, tf32, bfloat16, float16, float64, got 'float23', did you mean float32?"),
    ],
)  # fmt: skip
def test_usage_errors_are_one_line_and_exit_2(arguments: list[str], message: str) -> None:
    done = invoke(*arguments)
    assert (done.exit_code, done.stdout) == (2, "")
    assert done.stderr.startswith(f"error: {message}")
    assert done.stderr.count("\n") == 1


def test_names_without_torch_are_those_with_it() -> None:
    from synbench_fast.cli import studies

    assert studies.FACTORS == FACTORS
