"""Identity vectors and clusters. Faces: NASA's astronaut and real pairs."""

import numpy as np
import pytest
import skimage.data
from hypothesis import given, settings
from hypothesis import strategies as st

from rigface import image
from rigface.face.detection.boxes import landmark_box
from rigface.face.detection.factory import load_detector
from rigface.face.geometry.landmarks import LAYOUTS
from rigface.face.identity import clustering
from rigface.face.identity.clustering import IdentityClusters
from rigface.face.identity.dlib_embedding import (
    DlibIdentity,
    FramePicker,
    cluster_identities,
    embedding_worth,
    face_chip,
    unit_vectors,
)
from rigface.types import Detection


@pytest.fixture(scope="module")
def identity():
    return DlibIdentity()


@pytest.fixture(scope="module")
def detector():
    return load_detector()


@pytest.fixture(scope="module")
def astronaut(detector):
    picture = skimage.data.astronaut()
    return picture, detector(picture)[0]


def test_vector_equals_dlibs_own(identity, astronaut):
    vector = identity(*astronaut)
    assert vector.shape == (128,)
    assert vector.dtype == np.float32
    assert 1.2 < np.linalg.norm(vector) < 1.75  # raw, not of length 1


def test_identity_is_invariant_to_scale_shift_and_light(identity, astronaut, detector):
    import cv2

    picture, face = astronaut
    small = cv2.resize(picture[20:300, 80:360], (160, 160), interpolation=cv2.INTER_AREA)
    dark = (small * 0.6).astype(np.uint8)
    assert np.linalg.norm(identity(dark, detector(dark)[0]) - identity(picture, face)) < 0.4


def test_crop_and_frame_give_similar_vectors(identity, astronaut):
    from rigface.face.geometry import alignment

    picture, face = astronaut
    affine = alignment.frame_to_crop(face.box)
    inside = Detection(face.box, alignment.apply(affine, face.landmarks), face.score)
    assert np.linalg.norm(identity(alignment.crop(picture, affine), inside) - identity(picture, face)) < 0.2


def test_chip_is_upright_for_any_roll(astronaut):
    picture, face = astronaut
    turned = np.ascontiguousarray(np.rot90(picture))
    landmarks = face.landmarks.copy()
    landmarks[:, 0], landmarks[:, 1] = face.landmarks[:, 1], picture.shape[1] - face.landmarks[:, 0]
    straight, upright = face_chip(picture, face.landmarks), face_chip(turned, landmarks)
    assert upright.shape == (150, 150, 3)
    assert np.abs(straight.astype(int) - upright).mean() < 4


def test_mediapipe_landmarks_match_dlibs_chip(identity, astronaut):
    import dlib

    from rigface import assets

    picture, face = astronaut
    predictor = dlib.shape_predictor(str(assets.find("dlib_five_points")))
    found = dlib.get_frontal_face_detector()(picture, 0)[0]
    dlib_chip = dlib.get_face_chip(picture, predictor(picture, found), 150)
    vector, dlib_vector = identity.embed([face_chip(picture, face.landmarks), dlib_chip])
    assert np.linalg.norm(vector - dlib_vector) < 0.25  # two pictures of one person differ by 0.45


def test_landmarks_without_extent_give_no_vector(identity, astronaut):
    picture, face = astronaut
    assert identity(picture, Detection(face.box, np.full((478, 3), 40.0, np.float32), 0.9)) is None
    assert identity(picture, Detection(face.box, face.landmarks + 5000, 0.9)) is None


def test_unknown_landmark_layout_is_refused(astronaut):
    with pytest.raises(ValueError, match="no layout has 77 points"):
        face_chip(astronaut[0], np.zeros((77, 3)))


def test_no_chips_give_no_vectors(identity):
    assert identity.embed([]).shape == (0, 128)


def face(eyes: float = 60, turn: float = 0.0, score: float = 1.0) -> Detection:
    """Eyes this far apart, the base of the nose this far off the middle."""
    landmarks = np.full((478, 3), 100, np.float32)
    landmarks[list(LAYOUTS[478].five), 0] = np.array([1.25, 0.75, -0.25, 0.25, 0.5 + turn]) * eyes + 100
    landmarks[LAYOUTS[478].nose_base, 1] += 0.6 * eyes
    return Detection(landmark_box(landmarks), landmarks, score)


def test_large_frontal_and_sure_faces_are_worth_more():
    assert embedding_worth(face()) == pytest.approx(1, abs=0.01)
    assert embedding_worth(face()) > embedding_worth(face(eyes=30)) > embedding_worth(face(eyes=10))
    assert embedding_worth(face()) > embedding_worth(face(turn=0.3)) > embedding_worth(face(turn=0.7))
    assert embedding_worth(face(score=0.5)) == pytest.approx(embedding_worth(face()) / 2)


