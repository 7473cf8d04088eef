"""A block that learns is the model's own until it rounds, and what it has learned can be put in place (Q3, Q4, Q5)."""

from __future__ import annotations

import copy
import dataclasses
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from block_cases import BlockCase, PlainContext, block_cases
from steadyvlm.errors import Unsupported
from steadyvlm.quantization.block_simulation import SimulatedBlock
from steadyvlm.quantization.flat_block import FlatBlock
from steadyvlm.quantization.flatquant import FlatQuant, block_loss, mean_squared_error
from steadyvlm.quantization.hadamard_w4a4 import HadamardW4A4
from steadyvlm.quantization.install import install
from steadyvlm.quantization.low_bit import LowBitLinear
from steadyvlm.quantization.state import BlockState
from steadyvlm.quantization.structure import Feed

CASES = pytest.mark.parametrize("case", block_cases(), ids=str)
ATTENDING = pytest.mark.parametrize("case", [case for case in block_cases() if case.context], ids=str)
EXACT = FlatQuant(transform_dtype="float32")


def relative(found: Tensor, exact: Tensor) -> float:
    return float((found - exact).detach().norm() / exact.detach().norm())


def channel_max(case: BlockCase) -> dict[Feed, Tensor]:
    """Not what really enters, but as uneven."""
    generator = torch.Generator().manual_seed(3)
    widths = {reader.feed: case.root.get_submodule(reader.linears[0]).in_features for reader in case.block.readers}
    return {feed: 4 * torch.rand(int(width), generator=generator) ** 3 for feed, width in widths.items()}  # type: ignore[call-overload]


def learner(case: BlockCase, quantizer: FlatQuant = EXACT, dtype: torch.dtype = torch.float32) -> FlatBlock:
    """A block whose matrices are no longer orthogonal and whose clips are no longer equal."""
    generator = torch.Generator().manual_seed(0)
    flat = FlatBlock(case.block, case.root, quantizer, channel_max(case), generator, dtype=dtype)
    with torch.no_grad():
        for name, part in sorted(flat.named_parameters()):
            noise = torch.randn(part.shape, generator=generator).to(dtype)
            clips = name.endswith((".high", ".low"))
            part.copy_(2.5 + 0.5 * noise if clips else part + 0.05 * noise)
    return flat


@CASES
def test_a_plain_block_is_that_of_transformers(case: BlockCase) -> None:
    found = SimulatedBlock(case.block, case.root, EXACT.settings)(case.hidden, case.context)
    assert relative(found, case.original()) < 1e-5
    flat = learner(case)
    assert torch.equal(flat(case.hidden, case.context, quantize=False), found)


@CASES
@pytest.mark.parametrize("parametrization", ["inverse", "cayley"])
@pytest.mark.parametrize(("dtype", "bound"), [(torch.float32, 1e-5), (torch.float64, 1e-10)])
def test_transforms_change_nothing(case: BlockCase, parametrization: str, dtype: torch.dtype, bound: float) -> None:
    flat = learner(case, dataclasses.replace(EXACT, parametrization=parametrization), dtype)
    hidden = case.hidden.to(dtype)
    with torch.no_grad():
        plain = flat(hidden, case.context, quantize=False)
        assert relative(flat(hidden, case.context, quantize=False, transformed=True), plain) < bound
        state = flat.state()
    for reader in state.readers.values():  # they are at work, not the identity
        assert reader.transform is not None
        assert float((reader.transform.left - torch.eye(len(reader.transform.left))).abs().max()) > 0.01


@CASES
def test_a_scale_is_the_same_folded_and_at_work(case: BlockCase) -> None:
    """Without a norm or a linear to take it, the scale works on the input itself."""
    flat = learner(case, dtype=torch.float64)
    state, hidden = flat.state(), case.hidden.double()
    folded = SimulatedBlock(case.block, case.root, EXACT.settings, torch.float64)
    online = SimulatedBlock(case.block, case.root, EXACT.settings, torch.float64)
    for feed, inputs in online.inputs.items():
        online.inputs[feed] = dataclasses.replace(inputs, takes_scale="online")
    online._row_scale = lambda *_: None  # type: ignore[method-assign]
    homes = {inputs.takes_scale for inputs in folded.inputs.values()}
    assert homes == ({"online"} if case.context is None else homes | {"norm"})
    assert relative(folded(hidden, case.context, state), online(hidden, case.context, state)) < 1e-12


