"""Time, memory and exactness of `rigface identities` on made tracks, and what a million of them would take.

    python benchmarks/identities.py            two minutes of two cores

People are random directions, their tracks (1 to 10, three on average) lie around them as far as dlib's vectors of one
person do; some strangers are nearer than the threshold, as there. Three measurements:

* exactness: 20,000 tracks, against scipy's average linkage of all pairs in float64. Recall and precision are of the
  pairs of tracks that are given one person.
* the whole pass over a dataset of 100,000 tracks in 1,000 objects, from reading to the written table, in a process of
  its own; then a pass with 1,000 new tracks, and one with none.
* a million: the clustering times 100, the rest and the memory times 10. On 16 cores the products are shared by all, the
  rest runs on one.

Processor seconds of all threads, so that a busy machine disturbs little. Writes benchmarks/results/identities.json.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import harness
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

EXACT, TRACKS, NEW = 20_000, 100_000, 1_000
OBJECTS = 1_000
SPREAD = 0.42  # of a person's tracks, RMS distance from the person; two tracks are 0.59 apart
WANTED = 1_000_000
CORES = 16


def tracks(count: int, seed: int = 0) -> np.ndarray:
    """(count, 128) float32 mean vectors of tracks, shuffled."""
    from rigface.face.identity.dlib_embedding import _mean_face

    random = np.random.default_rng(seed)
    sizes = np.minimum(random.geometric(1 / 3, count), 10)
    who = np.repeat(np.arange(count), sizes)[:count]
    people = random.normal(size=(who.max() + 1, 128))
    # Faces have much in common: the first 40 axes hold most of what differs, so that some strangers are near.
    people[:, 40:] *= 0.3
    people /= np.linalg.norm(people, axis=1, keepdims=True)
    directions = people[who] + SPREAD / np.sqrt(128) * random.normal(size=(count, 128))
    return random.permutation(0.8 * directions + _mean_face()).astype(np.float32)


def exactness() -> dict[str, float]:
    """Pairs of tracks that are one person here and by all pairs in float64."""
    from scipy.cluster.hierarchy import fcluster, linkage
    from scipy.spatial.distance import pdist

    from rigface.face.identity.dlib_embedding import cluster_identities, cluster_threshold, unit_vectors

    vectors = tracks(EXACT)
    ours, _ = cluster_identities(vectors)
    tree = linkage(pdist(unit_vectors(vectors), "sqeuclidean"), "average")
    exact = fcluster(tree, cluster_threshold(128) ** 2, "distance")

    def pairs(labels: np.ndarray) -> int:
        counts = np.unique(labels, return_counts=True)[1]
        return int((counts * (counts - 1) // 2).sum())

    both = pairs(ours.astype(np.int64) * (exact.max() + 1) + exact)
    return {
        "tracks": EXACT, "people": len(np.unique(ours)), "people_exact": len(np.unique(exact)),
        "recall": both / pairs(exact), "precision": both / pairs(ours),
    }  # fmt: skip


def dataset(out: Path, vectors: np.ndarray, objects: int, name: str) -> None:
    """Faces of these tracks, two rows with a vector each, an input per track; and the rows of the inputs."""
    uris = [f"/videos/{name}/{k:08}.mp4" for k in range(len(vectors))]
    for part, of in enumerate(np.array_split(np.arange(len(vectors)), objects)):
        rows = np.repeat(of, 2)
        flat = pa.array(vectors[rows].ravel())
        table = pa.table(
            {
                "uri": [uris[k] for k in rows],
                "frame_index": pa.array(np.arange(len(rows)) % 2, pa.int32()),
                "track": pa.array(np.zeros(len(rows)), pa.int32()),
                "identity_vector": pa.FixedSizeListArray.from_arrays(flat, 128),
            },
            metadata=SCHEMA,
        )
        path = out / "faces" / f"{part % 256:02x}" / f"{name}{part}.parquet"
        path.parent.mkdir(parents=True, exist_ok=True)
        pq.write_table(table, path, row_group_size=2)  # a row group per input, as `extract` writes
    (out / "inputs").mkdir(exist_ok=True)
    pq.write_table(pa.table({"uri": uris, "tracks": [1] * len(uris)}), out / "inputs" / f"{name}.parquet")


SCHEMA = {"rigface.detector": json.dumps({"name": "made", "version": "", "landmarks": 0, "blendshape_names": []})}


def pass_over(out: Path) -> dict[str, float]:
    """One pass in a process of its own."""
    done = subprocess.run([sys.executable, __file__, str(out)], capture_output=True, text=True, check=True)
    return json.loads(done.stdout.splitlines()[-1])


def run(out: str) -> None:
    """The body of that process: print one line of JSON."""
    from pipelines.extract import identities
    from rigface.storage.store import Store

    spent = {"clustering_s": 0.0}

    def timed(*arguments: object, really=identities.cluster_vectors, **options: object) -> object:  # type: ignore[no-untyped-def]
        began = time.process_time()
        try:
            return really(*arguments, **options)
        finally:
            spent["clustering_s"] += time.process_time() - began

    identities.cluster_vectors = timed  # type: ignore[assignment]
    began, before = time.process_time(), harness.peak_gb()
    report = identities.identify(Store(out))
    spent |= {"all_s": time.process_time() - began, "gb": harness.peak_gb() - before}
    print(json.dumps(spent | {"tracks": report.tracks, "people": report.people, "added": report.added}))


def main() -> None:
    if len(sys.argv) > 1:
        run(sys.argv[1])
        return
    result: dict = {"benchmark": "identities", "exactness": exactness()}
    print(json.dumps(result), flush=True)
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder)
        dataset(out, tracks(TRACKS), OBJECTS, "first")
        result["first"] = first = pass_over(out)
        dataset(out, tracks(NEW, seed=1), NEW // 100, "second")
        result["new"], result["none"] = pass_over(out), pass_over(out)
    clustering, rest = first["clustering_s"] * (WANTED / TRACKS) ** 2, (first["all_s"] - first["clustering_s"])
    rest *= WANTED / TRACKS
    result["a million, extrapolated"] = {
        "core_hours": (clustering + rest) / 3600,
        f"minutes_on_{CORES}_cores": (clustering / CORES + rest) / 60,
        "gb": first["gb"] * WANTED / TRACKS,
        "limit_minutes": 60,
    }
    result |= harness.environment()
    harness.write("identities", result)
    print(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
