"""Sparse samples: the frames of reading everything, with less decoded, and doubts that lead back to that."""

import io

import av
import pytest

from rigface.video import decode
from rigface.video.frame_reader import FrameReader

from .clips import H264, clip, greys, read, read_all_there_is, same, textures

OPEN = "open-gop=1:scenecut=0"


@pytest.fixture
def every(monkeypatch):
    """Reads with every frame decoded."""

    def whole(data, fps=None, chunk=None):
        with monkeypatch.context() as patch:
            patch.setattr(decode, "is_worth", lambda reader, fps: False)
            return read(data, fps, chunk)

    return whole


@pytest.fixture
def fed(monkeypatch):
    """Packets that were given to a decoder."""
    packets, real = [], FrameReader.decode

    def counted(self, packet):
        packets.append(packet.pts)
        return real(self, packet)

    monkeypatch.setattr(FrameReader, "decode", counted)
    return packets


@pytest.mark.parametrize("fps", [7, 1])
@pytest.mark.parametrize(
    ("kind", "codec", "options"),
    [
        ("mp4", "libx264", H264),
        ("mp4", "libx264", {"g": "250", "bf": "3"}),
        ("mp4", "libx264", {"g": "25", "bf": "3", "x264-params": OPEN}),
        ("mp4", "libx265", {"x265-params": f"log-level=0:bframes=3:keyint=20:{OPEN}"}),
        ("mpegts", "libx264", H264),
        ("webm", "libvpx-vp9", {"deadline": "realtime", "cpu-used": "8", "g": "20", "lag-in-frames": "16"}),
        ("mp4", "libsvtav1", {"preset": "12", "g": "20", "svtav1-params": "lp=1"}),
        ("mpeg", "mpeg2video", {"bf": "2", "g": "12"}),
        ("avi", "mpeg4", {"bf": "2", "g": "12"}),
        ("gif", "gif", {}),
    ],
)
def test_sparse_samples_are_those_of_reading_every_frame(every, kind, codec, options, fps):
    if codec not in av.codecs_available:
        pytest.skip(f"this FFmpeg cannot encode {codec}")
    data = clip(textures(80), kind, codec, options=options, pixels="rgb8" if kind == "gif" else "yuv420p")
    wanted = every(data, fps)
    same(read(data, fps), wanted)
    _, chunks = decode.plan_chunks(io.BytesIO(data), fps, max(fps - 1, 1))
    assert len(chunks) > 2
    same([frame for chunk in chunks for frame in read(data, fps, chunk)], wanted)


def test_little_is_decoded_beside_the_samples(fed):
    data = clip(textures(90), codec="libx264", options={"g": "15", "bf": "0", "x264-params": "scenecut=0"})
    assert [frame.index for frame in read(data, 1)] == [0, 30, 60]  # key frames, all
    assert len(fed) == 3
    fed.clear()
    assert [frame.index for frame in read(data, 0.4)] == [0, 75]
    assert len(fed) == 2


def test_stamps_that_are_no_order_lead_back_to_every_frame(every):
    data = clip(
        greys(40), "matroska", codec="libx264", options={"g": "5", "bf": "0"}, stamps=[*range(20), *range(60, 80)]
    )
    same(read(data, 3), every(data, 3))


@pytest.mark.parametrize("share", [0.3, 0.9])
def test_damage_is_told_as_if_every_frame_were_decoded(monkeypatch, share):
    data = bytearray(clip(textures(60), "matroska", "ffv1", options={}))
    data[int(share * len(data))] ^= 0xFF
    found = read_all_there_is(io.BytesIO(bytes(data)), 10)
    monkeypatch.setattr(decode, "is_worth", lambda reader, fps: False)
    wanted = read_all_there_is(io.BytesIO(bytes(data)), 10)
    assert found[1] == wanted[1]
    same(found[0], wanted[0])


def test_file_that_ends_early_gives_the_frames_before(monkeypatch):
    data = clip(textures(80), "mpegts", "libx264", options=H264)
    found = read_all_there_is(io.BytesIO(data[: len(data) // 2]), 5)
    monkeypatch.setattr(decode, "is_worth", lambda reader, fps: False)
    wanted = read_all_there_is(io.BytesIO(data[: len(data) // 2]), 5)
    same(found[0][:-1], wanted[0][:-1])  # the last may be cut off itself: the decoder paints it from what it has
    assert len(found[0]) == len(wanted[0]) > 3


def test_doubt_on_the_way_repeats_and_loses_nothing(monkeypatch, every):
    data = clip(textures(80), codec="libx264", options=H264)
    wanted = every(data, 5)
    monkeypatch.setattr(decode, "sampled", broken(decode.sampled))
    same(read(data, 5), wanted)


def broken(real):
    """Gives out some samples, then doubts."""

    def some(*arguments):
        for number, found in enumerate(real(*arguments)):
            if number == 3:
                raise decode.Untrusted
            yield found

    return some
