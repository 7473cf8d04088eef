from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from safetensors.torch import load, save
from torch import Tensor

from steadyvlm.errors import InvalidOption
from steadyvlm.quantization.integer import dequantize_groups, quantize_groups
from steadyvlm.quantization.kv import KeyValueQuantizer, PackedRows
from steadyvlm.quantization.state import Clip


def numbers(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def matrix(width: int) -> Tensor:
    return torch.eye(width) + 0.3 * numbers(width, width, seed=9)


def assert_same(left: PackedRows, right: PackedRows) -> None:
    assert (left.width, left.bits) == (right.width, right.bits)
    for name in ("codes", "scale", "zero"):
        assert torch.equal(getattr(left, name), getattr(right, name)), name


@pytest.mark.parametrize("bits", [2, 3, 4, 5, 8])
@pytest.mark.parametrize("width", [1, 7, 8])
def test_rows_come_back_as_the_group_quantiser_makes_them(bits: int, width: int) -> None:
    rows, clip = numbers(2, 3, 5, width), Clip(0.8, 0.9)
    packed = PackedRows.encode(rows, bits, clip)
    codes, scale, zero = quantize_groups(rows, bits, clip)
    assert torch.equal(packed.decode(torch.float32), dequantize_groups(codes, scale, zero))
    assert packed.decode(torch.bfloat16).dtype == torch.bfloat16
    assert packed.codes.shape == (2, 3, 5, (width + 1) // 2 if bits <= 4 else width)
    assert (packed.scale.dtype, packed.zero.dtype) == (torch.float16, torch.uint8)
    assert (packed.scale.shape, packed.tokens) == ((2, 3, 5, 1), 5)


def test_each_token_and_head_has_its_own_scale() -> None:
    rows = numbers(1, 2, 3, 8)
    louder = rows.clone()
    louder[0, 1, 2] *= 1000
    before, after = PackedRows.encode(rows), PackedRows.encode(louder)
    changed = (before.scale != after.scale).flatten().tolist()
    assert changed == [False] * 5 + [True]
    assert torch.equal(before.decode(torch.float32)[0, 0], after.decode(torch.float32)[0, 0])


@pytest.mark.parametrize("bits", [4, 8])
def test_dropping_tokens_before_or_after_rounding_is_the_same(bits: int) -> None:
    rows = numbers(2, 3, 10, 7)
    columns = torch.tensor([[0, 3, 4, 9], [9, 1, 2, 2]])
    picked = torch.stack([rows[index][:, columns[index]] for index in range(2)])
    assert_same(PackedRows.encode(rows, bits).gather(columns), PackedRows.encode(picked, bits))


@pytest.mark.parametrize("bits", [4, 8])
def test_dropping_sequences_and_appending_tokens_commute_with_rounding_too(bits: int) -> None:
    rows, more = numbers(3, 2, 4, 6), numbers(3, 2, 1, 6, seed=1)
    packed = PackedRows.encode(rows, bits)
    index = torch.tensor([2, 0])
    assert_same(packed.rows(index), PackedRows.encode(rows[index], bits))
    both = packed.append(PackedRows.encode(more, bits))
    assert_same(both, PackedRows.encode(torch.cat((rows, more), dim=2), bits))
    assert packed.tokens == 4  # the old one is as it was


def test_nothing_left_is_fine() -> None:
    packed = PackedRows.encode(numbers(2, 2, 3, 6))
    none = packed.gather(torch.empty(2, 0, dtype=torch.int64))
    assert none.decode(torch.float32).shape == (2, 2, 0, 6)
    assert_same(none.append(packed), packed)
    assert packed.rows(torch.tensor([], dtype=torch.int64)).nbytes == 0


def test_bytes_are_half_a_byte_per_entry_and_three_per_group() -> None:
    heads, tokens, width = 4, 636, 128  # Qwen2.5-VL-7B
    packed = PackedRows.encode(numbers(1, heads, tokens, width))
    assert packed.nbytes == tokens * heads * (width // 2 + 3)
    held = sum(part.untyped_storage().nbytes() for part in (packed.codes, packed.scale, packed.zero))
    assert held == packed.nbytes


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_turned_queries_and_keys_have_the_products_of_the_plain_ones(dtype: torch.dtype) -> None:
    quantizer = KeyValueQuantizer(8, transform=matrix(8))
    queries, keys = numbers(1, 4, 3, 8, seed=2).to(dtype), numbers(1, 4, 5, 8, seed=3).to(dtype)
    turned = quantizer.turn_queries(queries).double() @ quantizer.turn_keys(keys).double().mT
    plain = queries.double() @ keys.double().mT
    assert quantizer.turn_queries(queries).dtype == dtype
    torch.testing.assert_close(turned, plain, rtol=0, atol=60 * torch.finfo(dtype).eps)
    assert not torch.allclose(quantizer.turn_keys(keys), keys)


def test_a_transform_is_applied_in_its_own_dtype_where_that_is_wider() -> None:
    transform = matrix(8)
    keys = numbers(1, 1, 5, 8).to(torch.bfloat16)
    turned = KeyValueQuantizer(8, transform=transform).turn_keys(keys)
    assert torch.equal(turned, (keys.float() @ transform).to(torch.bfloat16))
    assert not torch.equal(turned, keys @ transform.to(torch.bfloat16))


@pytest.mark.parametrize("dtype", [torch.float16, torch.float64])
def test_the_inverse_belongs_to_the_stored_transform(dtype: torch.dtype) -> None:
    quantizer = KeyValueQuantizer(8, transform=matrix(8).to(dtype))
    assert quantizer.transform is not None
    assert quantizer.inverse_transpose is not None
    assert quantizer.inverse_transpose.dtype == dtype
    product = quantizer.transform.double() @ quantizer.inverse_transpose.double().mT
    torch.testing.assert_close(product, torch.eye(8, dtype=torch.float64), rtol=0, atol=20 * torch.finfo(dtype).eps)


def test_without_a_transform_nothing_is_turned() -> None:
    quantizer = KeyValueQuantizer(8)
    rows = numbers(1, 2, 3, 8)
    assert quantizer.turn_queries(rows) is rows
    assert quantizer.turn_keys(rows) is rows
    assert not quantizer.state_dict()


def test_keys_are_turned_then_clipped_and_rounded_and_values_are_not_turned() -> None:
    quantizer = KeyValueQuantizer(8, transform=matrix(8), bits=3, key_clip=Clip(0.7, 0.8), value_clip=Clip(0.9, 0.6))
    rows = numbers(2, 2, 3, 8, seed=4)
    keys, values = quantizer.encode_keys(rows), quantizer.encode_values(rows)
    assert_same(keys, PackedRows.encode(quantizer.turn_keys(rows), 3, Clip(0.7, 0.8)))
    assert_same(values, PackedRows.encode(rows, 3, Clip(0.9, 0.6)))
    assert torch.equal(quantizer.decode(values, torch.float32), values.decode(torch.float32))


def test_a_rounded_transformed_key_still_gives_nearly_the_same_products() -> None:
    quantizer = KeyValueQuantizer(64, transform=matrix(64), bits=8)
    queries, keys = numbers(1, 1, 5, 64, seed=5), numbers(1, 1, 9, 64, seed=6)
    rounded = quantizer.decode(quantizer.encode_keys(keys), torch.float32)
    products = quantizer.turn_queries(queries) @ rounded.mT
    error = (products - queries @ keys.mT).norm() / (queries @ keys.mT).norm()
    assert error < 0.05


@pytest.mark.parametrize("device", ["cpu", "meta"])
@pytest.mark.parametrize("transform", [True, False])
def test_a_state_dict_makes_an_empty_one_whole(transform: bool, device: str) -> None:
    clips: dict[str, Any] = {"key_clip": Clip(0.9, 0.8), "value_clip": Clip(0.7, 0.6)}
    full = KeyValueQuantizer(6, transform=matrix(6) if transform else None, in_prefill=False, **clips)
    blank = KeyValueQuantizer.empty(6, transform, in_prefill=False, dtype=torch.float32, device=device, **clips)
    blank.load_state_dict(load(save(full.state_dict())), assign=device == "meta")
    rows = numbers(1, 2, 3, 6)
    assert_same(blank.encode_keys(rows), full.encode_keys(rows))
    assert torch.equal(blank.turn_queries(rows), full.turn_queries(rows))
    assert repr(blank) == repr(full) == f"KeyValueQuantizer(width=6, bits=4, transform={transform}, in_prefill=False)"
    with pytest.raises(RuntimeError, match="transform"):
        KeyValueQuantizer.empty(6, not transform).load_state_dict(full.state_dict())


def test_casting_a_model_leaves_the_transform_alone() -> None:
    quantizer = KeyValueQuantizer(6, transform=matrix(6))
    rows = numbers(1, 2, 3, 6).to(torch.bfloat16)
    before = quantizer.turn_keys(rows)
    assert torch.equal(copy.deepcopy(quantizer).to(torch.bfloat16).turn_keys(rows), before)


def test_the_transform_it_was_made_from_is_not_shared() -> None:
    given = matrix(4)
    quantizer = KeyValueQuantizer(4, transform=given)
    given.zero_()
    assert quantizer.turn_keys(torch.ones(1, 4)).abs().sum() > 0


@pytest.mark.parametrize("bits", [1, 9, 16])
def test_bits_outside_their_range_are_refused(bits: int) -> None:
    with pytest.raises(InvalidOption, match=rf"kv_bits={bits} is not allowed"):
        KeyValueQuantizer(4, bits=bits)


@pytest.mark.parametrize("side", ["key_clip", "value_clip"])
def test_shares_outside_their_range_are_refused(side: str) -> None:
    clip: dict[str, Any] = {side: Clip(1.2, 1.0)}
    with pytest.raises(InvalidOption, match="above 0, up to 1"):
        KeyValueQuantizer(4, **clip)


@pytest.mark.parametrize(
    ("transform", "message"),
    [
        (torch.eye(5), r"\[4, 4\], got \(5, 5\)"),
        (torch.ones(4, 4), "cannot be inverted"),
        (torch.full((4, 4), float("nan")), "cannot be inverted"),
        (torch.eye(4).half() * 2e-7, "cannot be inverted"),
    ],
)
def test_transforms_that_cannot_be_undone_are_refused(transform: Tensor, message: str) -> None:
    with pytest.raises(InvalidOption, match=message):
        KeyValueQuantizer(4, transform=transform)
