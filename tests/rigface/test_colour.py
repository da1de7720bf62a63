"""CIELAB and the individual typology angle against published values."""

import numpy as np
import pytest

from rigface.colour import ita_deg, lab


def test_lab_of_known_colours():
    assert lab(np.ones(3)) == pytest.approx([100, 0, 0], abs=0.02)
    assert lab(np.full(3, 0.184187)) == pytest.approx([50, 0, 0], abs=0.02)
    assert lab(np.array([1.0, 0, 0])) == pytest.approx([53.24, 80.09, 67.20], abs=0.1)  # sRGB red


def test_ita_grows_with_lightness():
    light, medium, dark = (np.array([0.5, 0.35, 0.25]) * k for k in (1.5, 0.55, 0.15))
    assert ita_deg(light) > 40 > ita_deg(medium) > -20 > ita_deg(dark)
    bluish = np.array([0.2, 0.3, 0.5])  # no angle, so its limit
    assert ita_deg(bluish, min_yellow=1e-6) == pytest.approx(90, abs=0.1)


def test_ita_of_white_and_black():
    # L* = 100 for white, and b* = 0: straight up.
    assert ita_deg(np.ones(3)) == pytest.approx(90, abs=1e-3)
    assert ita_deg(np.zeros(3)) == pytest.approx(-90, abs=1e-3)
