from __future__ import annotations

import json

import pytest

from steadyvlm.errors import InvalidOption
from steadyvlm.quantization.base import BlockError, QuantizationReport, QuantizedLayer, SkippedLayer, checked_parts


def test_a_report_adds_up_and_survives_json() -> None:
    layers = tuple(QuantizedLayer(f"layer.{i}", (2, 4), 4, 32, 6, 32, 0.1) for i in range(3))
    report = QuantizationReport("rtn", layers, (SkippedLayer("head", "because"),), simulated=True, notes=("note",))
    assert (report.original_bytes, report.packed_bytes, report.held_bytes) == (96, 18, 96)
    data = json.loads(json.dumps(report.to_json()))
    assert (data["original_bytes"], data["packed_bytes"], data["held_bytes"]) == (96, 18, 96)
    assert data["layers"][2]["name"] == "layer.2"
    assert data["skipped"] == [{"name": "head", "reason": "because"}]
    assert str(report) == "rtn: 3 linears, 96 -> 18 bytes packed (simulated storage, held as before), 1 skipped"
    assert "(6 bytes held)" in str(QuantizationReport("x", (QuantizedLayer("a", (1, 1), 8, 9, 5, 6, 0.0),)))


@pytest.mark.parametrize("value", [(), [], "decoder", ("language", "head"), 3, None, (["language"],)])
def test_parts_that_are_none_are_refused(value: object) -> None:
    with pytest.raises(InvalidOption, match=r"rtn: modules=.*'language', 'connector', 'vision'"):
        checked_parts("rtn", value)


def test_parts_have_one_canonical_order() -> None:
    assert checked_parts("rtn", ("vision", "connector", "language", "vision")) == ("language", "connector", "vision")


def test_a_report_says_what_learning_left_of_the_error() -> None:
    errors = tuple(BlockError(f"b{i}", "language", 9.0, *numbers) for i, numbers in enumerate(NUMBERS))
    report = QuantizationReport("flatquant", (), block_errors=errors)
    assert report.learned_share == pytest.approx(0.1)  # of 0.5 and 0.02; a block that rounding leaves alone is no part
    assert str(report).endswith("0 skipped, 10% of rounding's error per block")
    assert json.loads(json.dumps(report.to_json()))["block_errors"][1]["rotated"] == 3.0
    assert QuantizationReport("rtn", ()).learned_share is None


NUMBERS = ((2.0, 1.5, 1.0), (5.0, 3.0, 0.1), (0.0, 0.0, 0.0))
