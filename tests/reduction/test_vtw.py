from __future__ import annotations

import pytest
import torch

from steadyvlm.errors import InvalidOption
from steadyvlm.reduction import REDUCTIONS
from steadyvlm.reduction.base import Signals, Site
from steadyvlm.reduction.vtw import VTW


@pytest.mark.parametrize("tokens", [0, 1, 36, 576])
def test_it_keeps_nothing_whatever_there_is(tokens: int) -> None:
    selection = VTW().select(Signals(tokens), Site(15))
    assert selection.keep.shape == (0,)
    assert selection.keep.dtype == torch.int64
    assert selection.mix is None


@pytest.mark.parametrize("layer", [0, 15, 16, 20])
def test_it_reads_nothing_and_acts_once_before_its_layer(layer: int) -> None:
    method = VTW(layer=layer)
    assert method.needs == frozenset()
    assert method.sites(32) == (Site(layer),)


def test_positions_stay_unless_asked_otherwise() -> None:
    assert not VTW().compact_positions
    assert VTW(reindex=True).compact_positions


@pytest.mark.parametrize("text", ["vtw(layer=-1)", "vtw(layer=1.5)", "vtw(reindex=1)", "vtw(layer=None)"])
def test_other_values_are_refused(text: str) -> None:
    with pytest.raises(InvalidOption, match="vtw: "):
        REDUCTIONS.create(text)


def test_a_layer_beyond_the_model_is_refused() -> None:
    with pytest.raises(InvalidOption, match=r"vtw: layer=15 .* 12 layers"):
        VTW().sites(12)
