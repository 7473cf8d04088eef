"""Which characters and words are taken for one another: by scanners, by fingers, by spellers."""

from __future__ import annotations

import re
from functools import cache
from itertools import product

from steadyvlm.perturb.text.files import of_distribution

SPELLINGS = "nlpaug/res/word/spelling/spelling_en.txt"

_MISREAD = "0:89oOD 1:47lI 2:zZ 5:8 6:b 8:sS@& 9:g o:u r:k C:G O:DU E:B"
"""Characters that scanners confuse, each pair written once."""

_ROWS = (
    (0.0, "`1234567890-=", "~!@#$%^&*()_+"),
    (1.5, "qwertyuiop[]\\", "QWERTYUIOP{}|"),
    (1.75, "asdfghjkl;'", 'ASDFGHJKL:"'),
    (2.25, "zxcvbnm,./", "ZXCVBNM<>?"),
)
"""The US keyboard: where a row starts, in key widths, and what its keys give without and with shift."""
_REACH = 1.5
_SPELT = re.compile(r"[^\W\d_]+(?:['’-][^\W\d_]+)*")
_MARKED = re.compile(r"^\[\[")


def _misread() -> dict[str, str]:
    """Return for each character what it is taken for, both ways.

    >>> LOOK_ALIKES["8"], LOOK_ALIKES["u"]
    ('&05@Ss', 'o')
    """
    pairs = {(row[0], other) for row in _MISREAD.split() for other in row[2:]}
    pairs |= {(other, one) for one, other in pairs}
    return {one: "".join(sorted(other for first, other in pairs if first == one)) for one in {one for one, _ in pairs}}


def _adjacent() -> dict[str, str]:
    """Return for each character those of the keys within 1.5 key widths, its own key included.

    A letter among them has the case of shift held or not; digits and marks come both ways.

    >>> NEIGHBOURS["a"], NEIGHBOURS["Q"], NEIGHBOURS["1"]
    ('qswz', '!12@AW', '!2@`q~')
    """
    keys = [
        (start + at, row, plain, shifted)
        for row, (start, low, high) in enumerate(_ROWS)
        for at, (plain, shifted) in enumerate(zip(low, high, strict=True))
    ]
    found: dict[str, set[str]] = {}
    for (x, row, *own), (other_x, other_row, *other) in product(keys, keys):
        if (x - other_x) ** 2 + (row - other_row) ** 2 > _REACH**2:
            continue
        for shift, character in enumerate(own):
            typed = other[shift : shift + 1] if other[0].isalpha() else other
            found.setdefault(character, set()).update({*typed} - {character})
    return {character: "".join(sorted(others)) for character, others in found.items()}


LOOK_ALIKES = _misread()
NEIGHBOURS = _adjacent()


@cache
def misspellings() -> dict[str, tuple[str, ...]] | None:
    """Return for each word or misspelling the others on its lines; None where the list is not installed.

    Each line is a word and its misspellings. Read both ways, so that some real words lead to other real words. A few
    entries hold digits, brackets or question marks, left over from how the list was collected; these are left out.
    """
    path = of_distribution("nlpaug", SPELLINGS)
    if path is None:
        return None
    found: dict[str, set[str]] = {}
    # The file has Windows line ends; splitting by space drops them.
    for line in path.read_text("utf-8").splitlines():
        spelt = [_MARKED.sub("", word) for word in line.split()]
        for other in spelt[1:]:
            if other != spelt[0] and _SPELT.fullmatch(spelt[0]) and _SPELT.fullmatch(other):
                found.setdefault(spelt[0], set()).add(other)
                found.setdefault(other, set()).add(spelt[0])
    return {word: tuple(sorted(others)) for word, others in found.items()}
