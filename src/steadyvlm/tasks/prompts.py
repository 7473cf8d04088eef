"""The instructions that follow a question, in the two forms most published results were made with.

They are part of the measurement: without the short-answer line models answer in sentences, and then the parser decides
the score. Role markers and the image token are not written here; they come from the model's own chat template.

Source: LLaVA-1.5 (Liu et al., 2023, arXiv:2310.03744), evaluation prompts.
"""

from __future__ import annotations

from collections.abc import Sequence

from steadyvlm.records import AnswerKind
from steadyvlm.tasks.parse import option_letters

SHORT = "Answer the question using a single word or phrase."
LETTER = "Answer with the option's letter from the given choices directly."


def prompt_for(kind: AnswerKind, question: str, choices: Sequence[str] = ()) -> str:
    """Return the text sent for a question: with lettered options for a choice, else with the short-answer line.

    >>> print(prompt_for("choice", "What is it?", ["a cat", "a dog"]))
    What is it?
    A. a cat
    B. a dog
    Answer with the option's letter from the given choices directly.
    """
    if kind == "choice":
        options = (f"{letter}. {text}" for letter, text in zip(option_letters(choices), choices, strict=True))
        return "\n".join([question, *options, LETTER])
    return f"{question}\n{SHORT}"
