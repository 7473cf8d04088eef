"""Published figures and the golden counts of the specification, each computed from nothing but token counts."""

from __future__ import annotations

import pytest

from steadyvlm.cost import Counts, count, decoder, published, vision
from steadyvlm.cost.sizes import ClipSizes, ConnectorSizes, QwenVisionSizes
from steadyvlm.reduction.lofi import LoFi

LLAVA, QWEN = published("llava-1.5-7b"), published("qwen2.5-vl-7b")

# Sun et al., arXiv 2503.06794v2, Table 1: TFLOPs with 576, 192, 128 and 64 visual tokens; T fitted, one per data set.
TABLE_1 = {
    "GQA": (60, {576: 9.04, 192: 3.73, 128: 2.89, 64: 2.04}),
    "VQAv2": (57, {576: 9.00, 192: 3.70, 128: 2.85, 64: 2.00}),
    "TextVQA": (115, {576: 9.80, 192: 4.47, 128: 3.62, 64: 2.78}),
}
OURS = {
    "GQA": (9.022, 3.753, 2.890, 2.031),
    "VQAv2": (8.981, 3.713, 2.850, 1.991),
    "TextVQA": (9.787, 4.496, 3.629, 2.767),
}


def llava(visual: list[int], text: int, *, connected: int = 576, head: int | None = None) -> Counts:
    return Counts(tuple(visual), text, ((1, 24, 24),), connected, head_visual=head)


@pytest.mark.parametrize(
    ("model", "projections", "attention", "mlp", "macs"),
    [
        (LLAVA, 42_681_237_504, 3_313_631_232, 86_029_369_344, 132_024_238_080),
        (QWEN, 18_673_041_408, 2_899_427_328, 129_544_224_768, 151_116_693_504),
    ],
)
def test_a_decoder_layer_on_636_tokens(model: object, projections: int, attention: int, mlp: int, macs: int) -> None:
    cost = decoder.layer(model.decoder, 636)  # type: ignore[attr-defined]  # ModelSizes, listed above
    assert (cost.projections, cost.attention, cost.mlp, cost.macs) == (projections, attention, mlp, macs)


def test_grouped_heads_make_keys_and_values_narrow() -> None:
    sizes = QWEN.decoder
    assert decoder.layer(sizes, 1).projections == 2 * 3584 * (3584 + 512)
    assert decoder.layer(sizes, 1).attention == 2 * 3584


def test_vision_towers_and_connectors() -> None:
    assert isinstance(LLAVA.vision, ClipSizes)
    assert isinstance(LLAVA.connector, ConnectorSizes)
    assert isinstance(QWEN.vision, QwenVisionSizes)
    assert vision.clip(LLAVA.vision, (24, 24)) == 190_959_108_096
    assert round(vision.clip(LLAVA.vision, (24, 24), layers=23) / 1e9, 1) == 183.0
    assert vision.connector(LLAVA.connector, 576) == 12_079_595_520
    assert vision.qwen(QWEN.vision, (36, 36)) == 838_936_821_760 + 1_950_842_880
    assert vision.merger(QWEN.vision, (36, 36)) == 14_438_891_520


@pytest.mark.parametrize("data", TABLE_1)
def test_all_points_of_lofi_table_1(data: str) -> None:
    text, points = TABLE_1[data]
    found = {
        kept: count(llava([kept] * 32, text, connected=kept), LLAVA, "lofi").tflops for kept in points
    }  # VisionZip selects before the connector
    assert [round(value, 3) for value in found.values()] == list(OURS[data])
    for kept, printed in points.items():
        assert abs(found[kept] / printed - 1) < 0.01, (kept, found[kept], printed)


@pytest.mark.parametrize(("text", "printed", "kept"), [(60, 2.82, 122.8), (57, 2.78, 122.8), (115, 3.57, 123.6)])
def test_trim_inverts_to_one_number_of_tokens(text: int, printed: float, kept: float) -> None:
    below = count(llava([122] * 32, text, connected=122), LLAVA, "lofi").tflops
    above = count(llava([124] * 32, text, connected=124), LLAVA, "lofi").tflops
    inverted = 122 + 2 * (printed - below) / (above - below)  # the count is all but straight between neighbours
    assert abs(inverted - kept) < 0.1


@pytest.mark.parametrize(
    ("keep_ratio", "expected", "printed"),
    [
        (0.90, (3.631, 3.591, 4.374), (3.65, 3.61, 4.38)),
        (0.85, (2.885, 2.844, 3.624), None),  # published 3.02, 2.98, 3.75: 3 to 5 % off, unexplained and not fitted
    ],
)
def test_lofi_with_a_fixed_ratio(
    keep_ratio: float, expected: tuple[float, ...], printed: tuple[float, ...] | None
) -> None:
    """The paper also reduces after the last layer, before the output head; this engine reads only one row there."""
    method, visual = LoFi(keep_ratio=keep_ratio), [576]
    for _ in range(32):
        removed = method.removed(visual[-1], ipr=0.0)
        visual.append(visual[-1] - removed + 1 if removed > 1 else visual[-1])
    found = [count(llava(visual[:32], text, head=visual[32]), LLAVA, "lofi").tflops for text in (60, 57, 115)]
    assert found == pytest.approx(list(expected), abs=0.001)
    for ours, theirs in zip(found, printed or (), strict=False):
        assert abs(ours / theirs - 1) < 0.01


def uniform(first: int, last: int, *, final: float) -> list[int]:
    """Drop the same share of 576 tokens before each of these layers (QUOTA's uniform split, own-layer)."""
    stages = last - first + 1
    kept = [max(173, round((1 - (1 - final) * (stage + 1) / stages) * 576)) for stage in range(stages)]
    return [576] * first + kept + [kept[-1]] * (32 - first - stages)


@pytest.mark.parametrize(
    ("visual", "ours", "printed"),
    [
        ([576] * 15 + [0] * 17, 47.32, 47.32),  # VTW, K = 15
        ([576] * 6 + [173] * 26, 43.14, 43.20),  # FastV, K = 6
        ([128] * 32, 22.37, 21.73),  # DivPrune
        (uniform(2, 8, final=0.3), 40.89, 40.89),  # QUOTA, layers 2 to 8
    ],
)
def test_quota_table_4_in_its_fitted_profile(visual: list[int], ours: float, printed: float) -> None:
    whole = count(llava([576] * 32, 61), LLAVA, "quota-table4").macs
    share = 100 * count(llava(visual, 61), LLAVA, "quota-table4").macs / whole
    assert share == pytest.approx(ours, abs=0.01)
    assert abs(share - printed) < 0.7


def test_spectra_of_lofi_cost_what_the_specification_estimates() -> None:
    from steadyvlm.cost.scoring import spectra

    gram, eigen, leverage = spectra([576], 4096)
    assert gram.macs == 1_358_954_496  # 1.36 GMAC
    assert round(2 * eigen.macs / 1e9, 1) == 1.7  # GFLOP
    assert leverage.macs == 0  # the eigenvectors are the right singular vectors
    assert round(200 * (gram.macs + eigen.macs) / (2 * 132_024_238_080), 1) == 1.7  # % of a layer
