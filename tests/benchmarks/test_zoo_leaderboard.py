"""The zoo's leaderboard: the committed page is that of the stored rows, and a browser shows what the rows say."""

from __future__ import annotations

import itertools
import json
import shlex
import statistics
import sys
from pathlib import Path
from typing import Any

import pytest
from scipy.stats import norm

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))

pytest.importorskip("PIL")
pytest.importorskip("sklearn")

from zoo import __main__ as command
from zoo import factories, leaderboard

from synbench_fast.cli import main as cli

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "leaderboard.html"
STORED = ROOT / "benchmarks" / "results" / "validity-64.jsonl"
ROWS = {row["encoder"]: row for row in map(json.loads, STORED.read_text().splitlines())}


def test_the_committed_page_is_that_of_the_stored_rows(tmp_path, monkeypatch):
    """After a change of the rows or of the report's page: cd benchmarks && python -m zoo leaderboard --rows
    results/validity-64.jsonl --page ../docs/leaderboard.html"""
    monkeypatch.setattr(sys, "argv", ["zoo", "leaderboard", "--rows", str(STORED), "--page", str(tmp_path / "page.html")])  # fmt: skip
    command.main()
    assert PAGE.read_text(encoding="utf-8") == (tmp_path / "page.html").read_text(encoding="utf-8")


def test_both_files_are_asked_for(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["zoo", "leaderboard", "--rows", str(STORED)])
    with pytest.raises(SystemExit, match="2"):
        command.main()
    assert "leaderboard: --rows and --page are required" in capsys.readouterr().err


def test_every_row_is_there_with_its_numbers():
    made = leaderboard.members(list(ROWS.values()))
    assert sorted(one["name"] for one in made) == sorted(ROWS)
    kinds = [one["kind"] for one in made]
    assert kinds.count("pretrained") >= 25 and kinds.count("trivial") == 6
    assert all(("(twin)" in one["name"]) == (one["kind"] == "twin") for one in made)
    assert [one["place"] for one in made] == list(range(1, len(made) + 1))
    for before, one in itertools.pairwise(made):
        assert before["structure"][0] >= one["structure"][0]
    for one in made:
        row = ROWS[one["name"]]
        values = [cell["accuracy"] for cell in row["data"].values()]
        mean, low, high = one["accuracy"]
        assert mean == pytest.approx(statistics.mean(values), rel=1e-12)
        assert (low, high) == (min(values), max(values)) and len(values) == 8
        assert one["families"] == [row["families"][name] for name in ("texture", "shapes", "instances")]
        assert one["published"][0] == row.get("published", {"0": [None]})["0"][0]


def test_ranks_count_the_intervals_that_do_not_overlap():
    made = leaderboard.members(list(ROWS.values()))
    z = norm.isf(0.05 / len(made) / 2)
    ends = [(one["structure"][0] - z * one["structure"][1], one["structure"][0] + z * one["structure"][1]) for one in made]  # fmt: skip
    for one, (low, high) in zip(made, ends, strict=True):
        better, worse = sum(other[0] > high for other in ends), sum(other[1] < low for other in ends)
        assert one["ranks"] == [1 + better, len(made) - worse]


@pytest.mark.parametrize("name", ["colour-means", "blocks-4x4"])
def test_the_command_gives_the_row(name, capsys, monkeypatch):
    """Those of networks were run by hand: their packages are not here. Both scores of trivial ones need nothing."""
    line = next(one for one in leaderboard.members(list(ROWS.values())) if one["name"] == name)["command"]
    words = shlex.split(line)
    assert words[:4] == ["cd", "benchmarks", "&&", "synbench-fast"]
    monkeypatch.chdir(ROOT / "benchmarks")
    assert cli.main([*words[4:], "--format", "json", "--quiet"]) == 0
    found = json.loads(capsys.readouterr().out)
    row = ROWS[name]
    assert [found["structure"]["score"], found["structure"]["stderr"]] == pytest.approx(row["structure"], rel=1e-5)  # fmt: skip
    scores = found["scores"]
    assert (scores["eps"][0], scores["threshold"][0]) == (0.0, 0.6)
    assert scores["score"][0] == pytest.approx(row["published"]["0"][0], abs=0.01)


def test_every_command_names_a_factory():
    for one in leaderboard.members(list(ROWS.values())):
        module, name = one["command"].split("python:")[1].split()[0].split(":")
        assert module == "zoo.factories" and callable(getattr(factories, name))


# ---------------------------------------------------------------- in a browser


def opened(browser: Any) -> None:
    browser.get("about:blank")
    browser.get_log("browser"), browser.get_log("performance")
    browser.get(PAGE.as_uri())


