"""Edit every frame of a video, or animate an image from a driving video.

Path: video -> `VideoSource` -> faces by track -> coefficients, smoothed if the edit needs it -> Editor -> `EditedFrame`
-> VideoWriter, of the command line or the service.

One frame is in memory at a time, or as many as are edited at once. Faces are tracked (`face/detection/tracking.py`), so
that an edit stays with a person, and a filter with a track; a cut starts both anew. Only coefficients that the edit
replaces, and those it needs held still, are smoothed.

A shot has one background (`face/preview/background_plate.py`), and masks are averaged over its frames. The refiner's
changes are not: averaged they flicker less, but then the shown picture flickers more, by 1 %, since they also correct
the preview's own.

A resumed job analyses the frames before that point again without editing them, so that tracks, filters and backgrounds
are the same.
"""

from __future__ import annotations

import contextlib
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

import cv2
import numpy as np

from rigface.editor import Editor
from rigface.edits import EditSpec, FaceEdit, Trait
from rigface.errors import BadInput, NoFace
from rigface.face.analyzer import choose_faces
from rigface.face.controls.transfer import TRAIT_FIELDS, white_point
from rigface.face.geometry.rotation import to_axis_angle, to_matrix
from rigface.face.preview.background_plate import BackgroundPlate
from rigface.face.tracked_faces import TrackedFaces
from rigface.types import Face, FaceParams, Frame
from rigface.video.decode import Truncated, read_frames
from rigface.video.demux import Source

MAX_SAMPLES = 8  # frames of a video that are measured
CALM_FPS = 3.0  # frames analysed per second in search of the calmest, in the first CALM_S
CALM_S = 40.0

# Trait that the edit replaces -> fields of the source that have to hold still for it.
NEEDS: Mapping[Trait, tuple[str, ...]] = {
    "pose": ("head_rotation", "shape"),
    "expression": TRAIT_FIELDS["expression"],
    "light": ("light", "albedo"),
    "identity": ("head_rotation", "shape", *TRAIT_FIELDS["expression"], "light", "albedo"),
}

FaceMonitor = Callable[[Frame, list[tuple[int, Face]]], None]
"""Called with the faces of each frame before they are edited; may raise."""


class FrameFace(NamedTuple):
    """A face of a frame and its edit."""

    track: int
    face: Face  # before the edit
    wanted: FaceParams  # coefficients that the edit asks for
    edit: EditSpec
    donor: Face | None  # whose identity the edit takes
    mask: np.ndarray | None  # that bounds it, see `FaceEdit`


@dataclass(frozen=True, eq=False)
class EditedFrame:
    """An edited frame; `image` is (H, W, 3) uint8, or None if the frame was only analysed."""

    index: int
    time_s: float
    image: np.ndarray | None
    faces: list[FrameFace]


@dataclass(frozen=True)
class VideoOptions:
    """Options that are the same for every frame."""

    seed: int = 0  # of the model's noise
    begin: int = 0  # frames before this one are only analysed
    at_once: int = 1  # frames edited at a time, which fill the batch of a shared model
    hold_boxes: bool = False  # filter the boxes, too, so that crops do not tremble: for a model of its own resolution
    smooth: bool = True  # filter the coefficients of a driving video
    absolute: bool = False  # copy the driver's pose and expression themselves, not their changes
    neutral: str = "first"  # the frame that changes are relative to: the `first` with a face, or the `calmest`


