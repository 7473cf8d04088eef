"""What commands need before and after their work: the libraries for it, and a place to write to."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from steadyvlm.errors import MissingDependency, UsageError


def require_models(what: str) -> None:
    """Refuse early, and with the command that helps, when the libraries that run models are not installed.

    Raises:
        MissingDependency: naming what is missing.
    """
    missing = [name for name in ("torch", "transformers") if importlib.util.find_spec(name) is None]
    if missing:
        raise MissingDependency(
            f"{what} needs {' and '.join(missing)}, which this environment does not have. "
            "Install them: pip install 'steadyvlm[models]' (or 'steadyvlm[models,int8]' for LLM.int8() as well)."
        )


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Create the folder of `path`, and turn a failure to write there into a clear error.

    Raises:
        UsageError: if the place cannot be written to.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield
    except OSError as error:
        raise UsageError(f"cannot write {path}: {error.strerror or error}. Choose another place.") from None


def existing_study(folder: Path) -> Path:
    """Return `folder` if a study has begun in it.

    Raises:
        UsageError: if not, naming the studies that lie nearby.
    """
    from steadyvlm.study.store import ResultStore

    if ResultStore(folder).exists():
        return folder
    near = sorted(path.parent for path in [*folder.glob("*/study.json"), *Path("runs").glob("*/study.json")])
    hint = f"Studies found: {', '.join(map(str, near[:8]))}." if near else "Begin one with `steadyvlm run`."
    raise UsageError(f"{folder} holds no study (there is no study.json in it). {hint}")
