"""Weight-only models in the compressed-tensors format ("pack-quantized"), which serving engines read.

Written is what llm-compressor itself would write: packed codes, scales and zero points under the names of the original
checkpoint, and in config.json a `quantization_config` with the bits, the groups and the linears that are left alone.
Reading goes through transformers and the compressed-tensors package; what they leave, linears that unpack themselves at
each call or at the first, is replaced by linears whose weights are unpacked once.

Codes are whole numbers and scales are stored in the dtype of the model, so a model answers the same, bit for bit, after
it was written and read.

Source: compressed-tensors 0.19, `compressors/pack_quantized` (https://github.com/vllm-project/compressed-tensors).

Letters: O output width, I input width, G groups per row, b bits.
"""

from __future__ import annotations

import contextlib
import functools
import importlib
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from steadyvlm.errors import Unsupported
from steadyvlm.models.adapter import VisionLanguageModel
from steadyvlm.models.new_folder import new_folder
from steadyvlm.models.settings_files import CONFIG
from steadyvlm.models.shards import SHARD_BYTES, ShardWriter
from steadyvlm.models.skeleton import tensors_of
from steadyvlm.quantization import grid
from steadyvlm.quantization.grid import Grid
from steadyvlm.quantization.linear import RoundedLinear
from steadyvlm.quantization.nibbles import pack4
from steadyvlm.quantization.weight_only_calibrated import CalibratedLinear

METHOD = "compressed-tensors"
_FORMAT = "pack-quantized"
_WITH_BARS = (
    "compressed_tensors.quantization.lifecycle.apply",
    "compressed_tensors.compressors.model_compressors.model_compressor",
    "compressed_tensors.offload.dispatch",
)
_OWN = ("weight", "scale", "zero")
_ROWS = 256  # packed at a time, where codes do not fill bytes: each code is taken apart into bits


def save_compressed(model: VisionLanguageModel, folder: str | Path, *, shard_bytes: int = SHARD_BYTES) -> int:
    """Write a model that gptq or awq quantised as a compressed-tensors checkpoint.

    Args:
        model: with `CalibratedLinear` modules, all of the same bits, groups and symmetry.
        folder: must not exist; it appears once it is complete.
        shard_bytes: of one file of weights.

    Returns:
        The bytes of all numbers.

    Raises:
        Unsupported: when nothing, or something else, was quantised.
        UsageError: when the folder exists, or cannot be written.

    >>> save_compressed(accelerate(model, "gptq(group=32)").model, "out/gptq")   # doctest: +SKIP
    """
    packed = _packed(model.module)
    settings = _settings(model.module, packed)
    with new_folder(Path(folder).expanduser()) as out:
        config = model.write_settings(out)
        writer = ShardWriter(out, shard_bytes=shard_bytes)
        for name, tensor in _checkpoint_names(model.module, _stored(model.module, packed)).items():
            writer.add(name, tensor)
        total = writer.finish()
        held = str(next(iter(packed.values())).weight.dtype).removeprefix("torch.")
        whole = {**config, "architectures": [type(model.module).__name__], "dtype": held}
        text = json.dumps({**whole, "quantization_config": settings}, indent=1)
        (out / CONFIG).write_text(text + "\n", encoding="utf-8")
    return total


def settle(module: Any) -> None:
    """Make a model that transformers loaded packed ready to be driven layer by layer.

    compressed-tensors unpacks weights when the whole model is called for the first time, which the engine never does.
    Linears of weight-only integer formats are replaced by linears that hold their unpacked weights; others (activations
    in 8 bits, floating-point codes) are unpacked and run as compressed-tensors runs them.
    """
    rest = False
    for name, linear in list(module.named_modules()):
        scheme: Any = getattr(linear, "quantization_scheme", None)
        if scheme is None:
            continue
        if isinstance(linear, nn.Linear) and hasattr(linear, "weight_packed") and _is_weight_only(scheme):
            module.set_submodule(name, _unpacked(linear, scheme.weights).train(linear.training))
        else:
            rest = True
    if rest:
        with without_bars():
            module.hf_quantizer.compressor.decompress_model(module)
        return
    module.hf_quantizer.compressor.remove_decompression_hook(module)
    del module.config.quantization_config  # nothing is packed any more: it may be quantised and saved like any other
    module.hf_quantizer = None


@contextlib.contextmanager
def without_bars(*others: str) -> Iterator[None]:
    """Hold back the progress bars of compressed-tensors, which know no switch, and of `others`, named as modules."""
    with contextlib.ExitStack() as stack:
        for name in (*_WITH_BARS, *others):
            module: Any = importlib.import_module(name)
            stack.callback(setattr, module, "tqdm", module.tqdm)
            module.tqdm = functools.partial(_silent, module.tqdm)
        yield


def _silent(bar: Any, *args: Any, **options: Any) -> Any:
    return bar(*args, **{**options, "disable": True})


