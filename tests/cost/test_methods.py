from __future__ import annotations

from dataclasses import replace

import pytest

from steadyvlm.cost import Counts, count, published, scoring_of, with_scoring
from steadyvlm.cost.methods import Known, TextTower
from steadyvlm.recipes import Recipe
from steadyvlm.registry import Spec

LLAVA, QWEN = published("llava-1.5-7b"), published("qwen2.5-vl-7b")
D = 4096
CASES: dict[str, tuple[list[int], Known, int]] = {
    # recipe -> visual tokens per layer, what else is known, multiplications by hand (60 text tokens)
    "keep_all": ([576] * 32, Known(), 0),
    "random(layer=2, keep_ratio=0.5)": ([576] * 2 + [288] * 30, Known(), 0),
    "vtw(layer=16)": ([576] * 16 + [0] * 16, Known(), 0),
    "downsample(keep_ratio=0.25)": ([144] * 32, Known(), 0),
    "fastv(layer=3, keep_ratio=0.5)": ([576] * 3 + [288] * 29, Known(), 636 * D),
    "least_attended(layer=3, keep_ratio=0.5)": ([576] * 3 + [288] * 29, Known(), 636 * D),
    "pyramiddrop": (
        [576] * 8 + [288] * 8 + [144] * 8 + [72] * 8,
        Known(),
        sum(D * D + keys * D * D + keys * D for keys in (636, 348, 204)),
    ),
    "pyramiddrop(layers=[0], keep_ratios=[0.5])": ([288] * 32, Known(), D * D + 636 * D * D + 636 * D),
    "sparsevlm": (
        [576] * 3 + [309] * 4 + [204] * 9 + [113] * 16,
        Known(raters=20),
        576 * 60 * D
        + 20 * (636 + 369 + 264) * D
        + sum(m * m * D + m * D for m in (83, 33, 29)),  # 0.3 of 276, 109 and 94 pruned, and one
    ),
    "sparsevlm_plus": (
        [576] * 3 + [300] * 4 + [200] * 9 + [118] * 16,
        Known(),
        576 * 60 * D + 60 * (636 + 360 + 260) * D + 60 * (576 + 300 + 200) * 128,
    ),
    "visionzip(dominant=54, contextual=10)": ([64] * 32, Known(), 577 * 1024 + 513 * 10 * 64 + 513 * 1024),
    "hired": ([115] * 32, Known(), 2 * 577 * 1024),
    "prumerge": (
        [65] * 32,
        Known(),
        578 * 1024**2 + 577 * 1024 + 65 * 576 * 1024 + 65 * 33 * 1024,
    ),
    "trim": (
        [120] * 32,
        Known(text_tower=TextTower(12, 768, 3072, 77, 768)),
        12 * (4 * 77 * 768**2 + 2 * 77**2 * 768 + 2 * 77 * 768 * 3072) + 768**2 + 576 * 1024 * 768 + 576 * 768,
    ),
    "divprune": ([56] * 32, Known(), 576 * 576 * D),
    "lofi(beta=4.0)": (
        [576, 500, *[500] * 30],
        Known(),
        (576**2 + 30 * 500**2) * D + (9 * 576**3 + 1) // 2 + 30 * ((9 * 500**3 + 1) // 2) + 77 * D,
    ),
    "lofi(merge=False)": ([576] * 32, Known(), 31 * (576**2 * D + (9 * 576**3 + 1) // 2)),
    "quota(layers=[2, 3], keep_ratios=[0.65, 0.3])": (
        [576] * 3 + [375] + [173] * 28,
        Known(raters=20),
        (20 + 576) * 636 * D + (20 + 375) * 435 * D,
    ),
    "quota(layers=[2], keep_ratios=[0.3], apply='own', weights=[1, 0, 0, 0])": (
        [576] * 2 + [173] * 30,
        Known(),
        60 * 636 * D,
    ),
    "quota(layers=[2], keep_ratios=[0.3], weights=[0, 1, 0, 0])": ([576] * 3 + [173] * 29, Known(), 0),
    "lvpruning": (
        [576] + [380] * 7 + [201] * 8 + [57] * 16,
        Known(inner=1024, module_layers=(1, 8, 16)),
        sum(n * (2 * D * 1024 + 2 * 1024**2 + 2048) + 2 * 60 * D * 1024 + 2 * n * 60 * 1024 for n in (576, 380, 201)),
    ),
}


def counts(visual: list[int]) -> Counts:
    connected = visual[0] if visual[0] < 576 else 576
    return Counts(tuple(visual), 60, ((1, 24, 24),), connected, original=576)


def spec(recipe: str) -> Spec | None:
    return Recipe.parse(recipe).reduction if recipe != "lvpruning" else Spec("lvpruning", {})


@pytest.mark.parametrize("recipe", CASES)
def test_every_methods_own_work_by_hand(recipe: str) -> None:
    visual, known, macs = CASES[recipe]
    bill = scoring_of(spec(recipe), counts(visual), LLAVA, known)
    assert bill is not None
    assert sum(item.macs for item in bill) == macs


def test_choosing_is_a_small_part_of_what_it_saves() -> None:
    for recipe, (visual, known, _) in CASES.items():
        bill = count(with_scoring(spec(recipe), counts(visual), LLAVA, known), LLAVA)
        assert sum(item.macs for item in bill.scoring) < 0.05 * bill.prefill, recipe


def test_an_unknown_number_of_raters_is_bounded_and_says_so() -> None:
    visual = CASES["sparsevlm"][0]
    bound = scoring_of(spec("sparsevlm"), counts(visual), LLAVA) or ()
    exact = scoring_of(spec("sparsevlm"), counts(visual), LLAVA, Known(raters=60)) or ()
    assert [item.macs for item in bound] == [item.macs for item in exact]
    assert any("at most" in item.what for item in bound)
    assert not any("at most" in item.what for item in exact)


def test_budgets_may_be_shares_and_a_stage_that_keeps_all_clusters_nothing() -> None:
    shares = scoring_of(spec("sparsevlm(layers=[2], keep=[0.5])"), counts([576] * 3 + [297] * 29), LLAVA) or ()
    numbers = scoring_of(spec("sparsevlm(layers=[2], keep=[288])"), counts([576] * 3 + [297] * 29), LLAVA)
    assert shares == numbers
    whole = scoring_of(spec("sparsevlm(layers=[2], keep=[576])"), counts([576] * 32), LLAVA) or ()
    assert [item.what for item in whole] == ["visual with text", "rater rows (at most: all text rates)"]


@pytest.mark.parametrize(
    ("recipe", "changes"),
    [
        ("trim", {}),  # which text tower?
        ("quota", {}),  # which layers?
        ("lvpruning", {}),  # how large are the modules?
        ("sparsevlm(version='first')", {}),  # how high was the rank?
        ("divprune", {"grids": ((1, 24, 24), (1, 24, 24))}),  # how many tokens of which picture?
    ],
)
def test_a_bill_that_cannot_be_written_is_none_and_not_nothing(recipe: str, changes: dict[str, object]) -> None:
    asked = replace(counts([100] * 32), **changes)  # type: ignore[arg-type]  # grids
    assert scoring_of(spec(recipe), asked, LLAVA) is None
    assert with_scoring(spec(recipe), asked, LLAVA) == asked


@pytest.mark.parametrize("recipe", ["visionzip", "hired", "prumerge", "prumerge_plus", "trim"])
def test_methods_of_a_class_row_have_no_bill_on_qwen(recipe: str) -> None:
    asked = Counts((100,) * 28, 60, ((1, 36, 36),), original=324)
    assert scoring_of(spec(recipe), asked, QWEN) is None


def test_methods_of_others_have_no_bill_and_prompts_without_pictures_an_empty_one() -> None:
    assert scoring_of(Spec("somebody_elses", {}), counts([576] * 32), LLAVA) is None
    assert scoring_of(Spec("somebody_elses", {}), Counts((0,) * 32, 60), LLAVA) == ()
    assert scoring_of(None, counts([576] * 32), LLAVA) == ()


def test_tiles_pay_one_by_one() -> None:
    five = replace(counts([115] * 32), grids=((5, 24, 24),))
    one = scoring_of(spec("hired"), counts([115] * 32), LLAVA)
    assert scoring_of(spec("hired"), five, LLAVA) == (one or ()) * 5
