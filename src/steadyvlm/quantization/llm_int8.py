"""LLM.int8(): 8-bit weights and activations, with the few columns of large activations kept in floating point.

Weights are rounded once to int8 with one scale per output row. At each call, inputs are rounded to int8 with one scale
per token; the columns in which any token of the call reaches `threshold` are left out of the integer product and
multiplied in floating point (by the dequantised int8 weights) instead.

Source: Dettmers et al. 2022, "LLM.int8(): 8-bit Matrix Multiplication for Transformers at Scale", arXiv 2208.07339, as
computed by bitsandbytes (`Linear8bitLt` with `has_fp16_weights=False`), whose operators do the work here.
Differs:
    - bitsandbytes' loader replaces every linear but the head; here the vision tower and the connector are left alone
      unless named in `modules`, as in most published 8-bit vision-language models.
    - The operators are called directly, with equal results; `linear.Int8Linear` says why.

Which columns are outliers depends on all tokens of a call, so **an answer can depend on what else is in the batch**,
padding included. That is how the method is deployed; the report notes it.
"""

from __future__ import annotations

import importlib.util
import logging
import math
import warnings
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import nn

from steadyvlm.errors import InvalidOption, MissingDependency
from steadyvlm.quantization.apply import replace, sort_out
from steadyvlm.quantization.base import QuantizationReport, QuantizedLayer, checked_parts
from steadyvlm.quantization.grid import relative_error
from steadyvlm.quantization.linear import Int8Linear


@dataclass(frozen=True, slots=True)
class LLMInt8:
    """8-bit linears through bitsandbytes, on CPU and CUDA.

    Attributes:
        threshold: input magnitude from which a column is kept in floating point; 0 turns that off.
        modules: parts of the model, some of "language", "connector", "vision". Token embeddings, norms, biases and
            the language-model head stay as they are.

    Raises:
        InvalidOption: on construction, for a value outside its range.
        MissingDependency: on `quantize`, when bitsandbytes is not installed.

    >>> LLMInt8().threshold
    6.0
    """

    threshold: float = 6.0
    modules: tuple[str, ...] = ("language",)

    def __post_init__(self) -> None:
        """Validate."""
        value = self.threshold
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 <= value < math.inf:
            raise InvalidOption(
                f"llm_int8: threshold={value!r} is not allowed. Give a number from 0 (no outlier columns) up; "
                "the paper uses 6.0."
            )
        object.__setattr__(self, "threshold", float(value))
        object.__setattr__(self, "modules", checked_parts("llm_int8", self.modules))

    def check_available(self) -> None:
        """Look for bitsandbytes without importing it.

        Raises:
            MissingDependency: with the install command.
        """
        if importlib.util.find_spec("bitsandbytes") is None:
            raise _missing("it is not installed")

    def quantize(self, linears: Mapping[str, nn.Linear], root: nn.Module) -> QuantizationReport:
        """Replace `linears` inside `root` by int8 linears."""
        _register_operators()
        ready, skipped = sort_out(linears, root)
        layers = replace(ready, root, self._build)
        notes = ("Outlier columns are chosen per call, so an answer can depend on what else is in its batch.",)
        return QuantizationReport("llm_int8", layers, skipped, notes=notes if self.threshold else ())

    def _build(self, name: str, linear: nn.Linear) -> tuple[nn.Module, QuantizedLayer]:
        weight = linear.weight.detach()
        half = weight.to(torch.float16, copy=True).contiguous()
        codes, scale, _ = torch.ops.bitsandbytes.int8_vectorwise_quant(half)
        layer = QuantizedLayer(
            name=name,
            shape=(linear.out_features, linear.in_features),
            bits=8,
            original_bytes=weight.numel() * weight.element_size(),
            packed_bytes=codes.numel() + 4 * scale.numel(),
            held_bytes=codes.numel() + 4 * scale.numel(),
            relative_error=relative_error(weight, codes * (scale / 127).unsqueeze(1)),
        )
        bias = None if linear.bias is None else linear.bias.detach()
        return Int8Linear(codes, scale, bias, threshold=self.threshold), layer


def _register_operators() -> None:
    """Import bitsandbytes, which registers its operators with torch.

    Its import warns about torch.jit and logs that a 4-bit kernel is absent; neither concerns a user of this method.
    """
    logger = logging.getLogger("bitsandbytes")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            importlib.import_module("bitsandbytes")
    except ImportError as error:
        raise _missing(str(error)) from None
    finally:
        logger.setLevel(level)


def _missing(found: str) -> MissingDependency:
    return MissingDependency(
        f"llm_int8 needs bitsandbytes, and {found}. Install it with `pip install 'steadyvlm[int8]'`."
    )
