"""Damaged and hostile videos: reasons, good frames, and no other file opened."""

import io
import struct

import av
import numpy as np
import pytest

from rigface.errors import BadVideo
from rigface.video import demux
from rigface.video.decode import Truncated, plan_chunks, probe_video, read_frames

from .clips import FAST, H264, clip, greys, read, read_all_there_is, same, textures

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
def test_non_video_is_refused_with_a_reason(data, reason):
    for call in (probe_video, lambda file: plan_chunks(file, None), lambda file: next(read_frames(file))):
        with pytest.raises(BadVideo, match=reason):
            call(io.BytesIO(data))


def test_large_frames_are_refused_from_the_header(monkeypatch):
    data = clip(greys(2, 64, 96))
    monkeypatch.setattr(demux, "MAX_FRAME_PIXELS", 64 * 96 - 1)
    with pytest.raises(BadVideo, match="beyond 0 megapixels"):  # the decoder refused to read on
        read(data)
    with pytest.raises(BadVideo, match="frames too large: 96 x 64"):
        demux.refuse_size(96, 64)


def test_video_without_a_good_packet_is_refused():
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
def test_playlist_opens_no_other_file(tmp_path, name):
    (tmp_path / "secret.mp4").write_bytes(clip(greys(3)))
    (tmp_path / name).write_text(SECRET_NAMES[name].format(tmp_path / "secret.mp4"))
    with pytest.raises(BadVideo, match="not a video"):
        next(read_frames(str(tmp_path / name)))


def test_allowed_container_opens_no_other_file(tmp_path, monkeypatch):
    (tmp_path / "secret.ts").write_bytes(clip(greys(30), "mpegts", "libx264"))
    text = SECRET_NAMES["list.m3u8"].format(tmp_path / "secret.ts").encode()
    monkeypatch.setattr(demux, "_CONTAINERS", demux._CONTAINERS + ",hls")
    with pytest.raises(BadVideo):
        next(read_frames(io.BytesIO(text)))


def test_file_name_is_not_interpreted(tmp_path):
    for name in ("%03d.png", "b21 ünïcode имя 顔 [copy] (1)*.mp4", "http:evil.mp4", "-i.mp4", "film.jpg", "x.m3u8"):
        (tmp_path / name).write_bytes(clip(greys(3)))
        assert len(list(read_frames(str(tmp_path / name)))) == 3


def test_missing_file_raises_os_error(tmp_path):
    with pytest.raises(FileNotFoundError):
        probe_video(str(tmp_path / "none.mp4"))


def test_broken_connection_raises_os_error():
    class Flaky(io.BytesIO):
        def read(self, size=-1):
            if self.tell() > 100_000:
                raise ConnectionResetError("gone")
            return super().read(size)

    noise = [np.random.default_rng(i).integers(0, 256, (96, 96, 3), np.uint8) for i in range(40)]
    with pytest.raises(ConnectionResetError):
        list(read_frames(Flaky(clip(noise, "matroska", "ffv1", options={}))))


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
def test_truncated_video_gives_good_frames_then_truncated(kind, codec, muxer):
    """Cut in the middle of any packet: an encoder's bytes, so what lies at 60 % of them, differ from machine to
    machine."""
    whole = clip(textures(90), kind, codec, options=H264 if codec == "libx264" else FAST, muxer=muxer)
    good = read(whole)
    assert len(good) == 90
    image_at = {f.time_s: f.image for f in good}
    with av.open(io.BytesIO(whole)) as file:
        cuts = sorted(p.pos + p.size // 2 for p in file.demux(video=0) if p.size)[38:51]
    for cut in cuts:
        got, reason = read_all_there_is(io.BytesIO(whole[:cut]))
        assert reason == "data ends early"
        assert 30 < len(got) < 60
        times = [f.time_s for f in got]
        assert times == sorted(set(times))
        assert times[:-2] == [f.time_s for f in good[: len(got) - 2]]  # the last two may stand behind a hole: see below
        for frame in got:
            np.testing.assert_array_equal(frame.image, image_at[frame.time_s])
        _, chunks = plan_chunks(io.BytesIO(whole[:cut]), None, 15)
        parts = [read_all_there_is(io.BytesIO(whole[:cut]), None, chunk) for chunk in chunks]
        assert [reason for _, reason in parts] == [None] * (len(parts) - 1) + ["data ends early"]
        same([f for part, _ in parts for f in part], got)


def test_cut_before_b_frames_loses_only_those():
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


def test_cut_between_packets_of_an_mp4_is_detected():
    data = clip(greys(30), muxer={"movflags": "faststart"})
    with av.open(io.BytesIO(data)) as file:
        at = [p.pos for p in file.demux(video=0) if p.size][18]
    got, reason = read_all_there_is(io.BytesIO(data[:at]))
    assert (len(got), reason) == (18, "data ends early")


def test_damaged_packet_loses_only_its_frames():
    data = bytearray(clip(textures(60), codec="mpeg4"))
    with av.open(io.BytesIO(data)) as file:
        packet = [p for p in file.demux(video=0) if p.size][25]
    data[packet.pos : packet.pos + packet.size] = bytes(packet.size)
    got, reason = read_all_there_is(io.BytesIO(bytes(data)))
    assert reason == "data is damaged"
    assert 55 <= len(got) < 60
    assert got[-1].time_s == pytest.approx(59 / 30)


def test_chunks_of_a_truncated_video_end_with_truncated():
    """The index promises 90 frames; the chunk that would hold only lost ones must say so rather than be empty."""
    data = clip(textures(90), muxer={"movflags": "faststart"})
    _, chunks = plan_chunks(io.BytesIO(data), None, 30)
    cut = io.BytesIO(data[: len(data) // 2])
    with pytest.raises(Truncated):
        list(read_frames(cut, None, chunks[2]))
