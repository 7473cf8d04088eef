"""How many scores stand out: the count PruMerge and TRIM adapt to the picture.

A score is an outlier when it lies above the third quartile by more than 1.5 times the distance between the quartiles
(Tukey's fence). Many outliers mean a picture with much to see, and more tokens are kept.
"""

from __future__ import annotations

import torch
from torch import Tensor


def outlier_ratio(scores: Tensor, iqr_factor: float = 1.5) -> float:
    """Return the share of scores strictly above `q3 + iqr_factor * (q3 - q1)`.

    Quartiles are interpolated linearly between the two nearest ranks, in float32.

    Args:
        scores: [N] float, N >= 1.
        iqr_factor: how many quartile distances above the third quartile an outlier begins.

    >>> outlier_ratio(torch.tensor([1.0, 1.0, 1.0, 2.0, 2.0, 2.0, 9.0, 1.0]))
    0.125
    """
    scores = scores.to(torch.float32)
    q1, q3 = torch.quantile(scores, scores.new_tensor([0.25, 0.75])).unbind()
    return int((scores > q3 + iqr_factor * (q3 - q1)).sum()) / scores.numel()
