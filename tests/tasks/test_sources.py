"""Pictures are read as if they were hostile."""

from __future__ import annotations

import hashlib
import io
import os
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from steadyvlm.errors import ImageError, InvalidOption
from steadyvlm.records import ImageRef
from steadyvlm.tasks.sources import MAX_PIXELS, BytesImage, FileImage, read_bounded


def encoded(image: Image.Image, form: str = "PNG", **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, form, **options)
    return buffer.getvalue()


def png_header(width: int, height: int, *, before_pixels: bytes = b"", pixels: bytes = b"") -> bytes:
    """A PNG that declares a size, whatever its pixel data hold."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    body = chunk(b"IDAT", zlib.compress(pixels)) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + header + before_pixels + body


RED = Image.new("RGB", (4, 3), (255, 0, 0))


def test_a_file_and_its_bytes_are_the_same_picture_with_the_same_hash(tmp_path: Path) -> None:
    data = encoded(RED)
    (tmp_path / "red.png").write_bytes(data)
    file, memory = FileImage(tmp_path / "red.png"), BytesImage(data)
    assert isinstance(file, ImageRef)
    assert isinstance(memory, ImageRef)
    assert file.sha256() == memory.sha256() == hashlib.sha256(data).hexdigest()
    assert file.load().tobytes() == memory.load().tobytes() == bytes([255, 0, 0]) * 12
    assert file.load().mode == "RGB"


@pytest.mark.parametrize("form", ["PNG", "JPEG", "WEBP", "BMP", "GIF"])
def test_allowed_formats_whatever_the_extension_says(form: str, tmp_path: Path) -> None:
    (tmp_path / "picture.txt").write_bytes(encoded(RED, form))
    pixel = FileImage(tmp_path / "picture.txt").load().getpixel((1, 1))
    assert np.abs(np.array(pixel) - [255, 0, 0]).max() < 12


@pytest.mark.parametrize("form", ["TIFF", "ICO", "PPM"])
def test_other_formats_are_refused_and_the_allowed_ones_named(form: str) -> None:
    with pytest.raises(ImageError, match=r"'x.tif' is not a readable PNG, JPEG, WEBP, BMP, GIF file"):
        BytesImage(encoded(Image.new("RGB", (16, 16)), form), "x.tif").load()


def test_one_pixel_is_a_picture() -> None:
    assert BytesImage(encoded(Image.new("RGB", (1, 1), (1, 2, 3)))).load().getpixel((0, 0)) == (1, 2, 3)


def test_declared_size_is_checked_before_anything_is_decoded() -> None:
    # 9000 x 9000 without any pixel data: decoding it would fail as truncated, so this error came from the header.
    with pytest.raises(ImageError, match="9,000 x 9,000 pixels, more than the 64,000,000 allowed; it was not decoded"):
        BytesImage(png_header(9000, 9000), "big.png").load()
    with pytest.raises(ImageError, match="truncated"):
        BytesImage(png_header(8000, 8000), "limit.png").load()
    assert MAX_PIXELS == 8000 * 8000


@pytest.mark.parametrize("side", [9_999, 20_000])
def test_pillows_own_bomb_warning_and_error_become_ours(side: int) -> None:
    with pytest.raises(ImageError, match=r"'bomb.png' is too large and was not decoded"):
        BytesImage(png_header(side, side), "bomb.png").load()


def test_the_limit_can_be_set_but_not_to_nothing(tmp_path: Path) -> None:
    data = encoded(RED)
    assert BytesImage(data, max_pixels=12).load().size == (4, 3)
    with pytest.raises(ImageError, match="4 x 3 pixels, more than the 11 allowed"):
        BytesImage(data, max_pixels=11).load()
    for build in (lambda: BytesImage(data, max_pixels=0), lambda: FileImage(tmp_path, max_pixels=-1)):
        with pytest.raises(InvalidOption, match="give a positive number of pixels"):
            build()


def test_a_compressed_text_that_unpacks_to_hundreds_of_megabytes_is_refused() -> None:
    bomb = b"a\0\0" + zlib.compress(bytes(8_000_000), 9)
    chunk = struct.pack(">I", len(bomb)) + b"zTXt" + bomb + struct.pack(">I", zlib.crc32(b"zTXt" + bomb))
    with pytest.raises(ImageError, match="Decompressed data too large"):
        BytesImage(png_header(1, 1, before_pixels=chunk, pixels=bytes(4)), "text.png").load()


def test_more_pixel_data_than_declared_is_not_kept() -> None:
    assert BytesImage(png_header(1, 1, pixels=bytes(1_000_000))).load().size == (1, 1)


@pytest.mark.parametrize("form", ["PNG", "JPEG", "WEBP", "BMP", "GIF"])
def test_a_truncated_picture_names_the_file_and_the_next_step(form: str) -> None:
    noise = np.random.default_rng(0).integers(0, 255, (40, 40, 3), dtype=np.uint8)
    data = encoded(Image.fromarray(noise), form)
    with pytest.raises(ImageError, match=r"image 'cut' is .*[Rr]e(store|-export)"):
        BytesImage(data[: len(data) // 2], "cut").load()


@settings(max_examples=80, deadline=None)
@given(st.sampled_from(["PNG", "JPEG", "WEBP", "BMP", "GIF"]), st.data())
def test_damaged_bytes_give_a_picture_or_an_image_error(form: str, data: st.DataObject) -> None:
    good = bytearray(encoded(RED, form))
    for _ in range(data.draw(st.integers(1, 6))):
        good[data.draw(st.integers(0, len(good) - 1))] = data.draw(st.integers(0, 255))
    mode, refusal = "RGB", "in memory"
    try:
        mode = BytesImage(bytes(good)).load().mode
    except ImageError as error:
        refusal = str(error)
    assert mode == "RGB"
    assert "in memory" in refusal


def test_transparent_pixels_become_white_not_the_colour_hidden_under_them() -> None:
    hidden = Image.new("RGBA", (1, 1), (200, 10, 10, 0))
    assert BytesImage(encoded(hidden)).load().getpixel((0, 0)) == (255, 255, 255)
    half = Image.new("LA", (1, 1), (0, 128))
    assert BytesImage(encoded(half)).load().getpixel((0, 0)) == (127, 127, 127)
    palette = Image.new("P", (1, 1), 0)
    palette.putpalette([9, 9, 9])
    assert BytesImage(encoded(palette, "GIF", transparency=0)).load().getpixel((0, 0)) == (255, 255, 255)
    assert BytesImage(encoded(palette, "GIF")).load().getpixel((0, 0)) == (9, 9, 9)


def test_sixteen_bit_grey_keeps_its_high_byte() -> None:
    deep = Image.fromarray(np.array([[0x8000, 0xFFFF, 0x00FF]], dtype=np.uint16))
    image = BytesImage(encoded(deep)).load()
    assert [image.getpixel((x, 0)) for x in range(3)] == [(128,) * 3, (255,) * 3, (0,) * 3]


def test_cmyk_and_one_bit_pictures_become_rgb() -> None:
    assert BytesImage(encoded(Image.new("CMYK", (2, 2), 0), "JPEG")).load().getpixel((0, 0)) == (255, 255, 255)
    assert BytesImage(encoded(Image.new("1", (2, 2), 1))).load().getpixel((0, 0)) == (255, 255, 255)


def test_an_animation_gives_its_first_frame() -> None:
    frames = [Image.new("RGB", (2, 2), colour) for colour in ("red", "blue")]
    data = encoded(frames[0], "GIF", save_all=True, append_images=frames[1:])
    assert BytesImage(data).load().getpixel((0, 0)) == (255, 0, 0)


def test_exif_orientation_is_left_alone() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # rotate a quarter turn to show
    assert BytesImage(encoded(RED, "JPEG", exif=exif)).load().size == (4, 3)


def test_missing_empty_and_odd_files(tmp_path: Path) -> None:
    (tmp_path / "empty.png").touch()
    (tmp_path / "file").touch()
    os.mkfifo(tmp_path / "pipe")
    cases = {
        "gone.png": "does not exist; check the path",
        "file/inside.png": "does not exist",
        "empty.png": r"is empty \(0 bytes\)",
        "pipe": "is not a file",
        ".": "is not a file",
        "nul\0.png": "cannot be read",
    }
    for name, message in cases.items():
        with pytest.raises(ImageError, match=message):
            FileImage(f"{tmp_path}/{name}").load()
        with pytest.raises(ImageError, match=message):
            FileImage(f"{tmp_path}/{name}").sha256()


def test_a_file_that_may_not_be_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "secret.png").write_bytes(encoded(RED))

    def refuse(*_: object, **__: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("builtins.open", refuse)  # tests may run as root, who may read everything
    with pytest.raises(ImageError, match=r"cannot be read .*Permission denied.*; check the path and its permissions"):
        FileImage(tmp_path / "secret.png").load()


def test_encoded_bytes_are_bounded(tmp_path: Path) -> None:
    (tmp_path / "long").write_bytes(bytes(11))
    assert len(read_bounded(tmp_path / "long", max_bytes=11)) == 11
    with pytest.raises(ImageError, match="larger than 10 bytes"):
        read_bounded(tmp_path / "long", max_bytes=10)


def test_a_picture_in_memory_does_not_print_its_bytes() -> None:
    assert repr(BytesImage(b"secret", "a.png")) == "BytesImage(name='a.png', max_pixels=64000000)"
