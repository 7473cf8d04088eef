"""Which samples a person should look at, and everything the page shows about each.

Every count covers all samples. Of the samples themselves a page can hold only so many, so per run and kind of flip
the most surprising come first: those where the original was most sure of its first token. They are taken from each
family in turn, so that a family with few flips is not crowded out.
"""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from steadyvlm.records import UNPARSED, Generation, Prediction
from steadyvlm.report.data import CONTROL, ORIGINAL, ArmReport, ReportData, no_image
from steadyvlm.report.families import family_name
from steadyvlm.report.pictures import Picture, PictureBook
from steadyvlm.report.text import label, visible
from steadyvlm.report.token_json import panels_json, stage_json
from steadyvlm.report.token_map import stages
from steadyvlm.report.token_places import Placed, places
from steadyvlm.stability import FLIP_KINDS
from steadyvlm.stability.pairing import Key

LIMIT, TEXT_LIMIT = 60, 400
"""Samples per run and kind of flip that a page holds by default, with pictures and without."""
FAILED = "failed"
KINDS = (*(kind for kind in FLIP_KINDS if kind != "unchanged"), FAILED)
KIND_LABELS = {
    "right_to_wrong": "Right → wrong",
    "wrong_to_right": "Wrong → right",
    "wrong_to_other_wrong": "Wrong → other wrong",
    "right_to_other_right": "Right → other right",
    "format_only": "Format only",
    FAILED: "No answer",
}
GROUPS = {"any": KINDS, "changed": KINDS[:4], "other": KINDS[2:4]}
"""Kinds that are counted and filtered together."""
_TEXT, _SHORT = 2_000, 400
_CANDIDATES = 5


@dataclass(frozen=True)
class _Run:
    name: str
    by_key: Mapping[Key, Prediction]
    kinds: Mapping[Key, str]


def gallery(data: ReportData, *, images: bool = True, limit: int | None = None) -> dict[str, Any]:
    """Return what the page's script shows, as JSON types; all text is made visible, none is escaped yet.

    Args:
        data: the report.
        images: False leaves every picture out (data that must not travel).
        limit: samples per run and kind; None for `LIMIT` with pictures and `TEXT_LIMIT` without.
    """
    illustrated = images and data.image is not no_image
    limit = limit if limit is not None else LIMIT if illustrated else TEXT_LIMIT
    original = {item.key: item for item in data.original}
    runs = [_run(arm, original) for arm in data.arms]
    comparisons = [arm.comparison for arm in data.arms]
    families = {key: family_name(item, comparisons) for key, item in original.items()}
    chosen = _choose(runs, original, families, limit)
    book = PictureBook(data.image)
    items = []
    for key in chosen:
        picture = book.place(original[key]) if illustrated else None
        shown = None if picture is None else book.pictures[picture]
        items.append(_item(original[key], runs, families[key], picture, partial(_placed, data, shown)))
    return {
        "runs": [
            {"name": label(name), "control": name == CONTROL} for name in (ORIGINAL, *(arm.name for arm in data.arms))
        ],
        "kinds": [{"id": kind, "label": KIND_LABELS[kind]} for kind in KINDS],
        "groups": {name: list(kinds) for name, kinds in GROUPS.items()},
        "counts": _counts(runs, original, families),
        "items": items,
        "pictures": [{"uri": item.uri, "w": item.width, "h": item.height} for item in book.pictures],
        "missing": {"budget": book.left_out, "unreadable": book.unreadable, "stripped": not images},
        "limit": limit,
    }


def margin(prediction: Prediction) -> float:
    """Return how sure the model was of its first token, in nats; -inf when unknown."""
    if prediction.generation is None or not math.isfinite(prediction.generation.margin):
        return -math.inf
    return prediction.generation.margin


def _run(arm: ArmReport, original: Mapping[Key, Prediction]) -> _Run:
    by_key = {item.key: item for item in arm.predictions}
    kinds: dict[Key, str] = {flip.key: flip.kind for flip in arm.comparison.flips if flip.key in original}
    for key, item in by_key.items():
        if key in original and (item.failure is not None or original[key].failure is not None):
            kinds[key] = FAILED
    return _Run(arm.name, by_key, kinds)


def _choose(
    runs: Sequence[_Run], original: Mapping[Key, Prediction], families: Mapping[Key, str], limit: int
) -> list[Key]:
    """The keys to show, most surprising first."""
    chosen: set[Key] = set()
    for run in runs:
        by_kind: defaultdict[str, list[Key]] = defaultdict(list)
        for key, kind in run.kinds.items():
            by_kind[kind].append(key)
        for keys in by_kind.values():
            keys.sort(key=lambda key: (-margin(original[key]), key))
            chosen.update(_in_turn(keys, families)[:limit])
    return sorted(chosen, key=lambda key: (-margin(original[key]), key))


