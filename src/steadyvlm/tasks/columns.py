"""Which column of somebody else's log plays which role.

A log names its columns as its author liked. For each role the first name of a fixed list that occurs in the file is
taken, the most specific first ("text" is the last name tried for the answer, because in question files it is the
question). A map of the user's own goes before the list, and several columns joined by "+" may form the id.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from types import MappingProxyType

from steadyvlm.errors import LogError, UnknownName

ALIASES: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {
        "id": ("id", "sample_id", "question_id", "questionId", "qid", "index", "doc_id"),
        "prediction": ("prediction", "pred", "response", "answer_text", "model_answer", "output", "text"),
        "gold": ("answers", "references", "gold", "reference", "ground_truth", "answer", "label", "target"),
        "prompt": ("prompt",),
        "question": ("question",),
        "image": ("image", "image_file", "image_path", "image_id", "images"),
        "choices": ("choices", "options"),
        "family": ("category", "family"),
        "cluster": ("cluster",),
        "group": ("group",),
        "kind": ("kind",),
        "score": ("score", "correct", "hit"),
    }
)
"""Role to the column names tried, in order."""

REQUIRED = ("id", "prediction", "gold")


def resolve_columns(found: Collection[str], chosen: Mapping[str, str], path: str) -> dict[str, tuple[str, ...]]:
    """Return, for each role that the file has, the columns that play it (one; several only for a joined id).

    Args:
        found: names of all columns in the file.
        chosen: role to column name as the user wrote it; "category+qid" joins two columns to an id.
        path: the file, for messages.

    Raises:
        UnknownName: for a role that does not exist.
        LogError: if a required role has no column, or a chosen column does not exist.
    """
    resolved: dict[str, tuple[str, ...]] = {}
    for role, name in chosen.items():
        if role not in ALIASES:
            raise UnknownName.among("log column", role, ALIASES)
        parts = (name,) if name in found or role != "id" else tuple(part.strip() for part in name.split("+"))
        for part in parts:
            if part not in found:
                raise LogError(f"{path} has no column '{part}' for {role}; its columns are {_listed(found)}.")
        resolved[role] = parts
    for role, names in ALIASES.items():
        taken = {part for other, parts in resolved.items() if other != "id" for part in parts}
        first = next((name for name in names if name in found and name not in taken), None)
        if role not in resolved and first is not None:
            resolved[role] = (first,)
    for role in REQUIRED:
        if role not in resolved:
            raise LogError(
                f"{path} has no column for the {role} (tried {', '.join(ALIASES[role])}); its columns are "
                f"{_listed(found)}. Name it with columns={{'{role}': '…'}}, or add it."
            )
    return resolved


def _listed(found: Collection[str]) -> str:
    names = sorted(found)
    return ", ".join(names[:20]) + (f" and {len(names) - 20} more" if len(names) > 20 else "")
