from __future__ import annotations

import io
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from PIL import Image

from steadyvlm.errors import ImageError
from steadyvlm.records import Cost, Generation, KeptTokens, Prediction
from steadyvlm.report.data import ReportData
from steadyvlm.report.gallery import KINDS, gallery, margin
from steadyvlm.report.pictures import MAX_SIDE, PictureBook, embed
from steadyvlm.stability import FLIP_KINDS


def total(page: dict[str, Any], run: str, kind: str) -> int:
    return sum(number for _, _, name, number in page["counts"][run] if name == kind)


def with_cost(prediction: Prediction, cost: Cost) -> Prediction:
    generation = Generation(prediction.text, (2,), "eos", (), 1.0, (), cost)
    return replace(prediction, image_sha256=("picture",), generation=generation)


def bits(mask: str) -> set[int]:
    return {4 * place + bit for place, digit in enumerate(mask) for bit in range(4) if int(digit, 16) >> bit & 1}


def test_counts_are_complete_however_few_samples_are_shown(demo: ReportData) -> None:
    page = gallery(demo, images=False, limit=2)
    for arm in demo.arms:
        for kind in FLIP_KINDS[:5]:
            assert total(page, arm.name, kind) == getattr(arm.comparison.cells, kind)
        assert total(page, arm.name, "changed") == arm.comparison.changed
        assert total(page, arm.name, "failed") == arm.comparison.failures.samples
    assert len(page["items"]) <= 2 * len(KINDS) * len(demo.arms)


def test_any_run_counts_a_sample_once_and_leaves_the_control_out(made: Callable[..., ReportData]) -> None:
    arms = {"control": ["yes", "no", "yes"], "a": ["no", "yes", "yes"], "b": ["no", "yes", "up"]}
    page = gallery(made(["yes", "yes", "no"], arms, control="control"))
    assert total(page, "", "right_to_wrong") == 1
    assert total(page, "", "changed") == 2
    assert total(page, "", "other") == 1
    assert total(page, "control", "right_to_wrong") == 1


def test_the_most_confident_originals_come_first(demo: ReportData) -> None:
    margins = [item["answers"][0]["margin"] for item in gallery(demo, images=False)["items"]]
    assert margins == sorted(margins, reverse=True)


def test_families_take_turns(demo: ReportData) -> None:
    worst = demo.accelerated[-1]
    flips = {flip.family for flip in worst.comparison.flips if flip.kind == "right_to_wrong"}
    page = gallery(replace(demo, arms=[worst]), images=False, limit=len(flips))
    shown = {i["family"] for i in page["items"] if i["answers"][1]["kind"] == "right_to_wrong"}
    assert shown == flips


def test_a_card_holds_the_answers_of_all_runs(demo: ReportData) -> None:
    page = gallery(demo, images=False, limit=3)
    assert [run["name"] for run in page["runs"]] == ["original", *(arm.name for arm in demo.arms)]
    first = {prediction.sample_id: prediction for prediction in demo.original}
    for item in page["items"]:
        assert item["answers"][0]["text"] == first[item["id"]].text
        for arm, answer in zip(demo.arms, item["answers"][1:], strict=True):
            same = next((p for p in arm.predictions if p.sample_id == item["id"]), None)
            assert (answer is None) == (same is None)
            if same is not None:
                assert (answer["text"], answer["score"]) == (same.text, same.score)


def test_failures_are_shown_with_their_reason(made: Callable[..., ReportData]) -> None:
    item = gallery(made(["yes", "yes"], {"fast": [None, "yes"]}))["items"][0]
    assert item["answers"][1]["kind"] == "failed"
    assert item["answers"][1]["failure"] == "RunError: ran out of memory"
    assert item["answers"][1]["answer"] is None


def test_a_score_that_is_no_number_is_left_out(made: Callable[..., ReportData]) -> None:
    data = made(["yes"], {"fast": [None]})
    broken = [replace(data.arms[0].predictions[0], score=float("nan"))]
    page = gallery(replace(data, arms=[replace(data.arms[0], predictions=broken)]))
    assert page["items"][0]["answers"][1]["score"] is None


def test_kept_tokens_travel_exactly(demo: ReportData) -> None:
    zipped = next(arm for arm in demo.arms if arm.name.startswith("visionzip"))
    by_id = {prediction.sample_id: prediction for prediction in zipped.predictions}
    place = 1 + [arm.name for arm in demo.arms].index(zipped.name)
    for item in gallery(demo, limit=4)["items"]:
        answer = item["answers"][place]
        generation = by_id[item["id"]].generation
        if generation is None:
            continue
        site, kept = answer["kept"][0], generation.kept[0]
        assert item["panels"] == [{"name": "", "rows": 12, "columns": 12, "box": [0.0, 0.0, 1.0, 1.0]}]
        assert "panels" not in answer
        assert (site["caption"], site["beside"]) == ("layer 0: 40 of 144", "CLS")
        assert bits(site["cells"][0]["kept"]) == {index for index in kept.indices if index >= 0}
        merged = [pair for pair in zip(kept.indices, kept.merged, strict=True) if pair[1]]
        assert site["cells"][0]["merged"] == [value for pair in sorted(merged) for value in pair]


