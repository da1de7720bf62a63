"""Whatever moves: the same edit on every frame of a clip, and a picture driven by a clip.

Path: video -> frames -> faces by track -> coefficients, smoothed where the edit needs it -> Editor -> Film.

One frame is in memory at a time. Faces are followed by `face/track.py`, so that an edit stays with a person, and a filter
with a track; a cut starts both anew. Only what the edit uses is smoothed: a number that is replaced shows the tremble of what
it replaces, one that is left alone shows nothing.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from math import ceil
from typing import TYPE_CHECKING, Any

import numpy as np

from pipelines.edit import AnimateJob, EditJob, hints, picture, rows_of
from pipelines.edit_words import Outcome
from rigface.edits import EditSpec, Trait
from rigface.errors import BadInput, BadVideo, NoFace, PlanError
from rigface.types import Detection, Face, FaceParams, Frame

if TYPE_CHECKING:
    from pathlib import Path

    from pipelines.edit_words import Rows
    from rigface.editor import Editor
    from rigface.face.video import VideoInfo

MEASURED = 8  # frames of a clip that are looked at again
CALM_FPS = 3.0  # frames looked at per second in search of a calm one, over the first CALM_S
CALM_S = 40.0

# What the edit replaces -> what of the source has to hold still for it.
NEEDS: Mapping[Trait, tuple[str, ...]] = {
    "pose": ("head_rotation", "shape"),
    "expression": ("expression", "jaw_rotation", "bfm_expression"),
    "light": ("light", "albedo"),
}


def needed(spec: EditSpec) -> tuple[str, ...]:
    """The fields of a clip's own coefficients that an edit builds on."""
    used: set[Trait] = set(spec.take) & set(NEEDS)
    if any(v is not None for v in (spec.yaw_deg, spec.pitch_deg, spec.roll_deg)):
        used.add("pose")
    used |= {"expression"} if spec.expression else set()
    used |= {"light"} if spec.light is not None else set()
    return tuple(name for trait in NEEDS if trait in used for name in NEEDS[trait])


class Followed:
    """The faces that are meant, frame by frame, with smoothed coefficients.

    Args:
        face: `largest`, `left-most`, `right-most`, `all`, or a number counted from the left. A choice holds as long as its
            track does; then it is made anew.
        smooth: fields to filter.
        boxes: filter the boxes as well, so that crops do not tremble: for a model, which paints at a resolution of its own.
    """

    def __init__(self, editor: Editor, face: str, smooth: tuple[str, ...], fps: float, boxes: bool = False) -> None:
        from rigface.face.detect import Watch
        from rigface.face.track import Tracker

        self._see, self._face, self._smooth, self._boxes = editor.see, face, smooth, boxes
        self._watch = Watch(editor.see.detector)
        self._tracker = Tracker(max_gap=ceil(fps or 25))
        self._chosen: int | None = None
        self._filters: dict[int, Any] = {}
        self._box_filters: dict[int, Any] = {}

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
        from rigface.face.smooth import Euro, OneEuro

        size = float(np.max(one.box[2:] - one.box[:2]))
        hold = self._box_filters.setdefault(track, OneEuro(Euro(1.0, 4.0 / size)))  # a face's width a second: 5 Hz
        return replace(one, box=hold(one.box, time_s).astype(np.float32))

    def _filtered(self, track: int, params: FaceParams, time_s: float) -> FaceParams:
        from rigface.face.smooth import Smoother

        if not self._smooth:
            return params
        return self._filters.setdefault(track, Smoother(self._smooth))(params, time_s)


