"""Done, total, rate and time left, with cells of different speed."""

from __future__ import annotations

from steadyvlm.study.progress import Meter, Progress


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def test_a_run_is_told_moment_by_moment() -> None:
    seen: list[Progress] = []
    clock = Clock()
    meter = Meter({"a": 10, "b": 20, "c": 10}, seen.append, clock=clock)
    meter.begin("a", "original", "t")
    meter.stored(10, 1)
    assert seen[-1] == Progress("original", "t", 10, 40, 10, 10, None, None, 1, 10)
    clock.now = 100.0  # loading is nobody's rate
    meter.begin("b", "half", "t")
    clock.now = 102.0
    meter.computed(10, 2)
    assert seen[-1] == Progress("half", "t", 20, 40, 10, 20, 5.0, 20 / 5.0, 3, 10)
    clock.now = 103.0
    meter.computed(10, 0)
    assert seen[-1].rate == 20 / 3
    meter.begin("c", "slow", "t")
    clock.now = 108.0
    meter.computed(5, 0)
    assert seen[-1] == Progress("slow", "t", 35, 40, 5, 10, 1.0, 5.0, 3, 10)
    clock.now = 113.0
    meter.computed(5, 0)
    assert seen[-1].eta_s == 0.0
    assert seen[-1].done == seen[-1].total == 40


def test_cells_to_come_are_expected_at_the_mean_rate() -> None:
    seen: list[Progress] = []
    clock = Clock()
    meter = Meter({"a": 10, "b": 30}, seen.append, clock=clock)
    meter.begin("a", "original", "t")
    clock.now = 1.0
    meter.computed(10, 0)
    assert seen[-1].eta_s == 3.0
    meter.begin("b", "half", "t")
    meter.stored(20, 0)
    assert seen[-1].rate is None
    assert seen[-1].eta_s == 1.0


def test_no_callback_is_fine() -> None:
    meter = Meter({"a": 1}, None)
    meter.begin("a", "original", "t")
    meter.computed(1, 0)
