"""A study file is read strictly, and an error names the key."""

from __future__ import annotations

from pathlib import Path

import pytest

from steadyvlm.errors import ConfigError, UnknownName
from steadyvlm.study.fields import MAX_BYTES, Fields, parse_yaml, read_yaml

BOMB = """
a: &a [x, x, x, x, x, x, x, x, x]
b: &b [*a, *a, *a, *a, *a, *a, *a, *a, *a]
c: [*b, *b, *b, *b, *b, *b, *b, *b, *b]
"""


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (BOMB, r"alias \(\*a\)"),
        ("a: {b: 1, b: 2}", "the key 'b' is given twice"),
        ("[" * 40 + "]" * 40, "nested deeper than 16"),
        ("a: [1", "not valid YAML"),
        ("- 1", "must hold keys"),
        ("", "must hold keys"),
        ("a: !!python/object/apply:os.system ['true']", "not valid YAML"),
        ("a: 2024-99-99", "a value YAML cannot read"),
        ("a: b\x00", "not valid YAML"),
    ],
)
def test_yaml_that_is_refused(text: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        parse_yaml(text, "mine.yaml")


def test_files_that_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot read the study file"):
        read_yaml(tmp_path / "none.yaml")
    (tmp_path / "binary.yaml").write_bytes(b"study: \xff\xfe")
    with pytest.raises(ConfigError, match="not UTF-8 text"):
        read_yaml(tmp_path / "binary.yaml")
    (tmp_path / "large.yaml").write_text("# " + "x" * MAX_BYTES)
    with pytest.raises(ConfigError, match="larger than 256 KiB"):
        read_yaml(tmp_path / "large.yaml")


def test_unicode_and_types_survive(tmp_path: Path) -> None:
    (tmp_path / "ok.yaml").write_text("name: été № 1 🦜\nn: 3\n", encoding="utf-8")
    assert read_yaml(tmp_path / "ok.yaml") == {"name": "été № 1 🦜", "n": 3}


def test_values_are_taken_with_their_type() -> None:
    fields = Fields({"name": " half ", "limit": 5, "items": [{"a": 1}], "section": {"b": [1, "x", None]}}, "m.yaml")
    assert fields.text("name") == "half"
    assert fields.integer("limit", low=1) == 5
    assert fields.integer("absent", None, low=1) is None
    assert [item.integer("a", low=0) for item in fields.items("items")] == [1]
    section = fields.section("section")
    assert section is not None
    assert section.rest() == {"b": (1, "x", None)}
    assert fields.section("other") is None
    fields.done()


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ({}, "the key 'top.limit' is missing"),
        ({"limit": "ten"}, "m.yaml: top.limit must be a whole number of at least 1, found the text 'ten'"),
        ({"limit": True}, "found the yes/no value 'True'"),
        ({"limit": 0}, "found the number '0'"),
        ({"limit": 1.5}, "found the number '1.5'"),
        ({"limit": None}, "found nothing"),
        ({"limit": [1]}, "found a list"),
        ({"limit": {"a": 1}}, "found a mapping"),
    ],
)
def test_wrong_integers_name_file_key_and_value(value: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        Fields(value, "m.yaml", "top").integer("limit", low=1)


def test_other_wrong_values() -> None:
    with pytest.raises(ConfigError, match="n must be a whole number from 1 to 4"):
        Fields({"n": 5}, "m.yaml").integer("n", low=1, high=4)
    with pytest.raises(ConfigError, match="name must be non-empty text, found the text ' '"):
        Fields({"name": " "}, "m.yaml").text("name")
    with pytest.raises(ConfigError, match="tasks must be a list"):
        Fields({"tasks": "pocket"}, "m.yaml").items("tasks")
    with pytest.raises(ConfigError, match=r"tasks\[1\] must be a mapping"):
        Fields({"tasks": [{}, 3]}, "m.yaml").items("tasks")
    with pytest.raises(ConfigError, match="keys must be text"):
        Fields({1: 2}, "m.yaml")
    with pytest.raises(ConfigError, match=r"o\.deep must be a plain value"):
        Fields({"deep": {"a": 1}}, "m.yaml", "o").rest()
    with pytest.raises(UnknownName, match="Did you mean 'shuffled'"):
        Fields({"order": "shufled"}, "m.yaml").one_of("order", ("shuffled", "by_image"), "shuffled")


def test_unknown_keys_are_refused_with_the_nearest() -> None:
    fields = Fields({"recipe": "x", "limits": 3}, "m.yaml", "recipes[0]")
    fields.text("recipe")
    fields.integer("limit", None, low=1)
    with pytest.raises(UnknownName, match=r"key of recipes\[0\] in m.yaml is called 'limits'. Did you mean 'limit'"):
        fields.done()
