"""A model without its weights: built in a moment whatever its size, to be looked at, checked against, or filled.

Every large tensor of a transformers module begins as `torch.empty`. Sending just these to the meta device leaves what
is computed while a module is made (rotary frequencies, numbers of positions) on the CPU with the right numbers, so that
nothing has to be computed again once the weights are there.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from steadyvlm.errors import CheckpointError


class _EmptyOnMeta(TorchFunctionMode):
    """Tensors made by `torch.empty` hold no memory."""

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        options = dict(kwargs or {})
        if func is torch.empty:
            options["device"] = "meta"
        return func(*args, **options)


def skeleton(config: Any, architecture: str, dtype: torch.dtype) -> Any:
    """Return the module transformers builds from a configuration, its large weights on the meta device.

    Args:
        config: a Hugging Face configuration.
        architecture: class of the module.
        dtype: precision of its weights.

    Raises:
        CheckpointError: when the configuration describes no such model.
    """
    from transformers import AutoModelForImageTextToText

    build: Any = AutoModelForImageTextToText.from_config
    try:
        with _EmptyOnMeta(), torch.random.fork_rng(devices=[]):
            module = build(config, dtype=dtype, attn_implementation="sdpa")
    except (ValueError, TypeError, KeyError, AttributeError, RuntimeError) as error:
        raise CheckpointError(f"config.json describes no {architecture} that can be built: {error}") from error
    if type(module).__name__ != architecture:
        raise CheckpointError(f"config.json describes a {type(module).__name__}, and says it is a {architecture}.")
    module.requires_grad_(False)
    return module.eval()


def tensors_of(module: nn.Module) -> dict[str, Tensor]:
    """Return what a checkpoint of `module` holds: its state, what is shared (a tied head) under its first name only.

    >>> from torch import nn
    >>> pair = nn.Sequential(nn.Linear(2, 2, bias=False), nn.Linear(2, 2, bias=False))
    >>> pair[1].weight = pair[0].weight
    >>> list(tensors_of(pair))
    ['0.weight']
    """
    found: dict[str, Tensor] = {}
    seen: set[int] = set()
    for name, tensor in module.state_dict(keep_vars=True).items():
        if id(tensor) not in seen:
            seen.add(id(tensor))
            found[name] = tensor.detach()
    return found


def assign(module: nn.Module, name: str, tensor: Tensor) -> None:
    """Put `tensor` in the place of the parameter or buffer `name`, whatever was there."""
    path, _, last = name.rpartition(".")
    owner = module.get_submodule(path)
    if last in owner._parameters:
        owner._parameters[last] = nn.Parameter(tensor, requires_grad=False)
    else:
        owner._buffers[last] = tensor
