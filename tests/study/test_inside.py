"""Inner disruption in a study: measured once per address, told per arm, a failure costs only its arm."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest

from steadyvlm.errors import StoreError, Unsupported
from steadyvlm.records import Grade, Sample
from steadyvlm.study.backends.scripted import ScriptedLoader, ScriptedSession
from steadyvlm.study.inside import INDEX, Asked, InsideStore
from steadyvlm.study.plan import ArmPlan, LidPlan, Study, TaskPlan
from steadyvlm.study.result import read_result
from steadyvlm.study.runner import ArmWarning, run
from study.pictures import sample

STUDY = Study(
    "s",
    "m",
    (TaskPlan("t"),),
    (ArmPlan("half", "fastv()"), ArmPlan("few", "rtn(bits=4, group=32)")),
    lid=LidPlan(3, "visual"),
)


@dataclass
class Listed:
    """Six samples."""

    name: str = "t"
    version: str = "1"
    max_new_tokens: int = 8
    stop: tuple[str, ...] = ()
    soft_threshold: float = 0.5

    def samples(self) -> Sequence[Sample]:
        return [sample(number) for number in range(6)]

    def grade(self, sample: Sample, text: str) -> Grade:
        return Grade(text, 1.0)


@dataclass
class Looking:
    """A loader whose session notes what it looked into, and refuses some recipes."""

    seen: list[tuple[str, int, str]] = field(default_factory=list)
    refuse: str = "nothing"
    weights: str = "w"

    def __call__(self, model: str, *, device: str, dtype: str) -> ScriptedSession:
        outer = self

        class Session(ScriptedSession):
            def disruption(self, recipe: str, samples: Sequence[Sample], *, scope: str) -> Mapping[str, Any]:
                if outer.refuse in recipe:
                    raise Unsupported("nothing to see in here.")
                outer.seen.append((recipe.partition("(")[0], len(samples), scope))
                values = {sample.id: 0.5 for sample in samples}
                return {"value": 0.5, "low": 0.4, "high": 0.6, "per_layer": [0.2, 0.3], "values": values}

        return Session(self.weights, lambda recipe, sample: "yes")


def ask(loader: Any, folder: Path, study: Study = STUDY) -> Any:
    return run(study, folder, loader=loader, tasks={"t": Listed()})


def test_every_arm_is_looked_into_once(tmp_path: Path) -> None:
    loader = Looking()
    result = ask(loader, tmp_path)
    assert loader.seen == [("fastv", 3, "visual"), ("rtn", 3, "visual")]
    assert set(result.inside) == {"half", "few"}
    assert result.inside["half"]["value"] == 0.5
    assert len(result.inside["half"]["values"]) == 3
    assert read_result(tmp_path).inside == result.inside
    ask(loader, tmp_path)
    assert len(loader.seen) == 2


def test_other_questions_scope_or_weights_are_measured_again(tmp_path: Path) -> None:
    loader = Looking()
    ask(loader, tmp_path)
    ask(loader, tmp_path, replace(STUDY, lid=LidPlan(2, "visual")))
    ask(loader, tmp_path, replace(STUDY, lid=LidPlan(2, "all")))
    ask(replace(loader, weights="other"), tmp_path)
    assert len(loader.seen) == 8


def test_a_study_that_does_not_ask_looks_at_nothing(tmp_path: Path) -> None:
    loader = Looking()
    result = ask(loader, tmp_path, replace(STUDY, lid=None))
    assert loader.seen == []
    assert result.inside == {}
    assert not (tmp_path / "inside").exists()


def test_an_arm_that_cannot_be_looked_into_costs_only_itself(tmp_path: Path) -> None:
    with pytest.warns(ArmWarning, match="'half' was not looked into"), pytest.raises(Unsupported, match="nothing to"):
        ask(Looking(refuse="fastv"), tmp_path)
    assert set(read_result(tmp_path).inside) == {"few"}


def test_a_backend_without_insight_says_so(tmp_path: Path) -> None:
    with pytest.warns(ArmWarning), pytest.raises(Unsupported, match="leave 'lid' out"):
        ask(ScriptedLoader(lambda recipe, sample: "yes"), tmp_path)
    assert read_result(tmp_path).inside == {}


@pytest.mark.parametrize("text", ["{", "[1]", "{}"])
def test_a_damaged_measurement_is_told_and_kept(tmp_path: Path, text: str) -> None:
    ask(Looking(), tmp_path)
    (path,) = (p for p in (tmp_path / "inside").glob("lid-*.json") if "fastv" in p.read_text())
    path.write_text(text)
    with pytest.raises(StoreError, match="move it away"):
        read_result(tmp_path)
    assert path.read_text() == text


def test_a_store_that_cannot_be_written_to_is_told(tmp_path: Path) -> None:
    (tmp_path / "inside").write_text("a file where a folder should be")
    with pytest.raises(StoreError, match="cannot write"):
        InsideStore(tmp_path).save("k", {"value": 1})
    (tmp_path / "inside").unlink()
    store = InsideStore(tmp_path)
    store.remember([Asked("a", "fastv()", ("x",), "k")])
    assert json.loads((tmp_path / "inside" / INDEX).read_text()) == {"a": "k"}
    assert store.measured() == {}
