"""Answer one batch: read the prompts, decode greedily.

Sequences of a batch have different prompts, different numbers of visual tokens and different ends; in float32 each gets
the answer it would get alone (tested against batches of one, and without a reduction against `generate` of
transformers).
"""

from __future__ import annotations

import time
from collections.abc import Sequence

import torch
from torch import Tensor

from steadyvlm.engine.answers import Answer, first_tokens, new_answers
from steadyvlm.engine.attention import rotate, row_attention
from steadyvlm.engine.cache import LayerGroup, bytes_held
from steadyvlm.engine.images import VisionCache
from steadyvlm.engine.layer import ask
from steadyvlm.engine.prefill import prefill_batch, tokens_per_layer
from steadyvlm.engine.requests import Request
from steadyvlm.errors import InvalidOption
from steadyvlm.models.adapter import VisionLanguageModel
from steadyvlm.records import Failure, Generation
from steadyvlm.reduction.base import Reduction


@torch.inference_mode()
def generate(
    model: VisionLanguageModel,
    requests: Sequence[Request],
    reduction: Reduction | None = None,
    *,
    max_new_tokens: int = 16,
    stop: Sequence[str] = (),
    top_k: int = 20,
    vision_cache: VisionCache | None = None,
) -> list[Generation | Failure]:
    """Answer a batch of requests greedily.

    Args:
        model: a loaded model.
        requests: one batch; prompts, images and their numbers may differ.
        reduction: a token-reduction method, or None to keep every token.
        max_new_tokens: longest answer, the end token included.
        stop: an answer ends before the first of these texts.
        top_k: candidates recorded for the first answer token (at least two).
        vision_cache: carries encoded pictures from batch to batch.

    Returns:
        One record per request, in order. A request that cannot be answered becomes a `Failure` in its place.

    Raises:
        InvalidOption: for limits out of range, or a reduction that asks for a layer the model does not have.
        Unsupported: for a reduction that is not defined on this family, or whose signals this model cannot give.
        CheckpointError, MissingDependency: when the text tower a reduction compares with cannot be loaded.

    >>> generate(model, [Request((image,), "What colour is the circle?", seed=7)])[0].text   # doctest: +SKIP
    'red'
    """
    started = time.perf_counter()
    if max_new_tokens < 1 or top_k < 1:
        raise InvalidOption(f"max_new_tokens and top_k must be at least 1, got {max_new_tokens} and {top_k}.")
    batch = prefill_batch(model, requests, reduction, budget=max_new_tokens, cache=vision_cache)
    finished: list[Generation | Failure] = []
    if batch.ready:
        answers = new_answers(batch.ready, batch.selector, model, max_new_tokens, tuple(text for text in stop if text))
        held = [bytes_held(batch.groups, row) for row in range(len(batch.ready))]
        decode(model, batch.hidden, batch.groups, answers, top_k=top_k)
        share_ms = (time.perf_counter() - started) * 1000 / len(requests)
        finished = [
            answer.finish(model, share_ms, tokens_per_layer(batch.executed, row)[1], *held[row])
            for row, answer in enumerate(answers)
        ]
    records = iter(finished)
    return [item if isinstance(item, Failure) else next(records) for item in batch.items]


def decode(
    model: VisionLanguageModel, hidden: Tensor, groups: Sequence[LayerGroup], answers: Sequence[Answer], *, top_k: int
) -> None:
    """Extend all answers token by token until each is done. `hidden` [B, width] holds the prompts' last rows."""
    logits = model.logits(hidden)
    for answer, top in zip(answers, first_tokens(model, logits, top_k), strict=True):
        answer.top = top
    rows = list(answers)
    step = 0
    while True:
        best, tokens = logits.max(dim=-1)
        for answer, value, token in zip(rows, best.tolist(), tokens.tolist(), strict=True):
            if answer.done:
                continue
            if value != value or abs(value) == float("inf"):
                answer.failure = Failure("RunError", _NOT_FINITE)
            else:
                answer.add(token, model)
        going = [row for row, answer in enumerate(rows) if not answer.done]
        if not going:
            return
        if len(going) <= len(rows) // 2:  # copying the caches pays once half of the rows are idle
            rows = [rows[row] for row in going]
            tokens = tokens[going]
            for group in groups:
                group.keep_rows(going)
        hidden = model.embed(tokens[:, None])
        for group in groups:
            angles, visible = group.step_angles(step), group.visible_to_step(step)
            for layer, cache in group.layers:
                normed = layer.norm(hidden)
                query = ask(layer, normed, angles)
                keys, values = cache.extend(rotate(layer.keys(normed), angles), layer.values(normed))
                attended = row_attention(query, keys, values, scaling=layer.scaling, visible=visible)
                hidden = layer.finish(hidden, layer.project_heads(attended))
        logits = model.logits(hidden[:, 0])
        step += 1


_NOT_FINITE = (
    "the model produced logits that are not finite for this sample. Load it with dtype='float32', "
    "or check the weights for NaN."
)