class VideoSource:
    """The frames of a video, which end early if it breaks off, and notes for the end.

    Args:
        file: a path or a seekable binary file.
        fps: its average rate, as `probe` has it.
        read: `read_frames`, or that of another process for untrusted files.

    Raises:
        BadVideo: while iterating, if nothing decodes.
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

    def count(self, has_face: bool) -> None:
        """Count a frame."""
        self.frames += 1
        self.frames_with_faces += has_face

    def notes(self) -> list[str]:
        """Problems of the video, as sentences."""
        notes = [f"{self.broke_off}; the {self.frames} frames before it are done"] if self.broke_off else []
        if self.frames_with_faces < self.frames:
            notes.append(f"{self.frames - self.frames_with_faces} of {self.frames} frames show no face")
        return notes


def edited(
    editor: Editor,
    clip: VideoSource,
    edits: Sequence[FaceEdit[Face]],
    options: VideoOptions,
    monitor: FaceMonitor | None = None,
) -> Iterator[EditedFrame]:
    """Apply the same edits to every frame of a video, each to its own face or faces.

    Raises:
        BadVideo: nothing decodes. NoFace: no frame shows such a face.
    """
    for one in edits:
        editor.check_prompt(one.edit)
    fixed = [editor.target_faces(one.targets, one.edit) for one in edits]
    smooth = dict.fromkeys(name for one in edits for name in smoothed_fields(one.edit))
    track = TrackedFaces(editor.analyzer, [str(one.face) for one in edits], tuple(smooth), clip.fps, options.hold_boxes)
    plates: dict[int, BackgroundPlate] = {}

    def plans() -> Iterator[_Plan]:
        nonlocal plates
        for frame in clip:
            seen = track(frame)
            clip.count(bool(seen))
            if monitor is not None:
                monitor(frame, seen)
            plates = {t: plates.get(t) or BackgroundPlate() for t, _ in seen}
            backs = [plates[t](frame.image, face).copy() for t, face in seen]
            faces = []
            for t, face in seen:
                k = track.choices[t]
                wanted = editor.edited_params(face.params, edits[k].edit, fixed[k])
                faces.append(FrameFace(t, face, wanted, edits[k].edit, fixed[k].get("identity"), edits[k].mask))
            yield _Plan(frame, frame.image, faces, backs)

    yield from _edit_frames(editor, plans(), options)
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
    options: VideoOptions,
    monitor: FaceMonitor | None = None,
    mask: np.ndarray | None = None,
) -> Iterator[EditedFrame]:
    """Animate a picture's faces with the largest face of a driving video.

    Args:
        image: (H, W, 3) uint8, the picture.
        sources: its faces to animate.
        spec: `take` includes `taken`.
        taken: traits that come from the video.
        mask: see `FaceEdit`.

    Raises:
        BadVideo: nothing decodes. NoFace: the video shows no face.
    """
    editor.check_prompt(spec)
    rest = _calmest(clip, editor) if options.neutral == "calmest" and not options.absolute else None
    smooth = tuple(name for trait in NEEDS if trait in taken for name in NEEDS[trait]) if options.smooth else ()
    track = TrackedFaces(editor.analyzer, ["largest"], smooth, clip.fps)

    def plans() -> Iterator[_Plan]:
        driver, neutral = None, rest
        for frame in clip:
            seen = track(frame)
            clip.count(bool(seen))
            if monitor is not None:
                monitor(frame, seen)
            if seen:
                driver = seen[0][1].params
                neutral = neutral or driver
            faces = []
            for k, source in enumerate(sources):
                moved = source.params
                if driver is not None:
                    moved = driver if options.absolute else retargeted(source.params, driver, neutral)
                people: dict[Trait, Face | FaceParams] = {**targets, **{trait: moved for trait in taken}}
                wanted = editor.edited_params(source.params, spec, people)
                faces.append(FrameFace(k, source, wanted, spec, targets.get("identity"), mask))
            yield _Plan(frame, image, faces, [None] * len(faces))

    yield from _edit_frames(editor, plans(), options)
    if not clip.frames_with_faces:
        raise NoFace("no face was found in any frame, so there is no motion to copy", "detect")


@dataclass(frozen=True, eq=False)
class _Plan:
    """A frame to edit."""

    frame: Frame
    image: np.ndarray  # (H, W, 3) uint8, the picture to edit
    faces: list[FrameFace]
    backs: Sequence[np.ndarray | None]  # the picture without each face's person, if the clip shows it


def _edit_frames(editor: Editor, plans: Iterator[_Plan], options: VideoOptions) -> Iterator[EditedFrame]:
    """Frames in their order, `at_once` edited at a time."""

    def edit(plan: _Plan) -> EditedFrame:
        image = plan.image
        for (_, face, wanted, spec, donor, mask), back in zip(plan.faces, plan.backs):
            if not spec.is_nothing:
                image, _ = editor.apply(image, face, wanted, options.seed, spec, back, donor, mask)
        return EditedFrame(plan.frame.index, plan.frame.time_s, image, plan.faces)

    pending: deque[Future[EditedFrame]] = deque()
    with ThreadPoolExecutor(options.at_once) as pool:
        try:
            for number, plan in enumerate(plans):
                if number < options.begin:
                    yield EditedFrame(plan.frame.index, plan.frame.time_s, None, plan.faces)
                elif options.at_once == 1:
                    yield edit(plan)
                else:
                    pending.append(pool.submit(edit, plan))
                    if len(pending) >= options.at_once:
                        yield pending.popleft().result()
            while pending:
                yield pending.popleft().result()
        finally:
            for future in pending:
                future.cancel()


def smoothed_fields(spec: EditSpec) -> tuple[str, ...]:
    """Fields of a video's own coefficients that an edit builds on, and that are smoothed for it."""
    used: set[Trait] = set(spec.take) & set(NEEDS)
    if any(v is not None for v in (spec.yaw_deg, spec.pitch_deg, spec.roll_deg)):
        used.add("pose")
    used |= {"expression"} if spec.expression else set()
    used |= {"light"} if spec.light is not None else set()
    return tuple(name for trait in NEEDS if trait in used for name in NEEDS[trait])


