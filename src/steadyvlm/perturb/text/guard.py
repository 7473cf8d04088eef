"""What a perturbation must never touch, and the question that is left to it.

Protected are placeholders of pictures and other special tokens (`<image>`, `<|image_pad|>`), options with their letters
and numbers (lines "A. a cat", "(A) cat (B) dog", "A cat B dog"), and instructions on the form of the answer ("Answer
the question using a single word or phrase."). Of what remains the longest piece is the question; the pieces before and
after it stay byte by byte.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace

from steadyvlm.errors import InvalidOption
from steadyvlm.perturb.base import Level, Profile, TextResult
from steadyvlm.perturb.text.apply import apply_text
from steadyvlm.perturb.text.work import Resources
from steadyvlm.records import Sample

_PLACEHOLDER = re.compile(
    r"<\|[^|<>\s]{1,64}\|>|</?(?:image|img|video|vision)[\w-]{0,64}\s?/?>|</?s>|\[(?:IMG|IMAGE)[_ ]?\d{0,4}\]",
    re.IGNORECASE,
)
_BEGINS = r"(?:(?<=[.?!:)\n])|^)[ \t]{0,8}\(?(?:please[ ,]{1,2})?"
_INSTRUCTION = re.compile(
    # An order to answer in some form; a bound on what lies between keeps the search linear.
    rf"{_BEGINS}(?:answer|respond|reply|choose|select|pick|output|return|give|provide|write|say|use)\b[^\n?]{{0,100}}?"
    r"\b(?:words?|phrases?|letters?|options?|choices?|answers?|sentences?|yes|no|true|false|numbers?|digits?|directly|"
    r"briefly|question|json)\b[^\n.?!]*[.?!]?\)?"
    rf"|{_BEGINS}(?:yes or no|yes/no|true or false)[.?]?\)?(?=\s|$)"
    # What stands before a question or an answer, and lines that are neither.
    r"|\b(?:question|q|short answer|answer|assistant|user|human)[ \t]?:"
    r"|^(?:hint|context)[ \t]?:[^\n]*|\b(?:options?|choices?|answer choices|candidates)[ \t]?:[^\n]*",
    re.IGNORECASE | re.MULTILINE,
)
_HEADER = re.compile(r"\b(?:options?|choices?|answer choices|candidates)[ \t]?:", re.IGNORECASE)
_MARKERS = (
    re.compile(r"(?<!\w)\(?([A-J]|[a-j](?=\)))[.):](?=\s|$)|(?<!\w)\(([A-Ja-j])\)"),
    re.compile(r"(?<!\w)\(?([1-9])[.):](?=\s)|(?<!\w)\(([1-9])\)"),
    re.compile(r"(?<![^\s])([A-J])(?= \w)()"),
)
"""Ways to mark an option: by a letter with a mark, by a number, by a bare letter."""
_BARE = _MARKERS[2]


@dataclass(frozen=True, slots=True)
class Parts:
    """A prompt as what stays, what may change, and what stays."""

    prefix: str
    question: str
    suffix: str

    def rebuilt(self, question: str) -> str:
        """Return the prompt with another question."""
        return self.prefix + question + self.suffix


def split_text(text: str) -> Parts:
    r"""Return the longest piece of a text that may change, and what is before and after it.

    >>> split_text("<image>\nWhat is it?\nA. a cat\nB. a dog\nAnswer with the option's letter.").question
    'What is it?'
    >>> split_text("What is shown? A cat B dog").suffix
    ' A cat B dog'
    """
    spans = sorted(
        [match.span() for pattern in (_PLACEHOLDER, _INSTRUCTION) for match in pattern.finditer(text)] + _options(text)
    )
    best, at = (0, 0), 0
    for start, end in [*spans, (len(text), len(text))]:
        piece = text[at:start]
        inner = (at + len(piece) - len(piece.lstrip()), at + len(piece.rstrip()))
        if inner[1] - inner[0] > best[1] - best[0]:
            best = inner
        at = max(at, end)
    return Parts(text[: best[0]], text[best[0] : best[1]], text[best[1] :])


def split_prompt(sample: Sample) -> Parts:
    """Return the prompt of a sample as what stays, the question, and what stays.

    Where the prompt holds the sample's own question, nothing outside that can change; inside it, placeholders, options
    and instructions are protected, too.
    """
    at = sample.prompt.find(sample.question)
    if at < 0:
        return split_text(sample.prompt)
    inner = split_text(sample.question)
    after = at + len(sample.question)
    return Parts(sample.prompt[:at] + inner.prefix, inner.question, inner.suffix + sample.prompt[after:])


def perturb_sample(
    sample: Sample,
    level: Level,
    *,
    seed: int = 0,
    profile: Profile = "general",
    resources: Resources | None = None,
) -> tuple[Sample, TextResult]:
    """Return the sample with its question perturbed, and what became of the question.

    The draw depends on the words that may change, the level and `seed`: not on the sample's id, its options or the
    instruction. References, choices and pictures are those of the sample; `perturbation` and `parent` say what it is.

    Raises:
        InvalidOption: if `level` is one of pictures.
    """
    if level.perturbation.modality != "text":
        raise InvalidOption(f"'{level}' changes pictures; the question of '{sample.id}' can be given levels of texts.")
    parts = split_prompt(sample)
    result = apply_text(
        parts.question,
        level.perturbation.id,
        level.severity,
        profile=profile,
        seed=seed,
        resources=resources or Resources(),
    )
    prompt = parts.rebuilt(result.text)
    question = (
        sample.question.replace(parts.question, result.text, 1) if parts.question in sample.question else result.text
    )
    return replace(sample, question=question, prompt=prompt, perturbation=str(level), parent=sample.id), result


def _options(text: str) -> list[tuple[int, int]]:
    """Return the spans of options: from the first marker, or the header before it, to the end of the last line."""
    found = []
    for pattern in _MARKERS:
        run = _run([match for match in pattern.finditer(text) if pattern is not _BARE or _may_be_bare(text, match)])
        if len(run) > 1:
            header = [match.start() for match in _HEADER.finditer(text, 0, run[0].start())]
            start = header[-1] if header else run[0].start()
            end = text.find("\n", run[-1].end())
            found.append((start, len(text) if end < 0 else end))
    return found


def _run(marks: Sequence[re.Match[str]]) -> list[re.Match[str]]:
    """Return the markers that count up from A, a or 1, in their order."""
    run: list[re.Match[str]] = []
    for match in marks:
        symbol = match.group(1) or match.group(2)
        if not run and symbol in ("A", "a", "1"):
            run = [match]
        elif run and ord(symbol) == ord(run[-1].group(1) or run[-1].group(2)) + 1:
            run.append(match)
    return run


def _may_be_bare(text: str, match: re.Match[str]) -> bool:
    """Tell whether a bare letter may mark an option: "A" only where a sentence could begin."""
    before = match.start() - 1
    return match.group(1) != "A" or before < 1 or text[before] == "\n" or text[before - 1] in ".?!:"
