"""What a model would have written: ids of an answer behind its prompt."""

from __future__ import annotations

from typing import Any

import pytest

from steadyvlm.errors import SampleError
from steadyvlm.models.prompt import PromptFormat
from tiny import make_tokenizer, tiny_llava
from tiny_families import tiny_family

QUESTION = "what colour is it?"


@pytest.mark.parametrize(
    ("model", "written"),
    [
        pytest.param(lambda: tiny_llava(), " red", id="after-a-colon"),
        pytest.param(lambda: tiny_family("qwen2_5_vl"), "red", id="after-a-line-break"),
    ],
)
def test_an_answer_follows_its_prompt_and_ends(model: Any, written: str) -> None:
    ids = model().answer_ids(QUESTION, 1, " red ")
    assert model().text(ids[:-1]) == written
    assert ids[-1] == model().info.eos_token_ids[0]


def test_an_empty_answer_is_refused() -> None:
    with pytest.raises(SampleError, match="cannot be told apart from its prompt"):
        tiny_llava().answer_ids(QUESTION, 0, "  ")


def test_an_answer_that_melts_into_the_prompt_is_refused() -> None:
    class Merging:
        """Reads a whole text as one token of its length, as no tokenizer should."""

        def __init__(self) -> None:
            self.real = make_tokenizer(None)

        def __getattr__(self, name: str) -> Any:
            return getattr(self.real, name)

        def __len__(self) -> int:
            return len(self.real)

        def __call__(self, text: str, **options: Any) -> dict[str, list[int]]:
            return self.real(text, **options) if text == "<image>" else {"input_ids": [len(text)]}

    with pytest.raises(SampleError, match="cannot be told apart"):
        PromptFormat(Merging(), 3).answer_ids(QUESTION, 0, "red")
