"""A key changes with everything that is meant to change an answer, and with nothing else."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest

from steadyvlm.errors import ImageError, SampleError
from steadyvlm.records import Sample
from steadyvlm.study.identity import UNREADABLE, Decoding, Item, cell_key, identify, refuse_duplicates, subset
from steadyvlm.tasks.sources import BytesImage, FileImage

PLAIN = Sample(
    id="1",
    task="t",
    question="What colour?",
    prompt="What colour? Answer in one word.",
    kind="choice",
    references=("A",),
    choices=("red", "blue"),
    images=(BytesImage(b"one"), BytesImage(b"two")),
    cluster="scene",
    family="colour",
)
OTHER = dataclasses.replace(PLAIN, id="2", prompt="And now?", question="And now?")


def key(samples: list[Sample], **changes: Any) -> str:
    values: dict[str, Any] = {
        "weights_sha256": "w",
        "recipe": "keep_all",
        "dtype": "float32",
        "task": "t",
        "task_version": "1",
        **changes,
    }
    decoding = values.pop("decoding", Decoding(8, ("\n",)))
    return cell_key(identify(samples), decoding, **values)


def test_the_order_of_samples_is_irrelevant() -> None:
    assert key([PLAIN, OTHER]) == key([OTHER, PLAIN])


@pytest.mark.parametrize(
    "changes",
    [
        {"id": "3"},
        {"prompt": "What colour? Answer in one word"},
        {"question": "What color?"},
        {"images": (BytesImage(b"one"), BytesImage(b"TWO"))},
        {"images": (BytesImage(b"two"), BytesImage(b"one"))},
        {"images": (BytesImage(b"one"),)},
        {"references": ("B",)},
        {"choices": ("blue", "red")},
        {"kind": "open"},
        {"perturbation": "blur-3"},
        {"cluster": "another"},
        {"family": "hue"},
    ],
)
def test_everything_about_a_sample_is_in_the_key(changes: dict[str, Any]) -> None:
    assert key([dataclasses.replace(PLAIN, **changes), OTHER]) != key([PLAIN, OTHER])


@pytest.mark.parametrize(
    "changes",
    [
        {"weights_sha256": "v"},
        {"recipe": "fastv(layer=3, keep_ratio=0.5)"},
        {"dtype": "bfloat16"},
        {"task": "u"},
        {"task_version": "2"},
        {"decoding": Decoding(9, ("\n",))},
        {"decoding": Decoding(8, ())},
        {"condition": ("control", 5, "shuffled", 0)},
    ],
)
def test_everything_about_a_run_is_in_the_key(changes: dict[str, Any]) -> None:
    assert key([PLAIN], **changes) != key([PLAIN])


def test_a_sample_more_or_less_changes_the_key() -> None:
    assert len({key([PLAIN]), key([PLAIN, OTHER]), key([OTHER])}) == 3


class Counted:
    """An image that counts how often it is read, hashable or not."""

    def __init__(self, *, hashable: bool) -> None:
        self.reads = 0
        if not hashable:
            self.__class__ = Unhashable

    def load(self) -> None:
        raise AssertionError("hashing needs no pixels")

    def sha256(self) -> str:
        self.reads += 1
        return "digest"


class Unhashable(Counted):
    __hash__ = None  # type: ignore[assignment]  # what a mutable dataclass does


@pytest.mark.parametrize("hashable", [True, False])
def test_a_shared_image_is_read_once(hashable: bool) -> None:
    image = Counted(hashable=hashable)
    items = identify([dataclasses.replace(PLAIN, id=str(n), images=(image,)) for n in range(5)])
    assert image.reads == 1
    assert {item.image_sha256 for item in items} == {("digest",)}


def test_an_unreadable_image_is_no_obstacle() -> None:
    image = FileImage("/nowhere/at/all.png")
    with pytest.raises(ImageError):
        image.sha256()
    (item,) = identify([dataclasses.replace(PLAIN, images=(image,))])
    assert item.image_sha256 == (UNREADABLE,)


def test_half_a_character_is_refused() -> None:
    with pytest.raises(SampleError, match="half a Unicode character"):
        identify([dataclasses.replace(PLAIN, prompt="bad \ud83d")])


def test_duplicates_are_named() -> None:
    items = identify([PLAIN, OTHER, dataclasses.replace(PLAIN, prompt="other text")])
    with pytest.raises(SampleError, match=r"1 sample ids of study 's' occur more than once \(1\)"):
        refuse_duplicates(items, "study 's'")
    refuse_duplicates(items[:2], "study 's'")


@pytest.fixture
def clustered() -> tuple[Item, ...]:
    return identify([dataclasses.replace(PLAIN, id=f"{n}", cluster=f"c{n // 3}", images=()) for n in range(30)])


def ids(items: tuple[Item, ...]) -> list[str]:
    return [item.sample.id for item in items]


def test_a_limit_takes_whole_clusters_spread_over_the_task(clustered: tuple[Item, ...]) -> None:
    nine = subset(clustered, 9)
    clusters = [item.sample.cluster for item in nine]
    assert len(nine) == 9
    assert len(set(clusters)) == 3
    assert set(clusters) != {"c0", "c1", "c2"}
    assert ids(nine) == sorted(ids(nine), key=int)


def test_limits_are_nested_and_exact(clustered: tuple[Item, ...]) -> None:
    for small, large in ((1, 2), (4, 5), (7, 20), (29, 30)):
        assert len(subset(clustered, small)) == small
        assert set(ids(subset(clustered, small))) <= set(ids(subset(clustered, large)))


def test_a_limit_does_not_depend_on_the_order(clustered: tuple[Item, ...]) -> None:
    assert sorted(ids(subset(clustered[::-1], 7))) == sorted(ids(subset(clustered, 7)))


@pytest.mark.parametrize("limit", [None, 30, 31])
def test_no_limit_keeps_all(clustered: tuple[Item, ...], limit: int | None) -> None:
    assert subset(clustered, limit) == clustered


def test_samples_without_a_cluster_stand_alone() -> None:
    items = identify([dataclasses.replace(PLAIN, id=f"{n}", cluster="", images=()) for n in range(8)])
    assert len(subset(items, 3)) == 3


def test_item_keys_are_prediction_keys() -> None:
    (item,) = identify([dataclasses.replace(PLAIN, perturbation="blur-1")])
    assert item.key == ("t", "1", "blur-1")
