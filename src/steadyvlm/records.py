"""What was asked and what was answered, as plain values.

Once a `Prediction` exists, nothing that compares, tests or draws it needs torch or the model. All records are
frozen, made of JSON types, and carry a schema version so that an old store is recognised, never misread.
Images stay out of the records: a sample holds an `ImageRef` that can load its picture, a prediction only the hash.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol, runtime_checkable

from steadyvlm.errors import SampleError
from steadyvlm.seeding import content_hash

SCHEMA_VERSION = 1

AnswerKind = Literal["open", "open_ten", "choice", "yes_no"]
"""open: one reference; open_ten: ten annotators, soft score; choice: option letters; yes_no."""

StopReason = Literal["eos", "stop", "length"]

UNPARSED = "<unparsed>"
"""Canonical answer of a text from which no answer could be read."""


@runtime_checkable
class ImageRef(Protocol):
    """A picture that can be loaded when needed; implementations live in `steadyvlm.tasks.sources`."""

    def load(self) -> Any:
        """Return the picture as an RGB `PIL.Image.Image`; raises ImageError when it cannot be read safely."""

    def sha256(self) -> str:
        """Return the SHA-256 of the encoded bytes; raises ImageError when they cannot be read."""


@dataclass(frozen=True, slots=True)
class Sample:
    """One question about zero or more images.

    Attributes:
        id: unique within its task.
        task: name of the task it belongs to.
        question: the bare question, as shown to a person.
        prompt: the text sent to the model's chat template (question, options and answer instruction).
        kind: how the answer is read and graded.
        references: gold answers. One for open, choice (the option *letter*) and yes_no; several for open_ten.
        choices: option texts in the order A, B, C, …; empty unless kind is choice.
        images: pictures, in prompt order.
        cluster: samples with the same cluster are not independent (normally: the image id).
        family: the slice of the task this sample belongs to ("counting", "reading words", …).
        group: rotations of one multiple-choice question share a group; empty otherwise.
        perturbation: name and severity of the change applied, "" for the clean sample.
        parent: id of the clean sample a perturbed one came from.
    """

    id: str
    task: str
    question: str
    prompt: str
    kind: AnswerKind
    references: tuple[str, ...]
    choices: tuple[str, ...] = ()
    images: tuple[ImageRef, ...] = ()
    cluster: str = ""
    family: str = ""
    group: str = ""
    perturbation: str = ""
    parent: str = ""

    def __post_init__(self) -> None:
        if not self.id:
            raise SampleError(f"a sample of task '{self.task}' has an empty id; give each sample a unique id.")
        if not self.question.strip() or not self.prompt.strip():
            raise SampleError(f"sample '{self.id}' of task '{self.task}' has an empty question; remove or fill it.")

    def prompt_sha256(self) -> str:
        """Return the hash of the exact prompt text."""
        return content_hash(self.prompt)


@dataclass(frozen=True, slots=True)
class Grade:
    """What a scorer made of a text.

    Attributes:
        answer: canonical form that is compared between runs; `UNPARSED` if none could be read.
        score: in [0, 1] against the references.
    """

    answer: str
    score: float

    @property
    def parsed(self) -> bool:
        """Whether an answer could be read from the text."""
        return self.answer != UNPARSED


@dataclass(frozen=True, slots=True)
class TokenLogprob:
    """One candidate for the first answer token; `logprob` in nats."""

    token_id: int
    token: str
    logprob: float


@dataclass(frozen=True, slots=True)
class KeptTokens:
    """Which visual tokens of one image are still processed from `layer` on.

    Attributes:
        layer: 0 for a selection after the encoder, else the decoder layer it acted before.
        image: index of the image in the prompt.
        indices: numbers of the retained visual tokens of that image: raster indices, tile after tile; the CLS row of
            tile t is -1 - t, and newlines of a tiled image follow the last tile (see `reduction.layout`).
        merged: for each retained slot the number of extra tokens merged into it; empty when nothing merges.
    """

    layer: int
    image: int
    indices: tuple[int, ...]
    merged: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class Cost:
    """What one answer cost.

    Attributes:
        time_ms: wall time of the batch divided by its samples, in milliseconds.
        prompt_tokens: prompt length before any reduction, visual tokens included.
        generated_tokens: tokens produced, the end token included.
        visual_tokens_per_layer: visual tokens each decoder layer really processed in prefill.
        cache_bytes: bytes of keys and values held for this sample when it stopped.
        image_grids: (tiles, height, width) of each encoded picture, in patches of the vision tower before any merging.
        connector_tokens: rows that went through the connector between tower and decoder.
        text_tokens: prompt tokens that are not visual; each decoder layer processed these and its visual ones.
        image_cuts: (rows, columns) of the mosaic of crops and (top, left, bottom, right) of its window in tokens, for
            each picture; empty when no picture was cut into tiles.

    The last four are 0 or empty in records written before they were kept.
    """

    time_ms: float
    prompt_tokens: int
    generated_tokens: int
    visual_tokens_per_layer: tuple[int, ...]
    cache_bytes: int
    image_grids: tuple[tuple[int, int, int], ...] = ()
    connector_tokens: int = 0
    text_tokens: int = 0
    image_cuts: tuple[tuple[int, int, int, int, int, int], ...] = ()


@dataclass(frozen=True, slots=True)
class Generation:
    """One answer as the engine produced it.

    Attributes:
        text: decoded answer without special tokens, stripped.
        token_ids: generated ids, the end token included if it was produced.
        stop_reason: eos, stop (a stop string) or length.
        top: candidates for the first answer token, most likely first.
        margin: log-probability of the first candidate minus the second, in nats.
    """

    text: str
    token_ids: tuple[int, ...]
    stop_reason: StopReason
    top: tuple[TokenLogprob, ...]
    margin: float
    kept: tuple[KeptTokens, ...]
    cost: Cost


@dataclass(frozen=True, slots=True)
class Failure:
    """Why a sample has no answer. `kind` is the exception's class name."""

    kind: str
    message: str


