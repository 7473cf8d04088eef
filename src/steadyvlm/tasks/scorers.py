"""Text to answer and score, by kind of question.

The `answer` is the canonical form two runs are compared by; the score is a function of that answer and the references
alone. Hence an unchanged answer cannot change its score, which is what makes a negative divergence ratio a part of the
divergence ratio. `UNPARSED` is a value of its own: wrong, counted, equal to itself, never replaced by a guess.

| kind     | answer                               | score                                        |
|----------|--------------------------------------|----------------------------------------------|
| open     | lower case, no ASCII punctuation     | 1 if equal to a reference in the same form   |
| open_ten | `vqa_normalise`                      | leave-one-out soft accuracy, exact tenths    |
| choice   | text of the chosen option            | 1 if it is the gold option's text            |
| yes_no   | yes or no                            | 1 if equal to the reference                  |

A choice is compared by the option's text, not its letter, so that rotating the options changes no answer.

Source: VQA soft accuracy in the leave-one-out form of the VQA evaluation code (Antol et al., 2015, arXiv:1505.00468);
`exact_form` is lmms-eval's exact match; `token_recall` follows LLaVA-Med (Li et al., 2023, arXiv:2306.00890).
Differs: an empty answer is unparsed and wrong, even where a reference normalises to nothing (a gold answer "the").
"""

from __future__ import annotations

import string
from collections.abc import Sequence
from fractions import Fraction

from steadyvlm.errors import SampleError
from steadyvlm.records import UNPARSED, AnswerKind, Grade, Sample
from steadyvlm.tasks.normalise import vqa_normalise, vqa_normalise_v2
from steadyvlm.tasks.parse import choice_letter, option_letters, yes_no

MIN_ANNOTATORS = 4
"""Fewest references for a soft score: with three or fewer, leave-one-out can never reach 1."""

_NO_PUNCTUATION = str.maketrans("", "", string.punctuation)


def grade(sample: Sample, text: str) -> Grade:
    """Read the answer out of `text` and score it by `sample.kind`.

    Raises:
        SampleError: if the sample's references do not fit its kind (see `check_gold`).
    """
    return grade_text(sample.kind, sample.references, sample.choices, text)


def grade_text(kind: AnswerKind, references: Sequence[str], choices: Sequence[str], text: str) -> Grade:
    """Grade a text without a sample, as a log has it.

    >>> grade_text("open_ten", ["red"] * 6 + ["maroon"] * 3 + ["dark red"], (), "Maroon.")
    Grade(answer='maroon', score=0.9)
    """
    check_gold(kind, references, choices)
    if kind == "yes_no":
        answer: str = yes_no(text) or UNPARSED
        return Grade(answer, float(answer == yes_no_gold(references[0])))
    if kind == "choice":
        letter = choice_letter(text, choices)
        if letter is None:
            return Grade(UNPARSED, 0.0)
        answer = option_text(choices, letter)
        return Grade(answer, float(answer == option_text(choices, references[0])))
    normalise = exact_form if kind == "open" else vqa_normalise
    golds = [normalise(reference) for reference in references]
    answer = normalise(text)
    if not text.strip() or (not answer and "" not in golds):
        return Grade(UNPARSED, 0.0)
    return Grade(answer, float(answer in golds) if kind == "open" else float(soft_accuracy(answer, golds)))


def exact_form(text: str) -> str:
    """Return the form compared for questions with one reference: lower case, ASCII punctuation deleted, stripped.

    >>> exact_form(" T-Shirt. ")
    'tshirt'
    """
    return text.lower().translate(_NO_PUNCTUATION).strip()


def soft_accuracy(answer: str, golds: Sequence[str]) -> Fraction:
    """Return the exact soft score of a canonical answer against n canonical golds.

    The mean over the golds i of min(1, matches among the other golds / 3). For ten golds with m matches this is
    0, 3/10, 6/10, 9/10 and then 1; the textbook shortcut min(m/3, 1) is another number.

    >>> soft_accuracy("red", ["red"] * 2 + ["blue"] * 8)
    Fraction(3, 5)
    """
    total, matches = len(golds), sum(gold == answer for gold in golds)
    thirds = matches * min(max(matches - 1, 0), 3) + (total - matches) * min(matches, 3)
    return Fraction(thirds, 3 * total)


def token_recall(text: str, gold: str) -> Fraction | None:
    """Return the share of the gold answer's distinct words that occur in `text`; None if the gold has no words.

    Recall rewards long answers: show answer length beside it.

    >>> token_recall("lobe of the right lung", "right lower lobe")
    Fraction(2, 3)
    """
    wanted = set(vqa_normalise_v2(gold).split())
    if not wanted:
        return None
    return Fraction(len(wanted & set(vqa_normalise_v2(text).split())), len(wanted))


def option_text(choices: Sequence[str], letter: str) -> str:
    """Return the canonical text of the option called `letter`: inner white space collapsed, case kept."""
    return " ".join(choices[option_letters(choices).index(letter)].split())


def yes_no_gold(reference: str) -> str:
    """Return a yes/no reference in canonical form; anything but yes or no comes back as it is, lower-cased."""
    return reference.strip().lower()


def check_sample(sample: Sample) -> None:
    """Check that any answer to `sample` can be graded.

    Raises:
        SampleError: naming the sample and what is wrong with it.
    """
    try:
        check_gold(sample.kind, sample.references, sample.choices)
    except SampleError as error:
        raise SampleError(f"sample '{sample.id}' of task '{sample.task}': {error}") from None


def check_gold(kind: AnswerKind, references: Sequence[str], choices: Sequence[str]) -> None:
    """Check that references and choices fit the kind of question.

    Raises:
        SampleError: for an unknown kind, missing or unusable references, or unusable options.
    """
    if kind not in ("open", "open_ten", "choice", "yes_no"):
        raise SampleError(f"the kind is {kind!r}; use open, open_ten, choice or yes_no.")
    if not references:
        raise SampleError("there is no reference answer; add one, or leave the question out.")
    if kind == "choice":
        check_options(choices)
        _check_gold_letter(references[0], option_letters(choices))
    elif choices:
        raise SampleError(f"there are options, but the kind is '{kind}'; use kind 'choice' or remove the options.")
    if kind == "yes_no" and yes_no_gold(references[0]) not in ("yes", "no"):
        raise SampleError(f"the reference of a yes/no question is {references[0][:80]!r}; write yes or no.")
    if kind == "open_ten" and len(references) < MIN_ANNOTATORS:
        raise SampleError(
            f"a soft score needs at least {MIN_ANNOTATORS} annotators' answers, found {len(references)}; "
            "add the others or use kind 'open'."
        )
    if kind in ("choice", "yes_no") and len(references) != 1:
        raise SampleError(f"kind '{kind}' takes one reference, found {len(references)}; keep the right one.")


def check_options(choices: Sequence[str]) -> None:
    """Check that options can be lettered and compared by their texts.

    Raises:
        SampleError: for fewer than 2 or more than 26 options, or one without a text.
    """
    if not 2 <= len(choices) <= len(string.ascii_uppercase):
        raise SampleError(f"a choice needs 2 to {len(string.ascii_uppercase)} options, found {len(choices)}.")
    for letter in option_letters(choices):
        if option_text(choices, letter) in ("", UNPARSED):
            raise SampleError(f"option {letter} is empty or reserved; give every option a text.")


def _check_gold_letter(gold: str, letters: str) -> None:
    if len(gold) != 1 or gold not in letters:
        raise SampleError(f"the gold option is {gold[:80]!r}; write one of {', '.join(letters)}.")
