"""Published cells of an inheritance benchmark: means by hand, coefficients by scipy, mistakes, the command."""

from __future__ import annotations

import io
import json
from pathlib import Path

import pytest
from checks import refused
from inheritance_cases import pretrained, run_toy
from scipy import stats

from synbench_fast.cli import main as cli
from synbench_fast.studies.inheritance import PublishedInheritance, inherit_published

# Mean accuracy on the other sets before and after fine-tuning, by pre-training data, read off the bars of a figure of
# ImageNet-RIB (Hwang et al., arXiv 2410.21582).
BARS = ((42.7, 44.0), (42.9, 45.4), (50.1, 50.0), (53.3, 52.8), (57.8, 52.3), (60.6, 22.6), (61.5, 23.4))
HEADER = "encoder,fine_tuned_on,evaluated_on,before,after"


def write(folder: Path, name: str, *lines: str) -> Path:
    path = folder / name
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def bars(folder: Path) -> Path:
    return write(folder, "bars.csv", HEADER, *(f"e{n},all,others,{a},{b}" for n, (a, b) in enumerate(BARS)))


def test_the_published_headline(tmp_path: Path) -> None:
    """More robust before, less inherited: Spearman -0.96 over the seven bars."""
    sizes = write(tmp_path, "c.csv", "encoder,images", *(f"e{n},{10**n}" for n in range(6)), "e9,1")
    report = inherit_published(bars(tmp_path), sizes)
    one = report.correlation("before")
    change = [after - before for before, after in BARS]
    assert one.value == pytest.approx(stats.spearmanr([before for before, _ in BARS], change)[0])
    assert one.value == pytest.approx(-0.964, abs=5e-4)
    assert (one.encoders, one.target) == (7, "change")
    assert -1 <= one.ci95_low <= one.value <= one.ci95_high < 0
    other = report.correlation("images")
    assert (other.encoders, other.value) == (6, pytest.approx(stats.spearmanr(range(6), change[:6])[0]))
    assert report.warnings == [
        f"e6: no row in {sizes}",
        f"e9: a row in {sizes}, none in {tmp_path / 'bars.csv'}",
    ]
    assert PublishedInheritance.from_json(report.to_json()).to_json() == report.to_json()


def test_means_are_those_of_the_definitions(tmp_path: Path) -> None:
    """RI_i is over j != i, mRI over i; repeats are averaged, own and pre-training rows left out."""
    lines = [
        "x,a,a,10,90", "x,a,b,20,30", "x,a,c,30,34", "x,b,a,10,4", "x,b,c,30,32", "x,b,pre-training,70,20",
        "x,a,b,20,34",
    ]  # fmt: skip
    (one,) = inherit_published(write(tmp_path, "t.csv", HEADER, *lines)).summaries
    of_a, of_b = ((32 - 20) + (34 - 30)) / 2, ((4 - 10) + (32 - 30)) / 2
    assert one.change == pytest.approx((of_a + of_b) / 2)
    assert one.before == pytest.approx(((20 + 30) / 2 + (10 + 30) / 2) / 2)
    assert one.after == pytest.approx(one.before + one.change)


def test_methods_are_apart_and_incomplete_encoders_are_left_out(tmp_path: Path) -> None:
    lines = [
        f"e{n},a,{to},{n},{n * (7 - n) % 5},{method}"
        for n in range(4)
        for to in "bc"
        for method in ("ft", "lp")
    ]
    lines += ["e9,a,b,1,2,ft", "e9,a,c,1,,ft"]  # the last has no numbers, as of a fine-tuning that failed
    path = write(tmp_path, "t.csv", f"{HEADER},method", *lines)
    report = inherit_published(path, coefficient="kendall")
    assert [(one.encoder, one.method) for one in report.summaries] == [
        (f"e{n}", method) for n in range(4) for method in ("ft", "lp")
    ]
    assert report.warnings == [
        "e9 ft: left out, 1 of 2 pairs of data sets have no accuracies, such as a to c"
    ]
    change = [n * (7 - n) % 5 - n for n in range(4)]
    assert report.correlation("before", method="ft").value == pytest.approx(
        stats.kendalltau(range(4), change)[0]
    )


