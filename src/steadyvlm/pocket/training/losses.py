"""What the pocket models are trained on besides answers: what each cell of a picture shows, and where it lies."""

from __future__ import annotations

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from steadyvlm.pocket.vocabulary import COLOURS, SHAPES, WORDS

DENSE = {"item": 1 + len(SHAPES) + 10 + len(WORDS), "colour": 1 + len(COLOURS), "letter": 27, "centre": 2}
"""Per-cell targets of the vision training and their number of classes; class 0 is background."""


def dense_heads(width: int, cells: int = 1) -> nn.ModuleDict:
    """Return linear heads that name what each of a token's `cells` cells shows."""
    return nn.ModuleDict({name: nn.Linear(width, cells * classes) for name, classes in DENSE.items()})


def dense_loss(heads: nn.ModuleDict, rows: Tensor, targets: Mapping[str, Tensor]) -> Tensor:
    """Cross-entropy per cell; rows: [..., D] tokens, targets: name -> as many cells as the heads name, int64."""
    total = rows.new_zeros((), dtype=torch.float32)
    for name, head in heads.items():
        target = targets[name].flatten()
        loss = F.cross_entropy(head(rows).float().reshape(-1, DENSE[name]), target, reduction="none")
        weight = torch.where(target == 0, 0.15, 1.0)
        total = total + (2.0 if name == "item" else 1.0) * (loss * weight).sum() / weight.sum()
    return total


def place_loss(head: nn.Module, rows: Tensor, side: int) -> Tensor:
    """Cross-entropy of each token's row and column in a `side` x `side` map; rows: [B, side * side, D].

    Rows of a map are visible to a decoder in the order of the tokens, columns are not: without this loss "left" and
    "right" are learned late or never.
    """
    row, column = head(rows).float().flatten(0, 1).chunk(2, -1)
    index = torch.arange(side * side, device=rows.device).repeat(rows.shape[0])
    return F.cross_entropy(row, index // side) + F.cross_entropy(column, index % side)


def answer_loss(logits: Tensor, batch: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
    """Return (loss, share of answer tokens predicted): answer tokens weigh 1, end tokens 0.1."""
    loss = F.cross_entropy(
        logits.float().flatten(0, 1), batch["targets"].flatten(), reduction="none", ignore_index=-100
    )
    kind = batch["kinds"].flatten()
    weight = torch.where(kind == 1, 1.0, torch.where(kind == 2, 0.1, 0.0))
    right = (logits.argmax(-1) == batch["targets"]) & (batch["kinds"] == 1)
    return (loss * weight).sum() / (kind == 1).sum(), right.sum() / (kind == 1).sum()
