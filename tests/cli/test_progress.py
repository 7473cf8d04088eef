from __future__ import annotations

import io

from steadyvlm.cli.progress import PLAIN_INTERVAL_S, ProgressDisplay, describe, duration_text
from steadyvlm.study.progress import Progress


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def moment(arm: str, done: int, *, rate: float | None = 12.5) -> Progress:
    return Progress(arm, "toy", done, 40, done, 20, rate, None if rate is None else (40 - done) / rate, 0, 0)


def test_what_is_unknown_is_left_out():
    assert describe(moment("original", 0, rate=None)) == "original on toy: 0/20 · whole study 0/40"


def test_durations():
    assert duration_text(0) == "0:00"
    assert duration_text(59.2) == "1:00"
    assert duration_text(3725) == "1:02:05"


def test_plain_lines_at_the_ends_of_an_arm_and_now_and_then():
    now, stream = [0.0], io.StringIO()
    with ProgressDisplay(stream, clock=lambda: now[0]) as display:
        display(moment("original", 4))  # the first
        now[0] = 1.0
        display(moment("original", 8))  # too soon
        now[0] = PLAIN_INTERVAL_S + 1
        display(moment("original", 12))  # time has passed
        display(moment("original", 20))  # the arm is complete
        display(moment("control", 1))  # another arm
    assert [line.split(" ·")[0] for line in stream.getvalue().splitlines()] == [
        "original on toy: 4/20",
        "original on toy: 12/20",
        "original on toy: 20/20",
        "control on toy: 1/20",
    ]


def test_a_terminal_gets_one_bar_with_rate_and_time_left():
    stream = Terminal()
    with ProgressDisplay(stream) as display:
        display(moment("original", 10))
    shown = stream.getvalue()
    assert "original on toy: 10/20" in shown
    assert "25%" in shown
    assert "samples/s" in shown


def test_nothing_is_drawn_before_there_is_something_to_say():
    stream = Terminal()
    with ProgressDisplay(stream):
        pass
    assert "toy" not in stream.getvalue()
