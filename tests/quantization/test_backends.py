from __future__ import annotations

import importlib
import importlib.util
import os
import platform
import subprocess
import sys
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import Tensor

from steadyvlm.errors import InvalidOption, MissingDependency, Unsupported
from steadyvlm.quantization import backends
from steadyvlm.quantization.backends import checked_backend, multiply, resolved
from steadyvlm.quantization.int8_product import int_product, sums_exactly
from steadyvlm.quantization.integer import pack4, quantize_rows
from steadyvlm.quantization.low_bit_weight import LowBitWeight, Rounding, checked_bits, checked_clip
from steadyvlm.quantization.state import Clip

EXACT = ("reference", "int8")
TRITON = importlib.util.find_spec("triton") is not None


def weight_of(codes: Tensor, bits: int = 4, *, tile_bytes: int | None = None, seed: int = 0) -> LowBitWeight:
    scale = torch.rand(len(codes), generator=torch.Generator().manual_seed(seed)).add(0.01).to(torch.float16)
    packed = pack4(codes) if bits <= 4 else codes
    return LowBitWeight(packed, scale, codes.shape[1], bits, tile_bytes)


def random_codes(rows: int, width: int, bits: int = 4, *, seed: int = 0) -> Tensor:
    half = 1 << (bits - 1)
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(-half, half, (rows, width), generator=generator, dtype=torch.int8)


def activations(rows: int, width: int, *, seed: int = 1) -> Tensor:
    return torch.randn(rows, width, generator=torch.Generator().manual_seed(seed))


def by_hand(x: Tensor, codes: Tensor, scale: Tensor, rounding: Rounding, bias: Tensor | None = None) -> Tensor:
    """Sums in int64; then one float32 operation after the other."""
    rounded, steps = quantize_rows(x, rounding.bits, rounding.clip)
    sums = rounded.numpy().astype(np.int64) @ codes.numpy().astype(np.int64).T
    y = sums.astype(np.float32) * steps.numpy() * scale.float().numpy()
    if bias is not None:
        y = y + bias.float().numpy()
    assert y.dtype == np.float32
    return torch.from_numpy(y).to(x.dtype)


def by_tensors(x: Tensor, codes: Tensor, scale: Tensor, rounding: Rounding) -> Tensor:
    """The same for wide rows, where NumPy's integer product takes too long: int64 sums by elementwise products."""
    rounded, steps = quantize_rows(x, rounding.bits, rounding.clip)
    sums = torch.stack([(rounded.long() * row.long()).sum(dim=1) for row in codes], dim=1)
    return (sums.to(torch.float32) * steps) * scale.float()


@pytest.mark.parametrize("backend", EXACT)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize(("rows", "width", "outputs"), [(1, 1, 1), (1, 8, 3), (17, 33, 5), (16, 32, 8), (40, 7, 65)])
def test_sums_are_those_of_64_bit_integers(
    backend: str, dtype: torch.dtype, rows: int, width: int, outputs: int
) -> None:
    codes, x = random_codes(outputs, width), activations(rows, width).to(dtype)
    weight, bias = weight_of(codes), activations(1, outputs, seed=2)[0].to(dtype)
    for rounding in (Rounding(4), Rounding(4, Clip(0.7, 0.9))):
        for added in (None, bias):
            y = multiply(backend, x, weight, rounding, added)
            assert y.dtype == dtype
            assert torch.equal(y, by_hand(x, codes, weight.scale, rounding, added))


@pytest.mark.parametrize("backend", EXACT)
@pytest.mark.parametrize("bits", [2, 3, 4, 5, 8])
@pytest.mark.parametrize("activation_bits", [2, 4, 8])
def test_other_widths_of_codes_are_as_exact(backend: str, bits: int, activation_bits: int) -> None:
    codes, x = random_codes(11, 37, bits), activations(9, 37)
    weight, rounding = weight_of(codes, bits), Rounding(activation_bits)
    assert torch.equal(multiply(backend, x, weight, rounding), by_hand(x, codes, weight.scale, rounding))


