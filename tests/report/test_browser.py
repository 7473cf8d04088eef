"""The page in a real browser, from file://, watched for requests and console messages."""

from __future__ import annotations

import io
import itertools
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from sheets import plain_sheet, tiled_sheet

from steadyvlm.records import Cost, Generation, KeptTokens, Prediction
from steadyvlm.report.data import ReportData
from steadyvlm.report.html import write_html
from steadyvlm.report.sheet_page import write_sheet_page

playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
ARGUMENTS = [
    "--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-component-update", "--disable-sync",
]  # fmt: skip
HOSTILE = (
    "</script><script>window.pwned = 1</script><img src=x onerror='window.pwned = 1'> \"q\" &amp; 👩‍🔬 " + "w" * 300
)
RTL = "هل هناك \u202eدائرة"

pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(CHROMIUM is None, reason="no chromium is installed (apt-get install chromium)"),
]


@dataclass
class View:
    """An open page and everything it complained about or asked for."""

    page: Any
    messages: list[str]
    requests: list[str]


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with playwright.sync_playwright() as driver:
        opened = driver.chromium.launch(executable_path=CHROMIUM, args=ARGUMENTS)
        yield opened
        opened.close()


@pytest.fixture
def show(browser: Any, tmp_path: Path) -> Iterator[Callable[..., View]]:
    """Write a report and open it; afterwards nothing may have been said or asked for."""
    views: list[View] = []

    def opened(data: ReportData | Path, *, width: int = 1440, quiet: bool = True, **options: Any) -> View:
        path = data if isinstance(data, Path) else write_html(data, tmp_path / "report.html", **options)
        page = browser.new_page(viewport={"width": width, "height": 900}, reduced_motion="reduce")
        view = View(page, [], [])
        page.on("console", lambda message: view.messages.append(message.text))
        page.on("pageerror", lambda error: view.messages.append(str(error)))
        page.on("request", lambda request: view.requests.append(request.url))
        page.goto(path.as_uri())
        if quiet:
            views.append(view)
        return view

    yield opened
    for view in views:
        assert view.messages == []
        assert [url for url in view.requests if not url.startswith(("file:", "data:"))] == []
        view.page.close()


