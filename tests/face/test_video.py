"""video.py: true times, upright pictures, chunks that add up to the whole, and a reason for whatever cannot be read."""

import gc
import io
import struct
import tempfile
from fractions import Fraction
from math import floor

import av
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from rigface.errors import BadVideo
from rigface.face import container
from rigface.face.video import Chunk, Truncated, frames, plan, probe

H264 = {
    "g": "12",
    "bf": "2",
    "threads": "1",
    "x264-params": "scenecut=0",
}  # one thread: the same bytes on every machine
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
    return list(frames(io.BytesIO(data), fps, chunk))


def read_all_there_is(file, fps=None, chunk=None):
    """The good frames, and whether Truncated came after them."""
    got = []
    try:
        for frame in frames(file, fps, chunk):
            got.append(frame)
    except Truncated as e:
        return got, e.reason
    return got, None


def same(left, right):
    assert [(f.index, f.time_s) for f in left] == [(f.index, f.time_s) for f in right]
    for a, b in zip(left, right):
        np.testing.assert_array_equal(a.image, b.image)


# ---- times and samples


def test_times_come_from_the_stamps():
    stamps = [5, 6, 8, 13, 14, 40]
    got = read(clip(greys(6), stamps=stamps, ticks=Fraction(1, 50), options=H264, codec="libx264"))
    assert [f.index for f in got] == [0, 1, 2, 3, 4, 5]
    np.testing.assert_allclose([f.time_s for f in got], (np.array(stamps) - 5) / 50, atol=1e-4)
    levels = [f.image.mean() for f in got]
    assert levels == sorted(levels)


def test_an_edit_list_hides_frames_and_time_starts_at_the_first_shown():
    data = clip(greys(30, step=8), stamps=range(-10, 20), muxer={"avoid_negative_ts": "disabled"})
    info, chunks = plan(io.BytesIO(data), None)
    got = read(data)
    assert info.shown_frames == len(got) == 20
    assert len(chunks) == 1
    assert got[0].time_s == 0
    assert got[0].image.mean() == pytest.approx(20 + 10 * 8, abs=4)


def test_ten_per_second_of_thirty_is_every_third():
    got = read(clip(greys(10)), fps=10)
    assert [f.index for f in got] == [0, 3, 6, 9]
    np.testing.assert_allclose([f.time_s for f in got], [0, 0.1, 0.2, 0.3], atol=1e-9)


def test_more_per_second_than_there_are_gives_each_once():
    assert [f.index for f in read(clip(greys(5)), fps=1000)] == [0, 1, 2, 3, 4]


@settings(max_examples=20, suppress_health_check=[HealthCheck.too_slow], deadline=None)
@given(
    gaps=st.lists(st.integers(1, 40), min_size=2, max_size=30),
    fps=st.sampled_from([None, 0.7, 5, 12.5, 1000]),
    size=st.integers(1, 12),
)
def test_chunks_add_up_whatever_the_gaps(gaps, fps, size):
    data = clip(greys(len(gaps)), stamps=np.cumsum(gaps).tolist(), ticks=Fraction(1, 60))
    every, whole = read(data), read(data, fps)
    slots = [f.index if fps is None else floor(f.time_s * fps + 1e-6) for f in every]
    assert [f.index for f in whole] == [i for i, s in enumerate(slots) if i == 0 or s > slots[i - 1]]
    info, chunks = plan(io.BytesIO(data), fps, size)
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
def test_chunks_are_the_whole_pixel_for_pixel(kind, codec, options, seeks, fps):
    if codec not in av.codecs_available:
        pytest.skip(f"this FFmpeg cannot encode {codec}")
    data = clip(textures(80), kind, codec, options=options)
    info, chunks = plan(io.BytesIO(data), fps, 20 if fps is None else 5)
    whole = read(data, fps)
    assert info.shown_frames == 80
    assert len(chunks) == 4
    assert any(c.seek_s is not None for c in chunks) == seeks
    same([f for chunk in chunks for f in read(data, fps, chunk)], whole)
    assert whole[0].index == 0
    assert whole[0].time_s == 0


