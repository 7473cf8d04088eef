"""Where pictures come from, read as if they were hostile.

Benchmarks contain truncated files, wrong extensions and now and then a picture of 400 megapixels; a folder somebody
sends contains whatever they put there. So a picture is read in three guarded steps: the encoded bytes up to a limit,
the declared size from the header, and only then the pixels. Everything that goes wrong is an `ImageError` that names
the file, so that one bad picture costs one sample and not the run.

Formats: PNG, JPEG, WebP, BMP and GIF (first frame of an animation). TIFF and the rest are refused: no benchmark needs
them, and each extra decoder is extra attack surface. The content decides, not the file name's extension.

Pixels: RGB, 8 bits a channel. EXIF orientation is left alone, as the benchmarks' own code does. 16-bit greyscale keeps
its high byte.

Differs: transparency is flattened onto white. Common evaluation code calls `convert("RGB")`, which drops alpha and
shows whatever colours lie hidden under it (mostly black); white is what a person sees in a browser or a paper.
"""

from __future__ import annotations

import io
import os
import stat
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from PIL import Image, UnidentifiedImageError

from steadyvlm.errors import ImageError, InvalidOption
from steadyvlm.seeding import bytes_hash

MAX_PIXELS = 64_000_000
"""Largest picture decoded by default, in pixels (8000 x 8000)."""
MAX_BYTES = 256 * 1024 * 1024
"""Largest encoded picture read, in bytes."""
FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "GIF")
"""Names of the decoders that may be used."""


@dataclass(frozen=True, slots=True)
class FileImage:
    """A picture in a file; nothing is read before `load` or `sha256`.

    Attributes:
        path: the file.
        max_pixels: refuse a larger picture before decoding it. Pillow's own bound (about 179 megapixels) also holds.

    >>> FileImage("missing.png").load()
    Traceback (most recent call last):
    ...
    steadyvlm.errors.ImageError: image 'missing.png' does not exist; check the path or restore the file.
    """

    path: str | Path
    max_pixels: int = MAX_PIXELS

    def __post_init__(self) -> None:
        _check_limit(self.max_pixels)

    def load(self) -> Image.Image:
        """Return the picture as RGB.

        Raises:
            ImageError: if the file is missing, unreadable, too large, corrupt, or of a format that is not allowed.
        """
        return decode(read_bounded(self.path), name=str(self.path), max_pixels=self.max_pixels)

    def sha256(self) -> str:
        """Return the SHA-256 of the file's bytes.

        Raises:
            ImageError: if the bytes cannot be read.
        """
        return bytes_hash(read_bounded(self.path))


@dataclass(frozen=True, slots=True)
class BytesImage:
    """A picture whose encoded bytes are already in memory.

    Attributes:
        data: encoded bytes (PNG, JPEG, …).
        name: how errors call it.
        max_pixels: as in `FileImage`.
    """

    data: bytes = field(repr=False)
    name: str = "in memory"
    max_pixels: int = MAX_PIXELS

    def __post_init__(self) -> None:
        _check_limit(self.max_pixels)

    def load(self) -> Image.Image:
        """Return the picture as RGB.

        Raises:
            ImageError: if the bytes are too large, corrupt, or of a format that is not allowed.
        """
        return decode(self.data, name=self.name, max_pixels=self.max_pixels)

    def sha256(self) -> str:
        """Return the SHA-256 of the encoded bytes."""
        return bytes_hash(self.data)


def decode(data: bytes, *, name: str, max_pixels: int = MAX_PIXELS) -> Image.Image:
    """Return the picture in `data` as RGB, checking its declared size before any pixel is decoded.

    Raises:
        ImageError: as `FileImage.load`.
    """
    try:
        with Image.open(io.BytesIO(data), formats=FORMATS) as image:
            width, height = image.size
            if width * height > max_pixels:
                raise ImageError(
                    f"image {name!r} is {width:,} x {height:,} pixels, more than the {max_pixels:,} allowed; "
                    "it was not decoded. Scale it down, or raise `max_pixels` if you trust its source."
                )
            image.load()
            return _rgb(image)
    except ImageError:
        raise
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise ImageError(
            f"image {name!r} is too large and was not decoded ({error}). Scale it down below {max_pixels:,} pixels."
        ) from None
    except UnidentifiedImageError:
        raise ImageError(
            f"image {name!r} is not a readable {', '.join(FORMATS)} file ({len(data):,} bytes); "
            "it is damaged or of another format. Restore it or convert it to PNG."
        ) from None
    except Exception as error:  # decoders fed hostile bytes raise nearly anything: struct.error, zlib.error, …
        raise ImageError(
            f"image {name!r} is damaged or truncated ({type(error).__name__}: {error}). Restore or re-export it."
        ) from None


def read_bounded(path: str | Path, *, max_bytes: int = MAX_BYTES) -> bytes:
    """Return the bytes of a regular file of at most `max_bytes`.

    Raises:
        ImageError: if it is missing, not a regular file, unreadable, empty or larger.
    """
    name = str(path)
    try:
        if not stat.S_ISREG(os.stat(path).st_mode):
            raise ImageError(f"image {name!r} is not a file; give the path of a picture.")
        with open(path, "rb") as handle:
            data = handle.read(max_bytes + 1)
    except (FileNotFoundError, NotADirectoryError):
        raise ImageError(f"image {name!r} does not exist; check the path or restore the file.") from None
    except (OSError, ValueError) as error:  # ValueError: a NUL byte in the path
        raise ImageError(f"image {name!r} cannot be read ({error}); check the path and its permissions.") from None
    if len(data) > max_bytes:
        raise ImageError(f"image {name!r} is larger than {max_bytes:,} bytes; scale it down or re-encode it.")
    if not data:
        raise ImageError(f"image {name!r} is empty (0 bytes); restore the file.")
    return data


def _check_limit(max_pixels: int) -> None:
    if max_pixels < 1:
        raise InvalidOption(f"max_pixels is {max_pixels}; give a positive number of pixels.")


def _rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I"):
        high_byte = np.asarray(image).astype(np.int64).clip(0, 65535) >> 8
        return Image.fromarray(high_byte.astype(np.uint8)).convert("RGB")
    if image.has_transparency_data:
        layer = image.convert("RGBA")
        white = Image.new("RGBA", layer.size, (255, 255, 255, 255))
        return Image.alpha_composite(white, layer).convert("RGB")
    return image.convert("RGB")
