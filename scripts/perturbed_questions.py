"""Write docs/perturbations-text.md: how often each perturbation of texts leaves a question as it was.

python scripts/perturbed_questions.py            write the page
python scripts/perturbed_questions.py --check    fail when it is stale

The questions are made from templates after the data sets the paper uses: 500 in the manner of VQA (short, open), 300 of
GQA (longer, composed), 200 of NLVR2 (statements about two pictures). The same 1,000 on every run; none is copied.
"""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from steadyvlm.perturb.base import Perturbation, Profile
from steadyvlm.perturb.streams import TextRandom
from steadyvlm.perturb.suite import TEXT
from steadyvlm.perturb.text import Resources, apply_text

PAGE = Path(__file__).resolve().parent.parent / "docs" / "perturbations-text.md"
COUNTS = {"vqa": 500, "gqa": 300, "nlvr": 200}
BY_RULES = frozenset({"to_formal", "to_casual", "to_passive", "to_active", "back_trans", "swap_syn_word_emb"})
"""Levels that the original does with a model; what it leaves unchanged cannot be had without one."""

VOCABULARY = """
person: man woman boy girl child person skier surfer player lady guy baby boy's_father woman's_friend
people: people men women children players kids skiers
animal: dog cat horse elephant zebra giraffe cow sheep bird bear teddy_bear
animals: dogs cats horses elephants zebras giraffes cows sheep birds bears
thing: bus train car truck motorcycle bicycle umbrella table chair couch laptop phone pizza cake sandwich plate bowl
    bottle cup clock sign bench kite surfboard skateboard frisbee hat shirt tie bag vase lamp mirror sink
    traffic_light fire_hydrant stop_sign tennis_racket baseball_bat remote_control
things: buses cars trucks bikes umbrellas chairs bottles cups plates donuts apples bananas books windows signs
place: table street grass beach counter wall field snow water road floor bed sidewalk background left_image
    right_image
side: left right
colour: red blue white black green yellow brown orange gray pink purple
material: wood metal plastic glass brick leather stone
look: wooden metal small large round striped empty old clean tall
doing: wearing holding riding eating carrying watching throwing pulling
done: worn held ridden eaten carried watched thrown pulled
being: sitting standing lying running walking playing sleeping
relation: in_front_of behind next_to on under near to_the_left_of to_the_right_of above
number: two three four five
good: good great best interesting happy nice perfect
"""
"""Words for the slots of the templates; an underscore is a space."""

TEMPLATES = {
    "vqa": """
What color is the {thing}?
What color is the {person}'s {thing}?
How many {animals} are there?
How many {things} are on the {place}?
How many {people} are in the picture?
Is this a {thing}?
Is the {animal} {being}?
Is the {person} {doing} a {thing}?
Are there any {things}?
Are the {people} {being}?
What is the {person} {doing}?
What is on the {place}?
What is the {person} doing?
Where is the {animal}?
What kind of {animal} is this?
What animal is this?
What sport is being played?
What room is this?
What is the weather like?
What time is it?
Does the {person} have a {thing}?
Does this look like a {good} meal?
Is it raining?
Is this photo black and white?
Who is {doing} the {thing}?
Which {thing} is {colour}?
What does the sign say?
Can you see the {animal}'s tail?
Why is the {person} {being}?
Is there a {thing} in the picture?
What is the {place} made of?
What brand is the {thing}?
Is the {thing} on?
Was this taken in the daytime?
Is the {person} having a {good} time?
What number is on the {thing}?
Do you think the {animal} would like the {thing}?
Are all the {things} {colour}?
How old is the {person}, approximately?
Is he {being}?
What's in the {thing}?
What is being {done} by the {person}?
Isn't the {animal} {colour}?
""",
    "gqa": """
Is the {thing} to the {side} or to the {side} of the {colour} {thing}?
What is {relation} the {colour} {thing}?
Who is {doing} the {thing}?
What is the {person} {relation} the {thing} {doing}?
Are there both {things} and {things} in this image?
Is the {colour} {thing} made of {material}?
Do you see any {look} {things} {relation} the {animal}?
What color is the {thing} {relation} the {place}?
Which kind of furniture is {relation} the {look} {thing}?
Does the {thing} {relation} the {person} look {colour}?
On which side of the photo is the {look} {thing}, the {side} or the {side}?
What type of animal is {relation} the {thing}?
Is there a {thing} that is not {colour}?
Are the {things} the same color as the {thing}?
What is the {look} {thing} {relation} the {person} called?
Is the {person} {doing} a {colour} {thing}?
Which color is the {thing} that is {relation} the {animal}?
Was the {thing} {relation} the {place}?
Is the {thing} being {done} by the {person} {relation} the {animal}?
""",
    "nlvr": """
There are {number} {animals} in the {side} image.
At least one {animal} is {being} on the {place}.
The {side} image shows a {colour} {thing} {relation} a {look} {thing}.
One of the images contains exactly {number} {things}.
In one image, a {person} is {doing} a {thing} {relation} the {animal}.
An image shows {number} {look} {things} on the {place}.
Each image contains at least {number} {things}.
The {animal} in the {side} image is facing the {side}.
There is no more than one {person} {being} in the images.
A {person} {doing} a {colour} {thing} is {relation} the {look} {thing} in the image on the {side}.
All of the {animals} are {being}.
The {person} in the {side} image is {doing} a {thing}.
Both images have {colour} {things} {relation} a {thing}.
The {thing} in one image is {good}, and the other is {look}.
""",
}


