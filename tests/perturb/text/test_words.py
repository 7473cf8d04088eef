"""Words added, dropped and moved: counts by hand, places all reached, the paper's rules where they differ."""

from __future__ import annotations

from collections import Counter
from itertools import permutations

import pytest

from steadyvlm.perturb.text import Resources, apply_text
from steadyvlm.perturb.text.files import lines

TWELVE = "a b c d e f g h i j k l"
QUESTION = "What is the man's dog doing?"


@pytest.mark.parametrize("severity", [1, 2, 3, 4, 5])
def test_operations_are_a_tenth_of_the_words_rounded_down(severity: int) -> None:
    """12 words: 1, 2, 3, 4, 6 operations."""
    count = [0, 1, 2, 3, 4, 6][severity]
    inserted = apply_text(TWELVE, "random_word_insert", severity).text.split()
    assert inserted.count("[UNK]") == count
    assert [word for word in inserted if word != "[UNK]"] == TWELVE.split()
    deleted = apply_text(TWELVE, "random_word_delete", severity).text.split()
    assert len(deleted) == 12 - count
    assert deleted == [word for word in TWELVE.split() if word in deleted]
    swapped = apply_text(TWELVE, "random_word_swap", severity).text.split()
    assert sorted(swapped) == TWELVE.split()
    assert 0 < sum(a != b for a, b in zip(swapped, TWELVE.split(), strict=True)) <= 2 * count


@pytest.mark.parametrize("id", ["random_word_insert", "random_word_delete", "random_word_swap"])
def test_short_texts_have_no_operation_unless_one_is_asked_for(id: str) -> None:
    result = apply_text(QUESTION, id, 1)
    assert (result.text, result.status, result.info["why"]) == (QUESTION, "noop", "too few words")
    least = apply_text(QUESTION, id, 1, resources=Resources(min_ops=1))
    assert least.status == "applied"
    assert abs(len(least.text.split()) - len(QUESTION.split())) == (id != "random_word_swap")


def test_the_last_word_is_never_deleted() -> None:
    least = Resources(min_ops=1)
    assert apply_text("dog", "random_word_delete", 5, resources=least).text == "dog"
    assert apply_text("dog", "random_word_insert", 5, resources=least).text in ("dog [UNK]", "[UNK] dog")
    assert apply_text("", "random_word_insert", 5, resources=least).status == "noop"
    assert apply_text("", "random_word_delete", 5, resources=least).status == "noop"


def test_words_are_inserted_in_every_gap_and_deleted_anywhere() -> None:
    least = Resources(min_ops=1, drop_token="<gone>")
    inserted = {apply_text("a b c", "random_word_insert", 1, seed=s, resources=least).text for s in range(60)}
    assert inserted == {"<gone> a b c", "a <gone> b c", "a b <gone> c", "a b c <gone>"}
    deleted = {apply_text("a b c", "random_word_delete", 1, seed=s, resources=least).text for s in range(60)}
    assert deleted == {"b c", "a c", "a b"}
    swapped = {apply_text("a b c", "random_word_swap", 1, seed=s, resources=least).text for s in range(60)}
    assert swapped == {"b a c", "c b a", "a c b"}


def test_the_released_swap_undoes_half_of_itself() -> None:
    """Effective with probability (n-1)/(2n): 0.4 for five words; 400 draws, five standard errors."""
    least = Resources(min_ops=1)
    texts = [
        apply_text("a b c d e", "random_word_swap", 1, profile="paper", seed=s, resources=least) for s in range(400)
    ]
    assert sum(result.text != "a b c d e" for result in texts) / 400 == pytest.approx(0.4, abs=0.125)
    assert all(sorted(result.text.split()) == list("abcde") for result in texts)


def test_equal_words_cannot_be_swapped_or_shuffled() -> None:
    assert apply_text("dog " * 10, "random_word_swap", 5).info["why"] == "too few words"
    assert apply_text("dog dog", "shuffle_order", 1).info["why"] == "too few words"