@pytest.mark.parametrize("backend", EXACT)
@pytest.mark.parametrize("width", [4096, 18943, 18944])
@pytest.mark.parametrize("bits", [(4, 4), (8, 8), (4, 8)], ids=str)
def test_the_largest_sums_stay_exact(backend: str, width: int, bits: tuple[int, int]) -> None:
    weight_bits, activation_bits = bits
    lowest = -(1 << (weight_bits - 1))
    codes = random_codes(4, width, weight_bits)
    codes[0], codes[1] = lowest, -lowest - 1
    weight = weight_of(codes, weight_bits)
    highest = 2 ** (activation_bits - 1) - 1
    x = torch.full((3, width), -1.0 - highest)  # with this low share the scale is 1, and every code the lowest
    x[1] = x[1].neg()
    x[2] = activations(1, width)[0]
    rounding = Rounding(activation_bits, Clip(1.0, highest / (highest + 1)))
    rounded, scale = quantize_rows(x[:1], activation_bits, rounding.clip)
    assert (rounded == -highest - 1).all()
    assert scale.item() == 1
    y = multiply(backend, x, weight, rounding)
    assert y[0, 0] == float(weight.scale[0]) * width * lowest * (-highest - 1)
    assert torch.equal(y, by_tensors(x, codes, weight.scale, rounding))


def test_sums_beyond_float32_are_not_summed_in_float32() -> None:
    codes = torch.full((1, 2049), 127, dtype=torch.int8)
    codes[0, 0] = 1
    weight = LowBitWeight(codes, torch.ones(1), 2049, 8)
    x = torch.full((1, 2049), 127.0)
    x[0, 0] = 1.0
    exact = 127 * 127 * 2048 + 1  # odd, above 2^24: no float32; summing in float32 loses more than the last bit
    for backend in EXACT:
        assert multiply(backend, x, weight, Rounding(8)).item() == float(np.float32(exact))


@pytest.mark.parametrize("backend", [*EXACT, "fake", "auto"])
def test_no_rows_give_no_rows(backend: str) -> None:
    y = multiply(backend, torch.empty(0, 6, dtype=torch.float16), weight_of(random_codes(3, 6)), Rounding(4))
    assert (y.shape, y.dtype) == ((0, 3), torch.float16)


@pytest.mark.parametrize("backend", [*EXACT, "fake"])
def test_the_layout_of_the_input_makes_no_difference(backend: str) -> None:
    weight, x = weight_of(random_codes(5, 12)), activations(12, 30)
    for view in (x.t()[::2], x.t()[3:4], x.t().flip(0)):
        assert torch.equal(
            multiply(backend, view, weight, Rounding(4)), multiply(backend, view.contiguous(), weight, Rounding(4))
        )


@pytest.mark.parametrize("backend", EXACT)
def test_a_row_is_the_same_alone_and_in_a_batch(backend: str) -> None:
    weight, x = weight_of(random_codes(33, 64)), activations(8, 64)
    together = multiply(backend, x, weight, Rounding(4))
    for index in range(8):
        assert torch.equal(multiply(backend, x[index : index + 1], weight, Rounding(4))[0], together[index])


@pytest.mark.parametrize("backend", [*EXACT, "fake"])
def test_tiles_change_nothing_and_bound_what_is_unpacked(backend: str, monkeypatch: pytest.MonkeyPatch) -> None:
    codes, x = random_codes(50, 20), activations(4, 20)
    whole = weight_of(codes)
    tiled = weight_of(codes, tile_bytes=16 * 20)
    assert [(tile.start, tile.stop) for tile in whole.tiles()] == [(0, 50)]
    assert [(tile.start, tile.stop) for tile in tiled.tiles()] == [(0, 16), (16, 32), (32, 48), (48, 50)]
    sizes = []
    for name in ("unpack4", "sixteenfold"):
        module = importlib.import_module(
            f"steadyvlm.quantization.{'low_bit_weight' if name == 'unpack4' else 'backends'}"
        )
        original = getattr(module, name)

        def counted(packed: Tensor, *rest: int, original: object = original) -> Tensor:
            sizes.append(packed.numel() * 2)
            assert callable(original)
            unpacked: Tensor = original(packed, *rest)
            return unpacked

        monkeypatch.setattr(module, name, counted)
    y = multiply(backend, x, tiled, Rounding(4))
    assert sizes == [320, 320, 320, 40]
    assert torch.equal(y, multiply(backend, x, whole, Rounding(4)))


def test_a_tile_has_at_least_eight_rows() -> None:
    assert next(weight_of(random_codes(20, 64), tile_bytes=1).tiles()) == slice(0, 8)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("with_bias", [True, False])
