"""Light metrics: independence of exposure, angles, lights without direction, skin tones."""

import numpy as np
import pytest

from rigface.colour import ita_deg
from rigface.edits import LightEdit
from rigface.face.controls.transfer import light_coefficients
from rigface.face.reconstruction.albedo_light import AMBIENT
from rigface.metrics import light


def lit(azimuth: float, elevation: float = 0.0, **more: float) -> np.ndarray:
    edit = LightEdit(azimuth_deg=azimuth, elevation_deg=elevation, relative=False, **more)
    return light_coefficients(edit, 1.0)[None].astype(np.float64)


@pytest.mark.parametrize("scale", [0.01, 1.0, 50.0])
def test_ball_error_ignores_a_global_scale(scale):
    assert light.ball_error(lit(30), scale * lit(30))[0] == pytest.approx(0, abs=1e-12)
    assert light.ball_error(lit(30), scale * lit(-50))[0] == pytest.approx(light.ball_error(lit(30), lit(-50))[0])


def test_ball_error_grows_with_the_lamp_angle():
    errors = [light.ball_error(lit(0), lit(angle))[0] for angle in (0, 20, 45, 60, 90)]
    assert errors == sorted(errors)
    assert errors[0] == pytest.approx(0, abs=1e-12)
    assert errors[-1] > 0.1


def test_ball_error_is_the_best_scaled_difference():
    a, b = light.lit_ball(lit(20))[0], light.lit_ball(lit(80))[0]
    scales = np.linspace(0, 2, 2001)
    brute = min(((s * a - b) ** 2).sum() / (b**2).sum() for s in scales)
    assert light.ball_error(lit(20), lit(80))[0] == pytest.approx(brute, abs=1e-5)


def test_even_light_shades_an_even_ball():
    even = np.zeros((1, 9, 3))
    even[0, 0] = AMBIENT
    assert light.lit_ball(even) == pytest.approx(np.ones_like(light.lit_ball(even)))


@pytest.mark.parametrize("angle", [0.0, 1.0, 45.0, 135.0])
def test_lamp_moved_by_an_angle_has_that_error(angle):
    assert light.direction_errors_deg(lit(0), lit(angle))[0] == pytest.approx(angle, abs=1e-4)


def test_light_without_direction_is_skipped_and_can_be_counted():
    even = lit(0, intensity=0.0)
    faint = lit(0, intensity=0.001, ambient=1.0)
    got = light.direction_errors_deg(np.concatenate([even, faint, lit(0)]), np.repeat(lit(0), 3, 0))
    assert np.isnan(got).tolist() == [True, True, False]


@pytest.mark.parametrize("azimuth", [-120.0, 0.0, 35.0])
@pytest.mark.parametrize("elevation", [-30.0, 20.0])
def test_describe_light_recovers_the_lamp(azimuth, elevation):
    made = lit(azimuth, elevation, intensity=0.7, ambient=0.3)[0]
    got = light.describe_light(3 * made, unit=3.0)
    want = dict(azimuth_deg=azimuth, elevation_deg=elevation, intensity=0.7, ambient=0.3)
    assert got == pytest.approx(want, abs=1e-3)


def test_ita_class_orders_skin_tones():
    srgb = np.array([[245, 222, 205], [224, 177, 148], [180, 132, 100], [140, 92, 62], [70, 42, 30]]) / 255
    linear = np.where(srgb <= 0.04045, srgb / 12.92, ((srgb + 0.055) / 1.055) ** 2.4)
    angles = ita_deg(linear)
    assert list(angles) == sorted(angles, reverse=True)
    assert [light.ita_class(a) for a in angles] == ["very light", "light", "tan", "brown", "dark"]
    assert light.ita_class(float("nan")) == "unknown"


def test_remove_shading_gives_the_same_skin_in_another_light():
    skin, coloured = np.array([[0.4, 0.25, 0.18]]), lit(0, ambient=0.8, intensity=0.0)
    coloured[0] *= (1.2, 1.0, 0.8)
    seen = skin * coloured[:, 0] / AMBIENT
    assert light.remove_shading(seen, coloured) == pytest.approx(skin)
