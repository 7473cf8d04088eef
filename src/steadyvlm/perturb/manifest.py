"""What became of every perturbed input, with hashes: the proof that all arms of a study saw the same.

A perturbed picture or prompt is made when it is asked about, not kept. The manifest says what it must be: the hash of
what was given, the hash of what came out, and the status. Every picture is checked against it when it is made again,
and every answer when it is read, so that another library version, another machine or a damaged file is an error and
not a silent difference between two arms.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from steadyvlm.errors import InvalidOption, PairingError, StoreError
from steadyvlm.perturb.base import SUITE_VERSION, Info, Pixels, Profile, Status, check_profile
from steadyvlm.records import Prediction
from steadyvlm.seeding import bytes_hash

LIBRARIES = ("numpy", "scipy", "pillow", "opencv-python-headless", "nltk", "textblob", "lemminflect")
"""What may change a pixel or a word; their versions stand in the manifest."""

Key = tuple[str, str, str]


@dataclass(frozen=True, slots=True)
class Entry:
    """One sample at one level.

    Attributes:
        task, sample: the clean sample.
        level: `image/fog@2`.
        status: what became of it; of several pictures the weakest.
        given: hashes of the clean pictures, or of the clean prompt.
        became: the same after the change; equal to `given` where nothing changed.
        info: details, such as the name of the fallback.
    """

    task: str
    sample: str
    level: str
    status: Status
    given: tuple[str, ...]
    became: tuple[str, ...]
    info: Info = field(default_factory=dict)

    @property
    def key(self) -> Key:
        """The identity of the perturbed sample: (task, sample id, level)."""
        return (self.task, self.sample, self.level)

    @property
    def asked(self) -> bool:
        """Whether the sample is asked: not where a level could not be applied at all."""
        return self.status != Status.UNAVAILABLE


@dataclass(frozen=True, slots=True)
class Manifest:
    """All perturbed inputs of a study.

    Attributes:
        entries: in the order the samples are listed.
        profile: of the suite.
        suite: version of the suite.
        versions: of the libraries that made the inputs.
    """

    entries: tuple[Entry, ...]
    profile: Profile = "general"
    suite: str = SUITE_VERSION
    versions: Mapping[str, str] = field(default_factory=dict)

    @property
    def statuses(self) -> dict[Key, Status]:
        """Status by (task, sample id, level)."""
        return {entry.key: entry.status for entry in self.entries}

    def to_json(self) -> dict[str, Any]:
        """Return JSON-ready types; `from_json` inverts it."""
        rows = [
            [e.task, e.sample, e.level, str(e.status), list(e.given), list(e.became), dict(e.info)]
            for e in self.entries
        ]
        return {"suite": self.suite, "profile": self.profile, "versions": dict(self.versions), "inputs": rows}

    @staticmethod
    def from_json(value: Any) -> Manifest:
        """Rebuild a manifest.

        Raises:
            StoreError: if it does not hold one.
        """
        try:
            entries = tuple(
                Entry(str(task), str(sample), str(level), Status(status), tuple(given), tuple(became), dict(info))
                for task, sample, level, status, given, became, info in value["inputs"]
            )
            return Manifest(entries, check_profile(value["profile"]), str(value["suite"]), dict(value["versions"]))
        except (KeyError, TypeError, ValueError, InvalidOption) as error:
            raise StoreError(f"the manifest of perturbed inputs is damaged ({error}); run the study again.") from None

    def check(self, predictions: Sequence[Prediction], arm: str) -> None:
        """Verify that every perturbed question of `arm` was asked about the input this manifest names.

        Raises:
            PairingError: if one was not; its answers must not be compared.
        """
        known = {entry.key: entry for entry in self.entries}
        wrong = [row for row in predictions if row.perturbation and not _agrees(row, known.get(row.key))]
        if wrong:
            shown = ", ".join(f"{row.task}/{row.sample_id}@{row.perturbation}" for row in wrong[:3])
            raise PairingError(
                f"{len(wrong):,} perturbed inputs of arm '{arm}' are not those of the manifest ({shown}); "
                "run the study again in a new folder."
            )


def image_hash(pixels: Pixels) -> str:
    """Return the SHA-256 of a picture's size and RGB bytes, the address a perturbed picture has in a study."""
    height, width = pixels.shape[:2]
    return bytes_hash(f"{width}x{height}|".encode("ascii") + pixels.tobytes())


def library_versions() -> dict[str, str]:
    """Return the versions of what the suite is made with; libraries that are not installed are left out."""
    found = {}
    for name in LIBRARIES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def weakest(statuses: Iterable[Status]) -> Status:
    """Return the status of a sample with several pictures: a change is one if any picture changed.

    >>> str(weakest([Status.NOOP, Status.APPLIED])), str(weakest([Status.FALLBACK, Status.APPLIED]))
    ('applied', 'fallback')
    """
    found = set(statuses)
    order = (Status.UNAVAILABLE, Status.FALLBACK, Status.APPLIED, Status.REVERTED, Status.NOOP)
    return next(status for status in order if status in found)


def _agrees(row: Prediction, entry: Entry | None) -> bool:
    if entry is None:
        return False
    if entry.level.startswith("text/"):
        return entry.became == (row.prompt_sha256,)
    return entry.became == row.image_sha256 or not row.image_sha256
