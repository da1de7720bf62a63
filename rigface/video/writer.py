"""Video writing: frames with exact times, and the copied sound of another file.

Path: edited frames -> VideoWriter -> .mp4, .mov or .mkv. The counterpart of `decode.py`.

**Times.** Frames keep the clock of the file the sound comes from: a time is rounded to its ticks, from which it came,
so nothing shifts and a variable frame rate stays variable. Sound and picture keep their distance; if a file starts
late (MPEG-TS), both are moved to the beginning together.

**Sound** is copied packet by packet, in step with the pictures, so that memory stays small. A stream that the container
does not hold is encoded again (`sound.py`); that is decided before the first picture.

**Codec**: libx264 if PyAV has it, else MPEG-4 part 2. The file appears whole or not at all: it is written beside its
name and renamed at the end.
"""

import os
import zlib
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from fractions import Fraction
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import av
import cv2
import numpy as np
from av.stream import Discard
from av.video.reformatter import Colorspace

from rigface.errors import BadVideo
from rigface.video.demux import open_video
from rigface.video.sound import CopiedTrack, EncodedTrack, fits

SUFFIXES = {".mp4": "mp4", ".m4v": "mp4", ".mov": "mov", ".mkv": "matroska"}
CLOCK = Fraction(1, 90_000)  # without another file's
_SMALL_CLOCK = Fraction(1, 60_000)  # MPEG-4 part 2 holds at most 65,535 ticks a second; all usual rates divide this
_BT709, _BT601 = 1, 6  # ISO/IEC 23091-2


