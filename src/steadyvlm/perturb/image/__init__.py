"""The 20 perturbations of pictures, a function each; no model and no torch.

    from PIL import Image
    from steadyvlm.perturb import image

    picture = Image.open("street.jpg")
    noisy = image.gaussian_noise(picture, severity=3)

Every function takes a Pillow picture of any mode or an array of bytes ([H, W], or [H, W, channels] with 1, 3 or 4) and
returns the same kind, RGB, of the same size; the input is never written to. The draw depends on the pixels, the level
and `seed` only; functions that draw nothing take `seed` for the sake of one signature. `profile="paper"` gives the
released generator where it differs (zoom_blur, elastic_transform, pixelate, snow, frost, fog).

`apply_image` does the same by name and also says what became of the picture; `corrupt` and `get_corruption_names` take
the place of those of the `imagecorruptions` package.

No module of this folder is called like one of the functions: importing it would put the module in the function's place.
"""

from __future__ import annotations

from typing import TypeVar

from PIL import Image

from steadyvlm.perturb.base import Pixels, Profile
from steadyvlm.perturb.image.apply import apply_image
from steadyvlm.perturb.image.frames import to_pixels
from steadyvlm.perturb.image.replacement import corrupt, get_corruption_names
from steadyvlm.perturb.image.work import Resources

Kind = TypeVar("Kind", Image.Image, Pixels)
"""A Pillow picture or an array of bytes; what is given comes back."""


def impulse_noise(image: Kind, severity: int = 3, *, seed: int = 0, profile: Profile = "general") -> Kind:
    """Replace 3 to 27 % of all values, half by black and half by white."""
    return _perturbed(image, "impulse_noise", severity, seed, profile)


def gaussian_noise(image: Kind, severity: int = 3, *, seed: int = 0, profile: Profile = "general") -> Kind:
    """Add the noise of dim light: a normal number per value, deviation 8 to 38 % of the range."""
    return _perturbed(image, "gaussian_noise", severity, seed, profile)


def shot_noise(image: Kind, severity: int = 3, *, seed: int = 0, profile: Profile = "general") -> Kind:
    """Count few photons: white is 60 to 3 of them on average."""
    return _perturbed(image, "shot_noise", severity, seed, profile)


def speckle_noise(image: Kind, severity: int = 3, *, seed: int = 0, profile: Profile = "general") -> Kind:
    """Multiply every value by one plus a normal number of deviation 0.15 to 0.6."""
    return _perturbed(image, "speckle_noise", severity, seed, profile)


def zoom_blur(image: Kind, severity: int = 3, *, seed: int = 0, profile: Profile = "general") -> Kind:
    """Average the picture with enlargements of it, up to 1.11 to 1.3 times."""
    return _perturbed(image, "zoom_blur", severity, seed, profile)


def defocus_blur(image: Kind, severity: int = 3, *, seed: int = 0, profile: Profile = "general") -> Kind:
    """Blur with a disc of radius 3 to 10 pixels, as a lens out of focus does."""
    return _perturbed(image, "defocus_blur", severity, seed, profile)


def motion_blur(image: Kind, severity: int = 3, *, seed: int = 0, profile: Profile = "general") -> Kind:
    """Blur along a line at up to 45 degrees, 21 to 41 pixels long."""
    return _perturbed(image, "motion_blur", severity, seed, profile)


def glass_blur(image: Kind, severity: int = 3, *, seed: int = 0, profile: Profile = "general") -> Kind:
    """Exchange pixels with near neighbours between two slight blurs, as frosted glass does."""
    return _perturbed(image, "glass_blur", severity, seed, profile)


def gaussian_blur(image: Kind, severity: int = 3, *, seed: int = 0, profile: Profile = "general") -> Kind:
    """Blur with a Gaussian of 1 to 6 pixels."""
    return _perturbed(image, "gaussian_blur", severity, seed, profile)


def jpeg_compression(image: Kind, severity: int = 3, *, seed: int = 0, profile: Profile = "general") -> Kind:
    """Store as JPEG of quality 25 to 7."""
    return _perturbed(image, "jpeg_compression", severity, seed, profile)


def contrast(image: Kind, severity: int = 3, *, seed: int = 0, profile: Profile = "general") -> Kind:
    """Keep 40 to 5 % of every channel's distance from its mean."""
    return _perturbed(image, "contrast", severity, seed, profile)


def elastic_transform(image: Kind, severity: int = 3, *, seed: int = 0, profile: Profile = "general") -> Kind:
    """Move every point a little along a smooth random field."""
    return _perturbed(image, "elastic_transform", severity, seed, profile)


def saturate(image: Kind, severity: int = 3, *, seed: int = 0, profile: Profile = "general") -> Kind:
    """Scale the saturation by 0.3, 0.1, 2, 5 or 20: two levels fade colours, three push them."""
    return _perturbed(image, "saturate", severity, seed, profile)


def spatter(image: Kind, severity: int = 3, *, seed: int = 0, profile: Profile = "general") -> Kind:
    """Splash water (severities 1 to 3) or mud (4 and 5) on the lens."""
    return _perturbed(image, "spatter", severity, seed, profile)


def pixelate(image: Kind, severity: int = 3, *, seed: int = 0, profile: Profile = "general") -> Kind:
    """Keep 60 to 25 % of the pixels along each side, shown as blocks."""
    return _perturbed(image, "pixelate", severity, seed, profile)


def snow(image: Kind, severity: int = 3, *, seed: int = 0, profile: Profile = "general") -> Kind:
    """Let it snow: falling flakes over a paler picture."""
    return _perturbed(image, "snow", severity, seed, profile)


def frost(image: Kind, severity: int = 3, *, seed: int = 0, profile: Profile = "general") -> Kind:
    """Lay a photograph of ice crystals over the picture; made by us where none is installed."""
    return _perturbed(image, "frost", severity, seed, profile)


def fog(image: Kind, severity: int = 3, *, seed: int = 0, profile: Profile = "general") -> Kind:
    """Fill the air with a cloud, under which the picture's own contrast fades."""
    return _perturbed(image, "fog", severity, seed, profile)


def brightness(image: Kind, severity: int = 3, *, seed: int = 0, profile: Profile = "general") -> Kind:
    """Raise every pixel's brightness by 10 to 50 % of the range, its colour unchanged."""
    return _perturbed(image, "brightness", severity, seed, profile)


def blank_image(image: Kind, severity: int = 1, *, seed: int = 0, profile: Profile = "general") -> Kind:
    """White everywhere: what is still answered was answered from the text."""
    return _perturbed(image, "blank_image", severity, seed, profile)


def _perturbed(image: Kind, id: str, severity: int, seed: int, profile: Profile) -> Kind:
    result = apply_image(to_pixels(image), id, severity, profile=profile, seed=seed).image
    return Image.fromarray(result) if isinstance(image, Image.Image) else result


__all__ = [
    "impulse_noise",
    "gaussian_noise",
    "shot_noise",
    "speckle_noise",
    "zoom_blur",
    "defocus_blur",
    "motion_blur",
    "glass_blur",
    "gaussian_blur",
    "jpeg_compression",
    "contrast",
    "elastic_transform",
    "saturate",
    "spatter",
    "pixelate",
    "snow",
    "frost",
    "fog",
    "brightness",
    "blank_image",
    "Resources",
    "apply_image",
    "corrupt",
    "get_corruption_names",
]
