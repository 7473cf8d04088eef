"""AWQ: before rounding, enlarge the weights that read large inputs, and shrink what writes those inputs by as much.

With a_i the mean magnitude of input i, scales s = max(a, 1e-4)^r, normalised by sqrt(max s min s), are tried for a grid
of r from 0 to 1. The r whose rounded weights Q(W diag(s)) diag(1/s) change the output least wins; W takes s, and the
norm (or linear) in front takes 1/s, so that nothing is left to do at run time.

Pairs: the norm and query, key, value; value and the output projection, if the two have equal widths (not under grouped
queries); the norm and gate, up; up and down. What no factor reaches (CLIP's second matrix, connectors) is rounded to
nearest without scales.

Source: Lin et al. 2023, "AWQ: Activation-aware Weight Quantization for LLM Compression and Acceleration",
arXiv 2306.00978; computed by llm-compressor (`AWQModifier`, https://github.com/vllm-project/llm-compressor).
Differs:
    - The output compared is that of the module that holds all linears of a pair: attention for query, key, value, the
      feed-forward for gate and up, the linear itself when there is only one.
    - The exponents go from 0 to 1 with both ends; the authors' go from 0 to 0.95.
    - Ranges are clipped, with `clip`, where the rounding error of the *weights* is least; the authors compare outputs.

**Storage is simulated**: weights are rounded and then held in the compute dtype, see `rtn`. `steadyvlm.calibration`
writes the packed format.
"""

from __future__ import annotations

import importlib.util
from dataclasses import dataclass

from steadyvlm.errors import InvalidOption, MissingDependency
from steadyvlm.quantization.base import checked_parts
from steadyvlm.quantization.grid import Grid
from steadyvlm.quantization.weight_only_calibrated import check_shared, check_switches, refuse_pruned


@dataclass(frozen=True, slots=True)
class AWQ:
    """Weight-only AWQ, W4A16 with groups of 128 and zero points unless told otherwise.

    Attributes:
        bits: bits per weight, 2 to 8; serving engines take 4 and 8.
        group: neighbours along the input that share a scale; None for one scale per output row. It has to divide the
            input width of every linear.
        symmetric: no zero points.
        grid_points: how many exponents r are tried.
        duo_scaling: divide s by the mean magnitude of the weights, each exponent r for the inputs with 1 - r for them.
        clip: shrink each group's range to where its rounding error is least.
        modules: parts of the model, some of "language", "connector", "vision". Token embeddings, biases and the
            language-model head stay as they are; norms in front of these parts take up scales.
        calibration: a calibration set, or the path of one; "auto" is the set that belongs to the model.
        samples: how many of its samples are used.
        seed: draws the samples.
        pruned: only False; llm-compressor runs the model with all visual tokens.

    Raises:
        InvalidOption: on construction, for a value outside its range; on calibration, when the group does not fit.
        MissingDependency: on calibration, when llm-compressor is not installed.

    >>> AWQ(group=32).grid
    Grid(bits=4, group=32, symmetric=False)
    """

    bits: int = 4
    group: int | None = 128
    symmetric: bool = False
    grid_points: int = 20
    duo_scaling: bool = False
    clip: bool = False
    modules: tuple[str, ...] = ("language",)
    calibration: str = "auto"
    samples: int = 128
    seed: int = 0
    pruned: bool = False

    def __post_init__(self) -> None:
        """Validate."""
        check_shared("awq", (self.bits, self.group, self.symmetric), self.samples, self.seed, self.calibration)
        check_switches("awq", duo_scaling=self.duo_scaling, clip=self.clip)
        points = self.grid_points
        if isinstance(points, bool) or not isinstance(points, int) or points < 3:
            raise InvalidOption(f"awq: grid_points={points!r} is not allowed. Give a whole number of at least 3.")
        refuse_pruned("awq", self.pruned)
        object.__setattr__(self, "modules", checked_parts("awq", self.modules))

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
            raise MissingDependency("awq needs llm-compressor. Install it with `pip install 'steadyvlm[compress]'`.")
