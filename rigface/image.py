"""The three forms of a picture, and the only functions that convert between them.

* *bytes*: an encoded file, as it lies on a disk, in a Parquet cell or in a request. Never trusted.
* *image*: (H, W, 3) uint8 RGB, upright, sRGB. What every function of the project takes and gives.
* *tensor*: (..., 3, H, W) float32 in [0, 1], sRGB. What networks take.

Path: first and last on every path. Bytes of unknown origin are judged by their content (`sniff`), never by their name.

Rules of `decode`, where formats leave a choice: EXIF orientation is applied; transparency is composited over white, in
sRGB values as a browser does; 16-bit samples are scaled to 8, not cut; grey, palette and CMYK become RGB; of a
file with several pictures the first is taken (an animated GIF is a video: `sniff` says so). Colours with an embedded
profile (Display P3, Adobe RGB, CMYK) are converted to sRGB; a damaged profile counts as none. A truncated file is
refused, never returned half grey.

Source of the transfer functions: IEC 61966-2-1:1999.
"""

from __future__ import annotations

import contextlib
import io
import re
from typing import TYPE_CHECKING, Any, Literal

import cv2
import numpy as np
from PIL import Image, ImageCms, ImageOps, UnidentifiedImageError

from rigface.errors import BadImage

if TYPE_CHECKING:
    from torch import Tensor

MAX_PIXELS = 100_000_000
MAX_SCANS = 100  # of a JPEG; encoders write ten, and each costs a pass over the picture
BAND_PIXELS = 2**20  # of a picture, converted at a time
SNIFF_BYTES = 2**20  # enough for `sniff`; the first picture of a GIF or a motion JPEG may be some 100 kB

# The only decoders of Pillow that bytes from outside can reach. None of them runs anything or opens another file
# (EPS, for one, would start Ghostscript).
_FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "TIFF", "GIF", "AVIF")
_HEIC = (b"heic", b"heix", b"heim", b"heis", b"mif1", b"msf1")  # brands of ISO base media files that hold pictures


