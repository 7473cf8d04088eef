"""llm-compressor without its voice: no log lines, progress bars or warnings, and nothing global left changed."""

from __future__ import annotations

import contextlib
import importlib
import os
import warnings
from collections.abc import Iterator
from typing import Any

from steadyvlm.errors import MissingDependency
from steadyvlm.models.compressed_tensors import without_bars

_SILENT = "LLM_COMPRESSOR_LOG_DISABLED"
_LEVEL = "METRIC"
_WITH_BARS = "llmcompressor.modifiers.transform.awq.base"
_LOGGERS = ("llmcompressor", "compressed_tensors")


@contextlib.contextmanager
def quiet_session(method: str) -> Iterator[Any]:
    """Import llm-compressor, hold back all it prints, and give it a session of its own.

    Its package sets up a logger that prints and takes away the handlers of whoever logs with loguru, unless a variable
    of the environment says otherwise while it is imported.

    Args:
        method: who asks, for the error.

    Raises:
        MissingDependency: with the install command.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        modules = _import(method)
        logger = modules["loguru"].logger
        for name in _LOGGERS:
            logger.disable(name)
        _know_level(logger)
        try:
            with without_bars(_WITH_BARS), modules["core"].create_session() as session:
                yield session
        finally:
            if os.environ.get(_SILENT, "").lower() != "true":
                for name in _LOGGERS:
                    logger.enable(name)


def _know_level(logger: Any) -> None:
    """Give loguru the level llm-compressor logs at, which it only adds where it may print."""
    try:
        logger.level(_LEVEL)
    except ValueError:
        logger.level(_LEVEL, no=38)


def _import(method: str) -> dict[str, Any]:
    before = os.environ.get(_SILENT)
    os.environ[_SILENT] = "true"
    try:
        return {
            "core": importlib.import_module("llmcompressor.core"),
            "loguru": importlib.import_module("loguru"),
        }
    except ImportError as error:
        raise MissingDependency(
            f"{method} needs llm-compressor, and it cannot be imported: {error}. "
            "Install it with `pip install 'steadyvlm[compress]'`."
        ) from None
    finally:
        if before is None:
            del os.environ[_SILENT]
        else:
            os.environ[_SILENT] = before
