"""The HTML page in a real browser: Chromium without a window, a file of its own, no network.

Skipped where Selenium, Chromium or its driver is missing; with SYNBENCH_BROWSER=1 that is a failure.
"""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from report_cases import HOSTILE, family, structured, suite
from result_example import example

from synbench_fast.report.collection import Failure, load_results
from synbench_fast.report.html import write_html
from synbench_fast.report.tables import leaderboard
from synbench_fast.results.records import Result

DASH = "\u2013"


def varied(place: int) -> Result:
    """A result of its own: the score falls with `place`, the parameters grow."""
    one = example(f"timm:net_{place:04d}")
    scores = [
        dataclasses.replace(
            s, score=s.score - 0.0005 * place, ci95_low=s.score - 0.02, ci95_high=s.score + 0.02
        )
        for s in one.scores
    ]
    return dataclasses.replace(
        one,
        scores=scores,
        encoder=dataclasses.replace(one.encoder, parameters=1000 + (place * 7919) % 100_003),
        cost=dataclasses.replace(one.cost, images_per_second=10.0 + place),
        warnings=one.warnings if place % 2 else [],
    )


def opened(browser: Any, folder: Path, failures: tuple[Failure, ...] = ()) -> Path:
    """The report of a folder in the browser; its log starts empty."""
    path = write_html(folder / "report.html", leaderboard(load_results(folder, failures)))
    browser.get("about:blank")
    browser.get_log("browser"), browser.get_log("performance")
    browser.get(path.as_uri())
    return path


def requests(browser: Any) -> list[str]:
    messages = (json.loads(one["message"])["message"] for one in browser.get_log("performance"))
    return [
        one["params"]["request"]["url"] for one in messages if one["method"] == "Network.requestWillBeSent"
    ]


def names(browser: Any) -> list[str]:
    found: list[str] = browser.execute_script(
        "return [...document.querySelectorAll('#leaderboard .name')].map((one) => one.textContent)"
    )
    return found


def cells(browser: Any, column: str) -> list[str]:
    found: list[str] = browser.execute_script(
        "const at = columns().findIndex((one) => one.key === arguments[0]);"
        "return [...document.querySelectorAll('#leaderboard tbody tr[data-index]')].map((one) => one.cells[at].innerText)",
        column,
    )
    return found


def pick(browser: Any, selector: str, text: str) -> None:
    from selenium.webdriver.support.ui import Select

    Select(browser.find_element("css selector", selector)).select_by_visible_text(text)


@pytest.fixture
def six(tmp_path: Path) -> Path:
    for place in range(6):
        varied(place).save(tmp_path / f"{place}.json")
    return tmp_path


def test_page_loads_alone_and_without_errors(browser: Any, six: Path) -> None:
    path = opened(browser, six)
    assert [one for one in requests(browser) if not one.startswith("data:")] == [path.as_uri()]
    assert browser.get_log("browser") == []
    assert names(browser) == [f"timm:net_{place:04d}" for place in range(6)]
    assert browser.execute_script("return performance.getEntriesByType('resource').length") == 0
    assert browser.save_screenshot(str(six / "page.png"))
    assert (six / "page.png").stat().st_size > 20_000


def test_policy_stops_requests_and_scripts(browser: Any, six: Path) -> None:
    opened(browser, six)
    stopped = browser.execute_async_script(
        "const done = arguments[0], name = 'fet' + 'ch';"
        "self[name]('https://localhost:9/').then(() => done('sent'), () => done('stopped'))"
    )
    assert stopped == "stopped"
    log = " ".join(one["message"] for one in browser.get_log("browser"))
    assert "Content Security Policy" in log


def test_every_heading_sorts_both_ways(browser: Any, six: Path) -> None:
    opened(browser, six)
    buttons = browser.find_elements("css selector", "#leaderboard th button")
    keys = [one.get_attribute("data-sort") for one in buttons]
    assert len(keys) == 10
    for key in keys:
        orders = []
        for _ in range(2):
            browser.find_element("css selector", f'button[data-sort="{key}"]').click()
            head = browser.find_element("css selector", f'th:has(button[data-sort="{key}"])')
            orders.append((head.get_attribute("aria-sort"), names(browser)))
        assert {one for one, _ in orders} == {"ascending", "descending"}
        if len(set(cells(browser, key))) == 6:
            assert orders[0][1] == orders[1][1][::-1]
    browser.find_element("css selector", 'button[data-sort="parameters"]').click()
    parameters = [varied(int(one[-4:])).encoder.parameters for one in names(browser)]
    assert parameters == sorted(parameters)  # type: ignore[type-var]


