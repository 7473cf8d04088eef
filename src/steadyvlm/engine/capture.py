"""What happens inside a model while it reads a prompt, for probes and searches: states, and the first token's logits.

`run_prefill` is `generate` without the answer. An observer is called once per layer and takes what it needs, so that
nothing has to be stored that nobody asked for. `observe_layers` shows every layer of an unreduced prompt: inputs,
outputs and where the question looks; `assembled` stops in front of the first one.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from steadyvlm.engine.cache import LayerGroup
from steadyvlm.engine.decoder_signals import question_attention
from steadyvlm.engine.images import VisionCache
from steadyvlm.engine.layer import run_layer
from steadyvlm.engine.prefill import Observer, assemble, prefill_batch, tokens_per_layer
from steadyvlm.engine.requests import Request
from steadyvlm.engine.vision import Prepared, prepare
from steadyvlm.engine.visual_sequence import VisualSequence
from steadyvlm.errors import SampleError
from steadyvlm.models.adapter import DecoderLayer, VisionLanguageModel
from steadyvlm.records import Failure
from steadyvlm.reduction.base import Reduction


@dataclass(frozen=True, slots=True)
class PrefillResult:
    """One prompt, read to its end.

    Attributes:
        row: its row in the batch that an observer saw.
        logits: [V] float32 of the first answer token.
        tokens_per_layer: prompt tokens each layer processed.
        visual_per_layer: visual tokens among them.
    """

    row: int
    logits: Tensor
    tokens_per_layer: tuple[int, ...]
    visual_per_layer: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class LayerView:
    """One decoder layer at work on a batch of unreduced prompts. The tensors are the engine's own: change nothing.

    Attributes:
        index: number of the layer.
        sequence: the batch; `sequence.visual` and `sequence.valid()` [B, T] tell columns apart, and
            `sequence.visual_rows` cuts [B, T, …] into each prompt's visual tokens.
        before: [B, T, D] hidden states as they enter the layer.
        after: [B, T, D] as they leave it.
        question_attention: of each prompt, `Signal.QUESTION_ATTENTION` [N] of this layer.
    """

    index: int
    sequence: VisualSequence
    before: Tensor
    after: Tensor
    question_attention: list[Tensor]


@torch.inference_mode()
def run_prefill(
    model: VisionLanguageModel,
    requests: Sequence[Request],
    reduction: Reduction | None = None,
    *,
    observe: Observer | None = None,
    vision_cache: VisionCache | None = None,
) -> list[PrefillResult | Failure]:
    """Read a batch of prompts, without answering.

    Args:
        model: a loaded model.
        requests: one batch.
        reduction: a token-reduction method, or None to keep every token.
        observe: called as `observe(index, sequence, output)` in every layer, the last one included: its number, the
            batch as it entered (`sequence.hidden` [B, T, D], `sequence.visual` and `sequence.valid()` [B, T]), and the
            attention's output [B, T, D] after its projection, before the residual sum. Rows of the batch are the
            requests that did not fail before the decoder, in order (see `PrefillResult.row`); columns past a
            sequence's length are padding.
            The tensors are the engine's own: copy what is kept, change nothing.
        vision_cache: carries encoded pictures from batch to batch.

    Returns:
        One result per request, in order; a request that cannot be read becomes a `Failure` in its place.

    Raises:
        InvalidOption, Unsupported: as `generate`.

    >>> seen = []
    >>> run_prefill(model, requests, observe=lambda index, sequence, output: seen.append(index))   # doctest: +SKIP
    """
    batch = prefill_batch(model, requests, reduction, budget=1, cache=vision_cache, observe=observe)
    results: list[PrefillResult | Failure] = []
    logits = model.logits(batch.hidden) if batch.ready else batch.hidden
    row = 0
    for item in batch.items:
        if not isinstance(item, Prepared):
            results.append(item)
            continue
        result = PrefillResult(row, logits[row], *tokens_per_layer(batch.executed, row))
        results.append(batch.selector.failures[row] or result)
        row += 1
    return results


@torch.no_grad()
def assembled(
    model: VisionLanguageModel, requests: Sequence[Request], *, vision_cache: VisionCache | None = None
) -> VisualSequence:
    """Return a batch of unreduced prompts as it stands in front of the first decoder layer.

    Args:
        model: a loaded model.
        requests: one batch, at least one; rows keep its order.
        vision_cache: carries encoded pictures from batch to batch.

    Raises:
        SampleError: for a request that cannot be read, since nothing is to be learned from part of a batch.

    >>> assembled(model, requests).hidden.shape   # doctest: +SKIP
    torch.Size([4, 655, 4096])
    """
    ready: list[Prepared] = []
    for number, item in enumerate(prepare(model, requests, None, cache=vision_cache)):
        if isinstance(item, Failure):
            raise SampleError(f"request {number} of {len(requests)} cannot be read: {item.message}")
        ready.append(item)
    return assemble(model, ready)


@torch.no_grad()
def observe_layers(
    model: VisionLanguageModel, requests: Sequence[Request], *, vision_cache: VisionCache | None = None
) -> Iterator[LayerView]:
    """Yield every decoder layer at work on a batch of unreduced prompts, in order.

    What a low-bit model shows is what it answers with: quantised keys and values where `generate` uses them.

    Args:
        model: a loaded model.
        requests: one batch, at least one; rows keep its order.
        vision_cache: carries encoded pictures from batch to batch.

    Raises:
        SampleError: as `assembled`.

    >>> for layer in observe_layers(model, requests):                  # doctest: +SKIP
    ...     print(layer.index, [float(mass.sum()) for mass in layer.question_attention])
    """
    sequence = assembled(model, requests, vision_cache=vision_cache)
    group = LayerGroup(model, sequence)
    for index, layer in enumerate(model.layers()):
        before = sequence.hidden
        sequence.hidden, attention = _watched(layer, sequence, group)
        yield LayerView(index, sequence, before, sequence.hidden, attention)


def _watched(layer: DecoderLayer, sequence: VisualSequence, group: LayerGroup) -> tuple[Tensor, list[Tensor]]:
    """Return a layer's output, and where the question looked meanwhile."""
    seen: list[list[Tensor]] = []

    def look(queries: Tensor, keys: Tensor) -> None:
        seen.append(question_attention(layer, sequence, group, queries, keys))

    return run_layer(layer, group, sequence.hidden, look=look), seen[0]
