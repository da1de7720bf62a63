"""Clip metrics: smoothness, drift, exact counts on files made here."""

from fractions import Fraction

import numpy as np
import pytest

from rigface.face.geometry.rotation import from_degrees, to_axis_angle
from rigface.metrics.video import clip_of, differences, identity_drift, jitter, jitter_ratio, pose_track


def test_steady_motion_has_no_jitter():
    assert jitter(np.linspace(0, 5, 20)[:, None] * (1, -2)) == pytest.approx(0, abs=1e-12)


def test_zigzag_bends_by_four_each_frame():
    assert jitter((-1.0) ** np.arange(10)) == pytest.approx(4)


def test_missing_frame_leaves_out_the_differences_it_is_in():
    track = (-1.0) ** np.arange(10)
    track[4] = np.nan
    assert jitter(track) == pytest.approx(4)
    assert np.isnan(jitter(np.array([1.0, np.nan, 1.0, 1.0])))


def test_ratio_is_one_where_it_follows_exactly_and_grows_with_noise():
    random = np.random.default_rng(0)
    driving = np.cumsum(random.normal(size=(100, 3)), 0)
    assert jitter_ratio(driving, driving) == pytest.approx(1)
    assert jitter_ratio(driving + random.normal(size=(100, 3)), driving) > 1.5
    assert jitter_ratio(np.zeros((9, 1)), np.zeros((9, 1))) == 1
    assert np.isnan(jitter_ratio((-1.0) ** np.arange(9), np.zeros(9)))


def test_head_rolling_past_half_a_turn_does_not_jump():
    roll = np.arange(150.0, 210.0, 5.0)
    degrees = np.stack([0 * roll, 0 * roll, roll], 1)
    track = pose_track(to_axis_angle(from_degrees(degrees)))
    assert np.diff(track[:, 2]) == pytest.approx(np.full(len(roll) - 1, 5.0), abs=1e-4)
    assert jitter(track) == pytest.approx(0, abs=1e-4)


def test_drift_is_the_slope_per_minute():
    time = np.arange(0, 10, 0.1)
    got = identity_drift(0.9 - 0.01 * time, time)
    assert got.per_minute == pytest.approx(-0.6)
    assert got.last < got.mean
    assert got.worst == pytest.approx(0.9 - 0.099)
    assert np.isnan(identity_drift(np.full(3, np.nan), np.arange(3)).mean)


def clip(path, frames=6, rate=12, tone=440.0):
    """A small clip with a tone; tone None: silent film."""
    av = pytest.importorskip("av")
    with av.open(str(path), "w") as out:
        video = out.add_stream("mpeg4", rate=rate)
        video.width = video.height = 32
        audio = None if tone is None else out.add_stream("aac", rate=16000)
        for k in range(frames):
            picture = av.VideoFrame.from_ndarray(np.full((32, 32, 3), 30 * k, np.uint8), format="rgb24")
            out.mux(video.encode(picture))
        out.mux(video.encode(None))
        if audio is not None:
            wave = np.sin(np.arange(8192) * 2 * np.pi * tone / 16000).astype(np.float32)
            for start in range(0, 8192, 1024):
                sound = av.AudioFrame.from_ndarray(wave[None, start : start + 1024], format="fltp", layout="mono")
                sound.sample_rate, sound.pts = 16000, start
                out.mux(audio.encode(sound))
            out.mux(audio.encode(None))
    return str(path)


def test_clip_is_like_itself_and_its_counts_are_exact(tmp_path):
    got = clip_of(clip(tmp_path / "a.mp4", frames=7))
    assert (got.frames, got.rate) == (7, Fraction(12))
    assert differences(got, clip_of(clip(tmp_path / "b.mp4", frames=7))) == []


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"frames": 5}, "5 frames instead of 6"),
        ({"rate": 10}, "10 frames a second instead of 12"),
        ({"tone": 300.0}, "the sound is not the same, byte for byte"),
        ({"tone": None}, "the sound is missing"),
    ],
)
def test_differences_are_named(tmp_path, changes, said):
    driving = clip_of(clip(tmp_path / "driving.mp4"))
    assert said in differences(clip_of(clip(tmp_path / "output.mp4", **changes)), driving)
