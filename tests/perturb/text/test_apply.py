"""What any text and any level promises: an answer, the same one everywhere, and no trace left behind."""

from __future__ import annotations

import hashlib
import json
import os
import random
import socket
import subprocess
import sys
from collections.abc import Callable
from importlib.metadata import PackageNotFoundError
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from scripts.perturbed_questions import page, questions

from steadyvlm.errors import InvalidOption, UnknownName
from steadyvlm.perturb import text as public
from steadyvlm.perturb.suite import TEXT, TEXT_LEVELS
from steadyvlm.perturb.text import (
    Resources,
    apply_text,
    files,
    inflect,
    ingredients,
    look_alikes,
    synonyms,
    tagger,
    wordnet,
)

IDS = [row.id for row in TEXT]
LEVELS = [(level.perturbation.id, level.severity) for level in TEXT_LEVELS]
STORED = json.loads((Path(__file__).parent / "stored.json").read_text("utf-8"))
BY_RULES = ("to_formal", "to_casual", "to_passive", "to_active", "back_trans", "swap_syn_word_emb")
HARD = [
    "",
    " \n\t ",
    "?",
    "dog",
    "Wie heißt der große Hund auf dem Foto?",
    "这张照片里有几只狗？",
    "ما لون الحافلة؟",
    "🙂🙃 👩‍👩‍👧‍👦?!",
    "``what'' \"is\" 'this' (really)?",
    "\ud800 lone surrogate",
    "Is it red? " * 70,
    "a\u0301\u0302 zero\u200bwidth\x00nul",
]


@pytest.mark.parametrize("profile", ["general", "paper"])
@pytest.mark.parametrize("text", HARD, ids=ascii)
def test_every_level_gives_an_answer_to_every_text(text: str, profile: str) -> None:
    for id, severity in LEVELS:
        result = apply_text(text, id, severity, profile=profile)  # type: ignore[arg-type]  # one of two words
        assert result.status in ("applied", "noop", "fallback")
        if result.status == "applied":
            assert result.text != text
        if text.strip():
            assert result.text.strip()


@pytest.mark.parametrize("id", IDS)
def test_ten_thousand_words(id: str) -> None:
    row = next(row for row in TEXT if row.id == id)
    result = apply_text("Is the red dog's bowl near a man riding? " * 1112, id, row.levels)
    assert result.status in ("applied", "fallback") or "why" in result.info


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.one_of(st.text(max_size=60), st.text(alphabet="the man's dog is RED? .,;\"'()🙂é", max_size=60)), st.data())
def test_any_text_gives_an_answer(text: str, data: st.DataObject) -> None:
    id, severity = data.draw(st.sampled_from(LEVELS))
    first, again = apply_text(text, id, severity), apply_text(text, id, severity)
    assert first == again
    assert bool(first.text.strip()) == bool(text.strip()) or id in ("drop_first_and_last",)


def test_other_texts_severities_and_seeds_draw_differently() -> None:
    text = "What color is the umbrella that the woman near the fountain holds?"
    drawn = [row for row in TEXT if not row.deterministic and row.id not in (*BY_RULES, "append_irr")]
    for row in drawn:
        results = {apply_text(text, row.id, row.levels, seed=seed).text for seed in range(12)}
        assert len(results) > 1, row.id
    assert len({apply_text(text, "typos", severity).text for severity in (1, 2, 3, 4, 5)}) == 5
    fixed = [row for row in TEXT if row.deterministic]
    assert all(len({apply_text(text, row.id, 1, seed=seed).text for seed in range(5)}) == 1 for row in fixed)
    assert {row.id for row in fixed} == {
        *("drop_nn", "drop_vb", "drop_vb_nn", "only_nn", "only_vb", "only_vb_nn"),
        *("drop_first", "drop_last", "drop_first_and_last", "double_denial"),
    }


def test_a_key_of_ones_own_names_the_draw() -> None:
    by_key = [apply_text("What is it?", "typos", 3, key).text for key in ("a", "b", "a")]
    assert by_key[0] == by_key[2] != by_key[1]


