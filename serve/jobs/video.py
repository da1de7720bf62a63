"""A clip edited, or a picture animated: a piece at a time, so that a killed service goes on where it stopped.

Path: a `Job` of the kind `video` or `animation` -> `rigface.video_editor`, with decoders in processes of their own, eyes of this process
and the painter of everybody -> pieces of some seconds on the shelf -> joined, with the clip's sound -> sealed -> the result.

A piece is done when its record (`part/<n>.json`) is there: the times of its pictures, and the numbers measured on them. What is
done is looked at again after a restart, so that faces are followed as before, but not painted again.
"""

from __future__ import annotations

import asyncio
import json
import math
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, aclosing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from rigface.editor import Editor, Paint, numbers
from rigface.face.analyzer import FaceAnalyzer, choose_faces
from rigface.image import decode
from rigface.types import Conditions, Face
from rigface.video.decode import VideoInfo
from rigface.video.sandbox import DecoderPool, JoinRequest
from rigface.video.writer import VideoWriter
from rigface.video_editor import EditedFrame, Samples, VideoOptions, VideoSource, animated, edited, reduced
from serve.content_cache import picture_id
from serve.inference.face_worker import composer_of
from serve.jobs.batch import patiently
from serve.jobs.store import Job, JobStore
from serve.limits import MAX_PIXELS, Limits
from serve.messages import ModelInputSpec, SamplingOptions
from serve.problems import ApiError
from serve.provenance.encoder import Origin, Signer
from serve.schemas import PREVIEW, AnimationJob, VideoJob
from serve.security.consent import TAKES_IDENTITY, Policy

PIECE_FRAMES, PIECE_S = 100, 20.0
STUCK_S = 60.0  # between two frames; what takes longer hangs, and nothing in this process can end it
MOST_ROWS = 16  # faces whose numbers are told of


class Stopped(Exception):
    """The job was cancelled, or the service stops."""


@dataclass
class Clips:
    """What makes clips.

    Args:
        load: gives eyes, each used by one job at a time.
        painter: as `serve.inference.diffusion_worker.DiffusionWorker`.
        seal: as in `seal.py`.
        audit: told after each clip.
        policy: whose faces may be edited.
        decoders: of the clips.
        is_stuck: a thread that was told to stop has not; the process should be replaced.
    """

    load: Callable[[], FaceAnalyzer]
    diffusion_worker: Any
    limits: Limits
    signer: Signer
    audit_log: Callable[[dict[str, Any]], None] | None = None
    policy: Policy = field(default_factory=Policy)
    decoders: DecoderPool = field(default_factory=DecoderPool)
    is_stuck: bool = False
    _idle: list[FaceAnalyzer] = field(default_factory=list)

    def look(self, file: str | bytes) -> VideoInfo:
        """What a clip says of itself.

        Raises:
            BadVideo: it cannot be read.
            Trouble: `too-large`.
        """
        info, most = self.decoders.probe(file), self.limits
        if info.width * info.height > most.clip_pixels:
            raise ApiError(
                "too-large", f"clip: {info.width} x {info.height} px; a frame may have {most.clip_pixels} px"
            )
        self._within(info.shown_frames, info.duration_s)
        return info

    async def __call__(self, job: Job, job_store: JobStore) -> None:
        """Make the clip.

        Raises:
            Trouble, BadInput, ValueError: it cannot be made.
        """
        asked: Any = (VideoJob if job.kind == "video" else AnimationJob).model_validate(job.asked)
        model = asked.model or next(m.name for m in await self.diffusion_worker.models() if m.default)
        input_spec = None if model == PREVIEW else await self.diffusion_worker.input_spec(model)
        stop, loop = threading.Event(), asyncio.get_running_loop()

        def paint(conditions: Conditions, seed: int, _prompt: str = "") -> np.ndarray:  # which the options have
            one = lambda: self._painted(model, conditions, _options(asked, seed))  # noqa: E731
            waiting = asyncio.run_coroutine_threadsafe(patiently(one), loop)
            while not waiting.done() and not stop.wait(0.02):
                pass
            if stop.is_set():
                waiting.cancel()
                raise Stopped
            return waiting.result()

        work = _Making(self, job, job_store, asked, model, input_spec, paint if input_spec else None, stop)
        thread = asyncio.ensure_future(asyncio.to_thread(work.run))
        thread.add_done_callback(
            lambda done: done.cancelled() or done.exception()
        )  # of a thread that was told to stop nobody asks
        try:
            await asyncio.shield(thread)
        finally:
            stop.set()
            await asyncio.wait({thread}, timeout=STUCK_S)
            self.is_stuck = self.is_stuck or not thread.done()

    async def _painted(self, model: str, conditions: Conditions, options: SamplingOptions) -> np.ndarray:
        stream = self.diffusion_worker.paint(model, conditions, options, None, self.limits.edit_s)
        async with aclosing(stream) as events:
            async for event in events:
                if hasattr(event, "painted_s"):
                    return event.image
        raise RuntimeError("a painter ended without a picture")

    def eyes(self) -> FaceAnalyzer:
        """Eyes that nobody uses; give them back to `idle`."""
        return self._idle.pop() if self._idle else self.load()

    def back(self, see: FaceAnalyzer) -> None:
        """Somebody is done with them."""
        self._idle.append(see)

    def _within(self, count: int, seconds: float) -> None:
        most = self.limits
        if count > most.clip_frames or seconds > most.clip_s:
            raise ApiError(
                "too-large",
                f"clip: {count} frames, {seconds:.1f} s; it may have {most.clip_frames} and {most.clip_s:g} s",
            )


