"""A selection, checked and applied to rows.

Most slots are one row each and are copied bit by bit; only slots that are sums of rows are multiplied, in float32, and
only with the rows that take part. A method that merges a single token per layer pays for that one.
"""

from __future__ import annotations

import torch
from torch import Tensor

from steadyvlm.errors import RunError
from steadyvlm.reduction.base import Selection


def merged_slots(selection: Selection) -> Tensor:
    """Return the [M] int64 slots, ascending, that are not simply their own row."""
    keep, mix = selection.keep, selection.mix
    if mix is None or not keep.numel():
        return keep[:0]
    others = mix.scatter(1, keep[:, None], 0.0)
    alone = (others.amax(dim=1) == 0) & (others.amin(dim=1) == 0)  # many times faster than counting what is not zero
    return (~alone | (mix.gather(1, keep[:, None])[:, 0] != 1)).nonzero()[:, 0]


def summands(selection: Selection, slots: Tensor) -> tuple[Tensor, Tensor]:
    """Return which rows [P] int64 take part in `slots` [M], and with what float32 weights [M, P]."""
    assert selection.mix is not None, "only a mix merges"
    weights = selection.mix[slots]
    parts = weights.any(dim=0).nonzero()[:, 0]
    return parts, weights[:, parts].to(torch.float32)


def apply_selection(rows: Tensor, selection: Selection) -> Tensor:
    """Return the [K, D] slots of [R, D] rows; always a copy."""
    device = rows.device
    slots = rows[selection.keep.to(device)]
    mixed = merged_slots(selection)
    if mixed.numel():
        parts, weights = summands(selection, mixed)
        slots[mixed.to(device)] = (weights.to(device) @ rows[parts.to(device)].float()).to(rows.dtype)
    return slots


def check_selection(selection: Selection, rows: int, *, method: str, ascending: bool) -> None:
    """Refuse a selection that does not fit the rows it was made from.

    Args:
        selection: what the method returned.
        rows: how many rows it saw.
        method: its name, for the message.
        ascending: whether another order than that of the rows is a mistake, as it is where positions are kept.

    Raises:
        RunError: naming the method, what it returned and what was expected.
    """
    keep, mix = selection.keep.cpu(), selection.mix
    problem = ""
    if keep.dim() != 1 or keep.dtype != torch.int64:
        problem = f"keep of shape {tuple(keep.shape)} and {keep.dtype}, expected one dimension of int64"
    elif keep.numel() and not (int(keep.min()) >= 0 and int(keep.max()) < rows):
        problem = f"keep between {int(keep.min())} and {int(keep.max())}, but there are {rows} rows"
    elif ascending and not bool((keep[1:] > keep[:-1]).all()):
        problem = (
            "keep out of order, but inside the decoder it must be strictly ascending unless positions are compacted"
        )
    elif keep.numel() and int(keep.bincount().max()) > 1:
        problem = "a row more than once in keep"
    elif mix is not None and tuple(mix.shape) != (keep.numel(), rows):
        problem = f"mix of shape {tuple(mix.shape)}, expected {(keep.numel(), rows)}"
    if problem:
        raise RunError(f"reduction '{method}' returned {problem}. This is a mistake in the method's `select`.")
