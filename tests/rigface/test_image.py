"""image.py: hostile and odd pictures come out as upright RGB or as a named reason, and conversions are exact."""

import contextlib
import io
import struct
import tracemalloc
import zlib

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, ImageCms, ImageOps

from rigface import image
from rigface.errors import BadImage
from rigface.image import (
    decode,
    decode_mask,
    encode_jpeg,
    encode_png,
    linear_to_srgb,
    sniff,
    srgb8_to_linear,
    srgb_to_linear,
    to_image,
    to_tensor,
)


def picture(height: int = 40, width: int = 60) -> np.ndarray:
    """A smooth picture in which no two corners are alike."""
    y, x = np.mgrid[0:height, 0:width]
    return np.stack([x * 255 // width, y * 255 // height, (x + y) % 256], axis=-1).astype(np.uint8)


def saved(image: Image.Image, kind: str, **options) -> bytes:
    out = io.BytesIO()
    image.save(out, kind, **options)
    return out.getvalue()


def png_header(width: int, height: int) -> bytes:
    """A PNG that promises a size and holds next to nothing."""

    def chunk(name: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    rows = chunk(b"IDAT", zlib.compress(bytes(1000)))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + rows + chunk(b"IEND", b"")


@pytest.mark.parametrize("kind", ["PNG", "BMP", "TIFF", "GIF", "WEBP"])
def test_lossless_formats_come_back_exactly(kind):
    wanted = picture()
    source = Image.fromarray(wanted)
    if kind == "GIF":
        source = source.quantize(256)
        wanted = np.asarray(source.convert("RGB"))
    data = saved(source, kind, **({"lossless": True} if kind == "WEBP" else {}))
    assert sniff(data) == "image"
    np.testing.assert_array_equal(decode(data), wanted)


def test_an_image_may_be_written_to():
    image = decode(saved(Image.fromarray(picture()), "PNG"))
    assert image.flags.writeable
    assert image.flags.c_contiguous


@pytest.mark.parametrize("orientation", range(1, 10))
def test_exif_orientation_is_applied(orientation):
    source = Image.fromarray(picture())
    exif = source.getexif()
    exif[0x0112] = orientation
    data = saved(source, "PNG", exif=exif)
    np.testing.assert_array_equal(decode(data), np.asarray(ImageOps.exif_transpose(Image.open(io.BytesIO(data)))))


def test_damaged_exif_does_not_spoil_the_picture():
    data = saved(Image.fromarray(picture()), "JPEG", exif=b"Exif\0\0MM\0*\0\0\xff\xff\xff\xff")
    assert decode(data).shape == (40, 60, 3)


def test_cmyk_becomes_rgb():
    data = saved(Image.new("CMYK", (8, 8), (0, 255, 255, 0)), "JPEG", quality=95)  # full magenta and yellow: red
    red, green, blue = decode(data)[4, 4]
    assert red > 200
    assert green < 60
    assert blue < 60


def test_sixteen_bits_are_scaled_not_wrapped():
    ramp = np.tile(np.linspace(0, 65535, 256).astype(np.uint16), (4, 1))
    out = decode(saved(Image.fromarray(ramp), "PNG"))
    np.testing.assert_array_equal(out[..., 0], np.tile(np.arange(256, dtype=np.uint8), (4, 1)))
    np.testing.assert_array_equal(out[..., 0], out[..., 2])


def test_integers_of_unknown_range_are_refused():
    with pytest.raises(BadImage, match="range is not known"):
        decode(saved(Image.fromarray(np.full((4, 4), 1 << 20, np.int32)), "TIFF"))


@pytest.mark.parametrize("mode", ["1", "L", "P"])
def test_grey_and_palette_become_three_channels(mode):
    source = Image.fromarray(picture()).convert(mode)
    np.testing.assert_array_equal(decode(saved(source, "PNG")), np.asarray(source.convert("RGB")))


def test_transparency_goes_over_white():
    rgba = np.zeros((1, 3, 4), np.uint8)
    rgba[0, :, 3] = 255, 128, 0  # black: solid, half, not there
    np.testing.assert_array_equal(decode(saved(Image.fromarray(rgba), "PNG"))[0, :, 0], [0, 127, 255])


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "LA", "P", "I;16", "CMYK", "1"])
def test_bands_of_a_conversion_do_not_show(mode, monkeypatch):
    seen = Image.fromarray(np.dstack([picture(), picture()[..., :1]]), "RGBA")
    options = (
        {"icc_profile": ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()} if mode == "RGB" else {}
    )
    if mode == "P":
        seen, options = seen.convert("RGB").quantize(16), {"transparency": 3}
    elif mode == "I;16":
        seen = Image.fromarray(picture()[..., 0].astype(np.uint16) * 257)
    else:
        seen = seen.convert(mode)
    data = saved(seen, "TIFF" if mode == "CMYK" else "PNG", **options)
    whole = decode(data)
    monkeypatch.setattr(image, "BAND_PIXELS", 7 * seen.width)
    assert np.array_equal(decode(data), whole)


def test_palette_with_a_transparent_colour_goes_over_white():
    source = Image.new("P", (2, 1))
    source.putpalette([0, 0, 0, 10, 20, 30])
    source.putpixel((1, 0), 1)
    np.testing.assert_array_equal(decode(saved(source, "PNG", transparency=0))[0], [[255] * 3, [10, 20, 30]])


@pytest.mark.parametrize("cut", [0.5, 0.98])
@pytest.mark.parametrize("kind", ["JPEG", "PNG"])
def test_a_truncated_picture_is_refused_not_half_grey(kind, cut):
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)
    data = saved(Image.fromarray(noise), kind)
    with pytest.raises(BadImage, match="truncated"):
        decode(data[: int(cut * len(data))])


