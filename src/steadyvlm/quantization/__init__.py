"""Quantisers: weights (and activations) in fewer bits, one file per method.

A row in the table enrols a quantiser everywhere: the contract tests, the recipe text, the command line and the docs.
"""

from __future__ import annotations

from steadyvlm.registry import Registry

QUANTIZERS = Registry(
    "quantizer",
    {
        "rtn": "steadyvlm.quantization.rtn:RTN",
        "gptq": "steadyvlm.quantization.gptq:GPTQ",
        "awq": "steadyvlm.quantization.awq:AWQ",
        "llm_int8": "steadyvlm.quantization.llm_int8:LLMInt8",
        "rtn_w4a4": "steadyvlm.quantization.rtn_w4a4:RTNW4A4",
        "hadamard_w4a4": "steadyvlm.quantization.hadamard_w4a4:HadamardW4A4",
        "flatquant": "steadyvlm.quantization.flatquant:FlatQuant",
    },
    group="steadyvlm.quantizers",
)

__all__ = ["QUANTIZERS"]