def test_structure_scores_have_a_column_that_sorts_and_says_what_is_missing(
    browser: Any, tmp_path: Path
) -> None:
    for place, score in enumerate((0.05, 0.4, None, 0.1)):
        one = varied(place)
        (one if score is None else structured(one, score)).save(tmp_path / f"{place}.json")
    opened(browser, tmp_path)
    button = browser.find_element("css selector", 'button[data-sort="structure"]')
    assert "Structure" in button.text
    assert names(browser) == [f"timm:net_{place:04d}" for place in (1, 3, 0, 2)]  # from the start
    assert cells(browser, "structure")[:2] == ["0.400 \u00b1\u202f0.010", "0.100 \u00b1\u202f0.010"]
    clipped = browser.execute_script(
        "const at = columns().findIndex((one) => one.key === 'structure');"
        "return [...document.querySelectorAll('#leaderboard tbody tr[data-index]')]"
        ".filter((one) => one.cells[at].scrollWidth > one.cells[at].clientWidth).length"
    )
    assert clipped == 0
    assert cells(browser, "structure")[3].startswith(DASH)
    hints = browser.execute_script(
        "const at = columns().findIndex((one) => one.key === 'structure');"
        "return [...document.querySelectorAll('#leaderboard tbody tr[data-index]')]"
        ".map((one) => one.cells[at].firstElementChild.title)"
    )
    assert hints == ["texture 0.40", "texture 0.10", "texture 0.05", "None: it was not asked for"]
    browser.find_element("css selector", 'button[data-sort="structure"]').click()
    assert names(browser) == [f"timm:net_{place:04d}" for place in (0, 3, 1, 2)]
    for at, part in (
        (0, "0.0500 \u00b1\u202f0.0100 (one standard error)"),
        (0, "texture 0.0500"),
        (3, "none: it was not asked for"),
    ):
        browser.find_elements("css selector", "#leaderboard .name")[at].click()
        assert part in browser.find_element("css selector", "#detail").text
        browser.find_element("css selector", "#close").click()
    meanings = browser.execute_script(
        "return [...document.querySelectorAll('.meaning dt')].map((o) => o.textContent)"
    )
    assert "Structure" in meanings
    assert browser.get_log("browser") == []


def test_tasks_of_families_are_beside_the_others(browser: Any, tmp_path: Path) -> None:
    for place in range(2):
        families = [family("textures", 0.3 - place / 10, 0.93), family("things", 0.2, math.nan)]
        dataclasses.replace(suite(f"builtin:s{place}", 0.1 * place), families=families).save(
            tmp_path / f"{place}.json"
        )
    opened(browser, tmp_path)
    rows = browser.execute_script(
        "return [...document.querySelectorAll('#matrix tr')].map((o) => [...o.cells].map((c) => [c.innerText, c.title]))"
    )
    assert [text for text, _ in rows[0]][-4:] == ["a", "b", "textures", "things"]
    assert [row[-2][0] for row in rows[1:]] == ["0.300", "0.200"]
    hint = "textures: 0.3000 \u00b1 0.0100 (one standard error); accuracy of pairs of classes 0.7500, the optimum's 0.9300"
    assert rows[1][-2][1] == hint and "optimum" not in rows[1][-1][1]
    assert browser.get_log("browser") == []


def test_filter_keeps_rows_with_every_word(browser: Any, six: Path) -> None:
    opened(browser, six)
    box = browser.find_element("css selector", "#filter")
    box.send_keys("0003 CPU")
    assert names(browser) == ["timm:net_0003"]
    assert browser.find_element("css selector", "#count").text == "1 of 6 encoders"
    box.send_keys("x")
    assert names(browser) == []
    box.clear()
    box.send_keys(" ")
    assert len(names(browser)) == 6


def drawn(browser: Any) -> list[str]:
    found: list[str] = browser.execute_script(
        "return [...document.querySelectorAll('#curves figure:first-child .line')].map((one) => one.dataset.encoder)"
    )
    return found


