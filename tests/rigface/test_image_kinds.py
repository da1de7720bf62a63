"""Kinds of files as strangers have them: profiles, AVIF, and streams that are not pictures."""

import io
import sys
from types import ModuleType

import numpy as np
import pytest
from PIL import Image, ImageCms, ImageFile

from rigface.errors import BadImage
from rigface.image import decode, encode_jpeg, sniff


def noise(width: int, height: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)


def gif(*frames: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    first, *rest = (Image.fromarray(f) for f in frames)
    first.save(buffer, "GIF", save_all=True, append_images=rest)  # no `loop`: plays once
    return buffer.getvalue()


def test_play_once_gif_is_a_video_though_its_second_frame_is_far():
    data = gif(*(noise(400, 400, k) for k in range(3)))
    assert b"NETSCAPE" not in data
    assert data.index(b"\x2c") < 64 * 1024 < len(data) // 3
    assert sniff(data) == "video"
    assert sniff(gif(noise(400, 400))) == "image"


def test_motion_jpeg_is_a_video_and_one_photograph_is_not():
    frame = encode_jpeg(noise(64, 64))
    assert sniff(frame) == "image"
    assert sniff(frame * 3) == "video"
    assert sniff(frame + b"trailing data of a camera") == "image"


def test_multi_picture_jpeg_is_an_image():
    mpf = b"\xff\xe2\x00\x08MPF\x00\0\0"
    frame = encode_jpeg(noise(64, 64))
    assert sniff(frame[:2] + mpf + frame[2:] + frame) == "image"


@pytest.mark.parametrize("cut", [0, 1, 100, 187])
def test_transport_stream_may_begin_inside_a_packet(cut):
    packets = b"".join(b"G" + bytes([k]) * 187 for k in range(8))
    assert sniff(packets[cut:]) == "video"
    assert sniff(b"GG" * 8) == "unknown"


@pytest.mark.parametrize("start", [b"\x67\x64", b"\x09\xf0", b"\x40\x01"])
def test_bare_h264_and_hevc_are_videos(start):
    assert sniff(b"\0\0\0\1" + start + bytes(50)) == "video"


def p3_profile() -> bytes:
    """A matrix profile with other primaries than sRGB, made by changing those of Pillow's."""
    data = bytearray(ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes())
    tags = {}
    for k in range(int.from_bytes(data[128:132], "big")):
        at = 132 + 12 * k
        tags[bytes(data[at : at + 4])] = int.from_bytes(data[at + 4 : at + 8], "big")
    # rXYZ, gXYZ, bXYZ of Display P3, adapted to D50.
    primaries = {
        b"rXYZ": (0.5151, 0.2412, -0.0011),
        b"gXYZ": (0.2919, 0.6922, 0.0419),
        b"bXYZ": (0.1572, 0.0666, 0.7841),
    }
    for name, xyz in primaries.items():
        for axis, value in enumerate(xyz):
            at = tags[name] + 8 + 4 * axis
            data[at : at + 4] = round(value * 65536).to_bytes(4, "big", signed=True)
    start = tags[b"desc"]
    return bytes(data[:start]) + bytes(data[start:]).replace("sRGB".encode("utf-16-be"), "wide".encode("utf-16-be"), 1)


def test_wide_colours_are_converted_to_srgb():
    buffer = io.BytesIO()
    Image.new("RGB", (8, 8), (200, 100, 100)).save(buffer, "PNG", icc_profile=p3_profile())
    red, green, blue = decode(buffer.getvalue())[0, 0].tolist()
    assert red > 205  # the same light needs more of sRGB's narrower red
    assert green < 100
    assert blue < 102


def test_damaged_profile_counts_as_none():
    buffer = io.BytesIO()
    Image.new("RGB", (8, 8), (200, 100, 100)).save(buffer, "PNG", icc_profile=b"no profile")
    assert decode(buffer.getvalue())[0, 0].tolist() == [200, 100, 100]


def test_avif_is_read():
    buffer = io.BytesIO()
    Image.new("RGB", (32, 16), (200, 100, 50)).save(buffer, "AVIF", quality=95)
    image = decode(buffer.getvalue())
    assert image.shape == (16, 32, 3)
    assert np.abs(image.astype(int) - [200, 100, 50]).max() < 8


def test_heic_without_its_package_names_the_way_out():
    with pytest.raises(BadImage, match=r"rigface\[heic\]"):
        decode(b"\0\0\0\x18ftypheic" + bytes(100))


def test_heic_is_read_with_its_package(monkeypatch):
    """The package registers a plugin of Pillow; this one stands for it."""

    class Heif(ImageFile.ImageFile):
        format = "HEIF"

        def _open(self):
            self._size, self._mode = (4, 2), "RGB"

        def load(self):
            self.im = Image.new("RGB", (4, 2), (200, 100, 50)).im

    package = ModuleType("pillow_heif")
    package.register_heif_opener = lambda: Image.register_open("HEIF", Heif, lambda head: head[4:8] == b"ftyp")
    monkeypatch.setitem(sys.modules, "pillow_heif", package)
    for register in (Image.OPEN, Image.ID):
        monkeypatch.setattr(Image, "OPEN" if register is Image.OPEN else "ID", register.copy())
    image = decode(b"\0\0\0\x18ftypheic" + bytes(100))
    assert image.shape == (2, 4, 3)
    assert image[0, 0].tolist() == [200, 100, 50]


def test_jpeg_of_thousands_of_scans_is_refused_at_once():
    buffer = io.BytesIO()
    Image.fromarray(noise(64, 64)).save(buffer, "JPEG", progressive=True)
    data = buffer.getvalue()
    assert decode(data).shape == (64, 64, 3)
    last = data.rindex(b"\xff\xda")
    with pytest.raises(BadImage, match="scans"):
        decode(data[:-2] + data[last:-2] * 5000 + data[-2:])
