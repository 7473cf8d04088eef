"""Line up two runs by what was asked, and refuse when they were not asked the same.

Predictions are joined by (task, sample id, perturbation), never by their place in a file, and each pair must agree in
prompt, images, references, options and kind. Two runs over different questions with equal row numbers otherwise yield
confident, invented flips. A failed sample has no answer: it is counted apart and is never a change.

Source:
    NVIDIA-NeMo/Gym#2635 (a flip report that joined by row index) is the mistake this file exists to rule out.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from steadyvlm.errors import PairingError, SampleError
from steadyvlm.records import Prediction

Key = tuple[str, str, str]

SCORE_TOLERANCE = 1e-9
_SHOWN = 3


@dataclass(frozen=True, slots=True)
class Pairing:
    """Two runs, lined up.

    Attributes:
        keys: the questions, sorted, so that the order of the runs is irrelevant.
        pairs: (first, second) per question, in the order of `keys`.
        only_first, only_second: questions left out on request because one run did not answer them.
    """

    keys: tuple[Key, ...]
    pairs: tuple[tuple[Prediction, Prediction], ...]
    only_first: tuple[Key, ...] = ()
    only_second: tuple[Key, ...] = ()


def pair(
    first: Sequence[Prediction],
    second: Sequence[Prediction],
    *,
    names: tuple[str, str] = ("original", "accelerated"),
    common_only: bool = False,
) -> Pairing:
    """Join two runs by content.

    Args:
        first: predictions of one run, in any order.
        second: predictions of the other run, in any order.
        names: what to call the runs in messages.
        common_only: compare the questions both runs hold and report the rest as left out, instead of refusing.

    Raises:
        PairingError: when a run is empty, holds a question twice, or lacks questions of the other; when prompts,
            images, references, options or kinds differ; when equal answers were given different scores or equal
            texts different answers.
        SampleError: for a score outside [0, 1].

    >>> answer = Prediction("q1", "toy", "open", "Why?", "hash", (), ("so",), (), "", "", "so", "so", 1.0)
    >>> len(pair([answer], [answer]).pairs)
    1
    """
    left, right = by_key(first, names[0]), by_key(second, names[1])
    only_left, only_right = check_questions(left, right, names=names, common_only=common_only)
    keys = sorted(left.keys() & right.keys()) if only_left or only_right else sorted(left)
    pairs = tuple([(left[key], right[key]) for key in keys])
    check_pairs(pairs, names=names)
    return Pairing(tuple(keys), pairs, tuple(only_left), tuple(only_right))


def key_text(key: Key) -> str:
    """Return a key as people read it.

    >>> key_text(("pocket", "test-17", "blur-3"))
    'pocket/test-17@blur-3'
    """
    task, sample_id, perturbation = key
    return f"{task}/{sample_id}" + (f"@{perturbation}" if perturbation else "")


def by_key(run: Sequence[Prediction], name: str) -> dict[Key, Prediction]:
    """Return the predictions of `run` by key.

    Raises:
        PairingError: when the run is empty or holds a question twice.

    >>> by_key([], "original")
    Traceback (most recent call last):
    ...
    steadyvlm.errors.PairingError: the original run holds no predictions; run it first, or check the path.
    """
    if not run:
        raise PairingError(f"the {name} run holds no predictions; run it first, or check the path.")
    found = {(item.task, item.sample_id, item.perturbation): item for item in run}
    if len(found) < len(run):
        counts = Counter(item.key for item in run)
        twice = sorted(key for key, count in counts.items() if count > 1)
        raise PairingError(
            f"{len(twice):,} of {len(found):,} questions occur more than once in the {name} run "
            f"({_first(twice)}); keep one prediction per task, sample id and perturbation."
        )
    return found


def check_questions(
    left: Mapping[Key, Prediction], right: Mapping[Key, Prediction], *, names: tuple[str, str], common_only: bool
) -> tuple[list[Key], list[Key]]:
    """Return the questions only the left, and only the right run holds, sorted.

    Raises:
        PairingError: when there are any and `common_only` is False, or when the runs share no question.

    >>> check_questions({}, {}, names=("original", "accelerated"), common_only=True)
    Traceback (most recent call last):
    ...
    steadyvlm.errors.PairingError: the original run (0 samples) and the accelerated run (0 samples) have no question \
