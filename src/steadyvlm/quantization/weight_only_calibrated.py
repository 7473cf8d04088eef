"""What the weight-only quantisers that look at examples share: their options, their group check, their linear.

GPTQ and AWQ decide differently which code stands for a weight; what they leave behind is the same: signed codes of
`bits` bits, a scale and, when asymmetric, a zero point per group of neighbours along the input.

    weight = (code - zero) scale        -2^(b-1) <= code, zero <= 2^(b-1) - 1

This is the arithmetic of the compressed-tensors format ("pack-quantized"), so that a model can be written to a folder
that a serving engine reads, without a single weight changing on the way.

Letters: O output width, I input width, G groups per row, b bits.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor, nn

from steadyvlm.errors import InvalidOption
from steadyvlm.quantization.base import QuantizedLayer
from steadyvlm.quantization.grid import Grid
from steadyvlm.quantization.linear import RoundedLinear

_USUAL_GROUPS = (16, 32, 64, 128)


class CalibratedLinear(RoundedLinear):
    """A linear whose weight lies on a grid of its own scales, held in the compute dtype together with those scales.

    Attributes:
        scale: [O, G] in the dtype of the weight, above zero.
        zero: [O, G] in the same dtype, whole numbers; None when symmetric.

    >>> linear = CalibratedLinear(torch.tensor([[1, -2]]), torch.tensor([[0.5]]), None, None, Grid(4, None))
    >>> linear.weight.tolist(), linear.codes().tolist()
    ([[0.5, -1.0]], [[1, -2]])
    """

    scale: Tensor
    zero: Tensor | None

    def __init__(self, codes: Tensor, scale: Tensor, zero: Tensor | None, bias: Tensor | None, grid: Grid) -> None:
        """Put a weight together from its codes.

        Args:
            codes: [O, I] integers from -2^(b-1) to 2^(b-1) - 1.
            scale: [O, G] float; its dtype becomes that of the weight.
            zero: [O, G] whole numbers, None when symmetric.
            bias: [O] or None.
            grid: bits, group and symmetry of the codes.
        """
        super().__init__(_dequantized(codes, scale, zero), bias, grid)
        self.register_buffer("scale", scale.clone())
        self.register_buffer("zero", None if zero is None else zero.to(scale.dtype))

    def codes(self) -> Tensor:
        """Return the codes [O, I] int8 that the held weight stands for."""
        steps = _grouped(self.weight.float(), self.scale) / self.scale.float().unsqueeze(-1)
        if self.zero is not None:
            steps = steps + self.zero.float().unsqueeze(-1)
        return torch.round(steps).to(torch.int8).flatten(1)


def to_codes(weight: Tensor, scale: Tensor, zero: Tensor | None, bits: int) -> Tensor:
    """Round a weight [O, I] to the nearest codes [O, I] int8 of grids that are already chosen.

    >>> to_codes(torch.tensor([[0.9, -9.0]]), torch.tensor([[1.0]]), None, 4).tolist()
    [[1, -8]]
    """
    steps = _grouped(weight.float(), scale) / scale.float().unsqueeze(-1)
    if zero is not None:
        steps = steps + zero.float().unsqueeze(-1)
    limit = 1 << (bits - 1)
    return torch.round(steps).clamp(-limit, limit - 1).to(torch.int8).flatten(1)


def describe(name: str, linear: CalibratedLinear, error: float) -> QuantizedLayer:
    """Return the report's row about a linear that was quantised with this relative error.

    Packed sizes are those of the compressed-tensors format: codes and zero points in whole 32-bit words, scales in the
    dtype of the model.
    """
    (rows, width), bits, scale = linear.weight.shape, linear.grid.bits, linear.scale
    words = rows * math.ceil(width * bits / 32)
    if linear.zero is not None:
        words += math.ceil(rows * bits / 32) * scale.shape[1]
    original = linear.weight.numel() * linear.weight.element_size()
    scales = scale.numel() * scale.element_size()
    return QuantizedLayer(
        name=name,
        shape=(rows, width),
        bits=bits,
        original_bytes=original,
        packed_bytes=4 * words + scales,
        held_bytes=original + scales * (1 if linear.zero is None else 2),
        relative_error=error,
    )


def refuse_misfits(method: str, group: int | None, linears: Mapping[str, nn.Linear]) -> None:
    """Refuse a group that does not divide every input width, and say which groups would.

    Raises:
        InvalidOption: naming the first linear that does not fit.

    >>> refuse_misfits("gptq", 32, {"a": nn.Linear(64, 8)})
    """
    widths = {name: linear.in_features for name, linear in linears.items()}
    misfits = {name: width for name, width in widths.items() if group is not None and width % group}
    if not misfits:
        return
    found = sorted(set(widths.values()))
    fitting = [str(size) for size in _USUAL_GROUPS if all(width % size == 0 for width in found)]
    raise InvalidOption(
        f"{method}: group={group} does not divide the input width of {len(misfits)} of {len(linears)} linears "
        f"(first: {next(iter(misfits))}, width {next(iter(misfits.values()))}; widths here: "
        f"{', '.join(map(str, found))}). Nothing was changed. Use group={', '.join([*fitting, 'None'])}."
    )


def check_shared(method: str, grid: tuple[object, object, object], samples: object, seed: object, set_: object) -> None:
    """Check the options every calibrated weight-only quantiser has.

    Args:
        method: its name, for messages.
        grid: bits, group, symmetric.
        samples: examples used.
        seed: of the draw.
        set_: the calibration set's name or path.

    Raises:
        InvalidOption: for a value outside its range.
    """
    bits, group, symmetric = grid
    try:
        Grid(bits, group, symmetric)  # type: ignore[arg-type]  # it checks the types itself
    except InvalidOption as error:
        raise InvalidOption(f"{method}: {error}") from None
    if isinstance(samples, bool) or not isinstance(samples, int) or samples < 1:
        raise InvalidOption(f"{method}: samples={samples!r} is not allowed. Give a whole number of at least 1.")
    if isinstance(seed, bool) or not isinstance(seed, int) or seed < 0:
        raise InvalidOption(f"{method}: seed={seed!r} is not allowed. Give a whole number from 0 up.")
    if not isinstance(set_, str) or not set_:
        raise InvalidOption(
            f"{method}: calibration={set_!r} is not allowed. Give 'auto', the name of a calibration set, or a path."
        )


def check_switches(method: str, **switches: object) -> None:
    """Check options that are either True or False.

    Raises:
        InvalidOption: for anything else.
    """
    for name, value in switches.items():
        if not isinstance(value, bool):
            raise InvalidOption(f"{method}: {name}={value!r} is not allowed. Give True or False.")


def refuse_pruned(method: str, pruned: object) -> None:
    """Refuse to calibrate with token reduction at work: llm-compressor runs the model's own forward, which keeps all.

    Raises:
        InvalidOption: unless `pruned` is False.
    """
    if pruned is not False:
        raise InvalidOption(
            f"{method}: pruned={pruned!r} is not offered: llm-compressor runs the whole model, all visual tokens kept. "
            "Use pruned=False, or a quantiser that calibrates on the pruned graph, such as flatquant."
        )


def _grouped(weight: Tensor, scale: Tensor) -> Tensor:
    return weight.reshape(weight.shape[0], scale.shape[1], -1)


def _dequantized(codes: Tensor, scale: Tensor, zero: Tensor | None) -> Tensor:
    steps = _grouped(codes.float(), scale)
    if zero is not None:
        steps = steps - zero.float().unsqueeze(-1)
    return (steps * scale.float().unsqueeze(-1)).flatten(1).to(scale.dtype)
