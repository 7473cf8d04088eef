"""Keys and values of the retained tokens, each layer with its own length.

Layers between two selections hold the same tokens, so they form a `LayerGroup` that shares lengths, angles and masks.
A `LayerCache` starts as the tensors of the prompt, without a copy, and grows in blocks. All sequences write a new key
to the same column; the columns between a sequence's own prompt end and the padded end stay invisible to it.
"""

from __future__ import annotations

import torch
from torch import Tensor

from steadyvlm.engine.visual_sequence import VisualSequence
from steadyvlm.models.adapter import DecoderLayer, Rotary, VisionLanguageModel

_BLOCK = 16


class LayerCache:
    """Keys and values [B, H_kv, S, d] of one layer."""

    __slots__ = ("_keys", "_used", "_values")

    def __init__(self, keys: Tensor, values: Tensor) -> None:
        """Start from the prompt's keys and values; they are kept, not copied."""
        self._keys, self._values = keys, values
        self._used = keys.shape[2]

    def extend(self, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        """Append one column [B, H_kv, 1, d]; return all keys and values so far."""
        if self._used == self._keys.shape[2]:
            self._keys, self._values = _grown(self._keys), _grown(self._values)
        self._keys[:, :, self._used] = keys[:, :, 0]
        self._values[:, :, self._used] = values[:, :, 0]
        self._used += 1
        return self._keys[:, :, : self._used], self._values[:, :, : self._used]

    def keep_rows(self, rows: Tensor) -> None:
        """Drop all sequences but `rows` [B'] int64."""
        self._keys, self._values = self._keys[rows], self._values[rows]


class LayerGroup:
    """Decoder layers between two selections: what they share, and a cache each.

    Attributes:
        layers: the layers with their caches, in order.
        lengths: tokens of each sequence in the prompt, as these layers see it.
        counts: visual tokens among them.
        angles: rotary angles of the prompt; dropped by `close`, since answers never need them.
    """

    def __init__(
        self, model: VisionLanguageModel, sequence: VisualSequence, *, budget: int, like: LayerGroup | None = None
    ) -> None:
        """Describe the layers that process `sequence`.

        Args:
            model: gives the rotary angles and the sliding window.
            sequence: the prompt as it reaches these layers.
            budget: answer tokens that may follow.
            like: an earlier group, whose angles for the answer are reused where they are equal.
        """
        window = model.info.sliding_window
        device = sequence.hidden.device
        self.layers: list[tuple[DecoderLayer, LayerCache]] = []
        self.lengths = sequence.lengths
        self.counts = sequence.counts
        self.angles = model.rotary(sequence.positions)
        self._next = sequence.next_positions
        ahead = torch.tensor(self._next, device=device)[:, None] + torch.arange(budget, device=device)
        same = like is not None and like._next == self._next
        self._step_angles: Rotary = (
            like._step_angles if like is not None and same else model.rotary(_text(ahead, sequence))
        )
        self._columns = columns = sequence.visual.shape[1]
        self._window = window if window is not None and max(self._next) + budget > window else None
        self._valid: Tensor | None = None
        self._positions: Tensor | None = None
        if min(self.lengths) < columns or self._window is not None:
            self._valid = torch.cat((sequence.valid(), torch.ones_like(ahead, dtype=torch.bool)), dim=1)
        if self._window is not None:  # only models with one position axis have a window
            self._positions = torch.cat((sequence.positions, ahead), dim=1)

    def close(self) -> None:
        """Forget what only the prompt needed."""
        self.angles = Rotary(*(part[:, :, :0] for part in self.angles))

    def prompt_mask(self) -> Tensor | None:
        """Return [B, 1, T, T] bool for a sliding window; None where causality is enough (padding is at the end)."""
        if self._window is None or self._positions is None:
            return None
        positions = self._positions[:, : self._columns]
        near = positions[:, :, None] - positions[:, None, :] < self._window
        return (near & torch.ones_like(near[0]).tril()).unsqueeze(1)

    def visible_to_rows(self, columns: Tensor) -> Tensor:
        """Return [B, Q, T] bool, the keys that the prompt's rows `columns` [B, Q] may see."""
        visible = torch.arange(self._columns, device=columns.device) <= columns[:, :, None]
        if self._window is None or self._positions is None:
            return visible
        positions = self._positions[:, : self._columns]
        return visible & (positions.gather(1, columns)[:, :, None] - positions[:, None, :] < self._window)

    def visible_to_last(self) -> Tensor | None:
        """Return [B, T] bool, the keys the last prompt token may see; None when it sees all."""
        if self._valid is None:
            return None
        ends = torch.tensor(self.lengths, device=self._valid.device)[:, None] - 1
        return self._visible(self._columns, ends)

    def visible_to_step(self, step: int) -> Tensor | None:
        """Return [B, T + step + 1] bool, the keys answer token `step` may see; None when it sees all."""
        if self._valid is None:
            return None
        end = self._columns + step
        return self._visible(end + 1, torch.full((len(self.lengths), 1), end, device=self._valid.device))

    def last_angles(self) -> Rotary:
        """Return the rotary angles [B, 1, 1, d] of the last prompt token."""
        ends = torch.tensor(self.lengths, device=self.angles.cos.device) - 1
        batch = torch.arange(len(self.lengths), device=ends.device)
        return Rotary(*(part[batch, :, ends].unsqueeze(2) for part in self.angles))

    def step_angles(self, step: int) -> Rotary:
        """Return the rotary angles of answer token `step`."""
        return Rotary(self._step_angles.cos[:, :, step : step + 1], self._step_angles.signed_sin[:, :, step : step + 1])

    def keep_rows(self, rows: list[int]) -> None:
        """Drop all sequences but `rows`."""
        index = torch.tensor(rows, device=self._step_angles.cos.device)
        self.lengths = [self.lengths[row] for row in rows]
        self.counts = [self.counts[row] for row in rows]
        self._step_angles = Rotary(*(part[index] for part in self._step_angles))
        self._valid = None if self._valid is None else self._valid[index]
        self._positions = None if self._positions is None else self._positions[index]
        for _, cache in self.layers:
            cache.keep_rows(index)

    def _visible(self, columns: int, query_columns: Tensor) -> Tensor:
        assert self._valid is not None, "without padding and window everything is visible"
        visible = self._valid[:, :columns]
        if self._window is None or self._positions is None:
            return visible
        query = self._positions.gather(1, query_columns)
        return visible & (query - self._positions[:, :columns] < self._window)


def _text(positions: Tensor, sequence: VisualSequence) -> Tensor:
    """Return text positions [B, S] with as many axes as the sequence's positions have; text is equal on all."""
    axes = sequence.positions.shape[2:]
    return positions if not axes else positions[..., None].expand(-1, -1, *axes)


def _grown(stored: Tensor) -> Tensor:
    batch, heads, used, width = stored.shape
    larger = stored.new_empty((batch, heads, used + _BLOCK, width))
    larger[:, :, :used] = stored
    return larger
