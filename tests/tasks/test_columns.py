"""Columns find their roles."""

from __future__ import annotations

import pytest

from steadyvlm.errors import LogError, UnknownName
from steadyvlm.tasks.columns import resolve_columns


def test_names_of_public_logs() -> None:
    found = resolve_columns(["qid", "image_path", "prompt", "pred", "answers", "end2end_ms"], {}, "log")
    assert found == {
        "id": ("qid",),
        "prediction": ("pred",),
        "gold": ("answers",),
        "prompt": ("prompt",),
        "image": ("image_path",),
    }


def test_the_more_specific_name_wins_and_text_comes_last() -> None:
    found = resolve_columns(["text", "response", "label", "question_id", "id"], {}, "log")
    assert (found["prediction"], found["gold"], found["id"]) == (("response",), ("label",), ("id",))
    assert resolve_columns(["id", "text", "label"], {}, "log")["prediction"] == ("text",)


def test_a_chosen_column_is_not_taken_by_another_role() -> None:
    found = resolve_columns(["id", "answer", "label"], {"prediction": "answer"}, "log")
    assert (found["prediction"], found["gold"]) == (("answer",), ("label",))


def test_an_id_may_be_joined_unless_a_column_has_that_very_name() -> None:
    names = ["category", "qid", "pred", "gold"]
    assert resolve_columns(names, {"id": "category + qid"}, "log")["id"] == ("category", "qid")
    assert resolve_columns([*names, "category+qid"], {"id": "category+qid"}, "log")["id"] == ("category+qid",)


def test_a_column_that_is_part_of_the_id_keeps_its_role() -> None:
    found = resolve_columns(["category", "qid", "pred", "gold"], {"id": "category+qid"}, "log")
    assert found["family"] == ("category",)


@pytest.mark.parametrize(
    ("found", "chosen", "message"),
    [
        (
            ["id", "text"],
            {},
            r"log has no column for the gold \(tried answers, .*\); its columns are id, text\. Name it",
        ),
        (["text", "gold"], {}, "no column for the id"),
        (["id", "gold"], {}, r"no column for the prediction .*columns=\{'prediction': '…'\}"),
        (["id", "gold", "text"], {"prediction": "txt"}, "log has no column 'txt' for prediction; its columns are gold"),
        (["id", "gold", "text"], {"prediction": "id+text"}, r"no column 'id\+text'"),
        (["id", "gold", "text"], {"id": "id+nr"}, "no column 'nr' for id"),
        ([f"c{i:02}" for i in range(30)], {}, "c19 and 10 more"),
    ],
)
def test_missing_columns(found: list[str], chosen: dict[str, str], message: str) -> None:
    with pytest.raises(LogError, match=message):
        resolve_columns(found, chosen, "log")


def test_an_unknown_role_is_suggested() -> None:
    with pytest.raises(UnknownName, match=r"no log column is called 'predictoin'. Did you mean 'prediction'"):
        resolve_columns(["id"], {"predictoin": "id"}, "log")
