"""The refiner beside the preview, on pairs of frames of people it never learned from, against the true frame.

    python benchmarks/refiner.py CLIP...        one person a clip

A frame is edited to the pose, expression and light of another frame of its clip. Measured in the refiner's tight crop,
by region, in the mean of each person: PSNR; landmarks by MediaPipe in percent of the outer-eye distance; distance of
dlib's vectors; sharpness of the skin relative to the true frame. PSNR rewards blur, so the preview blurred by
1.2 px, the best of four widths, stands beside. Neither network is in the loss; the conditions are fitted to MediaPipe's
landmarks.
"""

import argparse
from pathlib import Path

import cv2
import numpy as np
import torch

from benchmarks import harness
from pipelines.refine.examples import ExampleComposer, RefinerExample
from rigface.assets import find
from rigface.face.analyzer import FaceAnalyzer
from rigface.face.geometry.landmarks import LIPS
from rigface.face.identity.dlib_embedding import DlibIdentity
from rigface.refiner.preview_refiner import PreviewRefiner
from rigface.refiner.regions import OUTER_LIPS, REGIONS
from rigface.video.decode import read_frames

EVERY, FRAMES, TARGETS = 10, 12, 3  # every tenth frame, at most twelve; every third of those is a target
JUDGED_PX = 512
MIN_PIXELS = 30
EYES = (33, 263)
BLUR_PX = 1.2
LIMITS = {"mouth and eyes": 1.0, "face": 0.3, "rim": 0.3}  # dB above the preview


class Judge:
    """Distances of crops to the true frame."""

    def __init__(self, analyzer: FaceAnalyzer) -> None:
        self._detector, self._identity = analyzer.detector, DlibIdentity()

    def __call__(self, picture: np.ndarray, example: RefinerExample) -> dict[str, float]:
        """Measures of one picture (S, S, 3), [0, 255]; without a face those of pixels alone."""
        squares = np.square(picture - example.target.astype(np.float32)).mean(2)
        masks = {name: example.regions == k for k, name in enumerate(REGIONS) if name in ("rim", "eyes", "mouth")}
        masks["mouth and eyes"] = example.regions >= REGIONS.index("eyes")
        masks["face"] = example.regions >= REGIONS.index("face")
        shown = {name: mask for name, mask in masks.items() if mask.sum() > MIN_PIXELS}
        measures = {name: float(-10 * np.log10(squares[m].mean() / 255**2 + 1e-9)) for name, m in shown.items()}
        skin = example.regions == REGIONS.index("face")
        measures["sharpness"] = _sharpness(picture, skin) / max(_sharpness(example.target, skin), 1e-3)
        true, seen = (self._face(p) for p in (example.target.astype(np.float32), picture))
        if true is not None and seen is not None:
            eyes = np.linalg.norm(np.subtract(*true[0][list(EYES)]))
            apart = np.linalg.norm(true[0] - seen[0], axis=1) / eyes * 100
            measures |= {"landmarks, %": float(apart.mean()), "lips, %": float(apart[[*LIPS, *OUTER_LIPS]].mean())}
            measures["identity"] = float(np.linalg.norm(true[1] - seen[1]))
        return measures

    def _face(self, picture: np.ndarray) -> tuple[np.ndarray, np.ndarray] | None:
        large = cv2.resize(picture, (JUDGED_PX, JUDGED_PX), interpolation=cv2.INTER_CUBIC)
        image = (large + 0.5).clip(0, 255).astype(np.uint8)
        found = self._detector(image)
        vector = self._identity(image, found[0]) if found else None
        return None if vector is None else (found[0].landmarks[:468, :2], vector)


def _sharpness(picture: np.ndarray, mask: np.ndarray) -> float:
    grey = cv2.cvtColor(picture.clip(0, 255).astype(np.uint8), cv2.COLOR_RGB2GRAY)
    return float(cv2.Laplacian(grey, cv2.CV_32F)[mask].var())


def pairs(clip: Path, composer: ExampleComposer, analyzer: FaceAnalyzer) -> list[RefinerExample]:
    """Examples of a clip: each target from the frame whose expression differs most."""
    images = [f.image for k, f in enumerate(read_frames(str(clip))) if k % EVERY == 0][:FRAMES]
    faces = [found[0] for image in images if len(found := analyzer(image)) == 1]
    if len(faces) < 2:
        return []
    codes = np.stack([face.params.expression for face in faces])
    sources = [int(np.abs(codes - codes[t]).sum(1).argmax()) for t in range(0, len(faces), TARGETS)]
    chosen = zip(sources, range(0, len(faces), TARGETS))
    return [composer.pair(faces[s], faces[t]) for s, t in chosen if s != t]


def main() -> None:
    """Measure, print, and write the results file."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("clips", type=Path, nargs="+")
    parser.add_argument("--refiner", type=Path, help="folder of weights; default: those that ship")
    args = parser.parse_args()
    cv2.setNumThreads(1)
    torch.set_num_threads(1)
    refiner = PreviewRefiner.load(args.refiner or find("refiner"))
    analyzer = FaceAnalyzer.load()
    composer, judge = ExampleComposer(refiner.config.size), Judge(analyzer)
    people: list[dict[str, list[tuple[float, float, float]]]] = []
    for clip in args.clips:
        measured: dict[str, list[tuple[float, float, float]]] = {}
        for example in pairs(clip, composer, analyzer):
            preview = example.inputs.preview.astype(np.float32)
            before, blurred = judge(preview, example), judge(cv2.GaussianBlur(preview, (0, 0), BLUR_PX), example)
            after = judge(refiner.refine(example.inputs), example)
            for name in before.keys() & after.keys() & blurred.keys():
                measured.setdefault(name, []).append((before[name], after[name], blurred[name]))
        if measured:
            people.append(measured)
    names = ("mouth and eyes", "mouth", "eyes", "face", "rim", "landmarks, %", "lips, %", "identity", "sharpness")
    table = {}
    for name in names:
        means = np.array([np.mean(person[name], axis=0) for person in people if name in person])
        change = means[:, 1] - means[:, 0]
        higher = name not in ("landmarks, %", "lips, %", "identity")
        table[name] = {
            "preview": round(float(means[:, 0].mean()), 3), "refiner": round(float(means[:, 1].mean()), 3),
            "blurred_preview": round(float(means[:, 2].mean()), 3),
            "change": round(float(change.mean()), 3),
            "standard_error": round(float(change.std() / np.sqrt(len(change))), 3),
            "people_better": int(((change > 0) == higher).sum()), "people": len(change),
        }  # fmt: skip
        print(f"{name:16}", table[name], flush=True)
    pairs_count = sum(len(person["face"]) for person in people)
    harness.write("refiner", {**table, "pairs": pairs_count, "limits_db": LIMITS, **harness.environment()})


if __name__ == "__main__":
    main()
