"""Decoded frames of one stream with their times, and detection of missing data.

Path: open_video -> FrameReader.shown -> `decode.py`, which picks the samples.

A packet that cannot be decoded is left out and remembered. When the last one is broken, the file was cut there:
frames that the decoder still holds back are not asked for, because they may refer to what is missing. Some containers
end silently when they are cut between packets; what they promised (MP4's index, Matroska's size or duration, AVI's
count) is then compared with what came.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from typing import Any, cast

import av
from av.container import InputContainer
from av.video.stream import VideoStream

from rigface.errors import BadVideo
from rigface.video.demux import MAX_FRAME_PIXELS


class Truncated(BadVideo):
    """The data ends early or has holes; raised after the good frames have been given out."""


class SeekMissed(Exception):
    """A seek did not lead to the requested frame."""


def stream_seconds(ticks: int, stream: VideoStream) -> float:
    assert stream.time_base is not None  # every container FFmpeg opens has one
    return ticks * stream.time_base.numerator / stream.time_base.denominator


class FrameReader:
    """Decoded frames of one stream, with their times; remembers what could not be decoded."""

    def __init__(self, container: InputContainer, stream: VideoStream) -> None:
        self.container, self.stream = container, stream
        self.is_mov = container.format.name.startswith("mov")
        self.counts = container.format.name == "avi"  # which numbers its frames, dropped ones too, and has no stamps
        self._numbers: deque[int] = deque()  # of the packets decoded so far whose frames were not given out
        self._decoder = _alpha_decoder(stream)
        self.is_plain = self._decoder is None and not self.counts  # decoded by the stream's own decoder, with stamps
        self.step = float(1 / (stream.average_rate or stream.guessed_rate or 25))
        self._must_start_by: int | None = None
        self._damaged = self._ends_early = self._at_hole = False

    def seek(self, seek_s: float, start_pts: int) -> None:
        """Go to the key frame at `seek_s`, from which the frame stamped `start_pts` can be reached.

        SeekMissed if the container cannot; or later, from `shown`, if it led to the wrong place.
        """
        assert self.stream.time_base is not None
        try:
            self.container.seek(round(seek_s / self.stream.time_base), stream=self.stream)
        except av.FFmpegError as e:
            raise SeekMissed from e
        self._must_start_by = start_pts

    def shown(self, origin: int | None) -> Iterator[tuple[av.VideoFrame, float]]:
        """Frames and their times in seconds since `origin` (None: the first frame's stamp).

        BadVideo if nothing decodes; Truncated after the frames, when something was missing.
        """
        count, last = 0, -self.step
        for frame in self._decoded():
            stamp = frame.pts
            if self.counts:  # frames come in the order they are shown in, and so do the numbers
                stamp = self._numbers.popleft() if self._numbers else None
                origin = origin if count else stamp
            origin = stamp if origin is None else origin
            time_s = last + self.step
            if stamp is not None and origin is not None:
                own_s = stream_seconds(stamp - origin, self.stream)
                if own_s > last or not count:  # else two frames have one stamp, or a clock was set back
                    time_s = own_s
            last, count = time_s, count + 1
            yield frame, time_s
        if not count:
            raise BadVideo("nothing in it can be decoded")
        self.report_holes()

    def report_holes(self) -> None:
        """Raises Truncated when something was missing so far."""
        if self._ends_early or self._damaged:
            raise Truncated("data ends early" if self._ends_early else "data is damaged")

    def packets(self) -> Iterator[av.Packet[VideoStream]]:
        """Packets in the order of decoding, to be given to `decode` in turn; at the end one without content."""
        last: av.Packet[VideoStream] | None = None
        try:
            for packet in self.container.demux(self.stream):
                if not packet.size:  # the end
                    self._ends_early = self._at_hole or self._is_cut_short(last)
                    if self._at_hole:  # what the decoder still holds may refer to what is missing
                        return
                elif last is None:
                    self._check_start(packet)
                last = packet if packet.size else last
                yield packet
        except av.FFmpegError:  # the container itself breaks off
            self._ends_early = True

    def decode(self, packet: av.Packet[VideoStream]) -> list[av.VideoFrame] | None:
        """The frames that this packet completes; None, and the hole is remembered, when it is broken."""
        decoded = self._decode(packet)
        self._at_hole = decoded is None
        self._damaged |= self._at_hole
        return decoded

    def _decoded(self) -> Iterator[av.VideoFrame]:
        for packet in self.packets():
            decoded = self.decode(packet)
            if packet.size and packet.dts is not None and decoded is not None:
                self._numbers.append(packet.dts)
            yield from decoded or ()

    def _check_start(self, packet: av.Packet[VideoStream]) -> None:
        """Without a key frame some decoders make up a picture, so nothing may be decoded from the wrong place."""
        wanted = self._must_start_by
        if wanted is not None and not (packet.is_keyframe and packet.pts is not None and packet.pts <= wanted):
            raise SeekMissed

    def _is_cut_short(self, last: av.Packet[VideoStream] | None) -> bool:
        """True if the container promised more than it held, though every packet was good."""
        if last is None:
            return False
        if self.is_mov:
            index = self.stream.index_entries
            return len(index) > 0 and last.dts is not None and last.dts < index[-1].timestamp
        if self.counts:
            return last.dts is not None and last.dts + 3 < self.stream.frames
        if (end := _segment_end(self.container)) is not None:
            return self.container.size < end
        promised = self.stream.metadata.get("DURATION", "")  # Matroska, "00:00:03.000000000"
        if last.pts is None or promised.count(":") != 2:
            return False
        try:
            h, m, s = map(float, promised.split(":"))
        except ValueError:
            return False
        return stream_seconds(last.pts, self.stream) + 1 < 3600 * h + 60 * m + s

    def _decode(self, packet: av.Packet[VideoStream]) -> list[av.VideoFrame] | None:
        if packet.is_corrupt:  # the container knows that part is missing; some decoders would paint over it
            return None
        try:
            return packet.decode() if self._decoder is None else self._decoder.decode(packet if packet.size else None)
        except av.FFmpegError:
            return None


def _segment_end(container: InputContainer) -> int | None:
    """Bytes that a Matroska file must have by its header; None for another container, or one written to a pipe."""
    file = cast("Any", container).file.file
    here = file.tell()
    file.seek(0)
    head = file.read(4096)
    file.seek(here)
    at = head.find(b"\x18\x53\x80\x67") + 4  # the segment, which holds everything after the first header
    if "matroska" not in container.format.name or at < 4 or not head[at : at + 1]:
        return None
    width = 9 - head[at].bit_length()  # of the number that follows, in bytes; all ones: not known
    size = int.from_bytes(head[at : at + width], "big") - (1 << 7 * width)
    return None if size == (1 << 7 * width) - 1 else at + width + size


def _alpha_decoder(stream: VideoStream) -> Any:
    """A decoder that reads the transparency of VP8 and VP9, which FFmpeg's own leave out; None for other streams."""
    name = {"vp8": "libvpx", "vp9": "libvpx-vp9"}.get(stream.codec_context.name)
    is_transparent = {key.lower(): value for key, value in stream.metadata.items()}.get("alpha_mode") == "1"
    if name is None or not is_transparent or name not in av.codecs_available:
        return None
    decoder = cast("Any", av.CodecContext.create(name, "r"))
    decoder.options = {"max_pixels": str(MAX_FRAME_PIXELS)}
    decoder.thread_count = stream.codec_context.thread_count
    return decoder
