"""Hadamard matrices, and rotations of any width made of them.

A Hadamard matrix has entries of one magnitude and orthogonal rows: it spreads one large channel evenly over all. They
are built here by doubling (Sylvester), from quadratic residues (Paley's two constructions), and for 172 from four
symmetric circulants (Williamson). Where an order has none, a random orthogonal matrix takes the part that is missing.

Source: Paley 1933, "On Orthogonal Matrices"; Williamson 1944, "Hadamard's Determinant Theorem and the Sum of Four
Squares" (172 = 4 * 43); random signs and Kronecker factors as in QuaRot, arXiv 2404.00456, section 2.2.
Differs: no table is stored beside the four circulants of 172, which were searched for among those that are constant on
the cosets of the powers of 6 modulo 43; prime orders only, no prime powers.
"""

from __future__ import annotations

import functools
import math

import torch
from torch import Tensor

from steadyvlm.quantization.transforms import factors

_WILLIAMSON_PRIME, _WILLIAMSON_GENERATOR = 43, 6
_WILLIAMSON_SIGNS = (
    (1, 1, 1, 1, -1, -1, -1),
    (1, 1, -1, -1, -1, -1, 1),
    (1, -1, 1, -1, 1, -1, 1),
    (-1, 1, 1, -1, -1, 1, 1),
)
"""Signs of four circulants on the cosets of 43, in the order of their smallest members; entry 0 is 1 in all four."""

_STRETCH = 2
"""How many times the multiplications of the most balanced pair a pair of Hadamard factors may cost."""


@functools.lru_cache(maxsize=64)
@torch.inference_mode(False)  # what is kept must also serve a caller that trains
def hadamard(order: int) -> Tensor | None:
    """Return a matrix [order, order] float64 of 1 and -1 with orthogonal rows, None when no construction here has one.

    >>> hadamard(2)
    tensor([[ 1.,  1.],
            [ 1., -1.]], dtype=torch.float64)
    >>> [order for order in range(1, 61) if hadamard(order) is not None]
    [1, 2, 4, 8, 12, 16, 20, 24, 28, 32, 36, 40, 44, 48, 56, 60]
    """
    if order == 1:
        return torch.ones(1, 1, dtype=torch.float64)
    if order == 4 * _WILLIAMSON_PRIME:
        return _williamson()
    half = hadamard(order // 2) if order % 2 == 0 else None
    if half is not None:
        return torch.kron(torch.tensor([[1.0, 1.0], [1.0, -1.0]], dtype=torch.float64), half)
    if order % 4 == 0 and _is_prime(order - 1):
        return _paley_one(order - 1)
    if order % 4 == 0 and _is_prime(order // 2 - 1):  # of the form 4 k + 1, or the half would have been found
        return _paley_two(order // 2 - 1)
    return None


def rotation(order: int, generator: torch.Generator) -> Tensor:
    """Return an orthogonal matrix [order, order] float64: random signs, then Hadamard as far as it goes.

    An order n = h m with the largest h that has a Hadamard matrix gets a random orthogonal [m, m] times that one.
    """
    size = next(size for size in range(order, 0, -1) if order % size == 0 and hadamard(size) is not None)
    known = hadamard(size)
    rest = random_orthogonal(order // size, generator)
    signs = 1.0 - 2.0 * torch.randint(0, 2, (order, 1), generator=generator, dtype=torch.float64)
    return signs * torch.kron(rest, known / math.sqrt(size)) if known is not None else signs * rest


def random_orthogonal(order: int, generator: torch.Generator) -> Tensor:
    """Return an orthogonal matrix [order, order] float64, uniformly distributed; one entry 1 for order 1."""
    if order == 1:
        return torch.ones(1, 1, dtype=torch.float64)
    basis: Tensor
    basis, upper = torch.linalg.qr(torch.randn(order, order, generator=generator, dtype=torch.float64))
    return (basis * torch.where(upper.diagonal() < 0, -1.0, 1.0)).contiguous()


def rotation_factors(width: int) -> tuple[int, int]:
    """Return a <= b with a b = `width`: orders that have Hadamard matrices, and cheap together.

    Of the pairs that cost at most twice the multiplications of the most balanced one, that with the fewest factors that
    need a random part; among those the cheapest.

    >>> [rotation_factors(width) for width in (1280, 3420, 3584, 4096, 11008, 18944)]
    [(32, 40), (57, 60), (56, 64), (64, 64), (64, 172), (128, 148)]
    """
    pairs = [(a, width // a) for a in range(math.isqrt(width), 0, -1) if width % a == 0]
    affordable = [pair for pair in pairs if sum(pair) <= _STRETCH * sum(factors(width))]
    return min(affordable, key=lambda pair: (sum(hadamard(order) is None for order in pair), sum(pair)))


def _paley_one(prime: int) -> Tensor:
    """Order prime + 1, for a prime of the form 4 k + 3."""
    matrix = torch.ones(prime + 1, prime + 1, dtype=torch.float64)
    matrix[1:, 0] = -1.0
    matrix[1:, 1:] = _residues(prime)
    matrix[1:, 1:] += torch.eye(prime, dtype=torch.float64)
    return matrix


def _paley_two(prime: int) -> Tensor:
    """Order 2 (prime + 1), for a prime of the form 4 k + 1."""
    conference = torch.ones(prime + 1, prime + 1, dtype=torch.float64)
    conference[0, 0] = 0.0
    conference[1:, 1:] = _residues(prime)
    plain = torch.tensor([[1.0, 1.0], [1.0, -1.0]], dtype=torch.float64)
    turned = torch.tensor([[1.0, -1.0], [-1.0, -1.0]], dtype=torch.float64)
    return torch.kron(conference, plain) + torch.kron(torch.eye(prime + 1, dtype=torch.float64), turned)


def _residues(prime: int) -> Tensor:
    """Return [prime, prime] with 1 where i - j is a square modulo `prime`, 0 on the diagonal, else -1."""
    character = -torch.ones(prime, dtype=torch.float64)
    character[torch.arange(1, prime) ** 2 % prime] = 1.0
    character[0] = 0.0
    return character[_differences(prime)]


def _differences(order: int) -> Tensor:
    steps = torch.arange(order)
    return (steps[:, None] - steps[None, :]) % order


def _williamson() -> Tensor:
    """Order 4 * 43."""
    cosets: list[list[int]] = []
    left = set(range(1, _WILLIAMSON_PRIME))
    while left:
        first = min(left)
        powers = [first * _WILLIAMSON_GENERATOR**power % _WILLIAMSON_PRIME for power in range(3)]
        cosets.append([*powers, *(_WILLIAMSON_PRIME - place for place in powers)])
        left -= set(cosets[-1])
    rows = torch.ones(4, _WILLIAMSON_PRIME, dtype=torch.float64)
    for row, signs in zip(rows, _WILLIAMSON_SIGNS, strict=True):
        for sign, coset in zip(signs, cosets, strict=True):
            row[coset] = float(sign)
    a, b, c, d = (row[_differences(_WILLIAMSON_PRIME)] for row in rows)
    blocks = ((a, b, c, d), (-b, a, -d, c), (-c, d, a, -b), (-d, -c, b, a))
    return torch.cat([torch.cat(line, dim=1) for line in blocks])


def _is_prime(number: int) -> bool:
    return number > 1 and all(number % divisor for divisor in range(2, math.isqrt(number) + 1))
