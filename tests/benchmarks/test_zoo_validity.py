"""The zoo's question whether scores go with accuracies: statistics and tables on made rows; no network."""

from __future__ import annotations

import json
import math
import re
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.stats import spearmanr

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))

pytest.importorskip("PIL")
pytest.importorskip("sklearn")

import zoo
from zoo import __main__ as command
from zoo import scores, trivial, validity

import synbench_fast as sb

ROOT = Path(__file__).parents[2]
STORED = ROOT / "benchmarks" / "results" / "validity-64.jsonl"
PAGE = (ROOT / "docs" / "validity.md").read_text(encoding="utf-8")
RNG = np.random.default_rng(3)


def row(name, score, accuracies, *, kind="network", half="held-out", group="", error=0.01, **others):
    """`accuracies` by data set; sets whose names begin with h are held out."""
    data = {
        one: {"half": "held-out" if one[0] == "h" else "development", "accuracy": value, "error": 0.01,
              "knn": value, "logme": -value, "rank_me": 1.0, "alpha_req": 1.5}
        for one, value in accuracies.items()
    }  # fmt: skip
    return {
        "encoder": name, "kind": kind, "half": half, "trained_for": "ImageNet", "F": 8, "parameters": 10 * len(name),
        "group": group or name, "data": data, "structure": [score, error],
        "families": {one: [score, error] for one in ("texture", "shapes", "instances")}, **others,
    }  # fmt: skip


def zoo_rows():
    """Six networks: in the order of accuracy on the held-out data, in the reverse order on the other."""
    found = []
    for number in range(6):
        name, half = "n" * (number + 1), ("held-out", "development")[number % 2]
        score = 0.1 * (number + 1)
        found += [
            row(name, score, {"h": 0.1 * number, "d": 0.8 - 0.1 * number}, half=half),
            row(f"{name} (twin)", 0.31, {"h": 0.3, "d": 0.3}, half=half, kind="twin", group=name),
        ]
    return [*found, row("flat", 0.02, {"h": 0.1, "d": 0.1}, half="both", kind="trivial")]


@pytest.mark.parametrize("ties", [False, True])
def test_spearman_of_weighted_samples_is_scipys_of_repeated_ones(ties):
    x, y = RNG.standard_normal((2, 20))
    if ties:
        x, y = np.round(x), np.round(y * 2)
    counts = RNG.integers(0, 4, size=(5, 20))
    expected = [spearmanr(np.repeat(x, one), np.repeat(y, one))[0] for one in counts]
    np.testing.assert_allclose(validity.spearman(x, y, counts.astype(float)), expected, atol=1e-12)
    assert math.isnan(float(validity.spearman(np.ones(20), y, np.ones(20))))


def test_coefficients_of_a_known_zoo():
    rows = zoo_rows()
    for data, sign in (("held-out", 1.0), ("development", -1.0), ("d", -1.0)):
        cell = validity.Cell(rows, "all", data)
        assert [one["encoder"] for one in cell.rows] == ["n" * k for k in range(1, 7)]
        value, low, high, count = cell.estimate("structure score")
        assert (round(value, 12), count) == (sign, 6)
        assert (round(low, 12), round(high, 12)) == (sign, sign)  # every resample has the same order
        assert cell.estimate("LogME")[0] == pytest.approx(-1)
        assert cell.estimate("structure score", "LogME")[0] == pytest.approx(sign + 1)
        assert math.isnan(cell.estimate("RankMe")[0]) and cell.text("RankMe") == "-"
    assert [len(validity.Cell(rows, half, "all").rows) for half in validity.HALVES] == [3, 3, 6]


def test_a_predictor_that_some_lack_is_compared_on_the_others():
    rows = zoo_rows()
    values = [0.4, 0.1, None, 0.2, 0.3, 0.5]
    for one, value in zip([one for one in rows if one["kind"] == "network"], values, strict=True):
        one["published"] = {"0": [value, 0.1], "0.2": [value, 0.1]}
    del rows[0]["published"]
    cell = validity.Cell(rows, "all", "held-out")
    left = [1, 3, 4, 5]
    value, *_, count = cell.estimate("published score, eps 0")
    expected = spearmanr([values[k] for k in left], left)[0]
    assert (value, count) == (pytest.approx(expected), 4)
    assert cell.estimate("structure score", "published score, eps 0")[0] == pytest.approx(1 - expected)
    assert cell.text("published score, eps 0").endswith(", 4 networks")
    rows[2]["published"]["0"][1] = 0.01
    ((title, certain),) = validity.certain_cells(rows).items()
    assert (title, [one["encoder"] for one in certain.rows]) == (
        "published score known to 0.1 (1), all data",
        ["nn"],
    )


