"""The suite: 20 perturbations of pictures at 96 levels, 35 of texts at 87, and the words studies use for them.

    none                     the clean sample
    image/all, text/all      every level of a modality;  image/all@3: its severity 3 (single-level ones left out)
    image/noise              every level of a group
    image/fog                every level of one perturbation
    image/fog@3              one level
    random                   one level per sample, drawn from all 183 by the sample's content

Source: the list of Chen et al. 2023, arXiv 2306.02080, and its released code. That code holds five more text changes
(swap_prefix, mlm_suggestion, two swap_multi_pos, nonsense), which its paper does not count and which are left out.
"""

from __future__ import annotations

from collections.abc import Iterable
from enum import StrEnum

from steadyvlm.errors import ConfigError, UnknownName
from steadyvlm.perturb.base import Level, Modality, Perturbation
from steadyvlm.perturb.streams import TextRandom


class Special(StrEnum):
    """What a study may ask for beside levels."""

    NONE = "none"
    RANDOM = "random"


Entry = Level | Special


def _image(
    group: str, module: str, id: str, label: str, *resources: str, levels: int = 5, det: bool = False
) -> Perturbation:
    path = f"steadyvlm.perturb.image.{module}:{id}"
    return Perturbation(id, label, "image", group, levels, det, path, resources)


def _text(
    group: str, module: str, id: str, label: str, *resources: str, levels: int = 1, det: bool = False
) -> Perturbation:
    path = f"steadyvlm.perturb.text.{module}:{id}"
    return Perturbation(id, label, "text", group, levels, det, path, resources)


IMAGE: tuple[Perturbation, ...] = (
    _image("noise", "noise", "impulse_noise", "Impulse"),
    _image("noise", "noise", "gaussian_noise", "Gaussian"),
    _image("noise", "noise", "shot_noise", "Shot"),
    _image("noise", "noise", "speckle_noise", "Speckle"),
    _image("blur", "zoom", "zoom_blur", "Zoom", det=True),
    _image("blur", "blur", "defocus_blur", "Defocus", det=True),
    _image("blur", "blur", "motion_blur", "Motion"),
    _image("blur", "glass", "glass_blur", "Frosted Glass"),
    _image("blur", "blur", "gaussian_blur", "Gaussian Blur", det=True),
    _image("digital", "digital", "jpeg_compression", "JPEG", det=True),
    _image("digital", "digital", "contrast", "Contrast", det=True),
    _image("digital", "elastic", "elastic_transform", "Elastic"),
    _image("digital", "colour", "saturate", "Saturate", det=True),
    _image("digital", "drops", "spatter", "Spatter"),
    _image("digital", "digital", "pixelate", "Pixelate", det=True),
    _image("weather", "flakes", "snow", "Snow"),
    _image("weather", "ice", "frost", "Frost", "frost"),
    _image("weather", "clouds", "fog", "Fog"),
    _image("weather", "colour", "brightness", "Brightness", det=True),
    _image("blank", "digital", "blank_image", "Blank", levels=1, det=True),
)

TEXT: tuple[Perturbation, ...] = (
    _text("char", "characters", "ocr", "OCR", levels=5),
    _text("char", "characters", "punctuation", "Punct"),
    _text("char", "characters", "typos", "Typos", levels=5),
    _text("char", "characters", "keyboard", "Keyboard", "nlpaug", levels=5),
    _text("char", "characters", "spell_error", "Spelling Error", "nlpaug", levels=5),
    _text("char", "characters", "random_char_insert", "char random insert", levels=5),
    _text("char", "characters", "random_char_replace", "char random replace", levels=5),
    _text("char", "characters", "random_char_swap", "char random swap", levels=5),
    _text("char", "characters", "random_char_delete", "char random delete", levels=5),
    _text("style", "style", "to_passive", "Passive", "style_model"),
    _text("style", "style", "tense", "Tense", "tagger", "lemminflect"),
    _text("style", "style", "to_formal", "Formal", "style_model"),
    _text("style", "style", "to_casual", "Casual", "style_model"),
    _text("style", "style", "to_active", "Active", "style_model"),
    _text("style", "style", "double_denial", "Double Neg", "wordnet", det=True),
    _text("add", "words", "insert_adv", "InsertAdv", "tagger"),
    _text("add", "words", "append_irr", "AppendIrr"),
    _text("add", "words", "random_word_insert", "Random Insert", levels=5),
    _text("drop-by-POS", "drops", "drop_nn", "Drop NN", "tagger", det=True),
    _text("drop-by-POS", "drops", "drop_rand_one_nn", "Drop Rand NN", "tagger"),
    _text("drop-by-POS", "drops", "drop_vb", "DropVB", "tagger", det=True),
    _text("drop-by-POS", "drops", "drop_vb_nn", "Drop VB & NN", "tagger", det=True),
    _text("drop-by-POS", "drops", "only_nn", "Only NN", "tagger", det=True),
    _text("drop-by-POS", "drops", "only_vb", "Only VB", "tagger", det=True),
    _text("drop-by-POS", "drops", "only_vb_nn", "Only NN & VB", "tagger", det=True),
    _text("drop-by-POS", "drops", "drop_rand_one_vb", "Drop Rand VB", "tagger"),
    _text("positional", "words", "drop_first", "Drop First", det=True),
    _text("positional", "words", "drop_last", "Drop Last", det=True),
    _text("positional", "words", "drop_first_and_last", "Drop First and Last", det=True),
    _text("positional", "words", "shuffle_order", "Shuffle Order"),
    _text("positional", "words", "random_word_delete", "Random Delete", levels=5),
    _text("swap", "synonyms", "swap_syn_word_emb", "SwapSyn Word Embd", "tagger", "word_vectors", levels=5),
    _text("swap", "synonyms", "swap_syn_word_net", "SwapSyn WordNet", "tagger", "wordnet", levels=5),
    _text("swap", "synonyms", "back_trans", "Back Trans", "translation_model"),
    _text("swap", "words", "random_word_swap", "Random Swap", levels=5),
)

