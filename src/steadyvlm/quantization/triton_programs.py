"""The device side of `triton_kernels`: what one program computes of one tile. Written in Triton's subset of Python.

Three programs. `quantize` turns a row of activations into 4-bit codes, `multiply` multiplies codes with packed weights
on int8 tensor cores, and `one_row` does both for a single token, where a launch costs as much as the arithmetic.

Even and odd inputs are never interleaved. A byte of packed weights holds an even input in its low nibble and the next,
odd one in its high nibble. Interleaving them again would shuffle registers between threads for every tile; instead the
activations' codes are written apart, all even inputs, then all odd ones, and a tile takes two products:

    acc = low nibbles . even codes + high nibbles . odd codes

Sums of integers do not depend on their order, so nothing changes. Nor is a nibble sign-extended: shifted to the top of
its byte it is sixteen times its value, and one shift right of the sum, exact, undoes that. Eight weights cost three
instructions. The weights are the left factor (Y^T = W X^T), because Hopper's tensor cores take only that one from
registers, where the nibbles have just been taken apart.

Letters: N rows (tokens), I inputs, O outputs, K bytes of a packed weight row (I / 2, rounded up).
"""

from __future__ import annotations

import triton
import triton.language as tl

NAN = tl.constexpr(float("nan"))
LARGEST = tl.constexpr(3.4028234663852886e38)
SMALLEST_SCALE = tl.constexpr(2.0**-126)


@triton.jit
def rounded(values, scale, QMAX: tl.constexpr):
    """Return codes clip(rint(values / scale)), int32, half to even.

    Clipped first, which is the same, as both ends are integers (and NaN, whose scale is NaN too, becomes one of them).
    A sum with 1.5 * 2^23 has no bits for a fraction: the addition itself rounds to the nearest integer, half to even.
    """
    steps = tl.div_rn(values, scale)
    clipped = tl.where(steps <= QMAX, tl.where(steps >= -QMAX - 1, steps, -QMAX - 1.0), QMAX + 0.0)
    return ((clipped + 12582912.0) - 12582912.0).to(tl.int32)


@triton.jit
def row_scale(x, row, inputs, column_stride, clip_high, clip_low, QMAX: tl.constexpr, BLOCK: tl.constexpr):
    """Return the scale of the row that starts at `x + row`, float32; NaN if an entry is not finite."""
    largest = tl.zeros([BLOCK], dtype=tl.float32)
    smallest = tl.zeros([BLOCK], dtype=tl.float32)
    wrong = tl.zeros([BLOCK], dtype=tl.int32)
    for start in range(0, inputs, BLOCK):
        columns = start + tl.arange(0, BLOCK)
        values = tl.load(x + row + columns * column_stride, mask=columns < inputs, other=0.0).to(tl.float32)
        finite = tl.abs(values) <= LARGEST
        wrong = tl.where(finite, wrong, 1)
        values = tl.where(finite, values, 0.0)
        largest = tl.maximum(largest, values)
        smallest = tl.minimum(smallest, values)
    reach = tl.maximum(tl.max(largest, axis=0) * clip_high, -(tl.min(smallest, axis=0) * clip_low))
    scale = tl.where(reach == 0.0, 1.0, tl.maximum(tl.div_rn(reach, QMAX + 0.0), SMALLEST_SCALE))
    return tl.where(tl.max(wrong, axis=0) == 0, scale, NAN)