@pytest.mark.parametrize(
    ("id", "text", "expected"),
    [
        ("drop_first", QUESTION, "[UNK] is the man's dog doing?"),
        ("drop_last", QUESTION, "What is the man's dog [UNK]"),
        ("drop_first_and_last", QUESTION, "[UNK] is the man's dog [UNK]"),
        ("drop_first", "dog", "[UNK]"),
        ("drop_last", "dog", "[UNK]"),
        ("drop_first_and_last", "dog", "[UNK] [UNK]"),
        ("drop_first_and_last", "", ""),
        ("drop_nn", QUESTION, "What is the [UNK] 's [UNK] doing ?"),
        ("drop_vb", QUESTION, "What [UNK] the man 's dog [UNK] ?"),
        ("drop_vb_nn", QUESTION, "What [UNK] the [UNK] 's [UNK] [UNK] ?"),
        ("only_nn", QUESTION, "[UNK] [UNK] [UNK] man [UNK] dog [UNK] [UNK]"),
        ("only_vb", QUESTION, "[UNK] is [UNK] [UNK] [UNK] [UNK] doing [UNK]"),
        ("only_vb_nn", QUESTION, "[UNK] is [UNK] man [UNK] dog doing [UNK]"),
        ("drop_nn", "A dog runs. Two cats sit.", "A [UNK] runs . Two [UNK] sit ."),
        ("drop_nn", "Is it red?", "Is it red?"),
        ("only_nn", "", ""),
    ],
)
def test_dropped_words(id: str, text: str, expected: str) -> None:
    result = apply_text(text, id, 1)
    assert result.text == expected
    assert result.status == ("noop" if text == expected else "applied")


def test_the_released_drops_keep_the_last_sentence_and_its_spaces() -> None:
    two = apply_text("A dog runs. Two cats sit.", "drop_nn", 1, profile="paper")
    assert two.text == "Two [UNK] sit ."
    spaced = apply_text("Is it red?", "drop_nn", 1, profile="paper")
    assert (spaced.text, spaced.status) == ("Is it red ?", "noop")


def test_one_noun_or_verb_is_dropped_wherever_it_stands() -> None:
    text = "Is the dog, a big dog, near the man's car?"
    nouns = {apply_text(text, "drop_rand_one_nn", 1, seed=seed).text for seed in range(40)}
    assert nouns == {
        "Is the [UNK], a big [UNK], near the man's car?",
        "Is the dog, a big dog, near the [UNK]'s car?",
        "Is the dog, a big dog, near the man's [UNK]?",
    }
    verbs = {apply_text("What is the man holding?", "drop_rand_one_vb", 1, seed=seed).text for seed in range(40)}
    assert verbs == {"What [UNK] the man holding?", "What is the man [UNK]?"}
    assert apply_text("Red?", "drop_rand_one_vb", 1).info["why"] == "no verb"


def test_the_released_drop_of_one_noun_misses_marks() -> None:
    texts = {
        apply_text("Is the man near a car?", "drop_rand_one_nn", 1, seed=s, profile="paper").text for s in range(40)
    }
    assert texts == {"Is the [UNK] near a car?", "Is the man near a car?"}


def test_orders_are_uniform_and_never_the_given_one() -> None:
    """Five orders of three words are left; 600 draws, each within five standard errors of 120."""
    counts = Counter(apply_text("a b c", "shuffle_order", 1, seed=seed).text for seed in range(600))
    assert set(counts) == {" ".join(order) for order in permutations("abc")} - {"a b c"}
    assert all(abs(count - 120) < 50 for count in counts.values())
    kept = [apply_text("a b c", "shuffle_order", 1, seed=seed, profile="paper").text for seed in range(60)]
    assert "a b c" in kept


def test_an_adverb_stands_before_every_verb() -> None:
    adverbs = lines("adverbs.txt")
    words = apply_text("What is the man holding?", "insert_adv", 1).text.split()
    assert [word for word in words if word not in adverbs] == ["What", "is", "the", "man", "holding?"]
    assert words[1] in adverbs
    assert words[-2] in adverbs
    first = apply_text("Is it red?", "insert_adv", 1).text
    assert first.split()[0].lower() in adverbs
    assert first.split()[1:] == ["is", "it", "red?"]
    assert apply_text("Is it red?", "insert_adv", 1, profile="paper").text.split()[1:] == ["Is", "it", "red?"]
    glued = apply_text("What's red?", "insert_adv", 1).text.split()
    assert [glued[0], *glued[2:]] == ["What", "is", "red?"]
    assert apply_text("Red?", "insert_adv", 1).info["why"] == "no verb"


def test_the_adverbs_are_228_and_deny_nothing() -> None:
    adverbs = lines("adverbs.txt")
    assert len(adverbs) == len(set(adverbs)) == 228
    assert all(word.endswith("ly") and word.isalpha() for word in adverbs)
    assert not {"hardly", "barely", "scarcely", "rarely", "only"} & set(adverbs)


def test_a_long_sentence_gets_a_proverb_too() -> None:
    openers, proverbs = lines("openers.txt"), lines("proverbs.txt")
    assert len(set(openers)) >= 40
    assert len(set(proverbs)) >= 60
    short = apply_text("Is it red?", "append_irr", 1).text
    assert short.removesuffix(" Is it red?") in openers
    long = "Is the small red bus to the left of it?"
    opener, proverb = apply_text(long, "append_irr", 1).text.split(f" {long} ")
    assert opener in openers
    assert proverb in proverbs
    assert apply_text(" ", "append_irr", 1).info["why"] == "empty"
