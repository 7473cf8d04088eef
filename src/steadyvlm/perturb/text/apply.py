"""One level of the suite applied to one text."""

from __future__ import annotations

import hashlib
import importlib
from collections.abc import Callable, Mapping
from functools import cache

from steadyvlm.errors import InvalidOption, UnknownName
from steadyvlm.perturb.base import Info, Level, Perturbation, Profile, Status, TextResult, check_profile
from steadyvlm.perturb.streams import key as key_of
from steadyvlm.perturb.streams import text_content
from steadyvlm.perturb.suite import TEXT
from steadyvlm.perturb.text import files, models
from steadyvlm.perturb.text.work import Resources, Work

ROWS: dict[str, Perturbation] = {row.id: row for row in TEXT}
ATTEMPTS = 100
"""Draws that the fidelity filter may reject before the original is restored."""
REDRAWS = 20
"""Draws that may leave a text as it was before that is accepted."""
_DEFAULT = Resources()


def apply_text(
    text: str,
    id: str,
    severity: int,
    key: str | None = None,
    profile: Profile = "general",
    *,
    seed: int = 0,
    resources: Resources = _DEFAULT,
) -> TextResult:
    """Return a text perturbed at one level, and what became of it.

    All of `text` may change. For the prompt of a sample use `guard.perturb_sample`, which keeps placeholders of
    pictures, options and answer instructions.

    In `general`, a draw that leaves the text as it was is drawn again; `paper` takes it.

    Args:
        text: any text.
        id: a perturbation of texts, `typos`.
        severity: 1 to 5; 1 for the perturbations of a single level.
        key: names the random draws; by default made from the text, the level and `seed`.
        profile: `general`, or `paper` for the released generator where it differs.
        seed: another seed gives another draw of the same level.
        resources: models and settings.

    Raises:
        UnknownName: for an id that does not exist.
        InvalidOption: for a severity or profile that does not exist, or a text that is none.
        CheckpointError: if a folder named in `resources` holds no usable weights.

    >>> result = apply_text("What is the man holding?", "drop_nn", 1)
    >>> result.text, str(result.status)
    ('What is the [UNK] holding ?', 'applied')
    """
    level = level_of(id, severity)
    if not isinstance(text, str):
        raise InvalidOption(f"'{level}' was asked for on a {type(text).__name__}; give a text.")
    check_profile(profile)
    drawn = not level.perturbation.deterministic
    if key is None:
        key = key_of(level, text_content(text), seed=seed) if drawn else ""
    change = _function(level.perturbation.path)
    for attempt in range(ATTEMPTS if drawn else 1):
        work = Work(text, severity, profile, key, attempt, resources)
        changed = change(work)
        if text.strip() and not changed.strip():
            changed = text  # a blank question cannot be asked
        settled = not drawn or work.paper or "why" in work.notes or "unavailable" in work.notes
        if changed == text and not settled and attempt < REDRAWS:
            continue
        verdict = models.faithful(text, changed, resources)
        if verdict is not False:
            break
    fidelity = {None: "off", True: "passed", False: "failed"}[verdict]
    info = {**work.notes, "fidelity": fidelity, **({"attempt": attempt} if attempt else {})}
    if fidelity == "failed":
        return TextResult(text, Status.REVERTED, info)
    return TextResult(changed, _status(text, changed, info), info)


def level_of(id: str, severity: int) -> Level:
    """Return a level of a perturbation of texts.

    Raises:
        UnknownName: for an id that does not exist.
        InvalidOption: for a severity it does not have.
    """
    if id not in ROWS:
        raise UnknownName.among("perturbation of texts", id, ROWS)
    return Level(ROWS[id], severity)


def ingredients(resources: Resources = _DEFAULT) -> Mapping[str, str]:
    """Return what perturbed texts depend on beside the suite's version, for a manifest.

    >>> sorted(ingredients())[:3]
    ['data/adverbs.txt', 'data/openers.txt', 'data/proverbs.txt']
    """
    shipped = sorted(path for path in files.FOLDER.iterdir() if path.name != "WORDNET-LICENSE.txt")
    found = {f"data/{path.name}": hashlib.sha256(path.read_bytes()).hexdigest()[:16] for path in shipped}
    for name in ("lemminflect", "nlpaug", "nltk", "textblob"):
        found[name] = files.version_of(name)
    settings = {name: getattr(resources, name) for name in Resources.__dataclass_fields__}
    return found | {f"resources.{name}": str(value) for name, value in settings.items() if value is not None}


def _status(before: str, after: str, info: Info) -> Status:
    if "unavailable" in info:
        return Status.UNAVAILABLE
    if "fallback" in info:
        return Status.FALLBACK
    return Status.NOOP if after == before or "why" in info else Status.APPLIED


@cache
def _function(path: str) -> Callable[[Work], str]:
    module, _, name = path.partition(":")
    found: Callable[[Work], str] = getattr(importlib.import_module(module), name)
    return found
