"""What happens inside a model while it reads a prompt, for probes and searches: states, and the first token's logits.

`run_prefill` is `generate` without the answer. An observer is called once per layer and takes what it needs, so that
nothing has to be stored that nobody asked for.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from steadyvlm.engine.images import VisionCache
from steadyvlm.engine.prefill import Observer, prefill_batch, tokens_per_layer
from steadyvlm.engine.requests import Request
from steadyvlm.engine.vision import Prepared
from steadyvlm.models.adapter import VisionLanguageModel
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