def test_indices_outside_the_grid_are_ignored(demo: ReportData) -> None:
    first = demo.original[0]
    assert first.generation is not None
    odd = replace(first, generation=replace(first.generation, kept=(KeptTokens(3, 0, (-1, 5, 144, 9_999)),)))
    arm = demo.accelerated[-1]
    changed = next(flip for flip in arm.comparison.flips)
    rows = [replace(odd, sample_id=changed.key[1]) if p.key == changed.key else p for p in arm.predictions]
    page = gallery(replace(demo, arms=[replace(arm, predictions=rows)]), limit=400)
    item = next(item for item in page["items"] if item["id"] == changed.key[1])
    assert bits(item["answers"][1]["kept"][0]["cells"][0]["kept"]) == {5}


def test_a_method_that_shrinks_the_picture_has_its_own_panels(made: Callable[..., ReportData]) -> None:
    data = replace(made(["yes"], {"small": ["no"]}), image=lambda item: png(90, 60))
    original = with_cost(data.original[0], Cost(1.0, 90, 1, (54,), 1, ((1, 12, 18),)))
    small = with_cost(data.arms[0].predictions[0], Cost(1.0, 60, 1, (24,), 1, ((1, 8, 12),)))
    data = replace(data, original=[original], arms=[replace(data.arms[0], predictions=[small])])
    item = gallery(data)["items"][0]
    assert [(panel["rows"], panel["columns"]) for panel in item["panels"]] == [(6, 9)]
    assert [(panel["rows"], panel["columns"]) for panel in item["answers"][1]["panels"]] == [(4, 6)]


def test_without_its_picture_nothing_is_placed(demo: ReportData) -> None:
    item = gallery(demo, images=False, limit=1)["items"][0]
    assert item["panels"] is None
    assert all("kept" not in answer for answer in item["answers"] if answer)


def test_a_log_without_generations_has_no_margin_and_no_panels(
    prediction: Callable[..., Prediction], made: Callable[..., ReportData]
) -> None:
    bare = prediction(0)
    assert margin(bare) == float("-inf")
    page = gallery(replace(made(["yes"], {"fast": ["no"]}), image=lambda item: png(20, 20)))
    assert [item["panels"] for item in page["items"]] == [None]


def test_text_only_pages_hold_more_samples(made: Callable[..., ReportData]) -> None:
    many = ["yes"] * 90
    data = made(many, {"fast": ["no"] * 90})
    assert len(gallery(data)["items"]) == 90
    illustrated = replace(data, image=lambda item: None)
    assert len(gallery(illustrated)["items"]) == 60
    assert len(gallery(illustrated, images=False)["items"]) == 90


def png(width: int, height: int, *, noisy: bool = False) -> bytes:
    buffer = io.BytesIO()
    image = Image.effect_noise((width, height), 80).convert("RGB") if noisy else Image.new("RGB", (width, height))
    image.save(buffer, "PNG")
    return buffer.getvalue()


def test_pictures_are_made_small_and_written_anew() -> None:
    large = embed(png(2_000, 1_000), name="x")
    assert (large.width, large.height) == (2_000, 1_000)
    assert large.uri.startswith("data:image/png;base64,")
    noisy = embed(png(1_000, 1_000, noisy=True), name="x")
    assert noisy.uri.startswith("data:image/jpeg;base64,")
    assert len(noisy.uri) < 4 * MAX_SIDE * MAX_SIDE


def test_a_damaged_picture_is_refused() -> None:
    with pytest.raises(ImageError):
        embed(png(50, 50)[:60], name="x")


def test_a_picture_is_embedded_once_and_only_within_the_budget(prediction: Callable[..., Prediction]) -> None:
    asked: list[str] = []

    def fetch(item: Prediction) -> bytes | None:
        asked.append(item.sample_id)
        return None if item.sample_id == "q4" else b"rubbish" if item.sample_id == "q3" else png(20, 20)

    shared = ("same",)
    book = PictureBook(fetch, budget=len(embed(png(20, 20), name="x").uri) + 5)
    assert book.place(prediction(0, image_sha256=shared)) == 0
    assert book.place(prediction(1, image_sha256=shared)) == 0
    assert book.place(prediction(2)) is None
    assert book.place(prediction(3)) is None
    assert book.place(prediction(4)) is None
    assert (len(book.pictures), book.left_out, book.unreadable) == (1, 1, 1)
    assert asked == ["q0", "q2", "q3", "q4"]


def test_pictures_stay_out_on_request(demo: ReportData) -> None:
    page = gallery(demo, images=False)
    assert page["pictures"] == []
    assert page["missing"]["stripped"] is True
