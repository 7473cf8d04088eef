"""The pocket model's tokenizer: byte-level BPE, so any text (typos, other scripts, emoji) becomes known tokens."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tokenizers import Tokenizer

PAD, BOS, EOS, IMAGE, USER, ASSISTANT = "<pad>", "<s>", "</s>", "<image>", "USER:", "ASSISTANT:"
SPECIAL = (PAD, BOS, IMAGE, EOS, USER, ASSISTANT)
"""The end token is not id 2: transformers reads a CLIP text tower with that id as a legacy one."""
VOCABULARY = 512
VISION = (VISION_START, VISION_END, VIDEO) = ("<|vision_start|>", "<|vision_end|>", "<|video_pad|>")
"""Special tokens that the Qwen2.5-VL pocket adds after the others."""


def chat_template(image: str) -> str:
    r"""Return the Jinja template `<s>USER: {image}\n{question}\nASSISTANT:`, `image` standing for each picture.

    Newlines are written as expressions: transformers drops a bare newline that follows a block.
    """
    return (
        "{{ bos_token }}"
        "{% for message in messages %}"
        "{% if message['role'] == 'user' %}USER: {% else %}ASSISTANT: {% endif %}"
        "{% if message['content'] is string %}{{ message['content'] }}{% else %}"
        f"{{% for part in message['content'] if part['type'] == 'image' %}}{image}{{{{ '\\n' }}}}{{% endfor %}}"
        "{% for part in message['content'] if part['type'] == 'text' %}{{ part['text'] }}{% endfor %}{% endif %}"
        "{% if message['role'] == 'user' %}{{ '\\n' }}{% else %}{{ eos_token }}{% endif %}"
        "{% endfor %}"
        "{% if add_generation_prompt %}ASSISTANT:{% endif %}"
    )


CHAT_TEMPLATE = chat_template(IMAGE)
"""The LLaVA-1.5 layout of transformers, which the LLaVA-NeXT pocket shares."""
QWEN_TEMPLATE = chat_template(f"{VISION_START}{IMAGE}{VISION_END}")
"""The same with Qwen's tokens around the picture."""


def train_tokenizer(texts: Iterable[str]) -> Tokenizer:
    """Return a byte-level BPE tokenizer of `VOCABULARY` entries, the special tokens first (pad is id 0)."""
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=[AddedToken(text, special=True) for text in SPECIAL],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    return tokenizer
