"""Video decoding: exact times, upright images, chunks, and hostile files."""

import gc
import io
from dataclasses import replace
from fractions import Fraction
from math import floor

import av
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from rigface.errors import BadVideo
from rigface.video.decode import Chunk, Truncated, plan_chunks, probe_video, read_frames

from .clips import H264, clip, greys, read, read_all_there_is, same, textures

# ---- times and samples


def test_times_come_from_the_stamps():
    stamps = [5, 6, 8, 13, 14, 40]
    got = read(clip(greys(6), stamps=stamps, ticks=Fraction(1, 50), options=H264, codec="libx264"))
    assert [f.index for f in got] == [0, 1, 2, 3, 4, 5]
    np.testing.assert_allclose([f.time_s for f in got], (np.array(stamps) - 5) / 50, atol=1e-4)
    levels = [f.image.mean() for f in got]
    assert levels == sorted(levels)


def test_edit_list_hides_frames_and_sets_time_zero():
    data = clip(greys(30, step=8), stamps=range(-10, 20), muxer={"avoid_negative_ts": "disabled"})
    info, chunks = plan_chunks(io.BytesIO(data), None)
    got = read(data)
    assert info.shown_frames == len(got) == 20
    assert len(chunks) == 1
    assert got[0].time_s == 0
    assert got[0].image.mean() == pytest.approx(20 + 10 * 8, abs=4)


def test_ten_fps_of_thirty_is_every_third_frame():
    got = read(clip(greys(10)), fps=10)
    assert [f.index for f in got] == [0, 3, 6, 9]
    np.testing.assert_allclose([f.time_s for f in got], [0, 0.1, 0.2, 0.3], atol=1e-9)


def test_higher_rate_than_the_video_gives_each_frame_once():
    assert [f.index for f in read(clip(greys(5)), fps=1000)] == [0, 1, 2, 3, 4]


@settings(max_examples=20, suppress_health_check=[HealthCheck.too_slow], deadline=None)
@given(
    gaps=st.lists(st.integers(1, 40), min_size=2, max_size=30),
    fps=st.sampled_from([None, 0.7, 5, 12.5, 1000]),
    size=st.integers(1, 12),
)
def test_chunks_add_up_for_any_gaps(gaps, fps, size):
    data = clip(greys(len(gaps)), stamps=np.cumsum(gaps).tolist(), ticks=Fraction(1, 60))
    every, whole = read(data), read(data, fps)
    slots = [f.index if fps is None else floor(f.time_s * fps + 1e-6) for f in every]
    assert [f.index for f in whole] == [i for i, s in enumerate(slots) if i == 0 or s > slots[i - 1]]
    info, chunks = plan_chunks(io.BytesIO(data), fps, size)
    parts = [read(data, fps, chunk) for chunk in chunks]
    same([f for part in parts for f in part], whole)
    assert max(map(len, parts)) <= size or len(parts) == 1
    assert info.shown_frames == len(gaps)
    assert chunks[-1].stop_slot is None


@pytest.mark.parametrize("fps", [None, 7])
@pytest.mark.parametrize(
    ("kind", "codec", "options", "seeks"),
    [
        ("mp4", "libx264", H264, True),
        ("mp4", "libx264", {"g": "25", "bf": "3", "x264-params": "open-gop=1:scenecut=0"}, True),
        ("mp4", "libx265", {"x265-params": "log-level=0:bframes=2:keyint=20"}, True),
        ("matroska", "libx264", H264, True),
        ("mpegts", "libx264", H264, True),
        ("flv", "libx264", H264, True),
        ("webm", "libvpx", {"deadline": "realtime", "cpu-used": "8", "g": "20", "auto-alt-ref": "1"}, False),
        ("avi", "mpeg4", {"bf": "2", "g": "12"}, False),  # no presentation stamps: decoded, and counted
        ("mpeg", "mpeg2video", {"bf": "2", "g": "12"}, True),
    ],
)
def test_chunks_equal_the_whole_video(kind, codec, options, seeks, fps):
    if codec not in av.codecs_available:
        pytest.skip(f"this FFmpeg cannot encode {codec}")
    data = clip(textures(80), kind, codec, options=options)
    info, chunks = plan_chunks(io.BytesIO(data), fps, 20 if fps is None else 5)
    whole = read(data, fps)
    assert info.shown_frames == 80
    assert len(chunks) == 4
    assert any(c.seek_s is not None for c in chunks) == seeks
    same([f for chunk in chunks for f in read(data, fps, chunk)], whole)
    assert whole[0].index == 0
    assert whole[0].time_s == 0


