"""Rounding with gradients, for learning: the numbers of `integer.fake_*`, with derivatives written out by hand.

Learning a block rounds every weight and every activation at every step. Differentiated operation by operation this
costs several times the block's own products; here each quantiser is one node. With x' = s q, s = reach / n and

    q = clip(rint(x / s), lowest, highest)           symmetric
    q = clip(rint(x / s) + z, 0, highest) - z        asymmetric, z = clip(rint(-bottom / s), 0, highest)

rounding passes gradients straight through, so that dx'/dx is 1 inside the clip and 0 outside, and
dx'/ds = q - [inside] x / s; reach goes on to the shares and to the entries that are the extremes.

Source: Bengio et al. 2013, arXiv 1308.3432 (straight through); Esser et al. 2019, "Learned Step Size Quantization",
arXiv 1902.08153, section 2.1 (the gradient to a step).
Differs: an extreme that several entries of a row share passes its whole gradient to each of them.

Letters: N rows, I entries of a row.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from steadyvlm.quantization.integer import Share

_SMALLEST = {torch.float16: 2.0**-14, torch.float32: 2.0**-126}
_SMALLEST_GROUP, _LARGEST_GROUP = 2.0**-24, 65504.0


def learn_rows(x: Tensor, bits: int, high: Share = 1.0, low: Share = 1.0) -> Tensor:
    """Return `integer.fake_rows`, finite [..., I] float32 or float64, with gradients to x and tensor shares.

    >>> learn_rows(torch.tensor([[7.0, -3.4, 0.5, 1.5]]), bits=4)
    tensor([[ 7., -3.,  0.,  2.]])
    """
    return _applied(_Symmetric, x, high, low, bits, torch.float32)


def learn_weight(weight: Tensor, bits: int, scale_dtype: torch.dtype = torch.float16) -> Tensor:
    """Return `integer.fake_weight` of finite [O, I] with gradients; what it clips is clipped before (`learn_clip`)."""
    result: Tensor = _Unclipped.apply(weight, bits, scale_dtype)  # type: ignore[no-untyped-call]  # as below
    return result


def learn_groups(x: Tensor, bits: int, high: Share = 1.0, low: Share = 1.0) -> Tensor:
    """Return `integer.fake_groups` of finite [..., d] with gradients to x and tensor shares.

    >>> learn_groups(torch.tensor([[-5.0, 10.0, 0.0, 2.6]]), bits=4)
    tensor([[-5., 10.,  0.,  3.]])
    """
    return _applied(_Asymmetric, x, high, low, bits)


def learn_clip(weight: Tensor, high: Tensor, low: Tensor) -> Tensor:
    """Return `transforms.clipped` of [O, I] by shares [O, 1], with gradients."""
    return _applied(_Clip, weight, high, low)


def _applied(function: type[torch.autograd.Function], x: Tensor, high: Share, low: Share, *options: Any) -> Tensor:
    shares = (share if isinstance(share, Tensor) else x.new_tensor(share) for share in (high, low))
    result: Tensor = function.apply(x, *shares, *options)  # type: ignore[no-untyped-call]  # torch leaves it without
    return result


class _Symmetric(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, high: Tensor, low: Tensor, bits: int, scale_dtype: torch.dtype) -> Tensor:
        highest = 2 ** (bits - 1) - 1
        most, least = _extremes(x)
        top, bottom = high * most, low * least
        upper = top >= -bottom
        reach = torch.where(upper, top, -bottom)
        steps = (reach / highest).clamp(min=_SMALLEST[scale_dtype])
        learns = reach > highest * _SMALLEST[scale_dtype]
        scale = torch.where(reach == 0, 1.0, steps).to(scale_dtype).to(x.dtype)
        places = x / scale
        codes = places.round().clamp_(-highest - 1, highest)
        ctx.save_for_backward(x, places, codes, upper, learns, most, least, high, low)
        ctx.highest = highest
        return codes * scale

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Any:
        (grad,) = grads
        x, places, codes, upper, learns, most, least, high, low = ctx.saved_tensors
        out = _differ(places.round(), codes)
        to_x = torch.addcmul(grad, grad, out, value=-1)
        to_scale = _dot(grad, codes) - _dot(to_x, places)
        to_reach = to_scale / ctx.highest * learns
        to_top, to_bottom = to_reach * upper, to_reach * ~upper
        _to_entries(to_x, x, torch.where(upper, most, least), to_top * high - to_bottom * low)
        return to_x, _like(to_top * most, high), _like(-to_bottom * least, low), None, None


class _Unclipped(torch.autograd.Function):
    """`_Symmetric` with shares of one: nothing lies outside, so only a row's extreme and its steps matter."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, bits: int, scale_dtype: torch.dtype) -> Tensor:
        highest = 2 ** (bits - 1) - 1
        most, least = _extremes(x)
        reach = torch.maximum(most, -least)
        steps = (reach / highest).clamp(min=_SMALLEST[scale_dtype])
        scale = torch.where(reach == 0, 1.0, steps).to(scale_dtype).to(x.dtype)
        places = x / scale
        codes = places.round().clamp_(-highest - 1, highest)
        learns = reach > highest * _SMALLEST[scale_dtype]
        ctx.save_for_backward(x, places.neg_().add_(codes), torch.where(most >= -least, most, least), learns)
        ctx.highest = highest
        return codes.mul_(scale)

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Any:
        (grad,) = grads
        x, missed, extreme, learns = ctx.saved_tensors
        to_x = grad.clone()
        _to_entries(to_x, x, extreme, _dot(grad, missed) / ctx.highest * learns * extreme.sign())
        return to_x, None, None


