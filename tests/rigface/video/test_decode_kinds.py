"""Kinds of videos as strangers have them: HDR, transparency, dropped frames, bare streams, held last frames."""

import io

import av
import numpy as np
import pytest

from rigface.colour import ita_deg
from rigface.image import encode_jpeg, linear_to_srgb
from rigface.video.tone_mapping import PEAK, WHITE, tone_mapped

from .clips import clip, greys, read, read_all_there_is

TO_709 = np.array([[1.6605, -0.5876, -0.0728], [-0.1246, 1.1329, -0.0083], [-0.0182, -0.1006, 1.1187]])  # of BT.2020
SKIN = np.array([0.45, 0.25, 0.17])  # linear sRGB


def hlg_of(linear):
    """HLG code of linear sRGB whose white is at 203 of 1000 cd/m2."""
    wide = linear @ np.linalg.inv(TO_709).T
    display = wide * WHITE / PEAK
    luminance = display @ [0.2627, 0.6780, 0.0593]
    scene = display * luminance[..., None] ** (1 / 1.2 - 1)
    a, b, c = 0.17883277, 0.28466892, 0.55991073
    return np.where(scene <= 1 / 12, np.sqrt(3 * scene), a * np.log(np.maximum(12 * scene - b, 1e-9)) + c)


def pq_of(linear):
    """PQ code of linear sRGB whose white is at 203 cd/m2."""
    wide = linear @ np.linalg.inv(TO_709).T
    light = (wide * WHITE / 10_000) ** (2610 / 16384)
    return ((0.8359375 + 18.8515625 * light) / (1 + 18.6875 * light)) ** 78.84375


@pytest.mark.parametrize(("transfer", "code_of"), [(18, hlg_of), (16, pq_of)])
def test_hdr_skin_looks_as_in_sdr(transfer, code_of):
    code = (np.tile(code_of(SKIN[None, None]), (4, 4, 1)) * 65535 + 0.5).astype(np.uint16)
    got = tone_mapped(code, transfer)[0, 0]
    assert np.abs(got - linear_to_srgb(SKIN) * 255).max() < 3
    assert abs(ita_deg((got / 255.0) ** 2.2) - ita_deg(linear_to_srgb(SKIN) ** 2.2)) < 2


@pytest.mark.parametrize("transfer", [16, 18])
def test_hdr_highlights_keep_their_order(transfer):
    ramp = np.linspace(0, 65535, 256).astype(np.uint16)[None, :, None].repeat(3, 2)
    levels = tone_mapped(ramp, transfer)[0, :, 1].astype(int)
    assert (np.diff(levels) >= 0).all()
    assert levels[0] == 0
    assert levels[-1] >= 250


def test_flagged_hdr_clip_is_tone_mapped():
    def hlg(stream):
        stream.codec_context.color_trc = 18

    picture = np.full((64, 64, 3), 180, np.uint8)
    sdr, hdr = (
        read(clip([picture], "mp4", "libx264", options={}, change=change))[0].image.mean() for change in (None, hlg)
    )
    assert hdr > sdr + 30  # HLG's code 0.75 is white


def test_vp9_transparency_is_white():
    picture = np.full((64, 64, 3), 40, np.uint8)
    data = io.BytesIO()
    with av.open(data, "w", format="webm") as out:
        stream = out.add_stream("libvpx-vp9", rate=30)
        stream.width, stream.height, stream.pix_fmt = 64, 64, "yuva420p"
        stream.metadata["alpha_mode"] = "1"
        rgba = np.dstack([picture, np.repeat([[0, 255]], 32, 1).repeat(64, 0).astype(np.uint8)])
        for i in range(3):
            frame = av.VideoFrame.from_ndarray(rgba, format="rgba").reformat(format="yuva420p")
            frame.pts = i
            out.mux(stream.encode(frame))
        out.mux(stream.encode())
    frames = read(data.getvalue())
    assert len(frames) == 3
    image = frames[1].image
    assert image[:, :24].min() > 250
    assert abs(int(image[32, 56, 0]) - 40) < 6


def test_dropped_frames_of_an_avi_keep_the_times_of_the_others():
    numbers = [0, 1, 2, 20, 21]
    frames = read(clip(greys(5), "avi", stamps=numbers))
    assert [round(f.time_s * 30) for f in frames] == numbers


def test_motion_jpeg_without_a_container_is_read():
    frames = read(b"".join(encode_jpeg(picture) for picture in greys(4, 64, 64)))
    assert len(frames) == 4
    assert np.diff([f.image.mean() for f in frames]).min() > 5


def test_bare_h264_is_read():
    frames = read(clip(greys(6, 64, 64), "h264", "libx264", options={"bf": "0"}))
    assert len(frames) == 6


def test_transport_stream_that_begins_inside_a_packet_is_read():
    data = clip(greys(12, 64, 64), "mpegts", "mpeg2video")
    assert len(read(data[100:])) >= 11


def test_matroska_whose_last_frame_is_held_is_whole():
    data = clip(greys(10), "matroska")
    held = data.replace(b"00:00:00.333000000", b"00:00:09.000000000")
    assert held != data
    frames, reason = read_all_there_is(io.BytesIO(held))
    assert len(frames) == 10
    assert reason is None


def test_matroska_cut_between_packets_is_cut_short():
    data = clip(greys(60), "matroska")
    frames, reason = read_all_there_is(io.BytesIO(data[: len(data) * 2 // 3]))
    assert 5 < len(frames) < 60
    assert reason
