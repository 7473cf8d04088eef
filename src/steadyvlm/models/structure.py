"""Where the blocks of each family lie, and which linears in them read one and the same input.

A decoder layer, a gated and a plain vision layer and a connector are each described once; families choose among them
and say where theirs begin. Only paths and sizes are read off the module, so a quantised model describes itself as the
one it was made from.

Source: transformers `modeling_llama.py`, `modeling_clip.py`, `modeling_qwen2_vl.py`, `modeling_qwen2_5_vl.py`.
"""

from __future__ import annotations

from typing import Any

from steadyvlm.quantization.structure import Block, Heads, Reader


def decoder_block(index: int, layer: Any) -> Block:
    """Return the description of a Llama-shaped decoder layer."""
    path = f"model.language_model.layers.{index}"
    attention = layer.self_attn
    config = attention.config
    heads = Heads(
        path=f"{path}.self_attn",
        count=config.num_attention_heads,
        kv_count=config.num_key_value_heads,
        width=attention.head_dim,
        value=f"{path}.self_attn.v_proj",
        value_rows=(0, config.num_key_value_heads * attention.head_dim),
        output=f"{path}.self_attn.o_proj",
        cached=True,
    )
    readers = (
        Reader(
            "attention_input",
            tuple(f"{path}.self_attn.{name}_proj" for name in "qkv"),
            norm=f"{path}.input_layernorm",
        ),
        Reader("attention_output", (heads.output,)),
        *_gated(f"{path}.mlp", norm=f"{path}.post_attention_layernorm"),
    )
    return Block(path, "language", index, readers, heads)


def clip_block(path: str, index: int, layer: Any) -> Block:
    """Return the description of a CLIP encoder layer."""
    attention = layer.self_attn
    heads = Heads(
        path=f"{path}.self_attn",
        count=attention.num_heads,
        kv_count=attention.num_heads,
        width=attention.head_dim,
        value=f"{path}.self_attn.v_proj",
        value_rows=(0, attention.num_heads * attention.head_dim),
        output=f"{path}.self_attn.out_proj",
        cached=False,
    )
    readers = (
        Reader("attention_input", tuple(f"{path}.self_attn.{name}_proj" for name in "qkv"), norm=f"{path}.layer_norm1"),
        Reader("attention_output", (heads.output,)),
        *_plain(f"{path}.mlp", norm=f"{path}.layer_norm2"),
    )
    return Block(path, "vision", index, readers, heads)


def qwen_tower_block(path: str, index: int, block: Any) -> Block:
    """Return the description of a block of a Qwen2-VL (plain feed-forward) or Qwen2.5-VL (gated) tower."""
    count, width = block.attn.num_heads, block.attn.head_dim
    inner = count * width
    heads = Heads(
        path=f"{path}.attn",
        count=count,
        kv_count=count,
        width=width,
        value=f"{path}.attn.qkv",
        value_rows=(2 * inner, 3 * inner),
        output=f"{path}.attn.proj",
        cached=False,
    )
    feed_forward = _gated if hasattr(block.mlp, "gate_proj") else _plain
    readers = (
        Reader("attention_input", (heads.value,), norm=f"{path}.norm1"),
        Reader("attention_output", (heads.output,)),
        *feed_forward(f"{path}.mlp", norm=f"{path}.norm2"),
    )
    return Block(path, "vision", index, readers, heads)


def connector_block(path: str, first: str, second: str) -> Block:
    """Return the description of two linears with an activation between them.

    What stands in front of the first is not theirs alone: CLIP's features, or a norm whose rows are joined by fours.
    """
    readers = (Reader("connector_1", (f"{path}.{first}",)), Reader("connector_2", (f"{path}.{second}",)))
    return Block(path, "connector", 0, readers)


def _gated(path: str, *, norm: str) -> tuple[Reader, Reader]:
    """A product of an activated gate and an up projection: a factor on rows of up passes through to down."""
    up, down = f"{path}.up_proj", f"{path}.down_proj"
    return Reader("mlp_input", (f"{path}.gate_proj", up), norm=norm), Reader("mlp_output", (down,), scaled_by=up)


def _plain(path: str, *, norm: str) -> tuple[Reader, Reader]:
    """Two linears with an activation between them, through which no factor passes."""
    return Reader("mlp_input", (f"{path}.fc1",), norm=norm), Reader("mlp_output", (f"{path}.fc2",))