def test_curves_are_those_of_the_chosen(browser: Any, six: Path) -> None:
    opened(browser, six)
    first = [f"timm:net_{place:04d}" for place in range(4)]
    assert drawn(browser) == first
    boxes = browser.find_elements("css selector", "#leaderboard input")
    boxes[0].click()
    boxes[5].click()
    assert drawn(browser) == [*first[1:], "timm:net_0005"]
    figures = browser.find_elements("css selector", "#curves figure")
    assert [len(one.find_elements("css selector", ".line")) for one in figures] == [4, 4, 4, 4]
    assert [len(one.find_elements("css selector", ".raw")) for one in figures] == [1, 0, 1, 1]
    # the second scale has accuracy 0.95: its place on the axis between the grid lines
    where = browser.execute_script(
        "const d = document.querySelector('#curves .line').getAttribute('d'); return Number(d.split(',').pop())"
    )
    grid = browser.execute_script(
        "return [...document.querySelectorAll('#curves figure:first-child text[text-anchor=end]')]"
        ".map((one) => [Number(one.textContent), Number(one.getAttribute('y')) - 4])"
    )
    (low, y_low), (high, y_high) = grid[0], grid[-1]
    assert where == pytest.approx(y_low + (0.95 - low) / (high - low) * (y_high - y_low), abs=0.2)
    browser.find_element("css selector", "#legend button").click()
    assert len(drawn(browser)) == 3


def test_budget_threshold_and_cost_can_be_chosen(browser: Any, six: Path) -> None:
    opened(browser, six)
    assert cells(browser, "score")[0].startswith("0.8400")
    pick(browser, "#eps", "0.2")
    assert cells(browser, "score")[0].startswith("0.6400")
    pick(browser, "#threshold", "0.7")
    assert cells(browser, "score")[0].startswith("0.6300")
    pick(browser, "#cost", "Parameters")
    label = browser.find_element("css selector", "#scatter svg").get_attribute("aria-label")
    assert label.startswith("Score against parameters of 6 encoders")


def test_one_encoder_is_told_in_full(browser: Any, six: Path) -> None:
    opened(browser, six)
    browser.find_elements("css selector", "#leaderboard .name")[1].click()
    text = browser.find_element("css selector", "#detail").text
    result = varied(1)
    for part in (
        result.command,
        result.warnings[0],
        result.encoder.weights_sha256,
        "mean 0.485",
        "torch 2.6.0",
    ):
        assert part in text
    browser.execute_cdp_cmd(
        "Browser.grantPermissions", {"permissions": ["clipboardReadWrite", "clipboardSanitizedWrite"]}
    )
    browser.find_element("css selector", "#copy").click()
    copied = browser.execute_async_script(
        "const done = arguments[0]; navigator.clipboard.readText().then(done, (error) => done(String(error)))"
    )
    assert copied == result.command
    browser.find_element("css selector", "#close").click()
    assert not browser.find_element("css selector", "#detail").is_displayed()


def test_keyboard_alone(browser: Any, six: Path) -> None:
    from selenium.webdriver.common.keys import Keys

    opened(browser, six)
    active = lambda: browser.switch_to.active_element  # noqa: E731
    browser.execute_script("document.querySelectorAll('#leaderboard .name')[0].focus()")
    active().send_keys(Keys.ARROW_DOWN)
    active().send_keys(Keys.ARROW_DOWN)
    assert active().text == "timm:net_0002"
    active().send_keys(Keys.ENTER)
    assert browser.find_element("css selector", "#detail-heading").text == "timm:net_0002"
    active().send_keys(Keys.ESCAPE)
    assert active().text == "timm:net_0002"
    browser.execute_script("document.querySelectorAll('#leaderboard input')[5].focus()")
    active().send_keys(Keys.SPACE)
    assert "timm:net_0005" in drawn(browser)
    browser.execute_script("document.querySelector('button[data-sort=encoder]').focus()")
    active().send_keys(Keys.ENTER)
    active().send_keys(Keys.ENTER)  # the focus is still there
    assert names(browser)[0] == "timm:net_0005"


