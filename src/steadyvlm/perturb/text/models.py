"""Trained models that rewrite or compare texts, where they are there; transformers and torch are imported by name.

A model is a folder, or a hub id whose files are in the local cache. Nothing is downloaded, no remote code runs, and
only weights in safetensors are read. Decoding searches five beams up to 128 tokens in float32.

Source: Styleformer's four T5 models and its filter of adequacy; wmt19 for back translation; paraphrase-mpnet for the
fidelity filter, as Chen et al. 2023 (arXiv 2306.02080) use them.

Differs: the reference samples (top-k 50, top-p 0.95) and cuts off after 32 tokens, which loses the end of long
statements; a sampled rewriting also differs from one machine to the next.
"""

from __future__ import annotations

import importlib
from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal

import numpy as np

from steadyvlm.errors import CheckpointError
from steadyvlm.perturb.text.vectors import NEAREST, nearest, unit
from steadyvlm.perturb.text.work import Resources

Style = Literal["formal", "casual", "passive", "active"]
BEAMS = 5
LONGEST = 128
ADEQUATE = 0.95
"""A formal or casual rewriting must be this likely to mean the same."""
FAITHFUL = 0.2
"""Least absolute cosine between the embeddings of a text and its perturbed version."""
_PROMPTS: dict[Style, str] = {
    "formal": "transfer Casual to Formal: ",
    "casual": "transfer Formal to Casual: ",
    "passive": "transfer Active to Passive: ",
    "active": "transfer Passive to Active: ",
}
_VETTED = ("formal", "casual")
_MARKS = ("▁", "Ġ", "</w>")
"""What tokenizers put before or behind a token that is a whole word."""
_CANDIDATES = 200
_LEAST_EDITS = 3


def restyled(text: str, style: Style, resources: Resources) -> str | None:
    """Return a text in another style, itself where no rewriting is adequate, or None where there is no model.

    Raises:
        CheckpointError: if a folder named in `resources` holds no usable weights.
    """
    place: str | None = getattr(resources, f"{style}_model")
    found = _loaded("AutoModelForSeq2SeqLM", place, resources.device)
    if found is None:
        return None
    judge = _loaded("AutoModelForSequenceClassification", resources.adequacy_model, resources.device)
    if style not in _VETTED or judge is None:
        return _generated(found, _PROMPTS[style] + text, 1)[0]
    options = _generated(found, _PROMPTS[style] + text, BEAMS)
    scores = [_adequacy(judge, text, option) for option in options]
    best = max(range(len(options)), key=lambda at: scores[at])
    return options[best] if scores[best] >= ADEQUATE else text


def translated_and_back(text: str, resources: Resources) -> str | None:
    """Return a text translated and translated back, or None where one of the models is missing.

    Raises:
        CheckpointError: if a folder named in `resources` holds no usable weights.
    """
    there = _loaded("AutoModelForSeq2SeqLM", resources.forward_model, resources.device)
    back = _loaded("AutoModelForSeq2SeqLM", resources.backward_model, resources.device)
    if there is None or back is None:
        return None
    return _generated(back, _generated(there, text, 1)[0], 1)[0]


def faithful(text: str, changed: str, resources: Resources) -> bool | None:
    """Tell whether a change kept the meaning by the measure of the paper; None where there is no encoder.

    Raises:
        CheckpointError: if a folder named in `resources` holds no usable weights.
    """
    found = _loaded("AutoModel", resources.sentence_encoder, resources.device)
    if found is None:
        return None
    one, other = _embedded(resources, text), _embedded(resources, changed)
    return abs(float(one @ other)) >= FAITHFUL


class EmbeddingNeighbours:
    """Neighbours of a word among a text model's input embeddings, found when asked for.

    Tokens that are whole words in small letters take part. Of the 20 nearest, none may be within two edits of the word,
    which drops its inflections.
    """

    def __init__(self, tokenizer: Any, model: Any) -> None:
        numbers = {}
        for token, number in tokenizer.get_vocab().items():
            bare = token.removeprefix("▁").removeprefix("Ġ").removesuffix("</w>")
            if bare != token and bare.isalpha() and bare.islower() and len(bare) > 1:
                numbers[bare] = number
        self._words = sorted(numbers)
        self._row = {word: row for row, word in enumerate(self._words)}
        weights = model.get_input_embeddings().weight.detach().cpu().numpy().astype(np.float32)
        self._matrix = unit(weights[[numbers[word] for word in self._words]])

    @lru_cache(maxsize=65536)  # noqa: B019 - lives as long as the model, of which there is one
    def get(self, word: str, default: tuple[str, ...] = ()) -> tuple[str, ...]:
        """Return the neighbours of a word, or `default` where it is none of the tokens."""
        row = self._row.get(word)
        if row is None:
            return default
        others = (self._words[other] for other in nearest(self._matrix, np.array([row]), _CANDIDATES)[0])
        return tuple([other for other in others if _edits(word, other) >= _LEAST_EDITS][:NEAREST])


