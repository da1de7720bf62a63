"""Memory and time of the driver of `extract`, with fake films and clips that nobody opens: planning and counting alone.

    python benchmarks/driver.py                       all cases; ten minutes
    python benchmarks/driver.py films 100000          one case, to its end; so many films or clips
    python benchmarks/driver.py names 10000000        the sets of names alone
    python benchmarks/driver.py shards 2000           what Ray adds: shards handed to stages that do nothing

A film is two hours at five frames a second, 120 units of 300 frames; a clip is ten frames. Inputs are listed, out of
order, surveyed by a fake, bundled, planned, stored, and counted as done, in a process of its own for each case; then
another process resumes the finished dataset, which reads all of it and holds all sets of names. What grows with the
inputs are these sets, so `names` fills them alone to the size of a whole job. `shards` is `dataflow.run_shards` on a
private cluster, with the pools of a laptop; its time is the processor's of this process, with all threads of Ray in it,
so that actors on the same cores do not count. Writes benchmarks/results/driver.json.
"""

from __future__ import annotations

import json
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import harness

CASES = (("films", 4000), ("clips", 250_000), ("clips", 500_000))
NAMES = 10_000_000
SHARDS = (400, 2500)  # of CLIPS_A_SHARD clips
CLIPS_A_SHARD = 21
EVERY = (*CASES, ("names", NAMES), *(("shards", count) for count in SHARDS))
UNITS = {"films": 120, "clips": 1}
FRAMES = {"films": 300, "clips": 10}


def run(kind: str, count: int, folder: str, resumed: bool) -> dict[str, Any]:
    """One case, in this process."""
    from rich.console import Console

    from pipelines.extract import components, in_process, job, planning
    from pipelines.extract.config import debug
    from pipelines.extract.dataset import FaceDataset
    from pipelines.extract.plan import Plan
    from pipelines.extract.progress import Progress
    from pipelines.extract.unit import Record, plans_json, plans_of_json, records_json, records_of_json
    from pipelines.inputs import open_input, sources
    from rigface.testing import fakes
    from rigface.video.decode import Chunk

    frames, units = FRAMES[kind], UNITS[kind]
    chunks = tuple(Chunk(k, frames * k, frames * (k + 1), 60.0 * k, 1500 * k, 90_000 * k, 0) for k in range(units))
    film = Plan("", "1 2", "video", bytes=1, sha256="0" * 64, rate=5.0, expected=(frames,) * units)
    shards = Path(folder, "shards")

    def survey(uris: list[str]) -> list[Plan]:
        return [replace(film, uri=uri, chunks=tuple(replace(chunk) for chunk in chunks)) for uri in uris]

    def run_shards(config: Any, head: Any, detector: Any, work: Any, say: Any) -> Iterator[list[Record]]:
        rows = [plans_json(units) for units in work]  # as Ray gets them
        with open(shards, "a") as file:
            for units in map(plans_of_json, rows):
                file.write(f"{units[0].shard}\n")
                yield records_of_json(records_json(map(Record.of, units)))

    def finished(self: FaceDataset) -> tuple[Iterator[str], Iterator[str]]:
        return (line.rstrip() for line in (open(shards) if shards.exists() else ())), iter(())

    components.specs = lambda settings: (fakes.HEAD, fakes.DETECTOR)
    sources._expand = lambda named: ((uri, uri) for uri in _uris(kind, count))
    planning.Planner._surveyed = lambda self, batches: map(survey, batches)  # not on Ray, whose store is apart
    open_input.stamp = lambda uri: film.stamp
    in_process.run_shards = run_shards
    FaceDataset.parts = finished  # type: ignore[method-assign]
    FaceDataset.records = lambda self, shard: []  # type: ignore[method-assign]
    config = replace(debug((kind,), f"{folder}/out"), in_process="always", identities=False, shard_frames=300)
    config = replace(config, detect_faces=replace(config.detect_faces, actors=64))
    base, began = _mb(), time.process_time()
    summary = job.extract(config, Progress(Console(file=open("/dev/null", "w"))))  # noqa: SIM115 - ends with this
    assert (summary.inputs, summary.done["units"]) == (count, 0 if resumed else count * units)
    stored = sum(path.stat().st_size for path in Path(config.out).rglob("*") if path.is_file())
    return {
        "kind": kind, "inputs": count, "units": count * units, "resumed": resumed,
        "shards": shards.read_text().count("\n"), "base_mb": base, "peak_mb": _mb(),
        "cpu_s": round(time.process_time() - began, 1), "stored_mb": round(stored / 1e6, 1),
    }  # fmt: skip


