"""A second identity network, of the user's own: an ONNX file of the ArcFace family (ArcFace, MobileFaceNet).

Path: five points -> upright 112 px face -> the network -> vector of length 1.
Source: Deng et al., "ArcFace", CVPR 2019, and Chen et al., "MobileFaceNets", 2018; the alignment is the `insightface`
library's. Weights that are known are for non-commercial research, so none ships.
"""

from pathlib import Path

import numpy as np

from rigface import assets
from rigface.errors import MissingAsset
from rigface.judges.network import load_network

SIDE_PX = 112


class OnnxIdentity:
    """Identity vectors by a network that takes aligned RGB faces (1, 3, 112, 112) in [-1, 1]; compare by cosine.

    Its columns are named after its file (`w600k_mbf.onnx` -> `w600k_mbf`). MissingAsset if the file cannot be read.
    """

    def __init__(self, path: str | Path) -> None:
        path = Path(path)
        if not path.is_file():
            raise MissingAsset(f"{path} is no file; want the ONNX file of an identity network")
        self.name = "".join(c if c.isalnum() else "_" for c in path.stem).lower()
        self.version = f"{path.stem}-{assets.fingerprint(path)}"
        self._network = load_network(path)

    def __call__(self, image: np.ndarray, points: np.ndarray) -> np.ndarray | None:
        """(D,) float32 of length 1, of the face with these (5, 2) px of the (H, W, 3) uint8 RGB image.

        None if the points have no extent.
        """
        from insightface.utils.face_align import norm_crop

        if not np.isfinite(points).all() or np.linalg.norm(points[0] - points[1]) < 2:
            return None
        face = norm_crop(image, points.astype(np.float32) - 0.5, SIDE_PX)  # OpenCV's pixel centres are whole numbers
        (vectors,) = self._network(face.transpose(2, 0, 1)[None].astype(np.float32) / 127.5 - 1)
        vector = vectors.reshape(-1)
        return np.asarray(vector / max(float(np.linalg.norm(vector)), 1e-9), np.float32)
