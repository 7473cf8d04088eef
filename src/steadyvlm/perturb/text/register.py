"""Formal and casual English by rules: contractions, a small lexicon, capitals, the mark at the end.

These stand in for trained style models, and results made with them say so.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from steadyvlm.perturb.text.tokens import with_case_of, words

_NEGATED = words("is are was were do does did has have had could would should must")
_NAMED = words("what where who how when why that there here it he she")
_CONTRACTIONS: dict[str, str] = {
    **{f"{verb} not": f"{verb}n't" for verb in _NEGATED},
    "cannot": "can't",
    "can not": "can't",
    "will not": "won't",
    **{f"{word} is": f"{word}'s" for word in _NAMED},
    **{f"{word} are": f"{word}'re" for word in ("they", "we", "you")},
    **{f"{word} will": f"{word}'ll" for word in ("i", "you", "he", "she", "it", "we", "they")},
    **{f"{word} have": f"{word}'ve" for word in ("i", "you", "we", "they")},
    "i am": "i'm",
}
_EXPANSIONS = {short: long for long, short in _CONTRACTIONS.items()} | {"can't": "cannot"}

_FORMAL = {
    "gonna": "going to",
    "wanna": "want to",
    "gotta": "have to",
    "gimme": "give me",
    "lemme": "let me",
    "kid": "child",
    "kids": "children",
    "guy": "man",
    "guys": "men",
    "pic": "picture",
    "pics": "pictures",
    "photo": "photograph",
    "photos": "photographs",
    "tv": "television",
    "tvs": "televisions",
    "phone": "telephone",
    "phones": "telephones",
    "fridge": "refrigerator",
    "bike": "bicycle",
    "bikes": "bicycles",
    "plane": "airplane",
    "planes": "airplanes",
    "mom": "mother",
    "dad": "father",
    "cop": "police officer",
    "cops": "police officers",
    "ad": "advertisement",
    "ads": "advertisements",
    "veggies": "vegetables",
    "ok": "acceptable",
    "okay": "acceptable",
    "yeah": "yes",
    "big": "large",
    "bigger": "larger",
    "biggest": "largest",
    "buy": "purchase",
    "stuff": "items",
    "lots of": "many",
    "a lot of": "many",
}
_ONE_WAY = frozenset({"gimme", "lemme", "ad", "ads", "ok", "okay", "yeah", "stuff", "buy", "lots of", "a lot of"})
"""Formal words that are not always the informal one: "how many" is not "how lots of"."""
_CASUAL = {formal: informal for informal, formal in _FORMAL.items() if informal not in _ONE_WAY}
_SPELT = {"tv": "TV", "tvs": "TVs", "i'm": "I'm", "i'll": "I'll", "i've": "I've", "i am": "I am", "i will": "I will"}
_SPELT |= {"i have": "I have", "television": "television", "televisions": "televisions"}

_ASKING = frozenset(
    words(
        "what which who whose whom where when why how is are was were do does did can could will would should has have"
    )
)
_STARTERS = frozenset(words("a an the this that these those there it he she they we you one two three some both all"))
_PLACES = r"in|on|at|near|under|behind|beside|above|below|inside|outside"
_FRONTED = re.compile(rf"(?P<clause>[^.?!,;]+) (?P<place>(?:{_PLACES}) (?:the|a|an|both|each|one) [^.?!,;]{{1,60}})\.")


def formal(text: str) -> str:
    """Return a text without contractions and slang, with a capital and a mark at the end.

    >>> formal("what's the kid holding")
    'What is the child holding?'
    """
    text = re.sub(r"\bi\b", "I", _exchanged(expanded(text), _FORMAL_PATTERN, _FORMAL))
    text = text[:1].upper() + text[1:]
    if text and text[-1].isalnum():
        text += "?" if text.split()[0].lower() in _ASKING else "."
    return text


def casual(text: str) -> str:
    """Return a text with contractions and everyday words, without the capital and the full stop.

    >>> casual("What is the man looking at?"), casual("There is a bicycle.")
    ("what's the guy looking at?", "there's a bike")
    """
    text = _exchanged(contracted(text), _CASUAL_PATTERN, _CASUAL)
    first = text.split(maxsplit=1)[:1]
    if first and first[0] == first[0].capitalize() and first[0] not in ("I", "I'm", "I'll", "I've"):
        text = text[:1].lower() + text[1:]
    return text[:-1] if text.endswith(".") and not text.endswith("..") else text


def contracted(text: str) -> str:
    """Return a text with its contractions made.

    >>> contracted("What is he doing? I know what it is.")
    "What's he doing? I know what it is."
    """
    return _exchanged(text, _LONG_PATTERN, _CONTRACTIONS)


def expanded(text: str) -> str:
    """Return a text with its contractions written out; a possessive is none.

    >>> expanded("What's on the dog's back? It isn't red.")
    "What is on the dog's back? It is not red."
    """
    return _exchanged(text, _SHORT_PATTERN, _EXPANSIONS)


def fronted(text: str) -> str:
    """Return a statement with the place at its end put first.

    >>> fronted("There is a dog on the grass.")
    'On the grass, there is a dog.'
    """
    match = _FRONTED.fullmatch(text)
    if match is None:
        return text
    clause, place = match["clause"], match["place"]
    first, _, rest = clause.partition(" ")
    clause = f"{first.lower()} {rest}" if first.lower().split("'")[0] in _STARTERS else clause
    return f"{place[0].upper()}{place[1:]}, {clause}."


def _exchanged(text: str, pattern: re.Pattern[str], table: Mapping[str, str]) -> str:
    def new(match: re.Match[str]) -> str:
        found = match.group().lower()
        return _SPELT.get(table[found]) or with_case_of(match.group().split()[0], table[found])

    return pattern.sub(new, text)


def _any_of(table: Mapping[str, str], *, after: str = r"\b") -> re.Pattern[str]:
    longest_first = sorted(table, key=lambda words: (-len(words), words))
    return re.compile(rf"\b(?:{'|'.join(map(re.escape, longest_first))}){after}", re.IGNORECASE)


_FORMAL_PATTERN = _any_of(_FORMAL)
_CASUAL_PATTERN = _any_of(_CASUAL)
# "what it is" at the end of a sentence is never contracted.
_LONG_PATTERN = _any_of(_CONTRACTIONS, after=r"(?= \w)")
_SHORT_PATTERN = _any_of(_EXPANSIONS)
