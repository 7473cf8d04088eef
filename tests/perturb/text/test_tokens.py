"""Words and their places: the tokens are NLTK's, and put back they are the text."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from nltk.tokenize.destructive import NLTKWordTokenizer

from steadyvlm.perturb.text import tokens as module
from steadyvlm.perturb.text.tokens import is_word, replaced, sentences, tokens, with_case_of, words

WORDS = ["what", "is", "the", "man's", "dog", "cannot", "gonna", "5", "A3", "dogs'", "a's", "'s", "red", "don't"]


@st.composite
def plain_questions(draw: st.DrawFn) -> str:
    chosen = draw(st.lists(st.sampled_from(WORDS), min_size=1, max_size=8))
    gaps = draw(st.lists(st.sampled_from([" ", ", ", "  "]), min_size=len(chosen), max_size=len(chosen)))
    joined = "".join(word + gap for word, gap in zip(chosen, gaps, strict=True)).rstrip(", ")
    return joined + draw(st.sampled_from(["", "?", "!", "."]))


@settings(max_examples=300, deadline=None)
@given(plain_questions())
@example("the man's, dog.")
@example("gonna eat")
def test_tokens_are_those_of_nltk(text: str) -> None:
    assert [token.word for token in tokens(text)] == NLTKWordTokenizer().tokenize(text)


@settings(max_examples=300, deadline=None)
@given(st.one_of(st.text(max_size=40), st.text(alphabet="ab A.?!'\"`,-:;()[]<>*&“”’\n\t…", max_size=30)))
@example("<''")
@example('"a" is "b".')
@example("`` a ''")
def test_tokens_cover_the_text_in_order(text: str) -> None:
    found = tokens(text)
    assert all(text[token.start : token.end] == token.word for token in found)
    assert "".join(token.word for token in found) == "".join(text.split())
    assert replaced(text, found, {}) == text
    assert replaced(text, found, {number: token.word for number, token in enumerate(found)}) == text


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", 0),
        (" \n ", 0),
        ("Is it red?", 1),
        ("Two dogs run. Is one brown? Yes!", 3),
        ("Mr. Smith met Dr. J. Jones.", 1),
        ('He said "Stop!" (He did.) Why?', 3),
        ("It costs 5.50 at No. 3.", 1),
        ("what?! no. lower case goes on", 1),
    ],
)
def test_sentences_end_where_a_new_one_can_begin(text: str, expected: int) -> None:
    assert len(sentences(text)) == expected


def test_a_tokeniser_that_changes_the_text_is_not_trusted(monkeypatch: pytest.MonkeyPatch) -> None:
    """Another version of NLTK may rewrite more than quotation marks; then words between spaces must do."""
    sentences.cache_clear()
    for pieces in (["Ça", "va"], ["Ca", "va"]):
        monkeypatch.setattr(module, "_treebank", lambda pieces=pieces: SimpleNamespace(tokenize=lambda _: pieces))
        assert [token.word for token in tokens("Ça va ?")] == ["Ça", "va", "?"]
        sentences.cache_clear()


def test_a_replacement_leaves_all_else_as_it_was() -> None:
    text = " Is  the dog's\ttail long ?"
    assert replaced(text, tokens(text), {2: "cat", 5: "short"}) == " Is  the cat's\ttail short ?"


def test_words_are_what_stands_between_spaces() -> None:
    assert words(" Is it  red? ") == ["Is", "it", "red?"]


@pytest.mark.parametrize(("word", "expected"), [("dog", True), ("犬", True), ("5", True), ("?", False), ("🙂", False)])
def test_marks_and_emoji_are_no_words(word: str, expected: bool) -> None:
    assert is_word(word) is expected


@pytest.mark.parametrize(
    ("word", "new", "expected"),
    [("Dog", "cat", "Cat"), ("DOG", "cat", "CAT"), ("A", "one", "One"), ("dog", "Cat", "Cat"), ("", "cat", "cat")],
)
def test_a_new_word_is_spelt_like_the_old(word: str, new: str, expected: str) -> None:
    assert with_case_of(word, new) == expected
