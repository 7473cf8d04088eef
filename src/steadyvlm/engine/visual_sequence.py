"""A batch of prompts inside the decoder, and the one place where a selection changes it.

Hidden states, positions, token kinds and provenance are stored together; `reduce` finds the old column of every new one
and moves all of them by it, so they cannot drift apart. Sequences are padded on the right and each keeps as many visual
tokens as its own selection says: survivors move left with one stable sort for the whole batch.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from steadyvlm.engine.selections import merged_slots, summands
from steadyvlm.engine.slots import Slots
from steadyvlm.reduction.base import Selection


@dataclass(slots=True)
class VisualSequence:
    """B prompts in front of a decoder layer.

    Attributes:
        hidden: [B, T, D] hidden states; columns past a sequence's length hold finite leftovers.
        positions: [B, T] or [B, T, 3] int64 positions the rotary angles are made from.
        visual: [B, T] bool, True at visual tokens (never at padding).
        question: [B, T] bool, True at the text after the last image, or at all text when none follows it.
        lengths: tokens of each sequence.
        next_positions: position of the first answer token of each sequence.
        slots: provenance of each sequence's visual tokens.
        originals: visual tokens of each image of each unreduced prompt.
        raters: [B, T] bool, True at the question's tokens that rate the visual ones; None unless asked for.
        origin: [B, T] int64 column of each column before the last selection; None before the first.
    """

    hidden: Tensor
    positions: Tensor
    visual: Tensor
    question: Tensor
    lengths: list[int]
    next_positions: list[int]
    slots: list[Slots]
    originals: list[tuple[int, ...]]
    raters: Tensor | None = None
    origin: Tensor | None = None
    _owners: Tensor = field(init=False)
    _columns: Tensor = field(init=False)

    def __post_init__(self) -> None:
        self._owners, self._columns = self.visual.nonzero(as_tuple=True)

    @property
    def counts(self) -> list[int]:
        """Visual tokens of each sequence."""
        return [len(slots) for slots in self.slots]

    def valid(self) -> Tensor:
        """Return [B, T] bool, False at padding."""
        return _before(self.lengths, self.visual)

    def last(self, rows: Tensor) -> Tensor:
        """Return the rows [B, 1, …] of [B, T, …] at the last token of each sequence."""
        ends = torch.tensor(self.lengths, device=rows.device) - 1
        return rows[torch.arange(rows.shape[0], device=rows.device), ends].unsqueeze(1)

    def visual_rows(self, rows: Tensor) -> list[Tensor]:
        """Split [B, T, …] into each sequence's [N, …], visual tokens only, in slot order; always copies."""
        return list(rows[self._owners, self._columns].split_with_sizes(self.counts))

    def visual_columns(self, rows: Tensor) -> list[Tensor]:
        """Split [B, H, T] into each sequence's [H, N], visual tokens only, in slot order."""
        return [part.T for part in self.visual_rows(rows.transpose(1, 2))]

    def question_rows(self, rows: Tensor) -> list[Tensor]:
        """Split [B, T, …] into each sequence's [Q, …], question tokens only."""
        return list(rows[self.question].split_with_sizes(self.question.sum(dim=1).tolist()))

    def askers(self) -> Tensor:
        """Return [B, T] bool, True at the question's tokens that see all visual ones; at the last token without any."""
        ends = torch.tensor(self.lengths, device=self.question.device)[:, None] - 1
        places = torch.arange(self.question.shape[1], device=ends.device)
        asking = self.question & (places >= ((places + 1) * self.visual).amax(dim=1, keepdim=True))
        return asking | (~asking.any(dim=1, keepdim=True) & (places == ends))

    def rater_columns(self) -> tuple[Tensor, list[int]]:
        """Return the columns [B, Q] of each sequence's raters, padded with column 0, and how many are meant."""
        assert self.raters is not None, "raters are chosen before the first layer"
        return columns_of(self.raters)

    def reduce(self, selections: Sequence[Selection | None], *, compact: bool) -> VisualSequence:
        """Return the batch after one selection per sequence (None keeps everything).

        Args:
            selections: `keep` counts the sequence's visual tokens; the slots of one image stay at that image's place,
                in the order of `keep`.
            compact: number the survivors 0, 1, 2, …; otherwise they keep their positions and gaps stay. Positions with
                three axes are places on a grid, which has no gapless numbering, so there survivors always keep theirs.
        """
        if all(chosen is None for chosen in selections):
            return self
        compact = compact and self.positions.dim() == 2
        chosen = [
            None if given is None else slots.grouped(given) for given, slots in zip(selections, self.slots, strict=True)
        ]
        mixed = [None if taken is None else merged_slots(taken) for taken in chosen]
        order, lengths = self._order(chosen)
        batch = torch.arange(order.shape[0], device=order.device)[:, None]
        columns = torch.arange(order.shape[1], device=order.device).expand_as(order)
        reduced = replace(
            self,
            hidden=self.hidden[batch, order],
            positions=columns if compact else self.positions[batch, order],
            visual=self.visual[batch, order] & _before(lengths, order),
            question=self.question[batch, order] & _before(lengths, order),
            lengths=lengths,
            next_positions=list(lengths) if compact else self.next_positions,
            slots=[
                slots if taken is None else slots.take(taken, sums)
                for slots, taken, sums in zip(self.slots, chosen, mixed, strict=True)
            ],
            raters=None if self.raters is None else self.raters[batch, order] & _before(lengths, order),
            origin=order,
        )
        reduced._merge(self, chosen, mixed)
        return reduced

    def _order(self, selections: Sequence[Selection | None]) -> tuple[Tensor, list[int]]:
        """Return the old column of every new column [B, T'] and the new lengths."""
        device, counts = self.hidden.device, self.counts
        keeps = [
            torch.arange(count, device=device) if taken is None else taken.keep.to(device)
            for taken, count in zip(selections, counts, strict=True)
        ]
        starts = torch.tensor([0, *counts[:-1]]).cumsum(0).tolist()
        picked = torch.cat([keep + start for keep, start in zip(keeps, starts, strict=True)])
        alive = self.valid() & ~self.visual
        alive[self._owners[picked], self._columns[picked]] = True
        lengths = [
            length - count + keep.shape[0] for length, count, keep in zip(self.lengths, counts, keeps, strict=True)
        ]
        order = (~alive).to(torch.uint8).argsort(dim=1, stable=True)[:, : max(lengths)]
        places = self.visual.gather(1, order) & _before(lengths, order)
        order[places] = self._columns[picked]  # the same columns, in the order of the slots
        return order, lengths

    def _merge(
        self, before: VisualSequence, selections: Sequence[Selection | None], mixed: Sequence[Tensor | None]
    ) -> None:
        """Write into `hidden` the slots that are sums; all others were moved here bit by bit."""
        device, old, new = self.hidden.device, 0, 0
        for row, (taken, slots) in enumerate(zip(selections, mixed, strict=True)):
            if taken is not None and slots is not None and slots.numel():
                parts, weights = summands(taken, slots)
                rows = before.hidden[row, before._columns[parts.to(device) + old]]
                places = self._columns[slots.to(device) + new]
                self.hidden[row, places] = (weights.to(device) @ rows.float()).to(rows.dtype)
            old, new = old + before.counts[row], new + self.counts[row]


def columns_of(mask: Tensor) -> tuple[Tensor, list[int]]:
    """Return the columns [B, Q] int64 where `mask` [B, T] is True, padded with column 0, and how many are meant."""
    counts = mask.sum(dim=1)
    sizes: list[int] = counts.tolist()
    columns = (~mask).to(torch.uint8).argsort(dim=1, stable=True)[:, : max(sizes)]
    return columns.masked_fill(torch.arange(max(sizes), device=counts.device) >= counts[:, None], 0), sizes


def _before(lengths: Sequence[int], like: Tensor) -> Tensor:
    """Return a bool mask shaped as `like` [B, T], True in the first `lengths[b]` columns."""
    ends = torch.tensor(lengths, device=like.device)[:, None]
    return torch.arange(like.shape[1], device=like.device) < ends
