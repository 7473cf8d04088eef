"""Block-wise learning: it lowers the loss, repeats exactly, forgets nothing, and refuses what cannot work."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from steadyvlm.calibration import flatquant
from steadyvlm.calibration.calibrate import calibrate
from steadyvlm.calibration.capture import block_inputs
from steadyvlm.calibration.learning import for_block
from steadyvlm.calibration.running import alone, run_block
from steadyvlm.calibration.store import BlockStore
from steadyvlm.engine import Request, generate
from steadyvlm.errors import CheckpointError, InvalidOption, RunError, Unsupported
from steadyvlm.quantization.base import PARTS, QuantizationReport
from steadyvlm.quantization.flatquant import FlatQuant
from steadyvlm.quantization.install import install
from steadyvlm.quantization.low_bit import LowBitLinear
from steadyvlm.quantization.state import BlockState
from steadyvlm.quantization.structure import Part
from steadyvlm.reduction import REDUCTIONS
from tiny import make_image, make_image_processor, make_module, make_tokenizer, tiny_llava
from tiny_families import make_family, tiny_family

EXAMPLES = [
    Request((make_image(3),), "what?", 1),
    Request((make_image(4),), "a red star, or a blue star ?", 2),
    Request((), "how is the star", 3),
    Request((make_image(6, 24, 48),), "shape", 4),
]
QUICK = FlatQuant(epochs=2, batch=2, samples=4, lr=1e-2)
FASTV = REDUCTIONS.create("fastv(layer=2, keep_ratio=0.25)")


def original(kind: str) -> Any:
    return tiny_llava() if kind == "llava" else tiny_family(kind)


def run(
    quantizer: FlatQuant, model: Any, store: BlockStore, **options: Any
) -> tuple[QuantizationReport, list[str], dict[str, torch.Tensor]]:
    """The report, which blocks were told to be done, and all numbers of the quantised copy."""
    told: list[str] = []
    twin = model.copy()
    report = calibrate(
        quantizer, twin, EXAMPLES, store=store, progress=lambda done, total, what: told.append(what), **options
    )
    return report, told, dict(twin.module.state_dict())


@pytest.fixture
def learned(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Paths of the blocks that were really learned."""
    seen: list[str] = []
    learn = flatquant.learn

    def counted(inputs: Any, *rest: Any) -> Any:
        seen.append(inputs.block.path)
        return learn(inputs, *rest)

    monkeypatch.setattr(flatquant, "learn", counted)
    return seen


@pytest.mark.parametrize("kind", ["llava", "llava_next", "qwen2_vl", "qwen2_5_vl"])
def test_every_block_of_every_family_is_learned_and_put_in_place(kind: str, tmp_path: Path) -> None:
    model = original(kind)
    before = {name: value.clone() for name, value in model.module.state_dict().items()}
    report, told, _ = run(QUICK, model, BlockStore(tmp_path))
    blocks = model.blocks(PARTS)
    assert sorted(told) == sorted(block.path for block in blocks)
    parts = [next(block.part for block in blocks if block.path == path) for path in told]
    assert list(dict.fromkeys(parts)) == ["vision", "connector", "language"]
    assert {layer.name for layer in report.layers} == set(model.linears(PARTS))
    assert [error.block for error in report.block_errors] == [block.path for block in blocks]
    assert all(error.power > 0 for error in report.block_errors)
    assert all(torch.equal(value, before[name]) for name, value in model.module.state_dict().items())


def test_learning_lowers_the_loss_of_every_block(tmp_path: Path) -> None:
    longer = dataclasses.replace(QUICK, epochs=8)
    report, _, _ = run(longer, tiny_llava(), BlockStore(tmp_path))
    assert all(error.learned < error.rounded for error in report.block_errors)
    none, _, _ = run(dataclasses.replace(QUICK, epochs=0), tiny_llava(), BlockStore(tmp_path))
    for trained, start in zip(report.block_errors, none.block_errors, strict=True):
        assert trained.learned < 0.95 * start.learned
        assert trained.rounded == start.rounded


