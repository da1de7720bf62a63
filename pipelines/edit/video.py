"""Editing jobs on videos: edit every frame, or animate an image by a driving video.

Path: `job.py` -> `rigface.video_editor` -> VideoWriter, a progress bar, and an EditReport.
"""

import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from pipelines.edit.config import AnimateConfig, EditConfig
from pipelines.edit.inputs import errors_named, read_image
from pipelines.edit.report import ComparisonRow, EditReport, comparison_rows, hints, limit_note
from pipelines.edit.signing import EditSigner
from rigface.editor import Editor
from rigface.edits import FaceEdit, Trait
from rigface.evaluation.estimator import Number
from rigface.face.analyzer import choose_faces
from rigface.provenance.signer import Origin
from rigface.types import Face
from rigface.video.decode import VideoInfo, probe_video
from rigface.video.writer import VideoWriter
from rigface.video_editor import EditedFrame, Samples, VideoOptions, VideoSource, animated, edited, reduced


def edit_video(
    config: EditConfig, edits: Sequence[FaceEdit[Face]], editor: Editor, origins: Sequence[Origin]
) -> EditReport:
    """The same edits on every frame of a video."""
    with errors_named(config.source):
        info = probe_video(str(config.source))
    source = VideoSource(str(config.source), info.fps)
    frames = edited(editor, source, edits, VideoOptions(config.engine.seed, hold_boxes=editor.has_model))
    with errors_named(config.source):
        return _write(config, frames, source, (info.width, info.height), info, edits, editor, origins)


def animate_image(config: AnimateConfig, edit: FaceEdit[Face], editor: Editor, taken: frozenset[Trait]) -> EditReport:
    """The face of an image, moved as the face of a video moves."""
    with errors_named(config.driving):
        info = probe_video(str(config.driving))
    image = reduced(read_image(config.source), config.max_side)
    with errors_named(config.source):
        faces = choose_faces(editor.analyzer(image), config.face)
    source = VideoSource(str(config.driving), info.fps)
    options = VideoOptions(
        seed=config.engine.seed, smooth=not config.raw, absolute=config.absolute, neutral=config.neutral
    )
    frames = animated(editor, image, faces, source, edit.edit, edit.targets, taken, options, mask=edit.mask)
    size = (image.shape[1], image.shape[0])
    with errors_named(config.driving):
        origins = [Origin(config.source, "componentOf"), Origin(config.driving, "inputTo")]
        return _write(config, frames, source, size, info, [edit], editor, origins)


def _write(
    config: EditConfig | AnimateConfig,
    frames: Iterator[EditedFrame],
    source: VideoSource,
    size: tuple[int, int],
    info: VideoInfo,
    edits: Sequence[FaceEdit[Face]],
    editor: Editor,
    origins: Sequence[Origin],
) -> EditReport:
    began, video, most_faces = time.monotonic(), Path(str(source.file)), 0
    samples = Samples(editor, info.shown_frames)
    signer = EditSigner(config, edits, editor.has_model, origins)
    marked = signer.frame_marker()
    with (
        _progress(f"{video.name} -> {config.out.name}", info.shown_frames) as step,
        VideoWriter(config.out, size, info.fps, sound=None if config.silent else str(video)) as writer,
    ):
        for frame in frames:
            assert frame.image is not None  # no frame is skipped here
            writer.write(marked(frame.image), frame.time_s)
            if not (config.engine.quick or all(one.edit.is_nothing for one in edits)):
                samples.take(frame)
            most_faces = max(most_faces, len(frame.faces))
            step(writer.frames)
    notes = (
        *signer.sign_video(config.out),
        *(f"{video.name}: {note}" for note in source.notes()),
        *limit_note(config, most_faces),
        *hints(config.engine, editor),
    )
    seconds = time.monotonic() - began
    return EditReport(config.out, mean_rows(samples, editor), writer.frames, seconds, notes)


def mean_rows(samples: Samples, editor: Editor) -> list[list[ComparisonRow]]:
    """Per track the means over its measured frames, of the numbers that at least half of these have."""
    tracks = []
    for track, kept in samples.kept.items():
        by_name: dict[str, list[ComparisonRow]] = defaultdict(list)
        for source, wanted, found in kept:
            for row in comparison_rows(source, wanted, found, samples.edits[track], editor):
                by_name[row.name].append(row)
        tracks.append([_mean(rows) for rows in by_name.values() if len(rows) * 2 > len(kept)])
    return tracks


def _mean(rows: Sequence[ComparisonRow]) -> ComparisonRow:
    """The mean of rows of one name; NaN is left out."""
    values = np.array([(row.before, row.number.asked, row.number.achieved) for row in rows])
    known = np.isfinite(values)
    sums = np.where(known, values, 0).sum(0)
    before, asked, achieved = (float(s / n) if n else float("nan") for s, n in zip(sums, known.sum(0)))
    return ComparisonRow(rows[0].name, before, Number(asked, achieved, rows[0].number.unit))


@contextmanager
def _progress(label: str, total: int) -> Iterator[Callable[[int], None]]:
    """A progress bar on standard error; yields a function to call with the number of frames done."""
    bar = Progress(
        TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[rate]}"),
        TimeRemainingColumn(), console=Console(stderr=True), transient=True,
    )  # fmt: skip
    began = time.monotonic()
    with bar:
        task = bar.add_task(label, total=total or None, rate="")
        yield lambda done: bar.update(task, completed=done, rate=f"{done / (time.monotonic() - began):.1f}/s")
