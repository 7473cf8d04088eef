"""The only place where tokens, positions, masks and caches change.

`generate` answers one batch, `run_prefill` only reads it while an observer looks on, `observe_layers` shows what every
layer receives, returns and looks at; `Request` is one question with its images; `VisionCache` spares the vision encoder
when an image comes back in a later batch. What a low-bit model does is in `layer` and `layer_cache`.
"""

from __future__ import annotations

from steadyvlm.engine.capture import LayerView, PrefillResult, observe_layers, run_prefill
from steadyvlm.engine.generate import generate
from steadyvlm.engine.images import VisionCache
from steadyvlm.engine.requests import Request

__all__ = ["LayerView", "PrefillResult", "Request", "VisionCache", "generate", "observe_layers", "run_prefill"]
