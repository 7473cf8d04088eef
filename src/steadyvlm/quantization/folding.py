"""Where the parts of an input's transform go: into a norm, into rows of a linear, or to work at run time.

The matrices always work at run time, behind the norm that writes the input or in front of the linear that reads it,
with one exception: what turns the values inside each head is folded into the linear that makes them. A scale per
channel costs nothing where something in front can take it:

    norm      the norm that writes the input channel for channel: its weight and its bias
    joined    the norm in front of joined neighbours, when the scale repeats for each of them (Qwen's merger)
    rows      the linear whose outputs reach the input times something else (up in front of down): its rows and bias
    online    nothing; it works at run time

Source: Sun et al. 2024, arXiv 2410.09426, section 3.2, for decoders; LayerNorm, biases and connectors are ours.

Letters: I input width, H heads, d head width.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from steadyvlm.quantization.state import Transform
from steadyvlm.quantization.structure import Block, Reader
from steadyvlm.quantization.transforms import InputTransform, TransformedNorm, stored, turned_values

Home = Literal["norm", "joined", "rows", "online"]
"""What takes the scale of an input."""


@dataclass(frozen=True, slots=True)
class Fold:
    """How the transform of one input is shared out.

    Attributes:
        weights: what the weights of the linears behind are folded for; None leaves them as they are.
        left, right, scale: what works at run time; None for the identity.
        norm_scale: what the norm takes.
        row_scale: what the rows of the linear in front take.
    """

    weights: Transform | None = None
    left: Tensor | None = None
    right: Tensor | None = None
    scale: Tensor | None = None
    norm_scale: Tensor | None = None
    row_scale: Tensor | None = None

    def online(self) -> InputTransform | None:
        """Return what works at run time as a module of its own, None when there is nothing to do."""
        parts = [None if part is None else part.clone() for part in (self.left, self.right, self.scale)]
        return None if all(part is None for part in parts) else InputTransform(*parts)


@dataclass(frozen=True, slots=True)
class Written:
    """What happens to the outputs of one linear.

    Attributes:
        rows: [start, stop) of the values among them, None for a linear that makes none.
        values: [d, d], into whose basis those go; None for the one they have.
        scale: [O], None for ones.
    """

    rows: tuple[int, int] | None
    values: Tensor | None
    scale: Tensor | None

    def applied(self, weight: Tensor) -> Tensor:
        """Return the weight [O, I] or bias [O] for these outputs."""
        return self._scaled(self._turned(weight, self.values), inverse=False)

    def undone(self, weight: Tensor) -> Tensor:
        """Undo `applied`."""
        inverse = None if self.values is None else torch.linalg.inv(self.values.double())
        return self._turned(self._scaled(weight, inverse=True), inverse)

    def _turned(self, weight: Tensor, matrix: Tensor | None) -> Tensor:
        if self.rows is None or matrix is None:
            return weight
        start, stop = self.rows
        return torch.cat((weight[:start], turned_values(weight[start:stop], matrix.to(weight)), weight[stop:]))

    def _scaled(self, weight: Tensor, *, inverse: bool) -> Tensor:
        if self.scale is None:
            return weight
        factor = self.scale.to(weight).view(-1, *[1] * (weight.dim() - 1))
        return weight / factor if inverse else weight * factor


def share_out(
    block: Block,
    reader: Reader,
    transform: Transform | None,
    values: Tensor | None,
    root: nn.Module,
    dtype: torch.dtype,
) -> Fold:
    """Decide where the parts of an input's transform go.

    Args:
        block: the block.
        reader: the input.
        transform: of the input, None for the identity.
        values: [d, d] of the block's values; matters to the attention's output only.
        root: the model.
        dtype: format in which what works at run time is stored; weights are folded for the stored numbers.
    """
    turned = values if reader.feed == "attention_output" else None
    if transform is None:
        if turned is None:
            return Fold()
        width: Any = root.get_submodule(reader.linears[0]).in_features
        heads = torch.eye(width // turned.shape[0], dtype=turned.dtype, device=turned.device)
        return Fold(weights=Transform(heads, turned))
    home = scale_home(block, reader, root, transform.scale)
    rounded = stored(transform, dtype)
    scale = rounded.scale if home == "online" else transform.scale
    right = rounded.right if turned is None else turned
    return Fold(
        weights=dataclasses.replace(rounded, right=right, scale=scale),
        left=rounded.left,
        right=rounded.right if turned is None else None,
        scale=scale if home == "online" else None,
        norm_scale=scale if home in ("norm", "joined") else None,
        row_scale=scale if home == "rows" else None,
    )


def value_rows(block: Block, path: str) -> tuple[int, int] | None:
    """Return [start, stop) of the values among the outputs of the linear `path`, None when it makes none."""
    heads = block.heads
    return heads.value_rows if heads is not None and heads.value == path else None


def scale_home(block: Block, reader: Reader, root: nn.Module, scale: Tensor | None = None) -> Home:
    """Return what takes the scale of this input; without a scale, what would take one that repeats."""
    if reader.norm is not None and getattr(root.get_submodule(reader.norm), "weight", None) is not None:
        return "norm"
    if reader.scaled_by is not None:
        return "rows"
    norm = joined_norm(block, reader, root)
    if norm is not None and (scale is None or _repeats(scale, _width(root.get_submodule(norm)))):
        return "joined"
    return "online"


def joined_norm(block: Block, reader: Reader, root: nn.Module) -> str | None:
    """Return the path of the norm whose rows are joined, several to one, to make the connector's first input.

    None where there is no such norm: its width has to divide that of the input, more than once.
    """
    if reader.feed != "connector_1":
        return None
    width: Any = root.get_submodule(reader.linears[0]).in_features
    for name, child in root.get_submodule(block.path).named_children():
        own = _width(child)
        if own and own < width and width % own == 0:
            return f"{block.path}.{name}"
    return None


def fold_norm(path: str, scale: Tensor, root: nn.Module) -> None:
    """Multiply what the norm writes by `scale` [I], of which it takes as much as it is wide."""
    norm: Any = root.get_submodule(path)
    own = scale[: _width(norm)].double()
    for name in ("weight", "bias"):
        parameter = getattr(norm, name, None)
        if parameter is not None:
            folded = (parameter.detach().double() * own.to(parameter.device)).to(parameter.dtype)
            setattr(norm, name, nn.Parameter(folded, requires_grad=False))


def wrap_norm(path: str, online: InputTransform, root: nn.Module) -> None:
    """Put the transform behind the norm."""
    norm = root.get_submodule(path)
    root.set_submodule(path, TransformedNorm(norm, online).train(norm.training))


def _width(module: nn.Module) -> int:
    """Width of a norm; 0 for anything else: a norm's weight is a vector."""
    weight = getattr(module, "weight", None)
    return len(weight) if isinstance(weight, Tensor) and weight.dim() == 1 else 0


def _repeats(scale: Tensor, period: int) -> bool:
    return torch.equal(scale, scale[:period].repeat(len(scale) // period))