def test_picker_keeps_the_best_frames_apart():
    picture = skimage.data.astronaut()
    picker = FramePicker(per_track=2, apart=5)
    turns = [0.8, 0.5, 0.3, 0.5, 0.8, 0.8, 0.6, 0.05, 0.6, 0.8, 0.2, 0.8]
    for frame, turn in enumerate(turns):
        picker.offer(7, frame, picture, face(turn=turn))
    picker.offer(9, 0, picture, face(turn=0.8))
    picks = picker.picks()
    assert [frame for frame, _ in picks[7]] == [2, 7]
    assert [frame for frame, _ in picks[9]] == [0]  # a poor frame is better than none
    assert picks[7][0][1].shape == (150, 150, 3)


def test_picker_replaces_a_poor_frame_by_a_better_one():
    picker = FramePicker(per_track=1)
    for frame, score in enumerate([0.1, 0.9, 0.2]):
        picker.offer(0, frame, skimage.data.astronaut(), face(score=score))
    assert [frame for frame, _ in picker.picks()[0]] == [1]


def crowd(count: int, each: int, noise: float, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Vectors of `count` people, `each` of everyone, in the directions dlib's vectors have; and who is who."""
    rng = np.random.default_rng(seed)
    who = np.repeat(np.arange(count), each)
    centres = rng.normal(size=(count, 128)) / np.sqrt(128)
    return centres[who] + noise * rng.normal(size=(len(who), 128)) / np.sqrt(128), who


def test_cluster_finds_people():
    vectors, who = crowd(30, 6, 0.4)
    order = np.random.default_rng(1).permutation(len(who))
    labels, found = clustering.cluster_vectors(vectors[order], threshold=0.8)
    assert len(found.ids) == 30
    assert all(len(set(labels[who[order] == k])) == 1 for k in range(30))
    assert labels[0] == 0  # counted in the order of the vectors


def test_ids_stay_when_videos_are_added():
    vectors, who = crowd(20, 8, 0.4)
    first = np.arange(len(who)) % 2 == 0
    old_labels, old = clustering.cluster_vectors(vectors[first], threshold=0.8)
    new_vectors, new_who = crowd(5, 4, 0.4, seed=9)
    labels, both = clustering.cluster_vectors(
        np.concatenate([new_vectors, vectors[~first]]), previous=old, threshold=0.8
    )
    assert (labels[len(new_who) :] == old_labels).all()  # the same people, in the same order
    assert sorted(set(labels[: len(new_who)])) == [20, 21, 22, 23, 24]
    assert (both.ids[:20] == old.ids).all()
    assert both.weight.sum() == len(who) + len(new_who)


def test_cluster_summaries_are_exact():
    vectors, _ = crowd(6, 5, 0.5)
    weights = np.random.default_rng(2).uniform(0.5, 9, len(vectors))
    labels, found = clustering.cluster_vectors(vectors, weights, threshold=0.9)
    for k in found.ids:
        own, w = vectors[labels == k], weights[labels == k]
        mean = np.average(own, axis=0, weights=w)
        assert np.allclose(found.centroid[k], mean)
        assert found.scatter[k] == pytest.approx(np.average(((own - mean) ** 2).sum(1), weights=w), abs=1e-6)


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 1000), st.integers(1, 24), st.floats(0.2, 1.6))
def test_cluster_equals_naive_average_linkage(seed, count, threshold):
    from scipy.cluster.hierarchy import fcluster, linkage
    from scipy.spatial.distance import pdist

    vectors = np.random.default_rng(seed).normal(size=(count, 3))
    labels, _ = clustering.cluster_vectors(vectors, threshold=threshold)
    if count > 1:
        book = fcluster(linkage(pdist(vectors, "sqeuclidean"), "average"), threshold**2 * (1 - 1e-12), "distance")
        assert (np.equal.outer(labels, labels) == np.equal.outer(book, book)).all()


def one_pair_at_a_time(vectors, known, apart, threshold):
    """Labels by the definition: of all pairs of groups that may be one, merge the closest, until none is near
    enough."""
    groups = [[k] for k in range(len(vectors))]
    between = ((vectors[:, None] - vectors) ** 2).sum(-1)
    for a, b in apart:
        between[a, b] = between[b, a] = np.inf
    between[:known, :known] = np.inf
    while True:
        far = {(a, b): between[np.ix_(groups[a], groups[b])].mean() for b in range(len(groups)) for a in range(b)}
        if not far or min(far.values()) >= threshold**2:
            break
        a, b = min(far, key=far.__getitem__)
        groups[a] += groups.pop(b)
    labels = np.zeros(len(vectors), int)
    for k, group in enumerate(groups):
        labels[group] = k
    return labels


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 1000), st.integers(1, 14), st.integers(0, 5), st.integers(0, 6), st.floats(0.2, 2.5))
def test_known_people_and_apart_pairs_equal_naive_linkage(seed, count, known, frames, threshold):
    rng = np.random.default_rng(seed)
    vectors = rng.normal(size=(known + count, 3))
    apart = [(a, b) for a, b in rng.integers(0, count, (frames, 2)).tolist() if a != b]
    people_before = IdentityClusters(np.arange(known), vectors[:known], np.ones(known), np.zeros(known))
    labels, found = clustering.cluster_vectors(vectors[known:], None, people_before, threshold=threshold, apart=apart)
    want = one_pair_at_a_time(vectors, known, [(a + known, b + known) for a, b in apart], threshold)
    assert (np.concatenate([np.arange(known), labels]) == want).all()
    assert len(found.ids) == want.max() + 1


