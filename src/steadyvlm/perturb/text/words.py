"""Whole words added, dropped or put elsewhere; nothing but the tagger of insert_adv needs data.

Source: the text generator of Chen et al. 2023, arXiv 2306.02080 (adarobustness/corruption). Its random_word_insert puts
in `[UNK]`, not synonyms as EDA does. The adverbs are the most frequent of WordNet; openers and proverbs are our lists.

Differs: random_word_swap exchanges two places. The released code finds the words again by value after the first write
and so undoes about half of its swaps, which `paper` reproduces.
"""

from __future__ import annotations

from steadyvlm.perturb.text import tagger
from steadyvlm.perturb.text.files import lines
from steadyvlm.perturb.text.tokens import replaced, tokens, words
from steadyvlm.perturb.text.work import Work

_WRITTEN_OUT = {"'s": "is", "'re": "are", "'m": "am", "'ve": "have", "'ll": "will", "'d": "would"}
LONG = 10
"""From so many tokens on, append_irr adds a proverb, too."""


def insert_adv(work: Work) -> str:
    """Put an adverb before every verb."""
    if not tagger.available():
        return work.missing("tagger")
    parts, tags = tagger.tagged(work.text)
    draws = work.draws("adverbs")
    new = {}
    for number, (part, tag) in enumerate(zip(parts, tags, strict=True)):
        if tag.startswith("VB"):
            adverb = draws.choice(lines("adverbs.txt"))
            verb = part.word
            if number == 0 and verb.istitle() and not work.paper:
                adverb, verb = adverb.capitalize(), verb.lower()
            glued = part.start > 0 and not work.text[part.start - 1].isspace()
            new[number] = f"{' ' if glued else ''}{adverb} {_WRITTEN_OUT.get(verb, verb)}"
    return replaced(work.text, parts, new) if new else work.unchanged("no verb")


def append_irr(work: Work) -> str:
    """Put an opener before the sentence, and behind a long one a proverb."""
    if not work.text.strip():
        return work.unchanged("empty")
    opened = f"{work.draws('opener').choice(lines('openers.txt'))} {work.text}"
    if len(tokens(work.text)) < LONG:
        return opened
    return f"{opened} {work.draws('proverb').choice(lines('proverbs.txt'))}"


def random_word_insert(work: Work) -> str:
    """Insert dropped words' token at random gaps, as many as a share of the words."""
    found = words(work.text)
    draws = work.draws("places")
    count = _operations(work, len(found))
    for _ in range(count):
        found.insert(draws.below(len(found) + 1), work.resources.drop_token)
    return " ".join(found) if count else work.unchanged("too few words")


def random_word_delete(work: Work) -> str:
    """Delete a share of the words, but never the last that is left."""
    found = words(work.text)
    draws = work.draws("places")
    count = min(_operations(work, len(found)), len(found) - 1)
    for _ in range(count):
        found.remove(draws.choice(found))
    return " ".join(found) if count > 0 else work.unchanged("too few words")


def random_word_swap(work: Work) -> str:
    """Exchange two words, as many times as a share of the words."""
    found = words(work.text)
    draws = work.draws("places")
    count = _operations(work, len(found))
    if count == 0 or len(set(found)) < 2:
        return work.unchanged("too few words")
    for _ in range(count):
        if work.paper:
            one, other = draws.choice(found), draws.choice(found)
            found[found.index(one)] = other
            found[found.index(other)] = one
        else:
            here, there = draws.sample(range(len(found)), 2)
            found[here], found[there] = found[there], found[here]
    return " ".join(found)


def drop_first(work: Work) -> str:
    """Drop the first word."""
    return _without(work, first=True)


def drop_last(work: Work) -> str:
    """Drop the last word, and the mark on it."""
    return _without(work, last=True)


def drop_first_and_last(work: Work) -> str:
    """Drop the first and the last word; of a single word both."""
    return _without(work, first=True, last=True)


def shuffle_order(work: Work) -> str:
    """Put the words into a random order."""
    found = words(work.text)
    if len(set(found)) < 2:
        return work.unchanged("too few words")
    work.draws("order").shuffle(found)
    return " ".join(found)


def _without(work: Work, *, first: bool = False, last: bool = False) -> str:
    found = words(work.text)
    if not found:
        return work.unchanged("empty")
    token = work.resources.drop_token
    inside = found[first : len(found) - last]
    return " ".join([*[token] * first, *inside, *[token] * last])


def _operations(work: Work, count: int) -> int:
    """Return how many words to change: a share rounded down, which is none for short texts at low severities."""
    return max(work.share(count), min(work.resources.min_ops, count))
