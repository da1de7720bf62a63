"""Bring the pictures of a row into one frame: the square around the source's face, 512 px, as `extract` cuts it.

Path: files -> `read_picture` -> whole pictures -> `Framing` -> crops of source, output, target and true frame.

Output and true frame are cut where the source's face is, so what an editor did to the framing counts. A picture of
another size is scaled to the source's; its proportions may differ by 3 %, as of editors that round to a multiple of 16
or 64 px. A target is cut around its own face.
"""

from functools import cache, lru_cache
from pathlib import Path

import numpy as np

from pipelines.edit.inputs import decode_confined
from pipelines.judge.asked_row import BadRow
from rigface.errors import BadInput
from rigface.face.detection.detector import Detector
from rigface.face.geometry import alignment
from rigface.types import CROP_PX

MAX_STRETCH = 0.03  # difference of an output's proportions from the source's
MAX_BYTES = 2**27  # of a picture's file
KEPT = 16  # pictures in memory


@lru_cache(maxsize=KEPT)
def read_picture(path: Path) -> np.ndarray:
    """(H, W, 3) uint8 of a file, decoded in a confined process; BadRow if it is none."""
    try:
        if not path.is_file():
            raise BadRow(f"{path.name}: there is no such file beside the table")
        if path.stat().st_size > MAX_BYTES:
            raise BadRow(f"{path.name}: larger than {MAX_BYTES / 2**20:.0f} MiB")
        return decode_confined(path.read_bytes())
    except BadInput as error:
        raise BadRow(f"{path.name}: {error.reason}") from None
    except OSError as error:
        raise BadRow(f"{path.name}: {error.strerror or error}") from None


class Framing:
    """Cuts pictures around the largest face that a detector finds."""

    def __init__(self, detector: Detector) -> None:
        self._square = cache(lambda path: self._find(detector, path))

    def around_own_face(self, path: Path) -> np.ndarray:
        """(512, 512, 3) uint8 around a picture's own face; BadRow if there is none."""
        return alignment.crop(read_picture(path), self._square(path))

    def around_face_of(self, source: Path, path: Path) -> np.ndarray:
        """(512, 512, 3) uint8 of a picture where the source's face is; BadRow for other proportions."""
        (height, width), own = read_picture(source).shape[:2], read_picture(path)
        across, down = width / own.shape[1], height / own.shape[0]
        if abs(across / down - 1) > MAX_STRETCH:
            raise BadRow(
                f"{path.name} is {own.shape[1]} x {own.shape[0]} px and its source {width} x {height}: want the "
                "source's framing. Pad or crop it, or name the crop that was edited as the source"
            )
        to_source = np.array([[across, 0, 0], [0, down, 0]])
        return alignment.crop(own, alignment.compose(np.asarray(self._square(source), np.float64), to_source))

    @staticmethod
    def _find(detector: Detector, path: Path) -> np.ndarray:
        found = detector(read_picture(path), second_look=True)
        found = [face for face in found if np.isfinite(face.box).all() and (face.box[2:] > face.box[:2]).all()]
        if not found:
            raise BadRow(f"{path.name}: no face was found")
        largest = max(found, key=lambda face: float(np.prod(face.box[2:] - face.box[:2])))
        return alignment.frame_to_crop(largest.box, CROP_PX)