def test_a_seek_that_leads_astray_costs_time_not_frames():
    data = clip(textures(60), codec="libx264", options=H264)
    _, chunks = plan(io.BytesIO(data), None, 20)
    lost = Chunk(**{**vars(chunks[1]), "seek_s": 1.9})  # beyond what it should lead to
    same(read(data, None, lost), read(data, None, chunks[1]))


def test_a_short_clip_is_one_chunk():
    assert plan(io.BytesIO(clip(greys(30))), 5)[1] == [Chunk(0, 0, None, None, 0)]
    assert plan(io.BytesIO(clip(greys(30))), 5, 5)[1] == [Chunk(0, 0, None, None, 0)]


def test_a_single_frame_is_a_video():
    data = clip(greys(1))
    assert [(f.index, f.time_s) for f in read(data, 5)] == [(0, 0.0)]
    assert plan(io.BytesIO(data), 5)[0].shown_frames == 1


@pytest.mark.parametrize("fps", [0, -1, float("nan")])
def test_nonsense_rates_are_a_programmers_mistake(fps):
    for call in (probe, lambda file, fps: plan(file, fps), lambda file, fps: next(frames(file, fps))):
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
def test_the_display_matrix_is_undone(degrees, mirror):
    wanted = corners()
    stored = np.ascontiguousarray(np.rot90(wanted[:, ::-1] if mirror else wanted, -degrees // 90))
    data = clip([stored] * 2, codec="libx264", options={"qp": "4"}, pixels="yuv444p", rotate=(degrees, mirror))
    info, _ = plan(io.BytesIO(data), None)
    image = read(data)[0].image
    assert image.shape == (info.height, info.width, 3) == (48, 64, 3)
    assert np.abs(image.astype(int) - wanted).mean() < 3
    if not mirror:
        assert info.rotation_deg == -degrees % 360  # FFmpeg counts anticlockwise


@pytest.mark.parametrize("pixels", ["yuv420p", "yuv422p", "yuv444p", "yuv420p10le", "yuv444p10le"])
@pytest.mark.parametrize("size", [(61, 35), (35, 173)])
def test_odd_sizes_and_depths_to_the_last_column(size, pixels):
    height, width = size
    if pixels.startswith("yuv42"):  # libx264 wants even sizes where colour is halved
        height, width = height + 1, width + 1
    ramp = np.linspace(20, 230, width).astype(np.uint8)
    wanted = np.tile(ramp[None, :, None], (height, 1, 3))
    got = read(clip([wanted], codec="libx264", options={"qp": "2"}, pixels=pixels))[0].image
    assert got.shape == wanted.shape
    assert np.abs(got.astype(int) - wanted).max() <= 5


def test_an_odd_size_with_halved_colour():
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
def test_colour_follows_the_flags(matrix, full, flagged, size):
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


def test_pixels_that_are_not_square_are_made_so():
    def anamorphic(stream):
        stream.codec_context.sample_aspect_ratio = Fraction(4, 3)

    data = clip([corners()] * 2, codec="libx264", change=anamorphic)
    assert read(data)[0].image.shape == (48, 85, 3)
    assert probe(io.BytesIO(data)).width == 85


def test_an_image_may_be_written_to():
    for height, width in ((32, 32), (33, 35)):
        image = read(clip(greys(2, height, width), codec="libx264", pixels="yuv444p"))[0].image
        assert image.flags.writeable
        assert image.flags.c_contiguous


def test_an_animated_gif_is_a_video_over_white():
    first = Image.new("RGBA", (40, 30), (0, 0, 0, 0))
    rest = [Image.new("RGBA", (40, 30), (60 * i, 0, 0, 255)) for i in (1, 2)]
    out = io.BytesIO()
    first.save(out, "GIF", save_all=True, append_images=rest, duration=[100, 300, 100], loop=0, disposal=2)
    got = read(out.getvalue())
    assert [round(f.time_s, 3) for f in got] == [0, 0.1, 0.4]
    assert got[0].image.min() == 255


# ---- what cannot be read


TEXT = b"This is not a video at all.\n" * 100


def audio_only() -> bytes:
    out = io.BytesIO()
    with av.open(out, "w", format="mp4") as target:
        stream = target.add_stream("aac", rate=44100, layout="mono")
        sound = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), format="fltp", layout="mono")
        sound.sample_rate = 44100
        target.mux([*stream.encode(sound), *stream.encode()])
    return out.getvalue()


