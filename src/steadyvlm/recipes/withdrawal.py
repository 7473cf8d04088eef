"""Find the layer from which a model can do without its pictures: the search for VTW's `layer`.

Each sample is read once with every visual token and once per candidate layer without any from that layer on. The
earliest layer whose mean divergence at the first answer token is at most `eta` is the one to use.

Source: Lin et al. 2024, arXiv 2405.05803, released code lzhxmu/VTW at a3d8cfc: candidates from layer 5 on, about
20 samples, KL(withdrawn || full). Published eta: 0.003 (LLaVA-1.5-7B, and where nothing is said), 0.0005
(LLaVA-1.5-13B), 0.0001 (LLaVA-1.6-Vicuna-7B).
Differs: when no candidate passes the result says so (the code fails); the place and number of visual tokens are the
prompt's own (hard-coded there).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from steadyvlm.engine import Request, VisionCache
from steadyvlm.engine.capture import run_prefill
from steadyvlm.errors import InvalidOption, RunError, SampleError
from steadyvlm.models.adapter import VisionLanguageModel
from steadyvlm.probes.kl import kl_divergence
from steadyvlm.records import Failure, Sample
from steadyvlm.reduction.options import checked_count
from steadyvlm.reduction.vtw import VTW


@dataclass(frozen=True, slots=True)
class WithdrawalSearch:
    """What a search found.

    Attributes:
        mean_kl: candidate layer -> mean divergence in nats of withdrawing before it from not withdrawing, ascending.
        eta: the largest mean divergence that passes.
        samples: how many samples the means are over.

    >>> found = WithdrawalSearch({5: 0.2, 6: 0.002, 7: 0.004}, eta=0.003, samples=20)
    >>> found.layer, found.recipe
    (6, 'vtw(layer=6)')
    """

    mean_kl: Mapping[int, float]
    eta: float
    samples: int

    @property
    def layer(self) -> int | None:
        """The earliest layer that passes; None when withdrawal costs too much everywhere."""
        return next((layer for layer, mean in self.mean_kl.items() if mean <= self.eta), None)

    @property
    def recipe(self) -> str:
        """Recipe text of what was found: keep everything where no layer passes."""
        return "keep_all" if self.layer is None else f"vtw(layer={self.layer})"


def search_withdrawal_layer(
    model: VisionLanguageModel,
    samples: Sequence[Sample],
    *,
    eta: float = 0.003,
    first: int = 5,
    last: int | None = None,
    batch_size: int = 8,
) -> WithdrawalSearch:
    """Measure withdrawal before each layer from `first` to `last`.

    Pictures are encoded once; the decoder reads each prompt once per candidate and once in full.

    Args:
        model: from `steadyvlm.load`.
        samples: questions about pictures, about 20 of the task in mind.
        eta: nats of mean divergence that are acceptable, above or equal 0.
        first: earliest candidate.
        last: latest candidate; None is the model's last layer.
        batch_size: prompts read together; changes memory, not the result.

    Raises:
        InvalidOption: for a range of layers the model does not have, or another option out of range.
        SampleError: without samples, or for one without a picture.
        ImageError: for a picture that cannot be read.
        RunError: when the model fails on a sample.

    >>> found = search_withdrawal_layer(load("pocket"), PocketTask().samples()[:20], first=2)   # doctest: +SKIP
    >>> fast = accelerate(load("pocket"), found.recipe)                                          # doctest: +SKIP
    """
    layers = _candidates(first, last, model.info.num_layers)
    checked_count("search_withdrawal_layer", "batch_size", batch_size, minimum=1)
    if isinstance(eta, bool) or not isinstance(eta, (int, float)) or not 0 <= eta < math.inf:
        raise InvalidOption(
            f"eta={eta!r} is not allowed. Give the nats of divergence that pass, for example eta=0.003."
        )
    _check_samples(samples)
    totals = np.zeros(len(layers))
    for start in range(0, len(samples), batch_size):
        batch = samples[start : start + batch_size]
        requests = [Request(tuple(picture.load() for picture in sample.images), sample.prompt) for sample in batch]
        cache = VisionCache(sum(len(request.images) for request in requests))
        full = _logits(model, batch, requests, None, cache)
        for place, layer in enumerate(layers):
            totals[place] += kl_divergence(_logits(model, batch, requests, VTW(layer=layer), cache), full).sum()
    means = (totals / len(samples)).tolist()
    return WithdrawalSearch(dict(zip(layers, means, strict=True)), float(eta), len(samples))


def _candidates(first: int, last: int | None, num_layers: int) -> range:
    checked_count("search_withdrawal_layer", "first", first, minimum=0)
    last = num_layers - 1 if last is None else checked_count("search_withdrawal_layer", "last", last, minimum=0)
    if last >= num_layers or first > last:
        raise InvalidOption(
            f"search_withdrawal_layer: there are no candidates from first={first} to last={last} in this model, whose "
            f"decoder has {num_layers} layers (0 to {num_layers - 1}). Give first and last among those, in this order."
        )
    return range(first, last + 1)


def _check_samples(samples: Sequence[Sample]) -> None:
    if not samples:
        raise SampleError("there are no samples to search with; give about 20 questions about pictures.")
    bare = next((sample.id for sample in samples if not sample.images), None)
    if bare is not None:
        raise SampleError(f"sample '{bare}' has no picture, so nothing can be withdrawn. Search with samples that do.")


def _logits(
    model: VisionLanguageModel,
    samples: Sequence[Sample],
    requests: Sequence[Request],
    reduction: VTW | None,
    cache: VisionCache,
) -> NDArray[np.float32]:
    """Return [B, V] logits of the first answer token."""
    rows = []
    for sample, result in zip(samples, run_prefill(model, requests, reduction, vision_cache=cache), strict=True):
        if isinstance(result, Failure):
            raise RunError(f"sample '{sample.id}' cannot be searched with ({result.kind}): {result.message}")
        rows.append(result.logits.float().cpu().numpy())
    return np.stack(rows)
