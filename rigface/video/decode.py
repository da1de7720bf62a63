"""Video decoding: upright frames with exact times, sampling, and chunks.

Path: plan_chunks (once per video) -> read_frames (once per chunk) -> detect. Below it `demux.py` opens,
`frame_reader.py` decodes and keeps the time, `frame_convert.py` makes images.

**Time** is the presentation stamp minus that of the first shown frame, never index / fps; AVI, which has no such
stamps, counts. **Shown** frames are what a player shows: edit lists are respected. **Upright**: the display matrix is
applied, and pixels that are not square are made so, by enlarging one side.

**Sampling.** slot(t) = floor(t * fps + 1e-6). A frame is a sample when its slot is larger than that of the shown frame
before it; the first always is. Without fps every frame is one, and its slot is its index. The rule looks at times
only, so it picks the same frames from any start: `plan_chunks` cuts a long video into chunks (ranges of slots), and
reading the chunks one by one yields what reading the whole yields, pixel for pixel. For that `plan_chunks` walks the
packets once, without decoding; if their stamps cannot be trusted it decodes instead, and chunks are then read from the
start of the file. Only in a video with damage in its middle may the index of later frames differ: chunks count the
lost frames, too.

Samples that are sparse are read by `sparse_reader.py`, which decodes only what they need.
"""

from bisect import bisect_right
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from itertools import pairwise
from math import ceil, floor

import av

from rigface.errors import BadVideo
from rigface.types import Frame
from rigface.video.demux import Source, open_video
from rigface.video.frame_convert import FrameConverter
from rigface.video.frame_reader import FrameReader, SeekMissed, Truncated, stream_seconds
from rigface.video.sparse_reader import Untrusted, is_worth, sampled

__all__ = ["Chunk", "Truncated", "VideoInfo", "plan_chunks", "probe_video", "read_frames"]


@dataclass(frozen=True)
class VideoInfo:
    """Properties of a video from its header; the number of frames that decode may be smaller."""

    width: int  # of the upright frame with square pixels
    height: int
    fps: float  # average; 0 if unknown
    duration_s: float  # of what is shown; 0 if unknown
    shown_frames: int  # from the container's index or, if `plan_chunks` walked the packets, counted; 0 if neither
    codec: str
    pixel_format: str
    rotation_deg: int  # how far the stored picture is turned clockwise to stand upright: 0, 90, 180 or 270


@dataclass(frozen=True, slots=True)
class Chunk:
    """The samples of one range of slots; plain numbers, so that it travels as a row."""

    index: int  # position among the chunks, from 0
    start_slot: int
    stop_slot: int | None  # excluded; None: to the end of the video
    seek_s: float | None  # stamp of the packet to start decoding at; None: the start of the file
    start_frame: int  # index of its first frame
    start_pts: int | None = None  # its stamp, in ticks of the stream; None: find it by counting from the start
    origin_pts: int | None = None  # stamp of the video's first shown frame


def probe_video(file: Source) -> VideoInfo:
    """The properties of a video, a path or a seekable binary file, by its header; BadVideo if nothing is decoded."""
    return _look(file)[0]


