"""`steadyvlm show` on tiny checkpoints: what it prints, what it writes, and what it says to a wrong request."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from PIL import Image

pytest.importorskip("torch", reason="the light tests run without the extra 'models'")

from steadyvlm.cli.show import RECIPES
from steadyvlm.cli.show_data import make_sheet, sheet_of
from steadyvlm.recipes.recipe import Recipe
from tiny import make_image, save_tiny, tiny_llava
from tiny_families import tiny_family

ASK = ("--question", "what colour is the star?")


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny(tmp_path_factory.mktemp("tiny"))


@pytest.fixture
def image(tmp_path: Path) -> Path:
    make_image(0, 60, 40).save(tmp_path / "star.png")
    return tmp_path / "star.png"


def test_every_method_is_printed_and_drawn(steadyvlm: Any, model: Path, image: Path, tmp_path: Path) -> None:
    out = tmp_path / "new" / "tokens.png"
    recipes = ("--recipe", "fastv(layer=2, keep_ratio=0.5)", "--recipe", "visionzip(dominant=5, contextual=2)")
    done = steadyvlm("show", image, *ASK, "--model", model, *recipes, "--output", out)
    assert (done.code, done.err) == (0, "")
    assert "The model sees 6 × 6 places, 36 visual tokens." in done.out
    for expected in ("original", "fastv(layer=2,", "0-1: 36; 2-3: 18", "0-3: 7"):
        assert expected in done.out
    assert done.out.endswith(f"Wrote {out}\n")
    with Image.open(out) as drawn:
        assert drawn.format == "PNG"
        assert min(drawn.size) > 400


@pytest.mark.parametrize(("name", "form"), [("tokens.html", None), ("tokens.WEBP", "WEBP"), ("tokens.jpg", "JPEG")])
def test_the_ending_says_what_is_written(
    steadyvlm: Any, model: Path, image: Path, tmp_path: Path, name: str, form: str | None
) -> None:
    out = tmp_path / name
    assert steadyvlm("show", image, *ASK, "-m", model, "-r", "vtw(layer=2)", "-o", out).code == 0
    if form is None:
        assert "what colour is the star?" in out.read_text()
        return
    with Image.open(out) as drawn:
        assert drawn.format == form


def test_without_a_picture_a_scene_is_asked_about(steadyvlm: Any, model: Path, tmp_path: Path) -> None:
    out = tmp_path / "tokens.html"
    assert steadyvlm("show", "-m", model, "-r", "fastv(layer=1)", "-o", out).code == 0
    assert "how many crosses?" in out.read_text()


def test_the_default_recipes_scale_to_any_model(model: Path, image: Path) -> None:
    sheet = make_sheet(str(model), Image.open(image), "what?", RECIPES)
    assert [row.name for row in sheet.rows] == ["original", *RECIPES]
    assert all(row.recipe and row.stages for row in sheet.rows[1:])


def test_a_picture_of_one_pixel_is_shown(steadyvlm: Any, model: Path, tmp_path: Path) -> None:
    Image.new("RGB", (1, 1), "red").save(tmp_path / "dot.png")
    done = steadyvlm("show", tmp_path / "dot.png", *ASK, "-m", model, "-r", "fastv(layer=1)", "-o", tmp_path / "o.png")
    assert (done.code, (tmp_path / "o.png").is_file()) == (0, True)


@pytest.mark.parametrize("family", ["llava_next", "qwen2_vl", "qwen2_5_vl"])
def test_tiles_and_native_grids_are_shown(family: str) -> None:
    picture = make_image(0, 90, 50)
    recipes = [(text, Recipe.parse(text)) for text in ("fastv(layer=2)", "downsample(keep_ratio=0.3)")]
    sheet = sheet_of(tiny_family(family), picture, "what?", recipes, max_new_tokens=1)
    original, fast, small = sheet.rows
    assert len(original.view.panels) == (2 if family == "llava_next" else 1)
    assert fast.per_layer == tuple(round(sheet.tokens * share) for share in (1, 1, 0.5, 0.5))
    kept = [state for cells in (*fast.stages[0].cells, *fast.stages[0].newlines) for state in cells if state >= 0]
    assert len(kept) == fast.stages[0].kept == fast.per_layer[-1]
    assert small.view.whole.total == small.per_layer[0] < sheet.tokens
    assert fast.flops is not None
    assert small.flops is not None
    assert small.flops < 1
    for panel, seen in zip(original.view.panels, original.view.pictures, strict=True):
        assert seen.width * panel.rows == pytest.approx(seen.height * panel.columns, rel=0.02)


def test_what_is_not_counted_has_no_cost(monkeypatch: pytest.MonkeyPatch) -> None:
    from steadyvlm.errors import Unsupported

    def refuse(config: Any) -> None:
        raise Unsupported("another tower")

    recipes = [("fastv", Recipe.parse("fastv(layer=2)"))]
    monkeypatch.setattr("steadyvlm.cost.scoring_of", lambda *_: None)
    assert sheet_of(tiny_family("qwen2_vl"), make_image(1), "what?", recipes).rows[1].flops is None
    monkeypatch.setattr("steadyvlm.models.sizes.sizes_of", refuse)
    assert sheet_of(tiny_family("qwen2_vl"), make_image(1), "what?", recipes).rows[1].flops is None


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("missing.png", *ASK), "image 'missing.png' does not exist"),
        (("{image}",), 'Add --question "…"'),
        (("{image}", *ASK, "-o", "tokens.txt"), "neither a picture nor a page"),
        (("{image}", *ASK, "-r", "fastvv"), "Did you mean 'fastv'?"),
        (("{image}", *ASK, "-r", "fastv(layer=40)"), "layer=40 does not exist in this model"),
        (("{image}", *ASK, "-r", "fastv(layer=1)", "-o", "{image}/tokens.png"), "cannot write"),
        (("{image}", *ASK, "-r", "fastv(layer=1)", "-o", "{image}/tokens.html"), "cannot write"),
        (("{image}", *ASK, "-r", "fastv(layer=1)", "-o", "{folder}.png"), "is a directory"),
    ],
)
def test_a_wrong_request_is_refused_in_one_line(
    steadyvlm: Any, model: Path, image: Path, tmp_path: Path, arguments: tuple[str, ...], said: str
) -> None:
    (tmp_path / "folder.png").mkdir()
    made = [argument.format(image=image, folder=tmp_path / "folder") for argument in arguments]
    where = [] if "-o" in arguments else ["-o", tmp_path / "tokens.png"]
    done = steadyvlm("show", *made, "-m", model, *where)
    assert done.code == 2
    assert said in done.err
    assert not (tmp_path / "tokens.png").exists()


@pytest.mark.parametrize("family", ["llava", "llava_next", "qwen2_vl", "qwen2_5_vl"])
@pytest.mark.parametrize("size", [(90, 50), (50, 90), (64, 64), (10, 10)])
def test_a_report_places_tokens_where_the_model_saw_them(family: str, size: tuple[int, int]) -> None:
    """The report has only the record; the command has the model. Both must draw the same."""
    from steadyvlm.recipes import answer
    from steadyvlm.report.token_map import panels
    from steadyvlm.report.token_places import places

    model = tiny_llava() if family == "llava" else tiny_family(family)
    picture = make_image(3, *size)
    seen = model.preprocess(picture).layout
    cost = answer(model, picture, "what?", max_new_tokens=1).cost
    placed = places(cost, size, centre_square=False)
    assert placed is not None
    assert [panel.ids for panel in placed.panels] == [panel.ids for panel in panels(seen)]
    assert [panel.newlines for panel in placed.panels] == [panel.newlines for panel in panels(seen)]
    assert placed.layout.has_cls == seen.has_cls
