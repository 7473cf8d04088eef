"""How a model is built, in the words a low-bit quantiser needs: blocks, and in each the linears that read one input.

A quantiser that rotates or scales an input has to change everything that writes or reads it together: the norm in
front, all linears behind, the rows of the linear before. This file names those, by their paths in the Hugging Face
module, and nothing else; every family describes itself so (`VisionLanguageModel.blocks`), and no quantiser has to know
a family.

Letters: H query heads, H_kv key and value heads, d head width.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

Part = Literal["language", "connector", "vision"]

Feed = Literal["attention_input", "attention_output", "mlp_input", "mlp_output", "connector_1", "connector_2"]
"""Which input of a block: what q, k and v read; what the output projection reads; what the first matrices of the
feed-forward read; what its last matrix reads; what the connector's first and second matrix read."""


@dataclass(frozen=True, slots=True)
class Reader:
    """The linears of a block that read one and the same input.

    Attributes:
        feed: which input it is.
        linears: paths of the linears; q, k, v in this order, or one fused qkv; gate, up in this order.
        norm: path of the norm that writes this input and nothing else, channel for channel, so that a scale per
            channel can be folded into its weight (and bias); None where there is no such norm.
        scaled_by: path of a linear whose output rows may take a scale per channel of this input (the up projection in
            front of down: what lies between, a product with the activated gate, lets a factor pass); None otherwise.
    """

    feed: Feed
    linears: tuple[str, ...]
    norm: str | None = None
    scaled_by: str | None = None


@dataclass(frozen=True, slots=True)
class Heads:
    """The attention of a block.

    Attributes:
        path: of the attention module; the quantiser of its cached keys and values becomes its child `kv_quantizer`.
        count: H.
        kv_count: H_kv.
        width: d.
        value: path of the linear that makes values; the fused qkv where there is one.
        value_rows: [start, stop) of the values among that linear's output rows.
        output: path of the output projection.
        cached: whether keys and values are kept for later tokens (decoder layers); vision blocks keep none.
    """

    path: str
    count: int
    kv_count: int
    width: int
    value: str
    value_rows: tuple[int, int]
    output: str
    cached: bool


@dataclass(frozen=True, slots=True)
class Block:
    """One block: a decoder layer, a layer of the vision tower, or the connector.

    Attributes:
        path: of the block inside the Hugging Face module.
        part: which part of the model it belongs to.
        index: its number within the part, from 0.
        readers: its inputs, in the order in which they are computed.
        heads: its attention; None for a connector.
    """

    path: str
    part: Part
    index: int
    readers: tuple[Reader, ...]
    heads: Heads | None = None

    @property
    def linears(self) -> Iterator[str]:
        """Paths of all its linears, in order."""
        return (path for reader in self.readers for path in reader.linears)

    def reader(self, feed: Feed) -> Reader:
        """Return the linears that read this input; raises KeyError where the block has no such input."""
        for reader in self.readers:
            if reader.feed == feed:
                return reader
        raise KeyError(f"block '{self.path}' has no input '{feed}'")
