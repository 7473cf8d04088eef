"""Module surgery: put quantised linears where linears were, and account for every one.

The steps are the same for every quantiser: set aside what cannot be quantised, check all the rest, and only then
replace one linear after the other, so that a large model is never held twice. A request that cannot be met fails
before the model is changed.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import nn

from steadyvlm.errors import CheckpointError, Unsupported
from steadyvlm.quantization.base import QuantizedLayer, SkippedLayer

Build = Callable[[str, nn.Linear], tuple[nn.Module, QuantizedLayer]]
"""Makes the replacement of one linear, leaving the linear itself as it is."""

_LARGEST_WEIGHT = 65504.0  # scales and int8 weights pass through float16


def sort_out(
    linears: Mapping[str, nn.Linear], root: nn.Module
) -> tuple[dict[str, nn.Linear], tuple[SkippedLayer, ...]]:
    """Part the linears that can be quantised from those that cannot.

    Raises:
        Unsupported: if nothing is left to quantise.
        RuntimeError: if `linears` are not those of `root`, which is a programming error.

    >>> root = nn.Sequential(nn.Linear(4, 2), nn.Linear(2, 2, dtype=torch.complex64))
    >>> ready, skipped = sort_out({"0": root[0], "1": root[1]}, root)
    >>> list(ready), skipped
    (['0'], (SkippedLayer(name='1', reason='its weight is torch.complex64, not floating point'),))
    """
    ready, skipped = {}, []
    for name, linear in linears.items():
        if root.get_submodule(name) is not linear:
            raise RuntimeError(f"linear '{name}' belongs to another model; pass the linears of the model to change.")
        reason = _reason_to_skip(linear)
        if reason:
            skipped.append(SkippedLayer(name, reason))
        else:
            ready[name] = linear
    if not ready:
        found = "; ".join(f"{layer.name}: {layer.reason}" for layer in skipped[:3]) or "the parts hold no linears"
        raise Unsupported(f"there is nothing to quantise: {found}. Name other parts with `modules`, or drop the step.")
    return ready, tuple(skipped)


@torch.no_grad()
def replace(ready: Mapping[str, nn.Linear], root: nn.Module, build: Build) -> tuple[QuantizedLayer, ...]:
    """Check every weight, then replace one linear after the other.

    Raises:
        CheckpointError: if a weight holds numbers that cannot be quantised; nothing has been changed then.
    """
    check_weights(ready)
    layers = []
    for name, linear in ready.items():
        module, layer = build(name, linear)
        root.set_submodule(name, module.train(linear.training))
        layers.append(layer)
    return tuple(layers)


@torch.no_grad()
def check_weights(ready: Mapping[str, nn.Linear]) -> None:
    """Check that every weight can be quantised.

    Raises:
        CheckpointError: if a weight holds entries that are not finite, or too large for float16.
    """
    for name, linear in ready.items():
        if not (linear.weight.abs() <= _LARGEST_WEIGHT).all():
            raise CheckpointError(
                f"linear '{name}' cannot be quantised: its weight holds entries that are not finite, or beyond "
                f"{_LARGEST_WEIGHT:,.0f}. Nothing was changed; check the checkpoint, or name other parts."
            )


def _reason_to_skip(linear: nn.Linear) -> str | None:
    if type(linear) is not nn.Linear:
        return f"it is a {type(linear).__name__}, not a plain linear"
    if not linear.weight.is_floating_point():
        return f"its weight is {linear.weight.dtype}, not floating point"
    if linear.weight.numel() == 0:
        return f"its weight is empty ({linear.out_features} x {linear.in_features})"
    return None
