"""Edited clips beside their sources: flicker outside the face and at the rim, jitter of pose and expression.

    python benchmarks/clips.py CLIP...        one person a clip; turned to 12 degrees, smile 0.5

All are ratios to the source clip; 1 is as steady. Flicker is the mean difference of successive frames. Jitter is read
by the estimator from the pictures of both clips, so a head that does not move measures its noise. `still_*` is the same
ratio for single frames of either clip that are shifted at random, the estimator's noise alone: what exceeds it is the
editor's. Clips that are not named keep their figures.
"""

import argparse
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch

from benchmarks import harness
from rigface.editor import Editor
from rigface.edits import EditSpec, FaceEdit
from rigface.face.geometry import alignment
from rigface.metrics.video import jitter_ratio, pose_track
from rigface.types import Face, Frame
from rigface.video.decode import probe_video, read_frames
from rigface.video_editor import EditedFrame, VideoOptions, VideoSource, edited, reduced

FRAMES, MAX_SIDE = 32, 480
EDIT = EditSpec(yaw_deg=12, expression={"smile": 0.5})
STILL, COPIES, SHIFT_PX = (4, 12, 20, 28), 12, 1.5  # frames that are held still, copies of each, their largest shift
FACE, RIM = 0.08, 0.1  # of the face's width: margin around the landmarks, and width of the rim


def beginning(path: Any, _rate: float | None) -> Iterator[Frame]:
    """The first frames of a clip, reduced."""
    for count, frame in enumerate(read_frames(path)):
        if count == FRAMES:
            return
        yield replace(frame, image=reduced(frame.image, MAX_SIDE))


def places(face: Face, size: tuple[int, int]) -> dict[str, np.ndarray]:
    """(H, W) bool: everything outside the face, and the part of it along the person's outline."""
    back, shape = alignment.invert(face.frame_to_crop), (size[1], size[0])
    inside = np.zeros(size, np.uint8)
    hull = cv2.convexHull(alignment.apply(back, face.landmarks[:, :2]).astype(np.float32))
    cv2.fillConvexPoly(inside, hull.astype(np.int32), 1)
    person = (cv2.warpAffine(face.mask, back, shape) > 127).astype(np.uint8)
    margin, width = (np.ones((int(share * (face.box[2] - face.box[0])) | 1,) * 2, np.uint8) for share in (FACE, RIM))
    outside = cv2.dilate(inside, margin) == 0
    return {"outside": outside, "rim": outside & (cv2.dilate(person, width) > cv2.erode(person, width))}


def ratios(editor: Editor, path: Path) -> dict[str, float]:
    """The measures of one clip."""
    was = [frame.image for frame in beginning(str(path), None)]
    clip = VideoSource(str(path), probe_video(str(path)).fps, beginning)
    shown = list(edited(editor, clip, [FaceEdit(edit=EDIT)], VideoOptions(hold_boxes=editor.has_model)))
    changes: dict[str, list[tuple[float, float]]] = {}
    tracks: dict[str, list[np.ndarray]] = {}
    for k, frame in enumerate(shown):
        if not frame.faces:
            continue
        face, now = frame.faces[0][1], frame.image
        assert now is not None
        for who, picture in (("edited", now), ("source", was[k])):
            params = editor.measure(picture, [face])[0]
            for name in ("head_rotation", "expression"):
                value = np.full_like(getattr(face.params, name), np.nan) if params is None else getattr(params, name)
                tracks.setdefault(f"{who} {name}", []).append(value)
        if k:
            pairs = ((now, shown[k - 1].image), (was[k], was[k - 1]))
            apart = [np.abs(a.astype(np.float32) - b).mean(2) for a, b in pairs]
            for name, place in places(face, now.shape[:2]).items():
                changes.setdefault(name, []).append((float(apart[0][place].mean()), float(apart[1][place].mean())))
    flicker = {name: float(np.divide(*np.mean(values, axis=0))) for name, values in changes.items()}
    pose = jitter_ratio(*(pose_track(np.array(tracks[f"{who} head_rotation"])) for who in ("edited", "source")))
    expression = jitter_ratio(*(np.array(tracks[f"{who} expression"]) for who in ("edited", "source")))
    pose_noise, noise = np.mean(
        [still(editor, shown[k], was[k]) for k in STILL if k < len(shown) and shown[k].faces], axis=0
    )
    return {
        **flicker,
        "pose": pose,
        "expression": expression,
        "still_pose": float(pose_noise),
        "still_expression": float(noise),
    }


def still(editor: Editor, shown: EditedFrame, was: np.ndarray) -> tuple[float, float]:
    """Jitter of pose and expression in shifted copies of one edited frame, relative to those of its source."""
    shifts = np.random.default_rng(0).uniform(-SHIFT_PX, SHIFT_PX, (COPIES, 2))
    turns, expressions = [], []
    for picture in (shown.image, was):
        assert picture is not None
        seen = []
        for shift in shifts:
            affine = np.array([[1, 0, shift[0]], [0, 1, shift[1]]])
            moved = cv2.warpAffine(
                picture, affine, picture.shape[1::-1], flags=cv2.INTER_CUBIC, borderMode=cv2.BORDER_REPLICATE
            )
            seen += editor.measure(moved, [shown.faces[0].face])
        known = [params for params in seen if params is not None]
        turns.append(pose_track(np.array([params.head_rotation for params in known])))
        expressions.append(np.array([params.expression for params in known]))
    return jitter_ratio(*turns), jitter_ratio(*expressions)


def main() -> None:
    """Measure, print, and write the results file."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("clips", type=Path, nargs="+")
    args = parser.parse_args()
    cv2.setNumThreads(1)
    torch.set_num_threads(1)
    editor, table = Editor.load(), dict(harness.read("clips").get("clips", {}))
    for path in args.clips:
        table[path.stem] = {name: round(value, 2) for name, value in ratios(editor, path).items()}
        print(path.stem, table[path.stem], flush=True)
    harness.write("clips", {"clips": table, **harness.environment()})


if __name__ == "__main__":
    main()