def questions() -> list[str]:
    """Return the 1,000 questions, each once."""
    rows = re.findall(r"^(\w+): ((?:.+\n)(?:    .+\n)*)", VOCABULARY, re.MULTILINE)
    words = {name: tuple(row.split()) for name, row in rows}
    found: dict[str, None] = {}
    for style, count in COUNTS.items():
        draws, goal = TextRandom("questions", style), len(found) + count
        while len(found) < goal:
            found.setdefault(_filled(draws.choice(TEMPLATES[style].split("\n")[1:-1]), words, draws))
    return list(found)


def _filled(template: str, words: Mapping[str, Sequence[str]], draws: TextRandom) -> str:
    text = re.sub(r"\{(\w+)\}", lambda slot: draws.choice(words[slot[1]]).replace("_", " "), template)
    return re.sub(r"\ba (?=[aeiou])", "an ", text)


@dataclass(frozen=True)
class Row:
    """Shares of questions left as they were, per severity: by the original's rules, by ours, and with `min_ops=1`."""

    perturbation: Perturbation
    original: tuple[float, ...]
    ours: tuple[float, ...]
    least_one: tuple[float, ...]


def unchanged(row: Perturbation, severity: int, texts: list[str], profile: Profile, resources: Resources) -> float:
    """Return the share of texts that a level leaves as they were; spaces around marks do not count."""
    results = [(text, apply_text(text, row.id, severity, profile=profile, resources=resources)) for text in texts]
    return sum(result.text == text or "why" in result.info for text, result in results) / len(texts)


def rows(texts: list[str]) -> Iterator[Row]:
    """Measure every level."""
    for row in TEXT:
        severities = range(1, row.levels + 1)
        original = tuple(unchanged(row, at, texts, "paper", Resources()) for at in severities)
        ours = tuple(unchanged(row, at, texts, "general", Resources()) for at in severities)
        floored = row.id in ("random_word_insert", "random_word_delete", "random_word_swap")
        one = (
            tuple(unchanged(row, at, texts, "general", Resources(min_ops=1)) for at in severities) if floored else ours
        )
        yield Row(row, original, ours, one)


def page() -> str:
    """Return the page."""
    texts = questions()
    words = sum(len(text.split()) for text in texts) / len(texts)
    measured = list(rows(texts))
    lines = [INTRODUCTION.format(count=f"{len(texts):,}", words=f"{words:.1f}"), *HEAD]
    for row in measured:
        by_rules = row.perturbation.id in BY_RULES
        cells = ["–" if by_rules else _shares(row.original), _shares(row.ours), _shares(row.least_one)]
        name = f"`{row.perturbation.id}`" + (" (rules)" if by_rules else "")
        lines.append(f"| {name} | {' | '.join(cells)} |")
    comparable = [row for row in measured if row.perturbation.id not in BY_RULES]
    means = [_mean([getattr(row, name) for row in comparable]) for name in ("original", "ours", "least_one")]
    lines.append(
        f"| **mean of the {len(comparable)} without a model** | " + " | ".join(f"**{m}**" for m in means) + " |"
    )
    return "\n".join(lines) + "\n" + REMARKS


