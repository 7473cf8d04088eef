"""How far back a decoder looks, read from the several ways configurations say it."""

from __future__ import annotations

from typing import Any

from steadyvlm.errors import Unsupported


def sliding_window(text_config: Any) -> int | None:
    """Return the window of a decoder whose layers are all alike; None when every key stays visible.

    Qwen configurations hold a window that is switched off, or that only the later layers use.

    Raises:
        Unsupported: when some layers slide and others do not.
    """
    window: int | None = getattr(text_config, "sliding_window", None)
    kinds = set(getattr(text_config, "layer_types", None) or ["sliding_attention"])
    if window is None or "sliding_attention" not in kinds:
        return None
    if len(kinds) > 1:
        raise Unsupported(
            f"in this '{text_config.model_type}' decoder only some layers have a sliding window (use_sliding_window is "
            f"true, max_window_layers {getattr(text_config, 'max_window_layers', '?')}); set use_sliding_window to "
            "false in config.json, as the published checkpoints do."
        )
    return window
