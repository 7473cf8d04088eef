"""Changes of single characters: misread, mistyped, misspelt, punctuated or drawn at random.

Source: the text generator of Chen et al. 2023, arXiv 2306.02080 (adarobustness/corruption); ocr, punctuation, typos,
keyboard and spell_error follow TextFlint as that generator calls it. The list of misspellings ships in the wheel of
nlpaug (MIT); the table of neighbouring keys is our own.
"""

from __future__ import annotations

import string
import unicodedata

from steadyvlm.perturb.streams import TextRandom
from steadyvlm.perturb.text.core import candidates, substitute
from steadyvlm.perturb.text.look_alikes import LOOK_ALIKES, NEIGHBOURS, misspellings
from steadyvlm.perturb.text.tokens import tokens
from steadyvlm.perturb.text.work import Work

PRINTABLE = string.ascii_letters + string.digits + string.punctuation + " "
"""The 95 characters that random_char_insert and random_char_replace draw from."""
ENDS = ("...", ".", ",", ";")
PAIRS = (('"', '"'), ("{", "}"), ("[", "]"), ("(", ")"), ("`", "`"), ("【", "】"))
_EDITS = ("replace", "swap", "insert", "delete")


def ocr(work: Work) -> str:
    """In a share of the words, one character becomes one that a scanner takes it for."""
    return _one_character(work, LOOK_ALIKES)


def keyboard(work: Work) -> str:
    """In a share of the words, one character becomes that of a neighbouring key."""
    return _one_character(work, NEIGHBOURS)


def typos(work: Work) -> str:
    """In a share of the words, one character is replaced, swapped with the next, inserted or deleted."""
    return _typed(work, _EDITS)


def spell_error(work: Work) -> str:
    """A share of the words becomes a spelling people confuse it with, in either direction."""
    table = misspellings()
    if table is None:
        return _typed(work, ("swap", "delete")) if work.substituted("nlpaug", "typos") else work.text
    parts = tokens(work.text)
    possible = candidates(parts, lambda number: parts[number].word in table)
    return substitute(
        work,
        parts,
        possible,
        lambda number, draws: draws.choice(table[parts[number].word]),
        count=work.share(len(parts)),
    )


def punctuation(work: Work) -> str:
    """The sentence ends in another mark and stands between quotation marks or brackets."""
    if not work.text.strip():
        return work.unchanged("empty")
    draws = work.draws("marks")
    end, (opening, closing) = draws.choice(ENDS), draws.choice(PAIRS)
    last = len(work.text)
    while last and (work.text[last - 1].isspace() or unicodedata.category(work.text[last - 1]).startswith("P")):
        last -= 1
    return f"{opening}{work.text[:last].lstrip()}{end}{closing}"


def random_char_insert(work: Work) -> str:
    """After each character but spaces, one of 95 is inserted at the rate of the level."""
    draws = work.draws("characters")
    pieces = []
    for character in work.text:
        pieces.append(character)
        if not character.isspace() and draws.below(10) < work.severity:
            pieces.append(draws.choice(PRINTABLE))
    return "".join(pieces)


def random_char_replace(work: Work) -> str:
    """Each character becomes one of 95, perhaps itself, at the rate of the level."""
    draws = work.draws("characters")
    return "".join(draws.choice(PRINTABLE) if draws.below(10) < work.severity else character for character in work.text)


def random_char_swap(work: Work) -> str:
    """Each position is exchanged with any position at the rate of the level."""
    draws = work.draws("characters")
    characters = list(work.text)
    for position in range(len(characters)):
        if draws.below(10) < work.severity:
            other = draws.below(len(characters))
            characters[position], characters[other] = characters[other], characters[position]
    return "".join(characters)


def random_char_delete(work: Work) -> str:
    """Each character is dropped at the rate of the level; one that shows is always kept."""
    draws = work.draws("characters")
    kept = "".join(character for character in work.text if draws.below(10) >= work.severity)
    return kept if kept.strip() else draws.choice(work.text.split() or [work.text])[:1]


def _one_character(work: Work, table: dict[str, str]) -> str:
    parts = tokens(work.text)
    possible = candidates(parts, lambda number: any(character in table for character in parts[number].word))

    def draw(number: int, draws: TextRandom) -> str:
        word = parts[number].word
        # Every changed spelling is equally likely, so a character with more look-alikes is drawn more often.
        place, new = draws.choice(
            [(at, other) for at, character in enumerate(word) for other in table.get(character, "")]
        )
        return word[:place] + new + word[place + 1 :]

    return substitute(work, parts, possible, draw, count=work.share(len(parts)))


def _typed(work: Work, edits: tuple[str, ...]) -> str:
    parts = tokens(work.text)
    possible = candidates(parts, lambda number: len(parts[number].word) > 1)

    def draw(number: int, draws: TextRandom) -> str:
        return _edited(parts[number].word, draws.choice(edits), draws)

    return substitute(work, parts, possible, draw, count=work.share(len(parts)))


def _edited(word: str, edit: str, draws: TextRandom) -> str:
    if edit == "swap":
        at = draws.below(len(word) - 1)
        return word[:at] + word[at + 1] + word[at] + word[at + 2 :]
    if edit == "insert":
        at = draws.below(len(word) + 1)
        return word[:at] + _like(word[min(at, len(word) - 1)], draws) + word[at:]
    at = draws.below(len(word))
    return word[:at] + (_like(word[at], draws) if edit == "replace" else "") + word[at + 1 :]


def _like(character: str, draws: TextRandom) -> str:
    """Draw a digit, a capital or a small letter, as `character` is one."""
    if character.isdigit():
        return draws.choice(string.digits)
    return draws.choice(string.ascii_uppercase if character.isupper() else string.ascii_lowercase)