def test_hostile_names_are_inert(browser: Any, tmp_path: Path) -> None:
    for place, text in enumerate([HOSTILE, '"><svg onload=alert(1)>', "${alert(1)}{{x}}&lt;b&gt;"]):
        hostile = dataclasses.replace(varied(place), warnings=[text], command=text)
        encoder = dataclasses.replace(hostile.encoder, spec="builtin:" + text, checkpoint=text)
        dataclasses.replace(hostile, encoder=encoder).save(tmp_path / f"{place}.json")
    (tmp_path / "bad<img src=x onerror=alert(1)>.json").write_text("{", encoding="utf-8")
    opened(browser, tmp_path, (Failure(encoder=HOSTILE, reason=HOSTILE),))
    assert names(browser)[0] == "builtin:" + HOSTILE
    for button in browser.find_elements("css selector", "#leaderboard .name"):
        button.click()
        assert "builtin:" in browser.find_element("css selector", "#detail-heading").text
        browser.find_element("css selector", "#close").click()
    assert HOSTILE in browser.find_element("css selector", "#failures").text
    assert "onerror" in browser.find_element("css selector", "#problems").text
    made = "return document.querySelectorAll('img, svg[onload], [onerror], b:not(.score b)').length"
    assert browser.execute_script(made) == 0
    assert browser.get_log("browser") == []
    from selenium.webdriver.support.expected_conditions import alert_is_present

    assert not alert_is_present()(browser)


def test_boards_are_apart_and_suites_have_tasks(browser: Any, tmp_path: Path) -> None:
    for place in range(3):
        varied(place).save(tmp_path / f"{place}.json")
        suite(f"builtin:s{place}", 0.1 * place).save(tmp_path / f"s{place}.json")
    dataclasses.replace(varied(3), seed=5).save(tmp_path / "other.json")
    opened(browser, tmp_path)
    titles = browser.execute_script(
        "return [...document.querySelectorAll('#board option')].map((o) => o.text)"
    )
    assert len(titles) == 3 and titles[1].endswith("seed 5; average sampled (1)")
    assert not browser.find_element("css selector", "#tasks").is_displayed()
    pick(browser, "#board", titles[2])
    assert names(browser) == ["builtin:s0", "builtin:s1", "builtin:s2"]
    assert cells(browser, "rank") == ["1", "2", "3"]
    assert cells(browser, "worst") == ["0.640 b", "0.540 b", "0.440 b"]
    rows = browser.execute_script(
        "return [...document.querySelectorAll('#matrix tr')].map((o) => o.innerText)"
    )
    assert rows[0].split() == ["Encoder", "Mean", "Worst", "a", "b"]
    assert rows[3].split()[-3:] == ["0.840", "0.440", "worst"]
    assert [one.text for one in browser.find_elements("css selector", "#matrix strong")] == [
        "0.640",
        "0.540",
        "0.440",
    ]
    assert cells(browser, "score")[2].startswith("0.6400")
    pick(browser, "#of", "worst task")
    assert cells(browser, "score")[2].startswith("0.4400") and cells(browser, "rank") == [DASH] * 3
    pick(browser, "#of", "b")
    assert cells(browser, "score")[1].startswith("0.5400")
    assert browser.execute_script("return document.querySelector('#task').value") == "1"
    assert browser.get_log("browser") == []


def test_one_score_without_an_interval_has_a_place(browser: Any, tmp_path: Path) -> None:
    """The axis has no length of its own then."""
    one = varied(0)
    scores = [
        dataclasses.replace(s, stderr=math.nan, ci95_low=math.nan, ci95_high=math.nan) for s in one.scores
    ]
    dataclasses.replace(one, scores=scores).save(tmp_path / "0.json")
    opened(browser, tmp_path)
    assert "NaN" not in browser.execute_script("return document.querySelector('#scatter').innerHTML")
    marks = browser.execute_script("return document.querySelector('#leaderboard .bar s').style.left")
    assert 0 < float(marks.rstrip("%")) < 100
    assert browser.get_log("browser") == []


def test_a_row_is_headed_by_its_encoder(browser: Any, six: Path) -> None:
    opened(browser, six)
    heads = browser.find_elements("css selector", "#leaderboard tbody [role=rowheader]")
    assert [one.text for one in heads] == names(browser)


