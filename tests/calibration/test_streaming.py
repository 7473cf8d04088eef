from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from low_bit_models import FAMILIES, PARTS, answers, random_states, save_source
from steadyvlm.calibration.streaming import Decided, Streamed, pack
from steadyvlm.calibration.weight_sources import RandomWeights
from steadyvlm.cost.checkpoint_size import Packing, checkpoint_size
from steadyvlm.errors import CheckpointError, Unsupported, UsageError
from steadyvlm.models.checkpoint_sizes import inventory_of
from steadyvlm.models.load import load, outline
from steadyvlm.models.low_bit_files import About, write_module
from steadyvlm.models.new_folder import new_folder
from steadyvlm.models.skeleton import tensors_of
from steadyvlm.quantization.base import QuantizationReport
from steadyvlm.quantization.hadamard_w4a4 import HadamardW4A4
from steadyvlm.quantization.rtn_w4a4 import RTNW4A4
from steadyvlm.quantization.structure import Block
from steadyvlm.seeding import content_hash


def in_memory(source: Path, quantizer: Any, out: Path) -> QuantizationReport:
    model: Any = load(source, device="cpu").copy()
    found: QuantizationReport = quantizer.quantize_blocks(model.blocks(quantizer.modules), model.module)
    with new_folder(out) as partial:
        about = About("test", str(source), model.weights_sha256())
        write_module(model.module, model.write_settings(partial), about, partial, shard_bytes=30_000)
    return found


def stream(source: Path, quantizer: Any, out: Path, **options: Any) -> Streamed:
    return pack(source, quantizer, out, text="test", **{"dtype": "float32", "shard_bytes": 20_000} | options)


def tensors(folder: Path) -> dict[str, torch.Tensor]:
    return {name: value for path in folder.glob("*.safetensors") for name, value in load_file(path).items()}


def same(one: Path, two: Path) -> None:
    left, right = tensors(one), tensors(two)
    assert left.keys() == right.keys()
    for name, value in left.items():
        assert value.dtype == right[name].dtype, name
        assert torch.equal(value, right[name]), name
    configs = [json.loads((folder / "config.json").read_text()) for folder in (one, two)]
    assert configs[0] == configs[1]
    names = [{path.name for path in folder.iterdir() if path.suffix != ".safetensors"} for folder in (one, two)]
    assert names[0] == names[1]


@pytest.mark.parametrize("family", FAMILIES)
def test_the_same_folder_as_from_memory(family: str, tmp_path: Path) -> None:
    source = save_source(tmp_path / "source", family)
    shape: Any = outline(source)
    quantizer = Decided(random_states(shape.blocks(PARTS), shape.module))
    whole = in_memory(source, quantizer, tmp_path / "memory")
    found = stream(source, quantizer, tmp_path / "streamed", unused=False)
    same(tmp_path / "memory", tmp_path / "streamed")
    assert found.report.layers == whole.layers
    assert found.report.skipped == whole.skipped == ()
    assert found.numbers_bytes == sum(value.nbytes for value in tensors(tmp_path / "streamed").values())
    assert min(found.reading_seconds, found.packing_seconds, found.writing_seconds) > 0


@pytest.mark.parametrize(
    "quantizer",
    [
        RTNW4A4(modules=("language", "vision"), vision_edge_bits=8),
        HadamardW4A4(modules=("vision", "connector"), vision_edge_bits=6, seed=3),
        HadamardW4A4(modules=("language",), kv_bits=8),
    ],
)
def test_quantisers_that_need_no_examples(quantizer: Any, tmp_path: Path) -> None:
    source = save_source(tmp_path / "source", "qwen2_5_vl")
    in_memory(source, quantizer, tmp_path / "memory")
    said: list[str] = []
    stream(source, quantizer, tmp_path / "streamed", say=said.append)
    same(tmp_path / "memory", tmp_path / "streamed")
    assert said[-1].startswith(f"block {len(said)} of {len(said)}: model.")


def test_layers_that_never_run_are_packed_with_the_rest(tmp_path: Path) -> None:
    source, quantizer = save_source(tmp_path / "source", "llava"), RTNW4A4(vision_edge_bits=8)
    stream(source, quantizer, tmp_path / "whole")
    stream(source, quantizer, tmp_path / "used", unused=False)
    last = "model.vision_tower.encoder.layers.2.mlp.fc1"
    assert tensors(tmp_path / "used")[f"{last}.weight"].dtype == torch.float32
    assert tensors(tmp_path / "whole")[f"{last}.packed"].dtype == torch.uint8, "an edge is the last that runs"
    assert tensors(tmp_path / "whole")["model.vision_tower.encoder.layers.1.mlp.fc1.packed"].dtype == torch.int8
    models = [load(tmp_path / name, device="cpu") for name in ("whole", "used")]
    assert answers(models[0]) == answers(models[1])


@pytest.mark.parametrize("family", FAMILIES)
def test_bytes_are_those_of_the_counter(family: str, tmp_path: Path) -> None:
    source = save_source(tmp_path / "source", family)
    shape: Any = outline(source)
    blocks = shape.blocks(("language", "vision"))
    quantizer = Decided(random_states(blocks, shape.module), RTNW4A4().settings)
    found = stream(source, quantizer, tmp_path / "out", dtype="float16", unused=False)
    used = sum(block.part == "vision" for block in blocks)
    packing = Packing(PARTS, transforms="flatquant", vision_layers=used)
    connector_only = Packing(("connector",), transforms="flatquant")
    inventory = inventory_of(shape.module.config)
    counted = checkpoint_size(inventory, packing).total
    extra = checkpoint_size(inventory, connector_only).transforms  # the states name no connector: nothing is kept there
    assert found.numbers_bytes == counted - extra


