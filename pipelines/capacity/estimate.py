"""How much of everything a large job takes: from what one frame, one unit and one object cost, to clusters, money and prefixes.

Path: figures of benchmarks/results (repeated here, because an installation has no benchmarks; a test holds them together), or a sample
of `forecast` -> `Load` -> tables for `rigface forecast --clips` and docs/scaling.md.

A core is one of the machine that was measured: a virtual CPU of a busy AMD EPYC host. Measure on yours before you buy.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from pipelines.capacity.load import DRIVER_S, FACE_BYTES, PREFIXES, Load, core_seconds
from pipelines.capacity.simulation import Machines, SimulationResult, Stage, Work, simulate
from pipelines.extract.config import Settings
from rigface.errors import PlanError

"""Working time by step per frame, by the clock, every frame looked at (extract.json, `x16`)."""
"""What the same job did on so many cores; its three processes shared two, so a step's clock ran too fast."""
"""Of the driver, per unit: handing out, counting, closing."""
"""Of faces/, per face: four fifths of it the crop (capacity.json)."""


@dataclass(frozen=True)
class ClusterSpec:
    """What is asked about."""

    clips: float = 0
    """So many clips that are not there: what they would take, from figures measured on two cores. 0: those that are named."""
    clip_s: float = 10.0
    """Length of such a clip, seconds."""
    clip_fps: float = 25.0
    """Frames per second it shows. All are decoded; --fps of them are looked at."""
    nodes: int = 0
    """Machines at most; 0: as many as --cpus makes."""
    node_cpus: int = 16
    """CPUs of a machine."""
    start_s: float = 180.0
    """From asking for a machine until it works."""
    life_h: float = 0.0
    """Spot: mean hours until a machine is taken away; 0: never."""
    jobs: int = 1
    """Jobs that share the clips, each with its own driver and OUT."""

    def __post_init__(self) -> None:
        if (
            self.clips < 0
            or self.clip_s <= 0
            or self.clip_fps <= 0
            or self.node_cpus < 1
            or self.jobs < 1
            or self.nodes < 0
        ):
            raise PlanError("clips, nodes, node_cpus and jobs count things; clip_s and clip_fps are above 0")


def load_of(cluster: ClusterSpec, settings: Settings) -> Load:
    """Clips that are not there, each showing one face all the time."""
    rate = cluster.clip_fps if settings.rate is None else min(settings.rate, cluster.clip_fps)
    frames = max(1.0, cluster.clip_s * rate)
    seconds = core_seconds()
    seconds["decode"] *= cluster.clip_fps / rate
    per_clip = math.ceil(frames / settings.chunk_frames)
    total = cluster.clips * frames
    return Load(cluster.clips, round(cluster.clips * per_clip), total, total, total * FACE_BYTES, seconds)


def run(load: Load, cluster: ClusterSpec, nodes: int, price: float, seed: int = 0) -> SimulationResult:
    """The job on a cluster that begins with one machine and grows; `price` of a CPU hour."""
    most = nodes * cluster.node_cpus
    stages = tuple(Stage(name, seconds, 1.0, 1, most) for name, seconds in load.stages.items())
    machines = Machines(
        cluster.node_cpus, min(nodes, max(1, math.ceil(2 / cluster.node_cpus))), nodes, price * cluster.node_cpus,
        cluster.start_s, cluster.life_h,
    )  # fmt: skip
    work = Work(load.units, load.frames / load.units, driver_s=DRIVER_S, jobs=cluster.jobs)
    return simulate(work, stages, machines, seed)


def described(load: Load, cluster: ClusterSpec, nodes: int, price: float, currency: str) -> str:
    """The plan in words, for a terminal."""
    from pipelines.formatting import bytes_text, duration, money, rounded

    done = run(load, cluster, nodes, price)
    best = load.core_hours / (nodes * cluster.node_cpus)
    spot = f", {done.lost_nodes} of them lost on the way" if cluster.life_h else ""
    driver = load.units * DRIVER_S / cluster.jobs
    lines = [
        f"{rounded(load.clips)} inputs, {rounded(load.frames)} frames to look at, {rounded(load.units)} units of work",
        f"work: {rounded(load.core_hours)} core hours, "
        + ", ".join(f"{name} {s * load.frames / 3600 / load.core_hours:.0%}" for name, s in load.stages.items()),
        f"on at most {nodes:,} machines of {cluster.node_cpus} CPUs: {duration(done.wall_s)} simulated "
        f"({duration(best * 3600)} if no CPU ever waited); {rounded(done.node_s / 3600)} machine hours, "
        f"{done.peak_nodes:,} machines at most{spot}",
        f"cost: {money(done.cost)} {currency} at {price:g} per CPU hour",
        "busy: " + ", ".join(f"{n} {b:.0%}" for n, b in done.busy.items()) + f", driver {done.driver:.0%}; "
        f"waited for: {done.bottleneck}",
        f"written: {bytes_text(load.bytes)} with {rounded(load.faces)} faces in {rounded(load.units)} objects, "
        f"{rounded(load.units / PREFIXES)} under each of {PREFIXES} prefixes",
    ]
    if done.bottleneck == "driver":
        lines.append(
            f"the driver alone takes {duration(driver)} to hand out so many units ({1 / DRIVER_S:.0f} a second): share the clips "
            "among more jobs (--jobs), each with an OUT of its own"
        )
    return "\n".join(lines)
