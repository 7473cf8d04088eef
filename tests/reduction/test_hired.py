"""HiRED against section 5 of the specification, rewritten with Python loops and numpy's own reshapes."""

from __future__ import annotations

from fractions import Fraction
from typing import Any

import numpy as np
import pytest
import torch

from steadyvlm.errors import InvalidOption
from steadyvlm.reduction.base import FamilyAware, Signal, Signals, Site
from steadyvlm.reduction.hired import HiRED, apportion
from steadyvlm.reduction.layout import ImageLayout
from tiny import make_image
from tiny_families import tiny_family

Array = np.ndarray[Any, Any]
PICTURES = [(480, 640), (1000, 340), (300, 700), (672, 672), (900, 350), (336, 1008), (700, 300), (1200, 800)]
"""(height, width) in pixels; between them every mosaic and either kind of padding."""
MOSAICS = [(1, 2), (2, 1), (2, 2), (3, 1), (1, 3)]


def unpad(height: int, width: int, picture: tuple[int, int]) -> tuple[int, int, int, int]:
    """The window of a map that shows a picture scaled to fit and centred."""
    tall, wide = picture
    if wide / tall > width / height:
        edge = (height - int(tall * (width / wide))) // 2
        return (edge, 0, height - edge, width)
    edge = (width - int(wide * (height / tall))) // 2
    return (0, edge, height, width - edge)


def cut(picture: tuple[int, int], side: int = 24) -> ImageLayout:
    """The mosaic LLaVA-NeXT chooses: most of the picture's pixels, then least waste."""
    tall, wide = picture
    found: list[tuple[int, int, tuple[int, int]]] = []
    for rows, columns in MOSAICS:
        high, broad = rows * 336, columns * 336
        scale = min(broad / wide, high / tall)
        effective = min(int(wide * scale) * int(tall * scale), tall * wide)
        found.append((-effective, high * broad - effective, (rows, columns)))
    mosaic = min(found)[2]
    window = unpad(mosaic[0] * side, mosaic[1] * side, picture)
    return ImageLayout((side, side), mosaic, window, newlines=True, has_cls=True, picture=picture)


def random_signals(layout: ImageLayout, seed: int) -> Signals:
    generator = torch.Generator().manual_seed(seed)
    tokens = layout.tiles * layout.tokens_per_tile
    last, first = ((torch.randn(16, tokens, generator=generator) * 2).softmax(-1) for _ in range(2))
    return Signals(tokens, has_cls=True, layout=layout, cls_attention=last, first_cls_attention=first)


def top(scores: Array, count: int) -> list[int]:
    return sorted(range(len(scores)), key=lambda i: (-scores[i], i))[:count]


def added(signals: Signals, signal: Signal) -> Array:
    return signals.require(signal).double().numpy().sum(axis=0)


def released(signals: Signals, rate: float, alpha: float) -> tuple[list[int], list[int]]:
    """The rows the authors' code keeps of a tiled picture, in its order, and how many each tile was given."""
    layout = signals.layout
    assert layout is not None
    tiles, size, side = layout.tiles, layout.tokens_per_tile, layout.grid[0]
    scores = added(signals, Signal.CLS_ATTENTION).reshape(tiles, size)
    first = added(signals, Signal.FIRST_CLS_ATTENTION)[:size]
    total = int(tiles * size * rate)
    full = min(int(total * alpha), size)
    rest = min(total - full, (tiles - 1) * size)
    flat = np.zeros(size)
    flat[top(first, int(size * (1 - alpha)))] = 1
    columns, rows = layout.mosaic  # as the code unpacks (rows, columns)
    counts = flat.reshape(rows, columns, -1).sum(axis=-1).ravel().astype(np.float32)
    shares = counts / counts.sum(dtype=np.float32) * np.float32(rest)
    budgets = [full, *(min(int(share), size) for share in shares)]
    kept = np.zeros((tiles, size), dtype=bool)
    for tile, budget in enumerate(budgets):
        kept[tile, top(scores[tile], budget)] = True
    numbers = np.arange(layout.rows).reshape(tiles, size + 1)[:, 1:]
    order = numbers[0][kept[0]].tolist()

    def on_map(values: Array) -> Array:
        crops = values[1:].reshape(rows, columns, side, side)
        return crops.transpose(0, 2, 1, 3).reshape(rows * side, columns * side)

    upper, left, lower, right = unpad(rows * side, columns * side, layout.picture)
    shown, chosen = (on_map(values)[upper:lower, left:right] for values in (numbers, kept))
    return order + shown[chosen].tolist(), budgets


