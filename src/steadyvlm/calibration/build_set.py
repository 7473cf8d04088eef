"""Calibration sets from data of one's own: drawn once, hashed, and frozen in a file.

    llava(path='llava_v1_5_mix665k.json', images='data', only='coco/')     the first question about each picture
    jsonl(path='questions.jsonl', images='pictures')                       rows with "prompt" and maybe "image"
    lines(path='wikitext.txt', words=200)                                  text alone, so many words to a sample

Several sources are mixed in shares, equal ones unless said otherwise; each becomes a group of the set, and what is
drawn from the set later keeps these proportions. Pictures stay where they are; only their hashes are taken.

Source: Li et al. 2026, arXiv 2604.17320, section 4.1 and appendix D.2.1: LLaVA-Mix-665K for LLaVA; LLaVA-Mix-665K,
WikiText-2, TextVQA, DocVQA and ChartQA for Qwen2.5-VL.
Differs: the shares of that mixture are not published; they are equal here unless given.
"""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from steadyvlm.calibration.sets import FORMAT, MAX_PROMPT, CalibrationSample, SetFile, shares, to_json
from steadyvlm.errors import ImageError, InvalidOption, SampleError, UsageError
from steadyvlm.models.new_folder import check_new_folder
from steadyvlm.registry import Registry
from steadyvlm.seeding import stable_seed
from steadyvlm.tasks.sources import FileImage

MAX_BYTES = 4 << 30
"""Largest source file that is read; LLaVA-Mix-665K has about one gigabyte."""
IMAGE_MARK = "<image>"

SOURCES = Registry(
    "source of calibration samples",
    {
        "jsonl": "steadyvlm.calibration.build_set:Rows",
        "lines": "steadyvlm.calibration.build_set:Lines",
        "llava": "steadyvlm.calibration.build_set:LlavaInstruct",
    },
    group="steadyvlm.calibration_sources",
)


@dataclass(frozen=True, slots=True)
class Candidate:
    """A sample that may be drawn.

    Attributes:
        id: its name in the source.
        prompt: the question.
        image: the picture's file; None for text alone.
    """

    id: str
    prompt: str
    image: Path | None


@dataclass(frozen=True, slots=True)
class LlavaInstruct:
    """Conversations in the format of LLaVA's instruction data: a JSON list of {id, image, conversations}.

    Attributes:
        path: the file.
        images: the folder that its pictures' paths begin in.
        only: take pictures whose path begins so, for example "coco/".
        group: name of these samples' group.
        share: of the set, in proportion to the other sources' shares.
    """

    path: str
    images: str
    only: str = ""
    group: str = "general"
    share: float = 1.0

    def candidates(self) -> Iterator[Candidate]:
        """Yield the first question about each picture."""
        rows = _parsed(_text(self.path), f"'{self.path}'")
        if not isinstance(rows, list):
            raise SampleError(f"'{self.path}' holds no list of conversations; give a file of LLaVA's instruction data.")
        for number, row in enumerate(rows):
            prompt = _first_question(row)
            image = row.get("image") if prompt else None
            if isinstance(image, str) and image.startswith(self.only) and len(prompt) <= MAX_PROMPT:
                yield Candidate(str(row.get("id", number)), prompt, Path(self.images) / image)


@dataclass(frozen=True, slots=True)
class Rows:
    """JSON Lines with "prompt", and "image" where there is a picture.

    Attributes:
        path: the file.
        images: the folder that its pictures' paths begin in; empty for the file's own.
        group: name of these samples' group.
        share: of the set.
    """

    path: str
    images: str = ""
    group: str = "general"
    share: float = 1.0

    def candidates(self) -> Iterator[Candidate]:
        """Yield the rows.

        Raises:
            SampleError: for a row without a prompt.
        """
        folder = Path(self.images) if self.images else Path(self.path).parent
        for number, line in enumerate(_text(self.path).splitlines(), start=1):
            if not line.strip():
                continue
            row = _parsed(line, f"line {number} of '{self.path}'")
            prompt, image = (row.get(name) for name in ("prompt", "image")) if isinstance(row, dict) else (None, None)
            if not isinstance(prompt, str) or not prompt.strip() or not isinstance(image, (str, type(None))):
                raise SampleError(
                    f'line {number} of \'{self.path}\' is no sample. Write {{"prompt": "…", "image": "a.jpg"}}, '
                    "without the image for text alone."
                )
            yield Candidate(str(row.get("id", number)), prompt, None if image is None else folder / image)


@dataclass(frozen=True, slots=True)
class Lines:
    """Running text, cut into samples of so many words.

    Attributes:
        path: the file.
        words: words per sample.
        group: name of these samples' group.
        share: of the set.
    """

    path: str
    words: int = 200
    group: str = "text"
    share: float = 1.0

    def __post_init__(self) -> None:
        """Validate."""
        if not isinstance(self.words, int) or self.words < 1:
            raise InvalidOption(f"lines: words={self.words!r} is not allowed. Give a whole number from 1 up.")

    def candidates(self) -> Iterator[Candidate]:
        """Yield the text piece by piece; what is left at the end is left out."""
        words = _text(self.path).split()
        for number, start in enumerate(range(0, len(words) - self.words + 1, self.words)):
            yield Candidate(str(number), " ".join(words[start : start + self.words]), None)


Source = LlavaInstruct | Rows | Lines


