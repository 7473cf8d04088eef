"""Runs a model block by block for llm-compressor, so that each block sees inputs that passed the quantised ones before.

llm-compressor's own sequential pipeline rewrites the source of the model's forward and traces it. Here nothing is
traced: the whole model runs once per example up to the blocks of a part, what the blocks are called with is noted, and
from then on each block is called alone. Its modifiers hear the same events in the same order.

Parts run in the order of the model: vision blocks, connector, decoder layers; a part that is quantised is what the next
one reads from.
"""

from __future__ import annotations

import contextlib
import importlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from steadyvlm.quantization.structure import Block, Part

ORDER: tuple[Part, ...] = ("vision", "connector", "language")
_STACKED = "hidden_states"


class _Reached(Exception):
    """The last block of a part has been called: the rest of the model need not run."""


@dataclass
class _Call:
    """What one example brings to the blocks of a part.

    Attributes:
        hidden: input of the block whose turn it is.
        others: by block, its further positional and keyword arguments.
    """

    hidden: Tensor
    others: list[tuple[tuple[Any, ...], dict[str, Any]]]


def run_blocks(
    module: nn.Module,
    blocks: Sequence[Block],
    examples: Sequence[dict[str, Any]],
    *,
    groups: Callable[[Block], Sequence[tuple[str, ...]]],
    around: Callable[[Block], AbstractContextManager[None]],
    modifiers: Sequence[Any],
    progress: Callable[[int, int, str], None] | None = None,
) -> None:
    """Show `examples` to the blocks, one after the other, and let the session's modifiers quantise each.

    Args:
        module: the Hugging Face model, changed in place.
        blocks: what is quantised, whole parts only.
        examples: arguments of the module's forward, one example each; some with pictures if the vision side is in
            `blocks`.
        groups: of a block, the linears that are quantised together; the block runs anew for each group.
        around: entered before a block is quantised, left when it has been.
        modifiers: of the active session, in their order.
        progress: called as `progress(done, total, what)` when a block is done.
    """
    helpers: Any = importlib.import_module("llmcompressor.utils.helpers")
    events: Any = importlib.import_module("llmcompressor.core").LifecycleCallbacks
    hooks: Any = importlib.import_module("llmcompressor.modifiers.utils.hooks").HooksMixin
    done = 0
    events.calibration_start()
    _without_pinning(module, modifiers)
    with helpers.calibration_forward_context(module), helpers.DisableQuantization(module):
        for part in ORDER:
            wanted = [block for block in blocks if block.part == part]
            if not wanted:
                continue
            with hooks.disable_hooks():
                captured = [_capture(module, wanted, example) for example in examples]
            calls = [call for call in captured if call is not None]
            for number, block in enumerate(wanted):
                target = module.get_submodule(block.path)
                with around(block):
                    for group in groups(block):
                        linears = [module.get_submodule(name) for name in group]
                        with hooks.disable_hooks(keep=_hooks_of(modifiers, target, linears)):
                            for call in calls:
                                _run(target, call, number)
                        events.sequential_epoch_end(linears)
                with hooks.disable_hooks():
                    for call in calls:
                        call.hidden = _run(target, call, number)
                done += 1
                if progress is not None:
                    progress(done, len(blocks), block.path)
    events.calibration_end()


def _capture(module: nn.Module, blocks: Sequence[Block], example: dict[str, Any]) -> _Call | None:
    """Return what the blocks are called with, or None when the example does not pass them."""
    hidden: list[Tensor] = []
    others: list[tuple[tuple[Any, ...], dict[str, Any]]] = []

    def note(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        kwargs = dict(kwargs)
        state, rest = (args[0], args[1:]) if args else (kwargs.pop(_STACKED), ())
        if not others:
            hidden.append(state)
        others.append((rest, kwargs))
        if len(others) == len(blocks):
            raise _Reached

    with contextlib.ExitStack() as stack:
        for block in blocks:
            handle = module.get_submodule(block.path).register_forward_pre_hook(note, with_kwargs=True)
            stack.callback(handle.remove)
        with contextlib.suppress(_Reached):
            module(**example)
            return None
    return _Call(hidden[0], others)


def _run(target: nn.Module, call: _Call, number: int) -> Tensor:
    rest, kwargs = call.others[number]
    output = target(call.hidden, *rest, **kwargs)
    found: Tensor = output[0] if isinstance(output, tuple) else output
    return found


def _hooks_of(modifiers: Sequence[Any], block: nn.Module, linears: Sequence[nn.Module]) -> set[Any]:
    """Return the modifiers' hooks on these linears and on the modules of the block that hold linears themselves."""
    others = {item for item in block.modules() if not isinstance(item, nn.Linear)}
    heard = [*linears, *others]
    numbers = {key for item in heard for key in _hook_keys(item)}
    return {hook for modifier in modifiers for hook in modifier._hooks if hook.id in numbers}


def _hook_keys(module: nn.Module) -> Iterator[int]:
    yield from module._forward_hooks
    yield from module._forward_pre_hooks


def _without_pinning(module: nn.Module, modifiers: Sequence[Any]) -> None:
    """Keep what AWQ stores where it is, unless the model is on a GPU: only there does pinned memory help, or exist."""
    if next(module.parameters()).is_cuda:
        return
    for modifier in modifiers:
        for cache in getattr(modifier, "_parent_args_cache", {}).values():
            cache.pin_memory = lambda *_, **__: None
