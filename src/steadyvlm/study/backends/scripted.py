"""Answer from a Python function instead of a model: for trying a task, a study file or a report without weights.

Everything around the model is real: addresses, batches, failures, the store, resuming.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from steadyvlm.records import Cost, Failure, Generation, Sample, TokenLogprob
from steadyvlm.seeding import content_hash

Script = Callable[[str, Sample], str | Failure]
"""From a canonical recipe and a sample to a text or a failure; it may also raise, as a model may."""


@dataclass(frozen=True, slots=True)
class ScriptedArm:
    """One recipe of a script."""

    script: Script
    recipe: str
    dtype: str

    def answer_batch(
        self, samples: Sequence[Sample], *, max_new_tokens: int, stop: tuple[str, ...]
    ) -> list[Generation | Failure]:
        """Return what the script says; images are loaded, as a model would load them."""
        outcomes: list[Generation | Failure] = []
        for sample in samples:
            for image in sample.images:
                image.load()
            outcome = self.script(self.recipe, sample)
            outcomes.append(outcome if isinstance(outcome, Failure) else generation(outcome))
        return outcomes

    def provenance(self) -> Mapping[str, Any]:
        """Return that nothing ran."""
        return {"device": "none", "dtype": self.dtype, "attention": "none", "versions": {}, "extra": {}}

    def sizes(self) -> None:
        """Return that there is no model to count."""


@dataclass(frozen=True, slots=True)
class ScriptedSession:
    """A session whose "weights" are names: the model's, and that of the recipe's checkpoint if it has one.

    >>> session = ScriptedSession("toy", lambda recipe, sample: "yes")
    >>> session.arm("keep_all").recipe
    'keep_all'
    """

    model: str
    script: Script
    dtype: str = "float32"

    def resolve(self, recipe: str) -> str:
        """Return the preset as published: a script has no other shape."""
        from steadyvlm.recipes.recipe import Recipe
        from steadyvlm.reduction.presets import Shape

        return str(Recipe.parse(recipe).resolve(Shape())[0])

    def weights_sha256(self, recipe: str) -> str:
        """Return the hash of those names."""
        return content_hash([self.model, recipe if "checkpoint(" in recipe else ""])

    def arm(self, recipe: str) -> ScriptedArm:
        """Return the script under `recipe`."""
        return ScriptedArm(self.script, recipe, self.dtype)


@dataclass(frozen=True, slots=True)
class ScriptedLoader:
    """A loader for `steadyvlm.study.runner.run` that needs no model."""

    script: Script

    def __call__(self, model: str, *, device: str, dtype: str) -> ScriptedSession:
        """Open a session; "auto" is float32."""
        return ScriptedSession(model, self.script, "float32" if dtype == "auto" else dtype)


def generation(text: str) -> Generation:
    """Return a plausible generation of `text`: one token per word, no image."""
    words = text.split() or [""]
    ids = tuple(int(content_hash(word)[:4], 16) for word in words)
    top = (TokenLogprob(ids[0], words[0], -0.25), TokenLogprob(ids[0] + 1, "?", -1.5))
    cost = Cost(1.0, 8, len(ids), (), 0)
    return Generation(text, ids, "eos", top, top[0].logprob - top[1].logprob, (), cost)
