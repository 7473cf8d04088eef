"""Questions with their reference answers, as batches for a frozen decoder.

Pictures are encoded once, without gradients, and kept: several questions share one, and a run sees each several times.
Which examples a step sees depends on the seed and the step alone, so a stopped run goes on as if never stopped.
"""

from __future__ import annotations

from collections import Counter, OrderedDict
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from steadyvlm.errors import InvalidOption, SampleError
from steadyvlm.models.adapter import IMAGE_SLOT, VisionLanguageModel
from steadyvlm.records import ImageRef, Sample
from steadyvlm.reduction.layout import ImageLayout
from steadyvlm.registry import Spec
from steadyvlm.seeding import stable_seed
from steadyvlm.tasks import TASKS
from steadyvlm.tasks.base import Task, checked_samples
from steadyvlm.training.lvpruning.forward import Batch

_Seen = tuple[Tensor, ImageLayout]


def training_task(text: str) -> Task:
    """Build a task to train on; a task with splits gives its training split unless another is named.

    Raises:
        InvalidOption: for a test split, which must stay unseen.
        UnknownName: for a task, an option or a split that does not exist.
    """
    spec = Spec.parse(text)
    splits = "split" in getattr(TASKS.load(spec.name), "__dataclass_fields__", {})
    if splits and "split" not in spec.options:
        spec = Spec(spec.name, {**spec.options, "split": "train"})
    if "test" in str(spec.options.get("split", "")):
        raise InvalidOption(
            f"'{spec}' holds the questions that models are measured on, so nothing may be trained on them. "
            f"Use another split, for example {spec.name}(split='train')."
        )
    task: Task = TASKS.create(spec)
    return task


class Examples:
    """The questions of a task that have a picture, ready to be batched for one model."""

    def __init__(self, model: VisionLanguageModel, task: Task, *, cache_images: int) -> None:
        """Read the task.

        Args:
            model: whose tokens they become.
            task: with references.
            cache_images: how many encoded pictures to keep.

        Raises:
            SampleError: when no question has a picture.
        """
        self._model, self._cache_images = model, cache_images
        self._samples = [sample for sample in checked_samples(task) if sample.images]
        self._seen: OrderedDict[str, _Seen] = OrderedDict()
        if not self._samples:
            raise SampleError(f"no question of task '{task.name}' has a picture, so there is nothing to prune.")

    def __len__(self) -> int:
        """Return the number of questions."""
        return len(self._samples)

    def batch(self, rows: Sequence[int]) -> Batch:
        """Return the questions with these numbers."""
        samples = [self._samples[row] for row in rows]
        images = self._encode([image for sample in samples for image in sample.images])
        return collate([self._one(sample, [images[image.sha256()] for image in sample.images]) for sample in samples])

    def _one(self, sample: Sample, images: Sequence[_Seen]) -> dict[str, Tensor]:
        model = self._model
        prompt = model.tokenize(sample.prompt, len(images))
        answer = model.answer_ids(sample.prompt, len(images), reference(sample))
        layouts = [layout for _, layout in images]
        features = iter(images)
        parts: list[Tensor] = []
        visual: list[bool] = []
        for token in (*prompt, *answer):
            if token == IMAGE_SLOT:
                parts.append(next(features)[0])
            else:
                parts.append(model.embed(torch.tensor([[token]], device=model.device))[0])
            visual += [token == IMAGE_SLOT] * len(parts[-1])
        hidden = torch.cat(parts)
        asked = len(visual) - len(answer)
        last = max(index for index, is_visual in enumerate(visual) if is_visual)
        number = torch.arange(len(visual), device=model.device)
        targets = torch.full_like(number, -100)
        targets[asked - 1 : -1] = torch.tensor(answer, device=model.device)
        positions = model.positions(prompt, layouts)
        following = positions.max() + 1 + torch.arange(len(answer), device=positions.device)
        if positions.dim() == 2:
            following = following[:, None].expand(-1, positions.shape[1])
        return {
            "hidden": hidden,
            "positions": torch.cat((positions, following)),
            "visual": torch.tensor(visual, device=model.device),
            "question": (number > last) & (number < asked),
            "targets": targets,
        }

    def _encode(self, images: Sequence[ImageRef]) -> dict[str, _Seen]:
        """Return visual tokens and layout of these pictures by content hash, encoding those not held."""
        found: dict[str, _Seen] = {}
        waiting: dict[str, Any] = {}
        for image in images:
            key = image.sha256()
            if key in self._seen:
                self._seen.move_to_end(key)
                found[key] = self._seen[key]
            elif key not in waiting:
                waiting[key] = self._model.preprocess(image.load())
        if waiting:
            with torch.no_grad():
                encoded = self._model.encode(list(waiting.values()), frozenset())
                for key, item in zip(waiting, encoded, strict=True):
                    found[key] = self._seen[key] = (self._model.visual_tokens(item).clone(), item.layout)
        while len(self._seen) > self._cache_images:
            self._seen.popitem(last=False)
        return found


def reference(sample: Sample) -> str:
    """Return the reference answer; of several annotators, what most of them said (the first of those)."""
    if not sample.references:
        raise SampleError(f"sample '{sample.id}' has no reference answer, so nothing can be learned from it.")
    return Counter(sample.references).most_common(1)[0][0]


def collate(rows: Sequence[dict[str, Tensor]]) -> Batch:
    """Pad on the right: causality hides the padding from every real token, and padding has no target."""
    fill = {"targets": -100}
    padded = {
        name: torch.nn.utils.rnn.pad_sequence(
            [row[name] for row in rows], batch_first=True, padding_value=fill.get(name, 0)
        )
        for name in rows[0]
    }
    return Batch(**padded)


def rows_of_step(step: int, batch: int, count: int, seed: int) -> list[int]:
    """Return which questions step `step` sees: epoch after epoch, each in its own order.

    >>> sorted(rows_of_step(0, 2, 4, 0) + rows_of_step(1, 2, 4, 0))
    [0, 1, 2, 3]
    """
    orders: dict[int, list[int]] = {}
    rows = []
    for number in range(step * batch, (step + 1) * batch):
        epoch, place = divmod(number, count)
        if epoch not in orders:
            lot = torch.Generator().manual_seed(stable_seed("lvpruning/order", seed, epoch))
            orders[epoch] = torch.randperm(count, generator=lot).tolist()
        rows.append(orders[epoch][place])
    return rows