@pytest.mark.parametrize("size", [(20_000, 20_000), (12_000, 10_000)])  # Pillow itself refuses only the first
def test_a_bomb_is_refused_from_its_header_with_flat_memory(size):
    data = png_header(*size)
    tracemalloc.start()
    with pytest.raises(BadImage, match=rf"{size[0] * size[1] / 1e6:.0f} megapixels, more than the 100 allowed"):
        decode(data)
    assert tracemalloc.get_traced_memory()[1] < 4e6
    tracemalloc.stop()


def test_the_limit_is_the_callers():
    data = saved(Image.fromarray(picture()), "PNG")
    assert decode(data, max_pixels=2400).shape == (40, 60, 3)
    with pytest.raises(BadImage, match="too large"):
        decode(data, max_pixels=2399)


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "empty file"),
        (b"hello, I am text " * 100, "not a picture"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "not a picture"),
        (b"\0\0\0\x20ftypisom" + bytes(64), "its content is a video"),
        (b"\0\0\0\x20ftypheic" + bytes(64), "HEIC picture: run .pip install"),
        (b"\xff\xd8\xff" + bytes(64), "unreadable picture"),
        (png_header(0, 10), "picture"),
    ],
)
def test_what_is_no_picture_is_refused_with_a_reason(data, reason):
    with pytest.raises(BadImage, match=reason):
        decode(data)


@given(st.binary(max_size=300), st.sampled_from([b"", b"\xff\xd8\xff", b"GIF89a", b"BM", b"II*\0", b"RIFF0000WEBP"]))
def test_random_bytes_never_raise_anything_else(body, start):
    with contextlib.suppress(BadImage):
        assert decode(start + body).dtype == np.uint8


@given(st.integers(40, 2000), st.integers(0, 255))
def test_a_damaged_jpeg_decodes_or_is_refused(at, value):
    data = bytearray(saved(Image.fromarray(picture()), "JPEG"))
    data[at % len(data)] = value
    with contextlib.suppress(BadImage):
        assert decode(bytes(data)).ndim == 3


SOLID = [Image.new("RGB", (8, 8), (60 * i, 0, 0)) for i in range(3)]


@pytest.mark.parametrize(
    ("data", "kind"),
    [
        (saved(SOLID[0], "GIF"), "image"),
        (saved(SOLID[0], "GIF", save_all=True, append_images=SOLID[1:], loop=0), "video"),
        (saved(SOLID[0], "GIF", save_all=True, append_images=SOLID[1:]), "video"),  # plays once: no loop extension
        (saved(SOLID[0], "WEBP", save_all=True, append_images=SOLID[1:]), "image"),
        (b"RIFF\0\0\0\0AVI LIST", "video"),
        (b"RIFF\0\0\0\0WAVEfmt ", "unknown"),
        (b"\x1a\x45\xdf\xa3" + bytes(30), "video"),
        ((b"G" + bytes(187)) * 3, "video"),
        (b"\0\0\0\x08wide\0\0\0\0mdat", "video"),
        (b"The free software definition", "unknown"),
        (b"GIF89a", "image"),
        (b"", "unknown"),
    ],
)
def test_content_says_what_it_is(data, kind):
    assert sniff(data) == kind


