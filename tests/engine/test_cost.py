"""Operation counts checked by hand."""

from __future__ import annotations

from steadyvlm.engine.cost import prefill_flops
from tiny import tiny_llava


def test_one_layer_by_hand() -> None:
    # width 32, 4 query heads and 2 key heads of 8, MLP 48, 10 tokens:
    # projections 2*10*(32*32 + 32*32 + 2*32*16) = 61440; MLP 2*10*3*32*48 = 92160; attention 2*100*32 = 6400
    assert prefill_flops(tiny_llava().info, [10]) == 61440 + 92160 + 6400


def test_layers_add_up_and_nothing_costs_nothing() -> None:
    info = tiny_llava().info
    assert prefill_flops(info, [10, 4]) == prefill_flops(info, [10]) + prefill_flops(info, [4])
    assert prefill_flops(info, [0, 0]) == 0
