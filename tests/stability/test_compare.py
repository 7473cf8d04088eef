"""Two runs in, one comparison out: known tables, properties, slices, failures, JSON."""

from __future__ import annotations

import dataclasses
import json
import random
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stability.factory import failed, prediction, two_runs
from steadyvlm.errors import InvalidOption, LogError, PairingError
from steadyvlm.records import Prediction
from steadyvlm.stability.compare import NO_FAMILY, Comparison, compare

CELLS = st.lists(st.integers(0, 12), min_size=6, max_size=6).filter(any)
SCORES = st.sampled_from([0.0, 0.3, 0.6, 0.9, 1.0])


def soft(scores: list[tuple[float, float]], per_cluster: int = 1) -> tuple[list[Prediction], list[Prediction]]:
    """Two runs with the given scores; the answer is the score, so that it changes with it."""
    sides: tuple[list[Prediction], list[Prediction]] = ([], [])
    for row, both in enumerate(scores):
        for side, score in zip(sides, both, strict=True):
            cluster = f"image {row // per_cluster}" if per_cluster > 1 else ""
            side.append(prediction(f"q{row:03d}", f"answer {score}", score, kind="open_ten", cluster=cluster))
    return sides


def test_the_real_llava_numbers() -> None:
    # 3,000 POPE answers of LLaVA-1.5-7B before and after VisionZip: 239 broke, 49 mended, 714 changed only in words
    found = compare(*two_runs([239, 49, 0, 0, 714, 1998]))
    assert str(found.divergence_ratio) == "9.6 % [8.6, 10.7] (288 of 3,000)"
    assert (found.changed, found.negative, found.positive, found.format_only) == (288, 239, 49, 714)
    assert found.negative_divergence_ratio.value == pytest.approx(239 / 3000)
    assert found.negative_given_right.denominator == 239 + 714 + 1998
    assert found.accuracy_change.value == pytest.approx((49 - 239) / 3000, abs=1e-12)
    assert found.text_divergence_ratio.numerator == 288 + 714
    assert found.churn == pytest.approx(288 / 3000)
    assert found.mcnemar.p_two_sided < 1e-30
    assert found.mcnemar_by_cluster == found.mcnemar
    assert found.n_eff == 3000


def test_every_cell_arrives_where_it_belongs() -> None:
    found = compare(*two_runs([1, 2, 3, 4, 5, 6]))
    assert dataclasses.astuple(found.cells) == (1, 2, 3, 4, 5, 6)
    assert (found.other_wrong, found.right_to_other_right) == (3, 4)
    kinds = [flip.kind for flip in found.flips]
    assert [kinds.count(kind) for kind in dict.fromkeys(kinds)] == [1, 2, 3, 4, 5]
    assert [flip.key for flip in found.flips] == sorted(flip.key for flip in found.flips)
    first = found.flips[0]
    assert (first.original_answer, first.accelerated_answer) == ("red", "blue")
    assert (first.original_score, first.accelerated_score, first.family, first.fragile) == (1.0, 0.0, "colour", None)


@pytest.mark.parametrize("per_cluster", [1, 3])
def test_comparing_a_run_with_itself_finds_nothing(per_cluster: int) -> None:
    original, _ = two_runs([4, 4, 4, 4, 4, 40], per_cluster=per_cluster)
    found = compare(original, original, control=original)
    assert found.cells.unchanged == found.n == 60
    assert found.flips == found.failed == ()
    for rate in ("divergence_ratio", "negative_divergence_ratio", "positive_flip_ratio", "text_divergence_ratio"):
        assert getattr(found, rate).value == 0
    for change in ("accuracy_change", "score_change", "excess_divergence_ratio", "excess_negative_divergence_ratio"):
        item = getattr(found, change)
        assert item.low <= item.value == 0 <= item.high
    assert found.loss_flow == found.gain_flow == 0
    assert found.control_divergence_ratio is not None
    assert found.control_negative_divergence_ratio is not None
    assert found.control_divergence_ratio.value == found.control_negative_divergence_ratio.value == 0


@settings(max_examples=40, deadline=None)
@given(cells=CELLS, per_cluster=st.integers(1, 3))
def test_swapping_the_sides_swaps_the_directions(cells: list[int], per_cluster: int) -> None:
    original, accelerated = two_runs(cells, per_cluster=per_cluster)
    there, back = compare(original, accelerated), compare(accelerated, original)
    assert there.divergence_ratio == back.divergence_ratio
    assert there.negative_divergence_ratio == back.positive_flip_ratio
    assert there.accuracy_change.value == pytest.approx(-back.accuracy_change.value, abs=1e-12)
    assert there.loss_flow == back.gain_flow
    assert there.mcnemar.p_two_sided == pytest.approx(back.mcnemar.p_two_sided)
    assert there.n == there.cells.n == sum(cells)
    assert there.negative_divergence_ratio.value <= there.divergence_ratio.value


