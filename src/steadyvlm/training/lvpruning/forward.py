"""The prompt through a frozen decoder in which dropped tokens are masked instead of removed, with gradients.

    a_ij = exp(z_ij) G_ij / sum_k exp(z_ik) G_ik,    G_ij = 1 if i = j, else M_j

M_j is 1 for text and for visual tokens still kept. As a mask that is added to z, log G gives exactly this attention and
its gradient, so the decoder layers of Hugging Face run unchanged, whatever the family. A dropped token goes on looking
at others, but nobody looks at it; what the others compute is what they compute without it.

Differs: log 0 would have no gradient, and the gradient of a dropped token is what tells it should have been kept. G is
at least exp(-28), 1e-12: invisible in float32, and the gradient keeps its full relative precision. The engine's own
layers write in place and cannot be differentiated.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from steadyvlm.models.adapter import VisionLanguageModel
from steadyvlm.reduction.lvpruning_module import PruningModule
from steadyvlm.training.lvpruning.decisions import Decide

FLOOR = -28.0
"""Log of what is left of a dropped token; a number that bfloat16 holds exactly."""


@dataclass(frozen=True, slots=True)
class Batch:
    """Prompts with their answers, padded on the right.

    Attributes:
        hidden: [B, T, D] decoder input embeddings.
        positions: [B, T], or [B, T, 3] with three axes.
        visual: [B, T] bool, True at visual tokens.
        question: [B, T] bool, True at the text after the last picture, the answer excluded.
        targets: [B, T] the id that should follow each token; -100 where nobody asks.
    """

    hidden: Tensor
    positions: Tensor
    visual: Tensor
    question: Tensor
    targets: Tensor


@dataclass(frozen=True, slots=True)
class Result:
    """What the masked decoder says.

    Attributes:
        logits: [A, V] float32 at the A tokens that have a target, batch first.
        kept: [B, T] per stage, 1 for what is left and 0 for what is dropped; 1 at text.
    """

    logits: Tensor
    kept: list[Tensor]


def masked_forward(
    model: VisionLanguageModel, batch: Batch, modules: Mapping[int, PruningModule], decide: Decide
) -> Result:
    """Run the decoder with modules before some layers.

    Args:
        model: a frozen model; nothing of it changes.
        batch: the prompts.
        modules: by decoder layer; without any, the original model answers.
        decide: turns logits into decisions, see `decisions`.
    """
    decoder: Any = model.module.model.language_model  # type: ignore[union-attr]  # where every family keeps it
    angles = _angles(model, batch.positions)
    seen = _causal(batch.hidden.shape[1], model.info.sliding_window, batch.hidden.device)
    hidden, stages = batch.hidden, []
    kept = torch.ones(batch.visual.shape, device=hidden.device)
    mask = attention_bias(kept, seen).to(hidden.dtype)
    for index, layer in enumerate(decoder.layers):
        if index in modules:
            rows = hidden.float()
            decision = decide(modules[index](rows, rows, batch.question))
            kept = kept * torch.where(batch.visual, decision, 1.0)
            mask = attention_bias(kept, seen).to(hidden.dtype)
            stages.append(kept)
        hidden = layer(hidden, attention_mask=mask, position_embeddings=angles)
    return Result(model.logits(hidden[batch.targets >= 0]), stages)


def attention_bias(kept: Tensor, seen: Tensor) -> Tensor:
    """Return [B, 1, T, T], log G where a row may look and minus infinity elsewhere.

    Args:
        kept: [B, T] of 0 and 1.
        seen: [T, T] bool, True where row i may look at column j.
    """
    own = torch.eye(kept.shape[1], dtype=torch.bool, device=kept.device)
    shares = torch.where(own, 1.0, kept[:, None, None, :])
    return (shares + math.exp(FLOOR)).log().masked_fill(~seen, -torch.inf)


def _causal(length: int, window: int | None, device: torch.device) -> Tensor:
    seen = torch.ones(length, length, dtype=torch.bool, device=device).tril()
    return seen if window is None else seen.triu(1 - window)


def _angles(model: VisionLanguageModel, positions: Tensor) -> tuple[Tensor, Tensor]:
    """Return cosine and sine [B, T, d] as the layers of Hugging Face take them: the engine's sine is signed."""
    cos, signed = (part.squeeze(1) for part in model.rotary(positions))
    half = signed.shape[-1] // 2
    return cos, torch.cat((-signed[..., :half], signed[..., half:]), dim=-1)