def test_failures_alone_are_shown(browser: Any, tmp_path: Path) -> None:
    opened(browser, tmp_path, (Failure(encoder="timm:gone", reason="no weights"),))
    assert browser.find_element("css selector", "#failures").text.split("\n")[-1] == "timm:gone no weights"
    assert not browser.find_element("css selector", "#charts").is_displayed()
    assert browser.get_log("browser") == []


def test_unknown_numbers_are_dashes_and_last(browser: Any, tmp_path: Path) -> None:
    for place in range(3):
        one = varied(place)
        if place == 1:
            scores = [
                dataclasses.replace(s, score=math.nan, stderr=math.nan, ci95_low=math.nan, ci95_high=math.nan)
                for s in one.scores
            ]
            encoder = dataclasses.replace(one.encoder, parameters=None)
            one = dataclasses.replace(one, scores=scores, encoder=encoder)
        one.save(tmp_path / f"{place}.json")
    opened(browser, tmp_path)
    assert names(browser) == ["timm:net_0000", "timm:net_0002", "timm:net_0001"]
    for _ in range(2):
        browser.find_element("css selector", 'button[data-sort="parameters"]').click()
        assert cells(browser, "parameters")[2] == DASH
    assert browser.get_log("browser") == []


def test_a_thousand_encoders(browser: Any, tmp_path: Path) -> None:
    size = 1000
    for place in range(size):
        (tmp_path / f"{place}.json").write_text(varied(place).to_json(), encoding="utf-8")
    path = opened(browser, tmp_path)
    assert path.stat().st_size < 3_000_000
    shown = names(browser)
    assert 10 < len(shown) < 60  # only what can be seen, and a little more
    table = browser.find_element("css selector", "#leaderboard")
    assert table.get_attribute("aria-rowcount") == str(size + 1)
    browser.find_element("css selector", 'button[data-sort="encoder"]').click()
    browser.execute_script("scroller.scrollTop = 1e9")
    browser.execute_async_script("requestAnimationFrame(() => requestAnimationFrame(arguments[0]))")
    assert names(browser)[-1] == "timm:net_0999"
    last = browser.find_elements("css selector", "#leaderboard tr[data-index]")[-1]
    assert last.get_attribute("aria-rowindex") == str(size + 1)
    browser.find_element("css selector", "#filter").send_keys("net_07")
    assert len(cells(browser, "encoder")) < 60
    assert browser.find_element("css selector", "#count").text == "100 of 1\u202f000 encoders"
    browser.find_elements("css selector", "#leaderboard input")[0].click()
    assert drawn(browser)[-1] == "timm:net_0700"
    dots = browser.find_elements("css selector", "#scatter .dots")
    assert len(dots) == 2  # one path each, however many points
    assert browser.execute_script("return arguments[0].getAttribute('d').split('M').length", dots[0]) == 901
    browser.execute_script("document.querySelector('#filter').value = ''; state.filter = ''; refreshTable()")
    browser.execute_script("dispatchEvent(new Event('beforeprint'))")
    assert len(names(browser)) == size  # paper does not scroll
    browser.execute_script("dispatchEvent(new Event('afterprint'))")
    assert len(names(browser)) < 60
    assert browser.get_log("browser") == []
    assert browser.save_screenshot(str(tmp_path / "thousand.png"))


@pytest.mark.parametrize("width", [1400, 700, 390])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_nothing_sticks_out_and_text_is_readable(width: int, scheme: str, browser: Any, six: Path) -> None:
    """WCAG's contrast of 4.5 for text against its ground, and no sideways scrolling of the page."""
    features = [{"name": "prefers-color-scheme", "value": scheme}]
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": features})
    size = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": False}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    try:
        opened(browser, six, (Failure(encoder="timm:gone", reason="no weights"),))
        assert browser.execute_script("return document.documentElement.scrollWidth <= innerWidth")
        style = "getComputedStyle(document.documentElement).getPropertyValue"
        read = f"const c = (n) => {style}.call(getComputedStyle(document.documentElement), n).trim();"
        colours = browser.execute_script(
            read
            + "return Object.fromEntries(['--ink', '--dim', '--card', '--page', '--soft', '--accent', '--warn',"
            " '--warn-soft', ...[...Array(8).keys()].map((k) => '--c' + k)].map((n) => [n, c(n)]))"
        )
    finally:
        browser.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})
        browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": []})
    text = [("--ink", "--card"), ("--dim", "--card"), ("--dim", "--page"), ("--ink", "--soft")]
    text += [("--accent", "--card"), ("--warn", "--card"), ("--warn", "--warn-soft")]
    for front, back in text:
        assert contrast(colours[front], colours[back]) >= 4.5, (front, back)
    for slot in range(8):  # lines and marks: 3 is what graphics need
        assert contrast(colours[f"--c{slot}"], colours["--card"]) >= 3, slot


