"""Everything steadyvlm raises on purpose.

    SteadyVLMError
    ├── UsageError                the request itself is wrong; nothing was computed (CLI exit code 2)
    │   ├── UnknownName           a method, task or option that does not exist; suggests the nearest
    │   ├── InvalidOption         a known option with a value outside its range
    │   ├── Unsupported           a method that is not defined for this model, and why
    │   ├── MissingDependency     an optional extra is not installed; names the install command
    │   └── ConfigError           a study file or recipe text that cannot be read
    ├── InputError                data that was handed to us is unusable
    │   ├── ImageError            missing, corrupt or oversized image
    │   ├── SampleError           empty question, duplicate ids, missing references
    │   ├── LogError              a prediction log that cannot be read
    │   └── CheckpointError       missing, unsafe (pickle) or mismatching weights
    ├── PairingError              two runs do not answer the same questions; refuses to guess
    ├── StoreError                a result store that is damaged or belongs to another study
    └── RunError                  a computation failed while running (CLI exit code 3)

Messages say what was asked, what was found, and what to do next.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class SteadyVLMError(Exception):
    """Base of every error raised on purpose; the CLI prints it without a traceback."""

    exit_code = 3


class UsageError(SteadyVLMError):
    """The request is wrong; nothing was computed."""

    exit_code = 2


class UnknownName(UsageError):
    """A name that is in no table. Build the message with :meth:`among`."""

    @classmethod
    def among(cls, kind: str, name: str, known: Iterable[str]) -> UnknownName:
        """Return the error for `name`, suggesting the closest of `known`.

        >>> str(UnknownName.among("reduction", "fastvv", ["fastv", "visionzip"]))
        "no reduction is called 'fastvv'. Did you mean 'fastv'? Known: fastv, visionzip."
        """
        names = sorted(known)
        close = difflib.get_close_matches(name, names, n=1)
        hint = f" Did you mean '{close[0]}'?" if close else ""
        return cls(f"no {kind} is called '{name}'.{hint} Known: {', '.join(names) or 'none'}.")


class InvalidOption(UsageError):
    """A known option with a value outside its range."""


class Unsupported(UsageError):
    """A method that is not defined for this model or input."""


class MissingDependency(UsageError):
    """An optional dependency is not installed."""


class ConfigError(UsageError):
    """A study file or recipe text that cannot be read."""


class InputError(SteadyVLMError):
    """Data handed to steadyvlm is unusable."""

    exit_code = 2


class ImageError(InputError):
    """A missing, corrupt or oversized image."""


class SampleError(InputError):
    """A sample that cannot be asked or graded."""


class LogError(InputError):
    """A prediction log that cannot be read."""


class CheckpointError(InputError):
    """Weights that are missing, unsafe to load, or made for another model."""


class PairingError(SteadyVLMError):
    """Two runs do not answer the same questions."""

    exit_code = 2


class StoreError(SteadyVLMError):
    """A result store that is damaged or belongs to another study."""


class RunError(SteadyVLMError):
    """A computation failed while running."""
