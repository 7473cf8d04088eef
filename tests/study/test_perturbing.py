"""Perturbed samples: the same for every arm and every run, proved by their hashes."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

pytest.importorskip("cv2", reason="the light tests run without the extra 'perturb'")

from steadyvlm.api import compare_study, study_under_perturbation
from steadyvlm.errors import ImageError, PairingError
from steadyvlm.perturb.suite import parse
from steadyvlm.records import Prediction, Sample
from steadyvlm.study.perturbation_plan import PerturbationPlan
from steadyvlm.study.perturbing import PerturbedImage, Perturber, drawn_level, spread
from steadyvlm.study.plan import ArmPlan, ControlPlan, Study, TaskPlan
from steadyvlm.study.result import read_result
from steadyvlm.study.store import PERTURBATIONS
from steadyvlm.tasks.sources import BytesImage, FileImage
from study.pictures import items, picture, png, sample
from study.test_runner import HALF, Watched, go

FOG = "image/fog@2"
PLAN = PerturbationPlan(("none", FOG, "text/typos@3"))


def asked(number: int, shade: int | None = None) -> Sample:
    prompt = f"What is the man with number {number} holding in his hand?"
    images = () if shade is None else (picture(shade),)
    return replace(sample(number, *images, prompt=prompt), question=prompt, cluster=f"c{shade}")


SAMPLES = [asked(0, 10), asked(1, 10), asked(2, 200), asked(3)]
STUDY = Study("s", "m", (TaskPlan("t"),), (ArmPlan("half", HALF),), ControlPlan(3), batch_size=2, perturbations=PLAN)


def keys(rows: tuple[Prediction, ...]) -> set[tuple[str, str]]:
    return {(row.sample_id, row.perturbation) for row in rows}


def test_every_arm_answers_the_clean_and_the_same_perturbed_samples(tmp_path: Path) -> None:
    loader = Watched(lambda recipe, sample: "no" if "half" in recipe and sample.perturbation == FOG else "yes")
    result = go(tmp_path / "run", STUDY, loader, SAMPLES)
    fog = {(f"s{n}", FOG) for n in range(3)}  # a question without a picture has nothing to cloud
    expected = {(f"s{n}", "") for n in range(4)} | fog | {(f"s{n}", "text/typos@3") for n in range(4)}
    assert keys(result.original) == keys(result.control) == keys(result.arms["half"]) == expected
    for mine, theirs in zip(result.original, result.arms["half"], strict=True):
        assert mine.content == theirs.content
    twins = {row.sample_id: row for row in result.original if not row.perturbation}
    for row in result.original:
        if row.perturbation:
            assert row.parent == row.sample_id
            changed = (
                row.image_sha256 != twins[row.parent].image_sha256,
                row.prompt_sha256 != twins[row.parent].prompt_sha256,
            )
            assert changed == ((True, False) if row.perturbation == FOG else (False, True))
    one, two = (next(r for r in result.original if r.key == ("t", f"s{n}", FOG)) for n in (0, 1))
    assert one.image_sha256 == two.image_sha256  # perturbed per picture, not per question


def test_headlines_are_about_clean_samples_and_the_rest_has_its_own_numbers(tmp_path: Path) -> None:
    loader = Watched(lambda recipe, sample: "no" if "half" in recipe and sample.perturbation == FOG else "yes")
    result = go(tmp_path / "run", STUDY, loader, SAMPLES)
    found = compare_study(result)["half"]
    assert (found.n, found.changed) == (4, 0)
    under = study_under_perturbation(tmp_path / "run")
    assert set(under) == {"control", "half"}
    assert under["half"].modalities["image"].divergence_ratio.numerator == 3
    assert under["half"].modalities["image"].more_changed.value == 1.0
    assert under["control"].modalities["image"].divergence_ratio.numerator == 0


def test_a_study_without_perturbations_has_none(tmp_path: Path) -> None:
    result = go(tmp_path / "run")
    assert result.perturbations is None
    assert study_under_perturbation(result) == {}
    assert not (tmp_path / "run" / PERTURBATIONS).exists()
    assert result.clean() is result


def test_adding_perturbations_leaves_the_clean_answers_alone(tmp_path: Path) -> None:
    loader = Watched()
    go(tmp_path / "run", replace(STUDY, perturbations=None), loader, SAMPLES)
    counts: list[Any] = []
    go(tmp_path / "run", STUDY, loader, SAMPLES, progress=counts.append)
    assert (counts[-1].stored, counts[-1].done) == (3 * 4, 3 * 11)


def test_only_perturbed_samples_can_be_asked(tmp_path: Path) -> None:
    result = go(tmp_path / "run", replace(STUDY, perturbations=PerturbationPlan((FOG,))), samples=SAMPLES)
    assert {row.perturbation for row in result.original} == {FOG}
    assert compare_study(result)["half"].n == 3
    under = study_under_perturbation(result)["half"]
    assert under.clean.n == 0
    assert not under.modalities["image"].more_changed.defined


def test_the_manifest_names_every_input_and_guards_the_answers(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    result = go(folder, STUDY, samples=SAMPLES)
    assert result.perturbations is not None
    assert len(result.perturbations.entries) == 7
    by_key = {row.key: row for row in result.original}
    for entry in result.perturbations.entries:
        row = by_key[entry.key]
        assert entry.became == (row.image_sha256 if entry.level == FOG else (row.prompt_sha256,))
    text = (folder / PERTURBATIONS).read_text()
    value = json.loads(text)
    value["inputs"][0][5] = ["another picture"]
    (folder / PERTURBATIONS).write_text(json.dumps(value))
    with pytest.raises(PairingError, match="not those of the manifest"):
        read_result(folder)
    (folder / PERTURBATIONS).write_text("half a fi")
    again = go(folder, STUDY, samples=SAMPLES)
    assert again.perturbations == result.perturbations
    assert (folder / PERTURBATIONS).read_text() == text


def test_an_earlier_manifest_spares_the_perturbing(monkeypatch: pytest.MonkeyPatch) -> None:
    one = items(*SAMPLES)
    first = Perturber(PLAN)
    made = first.perturb(one)
    manifest = first.manifest(made.entries)

    def refuse(*given: Any) -> Any:
        raise AssertionError("the picture was perturbed again")

    monkeypatch.setattr("steadyvlm.study.perturbing._made", refuse)
    assert Perturber(PLAN, manifest).perturb(one) == made
    for other in (replace(manifest, suite="0"), replace(manifest, versions={}), replace(manifest, profile="paper")):
        with pytest.raises(AssertionError, match="again"):
            Perturber(PLAN, other).perturb(one)


def test_a_limit_takes_as_many_pictures_as_it_can_and_the_same_at_every_severity() -> None:
    many = items(*[asked(n, n // 4) for n in range(24)])
    made = Perturber(PerturbationPlan(("image/fog",), limit=6)).perturb(many)
    chosen: dict[str, set[str]] = {}
    for item in made.items:
        chosen.setdefault(item.sample.perturbation, set()).add(item.sample.id)
    assert len(chosen) == 5
    assert len({frozenset(ids) for ids in chosen.values()}) == 1
    assert len({item.sample.cluster for item in made.items}) == 6
    assert [item.key for item in spread(many, "x")] == [item.key for item in spread(many[::-1], "x")]


def test_random_draws_one_level_per_sample_by_its_content() -> None:
    many = items(*[asked(n, n) for n in range(40)], asked(40))
    made = Perturber(PerturbationPlan(("random",), limit=3)).perturb(many)
    levels = {entry.sample: entry.level for entry in made.entries}
    assert len(made.entries) == len(many)
    assert len(set(levels.values())) > 20
    assert levels["s40"].startswith("text/")
    assert levels == {item.sample.id: str(drawn_level(item)) for item in reversed(many)}
    both = Perturber(PerturbationPlan(("random", levels["s0"]))).perturb(many)
    assert len({entry.key for entry in both.entries}) == len(both.entries)


def test_an_unreadable_picture_is_not_perturbed(tmp_path: Path) -> None:
    lost = items(replace(sample(0, FileImage(tmp_path / "gone.png")), cluster="x"))
    assert Perturber(PerturbationPlan((FOG,))).perturb(lost).entries == ()
    assert drawn_level(lost[0]).perturbation.modality == "text"


def test_what_is_unavailable_is_recorded_and_not_asked() -> None:
    plan = PerturbationPlan(("text/back_trans",), fallbacks=False)
    made = Perturber(plan).perturb(items(SAMPLES[0]))
    assert made.items == ()
    assert [str(entry.status) for entry in made.entries] == ["unavailable"]


def test_two_pictures_are_perturbed_each_on_its_own() -> None:
    pair = items(replace(sample(0, picture(10), picture(200)), cluster="x"))
    made = Perturber(PerturbationPlan((FOG,))).perturb(pair)
    assert len(set(made.entries[0].became)) == 2
    assert made.items[0].image_sha256 == made.entries[0].became


def test_a_picture_is_made_when_it_is_loaded_and_must_be_the_same() -> None:
    clean = BytesImage(png(90, 40))
    made = Perturber(PerturbationPlan((FOG,))).perturb(items(replace(sample(0, clean), cluster="x"))).items[0]
    image = made.sample.images[0]
    assert isinstance(image, PerturbedImage)
    assert image.sha256() == made.image_sha256[0]
    loaded = image.load()
    assert isinstance(loaded, Image.Image)
    assert loaded.size == (40, 40)
    assert not np.array_equal(np.asarray(loaded), np.asarray(clean.load()))
    with pytest.raises(ImageError, match="no longer gives the picture"):
        replace(image, digest="another").load()
    with pytest.raises(ImageError, match="no longer gives the picture"):
        replace(image, level=parse("image/fog@3")).load()
