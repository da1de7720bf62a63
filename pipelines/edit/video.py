"""A clip edited, or a picture animated, as a file: what `rigface/video_editor.py` shows, written frame by frame.

Path: `edit.py` -> `rigface.video_editor` -> Film, a bar on the terminal, and the table of what was asked against what was reached.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING

import numpy as np

from pipelines.edit.config import AnimateJob, EditJob
from pipelines.edit.console import LOOK_CLOSER, EditReport, comparison_rows, hints
from pipelines.edit.inputs import picture
from rigface.edits import EditSpec, Trait
from rigface.errors import BadVideo, NoFace, PlanError
from rigface.types import Face

if TYPE_CHECKING:
    from pathlib import Path

    from pipelines.edit.console import Rows
    from rigface.editor import Editor
    from rigface.video.decode import VideoInfo
    from rigface.video_editor import EditedFrame, Samples, VideoSource


def edit_clip(job: EditJob, spec: EditSpec, editor: Editor, givers: Mapping[Trait, Face]) -> EditReport:
    """The same edit on every frame of a clip."""
    from rigface.video_editor import VideoOptions, VideoSource, edited

    info = _probed(job.source)
    clip = VideoSource(str(job.source), info.fps)
    how = VideoOptions(job.face, job.engine.seed, hold_boxes=editor.has_model)
    shown = edited(editor, clip, spec, givers, how)
    return _write(
        job, shown, clip, (info.width, info.height), info, spec, editor, f"{job.source.name} -> {job.out.name}"
    )


def animate_picture(
    job: AnimateJob, spec: EditSpec, editor: Editor, givers: Mapping[Trait, Face], taken: frozenset[Trait]
) -> EditReport:
    """A picture's face, moved as the face of a clip moves."""
    from rigface.face.analyzer import choose_faces
    from rigface.video_editor import VideoOptions, VideoSource, animated, reduced

    info = _probed(job.driving)
    image = reduced(picture(job.source), job.max_side)
    try:
        sources = choose_faces(editor.see(image), job.face)
    except NoFace as e:
        raise PlanError(f"{job.source}: {e.reason}") from e
    clip = VideoSource(str(job.driving), info.fps)
    how = VideoOptions(seed=job.engine.seed, smooth=not job.raw, absolute=job.absolute, neutral=job.neutral)
    shown = animated(editor, image, sources, clip, spec, givers, taken, how)
    height, width = image.shape[:2]
    return _write(job, shown, clip, (width, height), info, spec, editor, f"{job.driving.name} drives {job.source.name}")


def _write(
    job: EditJob | AnimateJob,
    shown: Iterator[EditedFrame],
    clip: VideoSource,
    size: tuple[int, int],
    info: VideoInfo,
    spec: EditSpec,
    editor: Editor,
    words: str,
) -> EditReport:
    from rigface.video.writer import VideoWriter
    from rigface.video_editor import Samples

    began = time.monotonic()
    video = job.source if isinstance(job, EditJob) else job.driving
    samples = Samples(editor, info.shown_frames)
    with (
        _named(video, LOOK_CLOSER if isinstance(job, EditJob) else ""),
        _progress(words, info.shown_frames) as step,
        VideoWriter(job.out, size, info.fps, sound=None if job.silent else str(video)) as film,
    ):
        for one in shown:
            assert one.image is not None  # nothing is skipped here
            film.write(one.image, one.time_s)
            if not (job.engine.quick or spec.is_nothing):
                samples.take(one)
            step(film.frames)
    notes = [f"{video.name}: {note}" for note in clip.notes()]
    seconds = time.monotonic() - began
    return EditReport(job.out, means(samples, spec, editor), film.frames, seconds, (*notes, *hints(job.engine, editor)))


def means(samples: Samples, spec: EditSpec, editor: Editor) -> list[Rows]:
    """Means over the frames looked at again, per track."""
    from rigface.evaluation.estimator import Number

    out: list[Rows] = []
    for kept in samples.kept.values():
        named: dict[str, list[tuple[float, Number]]] = {}
        for was, wanted, now in kept:
            for name, before, number in comparison_rows(was, wanted, now, spec, editor):
                named.setdefault(name, []).append((before, number))
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


@contextmanager
def _named(path: Path, hint: str = "") -> Iterator[None]:
    """Complaints about a clip, with its name."""
    try:
        yield
    except NoFace as e:
        raise PlanError(f"{path}: {e.reason}{hint}") from e
    except BadVideo as e:
        raise PlanError(f"{path}: {e.reason}") from e


def _probed(path: Path) -> VideoInfo:
    from rigface.video.decode import probe_video

    with _named(path):
        return probe_video(str(path))


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
