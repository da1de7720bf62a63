"""Colours and numbers as the page writes them."""

from math import atan2, degrees

import numpy as np
import pytest

from pipelines import formatting
from pipelines.inspect import cards, charts


@pytest.mark.parametrize("ita", [-40, -10, 19, 34, 48, 58])
def test_swatches_have_the_tone_they_stand_for(ita):
    from cv2 import COLOR_RGB2LAB, cvtColor

    rgb = np.array([int(cards.swatch(ita)[i : i + 2], 16) for i in (1, 3, 5)], np.float32) / 255
    lightness, _, b = cvtColor(rgb[None, None], COLOR_RGB2LAB)[0, 0].tolist()
    assert degrees(atan2(lightness - 50, b)) == pytest.approx(ita, abs=2)


@pytest.mark.parametrize(
    ("shown", "wanted"),
    [
        (charts.share(0, 10), "0 %"), (charts.share(1, 100_000), "< 0.1 %"), (charts.share(1, 300), "0.3 %"),
        (charts.share(5, 5), "100 %"), (formatting.bytes_text(999), "999 bytes"), (formatting.bytes_text(3_400_000), "3.4 MB"),
        (formatting.duration(0.42), "0.4 s"), (formatting.duration(89), "89 s"), (formatting.duration(12_000), "3 h 20 min"),
        (formatting.clock(59.999), "1:00.00"), (formatting.clock(3723.5), "1:02:03.50"), (charts._cut("a/long/path.mp4", 8), "a/…h.mp4"[:8]),
    ],
)  # fmt: skip
def test_numbers_read_well(shown, wanted):
    assert shown == wanted
