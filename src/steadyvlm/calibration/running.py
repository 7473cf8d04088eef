"""Run one block by itself, as the model runs it, quantised or not.

A decoder layer is run by the engine. A vision layer and a connector are run through their own modules, whichever
linears and norms stand there by now.

Letters: B batch, T sequence, S rows of several pictures, N rows, H heads, d head width, I input width.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from steadyvlm.calibration.capture import BlockBatch
from steadyvlm.calibration.contexts import DecoderContext, TowerContext
from steadyvlm.engine.layer import run_layer
from steadyvlm.models.blocks import LlamaLayer
from steadyvlm.quantization.structure import Block, Feed


@torch.no_grad()
def run_block(block: Block, root: nn.Module, batch: BlockBatch) -> Tensor:
    """Return what the block makes of a batch, in the shape of its input; rows of a connector change their width.

    Args:
        block: describes it.
        root: the Hugging Face module, or the result of `alone`.
        batch: what enters it.
    """
    if isinstance(batch.context, DecoderContext):
        layer = LlamaLayer.of(root.get_submodule(block.path))
        return run_layer(layer, batch.context.group, batch.hidden)
    if batch.context is None:
        first, second = (root.get_submodule(reader.linears[0]) for reader in block.readers)
        return second(_activation(block, root)(first(batch.hidden)))  # type: ignore[no-any-return]  # nn.Module calls
    return _run_vision(block, root, batch.hidden, batch.context)


@torch.no_grad()
def channel_maxima(block: Block, root: nn.Module, batches: Sequence[BlockBatch]) -> dict[Feed, Tensor]:
    """Return, of each of the block's inputs, the largest magnitude [I] float32 of every channel; padding is left out.

    The norm's own output is looked at, before any quantiser.
    """
    found: dict[Feed, Tensor] = {}
    valid: list[Tensor] = []

    def watch(feed: Feed) -> Any:
        def look(_: Any, inputs: tuple[Tensor, ...]) -> None:
            own = inputs[0].reshape(-1, inputs[0].shape[-1])[valid[0].flatten()].abs().amax(dim=0).float()
            found[feed] = torch.maximum(found[feed], own) if feed in found else own

        return look

    hooks = [
        root.get_submodule(reader.linears[0]).register_forward_pre_hook(watch(reader.feed)) for reader in block.readers
    ]
    try:
        for batch in batches:
            valid[:] = [batch.valid]
            run_block(block, root, batch)
    finally:
        for hook in hooks:
            hook.remove()
    return found


def alone(block: Block, root: nn.Module) -> nn.Module:
    """Return a module that holds a copy of one block, at the same path, and nothing else.

    >>> from steadyvlm.quantization.structure import Block
    >>> root = nn.ModuleDict({"layers": nn.ModuleList([nn.Linear(2, 2), nn.Linear(2, 2)])})
    >>> single = alone(Block("layers.1", "connector", 0, ()), root)
    >>> [name for name, _ in single.named_parameters()]
    ['layers.1.weight', 'layers.1.bias']
    """
    top = nn.Module()
    *outer, last = block.path.split(".")
    place = top
    for name in outer:
        child = nn.Module()
        place.add_module(name, child)
        place = child
    place.add_module(last, copy.deepcopy(root.get_submodule(block.path)))
    return top


def _run_vision(block: Block, root: nn.Module, hidden: Tensor, context: TowerContext) -> Tensor:
    heads = block.heads
    assert heads is not None, "a vision layer has attention"
    normed = _norm(block, "attention_input", root)(hidden)
    projected = [root.get_submodule(path)(normed) for path in block.reader("attention_input").linears]
    if len(projected) == 1:
        projected = list(projected[0].chunk(3, dim=-1))
    query, key, value = (part.unflatten(-1, (-1, heads.width)).transpose(1, 2) for part in projected)
    attended = context.attend(context.rotate(query), context.rotate(key), value)
    hidden = hidden + root.get_submodule(heads.output)(attended.transpose(1, 2).flatten(2))
    normed = _norm(block, "mlp_input", root)(hidden)
    first = [root.get_submodule(path)(normed) for path in block.reader("mlp_input").linears]
    wide = _activation(block, root)(first[0])
    for factor in first[1:]:
        wide = wide * factor
    last: Tensor = root.get_submodule(block.reader("mlp_output").linears[0])(wide)
    return hidden + last


def _norm(block: Block, feed: Feed, root: nn.Module) -> nn.Module:
    norm = block.reader(feed).norm
    assert norm is not None, "the norms of a vision layer write one input each"
    return root.get_submodule(norm)


def _activation(block: Block, root: nn.Module) -> Any:
    """Return the activation function of a block's feed-forward, under whichever name its family keeps it."""
    feed: Feed = "connector_1" if block.part == "connector" else "mlp_input"
    inner = root.get_submodule(block.reader(feed).linears[0].rpartition(".")[0])
    for name in ("act_fn", "activation_fn", "act", "1"):
        found = getattr(inner, name, None)
        if found is not None:
            return found
    raise AssertionError(f"'{block.path}' keeps its activation under a name that is not known here")
