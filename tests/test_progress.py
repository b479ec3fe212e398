"""Progress as a reader sees it: lines in a log, a bar on a terminal."""

import io

import pytest

from captioner import progress
from captioner.progress import Progress, duration


class Clock:
    """A clock that a test moves by hand."""

    def __init__(self) -> None:
        self.seconds = 100.0

    def __call__(self) -> float:
        return self.seconds


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(progress.time, "monotonic", clock)
    return clock


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_a_log_gets_the_first_the_last_and_a_line_every_ten_seconds(clock: Clock) -> None:
    stream = io.StringIO()
    with Progress(1000, "encode", unit="images", stream=stream) as report:
        for _ in range(10):
            clock.seconds += 4.0
            report.advance(100, loss=2.34567, stage="one")
    assert stream.getvalue().splitlines() == [
        "encode: 0/1,000 images",
        "encode: 300/1,000 images, 25/s, 28 s left, loss 2.346, stage one",
        "encode: 600/1,000 images, 25/s, 16 s left, loss 2.346, stage one",
        "encode: 900/1,000 images, 25/s, 4 s left, loss 2.346, stage one",
        "encode: 1,000/1,000 images, 25/s, took 40 s, loss 2.346, stage one",
    ]


def test_what_was_done_before_does_not_enter_the_rate(clock: Clock) -> None:
    stream = io.StringIO()
    with Progress(1000, "encode", initial=900, stream=stream) as report:
        clock.seconds += 20.0
        report.advance(50)
        clock.seconds += 1.0
    assert stream.getvalue().splitlines() == [
        "encode: 900/1,000",
        "encode: 950/1,000, 2.5/s, 20 s left",
    ]


def test_an_unknown_end_is_not_invented(clock: Clock) -> None:
    stream = io.StringIO()
    with Progress(None, "read", unit="bytes", stream=stream) as report:
        clock.seconds += 5.0
        report.advance(5_000_000)
    assert stream.getvalue().splitlines()[-1] == "read: 5,000,000 bytes, 1,000,000/s, took 5 s"


def test_an_error_still_says_how_far_it_came(clock: Clock) -> None:
    stream = io.StringIO()
    with pytest.raises(ValueError, match="stop"):
        with Progress(10, "train", stream=stream) as report:
            clock.seconds += 1.0
            report.advance(3)
            raise ValueError("stop")
    assert stream.getvalue().splitlines()[-1].startswith("train: 3/10")


def test_a_terminal_gets_a_bar_with_the_figures() -> None:
    stream = Terminal()
    with Progress(4, "train", unit="captions", stream=stream) as report:
        for step in range(4):
            report.advance(loss=float(step))
    last = stream.getvalue().split("\r")[-1]
    assert last.startswith("train: 100%")
    assert "4/4" in last
    assert "loss 3" in last


def test_disabled_says_nothing(capfd: pytest.CaptureFixture[str]) -> None:
    with Progress(4, "train", enabled=False) as report:
        report.advance(4, loss=1.0)
    assert report.count == 4
    assert capfd.readouterr() == ("", "")


def test_the_report_goes_to_standard_error(capfd: pytest.CaptureFixture[str]) -> None:
    with Progress(1, "train") as report:
        report.advance()
    out, err = capfd.readouterr()
    assert out == ""
    assert err.startswith("train: 0/1\n")


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.2, "0 s"), (59.6, "1 min 00 s"), (200, "3 min 20 s"), (7500, "2 h 05 min")],
)
def test_a_duration_reads_naturally(seconds: float, text: str) -> None:
    assert duration(seconds) == text
