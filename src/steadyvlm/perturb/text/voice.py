"""Active to passive and back by rules, for short sentences and questions.

These stand in for trained style models, and results made with them say so. A clause is rewritten when it is one of

    NP1 V NP2 …            A man rides a horse.            A horse is ridden by a man.
    NP1 be V-ing NP2 …     A man is riding a horse.        A horse is being ridden by a man.
    be NP1 V-ing NP2 …?    Is the man riding a horse?      Is a horse being ridden by the man?
    do NP1 V NP2 …?        Does the man ride a horse?      Is a horse ridden by the man?
    what be NP1 V-ing …?   What is the man riding?         What is being ridden by the man?
    what do NP1 V …?       What does the man ride?         What is ridden by the man?

and its mirror image; everything else, such as "there is", has no counterpart.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from steadyvlm.perturb.text import inflect, tagger
from steadyvlm.perturb.text.tokens import sentences

_BE = {"am": "present", "is": "present", "are": "present", "was": "past", "were": "past"}
_DO = {"do": "present", "does": "present", "did": "past"}
_OBJECTS = {"i": "me", "he": "him", "she": "her", "we": "us", "they": "them"}
_SUBJECTS = {other: one for one, other in _OBJECTS.items()} | {"me": "I"}
_MANY = frozenset({"they", "them", "we", "us", "you", "i", "me"})
"""Pronouns with the verb of several: they ride, I ride."""
_STATES = frozenset({"be", "have", "seem", "become", "look", "appear", "weigh", "cost", "resemble", "lack"})
"""Verbs with an object but no passive."""
_PLACED = frozenset({"seated", "parked", "located", "placed", "positioned", "situated", "standing", "passed"})
"""Participles after which "by" says where, not by whom."""


class Phrase(NamedTuple):
    """A noun phrase, and the number of the word after it."""

    words: tuple[str, ...]
    plural: bool
    end: int


class Clause(NamedTuple):
    """Who does what to whom.

    Attributes:
        agent: who does it.
        verb: its lemma.
        patient: to whom; None asks "what".
        rest: words after it.
        tense: present or past.
        progressive: "is riding" rather than "rides".
        question: whether it asks.
    """

    agent: Phrase
    verb: str
    patient: Phrase | None
    rest: tuple[str, ...]
    tense: str
    progressive: bool
    question: bool


def passive(text: str) -> str | None:
    """Return an active sentence in the passive voice, or None where there is no such form.

    >>> passive("Is the man wearing a hat?"), passive("There are two dogs.")
    ('Is a hat being worn by the man?', None)
    """
    words, tags, mark = _read(text)
    clause = _active(words, tags)
    if clause is None:
        return None
    verb = inflect.inflected(clause.verb, "VBN")
    doing = ("being", verb) if clause.progressive else (verb,)
    tail = (*doing, "by", *_as(clause.agent, _OBJECTS), *clause.rest)
    if clause.patient is None:
        return _written(("what", _be(clause.tense, None), *tail), text, mark)
    be, patient = _be(clause.tense, clause.patient), _as(clause.patient, _SUBJECTS)
    return _written((be, *patient, *tail) if clause.question else (*patient, be, *tail), text, mark)


def active(text: str) -> str | None:
    """Return a passive sentence in the active voice, or None where there is no such form.

    >>> active("The ball was thrown by the boy."), active("What is being eaten by the dogs?")
    ('The boy threw the ball.', 'What are the dogs eating?')
    """
    words, tags, mark = _read(text)
    clause = _passive(words, tags)
    if clause is None:
        return None
    agent, patient = _as(clause.agent, _SUBJECTS), () if clause.patient is None else _as(clause.patient, _OBJECTS)
    asked = ("what",) if clause.patient is None else ()
    if clause.progressive:
        helper, verb = _be(clause.tense, clause.agent), inflect.inflected(clause.verb, "VBG")
    elif clause.question:
        helper, verb = _do(clause.tense, plural=clause.agent.plural), clause.verb
    else:
        return _written((*agent, _finite(clause), *patient, *clause.rest), text, mark)
    if clause.question:
        return _written((*asked, helper, *agent, verb, *patient, *clause.rest), text, mark)
    return _written((*agent, helper, verb, *patient, *clause.rest), text, mark)


def _read(text: str) -> tuple[list[str], list[str], str]:
    """Return the words of a single sentence with small first letter, their tags, and the mark at the end."""
    found = sentences(text)
    if len(found) != 1:
        return [], [], ""
    words = [token.word for token in found[0]]
    tags = tagger.tags(words)
    mark = words.pop() if words[-1] in (".", "?", "!") else ""
    if words and (tags[0] != "NNP" or words[0].lower() in _BE) and words[0] != "I":
        words[0] = words[0][:1].lower() + words[0][1:]
    return words, tags[: len(words)], mark


def _active(words: Sequence[str], tags: Sequence[str]) -> Clause | None:
    asked, helper, agent, at = _start(words, tags)
    if agent is None:
        return None
    tense, progressive = "present", False
    if helper in _BE or (not helper and _word(words, at) in _BE):
        tense, progressive = _BE[helper or words[at]], True
        at += not helper
        if _tag(tags, at) != "VBG":
            return None
    elif helper:
        tense = _DO[helper]
    elif _tag(tags, at) in ("VB", "VBZ", "VBP", "VBD", "VBN"):
        tense = "past" if tags[at] in ("VBD", "VBN") else "present"
    else:
        return None
    if at >= len(words) or not words[at].isalpha():
        return None
    verb = inflect.lemma(words[at], "VB")
    patient = None if asked else _phrase(words, tags, at + 1)
    end = at + 1 if patient is None else patient.end
    if verb in _STATES or (patient is None) != asked or not _closed(words, tags, end):
        return None
    return Clause(agent, verb, patient, tuple(words[end:]), tense, progressive, bool(helper))


def _passive(words: Sequence[str], tags: Sequence[str]) -> Clause | None:
    asked = _word(words, 0) == "what"
    question = asked or _word(words, 0) in _BE
    patient = None if asked else _phrase(words, tags, int(question), attached=True)
    if not asked and patient is None:
        return None
    be = 1 if asked else (0 if question else patient.end if patient else 0)
    at = patient.end if patient and question else be + 1
    if _word(words, be) not in _BE:
        return None
    progressive = _word(words, at) == "being"
    at += progressive
    if not _tag(tags, at).startswith("VB") or words[at] in _PLACED or _word(words, at + 1) != "by":
        return None
    agent = _phrase(words, tags, at + 2)
    if agent is None:
        return None
    verb, rest = inflect.lemma(words[at], "VB"), tuple(words[agent.end :])
    if words[at] != inflect.inflected(verb, "VBN"):
        return None
    return Clause(agent, verb, patient, rest, _BE[words[be]], progressive, question)


def _start(words: Sequence[str], tags: Sequence[str]) -> tuple[bool, str, Phrase | None, int]:
    """Read "what", the helping verb of a question, and who acts; return them and where the verb should be."""
    asked = _word(words, 0) == "what"
    at = int(asked)
    helper = words[at] if _word(words, at) in _BE or _word(words, at) in _DO else ""
    if asked and not helper:
        return asked, helper, None, at
    agent = _phrase(words, tags, at + bool(helper), attached=True)
    return asked, helper, agent, agent.end if agent else at


def _phrase(words: Sequence[str], tags: Sequence[str], at: int, *, attached: bool = False) -> Phrase | None:
    """Return the noun phrase that starts at a word; with what is attached to it ("in the hat") if asked."""
    place, end, plural = at, 0, False
    while (found := _nouns(words, tags, place)) is not None:
        place, many = found
        if _tag(tags, place) != "POS":
            # Of "the men in the hat" the men decide; of "the men's hat", the hat.
            plural, end = plural if end else many, place
            if not attached or _tag(tags, place) != "IN" or words[place] == "by":
                break
        place += 1
    return Phrase(tuple(words[at:end]), plural, end) if end else None


def _nouns(words: Sequence[str], tags: Sequence[str], at: int) -> tuple[int, bool] | None:
    """Return where a run of nouns with article and adjectives ends, or a pronoun, and whether there are several."""
    start = at
    if _tag(tags, at) == "PRP" or (_word(words, at) == "her" and _tag(tags, at + 1) in ("", "IN")):
        return at + 1, words[at].lower() in _MANY
    while _tag(tags, at) in ("PDT", "DT", "PRP$", "CD", "JJ", "JJR", "JJS") or (at > start and _tag(tags, at) == "VBN"):
        at += 1
    first = at
    while _tag(tags, at).startswith("NN"):
        at += 1
    return None if at == first else (at, tags[at - 1] in ("NNS", "NNPS"))


def _closed(words: Sequence[str], tags: Sequence[str], at: int) -> bool:
    """Tell whether a clause is complete before a word: nothing follows, or a preposition with its own phrase."""
    if at == len(words):
        return True
    return _tag(tags, at) == "IN" and _phrase(words, tags, at + 1) is not None


def _as(phrase: Phrase, case: dict[str, str]) -> tuple[str, ...]:
    return (case.get(phrase.words[0].lower(), phrase.words[0]), *phrase.words[1:])


def _be(tense: str, subject: Phrase | None) -> str:
    if subject is not None and subject.words[0].lower() in ("i", "me"):
        return {"present": "am", "past": "was"}[tense]
    return {"present": ("is", "are"), "past": ("was", "were")}[tense][subject is not None and subject.plural]


def _do(tense: str, *, plural: bool) -> str:
    return "did" if tense == "past" else ("does", "do")[plural]


def _finite(clause: Clause) -> str:
    if clause.tense == "past":
        return inflect.inflected(clause.verb, "VBD")
    return clause.verb if clause.agent.plural else inflect.inflected(clause.verb, "VBZ")


def _written(words: Sequence[str], text: str, mark: str) -> str:
    joined = " ".join(words).replace(" 's", "'s").replace(" ,", ",")
    return (joined[:1].upper() + joined[1:] if text.strip()[:1].isupper() else joined) + mark


def _word(words: Sequence[str], at: int) -> str:
    return words[at] if at < len(words) else ""


def _tag(tags: Sequence[str], at: int) -> str:
    return tags[at] if at < len(tags) else ""
