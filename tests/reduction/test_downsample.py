from __future__ import annotations

from typing import Any

import pytest

from steadyvlm.errors import InvalidOption
from steadyvlm.reduction.base import Rescaling, Signals, Site
from steadyvlm.reduction.downsample import Downsample


def test_it_asks_for_a_smaller_picture_and_nothing_else() -> None:
    method = Downsample(keep_ratio=0.25)
    assert isinstance(method, Rescaling)
    assert method.image_scale == 0.25
    assert method.sites(32) == ()
    assert not method.needs
    assert not method.compact_positions
    assert Downsample(keep_ratio=1) == Downsample(keep_ratio=1.0)


def test_it_keeps_every_token_of_that_picture() -> None:
    assert Downsample().select(Signals(4, has_cls=True), Site()).keep.tolist() == [1, 2, 3, 4]
    assert Downsample().select(Signals(4), Site(0)).keep.tolist() == [0, 1, 2, 3]


@pytest.mark.parametrize("value", [0, 0.0, -1, 1.5, "half"])
def test_no_picture_at_all_is_refused(value: Any) -> None:
    with pytest.raises(InvalidOption, match="downsample: keep_ratio"):
        Downsample(keep_ratio=value)
