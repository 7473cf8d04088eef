"""Words dropped or kept by their part of speech: what is left is where the answer comes from.

Source: the text generator of Chen et al. 2023, arXiv 2306.02080. Tokens are joined by spaces there ("bus ?"), and so
here.

Differs: all sentences count, where the released code keeps the last only; and a drawn noun is dropped wherever it
stands, where that code misses one with a mark on it ("dog?"). `paper` does as it does, empty texts apart, which make it
fail.
"""

from __future__ import annotations

from steadyvlm.perturb.text import tagger
from steadyvlm.perturb.text.tokens import replaced, words
from steadyvlm.perturb.text.work import Work

NOUN, VERB = "NN", "VB"


def drop_nn(work: Work) -> str:
    """Drop all nouns."""
    return _dropped(work, (NOUN,))


def drop_vb(work: Work) -> str:
    """Drop all verbs."""
    return _dropped(work, (VERB,))


def drop_vb_nn(work: Work) -> str:
    """Drop all verbs and nouns."""
    return _dropped(work, (VERB, NOUN))


def only_nn(work: Work) -> str:
    """Drop all but the nouns, marks included."""
    return _dropped(work, (NOUN,), others=True)


def only_vb(work: Work) -> str:
    """Drop all but the verbs, marks included."""
    return _dropped(work, (VERB,), others=True)


def only_vb_nn(work: Work) -> str:
    """Drop all but verbs and nouns, marks included."""
    return _dropped(work, (VERB, NOUN), others=True)


def drop_rand_one_nn(work: Work) -> str:
    """Drop one noun, wherever it stands."""
    return _dropped_one(work, NOUN, "no noun")


def drop_rand_one_vb(work: Work) -> str:
    """Drop one verb, wherever it stands."""
    return _dropped_one(work, VERB, "no verb")


def _dropped(work: Work, kinds: tuple[str, ...], *, others: bool = False) -> str:
    if not tagger.available():
        return work.missing("tagger")
    parts, tags = tagger.last_sentence(work.text) if work.paper else tagger.tagged(work.text)
    hit = [tag.startswith(kinds) != others for tag in tags]
    if not any(hit):
        work.unchanged("no such word")
        if not work.paper:
            return work.text
    token = work.resources.drop_token
    return " ".join(token if gone else part.word for part, gone in zip(parts, hit, strict=True))


def _dropped_one(work: Work, kind: str, none: str) -> str:
    if not tagger.available():
        return work.missing("tagger")
    parts, tags = tagger.last_sentence(work.text) if work.paper else tagger.tagged(work.text)
    found = [part.word for part, tag in zip(parts, tags, strict=True) if tag.startswith(kind)]
    if not found:
        return work.unchanged(none)
    chosen, token = work.draws("which").choice(found), work.resources.drop_token
    if work.paper:
        return " ".join(token if word == chosen else word for word in words(work.text))
    new = {number: token for number, part in enumerate(parts) if part.word == chosen}
    return " ".join(words(replaced(work.text, parts, new)))