@CASES
def test_what_was_learned_can_be_put_in_place(case: BlockCase) -> None:
    """Everything rounded, the Hugging Face block and the simulated one return the same but for ties of rounding."""
    quantizer = dataclasses.replace(EXACT, kv_bits=16, backend="reference")
    flat, root = learner(case, quantizer), copy.deepcopy(case.root)
    simulated = flat(case.hidden, case.context, quantize=True).detach()
    layers, skipped = install([case.block], {case.block.path: flat.state()}, root, quantizer.settings)
    assert [layer.name for layer in layers] == list(case.block.linears)
    assert not skipped
    found, exact = case.original(root), case.original()
    assert relative(simulated, exact) > 0.02
    near = (found - simulated).abs() < 1e-4 * exact.abs().mean()
    assert float(near.float().mean()) > 0.95
    assert relative(found, simulated) < 0.3 * relative(simulated, exact)


@ATTENDING
def test_a_cache_is_put_in_place_too(case: BlockCase) -> None:
    heads = case.block.heads
    assert heads is not None
    assert case.context is not None
    flat, root = learner(case), copy.deepcopy(case.root)
    install([case.block], {case.block.path: flat.state()}, root, EXACT.settings)
    quantizer: Any = getattr(root.get_submodule(heads.path), "kv_quantizer", None)
    assert (quantizer is not None) == heads.cached
    if not heads.cached:
        return
    keys, values, queries = torch.randn(3, 2, heads.kv_count, 9, heads.width).unbind()
    state = flat.state()
    assert state.keys is not None
    met = quantizer.decode(quantizer.encode_keys(keys), torch.float32)
    turned = keys.double() @ state.keys
    assert relative(met, turned) < 0.2
    assert relative(quantizer.turn_queries(queries).double() @ turned.mT, (queries @ keys.mT).double()) < 1e-5
    assert float(quantizer.key_clip.high) == pytest.approx(float(state.key_clip.high))
    assert float(quantizer.value_clip.low) == pytest.approx(float(state.value_clip.low))
    assert relative(quantizer.decode(quantizer.encode_values(values), torch.float32), values) < 0.2


@CASES
def test_learning_lowers_the_loss_and_reaches_every_parameter(case: BlockCase) -> None:
    flat = FlatBlock(case.block, case.root, EXACT, channel_max(case), torch.Generator().manual_seed(0))
    groups = flat.parameter_groups()
    assert [group["lr"] for group in groups] == [5e-3, 5e-2]
    parts = [part for group in groups for part in group["params"]]
    assert {id(part) for part in parts} == {id(part) for part in flat.parameters()}
    valid = torch.ones(case.hidden.shape[:-1], dtype=torch.bool)
    target = flat(case.hidden, case.context, quantize=False)
    optimizer = torch.optim.AdamW(groups)
    losses = []
    for step in range(30):
        output = flat(case.hidden, case.context, quantize=True)
        losses.append(float(mean_squared_error(output, target, valid).detach()))
        optimizer.zero_grad()
        block_loss(output, target, valid).backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        if step == 0:
            assert all(part.grad is not None for part in parts)
    assert sum(losses[-5:]) < 0.85 * sum(losses[:5])


def test_a_rotation_and_nothing_at_all_are_states_like_any_other() -> None:
    case = block_cases()[0]
    simulated = SimulatedBlock(case.block, case.root, EXACT.settings)
    exact = simulated(case.hidden, case.context)
    rounded = simulated(case.hidden, case.context, quantize=True)
    rotated = simulated(case.hidden, case.context, HadamardW4A4().state(case.block, case.root), quantize=True)
    assert relative(rotated, exact) < 0.9 * relative(rounded, exact)


def test_values_may_be_turned_when_the_output_is_not() -> None:
    case = block_cases()[1]
    generator = torch.Generator().manual_seed(0)
    values = torch.eye(8).double() + 0.2 * torch.randn(8, 8, dtype=torch.float64, generator=generator)
    state = BlockState(values=values)
    simulated = SimulatedBlock(case.block, case.root, EXACT.settings, torch.float64)
    hidden = case.hidden.double()
    assert relative(simulated(hidden, case.context, state), simulated(hidden, case.context)) < 1e-10
    quantizer, root = dataclasses.replace(EXACT, weight_bits=8, activation_bits=16), copy.deepcopy(case.root)
    install([case.block], {case.block.path: state}, root, quantizer.settings)
    assert relative(case.original(root), case.original()) < 0.02
    output: Any = root.get_submodule(case.block.reader("attention_output").linears[0])
    assert output.transform is None


