"""`steadyvlm perturb`: a sheet of a picture, a table of a text, and what it says to a wrong request."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from PIL import Image

pytest.importorskip("cv2", reason="the light tests run without the extra 'perturb'")

ASK = "What is the man holding?"


@pytest.fixture
def image(tmp_path: Path) -> Path:
    path = tmp_path / "street.png"
    Image.linear_gradient("L").resize((90, 60)).convert("RGB").save(path)
    return path


def test_a_picture_becomes_a_sheet_with_a_column_per_severity(steadyvlm: Any, image: Path, tmp_path: Path) -> None:
    out = tmp_path / "new" / "sheet.png"
    done = steadyvlm("perturb", image, "--out", out, "-l", "image/contrast", "-l", "image/blank_image")
    assert (done.code, done.err) == (0, "")
    assert done.out == f"Wrote {out}\n"
    with Image.open(out) as drawn:
        wide, high = drawn.size
    steadyvlm("perturb", image, "--out", out, "-l", "image/contrast@3")
    with Image.open(out) as drawn:
        assert drawn.size[0] < wide
        assert drawn.size[1] < high
    steadyvlm("perturb", image, "--out", out, "-l", "image/blank_image")
    with Image.open(out) as drawn:
        assert drawn.size[0] < wide


def test_the_sheet_lies_where_one_works_unless_told_otherwise(
    steadyvlm: Any, image: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert steadyvlm("perturb", image, "-l", "image/brightness").out == "Wrote sheet.png\n"
    assert (tmp_path / "sheet.png").is_file()


def test_a_text_becomes_a_table_that_says_what_was_not_applied(steadyvlm: Any) -> None:
    done = steadyvlm("perturb", "--text", ASK)
    lines = done.out.splitlines()
    assert len(lines) == 87
    assert lines[0].startswith("text/ocr@1 ")
    first = next(line for line in lines if line.startswith("text/drop_first@1"))
    assert first.endswith("[UNK] is the man holding?")
    passive = next(line for line in lines if line.startswith("text/to_passive@1"))
    assert "[fallback: " in passive
    assert steadyvlm("perturb", "--text", ASK).out == done.out
    assert steadyvlm("perturb", "--text", ASK, "--seed", "1").out != done.out


def test_a_text_becomes_a_page_that_runs_nothing(steadyvlm: Any, tmp_path: Path) -> None:
    out = tmp_path / "words.html"
    text = "Is <script>alert(1)</script> a dog?"
    done = steadyvlm("perturb", "--text", text, "-l", "text/drop_last", "-o", out)
    assert done.out.endswith(f"Wrote {out}\n")
    page = out.read_text(encoding="utf-8")
    assert "<script" not in page
    assert "&lt;script&gt;" in page
    assert page.count("<tr>") == 1


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ([], "either a picture or --text"),
        (["IMAGE", "--text", ASK], "either a picture or --text"),
        (["--text", "  "], "the text is empty"),
        (["--text", ASK, "-l", "image/fog"], "'image/fog@1' cannot be applied to a text"),
        (["IMAGE", "-l", "text/char"], "cannot be applied to a picture"),
        (["IMAGE", "-l", "random"], "'random' cannot be applied to a picture"),
        (["IMAGE", "-l", "image/fogg"], "Did you mean 'image/fog'"),
        (["IMAGE", "-o", "sheet.gif"], "use a name that ends in .png"),
        (["--text", ASK, "-o", "words.txt"], "use a name that ends in .html"),
        (["gone.png"], "does not exist"),
    ],
)
def test_wrong_requests_are_explained(
    steadyvlm: Any, image: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: list[str], said: str
) -> None:
    monkeypatch.chdir(tmp_path)
    done = steadyvlm("perturb", *[image if word == "IMAGE" else word for word in arguments])
    assert done.code == 2
    assert said in done.err
    assert [path.name for path in tmp_path.iterdir()] == ["street.png"]


def test_the_suite_is_listed(steadyvlm: Any) -> None:
    done = steadyvlm("list", "perturbations")
    assert "  image/fog@1 … @5\n      weather: " in done.out
    assert "  text/drop_first\n" in done.out
    assert done.out.count("\n      ") == 55
