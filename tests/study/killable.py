"""A study with a fast, deterministic stand-in for a model; run as a script it is what the resume tests kill."""

from __future__ import annotations

import os
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

import steadyvlm
from steadyvlm.records import Grade, Sample
from steadyvlm.seeding import stable_seed
from steadyvlm.study.backends.scripted import ScriptedLoader
from steadyvlm.study.plan import ArmPlan, ControlPlan, Study, TaskPlan
from steadyvlm.study.runner import run


@dataclass(frozen=True)
class Words:
    """Questions without pictures, in several scripts."""

    count: int = 40
    name: str = "words"
    version: str = "1"
    max_new_tokens: int = 4
    stop: tuple[str, ...] = ()
    soft_threshold: float = 0.5

    def samples(self) -> list[Sample]:
        return [
            Sample(
                id=f"id-{number:03}",
                task=self.name,
                question=f"Qual é a palavra № {number}? 🦜 {chr(0x4E00 + number)}\u2028",
                prompt=f"word {number}",
                kind="open",
                references=(f"w{number % 7}",),
                cluster=f"cluster-{number // 4}",
                family="even" if number % 2 == 0 else "odd",
            )
            for number in range(self.count)
        ]

    def grade(self, sample: Sample, text: str) -> Grade:
        return Grade(text.strip(), float(text.strip() in sample.references))


def script(recipe: str, sample: Sample) -> str:
    time.sleep(float(os.environ.get("PAUSE_S", "0")))
    if stable_seed("breaks", sample.id) % 19 == 0:
        raise ValueError(f"no answer to {sample.id}")
    return f"w{stable_seed(recipe, sample.id) % 7}"


def study() -> Study:
    return Study(
        name="killable",
        model="scripted",
        tasks=(TaskPlan("words"),),
        arms=(ArmPlan("half", "checkpoint(path='half')"), ArmPlan("few", "checkpoint(path='few')", limit=15)),
        control=ControlPlan(batch_size=3),
        batch_size=4,
        seed=7,
    )


def main(folder: Path) -> None:
    run(study(), folder, loader=ScriptedLoader(script), tasks={"words": Words()})


def without_torch() -> None:
    """Let `steadyvlm.recipes` be found without what its `__init__` imports, so that a process starts at once."""
    package = ModuleType("steadyvlm.recipes")
    package.__path__ = [str(Path(steadyvlm.__file__).parent / "recipes")]
    sys.modules[package.__name__] = package


if __name__ == "__main__":
    without_torch()
    main(Path(sys.argv[1]))
