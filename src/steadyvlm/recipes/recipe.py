"""A recipe: a token reduction, a quantiser, another checkpoint, or several of them, as one line of text.

    keep_all                                                    the original
    fastv(layer=3, keep_ratio=0.5)                              fewer visual tokens
    visionzip(dominant=54, contextual=10) + rtn(bits=4)         fewer visual tokens and fewer bits
    checkpoint(path='owner/model-awq')                          any checkpoint transformers can load

The canonical form spells all defaults out in a fixed order, so equal recipes have equal text. It is part of the
address of every result.
"""

from __future__ import annotations

import ast
from dataclasses import dataclass
from typing import TYPE_CHECKING

from steadyvlm.errors import ConfigError, InvalidOption, UnknownName
from steadyvlm.registry import Registry, Spec, spec_of
from steadyvlm.seeding import content_hash

if TYPE_CHECKING:
    from steadyvlm.quantization.base import Quantizer
    from steadyvlm.reduction.base import Reduction

KEEP_ALL = "keep_all"
CHECKPOINT = "checkpoint"


@dataclass(frozen=True, slots=True)
class Recipe:
    """What is done to the original model. Without any part it is the original itself.

    Attributes:
        reduction: a row of `reduction.REDUCTIONS` with its options; None keeps every token.
        quantizer: a row of `quantization.QUANTIZERS` with its options.
        checkpoint: folder or hub id of another checkpoint to use in place of the original's weights.

    Raises:
        UnknownName: on construction, for a method or option that does not exist.
        InvalidOption: on construction, for a value a method refuses.

    >>> str(Recipe.parse("fastv(keep_ratio=0.25)"))
    'fastv(keep_ratio=0.25, layer=3)'
    """

    reduction: Spec | None = None
    quantizer: Spec | None = None
    checkpoint: str | None = None

    def __post_init__(self) -> None:
        reduction, quantizer = self.build_reduction(), self.build_quantizer()
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
        for part in _parts(text):
            spec = Spec.parse(part)
            kind = _kind(spec.name)
            if kind in found:
                raise ConfigError(
                    f"recipe '{text}' names two parts of one kind ({found[kind].name} and {spec.name}); "
                    "a recipe has at most one reduction, one quantizer and one checkpoint."
                )
            found[kind] = spec
        checkpoint = found.pop(CHECKPOINT, None)
        path = None if checkpoint is None else _checkpoint_path(checkpoint)
        return Recipe(found.get("reduction"), found.get("quantizer"), path)

    @property
    def is_original(self) -> bool:
        """Whether nothing at all is changed."""
        return self == Recipe()

    def build_reduction(self) -> Reduction | None:
        """Return the reduction, or None when every token is kept."""
        return None if self.reduction is None else _reductions().create(self.reduction)

    def build_quantizer(self) -> Quantizer | None:
        """Return the quantiser, if there is one."""
        return None if self.quantizer is None else _quantizers().create(self.quantizer)

    def sha256(self) -> str:
        """Return the hash of the canonical text."""
        return content_hash(str(self))

    def __str__(self) -> str:
        checkpoint = None if self.checkpoint is None else Spec(CHECKPOINT, {"path": self.checkpoint})
        return " + ".join(str(part) for part in (checkpoint, self.reduction, self.quantizer) if part) or KEEP_ALL


def _parts(text: str) -> list[str]:
    """Split at the plus signs between calls; plus signs inside quotes or numbers stay."""
    if not isinstance(text, str) or not text.strip():
        raise ConfigError("the recipe is empty; write for example 'fastv(layer=3, keep_ratio=0.5)' or 'keep_all'.")
    source = text.strip()
    try:
        node = ast.parse(source, mode="eval").body
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return [source]  # Spec.parse words the error
    found: list[ast.expr] = []
    while isinstance(node, ast.BinOp) and isinstance(node.op, ast.Add):
        found.append(node.right)
        node = node.left
    return [ast.get_source_segment(source, part) or source for part in [node, *reversed(found)]]


def _kind(name: str) -> str:
    if name == CHECKPOINT:
        return CHECKPOINT
    if name in _reductions():
        return "reduction"
    if name in _quantizers():
        return "quantizer"
    raise UnknownName.among("reduction or quantizer", name, [*_reductions(), *_quantizers(), CHECKPOINT])


def _checkpoint_path(spec: Spec) -> str:
    path = spec.options.get("path")
    if set(spec.options) != {"path"} or not isinstance(path, str):
        raise ConfigError(f"cannot read '{spec}'; write checkpoint(path='folder or hub id').")
    return path


def _reductions() -> Registry:
    from steadyvlm.reduction import REDUCTIONS

    return REDUCTIONS


def _quantizers() -> Registry:
    from steadyvlm.quantization import QUANTIZERS

    return QUANTIZERS
