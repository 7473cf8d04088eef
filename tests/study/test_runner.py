"""Only what is missing is run, and everything that can be refused is refused before a model loads."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest

from steadyvlm.errors import ConfigError, RunError, SampleError, StoreError, Unsupported
from steadyvlm.records import Failure, Grade, Sample
from steadyvlm.study.backends.scripted import Script, ScriptedArm, ScriptedLoader, ScriptedSession
from steadyvlm.study.plan import ArmPlan, ControlPlan, Study, TaskPlan
from steadyvlm.study.progress import Progress
from steadyvlm.study.result import read_result
from steadyvlm.study.runner import ArmWarning, run
from steadyvlm.study.store import ResultStore
from steadyvlm.tasks.sources import FileImage
from study.pictures import picture, png, sample


@dataclass
class Listed:
    """A task of the samples it is given."""

    given: Sequence[Sample]
    name: str = "t"
    version: str = "1"
    max_new_tokens: int = 8
    stop: tuple[str, ...] = ()
    soft_threshold: float = 0.5

    def samples(self) -> Sequence[Sample]:
        return self.given

    def grade(self, sample: Sample, text: str) -> Grade:
        return Grade(text, float(text in sample.references))


@dataclass
class Watched:
    """A scripted loader that remembers what it was asked to do."""

    script: Script = lambda recipe, sample: "yes"
    weights: str = "w"
    precision: str = "float32"
    log: list[str] = field(default_factory=list)

    def __call__(self, model: str, *, device: str, dtype: str) -> Watched:
        self.log.append(f"open {model} {device} {dtype}")
        return self

    @property
    def dtype(self) -> str:
        return self.precision

    def weights_sha256(self, recipe: str) -> str:
        return ScriptedSession(self.weights, self.script).weights_sha256(recipe)

    def arm(self, recipe: str) -> ScriptedArm:
        self.log.append(recipe)
        return ScriptedArm(self.script, recipe, self.precision)

    def arms(self) -> list[str]:
        """Arms that were prepared since the last call."""
        found = [line for line in self.log if not line.startswith("open")]
        self.log.clear()
        return found


HALF, FEW = "checkpoint(path='half')", "checkpoint(path='few')"
STUDY = Study(
    "s",
    "m",
    (TaskPlan("t"),),
    arms=(ArmPlan("half", HALF), ArmPlan("few", FEW, limit=2)),
    control=ControlPlan(3),
    batch_size=2,
)
SAMPLES = [sample(n, picture(n)) for n in range(6)]


def go(
    folder: Path, study: Study = STUDY, loader: Any = None, samples: Sequence[Sample] = SAMPLES, **options: Any
) -> Any:
    tasks = options.pop("tasks", {"t": Listed(samples)})
    return run(study, folder, loader=loader or Watched(), tasks=tasks, **options)


def test_original_control_recipes_in_this_order(tmp_path: Path) -> None:
    loader = Watched(lambda recipe, sample: "no" if "half" in recipe else "yes")
    result = go(tmp_path / "run", loader=loader)
    assert loader.log == ["open m auto auto", "keep_all", "keep_all", HALF, FEW]
    assert [row.sample_id for row in result.original] == [item.id for item in SAMPLES]
    assert {row.text for row in result.original} == {row.text for row in result.control} == {"yes"}
    assert {row.text for row in result.arms["half"]} == {"no"}
    assert len(result.arms["few"]) == 2
    assert result.recipes == {"original": "keep_all", "control": "keep_all", "half": HALF, "few": FEW}
    assert result.failures == {"original": 0, "control": 0, "half": 0, "few": 0}
    assert result.incomplete == {}
    assert result.notes == ()
    assert (result.provenance["control"][0].batch_size, result.provenance["control"][0].order) == (3, "shuffled")
    assert (result.provenance["half"][0].batch_size, result.provenance["half"][0].order) == (2, "by_image")


def test_time_is_split(tmp_path: Path) -> None:
    times = go(tmp_path / "run").times
    assert 0 < times.model_s < times.wall_s
    assert 0 < times.harness_s == pytest.approx(times.wall_s - times.model_s - times.setup_s)
    assert 0 < times.harness_share < 1


def test_a_finished_study_prepares_nothing(tmp_path: Path) -> None:
    loader = Watched()
    first = go(tmp_path / "run", loader=loader)
    loader.arms()
    again = go(tmp_path / "run", loader=loader)
    assert loader.arms() == []
    assert replace(again, times=None) == replace(first, times=None) == read_result(tmp_path / "run")


def test_a_new_recipe_runs_alone_and_a_dropped_one_is_left_out(tmp_path: Path) -> None:
    loader = Watched()
    go(tmp_path / "run", loader=loader)
    loader.arms()
    new = replace(STUDY, arms=(STUDY.arms[0], ArmPlan("new", "checkpoint(path='new')")))
    result = go(tmp_path / "run", new, loader)
    assert loader.arms() == ["checkpoint(path='new')"]
    assert list(result.arms) == ["half", "new"]
    go(tmp_path / "run", STUDY, loader)
    assert loader.arms() == []


def test_a_renamed_arm_is_not_run_again(tmp_path: Path) -> None:
    loader = Watched()
    first = go(tmp_path / "run", loader=loader)
    loader.arms()
    renamed = replace(STUDY, arms=(replace(STUDY.arms[0], name="fifty"), STUDY.arms[1]))
    result = go(tmp_path / "run", renamed, loader)
    assert loader.arms() == []
    assert result.arms["fifty"] == first.arms["half"]
    assert [cell["arm"] for cell in result.about["fifty"]] == ["fifty"]


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"loader": Watched(weights="v")}, ["keep_all", "keep_all", HALF, FEW]),
        ({"loader": Watched(precision="bfloat16")}, ["keep_all", "keep_all", HALF, FEW]),
        ({"study": replace(STUDY, seed=1)}, ["keep_all"]),
        ({"study": replace(STUDY, control=ControlPlan(4))}, ["keep_all"]),
        ({"study": replace(STUDY, batch_size=5)}, []),
        ({"samples": SAMPLES[::-1]}, []),
        ({"samples": [*SAMPLES, sample(9)]}, ["keep_all", "keep_all", HALF]),
        ({"samples": [*SAMPLES[:5], sample(5, picture(99))]}, ["keep_all", "keep_all", HALF]),
        ({"tasks": {"t": Listed(SAMPLES, version="2")}}, ["keep_all", "keep_all", HALF, FEW]),
        ({"tasks": {"t": Listed(SAMPLES, max_new_tokens=9)}}, ["keep_all", "keep_all", HALF, FEW]),
    ],
)
def test_exactly_what_a_change_touches_runs_again(tmp_path: Path, change: dict[str, Any], expected: list[str]) -> None:
    go(tmp_path / "run")
    loader = change.pop("loader", None) or Watched()
    loader.log.clear()
    go(tmp_path / "run", loader=loader, **change)
    assert loader.arms() == expected


def test_a_task_that_lists_its_samples_otherwise_finds_them_answered(tmp_path: Path) -> None:
    first = go(tmp_path / "run")
    assert go(tmp_path / "run", samples=SAMPLES[::-1]).original == first.original


def test_failing_samples_are_counted_and_can_be_retried(tmp_path: Path) -> None:
    broken = {"s1", "s4"}

    def script(recipe: str, sample: Sample) -> str | Failure:
        if sample.id in broken:
            raise MemoryError
        return "yes"

    first = go(tmp_path / "run", loader=Watched(script))
    assert first.failures["original"] == first.failures["half"] == 2
    assert "original: 2 samples failed." in first.notes
    broken.clear()
    assert go(tmp_path / "run", loader=Watched(script)).failures["original"] == 2
    retried = go(tmp_path / "run", loader=Watched(script), retry_failures=True)
    assert set(retried.failures.values()) == {0}
    assert [row.sample_id for row in retried.original] == [item.id for item in SAMPLES]


def test_failures_of_an_unfinished_cell_can_be_retried(tmp_path: Path) -> None:
    def flaky(recipe: str, sample: Sample) -> str | Failure:
        return Failure("RunError", "once") if sample.id == "s1" else "yes"

    def stop(progress: Progress) -> None:
        if progress.cell_done >= 4:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        go(tmp_path / "run", loader=Watched(flaky), progress=stop)
    result = go(tmp_path / "run", retry_failures=True)
    assert set(result.failures.values()) == {0}


def test_missing_and_damaged_images_are_failures_until_they_are_mended(tmp_path: Path) -> None:
    missing, damaged = FileImage(tmp_path / "missing.png"), FileImage(tmp_path / "damaged.png")
    (tmp_path / "damaged.png").write_bytes(b"\x89PNG no more")
    samples = [sample(1, missing), sample(2, damaged), sample(3, picture(3)), sample(4)]
    result = go(tmp_path / "run", samples=samples)
    failures = {row.sample_id: row.failure for row in result.original if row.failure}
    assert {name: failure.kind for name, failure in failures.items()} == {"s1": "ImageError", "s2": "ImageError"}
    assert "missing.png" in failures["s1"].message
    (tmp_path / "missing.png").write_bytes(png(1))
    (tmp_path / "damaged.png").write_bytes(png(2))
    assert go(tmp_path / "run", samples=samples).failures["original"] == 0


def test_a_model_that_cannot_answer_keeps_what_was_done(tmp_path: Path) -> None:
    many = [sample(n) for n in range(20)]

    def script(recipe: str, sample: Sample) -> str:
        if "half" in recipe:
            raise RuntimeError("device lost")
        return "yes"

    with (
        pytest.raises(RunError, match=r"arm 'half' on task 't' cannot run: .* device lost"),
        pytest.warns(ArmWarning, match="The other arms go on"),
    ):
        go(tmp_path / "run", loader=Watched(script), samples=many)
    statuses = {status.entry.arm: status for status in ResultStore(tmp_path / "run").status()}
    assert (statuses["control"].complete, statuses["half"].done) == (True, 0)
    result = read_result(tmp_path / "run")
    assert result.incomplete == {"half": (0, 20)}
    assert list(result.arms) == ["few"]
    assert "half is unfinished: 0 of 20 samples." in result.notes


class Unfit(Watched):
    """Refuses some recipes, as a model does that a method is not defined for."""

    refused: tuple[str, ...] = ()

    def arm(self, recipe: str) -> ScriptedArm:
        if recipe in self.refused:
            raise Unsupported(f"{recipe} needs a CLS row.")
        return super().arm(recipe)


def test_an_arm_that_does_not_fit_costs_only_itself(tmp_path: Path) -> None:
    loader = Unfit()
    loader.refused = (HALF,)
    with (
        pytest.raises(Unsupported, match=r"arm 'half' cannot be prepared: .* needs a CLS row"),
        pytest.warns(ArmWarning),
    ):
        go(tmp_path / "run", loader=loader)
    assert read_result(tmp_path / "run").incomplete == {"half": (0, 6)}
    loader.refused = (HALF, FEW)
    with pytest.raises(Unsupported, match=r"(?s)arm 'half' .*arm 'few'"), pytest.warns(ArmWarning):
        go(tmp_path / "more", loader=loader)


def test_without_the_original_nothing_goes_on(tmp_path: Path) -> None:
    loader = Unfit()
    loader.refused = ("keep_all",)
    with pytest.raises(Unsupported, match="arm 'original' cannot be prepared"):
        go(tmp_path / "run", loader=loader)
    assert loader.arms() == []


@pytest.mark.parametrize(
    ("samples", "message"),
    [
        ([], "has no samples"),
        ([sample(1), sample(1, prompt="another")], "'s1' twice"),
        ([sample(1, task="u")], "of task 'u'"),
    ],
)
def test_bad_tasks_are_refused_before_a_model_is_found(tmp_path: Path, samples: Sequence[Sample], message: str) -> None:
    loader = Watched()
    with pytest.raises(SampleError, match=message):
        go(tmp_path / "run", loader=loader, samples=samples)
    assert loader.log == []
    assert not (tmp_path / "run").exists()


def test_two_tasks_with_the_same_samples_are_refused(tmp_path: Path) -> None:
    study = replace(STUDY, tasks=(TaskPlan("t"), TaskPlan("again")))
    with pytest.raises(SampleError, match="6 sample ids of study 's'"):
        go(tmp_path / "run", study, tasks={"t": Listed(SAMPLES), "again": Listed(SAMPLES)})


def test_several_tasks_share_an_arm(tmp_path: Path) -> None:
    study = replace(STUDY, tasks=(TaskPlan("t", limit=4), TaskPlan("u")), control=None)
    tasks = {"t": Listed(SAMPLES), "u": Listed([sample(n, task="u") for n in range(3)], name="u")}
    loader = Watched()
    result = go(tmp_path / "run", study, loader, tasks=tasks)
    assert loader.arms() == ["keep_all", HALF, FEW]
    assert [row.task for row in result.original] == ["t"] * 4 + ["u"] * 3
    assert result.control is None
    assert [row.task for row in result.arms["few"]] == ["t"] * 2 + ["u"] * 2


def test_the_same_weights_twice_are_refused(tmp_path: Path) -> None:
    class Same(Watched):
        def weights_sha256(self, recipe: str) -> str:
            return "same"

    with pytest.raises(ConfigError, match="'half' and 'twin' are the same weights, recipe and questions"):
        go(tmp_path / "run", replace(STUDY, arms=(ArmPlan("half", HALF), ArmPlan("twin", FEW))), Same())


def test_a_folder_of_another_study_is_refused(tmp_path: Path) -> None:
    go(tmp_path / "run")
    with pytest.raises(StoreError, match="holds the study 's'"):
        go(tmp_path / "run", replace(STUDY, name="other"))


def test_progress_counts_the_whole_study(tmp_path: Path) -> None:
    seen: list[Progress] = []
    go(tmp_path / "run", progress=seen.append)
    assert seen[-1].done == seen[-1].total == 6 + 6 + 6 + 2
    assert [item.done for item in seen] == sorted(item.done for item in seen)
    assert list(dict.fromkeys(item.arm for item in seen)) == ["original", "control", "half", "few"]
    seen.clear()
    go(tmp_path / "run", progress=seen.append)
    assert (seen[-1].stored, seen[-1].done) == (20, 20)


def test_the_scripted_loader_is_a_loader(tmp_path: Path) -> None:
    result = go(tmp_path / "run", loader=ScriptedLoader(lambda recipe, sample: f"{sample.id}"))
    assert [row.text for row in result.original] == [item.id for item in SAMPLES]
