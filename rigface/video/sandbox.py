"""Decoding of untrusted videos and pictures in worker processes, like `decode.py` and `concat.py`, at a copy's price.

Path: uploaded clips -> DecoderPool -> `rigface/worker_process.py` -> SandboxedDecoder in the worker -> frames.

A file that crashes its decoder, makes it hang, or has it ask for too much memory, costs its reader an error and this
machine a process of some megabytes. The process has no credentials (`worker_process.py`) and no network, starts no
programs, and opens no files but those of `DecoderPool.folder` (`confinement.py`). A frame goes from one process to the
other as it is: 1920 x 1080 px in 7 ms.
"""

import io
import os
import shutil
import tempfile
import threading
import time
import weakref
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import av
import numpy as np

from rigface import confinement
from rigface.errors import BadImage, BadVideo
from rigface.image import MAX_PIXELS, decode, decode_linear, pixels_of
from rigface.types import Frame
from rigface.video.decode import VideoInfo, probe_video, read_frames
from rigface.worker_process import WorkerDied, WorkerProcess

VideoFile = str | bytes
"""A path below `DecoderPool.folder`, or the content."""
PICTURE_S = 20.0  # time that a picture may take
PICTURE_PIXELS = 80_000_000  # of all pictures that a pool decodes at a time; each takes 7 to 15 bytes for a moment
MAX_IDLE = 2  # idle processes that are kept for the next file


class DecoderDied(BadVideo):
    """The decoding process crashed, or hung and was ended. The same file may succeed another time."""


class DecodeTimeout(BadVideo):
    """The time limit is over; the frames before it are good."""


@dataclass(frozen=True)
class JoinRequest:
    """Arguments of a concatenation, see `VideoConcatenator`."""

    path: str
    size: tuple[int, int]
    fps: float
    pieces: Sequence[str]
    times: Sequence[Sequence[float]]
    sound: str | None


class DecoderPool:
    """Pool of decoding processes, each lent to one reader at a time. For many threads.

    Args:
        memory_mb: memory that a process may take beyond that of its start.
        silence_s: time without a frame after which a process is ended.

    Attributes:
        folder: the one place whose files the processes read and write; it goes with the pool.
    """

    def __init__(self, memory_mb: int = 2048, silence_s: float = 30.0) -> None:
        self.folder = tempfile.mkdtemp(prefix="rigface-decoders-")
        weakref.finalize(self, shutil.rmtree, self.folder, ignore_errors=True)
        self._start = {"memory_mb": memory_mb, "folder": self.folder}
        self._silence_s = silence_s
        self._idle: list[WorkerProcess] = []
        self._lock = threading.RLock()  # the collector may end a reader, which returns its process, anywhere below
        self._room, self._pixels = threading.Condition(), 0  # of the pictures that are being decoded

    def start(self) -> None:
        """Start a process for the first file, without waiting for it: it takes 0.4 s of another core."""
        with self._lock:
            self._idle = self._idle or [self._worker()]
            self._idle[0].start()

    def probe(self, file: VideoFile) -> VideoInfo:
        """As `probe_video`."""
        with self._lent(None) as ask:
            info: VideoInfo = ask("probe", file)
            return info

    def frames(self, file: VideoFile, fps: float | None = None, limit_s: float | None = None) -> Iterator[Frame]:
        """As `read_frames`, or DecoderDied, DecodeTimeout; `limit_s` includes the caller's own time."""
        with self._lent(limit_s) as ask:
            ask("open", file, fps)
            while (frame := ask("next")) is not None:
                yield frame

    def picture(
        self, data: bytes, max_pixels: int = MAX_PIXELS, limit_s: float = PICTURE_S, linear: bool = False
    ) -> np.ndarray:
        """As `image.decode`, when the pictures that are being decoded leave room for its pixels.

        Args:
            linear: as `image.decode_linear`.

        BadImage, too, if its decoder crashed, or took too long or too much memory.
        """
        pixels = min(pixels_of(data), PICTURE_PIXELS)
        with self._room:
            self._room.wait_for(lambda: self._pixels + pixels <= PICTURE_PIXELS)
            self._pixels += pixels
        try:
            with self._lent(limit_s) as ask:
                image: np.ndarray = ask("picture", data, max_pixels, linear)
                return image
        except BadVideo as e:
            raise BadImage(e.reason) from e
        finally:
            with self._room:
                self._pixels -= pixels
                self._room.notify_all()

    def join(self, what: JoinRequest) -> None:
        """Make a video with `VideoConcatenator`."""
        with self._lent(None) as ask:
            ask("join", what)

    def close(self) -> None:
        """End the idle processes."""
        with self._lock:
            idle, self._idle = self._idle, []
        for child in idle:
            child.close()

    __del__ = close

    def _worker(self) -> WorkerProcess:
        return WorkerProcess("rigface.video.sandbox:SandboxedDecoder", self._start, self._silence_s)

    @contextmanager
    def _lent(self, limit_s: float | None) -> Iterator[Callable[..., Any]]:
        with self._lock:
            child = self._idle.pop() if self._idle else None
        child = child or self._worker()
        child.wait_ready()
        confinement.warn_of_missing()
        end = None if limit_s is None else time.monotonic() + limit_s

        def ask(*words: Any) -> Any:
            left = self._silence_s if end is None else end - time.monotonic()
            if left <= 0:
                raise DecodeTimeout(f"it takes more than {limit_s:g} s to read")
            child.silence_s = min(self._silence_s, left)
            try:
                return child(words)
            except WorkerDied as died:
                if end is not None and time.monotonic() >= end:
                    raise DecodeTimeout(f"it takes more than {limit_s:g} s to read") from None
                raise DecoderDied(f"its decoder ended: {died.how}") from None

        try:
            yield ask
        finally:
            with self._lock:
                is_kept = len(self._idle) < MAX_IDLE
                if is_kept:
                    self._idle.append(child)
            if not is_kept:
                child.close()


class SandboxedDecoder:
    """Decoder in the worker process."""

    def __init__(self, memory_mb: int, folder: str) -> None:
        av.logging.set_level(None)
        confinement.limit_memory(memory_mb)
        os.environ |= {"TMPDIR": folder, "OPENCV_TEMP_PATH": folder}  # OpenCV reads .hdr from a file only
        confinement.confine_process(writable=[folder])
        self._frames: Iterator[Frame] = iter(())

    def __call__(self, words: tuple[Any, ...], begin: Callable[[str], None]) -> Any:
        verb, *rest = words
        begin(verb)
        try:
            return getattr(self, f"_{verb}")(*rest)
        except MemoryError:
            self._frames = iter(())
            raise BadVideo("it takes too much memory to read") from None

    def _probe(self, file: VideoFile) -> VideoInfo:
        return probe_video(_source(file))

    def _picture(self, data: bytes, max_pixels: int, linear: bool) -> np.ndarray:
        return (decode_linear if linear else decode)(data, max_pixels=max_pixels)

    def _open(self, file: VideoFile, fps: float | None) -> None:
        self._frames = read_frames(_source(file), fps)

    def _next(self) -> Frame | None:
        return next(self._frames, None)

    def _join(self, what: JoinRequest) -> None:
        from rigface.video.concat import VideoConcatenator

        with VideoConcatenator(what.path, what.size, what.fps, like=what.pieces[0], sound=what.sound) as whole:
            for piece, times in zip(what.pieces, what.times):
                whole.append(piece, times)


def _source(file: VideoFile) -> Any:
    return io.BytesIO(file) if isinstance(file, bytes) else file
