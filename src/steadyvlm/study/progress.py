"""How far a study is, how fast it goes, and how long it will still take.

Arms differ in speed by far (8-bit matrices on a CPU, half the visual tokens), so the time left is not "rate so far
times samples left": the current cell goes on at its own rate, and a cell that has not begun is expected to go at the
mean of the cells seen.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Progress:
    """One moment of a run, handed to the progress callback.

    Attributes:
        arm, task: the cell at work.
        done, total: samples of the whole study that have an answer or a recorded failure.
        cell_done, cell_total: the same for this cell.
        rate: samples per second of this cell in this run; None before its first batch.
        eta_s: seconds left for the whole study; None while there is nothing to tell it from.
        failures: recorded failures of the whole study so far.
        stored: samples that were there already when this run began.
    """

    arm: str
    task: str
    done: int
    total: int
    cell_done: int
    cell_total: int
    rate: float | None
    eta_s: float | None
    failures: int
    stored: int


ProgressCallback = Callable[[Progress], None]


class Meter:
    """Counts samples and seconds per cell, and reports to a callback."""

    def __init__(
        self,
        sizes: Mapping[str, int],
        report: ProgressCallback | None,
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._left = dict(sizes)
        self._sizes = dict(sizes)
        self._report = report
        self._clock = clock
        self._failures = 0
        self._stored = 0
        self._computed = 0
        self._seconds = 0.0
        self._cell = ("", "", "")
        self._cell_computed = 0
        self._cell_seconds = 0.0
        self._last = clock()

    def begin(self, key: str, arm: str, task: str) -> None:
        """Go to the next cell; time from here on is its own."""
        self._cell = (key, arm, task)
        self._cell_computed, self._cell_seconds = 0, 0.0
        self._last = self._clock()

    def stored(self, count: int, failures: int) -> None:
        """Count samples of the current cell that need no work."""
        self._left[self._cell[0]] -= count
        self._stored += count
        self._failures += failures
        self._last = self._clock()
        self._tell()

    def computed(self, count: int, failures: int) -> None:
        """Count samples of the current cell that were just answered."""
        now = self._clock()
        self._cell_seconds += now - self._last
        self._seconds += now - self._last
        self._last = now
        self._left[self._cell[0]] -= count
        self._cell_computed += count
        self._computed += count
        self._failures += failures
        self._tell()

    def _tell(self) -> None:
        if self._report is None:
            return
        key, arm, task = self._cell
        total = sum(self._sizes.values())
        self._report(
            Progress(
                arm=arm,
                task=task,
                done=total - sum(self._left.values()),
                total=total,
                cell_done=self._sizes[key] - self._left[key],
                cell_total=self._sizes[key],
                rate=_rate(self._cell_computed, self._cell_seconds),
                eta_s=self._eta_s(),
                failures=self._failures,
                stored=self._stored,
            )
        )

    def _eta_s(self) -> float | None:
        here = self._left[self._cell[0]]
        elsewhere = sum(self._left.values()) - here
        mean = _rate(self._computed, self._seconds)
        rate = _rate(self._cell_computed, self._cell_seconds) or mean
        if here + elsewhere == 0:
            return 0.0
        if rate is None or mean is None:
            return None
        return here / rate + elsewhere / mean


def _rate(count: int, seconds: float) -> float | None:
    return count / seconds if count and seconds > 0 else None
