"""Opening of untrusted videos: content before name, header before decoding, no other file, bounded size.

Path: a path or a byte stream -> open_video -> `decode.py`, which reads frames from it.

What an attacker could try, and why it fails: FFmpeg is given a byte stream and no name, so neither a name such as
`%03d.png` nor its suffix can select a reader; only the containers listed here are probed, so a playlist (HLS, DASH,
concat) that names other files or addresses is not a video; should a container still ask for another file, the
callback that would open it refuses. Frames beyond `MAX_FRAME_PIXELS` are refused from the header, and by the decoder
itself if the header lied.
"""

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import Any, BinaryIO, NoReturn, cast

import av
from av.container import InputContainer
from av.stream import Discard, Disposition
from av.video.stream import VideoStream

from rigface.errors import BadVideo
from rigface.image import SNIFF_BYTES, sniff

MAX_FRAME_PIXELS = 8192 * 8192

_CONTAINERS = (
    "mov,mp4,m4a,3gp,3g2,mj2,matroska,webm,avi,mpegts,mpeg,mpegvideo,flv,asf,ogg,gif"
    ",mjpeg,h264,hevc"  # bare streams
)
_READ_BYTES = 64 * 1024  # one call back into Python per read; the larger, the more is thrown away at a seek

Source = str | BinaryIO


@contextmanager
def open_video(file: Source, threads: int = 1) -> Iterator[tuple[InputContainer, VideoStream]]:
    """Open the container and its video stream, at the start, of a path or a seekable binary file, which is left open.

    Raises:
        BadVideo: empty, not a video, unreadable, without a picture, or with frames too large to be let in.
        OSError: the file itself cannot be read.
    """
    with open(file, "rb", buffering=0) if isinstance(file, str) else nullcontext(file) as handle:
        kind = _kind(handle)
        try:
            container = av.open(
                _Bytes(handle),  # PyAV needs read, seek and tell alone
                options={"max_pixels": str(MAX_FRAME_PIXELS)},
                container_options={"format_whitelist": _CONTAINERS, "protocol_whitelist": "none"},
                metadata_errors="replace",
                buffer_size=_READ_BYTES,
                io_open=_refuse_to_open,
            )
        except av.FFmpegError as e:
            raise BadVideo("unreadable container" if kind == "video" else "not a video") from e
        with container:
            reading = cast("InputContainer", container)
            try:
                yield reading, _video_stream(reading, threads)
            except av.FFmpegError as e:  # what no reader expected
                raise BadVideo(f"it cannot be decoded ({e.strerror})") from e


def _kind(file: Any) -> str:
    file.seek(0)
    head = file.read(_READ_BYTES)
    if head.startswith((b"GIF8", b"\xff\xd8")):  # one picture or many: the second may be far
        head += file.read(SNIFF_BYTES - len(head))
    if not head:
        raise BadVideo("empty file")
    if (kind := sniff(head)) == "image":
        raise BadVideo("not a video: its content is a picture")
    file.seek(0)
    return kind


def _video_stream(container: InputContainer, threads: int) -> VideoStream:
    stream = cast("VideoStream | None", container.streams.best("video"))
    if stream is None or stream.disposition & Disposition.attached_pic:  # the cover of a song is no video
        raise BadVideo("no video stream")
    codec = stream.codec_context
    if codec is None:
        raise BadVideo("no decoder for its video stream")
    if not codec.width:  # a header that the decoder refused to follow
        raise BadVideo(f"no frame size can be read: damaged, or beyond {MAX_FRAME_PIXELS / 1e6:.0f} megapixels")
    refuse_size(codec.width, codec.height)
    codec.options = {**codec.options, "max_pixels": str(MAX_FRAME_PIXELS)}
    codec.thread_count, codec.thread_type = threads, ("NONE" if threads == 1 else "AUTO")
    for other in container.streams:
        if other is not stream:
            other.discard = Discard.all
    return stream


def refuse_size(width: int, height: int) -> None:
    """Raises BadVideo when a frame of this size is too large to be let in."""
    if width * height > MAX_FRAME_PIXELS:
        raise BadVideo(f"frames too large: {width} x {height}, more than {MAX_FRAME_PIXELS / 1e6:.0f} megapixels")


def _refuse_to_open(url: str, flags: int, options: dict[str, Any]) -> NoReturn:
    raise BadVideo("it refers to another file")


class _Bytes:
    """A file without its name, and without a way to close it."""

    def __init__(self, file: Any) -> None:
        self.read, self.seek, self.tell = file.read, file.seek, file.tell