def build_set(name: str, sources: Sequence[Source], out: Path, *, samples: int = 384, seed: int = 0) -> SetFile:
    """Draw a calibration set and write its file.

    Args:
        name: how the set is called in messages.
        sources: where samples come from; every source needs a group of its own.
        out: the JSON file; must not exist.
        samples: how many; three times what a calibration uses lets its seed matter.
        seed: draws them.

    Raises:
        InvalidOption: for no source, two of one group, a share of nothing, or a file that is already there.
        UsageError: when the file cannot be written.
        SampleError: when a source cannot be read or holds too few samples.
        ImageError: naming drawn pictures that are missing or unreadable; nothing is written then.

    >>> build_set("mine", [Rows("questions.jsonl")], Path("mine.json"))   # doctest: +SKIP
    """
    _check(sources, out, samples)
    parts = shares({source.group: round(1e6 * source.share) for source in sources}, samples)
    drawn = {source.group: _drawn(source, parts[source.group], seed) for source in sources}
    images = [Path(os.path.abspath(item.image)) for items in drawn.values() for item in items if item.image]
    hashes = _hashes(images)
    root = Path(os.path.commonpath([image.parent for image in images])) if images else None
    rows = []
    for group, items in drawn.items():
        for place, item in enumerate(items):
            image = None if item.image is None else Path(os.path.abspath(item.image))
            shown = None if image is None or root is None else image.relative_to(root).as_posix()
            sample = CalibrationSample(
                f"{group}-{item.id}", item.prompt, shown, None if image is None else hashes[image], group
            )
            rows.append(((place + 0.5) / len(items), sample))
    rows.sort(key=lambda row: row[0])  # groups alternate, so that every batch holds of all
    about = f"{samples} samples of {'; '.join(map(str, sources))}; seed {seed}."
    content = SetFile(FORMAT, 1, name, about, _folder(root, out), None, tuple(sample for _, sample in rows))
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        with out.open("x", encoding="utf-8") as file:
            file.write(to_json(content))
    except OSError as error:
        raise UsageError(f"'{out}' cannot be written: {error.strerror or error}. Choose another place.") from None
    return content


def _check(sources: Sequence[Source], out: Path, samples: int) -> None:
    groups = [source.group for source in sources]
    if not sources or len(set(groups)) < len(groups):
        raise InvalidOption(f"the sources form the groups {groups}; give at least one, each with a name of its own.")
    if samples < len(groups):
        raise InvalidOption(f"samples={samples} is not allowed. Give at least one for each of {len(groups)} groups.")
    for source in sources:
        for item in dataclasses.fields(source):
            if isinstance(item.default, str) or item.name in ("path", "images"):
                _check_text(item.name, getattr(source, item.name))
        share = source.share
        if isinstance(share, bool) or not isinstance(share, (int, float)) or not 1e-6 <= share < 1e6:
            raise InvalidOption(f"the share of '{source.group}' is {share!r}; give a number from 0.000001 up.")
    if os.path.lexists(out):
        raise InvalidOption(f"'{out}' is already there, and sets do not change. Choose another name.")
    check_new_folder(out)  # a file as little as a folder


def _check_text(name: str, value: object) -> None:
    if not isinstance(value, str) or (name in ("path", "group") and not value):
        raise InvalidOption(f"{name}={value!r} is not allowed. Give a text, for example {name}='{_EXAMPLES[name]}'.")


_EXAMPLES = {"path": "questions.jsonl", "images": "pictures", "only": "coco/", "group": "general"}


def _drawn(source: Source, count: int, seed: int) -> list[Candidate]:
    """Return `count` candidates of a source, which ones by the seed and each one's id, in that order."""
    found = {item.id: item for item in source.candidates()}
    if len(found) < count:
        raise SampleError(
            f"'{source.path}' has {len(found)} usable samples for group '{source.group}', {count} are needed. "
            "Take fewer samples, a smaller share, or more data."
        )
    ranked = sorted(found.values(), key=lambda item: (stable_seed("calibration-set", seed, item.id), item.id))
    return ranked[:count]


def _hashes(images: Sequence[Path]) -> dict[Path, str]:
    """Return the hash of each picture, decoding it once to see that it can be read."""
    found: dict[Path, str] = {}
    problems = []
    for image in dict.fromkeys(images):
        try:
            FileImage(image).load()
            found[image] = FileImage(image).sha256()
        except ImageError as error:
            problems.append(str(error))
    if problems:
        raise ImageError(
            f"{len(problems)} of {len(set(images))} drawn pictures cannot be used: {' '.join(problems[:5])} "
            "Complete the folder, or draw from a part of it (only='…'). Nothing was written."
        )
    return found


def _folder(root: Path | None, out: Path) -> str | None:
    """Return how the set's file names the folder of its pictures: from its own folder on where that holds them."""
    beside = Path(os.path.abspath(out)).parent
    if root is None:
        return None
    return root.relative_to(beside).as_posix() if root.is_relative_to(beside) else root.as_posix()


def _text(path: str) -> str:
    try:
        if Path(path).stat().st_size > MAX_BYTES:
            raise SampleError(f"'{path}' has more than {MAX_BYTES:,} bytes; cut it into parts.")
        return Path(path).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise SampleError(f"'{path}' cannot be read ({error}); check the path.") from None


def _parsed(text: str, where: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise SampleError(f"{where} is not JSON: {error}.") from None


def _first_question(row: Any) -> str:
    """Return what the person says first in a conversation, the image mark left out; empty when there is nothing."""
    turns = row.get("conversations") if isinstance(row, dict) else None
    for turn in turns if isinstance(turns, list) else ():
        if isinstance(turn, dict) and turn.get("from") == "human":
            return str(turn.get("value", "")).replace(IMAGE_MARK, "").strip()
    return ""
