"""Tracking: matching, cuts and chunk borders, on drawn faces and real clips."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import linear_sum_assignment

from rigface.face.detection import tracking
from rigface.face.detection.boxes import landmark_box
from rigface.face.detection.tracking import Tracker, TrackSummary, join_tracks, number_tracks
from rigface.types import Detection

HEIGHT, WIDTH = 270, 480
SIDE = 60


class Actor:
    """A face with its own colours and its own landmark pattern, which can be drawn anywhere."""

    def __init__(self, seed: int) -> None:
        rng = np.random.default_rng(seed)
        tone = rng.uniform(60, 220, 3)
        texture = rng.normal(0, 1, (6, 6, 3))
        self.patch = np.clip(tone + 25 * np.kron(texture, np.ones((10, 10, 1))), 0, 255).astype(np.uint8)
        self.points = rng.uniform(0, SIDE, (120, 3)).astype(np.float32)
        self.points[:2] = [[0, 0, 0], [SIDE, SIDE, 0]]

    def enter(self, frame: np.ndarray, x: float, y: float) -> Detection:
        left, top = round(x), round(y)
        frame[top : top + SIDE, left : left + SIDE] = self.patch
        landmarks = self.points + np.array([x, y, 0], np.float32)
        return Detection(landmark_box(landmarks), landmarks, 0.9)


def stage(seed: int) -> np.ndarray:
    """A set: smooth blotches of colour."""
    import cv2

    small = np.random.default_rng(1000 + seed).uniform(0, 255, (9, 16, 3)).astype(np.float32)
    return np.clip(cv2.resize(small, (WIDTH, HEIGHT), interpolation=cv2.INTER_CUBIC), 0, 255).astype(np.uint8)


def test_moving_face_is_one_track():
    tracker, actor = Tracker(), Actor(0)
    for step in range(20):
        frame = stage(0)
        assert tracker.update(frame, [actor.enter(frame, 20 + 12 * step, 100)]) == [0]


@pytest.mark.parametrize("hidden", [0, 4], ids=["both always seen", "one hides behind the other"])
def test_crossing_people_keep_their_tracks(hidden):
    tracker, ann, bob = Tracker(), Actor(1), Actor(2)
    ids = []
    for step in range(31):
        frame = stage(0)
        a = ann.enter(frame, 30 + 12 * step, 100)
        b = bob.enter(frame, 390 - 12 * step, 105)
        seen = {"bob": b} if abs(step - 15) < hidden else {"ann": a, "bob": b}
        if step % 2:  # the detector's order means nothing
            seen = dict(reversed(seen.items()))
        ids.append(dict(zip(seen, tracker.update(frame, list(seen.values())))))
    assert ids[0] == {"ann": 0, "bob": 1}
    assert all(found.get("ann", 0) == 0 and found["bob"] == 1 for found in ids)


def test_short_gap_is_bridged_and_a_long_one_is_not():
    for gap, expected in ((5, 0), (30, 1)):
        tracker, actor = Tracker(max_gap=12), Actor(0)
        frame = stage(0)
        tracker.update(frame, [actor.enter(frame, 100, 100)])
        for _ in range(gap):
            assert tracker.update(stage(0), []) == []
        frame = stage(0)
        assert tracker.update(frame, [actor.enter(frame, 110, 100)]) == [expected]


def test_another_person_in_the_same_place_is_a_new_track():
    tracker = Tracker()
    for seed, expected in ((1, 0), (1, 0), (2, 1), (2, 1)):
        frame = stage(0)
        assert tracker.update(frame, [Actor(seed).enter(frame, 100, 100)]) == [expected]


def test_cut_ends_the_track_of_an_unmoved_face():
    tracker, actor, ids = Tracker(), Actor(0), []
    for step in range(12):
        frame = stage(step // 6)
        ids += tracker.update(frame, [actor.enter(frame, 100, 100)])
    assert ids == [0] * 6 + [1] * 6
    assert tracker.cuts == [6]


def changed(kind: str, step: int) -> np.ndarray:
    """Changes that are not cuts: the same set under a flash, through black, panned, growing dark, shaking."""
    wide = np.concatenate([stage(0), stage(0)[:, ::-1]], axis=1)
    if kind == "pan":
        return wide[:, 40 * step : 40 * step + WIDTH]
    if kind == "shake":
        shift = [0, 25, -18, 30, 0, -25][step % 6]
        return np.roll(stage(0), (shift, 2 * shift), axis=(0, 1))
    still = stage(0).astype(np.float64)
    if kind == "white flash":
        return np.full_like(stage(0), 255) if step == 5 else stage(0)
    if kind == "half flash":
        return np.clip(still * 1.3 + 90, 0, 255).astype(np.uint8) if step == 5 else stage(0)
    if kind == "black":
        return np.zeros_like(stage(0)) if step in (5, 6) else stage(0)
    return (still * (1 - step / 14)).astype(np.uint8)


@pytest.mark.parametrize("kind", ["white flash", "half flash", "black", "pan", "shake", "growing dark"])
def test_flashes_pans_and_noise_are_no_cut(kind):
    tracker = Tracker()
    for step in range(10):
        tracker.update(changed(kind, step), [])
    assert tracker.cuts == []


def test_fade_through_black_to_another_scene_is_a_cut():
    tracker = Tracker()
    for frame in (stage(0), np.zeros_like(stage(0)), np.zeros_like(stage(0)), stage(1)):
        tracker.update(frame, [])
    assert tracker.cuts == [3]


@settings(max_examples=25, deadline=None)
@given(st.lists(st.integers(0, 5), max_size=5, unique=True), st.randoms(use_true_random=False))
def test_track_ids_are_unique_within_a_frame(present, random):
    tracker = Tracker()
    actors = [Actor(k) for k in range(6)]
    for _ in range(6):
        frame = stage(0)
        seen = [actors[k].enter(frame, random.randint(0, 400), random.randint(0, 200)) for k in present]
        ids = tracker.update(frame, seen)
        assert len(set(ids)) == len(ids) == len(present)
        assert all(i >= 0 for i in ids)


@pytest.mark.parametrize("shape", [(1, 1), (1, 4), (4, 1), (2, 2), (2, 4), (4, 2), (3, 3), (2, 5)])
def test_few_pairs_are_those_of_the_hungarian_method(shape):
    costs = np.random.default_rng(0).uniform(0, 3, (20, *shape))
    for cost in costs:
        wanted = set(zip(*map(tuple, linear_sum_assignment(cost))))
        assert set(zip(*map(tuple, tracking._cheapest_pairs(cost)))) == wanted


def test_tracker_accepts_tiny_frames_and_faces_outside():
    tracker = Tracker()
    landmarks = np.array([[-50, -50, 0], [-20, -10, 0]], np.float32)
    for _ in range(2):
        assert tracker.update(np.zeros((1, 1, 3), np.uint8), [Detection(landmark_box(landmarks), landmarks, 0.9)]) == [
            0
        ]


def summary(track, first, last, x0=100.0, x1=None, who=None) -> TrackSummary:
    box = lambda x: np.array([x, 100, x + 80, 200], np.float32)  # noqa: E731
    return TrackSummary(track, first, last, box(x0), box(x0 if x1 is None else x1), who)


def person(k: int, noise: float = 0.0) -> np.ndarray:
    rng = np.random.default_rng(k)
    one = rng.normal(size=128)
    other = rng.normal(size=128)
    return one / np.linalg.norm(one) * 1.4 + noise * other / np.linalg.norm(other)


def test_same_person_in_the_same_place_is_joined():
    left = [summary(0, 0, 9.9, who=person(1)), summary(1, 0, 9.9, x0=300, who=person(2))]
    right = [summary(0, 10, 19, x0=310, who=person(2, 0.2)), summary(1, 10, 19, x0=95, who=person(1, 0.2))]
    assert join_tracks(left, right, max_gap_s=1) == {0: 1, 1: 0}


def test_identity_overrules_overlap():
    assert join_tracks([summary(0, 0, 9.9, who=person(1))], [summary(0, 10, 19, who=person(2))], 1) == {}


def test_same_person_elsewhere_is_another_track():
    assert join_tracks([summary(0, 0, 9.9, who=person(1))], [summary(0, 10, 19, x0=600, who=person(1))], 1) == {}


def test_without_identity_only_a_good_overlap_joins():
    left = [summary(0, 0, 9.9)]
    assert join_tracks(left, [summary(3, 10, 19, x0=105)], 1) == {3: 0}
    assert join_tracks(left, [summary(3, 10, 19, x0=150)], 1) == {}


def test_long_gap_between_chunks_is_not_bridged():
    assert join_tracks([summary(0, 0, 5)], [summary(0, 10, 19)], 1) == {}


def test_two_tracks_never_continue_one():
    joined = join_tracks(
        [summary(0, 0, 9.9, who=person(1))], [summary(k, 10, 19, who=person(1, 0.1)) for k in range(3)], 1
    )
    assert len(joined) == 1


def test_number_tracks_numbers_a_whole_video():
    chunks = [
        [summary(0, 0, 9.9, who=person(1)), summary(1, 3, 5, x0=300, who=person(2))],
        [summary(0, 10, 12, x0=300, who=person(3)), summary(1, 10, 19.9, who=person(1, 0.1))],
        [],
        [summary(0, 30, 39, who=person(1))],
    ]
    assert number_tracks(chunks, 1) == [{0: 0, 1: 1}, {0: 2, 1: 0}, {}, {0: 3}]


@pytest.mark.slow
def test_three_cuts_of_a_real_clip_end_its_tracks(shared):
    import av

    from rigface.face.detection.detector import KeyframeDetector
    from rigface.face.detection.factory import load_detector

    keyframe_detector, tracker = KeyframeDetector(load_detector()), Tracker()
    shots: dict[int, set[int]] = {}
    with av.open(str(shared / "data/videos/fr_v01.mp4")) as container:
        for k, frame in enumerate(container.decode(video=0)):
            if k % 3 == 0:
                image = frame.to_ndarray(format="rgb24")
                for track in tracker.update(image, keyframe_detector(image)):
                    shots.setdefault(track, set()).add((k >= 20) + (k >= 82) + (k >= 211))  # by eye
    assert [3 * c for c in tracker.cuts] == [21, 84, 213]
    assert all(len(in_shots) == 1 for in_shots in shots.values())