def huge_gif() -> bytes:
    """Three frames on a canvas of 20,000 x 20,000, in 150 bytes."""
    frame = b"!\xf9\x04\0\x0a\0\0\0" + b"," + struct.pack("<HHHH", 0, 0, 1, 1) + b"\0\x02\x02\x44\x01\0"
    head = b"GIF89a" + struct.pack("<HH", 20_000, 20_000) + bytes([0xF0, 0, 0]) + bytes(6)
    return head + b"!\xff\x0bNETSCAPE2.0\x03\x01\0\0\0" + frame * 3 + b";"


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "empty file"),
        (TEXT, "not a video"),
        (b"\0\0\0\x20ftypisom\0\0\2\0isomiso2mp41\0\0\0\x08free" + bytes(200), "unreadable container"),
        (audio_only(), "no video stream"),
        (huge_gif(), "beyond 67 megapixels"),
        (b"\x89PNG\r\n\x1a\n" + bytes(50), "not a video: its content is a picture"),
    ],
    ids=["empty", "text", "no moov", "audio only", "huge", "picture"],
)
def test_what_is_no_video_is_refused_with_a_reason(data, reason):
    for call in (probe, lambda file: plan(file, None), lambda file: next(frames(file))):
        with pytest.raises(BadVideo, match=reason):
            call(io.BytesIO(data))


def test_large_frames_are_refused_from_the_header(monkeypatch):
    data = clip(greys(2, 64, 96))
    monkeypatch.setattr(container, "MAX_FRAME_PIXELS", 64 * 96 - 1)
    with pytest.raises(BadVideo, match="beyond 0 megapixels"):  # the decoder refused to read on
        read(data)
    with pytest.raises(BadVideo, match="frames too large: 96 x 64"):
        container.refuse_size(96, 64)


def test_a_video_without_a_good_packet_is_refused():
    data = clip(greys(3))
    start = data.index(b"mdat") + 4
    with pytest.raises(BadVideo, match=r"no frame size can be read|nothing in it can be decoded"):
        read(data[:start] + bytes(data.index(b"moov") - 4 - start) + data[data.index(b"moov") - 4 :])


SECRET_NAMES = {
    "playlist.mp4": "#EXTM3U\n#EXT-X-TARGETDURATION:9\n#EXTINF:9,\n{}\n#EXT-X-ENDLIST\n",
    "list.mp4": "ffconcat version 1.0\nfile '{}'\n",
    "list.ffconcat": "ffconcat version 1.0\nfile '{}'\n",
    "list.m3u8": "#EXTM3U\n#EXT-X-TARGETDURATION:9\n#EXTINF:9,\n{}\n#EXT-X-ENDLIST\n",
    "stream.sdp": "v=0\no=- 0 0 IN IP4 127.0.0.1\ns=x\nc=IN IP4 127.0.0.1\nm=video 1234 RTP/AVP 96\n",
    "dash.mpd": '<?xml version="1.0"?><MPD xmlns="urn:mpeg:dash:schema:mpd:2011"><BaseURL>{}</BaseURL></MPD>',
}


@pytest.mark.parametrize("name", SECRET_NAMES)
def test_a_text_that_names_another_file_opens_nothing(tmp_path, name):
    (tmp_path / "secret.mp4").write_bytes(clip(greys(3)))
    (tmp_path / name).write_text(SECRET_NAMES[name].format(tmp_path / "secret.mp4"))
    with pytest.raises(BadVideo, match="not a video"):
        next(frames(str(tmp_path / name)))


def test_even_a_container_that_is_let_in_may_not_open_a_file(tmp_path, monkeypatch):
    (tmp_path / "secret.ts").write_bytes(clip(greys(30), "mpegts", "libx264"))
    text = SECRET_NAMES["list.m3u8"].format(tmp_path / "secret.ts").encode()
    monkeypatch.setattr(container, "_CONTAINERS", container._CONTAINERS + ",hls")
    with pytest.raises(BadVideo):
        next(frames(io.BytesIO(text)))