def test_siblings_are_drawn_together():
    rows = [row(str(k), RNG.random(), {"h": RNG.random()}, group="ab"[k % 2]) for k in range(8)]
    weights = validity.Cell(rows, "held-out", "held-out").weights
    assert (weights[:, ::2] == weights[:, :1]).all() and (weights[:, 1::2] == weights[:, 1:2]).all()
    assert set(map(tuple, weights[:, :2])) == {(0, 2), (1, 1), (2, 0)}
    alone = [{**one, "group": one["encoder"]} for one in rows]
    narrow, wide = (np.subtract(*validity.Cell(one, "held-out", "held-out").estimate("structure score")[2:0:-1]) for one in (rows, alone))  # fmt: skip
    assert 0 <= narrow < wide  # two groups give two samples and their union


def test_tables_of_one_half_alone():
    rows = [row for row in zoo_rows() if row["half"] == "held-out"]
    text = validity.report(rows)
    assert "| development | structure score | - | - | - |" in text
    assert "| held-out | structure score | +1.00 (+1.00 to +1.00) | -1.00 (-1.00 to -1.00) |" in text


def test_twins_and_tables():
    rows = zoo_rows()
    found = validity.twins(rows)
    assert [round(z, 6) for *_, z in found] == [round((0.1 * k - 0.31) / math.hypot(0.01, 0.01), 6) for k in range(1, 7)]  # fmt: skip
    text = validity.twin_table(rows)
    assert "| all | 6 | 3 | 3 | n, nn, nnn | 6 | " in text
    assert "| nnn | ImageNet | held-out | 0.300 ± 0.010 | 0.30 | 0.30 | 0.30 | 0.310 | - | 20.0 | 60.0 | 40.0 | 30.0 |" in validity.encoder_table(rows)  # fmt: skip
    up, down = "+1.00 (+1.00 to +1.00)", "-1.00 (-1.00 to -1.00)"
    assert f"| all | structure score | {up} | {down} |" in validity.half_table(rows)
    cells = {data: validity.Cell(rows, "all", data) for data in validity.HALVES[:2]}
    assert f"| structure score | nothing | {up} | {down} |" in validity.coefficient_table(cells)
    assert "| LogME | +2.00 (+2.00 to +2.00) | +0.00 (+0.00 to +0.00) |" in validity.difference_table(cells)
    assert "Not measured" in validity.details(rows) and "| all encoders (6), all data |" in validity.report(rows)  # fmt: skip


def test_the_choice_is_the_mean_with_the_largest_coefficient():
    rows, noise = [], RNG.random((12, len(scores.TASKS), 6))
    for number in range(12):
        made = {}
        for (name, level), values in zip(scores.TASKS, noise[number], strict=True):
            right = values.copy()
            if f"{name}@{level:g}" in validity.CHOSEN:
                right[3] = number / 12
            made[f"{name}@{level:g}"] = {"raw": values.tolist(), "standardised": right.tolist()}
        sets = {name: number / 20 for name in validity.CHOSEN_ON} | {"d": -number}
        rows.append(row(f"n{number}", 0.1, sets, half="development", choice=made))
    choice = validity.Choice(rows, validity.CHOSEN_ON)
    best = choice.subsets()
    assert len(best) == 3 * sum(math.comb(7, k) for k in range(1, 6))
    assert best[0][0] == pytest.approx(1) and set(best[0][1]) <= set(validity.CHOSEN) and best[0][2] == 0.3
    assert choice.scores("symmetry@0", 0.3)[0] == pytest.approx((noise[0, -1, 3] - 1 / 14) / (13 / 14))
    single = validity.single_table(choice).splitlines()
    assert re.match(r"\| instances@1 \|( [+-]\d\.\d\d \|){3} \+1\.00 \|", next(one for one in single if "instances@1 " in one))  # fmt: skip
    chosen = next(one for one in validity.mean_table(choice, validity.Choice(rows, ["d"])).splitlines() if "texture@0.33, shapes@0.33, instances@1 | 0.3" in one)  # fmt: skip
    assert "| +1.000 | -1.000 |" in chosen