def test_the_simulation_is_within_one_unit_in_the_last_place(dtype: torch.dtype, with_bias: bool) -> None:
    weight, x = weight_of(random_codes(128, 256)), activations(64, 256).to(dtype)
    bias = activations(1, 128, seed=5)[0].to(dtype) if with_bias else None
    fake = multiply("fake", x, weight, Rounding(4), bias)
    real = multiply("int8", x, weight, Rounding(4), bias)
    size = torch.maximum(fake.abs(), real.abs())
    if bias is not None and dtype == torch.float32:  # the last place that counts is that of what the bias is added to
        size = torch.maximum(size, multiply("int8", x, weight, Rounding(4)).abs())
    unit = torch.exp2(torch.frexp(size.float())[1].double()) * (torch.finfo(dtype).eps / 2)
    error = (fake.double() - real.double()).abs() / unit
    assert (error <= 1).double().mean() >= (0.999 if bias is None or dtype != torch.float32 else 0.99)
    assert error.max() <= 2
    assert not torch.equal(fake, torch.zeros_like(fake))


_ON_ANOTHER_CPU = """
import torch
from steadyvlm.quantization.int8_product import sums_exactly
from steadyvlm.quantization.low_bit import LowBitLinear
for bits, activation_bits in ((4, 4), (8, 8), (4, 8)):
    generator = torch.Generator().manual_seed(bits + activation_bits)
    low = -(1 << (bits - 1))
    codes = torch.randint(low, -low, (24, 256), generator=generator).to(torch.int8)
    x = torch.randn(8, 256, generator=generator)
    options = {"weight_bits": bits, "activation_bits": activation_bits}
    first, second = (
        LowBitLinear.from_codes(codes, torch.ones(24), None, backend=backend, **options)(x)
        for backend in ("int8", "reference")
    )
    assert torch.equal(first, second), (bits, activation_bits)
print(sums_exactly("cpu"))
"""


def test_sums_are_right_on_a_processor_that_adds_in_16_bits() -> None:
    # On x86 oneDNN then takes the instructions of a processor without VNNI, which cut sums off; elsewhere it is ignored
    limited = {**os.environ, "ONEDNN_MAX_CPU_ISA": "AVX2", "PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run(
        [sys.executable, "-c", _ON_ANOTHER_CPU], env=limited, capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.strip() == str(platform.machine() not in ("x86_64", "AMD64"))


def test_a_machine_whose_sums_are_cut_off_is_found_out(monkeypatch: pytest.MonkeyPatch) -> None:
    def saturating(left: Tensor, right: Tensor) -> Tensor:
        products = (left.long() + 128).unsqueeze(-1) * right.long().unsqueeze(0)
        pairs = products.unflatten(1, (-1, 2)).sum(dim=2).clamp(-(2**15), 2**15 - 1)
        return (pairs.sum(dim=1) - 128 * right.long().sum(dim=0)).to(torch.int32)

    sums_exactly.cache_clear()
    try:
        monkeypatch.setattr(torch, "_int_mm", saturating)
        assert not sums_exactly("cpu")
        codes, x = random_codes(5, 12, 8), activations(3, 12)
        weight = weight_of(codes, 8)
        assert torch.equal(multiply("int8", x, weight, Rounding(8)), by_hand(x, codes, weight.scale, Rounding(8)))
    finally:
        sums_exactly.cache_clear()


@pytest.mark.parametrize("shape", [(1, 1, 1), (16, 8, 8), (17, 33, 9), (33, 40, 16)])
def test_padding_for_cuda_changes_nothing(shape: tuple[int, int, int], monkeypatch: pytest.MonkeyPatch) -> None:
    rows, width, outputs = shape
    left, right = random_codes(rows, width), random_codes(outputs, width, seed=3)
    shapes = []
    original = torch._int_mm

    def counted(a: Tensor, b: Tensor) -> Tensor:
        shapes.append((a.shape[0], a.shape[1], b.shape[1]))
        return original(a, b)

    monkeypatch.setattr(torch, "_int_mm", counted)
    padded, plain = int_product(left, right, padded=True), int_product(left, right)
    assert torch.equal(padded, plain)
    assert torch.equal(plain.long(), left.long() @ right.long().t())
    (taken, wide, high), untouched = shapes
    assert taken > 16
    assert wide % 8 == high % 8 == 0
    assert untouched == shape


def test_auto_is_triton_where_its_kernel_can_run(monkeypatch: pytest.MonkeyPatch) -> None:
    narrow, wide = weight_of(random_codes(2, 4)), weight_of(random_codes(2, 4, 8), 8)
    cuda, cpu = torch.device("cuda"), torch.device("cpu")
    for installed in (True, False):
        monkeypatch.setattr(backends, "triton_installed", lambda installed=installed: installed)
        assert resolved("auto", cuda, narrow) == ("triton" if installed else "int8")
        assert resolved("auto", cuda, wide) == resolved("auto", cpu, narrow) == "int8"
        assert resolved("fake", cuda, narrow) == "fake"


def test_triton_is_handed_everything_it_needs(monkeypatch: pytest.MonkeyPatch) -> None:
    weight, x, bias = weight_of(random_codes(2, 5)), activations(3, 5), torch.ones(2)
    calls = []

    def w4a4_linear(*tensors: Tensor, **options: object) -> Tensor:
        calls.append((tensors, options))
        return torch.zeros(3, 2)

    monkeypatch.setitem(sys.modules, "steadyvlm.quantization.triton_kernels", SimpleNamespace(w4a4_linear=w4a4_linear))
    assert torch.equal(multiply("triton", x, weight, Rounding(3, Clip(0.5, 0.25)), bias), torch.zeros(3, 2))
    ((tensors, options),) = calls
    assert all(given is expected for given, expected in zip(tensors, (x, weight.packed, weight.scale), strict=True))
    assert options.pop("bias") is bias
    assert options == {"clip_high": 0.5, "clip_low": 0.25, "activation_bits": 3}


def test_triton_takes_no_wide_weights() -> None:
    with pytest.raises(Unsupported, match=r"up to 4 bits, and this linear has 8.*int8"):
        multiply("triton", activations(1, 4), weight_of(random_codes(2, 4, 8), 8), Rounding(4))


def test_triton_has_to_be_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "steadyvlm.quantization.triton_kernels", None)
    with pytest.raises(MissingDependency, match=r"pip install triton.*backend='auto'"):
        multiply("triton", activations(1, 4), weight_of(random_codes(2, 4)), Rounding(4))
    monkeypatch.setattr(backends, "triton_installed", lambda: False)
    with pytest.raises(MissingDependency, match="it is not installed"):
        checked_backend("triton")
    monkeypatch.setattr(backends, "triton_installed", lambda: True)
    assert [checked_backend(name) for name in backends.BACKENDS] == list(backends.BACKENDS)