@pytest.mark.parametrize("kind", ["llava", "qwen2_5_vl"])
def test_the_reported_errors_are_those_of_the_blocks_put_in_place(kind: str, tmp_path: Path) -> None:
    """The packed blocks themselves, run alone by the engine's and the towers' own code, lose what the report says."""
    quantizer = dataclasses.replace(QUICK, backend="reference", scale_dtype="float32", transform_dtype="float32")
    model = original(kind)
    store = BlockStore(tmp_path)
    report, _, _ = run(quantizer, model, store)
    keys = [folder.name for folder in tmp_path.iterdir()]
    parts: tuple[Part, ...] = ("language", "connector", "vision")
    for part in parts:
        for inputs in block_inputs(model, EXAMPLES, part, batch=2):
            block = inputs.block
            found = next(kept for key in keys if (kept := store.read(key, block, model.module)))
            for state, name in ((found[0], "learned"), (BlockState(), "rounded")):
                single = alone(block, model.module)
                install([block], {block.path: state}, single, quantizer.settings)
                lost = entries = 0.0
                for batch in inputs.batches:
                    exact = run_block(block, model.module, batch)[batch.valid]
                    rounded = run_block(block, single, batch)[batch.valid]
                    lost += float((exact - rounded).double().square().sum())
                    entries += exact.numel()
                error = next(error for error in report.block_errors if error.block == block.path)
                assert lost / entries == pytest.approx(getattr(error, name), rel=0.03)


def test_the_same_settings_give_the_same_numbers(tmp_path: Path) -> None:
    _, _, first = run(QUICK, tiny_llava(), BlockStore(tmp_path / "a"))
    _, _, again = run(dataclasses.replace(QUICK, modules=("vision",)), tiny_llava(), BlockStore(tmp_path / "b"))
    other_seed = dataclasses.replace(QUICK, modules=("vision",), seed=1)
    _, _, other = run(other_seed, tiny_llava(), BlockStore(tmp_path / "c"))
    tower = [name for name in again if "vision_tower" in name]
    assert all(torch.equal(first[name], again[name]) for name in tower)
    assert any(not torch.equal(first[name], other[name]) for name in tower)


def test_what_was_learned_is_remembered_part_by_part(tmp_path: Path, learned: list[str]) -> None:
    model, store = tiny_llava(), BlockStore(tmp_path)
    whole, _, numbers = run(QUICK, model, store)
    assert len(learned) == len(model.blocks(PARTS))
    learned.clear()
    again, _, remembered = run(QUICK, model, store)
    assert learned == []
    assert again == whole
    assert all(torch.equal(numbers[name], remembered[name]) for name in numbers)
    for parts in (("language",), ("connector", "vision")):  # module ablations share their parts
        run(dataclasses.replace(QUICK, modules=parts, backend="fake"), model, store)
    assert learned == []
    for change in ({"lr": 2e-2}, {"kv_bits": 8}, {"seed": 1}, {"diag": False}):
        run(dataclasses.replace(QUICK, modules=("connector",), **change), model, store)
        assert learned == ["model.multi_modal_projector"]
        learned.clear()


def test_an_interrupted_calibration_goes_on_where_it_stopped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, learned: list[str]
) -> None:
    quantizer = dataclasses.replace(QUICK, modules=("language",))
    _, _, whole = run(quantizer, tiny_llava(), BlockStore(tmp_path / "whole"))
    learned.clear()

    def stop(done: int, total: int, what: str) -> None:
        if done == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        calibrate(quantizer, tiny_llava().copy(), EXAMPLES, store=BlockStore(tmp_path / "cut"), progress=stop)
    assert [path[-1] for path in learned] == ["0", "1"]
    learned.clear()
    _, _, resumed = run(quantizer, tiny_llava(), BlockStore(tmp_path / "cut"))
    assert [path[-1] for path in learned] == ["2", "3"]
    assert all(torch.equal(whole[name], resumed[name]) for name in whole)


def test_a_damaged_file_is_learned_again_and_said(tmp_path: Path, learned: list[str]) -> None:
    quantizer = dataclasses.replace(QUICK, modules=("language",))
    _, _, whole = run(quantizer, tiny_llava(), BlockStore(tmp_path))
    (folder,) = tmp_path.iterdir()
    (folder / "0001.safetensors").write_bytes((folder / "0001.safetensors").read_bytes()[:-9])
    (folder / "0003.safetensors").write_bytes((folder / "0002.safetensors").read_bytes())
    learned.clear()
    report, _, mended = run(quantizer, tiny_llava(), BlockStore(tmp_path))
    assert [path[-1] for path in learned] == ["1", "3"]
    assert sum("could not be used" in note for note in report.notes) == 2
    assert all(torch.equal(whole[name], mended[name]) for name in whole)