@triton.jit
def quantize(
    x,
    codes,
    scales,
    inputs,
    row_stride,
    column_stride,
    half,
    clip_high,
    clip_low,
    QMAX: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """Write the codes of one row, [even inputs, zeros up to `half`, odd inputs, zeros], and its scale."""
    index = tl.program_id(0).to(tl.int64)
    row = index * row_stride
    scale = row_scale(x, row, inputs, column_stride, clip_high, clip_low, QMAX, BLOCK)
    for start in range(0, 2 * half, BLOCK):
        columns = start + tl.arange(0, BLOCK)
        values = tl.load(x + row + columns * column_stride, mask=columns < inputs, other=0.0).to(tl.float32)
        pairs = tl.reshape(rounded(values, scale, QMAX).to(tl.int8), [BLOCK // 2, 2])
        even, odd = tl.split(pairs)
        places = start // 2 + tl.arange(0, BLOCK // 2)
        target = codes + index * 2 * half + places
        tl.store(target, even, mask=places < half)
        tl.store(target + half, odd, mask=places < half)
    tl.store(scales + index, scale)


@triton.jit
def nibbles(packed, ASSEMBLY: tl.constexpr):
    """Return (16 * low nibble, 16 * high nibble) of signed nibbles as int8."""
    if ASSEMBLY:  # pragma: no cover - not in the interpreter
        # Four bytes to a register, which the compiler does not find by itself.
        low, high = tl.inline_asm_elementwise(
            "shl.b32 $0, $2, 4; and.b32 $0, $0, 0xF0F0F0F0; and.b32 $1, $2, 0xF0F0F0F0;",
            "=&r,=r,r",
            [packed],
            dtype=(tl.int8, tl.int8),
            is_pure=True,
            pack=4,
        )
    else:
        low = (packed << 4).to(tl.int8, bitcast=True)
        high = (packed & 0xF0).to(tl.int8, bitcast=True)
    return low, high


@triton.jit
def multiply(
    codes,
    row_scales,
    packed,
    weight_scales,
    bias,
    out,
    rows,
    outputs,
    width,
    half,
    HAS_BIAS: tl.constexpr,
    WHOLE: tl.constexpr,
    ASSEMBLY: tl.constexpr,
    BLOCK_O: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_K: tl.constexpr,
):
    """Write one tile of the output. Tiles of the same weights follow each other: those are read once from memory."""
    across = tl.cdiv(rows, BLOCK_N)
    tile_n = tl.program_id(0) % across
    tile_o = tl.program_id(0) // across
    outs = tile_o * BLOCK_O + tl.arange(0, BLOCK_O)
    tokens = tile_n * BLOCK_N + tl.arange(0, BLOCK_N)
    steps = tl.arange(0, BLOCK_K)
    # Rows beyond the end are read again from the start and not written.
    weights = packed + (outs % outputs).to(tl.int64)[:, None] * width + steps[None, :]
    even_codes = codes + (tokens % rows).to(tl.int64)[None, :] * (2 * half) + steps[:, None]
    total = tl.zeros([BLOCK_O, BLOCK_N], dtype=tl.int32)
    for start in range(0, width, BLOCK_K):
        if WHOLE:
            tile = tl.load(weights + start)
        else:
            tile = tl.load(weights + start, mask=start + steps[None, :] < width, other=0)
        low, high = nibbles(tile, ASSEMBLY)
        # The codes are padded with zeros to a multiple of every BLOCK_K.
        total = tl.dot(low, tl.load(even_codes + start), total, out_dtype=tl.int32)
        total = tl.dot(high, tl.load(even_codes + half + start), total, out_dtype=tl.int32)
    token_scale = tl.load(row_scales + tokens, mask=tokens < rows, other=0.0)
    out_scale = tl.load(weight_scales + outs, mask=outs < outputs, other=0.0).to(tl.float32)
    values = (total >> 4).to(tl.float32) * token_scale[None, :] * out_scale[:, None]
    if HAS_BIAS:
        values += tl.load(bias + outs, mask=outs < outputs, other=0.0).to(tl.float32)[:, None]
    target = out + tokens.to(tl.int64)[None, :] * outputs + outs[:, None]
    tl.store(target, values.to(out.dtype.element_ty), mask=(tokens < rows)[None, :] & (outs < outputs)[:, None])


@triton.jit
def four_products(total, weights, codes, ASSEMBLY: tl.constexpr):
    """Return total plus the sum over the four signed bytes of weights * codes, all int32."""
    if ASSEMBLY:  # pragma: no cover - not in the interpreter
        total = tl.inline_asm_elementwise(
            "dp4a.s32.s32 $0, $1, $2, $3;", "=r,r,r,r", [weights, codes, total], dtype=tl.int32, is_pure=True, pack=1
        )
    else:
        for byte in tl.static_range(4):
            total += ((weights << (24 - 8 * byte)) >> 24) * ((codes << (24 - 8 * byte)) >> 24)
    return total


@triton.jit
def words(codes, BLOCK: tl.constexpr):
    """Return codes [BLOCK, 4] as one int32 each, the first in the lowest byte."""
    return tl.sum((codes & 255) << (tl.arange(0, 4) * 8)[None, :], axis=1)


@triton.jit
def one_row(
    x,
    packed,
    weight_scales,
    bias,
    out,
    inputs,
    outputs,
    column_stride,
    width,
    clip_high,
    clip_low,
    QMAX: tl.constexpr,
    HAS_BIAS: tl.constexpr,
    ASSEMBLY: tl.constexpr,
    BLOCK_O: tl.constexpr,
    BLOCK_K: tl.constexpr,
):
    """Write BLOCK_O outputs of a single token; `packed` and `width` count words of eight weights.

    Every program quantises the token for itself: that takes less time than waiting for another launch. The products
    are sums of four at a time on the ordinary cores; the tensor cores would work on fifteen empty rows.
    """
    outs = tl.program_id(0) * BLOCK_O + tl.arange(0, BLOCK_O)
    places = tl.arange(0, BLOCK_K)
    tiles = packed + (outs % outputs).to(tl.int64)[:, None] * width + places[None, :]
    weights = tl.load(tiles, mask=(places < width)[None, :], other=0)  # on their way while the scale is found
    scale = row_scale(x, 0, inputs, column_stride, clip_high, clip_low, QMAX, BLOCK_K * 8)
    total = tl.zeros([BLOCK_O, BLOCK_K], dtype=tl.int32)
    for start in range(0, width, BLOCK_K):
        behind = start + BLOCK_K
        following = tl.load(tiles + behind, mask=(behind + places < width)[None, :], other=0)
        columns = start * 8 + tl.arange(0, BLOCK_K * 8)
        values = tl.load(x + columns * column_stride, mask=columns < inputs, other=0.0).to(tl.float32)
        even, odd = tl.split(tl.reshape(rounded(values, scale, QMAX), [BLOCK_K, 4, 2]))
        even_words = tl.broadcast_to(words(even, BLOCK_K)[None, :], [BLOCK_O, BLOCK_K])
        odd_words = tl.broadcast_to(words(odd, BLOCK_K)[None, :], [BLOCK_O, BLOCK_K])
        high = weights & -252645136  # 0xF0F0F0F0
        total = four_products(total, (weights << 4) & -252645136, even_words, ASSEMBLY)
        total = four_products(total, high, odd_words, ASSEMBLY)
        weights = following
    out_scale = tl.load(weight_scales + outs, mask=outs < outputs, other=0.0).to(tl.float32)
    answer = (tl.sum(total, axis=1) >> 4).to(tl.float32) * scale * out_scale
    if HAS_BIAS:
        answer += tl.load(bias + outs, mask=outs < outputs, other=0.0).to(tl.float32)
    tl.store(out + outs, answer.to(out.dtype.element_ty), mask=outs < outputs)
