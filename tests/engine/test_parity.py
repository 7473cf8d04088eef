"""The engine's main promise: unreduced it answers as transformers' `generate`, and any batch as batches of one."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from steadyvlm.engine import Request, generate
from steadyvlm.models.adapter import IMAGE_SLOT
from steadyvlm.models.llava import Llava
from steadyvlm.records import Failure, Generation
from steadyvlm.reduction import REDUCTIONS
from tiny import VISUAL, make_image, tiny_llava

MODELS: dict[str, dict[str, Any]] = {
    "llama": {"text": "llama"},
    "llama-no-grouping": {"text": "llama", "kv_heads": 4},
    "mistral": {"text": "mistral"},
    "mistral-window-in-prompt": {"text": "mistral", "sliding_window": 20},
    "mistral-window-in-answer": {"text": "mistral", "sliding_window": VISUAL + 20},
    "full-strategy": {"text": "llama", "vision_feature_select_strategy": "full"},
    "two-feature-layers": {"text": "llama", "layers_read": (-2, -1)},
}
REQUESTS = (
    Request((make_image(0),), "what colour is the star?", 1),
    Request((make_image(1),), "how?", 2),
    Request((), "a question without any image, and rather long at that: is the star red?", 3),
    Request((make_image(2), make_image(3)), "what shape is the same?", 4),
    Request((make_image(1),), "is the shape blue?", 5),
    Request((make_image(4, 50, 30),), "what?", 6),
    Request((make_image(5), make_image(5), make_image(6)), "the a the a.", 7),
    Request((make_image(7),), "what is the colour of the shape that is not a star?", 8),
)
STEPS = 9
REDUCED = (
    "fastv(layer=1, keep_ratio=0.5)",
    "visionzip(dominant=7, contextual=3)",
    "random(layer=0, keep_ratio=0.5)",
    "pyramiddrop(layers=(1, 2), keep_ratios=(0.6, 0.3))",
    "sparsevlm(layers=(0, 2), keep=(20, 8))",
    "lofi(beta=2.0)",
)


ENDS = tuple(range(2, 271, 9))
"""Ids that end an answer: so many that answers of one batch stop at different steps."""


def adapter(name: str) -> Llava:
    return tiny_llava(eos=ENDS, **MODELS[name])


def hugging_face(model: Llava, request: Request, steps: int) -> list[int]:
    """Answer one request with transformers' own `generate`."""
    ids: list[int] = []
    pixels = [model.preprocess(image) for image in request.images]
    sizes = iter(pixels)
    for token in model.tokenize(request.prompt, len(request.images)):
        ids += [3] * next(sizes).layout.visual_tokens if token == IMAGE_SLOT else [token]
    with torch.inference_mode():
        out = model.module.generate(  # type: ignore[operator]
            input_ids=torch.tensor([ids]),
            attention_mask=torch.ones(1, len(ids), dtype=torch.int64),
            pixel_values=torch.cat([item.values for item in pixels]) if pixels else None,
            do_sample=False,
            max_new_tokens=steps,
        )
    return out[0, len(ids) :].tolist()


def answers(results: list[Generation | Failure]) -> list[Generation]:
    assert not [item for item in results if isinstance(item, Failure)]
    return [item for item in results if isinstance(item, Generation)]


@pytest.mark.parametrize("name", MODELS)
def test_without_reduction_one_batch_equals_hugging_face_generate(name: str) -> None:
    model = adapter(name)
    expected = [hugging_face(model, request, STEPS) for request in REQUESTS]
    assert len({tuple(ids) for ids in expected}) > len(REQUESTS) // 2, "the model must not answer everything alike"
    assert len({len(ids) for ids in expected}) > 2, "answers must stop at different steps"
    for reduction in (None, REDUCTIONS.create("keep_all")):
        got = answers(generate(model, REQUESTS, reduction, max_new_tokens=STEPS))
        assert [list(item.token_ids) for item in got] == expected


@pytest.mark.parametrize("recipe", REDUCED)
def test_reduced_batch_equals_batches_of_one_behind_a_sliding_window(recipe: str) -> None:
    """The contract tests check the same of every method and family without a window."""
    model, reduction = adapter("mistral-window-in-prompt"), REDUCTIONS.create(recipe)
    together = answers(generate(model, REQUESTS, reduction, max_new_tokens=STEPS))
    alone = [answers(generate(model, [request], reduction, max_new_tokens=STEPS))[0] for request in REQUESTS]
    for one, many in zip(alone, together, strict=True):
        assert many.token_ids == one.token_ids
        assert many.kept == one.kept
        assert many.cost.cache_bytes == one.cost.cache_bytes
        assert many.cost.visual_tokens_per_layer == one.cost.visual_tokens_per_layer
        assert many.margin == pytest.approx(one.margin, abs=1e-4)
        assert [item.token_id for item in many.top[:5]] == [item.token_id for item in one.top[:5]]
