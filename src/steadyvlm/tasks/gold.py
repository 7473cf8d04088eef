"""Gold answers and options as files spell them, turned into references.

The same gold option is written as a letter ("B"), an index (1, or the text "1"), or the option's text; ten annotators
as a list, a list of objects with an `answer`, or a Python list saved as text. Everything with one possible reading is
accepted; what has two is refused, because a wrong gold turns right answers into wrong ones without anyone noticing.
"""

from __future__ import annotations

import ast
import io
import tokenize
import warnings
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

from steadyvlm.errors import SampleError
from steadyvlm.records import AnswerKind
from steadyvlm.tasks.parse import option_letters
from steadyvlm.tasks.rows import shown
from steadyvlm.tasks.scorers import MIN_ANNOTATORS, check_options, yes_no_gold

KINDS: tuple[AnswerKind, ...] = ("open", "open_ten", "choice", "yes_no")

_MAX_LITERAL = 20_000
_NUMBERS = (int, float)


def texts(value: Any) -> tuple[str, ...]:
    """Return the texts in a field: one value, a list of values, or a list written as text.

    >>> texts(["red", {"answer": "maroon", "answer_id": 2}]), texts("['cat', 'dog']"), texts(3.0), texts(None)
    (('red', 'maroon'), ('cat', 'dog'), ('3',), ())

    Raises:
        SampleError: for true, false, an object, or a nested list.
    """
    if value is None or value == "":
        return ()
    if isinstance(value, str):
        value = _literal_list(value)
    items = value if isinstance(value, list) else [value]
    return tuple(text_of(item) for item in items)


def text_of(item: Any) -> str:
    """Return one text, number, or object with an `answer` as text; whole floats lose their ".0".

    Raises:
        SampleError: for anything else.
    """
    if isinstance(item, dict) and "answer" in item:
        item = item["answer"]
    if isinstance(item, str):
        return item
    if isinstance(item, float) and item.is_integer():
        return str(int(item))
    if isinstance(item, _NUMBERS) and not isinstance(item, bool):
        return str(item)
    raise SampleError(f"found {shown(item)} where a text belongs; write a text, a number, or a list of them.")


def infer_kinds(
    golds: Sequence[Sequence[str]], choices: Sequence[Sequence[str]], stated: Sequence[str]
) -> list[AnswerKind]:
    """Return the kind of each question: the stated one if it is a kind, else from options and golds of the file.

    With options: choice. Without: yes_no if every such question's only gold is yes or no; else open_ten for questions
    with at least four golds, and open for the rest.

    >>> none = ("", "")
    >>> infer_kinds([["Yes"], ["no"]], [(), ()], none), infer_kinds([["yes"], ["red"]], [(), ()], none)
    (['yes_no', 'yes_no'], ['open', 'open'])
    """
    rows = list(zip(golds, choices, stated, strict=True))
    free = [gold for gold, options, said in rows if not options and said not in KINDS]
    binary = all(len(gold) == 1 and yes_no_gold(gold[0]) in ("yes", "no") for gold in free)
    kinds: list[AnswerKind] = []
    for gold, options, said in rows:
        if said in KINDS:
            kinds.append(KINDS[KINDS.index(said)])
        elif options:
            kinds.append("choice")
        elif binary:
            kinds.append("yes_no")
        else:
            kinds.append("open_ten" if len(gold) >= MIN_ANNOTATORS else "open")
    return kinds


def references(kind: AnswerKind, golds: Sequence[str], choices: Sequence[str]) -> tuple[str, ...]:
    """Return the references of a question from its gold texts.

    >>> references("choice", ["1"], ["cat", "dog"]), references("choice", ["cat"], ["cat", "dog"])
    (('B',), ('A',))

    Raises:
        SampleError: for unusable options, or a gold option that names none of them, or more than one.
    """
    if kind == "choice":
        check_options(choices)
        return tuple(_gold_letter(gold, choices) for gold in golds)
    if kind == "yes_no":
        return tuple(yes_no_gold(gold) for gold in golds)
    return tuple(golds)


def _gold_letter(gold: str, choices: Sequence[str]) -> str:
    letters = option_letters(choices)
    stripped = gold.strip()
    by_index = [letter for index, letter in enumerate(letters) if str(index) == stripped]
    by_letter = [letter for letter in letters if letter == stripped.upper()]
    by_text = [letter for letter, text in zip(letters, choices, strict=False) if text.strip() == stripped][:1]
    readings = sorted({*by_index, *by_letter, *by_text})
    if len(readings) > 1:
        raise SampleError(
            f"the gold option {shown(gold)} can mean option {' or '.join(readings)} (letter, index from 0, or text); "
            "write the letter, or give the options other texts."
        )
    if not readings:
        raise SampleError(
            f"the gold option is {shown(gold)}; write a letter ({', '.join(letters)}), an index from 0, "
            "or the text of one option."
        )
    return readings[0]


def _literal_list(text: str) -> Any:
    """Return the list a text like "['a', 'b']" or '["a", "b"]' spells, else the text itself."""
    stripped = text.strip()
    if not (stripped.startswith("[") and stripped.endswith("]") and len(stripped) <= _MAX_LITERAL):
        return text
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # "\d" inside the text is not our syntax to complain about
            value = ast.literal_eval(stripped)
            tokens = [token.type for token in tokenize.generate_tokens(io.StringIO(stripped).readline)]
    except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError, tokenize.TokenError):
        return text
    if any(pair == (tokenize.STRING, tokenize.STRING) for pair in pairwise(tokens)):
        raise SampleError(f"the list {shown(text)} has no commas (a printed NumPy array?); write it as a JSON list.")
    return value if all(isinstance(item, (str, *_NUMBERS)) for item in value) else text
