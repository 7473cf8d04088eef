"""Axes: where a value lies in pixels, and which values get a tick."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

_ROUND = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0)


@dataclass(frozen=True, slots=True)
class Scale:
    """A map from [low, high] to pixels [start, stop], linear or by signed square root.

    The square root lets a run that loses 40 points and five that lose one share a figure; the axis says so.

    >>> Scale(0.0, 1.0, 0.0, 100.0)(0.25), Scale(0.0, 1.0, 0.0, 100.0, root=True)(0.25)
    (25.0, 50.0)
    """

    low: float
    high: float
    start: float
    stop: float
    root: bool = False

    def __call__(self, value: float) -> float:
        """Return the position of `value`, held inside the axis."""
        value = min(max(value, self.low), self.high)
        low, high = self._bend(self.low), self._bend(self.high)
        return self.start + (self._bend(value) - low) / (high - low) * (self.stop - self.start)

    def ticks(self, *, spacing: float) -> list[float]:
        """Return round values at least `spacing` pixels apart, 0 among them if it is in range."""
        return self._root_ticks(spacing) if self.root else self._linear_ticks(spacing)

    def _bend(self, value: float) -> float:
        return math.copysign(math.sqrt(abs(value)), value) if self.root else value

    def _linear_ticks(self, spacing: float) -> list[float]:
        most = max(1.0, abs(self.stop - self.start) / spacing)
        step = next((size for size in _ROUND if (self.high - self.low) / size <= most), self.high - self.low)
        first, last = math.ceil(self.low / step - 1e-9), math.floor(self.high / step + 1e-9)
        return [round(index * step, 6) for index in range(first, last + 1)]

    def _root_ticks(self, spacing: float) -> list[float]:
        chosen = [0.0] if self.low <= 0 <= self.high else []
        for side in (1, -1):
            for size in reversed(_ROUND):  # the largest first: they say how far the axis reaches
                value = side * size
                if self.low <= value <= self.high and all(abs(self(value) - self(t)) >= spacing for t in chosen):
                    chosen.append(value)
        return sorted(chosen)


def needs_root(values: Sequence[float]) -> bool:
    """Whether one value dwarfs the others so much that a linear axis would press them together.

    >>> needs_root([0.4, 0.01, 0.02, 0.03]), needs_root([0.1, 0.2, 0.3])
    (True, False)
    """
    sizes = sorted(abs(value) for value in values if math.isfinite(value) and value)
    return len(sizes) >= 3 and sizes[-1] > 5 * sizes[len(sizes) // 2]


def padded(values: Sequence[float], *, share: float = 0.06, least: float = 0.01) -> tuple[float, float]:
    """Return limits around `values` and 0, a little wider than needed and at least `least` wide."""
    low, high = min([0.0, *values]), max([0.0, *values])
    margin = max(high - low, least) * share
    low, high = (low - margin if low < 0 else low), (high + margin if high > 0 else high)
    return (low, high) if high - low >= least else (low - least / 2, high + least / 2)