def test_triton_is_looked_for_without_importing_it() -> None:
    loaded = "triton" in sys.modules
    assert backends.triton_installed() == TRITON
    assert ("triton" in sys.modules) == loaded


def test_unknown_backends_are_refused() -> None:
    with pytest.raises(InvalidOption, match=r"backend='cutlass' is not allowed\. Give one of 'auto', 'fake'"):
        checked_backend("cutlass")


@pytest.mark.parametrize(
    ("bits", "message"),
    [
        ((1, 4, 8), r"weight_bits=1 .*2 to 8"),
        ((9, 4, 8), r"weight_bits=9"),
        ((4, 1, 8), r"activation_bits=1 .*or 16"),
        ((4, 9, 8), r"activation_bits=9"),
        ((4, 4, 0), r"over 0 inputs"),
        ((4, 8, 1 << 17), r"over 131072 inputs .* 8-bit activations"),
        ((4, 4, 1 << 21), r"hold 1 to 2097151 products"),
    ],
)
def test_bits_that_cannot_be_computed_are_refused(bits: tuple[int, int, int], message: str) -> None:
    with pytest.raises(InvalidOption, match=message):
        checked_bits(*bits)


@pytest.mark.parametrize("bits", [(2, 2, 1), (8, 8, (1 << 17) - 1), (4, 16, 1 << 30)])
def test_bits_at_the_edge_are_allowed(bits: tuple[int, int, int]) -> None:
    checked_bits(*bits)


@pytest.mark.parametrize("clip", [Clip(0.0, 1.0), Clip(1.0, 1.5), Clip(float("nan"), 1.0)])
def test_shares_outside_their_range_are_refused(clip: Clip) -> None:
    with pytest.raises(InvalidOption, match="above 0, up to 1"):
        checked_clip(clip)


@pytest.mark.gpu
@pytest.mark.parametrize("shape", [(1, 4096, 4096), (16, 33, 9), (17, 4096, 512), (636, 11008, 256), (40, 18944, 64)])
@pytest.mark.parametrize("backend", [*EXACT, "triton"])
def test_a_gpu_gives_the_bits_of_the_cpu(shape: tuple[int, int, int], backend: str) -> None:
    rows, width, outputs = shape
    codes, x = random_codes(outputs, width), activations(rows, width)
    codes[0] = -8
    x[0] = -8.0
    bias = activations(1, outputs, seed=5)[0]
    weight = weight_of(codes)
    there = LowBitWeight(weight.packed.cuda(), weight.scale.cuda(), width, 4)
    for clip in (Clip(), Clip(1.0, 7 / 8)):
        expected = multiply("int8", x, weight, Rounding(4, clip), bias)
        y = multiply(backend, x.cuda(), there, Rounding(4, clip), bias.cuda())
        assert torch.equal(y.cpu(), expected)
