"""Every registered reduction with settings that fit, and made-up signals of every kind: what contract tests run on."""

from __future__ import annotations

import dataclasses
import functools
import math
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from steadyvlm.reduction import REDUCTIONS
from steadyvlm.reduction.base import Reduction, Selection, Signal, Signals, Site
from steadyvlm.reduction.layout import ImageLayout
from steadyvlm.reduction.lvpruning_files import ModulesConfig, save_modules

LAYERS, WIDTH, HEADS, KEY_WIDTH, RATERS, TEXTS = 32, 16, 14, 8, 3, 7
TINY_LAYERS, TINY_WIDTH = 4, 32
_TRAINED = tempfile.TemporaryDirectory(prefix="lvpruning-contract-")


@functools.cache
def trained_modules(layers: int, width: int) -> str:
    """A folder of modules nobody trained, for a decoder of this size."""
    folder = Path(_TRAINED.name) / f"{layers}-{width}"
    stages = (1, layers // 2, layers - 1)
    config = ModulesConfig("contract", "00", width, layers, stages, (0.7, 0.5, 0.3), inner=8, heads=2)
    generator = torch.Generator().manual_seed(0)
    modules = config.make()
    with torch.no_grad():
        for module in modules:
            for weight in module.parameters():
                weight.copy_(torch.randn(weight.shape, generator=generator))
    save_modules(folder, config, modules)
    return str(folder)


def default_options(name: str) -> dict[str, Any]:
    """What a method cannot do without in a decoder of 32 layers."""
    known: dict[str, dict[str, Any]] = {
        "lvpruning": {"modules": trained_modules(LAYERS, WIDTH)},
        "quota": {"layers": (2, 3, 4, 5, 6), "keep_ratios": "uniform"},
    }
    return known.get(name, {})


def tiny_options(name: str) -> dict[str, Any]:
    """Settings for a decoder of 4 layers and pictures of 36 tokens; a method that is not named here has its own."""
    known: dict[str, dict[str, Any]] = {
        "fastv": {"layer": 2, "keep_ratio": 0.4},
        "least_attended": {"layer": 2, "keep_ratio": 0.4},
        "pyramiddrop": {"layers": (1, 2, 3), "keep_ratios": (0.7, 0.4, 0.2)},
        "sparsevlm": {"layers": (0, 2), "keep": (20, 8)},
        "sparsevlm_plus": {"layers": (0, 2), "keep": (20, 8), "heads": 2},
        "vtw": {"layer": 2},
        "visionzip": {"dominant": 6, "contextual": 3},
        "prumerge": {"neighbours": 4},
        "prumerge_plus": {"neighbours": 4},
        "divprune": {"keep_ratio": 0.3},
        "lvpruning": {"modules": trained_modules(TINY_LAYERS, TINY_WIDTH), "mode": "fixed"},
        "quota": {"layers": (2,), "keep_ratios": "uniform"},
    }
    return known.get(name, {})


def make(name: str, **options: Any) -> Any:
    """Return a method with its defaults where `options` say nothing."""
    return REDUCTIONS.load(name)(**(default_options(name) | options))


def variants(name: str) -> list[Any]:
    """Return the default, and for methods with these fields other ratios and another layer."""
    known = list(REDUCTIONS.load(name).__dataclass_fields__)
    options: list[dict[str, Any]] = [{}]
    if "keep_ratio" in known:
        options += [{"keep_ratio": ratio} for ratio in (0.3, 1.0)]
    if "layer" in known:
        options += [{"layer": 7}]
    return [make(name, **option) for option in options]


def square(tokens: int) -> ImageLayout:
    """One tile of a tower with CLS, as square as the number of tokens allows."""
    height = next(side for side in range(math.isqrt(max(tokens, 1)), 0, -1) if tokens % side == 0)
    return ImageLayout((height, tokens // height), has_cls=True)


TILED = ImageLayout((12, 12), (2, 2), window=(3, 0, 21, 24), newlines=True, has_cls=True)


def make_signals(
    reduction: Reduction,
    site: Site,
    tokens: int,
    *,
    seed: int = 0,
    dtype: torch.dtype = torch.float32,
    layout: ImageLayout | None = None,
) -> Signals:
    """Return what an engine would supply at a site: the declared signals and no other; `layout` replaces `tokens`."""
    generator = torch.Generator().manual_seed(seed)
    layout = layout or square(tokens)
    tokens = layout.tiles * layout.tokens_per_tile if site.in_encoder and tokens else tokens
    rows = layout.rows if tokens else 1
    shapes: dict[Signal, tuple[int, ...]] = {
        Signal.ENCODER_ROWS: (rows, WIDTH),
        Signal.CLS_ATTENTION: (HEADS, tokens),
        Signal.FIRST_CLS_ATTENTION: (HEADS, tokens),
        Signal.LAST_CLS_ATTENTION: (tokens,),
        Signal.SALIENCE: (HEADS, tokens),
        Signal.ENCODER_KEYS: (rows, KEY_WIDTH),
        Signal.LAST_KEYS: (rows, WIDTH),
        Signal.TEXT_RELEVANCE: (tokens,),
        Signal.LAST_QUERY_ATTENTION: (HEADS, tokens),
        Signal.FRESH_QUERY_ATTENTION: (HEADS, tokens),
        Signal.RATER_ATTENTION: (HEADS, RATERS, tokens),
        Signal.RATER_ROTARY: (RATERS, tokens),
        Signal.HIDDEN: (tokens, WIDTH),
        Signal.TEXT_HIDDEN: (TEXTS, WIDTH),
        Signal.ATTENTION_OUTPUT: (tokens, WIDTH),
        Signal.QUESTION_ATTENTION: (tokens,),
        Signal.VISUAL_ATTENTION: (tokens,),
        Signal.HIDDEN_BEFORE: (tokens, WIDTH),
        Signal.QUANTIZATION_RESIDUAL: (tokens,),
    }
    values: dict[str, Any] = {}
    for signal, shape in shapes.items():
        probability = "attention" in signal.value and signal is not Signal.ATTENTION_OUTPUT
        value = torch.randn(shape, generator=generator)
        if signal in reduction.needs and signal.of_encoder == site.in_encoder:
            values[signal.value] = (value.mul(3).softmax(-1) if probability else value).to(dtype)
    if site.in_encoder:
        return Signals(tokens, has_cls=True, seed=seed, layout=layout, **values)
    images = torch.zeros(tokens, dtype=torch.int64)
    return Signals(tokens, seed=seed, images=images, original_tokens=tokens, **values)


def with_signals(signals: Signals, change: Callable[[torch.Tensor], torch.Tensor]) -> Signals:
    """Return `signals` with `change` applied to each tensor a method may read."""
    supplied = {signal.value: getattr(signals, signal.value) for signal in Signal}
    changed: dict[str, Any] = {name: change(value) for name, value in supplied.items() if value is not None}
    return dataclasses.replace(signals, **changed)


def selections(
    reduction: Reduction, tokens: int, change: Callable[[torch.Tensor], torch.Tensor] | None = None, **options: Any
) -> list[tuple[Site, Signals, Selection]]:
    """Return one selection per site on made-up signals, which `change` may have altered first."""
    found = []
    for site in reduction.sites(LAYERS):
        signals = make_signals(reduction, site, tokens, **options)
        signals = signals if change is None else with_signals(signals, change)
        found.append((site, signals, reduction.select(signals, site)))
    return found
