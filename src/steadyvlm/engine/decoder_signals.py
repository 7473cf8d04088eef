"""What a method sees inside the decoder, and nothing it did not ask for.

Full attention is never written out: of a layer that runs before a site, one row per sequence is computed, or the rows
of the text tokens that rate the visual ones, or some rows at a time where only means are wanted; the fused kernel stays
on for everything else. What a layer shows is read while it runs and handed over at the site behind it. In a low-bit
model it is what the deployed layer computes with: turned queries, and keys as they come back from their codes.
"""

from __future__ import annotations

from collections.abc import Sequence
from collections.abc import Set as AbstractSet
from typing import Any

import torch
from torch import Tensor

from steadyvlm.engine.attention import mean_received, rater_probabilities, row_probabilities
from steadyvlm.engine.cache import LayerGroup
from steadyvlm.engine.layer import ask, keys_met
from steadyvlm.engine.visual_sequence import VisualSequence, columns_of
from steadyvlm.models.adapter import DecoderLayer, Rotary
from steadyvlm.reduction.base import Signal, Signals

_RATERS = frozenset({Signal.RATER_ATTENTION, Signal.RATER_ROTARY})


class DecoderSignals:
    """Collects the signals of one batch, site after site.

    `during_attention` and `after_attention` read the layer before a site, `at` puts a site's signals together.
    """

    def __init__(self, needs: AbstractSet[Signal], layers: AbstractSet[int], seeds: Sequence[int]) -> None:
        """Collect for sites before `layers`.

        Args:
            needs: signals the method reads.
            layers: numbers of the layers it acts before.
            seeds: of each sequence.
        """
        self._needs = frozenset(signal for signal in needs if not signal.of_encoder)
        self._layers, self._seeds = layers, seeds
        self._seen: dict[Signal, Sequence[Tensor]] = {}

    @property
    def wants_raters(self) -> bool:
        """Whether the method reads what rating text tokens do."""
        return bool(self._needs & _RATERS)

    def during_attention(
        self,
        index: int,
        layer: DecoderLayer,
        sequence: VisualSequence,
        group: LayerGroup,
        queries: Tensor,
        keys: Tensor,
    ) -> None:
        """Read layer `index`, from its input and the queries [B, H, T, d] and keys [B, H_kv, T, d] that meet there."""
        if index + 1 not in self._layers:
            return
        if Signal.HIDDEN_BEFORE in self._needs:
            self._seen[Signal.HIDDEN_BEFORE] = [part.float() for part in sequence.visual_rows(sequence.hidden)]
        if Signal.QUESTION_ATTENTION in self._needs:
            self._seen[Signal.QUESTION_ATTENTION] = question_attention(layer, sequence, group, queries, keys)
        if Signal.VISUAL_ATTENTION in self._needs:
            self._seen[Signal.VISUAL_ATTENTION] = _received(layer, sequence, group, queries, keys, sequence.visual)
        if Signal.LAST_QUERY_ATTENTION in self._needs:
            last = sequence.last(queries.transpose(1, 2)).transpose(1, 2)
            rows = row_probabilities(last, keys, scaling=layer.scaling, visible=group.visible_to_last())
            self._seen[Signal.LAST_QUERY_ATTENTION] = sequence.visual_columns(rows)
        if self.wants_raters:
            columns, counts = sequence.rater_columns()
            if Signal.RATER_ATTENTION in self._needs:
                rows = rater_probabilities(
                    queries, keys, columns, scaling=layer.scaling, visible=group.visible_to_rows(columns)
                )
                picked = sequence.visual_rows(rows.permute(0, 3, 1, 2))  # each [N, H, Q]
                self._seen[Signal.RATER_ATTENTION] = [
                    part[:, :, :count].permute(1, 2, 0) for part, count in zip(picked, counts, strict=True)
                ]
            if Signal.RATER_ROTARY in self._needs:
                picked = sequence.visual_rows(_rotary_similarity(group.angles, columns, layer.scaling))
                self._seen[Signal.RATER_ROTARY] = [
                    part[:, :count].T for part, count in zip(picked, counts, strict=True)
                ]

    def after_attention(self, index: int, sequence: VisualSequence, output: Tensor) -> None:
        """Read layer `index`'s attention output [B, T, D], before it is added to the residual."""
        if index + 1 in self._layers and Signal.ATTENTION_OUTPUT in self._needs:
            self._seen[Signal.ATTENTION_OUTPUT] = [part.float() for part in sequence.visual_rows(output)]

    def at(self, layer: DecoderLayer, sequence: VisualSequence, group: LayerGroup) -> list[Signals]:
        """Return what the method sees of each sequence before `layer`; `group` describes what reaches it."""
        seen, self._seen = self._seen, {}
        if Signal.HIDDEN in self._needs:
            seen[Signal.HIDDEN] = [part.float() for part in sequence.visual_rows(sequence.hidden)]
        if Signal.TEXT_HIDDEN in self._needs:
            seen[Signal.TEXT_HIDDEN] = [part.float() for part in sequence.question_rows(sequence.hidden)]
        if Signal.FRESH_QUERY_ATTENTION in self._needs:
            seen[Signal.FRESH_QUERY_ATTENTION] = sequence.visual_columns(_fresh(layer, sequence, group))
        if Signal.QUANTIZATION_RESIDUAL in self._needs:
            seen[Signal.QUANTIZATION_RESIDUAL] = _residual(layer, sequence)
        found = []
        for row, (slots, seed) in enumerate(zip(sequence.slots, self._seeds, strict=True)):
            values: dict[str, Any] = {signal.value: parts[row] for signal, parts in seen.items()}
            found.append(
                Signals(
                    num_tokens=len(slots),
                    seed=seed,
                    images=slots.image,
                    original_tokens=sum(sequence.originals[row]),
                    image_tokens=sequence.originals[row],
                    **values,
                )
            )
        return found


