"""Calibration sets: frozen lists of prompts and pictures, each picture with its hash.

Every quantiser and every schedule that is calibrated sees the same examples, and which ones is part of the address of
every result. So a set is a file that does not change, and a picture that is gone or is another one stops the work
before it begins.

Source: Li et al. 2026, arXiv 2604.17320, section 4.1 (128 image-text samples) and appendix D.2.1 (for Qwen2.5-VL a
mixture of general, text-only, text-reading, document and chart samples).
Differs: the mixture's proportions are not published; groups are drawn from in proportion to their size in the file,
and the sets built here give every group the same.
"""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Literal

from PIL import Image

from steadyvlm.calibration import CALIBRATION_IMAGES, CALIBRATION_OWNERS, CALIBRATION_SETS
from steadyvlm.engine.requests import Request
from steadyvlm.errors import CheckpointError, ImageError, InvalidOption, SampleError, UnknownName, Unsupported
from steadyvlm.quota import strict_json
from steadyvlm.records import ImageRef
from steadyvlm.seeding import content_hash, stable_seed
from steadyvlm.tasks.sources import BytesImage, read_bounded

FORMAT: Literal["steadyvlm-calibration-set"] = "steadyvlm-calibration-set"
AUTO = "auto"
"""Stands for the set that belongs to the model."""
MAX_BYTES = 64 * 1024 * 1024
"""Largest file that is read."""
MAX_SAMPLES = 100_000
MAX_PROMPT = 200_000
"""Most characters of a prompt; a longer one fits no model."""


@dataclass(frozen=True, slots=True)
class CalibrationSample:
    """One example.

    Attributes:
        id: its name, unique in the set.
        prompt: the text for the chat template.
        image: the picture's path below the set's folder, or its name at the set's source; None for text alone.
        image_sha256: hash of the picture's bytes; None for text alone.
        group: what kind of example it is; draws keep the proportions of groups.
    """

    id: str
    prompt: str
    image: str | None
    image_sha256: str | None
    group: str


@dataclass(frozen=True, slots=True)
class SetFile:
    """The JSON file, field by field.

    Attributes:
        format: says what the file is.
        version: of the format.
        name: how the set is called in messages.
        about: where the samples come from, for readers.
        folder: where the pictures lie, from the file's own folder or absolute; None without picture files.
        source: a registered source of pictures that are made and not stored; None with picture files.
        samples: the examples.
    """

    format: Literal["steadyvlm-calibration-set"]
    version: Literal[1]
    name: str
    about: str
    folder: str | None
    source: str | None
    samples: tuple[CalibrationSample, ...]


