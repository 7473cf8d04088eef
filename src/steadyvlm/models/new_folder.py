"""Folders that are there as a whole or not at all, and never in the place of something else.

A folder is written beside its place and renamed when it is complete. Whether there is a place for it can be asked
before the work begins, which may take hours.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from steadyvlm.errors import UsageError


@contextmanager
def new_folder(target: Path) -> Iterator[Path]:
    """Yield an empty folder that becomes `target` when all went well, and vanishes when not.

    Raises:
        UsageError: when `target` exists already, or cannot be written.
    """
    check_new_folder(target)
    partial = target.with_name(f".{target.name}.{os.getpid()}.partial")
    try:
        partial.mkdir(parents=True)
    except OSError as error:
        raise UsageError(f"'{target}' cannot be written: {error.strerror or error}. Choose another place.") from error
    try:
        yield partial
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise
    try:
        partial.rename(target)
    except OSError as error:
        raise UsageError(
            f"'{target}' cannot be written any more: {error.strerror or error}. What was made is complete in "
            f"'{partial}'; move it to where you want it."
        ) from error


def check_new_folder(target: Path) -> None:
    """Return quietly if something new can be made here, as far as can be told beforehand; makes nothing.

    Raises:
        UsageError: when something is there already, or nothing can be made there.
    """
    if os.path.lexists(target):
        raise UsageError(f"'{target}' exists already, and nothing is overwritten. Choose another place, or remove it.")
    nearest = next(folder for folder in target.absolute().parents if folder.exists())
    if not nearest.is_dir() or not os.access(nearest, os.W_OK | os.X_OK):
        raise UsageError(f"'{target}' cannot be written: '{nearest}' takes nothing new. Choose another place.")
