"""Section 1 and table 5.5 of the specification, and the published sizes, from nothing but sizes."""

from __future__ import annotations

import pytest

from steadyvlm.cost import published
from steadyvlm.cost.checkpoint_size import (
    CheckpointSize,
    Packing,
    cache_bytes_per_token,
    checkpoint_size,
    factors,
    transform_numbers,
)
from steadyvlm.cost.inventory import Details, details, inventory
from steadyvlm.errors import InvalidOption, UnknownName

LLAVA = inventory(published("llava-1.5-7b"), details("llava-1.5-7b"))
QWEN = inventory(published("qwen2.5-vl-7b"), details("qwen2.5-vl-7b"))
ALL = ("language", "connector", "vision")


def test_parameters_by_group() -> None:
    assert list(LLAVA.groups.values()) == [
        *(6_476_005_376, 262_668_288, 266_240, 301_989_888, 1_517_568, 20_971_520, 8_192),
    ]
    assert list(QWEN.groups.values()) == [
        *(6_525_288_448, 1_089_994_752, 333_312, 629_964_800, 2_012_160, 44_564_480, 8_704),
    ]
    assert (LLAVA.parameters, QWEN.parameters) == (7_063_427_072, 8_292_166_656)


@pytest.mark.parametrize(
    ("packing", "llava", "qwen"),
    [
        (None, 14.127, 16.584),
        (Packing(parts=("language",), transforms="none"), 4.416, 6.799),
        (Packing(), 3.969, 5.861),
        (Packing(parts=ALL, transforms="none"), 3.932, 5.788),
        (Packing(parts=ALL), 3.937, 5.794),
        (Packing(parts=ALL, transforms="none", scale_bits=32, zero_bits=32), 3.941, 5.799),
        (Packing(parts=ALL, transforms="none", group=128), 4.035, 5.897),
        (Packing(parts=ALL, transforms="none", head=True), 3.735, 4.971),
    ],
)
def test_every_row_of_the_table(packing: Packing | None, llava: float, qwen: float) -> None:
    assert round(checkpoint_size(LLAVA, packing).gigabytes, 3) == llava
    assert round(checkpoint_size(QWEN, packing).gigabytes, 3) == qwen


def test_the_published_sizes_to_the_byte() -> None:
    assert checkpoint_size(LLAVA, Packing()).total == 3_968_555_264
    assert checkpoint_size(QWEN, Packing()).total == 5_861_287_680
    assert transform_numbers(LLAVA, Packing(parts=("language",))) == 2_366_592
    assert transform_numbers(LLAVA, Packing(parts=("vision",))) == 399_360
    assert transform_numbers(QWEN, Packing(parts=("language",))) == 2_416_512
    assert transform_numbers(QWEN, Packing(parts=("vision",))) == 686_336


def test_transforms_as_they_are_kept() -> None:
    """A scale per channel stays where nothing lets it pass: behind CLIP's activation and in connectors."""
    kept = Packing(parts=("vision",), transforms="flatquant")
    per_block = 2 * (32**2 + 32**2) + 16**2 + 2 * 64**2 + 4096
    assert transform_numbers(LLAVA, kept) == 24 * per_block
    gated = 2 * (32**2 + 40**2) + 16**2 + 38**2 + 90**2
    assert transform_numbers(QWEN, kept) == 32 * gated
    connector = Packing(parts=("connector",), transforms="flatquant")
    assert transform_numbers(LLAVA, connector) == (2 * 32**2 + 1024) + (2 * 64**2 + 4096)
    assert transform_numbers(QWEN, connector) == 2 * (64**2 + 80**2 + 5120)
    assert transform_numbers(LLAVA, Packing(parts=("connector",))) == 0
    plain = inventory(published("qwen2-vl-7b"), details("qwen2-vl-7b"))
    assert transform_numbers(plain, kept) == 32 * (2 * (32**2 + 40**2) + 16**2 + 64**2 + 80**2 + 5120)


