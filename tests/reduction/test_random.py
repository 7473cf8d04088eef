from __future__ import annotations

import torch

from steadyvlm.reduction.base import Signals, Site
from steadyvlm.reduction.random import Random


def kept(reduction: Random, seed: int, tokens: int = 144, *, site: Site | None = None) -> list[int]:
    return reduction.select(Signals(tokens, seed=seed), site or Site(3)).keep.tolist()


def test_the_lot_depends_on_the_sample_and_on_the_seed_only() -> None:
    lots = [kept(Random(layer=3), seed) for seed in (1, 2)] + [kept(Random(layer=3, seed=1), 1)]
    assert lots[0] == kept(Random(layer=3), 1)
    assert lots[0] == kept(Random(layer=5), 1)
    assert len({tuple(lot) for lot in lots}) == 3


def test_it_leaves_the_global_random_state_alone() -> None:
    before = torch.random.get_rng_state()
    kept(Random(layer=3), 1)
    assert torch.equal(torch.random.get_rng_state(), before)


def test_a_smaller_ratio_keeps_a_subset() -> None:
    assert set(kept(Random(layer=3, keep_ratio=0.25), 5)) < set(kept(Random(layer=3, keep_ratio=0.5), 5))


def test_every_token_is_kept_equally_often() -> None:
    counts = torch.zeros(20)
    for seed in range(2000):
        counts[kept(Random(layer=3, keep_ratio=0.3), seed, 20)] += 1
    # Each count is binomial(2000, 0.3): mean 600, standard deviation 20.5; five of those to either side.
    assert counts.sum() == 2000 * 6
    assert counts.min() > 495
    assert counts.max() < 705


def test_after_the_encoder_it_draws_patches_and_leaves_cls_out() -> None:
    reduction = Random(keep_ratio=0.5)
    patches = kept(reduction, 3, site=Site())
    rows = reduction.select(Signals(144, has_cls=True, seed=3), Site()).keep.tolist()
    assert rows == [patch + 1 for patch in patches]


def test_it_acts_where_it_is_told_and_compacts_only_before_the_decoder() -> None:
    assert Random().sites(12) == (Site(None),)
    assert Random(layer=0).sites(12) == (Site(0),)
    assert Random(layer=11).sites(12) == (Site(11),)
    assert [Random(layer=layer).compact_positions for layer in (None, 0, 1)] == [True, True, False]
