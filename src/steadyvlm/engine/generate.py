"""Answer one batch: encode, prefill layer by layer, decode greedily.

The decoder's layers are driven here, one after the other, so that a selection can act before any of them and every
layer keeps keys and values only for the tokens that reached it. Sequences of a batch have different prompts, different
numbers of visual tokens and different ends; in float32 each gets the answer it would get alone (tested against
batches of one, and without a reduction against `generate` of transformers).
"""

from __future__ import annotations

import time
from collections.abc import Sequence

import torch
from torch import Tensor

from steadyvlm.engine.answers import Answer, first_tokens, new_answers, tokens_per_layer
from steadyvlm.engine.attention import prompt_attention, rotate, row_attention, row_probabilities
from steadyvlm.engine.cache import LayerCache, LayerGroup
from steadyvlm.engine.requests import Request
from steadyvlm.engine.signals import check_reduction, decoder_sites, sequence_signals
from steadyvlm.engine.vision import Prepared, VisionCache, failure_of, prepare
from steadyvlm.engine.visual_sequence import VisualSequence, check_selection
from steadyvlm.errors import InvalidOption, SteadyVLMError
from steadyvlm.models.adapter import IMAGE_SLOT, VisionLanguageModel
from steadyvlm.records import Failure, Generation
from steadyvlm.reduction.base import Reduction, Selection, Signal, Site


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
        Unsupported: for a reduction whose signals this model cannot give.

    >>> generate(model, [Request((image,), "What colour is the circle?", seed=7)])[0].text   # doctest: +SKIP
    'red'
    """
    started = time.perf_counter()
    if max_new_tokens < 1 or top_k < 1:
        raise InvalidOption(f"max_new_tokens and top_k must be at least 1, got {max_new_tokens} and {top_k}.")
    method = type(reduction).__name__
    check_reduction(reduction, model)
    sites = decoder_sites(reduction, model.info)
    results: list[Prepared | Generation | Failure] = list(
        prepare(model, requests, reduction, method=method, cache=vision_cache)
    )
    rows = [index for index, item in enumerate(results) if isinstance(item, Prepared)]
    ready = [item for item in results if isinstance(item, Prepared)]
    finished: list[Generation | Failure] = []
    if ready:
        answers = new_answers(ready, model, max_new_tokens, tuple(text for text in stop if text))
        selector = _Selector(reduction, method, sites, [requests[row].seed for row in rows], answers)
        hidden, groups = prefill(model, assemble(model, ready), selector, budget=max_new_tokens)
        layout = [tokens_per_layer(groups, row) for row in range(len(ready))]
        decode(model, hidden, groups, answers, top_k=top_k)
        share_ms = (time.perf_counter() - started) * 1000 / len(requests)
        token_bytes = 2 * model.info.num_kv_heads * model.info.head_dim * hidden.element_size()
        finished = [
            answer.finish(model, share_ms, tokens, visual, token_bytes)
            for answer, (tokens, visual) in zip(answers, layout, strict=True)
        ]
    records = iter(finished)
    return [item if isinstance(item, (Generation, Failure)) else next(records) for item in results]


def assemble(model: VisionLanguageModel, ready: Sequence[Prepared]) -> VisualSequence:
    """Put visual tokens in place of the image slots and pad the prompts on the right."""
    spread = [_spread(item) for item in ready]
    lengths = [len(ids) for ids in spread]
    longest = max(lengths)
    device = model.device
    ids = torch.tensor([row + [0] * (longest - len(row)) for row in spread], device=device)
    visual = ids == IMAGE_SLOT
    hidden = model.embed(ids.clamp_min(0))
    features = [part for item in ready for part in item.features]
    if features:
        hidden[visual] = torch.cat(features).to(hidden.dtype)
    return VisualSequence(
        hidden=hidden,
        positions=torch.arange(longest, device=device).expand(len(ready), longest),
        visual=visual,
        lengths=lengths,
        next_positions=list(lengths),
        slots=[item.slots for item in ready],
    )


def prefill(
    model: VisionLanguageModel, sequence: VisualSequence, selector: _Selector, *, budget: int
) -> tuple[Tensor, list[LayerGroup]]:
    """Run the prompt through all layers; return the last rows [B, width] and the filled caches."""
    layers = model.layers()
    group = LayerGroup(model, sequence, budget=budget)
    groups = [group]
    mask, probabilities = group.prompt_mask(), None
    for index, layer in enumerate(layers):
        if index in selector.sites:
            sequence = selector.reduce(sequence, probabilities, index)
            group = LayerGroup(model, sequence, budget=budget, like=group)
            groups.append(group)
            mask = group.prompt_mask()
        normed = layer.norm(sequence.hidden)
        keys, values = rotate(layer.keys(normed), group.angles), layer.values(normed)
        group.layers.append((layer, LayerCache(keys, values)))
        if index == len(layers) - 1:
            break
        queries = rotate(layer.queries(normed), group.angles)
        if selector.wants_attention_of(index):
            last = sequence.last(queries.transpose(1, 2)).transpose(1, 2)
            visible = group.visible_to_last()
            probabilities = row_probabilities(last, keys, scaling=layer.scaling, visible=visible)
        attended = prompt_attention(queries, keys, values, scaling=layer.scaling, mask=mask)
        sequence.hidden = layer.finish(sequence.hidden, attended)
    # Of the last layer only the last row is ever read, so no other row asks a question there.
    residual, normed = sequence.last(sequence.hidden), sequence.last(normed)
    query = rotate(layer.queries(normed), group.last_angles())
    attended = row_attention(query, keys, values, scaling=layer.scaling, visible=group.visible_to_last())
    return layer.finish(residual, attended)[:, 0], groups


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
                query = rotate(layer.queries(normed), angles)
                keys, values = cache.extend(rotate(layer.keys(normed), angles), layer.values(normed))
                attended = row_attention(query, keys, values, scaling=layer.scaling, visible=visible)
                hidden = layer.finish(hidden, attended)
        logits = model.logits(hidden[:, 0])
        step += 1


class _Selector:
    """Applies a reduction before decoder layers, one sequence at a time, and keeps the records of what stayed."""

    def __init__(
        self,
        reduction: Reduction | None,
        method: str,
        sites: dict[int, Site],
        seeds: Sequence[int],
        answers: Sequence[Answer],
    ) -> None:
        self.sites = sites
        self._reduction, self._method = reduction, method
        self._seeds, self._answers = seeds, answers

    def wants_attention_of(self, layer: int) -> bool:
        """Whether the method reads the last prompt row of `layer`'s attention."""
        return (
            layer + 1 in self.sites
            and self._reduction is not None
            and Signal.LAST_QUERY_ATTENTION in self._reduction.needs
        )

    def reduce(self, sequence: VisualSequence, probabilities: Tensor | None, layer: int) -> VisualSequence:
        """Return the batch after one selection per sequence; a sequence whose selection fails goes on unreduced."""
        assert self._reduction is not None, "sites exist only with a reduction"
        chosen: list[Selection | None] = []
        signals = sequence_signals(sequence, probabilities, self._seeds)
        for answer, seen in zip(self._answers, signals, strict=True):
            selection = None
            try:
                if seen.num_tokens and not answer.done:
                    selection = self._reduction.select(seen, self.sites[layer])
                    check_selection(selection, seen.num_tokens, method=self._method, ascending=True)
            except SteadyVLMError as error:
                selection, answer.failure = None, failure_of(error)
            chosen.append(selection)
        reduced = sequence.reduce(chosen, compact=self._reduction.compact_positions)
        for answer, slots in zip(self._answers, reduced.slots, strict=True):
            answer.kept += slots.records(layer)
        return reduced


def _spread(item: Prepared) -> list[int]:
    """Return the prompt ids with every image slot repeated once per visual token."""
    sizes = iter(item.features)
    spread: list[int] = []
    for token in item.token_ids:
        spread += [IMAGE_SLOT] * len(next(sizes)) if token == IMAGE_SLOT else [token]
    return spread


_NOT_FINITE = (
    "the model produced logits that are not finite for this sample. Load it with dtype='float32', "
    "or check the weights for NaN."
)
