"""Changes of basis against full matrices written out in float64."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from steadyvlm.quantization.state import Clip, Transform
from steadyvlm.quantization.transforms import (
    InputTransform,
    TransformedNorm,
    apply_transform,
    clipped,
    factors,
    placed,
    restored_weight,
    stored,
    transformed_weight,
    turned_values,
)

DOUBLE = torch.float64


def made(a: int, b: int, *, scaled: bool = True) -> tuple[Transform, np.ndarray]:
    """A transform and the matrix P = diag(c) (P1 (x) P2) it stands for."""
    generator = torch.Generator().manual_seed(a + b)
    left, right = (
        torch.eye(n, dtype=DOUBLE) + 0.3 * torch.randn(n, n, dtype=DOUBLE, generator=generator) for n in (a, b)
    )
    scale = torch.rand(a * b, dtype=DOUBLE, generator=generator) + 0.5 if scaled else None
    full = np.kron(left.numpy(), right.numpy())
    return Transform(left, right, scale), full if scale is None else np.diag(scale.numpy()) @ full


@pytest.mark.parametrize(
    ("width", "expected"),
    [
        (1024, (32, 32)),
        (1280, (32, 40)),
        (3420, (38, 90)),
        (3584, (56, 64)),
        (4096, (64, 64)),
        (5120, (64, 80)),
        (11008, (86, 128)),
        (18944, (128, 148)),
    ],
)
def test_factors_of_published_widths(width: int, expected: tuple[int, int]) -> None:
    assert factors(width) == expected


@pytest.mark.parametrize("width", range(1, 200))
def test_every_width_has_factors(width: int) -> None:
    a, b = factors(width)
    assert a * b == width
    assert 1 <= a <= b
    even_pairs = [(n, width // n) for n in range(1, width + 1) if width % n == 0 and (n - width // n) % 2 == 0]
    assert not even_pairs or (a - b) % 2 == 0
    assert b - a == min(
        abs(m - n) for n, m in even_pairs or [(n, width // n) for n in range(1, width + 1) if width % n == 0]
    )


@pytest.mark.parametrize(("a", "b"), [(2, 3), (4, 4), (1, 7), (5, 2)])
@pytest.mark.parametrize("scaled", [True, False])
def test_two_small_products_are_the_full_matrix(a: int, b: int, scaled: bool) -> None:
    transform, full = made(a, b, scaled=scaled)
    x = torch.randn(3, 5, a * b, dtype=DOUBLE)
    weight = torch.randn(7, a * b, dtype=DOUBLE)
    module = InputTransform(transform.left, transform.right, transform.scale)
    assert np.allclose(module(x), x.numpy() @ full)
    folded = transformed_weight(weight, transform)
    assert np.allclose(folded, weight.numpy() @ np.linalg.inv(full).T)
    assert np.allclose(module(x) @ folded.T, x @ weight.T)
    assert torch.allclose(restored_weight(folded, transform), weight)


def test_what_is_missing_is_the_identity() -> None:
    transform, _ = made(2, 3)
    x = torch.randn(4, 6, dtype=DOUBLE)
    left, right = np.kron(transform.left, np.eye(3)), np.kron(np.eye(2), transform.right)
    assert np.allclose(apply_transform(x, transform.left, None), x.numpy() @ left)
    assert np.allclose(apply_transform(x, None, transform.right), x.numpy() @ right)
    assert transform.scale is not None
    assert torch.equal(apply_transform(x, None, None, transform.scale), x * transform.scale)
    assert apply_transform(x, None, None) is x
    assert transformed_weight(x, None) is x
    assert restored_weight(x, None) is x


def test_a_transform_works_in_the_wider_format_and_returns_that_of_its_input() -> None:
    transform, full = made(4, 8)
    half = stored(transform, torch.float16)
    assert half.scale is not None
    module = InputTransform(half.left, half.right, half.scale)
    x = torch.randn(50, 32)
    assert module(x.bfloat16()).dtype == torch.bfloat16
    exact = x.double() @ torch.from_numpy(full)
    assert float((module(x) - exact).norm() / exact.norm()) < 1e-3
    whole = stored(transform, torch.float32)
    single = InputTransform(whole.left, whole.right, whole.scale)(x.half())
    assert torch.equal(single, apply_transform(x.half().float(), whole.left, whole.right, whole.scale).half())
    assert module.to(torch.bfloat16).left.dtype == torch.float16  # type: ignore[union-attr]
    assert str(module) == "InputTransform(left=4x4, right=8x8, scale=32)"


def test_weights_folded_for_the_stored_numbers_lose_nothing() -> None:
    transform, _ = made(4, 8)
    half = stored(transform, torch.float16)
    x, weight = torch.randn(5, 32, dtype=DOUBLE), torch.randn(7, 32, dtype=DOUBLE)
    assert half.scale is not None
    turned = apply_transform(x, half.left, half.right, half.scale)
    assert torch.allclose(turned @ transformed_weight(weight, half).T, x @ weight.T, rtol=1e-10)
    assert not torch.allclose(turned @ transformed_weight(weight, transform).T, x @ weight.T, rtol=1e-5)


def test_values_turn_inside_each_head() -> None:
    turn = made(3, 1, scaled=False)[0].left
    weight, bias, x = torch.randn(6, 5, dtype=DOUBLE), torch.randn(6, dtype=DOUBLE), torch.randn(4, 5, dtype=DOUBLE)
    values = (x @ weight.T + bias).view(4, 2, 3) @ turn
    found = x @ turned_values(weight, turn).T + turned_values(bias, turn)
    assert torch.allclose(found, values.reshape(4, 6))


def test_a_norm_and_its_transform_are_one_module() -> None:
    transform, full = made(2, 4, scaled=False)
    norm = nn.LayerNorm(8, dtype=DOUBLE)
    x = torch.randn(3, 8, dtype=DOUBLE)
    both = TransformedNorm(norm, InputTransform(transform.left, transform.right))
    assert torch.allclose(both(x), norm(x) @ torch.from_numpy(full))


def test_clips_hold_each_side_to_its_share() -> None:
    weight = torch.randn(20, 9)
    high, low = torch.rand(20, 1), torch.rand(20, 1)
    found = clipped(weight, Clip(high, low))
    for row in range(20):
        top = max(float(weight[row].max()), 0.0) * float(high[row])
        bottom = min(float(weight[row].min()), 0.0) * float(low[row])
        for entry, kept in zip(weight[row].tolist(), found[row].tolist(), strict=True):
            assert kept == pytest.approx(min(max(entry, bottom), top), rel=1e-6, abs=1e-9)
    assert torch.equal(clipped(weight, Clip()), weight)


def test_a_transform_moves_whole() -> None:
    transform, _ = made(2, 2)
    moved = placed(transform, torch.device("meta"))
    sides: list[Tensor | None] = [moved.left, moved.right, moved.scale]
    assert all(side is not None and side.device.type == "meta" for side in sides)
    assert placed(made(2, 2, scaled=False)[0], torch.device("meta")).scale is None
