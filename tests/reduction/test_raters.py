from __future__ import annotations

import pytest
import torch

import sparse_reference as reference
from steadyvlm.reduction.raters import text_raters


@pytest.mark.parametrize("tokens", [36, 144, 576, 1500])
@pytest.mark.parametrize("words", [2, 7, 40])
def test_it_agrees_with_a_float64_reimplementation(tokens: int, words: int) -> None:
    generator = torch.Generator().manual_seed(tokens + words)
    visual, text = torch.randn(tokens, 32, generator=generator), torch.randn(words, 32, generator=generator)
    assert text_raters(visual, text).tolist() == reference.raters(visual.double().numpy(), text.double().numpy())


def test_weights_are_neither_scaled_nor_normalised() -> None:
    text = torch.tensor([[0.0, 1.0], [3.0, 0.0], [1.5, 0.0]])
    assert text_raters(torch.tensor([[1.0, 0.0]]), text).tolist() == [1]
    # with a product a hundred times weaker the softmax is flat, and the second-longest row passes too
    assert text_raters(torch.tensor([[0.01, 0.0]]), text).tolist() == [1]
    assert text_raters(torch.tensor([[0.01, 0.0]]), text[[0, 1, 1]]).tolist() == [1, 2]


@pytest.mark.parametrize("words", [1, 3, 8])
def test_without_a_word_above_average_all_words_rate(words: int) -> None:
    text = torch.ones(words, 4)
    assert text_raters(torch.randn(20, 4), text).tolist() == list(range(words))


def test_without_a_picture_all_words_rate() -> None:
    assert text_raters(torch.empty(0, 4), torch.randn(3, 4)).tolist() == [0, 1, 2]


def test_half_precision_embeddings_are_widened() -> None:
    generator = torch.Generator().manual_seed(2)
    visual, text = torch.randn(50, 64, generator=generator).half(), torch.randn(9, 64, generator=generator).half()
    assert torch.equal(text_raters(visual, text), text_raters(visual.float(), text.float()))
