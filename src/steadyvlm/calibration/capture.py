"""What enters each block of a model while it reads the calibration examples.

The engine runs the examples, with a token reduction at work if asked, and what it hands to a block is copied. Memory
is bounded: as many blocks as fit are recorded in one pass, and the next pass records the next ones; a block's inputs
are forgotten when the following block is asked for.

    decoder layers   [B, T, D] hidden states of B padded prompts, after any selection in front of the layer
    vision layers    [1, S, D] rows of several pictures, one after the other
    connector        [N, I] rows its first linear reads, of several pictures
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
from PIL.Image import Image
from torch import Tensor

from steadyvlm.calibration.contexts import DecoderContext, TowerContext
from steadyvlm.engine.cache import LayerGroup
from steadyvlm.engine.images import VisionCache
from steadyvlm.engine.prefill import prefill_batch
from steadyvlm.engine.requests import Request
from steadyvlm.engine.signals import image_scale
from steadyvlm.engine.vision import prepare
from steadyvlm.engine.visual_sequence import VisualSequence
from steadyvlm.errors import SampleError, Unsupported
from steadyvlm.models.adapter import VisionLanguageModel
from steadyvlm.models.tower_attention import TowerAttention
from steadyvlm.quantization.structure import Block, Part
from steadyvlm.records import Failure
from steadyvlm.reduction.base import Reduction

Kind = TypeVar("Kind")

HELD_BYTES = 2 << 30
"""Recorded inputs that are held at once, beyond which further blocks wait for another pass."""


@dataclass(frozen=True, slots=True)
class BlockBatch:
    """One batch in front of a block.

    Attributes:
        hidden: the block's input, see above, in the dtype of the model.
        valid: [B, T], [1, S] or [N] bool, False at padding.
        context: how its rows see each other; None for a connector.
    """

    hidden: Tensor
    valid: Tensor
    context: DecoderContext | TowerContext | None


@dataclass(frozen=True, slots=True)
class BlockInputs:
    """All that enters one block.

    Attributes:
        block: which.
        batches: of the examples, in their order.
    """

    block: Block
    batches: tuple[BlockBatch, ...]


@torch.no_grad()
def block_inputs(
    model: VisionLanguageModel,
    examples: Sequence[Request],
    part: Part,
    *,
    batch: int = 4,
    reduction: Reduction | None = None,
    first: int = 0,
    held_bytes: int = HELD_BYTES,
) -> Iterator[BlockInputs]:
    """Yield what enters each block of one part, in order.

    Args:
        model: as it is; usually the full-precision one.
        examples: prompts and pictures.
        part: "language", "vision" or "connector".
        batch: examples (for the tower: pictures) per batch.
        reduction: at work while the model reads; what it drops is not seen by what comes after.
        first: number of the first block that is wanted.
        held_bytes: bound on what is recorded at once; one block is recorded whatever its size.

    Raises:
        Unsupported: when the part reads pictures and the examples have none.
        SampleError: for an example the model cannot read.

    >>> for inputs in block_inputs(model, examples, "language"):   # doctest: +SKIP
    ...     print(inputs.block.path, len(inputs.batches))
    """
    blocks = model.blocks((part,))
    if part != "language" and not any(example.images for example in examples):
        raise Unsupported(
            f"the {part} part cannot be calibrated: none of the {len(examples)} examples has a picture. "
            "Take a calibration set with pictures, or leave this part out of `modules`."
        )
    chunks = _chunks(examples, batch)
    if part == "connector":
        yield BlockInputs(blocks[0], tuple(_connector_batches(model, blocks[0], chunks, reduction)))
        return
    if part == "language":
        passing = _decoder_pass(model, chunks, reduction)
    else:
        passing = _tower_pass(model, _chunks(_pictures(examples), batch), image_scale(reduction))
    start = first
    while start < len(blocks):
        recorded = _Recorded(start, len(blocks), held_bytes)
        passing(recorded)
        for index in range(start, recorded.stop):
            yield BlockInputs(blocks[index], tuple(recorded.batches.pop(index)))
        start = recorded.stop


class _Recorded:
    """The inputs of blocks `start` to `stop`; the last ones are given up when there is too much to hold."""

    def __init__(self, start: int, stop: int, limit: int) -> None:
        self.start, self.stop, self._limit, self._held = start, stop, limit, 0
        self.batches: dict[int, list[BlockBatch]] = {index: [] for index in range(start, stop)}

    def wants(self, index: int) -> bool:
        return self.start <= index < self.stop

    def add(self, index: int, batch: BlockBatch) -> None:
        self.batches[index].append(batch)
        self._held += batch.hidden.nbytes
        while self._held > self._limit and self.stop > self.start + 1:
            self.stop -= 1
            self._held -= sum(dropped.hidden.nbytes for dropped in self.batches.pop(self.stop))


def _decoder_pass(
    model: VisionLanguageModel, chunks: Sequence[Sequence[Request]], reduction: Reduction | None
) -> Callable[[_Recorded], None]:
    """Return what reads all prompts once, recording what enters the decoder layers that are wanted."""
    kept = VisionCache(len({id(image) for chunk in chunks for example in chunk for image in example.images}) or 1)
    scalings = [layer.scaling for layer in model.layers()]

    def run(recorded: _Recorded) -> None:
        for number, chunk in enumerate(chunks):
            groups: list[tuple[VisualSequence, LayerGroup]] = []  # layers between two selections share one

            def observe(
                index: int,
                sequence: VisualSequence,
                _: Tensor,
                groups: list[tuple[VisualSequence, LayerGroup]] = groups,
            ) -> None:
                if not recorded.wants(index):
                    return
                if not groups or groups[-1][0] is not sequence:
                    groups.append((sequence, LayerGroup(model, sequence)))
                context = DecoderContext(groups[-1][1], scalings[index])
                recorded.add(index, BlockBatch(sequence.hidden.clone(), sequence.valid(), context))

            batch = prefill_batch(model, chunk, reduction, budget=1, cache=kept, observe=observe)
            _refuse_failures([*batch.items, *batch.selector.failures], f"batch {number}")

    return run


def _tower_pass(
    model: VisionLanguageModel, chunks: Sequence[Sequence[Image]], scale: float
) -> Callable[[_Recorded], None]:
    """Return what encodes all pictures once, recording what enters the vision blocks that are wanted."""

    def run(recorded: _Recorded) -> None:
        for chunk in chunks:
            seen: dict[int, list[tuple[Tensor, TowerAttention]]] = {}

            def watch(
                index: int,
                hidden: Tensor,
                attention: TowerAttention,
                seen: dict[int, list[tuple[Tensor, TowerAttention]]] = seen,
            ) -> None:
                if recorded.wants(index):
                    seen.setdefault(index, []).append((hidden.clone(), attention))

            for picture in chunk:
                model.watch_tower(model.preprocess(picture, scale=scale), watch)
            for index, found in seen.items():
                if recorded.wants(index):
                    recorded.add(index, _joined(found))

    return run


def _joined(found: Sequence[tuple[Tensor, TowerAttention]]) -> BlockBatch:
    hidden = torch.cat([rows for rows, _ in found], dim=1)
    context = TowerContext.of([(rows.shape[1], attention) for rows, attention in found])
    return BlockBatch(hidden, torch.ones(hidden.shape[:2], dtype=torch.bool, device=hidden.device), context)


def _connector_batches(
    model: VisionLanguageModel, block: Block, chunks: Sequence[Sequence[Request]], reduction: Reduction | None
) -> Iterator[BlockBatch]:
    """Yield the rows the connector's first linear reads of each chunk of examples that has pictures."""
    rows: list[Tensor] = []

    def remember(_: Any, inputs: tuple[Tensor, ...]) -> None:
        rows.append(inputs[0].detach().clone())

    hook = model.module.get_submodule(block.readers[0].linears[0]).register_forward_pre_hook(remember)
    try:
        for number, chunk in enumerate(chunks):
            rows.clear()
            _refuse_failures(prepare(model, chunk, reduction, cache=None), f"batch {number}")
            if rows:
                hidden = torch.cat(rows)
                yield BlockBatch(hidden, torch.ones(len(hidden), dtype=torch.bool, device=hidden.device), None)
    finally:
        hook.remove()


def _pictures(examples: Sequence[Request]) -> list[Image]:
    """Return each picture of the examples once, in order."""
    return list({id(image): image for example in examples for image in example.images}.values())


def _chunks(items: Sequence[Kind], size: int) -> list[Sequence[Kind]]:
    return [items[start : start + size] for start in range(0, len(items), size)]


def _refuse_failures(items: Sequence[object], where: str) -> None:
    for item in items:
        if isinstance(item, Failure):
            raise SampleError(f"a calibration example ({where}) cannot be read: {item.message} Remove it from the set.")
