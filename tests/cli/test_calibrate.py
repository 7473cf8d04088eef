"""`steadyvlm calibrate` and `answer` on the pocket model: a folder that runs, twice the same, and what is refused."""

from __future__ import annotations

import json
import xml.etree.ElementTree as ET
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from steadyvlm.cli import calibrate_data
from steadyvlm.cli.calibrate_data import Wish, calibrate_lines
from steadyvlm.errors import RunError, SteadyVLMError
from steadyvlm.models.load import load
from steadyvlm.pocket.benchmark import PocketTask
from steadyvlm.recipes import accelerate
from steadyvlm.recipes.joint import load_joint


@dataclass(frozen=True)
class Calibrated:
    """A finished calibration and what was told meanwhile."""

    folder: Path
    lines: list[str]
    said: list[str]


def run(folder: Path, wish: Wish) -> Calibrated:
    said: list[str] = []
    lines = calibrate_lines("pocket", wish, folder, device="cpu", dtype="auto", say=said.append)
    return Calibrated(folder, lines, said)


WISH = Wish("rtn_w4a4", samples=4)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Calibrated:
    return run(tmp_path_factory.mktemp("calibrate") / "new" / "joint", WISH)


@pytest.fixture(scope="module")
def picture(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("picture") / "scene.png"
    PocketTask(limit=1).samples()[0].images[0].load().save(path)
    return path


def test_it_writes_recipe_model_profile_and_figure(made: Calibrated) -> None:
    assert {path.name for path in made.folder.iterdir()} == {"recipe.json", "profile.json", "profile.svg", "model"}
    file = load_joint(made.folder).file
    assert file.quantiser is not None
    assert file.quantiser.name.startswith("rtn_w4a4(")
    assert (file.calibration.num_samples, file.n_ref) == (4, 144)
    assert file.allocation.keep_count[-1] == 44
    assert file.scoring.residual_domain == "transformed"
    shown = json.loads((made.folder / "profile.json").read_text())
    assert len(shown["sensitivity"]) == len(shown["residual_with_magnitude"]) == 12
    assert len(shown["profile"]["concentration_top10pct"]["median"]) == 12
    assert shown["quantization"]["quantizer"] == "rtn_w4a4"
    root = ET.fromstring((made.folder / "profile.svg").read_text())
    assert len(root.findall(".//{*}rect[@class='bar']")) == 12
    assert len(root.findall(".//{*}polyline")) == 3
    assert "pocket · rtn_w4a4 · 4 samples" in root.attrib["aria-label"]


def test_it_tells_what_was_decided_and_how_to_run_it(made: Calibrated) -> None:
    assert made.said[0] == "quantising with rtn_w4a4"
    assert made.said[-1] == "measuring every decoder layer: 4/4 examples"
    head = next(number for number, line in enumerate(made.lines) if line.split()[:1] == ["layer"])
    file = load_joint(made.folder).file
    for row, layer, count in zip(made.lines[head + 1 :], file.candidates, file.allocation.keep_count, strict=False):
        assert (row.split()[0], row.split()[-1]) == (str(layer), str(count))
    assert made.lines[-1] == f"In a recipe: joint(path='{made.folder}/recipe.json')"


def test_a_second_run_writes_the_same_bytes(made: Calibrated, tmp_path: Path) -> None:
    again = run(tmp_path / "again", WISH)
    for name in ("recipe.json", "profile.json", "profile.svg", "model/model.safetensors"):
        assert (again.folder / name).read_bytes() == (made.folder / name).read_bytes(), name


def test_answer_runs_it(made: Calibrated, picture: Path, steadyvlm) -> None:
    joint = steadyvlm("answer", picture, "what color is the digit?", "--recipe", made.folder, "--device", "cpu")
    assert joint.code == 0, joint.err
    fast = accelerate(load("pocket", device="cpu"), f"joint(path={str(made.folder)!r})")
    samples = PocketTask(limit=1).samples()[:1]
    asked = fast.answer_batch([samples[0]])[0]
    layers = load_joint(made.folder).file.flops.executed_visual_tokens
    assert asked.cost.visual_tokens_per_layer == layers
    assert "visual tokens per layer 144 x 3, " in joint.err
    assert joint.err.count(" x ") == len(set(layers))
    plain = steadyvlm("answer", picture, "what color is the digit?", "--device", "cpu")
    assert (plain.code, plain.out.strip()) == (0, "red")
    assert "144 x 12" in plain.err
    named = steadyvlm("answer", picture, "what color is the digit?", "-r", "fastv-k2-50", "--device", "cpu")
    assert named.code == 0, named.err
    assert "fastv-k2-50 is scaled from 32 layers to 12" in named.err
    start = "quota(keep_ratios='uniform', layers=(2, 3), weights=(0.5625, 0.3125, 0.125, 0.0), "
    long = start + " " * 300 + "floor=0.5)"
    spelled = steadyvlm("answer", picture, "what color is the digit?", "-r", long, "--device", "cpu")
    assert spelled.code == 0, spelled.err  # longer than a path may be

    bare = steadyvlm("answer", "-", "what color is the digit?", "--device", "cpu")
    assert bare.code == 0, bare.err


def test_only_pruning_needs_no_quantiser(tmp_path: Path) -> None:
    wish = Wish("none", "quota(weights=(0.5625, 0.3125, 0.125, 0.0))", samples=3, layers="2-4", schedule="uniform")
    found = run(tmp_path / "prune", wish)
    assert not (found.folder / "model").exists()
    joint = load_joint(found.folder)
    assert joint.file.quantiser is None
    assert joint.quota.layers == (2, 3, 4)
    assert joint.quota.keep_ratios == "uniform"
    assert joint.file.sensitivity.mode == "none"
    assert "no sensitivity" in (found.folder / "profile.svg").read_text()
    assert "not quantised" in (found.folder / "profile.svg").read_text()


def test_a_quantiser_that_learns_sees_the_same_examples(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STEADYVLM_CACHE", str(tmp_path / "cache"))
    wish = Wish("flatquant(epochs=1, modules=('connector',), seed=5)", samples=4, seed=2, tau=0.5)
    found = run(tmp_path / "joint", wish)
    assert any(line.strip().startswith("1/1 ") for line in found.said)
    file = load_joint(found.folder).file
    assert file.quantiser is not None
    assert "samples=4" in file.quantiser.name
    assert "seed=5" in file.quantiser.name, "what its text says stays"
    assert file.calibration.seed == 2
    assert any((tmp_path / "cache").rglob("*.safetensors")), "what was learned is kept for the next run"


@pytest.mark.parametrize(
    ("wish", "message"),
    [
        (Wish("fastv"), "not a quantiser alone"),
        (Wish("fastv + rtn_w4a4"), "not a quantiser alone"),
        (Wish("llm_int8"), "no saved form"),
        (Wish("flatquan"), "Did you mean 'flatquant'"),
        (Wish(quota="fastv"), "another method"),
        (Wish(quota="quota(floor=0.2, tau=2.0)"), "sets floor, tau"),
        (Wish(quota="quota(weigths=(1, 0, 0, 0))"), "Did you mean 'weights'"),
        (Wish(layers="1-3"), "first 2 layers"),
        (Wish(layers="early"), "range such as 2-6"),
        (Wish(floor=0.04), "all score 1"),
        (Wish(tau=0.0), "tau"),
        (Wish("rtn_w4a4", samples=10_000), "were asked for"),
        (Wish("rtn_w4a4", calibration="nowhere"), "no calibration set is called"),
        (Wish("rtn_w4a4", layers="9-12", samples=2), "12 layers"),
        (Wish("flatquant(pruned=True)", samples=2), "layers or keep ratios from the calibrated model"),
    ],
)
def test_what_cannot_be_is_refused_and_nothing_is_written(tmp_path: Path, wish: Wish, message: str) -> None:
    said: list[str] = []
    with pytest.raises(SteadyVLMError, match=message):
        calibrate_lines("pocket", wish, tmp_path / "never", device="cpu", dtype="auto", say=said.append)
    assert not list(tmp_path.iterdir())
    assert said == [], "nothing was quantised to find that out"


def test_a_pruned_graph_is_calibrated_with_the_schedule_that_was_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = []

    def stop(quantizer: Any, model: Any, examples: Any, reduction: Any, **_: Any) -> None:
        seen.append((quantizer.pruned, reduction.candidates, reduction.is_auto))
        raise RunError("that will do")

    monkeypatch.setattr(calibrate_data, "calibrate", stop)
    with pytest.raises(RunError, match="that will do"):
        run(tmp_path / "never", Wish("flatquant(pruned=True)", samples=2, layers="3-4", schedule="uniform"))
    assert seen == [(True, (3, 4), False)]


def test_nothing_is_overwritten(made: Calibrated, steadyvlm) -> None:
    before = (made.folder / "recipe.json").read_bytes()
    done = steadyvlm("calibrate", "--quantizer", "rtn_w4a4", "--out", made.folder, "--device", "cpu")
    assert done.code == 2
    assert "exists already" in done.err
    assert (made.folder / "recipe.json").read_bytes() == before


def test_the_command_passes_its_options_on(tmp_path: Path, steadyvlm) -> None:
    out = tmp_path / "joint"
    done = steadyvlm(
        *("calibrate", "--quantizer", "none", "--samples", "2", "--floor", "0.5", "--layers", "3-4", "--seed", "7"),
        *("--out", out, "--device", "cpu", "--quota", "quota(tokens=100, rounding='round')"),
    )
    assert done.code == 0, done.err
    joint = load_joint(out)
    assert (joint.quota.layers, joint.quota.floor, joint.quota.tokens) == ((3, 4), 0.5, 100)
    assert joint.quota.rounding == "round"
    assert joint.file.calibration.seed == 7
    assert (joint.file.n_ref, joint.file.n_ref_mode) == (100, "stored")
    assert "In a recipe: joint(path=" in done.out
