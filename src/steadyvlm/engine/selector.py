"""Applies a reduction before decoder layers, one sequence at a time, and keeps the records of what stayed."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from steadyvlm.engine.cache import LayerGroup
from steadyvlm.engine.decoder_signals import DecoderSignals
from steadyvlm.engine.selections import check_selection
from steadyvlm.engine.signals import decoder_sites, method_name, prunes_cache
from steadyvlm.engine.slots import Slots
from steadyvlm.engine.vision import failure_of
from steadyvlm.engine.visual_sequence import VisualSequence
from steadyvlm.errors import RunError, SteadyVLMError
from steadyvlm.models.adapter import DecoderLayer, ModelInfo
from steadyvlm.records import Failure, KeptTokens
from steadyvlm.reduction.base import Rating, Reduction, Selection


class Selector:
    """What a reduction does to one batch inside the decoder.

    Attributes:
        signals: collects what the method reads.
        prunes_cache: whether what is dropped also leaves the cache of the layer that ran last.
        failures: why a sequence was given up, None while it goes on. It stays in the batch, unreduced from there on.
    """

    def __init__(self, reduction: Reduction | None, info: ModelInfo, seeds: Sequence[int]) -> None:
        """Prepare for one batch.

        Args:
            reduction: the method; None or one without decoder sites changes nothing.
            info: of the model.
            seeds: of each sequence.
        """
        self._reduction = reduction
        self._method = method_name(reduction)
        self._sites = decoder_sites(reduction, info)
        self.prunes_cache = prunes_cache(reduction)
        self._kept: list[tuple[int, Sequence[Slots]]] = []
        self.signals = DecoderSignals(frozenset() if reduction is None else reduction.needs, self._sites.keys(), seeds)
        self.failures: list[Failure | None] = [None] * len(seeds)

    def start(self, sequence: VisualSequence) -> None:
        """Choose each sequence's raters from the embeddings, if the method reads what raters do."""
        method: object = self._reduction
        if not (self._sites and self.signals.wants_raters):
            return
        assert isinstance(method, Rating), "a method that reads what raters do names the raters"
        rates = torch.zeros_like(sequence.question)
        texts, visuals = sequence.question_rows(sequence.hidden), sequence.visual_rows(sequence.hidden)
        for row, (visual, text) in enumerate(zip(visuals, texts, strict=True)):
            columns = sequence.question[row].nonzero()[:, 0]
            try:
                if visual.shape[0]:
                    raters = method.raters(visual.float(), text.float())
                    columns = columns[self._checked(raters, text.shape[0])]
            except SteadyVLMError as error:
                self.failures[row] = failure_of(error)
            rates[row, columns] = True
        sequence.raters = rates

    def reduce(self, index: int, layer: DecoderLayer, sequence: VisualSequence, group: LayerGroup) -> VisualSequence:
        """Return the batch as layer number `index` processes it; the very same object where the method does not act."""
        if index not in self._sites:
            return sequence
        assert self._reduction is not None, "sites exist only with a reduction"
        compact = self._reduction.compact_positions
        chosen: list[Selection | None] = []
        for row, seen in enumerate(self.signals.at(layer, sequence, group)):
            selection = None
            try:
                if seen.num_tokens and self.failures[row] is None:
                    selection = self._reduction.select(seen, self._sites[index])
                    check_selection(selection, seen.num_tokens, method=self._method, ascending=not compact)
            except SteadyVLMError as error:
                selection, self.failures[row] = None, failure_of(error)
            chosen.append(selection)
        reduced = sequence.reduce(chosen, compact=compact)
        self._kept.append((index, reduced.slots))
        return reduced

    def records(self, row: int) -> list[KeptTokens]:
        """Return what stayed of one sequence at each site so far."""
        return [record for layer, slots in self._kept for record in slots[row].records(layer)]

    def _checked(self, raters: Tensor, texts: int) -> Tensor:
        ascending = raters.dim() == 1 and bool((raters[1:] > raters[:-1]).all())
        if not (ascending and raters.numel() and int(raters[0]) >= 0 and int(raters[-1]) < texts):
            raise RunError(
                f"reduction '{self._method}' returned raters {raters.tolist()}, expected at least one of 0 to "
                f"{texts - 1}, strictly ascending. This is a mistake in the method's `raters`."
            )
        return raters
