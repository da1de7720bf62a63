"""Openings of eyes and mouth: rims, closing, and strips."""

import numpy as np
import pytest

from rigface.face.geometry.landmarks import LEFT_EYE, LIPS, RIGHT_EYE
from rigface.face.geometry.mesh import boundary_loop
from rigface.face.head.open_head import OpenHead
from rigface.face.preview.eye_mouth_openings import close_opening, find_openings

HEAD = OpenHead.load()
WEIGHTS, FACES = HEAD.subdivision(1)
POINTS = (WEIGHTS @ HEAD.template) * [2500, -2500, -2500] + [256, 256, 0]  # px, y down
RIGHT, LEFT, MOUTH = find_openings(HEAD.control_faces, FACES, len(HEAD.template), 1)


@pytest.mark.parametrize(("opening", "loop"), [(RIGHT, RIGHT_EYE), (LEFT, LEFT_EYE), (MOUTH, LIPS)])
def test_rims_run_from_corner_to_corner(opening, loop):
    assert opening.upper[0] == opening.lower[0] == loop[0]
    assert opening.upper[-1] == opening.lower[-1]
    assert set(loop) <= {*opening.upper, *opening.lower}
    assert len(opening.upper) == len(opening.lower) == len(loop) + 1
    inner = slice(2, -2)
    assert (POINTS[opening.upper, 1] <= POINTS[opening.lower, 1] + 0.5)[inner].all()
    assert len(opening.faces) == 4 * (len(loop) - 2)


def test_removed_openings_leave_one_rim_each():
    rest = np.delete(FACES, np.concatenate([s.faces for s in (RIGHT, LEFT, MOUTH)]), axis=0)
    directed = {(int(a), int(b)) for t in rest for a, b in ((t[0], t[1]), (t[1], t[2]), (t[2], t[0]))}
    open_edges = [(a, b) for a, b in directed if (b, a) not in directed]
    rims = len(boundary_loop(FACES)) + sum(2 * (len(s.upper) - 1) for s in (RIGHT, LEFT, MOUTH))
    assert len(open_edges) == rims


def moved(opening, by: float) -> np.ndarray:
    """The mesh with the upper rim moved down by so many px, most in the middle."""
    out = POINTS.copy()
    out[opening.upper, 1] += by * np.sin(np.linspace(0, np.pi, len(opening.upper)))
    return out


@pytest.mark.parametrize("opening", [RIGHT, LEFT, MOUTH])
def test_crossing_rims_are_closed(opening):
    out = close_opening(opening, moved(opening, 60))
    assert (out[opening.lower, 1] - out[opening.upper, 1]).min() > -1
    if not opening.is_mouth:
        assert np.allclose(out[opening.lower], POINTS[opening.lower])  # the lower lid stays
    assert close_opening(opening, POINTS) is POINTS or np.allclose(close_opening(opening, POINTS), POINTS, atol=3)


@pytest.mark.parametrize("opening", [RIGHT, LEFT, MOUTH])
def test_rims_of_a_face_upside_down_close_alike(opening):
    half_turn = np.array([-1, -1, 1])
    upright = close_opening(opening, moved(opening, 60))
    assert np.allclose(close_opening(opening, moved(opening, 60) * half_turn), upright * half_turn, atol=1e-3)


def test_closing_eye_shows_less_and_opening_eye_stretches():
    here, there, inside = RIGHT.strip(POINTS, moved(RIGHT, 8), eyes=220)
    columns = len(RIGHT.upper)
    middle = columns // 2
    shown = here[columns + middle, 1] - here[middle, 1]
    drawn = there[columns + middle, 1] - there[middle, 1]
    assert shown == pytest.approx(drawn, abs=0.3)  # at its own scale
    assert not inside[:, 1:].any()
    here, _, _ = RIGHT.strip(POINTS, moved(RIGHT, -8), eyes=220)
    assert np.allclose(here[:columns], POINTS[RIGHT.upper, :2], atol=0.02)  # no skin above the lid is read


def shut() -> np.ndarray:
    out = POINTS.copy()
    out[MOUTH.lower] = out[MOUTH.upper]
    return out


def test_opened_mouth_is_dark_between_unstretched_lips():
    there = shut()
    there[MOUTH.lower, 1] += 40 * np.sin(np.linspace(0, np.pi, len(MOUTH.lower)))
    _, drawn, inside = MOUTH.strip(shut(), there, eyes=220)
    rows = inside.reshape(MOUTH.rows, -1, 3)
    middle = rows.shape[1] // 2
    assert rows[3, middle, 0] == 1
    assert rows[0, middle, 0] == rows[-1, middle, 0] == 0
    y = drawn.reshape(MOUTH.rows, -1, 3)[:, middle, 1]
    assert (np.diff(y) >= -1e-9).all()
    assert not rows[..., 2].any()  # a jaw that drops is no grin
    same = MOUTH.strip(POINTS, POINTS, eyes=220)
    assert np.allclose(same[0], same[1][:, :2], atol=1e-3)
    assert not same[2][:, [0, 2]].any()


def test_grin_shows_teeth():
    there = shut()
    middle = POINTS[[78, 308]].mean(0)
    rims = np.unique(np.concatenate([MOUTH.upper, MOUTH.lower]))
    there[rims, 0] += 0.2 * (POINTS[rims, 0] - middle[0])
    there[MOUTH.lower, 1] += 25 * np.sin(np.linspace(0, np.pi, len(MOUTH.lower)))
    _, _, inside = MOUTH.strip(shut(), there, eyes=220)
    assert inside[:, 2].max() > 0.9
