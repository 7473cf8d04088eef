"""The picture half of the perturbation suite beside the `imagecorruptions` package, as ratios from one run.

Promises, at 224 x 224 pixels and one thread:

1. the whole suite at least five times faster on average (geometric mean over its 95 levels; the blank picture is ours);
2. glass blur at least fifty times faster than its plain Python form;
3. no level slower.

The released wheel 1.1.2 does not run on current libraries: it imports `pkg_resources`, and calls scikit-image and NumPy
by names that are gone, so that glass_blur, gaussian_blur and fog fail. Here those names are put back while it is timed;
what it computes is untouched. It also needs scikit-image. Where either is missing only the second promise is measured,
with the loop written out below.

Both sides are called in turn and timed in seconds of this process, so that other work on the machine falls on neither;
the median of the rounds' ratios is printed. Each of our calls draws anew.

Run: `python -m benchmarks.perturb_images`
"""

from __future__ import annotations

import importlib
import importlib.util
import math
import statistics
import sys
import time
import types
import warnings
from collections.abc import Callable
from importlib import metadata
from typing import Any

import cv2
import numpy as np

from steadyvlm.perturb.base import Pixels
from steadyvlm.perturb.image import corrupt, get_corruption_names
from steadyvlm.perturb.image.glass import SETTINGS

SIDE = 224
SEVERITIES = (1, 2, 3, 4, 5)
ROUNDS = 15
SLOW_ROUNDS = 3
SLOW_SECONDS = 0.03
Corrupt = Callable[[Pixels, int, str], Any]


def main() -> dict[str, float]:
    """Measure, print and return the ratios by level, and those of the promises."""
    threads = cv2.getNumThreads()
    cv2.setNumThreads(1)
    try:
        return _measure()
    finally:
        cv2.setNumThreads(threads)


def _measure() -> dict[str, float]:
    picture = scene()
    ratios = {}
    package, why = reference()
    print(f"perturb_images: {SIDE} x {SIDE}, one thread; {why}")
    if package is not None:
        ratios = beside(package, picture)
        mean = math.exp(statistics.fmean(math.log(ratio) for ratio in ratios.values()))
        slowest = min(ratios, key=ratios.__getitem__)
        print(f"  geometric mean over {len(ratios)} levels  {mean:7.1f}x")
        print(f"  least: {slowest}  {ratios[slowest]:.2f}x")
        ratios["mean"] = mean
    glass = [
        compare(
            lambda severity=severity: plain_glass(picture, severity),
            lambda turn, severity=severity: corrupt(picture, severity, "glass_blur", seed=turn),
        )
        for severity in SEVERITIES
    ]
    print("  glass blur, plain Python loop over ours " + " ".join(f"{ratio:7.1f}x" for ratio, _ in glass))
    ratios["glass"] = min(ratio for ratio, _ in glass)
    suite = _seconds(lambda: [corrupt(picture, at, name) for name in get_corruption_names("all") for at in SEVERITIES])
    print(f"  our whole suite, one picture: {1000 * suite:.0f} ms")
    return ratios


def beside(package: Corrupt, picture: Pixels) -> dict[str, float]:
    """Time every level of both; print a line for each perturbation."""
    ratios = {}
    print(f"  {'times faster at severity':<26}" + "".join(f"{severity:>9}" for severity in SEVERITIES))
    totals = [0.0, 0.0]
    for name in get_corruption_names("all"):
        line = f"  {name:<26}"
        for severity in SEVERITIES:
            ratio, seconds = compare(
                lambda name=name, severity=severity: package(picture, severity, name),
                lambda turn, name=name, severity=severity: corrupt(picture, severity, name, seed=turn),
            )
            ratios[f"{name}@{severity}"] = ratio
            totals = [total + item for total, item in zip(totals, seconds, strict=True)]
            line += f"{ratio:8.1f}x"
        print(line, flush=True)
    print(f"  total time of the suite    {totals[0] / totals[1]:7.1f}x")
    return ratios


