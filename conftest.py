"""No test reaches another machine: connections and look-ups other than loopback fail, unless marked `network`."""

from __future__ import annotations

import importlib.util
import ipaddress
import os
import shutil
import socket
from typing import Any

import pytest

# Before any test imports a hub client: what is not on disk does not exist.
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
# Before anything imports Triton: where there is no GPU, its kernels run in its interpreter.
if shutil.which("nvidia-smi") is None:
    os.environ.setdefault("TRITON_INTERPRET", "1")
# Doctests import every module; Triton exists for Linux only.
collect_ignore_glob = [] if importlib.util.find_spec("triton") else ["src/steadyvlm/quantization/triton_*.py"]


@pytest.fixture(autouse=True, scope="session")
def _own_cache(tmp_path_factory: pytest.TempPathFactory) -> None:
    """What is learned in a test is kept for the other tests of this run, and never found in a home."""
    os.environ["STEADYVLM_CACHE"] = str(tmp_path_factory.mktemp("cache"))


class NetworkBlocked(RuntimeError):
    """A test tried to reach another machine."""


@pytest.fixture(autouse=True)
def _offline(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    if request.node.get_closest_marker("network") is None:
        for name in ("connect", "connect_ex"):
            monkeypatch.setattr(socket.socket, name, _guarded_connect(getattr(socket.socket, name)))
        monkeypatch.setattr(socket, "getaddrinfo", _guarded_lookup(socket.getaddrinfo))


def _guarded_connect(connect: Any) -> Any:
    def guarded(self: socket.socket, address: Any) -> Any:
        if self.family in (socket.AF_INET, socket.AF_INET6):
            _refuse_unless_loopback(address[0])
        return connect(self, address)

    return guarded


def _guarded_lookup(lookup: Any) -> Any:
    def guarded(host: Any, *rest: Any, **options: Any) -> Any:
        _refuse_unless_loopback(host)
        return lookup(host, *rest, **options)

    return guarded


def _refuse_unless_loopback(host: Any) -> None:
    name = host.decode() if isinstance(host, bytes) else host
    if name in (None, "", "localhost"):
        return
    try:
        if ipaddress.ip_address(name).is_loopback:
            return
    except ValueError:
        pass
    raise NetworkBlocked(f"a test tried to reach '{name}'; tests are offline (mark it `network` if it must).")
