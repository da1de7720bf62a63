"""Whatever moves: the same edit on every frame of a clip, and a picture driven by a clip.

Path: video -> `VideoSource` -> faces by track -> coefficients, smoothed where the edit needs it -> Editor ->
`EditedFrame` -> Film. The command line and the service both write what comes out of here.

One frame is in memory at a time, or as many as are painted at once. Faces are followed by `face/track.py`, so that an
edit stays with a person, and a filter with a track; a cut starts both anew. Only what the edit uses is smoothed: a
number that is replaced shows the tremble of what it replaces, one that is left alone shows nothing.

A job that goes on where it was stopped looks at the frames before that again, without painting them: what is followed
and filtered is then what it would have been.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from math import ceil
from typing import Any

import cv2
import numpy as np

from rigface.editor import Editor
from rigface.edits import EditSpec, Trait
from rigface.errors import BadInput, NoFace
from rigface.face.analyzer import choose_faces
from rigface.face.controls.transfer import exposure, targets_of, transfer
from rigface.face.detection.detector import KeyframeDetector
from rigface.face.detection.tracking import Tracker
from rigface.face.geometry.rotation import to_axis_angle, to_matrix
from rigface.face.reconstruction.one_euro import OneEuro, OneEuroSettings, Smoother
from rigface.types import Detection, Face, FaceParams, Frame
from rigface.video.decode import Truncated, read_frames
from rigface.video.demux import Source

MEASURED = 8  # frames of a clip that are looked at again
CALM_FPS = 3.0  # frames looked at per second in search of a calm one, over the first CALM_S
CALM_S = 40.0

# What the edit replaces -> what of the source has to hold still for it.
NEEDS: Mapping[Trait, tuple[str, ...]] = {
    "pose": ("head_rotation", "shape"),
    "expression": ("expression", "jaw_rotation", "bfm_expression"),
    "light": ("light", "albedo"),
}

Faces = list[tuple[int, Face, FaceParams]]
"""Of one frame: track, the face as it was, and its coefficients as asked for."""
Met = Callable[[Frame, list[tuple[int, Face]]], None]
"""Told whom each frame shows, before anything is done to them; may raise."""


@dataclass(frozen=True, eq=False)
class EditedFrame:
    """A frame that is done.

    Args:
        image: (H, W, 3) uint8; None where it was only looked at.
    """

    index: int
    time_s: float
    image: np.ndarray | None
    faces: Faces


@dataclass(frozen=True)
class VideoOptions:
    """What is the same for every frame.

    Args:
        face: of an edited clip: `largest`, `left-most`, `right-most`, `all`, or a number counted from the left.
        seed: of the model's noise.
        begin: frames before this one are looked at only.
        at_once: frames painted at a time; a model that others share fills its batch with them.
        hold_boxes: filter the boxes of the clip's faces as well, so that crops do not tremble: for a model, which
            paints at a resolution of its own.
        smooth: take the tremble out of what a driving clip gives.
        absolute: take the driver's pose and expression as they are, not what changes of them.
        neutral: the frame that changes are counted from: the `first` with a face, or the `calmest`.
    """

    face: str = "largest"
    seed: int = 0
    begin: int = 0
    at_once: int = 1
    hold_boxes: bool = False
    smooth: bool = True
    absolute: bool = False
    neutral: str = "first"


class VideoSource:
    """The frames of a clip, and an account of it for the end. A clip that breaks off ends early.

    Args:
        file: a path or a seekable binary file.
        fps: its average rate, as `probe` has it.
        read: as `read_frames`; another process's, where nobody vouches for the file.

    Raises:
        BadVideo: while iterating, where nothing decodes.
    """

    def __init__(
        self, file: Source, fps: float, read: Callable[[Any, float | None], Iterator[Frame]] = read_frames
    ) -> None:
        self.file, self.fps, self.read = file, fps, read
        self.frames = self.frames_with_faces = 0
        self.broke_off = ""

    def __iter__(self) -> Iterator[Frame]:
        try:
            yield from self.read(self.file, None)
        except Truncated as e:
            self.broke_off = e.reason

    def saw(self, somebody: bool) -> None:
        """Count a frame."""
        self.frames += 1
        self.frames_with_faces += somebody

    def notes(self) -> list[str]:
        """What was wrong with it, in words."""
        out = []
        if self.broke_off:
            out.append(f"{self.broke_off}; the {self.frames} frames before it are done")
        if self.frames_with_faces < self.frames:
            out.append(f"{self.frames - self.frames_with_faces} of {self.frames} frames show no face")
        return out


def edited(
    editor: Editor,
    clip: VideoSource,
    spec: EditSpec,
    targets: Mapping[Trait, Face],
    how: VideoOptions,
    met: Met | None = None,
) -> Iterator[EditedFrame]:
    """The same edit on every frame of a clip.

    Raises:
        BadVideo: nothing decodes. NoFace: no frame shows such a face.
    """
    editor.check_prompt(spec)
    fixed = editor.target_params(targets, spec)
    follow = TrackedFaces(editor, how.face, needed(spec), clip.fps, how.hold_boxes)

    def plans() -> Iterator[tuple[Frame, np.ndarray, Faces]]:
        for frame in clip:
            seen = follow(frame)
            clip.saw(bool(seen))
            if met is not None:
                met(frame, seen)
            yield frame, frame.image, [(t, face, editor.wanted(face.params, spec, fixed)) for t, face in seen]

    yield from _painted(editor, plans(), how, spec.prompt, spec.is_nothing)
    if not clip.frames_with_faces:
        raise NoFace("no face was found in any frame", "detect")


def animated(
    editor: Editor,
    image: np.ndarray,
    sources: list[Face],
    clip: VideoSource,
    spec: EditSpec,
    targets: Mapping[Trait, Face],
    taken: frozenset[Trait],
    how: VideoOptions,
    met: Met | None = None,
) -> Iterator[EditedFrame]:
    """A picture's face, moved as the largest face of a clip moves.

    Args:
        image: (H, W, 3) uint8, the picture.
        sources: its faces that are meant.
        spec: `take` includes what the clip gives.
        taken: what the clip gives.

    Raises:
        BadVideo: nothing decodes. NoFace: the clip shows nobody.
    """
    editor.check_prompt(spec)
    rest = _calmest(clip, editor) if how.neutral == "calmest" and not how.absolute else None
    smooth = tuple(name for trait in NEEDS if trait in taken for name in NEEDS[trait]) if how.smooth else ()
    follow = TrackedFaces(editor, "largest", smooth, clip.fps)
    fixed = {trait: face.params for trait, face in targets.items()}

    def plans() -> Iterator[tuple[Frame, np.ndarray, Faces]]:
        driver, still = None, rest
        for frame in clip:
            seen = follow(frame)
            clip.saw(bool(seen))
            if met is not None:
                met(frame, seen)
            if seen:
                driver = seen[0][1].params
                still = still or driver
            faces = []
            for k, source in enumerate(sources):
                moved = source.params
                if driver is not None:
                    moved = driver if how.absolute else carried(source.params, driver, still)
                people = {**fixed, **{trait: moved for trait in taken}}
                faces.append(
                    (k, source, transfer(source.params, spec, editor.analyzer.head, targets_of(source.params, people)))
                )
            yield frame, image, faces

    yield from _painted(editor, plans(), how, spec.prompt, nothing=False)
    if not clip.frames_with_faces:
        raise NoFace("no face was found in any frame, so there is nobody to follow", "detect")


def _painted(
    editor: Editor, plans: Iterator[tuple[Frame, np.ndarray, Faces]], how: VideoOptions, prompt: str, nothing: bool
) -> Iterator[EditedFrame]:
    """Frames in their order, a few painted at a time."""

    def one(frame: Frame, image: np.ndarray, faces: Faces) -> EditedFrame:
        for _, face, wanted in faces if not nothing else ():
            image, _ = editor.apply(image, face, wanted, how.seed, prompt)
        return EditedFrame(frame.index, frame.time_s, image, faces)

    if how.at_once == 1:
        for number, plan in enumerate(plans):
            yield one(*plan) if number >= how.begin else EditedFrame(plan[0].index, plan[0].time_s, None, plan[2])
        return
    due: deque[Future[EditedFrame]] = deque()
    with ThreadPoolExecutor(how.at_once) as pool:
        try:
            for number, plan in enumerate(plans):
                if number < how.begin:
                    yield EditedFrame(plan[0].index, plan[0].time_s, None, plan[2])
                    continue
                due.append(pool.submit(one, *plan))
                if len(due) >= how.at_once:
                    yield due.popleft().result()
            while due:
                yield due.popleft().result()
        finally:
            for late in due:
                late.cancel()


def needed(spec: EditSpec) -> tuple[str, ...]:
    """The fields of a clip's own coefficients that an edit builds on."""
    used: set[Trait] = set(spec.take) & set(NEEDS)
    if any(v is not None for v in (spec.yaw_deg, spec.pitch_deg, spec.roll_deg)):
        used.add("pose")
    used |= {"expression"} if spec.expression else set()
    used |= {"light"} if spec.light is not None else set()
    return tuple(name for trait in NEEDS if trait in used for name in NEEDS[trait])


