"""Background of a shot: gathered from its frames, and what no frame has shown is filled in once.

Path: frames and the tracked face -> BackgroundPlate -> `warp.py`, in place of a background filled in frame by frame.

A filling of each frame alone would flicker. The plate keeps what it guessed until a frame shows what is there. If the
camera moves or the scene changes it starts anew; if it does so frame after frame, only averages are filled in, which
flicker least.
"""

import cv2
import numpy as np

from rigface.face.geometry import alignment
from rigface.face.preview.inpainting import fill_background, hole_of
from rigface.types import CROP_PX, Face

NEW = 0.2  # weight of the newest frame where the background is seen: noise averages out, light may change
OTHER_SCENE = 6.0  # grey levels: mean difference of what is seen from the plate, at 64 px a side
RESTLESS = 5  # frames after a new start during which another means a moving camera
SEEN, GUESSED = 2, 1
SMALL_PX = 64


class BackgroundPlate:
    """The background behind one tracked face."""

    def __init__(self) -> None:
        self._plate = np.zeros((0, 0, 3), np.uint8)
        self._state = np.zeros((0, 0), np.uint8)
        self._age, self._is_restless = 0, False

    def __call__(self, image: np.ndarray, face: Face) -> np.ndarray:
        """Take the next frame (H, W, 3) uint8; the frame without the person, (H, W, 3) uint8, valid in its crop."""
        side = max(round(CROP_PX / float(face.frame_to_crop[0, 0])), 2)
        hole = hole_of(cv2.resize(face.mask, (side, side), interpolation=cv2.INTER_AREA))
        free = np.full(image.shape[:2], 255, np.uint8)
        left, top = (round(float(v)) for v in alignment.invert(face.frame_to_crop)[:, 2])
        rows, columns = (slice(max(at, 0), max(at + side, 0)) for at in (top, left))
        part = free[rows, columns]
        part[:] = 255 - hole[max(-top, 0) :, max(-left, 0) :][: part.shape[0], : part.shape[1]]
        free = free == 255
        self._age += 1
        if self._plate.shape != image.shape or self._is_elsewhere(image, free):
            self._is_restless = 0 < self._age < RESTLESS and self._plate.shape == image.shape
            self._plate, self._state, self._age = image.copy(), np.zeros(image.shape[:2], np.uint8), 0
        newer = cv2.addWeighted(self._plate, 1 - NEW, image, NEW, 0)
        np.copyto(self._plate, np.where((self._state == SEEN)[..., None], newer, image), where=free[..., None])
        self._state[free] = SEEN
        if (self._state[rows, columns] == 0).any():
            self._guess(face, side, (rows, columns), (max(-top, 0), max(-left, 0)))
        return self._plate

    def _guess(self, face: Face, side: int, where: tuple[slice, slice], start: tuple[int, int]) -> None:
        """Fill what was never seen in the crop at `where`, whose first pixel is at `start` of the square."""
        to_square = face.frame_to_crop * (side / CROP_PX)
        picture = alignment.crop(self._plate, to_square, side)
        unseen = alignment.crop(np.where(self._state == SEEN, 0, 255).astype(np.uint8), to_square, side)
        filled = fill_background(picture, unseen, has_texture=not self._is_restless)
        state = self._state[where]
        filled = filled[start[0] :, start[1] :][: state.shape[0], : state.shape[1]]
        np.copyto(self._plate[where], filled, where=(state == 0)[..., None])
        state[state == 0] = GUESSED

    def _is_elsewhere(self, image: np.ndarray, free: np.ndarray) -> bool:
        """True if the frame shows another background than the plate where both have been seen."""
        small = (SMALL_PX, SMALL_PX)
        known = cv2.resize((free & (self._state == SEEN)).astype(np.uint8), small, interpolation=cv2.INTER_NEAREST) > 0
        if not known.any():
            return False
        was, now = (cv2.resize(p, small, interpolation=cv2.INTER_AREA).astype(np.float32) for p in (self._plate, image))
        return float(np.abs(now - was)[known].mean()) > OTHER_SCENE
