"""Run a job that edits a video or animates an image, a piece at a time, so that it resumes after a restart.

Path: a `Job` of the kind `video` or `animation` -> `rigface.video_editor`, with decoders in processes of their own,
an analyzer of this process and shared diffusion workers -> pieces of some seconds in the store -> joined, with the
video's sound -> signed -> the result.

A piece is finished when its record (`part/<n>.json`) exists: the times of its frames, and the values measured on
them. After a restart, frames of finished pieces are analysed again, so that tracking continues as before, but not
sampled again.
"""

import asyncio
import json
import math
import secrets
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from rigface.conditions import Composer
from rigface.editor import EditModel, Editor, numbers
from rigface.edits import PREVIEW, EditSpec, FaceEdit, RegionPrompt, Trait
from rigface.face.analyzer import FaceAnalyzer, choose_faces
from rigface.model.checkpoint_folder import refiner_folder
from rigface.profile import OWN, ConditionSpec, FaceProfile
from rigface.provenance.signer import Origin
from rigface.refiner.preview_refiner import PreviewRefiner
from rigface.types import Conditions, Face
from rigface.video.decode import VideoInfo
from rigface.video.sandbox import DecoderPool, JoinRequest
from rigface.video.writer import VideoWriter
from rigface.video_editor import EditedFrame, Samples, VideoOptions, VideoSource, animated, edited, reduced
from serve.content_cache import picture_id
from serve.inference.edit_service import AuditSink, sampling_options
from serve.jobs.batch import with_retries
from serve.jobs.store import Job, JobStore, PieceReplaced, Values
from serve.limits import MAX_PIXELS, Limits
from serve.messages import SampleRequest, edit_record, video_edits
from serve.problems import ApiError
from serve.protocols import REFINER, DiffusionService, chosen_model, sample_image
from serve.provenance.encoder import Signer
from serve.schemas import AnimationJob, VideoJob
from serve.security.consent import TAKES_IDENTITY, Policy

MAX_PIECE_FRAMES, MAX_PIECE_S = 100, 20.0
STUCK_S = 60.0  # between two frames; a thread that takes longer hangs, and nothing in this process can end it
MAX_FACES = 16  # whose values are reported
Row = tuple[Values, Values | None]
"""Requested and achieved values of a face; None if it is not found again."""


class Stopped(Exception):
    """The job was cancelled, or the service stops."""


@dataclass(frozen=True)
class Piece:
    """Record of a finished piece: the time of each frame, rows of values by track, and its file.

    The file's name is of one attempt, and the first record of a number stays: a late write of a process that was cut
    off replaces neither.
    """

    times: list[float]
    rows: dict[str, list[Row]]
    file: str


