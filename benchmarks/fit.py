"""Faces per second of the closed-form fit, beyond the landmarker: shape, expression, pose, camera, albedo and light.

    python benchmarks/fit.py [--rounds 10]

Writes benchmarks/results/fit.json. Timed in processor seconds of one thread over the shipped clip's faces, as one
track and as strangers. The limit is 3 ms a face on one core.
"""

import argparse
import json
import os
import time
from statistics import median

os.environ["OMP_NUM_THREADS"] = "1"  # before torch reads it

import harness
import numpy as np
import torch

from rigface.face.detection.factory import load_detector
from rigface.face.reconstruction.protocol import Reconstructor
from rigface.face.reconstruction.reconstructor import FitReconstructor
from rigface.face.steps import AlignedFaces, align, reconstruct
from rigface.video.decode import read_frames


def faces_of_clip() -> AlignedFaces:
    """All faces of the shipped clip."""
    detector = load_detector("mediapipe")
    pairs = [(frame.image, face) for frame in read_frames(str(harness.CLIP), None) for face in detector(frame.image)]
    return align([image for image, _ in pairs], [face for _, face in pairs])


def timed(reconstructor: Reconstructor, faces: AlignedFaces, rounds: int) -> dict[str, dict[str, float]]:
    """Processor time of a face, as one track and as strangers; the first round is left out."""
    count, result = len(faces), {}
    for name, tracks in (("one_track", np.zeros(count, int)), ("strangers", np.arange(count))):
        times = []
        for _ in range(rounds + 1):
            start = time.process_time()
            reconstruct(reconstructor, faces, tracks)
            times.append((time.process_time() - start) / count)
        result[name] = {"ms_per_face": round(1e3 * median(times[1:]), 3), "best_ms": round(1e3 * min(times[1:]), 3)}
        result[name]["faces_per_s"] = round(1 / median(times[1:]), 1)
    return result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=10)
    rounds = parser.parse_args().rounds
    torch.set_num_threads(1)
    faces = faces_of_clip()
    result = {"benchmark": "fit", "faces": len(faces), "limit_ms": 3.0}
    result |= timed(FitReconstructor(), faces, rounds) | harness.environment()
    harness.write("fit", result)
    print(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
