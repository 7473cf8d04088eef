from __future__ import annotations

import pytest

from steadyvlm.report.text import ascii_only, count, interval, label, number, one_line, percent, unbroken, visible


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("plain", "plain"),
        ("tab\tand\nline stay", "tab\tand\nline stay"),
        ("win\r\ndows", "win\ndows"),
        ("nul \x00", "nul ␀"),
        ("escape \x1b[31m", "escape ␛[31m"),
        ("carriage\rback", "carriage␍back"),
        ("delete \x7f c1 \x9b", "delete ⟨U+007F⟩ c1 ⟨U+009B⟩"),
        ("override \u202e", "override ⟨U+202E⟩"),
        ("isolate \u2067", "isolate ⟨U+2067⟩"),
        ("zero width \u200b", "zero width ⟨U+200B⟩"),
        ("surrogate \ud83d", "surrogate �"),
        ("عربي 👩‍🔬 stay", "عربي 👩‍🔬 stay"),
    ],
)
def test_what_cannot_be_seen_is_made_visible(text: str, shown: str) -> None:
    assert visible(text) == shown


def test_long_text_is_cut_and_says_how_long_it_was() -> None:
    assert visible("a" * 3_000, 5) == "aaaaa… (3,000 characters)"
    assert visible("aaaaa", 5) == "aaaaa"


def test_a_name_is_one_short_line() -> None:
    assert one_line("  a\n\n b\t c ") == "a b c"
    assert label("x" * 500).startswith("x" * 120 + "…")


@pytest.mark.parametrize(
    ("share", "shown"),
    [(0.0, "0.0"), (1.0, "100.0"), (0.0584, "5.8"), (0.0004, "0.04"), (0.00049, "0.05"), (float("inf"), "–")],
)
def test_percent(share: float, shown: str) -> None:
    assert percent(share) == shown


def test_a_signed_zero_has_no_sign() -> None:
    assert [percent(value, sign=True) for value in (-0.0000001, 0.0, -0.01, 0.01)] == ["0.00", "0.0", "−1.0", "+1.0"]
    assert interval(-0.011, 0.004, sign=True) == "[−1.1, +0.4]"


def test_counts_and_means() -> None:
    assert [count(1, "child", "children"), count(2, "child", "children")] == ["1 child", "2 children"]
    assert [number(144), number(1234.56), number(float("nan"))] == ["144", "1,234.6", "–"]


def test_ascii_for_poor_screens() -> None:
    assert ascii_only("a → b · − … ü") == "a > b - - ... ?"


def test_no_line_ends_before_a_percent_sign() -> None:
    assert unbroken("5.8 % of") == "5.8\u00a0% of"
