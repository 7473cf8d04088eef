"""RTN: round every weight to the nearest point of a small grid. The simplest quantiser there is, and the lower bound.

Weight-only: activations keep their dtype. Each group of neighbouring weights shares one float16 scale, so 4 bits with
groups of 32 make 4.5 bits per weight.

**Storage is simulated.** The weights are rounded to the grid and then held, dequantised, in the dtype the model
computes in: the answers are those of the packed format, while memory and speed are those of the original model. The
report gives the size the packed weights would have, and `grid.pack` makes those very bytes.

Source: round-to-nearest as every weight-quantisation paper's baseline, for example Frantar et al. 2022, "GPTQ",
arXiv 2210.17323, table 2 ("RTN").
Differs: no calibration and no clipping search; scales are stored in float16 (see `grid`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from torch import nn

from steadyvlm.errors import InvalidOption
from steadyvlm.quantization import grid
from steadyvlm.quantization.apply import replace, sort_out
from steadyvlm.quantization.base import QuantizationReport, QuantizedLayer, checked_parts
from steadyvlm.quantization.grid import Grid
from steadyvlm.quantization.linear import RoundedLinear


@dataclass(frozen=True, slots=True)
class RTN:
    """Weight-only round-to-nearest.

    Attributes:
        bits: bits per weight, 2 to 8.
        group: neighbours along the input that share a scale; None for one scale per output row. It has to divide the
            input width of every linear: a model that is quantised in parts only is refused, not reported.
        symmetric: signed codes around zero, or unsigned codes with a zero point per group.
        modules: parts of the model, some of "language", "connector", "vision". Token embeddings, norms, biases and
            the language-model head stay as they are.

    Raises:
        InvalidOption: on construction, for a value outside its range; on `quantize`, when the group does not fit.

    >>> root = nn.Sequential(nn.Linear(64, 8))
    >>> print(RTN(bits=4, group=32).quantize({"0": root[0]}, root))
    rtn: 1 linears, 2,048 -> 288 bytes packed (simulated storage, held as before), 0 skipped
    """

    bits: int = 4
    group: int | None = 32
    symmetric: bool = True
    modules: tuple[str, ...] = ("language",)

    def __post_init__(self) -> None:
        """Validate."""
        try:
            Grid(self.bits, self.group, self.symmetric)
        except InvalidOption as error:
            raise InvalidOption(f"rtn: {error}") from None
        object.__setattr__(self, "modules", checked_parts("rtn", self.modules))

    @property
    def grid(self) -> Grid:
        """The grid the weights are rounded to."""
        return Grid(self.bits, self.group, self.symmetric)

    def check_available(self) -> None:
        """Nothing beyond torch is needed."""

    def quantize(self, linears: Mapping[str, nn.Linear], root: nn.Module) -> QuantizationReport:
        """Replace `linears` inside `root` by linears whose weights lie on the grid."""
        ready, skipped = sort_out(linears, root)
        self._check_group(ready)
        layers = replace(ready, root, self._build)
        notes = (
            f"Weights are rounded to {self.bits} bits and held in the compute dtype: answers are those of the packed "
            "format, memory and speed are not.",
        )
        return QuantizationReport("rtn", layers, skipped, simulated=True, notes=notes)

    def _check_group(self, ready: Mapping[str, nn.Linear]) -> None:
        misfits = {name: linear.in_features for name, linear in ready.items() if not self.grid.fits(linear.in_features)}
        if not misfits:
            return
        widths = sorted({linear.in_features for linear in ready.values()})
        fitting = [str(size) for size in (16, 32, 64, 128) if all(width % size == 0 for width in widths)]
        raise InvalidOption(
            f"rtn: group={self.group} does not divide the input width of {len(misfits)} of {len(ready)} linears "
            f"(first: {next(iter(misfits))}, width {next(iter(misfits.values()))}; widths here: "
            f"{', '.join(map(str, widths))}). Nothing was changed. Use group={', '.join([*fitting, 'None'])}."
        )

    def _build(self, name: str, linear: nn.Linear) -> tuple[nn.Module, QuantizedLayer]:
        weight = linear.weight.detach()
        rounded = grid.dequantize(grid.quantize(weight, self.grid))
        held = weight.numel() * weight.element_size()
        layer = QuantizedLayer(
            name=name,
            shape=(linear.out_features, linear.in_features),
            bits=self.bits,
            original_bytes=held,
            packed_bytes=self.grid.packed_bytes(linear.out_features, linear.in_features),
            held_bytes=held,
            relative_error=grid.relative_error(weight, rounded),
        )
        bias = None if linear.bias is None else linear.bias.detach()
        return RoundedLinear(rounded.to(weight.dtype), bias, self.grid), layer