def retargeted(source: FaceParams, now: FaceParams, rest: FaceParams | None) -> FaceParams:
    """The source's coefficients plus the driver's change since its neutral frame.

    The turn of the head is transferred as a rotation of the camera's frame, expressions as differences, and the light
    as the change of its shape, at the source's exposure and white balance.
    """
    if rest is None:
        return source
    was, new, own = (to_matrix(p.head_rotation[None].astype(np.float64))[0] for p in (rest, now, source))
    gain = white_point(source.light) / white_point(rest.light)
    changes: dict[str, Any] = {
        "head_rotation": to_axis_angle((new @ was.T @ own)[None])[0].astype(np.float32),
        "light": (source.light + gain * (now.light - rest.light)).astype(np.float32),
    }
    for name in TRAIT_FIELDS["expression"]:
        values = [getattr(params, name) for params in (source, now, rest)]
        if all(value is not None for value in values):
            changes[name] = values[0] + (values[1] - values[2])
    return replace(source, **changes)


def _calmest(clip: VideoSource, editor: Editor) -> FaceParams | None:
    """The driver's coefficients on the frame with the least expression and the most frontal pose."""
    best: tuple[float, FaceParams] | None = None
    with contextlib.suppress(BadInput):  # a video that breaks off; reading it once more will say so
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
    return None if best is None else best[1]


@dataclass
class Samples:
    """Measures some of the frames: coefficients before the edit, as asked for, and as achieved."""

    editor: Editor
    frames: int  # count of frames of the video; 0 if unknown
    # by track, the coefficients before, asked for, and achieved (None if no face is there now); and the edit
    kept: dict[int, list[tuple[FaceParams, FaceParams, FaceParams | None]]] = field(default_factory=dict)
    edits: dict[int, EditSpec] = field(default_factory=dict)

    def take(self, shown: EditedFrame) -> None:
        """Measure the next frame if it is its turn."""
        every = max(self.frames // MAX_SAMPLES, 1) if self.frames else 50
        if shown.image is None or not shown.faces or shown.index % every != every // 2:
            return
        achieved = self.editor.measure(shown.image, [seen.face for seen in shown.faces])
        for seen, now in zip(shown.faces, achieved):
            self.kept.setdefault(seen.track, []).append((seen.face.params, seen.wanted, now))
            self.edits[seen.track] = seen.edit


def reduced(image: np.ndarray, max_side: int) -> np.ndarray:
    """The picture, scaled down if its longer side exceeds `max_side`."""
    side = max(image.shape[:2])
    if side <= max_side:
        return image
    height, width = (max(round(n * max_side / side), 1) for n in image.shape[:2])
    return cv2.resize(image, (width, height), interpolation=cv2.INTER_AREA)
