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


@pytest.mark.parametrize(("terminal", "fewest", "most"), [(True, 50, 70), (False, 3, 6)])
def test_a_minute_is_drawn_each_second_on_a_terminal_and_seldom_in_a_file(
    monkeypatch: pytest.MonkeyPatch, terminal: bool, fewest: int, most: int
) -> None:
    stream, now = Stream(terminal), 1000.0
    monkeypatch.setattr("sys.stderr", stream)
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