def test_jpeg_round_trip_is_close():
    wanted = np.asarray(Image.fromarray(picture(128, 128)).resize((256, 256)))
    assert np.abs(decode(encode_jpeg(wanted)).astype(int) - wanted).mean() < 2


def test_png_round_trip_is_exact():
    np.testing.assert_array_equal(decode(encode_png(picture())), picture())


def test_a_mask_takes_one_bit_and_comes_back_exactly():
    y, x = np.mgrid[0:512, 0:512]
    mask = np.where((x - 256) ** 2 + (y - 240) ** 2 < 200**2, 255, 0).astype(np.uint8)
    data = encode_png(mask)
    assert Image.open(io.BytesIO(data)).mode == "1"
    assert len(data) < 3000
    np.testing.assert_array_equal(decode_mask(data), mask)


def test_a_soft_mask_keeps_its_values():
    mask = picture()[..., 0]
    np.testing.assert_array_equal(decode_mask(encode_png(mask)), mask)


@pytest.mark.parametrize(
    "bad", [np.zeros((4, 4, 3), np.float32), np.zeros((4, 4, 4), np.uint8), np.zeros((0, 4, 3), np.uint8)]
)
def test_encoding_something_else_is_a_programmers_mistake(bad):
    with pytest.raises(ValueError, match="want"):
        encode_jpeg(bad)
    with pytest.raises(ValueError, match="want"):
        encode_png(bad)


@pytest.mark.parametrize("batch", [(), (2,), (2, 3)])
def test_tensor_and_back_is_exact(batch):
    image = np.random.default_rng(0).integers(0, 256, (*batch, 5, 7, 3), np.uint8)
    tensor = to_tensor(image)
    assert tuple(tensor.shape) == (*batch, 3, 5, 7)
    assert 0 <= float(tensor.min()) <= float(tensor.max()) <= 1
    np.testing.assert_array_equal(to_image(tensor), image)


def test_to_image_clips_and_rounds():
    import torch

    values = torch.tensor([-1.0, 0.4999 / 255, 0.5001 / 255, 2.0]).view(1, 1, 4).expand(3, 1, 4)
    np.testing.assert_array_equal(to_image(values)[0, :, 0], [0, 0, 1, 255])


def test_wrong_shapes_are_named():
    import torch

    with pytest.raises(ValueError, match=r"want \(\.\.\., H, W, 3\) uint8"):
        to_tensor(np.zeros((4, 4, 3), np.float32))
    with pytest.raises(ValueError, match=r"want \(\.\.\., 3, H, W\)"):
        to_image(torch.zeros(4, 4, 3))


@pytest.mark.parametrize(("srgb", "linear"), [(0, 0), (0.04045, 0.0031308), (0.5, 0.21404114), (1, 1)])
def test_transfer_function_at_known_points(srgb, linear):
    assert srgb_to_linear(np.float32(srgb)) == pytest.approx(linear, abs=1e-7)
    assert linear_to_srgb(np.float32(linear)) == pytest.approx(srgb, abs=1e-5)


def test_the_table_agrees_with_the_function():
    levels = np.arange(256, dtype=np.uint8)
    np.testing.assert_allclose(srgb8_to_linear(levels), srgb_to_linear(levels / 255), rtol=1e-6)
    np.testing.assert_array_equal(np.round(linear_to_srgb(srgb8_to_linear(levels)) * 255), levels)


# What the shared hostile inputs must do here; the other files of that folder are videos
# (tests/rigface/video/test_decode.py).
SHARED = {
    "b04_mp4_named_jpg.jpg": "its content is a video",
    "b05_text_named_mp4.mp4": "not a picture",
    "b12_4k_tiny_face.jpg": (2160, 3840),
    "b13_cmyk.jpg": (512, 410),
    "b14_16bit.png": (512, 410),
    "b15_grey.jpg": (512, 410),
    "b16_bomb_400mp.png": "400 megapixels",
    "b18_exif_orientation_6.jpg": (512, 410),
    "b19_corrupt_scan.jpg": (512, 410),
    "b20_truncated.jpg": "truncated",
    "b22_alpha_rgba.png": (512, 410),
    "b23_dog_false_positive.jpg": (512, 512),
    "b24_painting.jpg": (1280, 1092),
}


@pytest.mark.parametrize("name", SHARED)
def test_shared_hostile_pictures(shared, name):
    data, wanted = (shared / "data" / "bad" / name).read_bytes(), SHARED[name]
    if isinstance(wanted, str):
        with pytest.raises(BadImage, match=wanted):
            decode(data)
    else:
        assert decode(data).shape == (*wanted, 3)
