"""LVPruning: small trained modules look at the question and decide which visual tokens it still needs.

Before chosen decoder layers a cross-attention module (`lvpruning_module.py`: visual tokens ask, the text behind the
picture answers) gives every visual token a keep and a drop logit. Tokens whose drop logit is not beaten are removed, so
an easy picture loses more than a full one. The model itself is frozen: modules are added and taken away at will.

Source: Sun et al. 2025, "LVPruning: An Effective yet Simple Language-Guided Vision Token Pruning Approach for
Multi-modal Large Language Models", arXiv 2501.13652 (Findings of NAACL 2025). No code was published, so results are
"LVPruning-style". Established: vision tokens as queries, language tokens as keys and values, masking in training and
index removal at inference, up to 90 % pruned by the middle layer of LLaVA-1.5, TFLOPs -62.1 %. Default schedule of
training, which other depths follow by relative depth:

    before layers 1, 8, 16 of 32    leaves 66 %, 35 %, 10 %    fixed, of 576: 380, 201, 57

Differs (our choice wherever the public text is silent):
    - Layers, ratios, the inside of a module and the training loss; the schedule gives the published saving.
    - After training, each module's keep bias is moved until decisions without noise leave the trained shares.
    - `mode="fixed"` keeps an exact count, the best by keep minus drop: costs then match other methods exactly.
    - Never fewer than one token; several pictures are judged as one set.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from steadyvlm.errors import CheckpointError, InvalidOption, Unsupported
from steadyvlm.reduction.base import Selection, Signal, Signals, Site
from steadyvlm.reduction.lvpruning_files import ModulesConfig, read_config, read_modules
from steadyvlm.reduction.options import checked_ratio
from steadyvlm.reduction.tensor_ops import top_k, trunc_budget

AUTO = "auto"
MODES = ("adaptive", "fixed")


@dataclass(frozen=True, slots=True)
class LVPruning:
    """Keep the visual tokens that trained modules vote for.

    Attributes:
        modules: folder of trained modules; "auto" stands for those that were trained for the model at hand, and is
            replaced by their folder when the recipe meets the model.
        mode: "adaptive" keeps every token whose keep logit beats its drop logit; "fixed" keeps
            `trunc(N * keep_ratio)` of the N tokens the prompt had, at each stage.
        keep_ratios: fractions for "fixed", one per stage, not ascending; None for those of the training.

    Raises:
        InvalidOption: on construction, for a value outside its range.
    """

    modules: str = "auto"
    mode: str = "adaptive"
    keep_ratios: tuple[float, ...] | None = None

    def __post_init__(self) -> None:
        """Validate."""
        if not isinstance(self.modules, str) or not self.modules.strip():
            raise InvalidOption(f"lvpruning: modules={self.modules!r} is no folder. Give its path, or 'auto'.")
        if self.mode not in MODES:
            raise InvalidOption(f"lvpruning: mode={self.mode!r} does not exist. Give one of: {', '.join(MODES)}.")
        if self.keep_ratios is not None:
            object.__setattr__(self, "keep_ratios", _checked_ratios(self.keep_ratios, self.mode))

    @property
    def needs(self) -> frozenset[Signal]:
        """What the visual tokens hold, and what the text behind them holds."""
        return frozenset({Signal.HIDDEN, Signal.TEXT_HIDDEN})

    @property
    def compact_positions(self) -> bool:
        """Survivors keep their positions, as in training."""
        return False

    @property
    def folder(self) -> Path:
        """Where the modules lie.

        Raises:
            Unsupported: when the recipe has not met a model yet.
        """
        if self.modules == AUTO:
            raise Unsupported(
                "lvpruning(modules='auto') finds its modules only when it is applied to a model. Use "
                "accelerate(model, recipe), or name their folder."
            )
        return Path(self.modules).expanduser().absolute()

    def sites(self, num_layers: int) -> tuple[Site, ...]:
        """Before the layers the modules were trained for."""
        config = read_config(self.folder)
        if config.num_layers != num_layers:
            raise CheckpointError(
                f"the LVPruning modules in '{self.modules}' were trained for '{config.model}', whose decoder has "
                f"{config.num_layers} layers, not {num_layers}. Train modules for it: `steadyvlm train lvpruning`."
            )
        if self.keep_ratios is not None and len(self.keep_ratios) != len(config.layers):
            raise InvalidOption(
                f"lvpruning: keep_ratios names {len(self.keep_ratios)} fractions, but the modules in '{self.modules}' "
                f"act before {len(config.layers)} layers. Give one fraction for each."
            )
        return tuple(Site(layer) for layer in config.layers)

    def select(self, signals: Signals, site: Site) -> Selection:
        """Ask the module of this site about every visual token."""
        if signals.num_tokens == 0:
            return Selection.nothing(signals.device)
        visual = signals.require(Signal.HIDDEN).to(torch.float32)
        text = signals.require(Signal.TEXT_HIDDEN).to(torch.float32)
        config = read_config(self.folder)
        if visual.shape[-1] != config.width:
            raise CheckpointError(
                f"the LVPruning modules in '{self.modules}' read hidden states of width {config.width}, but this model "
                f"has {visual.shape[-1]}. Train modules for it: `steadyvlm train lvpruning`."
            )
        assert site.layer is not None, "sites are before decoder layers"
        stage = config.stage(site.layer)
        with torch.no_grad():
            logits = read_modules(self.folder, visual.device)[stage](visual, text)
        margin = logits[:, 0] - logits[:, 1]
        count = self._budget(signals, config, stage) if self.mode == "fixed" else int((margin > 0).sum())
        return Selection(top_k(margin, max(1, count)))

    def _budget(self, signals: Signals, config: ModulesConfig, stage: int) -> int:
        ratios = config.keep_ratios if self.keep_ratios is None else self.keep_ratios
        return min(signals.num_tokens, trunc_budget(signals.original_tokens or signals.num_tokens, ratios[stage]))


def _checked_ratios(ratios: Any, mode: str) -> tuple[float, ...]:
    if not isinstance(ratios, (tuple, list)) or not ratios:
        raise InvalidOption(
            f"lvpruning: keep_ratios={ratios!r} is no list of fractions, for example (0.66, 0.35, 0.1)."
        )
    found = tuple(checked_ratio("lvpruning", "keep_ratios", ratio) for ratio in ratios)
    if list(found) != sorted(found, reverse=True):
        raise InvalidOption(f"lvpruning: keep_ratios={found} ascend, but what was removed cannot come back.")
    if mode != "fixed":
        raise InvalidOption("lvpruning: keep_ratios belong to mode='fixed'; mode='adaptive' lets the modules decide.")
    return found
