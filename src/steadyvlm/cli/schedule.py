"""How many tokens each layer sees under a method, found by driving the method itself, and what that costs.

A method is run on made-up signals at every site of a decoder of 32 layers, as the engine would run it on a picture of
576 tokens. Signals of very different kinds are tried (flat, peaked, all rows alike, noise). Where counts agree, they
are fixed by the settings; where they do not, they depend on the picture, and no number is given.
"""

from __future__ import annotations

import dataclasses
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from steadyvlm.registry import Spec, spec_of

if TYPE_CHECKING:
    from torch import Generator, Tensor

    from steadyvlm.reduction.base import Reduction, Signals, Site

LAYERS, SIDE, TEXT = 32, 24, 60
TOKENS = SIDE * SIDE
MODEL = "llava-1.5-7b"
INNER = 1024
"""Width of LVPruning's modules at that size."""
_WIDTH, _HEADS, _KEYS, _RATERS = 48, 16, 12, 5
_KINDS = ("flat", "peaked", "alike", "noise")


@dataclass(frozen=True, slots=True)
class Schedule:
    """Tokens of a picture of 576 on LLaVA-1.5-7B.

    Attributes:
        per_layer: visual tokens each decoder layer sees.
        encoded: visual tokens that pass the connector.
    """

    per_layer: tuple[int, ...]
    encoded: int

    @property
    def mean(self) -> float:
        """Tokens per layer."""
        return sum(self.per_layer) / len(self.per_layer)


def schedule_of(spec: Spec) -> Schedule | None:
    """Return the tokens of every layer, or None where they depend on the picture or are found by calibration.

    >>> found = schedule_of(Spec.parse("fastv(layer=3, keep_ratio=0.5)"))
    >>> found.per_layer[2:4], found.mean
    ((576, 288), 315.0)
    """
    with tempfile.TemporaryDirectory(prefix="steadyvlm-schedule-") as folder:
        reduction = _built(spec, Path(folder))
        if getattr(reduction, "is_auto", False):
            return None
        scale = getattr(reduction, "image_scale", 1.0)
        if scale != 1.0:
            from steadyvlm.models.llava import nearest_side

            side = nearest_side(SIDE, scale)
            return Schedule((side * side,) * LAYERS, side * side)
        found = {_driven(reduction, kind, seed) for seed, kind in enumerate(_KINDS)}
    return found.pop() if len(found) == 1 else None


def cost_of_schedule(spec: Spec, schedule: Schedule) -> tuple[float, float] | None:
    """Return the prefill's TFLOPs with 60 text tokens on LLaVA-1.5-7B, and its share of the unreduced one's.

    None for a method of which is not known what choosing tokens takes.

    >>> spec = Spec.parse("keep_all")
    >>> cost_of_schedule(spec, schedule_of(spec))[1]
    1.0
    """
    from steadyvlm.cost import Counts, count, published, scoring_of
    from steadyvlm.cost.methods import Known
    from steadyvlm.reduction import REDUCTIONS
    from steadyvlm.training.lvpruning.schedule import stage_layers

    sizes = published(MODEL)
    side = round(schedule.encoded**0.5) if spec.name == "downsample" else SIDE
    counts = Counts(schedule.per_layer, TEXT, ((1, side, side),), schedule.encoded, original=TOKENS)
    full = spec_of(REDUCTIONS.create(spec), spec.name)
    scoring = scoring_of(full, counts, sizes, Known(inner=INNER, module_layers=stage_layers(LAYERS)))
    if scoring is None:
        return None
    whole = count(Counts((TOKENS,) * LAYERS, TEXT, ((1, SIDE, SIDE),), TOKENS), sizes).prefill
    spent = count(dataclasses.replace(counts, scoring=scoring), sizes).prefill
    return 2 * spent / 1e12, spent / whole


