"""What all Hugging Face families share: prompt, decoder, text, linears, weights and provenance.

Every family keeps its decoder at `model.language_model`, with `embed_tokens`, `layers`, `norm` and `rotary_emb`, and
its output head at `lm_head`. A family adds the side that differs: pictures to rows, rows to visual tokens.
"""

from __future__ import annotations

import copy
import functools
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from collections.abc import Set as AbstractSet
from pathlib import Path
from typing import Any, ClassVar, Self

import torch
from torch import Tensor, nn

from steadyvlm.errors import Unsupported
from steadyvlm.models.adapter import ModelInfo, Part, Rotary
from steadyvlm.models.blocks import LlamaLayer, rotary_angles
from steadyvlm.models.families import FAMILIES
from steadyvlm.models.fingerprint import folder_sha256, library_versions, module_sha256
from steadyvlm.models.placement import device_name
from steadyvlm.models.prompt import PromptFormat
from steadyvlm.models.settings_files import write_settings
from steadyvlm.models.sliding import sliding_window
from steadyvlm.models.structure import decoder_block
from steadyvlm.quantization.structure import Block
from steadyvlm.reduction.base import Signal
from steadyvlm.reduction.layout import ImageLayout


class HuggingFaceModel(ABC):
    """A loaded checkpoint with its tokenizer and image processor; the family-independent part of the protocol.

    A family names its row and implements the hooks below, `preprocess`, `pictures`, `encode`, `text_relevance`,
    `project` and `visual_tokens`; with three position axes also `positions` and `rotary`.

    Attributes:
        FAMILY: its row in `families.FAMILIES`, and the first part of `ModelInfo.family`.
    """

    FAMILY: ClassVar[str]

    def __init__(
        self,
        module: Any,
        tokenizer: Any,
        image_processor: Any,
        *,
        name: str = "in memory",
        template: str | None = None,
        folder: Path | None = None,
    ) -> None:
        """Wrap a loaded Hugging Face model.

        Args:
            module: the model; put into evaluation mode.
            tokenizer: a Hugging Face tokenizer that has the image token.
            image_processor: a callable like `CLIPImageProcessor` that works without torchvision.
            name: what to call it in reports.
            template: a chat template to use instead of the tokenizer's own.
            folder: where it was loaded from, for its content hash.

        Raises:
            Unsupported: as `check_config`.
            CheckpointError: for a tokenizer that does not fit the model.
        """
        self.check_config(module.config)
        self._module = module.eval()
        self._tokenizer = tokenizer
        self._image_processor = image_processor
        self._folder = folder
        self._template = template
        self._prompts = PromptFormat(tokenizer, module.config.image_token_id, template=template)
        self._info = self._describe(name)
        self.token_text = functools.lru_cache(maxsize=4096)(self._token_text)

    @classmethod
    def check_config(cls, config: Any) -> None:
        """Refuse a configuration whose tower or decoder has no parity test here; needs no weights.

        Raises:
            Unsupported: naming what is known.
        """
        family, text, vision = FAMILIES[cls.FAMILY], config.text_config.model_type, config.vision_config.model_type
        if text not in family.text_backbones:
            raise Unsupported(f"text backbone '{text}' is not supported. Known: {', '.join(family.text_backbones)}.")
        if vision not in family.vision_towers:
            raise Unsupported(f"vision tower '{vision}' is not supported. Known: {', '.join(family.vision_towers)}.")
        sliding_window(config.text_config)

    @abstractmethod
    def _signals(self) -> frozenset[Signal]:
        """Return the encoder signals this checkpoint can give; called once, from `__init__`."""

    @abstractmethod
    def _linear_prefixes(self) -> Mapping[Part, tuple[str, ...]]:
        """Return, by part, how the paths of the linears begin that take part in an answer."""

    @abstractmethod
    def _vision_blocks(self) -> list[Block]:
        """Return the layers of the tower that take part in an answer."""

    @abstractmethod
    def _connector_block(self) -> Block:
        """Return the connector."""

    def _why_not(self, signal: Signal) -> str:
        """Return why an encoder signal cannot be given; an empty text when there is no more to say than that."""
        return ""

    @property
    def info(self) -> ModelInfo:
        """Sizes and limits."""
        return self._info

    @property
    def module(self) -> nn.Module:
        """The Hugging Face model itself."""
        return self._module  # type: ignore[no-any-return]  # held as Any: its attributes are untyped

    @property
    def device(self) -> torch.device:
        """Where the weights live."""
        return self._decoder.embed_tokens.weight.device  # type: ignore[no-any-return]

    @property
    def dtype(self) -> torch.dtype:
        """Precision of hidden states (of the embedding, which no quantiser touches)."""
        return self._decoder.embed_tokens.weight.dtype  # type: ignore[no-any-return]

    @property
    def _decoder(self) -> Any:
        return self._module.model.language_model

    def tokenize(self, prompt: str, num_images: int) -> tuple[int, ...]:
        """Return the ids of the rendered chat prompt, `IMAGE_SLOT` once per image."""
        return self._prompts.tokenize(prompt, num_images)

    def answer_ids(self, prompt: str, num_images: int, answer: str) -> tuple[int, ...]:
        """Return the ids of an answer as they would follow this prompt, the end token included."""
        return (*self._prompts.answer_ids(prompt, num_images, answer), *self._info.eos_token_ids[:1])

    def check_signals(self, needs: AbstractSet[Signal]) -> None:
        """Return quietly if the encoder can give these signals; raises Unsupported otherwise."""
        for signal in sorted(needs - self._info.signals):
            reason = self._why_not(signal)
            raise Unsupported(f"{self._info.family} has no encoder signal {signal}{': ' if reason else ''}{reason}.")

    def positions(self, token_ids: Sequence[int], layouts: Sequence[ImageLayout]) -> Tensor:
        """Return positions 0, 1, 2, … of the unreduced prompt."""
        length = len(token_ids) + sum(layout.visual_tokens - 1 for layout in layouts)
        return torch.arange(length, device=self.device)

    def embed(self, token_ids: Tensor) -> Tensor:
        """Return embeddings [B, T, width] of ids [B, T]."""
        return self._decoder.embed_tokens(token_ids)  # type: ignore[no-any-return]

    def layers(self) -> Sequence[LlamaLayer]:
        """Return the decoder layers as they are now."""
        return [LlamaLayer.of(layer) for layer in self._decoder.layers]

    def rotary(self, positions: Tensor) -> Rotary:
        """Return the rotary angles of positions [B, T]."""
        return rotary_angles(self._decoder.rotary_emb, positions, self.dtype)

    def logits(self, hidden: Tensor) -> Tensor:
        """Return float32 logits [B, V] of final hidden rows [B, width]."""
        return self._module.lm_head(self._decoder.norm(hidden)).float()  # type: ignore[no-any-return]

    def text(self, token_ids: Sequence[int]) -> str:
        """Decode ids without special tokens."""
        return str(
            self._tokenizer.decode(list(token_ids), skip_special_tokens=True, clean_up_tokenization_spaces=False)
        )

    def _token_text(self, token_id: int) -> str:
        return str(self._tokenizer.decode([token_id], clean_up_tokenization_spaces=False))

    def linears(self, parts: Sequence[str] = ("language",)) -> dict[str, nn.Linear]:
        """Return the linears of `parts` that take part in an answer, by their path inside `module`."""
        prefixes: Mapping[Any, tuple[str, ...]] = self._linear_prefixes()
        wanted = tuple(prefix for part in parts for prefix in prefixes[part])
        return {
            path: module
            for path, module in self._module.named_modules()
            if isinstance(module, nn.Linear) and path.startswith(wanted)
        }

    def blocks(self, parts: Sequence[str] = ("language",)) -> list[Block]:
        """Return the blocks of `parts`: decoder layers, then vision layers, then the connector."""
        language = [decoder_block(index, layer) for index, layer in enumerate(self._decoder.layers)]
        table = {"language": language, "vision": self._vision_blocks(), "connector": [self._connector_block()]}
        return [block for part, blocks in table.items() if part in parts for block in blocks]

    def copy(self) -> Self:
        """Return a model with its own weights; tokenizer and image processor, which hold no weights, are shared."""
        twin = copy.copy(self)
        twin._module = copy.deepcopy(self._module)
        return twin

    def write_settings(self, out: Path) -> dict[str, Any]:
        """Write tokenizer, chat template and image processor into `out`; return what belongs into config.json."""
        return write_settings(
            out,
            folder=self._folder,
            module=self._module,
            tokenizer=self._tokenizer,
            image_processor=self._image_processor,
            template=self._template,
        )

    def weights_sha256(self) -> str:
        """Return the hash of the folder it came from, or of the tensors of a model built in memory.

        A copy keeps the hash of its source: what a recipe does to the copy is addressed by the recipe.
        """
        if not hasattr(self, "_sha256"):
            config = str(sorted(self._module.config.to_dict().items()))
            self._sha256 = folder_sha256(self._folder) if self._folder else module_sha256(self._module, extra=config)
        return self._sha256

    def provenance(self) -> dict[str, Any]:
        """Return device, dtype, attention, versions and extra."""
        return {
            "device": device_name(self.device),
            "dtype": str(self.dtype).removeprefix("torch."),
            "attention": "sdpa",
            "versions": library_versions(),
            "extra": {"threads": str(torch.get_num_threads()), "prompt": self._prompts.description},
        }

    def _describe(self, name: str) -> ModelInfo:
        text, vision = self._module.config.text_config, self._module.config.vision_config
        family = FAMILIES[self.FAMILY]
        return ModelInfo(
            name=name,
            family=f"{self.FAMILY}/{vision.model_type}/{text.model_type}",
            num_layers=text.num_hidden_layers,
            num_heads=text.num_attention_heads,
            num_kv_heads=text.num_key_value_heads,
            head_dim=self._decoder.layers[0].self_attn.head_dim,
            width=text.hidden_size,
            mlp_width=text.intermediate_size,
            vocabulary=text.vocab_size,
            has_cls=family.has_cls,
            signals=self._signals(),
            position_axes=family.position_axes,
            max_positions=text.max_position_embeddings,
            sliding_window=sliding_window(text),
            eos_token_ids=self._eos(),
        )

    def _eos(self) -> tuple[int, ...]:
        configured = getattr(getattr(self._module, "generation_config", None), "eos_token_id", None)
        if configured is None:
            configured = self._tokenizer.eos_token_id
        if configured is None:
            return ()
        return (configured,) if isinstance(configured, int) else tuple(configured)
