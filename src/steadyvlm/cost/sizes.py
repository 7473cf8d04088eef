"""How large a model is, as far as arithmetic goes: its decoder, vision tower and connector.

Sizes come from a table of published models here, or from a configuration (`models.sizes.sizes_of`). They are plain
integers, so a stored result can be costed without the model.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from steadyvlm.errors import UnknownName


@dataclass(frozen=True, slots=True)
class DecoderSizes:
    """A decoder of equal layers with grouped heads and a gated MLP.

    Attributes:
        layers: L.
        width: D of hidden states.
        mlp_width: M, between the matrices of the MLP.
        heads: query heads.
        kv_heads: key and value heads.
        head_width: of one head.
        vocabulary: rows of the output head.
    """

    layers: int
    width: int
    mlp_width: int
    heads: int
    kv_heads: int
    head_width: int
    vocabulary: int

    @property
    def query_width(self) -> int:
        """All query heads side by side."""
        return self.heads * self.head_width

    @property
    def kv_width(self) -> int:
        """All key heads side by side; values are as wide."""
        return self.kv_heads * self.head_width


@dataclass(frozen=True, slots=True)
class ClipSizes:
    """A CLIP tower: a class row and patches, attention over all of them.

    Attributes:
        layers: of the checkpoint.
        feature_layers: layers that run until the one whose rows the connector reads.
        width: D.
        mlp_width: M.
        heads: of its attention.
        patch_inputs: numbers in one patch (channels x side x side).
    """

    layers: int
    feature_layers: int
    width: int
    mlp_width: int
    heads: int
    patch_inputs: int


@dataclass(frozen=True, slots=True)
class QwenVisionSizes:
    """A tower of native resolution that merges 2 x 2 patches at its end (Qwen2-VL, Qwen2.5-VL).

    Attributes:
        layers: L.
        width: D.
        mlp_width: M.
        mlp_matrices: 3 for a gated MLP (Qwen2.5-VL), 2 for a plain one (Qwen2-VL).
        patch_inputs: numbers in one patch (channels x frames x side x side).
        merge: patches along one side of a token.
        out_width: of a token.
        window: patches along one side of an attention window; 0 when every layer sees the whole picture.
        full_layers: layers that see the whole picture although there are windows.
    """

    layers: int
    width: int
    mlp_width: int
    mlp_matrices: int
    patch_inputs: int
    merge: int
    out_width: int
    window: int = 0
    full_layers: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class ConnectorSizes:
    """Two matrices between tower and decoder, applied to each token (LLaVA)."""

    inputs: int
    hidden: int
    outputs: int


@dataclass(frozen=True, slots=True)
class ModelSizes:
    """A whole model. A Qwen tower ends with its own merger, so it has no connector."""

    decoder: DecoderSizes
    vision: ClipSizes | QwenVisionSizes
    connector: ConnectorSizes | None = None

    def to_json(self) -> dict[str, Any]:
        """Return JSON-ready types; `from_json` inverts it."""
        return dataclasses.asdict(self)

    @staticmethod
    def from_json(row: Mapping[str, Any]) -> ModelSizes:
        """Rebuild sizes from `to_json` output."""
        vision = dict(row["vision"])
        tower: ClipSizes | QwenVisionSizes
        if "full_layers" in vision:
            tower = QwenVisionSizes(**{**vision, "full_layers": tuple(vision["full_layers"])})
        else:
            tower = ClipSizes(**vision)
        connector = None if row["connector"] is None else ConnectorSizes(**row["connector"])
        return ModelSizes(DecoderSizes(**row["decoder"]), tower, connector)


_CLIP_L = ClipSizes(layers=24, feature_layers=23, width=1024, mlp_width=4096, heads=16, patch_inputs=588)
_VICUNA_7B = DecoderSizes(32, 4096, 11008, 32, 32, 128, 32000)
_QWEN_7B = DecoderSizes(28, 3584, 18944, 28, 4, 128, 152064)

PUBLISHED: Mapping[str, ModelSizes] = {
    "llava-1.5-7b": ModelSizes(_VICUNA_7B, _CLIP_L, ConnectorSizes(1024, 4096, 4096)),
    "llava-1.5-13b": ModelSizes(
        DecoderSizes(40, 5120, 13824, 40, 40, 128, 32000), _CLIP_L, ConnectorSizes(1024, 5120, 5120)
    ),
    "llava-next-vicuna-7b": ModelSizes(_VICUNA_7B, _CLIP_L, ConnectorSizes(1024, 4096, 4096)),
    "qwen2-vl-7b": ModelSizes(_QWEN_7B, QwenVisionSizes(32, 1280, 5120, 2, 1176, 2, 3584)),
    "qwen2.5-vl-7b": ModelSizes(
        _QWEN_7B, QwenVisionSizes(32, 1280, 3420, 3, 1176, 2, 3584, window=8, full_layers=(7, 15, 23, 31))
    ),
}
"""Sizes of published models, by the names their papers use."""


def published(name: str) -> ModelSizes:
    """Return the sizes of a published model.

    Raises:
        UnknownName: with the closest known name.

    >>> published("qwen2.5-vl-7b").decoder.kv_width
    512
    """
    if name not in PUBLISHED:
        raise UnknownName.among("published model", name, PUBLISHED)
    return PUBLISHED[name]
