"""Words of a text: by spaces, or as the Penn Treebank splits them, each with its place in the text.

Tokens keep their places, so that a change replaces a span and leaves all other characters, spaces included, as they
were. (The reference joins tokens with spaces and removes some of them again.)

Source: NLTK's NLTKWordTokenizer, which needs no data. Plain sentences, which are most questions, are split by one
expression that gives the same tokens; NLTK is imported for the others only.

Differs: sentences are told apart by a rule of ours, since NLTK's own splitter needs a download; quotation marks keep
their form, where NLTK writes `` and ''.
"""

from __future__ import annotations

import importlib
import re
from collections.abc import Mapping, Sequence
from functools import cache, lru_cache
from itertools import pairwise
from typing import Any, NamedTuple


class Token(NamedTuple):
    """A word or mark at its place: `text[start:end]`."""

    word: str
    start: int
    end: int


_PLAIN = re.compile(r"[A-Za-z0-9]+(?:'s)?(?:,? [A-Za-z0-9]+(?:'s)?)*[?!.]?", re.ASCII)
_UNSPACED = re.compile(r"\S+")
_PIECES = re.compile(r"[A-Za-z0-9]+|'s|[,?!.]", re.ASCII)
_SPLIT_BY_NLTK = re.compile(r"\b(?:cannot|gimme|gonna|gotta|lemme|wanna)\b", re.IGNORECASE)
_SENTENCE_END = re.compile(r"(?<![.?!])[.?!]++[\"')\]]*(\s+)(?=[\"'(\[]*[A-Z0-9])")
_ABBREVIATION = re.compile(r"(?:\b(?:Mr|Mrs|Ms|Dr|St|Prof|vs|etc|e\.g|i\.e|approx|No)|\b[A-Z])\.$")
_FORMS_OF_QUOTES = {"``": ('"', "``", "''"), "''": ('"', "''")}


def words(text: str) -> list[str]:
    """Return the words between spaces; a mark stays with its word.

    >>> words("Is it  red?")
    ['Is', 'it', 'red?']
    """
    return text.split()


def tokens(text: str) -> tuple[Token, ...]:
    """Return words and marks of all sentences.

    >>> [token.word for token in tokens("What's on the dog's back?")]
    ['What', "'s", 'on', 'the', 'dog', "'s", 'back', '?']
    """
    return tuple(token for sentence in sentences(text) for token in sentence)


@lru_cache(maxsize=4096)
def sentences(text: str) -> tuple[tuple[Token, ...], ...]:
    """Return the tokens of each sentence that has any.

    >>> [len(sentence) for sentence in sentences("Two dogs run. Is one brown?")]
    [4, 4]
    """
    bounds = [0, *_ends(text), len(text)]
    found = (_split(text, start, end) for start, end in pairwise(bounds))
    return tuple(sentence for sentence in found if sentence)


def is_word(word: str) -> bool:
    """Tell whether a token has a letter or digit, in any script; marks and emoji have none."""
    return any(character.isalnum() for character in word)


def replaced(text: str, parts: Sequence[Token], new: Mapping[int, str]) -> str:
    """Return `text` with the tokens numbered in `new` replaced.

    >>> replaced("a red  bus?", tokens("a red  bus?"), {1: "blue"})
    'a blue  bus?'
    """
    pieces, at = [], 0
    for number in sorted(new):
        pieces += [text[at : parts[number].start], new[number]]
        at = parts[number].end
    return "".join(pieces) + text[at:]


def with_case_of(word: str, new: str) -> str:
    """Return `new` capitalised as `word` is: all letters, the first, or left alone.

    >>> with_case_of("Dog", "cat"), with_case_of("DOG", "cat"), with_case_of("dog", "Paris")
    ('Cat', 'CAT', 'Paris')
    """
    if len(word) > 1 and word.isupper():
        return new.upper()
    return new[:1].upper() + new[1:] if word[:1].isupper() else new


def _ends(text: str) -> list[int]:
    if "." not in text and "?" not in text and "!" not in text:
        return []
    found = _SENTENCE_END.finditer(text)
    return [match.end() for match in found if not _ABBREVIATION.search(text, max(0, match.start() - 8), match.start(1))]


def _split(text: str, start: int, end: int) -> tuple[Token, ...]:
    part = text[start:end].strip()
    start = text.index(part, start)
    if _PLAIN.fullmatch(part) and not _SPLIT_BY_NLTK.search(part):
        return tuple(Token(m.group(), start + m.start(), start + m.end()) for m in _PIECES.finditer(part))
    return _placed(text, start, start + len(part), _treebank().tokenize(part)) or tuple(
        Token(m.group(), start + m.start(), start + m.end()) for m in _UNSPACED.finditer(part)
    )


def _placed(text: str, at: int, end: int, pieces: Sequence[str]) -> tuple[Token, ...]:
    """Find each piece in turn; none if they are not the text without its spaces, quotation marks apart."""
    found = []
    for piece in pieces:
        while at < end and text[at].isspace():
            at += 1
        form = next((form for form in _FORMS_OF_QUOTES.get(piece, (piece,)) if text.startswith(form, at)), None)
        if form is None:
            return ()
        found.append(Token(form, at, at + len(form)))
        at += len(form)
    return () if text[at:end].strip() else tuple(found)


@cache
def _treebank() -> Any:
    # By name: nltk takes a second to import, and most questions do without it.
    return importlib.import_module("nltk.tokenize.destructive").NLTKWordTokenizer()
