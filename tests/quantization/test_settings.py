from __future__ import annotations

from typing import Any

import pytest
import torch

from steadyvlm.errors import InvalidOption
from steadyvlm.quantization.settings import LowBitSettings, check_share


def test_formats_are_torch_types() -> None:
    settings = LowBitSettings(scale_dtype="float32", transform_dtype="float16")
    assert settings.scale_format is torch.float32
    assert settings.transform_format is torch.float16
    assert settings.quantises_cache
    assert not LowBitSettings(kv_bits=16).quantises_cache


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"weight_bits": 1}, r"weight_bits=1 is not allowed. Give a whole number from 2 to 8\."),
        ({"weight_bits": 16}, "weight_bits=16"),
        ({"activation_bits": 9}, "activation_bits=9 .* from 2 to 8, or 16 to leave it unquantised"),
        ({"kv_bits": True}, "kv_bits=True"),
        ({"vision_edge_bits": 4.0}, "vision_edge_bits=4.0"),
        ({"kv_in_prefill": 1}, "kv_in_prefill=1 is not allowed. Give True or False"),
        ({"scale_dtype": "bfloat16"}, "scale_dtype='bfloat16' is not allowed. Give 'float16' or 'float32'"),
        ({"transform_dtype": None}, "transform_dtype=None"),
        ({"backend": "cuda"}, "backend='cuda' is not allowed. Give 'auto', 'fake', 'reference', 'int8' or 'triton'"),
        ({"modules": ("head",)}, "modules="),
    ],
)
def test_values_outside_their_range_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(InvalidOption, match=f"mine: {message}"):
        LowBitSettings(**options, method="mine")


@pytest.mark.parametrize("value", [0, 1.01, -0.5, True, "1", float("nan")])
def test_shares_lie_above_zero_and_up_to_one(value: object) -> None:
    with pytest.raises(InvalidOption, match="mine: kv_clip="):
        check_share("mine", "kv_clip", value)


def test_edges_may_have_bits_of_their_own() -> None:
    assert LowBitSettings(vision_edge_bits=8).vision_edge_bits == 8
