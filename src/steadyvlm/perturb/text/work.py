"""What one perturbation of one text is given: the text, its draws, and the models and settings to use."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from steadyvlm.errors import InvalidOption
from steadyvlm.perturb.base import Profile
from steadyvlm.perturb.streams import TextRandom

DROP_TOKEN = "[UNK]"
"""What takes the place of a dropped word. Not the unknown token of BART or T5 (`<unk>`): they split it into pieces."""


@dataclass(frozen=True, slots=True)
class Resources:
    """Models and settings for texts. A model is a folder, or a hub id whose files are in the local cache.

    None of them is needed: a level whose model is not named here, or not there, is rewritten by rules and its result
    says `fallback`. Nothing is ever downloaded, and only weights in safetensors are read.

    Attributes:
        formal_model, casual_model, passive_model, active_model: T5 models of Styleformer.
        adequacy_model: classifier that vetoes a formal or casual rewriting with another meaning.
        forward_model, backward_model: a pair that translates to another language and back.
        vectors: word vectors in the text format of word2vec or GloVe, most frequent words first.
        embedding_model: frozen text model whose input embeddings stand in for word vectors.
        sentence_encoder: model of the fidelity filter; without one the filter is off.
        device: where the models run.
        fallbacks: rewrite by rules where a model or file is missing; otherwise the result is `unavailable`.
        drop_token: what takes the place of a dropped word.
        min_ops: least number of words that random_word_insert, _delete and _swap change. The published rule is 0: they
            do nothing to texts of fewer than ten words at severity 1. With 1 it is another suite; say so.

    Raises:
        InvalidOption: on construction, for settings that cannot be.
    """

    formal_model: str | None = None
    casual_model: str | None = None
    passive_model: str | None = None
    active_model: str | None = None
    adequacy_model: str | None = None
    forward_model: str | None = None
    backward_model: str | None = None
    vectors: Path | None = None
    embedding_model: str | None = None
    sentence_encoder: str | None = None
    device: str = "cpu"
    fallbacks: bool = True
    drop_token: str = DROP_TOKEN
    min_ops: int = 0

    def __post_init__(self) -> None:
        if not self.drop_token.strip() or self.drop_token.split() != [self.drop_token]:
            raise InvalidOption(f"drop_token is {self.drop_token!r}; write one word, for example '[UNK]'.")
        if self.min_ops not in (0, 1):
            raise InvalidOption(f"min_ops is {self.min_ops!r}; write 0 (the published rule) or 1.")
        if (self.forward_model is None) != (self.backward_model is None):
            raise InvalidOption("back translation needs both forward_model and backward_model; name both or neither.")

    @classmethod
    def published(cls, *, device: str = "cpu", fallbacks: bool = True) -> Resources:
        """Return the models the paper used, where they are in the local cache; the fidelity filter is on."""
        return cls(
            formal_model="prithivida/informal_to_formal_styletransfer",
            casual_model="prithivida/formal_to_informal_styletransfer",
            passive_model="prithivida/active_to_passive_styletransfer",
            active_model="prithivida/passive_to_active_styletransfer",
            adequacy_model="prithivida/parrot_adequacy_on_BART",
            forward_model="facebook/wmt19-en-de",
            backward_model="facebook/wmt19-de-en",
            sentence_encoder="sentence-transformers/paraphrase-mpnet-base-v2",
            device=device,
            fallbacks=fallbacks,
        )


@dataclass(frozen=True, slots=True)
class Work:
    """One text at one level.

    Attributes:
        text: what is perturbed.
        severity: 1 to 5; the rate of change is a tenth of it.
        profile: `general` or `paper`.
        key: names all random draws.
        attempt: 0, or how often an earlier draw was rejected.
        resources: models and settings.
        notes: filled with what the result should say: "fallback" and its name, "unavailable" and what is missing, "why"
            when no draw could change the text.
    """

    text: str
    severity: int
    profile: Profile
    key: str
    attempt: int = 0
    resources: Resources = field(default_factory=Resources)
    notes: dict[str, str | int | float] = field(default_factory=dict)

    @property
    def paper(self) -> bool:
        """Whether the released generator is imitated."""
        return self.profile == "paper"

    def draws(self, name: str) -> TextRandom:
        """Return the stream of one independent draw."""
        return TextRandom(self.key, name, attempt=self.attempt)

    def share(self, count: int) -> int:
        """Return a tenth of `count` for each step of severity, rounded down; whole numbers only."""
        return count * self.severity // 10

    def unchanged(self, why: str) -> str:
        """Return the text as it is, and note why no draw can change it."""
        self.notes["why"] = why
        return self.text

    def missing(self, what: str) -> str:
        """Return the text as it is, and note that `what` is missing and has no substitute."""
        self.notes["unavailable"] = what
        return self.text

    def substituted(self, what: str, name: str) -> bool:
        """Note that `name` takes the place of the missing `what`; False where substitutes are not allowed."""
        allowed = self.resources.fallbacks
        self.notes["fallback" if allowed else "unavailable"] = name if allowed else what
        return allowed
