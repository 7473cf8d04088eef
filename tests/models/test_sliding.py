"""How far a decoder looks back, in the words of Llama, Mistral and Qwen2 configurations."""

from __future__ import annotations

from typing import Any

import pytest
from transformers import LlamaConfig, MistralConfig, Qwen2Config

from steadyvlm.errors import Unsupported
from steadyvlm.models.sliding import sliding_window


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        (LlamaConfig(), None),
        (MistralConfig(sliding_window=None), None),
        (MistralConfig(sliding_window=25), 25),
        (Qwen2Config(use_sliding_window=False, sliding_window=25), None),
        (Qwen2Config(num_hidden_layers=4, use_sliding_window=True, sliding_window=25, max_window_layers=4), None),
        (Qwen2Config(num_hidden_layers=4, use_sliding_window=True, sliding_window=25, max_window_layers=0), 25),
    ],
)
def test_the_window_in_use(config: Any, expected: int | None) -> None:
    assert sliding_window(config) == expected


def test_a_decoder_of_two_kinds_of_layers_is_refused() -> None:
    config = Qwen2Config(num_hidden_layers=4, use_sliding_window=True, sliding_window=25, max_window_layers=3)
    with pytest.raises(Unsupported, match="max_window_layers 3"):
        sliding_window(config)