class VideoWriter:
    """A video being written. Use as a context; leaving it with an error leaves no file.

    Args:
        path: of the file; its suffix names the container, one of `SUFFIXES`.
        size: width, height of the pictures, px.
        fps: average rate, a hint for the encoder; times are given with each picture.
        sound: a file whose audio is copied and whose clock is used; None: silent.
        quality: of libx264, 0 (lossless) to 51; 18 looks like the original.
        codec: `libx264` or `mpeg4`; None: the first that is there.
        reorder: False keeps packets in the order of pictures, a little larger, so that pieces can be joined
            (`concat.py`).

    Raises:
        ValueError: the suffix is not one of `SUFFIXES`.
        BadVideo: the sound can neither be copied nor encoded again.
    """

    def __init__(
        self,
        path: str | Path,
        size: tuple[int, int],
        fps: float,
        *,
        sound: str | None = None,
        quality: int = 18,
        codec: str | None = None,
        reorder: bool = True,
    ) -> None:
        self.path = Path(path)
        if self.path.suffix.lower() not in SUFFIXES:
            raise ValueError(f"{self.path.name}: want a name that ends in {', '.join(SUFFIXES)}")
        self._size, self._fps, self._sound, self._quality = size, fps or 25.0, sound, quality
        self._codec, self._reorder = codec or best_codec(), reorder
        short = zlib.crc32(os.fsencode(self.path.name))  # with the name itself it could be too long
        self._beside = self.path.with_name(f".rigface-{os.getpid()}-{short:08x}{self.path.suffix}")
        self._stack = ExitStack()
        self.frames = 0

    def __enter__(self) -> Self:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        try:
            with self._errors_named():
                self._out = self._stack.enter_context(
                    av.open(str(self._beside), "w", format=SUFFIXES[self.path.suffix.lower()])
                )
            self._packets: Iterator[av.Packet[Any]] = iter(())
            self._waiting: av.Packet[Any] | None = None
            self._tracks: dict[int, CopiedTrack | EncodedTrack] = {}
            self._delay, clock = 0.0, CLOCK
            if self._sound is not None:
                clock = self._take_sound(self._sound)
            self._stream = self._picture(clock)
        except BaseException:
            self._give_up()
            raise
        return self

    def write(self, image: np.ndarray, time_s: float) -> None:
        """Write the next frame, (H, W, 3) uint8 RGB, `time_s` after the first picture and later than the one before.

        A frame of another size than the video's, as of a shared screen that was turned, is scaled into it on black.
        """
        width, height = self._size
        if image.shape != (height, width, 3):
            image = _fitted(image, width, height)
        self._copy_sound(until_s=time_s + self._delay)
        frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(image), format="rgb24")
        matrix = Colorspace.ITU709 if self._matrix == _BT709 else Colorspace.ITU601
        frame = frame.reformat(format=self._stream.pix_fmt, dst_colorspace=matrix)
        frame.pts = round((time_s + self._delay) / self._clock)
        frame.time_base = self._clock
        with self._errors_named():
            self._out.mux(self._stream.encode(frame))
        self.frames += 1

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is not None:
            self._give_up()
            return
        try:
            with self._errors_named():
                self._flush()
            self._copy_sound(until_s=None)
            with self._errors_named():
                self._stack.close()
                os.replace(self._beside, self.path)
        except BaseException:
            self._give_up()
            raise

    def _flush(self) -> None:
        self._out.mux(self._stream.encode(None))

    def _give_up(self) -> None:
        """Remove the unfinished file; the error that led here is the one to report."""
        with suppress(av.FFmpegError):  # of a full disk, again
            self._stack.close()
        self._beside.unlink(missing_ok=True)

    @contextmanager
    def _errors_named(self) -> Iterator[None]:
        """Raise errors of the disk and of the encoder with the name of the file."""
        try:
            yield
        except OSError as e:  # those of FFmpeg, too
            raise OSError(e.errno, e.strerror, str(self.path)) from e
        except av.FFmpegError as e:
            width, height = self._size
            reason = f"cannot be written by {self._codec} at {width} x {height} px ({e.strerror})"
            raise BadVideo(f"{self.path.name} {reason}; try another size or container") from e

    def _picture(self, clock: Fraction) -> Any:
        width, height = self._size
        self._clock = clock if self._codec == "libx264" or clock.denominator < 65_536 else _SMALL_CLOCK
        options = {"crf": str(self._quality), "preset": "medium"}
        if self._codec != "libx264":
            options = {"qmin": "2", "qmax": "4"}
        if not self._reorder:
            options["bf"] = "0"
        stream: Any = self._out.add_stream(
            self._codec, rate=Fraction(self._fps).limit_denominator(60_000), options=options
        )
        stream.width, stream.height = width, height
        is_odd = (width % 2 or height % 2) and self._codec == "libx264"
        stream.pix_fmt = "yuv444p" if is_odd else "yuv420p"
        stream.codec_context.time_base = stream.time_base = self._clock
        # The matrix that `frame_convert.py`, and players, assume at this size; recorded if the codec can.
        self._matrix = _BT709 if width >= 1280 or height > 576 else _BT601
        stream.codec_context.colorspace = self._matrix
        stream.codec_context.color_range = 1  # 16-235
        return stream

    def _take_sound(self, name: str) -> Fraction:
        """Open the other file; its clock, and how late its first picture is against the new beginning."""
        container, pictures = self._stack.enter_context(open_video(name))
        clock = Fraction(pictures.time_base or CLOCK)
        first = _first_frame(container, pictures)
        picture_s = float((first.pts or 0) * clock) if first is not None else 0.0
        container, pictures = self._stack.enter_context(open_video(name))
        pictures.discard = Discard.all
        streams = {}
        for stream in container.streams.audio:
            stream.discard = Discard.default
            streams[stream.index] = stream
        starts = [
            float(s.start_time * s.time_base) for s in streams.values() if s.start_time is not None and s.time_base
        ]
        self._begin_s = max(0.0, min([picture_s, *starts]))
        self._delay = picture_s - self._begin_s
        for index, stream in streams.items():
            try:
                copied = fits(name, index, SUFFIXES[self.path.suffix.lower()])
                self._tracks[index] = (CopiedTrack if copied else EncodedTrack)(self._out, stream)
            except (av.FFmpegError, ValueError) as e:
                raise self._unfit(stream.codec_context.name) from e
        if streams:
            self._packets = container.demux(list(streams.values()))
        return clock

    def _copy_sound(self, until_s: float | None) -> None:
        """Move packets over, up to a time; None: all."""
        while True:
            try:
                packet = self._waiting or next(self._packets, None)
            except av.FFmpegError:  # the data breaks off
                packet = None
            self._waiting = None
            if packet is None:
                with self._errors_named():
                    for track in self._tracks.values():
                        track.finish()
                return
            if packet.dts is None or packet.time_base is None:  # the end of a stream
                continue
            if until_s is not None and float(packet.dts * packet.time_base) - self._begin_s > until_s:
                self._waiting = packet
                return
            shift = round(self._begin_s / packet.time_base)
            packet.dts -= shift
            if packet.pts is not None:
                packet.pts -= shift
            stream = packet.stream
            try:
                self._tracks[stream.index].write(packet)
            except av.FFmpegError as e:
                if isinstance(e, OSError):
                    raise OSError(e.errno, e.strerror, str(self.path)) from e
                raise self._unfit(stream.codec_context.name) from e

    def _unfit(self, codec: str) -> BadVideo:
        return BadVideo(
            f"its sound ({codec}) does not fit into {self.path.suffix}: try .mkv, which holds most kinds, or --silent"
        )


def _first_frame(container: Any, pictures: Any) -> Any:
    """The first frame that can be decoded, or None."""
    with suppress(av.FFmpegError):  # the data breaks off
        for packet in container.demux(pictures):
            with suppress(av.FFmpegError):
                if frames := packet.decode():
                    return frames[0]
    return None


def _fitted(image: np.ndarray, width: int, height: int) -> np.ndarray:
    """(height, width, 3) uint8: an image of another size, scaled as large as it fits, in the middle of black."""
    scale = min(width / image.shape[1], height / image.shape[0])
    w, h = (max(1, round(side * scale)) for side in (image.shape[1], image.shape[0]))
    top, left = (height - h) // 2, (width - w) // 2
    out = np.zeros((height, width, 3), np.uint8)
    out[top : top + h, left : left + w] = cv2.resize(image, (w, h), interpolation=cv2.INTER_AREA)
    return out


def best_codec() -> str:
    """libx264 if PyAV was built with it, else mpeg4."""
    try:
        av.codec.Codec("libx264", "w")
    except av.codec.codec.UnknownCodecError:
        return "mpeg4"
    return "libx264"
