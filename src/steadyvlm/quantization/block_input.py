"""One input of a block read off a model: the norm in front of it, and the linears behind it as one.

Linears that read the same input are laid one below the other, so that the input is transformed and rounded once and
multiplied once. Norms are told apart by what they are: LayerNorm, or an RMS norm with a `variance_epsilon`.

Source: transformers `modeling_llama.py`, `modeling_clip.py`, `modeling_qwen2_vl.py`, `modeling_qwen2_5_vl.py`.

Letters: O outputs of all linears of an input, I input width, D width.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import layer_norm, rms_norm

from steadyvlm.errors import Unsupported
from steadyvlm.quantization.folding import scale_home, value_rows
from steadyvlm.quantization.state import Clip, ReaderState
from steadyvlm.quantization.structure import Block, Feed, Reader

Norm = Callable[[Tensor, Tensor | None], Tensor]
"""Normalise [..., D], with a scale [D] on what is written."""


@dataclass(frozen=True, slots=True)
class BlockInput:
    """One input of a block and all that reads it.

    Attributes:
        feed: which.
        paths, sizes: of the linears, and how many outputs each has.
        weight: [O, I], all linears one below the other.
        bias: [O], zeros where one of several has none; None where none has.
        norm: what writes this input, None where nothing does.
        takes_scale: what takes a scale of this input.
        values: [start, stop) of the values among the outputs.
    """

    feed: Feed
    paths: tuple[str, ...]
    sizes: tuple[int, ...]
    weight: Tensor
    bias: Tensor | None
    norm: Norm | None
    takes_scale: str
    values: tuple[int, int] | None

    @staticmethod
    def of(block: Block, reader: Reader, root: nn.Module, dtype: torch.dtype) -> BlockInput:
        """Read the linears off the model."""
        linears: list[Any] = [root.get_submodule(path) for path in reader.linears]
        biases = [linear.bias for linear in linears]
        bias = None
        if any(one is not None for one in biases):
            own = [
                linear.weight.new_zeros(linear.out_features) if one is None else one
                for linear, one in zip(linears, biases, strict=True)
            ]
            bias = torch.cat(own).detach().to(dtype)
        sizes = tuple(len(linear.weight) for linear in linears)
        values: tuple[int, int] | None = None
        for place, path in enumerate(reader.linears):
            rows, before = value_rows(block, path), sum(sizes[:place])
            values = values if rows is None else (rows[0] + before, rows[1] + before)
        home = scale_home(block, reader, root)
        return BlockInput(
            reader.feed,
            reader.linears,
            sizes,
            torch.cat([linear.weight for linear in linears]).detach().to(dtype),
            bias,
            None if reader.norm is None else _norm(root.get_submodule(reader.norm), dtype),
            "online" if home == "joined" else home,  # the rows arrive joined, behind that norm
            values,
        )

    def joined_clip(self, decided: ReaderState) -> tuple[Tensor, Tensor]:
        """Return the high and the low shares of all linears, [O, 1] each."""
        clips = [decided.weights.get(path, Clip()) for path in self.paths]
        high, low = (
            torch.cat([self._column(share, size) for share, size in zip(side, self.sizes, strict=True)])
            for side in ([clip.high for clip in clips], [clip.low for clip in clips])
        )
        return high, low

    def _column(self, share: Tensor | float, size: int) -> Tensor:
        return share if isinstance(share, Tensor) else self.weight.new_full((size, 1), share)


def _norm(module: Any, dtype: torch.dtype) -> Norm:
    """Return a LayerNorm or an RMS norm as a function of its input and a scale of its output."""
    weight, bias = (
        None if part is None else part.detach().to(dtype)
        for part in (getattr(module, "weight", None), getattr(module, "bias", None))
    )
    centred = isinstance(module, nn.LayerNorm)
    epsilon: float = module.eps if centred else module.variance_epsilon

    def normalise(rows: Tensor, scale: Tensor | None) -> Tensor:
        taken, shift = (part if scale is None or part is None else part * scale.to(part) for part in (weight, bias))
        if not centred:
            return rms_norm(rows, rows.shape[-1:], taken, epsilon)
        return layer_norm(rows, rows.shape[-1:], taken, shift, epsilon)

    return normalise


def activation_of(block: Block, root: nn.Module) -> Callable[[Tensor], Tensor]:
    """Return the activation of the feed-forward or connector: the one module beside its linears."""
    feed: Feed = "connector_2" if block.part == "connector" else "mlp_output"
    parent = block.reader(feed).linears[0].rpartition(".")[0]
    found = [child for child in root.get_submodule(parent).children() if next(child.parameters(), None) is None]
    if len(found) != 1:
        raise Unsupported(
            f"block '{block.path}' cannot be calibrated: beside the linears of '{parent}' one activation was expected, "
            f"and {len(found)} were found. Leave the {block.part} part out of `modules`."
        )
    return found[0]
