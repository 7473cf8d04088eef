from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from quota_recipes import recipe
from steadyvlm.errors import CheckpointError
from steadyvlm.quota import strict_json
from steadyvlm.quota.allocation import uniform
from steadyvlm.quota.recipe_file import executed_tokens, load

Change = Callable[[dict[str, Any]], None]


def write(folder: Path, change: Change | None = None) -> Path:
    """Save the recipe, then edit its JSON by hand."""
    path = folder / "recipe.json"
    recipe().save(path)
    if change is not None:
        plain = json.loads(path.read_text())
        change(plain)
        path.write_text(json.dumps(plain))
    return path


def test_what_is_read_is_what_was_written_and_written_again_it_is_the_same_bytes(tmp_path: Path) -> None:
    path = write(tmp_path)
    assert load(path) == recipe()
    again = tmp_path / "again.json"
    load(path).save(again)
    assert again.read_bytes() == path.read_bytes()


def test_the_file_is_sorted_exact_and_says_nothing_about_where_or_when(tmp_path: Path) -> None:
    text = write(tmp_path).read_text()
    plain = json.loads(text)
    assert list(plain) == sorted(plain)
    assert text.endswith("}\n")
    assert plain["format"] == "quota-recipe"
    assert (plain["version"], plain["index_base"]) == (1, 0)
    ratios = plain["allocation"]["keep_ratio"]
    assert ratios[-1] == "0.29999999999999999"
    assert [float(text) for text in ratios] == list(recipe().allocation.keep_ratio)
    assert plain["allocation"]["keep_count"] == [473, 383, 283, 212, 173]
    assert plain["scoring"]["weights"] == {"inter": 0.45, "magnitude": 0.25, "intra": 0.1, "quant": 0.2}
    assert str(tmp_path) not in text


def test_edited_files_may_be_laid_out_otherwise(tmp_path: Path) -> None:
    assert load(write(tmp_path, lambda plain: plain.update(version=1))) == recipe()


def at(path: str, value: Any) -> Change:
    *parents, last = path.split(".")

    def change(plain: dict[str, Any]) -> None:
        for name in parents:
            plain = plain[name]
        plain[last] = value

    return change


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (at("format", "recipe"), "no recipe file"),
        (at("version", 2), "of version 2; this package reads version 1"),
        (at("version", "1"), "version"),
        (at("index_base", 1), "index_base is '1', expected 0"),
        (at("extra", 1), "unknown: extra"),
        (lambda plain: plain.pop("flops"), "missing: flops"),
        (lambda plain: plain["scoring"]["weights"].pop("quant"), r"scoring.weights .*missing: quant"),
        (at("model", []), "recipe.model is .* expected an object"),
        (at("model.num_layers", 12.0), "expected a whole number"),
        (at("model.num_layers", True), "expected a whole number"),
        (at("model.name", None), "expected a text"),
        (at("quantiser.kv_quant_in_prefill", 1), "expected true or false"),
        (at("allocation.tau", "1"), "expected a finite number"),
        (at("allocation.tau", 10**400), "finite"),
        (at("allocation.rounding", "floor"), "'ceil' or 'round'"),
        (at("allocation.rounding", ["ceil"]), "'ceil' or 'round'"),
        (at("candidates", "2-6"), "expected a list"),
        (at("profile.visual_tokens", [576]), "a list of 2"),
        (at("allocation.keep_ratio", [0.8, 0.6, 0.5, 0.4, 0.3]), "texts of 17 digits"),
        (at("allocation.keep_ratio", ["0.8", "0.6", "0.5", "0.4", "0.3"]), "texts of 17 digits"),
        (at("allocation.keep_ratio", ["nan"] * 5), "texts of 17 digits"),
        (at("allocation.keep_ratio", ["much"] * 5), "texts of 17 digits"),
        (at("model.weights_sha256", "abc"), "'abc' is no SHA-256"),
        (at("quantiser.artifact_sha256", "C" * 64), "no SHA-256"),
        (at("model.num_layers", 10**9), "between 1 and"),
        (at("n_ref", 0), "between 1 and"),
        (at("model.num_layers", 13), "other layers"),
        (at("profile.redundancy_median", [0.3]), "the profile has other layers"),
        (at("candidates", [2, 3, 4, 5]), "one sensitivity per candidate"),
        (at("candidates", [1, 2, 3, 4, 5]), "first 2 layers"),
        (at("candidates", [3, 4, 5, 6, 7]), "executed_visual_tokens"),
        (at("apply", "own"), "executed_visual_tokens"),
        (at("sensitivity.raw", [0.05, 0.08, 0.06, 0.12, 0.2]), "sensitivity.normalised does not follow"),
        (at("sensitivity.raw", [0.05, 0.08, 0.06, 0.12, -1]), "sensitivities"),
        (at("sensitivity.p_lo", 20), "sensitivity.normalised does not follow"),
        (at("allocation.tau", 0.5), "drop_share does not follow"),
        (at("allocation.floor", 0.2), "keep_ratio does not follow"),
        (
            at("allocation.keep_count", [473, 383, 283, 212, 172]),
            r"keep_count is \(473, 383, 283, 212, 172\), .* 173\)",
        ),
        (at("allocation.rounding", "round"), "keep_count"),
        (at("n_ref", 575), "keep_count"),
        (at("allocation.k_min", 200), "keep_count"),
        (at("flops.executed_visual_tokens", [576] * 12), "executed_visual_tokens"),
    ],
)
def test_damaged_and_edited_files_are_refused(tmp_path: Path, change: Change, message: str) -> None:
    with pytest.raises(CheckpointError, match=message):
        load(write(tmp_path, change))


