"""ArcFace identity vectors (512 numbers), by the network of an InsightFace model pack.

Path: a track's frames -> FramePicker(cut=ArcFace.chip) -> ArcFace.embed -> mean per track -> cluster_identities.
Source: Deng et al., "ArcFace", CVPR 2019; the `insightface` library's alignment (a similarity to five points of a 112
px template) and its runner of the network on onnxruntime. The packs' weights are for non-commercial research only, so
none ship here, and the tests cover everything around them.

Deviates: the eyes' points are the middles of their corners, in every layout of landmarks, while ArcFace was trained
on points set by hand on the eyes; a gaze to the side does not turn the picture.
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from rigface import assets
from rigface.errors import MissingAsset
from rigface.face.detection.insightface import load_pack
from rigface.face.geometry.landmarks import five_points
from rigface.types import Detection

CHIP_PX = 112
WIDTH = 512


class ArcFace:
    """ArcFace's 512 numbers per face, scaled to length 1; compare by cosine.

    The pack is in `folder`, or an assets folder; MissingAsset if there is none, or none with a network of 512 numbers.
    """

    width = WIDTH

    def __init__(self, folder: str | Path | None = None, device: str = "cpu") -> None:
        path = assets.find("insightface_pack", folder)
        models, files = load_pack(path, device, ("recognition",))
        found = models["recognition"].output_shape[-1] if "recognition" in models else 0
        if isinstance(found, int) and found != WIDTH:  # a network exported for any batch may have a name instead
            raise MissingAsset(f"the pack in {path} has no recognition network of {WIDTH} numbers (w600k_r50.onnx)")
        self._network = models["recognition"]
        self.version = f"arcface-{files['recognition'].stem}-{assets.fingerprint(files['recognition'])}"

    def __call__(self, image: np.ndarray, detection: Detection) -> np.ndarray | None:
        """The identity vector (512,) of one face of an image; None if the landmarks have no extent."""
        chip = self.chip(image, detection.landmarks)
        return None if chip is None else np.asarray(self.embed([chip])[0])

    def chip(self, image: np.ndarray, landmarks: np.ndarray) -> np.ndarray | None:
        """The upright (112, 112, 3) uint8 input of the network; None if the landmarks have no extent.

        The image is (H, W, 3) uint8 RGB, the landmarks (L, 2+) are in its px, in a layout of `landmarks.LAYOUTS`.
        """
        from insightface.utils.face_align import norm_crop

        points = five_points(landmarks)
        if not np.isfinite(points).all() or np.linalg.norm(points[0] - points[1]) < 2:
            return None
        return np.asarray(norm_crop(image, points - 0.5, CHIP_PX))  # OpenCV's pixel centres are whole numbers

    def embed(self, chips: Sequence[np.ndarray]) -> np.ndarray:
        """Identity vectors of chips: (N, 512) float32 of length 1."""
        if not len(chips):
            return np.zeros((0, WIDTH), np.float32)
        out = np.concatenate([self._network.get_feat(np.ascontiguousarray(chip[..., ::-1])) for chip in chips])
        return np.asarray((out / np.maximum(np.linalg.norm(out, axis=1, keepdims=True), 1e-9)).astype(np.float32))
