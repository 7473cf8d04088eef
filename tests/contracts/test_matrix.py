"""The support matrix says what really happens: each method on each family answers, or is refused with that reason."""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import Any

import pytest
import torch

from reduction_cases import tiny_options
from steadyvlm.cli.matrix import Support, matrix_lines, reasons, support, support_matrix
from steadyvlm.engine import Request, generate
from steadyvlm.engine.signals import check_reduction
from steadyvlm.errors import Unsupported
from steadyvlm.models.adapter import EncodedImage
from steadyvlm.models.families import FAMILIES
from steadyvlm.models.llava import Llava
from steadyvlm.records import Generation
from steadyvlm.reduction import REDUCTIONS
from steadyvlm.reduction.base import FamilyAware, Signal, Site
from tiny import make_image, make_image_processor, make_module, make_tokenizer
from tiny_families import tiny_family

MATRIX = support_matrix()
REQUEST = Request((make_image(0, 60, 60),), "what colour is the star?", 1)


class Related(Llava):
    """A stand-in for the text tower beside a tiny model."""

    def text_relevance(self, encoded: EncodedImage, question: str, text_tower: str) -> torch.Tensor:
        return encoded.rows[1:].float().sum(-1)


@functools.cache
def model_of(family: str) -> Any:
    if family == "llava":
        return Related(make_module(), make_tokenizer(), make_image_processor(), name="tiny llava")
    return tiny_family(family)


def test_every_method_has_a_word_for_every_family() -> None:
    assert list(MATRIX) == list(REDUCTIONS)
    assert all(list(row) == list(FAMILIES) for row in MATRIX.values())
    assert all(what.reason.endswith(".") for row in MATRIX.values() for what in row.values() if what.kind != "works")
    assert {what.kind for row in MATRIX.values() for what in row.values()} == {"works", "equivalent", "refused"}


@pytest.mark.parametrize("family", FAMILIES)
def test_the_table_gives_a_family_the_signals_its_models_have(family: str) -> None:
    info = model_of(family).info
    assert info.family.split("/")[0] == family
    assert {signal.value for signal in info.signals if signal.of_encoder} == set(FAMILIES[family].signals)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("name", REDUCTIONS)
def test_a_cell_of_the_matrix_is_what_happens(name: str, family: str) -> None:
    model, reduction, said = model_of(family), REDUCTIONS.load(name)(**tiny_options(name)), MATRIX[name][family]
    if said.kind == "refused":
        with pytest.raises(Unsupported) as refused:
            check_reduction(reduction, model)
        assert said.reason.rstrip(".") in str(refused.value)
        return
    assert isinstance(generate(model, [REQUEST], reduction, max_new_tokens=1)[0], Generation)
    stated = reduction.equivalents.get(family, "") if isinstance(reduction, FamilyAware) else ""
    assert said == (Support("equivalent", stated) if stated else Support("works"))


@dataclass(frozen=True)
class NeedsCls:
    """A method that says nothing about families but reads what a Qwen tower does not have."""

    needs = frozenset({Signal.CLS_ATTENTION, Signal.HIDDEN})
    compact_positions = True

    def sites(self, num_layers: int) -> tuple[Site, ...]:
        return (Site(),)


def test_a_signal_the_tower_lacks_is_a_refusal() -> None:
    reduction: Any = NeedsCls()
    assert support(reduction, "llava", FAMILIES["llava"]) == Support("works")
    said = support(reduction, "qwen2_vl", FAMILIES["qwen2_vl"])
    assert said == Support("refused", "Its vision tower gives no cls_attention.")
    with pytest.raises(Unsupported, match="cls_attention"):
        check_reduction(reduction, model_of("qwen2_vl"))


def test_the_matrix_reads_as_a_table_with_every_reason_once() -> None:
    lines = list(matrix_lines(MATRIX))
    assert lines[0].split() == list(FAMILIES)
    assert next(line for line in lines if line.startswith("trim ")).split() == [
        "trim",
        *(MATRIX["trim"][family].kind for family in FAMILIES),
    ]
    told = [line for line in lines[len(MATRIX) + 2 :]]
    assert len(told) == len(reasons(MATRIX)) == len({line.split(": ", 1)[1] for line in told})
    mentioned = {(name, family) for names, families, _ in reasons(MATRIX) for name in names for family in families}
    assert mentioned == {(name, family) for name, row in MATRIX.items() for family, what in row.items() if what.reason}
