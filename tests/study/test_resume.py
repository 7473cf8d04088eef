"""A study killed anywhere and run again ends with the records of one that was never stopped."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
import warnings
from dataclasses import replace
from pathlib import Path

import pytest

from steadyvlm.errors import StoreError
from steadyvlm.records import Prediction
from steadyvlm.study.progress import Progress
from steadyvlm.study.result import StudyResult
from steadyvlm.study.runner import run
from steadyvlm.study.store import ResultStore
from steadyvlm.study.writer import StoreWarning, writing
from study.killable import ScriptedLoader, Words, script, study

SCRIPT = Path(__file__).with_name("killable.py")
SOURCE = Path(__file__).parents[2] / "src"


def start(folder: Path, pause_s: float) -> subprocess.Popen[bytes]:
    environment = {**os.environ, "PYTHONPATH": str(SOURCE), "PAUSE_S": str(pause_s), "OMP_NUM_THREADS": "1"}
    return subprocess.Popen([sys.executable, str(SCRIPT), str(folder)], env=environment, stderr=subprocess.PIPE)


def finish(folder: Path) -> StudyResult:
    return run(study(), folder, loader=ScriptedLoader(script), tasks={"words": Words()})


def stored(folder: Path) -> int:
    store = ResultStore(folder)
    return sum(status.done for status in store.status()) if store.exists() else 0


def sides(result: StudyResult) -> list[tuple[Prediction, ...]]:
    assert result.control is not None
    return [result.original, result.control, *result.arms.values()]


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> StudyResult:
    return finish(tmp_path_factory.mktemp("whole") / "run")


def test_killed_again_and_again_a_study_ends_the_same(tmp_path: Path, undisturbed: StudyResult) -> None:
    folder = tmp_path / "run"
    generator = random.Random(20)
    progress = [0]
    for target in (1, 30, 70, 100):
        process = start(folder, pause_s=0.004)
        while stored(folder) < target and process.poll() is None:
            time.sleep(0.01)
        time.sleep(generator.random() * 0.03)
        process.send_signal(signal.SIGKILL)
        process.communicate()
        progress.append(stored(folder))
    assert progress == sorted(progress)
    assert progress[-1] >= 100
    assert progress[-1] < 40 + 40 + 40 + 15
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", StoreWarning)  # a kill in the middle of a write leaves half a batch or file
        result = finish(folder)
    assert sides(result) == sides(undisturbed)
    assert result.recipes == undisturbed.recipes
    assert [len({row.key for row in rows}) for rows in sides(result)] == [40, 40, 40, 15]


def test_stopped_after_every_single_batch_a_study_ends_the_same(tmp_path: Path, undisturbed: StudyResult) -> None:
    folder = tmp_path / "run"

    before = 0
    for _ in range(60):
        try:
            result = run(study(), folder, loader=ScriptedLoader(script), tasks={"words": Words()}, progress=Stop(1))
            break
        except KeyboardInterrupt:
            assert stored(folder) >= before
            before = stored(folder)
    assert sides(result) == sides(undisturbed)


class Stop:
    """Interrupts a run after some batches of new answers."""

    def __init__(self, batches: int) -> None:
        self.batches = batches

    def __call__(self, progress: Progress) -> None:
        if progress.done > progress.stored:
            self.batches -= 1
            if self.batches == 0:
                raise KeyboardInterrupt


def test_another_batch_size_resumes_too(tmp_path: Path, undisturbed: StudyResult) -> None:
    folder = tmp_path / "run"
    with pytest.raises(KeyboardInterrupt):
        run(study(), folder, loader=ScriptedLoader(script), tasks={"words": Words()}, progress=Stop(3))
    result = run(replace(study(), batch_size=7), folder, loader=ScriptedLoader(script), tasks={"words": Words()})
    assert sides(result) == sides(undisturbed)
    assert {row.batch_size for row in result.provenance["original"]} == {4, 7}


def test_damaged_parts_and_cells_are_computed_again(tmp_path: Path, undisturbed: StudyResult) -> None:
    folder = tmp_path / "run"
    finish(folder)
    store = ResultStore(folder)
    whole, half = (status.entry for status in store.status()[:2])
    rows = store.predictions(half.key)
    with writing(folder, "killable") as writer:
        with writer.journal(half.key) as journal:
            journal.append(rows[:8], 0.1, {})
            journal.append(rows[8:20], 0.1, {})
        os.remove(writer.cell_path(half.key))
    journal_path = store.journal_path(half.key)
    journal_path.write_bytes(journal_path.read_bytes()[:-100])
    damaged = bytearray(store.cell_path(whole.key).read_bytes())
    for place in range(len(damaged) // 3, len(damaged) // 3 + 100):  # a page's header alone has no checksum
        damaged[place] ^= 0xFF
    store.cell_path(whole.key).write_bytes(bytes(damaged))
    with pytest.warns(StoreWarning) as caught:
        result = finish(folder)
    assert len(caught) == 2
    assert {path.name for path in (folder / "quarantine").iterdir()} == {f"{whole.key}.parquet", journal_path.name}
    assert [row.text for rows in sides(result) for row in rows] == [
        row.text for rows in sides(undisturbed) for row in rows
    ]


def test_two_runs_at_once_do_not_clash(tmp_path: Path, undisturbed: StudyResult) -> None:
    folder = tmp_path / "run"
    process = start(folder, pause_s=0.02)
    try:
        while stored(folder) < 1 and process.poll() is None:
            time.sleep(0.005)
        with pytest.raises(StoreError, match=f"process {process.pid}"):
            finish(folder)
        _, errors = process.communicate(timeout=60)
    finally:
        process.kill()
    assert process.returncode == 0, errors.decode()
    assert sides(finish(folder)) == sides(undisturbed)