class TrackedFaces:
    """The faces that are meant, frame by frame, with smoothed coefficients.

    Args:
        face: `largest`, `left-most`, `right-most`, `all`, or a number counted from the left. A choice holds as long as
            its track does; then it is made anew.
        smooth: fields to filter.
        boxes: filter the boxes as well.
    """

    def __init__(self, editor: Editor, face: str, smooth: tuple[str, ...], fps: float, boxes: bool = False) -> None:
        self._see, self._face, self._smooth, self._boxes = editor.analyzer, face, smooth, boxes
        self._watch = KeyframeDetector(editor.analyzer.detector)
        self._tracker = Tracker(max_gap=ceil(fps or 25))
        self._chosen: int | None = None
        self._filters: dict[int, Smoother] = {}
        self._box_filters: dict[int, OneEuro] = {}

    def __call__(self, frame: Frame) -> list[tuple[int, Face]]:
        """Track and face of each face that is meant, from left to right; none where nobody is."""
        found = sorted(self._watch(frame.image), key=lambda d: float(d.box[0]))
        tracks = self._tracker.update(frame.image, found)
        picked = self._pick(found, tracks)
        sights = [self._held(found[k], tracks[k], frame.time_s) for k in picked]
        faces = self._see.faces(frame.image, sights)
        return [
            (tracks[k], replace(face, params=self._filtered(tracks[k], face.params, frame.time_s)))
            for k, face in zip(picked, faces)
        ]

    def _pick(self, found: list[Detection], tracks: list[int]) -> list[int]:
        if self._face == "all" or not found:
            return list(range(len(found)))
        if self._chosen in tracks:
            return [tracks.index(self._chosen)]
        if self._face.isdigit():
            k = int(self._face)
            if k >= len(found):
                return []
        else:
            area = [float(np.prod(d.box[2:] - d.box[:2])) for d in found]
            k = {"largest": int(np.argmax(area)), "left-most": 0, "right-most": len(found) - 1}[self._face]
        self._chosen = tracks[k]
        return [k]

    def _held(self, one: Detection, track: int, time_s: float) -> Detection:
        if not self._boxes:
            return one
        size = float(np.max(one.box[2:] - one.box[:2]))
        hold = self._box_filters.setdefault(
            track, OneEuro(OneEuroSettings(1.0, 4.0 / size))
        )  # a face's width a second: 5 Hz
        return replace(one, box=hold(one.box, time_s).astype(np.float32))

    def _filtered(self, track: int, params: FaceParams, time_s: float) -> FaceParams:
        if not self._smooth:
            return params
        return self._filters.setdefault(track, Smoother(self._smooth))(params, time_s)


