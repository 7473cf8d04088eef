"""The only place where tokens, positions, masks and caches change.

`generate` answers one batch; `Request` is one question with its images; `VisionCache` spares the vision encoder when
an image comes back in a later batch.
"""

from __future__ import annotations

from steadyvlm.engine.generate import generate
from steadyvlm.engine.requests import Request
from steadyvlm.engine.vision import VisionCache

__all__ = ["Request", "VisionCache", "generate"]
