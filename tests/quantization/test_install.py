"""Low-bit models put in place: folds, places, reports, and all that is refused before anything changes."""

from __future__ import annotations

import copy
import dataclasses
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from block_cases import BlockCase, block_cases
from steadyvlm.errors import CheckpointError, Unsupported
from steadyvlm.quantization.folding import Written, joined_norm, scale_home
from steadyvlm.quantization.hadamard_w4a4 import HadamardW4A4
from steadyvlm.quantization.install import install, report
from steadyvlm.quantization.low_bit import LowBitLinear
from steadyvlm.quantization.rtn_w4a4 import RTNW4A4
from steadyvlm.quantization.settings import LowBitSettings
from steadyvlm.quantization.state import BlockState, Clip, ReaderState, Transform
from steadyvlm.quantization.structure import Feed
from steadyvlm.quantization.transforms import TransformedNorm, factors
from tiny import make_module, tiny_llava

CASES = pytest.mark.parametrize("case", block_cases(), ids=str)
FINE = LowBitSettings(weight_bits=8, activation_bits=16, kv_bits=16, transform_dtype="float32", scale_dtype="float32")


def named(name: str) -> BlockCase:
    return next(case for case in block_cases() if case.name == name)


def near_one(order: int, seed: int) -> Tensor:
    noise = torch.randn(order, order, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    return torch.eye(order, dtype=torch.float64) + 0.15 * noise


def everything(case: BlockCase) -> BlockState:
    """A state that uses all there is to decide."""
    heads, readers = case.block.heads, {}
    values = None if heads is None else near_one(heads.width, 1)
    for number, reader in enumerate(case.block.readers):
        width: Any = case.root.get_submodule(reader.linears[0]).in_features
        left, right = factors(width)
        generator = torch.Generator().manual_seed(number)
        scale: Tensor | None = torch.rand(width, dtype=torch.float64, generator=generator) + 0.5
        right_side = near_one(right, 20 + number)
        if reader.feed == "attention_output":
            assert values is not None
            left, right_side, scale = width // len(values), values, None
        readers[reader.feed] = ReaderState(Transform(near_one(left, 10 + number), right_side, scale))
    keys = near_one(heads.width, 2) if heads is not None and heads.cached else None
    return BlockState(readers, keys=keys, values=values)


def put(case: BlockCase, state: BlockState | None, settings: LowBitSettings = FINE) -> tuple[nn.Module, Any]:
    root = copy.deepcopy(case.root)
    states = {} if state is None else {case.block.path: state}
    return root, install([case.block], states, root, settings)


def relative(found: Tensor, exact: Tensor) -> float:
    return float((found - exact).norm() / exact.norm())


@CASES
def test_transforms_in_place_change_nothing_but_rounding(case: BlockCase) -> None:
    """With 8-bit weights and activations as they are, a fold that was wrong or missing would stand out."""
    plain = relative(case.original(put(case, None)[0]), case.original())
    root, (layers, skipped) = put(case, everything(case))
    assert relative(case.original(root), case.original()) < 2.5 * plain + 0.01 < 0.06
    assert [layer.name for layer in layers] == list(case.block.linears)
    assert skipped == ()


@CASES
@pytest.mark.parametrize("bits", [4, 8])
def test_errors_are_measured_in_the_original_basis(case: BlockCase, bits: int) -> None:
    """Undone by full matrices, one linear at a time."""
    state = everything(case)
    root, (layers, _) = put(case, state, dataclasses.replace(FINE, weight_bits=bits))
    errors = {layer.name: layer.relative_error for layer in layers}
    for reader in case.block.readers:
        transform = state.readers[reader.feed].transform
        assert transform is not None
        width = transform.left.shape[0] * transform.right.shape[0]
        scale = torch.ones(width, dtype=torch.float64) if transform.scale is None else transform.scale
        full = scale[:, None] * torch.kron(transform.left, transform.right)
        for path in reader.linears:
            old: Any = case.root.get_submodule(path)
            new: Any = root.get_submodule(path)
            undone = new.weight_dequantized().double() @ full.T
            heads = case.block.heads
            if heads is not None and heads.value == path:
                start, stop = heads.value_rows
                assert state.values is not None
                turned = undone[start:stop].view(-1, heads.width, old.in_features)
                undone[start:stop] = (torch.linalg.inv(state.values).T @ turned).view(stop - start, -1)
            taker = next((other for other in case.block.readers if other.scaled_by == path), None)
            if taker is not None:
                taken = state.readers[taker.feed].transform
                assert taken is not None
                assert taken.scale is not None
                undone /= taken.scale[:, None]
            assert relative(undone, old.weight.detach().double()) == pytest.approx(errors[path], rel=1e-3)
            assert errors[path] < (0.3 if bits == 4 else 0.02)


def test_a_scale_is_folded_into_norm_weight_and_bias() -> None:
    case = named("clip")
    state = everything(case)
    root, _ = put(case, state)
    for reader in case.block.readers:
        if reader.norm is None:
            continue
        old: Any = case.root.get_submodule(reader.norm)
        new: Any = root.get_submodule(reader.norm)
        transform = state.readers[reader.feed].transform
        assert transform is not None
        assert transform.scale is not None
        assert isinstance(new, TransformedNorm)
        assert torch.allclose(new.norm.weight, old.weight * transform.scale.float())
        assert torch.allclose(new.norm.bias, old.bias * transform.scale.float())
        assert new.transform.scale is None
        assert not new.training


@pytest.mark.parametrize("name", ["llama", "qwen2.5 vision"])
def test_a_scale_folded_into_rows_is_one_at_work(name: str) -> None:
    """Taken from the block, the linear in front no longer takes it, and its bias neither."""
    case = named(name)
    state = everything(case)
    root, _ = put(case, state)
    readers = tuple(dataclasses.replace(reader, scaled_by=None) for reader in case.block.readers)
    online = dataclasses.replace(case, block=dataclasses.replace(case.block, readers=readers))
    other, _ = put(online, state)
    assert relative(case.original(root), online.original(other)) < 0.01
    down = case.block.reader("mlp_output").linears[0]
    folded, working = (getattr(module.get_submodule(down).transform, "scale", None) for module in (root, other))
    assert folded is None
    assert working is not None


def test_a_scale_that_repeats_is_folded_into_the_norm_in_front_of_joined_rows() -> None:
    case = named("merger")
    state = everything(case)
    transform = state.readers["connector_1"].transform
    assert transform is not None
    assert transform.scale is not None
    tied = dataclasses.replace(transform, scale=transform.scale[:16].repeat(4))
    root, _ = put(case, dataclasses.replace(state, readers={**state.readers, "connector_1": ReaderState(tied)}))
    old, new = (module.get_submodule(case.block.path) for module in (case.root, root))
    assert torch.allclose(new.ln_q.weight, old.ln_q.weight * transform.scale[:16].float())  # type: ignore[union-attr, operator]
    online: Any = root.get_submodule(case.block.readers[0].linears[0])
    assert online.transform.scale is None
    assert relative(case.original(root), case.original()) < 0.04
    reader = case.block.reader("connector_1")
    assert scale_home(case.block, reader, case.root, transform.scale) == "online"
    assert joined_norm(case.block, case.block.reader("connector_2"), case.root) is None
    projector = named("projector")
    assert joined_norm(projector.block, projector.block.reader("connector_1"), projector.root) is None


def test_a_norm_without_weights_takes_no_scale() -> None:
    case = named("clip")
    root = copy.deepcopy(case.root)
    for reader in case.block.readers:
        if reader.norm is not None:
            root.set_submodule(reader.norm, nn.LayerNorm(16, elementwise_affine=False))
    case = dataclasses.replace(case, root=root)
    changed, _ = put(case, everything(case))
    assert relative(case.original(changed), case.original()) < 0.05
    norm: Any = changed.get_submodule(f"{case.block.path}.layer_norm1")
    assert norm.transform.scale is not None


def test_only_layers_with_a_cache_get_a_quantiser_of_it() -> None:
    settings = LowBitSettings(kv_in_prefill=False, kv_bits=3)
    case = named("llama")
    assert case.block.heads is not None
    state = dataclasses.replace(everything(case), key_clip=Clip(0.9, 0.8), value_clip=Clip(0.7, 0.6))
    root, _ = put(case, state, settings)
    made: Any = root.get_submodule(case.block.heads.path).kv_quantizer
    assert (made.bits, made.in_prefill, made.width) == (3, False, case.block.heads.width)
    assert (made.key_clip, made.value_clip) == (Clip(0.9, 0.8), Clip(0.7, 0.6))
    assert made.transform.dtype == torch.float16
    assert put(case, None, settings)[0].get_submodule(case.block.heads.path).kv_quantizer.transform is None  # type: ignore[union-attr]
    unquantised = dataclasses.replace(settings, kv_bits=16)
    vision = named("clip")
    for other, how in ((case, unquantised), (vision, settings)):
        assert other.block.heads is not None
        attention = put(other, everything(other), how)[0].get_submodule(other.block.heads.path)
        assert not hasattr(attention, "kv_quantizer")


def test_edges_of_the_tower_keep_more_bits() -> None:
    model = tiny_llava().copy()
    blocks = model.blocks(("language", "vision"))
    layers, _ = install(blocks, {}, model.module, LowBitSettings(vision_edge_bits=8))
    tower = sorted({layer.name.split(".")[4] for layer in layers if "vision" in layer.name})
    bits = {layer.name: layer.bits for layer in layers}
    edges = {layer.name.split(".")[4] for layer in layers if "vision" in layer.name and layer.bits == 8}
    assert edges == {tower[0], tower[-1]}
    assert {bits[layer.name] for layer in layers if "language" in layer.name} == {4}
    edge: Any = model.module.get_submodule(next(name for name, held in bits.items() if held == 8))
    assert (edge.weight_bits, edge.activation_bits) == (8, 8)


def test_sizes_are_those_of_what_is_held() -> None:
    case = named("qwen")
    _, (layers, _) = put(case, None, LowBitSettings())
    for layer in layers:
        rows, width = layer.shape
        assert layer.original_bytes == rows * width * 4
        assert layer.packed_bytes == layer.held_bytes == rows * width // 2 + 2 * rows
    _, (layers, _) = put(case, None, LowBitSettings(weight_bits=6))
    assert all(layer.held_bytes > layer.packed_bytes for layer in layers)


def test_settings_reach_the_linears() -> None:
    case = named("projector")
    clip = Clip(0.8, 0.7)
    state = BlockState({"connector_1": ReaderState(activation=clip)})
    root, _ = put(case, state, LowBitSettings(backend="reference", activation_bits=5, scale_dtype="float32"))
    first, second = (root.get_submodule(path) for path in case.block.linears)
    assert isinstance(first, LowBitLinear)
    assert isinstance(second, LowBitLinear)
    assert (first.activation_clip, second.activation_clip) == (clip, Clip())
    assert (first.backend, first.activation_bits, first.scale.dtype) == ("reference", 5, torch.float32)
    assert first.bias is not None


def test_weights_are_clipped_before_they_are_rounded() -> None:
    case = named("projector")
    path = next(case.block.linears)
    old: Any = case.root.get_submodule(path)
    rows = old.out_features
    clip = Clip(torch.full((rows, 1), 0.5), torch.full((rows, 1), 0.25))
    root, _ = put(case, BlockState({"connector_1": ReaderState(weights={path: clip})}))
    new: Any = root.get_submodule(path)
    kept = new.weight_dequantized()
    assert torch.allclose(kept.amax(1), 0.5 * old.weight.amax(1), rtol=0.02)
    assert torch.allclose(kept.amin(1), 0.25 * old.weight.amin(1), rtol=0.05)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_a_model_in_half_precision_stays_so(dtype: torch.dtype) -> None:
    root = copy.deepcopy(named("clip").root).to(dtype)
    case = dataclasses.replace(named("clip"), root=root)
    changed, _ = put(case, everything(case))
    layer: Any = changed.get_submodule(case.block.path)
    x = torch.randn(1, 5, 16).to(dtype)
    with torch.no_grad():
        found, exact = layer(x, None), case.root.get_submodule(case.block.path)(x, None)
    assert found.dtype == dtype
    assert layer.layer_norm1.norm.weight.dtype == dtype
    assert layer.mlp.fc1.bias.dtype == dtype
    assert relative(found.float(), exact.float()) < 0.05


def test_a_block_that_cannot_be_done_whole_is_left_alone() -> None:
    model = tiny_llava().copy()
    odd = "model.language_model.layers.1.mlp.gate_proj"
    model.module.set_submodule(odd, nn.Linear(32, 48, dtype=torch.complex64))
    blocks = model.blocks(("language",))
    kept = model.module.get_submodule("model.language_model.layers.1.self_attn.q_proj")
    layers, skipped = install(blocks, {}, model.module, LowBitSettings())
    assert {layer.name.split(".")[3] for layer in layers} == {"0", "2", "3"}
    reasons = {layer.name: layer.reason for layer in skipped}
    assert list(reasons) == list(blocks[1].linears)
    assert reasons[odd] == "its weight is torch.complex64, not floating point"
    assert f"its block holds '{odd}', which cannot be quantised" in reasons[next(blocks[1].linears)]
    assert model.module.get_submodule("model.language_model.layers.1.self_attn.q_proj") is kept
    with pytest.raises(Unsupported, match=r"no whole block to quantise: .*q_proj: its block holds"):
        install([blocks[1]], {}, model.module, LowBitSettings())


@pytest.mark.parametrize("quantizer", [RTNW4A4(), HadamardW4A4()], ids=["rtn_w4a4", "hadamard_w4a4"])
def test_what_is_packed_already_is_left_alone_and_the_rest_is_done(quantizer: RTNW4A4 | HadamardW4A4) -> None:
    model = tiny_llava().copy()
    HadamardW4A4().quantize_blocks(model.blocks(("language",)), model.module)
    packed = {path: model.module.get_submodule(path) for block in model.blocks(("language",)) for path in block.linears}
    done = quantizer.quantize_blocks(model.blocks(("language", "connector")), model.module)
    assert {layer.name for layer in done.layers} == {path for b in model.blocks(("connector",)) for path in b.linears}
    assert {layer.name for layer in done.skipped} == packed.keys()
    assert all(model.module.get_submodule(path) is linear for path, linear in packed.items())


def test_what_cannot_be_quantised_is_refused_before_anything_changes() -> None:
    module = make_module()
    blocks = tiny_llava().blocks(("language",))
    before = {path: module.get_submodule(path) for block in blocks for path in block.linears}
    bad: Any = before[[*blocks[-1].linears][-1]]
    bad.weight.data[0, 0] = torch.inf
    with pytest.raises(CheckpointError, match=[*blocks[-1].linears][-1]):
        install(blocks, {}, module, LowBitSettings())
    with pytest.raises(Unsupported, match="nothing to quantise"):
        install([], {}, module, LowBitSettings())
    assert all(module.get_submodule(path) is linear for path, linear in before.items())


def test_a_scale_too_large_for_half_precision_is_told() -> None:
    case = named("projector")
    tiny = Transform(torch.eye(4), torch.eye(4), torch.full((16,), 1e-8))
    state = BlockState({"connector_1": ReaderState(tiny)})
    settings = LowBitSettings(transform_dtype="float32")
    with pytest.raises(CheckpointError, match=r"linear_1' cannot be quantised once it is transformed.*scale_dtype"):
        put(case, state, settings)
    put(case, state, dataclasses.replace(settings, scale_dtype="float32"))


IDENTITY = Transform(torch.eye(4), torch.eye(8))
BAD: dict[str, tuple[BlockState, str]] = {
    "another input": (BlockState({"connector_1": ReaderState()}), "it has no input 'connector_1'"),
    "width": (
        BlockState({"mlp_input": ReaderState(Transform(torch.eye(4), torch.eye(4)))}),
        "for a width of 4 x 4, and it reads 32",
    ),
    "square": (
        BlockState({"mlp_input": ReaderState(Transform(torch.eye(4), torch.ones(8, 4)))}),
        "the right transform of 'mlp_input' is 8x4, and 8x8 was expected",
    ),
    "finite": (
        BlockState({"mlp_input": ReaderState(Transform(torch.full((4, 4), torch.nan), torch.eye(8)))}),
        "the left transform of 'mlp_input' holds entries that are not finite",
    ),
    "inverse": (
        BlockState({"mlp_input": ReaderState(Transform(torch.ones(4, 4), torch.eye(8)))}),
        "has no inverse",
    ),
    "scale": (
        BlockState({"mlp_input": ReaderState(Transform(torch.eye(4), torch.eye(8), torch.ones(8)))}),
        "the scale of 'mlp_input' is 8, and it reads 32",
    ),
    "zero": (
        BlockState({"mlp_input": ReaderState(Transform(torch.eye(4), torch.eye(8), torch.zeros(32)))}),
        "not finite and above zero",
    ),
    "values": (BlockState(values=torch.eye(4)), "the transform of the values is 4x4, and 8x8 was expected"),
    "keys": (BlockState(keys=torch.tensor(1.0)), "the transform of the keys is a single number"),
    "turned": (
        BlockState({"attention_output": ReaderState(IDENTITY)}, values=2 * torch.eye(8)),
        "is not the transform of the values",
    ),
    "scaled values": (
        BlockState(
            {"attention_output": ReaderState(Transform(torch.eye(4), torch.eye(8), torch.ones(32)))},
            values=torch.eye(8),
        ),
        "which values in another basis cannot take",
    ),
    "share": (BlockState(key_clip=Clip(1.5, 1.0)), r"the clip of the keys is 1.5, outside \(0, 1\]"),
    "rows": (
        BlockState({"mlp_output": ReaderState(activation=Clip(torch.ones(3, 1)))}),
        "the clip of 'mlp_output' is 3x1, and a number was expected",
    ),
    "unknown linear": (
        BlockState({"mlp_output": ReaderState(weights={"up": Clip()})}),
        "'mlp_output' has no linear 'up'",
    ),
    "weight rows": (
        BlockState(
            {"mlp_output": ReaderState(weights={"model.language_model.layers.1.mlp.down_proj": Clip(torch.ones(4, 1))})}
        ),
        "is 4x1, and 32x1 was expected",
    ),
    "weight share": (
        BlockState(
            {
                "mlp_output": ReaderState(
                    weights={"model.language_model.layers.1.mlp.down_proj": Clip(torch.zeros(32, 1))}
                )
            }
        ),
        r"holds shares outside \(0, 1\]",
    ),
}


@pytest.mark.parametrize("name", BAD)
def test_decisions_that_do_not_fit_are_refused_before_anything_changes(name: str) -> None:
    case = named("llama")
    state, message = BAD[name]
    root = copy.deepcopy(case.root)
    linears = [root.get_submodule(path) for path in case.block.linears]
    with pytest.raises(CheckpointError, match=f"block '{case.block.path}' does not fit it: .*{message}"):
        install([case.block], {case.block.path: state}, root, LowBitSettings())
    assert linears == [root.get_submodule(path) for path in case.block.linears]


def test_decisions_about_other_blocks_are_refused() -> None:
    case = named("clip")
    with pytest.raises(CheckpointError, match="decisions about 'elsewhere', which is none of the 1 blocks"):
        install([case.block], {"elsewhere": BlockState()}, case.root, LowBitSettings())
    with pytest.raises(CheckpointError, match="a transform of the keys is given, and it has none"):
        install([case.block], {case.block.path: BlockState(keys=torch.eye(8))}, case.root, LowBitSettings())


def test_feeds_of_a_state_are_those_of_the_contract() -> None:
    feeds: set[Feed] = {reader.feed for case in block_cases() for reader in case.block.readers}
    assert len(feeds) == 6


def test_outputs_are_undone_as_they_were_done() -> None:
    weight, bias = torch.randn(8, 5, dtype=torch.float64), torch.randn(8, dtype=torch.float64)
    written = Written((2, 6), near_one(2, 0), torch.rand(8) + 0.5)
    for part in (weight, bias):
        assert not torch.allclose(written.applied(part), part)
        assert torch.allclose(written.undone(written.applied(part)), part)
    nothing = Written(None, None, None)
    assert nothing.applied(weight) is weight
    assert nothing.undone(weight) is weight


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        (LowBitSettings(), "Activations have 4 bits, the cache 4 bits."),
        (LowBitSettings(kv_in_prefill=False), "the cache 4 bits, which prefill does not read."),
        (LowBitSettings(kv_bits=16, kv_in_prefill=False), "the cache stays unquantised."),
    ],
)
def test_a_report_tells_what_else_has_few_bits(settings: LowBitSettings, words: str) -> None:
    found = report("mine", (), (), settings, ["More."])
    assert found.notes[0].endswith(words)
    assert found.notes[-1] == "More."
    assert found.quantizer == "mine"
