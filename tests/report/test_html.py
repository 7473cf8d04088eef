from __future__ import annotations

import base64
import hashlib
import json
import re
from collections.abc import Callable
from dataclasses import replace
from html.parser import HTMLParser
from importlib.resources import files
from pathlib import Path
from typing import Any

import pytest

from steadyvlm.errors import RunError
from steadyvlm.report.data import ReportData
from steadyvlm.report.fingerprint import fingerprint
from steadyvlm.report.html import render_html, write_html

HOSTILE = "</script><script>window.pwned = 1</script><!--<img src=x onerror=pwned> \"'&\x00\u202e\ud83d"


class Page(HTMLParser):
    """Collects what the tests ask about."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.inside: dict[str, list[str]] = {}
        self._open = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        self._open = tag
        if tag in ("script", "style"):
            self.inside.setdefault(tag, []).append("")

    def handle_endtag(self, tag: str) -> None:
        self._open = ""

    def handle_data(self, data: str) -> None:
        if self._open in ("script", "style"):
            self.inside[self._open][-1] += data


def payload(text: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(Page(text).inside["script"][0])
    return found


@pytest.fixture(scope="module")
def page(demo: ReportData) -> str:
    return render_html(demo, limit=4)


def test_the_policy_names_exactly_our_style_and_script(page: str) -> None:
    found = Page(page)
    policy = next(attrs["content"] or "" for tag, attrs in found.tags if attrs.get("http-equiv"))

    def source(text: str) -> str:
        return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"

    assert f"style-src {source(found.inside['style'][0])};" in policy
    assert f"script-src {source(found.inside['script'][1])};" in policy
    assert policy.startswith("default-src 'none'; img-src data:;")
    assert "unsafe" not in policy


def test_nothing_is_loaded_and_nothing_is_inline_that_the_policy_would_block(page: str) -> None:
    for tag, attrs in Page(page).tags:
        assert not {"src", "style", "srcset", "action"} & set(attrs)
        assert not any(name.startswith("on") for name in attrs)
        assert tag not in ("link", "iframe", "object", "form", "base")
        assert (attrs.get("href") or "#").startswith("#")
    assert not re.search(r"https?://(?!www\.w3\.org/2000/svg)", page)


def test_the_page_says_what_the_terminal_says(page: str, demo: ReportData) -> None:
    comparison = demo.accelerated[0].comparison
    assert f"{comparison.changed} of {comparison.n}" in page
    assert "repeat-run noise" in page


def hostile_report(made: Callable[..., ReportData], prediction: Callable[..., Any]) -> ReportData:
    data = made(["yes"] * 3, {HOSTILE: ["no", "no", "yes"], "fast": ["no", "yes", "yes"]})

    def bad(rows: Any) -> list[Any]:
        return [replace(row, question=HOSTILE + row.question, text=HOSTILE, choices=(HOSTILE,)) for row in rows]

    arms = [replace(arm, recipe=HOSTILE, predictions=bad(arm.predictions)) for arm in data.arms]
    provenance = {HOSTILE: {HOSTILE: HOSTILE}, "fast": {HOSTILE: 2}}
    return replace(data, title=HOSTILE, model=HOSTILE, arms=arms, original=bad(data.original), notes=[HOSTILE],
                   provenance=provenance)  # fmt: skip


def test_text_from_outside_cannot_become_markup(
    made: Callable[..., ReportData], prediction: Callable[..., Any], page: str
) -> None:
    text = render_html(hostile_report(made, prediction))
    text.encode("utf-8")
    expected = {tag for tag, _ in Page(page).tags}
    assert {tag for tag, _ in Page(text).tags} <= expected
    assert sum(tag == "script" for tag, _ in Page(text).tags) == 2
    assert "\x00" not in text
    assert "\u202e" not in text
    item = payload(text)["items"][0]
    assert item["question"].startswith("</script><script>window.pwned = 1</script>")
    assert "␀⟨U+202E⟩�" in item["question"]


def test_the_file_appears_in_one_step_with_its_folder(demo: ReportData, tmp_path: Path) -> None:
    path = tmp_path / "new" / "folder" / "report.html"
    assert write_html(demo, path, images=False, limit=1) == path
    assert path.read_text(encoding="utf-8").startswith("<!DOCTYPE html>")
    assert list(path.parent.iterdir()) == [path]


def test_a_path_that_cannot_be_written_is_a_clear_error(demo: ReportData, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("", encoding="utf-8")
    with pytest.raises(RunError, match="cannot write the report to"):
        write_html(demo, tmp_path / "file" / "report.html", images=False, limit=1)


def test_a_half_written_file_is_never_left(demo: ReportData, tmp_path: Path) -> None:
    target = tmp_path / "report.html"
    target.mkdir()
    with pytest.raises(RunError):
        write_html(demo, target, images=False, limit=1)
    assert list(tmp_path.iterdir()) == [target]


def test_the_same_data_give_the_same_page(demo: ReportData, page: str) -> None:
    assert render_html(demo, limit=4) == page


def test_tasks_are_shown_beside_families_when_there_are_several(demo: ReportData) -> None:
    arm = demo.accelerated[0]
    both = replace(arm.comparison, by_task={"pocket": arm.comparison, "other": arm.comparison})
    text = render_html(replace(demo, arms=[replace(arm, comparison=both)]), images=False, limit=1)
    assert "Families of questions" in text
    assert "&amp;task=other" in text


@pytest.mark.parametrize("arms", [{}, {"fast": ["yes", "yes"]}, {"fast": [None, None]}, {"control": ["yes", "yes"]}])
def test_empty_states_render(made: Callable[..., ReportData], arms: dict[str, list[str | None]]) -> None:
    text = render_html(made(["yes", "yes"], arms))
    assert "Nothing was recorded." in text
    assert "nan" not in re.sub(r"<script.*?</script>", "", text, flags=re.DOTALL).replace("tenant", "")


def test_facts_that_differ_come_first() -> None:
    found = fingerprint({"a": {"x": 1, "v": {"t": "2"}, "l": [1, 2]}, "b": {"x": 1, "v": {"t": "3"}, "n": None}})
    assert found.runs == ("a", "b")
    assert [(fact.name, fact.values, fact.differs) for fact in found.facts] == [
        ("v.t", ("2", "3"), True),
        ("l", ("1, 2", "–"), True),
        ("x", ("1", "1"), False),
        ("n", ("–", "–"), False),
    ]


def test_facts_about_everything_need_no_runs() -> None:
    found = fingerprint({"device": "cpu", "versions": {"torch": "2"}, "empty": ""})
    assert found.runs == ()
    assert [fact.values for fact in found.facts] == [("cpu",), ("2",), ("–",)]
    assert fingerprint({}).facts == ()


def luminance(colour: str) -> float:
    parts = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [part / 12.92 if part <= 0.03928 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
    return sum(weight * part for weight, part in zip((0.2126, 0.7152, 0.0722), linear, strict=True))


@pytest.mark.parametrize("mode", [0, 1])
def test_text_is_readable_on_every_ground(mode: int) -> None:
    style = (files("steadyvlm.report") / "templates" / "report.css").read_text(encoding="utf-8")
    blocks = re.findall(r":root \{(.*?)\}", style, flags=re.DOTALL)
    colours = dict(re.findall(r"--([\w-]+): (#[0-9a-f]{6});", blocks[mode]))
    grounds = [colours[name] for name in ("paper", "panel", "raised", "warn")]
    for name in ("ink", "muted", "dr", "ndr", "pfr", "other"):
        for ground in grounds if name in ("ink", "muted") else grounds[1:2]:
            light, dark = sorted((luminance(colours[name]), luminance(ground)), reverse=True)
            assert (light + 0.05) / (dark + 0.05) >= 4.5, (name, ground)