class _Asymmetric(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, high: Tensor, low: Tensor, bits: int) -> Tensor:
        highest = 2**bits - 1
        most, least = _extremes(x)
        top, bottom = high * most, low * least
        reach = top - bottom
        steps = (reach / highest).clamp(_SMALLEST_GROUP, _LARGEST_GROUP)
        learns = (reach > highest * _SMALLEST_GROUP) & (reach < highest * _LARGEST_GROUP)
        scale = _half_above(torch.where(reach == 0, 1.0, steps))
        unclipped = (-bottom / scale).round()
        zero = unclipped.clamp(0, highest)
        places = x / scale
        codes = places.round().add_(zero).clamp_(0, highest).sub_(zero)
        ctx.save_for_backward(x, places, codes, zero, unclipped, learns, most, least, high, low, scale)
        ctx.highest = highest
        return codes * scale

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Any:
        (grad,) = grads
        x, places, codes, zero, unclipped, learns, most, least, high, low, scale = ctx.saved_tensors
        out = _differ(places.round(), codes)
        to_x = torch.addcmul(grad, grad, out, value=-1)
        to_zero = -_dot(grad, out) * scale * (unclipped == zero)
        bottom = low * least
        to_scale = _dot(grad, codes) - _dot(to_x, places) + to_zero * bottom / scale.square()
        to_reach = to_scale / ctx.highest * learns
        to_bottom = -to_reach - to_zero / scale
        _to_entries(to_x, x, most, to_reach * high * (most > 0))
        _to_entries(to_x, x, least, to_bottom * low * (least < 0))
        return to_x, _like(to_reach * most, high), _like(to_bottom * least, low), None


class _Clip(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, high: Tensor, low: Tensor) -> Tensor:
        most, least = _extremes(x)
        ctx.save_for_backward(x, most, least, high, low)
        return torch.clamp(x, min=low * least, max=high * most)

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Any:
        (grad,) = grads
        x, most, least, high, low = ctx.saved_tensors
        above, below = ((x - high * most).clamp_(min=0.0).sign_(), (low * least - x).clamp_(min=0.0).sign_())
        to_x = torch.addcmul(grad, grad, above, value=-1).addcmul_(grad, below, value=-1)
        to_top, to_bottom = _dot(grad, above), _dot(grad, below)
        _to_entries(to_x, x, most, to_top * high)
        _to_entries(to_x, x, least, to_bottom * low)
        return to_x, _like(to_top * most, high), _like(to_bottom * least, low)


def _extremes(x: Tensor) -> tuple[Tensor, Tensor]:
    """Return each row's largest and smallest entry [..., 1], not below and not above zero."""
    return x.amax(dim=-1, keepdim=True).clamp_(min=0.0), x.amin(dim=-1, keepdim=True).clamp_(max=0.0)


def _differ(rounded: Tensor, codes: Tensor) -> Tensor:
    """Return 1 where two tensors of whole numbers differ, else 0; `rounded` is overwritten."""
    return rounded.sub_(codes).abs_().clamp_(max=1.0)


def _dot(first: Tensor, second: Tensor) -> Tensor:
    return (first * second).sum(dim=-1, keepdim=True)


def _to_entries(grad: Tensor, x: Tensor, extreme: Tensor, addend: Tensor) -> None:
    """Add `addend` [..., 1] to the gradient of those entries that are their row's extreme."""
    elsewhere = (x - extreme).sign_().abs_()
    grad.add_(addend).addcmul_(elsewhere, addend, value=-1)


def _like(grad: Tensor, share: Tensor) -> Tensor:
    """Sum the gradient [..., 1] of a share over what it was broadcast to."""
    return grad.sum_to_size(share.shape)


def _half_above(x: Tensor) -> Tensor:
    """Return the smallest float16 that is not below x, in x's dtype."""
    half = x.to(torch.float16)
    return (half.view(torch.int16) + (half.to(x.dtype) < x)).view(torch.float16).to(x.dtype)