def test_scores_are_measured_once_and_joined(tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(trivial.TRIVIAL, "broken", lambda x: x.mean((2, 3)) / 0)
    monkeypatch.setattr(scores, "TASKS", (("texture", 0.33),))
    entries = [zoo.Entry(name, "trivial", None, tmp_path, "both") for name in ("blocks-4x4", "broken")]
    for one in ("structure", "published", "choice"):
        scores.measure(entries, tmp_path, one, 16)
        scores.measure(entries[:1], tmp_path, one, 16)
        assert [one["encoder"] for one in scores.rows(tmp_path, one, 16)] == ["blocks-4x4"]
    assert "broken: " in capsys.readouterr().out
    images = torch.rand(40, 3, 16, 16)
    labels = torch.arange(40) % 2
    images[labels == 1, 0] += 2.0
    zoo.measure.measure(entries[:1], [zoo.Data("red", images, labels, ("a", "b"), "development")], tmp_path, 16)  # fmt: skip
    (joined,) = validity.updated([], tmp_path, 16)
    assert joined["data"]["red"]["accuracy"] == 1.0 and joined["group"] == "blocks-4x4"
    assert (
        abs(joined["structure"][0]) < 5 * joined["structure"][1]
    )  # means of blocks say nothing of structure
    assert joined["published"]["0"][0] == pytest.approx(1, abs=0.1)  # and keep all of the mean shift
    assert len(joined["choice"]["texture@0.33"]["raw"]) == len(scores.RIDGES)
    validity.save([{**joined, "published": {"0": [math.nan, 0.1]}}], tmp_path / "rows.jsonl")
    (again,) = validity.load(tmp_path / "rows.jsonl")
    assert again["published"]["0"][0] is None and again["F"] == 48
    json.loads((tmp_path / "rows.jsonl").read_text(), parse_constant=pytest.fail)


def test_one_step_is_renewed_in_stored_rows(tmp_path, monkeypatch):
    """Only the structure score changes; nothing else of the rows does, and no data set is fetched."""
    old = row(
        "blocks-4x4",
        0.5,
        {"h": 0.4, "d": 0.4},
        kind="trivial",
        published={"0": [1.0, 0.1]},
    )
    others = zoo_rows()
    file = tmp_path / "rows.jsonl"
    validity.save([*others, old], file)
    monkeypatch.setattr(command, "data", lambda *_: pytest.fail("no data set is needed"))
    command_line = ["zoo", "validity", "--steps", "structure", "--cache", str(tmp_path / "cache"), "--size", "16"]  # fmt: skip
    (tmp_path / "cache").mkdir()
    monkeypatch.setattr(sys, "argv", [*command_line, "--rows", str(file), "--only", "blocks-4x4"])
    command.main()
    *same, new = validity.load(file)
    assert same == validity._rounded(others)
    changed = {key for key, value in old.items() if new.get(key) != value}
    assert changed == {"structure", "families"} and new["structure"][0] < 0.1
    monkeypatch.setattr(sys, "argv", [*command_line, "--only", "blocks-4x4"])
    with pytest.raises(SystemExit):  # without rows there are no accuracies
        command.main()


def test_networks_without_probes(tmp_path, monkeypatch, capsys):
    """Scores of families are those of the package, for images and for waveforms; rows that are there stay."""
    torch.manual_seed(0)
    nets = {
        name: torch.nn.Sequential(layer, torch.nn.ReLU(), torch.nn.Flatten()).eval()
        for name, layer in (("crepe-tiny", torch.nn.Conv1d(1, 4, 64, 64)), ("text-recognition-svtrv2", torch.nn.Conv2d(3, 4, 32, 32)))
    }  # fmt: skip
    entries = [one for one in zoo.unprobed_encoders(tmp_path) if one.name in nets]
    assert [one.input_shape for one in entries] == [(1, 1024), (3, 64, 64)]
    monkeypatch.setattr(zoo, "build", lambda network, cache: nets[network.name])
    file = tmp_path / "rows.jsonl"
    twin = {"encoder": "crepe-tiny (twin)", "families": {"texture": [0.1, 0.01], "shift": [0.2, 0.02]}}
    validity.save([twin], file)
    monkeypatch.setattr(sys, "argv", ["zoo", "unprobed", "--cache", str(tmp_path), "--rows", str(file), "--only", *nets])  # fmt: skip
    command.main()
    rows = {row["encoder"]: row for row in validity.load(file)}
    assert list(rows) == [twin["encoder"], *nets] and rows[twin["encoder"]] == twin
    images = nets["text-recognition-svtrv2"]
    found = sb.structure_score(images, input_shape=(3, 64, 64), preset="quick", threads=1)
    for one in found.families:
        assert rows["text-recognition-svtrv2"]["families"][one.family] == pytest.approx([one.score, one.stderr], rel=1e-5)  # fmt: skip
    own = rows["crepe-tiny"]
    assert (own["F"], own["parameters"], own["licence"]) == (64, 4 * 65, "MIT")
    suite = tmp_path / "suite.toml"
    suite.write_text(
        '[[task]]\nname = "two"\n[[task]]\nname = "waves"\nfamily = "shift"\nlevel = 0.33\nclasses = 20\n'
    )
    waves = sb.score_suite(nets["crepe-tiny"], input_shape=(1, 1024), tasks=str(suite), preset="quick", scales=2, samples=128, threads=1)  # fmt: skip
    assert own["families"]["shift"] == pytest.approx([waves.families[0].score, waves.families[0].stderr], rel=1e-5)  # fmt: skip
    printed = capsys.readouterr().out
    assert "{:.3f} ± {:.3f}, twin 0.100 ± 0.010".format(*own["families"]["texture"]) in printed


def printed(monkeypatch, capsys, *options):
    """The tables that the command makes of the stored rows."""
    monkeypatch.setattr(sys, "argv", ["zoo", "validity", "--rows", str(STORED), *options])
    command.main()
    return re.findall(r"(?:^\|.*\n)+", capsys.readouterr().out, re.M)


def test_the_page_has_the_tables_of_the_stored_rows(tmp_path, monkeypatch, capsys):
    pytest.importorskip("matplotlib")
    figure = tmp_path / "figure.svg"
    tables = printed(monkeypatch, capsys, "--figure", str(figure))
    assert len(tables) == 2
    for one in tables:
        assert one in PAGE, one.splitlines()[0]
    rows = validity.load(STORED)
    scores_of = {kind: [row["structure"][0] for row in rows if row["kind"] == kind and "structure" in row] for kind in ("network", "trivial")}  # fmt: skip
    assert f"at most {max(scores_of['trivial']):.3f}, and every pretrained one has at least {min(scores_of['network']):.3f}" in PAGE  # fmt: skip
    (certain,) = validity.certain_cells(rows).values()
    own = certain.text("published score, eps 0")
    assert f"Over the {len(certain.rows)} networks with an error below 0.1 it has {own}." in PAGE
    (image_net,) = validity.image_net_cells(rows).values()
    own, labels = image_net.text("structure score"), image_net.text("LogME")
    assert f"Over the {len(image_net.rows)} networks trained on ImageNet the structure score has {own} on all data, and LogME {labels}." in PAGE  # fmt: skip
    for name, title in (("published score, eps 0", "the published score"), ("parameters", "the number of parameters"), ("LogME", "LogME")):  # fmt: skip
        held_out, everything = (one.text("structure score", name).split(",")[0] for one in validity.main_cells(rows).values())  # fmt: skip
        assert f"- {title}: {held_out} for held-out encoders and data, {everything} for all\n" in PAGE
    pairs = validity.twins(rows)
    assert f"The score of {sum(z > 0 for *_, z in pairs)} of {len(pairs)} networks is above that of the twin, and of {sum(z > 2 for *_, z in pairs)} by more than two standard errors. " in PAGE  # fmt: skip
    assert all(a["encoder"] in PAGE for a, _, z in pairs if z <= 2)
    alone = {row["encoder"]: row["families"] for row in validity.load(STORED.with_name("unprobed.jsonl"))}
    own, twin = ("{:.3f} ± {:.3f}".format(*alone[f"speech-embedding{mark}"]["texture"]) for mark in ("", " (twin)"))  # fmt: skip
    assert f"In `texture` a speech embedding has {own} and its twin {twin}." in PAGE
    lines = re.findall(r"^python -m zoo (.*)$", PAGE, re.M)
    assert [command._parser().parse_args(one.split()).what for one in lines] == [
        "leaderboard",
        *["validity"] * 2,
        "robustness",
        "unprobed",
    ]
    assert figure.read_text(encoding="utf-8").count("<svg") == 1


def test_details_have_every_cell_and_every_encoder(monkeypatch, capsys):
    """The same estimates as on the page, besides the others."""
    tables = printed(monkeypatch, capsys, "--details")
    assert len(tables) == 2 + 3 + 3 + 1 + 2 + 1 + 2 + 1
    every, encoders = tables[2:5], tables[-1]
    for one in tables[1].splitlines()[2:]:
        half, name, *cells = [cell.strip() for cell in one.strip("|").split("|")]
        own = every[validity.HALVES.index(half)]
        assert re.search(rf"^\| {name} \| \w+ \| {re.escape(' | '.join(cells))} \|$", own, re.M)
    names = {row["encoder"] for row in validity.load(STORED) if row["kind"] != "twin"}
    assert {one.split(" | ")[0].strip("| ") for one in encoders.splitlines()[2:]} == names
