"""Changes of characters: each changed word is one of the candidates that an independent list names."""

from __future__ import annotations

import string
from pathlib import Path

import pytest

from steadyvlm.perturb.text import apply_text, characters, look_alikes
from steadyvlm.perturb.text.core import KEPT
from steadyvlm.perturb.text.look_alikes import LOOK_ALIKES, NEIGHBOURS, misspellings

LONG = "Which large animals near the wooden bridge drink water while their young calves quietly play together outside"
QUESTION = "What color is the big dog?"
SCANNED = {
    "0": "89oOD",
    "1": "47lI",
    "2": "zZ",
    "5": "8",
    "6": "b",
    "8": "05sS@&",
    "9": "0g",
    "o": "0u",
    "l": "1",
    "r": "k",
    "C": "G",
    "O": "0DU",
    "E": "B",
}


def one_edit(word: str) -> set[str]:
    """All words one replacement, swap, insertion or deletion away."""
    letters = string.ascii_letters + string.digits
    splits = [(word[:at], word[at:]) for at in range(len(word) + 1)]
    found = {head + tail[1:] for head, tail in splits if tail}
    found |= {head + letter + tail[1:] for head, tail in splits if tail for letter in letters}
    found |= {head + letter + tail for head, tail in splits for letter in letters}
    return found | {head + tail[1] + tail[0] + tail[2:] for head, tail in splits if len(tail) > 1}


def changed_words(id: str, text: str, severity: int, seed: int = 0) -> list[tuple[str, str]]:
    after = apply_text(text, id, severity, seed=seed).text.split()
    assert len(after) == len(text.split())
    return [(before, now) for before, now in zip(text.split(), after, strict=True) if before != now]


@pytest.mark.parametrize("id", ["ocr", "typos", "keyboard", "spell_error"])
@pytest.mark.parametrize("severity", [1, 2, 3, 4, 5])
def test_a_tenth_of_the_words_per_severity_changes(id: str, severity: int) -> None:
    """Of 17 words 1, 3, 5, 6, 8; now and then an edit leaves a word as it was, by a swap of equal letters."""
    expected = [0, 1, 3, 5, 6, 8][severity]
    counts = [len(changed_words(id, LONG, severity, seed)) for seed in range(20)]
    assert max(counts) == expected
    assert sum(counts) >= (19 if id == "typos" else 20) * expected


@pytest.mark.parametrize("id", ["ocr", "typos", "keyboard", "spell_error"])
def test_short_questions_change_in_one_word_and_function_words_stay(id: str) -> None:
    hit = set()
    for seed in range(60):
        ((before, _),) = changed_words(id, QUESTION, 1, seed)
        hit.add(before)
    assert hit == {"color", "big", "dog?"} | (set() if id == "ocr" else {"What"})
    assert {"is", "the"} <= KEPT


def test_ocr_changes_one_character_to_its_look_alike() -> None:
    for seed in range(60):
        ((before, now),) = changed_words("ocr", "Look at the colorful clock 8209", 1, seed)
        ((old, new),) = [(a, b) for a, b in zip(before, now, strict=True) if a != b]
        assert new in LOOK_ALIKES[old]


def test_look_alikes_are_mutual() -> None:
    assert all(one in LOOK_ALIKES[other] for one, others in LOOK_ALIKES.items() for other in others)
    assert all(set(LOOK_ALIKES[one]) == set(others) for one, others in SCANNED.items())


def test_keyboard_hits_a_neighbouring_key() -> None:
    for seed in range(60):
        ((before, now),) = changed_words("keyboard", QUESTION, 1, seed)
        ((old, new),) = [(a, b) for a, b in zip(before, now, strict=True) if a != b]
        assert new in NEIGHBOURS[old]


def test_neighbours_by_hand() -> None:
    assert NEIGHBOURS["g"] == "".join(sorted("ftyhvb"))
    assert NEIGHBOURS["G"] == "".join(sorted("FTYHVB"))
    assert NEIGHBOURS["p"] == "".join(sorted("o0)-_[{;:l"))
    assert NEIGHBOURS["5"] == "".join(sorted("4$6^%rt"))
    assert all(character not in others for character, others in NEIGHBOURS.items())


