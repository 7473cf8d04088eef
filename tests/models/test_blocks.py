"""Every family's description of its blocks, held against what its modules do when they run."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from steadyvlm.engine import Request, generate
from steadyvlm.models.llava import Llava
from steadyvlm.quantization.structure import Block
from tiny import make_image, make_image_processor, make_module, make_tokenizer
from tiny_families import make_family

PARTS = ("language", "connector", "vision")
KINDS = ("llava", "llava/mistral", "llava_next", "llava_next/qwen2", "qwen2_vl", "qwen2_5_vl")


def make_model(text: str = "llama", **options: Any) -> Llava:
    return Llava(make_module(text, **options), make_tokenizer(), make_image_processor(), name="tiny")


def fresh(kind: str) -> Any:
    name, _, text = kind.partition("/")
    return make_model(text or "llama") if name == "llava" else make_family(kind)


def inputs_while_answering(model: Any) -> dict[str, Tensor]:
    """What every linear read the last time it ran."""
    read: dict[str, Tensor] = {}
    for path, module in model.module.named_modules():
        if isinstance(module, nn.Linear):
            module.register_forward_pre_hook(lambda _, args, path=path: read.update({path: args[0].clone()}))
    generate(model, [Request((make_image(3),), "what colour?", 1)], max_new_tokens=1)
    return read


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("parts", [PARTS, ("language",), ("vision", "connector"), ()])
def test_blocks_name_every_linear_once_and_no_other(kind: str, parts: tuple[str, ...]) -> None:
    model = fresh(kind)
    named = [path for block in model.blocks(parts) for path in block.linears]
    assert len(named) == len(set(named))
    assert set(named) == set(model.linears(parts))


@pytest.mark.parametrize("kind", KINDS)
def test_blocks_stand_in_order_and_their_paths_exist(kind: str) -> None:
    model = fresh(kind)
    blocks: list[Block] = model.blocks(("vision", "connector", "language"))
    parts = [block.part for block in blocks]
    assert parts == sorted(parts, key=("language", "vision", "connector").index)
    for part in PARTS:
        own = [block.index for block in blocks if block.part == part]
        assert own == list(range(len(own)))
    for block in blocks:
        paths = {block.path, *block.linears, *(reader.norm for reader in block.readers if reader.norm)}
        if block.heads is not None:
            paths |= {block.heads.path, block.heads.value, block.heads.output}
        for path in paths:
            assert path.startswith(block.path)
            model.module.get_submodule(path)


@pytest.mark.parametrize("kind", KINDS)
def test_linears_of_one_reader_read_one_input_of_their_norm(kind: str) -> None:
    model = fresh(kind)
    read = inputs_while_answering(model)
    for block in model.blocks(PARTS):
        inputs = [[read[path] for path in reader.linears] for reader in block.readers]
        for own in inputs:
            # the last layer asks with its last row only
            assert all(torch.equal(item.flatten(0, -2)[-1], own[0].flatten(0, -2)[-1]) for item in own)
        for reader, own in zip(block.readers, inputs, strict=True):
            if reader.norm is not None:
                weight: Any = model.module.get_submodule(reader.norm).weight
                assert weight.shape == (own[0].shape[-1],)


@pytest.mark.parametrize("kind", KINDS)
def test_a_factor_in_the_norm_or_in_the_rows_before_passes_to_exactly_that_input(kind: str) -> None:
    """Folding c into what is named as its place multiplies the reader's input by c and changes no earlier input."""
    for number, feed in enumerate(("attention_input", "mlp_input", "mlp_output")):
        model, changed = fresh(kind), fresh(kind)
        blocks = [block for block in changed.blocks(PARTS) if any(reader.feed == feed for reader in block.readers)]
        block = blocks[-1]
        reader = block.reader(feed)
        place = reader.norm or reader.scaled_by
        if place is None:
            assert feed == "mlp_output"
            continue
        module: Any = changed.module.get_submodule(place)
        factor = torch.linspace(0.5, 2.0, module.weight.shape[0]) + 0.01 * number
        with torch.no_grad():
            module.weight.mul_(factor if module.weight.dim() == 1 else factor[:, None])
            if getattr(module, "bias", None) is not None:
                module.bias.mul_(factor)
        before = inputs_while_answering(model)
        after = inputs_while_answering(changed)
        for path in reader.linears:
            assert torch.allclose(after[path], before[path] * factor, atol=1e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_values_are_where_heads_say(kind: str) -> None:
    model = fresh(kind)
    for block in model.blocks(("language", "vision")):
        heads = block.heads
        assert heads is not None
        start, stop = heads.value_rows
        value, output = (model.module.get_submodule(path) for path in (heads.value, heads.output))
        assert stop - start == heads.kv_count * heads.width
        assert stop == value.out_features
        assert output.in_features == heads.count * heads.width
        assert heads.cached == (block.part == "language")
        with torch.no_grad():  # values of zero leave nothing for the output projection, in whatever rows they are
            value.weight[start:stop] = 0
            if value.bias is not None:
                value.bias[start:stop] = 0
    read = inputs_while_answering(model)
    for block in model.blocks(("language", "vision")):
        assert not read[block.reader("attention_output").linears[0]].any()


def test_blocks_past_the_feature_layer_take_no_part() -> None:
    assert len(make_model(layers_read=-2).blocks(("vision",))) == 2
    assert len(make_model(layers_read=(1, 3)).blocks(("vision",))) == 3
    assert make_model(layers_read=0).blocks(("vision",)) == []