def test_a_name_is_only_a_name(tmp_path):
    for name in ("%03d.png", "b21 ünïcode имя 顔 [copy] (1)*.mp4", "http:evil.mp4", "-i.mp4", "film.jpg", "x.m3u8"):
        (tmp_path / name).write_bytes(clip(greys(3)))
        assert len(list(frames(str(tmp_path / name)))) == 3


def test_a_missing_file_is_the_systems_error_not_a_bad_video(tmp_path):
    with pytest.raises(FileNotFoundError):
        probe(str(tmp_path / "none.mp4"))


def test_a_broken_connection_is_not_a_bad_video():
    class Flaky(io.BytesIO):
        def read(self, size=-1):
            if self.tell() > 100_000:
                raise ConnectionResetError("gone")
            return super().read(size)

    noise = [np.random.default_rng(i).integers(0, 256, (96, 96, 3), np.uint8) for i in range(40)]
    with pytest.raises(ConnectionResetError):
        list(frames(Flaky(clip(noise, "matroska", "ffv1", options={}))))


@pytest.mark.parametrize(
    ("kind", "codec", "muxer"),
    [
        ("mp4", "libx264", {"movflags": "faststart"}),
        ("mp4", "mpeg4", {"movflags": "faststart"}),
        ("mp4", "libx264", {"movflags": "frag_keyframe+empty_moov"}),
        ("matroska", "libx264", {}),
        ("avi", "mpeg4", {}),
    ],
)
def test_a_cut_video_gives_its_good_frames_and_says_so(kind, codec, muxer):
    whole = clip(textures(90), kind, codec, options=H264 if codec == "libx264" else FAST, muxer=muxer)
    good = read(whole)
    assert len(good) == 90
    data = whole[: int(0.6 * len(whole))]
    got, reason = read_all_there_is(io.BytesIO(data))
    assert reason == "data ends early"
    assert 20 < len(got) < 70
    same(got, good[: len(got)])
    _, chunks = plan(io.BytesIO(data), None, 15)
    parts = [read_all_there_is(io.BytesIO(data), None, chunk) for chunk in chunks]
    assert [reason for _, reason in parts] == [None] * (len(parts) - 1) + ["data ends early"]
    same([f for part, _ in parts for f in part], got)


def test_a_cut_before_the_frames_in_between_loses_those_only():
    """A frame that others refer to is stored before them. Cut after it, it is shown at its own time, behind a hole."""
    whole = clip(textures(60), "mp4", "libx264", options=H264, muxer={"movflags": "faststart"})
    good = {f.time_s: f.image for f in read(whole)}
    with av.open(io.BytesIO(whole)) as file:
        packets = [p for p in file.demux(video=0) if p.size]
    ahead = next(
        i
        for i, p in enumerate(packets)
        if i > 25 and p.pts > max(q.pts for q in packets[:i]) and packets[i + 2].pts < p.pts
    )
    got, reason = read_all_there_is(io.BytesIO(whole[: packets[ahead].pos + packets[ahead].size]))
    assert reason == "data ends early"
    assert [f.time_s for f in got] == sorted(float(p.pts * p.time_base) for p in packets[: ahead + 1])
    assert got[-1].time_s - got[-2].time_s > 1.5 / 30
    for frame in got:
        np.testing.assert_array_equal(frame.image, good[frame.time_s])


def test_a_cut_between_two_packets_of_an_mp4_is_seen():
    data = clip(greys(30), muxer={"movflags": "faststart"})
    with av.open(io.BytesIO(data)) as file:
        at = [p.pos for p in file.demux(video=0) if p.size][18]
    got, reason = read_all_there_is(io.BytesIO(data[:at]))
    assert (len(got), reason) == (18, "data ends early")


def test_a_hole_costs_its_frames_only():
    data = bytearray(clip(textures(60), codec="mpeg4"))
    with av.open(io.BytesIO(data)) as file:
        packet = [p for p in file.demux(video=0) if p.size][25]
    data[packet.pos : packet.pos + packet.size] = bytes(packet.size)
    got, reason = read_all_there_is(io.BytesIO(bytes(data)))
    assert reason == "data is damaged"
    assert 55 <= len(got) < 60
    assert got[-1].time_s == pytest.approx(59 / 30)


