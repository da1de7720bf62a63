"""Audio tracks of a video being written: copied packet by packet, or encoded again as AAC.

Path: packets of another file -> `VideoWriter` -> `CopiedTrack` or `EncodedTrack` -> the container.
"""

import io
from typing import Any

import av

from rigface.video.demux import open_video

TRIED_PACKETS = 3
LAYOUTS = {1: "mono", 2: "stereo"}  # of streams whose container does not name the channels; more become stereo


def fits(name: str, index: int, container: str) -> bool:
    """Try to copy the first packets of an audio stream into a container; some are refused only when written."""
    with open_video(name) as (source, _):
        stream = source.streams[index]
        try:
            with av.open(io.BytesIO(), "w", format=container) as trial:
                track = trial.add_stream_from_template(stream)
                for count, packet in enumerate(source.demux(stream)):
                    if packet.dts is None or count == TRIED_PACKETS:
                        break
                    packet.stream = track
                    trial.mux(packet)
        except (av.FFmpegError, ValueError):
            return False
    return True


class CopiedTrack:
    """An audio track in the container `out` whose packets are those of the stream `source`."""

    def __init__(self, out: Any, source: Any) -> None:
        self._out, self._track, self._packets = out, out.add_stream_from_template(source), 0

    def write(self, packet: Any) -> None:
        """Copy a packet; one that is refused after others were taken is damaged, and is left out."""
        packet.stream = self._track
        try:
            self._out.mux(packet)
        except av.FFmpegError as e:
            if not self._packets or isinstance(e, OSError):
                raise
        self._packets += 1

    def finish(self) -> None:
        """Nothing is left."""


class EncodedTrack:
    """An audio track that is decoded and encoded as AAC; as `CopiedTrack`."""

    def __init__(self, out: Any, source: Any) -> None:
        context = source.codec_context
        layout = LAYOUTS.get(context.channels, "stereo")
        self._out = out
        self._track: Any = out.add_stream("aac", rate=context.sample_rate, layout=layout)
        self._resampler: Any = av.AudioResampler("fltp", layout, context.sample_rate)
        self._is_finished = False

    def write(self, packet: Any) -> None:
        """Decode a packet, and encode what is complete; a damaged one is left out."""
        try:
            frames = packet.decode()
        except av.error.InvalidDataError:
            return
        for frame in frames:
            self._encode(frame)

    def finish(self) -> None:
        """Encode the rest, once."""
        if not self._is_finished:
            self._is_finished = True
            self._encode(None)
            self._out.mux(self._track.encode(None))

    def _encode(self, frame: Any) -> None:
        for part in self._resampler.resample(frame):
            self._out.mux(self._track.encode(part))
