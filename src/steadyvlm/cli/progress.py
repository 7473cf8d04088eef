"""The progress of a study on stderr: a bar with rate and time left in a terminal, a line now and then elsewhere."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from types import TracebackType
from typing import TYPE_CHECKING, Self, TextIO

if TYPE_CHECKING:
    from steadyvlm.study.progress import Progress

PLAIN_INTERVAL_S = 15.0
"""Seconds between two lines of plain output, unless an arm begins or ends."""


class ProgressDisplay:
    """A progress callback that is also a context manager.

    In a terminal it draws one bar; otherwise (a log file, CI) it writes plain lines. `shown` tells whether there was
    anything to show: whether the work itself has begun.
    """

    def __init__(self, stream: TextIO | None = None, *, clock: Callable[[], float] = time.monotonic) -> None:
        self.shown = False
        self._stream = stream or sys.stderr
        self._display = _Bar(self._stream) if self._stream.isatty() else _Lines(self._stream, clock)

    def __enter__(self) -> Self:
        """Begin; nothing is shown before the first call."""
        return self

    def __call__(self, progress: Progress) -> None:
        """Show one moment of a run."""
        self.shown = True
        self._display.show(progress)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Leave the terminal as it was."""
        self._display.close()


def describe(progress: Progress, *, whole_study: bool = True) -> str:
    """Return what is known about a moment, as one line of text; a bar shows the whole study itself.

    >>> from steadyvlm.study.progress import Progress
    >>> describe(Progress("fastv-50", "pocket", 1600, 8600, 400, 1200, 61.3, 95.0, 1, 0))
    'fastv-50 on pocket: 400/1,200 · whole study 1,600/8,600 · 61 samples/s · 1:35 left · 1 failed'
    """
    parts = [f"{progress.arm} on {progress.task}: {progress.cell_done:,}/{progress.cell_total:,}"]
    if whole_study:
        parts.append(f"whole study {progress.done:,}/{progress.total:,}")
    if progress.rate is not None:
        parts.append(f"{rate_text(progress.rate)} samples/s")
    if progress.eta_s is not None:
        parts.append(f"{duration_text(progress.eta_s)} left")
    if progress.failures:
        parts.append(f"{progress.failures:,} failed")
    return " · ".join(parts)


def duration_text(seconds: float) -> str:
    """Return a duration as m:ss or h:mm:ss, rounded up to a full second.

    >>> duration_text(94.2), duration_text(3600.0)
    ('1:35', '1:00:00')
    """
    minutes, second = divmod(int(-(-seconds // 1)), 60)
    hours, minute = divmod(minutes, 60)
    return f"{hours}:{minute:02}:{second:02}" if hours else f"{minute}:{second:02}"


def rate_text(rate: float) -> str:
    """Return a rate with two figures below ten.

    >>> rate_text(61.27), rate_text(0.4)
    ('61', '0.4')
    """
    return f"{rate:.0f}" if rate >= 10 else f"{rate:.1f}"


class _Bar:
    """One bar over the whole study, drawn by rich."""

    def __init__(self, stream: TextIO) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn

        self._bars = Progress(
            TextColumn("{task.description}", markup=False),
            BarColumn(),
            TaskProgressColumn(),
            TextColumn("{task.fields[rest]}", markup=False),
            console=Console(file=stream),
            transient=True,
        )
        self._bar = self._bars.add_task("", total=None, rest="")

    def show(self, progress: Progress) -> None:
        self._bars.start()
        first, _, rest = describe(progress, whole_study=False).partition(" · ")
        self._bars.update(self._bar, description=first, completed=progress.done, total=progress.total, rest=rest)

    def close(self) -> None:
        self._bars.stop()


class _Lines:
    """A line when an arm begins or ends, and every few seconds between."""

    def __init__(self, stream: TextIO, clock: Callable[[], float]) -> None:
        self._stream, self._clock = stream, clock
        self._cell: tuple[str, str] | None = None
        self._next = 0.0

    def show(self, progress: Progress) -> None:
        cell, now = (progress.arm, progress.task), self._clock()
        if cell == self._cell and progress.cell_done < progress.cell_total and now < self._next:
            return
        self._cell, self._next = cell, now + PLAIN_INTERVAL_S
        print(describe(progress), file=self._stream, flush=True)

    def close(self) -> None:
        """There is nothing to put back."""
