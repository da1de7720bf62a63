"""InsightFace's SCRFD and 106 landmarks as a Detector; needs a model pack.

Path: Frame.image -> InsightfaceDetector -> [Detection]. `arcface.py` computes identity vectors.
Source: Guo et al., "Sample and Computation Redistribution for Efficient Face Detection" (SCRFD), ICLR 2022; run by
the `insightface` library on onnxruntime, from a folder like `buffalo_l` (det_10g, 2d106det, w600k_r50). Nothing is
downloaded: files are given to the library by path. The packs' weights are for non-commercial research only, so none
ship here, and the tests cover everything around them.

Conventions: the library's landmarks come from OpenCV's warp, whose pixel centres are whole numbers; half a pixel is
added. The 106 points end at the brows, where MediaPipe's end at the hairline; `box` joins theirs with SCRFD's own,
which has the forehead, so that `alignment` frames the same head. There is no depth (z is 0) and there are no
expression scores, which the open head is fitted to: for it `scrfd.py` shows each face to MediaPipe's landmarker. By
itself this detector serves tracking, identity and masks, or a reconstructor that needs neither.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from rigface import assets
from rigface.errors import MissingAsset
from rigface.face.detection.boxes import iou, landmark_box, non_maximum_suppression, overlaps_any, tile_grid
from rigface.face.detection.detector import check_image
from rigface.types import Detection, DetectorSpec

TASKS = ("detection", "landmark_2d_106")
UNUSED = {"1k3d68.onnx", "genderage.onnx"}  # large, slow to load, not needed
TILE_PX = 1280  # SCRFD sees a tile as 640 px and finds faces from about 10 px in it


class InsightfaceDetector:
    """Detector with a model pack. Not for use by several threads at once.

    Args:
        folder: the pack's folder, or an assets folder; None looks in `RIGFACE_ASSETS`.
        faces: at most this many per look, the largest and most central; 0: all.
        small_faces: take the second look at every image, not only if the plain look finds no face.
        tiles: maximum number of tiles of one second look.
        size: side of SCRFD's input, a multiple of 32; networks exported for one size keep theirs.
        with_landmarks: False: boxes are SCRFD's own, `Detection.landmarks` is None, and 2d106det is not needed.
        device: `cpu` or `cuda`.

    Raises:
        MissingAsset: no pack, or it lacks a network.
    """

    def __init__(
        self,
        folder: str | Path | None = None,
        *,
        faces: int = 0,
        small_faces: bool = False,
        tiles: int = 60,
        size: int = 640,
        with_landmarks: bool = True,
        device: str = "cpu",
    ) -> None:
        path = assets.find("insightface_pack", folder)
        wanted = TASKS if with_landmarks else TASKS[:1]
        models, files = load_pack(path, device, wanted)
        if missing := [task for task in wanted if task not in models]:
            raise MissingAsset(
                f"the pack in {path} has no {' and no '.join(missing)}; {assets.ASSETS['insightface_pack'].how}"
            )
        self._detection, self._landmark = models["detection"], models.get("landmark_2d_106")
        self._detection.prepare(-1 if device == "cpu" else 0, input_size=(size, size))
        self._faces, self._small_faces, self._tile_limit = faces, small_faces, tiles
        version = "+".join(f"{files[t].stem}-{assets.fingerprint(files[t])}" for t in wanted)
        self.spec = DetectorSpec("insightface", version, 106 if with_landmarks else 0)

    def __call__(
        self, image: np.ndarray, *, second_look: bool | None = None, before: Sequence[Detection] = ()
    ) -> list[Detection]:
        """See `Detector`. Scores are SCRFD's own and always fresh: they cost nothing."""
        check_image(image)
        bgr = np.ascontiguousarray(image[..., ::-1])
        height, width = image.shape[:2]
        found = self._look(bgr, 0, 0, width, height)
        for lost in before:
            if not overlaps_any(lost.box, found):
                near = [f for f in self._around(bgr, lost.box) if iou(f.box, lost.box[None])[0] > 0.2]
                found += [f for f in near if not overlaps_any(f.box, found)][:1]
        if self._small_faces or not found if second_look is None else second_look:
            for x, y, side in tile_grid(height, width, TILE_PX, self._tile_limit):
                found += self._look(bgr, x, y, side, side)
        return non_maximum_suppression(found)

    def _around(self, bgr: np.ndarray, box: np.ndarray) -> list[Detection]:
        side = int(3 * max(box[2] - box[0], box[3] - box[1], 16))
        left, top = (int(v - side / 2) for v in (box[:2] + box[2:]) / 2)
        left, top = min(max(left, 0), bgr.shape[1] - 1), min(max(top, 0), bgr.shape[0] - 1)
        return self._look(bgr, left, top, side, side)

    def _look(self, bgr: np.ndarray, x: int, y: int, width: int, height: int) -> list[Detection]:
        """Faces in a rectangle of the image, in px of the image."""
        from insightface.app.common import Face

        part = bgr[y : y + height, x : x + width]
        boxes, _ = self._detection.detect(part, max_num=self._faces)
        out = []
        for *box, score in boxes.astype(np.float32):
            corners, sure = np.array(box, np.float32) + np.array([x, y, x, y], np.float32), float(np.clip(score, 0, 1))
            if self._landmark is None:
                out.append(Detection(corners, None, sure))
                continue
            points = self._landmark.get(part, Face(bbox=np.array(box, np.float32)))
            landmarks = np.zeros((len(points), 3), np.float32)
            landmarks[:, :2] = points[:, :2] + 0.5 + np.array([x, y], np.float32)
            own = landmark_box(landmarks)
            whole = np.concatenate([np.minimum(own[:2], corners[:2]), np.maximum(own[2:], corners[2:])])
            out.append(Detection(whole, landmarks, sure))
        return out


def load_pack(folder: Path, device: str, wanted: Sequence[str]) -> tuple[dict[str, Any], dict[str, Path]]:
    """Networks of these tasks and their files, by task; missing ones are left out."""
    import onnxruntime
    from insightface.model_zoo import get_model

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1  # one process per core is running already
    options.log_severity_level = 3
    providers = ["CUDAExecutionProvider"] * (device == "cuda") + ["CPUExecutionProvider"]
    models: dict[str, Any] = {}
    files: dict[str, Path] = {}
    for file in sorted(folder.glob("*.onnx")):
        if file.name in UNUSED or len(models) == len(wanted):
            continue
        model = get_model(str(file), providers=providers, sess_options=options)
        task = getattr(model, "taskname", "")
        if task in wanted and task not in models:
            models[task], files[task] = model, file
    return models, files
