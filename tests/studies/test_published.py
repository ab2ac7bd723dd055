"""Scores against published accuracies: real layouts of tables, names, coefficients by other arithmetic, the command."""

from __future__ import annotations

import csv
import dataclasses
import io
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from checks import refused
from result_example import example
from scipy import stats

import synbench_fast as sb
from synbench_fast.cli import main as cli
from synbench_fast.results.records import Result
from synbench_fast.results.structure import FamilyScore, StructureScore
from synbench_fast.studies import read_measurements, validate_published
from synbench_fast.studies.published import run
from synbench_fast.studies.published.matching import Known, match_names
from synbench_fast.studies.published.tables import Measurement
from synbench_fast.studies.validity.correlation import Bootstrap, average_ranks, partial

# Rows of results/results-imagenet.csv and results/results-imagenet-a.csv of huggingface/pytorch-image-models.
TIMM = """\
model,top1,top1_err,top5,top5_err,param_count,img_size,crop_pct,interpolation
eva_giant_patch14_560.m30m_ft_in22k_in1k,89.786,10.214,98.992,1.008,"1,014.45",560,1.000,bicubic
vit_large_patch16_384.augreg_in21k_ft_in1k,87.084,12.916,98.302,1.698,304.72,384,1.000,bicubic
convnext_base.fb_in22k_ft_in1k_384,86.796,13.204,98.264,1.736,88.59,384,1.000,bicubic
vit_base_patch16_384.augreg_in21k_ft_in1k,85.996,14.004,98.002,1.998,86.86,384,1.000,bicubic
vit_large_patch16_224.augreg_in21k_ft_in1k,85.834,14.166,97.818,2.182,304.33,224,0.900,bicubic
vit_base_patch8_224.augreg_in21k_ft_in1k,85.798,14.202,97.790,2.210,86.58,224,0.900,bicubic
vit_base_patch8_224.augreg2_in21k_ft_in1k,86.218,13.782,97.832,2.168,86.58,224,0.900,bicubic
volo_d1_384.sail_in1k,85.244,14.756,97.214,2.786,26.78,384,1.000,bicubic
"""
TIMM_A = """\
model,top1,top1_err,top5,top5_err,param_count,img_size,crop_pct,interpolation,top1_diff,top5_diff,rank_diff
eva_giant_patch14_560.m30m_ft_in22k_in1k,87.573,12.427,96.893,3.107,"1,014.45",560,1.000,bicubic,-11.257,-3.007,+1
vit_large_patch16_384.augreg_in21k_ft_in1k,71.227,28.773,89.773,10.227,304.72,384,1.000,bicubic,-26.993,-9.947,+1
vit_base_patch16_384.augreg_in21k_ft_in1k,63.693,36.307,86.693,13.307,86.86,384,1.000,bicubic,-34.147,-12.977,+1
vit_large_patch16_224.augreg_in21k_ft_in1k,55.560,44.440,80.080,19.920,304.33,224,0.900,bicubic,-42.070,-19.510,-30
vit_base_patch8_224.augreg_in21k_ft_in1k,58.973,41.027,82.733,17.267,86.58,224,0.900,bicubic,-38.597,-16.857,0
"""
# Rows of benchmark/benchmark.csv of LAION-AI/CLIP_benchmark.
CLIP = """\
acc1,acc5,mean_per_class_recall,dataset,model,pretrained,task,mean_average_precision,image_retrieval_recall@5,text_retrieval_recall@5,model_fullname
0.44574468085106383,0.7585106382978724,0.449468085106383,vtab/dtd,ViT-B-16,openai,zeroshot_classification,,,,ViT-B-16 openai
0.551063829787234,0.8356382978723405,0.5499999999999999,vtab/dtd,ViT-L-14,openai,zeroshot_classification,,,,ViT-L-14 openai
0.5132978723404256,0.7787234042553192,0.5095744680851063,vtab/dtd,ViT-B-16,laion400m_e32,zeroshot_classification,,,,ViT-B-16 laion400m_e32
,,,flickr30k,ViT-B-32-quickgelu,laion400m_e32,zeroshot_retrieval,,0.8546000123023987,0.9409999847412109,ViT-B-32-quickgelu laion400m_e32
0.63334,0.88778,0.63284,imagenet1k,ViT-B-32,openai,zeroshot_classification,,,,ViT-B-32 openai
"""


