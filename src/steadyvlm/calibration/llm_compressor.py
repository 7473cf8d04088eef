"""GPTQ and AWQ through llm-compressor, on the model in memory, calibrated with pictures.

The settings (`quantization.gptq`, `quantization.awq`) say what is wanted; here llm-compressor's modifiers are told, the
blocks are run for them (`llm_compressor_driver`), and what they leave behind is replaced by plain linears of our own
that hold weights on their grid: nothing of llm-compressor stays in the model.

AWQ's pairs come from what each family says about its blocks, so that none has to be in llm-compressor's own tables.
"""

from __future__ import annotations

import contextlib
import functools
import importlib
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from steadyvlm.calibration.llm_compressor_driver import ORDER, run_blocks
from steadyvlm.calibration.llm_compressor_inputs import forward_arguments
from steadyvlm.calibration.llm_compressor_quiet import quiet_session
from steadyvlm.engine.requests import Request
from steadyvlm.errors import InvalidOption, Unsupported
from steadyvlm.models.adapter import VisionLanguageModel
from steadyvlm.quantization.apply import check_weights, sort_out
from steadyvlm.quantization.awq import AWQ
from steadyvlm.quantization.base import QuantizationReport, QuantizedLayer
from steadyvlm.quantization.gptq import GPTQ
from steadyvlm.quantization.grid import relative_error
from steadyvlm.quantization.structure import Block
from steadyvlm.quantization.weight_only_calibrated import CalibratedLinear, describe, refuse_misfits, to_codes

_HELD = (
    "Weights are rounded to {bits} bits and held in the compute dtype: answers are those of the packed format, memory "
    "and speed are not."
)
_NOTED = {"quantization_enabled", "forward"}  # the second is the head's own method, put back as an attribute


def calibrate_weights(
    quantizer: GPTQ | AWQ,
    model: VisionLanguageModel,
    requests: Sequence[Request],
    *,
    progress: Callable[[int, int, str], None] | None = None,
) -> QuantizationReport:
    """Quantise the weights of `model` in place; hand over a copy to keep the original.

    Args:
        quantizer: what to do.
        model: the model that is changed.
        requests: calibration examples, with their pictures.
        progress: called as `progress(done, total, what)` when a block is done.

    Raises:
        InvalidOption: when the group does not divide an input width, or there is no example.
        Unsupported: when there is nothing to quantise, or no example has a picture for the vision side.
        CheckpointError: when a weight cannot be quantised.
        MissingDependency: when llm-compressor is not installed.
        All of them before anything is changed.

    >>> calibrate_weights(GPTQ(group=32), model, requests)   # doctest: +SKIP
    """
    method = "gptq" if isinstance(quantizer, GPTQ) else "awq"
    quantizer.check_available()
    ready, skipped = sort_out(model.linears(quantizer.modules), model.module)
    refuse_misfits(method, quantizer.group, ready)
    check_weights(ready)
    _check_examples(method, quantizer.modules, requests)
    blocks = [block for part in ORDER if part in quantizer.modules for block in model.blocks((part,))]
    examples = forward_arguments(model, requests)
    errors: dict[str, float] = {}
    with quiet_session(method) as session:
        modifiers = _modifiers(quantizer, blocks, ready)
        session.initialize(model=model.module, start=-1, recipe=list(modifiers))
        groups = _in_turn if isinstance(quantizer, GPTQ) and quantizer.true_sequential else _at_once
        run_blocks(
            model.module,
            blocks,
            examples,
            groups=lambda block: [tuple(name for name in group if name in ready) for group in groups(block)],
            around=functools.partial(_measured, quantizer, model.module, ready, errors),
            modifiers=modifiers,
            progress=progress,
        )
        notes = (_HELD.format(bits=quantizer.bits), *_notes(quantizer, modifiers, blocks, ready))
        session.finalize()  # which forgets what the notes are made from
    layers = tuple(_settle(model.module, quantizer, name, errors[name]) for name in ready)
    _tidy(model.module)
    return QuantizationReport(method, layers, skipped, simulated=True, notes=notes)


def _check_examples(method: str, modules: Sequence[str], requests: Sequence[Request]) -> None:
    if not requests:
        raise InvalidOption(f"{method}: there are no calibration examples. Give at least one question with a picture.")
    if any(part in modules for part in ("connector", "vision")) and not any(item.images for item in requests):
        raise Unsupported(
            f"{method}: none of the {len(requests)} calibration examples has a picture, so nothing passes through "
            f"{', '.join(modules)}. Give examples with pictures, or modules=('language',)."
        )


def _in_turn(block: Block) -> list[tuple[str, ...]]:
    return [reader.linears for reader in block.readers]


def _at_once(block: Block) -> list[tuple[str, ...]]:
    return [tuple(block.linears)]


