"""A module whose numbers keep the dtype they are stored in, whatever the model around them is cast to."""

from __future__ import annotations

from collections.abc import Callable
from typing import Self

from torch import Tensor, nn


class Stored(nn.Module):
    """A module whose own buffers move between devices but are never cast.

    `model.to(torch.bfloat16)` casts every floating buffer it finds. Scales were rounded to their dtype before codes
    were made for them, and the inverse of a transform belongs to that very transform, so neither may change later.

    >>> import torch
    >>> module = Stored()
    >>> module.register_buffer("scale", torch.ones(1, dtype=torch.float16))
    >>> module.to(torch.bfloat16).scale.dtype
    torch.float16
    """

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        before = dict(self._buffers)
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]  # torch leaves it without types
        for name, buffer in before.items():
            after = self._buffers[name]
            if buffer is not None and after is not None and after.dtype != buffer.dtype:
                self._buffers[name] = buffer.to(after.device)
        return self
