"""A bar in a log file: every drawing stays, so there are few."""

import io

import pytest

from atradiff.progress_bar import ProgressBar


class Stream(io.StringIO):
    def __init__(self, terminal: bool) -> None:
        super().__init__()
        self._terminal = terminal

    def isatty(self) -> bool:
        return self._terminal


def drawn_on(monkeypatch: pytest.MonkeyPatch, terminal: bool) -> Stream:
    """Where bars are drawn from now on: a fixture could not, since pytest puts stderr back before the test."""
    stream = Stream(terminal)
    monkeypatch.setattr("sys.stderr", stream)
    return stream


@pytest.mark.parametrize(("terminal", "fewest", "most"), [(True, 50, 70), (False, 3, 6)])
def test_a_minute_is_drawn_each_second_on_a_terminal_and_seldom_in_a_file(
    monkeypatch: pytest.MonkeyPatch, terminal: bool, fewest: int, most: int
) -> None:
    stream, now = drawn_on(monkeypatch, terminal), 1000.0
    bar = ProgressBar(total=600, desc="work")
    bar._time = lambda: now  # tqdm's own clock
    bar.last_print_t = bar.start_t = now
    for _ in range(600):
        now += 0.1
        bar.update()
    bar.close()
    drawings = stream.getvalue().split("\r")
    assert fewest <= len(drawings) - 1 <= most
    assert "600/600" in drawings[-1]


@pytest.mark.parametrize(("terminal", "fewest", "most"), [(True, 50, 70), (False, 2, 4)])
def test_a_bar_that_waits_shows_the_time_as_often(
    monkeypatch: pytest.MonkeyPatch, terminal: bool, fewest: int, most: int
) -> None:
    stream, now = drawn_on(monkeypatch, terminal), 1000.0
    monkeypatch.setattr("time.monotonic", lambda: now)
    bar = ProgressBar(total=2, desc="wait")
    bar.update()
    for _ in range(60):
        now += 1.0
        bar.tick()
    assert fewest <= stream.getvalue().count("\r") - 1 <= most
    bar.close()


def test_a_bar_that_is_off_draws_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    stream = drawn_on(monkeypatch, terminal=True)
    monkeypatch.setattr("atradiff.progress_bar._TERMINAL_SECONDS", 0.0)
    with ProgressBar(total=2, disable=True) as bar:
        bar.tick()
        bar.update()
    assert stream.getvalue() == ""
