"""Layers that keep the same tokens, and what they share: lengths, angles, masks.

Layers between two selections form a `LayerGroup`. All sequences write a new key to the same column of every cache; the
columns between a sequence's own prompt end and the padded end stay invisible to it. A method may take what it drops out
of the cache of the layer that has just run as well: that layer then moves on into the next group.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from steadyvlm.engine.layer_cache import LayerCache
from steadyvlm.engine.visual_sequence import VisualSequence
from steadyvlm.models.adapter import DecoderLayer, Rotary, VisionLanguageModel


class LayerGroup:
    """Decoder layers between two selections: what they share, and a cache each.

    Attributes:
        layers: the layers with their caches, in order.
        lengths: tokens of each sequence in the prompt, as these caches hold it.
        counts: visual tokens among them.
        angles: rotary angles of the prompt; dropped by `close`, since answers never need them.
    """

    def __init__(
        self, model: VisionLanguageModel, sequence: VisualSequence, *, budget: int = 1, like: LayerGroup | None = None
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

    def take_last(self, earlier: LayerGroup, columns: Tensor) -> None:
        """Take over the last layer of the group before, keeping of its cache what this group's sequence kept of it.

        Args:
            earlier: a group that has layers and the same positions for the answer.
            columns: [B, T] of the earlier group's prompt, where each of this group's columns stood.
        """
        layer, cache = earlier.layers.pop()
        cache.keep_columns(columns)
        self.layers.append((layer, cache))

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


def bytes_held(groups: Sequence[LayerGroup], row: int) -> tuple[int, int]:
    """Return the bytes that all layers hold of one sequence's prompt, and that each further token adds."""
    cached = [(group.lengths[row], cache.token_bytes) for group in groups for _, cache in group.layers]
    return sum(tokens * size for tokens, size in cached), sum(size for _, size in cached)


def _text(positions: Tensor, sequence: VisualSequence) -> Tensor:
    """Return text positions [B, S] with as many axes as the sequence's positions have; text is equal on all."""
    axes = sequence.positions.shape[2:]
    return positions if not axes else positions[..., None].expand(-1, -1, *axes)