def names(count: int) -> dict[str, Any]:
    """The sets that the driver of a resumed job holds: listed, wanted, with a row; and the part of each plan."""
    from pipelines.inputs.compact_set import CompactMap, CompactSet

    base, began = _mb(), time.process_time()
    sets, part_of = [CompactSet() for _ in range(3)], CompactMap()
    for k, uri in enumerate(_uris("clips", count)):
        for names in sets:
            names.add(uri)
        part_of[uri] = k // 1000
    assert all(len(names) == count for names in sets)
    return {
        "kind": "names", "inputs": count, "base_mb": base, "peak_mb": _mb(),
        "cpu_s": round(time.process_time() - began, 1),
    }  # fmt: skip


class Nothing:
    """A stage without work."""

    name, needs, adds = "nothing", (), ()

    def __call__(self, unit: Any) -> None: ...


def ray(shards: int, folder: str) -> dict[str, Any]:
    """Hand out shards to actors on Ray, and count them."""
    from pipelines.cluster import session
    from pipelines.extract import dataflow
    from pipelines.extract.config import STAGES, laptop
    from pipelines.extract.plan import UnitPlan
    from rigface.testing import fakes
    from rigface.video.decode import Chunk

    dataflow.stage_arguments = lambda *_: {name: (Nothing, {}) for name in STAGES}
    config, chunk = replace(laptop(), out=folder), Chunk(0, 0, None, None, 0)
    uris = _uris("clips", shards * CLIPS_A_SHARD)
    units = (UnitPlan(f"{k:024x}", uri, 0, 1, chunk, 10, f"{k // CLIPS_A_SHARD:024x}") for k, uri in enumerate(uris))
    bundled = [[next(units) for _ in range(CLIPS_A_SHARD)] for _ in range(shards)]
    with session.connected(cpus=config.cpus):
        began, first, done = time.process_time(), 0.0, 0
        for records in dataflow.run_shards(config, fakes.HEAD, fakes.DETECTOR, bundled, lambda sentence: None):
            first, done = first or time.process_time(), done + (len(records) == CLIPS_A_SHARD)
        ended = time.process_time()
    assert done == shards
    return {
        "kind": "shards", "inputs": shards * CLIPS_A_SHARD, "shards": shards, "peak_mb": _mb(),
        "start_cpu_s": round(first - began, 1), "cpu_s": round(ended - first, 1),
        "ms_a_shard": round(1e3 * (ended - first) / (shards - 1), 2),
    }  # fmt: skip


def _uris(kind: str, count: int) -> Iterator[str]:
    return (f"s3://bucket/{kind}/{k % 256:02x}/{k:012}.mp4" for k in range(count))


def _mb() -> float:
    return round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024, 1)


def _case(kind: str, count: int) -> Iterator[dict[str, Any]]:
    with tempfile.TemporaryDirectory() as folder:
        for resumed in ("", "resumed") if kind in UNITS else ("",):
            words = [sys.executable, __file__, kind, str(count), folder, resumed]
            done = subprocess.run(words, check=True, stdout=subprocess.PIPE, text=True)
            yield json.loads(done.stdout.splitlines()[-1])


def main() -> None:
    if len(sys.argv) > 3:
        kind, count, folder, resumed = sys.argv[1:]
        if kind in UNITS:
            print(json.dumps(run(kind, int(count), folder, bool(resumed))))
        else:
            print(json.dumps(names(int(count)) if kind == "names" else ray(int(count), folder)))
        return
    cases = []
    for kind, count in [(sys.argv[1], int(sys.argv[2]))] if len(sys.argv) > 2 else EVERY:
        for case in _case(kind, count):
            print(case, flush=True)
            cases.append(case)
    if len(sys.argv) == 1:
        harness.write("driver", {"benchmark": "driver", "cases": cases, **harness.environment()})


if __name__ == "__main__":
    main()
