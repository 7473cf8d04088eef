"""Places that commands read from and write to."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from steadyvlm.errors import UsageError


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