def test_a_pruned_graph_is_learned_apart(tmp_path: Path, learned: list[str]) -> None:
    quantizer = dataclasses.replace(QUICK, modules=("language",), pruned=True)
    whole, _, _ = run(dataclasses.replace(quantizer, pruned=False), tiny_llava(), BlockStore(tmp_path))
    pruned, _, _ = run(quantizer, tiny_llava(), BlockStore(tmp_path), reduction=FASTV)
    assert len(learned) == 8
    same = [a == b for a, b in zip(whole.block_errors, pruned.block_errors, strict=True)]
    assert same == [True, True, False, False]  # nothing is dropped in front of the first two layers
    assert any("fastv" in note.lower() and "at work" in note for note in pruned.notes)
    run(dataclasses.replace(quantizer, pruned=False), tiny_llava(), BlockStore(tmp_path), reduction=FASTV)
    assert len(learned) == 8  # without `pruned` the reduction does not matter


def test_the_quantised_tower_can_feed_the_decoder(tmp_path: Path, learned: list[str]) -> None:
    plain, _, _ = run(QUICK, tiny_llava(), BlockStore(tmp_path))
    learned.clear()
    fed, _, _ = run(dataclasses.replace(QUICK, decoder_inputs="quantized"), tiny_llava(), BlockStore(tmp_path))
    assert {path.partition(".layers")[0] for path in learned} == {"model.language_model"}
    assert {layer.name for layer in fed.layers} == {layer.name for layer in plain.layers}
    for a, b in zip(plain.block_errors, fed.block_errors, strict=True):
        assert (a == b) == (a.part != "language")
    run(
        dataclasses.replace(QUICK, decoder_inputs="quantized", modules=("language",)),
        tiny_llava(),
        BlockStore(tmp_path),
    )
    assert len(learned) == 8  # without a tower to quantise in front, other inputs


def test_the_towers_edges_can_have_more_bits(tmp_path: Path) -> None:
    model = tiny_family("qwen2_5_vl")
    quantizer = dataclasses.replace(QUICK, modules=("vision",), vision_edge_bits=8, epochs=1)
    bits = [for_block(quantizer, block, model).weight_bits for block in model.blocks(("vision",))]
    assert bits == [8, 4, 4, 8]
    assert for_block(quantizer, model.blocks(("language",))[0], model) == quantizer
    report, _, _ = run(quantizer, model, BlockStore(tmp_path))
    assert {layer.name.split(".")[3]: layer.bits for layer in report.layers} == {"0": 8, "1": 4, "2": 4, "3": 8}
    edge, inner = report.block_errors[0], report.block_errors[1]
    assert edge.learned / edge.power < 0.1 * inner.learned / inner.power


def test_the_copy_answers_and_its_cache_is_packed(tmp_path: Path) -> None:
    twin = tiny_llava().copy()
    calibrate(QUICK, twin, EXAMPLES, store=BlockStore(tmp_path))
    assert all(isinstance(twin.module.get_submodule(path), LowBitLinear) for path in tiny_llava().linears(PARTS))
    assert all(layer.kv is not None for layer in twin.layers())
    first, second = generate(twin, EXAMPLES[:2], max_new_tokens=3), generate(twin, EXAMPLES[:2], max_new_tokens=3)
    assert [item.text for item in first] == [item.text for item in second]  # type: ignore[union-attr]  # no failures


def test_a_transform_that_loses_its_inverse_is_an_error_with_a_way_out(tmp_path: Path) -> None:
    wild = dataclasses.replace(QUICK, modules=("connector",), lr=1.0, epochs=60)
    model = make_family("llava_next")
    linear: Any = model.module.get_submodule("model.multi_modal_projector.linear_1")
    with torch.no_grad():
        linear.weight[0, 0] = torch.nan
    with pytest.raises(RunError, match=r"multi_modal_projector.*parametrization='cayley'"):
        flatquant.learn(next(iter(block_inputs(model, EXAMPLES, "connector", batch=2))), model, wild)


def test_pictures_are_needed_for_a_tower_and_a_reduction_for_a_pruned_graph() -> None:
    model = tiny_llava()
    with pytest.raises(Unsupported, match="none of the 1 examples has a picture"):
        calibrate(QUICK, model.copy(), EXAMPLES[2:3])
    pruned = dataclasses.replace(QUICK, pruned=True)
    with pytest.raises(InvalidOption, match="the recipe drops no tokens"):
        calibrate(pruned, model, EXAMPLES)
    with pytest.raises(InvalidOption, match="in place of 'quota' or a preset"):
        calibrate(pruned, model, EXAMPLES, REDUCTIONS.create("quota"))
    with pytest.raises(Unsupported, match="reads its input as it is"):
        calibrate(
            pruned,
            model,
            EXAMPLES,
            REDUCTIONS.create("quota(layers=(2,), keep_ratios='uniform', residual_domain='transformed')"),
        )


