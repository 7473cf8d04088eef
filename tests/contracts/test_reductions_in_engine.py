"""What every registered reduction promises inside every model family: any batch answers as batches of one.

A method that is new is enrolled by its row in the registry; one that a family refuses must be refused by name.
"""

from __future__ import annotations

import functools
from typing import Any

import pytest
import torch
from PIL import Image

from reduction_cases import tiny_options
from steadyvlm.engine import Request, generate
from steadyvlm.engine.signals import check_reduction
from steadyvlm.errors import Unsupported
from steadyvlm.models.adapter import EncodedImage
from steadyvlm.models.llava import Llava
from steadyvlm.records import Failure, Generation
from steadyvlm.reduction import REDUCTIONS
from steadyvlm.reduction.base import FamilyAware
from tiny import make_image, make_image_processor, make_module, make_tokenizer, with_packed_cache
from tiny_families import tiny_family

PACKED = "llava with a packed cache"
FAMILIES = ("llava", PACKED, "llava_next", "qwen2_vl", "qwen2_5_vl")
STEPS = 3
REQUESTS = (
    Request((make_image(0),), "what colour is the star?", 1),
    Request((), "a question without any image: is the star red?", 2),
    Request((make_image(1, 60, 30), make_image(2)), "what shape is the same?", 3),
    Request((Image.new("RGB", (1, 1), (200, 20, 20)),), "how?", 4),
    Request((make_image(0),), "is the shape blue, or is it not the shape that is blue?", 5),
    Request((make_image(3, 24, 70),), "what?", 6),
    Request((make_image(4), make_image(4), make_image(5, 90, 40)), "the a the a.", 7),
    Request((make_image(6, 200, 40),), "what is the colour?", 8),
)


class Related(Llava):
    """A stand-in for a text tower beside it: relevance that depends on picture and question."""

    def text_relevance(self, encoded: EncodedImage, question: str, text_tower: str) -> torch.Tensor:
        return (encoded.rows[1:].float() * len(question)).sin().sum(-1) ** 3


@functools.cache
def model_of(family: str) -> Any:
    if family == "llava":
        return Related(make_module(), make_tokenizer(), make_image_processor(), name="tiny llava")
    return with_packed_cache(model_of("llava")) if family == PACKED else tiny_family(family)


def method(name: str) -> Any:
    return REDUCTIONS.load(name)(**tiny_options(name))


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("name", REDUCTIONS)
def test_a_batch_answers_as_batches_of_one(name: str, family: str) -> None:
    model, reduction = model_of(family), method(name)
    if isinstance(reduction, FamilyAware) and family.split()[0] in reduction.refusals:
        with pytest.raises(Unsupported, match=f"not defined for models of the family {family}: .+"):
            check_reduction(reduction, model)
        return
    together = generate(model, REQUESTS, reduction, max_new_tokens=STEPS)
    answered = [item for item in together if isinstance(item, Generation)]
    assert len(answered) >= len(REQUESTS) - 1, "only the picture of a few tokens may be too small for a budget"
    for request, many in zip(REQUESTS, together, strict=True):
        (one,) = generate(model, [request], reduction, max_new_tokens=STEPS)
        if isinstance(many, Failure) or isinstance(one, Failure):
            assert many == one
            assert isinstance(many, Failure)
            assert many.kind == "InvalidOption"
            continue
        assert many.token_ids == one.token_ids
        assert many.kept == one.kept
        assert many.margin == pytest.approx(one.margin, abs=1e-4)
        assert many.cost.cache_bytes == one.cost.cache_bytes
        assert many.cost.visual_tokens_per_layer == one.cost.visual_tokens_per_layer
        check(request, many)


def check(request: Request, answer: Generation) -> None:
    """Counts fit the records, and what is gone does not come back."""
    layers = answer.cost.visual_tokens_per_layer
    if not request.images:
        assert set(layers) == {0}
    assert list(layers) == sorted(layers, reverse=True)
    last: dict[int, set[int]] = {}
    for record in answer.kept:
        now = set(record.indices)
        assert len(now) == len(record.indices)
        assert now <= last.get(record.image, now)
        last[record.image] = now
    for layer in {record.layer for record in answer.kept}:
        assert sum(len(record.indices) for record in answer.kept if record.layer == layer) == layers[layer]


def test_only_methods_that_say_so_leave_everything() -> None:
    """A setting that changes nothing would make the test above prove nothing."""
    model = model_of("llava")
    plain = generate(model, REQUESTS, max_new_tokens=1)
    unchanged = []
    for name in REDUCTIONS:
        got = generate(model, REQUESTS, method(name), max_new_tokens=1)
        if [item.margin for item in got if isinstance(item, Generation)] == [
            item.margin for item in plain if isinstance(item, Generation)
        ]:
            unchanged.append(name)
    assert unchanged == ["keep_all"]
