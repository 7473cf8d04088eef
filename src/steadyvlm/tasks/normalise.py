"""The two VQA text normalisers, quirks included.

Scores of open questions compare normalised strings, and published numbers were made with published code, whose
accidents are therefore part of the definition: a misspelt look-behind, a flag passed as a replacement count, and a
comma between digits that changes how *other* marks are treated. Each quirk is named where it happens.

Source: VQA evaluation (Antol et al., 2015, arXiv:1505.00468) and the EvalAI answer processor used for TextVQA, OK-VQA
and VizWiz.
Differs: nothing on purpose. A variant with a correct look-behind exists elsewhere and keeps the dot of "5."; not here.
"""

from __future__ import annotations

import re

from steadyvlm.tasks.contractions import CONTRACTIONS

_MARKS = (";", "/", "[", "]", '"', "{", "}", "(", ")", "=", "+", "\\", "_", "-", ">", "<", "@", "`", ",", "?", "!")
_COMMA_IN_NUMBER = re.compile(r"\d,\d")
_STOP_BEFORE_NO_DIGIT = re.compile(r"\.(?!\d)")
_MAX_STOPS = 32
"""The published code passes `re.UNICODE` (32) where `sub` expects the number of replacements."""
_NUMBER_WORDS = {
    "none": "0",
    "zero": "0",
    "one": "1",
    "two": "2",
    "three": "3",
    "four": "4",
    "five": "5",
    "six": "6",
    "seven": "7",
    "eight": "8",
    "nine": "9",
    "ten": "10",
}
_ARTICLES = frozenset({"a", "an", "the"})


def vqa_normalise(text: str) -> str:
    """Return the EvalAI form of an answer (TextVQA, OK-VQA, VizWiz).

    >>> vqa_normalise(" A man's hat!")
    "man 's hat"
    """
    lowered = text.lower().replace(",", "").replace("?", "").replace("'s", " 's").strip()
    return vqa_normalise_v2(lowered)


def vqa_normalise_v2(text: str) -> str:
    """Return the VQAv2 form of an answer: as `vqa_normalise`, but possessives stay whole.

    >>> vqa_normalise_v2(" A man's hat!")
    "man's hat"
    """
    one_line = text.replace("\n", " ").replace("\t", " ").strip()
    return _words(_without_punctuation(one_line))


def _without_punctuation(text: str) -> str:
    number = _COMMA_IN_NUMBER.search(text) is not None
    out = text
    for mark in _MARKS:
        if mark not in text:
            continue
        # Decided on the unmodified text; a number like "1,000" anywhere makes every mark vanish instead of part.
        vanish = number or f"{mark} " in text or f" {mark}" in text
        out = out.replace(mark, "" if vanish else " ")
    # The look-behind for a digit is misspelt in the published pattern, so only the right side is checked.
    return _STOP_BEFORE_NO_DIGIT.sub("", out, count=_MAX_STOPS)


def _words(text: str) -> str:
    numbered = (_NUMBER_WORDS.get(word, word) for word in text.lower().split())
    return " ".join(CONTRACTIONS.get(word, word) for word in numbered if word not in _ARTICLES)