PROGRAM = """
import hashlib, random, sys
from steadyvlm.perturb.suite import TEXT_LEVELS
from steadyvlm.perturb.text import apply_text
texts = ["What is the man's dog doing?", "Is there a good couch near 2 dogs? \\U0001f642", "A man is riding a horse."]
jobs = [(text, level) for text in texts for level in TEXT_LEVELS]
random.Random(int(sys.argv[1])).shuffle(jobs)
done = {(text, str(level)): apply_text(text, level.perturbation.id, level.severity).text for text, level in jobs}
print(hashlib.sha256(repr(sorted(done.items())).encode()).hexdigest())
"""


def test_two_processes_agree_whatever_the_order_and_the_hash_seed() -> None:
    found = []
    for hash_seed, order in (("0", "1"), ("4242", "2")):
        environment = {**os.environ, "PYTHONHASHSEED": hash_seed, "PYTHONPATH": os.pathsep.join(sys.path)}
        run = subprocess.run(
            [sys.executable, "-c", PROGRAM, order], env=environment, capture_output=True, text=True, check=True
        )
        found.append(run.stdout.strip())
    assert found[0] == found[1]
    assert len(found[0]) == 64


def outputs(texts: list[str]) -> str:
    lines = [apply_text(text, id, severity).text for id, severity in LEVELS for text in texts]
    return hashlib.sha256("\n".join(lines).encode("utf-8", "surrogatepass")).hexdigest()


def test_outputs_are_pinned() -> None:
    """A change here changes every published number: raise SUITE_VERSION, then store the new hash."""
    assert outputs(questions()[::50]) == STORED["outputs"]


def test_coverage_on_two_hundred_questions_is_the_stored_one() -> None:
    """How many of 200 questions each level leaves as they were; the page in docs has all 1,000."""
    texts = questions()[::5]
    found = {
        f"{id}@{severity}": sum(apply_text(text, id, severity).text == text for text in texts)
        for id, severity in LEVELS
    }
    assert found == STORED["unchanged"]


@pytest.mark.slow
def test_the_page_is_in_sync() -> None:
    path = Path(__file__).parents[3] / "docs" / "perturbations-text.md"
    assert path.read_text("utf-8") == page(), "stale; run `python scripts/perturbed_questions.py`"


def test_no_level_leaves_more_unchanged_than_the_original() -> None:
    texts = questions()[::10]
    fewer = []
    for row in TEXT:
        if row.id in BY_RULES:
            continue
        ours = [apply_text(text, row.id, 1) for text in texts]
        theirs = [apply_text(text, row.id, 1, profile="paper") for text in texts]
        counts = [sum(result.status == "noop" for result in results) for results in (ours, theirs)]
        assert counts[0] <= counts[1], row.id
        fewer += [row.id] if counts[0] < counts[1] else []
    assert {"drop_rand_one_nn", "drop_rand_one_vb", "random_word_swap", "random_char_delete"} <= set(fewer)


def test_questions_are_a_thousand_and_look_like_questions() -> None:
    texts = questions()
    assert len(set(texts)) == 1000
    assert all(text[0].isupper() and text[-1] in "?." and "{" not in text and "_" not in text for text in texts)
    assert 6 < sum(len(text.split()) for text in texts) / 1000 < 10


def global_state() -> object:
    return random.getstate(), repr(np.random.get_state())  # noqa: NPY002 - the state that must stay


def test_no_global_random_state_is_touched() -> None:
    before = global_state()
    for id, severity in LEVELS:
        apply_text("What is the man holding, a good dog?", id, severity)
    assert global_state() == before