def carried(source: FaceParams, now: FaceParams, rest: FaceParams | None) -> FaceParams:
    """The source's coefficients, changed as the driver's changed since they rested.

    The turn of the head is carried over as a rotation of the camera's frame, expressions as differences, and the light
    as the change of its shape: added, at the source's exposure.
    """
    if rest is None:
        return source
    was, new, own = (to_matrix(p.head_rotation[None].astype(np.float64))[0] for p in (rest, now, source))
    gain = exposure(source.light) / exposure(rest.light)
    changes: dict[str, Any] = {
        "head_rotation": to_axis_angle((new @ was.T @ own)[None])[0].astype(np.float32),
        "expression": source.expression + (now.expression - rest.expression),
        "jaw_rotation": source.jaw_rotation + (now.jaw_rotation - rest.jaw_rotation),
        "light": (source.light + gain * (now.light - rest.light)).astype(np.float32),
    }
    codes = [p.bfm_expression for p in (source, now, rest) if p.bfm_expression is not None]
    if len(codes) == 3:
        changes["bfm_expression"] = codes[0] + (codes[1] - codes[2])
    return replace(source, **changes)


def _calmest(clip: VideoSource, editor: Editor) -> FaceParams | None:
    """The driver's coefficients on the frame with the least expression that looks at the camera."""
    best: tuple[float, FaceParams] | None = None
    try:
        for frame in clip.read(clip.file, CALM_FPS):
            if frame.time_s > CALM_S:
                break
            faces = editor.analyzer(frame.image)
            if not faces:
                continue
            params = choose_faces(faces, "largest")[0].params
            forward = float(to_matrix(params.head_rotation[None])[0, 2, 2])
            unrest = float(np.abs(params.expression).sum()) + 6 * (1 - forward)
            if best is None or unrest < best[0]:
                best = unrest, params
    except BadInput:  # a clip that breaks off; reading it once more will say so
        pass
    return None if best is None else best[1]


@dataclass
class Samples:
    """Looks at some of the frames again: what was, what was asked, and what is there now.

    Args:
        frames: how many there will be; 0 if nobody knows.
        kept: by track, the coefficients of a face as it was, as asked for, and as found; None where nobody was.
    """

    editor: Editor
    frames: int
    kept: dict[int, list[tuple[FaceParams, FaceParams, FaceParams | None]]] = field(default_factory=dict)

    def take(self, shown: EditedFrame) -> None:
        """The next frame."""
        every = max(self.frames // MEASURED, 1) if self.frames else 50
        if shown.image is None or not shown.faces or shown.index % every != every // 2:
            return
        found = self.editor.measured(shown.image, [face for _, face, _ in shown.faces])
        for (track, face, wanted), now in zip(shown.faces, found):
            self.kept.setdefault(track, []).append((face.params, wanted, now))


def reduced(image: np.ndarray, max_side: int) -> np.ndarray:
    """The picture, smaller where its longer side is longer than that."""
    side = max(image.shape[:2])
    if side <= max_side:
        return image
    height, width = (max(round(n * max_side / side), 1) for n in image.shape[:2])
    return cv2.resize(image, (width, height), interpolation=cv2.INTER_AREA)
