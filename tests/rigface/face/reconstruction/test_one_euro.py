"""One-Euro filter: damping at rest, lag in motion, and rotations."""

from dataclasses import fields
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rigface.face.geometry.rotation import angle_between, to_matrix
from rigface.face.reconstruction.one_euro import (
    FIELD_SETTINGS,
    OneEuro,
    OneEuroRotation,
    OneEuroSettings,
    Smoother,
    smoothing_factor,
)
from rigface.types import FaceParams

FPS = 30


def run(one, values):
    return np.array([one(v, i / FPS) for i, v in enumerate(values)])


def test_smoothing_factor_matches_the_paper():
    # Equation 5: alpha = 1 / (1 + tau / Te), tau = 1 / (2 pi fc)
    assert smoothing_factor(1.0, 0.1) == pytest.approx(1 / (1 + (1 / (2 * np.pi)) / 0.1))


def test_constant_signal_is_unchanged():
    assert (run(OneEuro(OneEuroSettings(1, 1)), [np.array([0.1, -3.0])] * 20) == np.array([0.1, -3.0])).all()


def test_noise_at_rest_is_damped():
    noise = np.random.default_rng(0).normal(size=(300, 1))
    assert run(OneEuro(OneEuroSettings(1.0, 0.0)), noise)[30:].std() < 0.4 * noise.std()


def test_beta_reduces_lag():
    ramp = np.arange(60)[:, None] / FPS * 5
    lag = lambda beta: float((ramp - run(OneEuro(OneEuroSettings(1.0, beta)), ramp))[-1, 0])  # noqa: E731
    assert lag(1.0) < 0.3 * lag(0.0)


def test_uneven_frame_times_are_respected():
    one = OneEuro(OneEuroSettings(1.0, 0.0))
    one(np.zeros(1), 0.0)
    soon = OneEuro(OneEuroSettings(1.0, 0.0))
    soon(np.zeros(1), 0.0)
    assert one(np.ones(1), 1.0)[0] > 2 * soon(np.ones(1), 0.04)[0]


def test_non_increasing_time_is_refused():
    one = OneEuro(OneEuroSettings())
    one(np.zeros(1), 1.0)
    with pytest.raises(ValueError, match=r"after 1\.0"):
        one(np.zeros(1), 1.0)


def test_invalid_settings_are_refused():
    with pytest.raises(ValueError, match="cutoffs above 0"):
        OneEuroSettings(0.0)


@settings(deadline=None)
@given(st.lists(st.floats(-3, 3), min_size=3, max_size=3), st.lists(st.floats(-3, 3), min_size=3, max_size=3))
def test_rotation_moves_along_the_arc(a, b):
    """The filtered rotation lies between the old and the new: the angles to both add up to the angle between them."""
    one = OneEuroRotation(OneEuroSettings(1.0, 0.5))
    one(np.array(a), 0.0)
    start, stop, now = (to_matrix(np.array([v]))[0] for v in (a, b, one(np.array(b), 1 / FPS)))
    whole = float(angle_between(start, stop))
    assert float(angle_between(start, now)) + float(angle_between(now, stop)) == pytest.approx(whole, abs=1e-5)


def test_rotation_across_the_half_turn_stays_short():
    angles = np.linspace(3.0, 3.4, 30)  # axis-angle jumps from +pi to -pi on the way
    values = [np.array([0, a if a <= np.pi else a - 2 * np.pi, 0]) for a in angles]
    out = run(OneEuroRotation(OneEuroSettings(1.0, 0.0)), values)
    turned = to_matrix(out)
    steps = [float(angle_between(p, q)) for p, q in pairwise(turned)]
    assert max(steps) < 0.02
    assert float(angle_between(turned[-1], to_matrix(values[-1][None])[0])) < 0.15


def face(value: float) -> FaceParams:
    shapes = {f.name: [3 if isinstance(n, str) else n for n in f.metadata["shape"]] for f in fields(FaceParams)}
    return FaceParams(**{name: np.full(shape, value, np.float32) for name, shape in shapes.items()})


def test_only_named_fields_are_filtered():
    smoother = Smoother(["light"])
    smoother(face(0.0), 0.0)
    out = smoother(face(1.0), 1 / FPS)
    assert 0 < out.light.max() < 0.5
    assert (out.expression == 1).all()
    assert out.light.dtype == np.float32


def test_every_field_has_settings_and_unknown_fields_are_refused():
    assert set(FIELD_SETTINGS) == {f.name for f in fields(FaceParams)}
    with pytest.raises(ValueError, match="colour"):
        Smoother(["colour"])