@pytest.fixture
def compared(monkeypatch):
    """Numbers of distances, a number for each search."""
    counts = []

    def counted(ask, others, *rest, really=clustering._nearest):
        counts.append(len(ask) * len(others))
        return really(ask, others, *rest)

    monkeypatch.setattr(clustering, "_nearest", counted)
    return counts


def test_all_pairs_are_compared_once(compared):
    vectors, _ = crowd(60, 12, 0.6)
    clustering.cluster_vectors(vectors, threshold=0.8)
    assert len(compared) > 10
    assert max(compared) == len(vectors) ** 2
    assert sum(compared) < 2 * len(vectors) ** 2


def test_known_people_are_compared_with_new_vectors_only(compared):
    vectors, _ = crowd(200, 1, 0.4)
    _, old = clustering.cluster_vectors(vectors[:-1], threshold=0.01)
    compared.clear()
    clustering.cluster_vectors(vectors[-1:], previous=old, threshold=0.01)
    assert sum(compared) <= 2 * len(vectors)


@pytest.mark.parametrize(("rows", "columns"), [(7, 5), (50, 64)])
def test_blocks_of_any_size_give_the_same_people(monkeypatch, rows, columns):
    vectors, _ = crowd(20, 5, 0.6)
    apart = [(0, 1), (30, 33), (99, 95)]
    whole, _ = clustering.cluster_vectors(vectors, threshold=0.8, apart=apart)
    monkeypatch.setattr(clustering, "ROWS", rows)
    monkeypatch.setattr(clustering, "COLUMNS", columns)
    assert (clustering.cluster_vectors(vectors, threshold=0.8, apart=apart)[0] == whole).all()


def test_clusters_of_two_datasets_are_matched_one_to_one():
    centres = np.eye(6, 128)
    few = np.array([1, 3, 5])
    one = IdentityClusters(np.arange(6), centres, np.ones(6), np.zeros(6))
    near = centres[few] + 0.05
    second = np.concatenate([near, centres[[3]] + 0.02, np.eye(1, 128, 99)])  # two are near to 3; the nearer has it
    other = IdentityClusters(np.arange(5), second, np.ones(5), np.zeros(5))
    pairs = clustering.match_clusters(one, other, threshold=0.8)
    assert sorted(map(tuple, pairs.tolist())) == [(1, 0), (3, 3), (5, 2)]


def test_people_of_one_frame_are_never_merged():
    vectors, _ = crowd(1, 6, 0.3)
    labels, _ = clustering.cluster_vectors(vectors, threshold=0.8, apart=[(0, 1), (3, 1)])
    assert labels[0] != labels[1] != labels[3]
    assert len(set(labels)) == 2


def test_known_people_are_never_merged():
    vectors, _ = crowd(1, 2, 0.1)
    _, old = clustering.cluster_vectors(vectors, threshold=0.01)
    labels, both = clustering.cluster_vectors(vectors + 0.001, previous=old, threshold=0.8)
    assert len(both.ids) == 2
    assert set(labels) <= {0, 1}


def test_empty_input_is_accepted_and_bad_input_refused():
    labels, found = clustering.cluster_vectors(np.zeros((0, 128)), threshold=0.8)
    assert len(labels) == len(found.ids) == 0
    with pytest.raises(ValueError, match="finite"):
        clustering.cluster_vectors(np.full((2, 4), np.nan), threshold=0.8)
    with pytest.raises(ValueError, match="weights"):
        clustering.cluster_vectors(np.zeros((2, 4)), np.zeros(2), threshold=0.8)


def test_unit_vectors_subtract_the_mean_for_dlib_only():
    rng = np.random.default_rng(0)
    for width in (128, 512):
        assert np.allclose(np.linalg.norm(unit_vectors(rng.normal(size=(4, width))), axis=1), 1)
    assert np.allclose(unit_vectors(np.eye(3, 512)), np.eye(3, 512))


PAIRS = [["pm_i01.jpg", "pm_i02.jpg", "pm_i03.jpg"], ["rig_i01.png", "rig_i02.png", "fr_i08.png"], ["ffuv_i01.png"]]


@pytest.mark.slow
def test_real_people_are_clustered(identity, detector, shared):
    vectors, who = [], []
    for k, files in enumerate([*PAIRS, ["artk_i04.jpg"], ["lp_i05.jpg", "cf_i08.png"], ["fr_i06.png"]]):
        for name in files:
            picture = image.decode((shared / "data/images" / name).read_bytes())
            vectors.append(identity(picture, detector(picture)[0]))
            who.append(k)
    distance = np.linalg.norm(np.array(vectors)[:, None] - np.array(vectors), axis=-1)
    same = np.equal.outer(who, who)
    assert distance[same].max() < 0.55
    assert distance[~same].min() > 0.6
    labels, _ = cluster_identities(np.array(vectors))
    assert (np.equal.outer(labels, labels) == same).all()
