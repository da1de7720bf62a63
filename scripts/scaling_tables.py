"""The tables of docs/scaling.md, from figures in benchmarks/results and the simulation; written by scripts/docs.py

Prices are inputs of November 2026, list prices of one region, rounded; none of them is read from a provider's
interface.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable
from dataclasses import replace
from operator import itemgetter
from pathlib import Path
from typing import Any

from pipelines.capacity import estimate, load
from pipelines.capacity.estimate import ClusterSpec
from pipelines.capacity.load import Load
from pipelines.extract.config import Settings
from pipelines.extract.planning import WINDOW

RESULTS = Path(__file__).resolve().parent.parent / "benchmarks" / "results"
CPU_HOUR, SPOT_HOUR = 0.045, 0.018  # dollars for one virtual CPU: on demand, spot
GPU_HOUR, SMALL_GPU_HOUR = 6.90, 0.80  # dollars: one H100 of 80 GB; one L4 of 24 GB
GB_MONTH, PUTS, LISTS = 0.023, 0.005, 0.005  # dollars: a GB for a month, a thousand PUTs, a thousand LISTs
NODE = 16  # CPUs of a machine
CLIPS = 10_000_000
EDITS = 1000  # per second
ASSUMED_STEP_S = {"H100": 0.0035, "L4": 0.035}  # a row of one step at 512 px in bf16: no GPU was measured
STEPS = 20


def result(name: str) -> dict[str, Any]:
    """A file of benchmarks/results."""
    return json.loads((RESULTS / f"{name}.json").read_text())


def table(head: Iterable[str], rows: Iterable[Iterable[str]], numbers: bool = True) -> str:
    """A Markdown table; the first column is text, the others are numbers or text."""
    names = list(head)
    lines = [names, ["---", *["---:" if numbers else "---"] * (len(names) - 1)], *map(list, rows)]
    return "\n".join("| " + " | ".join(cells) + " |" for cells in lines)


def load_at(fps: float) -> Load:
    """Ten million clips of ten seconds, so many frames of each second looked at."""
    return estimate.load_of(ClusterSpec(clips=CLIPS), Settings(fps=fps))


def prices() -> str:
    """Assumed prices."""
    rows = [
        ("a virtual CPU, on demand, per hour", f"${CPU_HOUR}"),
        ("the same on spot", f"${SPOT_HOUR}"),
        ("an H100 of 80 GB, per hour", f"${GPU_HOUR:.2f}"),
        ("an L4 of 24 GB, per hour", f"${SMALL_GPU_HOUR:.2f}"),
        ("object storage, per GB and month", f"${GB_MONTH}"),
        ("1,000 PUT or LIST calls", f"${PUTS}"),
    ]
    return table(["assumed, November 2026", "price"], rows)


def units() -> str:
    """Cost of one frame, unit, face and input."""
    core, measured = load.core_seconds(), result("capacity")
    per_face = measured["dataset"]["columns_per_face"]
    rows = [(f"{name}, a frame", f"{1e3 * s:.1f} ms of a core", "extract.json") for name, s in core.items()]
    rows += [
        ("all of these", f"{1e3 * sum(core.values()):.1f} ms of a core", "extract.json"),
        (
            "the driver, a shard",
            f"{1e3 * load.DRIVER_S:.0f} ms of one core, one after the other",
            "driver.json",
        ),
        (
            "a face in `faces/`",
            f"{measured['dataset']['bytes_per_face'] / 1e3:.1f} kB, "
            f"{per_face['crop'] / per_face['all']:.0%} of it the crop",
            "capacity.json",
        ),
        (
            "an input of its window, in the driver's memory",
            f"{driver_memory()[1] / 1e3:.1f} kB",
            "driver.json",
        ),
        (
            "a name, in the driver's four sets together",
            f"{driver_memory()[2]:.0f} bytes",
            "driver.json",
        ),
    ]
    return table(["what", "costs", "from"], rows)


def extract() -> str:
    """Work by stage."""
    rows = []
    for fps in (1.0, 5.0):
        load_ = load_at(fps)
        hours = {name: s * load_.frames / 3600 for name, s in load_.seconds.items()}
        detect = sum(hours[n] for n in ("detect", "track", "align", "identity"))
        rest = load_.core_hours - detect - hours["decode"]
        rows.append(
            (
                f"{fps:g} of 25",
                f"{load_.faces / 1e6:,.0f} million",
                f"{hours['decode']:,.0f}",
                f"{detect:,.0f}",
                f"{rest:,.0f}",
                f"{load_.core_hours:,.0f}",
                f"${load_.core_hours * CPU_HOUR:,.0f}",
                f"${load_.core_hours * SPOT_HOUR:,.0f}",
            )
        )
    head = [
        "frames looked at per second",
        "faces",
        "decode, core hours",
        "detect to identity",
        "reconstruct to write",
        "all",
        "on demand",
        "spot",
    ]
    return table(head, rows)


def simulated() -> str:
    """Clusters, gone through event by event."""
    rows = []
    load_ = load_at(1.0)
    for nodes, jobs, spot_hours in (
        (20, 1, 0.0),
        (50, 1, 0.0),
        (50, 1, 12.0),
        (200, 1, 0.0),
        (200, 4, 0.0),
        (200, 4, 12.0),
    ):
        price = SPOT_HOUR if spot_hours else CPU_HOUR
        done = estimate.run(load_, replace(ClusterSpec(clips=CLIPS), jobs=jobs, spot_hours=spot_hours), nodes, price)
        rows.append(
            (
                f"{nodes} machines, {jobs} driver{'s' * (jobs > 1)}{', spot' * bool(spot_hours)}",
                f"{done.wall_s / 3600:.1f} h",
                f"{done.peak_nodes}",
                f"{done.node_s / 3600:,.0f}",
                f"${done.cost:,.0f}",
                f"{done.lost_nodes}",
                f"{done.driver:.0%}",
                done.bottleneck,
            )
        )
    head = ["at most", "time", "machines", "machine hours", "cost", "lost", "driver busy", "all wait for"]
    return table(head, rows)


def objects() -> str:
    """Objects, prefixes and bytes of the dataset."""
    rows = []
    measured = result("capacity")["dataset"]
    for name, clips in (("10 million clips, 1 frame a second", CLIPS), ("100 million clips", 10 * CLIPS)):
        faces = clips * 10
        count = load_at(1.0).shards * clips // CLIPS
        size = faces * measured["bytes_per_face"]
        lists = math.ceil(count / load.LIST_PAGE)
        rows.append(
            (
                name,
                f"{count / 1e6:,.2g} million",
                f"{count / load.PREFIXES:,.0f}",
                f"{size / 1e12:,.1f} TB",
                f"${size / 1e9 * GB_MONTH:,.0f}",
                f"${count / 1e3 * PUTS:,.0f}",
                f"{lists:,} (${lists / 1e3 * LISTS:,.2f})",
                f"{clips * (measured['bytes_per_plan'] + measured['bytes_per_input_row']) / 1e9:,.1f} GB",
            )
        )
    head = [
        "dataset",
        "objects in `faces/`",
        "under each of 256 prefixes",
        "bytes",
        "a month",
        "to write",
        "LIST calls to resume",
        "plans and rows of inputs",
    ]
    return table(head, rows)


def driver_memory() -> tuple[float, float, float]:
    """Bytes of the driver at rest, for an input of its window, and for a name of an input beyond. Its four sets: listed
    names, wanted names, inputs with a row, and the part with each plan.
    """
    cases = result("driver")["cases"]
    window = max((c for c in cases if (c["kind"], c["inputs"]) == ("clips", WINDOW)), key=itemgetter("peak_mb"))
    (names,) = (case for case in cases if case["kind"] == "names")
    mib = 2**20
    a_name = (names["peak_mb"] - names["base_mb"]) * mib / names["inputs"]
    return window["base_mb"] * mib, (window["peak_mb"] - window["base_mb"]) * mib / WINDOW, a_name


def driver() -> str:
    """Memory and time of the driver of one job."""
    base, at_work, a_name = driver_memory()
    rows = []
    for count in (10_000, 100_000, 1_000_000, 10_000_000):
        held = base + min(count, WINDOW) * at_work + max(count - WINDOW, 0) * a_name
        work = load_at(1.0).core_hours * 3600 * count / CLIPS
        handed = load_at(1.0).shards * count / CLIPS * load.DRIVER_S
        rows.append((f"{count:,}", f"{held / 1e9:,.2f} GB", _time(handed), _time(work / 64)))
    return table(["clips in one job", "memory of the driver", "driver's time", "work on 64 cores"], rows)


def _time(seconds: float) -> str:
    return f"{seconds / 60:,.0f} min" if seconds < 7200 else f"{seconds / 3600:,.0f} h"


def edits() -> str:
    """A thousand edits a second."""
    measured, small = result("capacity")["edit"], result("model_step")["small"]["ours"]
    see = measured["look_s"] + measured["compose_s"] + measured["finish_s"]
    rows = [
        _edits("preview of a picture that is known", measured["preview_s"], 0, ""),
        _edits("preview as the edit, new picture, measured, signed", measured["look_s"] + measured["finish_s"], 0, ""),
        _edits("36 M parameters, 1 step, on CPUs", see + small["once_s"] + small["step_s"], 0, ""),
        *(
            _edits(
                f"Stable Diffusion's size at 512 px, {STEPS} steps, {gpu} (**assumed**)", see, (STEPS + 3) * step, gpu
            )
            for gpu, step in ASSUMED_STEP_S.items()
        ),
    ]
    head = ["edit", "core, s", "GPU, s", "cores", "GPUs", "per hour", "a thousand edits"]
    return table(head, rows)


def _edits(name: str, core_s: float, gpu_s: float, gpu: str) -> tuple[str, ...]:
    """Machines for EDITS a second at two thirds of their capacity."""
    cores, gpus = math.ceil(EDITS * core_s * 1.5), math.ceil(EDITS * gpu_s * 1.5)
    price = cores * CPU_HOUR + gpus * (GPU_HOUR if gpu == "H100" else SMALL_GPU_HOUR)
    return (
        name,
        f"{core_s:.2f}",
        f"{gpu_s:.3f}" if gpu_s else "",
        f"{cores:,}",
        f"{gpus:,}" if gpus else "",
        f"${price:,.0f}",
        f"${price / 3600:.4f}",
    )


def parts() -> dict[str, str]:
    """Name of a part of the page -> its table."""
    tables = (prices, units, extract, simulated, objects, driver, edits)
    return {make.__name__: make() for make in tables}
