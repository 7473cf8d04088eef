"""Synonyms and neighbours: every new word is a candidate by an independent look at the data."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import numpy as np
import pytest

from steadyvlm.errors import InputError
from steadyvlm.perturb.text import Resources, apply_text, synonyms, vectors, wordnet
from steadyvlm.perturb.text.files import FOLDER

TABLE = json.loads(gzip.decompress((FOLDER / "wordnet.json.gz").read_bytes()))


def test_wordnet_is_version_3_cut_down_to_words() -> None:
    """All 117,659 synsets of WordNet 3.0, and those of its 155,287 lemmas that are one word."""
    assert {kind: len(part["senses"]) for kind, part in TABLE.items()} == {
        "n": 57506,
        "v": 8700,
        "a": 20983,
        "r": 3767,
    }
    assert {kind: len(part["synsets"]) for kind, part in TABLE.items()} == {
        "n": 82115,
        "v": 13767,
        "a": 18156,
        "r": 3621,
    }
    assert not [
        lemma for part in TABLE.values() for synset in part["synsets"] for lemma in synset.split() if "_" in lemma
    ]


def test_synonyms_share_a_synset() -> None:
    nouns = TABLE["n"]
    expected = {name for synset in nouns["synsets"] if "couch" in synset.split() for name in synset.split()}
    assert set(wordnet.synonyms("couches", "n")) == expected
    assert set(synonyms.synonyms("couches", "NNS", paper=True)) == expected
    assert synonyms.synonyms("couches", "NNS") == ("lounges", "sofas")
    assert synonyms.synonyms("the", "DT") == ()
    assert synonyms.sisters("the", "DT") == ()
    assert wordnet.synonyms("qwxz", "n") == ()


@pytest.mark.parametrize(
    ("word", "kind", "expected"),
    [
        ("women", "n", ("woman",)),
        ("boxes", "n", ("box",)),
        ("Dogs", "n", ("dog",)),
        ("ran", "v", ("run",)),
        ("tallest", "a", ("tall",)),
        ("quickly", "r", ("quickly",)),
    ],
)
def test_lemmas(word: str, kind: str, expected: tuple[str, ...]) -> None:
    assert wordnet.lemmas(word, kind) == expected


def test_sisters_share_a_direct_hypernym_and_are_no_synonyms() -> None:
    nouns = TABLE["n"]
    first = nouns["senses"]["couch"][0]
    above = set(nouns["hypernyms"][str(first)])
    beside = {int(n) for n, others in nouns["hypernyms"].items() if above & set(others)} - {first}
    names = {name for number in beside for name in nouns["synsets"][number].split()}
    found = wordnet.sisters("couch", "n")
    assert set(found) <= names
    assert list(found) == sorted(found)
    assert len(wordnet.sisters("dog", "n")) <= 20
    assert "couch" not in found
    assert wordnet.sisters("quickly", "r") == ()
    assert wordnet.sisters("qwxz", "n") == ()


def test_a_synonym_takes_the_form_and_case_of_the_word() -> None:
    texts = {apply_text("Couches?", "swap_syn_word_net", 1, seed=seed).text for seed in range(30)}
    assert texts == {"Lounges?", "Sofas?"}
    paper = {apply_text("Couches?", "swap_syn_word_net", 1, seed=s, profile="paper").text for s in range(30)}
    assert paper == {"Lounge?", "Sofa?", "Couch?"}


def test_colours_have_synonyms_where_no_other_word_has() -> None:
    result = apply_text("Is it purple?", "swap_syn_word_net", 1)
    assert result.status == "applied"
    assert result.text.removeprefix("Is it ").removesuffix("?") in wordnet.synonyms("purple", "a", satellites=True)
    assert apply_text("Is it purple?", "swap_syn_word_net", 1, profile="paper").status == "noop"
    assert "purple" not in apply_text("Is the couch purple?", "swap_syn_word_net", 5).text.replace("purple?", "")


def test_without_vectors_words_become_their_sisters() -> None:
    for seed in range(20):
        result = apply_text("Is it a truck?", "swap_syn_word_emb", 1, seed=seed)
        assert (result.status, result.info["fallback"]) == ("fallback", "wordnet-sister")
        assert result.text.split()[-1].rstrip("?") in wordnet.sisters("truck", "n")


@pytest.fixture
def glove(tmp_path: Path) -> Path:
    """Words on a circle: the nearest of each are the next ones."""
    names = ["dog", "cat", "horse", "cow", "sheep", "runs", "quickly", "walks"]
    rows = [f"{name} {np.cos(at / 3):.5f} {np.sin(at / 3):.5f}" for at, name in enumerate(names)]
    path = tmp_path / "glove.txt"
    path.write_text("\n".join(rows) + "\n", "utf-8")
    return path


def test_vectors_give_the_nearest_words_of_the_same_part_of_speech(glove: Path) -> None:
    resources = Resources(vectors=glove)
    found = {apply_text("Is it a Dog?", "swap_syn_word_emb", 1, seed=s, resources=resources).text for s in range(40)}
    assert found == {f"Is it a {name}?" for name in ("Cat", "Horse", "Cow", "Sheep")}
    result = apply_text("Is it a dog?", "swap_syn_word_emb", 1, resources=resources)
    assert (result.status, "fallback" in result.info) == ("applied", False)
    assert apply_text("Is it a bus?", "swap_syn_word_emb", 1, resources=resources).status == "noop"
    near = vectors.neighbours(resources)
    assert near is not None
    assert list(near.get("dog", ()))[:3] == ["cat", "horse", "cow"]


def test_neighbours_are_kept_with_the_checksum_of_their_file(glove: Path) -> None:
    first = vectors.neighbours(Resources(vectors=glove))
    kept = glove.with_name("glove.txt.neighbours.json")
    stored = json.loads(kept.read_text("utf-8"))
    assert stored["neighbours"] == first
    stored["neighbours"]["dog"] = ["bear"]
    kept.write_text(json.dumps(stored), "utf-8")
    vectors._of_file.cache_clear()
    again = vectors.neighbours(Resources(vectors=glove))
    assert again is not None
    assert again.get("dog", ()) == ["bear"]
    glove.write_text("2 2\ncat 1 0\ndog 0.9  0.1\n", "utf-8")  # word2vec's first line, and doubled spaces
    vectors._of_file.cache_clear()
    changed = vectors.neighbours(Resources(vectors=glove))
    assert changed is not None
    assert changed.get("dog", ()) == ["cat"]


def test_the_most_frequent_words_take_part(glove: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(vectors, "MOST_FREQUENT", 2)
    near = vectors.neighbours(Resources(vectors=glove))
    assert near is not None
    assert near.get("dog", ()) == ["cat"]
    assert near.get("cow", ()) == ()


@pytest.mark.parametrize("content", ["dog 1 2\ncat 1\n", "dog a b\n", "dog\n", "dog 1 2\n", ""])
def test_a_file_of_something_else_is_refused(tmp_path: Path, content: str) -> None:
    path = tmp_path / "vectors.txt"
    path.write_text(content, "utf-8")
    with pytest.raises(InputError, match="vectors"):
        apply_text("Is it a dog?", "swap_syn_word_emb", 1, resources=Resources(vectors=path))


def test_vectors_that_are_not_there_are_done_without(tmp_path: Path) -> None:
    result = apply_text("Is it a dog?", "swap_syn_word_emb", 1, resources=Resources(vectors=tmp_path / "none.txt"))
    assert result.info["fallback"] == "wordnet-sister"


def test_a_paraphrase_by_rules_contracts_swaps_and_moves() -> None:
    texts = [apply_text("There is a couch on the grass.", "back_trans", 1, seed=seed) for seed in range(20)]
    assert {result.info["fallback"] for result in texts} == {"rule-paraphrase"}
    assert all(result.text.startswith("On the ") and ", there's a " in result.text for result in texts)
    assert apply_text("It isn't a couch.", "back_trans", 1).text.startswith("It is no")
    assert apply_text("", "back_trans", 1).status == "noop"
