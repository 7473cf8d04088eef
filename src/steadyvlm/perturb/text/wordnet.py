"""WordNet 3.0, as far as replacing words needs it: synonyms, sisters under one hypernym, antonyms, irregular forms.

Source: Princeton University's WordNet 3.0 (its licence is data/WORDNET-LICENSE.txt), cut down to lemmas of one word by
scripts/build_wordnet.py and shipped with the package. Every machine reads the same table, whatever it has installed.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache, lru_cache
from typing import Any

from steadyvlm.perturb.text.files import shipped_table

TABLE = "wordnet.json.gz"
MOST_SISTERS = 20
KINDS = {"NN": "n", "VB": "v", "JJ": "a", "RB": "r"}
"""Part of speech in WordNet, by the first two letters of a tag."""
_ENDINGS: dict[str, tuple[tuple[str, str], ...]] = {
    "n": (
        ("s", ""),
        ("ses", "s"),
        ("ves", "f"),
        ("xes", "x"),
        ("zes", "z"),
        ("ches", "ch"),
        ("shes", "sh"),
        ("men", "man"),
        ("ies", "y"),
    ),
    "v": (("s", ""), ("ies", "y"), ("es", "e"), ("es", ""), ("ed", "e"), ("ed", ""), ("ing", "e"), ("ing", "")),
    "a": (("er", ""), ("est", ""), ("er", "e"), ("est", "e")),
    "r": (),
}
"""What WordNet's morphology takes off a word and puts in its place."""


@dataclass(frozen=True, slots=True)
class PartOfSpeech:
    """One part of speech; synsets are numbered.

    Attributes:
        synsets: lemmas of one word of each.
        satellites: adjective synsets that lean on another.
        hypernyms: direct hypernyms of each synset that has any.
        hyponyms: the inverse.
        senses: synsets of each lemma, the most frequent first.
        irregular: lemmas of irregular forms.
        antonyms: direct antonyms of lemmas.
        counts: how often lemmas were seen in tagged texts.
    """

    synsets: list[str]
    satellites: frozenset[int]
    hypernyms: dict[int, list[int]]
    hyponyms: dict[int, list[int]]
    senses: dict[str, list[int]]
    irregular: dict[str, list[str]]
    antonyms: dict[str, list[str]]
    counts: dict[str, int]


@cache
def load() -> dict[str, PartOfSpeech] | None:
    """Return the table by part of speech (n, v, a, r), or None where its file was left out."""
    rows = shipped_table(TABLE)
    return None if rows is None else {kind: _part(row) for kind, row in rows.items()}


def lemmas(word: str, kind: str) -> tuple[str, ...]:
    """Return the lemmas that a word may be a form of.

    >>> lemmas("mice", "n"), lemmas("running", "v"), lemmas("qwxz", "n")
    (('mouse',), ('run',), ())
    """
    part = _known()[kind]
    word = word.lower()
    bases = part.irregular.get(word) or [
        word[: len(word) - len(ending)] + new for ending, new in _ENDINGS[kind] if word.endswith(ending)
    ]
    return tuple(dict.fromkeys(form for form in (word, *bases) if form in part.senses))


@lru_cache(maxsize=65536)
def synonyms(word: str, kind: str, *, satellites: bool = False) -> tuple[str, ...]:
    """Return the lemmas of all synsets of a word, sorted, the word and its own lemmas included.

    Args:
        word: in any form.
        kind: its part of speech.
        satellites: take in adjective satellites, such as all colours; the reference leaves them out.

    >>> synonyms("cars", "n")[:4], synonyms("gray", "a", satellites=True)[:4]
    (('auto', 'automobile', 'car', 'gondola'), ('gray', 'gray-haired', 'gray-headed', 'grayish'))
    """
    part = _known()[kind]
    numbers = {number for lemma in lemmas(word, kind) for number in part.senses[lemma]}
    numbers -= frozenset() if satellites else part.satellites
    return tuple(sorted({name for number in numbers for name in part.synsets[number].split()}))


@lru_cache(maxsize=65536)
def sisters(word: str, kind: str) -> tuple[str, ...]:
    """Return lemmas that share a direct hypernym with the first sense of a word: the 20 most frequent, sorted.

    They are related to the word and mean something else, as neighbours among word vectors do.

    >>> "bus" in sisters("trucks", "n") or "car" in sisters("trucks", "n")
    True
    """
    part = _known()[kind]
    own = lemmas(word, kind)
    if not own:
        return ()
    first = part.senses[own[0]][0]
    beside = {n for above in part.hypernyms.get(first, ()) for n in part.hyponyms[above]} - {first}
    names = {name for number in beside for name in part.synsets[number].split() if name.isalpha() and name.islower()}
    names -= {*own, word.lower()}
    return tuple(sorted(sorted(names, key=lambda name: (-part.counts.get(name, 0), name))[:MOST_SISTERS]))


def antonyms(word: str) -> tuple[str, ...]:
    """Return the direct antonyms of a lemma in any part of speech, sorted.

    >>> antonyms("like"), antonyms("good")
    (('dislike', 'unlike'), ('bad', 'evil'))
    """
    return tuple(sorted({other for part in _known().values() for other in part.antonyms.get(word, ())}))


def _known() -> dict[str, PartOfSpeech]:
    found = load()
    assert found is not None, "asked WordNet where it is not available"
    return found


def _part(row: dict[str, Any]) -> PartOfSpeech:
    hypernyms = {int(number): above for number, above in row["hypernyms"].items()}
    hyponyms: dict[int, list[int]] = {}
    for number, above in hypernyms.items():
        for other in above:
            hyponyms.setdefault(other, []).append(number)
    return PartOfSpeech(
        synsets=row["synsets"],
        satellites=frozenset(row["satellites"]),
        hypernyms=hypernyms,
        hyponyms=hyponyms,
        senses=row["senses"],
        irregular=row["irregular"],
        antonyms=row["antonyms"],
        counts=row["counts"],
    )
