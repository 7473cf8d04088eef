from __future__ import annotations

from steadyvlm.reduction.base import Signals, Site
from steadyvlm.reduction.keep_all import KeepAll


def test_it_never_acts() -> None:
    assert KeepAll().sites(32) == ()
    assert KeepAll().needs == frozenset()
    assert not KeepAll().compact_positions


def test_asked_all_the_same_it_keeps_every_patch_and_no_cls_row() -> None:
    signals = Signals(num_tokens=4, has_cls=True)
    assert KeepAll().select(signals, Site()).keep.tolist() == [1, 2, 3, 4]
    assert KeepAll().select(signals, Site(2)).keep.tolist() == [0, 1, 2, 3]
    assert KeepAll().select(Signals(num_tokens=4), Site()).keep.tolist() == [0, 1, 2, 3]
