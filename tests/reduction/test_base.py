from __future__ import annotations

import pytest
import torch

from steadyvlm.reduction.base import Signal, Signals, Site


def test_a_signal_that_was_not_declared_is_a_programming_error() -> None:
    with pytest.raises(RuntimeError, match=r"'cls_attention'.*`needs`"):
        Signals(num_tokens=4).require(Signal.CLS_ATTENTION)


def test_signals_live_where_their_tensors_do() -> None:
    assert Signals(num_tokens=4).device == torch.device("cpu")
    elsewhere = Signals(num_tokens=4, encoder_keys=torch.empty(5, 2, device="meta"))
    assert elsewhere.device == torch.device("meta")
    assert elsewhere.require(Signal.ENCODER_KEYS) is elsewhere.encoder_keys


def test_a_site_without_layer_is_in_the_encoder() -> None:
    assert Site().in_encoder
    assert not Site(0).in_encoder
