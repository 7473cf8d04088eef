from __future__ import annotations

import pytest
import torch

from steadyvlm.reduction.base import Signal, Signals, Site
from steadyvlm.reduction.layout import ImageLayout


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


def test_signals_of_a_tiled_image_are_cut_where_its_tiles_meet() -> None:
    layout = ImageLayout((1, 3), (1, 1), window=(0, 0, 1, 3), newlines=True, has_cls=True)
    signals = Signals(
        num_tokens=6,
        has_cls=True,
        seed=7,
        layout=layout,
        encoder_rows=torch.arange(8.0)[:, None],
        cls_attention=torch.arange(12.0).view(2, 6),
        last_cls_attention=torch.arange(6.0),
    )
    base, crop = signals.tiles()
    assert [(tile.num_tokens, tile.has_cls, tile.seed) for tile in (base, crop)] == [(3, True, 7)] * 2
    assert base.layout == crop.layout == ImageLayout((1, 3), has_cls=True)
    assert crop.require(Signal.ENCODER_ROWS).tolist() == [[4.0], [5.0], [6.0], [7.0]]
    assert crop.require(Signal.CLS_ATTENTION).tolist() == [[3.0, 4.0, 5.0], [9.0, 10.0, 11.0]]
    assert base.require(Signal.LAST_CLS_ATTENTION).tolist() == [0.0, 1.0, 2.0]
    assert base.encoder_keys is None


def test_an_image_of_one_tile_is_its_own_tile() -> None:
    for layout in (None, ImageLayout((2, 2))):
        signals = Signals(4, layout=layout)
        assert signals.tiles()[0] is signals


def test_encoder_and_decoder_share_the_signals_between_them() -> None:
    of_encoder = {signal for signal in Signal if signal.of_encoder}
    assert Signal.TEXT_RELEVANCE in of_encoder
    assert Signal.HIDDEN not in of_encoder
    assert {signal.value for signal in Signal} <= set(Signals.__dataclass_fields__)
