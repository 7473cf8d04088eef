r"""From a question to token ids, the way the checkpoint was trained to be asked.

The checkpoint's own chat template is used when it has one; otherwise the LLaVA-1.5 layout
`USER: <image>\n{prompt}\nASSISTANT:`. Templates take the message either as a list of parts or as one string; which of
the two is found out once, when the model is loaded.

Differs: the transformers processor repeats the image token hundreds of times in the text and tokenises that; here the
text holds one image token per image, which becomes one `IMAGE_SLOT`. The ids around it are the same (tested).
"""

from __future__ import annotations

from typing import Any

from jinja2.exceptions import TemplateError

from steadyvlm.errors import CheckpointError, SampleError
from steadyvlm.models.adapter import IMAGE_SLOT

_PROBE = "What is this?"


class PromptFormat:
    """Renders and tokenises prompts for one checkpoint."""

    def __init__(self, tokenizer: Any, image_token_id: int, *, template: str | None = None) -> None:
        """Find the image token and the message style the template understands.

        Raises:
            CheckpointError: if the tokenizer has no image token with the id the model expects, or the chat template
                does not put the image token into the prompt.
        """
        self._tokenizer = tokenizer
        self._image_token_id = image_token_id
        self._image_token = _image_token(tokenizer, image_token_id)
        self._template = template or getattr(tokenizer, "chat_template", None)
        self._parts = True
        if self._template is not None:
            self._parts = self._find_style()

    @property
    def description(self) -> str:
        """Which layout is used, for provenance."""
        return "chat template of the checkpoint" if self._template is not None else "USER: ... ASSISTANT:"

    def render(self, prompt: str, num_images: int) -> str:
        """Return the full text of a one-turn conversation, one image token per image."""
        if self._template is not None:
            return self._from_template(prompt, num_images, parts=self._parts)
        return f"USER: {self._flat(prompt, num_images)}\nASSISTANT:"

    def tokenize(self, prompt: str, num_images: int) -> tuple[int, ...]:
        """Return ids with `IMAGE_SLOT` once per image.

        Raises:
            SampleError: for an empty prompt, or one that contains the image token itself.
        """
        if not prompt.strip():
            raise SampleError("the prompt is empty; ask a question.")
        if self._image_token in prompt:
            raise SampleError(
                f"the prompt contains the image token '{self._image_token}' itself; remove it: "
                "images are placed by the chat template, one per image of the sample."
            )
        text = self.render(prompt, num_images)
        ids = self._encode(text)
        slots = ids.count(self._image_token_id)
        if slots != num_images:
            raise SampleError(f"the rendered prompt holds {slots} image tokens for {num_images} images: {text[:200]!r}")
        return tuple(IMAGE_SLOT if token == self._image_token_id else token for token in ids)

    def answer_ids(self, prompt: str, num_images: int, answer: str) -> tuple[int, ...]:
        """Return the ids of `answer` as they would follow this prompt, without an end token.

        Raises:
            SampleError: for an empty answer, or one whose beginning the tokenizer would merge into the prompt.
        """
        text = self.render(prompt, num_images)
        asked = self._encode(text)
        whole = self._encode(f"{text}{'' if text[-1:].isspace() else ' '}{answer.strip()}")
        if not answer.strip() or whole[: len(asked)] != asked:
            raise SampleError(f"the answer {answer!r} cannot be told apart from its prompt: {text[-40:]!r}.")
        return tuple(whole[len(asked) :])

    def _encode(self, text: str) -> list[int]:
        bos = self._tokenizer.bos_token
        ids: list[int] = self._tokenizer(text, add_special_tokens=not (bos and text.startswith(bos)))["input_ids"]
        return ids

    def _find_style(self) -> bool:
        for parts in (True, False):
            try:
                text = self._from_template(_PROBE, 1, parts=parts)
            except (TemplateError, TypeError, AttributeError, ValueError):
                continue  # the template was written for the other message style
            if text.count(self._image_token) == 1 and _PROBE in text and "'type'" not in text:
                return parts
        raise CheckpointError(
            f"the checkpoint's chat template does not place the image token '{self._image_token}' in the prompt; "
            "repair 'chat_template.jinja' (or delete it to use 'USER: <image>\\n{prompt}\\nASSISTANT:')."
        )

    def _from_template(self, prompt: str, num_images: int, *, parts: bool) -> str:
        content: Any = self._flat(prompt, num_images)
        if parts:
            content = [{"type": "image"}] * num_images + [{"type": "text", "text": prompt}]
        messages = [{"role": "user", "content": content}]
        return str(
            self._tokenizer.apply_chat_template(
                messages, chat_template=self._template, tokenize=False, add_generation_prompt=True
            )
        )

    def _flat(self, prompt: str, num_images: int) -> str:
        return f"{self._image_token}\n" * num_images + prompt


def _image_token(tokenizer: Any, token_id: int) -> str:
    if not 0 <= token_id < len(tokenizer):
        raise CheckpointError(
            f"the model expects the image token at id {token_id}, but the tokenizer has only {len(tokenizer)} entries; "
            "use the tokenizer that belongs to this checkpoint (it must contain '<image>')."
        )
    token = tokenizer.convert_ids_to_tokens(token_id)
    if token is None or tokenizer(token, add_special_tokens=False)["input_ids"] != [token_id]:
        raise CheckpointError(
            f"the tokenizer does not read its entry {token_id} ({token!r}), the model's image token, as one token; "
            "use the tokenizer that belongs to this checkpoint (it must contain '<image>' as a special token)."
        )
    return str(token)
