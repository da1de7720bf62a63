"""Concatenation: exact frames, times and sound of the pieces."""

from fractions import Fraction

import av
import numpy as np
import pytest

from rigface.video.concat import VideoConcatenator
from rigface.video.decode import read_frames
from rigface.video.writer import VideoWriter, best_codec

SIZE = (96, 64)


def pictures(count: int) -> list[np.ndarray]:
    random = np.random.default_rng(4)
    base = random.integers(0, 255, (SIZE[1] // 8, SIZE[0] // 8, 3)).repeat(8, 0).repeat(8, 1)
    return [np.roll(base, 3 * i, axis=1).astype(np.uint8) for i in range(count)]


@pytest.fixture(params=[30, 24000 / 1001, 0])
def clip(request, tmp_path):
    """A clip with sound; a rate of 0 is one that varies."""
    path = tmp_path / "clip.mp4"
    with av.open(str(path), "w") as out:
        video = out.add_stream(best_codec(), rate=30)
        video.width, video.height, video.pix_fmt = *SIZE, "yuv420p"
        video.codec_context.time_base = video.time_base = Fraction(1, 24000)
        sound = out.add_stream("aac", rate=44_100, layout="mono")
        ticks = 0
        for i, image in enumerate(pictures(25)):
            frame = av.VideoFrame.from_ndarray(image, format="rgb24")
            frame.pts, frame.time_base = ticks, Fraction(1, 24000)
            out.mux(video.encode(frame))
            ticks += round(24000 / request.param) if request.param else 500 + 337 * (i % 5)
        out.mux(video.encode(None))
        block = av.AudioFrame.from_ndarray(np.sin(np.arange(44_100) / 20).astype(np.float32)[None], "fltp", "mono")
        block.sample_rate = 44_100
        out.mux(sound.encode(block))
        out.mux(sound.encode(None))
    return path


def sound_of(path):
    with av.open(str(path)) as container:
        return [(p.pts, bytes(p)) for p in container.demux(audio=0) if p.size]


@pytest.mark.parametrize("codec", ["libx264", "mpeg4"])
def test_concatenation_keeps_frames_times_and_sound(clip, tmp_path, codec):
    if codec not in (best_codec(), "mpeg4"):
        pytest.skip(f"PyAV was built without {codec}")
    shown = list(read_frames(str(clip)))
    cuts = [shown[:10], shown[10:11], shown[11:]]
    pieces, inside = [], []
    for k, cut in enumerate(cuts):
        pieces.append(tmp_path / f"{k}.mp4")
        with VideoWriter(pieces[-1], SIZE, 30, reorder=False, codec=codec) as film:
            for frame in cut:
                film.write(frame.image, frame.time_s - cut[0].time_s)
        inside += [f.image for f in read_frames(str(pieces[-1]))]
    with VideoConcatenator(tmp_path / "whole.mp4", SIZE, 30, like=pieces[0], sound=str(clip)) as film:
        for piece, cut in zip(pieces, cuts):
            film.append(piece, [f.time_s for f in cut])
    whole = list(read_frames(str(tmp_path / "whole.mp4")))
    assert [f.time_s for f in whole] == [f.time_s for f in shown]
    assert all(np.array_equal(a.image, b) for a, b in zip(whole, inside))
    assert sound_of(tmp_path / "whole.mp4") == sound_of(clip)


def test_mismatched_piece_is_refused_and_leaves_no_file(tmp_path):
    for name, quality in (("a", 18), ("b", 40)):
        with VideoWriter(tmp_path / f"{name}.mp4", SIZE, 30, reorder=False, quality=quality) as film:
            for i, image in enumerate(pictures(3)):
                film.write(image, i / 30)
    for piece, times in (("a", [0.0]), ("b", [0.0, 0.1, 0.2])):
        with pytest.raises(ValueError, match=f"{piece}.mp4"):  # noqa: SIM117
            with VideoConcatenator(tmp_path / "out.mp4", SIZE, 30, like=tmp_path / "a.mp4") as film:
                film.append(tmp_path / f"{piece}.mp4", times)
    assert not list(tmp_path.glob("*out*"))
