"""The prompts of one batch, from requests to the last row behind the last layer.

The decoder's layers are driven here, one after the other, so that a selection can act before any of them and every
layer keeps keys and values only for the tokens that reached it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from steadyvlm.engine.attention import prompt_attention, row_attention
from steadyvlm.engine.cache import LayerGroup
from steadyvlm.engine.images import VisionCache
from steadyvlm.engine.layer import ask, write
from steadyvlm.engine.requests import Request
from steadyvlm.engine.selector import Selector
from steadyvlm.engine.signals import check_deployed
from steadyvlm.engine.vision import Prepared, prepare
from steadyvlm.engine.visual_sequence import VisualSequence
from steadyvlm.models.adapter import IMAGE_SLOT, VisionLanguageModel
from steadyvlm.records import Failure
from steadyvlm.reduction.base import Reduction

Observer = Callable[[int, VisualSequence, Tensor], None]
"""Called once per layer with its number, the batch as it entered, and its attention's output; see `capture`."""


class Executed(NamedTuple):
    """What one layer processed of each prompt; its cache may hold less (`CachePruning`).

    Attributes:
        lengths: tokens.
        counts: visual tokens among them.
    """

    lengths: list[int]
    counts: list[int]


@dataclass(frozen=True, slots=True)
class Batch:
    """A batch behind its prompts.

    Attributes:
        items: each request, ready for the decoder or failed before it.
        ready: the requests that reached the decoder, in order.
        hidden: [B, width] last row of each of them; empty when there is none.
        groups: their caches.
        executed: what each layer processed.
        selector: what the reduction did to them.
    """

    items: list[Prepared | Failure]
    ready: list[Prepared]
    hidden: Tensor
    groups: list[LayerGroup]
    executed: list[Executed]
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
    check_deployed(reduction, model)
    items = prepare(model, requests, reduction, cache=cache)
    pairs = [(item, request.seed) for item, request in zip(items, requests, strict=True) if isinstance(item, Prepared)]
    ready = [item for item, _ in pairs]
    selector = Selector(reduction, model.info, [seed for _, seed in pairs])
    hidden, groups, executed = torch.empty(0, device=model.device), list[LayerGroup](), list[Executed]()
    if ready:
        sequence = assemble(model, ready)
        selector.start(sequence)
        hidden, groups, executed = run_layers(model, sequence, selector, budget=budget, observe=observe)
    return Batch(items, ready, hidden, groups, executed, selector)


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
        originals=[tuple(layout.visual_tokens for layout in item.layouts) for item in ready],
    )


def run_layers(
    model: VisionLanguageModel,
    sequence: VisualSequence,
    selector: Selector,
    *,
    budget: int,
    observe: Observer | None = None,
) -> tuple[Tensor, list[LayerGroup], list[Executed]]:
    """Run the prompt through all layers; return the last rows [B, width], the caches, and what each layer processed."""
    layers = model.layers()
    group = LayerGroup(model, sequence, budget=budget)
    groups, executed, mask = [group], list[Executed](), group.prompt_mask()
    for index, layer in enumerate(layers):
        reduced = selector.reduce(index, layer, sequence, group)
        if reduced is not sequence:
            following = LayerGroup(model, reduced, budget=budget, like=group)
            if index and selector.prunes_cache:
                assert reduced.origin is not None, "a sequence that was reduced knows where its tokens stood"
                following.take_last(group, reduced.origin)
            group.close()
            sequence, group, mask = reduced, following, following.prompt_mask()
            groups.append(group)
        normed = layer.norm(sequence.hidden)
        keys, values, cache = write(layer, normed, group.angles)
        group.layers.append((layer, cache))
        executed.append(Executed(sequence.lengths, sequence.counts))
        if index == len(layers) - 1 and observe is None:
            break
        queries = ask(layer, normed, group.angles)
        selector.signals.during_attention(index, layer, sequence, group, queries, keys)
        output = layer.project_heads(prompt_attention(queries, keys, values, scaling=layer.scaling, mask=mask))
        selector.signals.after_attention(index, sequence, output)
        if observe is not None:
            observe(index, sequence, output)
        sequence.hidden = layer.finish(sequence.hidden, output)
    else:
        group.close()
        return sequence.last(sequence.hidden)[:, 0], groups, executed
    # Of the last layer only the last row is ever read, so no other row asks a question there.
    residual, normed = sequence.last(sequence.hidden), sequence.last(normed)
    query = ask(layer, normed, group.last_angles())
    attended = row_attention(query, keys, values, scaling=layer.scaling, visible=group.visible_to_last())
    group.close()
    return layer.finish(residual, layer.project_heads(attended))[:, 0], groups, executed


def tokens_per_layer(executed: Sequence[Executed], row: int) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Return, for one sequence, all prompt tokens and the visual tokens that every layer processed."""
    return tuple(layer.lengths[row] for layer in executed), tuple(layer.counts[row] for layer in executed)


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
