"""Your own benchmark: a folder with a question file and pictures.

    my-benchmark/
      questions.jsonl      one object a line (or .json with a list, .csv, .tsv)
      images/…

    {"id": "1", "image": "images/cat.png", "question": "Is there a cat?", "references": ["yes"]}
    {"id": "2", "image": "images/cat.png", "question": "What is it?", "choices": ["a dog", "a cat"], "answer": "B"}

Fields: `id` and `question`, required; `references`, `answers` or `answer`, required: one text, or a list (ten
annotators), for a choice the option's letter, index from 0, or text; `image` or `images`: paths inside the folder,
none for a text-only question; `choices`; `kind` (by default: choice with options, yes_no if all other questions have
the gold yes or no, open_ten from four golds on, else open); `prompt` (by default the question with the usual
short-answer or letter instruction); `cluster` (by default the first image); `family`; `group` (rotations of one choice
question share it). In CSV a list is written as JSON inside the cell.

A wrong row stops everything before a model is loaded, with file and line. A picture that is missing or damaged does
not: it becomes one failed sample when it is loaded. Paths that lead out of the folder are refused, symbolic links
included.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from steadyvlm.errors import InvalidOption, SampleError
from steadyvlm.records import Grade, Sample
from steadyvlm.seeding import bytes_hash
from steadyvlm.tasks.gold import KINDS, infer_kinds, references, text_of, texts
from steadyvlm.tasks.prompts import prompt_for
from steadyvlm.tasks.rows import Row, read_table, shown
from steadyvlm.tasks.scorers import check_gold, grade
from steadyvlm.tasks.sources import MAX_PIXELS, FileImage

QUESTION_FILES = ("questions.jsonl", "questions.json", "questions.csv", "questions.tsv")

_GOLD_FIELDS = ("references", "answers", "answer")
_IMAGE_FIELDS = ("image", "images")
_FIELDS = frozenset(
    {"id", "question", "prompt", "kind", "choices", "cluster", "family", "group", *_GOLD_FIELDS, *_IMAGE_FIELDS}
)


@dataclass(frozen=True)
class FolderTask:
    """A benchmark in a folder.

    Attributes:
        path: the folder.
        name: name of the task; by default the folder's name.
        limit: use only the first questions, by default all.
        max_new_tokens: longest answer, in tokens.
        stop: strings at which answers are cut.
        soft_threshold: score from which a soft-scored answer counts as correct.
        max_pixels: refuse larger pictures.
    """

    path: str | Path
    name: str = ""
    limit: int | None = None
    max_new_tokens: int = 16
    stop: tuple[str, ...] = ()
    soft_threshold: float = 0.5
    max_pixels: int = MAX_PIXELS
    version: str = field(init=False, compare=False)
    _samples: tuple[Sample, ...] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        """Read and check the questions.

        Raises:
            InvalidOption: for an option outside its range.
            SampleError: for a missing question file or a row that cannot be asked or graded.
        """
        for option in ("limit", "max_new_tokens", "max_pixels"):
            value = getattr(self, option)
            if value is not None and (isinstance(value, bool) or not isinstance(value, int) or value < 1):
                raise InvalidOption(f"task 'folder': {option} is {value!r}; give a whole number above 0.")
        if not 0 < self.soft_threshold <= 1:
            raise InvalidOption(f"task 'folder': soft_threshold is {self.soft_threshold}; give a number in (0, 1].")
        file = _question_file(Path(self.path))
        name = self.name or file.parent.resolve().name
        samples = _read(file, name, self.max_pixels)
        object.__setattr__(self, "name", name)
        object.__setattr__(self, "stop", tuple(self.stop))
        object.__setattr__(self, "version", f"1-{bytes_hash(file.read_bytes())[:16]}")
        object.__setattr__(self, "_samples", samples[: self.limit])

    def samples(self) -> Sequence[Sample]:
        """Return the questions in the file's order, the first `limit` of them."""
        return self._samples

    def grade(self, sample: Sample, text: str) -> Grade:
        """Score an answer by the sample's kind."""
        return grade(sample, text)


