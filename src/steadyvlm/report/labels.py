"""Where a label goes so that it hides nothing: try places around the point, near ones first."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

_GAPS = (8.0, 16.0, 28.0, 44.0, 64.0, 90.0)
_DIRECTIONS = ((1, 0), (-1, 0), (1, -1), (1, 1), (-1, -1), (-1, 1), (0, -1), (0, 1))


@dataclass(frozen=True, slots=True)
class Box:
    """A rectangle in pixels; y grows downwards."""

    left: float
    top: float
    right: float
    bottom: float

    @staticmethod
    def around(x: float, y: float, radius: float) -> Box:
        """Return the square around a point."""
        return Box(x - radius, y - radius, x + radius, y + radius)

    def overlap(self, other: Box) -> float:
        """Return the shared area, 0 when they do not touch."""
        width = min(self.right, other.right) - max(self.left, other.left)
        height = min(self.bottom, other.bottom) - max(self.top, other.top)
        return width * height if width > 0 and height > 0 else 0.0

    def inside(self, other: Box) -> bool:
        """Whether no part lies outside `other`."""
        return (
            self.left >= other.left
            and self.right <= other.right
            and self.top >= other.top
            and self.bottom <= other.bottom
        )

    def nearest(self, x: float, y: float) -> tuple[float, float]:
        """Return the point of the box that is nearest to (x, y)."""
        return min(max(x, self.left), self.right), min(max(y, self.top), self.bottom)

    def distance(self, x: float, y: float) -> float:
        """Return how far (x, y) is from the box, 0 inside."""
        near_x, near_y = self.nearest(x, y)
        return float(((near_x - x) ** 2 + (near_y - y) ** 2) ** 0.5)


def place_label(anchor: tuple[float, float], width: float, height: float, taken: Sequence[Box], bounds: Box) -> Box:
    """Return the nearest free place for a label; the least covered one when none is free.

    >>> place_label((50.0, 50.0), 40, 10, [], Box(0, 0, 200, 100))
    Box(left=58.0, top=45.0, right=98.0, bottom=55.0)
    """
    x, y = anchor
    places = [
        Box(left, top, left + width, top + height)
        for gap in _GAPS
        for across, down in _DIRECTIONS
        for left, top in [(_start(x, across, gap, width), _start(y, down, gap, height))]
    ]
    fitting = [place for place in places if place.inside(bounds)] or [_pushed(places[0], bounds)]
    return min(fitting, key=lambda place: sum(place.overlap(box) for box in taken))  # ties: the nearest, listed first


def _start(centre: float, direction: int, gap: float, size: float) -> float:
    if direction == 0:
        return centre - size / 2
    return centre + gap if direction > 0 else centre - gap - size


def _pushed(box: Box, bounds: Box) -> Box:
    """The box moved to the left and down until it fits, as far as it can."""
    left = max(bounds.left, min(box.left, bounds.right - (box.right - box.left)))
    return Box(left, box.top, left + box.right - box.left, box.bottom)
