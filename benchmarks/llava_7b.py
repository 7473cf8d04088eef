"""A LLaVA of 7 billion random weights: packed block by block, loaded, asked; sizes beside those that were counted.

Sizes, layers and vocabulary are those of LLaVA-1.5-7B; weights are drawn, tokenizer and chat template are pocket's, so
nothing is downloaded and answers mean nothing. Every step runs in a process of its own: packing with transforms of
FlatQuant's shapes (drawn as well: learning them is another benchmark), then loading and answering one question about
one picture, 576 visual tokens, in real INT4. With `original`, a model of the same sizes in bfloat16 is asked too, for
its memory and time; that needs 16 GB of memory.

Run: `python -m benchmarks.llava_7b folder [original]`; takes a quarter of an hour on two cores, and 4 GB of disk.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import CLIPVisionConfig, LlamaConfig, LlavaConfig

from benchmarks.prefill_speedup import QUESTION, picture
from steadyvlm.calibration.streaming import Decided, pack
from steadyvlm.calibration.weight_sources import RandomWeights
from steadyvlm.cost.checkpoint_size import Packing, checkpoint_size
from steadyvlm.engine import Request
from steadyvlm.engine.generate import generate
from steadyvlm.models.checkpoint_sizes import inventory_of
from steadyvlm.models.load import find_folder, load, outline
from steadyvlm.models.settings_files import CONFIG
from steadyvlm.models.skeleton import assign, tensors_of
from steadyvlm.quantization.base import QuantizationReport
from steadyvlm.quantization.settings import LowBitSettings
from steadyvlm.quantization.state import BlockState, ReaderState, Transform
from steadyvlm.quantization.structure import Block
from steadyvlm.quantization.transforms import factors
from steadyvlm.recipes.resources import memory, reset_peak
from steadyvlm.records import Generation

PARTS = ("language", "vision")
"""The published INT4 size leaves the connector in 16 bits."""


def write_template(folder: Path) -> Path:
    """Write everything of the checkpoint but its weights."""
    folder.mkdir(parents=True)
    pocket = find_folder("pocket")
    for name in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja", "generation_config.json"):
        shutil.copyfile(pocket / name, folder / name)
    theirs = json.loads((pocket / CONFIG).read_text())
    image = next(theirs[name] for name in ("image_token_index", "image_token_id") if name in theirs)
    text = LlamaConfig(
        vocab_size=32064, hidden_size=4096, intermediate_size=11008, num_hidden_layers=32, num_attention_heads=32
    )
    vision = CLIPVisionConfig(
        hidden_size=1024,
        intermediate_size=4096,
        num_hidden_layers=24,
        num_attention_heads=16,
        image_size=336,
        patch_size=14,
    )
    config = LlavaConfig(vision_config=vision, text_config=text, image_token_index=image, image_seq_length=576)
    config.tie_word_embeddings = False
    whole = {**config.to_dict(), "architectures": ["LlavaForConditionalGeneration"], "dtype": "float16"}
    (folder / CONFIG).write_text(json.dumps(whole, default=str))
    side = {"height": 336, "width": 336}
    settings = {"image_processor_type": "CLIPImageProcessor", "size": {"shortest_edge": 336}, "crop_size": side}
    means = {"image_mean": [0.48, 0.46, 0.41], "image_std": [0.27, 0.26, 0.28]}
    (folder / "preprocessor_config.json").write_text(json.dumps(settings | means))
    return folder


class Drawn(Decided):
    """Decisions in FlatQuant's shapes, drawn when a block's turn has come."""

    def quantize_blocks(self, blocks: Sequence[Block], root: nn.Module) -> QuantizationReport:
        """Draw, then quantise."""
        states = {block.path: drawn_state(block, root) for block in blocks}
        return Decided(states, self.settings).quantize_blocks(blocks, root)


def drawn_state(block: Block, root: nn.Module) -> BlockState:
    """Return orthogonal transforms and scales near one for a block."""
    generator = torch.Generator().manual_seed(block.index)
    heads = block.heads
    assert heads is not None, "connectors are left alone"

    def matrix(width: int) -> Tensor:
        return torch.linalg.qr(torch.randn(width, width, generator=generator, dtype=torch.float64)).Q

    values = matrix(heads.width)
    readers = {}
    for reader in block.readers:
        width: Any = root.get_submodule(reader.linears[0]).in_features
        if reader.feed == "attention_output":
            transform = Transform(matrix(heads.count), values)
        else:
            scale = torch.rand(width, generator=generator, dtype=torch.float64) + 0.5
            transform = Transform(*map(matrix, factors(width)), scale)
        readers[reader.feed] = ReaderState(transform)
    return BlockState(readers, keys=matrix(heads.width) if heads.cached else None, values=values)


def pack_it(template: Path, out: Path) -> dict[str, Any]:
    """Pack random weights; return times, sizes and the peak."""
    start = time.perf_counter()
    settings = LowBitSettings(modules=PARTS)
    done = pack(template, Drawn({}, settings), out, text="drawn transforms", weights=RandomWeights(), dtype="float16")
    weights = sum(layer.shape[0] * layer.shape[1] for layer in done.report.layers)
    shape: Any = outline(template)
    counted = checkpoint_size(inventory_of(shape.module.config), Packing(PARTS, transforms="flatquant"))
    return {
        "seconds": time.perf_counter() - start,
        "drawing_seconds": done.reading_seconds,
        "packing_seconds": done.packing_seconds,
        "writing_seconds": done.writing_seconds,
        "packed_weights": weights,
        "weights_per_second": weights / done.packing_seconds,
        "numbers_bytes": done.numbers_bytes,
        "counted_bytes": counted.total,
        "files_bytes": sum(path.stat().st_size for path in out.glob("*.safetensors")),
        "peak_bytes": memory().peak,
    }


def filled(template: Path) -> Any:
    """Return the original in bfloat16, its matrices made of one million numbers repeated: what counts is their size."""
    model: Any = outline(template, dtype="bfloat16")
    million = torch.randn(1_000_003, generator=torch.Generator().manual_seed(0)).mul_(0.02).bfloat16()
    for name, tensor in tensors_of(model.module).items():
        count = tensor.numel()
        if tensor.dim() == 1:
            assign(model.module, name, torch.full(tensor.shape, float(name.endswith("weight")), dtype=torch.bfloat16))
        else:
            repeated = torch.empty(count, dtype=torch.bfloat16)
            for start in range(0, count, len(million)):
                repeated[start : start + len(million)] = million[: count - start]
            assign(model.module, name, repeated.view(tensor.shape))
    return model


@torch.no_grad()
def ask(make: Callable[[], Any], files: Path | None) -> dict[str, Any]:
    """Make a model and answer one question about one picture."""
    before = memory().resident
    start = time.perf_counter()
    model = make()
    loaded = time.perf_counter() - start
    held = {id(tensor): tensor.nbytes for tensor in (*model.module.parameters(), *model.module.buffers())}
    figures = {"before_bytes": before, "loading_seconds": loaded, "loading_peak_bytes": memory().peak}
    reset_peak()
    start = time.perf_counter()
    (answer,) = generate(model, [Request((picture(side=336),), QUESTION, 1)], None, max_new_tokens=4)
    assert isinstance(answer, Generation), answer
    return figures | {
        "tensors_bytes": sum(held.values()),
        "answering_seconds": time.perf_counter() - start,
        "generated_tokens": answer.cost.generated_tokens,
        "prompt_tokens": answer.cost.prompt_tokens,
        "cache_bytes": answer.cost.cache_bytes,
        "resident_bytes": memory().resident,
        "peak_bytes": memory().peak,
        "files_bytes": sum(path.stat().st_size for path in files.glob("*.safetensors")) if files else None,
    }


STEPS = {
    "pack": lambda folder: pack_it(folder / "template", folder / "int4"),
    "int4": lambda folder: ask(lambda: load(folder / "int4", device="cpu"), folder / "int4"),
    "original": lambda folder: ask(lambda: filled(folder / "template"), None),
}


def main(folder: Path, steps: tuple[str, ...]) -> dict[str, Any]:
    """Run the steps, each in a process of its own, and print what each of them measured."""
    if not (folder / "template").exists():
        write_template(folder / "template")
    figures = {}
    for step in steps:
        command = [sys.executable, "-m", "benchmarks.llava_7b", str(folder), f"--{step}"]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            sys.exit(f"{step}: {done.stderr.strip()[-2000:]}")
        figures[step] = json.loads(done.stdout.splitlines()[-1])
        print(f"{step}: {json.dumps(figures[step], indent=1)}", flush=True)
    return figures


if __name__ == "__main__":
    place, wanted = Path(sys.argv[1]), sys.argv[2:]
    if wanted and wanted[0].startswith("--"):
        print(json.dumps(STEPS[wanted[0][2:]](place)))
    else:
        main(place, ("pack", "int4", *wanted))