def _shares(shares: tuple[float, ...]) -> str:
    return " / ".join(f"{100 * share:.1f}" for share in shares)


def _mean(values: list[tuple[float, ...]]) -> str:
    return f"{100 * sum(sum(shares) / len(shares) for shares in values) / len(values):.1f}"


INTRODUCTION = """<!-- Generated by `python scripts/perturbed_questions.py`; edit that script instead. -->

# Perturbations of texts

35 perturbations at 87 levels; `steadyvlm perturb --text "…"` shows them all. Each is a function:

```python
from steadyvlm.perturb import text

text.typos("What is the man holding?", severity=2)
```

`text.apply_text` also says what became of a text: `applied`, `noop` (nothing to change), `fallback` (rules in the place
of a model that is not there), `reverted` (by the fidelity filter) or `unavailable`. `text.perturb_sample` changes the
question of a sample; placeholders of pictures, options with their letters and numbers, and instructions on the form of
the answer stay byte by byte.

## What they do nothing to

Percent of {count} questions that a level leaves as they were, at severities 1 / 2 / 3 / 4 / 5. The questions are made
from templates in the manner of VQA, GQA and NLVR2 ({words} words on average).
"""

HEAD = ("| perturbation | the original's rules | here | with `min_ops=1` |", "| --- | --- | --- | --- |")

REMARKS = """
*The original's rules* are profile `paper`: the released generator as its rules are described, run here. Its six levels
that need a model or word vectors cannot be compared without them; here they are done by rules (`fallback`), and such
cells never enter a headline average.

Less is left unchanged here for four reasons: a draw that leaves a text as it was is drawn again; two words are really
exchanged, where the original undoes about half of its swaps; a noun with a mark on it ("dog?") is found; and colours
have synonyms where no other word has. Where both columns agree, the rule itself has nothing to do:
`random_word_insert`, `_delete` and `_swap` change a tenth of the words for each step of severity, rounded down, so
nothing of fewer than ten words at severity 1. That is kept for parity with published numbers; `Resources(min_ops=1)`
changes at least one word and is another suite.

## What they are made with

| what | from | without it |
| --- | --- | --- |
| tokens | plain sentences: our own expression, the same tokens; others: NLTK's NLTKWordTokenizer | extra `perturb` |
| parts of speech | the lexicon of TextBlob's PatternTagger, and its rules | `unavailable` |
| forms of words | lemminflect | `tense` is `unavailable`; synonyms keep the lemma |
| synonyms, sisters | WordNet 3.0, cut down to words and shipped (1.8 MB; `scripts/build_wordnet.py`) | – |
| misspellings | a list in the wheel of nlpaug, which is never imported | swapped and dropped letters, `fallback` |
| neighbouring keys, look-alikes, openers, proverbs, adverbs, opposites | our own tables | – |
| formal, casual, passive, active | T5 models named in `Resources`, in safetensors | rules, `fallback` |
| back translation | a pair of models named in `Resources` | contractions, synonyms, word order, `fallback` |
| word vectors | a file in GloVe or word2vec format, or a model's embeddings | sisters in WordNet, `fallback` |
| fidelity filter | a sentence encoder named in `Resources` | off, and results say so |

`text.ingredients()` returns versions and checksums of all of this for a manifest. WordNet's table is the project's own
file, so that every machine draws from the same synonyms; its licence is `WORDNET-LICENSE.txt` beside it.
"""


def main() -> None:
    """Write or check the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="fail when the page is stale")
    content = page()
    if not parser.parse_args().check:
        PAGE.write_text(content, encoding="utf-8")
    elif PAGE.read_text(encoding="utf-8") != content:
        sys.exit("docs/perturbations-text.md is stale; run `python scripts/perturbed_questions.py`.")


if __name__ == "__main__":
    main()
