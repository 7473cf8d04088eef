"""GPTQ: round the weights of a linear column by column, and let the columns not yet rounded make up for each error.

With inputs X and H = 2 X X^T / n, rounding column i by e = (w_i - q_i) / U_ii changes every later column by -e U_ij,
where U is the upper Cholesky factor of the damped H^-1. Columns with large inputs go first (act-order), while scales
belong to the original groups of neighbours (static groups), so that the stored layout needs no permutation.

Blocks are quantised one after the other and each sees inputs that passed the quantised blocks before it; inside a block
query, key and value come first, then the output projection, then the first and the last matrix of the feed-forward.

Source: Frantar et al. 2022, "GPTQ: Accurate Post-Training Quantization for Generative Pre-trained Transformers",
arXiv 2210.17323; computed by llm-compressor (`GPTQModifier`, https://github.com/vllm-project/llm-compressor).
Differs:
    - Group scales are always those of the original weights; the paper recomputes them from the current weights when a
      group starts.
    - If H cannot be factorised, llm-compressor rounds that linear to nearest; the report names it.
    - Calibration prompts hold pictures, so H counts visual and text tokens alike, as they come.

**Storage is simulated**: weights are rounded and then held in the compute dtype, see `rtn`. `steadyvlm.calibration`
writes the packed format.
"""

from __future__ import annotations

import importlib.util
import math
from dataclasses import dataclass

from steadyvlm.errors import InvalidOption, MissingDependency
from steadyvlm.quantization.base import checked_parts
from steadyvlm.quantization.grid import Grid
from steadyvlm.quantization.weight_only_calibrated import check_shared, check_switches, refuse_pruned


@dataclass(frozen=True, slots=True)
class GPTQ:
    """Weight-only GPTQ, W4A16 with groups of 128 unless told otherwise.

    Attributes:
        bits: bits per weight, 2 to 8; serving engines take 4 and 8.
        group: neighbours along the input that share a scale; None for one scale per output row. It has to divide the
            input width of every linear.
        symmetric: no zero points.
        act_order: columns with large inputs first.
        damping: share of the mean of H's diagonal that is added to it.
        clip: shrink each group's range to where its rounding error is least, before columns are rounded.
        true_sequential: run a block again after each of its four groups of linears; False calibrates a block at once.
        modules: parts of the model, some of "language", "connector", "vision". Token embeddings, norms, biases and
            the language-model head stay as they are.
        calibration: a calibration set, or the path of one; "auto" is the set that belongs to the model.
        samples: how many of its samples are used.
        seed: draws the samples.
        pruned: only False; llm-compressor runs the model with all visual tokens.

    Raises:
        InvalidOption: on construction, for a value outside its range; on calibration, when the group does not fit.
        MissingDependency: on calibration, when llm-compressor is not installed.

    >>> GPTQ(group=32).grid
    Grid(bits=4, group=32, symmetric=True)
    """

    bits: int = 4
    group: int | None = 128
    symmetric: bool = True
    act_order: bool = True
    damping: float = 0.01
    clip: bool = False
    true_sequential: bool = True
    modules: tuple[str, ...] = ("language",)
    calibration: str = "auto"
    samples: int = 128
    seed: int = 0
    pruned: bool = False

    def __post_init__(self) -> None:
        """Validate."""
        check_shared("gptq", (self.bits, self.group, self.symmetric), self.samples, self.seed, self.calibration)
        check_switches("gptq", act_order=self.act_order, clip=self.clip, true_sequential=self.true_sequential)
        value = self.damping
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 < value < math.inf:
            raise InvalidOption(f"gptq: damping={value!r} is not allowed. Give a number above 0; the paper uses 0.01.")
        refuse_pruned("gptq", self.pruned)
        object.__setattr__(self, "damping", float(value))
        object.__setattr__(self, "modules", checked_parts("gptq", self.modules))

    @property
    def grid(self) -> Grid:
        """The grid the weights are rounded to."""
        return Grid(self.bits, self.group, self.symmetric)

    def check_available(self) -> None:
        """Look for llm-compressor without importing it.

        Raises:
            MissingDependency: with the install command.
        """
        if importlib.util.find_spec("llmcompressor") is None:
            raise MissingDependency("gptq needs llm-compressor. Install it with `pip install 'steadyvlm[compress]'`.")