def test_files_that_are_no_recipe_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "recipe.json"
    with pytest.raises(CheckpointError, match="steadyvlm calibrate"):
        load(path)
    for content in ("", "{", "[1]", '{"a": NaN}', '{"format": 1, "format": 2}', "[" * 100_000, '{"a": 1e999}'):
        path.write_text(content)
        with pytest.raises(CheckpointError, match=r"cannot be read as JSON|no recipe file"):
            load(path)
    path.write_bytes(b"\xff\xfe")
    with pytest.raises(CheckpointError, match="cannot be read"):
        load(path)
    path.write_text(" " * (strict_json.LARGEST + 1))
    with pytest.raises(CheckpointError, match="more than 1,048,576 bytes"):
        load(path)
    with pytest.raises(CheckpointError, match="cannot be read"):
        load(tmp_path)
    infinite = write(tmp_path).read_text().replace('"tau": 1.0', '"tau": 1e999')
    path.write_text(infinite)
    with pytest.raises(CheckpointError, match="tau is 'inf'"):
        load(path)


def test_uniform_and_given_schedules_check_themselves_too(tmp_path: Path) -> None:
    even = uniform(5, 0.3)
    counts = (496, 415, 335, 254, 173)
    executed = executed_tokens(counts, recipe().candidates, 576, 12, apply="next")
    plain = dataclasses.replace(recipe().sensitivity, mode="none", raw=(), normalised=even.normalised)
    spent = dataclasses.replace(recipe().flops, executed_visual_tokens=executed)
    schedule = dataclasses.replace(
        recipe().allocation,
        schedule="uniform",
        drop_share=even.drop_share,
        keep_ratio=even.keep_ratio,
        keep_count=counts,
    )
    changes = {"sensitivity": plain, "flops": spent, "profile": None, "quantiser": None}
    for name in ("uniform", "given"):
        made = recipe(**changes, allocation=dataclasses.replace(schedule, schedule=name))
        path = tmp_path / f"{name}.json"
        made.save(path)
        assert load(path) == made
    with pytest.raises(CheckpointError, match="keep_ratio does not follow"):
        recipe(**changes, allocation=dataclasses.replace(schedule, floor=0.29))
    given = dataclasses.replace(schedule, schedule="given", floor=0.29)
    with pytest.raises(CheckpointError, match="last keep_ratio is not the floor"):
        recipe(**changes, allocation=given)
    short = dataclasses.replace(schedule, schedule="given", keep_ratio=even.keep_ratio[1:])
    with pytest.raises(CheckpointError, match="one keep_ratio per candidate"):
        recipe(**changes, allocation=short)


def test_executed_tokens_follow_where_tokens_are_dropped() -> None:
    assert executed_tokens((400, 173), (2, 3), 576, 6, apply="next") == (576, 576, 576, 400, 173, 173)
    assert executed_tokens((400, 173), (2, 3), 576, 6, apply="own") == (576, 576, 400, 173, 173, 173)


def test_every_field_is_explained_in_the_docs() -> None:
    page = (Path(__file__).parents[2] / "docs" / "joint.md").read_text(encoding="utf-8")

    def names(value: object, prefix: str = "") -> list[str]:
        found = []
        for item in dataclasses.fields(value):  # type: ignore[arg-type]  # only dataclasses come here
            part = getattr(value, item.name)
            deeper = dataclasses.is_dataclass(part) and item.name not in ("weights",) and not hasattr(part, "iqr")
            found += names(part, f"{item.name}.") if deeper else [f"{prefix}{item.name}"]
        return found

    missing = [name for name in names(recipe()) if f"`{name}`" not in page]
    assert not missing