def test_blocks_that_never_run_may_stay_as_they_were() -> None:
    whole, without = (checkpoint_size(LLAVA, Packing(transforms="none", vision_layers=n)) for n in (None, 23))
    weights = 4 * 1024**2 + 2 * 1024 * 4096
    assert whole.packed - without.packed == weights // 2
    assert without.floats - whole.floats == 2 * weights
    assert checkpoint_size(LLAVA, Packing(transforms="none", vision_layers=99)) == whole


def test_wide_codes_take_a_byte_and_odd_rows_are_padded() -> None:
    eight = checkpoint_size(LLAVA, Packing(parts=("language",), bits=8, transforms="none"))
    assert eight.packed == 6_476_005_376
    assert str(eight).startswith("7.654 GB: packed 6,476,005,376, scales 2,719,744,")
    assert str(CheckpointSize(1_000_000, 0, 500_000, 0)).startswith("1.500 MB: packed 1,000,000")
    odd = checkpoint_size(inventory(published("llava-1.5-7b"), Details(rows=3)), Packing(head=True))
    assert odd.floats < checkpoint_size(LLAVA, Packing(head=True)).floats


def test_edges_of_the_tower_may_have_other_bits() -> None:
    plain, edged = (checkpoint_size(LLAVA, Packing(transforms=7, vision_edge_bits=bits)) for bits in (None, 8))
    block = 4 * 1024**2 + 2 * 1024 * 4096
    assert edged.packed - plain.packed == 2 * block // 2
    assert (edged.floats, edged.scales, edged.transforms) == (plain.floats, plain.scales, 14)
    one = Packing(vision_layers=1, vision_edge_bits=8, transforms="none")
    alone = (
        checkpoint_size(LLAVA, one).packed - checkpoint_size(LLAVA, Packing(("language",), transforms="none")).packed
    )
    assert alone == block
    assert transform_numbers(LLAVA, Packing(vision_edge_bits=8)) == transform_numbers(LLAVA, Packing())
    assert checkpoint_size(LLAVA, Packing(transforms=7, transform_bits=32)).transforms == 28


def test_a_tied_head_is_counted_once() -> None:
    tied = inventory(published("qwen2.5-vl-7b"), Details(attention_biases=True, tied=True))
    assert QWEN.parameters - tied.parameters == 152_064 * 3584
    assert tied.head is None
    assert checkpoint_size(tied, Packing(head=True)) == checkpoint_size(tied, Packing())


def test_a_vector_for_new_lines() -> None:
    with_line = inventory(published("llava-next-vicuna-7b"), details("llava-next-vicuna-7b"))
    assert with_line.parameters == LLAVA.parameters + 4096


def test_bytes_of_the_cache() -> None:
    llava, qwen = published("llava-1.5-7b").decoder, published("qwen2.5-vl-7b").decoder
    assert cache_bytes_per_token(llava, 16) == 32 * 16_384
    assert cache_bytes_per_token(qwen, 16) == 28 * 2_048
    assert cache_bytes_per_token(llava) == 32 * 4_352
    assert cache_bytes_per_token(qwen) == 28 * 544
    assert cache_bytes_per_token(qwen, zero_bits=8) == 28 * 8 * 67
    assert cache_bytes_per_token(qwen, 8) == 28 * 8 * 132


def test_factors_are_balanced_and_of_equal_parity() -> None:
    widths = (1024, 1280, 3420, 3584, 4096, 5120, 11008, 18944)
    pairs = [(32, 32), (32, 40), (38, 90), (56, 64), (64, 64), (64, 80), (86, 128), (128, 148)]
    assert [factors(width) for width in widths] == pairs
    for width in range(1, 200):
        small, large = factors(width)
        assert small * large == width
        fitting = [a for a in range(1, width + 1) if width % a == 0 and a <= width // a and (a + width // a) % 2 == 0]
        assert small == max(fitting, default=1)


def test_what_does_not_exist_is_refused() -> None:
    with pytest.raises(InvalidOption, match="no part 'tower'"):
        Packing(parts=("tower",))
    for bits, group in ((1, None), (9, None), (4, 0)):
        with pytest.raises(InvalidOption, match="use 2 to 8 bits"):
            Packing(bits=bits, group=group)
    with pytest.raises(UnknownName, match=r"llava-1\.5-7b"):
        details("llava-1.5-7c")