@settings(max_examples=40, deadline=None)
@given(scores=st.lists(st.tuples(SCORES, SCORES), min_size=1, max_size=60), per_cluster=st.integers(1, 4))
def test_soft_scores_keep_the_identities(scores: list[tuple[float, float]], per_cluster: int) -> None:
    found = compare(*soft(scores, per_cluster))
    assert found.score_change.value == pytest.approx(found.gain_flow - found.loss_flow, abs=1e-12)
    assert found.accuracy_change.value == pytest.approx((found.positive - found.negative) / found.n, abs=1e-12)
    assert found.score_accelerated - found.score_original == pytest.approx(found.score_change.value, abs=1e-12)
    assert found.score_change.low <= found.score_change.value + 1e-12
    assert found.score_change.value <= found.score_change.high + 1e-12
    assert found.negative + found.positive + found.other_wrong + found.right_to_other_right == found.changed


@settings(max_examples=10, deadline=None)
@given(scores=st.lists(st.tuples(SCORES, SCORES), min_size=40, max_size=80), seed=st.integers(0, 99))
def test_the_order_of_samples_is_irrelevant(scores: list[tuple[float, float]], seed: int) -> None:
    original, accelerated = soft(scores, per_cluster=2)
    shuffle = random.Random(seed)
    mixed = compare(
        shuffle.sample(original, len(original)),
        shuffle.sample(accelerated, len(accelerated)),
        control=shuffle.sample(original, len(original)),
    )
    assert mixed.to_json() == compare(original, accelerated, control=original).to_json()


def test_the_threshold_decides_what_is_right_and_is_kept() -> None:
    runs = soft([(0.6, 0.3), (1.0, 0.9), (0.3, 0.6)])
    assert (compare(*runs).negative, compare(*runs).positive) == (1, 1)
    strict = compare(*runs, correct_threshold=1.0)
    assert (strict.negative, strict.positive, strict.correct_threshold) == (1, 0, 1.0)
    assert strict.accuracy_original.numerator == 1


@pytest.mark.parametrize(
    "options", [{"correct_threshold": 0.0}, {"correct_threshold": 1.5}, {"alpha": 0.0}, {"alpha": 1}]
)
def test_impossible_options_are_refused(options: dict[str, Any]) -> None:
    runs = two_runs([1, 1, 0, 0, 0, 1])
    with pytest.raises(InvalidOption, match=next(iter(options))):
        compare(*runs, **options)


def test_further_controls_need_a_first() -> None:
    original, accelerated = two_runs([1, 1, 0, 0, 0, 1])
    with pytest.raises(InvalidOption, match="without a control"):
        compare(original, accelerated, further_controls=[original])


def test_shared_images_widen_every_interval() -> None:
    alone = compare(*two_runs([60, 12, 0, 0, 0, 528]))
    shared = compare(*two_runs([60, 12, 0, 0, 0, 528], per_cluster=6))
    assert (alone.n_clusters, shared.n_clusters) == (600, 100)
    assert shared.n_eff < alone.n_eff == 600
    for name in ("divergence_ratio", "negative_divergence_ratio", "accuracy_change", "score_change"):
        narrow, wide = getattr(alone, name), getattr(shared, name)
        assert wide.value == pytest.approx(narrow.value)
        assert wide.high - wide.low > narrow.high - narrow.low
    # 12 flips broke in each of the first 10 images, 12 mended in the next two
    assert (shared.mcnemar_by_cluster.first_only, shared.mcnemar_by_cluster.second_only) == (10, 2)
    assert shared.mcnemar_by_cluster.unit == "image"


def test_rotations_and_perturbed_copies_are_not_independent() -> None:
    rotations = [prediction(f"q{row}", group=f"question {row // 4}") for row in range(8)]
    assert compare(rotations, rotations).n_clusters == 2
    clean = prediction("q1")
    blurred = prediction("q1-blur", parent="q1", perturbation="blur-3")
    assert compare([clean, blurred], [clean, blurred]).n_clusters == 1


