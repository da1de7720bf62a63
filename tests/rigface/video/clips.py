"""Small videos made in memory, and ways to read all of one."""

import io
import tempfile
from fractions import Fraction

import av
import numpy as np

from rigface.video.decode import Truncated, read_frames

H264 = {
    "g": "12",
    "bf": "2",
    "threads": "1",
    "x264-params": "scenecut=0",
}  # one thread; the bytes still differ between processors: cut by packets, not by bytes
FAST = {"g": "10", "bf": "0"}


def clip(
    pictures,
    kind="mp4",
    codec="mpeg4",
    *,
    options=None,
    pixels="yuv420p",
    stamps=None,
    ticks=Fraction(1, 30),
    rotate=None,
    muxer=None,
    change=None,
) -> bytes:
    """Encode (H, W, 3) pictures; `stamps` in `ticks` (default: 30 per second); `change(stream)` sets what is rare."""
    with tempfile.NamedTemporaryFile() as out, av.open(out.name, "w", format=kind, options=muxer or {}) as target:
        stream = target.add_stream(codec, rate=30, options=FAST if options is None else options)
        stream.height, stream.width = pictures[0].shape[:2]
        stream.pix_fmt, stream.codec_context.time_base = pixels, ticks
        if rotate:
            stream.set_display_rotation(*rotate)
        if change:
            change(stream)
        for i, picture in enumerate(pictures):
            frame = av.VideoFrame.from_ndarray(picture, format="rgb24").reformat(format=pixels, threads=1)
            frame.pts, frame.time_base = (stamps[i] if stamps else i), ticks
            target.mux(stream.encode(frame))
        target.mux(stream.encode())
        target.close()
        return out.read()


def greys(count, height=32, width=32, step=None):
    """Frames that can be told apart by their grey: frame i has about 20 + i * step."""
    step = step or min(200 // count, 10)
    return [np.full((height, width, 3), 20 + i * step, np.uint8) for i in range(count)]


def textures(count, height=64, width=96):
    """Moving noise with a new scene every 15 frames: B-frames have something to do."""
    rng = np.random.default_rng(0)
    out = []
    for i in range(count):
        if i % 15 == 0:
            scene = rng.integers(0, 256, (height // 8, width // 8, 3), np.uint8).repeat(8, 0).repeat(8, 1)
        out.append(np.roll(scene, i % 15, axis=1))
    return out


def read(data, fps=None, chunk=None):
    return list(read_frames(io.BytesIO(data), fps, chunk))


def read_all_there_is(file, fps=None, chunk=None):
    """The good frames, and whether Truncated came after them."""
    got = []
    try:
        for frame in read_frames(file, fps, chunk):
            got.append(frame)
    except Truncated as e:
        return got, e.reason
    return got, None


def same(left, right):
    assert [(f.index, f.time_s) for f in left] == [(f.index, f.time_s) for f in right]
    for a, b in zip(left, right):
        np.testing.assert_array_equal(a.image, b.image)