def _modifiers(quantizer: GPTQ | AWQ, blocks: Sequence[Block], ready: Mapping[str, nn.Linear]) -> list[Any]:
    weights: dict[str, Any] = {
        "num_bits": quantizer.bits,
        "type": "int",
        "symmetric": quantizer.symmetric,
        "strategy": "channel" if quantizer.group is None else "group",
        "group_size": quantizer.group,
        "observer": "memoryless_mse" if quantizer.clip else "memoryless_minmax",
    }
    names = list(ready)
    scheme = {"group_0": {"targets": names, "weights": weights}}
    if isinstance(quantizer, GPTQ):
        gptq: Any = importlib.import_module("llmcompressor.modifiers.gptq")
        order = "static" if quantizer.act_order else None
        return [
            gptq.GPTQModifier(
                config_groups=scheme, targets=names, actorder=order, dampening_frac=quantizer.damping, block_size=128
            )
        ]
    awq: Any = importlib.import_module("llmcompressor.modifiers.transform.awq")
    plain: Any = importlib.import_module("llmcompressor.modifiers.quantization")
    modifiers = [plain.QuantizationModifier(config_groups=scheme, targets=names)]
    pairs = awq_pairs(blocks, ready)
    if pairs:
        mappings = [awq.AWQMapping(writer, list(readers)) for writer, readers in pairs]
        settings = {"duo_scaling": quantizer.duo_scaling, "n_grid": quantizer.grid_points}
        modifiers.insert(0, awq.AWQModifier(mappings=mappings, **settings))
    return modifiers


def awq_pairs(blocks: Sequence[Block], linears: Collection[str]) -> list[tuple[str, tuple[str, ...]]]:
    """Return, for each input that something in front can take a scale of, what writes it and the linears that read it.

    Values pass to the output projection unchanged only if each query head has values of its own; a fused projection
    of query, key and value is left alone, because its bias cannot be scaled in parts.
    """
    pairs: list[tuple[str, tuple[str, ...]]] = []
    for block in blocks:
        for reader in block.readers:
            writer = reader.norm or reader.scaled_by
            heads = block.heads
            if reader.feed == "attention_output" and heads is not None and heads.kv_count == heads.count:
                own = heads.value_rows[0] == 0  # a linear that makes nothing but values
                writer = heads.value if own else None
            if writer is not None and all(name in linears for name in reader.linears):
                pairs.append((writer, reader.linears))
    return pairs


def _notes(
    quantizer: GPTQ | AWQ, modifiers: Sequence[Any], blocks: Sequence[Block], ready: Collection[str]
) -> tuple[str, ...]:
    if isinstance(quantizer, GPTQ):
        failed = list(modifiers[0]._rtn_fallback_module_names)
        if not failed:
            return ()
        return (f"Rounded to nearest, because their inputs gave no factor: {', '.join(failed)}. Raise `damping`.",)
    plain = len(ready) - sum(len(readers) for _, readers in awq_pairs(blocks, ready))
    if not plain:
        return ()
    return (f"{plain} linears were rounded without scales: nothing in front of them can take up a factor.",)


@contextlib.contextmanager
def _measured(
    quantizer: GPTQ | AWQ,
    root: nn.Module,
    names: Collection[str],
    errors: dict[str, float],
    block: Block,
) -> Iterator[None]:
    """Note how far the weights of a block moved: from what they were, or with AWQ from what scaling made of them."""
    linears: dict[str, Any] = {name: root.get_submodule(name) for name in block.linears if name in names}
    before = (
        {} if isinstance(quantizer, AWQ) else {name: item.weight.detach().clone() for name, item in linears.items()}
    )
    yield
    for name, linear in linears.items():
        exact = before.pop(name, linear.weight.detach())
        errors[name] = relative_error(exact, _on_grid(linear, quantizer).weight)


def _tidy(root: nn.Module) -> None:
    """Take away what llm-compressor and compressed-tensors noted in modules that stay."""
    for module in root.modules():
        for attribute in _NOTED & vars(module).keys():
            delattr(module, attribute)


@torch.no_grad()
def _settle(root: nn.Module, quantizer: GPTQ | AWQ, name: str, error: float) -> QuantizedLayer:
    """Put a linear of our own where llm-compressor left one of its own."""
    left: Any = root.get_submodule(name)
    linear = _on_grid(left, quantizer)
    root.set_submodule(name, linear.train(left.training))
    return describe(name, linear, error)


@torch.no_grad()
def _on_grid(left: Any, quantizer: GPTQ | AWQ) -> CalibratedLinear:
    scale: Tensor = left.weight_scale.detach().to(left.weight.dtype).reshape(left.out_features, -1)
    zero = None if quantizer.symmetric else left.weight_zero_point.detach().reshape(scale.shape)
    codes = to_codes(left.weight.detach(), scale, zero, quantizer.bits)
    bias = None if left.bias is None else left.bias.detach()
    return CalibratedLinear(codes, scale, zero, bias, quantizer.grid)