@dataclass(frozen=True, slots=True)
class CalibrationSet:
    """Examples and where their pictures are.

    Attributes:
        name: for messages.
        samples: in the order of the file.
        folder: below which picture files lie.
        source: registered source of the pictures, None when they are files.
    """

    name: str
    samples: tuple[CalibrationSample, ...]
    folder: Path = Path()
    source: str | None = None

    @property
    def sha256(self) -> str:
        """Hash of what a model will see: prompts, pictures and groups in their order, not where pictures lie."""
        return content_hash([[item.id, item.prompt, item.image_sha256, item.group] for item in self.samples])

    def draw(self, count: int, seed: int) -> CalibrationSet:
        """Return `count` samples in the order of the file, groups in the proportions of the file.

        Which ones depends on the seed and on each sample's id alone.

        Raises:
            InvalidOption: when the set holds fewer.
        """
        if count > len(self.samples):
            raise InvalidOption(
                f"calibration set '{self.name}' holds {len(self.samples)} samples, {count} were asked for. "
                f"Give samples={len(self.samples)} or fewer, or build a larger set with `steadyvlm calibration-set`."
            )
        members: dict[str, list[CalibrationSample]] = {}
        for item in self.samples:
            members.setdefault(item.group, []).append(item)
        chosen: set[str] = set()
        for group, share in shares({group: len(own) for group, own in members.items()}, count).items():
            ranked = sorted(members[group], key=lambda item: (stable_seed("calibration", seed, item.id), item.id))
            chosen |= {item.id for item in ranked[:share]}
        return dataclasses.replace(self, samples=tuple(item for item in self.samples if item.id in chosen))

    def requests(self) -> list[Request]:
        """Load every picture and return the examples as the engine takes them.

        Raises:
            ImageError: naming the pictures that are missing or are not those the set was made with.
        """
        pictures, problems = dict[_Key, Image.Image](), dict[str, list[str]]()
        for item in {_key(item): item for item in self.samples}.values():
            if item.image is None:
                continue
            try:
                pictures[_key(item)] = self._picture(item)
            except ImageError as error:
                kind = "cannot be read" if self._exists(item.image) else "are missing"
                problems.setdefault(kind, []).append(f"{item.image} ({error})" if kind[0] == "c" else item.image)
            except _Changed:
                problems.setdefault("are not the pictures the set was made with", []).append(item.image)
        if problems:
            raise ImageError(self._complaint(problems))
        return [_request(item, pictures) for item in self.samples]

    def _picture(self, item: CalibrationSample) -> Image.Image:
        assert item.image is not None, "only samples with a picture have it loaded"
        if self.source is None:
            image: ImageRef = BytesImage(read_bounded(self.folder / item.image), name=item.image)
        else:
            image = CALIBRATION_IMAGES.load(self.source)(item.image)
        if image.sha256() != item.image_sha256:
            raise _Changed
        picture: Image.Image = image.load()
        return picture

    def _exists(self, image: str) -> bool:
        return self.source is not None or (self.folder / image).exists()

    def _complaint(self, problems: dict[str, list[str]]) -> str:
        total = len({item.image for item in self.samples if item.image is not None})
        parts = [
            f"{len(found)} of {total} pictures {kind}: {'; '.join(found[:5])}{', …' if len(found) > 5 else ''}"
            for kind, found in problems.items()
        ]
        place = f"source '{self.source}'" if self.source else f"'{self.folder}'"
        return (
            f"calibration set '{self.name}' cannot be used. {'. '.join(parts)}. "
            f"Put the original files back below {place}, or build a new set with `steadyvlm calibration-set`."
        )


class _Changed(Exception):
    """A picture whose hash is not the recorded one."""