class _Making:
    """One clip under way, in a thread."""

    def __init__(
        self, clips: Clips, job: Job, job_store: JobStore, asked: Any, model: str, input_spec: ModelInputSpec | None, paint: Paint | None,
        stop: threading.Event,
    ) -> None:  # fmt: skip
        self.clips, self.job, self.job_store, self.asked, self.model = clips, job, job_store, asked, model
        self.input_spec, self.paint, self.stop = input_spec, paint, stop
        self.watch = clips.policy.watch() if job.kind == "video" else None

    def run(self) -> None:
        see = self.clips.eyes()
        try:
            with tempfile.TemporaryDirectory(prefix="rigface-") as folder:
                self._run(see, Path(folder))
        finally:
            self.clips.back(see)

    def _run(self, see: FaceAnalyzer, folder: Path) -> None:
        job, asked, clips = self.job, self.asked, self.clips
        path = folder / "clip"
        path.write_bytes(self.job_store.clip(job))
        info = clips.look(str(path))
        job.total = info.shown_frames
        editor = Editor(see, self.paint, composer_of(self.input_spec) if self.input_spec is not None else None)
        parts = self._parts()
        job.finished = sum(len(p["times"]) for p in parts)
        clip = VideoSource(str(path), info.fps, clips.decoders.frames)
        size, shown = self._shown(editor, clip, info, job.finished)
        samples = Samples(editor, info.shown_frames)
        for piece in self._pieces(shown, folder, size, info.fps, samples):
            times, data = piece
            rows = {str(track): _rows(kept, asked.edit, editor) for track, kept in samples.kept.items()}
            samples.kept.clear()
            part = {"times": times, "rows": rows}
            self.job_store.store.publish(self.job_store.part(job, len(parts), "mp4"), data)
            self.job_store.store.publish(self.job_store.part(job, len(parts), "json"), json.dumps(part).encode())
            parts.append(part)
            job.tries = 0
        if self.watch is not None:
            self.watch.end()
        job.notes, job.rows, job.total = clip.notes(), _means(parts), job.finished
        self._finish(parts, folder, size, info.fps, None if asked.silent else str(path))

    def _parts(self) -> list[dict[str, Any]]:
        """Records of the pieces that are done, from the first one on without a gap."""
        out: list[dict[str, Any]] = []
        while self.job_store.store.exists(name := self.job_store.part(self.job, len(out), "json")):
            out.append(json.loads(self.job_store.store.read(name)))
        return out

    def _shown(
        self, editor: Editor, clip: VideoSource, info: VideoInfo, begin: int
    ) -> tuple[tuple[int, int], Iterator[EditedFrame]]:
        job, asked, files = self.job, self.asked, self.job_store.files(self.job)
        givers: dict[Any, Face] = {trait: self._face(editor, files[name], trait) for trait, name in job.traits.items()}
        how = VideoOptions(
            face=str(asked.face), seed=asked.seed, begin=begin,
            at_once=self.clips.limits.edits_at_once if self.paint else 1, hold_boxes=self.paint is not None,
            smooth=getattr(asked, "smooth", True), absolute=getattr(asked, "absolute", False),
            neutral=getattr(asked, "neutral", "first"),
        )  # fmt: skip
        if job.kind == "video":
            return (info.width, info.height), edited(editor, clip, asked.edit, givers, how, self.watch)
        image = reduced(decode(files[job.picture], max_pixels=MAX_PIXELS), asked.max_side)
        sources = choose_faces(editor.see(image), asked.face)
        self.clips.policy.check_faces(image, sources)
        taken = frozenset(asked.take - set(job.traits))
        asked.edit = _taking(asked.edit, taken)
        height, width = image.shape[:2]
        return (width, height), animated(editor, image, sources, clip, asked.edit, givers, taken, how)

    def _face(self, editor: Editor, data: bytes, trait: str) -> Face:
        image = decode(data, max_pixels=MAX_PIXELS)
        faces = choose_faces(editor.see(image), "largest")
        if trait in TAKES_IDENTITY:
            self.clips.policy.check_faces(image, faces)
        return faces[0]

    def _pieces(
        self, shown: Iterator[EditedFrame], folder: Path, size: tuple[int, int], fps: float, samples: Samples
    ) -> Iterator[tuple[list[float], bytes]]:
        """Times and file of each piece, as it is done."""
        path, times = folder / "piece.mp4", list[float]()
        with ExitStack() as stack:
            film: VideoWriter | None = None
            began = 0.0
            for one in shown:
                if self.stop.is_set():
                    raise Stopped
                self.clips._within(one.index + 1, one.time_s)
                if one.image is None:
                    continue
                if film is None:
                    film, began = stack.enter_context(VideoWriter(path, size, fps, reorder=False)), time.monotonic()
                image = one.image
                if not self.asked.edit.is_nothing:
                    image = self.clips.signer.mark(image, self._mark())
                times.append(one.time_s)
                film.write(image, one.time_s - times[0])
                self.job.finished += 1
                if not self.asked.edit.is_nothing:
                    samples.take(one)
                if len(times) >= PIECE_FRAMES or time.monotonic() - began > PIECE_S:
                    stack.close()
                    yield times, path.read_bytes()
                    film, times = None, []
            if film is not None:
                stack.close()
                yield times, path.read_bytes()

    def _finish(
        self, parts: list[dict[str, Any]], folder: Path, size: tuple[int, int], fps: float, sound: str | None
    ) -> None:
        job, store = self.job, self.job_store.store
        out = folder / f"out.{job.suffix}"
        pieces = []
        for k in range(len(parts)):
            pieces.append(folder / f"{k}.mp4")
            pieces[-1].write_bytes(store.read(self.job_store.part(job, k, "mp4")))
        times = [part["times"] for part in parts]
        self.clips.decoders.join(JoinRequest(str(out), size, fps, list(map(str, pieces)), times, sound))
        sources = {"source": job.clip} if job.kind == "video" else {"source": job.picture, "driver": job.clip}
        record = {
            "request": job.id, "mark": f"{self._mark():08x}", "model": self.model, "seed": self.asked.seed, **sources,
            "edit": self.asked.edit.to_dict(), "from": job.traits,
        }  # fmt: skip
        clip = (folder / "clip").read_bytes()
        origins = [Origin(clip)]
        if job.kind == "animation":
            origins = [Origin(self.job_store.files(job)[job.picture], "componentOf"), Origin(clip, "inputTo")]
        data = self.clips.signer.film(out.read_bytes(), job.media_type, record, origins)
        data = self.job_store.put(job, 0, data)
        if self.clips.audit_log is not None:
            entry = {**record, "key": job.owner, "request_id": job.id, "in": record["source"], "out": picture_id(data)}
            self.clips.audit_log({name: value for name, value in entry.items() if name not in ("source", "request")})
        store.delete_folder(f"jobs/{job.id}/part")

    def _mark(self) -> int:
        """The same after a restart."""
        return int(self.job.id[:8], 16)


