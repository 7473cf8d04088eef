"""The closed world of the pocket scenes: shapes, colours, words, places."""

from __future__ import annotations

SHAPES = ("circle", "square", "triangle", "star", "cross", "ring")
SHAPE_WEIGHTS = (0.22, 0.20, 0.17, 0.16, 0.13, 0.12)
"""Shapes are unequally frequent, so that "popular" absent objects exist, as in POPE."""

COLOURS = ("red", "green", "blue", "yellow", "purple", "cyan", "orange", "white")
COLOUR_WEIGHTS = (0.16, 0.15, 0.15, 0.13, 0.12, 0.10, 0.10, 0.09)
COLOUR_RGB = (
    (222, 48, 48),
    (52, 178, 62),
    (64, 92, 232),
    (232, 216, 56),
    (158, 62, 198),
    (62, 208, 214),
    (240, 138, 36),
    (238, 238, 238),
)
NEIGHBOURS = {
    "red": "orange",
    "orange": "yellow",
    "yellow": "orange",
    "blue": "purple",
    "purple": "blue",
    "cyan": "green",
}
"""Colours that people confuse; an object may be painted between two of them."""

_PRINTED = (
    "cat dog sun map cup key pen box car bus hat jam ice fox bee ant owl egg tea pie "
    "fish bird milk lamp book ship tree rain snow gold wind frog apple house water lime light music stone bread"
)
WORDS = tuple(_PRINTED.split())
"""Forty printed words of three to five letters; none is also a colour or a shape."""

ROWS = ("top", "middle", "bottom")
COLUMNS = ("left", "center", "right")
RELATIONS = ("left", "right", "above", "below")
LETTERS = "ABCD"

SIZE = 96
"""Width and height of a scene in pixels."""
PATCH = 8
GRID = SIZE // PATCH
"""Patches along one side: 12, hence 144 visual tokens."""
