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
import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict
from typing import Any

import torch
from torch import Tensor, nn

from steadyvlm.calibration.capture import BlockBatch, BlockInputs, block_inputs
from steadyvlm.calibration.examples import examples_sha256
from steadyvlm.calibration.running import channel_maxima
from steadyvlm.calibration.store import BlockStore, from_tensors, to_tensors
from steadyvlm.engine.requests import Request
from steadyvlm.errors import RunError
from steadyvlm.models.adapter import VisionLanguageModel
from steadyvlm.quantization.base import BlockError, QuantizationReport, QuantizedLayer, SkippedLayer
from steadyvlm.quantization.block_simulation import SimulatedBlock
from steadyvlm.quantization.flat_block import FlatBlock
from steadyvlm.quantization.flatquant import FlatQuant, block_loss
from steadyvlm.quantization.hadamard_w4a4 import HadamardW4A4
from steadyvlm.quantization.install import install, report
from steadyvlm.quantization.state import BlockState
from steadyvlm.quantization.structure import Block, Part
from steadyvlm.reduction.base import Reduction
from steadyvlm.registry import spec_of
from steadyvlm.seeding import content_hash, stable_seed

Progress = Callable[[int, int, str], None]
"""Called as `progress(done, total, what)`."""

_ORDER: tuple[Part, ...] = ("vision", "connector", "language")
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
        Unsupported, SampleError: as `capture.block_inputs`.
        RunError: when a block's loss is no number any more.
    """
    store = BlockStore() if store is None else store
    blocks = model.blocks(quantizer.modules)
    learner = _Learner(quantizer, model, examples, reduction if quantizer.pruned else None, store)
    learned: dict[str, BlockError] = {}
    layers: tuple[QuantizedLayer, ...] = ()
    skipped: tuple[SkippedLayer, ...] = ()
    waiting: dict[Block, BlockState] = {}

    def put_in_place() -> None:
        nonlocal layers, skipped
        if waiting:
            states = {block.path: state for block, state in waiting.items()}
            done, left = install(list(waiting), states, model.module, quantizer.settings)
            layers, skipped = (*layers, *done), (*skipped, *left)
            waiting.clear()

    for part in _ORDER:
        if part == "language" and quantizer.decoder_inputs == "quantized":
            put_in_place()
        for block, state, error in learner.blocks([block for block in blocks if block.part == part]):
            waiting[block], learned[block.path] = state, error
            if progress is not None:
                progress(len(learned), len(blocks), block.path)
    put_in_place()
    notes = [f"Calibrated on {len(examples)} examples{_how(quantizer, reduction)}.", *store.notices]
    found = report("flatquant", layers, skipped, quantizer.settings, notes)
    return dataclasses.replace(found, block_errors=tuple(learned[block.path] for block in blocks))


def _how(quantizer: FlatQuant, reduction: Reduction | None) -> str:
    if not quantizer.pruned:
        return ", all visual tokens kept"
    assert reduction is not None, "a pruned graph needs what prunes it"
    return f", with {spec_of(reduction, type(reduction).__name__)} at work"


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
        known = [self._store.read(key, block, self._model.module) for block in blocks]
        first = next((place for place, found in enumerate(known) if found is None), len(blocks))
        for block, found in zip(blocks[:first], known, strict=False):
            assert found is not None, "all blocks before the first unknown one are known"
            yield block, found[0], BlockError(**found[1])
        if first == len(blocks):
            return
        pending = block_inputs(
            self._model, self._examples, part, batch=self._quantizer.batch, reduction=self._reduction, first=first
        )
        for inputs, found in zip(pending, known[first:], strict=True):
            block = inputs.block
            if found is None:
                state, error = learn(inputs, self._model, self._quantizer)
                self._store.write(key, block, state, asdict(error))
                yield block, state, error
            else:
                yield block, found[0], BlockError(**found[1])

    def _key(self, part: Part) -> str:
        about: dict[str, Any] = {**self._about, "part": part}
        if self._reduction is not None:
            about["reduction"] = str(spec_of(self._reduction, type(self._reduction).__name__))
        if part == "language" and self._quantizer.decoder_inputs == "quantized":
            about["before"] = [other for other in self._quantizer.modules if other != part]
        return content_hash(about)


def learn(inputs: BlockInputs, model: VisionLanguageModel, quantizer: FlatQuant) -> tuple[BlockState, BlockError]:
    """Return what one block learns on its inputs, and how much it loses then.

    Raises:
        RunError: when the loss is no number any more.
    """
    block, root = inputs.block, model.module
    quantizer = for_block(quantizer, block, model)
    generator = torch.Generator().manual_seed(stable_seed("flatquant", quantizer.seed, block.path))
    flat = FlatBlock(block, root, quantizer, channel_maxima(block, root, inputs.batches), generator)
    exact = SimulatedBlock(block, root, quantizer.settings)
    with torch.no_grad():
        batches = [(batch, exact(batch.hidden.float(), batch.context)) for batch in inputs.batches]
    optimizer = torch.optim.AdamW(flat.parameter_groups(), weight_decay=quantizer.weight_decay)
    steps = max(1, quantizer.epochs * len(batches))
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: quantizer.rate(min(step, steps - 1), steps))
    for _, (batch, target) in itertools.product(range(quantizer.epochs), batches):
        loss = block_loss(flat(batch.hidden.float(), batch.context, quantize=True), target, batch.valid)
        if not torch.isfinite(loss):
            raise RunError(
                f"while '{block.path}' was calibrated its loss stopped being a number: a transform has no inverse any "
                f"more. Take a step size below lr={quantizer.lr}, or parametrization='cayley', whose transforms always "
                "have one."
            )
        optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]  # torch leaves it without types
        optimizer.step()
        schedule.step()
    state = flat.state()
    return state, block_error(batches, exact, state, root, quantizer)


@torch.no_grad()
def block_error(
    batches: Sequence[tuple[BlockBatch, Tensor]],
    exact: SimulatedBlock,
    learned: BlockState,
    root: nn.Module,
    quantizer: FlatQuant,
) -> BlockError:
    """Return the mean squared error of a block whose numbers are rounded as they are, rotated, and as learned.

    Args:
        batches: what enters the block, with its full-precision output.
        exact: the block.
        learned: what was decided about it.
        root: the Hugging Face module.
        quantizer: bits and formats; rotations are drawn from its seed.
    """
    block = exact.block
    bits = {name: getattr(quantizer, name) for name in ("weight_bits", "activation_bits", "kv_bits", "scale_dtype")}
    rotated = HadamardW4A4(**bits, seed=quantizer.seed).state(block, root)
    device = batches[0][1].device
    states = {"rounded": BlockState(), "rotated": _single(rotated, device), "learned": _single(learned, device)}
    totals = dict.fromkeys(("power", *states), 0.0)
    entries = 0
    for batch, target in batches:
        entries += int(batch.valid.sum()) * target.shape[-1]
        totals["power"] += float(target[batch.valid].double().square().sum())
        for name, state in states.items():
            output = exact(batch.hidden.float(), batch.context, state, quantize=True)
            totals[name] += float((output - target)[batch.valid].double().square().sum())
    return BlockError(block.path, block.part, **{name: total / entries for name, total in totals.items()})


def for_block(quantizer: FlatQuant, block: Block, model: VisionLanguageModel) -> FlatQuant:
    """Return the settings one block is quantised with: the vision tower's first and last may have bits of their own."""
    bits = quantizer.vision_edge_bits
    if bits is None or block.part != "vision":
        return quantizer
    edges = (0, len(model.blocks(("vision",))) - 1)
    if block.index not in edges:
        return quantizer
    return dataclasses.replace(quantizer, weight_bits=bits, activation_bits=bits)


def _single(state: BlockState, device: torch.device) -> BlockState:
    """Return a state in float32 on a device."""
    return from_tensors({name: value.to(device, torch.float32) for name, value in to_tensors(state).items()})