LONG = [
    "timm:vit_base_patch16_clip_224.laion2b_ft_in12k_in1k",
    "timm:vit_base_patch16_clip_224.laion2b_ft_in1k",
    "timm:vit_base_patch16_clip_224.openai_ft_in12k_in1k",
    "timm:resnet50.a1_in1k",
    "open_clip:ViT-B-32/laion2b_s34b_b79k",
    "python:/home/somebody/projects/encoders/models.py:make_the_encoder_of_the_paper",
    "builtin:conv?dim=128",
    "hf:facebook/dinov2-base",
]


@pytest.fixture(params=["single", "suite"])
def long_names(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """Results of encoders with long names that cost about the same, so that their marks lie close to each other."""
    for place, spec in enumerate(LONG):
        if request.param == "suite":
            suite(spec, 0.02 * place).save(tmp_path / f"{place}.json")
            continue
        one = structured(varied(place), 0.5 - 0.05 * place)
        dataclasses.replace(one, encoder=dataclasses.replace(one.encoder, spec=spec)).save(
            tmp_path / f"{place}.json"
        )
    return tmp_path


@contextmanager
def window(browser: Any, width: int) -> Iterator[None]:
    size = {"width": width, "height": 1300, "deviceScaleFactor": 1, "mobile": False}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    try:
        yield
    finally:
        browser.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})


# Texts of a drawing that overlap, or leave it.
OVERLAPPING = """
const found = [];
for (const drawing of document.querySelectorAll('#scatter svg, #curves svg')) {
  const whole = drawing.getBoundingClientRect();
  const texts = [...drawing.querySelectorAll('text')].map((one) => [one.textContent, one.getBoundingClientRect()]);
  texts.forEach(([text, a], k) => {
    if (a.left < whole.left || a.right > whole.right + 0.5 || a.bottom > whole.bottom + 0.5) found.push([text, 'outside']);
    for (const [other, b] of texts.slice(k + 1))
      if (a.left < b.right && b.left < a.right && a.top + 1 < b.bottom && b.top + 1 < a.bottom) found.push([text, other]);
  });
}
return found;
"""


@pytest.mark.parametrize("width", [390, 1280])
def test_screenshot_shows_whole_names_and_scores(width: int, browser: Any, long_names: Path) -> None:
    with window(browser, width):
        opened(browser, long_names)
        browser.find_elements("css selector", "#leaderboard input")[4].click()
        run = browser.execute_script
        assert run("return document.documentElement.scrollWidth <= document.documentElement.clientWidth")
        sides = run(
            "return [...document.querySelectorAll('main > :not([hidden]), header, #rows')].filter((o) => o.offsetWidth).map((o) => {"
            "const r = o.getBoundingClientRect(), s = getComputedStyle(o);"
            "return [r.left + parseFloat(s.paddingLeft), innerWidth - r.right + parseFloat(s.paddingRight)]})"
        )
        assert min(one for pair in sides for one in pair) >= 14
        cut = run(
            "return [...document.querySelectorAll('#leaderboard tr:not(.spacer) > *')]"
            ".filter((o) => o.scrollWidth > o.clientWidth || o.scrollHeight > o.clientHeight + 1).map((o) => o.innerText)"
        )
        assert cut == []
        hidden = run(
            "const whole = scroller.getBoundingClientRect(), end = whole.left + scroller.clientWidth + 1;"
            "return [...document.querySelectorAll(innerWidth < 600 ? 'td.k-encoder, td.k-structure, td.k-score'"
            " : '#leaderboard tbody td')].filter((o) => o.getBoundingClientRect().right > end).map((o) => o.innerText)"
        )
        assert hidden == []
        assert len(set(names(browser))) == len(LONG)
        assert {
            one.get_attribute("aria-label") for one in browser.find_elements("css selector", ".name")
        } == set(LONG)
        assert run(OVERLAPPING) == []
        verdict, table = (browser.find_element("css selector", one).rect for one in ("#verdict", "#rows"))
        assert verdict["height"] > 0 and verdict["y"] + verdict["height"] <= table["y"]
        assert browser.get_log("browser") == []
        shot = long_names / f"{width}.png"
        assert browser.save_screenshot(str(shot)) and shot.stat().st_size > 20_000


