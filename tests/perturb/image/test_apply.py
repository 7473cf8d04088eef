"""What any picture and any level promises: sizes, kinds, orientation, purity, repetition, errors."""

from __future__ import annotations

import hashlib
import io
import os
import random
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image
from tests.perturb.image.pictures import photo

from steadyvlm.errors import ImageError, InvalidOption, UnknownName
from steadyvlm.perturb import image as public
from steadyvlm.perturb.image import Resources, apply_image
from steadyvlm.perturb.image.frames import to_pixels, work_size
from steadyvlm.perturb.suite import IMAGE, IMAGE_LEVELS

LEVELS = [(level.perturbation.id, level.severity) for level in IMAGE_LEVELS]
IDS = [row.id for row in IMAGE]
MADE = Resources()  # whatever is installed


@pytest.mark.parametrize("id", IDS)
@pytest.mark.parametrize("size", [(33, 47), (47, 33), (70, 224)], ids=str)
def test_every_level_keeps_size_and_side(id: str, size: tuple[int, int]) -> None:
    """Nothing is mirrored, turned or transposed: the result is most like the picture itself."""
    pixels = photo(*size)
    for severity in (1, 5) if id != "blank_image" else (1,):
        result = apply_image(pixels, id, severity)
        assert result.image.shape == pixels.shape
        assert result.image.dtype == np.uint8
        if id not in ("blank_image", "fog"):
            likeness = [correlation(result.image, pixels[::down, ::right]) for down in (1, -1) for right in (1, -1)]
            assert likeness[0] == max(likeness)


def correlation(first: Any, second: Any) -> float:
    return float(np.corrcoef(first.ravel(), second.ravel())[0, 1])


@pytest.mark.parametrize("id", ["zoom_blur", "snow", "frost", "fog"])
def test_portraits_of_the_paper_are_not_mirrored_either(id: str) -> None:
    pixels = photo(90, 40)
    found = apply_image(pixels, id, 1, profile="paper").image
    assert found.shape == pixels.shape
    assert correlation(found, pixels) > correlation(found, pixels[:, ::-1])


@pytest.mark.parametrize(("id", "severity"), LEVELS, ids=str)
def test_a_level_changes_the_picture_and_not_its_input(id: str, severity: int) -> None:
    pixels = photo(48, 40)
    before = pixels.copy()
    pixels.setflags(write=False)
    states = random.getstate(), np.random.get_state()[1].tolist()  # noqa: NPY002  # the state is what is watched
    result = apply_image(pixels, id, severity)
    assert np.array_equal(pixels, before)
    assert (random.getstate(), np.random.get_state()[1].tolist()) == states  # noqa: NPY002
    assert result.status in ("applied", "fallback")
    assert not np.array_equal(result.image, pixels)
    assert result.image.flags.writeable
    assert not np.shares_memory(result.image, pixels)


@pytest.mark.parametrize("row", [row for row in IMAGE if not row.deterministic], ids=lambda row: row.id)
def test_draws_go_by_content_level_and_seed(row: Any) -> None:
    pixels = photo(48, 40)
    first = apply_image(pixels, row.id, 3).image
    assert np.array_equal(apply_image(pixels.copy(), row.id, 3).image, first)
    assert not np.array_equal(apply_image(pixels, row.id, 3, seed=1).image, first)
    other = pixels.copy()
    other[0, 0] ^= 1
    assert (apply_image(other, row.id, 3).image != first).mean() > 0.05


def test_the_noise_of_two_severities_is_not_one_field_scaled() -> None:
    grey = np.full((64, 64, 3), 128, np.uint8)
    noise = [apply_image(grey, "gaussian_noise", at).image.astype(int) - 128 for at in (1, 2)]
    assert abs(correlation(*noise)) < 0.05


PROCESS = """
import hashlib, random, sys
import numpy as np
sys.path[:0] = {path!r}
from steadyvlm.perturb.image import apply_image
from steadyvlm.perturb.suite import IMAGE_LEVELS
from tests.perturb.image.pictures import photo
np.random.seed({seed}); random.seed({seed})
levels = list(IMAGE_LEVELS)
random.shuffle(levels)
for level in levels:
    image = apply_image(photo(40, 33), level.perturbation.id, level.severity).image
    print(level, hashlib.sha256(image.tobytes()).hexdigest())
"""


def test_two_processes_agree_to_the_byte_whatever_their_seeds_and_order() -> None:
    root = Path(__file__).parents[3]
    outputs = []
    for seed in ("1", "2"):
        code = PROCESS.format(path=[str(root / "src"), str(root)], seed=seed)
        done = subprocess.run(
            [sys.executable, "-c", code],
            env={**os.environ, "PYTHONHASHSEED": seed},
            capture_output=True,
            text=True,
            check=True,
        )
        outputs.append(sorted(done.stdout.splitlines()))
    here = [
        f"{level} {hashlib.sha256(apply_image(photo(40, 33), *at).image.tobytes()).hexdigest()}"
        for level, at in zip(IMAGE_LEVELS, LEVELS, strict=True)
    ]
    assert outputs[0] == outputs[1] == sorted(here)
    assert len(here) == 96


