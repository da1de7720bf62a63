"""Concatenation of video pieces, packet by packet, with the sound of another file.

Path: pieces that `VideoWriter(reorder=False)` wrote, at different times or on different machines -> VideoConcatenator
-> one video. Nothing is decoded, so the pictures are those of the pieces to the bit.
"""

from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

from rigface.video.demux import open_video
from rigface.video.writer import VideoWriter


class VideoConcatenator(VideoWriter):
    """A video made of pieces written with the settings of `like`, the first one; a context, as `VideoWriter`."""

    def __init__(
        self, path: str | Path, size: tuple[int, int], fps: float, *, like: str | Path, sound: str | None = None
    ) -> None:
        super().__init__(path, size, fps, sound=sound)
        self._like = str(like)

    def append(self, piece: str | Path, times: Sequence[float]) -> None:
        """Append the next piece, with the times of its pictures in seconds since the first picture of the whole.

        ValueError if it has another number of pictures, or was written with other settings.
        """
        with open_video(str(piece)) as (container, pictures):
            if bytes(pictures.codec_context.extradata or b"") != self._header:
                raise ValueError(f"{Path(piece).name}: was written with other settings than the first piece")
            packets = [p for p in container.demux(pictures) if p.size]
            if len(packets) != len(times):
                raise ValueError(f"{Path(piece).name}: want {len(times)} pictures, got {len(packets)}")
            for packet, time_s in zip(packets, times):
                self._copy_sound(until_s=time_s + self._delay)
                shown = round((time_s + self._delay) / self._clock)
                lasts = round((packet.duration or 0) * Fraction(packet.time_base or 0) / self._clock)
                packet.time_base = self._clock
                packet.pts = packet.dts = shown
                packet.duration = lasts
                packet.stream = self._stream
                with self._errors_named():
                    self._out.mux(packet)
                self.frames += 1

    def _picture(self, clock: Fraction) -> Any:
        _, pictures = self._stack.enter_context(open_video(self._like))
        self._header = bytes(pictures.codec_context.extradata or b"")
        self._clock = clock
        stream: Any = self._out.add_stream_from_template(pictures)
        stream.time_base = clock
        return stream

    def _flush(self) -> None:
        """Nothing to flush: packets are copied."""