def embedding_neighbours(resources: Resources) -> EmbeddingNeighbours | None:
    """Return the neighbours among a frozen model's input embeddings, or None where no such model is there.

    Raises:
        CheckpointError: if a folder named in `resources` holds no usable weights.
    """
    return _neighbours(resources.embedding_model, resources.device)


@lru_cache(maxsize=2)
def _neighbours(place: str | None, device: str) -> EmbeddingNeighbours | None:
    found = _loaded("AutoModel", place, device)
    return None if found is None else EmbeddingNeighbours(*found)


@lru_cache(maxsize=8)
def _loaded(kind: str, place: str | None, device: str) -> tuple[Any, Any] | None:
    """Return tokenizer and model, or None where the model, transformers or torch is not there."""
    if place is None or find_spec("transformers") is None or find_spec("torch") is None:
        return None
    folder = Path(place).expanduser()
    if folder.is_dir() and not any(folder.glob("*.safetensors")):
        raise CheckpointError(
            f"'{folder}' holds no weights in safetensors; pickled weights can run code and are never read. Convert "
            "them: load the model where you trust it and call save_pretrained."
        )
    library = importlib.import_module("transformers")
    options = {"local_files_only": True, "trust_remote_code": False}
    where = str(folder) if folder.is_dir() else place
    try:
        tokenizer = library.AutoTokenizer.from_pretrained(where, **options)
        model = getattr(library, kind).from_pretrained(where, use_safetensors=True, **options)
    except (OSError, ValueError):
        if folder.is_dir():
            raise CheckpointError(
                f"'{folder}' could not be read as {kind.removeprefix('Auto')} with its tokenizer; it needs "
                "config.json, model.safetensors and the tokenizer's files, as save_pretrained writes them."
            ) from None
        return None
    return tokenizer, model.float().to(device).eval()


def _generated(found: tuple[Any, Any], text: str, count: int) -> list[str]:
    tokenizer, model = found
    torch = importlib.import_module("torch")
    inputs = tokenizer(text, return_tensors="pt", truncation=True, max_length=512).to(model.device)
    with torch.inference_mode():
        rows = model.generate(
            input_ids=inputs["input_ids"],
            attention_mask=inputs["attention_mask"],
            num_beams=BEAMS,
            do_sample=False,
            max_length=LONGEST,
            num_return_sequences=count,
        )
    return [str(line).strip() for line in tokenizer.batch_decode(rows, skip_special_tokens=True)]


def _adequacy(judge: tuple[Any, Any], text: str, changed: str) -> float:
    """Return the probability of the second of two labels: that both say the same."""
    tokenizer, model = judge
    torch = importlib.import_module("torch")
    inputs = tokenizer(text, changed, return_tensors="pt", truncation=True, max_length=LONGEST).to(model.device)
    with torch.inference_mode():
        logits = model(**inputs).logits
    return float(logits[:, :2].softmax(dim=1)[0, 1])


@lru_cache(maxsize=4096)
def _embedded(resources: Resources, text: str) -> Any:
    """Return the mean of the last layer's rows as a unit vector."""
    found = _loaded("AutoModel", resources.sentence_encoder, resources.device)
    assert found is not None
    tokenizer, model = found
    torch = importlib.import_module("torch")
    inputs = tokenizer(text, return_tensors="pt", truncation=True, max_length=512).to(model.device)
    with torch.inference_mode():
        rows = model(input_ids=inputs["input_ids"], attention_mask=inputs["attention_mask"]).last_hidden_state[0]
    return unit(rows.mean(dim=0, keepdim=True).cpu().numpy())[0]


def _edits(one: str, other: str) -> int:
    """Return how many letters to insert, delete or replace between two words.

    >>> _edits("cat", "cart"), _edits("dog", "cat")
    (1, 3)
    """
    row = list(range(len(other) + 1))
    for at, letter in enumerate(one, 1):
        above, row = row, [at]
        for place, wanted in enumerate(other, 1):
            row.append(min(above[place] + 1, row[-1] + 1, above[place - 1] + (letter != wanted)))
    return row[-1]