def test_typos_are_one_edit_away_and_draw_like_for_like() -> None:
    kinds = set()
    for seed in range(200):
        ((before, now),) = changed_words("typos", "Zebra A 42 zoo.", 1, seed)
        before, now = before.rstrip("."), now.rstrip(".")
        assert before != "A"
        assert now in one_edit(before)
        kinds.add((len(now) - len(before), sorted(now) == sorted(before)))
        if before == "42":
            assert now.isdigit() or len(now) == 1
        if before == "zoo":
            assert now == now.lower()
    assert kinds == {(-1, False), (0, True), (0, False), (1, False)}


def test_misspellings_are_read_both_ways() -> None:
    table = misspellings()
    assert table is not None
    assert "acheive" in table["achieve"]
    assert "achieve" in table["acheive"]
    assert all(one in table[other] for one in ("what", "is", "their") for other in table[one])
    assert not [word for word in table if any(mark in word for mark in '[]()?!*\r\n" ')]
    for seed in range(40):
        ((before, now),) = changed_words("spell_error", "their weird friend", 1, seed)
        assert now in table[before]


def test_the_look_up_of_misspellings_knows_case() -> None:
    table = misspellings()
    assert table is not None
    assert "Waht" in table["What"]
    assert "ZEBRA" not in table
    assert apply_text("ZEBRA", "spell_error", 5).info["why"] == "no word has a substitute"


def test_punctuation_wraps_the_bare_sentence() -> None:
    seen = {apply_text("Is it red?!", "punctuation", 1, seed=seed).text for seed in range(300)}
    expected = {f"{left}Is it red{end}{right}" for left, right in characters.PAIRS for end in characters.ENDS}
    assert seen == expected
    assert len(expected) == 24
    assert apply_text("  ", "punctuation", 1).info["why"] == "empty"


@pytest.mark.parametrize("severity", [1, 3, 5])
def test_random_characters_change_at_their_rate(severity: int) -> None:
    """10,000 characters: within five standard errors of the rate; one drawn character in 95 changes nothing."""
    text = "abcdefghi " * 1000
    rate, error = severity / 10, 5 * 0.5 / 100
    replaced = apply_text(text, "random_char_replace", severity).text
    assert len(replaced) == len(text)
    assert sum(a != b for a, b in zip(text, replaced, strict=True)) / 1e4 == pytest.approx(rate * 94 / 95, abs=error)
    deleted = apply_text(text, "random_char_delete", severity).text
    assert len(deleted) / 1e4 == pytest.approx(1 - rate, abs=error)
    inserted = apply_text(text, "random_char_insert", severity).text
    assert len(inserted) / 1e4 == pytest.approx(1 + 0.9 * rate, abs=error)
    swapped = apply_text(text, "random_char_swap", severity).text
    assert sorted(swapped) == sorted(text)
    assert swapped != text


def test_nothing_is_inserted_after_a_space_and_all_95_characters_are_drawn() -> None:
    text = apply_text("a " * 5000, "random_char_insert", 5).text
    assert not [
        at for at in range(2, len(text)) if text[at - 2 : at] == "a " and text[at] != "a" and text[at - 2] == " "
    ]
    assert set(text) == set(characters.PRINTABLE)
    assert len(set(characters.PRINTABLE)) == 95
    without = apply_text("   x", "random_char_insert", 5).text
    assert without.startswith("   x")
    assert len(without) == 5


def test_a_character_that_shows_is_always_kept() -> None:
    assert {apply_text("?", "random_char_delete", 5, seed=seed).text for seed in range(20)} == {"?"}
    texts = [apply_text("a b", "random_char_delete", 5, seed=seed).text for seed in range(60)]
    assert all(text.strip() for text in texts)


def test_without_the_list_letters_are_swapped_and_dropped(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(look_alikes, "of_distribution", lambda *_: None)
    monkeypatch.setattr(look_alikes, "misspellings", misspellings.__wrapped__)
    monkeypatch.setattr(characters, "misspellings", misspellings.__wrapped__)
    for seed in range(30):
        result = apply_text("zebra", "spell_error", 1, seed=seed)
        assert (result.status, result.info["fallback"]) == ("fallback", "typos")
        assert result.text in one_edit("zebra")
        assert len(result.text) == 4 or sorted(result.text) == sorted("zebra")


def test_the_list_is_where_the_wheel_puts_it() -> None:
    found = look_alikes.of_distribution("nlpaug", look_alikes.SPELLINGS)
    assert isinstance(found, Path)
    assert found.read_bytes().count(b"\r\n") > 10_000