def test_chunks_of_a_cut_video_end_without_the_lost():
    """The index promises 90 frames; the chunk that would hold only lost ones must say so rather than be empty."""
    data = clip(textures(90), muxer={"movflags": "faststart"})
    _, chunks = plan(io.BytesIO(data), None, 30)
    cut = io.BytesIO(data[: len(data) // 2])
    with pytest.raises(Truncated):
        list(frames(cut, None, chunks[2]))


# ---- how it reads


class Counting(io.BytesIO):
    def __init__(self, data):
        super().__init__(data)
        self.done = 0

    def read(self, size=-1):
        data = super().read(size)
        self.done += len(data)
        return data


def test_frames_are_read_one_at_a_time_and_the_file_stays_open():
    noise = [np.random.default_rng(i).integers(0, 256, (128, 128, 3), np.uint8) for i in range(60)]
    data = clip(noise, "matroska", "ffv1", options={})
    file = Counting(data)
    reading = frames(file)
    next(reading)
    assert len(data) > 1_000_000
    assert file.done < len(data) / 3
    reading.close()
    assert not file.closed
    assert len(list(frames(file))) == 60  # wherever it stands


def test_one_decoded_frame_is_in_memory_at_a_time():
    def alive():
        return sum(isinstance(thing, av.VideoFrame) for thing in gc.get_objects())

    gc.collect()
    gc.disable()  # nothing may depend on the collector coming by in time
    try:
        before = alive()
        most = max(alive() - before for _ in frames(io.BytesIO(clip(greys(30), "matroska"))))
    finally:
        gc.enable()
    assert most <= 4


def test_more_threads_give_the_same_frames():
    data = clip(textures(40), codec="libx264", options=H264)
    same(list(frames(io.BytesIO(data), threads=2)), read(data))


def test_errors_survive_the_way_back_from_another_process():
    import pickle

    error = pickle.loads(pickle.dumps(Truncated("data ends early")))
    assert type(error) is Truncated
    assert (error.reason, error.stage) == ("data ends early", "decode")


def test_the_clip_that_ships(fixtures):
    path = str(fixtures / "clip.mp4")
    info, chunks = plan(path, 10)
    got = list(frames(path, 10, chunks[0]))
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
            next(frames(path))
        return
    got, reason = read_all_there_is(path)
    assert (len(got), *got[-1].image.shape[1::-1]) == wanted
    assert got[0].time_s == 0
    assert reason == ("data ends early" if name.startswith("b03") else None)
    assert len(plan(path, 5)[1]) == 1


def test_shared_clip_with_uneven_gaps(shared):
    with av.open(str(shared / "data" / "bad" / "b08_variable_frame_rate.mp4")) as file:
        wanted = [f.time for f in file.decode(video=0)]
    got = [f.time_s for f in frames(str(shared / "data" / "bad" / "b08_variable_frame_rate.mp4"))]
    np.testing.assert_allclose(got, np.array(wanted) - wanted[0], atol=1e-9)
    assert len(set(np.diff(got).round(4))) == 3


def test_shared_clip_with_an_edit_list_in_chunks(shared):
    path = str(shared / "data" / "bad" / "b26_edit_list.mp4")
    _, chunks = plan(path, 5, 4)
    assert len(chunks) == 3
    same([f for chunk in chunks for f in frames(path, 5, chunk)], list(frames(path, 5)))


def test_shared_manifest_agrees(shared):
    import csv

    with open(shared / "data" / "manifest.csv") as file:
        rows = [r for r in csv.DictReader(file) if r["kind"] == "video"]
    for row in rows:
        info, _ = plan(str(shared / "data" / row["file"]), 5)
        assert info.shown_frames == int(row["frames"]), row["file"]
        stored = sorted((int(row["width"]), int(row["height"])))
        assert all(shown >= size for shown, size in zip(sorted((info.width, info.height)), stored)), row["file"]
