"""`corrupt` in place of that of imagecorruptions."""

from __future__ import annotations

import numpy as np
import pytest
from tests.perturb.image.pictures import photo

from steadyvlm.errors import InvalidOption, UnknownName
from steadyvlm.perturb.image import apply_image, corrupt, get_corruption_names


def test_names_and_numbers_are_those_of_the_package() -> None:
    names = get_corruption_names("all")
    assert len(names) == 19
    assert names[0], names[18] == ("gaussian_noise", "saturate")
    assert get_corruption_names() == names[:15]
    assert get_corruption_names("validation") == names[15:]
    families = [get_corruption_names(subset) for subset in ("noise", "blur", "weather", "digital")]
    assert [name for family in families for name in family] == names[:15]
    pixels = photo(40, 33)
    for number in (0, 9, 18):
        assert np.array_equal(corrupt(pixels, 3, corruption_number=number), corrupt(pixels, 3, names[number]))


def test_a_corruption_is_the_perturbation_of_that_name() -> None:
    pixels = photo(40, 33)
    assert np.array_equal(corrupt(pixels, 4, "glass_blur", seed=5), apply_image(pixels, "glass_blur", 4, seed=5).image)
    assert np.array_equal(corrupt(pixels, corruption_name="fog"), apply_image(pixels, "fog", 1).image)
    assert corrupt(pixels[..., 0], 1, "snow").shape == (40, 33, 3)


def test_what_the_package_does_not_know_is_refused() -> None:
    pixels = photo(40, 33)
    with pytest.raises(UnknownName, match="frost"):
        corrupt(pixels, 1, "frosty")
    with pytest.raises(UnknownName):
        corrupt(pixels, 1, "blank_image")
    for number in (-1, 19):
        with pytest.raises(InvalidOption, match="0 to 18"):
            corrupt(pixels, 1, corruption_number=number)
    with pytest.raises(UnknownName, match="common"):
        get_corruption_names("commons")