class Watching:
    """Quantises like RTN and looks at what else is in memory."""

    modules = ("language", "vision")

    def __init__(self) -> None:
        self.blocks: list[str] = []
        self.real: list[str] = []

    def check_available(self) -> None:
        """Nothing."""

    def quantize_blocks(self, blocks: Sequence[Block], root: nn.Module) -> QuantizationReport:
        (block,) = blocks
        self.blocks.append(block.path)
        matrices = {name for name, tensor in tensors_of(root).items() if tensor.dim() > 1 and not tensor.is_meta}
        self.real += [name for name in matrices if not name.startswith(f"{block.path}.")]
        return RTNW4A4().quantize_blocks(blocks, root)


def test_one_block_at_a_time_is_in_memory(tmp_path: Path) -> None:
    watching = Watching()
    stream(save_source(tmp_path / "source", "llava_next"), watching, tmp_path / "out")
    assert len(watching.blocks) == 4 + 3
    assert watching.real == []


def test_random_weights_stand_in_for_a_checkpoint(tmp_path: Path) -> None:
    source, quantizer = save_source(tmp_path / "source", "llava"), HadamardW4A4()
    (source / "model.safetensors").unlink()
    for name, seed in (("one", 1), ("same", 1), ("other", 2)):
        stream(source, quantizer, tmp_path / name, weights=RandomWeights(seed=seed))
    same(tmp_path / "one", tmp_path / "same")
    key = "model.language_model.layers.0.mlp.up_proj.packed"
    assert not torch.equal(tensors(tmp_path / "one")[key], tensors(tmp_path / "other")[key])
    assert answers(load(tmp_path / "one", device="cpu"))
    about = json.loads((tmp_path / "one" / "config.json").read_text())["quantization_config"]
    assert about["weights_sha256"] == "not a checkpoint: RandomWeights(seed=1, deviation=0.02)"


def test_precision_is_that_of_the_source_unless_named(tmp_path: Path) -> None:
    source = save_source(tmp_path / "source", "llava")
    config = json.loads((source / "config.json").read_text())
    config.pop("dtype", None)
    for named, expected in (("bfloat16", torch.bfloat16), (None, torch.float16)):
        (source / "config.json").write_text(json.dumps(config | {"torch_dtype": named}))
        stream(source, RTNW4A4(), tmp_path / str(named), dtype="source")
        assert tensors(tmp_path / str(named))["lm_head.weight"].dtype == expected
        assert load(tmp_path / str(named), device="cpu").weights_sha256()


def rewrite(source: Path, change: Any) -> None:
    found = load_file(source / "model.safetensors")
    change(found)
    save_file(found, source / "model.safetensors")


def test_weights_of_another_model_are_refused_before_any_work(tmp_path: Path) -> None:
    def refused(match: str) -> None:
        with pytest.raises(CheckpointError, match=match):
            stream(source, RTNW4A4(), tmp_path / "out")
        assert not (tmp_path / "out").exists()

    source = save_source(tmp_path / "source", "llava")
    head = next(name for name in load_file(source / "model.safetensors") if name.endswith("lm_head.weight"))
    rewrite(source, lambda found: found.update(spare=torch.ones(1)))
    refused(r"hold beyond the model's 1 tensors \(spare")
    rewrite(source, lambda found: found.pop("spare"))
    rewrite(source, lambda found: found.update({head: found[head][1:].clone()}))
    refused(r"'lm_head\.weight' in .* describes \[\d+, 32\] floating-point numbers")
    rewrite(source, lambda found: found.pop(head))
    refused(r"lack 1 tensors \(lm_head\.weight")


def test_a_tied_head_may_lie_in_the_file_if_it_is_the_same(tmp_path: Path) -> None:
    source = save_source(tmp_path / "source", "llava")
    config = json.loads((source / "config.json").read_text())
    (source / "config.json").write_text(json.dumps(config | {"tie_word_embeddings": True}))
    with pytest.raises(CheckpointError, match=r"hold beyond the model's 1 tensors \(lm_head"):
        stream(source, RTNW4A4(), tmp_path / "out")
    names = load_file(source / "model.safetensors").keys()
    head, embedding = (next(name for name in names if end in name) for end in ("lm_head", "embed_tokens"))
    rewrite(source, lambda found: found.update({head: found[embedding].clone()}))
    stream(source, RTNW4A4(), tmp_path / "out")
    module: Any = load(tmp_path / "out", device="cpu").module
    assert module.lm_head.weight is module.model.language_model.embed_tokens.weight


def test_what_cannot_be_packed_is_refused(tmp_path: Path) -> None:
    quantizer = RTNW4A4()
    source = save_source(tmp_path / "source", "llava")
    stream(source, quantizer, tmp_path / "out")
    before = content_hash(sorted(path.name for path in (tmp_path / "out").iterdir()))
    with pytest.raises(UsageError, match="exists already"):
        stream(source, quantizer, tmp_path / "out")
    assert before == content_hash(sorted(path.name for path in (tmp_path / "out").iterdir()))
    with pytest.raises(CheckpointError, match="is quantised already; pack the original"):
        stream(tmp_path / "out", quantizer, tmp_path / "again")
    (source / "config.json").write_text(json.dumps({"architectures": ["LlavaMistralForCausalLM"]}))
    with pytest.raises(Unsupported, match="authors' own layout"):
        stream(source, quantizer, tmp_path / "again")