def _options(asked: Any, seed: int) -> SamplingOptions:
    g, words = asked.guidance, asked.edit.prompt or None
    return SamplingOptions(seed, asked.steps, asked.scheduler, g.identity, g.attributes, g.text, asked.strength, words)


def _taking(edit: Any, taken: frozenset[Any]) -> Any:
    from dataclasses import replace

    return replace(edit, take=edit.take | taken)


def _rows(kept: list[Any], edit: Any, editor: Editor) -> list[list[Any]]:
    """Asked and achieved on each frame looked at again."""
    head = editor.see.head
    return [[numbers(w, edit, head), None if now is None else numbers(now, edit, head)] for _, w, now in kept]


def _means(parts: list[dict[str, Any]]) -> list[list[Any]]:
    """One row per face: means of what was asked and achieved."""
    by_track: dict[str, list[list[Any]]] = {}
    for part in parts:
        for track, rows in part["rows"].items():
            by_track.setdefault(track, []).extend(rows)
    out = []
    for rows in list(by_track.values())[:MOST_ROWS]:
        found = [achieved for _, achieved in rows if achieved is not None]
        out.append([_mean([asked for asked, _ in rows]), _mean(found) if found else None])
    return out


def _mean(rows: list[dict[str, float]]) -> dict[str, float]:
    values = {name: [r[name] for r in rows if math.isfinite(r.get(name, math.nan))] for name in rows[0]}
    return {name: round(sum(v) / len(v), 4) for name, v in values.items() if v}
