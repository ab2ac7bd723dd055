"""Progress on a terminal and elsewhere."""

from __future__ import annotations

import io
import re

import pytest

from synbench_fast.runtime.progress import Reporter


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_progress_on_a_terminal_is_a_bar_with_the_time_left_that_goes_away() -> None:
    stream, now = Terminal(), 0.0
    with Reporter(stream, clock=lambda: now).encoder("[1/2] builtin:conv") as advance:
        advance(0, 400, "encode")
        now = 50.0
        advance(200, 400, "encode")
    text = re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", stream.getvalue())
    assert "[1/2] builtin:conv" in text
    assert "200/400 images, 50 s left, encode" in text and "?" not in text
    assert "\x1b[2K" in stream.getvalue().rsplit("left, encode", 1)[1]  # the line is erased at the end


def test_the_time_left_of_other_images_is_judged_anew() -> None:
    stream, now = Terminal(), 0.0
    with Reporter(stream, clock=lambda: now).encoder("a:b") as advance:
        for now, done, total, phase in (  # noqa: B007
            (0.0, 0, 400, "encode"), (100.0, 400, 400, "encode"), (100.0, 0, 100, "structure"), (101.0, 50, 100, "structure"),
        ):  # fmt: skip
            advance(done, total, phase)
    assert "50/100 images, 1 s left, structure" in re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", stream.getvalue())


def test_a_narrow_terminal_cuts_the_name_and_never_the_time_left(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    stream, now = Terminal(), 0.0
    with Reporter(stream, clock=lambda: now).encoder("[12/20] timm:" + "long_name_" * 8) as advance:
        advance(0, 100_352, "encode")
        now = 900.0
        advance(20_000, 100_352, "encode")
    text = re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", stream.getvalue())
    assert "loading [12/20] timm:long" in text
    assert "20000/100352 images, 1 h 00 min left, encode [12/20]" in text
    assert "\u2026" in text and all(len(line) <= 80 for line in re.split(r"[\r\n]+", text))


def test_progress_elsewhere_is_plain_lines_not_too_many() -> None:
    now = 0.0
    stream = io.StringIO()
    with Reporter(stream, every=10.0, clock=lambda: now).encoder("builtin:conv") as advance:
        now = 5.0  # loading does not count into the rate
        for done in range(0, 1001, 10):
            advance(done, 1000, "encode")
            now += 0.25
        advance(1000, 1000, "solve")
    assert stream.getvalue().splitlines() == [
        "builtin:conv: loading",
        "builtin:conv: 200/1000 images, encode, 40.0 images/s, 20 s left",
        "builtin:conv: 600/1000 images, encode, 40.0 images/s, 10 s left",
        "builtin:conv: 1000/1000 images",
    ]


def test_progress_goes_on_where_a_half_width_asks_for_more_images() -> None:
    now = 0.0
    stream = io.StringIO()
    with Reporter(stream, every=10.0, clock=lambda: now).encoder("a:b") as advance:
        steps = [(0, 100, 0), (100, 100, 1), (110, 150, 2), (150, 150, 3), (160, 400, 4), (280, 400, 12)]
        for done, total, second in [*steps, (400, 400, 13), (420, 420, 14)]:
            now = float(second)
            advance(done, total, "encode")
    assert stream.getvalue().splitlines() == [
        "a:b: loading",
        "a:b: 100/100 images",
        "a:b: 280/400 images, encode, 23.3 images/s, 5 s left",
        "a:b: 420/420 images",
    ]


def test_progress_of_a_run_that_fails_does_not_end() -> None:
    stream = io.StringIO()
    with pytest.raises(KeyboardInterrupt), Reporter(stream).encoder("a:b") as advance:
        advance(100, 100, "encode")
        advance(100, 200, "encode")
        advance(200, 200, "encode")
        raise KeyboardInterrupt
    assert stream.getvalue().splitlines() == ["a:b: loading", "a:b: 100/100 images"]


@pytest.mark.parametrize(("rate", "left"), [(10.0, "1 min 30 s"), (0.1, "2 h 30 min")])
def test_time_left_is_readable(rate: float, left: str) -> None:
    now = 0.0
    stream = io.StringIO()
    with Reporter(stream, clock=lambda: now).encoder("a:b") as advance:
        advance(0, 1000, "encode")
        now = 100 / rate
        advance(100, 1000, "encode")
    assert stream.getvalue().splitlines()[1].endswith(f"{rate:.1f} images/s, {left} left")


def test_quiet_says_nothing() -> None:
    stream = Terminal()
    with Reporter(stream, quiet=True).encoder("a:b") as advance:
        advance(1, 2, "encode")
    assert stream.getvalue() == ""
