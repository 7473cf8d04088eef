"""Where visual tokens come from, moved by the selections that move the tokens: image, number, how many were merged."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from steadyvlm.engine.selections import merged_slots, summands
from steadyvlm.records import KeptTokens
from steadyvlm.reduction.base import Selection


@dataclass(frozen=True, slots=True, eq=False)
class Slots:
    """Where the visual tokens of one sequence come from, in slot order; int64 tensors [N] on the model's device.

    Attributes:
        num_images: images in the prompt.
        image: image index of each slot.
        token: number inside its image, as `ImageLayout` counts.
        merged: extra tokens merged into each slot.
    """

    num_images: int
    image: Tensor
    token: Tensor
    merged: Tensor

    @classmethod
    def of_image(cls, index: int, tokens: Sequence[int], device: torch.device) -> Slots:
        """Return untouched slots of one image."""
        token = torch.tensor(tokens, dtype=torch.int64, device=device)
        return cls(index + 1, torch.full_like(token, index), token, torch.zeros_like(token))

    @classmethod
    def together(cls, parts: Sequence[Slots], device: torch.device) -> Slots:
        """Return the slots of all images of a prompt, one after the other."""
        none = cls.of_image(-1, (), device)
        columns = zip(*((part.image, part.token, part.merged) for part in (none, *parts)), strict=True)
        return cls(len(parts), *(torch.cat(column) for column in columns))

    def __len__(self) -> int:
        """Return the number of visual tokens."""
        return self.image.shape[0]

    def take(self, selection: Selection, mixed: Tensor | None = None) -> Slots:
        """Return the slots a selection leaves; what its `mix` merges is added to the counts.

        Args:
            selection: of these slots.
            mixed: its `merged_slots`, when they are known already.
        """
        device = self.image.device
        keep = selection.keep.to(device)
        merged, mixed = self.merged[keep], merged_slots(selection) if mixed is None else mixed
        if mixed.numel():
            parts, weights = summands(selection, mixed)
            found = (weights != 0).to(device, torch.float32) @ (self.merged[parts.to(device)] + 1).to(torch.float32)
            merged[mixed.to(device)] = (found.round().to(torch.int64) - 1).clamp_min(0)
        return Slots(self.num_images, self.image[keep], self.token[keep], merged)

    def grouped(self, selection: Selection) -> Selection:
        """Return the same selection with the slots of each image together, images in prompt order."""
        owners = self.image[selection.keep.to(self.image.device)]
        if self.num_images < 2 or bool((owners[1:] >= owners[:-1]).all()):
            return selection
        order = owners.argsort(stable=True).to(selection.keep.device)
        return Selection(selection.keep[order], None if selection.mix is None else selection.mix[order])

    def records(self, layer: int) -> list[KeptTokens]:
        """Return one record per image of what is processed from `layer` on."""
        found = []
        for image in range(self.num_images):
            mine = self.image == image
            merged = tuple(self.merged[mine].tolist())
            found.append(KeptTokens(layer, image, tuple(self.token[mine].tolist()), merged if any(merged) else ()))
        return found