def corrected(signals: Signals, rate: float, alpha: float) -> list[int]:
    """The same with true quadrants, the right stitching, only visible patches and no token lost."""
    layout = signals.layout
    assert layout is not None
    tiles, size, (height, width) = layout.tiles, layout.tokens_per_tile, layout.grid
    scores = added(signals, Signal.CLS_ATTENTION).reshape(tiles, size)
    first = added(signals, Signal.FIRST_CLS_ATTENTION)[:size]
    total = int(tiles * size * rate)
    full = min(int(total * alpha), size)
    upper, left, lower, right = layout.window
    place: dict[tuple[int, int], tuple[int, int]] = {}
    for tile in range(1, tiles):
        for patch in range(size):
            row = (tile - 1) // layout.mosaic[1] * height + patch // width
            column = (tile - 1) % layout.mosaic[1] * width + patch % width
            if upper <= row < lower and left <= column < right:
                place[tile, patch] = (row, column)
    votes = [0] * (tiles - 1)
    for patch in top(first, int(size * (1 - alpha))):
        row = upper + (patch // width + 0.5) / height * (lower - upper)
        column = left + (patch % width + 0.5) / width * (right - left)
        votes[int(row // height) * layout.mosaic[1] + int(column // width)] += 1
    room = [sum(tile == crop + 1 for tile, _ in place) for crop in range(tiles - 1)]
    assert all(share <= limit for share, limit in zip(votes, room, strict=True))  # nothing is clamped in these cases
    rest = total - full
    exact = [Fraction(vote, sum(votes)) * rest for vote in votes]
    budgets = [int(share) for share in exact]
    by_rest = sorted(range(tiles - 1), key=lambda crop: (budgets[crop] - exact[crop], crop))
    for crop in by_rest[: rest - sum(budgets)]:
        budgets[crop] += 1
    chosen: dict[tuple[int, int], int] = {}
    for tile in range(1, tiles):
        visible = [patch for patch in range(size) if (tile, patch) in place]
        for patch in sorted(visible, key=lambda i: (-scores[tile][i], i))[: budgets[tile - 1]]:
            chosen[place[tile, patch]] = tile * (size + 1) + 1 + patch
    return sorted(patch + 1 for patch in top(scores[0], full)) + [chosen[spot] for spot in sorted(chosen)]


@pytest.mark.parametrize(("rate", "count"), [(0.2, 115), (0.1, 57), (0.4, 230)])
def test_published_settings_on_one_tile(rate: float, count: int) -> None:
    signals = random_signals(ImageLayout((24, 24), has_cls=True), seed=1)
    for compat in (True, False):
        keep = HiRED(keep_ratio=rate, compat=compat).select(signals, Site()).keep
        assert keep.numel() == count
        assert keep.tolist() == sorted(patch + 1 for patch in top(added(signals, Signal.CLS_ATTENTION), count))


@pytest.mark.parametrize("picture", PICTURES)
@pytest.mark.parametrize("rate", [0.2, 0.1, 0.4])
def test_compat_keeps_what_the_released_code_keeps(picture: tuple[int, int], rate: float) -> None:
    signals = random_signals(cut(picture), seed=picture[0])
    order, budgets = released(signals, rate, 0.5)
    selection = HiRED(keep_ratio=rate, compat=True).select(signals, Site())
    assert selection.keep.tolist() == order
    assert selection.mix is None
    assert len(order) <= sum(budgets)


@pytest.mark.parametrize(
    ("picture", "budget", "measured"), [((480, 640), 576, 509), ((1000, 340), 460, 249), ((300, 700), 460, 260)]
)
def test_compat_loses_about_what_the_specification_measured(
    picture: tuple[int, int], budget: int, measured: int
) -> None:
    signals = random_signals(cut(picture), seed=0)
    assert budget - 3 < sum(released(signals, 0.2, 0.5)[1]) <= budget
    kept = HiRED(compat=True).select(signals, Site()).keep.numel()
    assert abs(kept - measured) <= 16  # measured on other random scores


@pytest.mark.parametrize("picture", PICTURES)
@pytest.mark.parametrize(("rate", "alpha"), [(0.2, 0.5), (0.1, 0.5), (0.4, 0.5), (0.2, 0.25), (0.2, 0.8)])
def test_without_compat_no_defect_is_left(picture: tuple[int, int], rate: float, alpha: float) -> None:
    layout = cut(picture)
    signals = random_signals(layout, seed=picture[1])
    selection = HiRED(keep_ratio=rate, alpha=alpha).select(signals, Site())
    assert selection.keep.tolist() == corrected(signals, rate, alpha)
    assert selection.keep.numel() == int(layout.tiles * 576 * rate), "no token is lost"


@pytest.mark.parametrize("side", [6, 12])
@pytest.mark.parametrize("mosaic", MOSAICS)
def test_small_tiles(side: int, mosaic: tuple[int, int]) -> None:
    window = (0, 0, mosaic[0] * side, mosaic[1] * side)
    picture = (mosaic[0] * 100, mosaic[1] * 100)
    layout = ImageLayout((side, side), mosaic, window, has_cls=True, picture=picture)
    signals = random_signals(layout, seed=side)
    assert HiRED().select(signals, Site()).keep.tolist() == corrected(signals, 0.2, 0.5)
    assert HiRED(compat=True).select(signals, Site()).keep.tolist() == released(signals, 0.2, 0.5)[0]


def test_a_full_base_tile_leaves_the_rest_to_the_crops() -> None:
    layout = cut((672, 672))
    signals = random_signals(layout, seed=3)
    for compat in (True, False):
        keep = HiRED(keep_ratio=0.5, alpha=0.9, compat=compat).select(signals, Site()).keep
        assert (keep < 577).sum() == 576
    assert keep.numel() == 1440


def test_crops_that_show_little_leave_the_rest_to_the_base_tile() -> None:
    layout = ImageLayout((6, 6), (2, 2), window=(5, 0, 7, 12), has_cls=True)  # 24 of 144 patches show picture
    keep = HiRED(keep_ratio=0.3, alpha=0.2).select(random_signals(layout, seed=1), Site()).keep
    assert keep.numel() == 54
    assert (keep < 37).sum() == 30


@pytest.mark.parametrize("compat", [True, False])
def test_without_content_scores_the_crops_share_evenly(compat: bool) -> None:
    layout = cut((672, 672))
    signals = random_signals(layout, seed=4)
    keep = HiRED(keep_ratio=0.4, alpha=1.0, compat=compat).select(signals, Site()).keep
    tiles = torch.bincount(keep // 577, minlength=5).tolist()
    assert tiles == [576, 144, 144, 144, 144]


def test_a_picture_of_unknown_size_is_taken_to_have_the_shape_of_its_window() -> None:
    layout = ImageLayout((24, 24), (3, 1), window=(1, 0, 71, 24), has_cls=True)
    known = ImageLayout((24, 24), (3, 1), window=(1, 0, 71, 24), has_cls=True, picture=(1000, 340))
    signals = random_signals(layout, seed=5)
    same = Signals(
        signals.num_tokens,
        has_cls=True,
        layout=known,
        cls_attention=signals.cls_attention,
        first_cls_attention=signals.first_cls_attention,
    )
    method = HiRED(compat=True)
    assert torch.equal(method.select(signals, Site()).keep, method.select(same, Site()).keep)


@pytest.mark.parametrize("picture", [(48, 64), (100, 34), (30, 70)])
def test_the_family_says_how_large_the_picture_was(picture: tuple[int, int]) -> None:
    layout = tiny_family("llava_next").preprocess(make_image(0, picture[1], picture[0])).layout
    assert layout.picture == picture
    assert layout.window == unpad(*layout.map_size, picture)


def test_nothing_and_everything() -> None:
    assert HiRED(keep_ratio=0.0).select(random_signals(cut((480, 640)), seed=1), Site()).keep.numel() == 0
    assert (
        HiRED(keep_ratio=0.001).select(random_signals(ImageLayout((6, 6), has_cls=True), 1), Site()).keep.numel() == 0
    )
    assert HiRED(keep_ratio=1).sites(32) == ()
    assert HiRED().sites(32) == (Site(),)
    assert HiRED().select(Signals(0), Site()).keep.numel() == 0


def test_what_it_says_of_itself() -> None:
    method = HiRED()
    assert method.needs == {Signal.CLS_ATTENTION, Signal.FIRST_CLS_ATTENTION}
    assert method.compact_positions
    assert isinstance(method, FamilyAware)
    assert set(method.refusals) == {"qwen2_vl", "qwen2_5_vl"}
    assert not method.equivalents


@pytest.mark.parametrize("options", [{"keep_ratio": -0.1}, {"alpha": 1.5}, {"alpha": "half"}, {"compat": 1}])
def test_values_out_of_range_are_refused(options: dict[str, Any]) -> None:
    with pytest.raises(InvalidOption, match=f"hired: {next(iter(options))}"):
        HiRED(**options)


@pytest.mark.parametrize(
    ("total", "votes", "room", "expected"),
    [
        (288, [33, 21, 21, 25], [576] * 4, [95, 61, 60, 72]),  # 95.04, 60.48, 60.48, 72: the tie to the lower index
        (7, [1, 1, 1], [2, 9, 9], [2, 3, 2]),
        (9, [5, 0, 0], [4, 3, 9], [4, 3, 2]),
        (3, [0, 0, 1], [9, 9, 0], [2, 1, 0]),
        (99, [3, 1], [4, 5], [4, 5]),
        (5, [1, 1], [3, 2], [3, 2]),
        (0, [1, 1], [3, 2], [0, 0]),
    ],
)
def test_budgets_are_shared_by_hand(total: int, votes: list[int], room: list[int], expected: list[int]) -> None:
    assert apportion(total, votes, room) == expected
