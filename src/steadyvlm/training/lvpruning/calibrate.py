"""Make firm decisions leave the shares that drawn ones were trained to leave.

Training draws: a token whose keep probability is 0.66 stays in two draws of three. Inference decides: the same token
always stays. Where a module is undecided, early in the decoder above all, the two shares lie far apart, so after
training each module's keep bias is moved until firm decisions leave the wanted share of the training questions. The
order of tokens does not change, only where it is cut, and each question still gets as many tokens as it needs.

Source: a choice of ours; the article's public text does not speak of it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from steadyvlm.models.adapter import VisionLanguageModel
from steadyvlm.reduction.lvpruning_module import PruningModule
from steadyvlm.training.lvpruning.decisions import firm_decisions
from steadyvlm.training.lvpruning.forward import Batch, masked_forward


@torch.no_grad()
def calibrate(
    model: VisionLanguageModel, batches: Sequence[Batch], modules: Mapping[int, PruningModule], ratios: Sequence[float]
) -> None:
    """Move the keep bias of each module in place, stage after stage.

    Args:
        model: the frozen model.
        batches: training questions; all of their visual tokens count alike.
        modules: by decoder layer, ascending.
        ratios: share of all visual tokens wanted after each stage.
    """
    total = sum(int(batch.visual.sum()) for batch in batches)
    active: dict[int, PruningModule] = {}
    for (layer, module), ratio in zip(modules.items(), ratios, strict=True):
        active[layer] = module
        margins = torch.cat([_margins(model, batch, active) for batch in batches]).sort(descending=True).values
        wanted = min(max(1, int(ratio * total)), len(margins))
        edges = torch.cat((margins, margins[-1:] - 1.0))
        module.decide.bias[0] -= (edges[wanted - 1] + edges[wanted]) / 2


def _margins(model: VisionLanguageModel, batch: Batch, modules: Mapping[int, PruningModule]) -> Tensor:
    """Return keep minus drop of the visual tokens that reach the last of `modules`."""
    seen: list[Tensor] = []

    def decide(logits: Tensor) -> Tensor:
        seen.append(logits[..., 0] - logits[..., 1])
        return firm_decisions(logits)

    kept = masked_forward(model, batch, modules, decide).kept
    reached = batch.visual if len(kept) == 1 else batch.visual & (kept[-2] > 0)
    return seen[-1][reached]