@dataclass
class VideoRunner:
    """Runs video jobs in threads."""

    load: Callable[[FaceProfile], FaceAnalyzer]  # makes an analyzer, which one job at a time uses
    diffusion_worker: DiffusionService
    limits: Limits
    signer: Signer
    audit_log: AuditSink | None = None
    policy: Policy = field(default_factory=Policy)
    decoders: DecoderPool = field(default_factory=DecoderPool)
    is_stuck: bool = False  # a thread did not stop when it had to; the process should be replaced
    idle_analyzers: dict[FaceProfile, list[FaceAnalyzer]] = field(default_factory=dict)
    checkpoints: Mapping[str, str] = field(default_factory=dict)  # models by name; refiners are run here

    def refiner(self, model: str) -> PreviewRefiner | None:
        """The refiner of this name; None for any other model."""
        folder = refiner_folder(self.checkpoints[model]) if model in self.checkpoints else None
        return None if folder is None else PreviewRefiner.load(folder)

    def probe(self, file: str | bytes) -> VideoInfo:
        """The properties of a video; BadVideo if it cannot be read, ApiError `too-large`."""
        info, max_pixels = self.decoders.probe(file), self.limits.max_clip_pixels
        if info.width * info.height > max_pixels:
            raise ApiError("too-large", f"clip: {info.width} x {info.height} px; a frame may have {max_pixels} px")
        self.check_length(info.shown_frames, info.duration_s)
        return info

    def check_length(self, frames: int, seconds: float) -> None:
        """Refuse a video that is too long, by an ApiError `too-large`."""
        limits = self.limits
        if frames > limits.max_clip_frames or seconds > limits.max_clip_s:
            limit = f"it may have {limits.max_clip_frames} and {limits.max_clip_s:g} s"
            raise ApiError("too-large", f"clip: {frames} frames, {seconds:.1f} s; {limit}")

    async def __call__(self, job: Job, asked: VideoJob | AnimationJob, store: JobStore) -> None:
        """Run a job to its result, or raise ApiError, BadInput or ValueError if it cannot be done."""
        chosen = await chosen_model(self.diffusion_worker, asked.model)
        model, samples = chosen.name, chosen.kind not in (PREVIEW, REFINER)
        input_spec = await self.diffusion_worker.input_spec(model) if samples else None
        stop, loop = threading.Event(), asyncio.get_running_loop()

        def paint(
            conditions: Conditions, seed: int, prompt: str = "", regions: Sequence[RegionPrompt] = ()
        ) -> np.ndarray:
            options, limit_s = sampling_options(asked, seed, prompt), self.limits.edit_timeout_s
            request = SampleRequest(model, conditions, options, timeout_s=limit_s, regions=regions)
            work = with_retries(lambda: sample_image(self.diffusion_worker, request))
            image = asyncio.run_coroutine_threadsafe(work, loop)
            while not image.done() and not stop.wait(0.02):
                pass
            if stop.is_set():
                image.cancel()
                raise Stopped
            return image.result().image

        run = _VideoRun(self, job, store, asked, model, input_spec, paint if input_spec else None, stop)
        thread = asyncio.ensure_future(asyncio.to_thread(run))
        thread.add_done_callback(lambda ended: ended.cancelled() or ended.exception())  # read, even if nothing waits
        try:
            await asyncio.shield(thread)
        finally:
            stop.set()
            await asyncio.wait({thread}, timeout=STUCK_S)
            self.is_stuck = self.is_stuck or not thread.done()