def test_a_quantiser_nobody_registered_is_refused() -> None:
    @dataclasses.dataclass(frozen=True)
    class Own(FlatQuant.__base__):  # type: ignore[name-defined,misc]  # object
        modules: tuple[str, ...] = ("language",)
        calibration: str = "auto"
        samples: int = 1
        seed: int = 0
        pruned: bool = False

        def check_available(self) -> None:
            """Nothing is needed."""

    with pytest.raises(Unsupported, match=r"Own' is no registered quantiser.*steadyvlm\.calibrators"):
        calibrate(Own(), tiny_llava(), EXAMPLES)


def test_a_model_in_memory_has_its_own_address(tmp_path: Path, learned: list[str]) -> None:
    from steadyvlm.models.llava import Llava

    quantizer = dataclasses.replace(QUICK, modules=("connector",))
    run(quantizer, tiny_llava(), BlockStore(tmp_path))
    module: nn.Module = make_module(seed=1)
    run(quantizer, Llava(module, make_tokenizer(), make_image_processor()), BlockStore(tmp_path))
    assert len(learned) == 2


def test_measurements_that_make_no_sense_are_made_again(tmp_path: Path, learned: list[str]) -> None:
    quantizer = dataclasses.replace(QUICK, modules=("connector",))
    model, store = tiny_llava(), BlockStore(tmp_path)
    run(quantizer, model, store)
    (folder,) = tmp_path.iterdir()
    (block,) = model.blocks(("connector",))
    found = store.read(folder.name, block, model.module)
    assert found is not None
    store.write(folder.name, block, found[0], {"power": "much", "rounded": 1.0, "rotated": 1.0, "learned": 1.0})
    report, _, _ = run(quantizer, model, store)
    assert len(learned) == 2
    assert any("What was measured of" in note for note in report.notes)


def test_a_reduction_inside_the_decoder_does_not_concern_the_tower(tmp_path: Path, learned: list[str]) -> None:
    quantizer = dataclasses.replace(QUICK, modules=("vision", "connector"))
    run(quantizer, tiny_llava(), BlockStore(tmp_path))
    learned.clear()
    pruned = dataclasses.replace(quantizer, pruned=True)
    run(pruned, tiny_llava(), BlockStore(tmp_path), reduction=FASTV)
    assert learned == []
    run(pruned, tiny_llava(), BlockStore(tmp_path), reduction=REDUCTIONS.create("visionzip(dominant=6, contextual=2)"))
    assert learned == ["model.multi_modal_projector"]
    learned.clear()
    run(pruned, tiny_llava(), BlockStore(tmp_path), reduction=REDUCTIONS.create("downsample(keep_ratio=0.3)"))
    assert len(learned) == 3


def test_linears_that_are_quantised_already_are_left_and_reported(tmp_path: Path) -> None:
    from steadyvlm.quantization.rtn import RTN

    model = tiny_llava().copy()
    first = model.blocks()[0]
    path = first.linears.__next__()
    RTN(bits=8, group=8).quantize({path: model.linears()[path]}, model.module)
    report = calibrate(dataclasses.replace(QUICK, modules=("language",)), model, EXAMPLES, store=BlockStore(tmp_path))
    assert {layer.name for layer in report.skipped} == set(first.linears)
    assert [error.block for error in report.block_errors] == [block.path for block in model.blocks()[1:]]
    with pytest.raises(Unsupported, match="changes whole blocks, and each of 4 holds"):
        calibrate(dataclasses.replace(QUICK, modules=("language",)), model, EXAMPLES, store=BlockStore(tmp_path))


def test_weights_that_are_not_finite_are_refused_before_any_work(tmp_path: Path, learned: list[str]) -> None:
    model = tiny_llava().copy()
    with torch.no_grad():
        model.linears(("connector",))["model.multi_modal_projector.linear_2"].weight[0, 0] = torch.inf
    with pytest.raises(CheckpointError, match="linear_2"):
        calibrate(QUICK, model, EXAMPLES, store=BlockStore(tmp_path))
    assert learned == []