in common; they belong to different tasks or were given different ids.
    """
    if left and left.keys() == right.keys():
        return [], []
    only_left, only_right = sorted(left.keys() - right.keys()), sorted(right.keys() - left.keys())
    if len(only_left) == len(left):
        raise PairingError(
            f"the {names[0]} run ({len(left):,} samples) and the {names[1]} run ({len(right):,} samples) have no "
            "question in common; they belong to different tasks or were given different ids."
        )
    if (only_left or only_right) and not common_only:
        raise PairingError(_one_sided(len(left), len(right), only_left, only_right, names))
    return only_left, only_right


def check_pairs(pairs: Sequence[tuple[Prediction, Prediction]], *, names: tuple[str, str]) -> None:
    """Verify that each pair was asked the same and graded alike; pairs must be sorted for stable messages.

    Raises:
        PairingError: when prompts, images, references, options or kinds differ, or equal answers score differently.
        SampleError: for a score outside [0, 1].

    >>> check_pairs([], names=("original", "accelerated"))
    """
    _check_content(pairs, names)
    _check_scores(pairs, names)


def _one_sided(left: int, right: int, only_left: list[Key], only_right: list[Key], names: tuple[str, str]) -> str:
    lines = [
        f"{len(missing):,} of {held:,} sample ids appear only in the {name} run ({_first(missing)})."
        for missing, held, name in ((only_left, left, names[0]), (only_right, right, names[1]))
        if missing
    ]
    unfinished = names[1] if only_left and not only_right else names[0] if only_right and not only_left else None
    guess = f"The {unfinished} run looks unfinished; complete it" if unfinished else "These look like different runs"
    lines.append(
        f"{guess}, or compare only the common questions on purpose (--common-only; in Python common_only=True)."
    )
    return "\n  ".join(lines)


def _check_content(pairs: Sequence[tuple[Prediction, Prediction]], names: tuple[str, str]) -> None:
    aspects: dict[str, list[Key]] = {}
    for a, b in pairs:
        if a.content != b.content:
            for aspect in _differing_aspects(a, b):
                aspects.setdefault(aspect, []).append(a.key)
    if aspects:
        found = ";\n  ".join(f"{len(keys):,} differ in {aspect} ({_first(keys)})" for aspect, keys in aspects.items())
        raise PairingError(
            f"the {names[0]} and {names[1]} runs were not asked the same questions. Of {len(pairs):,} samples with "
            f"equal ids\n  {found}.\n  Run both sides on the same task, images and prompts."
        )


def _differing_aspects(a: Prediction, b: Prediction) -> list[str]:
    """Names of what differs. A sample that failed because its image could not be read has no image hash."""
    unreadable = (a.failure is not None and not a.image_sha256) or (b.failure is not None and not b.image_sha256)
    checks = (
        ("the prompt", a.prompt_sha256 != b.prompt_sha256),
        ("the images", a.image_sha256 != b.image_sha256 and not unreadable),
        ("the reference answers", a.references != b.references),
        ("the options", a.choices != b.choices),
        ("the kind of answer", a.kind != b.kind),
    )
    return [name for name, differs in checks if differs]


def _check_scores(pairs: Sequence[tuple[Prediction, Prediction]], names: tuple[str, str]) -> None:
    regraded: list[Key] = []  # a log may hold answers without texts; equal empty texts prove nothing
    for a, b in pairs:
        if a.failure is not None or b.failure is not None:
            continue
        if not (0 <= a.score <= 1 and 0 <= b.score <= 1):
            raise SampleError(
                f"sample '{key_text(a.key)}' has the scores {a.score} and {b.score}; scores lie between 0 and 1."
            )
        if abs(a.score - b.score) > SCORE_TOLERANCE if a.answer == b.answer else a.text == b.text != "":
            regraded.append(a.key)
    if regraded:
        raise PairingError(
            f"{len(regraded):,} of {len(pairs):,} samples have the same answer but different scores, or the same text "
            f"but different answers ({_first(regraded)}): the {names[0]} and {names[1]} runs were graded differently. "
            "Grade both again with the same scorer."
        )


def _first(keys: Iterable[Key]) -> str:
    shown = [key_text(key) for key in keys]
    return ", ".join(shown[:_SHOWN]) + (", …" if len(shown) > _SHOWN else "")