def test_images_count_across_tasks_but_ids_do_not() -> None:
    same_image = [prediction("q1", cluster="cat.png"), prediction("q1", task="other", cluster="cat.png")]
    assert compare(same_image, same_image).n_clusters == 1
    same_id = [prediction("q1"), prediction("q1", task="other")]
    assert compare(same_id, same_id).n_clusters == 2


def test_slices_by_task_and_family_add_up() -> None:
    pope, pope_fast = two_runs([2, 0, 0, 0, 0, 8], task="pope", family="random")
    toy, toy_fast = two_runs([0, 3, 0, 0, 0, 7], task="toy", family="")
    more, more_fast = two_runs([1, 0, 1, 0, 0, 2], task="toy", family="random", perturbation="blur-1")
    found = compare([*pope, *toy, *more], [*pope_fast, *toy_fast, *more_fast], control=[*pope_fast, *toy, *more])
    assert list(found.by_task) == ["pope", "toy"]
    assert list(found.by_family) == [NO_FAMILY, "pope/random", "toy/random"]
    for slices in (found.by_task, found.by_family):
        assert sum(item.n for item in slices.values()) == found.n
        assert sum(item.negative for item in slices.values()) == found.negative
        assert all(name == item.name for name, item in slices.items())
    assert found.by_task["pope"].negative_divergence_ratio.value == pytest.approx(0.2)
    assert found.by_family[NO_FAMILY].positive == 3
    # the control repeats exactly the accelerated changes of pope, and none of toy's
    noise = {name: item.noise for name, item in found.by_task.items()}
    assert noise["pope"] is not None
    assert noise["toy"] is not None
    assert noise["pope"].excess_divergence_ratio.value == 0
    assert noise["toy"].control_divergence_ratio.value == 0
    assert {flip.fragile for flip in found.flips if flip.key[0] == "pope"} == {True}
    assert {flip.fragile for flip in found.flips if flip.key[0] == "toy"} == {False}


def test_one_task_and_one_family_repeat_the_whole() -> None:
    found = compare(*two_runs([2, 1, 0, 0, 0, 8]))
    assert list(found.by_task) == ["toy"]
    assert list(found.by_family) == ["colour"]
    assert found.by_task["toy"].divergence_ratio == found.divergence_ratio


def test_failed_samples_are_counted_apart_and_never_change() -> None:
    original, accelerated = two_runs([1, 0, 0, 0, 0, 9])
    original[3] = failed("q00003", "ImageError", "not a picture", image_sha256=())
    accelerated[3] = failed("q00003", "ImageError", "not a picture", image_sha256=())
    accelerated[5] = failed("q00005", "RunError", "out of memory")
    found = compare(original, accelerated)
    assert found.n == 8
    assert found.divergence_ratio.denominator == 8
    assert dataclasses.astuple(found.failures) == (1, 2, 0, 2)
    assert [item.key[1] for item in found.failed] == ["q00003", "q00005"]
    assert found.failed[1].reasons == {"accelerated": "RunError: out of memory"}
    assert set(found.failed[0].reasons) == {"original", "accelerated"}
    assert found.by_task["toy"].failures == found.failures


def test_an_arm_that_failed_entirely_is_reported_not_raised() -> None:
    original, _ = two_runs([0, 0, 0, 0, 0, 3])
    found = compare(original, [failed(item.sample_id) for item in original], control=original)
    assert (found.n, found.n_clusters, found.failures.samples) == (0, 0, 3)
    assert not found.divergence_ratio.defined
    assert found.caveats[0].startswith("3 samples have no answer")
    row = found.to_json()
    assert row["score_original"] is None
    assert row["churn"] is None
    assert "undefined" in str(found)


def test_unparsed_answers_are_counted_per_side() -> None:
    original = [prediction("q1", "<unparsed>", 0.0, text="?"), prediction("q2")]
    accelerated = [prediction("q1", "<unparsed>", 0.0, text="!"), prediction("q2", "<unparsed>", 0.0, text="-")]
    found = compare(original, accelerated)
    assert (found.unparsed.original, found.unparsed.accelerated) == (1, 2)
    assert found.changed == 1


def test_the_control_must_have_been_asked_the_same() -> None:
    original, accelerated = two_runs([1, 0, 0, 0, 0, 9])
    with pytest.raises(PairingError, match="1 of 10 sample ids appear only in the original run") as caught:
        compare(original, accelerated, control=original[1:])
    assert "The control run looks unfinished" in str(caught.value)
    other = [dataclasses.replace(original[0], prompt_sha256="x"), *original[1:]]
    with pytest.raises(PairingError, match="original and control runs were not asked the same"):
        compare(original, accelerated, control=other)