def question_attention(
    layer: DecoderLayer, sequence: VisualSequence, group: LayerGroup, queries: Tensor, keys: Tensor
) -> list[Tensor]:
    """Return `Signal.QUESTION_ATTENTION` [N] of each sequence; arguments as `DecoderSignals.during_attention`."""
    return _received(layer, sequence, group, queries, keys, sequence.askers())


def _received(
    layer: DecoderLayer, sequence: VisualSequence, group: LayerGroup, queries: Tensor, keys: Tensor, rows: Tensor
) -> list[Tensor]:
    """Return what each visual token receives from the prompt's `rows` [B, T] bool, as a mean over them and heads."""
    columns, counts = columns_of(rows)
    received = mean_received(queries, keys, columns, counts, scaling=layer.scaling, visible=group.visible_to_rows)
    return sequence.visual_rows(received)


def _residual(layer: DecoderLayer, sequence: VisualSequence) -> list[Tensor]:
    """Return what quantising the input of a layer's attention loses of each visual token."""
    rows = torch.cat(sequence.visual_rows(sequence.hidden))
    lost = layer.activation_error(rows) if len(rows) else rows.new_zeros(0)
    return list(lost.float().split_with_sizes(sequence.counts))


def _fresh(layer: DecoderLayer, sequence: VisualSequence, group: LayerGroup) -> Tensor:
    """Return the attention probabilities [B, H, T] of the last prompt token in a layer that has not run yet."""
    normed = layer.norm(sequence.hidden)
    query = ask(layer, sequence.last(normed), group.last_angles())
    keys = keys_met(layer, normed, group.angles)
    return row_probabilities(query, keys, scaling=layer.scaling, visible=group.visible_to_last())


def _rotary_similarity(angles: Rotary, columns: Tensor, scaling: float) -> Tensor:
    """Return [B, T, Q] float32: rotated ones at every position times rotated ones at `columns` [B, Q], scaled."""
    ones = (angles.cos.float() + angles.signed_sin.float())[:, 0]
    batch = torch.arange(ones.shape[0], device=ones.device)[:, None]
    return ones @ ones[batch, columns].transpose(1, 2) * scaling
