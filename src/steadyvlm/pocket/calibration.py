"""Pocket's own calibration sets: scenes no benchmark shows and no pocket model was trained or chosen on.

Scenes look as the benchmark's do (its noise, its pale paint) but come from a seed stream of their own: validation
scenes from number 1000 on, of which the validation split uses the first 200. Their digits are in handwritings that no
test scene shows.

    pocket         a question per scene, all families equally often
    pocket-mixed   a fifth each: things seen, text without a picture, words and digits to read, options, counting; the
                   counterpart of the mixture QUOTA's authors calibrate Qwen2.5-VL on
    pocket-text    text alone

The files beside this one are frozen; `python -m steadyvlm.pocket.calibration` writes them again, and a test compares.
"""

from __future__ import annotations

import functools
import itertools
import re
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np

from steadyvlm.calibration.sets import FORMAT, CalibrationSample, SetFile, to_json
from steadyvlm.errors import ImageError
from steadyvlm.models.fingerprint import folder_sha256
from steadyvlm.pocket.benchmark import PocketImage, scene_samples
from steadyvlm.pocket.questions import FAMILIES, binding
from steadyvlm.pocket.scenes import make_scene
from steadyvlm.pocket.weights import ARCHITECTURES, FOLDER
from steadyvlm.seeding import stable_seed

DATA = Path(__file__).parent / "data" / "calibration"
FIRST = 1000
"""Number of the first scene; below lie the validation split's."""
_NAME = re.compile(r"validation/([1-9]\d{3})")
_SEEN = ("colour", "shape", "relation", "position", "existence-random", "existence-popular", "existence-adversarial")
_MIXED = {"general": _SEEN, "text": (), "reading": ("word", "digit"), "options": ("choice",), "counting": ("counting",)}
_OWN = {"llava": "pocket", "llava_next": "pocket", "qwen2_5_vl": "pocket-mixed"}


def general_path() -> Path:
    """Return the file of set "pocket"."""
    return DATA / "pocket.json"


def mixed_path() -> Path:
    """Return the file of set "pocket-mixed"."""
    return DATA / "pocket-mixed.json"


def text_path() -> Path:
    """Return the file of set "pocket-text"."""
    return DATA / "pocket-text.json"


def image(name: str) -> PocketImage:
    """Return the scene a sample names.

    Raises:
        ImageError: for a name that is no scene of these sets.

    >>> image("validation/1003").load().size
    (96, 96)
    """
    match = _NAME.fullmatch(name)
    if match is None:
        raise ImageError(f"pocket has no calibration scene '{name}'; scenes are named 'validation/1000' and so on.")
    return PocketImage("validation", int(match[1]))


@functools.cache
def set_of(weights_sha256: str) -> str | None:
    """Return the set that belongs to the pocket model with this content hash; None for any other model."""
    for architecture in ARCHITECTURES:
        if (FOLDER / architecture / "config.json").is_file() and _hash(architecture) == weights_sha256:
            return _OWN[architecture]
    return None


@functools.cache
def _hash(architecture: str) -> str:
    return folder_sha256(FOLDER / architecture)


def make_set(name: str, count: int) -> SetFile:
    """Return the first `count` samples of a set, made from scratch, with the number of each group equal.

    >>> [sample.group for sample in make_set("pocket-mixed", 5).samples]
    ['general', 'text', 'reading', 'options', 'counting']
    """
    makers: dict[str, Callable[[], Iterator[CalibrationSample]]] = {
        "pocket": lambda: _in_turn({family: (family,) for family in FAMILIES}),
        "pocket-mixed": lambda: _in_turn(_MIXED),
        "pocket-text": lambda: _in_turn({"text": ()}),
    }
    samples = tuple(itertools.islice(makers[name](), count))
    about = f"Pocket validation scenes from {FIRST} on; made by steadyvlm.pocket.calibration."
    return SetFile(FORMAT, 1, name, about, None, "pocket", samples)


def _in_turn(groups: dict[str, tuple[str, ...]]) -> Iterator[CalibrationSample]:
    """Yield a sample of each group in turn, each from the next scene that has one."""
    scene, turns = FIRST, dict.fromkeys(groups, 0)
    for group in itertools.cycle(groups):
        found = None
        while found is None:
            found = _sample(scene, group, groups[group], turns[group])
            scene += 1
        turns[group] += 1
        yield found


def _sample(scene: int, group: str, families: tuple[str, ...], turn: int) -> CalibrationSample | None:
    """Ask the scene a question of the family whose turn it is; without families one that needs no picture."""
    if not families:
        return CalibrationSample(f"validation-{scene}-text", _text(scene, turn), None, None, group)
    asked = [item for item in scene_samples("validation", scene) if item.family == families[turn % len(families)]]
    if not asked:
        return None
    sample = asked[turn // len(families) % len(asked)]  # options in another order each time
    name = f"validation/{scene}"
    return CalibrationSample(sample.id, sample.prompt, name, image(name).sha256(), group)


def _text(scene: int, turn: int) -> str:
    """Return a letter to find among options, or every second time a question whose picture is left out."""
    questions = scene_samples("validation", scene)
    if turn % 2 and questions:
        return questions[turn % len(questions)].prompt
    found = binding(np.random.default_rng(stable_seed("pocket-calibration-text", scene)), make_scene("train", 0))
    assert found is not None, "options can always be bound"
    return found.prompt


SIZES = {"pocket": 36 * len(FAMILIES), "pocket-mixed": 78 * len(_MIXED), "pocket-text": 384}
"""Three draws of 128, nearly; whole rounds of all groups."""


def write_sets(folder: Path = DATA) -> None:
    """Write all sets into `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, count in SIZES.items():
        (folder / f"{name}.json").write_text(to_json(make_set(name, count)), encoding="utf-8")


if __name__ == "__main__":
    write_sets()
