"""Sparse samples of a video without decoding what nobody looks at.

Path: FrameReader.packets -> groups of pictures -> `sampled` -> `decode.py`.

A group is a key frame and what follows it up to the next one. Its stamps, read without decoding, say which samples lie
in it and at which index. Of a group without a sample nothing is decoded; of the others what comes before the last
sample, except frames that no other refers to and that are no samples. If frames before a key frame in time, but after
it in the file, are samples, the group before is decoded to its end, because they refer to it.

The samples are those of reading every frame, pixel for pixel. Where stamps or packets raise a doubt, `Untrusted` sends
the caller back to that. Damage in parts that are not decoded is not noticed.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import av

from rigface.video.frame_reader import FrameReader, stream_seconds

CODECS = ("h264", "hevc", "mpeg4", "mpeg2video", "vp9", "libdav1d", "mjpeg")  # one packet is one shown frame
MAX_GROUP_BYTES = 64 * 2**20  # of compressed data, held in memory
MIN_STEP = 2  # frames from sample to sample, on average, from which on this is worth while


class Untrusted(Exception):
    """The stamps or the data do not allow to leave frames out."""


@dataclass
class _Group:
    packets: list[Any] = field(default_factory=list)
    samples: dict[int, tuple[int, float]] = field(default_factory=dict)  # stamp -> index, time
    is_last: bool = False  # nothing after it is wanted

    @property
    def has_leading(self) -> bool:
        """True if a sample refers to the group before."""
        return any(stamp < self.packets[0].pts for stamp in self.samples)


def is_worth(reader: FrameReader, fps: float) -> bool:
    """True if the samples of a video may be read by `sampled`, and it pays."""
    stream = reader.stream
    rate = stream.average_rate or stream.guessed_rate
    return (
        reader.is_plain
        and stream.codec_context.name in CODECS
        and stream.time_base is not None
        and rate is not None
        and fps * MIN_STEP <= rate
    )


def sampled(
    reader: FrameReader,
    slot: Callable[[int, float], int],
    start: tuple[int, int, int] | None = None,
    stop_slot: int | None = None,
) -> Iterator[tuple[av.VideoFrame, int, float]]:
    """Sampled frames with their indices and times.

    Args:
        slot: of a frame, by its index and time.
        start: stamp and index of the first frame that counts, and stamp of the first shown one; None: the start.
        stop_slot: excluded; None: to the end.

    Raises:
        Untrusted: frames cannot be left out here; after some good frames, perhaps.
        SeekMissed: as FrameReader.
    """
    codec = reader.stream.codec_context
    waiting: dict[int, tuple[int, float]] = {}  # samples given to the decoder
    before: _Group | None = None

    def decoded(group: _Group, follows: bool) -> Iterator[tuple[av.VideoFrame, int, float]]:
        """Decode a group: to its end if another follows on it, else to its last sample."""
        places = [k for k, packet in enumerate(group.packets) if packet.pts in group.samples]
        if not places and not follows:
            return
        waiting.update(group.samples)
        for packet in group.packets if follows else group.packets[: places[-1] + 1]:
            if codec.name != "libdav1d":  # which would heed the first setting for ever
                codec.skip_frame = "DEFAULT" if packet.pts in group.samples else "NONREF"
            if (frames := reader.decode(packet)) is None:
                raise Untrusted
            yield from known(frames)
        if not follows:
            try:
                yield from known(codec.decode(None))
            except av.FFmpegError as e:
                raise Untrusted from e
            codec.flush_buffers()
            if waiting:  # a frame did not come out
                raise Untrusted

    def known(frames: list[av.VideoFrame]) -> Iterator[tuple[av.VideoFrame, int, float]]:
        for frame in frames:
            if frame.pts in waiting:
                if frame.pts != next(iter(waiting)):  # one before it did not come out
                    raise Untrusted
                yield frame, *waiting.pop(frame.pts)

    for group in _planned(reader, slot, start, stop_slot):
        if before is not None:
            yield from decoded(before, group.has_leading)
        before = group
    if before is None:
        raise Untrusted
    yield from decoded(before, False)


def _planned(
    reader: FrameReader, slot: Callable[[int, float], int], start: tuple[int, int, int] | None, stop_slot: int | None
) -> Iterator[_Group]:
    """The groups and their samples, up to the last wanted one."""
    first, index, origin = start or (None, 0, None)
    index, last, before = index - 1, None, None
    for packets in _groups(reader):
        group = _Group(packets)
        for stamp in sorted(packet.pts for packet in packets if not packet.is_discard):
            if last is None and first is not None and stamp < first:
                continue
            if (last is None and first not in (None, stamp)) or (last is not None and stamp <= last):
                raise Untrusted
            origin, last, index = stamp if origin is None else origin, stamp, index + 1
            time_s = stream_seconds(stamp - origin, reader.stream)
            now = slot(index, time_s)
            if stop_slot is not None and now >= stop_slot:
                yield group
                return
            if before is None or now > before:
                group.samples[stamp] = index, time_s
            before = now
        yield group


def _groups(reader: FrameReader) -> Iterator[list[Any]]:
    """Packets from key frame to key frame; Untrusted if stamps are missing or go backwards, or data is broken."""
    packets: list[Any] = []
    size, last_dts = 0, None
    for packet in reader.packets():
        if not packet.size:
            break
        is_backwards = last_dts is not None and packet.dts is not None and packet.dts <= last_dts
        if packet.pts is None or packet.is_corrupt or is_backwards or not (packets or packet.is_keyframe):
            raise Untrusted
        last_dts = packet.dts if packet.dts is not None else last_dts
        if packet.is_keyframe and packets:
            yield packets
            packets, size = [], 0
        packets.append(packet)
        size += packet.size
        if size > MAX_GROUP_BYTES:
            raise Untrusted
    if packets:
        yield packets
