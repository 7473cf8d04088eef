"""The only place where tokens, positions, masks and caches change.

`generate` answers one batch, `run_prefill` only reads it while an observer looks on; `Request` is one question with its
images; `VisionCache` spares the vision encoder when an image comes back in a later batch.
"""

from __future__ import annotations

from steadyvlm.engine.capture import PrefillResult, run_prefill
from steadyvlm.engine.generate import generate
from steadyvlm.engine.images import VisionCache
from steadyvlm.engine.requests import Request

__all__ = ["PrefillResult", "Request", "VisionCache", "generate", "run_prefill"]
