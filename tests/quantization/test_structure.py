"""How a block names its linears."""

from __future__ import annotations

import pytest

from steadyvlm.quantization.structure import Block, Reader

BLOCK = Block(
    "layers.3",
    "language",
    3,
    (
        Reader("mlp_input", ("layers.3.gate", "layers.3.up"), norm="layers.3.norm"),
        Reader("mlp_output", ("layers.3.down",)),
    ),
)


def test_linears_stand_in_the_order_in_which_their_inputs_are_computed() -> None:
    assert list(BLOCK.linears) == ["layers.3.gate", "layers.3.up", "layers.3.down"]
    assert BLOCK.reader("mlp_output").linears == ("layers.3.down",)


def test_an_input_a_block_does_not_have_is_named() -> None:
    with pytest.raises(KeyError, match=r"block 'layers\.3' has no input 'attention_input'"):
        BLOCK.reader("attention_input")
