"""Video writing: frame count, times and copied sound."""

from pathlib import Path

import av
import numpy as np
import pytest

from rigface.errors import BadVideo
from rigface.video.decode import read_frames
from rigface.video.writer import VideoWriter, best_codec

from .clips import read_all_there_is

CODECS = sorted({"mpeg4", best_codec()})


def pictures(count: int, width: int = 64, height: int = 48) -> list[np.ndarray]:
    out = []
    for i in range(count):
        image = np.full((height, width, 3), 90, np.uint8)
        image[8:24, 2 + i : 18 + i] = (200, 60, 40)
        out.append(image)
    return out


def clip(path: Path, *, audio: str = "aac", rate: int = 25, count: int = 20, late: float = 0.0) -> Path:  # fmt: skip
    """A clip with sound; `late`: seconds by which the picture starts after it."""
    with av.open(str(path), "w") as container:
        video = container.add_stream("mpeg4", rate=rate)
        video.width, video.height, video.pix_fmt = 64, 48, "yuv420p"
        sound = container.add_stream(audio, rate=44_100, layout="mono")
        for i, image in enumerate(pictures(count)):
            frame = av.VideoFrame.from_ndarray(image, format="rgb24")
            frame.pts = round(late * rate) + i
            container.mux(video.encode(frame))
        container.mux(video.encode(None))
        wave = (8000 * np.sin(np.arange(44_100 * count // rate) / 20)).astype(np.int16)
        form = {"s16": "s16", "s16p": "s16p", "fltp": "fltp"}[sound.codec_context.format.name]
        values = wave[None] if form != "fltp" else (wave / 32768).astype(np.float32)[None]
        block = av.AudioFrame.from_ndarray(values, format=form, layout="mono")
        block.sample_rate = 44_100
        container.mux(sound.encode(block))
        container.mux(sound.encode(None))
    return path


def sound_of(path: Path) -> list[tuple[float, bytes]]:
    """Time since the first picture, and content, of every packet of sound."""
    with av.open(str(path)) as container:
        first = next(container.decode(video=0))
        begin = float(first.pts * first.time_base)
    with av.open(str(path)) as container:
        packets = [p for p in container.demux(audio=0) if p.size]
        return [(round(float(p.pts * p.time_base) - begin, 4), bytes(p)) for p in packets]


def copied(source: Path, out: Path, **options) -> Path:
    shown = list(read_frames(str(source)))
    height, width = shown[0].image.shape[:2]
    with VideoWriter(out, (width, height), 25, sound=str(source), **options) as film:
        for frame in shown:
            film.write(frame.image, frame.time_s)
    return out


@pytest.mark.parametrize("codec", CODECS)
@pytest.mark.parametrize("suffix", [".mp4", ".mkv", ".mov"])
def test_written_video_keeps_count_times_and_sound(tmp_path, codec, suffix):
    source = clip(tmp_path / "a.mp4")
    out = copied(source, tmp_path / f"out{suffix}", codec=codec)
    was, now = list(read_frames(str(source))), list(read_frames(str(out)))
    assert [f.index for f in now] == [f.index for f in was]
    tolerance = 1e-9 if suffix != ".mkv" else 6e-4  # Matroska counts milliseconds
    assert np.allclose([f.time_s for f in now], [f.time_s for f in was], atol=tolerance)
    assert [data for _, data in sound_of(out)] == [data for _, data in sound_of(source)]
    assert np.allclose([t for t, _ in sound_of(out)], [t for t, _ in sound_of(source)], atol=1e-3)


@pytest.mark.slow
def test_real_clip_keeps_count_times_and_sound(tmp_path, fixtures):
    source = fixtures / "clip.mp4"
    out = copied(source, tmp_path / "out.mp4")
    was, now = list(read_frames(str(source))), list(read_frames(str(out)))
    assert len(now) == len(was) == 72
    assert [f.time_s for f in now] == [f.time_s for f in was]
    assert sound_of(out) == sound_of(source)
    error = np.mean([np.abs(a.image.astype(int) - b.image).mean() for a, b in zip(was, now)])
    assert error < 2.5


def test_delayed_video_start_is_kept(tmp_path):
    source = clip(tmp_path / "a.mkv", late=0.4)
    out = copied(source, tmp_path / "out.mp4")
    assert [t for t, _ in sound_of(out)] == pytest.approx([t for t, _ in sound_of(source)], abs=2e-3)


def test_late_start_time_is_moved_to_zero(tmp_path):
    source = clip(tmp_path / "a.ts", audio="mp2")  # MPEG-TS starts at 1.4 s
    out = copied(source, tmp_path / "out.mp4")
    assert [t for t, _ in sound_of(out)] == pytest.approx([t for t, _ in sound_of(source)], abs=1e-3)
    with av.open(str(out)) as container:
        assert min(s.start_time * s.time_base for s in container.streams) < 0.2


def test_uneven_times_are_kept(tmp_path):
    times = [0.0, 0.04, 0.2, 0.21, 0.7]
    with VideoWriter(tmp_path / "a.mp4", (64, 48), 25) as film:
        for image, time_s in zip(pictures(5), times):
            film.write(image, time_s)
    assert [f.time_s for f in read_frames(str(tmp_path / "a.mp4"))] == pytest.approx(times, abs=1e-6)


@pytest.mark.parametrize("codec", CODECS)
@pytest.mark.parametrize("size", [(64, 48), (63, 47), (1280, 720)])
def test_colours_and_sizes_are_kept(tmp_path, codec, size):
    width, height = size
    image = np.zeros((height, width, 3), np.uint8)
    image[:, : width // 2], image[:, width // 2 :] = (200, 60, 40), (30, 90, 180)
    with VideoWriter(tmp_path / "a.mp4", size, 25, codec=codec) as film:
        film.write(image, 0.0)
        film.write(image, 0.04)
    back = next(read_frames(str(tmp_path / "a.mp4"))).image
    assert back.shape == image.shape
    for x in (width // 4, 3 * width // 4):
        assert np.abs(back[height // 2, x].astype(int) - image[height // 2, x]).max() <= 6


def test_error_leaves_no_file(tmp_path):
    film = VideoWriter(tmp_path / "a.mp4", (64, 48), 25)
    with pytest.raises(ValueError, match="broadcast"), film:
        film.write(np.zeros((3, 3), np.uint8), 0.0)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("audio", "suffix", "kept"),
    [("adpcm_ms", ".mp4", False), ("pcm_s16le", ".mp4", True), ("pcm_s16le", ".mkv", True)],
)
def test_sound_is_copied_if_it_fits_and_else_encoded_again(tmp_path, audio, suffix, kept):
    source, out = clip(tmp_path / "a.avi", audio=audio), tmp_path / f"out{suffix}"
    copied(source, out)
    before, after = samples_and_codec(source), samples_and_codec(out)
    assert after[1] == (before[1] if kept else "aac")
    assert after[0] == pytest.approx(before[0], abs=3 * 1024)  # AAC fills its last block


def samples_and_codec(path):
    """Samples and codec of the first audio stream."""
    with av.open(str(path)) as container:
        samples = sum(frame.samples for frame in container.decode(audio=0))
        return samples, container.streams.audio[0].codec_context.name


def test_sound_that_cannot_be_kept_is_refused_before_the_first_picture(tmp_path, monkeypatch):
    source = clip(tmp_path / "a.avi", audio="adpcm_ms")
    monkeypatch.setattr("rigface.video.writer.EncodedTrack", lambda out, stream: int("no encoder"))
    with pytest.raises(BadVideo, match=r"adpcm_ms\) does not fit into \.mp4: try \.mkv, .* or --silent"):
        VideoWriter(tmp_path / "out.mp4", (64, 48), 25, sound=str(source)).__enter__()
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.avi"]


def test_picture_of_another_size_is_fitted(tmp_path):
    with VideoWriter(tmp_path / "a.mp4", (64, 48), 25) as film:
        film.write(np.full((48, 64, 3), 200, np.uint8), 0.0)
        film.write(np.full((24, 24, 3), 200, np.uint8), 0.04)
    first, second = (f.image for f in read_frames(str(tmp_path / "a.mp4")))
    assert first.shape == second.shape
    assert abs(int(second[24, 32, 0]) - 200) < 6
    assert second[24, 2, 0] < 6


def test_longest_name_is_written(tmp_path):
    path = tmp_path / ("n" * 251 + ".mp4")
    with VideoWriter(path, (64, 48), 25) as film:
        film.write(pictures(1)[0], 0.0)
    assert [p.name for p in tmp_path.iterdir()] == [path.name]


@pytest.mark.parametrize("suffix", [".mp4", ".mkv"])
def test_full_disk_names_the_file_and_leaves_none(tmp_path, no_room, suffix):
    path, noise = tmp_path / f"a{suffix}", np.random.default_rng(0)

    def write():
        with VideoWriter(path, (160, 120), 25) as film:
            for i in range(40):
                film.write(noise.integers(0, 256, (120, 160, 3), np.uint8), i / 25)

    with no_room(100_000), pytest.raises(OSError, match="File too large") as error:
        write()
    assert error.value.filename == str(path)
    assert list(tmp_path.iterdir()) == []


def test_size_that_no_encoder_takes_is_an_error_of_the_video(tmp_path):
    film = VideoWriter(tmp_path / "a.mp4", (20_000, 2), 25)
    with pytest.raises(BadVideo, match=r"a\.mp4 cannot be written by .* at 20000 x 2 px"), film:
        film.write(np.zeros((2, 20_000, 3), np.uint8), 0.0)
    assert list(tmp_path.iterdir()) == []


def test_sound_ends_where_the_source_breaks_off(tmp_path):
    source = clip(tmp_path / "a.mkv", count=50)
    source.write_bytes(source.read_bytes()[: source.stat().st_size // 2])
    shown, reason = read_all_there_is(str(source))
    assert reason == "data ends early"
    with VideoWriter(tmp_path / "out.mp4", (64, 48), 25, sound=str(source)) as film:
        for frame in shown:
            film.write(frame.image, frame.time_s)
    assert 0 < samples_and_codec(tmp_path / "out.mp4")[0] < 44_100 * 50 // 25


@pytest.mark.parametrize("number", [0, 12])
def test_damaged_packets_of_sound_are_left_out(tmp_path, number):
    source = clip(tmp_path / "a.avi", audio="mp2", count=50)
    data = bytearray(source.read_bytes())
    packets = [at for at in range(len(data) - 4) if data[at : at + 4] == b"01wb"]
    data[packets[number] + 8 : packets[number] + 40] = bytes(32)
    source.write_bytes(data)
    out = copied(source, tmp_path / "out.mov")
    assert len(list(read_frames(str(out)))) == 50


def test_unknown_suffix_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"ends in \.mp4"):
        VideoWriter(tmp_path / "a.webp", (64, 48), 25)
