"""First weights: from nothing for LLaVA; for the other architectures from the LLaVA pocket that ships."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from tokenizers import AddedToken, Tokenizer
from torch import Tensor, nn

from steadyvlm.pocket.questions import FAMILIES, binding
from steadyvlm.pocket.scenes import make_scene
from steadyvlm.pocket.tokenizer import BOS, EOS, IMAGE, USER, VISION, VISION_END, VISION_START, train_tokenizer
from steadyvlm.pocket.training.decoder import PocketConfig, Prompt
from steadyvlm.pocket.training.llava_next import TILES, NextTrainer
from steadyvlm.pocket.training.model import PocketTrainer
from steadyvlm.pocket.training.names import decoder_name, trained_tensors
from steadyvlm.pocket.training.qwen2_5_vl import QwenConfig, QwenTrainer
from steadyvlm.pocket.vocabulary import GRID
from steadyvlm.pocket.weights import pocket_path


def build_tokenizer() -> Any:
    """Train the byte-level BPE on the questions of 2,000 training scenes."""
    rng = np.random.default_rng(0)
    texts: list[str] = []
    for index in range(2000):
        scene = make_scene("train", index)
        for ask in (*FAMILIES.values(), binding):
            question = ask(rng, scene)
            if question is not None:
                texts += [question.prompt, f" {question.reply}"]
                texts += [f" {question.answer}", f" word {question.answer}"]
    return train_tokenizer(texts)


def shipped_tokenizer() -> Any:
    """Return the tokenizer of the LLaVA pocket that ships; who starts from its weights reads its tokens."""
    return Tokenizer.from_file(str(pocket_path() / "tokenizer.json"))


def qwen_tokenizer() -> Any:
    """Return the shipped tokenizer with Qwen's three vision tokens after its own; the embeddings have room for them."""
    tokenizer = shipped_tokenizer()
    tokenizer.add_special_tokens([AddedToken(text, special=True) for text in VISION])
    return tokenizer


def prompt_around(tokenizer: Any, text: str) -> Prompt:
    """Split the token ids of a text at its image token."""
    ids, image = tokenizer.encode(text).ids, tokenizer.token_to_id(IMAGE)
    where = ids.index(image)
    return Prompt(tuple(ids[:where]), tuple(ids[where + 1 :]))


def llava_prompt(tokenizer: Any) -> Prompt:
    """Return what surrounds a picture in the LLaVA layouts."""
    return prompt_around(tokenizer, f"{BOS}{USER} {IMAGE}\n")


def qwen_prompt(tokenizer: Any) -> Prompt:
    """Return what surrounds a picture in the Qwen2.5-VL layout."""
    return prompt_around(tokenizer, f"{BOS}{USER} {VISION_START}{IMAGE}{VISION_END}\n")


def new_llava(tokenizer: Any, config: PocketConfig | None = None) -> PocketTrainer:
    """Return an untrained LLaVA pocket."""
    return PocketTrainer(config or PocketConfig(), llava_prompt(tokenizer), tokenizer.token_to_id(EOS))


def new_qwen(tokenizer: Any, config: QwenConfig | None = None) -> QwenTrainer:
    """Return an untrained Qwen2.5-VL pocket."""
    return QwenTrainer(config or QwenConfig(), qwen_prompt(tokenizer))


def new_next(tokenizer: Any, config: PocketConfig | None = None) -> NextTrainer:
    """Return an untrained LLaVA-NeXT pocket."""
    return NextTrainer(config or PocketConfig(image_size=48), llava_prompt(tokenizer))


def warm_qwen(tokenizer: Any, folder: Path | None = None) -> QwenTrainer:
    """Return a Qwen2.5-VL pocket that has the LLaVA pocket's embeddings, decoder and head; biases are zero."""
    model = new_qwen(tokenizer)
    state = {name: value for name, value in model.state_dict().items() if decoder_name(name)}
    for layer in model.layers:
        for name in ("q_proj", "k_proj", "v_proj"):
            nn.init.zeros_(getattr(layer, name).bias)
    for name, value in trained_tensors(folder or pocket_path(), state).items():
        with torch.no_grad():
            state[name][: len(value)] = value
    return model


def warm_next(tokenizer: Any, folder: Path | None = None) -> NextTrainer:
    r"""Return a LLaVA-NeXT pocket that has all of the LLaVA pocket.

    A crop takes the position embeddings of the middle of a picture, the row end the embedding of "\n".
    """
    model = new_next(tokenizer)
    state = model.state_dict()
    for name, value in trained_tensors(folder or pocket_path(), state).items():
        with torch.no_grad():
            state[name].copy_(_middle(value) if name == "vision.position" else value)
    with torch.no_grad():
        model.newline.copy_(model.embed.weight[tokenizer.encode("\n").ids[0]])
    return model


def _middle(position: Tensor) -> Tensor:
    """[145, D] position embeddings of a whole picture, CLS first -> [37, D] of its middle."""
    first, last = GRID // (2 * TILES), GRID - GRID // (2 * TILES)
    map_rows = position[1:].reshape(GRID, GRID, -1)[first:last, first:last]
    return torch.cat([position[:1], map_rows.flatten(0, 1)])