def shares(sizes: dict[str, int], count: int) -> dict[str, int]:
    """Divide `count` among groups in proportion to their sizes; what is left over goes to the largest remainders.

    Of equal remainders the earlier group has it.

    >>> shares({"general": 78, "text": 78, "reading": 78, "options": 78, "counting": 78}, 128)
    {'general': 26, 'text': 26, 'reading': 26, 'options': 25, 'counting': 25}
    """
    total = sum(sizes.values())
    whole = {group: size * count // total for group, size in sizes.items()}
    order = sorted(sizes, key=lambda group: -(sizes[group] * count % total))  # stable: earlier groups stay in front
    for group in order[: count - sum(whole.values())]:
        whole[group] += 1
    return whole


def find_set(name: str, *, weights_sha256: str = "", model: str = "") -> CalibrationSet:
    """Return a registered set, the set in a file, or the one that belongs to a model.

    Args:
        name: a name of `CALIBRATION_SETS`, a path, or "auto".
        weights_sha256: content hash of the model, for "auto".
        model: how the model is called, for messages.

    Raises:
        Unsupported: for "auto" when no set belongs to the model.
        UnknownName: when there is neither such a name nor such a file.
        SampleError: when the file is no calibration set.
    """
    if name == AUTO:
        name = _belonging(weights_sha256, model)
    if name in CALIBRATION_SETS:
        return read_set(CALIBRATION_SETS.load(name)())
    if not Path(name).expanduser().is_file():
        if name.endswith(".json") or "/" in name:
            raise SampleError(f"there is no calibration set at '{name}'. Build one with `steadyvlm calibration-set`.")
        raise UnknownName.among("calibration set", name, CALIBRATION_SETS)
    return read_set(Path(name).expanduser())


def read_set(path: Path) -> CalibrationSet:
    """Read a set's file; its pictures are not looked at.

    Raises:
        SampleError: when it is too large, is not what the format says, or holds no usable samples.
    """
    try:
        with path.open("rb") as file:
            data = file.read(MAX_BYTES + 1)
        if len(data) > MAX_BYTES:
            raise SampleError(f"'{path}' has more than {MAX_BYTES:,} bytes; a calibration set is far smaller.")
        found = strict_json.decode(SetFile, json.loads(data.decode("utf-8")), "the calibration set")
    except (OSError, ValueError, RecursionError) as error:
        raise SampleError(f"'{path}' cannot be read as JSON: {error}") from None
    except CheckpointError as error:
        raise SampleError(f"'{path}' is no calibration set of this version: {error}") from None
    _check(found, path)
    folder = path.parent if found.folder is None else path.parent / Path(found.folder).expanduser()
    return CalibrationSet(found.name, found.samples, folder, found.source)


def to_json(content: SetFile) -> str:
    """Return the text of a set's file, one sample per line."""
    head = {item.name: getattr(content, item.name) for item in dataclasses.fields(content) if item.name != "samples"}
    rows = [json.dumps(dataclasses.asdict(item), ensure_ascii=False) for item in content.samples]
    opening = json.dumps(head, ensure_ascii=False, indent=1)[:-2]
    return opening + ',\n "samples": [\n  ' + ",\n  ".join(rows) + "\n ]\n}\n"


def _check(content: SetFile, path: Path) -> None:
    """Raise SampleError for a set that could not be used, naming the first such sample."""
    if not 0 < len(content.samples) <= MAX_SAMPLES:
        raise SampleError(f"'{path}' holds {len(content.samples):,} samples; a set has 1 to {MAX_SAMPLES:,}.")
    if content.source is not None and content.source not in CALIBRATION_IMAGES:
        raise SampleError(str(UnknownName.among("source of calibration images", content.source, CALIBRATION_IMAGES)))
    seen: set[str] = set()
    for item in content.samples:
        reason = _complaint(item, seen, files=content.source is None)
        if reason:
            raise SampleError(f"'{path}': sample {item.id[:80]!r} {reason}.")
        seen.add(item.id)


def _complaint(item: CalibrationSample, seen: set[str], *, files: bool) -> str:
    if item.id in seen:
        return "occurs twice; give every sample its own id"
    if not item.prompt.strip() or len(item.prompt) > MAX_PROMPT:
        return f"has a prompt of {len(item.prompt):,} characters; give a question of 1 to {MAX_PROMPT:,}"
    if (item.image is None) != (item.image_sha256 is None):
        return "has a picture without a hash, or a hash without a picture"
    if files and item.image is not None and (PurePosixPath(item.image).is_absolute() or ".." in Path(item.image).parts):
        return f"names the picture '{item.image}' outside the set's folder"
    return ""


def _belonging(weights_sha256: str, model: str) -> str:
    for owner in CALIBRATION_OWNERS:
        found: str | None = CALIBRATION_OWNERS.load(owner)(weights_sha256)
        if found is not None:
            return found
    raise Unsupported(
        f"no calibration set belongs to '{model}'. Name one: calibration='{next(iter(CALIBRATION_SETS))}' or "
        "calibration='FILE.json', built from your own pictures with `steadyvlm calibration-set`."
    )


_Key = tuple[str | None, str | None]


def _key(item: CalibrationSample) -> _Key:
    return item.image, item.image_sha256


def _request(item: CalibrationSample, pictures: dict[_Key, Image.Image]) -> Request:
    images = () if item.image is None else (pictures[_key(item)],)
    keys = () if item.image_sha256 is None else (item.image_sha256,)
    return Request(images, item.prompt, stable_seed("sample", content_hash(item.prompt), *keys))