def edit_clip(job: EditJob, spec: EditSpec, editor: Editor, givers: Mapping[Trait, Face]) -> Outcome:
    """The same edit on every frame of a clip."""
    from rigface.face.film import Film

    began = time.monotonic()
    info = _probed(job.source)
    fixed = editor.givers(givers, spec)
    follow = Followed(editor, job.face, needed(spec), info.fps, boxes=job.engine.checkpoint is not None)
    tally = Tally(spec, editor, info.shown_frames, not job.engine.quick)
    notes = _Notes(job.source.name)
    with (
        _progress(f"{job.source.name} -> {job.out.name}", info.shown_frames) as step,
        Film(job.out, (info.width, info.height), info.fps, sound=None if job.silent else str(job.source)) as film,
    ):
        for frame in notes.reading(job.source):
            out = frame.image
            seen = follow(frame)
            notes.seen(bool(seen))
            done = []
            for track, face in seen:
                wanted = editor.wanted(face.params, spec, fixed)
                if not spec.is_nothing:
                    out, _ = editor.apply(out, face, wanted, job.engine.seed)
                done.append((track, face, wanted))
            film.write(out, frame.time_s)
            tally.frame(out, done)
            step(film.frames)
        if not notes.frames_with_faces:
            raise PlanError(f"{job.source}: no face was found in any frame. Is it small? --small-faces looks closer")
    return Outcome(job.out, tally.rows(), film.frames, time.monotonic() - began, (*notes.said(), *hints(job.engine)))


def animate_picture(
    job: AnimateJob, spec: EditSpec, editor: Editor, givers: Mapping[Trait, Face], taken: frozenset[Trait]
) -> Outcome:
    """A picture's face, moved as the face of a clip moves."""
    from rigface.face.film import Film
    from rigface.face.mix import borrowed, mix
    from rigface.face.see import choose

    began = time.monotonic()
    info = _probed(job.driving)
    image = _reduced(picture(job.source), job.max_side)
    try:
        sources = choose(editor.see(image), job.face)
    except NoFace as e:
        raise PlanError(f"{job.source}: {e.reason}") from e
    rest = _calmest(job.driving, editor) if job.neutral == "calmest" and not job.absolute else None
    smooth = tuple(name for trait in NEEDS if trait in taken for name in NEEDS[trait]) if not job.raw else ()
    follow = Followed(editor, "largest", smooth, info.fps)
    fixed = {trait: face.params for trait, face in givers.items()}
    tally = Tally(spec, editor, info.shown_frames, not job.engine.quick)
    notes = _Notes(job.driving.name)
    driver: FaceParams | None = None
    height, width = image.shape[:2]
    with (
        _progress(f"{job.driving.name} drives {job.source.name}", info.shown_frames) as step,
        Film(job.out, (width, height), info.fps, sound=None if job.silent else str(job.driving)) as film,
    ):
        for frame in notes.reading(job.driving):
            seen = follow(frame)
            notes.seen(bool(seen))
            if seen:
                driver = seen[0][1].params
                rest = rest or driver
            out, done = image, []
            for k, source in enumerate(sources):
                moved = source.params
                if driver is not None:
                    moved = driver if job.absolute else carried(source.params, driver, rest)
                people = {**fixed, **{trait: moved for trait in taken}}
                wanted = mix(source.params, spec, editor.see.head, borrowed(source.params, people))
                out, _ = editor.apply(out, source, wanted, job.engine.seed)
                done.append((k, source, wanted))
            film.write(out, frame.time_s)
            tally.frame(out, done)
            step(film.frames)
        if not notes.frames_with_faces:
            raise PlanError(f"{job.driving}: no face was found in any frame, so there is nobody to follow")
    return Outcome(job.out, tally.rows(), film.frames, time.monotonic() - began, (*notes.said(), *hints(job.engine)))


def carried(source: FaceParams, now: FaceParams, rest: FaceParams | None) -> FaceParams:
    """The source's coefficients, changed as the driver's changed since they rested.

    The turn of the head is carried over as a rotation of the camera's frame, expressions as differences, and the light as the
    change of its shape: added, at the source's exposure.
    """
    from rigface.face.mix import exposure
    from rigface.face.rotation import to_axis_angle, to_matrix

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


def _calmest(path: Path, editor: Editor) -> FaceParams | None:
    """The driver's coefficients on the frame with the least expression that looks at the camera."""
    from rigface.face.rotation import to_matrix
    from rigface.face.see import choose
    from rigface.face.video import frames

    best: tuple[float, FaceParams] | None = None
    try:
        for frame in frames(str(path), CALM_FPS):
            if frame.time_s > CALM_S:
                break
            faces = editor.see(frame.image)
            if not faces:
                continue
            params = choose(faces, "largest")[0].params
            forward = float(to_matrix(params.head_rotation[None])[0, 2, 2])
            unrest = float(np.abs(params.expression).sum()) + 6 * (1 - forward)
            if best is None or unrest < best[0]:
                best = unrest, params
    except BadInput:  # a clip that breaks off; reading it once more will say so
        pass
    return None if best is None else best[1]


