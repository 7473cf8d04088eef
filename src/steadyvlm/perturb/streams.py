"""Random numbers that depend on what is perturbed, and on nothing else.

A key is made from the suite's version, the level and the *content* (the pixels, the text). Each independent draw of a
perturbation has its own named stream, so that a draw added later shifts no other. Two questions about one picture see
the same pixels; two copies of one picture in two data sets do, too.

Arrays come from NumPy's legacy `RandomState`, whose streams are frozen by NumPy's policy; those of `Generator` may
change between releases. Texts use `TextRandom`: only `getrandbits` of the standard library is used, because the
consumption pattern of its `choice`, `sample` and `shuffle` has changed between releases.

Differs: the reference generators draw from NumPy's and Python's global states, unseeded, in the order the data loader's
workers happen to run.
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import MutableSequence, Sequence
from typing import TypeVar

import numpy as np

from steadyvlm.errors import InvalidOption
from steadyvlm.perturb.base import SUITE_VERSION, Level, Pixels

Item = TypeVar("Item")


def image_content(pixels: Pixels) -> str:
    """Return the address of a picture's pixels and size, whatever file or colour mode they came from."""
    digest = hashlib.sha256(repr(pixels.shape).encode("ascii"))
    digest.update(np.ascontiguousarray(pixels).data)
    return digest.hexdigest()[:32]


def text_content(text: str) -> str:
    """Return the address of a text; lone surrogates are allowed."""
    return hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=16).hexdigest()


def key(level: Level, content: str, *, seed: int = 0) -> str:
    """Return the key of all draws for one level of one picture or text.

    >>> from steadyvlm.perturb.suite import parse
    >>> key(parse("image/fog@2"), "4bf1")
    '1|image/fog@2|4bf1|0'
    """
    if isinstance(seed, bool) or not isinstance(seed, int):
        raise InvalidOption(f"seed is {seed!r}; give a whole number.")
    return f"{SUITE_VERSION}|{level}|{content}|{seed}"


def stream(key: str, name: str, *, attempt: int = 0) -> np.random.RandomState:
    """Return the array stream called `name` of a key; `attempt` is raised by the fidelity filter only.

    >>> stream("1|image/fog@2|4bf1|0", "field").uniform() == stream("1|image/fog@2|4bf1|0", "field").uniform()
    True
    """
    return np.random.RandomState(np.random.MT19937(np.random.SeedSequence(_seed(key, name, attempt))))


class TextRandom:
    """Whole-number draws for texts, the same on every Python release.

    >>> draws = TextRandom("1|text/typos@1|9a0c|0", "place")
    >>> draws.below(10) in range(10)
    True
    """

    __slots__ = ("_bits",)

    def __init__(self, key: str, name: str, *, attempt: int = 0) -> None:
        self._bits = random.Random(_seed(key, name, attempt)).getrandbits

    def below(self, count: int) -> int:
        """Return a whole number from 0 to `count` - 1, all equally likely.

        Raises:
            ValueError: if `count` is not positive.
        """
        if count < 1:
            raise ValueError(f"cannot draw below {count}")
        width = count.bit_length()
        while (value := self._bits(width)) >= count:
            pass
        return value

    def between(self, low: int, high: int) -> int:
        """Return a whole number from `low` to `high`, both included."""
        return low + self.below(high - low + 1)

    def uniform(self) -> float:
        """Return a number in [0, 1) with 53 random bits."""
        return self._bits(53) * 2.0**-53

    def choice(self, items: Sequence[Item]) -> Item:
        """Return one of `items`, all equally likely.

        Raises:
            ValueError: if there are none.
        """
        return items[self.below(len(items))]

    def shuffle(self, items: MutableSequence[Item]) -> None:
        """Put `items` into a random order, in place (Fisher and Yates, from the end)."""
        for last in range(len(items) - 1, 0, -1):
            other = self.below(last + 1)
            items[last], items[other] = items[other], items[last]

    def sample(self, items: Sequence[Item], count: int) -> list[Item]:
        """Return `count` different positions of `items` in random order.

        Raises:
            ValueError: if there are fewer.
        """
        if not 0 <= count <= len(items):
            raise ValueError(f"cannot draw {count} of {len(items)}")
        pool = list(items)
        for place in range(count):
            other = place + self.below(len(pool) - place)
            pool[place], pool[other] = pool[other], pool[place]
        return pool[:count]


def _seed(key: str, name: str, attempt: int) -> int:
    text = f"{key}|{name}|{attempt}"
    return int.from_bytes(hashlib.blake2b(text.encode("utf-8"), digest_size=16).digest(), "big")