def write(folder: Path, name: str, text: str) -> Path:
    path = folder / name
    path.write_text(text, encoding="utf-8")
    return path


# Tables


def test_files_of_timm(tmp_path: Path) -> None:
    found = read_measurements(write(tmp_path, "results-imagenet.csv", TIMM))
    assert len(found) == 8
    assert found[0] == Measurement(
        encoder="timm:eva_giant_patch14_560.m30m_ft_in22k_in1k", data="imagenet", metric="top1",
        value=pytest.approx(0.89786), error=None, parameters=pytest.approx(1014.45e6), size=560,
        file=str(tmp_path / "results-imagenet.csv"),
    )  # fmt: skip
    other = read_measurements(write(tmp_path, "results-imagenet-a.csv", TIMM_A), ["top1", "top5"])
    assert [(one.data, one.metric) for one in other[:2]] == [("imagenet-a", "top1"), ("imagenet-a", "top5")]
    assert other[3].value == pytest.approx(0.89773)
    for name, data in (
        ("results-sketch.csv", "imagenet-sketch"),
        ("results-imagenet-real.csv", "imagenet-real"),
        ("results-imagenetv2-matched-frequency.csv", "imagenetv2-matched-frequency"),
        ("results-imagenet-r-clean.csv", "imagenet-r-clean"),
    ):
        assert read_measurements(write(tmp_path, name, TIMM))[0].data == data


def test_files_of_clip_benchmark(tmp_path: Path) -> None:
    path = write(tmp_path, "benchmark.csv", CLIP)
    found = read_measurements(path)
    assert [(one.encoder, one.data, one.metric) for one in found] == [
        ("open_clip:ViT-B-16/openai", "vtab/dtd", "acc1"),
        ("open_clip:ViT-L-14/openai", "vtab/dtd", "acc1"),
        ("open_clip:ViT-B-16/laion400m_e32", "vtab/dtd", "acc1"),
        ("open_clip:ViT-B-32/openai", "imagenet1k", "acc1"),
    ]
    assert found[1].value == 0.551063829787234
    (retrieved,) = read_measurements(path, ["image_retrieval_recall@5"])
    assert (retrieved.data, retrieved.value) == ("flickr30k", 0.8546000123023987)


def test_languages_are_data_sets_of_their_own(tmp_path: Path) -> None:
    text = "dataset,model,pretrained,language,acc1\nimagenet1k,m,p,en,0.5\nimagenet1k,m,p,it,0.4\n"
    found = read_measurements(write(tmp_path, "b.csv", text))
    assert [one.data for one in found] == ["imagenet1k", "imagenet1k it"]


def test_plain_tables(tmp_path: Path) -> None:
    text = "\ufeffencoder, data set,metric,value,error\nmine,pets,accuracy,0.75,0.01\n\nyours,pets,accuracy,nan,\n"
    (found,) = read_measurements(write(tmp_path, "t.csv", text))
    assert (found.encoder, found.data, found.metric, found.value, found.error) == (
        "mine", "pets", "accuracy", 0.75, 0.01,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a,b\n1,2\n", "expected the columns of timm (model, top1, ...), of CLIP_benchmark (dataset, model"),
        ("encoder,data,metric,value\n", "expected a header and at least one row, got 1 lines"),
        ("encoder,data,metric,value\nx,y,z\n", "line 2: expected 4 cells as the header has, got 3"),
        ("encoder,data,metric,value\nx,y,z,good\n", "line 2: value: expected a finite number, got 'good'"),
        ("encoder,data,metric,value\n,y,z,1\n", "line 2: encoder: expected a name, got an empty cell"),
        ("encoder,data,metric,value,eror\nx,y,z,1,2\n", "expected the columns encoder, data, metric, value and error, got 'eror'"),
        ("encoder,data,metric,value,error\nx,y,z,1,-2\n", "line 2: error: expected a number of at least 0, got -2"),
        ("encoder,data,metric,value,value\nx,y,z,1,2\n", "expected every column once, got 'value' twice"),
        ("encoder,data,metric,value\nx,y,z,\n", "expected a value, got none in 1 rows"),
        ('encoder,data,metric,value\n"x"y,y,z,1\n', "expected a CSV file, got one that is not"),
        # decimal commas: 0,853 is neither 853 nor 0.853 for certain
        ('encoder,data,metric,value\nx,y,z,"0,853"\n', "line 2: value: expected a finite number, got '0,853'"),
        ('encoder,data,metric,value\nx,y,z,"85,3"\n', "line 2: value: expected a finite number, got '85,3'"),
        ("model,top1\nx,high\n", "line 2: top1: expected a finite number, got 'high'"),
    ],
)  # fmt: skip
def test_tables_are_refused(tmp_path: Path, text: str, message: str) -> None:
    path = write(tmp_path, "t.csv", text)
    with refused(str(path), message):
        read_measurements(path)


