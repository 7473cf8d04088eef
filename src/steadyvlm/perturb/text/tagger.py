"""Parts of speech, in Penn tags (NN, VBZ, …).

Source: TextBlob's PatternTagger, which is the tagger of pattern.en (De Smedt and Daelemans, 2012): a lexicon of 94,000
words, then capital letters, digits and suffixes. The lexicon is read from TextBlob's wheel; the handful of rules is
written out here, which gives the same tags (tested) without importing TextBlob and, through it, all of NLTK.

Differs: three corrections by context, of which the tagger has none. "left" and "right" between an article and a noun
are adjectives ("the left image"); right after an article there is no finite verb ("the bear"); 's after a question word
or pronoun is one ("what's").
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import cache, lru_cache
from pathlib import Path

from steadyvlm.perturb.text.files import of_distribution
from steadyvlm.perturb.text.tokens import Token, sentences

LEXICON = "textblob/en/en-lexicon.txt"
_NUMBER = re.compile(r"^[0-9\-\,\.\:\/\%\$]+$")
_ADJECTIVE_ENDS = ("able", "al", "ful", "ible", "ient", "ish", "ive", "less", "tic", "ous")
_SIDES = frozenset({"left", "right"})
_ARTICLES = frozenset({"the", "a", "an", "The", "A", "An"})
_NOUN_FOR = {"VB": "NN", "VBP": "NN", "VBZ": "NNS"}
_BEFORE_IS = frozenset({"WP", "WRB", "WDT", "EX", "PRP"})

Tagged = tuple[tuple[Token, ...], tuple[str, ...]]
"""The tokens of a text, and their tags."""


def available() -> bool:
    """Tell whether the lexicon is there."""
    return of_distribution("textblob", LEXICON) is not None


@lru_cache(maxsize=4096)
def tagged(text: str) -> Tagged:
    """Return tokens and tags of all sentences; only where `available()`.

    >>> tagged("Is the man in the left image smiling?")[1]
    ('VBZ', 'DT', 'NN', 'IN', 'DT', 'JJ', 'NN', 'VBG', '.')
    """
    parts = sentences(text)
    found = tuple(token for sentence in parts for token in sentence)
    return found, tuple(tag for sentence in parts for tag in tags([token.word for token in sentence]))


def last_sentence(text: str) -> Tagged:
    """Return tokens and tags of the last sentence, all that the released generator keeps."""
    parts = sentences(text)[-1:]
    return tuple(token for part in parts for token in part), tuple(
        t for part in parts for t in tags([x.word for x in part])
    )


def tags(words: Sequence[str]) -> list[str]:
    """Return the tag of each word of one sentence."""
    lexicon = _lexicon()
    found = [lexicon.get(word) or (lexicon.get(word.lower()) if not at else None) for at, word in enumerate(words)]
    return corrected(words, [tag or _guess(word) for word, tag in zip(words, found, strict=True)])


def corrected(words: Sequence[str], tags: Sequence[str]) -> list[str]:
    """Return the tags with what their neighbours rule out put right.

    >>> corrected(["the", "bear", "in", "the", "left", "image"], ["DT", "VB", "IN", "DT", "VBN", "NN"])
    ['DT', 'NN', 'IN', 'DT', 'JJ', 'NN']
    """
    result = list(tags)
    for at in range(1, len(words)):
        if words[at] in _SIDES and result[at - 1] == "DT" and tags[at + 1 : at + 2] and tags[at + 1].startswith("NN"):
            result[at] = "JJ"
        elif words[at - 1] in _ARTICLES:
            result[at] = _NOUN_FOR.get(result[at], result[at])
        elif words[at] == "'s" and result[at - 1] in _BEFORE_IS:
            result[at] = "VBZ"
    return result


@lru_cache(maxsize=65536)
def tag_alone(word: str) -> str:
    """Return the tag of a word without its sentence."""
    return tags([word])[0]


def _guess(word: str) -> str:
    """Return the tag of a word that is not in the lexicon; of several rules the last decides."""
    if word.istitle():
        return "NNP"
    if _NUMBER.match(word):
        return "CD"
    tag = "NN"
    if word.endswith("ing"):
        tag = "VBG"
    if word.endswith("ly"):
        tag = "RB"
    if word.endswith("s") and not word.endswith(("is", "ous", "ss")):
        tag = "NNS"
    if word.endswith(_ADJECTIVE_ENDS) or "-" in word:
        tag = "JJ"
    if word.endswith("ed"):
        tag = "VBN"
    if word.endswith(("ate", "ify", "ise", "ize")):
        tag = "VBP"
    return tag


@cache
def _lexicon() -> dict[str, str]:
    path = of_distribution("textblob", LEXICON)
    assert isinstance(path, Path), "asked for tags where the tagger is not available"
    rows = (line.split(" ") for line in path.read_text("utf-8").splitlines() if line and not line.startswith(";;;"))
    return {row[0]: row[1] for row in rows if len(row) > 1}
