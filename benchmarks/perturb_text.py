"""How many questions per second each level of the text suite perturbs by rules, on one core.

1,000 questions in the manner of VQA, GQA and NLVR2 go through every perturbation at its least and greatest severity;
all work by rules when no model is named. What a process keeps between texts (tokens, tags, synonyms) is emptied before
each, so every number is that of texts never seen before. Beside it stands, from the same minute, the time of the least
that any rule must do: one plain pass over the characters in Python. Ratios compare between machines; sentences per
second do not.

Run: `python -m benchmarks.perturb_text`
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable

from scripts.perturbed_questions import questions

from steadyvlm.perturb.suite import TEXT
from steadyvlm.perturb.text import apply_text, inflect, synonyms, tagger, tokens, wordnet

ROUNDS = 3
TARGET = 5_000
"""Sentences per second that every level by rules should reach."""
KEPT = (
    tokens.sentences,
    tagger.tagged,
    tagger.tag_alone,
    inflect.lemma,
    inflect.inflected,
    inflect.verb_forms,
    wordnet.synonyms,
    wordnet.sisters,
    synonyms.synonyms,
    synonyms.sisters,
)


def plain_pass(text: str) -> str:
    """Visit every character once."""
    return "".join(character.lower() if character.isalpha() else character for character in text)


def per_text(work: Callable[[str], object], texts: list[str]) -> float:
    """Return the median CPU time per text, in seconds, with nothing kept from earlier texts."""
    times = []
    for _ in range(ROUNDS):
        for function in KEPT:
            function.cache_clear()
        start = time.process_time()
        for text in texts:
            work(text)
        times.append(time.process_time() - start)
    return statistics.median(times) / len(texts)


def main() -> None:
    """Print the table."""
    texts = questions()
    for row in TEXT:
        apply_text(texts[0], row.id, 1)  # reads the tables
    apply_text('"A dog," he said.', "typos", 1)  # imports NLTK
    print(f"{'level':24} {'sentences/s':>12} {'plain passes':>13}")
    slowest = float("inf")
    total = count = 0.0
    for row in TEXT:
        for severity in (1, row.levels) if row.levels > 1 else (1,):
            ours = per_text(lambda text: apply_text(text, row.id, severity), texts)  # noqa: B023 - called at once
            plain = per_text(plain_pass, texts)
            slowest, total, count = min(slowest, 1 / ours), total + ours, count + 1
            print(f"{row.id + '@' + str(severity):24} {1 / ours:12,.0f} {ours / plain:13.1f}")
    print(f"slowest {slowest:,.0f} sentences per second, mean {count / total:,.0f}; wanted of each: {TARGET:,}")


if __name__ == "__main__":
    main()
