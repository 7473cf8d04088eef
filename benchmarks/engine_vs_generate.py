"""Two promises of the engine, as ratios from one run.

1. With `keep_all` it is at least as fast as `generate` of transformers at the same batch size.
2. Pruned, a batch of 16 answers at least three times the samples per second of batches of one.

The pocket model is used when it is installed, else a random model of its shape. Both sides of a ratio are measured in
turn, round after round, and the median of the rounds' ratios is printed, so that other work on the machine falls on
both alike. Questions are those of the pocket benchmark. Each side starts from pictures and questions: preprocessing,
encoding, prompt and answer are all timed.

Run: `python -m benchmarks.engine_vs_generate`
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from steadyvlm.engine import Request, generate
from steadyvlm.errors import SteadyVLMError
from steadyvlm.models.adapter import IMAGE_SLOT
from steadyvlm.models.llava import Llava
from steadyvlm.models.load import load
from steadyvlm.pocket.benchmark import PocketTask, scene_samples
from steadyvlm.reduction import REDUCTIONS
from steadyvlm.seeding import stable_seed

ROUNDS = 7
BATCH = 16
PRUNED = ("visionzip(dominant=32, contextual=8)", "fastv(layer=2, keep_ratio=0.25)")


@dataclass(frozen=True)
class Ratio:
    """Median over rounds of how many times faster `name` is, with the fastest and slowest round."""

    name: str
    median: float
    low: float
    high: float

    def __str__(self) -> str:
        """One line of the table."""
        return f"{self.name:<64} {self.median:5.2f}x   (rounds {self.low:.2f} to {self.high:.2f})"


def main() -> list[Ratio]:
    """Measure, print and return the ratios."""
    model, what = pocket_or_random()
    print(f"engine_vs_generate: {what}; {torch.get_num_threads()} threads, {ROUNDS} rounds")
    ratios = []
    for batch in (1, BATCH):
        requests = questions(batch, per_picture=1)
        ratio = compare(
            f"keep_all against transformers' generate, batch {batch}",
            lambda requests=requests: hugging_face(model, requests),
            lambda requests=requests: generate(model, requests, max_new_tokens=steps(model)),
        )
        ratios.append(ratio)
    for recipe in PRUNED:
        reduction = REDUCTIONS.create(recipe)
        for kind, per_picture in (("2 pictures x 8", 8), ("16 pictures", 1)):
            requests = questions(BATCH, per_picture)
            ratio = compare(
                f"{recipe}, batch 16 against 1, {kind}",
                lambda requests=requests, reduction=reduction: [
                    generate(model, [request], reduction, max_new_tokens=steps(model)) for request in requests
                ],
                lambda requests=requests, reduction=reduction: generate(
                    model, requests, reduction, max_new_tokens=steps(model)
                ),
            )
            ratios.append(ratio)
    return ratios


def compare(name: str, slow: Callable[[], object], fast: Callable[[], object]) -> Ratio:
    """Time both sides in turn and print how many times faster the second is."""
    slow(), fast()
    found = sorted(_seconds(slow) / _seconds(fast) for _ in range(ROUNDS))
    ratio = Ratio(name, statistics.median(found), found[0], found[-1])
    print(f"  {ratio}", flush=True)
    return ratio


def hugging_face(model: Llava, requests: Sequence[Request]) -> torch.Tensor:
    """Answer a batch with transformers' own `generate`, padded on the left as it wants."""
    pixels = [model.preprocess(image) for request in requests for image in request.images]
    visual = [image_id(model)] * pixels[0].layout.visual_tokens  # every picture of a LLaVA has as many
    rows = []
    for request in requests:
        ids = model.tokenize(request.prompt, len(request.images))
        rows.append([item for token in ids for item in (visual if token == IMAGE_SLOT else [token])])
    longest = max(map(len, rows))
    module: Any = model.module
    with torch.inference_mode():
        return module.generate(
            input_ids=torch.tensor([[0] * (longest - len(row)) + row for row in rows]),
            attention_mask=torch.tensor([[0] * (longest - len(row)) + [1] * len(row) for row in rows]),
            pixel_values=torch.cat([item.values for item in pixels]),
            do_sample=False,
            max_new_tokens=steps(model),
        )


def image_id(model: Llava) -> int:
    """Return the id transformers replaces by image features."""
    return int(model.module.config.image_token_id)  # type: ignore[union-attr]  # a transformers config


def steps(model: Llava) -> int:
    """Return the answer's limit: what the pocket task allows, or the usual length when a random model never ends."""
    return PocketTask().max_new_tokens if model.info.name == "pocket" else 3


def questions(count: int, per_picture: int) -> list[Request]:
    """Return pocket benchmark questions, `per_picture` for each picture; 8 is about what a study's batch holds."""
    found: list[Request] = []
    scene = 0
    while len(found) < count:
        samples = scene_samples("validation", scene)[:per_picture]
        picture = samples[0].images[0].load()
        found += [Request((picture,), sample.prompt, stable_seed(sample.id)) for sample in samples]
        scene += 1
    return found[:count]


def pocket_or_random() -> tuple[Llava, str]:
    """Return the pocket model, or a random model of its shape when it has not been trained yet."""
    try:
        pocket: Any = load("pocket", device="cpu", dtype="float32")
    except (SteadyVLMError, ImportError):
        return random_llava(width=128, layers=12, heads=4, vision_width=192, vision_layers=6, side=96, patch=8), (
            "random model of the pocket model's shape"
        )
    return pocket, "pocket model"


def random_llava(
    *, width: int, layers: int, heads: int, vision_width: int, vision_layers: int, side: int, patch: int
) -> Llava:
    """Return a LLaVA with random weights and a byte tokenizer."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import (
        CLIPVisionConfig,
        LlamaConfig,
        LlavaConfig,
        LlavaForConditionalGeneration,
        PreTrainedTokenizerFast,
    )
    from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

    special = ["<pad>", "<s>", "</s>", "<image>"]
    pieces = [*special, *sorted(pre_tokenizers.ByteLevel.alphabet())]
    backend = Tokenizer(models.BPE(vocab={piece: i for i, piece in enumerate(pieces)}, merges=[]))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    backend.add_special_tokens(special)
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, pad_token="<pad>", bos_token="<s>", eos_token="</s>")
    vision = CLIPVisionConfig(
        hidden_size=vision_width,
        intermediate_size=3 * vision_width,
        num_hidden_layers=vision_layers,
        num_attention_heads=4,
        image_size=side,
        patch_size=patch,
    )
    text = LlamaConfig(
        vocab_size=len(pieces),
        hidden_size=width,
        intermediate_size=11 * width // 4,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        max_position_embeddings=2048,
    )
    torch.manual_seed(0)
    count = (side // patch) ** 2
    module = LlavaForConditionalGeneration(
        LlavaConfig(vision_config=vision, text_config=text, image_token_index=3, image_seq_length=count)
    )
    module.generation_config.eos_token_id = None
    module.generation_config.pad_token_id = 0
    processor = CLIPImageProcessorPil(size={"shortest_edge": side}, crop_size={"height": side, "width": side})
    return Llava(module, tokenizer, processor, name="random")


def _seconds(work: Callable[[], object]) -> float:
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


if __name__ == "__main__":
    main()