def _question_file(folder: Path) -> Path:
    found = [folder / name for name in QUESTION_FILES if (folder / name).is_file()]
    if len(found) == 1:
        return found[0]
    if found:
        names = " and ".join(file.name for file in found)
        raise SampleError(f"folder '{folder}' holds {names}; keep one of them.")
    there = "holds none" if folder.is_dir() else "is not a folder"
    raise SampleError(f"task folder '{folder}' {there}; give a folder with one of {', '.join(QUESTION_FILES)}.")


def _read(file: Path, task: str, max_pixels: int) -> tuple[Sample, ...]:
    rows = read_table(file, error=SampleError).rows
    for row in rows:
        _check_fields(row)
    golds = [_lists(row, _GOLD_FIELDS) for row in rows]
    choices = [_lists(row, ("choices",)) for row in rows]
    root = file.parent.resolve()
    samples: dict[str, Sample] = {}
    kinds = infer_kinds(golds, choices, [_text(row, "kind") for row in rows])
    for row, kind, gold, options in zip(rows, kinds, golds, choices, strict=True):
        paths = [_inside(root, name, row) for name in _lists(row, _IMAGE_FIELDS)]
        question = _text(row, "question")
        try:
            known = references(kind, gold, options)
            check_gold(kind, known, options)
        except SampleError as problem:
            raise SampleError(f"{row.place}: {problem}") from None
        sample = Sample(
            id=_text(row, "id"),
            task=task,
            question=question,
            prompt=_text(row, "prompt") or prompt_for(kind, question, options),
            kind=kind,
            references=known,
            choices=options,
            images=tuple(FileImage(path, max_pixels) for path in paths),
            cluster=_text(row, "cluster") or (str(paths[0].relative_to(root)) if paths else _text(row, "id")),
            family=_text(row, "family"),
            group=_text(row, "group"),
        )
        if sample.id in samples:
            raise SampleError(f"{row.place}: field 'id': {shown(sample.id)} occurs twice; give each row its own id.")
        samples[sample.id] = sample
    return tuple(samples.values())


def _check_fields(row: Row) -> None:
    unknown = sorted(set(row.values) - _FIELDS)
    if unknown:
        raise SampleError(f"{row.place}: field {shown(unknown[0])} is unknown; known: {', '.join(sorted(_FIELDS))}.")
    for names in (_GOLD_FIELDS, _IMAGE_FIELDS):
        if len([name for name in names if row.values.get(name) not in (None, "")]) > 1:
            raise SampleError(f"{row.place}: fields {' and '.join(names)} mean the same; keep one of them.")
    for name in ("id", "question"):
        if not _text(row, name):
            raise SampleError(f"{row.place}: field '{name}' is missing or empty; fill it.")
    kind = _text(row, "kind")
    if kind and kind not in KINDS:
        raise SampleError(f"{row.place}: field 'kind' is {shown(kind)}; use one of {', '.join(KINDS)}.")


def _text(row: Row, name: str) -> str:
    value = row.values.get(name)
    try:
        return "" if value is None else text_of(value).strip()
    except SampleError as problem:
        raise SampleError(f"{row.place}: field '{name}': {problem}") from None


def _inside(root: Path, name: str, row: Row) -> Path:
    try:
        path = (root / name.replace("\\", "/")).resolve()
    except (OSError, RuntimeError, ValueError) as problem:  # too long a name, links in a circle, a NUL byte
        raise SampleError(f"{row.place}: field 'image': {shown(name)} is no path ({problem}); correct it.") from None
    if not path.is_relative_to(root):
        raise SampleError(f"{row.place}: field 'image': {shown(name)} leads out of the folder; copy the file into it.")
    return path


def _lists(row: Row, names: Sequence[str]) -> tuple[str, ...]:
    for name in names:
        if row.values.get(name) not in (None, ""):
            try:
                return texts(row.values[name])
            except SampleError as problem:
                raise SampleError(f"{row.place}: field '{name}': {problem}") from None
    return ()