def sniff(data: bytes) -> Literal["video", "image", "unknown"]:
    """Kind of a file, from its beginning: `SNIFF_BYTES` of it, or all there is.

    A GIF with more than one frame is a video. Animated WebP and PNG are images: their first picture counts.
    """
    if data[:4] == b"GIF8":
        return "video" if _is_animated_gif(data) else "image"
    if data[4:8] == b"ftyp":
        return "image" if data[8:12] in (b"avif", b"avis", *_HEIC) else "video"
    if data[:4] == b"RIFF":
        return {b"WEBP": "image", b"AVI ": "video"}.get(data[8:12], "unknown")  # type: ignore[return-value]
    if data.startswith(b"\xff\xd8\xff"):
        return "video" if _is_motion_jpeg(data) else "image"
    is_bitmap = data[:2] == b"BM" and data[6:10] == bytes(4)
    if is_bitmap or data.startswith((b"\x89PNG\r\n\x1a\n", b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")):
        return "image"
    is_quicktime = data[:1] == b"\0" and data[4:8] in (b"moov", b"mdat", b"wide", b"free", b"skip", b"pnot")
    is_transport = any(data[at : at + 2 * size + 1 : size] == b"GGG" for at, size in ((0, 188), (4, 192)))
    if not is_transport:  # it may begin inside a packet, as a recording that was cut does
        places = ((at, size) for size in (188, 192, 204) for at in range(size))
        is_transport = any(data[at : at + 4 * size + 1 : size] == b"GGGGG" for at, size in places)
    if is_quicktime or is_transport or _is_bare_stream(data):
        return "video"
    matroska, mpeg, asf = b"\x1a\x45\xdf\xa3", (b"\0\0\1\xba", b"\0\0\1\xb3"), b"\x30\x26\xb2\x75\x8e\x66\xcf\x11"
    return "video" if data.startswith((matroska, *mpeg, asf, b"FLV\1", b"OggS")) else "unknown"


def _is_animated_gif(data: bytes) -> bool:
    """Walk the blocks of a GIF as far as `data` goes: a loop extension or a second frame makes it a video."""
    if len(data) < 13:
        return False
    at, frames = 13 + _colour_table(data[10]), 0
    while at + 10 < len(data):
        if data[at] == 0x21:  # extension
            if data[at + 3 : at + 14] in (b"NETSCAPE2.0", b"ANIMEXTS1.0"):
                return True
            at += 2
        elif data[at] == 0x2C:  # picture
            frames += 1
            at += 11 + _colour_table(data[at + 9])
        else:
            break
        while at < len(data) and data[at]:  # its blocks, up to the empty one
            at += 1 + data[at]
        at += 1
        if frames > 1:
            return True
    return frames == 1 and at < len(data) and data[at] == 0x2C


def _is_motion_jpeg(data: bytes) -> bool:
    """True if another JPEG of the same kind follows the first; a multi-picture file (MPF) is one photograph."""
    at = 2
    while data[at : at + 1] == b"\xff" and data[at + 1 : at + 2] != b"\xda":  # segments, up to the start of the scan
        if data[at + 1 : at + 2] == b"\xe2" and data[at + 4 : at + 8] == b"MPF\0":
            return False
        at += 2 + int.from_bytes(data[at + 2 : at + 4], "big")
    end = data.find(b"\xff\xd9", at)
    return end > 0 and data[end + 2 : end + 6] == data[:4]


def _is_bare_stream(data: bytes) -> bool:
    """True for H.264 or HEVC without a container: it begins with a delimiter or a set of parameters."""
    if data[:4] != b"\0\0\0\1" or len(data) < 6:
        return False
    return (data[4] & 0x9F) in (7, 9) or (data[4] in (0x40, 0x42, 0x46) and data[5] == 1)


def _colour_table(flags: int) -> int:
    return 3 << (1 + (flags & 7)) if flags & 0x80 else 0


def decode(data: bytes, *, max_pixels: int = MAX_PIXELS) -> np.ndarray:
    """Decode a picture from untrusted bytes: (H, W, 3) uint8 RGB, upright, contiguous and writable.

    The size is read from the header and judged before a pixel is decoded, so a small file that unpacks to gigabytes
    costs no memory. Pillow's own limit of 179 megapixels stays, whatever `max_pixels` says. BadImage if it is empty,
    not a picture, truncated, damaged, or more than `max_pixels` or `MAX_SCANS`.
    """
    if not data:
        raise BadImage("empty file")
    if (kind := sniff(data[:SNIFF_BYTES])) != "image":
        raise BadImage("not a picture: its content is a video" if kind == "video" else "not a picture")
    if data.startswith(b"\xff\xd8") and (scans := data.count(b"\xff\xda")) > MAX_SCANS:
        raise BadImage(f"a JPEG with {scans:,} scans, more than the {MAX_SCANS} allowed")
    return _read(data, _heif() if data[4:8] == b"ftyp" and data[8:12] in _HEIC else _FORMATS, max_pixels, _to_rgb)


def decode_linear(data: bytes, *, max_pixels: int = MAX_PIXELS) -> np.ndarray:
    """(H, W, 3) float32 RGB, linear light, of a Radiance picture (.hdr, RGBE) or of one that `decode` reads.

    BadImage as `decode`.
    """
    if not data.startswith((b"#?RADIANCE", b"#?RGBE")):
        return srgb8_to_linear(decode(data, max_pixels=max_pixels))
    head = data[: 64 * 1024].split(b"\n\n", 1)  # height and width stand there, before anything is decoded
    words = head[1].split(b"\n", 1)[0].split() if len(head) == 2 else []
    is_sized = len(words) == 4 and words[0] in (b"-Y", b"+Y") and words[1].isdigit() and words[3].isdigit()
    if not is_sized or int(words[1]) * int(words[3]) > max_pixels:
        raise BadImage("a Radiance picture without a size, or too large")
    picture = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
    if picture is None or picture.ndim != 3 or not np.isfinite(picture).all():
        raise BadImage("damaged Radiance picture")
    return np.ascontiguousarray(picture[..., ::-1].astype(np.float32))


def _heif() -> tuple[str, ...]:
    """Teach Pillow to read HEIC; BadImage without the package that does."""
    try:
        import pillow_heif
    except ModuleNotFoundError:
        raise BadImage("HEIC picture: run `pip install 'rigface[heic]'`, or save it as JPEG") from None
    pillow_heif.register_heif_opener()
    return ("HEIF",)


def pixels_of(data: bytes) -> int:
    """Pixels of a picture by its header; 0 if it has none that can be read."""
    try:
        with Image.open(io.BytesIO(data), formats=_FORMATS) as picture:
            return int(picture.width * picture.height)
    except Exception:  # on hostile bytes Pillow's readers raise almost anything; `decode` says what is wrong
        return 0


def decode_mask(data: bytes) -> np.ndarray:
    """A mask written by `encode_png`, (H, W) uint8; refuses as `decode` does."""
    return _read(data, ("PNG",), MAX_PIXELS, lambda picture: np.array(picture.convert("L")))


def _read(data: bytes, formats: tuple[str, ...], max_pixels: int, convert: Any) -> np.ndarray:
    try:
        picture = Image.open(io.BytesIO(data), formats=formats)  # reads the header only
        if (pixels := picture.width * picture.height) > max_pixels:
            raise BadImage(_too_large(pixels, max_pixels))
        picture.load()
        result: np.ndarray = convert(picture)
        return result
    except (BadImage, MemoryError):
        raise
    except Image.DecompressionBombError as e:  # Pillow saw it first
        pixels = max(map(int, re.findall(r"\d+", str(e))), default=0)
        raise BadImage(_too_large(pixels, min(max_pixels, 2 * (Image.MAX_IMAGE_PIXELS or max_pixels)))) from e
    except UnidentifiedImageError as e:
        raise BadImage(f"unreadable picture; can read {', '.join(formats)}") from e
    except Exception as e:  # on hostile bytes Pillow's decoders raise almost anything
        raise BadImage("truncated picture" if "truncated" in str(e) else f"damaged picture: {e}") from e


def _too_large(pixels: int, limit: int) -> str:
    return f"too large: {pixels / 1e6:.0f} megapixels, more than the {limit / 1e6:.0f} allowed"


def _to_rgb(picture: Image.Image) -> np.ndarray:
    """A loaded picture of any mode as an upright image, by the rules of this module.

    It is converted in bands of rows, so that memory holds the picture, the result and little else.
    """
    if picture.mode == "F":
        raise BadImage("32-bit float picture: its range is not known; save it with 8 or 16 bits")
    with contextlib.suppress(Exception):  # a damaged EXIF block does not spoil the picture
        ImageOps.exif_transpose(picture, in_place=True)
    (width, height), to_srgb = picture.size, _srgb_transform(picture)
    image = np.empty((height, width, 3), np.uint8)
    rows = max(1, BAND_PIXELS // width)
    for top in range(0, height, rows):
        bottom = min(top + rows, height)
        image[top:bottom] = _band_in_rgb(picture.crop((0, top, width, bottom)), to_srgb)
    return image


def _band_in_rgb(band: Image.Image, to_srgb: ImageCms.ImageCmsTransform | None) -> np.ndarray:
    if band.mode.startswith("I"):
        grey = np.asarray(band)
        if grey.min() < 0 or grey.max() > 65535:
            raise BadImage("32-bit integer picture: its range is not known; save it with 8 or 16 bits")
        return np.stack([((grey.astype(np.uint32) * 255 + 32767) // 65535).astype(np.uint8)] * 3, axis=-1)
    if to_srgb is not None:
        colours = band if band.mode == to_srgb.input_mode else band.convert(to_srgb.input_mode)
        band = ImageCms.applyTransform(colours, to_srgb) or band
    if band.has_transparency_data:
        seen = band.convert("RGBA")
        band = Image.alpha_composite(Image.new("RGBA", seen.size, "white"), seen)
    return np.asarray(band.convert("RGB"))


def _srgb_transform(picture: Image.Image) -> ImageCms.ImageCmsTransform | None:
    """The conversion from the colour profile that a picture carries; None if it has none, or a damaged one."""
    profile = picture.info.get("icc_profile")
    if not profile or picture.mode not in ("RGB", "RGBA", "CMYK", "P"):
        return None
    try:
        source = ImageCms.ImageCmsProfile(io.BytesIO(profile))
        if "sRGB" in ImageCms.getProfileDescription(source):
            return None
        mode = "RGBA" if picture.has_transparency_data else "RGB"
        input_mode = "CMYK" if picture.mode == "CMYK" else mode
        return ImageCms.buildTransform(source, ImageCms.createProfile("sRGB"), input_mode, mode)
    except (ImageCms.PyCMSError, OSError):
        return None


def decode_crop(jpeg: bytes) -> np.ndarray:
    """(256, 256, 3) uint8 RGB: a stored crop at half size, which every stage after alignment works at.

    The decoder halves in the frequency domain, so this takes a third of the time of decoding and shrinking.
    """
    half = cv2.IMREAD_REDUCED_GRAYSCALE_2 | cv2.IMREAD_COLOR_RGB  # half size, RGB order
    return np.asarray(cv2.imdecode(np.frombuffer(jpeg, np.uint8), half))


def encode_jpeg(image: np.ndarray, quality: int = 92) -> bytes:
    """A JPEG (4:2:0) of (H, W, 3) uint8 RGB; ValueError for another shape or dtype."""
    _check(image, 3)
    return _encode(".jpg", cv2.cvtColor(image, cv2.COLOR_RGB2BGR), [cv2.IMWRITE_JPEG_QUALITY, quality])


def encode_image(image: np.ndarray, format: Literal["png", "jpeg", "webp"], quality: int = 94) -> bytes:
    """(H, W, 3) uint8 RGB as a file; `quality` is for JPEG and WebP."""
    if format == "png":
        return encode_png(image)
    if format == "jpeg":
        return encode_jpeg(image, quality)
    out = io.BytesIO()
    Image.fromarray(image).save(out, "WEBP", quality=quality)
    return out.getvalue()


def encode_png(image: np.ndarray) -> bytes:
    """A PNG of (H, W, 3) uint8 RGB or (H, W) uint8; a mask of only 0 and 255 takes one bit per pixel.

    ValueError for another shape or dtype.
    """
    if image.ndim == 3:
        _check(image, 3)
        return _encode(".png", cv2.cvtColor(image, cv2.COLOR_RGB2BGR), [])
    _check(image, 2)
    if (image + np.uint8(1) <= 1).all():  # 255 wraps to 0: only 0 and 255 pass
        return _encode(".png", image, [cv2.IMWRITE_PNG_BILEVEL, 1, cv2.IMWRITE_PNG_COMPRESSION, 1])
    return _encode(".png", image, [])


def _encode(suffix: str, image: np.ndarray, options: list[int]) -> bytes:
    done, data = cv2.imencode(suffix, image, options)
    if not done:
        raise ValueError(f"{suffix}: OpenCV could not encode a picture of shape {image.shape}")
    return data.tobytes()


def _check(image: np.ndarray, axes: int) -> None:
    shape_fits = image.ndim == axes and (axes == 2 or image.shape[-1] == 3) and image.size
    if image.dtype != np.uint8 or not shape_fits:
        wanted = "(H, W, 3)" if axes == 3 else "(H, W)"
        raise ValueError(f"image: want {wanted} uint8, got {image.shape} {image.dtype}")


def to_tensor(image: np.ndarray) -> Tensor:
    """(..., H, W, 3) uint8 as a (..., 3, H, W) float32 tensor in [0, 1], on the CPU; ValueError for another input."""
    import torch

    if image.dtype != np.uint8 or image.ndim < 3 or image.shape[-1] != 3:
        raise ValueError(f"image: want (..., H, W, 3) uint8, got {image.shape} {image.dtype}")
    return torch.from_numpy(np.ascontiguousarray(np.moveaxis(image, -1, -3))).to(torch.float32).div_(255)


def to_image(tensor: Tensor) -> np.ndarray:
    """(..., 3, H, W) floats as a (..., H, W, 3) uint8 array: clipped to [0, 1], rounded to the nearest of 256."""
    import torch

    if tensor.ndim < 3 or tensor.shape[-3] != 3:
        raise ValueError(f"tensor: want (..., 3, H, W), got {tuple(tensor.shape)}")
    levels = tensor.detach().to(torch.float32).clamp(0, 1).mul(255).round_().to(torch.uint8)
    return levels.movedim(-3, -1).contiguous().cpu().numpy()


def resized(picture: np.ndarray, size: int) -> np.ndarray:
    """The square picture (S, S) or (S, S, C) at `size` px, by averages over areas; itself if it has that size."""
    return picture if len(picture) == size else cv2.resize(picture, (size, size), interpolation=cv2.INTER_AREA)


def srgb_to_linear(values: np.ndarray) -> np.ndarray:
    """sRGB values in [0, 1] as linear light in [0, 1]; float32, any shape. Values below 0 count as 0."""
    values = np.maximum(np.asarray(values, np.float32), 0)
    return np.where(values <= 0.04045, values / 12.92, ((values + 0.055) / 1.055) ** 2.4).astype(np.float32)


def linear_to_srgb(values: np.ndarray) -> np.ndarray:
    """Linear light in [0, 1] as sRGB values in [0, 1]; float32, any shape. Values below 0 count as 0."""
    values = np.maximum(np.asarray(values, np.float32), 0)
    return np.where(values <= 0.0031308, values * 12.92, 1.055 * values ** (1 / 2.4) - 0.055).astype(np.float32)


def srgb8_to_linear(image: np.ndarray) -> np.ndarray:
    """uint8 sRGB of any shape as linear light in [0, 1], float32, by table; ValueError if it is not uint8."""
    if image.dtype != np.uint8:
        raise ValueError(f"image: want uint8, got {image.dtype}")
    result: np.ndarray = _LINEAR[image]
    return result


_LINEAR = srgb_to_linear(np.arange(256) / 255)
