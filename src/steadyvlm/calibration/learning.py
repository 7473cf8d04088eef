"""One block learns how to be quantised, and is measured beside round-to-nearest and a rotation.

Source and what differs: see `calibration.flatquant`.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from steadyvlm.calibration.capture import BlockBatch, BlockInputs
from steadyvlm.calibration.running import channel_maxima
from steadyvlm.calibration.store import from_tensors, to_tensors
from steadyvlm.errors import RunError
from steadyvlm.models.adapter import VisionLanguageModel
from steadyvlm.quantization.base import BlockError
from steadyvlm.quantization.block_simulation import SimulatedBlock
from steadyvlm.quantization.flat_block import FlatBlock
from steadyvlm.quantization.flatquant import FlatQuant, block_loss
from steadyvlm.quantization.hadamard_w4a4 import HadamardW4A4
from steadyvlm.quantization.state import BlockState
from steadyvlm.quantization.structure import Block
from steadyvlm.seeding import stable_seed


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