def _in_turn(keys: Iterable[Key], families: Mapping[Key, str]) -> list[Key]:
    """The keys with families taking turns, each family in the given order."""
    turns: Counter[str] = Counter()
    placed = []
    for place, key in enumerate(keys):
        placed.append((turns[families[key]], place, key))
        turns[families[key]] += 1
    return [key for _, _, key in sorted(placed)]


def _counts(
    runs: Sequence[_Run], original: Mapping[Key, Prediction], families: Mapping[Key, str]
) -> dict[str, list[list[Any]]]:
    """Per run ("" is any accelerated run) rows of [task, family, kind or group of kinds, samples]."""
    found: dict[str, set[tuple[Key, str]]] = {"": set()}
    for run in runs:
        shown = {(key, name) for key, kind in run.kinds.items() for name in (kind, *_groups_of(kind))}
        found[label(run.name)] = shown
        if run.name != CONTROL:
            found[""] |= shown
    tables = {
        name: Counter((label(original[key].task), label(families[key]), kind) for key, kind in shown)
        for name, shown in found.items()
    }
    return {
        name: [[task, family, kind, number] for (task, family, kind), number in sorted(table.items())]
        for name, table in tables.items()
    }


def _groups_of(kind: str) -> list[str]:
    return [name for name, kinds in GROUPS.items() if kind in kinds]


def _item(
    first: Prediction, runs: Sequence[_Run], family: str, picture: int | None, where: Callable[..., Placed | None]
) -> dict[str, Any]:
    placed = where(first)
    answers: list[dict[str, Any] | None] = [_answer(first, "", placed, placed)]
    for run in runs:
        answer = run.by_key.get(first.key)
        kind = run.kinds.get(first.key, "unchanged")
        answers.append(None if answer is None else _answer(answer, kind, placed, placed and where(answer, like=placed)))
    return {
        "id": visible(first.sample_id, _SHORT),
        "task": label(first.task),
        "variant": visible(first.perturbation, _SHORT),
        "family": label(family),
        "form": first.kind,
        "question": visible(first.question, _TEXT),
        "choices": [visible(choice, _SHORT) for choice in first.choices],
        "gold": [[visible(text, _SHORT), number] for text, number in Counter(first.references).most_common()],
        "picture": picture,
        "pictures": len(first.image_sha256),
        "panels": placed and panels_json(placed.panels),
        "top": _candidates(first.generation),
        "answers": answers,
    }


def _answer(prediction: Prediction, kind: str, original: Placed | None, placed: Placed | None) -> dict[str, Any]:
    """What one run said. `kind` is "" for the original; its panels are given where they are not the original's."""
    generation, failure = prediction.generation, prediction.failure
    row: dict[str, Any] = {
        "text": visible(prediction.text, _TEXT),
        "answer": None if prediction.answer == UNPARSED else visible(prediction.answer, _TEXT),
        "score": prediction.score if math.isfinite(prediction.score) else None,
        "kind": kind,
    }
    if failure is not None:
        row["failure"] = visible(f"{failure.kind}: {failure.message}", _SHORT)
    if generation is not None:
        row["margin"] = round(generation.margin, 3) if math.isfinite(generation.margin) else None
        row["first"] = _candidates(generation)[:1]
        row["cut"] = generation.stop_reason == "length"
        if placed is not None:
            row["kept"] = [stage_json(stage) for stage in stages(placed.layout, generation.kept)]
            if placed != original:
                row["panels"] = panels_json(placed.panels)
    return row


def _placed(
    data: ReportData, picture: Picture | None, prediction: Prediction, *, like: Placed | None = None
) -> Placed | None:
    """Where the tokens of an answer lie on its picture, when there is one and the record tells."""
    if picture is None or prediction.generation is None or len(prediction.image_sha256) != 1:
        return None
    size, square = (picture.width, picture.height), data.patch_area == "centre_square"
    return places(prediction.generation.cost, size, centre_square=square, like=like)


def _candidates(generation: Generation | None) -> list[list[Any]]:
    """The likeliest first tokens as [text, probability]."""
    if generation is None:
        return []
    return [
        [visible(item.token, _SHORT), round(math.exp(min(item.logprob, 0.0)), 4)]
        for item in generation.top[:_CANDIDATES]
        if not math.isnan(item.logprob)
    ]