def test_missing_files_and_metrics_are_refused(tmp_path: Path) -> None:
    with refused("none.csv: expected a readable CSV file"):
        read_measurements(tmp_path / "none.csv")
    path = write(tmp_path, "results-imagenet.csv", TIMM)
    with refused("expected values of top3, got none in 8 rows"):
        read_measurements(path, ["top3"])


# Names


def rows_of(*encoders: str | Known, table: list[str]) -> list[str | None]:
    known = [one if isinstance(one, Known) else Known(one) for one in encoders]
    return [one.row for one in match_names(known, table)]


def test_names_match_with_their_tags() -> None:
    table = [line.split(",")[0] for line in TIMM.splitlines()[1:]]
    augreg = "vit_base_patch8_224.augreg_in21k_ft_in1k"
    assert rows_of(
        f"timm:{augreg}", f"hf:timm/{augreg}", f"timm:hf-hub:timm/{augreg}",
        Known("timm:vit_base_patch8_224", tag="augreg_in21k_ft_in1k"),
        table=[f"timm:{one}" for one in table],
    ) == [f"timm:{augreg}"] * 4  # fmt: skip
    assert rows_of(f"timm:{augreg}", table=table) == rows_of(augreg, table=table) == [augreg]
    assert rows_of("timm:vit_base_patch8_224.dino", table=table) == [None]
    assert rows_of(f"torchvision:{augreg}", table=[f"timm:{augreg}"]) == [None]
    assert rows_of("timm:resnet18", "torchvision:resnet18", table=["resnet18"]) == [None, None]
    assert rows_of("timm:resnet18", "torchvision:resnet18", table=["timm:resnet18"]) == [
        "timm:resnet18",
        None,
    ]
    assert rows_of("open_clip:ViT-B-16/openai", "open_clip:ViT-B-16", table=["open_clip:ViT-B-16/openai"]) == [
        "open_clip:ViT-B-16/openai", None,
    ]  # fmt: skip


def test_a_name_without_tag_matches_only_one() -> None:
    table = [line.split(",")[0] for line in TIMM.splitlines()[1:]]
    (one,) = match_names([Known("timm:volo_d1_384")], table)
    assert (one.row, one.how) == ("volo_d1_384.sail_in1k", "without tag")
    (two,) = match_names([Known("timm:vit_base_patch8_224")], table)
    assert two.row is None
    assert two.reason == (
        "without a tag it may be any of vit_base_patch8_224.augreg_in21k_ft_in1k, "
        "vit_base_patch8_224.augreg2_in21k_ft_in1k"
    )
    # A row without a tag may be any of several encoders, and is that of a single one.
    assert rows_of("timm:resnet50.a1_in1k", table=["resnet50", "resnet18"]) == ["resnet50"]
    pair = match_names([Known("timm:resnet50.a1_in1k"), Known("timm:resnet50.a2_in1k")], ["resnet50"])
    assert [one.row for one in pair] == [None, None]
    assert "has no tag and may be another encoder" in pair[0].reason


