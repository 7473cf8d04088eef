"""FlatQuant's calibration: each block learns, on its own full-precision inputs, to be rounded with little harm.

A block's loss is the mean squared difference of its outputs before and after rounding, divided by its own value, so
that all blocks learn at one rate whatever the size of their outputs. Errors are not passed on: every block is given
what the full-precision model gives it. So blocks do not depend on each other, and neither do parts.

    inputs of a block  ->  largest magnitudes  ->  AdamW, cosine, some epochs  ->  transforms and clips, kept on disk

Source: Sun et al. 2024, arXiv 2410.09426, section 3.3; repository ruikangliu/FlatQuant at 9d88ffc (`train_utils.py`,
and the learning rates of its scripts).
Differs:
    - Towers and connectors are calibrated too, on pictures; decoder layers on prompts with pictures. Samples have
      different lengths; padding is left out of the loss and of all statistics.
    - Step sizes fall to a thousandth of their own beginning, not all to a thousandth of the transforms'.
    - What is learned depends on the seed and the block's path, not on which blocks were learned before.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict
from typing import Any

from torch import nn

from steadyvlm.calibration.capture import block_inputs
from steadyvlm.calibration.examples import examples_sha256
from steadyvlm.calibration.learning import learn
from steadyvlm.calibration.store import BlockStore
from steadyvlm.engine.requests import Request
from steadyvlm.engine.signals import encoder_site, image_scale
from steadyvlm.errors import Unsupported
from steadyvlm.models.adapter import VisionLanguageModel
from steadyvlm.quantization.apply import check_weights, sort_out
from steadyvlm.quantization.base import BlockError, QuantizationReport
from steadyvlm.quantization.flatquant import FlatQuant
from steadyvlm.quantization.install import install, report
from steadyvlm.quantization.state import BlockState
from steadyvlm.quantization.structure import Block, Part
from steadyvlm.reduction.base import Reduction
from steadyvlm.registry import spec_of
from steadyvlm.seeding import content_hash

Progress = Callable[[int, int, str], None]
"""Called as `progress(done, total, what)`."""

_ORDER: tuple[Part, ...] = ("vision", "connector", "language")
_VERSION = 1
"""Raise it when the same settings come to learn something else: what was kept before is then left alone."""
_NOT_LEARNED = ("modules", "calibration", "samples", "seed", "pruned", "backend", "decoder_inputs")
"""Settings that change nothing about what one part learns, or that the key holds in another form."""


def calibrate_flatquant(
    quantizer: FlatQuant,
    model: VisionLanguageModel,
    examples: Sequence[Request],
    *,
    reduction: Reduction | None = None,
    store: BlockStore | None = None,
    progress: Progress | None = None,
) -> QuantizationReport:
    """Learn all blocks of the parts `quantizer` names and quantise them in `model`; hand over a copy.

    Args:
        quantizer: settings.
        model: full precision when handed over, quantised afterwards.
        examples: prompts and pictures.
        reduction: at work meanwhile, where the quantiser asks for the pruned graph.
        store: where learned blocks are kept; None for the usual place.
        progress: called when a block is done.

    Raises:
        Unsupported: when there is nothing to quantise, or a part reads pictures and the examples have none.
        CheckpointError: for a weight that is not finite.
        SampleError: for an example the model cannot read.
        RunError: when a block's loss is no number any more.
    """
    store = BlockStore() if store is None else store
    at_work = reduction if quantizer.pruned else None
    blocks = model.blocks(quantizer.modules)
    ready = _whole(blocks, model.module)
    learner = _Learner(quantizer, model, examples, at_work, store)
    states: dict[str, BlockState] = {}
    errors: dict[str, BlockError] = {}
    together = [_ORDER] if quantizer.decoder_inputs == "original" else [_ORDER[:2], _ORDER[2:]]
    reports = []
    for parts in together:
        for part in parts:
            for block, state, error in learner.blocks([block for block in ready if block.part == part]):
                states[block.path], errors[block.path] = state, error
                if progress is not None:
                    progress(len(states), len(ready), block.path)
        chosen = [block for block in blocks if block.part in parts]
        decided = {block.path: states[block.path] for block in chosen if block.path in states}
        if decided:
            reports.append(install(chosen, decided, model.module, quantizer.settings))
    layers, skipped = (tuple(item for found in side for item in found) for side in zip(*reports, strict=True))
    how = ", all visual tokens kept" if at_work is None else f", with {_text(at_work)} at work"
    notes = [f"Calibrated on {len(examples)} examples{how}.", *store.notices]
    found = report("flatquant", layers, skipped, quantizer.settings, notes)
    return dataclasses.replace(found, block_errors=tuple(errors[block.path] for block in ready))


def _whole(blocks: Sequence[Block], root: nn.Module) -> list[Block]:
    """Return the blocks whose linears can all be quantised; `install` reports the others.

    Raises:
        Unsupported, CheckpointError: when nothing can be quantised, or a weight is not finite.
    """
    linears: dict[str, Any] = {path: root.get_submodule(path) for block in blocks for path in block.linears}
    plain, skipped = sort_out(linears, root)
    check_weights(plain)
    whole = [block for block in blocks if all(path in plain for path in block.linears)]
    if not whole:
        raise Unsupported(
            f"flatquant changes whole blocks, and each of {len(blocks)} holds a linear that cannot be quantised, such "
            f"as '{skipped[0].name}': {skipped[0].reason}. Name other parts, or start from the original."
        )
    return whole


class _Learner:
    """Learns the blocks of a part, or remembers them."""

    def __init__(
        self,
        quantizer: FlatQuant,
        model: VisionLanguageModel,
        examples: Sequence[Request],
        reduction: Reduction | None,
        store: BlockStore,
    ) -> None:
        self._quantizer, self._model, self._examples = quantizer, model, examples
        self._reduction, self._store = reduction, store
        self._about = {
            "version": _VERSION,
            "weights": model.weights_sha256(),
            "dtype": str(model.provenance()["dtype"]),
            "method": "flatquant",
            "settings": {name: value for name, value in asdict(quantizer).items() if name not in _NOT_LEARNED},
            "examples": examples_sha256(examples),
            "seed": quantizer.seed,
        }

    def blocks(self, blocks: Sequence[Block]) -> Iterator[tuple[Block, BlockState, BlockError]]:
        """Yield what is known about each block of one part, in order."""
        if not blocks:
            return
        part, key = blocks[0].part, self._key(blocks[0].part)
        known = {block.path: self._remembered(key, block) for block in blocks}
        unknown = [block.index for block in blocks if known[block.path] is None]
        pending = block_inputs(
            self._model,
            self._examples,
            part,
            batch=self._quantizer.batch,
            reduction=self._seen(part),
            first=min(unknown, default=0),
        )
        for block in blocks:
            found = known[block.path]
            if found is None:
                inputs = next(item for item in pending if item.block == block)
                found = learn(inputs, self._model, self._quantizer)
                self._store.write(key, block, found[0], asdict(found[1]))
            yield block, *found

    def _remembered(self, key: str, block: Block) -> tuple[BlockState, BlockError] | None:
        found = self._store.read(key, block, self._model.module)
        if found is None:
            return None
        numbers: dict[str, Any] = {name: found[1].get(name) for name in ("power", "rounded", "rotated", "learned")}
        if not all(isinstance(value, float) for value in numbers.values()):
            self._store.notices.append(f"What was measured of '{block.path}' before could not be used.")
            return None
        return found[0], BlockError(block.path, block.part, **numbers)

    def _seen(self, part: Part) -> Reduction | None:
        """Return the reduction where it changes what this part reads."""
        reduction = self._reduction
        shrinks = image_scale(reduction) != 1.0
        if part == "vision":
            return reduction if shrinks else None
        if part == "connector":
            return reduction if shrinks or encoder_site(reduction, self._model.info) is not None else None
        return reduction

    def _key(self, part: Part) -> str:
        about: dict[str, Any] = {**self._about, "part": part}
        reduction = self._seen(part)
        if reduction is not None:
            about["reduction"] = _text(reduction)
        if part == "language" and self._quantizer.decoder_inputs == "quantized":
            about["before"] = [other for other in self._quantizer.modules if other != part]
        return content_hash(about)


def _text(reduction: Reduction) -> str:
    return str(spec_of(reduction, type(reduction).__name__))