def test_the_benchmarks_own_csv_is_such_a_file(tmp_path: Path) -> None:
    report = run_toy(pretrained(), methods=("ft", "lp"), seeds=2)
    report.save_all(tmp_path, "inherit")
    found = inherit_published(tmp_path / "inherit.csv").summaries
    assert [one.method for one in found] == ["ft", "lp"]
    for one, expected in zip(found, report.summaries, strict=True):
        assert one.change == pytest.approx(expected.mri.value)
        assert one.before == pytest.approx(expected.ood_before)


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        (("encoder,fine_tuned_on,evaluated_on,befor,after", "x,a,b,1,2"), "got none called before, did you mean befor?"),
        ((HEADER, "x,a,b,1,good"), "line 2: after: expected a finite number, got 'good'"),
        ((HEADER, "x,a,a,1,2"), "expected accuracies on data sets other than that fine-tuned on, got none"),
        ((HEADER, "x,a,b,1,2", "y,a,c,1,2"), "expected an encoder with all 2 pairs of data sets, got none"),
    ],
)  # fmt: skip
def test_cells_are_refused(tmp_path: Path, lines: tuple[str, ...], message: str) -> None:
    path = write(tmp_path, "t.csv", *lines)
    with refused(str(path), message):
        inherit_published(path)


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        (("model,images", "e0,1"), "expected the column encoder and columns of numbers, got model, images"),
        (("encoder,images", "e0,1", "e0,2"), "line 3: expected every encoder once, got 'e0' twice"),
        (("encoder,images", "e0,many"), "line 2: images: expected a finite number, got 'many'"),
        (("encoder,change", "e0,1"), "expected covariates, got a column change, which the cells have"),
    ],
)
def test_covariates_are_refused(tmp_path: Path, lines: tuple[str, ...], message: str) -> None:
    path = write(tmp_path, "c.csv", *lines)
    with refused(str(path), message):
        inherit_published(bars(tmp_path), path)


def test_arguments_are_refused(tmp_path: Path) -> None:
    path = bars(tmp_path)
    with refused(
        "coefficient: expected one of pearson, spearman, kendall, got 'spear', did you mean spearman?"
    ):
        inherit_published(path, coefficient="spear")
    with refused("resamples: expected at least 100, got 5"):
        inherit_published(path, resamples=5)
    with refused("covariate: expected one of before, got 0 coefficients for 'befor'", "did you mean before?"):
        inherit_published(path).correlation("befor")


def test_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path, out = bars(tmp_path), tmp_path / "out"
    assert cli.main(["study", "inherit", "--cells", str(path), "--out", str(out)]) == 0
    printed = capsys.readouterr().out
    assert "before     change  -              7  -0.96 (" in printed
    document = json.loads((out / "inherit.json").read_text(encoding="utf-8"))
    assert document["schema"] == "synbench-fast/published-inheritance"
    text = io.StringIO()
    PublishedInheritance.load(out / "inherit.json").print_report(text)
    assert text.getvalue() == printed
    for words, message in (
        (["--cells", "x.csv", "--suite", "folders"], "--suite: expected it without --cells, got both"),
        (["a:b", "--cells", "x.csv"], "ENCODER: expected it without --cells, got both"),
        (["--cells", "x.csv", "--device", "cpu"], "--device: expected it without --cells, got both"),
        (["--covariates", "x.csv"], "--covariates: expected --cells FILE.csv with it, got none"),
    ):
        assert cli.main(["study", "inherit", *words]) == 2
        assert capsys.readouterr().err == f"error: {message}\n"
    assert cli.main(["study", "inherit", "--cells", str(tmp_path / "none.csv")]) == 1
    assert "none.csv: expected a readable CSV file" in capsys.readouterr().err
