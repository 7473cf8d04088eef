"""Frost on the lens: a photograph of ice crystals laid over the picture.

Source: ImageNet-C, arXiv 1903.12261; any size as in bethgelab/imagecorruptions. Six photographs exist; the references
draw from the first five, and so does this.

The photographs are not ours to ship. They are taken from `Resources.frost_folder` if given, else from the installed
wheel of `imagecorruptions` (Apache-2.0), which is located and never imported: `pip install --no-deps imagecorruptions`.
With neither, frost is made by `crystals`, and the result says `fallback`.

`paper` follows the released generator: photographs are enlarged by whole numbers with cubic splines. Its scalar factor
also enlarges the axis of the *channels*, of which it then takes the first three: red, green and blue of photographs
smaller than the picture are mixtures. Kept there, for the published data have it. Differs: overshoot of the splines is
clipped (it wraps around in bytes).
"""

from __future__ import annotations

import hashlib
from functools import cache, lru_cache
from importlib import metadata
from pathlib import Path

import cv2
import numpy as np
from PIL import Image
from scipy import ndimage

from steadyvlm.errors import ImageError
from steadyvlm.perturb.base import Pixels
from steadyvlm.perturb.image.crystals import crystals
from steadyvlm.perturb.image.work import Resources, Work, to_bytes

SETTINGS = ((1.0, 0.4), (0.8, 0.6), (0.7, 0.7), (0.65, 0.7), (0.6, 0.75))
"""Weights of the picture and of the frost, on bytes; together above 1, so that bright places saturate."""
WHEEL = "imagecorruptions"
PHOTOGRAPHS = ("frost1.png", "frost2.png", "frost3.png", "frost4.jpg", "frost5.jpg")
SUFFIXES = (".png", ".jpg", ".jpeg")
MARGIN = 1.1
"""Photographs cover the picture by this factor, so that there is something to draw."""
FALLBACK = "procedural-frost"


def frost(work: Work) -> Pixels:
    """Let ice grow over the picture."""
    clear, ice = SETTINGS[work.severity - 1]
    found = photographs(work.resources)
    if found:
        cover = _photograph(work, found).astype(np.float32)
    elif work.resources.fallbacks:
        work.notes["fallback"] = FALLBACK
        cover = crystals(work)
    else:
        work.notes["unavailable"] = f"photographs of frost: pip install --no-deps {WHEEL}"
        return work.pixels.copy()
    cover *= np.float32(ice)
    cover += work.pixels * np.float32(clear)
    return to_bytes(cover)


def photographs(resources: Resources) -> tuple[Path, ...]:
    """Return the files frost is drawn from; empty if there are none.

    Raises:
        ImageError: if a folder was given and holds no picture.
    """
    if resources.frost_folder is None:
        return _shipped()
    folder = Path(resources.frost_folder)
    found = sorted(path for path in folder.glob("*") if path.suffix.lower() in SUFFIXES)
    if not found:
        raise ImageError(f"no {', '.join(SUFFIXES)} file lies in the folder of frost '{folder}'; give another folder.")
    return tuple(found)


def source(resources: Resources) -> str:
    """Return what frost is made from, for the record: the files' hash, or the name of the substitute."""
    found = photographs(resources)
    if not found:
        return FALLBACK if resources.fallbacks else "unavailable"
    digest = hashlib.sha256(b"".join(hashlib.sha256(path.read_bytes()).digest() for path in found))
    return f"{len(found)} photographs, sha256:{digest.hexdigest()}"


@cache
def _shipped() -> tuple[Path, ...]:
    try:
        wheel = metadata.distribution(WHEEL)
    except metadata.PackageNotFoundError:
        return ()
    found = tuple(Path(str(wheel.locate_file(f"{WHEEL}/frost/{name}"))) for name in PHOTOGRAPHS)
    return found if all(path.is_file() for path in found) else ()


def _photograph(work: Work, found: tuple[Path, ...]) -> Pixels:
    """Draw a photograph and the part of it that is laid over the picture."""
    height, width = work.size
    path = found[work.draws("photograph").randint(len(found))]
    tall, wide = _read(path).shape[:2]
    if work.profile == "paper":
        grown = _grown(path, max(height // tall, width // wide) + 1)
    else:
        factor = max(height / tall, width / wide, 1.0) * MARGIN
        grown = _resized(path, int(np.ceil(wide * factor)), int(np.ceil(tall * factor)))
    place = work.draws("place")
    top, left = place.randint(grown.shape[0] - height), place.randint(grown.shape[1] - width)
    return grown[top : top + height, left : left + width]


@lru_cache(maxsize=len(PHOTOGRAPHS))
def _read(path: Path) -> Pixels:
    try:
        with Image.open(path) as picture:
            return np.array(picture.convert("RGB"))
    except (OSError, ValueError, Image.DecompressionBombError) as error:
        raise ImageError(f"the photograph of frost '{path}' cannot be read ({error}); restore or remove it.") from None


@lru_cache(maxsize=len(PHOTOGRAPHS))
def _resized(path: Path, width: int, height: int) -> Pixels:
    return np.asarray(cv2.resize(_read(path), (width, height), interpolation=cv2.INTER_CUBIC), np.uint8)


@lru_cache(maxsize=len(PHOTOGRAPHS))
def _grown(path: Path, times: int) -> Pixels:
    """The photograph enlarged by a whole number along all three axes, the first three channels kept."""
    if times == 1:
        return _read(path)
    mixture = ndimage.zoom(np.eye(3), (times, 1))[:3]
    # the generator's channels run blue, green, red, and are turned round at the end
    channels = [ndimage.zoom(channel.astype(np.float32), times) for channel in np.moveaxis(_read(path), 2, 0)[::-1]]
    return to_bytes(np.stack(channels, axis=-1) @ mixture[::-1].T.astype(np.float32))