SUITE: dict[str, Perturbation] = {row.name: row for row in (*IMAGE, *TEXT)}
"""Every perturbation by name, `image/gaussian_noise`, in the paper's order."""

IMAGE_LEVELS: tuple[Level, ...] = tuple(Level(row, at + 1) for row in IMAGE for at in range(row.levels))
TEXT_LEVELS: tuple[Level, ...] = tuple(Level(row, at + 1) for row in TEXT for at in range(row.levels))
LEVELS: tuple[Level, ...] = IMAGE_LEVELS + TEXT_LEVELS

# averages are over the paper's 55 and 183; a row added or lost by accident must stop everything
assert len(IMAGE) == 20
assert len(IMAGE_LEVELS) == 96
assert len(TEXT) == 35
assert len(TEXT_LEVELS) == 87
assert len(SUITE) == 55


def find(name: str) -> Perturbation:
    """Return the perturbation called `image/…` or `text/…`.

    Raises:
        UnknownName: with the closest known name.
    """
    if name not in SUITE:
        raise UnknownName.among("perturbation", name, SUITE)
    return SUITE[name]


def parse(text: str) -> Level:
    """Return the level a text names; a single-level perturbation needs no severity.

    Raises:
        UnknownName: for a perturbation that does not exist.
        InvalidOption: for a severity it does not have.
        ConfigError: if several levels are meant, or the text cannot be read.

    >>> str(parse("image/gaussian_noise@3")), str(parse("text/drop_first"))
    ('image/gaussian_noise@3', 'text/drop_first@1')
    """
    name, severity = _split(text)
    row = find(name)
    if severity is None and row.levels > 1:
        raise ConfigError(f"'{text}' names {row.levels} levels; write one, for example '{name}@3'.")
    return Level(row, 1 if severity is None else severity)


def expand(entries: Iterable[str]) -> tuple[Entry, ...]:
    """Return the levels a study asks for, in the order given, each once.

    Raises:
        UnknownName: for a word, group or perturbation that does not exist.
        InvalidOption: for a severity a perturbation does not have.
        ConfigError: for a text that cannot be read.

    >>> [str(item) for item in expand(["none", "image/fog@2", "image/blank", "random"])]
    ['none', 'image/fog@2', 'image/blank_image@1', 'random']
    """
    found: dict[Entry, None] = {}
    for text in entries:
        found.update(dict.fromkeys(_entries(text)))
    return tuple(found)


def groups(modality: Modality) -> tuple[str, ...]:
    """Return the families of a modality, in the paper's order.

    >>> groups("image")
    ('noise', 'blur', 'digital', 'weather', 'blank')
    """
    return tuple(dict.fromkeys(row.group for row in SUITE.values() if row.modality == modality))


def draw(content: str, *, among: tuple[Level, ...] = LEVELS, seed: int = 0) -> Level:
    """Return the one level `random` stands for, for a sample with this content; every level is equally likely.

    >>> draw("a picture and a question") == draw("a picture and a question")
    True
    """
    return TextRandom(f"random|{content}|{seed}", "level").choice(among)


def _entries(text: str) -> tuple[Entry, ...]:
    if text in set(Special):
        return (Special(text),)
    name, severity = _split(text)
    if name in SUITE:
        row = SUITE[name]
        return tuple(Level(row, at + 1) for at in range(row.levels)) if severity is None else (Level(row, severity),)
    modality, _, group = name.partition("/")
    inside = [row for row in SUITE.values() if row.modality == modality and group in ("all", row.group)]
    if not inside:
        families = {f"{row.modality}/{word}" for row in SUITE.values() for word in ("all", row.group)}
        raise UnknownName.among("perturbation or group", name, {*SUITE, *families, *Special})
    if severity is not None:
        return tuple(Level(row, severity) for row in [row for row in inside if row.levels > 1] or inside)
    return tuple(Level(row, at + 1) for row in inside for at in range(row.levels))


def _split(text: str) -> tuple[str, int | None]:
    name, at, severity = text.strip().partition("@")
    if not at:
        return name, None
    if not severity.isdecimal() or not severity.isascii():
        raise ConfigError(f"cannot read the severity in '{text}'; write for example 'image/gaussian_noise@3'.")
    return name, int(severity)
