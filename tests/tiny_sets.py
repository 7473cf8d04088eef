"""A calibration set of four samples, with its pictures beside it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from steadyvlm.seeding import bytes_hash
from tiny import make_image


def write_set(where: Path, **changes: Any) -> Path:
    """A set of four: three pictures in a folder beside the file, and text."""
    (where / "pictures").mkdir(exist_ok=True)
    rows: list[dict[str, Any]] = []
    for number in range(3):
        place = where / "pictures" / f"{number}.png"
        make_image(number).save(place)
        image = {"image": place.name, "image_sha256": bytes_hash(place.read_bytes())}
        rows.append({"id": f"p{number}", "prompt": f"what {number}", "group": "seen", **image})
    rows.append({"id": "t", "prompt": "how", "group": "text", "image": None, "image_sha256": None})
    head = {"format": "steadyvlm-calibration-set", "version": 1, "name": "mine", "about": "", "source": None}
    path = where / "mine.json"
    path.write_text(json.dumps({**head, "folder": "pictures", "samples": rows, **changes}), encoding="utf-8")
    return path
