"""Frames of one unit -> faces: decode, detect, track, align, crop, and chips of the few that are recognised.

Path: UnitPlan -> FrameProcessor (in a confined child process) -> Record and faces as Arrow IPC. Full frames end here.

One pass over the frames with one decoded frame in memory, or some that a GPU looks at together. Which faces get an
identity vector is decided as they pass by (`FramePicker`). A later stage computes the vectors from their chips, so that
this process does without torch, which takes seconds to import and 250 MB.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from typing import BinaryIO, TypeVar

import av  # noqa: F401  (slow to import: not in the first unit's times)
import cv2
import pyarrow as pa

from pipelines.extract import components
from pipelines.extract.config import MODEL_FOLDERS, Settings
from pipelines.extract.plan import UnitPlan
from pipelines.extract.unit import Record, ipc
from pipelines.inputs import open_input, sources
from rigface import assets, confinement, schema
from rigface.errors import BadInput
from rigface.face.detection.detector import BatchDetector, KeyframeDetector
from rigface.face.detection.tracking import Tracker
from rigface.face.identity.dlib_embedding import FramePicker
from rigface.face.steps import AlignedFaces, align
from rigface.image import decode, encode_jpeg
from rigface.storage import s3_client
from rigface.types import Frame
from rigface.video.decode import Truncated, read_frames

T = TypeVar("T")
MEMORY_GB = 4  # for frames, beside the models; an 8K video takes 2
AHEAD, AHEAD_BYTES = 32, 256 * 2**20  # frames that a GPU looks at together, at most


class FrameProcessor:
    """All work on whole frames. Built once per child process. `device` is that of the detector's networks."""

    def __init__(self, settings: Settings, device: str = "cpu") -> None:
        cv2.setNumThreads(1)  # there are as many processes as cores
        self._settings = settings
        self._detector = components.detector(settings, device)
        self._ahead = 1 if device == "cpu" else AHEAD
        self._identity = components.identity(settings)
        has_crops = settings.wants("crop") or components.needs_fit(settings) or components.needs_mask(settings)
        self._quality = settings.jpeg_quality if has_crops else 0

    def __call__(
        self, plan: UnitPlan, begin: Callable[[str], None], file: BinaryIO | None = None
    ) -> tuple[Record, bytes | None]:
        """The record of one unit, filled, and its faces as an Arrow IPC stream, None if it has none.

        `begin` is called with the name of each step as it begins; `file` is the input, if it is open already.
        """
        record = Record.of(plan)
        clock, cpu = Clock(begin), time.process_time()
        s3_client.sign_of_life = lambda: begin("decode")  # waiting for a storage is not hanging
        detect, tracker, faces = KeyframeDetector(self._detector), Tracker(), _FaceColumns(self._identity)
        try:
            for frame in self._looked_at(clock.over("decode", self._frames(plan, file)), clock):
                if record.width is None:
                    record.height, record.width = frame.image.shape[:2]
                record.frames += 1
                record.last_frame, record.last_time_s = frame.index, frame.time_s
                with clock("detect"):
                    detections = detect(frame.image)
                with clock("track"):
                    tracks = tracker.update(frame.image, detections)
                with clock("align"):
                    for detection, track in zip(detections, tracks):
                        aligned = align([frame.image], [detection], self._settings.crop_rule)
                        faces.add(frame, aligned, track, self._quality)
                if self._identity is not None:
                    with clock("identity"):
                        for detection, track in zip(detections, tracks):
                            faces.picker.offer(track, frame.index, frame.image, detection)
        except BadInput as e:
            record.status = "partial" if record.frames or isinstance(e, Truncated) else "error"
            record.stage, record.reason = e.stage, e.reason
            record.crash = type(e).__name__ if isinstance(e, open_input.CannotRead) else None
        except (MemoryError, cv2.error) as e:
            if isinstance(e, cv2.error) and e.code != cv2.Error.StsNoMem:
                raise
            record.status, record.stage, record.crash = "partial" if record.frames else "error", "decode", "MemoryError"
            record.reason = f"it needs more than {MEMORY_GB} GB of memory"
        record.faces, record.tracks = len(faces), len(set(faces.tracks))
        record.seconds = clock.seconds
        record.cpu_seconds = time.process_time() - cpu
        return record, ipc(faces.table()).to_pybytes() if len(faces) else None

    def _looked_at(self, frames: Iterator[Frame], clock: Clock) -> Iterator[Frame]:
        """The same frames, those before an error too, of which the detector has seen several at once if it can."""
        is_over = False
        failure: Exception | None = None
        while not is_over:
            batch: list[Frame] = []
            while not is_over and len(batch) < self._ahead and sum(f.image.nbytes for f in batch) < AHEAD_BYTES:
                try:
                    batch.append(next(frames))
                except StopIteration:
                    is_over = True
                except Exception as e:
                    is_over, failure = True, e
            if len(batch) > 1 and isinstance(self._detector, BatchDetector):
                with clock("detect"):
                    self._detector.prepare([frame.image for frame in batch])
            yield from batch
        if failure is not None:
            raise failure

    def _frames(self, plan: UnitPlan, file: BinaryIO | None) -> Iterator[Frame]:
        with open_input.opened(sources.located(plan.uri, self._settings.root), file) as content:
            if plan.chunk is None:
                yield Frame(decode(sources.read_image(content)), 0, 0.0)
            else:
                yield from read_frames(content, self._settings.rate, plan.chunk)