def test_nothing_opens_a_connection(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise AssertionError("a connection was opened")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    for id, severity in LEVELS:
        apply_text("What is the man holding?", id, severity, resources=Resources.published())


CACHES = (
    files.of_distribution,
    look_alikes.misspellings,
    tagger._lexicon,
    tagger.tagged,
    tagger.tag_alone,
    inflect.available,
    inflect.inflected,
    wordnet.load,
    wordnet.synonyms,
    synonyms.synonyms,
    synonyms.sisters,
)


@pytest.fixture
def without(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Take a resource away, as if it were not installed."""
    real, spec = files.distribution, inflect.find_spec

    def remove(name: str) -> None:
        def distribution(wanted: str) -> object:
            if wanted == name:
                raise PackageNotFoundError(wanted)
            return real(wanted)

        monkeypatch.setattr(files, "distribution", distribution)
        monkeypatch.setattr(inflect, "find_spec", lambda wanted: None if wanted == name else spec(wanted))
        if name == "wordnet":
            monkeypatch.setattr(wordnet, "TABLE", "not-there.json.gz")
        for function in CACHES:
            function.cache_clear()

    yield remove  # type: ignore[misc]  # a generator fixture
    monkeypatch.undo()
    for function in CACHES:
        function.cache_clear()


TAGGED = (
    *(
        "insert_adv",
        "tense",
        "swap_syn_word_net",
        "swap_syn_word_emb",
        "drop_rand_one_nn",
        "drop_rand_one_vb",
        "back_trans",
    ),
    *("drop_nn", "drop_vb", "drop_vb_nn", "only_nn", "only_vb", "only_vb_nn", "to_passive", "to_active"),
)


@pytest.mark.parametrize(
    ("name", "unavailable"),
    [
        ("textblob", set(TAGGED)),
        ("lemminflect", {"tense", "to_passive", "to_active"}),
        ("wordnet", {"swap_syn_word_net", "swap_syn_word_emb", "back_trans"}),
        ("nlpaug", set()),
    ],
)
def test_what_is_missing_is_said_and_never_raises(
    name: str, unavailable: set[str], without: Callable[[str], None]
) -> None:
    without(name)
    text = "What is the kid holding near the couch?"
    results = {id: apply_text(text, id, severity) for id, severity in LEVELS}
    assert {id for id, result in results.items() if result.status == "unavailable"} == unavailable
    assert all(
        result.text == text and result.info["unavailable"]
        for result in results.values()
        if result.status == "unavailable"
    )
    assert (results["spell_error"].status == "fallback") == (name == "nlpaug")


def test_synonyms_keep_their_lemma_without_lemminflect(without: Callable[[str], None]) -> None:
    without("lemminflect")
    assert {apply_text("Couches?", "swap_syn_word_net", 1, seed=seed).text for seed in range(30)} == {
        "Lounge?",
        "Sofa?",
    }


def test_substitutes_can_be_refused(without: Callable[[str], None]) -> None:
    without("nlpaug")
    strict = Resources(fallbacks=False)
    results = {id: apply_text("What is the kid holding?", id, 1, resources=strict) for id in IDS}
    refused = {id for id, result in results.items() if result.status == "unavailable"}
    assert refused == {*BY_RULES, "spell_error"}
    assert {results[id].text for id in refused} == {"What is the kid holding?"}


@pytest.mark.parametrize("row", TEXT, ids=IDS)
def test_every_perturbation_is_a_documented_function(row: object) -> None:
    id = row.id  # type: ignore[attr-defined]  # a Perturbation
    function = getattr(public, id)
    text = "What is the man holding?"
    assert function.__doc__
    assert id in public.__all__
    default = function.__defaults__[0]
    assert default == (3 if row.levels == 5 else 1)  # type: ignore[attr-defined]
    assert function(text) == apply_text(text, id, default).text
    assert function(text, 1, seed=4, profile="paper") == apply_text(text, id, 1, seed=4, profile="paper").text
    with pytest.raises(InvalidOption, match="severity"):
        function(text, 6)


def test_bad_requests_are_named() -> None:
    with pytest.raises(UnknownName, match="Did you mean 'typos'"):
        apply_text("a", "typo", 1)
    with pytest.raises(InvalidOption, match="give a text"):
        apply_text(b"a", "typos", 1)  # type: ignore[arg-type]  # what a caller may pass
    with pytest.raises(InvalidOption, match="profile"):
        apply_text("a", "typos", 1, profile="loud")  # type: ignore[arg-type]


def test_a_blank_result_is_not_taken() -> None:
    texts = {apply_text("a", "random_char_replace", 5, seed=seed).text for seed in range(300)}
    assert all(text.strip() for text in texts)


def test_ingredients_name_versions_checksums_and_settings(without: Callable[[str], None]) -> None:
    without("nlpaug")
    found = ingredients(Resources(formal_model="somewhere"))
    assert found["resources.formal_model"] == "somewhere"
    assert found["nlpaug"] == "missing"
    assert found["lemminflect"][0].isdigit()
    assert len(found["data/wordnet.json.gz"]) == 16
    assert "resources.vectors" not in found