def names(browser: Any) -> list[str]:
    found: list[str] = browser.execute_script(
        "dispatchEvent(new Event('beforeprint'));"  # all rows, also those that are scrolled away
        "const found = [...document.querySelectorAll('#leaderboard .name')].map((one) => one.textContent);"
        "dispatchEvent(new Event('afterprint')); return found"
    )
    return found


def test_page_sorts_by_every_column_and_filters(browser):
    opened(browser)
    assert browser.get_log("browser") == []
    by_score = sorted(ROWS, key=lambda one: -ROWS[one]["structure"][0])
    assert names(browser) == by_score
    assert browser.execute_script("return document.querySelector('tbody tr[data-index]').cells[0].innerText").startswith("1\u2013")  # fmt: skip
    keys = [one.get_attribute("data-sort") for one in browser.find_elements("css selector", "th button")]
    assert keys == ["rank", "encoder", "kind", "score", "texture", "shapes", "instances", "published", "accuracy", "parameters"]  # fmt: skip
    for key in keys:
        orders = []
        for _ in range(2):
            browser.find_element("css selector", f'button[data-sort="{key}"]').click()
            head = browser.find_element("css selector", f'th:has(button[data-sort="{key}"])')
            orders.append((head.get_attribute("aria-sort"), names(browser)))
        assert {one for one, _ in orders} == {"ascending", "descending"} and orders[0][1] != orders[1][1]
    browser.find_element("css selector", 'button[data-sort="accuracy"]').click()
    means = [statistics.mean(c["accuracy"] for c in ROWS[one]["data"].values()) for one in names(browser)]
    assert means == sorted(means, reverse=True)

    from selenium.webdriver.support.ui import Select

    Select(browser.find_element("css selector", "#kind")).select_by_visible_text("trivial")
    assert sorted(names(browser)) == sorted(one for one in ROWS if ROWS[one]["kind"] == "trivial")
    assert browser.find_element("css selector", "#count").text == f"6 of {len(ROWS)} encoders"
    Select(browser.find_element("css selector", "#kind")).select_by_visible_text("pretrained")
    browser.find_element("css selector", "#filter").send_keys("imagenet")
    assert sorted(names(browser)) == sorted(one for one in ROWS if "ImageNet" in ROWS[one]["trained_for"])
    assert browser.get_log("browser") == []


def test_a_name_opens_the_details_and_the_command(browser):
    opened(browser)
    browser.find_element("css selector", "#filter").send_keys("squeezenet")
    assert names(browser) == ["squeezenet", "squeezenet (twin)"]
    browser.find_elements("css selector", "#leaderboard .name")[0].click()
    text = browser.find_element("css selector", "#detail").text
    row = ROWS["squeezenet"]
    assert leaderboard.command(row) in text
    assert f"{row['structure'][0]:.4f} ±\u202f{row['structure'][1]:.4f}" in text
    for name, one in row["data"].items():
        assert name in text and f"{one['accuracy']:.3f}" in text
    browser.find_element("css selector", "#close").click()
    missing = next(one for one in ROWS if "published" not in ROWS[one])
    box = browser.find_element("css selector", "#filter")
    box.clear()
    box.send_keys(missing)
    shown = browser.execute_script("return document.querySelector('tbody td.k-published').innerText")
    assert shown == "\u2013"


@pytest.mark.parametrize("width", [1280, 390])
def test_page_fits_the_width(width, browser):
    """The page does not scroll sideways; on a telephone the table does, and the name stays in view."""
    size = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": False}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    try:
        opened(browser)
        assert browser.execute_script("return document.documentElement.scrollWidth <= innerWidth")
        browser.execute_script(
            "dispatchEvent(new Event('beforeprint'))"
        )  # all rows, also those scrolled away
        clipped = "return [...document.querySelectorAll('tbody tr[data-index] td')].filter((one) => !one.matches('.k-encoder') && one.scrollWidth > one.clientWidth).map((one) => one.className + one.innerText)"  # fmt: skip
        assert browser.execute_script(clipped) == []
        table = "const t = document.querySelector('#rows'); return [t.scrollWidth, t.clientWidth]"
        wide, seen = browser.execute_script(table)
        if width == 1280:
            assert wide == seen
        else:
            place = "return document.querySelector('tbody tr[data-index] .name').getBoundingClientRect().left"
            browser.execute_script("document.querySelector('#rows').scrollLeft = 9999")
            assert wide > seen and 0 <= browser.execute_script(place) < width / 4
    finally:
        browser.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})