def plan_chunks(file: Source, fps: float | None, chunk_frames: int = 300) -> tuple[VideoInfo, list[Chunk]]:
    """Cut a video into chunks of at most `chunk_frames` samples, of even size; a short one is a single chunk.

    BadVideo if nothing can be decoded, ValueError if fps or chunk_frames is not positive.
    """
    _check(fps)
    if chunk_frames < 1:
        raise ValueError(f"chunk_frames: want at least 1, got {chunk_frames}")
    whole = [Chunk(0, 0, None, None, 0)]
    info, origin = _look(file)
    if 0 < info.shown_frames <= chunk_frames:
        return info, whole
    stamps = _walk(file, origin)
    times = [t for _, t in stamps.shown] if stamps else list(_decoded_times(file))
    info = replace(info, shown_frames=len(times), duration_s=times[-1] + 1 / (info.fps or 25))
    slots = [_slot(i, t, fps) for i, t in enumerate(times)]
    samples = [i for i, slot in enumerate(slots) if i == 0 or slot > slots[i - 1]]
    count = ceil(len(samples) / chunk_frames)
    if count == 1:
        return info, whole
    starts = [samples[len(samples) * k // count] for k in range(count)]
    bounds = [*starts, None]
    return info, [
        Chunk(k, slots[a], None if b is None else slots[b], *(stamps.seek(a) if stamps else (None, a, None, None)))
        for k, (a, b) in enumerate(pairwise(bounds))
        if a is not None
    ]


def read_frames(
    file: Source, fps: float | None = None, chunk: Chunk | None = None, *, threads: int = 1
) -> Iterator[Frame]:
    """The samples of a video, or of one chunk of it, in order; one decoded frame in memory at a time.

    Args:
        file: a path or a seekable binary file.
        fps: samples per second; None: every shown frame. The value given to `plan_chunks`.
        chunk: from `plan_chunks`; None: the whole video.
        threads: of the decoder.

    Raises:
        BadVideo: at the first frame, when nothing decodes.
        Truncated: after the last good frame, when the data ends early or has holes.
    """
    _check(fps)
    chunk = chunk or Chunk(0, 0, None, None, 0)
    last = -1
    if fps is not None and (chunk.start_frame == 0 or chunk.start_pts is not None):
        try:
            for frame in _read_sparsely(file, fps, chunk, threads):
                last = frame.index
                yield frame
            return
        except (Untrusted, SeekMissed):  # every frame is decoded, then, and those given out are left out
            pass
    if chunk.seek_s is not None:
        try:
            yield from (frame for frame in _read(file, fps, chunk, True, threads) if frame.index > last)
            return
        except SeekMissed:  # the seek went past the first frame, so nothing was given out yet: the long way
            pass
    yield from (frame for frame in _read(file, fps, chunk, False, threads) if frame.index > last)


def _check(fps: float | None) -> None:
    if fps is not None and not fps > 0:
        raise ValueError(f"fps: want a positive number or None, got {fps}")


def _slot(index: int, time_s: float, fps: float | None) -> int:
    return index if fps is None else floor(time_s * fps + 1e-6)


def _look(file: Source) -> tuple[VideoInfo, int | None]:
    """The header, and the first frame with its stamp."""
    with open_video(file) as (container, stream):
        reader = FrameReader(container, stream)
        first, _ = next(reader.shown(None))
        height, width, turned = FrameConverter(stream).shape(first)
        span = stream.duration * stream.time_base if stream.duration and stream.time_base else 0
        index = stream.index_entries
        is_whole = reader.is_mov and 0 < stream.frames <= len(index)  # a fragmented file lists one fragment at a time
        info = VideoInfo(
            width=width,
            height=height,
            fps=float(stream.average_rate or 0),
            duration_s=float(span or (container.duration or 0) / 1e6),
            shown_frames=sum(not e.is_discard for e in index) if is_whole else 0,
            codec=stream.codec_context.name,
            pixel_format=first.format.name,
            rotation_deg=turned,
        )
        return info, first.pts


def _decoded_times(file: Source) -> Iterator[float]:
    """Time of every shown frame, by decoding all."""
    with open_video(file) as (container, stream), suppress(Truncated):
        for _, time_s in FrameReader(container, stream).shown(None):
            yield time_s


def _read_sparsely(file: Source, fps: float, chunk: Chunk, threads: int) -> Iterator[Frame]:
    with open_video(file, threads) as (container, stream):
        reader, convert, start = FrameReader(container, stream), FrameConverter(stream), None
        if not is_worth(reader, fps):
            raise Untrusted
        if chunk.start_pts is not None and chunk.origin_pts is not None:
            start = chunk.start_pts, chunk.start_frame, chunk.origin_pts
        if start and chunk.seek_s is not None:
            reader.seek(chunk.seek_s, start[0])
        for frame, index, time_s in sampled(reader, partial(_slot, fps=fps), start, chunk.stop_slot):
            yield Frame(convert(frame), index, time_s)
        reader.report_holes()


def _read(file: Source, fps: float | None, chunk: Chunk, seek: bool, threads: int) -> Iterator[Frame]:
    with open_video(file, threads) as (container, stream):
        reader, convert = FrameReader(container, stream), FrameConverter(stream)
        if seek:
            assert chunk.seek_s is not None
            assert chunk.start_pts is not None
            reader.seek(chunk.seek_s, chunk.start_pts)
        index, before = -1, None
        try:
            for frame, time_s in reader.shown(chunk.origin_pts):
                if index < chunk.start_frame and chunk.start_pts is not None:  # looking for the first by its stamp
                    if frame.pts is None or frame.pts < chunk.start_pts:
                        continue
                    if seek and frame.pts != chunk.start_pts:
                        break
                    index = chunk.start_frame
                else:
                    index += 1
                    if index < chunk.start_frame:
                        continue
                slot = _slot(index, time_s, fps)
                if chunk.stop_slot is not None and slot >= chunk.stop_slot:
                    break
                if before is None or slot > before:
                    yield Frame(convert(frame), index, time_s)
                before = slot
        except Truncated:
            if before is not None or not seek:
                raise
        except BadVideo as e:
            if before is None and chunk.index == 0:
                raise
            if before is not None or not seek:
                raise Truncated(e.reason) from e
        if before is None:
            raise SeekMissed if seek else Truncated("data ends early")
        reader.report_holes()


@dataclass(frozen=True)
class _Stamps:
    """Presentation stamps and times of the shown frames, and the points at which decoding can start."""

    shown: list[tuple[int, float]]
    keys: list[tuple[int, float]]  # stamp of a key frame, time to seek to

    def seek(self, frame: int) -> tuple[float | None, int, int, int]:
        """`seek_s`, `start_frame`, `start_pts`, `origin_pts` of a chunk that starts at this frame."""
        start, origin = self.shown[frame][0], self.shown[0][0]
        at = bisect_right(self.keys, start, key=lambda key: key[0]) - 1
        return (self.keys[at][1] if at > 0 else None), frame, start, origin


def _walk(file: Source, origin: int | None) -> _Stamps | None:
    """Read every packet without decoding; None if the stamps cannot be trusted."""
    shown, keys, last_dts = [], [], None
    with open_video(file) as (container, stream):
        hides_frames = stream.codec_context.name == "vp8"  # some of its packets are never shown, and do not say so
        if origin is None or container.format.name == "avi" or hides_frames or not stream.time_base:
            return None
        by_pts = "matroska" in container.format.name  # the others seek by decoding time
        try:
            for packet in container.demux(stream):
                if not packet.size:
                    continue
                if packet.pts is None or (last_dts is not None and packet.dts is not None and packet.dts <= last_dts):
                    return None
                last_dts = packet.dts if packet.dts is not None else last_dts
                if packet.is_keyframe:
                    at = packet.pts if by_pts or packet.dts is None else packet.dts
                    keys.append((packet.pts, float(at * stream.time_base)))
                if not packet.is_discard and packet.pts >= origin:
                    shown.append(packet.pts)
        except av.FFmpegError:  # the end of the data; reading the last chunk reports it
            pass
        shown.sort()
        if not shown or shown[0] != origin or any(a == b for a, b in pairwise(shown)):
            return None
        return _Stamps([(p, stream_seconds(p - origin, stream)) for p in shown], sorted(keys))
