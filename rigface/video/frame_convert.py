"""Conversion of decoded frames to images: colour, depth, transparency, pixel shape and rotation.

Path: `decode.py` -> FrameConverter -> `Frame.image`.

Colour follows the flags of the stream; without flags, BT.709 from 1280 px wide or 577 px high, BT.601 below.
Transparency is composited over white, as in `image.py`. HDR (HLG, PQ) is tone-mapped (`tone_mapping.py`). Interlaced
frames are taken as they are.

swscale converts. Its fast path rounds down, which makes 4:2:0 pictures about one level of 255 too dark (measured: -1.2
on average); its exact path takes twelve times as long and is not worth it here.
"""

from fractions import Fraction
from math import cos, radians, sin
from typing import Any

import av
import numpy as np
from av.video.reformatter import Colorspace, VideoReformatter
from av.video.stream import VideoStream

from rigface.video.demux import MAX_FRAME_PIXELS, refuse_size
from rigface.video.tone_mapping import is_hdr, tone_mapped

_UNSPECIFIED = 2  # AVCOL_SPC_UNSPECIFIED, ISO/IEC 23091-2
_ONE = 1 << 16  # 1.0 in the fixed point of a display matrix


class FrameConverter:
    """Makes images of the frames of one stream. Keeps the scaler: setting it up costs more than a frame."""

    def __init__(self, stream: VideoStream) -> None:
        self._reformatter, self._bt709 = VideoReformatter(), Colorspace.ITU709
        self._aspect = Fraction(stream.sample_aspect_ratio or 1)
        self._rotation: int | None = None  # that `_known` belongs to
        self._known = (_ONE, 0, 0, _ONE)

    def __call__(self, frame: av.VideoFrame) -> np.ndarray:
        """(H, W, 3) uint8 RGB, upright, with square pixels; BadVideo if the frame is larger than is let in."""
        refuse_size(frame.width, frame.height)
        width, height = self._square(frame)
        has_alpha = any(c.is_alpha for c in frame.format.components)
        is_hd = frame.width >= 1280 or frame.height > 576
        guess_709 = frame.colorspace == _UNSPECIFIED and is_hd and not frame.format.is_rgb
        hdr = is_hdr(frame)
        rgb = self._reformatter.reformat(
            frame,
            width=width,
            height=height,
            format="rgb48le" if hdr else "rgba" if has_alpha else "rgb24",
            src_colorspace=self._bt709 if guess_709 else None,
            threads=1,  # with more, its slices race: at odd widths 4 % of frames had a wrong row between two slices
        ).to_ndarray()
        if hdr:
            rgb = tone_mapped(rgb, frame.color_trc)
        elif has_alpha:
            colour, alpha = rgb[..., :3].astype(np.uint16), rgb[..., 3:].astype(np.uint16)
            rgb = ((colour * alpha + 255 * (255 - alpha) + 127) // 255).astype(np.uint8)
        return np.ascontiguousarray(_turn(rgb, self._matrix(frame)))

    def shape(self, frame: av.VideoFrame) -> tuple[int, int, int]:
        """Height and width of the upright image, and the clockwise turn in degrees that made it upright."""
        width, height = self._square(frame)
        marker = np.array([[0, 1], [3, 2]])[..., None]  # numbered clockwise from the top left
        turned = _turn(marker, self._matrix(frame))[..., 0]
        steps = next((k for k in range(4) if turned.flat[0] == (4 - k) % 4), 0)
        return (*_turn(np.empty((height, width, 0)), self._matrix(frame)).shape[:2], 90 * steps)

    def _matrix(self, frame: av.VideoFrame) -> tuple[int, int, int, int]:
        """The frame's display matrix, read once: PyAV's side data and its frame keep each other in memory."""
        if frame.rotation != self._rotation:
            self._rotation, self._known = frame.rotation, _matrix(frame)
        return self._known

    def _square(self, frame: av.VideoFrame) -> tuple[int, int]:
        """Width and height with square pixels; a pixel aspect that no camera has is not believed."""
        aspect = self._aspect
        if aspect == 1 or not 1 / 4 <= aspect <= 4:
            return frame.width, frame.height
        width = max(frame.width, round(frame.width * aspect))
        height = max(frame.height, round(frame.height / aspect))
        return (width, height) if width * height <= MAX_FRAME_PIXELS else (frame.width, frame.height)


def _matrix(frame: av.VideoFrame) -> tuple[int, int, int, int]:
    """a, b, c, d of the display matrix: shown x = a x + c y, shown y = b x + d y."""
    try:
        known: Any = frame.side_data  # read it whole at once: one entry of a kind PyAV does not know spoils all
    except ValueError:
        turned = radians(frame.rotation)
        cosine, sine = round(_ONE * cos(turned)), round(_ONE * sin(turned))
        return cosine, -sine, sine, cosine
    for data in known:
        if data.type.name == "DISPLAYMATRIX" and data.buffer_size >= 36:
            a, b, _, c, d = np.frombuffer(bytes(data), np.int32)[:5].tolist()
            return a, b, c, d
    return _ONE, 0, 0, _ONE


def _turn(image: np.ndarray, matrix: tuple[int, int, int, int]) -> Any:
    """Turn and mirror (H, W, C) by the nearest multiple of 90 degrees."""
    a, b, c, d = matrix
    if abs(a) < abs(c):
        image, a, d = image.swapaxes(0, 1), c, b
    return image[:: -1 if d < 0 else 1, :: -1 if a < 0 else 1]
