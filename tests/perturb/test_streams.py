"""Random numbers by content: pinned, independent of each other, even, and without a trace in any global state."""

from __future__ import annotations

import random
from collections import Counter

import numpy as np
import pytest

from steadyvlm.errors import InvalidOption
from steadyvlm.perturb.streams import TextRandom, image_content, key, stream, text_content
from steadyvlm.perturb.suite import parse

FOG = parse("image/fog@2")


def test_the_streams_are_pinned() -> None:
    """NumPy promises these numbers for ever; a change of ours would silently change every published result."""
    assert key(FOG, "4bf1", seed=7) == "1|image/fog@2|4bf1|7"
    assert stream("1|image/fog@2|4bf1|0", "field").randint(0, 1000, 4).tolist() == [378, 37, 964, 285]
    draws = TextRandom("1|text/typos@1|9a0c|0", "place")
    assert [draws.below(1000) for _ in range(4)] == [238, 961, 663, 654]
    assert text_content("What is this?") == "01e026bf7155eff758007f349feb7497"


def test_every_part_of_a_key_counts() -> None:
    keys = [key(FOG, "a"), key(FOG, "b"), key(parse("image/fog@3"), "a"), key(parse("image/snow@2"), "a")]
    keys.append(key(FOG, "a", seed=1))
    first = [stream(item, "field").random_sample() for item in keys]
    first += [stream(keys[0], "angle").random_sample(), stream(keys[0], "field", attempt=1).random_sample()]
    assert len(set(first)) == 7


@pytest.mark.parametrize("seed", [1.5, "1", True, None])
def test_a_seed_is_a_whole_number(seed: object) -> None:
    with pytest.raises(InvalidOption, match="whole number"):
        key(FOG, "a", seed=seed)  # type: ignore[arg-type]  # what a caller may pass


def test_the_content_of_a_picture_is_its_pixels_and_shape() -> None:
    pixels = np.arange(24, dtype=np.uint8).reshape(2, 4, 3)
    assert image_content(pixels) == image_content(np.asfortranarray(pixels))
    assert image_content(pixels) != image_content(pixels.reshape(4, 2, 3))
    assert text_content("\ud83d") != text_content("?")


def test_drawing_leaves_the_global_states_alone() -> None:
    before = (random.getstate(), np.random.get_state()[1].tolist())  # noqa: NPY002  # the state is what is watched
    stream("key", "field").random_sample(10)
    TextRandom("key", "place").shuffle(list(range(10)))
    assert (random.getstate(), np.random.get_state()[1].tolist()) == before  # noqa: NPY002


def test_whole_numbers_are_even() -> None:
    draws = TextRandom("key", "place")
    counts = Counter(draws.below(6) for _ in range(6000))
    assert sorted(counts) == list(range(6))
    assert max(counts.values()) - min(counts.values()) < 200
    assert {draws.between(3, 5) for _ in range(60)} == {3, 4, 5}
    assert draws.below(1) == 0
    assert 0.45 < np.mean([draws.uniform() for _ in range(1000)]) < 0.55
    with pytest.raises(ValueError, match="below 0"):
        draws.choice([])


def test_orders_and_samples_are_even() -> None:
    draws = TextRandom("key", "order")
    orders = Counter()
    firsts = Counter()
    for _ in range(2400):
        items = [1, 2, 3]
        draws.shuffle(items)
        orders[tuple(items)] += 1
        firsts[tuple(draws.sample("abcd", 2))] += 1
    assert len(orders) == 6
    assert min(orders.values()) > 300
    assert len(firsts) == 12
    assert min(firsts.values()) > 130
    assert draws.sample([], 0) == []
    for count in (-1, 5):
        with pytest.raises(ValueError, match="of 4"):
            draws.sample("abcd", count)
