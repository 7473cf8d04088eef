from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import sparse_reference as reference
from steadyvlm.errors import InvalidOption
from steadyvlm.reduction import REDUCTIONS
from steadyvlm.reduction.base import FamilyAware, Rating, Selection, Signal, Signals, Site
from steadyvlm.reduction.sparsevlm import SparseVLM
from steadyvlm.registry import spec_of

BUDGETS = {"192": (300, 200, 110), "128": (303, 110, 36), "96": (238, 48, 26), "64": (66, 30, 17)}

# section 4.2: kept, pruned, recycled, clusters, n after layers 2, 6 and 15
TABLE = {
    "192": [(300, 276, 83, 9, 309), (200, 109, 33, 4, 204), (110, 94, 29, 3, 113)],
    "128": [(303, 273, 82, 9, 312), (110, 202, 61, 7, 117), (36, 81, 25, 3, 39)],
    "96": [(238, 338, 102, 11, 249), (48, 201, 61, 7, 55), (26, 29, 9, 1, 27)],
    "64": [(66, 510, 154, 16, 82), (30, 52, 16, 2, 32), (17, 15, 5, 1, 18)],
}
WIDTH = 32


def random_signals(tokens: int, seed: int, *, original: int | None = None, raters: int = 5, heads: int = 8) -> Signals:
    """Attention of raters, and hidden rows in loose crowds so that centres are clear."""
    generator = torch.Generator().manual_seed(seed)
    attention = (torch.randn(heads, raters, tokens + 60, generator=generator) * 2).softmax(-1)[..., 35 : 35 + tokens]
    crowds = torch.randn(max(2, tokens // 12), WIDTH, generator=generator)
    members = torch.randint(len(crowds), (tokens,), generator=generator)
    hidden = crowds[members] + 0.5 * torch.randn(tokens, WIDTH, generator=generator)
    return Signals(tokens, original_tokens=original or tokens, seed=seed, rater_attention=attention, hidden=hidden)


def apply(selection: Selection, rows: Tensor) -> Tensor:
    return rows[selection.keep] if selection.mix is None else selection.mix @ rows


def assert_agrees(selection: Selection, signals: Signals, keep: int) -> None:
    attention = signals.require(Signal.RATER_ATTENTION).double().numpy()
    hidden = signals.require(Signal.HIDDEN)
    kept, _, centres, block = reference.stage(attention, hidden.double().numpy(), keep)
    assert selection.keep.tolist() == kept + centres
    np.testing.assert_allclose(apply(selection, hidden).numpy(), block, atol=2e-6)


@pytest.mark.parametrize("name", list(BUDGETS))
def test_published_settings_agree_with_a_float64_reimplementation_and_the_table(name: str) -> None:
    method, tokens = SparseVLM(keep=BUDGETS[name]), 576
    for site, row in zip(method.sites(32), TABLE[name], strict=True):
        kept, pruned, recycled, clusters, left = row
        signals = random_signals(tokens, seed=tokens, original=576)
        selection = method.select(signals, site)
        assert_agrees(selection, signals, kept)
        assert selection.mix is not None
        merged = selection.mix[kept:]
        counts = (kept, tokens - kept, int((merged > 0).sum()), len(merged), selection.keep.numel())
        assert counts == (kept, pruned, recycled, clusters, left)
        tokens = left


@pytest.mark.parametrize("tokens", [36, 64, 144, 256, 400, 576])
@pytest.mark.parametrize("share", [0.6, 0.3, 0.06])
def test_shares_agree_with_a_float64_reimplementation(tokens: int, share: float) -> None:
    method = SparseVLM(layers=(2,), keep=(share,))
    for seed in range(2):
        signals = random_signals(tokens, seed)
        assert_agrees(method.select(signals, Site(3)), signals, int(tokens * share))


@pytest.mark.parametrize(("scale", "bias"), [(13.5, 0), (9, 6), (0.8, 0)])
@pytest.mark.parametrize("tokens", [36, 144, 576])
@pytest.mark.parametrize("raters", [1, 4, 23])
def test_the_first_release_keeps_in_proportion_to_the_rank(scale: float, bias: float, tokens: int, raters: int) -> None:
    signals = random_signals(tokens, seed=raters, raters=raters)
    rated = reference.rated(signals.require(Signal.RATER_ATTENTION).double().numpy())
    rank = int(np.linalg.matrix_rank(rated.astype(np.float32)))
    selection = SparseVLM(version="first", scale=scale, bias=bias).select(signals, Site(20))
    keep = int(rank * scale + bias)
    if keep >= tokens:
        assert selection.keep.tolist() == list(range(tokens))
        assert selection.mix is None
    else:
        assert_agrees(selection, signals, keep)


def test_the_first_release_counts_a_repeated_rater_once() -> None:
    signals = random_signals(144, seed=8, raters=2)
    attention = signals.require(Signal.RATER_ATTENTION)
    twice = dataclasses.replace(signals, rater_attention=torch.cat([attention, attention[:, :1]], dim=1))
    method = SparseVLM(version="first")
    kept = [int((method.select(each, Site(3)).mix == 1.0).any(dim=1).sum()) for each in (signals, twice)]
    assert kept == [27, 27]


def test_the_first_release_prunes_nothing_when_the_rank_is_full() -> None:
    signals = Signals(4, original_tokens=4, rater_attention=torch.eye(4)[None] / 2, hidden=torch.randn(4, 8))
    for compat in (False, True):
        selection = SparseVLM(version="first", scale=0.5, compat=compat).select(signals, Site(3))
        assert selection.keep.tolist() == [0, 1, 2, 3]
        assert selection.mix is None


@pytest.mark.parametrize("keep", [36, 37, 300])
def test_a_budget_of_all_tokens_changes_nothing_except_in_compatibility(keep: int) -> None:
    signals = random_signals(36, seed=3)
    plain = SparseVLM(layers=(2,), keep=(keep,)).select(signals, Site(3))
    assert plain.keep.tolist() == list(range(36))
    assert plain.mix is None
    compat = SparseVLM(layers=(2,), keep=(keep,), compat=True).select(signals, Site(3))
    scores = reference.column_means(reference.rated(signals.require(Signal.RATER_ATTENTION).double().numpy()))
    worst = reference.ranking(scores)[-1]
    assert compat.keep.tolist() == [*(i for i in range(36) if i != worst), worst]
    torch.testing.assert_close(apply(compat, signals.require(Signal.HIDDEN))[-1], signals.require(Signal.HIDDEN)[worst])


def test_compatibility_changes_nothing_below_the_cap() -> None:
    signals = random_signals(144, seed=4)
    one, two = (SparseVLM(keep=(60, 40, 20), compat=compat).select(signals, Site(3)) for compat in (False, True))
    assert torch.equal(one.keep, two.keep)
    assert one.mix is not None
    assert two.mix is not None
    assert torch.equal(one.mix, two.mix)


def test_a_count_of_zero_drops_all_but_a_rank_of_little_recycles() -> None:
    signals = random_signals(144, seed=5, raters=1)
    assert SparseVLM(keep=(10, 5, 0)).select(signals, Site(16)).keep.numel() == 0
    recycled = SparseVLM(version="first", scale=0.8).select(signals, Site(3))  # trunc(0.8) = 0 kept, 5 groups of 44
    assert recycled.keep.numel() == 5
    assert_agrees(recycled, signals, 0)


@pytest.mark.parametrize("compat", [False, True])
def test_a_single_token(compat: bool) -> None:
    signals = random_signals(1, seed=6)
    selection = SparseVLM(compat=compat).select(signals, Site(3))
    assert selection.keep.tolist() == [0]
    assert (selection.mix is None) is not compat


def test_ties_keep_the_first_and_recycle_the_first_of_the_rest() -> None:
    signals = Signals(40, original_tokens=40, rater_attention=torch.full((4, 2, 40), 0.02), hidden=torch.randn(40, 8))
    selection = SparseVLM(layers=(2,), keep=(10,)).select(signals, Site(3))
    assert selection.keep[:10].tolist() == list(range(10))
    assert selection.mix is not None
    assert (selection.mix[10:] > 0).any(dim=0).nonzero().flatten().tolist() == list(range(10, 20))  # 30 lost, 10 back


def test_merged_rows_are_means_a_millionth_short() -> None:
    mix = SparseVLM(layers=(2,), keep=(20,)).select(random_signals(144, seed=7), Site(3)).mix
    assert mix is not None
    sizes = (mix[20:] > 0).sum(dim=1).double()
    torch.testing.assert_close(mix[20:].sum(dim=1).double(), sizes / (sizes + 1e-6), atol=1e-7, rtol=0)
    assert ((mix > 0).sum(dim=0) <= 1).all()


def test_several_images_are_ranked_and_grouped_as_one_set() -> None:
    signals = random_signals(90, seed=8)
    images = torch.tensor([0] * 30 + [1] * 60)
    method = SparseVLM(layers=(2,), keep=(20,))
    alone, several = (
        method.select(signals, Site(3)),
        method.select(dataclasses.replace(signals, images=images), Site(3)),
    )
    assert torch.equal(alone.keep, several.keep)  # the engine puts slots of one image together


def test_raters_are_the_words_above_average() -> None:
    method, generator = SparseVLM(), torch.Generator().manual_seed(9)
    visual, text = torch.randn(50, 16, generator=generator), torch.randn(12, 16, generator=generator)
    assert isinstance(method, Rating)
    assert method.raters(visual, text).tolist() == reference.raters(visual.double().numpy(), text.double().numpy())


def test_it_prunes_outputs_renumbers_and_reads_attention_and_rows() -> None:
    assert SparseVLM().needs == {Signal.RATER_ATTENTION, Signal.HIDDEN}
    assert SparseVLM().sites(32) == (Site(3), Site(7), Site(16))
    assert SparseVLM(version="first").sites(32) == (Site(3), Site(7), Site(16), Site(20))
    assert SparseVLM().compact_positions
    with pytest.raises(InvalidOption, match=r"sparsevlm: .*output of layer 15"):
        SparseVLM().sites(16)


def test_without_an_image_it_keeps_nothing() -> None:
    assert SparseVLM().select(Signals(0), Site(3)).keep.numel() == 0


@pytest.mark.parametrize(
    ("text", "canonical"),
    [
        (
            "sparsevlm",
            "sparsevlm(bias=None, compat=False, keep=(300, 200, 110), layers=(2, 6, 15), scale=None, version='1.5')",
        ),
        (
            "sparsevlm(version='first', scale=9, bias=6)",
            "sparsevlm(bias=6.0, compat=False, keep=None, layers=(2, 6, 15, 19), scale=9.0, version='first')",
        ),
        (
            "sparsevlm(layers=[2], keep=[0.25])",
            "sparsevlm(bias=None, compat=False, keep=(0.25,), layers=(2,), scale=None, version='1.5')",
        ),
    ],
)
def test_the_canonical_text_spells_out_what_the_version_leaves_open(text: str, canonical: str) -> None:
    method = REDUCTIONS.create(text)
    assert str(spec_of(method, "sparsevlm")) == canonical
    assert REDUCTIONS.create(canonical) == method
    assert hash(REDUCTIONS.create(canonical)) == hash(method)


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"version": "2"}, "'1.5' or 'first'"),
        ({"version": 1.5}, "'1.5' or 'first'"),
        ({"scale": 9}, "scale=9 does not belong to version='1.5'"),
        ({"bias": 1}, "bias=1 does not belong"),
        ({"version": "first", "keep": (3, 2, 1, 0)}, "keep=.* does not belong to version='first'"),
        ({"version": "first", "scale": -1}, "scale=-1 .* at least 0"),
        ({"version": "first", "bias": float("inf")}, "bias=inf"),
        ({"version": "first", "scale": "9"}, "scale='9'"),
        ({"keep": (300, 200)}, "2 values for 3 layers"),
        ({"keep": (100, 200, 300)}, "do not grow"),
        ({"layers": (6, 2, 15)}, "first layer to the last"),
        ({"compat": 1}, "True or False"),
    ],
)
def test_impossible_settings_are_refused(options: dict[str, Any], reason: str) -> None:
    with pytest.raises(InvalidOption, match=f"sparsevlm: .*{reason}"):
        SparseVLM(**options)


def test_it_says_how_it_is_carried_over() -> None:
    method = SparseVLM()
    assert isinstance(method, FamilyAware)
    assert set(method.equivalents) == {"llava_next", "qwen2_vl", "qwen2_5_vl"}
    assert not method.refusals