def test_noise_is_pinned() -> None:
    """Whole-number arithmetic on frozen streams: the same on every machine, for ever."""
    image = apply_image(photo(48, 40), "impulse_noise", 3).image
    assert (
        hashlib.sha256(image.tobytes()).hexdigest()
        == "1f786e24673bbdc2e39d85be8094347aeadae8d822a8c815859921ca4dd73576"
    )


@pytest.mark.parametrize(
    ("size", "worked_at"), [((1, 1), "32x32"), ((1, 4000), "2048x32"), ((4000, 1), "32x2048"), ((16, 24), "48x32")]
)
def test_extreme_sizes_are_worked_at_others_and_given_back(size: tuple[int, int], worked_at: str) -> None:
    pixels = photo(*size)
    for id in IDS:
        result = apply_image(pixels, id, 1)
        assert result.image.shape == pixels.shape
        if id == "blank_image":
            assert (result.image == 255).all()
            assert "worked_at" not in result.info
        else:
            assert result.info["worked_at"] == worked_at
    assert apply_image(pixels, "pixelate", 1, profile="paper").image.shape == (224, 224, 3)


@given(height=st.integers(1, 6000), width=st.integers(1, 6000))
def test_the_size_worked_at_is_in_range_and_keeps_what_is_in_range(height: int, width: int) -> None:
    tall, wide = work_size(height, width)
    assert 32 <= min(tall, wide) <= max(tall, wide) <= 2048
    if 32 <= min(height, width) <= max(height, width) <= 2048:
        assert (tall, wide) == (height, width)


@given(
    level=st.sampled_from(LEVELS),
    height=st.integers(1, 70),
    width=st.integers(1, 70),
    channels=st.sampled_from([0, 1, 3, 4]),
    seed=st.integers(0, 2**32 - 1),
    profile=st.sampled_from(["general", "paper"]),
)
@settings(max_examples=120, deadline=None, suppress_health_check=[HealthCheck.too_slow], derandomize=True)
def test_no_array_of_bytes_fails(
    level: tuple[str, int], height: int, width: int, channels: int, seed: int, profile: Any
) -> None:
    shape = (height, width, channels) if channels else (height, width)
    pixels = np.random.RandomState(seed).randint(0, 256, shape).astype(np.uint8)
    before = pixels.copy()
    result = apply_image(pixels, *level, profile=profile, seed=seed)
    assert result.image.dtype == np.uint8
    assert np.array_equal(pixels, before)
    square = profile == "paper" and level[0] == "pixelate"
    assert result.image.shape == ((224, 224, 3) if square else (height, width, 3))


