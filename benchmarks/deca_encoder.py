"""DECA's coarse encoder, from 512 px crops to codes: in batches, against one crop at a time as its authors do it.

    python benchmarks/deca_encoder.py [--rounds 3]

Writes benchmarks/results/deca_encoder.json. Random weights; processor seconds of one thread over the shipped clip's
faces. The authors' way: scikit-image's warp of the whole picture in float64, then the network with its batch norms on
one crop. Ours: the crops warped in float32, batches of 8, folded batch norms, channels last; in float32, whose codes
are the authors' to 1e-4, and in bfloat16 (`--half`). The limit is twice the speed.
"""

import argparse
import copy
import json
import os
import time
from collections.abc import Callable
from statistics import median

os.environ["OMP_NUM_THREADS"] = "1"  # before torch reads it

import harness
import numpy as np
import torch
from skimage.transform import SimilarityTransform, warp

from rigface.face.detection.factory import load_detector
from rigface.face.geometry import official_crops
from rigface.face.geometry.landmarks import sixty_eight
from rigface.face.networks.deca import CoarseEncoder
from rigface.face.networks.weight_files import fold_batch_norms, halve
from rigface.face.reconstruction.network_reconstructor import BATCH
from rigface.face.steps import align
from rigface.video.decode import read_frames

FACES = 16


def one_at_a_time(network: CoarseEncoder, crops: list[np.ndarray], squares: np.ndarray) -> torch.Tensor:
    """The authors' way."""
    codes = []
    for crop, affine in zip(crops, official_crops.square_affine(squares)):
        forward = SimilarityTransform(matrix=np.vstack([affine, [0, 0, 1]]))
        size = (official_crops.FLAME_PX, official_crops.FLAME_PX)
        picture = warp(crop / 255.0, forward.inverse, output_shape=size)
        with torch.no_grad():
            codes.append(network(torch.from_numpy(picture.transpose(2, 0, 1)).float()[None]))
    return torch.cat(codes)


def in_batches(network: CoarseEncoder, crops: list[np.ndarray], squares: np.ndarray) -> torch.Tensor:
    """Ours."""
    codes = []
    with torch.inference_mode():
        for start in range(0, len(crops), BATCH):
            part = slice(start, start + BATCH)
            codes.append(network(official_crops.flame_crops(crops[part], squares[part], official_crops.DECA)))
    return torch.cat(codes)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=3)
    rounds = parser.parse_args().rounds
    torch.set_num_threads(1)
    torch.manual_seed(0)
    detector = load_detector("mediapipe")
    pairs = [
        (frame.image, detector(frame.image)[0]) for _, frame in zip(range(FACES), read_frames(str(harness.CLIP), None))
    ]
    faces = align([image for image, _ in pairs], [face for _, face in pairs])
    crops = list(faces.crops)
    squares = official_crops.square_around(sixty_eight(faces.landmarks)[..., :2] - 0.5, official_crops.DECA)
    plain = CoarseEncoder().eval()
    folded = copy.deepcopy(plain)
    fold_batch_norms(folded)
    folded = folded.to(memory_format=torch.channels_last)
    ways: dict[str, Callable[[], torch.Tensor]] = {
        "one_at_a_time": lambda: one_at_a_time(plain, crops, squares),
        "float32": lambda: in_batches(folded, crops, squares),
        "bfloat16": lambda: in_batches(halved, crops, squares),
    }
    halved = halve(copy.deepcopy(folded))
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    codes = {}
    for _ in range(rounds):  # in turns: the machine's speed changes
        for name, way in ways.items():
            start = time.process_time()
            codes[name] = way()
            seconds[name].append((time.process_time() - start) / len(crops))
    result: dict[str, object] = {"benchmark": "deca_encoder", "faces": len(crops), "batch": BATCH, "limit": 2.0}
    base = median(seconds["one_at_a_time"])
    for name, times in seconds.items():
        off = (codes[name] - codes["one_at_a_time"]).abs().max() / codes["one_at_a_time"].abs().max()
        result[name] = {
            "ms_per_face": round(1e3 * median(times), 1),
            "times_as_fast": round(base / median(times), 2),
            "relative_error": float(f"{off:.1e}"),
        }
    result |= harness.environment()
    harness.write("deca_encoder", result)
    print(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