@dataclass(frozen=True, slots=True)
class Prediction:
    """One sample's answer with everything needed to compare, test and draw it later.

    Exactly one of `generation` and `failure` explains the text, except for imported logs, which have neither:
    there only `text`, `answer` and `score` are known.
    """

    sample_id: str
    task: str
    kind: AnswerKind
    question: str
    prompt_sha256: str
    image_sha256: tuple[str, ...]
    references: tuple[str, ...]
    choices: tuple[str, ...]
    cluster: str
    family: str
    text: str
    answer: str
    score: float
    group: str = ""
    perturbation: str = ""
    parent: str = ""
    generation: Generation | None = None
    failure: Failure | None = None

    @property
    def key(self) -> tuple[str, str, str]:
        """Identity of the question within a comparison: (task, sample id, perturbation)."""
        return (self.task, self.sample_id, self.perturbation)

    @property
    def content(self) -> tuple[object, ...]:
        """What must be equal on both sides before their answers may be compared."""
        return (self.prompt_sha256, self.image_sha256, self.references, self.choices, self.kind)

    def to_json(self) -> dict[str, Any]:
        """Return JSON-ready types; `from_json` inverts it exactly."""
        return dataclasses.asdict(self)

    @staticmethod
    def from_json(row: Mapping[str, Any]) -> Prediction:
        """Rebuild a prediction from `to_json` output or a store row."""
        values = {name: row[name] for name in _FIELDS if name in row}
        for name in ("image_sha256", "references", "choices"):
            values[name] = tuple(values[name])
        if values.get("generation") is not None:
            values["generation"] = _generation(values["generation"])
        if values.get("failure") is not None:
            values["failure"] = Failure(**values["failure"])
        return Prediction(**values)


@dataclass(frozen=True, slots=True)
class Provenance:
    """Everything that was not meant to change an answer, but might.

    Attributes:
        versions: library name to version.
        device, dtype, attention: where and how the model ran.
        batch_size, order: how samples were grouped.
        seed: the run's seed.
        extra: anything a backend adds (threads, GPU name, engine flags).
    """

    versions: Mapping[str, str]
    device: str
    dtype: str
    attention: str
    batch_size: int
    order: str = "given"
    seed: int = 0
    extra: Mapping[str, str] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """Return JSON-ready types."""
        return dataclasses.asdict(self)


def _generation(row: Mapping[str, Any]) -> Generation:
    cost = dict(row["cost"])
    cost["visual_tokens_per_layer"] = tuple(cost["visual_tokens_per_layer"])
    cost["image_cuts"] = tuple(tuple(cut) for cut in cost.get("image_cuts") or ())
    cost["image_grids"] = tuple((tiles, height, width) for tiles, height, width in cost.get("image_grids") or ())
    return Generation(
        text=row["text"],
        token_ids=tuple(row["token_ids"]),
        stop_reason=row["stop_reason"],
        top=tuple(TokenLogprob(**item) for item in row["top"]),
        margin=row["margin"],
        kept=tuple(
            KeptTokens(item["layer"], item["image"], tuple(item["indices"]), tuple(item["merged"]))
            for item in row["kept"]
        ),
        cost=Cost(**cost),
    )


_FIELDS = tuple(item.name for item in dataclasses.fields(Prediction))
