"""A batch of prompts inside the decoder, and the one place where a selection changes it.

Hidden states, positions, token kinds and provenance are stored together; `reduce` applies one linear map to all of
them, so they cannot drift apart. Sequences are padded on the right and each keeps as many visual tokens as its own
selection says: surviving tokens move left in their old order with one stable sort for the whole batch.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from steadyvlm.errors import RunError
from steadyvlm.records import KeptTokens
from steadyvlm.reduction.base import Selection


@dataclass(frozen=True, slots=True)
class Slots:
    """Where the visual tokens of one sequence come from, in slot order.

    Attributes:
        num_images: images in the prompt.
        image: image index of each slot.
        token: raster index inside its image; -1 for a CLS row.
        merged: extra tokens merged into each slot.
    """

    num_images: int
    image: tuple[int, ...]
    token: tuple[int, ...]
    merged: tuple[int, ...]

    def __len__(self) -> int:
        """Return the number of visual tokens."""
        return len(self.image)

    def take(self, keep: Sequence[int], mix: Tensor | None) -> Slots:
        """Return the slots a selection leaves; `mix` [K, N] adds what it merges to the counts."""
        merged = [self.merged[i] for i in keep]
        if mix is not None:
            weights = torch.tensor([count + 1 for count in self.merged], dtype=torch.float32)
            merged = [max(0, round(total) - 1) for total in ((mix.cpu() != 0).float() @ weights).tolist()]
        return Slots(
            self.num_images, tuple(self.image[i] for i in keep), tuple(self.token[i] for i in keep), tuple(merged)
        )

    def records(self, layer: int) -> list[KeptTokens]:
        """Return one record per image of what is processed from `layer` on."""
        found = []
        for image in range(self.num_images):
            mine = [slot for slot, owner in enumerate(self.image) if owner == image]
            merged = tuple(self.merged[slot] for slot in mine)
            found.append(KeptTokens(layer, image, tuple(self.token[s] for s in mine), merged if any(merged) else ()))
        return found


@dataclass(slots=True)
class VisualSequence:
    """B prompts in front of a decoder layer.

    Attributes:
        hidden: [B, T, D] hidden states; columns past a sequence's length hold finite leftovers.
        positions: [B, T] int64 positions the rotary angles are made from.
        visual: [B, T] bool, True at visual tokens (never at padding).
        lengths: tokens of each sequence.
        next_positions: position of the first answer token of each sequence.
        slots: provenance of each sequence's visual tokens.
    """

    hidden: Tensor
    positions: Tensor
    visual: Tensor
    lengths: list[int]
    next_positions: list[int]
    slots: list[Slots]
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
        return _before(self.lengths, self.positions)

    def last(self, rows: Tensor) -> Tensor:
        """Return the rows [B, 1, …] of [B, T, …] at the last token of each sequence."""
        ends = torch.tensor(self.lengths, device=rows.device) - 1
        return rows[torch.arange(rows.shape[0], device=rows.device), ends].unsqueeze(1)

    def visual_columns(self, rows: Tensor) -> list[Tensor]:
        """Split [B, H, T] into each sequence's [H, N], visual tokens only, in slot order."""
        picked = rows[self._owners, :, self._columns]
        return [part.T for part in picked.split_with_sizes(self.counts)]

    def reduce(self, selections: Sequence[Selection | None], *, compact: bool) -> VisualSequence:
        """Return the batch after one selection per sequence (None keeps everything).

        Args:
            selections: `keep` counts the sequence's visual tokens and is strictly ascending.
            compact: number the survivors 0, 1, 2, …; otherwise they keep their positions and gaps stay.
        """
        keeps = [
            list(range(len(slots))) if chosen is None else chosen.keep.tolist()
            for chosen, slots in zip(selections, self.slots, strict=True)
        ]
        order, lengths = self._survivors(keeps)
        batch = torch.arange(order.shape[0], device=order.device)[:, None]
        hidden = self.hidden[batch, order]
        visual = self.visual[batch, order]
        visual &= _before(lengths, order)
        if any(chosen is not None and chosen.mix is not None for chosen in selections):
            hidden[visual] = self._mixed(selections)
        columns = torch.arange(order.shape[1], device=order.device).expand_as(order)
        return VisualSequence(
            hidden=hidden,
            positions=columns if compact else self.positions[batch, order],
            visual=visual,
            lengths=lengths,
            next_positions=list(lengths) if compact else self.next_positions,
            slots=[
                slots if chosen is None else slots.take(keep, chosen.mix)
                for slots, keep, chosen in zip(self.slots, keeps, selections, strict=True)
            ],
        )

    def _survivors(self, keeps: Sequence[Sequence[int]]) -> tuple[Tensor, list[int]]:
        """Return the old column of every new column [B, T'] and the new lengths."""
        device = self.hidden.device
        starts = [0]
        for count in self.counts:
            starts.append(starts[-1] + count)
        flat = [start + index for start, keep in zip(starts, keeps, strict=False) for index in keep]
        picked = torch.tensor(flat, dtype=torch.int64, device=device)
        alive = self.valid() & ~self.visual
        alive[self._owners[picked], self._columns[picked]] = True
        lengths = [
            length - count + len(keep) for length, count, keep in zip(self.lengths, self.counts, keeps, strict=True)
        ]
        order = (~alive).to(torch.uint8).argsort(dim=1, stable=True)
        return order[:, : max(lengths)], lengths

    def _mixed(self, selections: Sequence[Selection | None]) -> Tensor:
        """Return the new hidden rows of all visual slots, sequence after sequence; sums run in float32."""
        rows = self.hidden[self._owners, self._columns].split_with_sizes(self.counts)
        return torch.cat([apply_selection(part, chosen) for part, chosen in zip(rows, selections, strict=True)])


def _before(lengths: Sequence[int], like: Tensor) -> Tensor:
    """Return a bool mask shaped as `like` [B, T], True in the first `lengths[b]` columns."""
    ends = torch.tensor(lengths, device=like.device)[:, None]
    return torch.arange(like.shape[1], device=like.device) < ends


def apply_selection(rows: Tensor, selection: Selection | None) -> Tensor:
    """Return the [K, D] slots of [R, D] rows: `mix @ rows` in float32, or just the kept rows."""
    if selection is None:
        return rows
    if selection.mix is None:
        return rows[selection.keep.to(rows.device)]
    return (selection.mix.to(rows.device, torch.float32) @ rows.to(torch.float32)).to(rows.dtype)


def check_selection(selection: Selection, rows: int, *, method: str, ascending: bool) -> None:
    """Refuse a selection that does not fit the rows it was made from.

    Raises:
        RunError: naming the method, what it returned and what was expected.
    """
    keep, mix = selection.keep, selection.mix
    problem = ""
    if keep.dim() != 1 or keep.dtype != torch.int64:
        problem = f"keep of shape {tuple(keep.shape)} and {keep.dtype}, expected one dimension of int64"
    elif keep.numel() and not (int(keep.min()) >= 0 and int(keep.max()) < rows):
        problem = f"keep between {int(keep.min())} and {int(keep.max())}, but there are {rows} rows"
    elif ascending and keep.numel() > 1 and not bool((keep[1:] > keep[:-1]).all()):
        problem = "keep out of order, but inside the decoder it must be strictly ascending"
    elif mix is not None and tuple(mix.shape) != (keep.numel(), rows):
        problem = f"mix of shape {tuple(mix.shape)}, expected {(keep.numel(), rows)}"
    if problem:
        raise RunError(f"reduction '{method}' returned {problem}. This is a mistake in the method's `select`.")
