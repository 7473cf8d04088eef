"""Every perturbation against a slow reference written from the specification; random ones with the same draws."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy import ndimage, stats
from tests.perturb.image import references
from tests.perturb.image.pictures import photo

from steadyvlm.perturb.base import Pixels
from steadyvlm.perturb.image import apply_image
from steadyvlm.perturb.image.draws import normal, poisson, sixteen_bits, uniform
from steadyvlm.perturb.image.glass import SETTINGS as GLASS
from steadyvlm.perturb.image.glass import chase
from steadyvlm.perturb.streams import stream
from steadyvlm.perturb.suite import IMAGE

KEY = "1|a level|a picture|0"
SEVERITIES = (1, 2, 3, 4, 5)
DETERMINISTIC = [row.id for row in IMAGE if row.deterministic]
SIZES = [(96, 96), (48, 40), (33, 47)]


def close(found: Pixels, expected: Pixels, *, share: float = 0.08) -> None:
    """At most one grey level apart, and apart at all in few values."""
    difference = np.abs(found.astype(int) - expected)
    assert difference.max() <= 1
    assert (difference > 0).mean() <= share


def field(name: str, *shape: int) -> NDArray[Any]:
    return normal(stream(KEY, name), *shape)


@pytest.mark.parametrize("id", DETERMINISTIC)
@pytest.mark.parametrize("size", SIZES, ids=str)
def test_what_draws_nothing_equals_its_reference(id: str, size: tuple[int, int]) -> None:
    pixels = photo(*size)
    for severity in SEVERITIES if id != "blank_image" else (1,):
        close(apply_image(pixels, id, severity).image, getattr(references, id)(pixels, severity))


def test_what_draws_nothing_equals_its_reference_at_the_size_of_models() -> None:
    pixels = photo(224, 224)
    for id in ("zoom_blur", "defocus_blur", "gaussian_blur", "contrast", "pixelate", "jpeg_compression"):
        for severity in (1, 5):
            close(apply_image(pixels, id, severity).image, getattr(references, id)(pixels, severity))


@pytest.mark.parametrize("id", ["jpeg_compression", "pixelate", "blank_image"])
def test_some_are_exact(id: str) -> None:
    pixels = photo(97, 131)
    assert np.array_equal(apply_image(pixels, id, 1).image, getattr(references, id)(pixels, 1))


def test_zoom_blur_of_the_paper_trims_the_centre() -> None:
    pixels = photo(48, 40)
    for severity in SEVERITIES:
        found = apply_image(pixels, "zoom_blur", severity, profile="paper").image
        close(found, references.zoom_blur(pixels, severity, centred=True))


def test_every_kind_of_colour_goes_through_the_closed_forms() -> None:
    steps = np.array([0, 1, 63, 64, 127, 128, 254, 255], np.uint8)
    pixels = np.stack(np.meshgrid(steps, steps, steps), axis=-1).reshape(32, 16, 3).repeat(2, axis=1)
    for id in ("brightness", "saturate"):
        for severity in SEVERITIES:
            close(apply_image(pixels, id, severity).image, getattr(references, id)(pixels, severity), share=0.15)


def test_oversaturated_greys_turn_reddish() -> None:
    grey = np.full((32, 32, 3), 128, np.uint8)
    red, green, blue = apply_image(grey, "saturate", 5).image[0, 0]
    assert red == 128
    assert green == blue == 102
    assert np.array_equal(apply_image(grey, "saturate", 1).image, grey)


@pytest.mark.parametrize("severity", SEVERITIES)
@pytest.mark.parametrize("size", SIZES, ids=str)
class TestSameDraws:
    """The reference is given the numbers that the perturbation draws."""

    def test_gaussian_noise(self, severity: int, size: tuple[int, int]) -> None:
        pixels = photo(*size)
        c = [0.08, 0.12, 0.18, 0.26, 0.38][severity - 1]
        expected = references.cut(references.unit(pixels) + c * field("field", *size, 3))
        close(apply_image(pixels, "gaussian_noise", severity, KEY).image, expected)

    def test_speckle_noise(self, severity: int, size: tuple[int, int]) -> None:
        pixels = photo(*size)
        c = [0.15, 0.2, 0.35, 0.45, 0.6][severity - 1]
        x = references.unit(pixels)
        expected = references.cut(x + x * c * field("field", *size, 3))
        close(apply_image(pixels, "speckle_noise", severity, KEY).image, expected)

    def test_impulse_noise(self, severity: int, size: tuple[int, int]) -> None:
        pixels = photo(*size)
        c = [0.03, 0.06, 0.09, 0.17, 0.27][severity - 1]
        u = sixteen_bits(stream(KEY, "field"), *size, 3) / 65536
        expected = np.where(u < c / 2, 0, np.where(u < c, 255, pixels))
        found = apply_image(pixels, "impulse_noise", severity, KEY).image
        assert (found != expected).mean() < 1e-3  # 16 bits do not hold c exactly

    def test_shot_noise(self, severity: int, size: tuple[int, int]) -> None:
        pixels = photo(*size)
        c = [60, 25, 12, 5, 3][severity - 1]
        u = (sixteen_bits(stream(KEY, "field"), *size, 3) + 0.5) / 65536
        expected = references.cut(stats.poisson.ppf(u, references.unit(pixels) * c) / c)
        difference = np.abs(apply_image(pixels, "shot_noise", severity, KEY).image.astype(int) - expected)
        assert (difference > 1).mean() < 1e-3  # a draw on the very edge between two counts

    def test_motion_blur(self, severity: int, size: tuple[int, int]) -> None:
        pixels = photo(*size)
        angle = stream(KEY, "angle").uniform(-45, 45)
        close(apply_image(pixels, "motion_blur", severity, KEY).image, references.motion_blur(pixels, severity, angle))

    def test_fog(self, severity: int, size: tuple[int, int]) -> None:
        pixels = photo(*size)
        expected = references.fog(pixels, severity, stream(KEY, "field"))
        close(apply_image(pixels, "fog", severity, KEY).image, expected)

    @pytest.mark.parametrize("profile", ["general", "paper"])
    def test_snow(self, severity: int, size: tuple[int, int], profile: Any) -> None:
        pixels = photo(*size)
        angle = stream(KEY, "angle").uniform(-135, -45)
        expected = references.snow(pixels, severity, field("field", *size), angle, paper=profile == "paper")
        found = apply_image(pixels, "snow", severity, KEY, profile).image
        # a flake on the very threshold may exist in one of the two only
        assert (np.abs(found.astype(int) - expected) > 1).mean() < 0.01

    def test_spatter(self, severity: int, size: tuple[int, int]) -> None:
        pixels = photo(*size)
        expected = references.spatter(pixels, severity, field("field", *size))
        found = apply_image(pixels, "spatter", severity, KEY).image
        assert (np.abs(found.astype(int) - expected) > 1).mean() < 0.01

    def test_elastic_transform(self, severity: int, size: tuple[int, int]) -> None:
        pixels = photo(*size)
        right, below = (uniform(stream(KEY, name), *size, reach=1.0) for name in ("columns", "rows"))
        found = apply_image(pixels, "elastic_transform", severity, KEY).image.astype(int)
        difference = np.abs(found - references.elastic_transform(pixels, severity, right, below))
        assert difference.max() <= 2
        assert difference.mean() < 0.1

    def test_glass_blur(self, severity: int, size: tuple[int, int]) -> None:
        pixels = photo(*size)
        sigma, reach, passes = GLASS[severity - 1]
        steps = [glass_steps(*size, reach, turn) for turn in range(passes)]
        blurred = references.cut(references.blurred(references.unit(pixels), sigma))
        mixed = references.glass_loop(blurred, reach, steps)
        expected = references.cut(references.blurred(references.unit(mixed), sigma))
        difference = np.abs(apply_image(pixels, "glass_blur", severity, KEY).image.astype(int) - expected)
        assert difference.max() <= 2  # fractions are cut twice
        assert (difference > 1).mean() < 0.01
        assert (difference > 0).mean() < 0.08


def glass_steps(height: int, width: int, reach: int, turn: int) -> NDArray[Any]:
    visits = (height - 2 * reach) * (width - 2 * reach)
    bits = sixteen_bits(stream(KEY, f"pass {turn}"), visits, 2)
    return np.floor(bits / 65536 * 2 * reach).astype(int) - reach


@pytest.mark.parametrize(("sigma", "reach", "passes"), GLASS)
def test_glass_without_a_loop_is_the_loop_to_the_bit(sigma: float, reach: int, passes: int) -> None:
    pixels = photo(48, 40)
    draws = np.random.RandomState(reach)
    steps = [draws.randint(-reach, reach, ((48 - 2 * reach) * (40 - 2 * reach), 2)) for _ in range(passes)]
    source = np.arange(48 * 40)
    for each in steps:
        source = source[chase(48, 40, reach, each)]
    found = pixels.reshape(-1, 3)[source].reshape(pixels.shape)
    assert np.array_equal(found, references.glass_loop(pixels, reach, steps))


def test_glass_chases_the_longest_chains() -> None:
    """Everything takes what its right neighbour took before, so that the last column runs along every row."""
    height, width, reach = 9, 300, 2
    steps = np.tile([1, 0], ((height - 4) * (width - 4), 1))
    pixels = photo(height, width)
    found = pixels.reshape(-1, 3)[chase(height, width, reach, steps)].reshape(pixels.shape)
    assert np.array_equal(found, references.glass_loop(pixels, reach, [steps]))
    assert np.array_equal(found[4, 3:298], np.broadcast_to(pixels[4, 299], (295, 3)))


def test_spatter_without_a_drop_leaves_the_picture() -> None:
    """At 32 pixels some draws give no drop; there the references divide zero by zero."""
    pixels = photo(32, 32)
    results = [apply_image(pixels, "spatter", 1, seed=seed) for seed in range(150)]
    still = [result for result in results if result.status == "noop"]
    assert 0 < len(still) < 20
    assert all(np.array_equal(result.image, pixels) for result in still)


def test_elastic_of_the_paper_is_an_affine_warp_and_a_field() -> None:
    pixels = photo(96, 80)
    changes = []
    for severity in SEVERITIES:
        found = [apply_image(pixels, "elastic_transform", severity, profile="paper", seed=at).image for at in range(3)]
        assert {item.shape for item in found} == {pixels.shape}
        assert not np.array_equal(found[0], found[1])
        changes.append(np.mean([np.abs(item.astype(int) - pixels).mean() for item in found]))
    assert min(changes[:2]) > max(changes[2:])  # its two lowest levels are its strongest


def test_elastic_of_the_paper_follows_its_formula() -> None:
    pixels = photo(64, 64)
    severity, (alpha, sigma, jitter) = 4, (17.08, 2.44, 4.88)
    corners = np.array([[53, 53], [53, 11], [11, 11]], np.float64)
    moved = corners + stream(KEY, "affine").uniform(-jitter, jitter, (3, 2))
    # where (x, y) came from: the map that sends the moved corners to the corners
    back = np.linalg.solve(np.column_stack([moved, np.ones(3)]), corners)
    rows, columns = np.mgrid[0:64, 0:64]
    x, y = (back[0, k] * columns + back[1, k] * rows + back[2, k] for k in (0, 1))
    x, y = (np.abs((place + 63 * 4) % 126 - 63) for place in (x, y))
    turned = references.warped(references.unit(pixels), 63 - x - columns, 63 - y - rows)
    right, below = (
        alpha
        * references.blurred(
            uniform(stream(KEY, name), 64, 64, reach=1.0).astype(float), sigma, truncate=3, mode="reflect"
        )
        for name in ("columns", "rows")
    )
    expected = references.cut(references.warped(turned, right, below))
    found = apply_image(pixels, "elastic_transform", severity, KEY, "paper").image
    difference = np.abs(found.astype(int) - expected)
    assert np.median(difference) == 0
    assert (difference > 2).mean() < 0.02  # OpenCV resamples its warp at 1/32 of a pixel on some machines


def test_fog_of_the_paper_is_one_cloud_enlarged() -> None:
    small = photo(48, 40)
    scale = small.max() / 255
    cloud = references.cloud(256, 1.7, stream(KEY, "field"))
    for pixels, field in ((small, cloud), (photo(40, 270), ndimage.zoom(cloud, (1, 2)))):
        height, width = pixels.shape[:2]
        veiled = (references.unit(pixels) + 2.5 * field[:height, :width, None]) * scale / (scale + 2.5)
        close(apply_image(pixels, "fog", 3, KEY, "paper").image, references.cut(veiled))


def test_pixelation_of_the_paper_is_always_a_square_of_224() -> None:
    result = apply_image(photo(48, 100), "pixelate", 5, profile="paper")
    assert result.image.shape == (224, 224, 3)
    assert np.array_equal(result.image[:4, :4], np.broadcast_to(result.image[0, 0], (4, 4, 3)))


def test_the_paper_stored_its_pictures_again() -> None:
    pixels = photo(48, 40)
    plain = apply_image(pixels, "contrast", 2, profile="paper").image
    stored = apply_image(pixels, "contrast", 2, profile="paper", stored_as_jpeg=True).image
    assert 0 < np.abs(plain.astype(int) - stored).mean() < 8


def test_a_black_picture_stays_black_in_fog() -> None:
    assert apply_image(np.zeros((32, 32, 3), np.uint8), "fog", 3).status == "noop"


class TestDistributions:
    """Tables of 65,536 quantiles against the distributions they stand for."""

    def test_normal(self) -> None:
        values = normal(np.random.RandomState(1), 400, 500, mean=2.0, deviation=3.0)
        assert stats.kstest(values.ravel(), "norm", (2.0, 3.0)).pvalue > 0.01

    def test_uniform(self) -> None:
        values = uniform(np.random.RandomState(2), 400, 500, reach=0.5)
        assert stats.kstest(values.ravel(), "uniform", (-0.5, 1.0)).pvalue > 0.01

    @pytest.mark.parametrize("rate", [60, 25, 12, 5, 3])
    def test_poisson(self, rate: int) -> None:
        for byte in (0, 1, 40, 255):
            mean = rate * byte / 255
            counts = poisson(np.random.RandomState(byte), np.full((200, 200), byte, np.uint8), rate).ravel()
            assert abs(counts.mean() - mean) <= 4 * (mean / counts.size) ** 0.5
            share = stats.poisson.pmf(np.arange(counts.max() + 1), mean)
            assert np.abs(np.bincount(counts) / counts.size - share).max() < 0.012

    @pytest.mark.parametrize("id", ["gaussian_noise", "speckle_noise", "shot_noise", "impulse_noise"])
    def test_noise_changes_pictures_as_much_as_independent_draws_do(self, id: str) -> None:
        pixels = photo(64, 64)
        for severity in (1, 3, 5):
            ours = [apply_image(pixels, id, severity, seed=seed).image for seed in range(8)]
            theirs = [independent(id, pixels, severity, seed) for seed in range(8)]
            for measure in (change, spread, centre):
                first, second = ([measure(item, pixels) for item in side] for side in (ours, theirs))
                error = (np.var(first) / 8 + np.var(second) / 8) ** 0.5
                allowed = max(4 * error, 0.02 * abs(np.mean(second)))
                assert abs(np.mean(first) - np.mean(second)) <= allowed, (measure, severity)


def independent(id: str, pixels: Pixels, severity: int, seed: int) -> Pixels:
    draws = np.random.RandomState(1000 + seed)
    x = references.unit(pixels)
    at = severity - 1
    if id == "gaussian_noise":
        return references.cut(x + draws.normal(0, [0.08, 0.12, 0.18, 0.26, 0.38][at], x.shape))
    if id == "speckle_noise":
        return references.cut(x + x * draws.normal(0, [0.15, 0.2, 0.35, 0.45, 0.6][at], x.shape))
    if id == "shot_noise":
        rate = [60, 25, 12, 5, 3][at]
        return references.cut(draws.poisson(x * rate) / rate)
    hit = draws.uniform(size=x.shape) < [0.03, 0.06, 0.09, 0.17, 0.27][at]
    return np.where(hit, 255 * (draws.uniform(size=x.shape) < 0.5), pixels).astype(np.uint8)


def change(found: Pixels, pixels: Pixels) -> float:
    return float(np.abs(found.astype(int) - pixels).mean())


def spread(found: Pixels, pixels: Pixels) -> float:
    return float(found.std(axis=(0, 1)).mean())


def centre(found: Pixels, pixels: Pixels) -> float:
    return float(found.mean())
