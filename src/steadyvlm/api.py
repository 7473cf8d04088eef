"""The two verbs most people need: compare two runs, and ask a model one question.

`compare` takes whatever holds answers (a log of any tool, a folder of a study, a finished cell, predictions in
memory) and finds out what it was given. What it computes is in `steadyvlm.stability`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from steadyvlm.errors import InvalidOption, LogError, UnknownName
from steadyvlm.records import AnswerKind, Generation, ImageRef, Prediction
from steadyvlm.stability.compare import Comparison
from steadyvlm.stability.compare import compare as compare_predictions
from steadyvlm.stability.perturbed import Kind, UnderPerturbation, under_perturbation
from steadyvlm.stability.repeats import Contrast, Runs, Variant, contrast, read_runs, variant
from steadyvlm.study.plan import CONTROL, ORIGINAL
from steadyvlm.study.result import StudyResult, read_result
from steadyvlm.study.store import MANIFEST, ResultStore
from steadyvlm.study.table import read_table
from steadyvlm.tasks.logs import read_log
from steadyvlm.tasks.sources import BytesImage, FileImage

if TYPE_CHECKING:
    from PIL.Image import Image

    from steadyvlm.models.adapter import VisionLanguageModel
    from steadyvlm.recipes.accelerate import AcceleratedModel

Run = Sequence[Prediction] | str | Path
"""Answers in memory, or where they are: a log, a finished cell (.parquet), `run-folder`, or `run-folder/arm`."""


def compare(
    original: Run,
    accelerated: Run,
    control: Run | None = None,
    *,
    columns: Mapping[str, str] | None = None,
    kind: AnswerKind | None = None,
    correct_threshold: float = 0.5,
    alpha: float = 0.05,
    seed: int = 0,
    common_only: bool = False,
) -> Comparison:
    """Compare an accelerated run with the original, sample by sample.

    Args:
        original: the unaccelerated model's answers.
        accelerated: the accelerated model's answers to the same questions.
        control: the original's answers from a second run, the noise floor. When both sides are arms of one study
            folder that has a control, it is used without being named.
        columns: for logs, role to column name where the automatic choice is wrong; see `steadyvlm.tasks.logs`.
        kind: for logs, how answers are read: open, open_ten, choice or yes_no.
        correct_threshold: a score at or above it counts as right.
        alpha: intervals have confidence 1 - alpha.
        seed: changes the bootstrap's resamples, not the estimates.
        common_only: compare the questions both runs hold and report the rest, instead of refusing.

    Raises:
        LogError: or StoreError, when answers cannot be read.
        PairingError: when the two sides were not asked the same.

    >>> compare("original.jsonl", "visionzip.jsonl").divergence_ratio  # doctest: +SKIP
    """
    first = _side(original, ORIGINAL, columns, kind)
    second = _side(accelerated, None, columns, kind)
    left, right = first.predictions, second.predictions
    noise = None if control is None else _side(control, CONTROL, columns, kind).predictions
    study = second.study if first.folder == second.folder else None
    if study is not None and second.arm in study.arms:
        if first.arm == ORIGINAL:
            left = study.paired(second.arm)[0]  # an arm with a limit was asked fewer questions
        if noise is None and first.arm != CONTROL:
            noise = study.control_of(second.arm)
            common_only = common_only or _short(noise, right)
    return compare_predictions(
        left,
        right,
        control=noise,
        correct_threshold=correct_threshold,
        alpha=alpha,
        seed=seed,
        common_only=common_only,
    )


def read_run(
    run: Run, *, arm: str = ORIGINAL, columns: Mapping[str, str] | None = None, kind: AnswerKind | None = None
) -> Sequence[Prediction]:
    """Return the answers of one run, wherever they are, as `compare` reads them.

    Args:
        run: a log, a finished cell, `run-folder/arm`, or `run-folder`, which stands for its `arm`.
        arm: which arm a folder without an arm's name stands for.
        columns: for logs, role to column name where the automatic choice is wrong.
        kind: for logs, how answers are read: open, open_ten, choice or yes_no.

    Raises:
        LogError: or StoreError, when answers cannot be read.

    >>> read_run([])
    []
    """
    return _side(run, arm, columns, kind).predictions


def compare_study(
    result: StudyResult | str | Path,
    *,
    correct_threshold: float | None = None,
    alpha: float = 0.05,
    seed: int = 0,
) -> dict[str, Comparison]:
    """Compare every complete arm of a study with the original, each with the control as noise floor.

    Where a study also asks about perturbed inputs, this is about the unchanged ones; `study_under_perturbation` has
    the others.

    Args:
        result: what a study answered, or its folder.
        correct_threshold: a score at or above it counts as right; by default what the study's tasks say.
        alpha: intervals have confidence 1 - alpha.
        seed: changes the bootstrap's resamples, not the estimates.

    Raises:
        StoreError: when the folder holds no finished original.
        InvalidOption: when the tasks disagree about the threshold and none is given.
    """
    result = (result if isinstance(result, StudyResult) else read_result(result)).clean()
    threshold = _threshold(result) if correct_threshold is None else correct_threshold
    return {
        arm: compare_predictions(
            *result.paired(arm),
            control=result.control_of(arm),
            correct_threshold=threshold,
            alpha=alpha,
            seed=seed,
            common_only=_short(result.control_of(arm), result.arms[arm]),
        )
        for arm in result.arms
    }


def study_under_perturbation(
    result: StudyResult | str | Path,
    *,
    correct_threshold: float | None = None,
    alpha: float = 0.05,
    seed: int = 0,
) -> dict[str, UnderPerturbation]:
    """Compare every complete arm with the original under the perturbations a study asked about, the control too.

    Arguments and errors as `compare_study`; empty for a study without perturbations.
    """
    from steadyvlm.perturb.suite import SUITE

    result = result if isinstance(result, StudyResult) else read_result(result)
    if result.perturbations is None:
        return {}
    threshold = _threshold(result) if correct_threshold is None else correct_threshold
    kinds = [Kind(row.name, row.label, row.group, row.levels) for row in SUITE.values()]
    return {
        arm: under_perturbation(
            *result.paired(arm),
            kinds=kinds,
            statuses=result.perturbations.statuses,
            correct_threshold=threshold,
            alpha=alpha,
            seed=seed,
        )
        for arm in (*((CONTROL,) if result.control is not None else ()), *result.arms)
    }


def study_variants(
    result: StudyResult | str | Path,
    *,
    correct_threshold: float | None = None,
    alpha: float = 0.05,
    seed: int = 0,
) -> tuple[dict[str, Variant], tuple[Contrast, ...]]:
    """Return what recipes come to over several calibration seeds, and the contrasts a study asks for.

    Variants are the recipes with several complete runs, and both sides of every contrast; a contrast with a side that
    is not complete is left out.

    Arguments and errors as `compare_study`.
    """
    result = (result if isinstance(result, StudyResult) else read_result(result)).clean()
    known = {name: tuple(run for run in runs if run in result.arms) for name, runs in result.study.variants.items()}
    asked = [pair for pair in result.study.contrasts if all(known[name] for name in pair)]
    wanted = {name for name, runs in known.items() if len(runs) > 1} | {name for pair in asked for name in pair}
    if not wanted:
        return {}, ()
    threshold = _threshold(result) if correct_threshold is None else correct_threshold
    sides = {name: [result.paired(run) for run in known[name]] for name in known if name in wanted}

    def columns(*names: str) -> dict[str, Runs]:
        return read_runs({name: sides[name] for name in names}, correct_threshold=threshold)

    variants = {name: variant(name, known[name], columns(name)[name], alpha=alpha, seed=seed) for name in sides}
    return variants, tuple(contrast(*pair, columns(*pair), alpha=alpha, seed=seed) for pair in asked)


def answer(
    model: VisionLanguageModel | AcceleratedModel | str | Path,
    image: str | Path | bytes | Image | ImageRef | None,
    question: str,
    *,
    max_new_tokens: int = 16,
    stop: tuple[str, ...] = (),
) -> Generation:
    """Ask one question.

    Args:
        model: what `load` or `accelerate` returned, or what `load` takes.
        image: a path, encoded bytes, a Pillow picture, an `ImageRef`, or None for a question without a picture.
        question: the prompt; the model's chat template is put around it.
        max_new_tokens: upper bound of the answer's length.
        stop: strings at which the answer is cut.

    Raises:
        ImageError: when the picture cannot be read.
        SampleError: for an empty question.
        InvalidOption: for a `max_new_tokens` below 1.
        RunError: when the model fails on it.

    >>> answer(accelerate(load("pocket"), "fastv(layer=5)"), "scene.png", "how many stars ?").text  # doctest: +SKIP
    '3'
    """
    from steadyvlm import recipes
    from steadyvlm.models.load import load

    ready = load(model) if isinstance(model, (str, Path)) else model
    picture = None if image is None else _picture(image)
    return recipes.answer(ready, picture, question, max_new_tokens=max_new_tokens, stop=stop)


@dataclass(frozen=True, slots=True)
class _Side:
    predictions: Sequence[Prediction]
    arm: str = ""
    study: StudyResult | None = None

    @property
    def folder(self) -> Path | None:
        return None if self.study is None else self.study.folder.resolve()


def _side(run: Run, arm: str | None, columns: Mapping[str, str] | None, kind: AnswerKind | None) -> _Side:
    if not isinstance(run, (str, Path)):
        return _Side(run)
    path = Path(run)
    if (path / MANIFEST).is_file():
        return _arm_side(path, arm)
    if not path.exists() and (path.parent / MANIFEST).is_file():
        return _arm_side(path.parent, path.name)
    if path.is_dir():
        raise LogError(f"{path} is a folder without a study; give a log file, or a folder written by `steadyvlm run`.")
    if path.suffix == ".parquet":
        return _Side(read_table(path))
    return _Side(read_log(path, columns=columns, kind=kind))


def _arm_side(folder: Path, arm: str | None) -> _Side:
    known = list(ResultStore(folder).arms())
    recipes = [name for name in known if name not in (ORIGINAL, CONTROL)]
    if arm is None:
        if len(recipes) != 1:
            raise InvalidOption(
                f"{folder} holds {len(recipes)} accelerated arms; name one as "
                f"'{folder / 'ARM'}' with ARM one of: {', '.join(recipes)}."
            )
        arm = recipes[0]
    if arm not in known:
        raise UnknownName.among(f"arm of {folder}", arm, known)
    predictions = ResultStore(folder).arm(arm)
    study = read_result(folder)
    clean = study.clean()
    if clean is not study:
        predictions = [row for row in predictions if not row.perturbation]
    return _Side(predictions, arm, clean)


def _short(control: Sequence[Prediction] | None, accelerated: Sequence[Prediction]) -> bool:
    """Whether a study asked its control fewer questions on purpose; the noise floor then rests on those."""
    return control is not None and len(control) < len(accelerated)


def _threshold(result: StudyResult) -> float:
    found = sorted({float(cell["soft_threshold"]) for cells in result.about.values() for cell in cells})
    if len(found) > 1:
        shown = ", ".join(map(str, found))
        raise InvalidOption(f"the tasks of this study count an answer as right from {shown}; give correct_threshold.")
    return found[0]


def _picture(image: str | Path | bytes | Image | ImageRef) -> Any:
    if isinstance(image, (str, Path)):
        return FileImage(image).load()
    if isinstance(image, bytes):
        return BytesImage(image).load()
    # A Pillow picture has a `load` too, which returns something else.
    return image.load() if isinstance(image, ImageRef) else image
