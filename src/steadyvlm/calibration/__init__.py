"""Showing a model examples: for quantisers that learn from them, and for schedules that are derived from them.

A calibration set is a frozen list, a JSON file with the hash of every picture. Registered sets have a name; any other
is named by its path.
"""

from __future__ import annotations

from steadyvlm.registry import Registry

CALIBRATION_SETS = Registry(
    "calibration set",
    {
        "pocket": "steadyvlm.pocket.calibration:general_path",
        "pocket-mixed": "steadyvlm.pocket.calibration:mixed_path",
        "pocket-text": "steadyvlm.pocket.calibration:text_path",
    },
    group="steadyvlm.calibration_sets",
)
"""An entry is a function without arguments that returns the path of a set's JSON file."""

CALIBRATION_IMAGES = Registry(
    "source of calibration images",
    {"pocket": "steadyvlm.pocket.calibration:image"},
    group="steadyvlm.calibration_images",
)
"""For pictures that are made and not stored: an entry is a function from a picture's name to a `records.ImageRef`."""

CALIBRATION_OWNERS = Registry(
    "owner of calibration sets",
    {"pocket": "steadyvlm.pocket.calibration:set_of"},
    group="steadyvlm.calibration_owners",
)
"""An entry is a function from a model's content hash to the name of the set that belongs to it, or None."""

CALIBRATORS = Registry(
    "calibrator",
    {
        "awq": "steadyvlm.calibration.calibrate:weights_alone",
        "flatquant": "steadyvlm.calibration.flatquant:calibrate_flatquant",
        "gptq": "steadyvlm.calibration.calibrate:weights_alone",
    },
    group="steadyvlm.calibrators",
)
"""Name of a quantiser -> the function that shows it the model; see `calibrate.calibrate` for its arguments."""

__all__ = ["CALIBRATION_IMAGES", "CALIBRATION_OWNERS", "CALIBRATION_SETS", "CALIBRATORS"]
