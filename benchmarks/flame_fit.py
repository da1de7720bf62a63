"""Faces per second of FLAME from landmarks, beyond the landmarker, and its error next to the open head's.

    python benchmarks/flame_fit.py [--folder FLAME] [--rounds 3]

Writes benchmarks/results/flame_fit.json. Timed as `fit.py`, with 100 shape and 50 expression coefficients and with all
400. Without --folder the head is the open head at 7,257 vertices in FLAME's files, so that the two fits have the same
faces to find; FLAME has 5,023 vertices. The limit is 4 ms a face on one core. `refine` is the time of one step of
`--refine`.
"""

import argparse
import json
import os
import tempfile

os.environ["OMP_NUM_THREADS"] = "1"  # before torch reads it

import harness
import numpy as np
import torch
from fit import faces_of_clip, timed

from rigface.face.reconstruction.reconstructor import FitReconstructor, load_reconstructor
from rigface.face.steps import reconstruct
from rigface.testing.official.flame import write_flame

SIZES = ((100, 50), (300, 100))
STEPS = 10  # of the refinement that is timed


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--folder", help="a folder of FLAME's files")
    parser.add_argument("--rounds", type=int, default=3)
    args = parser.parse_args()
    torch.set_num_threads(1)
    faces = faces_of_clip()
    track = np.zeros(len(faces), int)
    result = {"benchmark": "flame_fit", "faces": len(faces), "limit_ms": 4.0, "head": args.folder or "stand-in"}
    with tempfile.TemporaryDirectory() as stand_in:
        folder = args.folder or str(write_flame(stand_in, steps=2, texture=False))
        for shape, expression in SIZES:
            fit = load_reconstructor("fit", "flame", folder=folder, shape=shape, expression=expression)
            error = float(reconstruct(fit, faces, track).landmark_residual.mean())
            timing = timed(fit, faces, args.rounds) | {"landmark_residual_percent": round(100 * error, 4)}
            result[f"shape_{shape}_expression_{expression}"] = timing
        refined = load_reconstructor("fit", "flame", folder=folder, refine=STEPS)
    per_face = timed(refined, faces, 1)["one_track"]["best_ms"]
    result["refine_ms_per_step"] = round(per_face / STEPS, 3)
    own = reconstruct(FitReconstructor(), faces, track)
    result["open_head_residual_percent"] = round(100 * float(own.landmark_residual.mean()), 4)
    result |= harness.environment()
    harness.write("flame_fit", result)
    print(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
