"""The two functions of the `imagecorruptions` package, with its signatures, faster and seeded.

Differs from imagecorruptions 1.1.2:
    - The same picture gives the same result; there every call draws from NumPy's global state.
    - Pictures below 32 pixels and with 4 channels are taken, and errors are of this package.
    - Frost is made procedurally unless its wheel is installed (see `ice`).
    - Nothing is printed, and nothing fails on NumPy 2 (there glass_blur, gaussian_blur and fog do).
"""

from __future__ import annotations

from typing import Any

from numpy.typing import NDArray

from steadyvlm.errors import InvalidOption, UnknownName
from steadyvlm.perturb.base import Pixels, Profile
from steadyvlm.perturb.image.apply import apply_image

COMMON = (
    *("gaussian_noise", "shot_noise", "impulse_noise"),
    *("defocus_blur", "glass_blur", "motion_blur", "zoom_blur"),
    *("snow", "frost", "fog", "brightness"),
    *("contrast", "elastic_transform", "pixelate", "jpeg_compression"),
)
VALIDATION = ("speckle_noise", "gaussian_blur", "spatter", "saturate")
SUBSETS = {
    "common": COMMON,
    "validation": VALIDATION,
    "all": COMMON + VALIDATION,
    "noise": COMMON[0:3],
    "blur": COMMON[3:7],
    "weather": COMMON[7:11],
    "digital": COMMON[11:15],
}


def corrupt(
    image: NDArray[Any],
    severity: int = 1,
    corruption_name: str | None = None,
    corruption_number: int = -1,
    *,
    seed: int = 0,
    profile: Profile = "general",
) -> Pixels:
    """Return `image` corrupted, in place of `imagecorruptions.corrupt`.

    Args:
        image: bytes, [H, W] or [H, W, channels] with 1, 3 or 4 channels.
        severity: 1 to 5.
        corruption_name: a name of `get_corruption_names("all")`.
        corruption_number: its place there, 0 to 18, if no name is given.
        seed: another seed gives another draw.
        profile: `general` or `paper`.

    Raises:
        UnknownName: for a name that does not exist.
        InvalidOption: for a number or severity that does not exist, or if neither name nor number is given.
        ImageError: if the picture cannot be used.

    >>> import numpy as np
    >>> corrupt(np.zeros((40, 50), np.uint8), corruption_name="brightness", severity=5).shape
    (40, 50, 3)
    """
    known = SUBSETS["all"]
    if corruption_name is None:
        if corruption_number not in range(len(known)):
            raise InvalidOption(
                f"corruption_number is {corruption_number} and no corruption_name is given; "
                f"give a name, or a number from 0 to {len(known) - 1}."
            )
        corruption_name = known[corruption_number]
    elif corruption_name not in known:
        raise UnknownName.among("corruption", corruption_name, known)
    return apply_image(image, corruption_name, severity, profile=profile, seed=seed).image


def get_corruption_names(subset: str = "common") -> list[str]:
    """Return the names of a subset: common, validation, all, noise, blur, weather or digital.

    Raises:
        UnknownName: for another subset.

    >>> get_corruption_names("noise")
    ['gaussian_noise', 'shot_noise', 'impulse_noise']
    """
    if subset not in SUBSETS:
        raise UnknownName.among("subset of corruptions", subset, SUBSETS)
    return list(SUBSETS[subset])
