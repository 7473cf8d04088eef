"""Sets from one's own data: what is drawn, how it is mixed, and what is refused with nothing written."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from steadyvlm.calibration import build_set as build
from steadyvlm.calibration.build_set import SOURCES, Lines, LlavaInstruct, Rows, build_set
from steadyvlm.calibration.sets import read_set
from steadyvlm.cli.main import Settings, cli
from steadyvlm.errors import ImageError, InvalidOption, SampleError, UnknownName, UsageError
from tiny import make_image


def conversation(number: int, image: str | None) -> dict[str, Any]:
    turns = [
        {"from": "human", "value": f"<image>\nWhat is in picture {number}?"},
        {"from": "gpt", "value": "A star."},
        {"from": "human", "value": "And where?"},
    ]
    return {"id": f"c{number}", "conversations": turns} | ({} if image is None else {"image": image})


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """Pictures of two sources, LLaVA conversations about them, rows, and text."""
    for folder in ("coco", "gqa"):
        (tmp_path / "pictures" / folder).mkdir(parents=True)
        for number in range(6):
            make_image(number + 10 * (folder == "gqa")).save(tmp_path / "pictures" / folder / f"{number}.png")
    rows = [conversation(n, f"coco/{n}.png") for n in range(6)] + [
        conversation(6 + n, f"gqa/{n}.png") for n in range(6)
    ]
    rows += [conversation(20, None), {"id": "odd"}, {"id": "none", "image": "coco/0.png", "conversations": []}]
    (tmp_path / "mix.json").write_text(json.dumps(rows), encoding="utf-8")
    lines = [json.dumps({"prompt": f"read {n}", "image": f"pictures/gqa/{n}.png"}) for n in range(5)]
    (tmp_path / "rows.jsonl").write_text(
        "\n".join([*lines, "", json.dumps({"prompt": "no picture"})]), encoding="utf-8"
    )
    (tmp_path / "text.txt").write_text(" ".join(str(n) for n in range(57)), encoding="utf-8")
    return tmp_path


def sources(data: Path, **options: Any) -> list[Any]:
    return [
        LlavaInstruct(str(data / "mix.json"), str(data / "pictures"), **options),
        Rows(str(data / "rows.jsonl"), group="reading"),
        Lines(str(data / "text.txt"), words=5),
    ]


def test_sources_are_mixed_in_equal_shares_and_alternate(data: Path) -> None:
    content = build_set("mix", sources(data), data / "mix-set.json", samples=8, seed=2)
    groups = [item.group for item in content.samples]
    assert Counter(groups) == {"general": 3, "reading": 3, "text": 2}
    assert len(set(groups[:3])) == 3
    found = read_set(data / "mix-set.json")
    assert found.samples == content.samples
    assert found.name == "mix"
    for item, request in zip(found.samples, found.requests(), strict=True):
        assert len(request.images) == (item.image is not None)
        assert "<image>" not in request.prompt


def test_a_conversation_gives_its_first_question(data: Path) -> None:
    prompts = {item.prompt for item in sources(data)[0].candidates()}
    assert prompts == {f"What is in picture {number}?" for number in range(12)}
    only = list(sources(data, only="coco/")[0].candidates())
    assert [item.id for item in only] == [f"c{number}" for number in range(6)]


def test_text_is_cut_into_whole_pieces(data: Path) -> None:
    pieces = [item.prompt.split() for item in Lines(str(data / "text.txt"), words=10).candidates()]
    assert [len(piece) for piece in pieces] == [10] * 5
    assert [word for piece in pieces for word in piece] == [str(n) for n in range(50)]


def test_shares_and_seed(data: Path) -> None:
    weighted = [
        LlavaInstruct(str(data / "mix.json"), str(data / "pictures"), share=3),
        Lines(str(data / "text.txt"), words=5, share=1),
    ]
    first = build_set("a", weighted, data / "a.json", samples=8)
    assert Counter(item.group for item in first.samples) == {"general": 6, "text": 2}
    again = build_set("a", weighted, data / "b.json", samples=8)
    other = build_set("a", weighted, data / "c.json", samples=8, seed=1)
    assert (data / "a.json").read_bytes() == (data / "b.json").read_bytes()
    assert again.samples == first.samples != other.samples


def test_a_set_knows_its_pictures_from_wherever_it_lies(data: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    place = tmp_path_factory.mktemp("elsewhere") / "sets" / "mine.json"
    content = build_set("mine", sources(data)[:1], place, samples=4)
    assert content.folder == str(data / "pictures")
    assert len(read_set(place).requests()) == 4
    beside = build_set("mine", sources(data)[:1], data / "mine.json", samples=4)
    assert beside.folder == "pictures"
    assert build_set("text", sources(data)[2:], data / "text.json", samples=4).folder is None


def test_pictures_that_are_missing_are_named_and_nothing_is_written(data: Path) -> None:
    (data / "pictures" / "coco" / "3.png").unlink()
    (data / "pictures" / "coco" / "4.png").write_bytes(b"not a picture")
    with pytest.raises(ImageError, match=r"(?s)2 of 6 drawn pictures.*3\.png.*Nothing was written") as caught:
        build_set("a", sources(data, only="coco/")[:1], data / "a.json", samples=6)
    assert "4.png" in str(caught.value)
    assert not (data / "a.json").exists()


def test_a_set_that_exists_is_never_overwritten(data: Path) -> None:
    (data / "a.json").write_text("mine")
    with pytest.raises(InvalidOption, match="already there"):
        build_set("a", sources(data), data / "a.json", samples=6)
    assert (data / "a.json").read_text() == "mine"


def test_a_place_that_cannot_be_written_is_said(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UsageError, match="takes nothing new"):
        build_set("a", sources(data), data / "mix.json" / "a.json", samples=6)
    monkeypatch.setattr(build, "check_new_folder", lambda out: None)  # it was free then
    with pytest.raises(UsageError, match=r"cannot be written: .* Choose another place"):
        build_set("a", sources(data), data / "mix.json" / "a.json", samples=6)


@pytest.mark.parametrize(
    ("change", "samples", "kind", "complaint"),
    [
        (lambda found: [], 3, InvalidOption, "at least one"),
        (lambda found: [found[0], found[0]], 3, InvalidOption, "a name of its own"),
        (lambda found: found, 2, InvalidOption, "at least one for each of 3 groups"),
        (lambda found: [Lines(found[2].path, share=0)], 3, InvalidOption, "share of 'text' is 0"),
        (lambda found: [Lines(found[2].path, share=1e-9)], 3, InvalidOption, "give a number from 0.000001 up"),
        (lambda found: [SOURCES.create("lines(path='a', share='b')")], 3, InvalidOption, "share of 'text' is 'b'"),
        (lambda found: [SOURCES.create("lines(path=3)")], 3, InvalidOption, "path=3 is not allowed"),
        (lambda found: [SOURCES.create("jsonl(path='a', group='')")], 3, InvalidOption, "group='' is not allowed"),
        (lambda found: found[2:], 12, SampleError, "has 11 usable samples for group 'text', 12 are needed"),
        (lambda found: [Lines("missing.txt")], 1, SampleError, "missing.txt' cannot be read"),
        (lambda found: [LlavaInstruct(found[2].path, "x")], 1, SampleError, "is not JSON"),
        (lambda found: [LlavaInstruct(found[1].path, "x")], 1, SampleError, "is not JSON"),
        (lambda found: [Rows(found[2].path)], 1, SampleError, "line 1 of .* is not JSON"),
    ],
)
def test_sources_that_cannot_be_used(
    data: Path, change: Any, samples: int, kind: type[Exception], complaint: str
) -> None:
    with pytest.raises(kind, match=complaint):
        build_set("a", change(sources(data)), data / "a.json", samples=samples)
    assert not (data / "a.json").exists()


@pytest.mark.parametrize("row", ['{"question": "x"}', '{"prompt": " "}', '{"prompt": "a", "image": 3}', '["a"]'])
def test_a_row_that_is_no_sample_is_named(tmp_path: Path, row: str) -> None:
    (tmp_path / "rows.jsonl").write_text('{"prompt": "good"}\n' + row)
    with pytest.raises(SampleError, match="line 2 of"):
        build_set("a", [Rows(str(tmp_path / "rows.jsonl"))], tmp_path / "a.json", samples=1)


def test_a_list_is_asked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "mix.json").write_text('{"a": 1}')
    with pytest.raises(SampleError, match="holds no list of conversations"):
        list(LlavaInstruct(str(tmp_path / "mix.json"), "x").candidates())
    monkeypatch.setattr("steadyvlm.calibration.build_set.MAX_BYTES", 3)
    with pytest.raises(SampleError, match="more than 3 bytes"):
        list(LlavaInstruct(str(tmp_path / "mix.json"), "x").candidates())
    with pytest.raises(InvalidOption, match="words=0"):
        Lines("a", words=0)


def test_sources_are_written_as_text() -> None:
    assert SOURCES.create("lines(path='a.txt', words=7, share=2)") == Lines("a.txt", words=7, share=2)
    with pytest.raises(UnknownName, match="Did you mean 'jsonl'"):
        SOURCES.create("json(path='a')")


def test_the_commands_build_and_check(data: Path) -> None:
    out = data / "sets" / "mine.json"
    source = f"jsonl(path={str(data / 'rows.jsonl')!r}, group='seen')"
    runner = CliRunner()
    built = runner.invoke(
        cli, ["calibration-set", "build", str(out), "--source", source, "--samples", "4"], obj=Settings()
    )
    assert built.exit_code == 0, built.output
    assert "Calibration set 'mine': 4 samples (4 seen)." in built.output
    checked = runner.invoke(cli, ["calibration-set", "check", str(out)], obj=Settings())
    assert "unchanged" in checked.output
    for picture in (data / "pictures" / "gqa").iterdir():
        picture.unlink()
    failed = runner.invoke(cli, ["calibration-set", "check", str(out)], obj=Settings())
    assert isinstance(failed.exception, ImageError)