def compare(theirs: Callable[[], object], ours: Callable[[int], object]) -> tuple[float, tuple[float, float]]:
    """Return the median ratio of times, and the median times, of both called in turn."""
    ours(0)
    first = _seconds(theirs)
    rounds = SLOW_ROUNDS if first > SLOW_SECONDS else ROUNDS
    times = [(_seconds(theirs), _seconds(lambda turn=turn: ours(turn))) for turn in range(rounds)]
    ratio = statistics.median(their / our for their, our in times)
    return ratio, (statistics.median(item[0] for item in times), statistics.median(item[1] for item in times))


def reference() -> tuple[Corrupt | None, str]:
    """Return the package's `corrupt`, runnable on current libraries, or None; and a sentence on it."""
    try:
        version = metadata.version("imagecorruptions")
        skimage_filters = importlib.import_module("skimage.filters")
    except (metadata.PackageNotFoundError, ImportError) as error:
        return None, f"the package is not measured ({error}): pip install scikit-image; no-deps: imagecorruptions"
    mended = []
    if "pkg_resources" not in sys.modules and importlib.util.find_spec("pkg_resources") is None:
        stub: Any = types.ModuleType("pkg_resources")
        stub.resource_filename = lambda package, path: str(
            metadata.distribution("imagecorruptions").locate_file(f"imagecorruptions/{path.removeprefix('./')}")
        )
        sys.modules["pkg_resources"] = stub
        mended.append("pkg_resources")
    if not hasattr(np, "float_"):
        setattr(np, "float_", np.float64)  # noqa: B010  # the name NumPy 2 took away, and no checker knows
        mended.append("numpy.float_")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        package = importlib.import_module("imagecorruptions")
    module = sys.modules["imagecorruptions.corruptions"]

    def gaussian(image: Any, *positional: Any, multichannel: bool = False, **options: Any) -> Any:
        axis = -1 if multichannel else None
        return skimage_filters.gaussian(image, *positional, channel_axis=axis, **options)

    module.gaussian = gaussian  # type: ignore[attr-defined]  # its argument `multichannel` is gone
    mended.append("skimage gaussian(multichannel=)")
    return package.corrupt, f"imagecorruptions {version}, mended: {', '.join(mended)}"


def plain_glass(picture: Pixels, severity: int) -> Pixels:
    """Glass blur pixel after pixel, as it is published."""
    sigma, reach, passes = SETTINGS[severity - 1]
    width = 2 * int(4 * sigma + 0.5) + 1
    blur = {"ksize": (width, width), "sigmaX": sigma, "borderType": cv2.BORDER_REPLICATE}
    mixed = cv2.GaussianBlur(picture.astype(np.float32), **blur).astype(np.uint8)
    draws = np.random.RandomState(severity)
    for _ in range(passes):
        for h in range(SIDE - reach, reach, -1):
            for w in range(SIDE - reach, reach, -1):
                dx, dy = draws.randint(-reach, reach, size=(2,))
                mixed[h, w], mixed[h + dy, w + dx] = mixed[h + dy, w + dx], mixed[h, w]
    return cv2.GaussianBlur(mixed.astype(np.float32), **blur).astype(np.uint8)


def scene() -> Pixels:
    """Return a picture with the detail of a photograph: smooth light, edges and texture of all sizes."""
    draws = np.random.RandomState(0)
    picture = np.zeros((SIDE, SIDE, 3))
    for scale in (7, 14, 28, 56, 112):
        coarse = draws.normal(0, 60 / scale**0.5, (scale, scale, 3))
        picture += cv2.resize(coarse, (SIDE, SIDE), interpolation=cv2.INTER_CUBIC)
    picture += np.linspace(180, 60, SIDE)[:, None, None]
    picture[60:150, 80:130] = (190, 60, 40)
    return np.clip(picture, 0, 255).astype(np.uint8)


def _seconds(run: Callable[[], object]) -> float:
    start = time.process_time()
    run()
    return time.process_time() - start


if __name__ == "__main__":
    main()
