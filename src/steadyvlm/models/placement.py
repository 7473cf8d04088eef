"""Where a model runs and in which precision, when the user says `auto`.

CUDA before MPS before CPU. bfloat16 on GPUs that compute in it; float32 elsewhere: on a CPU and on MPS it is the
precision in which batched answers are proven equal to single ones, and older GPUs only know float16, whose range
some vision towers leave.
"""

from __future__ import annotations

import torch

from steadyvlm.errors import InvalidOption

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


def resolve_device(device: str) -> torch.device:
    """Return the device called `device`, or the best one for "auto".

    Raises:
        InvalidOption: for a name torch does not know, or a device this machine does not have.
    """
    if device == "auto":
        if torch.cuda.is_available():
            return torch.device("cuda")
        return torch.device("mps" if torch.backends.mps.is_available() else "cpu")
    try:
        chosen = torch.device(device)
    except RuntimeError:
        raise InvalidOption(f"device '{device}' is unknown. Use auto, cpu, cuda, cuda:1 or mps.") from None
    missing = (chosen.type == "cuda" and (chosen.index or 0) >= torch.cuda.device_count()) or (
        chosen.type == "mps" and not torch.backends.mps.is_available()
    )
    if missing or chosen.type not in {"cpu", "cuda", "mps"}:
        raise InvalidOption(f"device '{device}' is not available on this machine. Use device='auto' or 'cpu'.")
    return chosen


def resolve_dtype(dtype: str, device: torch.device) -> torch.dtype:
    """Return the floating-point type called `dtype`, or the sensible one for `device` when "auto".

    Raises:
        InvalidOption: for any other name.
    """
    if dtype == "auto":
        bfloat16 = device.type == "cuda" and torch.cuda.get_device_capability(device) >= (8, 0)
        return torch.bfloat16 if bfloat16 else torch.float32
    if dtype not in DTYPES:
        raise InvalidOption(f"dtype '{dtype}' is unknown. Use auto, {', '.join(DTYPES)}.")
    return DTYPES[dtype]


def device_name(device: torch.device) -> str:
    """Return the device with the GPU's own name, for provenance."""
    if device.type == "cuda":
        return f"{device} ({torch.cuda.get_device_name(device)})"
    return str(device)
