"""Numbers that carry their denominator read well and become JSON."""

from __future__ import annotations

import json

from steadyvlm.stability.estimates import Difference, Rate, json_ready

RATE = Rate(0.096, 0.086, 0.107, 288, 3000, "wilson", 3000.0, 0.95)


def test_a_rate_reads_with_interval_and_denominator() -> None:
    assert str(RATE) == "9.6 % [8.6, 10.7] (288 of 3,000)"
    assert RATE.defined


def test_a_share_of_nothing_is_undefined_not_zero() -> None:
    empty = Rate(float("nan"), 0.0, 1.0, 0, 0, "wilson", 0.0, 0.95)
    assert not empty.defined
    assert str(empty) == "undefined (0 of 0)"
    assert json_ready(empty)["value"] is None


def test_a_difference_reads_in_percentage_points() -> None:
    found = Difference(-0.0633, -0.0742, 0.0011, 3000, 500, "image bootstrap", 5000, 0.95)
    assert str(found) == "-6.3 pp [-7.4, +0.1] (n = 3,000)"
    assert str(Difference(float("nan"), -1.0, 1.0, 0, 0, "newcombe-10", 0, 0.95)) == "undefined (no samples)"


def test_json_keeps_every_field_and_drops_nothing_json_cannot_hold() -> None:
    row = json_ready({"rates": (RATE,), "infinite": float("inf"), "kind": Rate, 3: True})
    assert row["rates"][0]["denominator"] == 3000
    assert row["infinite"] is None
    assert row["kind"] is Rate  # a class is not a record; json.dumps will say so
    row.pop("kind")
    assert json.loads(json.dumps(row))["3"] is True
