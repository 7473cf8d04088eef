from __future__ import annotations

from steadyvlm.cost import published, scoring

LLAVA, QWEN = published("llava-1.5-7b").decoder, published("qwen2.5-vl-7b").decoder


def test_one_query_row_is_a_sliver_of_a_layer() -> None:
    assert scoring.attention_rows(LLAVA, 1, 636).macs == 636 * 4096
    assert scoring.attention_rows(QWEN, 5, 100).macs == 5 * 100 * 28 * 128


def test_attention_ahead_of_a_layer_pays_for_its_projections() -> None:
    found = scoring.projected_attention_rows(QWEN, 1, 300).macs
    assert found == 3584 * 3584 + 300 * 3584 * 512 + 300 * 3584


def test_similarities_projections_and_merges() -> None:
    assert scoring.similarities(576, 576, 4096).macs == 576 * 576 * 4096
    assert scoring.projection(577, 1024, 1024).macs == 577 * 1024**2
    assert scoring.merge(64, 4096).macs == 64 * 4096


def test_a_text_tower_layer_by_layer() -> None:
    assert scoring.text_tower(2, 8, 32, 5).macs == 2 * (4 * 5 * 64 + 2 * 25 * 8 + 2 * 5 * 8 * 32)


def test_spectra_use_the_smaller_gram_matrix() -> None:
    tall = {item.what: item.macs for item in scoring.spectra([100, 0], 10, rank=0.5)}
    assert tall["Gram matrices"] == 10 * 10 * 100
    assert tall["eigenproblems"] == 4500
    assert tall["leverage"] == 100 * 10 * 5
    both = [item.macs for item in scoring.spectra([100, 7], 10, rank=0.5)]
    assert both == [10 * 10 * 100 + 7 * 7 * 10, 4500 + (9 * 343 + 1) // 2, 5000]


def test_a_pruning_module_matrix_by_matrix() -> None:
    width, inner, visual, text = 8, 4, 6, 5
    queries, residual = visual * width * inner, visual * width * inner
    keys_values = 2 * text * width * inner
    attention = 2 * visual * text * inner
    output, decision = visual * inner * inner, visual * inner * inner + visual * inner * 2
    total = queries + residual + keys_values + attention + output + decision
    assert scoring.pruning_module(width, inner, visual, text).macs == total


def test_lines_can_be_named() -> None:
    assert scoring.similarities(2, 3, 4, what="patches with the question") == scoring.Scoring(
        "patches with the question", 24
    )
