"""Parts of speech and forms: TextBlob's tags but for three corrections; lemminflect's forms."""

from __future__ import annotations

import warnings

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from steadyvlm.perturb.text import inflect, tagger

SAMPLE = "What is the Man left image dogs running quickly Xyzzy blorping 5:30 well-known , ? blorpate unglassed awous"


@pytest.fixture(scope="module")
def parser() -> object:
    with warnings.catch_warnings():
        # TextBlob leaves its lexicon's file open.
        warnings.simplefilter("ignore", ResourceWarning)
        from textblob.en import parser

        parser.find_tags(["dog"])
    return parser


@settings(max_examples=300, deadline=None)
@given(
    st.lists(
        st.one_of(st.sampled_from(SAMPLE.split()), st.text(alphabet="abcXYZ.-,sedlyingtivfyz", min_size=1, max_size=8)),
        min_size=1,
        max_size=6,
    )
)
def test_tags_are_those_of_the_pattern_tagger(parser: object, words: list[str]) -> None:
    theirs = [tag for _, tag in parser.find_tags(words)]  # type: ignore[attr-defined]  # ships no types
    assert tagger.tags(words) == tagger.corrected(words, theirs)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Is the left dog on the right side?", "VBZ DT JJ NN IN DT JJ NN ."),
        ("Has he left?", "VBZ PRP VBN ."),
        ("Is it on the left ?", "VBZ PRP IN DT VBN ."),
        ("Where is the bear near a sink?", "WRB VBZ DT NN IN DT NN ."),
        ("What's on the dog's tail?", "WP VBZ IN DT NN POS NN ."),
        ("A dog runs. Two cats sleep.", "DT NN VBZ . CD NNS VB ."),
        ("", ""),
    ],
)
def test_tags_in_context(text: str, expected: str) -> None:
    parts, tags = tagger.tagged(text)
    assert list(tags) == expected.split()
    assert len(parts) == len(tags)


def test_words_that_are_in_no_lexicon() -> None:
    words = ["z", "Zorgs", "5:30", "blorping", "blorpingly", "blorps", "blorpous", "blorp-like", "blorped", "blorpify"]
    assert tagger.tags(words) == ["NN", "NNP", "CD", "VBG", "RB", "NNS", "JJ", "JJ", "VBN", "VBP"]


def test_the_released_generator_sees_the_last_sentence_only() -> None:
    parts, tags = tagger.last_sentence("A dog runs. Two cats sleep.")
    assert [part.word for part in parts] == ["Two", "cats", "sleep", "."]
    assert len(tags) == 4
    assert tagger.last_sentence("") == ((), ())


@pytest.mark.parametrize(
    ("word", "tag", "expected"),
    [
        ("dog", "NNS", "dogs"),
        ("ride", "VBN", "ridden"),
        ("big", "JJR", "bigger"),
        ("dog", "NN", "dog"),
    ],
)
def test_forms_of_words(word: str, tag: str, expected: str) -> None:
    assert inflect.inflected(word, tag) == expected


def test_forms_of_verbs() -> None:
    assert inflect.verb_forms("Is") == ("be", "been", "being", "is", "was")
    assert inflect.verb_forms("caught") == ("catch", "catches", "catching", "caught")
    assert inflect.lemma("", "VB") == ""
