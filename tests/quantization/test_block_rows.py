"""The rows that quantise blocks without seeing an example: round-to-nearest and Hadamard rotation."""

from __future__ import annotations

import copy
import dataclasses
from typing import Any

import pytest
import torch
from torch import nn

from block_cases import BlockCase, block_cases
from steadyvlm.errors import InvalidOption
from steadyvlm.quantization.hadamard_w4a4 import HadamardW4A4, norm_absorbed
from steadyvlm.quantization.rtn_w4a4 import RTNW4A4
from steadyvlm.quantization.state import Clip
from tiny import tiny_llava
from tiny_families import tiny_family

CASES = pytest.mark.parametrize("case", block_cases(), ids=str)
ROWS = pytest.mark.parametrize("row", [RTNW4A4, HadamardW4A4])
FINE: dict[str, Any] = {"weight_bits": 8, "activation_bits": 16, "kv_bits": 16, "transform_dtype": "float32"}


def relative(found: torch.Tensor, exact: torch.Tensor) -> float:
    return float((found - exact).norm() / exact.norm())


@CASES
@ROWS
def test_without_rounding_a_block_stays_what_it_was(row: Any, case: BlockCase) -> None:
    root = copy.deepcopy(case.root)
    row(**FINE).quantize_blocks([case.block], root)
    assert relative(case.original(root), case.original()) < 0.04


def test_round_to_nearest_decides_clips_and_nothing_else() -> None:
    case = block_cases()[0]
    state = RTNW4A4(activation_clip=0.9, kv_clip=0.8).state(case.block)
    assert state.keys is None
    assert state.values is None
    assert (state.key_clip, state.value_clip) == (Clip(0.8, 0.8), Clip(0.8, 0.8))
    assert all(reader.transform is None for reader in state.readers.values())
    assert {reader.activation for reader in state.readers.values()} == {Clip(0.9, 0.9)}


def test_published_clips_are_the_defaults_of_the_rotation() -> None:
    case = block_cases()[0]
    state = HadamardW4A4().state(case.block, case.root)
    assert state.key_clip == Clip(0.95, 0.95)
    assert {reader.activation for reader in state.readers.values()} == {Clip(0.9, 0.9)}


@CASES
def test_rotations_are_orthogonal_and_follow_the_seed(case: BlockCase) -> None:
    first, again, other = (HadamardW4A4(seed=seed).state(case.block, case.root) for seed in (0, 0, 1))
    matrices, changed = [], False
    for feed, reader in first.readers.items():
        pairs = [state.readers[feed].transform for state in (first, again, other)]
        assert all(pair is not None for pair in pairs)
        assert reader.transform is not None
        matrices += [reader.transform.left, reader.transform.right]
        assert torch.equal(reader.transform.left, pairs[1].left)  # type: ignore[union-attr]
        changed |= not torch.equal(reader.transform.right, pairs[2].right)  # type: ignore[union-attr]
    matrices += [matrix for matrix in (first.keys, first.values) if matrix is not None]
    assert changed
    for matrix in matrices:
        assert matrix.dtype == torch.float64
        assert torch.allclose(matrix @ matrix.T, torch.eye(len(matrix), dtype=torch.float64))
    heads = case.block.heads
    assert (first.keys is not None) == (heads is not None and heads.cached)
    assert (first.values is not None) == (heads is not None)
    if heads is not None:
        output = first.readers["attention_output"].transform
        assert output is not None
        assert first.values is output.right


def test_the_norm_in_front_is_left_with_magnitude_one() -> None:
    model = tiny_llava().copy()
    (block, *_) = model.blocks(("vision",))
    before: Any = model.module.get_submodule(f"{block.path}.layer_norm1")
    with torch.no_grad():
        before.weight[0], before.weight[1] = 0.0, -2.0
    bias = before.bias.detach().clone()
    HadamardW4A4(**FINE).quantize_blocks([block], model.module)
    after: Any = model.module.get_submodule(f"{block.path}.layer_norm1")
    assert after.norm.weight[0] == 0
    assert after.norm.weight[1] == -1
    assert torch.allclose(after.norm.weight[1:].abs(), torch.ones(15))
    assert after.norm.bias[1] == pytest.approx(float(bias[1]) / 2)


def test_a_merger_gives_its_norm_to_the_first_linear() -> None:
    model = tiny_family("qwen2_5_vl").copy()
    (block,) = model.blocks(("connector",))
    old = model.module.get_submodule(block.path).ln_q.weight.detach().clone()
    scale = norm_absorbed(block, block.reader("connector_1"), model.module)
    assert scale is not None
    assert torch.allclose(scale, (1 / old.double().abs()).repeat(4))
    assert norm_absorbed(block, block.reader("connector_2"), model.module) is None
    HadamardW4A4().quantize_blocks([block], model.module)
    new: Any = model.module.get_submodule(block.path).ln_q
    assert torch.allclose(new.weight, old.sign())


def test_a_norm_without_weights_has_none_to_give() -> None:
    model = tiny_llava().copy()
    (block, *_) = model.blocks(("vision",))
    model.module.set_submodule(f"{block.path}.layer_norm1", nn.LayerNorm(16, elementwise_affine=False))
    assert norm_absorbed(block, block.readers[0], model.module) is None


@ROWS
def test_a_report_accounts_for_every_linear(row: Any) -> None:
    for model in (tiny_llava().copy(), tiny_family("qwen2_vl").copy()):
        quantizer = row()
        quantizer.check_available()
        blocks = model.blocks(quantizer.modules)
        report = quantizer.quantize_blocks(blocks, model.module)
        assert [layer.name for layer in report.layers] == [path for block in blocks for path in block.linears]
        assert report.quantizer in ("rtn_w4a4", "hadamard_w4a4")
        assert "Activations have 4 bits" in report.notes[0]
        assert not report.simulated


@ROWS
@pytest.mark.parametrize("name", ["activation_clip", "kv_clip"])
def test_clips_outside_their_range_are_refused(row: Any, name: str) -> None:
    with pytest.raises(InvalidOption, match=f"{name}=0"):
        row(**{name: 0})
    assert dataclasses.replace(row(), **{name: 1}) == row(**{name: 1.0})


def test_a_seed_is_a_whole_number() -> None:
    with pytest.raises(InvalidOption, match=r"hadamard_w4a4: seed=0\.5"):
        HadamardW4A4(seed=0.5)  # type: ignore[arg-type]


def test_rotation_loses_less_where_a_channel_is_large() -> None:
    lost = {}
    for row in (RTNW4A4, HadamardW4A4):
        errors = []
        for case in block_cases()[:5]:
            root = copy.deepcopy(case.root)
            row().quantize_blocks([case.block], root)  # type: ignore[attr-defined]
            errors.append(relative(case.original(root), case.original()))
        lost[row.__name__] = sum(errors)
    assert lost["HadamardW4A4"] < 0.9 * lost["RTNW4A4"]
