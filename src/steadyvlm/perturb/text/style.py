"""How a sentence is put: voice, tense, formal or casual, denied twice.

Source: the text generator of Chen et al. 2023, arXiv 2306.02080, which rewrites with the T5 models of Styleformer and
calls TextFlint for tense and double denial.

Differs: models search with beams instead of sampling, so that a result can be had again. Without a model rules rewrite,
and the result says `fallback`. The lexicon of double denial is ours, with TextFlint's triggers less two ("moved",
"impressed") that it merely negates.
"""

from __future__ import annotations

from collections.abc import Callable

from steadyvlm.perturb.streams import TextRandom
from steadyvlm.perturb.text import inflect, models, register, tagger, voice
from steadyvlm.perturb.text.core import candidates, substitute
from steadyvlm.perturb.text.tokens import replaced, tokens, with_case_of
from steadyvlm.perturb.text.work import Work

_OPPOSITES = {
    "poor": "not rich",
    "bad": "not good",
    "lame": "not convincing",
    "awful": "not pleasant",
    "great": "not small",
    "good": "not bad",
    "better": "not worse",
    "best": "not worst",
    "love": "don't hate",
    "like": "don't dislike",
    "recommend": "don't discourage",
    "encourage": "don't discourage",
    "applause": "not jeers",
    "entertain": "don't bore",
    "entertaining": "not boring",
    "interesting": "not uninteresting",
    "interested": "not uninterested",
    "glad": "not sad",
    "positive": "not negative",
    "perfect": "not imperfect",
    "funny": "not serious",
    "worth": "not worthless",
    "awesome": "not mediocre",
    "wonderfully": "not terribly",
}
"""Words and their denied opposites: WordNet's antonym where it has a fitting one."""
_TENSE_SHARE = 10
_TENSE_MOST = 10
"""One verb of so many tokens changes tense, but no more than so many."""


def to_passive(work: Work) -> str:
    """Put an active sentence into the passive voice."""
    return _rewritten(work, "passive", _voice(voice.passive))


def to_active(work: Work) -> str:
    """Put a passive sentence into the active voice."""
    return _rewritten(work, "active", _voice(voice.active))


def to_formal(work: Work) -> str:
    """Say it formally."""
    return _rewritten(work, "formal", register.formal)


def to_casual(work: Work) -> str:
    """Say it casually."""
    return _rewritten(work, "casual", register.casual)


def tense(work: Work) -> str:
    """Put one verb, of long texts several, into another form; what comes out is seldom grammatical."""
    for what, module in (("tagger", tagger), ("lemminflect", inflect)):
        if not module.available():
            return work.missing(what)
    parts, tags = tagger.tagged(work.text)

    def forms(number: int) -> tuple[str, ...]:
        word = parts[number].word
        return tuple(form for form in inflect.verb_forms(word) if form != word.lower()) if word.isalpha() else ()

    def draw(number: int, draws: TextRandom) -> str:
        return with_case_of(parts[number].word, draws.choice(forms(number)))

    possible = candidates(parts, lambda number: tags[number].startswith("VB") and bool(forms(number)))
    return substitute(work, parts, possible, draw, count=min(len(parts) // _TENSE_SHARE, _TENSE_MOST))


def double_denial(work: Work) -> str:
    """Replace every word of judgement by its denied opposite: good becomes not bad."""
    parts = tokens(work.text)
    new = {number: _OPPOSITES.get(part.word.lower(), "") for number, part in enumerate(parts)}
    new = {number: with_case_of(parts[number].word, words) for number, words in new.items() if words}
    return replaced(work.text, parts, new) if new else work.unchanged("no word of judgement")


def _rewritten(work: Work, style: models.Style, by_rules: Callable[[str], str] | None) -> str:
    if not work.text.strip():
        return work.unchanged("empty")
    changed = models.restyled(work.text, style, work.resources)
    if changed is None:
        if by_rules is None:
            return work.missing("style_model")
        if not work.substituted("style_model", "rules"):
            return work.text
        changed = by_rules(work.text)
    return changed if changed != work.text else work.unchanged(f"no {style} form")


def _voice(rule: Callable[[str], str | None]) -> Callable[[str], str] | None:
    """Return the rule as one that gives back what it cannot change; None where its data is missing."""
    return (lambda text: rule(text) or text) if tagger.available() and inflect.available() else None
