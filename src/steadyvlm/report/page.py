"""What every page of ours has in common: a policy that forbids all but its own script, and a file written in one step.

A page makes no request. Its content security policy forbids everything except its own style sheet and script, which
are named by their hashes, and pictures inside the file; so even a mistake in escaping could run nothing. Text is
escaped by Jinja, or travels as JSON that cannot end its own element and is put on the page as text, never as markup.
"""

from __future__ import annotations

import base64
import hashlib
import json
import os
from importlib.resources import files
from pathlib import Path
from typing import Any

from steadyvlm.errors import RunError


def source(*names: str) -> str:
    """Return the text of templates, one after the other."""
    folder = files("steadyvlm.report") / "templates"
    return "".join((folder / name).read_text(encoding="utf-8") for name in names)


def policy(style: str, script: str) -> str:
    """Return the content security policy of a page with this style sheet and this script."""
    return (
        f"default-src 'none'; img-src data:; style-src {_hash_source(style)}; script-src {_hash_source(script)}; "
        "base-uri 'none'; form-action 'none'"
    )


def safe_json(value: Any) -> str:
    r"""Return JSON that can stand inside a script element: no character of it can begin or end markup.

    >>> print(safe_json("</script>"))
    "\u003c/script\u003e"
    """
    text = json.dumps(value, separators=(",", ":"), allow_nan=False)
    return text.replace("&", "\\u0026").replace("<", "\\u003c").replace(">", "\\u003e")


def write_page(page: str, path: Path, *, what: str = "report") -> Path:
    """Write a page to `path` in one step and return the path; missing folders are made.

    Raises:
        RunError: when the file cannot be written.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        _replace(path, page.encode("utf-8", "replace"))
    except OSError as error:
        raise RunError(f"cannot write the {what} to {path}: {error.strerror or error}. Choose another path.") from None
    return path


def _hash_source(text: str) -> str:
    digest = hashlib.sha256(text.encode("utf-8")).digest()
    return f"'sha256-{base64.b64encode(digest).decode('ascii')}'"


def _replace(path: Path, data: bytes) -> None:
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        temporary.write_bytes(data)
        os.replace(temporary, path)
    except OSError:
        temporary.unlink(missing_ok=True)
        raise