@dataclass
class _VideoRun:
    """One job, in a thread."""

    runner: VideoRunner
    job: Job
    store: JobStore
    asked: VideoJob | AnimationJob
    model: str
    input_spec: ConditionSpec | None
    paint: EditModel | None
    stop: threading.Event

    def __call__(self) -> None:
        profile = OWN if self.input_spec is None else self.input_spec.profile
        idle = self.runner.idle_analyzers.setdefault(profile, [])
        analyzer = idle.pop() if idle else self.runner.load(profile)
        try:
            with tempfile.TemporaryDirectory(dir=self.runner.decoders.folder) as folder:
                self._run(analyzer, Path(folder))
        finally:
            idle.append(analyzer)

    def _run(self, analyzer: FaceAnalyzer, folder: Path) -> None:
        job, asked, runner = self.job, self.asked, self.runner
        path = folder / "clip"
        path.write_bytes(self.store.clip(job))
        info = runner.probe(str(path))
        job.total = info.shown_frames
        composer = None if self.input_spec is None else Composer(self.input_spec)
        editor = Editor(analyzer, self.paint, composer, refiner=runner.refiner(self.model))
        monitor = runner.policy.monitor() if isinstance(asked, VideoJob) else None
        pieces = self._finished_pieces()
        job.finished = sum(len(piece.times) for piece in pieces)
        video = VideoSource(str(path), info.fps, runner.decoders.frames)
        options = VideoOptions(
            seed=asked.seed, begin=job.finished,
            at_once=runner.limits.max_edits_per_job if self.paint else 1, hold_boxes=self.paint is not None,
        )  # fmt: skip
        if isinstance(asked, VideoJob):
            edits, size = video_edits(asked, job.traits), (info.width, info.height)
            faces = self._targets(editor, edits)
            named = [
                FaceEdit(one.face, one.edit, {t: faces[t, name] for t, name in one.targets.items()}, self._mask(one))
                for one in edits
            ]
            frames = edited(editor, video, named, options, monitor)
        else:
            one, size, frames = self._animated(editor, video, asked, options)
            edits = [one]
        samples, marked = Samples(editor, info.shown_frames), not all(one.edit.is_nothing for one in edits)
        for times, data in self._encoded_pieces(frames, folder, size, info.fps, samples, marked=marked):
            rows = {str(t): _rows(kept, samples.edits[t], editor) for t, kept in samples.kept.items()}
            samples.kept.clear()
            piece = Piece(times, rows, f"{len(pieces):06d}-{secrets.token_hex(4)}.mp4")
            self.store.store.publish(self.store.part(job, piece.file), data)
            record = self.store.part(job, f"{len(pieces):06d}.json")
            if not self.store.store.publish(record, json.dumps(asdict(piece)).encode(), replace=False):
                raise PieceReplaced
            pieces.append(piece)
            job.pieces = len(pieces)
        if monitor is not None:
            monitor.end()
        job.notes, job.rows, job.total = video.notes(), _mean_rows(pieces), job.finished
        self._finish(pieces, edit_record(edits), folder, size, info.fps, None if asked.silent else str(path))

    def _finished_pieces(self) -> list[Piece]:
        """The finished pieces from the first on, without a gap."""
        pieces: list[Piece] = []
        while self.store.store.exists(name := self.store.part(self.job, f"{len(pieces):06d}.json")):
            pieces.append(Piece(**{"file": f"{len(pieces):06d}.mp4", **json.loads(self.store.store.read(name))}))
        return pieces

    def _targets(self, editor: Editor, edits: Sequence[FaceEdit[str]]) -> dict[tuple[Trait, str], Face]:
        """The face that each trait is copied from, by trait and hash of the picture."""
        files, asked = self.store.files(self.job), {pair for one in edits for pair in one.targets.items()}
        return {(trait, name): self._target(editor, files[name], trait) for trait, name in asked}

    def _mask(self, one: FaceEdit[str]) -> np.ndarray | None:
        return None if one.mask is None else self._picture(self.store.files(self.job)[one.mask])

    def _picture(self, data: bytes) -> np.ndarray:
        return self.runner.decoders.picture(data, MAX_PIXELS)

    def _target(self, editor: Editor, data: bytes, trait: str) -> Face:
        image = self._picture(data)
        faces = choose_faces(editor.analyzer(image), "largest")
        if trait in TAKES_IDENTITY:
            self.runner.policy.check_faces(image, faces)
        return faces[0]

    def _animated(
        self, editor: Editor, video: VideoSource, asked: AnimationJob, options: VideoOptions
    ) -> tuple[FaceEdit[str], tuple[int, int], Iterator[EditedFrame]]:
        """The edit of an animation, the size of its frames, and the frames."""
        image = self._picture(self.store.files(self.job)[self.job.picture])
        image = reduced(image, asked.max_side)
        sources = choose_faces(editor.analyzer(image), asked.face)
        self.runner.policy.check_faces(image, sources)
        from_video: frozenset[Any] = frozenset(asked.take - set(self.job.traits))
        edit = replace(asked.edit, take=asked.edit.take | from_video)
        options = replace(options, smooth=asked.smooth, absolute=asked.absolute, neutral=asked.neutral)
        height, width = image.shape[:2]
        pictures: dict[Any, str] = dict(self.job.traits)
        mask = pictures.pop("mask", None)
        one = FaceEdit(asked.face, edit, pictures, mask)
        targets = {trait: face for (trait, _), face in self._targets(editor, [one]).items()}
        frames = animated(editor, image, sources, video, edit, targets, from_video, options, mask=self._mask(one))
        return one, (width, height), frames

    def _encoded_pieces(
        self,
        frames: Iterator[EditedFrame],
        folder: Path,
        size: tuple[int, int],
        fps: float,
        samples: Samples,
        *,
        marked: bool,
    ) -> Iterator[tuple[list[float], bytes]]:
        """The times and the file of each piece as it is finished."""
        path, times = folder / "piece.mp4", list[float]()
        with ExitStack() as stack:
            writer: VideoWriter | None = None
            began = 0.0
            for frame in frames:
                if self.stop.is_set():
                    raise Stopped
                self.runner.check_length(frame.index + 1, frame.time_s)
                if frame.image is None:
                    continue
                if writer is None:
                    writer = stack.enter_context(VideoWriter(path, size, fps, reorder=False))
                    began = time.monotonic()
                image = self.runner.signer.mark(frame.image, self._mark) if marked else frame.image
                times.append(frame.time_s)
                writer.write(image, frame.time_s - times[0])
                self.job.finished += 1
                if marked:
                    samples.take(frame)
                if len(times) >= MAX_PIECE_FRAMES or time.monotonic() - began > MAX_PIECE_S:
                    stack.close()
                    yield times, path.read_bytes()
                    writer, times = None, []
            if writer is not None:
                stack.close()
                yield times, path.read_bytes()

    def _finish(
        self,
        pieces: list[Piece],
        edits: dict[str, Any],
        folder: Path,
        size: tuple[int, int],
        fps: float,
        sound: str | None,
    ) -> None:
        job, store = self.job, self.store.store
        out = folder / f"out.{job.suffix}"
        files = []
        for piece in pieces:
            files.append(folder / piece.file)
            files[-1].write_bytes(store.read(self.store.part(job, piece.file)))
        times = [piece.times for piece in pieces]
        self.runner.decoders.join(JoinRequest(str(out), size, fps, list(map(str, files)), times, sound))
        is_video = isinstance(self.asked, VideoJob)
        sources = {"source": job.clip} if is_video else {"source": job.picture, "driver": job.clip}
        record = {
            "request": job.id, "mark": f"{self._mark:08x}", "model": self.model, "seed": self.asked.seed, **sources,
            **edits,
        }  # fmt: skip
        video = (folder / "clip").read_bytes()
        pictures, donors = self.store.files(job), {name for trait, name in job.traits.items() if "identity" in trait}
        origins = [Origin(video), *(Origin(pictures[name], "componentOf") for name in sorted(donors))]
        if not is_video:
            origins = [Origin(pictures[job.picture], "componentOf"), Origin(video, "inputTo"), *origins[1:]]
        data = self.runner.signer.sign_file(out.read_bytes(), job.media_type, record, origins)
        data = self.store.put(job, 0, data)
        if self.runner.audit_log is not None:
            entry = {**record, "key": job.owner, "request_id": job.id, "in": record["source"], "out": picture_id(data)}
            self.runner.audit_log({name: value for name, value in entry.items() if name not in ("source", "request")})

    @property
    def _mark(self) -> int:
        """Bits of the watermark; the same after a restart."""
        return int(self.job.id[:8], 16)


def _rows(kept: list[Any], edit: EditSpec, editor: Editor) -> list[Row]:
    """Requested and achieved values on each measured frame."""
    head = editor.analyzer.head
    return [
        (numbers(target, edit, head, source), None if measured is None else numbers(measured, edit, head))
        for source, target, measured in kept
    ]


def _mean_rows(pieces: list[Piece]) -> list[Row]:
    """The mean requested and achieved values of each face."""
    by_track: dict[str, list[Row]] = {}
    for piece in pieces:
        for track, rows in piece.rows.items():
            by_track.setdefault(track, []).extend(rows)
    means: list[Row] = []
    for rows in list(by_track.values())[:MAX_FACES]:
        achieved = [values for _, values in rows if values is not None]
        means.append((_mean([values for values, _ in rows]), _mean(achieved) if achieved else None))
    return means


def _mean(rows: list[Values]) -> Values:
    values = {name: [r[name] for r in rows if math.isfinite(r.get(name, math.nan))] for name in rows[0]}
    return {name: round(sum(v) / len(v), 4) for name, v in values.items() if v}