def test_a_short_arm_is_compared_on_the_common_questions() -> None:
    original, accelerated = two_runs([2, 0, 0, 0, 0, 8])
    found = compare(original, accelerated[:4], control=original, common_only=True)
    assert (found.n, found.left_out) == (4, (6, 0))
    assert found.noise is not None
    assert found.noise.n == 4
    assert found.failures.control == 0
    short_control = compare(original, accelerated, control=original[:6], common_only=True)
    assert short_control.n == 10
    assert short_control.noise is not None
    assert short_control.noise.n == 6


def test_the_bootstrap_seed_moves_limits_not_estimates() -> None:
    runs = two_runs([40, 25, 0, 0, 0, 235], per_cluster=2)
    one, two = compare(*runs, seed=1), compare(*runs, seed=2)
    assert one.accuracy_change.method == "image bootstrap"
    assert one.accuracy_change.value == two.accuracy_change.value
    assert (one.accuracy_change.low, one.accuracy_change.high) != (two.accuracy_change.low, two.accuracy_change.high)
    assert compare(*runs, seed=1).to_json() == one.to_json()


def test_alpha_reaches_every_interval() -> None:
    original, accelerated = two_runs([40, 25, 0, 0, 0, 235])
    wide = compare(original, accelerated, control=original, alpha=0.01)
    narrow = compare(original, accelerated, control=original, alpha=0.2)
    for name in ("divergence_ratio", "negative_given_right", "accuracy_change", "excess_divergence_ratio"):
        assert getattr(wide, name).low < getattr(narrow, name).low
        assert (getattr(wide, name).level, getattr(narrow, name).level) == (0.99, 0.8)


def test_json_carries_every_denominator_and_method() -> None:
    original, accelerated = two_runs([2, 1, 1, 1, 1, 14], per_cluster=2)
    row = json.loads(json.dumps(compare(original, accelerated, control=original).to_json(), allow_nan=False))
    assert row["version"] == 1
    assert row["n"] == 20
    assert row["changed"] == 5
    assert row["cells"]["wrong_to_other_wrong"] == 1
    assert row["by_family"]["colour"]["n"] == 20
    assert row["by_task"]["toy"]["divergence_ratio"] == row["divergence_ratio"]
    assert row["flips"][0]["key"] == ["toy", "q00000", ""]
    assert row["noise"]["excess_divergence_ratio"]["n"] == 20

    def estimates(value: Any) -> list[dict[str, Any]]:
        if isinstance(value, list):
            return [found for item in value for found in estimates(item)]
        if not isinstance(value, dict):
            return []
        return [*([value] if "low" in value else []), *(found for item in value.values() for found in estimates(item))]

    found = estimates(row)
    assert len(found) > 30
    for item in found:
        assert item["method"]
        assert "denominator" in item or "n" in item
        assert item["level"] == 0.95


def test_a_comparison_prints_its_headline() -> None:
    original, accelerated = two_runs([2, 1, 0, 0, 0, 97])
    lines = str(compare(original, accelerated, control=original)).splitlines()
    assert lines[0] == "samples          100 in 100 clusters, 0 failed"
    assert lines[1].startswith("answers changed  3.0 %")
    assert lines[2].startswith("  beyond noise   +3.0 pp")
    assert lines[3].startswith("right → wrong    2.0 %")
    assert lines[4].startswith("  beyond noise   +2.0 pp")
    assert len(str(compare(original, accelerated)).splitlines()) == 5
    assert "q00000" not in repr(compare(original, accelerated))


def test_paths_of_prediction_files_are_read(tmp_path: Path) -> None:
    original, accelerated = two_runs([2, 1, 0, 0, 0, 7])
    paths = [tmp_path / "original.jsonl", tmp_path / "accelerated.jsonl"]
    for path, run in zip(paths, (original, accelerated), strict=True):
        path.write_text("".join(json.dumps(item.to_json()) + "\n" for item in run), encoding="utf-8")
    found = compare(paths[0], str(paths[1]), control=paths[0], further_controls=[paths[0]])
    assert isinstance(found, Comparison)
    assert found.to_json() == compare(original, accelerated, control=original, further_controls=[original]).to_json()
    with pytest.raises(LogError, match=r"nowhere\.jsonl"):
        compare(paths[0], tmp_path / "nowhere.jsonl")