class TestModes:
    """Pillow pictures of every mode."""

    @pytest.mark.parametrize(
        "mode", ["1", "L", "P", "LA", "PA", "RGB", "RGBA", "RGBa", "CMYK", "YCbCr", "HSV", "LAB", "I", "I;16", "F"]
    )
    def test_every_mode_is_perturbed(self, mode: str) -> None:
        picture = in_mode(Image.fromarray(photo(40, 50)), mode)
        before = picture.tobytes()
        for id in ("gaussian_noise", "glass_blur", "saturate"):
            found = getattr(public, id)(picture)
            assert isinstance(found, Image.Image)
            assert (found.mode, found.size) == ("RGB", (50, 40))
        assert picture.tobytes() == before

    def test_modes_that_hold_the_same_colours_give_the_same_result(self) -> None:
        picture = Image.fromarray(photo(40, 50))
        expected = public.snow(picture, 2)
        array = public.snow(np.asarray(picture), 2)
        assert np.array_equal(np.asarray(expected), array)
        assert public.snow(picture.convert("RGBA"), 2) == expected
        grey = picture.convert("L")
        assert public.snow(grey, 2) == public.snow(grey.convert("RGB"), 2)
        assert np.array_equal(public.snow(np.asarray(grey), 2), np.asarray(public.snow(grey, 2)))
        assert np.array_equal(public.snow(np.asarray(grey)[..., None], 2), np.asarray(public.snow(grey, 2)))

    def test_transparency_lies_on_white(self) -> None:
        clear = Image.new("RGBA", (4, 4), (10, 20, 30, 0))
        assert (to_pixels(clear) == 255).all()
        assert (to_pixels(np.asarray(clear)) == 255).all()
        palette = Image.new("P", (4, 4), 3)
        palette.info["transparency"] = 3
        assert (to_pixels(palette) == 255).all()

    def test_sixteen_bits_keep_their_high_byte(self) -> None:
        levels = np.array([[0, 255, 256, 65535]], np.uint16)
        for picture in (levels, Image.fromarray(levels), Image.fromarray(levels.astype(np.int32))):
            assert to_pixels(picture)[0, :, 0].tolist() == [0, 0, 1, 255]
        stored = io.BytesIO()
        Image.fromarray(levels).save(stored, "PNG")
        assert to_pixels(Image.open(stored))[0, :, 0].tolist() == [0, 0, 1, 255]
        numbers = np.array([[-5.0, 3.7, np.nan, 999.0]], np.float32)
        assert to_pixels(Image.fromarray(numbers))[0, :, 0].tolist() == [0, 3, 0, 255]

    def test_of_an_animation_the_frame_it_stands_at(self) -> None:
        stored = io.BytesIO()
        frames = [Image.new("RGB", (8, 8), colour) for colour in ("red", "blue")]
        frames[0].save(stored, "GIF", save_all=True, append_images=frames[1:])
        animated = Image.open(stored)
        assert to_pixels(animated)[0, 0].tolist() == [255, 0, 0]
        animated.seek(1)
        assert to_pixels(animated)[0, 0].tolist() == [0, 0, 255]
        assert animated.tell() == 1

    def test_the_orientation_a_camera_noted_is_applied_once(self) -> None:
        picture = Image.fromarray(photo(40, 50))
        exif = picture.getexif()
        exif[0x0112] = 6
        stored = io.BytesIO()
        picture.save(stored, "PNG", exif=exif)
        turned = Image.open(stored)
        found = public.contrast(turned, 1)
        assert found == public.contrast(picture.transpose(Image.Transpose.ROTATE_270), 1)
        assert turned.size == (50, 40)


def in_mode(picture: Image.Image, mode: str) -> Image.Image:
    if mode == "LAB":
        return Image.frombytes("LAB", picture.size, picture.tobytes())
    through = {"LA": "L", "PA": "P", "I;16": "L", "RGBa": "RGBA"}.get(mode, "RGB")
    return picture.convert(through).convert(mode)


@pytest.mark.parametrize(
    ("picture", "words"),
    [
        (np.zeros((4, 4, 3)), "float64"),
        (np.zeros((4, 4, 3), bool), "bool"),
        (np.zeros((4, 4, 2), np.uint8), "no picture"),
        (np.zeros((4, 4, 3, 1), np.uint8), "no picture"),
        (np.zeros(4, np.uint8), "no picture"),
        (np.zeros((0, 4, 3), np.uint8), "no picture"),
        ("street.jpg", "a str"),
        (Image.new("RGB", (0, 4)), "0 x 4"),
    ],
)
def test_what_is_no_picture_is_refused(picture: Any, words: str) -> None:
    with pytest.raises(ImageError, match=words):
        apply_image(picture, "fog", 1)


def test_a_truncated_file_is_refused() -> None:
    stored = io.BytesIO()
    Image.fromarray(photo(80, 80)).save(stored, "JPEG")
    with pytest.raises(ImageError, match="cannot be decoded"):
        public.fog(Image.open(io.BytesIO(stored.getvalue()[:-400])))


def test_what_does_not_exist_is_refused() -> None:
    pixels = photo(32, 32)
    with pytest.raises(UnknownName, match="gaussian_noise"):
        apply_image(pixels, "gausian_noise", 1)
    for severity in (0, 6, 2.5):
        with pytest.raises(InvalidOption, match="1 to 5"):
            apply_image(pixels, "fog", severity)  # type: ignore[arg-type]  # what a caller may pass
    with pytest.raises(InvalidOption, match="1 only"):
        apply_image(pixels, "blank_image", 2)
    with pytest.raises(InvalidOption, match="no profile"):
        apply_image(pixels, "fog", 1, profile="strict")  # type: ignore[arg-type]
    with pytest.raises(InvalidOption, match="stored_as_jpeg"):
        apply_image(pixels, "fog", 1, stored_as_jpeg=True)


@pytest.mark.parametrize("id", IDS)
def test_every_perturbation_is_a_public_function(id: str) -> None:
    """Also after its module was loaded: a module called like a function would take its place."""
    function = getattr(public, id)
    pixels = photo(40, 33)
    severity = {} if id == "blank_image" else {"severity": 2}
    found = function(pixels, **severity, seed=3, profile="paper")
    expected = apply_image(pixels, id, severity.get("severity", 1), profile="paper", seed=3).image
    assert np.array_equal(found, expected)
    assert callable(getattr(public, id))
    assert getattr(public, id) is function
    assert id in public.__all__
    assert function.__doc__