def test_wrong_seek_loses_no_frames():
    data = clip(textures(60), codec="libx264", options=H264)
    _, chunks = plan_chunks(io.BytesIO(data), None, 20)
    lost = replace(chunks[1], seek_s=1.9)  # beyond what it should lead to
    same(read(data, None, lost), read(data, None, chunks[1]))


def test_short_clip_is_one_chunk():
    assert plan_chunks(io.BytesIO(clip(greys(30))), 5)[1] == [Chunk(0, 0, None, None, 0)]
    assert plan_chunks(io.BytesIO(clip(greys(30))), 5, 5)[1] == [Chunk(0, 0, None, None, 0)]


def test_single_frame_is_a_video():
    data = clip(greys(1))
    assert [(f.index, f.time_s) for f in read(data, 5)] == [(0, 0.0)]
    assert plan_chunks(io.BytesIO(data), 5)[0].shown_frames == 1


@pytest.mark.parametrize("fps", [0, -1, float("nan")])
def test_invalid_rate_raises_value_error(fps):
    for call in (plan_chunks, lambda file, fps: next(read_frames(file, fps))):
        with pytest.raises(ValueError, match="fps"):
            call(io.BytesIO(clip(greys(2))), fps)


# ---- pictures


def corners(height=48, width=64):
    """Each corner has its own colour."""
    out = np.zeros((height, width, 3), np.uint8)
    h, w = height // 2, width // 2
    out[:h, :w], out[:h, w:], out[h:, :w], out[h:, w:] = (220, 30, 30), (30, 220, 30), (30, 30, 220), (200, 200, 200)
    return out


