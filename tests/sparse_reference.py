"""SparseVLM by sections 4.1 to 4.5 of the specification: plain loops in float64, shared by its tests."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

Array = np.ndarray[Any, Any]


def raters(visual: Array, text: Array) -> list[int]:
    """4.1, with the product's fallback to all text tokens."""
    means = np.zeros(len(text))
    for row in visual:
        products = [float(row @ word) for word in text]
        top = max(products)
        weights = [math.exp(value - top) for value in products]
        means += np.array(weights) / sum(weights) / len(visual)
    found = [t for t in range(len(text)) if means[t] > means.mean()]
    return found or list(range(len(text)))


def ranking(scores: list[float]) -> list[int]:
    return sorted(range(len(scores)), key=lambda i: (-scores[i], i))


def rated(attention: Array) -> Array:
    """[H, Q, N] -> P [Q, N], the mean over heads."""
    heads, questions, tokens = attention.shape
    means = [
        [sum(float(attention[h, q, i]) for h in range(heads)) / heads for i in range(tokens)] for q in range(questions)
    ]
    return np.array(means)


def column_means(table: Array) -> list[float]:
    return [sum(float(table[q, i]) for q in range(table.shape[0])) / table.shape[0] for i in range(table.shape[1])]


def clusters(rows: Array, count: int, jitter: Array | None = None) -> tuple[list[int], list[list[int]], list[Array]]:
    """4.4: centres in order, members of each, merged rows."""
    size, width = rows.shape
    distance = [[float(np.linalg.norm(rows[i] - rows[j])) / math.sqrt(width) for j in range(size)] for i in range(size)]
    density = []
    for i in range(size):
        nearest = sorted(distance[i])[:count]
        density.append(math.exp(-sum(d * d for d in nearest) / count) + (0.0 if jitter is None else float(jitter[i])))
    far = max(max(row) for row in distance)
    delta = [min([distance[i][j] for j in range(size) if density[j] > density[i]] + [far]) for i in range(size)]
    centres = ranking([d * r for d, r in zip(delta, density, strict=True)])[:count]
    members: list[list[int]] = [[] for _ in centres]
    for i in range(size):
        own = centres.index(i) if i in centres else int(np.argmin([distance[i][c] for c in centres]))
        members[own].append(i)
    merged = [sum(rows[i] for i in group) / (len(group) + 1e-6) for group in members]
    return centres, members, merged


def stage(attention: Array, hidden: Array, keep: int) -> tuple[list[int], list[int], list[int], Array]:
    """4.2 at one pruning layer: kept, recycled in score order, the centres among those, the new visual block."""
    scores = column_means(rated(attention))
    kept = sorted(ranking(scores)[:keep])
    pruned = [i for i in range(len(scores)) if i not in set(kept)]
    amount = math.trunc(0.3 * len(pruned)) + 1
    recycled = sorted(pruned, key=lambda i: (-scores[i], i))[:amount]
    centres, _, merged = clusters(hidden[recycled], math.trunc(amount / 10) + 1)
    return kept, recycled, [recycled[c] for c in centres], np.stack([hidden[i] for i in kept] + merged)


def plus_scores(attention: Array, rotary: Array, heads: int) -> list[float]:
    """4.5: divided by the rotary correction, averaged over the heads with the largest rater-to-visual mass."""
    corrected = attention / rotary[None]
    chosen = ranking([float(corrected[h].sum()) for h in range(len(corrected))])[:heads]
    return column_means(rated(corrected[chosen]))
