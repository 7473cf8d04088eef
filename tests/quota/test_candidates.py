from __future__ import annotations

from typing import Any

import pytest

from steadyvlm.errors import InvalidOption
from steadyvlm.quota.candidates import PUBLISHED, by_depth, check_layers, choose, parse_layers, span

CONCENTRATED = [0.2, 0.22, 0.5, 0.62, 0.7, 0.7, 0.7, 0.7, 0.6, 0.6, 0.6, 0.6]
STEADY = [0.05] * 12
DIVERSE = [0.1, 0.1, 0.15, 0.2, 0.2, 0.25, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8]


def test_the_range_begins_where_attention_concentrates() -> None:
    """The threshold is midway between the first two layers (0.21) and the highest (0.7): 0.455."""
    found = choose(CONCENTRATED, STEADY, DIVERSE)
    assert (found.layers, found.rule) == ((2, 3, 4, 5, 6), "profile")
    later = [0.2, 0.22, 0.45, 0.46, *CONCENTRATED[4:]]
    assert choose(later, STEADY, DIVERSE).layers == (3, 4, 5, 6)


def test_the_first_two_layers_are_spared_however_concentrated() -> None:
    assert choose([0.9, 0.9, *CONCENTRATED[2:]], STEADY, DIVERSE).rule == "depth"
    assert choose([0.1, 0.7, *CONCENTRATED[2:]], STEADY, DIVERSE).layers[0] == 3


def test_an_unsteady_layer_does_not_begin_the_range() -> None:
    assert choose(CONCENTRATED, [0.05, 0.05, 0.11, *STEADY[3:]], DIVERSE).layers[0] == 3
    assert choose(CONCENTRATED, [0.05, 0.05, 0.10, *STEADY[3:]], DIVERSE).layers[0] == 2


def test_the_range_ends_at_half_the_depth_at_its_longest_or_where_tokens_grow_alike() -> None:
    assert choose(CONCENTRATED, STEADY, DIVERSE, max_layers=9).layers == (2, 3, 4, 5, 6)
    assert choose(CONCENTRATED, STEADY, DIVERSE, max_layers=3).layers == (2, 3, 4)
    alike = [*DIVERSE[:5], 0.61, *DIVERSE[6:]]  # above the 0.6 of layer 9, three quarters down
    assert choose(CONCENTRATED, STEADY, alike).layers == (2, 3, 4)


def test_where_no_layer_will_do_the_published_range_is_scaled_and_that_is_said() -> None:
    flat = choose([0.5] * 12, [0.3, *STEADY[1:6], *[0.01] * 6], [0.9] * 11 + [0.1])
    assert flat.layers == (2, 3, 4, 5, 6)
    late = choose([0.1] * 8 + [0.9] * 4, STEADY, DIVERSE)
    assert (late.layers, late.rule) == ((2, 3, 4, 5, 6), "depth")
    assert "no early layer is concentrated" in late.note
    alike = choose(CONCENTRATED, STEADY, [0.9] * 9 + [0.1] * 3)
    assert (alike.layers, alike.rule) == ((2, 3, 4, 5, 6), "depth")
    assert "alike" in alike.note


def test_profiles_that_do_not_fit_are_refused() -> None:
    with pytest.raises(InvalidOption, match="3 layers has no candidate"):
        choose([0.1] * 3, [0.1] * 3, [0.1] * 3)
    with pytest.raises(InvalidOption, match="do not fit"):
        choose([0.1] * 4, [0.1] * 4, [0.1] * 3)


def test_published_ranges_pass_their_own_check() -> None:
    for name, layers in PUBLISHED.items():
        assert check_layers(layers, 32 if name.startswith("llava") else 28) == layers
        assert check_layers(name) == parse_layers(name) == layers
    assert by_depth(32) == PUBLISHED["llava-1.5"]
    assert by_depth(32, max_layers=3) == (2, 3, 4)


@pytest.mark.parametrize("layers", [(), (3, 5), (4, 3), (2, 2), "2-6", 2, (2.0, 3.0), (True, 2)])
def test_what_is_no_range_is_refused(layers: Any) -> None:
    with pytest.raises(InvalidOption, match="no range of decoder layers"):
        check_layers(layers)


def test_ranges_keep_clear_of_both_ends() -> None:
    with pytest.raises(InvalidOption, match="candidate layers 1-2 begin at layer 1"):
        check_layers((1, 2))
    assert check_layers((10,), 12) == (10,)
    with pytest.raises(
        InvalidOption, match=r"layers 10-11 do not fit .* last candidate can be layer 10 \(tokens are dropped behind"
    ):
        check_layers((10, 11), 12)
    assert check_layers((10, 11), 12, apply="own") == (10, 11)
    with pytest.raises(InvalidOption, match="last candidate can be layer 11"):
        check_layers((11, 12), 12, apply="own")


def test_ranges_as_people_write_them() -> None:
    assert parse_layers("7-11") == (7, 8, 9, 10, 11)
    assert parse_layers("2,3") == parse_layers(" 2 - 3 ") == (2, 3)
    assert (span((2, 3, 4)), span((2,))) == ("2-4", "2")
    for text in ("", "2-", "a-b", "2..6", "6-2"):
        with pytest.raises(InvalidOption, match="range such as 2-6"):
            parse_layers(text)
    with pytest.raises(InvalidOption, match="no range"):
        parse_layers("6,2")
