"""Two machines that a cable joins: network namespaces of this one, each with a host name of its own."""

import os
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

ADDRESSES = ("10.77.83.1", "10.77.83.2")


@dataclass(frozen=True)
class Nodes:
    """Holds the names of the two namespaces, which are the host names, too."""

    names: tuple[str, str]

    def command(self, node: int, *words: str) -> list[str]:
        """What runs a command on a node."""
        inside = ["unshare", "--uts", "sh", "-c", 'hostname "$0"; exec "$@"', self.names[node]]
        return ["ip", "netns", "exec", self.names[node], *inside, *words]

    def cut(self) -> None:
        """Cuts the cable."""
        _ip("-n", self.names[0], "link", "set", "cable", "down")


@pytest.fixture
def nodes() -> Iterator[Nodes]:
    """Two nodes; the test is skipped where this user may not make any."""
    if os.geteuid() or not (shutil.which("ip") and shutil.which("unshare")):
        pytest.skip("needs root, and ip and unshare: apt-get install iproute2 util-linux")
    names = (f"node0-{os.getpid()}", f"node1-{os.getpid()}")
    try:
        for name in names:
            _ip("netns", "add", name)
        _ip("link", "add", "cable", "netns", names[0], "type", "veth", "peer", "name", "cable", "netns", names[1])
        for name, address in zip(names, ADDRESSES, strict=True):
            _ip("-n", name, "addr", "add", f"{address}/24", "dev", "cable")
            for device in ("lo", "cable"):
                _ip("-n", name, "link", "set", device, "up")
    except subprocess.CalledProcessError as error:
        _remove(names)
        pytest.skip(f"no network namespaces: {error.stderr}")
    yield Nodes(names)
    _remove(names)


def _remove(names: tuple[str, str]) -> None:
    for name in names:
        if Path("/run/netns", name).exists():
            _ip("netns", "del", name)


def _ip(*words: str) -> None:
    subprocess.run(["ip", *words], check=True, capture_output=True, text=True, timeout=30)
