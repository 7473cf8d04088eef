"""The substitution that seven perturbations share: a share of the words, each by one of its candidates.

Source: the rule of TextFlint (Wang et al. 2021), as the released generator of Chen et al. 2023 (arXiv 2306.02080) calls
it; from its description, none of its code or tables. Of n tokens, floor(p n) are replaced but at least one, drawn from
those that are words, are not on a short list of function words and have a candidate.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from steadyvlm.perturb.streams import TextRandom
from steadyvlm.perturb.text.tokens import Token, is_word, replaced, words
from steadyvlm.perturb.text.work import Work

_FUNCTION_WORDS = words(
    "i my you he him his she her it they their am is are have has a an the and or nor in by on of at from"
)
KEPT = frozenset(form for word in _FUNCTION_WORDS for form in (word, word.capitalize()))
"""Words never replaced, in these two spellings only."""

Draw = Callable[[int, TextRandom], str]
"""Draws a substitute for the token of this number."""


def candidates(parts: Sequence[Token], fits: Callable[[int], bool]) -> list[int]:
    """Return the numbers of tokens that may be replaced; `fits` says whether one has a candidate."""
    return [
        number for number, part in enumerate(parts) if part.word not in KEPT and is_word(part.word) and fits(number)
    ]


def substitute(work: Work, parts: Sequence[Token], possible: Sequence[int], draw: Draw, *, count: int) -> str:
    """Return the text with `count` of the `possible` tokens replaced, at least one and at most all."""
    if not possible:
        return work.unchanged("no word has a substitute")
    chosen = sorted(work.draws("which").sample(possible, min(max(1, count), len(possible))))
    what = work.draws("what")
    return replaced(work.text, parts, {number: draw(number, what) for number in chosen})
