"""Reading yes/no and option letters out of whatever a model wrote.

How an answer is read decides rankings: on one public run, strict equality with "yes" turns an accuracy of 0.85 into
0.36, because the unpruned model answers in sentences while the pruned one is terse. These parsers read sentences, and
say `None` when there is nothing to read. They never guess and never draw at random, since a random fallback makes two
runs of the same text differ.

Source: the rules were chosen by weighing the parsers of lmms-eval, LLaVA (official POPE script) and VLMEvalKit
against real prediction files.
Differs, from VLMEvalKit, whose rules are 4 and 5 of `choice_letter`: in rule 4 a bare "A" is an article only if a word
follows it ("The best option is A" ends in a letter, like the same sentence with B), and in a text of up to three words
only if it also holds an option's text ("A dog" is not option A when option B is "dog"); in rule 5 options are found as
whole words, and an option that only occurs inside a longer one ("left" in "top left") is not counted. A letter that
names no option switches off the other letter rules: without an option C, "The answer is C, not A" is not read as A.
"""

from __future__ import annotations

import re
import string
from collections.abc import Sequence
from typing import Literal

YES_NO_WINDOW = 200
"""Characters of the text in which yes or no is looked for."""

_YES_NO = re.compile(r"\b(?:yes|no)\b")
_NEGATION = re.compile(
    r"(?:not\b(?! (?:sure|certain|clear|enough|possible|applicable))"
    r"|(?:(?:it|there|this|that|he|she|they) )?(?:is|are|was|were|do|does|did|has|have)(?:n['\u2019]?t\b| not\b))"
)
_PUNCTUATION = ".()[],:;!*#{}"
_LEADING = re.compile(r"\(?([A-Za-z])\)(?=\s|$)|([A-Za-z])[.:](?=\s|$)")
_ANSWER_IS = re.compile(r"(?i:\banswer\s{1,4}is)\s{0,4}:?\s{0,4}[*_]{0,3}[(\[]?[*_]{0,3}([A-Z])(?![A-Za-z0-9'\u2019])")
_TOKEN = re.compile(r"[^\s" + re.escape(_PUNCTUATION) + r"]+")
_LAST_TOKENS = 5
_CONJUNCTIONS = frozenset({"or", "and"})


def yes_no(text: str) -> Literal["yes", "no"] | None:
    """Return the answer to a yes/no question, or None.

    The first whole word yes or no within the first 200 characters; else a leading negation; else a single letter.

    >>> yes_no("Yes, there is a snowboard."), yes_no("It isn't."), yes_no("n"), yes_no("Church")
    ('yes', 'no', 'no', None)
    """
    lowered = text.strip().lower()
    # One character more than the window, so that "nothing" cut after its second letter is not read as "no".
    word = _YES_NO.search(lowered[: YES_NO_WINDOW + 1])
    if word is not None and word.end() <= YES_NO_WINDOW:
        return "yes" if word.group() == "yes" else "no"
    if _NEGATION.match(lowered):
        return "no"
    letter = lowered.strip(string.punctuation + string.whitespace)
    if letter in ("y", "n"):
        return "yes" if letter == "y" else "no"
    return None


def option_letters(choices: Sequence[str]) -> str:
    """Return the letters of the options: "ABC" for three of them; at most 26."""
    return string.ascii_uppercase[: len(choices)]


def choice_letter(text: str, choices: Sequence[str]) -> str | None:
    """Return the letter of the option a text chooses, or None.

    >>> choice_letter("(B) dog", ["cat", "dog"]), choice_letter("The answer is **A**.", ["cat", "dog"])
    ('B', 'A')
    >>> choice_letter("I see a dog.", ["cat", "dog"]), choice_letter("C", ["cat", "dog"])
    ('B', None)
    """
    stripped = text.strip()
    letters = option_letters(choices)
    named = _whole(stripped) or _leading(stripped) or _answer_is(stripped)
    by_text = _option_text(stripped, choices)
    if named is None:
        named = _standalone(stripped, letters, short=3 if by_text is None else 0)
    return named if named is not None and named in letters else by_text


def _whole(text: str) -> str | None:
    """Rule 1: the text is one letter."""
    return text.upper() if len(text) == 1 and text in string.ascii_letters else None


def _leading(text: str) -> str | None:
    """Rule 2: the text starts with (A), A), A. or A: and then ends or goes on after a space."""
    found = _LEADING.match(text)
    return None if found is None else (found[1] or found[2]).upper()


def _answer_is(text: str) -> str | None:
    """Rule 3: the last "answer is X"."""
    found = _ANSWER_IS.findall(text)
    return found[-1] if found else None


def _standalone(text: str, letters: str, *, short: int) -> str | None:
    """Rule 4: one upper-case letter stands alone, near the end; up to `short` words hold no article."""
    tokens = list(_TOKEN.finditer(text))
    words = [token.group() for token in tokens]
    places = {
        word: index
        for index, word in enumerate(words)
        if len(word) == 1
        and word in string.ascii_uppercase
        and (word in letters or word != "I")
        and not (word == "A" and len(words) > short and _is_article(text, tokens, index))
    }
    if len(places) != 1:
        return None
    letter, index = places.popitem()
    return letter if index >= len(words) - _LAST_TOKENS else None


def _is_article(text: str, tokens: Sequence[re.Match[str]], index: int) -> bool:
    """Whether the "A" at `index` is a word of the sentence: bare, followed by a word, and not listed with letters."""
    token = tokens[index]
    bare = text[token.start() - 1 : token.start()].strip() == "" and text[token.end() : token.end() + 1].strip() == ""
    if index == len(tokens) - 1 or not bare:
        return False
    around = {tokens[near].group() for near in (index - 1, index + 1) if near >= 0}
    return not around & _CONJUNCTIONS


def _option_text(text: str, choices: Sequence[str]) -> str | None:
    """Rule 5: the text contains exactly one option's text and is not much longer than the options together."""
    options = [" ".join(choice.lower().split()) for choice in choices]
    lowered = " ".join(text.lower().split())
    bare = lowered.rstrip(".")
    for index, option in enumerate(options):
        if option and bare == option.rstrip("."):
            return option_letters(choices)[index]
    if len(lowered) > 2 * len(" ".join(options)):
        return None
    spans = {
        option: [found.span() for found in re.finditer(rf"(?<!\w){re.escape(option)}(?!\w)", lowered)]
        for option in options
        if option
    }
    free = [option for option, places in spans.items() if any(not _inside(place, option, spans) for place in places)]
    return option_letters(choices)[options.index(free[0])] if len(free) == 1 else None


def _inside(place: tuple[int, int], option: str, spans: dict[str, list[tuple[int, int]]]) -> bool:
    return any(
        other[0] <= place[0] and place[1] <= other[1]
        for longer, places in spans.items()
        if len(longer) > len(option)
        for other in places
    )
