"""The prompts of one batch, from requests to the last row behind the last layer.

The decoder's layers are driven here, one after the other, so that a selection can act before any of them and every
layer keeps keys and values only for the tokens that reached it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from steadyvlm.engine.attention import prompt_attention, rotate, row_attention
from steadyvlm.engine.cache import LayerCache, LayerGroup
from steadyvlm.engine.images import VisionCache
from steadyvlm.engine.requests import Request
from steadyvlm.engine.selector import Selector
from steadyvlm.engine.signals import check_reduction
from steadyvlm.engine.vision import Prepared, prepare
from steadyvlm.engine.visual_sequence import VisualSequence
from steadyvlm.models.adapter import IMAGE_SLOT, VisionLanguageModel
from steadyvlm.records import Failure
from steadyvlm.reduction.base import Reduction

Observer = Callable[[int, VisualSequence, Tensor], None]
"""Called once per layer with its number, the batch as it entered, and its attention's output; see `capture`."""


@dataclass(frozen=True, slots=True)
class Batch:
    """A batch behind its prompts.

    Attributes:
        items: each request, ready for the decoder or failed before it.
        ready: the requests that reached the decoder, in order.
        hidden: [B, width] last row of each of them; empty when there is none.
        groups: their caches.
        selector: what the reduction did to them.
    """

    items: list[Prepared | Failure]
    ready: list[Prepared]
    hidden: Tensor
    groups: list[LayerGroup]
    selector: Selector


def prefill_batch(
    model: VisionLanguageModel,
    requests: Sequence[Request],
    reduction: Reduction | None,
    *,
    budget: int,
    cache: VisionCache | None = None,
    observe: Observer | None = None,
) -> Batch:
    """Encode, reduce, project and run the prompts of a batch through all layers.

    Args:
        model: a loaded model.
        requests: one batch.
        reduction: a token-reduction method, or None to keep every token.
        budget: answer tokens that may follow.
        cache: carries encoded pictures from batch to batch.
        observe: looks on; makes the last layer compute all rows, of which answers need only the last.
    """
    check_reduction(reduction, model)
    items = prepare(model, requests, reduction, cache=cache)
    pairs = [(item, request.seed) for item, request in zip(items, requests, strict=True) if isinstance(item, Prepared)]
    ready = [item for item, _ in pairs]
    selector = Selector(reduction, model.info, [seed for _, seed in pairs])
    hidden, groups = torch.empty(0, device=model.device), list[LayerGroup]()
    if ready:
        sequence = assemble(model, ready)
        selector.start(sequence)
        hidden, groups = run_layers(model, sequence, selector, budget=budget, observe=observe)
    return Batch(items, ready, hidden, groups, selector)


def assemble(model: VisionLanguageModel, ready: Sequence[Prepared]) -> VisualSequence:
    """Put visual tokens in place of the image slots and pad the prompts on the right."""
    spread = [_spread(item) for item in ready]
    lengths = [len(ids) for ids in spread]
    longest = max(lengths)
    device = model.device
    ids = torch.tensor([row + [_PADDING] * (longest - len(row)) for row in spread], device=device)
    visual = ids == IMAGE_SLOT
    hidden = model.embed(ids.clamp_min(0))
    features = [part for item in ready for part in item.features]
    if features:
        hidden[visual] = torch.cat(features).to(hidden.dtype)
    text = (ids != _PADDING) & ~visual
    last = torch.arange(1, longest + 1, device=device) * visual  # 1 + column of each visual token
    question = text & (torch.arange(longest, device=device) >= last.amax(dim=1, keepdim=True))
    nothing_follows = ~question.any(dim=1, keepdim=True)
    return VisualSequence(
        hidden=hidden,
        positions=_positions(ready, longest, device),
        visual=visual,
        question=question | (text & nothing_follows),
        lengths=lengths,
        next_positions=[item.next_position for item in ready],
        slots=[item.slots for item in ready],
        originals=[item.visual_tokens for item in ready],
    )


def run_layers(
    model: VisionLanguageModel,
    sequence: VisualSequence,
    selector: Selector,
    *,
    budget: int,
    observe: Observer | None = None,
) -> tuple[Tensor, list[LayerGroup]]:
    """Run the prompt through all layers; return the last rows [B, width] and the filled caches."""
    layers = model.layers()
    group = LayerGroup(model, sequence, budget=budget)
    groups, mask = [group], group.prompt_mask()
    for index, layer in enumerate(layers):
        reduced = selector.reduce(index, layer, sequence, group)
        if reduced is not sequence:
            group.close()
            sequence, group = reduced, LayerGroup(model, reduced, budget=budget, like=group)
            groups.append(group)
            mask = group.prompt_mask()
        normed = layer.norm(sequence.hidden)
        keys, values = rotate(layer.keys(normed), group.angles), layer.values(normed)
        group.layers.append((layer, LayerCache(keys, values)))
        if index == len(layers) - 1 and observe is None:
            break
        queries = rotate(layer.queries(normed), group.angles)
        selector.signals.during_attention(index, layer, sequence, group, queries, keys)
        output = layer.project_heads(prompt_attention(queries, keys, values, scaling=layer.scaling, mask=mask))
        selector.signals.after_attention(index, sequence, output)
        if observe is not None:
            observe(index, sequence, output)
        sequence.hidden = layer.finish(sequence.hidden, output)
    else:
        group.close()
        return sequence.last(sequence.hidden)[:, 0], groups
    # Of the last layer only the last row is ever read, so no other row asks a question there.
    residual, normed = sequence.last(sequence.hidden), sequence.last(normed)
    query = rotate(layer.queries(normed), group.last_angles())
    attended = row_attention(query, keys, values, scaling=layer.scaling, visible=group.visible_to_last())
    group.close()
    return layer.finish(residual, layer.project_heads(attended))[:, 0], groups


def tokens_per_layer(groups: Sequence[LayerGroup], row: int) -> tuple[list[int], list[int]]:
    """Return, for one sequence, all prompt tokens and the visual tokens of every layer."""
    layers = [group for group in groups for _ in group.layers]
    return [group.lengths[row] for group in layers], [group.counts[row] for group in layers]


_PADDING = IMAGE_SLOT - 1


def _spread(item: Prepared) -> list[int]:
    """Return the prompt ids with every image slot repeated once per visual token."""
    sizes = iter(item.features)
    spread: list[int] = []
    for token in item.token_ids:
        spread += [IMAGE_SLOT] * len(next(sizes)) if token == IMAGE_SLOT else [token]
    return spread


def _positions(ready: Sequence[Prepared], longest: int, device: torch.device) -> Tensor:
    """Return 0, 1, 2, … for every sequence, or each one's own positions [T, 3] padded with zeros."""
    if ready[0].positions is None:
        return torch.arange(longest, device=device).expand(len(ready), longest)
    positions = torch.zeros(len(ready), longest, 3, dtype=torch.int64, device=device)
    for row, item in enumerate(ready):
        assert item.positions is not None, "positions have three axes for all prompts of a model or for none"
        positions[row, : item.positions.shape[0]] = item.positions
    return positions
