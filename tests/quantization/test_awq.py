from __future__ import annotations

import importlib.util
from typing import Any

import pytest

from steadyvlm.errors import InvalidOption, MissingDependency
from steadyvlm.quantization import QUANTIZERS
from steadyvlm.quantization.awq import AWQ
from steadyvlm.quantization.base import Calibrated
from steadyvlm.quantization.grid import Grid


def test_defaults_are_those_of_the_authors() -> None:
    quantizer = QUANTIZERS.create("awq")
    assert quantizer == AWQ(bits=4, group=128, symmetric=False, grid_points=20, modules=("language",))
    assert isinstance(quantizer, Calibrated)
    assert quantizer.grid == Grid(4, 128, symmetric=False)


def test_options_are_put_in_order_on_construction() -> None:
    assert AWQ(modules=("vision", "language")).modules == ("language", "vision")
    assert QUANTIZERS.create("awq(group=None, symmetric=True)") == AWQ(group=None, symmetric=True)


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        ({"bits": 9}, "bits=9"),
        ({"group": -1}, "group=-1"),
        ({"symmetric": None}, "symmetric=None"),
        ({"grid_points": 2}, "grid_points=2"),
        ({"grid_points": 20.0}, "grid_points=20.0"),
        ({"grid_points": True}, "grid_points=True"),
        ({"duo_scaling": "both"}, "duo_scaling='both'"),
        ({"clip": 1}, "clip=1"),
        ({"samples": 1.5}, "samples=1.5"),
        ({"seed": "0"}, "seed='0'"),
        ({"calibration": None}, "calibration=None"),
        ({"modules": ()}, "modules="),
        ({"pruned": 1}, "pruned=1 is not offered"),
    ],
)
def test_values_out_of_range_are_refused(options: dict[str, Any], complaint: str) -> None:
    with pytest.raises(InvalidOption, match=f"^awq: {complaint}"):
        AWQ(**options)


def test_a_plan_can_ask_before_a_model_is_loaded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: object())
    AWQ().check_available()
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(MissingDependency, match=r"awq needs .*pip install 'steadyvlm\[compress\]'"):
        AWQ().check_available()
