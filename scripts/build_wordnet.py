"""Make the WordNet table and the list of adverbs that `steadyvlm.perturb.text` ships.

python scripts/build_wordnet.py [folder with index.*, data.*, *.exc and cntlist.rev of WordNet 3.0]

On Debian the folder is /usr/share/wordnet, from the package wordnet-base. Kept: lemmas of a single word, their synsets
with direct hypernyms, antonyms, irregular forms. Left out: definitions, examples, lemmas of several words, all other
relations. Run twice, it writes the same bytes. WordNet's licence goes with the table, in data/WORDNET-LICENSE.txt.
"""

from __future__ import annotations

import gzip
import json
import sys
from collections import Counter
from pathlib import Path
from typing import Any

DATA = Path(__file__).resolve().parent.parent / "src/steadyvlm/perturb/text/data"
DEBIAN = Path("/usr/share/wordnet")
FILES = {"n": "noun", "v": "verb", "a": "adj", "r": "adv"}
POINTERS = {"n": ("@", "@i"), "v": ("@",), "a": (), "r": ()}
KINDS = {"1": "n", "2": "v", "3": "a", "4": "r", "5": "a"}
ADVERBS = 228
_NEGATIVE = "hardly barely scarcely rarely only merely solely nearly exclusively absently sexually"
NEGATIVE = frozenset(_NEGATIVE.split())
"""Adverbs that deny or restrict, and would change what is asked; and one unfit for questions about pictures."""


def main(folder: Path) -> None:
    """Write data/wordnet.json.gz and data/adverbs.txt."""
    counts = tag_counts(folder / "cntlist.rev")
    table = {kind: part_of_speech(folder, kind, counts) for kind in FILES}
    text = json.dumps(table, ensure_ascii=True, separators=(",", ":"), sort_keys=True)
    # Level 9 and no time stamp: the same bytes on every run.
    (DATA / "wordnet.json.gz").write_bytes(gzip.compress(text.encode("ascii"), compresslevel=9, mtime=0))
    (DATA / "adverbs.txt").write_text("\n".join(adverbs(folder, counts)) + "\n", encoding="ascii")


def tag_counts(path: Path) -> Counter[tuple[str, str]]:
    """Return how often each (kind, lemma) was seen in the tagged texts that come with WordNet."""
    found: Counter[tuple[str, str]] = Counter()
    for line in path.read_text("ascii").splitlines():
        sense, _, count = line.split()
        lemma, _, rest = sense.partition("%")
        found[KINDS[rest[0]], lemma] += int(count)
    return found


def part_of_speech(folder: Path, kind: str, counts: Counter[tuple[str, str]]) -> dict[str, Any]:
    """Return one part of speech.

    Synsets are numbered in the order of the file. `synsets`: single-word lemmas of each, joined by spaces; "" where all
    have several words. `satellites`: numbers of adjective satellites. `hypernyms`: of each the numbers of its direct
    hypernyms. `senses`: of each lemma (lower case) the numbers of its synsets, most frequent first. `irregular`: forms
    to lemmas. `antonyms`: direct ones. `counts`: of lemmas seen in tagged text.
    """
    offsets: list[str] = []
    lemmas: list[str] = []
    above: list[list[str]] = []
    antonyms: dict[str, set[str]] = {}
    opposite: list[tuple[str, str, int]] = []
    words_of: dict[str, list[str]] = {}
    satellites: list[int] = []
    for line in (folder / f"data.{FILES[kind]}").read_text("ascii").splitlines():
        if line.startswith("  "):
            continue
        parts = line.partition("|")[0].split()
        size = int(parts[3], 16)
        # A marker such as "(a)" says where an adjective may stand; it is no part of the word.
        words = [parts[4 + 2 * at].partition("(")[0] for at in range(size)]
        first = 4 + 2 * size
        pointers = [parts[first + 1 + 4 * at : first + 5 + 4 * at] for at in range(int(parts[first]))]
        if parts[2] == "s":
            satellites.append(len(offsets))
        words_of[parts[0]] = words
        offsets.append(parts[0])
        lemmas.append(" ".join(word for word in words if "_" not in word))
        above.append([target for symbol, target, _, _ in pointers if symbol in POINTERS[kind]])
        for symbol, target, part, source_target in pointers:
            if symbol == "!" and KINDS.get(part, part) == kind and source_target != "0000":
                opposite.append((words[int(source_target[:2], 16) - 1], target, int(source_target[2:], 16) - 1))
    for word, target, place in opposite:
        other = words_of[target][place]
        if "_" not in word + other:
            antonyms.setdefault(word.lower(), set()).add(other)
    number = {offset: at for at, offset in enumerate(offsets)}
    senses: dict[str, list[int]] = {}
    for line in (folder / f"index.{FILES[kind]}").read_text("ascii").splitlines():
        if line.startswith("  "):
            continue
        parts = line.split()
        if "_" not in parts[0]:
            senses[parts[0]] = [number[offset] for offset in parts[-int(parts[2]) :]]
    irregular: dict[str, list[str]] = {}
    for line in (folder / f"{FILES[kind]}.exc").read_text("ascii").splitlines():
        form, *bases = line.split()
        known = [base for base in bases if base in senses and base != form]
        if "_" not in form and known:
            irregular[form] = known
    return {
        "synsets": lemmas,
        "satellites": satellites,
        "hypernyms": {str(at): [number[offset] for offset in row] for at, row in enumerate(above) if row},
        "senses": senses,
        "irregular": irregular,
        "antonyms": {word: sorted(others) for word, others in antonyms.items()},
        "counts": {lemma: counts[kind, lemma] for lemma in senses if counts[kind, lemma]},
    }


def adverbs(folder: Path, counts: Counter[tuple[str, str]]) -> list[str]:
    """Return the most frequent single-word adverbs in -ly that deny nothing, most frequent first."""
    lines = (folder / "index.adv").read_text("ascii").splitlines()
    words = [line.split()[0] for line in lines if not line.startswith("  ")]
    fitting = [w for w in words if w.isalpha() and w.endswith("ly") and w not in NEGATIVE and not w.startswith("un")]
    return sorted(fitting, key=lambda word: (-counts["r", word], word))[:ADVERBS]


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else DEBIAN)
