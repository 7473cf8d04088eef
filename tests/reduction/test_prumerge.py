"""PruMerge and PruMerge+ against section 6 of the specification, in float64 with Python loops."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from steadyvlm.errors import InvalidOption
from steadyvlm.reduction.base import FamilyAware, Selection, Signal, Signals, Site
from steadyvlm.reduction.layout import ImageLayout
from steadyvlm.reduction.prumerge import PruMerge, PruMergePlus

Array = np.ndarray[Any, Any]
TABLE = {16: (12, 48), 20: (9, 64), 24: (8, 72), 32: (6, 96), 40: (4, 144), 48: (4, 144), 64: (3, 192)} | {
    **dict.fromkeys((65, 80, 96), (2, 288)),
    **dict.fromkeys((97, 120, 143), (1, 575)),
}
"""Outliers of 576 -> (u, size of G), section 6.4; more than a quarter cannot lie above the third quartile."""


def made(tokens: int, seed: int, *, spread: float = 2.0, width: int = 24) -> tuple[Signals, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    scores = (torch.randn(tokens + 1, generator=generator) * spread).softmax(0)[1:]
    keys = torch.randn(tokens + 1, 48, generator=generator)
    rows = torch.randn(tokens + 1, width, generator=generator)
    return Signals(tokens, has_cls=True, last_cls_attention=scores, last_keys=keys), rows


def apply(selection: Selection, rows: Tensor) -> Array:
    assert selection.mix is not None
    return (selection.mix @ rows).numpy()


def kept_list(scores: Array, *, plus: bool, fixed: float | None = None) -> list[int]:
    tokens = len(scores)
    if fixed is None:
        q1, q3 = np.percentile(scores, [25, 75])
        ratio = int((scores > q3 + 1.5 * (q3 - q1)).sum()) / tokens
    else:
        ratio = fixed
    kept = sorted(range(tokens), key=lambda i: (-scores[i], i))[: int(tokens * ratio)]
    if plus and kept:
        t = int(1 / ratio)
        grid = range(0, tokens - 1, max(1, int(t / 3))) if fixed is None else range(int(t / 2), tokens - 1, t)
        kept += [index for index in grid if index not in kept]
    return kept


def reference(signals: Signals, rows: Tensor, kept: list[int], neighbours: int = 32) -> Array:
    """Section 6.3: the output rows."""
    scores = signals.require(Signal.LAST_CLS_ATTENTION).double().numpy()
    keys = signals.require(Signal.LAST_KEYS).double().numpy()[1:]
    hidden = rows.double().numpy()[1:]
    directions = keys / np.linalg.norm(keys, axis=1, keepdims=True)
    output = []
    for i in kept:
        others = [j for j in range(len(scores)) if j != i]
        others.sort(key=lambda j: (-(directions[i] @ directions[j]), j))
        output.append(hidden[i] + sum((scores[j] * hidden[j] for j in others[:neighbours]), np.zeros(hidden.shape[1])))
    pruned = [j for j in range(len(scores)) if j not in set(kept)]
    output.append(sum((scores[j] * hidden[j] for j in pruned), np.zeros(hidden.shape[1])))
    return np.stack(output)


@pytest.mark.parametrize("plus", [False, True])
@pytest.mark.parametrize("tokens", [36, 144, 576])
@pytest.mark.parametrize("spread", [0.5, 1.0, 2.0])
def test_adaptive_modes_agree_with_a_float64_reimplementation(plus: bool, tokens: int, spread: float) -> None:
    signals, rows = made(tokens, seed=tokens + int(10 * spread), spread=spread)
    method = PruMergePlus() if plus else PruMerge()
    selection = method.select(signals, Site())
    kept = kept_list(signals.require(Signal.LAST_CLS_ATTENTION).double().numpy(), plus=plus)
    assert [row - 1 for row in selection.keep.tolist()][:-1] == kept
    np.testing.assert_allclose(apply(selection, rows), reference(signals, rows, kept), atol=1e-5)


@pytest.mark.parametrize(("outliers", "expected"), TABLE.items())
def test_samples_follow_the_specifications_table(outliers: int, expected: tuple[int, int]) -> None:
    step, size = expected
    scores = torch.full((576,), 0.001).index_fill(0, torch.arange(1, 1 + outliers), 0.005)
    signals = Signals(576, has_cls=True, last_cls_attention=scores, last_keys=torch.ones(577, 2))
    kept = [row - 1 for row in PruMergePlus().select(signals, Site()).keep.tolist()]
    grid = set(range(0, 575, step))
    assert len(grid) == size
    assert kept[:outliers] == list(range(1, 1 + outliers))
    assert kept[outliers:-1] == sorted(grid - set(range(1, 1 + outliers)))


@pytest.mark.parametrize("outliers", range(1, 145))
def test_the_share_of_outliers_gives_their_number_back(outliers: int) -> None:
    for tokens in (576, 144, 36):
        if outliers < tokens // 4:  # more of them would move the quartile, and be none
            scores = torch.zeros(tokens).index_fill(0, torch.arange(outliers), 0.5)
            signals = Signals(tokens, has_cls=True, last_cls_attention=scores, last_keys=torch.ones(tokens + 1, 2))
            assert PruMerge().select(signals, Site()).keep.numel() == outliers + 1


def test_the_fixed_mode_takes_an_eighth_and_as_many_samples() -> None:
    signals, rows = made(576, seed=3)
    scores = signals.require(Signal.LAST_CLS_ATTENTION).double().numpy()
    selection = PruMergePlus(outlier_ratio=1 / 8).select(signals, Site())
    kept = kept_list(scores, plus=True, fixed=1 / 8)
    assert [row - 1 for row in selection.keep.tolist()][:-1] == kept
    np.testing.assert_allclose(apply(selection, rows), reference(signals, rows, kept), atol=1e-5)
    twice = set(kept[:72]) & set(range(4, 575, 8))
    assert len(kept) == 144 - len(twice), "what is chosen twice is kept once"
    top = PruMerge(outlier_ratio=1 / 8).select(signals, Site()).keep
    assert torch.equal(top[:-1], selection.keep[:72])
    assert top.numel() == 73


def test_the_extra_token_bears_the_number_of_the_strongest_dropped_patch() -> None:
    signals, _ = made(144, seed=5)
    scores = signals.require(Signal.LAST_CLS_ATTENTION)
    selection = PruMerge().select(signals, Site())
    kept = (selection.keep[:-1] - 1).tolist()
    dropped = [patch for patch in range(144) if patch not in kept]
    assert selection.keep[-1].item() == max(dropped, key=lambda patch: float(scores[patch])) + 1
    assert selection.mix is not None
    assert torch.equal(selection.mix[-1, 1:][dropped], scores[dropped])
    assert not selection.mix[:, 0].any(), "CLS is in no token"


def test_without_outliers_the_extra_token_is_alone() -> None:
    scores = torch.full((36,), 1 / 40)
    signals = Signals(36, has_cls=True, last_cls_attention=scores, last_keys=torch.randn(37, 4))
    for method in (PruMerge(), PruMergePlus()):
        selection = method.select(signals, Site())
        assert selection.keep.tolist() == [1]
        assert selection.mix is not None
        assert torch.equal(selection.mix, torch.cat([torch.zeros(1), scores])[None])


def test_everything_kept_leaves_a_zero_token_in_the_name_of_cls() -> None:
    signals, rows = made(36, seed=7)
    selection = PruMerge(outlier_ratio=1.0, neighbours=0).select(signals, Site())
    assert sorted(selection.keep.tolist()) == list(range(37))
    assert selection.keep[-1] == 0
    assert not apply(selection, rows)[-1].any()


def test_too_many_outliers_are_sampled_one_by_one() -> None:
    scores = torch.linspace(0.0, 1.0, 40)
    signals = Signals(40, has_cls=True, last_cls_attention=scores, last_keys=torch.randn(41, 4))
    kept = PruMergePlus(iqr_factor=0.0).select(signals, Site()).keep  # a quarter lie above: u = 1
    assert kept.numel() == 41
    half = PruMergePlus(outlier_ratio=0.5).select(signals, Site()).keep  # distance 2, from 1
    assert half.numel() == 20 + 10 + 1


def test_fewer_patches_than_neighbours_are_all_neighbours() -> None:
    signals, rows = made(20, seed=11)
    selection = PruMerge(outlier_ratio=0.2).select(signals, Site())
    kept = kept_list(signals.require(Signal.LAST_CLS_ATTENTION).double().numpy(), plus=False, fixed=0.2)
    np.testing.assert_allclose(apply(selection, rows), reference(signals, rows, kept, neighbours=19), atol=1e-5)
    alone, _ = made(1, seed=1)
    assert PruMerge(outlier_ratio=1.0).select(alone, Site()).keep.tolist() == [1, 0]


@pytest.mark.parametrize("method", [PruMerge(), PruMergePlus(), PruMergePlus(outlier_ratio=0.125)])
def test_tiles_are_reduced_one_by_one(method: PruMerge | PruMergePlus) -> None:
    layout = ImageLayout((12, 12), (2, 2), window=(3, 0, 21, 24), has_cls=True)
    parts = [made(144, seed=tile)[0] for tile in range(5)]
    signals = Signals(
        720,
        has_cls=True,
        layout=layout,
        last_cls_attention=torch.cat([part.require(Signal.LAST_CLS_ATTENTION) for part in parts]),
        last_keys=torch.cat([part.require(Signal.LAST_KEYS) for part in parts]),
    )
    selection = method.select(signals, Site())
    alone = [method.select(part, Site()) for part in parts]
    assert selection.keep.tolist() == [row + 145 * tile for tile, one in enumerate(alone) for row in one.keep.tolist()]
    assert selection.mix is not None
    blocks = torch.block_diag(*(one.mix for one in alone if one.mix is not None))
    assert torch.equal(selection.mix, blocks)


def test_what_they_say_of_themselves() -> None:
    for method in (PruMerge(), PruMergePlus()):
        assert method.needs == {Signal.LAST_CLS_ATTENTION, Signal.LAST_KEYS}
        assert method.sites(32) == (Site(),)
        assert method.compact_positions
        assert isinstance(method, FamilyAware)
        assert set(method.refusals) == {"qwen2_vl", "qwen2_5_vl"}
        assert set(method.equivalents) == {"llava_next"}
        assert method.select(Signals(0), Site()).keep.numel() == 0


@pytest.mark.parametrize("method", [PruMerge, PruMergePlus])
@pytest.mark.parametrize(
    "options",
    [
        {"outlier_ratio": 0},
        {"outlier_ratio": 1.5},
        {"neighbours": -1},
        {"iqr_factor": -1},
        {"iqr_factor": float("inf")},
        {"iqr_factor": "much"},
    ],
)
def test_values_out_of_range_are_refused(method: Any, options: dict[str, Any]) -> None:
    with pytest.raises(InvalidOption, match=f"{method.method}: {next(iter(options))}"):
        method(**options)
