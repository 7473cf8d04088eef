"""What a packed checkpoint says about its modules, and the modules it says it of.

`describe` turns each low-bit module of a model into a row of plain numbers: shape, bits, clips, formats, the sizes of
its transform. `place` puts modules of these very shapes, without numbers yet, into a model that was built from its
configuration. Whatever else differs between the two models cannot be saved, and `describe` says so.

Rows come from a file that may have been edited: every number in them is checked against the model it is placed in.
"""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from steadyvlm.errors import CheckpointError, InvalidOption, Unsupported
from steadyvlm.quantization.kv import KeyValueQuantizer
from steadyvlm.quantization.low_bit import LowBitLinear
from steadyvlm.quantization.state import Clip
from steadyvlm.quantization.transforms import InputTransform, TransformedNorm

Row = Mapping[str, Any]

_FORMATS = {"float16": torch.float16, "bfloat16": torch.bfloat16, "float32": torch.float32, "float64": torch.float64}


def describe(module: nn.Module, original: nn.Module) -> dict[str, dict[str, Any]]:
    """Return a row for every low-bit module, by its path.

    Args:
        module: the model to save.
        original: the model its configuration describes (`skeleton.skeleton`).

    Raises:
        Unsupported: when a module is neither a low-bit one nor that of the original.
    """
    table: dict[str, dict[str, Any]] = {}
    for path, row in _rows(module):
        if row is not None:
            table[path] = row
            continue
        found = type(module.get_submodule(path))
        if found is not type(_at(original, path)):
            raise Unsupported(
                f"'{path}' is a {found.__name__}, which has no saved form here. Low-bit models (rtn_w4a4, "
                "hadamard_w4a4, flatquant) can be saved, and gptq and awq as they are made. Nothing was written."
            )
    return table


def rows_under(module: nn.Module, path: str) -> dict[str, dict[str, Any]]:
    """Return the rows of the low-bit modules inside a block that lies at `path`."""
    return {f"{path}.{name}": row for name, row in _rows(module) if row is not None}


def place(table: Mapping[str, Row], root: nn.Module) -> None:
    """Put an empty module in place for every row of `table`.

    Raises:
        CheckpointError: for a row that does not fit the model, or that describes nothing known.
    """
    for path, row in table.items():
        try:
            parent = root.get_submodule(path.rpartition(".")[0])
            found = getattr(parent, path.rpartition(".")[2], None)
            build = _BUILDERS[row["kind"]]
            made = build(row, found)
        except (AttributeError, KeyError, TypeError, ValueError, RuntimeError, InvalidOption) as error:
            raise CheckpointError(
                f"config.json describes '{path}' as {str(row)[:200]}, which does not fit this model "
                f"({type(error).__name__}: {error}). The file was edited, or belongs to another model."
            ) from error
        parent.add_module(path.rpartition(".")[2], made.eval())