def to_words(codes: Tensor, bits: int) -> Tensor:
    """Pack codes [O, I] int8 of `bits` bits along the rows into int32 words [O, ceil(I b / 32)], lowest bits first.

    Codes are stored with 2^(b-1) added, so that none is negative.

    >>> to_words(torch.tensor([[-8, 7, 0]], dtype=torch.int8), 4).tolist()
    [[2288]]
    """
    raised = (codes.to(torch.int16) + (1 << (bits - 1))).to(torch.uint8)
    if bits == 4:
        octets = pack4(raised)
    elif bits == 8:
        octets = raised
    else:
        octets = torch.cat([grid.pack(rows, bits) for rows in torch.split(raised, _ROWS)])
    octets = torch.nn.functional.pad(octets, (0, -octets.shape[-1] % 4))
    return octets.contiguous().view(torch.int32)


def _packed(module: nn.Module) -> dict[str, CalibratedLinear]:
    packed = {name: item for name, item in module.named_modules() if isinstance(item, CalibratedLinear)}
    others = [
        name
        for name, item in module.named_modules()
        if type(item).__module__.startswith("steadyvlm.") and not isinstance(item, CalibratedLinear)
    ]
    if not packed or others:
        found = f"'{others[0]}' is a {type(module.get_submodule(others[0])).__name__}" if others else "there is none"
        raise Unsupported(
            f"the compressed-tensors format holds linears quantised by gptq or awq, and {found}. "
            "Quantise with one of those, or write this package's own format with `steadyvlm quantize`."
        )
    grids = {linear.grid for linear in packed.values()}
    if len(grids) > 1:
        raise Unsupported(f"linears lie on {len(grids)} different grids; quantise the whole model with one setting.")
    return packed


def _settings(module: nn.Module, packed: Mapping[str, CalibratedLinear]) -> dict[str, Any]:
    """Return the `quantization_config` of config.json.

    Linears that are left alone are named as they are in memory, which transformers looks for, and as they are in the
    checkpoint, which serving engines do.
    """
    chosen = next(iter(packed.values())).grid
    left = [name for name, item in module.named_modules() if isinstance(item, nn.Linear) and name not in packed]
    stored = _checkpoint_names(module, {f"{name}.weight": torch.empty(0) for name in left})
    ignored = {*left, *(name.removesuffix(".weight") for name in stored)}
    weights = {
        "num_bits": chosen.bits,
        "type": "int",
        "symmetric": chosen.symmetric,
        "strategy": "channel" if chosen.group is None else "group",
        "group_size": chosen.group,
        "block_structure": None,
        "dynamic": False,
        "actorder": None,
        "observer": "minmax",
        "observer_kwargs": {},
    }
    scheme = {"targets": ["Linear"], "weights": weights, "input_activations": None, "output_activations": None}
    return {
        "quant_method": METHOD,
        "format": _FORMAT,
        "quantization_status": "compressed",
        "config_groups": {"group_0": {**scheme, "format": _FORMAT}},
        "ignore": sorted(ignored),
        "kv_cache_scheme": None,
        "global_compression_ratio": None,
    }


def _stored(module: nn.Module, packed: Mapping[str, CalibratedLinear]) -> dict[str, Tensor]:
    """Return all tensors as they are stored, by their names in memory."""
    own = {f"{name}.{last}" for name in packed for last in _OWN}
    tensors = {name: tensor for name, tensor in tensors_of(module).items() if name not in own}
    for name, linear in packed.items():
        bits = linear.grid.bits
        tensors[f"{name}.weight_packed"] = to_words(linear.codes(), bits)
        tensors[f"{name}.weight_scale"] = linear.scale
        tensors[f"{name}.weight_shape"] = torch.tensor(linear.weight.shape)
        if linear.zero is not None:
            columns = to_words(linear.zero.to(torch.int8).T.contiguous(), bits)
            tensors[f"{name}.weight_zero_point"] = columns.T
    return tensors


def _checkpoint_names(module: nn.Module, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return the tensors by the names they have in published checkpoints."""
    loading: Any = importlib.import_module("transformers.core_model_loading")
    named: dict[str, Tensor] = loading.revert_weight_conversion(module, tensors)
    return named


def _is_weight_only(scheme: Any) -> bool:
    weights = scheme.weights
    if weights is None or scheme.input_activations is not None or scheme.output_activations is not None:
        return False
    return weights.type == "int" and weights.strategy in ("group", "channel") and 2 <= weights.num_bits <= 8


@torch.no_grad()
def _unpacked(linear: Any, weights: Any) -> RoundedLinear:
    packing: Any = importlib.import_module("compressed_tensors.compressors.pack_quantized.helpers")
    bits, scale = weights.num_bits, linear.weight_scale.detach()
    shape = torch.Size((linear.out_features, linear.in_features))
    codes = packing.unpack_from_int32(linear.weight_packed.detach(), bits, shape)
    zero = None
    if not weights.symmetric:
        places = torch.Size((linear.out_features, scale.shape[1]))
        zero = packing.unpack_from_int32(linear.weight_zero_point.detach(), bits, places, packed_dim=0)
    bias = None if linear.bias is None else linear.bias.detach()
    group = weights.group_size if weights.strategy == "group" else None
    return CalibratedLinear(codes, scale, zero, bias, Grid(bits, group, bool(weights.symmetric)))