def confined(settings: Settings, network: bool, device: str = "cpu") -> FrameProcessor:
    """A frame processor in a process that may take `MEMORY_GB` beside the models, and open only their files."""
    processor = FrameProcessor(settings, device)
    folders = [os.environ.get(assets.FOLDER_VARIABLE, ""), *(getattr(settings, name) for name in MODEL_FOLDERS)]
    confinement.limit_memory(MEMORY_GB * 1024)
    confinement.confine_process(readable=filter(None, folders), network=network)
    return processor


class Clock:
    """Wall time by step; calls `begin` as a step begins."""

    def __init__(self, begin: Callable[[str], None]) -> None:
        self.seconds: dict[str, float] = {}
        self._begin = begin
        self._step, self._since = "", 0.0

    def __call__(self, step: str) -> Clock:
        self._step = step
        return self

    def __enter__(self) -> None:
        self._begin(self._step)
        self._since = time.perf_counter()

    def __exit__(self, *_: object) -> None:
        self.seconds[self._step] = self.seconds.get(self._step, 0.0) + time.perf_counter() - self._since

    def over(self, step: str, items: Iterable[T]) -> Iterator[T]:
        """The items; the time to get each counts as `step`."""
        iterator = iter(items)
        while True:
            with self(step):
                item = next(iterator, None)
            if item is None:
                return
            yield item


class _FaceColumns:
    """The faces of a unit so far, column by column."""

    def __init__(self, identity: components.Identity | None) -> None:
        self.tracks: list[int] = []
        self.picker = FramePicker() if identity is None else FramePicker(cut=identity.chip)
        self._frames: list[tuple[int, float]] = []
        self._faces: list[AlignedFaces] = []  # one each, without the crop
        self._crops: list[bytes | None] = []

    def __len__(self) -> int:
        return len(self.tracks)

    def add(self, frame: Frame, face: AlignedFaces, track: int, quality: int) -> None:
        """Add one face, its crop as JPEG; quality 0: without it."""
        self.tracks.append(track)
        self._frames.append((frame.index, frame.time_s))
        self._faces.append(replace(face, crops=[]))
        self._crops.append(encode_jpeg(face.crops[0], quality) if quality else None)

    def table(self) -> pa.Table:
        """The columns, with `_score`, `_brighter` and `_chip` for later stages."""
        count, faces = len(self), self._faces
        chips = {(track, frame): chip for track, picks in self.picker.picks().items() for frame, chip in picks}
        picked = [chips.get((track, frame)) for track, (frame, _) in zip(self.tracks, self._frames)]
        blendshapes = [face.blendshapes for face in faces]
        return pa.table(
            {
                "frame_index": pa.array([i for i, _ in self._frames], pa.int32()),
                "time_s": pa.array([t for _, t in self._frames], pa.float64()),
                "track": pa.array(self.tracks, pa.int32()),
                "status": pa.array(["ok"] * count),
                "reason": pa.nulls(count, pa.string()),
                "box": schema.column([face.boxes for face in faces], 4),
                "frame_to_crop": schema.column([face.frame_to_crop for face in faces], 6),
                "landmarks": schema.column([face.landmarks for face in faces], faces[0].landmarks.size),
                "blendshapes": schema.column(blendshapes, 1 if blendshapes[0] is None else blendshapes[0].size),
                "crop": pa.array(self._crops, pa.binary()),
                "_chip": pa.array([None if chip is None else chip.tobytes() for chip in picked], pa.binary()),
                "_score": pa.array([face.scores[0] for face in faces], pa.float32()),
                "_brighter": pa.array(
                    [1.0 if face.brighter is None else face.brighter[0] for face in faces], pa.float32()
                ),
            }
        )
