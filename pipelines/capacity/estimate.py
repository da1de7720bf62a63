"""Estimate of a large extraction: from the cost of one frame, unit and object to machines, money and objects.

Path: figures of `load.py`, or a sample of `forecast` -> Load -> text of `rigface forecast --clips`, tables of
docs/scaling.md.

A core is one of the measured machine: a virtual CPU of a busy AMD EPYC host. Measure on yours before you buy.
"""

import math
from dataclasses import dataclass

from pipelines.capacity.load import DRIVER_S, FACE_BYTES, PREFIXES, Load, core_seconds, sparse_ratio
from pipelines.capacity.simulation import Machines, SimulationResult, Stage, Work, simulate
from pipelines.extract.config import OPENING, ExtractConfig, Settings
from pipelines.formatting import bytes_text, duration, money, rounded
from rigface.ranges import in_range

SHARD_FRAMES: int = ExtractConfig.shard_frames  # of a large job


@dataclass(frozen=True)
class ClusterSpec:
    """The cluster and the load of a forecast."""

    clips: float = 0
    """Forecast this many clips from figures measured on two cores, without reading any; 0: sample VIDEOS."""
    clip_s: float = 10.0  # Length of a clip, seconds.
    clip_fps: float = 25.0  # Frames per second of a clip; --fps of them are sampled, and what these need is decoded.
    nodes: int = 0  # Machines at most; 0: --cpus / --node-cpus.
    node_cpus: int = 16  # CPUs of a machine.
    start_s: float = 180.0  # Seconds from the request of a machine until it works.
    spot_hours: float = 0.0  # Mean hours until a spot machine is reclaimed; 0: never.
    jobs: int = 1  # Drivers that share the clips, as `rigface extract --jobs`.

    def __post_init__(self) -> None:
        in_range(self, "[0, inf)", "clips", "nodes", "start_s", "spot_hours")
        in_range(self, "[1, inf)", "node_cpus", "jobs")
        in_range(self, "(0, inf)", "clip_s", "clip_fps")


def load_of(cluster: ClusterSpec, settings: Settings) -> Load:
    """The load of clips that show one face in every frame."""
    rate = cluster.clip_fps if settings.rate is None else min(settings.rate, cluster.clip_fps)
    frames = max(1.0, cluster.clip_s * rate)
    seconds = core_seconds()
    seconds["decode"] *= cluster.clip_fps / rate / sparse_ratio(rate, cluster.clip_fps)
    full, rest = divmod(frames, settings.chunk_frames)
    per_clip = full + min(1.0, (OPENING + rest) / SHARD_FRAMES) * (rest > 0)
    total = cluster.clips * frames
    return Load(cluster.clips, math.ceil(cluster.clips * per_clip), total, total, total * FACE_BYTES, seconds)


def run(load: Load, cluster: ClusterSpec, nodes: int, price: float, seed: int = 0) -> SimulationResult:
    """Simulate the job on a cluster that begins with one machine and grows; the price is that of a CPU hour."""
    max_actors = nodes * cluster.node_cpus
    stages = tuple(Stage(name, seconds, 1.0, 1, max_actors) for name, seconds in load.stages.items())
    machines = Machines(
        cluster.node_cpus, min(nodes, max(1, math.ceil(2 / cluster.node_cpus))), nodes, price * cluster.node_cpus,
        cluster.start_s, cluster.spot_hours,
    )  # fmt: skip
    work = Work(load.shards, load.frames / load.shards, driver_s=DRIVER_S, jobs=cluster.jobs)
    return simulate(work, stages, machines, seed)


def describe(load: Load, cluster: ClusterSpec, nodes: int, price: float, currency: str) -> str:
    """The estimate as text for a terminal."""
    result = run(load, cluster, nodes, price)
    best = load.core_hours / (nodes * cluster.node_cpus)
    spot = f", {result.lost_nodes} of them reclaimed" if cluster.spot_hours else ""
    driver = load.shards * DRIVER_S / cluster.jobs
    lines = [
        f"{rounded(load.clips)} inputs, {rounded(load.frames)} sampled frames, {rounded(load.shards)} shards",
        f"work: {rounded(load.core_hours)} core hours, "
        + ", ".join(f"{name} {s * load.frames / 3600 / load.core_hours:.0%}" for name, s in load.stages.items()),
        f"on at most {nodes:,} machines of {cluster.node_cpus} CPUs: {duration(result.wall_s)} simulated "
        f"({duration(best * 3600)} if no CPU waited); {rounded(result.node_s / 3600)} machine hours, "
        f"{result.peak_nodes:,} machines at the peak{spot}",
        f"cost: {money(result.cost)} {currency} at {price:g} per CPU hour",
        "busy: " + ", ".join(f"{n} {b:.0%}" for n, b in result.busy.items()) + f", driver {result.driver:.0%}; "
        f"bottleneck: {result.bottleneck}",
        f"written: {bytes_text(load.bytes)} with {rounded(load.faces)} faces in {rounded(load.shards)} objects, "
        f"{rounded(load.shards / PREFIXES)} under each of {PREFIXES} prefixes",
    ]
    if result.driver > 0.8:
        lines.append(
            f"the driver takes {duration(driver)} for so many shards ({1 / DRIVER_S:.0f} a second): share them among "
            "drivers (--jobs)"
        )
    return "\n".join(lines)
