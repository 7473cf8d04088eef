"""What numbers a checkpoint is made of: every matrix a quantiser may pack, and the rest, counted exactly.

The sizes of arithmetic (`sizes.ModelSizes`) leave out what costs no multiplication: positions, norms, biases, spare
rows of the embedding. `Details` adds those, and `inventory` lists the whole checkpoint.

Source: transformers `modeling_llava.py`, `modeling_llava_next.py`, `modeling_clip.py`, `modeling_qwen2_vl.py`,
`modeling_qwen2_5_vl.py`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from steadyvlm.cost.sizes import ClipSizes, DecoderSizes, ModelSizes, QwenVisionSizes, published

PARTS = ("language", "connector", "vision")
"""Parts whose matrices may be packed; embeddings and the head belong to none."""


@dataclass(frozen=True, slots=True)
class Details:
    """What a checkpoint holds beside the sizes of its arithmetic.

    Attributes:
        rows: of the token embedding, spare ones included; None for one per entry of the vocabulary.
        tied: the output head is the embedding itself.
        attention_biases: queries, keys and values of the decoder have biases.
        positions: learned places of a CLIP tower, the class row's included.
        tower_heads: of a Qwen tower's attention (a CLIP tower's are in its sizes).
        newlines: vectors that end a row of tiles (LLaVA-NeXT has one).
    """

    rows: int | None = None
    tied: bool = False
    attention_biases: bool = False
    positions: int = 577
    tower_heads: int = 16
    newlines: int = 0


@dataclass(frozen=True, slots=True)
class Matrix:
    """One matrix of a block, as often as there are blocks.

    Attributes:
        part: which part it belongs to.
        feed: which input of its block it reads, in the words of `quantization.structure`.
        outputs, inputs: its shape.
        copies: blocks that hold one.
        bias: whether it has one number more per output.
    """

    part: str
    feed: str
    outputs: int
    inputs: int
    copies: int = 1
    bias: bool = False

    @property
    def weights(self) -> int:
        """Numbers in all copies, biases left out."""
        return self.outputs * self.inputs * self.copies

    @property
    def biases(self) -> int:
        """Biases of all copies."""
        return self.outputs * self.copies if self.bias else 0


@dataclass(frozen=True, slots=True)
class Heads:
    """Attention of one part: `copies` layers of `count` heads of `width`; `cached` where keys are kept."""

    part: str
    count: int
    width: int
    copies: int
    cached: bool


@dataclass(frozen=True, slots=True)
class Inventory:
    """A whole checkpoint.

    Attributes:
        matrices: what a quantiser may pack.
        heads: attention, by part.
        head: the output head [rows, width]; None when it is the embedding.
        other: all other numbers by group: "embedding", "language", "vision", "connector", biases included.
    """

    matrices: tuple[Matrix, ...]
    heads: tuple[Heads, ...]
    head: Matrix | None
    other: Mapping[str, int]

    @property
    def groups(self) -> dict[str, int]:
        """Numbers by group, in the order in which papers list them.

        >>> inventory(published("qwen2.5-vl-7b"), details("qwen2.5-vl-7b")).groups["vision other"]
        2012160
        """
        linear = {part: sum(matrix.weights for matrix in self.matrices if matrix.part == part) for part in PARTS}
        return {
            "language linears": linear["language"],
            "embedding and head": self.other["embedding"] + (self.head.weights if self.head else 0),
            "language other": self.other["language"],
            "vision linears": linear["vision"],
            "vision other": self.other["vision"],
            "connector linears": linear["connector"],
            "connector other": self.other["connector"],
        }

    @property
    def parameters(self) -> int:
        """All numbers of the checkpoint."""
        return sum(self.groups.values())


def inventory(sizes: ModelSizes, found: Details | None = None) -> Inventory:
    """Return every number of a checkpoint of these sizes.

    >>> inventory(published("llava-1.5-7b"), details("llava-1.5-7b")).parameters
    7063427072
    """
    found = found or Details()
    decoder, vision = sizes.decoder, sizes.vision
    rows = decoder.vocabulary if found.rows is None else found.rows
    language = _decoder_matrices(decoder, found.attention_biases)
    tower = _clip_matrices(vision) if isinstance(vision, ClipSizes) else _qwen_matrices(vision)
    connector = _connector_matrices(sizes)
    other = {
        "embedding": rows * decoder.width,
        "language": (2 * decoder.layers + 1) * decoder.width + sum(matrix.biases for matrix in language),
        "vision": _tower_rest(vision, found) + sum(matrix.biases for matrix in tower),
        "connector": sum(matrix.biases for matrix in connector) + found.newlines * decoder.width,
    }
    tower_heads = vision.heads if isinstance(vision, ClipSizes) else found.tower_heads
    heads = (
        Heads("language", decoder.heads, decoder.head_width, decoder.layers, cached=True),
        Heads("vision", tower_heads, vision.width // tower_heads, vision.layers, cached=False),
    )
    head = None if found.tied else Matrix("head", "head", rows, decoder.width)
    return Inventory((*language, *connector, *tower), heads, head, other)


def details(name: str) -> Details:
    """Return what a published checkpoint holds beside its sizes; the names are those of `sizes.PUBLISHED`.

    Raises:
        UnknownName: with the closest known name.
    """
    published(name)
    return _PUBLISHED[name]


_PUBLISHED: Mapping[str, Details] = {
    "llava-1.5-7b": Details(rows=32064),
    "llava-1.5-13b": Details(rows=32064),
    "llava-next-vicuna-7b": Details(rows=32064, newlines=1),
    "qwen2-vl-7b": Details(attention_biases=True),
    "qwen2.5-vl-7b": Details(attention_biases=True),
}


def _decoder_matrices(sizes: DecoderSizes, biases: bool) -> tuple[Matrix, ...]:
    rows = (
        ("attention_input", sizes.query_width, sizes.width, biases),
        ("attention_input", sizes.kv_width, sizes.width, biases),
        ("attention_input", sizes.kv_width, sizes.width, biases),
        ("attention_output", sizes.width, sizes.query_width, False),
        ("mlp_input", sizes.mlp_width, sizes.width, False),
        ("mlp_input", sizes.mlp_width, sizes.width, False),
        ("mlp_output", sizes.width, sizes.mlp_width, False),
    )
    return tuple(Matrix("language", feed, out, width, sizes.layers, bias) for feed, out, width, bias in rows)


def _clip_matrices(sizes: ClipSizes) -> tuple[Matrix, ...]:
    rows = (
        ("attention_input", sizes.width, sizes.width),
        ("attention_input", sizes.width, sizes.width),
        ("attention_input", sizes.width, sizes.width),
        ("attention_output", sizes.width, sizes.width),
        ("mlp_input", sizes.mlp_width, sizes.width),
        ("mlp_output", sizes.width, sizes.mlp_width),
    )
    return tuple(Matrix("vision", feed, out, width, sizes.layers, bias=True) for feed, out, width in rows)


def _qwen_matrices(sizes: QwenVisionSizes) -> tuple[Matrix, ...]:
    wide = [("mlp_input", sizes.mlp_width, sizes.width)] * (sizes.mlp_matrices - 1)
    rows = (
        ("attention_input", 3 * sizes.width, sizes.width),
        ("attention_output", sizes.width, sizes.width),
        *wide,
        ("mlp_output", sizes.width, sizes.mlp_width),
    )
    return tuple(Matrix("vision", feed, out, width, sizes.layers, bias=True) for feed, out, width in rows)


def _connector_matrices(sizes: ModelSizes) -> tuple[Matrix, ...]:
    vision = sizes.vision
    if isinstance(vision, QwenVisionSizes):
        wide = vision.width * vision.merge**2
        shapes = ((wide, wide), (vision.out_width, wide))
    else:
        assert sizes.connector is not None, "a CLIP tower is followed by a connector"
        shapes = ((sizes.connector.hidden, sizes.connector.inputs), (sizes.connector.outputs, sizes.connector.hidden))
    return tuple(
        Matrix("connector", f"connector_{number}", out, width, bias=True)
        for number, (out, width) in enumerate(shapes, start=1)
    )


def _tower_rest(sizes: ClipSizes | QwenVisionSizes, found: Details) -> int:
    """Return the patch matrix, places and norms of a tower."""
    patches = sizes.patch_inputs * sizes.width
    if isinstance(sizes, ClipSizes):  # class row, places, norms before and after, two norms per layer; all with biases
        return patches + sizes.width * (1 + found.positions + 4 + 4 * sizes.layers)
    if sizes.mlp_matrices == 3:  # RMS norms: a weight each
        return patches + sizes.width * (2 * sizes.layers + 1)
    return patches + 2 * sizes.width * (2 * sizes.layers + 1)
