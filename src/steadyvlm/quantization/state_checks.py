"""Does what was decided about a block fit that block? Asked of every block before the first weight is changed.

Decisions may come from a file, and of another model, so nothing about them is taken for granted: shapes, numbers that
are finite, scales above zero, clips that are shares, matrices that have an inverse.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import torch
from torch import Tensor, nn

from steadyvlm.errors import CheckpointError
from steadyvlm.quantization.state import BlockState, Clip, ReaderState
from steadyvlm.quantization.structure import Block, Heads, Reader


def check_states(blocks: Sequence[Block], states: Mapping[str, BlockState], root: nn.Module) -> None:
    """Return quietly when every decision fits its block.

    Raises:
        CheckpointError: naming the block, what was found and what was expected.
    """
    known = {block.path: block for block in blocks}
    for path, state in states.items():
        if path not in known:
            raise CheckpointError(
                f"there are decisions about '{path}', which is none of the {len(known)} blocks to quantise (first: "
                f"'{next(iter(known), None)}'). Nothing was changed; calibrate this model again."
            )
        fault = next(_faults(known[path], state, root), None)
        if fault is not None:
            raise CheckpointError(
                f"what was decided about block '{path}' does not fit it: {fault}. Nothing was changed; calibrate this "
                "model again."
            )


def _faults(block: Block, state: BlockState, root: nn.Module) -> Iterator[str]:
    """What is wrong, a sentence each."""
    feeds = {reader.feed for reader in block.readers}
    yield from (f"it has no input '{feed}'" for feed in state.readers if feed not in feeds)
    yield from _heads_faults(block.heads, state)
    for reader in block.readers:
        if reader.feed in state.readers:
            yield from _reader_faults(reader, state.readers[reader.feed], state, root)


def _heads_faults(heads: Heads | None, state: BlockState) -> Iterator[str]:
    for name, matrix, place in (
        ("values", state.values, heads is not None),
        ("keys", state.keys, heads is not None and heads.cached),
    ):
        if matrix is not None and (heads is None or not place):
            yield f"a transform of the {name} is given, and it has none that are kept"
        elif matrix is not None and heads is not None:
            yield from _matrix_faults(f"the transform of the {name}", matrix, heads.width)
    yield from _clip_faults("of the keys", state.key_clip, None)
    yield from _clip_faults("of the values", state.value_clip, None)


def _reader_faults(reader: Reader, decided: ReaderState, state: BlockState, root: nn.Module) -> Iterator[str]:
    linears = {path: root.get_submodule(path) for path in reader.linears}
    width = int(next(iter(linears.values())).in_features)  # type: ignore[arg-type]  # plain linears, sorted out before
    transform = decided.transform
    if transform is not None:
        left, right = transform.left.shape[0], transform.right.shape[0]
        if left * right != width:
            yield f"the transform of '{reader.feed}' is for a width of {left} x {right}, and it reads {width}"
        yield from _matrix_faults(f"the left transform of '{reader.feed}'", transform.left, left)
        yield from _matrix_faults(f"the right transform of '{reader.feed}'", transform.right, right)
        if transform.scale is not None:
            if transform.scale.shape != (width,):
                yield f"the scale of '{reader.feed}' is {_size(transform.scale)}, and it reads {width}"
            if not (torch.isfinite(transform.scale) & (transform.scale > 0)).all():
                yield f"the scale of '{reader.feed}' holds entries that are not finite and above zero"
        if reader.feed == "attention_output" and state.values is not None:
            if transform.scale is not None:
                yield "the attention's output has a scale per channel, which values in another basis cannot take"
            if not torch.equal(transform.right, state.values):
                yield "the right transform of the attention's output is not the transform of the values"
    yield from _clip_faults(f"of '{reader.feed}'", decided.activation, None)
    for path, clip in decided.weights.items():
        if path not in linears:
            yield f"'{reader.feed}' has no linear '{path}'"
        else:
            rows = int(linears[path].out_features)  # type: ignore[arg-type]  # as above
            yield from _clip_faults(f"of '{path}'", clip, rows)


def _matrix_faults(name: str, matrix: Tensor, width: int) -> Iterator[str]:
    if matrix.shape != (width, width):
        yield f"{name} is {_size(matrix)}, and {width}x{width} was expected"
    elif not torch.isfinite(matrix).all():
        yield f"{name} holds entries that are not finite"
    elif int(torch.linalg.matrix_rank(matrix.double())) < width:
        yield f"{name} has no inverse"


def _clip_faults(name: str, clip: Clip, rows: int | None) -> Iterator[str]:
    for share in (clip.high, clip.low):
        if isinstance(share, Tensor):
            if rows is None or share.shape != (rows, 1):
                expected = "a number" if rows is None else f"{rows}x1"
                yield f"the clip {name} is {_size(share)}, and {expected} was expected"
            elif not ((share > 0) & (share <= 1)).all():
                yield f"the clip {name} holds shares outside (0, 1]"
        elif not 0 < share <= 1:
            yield f"the clip {name} is {share}, outside (0, 1]"


def _size(tensor: Tensor) -> str:
    return "x".join(map(str, tensor.shape)) or "a single number"
