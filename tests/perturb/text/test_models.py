"""Trained models: tiny ones from a folder are really run; missing, unsafe and broken ones are told apart."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer, pre_tokenizers
from tokenizers import models as tokenizer_models
from transformers import (
    BertConfig,
    BertForSequenceClassification,
    BertModel,
    PreTrainedTokenizerFast,
    T5Config,
    T5ForConditionalGeneration,
)

from steadyvlm.errors import CheckpointError, InvalidOption
from steadyvlm.perturb.text import Resources, apply_text, models, vectors

_VOCABULARY = "<pad> </s> <unk> [CLS] transfer Casual Formal to : Active Passive is the man dog cat holding a red bus ?"
WORDS = _VOCABULARY.split()
TEXT = "is the man holding a red bus ?"


def save_tokenizer(folder: Path, words: list[str]) -> None:
    tokenizer = Tokenizer(tokenizer_models.WordLevel({word: at for at, word in enumerate(words)}, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="<pad>", eos_token="</s>", unk_token="<unk>")
    fast.model_input_names = ["input_ids", "attention_mask"]
    fast.save_pretrained(folder)


def save_t5(folder: Path, seed: int) -> str:
    torch.manual_seed(seed)
    config = T5Config(
        vocab_size=len(WORDS), d_model=16, d_kv=8, d_ff=16, num_layers=1, num_heads=2, decoder_start_token_id=0
    )
    T5ForConditionalGeneration(config).save_pretrained(folder)
    save_tokenizer(folder, WORDS)
    return str(folder)


def bert_config(words: list[str]) -> BertConfig:
    return BertConfig(
        vocab_size=len(words), hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16
    )


@pytest.fixture(autouse=True)
def _short(monkeypatch: pytest.MonkeyPatch) -> None:
    """Untrained models never stop by themselves."""
    assert (models.BEAMS, models.LONGEST) == (5, 128)
    monkeypatch.setattr(models, "LONGEST", 10)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("models")


@pytest.fixture(scope="module")
def t5(folder: Path) -> str:
    return save_t5(folder / "t5", 0)


@pytest.fixture(scope="module")
def judges(folder: Path) -> dict[bool, str]:
    """Classifiers that find every rewriting adequate, or none."""
    found = {}
    for verdict in (True, False):
        torch.manual_seed(0)
        model = BertForSequenceClassification(bert_config(WORDS))
        with torch.no_grad():
            model.classifier.weight.zero_()
            model.classifier.bias.copy_(torch.tensor([0.0, 20.0 if verdict else -20.0]))
        place = folder / f"judge-{verdict}"
        model.save_pretrained(place)
        save_tokenizer(place, WORDS)
        found[verdict] = str(place)
    return found


@pytest.fixture(scope="module")
def encoder(folder: Path) -> str:
    torch.manual_seed(0)
    BertModel(bert_config(WORDS)).save_pretrained(folder / "encoder")
    save_tokenizer(folder / "encoder", WORDS)
    return str(folder / "encoder")


def best_beam(place: str, prompt: str) -> str:
    """What transformers itself answers with five beams."""
    model = T5ForConditionalGeneration.from_pretrained(place).eval()
    tokenizer = PreTrainedTokenizerFast.from_pretrained(place)
    ids = tokenizer(prompt, return_tensors="pt")["input_ids"]
    with torch.inference_mode():
        row = model.generate(input_ids=ids, num_beams=5, do_sample=False, max_length=models.LONGEST)[0]
    return str(tokenizer.decode(row, skip_special_tokens=True)).strip()


@pytest.mark.parametrize(
    ("id", "prompt"),
    [
        ("to_formal", "transfer Casual to Formal: "),
        ("to_casual", "transfer Formal to Casual: "),
        ("to_passive", "transfer Active to Passive: "),
        ("to_active", "transfer Passive to Active: "),
    ],
)
def test_a_style_model_is_asked_with_its_prompt(id: str, prompt: str, t5: str) -> None:
    resources = Resources(formal_model=t5, casual_model=t5, passive_model=t5, active_model=t5)
    result = apply_text(TEXT, id, 1, resources=resources)
    assert "fallback" not in result.info
    assert result.text == (best_beam(t5, prompt + TEXT) or TEXT)
    assert result == apply_text(TEXT, id, 1, resources=resources)


def test_an_inadequate_rewriting_is_not_taken(t5: str, judges: dict[bool, str]) -> None:
    vetoed = apply_text(TEXT, "to_formal", 1, resources=Resources(formal_model=t5, adequacy_model=judges[False]))
    assert (vetoed.text, vetoed.status, vetoed.info["why"]) == (TEXT, "noop", "no formal form")
    found = models._loaded("AutoModelForSeq2SeqLM", t5, "cpu")
    assert found is not None
    options = models._generated(found, "transfer Casual to Formal: " + TEXT, models.BEAMS)
    assert len(options) == models.BEAMS
    passed = apply_text(TEXT, "to_formal", 1, resources=Resources(formal_model=t5, adequacy_model=judges[True]))
    assert passed.text == (options[0] or TEXT)
    # No one vets voices.
    voice = Resources(passive_model=t5, adequacy_model=judges[False])
    assert models.restyled(TEXT, "passive", voice) == best_beam(t5, "transfer Active to Passive: " + TEXT)


def test_back_translation_runs_both_models(t5: str, folder: Path) -> None:
    back = save_t5(folder / "back", 1)
    resources = Resources(forward_model=t5, backward_model=back)
    expected = best_beam(back, best_beam(t5, TEXT))
    assert models.translated_and_back(TEXT, resources) == expected
    result = apply_text(TEXT, "back_trans", 1, resources=resources)
    assert "fallback" not in result.info
    assert result.text == (expected or TEXT)


def test_the_fidelity_filter_redraws_and_reverts(encoder: str, monkeypatch: pytest.MonkeyPatch) -> None:
    resources = Resources(sentence_encoder=encoder)
    near = apply_text(TEXT, "random_word_swap", 5, resources=resources)
    assert (near.status, near.info["fidelity"]) == ("applied", "passed")
    same = apply_text(TEXT, "random_word_swap", 1, resources=resources)
    assert (same.status, same.info["fidelity"]) == ("noop", "passed")
    monkeypatch.setattr(models, "FAITHFUL", 2.0)
    lost = apply_text(TEXT, "random_word_swap", 5, resources=resources)
    assert (lost.text, lost.status, lost.info["fidelity"], lost.info["attempt"]) == (TEXT, "reverted", "failed", 99)
    fixed = apply_text(TEXT, "drop_first", 1, resources=resources)
    assert (fixed.status, "attempt" in fixed.info) == ("reverted", False)


def test_a_draw_that_is_rejected_is_drawn_again(encoder: str, monkeypatch: pytest.MonkeyPatch) -> None:
    first = apply_text(TEXT, "shuffle_order", 1)
    verdicts = iter([False, False, True])
    monkeypatch.setattr(models, "faithful", lambda *_: next(verdicts))
    result = apply_text(TEXT, "shuffle_order", 1, resources=Resources(sentence_encoder=encoder))
    assert (result.status, result.info["attempt"]) == ("applied", 2)
    assert result.text != first.text


def test_embeddings_are_means_of_the_last_layer(encoder: str) -> None:
    model = BertModel.from_pretrained(encoder).eval()
    ids = torch.tensor([[WORDS.index(word) for word in TEXT.split()]])
    with torch.inference_mode():
        mean = model(input_ids=ids).last_hidden_state[0].mean(0).numpy()
    ours = models._embedded(Resources(sentence_encoder=encoder), TEXT)
    np.testing.assert_allclose(ours, mean / np.linalg.norm(mean), atol=1e-5)


def test_a_models_embeddings_stand_in_for_vectors(folder: Path) -> None:
    words = [*WORDS[:4], *(f"▁{word}" for word in ("dog", "dogs", "horse", "sheep", "runs", "Paris", "a")), "ing"]
    place = folder / "embeddings"
    torch.manual_seed(0)
    model = BertModel(bert_config(words))
    with torch.no_grad():
        weight = model.embeddings.word_embeddings.weight
        weight.zero_()
        for at in range(len(words)):
            weight[at, 0], weight[at, 1] = np.cos(at / 9), np.sin(at / 9)
    model.save_pretrained(place)
    save_tokenizer(place, words)
    resources = Resources(embedding_model=str(place))
    near = models.embedding_neighbours(resources)
    assert near is not None
    assert near.get("dog", ()) == ("horse", "sheep", "runs")  # "dogs" is one edit away; "Paris", "a", "ing" are out
    assert near.get("bus", ()) == ()
    results = [apply_text("Is it a dog?", "swap_syn_word_emb", 1, seed=seed, resources=resources) for seed in range(20)]
    assert {result.text for result in results} == {"Is it a horse?", "Is it a sheep?"}
    assert {(str(result.status), result.info["fallback"]) for result in results} == {("fallback", "model-embedding")}
    strict = Resources(embedding_model=str(place), fallbacks=False)
    assert apply_text("Is it a dog?", "swap_syn_word_emb", 1, resources=strict).status == "unavailable"


def test_what_is_not_there_is_done_without(tmp_path: Path) -> None:
    named = Resources.published()
    assert named.formal_model is not None
    missing = Resources(formal_model="nobody/not-in-the-cache", passive_model=str(tmp_path / "nothing"))
    for id in ("to_formal", "to_passive"):
        assert apply_text("what's up", id, 1, resources=missing).status == "fallback"


def test_pickled_weights_are_never_read(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "pytorch_model.bin").write_bytes(b"")
    with pytest.raises(CheckpointError, match="safetensors"):
        apply_text("what's up", "to_formal", 1, resources=Resources(formal_model=str(tmp_path)))


def test_a_broken_folder_is_named(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "model.safetensors").write_bytes(b"")
    with pytest.raises(CheckpointError, match="save_pretrained"):
        apply_text("what's up", "to_formal", 1, resources=Resources(formal_model=str(tmp_path)))


def test_without_transformers_there_are_no_models(t5: str, monkeypatch: pytest.MonkeyPatch) -> None:
    models._loaded.cache_clear()
    monkeypatch.setattr(models, "find_spec", lambda _: None)
    assert apply_text(TEXT, "to_formal", 1, resources=Resources(formal_model=t5)).status == "fallback"
    models._loaded.cache_clear()


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"drop_token": " "}, "drop_token"),
        ({"drop_token": "two words"}, "drop_token"),
        ({"min_ops": 2}, "min_ops"),
        ({"forward_model": "a"}, "both"),
    ],
)
def test_settings_that_cannot_be(options: dict[str, Any], reason: str) -> None:
    with pytest.raises(InvalidOption, match=reason):
        Resources(**options)


def test_nearest_by_loops() -> None:
    matrix = vectors.unit(np.random.default_rng(0).normal(size=(40, 5)).astype(np.float32))
    found = vectors.nearest(matrix, np.arange(40), 7)
    for row in range(40):
        others = [other for other in range(40) if other != row]
        order = sorted(others, key=lambda other: -float(matrix[row].astype(float) @ matrix[other].astype(float)))
        assert found[row].tolist() == order[:7]
    assert vectors.unit(np.zeros((1, 3), np.float32)).tolist() == [[0, 0, 0]]