def test_other_weights_match_nothing_and_reasons_help() -> None:
    (random,) = match_names([Known("timm:resnet50", foreign="its weights are random")], ["resnet50"])
    assert (random.row, random.reason) == (None, "its weights are random")
    (near,) = match_names([Known("timm:resnet5.a1_in1k")], ["resnet50.a1_in1k"])
    assert near.reason == "not in the table, did you mean resnet50.a1_in1k?"
    (tags,) = match_names([Known("timm:r.x")], [f"r.{number}" for number in range(9)])
    assert tags.reason == "the table has r.0, r.1, r.2, r.3, r.4 and 4 more"


# Coefficients


def test_ranks_of_many_are_scipys() -> None:
    x = np.random.default_rng(0).integers(0, 6, (3, 7, 40)).astype(float)
    assert np.array_equal(average_ranks(x), stats.rankdata(x, axis=-1))


@pytest.mark.parametrize("name", ["spearman", "pearson", "kendall"])
def test_parts_of_resamples_give_what_the_whole_gives(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    from synbench_fast.studies.validity import correlation

    monkeypatch.setattr(correlation, "_CHUNK", 5000)
    random = np.random.default_rng(1)
    x, y, z = random.standard_normal((3, 17)), random.standard_normal(17), random.standard_normal(17)
    x[2] = np.round(x[2])
    bootstrap = Bootstrap(17, resamples=300)
    plain, controlled = bootstrap.many(x, y, name, z)
    whole = [bootstrap.estimate(bootstrap.prepare(one), bootstrap.prepare(y), name) for one in x]
    for one, other in zip(plain, whole, strict=True):
        assert dataclasses.astuple(one) == pytest.approx(dataclasses.astuple(other), abs=1e-12)
    assert bootstrap.many(x, y, name)[1] == []
    for row, one in zip(x, controlled, strict=True):
        pairs = [bootstrap.estimate(*(bootstrap.prepare(a) for a in two), name).value for two in ((row, y), (row, z), (y, z))]  # fmt: skip
        assert one.value == pytest.approx(float(partial(*(np.array(a) for a in pairs))))
        assert one.ci95_low < one.value < one.ci95_high


def residuals(x: np.ndarray, z: np.ndarray) -> np.ndarray:
    design = np.stack([np.ones_like(z), z], axis=1)
    return np.asarray(x - design @ np.linalg.lstsq(design, x, rcond=None)[0])


def test_partial_coefficients_are_those_of_residuals() -> None:
    random = np.random.default_rng(2)
    z = random.standard_normal(30)
    x, y = z + random.standard_normal(30), z + random.standard_normal(30)
    found = Bootstrap(30, resamples=100).many(x[None], y, "pearson", z)[1][0].value
    assert found == pytest.approx(stats.pearsonr(residuals(x, z), residuals(y, z))[0])
    ranks = [stats.rankdata(one) for one in (x, y, z)]
    found = Bootstrap(30, resamples=100).many(x[None], y, "spearman", z)[1][0].value
    assert found == pytest.approx(
        stats.pearsonr(residuals(ranks[0], ranks[2]), residuals(ranks[1], ranks[2]))[0]
    )
    assert math.isnan(Bootstrap(30, resamples=100).many(z[None], y, "spearman", z)[1][0].value)


def test_intervals_of_partial_coefficients_cover() -> None:
    """x and y depend on z alone, so that Pearson's partial coefficient is 0."""
    random, held, repeats = np.random.default_rng(3), 0, 200
    for seed in range(repeats):
        z = random.standard_normal(25)
        x, y = z + random.standard_normal(25), z + random.standard_normal(25)
        ((plain,), (one,)) = Bootstrap(25, resamples=400, seed=seed).many(x[None], y, "pearson", z)
        held += one.ci95_low <= 0 <= one.ci95_high
        assert plain.value > one.value - 0.5
    assert held / repeats >= 0.88, held


# The comparison

NAMES = [line.split(",")[0] for line in TIMM.splitlines()[1:]]


def stored(number: int, name: str, **changes: Any) -> Result:
    """A result of `timm:name` whose scores are made up."""
    made = example(f"timm:{name}")
    value = [0.3, 0.9, 0.5, 0.7, 0.2, 0.6, 0.1, 0.4][number]
    structure = StructureScore(
        score=1 - value, stderr=0.01, ci95_low=0.0, ci95_high=1.0, images=10, seconds=1.0,
        families=[
            FamilyScore(
                family="shapes", level=1.0, classes=20, score=value**2, stderr=0.01, accuracy=0.5,
                pair_accuracy=0.5, worst_pair=0.5,
            )
        ],
    )  # fmt: skip
    return dataclasses.replace(
        made,
        encoder=dataclasses.replace(made.encoder, parameters=1000 + number % 3, feature_dim=64 + number),
        scores=[dataclasses.replace(one, score=value + one.eps / 10) for one in made.scores],
        structure=structure,
        **changes,
    )


RESULTS = [stored(number, name) for number, name in enumerate(NAMES)]


def test_what_is_joined_and_what_is_not(tmp_path: Path) -> None:
    paths = [write(tmp_path, "results-imagenet.csv", TIMM), write(tmp_path, "results-imagenet-a.csv", TIMM_A)]
    extra = example("timm:unheard_of.in1k")
    random = example(
        "timm:resnet18", encoder=dataclasses.replace(extra.encoder, spec="timm:resnet18", random_init=True)
    )
    report = validate_published([*RESULTS[1:], extra, random], paths, resamples=200)
    assert [one.spec for one in report.encoders] == [f"timm:{name}" for name in NAMES[1:]]
    assert [(one.data, one.metric) for one in report.targets] == [
        ("imagenet", "top1"),
        ("imagenet-a", "top1"),
    ]

    percent = {line.split(",")[0]: float(line.split(",")[1]) for line in TIMM.splitlines()[1:]}
    structure = [1 - one for one in (0.9, 0.5, 0.7, 0.2, 0.6, 0.1, 0.4)]
    expected = stats.spearmanr(structure, [percent[name] for name in NAMES[1:]])[0]
    one = report.correlation("structure", "imagenet")
    assert (one.encoders, one.value) == (7, pytest.approx(expected))
    assert -1 <= one.ci95_low <= one.value <= one.ci95_high <= 1
    assert report.correlation("structure shapes", "imagenet").value == pytest.approx(-expected)
    assert report.correlation("score published eps=0 a=0.6", "imagenet").value == pytest.approx(-expected)

    in_a = [name for name in NAMES[1:] if name in TIMM_A]
    other = report.correlation("structure", "imagenet-a")
    scores = dict(zip(NAMES[1:], structure, strict=True))
    percent_a = {line.split(",")[0]: float(line.split(",")[1]) for line in TIMM_A.splitlines()[1:]}
    assert other.encoders == len(in_a) == 4
    assert other.value == pytest.approx(
        stats.spearmanr([scores[name] for name in in_a], [percent_a[name] for name in in_a])[0]
    )

    parameters = [1000 + NAMES.index(name) % 3 for name in NAMES[1:]]
    ranks = [stats.rankdata(a) for a in (structure, [percent[name] for name in NAMES[1:]], parameters)]
    assert one.partial == pytest.approx(
        stats.pearsonr(residuals(ranks[0], ranks[2]), residuals(ranks[1], ranks[2]))[0]
    )
    assert math.isnan(report.correlation("parameters", "imagenet").partial)

    left = {(entry.name, entry.reason) for entry in report.unmatched_encoders}
    assert ("timm:resnet18", "its weights are random") in left
    assert {entry.name for entry in report.unmatched_rows} == {f"timm:{NAMES[0]}"}
    text = io.StringIO()
    report.print_report(text)
    assert "not compared: timm:unheard_of.in1k: not in the table (" in text.getvalue()
    assert f"rows of {paths[1]} without an encoder: timm:{NAMES[0]}" in text.getvalue()
    assert sb.studies.PublishedReport.from_json(report.to_json()).to_json() == report.to_json()
    assert len(report.rows()) == len(report.correlations)

    paired = report.difference("structure", "features", "imagenet")
    assert paired.value == pytest.approx(one.value - report.correlation("features", "imagenet").value)
    with refused(
        "predictor, data, metric: expected one coefficient", "got 0 for 'structur'", "did you mean structure?"
    ):
        report.correlation("structur", "imagenet")


def test_parameters_of_the_table_where_the_result_has_none(tmp_path: Path) -> None:
    path = write(tmp_path, "results-imagenet.csv", TIMM)
    hidden = [
        dataclasses.replace(one, encoder=dataclasses.replace(one.encoder, parameters=None)) for one in RESULTS
    ]
    report = validate_published(hidden, path, resamples=100)
    assert report.encoders[0].parameters == pytest.approx(1014.45e6)
    assert math.isfinite(report.correlation("structure", "imagenet").partial)
    plain = "encoder,data,metric,value\n" + "".join(
        f"{name},d,m,{n * n % 7}\n" for n, name in enumerate(NAMES)
    )
    report = validate_published(hidden, write(tmp_path, "t.csv", plain), resamples=100)
    assert math.isnan(report.correlation("structure", "d").partial)
    assert any("unknown number" in one for one in report.warnings)


def test_the_row_of_the_size_that_the_encoder_reads(tmp_path: Path) -> None:
    lines = "".join(
        f"{name},{value},{size}\n" for name in NAMES[1:] for value, size in ((len(name), 32), (99, 64))
    )
    path = write(tmp_path, "results-imagenet.csv", f"model,top1,img_size\n{lines}")
    report = validate_published(RESULTS[1:], path, resamples=100)  # whose inputs are 32 x 32
    assert report.targets[0].values == pytest.approx([len(name) / 100 for name in NAMES[1:]])
    path.write_text(f"model,top1,img_size\n{lines}{NAMES[1]},12,32\n", encoding="utf-8")
    report = validate_published(RESULTS[1:], path, resamples=100)
    assert report.targets[0].names[0] is None
    assert any(one.startswith(f"timm:{NAMES[1]}: left out for imagenet top1") for one in report.warnings)


def test_settings_that_differ(tmp_path: Path) -> None:
    path = write(tmp_path, "results-imagenet.csv", TIMM)
    with refused("results: expected one estimator, got consistent and paper"):
        validate_published([*RESULTS[1:], stored(0, NAMES[0], estimator="paper")], path)
    report = validate_published([*RESULTS[1:], stored(0, NAMES[0], seed=1)], path, resamples=100)
    assert "the results have 2 seeds" in report.warnings
    with refused("results: expected one of every encoder, got several of timm:"):
        validate_published([*RESULTS, RESULTS[0]], path)


def test_too_little_is_refused_before_anything_is_scored(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(run, "score_suite", lambda *given, **more: pytest.fail("scored"))
    path = write(tmp_path, "results-imagenet.csv", TIMM)
    with refused(
        "encoders: expected at least 3 that a table of targets has, got 2 (builtin:conv: not in the table)"
    ):
        validate_published([*RESULTS[:2], "builtin:conv"], path)
    with refused("targets: expected at least one CSV file"):
        validate_published(RESULTS)
    with refused("targets: expected every path once"):
        validate_published(RESULTS, [path, path])
    twice = write(tmp_path, "imagenet.csv", TIMM)
    with refused("targets: expected every data set and metric in one file, got imagenet top1 in"):
        validate_published(RESULTS, [path, twice])
    with refused("targets: expected at least 3 encoders in common with a table, got fewer"):
        validate_published([example(f"timm:{name}") for name in ("a.x", "b.x", "c.x")], path)
    for name, value, message in (
        ("coefficient", "spear", "coefficient: expected one of pearson, spearman, kendall, got 'spear', did you mean spearman?"),
        ("metrics", (), "metrics: expected names of metrics such as top1, got ()"),
        ("resamples", 10, "resamples: expected at least 100, got 10"),
        ("data", "digits", "options: expected arguments of study validate, got 'data'"),
    ):  # fmt: skip
        with refused(message):
            validate_published(RESULTS, path, **{name: value})


def test_hundreds_of_encoders_fit_into_memory(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    values = random.standard_normal(600)
    results, lines = [], ["encoder,data,metric,value"]
    for number, value in enumerate(values):
        made = example(f"timm:m{number}")
        results.append(
            dataclasses.replace(made, encoder=dataclasses.replace(made.encoder, feature_dim=number))
        )
        lines.append(f"m{number},d,m,{number + 300 * value}")
    path = write(tmp_path, "t.csv", "\n".join(lines) + "\n")
    one = validate_published(results, path, resamples=200).correlation("features", "d")
    expected = stats.spearmanr(np.arange(600), np.arange(600) + 300 * values)[0]
    assert (one.encoders, one.value) == (600, pytest.approx(expected))
    assert one.ci95_high - one.ci95_low < 0.2


# The command


ENCODERS = [f"builtin:linear?dim={size}" for size in (4, 16, 64)]


def test_command_scores_and_joins(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = "".join(f"{one},pets,accuracy,{0.1 * place}\n" for place, one in enumerate([*ENCODERS, "other"]))
    table = write(tmp_path, "t.csv", f"encoder,data set,metric,value\n{rows}")
    words = [
        "study", "validate", *ENCODERS, "builtin:conv", "--targets", str(table), "--input-shape", "3,8,8", "--scales",
        "4", "--samples", "200", "--threads", "1", "--out", str(tmp_path / "out"),
    ]  # fmt: skip
    assert cli.main(words) == 0
    printed = capsys.readouterr()
    assert "not compared: builtin:conv: not in the table" in printed.out
    assert f"rows of {table} without an encoder: other" in printed.out
    report = sb.studies.PublishedReport.load(tmp_path / "out" / "published.json")
    assert [one.spec for one in report.encoders] == ENCODERS
    assert report.correlation("features", "pets").value == pytest.approx(1)
    direct = sb.score(
        ENCODERS[1], input_shape=(3, 8, 8), scales=4, samples=200, preset="quick", structure=True,
        thresholds=(0.6, 0.7, 0.8, 0.9),
    )  # fmt: skip
    values = {one.name: one.values[1] for one in report.predictors}
    assert values["score published eps=0 a=0.6"] == direct.score(0.0, 0.6).score
    assert direct.structure is not None and values["structure"] == direct.structure.score
    text = (tmp_path / "out" / "published.csv").read_text(encoding="utf-8")
    rows_written = list(csv.DictReader(io.StringIO(text)))
    assert {row["data"] for row in rows_written} == {"pets"}

    # The stored results of the same encoders, and the line that repeats the run.
    folder = tmp_path / "results"
    folder.mkdir()
    for one in ENCODERS:
        result = sb.score(one, input_shape=(3, 8, 8), scales=4, samples=200, preset="quick", structure=True)
        result.save(folder / result.file_name())
    again = [
        "study",
        "validate",
        "--stored",
        str(tmp_path / "results"),
        "--targets",
        str(table),
        "--format",
        "json",
    ]
    assert cli.main(again) == 0
    document = json.loads(capsys.readouterr().out)
    assert [one["value"] for one in document["correlations"] if one["predictor"] == "features"] == [
        pytest.approx(1)
    ]
    assert f"--targets {table}" in document["command"] and "--stored" in document["command"]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("a:b --targets t.csv --data digits", "--data: expected it without --targets, got both"),
        ("--demo --targets t.csv", "--demo: expected it without --targets, got both"),
        ("a:b --targets t.csv --wrong-classes 3", "--wrong-classes: expected it without --targets, got both"),
        ("--targets t.csv", "ENCODER: expected encoders or --stored DIR, got none"),
        ("a:b --stored d", "--stored: expected --targets FILE.csv with it, got none"),
        ("a:b --metrics top1", "--metrics: expected --targets FILE.csv with it, got none"),
        ("a:b --label-free", "--label-free: expected --targets FILE.csv with it, got none"),
    ],
)
def test_command_mistakes(words: str, message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["study", "validate", *words.split()]) == 2
    assert capsys.readouterr().err == f"error: {message}\n"


def test_command_names_the_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = write(tmp_path, "t.csv", "a,b\n1,2\n")
    assert cli.main(["study", "validate", "builtin:conv", "--targets", str(path)]) == 1
    assert capsys.readouterr().err.startswith(f"error: {path}: expected the columns of timm")
