"""A linear with packed low-bit weights and low-bit activations.

    y = Q_a(T(x)) W_q^T + bias

T is an optional transform of the input (a learned or fixed change of basis that the weight already contains), Q_a the
symmetric per-token quantiser, W_q the packed weight with one scale per output row. `backends` says how it is computed.

Source: Sun et al. 2024, "FlatQuant", arXiv 2410.09426, section 3; `ruikangliu/FlatQuant`, `deploy/nn/linear.py` (the
layout of nibbles).
Differs: scales are multiplied in float32 and the result is cast once, where the reference divides by 10 in half
precision; weights and activations may have other widths than 4 bits.

Letters: N rows, I input width, O output width.
"""

from __future__ import annotations

from typing import Self

import torch
from torch import Tensor, nn

from steadyvlm.quantization.backends import checked_backend, multiply
from steadyvlm.quantization.integer import UNCLIPPED, checked_scale_dtype, pack4, quantize_rows
from steadyvlm.quantization.low_bit_weight import UNQUANTIZED, LowBitWeight, Rounding, checked_bits, checked_clip
from steadyvlm.quantization.state import Clip
from steadyvlm.quantization.stored import Stored


class LowBitLinear(Stored):
    """A drop-in for `torch.nn.Linear` in a model that only answers (no gradients).

    Make one with `from_codes`, or with `empty` to load a checkpoint into.

    Attributes:
        packed: [O, ceil(I / 2)] uint8, two's complement nibbles, even inputs low; [O, I] int8 for more than 4 bits.
        scale: [O] float16 or float32.
        bias: [O] float or None.
        in_features, out_features: I and O.
        weight_bits: 2 to 8.
        activation_bits: 2 to 8, or 16 for activations that are left as they are.
        activation_clip: shares of each token's extremes that stay representable.
        transform: applied to the input first; the weight is in the transformed basis.
        backend: one of `backends.BACKENDS`; may be changed at any time.
        tile_bytes: bytes of codes unpacked at a time; None for what suits the device.

    >>> linear = LowBitLinear.from_codes(torch.tensor([[1, 2]], dtype=torch.int8), torch.tensor([0.5]), None)
    >>> linear(torch.tensor([7.0, 3.0]))
    tensor([6.5000])
    >>> linear
    LowBitLinear(in_features=2, out_features=1, bias=False, bits=W4A4, backend=auto)
    """

    packed: Tensor
    scale: Tensor
    bias: Tensor | None

    def __init__(
        self,
        weight: LowBitWeight,
        bias: Tensor | None,
        *,
        transform: nn.Module | None = None,
        activation_clip: Clip = UNCLIPPED,
        activation_bits: int = 4,
        backend: str = "auto",
    ) -> None:
        super().__init__()
        checked_bits(weight.bits, activation_bits, weight.width)
        self.in_features, self.out_features = weight.width, weight.packed.shape[0]
        self.weight_bits, self.activation_bits = weight.bits, activation_bits
        self.activation_clip = checked_clip(activation_clip)
        self.backend = checked_backend(backend)
        self.tile_bytes = weight.tile_bytes
        self.register_buffer("packed", weight.packed)
        self.register_buffer("scale", weight.scale)
        self.register_buffer("bias", None if bias is None else bias.detach().clone())
        self.transform = transform

    @classmethod
    def from_codes(
        cls,
        codes: Tensor,
        scale: Tensor,
        bias: Tensor | None,
        *,
        transform: nn.Module | None = None,
        activation_clip: Clip = UNCLIPPED,
        activation_bits: int = 4,
        weight_bits: int = 4,
        backend: str = "auto",
        tile_bytes: int | None = None,
    ) -> Self:
        """Pack codes [O, I] int8 with scales [O] float16 or float32, as `integer.quantize_weight` makes them.

        Raises:
            InvalidOption: for bits, a clip or a back-end that do not exist.
            MissingDependency: for backend="triton" without Triton.
            ValueError: for codes outside `weight_bits`, or tensors whose shapes do not belong together.
        """
        checked_bits(weight_bits, activation_bits, codes.shape[-1])
        checked_scale_dtype(scale.dtype)
        if codes.dtype != torch.int8 or codes.ndim != 2 or scale.shape != codes.shape[:1]:
            raise ValueError(
                f"codes [O, I] int8 and scales [O] belong together, got {codes.dtype} {tuple(codes.shape)} and "
                f"{tuple(scale.shape)}."
            )
        if bias is not None and bias.shape != scale.shape:
            raise ValueError(f"a bias of shape {tuple(bias.shape)} does not fit {scale.shape[0]} outputs.")
        lowest = -(1 << (weight_bits - 1))
        if codes.numel() and not lowest <= int(codes.min()) <= int(codes.max()) < -lowest:
            raise ValueError(f"codes run from {codes.min()} to {codes.max()}, outside of {weight_bits} bits.")
        packed = pack4(codes) if weight_bits <= 4 else codes.clone()
        weight = LowBitWeight(packed, scale.clone(), codes.shape[1], weight_bits, tile_bytes)
        return cls(
            weight,
            bias,
            transform=transform,
            activation_clip=activation_clip,
            activation_bits=activation_bits,
            backend=backend,
        )

    @classmethod
    def empty(
        cls,
        in_features: int,
        out_features: int,
        bias: bool,
        transform: nn.Module | None = None,
        *,
        activation_clip: Clip = UNCLIPPED,
        activation_bits: int = 4,
        weight_bits: int = 4,
        backend: str = "auto",
        scale_dtype: torch.dtype = torch.float16,
        bias_dtype: torch.dtype | None = None,
        tile_bytes: int | None = None,
        device: torch.device | str | None = None,
    ) -> Self:
        """Return a linear of these shapes, on "meta" if need be, to load a state dict into; its numbers mean nothing.

        Raises:
            InvalidOption, MissingDependency: as `from_codes`.
        """
        checked_bits(weight_bits, activation_bits, in_features)
        columns, dtype = ((in_features + 1) // 2, torch.uint8) if weight_bits <= 4 else (in_features, torch.int8)
        packed = torch.zeros(out_features, columns, dtype=dtype, device=device)
        scale = torch.ones(out_features, dtype=checked_scale_dtype(scale_dtype), device=device)
        return cls(
            LowBitWeight(packed, scale, in_features, weight_bits, tile_bytes),
            torch.zeros(out_features, dtype=bias_dtype, device=device) if bias else None,
            transform=transform,
            activation_clip=activation_clip,
            activation_bits=activation_bits,
            backend=backend,
        )

    @property
    def packed_weight(self) -> LowBitWeight:
        """Codes and scales, as they are held."""
        return LowBitWeight(self.packed, self.scale, self.in_features, self.weight_bits, self.tile_bytes)

    @torch.no_grad()
    def forward(self, inputs: Tensor) -> Tensor:
        """Map [..., I] float to [..., O] of the same dtype."""
        rows = self._transformed(inputs).reshape(-1, self.in_features)
        if self.activation_bits == UNQUANTIZED:
            outputs = self._weight_only(rows)
        else:
            rounding = Rounding(self.activation_bits, self.activation_clip)
            outputs = multiply(self.backend, rows, self.packed_weight, rounding, self.bias)
        return outputs.to(inputs.dtype).reshape(*inputs.shape[:-1], self.out_features)

    def weight_dequantized(self) -> Tensor:
        """Return the weight the codes stand for, in the transformed basis: [O, I] float32."""
        return self.packed_weight.dequantized()

    @torch.no_grad()
    def activation_error(self, inputs: Tensor) -> Tensor:
        """Return what rounding its activations costs each row, after the transform.

        Args:
            inputs: [N, I] float.

        Returns:
            [N] float32, ||T(x) - Q_a(T(x))||; zeros where activations are not rounded.
        """
        rows = self._transformed(inputs).to(torch.float32)
        if self.activation_bits == UNQUANTIZED:
            return rows.new_zeros(rows.shape[0])
        codes, scale = quantize_rows(rows, self.activation_bits, self.activation_clip)
        lost: Tensor = torch.linalg.vector_norm(rows - codes * scale, dim=-1)
        return lost

    def extra_repr(self) -> str:
        """Name the shape, the bits and the back-end in a printed model."""
        return (
            f"in_features={self.in_features}, out_features={self.out_features}, bias={self.bias is not None}, "
            f"bits=W{self.weight_bits}A{self.activation_bits}, backend={self.backend}"
        )

    def _transformed(self, inputs: Tensor) -> Tensor:
        return inputs if self.transform is None else self.transform(inputs)

    def _weight_only(self, rows: Tensor) -> Tensor:
        weight = self.packed_weight
        outputs = rows.new_empty(rows.shape[0], self.out_features)
        for tile in weight.tiles():
            outputs[:, tile] = rows @ weight.dequantized(tile).to(rows.dtype).t()
        return outputs if self.bias is None else outputs + self.bias.to(rows.dtype)
