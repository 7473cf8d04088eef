"""Quantised linears, each a drop-in for `torch.nn.Linear` in a model that only answers (no gradients)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from steadyvlm.quantization.grid import Grid


class RoundedLinear(nn.Linear):
    """A linear whose weight lies on a grid but is held in the compute dtype: fast, and no smaller than before.

    >>> RoundedLinear(torch.zeros(2, 4), None, Grid(bits=4, group=None))
    RoundedLinear(in_features=4, out_features=2, bias=False, grid=4 bits, per row, symmetric)
    """

    def __init__(self, weight: Tensor, bias: Tensor | None, grid: Grid) -> None:
        super().__init__(weight.shape[1], weight.shape[0], bias=bias is not None, device="meta")
        self.weight = nn.Parameter(weight, requires_grad=False)
        if bias is not None:
            self.bias = nn.Parameter(bias.clone(), requires_grad=False)
        self.grid = grid

    def extra_repr(self) -> str:
        """Name the grid in a printed model."""
        groups = "per row" if self.grid.group is None else f"group {self.grid.group}"
        kind = "symmetric" if self.grid.symmetric else "asymmetric"
        return f"{super().extra_repr()}, grid={self.grid.bits} bits, {groups}, {kind}"


class Int8Linear(nn.Module):
    """A linear computed as LLM.int8(): int8 weights and activations, outlier columns in floating point.

    It calls the operators of bitsandbytes that `bitsandbytes.nn.Linear8bitLt` calls in evaluation mode and returns the
    same numbers bit for bit. The class itself is not used because it computes something else (a plain dequantised
    product) in training mode on a CPU, logs a line per call unless the input is float16, and rewrites its own
    parameters when called.

    Attributes:
        codes: [O, I] int8, one scale per output row.
        scale: [O] float32, largest magnitude of each weight row; weight = codes * scale / 127.
        bias: [O] float or None.
        threshold: input magnitude from which a column is an outlier; 0 turns the decomposition off.
    """

    codes: Tensor
    scale: Tensor
    bias: Tensor | None

    def __init__(self, codes: Tensor, scale: Tensor, bias: Tensor | None, *, threshold: float) -> None:
        super().__init__()
        self.out_features, self.in_features = codes.shape
        self.threshold = threshold
        self.register_buffer("codes", codes)
        self.register_buffer("scale", scale)
        self.register_buffer("bias", None if bias is None else bias.clone())

    @torch.no_grad()
    def forward(self, inputs: Tensor) -> Tensor:
        """Map [..., I] float to [..., O] of the same dtype."""
        ops = torch.ops.bitsandbytes
        rows = inputs.reshape(-1, self.in_features)
        if rows.shape[0] == 0:
            return inputs.new_empty(*inputs.shape[:-1], self.out_features)
        # A copy even when the input is float16 already: the CPU operator blanks out outliers in place for a moment.
        half = rows.to(torch.float16, copy=True)
        codes, scale, outliers = ops.int8_vectorwise_quant(half, self.threshold)
        bias = None if self.bias is None else self.bias.to(inputs.dtype)
        if self.threshold > 0:
            outputs, _ = ops.int8_mixed_scaled_mm(rows, codes, self.codes, scale, self.scale, outliers, bias)
        else:
            outputs = ops.int8_scaled_mm(codes, self.codes, scale, self.scale, bias=bias, dtype=inputs.dtype)
        mapped: Tensor = outputs.reshape(*inputs.shape[:-1], self.out_features)
        return mapped

    def extra_repr(self) -> str:
        """Name the shape and the threshold in a printed model."""
        return (
            f"in_features={self.in_features}, out_features={self.out_features}, "
            f"bias={self.bias is not None}, threshold={self.threshold}"
        )