def test_options_decide_what_is_learned() -> None:
    clip = next(case for case in block_cases() if case.name == "clip")
    merger = next(case for case in block_cases() if case.name == "merger")

    def scales(case: BlockCase, **options: Any) -> dict[str, int]:
        flat = FlatBlock(case.block, case.root, FlatQuant(**options), {}, torch.Generator().manual_seed(0))
        state = flat.state()
        found = {feed: reader.transform.scale for feed, reader in state.readers.items() if reader.transform}
        learned = {name.split(".")[1]: part.numel() for name, part in flat.named_parameters() if "log_scale" in name}
        assert {feed for feed, scale in found.items() if scale is not None} == set(learned)
        return learned

    assert scales(clip) == {"attention_input": 16, "mlp_input": 16, "mlp_output": 24}
    assert scales(clip, online_scale=False) == {"attention_input": 16, "mlp_input": 16}
    assert scales(clip, diag=False) == {}
    assert scales(merger) == {"connector_1": 64, "connector_2": 64}
    assert scales(merger, connector_scale="tied") == {"connector_1": 16, "connector_2": 64}
    decoder = FlatBlock(block_cases()[0].block, block_cases()[0].root, FlatQuant(kv_bits=16), {}, torch.Generator())
    assert decoder.key_clip is None
    assert decoder.keys is not None


def test_first_matrices_follow_the_seed() -> None:
    case = block_cases()[0]

    def left(seed: int, start: str) -> Tensor:
        quantizer = FlatQuant(start=start)
        state = FlatBlock(case.block, case.root, quantizer, {}, torch.Generator().manual_seed(seed)).state()
        transform = state.readers["attention_input"].transform
        assert transform is not None
        return transform.left

    assert torch.equal(left(0, "orthogonal"), left(0, "orthogonal"))
    assert not torch.equal(left(0, "orthogonal"), left(1, "orthogonal"))
    rotation = left(0, "hadamard")
    assert torch.allclose(rotation.abs(), torch.full_like(rotation, 0.5))  # 32 = 4 x 8, and 4 has a Hadamard matrix


def test_activations_may_stay_as_they_are() -> None:
    case = block_cases()[0]
    coarse, fine = (
        SimulatedBlock(case.block, case.root, FlatQuant(activation_bits=bits, kv_bits=bits).settings)
        for bits in (4, 16)
    )
    exact = coarse(case.hidden, case.context)
    lost = [relative(block(case.hidden, case.context, quantize=True), exact) for block in (coarse, fine)]
    assert lost[1] < 0.8 * lost[0]


def test_a_feed_forward_without_one_activation_is_refused() -> None:
    case = next(case for case in block_cases() if case.name == "projector")
    root = copy.deepcopy(case.root)
    root.get_submodule(case.block.path).extra = nn.Tanh()
    with pytest.raises(Unsupported, match=r"one activation was expected, and 2 were found.*connector"):
        SimulatedBlock(case.block, root, EXACT.settings)


def test_clips_reach_every_quantiser() -> None:
    """A share that is tiny leaves little of what it clips."""
    case = block_cases()[0]
    flat = learner(case)
    parts = dict(flat.named_parameters())
    base = flat(case.hidden, case.context, quantize=True).detach()
    for name in [name for name in parts if name.endswith((".high", ".low"))]:
        with torch.no_grad():
            kept = parts[name].clone()
            parts[name].fill_(-2.0)
            changed = flat(case.hidden, case.context, quantize=True)
            parts[name].copy_(kept)
        assert relative(changed, base) > 0.005, name


def test_a_context_is_asked_for_attention() -> None:
    """Grouped heads, masks and scaling are not the block's affair."""
    case = block_cases()[1]
    assert isinstance(case.context, PlainContext)
    blind = dataclasses.replace(case.context, scaling=0.0)
    simulated = SimulatedBlock(case.block, case.root, EXACT.settings)
    assert relative(simulated(case.hidden, blind), simulated(case.hidden, case.context)) > 0.01


def test_transforms_of_installed_linears_are_where_they_cost_least() -> None:
    case = block_cases()[0]
    flat, root = learner(case), copy.deepcopy(case.root)
    install([case.block], {case.block.path: flat.state()}, root, EXACT.settings)
    online = {}
    for reader in case.block.readers:
        for path in reader.linears:
            linear = root.get_submodule(path)
            assert isinstance(linear, LowBitLinear)
            online[path.rpartition(".")[2]] = str(linear.transform or "")
    assert online == {name: "" for name in ("q_proj", "k_proj", "v_proj", "gate_proj", "up_proj")} | {
        "o_proj": "InputTransform(left=4x4)",
        "down_proj": "InputTransform(left=6x6, right=8x8)",
    }
    norm: Any = root.get_submodule(f"{case.block.path}.input_layernorm")
    assert str(norm.transform) == "InputTransform(left=4x4, right=8x8)"
