"""FlatQuant: transforms learned block by block, so that weights and activations are flat before they are rounded.

Each input of a block gets an invertible matrix, a Kronecker product of two small ones, with a scale per channel; values
and cached keys get one inside each head; every quantiser gets clips. All of it is learned so that the block's output,
everything rounded, stays that of the full-precision block on the same input. Then it is folded into the weights, and
what cannot be folded is two small products in front of a linear.

Source: Sun et al. 2024, "FlatQuant: Flatness Matters for LLM Quantization", arXiv 2410.09426; settings of the scripts
of the repository ruikangliu/FlatQuant at 9d88ffc.
Differs:
    - Vision tower and connector are calibrated as well, tower first; the paper has decoders only.
    - Calibrated on image-text samples in place of WikiText-2.
    - A scale is learned by its logarithm; an activation's inverse matrices are those of the numbers as stored.

Letters: B batch, T sequence, D width.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from steadyvlm.errors import InvalidOption
from steadyvlm.quantization.settings import LowBitSettings

_CHOICES = {
    "parametrization": ("inverse", "cayley"),
    "start": ("orthogonal", "hadamard"),
    "connector_scale": ("online", "tied"),
    "decoder_inputs": ("original", "quantized"),
}
_NUMBERS = {  # lowest and highest value, and whether the lowest itself is allowed
    "lr": (0.0, 1.0, False),
    "clip_lr": (0.0, 10.0, True),
    "lr_floor": (0.0, 1.0, True),
    "weight_decay": (0.0, 1.0, True),
    "alpha": (0.0, 1.0, True),
    "clip_start": (-20.0, 20.0, True),
}


@dataclass(frozen=True, slots=True)
class FlatQuant:
    """FlatQuant W4A4KV4.

    Attributes:
        weight_bits: bits per weight, 2 to 8; symmetric, one scale per output row.
        activation_bits: bits per activation, 2 to 8; symmetric, one scale per token; 16 leaves activations alone.
        kv_bits: bits per cached key and value, 2 to 8; asymmetric, per token and head; 16 leaves the cache alone.
        kv_in_prefill: whether prefill already attends to the quantised keys and values, as decoding does.
        epochs: times each block sees the calibration set.
        batch: samples per step.
        lr: step size of matrices and scales.
        clip_lr: step size of clips.
        lr_floor: share of the step sizes that is left at the end of the cosine.
        weight_decay: of all parameters, AdamW's default.
        alpha: share of the activations' range that the first scales move into the weights.
        clip_start: first logit of every clip; 4 is a share of 0.982.
        start: first matrices, "orthogonal" (random) or "hadamard" (with random signs).
        parametrization: "inverse" learns a matrix and inverts it in float64; "cayley" learns U diag(s) V^T with
            orthogonal U and V.
        diag: whether scales per channel are learned.
        online_scale: whether scales that nothing in front can take work at run time; otherwise there are none.
        connector_scale: of four joined neighbours in front of Qwen's merger, "online", or "tied" to be the same for
            each of them and folded into the norm.
        decoder_inputs: what enters the decoder while it is calibrated, pictures read by the "original" or by the
            "quantized" tower and connector.
        vision_edge_bits: bits in the first and the last block of the vision tower; None for those of all others.
        scale_dtype: format of the stored scales of weights, "float16" or "float32".
        transform_dtype: format of the stored matrices, "float16" or "float32"; weights are folded for those numbers.
        backend: what multiplies, "auto", "fake", "reference", "int8" or "triton".
        calibration: a registered calibration set, or the path of one; "auto" is the set that belongs to the model.
        samples: how many of its samples are used.
        seed: of the draw of samples and of the first matrices.
        pruned: calibrate on the pruned graph, with the recipe's own token reduction at work.
        modules: parts of the model, some of "language", "connector", "vision". Token embeddings, norms, biases and
            the language-model head stay as they are.

    Raises:
        InvalidOption: on construction, for a value outside its range.

    >>> FlatQuant(epochs=5).clip_lr
    0.05
    """

    weight_bits: int = 4
    activation_bits: int = 4
    kv_bits: int = 4
    kv_in_prefill: bool = True
    epochs: int = 15
    batch: int = 4
    lr: float = 5e-3
    clip_lr: float = 5e-2
    lr_floor: float = 1e-3
    weight_decay: float = 1e-2
    alpha: float = 0.3
    clip_start: float = 4.0
    start: str = "orthogonal"
    parametrization: str = "inverse"
    diag: bool = True
    online_scale: bool = True
    connector_scale: str = "online"
    decoder_inputs: str = "original"
    vision_edge_bits: int | None = None
    scale_dtype: str = "float16"
    transform_dtype: str = "float16"
    backend: str = "auto"
    calibration: str = "auto"
    samples: int = 128
    seed: int = 0
    pruned: bool = False
    modules: tuple[str, ...] = ("language", "connector", "vision")

    def __post_init__(self) -> None:
        """Validate."""
        object.__setattr__(self, "modules", self.settings.modules)
        for name, allowed in _CHOICES.items():
            if getattr(self, name) not in allowed:
                raise _refused(name, getattr(self, name), " or ".join(map(repr, allowed)))
        for name, (low, high, closed) in _NUMBERS.items():
            value = getattr(self, name)
            number = isinstance(value, (int, float)) and not isinstance(value, bool)
            if not number or not low <= value <= high or (value == low and not closed):
                edge = "from" if closed else "above"
                raise _refused(name, value, f"a number {edge} {low:g} up to {high:g}")
            object.__setattr__(self, name, float(value))
        for name, least in (("epochs", 0), ("batch", 1), ("samples", 1), ("seed", None)):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int) or (least is not None and value < least):
                raise _refused(name, value, "a whole number" + ("" if least is None else f" from {least} up"))
        for name in ("diag", "online_scale", "pruned"):
            if not isinstance(getattr(self, name), bool):
                raise _refused(name, getattr(self, name), "True or False")
        if not isinstance(self.calibration, str) or not self.calibration:
            raise _refused("calibration", self.calibration, "the name or path of a calibration set, or 'auto'")

    @property
    def settings(self) -> LowBitSettings:
        """Bits and formats."""
        return LowBitSettings.of(self, "flatquant")

    def check_available(self) -> None:
        """Nothing beyond torch is needed."""

    def rate(self, step: int, steps: int) -> float:
        """Return the share of the step sizes at one of `steps` steps, from 0: a cosine from 1 to `lr_floor`.

        >>> [round(FlatQuant(lr_floor=0.0).rate(step, 3), 4) for step in range(3)]
        [1.0, 0.75, 0.25]
        """
        return self.lr_floor + (1.0 - self.lr_floor) * (1.0 + math.cos(math.pi * step / steps)) / 2.0


def block_loss(output: Tensor, target: Tensor, valid: Tensor) -> Tensor:
    """Return the mean squared error over valid rows, divided by its own value: the gradient is that of its logarithm.

    Args:
        output: [B, T, D] or [N, D] of the quantised block.
        target: of the full-precision block on the same input.
        valid: [B, T] or [N] bool, False at padding.

    Returns:
        A number with a gradient; its value is 1, or 0 where nothing differs. `mean_squared_error` is what to log.
    """
    error = mean_squared_error(output, target, valid)
    return error / error.detach().clamp(min=torch.finfo(error.dtype).tiny)


def mean_squared_error(output: Tensor, target: Tensor, valid: Tensor) -> Tensor:
    """Return the mean over all channels of the valid rows.

    >>> rows = torch.tensor([[1.0, 1.0], [5.0, 5.0]])
    >>> mean_squared_error(rows, torch.zeros(2, 2), torch.tensor([True, False]))
    tensor(1.)
    """
    lost = (output - target).square().mean(dim=-1)
    return (lost * valid).sum() / valid.sum()


def _refused(name: str, value: object, wanted: str) -> InvalidOption:
    return InvalidOption(f"flatquant: {name}={value!r} is not allowed. Give {wanted}.")
