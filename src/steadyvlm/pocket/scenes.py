"""Cluttered 96x96 scenes made from a seed: coloured shapes, handwritten digits, printed words, textures, distractors.

A scene is a picture plus the list of what is in it, so that every question has a known answer. Scenes are
numpy only and depend on nothing but (split, index): train, validation, test and calibration scenes use
different seed streams, and test and calibration digits come from handwriting never seen in training.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from steadyvlm.pocket.assets import SHAPE_SIZES, TEST_DIGITS, Mask, digit_mask, load_assets
from steadyvlm.pocket.vocabulary import (
    COLOUR_RGB,
    COLOUR_WEIGHTS,
    COLOURS,
    NEIGHBOURS,
    SHAPE_WEIGHTS,
    SHAPES,
    SIZE,
    WORDS,
)
from steadyvlm.seeding import stable_seed

Split = Literal["train", "validation", "test", "calibration"]
Pixels = NDArray[np.uint8]


@dataclass(frozen=True, slots=True)
class Item:
    """One thing in a scene.

    Attributes:
        kind: "shape", "digit" or "word".
        name: the shape's name, the digit "0".."9" or the word.
        colour: the colour most people would name.
        second: a colour some people would name instead, or "".
        blend: how far the paint lies towards `second`, in [0, 0.5).
        box: left, top, right, bottom in pixels; right and bottom are exclusive.
    """

    kind: str
    name: str
    colour: str
    second: str
    blend: float
    box: tuple[int, int, int, int]
    letter_edges: tuple[int, ...] = ()

    @property
    def centre(self) -> tuple[float, float]:
        """Centre (x, y) in pixels."""
        left, top, right, bottom = self.box
        return (left + right) / 2, (top + bottom) / 2


@dataclass(frozen=True, slots=True)
class Scene:
    """A picture and its contents. `pixels`: [96, 96, 3] uint8 RGB."""

    id: str
    pixels: Pixels
    items: tuple[Item, ...]

    def of(self, kind: str) -> tuple[Item, ...]:
        """Return the items of one kind."""
        return tuple(item for item in self.items if item.kind == kind)


TRAIN_LOOK = (5.0, 1.0)
BENCHMARK_LOOK = (12.0, 0.7)
"""Standard deviation of the pixel noise (of 255), and a factor on how opaque things are painted. Benchmark scenes are
noisier and paler than training scenes: answers change where a model is good but not perfect."""


def make_scene(split: Split, index: int) -> Scene:
    """Return scene `index` of `split`; the same arguments always give the same bytes.

    >>> make_scene("test", 0).pixels.shape
    (96, 96, 3)
    """
    rng = np.random.default_rng(stable_seed("pocket-scene-v1", split, index))
    canvas = _background(rng)
    _distractors(rng, canvas)
    taken: list[tuple[int, int, int, int]] = []
    items: list[Item] = []
    noise, paint = TRAIN_LOOK if split == "train" else BENCHMARK_LOOK
    _place_word(rng, canvas, taken, items, paint)
    _place_digits(rng, canvas, taken, items, paint, unseen=split in ("test", "calibration"))
    _place_shapes(rng, canvas, taken, items, paint)
    canvas += noise * rng.standard_normal(canvas.shape, np.float32)
    return Scene(f"{split}-{index}", np.clip(canvas, 0, 255).astype(np.uint8), tuple(items))


def _background(rng: np.random.Generator) -> NDArray[np.float32]:
    ends = rng.uniform(10, 85, (2, 3))
    angle = rng.uniform(0, 2 * np.pi)
    axis = np.linspace(-1, 1, SIZE)
    ramp = (np.cos(angle) * axis[None, :] + np.sin(angle) * axis[:, None] + 1.5) / 3
    canvas = ends[0] * (1 - ramp[..., None]) + ends[1] * ramp[..., None]
    texture = rng.random()
    if texture < 0.3:
        coarse = rng.normal(0, rng.uniform(6, 16), (12, 12, 1))
        canvas = canvas + np.kron(coarse, np.ones((8, 8, 1)))
    elif texture < 0.6:
        turn, period = rng.uniform(0, np.pi), rng.uniform(6, 20)
        phase = (np.cos(turn) * np.arange(SIZE)[None, :] + np.sin(turn) * np.arange(SIZE)[:, None]) / period
        canvas = canvas + rng.uniform(8, 20) * np.sin(2 * np.pi * phase)[..., None]
    elif texture < 0.75:
        cell = int(rng.integers(6, 14))
        board = (np.arange(SIZE)[:, None] // cell + np.arange(SIZE)[None, :] // cell) % 2
        canvas = canvas + (rng.uniform(10, 26) * (board - 0.5))[..., None]
    return np.asarray(canvas, np.float32)


def _distractors(rng: np.random.Generator, canvas: NDArray[np.float32]) -> None:
    """Specks, dull blobs and thin strokes: visible, never asked about."""
    count = int(rng.integers(10, 40))
    rows, columns = rng.integers(0, SIZE, (2, count))
    canvas[rows, columns] = rng.uniform(60, 230, (count, 3))
    for _ in range(int(rng.integers(0, 4))):
        height, width = rng.integers(5, 22, 2)
        top, left = rng.integers(0, SIZE - height), rng.integers(0, SIZE - width)
        patch = canvas[top : top + height, left : left + width]
        patch += 0.5 * (rng.uniform(60, 120) + rng.uniform(-12, 12, 3) - patch)
    for _ in range(int(rng.integers(0, 4))):
        start, step = rng.uniform(0, SIZE, 2), rng.uniform(-1, 1, 2)
        points = (start + np.arange(30)[:, None] * step).astype(int)
        points = points[((points >= 0) & (points < SIZE)).all(axis=1)]
        canvas[points[:, 0], points[:, 1]] = rng.uniform(70, 150) + rng.uniform(-15, 15, 3)


def _paint(rng: np.random.Generator, colour: int, *, ambiguous: float) -> tuple[NDArray[np.float64], str, float]:
    rgb = np.array(COLOUR_RGB[colour], float)
    second, blend = "", 0.0
    name = COLOURS[colour]
    if name in NEIGHBOURS and rng.random() < ambiguous:
        second, blend = NEIGHBOURS[name], float(rng.uniform(0.2, 0.45))
        rgb = rgb * (1 - blend) + blend * np.array(COLOUR_RGB[COLOURS.index(second)], float)
    return rgb * rng.uniform(0.9, 1.05) + rng.uniform(-10, 10, 3), second, blend


def _spot(
    rng: np.random.Generator, mask: Mask, taken: list[tuple[int, int, int, int]]
) -> tuple[int, int, int, int] | None:
    height, width = mask.shape
    for _ in range(40):
        left, top = int(rng.integers(1, SIZE - width)), int(rng.integers(1, SIZE - height))
        box = (left, top, left + width, top + height)
        if all(box[0] > b[2] or b[0] > box[2] or box[1] > b[3] or b[1] > box[3] for b in taken):
            taken.append(box)
            return box
    return None


def _blit(
    canvas: NDArray[np.float32], mask: Mask, box: tuple[int, int, int, int], rgb: NDArray[np.float64], alpha: float
) -> None:
    left, top, right, bottom = box
    weight = (mask * alpha)[..., None]
    canvas[top:bottom, left:right] = canvas[top:bottom, left:right] * (1 - weight) + weight * rgb


def _place_word(
    rng: np.random.Generator,
    canvas: NDArray[np.float32],
    taken: list[tuple[int, int, int, int]],
    items: list[Item],
    paint: float,
) -> None:
    if rng.random() > 0.9:
        return
    word, font = int(rng.integers(len(WORDS))), int(rng.integers(4))
    mask, edges = load_assets().words[word, font]
    box = _spot(rng, mask, taken)
    if box is None:
        return
    colour = int(rng.choice(len(COLOURS), p=COLOUR_WEIGHTS))
    rgb, second, blend = _paint(rng, colour, ambiguous=0.15)
    _blit(canvas, mask, box, rgb, paint * float(rng.uniform(0.75, 1)))
    items.append(Item("word", WORDS[word], COLOURS[colour], second, blend, box, edges))


def _place_digits(
    rng: np.random.Generator,
    canvas: NDArray[np.float32],
    taken: list[tuple[int, int, int, int]],
    items: list[Item],
    paint: float,
    *,
    unseen: bool,
) -> None:
    assets = load_assets()
    total = len(assets.digits)
    low, high = (total - TEST_DIGITS, total) if unseen else (0, total - TEST_DIGITS)
    colours = rng.permutation(len(COLOURS))
    for n in range(int(rng.integers(0, 3))):
        which, size = int(rng.integers(low, high)), int(rng.choice((16, 19, 22)))
        mask = digit_mask(assets.digits[which], size)
        columns = np.flatnonzero(mask.max(axis=0) > 0.2)
        mask = mask[:, columns[0] : columns[-1] + 1]
        box = _spot(rng, mask, taken)
        if box is None:
            continue
        rgb, second, blend = _paint(rng, int(colours[n]), ambiguous=0.0)
        _blit(canvas, np.minimum(mask * 1.2, 1), box, rgb, paint * float(rng.uniform(0.75, 1)))
        items.append(Item("digit", str(assets.digit_labels[which]), COLOURS[colours[n]], second, blend, box))


def _place_shapes(
    rng: np.random.Generator,
    canvas: NDArray[np.float32],
    taken: list[tuple[int, int, int, int]],
    items: list[Item],
    paint: float,
) -> None:
    shape_weights, colour_weights = np.array(SHAPE_WEIGHTS), np.array(COLOUR_WEIGHTS)
    favour = rng.random()
    if favour < 0.3:
        shape_weights[rng.integers(len(SHAPES))] += 1.5
    elif favour < 0.6:
        colour_weights[rng.integers(len(COLOURS))] += 1.5
    shape_weights, colour_weights = shape_weights / shape_weights.sum(), colour_weights / colour_weights.sum()
    for _ in range(int(rng.integers(3, 8))):
        kind, size = int(rng.choice(len(SHAPES), p=shape_weights)), int(rng.choice(SHAPE_SIZES))
        colour = int(rng.choice(len(COLOURS), p=colour_weights))
        mask = load_assets().shapes[kind, size]
        box = _spot(rng, mask, taken)
        if box is None:
            continue
        rgb, second, blend = _paint(rng, colour, ambiguous=0.15)
        _blit(canvas, mask, box, rgb, paint * float(rng.uniform(0.6, 1)))
        items.append(Item("shape", SHAPES[kind], COLOURS[colour], second, blend, box))
