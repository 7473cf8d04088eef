"""Which words look at the picture: the text tokens whose advice on visual tokens is taken.

Source: Zhang et al. 2024, "SparseVLM", arXiv 2410.04417 (ICML 2025), released code Gumpest/SparseVLMs at 26a5f48.
Differs: when no text token is above the average (a single one never is), all of them rate; the code averages nothing.
"""

from __future__ import annotations

import torch
from torch import Tensor

_CHUNK = 1024
"""Visual rows looked at together, so that a long prompt with many tiles needs little memory."""


def text_raters(visual: Tensor, text: Tensor) -> Tensor:
    """Return the text tokens that visual ones are more like than they are like text on average.

    Each visual row spreads a weight of one over the text by the softmax of its dot products (neither scaled nor
    normalised); a text token rates when its mean weight is above the mean over the text.

    Args:
        visual: [N, D] decoder input embeddings, all images of the prompt.
        text: [T, D] of the text after the last image, T at least 1.

    Returns:
        [Q] int64, strictly ascending, at least one.

    >>> text_raters(torch.tensor([[1.0, 0.0], [1.0, 1.0]]), torch.tensor([[2.0, 0.0], [0.0, 1.0], [0.0, 0.0]]))
    tensor([0])
    """
    columns = text.to(torch.float32).T
    weights = torch.zeros(text.shape[0], dtype=torch.float32, device=text.device)
    for rows in torch.split(visual, _CHUNK):
        weights += (rows.to(torch.float32) @ columns).softmax(dim=-1).sum(dim=0)
    above = (weights > weights.mean()).nonzero().squeeze(1)
    return above if above.numel() else torch.arange(text.shape[0], device=text.device)
