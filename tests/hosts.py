"""Simulated hosts in network namespaces: each has an address, a link that can be cut, and processes that can be killed.

A bridge on this machine is their switch; this machine is on it, too, under `Net.here`. They share its disk, as hosts
share a file server, but for Ray's own folder. Needs the right to make namespaces, which containers often lack:
`why_not()` says.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

from tests.conftest import ROOT

# A node that is not heard of is given up after some 3 s instead of 30.
QUICK = {
    "RAY_health_check_initial_delay_ms": "2000",
    "RAY_health_check_period_ms": "500",
    "RAY_health_check_timeout_ms": "1000",
    "RAY_health_check_failure_threshold": "4",
    "RAY_raylet_start_wait_time_s": "200",  # of a busy machine
    "RAY_AUTH_MODE": "disabled",
    "RAY_USAGE_STATS_ENABLED": "0",
    "OMP_NUM_THREADS": "1",
}
PORT = 6390
OWN_DISK = (
    'mount --bind "$0" /tmp/ray && exec "$@"'  # `ip netns exec` gives each process a view of the mounts of its own
)


def ip(*words: str) -> None:
    subprocess.run(["ip", *words], check=True, capture_output=True, timeout=20)


def why_not() -> str:
    """Reason for which there can be no such hosts here; empty if there can."""
    name = f"rftry{os.getpid()}"
    try:
        ip("netns", "add", name)
        try:
            ip("link", "add", f"t{os.getpid()}", "type", "veth", "peer", "name", "eth0", "netns", name)
            ip("link", "del", f"t{os.getpid()}")
        finally:
            ip("netns", "del", name)
    except FileNotFoundError:
        return "needs the command `ip` (Debian: iproute2)"
    except subprocess.SubprocessError as e:
        return f"may not make network namespaces: {(getattr(e, 'stderr', b'') or b'').decode().strip()}"
    return ""


class Host:
    """A simulated host."""

    def __init__(self, net: Net, name: str, address: str) -> None:
        self.net, self.name, self.address = net, name, address
        self.folder = net.folder / name
        for folder in (self.folder, Path("/tmp/ray")):
            folder.mkdir(parents=True, exist_ok=True)

    def run(self, command: list[str], log: str, env: dict[str, str] | None = None) -> subprocess.Popen:
        """Start a process on the host; its output goes to a file."""
        with open(self.net.folder / f"{log}.log", "ab") as out:
            return subprocess.Popen(
                ["ip", "netns", "exec", self.name, "sh", "-c", OWN_DISK, str(self.folder), *command],
                env={**os.environ, **QUICK, **self.net.env, "PYTHONPATH": str(ROOT), **(env or {})},
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=subprocess.STDOUT,
                cwd=ROOT,
                start_new_session=True,
            )

    def python(self, words: list[str], log: str, env: dict[str, str] | None = None) -> subprocess.Popen:
        """Start this Python on the host."""
        return self.run([sys.executable, *words], log, env)

    def ray(self, head: Host | None, cpus: float, store_mb: int = 100) -> None:
        """Start a node of a Ray cluster: its head, or one that joins."""
        words = ["--head", f"--port={PORT}", "--include-dashboard=false"]
        if head is not None:
            words = [f"--address={head.address}:{PORT}"]
        self.python(
            ["-m", "ray.scripts.scripts", "start", *words, f"--node-ip-address={self.address}", f"--num-cpus={cpus:g}",
             f"--object-store-memory={store_mb * 2**20}", "--disable-usage-stats", "--block"],
            f"ray-{self.name}",
        )  # fmt: skip

    def pids(self) -> list[int]:
        found = subprocess.run(["ip", "netns", "pids", self.name], capture_output=True, text=True, timeout=20)
        return [int(pid) for pid in found.stdout.split()]

    def kill(self) -> None:
        """Power off: SIGKILL to all processes, the oldest last so that none is started again."""
        limit = time.monotonic() + 10
        while (pids := self.pids()) and time.monotonic() < limit:
            for pid in reversed(pids):
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            time.sleep(0.05)

    def cut(self) -> None:
        """Cut the link."""
        ip("-n", self.name, "link", "set", "eth0", "down")

    def heal(self) -> None:
        """Restore the link."""
        ip("-n", self.name, "link", "set", "eth0", "up")


class Net:
    """Hosts on one switch.

    Args:
        folder: for their logs. env: of all their processes.
    """

    def __init__(self, folder: Path, env: dict[str, str] | None = None) -> None:
        self.folder, self.env = folder, env or {}
        self._tag = f"{os.getpid() % 100_000}"
        self._third = 64 + os.getpid() % 128
        self.bridge = f"rfb{self._tag}"
        self.here = f"10.211.{self._third}.1"
        self.hosts: list[Host] = []

    def __enter__(self) -> Net:
        ip("link", "add", self.bridge, "type", "bridge")
        ip("addr", "add", f"{self.here}/24", "dev", self.bridge)
        ip("link", "set", self.bridge, "up")
        return self

    def add(self, name: str) -> Host:
        """Add a host."""
        number = len(self.hosts) + 11
        host = Host(self, f"rf{self._tag}{name}", f"10.211.{self._third}.{number}")
        outside = f"rfv{self._tag}{number}"
        ip("netns", "add", host.name)
        self.hosts.append(host)
        ip("link", "add", outside, "type", "veth", "peer", "name", "eth0", "netns", host.name)
        ip("link", "set", outside, "master", self.bridge, "up")
        ip("-n", host.name, "addr", "add", f"{host.address}/24", "dev", "eth0")
        for link in ("lo", "eth0"):
            ip("-n", host.name, "link", "set", link, "up")
        return host

    def __exit__(self, *_: object) -> None:
        for host in self.hosts:
            host.kill()
            with contextlib.suppress(subprocess.SubprocessError):
                ip("netns", "del", host.name)
        with contextlib.suppress(subprocess.SubprocessError):
            ip("link", "del", self.bridge)


def start_cluster(net: Net, workers: int, cpus: float) -> None:
    """Start a head without work and some workers, each on its own host, all known to the head.

    What `net.env` says by then is what their processes know.
    """
    head = net.add("h")
    head.ray(None, 0)
    wait_for_nodes(net, 1)
    for i in range(workers):
        net.add(f"w{i}").ray(head, cpus)
        wait_for_nodes(net, i + 2)


def alive(net: Net) -> int:
    """Count of nodes that are alive for the head."""
    head = net.hosts[0]
    done = subprocess.run(
        ["ip", "netns", "exec", head.name, sys.executable, "-c", NODES_BY_GCS.format(head.address, PORT)],
        env={**os.environ, **QUICK}, capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    return int(done.stdout.split()[-1]) if done.returncode == 0 and done.stdout.split() else 0


# Asked of the head's own service: a driver would take seconds, and count as one.
NODES_BY_GCS = """
from ray._raylet import GcsClient
nodes = GcsClient(address='{0}:{1}').get_all_node_info(timeout=5)
print(sum(node.state == 0 for node in nodes.values()))
"""


def wait_for_nodes(net: Net, wanted: int, seconds: float = 240) -> None:
    """Wait until so many nodes are alive for the head.

    Raises:
        TimeoutError: it does not.
    """
    limit = time.monotonic() + seconds
    while (found := alive(net)) != wanted:
        if time.monotonic() > limit:
            logs = "\n".join(f"{p.name}: {p.read_text()[-1500:]}" for p in net.folder.glob("ray-*.log"))
            raise TimeoutError(f"want {wanted} Ray nodes, the head knows {found}\n{logs}")
        time.sleep(0.3)
