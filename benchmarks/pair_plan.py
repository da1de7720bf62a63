"""Memory and time of planning the pairs of a large dataset, on made rows, and what ten million faces would take.

    python benchmarks/pair_plan.py [--faces 100000 1000000]       three minutes of one core

Each size is planned in a process of its own, with the settings of `rigface pair`: inputs of 100 faces of one person,
five inputs an object, three inputs a person. The peak is that of the resident memory; what it grows by from the smaller
to the larger size is what further faces cost, and is extrapolated. Writes benchmarks/results/pair_plan.json.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import harness
import numpy as np
import pyarrow.parquet as pq

INPUT, INPUTS, PERSON = 100, 5, 3  # faces of an input, inputs of an object, inputs of a person
WANTED, LIMIT_GB = 10_000_000, 4


def dataset(out: Path, faces: int) -> None:
    """Rows of faces with the columns that pairing reads."""
    import pyarrow as pa

    from pipelines.examples.frame_index import GATES
    from rigface import schema
    from rigface.face.head.open_head import OpenHead
    from rigface.types import DetectorSpec

    head, random = OpenHead.load().spec, np.random.default_rng(0)
    wanted = schema.faces_schema(head, DetectorSpec("made", "", 478))
    rows = INPUT * INPUTS
    vectors: list[np.ndarray | None] = [None] * rows
    vectors[::50] = [np.zeros(128, np.float32)] * (rows // 50)
    fixed = {"frame_to_crop": schema.column(np.tile(np.float32([1, 0, 0, 0, 1, 0]), (rows, 1)), 6)}
    fixed |= {name: pa.array(np.full(rows, 200 if name == "face_size_px" else 0.9, np.float32)) for name in GATES}
    fixed["identity_vector"] = schema.column(vectors, 128)
    names = []
    for part in range(faces // rows):
        uris = [f"s3://bucket/videos/{part * INPUTS + k:012}.mp4" for k in range(INPUTS)]
        columns = fixed | {
            "uri": np.repeat(uris, INPUT).tolist(),
            "frame_index": np.tile(np.arange(INPUT), INPUTS).tolist(),
            "track": [0] * rows,
            "status": ["ok"] * rows,
            "head_rotation": schema.column(random.normal(0, 0.25, (rows, 3)).astype(np.float32), 3),
            "expression": schema.column(
                random.uniform(0, 0.6, (rows, head.expression)).astype(np.float32), head.expression
            ),
            "light": schema.column(random.normal(0.5, 0.1, (rows, 27)).astype(np.float32), 27),
        }
        path = out / "faces" / f"{part % 256:02x}" / f"{part:08x}.parquet"
        path.parent.mkdir(parents=True, exist_ok=True)
        table = schema.table_of(columns, wanted)
        pq.write_table(table, path, row_group_size=INPUT, compression="none", use_dictionary=["uri", "status"])
        names += [(uri, 0, f"p{(part * INPUTS + k) // PERSON:012}") for k, uri in enumerate(uris)]
    (out / "identities").mkdir()
    uri, track, identity = zip(*names)
    table = pa.table({"uri": uri, "track": pa.array(track, pa.int32()), "identity": identity})
    pq.write_table(table, out / "identities" / "all.parquet")


def plan(out: str) -> None:
    """The body of a process: print one line of JSON."""
    from pipelines.examples.config import PairSettings
    from pipelines.examples.pair_plan import plan_pairs
    from rigface.dataset.faces import Faces

    began = time.process_time()
    made = plan_pairs(Faces(out), PairSettings().resolved(), lambda words: print(words, file=sys.stderr))
    result = {"peak_gb": harness.peak_gb(), "cpu_s": time.process_time() - began, "pairs": made.report.pairs}
    print(json.dumps(result | {"candidates": made.report.candidates, "examples": len(made.examples)}))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--faces", type=int, nargs=2, default=[100_000, 1_000_000])
    parser.add_argument("--plan", default="", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.plan:
        plan(options.plan)
        return
    result: dict = {"benchmark": "pair_plan"}
    for faces in options.faces:
        with tempfile.TemporaryDirectory() as folder:
            dataset(Path(folder), faces)
            command = [sys.executable, __file__, "--plan", folder]
            lines = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout.splitlines()
        result[f"{faces} faces"] = json.loads(lines[-1])
        print(lines[-1], flush=True)
    small, large = (result[f"{faces} faces"] for faces in options.faces)
    steps = (WANTED - options.faces[1]) / (options.faces[1] - options.faces[0])
    result[f"{WANTED} faces, extrapolated"] = {
        name: large[name] + steps * (large[name] - small[name]) for name in ("peak_gb", "cpu_s")
    } | {"limit_gb": LIMIT_GB}  # fmt: skip
    result |= harness.environment()
    harness.write("pair_plan", result)
    print(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