@pytest.mark.parametrize("mirror", [False, True])
@pytest.mark.parametrize("degrees", [0, 90, 180, 270])
def test_display_matrix_is_applied(degrees, mirror):
    wanted = corners()
    stored = np.ascontiguousarray(np.rot90(wanted[:, ::-1] if mirror else wanted, -degrees // 90))
    data = clip([stored] * 2, codec="libx264", options={"qp": "4"}, pixels="yuv444p", rotate=(degrees, mirror))
    info, _ = plan_chunks(io.BytesIO(data), None)
    image = read(data)[0].image
    assert image.shape == (info.height, info.width, 3) == (48, 64, 3)
    assert np.abs(image.astype(int) - wanted).mean() < 3
    if not mirror:
        assert info.rotation_deg == -degrees % 360  # FFmpeg counts anticlockwise


@pytest.mark.parametrize("pixels", ["yuv420p", "yuv422p", "yuv444p", "yuv420p10le", "yuv444p10le"])
@pytest.mark.parametrize("size", [(61, 35), (35, 173)])
def test_odd_sizes_and_depths_decode_to_the_last_column(size, pixels):
    height, width = size
    if pixels.startswith("yuv42"):  # libx264 wants even sizes where colour is halved
        height, width = height + 1, width + 1
    ramp = np.linspace(20, 230, width).astype(np.uint8)
    wanted = np.tile(ramp[None, :, None], (height, 1, 3))
    got = read(clip([wanted], codec="libx264", options={"qp": "2"}, pixels=pixels))[0].image
    assert got.shape == wanted.shape
    assert np.abs(got.astype(int) - wanted).max() <= 5


def test_odd_size_with_subsampled_chroma_decodes():
    wanted = np.tile(np.linspace(20, 230, 173).astype(np.uint8)[None, :, None], (99, 1, 3))
    data = clip([wanted], "matroska", "ffv1", options={}, pixels="yuv420p")
    assert np.abs(read(data)[0].image.astype(int) - wanted).max() <= 5


WEIGHTS = {"709": (0.2126, 0.0722, 1), "601": (0.299, 0.114, 6)}  # red, blue, number in the stream


def flat_yuv(rgb, matrix, full, size):
    """A frame of one colour, by ITU-R BT.601 / BT.709."""
    red, blue, number = WEIGHTS[matrix]
    r, g, b = (v / 255 for v in rgb)
    y = red * r + (1 - red - blue) * g + blue * b
    scale, base, chroma = (255, 0, 255) if full else (219, 16, 224)
    values = scale * y + base, chroma * (b - y) / (2 * (1 - blue)) + 128, chroma * (r - y) / (2 * (1 - red)) + 128
    frame = av.VideoFrame(*size, "yuv420p")
    for plane, value in zip(frame.planes, values):
        plane.update(bytes([round(value)]) * plane.buffer_size)
    return frame, number


@pytest.mark.parametrize(
    ("matrix", "full", "flagged", "size"),
    [
        ("709", False, True, (64, 48)),
        ("709", True, True, (64, 48)),
        ("601", False, True, (64, 48)),
        ("601", True, True, (64, 48)),
        ("601", False, True, (1280, 720)),
        ("601", False, False, (640, 480)),  # no flag: by size
        ("709", False, False, (1280, 720)),
    ],
)
def test_colour_matrix_follows_the_flags(matrix, full, flagged, size):
    rgb = (200, 120, 60)
    frame, number = flat_yuv(rgb, matrix, full, size)
    out = io.BytesIO()
    with av.open(out, "w", format="matroska") as target:
        stream = target.add_stream("libx264", rate=30, options={"qp": "1", "preset": "ultrafast"})
        (stream.width, stream.height), stream.pix_fmt = size, "yuv420p"
        stream.codec_context.color_range = frame.color_range = 2 if full else 1
        stream.codec_context.colorspace = frame.colorspace = number if flagged else 2
        frame.pts = 0
        target.mux([*stream.encode(frame), *stream.encode()])
    assert np.abs(read(out.getvalue())[0].image.astype(int) - rgb).max() <= 3


def test_non_square_pixels_are_made_square():
    def anamorphic(stream):
        stream.codec_context.sample_aspect_ratio = Fraction(4, 3)

    data = clip([corners()] * 2, codec="libx264", change=anamorphic)
    assert read(data)[0].image.shape == (48, 85, 3)
    assert probe_video(io.BytesIO(data)).width == 85


def test_decoded_image_is_writable():
    for height, width in ((32, 32), (33, 35)):
        image = read(clip(greys(2, height, width), codec="libx264", pixels="yuv444p"))[0].image
        assert image.flags.writeable
        assert image.flags.c_contiguous


def test_animated_gif_is_composited_over_white():
    first = Image.new("RGBA", (40, 30), (0, 0, 0, 0))
    rest = [Image.new("RGBA", (40, 30), (60 * i, 0, 0, 255)) for i in (1, 2)]
    out = io.BytesIO()
    first.save(out, "GIF", save_all=True, append_images=rest, duration=[100, 300, 100], loop=0, disposal=2)
    got = read(out.getvalue())
    assert [round(f.time_s, 3) for f in got] == [0, 0.1, 0.4]
    assert got[0].image.min() == 255


# ---- how it reads


class Counting(io.BytesIO):
    def __init__(self, data):
        super().__init__(data)
        self.done = 0

    def read(self, size=-1):
        data = super().read(size)
        self.done += len(data)
        return data


def test_frames_are_read_lazily_and_the_file_stays_open():
    noise = [np.random.default_rng(i).integers(0, 256, (128, 128, 3), np.uint8) for i in range(60)]
    data = clip(noise, "matroska", "ffv1", options={})
    file = Counting(data)
    reading = read_frames(file)
    next(reading)
    assert len(data) > 1_000_000
    assert file.done < len(data) / 3
    reading.close()
    assert not file.closed
    assert len(list(read_frames(file))) == 60  # wherever it stands


def test_one_decoded_frame_is_in_memory_at_a_time():
    def alive():
        return sum(isinstance(thing, av.VideoFrame) for thing in gc.get_objects())

    gc.collect()
    gc.freeze()  # what is there already is not looked through for every frame
    gc.disable()  # nothing may depend on the collector coming by in time
    try:
        before = alive()
        most = max(alive() - before for _ in read_frames(io.BytesIO(clip(greys(30), "matroska"))))
    finally:
        gc.enable()
        gc.unfreeze()
    assert most <= 4


def test_more_threads_give_the_same_frames():
    data = clip(textures(40), codec="libx264", options=H264)
    same(list(read_frames(io.BytesIO(data), threads=2)), read(data))


def test_errors_can_be_pickled():
    import pickle

    error = pickle.loads(pickle.dumps(Truncated("data ends early")))
    assert type(error) is Truncated
    assert (error.reason, error.stage) == ("data ends early", "decode")


def test_shipped_clip_decodes(fixtures):
    path = str(fixtures / "clip.mp4")
    info, chunks = plan_chunks(path, 10)
    got = list(read_frames(path, 10, chunks[0]))
    assert (info.width, info.height, info.shown_frames, len(chunks), len(got)) == (640, 360, 72, 1, 24)


# ---- the shared data

SHARED = {  # frames, width, height; or the reason
    "b01_zero_byte.mp4": "empty file",
    "b02_truncated_no_moov.mp4": "unreadable container",
    "b03_truncated_mdat.mp4": (24, 256, 256),
    "b04_mp4_named_jpg.jpg": (60, 256, 256),
    "b05_text_named_mp4.mp4": "not a video",
    "b06_no_face.mp4": (50, 320, 240),
    "b07_single_frame.mp4": (1, 256, 256),
    "b08_variable_frame_rate.mp4": (60, 256, 256),
    "b09_rotated_metadata_90.mp4": (60, 256, 320),
    "b10_odd_size_173x251.mp4": (60, 173, 251),
    "b11_audio_only.mp4": "no video stream",
    "b17_animated.gif": (12, 200, 200),
    "b21 ünïcode имя 顔 (copy).mp4": (60, 256, 256),
    "b25_no_face_real.mp4": (95, 960, 540),
    "b26_edit_list.mp4": (55, 1280, 720),
}


@pytest.mark.parametrize("name", SHARED)
def test_shared_hostile_videos(shared, name):
    path, wanted = str(shared / "data" / "bad" / name), SHARED[name]
    if isinstance(wanted, str):
        with pytest.raises(BadVideo, match=wanted):
            next(read_frames(path))
        return
    got, reason = read_all_there_is(path)
    assert (len(got), *got[-1].image.shape[1::-1]) == wanted
    assert got[0].time_s == 0
    assert reason == ("data ends early" if name.startswith("b03") else None)
    assert len(plan_chunks(path, 5)[1]) == 1


def test_shared_clip_with_uneven_gaps(shared):
    with av.open(str(shared / "data" / "bad" / "b08_variable_frame_rate.mp4")) as file:
        wanted = [f.time for f in file.decode(video=0)]
    got = [f.time_s for f in read_frames(str(shared / "data" / "bad" / "b08_variable_frame_rate.mp4"))]
    np.testing.assert_allclose(got, np.array(wanted) - wanted[0], atol=1e-9)
    assert len(set(np.diff(got).round(4))) == 3


def test_shared_clip_with_an_edit_list_in_chunks(shared):
    path = str(shared / "data" / "bad" / "b26_edit_list.mp4")
    _, chunks = plan_chunks(path, 5, 4)
    assert len(chunks) == 3
    same([f for chunk in chunks for f in read_frames(path, 5, chunk)], list(read_frames(path, 5)))


def test_shared_manifest_agrees(shared):
    import csv

    with open(shared / "data" / "manifest.csv") as file:
        rows = [r for r in csv.DictReader(file) if r["kind"] == "video"]
    for row in rows:
        info, _ = plan_chunks(str(shared / "data" / row["file"]), 5)
        assert info.shown_frames == int(row["frames"]), row["file"]
        stored = sorted((int(row["width"]), int(row["height"])))
        assert all(shown >= size for shown, size in zip(sorted((info.width, info.height)), stored)), row["file"]