@dataclass
class Tally:
    """Looks at some of the frames again and averages what was asked and achieved.

    Args:
        frames: how many there will be; 0 if nobody knows.
    """

    spec: EditSpec
    editor: Editor
    frames: int
    measure: bool
    _seen: int = 0
    _kept: dict[int, list[Rows]] = field(default_factory=dict)

    def frame(self, image: np.ndarray, faces: list[tuple[int, Face, FaceParams]]) -> None:
        """The next frame, with the track, source and wanted coefficients of its faces."""
        every = max(self.frames // MEASURED, 1) if self.frames else 50
        due = self.measure and self._seen % every == every // 2 and not self.spec.is_nothing
        self._seen += 1
        if not due or not faces:
            return
        found = self.editor.measured(image, [face for _, face, _ in faces])
        for (track, face, wanted), now in zip(faces, found):
            self._kept.setdefault(track, []).append(rows_of(face.params, wanted, now, self.spec, self.editor))

    def rows(self) -> list[Rows]:
        """Means over the frames looked at, per track."""
        from rigface.metrics.judge import Number

        out: list[Rows] = []
        for kept in self._kept.values():
            named: dict[str, list[tuple[float, Number]]] = {}
            for rows in kept:
                for name, was, number in rows:
                    named.setdefault(name, []).append((was, number))
            mean = lambda values: float(np.nanmean(v)) if np.isfinite(v := np.array(values)).any() else float("nan")  # noqa: E731
            out.append(
                [
                    (
                        name,
                        mean([was for was, _ in each]),
                        Number(mean([n.asked for _, n in each]), mean([n.achieved for _, n in each]), each[0][1].unit),
                    )
                    for name, each in named.items()
                    if len(each) * 2 > len(kept)
                ]
            )
        return out


class _Notes:
    """What went wrong while reading, for the end."""

    def __init__(self, name: str) -> None:
        self._name, self._cut = name, ""
        self.frames = self.frames_with_faces = 0

    def reading(self, path: Path) -> Iterator[Frame]:
        from rigface.face.video import Truncated, frames

        try:
            yield from frames(str(path), None)
        except Truncated as e:
            self._cut = e.reason
        except BadVideo as e:
            raise PlanError(f"{path}: {e.reason}") from e

    def seen(self, somebody: bool) -> None:
        self.frames += 1
        self.frames_with_faces += somebody

    def said(self) -> tuple[str, ...]:
        out = []
        if self._cut:
            out.append(f"{self._name}: {self._cut}; the {self.frames} frames before it are done")
        if self.frames_with_faces < self.frames:
            out.append(f"{self._name}: {self.frames - self.frames_with_faces} of {self.frames} frames show no face")
        return tuple(out)


def _probed(path: Path) -> VideoInfo:
    from rigface.face.video import probe

    try:
        return probe(str(path))
    except BadVideo as e:
        raise PlanError(f"{path}: {e.reason}") from e


def _reduced(image: np.ndarray, max_side: int) -> np.ndarray:
    import cv2

    side = max(image.shape[:2])
    if side <= max_side:
        return image
    height, width = (max(round(n * max_side / side), 1) for n in image.shape[:2])
    return cv2.resize(image, (width, height), interpolation=cv2.INTER_AREA)


@contextmanager
def _progress(words: str, total: int) -> Iterator[Callable[[int], None]]:
    """A bar on standard error; what it gives is to be called with the number of frames done."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    bar = Progress(
        TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[rate]}"),
        TimeRemainingColumn(), console=Console(stderr=True), transient=True,
    )  # fmt: skip
    began = time.monotonic()
    with bar:
        task = bar.add_task(words, total=total or None, rate="")
        yield lambda done: bar.update(task, completed=done, rate=f"{done / (time.monotonic() - began):.1f}/s")
