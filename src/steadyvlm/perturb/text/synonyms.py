"""Words replaced by related ones, and whole sentences by a paraphrase.

Source: the text generator of Chen et al. 2023, arXiv 2306.02080, which calls TextFlint with WordNet, with the 20
nearest GloVe neighbours of 17,433 words, and with a translation to German and back (wmt19).

Differs: candidates are sorted and drawn, where TextFlint takes the first of a Python set, another one in every process.
A synonym takes the form of the word it replaces ("dogs" -> "hounds"), where the released code puts in the lemma, as
`paper` does; and where no word has another synonym, adjective satellites (all colours) are taken in. Word vectors are
not shipped: without any, words become their sisters in WordNet; without a translation model a rule paraphrases; and the
result says `fallback`.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from functools import lru_cache

from steadyvlm.perturb.streams import TextRandom
from steadyvlm.perturb.text import inflect, models, register, tagger, vectors, wordnet
from steadyvlm.perturb.text.core import candidates, substitute
from steadyvlm.perturb.text.tokens import tokens, with_case_of
from steadyvlm.perturb.text.work import Work

PARAPHRASED = 2
"""At most so many words become synonyms in the paraphrase by rules."""


def swap_syn_word_net(work: Work) -> str:
    """A share of the words becomes synonyms out of WordNet."""
    if wordnet.load() is None:
        return work.missing("wordnet")
    if not tagger.available():
        return work.missing("tagger")
    return _swapped(work, work.share(len(tokens(work.text))))


def swap_syn_word_emb(work: Work) -> str:
    """A share of the words becomes neighbours among word vectors, or sisters in WordNet."""
    if not tagger.available():
        return work.missing("tagger")
    near: vectors.Neighbours | None = vectors.neighbours(work.resources)
    if near is None:
        near = models.embedding_neighbours(work.resources)
        if near is not None:
            name = "model-embedding"
        elif wordnet.load() is not None:
            name = "wordnet-sister"
        else:
            return work.missing("word_vectors")
        if not work.substituted("word_vectors", name):
            return work.text
    parts, tags = tagger.tagged(work.text)

    def related(number: int) -> tuple[str, ...]:
        word, tag = parts[number].word, tags[number]
        if near is None:
            return sisters(word, tag)
        alone = tagger.tag_alone(word.lower())
        return tuple(other for other in near.get(word.lower(), ()) if tagger.tag_alone(other) == alone)

    def draw(number: int, draws: TextRandom) -> str:
        return with_case_of(parts[number].word, draws.choice(related(number)))

    possible = candidates(parts, lambda number: bool(related(number)))
    return substitute(work, parts, possible, draw, count=work.share(len(parts)))


def back_trans(work: Work) -> str:
    """Translate to another language and back, or paraphrase by rules."""
    if not work.text.strip():
        return work.unchanged("empty")
    translated = models.translated_and_back(work.text, work.resources)
    if translated is not None:
        return translated
    if wordnet.load() is None or not tagger.available():
        return work.missing("translation_model")
    if not work.substituted("translation_model", "rule-paraphrase"):
        return work.text
    changed = register.contracted(work.text)
    changed = register.expanded(work.text) if changed == work.text else changed
    count = min(PARAPHRASED, len(tokens(changed)) * 15 // 100)
    # Notes of its own: that no word has a synonym does not mean that the paraphrase changed nothing.
    return register.fronted(_swapped(replace(work, text=changed, notes={}), count))


@lru_cache(maxsize=65536)
def synonyms(word: str, tag: str, *, paper: bool = False, satellites: bool = False) -> tuple[str, ...]:
    """Return what may replace a word of this tag, sorted.

    >>> synonyms("cars", "NNS")[:3]
    ('automobiles', 'autos', 'gondolas')
    """
    kind = wordnet.KINDS.get(tag[:2])
    if kind is None:
        return ()
    found = [name for name in wordnet.synonyms(word, kind, satellites=satellites) if name != word]
    if paper:
        return tuple(found)
    own = {*wordnet.lemmas(word, kind), word.lower()}
    return _in_form((name for name in found if name.lower() not in own), word, tag)


@lru_cache(maxsize=65536)
def sisters(word: str, tag: str) -> tuple[str, ...]:
    """Return words that mean something of the same sort, in the form of the tag; nouns and verbs have them.

    >>> "cat" in sisters("wolf", "NN")
    False
    """
    kind = wordnet.KINDS.get(tag[:2])
    return () if kind is None else _in_form(wordnet.sisters(word, kind), word, tag)


def _swapped(work: Work, count: int) -> str:
    parts, tags = tagger.tagged(work.text)
    possible: list[int] = []
    related: dict[int, tuple[str, ...]] = {}
    for satellites in (False,) if work.paper else (False, True):
        if not possible:
            related = {
                number: synonyms(part.word, tag, paper=work.paper, satellites=satellites)
                for number, (part, tag) in enumerate(zip(parts, tags, strict=True))
            }
            possible = candidates(parts, lambda number: bool(related[number]))  # noqa: B023 - called at once

    def draw(number: int, draws: TextRandom) -> str:
        return with_case_of(parts[number].word, draws.choice(related[number]))

    return substitute(work, parts, possible, draw, count=count)


def _in_form(names: Iterable[str], word: str, tag: str) -> tuple[str, ...]:
    forms = {inflect.inflected(name, tag) for name in names}
    return tuple(sorted(form for form in forms if form.lower() != word.lower()))
