"""Published settings by name, and what becomes of them on a model of another size.

The papers state their settings for one model, LLaVA-1.5-7B: 32 decoder layers, 576 visual tokens. A preset is such a
setting. On another model its layers are scaled by relative depth and its absolute token counts by the number of tokens,
and a note says so; shares (`keep_ratio`) stay as they are. Names have a hyphen, which tells them from methods.

Source: the tables of the papers and the scripts of the released code; each preset names its own.
Differs: no paper scales its setting. Layers are rounded half to even, are at least 1 and stay ascending; counts are
rounded half to even and are at least 1. Where the number of tokens differs from picture to picture (LLaVA-NeXT, Qwen),
counts kept inside the decoder become shares of 576, rounded up to four digits.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from steadyvlm.errors import InvalidOption, UnknownName
from steadyvlm.registry import Literal, Spec

LAYERS, TOKENS = 32, 576


@dataclass(frozen=True, slots=True)
class Preset:
    """One published setting.

    Attributes:
        name: how a recipe calls it.
        spec: the method with its options at 32 layers and 576 tokens.
        source: where it is published.
    """

    name: str
    spec: Spec
    source: str


@dataclass(frozen=True, slots=True)
class Shape:
    """What of a model a preset is scaled to.

    Attributes:
        layers: of the decoder.
        tile_tokens: patches of one tile, or visual tokens of a usual picture where there are no tiles.
        tokens: visual tokens of a usual picture.
        varies: whether other pictures have other numbers of tokens.
    """

    layers: int = LAYERS
    tile_tokens: int = TOKENS
    tokens: int = TOKENS
    varies: bool = False


def preset(name: str) -> Preset:
    """Return the preset called `name`.

    Raises:
        UnknownName: with the closest known name.

    >>> str(preset("fastv-k2-75").spec)
    'fastv(keep_ratio=0.25, layer=2)'
    """
    if name not in PRESETS:
        raise UnknownName.among("preset", name, PRESETS)
    return PRESETS[name]


def resolve(name: str, shape: Shape) -> tuple[Spec, str]:
    """Return the setting for a model of this shape and a note on what was scaled, empty if nothing was.

    Raises:
        UnknownName: if there is no such preset.
        InvalidOption: if the decoder has too few layers for it.

    >>> resolve("pyramiddrop-8-16-24", Shape(12, 144, 144))[1]
    'pyramiddrop-8-16-24 is scaled from 32 layers to 12: pyramiddrop(keep_ratios=(0.5, 0.25, 0.125), layers=(3, 6, 9))'
    """
    original = preset(name).spec
    options = {option: _scaled(name, option, value, shape) for option, value in original.options.items()}
    scaled = Spec(original.name, options)
    if scaled == original:
        return scaled, ""
    changes = []
    if any(options[option] != original.options[option] for option in _DEPTHS if option in options):
        changes.append(f"{LAYERS} layers to {shape.layers}")
    if any(options[option] != original.options[option] for option in _COUNTS if option in options):
        counted = shape.tile_tokens if "dominant" in options else shape.tokens
        shares = shape.varies and "keep" in options
        changes.append(f"{TOKENS} visual tokens to " + ("shares of each picture" if shares else str(counted)))
    return scaled, f"{name} is scaled from {' and from '.join(changes)}: {scaled}"


_DEPTHS = ("layer", "layers")
_COUNTS = ("dominant", "contextual", "keep", "scale", "bias")
_OUTPUTS = ("sparsevlm", "sparsevlm_plus")
"""Methods that name the layer whose output is pruned, not the layer before which they act."""


def _scaled(name: str, option: str, value: Literal, shape: Shape) -> Literal:
    if option in _DEPTHS and not isinstance(value, str):
        depths = value if isinstance(value, tuple) else (value,)
        after = int(PRESETS[name].spec.name in _OUTPUTS)
        found = tuple(depth - after for depth in _scaled_layers(name, [depth + after for depth in depths], shape))
        return found if isinstance(value, tuple) else found[0]
    if option in ("dominant", "contextual") and isinstance(value, int):
        return max(1, round(value * shape.tile_tokens / TOKENS))
    if option == "keep" and isinstance(value, tuple):
        if shape.varies:
            return tuple(math.ceil(count / TOKENS * 1e4) / 1e4 for count in value)
        return tuple(max(1, round(count * shape.tokens / TOKENS)) for count in value)
    if option in ("scale", "bias") and isinstance(value, float):
        return value * shape.tokens / TOKENS
    return value


def _scaled_layers(name: str, layers: list[int], shape: Shape) -> list[int]:
    """Return boundaries (layers run before a reduction acts) at the same relative depth, at least 1 and ascending."""
    found: list[int] = []
    for layer in layers:
        found.append(max(round(layer * shape.layers / LAYERS), found[-1] + 1 if found else 1))
    if found[-1] >= shape.layers:
        raise InvalidOption(
            f"preset {name} acts at {len(layers)} places of {LAYERS} layers and cannot be scaled to a decoder of "
            f"{shape.layers}. Write the method with layers of your own."
        )
    return found


def _table() -> dict[str, Preset]:
    rows: list[tuple[str, str, str]] = []
    for dominant, contextual in ((162, 30), (108, 20), (54, 10), (27, 5)):
        where = "Table 1" if dominant > 27 else "LLaVA-NeXT, tokens per tile"
        spec = f"visionzip(dominant={dominant}, contextual={contextual})"
        rows.append((f"visionzip-{dominant + contextual}", spec, f"arXiv 2412.04467, {where}"))
    rows.append(
        (
            "pyramiddrop-8-16-24",
            "pyramiddrop(layers=[8, 16, 24], keep_ratios=[0.5, 0.25, 0.125])",
            "arXiv 2410.17247, and the code's evaluation scripts",
        )
    )
    for total, keep in ((192, (300, 200, 110)), (128, (303, 110, 36)), (96, (238, 48, 26)), (64, (66, 30, 17))):
        spec = f"sparsevlm(version='1.5', layers=[2, 6, 15], keep={keep})"
        rows.append((f"sparsevlm-{total}", spec, "arXiv 2410.04417, code version 1.5"))
    for total, scale, bias in ((192, 13.5, 0.0), (128, 9.0, 6.0), (64, 0.8, 0.0)):
        spec = f"sparsevlm(version='first', layers=[2, 6, 15, 19], scale={scale}, bias={bias})"
        rows.append((f"sparsevlm-first-{total}", spec, "arXiv 2410.04417, first release of the code"))
    for total, keep in ((192, (300, 200, 118)), (128, (238, 108, 60)), (96, (246, 54, 28)), (64, (66, 34, 20))):
        spec = f"sparsevlm_plus(layers=[2, 6, 15], keep={keep})"
        rows.append((f"sparsevlm-plus-{total}", spec, "arXiv 2410.04417, version 2.0 in the code"))
    for layer in (2, 3):
        for removed in (50, 75):
            spec = f"fastv(layer={layer}, keep_ratio={1 - removed / 100})"
            rows.append((f"fastv-k{layer}-{removed}", spec, f"arXiv 2403.06764, K={layer}, R={removed} % removed"))
    for percent in (10, 20, 40):
        rows.append((f"hired-{percent}", f"hired(keep_ratio={percent / 100})", "arXiv 2408.10945, Table 1"))
    rows += [
        ("divprune-9.8", "divprune(keep_ratio=0.098)", "arXiv 2503.02175, the code's default"),
        ("divprune-128", "divprune(keep_ratio=0.2222)", "128 of 576 tokens, as compared in LightCompress"),
        ("prumerge-adaptive", "prumerge", "arXiv 2403.15388"),
        ("prumerge-plus-adaptive", "prumerge_plus", "arXiv 2403.15388, the code's default"),
        ("prumerge-plus-eighth", "prumerge_plus(outlier_ratio=0.125)", "the code's training mode"),
        ("trim-auto", "trim", "arXiv 2409.10994, 'TRIM:-1'"),
        ("vtw-15", "vtw(layer=15)", "arXiv 2405.05803, the code's default"),
        ("vtw-16", "vtw(layer=16)", "arXiv 2405.05803, default of the code's evaluation"),
        ("lvpruning-90", "lvpruning(mode='fixed')", "arXiv 2501.13652: 90 % pruned by the middle layer"),
    ]
    for beta in (2, 4, 6):
        rows.append((f"lofi-{beta}", f"lofi(beta={float(beta)})", "arXiv 2503.06794v2, Table 1"))
    for percent in (50, 40, 30, 20, 10):
        rows.append((f"quota-{percent}", f"quota(floor={percent / 100})", "arXiv 2604.17320, Table 2"))
    rows.append(("quota-5", "quota(floor=0.05, percentiles=(5, 99))", "arXiv 2604.17320, Table 2"))
    rows += [
        (
            "quota-uniform-30",
            "quota(keep_ratios='uniform', weights=(0.5625, 0.3125, 0.125, 0.0))",
            "arXiv 2604.17320, Table 3: the stage-wise baselines' schedule and three metrics, as read here",
        )
    ]
    for percent in (90, 85):
        rows.append((f"lofi-fixed-{percent}", f"lofi(keep_ratio={percent / 100})", "arXiv 2503.06794v2, Table 3"))
    return {name: Preset(name, Spec.parse(spec), source) for name, spec, source in rows}


PRESETS: Mapping[str, Preset] = _table()
