from __future__ import annotations

import torch
from torch import nn

from steadyvlm.quantization.stored import Stored


def test_buffers_move_but_are_never_cast() -> None:
    module = Stored()
    module.register_buffer("exact", torch.tensor([1 / 3]))
    module.register_buffer("codes", torch.tensor([3], dtype=torch.uint8))
    module.register_buffer("nothing", None)
    model = nn.ModuleDict({"low": module, "plain": nn.Linear(1, 1)}).to(torch.bfloat16)
    assert model["plain"].weight.dtype == torch.bfloat16
    assert torch.equal(model["low"].exact, torch.tensor([1 / 3]))
    assert model["low"].codes.dtype == torch.uint8
    assert model["low"].nothing is None
    model.to("meta", torch.float16)
    assert (model["low"].exact.device.type, model["low"].exact.dtype) == ("meta", torch.float32)
    assert (model["low"].codes.device.type, model["plain"].weight.dtype) == ("meta", torch.float16)
