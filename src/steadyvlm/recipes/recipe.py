"""A recipe: a token reduction, a quantiser, another checkpoint, or several of them, as one line of text.

    keep_all                                                    the original
    fastv(layer=3, keep_ratio=0.5)                              fewer visual tokens
    visionzip(dominant=54, contextual=10) + rtn(bits=4)         fewer visual tokens and fewer bits
    checkpoint(path='owner/model-awq')                          any checkpoint transformers can load
    visionzip-192 + rtn(bits=4)                                 a published setting, scaled to the model at hand
    joint(path='runs/joint/recipe.json')                        a packed model and the token schedule made for it

The canonical form spells all defaults out in a fixed order, so equal recipes have equal text. It is part of the
address of every result. A preset has no such form until it meets a model: `accelerate` and studies resolve it first.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from steadyvlm.errors import ConfigError, InvalidOption, UnknownName, Unsupported
from steadyvlm.registry import Registry, Spec, spec_of
from steadyvlm.seeding import content_hash

if TYPE_CHECKING:
    from steadyvlm.quantization.base import Quantizer
    from steadyvlm.reduction.base import Reduction
    from steadyvlm.reduction.presets import Preset, Shape

KEEP_ALL = "keep_all"
CHECKPOINT = "checkpoint"
JOINT = "joint"


@dataclass(frozen=True, slots=True)
class Recipe:
    """What is done to the original model. Without any part it is the original itself.

    Attributes:
        reduction: a row of `reduction.REDUCTIONS` with its options; None keeps every token.
        quantizer: a row of `quantization.QUANTIZERS` with its options.
        checkpoint: folder or hub id of another checkpoint to use in place of the original's weights.
        preset: name of a published setting, in place of `reduction`; see `reduction.presets`.
        joint: path of a recipe file, in place of everything else; see `recipes.joint`.

    Raises:
        UnknownName: on construction, for a method, option or preset that does not exist.
        InvalidOption: on construction, for a value a method refuses.
        ConfigError: on construction, for a preset beside a reduction, or a joint recipe beside anything.

    >>> str(Recipe.parse("fastv(keep_ratio=0.25)"))
    'fastv(keep_ratio=0.25, layer=3)'
    """

    reduction: Spec | None = None
    quantizer: Spec | None = None
    checkpoint: str | None = None
    preset: str | None = None
    joint: str | None = None

    def __post_init__(self) -> None:
        if self.joint is not None:
            self._check_joint()
        if self.preset is not None:
            _published(self.preset)
            if self.reduction is not None:
                raise ConfigError(f"preset '{self.preset}' and {self.reduction} are two reductions; keep one of them.")
        reduction = None if self.reduction is None else _reductions().create(self.reduction)
        quantizer = self.build_quantizer()
        if self.checkpoint is not None and not (isinstance(self.checkpoint, str) and self.checkpoint.strip()):
            raise InvalidOption(f"checkpoint(path={self.checkpoint!r}) needs the text of a folder or hub id.")
        if self.reduction is not None and reduction is not None:
            plain = self.reduction.name == KEEP_ALL
            object.__setattr__(self, "reduction", None if plain else spec_of(reduction, self.reduction.name))
        if self.quantizer is not None and quantizer is not None:
            object.__setattr__(self, "quantizer", spec_of(quantizer, self.quantizer.name))

    @staticmethod
    def parse(text: str) -> Recipe:
        """Read a recipe.

        Raises:
            ConfigError: for text that is not a sum of `name(option=value, …)`, or two parts of one kind.
            UnknownName: for a method or option that does not exist.
            InvalidOption: for a value a method refuses.
        """
        found: dict[str, Spec] = {}
        preset = None
        for part in _parts(text):
            name = _preset_name(part)
            spec = Spec.parse(part) if name is None else _published(name).spec
            kind = _kind(spec.name)
            preset = preset or name
            if kind in found:
                raise ConfigError(
                    f"recipe '{text}' names two parts of one kind ({found[kind].name} and {spec.name}); "
                    "a recipe has at most one reduction, one quantizer and one checkpoint."
                )
            found[kind] = spec
        path, joint = (_path(found[kind]) if kind in found else None for kind in (CHECKPOINT, JOINT))
        reduction = None if preset else found.get("reduction")
        return Recipe(reduction, found.get("quantizer"), path, preset, joint)

    @property
    def is_original(self) -> bool:
        """Whether nothing at all is changed."""
        return self == Recipe()

    def resolve(self, shape: Shape) -> tuple[Recipe, str]:
        """Return the recipe with its preset scaled to a model of this shape, and a note, empty if nothing was scaled.

        >>> from steadyvlm.reduction.presets import Shape
        >>> str(Recipe.parse("fastv-k3-50").resolve(Shape(layers=12))[0])
        'fastv(keep_ratio=0.5, layer=1)'
        """
        if self.preset is None:
            return self, ""
        from steadyvlm.reduction.presets import resolve

        reduction, note = resolve(self.preset, shape)
        return replace(self, reduction=reduction, preset=None), note

    def build_reduction(self) -> Reduction | None:
        """Return the reduction, or None when every token is kept; a joint recipe's file is read.

        Raises:
            Unsupported: for a preset that has not met a model.
            CheckpointError: for a joint recipe that cannot be read.
        """
        if self.joint is not None:
            from steadyvlm.recipes.joint import load_joint

            return load_joint(self.joint).quota
        if self.preset is not None:
            raise Unsupported(
                f"preset '{self.preset}' is scaled to the model it is used on. Apply it with "
                "accelerate(model, recipe), or call recipe.resolve(shape) first."
            )
        return None if self.reduction is None else _reductions().create(self.reduction)

    def build_quantizer(self) -> Quantizer | None:
        """Return the quantiser to apply, if there is one; the model of a joint recipe is quantised already."""
        return None if self.quantizer is None else _quantizers().create(self.quantizer)

    def sha256(self) -> str:
        """Return the hash of the canonical text."""
        return content_hash(str(self))

    def __str__(self) -> str:
        checkpoint = None if self.checkpoint is None else Spec(CHECKPOINT, {"path": self.checkpoint})
        joint = None if self.joint is None else Spec(JOINT, {"path": self.joint})
        parts = (joint, checkpoint, self.preset or self.reduction, self.quantizer)
        return " + ".join(str(part) for part in parts if part) or KEEP_ALL

    def _check_joint(self) -> None:
        if not (isinstance(self.joint, str) and self.joint.strip()):
            raise InvalidOption(f"joint(path={self.joint!r}) needs the text of a recipe file.")
        beside = [self.reduction, self.quantizer, self.checkpoint, self.preset]
        if any(part is not None for part in beside):
            raise ConfigError(
                f"joint(path={self.joint!r}) names the packed model and the token reduction that belong together; "
                "leave every other part away."
            )


def _parts(text: str) -> list[str]:
    """Split at the plus signs between parts; those inside parentheses or quotes stay."""
    if not isinstance(text, str) or not text.strip():
        raise ConfigError("the recipe is empty; write for example 'fastv(layer=3, keep_ratio=0.5)' or 'keep_all'.")
    found, depth = [""], 0
    for piece in _PIECES.findall(text):
        depth += (piece == "(") - (piece == ")")
        if piece == "+" and depth == 0:
            found.append("")
        else:
            found[-1] += piece
    return [part.strip() for part in found]


_PIECES = re.compile(r"""'(?:[^'\\]|\\.)*'|"(?:[^"\\]|\\.)*"|.""", re.DOTALL)
"""A quoted text as a whole, or any single character."""
_PRESET = re.compile(r"""preset\(\s*(?:name\s*=\s*)?(['"])([^'"]*)\1\s*\)|([A-Za-z]\w*(?:-[\w.]+)+)""")
"""`preset('name')`, or the bare name, which has a hyphen."""


def _preset_name(part: str) -> str | None:
    match = _PRESET.fullmatch(part)
    return None if match is None else match[2] or match[3] or ""


def _published(name: str) -> Preset:
    """Return the preset called `name`; raises UnknownName with the closest known one."""
    from steadyvlm.reduction.presets import preset

    return preset(name)


def _kind(name: str) -> str:
    if name in (CHECKPOINT, JOINT):
        return name
    if name in _reductions():
        return "reduction"
    if name in _quantizers():
        return "quantizer"
    raise UnknownName.among("reduction or quantizer", name, [*_reductions(), *_quantizers(), CHECKPOINT, JOINT])


def _path(spec: Spec) -> str:
    path = spec.options.get("path")
    if set(spec.options) != {"path"} or not isinstance(path, str):
        what = "folder or hub id" if spec.name == CHECKPOINT else "recipe file"
        raise ConfigError(f"cannot read '{spec}'; write {spec.name}(path='{what}').")
    return path


def _reductions() -> Registry:
    from steadyvlm.reduction import REDUCTIONS

    return REDUCTIONS


def _quantizers() -> Registry:
    from steadyvlm.quantization import QUANTIZERS

    return QUANTIZERS
