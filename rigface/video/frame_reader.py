"""Decoded frames of one stream with their times, and detection of missing data.

Path: open_video -> FrameReader.shown -> `decode.py`, which picks the samples.

A packet that cannot be decoded is left out and remembered. When the last one is broken, the file was cut there:
frames that the decoder still holds back are not asked for, because they may refer to what is missing. Some containers
end silently when they are cut between packets; what they promised (MP4's index, Matroska's duration, AVI's
count) is then compared with what came.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from rigface.errors import BadVideo

if TYPE_CHECKING:
    import av
    from av.container import InputContainer
    from av.video.stream import VideoStream


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
        self.counts = container.format.name == "avi"  # which stores no presentation stamps
        self.step = float(1 / (stream.average_rate or stream.guessed_rate or 25))
        self._must_start_by: int | None = None
        self._damaged = self._ends_early = False

    def seek(self, seek_s: float, start_pts: int) -> None:
        """Go to the key frame at `seek_s`, from which the frame stamped `start_pts` can be reached.

        SeekMissed if the container cannot; or later, from `shown`, if it led to the wrong place.
        """
        import av

        assert self.stream.time_base is not None
        try:
            self.container.seek(round(seek_s / self.stream.time_base), stream=self.stream)
        except av.FFmpegError as e:
            raise SeekMissed from e
        self._must_start_by = start_pts

    def shown(self, origin: int | None) -> Iterator[tuple[av.VideoFrame, float]]:
        """Frames and their times in seconds since `origin` (None: the first frame's stamp).

        Raises:
            BadVideo: nothing decodes.
            Truncated: after the frames, when something was missing.
        """
        count, last = 0, -self.step
        for frame in self._decoded():
            origin = frame.pts if origin is None else origin
            if self.counts or frame.pts is None or origin is None:
                time_s = last + self.step
            else:
                time_s = stream_seconds(frame.pts - origin, self.stream)
                if time_s <= last and count:  # two frames with one stamp, or a clock that was set back
                    time_s = last + self.step
            last, count = time_s, count + 1
            yield frame, time_s
        if not count:
            raise BadVideo("nothing in it can be decoded")
        self.report_holes()

    def report_holes(self) -> None:
        """Raises Truncated when something was missing so far."""
        if self._ends_early or self._damaged:
            raise Truncated("data ends early" if self._ends_early else "data is damaged")

    def _decoded(self) -> Iterator[av.VideoFrame]:
        import av

        last: av.Packet[VideoStream] | None = None
        at_hole = False
        try:
            for packet in self.container.demux(self.stream):
                if not packet.size:  # the end
                    self._ends_early = at_hole or self._is_cut_short(last)
                    if at_hole:  # what the decoder still holds may refer to what is missing
                        return
                elif last is None:
                    self._check_start(packet)
                last = packet if packet.size else last
                decoded = _decode(packet)
                at_hole = decoded is None
                self._damaged |= at_hole
                yield from decoded or ()
        except av.FFmpegError:  # the container itself breaks off
            self._ends_early = True

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
        promised = self.stream.metadata.get("DURATION", "")  # Matroska, "00:00:03.000000000"
        if last.pts is None or promised.count(":") != 2:
            return False
        try:
            h, m, s = map(float, promised.split(":"))
        except ValueError:
            return False
        return stream_seconds(last.pts, self.stream) + 1 < 3600 * h + 60 * m + s


def _decode(packet: av.Packet[VideoStream]) -> list[av.VideoFrame] | None:
    """The frames that this packet completes; None when it is broken."""
    import av

    if packet.is_corrupt:  # the container knows that part is missing; some decoders would paint over it
        return None
    try:
        return packet.decode()
    except av.FFmpegError:
        return None
