"""Charts of the pages: percentages, shortened labels, escaped text."""

import pytest

from rigface.pages import charts


@pytest.mark.parametrize(
    ("part", "whole", "wanted"),
    [(0, 10, "0 %"), (1, 100_000, "< 0.1 %"), (1, 300, "0.3 %"), (5, 5, "100 %")],
)
def test_share_is_a_percentage(part, whole, wanted):
    assert charts.share(part, whole) == wanted


def test_long_label_keeps_both_ends():
    assert charts._shortened("a/long/path.mp4", 8) == "a/…h.mp4"


def test_labels_hints_and_captions_are_escaped():
    svg = charts.bars("a<b>", [charts.Bar("<i>\u202e", 1, "&", '"x"', "<u>", face='"onload="')], "c'd")
    assert "&lt;i&gt;\ufffd" in svg
    assert not any(raw in svg for raw in ("<i>", "<b>", "<u>", '"x"', "onload=\"'", "\u202e"))
    assert 'href="&#34;onload=&#34;"' in svg


def test_line_through_one_point_is_drawn():
    assert '<polyline class="curve series-0"' in charts.lines("loss", {"loss": [(0, 1.0)]})


def test_many_points_are_averaged():
    svg = charts.lines("loss", {"loss": [(k, float(k % 2)) for k in range(4000)]})
    assert 300 < svg.split('points="')[1].split('"')[0].count(",") <= 400
