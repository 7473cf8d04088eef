"""Invertible changes of basis of a linear's input: at work on activations, and folded into everything around them.

An input x is read as a matrix X [a, b] and becomes P1^T X P2; a scale c per channel may come first. The linears behind
get the inverse, so that nothing changes until something is rounded:

    y = x W^T = (x P)(W P^-T)^T,        P = diag(c) (P1 (x) P2),        row w of W -> P1^-1 (w / c) P2^-T

What can be done once is done once, in float64: the side of the weights, c in the norm or the linear that writes the
input, and a change of basis of the values inside each head, whose inverse the output projection takes.

Source: Sun et al. 2024, "FlatQuant: Flatness Matters for LLM Quantization", arXiv 2410.09426, sections 3.1 and 3.2;
factors of a width as in the repository ruikangliu/FlatQuant at 9d88ffc.
Differs:
    - The inverse is taken of the matrices as they are stored (half precision, say), so storing them loses nothing.
    - A width that has no factors of equal parity gets its most balanced pair.

Letters: I input width, O output width, H heads, d head width, a b = I.
"""

from __future__ import annotations

import dataclasses
import math

import torch
from torch import Tensor, nn

from steadyvlm.quantization.state import Clip, Transform
from steadyvlm.quantization.stored import Stored


def factors(width: int) -> tuple[int, int]:
    """Return the most balanced a <= b with a b = `width`, both even or both odd where there is such a pair.

    >>> [factors(width) for width in (128, 352, 3420, 4096, 11008)]
    [(8, 16), (16, 22), (38, 90), (64, 64), (86, 128)]
    >>> factors(90), factors(7)  # twice an odd number has no pair of equal parity; a prime has 1 and itself
    ((9, 10), (1, 7))
    """
    pairs = [(a, width // a) for a in range(math.isqrt(width), 0, -1) if width % a == 0]
    return next(((a, b) for a, b in pairs if (a - b) % 2 == 0), pairs[0])


class InputTransform(Stored):
    """P at work on activations, as two small matrix products; what is None is the identity.

    The product is computed in the wider of the formats of input and matrices, and returned in that of the input.

    Attributes:
        left: P1 [a, a] or None.
        right: P2 [b, b] or None.
        scale: c [I] or None.

    >>> flip = torch.tensor([[0.0, 1.0], [1.0, 0.0]])
    >>> InputTransform(flip, None)(torch.tensor([[1.0, 2.0, 3.0, 4.0]]))
    tensor([[3., 4., 1., 2.]])
    """

    left: Tensor | None
    right: Tensor | None
    scale: Tensor | None

    def __init__(self, left: Tensor | None, right: Tensor | None, scale: Tensor | None = None) -> None:
        super().__init__()
        self.register_buffer("left", left)
        self.register_buffer("right", right)
        self.register_buffer("scale", scale)

    def forward(self, inputs: Tensor) -> Tensor:
        """Map [..., I] to [..., I]."""
        return apply_transform(inputs, self.left, self.right, self.scale)

    def extra_repr(self) -> str:
        """Name the sizes in a printed model."""
        sides = ((name, getattr(self, name)) for name in ("left", "right", "scale"))
        return ", ".join(f"{name}={'x'.join(map(str, side.shape))}" for name, side in sides if side is not None)


class TransformedNorm(nn.Module):
    """A norm and the transform of what it writes, so that the linears that share an input share the work.

    Attributes:
        norm: the norm, with c folded into its weight and bias.
        transform: P1 (x) P2.
    """

    def __init__(self, norm: nn.Module, transform: InputTransform) -> None:
        super().__init__()
        self.norm = norm
        self.transform = transform

    def forward(self, hidden: Tensor) -> Tensor:
        """Normalise and transform [..., I]."""
        return self.transform(self.norm(hidden))  # type: ignore[no-any-return]  # nn.Module calls are untyped


def apply_transform(inputs: Tensor, left: Tensor | None, right: Tensor | None, scale: Tensor | None = None) -> Tensor:
    """Return P1^T (c x) P2 for every row of [..., I]; differentiable; None is the identity."""
    matrix = next((part for part in (left, right, scale) if part is not None), None)
    if matrix is None:
        return inputs
    dtype = torch.promote_types(inputs.dtype, matrix.dtype)
    rows = inputs.to(dtype)
    if scale is not None:
        rows = rows * scale.to(dtype)
    width = inputs.shape[-1]
    if right is not None:
        rows = rows.reshape(-1, right.shape[0]) @ right.to(dtype)
    if left is not None:
        matrices = rows.reshape(-1, left.shape[0], width // left.shape[0])
        turn = left.to(dtype).T.expand(len(matrices), -1, -1)  # not copied; `matmul` would copy the rows, twice
        rows = torch.bmm(turn, matrices)
    return rows.reshape(inputs.shape).to(inputs.dtype)


def transformed_weight(weight: Tensor, transform: Transform | None) -> Tensor:
    """Return W P^-T, the weight for inputs that went through `transform`.

    Args:
        weight: [O, I]; float64 for a fold, float32 while a transform is learned.
        transform: of the input; inverted in float64.

    >>> double = torch.float64
    >>> weight, x = torch.randn(3, 6, dtype=double), torch.randn(5, 6, dtype=double)
    >>> change = Transform(torch.randn(2, 2, dtype=double), torch.randn(3, 3, dtype=double), torch.rand(6) + 1)
    >>> turned = apply_transform(x, change.left, change.right, change.scale)
    >>> torch.allclose(turned @ transformed_weight(weight, change).T, x @ weight.T)
    True
    """
    if transform is None:
        return weight
    dtype = weight.dtype
    inverse_left, inverse_right = (
        torch.linalg.inv(side.double()).to(dtype) for side in (transform.left, transform.right)
    )
    if transform.scale is not None:
        weight = weight / transform.scale.to(dtype)
    return apply_transform(weight, inverse_left.T, inverse_right.T)


def restored_weight(weight: Tensor, transform: Transform | None) -> Tensor:
    """Undo `transformed_weight`: return W' P^T, in the original basis."""
    if transform is None:
        return weight
    restored = apply_transform(weight, transform.left.to(weight.dtype).T, transform.right.to(weight.dtype).T)
    return restored if transform.scale is None else restored * transform.scale.to(weight.dtype)


def turned_values(rows: Tensor, values: Tensor) -> Tensor:
    """Return the rows of a value projection, a weight [H d, I] or a bias [H d], for values v P.

    >>> turned_values(torch.tensor([1.0, 2.0, 3.0, 4.0]), torch.tensor([[0.0, 1.0], [1.0, 0.0]]))
    tensor([2., 1., 4., 3.])
    """
    heads = rows.reshape(-1, values.shape[0], rows[0].numel())
    return (values.to(rows.dtype).T @ heads).reshape(rows.shape)


def clipped(weight: Tensor, clip: Clip) -> Tensor:
    """Return the weight [O, I] with each row held between its clip's shares of its smallest and largest entry.

    A share of 1 leaves its side alone; an all-positive row has no smallest entry below zero to hold it to.

    >>> clipped(torch.tensor([[-4.0, 1.0, 2.0]]), Clip(high=1.0, low=0.5))
    tensor([[-2.,  1.,  2.]])
    """
    highest = weight.amax(dim=1, keepdim=True).clamp(min=0.0)
    lowest = weight.amin(dim=1, keepdim=True).clamp(max=0.0)
    return torch.clamp(weight, min=_share(lowest, clip.low), max=_share(highest, clip.high))


def stored(transform: Transform, dtype: torch.dtype) -> Transform:
    """Return the transform rounded to the format it is stored in; what is folded has to fit these very numbers."""
    scale = None if transform.scale is None else transform.scale.to(dtype)
    return dataclasses.replace(transform, left=transform.left.to(dtype), right=transform.right.to(dtype), scale=scale)


def placed(transform: Transform, device: torch.device) -> Transform:
    """Return the transform on this device."""
    scale = None if transform.scale is None else transform.scale.to(device)
    return dataclasses.replace(transform, left=transform.left.to(device), right=transform.right.to(device), scale=scale)


def _share(extreme: Tensor, share: Tensor | float) -> Tensor:
    return extreme * (share.to(extreme) if isinstance(share, Tensor) else share)
