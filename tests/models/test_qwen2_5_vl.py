"""The windowed tower of Qwen2.5-VL: the windows of transformers, in few attention calls, whatever the pictures."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
import torch
from transformers.vision_utils import get_vision_position_ids, get_vision_window_index

from steadyvlm.errors import Unsupported
from steadyvlm.models import qwen_tower
from steadyvlm.models.qwen2_5_vl import Qwen25VL
from steadyvlm.models.qwen_windows import Packing, pack
from steadyvlm.reduction.base import Signal
from tiny import make_image
from tiny_families import make_family, qwen_config, tiny_family

CPU = torch.device("cpu")
GRIDS = ((3, 5), (4, 4), (1, 1), (9, 2), (4, 4))


def members(packing: Packing, groups: Any, per_token: int) -> set[frozenset[int]]:
    """Which merged tokens attend together, by their own numbers."""
    tokens = packing.order.repeat_interleave(per_token)
    return {frozenset(tokens[line].tolist()) for group in groups for line in group.rows}


@pytest.mark.parametrize("grids", [GRIDS, GRIDS[:1], ((8, 8), (8, 8))])
@pytest.mark.parametrize("side", [1, 2, 4])
def test_windows_and_pictures_are_those_of_transformers(grids: tuple[tuple[int, int], ...], side: int) -> None:
    packing = pack(grids, 2, side, CPU)
    thw = torch.tensor([(1, 2 * height, 2 * width) for height, width in grids])
    order, ends = get_vision_window_index(thw, 2, side * 8, 4)
    bounds = [int(end) // 4 for end in ends]
    expected = {frozenset(order[a:b].tolist()) for a, b in itertools.pairwise(bounds)}
    assert members(packing, packing.windows, 4) == expected
    first, whole = 0, set()
    for height, width in grids:
        whole.add(frozenset(range(first, first + height * width)))
        first += height * width
    assert members(packing, packing.pictures, 4) == whole
    assert torch.equal(packing.order[packing.back], torch.arange(first))
    own = torch.cat(packing.own)
    assert torch.equal(packing.places[own], get_vision_position_ids(thw, 2))


def test_windows_of_one_length_are_one_slice() -> None:
    packing = pack(((23, 17), (16, 16), (5, 40)), 2, 4, CPU)
    assert all(group.start is not None for group in packing.windows)
    lengths = [group.rows.shape[1] for group in packing.windows]
    assert lengths == sorted(set(lengths))
    assert sum(group.rows.numel() for group in packing.windows) == 4 * (23 * 17 + 16 * 16 + 5 * 40)


def test_a_tower_without_windows_keeps_the_order() -> None:
    packing = pack(((2, 3), (2, 3), (1, 2)), 2, None, CPU)
    assert packing.order.tolist() == list(range(14))
    assert packing.windows is packing.pictures
    assert [group.rows.shape for group in packing.pictures] == [(2, 24), (1, 8)]
    assert all(group.start is not None for group in packing.pictures)


def test_attention_calls_do_not_grow_with_the_number_of_windows(monkeypatch: pytest.MonkeyPatch) -> None:
    model, calls = tiny_family("qwen2_5_vl"), []
    real = qwen_tower.scaled_dot_product_attention

    def count(*args: Any) -> torch.Tensor:
        calls.append(args[0].shape)
        return real(*args)

    monkeypatch.setattr(qwen_tower, "scaled_dot_product_attention", count)
    model.encode([model.preprocess(make_image(seed, 64, 64)) for seed in range(3)], set())
    assert calls == [(48, 2, 16, 8), (3, 2, 256, 8), (3, 2, 256, 8), (48, 2, 16, 8)]


def test_a_tower_that_never_sees_a_whole_picture_gives_rows_alone() -> None:
    model = make_family("qwen2_5_vl", fullatt_block_indexes=[])
    assert model.info.signals == {Signal.ENCODER_ROWS}
    with pytest.raises(Unsupported, match="no block of its tower attends over the whole picture"):
        model.check_signals({Signal.SALIENCE})
    assert model.encode([model.preprocess(make_image(1, 40, 24))], set())[0].rows.shape == (15, 32)


def test_windows_smaller_than_a_token_are_refused() -> None:
    with pytest.raises(Unsupported, match="repair window_size"):
        Qwen25VL.check_config(qwen_config("2.5", window_size=7))