@pytest.mark.parametrize("width", [390, 1280])
def test_shortened_names_of_published_models_differ(width: int, browser: Any, six: Path) -> None:
    timm = pytest.importorskip("timm")
    published = [f"timm:{one}" for one in timm.list_models(pretrained=True)]
    with window(browser, width):
        opened(browser, six)
        shown = browser.execute_script(
            "const line = view.layout.name - 32, lines = NARROW.matches ? 3 : 2;"
            "return arguments[0].map((one) => fitted(one, line * lines))",
            published,
        )
    assert len(published) > 1000 and len(set(shown)) == len(published)


def test_verdict_of_every_board_stands_on_top(browser: Any, tmp_path: Path) -> None:
    for place in range(3):
        structured(varied(place), 0.5 - place / 10).save(tmp_path / f"{place}.json")
        suite(f"builtin:s{place}", 0.1 * place).save(tmp_path / f"s{place}.json")
    opened(browser, tmp_path)
    first = browser.find_element("css selector", "#verdict").text
    assert first == "verdict: take timm:net_0000: its structure score is the largest, with 95 % confidence"
    pick(browser, "#board", browser.find_elements("css selector", "#board option")[1].text)
    assert browser.find_element("css selector", "#verdict").text.startswith(
        "verdict: take builtin:s0: its mean eps=0 is"
    )


def test_every_column_is_explained(browser: Any, tmp_path: Path) -> None:
    suite("builtin:s").save(tmp_path / "0.json")
    structured(varied(0), 0.5).save(tmp_path / "1.json")
    opened(browser, tmp_path)
    meanings = set(
        browser.execute_script(
            "return [...document.querySelectorAll('.meaning dt')].map((o) => o.textContent)"
        )
    )
    for _ in range(2):
        heads = browser.find_elements("css selector", "#leaderboard th")
        assert all(len(one.get_attribute("title")) > 20 for one in heads)
        labels = [one.text.split("\n")[0].strip("\u2193\u2191") for one in heads]
        assert {one or "Draw" for one in labels} <= meanings
        units = [one.text.split("\n")[1] for one in heads if "\n" in one.text]
        assert set(units) == {"\u00b1 std. error"}
        pick(browser, "#board", browser.find_elements("css selector", "#board option")[1].text)


def test_details_link_to_the_page_of_a_published_model(browser: Any, tmp_path: Path) -> None:
    for place, (source, name, revision) in enumerate(
        (("timm", "resnet50.a1_in1k", None), ("builtin", "conv", None), ("hf", "a/" + HOSTILE, "r"))
    ):
        one = varied(place)
        encoder = dataclasses.replace(one.encoder, source=source, name=name, revision=revision)
        dataclasses.replace(one, encoder=encoder).save(tmp_path / f"{place}.json")
    opened(browser, tmp_path)
    found = []
    for button in browser.find_elements("css selector", "#leaderboard .name"):
        button.click()
        found += [one.get_attribute("href") for one in browser.find_elements("css selector", "#detail a")]
        browser.find_element("css selector", "#close").click()
    assert found == ["https://huggingface.co/timm/resnet50.a1_in1k"]
    assert [one for one in requests(browser) if "huggingface" in one] == []


def contrast(one: str, two: str) -> float:
    def luminance(colour: str) -> float:
        digits = colour.lstrip("#")
        digits = "".join(2 * d for d in digits) if len(digits) == 3 else digits
        linear = []
        for k in (0, 2, 4):
            v = int(digits[k : k + 2], 16) / 255
            linear.append(v / 12.92 if v <= 0.04045 else ((v + 0.055) / 1.055) ** 2.4)
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    a, b = sorted((luminance(one), luminance(two)))
    return (b + 0.05) / (a + 0.05)