def _built(spec: Spec, folder: Path) -> Any:
    """The method; modules that training would make are made here, of the default schedule."""
    from steadyvlm.reduction import REDUCTIONS

    reduction = REDUCTIONS.create(spec)
    if getattr(reduction, "modules", "") != "auto":
        return reduction
    import torch

    from steadyvlm.reduction.lvpruning_files import ModulesConfig, save_modules
    from steadyvlm.training.lvpruning.schedule import KEEP_RATIOS, stage_layers

    config = ModulesConfig("none", "0", _WIDTH, LAYERS, stage_layers(LAYERS), KEEP_RATIOS, inner=16, heads=2)
    with torch.random.fork_rng(devices=[]):  # the docs are generated from this: never two results
        torch.manual_seed(0)
        modules = config.make()
    save_modules(folder, config, modules)
    return dataclasses.replace(reduction, modules=str(folder))


def _driven(reduction: Reduction, kind: str, seed: int) -> Schedule:
    """Run the method at all its sites on signals of one kind."""
    import torch

    generator = torch.Generator().manual_seed(seed)
    counts, encoded, tokens = [TOKENS] * LAYERS, TOKENS, TOKENS
    for site in reduction.sites(LAYERS):
        signals = _signals(reduction, site, tokens, kind, generator)
        tokens = int(reduction.select(signals, site).keep.numel())
        if site.layer is None:
            encoded = tokens
        first = site.layer or 0
        counts[first:] = [tokens] * (LAYERS - first)
    return Schedule(tuple(counts), encoded)


def _signals(reduction: Reduction, site: Site, tokens: int, kind: str, generator: Generator) -> Signals:
    """What an engine would supply at a site."""
    import torch

    from steadyvlm.reduction.base import Signal, Signals
    from steadyvlm.reduction.layout import ImageLayout

    rows = tokens + 1
    shapes: dict[Signal, tuple[int, ...]] = {
        Signal.ENCODER_ROWS: (rows, _WIDTH),
        Signal.CLS_ATTENTION: (_HEADS, tokens),
        Signal.FIRST_CLS_ATTENTION: (_HEADS, tokens),
        Signal.LAST_CLS_ATTENTION: (tokens,),
        Signal.SALIENCE: (_HEADS, tokens),
        Signal.ENCODER_KEYS: (rows, _KEYS),
        Signal.LAST_KEYS: (rows, _WIDTH),
        Signal.TEXT_RELEVANCE: (tokens,),
        Signal.LAST_QUERY_ATTENTION: (_HEADS, tokens),
        Signal.FRESH_QUERY_ATTENTION: (_HEADS, tokens),
        Signal.RATER_ATTENTION: (_HEADS, _RATERS, tokens),
        Signal.RATER_ROTARY: (_RATERS, tokens),
        Signal.HIDDEN: (tokens, _WIDTH),
        Signal.TEXT_HIDDEN: (TEXT, _WIDTH),
        Signal.ATTENTION_OUTPUT: (tokens, _WIDTH),
        Signal.QUESTION_ATTENTION: (tokens,),
        Signal.VISUAL_ATTENTION: (tokens,),
        Signal.HIDDEN_BEFORE: (tokens, _WIDTH),
        Signal.QUANTIZATION_RESIDUAL: (tokens,),
    }
    values: dict[str, Any] = {}
    for signal in sorted(reduction.needs):
        if signal.of_encoder == site.in_encoder:
            value = _made(shapes[signal], kind, generator)
            likely = "attention" in signal.value and signal is not Signal.ATTENTION_OUTPUT
            values[signal.value] = value.softmax(-1) if likely or signal is Signal.SALIENCE else value
    if site.in_encoder:
        return Signals(tokens, has_cls=True, layout=ImageLayout((SIDE, SIDE), has_cls=True), **values)
    images = torch.zeros(tokens, dtype=torch.int64)
    return Signals(tokens, images=images, original_tokens=TOKENS, **values)


def _made(shape: Sequence[int], kind: str, generator: Generator) -> Tensor:
    """Numbers of one kind."""
    import torch

    noise = torch.randn(*shape, generator=generator)
    if kind == "flat":
        return 0.01 * noise
    if kind == "peaked":
        return noise**3
    if kind == "alike" and len(shape) > 1:
        return noise[..., :1, :].expand(*shape).contiguous()
    return 2 * noise
