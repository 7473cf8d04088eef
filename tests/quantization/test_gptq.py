from __future__ import annotations

import importlib.util
from typing import Any

import pytest

from steadyvlm.errors import InvalidOption, MissingDependency
from steadyvlm.quantization import QUANTIZERS
from steadyvlm.quantization.base import Calibrated
from steadyvlm.quantization.gptq import GPTQ
from steadyvlm.quantization.grid import Grid


def test_defaults_are_those_of_serving_engines() -> None:
    quantizer = QUANTIZERS.create("gptq")
    assert quantizer == GPTQ(bits=4, group=128, symmetric=True, act_order=True, damping=0.01, modules=("language",))
    assert isinstance(quantizer, Calibrated)
    assert quantizer.grid == Grid(4, 128, symmetric=True)


def test_options_are_put_in_order_on_construction() -> None:
    assert GPTQ(modules=("vision", "language")).modules == ("language", "vision")
    assert repr(GPTQ(damping=1)) == repr(GPTQ(damping=1.0))
    assert QUANTIZERS.create("gptq(group=32, bits=3)") == GPTQ(bits=3, group=32)


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        ({"bits": 1}, "bits=1"),
        ({"group": 0}, "group=0"),
        ({"symmetric": 1}, "symmetric=1"),
        ({"act_order": "yes"}, "act_order='yes'"),
        ({"clip": None}, "clip=None"),
        ({"true_sequential": 0}, "true_sequential=0"),
        ({"damping": 0}, "damping=0"),
        ({"damping": float("nan")}, "damping=nan"),
        ({"damping": float("inf")}, "damping=inf"),
        ({"damping": True}, "damping=True"),
        ({"damping": "0.01"}, "damping='0.01'"),
        ({"samples": 0}, "samples=0"),
        ({"samples": True}, "samples=True"),
        ({"seed": -1}, "seed=-1"),
        ({"seed": False}, "seed=False"),
        ({"calibration": ""}, "calibration=''"),
        ({"calibration": 3}, "calibration=3"),
        ({"modules": ("head",)}, "modules="),
        ({"pruned": True}, "pruned=True is not offered: .*flatquant"),
    ],
)
def test_values_out_of_range_are_refused(options: dict[str, Any], complaint: str) -> None:
    with pytest.raises(InvalidOption, match=f"^gptq: {complaint}"):
        GPTQ(**options)


def test_a_plan_can_ask_before_a_model_is_loaded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: object())
    GPTQ().check_available()
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(MissingDependency, match=r"gptq needs .*pip install 'steadyvlm\[compress\]'"):
        GPTQ().check_available()
