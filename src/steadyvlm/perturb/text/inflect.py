"""Forms of words: the lemma of a form, and the form a tag asks for.

Source: lemminflect (MIT), whose tables ship in its wheel.
"""

from __future__ import annotations

import importlib
from functools import cache, lru_cache
from importlib.util import find_spec
from typing import Any

FORMS = ("VB", "VBD", "VBG", "VBN", "VBZ")
"""Tags of the forms of a verb that differ in spelling."""
_INFLECTED = frozenset({"NNS", "VBD", "VBG", "VBN", "VBZ", "JJR", "JJS", "RBR", "RBS"})
_UNIVERSAL = {"NN": "NOUN", "VB": "VERB", "JJ": "ADJ", "RB": "ADV"}


@cache
def available() -> bool:
    """Tell whether lemminflect is installed."""
    return find_spec("lemminflect") is not None


@lru_cache(maxsize=65536)
def lemma(word: str, tag: str) -> str:
    """Return the lemma of a form; only where `available()`.

    >>> lemma("holding", "VBG"), lemma("mice", "NNS")
    ('hold', 'mouse')
    """
    return str((_library().getLemma(word, _UNIVERSAL[tag[:2]]) or (word,))[0])


@lru_cache(maxsize=65536)
def inflected(word: str, tag: str) -> str:
    """Return the form of a lemma that a tag asks for: the lemma itself for most, or where lemminflect is missing.

    >>> inflected("dog", "NNS"), inflected("run", "VBG"), inflected("run", "VB")
    ('dogs', 'running', 'run')
    """
    if tag not in _INFLECTED or not available():
        return word
    return str((_library().getInflection(word, tag) or (word,))[0])


@lru_cache(maxsize=65536)
def verb_forms(word: str) -> tuple[str, ...]:
    """Return all forms of the verb that `word` is a form of, in lower case; only where `available()`.

    >>> verb_forms("held")
    ('held', 'hold', 'holding', 'holds')
    """
    found = _library().getAllInflections(lemma(word.lower(), "VB"), "VERB")
    return tuple(sorted({str(found[tag][0]) for tag in FORMS if found.get(tag)}))


@cache
def _library() -> Any:
    # By name: its tables take half a second to read, which only texts that need them should pay.
    return importlib.import_module("lemminflect")
