"""Prompts are rendered as the checkpoint wants them and tokenised as transformers does."""

from __future__ import annotations

import pytest
from transformers import LlavaProcessor

from steadyvlm.errors import CheckpointError, SampleError
from steadyvlm.models.adapter import IMAGE_SLOT
from steadyvlm.models.prompt import PromptFormat
from tiny import PARTS_TEMPLATE, STRING_TEMPLATE, VISUAL, make_image, make_image_processor, make_tokenizer


def test_without_a_template_the_llava_layout_is_used() -> None:
    prompts = PromptFormat(make_tokenizer(None), 3)
    assert prompts.render("what?", 1) == "USER: <image>\nwhat?\nASSISTANT:"
    assert prompts.render("what?", 0) == "USER: what?\nASSISTANT:"
    assert prompts.render("what?", 2) == "USER: <image>\n<image>\nwhat?\nASSISTANT:"
    assert "ASSISTANT" in prompts.description


@pytest.mark.parametrize(
    ("template", "text"),
    [
        (PARTS_TEMPLATE, "<s>USER: <image>\n<image>\nwhat?\nASSISTANT:"),
        (STRING_TEMPLATE, "USER: <image>\n<image>\nwhat?\nASSISTANT:"),
    ],
)
def test_both_styles_of_template_are_found_out(template: str, text: str) -> None:
    prompts = PromptFormat(make_tokenizer(template), 3)
    assert prompts.render("what?", 2) == text
    assert prompts.description == "chat template of the checkpoint"


def test_a_given_template_wins_over_the_tokenizers_own() -> None:
    prompts = PromptFormat(make_tokenizer(PARTS_TEMPLATE), 3, template=STRING_TEMPLATE)
    assert not prompts.render("what?", 0).startswith("<s>")


@pytest.mark.parametrize("template", [PARTS_TEMPLATE, STRING_TEMPLATE, None])
@pytest.mark.parametrize("images", [0, 1, 2])
def test_ids_equal_those_of_the_transformers_processor(template: str | None, images: int) -> None:
    tokenizer = make_tokenizer(template)
    prompts = PromptFormat(tokenizer, 3)
    processor = LlavaProcessor(
        make_image_processor(),
        tokenizer,
        patch_size=4,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
    )
    text = prompts.render("is the star red?", images)
    pictures = [make_image(seed) for seed in range(images)] or None
    # A text that already starts with the begin token must not get a second one, as in apply_chat_template.
    special = not text.startswith("<s>")
    expected = processor(images=pictures, text=text, add_special_tokens=special)["input_ids"][0]
    spread: list[int] = []
    for token in prompts.tokenize("is the star red?", images):
        spread += [3] * VISUAL if token == IMAGE_SLOT else [token]
    assert spread == list(expected)


@pytest.mark.parametrize("prompt", ["", " \n"])
def test_an_empty_prompt_is_refused(prompt: str) -> None:
    with pytest.raises(SampleError, match="empty"):
        PromptFormat(make_tokenizer(), 3).tokenize(prompt, 1)


def test_a_prompt_cannot_smuggle_in_an_image() -> None:
    with pytest.raises(SampleError, match="contains the image token '<image>' itself"):
        PromptFormat(make_tokenizer(), 3).tokenize("what is <image>?", 1)


def test_a_tokenizer_without_the_image_token_is_refused() -> None:
    with pytest.raises(CheckpointError, match="expects the image token at id 32000, but the tokenizer has only"):
        PromptFormat(make_tokenizer(), 32000)


def test_an_image_token_that_is_ordinary_text_is_refused() -> None:
    tokenizer = make_tokenizer()
    with pytest.raises(CheckpointError, match="as one token"):
        PromptFormat(tokenizer, tokenizer.convert_tokens_to_ids("what"))


@pytest.mark.parametrize("template", ["{{ messages[0]['role'] }}", "{{ raise_exception('no') }}", "{{ broken"])
def test_a_template_that_loses_the_image_is_refused(template: str) -> None:
    with pytest.raises(CheckpointError, match="does not place the image token"):
        PromptFormat(make_tokenizer(template), 3)


def test_a_template_that_loses_images_later_fails_the_sample() -> None:
    once = "{{ messages[0]['content'].replace('<image>\n<image>', '<image>') }}"
    with pytest.raises(SampleError, match="holds 1 image tokens for 2 images"):
        PromptFormat(make_tokenizer(once), 3).tokenize("what?", 2)