def digest(value: object) -> str:
    """Return the hash of plain data, by which an edited table is known."""
    return hashlib.sha256(json.dumps(value, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def transform_numbers(table: Mapping[str, Row]) -> int:
    """Return how many numbers the transforms of these rows hold.

    >>> transform_numbers({"down": {"transform": {"left": 2, "right": 3, "scale": 6, "format": "float16"}}})
    19
    """
    total = 0
    for row in table.values():
        if row.get("kind") == "cache":
            total += 2 * row["width"] ** 2 if row["transform"] else 0
        elif row["transform"] is not None:
            sides = row["transform"]
            total += sum((sides[side] or 0) ** 2 for side in ("left", "right")) + (sides["scale"] or 0)
    return total


def owner_test(table: Mapping[str, Row]) -> Callable[[str], bool]:
    """Return whether a tensor, by its name, belongs to a low-bit module; a norm that was wrapped does not.

    >>> low_bit = owner_test({"layers.1.norm": {"kind": "norm"}, "layers.1.up": {"kind": "linear"}})
    >>> [low_bit(f"layers.1.{name}") for name in ("up.packed", "norm.transform.left", "norm.norm.weight")]
    [True, True, False]
    """
    fixed = frozenset(f"{path}.transform" if row["kind"] == "norm" else path for path, row in table.items())
    return lambda name: any(name[: at.start()] in fixed for at in re.finditer(r"\.", name))


def _rows(module: nn.Module) -> Iterator[tuple[str, dict[str, Any] | None]]:
    """Yield every module with its row, None for an ordinary one; what is inside a low-bit module is left out."""
    parent = None
    for path, child in module.named_modules():
        if parent is None or not path.startswith(f"{parent}."):
            row = _row(child)
            parent = parent if row is None else path
            yield path, row


def _at(root: nn.Module, path: str) -> nn.Module | None:
    try:
        return root.get_submodule(path)
    except AttributeError:
        return None


def _row(module: nn.Module) -> dict[str, Any] | None:
    if isinstance(module, LowBitLinear):
        return {
            "kind": "linear",
            "shape": [module.out_features, module.in_features],
            "weight_bits": module.weight_bits,
            "activation_bits": module.activation_bits,
            "activation_clip": _shares(module.activation_clip),
            "scale": _name(module.scale),
            "bias": None if module.bias is None else _name(module.bias),
            "transform": None if module.transform is None else _transform_row(module.transform),
            "backend": "fake" if module.backend == "fake" else "auto",  # the others give the same numbers
        }
    if isinstance(module, TransformedNorm):
        return {"kind": "norm", "transform": _transform_row(module.transform)}
    if isinstance(module, KeyValueQuantizer):
        return {
            "kind": "cache",
            "width": module.width,
            "bits": module.bits,
            "in_prefill": module.in_prefill,
            "key_clip": _shares(module.key_clip),
            "value_clip": _shares(module.value_clip),
            "transform": None if module.transform is None else _name(module.transform),
        }
    return None


def _transform_row(transform: nn.Module) -> dict[str, Any]:
    if not isinstance(transform, InputTransform):
        raise Unsupported(f"a transform of kind {type(transform).__name__} has no saved form here.")
    parts = {name: getattr(transform, name) for name in ("left", "right", "scale")}
    sizes = {name: None if part is None else part.shape[0] for name, part in parts.items()}
    return {**sizes, "format": next(_name(part) for part in parts.values() if part is not None)}


def _linear(row: Row, found: object) -> nn.Module:
    outputs, inputs = row["shape"]
    if not isinstance(found, nn.Linear) or [found.out_features, found.in_features] != [outputs, inputs]:
        raise ValueError(f"the model has {found} there")
    if (row["bias"] is not None) != (found.bias is not None):
        raise ValueError(f"the model has {found} there")
    return LowBitLinear.empty(
        inputs,
        outputs,
        row["bias"] is not None,
        _transform(row["transform"], inputs),
        activation_clip=_clip(row["activation_clip"]),
        activation_bits=row["activation_bits"],
        weight_bits=row["weight_bits"],
        backend=row["backend"],
        scale_dtype=_FORMATS[row["scale"]],
        bias_dtype=None if row["bias"] is None else _FORMATS[row["bias"]],
        device="meta",
    )


def _norm(row: Row, found: object) -> nn.Module:
    weight = getattr(found, "weight", None)
    if not isinstance(found, nn.Module) or not isinstance(weight, Tensor) or weight.dim() != 1:
        raise ValueError(f"the model has {found} there")
    transform = _transform(row["transform"], weight.shape[0])
    if transform is None:
        raise ValueError("a transformed norm has a transform")
    return TransformedNorm(found, transform)


def _cache(row: Row, found: object) -> nn.Module:
    if found is not None:
        raise ValueError(f"the model has {found} there")
    return KeyValueQuantizer.empty(
        row["width"],
        row["transform"] is not None,
        bits=row["bits"],
        in_prefill=row["in_prefill"],
        key_clip=_clip(row["key_clip"]),
        value_clip=_clip(row["value_clip"]),
        dtype=None if row["transform"] is None else _FORMATS[row["transform"]],
        device="meta",
    )


_BUILDERS: Mapping[str, Callable[[Row, object], nn.Module]] = {"linear": _linear, "norm": _norm, "cache": _cache}


def _transform(row: Row | None, width: int) -> InputTransform | None:
    if row is None:
        return None
    left, right, scale = row["left"], row["right"], row["scale"]
    if not all(side is None or width % side == 0 for side in (left, right)) or scale not in (None, width):
        raise ValueError(f"a transform of {left} by {right} does not fit a width of {width}")
    if left is not None and right is not None and left * right != width:
        raise ValueError(f"a transform of {left} by {right} does not fit a width of {width}")
    dtype = _FORMATS[row["format"]]
    square = [None if side is None else torch.empty(side, side, dtype=dtype, device="meta") for side in (left, right)]
    return InputTransform(
        square[0], square[1], None if scale is None else torch.empty(scale, dtype=dtype, device="meta")
    )


def _shares(clip: Clip) -> list[float]:
    return [float(clip.high), float(clip.low)]


def _clip(shares: Any) -> Clip:
    high, low = shares
    if not (isinstance(high, float) and isinstance(low, float) and math.isfinite(high) and math.isfinite(low)):
        raise ValueError(f"{shares} are no shares")
    return Clip(high, low)


def _name(tensor: Tensor) -> str:
    return str(tensor.dtype).removeprefix("torch.")