@pytest.fixture(scope="module")
def path(demo: ReportData, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_html(demo, tmp_path_factory.mktemp("report") / "report.html", limit=30)


def cards(view: View) -> int:
    return int(view.page.locator(".card").count())


def test_the_page_opens_from_a_file_quietly_and_asks_for_nothing(show: Callable[..., View], path: Path) -> None:
    view = show(path)
    assert view.page.title() == "pocket-demo · steadyvlm"
    assert cards(view) == 20
    assert len([url for url in view.requests if url.startswith("file:")]) == 1
    broken = view.page.evaluate("[...document.images].filter((i) => i.complete && !i.naturalWidth).length")
    assert broken == 0


@pytest.mark.parametrize("width", [1440, 1000, 400])
def test_the_page_never_scrolls_sideways(show: Callable[..., View], path: Path, width: int) -> None:
    view = show(path, width=width)
    assert view.page.evaluate("document.documentElement.scrollWidth") <= width


def test_a_number_of_the_table_leads_to_its_samples(show: Callable[..., View], path: Path, demo: ReportData) -> None:
    view, arm = show(path), demo.accelerated[1]
    link = view.page.locator(".runs tr", has_text=arm.name).locator("a[href*='right_to_wrong']")
    assert link.inner_text() == f"{arm.comparison.negative} of {arm.comparison.n}"
    link.click()
    view.page.wait_for_function(
        "document.querySelector('.runs') && document.querySelector('.status').innerText.includes('in ')"
    )
    status = view.page.locator(".status").inner_text()
    assert status == f"{arm.comparison.negative} samples right → wrong in {arm.name}."
    moved = view.page.locator(f".card tr.right_to_wrong:has-text('{arm.name}')").count()
    assert moved == cards(view) == min(20, arm.comparison.negative)
    assert view.page.evaluate("document.getElementById('samples').getBoundingClientRect().top < 200")


def test_a_cell_of_the_family_table_leads_to_its_samples(
    show: Callable[..., View], path: Path, demo: ReportData
) -> None:
    view = show(path)
    link = view.page.locator(".families a[href*='least-attended'][href*='kind=changed'][href$='family=word']")
    link.click()
    word = demo.accelerated[-1].comparison.by_family["word"]
    assert view.page.locator(".status b").inner_text() == f"{word.changed} samples"
    assert 0 < cards(view) <= word.changed
    assert set(view.page.locator(".card .tag:first-child").all_inner_texts()) == {"word"}


def test_filters_combine_and_their_counts_are_those_of_the_comparison(
    show: Callable[..., View], path: Path, demo: ReportData
) -> None:
    view, arm = show(path), demo.accelerated[-1]
    view.page.locator(".chips.run .chip", has_text=arm.name).click()
    for kind in ("right_to_wrong", "wrong_to_right", "wrong_to_other_wrong", "format_only"):
        chip = view.page.locator(f".chips.kind .chip[data-value='{kind}']")
        assert int(chip.locator(".count").inner_text()) == getattr(arm.comparison.cells, kind)
    view.page.locator(".chips.kind .chip[data-value='wrong_to_right']").click()
    view.page.select_option("#f-family", "counting")
    assert view.page.locator(".card tr.wrong_to_right").count() >= cards(view) > 0
    assert "run=least-attended-50&kind=wrong_to_right&family=counting" in view.page.url


def test_text_search_narrows_the_samples(show: Callable[..., View], path: Path) -> None:
    view = show(path)
    view.page.fill("#f-text", "Which word")
    assert cards(view) > 0
    assert set(view.page.locator(".card h3").all_inner_texts()) == {"Which word is printed?"}
    view.page.fill("#f-text", "no such thing")
    assert view.page.locator(".list .empty").inner_text().startswith("No sample matches these filters.")
    view.page.click(".list .empty button")
    assert cards(view) == 20


def test_more_cards_come_on_demand(show: Callable[..., View], path: Path) -> None:
    view = show(path)
    view.page.click(".more")
    assert cards(view) == 40


def test_keys_move_search_and_toggle(show: Callable[..., View], path: Path) -> None:
    view = show(path)
    keys = view.page.keyboard
    for key in "jjk":
        keys.press(key)
    current = view.page.evaluate(
        "[...document.querySelectorAll('.card')].findIndex((c) => c.matches('.current:focus'))"
    )
    assert current == 0
    for _ in range(21):
        keys.press("j")
    assert cards(view) == 40
    keys.press("t")
    assert view.page.locator(".dropped").count() == 0
    keys.press("/")
    assert view.page.evaluate("document.activeElement.id") == "f-text"
    keys.type("jk/")
    assert view.page.input_value("#f-text") == "jk/"


def test_tokens_are_drawn_where_they_were_dropped(show: Callable[..., View], path: Path, demo: ReportData) -> None:
    view, arm = show(path), next(arm for arm in demo.arms if arm.name == "visionzip-40")
    view.page.locator(".chips.run .chip", has_text=arm.name).click()
    view.page.locator(".chips.kind .chip[data-value='changed']").click()
    card = view.page.locator(".card").first
    prediction = next(p for p in arm.predictions if p.sample_id == card.locator(".id bdi").inner_text())
    assert prediction.generation is not None
    kept = {index for index in prediction.generation.kept[0].indices if index >= 0}
    drawn = card.locator(".dropped").evaluate_all(
        "(all) => all.map((r) => Math.round(r.getAttribute('y') / 8) * 12 + Math.round(r.getAttribute('x') / 8))"
    )
    assert set(drawn) == set(range(144)) - kept
    assert card.locator(".merged").count() == 8
    assert "layer 0: 40 of 144 tokens, with CLS; outlined" in card.locator(".caption").inner_text()
    eye = card.locator("tr", has_text=arm.name).locator(".eye")
    eye.click()
    assert card.locator(".dropped").count() == 0
    card.locator("tr", has_text="fastv-50").locator(".eye").click()
    assert card.locator(".dropped").count() == 72


@pytest.mark.parametrize(("area", "left", "width"), [("centre_square", 48, 8), ("whole", 0, 16)])
def test_a_wide_picture_is_covered_where_the_model_looked(
    show: Callable[..., View], demo: ReportData, area: Any, left: int, width: int
) -> None:
    buffer = io.BytesIO()
    Image.new("RGB", (192, 96), "orange").save(buffer, "PNG")
    arm = next(arm for arm in demo.accelerated if arm.name == "least-attended-50")
    data = replace(demo, arms=[arm], image=lambda item: buffer.getvalue(), patch_area=area)
    card = show(data, limit=3).page.locator(".card").first
    rects = card.locator(".dropped").evaluate_all("(all) => all.map((r) => [r.x.baseVal.value, r.width.baseVal.value])")
    assert {round(size) for _, size in rects} == {width}
    assert min(x for x, _ in rects) >= left
    assert max(x for x, _ in rects) <= 192 - left - width + 0.01
    assert card.locator(".unseen").count() == (left > 0)


def test_each_layer_of_a_run_can_be_drawn(show: Callable[..., View], demo: ReportData) -> None:
    arm = demo.accelerated[0]

    def twice(item: Prediction) -> Prediction:
        if item.generation is None:
            return item
        kept = (KeptTokens(2, 0, tuple(range(100))), KeptTokens(7, 0, tuple(range(10))))
        return replace(item, generation=replace(item.generation, kept=kept))

    arms = [replace(arm, predictions=[twice(item) for item in arm.predictions])]
    card = show(replace(demo, arms=arms)).page.locator(".card").first
    assert card.locator(".dropped").count() == 134
    card.locator(".sites button", has_text="layer 2").click()
    assert card.locator(".dropped").count() == 44


def test_hostile_text_stays_text(show: Callable[..., View], made: Callable[..., ReportData]) -> None:
    data = made(["yes"] * 4, {HOSTILE: ["no", "no", "yes", "yes"], "fast\x00": ["no", "yes", "yes", "no"]})

    def bad(rows: Any) -> list[Prediction]:
        return [replace(row, question=f"{HOSTILE} {row.question}", text=RTL, choices=(HOSTILE, RTL)) for row in rows]

    arms = [replace(arm, recipe=HOSTILE, predictions=bad(arm.predictions)) for arm in data.arms]
    view = show(
        replace(data, title=HOSTILE, model=RTL, arms=arms, original=bad(data.original), notes=[HOSTILE],
                provenance={HOSTILE: {HOSTILE: HOSTILE}, "b": {"dtype": RTL}}),
        width=400,
    )  # fmt: skip
    assert view.page.evaluate("window.pwned") is None
    assert view.page.locator("script").count() == 2
    assert view.page.locator("img").count() == 0
    assert view.page.locator(".card h3").first.inner_text().startswith("</script><script>window.pwned = 1</script><img")
    assert view.page.locator(".said .raw").first.inner_text().startswith("هل هناك ⟨U+202E⟩دائرة")
    assert view.page.evaluate("document.documentElement.scrollWidth") <= 400
    view.page.locator(".runs tbody tr").nth(1).locator("a[href*='right_to_wrong']").click()
    assert view.page.locator(".status b").inner_text() == "2 samples"
    view.page.locator(".chips.run .chip", has_text="fast␀").click()
    assert "kind=right_to_wrong" in view.page.url


def test_the_policy_stops_what_escaping_would_miss(show: Callable[..., View], path: Path) -> None:
    view = show(path, quiet=False)
    ran = view.page.evaluate(
        """() => {
          const script = document.createElement("script");
          script.textContent = "window.pwned = 1";
          document.body.append(script);
          return window.pwned === 1;
        }"""
    )
    sent = view.page.evaluate("fetch('https://example.invalid/').then(() => 'sent', () => 'stopped')")
    assert (ran, sent) == (False, "stopped")
    assert any("Content Security Policy" in message for message in view.messages)
    view.page.close()


@pytest.mark.parametrize(
    ("arms", "note"),
    [
        ({}, "There is no run to compare yet."),
        ({"fast": ["yes", "yes"]}, "No answer changed in any run."),
    ],
)
def test_empty_states_say_so(
    show: Callable[..., View], made: Callable[..., ReportData], arms: dict[str, list[str]], note: str
) -> None:
    view = show(made(["yes", "yes"], arms))
    assert view.page.locator(".list .empty").inner_text().startswith(note)
    assert view.page.locator("figure").count() == 0


def test_two_logs_need_no_pictures_and_no_choice_of_run(
    show: Callable[..., View], made: Callable[..., ReportData]
) -> None:
    view = show(made(["yes"] * 3, {"visionzip": ["no", "yes", "no"]}))
    assert cards(view) == 2
    assert view.page.locator(".picture").count() == 0
    assert view.page.locator(".chips.run").count() == 0
    assert view.page.input_value("#f-sort") == "id"
    assert "not measured" in view.page.locator(".tiles").inner_text()


def test_pictures_can_be_left_out(show: Callable[..., View], demo: ReportData) -> None:
    view = show(demo, images=False, limit=5)
    assert view.page.locator("img").count() == 0
    assert "Pictures were left out of this report." in view.page.locator(".status").inner_text()


def test_an_unknown_address_shows_everything(show: Callable[..., View], path: Path) -> None:
    view = show(path)
    view.page.evaluate("location.hash = '#run=nobody&kind=nothing'")
    view.page.wait_for_function("document.querySelector('.chips.kind [data-value=any]').ariaPressed === 'true'")
    assert cards(view) == 20


def test_the_matrix_shows_samples_by_runs_and_leads_back(show: Callable[..., View], path: Path) -> None:
    view = show(path)
    view.page.select_option("#f-view", "matrix")
    assert view.page.locator(".matrix thead th").all_inner_texts()[3:5] == ["original", "control"]
    row = view.page.locator(".matrix tbody tr").nth(3)
    name = row.locator(".open").inner_text()
    row.locator(".open").click()
    assert view.page.locator(".card.current .id bdi").inner_text() == name


def test_the_id_can_be_copied(show: Callable[..., View], path: Path) -> None:
    view = show(path)
    button = view.page.locator(".copy").first
    button.click()
    playwright.expect(button).to_have_text("Copied")


def test_dark_mode_changes_the_ground(browser: Any, path: Path) -> None:
    grounds = []
    for scheme in ("light", "dark"):
        page = browser.new_page(color_scheme=scheme)
        page.goto(path.as_uri())
        grounds.append(page.evaluate("getComputedStyle(document.body).backgroundColor"))
        page.close()
    assert grounds == ["rgb(247, 247, 245)", "rgb(15, 18, 22)"]


def test_paper_is_white_whatever_the_screen(browser: Any, path: Path) -> None:
    page = browser.new_page(color_scheme="dark", viewport={"width": 1040, "height": 700})
    page.goto(path.as_uri())
    page.emulate_media(media="print")
    shown = page.evaluate("['color', 'backgroundColor'].map((name) => getComputedStyle(document.body)[name])")
    assert shown == ["rgb(21, 25, 30)", "rgb(255, 255, 255)"]
    assert page.evaluate("document.querySelector('.runs').offsetWidth") <= 1040
    page.close()


def test_every_control_has_a_name_and_ids_are_unique(show: Callable[..., View], path: Path) -> None:
    view = show(path)
    nameless = view.page.evaluate(
        """() => [...document.querySelectorAll("button, a, input, select")]
          .filter((e) => !(e.innerText || e.getAttribute("aria-label") || e.labels?.length || e.querySelector("title")))
          .map((e) => e.outerHTML.slice(0, 80))"""
    )
    ids = view.page.evaluate("[...document.querySelectorAll('[id]')].map((e) => e.id)")
    assert nameless == []
    assert len(ids) == len(set(ids))
    levels = view.page.evaluate("[...document.querySelectorAll('h1,h2,h3')].map((e) => +e.tagName[1])")
    assert all(b - a <= 1 for a, b in itertools.pairwise(levels))


def test_the_page_of_a_sheet_draws_what_every_layer_kept(show: Callable[..., View], tmp_path: Path) -> None:
    sheet = plain_sheet()
    view = show(write_sheet_page(sheet, tmp_path / "sheet.html"))
    assert view.page.title() == "What colour is the circle? · steadyvlm"
    figures = view.page.locator("figure")
    assert figures.count() == 1 + 1 + 3 + 1 + 1
    drawn = [(row.name, stage) for row in sheet.rows for _, stage in row.shown]
    for place, (name, stage) in enumerate(drawn):
        figure = figures.nth(place)
        gone = sum(state < 0 for cells in stage.cells for state in cells)
        assert figure.locator(".dropped").count() == gone, name
        counts = [str(state) for cells in stage.cells for state in cells if state > 0]
        assert figure.locator(".merged-count").all_text_contents() == counts
    assert view.page.locator(".cls .extra").count() == 1
    assert view.page.locator(".was").all_inner_texts() == ["the original said: red"]
    view.page.click("#bare")
    assert not figures.nth(1).locator(".dropped").first.is_visible()


def test_the_page_of_a_tiled_picture_shows_tiles_row_ends_and_cls(show: Callable[..., View], tmp_path: Path) -> None:
    sheet = tiled_sheet()
    view = show(write_sheet_page(sheet, tmp_path / "sheet.html"))
    stage = sheet.rows[1].stages[0]
    figure = view.page.locator("figure").nth(1)
    assert figure.locator(".frame").count() == 2
    assert figure.locator(".newlines .extra").count() == sum(state == 0 for state in stage.newlines[1])
    assert figure.locator(".cls span").all_inner_texts() == ["", "", "4", "", ""]


@pytest.mark.parametrize("width", [1600, 400])
def test_the_page_of_a_sheet_never_scrolls_sideways(show: Callable[..., View], tmp_path: Path, width: int) -> None:
    for sheet in (plain_sheet(HOSTILE), tiled_sheet()):
        view = show(write_sheet_page(sheet, tmp_path / "sheet.html"), width=width)
        assert view.page.evaluate("document.documentElement.scrollWidth") <= width
        assert view.page.evaluate("window.pwned") is None


def test_tiles_and_native_grids_are_drawn_on_the_picture_that_was_asked_about(
    show: Callable[..., View], made: Callable[..., ReportData]
) -> None:
    buffer = io.BytesIO()
    Image.new("RGB", (192, 144), "orange").save(buffer, "PNG")
    data = replace(made(["yes", "yes"], {"fast": ["no", "no"]}), image=lambda item: buffer.getvalue())
    tiled = Cost(1.0, 700, 1, (594,), 1, ((5, 12, 12),), image_cuts=((2, 2, 3, 0, 21, 24),))
    native = Cost(1.0, 70, 1, (54,), 1, ((1, 12, 18),))

    def with_tokens(row: Prediction, cost: Cost, kept: tuple[KeptTokens, ...]) -> Prediction:
        return replace(row, generation=Generation(row.text, (2,), "eos", (), 1.0, kept, cost))

    original = [with_tokens(row, cost, ()) for row, cost in zip(data.original, (tiled, native), strict=True)]
    fast = [
        with_tokens(row, cost, (KeptTokens(3, 0, (0, 1, 2)),))
        for row, cost in zip(data.arms[0].predictions, (tiled, native), strict=True)
    ]
    data = replace(data, original=original, arms=[replace(data.arms[0], predictions=fast)])
    cards = show(data).page.locator(".card")
    assert [cards.nth(place).locator(".frame").count() for place in range(2)] == [2, 1]
    assert cards.nth(0).locator(".frame").nth(0).locator(".dropped").count() == 141
    assert cards.nth(0).locator(".frame").nth(1).locator(".dropped").count() == 18 * 24
    assert cards.nth(1).locator(".dropped").count() == 51
    assert "0 of 18 row ends" in cards.nth(0).locator(".caption").inner_text()


@pytest.mark.parametrize("width", [1440, 400])
def test_perturbed_inputs_are_shown_without_scrolling_the_page(
    show: Callable[..., View], demo: ReportData, width: int
) -> None:
    from test_perturbations import under

    view = show(replace(demo, perturbed={"fastv-50": under(demo, "fastv-50")}), width=width, limit=5)
    assert view.page.evaluate("document.documentElement.scrollWidth") <= width
    assert view.page.locator("#perturbed .heatmap tbody tr").count() == 4
    assert view.page.locator("#perturbed svg.curves:visible").count() == 1
    assert "right → wrong" in str(view.page.locator("#perturbed .heatmap td.heat").first.get_attribute("title"))
    view.page.locator("nav a", has_text="Perturbed").click(force=True)
    assert view.page.evaluate("document.getElementById('perturbed').getBoundingClientRect().top < 200")
