"""Cards of the inspect page: colours of skin tones."""

from math import atan2, degrees

import numpy as np
import pytest

from pipelines.inspect.cards import TONES


@pytest.mark.parametrize(("colour", "ita_deg"), list(zip(TONES.values(), [-50, -10, 19, 34, 48, 58])))
def test_swatch_has_typology_angle_of_its_tone(colour, ita_deg):
    from cv2 import COLOR_RGB2LAB, cvtColor

    rgb = np.array([int(colour[i : i + 2], 16) for i in (1, 3, 5)], np.float32) / 255
    lightness, _, b = cvtColor(rgb[None, None], COLOR_RGB2LAB)[0, 0].tolist()
    assert degrees(atan2(lightness - 50, b)) == pytest.approx(ita_deg, abs=2)
